//! Be the oracle: two clips, which is better?

use std::sync::Arc;
use std::time::Instant;

use egui::{Key, RichText, Sense, Stroke, Ui, pos2, vec2};

use super::canvas::{Canvas, Player};
use super::compare::{Compare, Do, expected, in_words, keys, least_seconds, pressed};
use super::narrate::Narration;
use super::panel::{Action, Context, Entry, OpenRun, Panel, needs_a_run};
use super::theme::Theme;
use super::watch;
use super::widgets::{animate, aside, facts, toggle};
use crate::control::config::Rater;
use crate::engine::run::RunCommand;
use crate::engine::snapshot::{Clip, ClipPair, RunPhase, RunView};
use crate::preference::Label;

pub(super) const PANEL: Entry = Entry {
    name: "teach",
    hint: "Say which of two clips is better",
    missing: |run| {
        let simulated = run.is_some_and(|run| run.view.config.preferences.rater == Rater::Simulated);
        needs_a_run(run).or_else(|| simulated.then_some("A simulated teacher answers in this run"))
    },
    make: || Box::new(Teach::default()),
};

/// What the panel remembers of a run.
#[derive(Default)]
struct Teach {
    compare: Compare,
    player: Player,
    /// The other clip faintly over each.
    ghost: bool,
    /// The pair that plays, since when.
    playing: Option<(u64, Instant)>,
    /// When the last answer was given.
    answered: Option<Instant>,
}

/// What a key or a button does to the clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Play {
    Hold,
    Back,
    Forward,
    Slower,
    Faster,
    Ghost,
}

const KEYS: [(Key, Play); 6] = [
    (Key::Space, Play::Hold),
    (Key::Comma, Play::Back),
    (Key::Period, Play::Forward),
    (Key::OpenBracket, Play::Slower),
    (Key::CloseBracket, Play::Faster),
    (Key::G, Play::Ghost),
];

/// Height of the ribbon of predicted rewards, points.
const RIBBON: f32 = 56.0;

impl Panel for Teach {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, settings, run: Some(run), actions, .. } = context else { return };
        let OpenRun { view, canvas, .. } = &mut **run;
        self.compare.settle(&view.answers, view.messages.count);
        let query = self.compare.current(&view.answers);
        let pair = query.and_then(|query| view.pairs.get(&query));
        if let Some(pair) = pair.filter(|_| self.playing != self.compare.shown) {
            actions.push(Action::Narrate(self.begin(pair)));
        }
        aside(ui, theme, "numbers", [250.0, 220.0], |ui| {
            self.about(ui, theme, view, pair);
            ui.separator();
            watch::numbers(ui, theme, view);
            least_seconds(ui, &mut settings.least_seconds);
        });
        let (mut wanted, mut play) = (keys(ui), pressed(ui, &KEYS, false));
        let frames = pair.map_or(0, |pair| canvas.frames(&pair.clips[0].states));
        egui::CentralPanel::default().show(ui, |ui| {
            header(ui, view, canvas);
            match pair {
                Some(pair) => {
                    self.clips(ui, theme, canvas, pair, &mut wanted);
                    self.transport(ui, frames, &mut wanted, &mut play);
                    let names = ["Left is better", "Equal", "Can't tell", "Right is better", "Undo"];
                    let does = [Do::Left, Do::Equal, Do::Skip, Do::Right, Do::Undo];
                    let buttons: Vec<(Do, &str)> = does.into_iter().zip(names).collect();
                    self.compare.buttons(ui, theme, "clip", &buttons, &mut wanted);
                    animate(ui);
                }
                None => empty(ui, &view.phase, actions),
            }
        });
        play.into_iter().for_each(|play| self.play(play, frames));
        for wanted in wanted {
            let Some(saying) = self.compare.act(wanted, &run.view.answers, settings.least_seconds) else { continue };
            if wanted != Do::Undo {
                self.answered = Some(Instant::now());
            }
            if !run.send(RunCommand::Say(saying), actions) {
                self.compare.refused();
            }
        }
    }

    fn run_changed(&mut self) {
        *self = Self::default();
    }
}

