//! Past runs: open, compare, export, delete.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egui::{Align, ComboBox, Grid, Layout, RichText, Role, ScrollArea, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use super::curves;
use super::theme::Theme;
use super::{Action, in_background, unreadable};
use crate::control::drlhp::Report;
use crate::control::run::export::Export;
use crate::control::run::past::{self, Listing, PastRun};
use crate::disk::Damaged;
use crate::disk::figure::Series;

/// What the panel remembers.
#[derive(Default)]
pub(super) struct Runs {
    runs: Vec<Arc<PastRun>>,
    /// Folders that cannot be read.
    damaged: Vec<Damaged>,
    reading: Option<JoinHandle<Listing>>,
    read: Option<Instant>,
    /// Runs that are compared, by folder.
    chosen: BTreeSet<PathBuf>,
    /// Index into [`MEASURES`].
    measure: usize,
    comparison: Arc<Comparison>,
    comparing: Option<JoinHandle<Comparison>>,
    /// The run whose deletion has to be confirmed.
    deleting: Option<PathBuf>,
}

/// A value over which runs are compared.
pub(super) struct Measure {
    pub name: &'static str,
    hint: &'static str,
    /// Whether it needs the task's own reward to mean something.
    truth: bool,
    value: fn(&Report) -> Option<f64>,
}

/// Curves of runs beside each other.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The runs, as they were when it was made.
    runs: Vec<Arc<PastRun>>,
    /// For each of [`MEASURES`].
    series: Vec<Vec<Series>>,
}

pub(super) const MEASURES: [Measure; 4] = [
    Measure {
        name: "True return",
        hint: "Mean of the last ten training episodes by the task's own reward",
        truth: true,
        value: |r| r.true_return,
    },
    Measure {
        name: "Predicted return",
        hint: "What the learned reward, normalised, expects of an episode",
        truth: false,
        value: |r| r.predicted_return,
    },
    Measure {
        name: "Reward correlation",
        hint: "Pearson's, of learned and true reward, step by step",
        truth: true,
        value: |r| r.reward.and_then(|m| m.pearson),
    },
    Measure {
        name: "Held-out loss",
        hint: "Cross-entropy of the answers that the reward was not fitted to, in nats",
        truth: false,
        value: |r| r.fit.and_then(|f| f.validation_loss),
    },
];

/// Time between two looks at the folder while the panel is open.
const BETWEEN_READS: Duration = Duration::from_secs(2);

/// Size of a row's curve, points: as wide as what the rest of the table leaves.
const SPARKLINE: egui::Vec2 = vec2(110.0, 24.0);
const WIDEST_SPARKLINE: f32 = 420.0;
const REST: f32 = 860.0;

/// Points drawn of it.
const SPARKLINE_POINTS: usize = 110;

impl Runs {
    /// Shows the panel. `open` is the run that is open, if any.
    pub(super) fn show(
        &mut self,
        ui: &mut Ui,
        theme: &Theme,
        folder: &Path,
        open: Option<&Path>,
        actions: &mut Vec<Action>,
    ) {
        self.refresh(ui, folder);
        egui::CentralPanel::default().show(ui, |ui| {
            ui.horizontal(|ui| {
                ui.heading("Runs");
                ui.weak(folder.display().to_string())
                    .on_hover_text("The folder that they are in; choose it with --runs");
            });
            unreadable(ui, theme, folder, &self.damaged);
            if self.runs.is_empty() {
                ui.add_space(24.0);
                let reading = self.read.is_none();
                ui.label(if reading {
                    "Reading the folder"
                } else {
                    "There are no runs here yet. Watch or teach one first"
                });
                return;
            }
            let compared = !self.chosen.is_empty();
            let height = if compared { (ui.available_height() * 0.5).max(160.0) } else { ui.available_height() };
            ScrollArea::both().id_salt("runs").max_height(height).auto_shrink([false, compared]).show(ui, |ui| {
                self.table(ui, theme, open, actions);
            });
            if compared {
                ui.separator();
                self.beside_each_other(ui, theme, folder, open, actions);
            }
        });
    }

    /// Reads the folder and prepares curves, off the window's thread.
    fn refresh(&mut self, ui: &Ui, folder: &Path) {
        if let Some(found) = finished(&mut self.reading) {
            (self.runs, self.damaged) = (found.runs, found.damaged);
            self.read = Some(Instant::now());
            self.chosen.retain(|path| self.runs.iter().any(|run| run.path == *path));
        }
        if self.reading.is_none() && self.read.is_none_or(|read| read.elapsed() >= BETWEEN_READS) {
            let (folder, known) = (folder.to_owned(), self.runs.clone());
            self.reading = Some(in_background(ui.ctx(), move || past::list(&folder, &known)));
        }
        if let Some(comparison) = finished(&mut self.comparing) {
            self.comparison = Arc::new(comparison);
        }
        let chosen = self.runs.iter().filter(|run| self.chosen.contains(&run.path));
        if self.comparing.is_none() && !same(&self.comparison.runs, chosen.clone()) {
            let runs: Vec<Arc<PastRun>> = chosen.cloned().collect();
            self.comparing = Some(in_background(ui.ctx(), move || Comparison::of(runs)));
        }
        ui.ctx().request_repaint_after(BETWEEN_READS);
    }

