//! Weigh objectives by hand: a slider, and at once what the mix does; beside it the front of all methods.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use egui::{Button, Label as Text, Pos2, RichText, ScrollArea, Sense, Slider, Stroke, TextEdit, Ui};
use egui_plot::{Line, LineStyle, PlotPoint, PlotPoints, Points};

use super::background::{Repeated, waker};
use super::canvas::{Canvas, Player};
use super::curves;
use super::narrate::Narration;
use super::panel::{Action, Context, Entry, Panel, always};
use super::theme::Theme;
use super::widgets::{animate, aside, choice};
use crate::engine::free_folder;
use crate::engine::mix::{
    Fulfilled, MixCommand, MixEngine, MixFront, MixKind, MixPhase, MixView, Performance, Pick, Wish, fronts,
};
use crate::pareto::front as non_dominated;

pub(super) const PANEL: Entry = Entry {
    name: "mix",
    hint: "Weigh objectives by hand, and see at once what the mix does",
    missing: always,
    make: || Box::new(Mix::default()),
};

/// What the panel remembers.
#[derive(Default)]
struct Mix {
    fronts: Vec<PathBuf>,
    reading: Repeated<Vec<PathBuf>>,
    open: Option<OpenFront>,
}

struct OpenFront {
    engine: MixEngine,
    view: MixView,
    /// Which of the front's seeds is shown.
    seed: u64,
    /// Which soup is mixed.
    soup: usize,
    weights: Vec<f64>,
    /// The point that is shown instead of a mix.
    point: Option<usize>,
    /// Which two objectives the plot shows.
    axes: [usize; 2],
    text: String,
    draw: u64,
    canvas: Option<Canvas>,
    player: Player,
    /// What plays.
    playing: Option<Arc<Fulfilled>>,
    /// Messages of the engine that were shown.
    told: usize,
    /// Whether anything was wished for yet.
    begun: bool,
}

/// Pixels from a point of the plot within which a click is meant for it.
const NEAR: f32 = 12.0;

/// The first text to complete: it does not say what the review will be like.
const BEGINNING: &str = "We bought";

impl Panel for Mix {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, runs, actions, .. } = context;
        let found = self.reading.news(ui.ctx(), || {
            let runs = runs.to_owned();
            move || fronts(&runs)
        });
        self.fronts = found.unwrap_or(std::mem::take(&mut self.fronts));
        if let Some(open) = &mut self.open {
            open.settle();
            if let Some(front) = open.view.front.clone() {
                aside(ui, theme, "front", [430.0, 320.0], |ui| open.plot(ui, theme, &front));
            }
        }
        let mut wanted = None;
        egui::CentralPanel::default().show(ui, |ui| wanted = self.middle(ui, theme, runs, actions));
        if let Some(path) = wanted.or_else(|| self.fronts.first().filter(|_| self.open.is_none()).cloned()) {
            self.open = Some(OpenFront::new(MixEngine::open(&path, waker(ui.ctx()))));
        }
    }

    fn news(&mut self) -> Option<String> {
        let open = self.open.as_mut()?;
        open.view = open.engine.view();
        open.view.messages.news(&mut open.told)
    }

    fn end(&mut self) -> Option<Narration> {
        let view = self.open.take()?.view;
        Some(Narration::Mixed { milliseconds: view.latency()?, count: view.latencies.len() })
    }
}

