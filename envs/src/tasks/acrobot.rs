//! A two-link pendulum driven at the elbow (Sutton 1996): `Acrobot-v1` as in Gymnasium ("book" dynamics), and the
//! fixed-horizon `acrobot`.

use std::f64::consts::PI;
use std::sync::LazyLock;

use rand::RngExt as _;

use super::dynamics::{Dynamics, SAVED_EXTRA, discrete, rk4, wrap_by_turns};
use crate::env::{Action, EnvSpec, Rng, Space};
use crate::scene::{Ink, Scene, Shape};

/// Seconds of one Runge-Kutta step.
const DT: f64 = 0.2;
/// m/s²
const GRAVITY: f64 = 9.8;
/// Both links: 1 kg, 1 m, centre of mass in the middle, inertia 1 kg·m² (as in Gymnasium).
const CENTER: f64 = 0.5;
const INERTIA: f64 = 1.0;
/// rad/s
const MAX_SPEED: [f64; 2] = [4.0 * PI, 9.0 * PI];

const STATE: &[&str] = &["theta1 [rad], 0 hangs", "theta2 [rad], relative", "theta1' [rad/s]", "theta2' [rad/s]"];

/// `Acrobot-v1`.
pub(crate) struct AcrobotV1;

/// `acrobot`: 200 steps. Gymnasium's −1 for every step makes nearly all pairs of clips ties, so the true reward is
/// how high the tip is: 0 hanging, 1 upright.
pub(crate) struct Acrobot;

static V1: LazyLock<EnvSpec> = LazyLock::new(|| {
    let high = vec![1.0, 1.0, 1.0, 1.0, MAX_SPEED[0] as f32, MAX_SPEED[1] as f32];
    EnvSpec {
        id: "Acrobot-v1",
        summary: "Swing the tip of a two-link arm above the line; ends there (Gymnasium).",
        observation: Space::Box { low: high.iter().map(|h| -h).collect(), high },
        action: Space::Discrete { n: 3 },
        state: STATE,
        saved_len: STATE.len() + SAVED_EXTRA,
        dt: DT,
        horizon: 500,
        terminates: true,
    }
});

static FIXED: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "acrobot",
    summary: "Swing a two-link arm up by its elbow; the higher the tip the better.",
    horizon: 200,
    terminates: false,
    ..V1.clone()
});

fn derivative(state: &[f64; 4], torque: f64) -> [f64; 4] {
    let [theta1, theta2, dtheta1, dtheta2] = *state;
    let (sin2, cos2) = theta2.sin_cos();
    // The double pendulum is chaotic: a difference in the last bit grows to 5e-4 within 200 random steps. So sums are
    // added up in Gymnasium's order and squares come from `square`.
    let d1 = CENTER * CENTER + (1.0 + CENTER * CENTER + 2.0 * CENTER * cos2) + INERTIA + INERTIA;
    let d2 = CENTER * CENTER + CENTER * cos2 + INERTIA;
    let phi2 = CENTER * GRAVITY * (theta1 + theta2 - PI / 2.0).cos();
    let phi1 = -CENTER * square(dtheta2) * sin2 - 2.0 * CENTER * dtheta2 * dtheta1 * sin2
        + (CENTER + 1.0) * GRAVITY * (theta1 - PI / 2.0).cos()
        + phi2;
    let ddtheta2 = (torque + d2 / d1 * phi1 - CENTER * square(dtheta1) * sin2 - phi2)
        / (CENTER * CENTER + INERTIA - square(d2) / d1);
    let ddtheta1 = -(d2 * ddtheta2 + phi1) / d1;
    [dtheta1, dtheta2, ddtheta1, ddtheta2]
}

/// x² as Python computes `x**2`: by the C library's `pow`, which for one argument in some hundreds is not the rounded
/// product. The black box keeps the compiler from turning it into a multiplication.
fn square(x: f64) -> f64 {
    x.powf(std::hint::black_box(2.0))
}

