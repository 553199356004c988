//! Be the oracle: two clips, which is better?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use egui::{Color32, Key, Panel as Side, RichText, Sense, Stroke, StrokeKind, Ui, pos2, vec2};

use super::stage::Player;
use super::theme::Theme;
use super::{Action, Narration, Session, animate, least_seconds, once_a_press, too_early, watch};
use crate::engine::{Clip, Command, Pair, Phase};
use crate::preference::Label;

/// What the panel remembers of a run.
#[derive(Default)]
pub(super) struct Teach {
    player: Player,
    /// Second clip on the left.
    swapped: bool,
    /// The other clip faintly over each.
    ghost: bool,
    /// The pair that is shown, since when.
    shown: Option<(u64, Instant)>,
    /// Answers in the order in which they were given, for undoing.
    given: Vec<Arc<Pair>>,
    /// A pair whose answer was taken back, now or before the run was opened again; it is asked again before all others.
    again: Option<Arc<Pair>>,
    /// The query of an answer that is being taken back, until the engine says so.
    undoing: Option<u64>,
    /// When an answer came too early to count.
    early: Option<Instant>,
    /// The answer on its way to the ledger.
    sent: Option<(u64, Label)>,
    /// Messages of the engine when it was sent: another one means that it was not taken.
    told: usize,
    /// All pairs seen, by query.
    pairs: BTreeMap<u64, Arc<Pair>>,
    /// The pair that was narrated last, and since when it is shown.
    narrated: Option<(u64, Instant)>,
    /// When the last answer was given.
    answered: Option<Instant>,
}

impl Teach {
    /// What was sent last was not taken: it can be answered again.
    pub(super) fn refused(&mut self) {
        self.sent = None;
    }

    /// The pair that has just appeared; once for each appearance.
    pub(super) fn appeared(&mut self) -> Option<Narration> {
        let pair = self.shown.and_then(|(query, _)| self.pairs.get(&query)).cloned()?;
        if self.narrated == self.shown {
            return None;
        }
        self.narrated = self.shown;
        let returns = [0, 1].map(|i| pair.clips[i].true_rewards.iter().sum());
        Some(Narration::Pair {
            query: pair.query,
            true_returns: if self.swapped { [returns[1], returns[0]] } else { returns },
            milliseconds: self.answered.take().map(|since| since.elapsed().as_secs_f64() * 1e3),
        })
    }
}

/// What a key or a button does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    /// The clip on the left is better.
    Left,
    /// The clip on the right is better.
    Right,
    Equal,
    Skip,
    Undo,
    Play,
    Back,
    Forward,
    Slower,
    Faster,
    Ghost,
    Swap,
}

const KEYS: [(Key, Do); 12] = [
    (Key::ArrowLeft, Do::Left),
    (Key::ArrowRight, Do::Right),
    (Key::ArrowUp, Do::Equal),
    (Key::ArrowDown, Do::Skip),
    (Key::Z, Do::Undo),
    (Key::Space, Do::Play),
    (Key::Comma, Do::Back),
    (Key::Period, Do::Forward),
    (Key::OpenBracket, Do::Slower),
    (Key::CloseBracket, Do::Faster),
    (Key::G, Do::Ghost),
    (Key::S, Do::Swap),
];

/// Height of the ribbon of predicted rewards, points.
const RIBBON: f32 = 56.0;

/// Shows the panel.
pub(super) fn show(ui: &mut Ui, theme: &Theme, session: &mut Session, least: &mut f64, actions: &mut Vec<Action>) {
    settle(session);
    let frame = egui::Frame::new().fill(theme.panel).inner_margin(12);
    Side::right("numbers").default_size(250.0).min_size(220.0).frame(frame).show(ui, |ui| {
        aside(ui, theme, session);
        least_seconds(ui, least);
    });
    let mut wanted = keys(ui);
    egui::CentralPanel::default().show(ui, |ui| {
        header(ui, session);
        match current(session) {
            Some(pair) => {
                clips(ui, theme, session, &pair, &mut wanted);
                transport(ui, session, &mut wanted);
                answers(ui, theme, session, &mut wanted);
                too_early(ui, theme, session.teach.early);
                animate(ui);
            }
            None => empty(ui, session, actions),
        }
    });
    wanted.into_iter().for_each(|wanted| act(session, wanted, *least, actions));
    // The next pair is shown as soon as the answer is in the ledger.
    if session.teach.sent.is_some() {
        ui.ctx().request_repaint();
    }
}

