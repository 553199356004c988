//! The agent, and how it is learning.

use std::sync::Arc;

use egui::{RichText, ScrollArea, Ui};

use super::curves::{self, Curve, Look};
use super::panel::{Action, Context, Entry, EpisodePlayer, OpenRun, Panel, Settings, needs_a_run};
use super::theme::Theme;
use super::widgets::{aside, facts};
use crate::control::drlhp::Report;
use crate::engine::run::RunCommand;
use crate::engine::snapshot::{RunPhase, RunView};

pub(super) const PANEL: Entry = Entry {
    name: "watch",
    hint: "The agent, and how it is learning",
    missing: needs_a_run,
    make: || Box::new(Watch::default()),
};

/// What the panel remembers of a run.
#[derive(Default)]
struct Watch {
    episodes: EpisodePlayer,
    /// Steps a second; 0 for as fast as it goes.
    speed_limit: f64,
}

impl Panel for Watch {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, settings, run: Some(run), actions, .. } = context else { return };
        aside(ui, theme, "numbers", [250.0, 220.0], |ui| {
            ScrollArea::vertical().auto_shrink(false).show(ui, |ui| numbers(ui, theme, &run.view));
        });
        egui::CentralPanel::default().show(ui, |ui| {
            self.header(ui, run, actions);
            ui.add_space(4.0);
            let height = (ui.available_height() * 0.45).max(180.0);
            self.episode(ui, theme, run, height, actions);
            ui.horizontal(|ui| {
                let name = ui.label("Smoothing");
                ui.add(egui::Slider::new(&mut settings.smoothing, 0.0..=0.99).show_value(true))
                    .on_hover_text("Share of the old value that a smoothed curve keeps from one iteration to the next")
                    .labelled_by(name.id);
                ui.checkbox(&mut settings.log, "Log scale")
                    .on_hover_text("Disagreement and losses by their powers of ten");
                if !run.beside.is_empty() && ui.button("Alone").on_hover_text("Hide the other runs' curves").clicked() {
                    run.beside = Arc::default();
                }
            });
            ScrollArea::vertical().auto_shrink(false).show(ui, |ui| learning(ui, theme, run, settings));
        });
    }

    fn run_changed(&mut self) {
        *self = Self::default();
    }
}

impl Watch {
    fn header(&mut self, ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
        ui.horizontal(|ui| {
            ui.heading(run.canvas.spec().id);
            ui.weak(phase(&run.view.phase));
            let progress = run.view.progress;
            let share = progress.env_steps as f32 / progress.total_steps.max(1) as f32;
            let text = format!(
                "{} of {} steps",
                curves::steps(progress.env_steps as f64),
                curves::steps(progress.total_steps as f64)
            );
            ui.add(egui::ProgressBar::new(share).desired_width(220.0).text(text));
        });
        let ended = run.view.ended();
        ui.horizontal(|ui| {
            let paused = run.view.phase == RunPhase::Paused;
            let (name, command) = if paused { ("Go on", RunCommand::Go) } else { ("Pause", RunCommand::Pause) };
            let hint = "Stop and go on with training; the agent can still be watched";
            if ui.add_enabled(!ended, egui::Button::new(name)).on_hover_text(hint).clicked() {
                run.send(command, actions);
            }
            let step = ui.add_enabled(paused, egui::Button::new("Step"));
            if step.on_hover_text("One iteration: collect, ask, fit, train").clicked() {
                run.send(RunCommand::Step, actions);
            }
            let save = ui.add_enabled(!ended, egui::Button::new("Checkpoint"));
            if save.on_hover_text("Write the whole state to the run folder after this iteration").clicked() {
                run.send(RunCommand::Checkpoint, actions);
            }
            let name = ui.label("Speed limit");
            let limit = &mut self.speed_limit;
            let drag =
                egui::DragValue::new(limit).range(0.0..=1e6).speed(100.0).custom_formatter(|value, _| match value {
                    0.0 => "none".to_owned(),
                    value => format!("{value:.0} steps/s"),
                });
            let changed = ui.add_enabled(!ended, drag).labelled_by(name.id);
            if changed.on_hover_text("Environment steps a second that training may take; 0 for no limit").changed() {
                run.send(RunCommand::SpeedLimit((*limit > 0.0).then_some(*limit)), actions);
            }
            if ui.button("Close run").on_hover_text("End it with a checkpoint; it can be opened again").clicked() {
                actions.push(Action::Close);
            }
        });
    }