impl Mix {
    /// Draws what is shown, and the weights. Returns the front that is wanted instead, if any.
    fn middle(&mut self, ui: &mut Ui, theme: &Theme, runs: &Path, actions: &mut Vec<Action>) -> Option<PathBuf> {
        let mut wanted = None;
        let weak = |ui: &mut Ui, text: &str| {
            ui.add(Text::new(RichText::new(text).color(theme.weak_text)).wrap());
        };
        ui.horizontal_wrapped(|ui| {
            ui.heading("Mix");
            if !self.fronts.is_empty() {
                let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let names: Vec<String> = self.fronts.iter().map(name).collect();
                let shown = |path: &PathBuf| self.open.as_ref().is_some_and(|open| open.view.folder == *path);
                let mut chosen = self.fronts.iter().position(shown).unwrap_or(usize::MAX);
                if choice(ui, "of", "Which front, by the name of its folder", &names, &mut chosen) {
                    wanted = Some(self.fronts[chosen].clone());
                }
            }
            if let Some(open) = &mut self.open
                && let Some(front) = open.view.front.clone()
            {
                open.choices(ui, &front);
            }
        });
        let Some(open) = &mut self.open else {
            if !self.reading.looked() {
                weak(ui, "Reading the folder of runs");
                return wanted;
            }
            weak(
                ui,
                "There is no front here yet. `pairwise front reacher` fine-tunes policies for precision and for little effort; \
                 `pairwise lm front` trains language models for two objectives. Each takes minutes to an hour, and makes policies \
                 that can be mixed here",
            );
            return wanted;
        };
        match &open.view.phase {
            MixPhase::Opening => {
                ui.label("Reading the front");
                return wanted;
            }
            MixPhase::Failed(reason) => {
                ui.colored_label(theme.error, reason);
                return wanted;
            }
            MixPhase::Ready => {}
        }
        let Some(front) = open.view.front.clone() else { return wanted };
        if front.soups.is_empty() {
            weak(ui, "This front has no soups, so nothing can be mixed. Click a point to see what it does");
        }
        ui.add_space(6.0);
        match &front.kind {
            MixKind::Control { .. } => open.acts(ui, theme, below(&front)),
            MixKind::Language { .. } => open.writes(ui, theme, below(&front)),
        }
        ui.add_space(8.0);
        open.weights(ui, theme, &front);
        ui.add_space(8.0);
        ui.horizontal_wrapped(|ui| {
            let hint = "Write this mix into the folder of runs: a model for `pairwise lm sample`, or a policy";
            let able = open.point.is_some() || !front.soups.is_empty();
            if ui.add_enabled(able, Button::new("Save this mix")).on_hover_text(hint).clicked() {
                let path = match front.kind {
                    MixKind::Language { .. } => free_folder(runs, "mix"),
                    MixKind::Control { .. } => free_folder(runs, "mix.safetensors"),
                };
                let refused = open.engine.send(MixCommand::Save(open.pick(), path)).err();
                actions.extend(refused.map(|refused| Action::Tell(refused.to_string())));
            }
            if let Some(path) = &open.view.saved {
                ui.weak(format!("saved to {}", path.display()));
            }
        });
        if let Some([median, last]) = open.view.latency() {
            let text = format!("answers in {median:.0} ms, 99 % within {last:.0} ms");
            ui.label(RichText::new(text).small().color(theme.weak_text)).on_hover_text(
                "From the movement of the slider to the first state or token of the new mix, over the last thousand movements \
                 that were not replaced by a newer one",
            );
        }
        wanted
    }
}

impl OpenFront {
    fn new(engine: MixEngine) -> Self {
        Self {
            view: engine.view(),
            engine,
            seed: 0,
            soup: 0,
            weights: Vec::new(),
            point: None,
            axes: [0, 1],
            text: BEGINNING.to_owned(),
            draw: 0,
            canvas: None,
            player: Player::default(),
            playing: None,
            told: 0,
            begun: false,
        }
    }

