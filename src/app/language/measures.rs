//! What the answers have done to the model: numbers, curves, and its path beside the frontier.

use egui::{Button, Label as Text, RichText, ScrollArea, Ui};
use egui_plot::{Line, PlotPoints, Points};

use super::session::{LanguageRequest, OpenSession, phase, short};
use crate::app::compare::{expected, in_words, least_seconds};
use crate::app::curves;
use crate::app::theme::Theme;
use crate::app::widgets::{choice, facts};
use crate::engine::language::{LanguageCommand, LanguagePhase};
use crate::engine::shelf::Shelf;
use crate::lm::teach::{REVIEWS, TeachReport};
use crate::preference::Label;
use crate::preference::statistics::wilson_interval;

/// Updates that one point of the agreement's curve covers: a single one has too few answers for a share.
const WINDOW: usize = 4;

/// Height of a small curve, points.
const CURVE: f32 = 84.0;

/// Gold reward of the embedded world's frontier.
const GOLD: &str = "reviews:sentiment";

/// The numbers and curves on the right.
pub(super) fn aside(
    ui: &mut Ui,
    theme: &Theme,
    session: &mut OpenSession,
    least: &mut f64,
    requests: &mut Vec<LanguageRequest>,
) {
    buttons(ui, session, requests);
    least_seconds(ui, least);
    ui.separator();
    ScrollArea::vertical().id_salt("aside").auto_shrink(false).show(ui, |ui| {
        facts(ui, theme, "language-numbers", &numbers(session));
        last_answer(ui, theme, session);
        for remark in session.view.remarks.iter() {
            ui.add_space(4.0);
            ui.add(Text::new(RichText::new(remark).small().color(theme.weak_text)).wrap());
        }
        let reports = &session.view.reports;
        if reports.len() < 2 {
            ui.add_space(8.0);
            ui.add(Text::new(RichText::new("Curves appear once the model has learned").color(theme.weak_text)).wrap());
            return;
        }
        let over = |value: &dyn Fn(usize) -> Option<f64>| -> Vec<[f64; 2]> {
            (0..reports.len()).filter_map(|i| Some([reports[i].answered as f64, value(i)?])).collect()
        };
        let gold = over(&|i| Some(reports[i].sampled.gold?.mean));
        if !gold.is_empty() {
            let hint = "Gold reward of completions of held-out prompts, over answers; the model never sees it";
            small(ui, theme, "Gold reward", hint, gold, 0, &[]);
        }
        let hint = "Mean of log π − log π_ref over whole completions of held-out prompts, nats, over answers";
        small(ui, theme, "Divergence from the start, nats", hint, over(&|i| Some(reports[i].sampled.kl.mean)), 1, &[]);
        let agreement = over(&|i| {
            let [decided, agreed] = ahead(&reports[(i + 1).saturating_sub(WINDOW)..=i]);
            (decided > 0).then(|| 100.0 * agreed as f64 / decided as f64)
        });
        if !agreement.is_empty() {
            let hint = "Share of your answers that the model expected before it learned from them, over the last four \
                        updates, in per cent; half is chance";
            small(ui, theme, "Agreement, one step ahead, %", hint, agreement, 2, &[0.0, 100.0]);
        }
    });
}

fn buttons(ui: &mut Ui, session: &OpenSession, requests: &mut Vec<LanguageRequest>) {
    let live = !session.view.ended();
    let now = &session.view.phase;
    let paused = *now == LanguagePhase::Paused;
    let begun =
        live && !matches!(now, LanguagePhase::Opening | LanguagePhase::Making(_) | LanguagePhase::CatchingUp(..));
    ui.horizontal_wrapped(|ui| {
        let (name, hint, command) = match paused {
            true => ("Go on", "Let it learn again", LanguageCommand::Go),
            false => ("Pause", "Stop learning for now; answers are still taken", LanguageCommand::Pause),
        };
        if ui.add_enabled(begun, Button::new(name)).on_hover_text(hint).clicked() {
            requests.push(LanguageRequest::Send(command));
        }
        let hint = "Write the model as it is now into the session's folder (a Hugging Face folder, `model`)";
        if ui.add_enabled(begun, Button::new("Save model")).on_hover_text(hint).clicked() {
            requests.push(LanguageRequest::Send(LanguageCommand::Save));
        }
        if ui.button("Close session").on_hover_text("Save everything, and choose another").clicked() {
            requests.push(LanguageRequest::Close);
        }
    });
    if let Some(saved) = &session.view.saved {
        let as_it_was = if saved.steps == 0 { "; it is the model at the start: no answer was used" } else { "" };
        ui.weak(format!("saved after {} updates{as_it_was}", saved.updates)).on_hover_text(format!(
            "{}\nSHA-256 {}",
            saved.model.display(),
            saved.weights_sha256
        ));
    }
}

