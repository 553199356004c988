//! Which of two is better? Which pair is asked, which answer is on its way to the ledger, which pair is asked again,
//! keys and buttons. The panel draws the two sides.

use std::time::{Duration, Instant};

use egui::{Button, Event, Key, Modifiers, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, vec2};

use super::theme::Theme;
use crate::engine::book::{Answers, Saying};
use crate::preference::Label;

/// A person who compares two of something, pair by pair.
#[derive(Default)]
pub(super) struct Compare {
    /// Whether the second one is on the left.
    pub swapped: bool,
    /// The query that is shown, and since when.
    pub shown: Option<(u64, Instant)>,
    /// Answered queries in their order, for undoing.
    given: Vec<u64>,
    /// How many of the engine's answered queries were added to `given`.
    seen: usize,
    /// A query whose answer was taken back, now or before the folder was opened again: it is asked before all others.
    again: Option<u64>,
    /// The query whose answer is being taken back, until the engine says so.
    undoing: Option<u64>,
    /// The answer on its way to the ledger.
    sent: Option<(u64, Label)>,
    /// Messages of the engine so far: a new one means that the answer was not taken.
    messages: usize,
    early: Early,
}

/// What a key or a button does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Do {
    /// The left one is better.
    Left,
    /// The right one is better.
    Right,
    /// Both are equally good.
    Equal,
    /// Nobody can tell.
    Skip,
    /// Take the last answer back.
    Undo,
    /// Exchange left and right.
    Swap,
}

/// Whether the last key or click came too early to count.
#[derive(Default)]
pub(super) struct Early(Option<Instant>);

/// Seconds within which nobody can have seen a pair: a decision between two takes people a third of a second or more,
/// and studies of reaction times take answers below a fifth for anticipations (Whelan 2008, The Psychological Record
/// 58).
pub(super) const LEAST_SECONDS: f64 = 0.2;

/// The most that these seconds can be set to.
pub(crate) const MOST_LEAST_SECONDS: f64 = 5.0;

/// How long the window says that an answer did not count, seconds.
const SAID: f64 = 4.0;

/// Gap between the two sides, points.
const GAP: f32 = 12.0;

const KEYS: [(Key, Do); 6] = [
    (Key::ArrowLeft, Do::Left),
    (Key::ArrowRight, Do::Right),
    (Key::ArrowUp, Do::Equal),
    (Key::ArrowDown, Do::Skip),
    (Key::Z, Do::Undo),
    (Key::S, Do::Swap),
];

impl Compare {
    /// Takes in what the engine has done since the last frame. `messages`: how many it has told.
    pub(super) fn settle(&mut self, answers: &Answers, messages: usize) {
        self.undoing = self.undoing.take_if(|query| !answers.undone.contains(query));
        if messages > self.messages {
            self.messages = messages;
            self.refused();
        }
        self.given.extend(answers.answered.iter().skip(self.seen));
        self.seen = answers.answered.len();
        if let Some((query, label)) = self.sent
            && self.undoing.is_none()
            && !answers.undone.contains(&query)
            && answers.labels.get(&query).is_some_and(|given| given.label == label)
        {
            self.sent = None;
            self.given.extend(self.again.take_if(|again| *again == query));
        }
        if self.undoing.is_none() {
            self.again = answers.undone.last().copied().filter(|_| answers.taken);
            self.given.retain(|query| !answers.undone.contains(query));
        }
    }

    /// The query to answer now.
    pub(super) fn current(&mut self, answers: &Answers) -> Option<u64> {
        let query = self.again.or(answers.open.first().copied()).filter(|_| answers.taken)?;
        if self.shown.is_none_or(|(other, _)| query != other) {
            self.shown = Some((query, Instant::now()));
        }
        Some(query)
    }

    /// What to send to the engine for a key or a button. `least`: seconds in which no answer counts.
    pub(super) fn act(&mut self, wanted: Do, answers: &Answers, least: f64) -> Option<Saying> {
        let left = if self.swapped { Label::Second } else { Label::First };
        let label = match wanted {
            Do::Left => left,
            Do::Right => left.swapped(),
            Do::Equal => Label::Equal,
            Do::Skip => Label::Skip,
            Do::Undo => {
                // One after the other: a pair that waits to be answered again has to be answered first.
                if self.sent.is_some() || self.again.is_some() || !answers.taken {
                    return None;
                }
                let query = self.given.pop()?;
                (self.undoing, self.again) = (Some(query), Some(query));
                return Some(Saying::Undo { query });
            }
            Do::Swap => {
                self.swapped = !self.swapped;
                return None;
            }
        };
        let query = self.current(answers)?;
        if self.sent.is_some() {
            return None;
        }
        let seconds = self.early.seconds(self.shown?.1, least)?;
        self.sent = Some((query, label));
        Some(match self.again {
            Some(_) => Saying::Relabel { query, label },
            None => Saying::Answer { query, label, seconds },
        })
    }

    /// The answer that was sent last was not taken: it can be given again.
    pub(super) fn refused(&mut self) {
        self.sent = None;
        if self.undoing.take().is_some() {
            self.given.extend(self.again.take());
        }
    }

    /// The query that was answered last.
    pub(super) fn last(&self) -> Option<u64> {
        self.given.last().copied()
    }

