//! Before checking: who checks which set, and earlier validations.

use std::path::{Path, PathBuf};

use egui::{DragValue, Grid, RichText, ScrollArea, TextEdit, Ui};

use super::open::CheckRequest;
use crate::app::theme::Theme;
use crate::app::widgets::{begin_button, card, named, number};
use crate::engine::free_folder;
use crate::evals::validate::folder::{FoundValidation, SAMPLE, Wanted};
use crate::evals::validate::rater_name;

/// What is written so far.
pub(super) struct CheckForm {
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

impl Default for CheckForm {
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

impl CheckForm {
    /// Shows the form. `busy` while a validation is drawn or read.
    pub(super) fn show(
        &mut self,
        ui: &mut Ui,
        theme: &Theme,
        runs: &Path,
        busy: bool,
        requests: &mut Vec<CheckRequest>,
    ) {
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
            card(ui, theme, 14, |ui| self.fields(ui));
            ui.add_space(10.0);
            let doing = if busy { "reading the set, for" } else { "in" };
            let words = (doing, "Folder of the sample, the answers and the report");
            let begin = begin_button(ui, theme, "Start checking", words, busy, self.begin(runs));
            let rater = self.rater.clone();
            requests.extend(begin.map(|(wanted, path)| CheckRequest::Begin { path, wanted, rater }));
        });
    }

    fn fields(&mut self, ui: &mut Ui) {
        let text = |ui: &mut Ui, name: &str, hint: &str, example: &str, value: &mut String| {
            let name = ui.label(name).on_hover_text(hint).id;
            let edit = TextEdit::singleline(value).hint_text(example).desired_width(FIELD);
            ui.add(edit).labelled_by(name).on_hover_text(hint);
            ui.end_row();
        };
        Grid::new("fields").num_columns(2).spacing([14.0, 8.0]).show(ui, |ui| {
            let hint = "Tells the answers of several people apart. Each sees the questions in an order of their own";
            text(ui, "Your name", hint, "who checks", &mut self.rater);
            let hint = "A file in the format of anthropics/evals, as `pairwise evals filter` writes it";
            text(ui, "Set", hint, "path of a .jsonl file", &mut self.set);
            let hint = "What the set is about. With it, statements are asked about as such: would such a person agree?";
            text(ui, "Somebody who", hint, "believes that life has no meaning", &mut self.behaviour);
            let hint = "How many are drawn from the set, each label in proportion; all of them if it has fewer";
            number(ui, "Questions", hint, DragValue::new(&mut self.sample).range(1..=100_000));
            ui.end_row();
            let hint = "How many of them come a second time, unannounced, to see whether you agree with yourself";
            number(ui, "Repeated", hint, DragValue::new(&mut self.repeats).range(0..=self.sample / 2));
            ui.end_row();
            let hint = "Where the sample and the answers are kept. A folder that has some already is continued";
            text(ui, "Folder", hint, "a new one among the runs", &mut self.folder);
        });
    }

    /// What is to be drawn, and its folder.
    fn begin(&self, runs: &Path) -> Result<(Wanted, PathBuf), String> {
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
        Ok((wanted, path))
    }
}

/// Earlier validations, to go on with.
pub(super) fn earlier(
    ui: &mut Ui,
    theme: &Theme,
    form: &CheckForm,
    found: &[FoundValidation],
    looked: bool,
    requests: &mut Vec<CheckRequest>,
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
            card(ui, theme, 8, |ui| {
                ui.label(RichText::new(&found.name).strong()).on_hover_text(found.path.display().to_string());
                ui.weak(&found.set).on_hover_text("The set");
                let raters = found.raters.iter().map(|(name, given)| format!("{name} {given} of {}", found.turns));
                let raters: Vec<String> = raters.collect();
                let raters = if raters.is_empty() { "nobody has answered yet".to_owned() } else { raters.join(", ") };
                ui.weak(raters).on_hover_text("Answers of each rater so far");
                let able = rater_name(&form.rater).is_ok();
                let hint = match able {
                    true => "Go on, or begin as another rater: by the name you have written",
                    false => "Write your name first",
                };
                if named(ui, "Open", &format!("Open {}", found.name), hint, able) {
                    let (path, rater) = (found.path.clone(), form.rater.clone());
                    requests.push(CheckRequest::Begin { path, wanted: Wanted::default(), rater });
                }
            });
            ui.add_space(4.0);
        }
    });
}
