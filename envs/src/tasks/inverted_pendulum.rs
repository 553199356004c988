//! `inverted-pendulum`: a pole on a cart with a continuous force, in the proportions of MuJoCo's InvertedPendulum,
//! never done, rewarded by 1 − θ² as in rl-teacher.

use std::f64::consts::FRAC_PI_2;
use std::sync::LazyLock;

use rand::RngExt as _;

use super::cart_pole::{draw_cart, follow};
use super::dynamics::{Dynamics, SAVED_EXTRA, continuous, rk4};
use crate::env::{Action, EnvSpec, Rng, Space};
use crate::scene::Scene;

/// kg
const CART_MASS: f64 = 10.5;
/// kg
const POLE_MASS: f64 = 5.0;
/// m
const POLE_LENGTH: f64 = 0.6;
/// Moment of inertia of the pole about its middle, kg·m²; a uniform rod.
const POLE_INERTIA: f64 = POLE_MASS * POLE_LENGTH * POLE_LENGTH / 12.0;
/// m/s²
const GRAVITY: f64 = 9.81;
/// Force of an action of 1, N; actions reach ±3.
const GEAR: f64 = 100.0;
const MAX_ACTION: f32 = 3.0;
/// Damping of the slider, N·s/m, and of the hinge, N·m·s.
const DAMPING: f64 = 1.0;
/// Ends of the rail, m; the cart stops there.
const X_LIMIT: f64 = 1.0;
/// Seconds between two actions.
const DT: f64 = 0.04;
/// Runge-Kutta steps between two actions.
const SUBSTEPS: usize = 2;

const STATE: &[&str] = &["x [m]", "theta [rad]", "x' [m/s]", "theta' [rad/s]"];

/// The inverted pendulum.
pub(crate) struct InvertedPendulum;

static SPEC: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "inverted-pendulum",
    summary: "Keep a pole upright by pushing its cart, finely; it never ends early.",
    observation: Space::Box { low: vec![f32::NEG_INFINITY; 4], high: vec![f32::INFINITY; 4] },
    action: Space::Box { low: vec![-MAX_ACTION], high: vec![MAX_ACTION] },
    state: STATE,
    saved_len: STATE.len() + SAVED_EXTRA,
    dt: DT,
    horizon: 100,
    terminates: false,
});

/// x″ and θ″ from the Lagrangian of a cart and a rod; θ = 0 is up.
fn accelerations(state: &[f64; 4], force: f64, damping: f64) -> [f64; 2] {
    let [_, theta, speed, spin] = *state;
    let (sin, cos) = theta.sin_cos();
    let moment = POLE_MASS * POLE_LENGTH / 2.0;
    let (m11, m12) = (CART_MASS + POLE_MASS, moment * cos);
    let m22 = POLE_INERTIA + moment * POLE_LENGTH / 2.0;
    let f1 = force - damping * speed + moment * spin * spin * sin;
    let f2 = moment * GRAVITY * sin - damping * spin;
    let determinant = m11 * m22 - m12 * m12;
    [(m22 * f1 - m12 * f2) / determinant, (m11 * f2 - m12 * f1) / determinant]
}

impl Dynamics<4> for InvertedPendulum {
    fn spec() -> &'static EnvSpec {
        &SPEC
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
        let push = f64::from(continuous(action, 0).clamp(-MAX_ACTION, MAX_ACTION));
        for _ in 0..SUBSTEPS {
            *state = rk4(state, DT / SUBSTEPS as f64, |s| {
                let [x, theta] = accelerations(s, GEAR * push, DAMPING);
                [s[2], s[3], x, theta]
            });
            // Stops at the ends of the rail and with the pole lying down; they take all speed.
            for (i, limit) in [(0, X_LIMIT), (1, FRAC_PI_2)] {
                if state[i].abs() >= limit {
                    state[i] = state[i].clamp(-limit, limit);
                    if state[i + 2] * state[i] > 0.0 {
                        state[i + 2] = 0.0;
                    }
                }
            }
        }
        (1.0 - state[1] * state[1], false, [push / f64::from(MAX_ACTION), 0.0])
    }

    fn draw(state: &[f64; 4], action: [f64; 2], scene: &mut Scene) {
        let (x, length, half) = (state[0] as f32, POLE_LENGTH as f32, 1.6);
        let center = follow(x, half - length - 0.1);
        scene.clear([center - half, -0.45], [center + half, 0.95]);
        draw_cart(scene, x, state[1] as f32, length, action[0] as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::{CART_MASS, GRAVITY, POLE_INERTIA, POLE_LENGTH, POLE_MASS, accelerations};
    use crate::tasks::dynamics::rk4;

    /// Energy from the velocity of the pole's middle, independently of the mass matrix; (kinetic, potential).
    fn energy(state: &[f64; 4]) -> (f64, f64) {
        let ([_, theta, speed, spin], half) = (*state, POLE_LENGTH / 2.0);
        let middle = [speed + half * theta.cos() * spin, -half * theta.sin() * spin];
        let kinetic = 0.5 * CART_MASS * speed * speed
            + 0.5 * POLE_MASS * (middle[0] * middle[0] + middle[1] * middle[1])
            + 0.5 * POLE_INERTIA * spin * spin;
        (kinetic, POLE_MASS * GRAVITY * half * theta.cos())
    }

    #[test]
    fn a_free_pole_keeps_its_energy_and_a_force_adds_its_work() {
        for force in [0.0, 35.0] {
            let mut state = [0.1, 0.4, 0.5, -1.2];
            let total = |s: &[f64; 4]| energy(s).0 + energy(s).1 - force * s[0];
            let before = total(&state);
            for _ in 0..2000 {
                state = rk4(&state, 1e-3, |s| {
                    let [x, theta] = accelerations(s, force, 0.0);
                    [s[2], s[3], x, theta]
                });
            }
            assert!((total(&state) - before).abs() < 1e-7 * before.abs().max(1.0), "force {force}");
        }
    }
}
