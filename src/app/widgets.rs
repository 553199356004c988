//! Small things that several panels draw.

use std::path::{Path, PathBuf};
use std::time::Duration;

use egui::{
    Button, ComboBox, DragValue, Frame, Grid, Panel as Side, Response, RichText, Role, ScrollArea, Stroke, Ui,
    WidgetInfo, vec2,
};

use super::theme::Theme;
use crate::disk::Damaged;

/// Height of the list of folders that cannot be read, points.
const UNREADABLE: f32 = 110.0;

/// Frames a second while something moves.
const FRAMES_PER_SECOND: f64 = 60.0;

/// A panel on the right. `widths`: the width at first, and the least width, points.
pub(super) fn aside(ui: &mut Ui, theme: &Theme, id: &'static str, widths: [f32; 2], content: impl FnOnce(&mut Ui)) {
    let frame = Frame::new().fill(theme.panel).inner_margin(12);
    Side::right(id).default_size(widths[0]).min_size(widths[1]).frame(frame).show(ui, content);
}

/// A card as wide as there is room.
pub(super) fn card(ui: &mut Ui, theme: &Theme, margin: i8, content: impl FnOnce(&mut Ui)) {
    let frame = Frame::new().fill(theme.card).stroke(Stroke::new(1.0, theme.outline));
    frame.corner_radius(8).inner_margin(margin).show(ui, |ui| {
        ui.set_min_width(ui.available_width());
        content(ui);
    });
}

/// Names and values, with what each is.
pub(super) fn facts<N: AsRef<str>>(ui: &mut Ui, theme: &Theme, id: &str, rows: &[(&str, N, &str)]) {
    Grid::new(id).num_columns(2).spacing([14.0, 4.0]).min_row_height(20.0).show(ui, |ui| {
        for (name, value, hint) in rows {
            ui.label(RichText::new(*name).color(theme.weak_text)).on_hover_text(*hint);
            ui.label(RichText::new(value.as_ref()).strong()).on_hover_text(*hint);
            ui.end_row();
        }
    });
}

/// The one button of a screen that matters most.
pub(super) fn main_button(ui: &mut Ui, theme: &Theme, name: &str, enabled: bool) -> Response {
    let text = RichText::new(name).strong().color(theme.accent_text);
    ui.add_enabled(enabled, Button::new(text).fill(theme.accent).min_size(vec2(140.0, 36.0)))
}

/// The button that begins something in a folder, or why it cannot begin. What is to begin, once it was clicked.
/// `doing`: what stands before the folder's name.
pub(super) fn begin_button<T>(
    ui: &mut Ui,
    theme: &Theme,
    name: &str,
    (doing, hint): (&str, &str),
    busy: bool,
    begin: Result<(T, PathBuf), String>,
) -> Option<(T, PathBuf)> {
    ui.horizontal_wrapped(|ui| {
        let clicked = main_button(ui, theme, name, begin.is_ok() && !busy).clicked();
        match begin {
            Ok((what, path)) => {
                ui.weak(format!("{doing} {}", path.display())).on_hover_text(hint);
                clicked.then_some((what, path))
            }
            Err(reason) => {
                ui.weak(reason);
                None
            }
        }
    })
    .inner
}

/// A button whose name for screen readers says more than its text. Whether it was clicked.
pub(super) fn named(ui: &mut Ui, text: &str, name: &str, hint: &str, enabled: bool) -> bool {
    let response = ui.add_enabled(enabled, Button::new(text));
    response.widget_info(|| WidgetInfo::labeled(Role::Button, enabled, name));
    response.on_hover_text(hint).on_disabled_hover_text(hint).clicked()
}

/// A number with its name.
pub(super) fn number(ui: &mut Ui, name: &str, hint: &str, value: DragValue<'_>) {
    let name = ui.label(name).on_hover_text(hint).id;
    ui.add(value).labelled_by(name).on_hover_text(hint);
}

/// One of several names, with what is chosen before it. Whether another one was chosen.
pub(super) fn choice<N: AsRef<str>>(ui: &mut Ui, label: &str, hint: &str, names: &[N], chosen: &mut usize) -> bool {
    let (id, before) = (ui.label(label).on_hover_text(hint).id, *chosen);
    let text = names.get(before).map_or("", AsRef::as_ref);
    let shown = ComboBox::from_id_salt(label).selected_text(text).show_ui(ui, |ui| {
        for (i, name) in names.iter().enumerate() {
            ui.selectable_value(chosen, i, name.as_ref());
        }
    });
    shown.response.labelled_by(id).on_hover_text(hint);
    *chosen != before
}

/// A button that is on or off. Whether it was clicked.
pub(super) fn toggle(ui: &mut Ui, on: bool, name: &str, hint: &str) -> bool {
    let response = ui.add(Button::selectable(on, name).frame_when_inactive(true));
    response.on_hover_text(hint).on_disabled_hover_text(hint).clicked()
}

/// Folders that cannot be read, and why. `runs` is the folder of all runs.
pub(super) fn unreadable(ui: &mut Ui, theme: &Theme, runs: &Path, damaged: &[Damaged]) {
    if damaged.is_empty() {
        return;
    }
    ui.add_space(4.0);
    ui.label(RichText::new("Cannot be read").color(theme.weak_text));
    ScrollArea::vertical().id_salt("unreadable").max_height(UNREADABLE).auto_shrink([false, true]).show(ui, |ui| {
        for Damaged { path, problem } in damaged {
            ui.horizontal_wrapped(|ui| {
                let name = path.strip_prefix(runs).ok().filter(|name| !name.as_os_str().is_empty()).unwrap_or(path);
                ui.label(RichText::new(name.display().to_string()).strong()).on_hover_text(path.display().to_string());
                ui.colored_label(theme.error, problem);
            });
        }
    });
    ui.add_space(4.0);
}

/// Keeps moving pictures moving.
pub(super) fn animate(ui: &Ui) {
    ui.ctx().request_repaint_after(Duration::from_secs_f64(1.0 / FRAMES_PER_SECOND));
}
