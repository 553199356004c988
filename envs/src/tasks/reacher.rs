//! `reacher`: a planar two-link arm brings its hand to a random target. The arm lies flat, so there is no gravity.

use std::sync::LazyLock;

use rand::RngExt as _;

use super::cart_pole::arrow;
use super::dynamics::{Dynamics, SAVED_EXTRA, continuous, rk4};
use crate::env::{Action, EnvSpec, Rng, Space};
use crate::scene::{Ink, Scene, Shape};

/// Length of each link, m (as MuJoCo's Reacher).
const LENGTH: f64 = 0.1;
/// Mass of each link, kg; uniform rods.
const MASS: f64 = 1.0;
/// Moment of inertia of a link about its middle, kg·m².
const INERTIA: f64 = MASS * LENGTH * LENGTH / 12.0;
/// Torque of a full action at either joint, N·m.
const TORQUE: f64 = 0.25;
/// Viscous damping of either joint, N·m·s: full torque ends at 5 rad/s.
const DAMPING: f64 = 0.05;
/// Seconds between two actions.
const DT: f64 = 0.05;
/// Runge-Kutta steps between two actions; the stiffest mode decays with 15/s.
const SUBSTEPS: usize = 2;
/// Distance of targets from the base, m: reachable, and not behind the shoulder.
const TARGET_RADIUS: [f64; 2] = [0.04, 0.19];
/// The hand is on the target within this distance, m: the discs that are drawn touch.
const ON_TARGET: f64 = 0.02;
/// So far beyond it, m, the reward has fallen to 0.1.
const MARGIN: f64 = 0.2;

const STATE: &[&str] =
    &["shoulder [rad]", "elbow [rad], relative", "shoulder' [rad/s]", "elbow' [rad/s]", "target x [m]", "target y [m]"];

/// The reacher.
pub(crate) struct Reacher;

static SPEC: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "reacher",
    summary: "Bring the hand of a two-link arm to the target and keep it there.",
    observation: Space::Box { low: vec![f32::NEG_INFINITY; 8], high: vec![f32::INFINITY; 8] },
    action: Space::Box { low: vec![-1.0; 2], high: vec![1.0; 2] },
    state: STATE,
    saved_len: STATE.len() + SAVED_EXTRA,
    dt: DT,
    horizon: 100,
    terminates: false,
});

/// Accelerations from M(q)·q″ + C(q, q′) = τ − b·q′ (e.g. Murray, Li & Sastry 1994, §4.2.3).
fn accelerations(q: [f64; 2], v: [f64; 2], torque: [f64; 2], damping: f64) -> [f64; 2] {
    let half = LENGTH / 2.0;
    let alpha = 2.0 * INERTIA + MASS * half * half + MASS * (LENGTH * LENGTH + half * half);
    let beta = MASS * LENGTH * half;
    let delta = INERTIA + MASS * half * half;
    let (sin, cos) = q[1].sin_cos();
    let (m11, m12, m22) = (alpha + 2.0 * beta * cos, delta + beta * cos, delta);
    let f1 = torque[0] - damping * v[0] + beta * sin * (2.0 * v[0] * v[1] + v[1] * v[1]);
    let f2 = torque[1] - damping * v[1] - beta * sin * v[0] * v[0];
    let determinant = m11 * m22 - m12 * m12;
    [(m22 * f1 - m12 * f2) / determinant, (m11 * f2 - m12 * f1) / determinant]
}

/// True reward: 1 on the target, falling like a Gaussian around it; dm_control's `tolerance` (Tassa et al. 2018, arXiv
/// 1801.00690, §2) with a margin, because without one nearly all clips of a beginner tie at 0.
fn closeness(distance: f64) -> f64 {
    let beyond = (distance - ON_TARGET).max(0.0) / MARGIN;
    0.1_f64.powf(beyond * beyond)
}

fn elbow_and_hand(state: &[f64; 6]) -> ([f64; 2], [f64; 2]) {
    let elbow = [LENGTH * state[0].cos(), LENGTH * state[0].sin()];
    let angle = state[0] + state[1];
    (elbow, [elbow[0] + LENGTH * angle.cos(), elbow[1] + LENGTH * angle.sin()])
}