    /// The two sides, each `height` points high and drawn by `draw` into a rectangle: 0 for the first, 1 for the second. A
    /// click says which is better. `what` they are.
    pub(super) fn sides(
        &self,
        ui: &mut Ui,
        theme: &Theme,
        what: &str,
        height: f32,
        wanted: &mut Vec<Do>,
        mut draw: impl FnMut(&mut Ui, Rect, usize),
    ) {
        let width = (ui.available_width() - GAP) / 2.0;
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing.x = GAP;
            for (side, (name, does)) in [("Left", Do::Left), ("Right", Do::Right)].into_iter().enumerate() {
                let which = if self.swapped { 1 - side } else { side };
                ui.vertical(|ui| {
                    let (rect, response) = ui.allocate_exact_size(vec2(width, height), Sense::click());
                    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("{name} {what}")));
                    let outline = if response.hovered() { 3.0 } else { 2.0 };
                    let outline = Stroke::new(outline, [theme.first, theme.second][which]);
                    ui.painter().rect(rect, 8.0, theme.card, outline, StrokeKind::Inside);
                    draw(ui, rect, which);
                    let hint = format!("This one is better ({} arrow)", name.to_lowercase());
                    if response.on_hover_text(hint).clicked() {
                        wanted.push(does);
                    }
                });
            }
        });
    }

    /// A button for each of `names`, in a row; below them, for a while, that an answer came too early.
    pub(super) fn buttons(&self, ui: &mut Ui, theme: &Theme, what: &str, names: &[(Do, &str)], wanted: &mut Vec<Do>) {
        let [left, right] = if self.swapped { [theme.second, theme.first] } else { [theme.first, theme.second] };
        ui.add_space(4.0);
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing.x = 6.0;
            ui.spacing_mut().button_padding.x = 4.0;
            let count = names.len() as f32;
            let width = (ui.available_width() - (count - 1.0) * 6.0) / count;
            for (does, name) in names {
                let (hint, color) = match does {
                    Do::Left => (format!("The left {what} is better (left arrow)"), left),
                    Do::Right => (format!("The right {what} is better (right arrow)"), right),
                    Do::Equal => ("Both are equally good (up arrow)".to_owned(), theme.outline),
                    Do::Skip => ("Skip this pair; it is not used (down arrow)".to_owned(), theme.outline),
                    Do::Undo => ("Take the last answer back, and see its pair again (Z)".to_owned(), theme.outline),
                    Do::Swap => ("Exchange left and right (S)".to_owned(), theme.outline),
                };
                let enabled = *does != Do::Undo || (!self.given.is_empty() && self.again.is_none());
                let button = Button::new(*name).min_size(vec2(width, 36.0)).stroke(Stroke::new(1.5, color));
                if ui.add_enabled(enabled, button).on_hover_text(hint).clicked() {
                    wanted.push(*does);
                }
            }
        });
        self.early.say(ui, theme);
        // The next pair is shown as soon as the answer is in the ledger.
        if self.sent.is_some() {
            ui.ctx().request_repaint();
        }
    }
}

impl Early {
    /// Seconds from the appearance of a question to an answer now; `None` where that is too early to count.
    pub(super) fn seconds(&mut self, since: Instant, least: f64) -> Option<f64> {
        let seconds = since.elapsed().as_secs_f64();
        self.0 = (seconds < least).then(Instant::now);
        self.0.is_none().then_some(seconds)
    }

    /// Says kindly, for a while, that an answer came too early to count.
    pub(super) fn say(&self, ui: &mut Ui, theme: &Theme) {
        if self.0.is_some_and(|since| since.elapsed().as_secs_f64() < SAID) {
            ui.colored_label(
                theme.accent,
                "That came before you can have seen this one, so it was not counted: take your time",
            );
            ui.ctx().request_repaint_after(Duration::from_millis(500));
        }
    }
}

/// What the pressed keys of a comparison do.
pub(super) fn keys(ui: &Ui) -> Vec<Do> {
    pressed(ui, &KEYS, true)
}

/// What the pressed keys do, in the order of `keys`; nothing while somebody writes. `once`: however long a key is held down.
pub(super) fn pressed<T: Copy>(ui: &Ui, keys: &[(Key, T)], once: bool) -> Vec<T> {
    if ui.ctx().egui_wants_keyboard_input() {
        return Vec::new();
    }
    ui.input_mut(|input| {
        if once {
            let held = |event: &Event| match event {
                Event::Key { key, repeat: true, .. } => keys.iter().any(|(known, _)| known == key),
                _ => false,
            };
            input.events.retain(|event| !held(event));
        }
        keys.iter().filter(|(key, _)| input.consume_key(Modifiers::NONE, *key)).map(|(_, does)| *does).collect()
    })
}

/// The setting of how early an answer counts.
pub(super) fn least_seconds(ui: &mut Ui, least: &mut f64) {
    ui.add_space(8.0);
    ui.horizontal(|ui| {
        let name = ui.label("Answers count after");
        let drag = egui::DragValue::new(least).range(0.0..=MOST_LEAST_SECONDS).speed(0.01).fixed_decimals(2).suffix(" s");
        ui.add(drag)
            .on_hover_text(
                "A key or click that comes sooner after a question appears was meant for the one before, and is dropped. \
                 Nobody sees two clips and decides in less than a fifth of a second; 0 counts everything",
            )
            .labelled_by(name.id);
    });
}

/// An answer, in words that follow "You said".
pub(super) fn in_words(label: Label, what: &str) -> String {
    match label {
        Label::First => format!("the first (blue) {what}"),
        Label::Second => format!("the second (orange) {what}"),
        Label::Equal => "both are equal".to_owned(),
        Label::Skip => "you can't tell".to_owned(),
    }
}

/// Which side was expected, and how surely, by whoever thought so. `first`: probability that the first is better.
pub(super) fn expected(who: &str, what: &str, first: f64) -> String {
    let (word, share) = if first >= 0.5 { ("first", first) } else { ("second", 1.0 - first) };
    format!("The {who} expected the {word} {what} ({:.0} %)", 100.0 * share)
}
