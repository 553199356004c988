//! All answers of a run: see a pair again, change its answer, take it back.

use std::sync::Arc;

use egui::{ScrollArea, Sense, Ui, vec2};

use super::canvas::Player;
use super::panel::{Action, Context, Entry, OpenRun, Panel, needs_a_run};
use super::theme::Theme;
use super::widgets::{animate, facts, named, toggle};
use crate::control::config::Rater;
use crate::engine::book::{Answers, Saying};
use crate::engine::run::RunCommand;
use crate::engine::snapshot::ClipPair;
use crate::preference::Label;

pub(super) const PANEL: Entry = Entry {
    name: "history",
    hint: "All answers: see, change or take back",
    missing: needs_a_run,
    make: || Box::new(History::default()),
};

/// What the panel remembers of a run.
#[derive(Default)]
struct History {
    player: Player,
    chosen: Option<u64>,
}

/// What a person's answers say about the person.
#[derive(Debug, Clone, PartialEq, Default)]
struct Consistency {
    /// Repeats answered with a decision both times, and how many of them agree.
    repeated: usize,
    agreed: usize,
    /// Decided answers, and how many of them are for the first clip.
    decided: usize,
    first: usize,
    /// Median seconds for an answer.
    seconds: Option<f64>,
}

/// What an answer can be changed to.
const LABELS: [(Label, &str); 4] =
    [(Label::First, "First"), (Label::Second, "Second"), (Label::Equal, "Equal"), (Label::Skip, "None")];

const THUMBNAIL: egui::Vec2 = vec2(88.0, 56.0);

/// Widths of the columns of text, points.
const COLUMNS: [f32; 4] = [104.0, 124.0, 124.0, 56.0];

impl Panel for History {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, run: Some(run), actions, .. } = context else { return };
        egui::CentralPanel::default().show(ui, |ui| {
            ui.heading("Answers");
            let view = &run.view;
            let pairs = view.answers.answered.iter().filter_map(|query| view.pairs.get(query)).cloned();
            let pairs: Vec<Arc<ClipPair>> = pairs.collect();
            if pairs.is_empty() {
                ui.label("No answers yet. They appear here as they are given");
                return;
            }
            about_the_rater(ui, theme, &consistency(&view.answers));
            if let Some(pair) = self.chosen.and_then(|query| pairs.iter().find(|pair| pair.query == query)) {
                self.replay(ui, theme, run, pair, actions);
            }
            ui.separator();
            // Newest first; only the rows on the screen are drawn.
            let row = THUMBNAIL.y + ui.spacing().item_spacing.y;
            ScrollArea::vertical().auto_shrink(false).show_rows(ui, row, pairs.len(), |ui, rows| {
                for index in rows {
                    self.entry(ui, theme, run, &pairs[pairs.len() - 1 - index]);
                }
            });
        });
    }

    fn run_changed(&mut self) {
        *self = Self::default();
    }
}

impl History {
    fn entry(&mut self, ui: &mut Ui, theme: &Theme, run: &mut OpenRun, pair: &ClipPair) {
        let OpenRun { canvas, view, .. } = run;
        let given = view.answers.labels.get(&pair.query).copied();
        ui.horizontal(|ui| {
            for (clip, color) in pair.clips.iter().zip([theme.first, theme.second]) {
                let rect = ui.allocate_exact_size(THUMBNAIL, Sense::hover()).0;
                ui.painter().rect_filled(rect, 4.0, theme.card);
                let middle = canvas.frames(&clip.states) / 2;
                canvas.draw(ui.painter(), rect.shrink(3.0), &clip.states, middle, theme, None);
                ui.painter().hline(rect.x_range(), rect.bottom(), egui::Stroke::new(2.0, color));
            }
            let name = format!("Question {}", pair.query + 1);
            let chosen = self.chosen == Some(pair.query);
            let cell = |ui: &mut Ui, column: usize, add: &mut dyn FnMut(&mut Ui)| {
                let size = vec2(COLUMNS[column], THUMBNAIL.y);
                ui.allocate_ui_with_layout(size, egui::Layout::left_to_right(egui::Align::Center), |ui| {
                    ui.set_min_width(size.x);
                    add(ui);
                });
            };
            cell(ui, 0, &mut |ui| {
                if ui.selectable_label(chosen, &name).on_hover_text("See this pair again").clicked() {
                    self.chosen = (!chosen).then_some(pair.query);
                    self.player = Player::default();
                }
            });
            cell(ui, 1, &mut |ui| {
                ui.label(given.map_or("–", |given| in_words(given.label)));
            });
            cell(ui, 2, &mut |ui| {
                ui.weak(format!("after {} steps", super::curves::steps(pair.step as f64)));
            });
            if let Some(seconds) = given.and_then(|given| given.seconds) {
                cell(ui, 3, &mut |ui| {
                    ui.weak(format!("{seconds:.1} s"));
                });
            }
            if let Some(repeat) = pair.repeat {
                let swapped = if repeat.swapped { ", sides swapped" } else { "" };
                ui.weak(format!("repeats question {}{swapped}", repeat.of + 1)).on_hover_text(
                    "A hidden repeat, to see whether you agree with yourself; nothing is learned from it",
                );
            }
        });
    }

