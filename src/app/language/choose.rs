//! Before a session: which model, which prompts, and earlier sessions.

use std::path::{Path, PathBuf};

use egui::{Button, ComboBox, DragValue, RichText, Role, ScrollArea, Stroke, TextEdit, Ui, WidgetInfo};

use super::{Request, short};
use crate::app::theme::Theme;
use crate::app::unreadable;
use crate::engine::free_folder;
use crate::engine::language::{Begin, Making};
use crate::engine::shelf::{self, Shelf};
use crate::lm::run::{LmConfig, PretrainConfig, SIZES, StageKind};
use crate::lm::teach::{REVIEWS, TeachConfig, samplers};

/// What is chosen so far.
pub(super) struct Choose {
    /// Which model; `None` until the shelf is read.
    model: Option<Chosen>,
    /// Size of a model that is made, one of [`SIZES`].
    size: usize,
    /// Texts that it reads.
    texts: usize,
    /// A model's folder that is not on the shelf.
    folder: String,
    /// A file of prompts; unused with `embedded`.
    file: String,
    /// Beginnings of the embedded world's texts.
    embedded: bool,
    config: TeachConfig,
}

/// A model to begin with.
#[derive(Debug, Clone, PartialEq)]
enum Chosen {
    /// One of the shelf.
    Found(PathBuf),
    /// One that is made.
    Make,
    /// Pre-training that was stopped, to be finished.
    Finish(PathBuf),
    /// Another folder.
    Other,
}

/// Index of a million parameters in [`SIZES`].
const MILLION: usize = 3;

/// Longest sequence of a model that is made, tokens: a text of the embedded world has 70 on average.
const CONTEXT: usize = 128;

/// Height of the list of models, points.
const LIST: f32 = 150.0;

/// Steps between two checkpoints of the making.
const SAVE_EVERY: usize = 50;

impl Default for Choose {
    fn default() -> Self {
        Self {
            model: None,
            size: MILLION,
            texts: 20_000,
            folder: String::new(),
            file: String::new(),
            embedded: true,
            config: TeachConfig::default(),
        }
    }
}

impl Choose {
    /// Shows the choice.
    pub(super) fn show(&mut self, ui: &mut Ui, theme: &Theme, shelf: &Shelf, runs: &Path, requests: &mut Vec<Request>) {
        ScrollArea::vertical().id_salt("choose").auto_shrink(false).show(ui, |ui| {
            ui.set_max_width(ui.available_width().min(860.0));
            ui.heading("Teach a language model by comparing");
            ui.label(
                "Two completions of a prompt, side by side: which is better? After every few answers the model learns \
                 from all of them, by DPO, and writes the next pairs.",
            );
            ui.add_space(10.0);
            card(ui, theme, "1 · The model to begin with", |ui| self.models(ui, theme, shelf));
            ui.add_space(8.0);
            card(ui, theme, "2 · What it completes", |ui| self.prompts(ui));
            ui.add_space(8.0);
            card(ui, theme, "3 · How it learns", |ui| self.settings(ui));
            ui.add_space(10.0);
            let begin = self.begin(runs);
            ui.horizontal_wrapped(|ui| {
                let text = RichText::new("Start teaching").strong().color(theme.accent_text);
                let button = Button::new(text).fill(theme.accent).min_size(egui::vec2(140.0, 36.0));
                let clicked = ui.add_enabled(begin.is_ok(), button).clicked();
                match begin {
                    Ok((begin, path)) => {
                        ui.weak(format!("in {}", path.display()))
                            .on_hover_text("Folder of the session: answers, completions, measures, model");
                        if clicked {
                            requests.push(Request::Begin(begin, path));
                        }
                    }
                    Err(reason) => {
                        ui.weak(reason);
                    }
                }
            });
        });
    }