    /// Fits what is shown to the front, once that is read.
    fn settle(&mut self) {
        let Some(front) = self.view.front.clone() else { return };
        if !self.begun {
            self.begun = true;
            self.seed = front.seeds.first().copied().unwrap_or_default();
            let objectives = front.objectives.len();
            self.weights = vec![1.0 / objectives as f64; objectives];
            if let MixKind::Control { env } = &front.kind {
                self.canvas = Canvas::new(env);
            }
            self.soup = front.soups.iter().position(|soup| soup.seed == self.seed).unwrap_or_default();
            if front.soups.is_empty() {
                self.point = front.points.iter().position(|point| point.shown);
            }
            if !front.soups.is_empty() || self.point.is_some() {
                self.show(None);
            }
        }
        // Something new has come that was asked for.
        if let Some(shown) = &self.view.shown
            && !self.playing.as_ref().is_some_and(|playing| Arc::ptr_eq(playing, shown))
        {
            self.playing = Some(Arc::clone(shown));
            self.player.position = 0.0;
        }
    }

    fn pick(&self) -> Pick {
        match self.point {
            Some(point) => Pick::Point(point),
            None => Pick::Mix(self.soup, self.weights.clone()),
        }
    }

    /// Asks for what is chosen, from a state on.
    fn show(&self, from: Option<Vec<f64>>) {
        let (pick, text, asked) = (self.pick(), self.text.clone(), Instant::now());
        // It is refused only while hundreds of others wait, of which the newest counts.
        self.engine.send(MixCommand::Show(Wish { pick, text, draw: self.draw, from, asked })).ok();
    }

    /// The state that is shown at the moment, for another policy to go on from.
    fn state(&self) -> Option<Vec<f64>> {
        let (canvas, playing) = (self.canvas.as_ref()?, self.playing.as_ref()?);
        let Performance::Acts { states } = &playing.performance else { return None };
        let (saved, frames) = (canvas.spec().saved_len, canvas.frames(states));
        let frame = self.player.frame(frames);
        Some(states.get(frame * saved..(frame + 1) * saved)?.to_vec())
    }

    /// Seed, and which policies are mixed.
    fn choices(&mut self, ui: &mut Ui, front: &MixFront) {
        let mut changed = false;
        if front.seeds.len() > 1 {
            let names: Vec<String> = front.seeds.iter().map(u64::to_string).collect();
            let mut chosen = front.seeds.iter().position(|seed| *seed == self.seed).unwrap_or_default();
            changed = choice(ui, "seed", "Each seed has its own start and its own policies", &names, &mut chosen);
            self.seed = front.seeds[chosen];
        }
        let own: Vec<usize> = (0..front.soups.len()).filter(|&i| front.soups[i].seed == self.seed).collect();
        if !own.contains(&self.soup)
            && let Some(first) = own.first()
        {
            self.soup = *first;
            changed = true;
        }
        if own.len() > 1 {
            let names: Vec<&str> = own.iter().map(|&soup| front.soups[soup].name.as_str()).collect();
            let mut chosen = own.iter().position(|&soup| soup == self.soup).unwrap_or_default();
            changed |= choice(ui, "by", "Which single-objective policies are mixed", &names, &mut chosen);
            self.soup = own[chosen];
        }
        if changed {
            self.point = None;
            self.show(None);
        }
    }

    /// The policy in its task.
    fn acts(&mut self, ui: &mut Ui, theme: &Theme, below: f32) {
        let height = (ui.available_height() - below).max(160.0);
        let (response, painter) = ui.allocate_painter(egui::vec2(ui.available_width(), height), Sense::hover());
        painter.rect_filled(response.rect, 8.0, theme.card);
        let again = {
            let (Some(canvas), Some(playing)) = (&mut self.canvas, &self.playing) else { return };
            let Performance::Acts { states } = &playing.performance else { return };
            let (frames, dt) = (canvas.frames(states), canvas.spec().dt);
            let seconds = f64::from(ui.input(|input| input.stable_dt)).min(0.1);
            self.player.position += seconds * self.player.speed / dt;
            canvas.draw(&painter, response.rect, states, self.player.frame(frames), theme, None);
            let over = self.player.position >= frames as f64;
            if over {
                // The last state stays until the next episode has come.
                self.player.position = frames.saturating_sub(1) as f64;
            }
            over
        };
        if again {
            self.draw += 1;
            self.show(None);
        }
        animate(ui);
    }