impl Dynamics<6> for Reacher {
    fn spec() -> &'static EnvSpec {
        &SPEC
    }

    fn reset(rng: &mut Rng) -> [f64; 6] {
        use std::f64::consts::PI;
        let (q1, q2) = (rng.random_range(-PI..PI), rng.random_range(-2.5..2.5));
        // Uniform over the ring's area.
        let [low, high] = TARGET_RADIUS;
        let radius = rng.random_range(low * low..high * high).sqrt();
        let angle: f64 = rng.random_range(-PI..PI);
        [q1, q2, 0.0, 0.0, radius * angle.cos(), radius * angle.sin()]
    }

    fn observe(state: &[f64; 6], observation: &mut [f32]) {
        let [q1, q2, v1, v2, x, y] = *state;
        let (_, hand) = elbow_and_hand(state);
        // From the hand to the target, as dm_control's reacher; the target's own place would be redundant.
        let all = [q1.cos(), q1.sin(), q2.cos(), q2.sin(), v1, v2, x - hand[0], y - hand[1]];
        for (o, s) in observation.iter_mut().zip(all) {
            *o = s as f32;
        }
    }

    fn step(state: &mut [f64; 6], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let shown = [0, 1].map(|i| f64::from(continuous(action, i)).clamp(-1.0, 1.0));
        let torque = shown.map(|a| a * TORQUE);
        for _ in 0..SUBSTEPS {
            *state = rk4(state, DT / SUBSTEPS as f64, |s| {
                let [a1, a2] = accelerations([s[0], s[1]], [s[2], s[3]], torque, DAMPING);
                [s[2], s[3], a1, a2, 0.0, 0.0]
            });
        }
        let (_, hand) = elbow_and_hand(state);
        let distance = (hand[0] - state[4]).hypot(hand[1] - state[5]);
        (closeness(distance), false, shown)
    }

    fn draw(state: &[f64; 6], action: [f64; 2], scene: &mut Scene) {
        // Ten times as large as life, so that the widths below suit all tasks.
        scene.clear([-2.3, -2.3], [2.3, 2.3]);
        let scale = |p: [f64; 2]| [10.0 * p[0] as f32, 10.0 * p[1] as f32];
        let (elbow, hand) = elbow_and_hand(state);
        let (elbow, hand, target) = (scale(elbow), scale(hand), scale([state[4], state[5]]));
        let rim = (0..=120).map(|i| i as f32 / 120.0 * std::f32::consts::TAU).map(|a| [2.0 * a.cos(), 2.0 * a.sin()]);
        scene.shapes.push(Shape::Polyline { points: rim.collect(), radius: 0.012, ink: Ink::Ground });
        scene.shapes.push(Shape::Circle { center: target, radius: 0.15, ink: Ink::Target });
        scene.shapes.push(Shape::Capsule { from: [0.0, 0.0], to: elbow, radius: 0.12, ink: Ink::Body });
        scene.shapes.push(Shape::Capsule { from: elbow, to: hand, radius: 0.1, ink: Ink::BodyLight });
        for center in [[0.0, 0.0], elbow, hand] {
            scene.shapes.push(Shape::Circle { center, radius: 0.07, ink: Ink::Joint });
        }
        // Torques, as arrows across the ends of the links they turn.
        for (end, start, torque) in [(elbow, [0.0, 0.0], action[0]), (hand, elbow, action[1])] {
            let across = [-(end[1] - start[1]), end[0] - start[0]];
            let to = [end[0] + across[0] * 0.6 * torque as f32, end[1] + across[1] * 0.6 * torque as f32];
            arrow(scene, end, to);
        }
        scene.tracked = Some(hand);
    }
}

#[cfg(test)]
mod tests {
    use super::{INERTIA, LENGTH, MARGIN, MASS, ON_TARGET, accelerations, closeness};
    use crate::tasks::dynamics::rk4;

    /// Kinetic energy written down from the velocities of the links' middles, independently of the mass matrix.
    fn kinetic(q: [f64; 2], v: [f64; 2]) -> f64 {
        let (a, half) = (q[0] + q[1], LENGTH / 2.0);
        let first = [-half * q[0].sin() * v[0], half * q[0].cos() * v[0]];
        let w = v[0] + v[1];
        let second =
            [-LENGTH * q[0].sin() * v[0] - half * a.sin() * w, LENGTH * q[0].cos() * v[0] + half * a.cos() * w];
        let square = |u: [f64; 2]| u[0] * u[0] + u[1] * u[1];
        0.5 * MASS * (square(first) + square(second)) + 0.5 * INERTIA * (v[0] * v[0] + w * w)
    }

    /// d/dt ∂L/∂v − ∂L/∂q = τ, with derivatives of the Lagrangian (here the kinetic energy) by central differences.
    #[test]
    fn accelerations_satisfy_the_euler_lagrange_equations() {
        let (q, v, torque) = ([0.7, -1.9], [2.3, -3.1], [0.11, -0.07]);
        let acceleration = accelerations(q, v, torque, 0.0);
        let h = 1e-4;
        let momentum = |q: [f64; 2], v: [f64; 2], i: usize| {
            let (mut up, mut down) = (v, v);
            up[i] += h;
            down[i] -= h;
            (kinetic(q, up) - kinetic(q, down)) / (2.0 * h)
        };
        for i in 0..2 {
            let along = |t: f64| {
                let q = [0, 1].map(|j| q[j] + v[j] * t + 0.5 * acceleration[j] * t * t);
                let v = [0, 1].map(|j| v[j] + acceleration[j] * t);
                momentum(q, v, i)
            };
            let rate = (along(h) - along(-h)) / (2.0 * h);
            let (mut up, mut down) = (q, q);
            up[i] += h;
            down[i] -= h;
            let force = (kinetic(up, v) - kinetic(down, v)) / (2.0 * h);
            assert!((rate - force - torque[i]).abs() < 1e-6, "joint {i}: {}", rate - force - torque[i]);
        }
    }

    #[test]
    fn the_reward_is_one_on_the_target_and_a_tenth_at_the_margin() {
        assert_eq!([closeness(0.0), closeness(ON_TARGET)], [1.0, 1.0]);
        assert!((closeness(ON_TARGET + MARGIN) - 0.1).abs() < 1e-12);
        // The formula of dm_control's Gaussian sigmoid with its value at the margin, 0.1.
        assert!((closeness(0.1) - (-0.5 * (0.4 * (-2.0 * 0.1_f64.ln()).sqrt()).powi(2)).exp()).abs() < 1e-12);
    }

    #[test]
    fn a_free_arm_keeps_its_energy() {
        let mut state = [0.3, 1.1, 4.0, -6.0];
        let energy = |s: &[f64; 4]| kinetic([s[0], s[1]], [s[2], s[3]]);
        let before = energy(&state);
        for _ in 0..2000 {
            state = rk4(&state, 1e-3, |s| {
                let [a1, a2] = accelerations([s[0], s[1]], [s[2], s[3]], [0.0; 2], 0.0);
                [s[2], s[3], a1, a2]
            });
        }
        assert!((energy(&state) / before - 1.0).abs() < 1e-8);
    }
}