fn advance(state: &mut [f64; 4], action: Action<'_>) -> [f64; 2] {
    let torque = discrete(action, 3) as f64 - 1.0;
    *state = rk4(state, DT, |s| derivative(s, torque));
    for angle in &mut state[..2] {
        *angle = wrap_by_turns(*angle);
    }
    for (speed, max) in state[2..].iter_mut().zip(MAX_SPEED) {
        *speed = speed.clamp(-max, max);
    }
    [torque, 0.0]
}

/// Height of the tip above the pivot, m.
fn height(state: &[f64; 4]) -> f64 {
    -state[0].cos() - (state[1] + state[0]).cos()
}

impl Dynamics<4> for AcrobotV1 {
    fn spec() -> &'static EnvSpec {
        &V1
    }

    fn reset(rng: &mut Rng) -> [f64; 4] {
        // Gymnasium draws the initial state as float32.
        std::array::from_fn(|_| f64::from(rng.random_range(-0.1_f64..0.1) as f32))
    }

    fn observe(state: &[f64; 4], observation: &mut [f32]) {
        let [theta1, theta2, dtheta1, dtheta2] = *state;
        let all = [theta1.cos(), theta1.sin(), theta2.cos(), theta2.sin(), dtheta1, dtheta2];
        for (o, s) in observation.iter_mut().zip(all) {
            *o = s as f32;
        }
    }

    fn step(state: &mut [f64; 4], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let shown = advance(state, action);
        let terminated = height(state) > 1.0;
        (if terminated { 0.0 } else { -1.0 }, terminated, shown)
    }

    fn draw(state: &[f64; 4], action: [f64; 2], scene: &mut Scene) {
        draw(state, action, true, scene);
    }
}

impl Dynamics<4> for Acrobot {
    fn spec() -> &'static EnvSpec {
        &FIXED
    }

    fn reset(rng: &mut Rng) -> [f64; 4] {
        AcrobotV1::reset(rng)
    }

    fn observe(state: &[f64; 4], observation: &mut [f32]) {
        AcrobotV1::observe(state, observation);
    }

    fn step(state: &mut [f64; 4], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let shown = advance(state, action);
        ((height(state) + 2.0) / 4.0, false, shown)
    }

    fn draw(state: &[f64; 4], action: [f64; 2], scene: &mut Scene) {
        draw(state, action, false, scene);
    }
}

fn draw(state: &[f64; 4], action: [f64; 2], line: bool, scene: &mut Scene) {
    scene.clear([-2.25, -2.25], [2.25, 2.25]);
    let (theta1, theta2) = (state[0] as f32, (state[0] + state[1]) as f32);
    let elbow = [theta1.sin(), -theta1.cos()];
    let tip = [elbow[0] + theta2.sin(), elbow[1] - theta2.cos()];
    if line {
        scene.shapes.push(Shape::Capsule { from: [-2.2, 1.0], to: [2.2, 1.0], radius: 0.012, ink: Ink::Target });
    }
    scene.shapes.push(Shape::Capsule { from: [-0.3, 0.0], to: [0.3, 0.0], radius: 0.02, ink: Ink::Ground });
    if action[0] != 0.0 {
        let side = action[0].signum() as f32;
        let at = |t: f32| [elbow[0] + 0.3 * (side * t).sin(), elbow[1] - 0.3 * (side * t).cos()];
        let arc: Vec<[f32; 2]> = (0..=12).map(|i| at(i as f32 / 12.0 * 2.2)).collect();
        scene.shapes.push(Shape::Polyline { points: arc, radius: 0.035, ink: Ink::Action });
    }
    scene.shapes.push(Shape::Capsule { from: [0.0, 0.0], to: elbow, radius: 0.11, ink: Ink::Body });
    scene.shapes.push(Shape::Capsule { from: elbow, to: tip, radius: 0.09, ink: Ink::BodyLight });
    for center in [[0.0, 0.0], elbow] {
        scene.shapes.push(Shape::Circle { center, radius: 0.06, ink: Ink::Joint });
    }
    scene.tracked = Some(tip);
}
