//! Colours and type, read from `assets/themes`: the only place that makes a colour.

use std::sync::OnceLock;

use egui::{Color32, CornerRadius, FontDefinitions, FontFamily, FontId, Stroke, TextStyle, Theme as Mode, Visuals};
use pairwise_envs::Ink;
use serde::{Deserialize, Deserializer};

/// Colours of one mode.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Theme {
    /// Behind everything.
    #[serde(deserialize_with = "color")]
    pub background: Color32,
    /// Side panels and the rail.
    #[serde(deserialize_with = "color")]
    pub panel: Color32,
    /// Cards and stages.
    #[serde(deserialize_with = "color")]
    pub card: Color32,
    /// Lines around cards.
    #[serde(deserialize_with = "color")]
    pub outline: Color32,
    /// Text.
    #[serde(deserialize_with = "color")]
    pub text: Color32,
    /// Secondary text.
    #[serde(deserialize_with = "color")]
    pub weak_text: Color32,
    /// The one accent.
    #[serde(deserialize_with = "color")]
    pub accent: Color32,
    /// Text on the accent.
    #[serde(deserialize_with = "color")]
    pub accent_text: Color32,
    /// Errors.
    #[serde(deserialize_with = "color")]
    pub error: Color32,
    /// The clip shown first.
    #[serde(deserialize_with = "color")]
    pub first: Color32,
    /// The clip shown second.
    #[serde(deserialize_with = "color")]
    pub second: Color32,
    /// Rail, hill, ground line.
    #[serde(deserialize_with = "color")]
    pub ground: Color32,
    /// The moving body.
    #[serde(deserialize_with = "color")]
    pub body: Color32,
    /// Its lighter part.
    #[serde(deserialize_with = "color")]
    pub body_light: Color32,
    /// Joints and wheels.
    #[serde(deserialize_with = "color")]
    pub joint: Color32,
    /// Where to go.
    #[serde(deserialize_with = "color")]
    pub target: Color32,
    /// The action.
    #[serde(deserialize_with = "color")]
    pub action: Color32,
    /// The path so far.
    #[serde(deserialize_with = "color")]
    pub trail: Color32,
    /// Low end of the scale of heat maps, whose middle is `card`.
    #[serde(deserialize_with = "color")]
    pub low: Color32,
    /// Its high end.
    #[serde(deserialize_with = "color")]
    pub high: Color32,
    /// Curves, in order.
    #[serde(deserialize_with = "colors")]
    pub curves: Vec<Color32>,
}

impl Theme {
    /// The colours of a mode.
    pub(crate) fn of(mode: Mode) -> &'static Self {
        let read = |text| toml::from_str(text).expect("the built-in themes are read by a test");
        match mode {
            Mode::Light => {
                static LIGHT: OnceLock<Theme> = OnceLock::new();
                LIGHT.get_or_init(|| read(include_str!("../../assets/themes/light.toml")))
            }
            Mode::Dark => {
                static DARK: OnceLock<Theme> = OnceLock::new();
                DARK.get_or_init(|| read(include_str!("../../assets/themes/dark.toml")))
            }
        }
    }

    /// Colour of a shape.
    pub(crate) fn ink(&self, ink: Ink) -> Color32 {
        match ink {
            Ink::Ground => self.ground,
            Ink::Body => self.body,
            Ink::BodyLight => self.body_light,
            Ink::Joint => self.joint,
            Ink::Target => self.target,
            // Mixed, not transparent: parts of a shape overlap.
            Ink::Action => self.faint(self.action, 0.6),
            Ink::Trail => self.faint(self.trail, 0.35),
        }
    }

    /// A colour as on a card with this opacity.
    pub(crate) fn faint(&self, color: Color32, opacity: f32) -> Color32 {
        self.card.lerp_to_gamma(color, opacity)
    }

    /// Colour of a value in −1..1 on a heat map.
    pub(crate) fn heat(&self, value: f64) -> Color32 {
        let end = if value < 0.0 { self.low } else { self.high };
        self.card.lerp_to_gamma(end, value.abs().min(1.0) as f32)
    }

    /// Colour of curve `i`.
    pub(crate) fn curve(&self, i: usize) -> Color32 {
        self.curves[i % self.curves.len()]
    }
}