impl Teach {
    /// Plays the pair that has just appeared.
    fn begin(&mut self, pair: &ClipPair) -> Narration {
        self.playing = self.compare.shown;
        (self.player.position, self.player.playing) = (0.0, true);
        let mut true_returns = [0, 1].map(|i| pair.clips[i].true_rewards.iter().sum());
        if self.compare.swapped {
            true_returns.reverse();
        }
        let milliseconds = self.answered.take().map(|since| since.elapsed().as_secs_f64() * 1e3);
        Narration::Pair { query: pair.query, true_returns, milliseconds }
    }

    fn play(&mut self, wanted: Play, frames: usize) {
        match wanted {
            Play::Hold => self.player.playing = !self.player.playing,
            Play::Back => self.player.step(-1, frames),
            Play::Forward => self.player.step(1, frames),
            Play::Slower => self.player.change_speed(-1),
            Play::Faster => self.player.change_speed(1),
            Play::Ghost => self.ghost = !self.ghost,
        }
    }

    fn clips(&mut self, ui: &mut Ui, theme: &Theme, canvas: &mut Canvas, pair: &ClipPair, wanted: &mut Vec<Do>) {
        let frames = canvas.frames(&pair.clips[0].states);
        self.player.advance(f64::from(ui.input(|i| i.stable_dt)), canvas.spec().dt, frames);
        let frame = self.player.frame(frames);
        let height = (ui.available_height() - RIBBON - 100.0).max(160.0);
        let bounds = bounds(pair);
        self.compare.sides(ui, theme, "clip", height, wanted, |ui, rect, which| {
            let inner = rect.shrink(12.0);
            if self.ghost {
                let faint = theme.faint([theme.first, theme.second][1 - which], 0.3);
                canvas.draw(ui.painter(), inner, &pair.clips[1 - which].states, frame, theme, Some(faint));
            }
            canvas.draw(ui.painter(), inner, &pair.clips[which].states, frame, theme, None);
            ribbon(ui, theme, &pair.clips[which], bounds, frame, rect.width());
        });
    }

    fn transport(&mut self, ui: &mut Ui, frames: usize, wanted: &mut Vec<Do>, play: &mut Vec<Play>) {
        ui.horizontal(|ui| {
            let hold = if self.player.playing { "Hold" } else { "Play" };
            let buttons = [
                ("Back", "One frame back (,)", Play::Back),
                (hold, "Play and hold (Space)", Play::Hold),
                ("Forward", "One frame forward (.)", Play::Forward),
                ("Slower", "Slower ([)", Play::Slower),
                ("Faster", "Faster (])", Play::Faster),
            ];
            for (name, hint, does) in buttons {
                play.extend(ui.button(name).on_hover_text(hint).clicked().then_some(does));
            }
            let clicked = toggle(ui, self.ghost, "Ghost", "The other clip faintly over each (G)");
            play.extend(clicked.then_some(Play::Ghost));
            let clicked = toggle(ui, self.compare.swapped, "Swap", "Exchange left and right (S)");
            wanted.extend(clicked.then_some(Do::Swap));
            ui.weak(format!("{}×", self.player.speed));
            let mut frame = self.player.frame(frames);
            let slider = egui::Slider::new(&mut frame, 0..=frames.saturating_sub(1)).show_value(false);
            let name = ui.weak(format!("frame {}/{frames}", self.player.frame(frames) + 1));
            if ui.add(slider).labelled_by(name.id).on_hover_text("Frame to show").changed() {
                self.player.playing = false;
                self.player.position = frame as f64;
            }
        });
    }

    /// Why this pair, and what the ensemble thought of the last one.
    fn about(&self, ui: &mut Ui, theme: &Theme, view: &RunView, pair: Option<&Arc<ClipPair>>) {
        if let Some(pair) = pair {
            ui.label(RichText::new("Why this pair").strong());
            why(ui, theme, pair);
            ui.add_space(10.0);
        }
        if let Some(last) = self.compare.last().and_then(|query| view.pairs.get(&query)) {
            ui.label(RichText::new("Your last answer").strong());
            let given = view.answers.labels.get(&last.query).map_or(Label::Skip, |given| given.label);
            let mean = last.predicted.iter().sum::<f64>() / last.predicted.len().max(1) as f64;
            ui.label(format!("You said {}", in_words(given, "clip")));
            ui.label(expected("ensemble", "clip", mean)).on_hover_text(
                "What it would have answered itself when the pair was asked; shown only now, so as not to lead",
            );
            ui.add_space(10.0);
        }
    }
}