    /// The model, completing a text.
    fn writes(&mut self, ui: &mut Ui, theme: &Theme, below: f32) {
        let mut changed = false;
        ui.horizontal(|ui| {
            let label = ui.label("Text to complete").id;
            let edit = TextEdit::singleline(&mut self.text).desired_width((ui.available_width() - 130.0).max(120.0));
            changed |= ui.add(edit).labelled_by(label).changed();
            if ui.button("Draw again").on_hover_text("Complete it with other random draws").clicked() {
                self.draw += 1;
                changed = true;
            }
        });
        if changed && !self.text.trim().is_empty() {
            self.show(None);
        }
        ui.add_space(6.0);
        // Without the margins of the frame.
        let height = (ui.available_height() - below - 28.0).max(120.0);
        egui::Frame::new().fill(theme.card).inner_margin(14).corner_radius(8).show(ui, |ui| {
            ScrollArea::vertical().id_salt("completion").auto_shrink(false).max_height(height).show(ui, |ui| {
                ui.set_min_height(height);
                let Some(Performance::Writes { text, completion, done }) =
                    self.playing.as_ref().map(|shown| &shown.performance)
                else {
                    return;
                };
                ui.horizontal_wrapped(|ui| {
                    ui.spacing_mut().item_spacing.x = 0.0;
                    ui.label(RichText::new(text).size(17.0).color(theme.weak_text));
                    let cursor = if *done { "" } else { "…" };
                    ui.label(RichText::new(format!("{completion}{cursor}")).size(17.0));
                });
            });
        });
    }

    /// The slider between two objectives, the triangle between three, sliders for more.
    fn weights(&mut self, ui: &mut Ui, theme: &Theme, front: &MixFront) {
        if front.soups.is_empty() {
            return;
        }
        let mut changed = false;
        match front.objectives.as_slice() {
            [first, second] => {
                ui.horizontal(|ui| {
                    ui.spacing_mut().slider_width = (ui.available_width() - 330.0).max(120.0);
                    let name = ui.label(second.as_str());
                    let slider = Slider::new(&mut self.weights[0], 0.0..=1.0).show_value(false);
                    let response = ui.add(slider).labelled_by(name.id);
                    changed |= response
                        .on_hover_text("How much each objective counts: the weights of the policies that are mixed")
                        .changed();
                    ui.label(first.as_str());
                    let first = (100.0 * self.weights[0]).round();
                    ui.strong(format!("{:.0} : {first:.0}", 100.0 - first));
                });
                self.weights[1] = 1.0 - self.weights[0];
            }
            [_, _, _] => changed |= triangle(ui, theme, &front.objectives, &mut self.weights),
            names => {
                for (name, weight) in names.iter().zip(&mut self.weights) {
                    ui.horizontal(|ui| {
                        let label = ui.label(name.as_str());
                        let slider = Slider::new(weight, 0.0..=1.0).fixed_decimals(2);
                        changed |= ui.add(slider).labelled_by(label.id).changed();
                    });
                }
                let sum: f64 = self.weights.iter().sum();
                match sum > 0.0 {
                    true => self.weights.iter_mut().for_each(|weight| *weight /= sum),
                    false => self.weights.fill(1.0 / names.len() as f64),
                }
            }
        }
        if changed {
            self.point = None;
            let from = self.state();
            self.show(from);
        }
        if let Some(point) = self.point.and_then(|point| front.points.get(point)) {
            ui.horizontal(|ui| {
                let weights: Vec<String> = point.weights.iter().map(|weight| format!("{weight:.2}")).collect();
                ui.label(format!("Shown: {} at {}", point.method, weights.join(" / ")));
                if ui.button("Back to the mix").clicked() {
                    self.point = None;
                    self.show(self.state());
                }
            });
        }
    }

