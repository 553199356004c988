//! The first screen: what this is, three doors, and the tasks.

use egui::{RichText, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, vec2};
use pairwise_envs::{Action as Move, Space};
use rand::RngExt as _;

use super::canvas::Canvas;
use super::panel::{Action, Context, Entry, Panel, always};
use super::runs;
use super::theme::Theme;
use super::widgets::animate;
use crate::control::config::Config;
use crate::random::stream;

pub(super) const PANEL: Entry = Entry {
    name: "start",
    hint: "Begin something new, or open a run",
    missing: always,
    make: || Box::new(Start::default()),
};

/// What the first screen remembers.
struct Start {
    door: Door,
    wanted: String,
    demos: Vec<Demo>,
}

/// A way to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Watch,
    Teach,
}

/// A task's moving picture.
struct Demo {
    canvas: Canvas,
    states: Vec<f64>,
}

/// Steps of a task's moving picture.
const DEMO_STEPS: usize = 240;

/// Doors, and cards, in a row.
const COLUMNS: usize = 3;

/// Least height of a card's picture, points.
const LEAST_PICTURE: f32 = 110.0;

/// Height of the words below a card's picture, points.
const WORDS: f32 = 64.0;

impl Default for Start {
    fn default() -> Self {
        // Gymnasium's tasks are for baselines on the true reward, and other tastes of a task look like the task.
        let demos = pairwise_envs::tasks();
        Self { door: Door::Watch, wanted: String::new(), demos: demos.filter_map(|spec| demo(spec.id)).collect() }
    }
}

/// What random actions look like, each held for some steps.
fn demo(env: &str) -> Option<Demo> {
    let (canvas, mut env) = (Canvas::new(env)?, pairwise_envs::make(env).ok()?);
    let spec = env.spec();
    let mut rng = stream(0, "demo", 0);
    let (mut observation, mut state) = (vec![0.0; spec.observation.len()], vec![0.0; spec.saved_len]);
    env.reset(&mut rng, &mut observation);
    let (mut states, mut action) = (Vec::new(), vec![0.0; spec.action.len()]);
    for step in 0..DEMO_STEPS {
        env.save(&mut state);
        states.extend_from_slice(&state);
        let held = step % 12 != 0;
        match &spec.action {
            Space::Discrete { n } => {
                action[0] = if held { action[0] } else { rng.random_range(0..*n) as f32 };
                env.step(Move::Discrete(action[0] as usize), &mut observation);
            }
            Space::Box { low, high } => {
                for i in 0..action.len() {
                    let (low, high) = (low[i].max(-1e3), high[i].min(1e3));
                    action[i] = if held { action[i] } else { rng.random_range(low..=high) };
                }
                env.step(Move::Continuous(&action), &mut observation);
            }
        }
    }
    Some(Demo { canvas, states })
}

impl Panel for Start {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, settings, actions, .. } = context;
        egui::CentralPanel::default().show(ui, |ui| {
            let bottom = ui.max_rect().bottom();
            egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
                ui.set_max_width(ui.available_width().min(1600.0));
                let width = (ui.available_width() + ui.spacing().item_spacing.x) / COLUMNS as f32;
                let width = (width - ui.spacing().item_spacing.x).floor();
                ui.add_space(8.0);
                ui.heading("Teach an agent by comparing");
                ui.label(
                    "Two clips of a moving agent, side by side: which is better? From answers like these Pairwise learns \
                     what is wanted, and trains the agent on it.",
                );
                ui.add_space(12.0);
                ui.horizontal(|ui| {
                    let doors = [
                        (Door::Watch, "Watch", "A simulated teacher answers; see an agent learn"),
                        (Door::Teach, "Teach", "You answer: click the better clip, and the agent follows"),
                    ];
                    for (door, name, hint) in doors {
                        if door_button(ui, theme, width, self.door == door, name, hint) {
                            self.door = door;
                        }
                    }
                    if door_button(ui, theme, width, false, "Open a run", "Go on with an earlier run, or look at it") {
                        actions.push(Action::Show(runs::PANEL.name));
                    }
                });
                ui.add_space(12.0);
                if self.door == Door::Teach {
                    self.teaching(ui, &mut settings.labels);
                }
                self.cards(ui, theme, vec2(width, bottom - ui.cursor().top()), settings.labels, actions);
                animate(ui);
            });
        });
    }
}