fn numbers(session: &OpenSession) -> Vec<(&'static str, String, &'static str)> {
    let view = &session.view;
    let skips = view.answers.labels.values().filter(|given| given.label == Label::Skip).count();
    let mut rows = vec![(
        "answers",
        format!("{} · {skips} skipped", view.answers.labels.len()),
        "Questions answered; skipped ones and those taken back are not learned from",
    )];
    if let Some(median) = view.answers.pace() {
        rows.push(("pace", format!("{median:.1} s"), "Median time of your answers, from the appearance of the pair"));
    }
    let (Some(first), Some(last)) = (view.reports.first(), view.reports.last()) else {
        rows.push(("state", phase(&view.phase), "What is going on"));
        return rows;
    };
    let hint = "How often it has learned from all answers so far, and the optimiser's steps in total";
    rows.push(("updates", format!("{} · {} steps", last.updates, last.step), hint));
    let [decided, agreed] = ahead(&view.reports);
    let hint = "Answers that the model's implicit reward expected before it had learned from them, of those with a \
                better side, and the 95 % interval of that share (Wilson); half is chance";
    rows.push((
        "agreement",
        match decided {
            0 => "–".to_owned(),
            _ => {
                let [low, high] = wilson_interval(agreed, decided).map(|share| 100.0 * share);
                let share = 100.0 * agreed as f64 / decided as f64;
                format!("{share:.0} % ({low:.0}–{high:.0})")
            }
        },
        hint,
    ));
    let sampled = &last.sampled;
    let hint = "How far it has moved: mean of log π − log π_ref over whole completions of held-out prompts, with its \
                standard error";
    rows.push(("divergence", format!("{}{} nats", signed(sampled.kl.mean), sampled.kl.plus_minus(2)), hint));
    if let (Some(now), Some(before)) = (sampled.gold, first.sampled.gold) {
        let hint = "Gold reward of completions of held-out prompts, with its standard error, now and at the \
                    start. The model never sees it";
        let value = format!("{}{}, was {}", signed(now.mean), now.plus_minus(2), signed(before.mean));
        rows.push(("gold reward", value, hint));
    }
    let hint = "Mean length of completions of held-out prompts, now and at the start";
    let length = format!("{:.0} tokens, was {:.0}", sampled.length.mean, first.sampled.length.mean);
    rows.push(("length", length, hint));
    if let Some(loss) = last.loss {
        rows.push((
            "loss",
            format!("{loss:.2} nats"),
            "DPO's loss in the last step; ln 2 = 0.69 where nothing is known",
        ));
    }
    rows
}

/// Two decimals, without the minus of a rounded zero.
fn signed(value: f64) -> String {
    format!("{:.2}", (value * 100.0).round() / 100.0 + 0.0)
}

/// What the model thought of the last pair; shown only after the answer, so as not to lead.
fn last_answer(ui: &mut Ui, theme: &Theme, session: &OpenSession) {
    let view = &session.view;
    let Some(last) = session.compare.last().and_then(|query| view.pairs.get(&query)) else { return };
    let Some(given) = view.answers.labels.get(&last.query) else { return };
    ui.add_space(8.0);
    ui.add(Text::new(format!("You said {}", in_words(given.label, "completion"))).wrap());
    if last.update > 0 {
        let text = RichText::new(expected("model", "completion", last.predicted)).color(theme.weak_text);
        ui.add(Text::new(text).wrap())
            .on_hover_text("By its implicit reward β·(log π − log π_ref), when it wrote the pair");
    }
}

/// Answers with a better side, and how many were expected.
fn ahead(reports: &[TeachReport]) -> [usize; 2] {
    reports.iter().fold([0, 0], |sum, report| [sum[0] + report.ahead[0], sum[1] + report.ahead[1]])
}

