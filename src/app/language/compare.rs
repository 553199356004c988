//! Two completions of a prompt: which is better? And the model beside what it was.

use std::sync::Arc;
use std::time::Instant;

use egui::containers::scroll_area::{DragScroll, ScrollSource};
use egui::text::{LayoutJob, TextFormat};
use egui::{
    Button, Color32, FontId, Key, Label as Text, ProgressBar, Rect, RichText, Role, ScrollArea, Sense, Stroke,
    StrokeKind, TextEdit, Ui, UiBuilder, WidgetInfo, vec2,
};

use super::{Request, Session, phase, short};
use crate::app::theme::Theme;
use crate::app::{once_a_press, too_early};
use crate::engine::language::{Begin, Command, Phase, View};
use crate::lm::teach::TeachQuestion as Question;
use crate::preference::Label;

/// What is remembered of a session.
#[derive(Default)]
pub(super) struct Compare {
    /// Second completion on the left.
    swapped: bool,
    /// The pair that is shown, since when.
    shown: Option<(u64, Instant)>,
    /// Answers in the order in which they were given, for undoing.
    given: Vec<Arc<Question>>,
    /// How many of the engine's answered questions are among them, or were.
    seen: usize,
    /// A pair whose answer was taken back, now or before the session was opened again; it is asked again before all
    /// others.
    again: Option<Arc<Question>>,
    /// The query of an answer that is being taken back, until the engine says so.
    undoing: Option<u64>,
    /// When an answer came too early to count.
    early: Option<Instant>,
    /// The answer on its way to the ledger.
    sent: Option<(u64, Label)>,
    /// Messages of the engine when it was sent: another one means that it was not taken.
    told: usize,
    /// The text that the start and the present policy complete.
    text: String,
    /// Number of its draw.
    draw: u64,
    /// What was asked to be completed last.
    asked: Option<(String, u64)>,
}

/// What a key or a button does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    Left,
    Right,
    Equal,
    Skip,
    Undo,
    Swap,
}

const KEYS: [(Key, Do); 6] = [
    (Key::ArrowLeft, Do::Left),
    (Key::ArrowRight, Do::Right),
    (Key::ArrowUp, Do::Equal),
    (Key::ArrowDown, Do::Skip),
    (Key::Z, Do::Undo),
    (Key::S, Do::Swap),
];

/// Size of the letters of completions, points.
const LETTERS: f32 = 16.0;

/// Characters of a prompt's end that stand before its completion.
const TAIL: usize = 80;

/// Most points of the prompt.
const PROMPT: f32 = 72.0;

/// Points of what stands between the two completions and the model beside what it was.
const BUTTONS: f32 = 92.0;

/// Least points of the model beside what it was, with the text above.
const CHANGE: f32 = 150.0;

/// Least points of a completion.
const LEAST: f32 = 130.0;

impl Compare {
    /// What was sent last was not taken: it can be answered again.
    pub(super) fn refused(&mut self) {
        self.sent = None;
    }

    /// Takes in what the engine has done since the last frame.
    pub(super) fn settle(&mut self, view: &View) {
        self.undoing = self.undoing.take_if(|query| !view.undone.contains(query));
        if view.told > self.told {
            (self.told, self.sent) = (view.told, None);
            if self.undoing.take().is_some() {
                self.given.extend(self.again.take());
            }
        }
        self.given.extend(view.answered.iter().skip(self.seen).cloned());
        self.seen = view.answered.len();
        if let Some((query, label)) = self.sent
            && self.undoing.is_none()
            && !view.undone.contains(&query)
            && view.labels.get(&query).is_some_and(|given| given.label == label)
        {
            self.sent = None;
            if let Some(question) = self.again.take_if(|question| question.query == query) {
                self.given.push(question);
            }
        }
        // What was taken back before the session was opened, too, once it is there and answers are taken.
        if self.undoing.is_none() {
            let find = |query: &u64| view.answered.iter().find(|question| question.query == *query);
            self.again = view.undone.last().and_then(find).cloned();
            self.given.retain(|other| !view.undone.contains(&other.query));
        }
    }

