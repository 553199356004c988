//! The learned reward under a microscope: over two state variables or along an episode, beside the true one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use egui::{Align2, ColorImage, FontId, Rect, RichText, TextureHandle, TextureOptions, Ui, pos2, vec2};
use egui_plot::{Line, PlotPoints, VLine};

use super::curves;
use super::panel::{Action, Context, Entry, EpisodePlayer, OpenRun, Panel, needs_a_run};
use super::theme::Theme;
use super::widgets::{choice, toggle};
use crate::engine::run::RunCommand;
use crate::engine::snapshot::{Slice, SliceRequest};
use crate::preference::pearson;
use crate::preference::statistics::deviation;

pub(super) const PANEL: Entry = Entry {
    name: "reward",
    hint: "What the learned reward looks like",
    missing: needs_a_run,
    make: || Box::new(Reward::default()),
};

/// What the panel remembers of a run.
struct Reward {
    over: Over,
    x: usize,
    y: usize,
    episodes: EpisodePlayer,
    painted: Option<Painted>,
    asked: Option<Instant>,
}

/// What the reward is drawn over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    States,
    Episode,
}

/// Heat maps of a slice.
struct Painted {
    slice: Arc<Slice>,
    /// Whether they were painted for dark mode.
    dark: bool,
    maps: Vec<Map>,
}

/// A heat map.
struct Map {
    title: &'static str,
    hint: &'static str,
    texture: TextureHandle,
}

/// Points of a heat map along each axis, and of a line.
const MAP_POINTS: usize = 64;
const LINE_POINTS: usize = 256;

/// Height of a line of text below a map.
const AXIS_ROW: f32 = 15.0;

/// Time between two slices: often enough to see it change, too rarely to slow training.
const BETWEEN_SLICES: Duration = Duration::from_millis(500);

impl Default for Reward {
    fn default() -> Self {
        Self { over: Over::States, x: 0, y: 1, episodes: EpisodePlayer::default(), painted: None, asked: None }
    }
}

impl Panel for Reward {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, run: Some(run), actions, .. } = context else { return };
        egui::CentralPanel::default().show(ui, |ui| {
            ui.heading("The learned reward");
            ui.horizontal(|ui| {
                ui.label("Over");
                for (over, name, hint) in [
                    (Over::States, "States", "One or two state variables, the others at the median of what the agent has seen"),
                    (Over::Episode, "An episode", "Step by step through an episode of the newest policy"),
                ] {
                    if toggle(ui, self.over == over, name, hint) {
                        self.over = over;
                    }
                }
            });
            if self.over == Over::Episode {
                self.along(ui, theme, run, actions);
                return;
            }
            ui.label(
                "All other state variables are at the median of what the agent has seen. Where the members differ, little is \
                 known.",
            );
            let names = run.canvas.spec().state;
            ui.horizontal(|ui| {
                let hint = "State variable; the same for x and y gives a line";
                choice(ui, "Along x", hint, names, &mut self.x);
                choice(ui, "Along y", hint, names, &mut self.y);
            });
            self.ask(run, actions);
            ui.ctx().request_repaint_after(BETWEEN_SLICES);
            let (x, y) = (self.x, self.y);
            let fitting = run.view.slice.clone().filter(|s| (s.request.x, s.request.y) == (x, y));
            let Some(slice) = fitting else {
                ui.add_space(24.0);
                ui.label("The slice appears after this iteration");
                return;
            };
            if let Some(correlation) = slice.correlation {
                ui.label(format!("Correlation with the true reward on this slice: {correlation:.2}"))
                    .on_hover_text("Pearson's, over the points shown; 1 is perfect");
            }
            ui.add_space(8.0);
            if x == y { line(ui, theme, &slice, names[x]) } else { self.maps(ui, theme, &slice, [names[x], names[y]]) }
        });
    }

    fn run_changed(&mut self) {
        *self = Self::default();
    }
}