    /// The present policy, episode after episode.
    fn episode(&mut self, ui: &mut Ui, theme: &Theme, run: &mut OpenRun, height: f32, actions: &mut Vec<Action>) {
        let rect = ui.allocate_space(egui::vec2(ui.available_width(), height)).1;
        ui.painter().rect_filled(rect, 8.0, theme.card);
        let Some((episode, frame)) = self.episodes.next(ui, run, actions) else {
            ui.put(rect, egui::Label::new("The first episode appears as soon as the agent has taken its first steps"));
            return;
        };
        run.canvas.draw(ui.painter(), rect.shrink(12.0), &episode.clip.states, frame, theme, None);
        let text = format!(
            "policy after {} steps, {:.1} s of {:.1} s",
            curves::steps(episode.env_steps as f64),
            frame as f64 * run.canvas.spec().dt,
            run.canvas.frames(&episode.clip.states) as f64 * run.canvas.spec().dt
        );
        let corner = rect.left_bottom() + egui::vec2(12.0, -10.0);
        ui.painter().text(corner, egui::Align2::LEFT_BOTTOM, text, egui::FontId::proportional(12.0), theme.weak_text);
    }
}

fn learning(ui: &mut Ui, theme: &Theme, run: &OpenRun, settings: &Settings) {
    // The last number below a plot is as wide to the right of its line as to the left.
    ui.set_max_width(ui.available_width() - 20.0);
    let known = run.view.config.preferences.wanted.is_none();
    let mut draw = |title: &str, hint: &str, log: bool, beside: &str, curves: &[Curve]| {
        ui.label(RichText::new(title).strong()).on_hover_text(hint);
        let look = Look { smoothing: settings.smoothing, log: log && settings.log };
        curves::show(ui, theme, title, 150.0, &run.view.past, curves, look, run.beside.measure(beside));
        ui.add_space(6.0);
    };
    if known {
        draw(
            "True return",
            "Mean of the last ten training episodes by the task's own reward, which the agent never sees. Dashed lines show \
             when questions were asked",
            false,
            "True return",
            &[Curve { name: "true return", value: |r| r.true_return }],
        );
    }
    draw(
        "Predicted return",
        "What the learned reward, normalised, expects of an episode",
        false,
        "Predicted return",
        &[Curve { name: "predicted return", value: |r| r.predicted_return }],
    );
    if known {
        draw(
            "Reward correlation",
            "Learned against true reward, step by step, over a sample of all steps so far: 1 is perfect",
            false,
            "Reward correlation",
            &[
                Curve { name: "Pearson", value: |r| r.reward.and_then(|m| m.pearson) },
                Curve { name: "Spearman", value: |r| r.reward.and_then(|m| m.spearman) },
            ],
        );
    }
    draw(
        "Ensemble disagreement",
        "Mean variance of the members' answers to the candidate questions; questions are asked where it is high",
        true,
        "",
        &[Curve { name: "disagreement", value: |r| r.disagreement }],
    );
    draw(
        "Reward loss",
        "Cross-entropy of the answers, in nats: on those fitted to, and on those held out",
        true,
        "Held-out loss",
        &[
            Curve { name: "training", value: |r| r.fit.map(|f| f.train_loss) },
            Curve { name: "held out", value: |r| r.fit.and_then(|f| f.validation_loss) },
        ],
    );
    draw(
        "Policy entropy",
        "How undecided the policy still is, in nats",
        false,
        "",
        &[Curve { name: "entropy", value: |r| r.ppo.filter(|_| r.iteration > 0).map(|ppo| ppo.entropy) }],
    );
}