    fn table(&mut self, ui: &mut Ui, theme: &Theme, open: Option<&Path>, actions: &mut Vec<Action>) {
        let columns = [
            ("Compare", "Draw this run's curves below"),
            ("Run", "Name of its folder"),
            ("Task", "Environment"),
            ("Teacher", "Whom the agent learns from"),
            ("Answers", "Questions answered with anything but \"can't tell\""),
            ("True return", "Of the final evaluation; of the last ten training episodes where it has not finished"),
            ("Learning", "True return over environment steps"),
            ("", ""),
        ];
        let width = (ui.available_width() - REST).clamp(SPARKLINE.x, WIDEST_SPARKLINE);
        Grid::new("runs").num_columns(columns.len()).striped(true).spacing([18.0, 8.0]).show(ui, |ui| {
            for (name, hint) in columns {
                ui.label(RichText::new(name).color(theme.weak_text)).on_hover_text(hint);
            }
            ui.end_row();
            for run in &self.runs {
                let name = run.name();
                let mut chosen = self.chosen.contains(&run.path);
                let check = ui.checkbox(&mut chosen, "");
                check.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, chosen, format!("Compare {name}")));
                if check.changed() {
                    if chosen {
                        self.chosen.insert(run.path.clone())
                    } else {
                        self.chosen.remove(&run.path)
                    };
                }
                let is_open = open == Some(run.path.as_path());
                ui.horizontal(|ui| {
                    ui.label(RichText::new(&name).strong()).on_hover_text(run.path.display().to_string());
                    if let count @ 1.. = run.unread.len() {
                        let lines = if count == 1 { "1 bad line" } else { &format!("{count} bad lines") };
                        ui.colored_label(theme.error, lines).on_hover_text(run.unread.join("\n"));
                    }
                });
                ui.label(&run.config.env);
                ui.label(run.teacher());
                ui.label(run.labels().to_string());
                ui.label(outcome(run, is_open));
                sparkline(ui, theme, run, width);
                ui.horizontal(|ui| {
                    if self.deleting.as_ref() == Some(&run.path) {
                        ui.colored_label(theme.error, "Delete it for good?");
                        if named(ui, "Delete", &format!("Delete {name} for good"), "Its folder, with all answers", true)
                        {
                            actions.push(Action::Delete(run.path.clone()));
                            self.deleting = None;
                            self.read = None;
                        }
                        if named(ui, "Keep", &format!("Keep {name}"), "Delete nothing", true) {
                            self.deleting = None;
                        }
                        return;
                    }
                    let hint =
                        if is_open { "It is open" } else { "Look at it, and go on with it where it has not finished" };
                    if named(ui, "Open", &format!("Open {name}"), hint, !is_open) {
                        actions.push(Action::Open(run.path.clone()));
                    }
                    export(ui, run, actions);
                    let hint = if is_open { "Close it first" } else { "Delete its folder; asks before it does" };
                    if named(ui, "Delete", &format!("Delete {name}"), hint, !is_open) {
                        self.deleting = Some(run.path.clone());
                    }
                });
                ui.end_row();
            }
        });
    }

    fn beside_each_other(
        &mut self,
        ui: &mut Ui,
        theme: &Theme,
        folder: &Path,
        open: Option<&Path>,
        actions: &mut Vec<Action>,
    ) {
        let mut take = None;
        ui.horizontal(|ui| {
            let name = ui.label("Compare");
            let measure = &MEASURES[self.measure];
            let choice = ComboBox::from_id_salt("measure").selected_text(measure.name).show_ui(ui, |ui| {
                for (i, measure) in MEASURES.iter().enumerate() {
                    ui.selectable_value(&mut self.measure, i, measure.name).on_hover_text(measure.hint);
                }
            });
            choice.response.labelled_by(name.id).on_hover_text(measure.hint);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                for (button, extension) in [("PNG", "png"), ("SVG", "svg")] {
                    let hint = "Write this figure into the folder of runs";
                    if named(ui, button, &format!("Export the comparison as {button}"), hint, true) {
                        take = Some(extension);
                    }
                }
                let hint = "Draw these curves in the Watch panel too";
                if named(ui, "Beside the open run", "Beside the open run", hint, open.is_some()) {
                    actions.push(Action::Beside(Arc::clone(&self.comparison)));
                }
            });
        });
        let compared = match self.comparison.runs.len() {
            1 => "1 run".to_owned(),
            count => format!("{count} runs"),
        };
        ui.weak(format!("{compared}, those that differ in nothing but their seed as one curve"))
            .on_hover_text("Interquartile mean over the seeds, and its 95 % bootstrap interval");
        let Some(series) = self.comparison.series.get(self.measure) else { return };
        if series.iter().all(|series| series.points.is_empty()) {
            ui.label("These runs have no such curve");
            return;
        }
        if let Some(extension) = take {
            let measure = MEASURES[self.measure].name;
            let file = format!("comparison-{}.{extension}", measure.to_lowercase().replace(' ', "-"));
            actions.push(Action::Compare { path: folder.join(file), measure, series: series.clone() });
        }
        // Room for the last number below the plot.
        ui.set_max_width(ui.available_width() - 20.0);
        curves::beside_each_other(ui, theme, "comparison", (ui.available_height() - 8.0).max(120.0), series);
    }
}