impl Reward {
    fn ask(&mut self, run: &OpenRun, actions: &mut Vec<Action>) {
        let (x, y) = (self.x, self.y);
        let request = SliceRequest { x, y, points: if x == y { LINE_POINTS } else { MAP_POINTS } };
        let shown = run.view.slice.as_ref();
        let stale = shown.is_none_or(|s| s.request != request || s.env_steps != run.view.progress.env_steps);
        let due = self.asked.is_none_or(|asked| asked.elapsed() >= BETWEEN_SLICES);
        if stale && due && run.view.shows() {
            self.asked = Some(Instant::now());
            run.send(RunCommand::Slice(request), actions);
        }
    }

    /// Through an episode, step by step.
    fn along(&mut self, ui: &mut Ui, theme: &Theme, run: &mut OpenRun, actions: &mut Vec<Action>) {
        ui.label("Every member, their mean, and the true reward, each standardised over the episode.");
        let Some((episode, frame)) = self.episodes.next(ui, run, actions) else {
            ui.add_space(24.0);
            ui.label("The episode appears after this iteration");
            return;
        };
        let truth = if run.view.config.preferences.wanted.is_none() {
            standardized(&episode.clip.true_rewards)
        } else {
            Vec::new()
        };
        if !truth.is_empty()
            && let Some(correlation) = pearson(&episode.reward, &episode.clip.true_rewards)
        {
            ui.label(format!("Correlation with the true reward in this episode: {correlation:.2}"))
                .on_hover_text("Pearson's, over its steps; 1 is perfect");
        }
        let rect = ui.allocate_space(vec2(ui.available_width(), (ui.available_height() * 0.4).max(140.0))).1;
        ui.painter().rect_filled(rect, 8.0, theme.card);
        run.canvas.draw(ui.painter(), rect.shrink(12.0), &episode.clip.states, frame, theme, None);
        let dt = run.canvas.spec().dt;
        let points = |values: &[f64]| -> PlotPoints<'static> {
            values.iter().enumerate().map(|(step, value)| [step as f64 * dt, *value]).collect()
        };
        let plot =
            curves::empty(theme, "along", ui.available_height()).legend(curves::legend()).x_axis_label("seconds");
        plot.show(ui, |plot| {
            for member in &episode.clip.predicted {
                let member: Vec<f64> = member.iter().map(|&r| f64::from(r)).collect();
                let faint = theme.curve(0).gamma_multiply(0.4);
                plot.line(Line::new("members", points(&standardized(&member))).color(faint).width(1.0));
            }
            if !episode.reward.is_empty() {
                plot.line(
                    Line::new("learned", points(&standardized(&episode.reward))).color(theme.curve(0)).width(2.0),
                );
            }
            if !truth.is_empty() {
                plot.line(Line::new("true", points(&truth)).color(theme.curve(1)).width(2.0));
            }
            plot.vline(VLine::new("", frame as f64 * dt).color(theme.weak_text).allow_hover(false));
        });
    }

    fn maps(&mut self, ui: &mut Ui, theme: &Theme, slice: &Arc<Slice>, names: [&str; 2]) {
        let dark = ui.visuals().dark_mode;
        let fresh = |painted: &Painted| Arc::ptr_eq(&painted.slice, slice) && painted.dark == dark;
        if !self.painted.as_ref().is_some_and(fresh) {
            let maps = [
                (
                    "Learned reward",
                    "Standardised over the slice: green is high, purple is low",
                    standardized(&slice.reward),
                ),
                (
                    "Spread of the members",
                    "Standard deviation of the normalised members; green is 2",
                    slice.spread.clone(),
                ),
                (
                    "True reward",
                    "The task's own, standardised over the slice; the agent never sees it",
                    standardized(&slice.truth),
                ),
            ];
            let map = |(title, hint, values): (&'static str, &'static str, Vec<f64>)| {
                let n = slice.request.points;
                // Rows go up in the plot and down in the picture.
                let pixels = (0..n).rev().flat_map(|row| &values[row * n..(row + 1) * n]).map(|v| theme.heat(v / 2.0));
                let image = ColorImage::new([n, n], pixels.collect());
                Map { title, hint, texture: ui.ctx().load_texture(title, image, TextureOptions::LINEAR) }
            };
            let maps = maps.into_iter().filter(|(.., values)| !values.is_empty()).map(map).collect();
            self.painted = Some(Painted { slice: Arc::clone(slice), dark, maps });
        }
        let Some(Painted { maps, .. }) = &self.painted else { return };
        let side = ((ui.available_width() - 24.0) / 3.0).min(ui.available_height() - 70.0).max(120.0);
        ui.horizontal_wrapped(|ui| {
            for Map { title, hint, texture } in maps {
                ui.vertical(|ui| {
                    ui.label(RichText::new(*title).strong()).on_hover_text(*hint);
                    let (rect, response) = ui.allocate_exact_size(vec2(side, side), egui::Sense::hover());
                    let whole = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
                    ui.painter().image(texture.id(), rect, whole, egui::Color32::WHITE);
                    labelled(ui, theme, slice, rect);
                    axes(ui, theme, slice, rect, names);
                    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, *title));
                    ui.add_space(2.0 * AXIS_ROW + 6.0);
                });
            }
        });
        ui.weak("Green is high, purple is low. Dots show where the compared clips were");
    }
}