/// The newest numbers.
pub(super) fn numbers(ui: &mut Ui, theme: &Theme, view: &RunView) {
    let progress = view.progress;
    let known = view.config.preferences.wanted.is_none();
    let reports = &view.past.reports;
    let (true_return, predicted_return) = (last(reports, |r| r.true_return), last(reports, |r| r.predicted_return));
    let disagreement = last(reports, |r| r.disagreement);
    let (reward, fit) = (last(reports, |r| r.reward), last(reports, |r| r.fit));
    let number = |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |v| format!("{v:.digits$}"));
    let mut rows = Vec::new();
    if known {
        rows.push(("true return", number(true_return, 1), "Mean of the last ten training episodes"));
    }
    rows.push(("predicted return", number(predicted_return, 1), "What the learned reward expects of an episode"));
    if known {
        rows.push(("Pearson", number(reward.and_then(|m| m.pearson), 2), "Learned against true reward, linear"));
        rows.push(("Spearman", number(reward.and_then(|m| m.spearman), 2), "Learned against true reward, by rank"));
        if let Some(epic) = view.episode.as_ref().and_then(|episode| episode.epic) {
            let hint = "Distance of learned and true reward that shaping and scale do not change, 0 to 1 (Gleave et al. \
                        2021); taken with each episode shown";
            rows.push(("EPIC distance", format!("{epic:.2}"), hint));
        }
    }
    rows.push((
        "answers",
        format!("{} of {}", view.answers.resolved(), progress.labels),
        "Questions answered or skipped; hidden repeats do not count",
    ));
    rows.push(("disagreement", number(disagreement, 3), "Variance of the members' answers, 0 to 0.25"));
    rows.push((
        "held-out loss",
        number(fit.and_then(|f| f.validation_loss), 3),
        "Cross-entropy of answers that the reward was not fitted to, in nats",
    ));
    let accuracy = fit.and_then(|f| f.validation_accuracy);
    let accuracy = accuracy.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
    rows.push(("held-out accuracy", accuracy, "Share of held-out answers that were predicted correctly"));
    if !view.ended() {
        let speed = format!("{} steps/s", curves::steps(progress.steps_per_second));
        rows.push(("speed", speed, "Environment steps a second, over the last iteration"));
    }
    facts(ui, theme, "numbers", &rows);
    if let RunPhase::Finished(summary) = &view.phase {
        ui.add_space(12.0);
        ui.label(RichText::new("Finished").strong());
        if known {
            let std = summary.true_return_std.map_or_else(String::new, |std| format!(" ± {std:.1}"));
            let (mean, episodes) = (summary.true_return_mean, summary.episodes);
            ui.label(format!("True return {mean:.1}{std} over {episodes} fresh episodes"));
        }
        ui.label(RichText::new(summary.run_dir.display().to_string()).small().color(theme.weak_text));
    }
}

/// The newest value that there is: not every iteration asks, fits, or ends an episode.
fn last<T>(reports: &[Arc<Report>], value: impl Fn(&Report) -> Option<T>) -> Option<T> {
    reports.iter().rev().find_map(|report| value(report))
}

/// What a run is doing, in words.
pub(super) fn phase(phase: &RunPhase) -> &'static str {
    match phase {
        RunPhase::Opening => "opening the run folder",
        RunPhase::CatchingUp => "repeating what is in the ledger",
        RunPhase::Training => "training",
        RunPhase::Waiting => "waiting for your answers",
        RunPhase::Paused => "paused",
        RunPhase::Finished(_) => "finished",
        RunPhase::Stopped => "stopped, with a checkpoint",
        RunPhase::Failed(_) => "ended by an error",
    }
}