    fn models(&mut self, ui: &mut Ui, theme: &Theme, shelf: &Shelf) {
        if self.model.is_none() {
            self.model = shelf.models.first().map(|model| Chosen::Found(model.path.clone()));
        }
        let mut chosen = self.model.clone().unwrap_or(Chosen::Make);
        if !shelf.models.is_empty() || !shelf.unfinished.is_empty() {
            ScrollArea::vertical().id_salt("models").max_height(LIST).auto_shrink([false, true]).show(ui, |ui| {
                for model in &shelf.models {
                    ui.horizontal(|ui| {
                        ui.radio_value(&mut chosen, Chosen::Found(model.path.clone()), &model.name)
                            .on_hover_text(model.path.display().to_string());
                        if model.parameters > 0 {
                            ui.weak(parameters(model.parameters)).on_hover_text("Parameters");
                        }
                    });
                }
                for path in &shelf.unfinished {
                    ui.radio_value(&mut chosen, Chosen::Finish(path.clone()), format!("Finish {}", short(path)))
                        .on_hover_text("Its training was stopped before its end; it goes on from its last checkpoint");
                }
            });
        }
        ui.horizontal_wrapped(|ui| {
            ui.radio_value(&mut chosen, Chosen::Make, "Train a small one now").on_hover_text(
                "A fresh model reads reviews that the program writes itself; then teaching begins. Nothing is downloaded",
            );
            if chosen == Chosen::Make {
                let name = ui.label("size").id;
                ComboBox::from_id_salt("size")
                    .selected_text(SIZES[self.size].0)
                    .width(64.0)
                    .show_ui(ui, |ui| {
                        for (i, (name, ..)) in SIZES.iter().enumerate() {
                            ui.selectable_value(&mut self.size, i, *name);
                        }
                    })
                    .response
                    .labelled_by(name)
                    .on_hover_text("Parameters. A million learns to write reviews in some minutes");
                let name = ui.label("texts").id;
                ui.add(DragValue::new(&mut self.texts).range(100..=1_000_000).speed(100))
                    .labelled_by(name)
                    .on_hover_text("Reviews that it reads once; twice as many take twice as long");
            }
        });
        ui.horizontal(|ui| {
            let name = ui.radio_value(&mut chosen, Chosen::Other, "Another folder").on_hover_text(
                "A Hugging Face folder: config.json, model.safetensors, tokenizer.json (Llama, Mistral, Qwen2, GPT-2)",
            );
            let edit = TextEdit::singleline(&mut self.folder).hint_text("path of the folder").desired_width(280.0);
            if ui.add(edit).labelled_by(name.id).changed() {
                chosen = Chosen::Other;
            }
        });
        if chosen == Chosen::Other
            && !self.folder.trim().is_empty()
            && let Err(reason) = shelf::parameters(Path::new(self.folder.trim()))
        {
            ui.colored_label(theme.error, reason);
        }
        // Nothing is chosen for the user before the shelf was read.
        if self.model.is_some() || chosen != Chosen::Make {
            self.model = Some(chosen);
        }
    }

    fn prompts(&mut self, ui: &mut Ui) {
        ui.radio_value(&mut self.embedded, true, "Beginnings of reviews").on_hover_text(
            "Two to eight words of a review that the program writes itself. How good a completion says its subject is \
             is known exactly there: the gold reward, which the model never sees",
        );
        ui.horizontal(|ui| {
            let name = ui.radio_value(&mut self.embedded, false, "Prompts of a file").on_hover_text(
                "JSONL rows {\"prompt\"}, or a .txt file with one prompt a line. A fifth is held out to measure on",
            );
            let edit = TextEdit::singleline(&mut self.file).hint_text("path of the file").desired_width(280.0);
            if ui.add(edit).labelled_by(name.id).changed() {
                self.embedded = false;
            }
        });
    }

