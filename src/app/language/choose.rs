//! Before a session: which model, which prompts, and earlier sessions.

use std::path::{Path, PathBuf};

use egui::{DragValue, RichText, ScrollArea, TextEdit, Ui};

use super::session::{LanguageRequest, short};
use crate::app::theme::Theme;
use crate::app::widgets::{begin_button, card, choice, named, number, unreadable};
use crate::engine::free_folder;
use crate::engine::language::{Begin, Making};
use crate::engine::shelf::{self, Shelf};
use crate::lm::run::{LmConfig, PretrainConfig, SIZES, StageKind};
use crate::lm::teach::{REVIEWS, TeachConfig, samplers};

/// What is chosen so far.
pub(super) struct Choose {
    /// Which model; `None` until the shelf is read.
    model: Option<ModelChoice>,
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
enum ModelChoice {
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
    pub(super) fn show(
        &mut self,
        ui: &mut Ui,
        theme: &Theme,
        shelf: &Shelf,
        runs: &Path,
        requests: &mut Vec<LanguageRequest>,
    ) {
        ScrollArea::vertical().id_salt("choose").auto_shrink(false).show(ui, |ui| {
            ui.set_max_width(ui.available_width().min(860.0));
            ui.heading("Teach a language model by comparing");
            ui.label(
                "Two completions of a prompt, side by side: which is better? After every few answers the model learns \
                 from all of them, by DPO, and writes the next pairs.",
            );
            ui.add_space(10.0);
            titled(ui, theme, "1 · The model to begin with", |ui| self.models(ui, theme, shelf));
            ui.add_space(8.0);
            titled(ui, theme, "2 · What it completes", |ui| self.prompts(ui));
            ui.add_space(8.0);
            titled(ui, theme, "3 · How it learns", |ui| self.settings(ui));
            ui.add_space(10.0);
            let words = ("in", "Folder of the session: answers, completions, measures, model");
            let begin = begin_button(ui, theme, "Start teaching", words, false, self.begin(runs));
            requests.extend(begin.map(|(begin, path)| LanguageRequest::Begin(begin, path)));
        });
    }

    fn models(&mut self, ui: &mut Ui, theme: &Theme, shelf: &Shelf) {
        if self.model.is_none() {
            self.model = shelf.models.first().map(|model| ModelChoice::Found(model.path.clone()));
        }
        let mut chosen = self.model.clone().unwrap_or(ModelChoice::Make);
        if !shelf.models.is_empty() || !shelf.unfinished.is_empty() {
            ScrollArea::vertical().id_salt("models").max_height(LIST).auto_shrink([false, true]).show(ui, |ui| {
                for model in &shelf.models {
                    ui.horizontal(|ui| {
                        ui.radio_value(&mut chosen, ModelChoice::Found(model.path.clone()), &model.name)
                            .on_hover_text(model.path.display().to_string());
                        if model.parameters > 0 {
                            ui.weak(parameters(model.parameters)).on_hover_text("Parameters");
                        }
                    });
                }
                for path in &shelf.unfinished {
                    ui.radio_value(&mut chosen, ModelChoice::Finish(path.clone()), format!("Finish {}", short(path)))
                        .on_hover_text("Its training was stopped before its end; it goes on from its last checkpoint");
                }
            });
        }
        ui.horizontal_wrapped(|ui| {
            ui.radio_value(&mut chosen, ModelChoice::Make, "Train a small one now").on_hover_text(
                "A fresh model reads reviews that the program writes itself; then teaching begins. Nothing is downloaded",
            );
            if chosen == ModelChoice::Make {
                let hint = "Parameters. A million learns to write reviews in some minutes";
                choice(ui, "size", hint, &SIZES.map(|(name, ..)| name), &mut self.size);
                let hint = "Reviews that it reads, each once; twice as many take twice as long";
                number(ui, "texts", hint, DragValue::new(&mut self.texts).range(100..=1_000_000).speed(100));
            }
        });
        ui.horizontal(|ui| {
            let name = ui.radio_value(&mut chosen, ModelChoice::Other, "Another folder").on_hover_text(
                "A Hugging Face folder: config.json, model.safetensors, tokenizer.json (Llama, Mistral, Qwen2, GPT-2)",
            );
            let edit = TextEdit::singleline(&mut self.folder).hint_text("path of the folder").desired_width(280.0);
            if ui.add(edit).labelled_by(name.id).changed() {
                chosen = ModelChoice::Other;
            }
        });
        if chosen == ModelChoice::Other
            && !self.folder.trim().is_empty()
            && let Err(reason) = shelf::parameters(Path::new(self.folder.trim()))
        {
            ui.colored_label(theme.error, reason);
        }
        // Nothing is chosen for the user before the shelf was read.
        if self.model.is_some() || chosen != ModelChoice::Make {
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
            let (hint, samplers) = (format!("{hint}. Now: {}", config.sampler.summary), samplers().collect::<Vec<_>>());
            let names: Vec<&str> = samplers.iter().map(|sampler| sampler.name).collect();
            let mut chosen = samplers.iter().position(|sampler| *sampler == config.sampler).unwrap_or_default();
            if choice(ui, "Questions", &hint, &names, &mut chosen) {
                config.sampler = samplers[chosen];
            }
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
        match self.model.as_ref().unwrap_or(&ModelChoice::Make) {
            ModelChoice::Found(model) => Ok(found(model)),
            ModelChoice::Make => {
                let path = free_folder(runs, &format!("reviews-{}", SIZES[self.size].0));
                Ok(make(path, self.pretraining()))
            }
            ModelChoice::Finish(path) => Ok(make(path.clone(), self.pretraining())),
            ModelChoice::Other if self.folder.trim().is_empty() => Err("Name the model's folder".to_owned()),
            ModelChoice::Other => {
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
    requests: &mut Vec<LanguageRequest>,
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
            card(ui, theme, 8, |ui| {
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
                if named(ui, "Resume", &format!("Resume {}", session.name), "Go on where it was left", true) {
                    requests.push(LanguageRequest::Begin(Begin::Open, session.path.clone()));
                }
            });
            ui.add_space(4.0);
        }
    });
}

fn titled(ui: &mut Ui, theme: &Theme, title: &str, content: impl FnOnce(&mut Ui)) {
    card(ui, theme, 12, |ui| {
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
