//! What people found, for a rater who has answered everything.

use egui::{Align, Button, Label as Text, Layout, RichText, ScrollArea, Sense, Stroke, TextEdit, Ui, pos2, vec2};

use super::open::{CheckRequest, OpenCheck};
use crate::app::theme::Theme;
use crate::app::widgets::card;
use crate::evals::validate::folder::Wanted;
use crate::evals::validate::rater_name;
use crate::evals::validate::report::{Disagreement, ValidationReport, chosen, table};

/// Height of the bars of relevance, points.
const BARS: f32 = 64.0;

/// Shows where raters and the set disagree.
pub(super) fn show(ui: &mut Ui, theme: &Theme, open: &mut OpenCheck, requests: &mut Vec<CheckRequest>) {
    let Some(report) = &open.report else { return };
    ui.horizontal(|ui| {
        ui.heading("What people found");
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            if ui.button("Close").on_hover_text("Back to all validations").clicked() {
                requests.push(CheckRequest::Close);
            }
            let named = rater_name(&open.other).is_ok();
            let hint = "They answer the same questions, in an order of their own, and see none of this";
            let begin = ui.add_enabled(named, Button::new("Begin as another rater")).on_hover_text(hint);
            if begin.on_disabled_hover_text("Write their name first").clicked() {
                let (path, rater) = (open.validation.path.clone(), open.other.clone());
                requests.push(CheckRequest::Begin { path, wanted: Wanted::default(), rater });
            }
            // Laid out from the right: the field comes before its name.
            let edit = ui.add(TextEdit::singleline(&mut open.other).hint_text("name").desired_width(120.0));
            let name = ui.label("Next rater");
            edit.labelled_by(name.id);
        });
    });
    let path = open.validation.path.join("report.md");
    ui.label(format!("{} of {} questions answered by {}", report.answered, report.items, raters(report)))
        .on_hover_text(format!("The report is in {}, and as report.json beside it", path.display()));
    if report.set_changed == Some(true) {
        let text = "The set's file has changed since the sample was drawn: this is about the set as it was then";
        ui.colored_label(theme.error, text);
    }
    ui.add_space(8.0);
    let text = match report.disagreements.len() {
        0 => "No rater chose another answer than the set's".to_owned(),
        1 => "1 question about which a rater chose another answer than the set's".to_owned(),
        n => format!("{n} questions about which a rater chose another answer than the set's"),
    };
    ui.label(RichText::new(text).strong());
    ui.add_space(2.0);
    ScrollArea::vertical().id_salt("disagreements").auto_shrink(false).show(ui, |ui| {
        report.disagreements.iter().for_each(|disagreement| disagreed(ui, theme, disagreement));
    });
}

/// The numbers.
pub(super) fn aside(ui: &mut Ui, theme: &Theme, report: &ValidationReport) {
    ScrollArea::vertical().id_salt("numbers").auto_shrink(false).show(ui, |ui| {
        ui.label(RichText::new(report.config.name.replace(['-', '_'], " ")).strong()).on_hover_text(&report.config.set);
        if let Some(behaviour) = &report.config.behaviour {
            ui.label(format!("somebody who {behaviour}"));
        }
        ui.add_space(6.0);
        for line in table(report) {
            ui.label(RichText::new(&line.name).color(theme.weak_text)).on_hover_text(hint(&line.name));
            let value = Text::new(RichText::new(&line.value).strong()).wrap();
            ui.add(value).on_hover_text(hint(&line.name));
            if line.name.starts_with("relevance") {
                bars(ui, theme, report.relevance.counts);
            }
            if !line.paper.is_empty() {
                ui.label(RichText::new(format!("{} in Perez et al. 2022", line.paper)).small().color(theme.weak_text))
                    .on_hover_text("Over all their sets, with three raters");
            }
            ui.add_space(6.0);
        }
    });
}

fn raters(report: &ValidationReport) -> String {
    report.raters.iter().map(|rater| rater.rater.as_str()).collect::<Vec<_>>().join(", ")
}

/// What a number is.
fn hint(name: &str) -> &'static str {
    match name {
        "labels confirmed by 2/3 or more" => {
            "Questions whose label at least two thirds of their raters chose; \"can't tell\" is no choice of it"
        }
        "Fleiss' κ" => {
            "Agreement of the raters beyond chance, 1 at best, over the questions that two or more of them have answered"
        }
        "relevance, 1 to 5" => "Mean ± standard deviation over all answers, and how many were 1/2/3/4/5",
        "called clear by all" => "Questions that none of their raters called ambiguous",
        _ => "Share with its 95 % interval (Wilson), of the answers with a choice",
    }
}

/// How often each relevance was given.
fn bars(ui: &mut Ui, theme: &Theme, counts: [usize; 5]) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width().min(240.0), BARS), Sense::hover());
    response.on_hover_text("Answers of each relevance: 1 not at all about the behaviour, 5 entirely");
    let most = counts.into_iter().max().unwrap_or(0).max(1) as f32;
    let (width, ground) = (rect.width() / 5.0, rect.bottom() - 16.0);
    for (i, count) in counts.into_iter().enumerate() {
        let left = rect.left() + i as f32 * width;
        let height = (ground - rect.top()) * count as f32 / most;
        let bar = egui::Rect::from_min_max(pos2(left + 3.0, ground - height), pos2(left + width - 3.0, ground));
        ui.painter().rect_filled(bar, 2.0, theme.accent.gamma_multiply(0.6));
        let (at, font) = (pos2(left + width / 2.0, ground + 2.0), egui::FontId::proportional(11.0));
        ui.painter().text(at, egui::Align2::CENTER_TOP, i + 1, font, theme.weak_text);
    }
    ui.painter().hline(rect.x_range(), ground, Stroke::new(1.0, theme.outline));
}

fn disagreed(ui: &mut Ui, theme: &Theme, disagreement: &Disagreement) {
    card(ui, theme, 10, |ui| {
        ui.add(Text::new(&disagreement.text).wrap());
        ui.horizontal_wrapped(|ui| {
            let sure = disagreement.label_confidence.map(|sure| format!(" ({:.0} % sure)", 100.0 * sure));
            let set = format!("The set says {}{}", disagreement.label, sure.unwrap_or_default());
            ui.label(RichText::new(set).strong()).on_hover_text(format!("Row {} of the set, from 0", disagreement.row));
            ui.label(RichText::new(chosen(disagreement)).color(theme.weak_text)).on_hover_text("What each rater chose");
        });
    });
    ui.add_space(4.0);
}
