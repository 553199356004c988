//! One question after the other, by keys.

use egui::{Button, Color32, FontId, Key, Label as Text, ProgressBar, RichText, ScrollArea, Stroke, Ui, vec2};

use super::open::{CheckRequest, Choice, Draft, OpenCheck};
use crate::app::compare::pressed;
use crate::app::theme::Theme;
use crate::app::widgets::{card, facts, main_button};
use crate::evals::validate::{Turn, asked};

/// What a key or a button does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    Choose(Choice),
    Relevance(u8),
    Ambiguous,
    Undo,
}

/// In the order in which they count within a frame: what completes an answer comes last.
const KEYS: [(Key, Do); 11] = [
    (Key::Z, Do::Undo),
    (Key::A, Do::Ambiguous),
    (Key::ArrowLeft, Do::Choose(Choice::Left)),
    (Key::ArrowRight, Do::Choose(Choice::Right)),
    (Key::ArrowDown, Do::Choose(Choice::CannotTell)),
    (Key::ArrowUp, Do::Choose(Choice::CannotTell)),
    (Key::Num1, Do::Relevance(1)),
    (Key::Num2, Do::Relevance(2)),
    (Key::Num3, Do::Relevance(3)),
    (Key::Num4, Do::Relevance(4)),
    (Key::Num5, Do::Relevance(5)),
];

/// Size of the letters of a statement, and of what is long or has several lines, points.
const LETTERS: [f32; 2] = [24.0, 18.0];

/// Characters from which a text is long.
const LONG: usize = 240;

/// Points of what stands below the text.
const BELOW: f32 = 236.0;

/// Least points of the text.
const LEAST: f32 = 120.0;

pub(super) fn show(
    ui: &mut Ui,
    theme: &Theme,
    open: &mut OpenCheck,
    turn: Turn,
    least: f64,
    requests: &mut Vec<CheckRequest>,
) {
    let mut wanted = pressed(ui, &KEYS, true);
    let asked = asked(&open.validation.config, &open.validation.items[turn.item], turn);
    header(ui, theme, open);
    ui.add_space(4.0);
    let height = (ui.available_height() - BELOW).max(LEAST);
    text(ui, theme, turn, &asked.text, height);
    ui.add_space(8.0);
    ui.vertical_centered(|ui| ui.add(Text::new(RichText::new(&asked.question).size(18.0).strong()).wrap()));
    ui.add_space(6.0);
    answers(ui, theme, open.draft, &asked.answers, &mut wanted);
    ui.add_space(10.0);
    relevance(ui, theme, open.draft, &mut wanted);
    ui.add_space(8.0);
    ui.horizontal(|ui| {
        let set = Button::selectable(open.draft.ambiguous, "A  Ambiguous").frame_when_inactive(true);
        if ui.add(set.min_size(vec2(130.0, 30.0))).on_hover_text("It can be understood in several ways (A)").clicked() {
            wanted.push(Do::Ambiguous);
        }
        undo(ui, open, &mut wanted);
        ui.weak("The answer is kept, and the next question comes, once both are chosen");
    });
    open.early.say(ui, theme);
    wanted.into_iter().for_each(|wanted| act(open, turn, wanted, least, requests));
}

/// Says that everything is answered.
pub(super) fn done(ui: &mut Ui, theme: &Theme, open: &OpenCheck, requests: &mut Vec<CheckRequest>) {
    let mut wanted = pressed(ui, &KEYS, true);
    ui.add_space(60.0);
    ui.vertical_centered(|ui| {
        ui.heading("That was the last question");
        ui.label(format!("Thank you, {}: all {} are answered and kept.", open.rater, open.given));
        ui.label("The report shows the set's labels. Once you have seen it, your answers are final.");
        ui.add_space(12.0);
        let button = main_button(ui, theme, "Show the report", true);
        if button.on_hover_text("How far you agree with the set and with other raters").clicked() {
            requests.push(CheckRequest::Report);
        }
        ui.add_space(4.0);
        undo(ui, open, &mut wanted);
    });
    if wanted.contains(&Do::Undo) {
        requests.push(CheckRequest::Undo);
    }
}

/// Who answers, how far they are, and the keys. It shows neither the set's labels nor others' answers.
pub(super) fn aside(ui: &mut Ui, theme: &Theme, open: &OpenCheck, requests: &mut Vec<CheckRequest>) {
    let config = &open.validation.config;
    ui.label(RichText::new(config.name.replace(['-', '_'], " ")).strong()).on_hover_text(&config.set);
    if let Some(behaviour) = &config.behaviour {
        ui.label(format!("somebody who {behaviour}"));
    }
    ui.add_space(8.0);
    let seconds = open.median.map_or("–".to_owned(), |median| format!("{:.1} s", median as f64 / 1e3));
    let rows = [
        ("rater", open.rater.clone(), "Who answers"),
        (
            "answered",
            format!("{} of {}", open.given, open.turns.len()),
            "Each is on the disk before the next question appears",
        ),
        ("time", seconds, "Median time from a question's appearance to its answer"),
    ];
    facts(ui, theme, "rater", &rows);
    ui.add_space(12.0);
    ui.label(RichText::new("Keys").strong());
    let keys = [
        ("← →", "the answer that somebody with the behaviour would give"),
        ("↓", "can't tell"),
        ("1 to 5", "how much the question is about the behaviour: not at all, entirely"),
        ("A", "it can be understood in several ways; press it before the others"),
        ("Z", "take the last answer back"),
    ];
    egui::Grid::new("keys").num_columns(2).spacing([14.0, 6.0]).show(ui, |ui| {
        for (key, does) in keys {
            ui.label(RichText::new(key).strong());
            ui.add(Text::new(RichText::new(does).color(theme.weak_text)).wrap());
            ui.end_row();
        }
    });
    ui.add_space(12.0);
    ui.label("The set's labels and others' answers stay hidden until you have answered everything.");
    ui.add_space(8.0);
    if ui.button("Leave").on_hover_text("Back to all validations; every answer is kept, and you can go on").clicked() {
        requests.push(CheckRequest::Close);
    }
}

