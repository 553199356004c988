//! A pendulum to swing up with too little torque: `Pendulum-v1` as in Gymnasium, and the same task as `pendulum`
//! (it never ended early).

use std::f64::consts::PI;
use std::sync::LazyLock;

use rand::RngExt as _;

use super::dynamics::{Dynamics, SAVED_EXTRA, continuous, wrap};
use crate::env::{Action, EnvSpec, Rng, Space};
use crate::scene::{Ink, Scene, Shape};

/// rad/s
const MAX_SPEED: f64 = 8.0;
/// N·m
const MAX_TORQUE: f32 = 2.0;
/// Seconds of one semi-implicit Euler step.
const DT: f64 = 0.05;
/// m/s²
const GRAVITY: f64 = 10.0;
// Mass 1 kg and length 1 m, as in Gymnasium, stand in the equations as ones.

const STATE: &[&str] = &["theta [rad], 0 is up", "theta' [rad/s]"];

/// The pendulum; `GYMNASIUM` chooses the id.
pub(crate) struct Pendulum<const GYMNASIUM: bool>;

static V1: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "Pendulum-v1",
    summary: "Swing a pendulum up and hold it there with little torque (Gymnasium).",
    observation: Space::Box { low: vec![-1.0, -1.0, -8.0], high: vec![1.0, 1.0, 8.0] },
    action: Space::Box { low: vec![-MAX_TORQUE], high: vec![MAX_TORQUE] },
    state: STATE,
    saved_len: STATE.len() + SAVED_EXTRA,
    dt: DT,
    horizon: 200,
    terminates: false,
});

static SHORT: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "pendulum",
    summary: "Swing a pendulum up and hold it there with little torque.",
    ..V1.clone()
});

impl<const GYMNASIUM: bool> Dynamics<2> for Pendulum<GYMNASIUM> {
    fn spec() -> &'static EnvSpec {
        if GYMNASIUM { &V1 } else { &SHORT }
    }

    fn reset(rng: &mut Rng) -> [f64; 2] {
        [rng.random_range(-PI..PI), rng.random_range(-1.0..1.0)]
    }

    fn observe(state: &[f64; 2], observation: &mut [f32]) {
        let (sin, cos) = state[0].sin_cos();
        observation.copy_from_slice(&[cos as f32, sin as f32, state[1] as f32]);
    }

    fn step(state: &mut [f64; 2], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let [theta, speed] = *state;
        let torque = continuous(action, 0).clamp(-MAX_TORQUE, MAX_TORQUE);
        // NumPy 2 keeps the float32 of the action in `0.001 * u**2` and in `3.0 * u`.
        let effort = f64::from(0.001_f32 * (torque * torque));
        let cost = wrap(theta).powi(2) + 0.1 * speed.powi(2) + effort;
        let acceleration = 3.0 * GRAVITY / 2.0 * theta.sin() + f64::from(3.0_f32 * torque);
        let speed = (speed + acceleration * DT).clamp(-MAX_SPEED, MAX_SPEED);
        *state = [theta + speed * DT, speed];
        (-cost, false, [f64::from(torque / MAX_TORQUE), 0.0])
    }

    fn draw(state: &[f64; 2], action: [f64; 2], scene: &mut Scene) {
        scene.clear([-1.35, -1.35], [1.35, 1.35]);
        let (sin, cos) = state[0].sin_cos();
        let tip = [-sin as f32, cos as f32];
        let rim = (0..=120).map(|i| {
            let angle = i as f32 / 120.0 * std::f32::consts::TAU;
            [1.2 * angle.sin(), 1.2 * angle.cos()]
        });
        scene.shapes.push(Shape::Polyline { points: rim.collect(), radius: 0.006, ink: Ink::Ground });
        scene.shapes.push(Shape::Capsule { from: [0.0, 1.14], to: [0.0, 1.26], radius: 0.014, ink: Ink::Target });
        // Positive torque turns towards positive theta, which is drawn anticlockwise.
        let sweep = action[0] as f32 * 1.9;
        if sweep.abs() > 0.05 {
            let at = |t: f32| [-0.42 * (sweep * t).sin(), 0.42 * (sweep * t).cos()];
            let arc: Vec<[f32; 2]> = (0..=16).map(|i| at(i as f32 / 16.0)).collect();
            let (end, back) = (arc[16], at(0.9 - 0.08 / sweep.abs().max(0.2)));
            let (dx, dy) = (end[0] - back[0], end[1] - back[1]);
            let length = dx.hypot(dy).max(1e-3);
            let (ux, uy) = (dx / length * 0.09, dy / length * 0.09);
            let head = vec![
                [end[0] + ux, end[1] + uy],
                [end[0] - uy * 0.8, end[1] + ux * 0.8],
                [end[0] + uy * 0.8, end[1] - ux * 0.8],
            ];
            scene.shapes.push(Shape::Polyline { points: arc, radius: 0.022, ink: Ink::Action });
            scene.shapes.push(Shape::Polygon { points: head, rounding: 0.01, ink: Ink::Action });
        }
        scene.shapes.push(Shape::Capsule { from: [0.0, 0.0], to: tip, radius: 0.09, ink: Ink::Body });
        scene.shapes.push(Shape::Circle { center: [0.0, 0.0], radius: 0.05, ink: Ink::Joint });
        scene.tracked = Some(tip);
    }
}