    fn settings(&mut self, ui: &mut Ui) {
        let config = &mut self.config;
        egui::Grid::new("settings").num_columns(4).spacing([14.0, 6.0]).show(ui, |ui| {
            let number = |ui: &mut Ui, name: &str, hint: &str, value: DragValue<'_>| {
                let name = ui.label(name).on_hover_text(hint).id;
                ui.add(value).labelled_by(name).on_hover_text(hint);
            };
            let hint = "The model learns after so many answers; you go on answering meanwhile";
            number(
                ui,
                "Learns after",
                hint,
                DragValue::new(&mut config.answers_per_update).range(1..=200).suffix(" answers"),
            );
            let hint = "Most tokens of a completion";
            number(ui, "Length", hint, DragValue::new(&mut config.max_new_tokens).range(1..=2000).suffix(" tokens"));
            ui.end_row();
            let hint = "Strength of the pull to the model at the start (Rafailov et al. 2023): smaller moves further";
            let beta = DragValue::new(&mut config.loss.beta).range(0.001..=100.0).speed(0.01).max_decimals(3);
            number(ui, "DPO's β", hint, beta);
            let hint = "Steps over all answers so far, each time it learns";
            number(ui, "Steps", hint, DragValue::new(&mut config.steps_per_update).range(1..=1000));
            ui.end_row();
            let hint = "Learning rate of AdamW. Larger models take smaller ones: 1e-6 for a billion parameters";
            let rate = DragValue::new(&mut config.learning_rate)
                .range(1e-8..=1e-1)
                .speed(1e-6)
                .custom_formatter(|value, _| format!("{value:.1e}"));
            number(ui, "Learning rate", hint, rate);
            let hint =
                "Which pairs you are asked about: any, or those where the model is least sure what you would say";
            let name = ui.label("Questions").on_hover_text(hint).id;
            ComboBox::from_id_salt("sampler")
                .selected_text(config.sampler.name)
                .width(90.0)
                .show_ui(ui, |ui| {
                    for sampler in samplers() {
                        ui.selectable_value(&mut config.sampler, sampler, sampler.name).on_hover_text(sampler.summary);
                    }
                })
                .response
                .labelled_by(name)
                .on_hover_text(hint);
            ui.end_row();
        });
    }

    /// The session that is chosen, and its folder.
    fn begin(&self, runs: &Path) -> Result<(Begin, PathBuf), String> {
        let prompts = match self.embedded {
            true => PathBuf::from(REVIEWS),
            false if self.file.trim().is_empty() => return Err("Name the file with the prompts".to_owned()),
            false => PathBuf::from(self.file.trim()),
        };
        if !self.embedded && !prompts.exists() {
            return Err(format!("{}: there is no such file", prompts.display()));
        }
        let gold = TeachConfig::new(Path::new(""), &prompts).gold;
        let config = TeachConfig { prompts, gold, ..self.config.clone() };
        let folder =
            |model: &Path| free_folder(runs, &format!("taught-{}", short(model).trim_start_matches("taught-")));
        let found = |model: &Path| {
            let config = TeachConfig { model: model.to_owned(), ..config.clone() };
            (Begin::New(Box::new(config)), folder(model))
        };
        let make = |path: PathBuf, making: LmConfig| {
            let config = TeachConfig { model: path.join("model"), ..config.clone() };
            let folder = folder(&config.model);
            (Begin::Make(Box::new(config), Box::new(Making { config: making, path })), folder)
        };
        match self.model.as_ref().unwrap_or(&Chosen::Make) {
            Chosen::Found(model) => Ok(found(model)),
            Chosen::Make => {
                let path = free_folder(runs, &format!("reviews-{}", SIZES[self.size].0));
                Ok(make(path, self.pretraining()))
            }
            Chosen::Finish(path) => Ok(make(path.clone(), self.pretraining())),
            Chosen::Other if self.folder.trim().is_empty() => Err("Name the model's folder".to_owned()),
            Chosen::Other => {
                let model = PathBuf::from(self.folder.trim());
                shelf::parameters(&model).map(|_| found(&model))
            }
        }
    }

    fn pretraining(&self) -> LmConfig {
        let (_, hidden, layers, heads) = SIZES[self.size];
        let mut config = LmConfig::new(StageKind::Pretrain);
        let pretrain =
            PretrainConfig { hidden, layers, heads, context: CONTEXT, texts: self.texts, ..PretrainConfig::default() };
        config.pretrain = Some(pretrain);
        config.data = vec![REVIEWS.into()];
        config.eval_share = 0.01;
        config.train.save_every = SAVE_EVERY;
        config
    }
}

/// Earlier sessions, to go on with.
pub(super) fn sessions(
    ui: &mut Ui,
    theme: &Theme,
    shelf: &Shelf,
    runs: &Path,
    read: bool,
    requests: &mut Vec<Request>,
) {
    unreadable(ui, theme, runs, &shelf.damaged);
    ui.label(RichText::new("Earlier sessions").strong());
    ui.add_space(4.0);
    if shelf.sessions.is_empty() {
        let text =
            if read { "There are none yet. Choose a model, and start teaching" } else { "Reading the folder of runs" };
        ui.label(text);
    }
    ScrollArea::vertical().id_salt("earlier").auto_shrink(false).show(ui, |ui| {
        for session in &shelf.sessions {
            let frame = egui::Frame::new().fill(theme.card).stroke(Stroke::new(1.0, theme.outline));
            frame.corner_radius(8).inner_margin(8).show(ui, |ui| {
                ui.set_min_width(ui.available_width());
                ui.label(RichText::new(&session.name).strong()).on_hover_text(session.path.display().to_string());
                let model = short(&session.config.model);
                let state = match &session.last {
                    Some(last) => {
                        format!("{} answers · {:.1} nats from the start", last.answered, last.sampled.kl.mean.max(0.0))
                    }
                    None => "nothing learned yet".to_owned(),
                };
                ui.weak(format!("{model} · {state}"))
                    .on_hover_text("Answers that have taken effect, and the divergence of the model from its start");
                let button = ui.button("Resume");
                let name = format!("Resume {}", session.name);
                button.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
                if button.on_hover_text("Go on where it was left").clicked() {
                    requests.push(Request::Begin(Begin::Open, session.path.clone()));
                }
            });
            ui.add_space(4.0);
        }
    });
}

fn card(ui: &mut Ui, theme: &Theme, title: &str, content: impl FnOnce(&mut Ui)) {
    let frame = egui::Frame::new().fill(theme.card).stroke(Stroke::new(1.0, theme.outline));
    frame.corner_radius(8).inner_margin(12).show(ui, |ui| {
        ui.set_min_width(ui.available_width());
        ui.label(RichText::new(title).strong());
        ui.add_space(2.0);
        content(ui);
    });
}

/// A number of parameters in few letters.
fn parameters(count: usize) -> String {
    match count as f64 {
        n if n >= 1e9 => format!("{:.1} B parameters", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M parameters", n / 1e6),
        n => format!("{:.0} k parameters", n / 1e3),
    }
}