    /// All points of a seed, each of which can be clicked. A line joins the points of a method that no other of its points
    /// dominates.
    fn plot(&mut self, ui: &mut Ui, theme: &Theme, front: &MixFront) {
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new("Front").strong());
            if front.objectives.len() > 2 {
                for (axis, label) in self.axes.iter_mut().zip(["x", "y"]) {
                    choice(ui, label, "Objective along this axis", &front.objectives, axis);
                }
            }
        });
        ui.label(RichText::new(front.unit).small().color(theme.weak_text));
        let [x, y] = self.axes;
        let mut methods: Vec<&str> = front.points.iter().map(|point| point.method.as_str()).collect();
        methods.sort_unstable();
        methods.dedup();
        let of_seed = |method: &str| -> Vec<(usize, [f64; 2])> {
            let own = front.points.iter().enumerate();
            let own = own.filter(|(_, point)| point.seed == self.seed && point.method == method);
            own.filter_map(|(i, point)| Some((i, [*point.rewards.get(x)?, *point.rewards.get(y)?]))).collect()
        };
        let chosen = self.point.and_then(|point| front.points.get(point));
        let chosen = chosen.and_then(|point| Some([*point.rewards.get(x)?, *point.rewards.get(y)?]));
        // The measured mix that is nearest to the slider.
        let soup = front.soups.get(self.soup).map(|soup| soup.name.as_str());
        let nearest = soup.filter(|_| self.point.is_none()).and_then(|name| {
            let own = front.points.iter().filter(|point| point.seed == self.seed && point.method == name);
            let apart =
                |weights: &[f64]| -> f64 { weights.iter().zip(&self.weights).map(|(a, b)| (a - b) * (a - b)).sum() };
            own.min_by(|a, b| apart(&a.weights).total_cmp(&apart(&b.weights)))
        });
        let nearest = nearest.and_then(|point| Some([*point.rewards.get(x)?, *point.rewards.get(y)?]));
        let height = (ui.available_height() - 40.0).clamp(200.0, 520.0);
        let name = |axis: usize| front.objectives.get(axis).cloned().unwrap_or_default();
        let plot = curves::empty(theme, "mix-front", height)
            .legend(egui_plot::Legend::default().position(egui_plot::Corner::LeftBottom));
        // The plot is narrower than others.
        let plot = plot.x_grid_spacer(|grid| curves::round_values(grid.bounds, 5.0));
        let plot = plot.x_axis_label(name(x)).y_axis_label(name(y));
        let clicked = plot
            .show(ui, |plot| {
                for (i, method) in methods.iter().enumerate() {
                    let own = of_seed(method);
                    let places: Vec<Vec<f64>> = own.iter().map(|(_, place)| place.to_vec()).collect();
                    let mut line: Vec<[f64; 2]> = non_dominated(&places).into_iter().map(|at| own[at].1).collect();
                    line.sort_by(|a, b| a[0].total_cmp(&b[0]));
                    let color = theme.curve(i);
                    let dots: Vec<[f64; 2]> = own.iter().map(|(_, place)| *place).collect();
                    // There are fewer colours than methods.
                    let style = if i < theme.curves.len() { LineStyle::Solid } else { LineStyle::dashed_loose() };
                    plot.line(Line::new(*method, PlotPoints::from(line)).color(color).width(1.5).style(style));
                    plot.points(Points::new(*method, PlotPoints::from(dots)).color(color).radius(4.0));
                }
                for (place, radius) in [(nearest, 7.0), (chosen, 8.0)] {
                    if let Some(place) = place {
                        let ring = Points::new("", PlotPoints::from(vec![place])).color(theme.accent).radius(radius);
                        plot.points(ring.filled(false));
                    }
                }
                let pointer = plot.response().interact_pointer_pos().filter(|_| plot.response().clicked())?;
                let far = |place: [f64; 2]| -> f32 {
                    plot.screen_from_plot(PlotPoint::new(place[0], place[1])).distance(pointer)
                };
                let all = methods.iter().flat_map(|method| of_seed(method));
                let near = all.map(|(i, place)| (far(place), i)).filter(|(far, _)| *far <= NEAR);
                near.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, i)| i)
            })
            .inner;
        let hint = "Click a point to see what it does";
        ui.label(RichText::new(hint).small().color(theme.weak_text));
        if let Some(point) = clicked {
            self.choose(front, point);
        }
    }

    /// Shows what a point does; a mix that was measured moves the slider.
    fn choose(&mut self, front: &MixFront, point: usize) {
        let Some(found) = front.points.get(point) else { return };
        let soup = front.soups.iter().position(|soup| soup.seed == found.seed && soup.name == found.method);
        match soup {
            Some(soup) => {
                self.soup = soup;
                self.weights.clone_from(&found.weights);
                self.point = None;
            }
            None => self.point = Some(point),
        }
        self.show(self.state());
    }
}