/// Takes in what the engine has done since the last frame.
fn settle(session: &mut Session) {
    let Session { teach, view, .. } = session;
    for pair in view.questions.iter().chain(view.answered.iter()) {
        teach.pairs.entry(pair.query).or_insert_with(|| Arc::clone(pair));
    }
    teach.undoing = teach.undoing.take_if(|query| !view.undone.contains(query));
    if view.told > teach.told {
        (teach.told, teach.sent) = (view.told, None);
        let back = teach.undoing.take().and_then(|query| teach.pairs.get(&query));
        teach.given.extend(back.cloned());
    }
    if let Some((query, label)) = teach.sent
        && teach.undoing.is_none()
        && !view.undone.contains(&query)
        && view.labels.get(&query).is_some_and(|given| given.label == label)
    {
        teach.sent = None;
        if let Some(pair) = teach.pairs.get(&query) {
            teach.given.push(Arc::clone(pair));
        }
    }
    // What was taken back before the run was opened, too, once its pairs are there and answers are taken.
    if teach.undoing.is_none() {
        let takes = !matches!(view.phase, Phase::Opening | Phase::CatchingUp);
        let query = view.undone.last().filter(|_| takes);
        teach.again = query.and_then(|query| teach.pairs.get(query)).cloned();
    }
}

/// The pair to answer now.
fn current(session: &mut Session) -> Option<Arc<Pair>> {
    let Session { teach, view, engine, .. } = session;
    if engine.ended() {
        return None;
    }
    let pair = Arc::clone(teach.again.as_ref().or(view.questions.first())?);
    if teach.shown.is_none_or(|(query, _)| query != pair.query) {
        teach.shown = Some((pair.query, Instant::now()));
        teach.player.position = 0.0;
        teach.player.playing = true;
    }
    Some(pair)
}

fn keys(ui: &Ui) -> Vec<Do> {
    if ui.ctx().egui_wants_keyboard_input() {
        return Vec::new();
    }
    ui.input_mut(|input| {
        let answers = [Do::Left, Do::Right, Do::Equal, Do::Skip, Do::Undo];
        once_a_press(input, |pressed| KEYS.iter().any(|(key, does)| *key == pressed && answers.contains(does)));
        let pressed = |(key, _): &&(Key, Do)| input.consume_key(egui::Modifiers::NONE, *key);
        KEYS.iter().filter(pressed).map(|(_, wanted)| *wanted).collect()
    })
}

fn act(session: &mut Session, wanted: Do, least: f64, actions: &mut Vec<Action>) {
    let frames = current(session).map_or(0, |pair| session.stage.frames(&pair.clips[0].states));
    let teach = &mut session.teach;
    let left = if teach.swapped { Label::Second } else { Label::First };
    match wanted {
        Do::Left => answer(session, left, least, actions),
        Do::Right => answer(session, left.swapped(), least, actions),
        Do::Equal => answer(session, Label::Equal, least, actions),
        Do::Skip => answer(session, Label::Skip, least, actions),
        Do::Undo => {
            // One after the other: a pair that waits to be answered again has to be answered first.
            if teach.sent.is_none()
                && teach.again.is_none()
                && let Some(pair) = teach.given.pop()
            {
                actions.push(Action::Send(Command::Undo { query: pair.query }));
                (teach.undoing, teach.again) = (Some(pair.query), Some(pair));
            }
        }
        Do::Play => teach.player.playing = !teach.player.playing,
        Do::Back => teach.player.step(-1, frames),
        Do::Forward => teach.player.step(1, frames),
        Do::Slower => teach.player.change_speed(-1),
        Do::Faster => teach.player.change_speed(1),
        Do::Ghost => teach.ghost = !teach.ghost,
        Do::Swap => teach.swapped = !teach.swapped,
    }
}

fn answer(session: &mut Session, label: Label, least: f64, actions: &mut Vec<Action>) {
    let Some(pair) = current(session) else { return };
    let teach = &mut session.teach;
    if teach.sent.is_some() {
        return;
    }
    let query = pair.query;
    let seconds = teach.shown.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64());
    if seconds < least {
        teach.early = Some(Instant::now());
        return;
    }
    teach.early = None;
    teach.sent = Some((query, label));
    teach.answered = Some(Instant::now());
    actions.push(Action::Send(match teach.again {
        Some(_) => Command::Relabel { query, label },
        None => Command::Answer { query, label, seconds },
    }));
}

