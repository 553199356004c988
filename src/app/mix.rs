//! Weigh objectives by hand: a slider, and at once what the mix does; beside it the front of all methods.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use egui::{
    Button, ComboBox, Label as Text, Panel as Side, Pos2, RichText, ScrollArea, Sense, Slider, Stroke, TextEdit, Ui,
};
use egui_plot::{Line, LineStyle, PlotPoint, PlotPoints, Points};

use super::curves;
use super::stage::{Player, Stage};
use super::theme::Theme;
use super::{Action, Message, animate, waker};
use crate::engine::free_folder;
use crate::engine::mix::{Doing, Front, Kind, MixEngine, Phase, Pick, Shown, View, Wish, fronts};
use crate::pareto::front as non_dominated;

/// What the panel remembers.
#[derive(Default)]
pub(super) struct Mix {
    fronts: Vec<PathBuf>,
    read: Option<Instant>,
    open: Option<Open>,
}

/// A front that is open.
struct Open {
    engine: MixEngine,
    view: View,
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
    stage: Option<Stage>,
    player: Player,
    /// What plays.
    playing: Option<Arc<Shown>>,
    /// Messages of the engine that were shown.
    told: usize,
    /// Whether anything was wished for yet.
    begun: bool,
}

/// What the panel asks for.
pub(super) enum Request {
    /// A front.
    Open(PathBuf),
    /// Something to be shown.
    Wish(Wish),
    /// The present mix as a model, in this place.
    Save(Pick, PathBuf),
}

/// Time between two looks at the folder of runs.
const BETWEEN_READS: Duration = Duration::from_secs(3);

/// Pixels from a point of the plot within which a click is meant for it.
const NEAR: f32 = 12.0;

/// What language models complete at first: a beginning that says nothing of what is to come.
const BEGINNING: &str = "We bought";

impl Mix {
    /// Shows the panel. `runs` is the folder of all runs.
    pub(super) fn show(&mut self, ui: &mut Ui, theme: &Theme, runs: &Path, actions: &mut Vec<Action>) {
        if self.read.is_none_or(|read| read.elapsed() > BETWEEN_READS) {
            self.fronts = fronts(runs);
            self.read = Some(Instant::now());
        }
        ui.ctx().request_repaint_after(BETWEEN_READS);
        let mut requests = Vec::new();
        if self.open.is_none()
            && let Some(newest) = self.fronts.first()
        {
            requests.push(Request::Open(newest.clone()));
        }
        if let Some(open) = &mut self.open {
            open.settle(&mut requests);
            if let Some(front) = open.view.front.clone() {
                let frame = egui::Frame::new().fill(theme.panel).inner_margin(12);
                Side::right("front").default_size(430.0).min_size(320.0).frame(frame).show(ui, |ui| {
                    open.plot(ui, theme, &front, &mut requests);
                });
            }
        }
        egui::CentralPanel::default().show(ui, |ui| self.middle(ui, theme, runs, &mut requests));
        actions.extend(requests.into_iter().map(Action::Mix));
    }

    fn middle(&mut self, ui: &mut Ui, theme: &Theme, runs: &Path, requests: &mut Vec<Request>) {
        let weak = |ui: &mut Ui, text: &str| {
            ui.add(Text::new(RichText::new(text).color(theme.weak_text)).wrap());
        };
        ui.horizontal_wrapped(|ui| {
            ui.heading("Mix");
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let shown = self.open.as_ref().map(|open| open.engine.path.clone());
            if !self.fronts.is_empty() {
                let label = ui.label("of").id;
                ComboBox::from_id_salt("which-front")
                    .selected_text(shown.as_deref().map_or_else(String::new, name))
                    .show_ui(ui, |ui| {
                        for path in &self.fronts {
                            let selected = shown.as_ref() == Some(path);
                            if ui.selectable_label(selected, name(path)).clicked() && !selected {
                                requests.push(Request::Open(path.clone()));
                            }
                        }
                    })
                    .response
                    .labelled_by(label)
                    .on_hover_text("Which front, by the name of its folder");
            }
            if let Some(open) = &mut self.open
                && let Some(front) = open.view.front.clone()
            {
                open.choices(ui, &front, requests);
            }
        });
        let Some(open) = &mut self.open else {
            weak(
                ui,
                "There is no front here yet. `pairwise front reacher` fine-tunes policies for precision and for little effort; \
                 `pairwise lm front` trains language models for two objectives. Both take minutes to an hour, and what they \
                 made can be mixed here",
            );
            return;
        };
        match &open.view.phase {
            Phase::Opening => {
                ui.label("reading the front");
                return;
            }
            Phase::Failed(reason) => {
                ui.colored_label(theme.error, reason);
                return;
            }
            Phase::Ready => {}
        }
        let Some(front) = open.view.front.clone() else { return };
        if front.soups.is_empty() {
            weak(ui, "This front has no soups, so that nothing can be mixed; click its points to see what they do");
        }
        ui.add_space(6.0);
        match &front.kind {
            Kind::Control { .. } => open.acts(ui, theme, below(&front), requests),
            Kind::Language { .. } => open.writes(ui, theme, below(&front), requests),
        }
        ui.add_space(8.0);
        open.weights(ui, theme, &front, requests);
        ui.add_space(8.0);
        ui.horizontal_wrapped(|ui| {
            let hint = "Write this mix into the folder of runs: a model for `pairwise lm sample`, or a policy";
            let able = open.point.is_some() || !front.soups.is_empty();
            if ui.add_enabled(able, Button::new("Save this mix")).on_hover_text(hint).clicked() {
                let path = match front.kind {
                    Kind::Language { .. } => free_folder(runs, "mix"),
                    Kind::Control { .. } => free_folder(runs, "mix.safetensors"),
                };
                requests.push(Request::Save(open.pick(), path));
            }
            if let Some(path) = &open.view.saved {
                ui.weak(format!("saved to {}", path.display()));
            }
        });
        if let Some([median, last]) = open.view.latency() {
            let text = format!("answers in {median:.0} ms, 99 % within {last:.0} ms");
            ui.label(RichText::new(text).small().color(theme.weak_text)).on_hover_text(
                "From the movement of the slider to the first state or token of the new mix, over the last thousand movements \
                 that were not overtaken by another",
            );
        }
    }