    /// The answer that was given last.
    pub(super) fn last(&self) -> Option<&Arc<Question>> {
        self.given.last()
    }
}

/// Shows the panel.
pub(super) fn show(ui: &mut Ui, theme: &Theme, session: &mut Session, least: f64, requests: &mut Vec<Request>) {
    let mut wanted = keys(ui);
    match current(session) {
        Some(question) => {
            let room = ui.available_height();
            ScrollArea::vertical().id_salt("middle").auto_shrink(false).show(ui, |ui| {
                let top = ui.cursor().top();
                header(ui, session);
                prompt(ui, theme, &question);
                let left = room - (ui.cursor().top() - top) - BUTTONS;
                let change = (left * 0.42).clamp(CHANGE, 320.0);
                let height = (left - change).max(LEAST);
                completions(ui, theme, session, &question, height, &mut wanted);
                answers(ui, theme, session, &mut wanted);
                too_early(ui, theme, session.compare.early);
                until_it_learns(ui, theme, session);
                changes(ui, theme, session, change, requests);
            });
        }
        None => {
            empty(ui, theme, session, requests);
            if !session.view.reports.is_empty() && !session.engine.ended() {
                ui.add_space(24.0);
                let room = ui.available_height().clamp(CHANGE, 320.0);
                changes(ui, theme, session, room, requests);
            }
        }
    }
    wanted.into_iter().for_each(|wanted| act(session, wanted, least, requests));
    // The next pair is shown as soon as the answer is in the ledger.
    if session.compare.sent.is_some() {
        ui.ctx().request_repaint();
    }
}

/// The pair to answer now.
fn current(session: &mut Session) -> Option<Arc<Question>> {
    let Session { engine, view, compare, .. } = session;
    if engine.ended() {
        return None;
    }
    let question = Arc::clone(compare.again.as_ref().or(view.questions.first())?);
    if compare.shown.is_none_or(|(query, _)| query != question.query) {
        compare.shown = Some((question.query, Instant::now()));
    }
    Some(question)
}

fn keys(ui: &Ui) -> Vec<Do> {
    if ui.ctx().egui_wants_keyboard_input() {
        return Vec::new();
    }
    ui.input_mut(|input| {
        once_a_press(input, |pressed| KEYS.iter().any(|(key, _)| *key == pressed));
        let pressed = |(key, _): &&(Key, Do)| input.consume_key(egui::Modifiers::NONE, *key);
        KEYS.iter().filter(pressed).map(|(_, wanted)| *wanted).collect()
    })
}

fn act(session: &mut Session, wanted: Do, least: f64, requests: &mut Vec<Request>) {
    let left = if session.compare.swapped { Label::Second } else { Label::First };
    match wanted {
        Do::Left => answer(session, left, least, requests),
        Do::Right => answer(session, left.swapped(), least, requests),
        Do::Equal => answer(session, Label::Equal, least, requests),
        Do::Skip => answer(session, Label::Skip, least, requests),
        Do::Undo => {
            let compare = &mut session.compare;
            // One after the other: a pair that waits to be answered again has to be answered first.
            if compare.sent.is_none()
                && compare.again.is_none()
                && !session.engine.ended()
                && let Some(question) = compare.given.pop()
            {
                requests.push(Request::Send(Command::Undo { query: question.query }));
                (compare.undoing, compare.again) = (Some(question.query), Some(question));
            }
        }
        Do::Swap => session.compare.swapped = !session.compare.swapped,
    }
}

fn answer(session: &mut Session, label: Label, least: f64, requests: &mut Vec<Request>) {
    let Some(question) = current(session) else { return };
    let compare = &mut session.compare;
    if compare.sent.is_some() {
        return;
    }
    let query = question.query;
    let seconds = compare.shown.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64());
    if seconds < least {
        compare.early = Some(Instant::now());
        return;
    }
    compare.early = None;
    compare.sent = Some((query, label));
    requests.push(Request::Send(match compare.again {
        Some(_) => Command::Relabel { query, label },
        None => Command::Answer { query, label, seconds },
    }));
}

