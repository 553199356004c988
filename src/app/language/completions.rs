//! Two completions of a prompt: which is better? And the model beside what it was.

use egui::containers::scroll_area::{DragScroll, ScrollSource};
use egui::text::{LayoutJob, TextFormat};
use egui::{
    Button, Color32, FontId, Key, Label as Text, ProgressBar, Rect, RichText, Role, ScrollArea, Sense, Stroke,
    StrokeKind, TextEdit, Ui, UiBuilder, WidgetInfo, vec2,
};

use super::session::{LanguageRequest, OpenSession, phase, short};
use crate::app::compare::{Do, keys};
use crate::app::theme::Theme;
use crate::engine::language::{Begin, LanguageCommand, LanguagePhase};
use crate::lm::teach::TeachQuestion;

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

/// Names of the buttons.
const NAMES: [(Do, &str); 6] = [
    (Do::Left, "← Left"),
    (Do::Equal, "↑ Equal"),
    (Do::Skip, "↓ Can't tell"),
    (Do::Right, "Right →"),
    (Do::Undo, "Z Undo"),
    (Do::Swap, "S Swap"),
];

pub(super) fn show(
    ui: &mut Ui,
    theme: &Theme,
    session: &mut OpenSession,
    least: f64,
    requests: &mut Vec<LanguageRequest>,
) {
    let mut wanted = keys(ui);
    let query = session.compare.current(&session.view.answers);
    match query.and_then(|query| session.view.pairs.get(&query)).cloned() {
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
                session.compare.buttons(ui, theme, "completion", &NAMES, &mut wanted);
                until_it_learns(ui, theme, session);
                changes(ui, theme, session, change, requests);
            });
        }
        None => {
            empty(ui, theme, session, requests);
            if !session.view.reports.is_empty() && !session.view.ended() {
                ui.add_space(24.0);
                let room = ui.available_height().clamp(CHANGE, 320.0);
                changes(ui, theme, session, room, requests);
            }
        }
    }
    for wanted in wanted {
        let saying = session.compare.act(wanted, &session.view.answers, least);
        requests.extend(saying.map(|saying| LanguageRequest::Send(LanguageCommand::Say(saying))));
    }
}

fn header(ui: &mut Ui, session: &OpenSession) {
    ui.horizontal(|ui| {
        ui.heading("Which completion is better?");
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            ui.label(format!("{} answered", session.view.answers.labels.len()))
                .on_hover_text("Questions answered or skipped in this session");
            ui.weak(phase(&session.view.phase));
        });
    });
}

fn prompt(ui: &mut Ui, theme: &Theme, question: &TeachQuestion) {
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
    session: &OpenSession,
    question: &TeachQuestion,
    height: f32,
    wanted: &mut Vec<Do>,
) {
    let most = session.view.config.as_ref().map_or(usize::MAX, |config| config.max_new_tokens);
    session.compare.sides(ui, theme, "completion", height, wanted, |ui, rect, which| {
        let tokens = question.ids[which].len();
        let end = if tokens < most { "ends here" } else { "cut here" };
        let below = format!("{tokens} tokens · {end}");
        let id = ("completion", question.query, which);
        written(ui, theme, rect, id, &question.prompt, &question.completions[which], &below);
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

/// How many answers the next update still takes, or how far it is.
fn until_it_learns(ui: &mut Ui, theme: &Theme, session: &OpenSession) {
    let (now, given) = (&session.view.phase, session.view.given());
    let every = session.view.config.as_ref().map_or(1, |config| config.answers_per_update).max(1);
    let (share, text) = match now {
        LanguagePhase::Learning(step, of) => {
            (*step as f32 / (*of).max(1) as f32, format!("learning from your answers: step {} of {of}", step + 1))
        }
        LanguagePhase::Measuring | LanguagePhase::Writing => (1.0, phase(now)),
        _ => (given as f32 / every as f32, format!("{given} of {every} answers until it learns")),
    };
    ui.add_space(2.0);
    let bar = ProgressBar::new(share.min(1.0)).desired_height(16.0).fill(theme.accent.gamma_multiply(0.45));
    ui.add(bar.text(RichText::new(text).small().color(theme.text)))
        .on_hover_text("You can go on answering while it learns; those answers count the next time");
    ui.add_space(2.0);
}

/// A text, completed by the model at the start and by the model now.
fn changes(ui: &mut Ui, theme: &Theme, session: &mut OpenSession, room: f32, requests: &mut Vec<LanguageRequest>) {
    let top = ui.cursor().top();
    // The first prompt, until the user writes another text.
    let ready = !matches!(
        session.view.phase,
        LanguagePhase::Opening | LanguagePhase::Making(_) | LanguagePhase::CatchingUp(..)
    );
    if ready && session.asked.is_none() && session.text.is_empty() {
        session.text = session.view.next().map_or(String::new(), |question| question.prompt.clone());
        session.complete(requests);
    }
    ui.horizontal(|ui| {
        let name = ui.label(RichText::new("The model changes").strong()).on_hover_text(
            "A text of yours, completed by the model as it was at the start and as it is now, with the same random \
             draws. It is completed anew after every update",
        );
        let width = (ui.available_width() - 158.0).max(80.0);
        let edit =
            TextEdit::singleline(&mut session.text).hint_text("Write the beginning of a text").desired_width(width);
        let edit = ui.add(edit).labelled_by(name.id);
        let entered = edit.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
        let enabled = ready && !session.text.is_empty();
        let clicked = ui.add_enabled(enabled, Button::new("Complete")).on_hover_text("By both (Enter)").clicked();
        if enabled && (clicked || entered) {
            session.complete(requests);
        }
        if ui.add_enabled(enabled, Button::new("Again")).on_hover_text("With other random draws").clicked() {
            session.draw += 1;
            session.complete(requests);
        }
    });
    let Some(comparison) = &session.view.comparison else {
        if session.asked.is_some() {
            ui.weak("Both completions appear in a moment");
        }
        return;
    };
    let stale = session.asked.as_ref().is_some_and(|asked| *asked != (comparison.text.clone(), comparison.draw));
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

/// Nothing to answer at the moment.
fn empty(ui: &mut Ui, theme: &Theme, session: &OpenSession, requests: &mut Vec<LanguageRequest>) {
    ui.add_space(40.0);
    ui.vertical_centered(|ui| match &session.view.phase {
        LanguagePhase::Making(progress) => {
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
        LanguagePhase::Stopped => {
            ui.heading("The session is closed");
            ui.label(format!("Everything is kept in {}", session.view.folder.display()));
            resume(ui, session, requests);
        }
        LanguagePhase::Failed(reason) => {
            ui.heading("The session ended");
            ui.colored_label(theme.error, reason);
            ui.label(format!("Every answer is kept in {}", session.view.folder.display()));
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

fn resume(ui: &mut Ui, session: &OpenSession, requests: &mut Vec<LanguageRequest>) {
    ui.add_space(8.0);
    let there = session.view.folder.join("labels.jsonl").is_file();
    if there && ui.button("Resume").on_hover_text("Go on from its ledger").clicked() {
        requests.push(LanguageRequest::Begin(Begin::Open, session.view.folder.clone()));
    }
    if ui.button("Choose another model").on_hover_text("Back to the models and sessions").clicked() {
        requests.push(LanguageRequest::Close);
    }
}

/// A time in words, about.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 90.0 => format!("about {:.0} min left", (s / 60.0).ceil()),
        s => format!("about {:.0} s left", s.ceil()),
    }
}