fn header(ui: &mut Ui, session: &Session) {
    let progress = session.view.progress;
    let left = progress.labels.saturating_sub(progress.resolved);
    let times = session.view.labels.values().filter_map(|given| given.seconds);
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    // The median of this person's own answers, once there are some; four seconds until then (Christiano et al., 3 to 5).
    let typical = if times.len() < 5 { 4.0 } else { times[times.len() / 2] };
    ui.horizontal(|ui| {
        let preferences = &session.engine.config.preferences;
        ui.heading(preferences.wanted.as_deref().unwrap_or(session.stage.spec().summary));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let minutes = (left as f64 * typical / 60.0).ceil();
            ui.label(format!("{} of {} · about {minutes:.0} min", progress.resolved, progress.labels))
                .on_hover_text("Questions answered, and how long the others take at your own pace");
            ui.weak(watch::phase(&session.view.phase));
        });
    });
}

fn clips(ui: &mut Ui, theme: &Theme, session: &mut Session, pair: &Pair, wanted: &mut Vec<Do>) {
    let Session { stage, teach, .. } = session;
    let frames = stage.frames(&pair.clips[0].states);
    teach.player.advance(f64::from(ui.input(|i| i.stable_dt)), stage.spec().dt, frames);
    let frame = teach.player.frame(frames);
    let height = (ui.available_height() - RIBBON - 100.0).max(160.0);
    let width = (ui.available_width() - 12.0) / 2.0;
    let order = if teach.swapped { [1, 0] } else { [0, 1] };
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 12.0;
        for (side, clip) in order.into_iter().enumerate() {
            let color = [theme.first, theme.second][clip];
            ui.vertical(|ui| {
                let (rect, response) = ui.allocate_exact_size(vec2(width, height), Sense::click());
                let name = ["Left clip", "Right clip"][side];
                response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, name));
                ui.painter().rect_filled(rect, 8.0, theme.card);
                let outline = Stroke::new(if response.hovered() { 3.0 } else { 2.0 }, color);
                ui.painter().rect_stroke(rect, 8.0, outline, StrokeKind::Inside);
                let inner = rect.shrink(12.0);
                if teach.ghost {
                    let faint = theme.faint([theme.first, theme.second][1 - clip], 0.3);
                    stage.draw(ui.painter(), inner, &pair.clips[1 - clip].states, frame, theme, Some(faint));
                }
                stage.draw(ui.painter(), inner, &pair.clips[clip].states, frame, theme, None);
                if response
                    .on_hover_text(["This one is better (left arrow)", "This one is better (right arrow)"][side])
                    .clicked()
                {
                    wanted.push([Do::Left, Do::Right][side]);
                }
                ribbon(ui, theme, &pair.clips[clip], bounds(pair), frame, width);
            });
        }
    });
}

/// Smallest and largest predicted reward of both clips, so that their ribbons compare.
fn bounds(pair: &Pair) -> [f32; 2] {
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

fn transport(ui: &mut Ui, session: &mut Session, wanted: &mut Vec<Do>) {
    let Some(pair) = current(session) else { return };
    let frames = session.stage.frames(&pair.clips[0].states);
    let teach = &mut session.teach;
    ui.horizontal(|ui| {
        let mut button = |button: egui::Button<'_>, hint: &str, does: Do| {
            if ui.add(button).on_hover_text(hint).clicked() {
                wanted.push(does);
            }
        };
        let plain = egui::Button::new;
        button(plain("Back"), "One frame back (,)", Do::Back);
        button(plain(if teach.player.playing { "Hold" } else { "Play" }), "Play and hold (Space)", Do::Play);
        button(plain("Forward"), "One frame forward (.)", Do::Forward);
        button(plain("Slower"), "Slower ([)", Do::Slower);
        button(plain("Faster"), "Faster (])", Do::Faster);
        let set = |on: bool, name: &'static str| egui::Button::selectable(on, name).frame_when_inactive(true);
        button(set(teach.ghost, "Ghost"), "The other clip faintly over each (G)", Do::Ghost);
        button(set(teach.swapped, "Swap"), "Exchange left and right (S)", Do::Swap);
        ui.weak(format!("{}×", teach.player.speed));
        let mut frame = teach.player.frame(frames);
        let slider = egui::Slider::new(&mut frame, 0..=frames.saturating_sub(1)).show_value(false);
        let name = ui.weak(format!("frame {}/{frames}", teach.player.frame(frames) + 1));
        if ui.add(slider).labelled_by(name.id).on_hover_text("Frame to show").changed() {
            teach.player.playing = false;
            teach.player.position = frame as f64;
        }
    });
}