fn line(ui: &mut Ui, theme: &Theme, slice: &Slice, name: &str) {
    let n = slice.request.points;
    let [low, high] = slice.range[0];
    let x = |i: usize| low + (high - low) * i as f64 / (n - 1) as f64;
    let points = |value: &dyn Fn(usize) -> f64| -> PlotPoints<'static> { (0..n).map(|i| [x(i), value(i)]).collect() };
    let standard = standardized(&slice.truth);
    let learned = standardized(&slice.reward);
    let scale = deviation(&slice.reward).1.max(1e-9);
    let plot = curves::empty(theme, "line", ui.available_height()).legend(curves::legend()).x_axis_label(name);
    plot.show(ui, |plot| {
        if !learned.is_empty() {
            plot.line(Line::new("learned", points(&|i| learned[i])).color(theme.curve(0)).width(2.0));
            for sign in [-1.0, 1.0] {
                let bound = points(&|i| learned[i] + sign * slice.spread[i] / scale);
                plot.line(Line::new("± members", bound).color(theme.curve(0).gamma_multiply(0.4)).width(1.0));
            }
        }
        if !standard.is_empty() {
            plot.line(Line::new("true", points(&|i| standard[i])).color(theme.curve(1)).width(2.0));
        }
    });
}

/// Where the answered clips lie.
fn labelled(ui: &Ui, theme: &Theme, slice: &Slice, rect: Rect) {
    let share = |value: f64, [low, high]: [f64; 2]| ((value - low) / (high - low).max(1e-12)) as f32;
    let painter = ui.painter().with_clip_rect(rect);
    for [x, y] in &slice.labelled {
        let (x, y) = (share(*x, slice.range[0]), share(*y, slice.range[1]));
        let at = pos2(rect.left() + x * rect.width(), rect.bottom() - y * rect.height());
        painter.circle_filled(at, 1.0, theme.text.gamma_multiply(0.35));
    }
}

fn axes(ui: &Ui, theme: &Theme, slice: &Slice, rect: Rect, [x, y]: [&str; 2]) {
    let (painter, font) = (ui.painter(), FontId::proportional(11.0));
    let [[x0, x1], [y0, y1]] = slice.range;
    for (row, text) in
        [format!("x: {x}, {x0:.2} to {x1:.2}"), format!("y: {y}, {y0:.2} to {y1:.2}")].into_iter().enumerate()
    {
        let below = rect.left_bottom() + vec2(0.0, 3.0 + AXIS_ROW * row as f32);
        painter.text(below, Align2::LEFT_TOP, text, font.clone(), theme.weak_text);
    }
}

/// Mean 0 and deviation 1; a constant becomes 0.
fn standardized(values: &[f64]) -> Vec<f64> {
    let (mean, std) = deviation(values);
    values.iter().map(|v| (v - mean) / std.max(1e-9)).collect()
}