fn header(ui: &mut Ui, session: &Session) {
    ui.horizontal(|ui| {
        ui.heading("Which completion is better?");
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            ui.label(format!("{} answered", session.view.labels.len()))
                .on_hover_text("Questions answered or skipped in this session");
            ui.weak(phase(&session.view.phase));
        });
    });
}

fn prompt(ui: &mut Ui, theme: &Theme, question: &Question) {
    let frame = egui::Frame::new().fill(theme.panel).corner_radius(8).inner_margin(10);
    frame.show(ui, |ui| {
        ui.set_min_width(ui.available_width());
        ScrollArea::vertical().id_salt(("prompt", question.query)).max_height(PROMPT).show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                ui.label(RichText::new("Prompt").color(theme.weak_text)).on_hover_text("What both complete");
                let text = RichText::new(&question.prompt).font(FontId::proportional(LETTERS)).strong();
                ui.add(Text::new(text).wrap());
            });
        });
    });
}

fn completions(
    ui: &mut Ui,
    theme: &Theme,
    session: &mut Session,
    question: &Question,
    height: f32,
    wanted: &mut Vec<Do>,
) {
    let most = session.view.config.as_ref().map_or(usize::MAX, |config| config.max_new_tokens);
    let width = (ui.available_width() - 12.0) / 2.0;
    let order = if session.compare.swapped { [1, 0] } else { [0, 1] };
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 12.0;
        for (side, which) in order.into_iter().enumerate() {
            let color = [theme.first, theme.second][which];
            let (rect, response) = ui.allocate_exact_size(vec2(width, height), Sense::click());
            let name = ["Left completion", "Right completion"][side];
            response.widget_info(|| WidgetInfo::labeled(Role::Button, true, name));
            let outline = Stroke::new(if response.hovered() { 3.0 } else { 2.0 }, color);
            ui.painter().rect(rect, 8.0, theme.card, outline, StrokeKind::Inside);
            let tokens = question.ids[which].len();
            let end = if tokens < most { "ends here" } else { "cut here" };
            let below = format!("{tokens} tokens · {end}");
            let id = ("completion", question.query, which);
            written(ui, theme, rect, id, &question.prompt, &question.completions[which], &below);
            let hint = ["This one is better (left arrow)", "This one is better (right arrow)"][side];
            if response.on_hover_text(hint).clicked() {
                wanted.push([Do::Left, Do::Right][side]);
            }
        }
    });
}

/// A completion in a rectangle, with the end of its prompt dimmed before it; it scrolls where it is long.
fn written(
    ui: &mut Ui,
    theme: &Theme,
    rect: Rect,
    id: impl std::hash::Hash + std::fmt::Debug,
    prompt: &str,
    completion: &str,
    below: &str,
) {
    let layout = egui::Layout::top_down(egui::Align::Min);
    let mut inner = ui.new_child(UiBuilder::new().max_rect(rect.shrink(12.0)).layout(layout).id_salt(id));
    // Only the wheel and the bar: a click anywhere is an answer.
    let source = ScrollSource { drag: DragScroll::Never, ..ScrollSource::ALL };
    ScrollArea::vertical().auto_shrink(false).scroll_source(source).show(&mut inner, |ui| {
        let format = |color: Color32| TextFormat::simple(FontId::proportional(LETTERS), color);
        let from = prompt.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
        let mut job = LayoutJob::default();
        if from > 0 {
            job.append("…", 0.0, format(theme.weak_text));
        }
        job.append(&prompt[from..], 0.0, format(theme.weak_text));
        job.append(completion, 0.0, format(theme.text));
        ui.add(Text::new(job).wrap().selectable(false));
        ui.add(Text::new(RichText::new(below).small().color(theme.weak_text)).selectable(false));
    });
}