impl Comparison {
    /// Curves of these runs, those of several seeds as one.
    pub(super) fn of(runs: Vec<Arc<PastRun>>) -> Self {
        let known = |run: &&PastRun| run.config.preferences.wanted.is_none();
        let series = |measure: &Measure| {
            let shown: Vec<&PastRun> =
                runs.iter().map(Arc::as_ref).filter(|run| !measure.truth || known(run)).collect();
            past::series(&shown, measure.value)
        };
        Self { series: MEASURES.iter().map(series).collect(), runs }
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.series.iter().all(Vec::is_empty)
    }

    /// Curves of the measure of this name.
    pub(super) fn measure(&self, name: &str) -> &[Series] {
        let found = MEASURES.iter().position(|measure| measure.name == name).and_then(|i| self.series.get(i));
        found.map_or(&[], Vec::as_slice)
    }
}

fn same<'a>(runs: &'a [Arc<PastRun>], others: impl Iterator<Item = &'a Arc<PastRun>> + Clone) -> bool {
    runs.len() == others.clone().count() && runs.iter().zip(others).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// What a thread has found, once it has.
fn finished<T>(thread: &mut Option<JoinHandle<T>>) -> Option<T> {
    thread.take_if(|thread| thread.is_finished()).and_then(|thread| thread.join().ok())
}

fn outcome(run: &PastRun, open: bool) -> String {
    let state = match &run.summary {
        Some(summary) => summary.true_return_std.map_or_else(String::new, |std| format!(" ± {std:.0}")),
        None if open => " (open)".to_owned(),
        None => " (not finished)".to_owned(),
    };
    match run.true_return() {
        Some(value) => format!("{value:.1}{state}"),
        None if run.config.preferences.wanted.is_some() => "your own goal".to_owned(),
        None => state.trim().to_owned(),
    }
}

/// A button with a name for those who cannot see which row it is in.
fn named(ui: &mut Ui, text: &str, name: &str, hint: &str, enabled: bool) -> bool {
    let response = ui.add_enabled(enabled, egui::Button::new(text));
    response.widget_info(|| WidgetInfo::labeled(Role::Button, enabled, name));
    response.on_hover_text(hint).on_disabled_hover_text(hint).clicked()
}

fn export(ui: &mut Ui, run: &Arc<PastRun>, actions: &mut Vec<Action>) {
    let menu = ui.menu_button("Export", |ui| {
        for what in Export::ALL {
            let (name, hint) = match what {
                Export::Figure => ("Learning curve (SVG)", "For papers and web pages"),
                Export::Picture => ("Learning curve (PNG)", "A picture of 1440 × 800 pixels"),
                Export::Film => ("Episode (GIF)", "The newest policy, deterministic actions"),
                Export::Metrics => ("Metrics (CSV)", "Every number of every iteration"),
                Export::Labels => ("Answers (JSONL)", "Those in force, after undoing and changing"),
            };
            if ui.button(name).on_hover_text(hint).clicked() {
                actions.push(Action::Export(Arc::clone(run), what));
                ui.close();
            }
        }
    });
    let name = format!("Export {}", run.name());
    menu.response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
    menu.response.on_hover_text("Figures, films, tables and answers, into the run's folder `exports`");
}

/// The true return, small.
fn sparkline(ui: &mut Ui, theme: &Theme, run: &PastRun, width: f32) {
    let (rect, response) = ui.allocate_exact_size(vec2(width, SPARKLINE.y), Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Image, true, format!("Learning curve of {}", run.name())));
    if run.config.preferences.wanted.is_some() {
        return;
    }
    let values: Vec<f64> = run.reports.iter().filter_map(|report| report.true_return).collect();
    let stride = values.len().div_ceil(SPARKLINE_POINTS).max(1);
    let values: Vec<f64> = values.into_iter().step_by(stride).collect();
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    let last = values.len().saturating_sub(1).max(1) as f32;
    let at = |(i, value): (usize, &f64)| {
        let up = ((value - low) / (high - low).max(1e-9)) as f32;
        pos2(rect.left() + rect.width() * i as f32 / last, rect.bottom() - 2.0 - (rect.height() - 4.0) * up)
    };
    let points = values.iter().enumerate().map(at).collect();
    ui.painter().line(points, Stroke::new(1.5, theme.curve(0)));
}