fn answers(ui: &mut Ui, theme: &Theme, session: &Session, wanted: &mut Vec<Do>) {
    let order = if session.teach.swapped { [theme.second, theme.first] } else { [theme.first, theme.second] };
    ui.add_space(6.0);
    ui.horizontal(|ui| {
        let width = (ui.available_width() - 5.0 * 8.0) / 5.0;
        let plain = theme.outline;
        let buttons: [(&str, &str, Color32, Do); 5] = [
            ("Left is better", "The left clip is better (left arrow)", order[0], Do::Left),
            ("Equal", "Both are equally good (up arrow)", plain, Do::Equal),
            ("Can't tell", "Skip this pair; it is not used (down arrow)", plain, Do::Skip),
            ("Right is better", "The right clip is better (right arrow)", order[1], Do::Right),
            ("Undo", "Take the last answer back, and see its pair again (Z)", plain, Do::Undo),
        ];
        for (name, hint, color, does) in buttons {
            let enabled = does != Do::Undo || !session.teach.given.is_empty();
            let button = egui::Button::new(name).min_size(vec2(width, 36.0)).stroke(Stroke::new(1.5, color));
            if ui.add_enabled(enabled, button).on_hover_text(hint).clicked() {
                wanted.push(does);
            }
        }
    });
}

/// Nothing to answer at the moment.
fn empty(ui: &mut Ui, session: &Session, actions: &mut Vec<Action>) {
    ui.add_space(40.0);
    ui.vertical_centered(|ui| match &session.view.phase {
        Phase::Finished(_) => {
            ui.heading("That was the last question");
            ui.label("The agent has finished training on your answers.");
            if ui.button("Watch what it learned").on_hover_text("Show the Watch panel").clicked() {
                actions.push(Action::Show(super::Panel::Watch));
            }
        }
        Phase::Opening | Phase::CatchingUp | Phase::Waiting => {
            ui.label("The agent takes its first steps; the first pair appears in a moment");
        }
        Phase::Training => {
            ui.label("The agent is trying something new; the next pair appears in a moment");
        }
        Phase::Paused => {
            ui.label("Training is paused, in the Watch panel; the next pair appears when it goes on");
        }
        Phase::Stopped | Phase::Failed(_) => {
            ui.label("The run has ended; it can be opened again in the Runs panel");
        }
    });
}

/// Why this pair, what became of the last answer, and how the agent is doing.
fn aside(ui: &mut Ui, theme: &Theme, session: &mut Session) {
    if let Some(pair) = current(session) {
        ui.label(RichText::new("Why this pair").strong());
        why(ui, theme, &pair);
        ui.add_space(10.0);
    }
    if let Some(last) = session.teach.given.last() {
        ui.label(RichText::new("Your last answer").strong());
        let given = session.view.labels.get(&last.query).map_or(Label::Skip, |given| given.label);
        let mean = last.predicted.iter().sum::<f64>() / last.predicted.len().max(1) as f64;
        let (word, share) = if mean >= 0.5 { ("first", mean) } else { ("second", 1.0 - mean) };
        ui.label(format!("You said {}", in_words(given)));
        ui.label(format!("The ensemble expected the {word} clip ({:.0} %)", share * 100.0)).on_hover_text(
            "What it would have answered itself when the pair was asked; shown only now, so as not to lead",
        );
        ui.add_space(10.0);
    }
    ui.separator();
    watch::numbers(ui, theme, session);
}

fn why(ui: &mut Ui, theme: &Theme, pair: &Pair) {
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
    egui::Grid::new("why").num_columns(2).spacing([16.0, 4.0]).show(ui, |ui| {
        for (name, value, hint) in rows {
            ui.label(RichText::new(name).color(theme.weak_text)).on_hover_text(hint);
            ui.label(value).on_hover_text(hint);
            ui.end_row();
        }
    });
}

fn in_words(label: Label) -> &'static str {
    match label {
        Label::First => "the first (blue) clip",
        Label::Second => "the second (orange) clip",
        Label::Equal => "both are equal",
        Label::Skip => "you can't tell",
    }
}