/// Room for the weights of a front with the words and buttons below them, points.
fn below(front: &MixFront) -> f32 {
    let weights = match front.objectives.len() {
        2 => 24.0,
        3 => TRIANGLE + TRIANGLE_NAMES,
        many => 26.0 * many as f32,
    };
    weights + 130.0
}

/// Height of the triangle, and of the names above and below it, points.
const TRIANGLE: f32 = 110.0;
const TRIANGLE_NAMES: f32 = 34.0;

/// A point in a triangle: weights of three objectives. Whether it was moved.
fn triangle(ui: &mut Ui, theme: &Theme, names: &[String], weights: &mut [f64]) -> bool {
    let (response, painter) =
        ui.allocate_painter(egui::vec2(ui.available_width(), TRIANGLE + TRIANGLE_NAMES), Sense::click_and_drag());
    let middle = response.rect.center().x;
    let (top, bottom) = (response.rect.top() + 17.0, response.rect.top() + 17.0 + TRIANGLE);
    let half = TRIANGLE / 3.0_f32.sqrt();
    let corners = [Pos2::new(middle, top), Pos2::new(middle - half, bottom), Pos2::new(middle + half, bottom)];
    painter.add(egui::Shape::convex_polygon(corners.to_vec(), theme.card, Stroke::new(1.0, theme.outline)));
    let mut moved = false;
    if let Some(pointer) = response.interact_pointer_pos() {
        // Barycentric coordinates, with what lies outside brought to the edge.
        let [a, b, c] = corners;
        let area = |p: Pos2, q: Pos2, r: Pos2| f64::from((q.x - p.x) * (r.y - p.y) - (r.x - p.x) * (q.y - p.y));
        let whole = area(a, b, c);
        let mut shares = [area(pointer, b, c) / whole, area(a, pointer, c) / whole, area(a, b, pointer) / whole];
        shares.iter_mut().for_each(|share| *share = share.max(0.0));
        let sum: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        moved = weights.iter().zip(&shares).any(|(old, new)| (old - new).abs() > 1e-6);
        weights.copy_from_slice(&shares);
    }
    let at = corners
        .iter()
        .zip(&*weights)
        .fold(egui::Vec2::ZERO, |sum, (corner, weight)| sum + corner.to_vec2() * *weight as f32);
    painter.circle_filled(at.to_pos2(), 7.0, theme.accent);
    let font = egui::FontId::proportional(13.0);
    let anchors = [egui::Align2::CENTER_BOTTOM, egui::Align2::RIGHT_TOP, egui::Align2::LEFT_TOP];
    for (((corner, anchor), name), weight) in corners.iter().zip(anchors).zip(names).zip(&*weights) {
        painter.text(*corner, anchor, format!("{name} {:.0} %", 100.0 * weight), font.clone(), theme.text);
    }
    moved
}