fn answers(ui: &mut Ui, theme: &Theme, session: &Session, wanted: &mut Vec<Do>) {
    let compare = &session.compare;
    let order = if compare.swapped { [theme.second, theme.first] } else { [theme.first, theme.second] };
    ui.add_space(4.0);
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 6.0;
        ui.spacing_mut().button_padding.x = 4.0;
        let width = (ui.available_width() - 5.0 * 6.0) / 6.0;
        let plain = theme.outline;
        let buttons: [(&str, &str, Color32, Do); 6] = [
            ("← Left", "The left completion is better (left arrow)", order[0], Do::Left),
            ("↑ Equal", "Both are equally good (up arrow)", plain, Do::Equal),
            ("↓ Can't tell", "Skip this pair; it is not used (down arrow)", plain, Do::Skip),
            ("Right →", "The right completion is better (right arrow)", order[1], Do::Right),
            ("Z Undo", "Take the last answer back, and see its pair again (Z)", plain, Do::Undo),
            ("S Swap", "Exchange left and right (S)", plain, Do::Swap),
        ];
        for (name, hint, color, does) in buttons {
            let enabled = does != Do::Undo || (!compare.given.is_empty() && compare.again.is_none());
            let button = Button::new(name).min_size(vec2(width, 34.0)).stroke(Stroke::new(1.5, color));
            if ui.add_enabled(enabled, button).on_hover_text(hint).clicked() {
                wanted.push(does);
            }
        }
    });
}

/// How many answers the next update still takes, or how far it is.
fn until_it_learns(ui: &mut Ui, theme: &Theme, session: &Session) {
    let View { config, given, phase: now, .. } = &session.view;
    let every = config.as_ref().map_or(1, |config| config.answers_per_update).max(1);
    let (share, text) = match now {
        Phase::Learning(step, of) => {
            (*step as f32 / (*of).max(1) as f32, format!("learning from your answers: step {} of {of}", step + 1))
        }
        Phase::Measuring | Phase::Writing => (1.0, phase(now)),
        _ => (*given as f32 / every as f32, format!("{given} of {every} answers until it learns")),
    };
    ui.add_space(2.0);
    let bar = ProgressBar::new(share.min(1.0)).desired_height(16.0).fill(theme.accent.gamma_multiply(0.45));
    ui.add(bar.text(RichText::new(text).small().color(theme.text)))
        .on_hover_text("You can go on answering while it learns; those answers count the next time");
    ui.add_space(2.0);
}

/// A text, completed by the model at the start and by the model now.
fn changes(ui: &mut Ui, theme: &Theme, session: &mut Session, room: f32, requests: &mut Vec<Request>) {
    let top = ui.cursor().top();
    let Session { view, compare, .. } = session;
    // The first prompt, until the user writes another text.
    let ready = !matches!(view.phase, Phase::Opening | Phase::Making(_) | Phase::CatchingUp(..));
    if ready && compare.asked.is_none() && compare.text.is_empty() {
        compare.text = view.questions.first().map_or(String::new(), |question| question.prompt.clone());
        ask_for(compare, requests);
    }
    ui.horizontal(|ui| {
        let name = ui.label(RichText::new("The model changes").strong()).on_hover_text(
            "A text of yours, completed by the model as it was at the start and as it is now, with the same random \
             draws. It is completed anew after every update",
        );
        let width = (ui.available_width() - 158.0).max(80.0);
        let edit =
            TextEdit::singleline(&mut compare.text).hint_text("Write the beginning of a text").desired_width(width);
        let edit = ui.add(edit).labelled_by(name.id);
        let entered = edit.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
        let enabled = ready && !compare.text.is_empty();
        let clicked = ui.add_enabled(enabled, Button::new("Complete")).on_hover_text("By both (Enter)").clicked();
        if enabled && (clicked || entered) {
            ask_for(compare, requests);
        }
        if ui.add_enabled(enabled, Button::new("Again")).on_hover_text("With other random draws").clicked() {
            compare.draw += 1;
            ask_for(compare, requests);
        }
    });
    let Some(comparison) = &view.comparison else {
        if compare.asked.is_some() {
            ui.weak("Both completions appear in a moment");
        }
        return;
    };
    let stale = compare.asked.as_ref().is_some_and(|asked| *asked != (comparison.text.clone(), comparison.draw));
    let updates = comparison.updates;
    let now = match updates {
        _ if stale => "being written".to_owned(),
        0 => "has learned nothing yet".to_owned(),
        1 => "after 1 update".to_owned(),
        n => format!("after {n} updates"),
    };
    let names = [("At the start", String::new()), ("Now", now)];
    let height = room - (ui.cursor().top() - top) - ui.spacing().item_spacing.y;
    let width = (ui.available_width() - 12.0) / 2.0;
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 12.0;
        for (i, (name, note)) in names.into_iter().enumerate() {
            let (rect, response) = ui.allocate_exact_size(vec2(width, height), Sense::hover());
            let text = &comparison.completions[i];
            response
                .widget_info(|| WidgetInfo::labeled(Role::Label, true, format!("{name}: {}{text}", comparison.text)));
            ui.painter().rect(rect, 8.0, theme.card, Stroke::new(1.0, theme.outline), StrokeKind::Inside);
            let below = if note.is_empty() { name.to_owned() } else { format!("{name}, {note}") };
            let id = ("change", updates, comparison.draw, i);
            written(ui, theme, rect, id, &comparison.text, text, &below);
        }
    });
}