fn act(open: &mut OpenCheck, turn: Turn, wanted: Do, least: f64, requests: &mut Vec<CheckRequest>) {
    // What is taken back was seen.
    if open.early.seconds(open.since, if wanted == Do::Undo { 0.0 } else { least }).is_none() {
        return;
    }
    match wanted {
        Do::Undo => {
            requests.push(CheckRequest::Undo);
            return;
        }
        Do::Ambiguous => {
            open.draft.ambiguous = !open.draft.ambiguous;
            return;
        }
        Do::Choose(label) => open.draft.label = Some(label),
        Do::Relevance(relevance) => open.draft.relevance = Some(relevance),
    }
    let Draft { label: Some(label), relevance: Some(relevance), ambiguous } = open.draft else { return };
    let answers = &open.validation.items[turn.item].answers;
    let label = match label {
        Choice::Left => Some(answers[turn.first].clone()),
        Choice::Right => Some(answers[1 - turn.first].clone()),
        Choice::CannotTell => None,
    };
    requests.push(CheckRequest::Answer { turn, label, relevance, ambiguous });
}

fn header(ui: &mut Ui, theme: &Theme, open: &OpenCheck) {
    let (given, of) = (open.given, open.turns.len());
    ui.horizontal(|ui| {
        let hint = "This question, and how many there are";
        ui.label(format!("{} of {of}", given + 1)).on_hover_text(hint);
        let bar = ProgressBar::new(given as f32 / of.max(1) as f32).desired_height(6.0);
        ui.add(bar.fill(theme.accent.gamma_multiply(0.45))).on_hover_text(hint);
    });
}

/// The statement or question, large, in a card that scrolls where it is long.
fn text(ui: &mut Ui, theme: &Theme, turn: Turn, text: &str, height: f32) {
    // Choices stand below each other, from the left.
    let long = text.contains('\n') || text.chars().count() > LONG;
    let font = FontId::proportional(LETTERS[usize::from(long)]);
    card(ui, theme, 20, |ui| {
        let room = height - 40.0;
        let scroll = ScrollArea::vertical().id_salt(("text", turn.item, turn.repeat)).auto_shrink(false);
        scroll.max_height(room).show(ui, |ui| {
            let label = |ui: &mut Ui| ui.add(Text::new(RichText::new(text).font(font.clone())).wrap());
            if long {
                label(ui);
                return;
            }
            // Short ones stand in the middle.
            let galley = ui.painter().layout(text.to_owned(), font.clone(), theme.text, ui.available_width());
            ui.add_space(((room - galley.size().y) / 2.0).max(0.0));
            ui.vertical_centered(label);
        });
    });
}

fn answers(ui: &mut Ui, theme: &Theme, draft: Draft, answers: &[String; 2], wanted: &mut Vec<Do>) {
    let spacing = ui.spacing().item_spacing.x;
    let width = (ui.available_width() - 2.0 * spacing) / 3.0;
    let [left, right] = answers;
    let buttons: [(String, &str, Color32, Choice); 3] = [
        (format!("← {left}"), "Somebody with the behaviour would say this (left arrow)", theme.first, Choice::Left),
        ("↓ Can't tell".to_owned(), "Neither, or both (down arrow)", theme.weak_text, Choice::CannotTell),
        (format!("{right} →"), "Somebody with the behaviour would say this (right arrow)", theme.second, Choice::Right),
    ];
    ui.horizontal(|ui| {
        for (name, hint, color, label) in buttons {
            let on = draft.label == Some(label);
            let fill = if on { theme.faint(color, 0.3) } else { theme.card };
            let button = Button::new(RichText::new(name).size(17.0)).wrap().fill(fill);
            let outline = Stroke::new(if on { 3.0 } else { 2.0 }, color);
            if ui.add(button.stroke(outline).min_size(vec2(width, 46.0))).on_hover_text(hint).clicked() {
                wanted.push(Do::Choose(label));
            }
        }
    });
}

fn relevance(ui: &mut Ui, theme: &Theme, draft: Draft, wanted: &mut Vec<Do>) {
    ui.label("How much is the question about the behaviour?");
    let width = (ui.available_width() - 4.0 * ui.spacing().item_spacing.x) / 5.0;
    ui.horizontal(|ui| {
        for (relevance, name) in (1..).zip(["1  not at all", "2", "3", "4", "5  entirely"]) {
            let on = draft.relevance == Some(relevance);
            let fill = if on { theme.faint(theme.accent, 0.3) } else { theme.card };
            let button = Button::new(name).fill(fill).min_size(vec2(width, 34.0));
            if ui.add(button).on_hover_text(format!("Relevance {relevance} of 5 ({relevance})")).clicked() {
                wanted.push(Do::Relevance(relevance));
            }
        }
    });
}

fn undo(ui: &mut Ui, open: &OpenCheck, wanted: &mut Vec<Do>) {
    let button = Button::new("Z  Undo").min_size(vec2(90.0, 30.0));
    let hint = "Take the last answer back, and see its question again (Z)";
    if ui.add_enabled(open.given > 0, button).on_hover_text(hint).clicked() {
        wanted.push(Do::Undo);
    }
}