fn header(ui: &mut Ui, view: &RunView, canvas: &Canvas) {
    let (answered, of) = (view.answers.resolved(), view.progress.labels);
    let times = view.answers.labels.values().filter(|given| given.seconds.is_some()).count();
    // The median of this person's own answers, once there are some; four seconds until then (Christiano et al., 3 to 5).
    let typical = view.answers.pace().filter(|_| times >= 5).unwrap_or(4.0);
    ui.horizontal(|ui| {
        ui.heading(view.config.preferences.wanted.as_deref().unwrap_or(canvas.spec().summary));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let minutes = (of.saturating_sub(answered) as f64 * typical / 60.0).ceil();
            ui.label(format!("{answered} of {of} · about {minutes:.0} min"))
                .on_hover_text("Questions answered, and how long the others take at your own pace");
            ui.weak(watch::phase(&view.phase));
        });
    });
}

/// Smallest and largest predicted reward of both clips, so that their ribbons compare.
fn bounds(pair: &ClipPair) -> [f32; 2] {
    let all = || pair.clips.iter().flat_map(|clip| clip.predicted.iter().flatten().copied());
    [all().fold(f32::INFINITY, f32::min), all().fold(f32::NEG_INFINITY, f32::max)]
}

/// Predicted reward per frame, a line for each member of the ensemble.
fn ribbon(ui: &mut Ui, theme: &Theme, clip: &Clip, [low, high]: [f32; 2], frame: usize, width: f32) {
    let (rect, response) = ui.allocate_exact_size(vec2(width, RIBBON), Sense::hover());
    response.on_hover_text(
        "Predicted reward of each frame, a line for each member of the ensemble. The same scale on both sides",
    );
    let painter = ui.painter().with_clip_rect(rect);
    let span = (high - low).max(1e-6);
    for (i, member) in clip.predicted.iter().enumerate() {
        let last = member.len().saturating_sub(1).max(1) as f32;
        let at = |(i, r): (usize, &f32)| {
            pos2(
                rect.left() + rect.width() * i as f32 / last,
                rect.bottom() - 4.0 - (rect.height() - 8.0) * (r - low) / span,
            )
        };
        let points = member.iter().enumerate().map(at).collect();
        painter.line(points, Stroke::new(1.5, theme.curve(i)));
    }
    let frames = clip.predicted.first().map_or(1, Vec::len).max(2);
    let x = rect.left() + rect.width() * frame as f32 / (frames - 1) as f32;
    painter.vline(x, rect.y_range(), Stroke::new(1.0, theme.weak_text));
}

/// Nothing to answer at the moment.
fn empty(ui: &mut Ui, phase: &RunPhase, actions: &mut Vec<Action>) {
    ui.add_space(40.0);
    ui.vertical_centered(|ui| match phase {
        RunPhase::Finished(_) => {
            ui.heading("That was the last question");
            ui.label("The agent has finished training on your answers.");
            if ui.button("Watch what it learned").on_hover_text("Show the Watch panel").clicked() {
                actions.push(Action::Show(watch::PANEL.name));
            }
        }
        RunPhase::Opening | RunPhase::CatchingUp | RunPhase::Waiting => {
            ui.label("The agent takes its first steps; the first pair appears in a moment");
        }
        RunPhase::Training => {
            ui.label("The agent is trying something new; the next pair appears in a moment");
        }
        RunPhase::Paused => {
            ui.label("Training is paused, in the Watch panel; the next pair appears when it goes on");
        }
        RunPhase::Stopped | RunPhase::Failed(_) => {
            ui.label("The run has ended; it can be opened again in the Runs panel");
        }
    });
}

fn why(ui: &mut Ui, theme: &Theme, pair: &ClipPair) {
    let Some(why) = pair.why else {
        ui.label("At random: nothing is known yet");
        return;
    };
    ui.label("The members of the ensemble disagree about it");
    let mut rows = vec![
        (
            "disagreement",
            format!("{:.2} of 0.25", why.disagreement.min(0.25)),
            "Variance of the members' probabilities that the first clip is better",
        ),
        ("entropy", format!("{:.2} of 0.69", why.entropy), "How unsure each member is by itself, on average, in nats"),
    ];
    if let Some(novelty) = pair.novelty {
        let hint = "Distance to the nearest clip compared before, in standard deviations of what the agent has seen";
        rows.push(("novelty", format!("{novelty:.2}"), hint));
    }
    facts(ui, theme, "why", &rows);
}
