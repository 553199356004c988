//! Where clips are drawn: states become scenes, scenes become shapes, at any size.

use egui::epaint::PathStroke;
use egui::{Color32, Mesh, Painter, Pos2, Rect, Shape as Painted, Stroke, pos2};
use pairwise_envs::{Env, EnvSpec, Point, Scene, Shape};

use super::theme::Theme;

/// States whose tracked point is shown as a trail, as in exported films.
const TRAIL: usize = 12;

/// An environment that only draws states.
pub(crate) struct Canvas {
    env: Box<dyn Env>,
    scene: Scene,
    trail: Vec<Point>,
}

/// A clip that plays in a loop.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Player {
    /// Position in frames.
    pub position: f64,
    /// Whether it moves.
    pub playing: bool,
    /// Speed as a share of real time.
    pub speed: f64,
}

impl Canvas {
    /// For an environment; `None` where there is none of this name.
    pub(crate) fn new(env: &str) -> Option<Self> {
        let env = pairwise_envs::make(env).ok()?;
        Some(Self { env, scene: Scene::default(), trail: Vec::new() })
    }

    /// What is drawn here.
    pub(crate) fn spec(&self) -> &'static EnvSpec {
        self.env.spec()
    }

    /// Frames in a list of states.
    pub(crate) fn frames(&self, states: &[f64]) -> usize {
        states.len() / self.spec().saved_len
    }

    /// Draws frame `frame` of `states` into `rect`, in one colour where `tint` is given.
    pub(crate) fn draw(
        &mut self,
        painter: &Painter,
        rect: Rect,
        states: &[f64],
        frame: usize,
        theme: &Theme,
        tint: Option<Color32>,
    ) {
        let saved = self.spec().saved_len;
        self.trail.clear();
        for shown in frame.saturating_sub(TRAIL)..=frame {
            let Some(state) = states.get(shown * saved..(shown + 1) * saved) else { return };
            if self.env.load(state).is_err() {
                return;
            }
            self.env.draw(&mut self.scene);
            self.trail.extend(self.scene.tracked);
        }
        paint(&painter.with_clip_rect(rect), rect, &self.scene, &self.trail, theme, tint);
    }
}

impl Default for Player {
    fn default() -> Self {
        Self { position: 0.0, playing: true, speed: 1.0 }
    }
}

/// Speeds that `[` and `]` go through.
const SPEEDS: [f64; 7] = [0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0];

impl Player {
    /// Moves on by `seconds` of real time; `dt` is the time of one of `frames` frames.
    pub(crate) fn advance(&mut self, seconds: f64, dt: f64, frames: usize) {
        if self.playing && frames > 0 {
            self.position = (self.position + seconds.min(0.1) * self.speed / dt).rem_euclid(frames as f64);
        }
    }

    /// The frame to show.
    pub(crate) fn frame(&self, frames: usize) -> usize {
        (self.position.max(0.0) as usize).min(frames.saturating_sub(1))
    }

    /// Stops, and moves by whole frames.
    pub(crate) fn step(&mut self, by: i64, frames: usize) {
        self.playing = false;
        let frames = i64::try_from(frames.max(1)).unwrap_or(i64::MAX);
        self.position = (self.position.floor() as i64 + by).rem_euclid(frames) as f64;
    }

    /// The next speed up or down.
    pub(crate) fn change_speed(&mut self, by: i64) {
        let now = SPEEDS.iter().position(|&speed| speed >= self.speed).unwrap_or(SPEEDS.len() - 1);
        let next = now.saturating_add_signed(by as isize).min(SPEEDS.len() - 1);
        self.speed = SPEEDS[next];
    }
}

