//! A pole on a cart (Barto, Sutton & Anderson 1983): `CartPole-v1` as in Gymnasium, and the fixed-horizon `cartpole`.

use std::sync::LazyLock;

use rand::RngExt as _;

use super::dynamics::{Dynamics, SAVED_EXTRA, discrete, wrap};
use crate::env::{Action, EnvSpec, Rng, Space};
use crate::scene::{Ink, Scene, Shape};

/// m/s²
const GRAVITY: f64 = 9.8;
/// kg
const CART_MASS: f64 = 1.0;
/// kg
const POLE_MASS: f64 = 0.1;
const TOTAL_MASS: f64 = CART_MASS + POLE_MASS;
/// Half the pole's length, m.
const HALF_LENGTH: f64 = 0.5;
/// N
const FORCE: f64 = 10.0;
/// Seconds of one explicit Euler step.
const TAU: f64 = 0.02;
/// 12 degrees in rad, as Gymnasium computes it.
const THETA_LIMIT: f64 = 12.0 * 2.0 * std::f64::consts::PI / 360.0;
/// m
const X_LIMIT: f64 = 2.4;

const STATE: &[&str] = &["x [m]", "x' [m/s]", "theta [rad]", "theta' [rad/s]"];

/// `CartPole-v1`: ends when the pole falls, 1 for every step until then.
pub(crate) struct CartPoleV1;

/// `cartpole`: 500 steps whatever happens, 1 for every step spent upright and inside. The length of an episode says
/// nothing about the reward.
pub(crate) struct CartPole;

static V1: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "CartPole-v1",
    summary: "Balance a pole on a cart by pushing left or right; ends when it falls (Gymnasium).",
    // Gymnasium's bounds: twice the limits, infinite velocities.
    observation: bounds([2.0 * X_LIMIT as f32, f32::INFINITY, 2.0 * THETA_LIMIT as f32, f32::INFINITY]),
    action: Space::Discrete { n: 2 },
    state: STATE,
    saved_len: STATE.len() + SAVED_EXTRA,
    dt: TAU,
    horizon: 500,
    terminates: true,
});

static FIXED: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "cartpole",
    summary: "Balance a pole on a cart for 10 s; it never ends early.",
    observation: bounds([f32::INFINITY, f32::INFINITY, std::f32::consts::PI, f32::INFINITY]),
    terminates: false,
    ..V1.clone()
});

fn bounds(high: [f32; 4]) -> Space {
    Space::Box { low: high.iter().map(|h| -h).collect(), high: high.to_vec() }
}

fn advance(state: &mut [f64; 4], action: Action<'_>) -> [f64; 2] {
    let [x, x_dot, theta, theta_dot] = *state;
    let force = if discrete(action, 2) == 1 { FORCE } else { -FORCE };
    let (sin, cos) = theta.sin_cos();
    let temp = (force + POLE_MASS * HALF_LENGTH * (theta_dot * theta_dot) * sin) / TOTAL_MASS;
    let theta_acc = (GRAVITY * sin - cos * temp) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * (cos * cos) / TOTAL_MASS));
    let x_acc = temp - POLE_MASS * HALF_LENGTH * theta_acc * cos / TOTAL_MASS;
    *state = [x + TAU * x_dot, x_dot + TAU * x_acc, theta + TAU * theta_dot, theta_dot + TAU * theta_acc];
    [force / FORCE, 0.0]
}

fn inside(state: &[f64; 4]) -> bool {
    (-X_LIMIT..=X_LIMIT).contains(&state[0]) && (-THETA_LIMIT..=THETA_LIMIT).contains(&state[2])
}

impl Dynamics<4> for CartPoleV1 {
    fn spec() -> &'static EnvSpec {
        &V1
    }

    fn reset(rng: &mut Rng) -> [f64; 4] {
        std::array::from_fn(|_| rng.random_range(-0.05..0.05))
    }

    fn observe(state: &[f64; 4], observation: &mut [f32]) {
        for (o, s) in observation.iter_mut().zip(state) {
            *o = *s as f32;
        }
    }

    fn step(state: &mut [f64; 4], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let shown = advance(state, action);
        (1.0, !inside(state), shown)
    }

    fn draw(state: &[f64; 4], action: [f64; 2], scene: &mut Scene) {
        draw(state, action, -0.55, scene);
    }
}

