//! Past runs: open, compare, export, delete.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use egui::{Align, ComboBox, Grid, Layout, RichText, Role, ScrollArea, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use super::background::{Repeated, finished, in_background};
use super::curves::{self, Comparison, MEASURES};
use super::panel::{Action, Context, Entry, Panel, always};
use super::theme::Theme;
use super::widgets::{named, unreadable};
use crate::control::run::export::{self, Export};
use crate::control::run::past::{self, Listing, PastRun};

pub(super) const PANEL: Entry = Entry {
    name: "runs",
    hint: "Past runs: open, compare, export, delete",
    missing: always,
    make: || Box::new(Runs::default()),
};

/// What the panel remembers.
#[derive(Default)]
struct Runs {
    found: Listing,
    reading: Repeated<Listing>,
    /// Runs that are compared, by folder.
    chosen: BTreeSet<PathBuf>,
    /// Index into [`MEASURES`].
    measure: usize,
    comparison: Arc<Comparison>,
    comparing: Option<JoinHandle<Comparison>>,
    /// The run whose deletion has to be confirmed.
    deleting: Option<PathBuf>,
}

/// Size of a row's curve, points: as wide as what the rest of the table leaves.
const SPARKLINE: egui::Vec2 = vec2(110.0, 24.0);
const WIDEST_SPARKLINE: f32 = 420.0;
const REST: f32 = 860.0;

/// Points drawn of it.
const SPARKLINE_POINTS: usize = 110;

impl Panel for Runs {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, runs: folder, run, actions, .. } = context;
        // A run that ended by an error can be opened again.
        let open = run.as_ref().map(|run| &run.view).filter(|view| view.shows()).map(|view| view.folder.as_path());
        self.refresh(ui, folder);
        egui::CentralPanel::default().show(ui, |ui| {
            ui.horizontal(|ui| {
                ui.heading("Runs");
                ui.weak(folder.display().to_string())
                    .on_hover_text("The folder that they are in; choose it with --runs");
            });
            unreadable(ui, theme, folder, &self.found.damaged);
            if self.found.runs.is_empty() {
                ui.add_space(24.0);
                ui.label(match self.reading.looked() {
                    true => "There are no runs here yet. Watch or teach one first",
                    false => "Reading the folder",
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
}

impl Runs {
    /// Reads the folder and prepares curves, off the window's thread.
    fn refresh(&mut self, ui: &Ui, folder: &Path) {
        let found = self.reading.news(ui.ctx(), || {
            let (folder, known) = (folder.to_owned(), self.found.runs.clone());
            move || past::list(&folder, &known)
        });
        if let Some(found) = found {
            self.found = found;
            self.chosen.retain(|path| self.found.runs.iter().any(|run| run.path == *path));
        }
        if let Some(comparison) = finished(&mut self.comparing) {
            self.comparison = Arc::new(comparison);
        }
        let chosen = self.found.runs.iter().filter(|run| self.chosen.contains(&run.path));
        if self.comparing.is_none() && !same(&self.comparison.runs, chosen.clone()) {
            let runs: Vec<Arc<PastRun>> = chosen.cloned().collect();
            self.comparing = Some(in_background(ui.ctx(), move || Comparison::of(runs)));
        }
    }

    fn table(&mut self, ui: &mut Ui, theme: &Theme, open: Option<&Path>, actions: &mut Vec<Action>) {
        let columns = [
            ("Compare", "Draw this run's curves below"),
            ("Run", "Name of its folder"),
            ("Task", "Environment"),
            ("Teacher", "Whom the agent learns from"),
            ("Answers", "Questions answered with anything but \"can't tell\""),
            (
                "True return",
                "Of the final evaluation, or of the last ten training episodes if the run has not finished",
            ),
            ("Learning", "True return over environment steps"),
            ("", ""),
        ];
        let width = (ui.available_width() - REST).clamp(SPARKLINE.x, WIDEST_SPARKLINE);
        Grid::new("runs").num_columns(columns.len()).striped(true).spacing([18.0, 8.0]).show(ui, |ui| {
            for (name, hint) in columns {
                ui.label(RichText::new(name).color(theme.weak_text)).on_hover_text(hint);
            }
            ui.end_row();
            for run in &self.found.runs {
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
                            let path = run.path.clone();
                            actions.push(Action::Work(Box::new(move || {
                                past::delete(&path).map_err(|error| error.to_string())?;
                                Ok(format!("Deleted {}", path.display()))
                            })));
                            self.deleting = None;
                            self.reading.changed();
                        }
                        if named(ui, "Keep", &format!("Keep {name}"), "Delete nothing", true) {
                            self.deleting = None;
                        }
                        return;
                    }
                    let hint =
                        if is_open { "It is open" } else { "Look at it, and go on with it if it has not finished" };
                    if named(ui, "Open", &format!("Open {name}"), hint, !is_open) {
                        actions.push(Action::Open(run.path.clone()));
                    }
                    export_menu(ui, run, actions);
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
        ui.weak(format!("{compared}. Runs that differ only in their seed are one curve"))
            .on_hover_text("Interquartile mean over the seeds, and its 95 % bootstrap interval");
        let Some(series) = self.comparison.series.get(self.measure) else { return };
        if series.iter().all(|series| series.points.is_empty()) {
            ui.label("These runs have no such curve");
            return;
        }
        if let Some(extension) = take {
            let measure = MEASURES[self.measure].name;
            let file = format!("comparison-{}.{extension}", measure.to_lowercase().replace(' ', "-"));
            let (path, series) = (folder.join(file), series.clone());
            actions.push(Action::Work(Box::new(move || {
                export::comparison(&path, measure, &series).map_err(|error| error.to_string())?;
                Ok(format!("Exported to {}", path.display()))
            })));
        }
        // Room for the last number below the plot.
        ui.set_max_width(ui.available_width() - 20.0);
        curves::beside_each_other(ui, theme, "comparison", (ui.available_height() - 8.0).max(120.0), series);
    }
}

fn same<'a>(runs: &'a [Arc<PastRun>], others: impl Iterator<Item = &'a Arc<PastRun>> + Clone) -> bool {
    runs.len() == others.clone().count() && runs.iter().zip(others).all(|(a, b)| Arc::ptr_eq(a, b))
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

fn export_menu(ui: &mut Ui, run: &Arc<PastRun>, actions: &mut Vec<Action>) {
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
                let run = Arc::clone(run);
                actions.push(Action::Work(Box::new(move || {
                    let path = export::export(&run, what).map_err(|error| error.to_string())?;
                    Ok(format!("Exported to {}", path.display()))
                })));
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