/// Paints a scene, with the path that its tracked point has taken, oldest first. The view keeps its proportions.
fn paint(painter: &Painter, rect: Rect, scene: &Scene, trail: &[Point], theme: &Theme, tint: Option<Color32>) {
    let [w, h] = [0, 1].map(|i| (scene.max[i] - scene.min[i]).max(1e-6));
    let scale = (rect.width() / w).min(rect.height() / h);
    let (middle, center) = ([0, 1].map(|i| (scene.max[i] + scene.min[i]) / 2.0), rect.center());
    // World to screen: y points up in the world and down on the screen.
    let at = |p: &Point| pos2(center.x + (p[0] - middle[0]) * scale, center.y - (p[1] - middle[1]) * scale);
    let color = |ink| tint.unwrap_or_else(|| theme.ink(ink));
    if trail.len() > 1 {
        let (points, ink) = (curved(&trail.iter().map(&at).collect::<Vec<Pos2>>()), tint.unwrap_or(theme.trail));
        let path = points.clone();
        // One line whose strength grows from its oldest point to the newest, so that no joints show.
        let fading = move |_, here: Pos2| {
            let near = |i: &usize| path[*i].distance_sq(here);
            let newest = (0..path.len()).min_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or_default();
            ink.gamma_multiply(0.35 * newest as f32 / path.len() as f32)
        };
        painter.add(Painted::line(points, PathStroke::new_uv(0.012 * w * scale, fading)));
    }
    for shape in &scene.shapes {
        match shape {
            Shape::Circle { center, radius, ink } => {
                painter.circle_filled(at(center), radius * scale, color(*ink));
            }
            Shape::Capsule { from, to, radius, ink } => {
                thick(painter, &[at(from), at(to)], radius * scale, color(*ink));
            }
            Shape::Polygon { points, rounding, ink } => {
                let corners: Vec<Pos2> = points.iter().map(&at).collect();
                painter.add(Painted::convex_polygon(rounded(&corners, rounding * scale), color(*ink), Stroke::NONE));
            }
            Shape::Area { surface, bottom, ink } => {
                let mut mesh = Mesh::default();
                for (i, point) in surface.iter().enumerate() {
                    mesh.colored_vertex(at(point), color(*ink));
                    mesh.colored_vertex(at(&[point[0], *bottom]), color(*ink));
                    if i > 0 {
                        let here = 2 * i as u32;
                        mesh.add_triangle(here - 2, here - 1, here);
                        mesh.add_triangle(here - 1, here, here + 1);
                    }
                }
                painter.add(mesh);
            }
            Shape::Polyline { points, radius, ink } => {
                let points: Vec<Pos2> = points.iter().map(&at).collect();
                thick(painter, &points, radius * scale, color(*ink));
            }
        }
    }
}

/// A line with round ends and joints.
fn thick(painter: &Painter, points: &[Pos2], radius: f32, color: Color32) {
    painter.add(Painted::line(points.to_vec(), Stroke::new(2.0 * radius, color)));
    // Below a pixel nobody sees whether an end is round.
    if radius > 0.7 {
        for end in [points.first(), points.last()].into_iter().flatten() {
            painter.circle_filled(*end, radius, color);
        }
    }
}

/// A smooth line through points (Catmull and Rom's).
fn curved(points: &[Pos2]) -> Vec<Pos2> {
    const PARTS: usize = 4;
    let last = points.len().saturating_sub(1);
    let mut line = Vec::with_capacity(PARTS * last + 1);
    for i in 0..last {
        let (a, b, c, d) = (points[i.saturating_sub(1)], points[i], points[i + 1], points[(i + 2).min(last)]);
        let (from, to) = (0.5 * (c - a), 0.5 * (d - b));
        line.extend((0..PARTS).map(|part| {
            let t = part as f32 / PARTS as f32;
            let bend = (b - c) * 2.0 + from + to;
            let slope = (c - b) * 3.0 - from * 2.0 - to;
            b + ((bend * t + slope) * t + from) * t
        }));
    }
    line.extend(points.last());
    line
}

/// A polygon's outline with rounded corners.
fn rounded(corners: &[Pos2], radius: f32) -> Vec<Pos2> {
    const POINTS: usize = 5;
    // Below a pixel nobody sees it, and points that lie together have no direction between them.
    if radius < 0.7 {
        return corners.to_vec();
    }
    let n = corners.len();
    let corner = |i: usize| {
        let (before, here, after) = (corners[(i + n - 1) % n], corners[i], corners[(i + 1) % n]);
        let toward = |other: Pos2| {
            let side = other - here;
            here + side.normalized() * radius.min(side.length() / 2.0)
        };
        let (start, end) = (toward(before), toward(after));
        (0..POINTS).map(move |k| {
            let t = k as f32 / (POINTS - 1) as f32;
            // A quadratic Bézier curve with the corner as its control point.
            let (a, b, c) = ((1.0 - t) * (1.0 - t), 2.0 * t * (1.0 - t), t * t);
            (a * start.to_vec2() + b * here.to_vec2() + c * end.to_vec2()).to_pos2()
        })
    };
    (0..n).flat_map(corner).collect()
}

#[cfg(test)]
mod tests {
    use egui::pos2;

    use super::{Player, curved};

    #[test]
    fn a_curved_line_goes_through_its_points() {
        let points = [pos2(0.0, 0.0), pos2(1.0, 1.0), pos2(2.0, 0.0)];
        let line = curved(&points);
        assert_eq!((line.len(), line[0], line[4], line[8]), (9, points[0], points[1], points[2]));
        assert!(line[2].y > 0.5 && line[2].y < 1.0, "{:?}", line[2]);
        assert!(curved(&[]).is_empty());
    }

    #[test]
    fn a_player_loops_steps_and_changes_speed() {
        let mut player = Player::default();
        player.advance(0.05, 0.02, 4);
        assert_eq!(player.frame(4), 2);
        player.advance(0.05, 0.02, 4);
        assert_eq!(player.frame(4), 1, "it loops");
        player.step(-2, 4);
        assert!(!player.playing && player.frame(4) == 3);
        (0..9).for_each(|_| player.change_speed(1));
        assert_eq!(player.speed, 4.0);
        (0..9).for_each(|_| player.change_speed(-1));
        assert_eq!(player.speed, 0.1);
    }
}
