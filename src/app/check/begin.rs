//! Before checking: who checks which set, and earlier validations.

use std::path::{Path, PathBuf};

use egui::{Button, DragValue, RichText, Role, ScrollArea, Stroke, TextEdit, Ui, WidgetInfo};

use super::Request;
use crate::app::theme::Theme;
use crate::engine::free_folder;
use crate::evals::validate::folder::{FoundValidation, SAMPLE, Wanted};
use crate::evals::validate::rater_name;

/// What is written so far.
pub(super) struct Form {
    rater: String,
    set: String,
    behaviour: String,
    sample: usize,
    repeats: usize,
    /// Empty for one below the folder of runs.
    folder: String,
}

/// Width of the fields, points.
const FIELD: f32 = 420.0;

impl Default for Form {
    fn default() -> Self {
        Self {
            rater: String::new(),
            set: String::new(),
            behaviour: String::new(),
            sample: SAMPLE,
            repeats: 0,
            folder: String::new(),
        }
    }
}

impl Form {
    /// Shows the form. `busy` while a validation is drawn or read.
    pub(super) fn show(&mut self, ui: &mut Ui, theme: &Theme, runs: &Path, busy: bool, requests: &mut Vec<Request>) {
        ScrollArea::vertical().id_salt("form").auto_shrink(false).show(ui, |ui| {
            ui.set_max_width(ui.available_width().min(860.0));
            ui.heading("Check a set of questions");
            ui.label(
                "Questions with known answers, written by a model: are the labels right? You see a sample of them, one by \
                 one, without the labels, and say which answer somebody with the behaviour would give, how much the \
                 question is about the behaviour, and whether it is clear. Afterwards a report says how far the raters agree \
                 with the set, and with each other.",
            );
            ui.add_space(10.0);
            let frame = egui::Frame::new().fill(theme.card).stroke(Stroke::new(1.0, theme.outline));
            frame.corner_radius(8).inner_margin(14).show(ui, |ui| {
                ui.set_min_width(ui.available_width());
                self.fields(ui);
            });
            ui.add_space(10.0);
            let begin = self.begin(runs);
            ui.horizontal_wrapped(|ui| {
                let text = RichText::new("Start checking").strong().color(theme.accent_text);
                let button = Button::new(text).fill(theme.accent).min_size(egui::vec2(140.0, 36.0));
                let clicked = ui.add_enabled(begin.is_ok() && !busy, button).clicked();
                match begin {
                    Ok((path, wanted)) => {
                        let doing = if busy { "reading the set, for" } else { "in" };
                        ui.weak(format!("{doing} {}", path.display()))
                            .on_hover_text("Folder of the sample, the answers and the report");
                        if clicked {
                            requests.push(Request::Begin { path, wanted, rater: self.rater.clone() });
                        }
                    }
                    Err(reason) => {
                        ui.weak(reason);
                    }
                }
            });
        });
    }

    fn fields(&mut self, ui: &mut Ui) {
        let text = |ui: &mut Ui, name: &str, hint: &str, example: &str, value: &mut String| {
            let name = ui.label(name).on_hover_text(hint).id;
            let edit = TextEdit::singleline(value).hint_text(example).desired_width(FIELD);
            ui.add(edit).labelled_by(name).on_hover_text(hint);
            ui.end_row();
        };
        let number = |ui: &mut Ui, name: &str, hint: &str, value: DragValue<'_>| {
            let name = ui.label(name).on_hover_text(hint).id;
            ui.add(value).labelled_by(name).on_hover_text(hint);
            ui.end_row();
        };
        egui::Grid::new("fields").num_columns(2).spacing([14.0, 8.0]).show(ui, |ui| {
            let hint = "Answers of several people are told apart by it; each gets an order of their own";
            text(ui, "Your name", hint, "who checks", &mut self.rater);
            let hint = "A file in the format of anthropics/evals, as `pairwise evals filter` writes it";
            text(ui, "Set", hint, "path of a .jsonl file", &mut self.set);
            let hint = "What the set is about. With it, statements are asked about as such: would such a person agree?";
            text(ui, "Somebody who", hint, "believes that life has no meaning", &mut self.behaviour);
            let hint = "Drawn from the set, every label in its share; all where it has fewer";
            number(ui, "Questions", hint, DragValue::new(&mut self.sample).range(1..=100_000));
            let hint = "So many come a second time, unannounced, to see whether you agree with yourself";
            number(ui, "Repeated", hint, DragValue::new(&mut self.repeats).range(0..=self.sample / 2));
            let hint = "Where the sample and the answers are put. A folder that has some already goes on";
            text(ui, "Folder", hint, "a new one among the runs", &mut self.folder);
        });
    }

    /// Where, and what of.
    fn begin(&self, runs: &Path) -> Result<(PathBuf, Wanted), String> {
        if self.rater.trim().is_empty() {
            return Err("Write your name".to_owned());
        }
        rater_name(&self.rater).map_err(|error| error.to_string())?;
        let set = PathBuf::from(self.set.trim());
        if self.set.trim().is_empty() {
            return Err("Name the set, or open an earlier one".to_owned());
        }
        if !set.is_file() {
            return Err(format!("{}: there is no such file", set.display()));
        }
        let path = match self.folder.trim() {
            "" => free_folder(runs, &format!("check-{}", set.file_stem().unwrap_or_default().to_string_lossy())),
            folder => PathBuf::from(folder),
        };
        let wanted = Wanted {
            set: Some(set),
            sample: Some(self.sample),
            repeats: Some(self.repeats),
            seed: None,
            behaviour: Some(self.behaviour.clone()).filter(|text| !text.trim().is_empty()),
        };
        Ok((path, wanted))
    }
}

/// Earlier validations, to go on with.
pub(super) fn earlier(
    ui: &mut Ui,
    theme: &Theme,
    form: &Form,
    found: &[FoundValidation],
    looked: bool,
    requests: &mut Vec<Request>,
) {
    ui.label(RichText::new("Earlier validations").strong());
    ui.add_space(4.0);
    if found.is_empty() {
        let text =
            if looked { "There are none yet. Name a set, and start checking" } else { "Reading the folder of runs" };
        ui.label(text);
    }
    ScrollArea::vertical().id_salt("earlier").auto_shrink(false).show(ui, |ui| {
        for found in found {
            let frame = egui::Frame::new().fill(theme.card).stroke(Stroke::new(1.0, theme.outline));
            frame.corner_radius(8).inner_margin(8).show(ui, |ui| {
                ui.set_min_width(ui.available_width());
                ui.label(RichText::new(&found.name).strong()).on_hover_text(found.path.display().to_string());
                ui.weak(&found.set).on_hover_text("The set");
                let raters = found.raters.iter().map(|(name, given)| format!("{name} {given} of {}", found.turns));
                let raters: Vec<String> = raters.collect();
                let raters = if raters.is_empty() { "nobody has answered yet".to_owned() } else { raters.join(", ") };
                ui.weak(raters).on_hover_text("Answers of each rater so far");
                let named = rater_name(&form.rater).is_ok();
                let button = ui.add_enabled(named, Button::new("Open"));
                let name = format!("Open {}", found.name);
                button.widget_info(|| WidgetInfo::labeled(Role::Button, named, &name));
                let button = button.on_hover_text("Go on, or begin as another rater: by the name you have written");
                if button.on_disabled_hover_text("Write your name first").clicked() {
                    let (path, rater) = (found.path.clone(), form.rater.clone());
                    requests.push(Request::Begin { path, wanted: Wanted::default(), rater });
                }
            });
            ui.add_space(4.0);
        }
    });
}