impl Dynamics<4> for CartPole {
    fn spec() -> &'static EnvSpec {
        &FIXED
    }

    fn reset(rng: &mut Rng) -> [f64; 4] {
        CartPoleV1::reset(rng)
    }

    fn observe(state: &[f64; 4], observation: &mut [f32]) {
        CartPoleV1::observe(state, observation);
    }

    fn step(state: &mut [f64; 4], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let shown = advance(state, action);
        // A fallen pole goes on swinging through the floor; its angle stays readable.
        state[2] = wrap(state[2]);
        (f64::from(u8::from(inside(state))), false, shown)
    }

    fn draw(state: &[f64; 4], action: [f64; 2], scene: &mut Scene) {
        // Here the pole can hang below the rail.
        draw(state, action, -1.15, scene);
    }
}

/// The whole track, down to height `bottom`.
fn draw(state: &[f64; 4], action: [f64; 2], bottom: f32, scene: &mut Scene) {
    let (length, half) = (2.0 * HALF_LENGTH as f32, X_LIMIT as f32 + 0.6);
    let center = follow(state[0] as f32, half - length - 0.1);
    scene.clear([center - half, bottom], [center + half, 1.45]);
    draw_cart(scene, state[0] as f32, state[2] as f32, length, action[0] as f32);
    for side in [-1.0, 1.0] {
        let x = side * X_LIMIT as f32;
        scene.shapes.push(Shape::Capsule { from: [x, -0.16], to: [x, 0.0], radius: 0.012, ink: Ink::Ground });
    }
}

/// The middle of a view that stands still while a cart is within `reach` of 0, and then goes with it.
pub(crate) fn follow(x: f32, reach: f32) -> f32 {
    x - x.clamp(-reach, reach)
}

/// Metres between two marks on the rail, by which one sees the view move.
const MARKS: f32 = 0.5;

/// Rail, cart, pole and force arrow; the pole's pivot is at height 0.
pub(crate) fn draw_cart(scene: &mut Scene, x: f32, theta: f32, length: f32, force: f32) {
    let (low, high) = (scene.min[0], scene.max[0]);
    let tip = [x + length * theta.sin(), length * theta.cos()];
    let cart = vec![[x - 0.25, -0.14], [x + 0.25, -0.14], [x + 0.25, 0.1], [x - 0.25, 0.1]];
    scene.shapes.push(Shape::Capsule { from: [low, -0.24], to: [high, -0.24], radius: 0.012, ink: Ink::Ground });
    let (first, last) = ((low / MARKS).ceil() as i32, (high / MARKS).floor() as i32);
    for mark in first..=last {
        let at = mark as f32 * MARKS;
        scene.shapes.push(Shape::Capsule { from: [at, -0.3], to: [at, -0.24], radius: 0.008, ink: Ink::Ground });
    }
    if force != 0.0 {
        arrow(scene, [x + force.signum() * 0.3, -0.02], [x + force.signum() * 0.3 + 0.4 * force, -0.02]);
    }
    scene.shapes.push(Shape::Polygon { points: cart, rounding: 0.06, ink: Ink::BodyLight });
    for side in [-0.14, 0.14] {
        scene.shapes.push(Shape::Circle { center: [x + side, -0.17], radius: 0.07, ink: Ink::Joint });
    }
    scene.shapes.push(Shape::Capsule { from: [x, 0.0], to: tip, radius: 0.05, ink: Ink::Body });
    scene.shapes.push(Shape::Circle { center: [x, 0.0], radius: 0.035, ink: Ink::Joint });
    scene.tracked = Some(tip);
}

/// A faint arrow for an action.
pub(crate) fn arrow(scene: &mut Scene, from: [f32; 2], to: [f32; 2]) {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let length = dx.hypot(dy);
    if length < 1e-3 {
        return;
    }
    let (ux, uy) = (dx / length, dy / length);
    let head = 0.09_f32.min(length);
    let base = [to[0] - ux * head, to[1] - uy * head];
    let wing = |side: f32| [base[0] - side * uy * head * 0.6, base[1] + side * ux * head * 0.6];
    scene.shapes.push(Shape::Capsule { from, to: base, radius: 0.02, ink: Ink::Action });
    scene.shapes.push(Shape::Polygon { points: vec![to, wing(1.0), wing(-1.0)], rounding: 0.01, ink: Ink::Action });
}