    fn replay(&mut self, ui: &mut Ui, theme: &Theme, run: &mut OpenRun, pair: &ClipPair, actions: &mut Vec<Action>) {
        let person = run.view.config.preferences.rater == Rater::Person && !run.view.ended();
        let frames = run.canvas.frames(&pair.clips[0].states);
        self.player.advance(f64::from(ui.input(|i| i.stable_dt)), run.canvas.spec().dt, frames);
        let frame = self.player.frame(frames);
        ui.horizontal(|ui| {
            let width = (ui.available_width() - 12.0) / 2.0;
            for (clip, color) in pair.clips.iter().zip([theme.first, theme.second]) {
                let rect = ui.allocate_exact_size(vec2(width, 200.0), Sense::hover()).0;
                ui.painter().rect_filled(rect, 8.0, theme.card);
                ui.painter().rect_stroke(rect, 8.0, egui::Stroke::new(2.0, color), egui::StrokeKind::Inside);
                run.canvas.draw(ui.painter(), rect.shrink(10.0), &clip.states, frame, theme, None);
            }
        });
        let now = run.view.answers.labels.get(&pair.query).map(|given| given.label);
        ui.horizontal(|ui| {
            ui.label("Change the answer to");
            for (label, name) in LABELS {
                let hint = match person {
                    true => "Counts from the next fit on. The ledger keeps the old answer as well",
                    false => "Only a person's answers can be changed, and only while the run goes on",
                };
                if ui.add_enabled_ui(person, |ui| toggle(ui, now == Some(label), name, hint)).inner {
                    let query = pair.query;
                    // "None" is final. A pair that is undone in the Teach panel is asked again.
                    run.send(RunCommand::Say(Saying::Relabel { query, label }), actions);
                }
            }
        });
        ui.horizontal(|ui| {
            ui.label("Branch here with");
            for (label, name) in LABELS {
                let name = name.to_lowercase();
                let hint = "Begins a new run that repeats this one up to here, takes this answer, and goes on by itself. This \
                            run is kept; its curves are shown beside the new ones";
                if named(ui, &name, &format!("Branch with {name}"), hint, true) {
                    actions.push(Action::Branch { query: pair.query, label });
                }
            }
        });
        animate(ui);
    }
}

fn about_the_rater(ui: &mut Ui, theme: &Theme, found: &Consistency) {
    let share = |part: usize, whole: usize| match whole {
        0 => "–".to_owned(),
        whole => format!("{:.0} % of {whole}", 100.0 * part as f64 / whole as f64),
    };
    let rows = [
        (
            "agreement on repeats",
            share(found.agreed, found.repeated),
            "Every tenth question shows an earlier pair again, half of them with the sides swapped",
        ),
        (
            "first clip preferred",
            share(found.first, found.decided),
            "Of the decided answers. Sides are random, so a share far from one half means a preference for a side",
        ),
        (
            "seconds for an answer",
            found.seconds.map_or("–".to_owned(), |s| format!("{s:.1}")),
            "Median time from the appearance of a pair to its answer",
        ),
    ];
    facts(ui, theme, "rater", &rows);
}

fn consistency(answers: &Answers) -> Consistency {
    let labels = &answers.labels;
    let mut found = Consistency { seconds: answers.pace(), ..Consistency::default() };
    let decided = |label: Label| matches!(label, Label::First | Label::Second);
    for given in labels.values() {
        if decided(given.label) {
            found.decided += 1;
            found.first += usize::from(given.label == Label::First);
        }
        let Some(repeat) = given.repeat else { continue };
        let Some(before) = labels.get(&repeat.of).map(|before| before.label) else { continue };
        let before = if repeat.swapped { before.swapped() } else { before };
        if decided(before) && decided(given.label) {
            found.repeated += 1;
            found.agreed += usize::from(before == given.label);
        }
    }
    found
}

fn in_words(label: Label) -> &'static str {
    match label {
        Label::First => "first is better",
        Label::Second => "second is better",
        Label::Equal => "equal",
        Label::Skip => "not used",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{Consistency, consistency};
    use crate::engine::book::{Answers, Given};
    use crate::preference::{Label, Repeat};

    #[test]
    fn repeats_agree_when_the_same_clip_is_preferred_whatever_its_side() {
        let given = |label, seconds, repeat| Given { label, seconds: Some(seconds), repeat };
        let swapped = |of| Some(Repeat { of, swapped: true });
        let labels = BTreeMap::from([
            (0, given(Label::First, 1.0, None)),
            (1, given(Label::Second, 2.0, None)),
            (2, given(Label::Equal, 9.0, None)),
            (3, given(Label::Second, 3.0, swapped(0))),
            (4, given(Label::First, 5.0, Some(Repeat { of: 1, swapped: false }))),
            (5, given(Label::First, 4.0, swapped(2))),
        ]);
        let expected = Consistency { repeated: 2, agreed: 1, decided: 5, first: 3, seconds: Some(4.0) };
        let answers = Answers { labels: Arc::new(labels), ..Answers::default() };
        assert_eq!(consistency(&answers), expected);
        assert_eq!(consistency(&Answers::default()), Consistency::default());
    }
}