impl Start {
    fn teaching(&mut self, ui: &mut Ui, labels: &mut usize) {
        let name = ui.label("What do you want to see? Leave it empty for the task's own goal");
        ui.add(
            egui::TextEdit::singleline(&mut self.wanted)
                .hint_text("Keep the pole up, move little")
                .desired_width(420.0),
        )
        .labelled_by(name.id);
        ui.horizontal(|ui| {
            let name = ui.label("Questions");
            ui.add(egui::DragValue::new(labels).range(10..=2000).suffix(" questions"))
                .on_hover_text("How often you will be asked; a person takes about four seconds for an answer")
                .labelled_by(name.id);
            ui.weak(format!("about {} minutes", (*labels * 4).div_ceil(60)));
        });
        ui.add_space(8.0);
    }

    /// `room`: width of a card, and height for all.
    fn cards(&mut self, ui: &mut Ui, theme: &Theme, room: egui::Vec2, labels: usize, actions: &mut Vec<Action>) {
        let time = ui.input(|input| input.time);
        // All cards on one screen, where it is large enough.
        let rows = self.demos.len().div_ceil(COLUMNS).max(1) as f32;
        let row = room.y / rows - WORDS - ui.spacing().item_spacing.y;
        let size = vec2(room.x, row.min(room.x * 0.5).max(LEAST_PICTURE).floor());
        let mut chosen = None;
        ui.horizontal_wrapped(|ui| {
            for demo in &mut self.demos {
                let spec = demo.canvas.spec();
                let (rect, response) = ui.allocate_exact_size(size + vec2(0.0, WORDS), Sense::click());
                let verb = if self.door == Door::Teach { "Teach" } else { "Watch" };
                response.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("{verb} {}", spec.id)));
                let lit = response.hovered() || response.has_focus();
                let stroke = Stroke::new(1.0, if lit { theme.accent } else { theme.outline });
                ui.painter().rect(rect, 8.0, theme.card, stroke, StrokeKind::Inside);
                let picture = egui::Rect::from_min_size(rect.min, size).shrink(8.0);
                let frame = (time / spec.dt) as usize % DEMO_STEPS;
                demo.canvas.draw(ui.painter(), picture, &demo.states, frame, theme, None);
                let below = egui::Rect::from_min_max(egui::pos2(rect.min.x, picture.max.y), rect.max);
                let mut inner = ui.new_child(column(below.shrink2(vec2(12.0, 4.0))));
                inner.add(egui::Label::new(RichText::new(spec.id).strong()).selectable(false));
                inner.add(egui::Label::new(RichText::new(spec.summary).small().weak()).selectable(false));
                if response.on_hover_text(format!("{verb} an agent learn this")).clicked() {
                    chosen = Some(spec.id);
                }
            }
        });
        let Some(env) = chosen else { return };
        let wanted = Some(self.wanted.trim().to_owned()).filter(|wanted| !wanted.is_empty());
        let config = match self.door {
            Door::Teach => Config::taught(env, labels, wanted),
            _ => Config::preset(env),
        };
        actions.push(match config {
            Ok(config) => Action::Run(Box::new(config)),
            Err(error) => Action::Tell(error.to_string()),
        });
    }
}

/// A way to begin, with what it means; whether it was clicked.
fn door_button(ui: &mut Ui, theme: &Theme, width: f32, chosen: bool, name: &str, hint: &str) -> bool {
    let (rect, response) = ui.allocate_exact_size(vec2(width, 76.0), Sense::click());
    response.widget_info(|| WidgetInfo::selected(Role::Button, true, chosen, name));
    let stroke = match chosen || response.hovered() || response.has_focus() {
        true => Stroke::new(if chosen { 2.0 } else { 1.0 }, theme.accent),
        false => Stroke::new(1.0, theme.outline),
    };
    ui.painter().rect(rect, 8.0, theme.card, stroke, StrokeKind::Inside);
    let mut inner = ui.new_child(column(rect.shrink(12.0)));
    inner.add(egui::Label::new(RichText::new(name).strong().size(16.0)).selectable(false));
    inner.add(egui::Label::new(RichText::new(hint).weak()).selectable(false));
    response.clicked()
}

/// Widgets one below the other in `rect`.
fn column(rect: egui::Rect) -> egui::UiBuilder {
    egui::UiBuilder::new().max_rect(rect).layout(egui::Layout::top_down(egui::Align::Min))
}