    /// Carries a request out.
    pub(super) fn act(&mut self, ctx: &egui::Context, request: Request) -> Result<(), String> {
        match (request, &mut self.open) {
            (Request::Open(path), _) => self.open = Some(Open::new(MixEngine::open(&path, waker(ctx)))),
            (Request::Wish(wish), Some(open)) => open.engine.wish(wish),
            (Request::Save(pick, path), Some(open)) => {
                open.engine.save(pick, path).map_err(|_| "the last mix is still being saved".to_owned())?;
            }
            (Request::Wish(_) | Request::Save(..), None) => {}
        }
        Ok(())
    }

    /// Something to tell, if there is.
    pub(super) fn news(&mut self) -> Option<Message> {
        let open = self.open.as_mut()?;
        open.view = open.engine.view();
        let (count, reason) = open.view.message.clone()?;
        (count > open.told).then(|| {
            open.told = count;
            Message::Failed(reason)
        })
    }

    /// Milliseconds from a slider's movement to what it shows: median and 99th percentile, and of how many.
    pub(super) fn latency(&self) -> Option<([f64; 2], usize)> {
        let open = self.open.as_ref()?;
        Some((open.view.latency()?, open.view.latencies.len()))
    }
}

impl Open {
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
            stage: None,
            player: Player::default(),
            playing: None,
            told: 0,
            begun: false,
        }
    }

    /// Makes what is shown fit the front, once that is read.
    fn settle(&mut self, requests: &mut Vec<Request>) {
        let Some(front) = self.view.front.clone() else { return };
        if !self.begun {
            self.begun = true;
            self.seed = front.seeds.first().copied().unwrap_or_default();
            let objectives = front.objectives.len();
            self.weights = vec![1.0 / objectives as f64; objectives];
            if let Kind::Control { env } = &front.kind {
                self.stage = Stage::new(env);
            }
            self.soup = front.soups.iter().position(|soup| soup.seed == self.seed).unwrap_or_default();
            if front.soups.is_empty() {
                self.point = front.points.iter().position(|point| point.shown);
            }
            if !front.soups.is_empty() || self.point.is_some() {
                requests.push(Request::Wish(self.wish(None)));
            }
        }
        // What a slider asked for has come.
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

    fn wish(&self, from: Option<Vec<f64>>) -> Wish {
        Wish { pick: self.pick(), text: self.text.clone(), draw: self.draw, from, asked: Instant::now() }
    }

    /// The state that is shown at the moment, so that another policy goes on from it.
    fn state(&self) -> Option<Vec<f64>> {
        let (stage, playing) = (self.stage.as_ref()?, self.playing.as_ref()?);
        let Doing::Acts { states } = &playing.doing else { return None };
        let (saved, frames) = (stage.spec().saved_len, stage.frames(states));
        let frame = self.player.frame(frames);
        Some(states.get(frame * saved..(frame + 1) * saved)?.to_vec())
    }

    /// Seed, and which policies are mixed.
    fn choices(&mut self, ui: &mut Ui, front: &Front, requests: &mut Vec<Request>) {
        let mut changed = false;
        if front.seeds.len() > 1 {
            let label = ui.label("seed").id;
            ComboBox::from_id_salt("which-seed")
                .selected_text(self.seed.to_string())
                .show_ui(ui, |ui| {
                    for seed in &front.seeds {
                        changed |= ui.selectable_value(&mut self.seed, *seed, seed.to_string()).changed();
                    }
                })
                .response
                .labelled_by(label)
                .on_hover_text("Each seed has a beginning and policies of its own");
        }
        let own: Vec<usize> = (0..front.soups.len()).filter(|&i| front.soups[i].seed == self.seed).collect();
        if !own.contains(&self.soup)
            && let Some(first) = own.first()
        {
            self.soup = *first;
            changed = true;
        }
        if own.len() > 1 {
            let name = |soup: usize| front.soups.get(soup).map_or("", |soup| soup.name.as_str());
            let label = ui.label("by").id;
            ComboBox::from_id_salt("which-soup")
                .selected_text(name(self.soup))
                .show_ui(ui, |ui| {
                    for soup in own {
                        changed |= ui.selectable_value(&mut self.soup, soup, name(soup)).changed();
                    }
                })
                .response
                .labelled_by(label)
                .on_hover_text("Which single-objective policies are mixed");
        }
        if changed {
            self.point = None;
            requests.push(Request::Wish(self.wish(None)));
        }
    }

    /// The policy in its task.
    fn acts(&mut self, ui: &mut Ui, theme: &Theme, below: f32, requests: &mut Vec<Request>) {
        let height = (ui.available_height() - below).max(160.0);
        let (response, painter) = ui.allocate_painter(egui::vec2(ui.available_width(), height), Sense::hover());
        painter.rect_filled(response.rect, 8.0, theme.card);
        let again = {
            let (Some(stage), Some(playing)) = (&mut self.stage, &self.playing) else { return };
            let Doing::Acts { states } = &playing.doing else { return };
            let (frames, dt) = (stage.frames(states), stage.spec().dt);
            let seconds = f64::from(ui.input(|input| input.stable_dt)).min(0.1);
            self.player.position += seconds * self.player.speed / dt;
            stage.draw(&painter, response.rect, states, self.player.frame(frames), theme, None);
            let over = self.player.position >= frames as f64;
            if over {
                // The last state stays until the next episode has come.
                self.player.position = frames.saturating_sub(1) as f64;
            }
            over
        };
        if again {
            self.draw += 1;
            requests.push(Request::Wish(self.wish(None)));
        }
        animate(ui);
    }

    /// The model, completing a text.
    fn writes(&mut self, ui: &mut Ui, theme: &Theme, below: f32, requests: &mut Vec<Request>) {
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
            requests.push(Request::Wish(self.wish(None)));
        }
        ui.add_space(6.0);
        // Less the frame's own margins.
        let height = (ui.available_height() - below - 28.0).max(120.0);
        egui::Frame::new().fill(theme.card).inner_margin(14).corner_radius(8).show(ui, |ui| {
            ScrollArea::vertical().id_salt("completion").auto_shrink(false).max_height(height).show(ui, |ui| {
                ui.set_min_height(height);
                let Some(Doing::Writes { text, completion, done }) = self.playing.as_ref().map(|shown| &shown.doing)
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
    fn weights(&mut self, ui: &mut Ui, theme: &Theme, front: &Front, requests: &mut Vec<Request>) {
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
                        .on_hover_text("What counts how much: the weights of the policies that are mixed")
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
            requests.push(Request::Wish(self.wish(from)));
        }
        if let Some(point) = self.point.and_then(|point| front.points.get(point)) {
            ui.horizontal(|ui| {
                let weights: Vec<String> = point.weights.iter().map(|weight| format!("{weight:.2}")).collect();
                ui.label(format!("shown is {} at {}", point.method, weights.join(" / ")));
                if ui.button("Back to the mix").clicked() {
                    self.point = None;
                    requests.push(Request::Wish(self.wish(self.state())));
                }
            });
        }
    }

    /// All points of a seed, each of which can be clicked, and for every method what no other of its own dominates.
    fn plot(&mut self, ui: &mut Ui, theme: &Theme, front: &Front, requests: &mut Vec<Request>) {
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new("Front").strong());
            if front.objectives.len() > 2 {
                for (side, axis) in self.axes.iter_mut().enumerate() {
                    ComboBox::from_id_salt(("axis", side))
                        .selected_text(front.objectives.get(*axis).map_or("", String::as_str))
                        .show_ui(ui, |ui| {
                            for (i, objective) in front.objectives.iter().enumerate() {
                                ui.selectable_value(axis, i, objective);
                            }
                        });
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
            self.choose(front, point, requests);
        }
    }

    /// Shows what a point does; a mix that was measured moves the slider.
    fn choose(&mut self, front: &Front, point: usize, requests: &mut Vec<Request>) {
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
        requests.push(Request::Wish(self.wish(self.state())));
    }
}

/// Room for the weights of a front, what is said of them, and the buttons, points.
fn below(front: &Front) -> f32 {
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