fn small(ui: &mut Ui, theme: &Theme, name: &str, hint: &str, points: Vec<[f64; 2]>, color: usize, bounds: &[f64]) {
    ui.add_space(8.0);
    ui.label(RichText::new(name).color(theme.weak_text)).on_hover_text(hint);
    let plot = bounds.iter().fold(curves::empty(theme, name, CURVE).include_x(0.0), |plot, y| plot.include_y(*y));
    let plot = curves::with_height(plot, points.iter().map(|point| point[1]).chain(bounds.iter().copied()));
    plot.show(ui, |plot| {
        plot.line(Line::new(name, PlotPoints::from(points.clone())).color(theme.curve(color)).width(2.0));
        plot.points(Points::new(name, PlotPoints::from(points)).color(theme.curve(color)).radius(2.5));
    });
}

/// The frontiers that were measured, with this session's path.
pub(super) fn frontier(ui: &mut Ui, theme: &Theme, shelf: &Shelf, chosen: &mut usize, session: Option<&OpenSession>) {
    let path = session.and_then(path);
    *chosen = (*chosen).min(shelf.frontiers.len().saturating_sub(1));
    let shown = shelf.frontiers.get(*chosen);
    ui.horizontal_wrapped(|ui| {
        ui.heading("Gold reward against divergence");
        if shown.is_some() {
            let names: Vec<&str> = shelf.frontiers.iter().map(|curves| curves.name.as_str()).collect();
            choice(ui, "of", "Which frontier, by the name of its run folder", &names, chosen);
        }
    });
    let text = match shown {
        None => {
            "There is no frontier here yet. `pairwise lm frontier --out runs/frontier` measures one: how much gold \
                 reward DPO, PPO and others get for how far they move from the model they begin with"
                .to_owned()
        }
        Some(shown) => format!(
            "A dot for every policy measured; a line for the best within each divergence, mean over {} {} with its \
             95 % interval. Models of {} parameters on {}",
            shown.seeds,
            if shown.seeds == 1 { "seed" } else { "seeds" },
            shown.size,
            shown.corpus
        ),
    };
    ui.add(Text::new(RichText::new(text).color(theme.weak_text)).wrap())
        .on_hover_text("Rafailov et al. 2023 (arXiv 2305.18290), figure 2 left");
    let comparable = shown.is_none_or(|shown| shown.corpus == REVIEWS);
    match (session, &path) {
        (Some(_), None) => {
            ui.label("This session's prompts have no gold reward, so it has no path here");
        }
        (Some(_), Some(_)) if !comparable => {
            ui.label("This session's path is not drawn: its gold reward differs from this frontier's");
        }
        _ => {}
    }
    let path = path.filter(|_| comparable);
    if shown.is_none() && path.is_none() {
        return;
    }
    // Room for the last number and the axis' name below the plot.
    ui.set_max_width(ui.available_width() - 16.0);
    let height = (ui.available_height() - 8.0).max(200.0);
    let plot = curves::empty(theme, "frontier", height).legend(curves::legend()).include_x(0.0);
    let plot = plot.x_axis_label("sampled sequence KL to the start, nats").y_axis_label("gold reward");
    plot.show(ui, |plot| {
        if let Some(shown) = shown {
            curves::overlay(plot, theme, &shown.series, 0, &|value| value);
        }
        if let Some(path) = path {
            let name =
                session.map_or(String::new(), |session| format!("this session ({})", short(&session.view.folder)));
            let last = path.last().copied().unwrap_or_default();
            plot.line(Line::new(name.as_str(), PlotPoints::from(path.clone())).color(theme.text).width(2.5));
            plot.points(Points::new(name.as_str(), PlotPoints::from(path)).color(theme.text).radius(3.0));
            plot.points(Points::new("", PlotPoints::from(vec![last])).color(theme.accent).radius(6.0));
        }
    });
}

/// Divergence and gold reward after each update, where the gold reward is the embedded world's.
fn path(session: &OpenSession) -> Option<Vec<[f64; 2]>> {
    if session.view.config.as_ref()?.gold != GOLD {
        return None;
    }
    let point = |report: &TeachReport| Some([report.sampled.kl.mean.max(0.0), report.sampled.gold?.mean]);
    let points: Vec<[f64; 2]> = session.view.reports.iter().filter_map(point).collect();
    (!points.is_empty()).then_some(points)
}