fn ask_for(compare: &mut Compare, requests: &mut Vec<Request>) {
    if compare.text.is_empty() {
        return;
    }
    compare.asked = Some((compare.text.clone(), compare.draw));
    requests.push(Request::Send(Command::Compare { text: compare.text.clone(), draw: compare.draw }));
}

/// Nothing to answer at the moment.
fn empty(ui: &mut Ui, theme: &Theme, session: &Session, requests: &mut Vec<Request>) {
    ui.add_space(40.0);
    ui.vertical_centered(|ui| match &session.view.phase {
        Phase::Making(progress) => {
            ui.heading("A model is being made");
            let state = match progress.of {
                0 => progress.note.clone(),
                of => format!("step {} of {of}", progress.step),
            };
            let left = session.making.filter(|(first, _)| progress.step > *first).map(|(first, since)| {
                let each = since.elapsed().as_secs_f64() / (progress.step - first) as f64;
                each * (progress.of - progress.step) as f64
            });
            let left = left.map_or(String::new(), |seconds| format!(" · {}", duration(seconds)));
            let bar = ProgressBar::new(progress.step as f32 / progress.of.max(1) as f32).desired_width(420.0);
            ui.add(bar.fill(theme.accent.gamma_multiply(0.45)).text(format!("{state}{left}")));
            if let Some(loss) = progress.loss {
                ui.label(format!("loss {loss:.2} nats a token")).on_hover_text(
                    "How badly it guesses the next token: ln 1024 = 6.9 at the start, about 0.7 in the end",
                );
            }
            ui.weak("It reads reviews that the program writes itself. Teaching begins when it is done");
        }
        Phase::Stopped => {
            ui.heading("The session is closed");
            ui.label(format!("Everything is kept in {}", session.engine.path.display()));
            resume(ui, session, requests);
        }
        Phase::Failed(reason) => {
            ui.heading("The session ended");
            ui.colored_label(theme.error, reason);
            ui.label(format!("Every answer is kept in {}", session.engine.path.display()));
            resume(ui, session, requests);
        }
        other => {
            ui.heading("The next pairs appear in a moment");
            ui.label(phase(other));
            let model = session.view.config.as_ref().map(|config| short(&config.model));
            ui.weak(model.unwrap_or_default()).on_hover_text("The model to begin with");
        }
    });
}

fn resume(ui: &mut Ui, session: &Session, requests: &mut Vec<Request>) {
    ui.add_space(8.0);
    let there = session.engine.path.join("labels.jsonl").is_file();
    if there && ui.button("Resume").on_hover_text("Go on from its ledger").clicked() {
        requests.push(Request::Begin(Begin::Open, session.engine.path.clone()));
    }
    if ui.button("Choose another model").on_hover_text("Back to the models and sessions").clicked() {
        requests.push(Request::Close);
    }
}

/// A time in words, about.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 90.0 => format!("about {:.0} min left", (s / 60.0).ceil()),
        s => format!("about {:.0} s left", s.ceil()),
    }
}