/// Makes both modes known to egui.
pub(crate) fn install(ctx: &egui::Context) {
    // The keys' arrows, and what a language model may write, are not all in the font of the text.
    let mut fonts = FontDefinitions::default();
    fonts.families.entry(FontFamily::Proportional).or_default().push("Hack".to_owned());
    ctx.set_fonts(fonts);
    for mode in [Mode::Light, Mode::Dark] {
        let theme = Theme::of(mode);
        ctx.style_mut_of(mode, |style| {
            style.visuals = visuals(mode, theme);
            style.spacing.item_spacing = egui::vec2(8.0, 6.0);
            style.spacing.button_padding = egui::vec2(10.0, 5.0);
            style.spacing.interact_size.y = 26.0;
            let sizes = [
                (TextStyle::Small, 11.5),
                (TextStyle::Body, 14.0),
                (TextStyle::Button, 14.0),
                (TextStyle::Heading, 20.0),
            ];
            for (name, size) in sizes {
                style.text_styles.insert(name, FontId::new(size, FontFamily::Proportional));
            }
            style.text_styles.insert(TextStyle::Monospace, FontId::new(13.0, FontFamily::Monospace));
        });
    }
}

fn visuals(mode: Mode, theme: &Theme) -> Visuals {
    let mut visuals = mode.default_visuals();
    visuals.panel_fill = theme.background;
    visuals.window_fill = theme.card;
    visuals.extreme_bg_color = theme.card;
    visuals.faint_bg_color = theme.panel;
    visuals.window_stroke = Stroke::new(1.0, theme.outline);
    visuals.hyperlink_color = theme.accent;
    visuals.error_fg_color = theme.error;
    visuals.selection.bg_fill = theme.accent.gamma_multiply(0.25);
    visuals.selection.stroke = Stroke::new(1.0, theme.accent);
    visuals.weak_text_color = Some(theme.weak_text);
    let widgets = &mut visuals.widgets;
    for state in [
        &mut widgets.noninteractive, &mut widgets.inactive, &mut widgets.hovered, &mut widgets.active,
        &mut widgets.open,
    ] {
        state.corner_radius = CornerRadius::same(6);
        state.fg_stroke = Stroke::new(1.0, theme.text);
        state.bg_stroke = Stroke::new(1.0, theme.outline);
    }
    widgets.inactive.weak_bg_fill = theme.card;
    widgets.inactive.bg_fill = theme.outline;
    widgets.hovered.weak_bg_fill = theme.accent.gamma_multiply(0.12);
    widgets.hovered.bg_stroke = Stroke::new(1.0, theme.accent);
    widgets.active.weak_bg_fill = theme.accent.gamma_multiply(0.25);
    widgets.active.bg_stroke = Stroke::new(1.0, theme.accent);
    visuals
}

fn color<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Color32, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn colors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Color32>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|t| parse(t).map_err(serde::de::Error::custom)).collect()
}

fn parse(text: &str) -> Result<Color32, String> {
    Color32::from_hex(text).map_err(|_| format!("'{text}' is not a colour like #2f6fde"))
}

#[cfg(test)]
mod tests {
    use super::{Mode, Theme};

    /// Relative luminance and contrast of WCAG 2.1.
    fn contrast(a: egui::Color32, b: egui::Color32) -> f32 {
        let luminance = |c: egui::Color32| {
            let [r, g, b, _] = egui::Rgba::from(c).to_array();
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn themes_are_readable_and_keep_blue_and_orange_for_the_two_clips() {
        for mode in [Mode::Light, Mode::Dark] {
            let theme = Theme::of(mode);
            for ground in [theme.background, theme.panel, theme.card] {
                assert!(contrast(theme.text, ground) >= 7.0, "{mode:?}");
                assert!(contrast(theme.weak_text, ground) >= 4.5, "{mode:?} {}", contrast(theme.weak_text, ground));
                assert!(contrast(theme.error, ground) >= 4.5, "{mode:?}");
            }
            assert!(contrast(theme.accent_text, theme.accent) >= 4.5, "{mode:?}");
            let others = theme.curves.iter().chain([&theme.accent, &theme.target]);
            assert!(others.into_iter().all(|c| *c != theme.first && *c != theme.second));
        }
    }
}
