//! An underpowered car in a valley (Moore 1990): `MountainCar-v0` and `MountainCarContinuous-v0` as in Gymnasium, and
//! the fixed-horizon `mountain-car`.

use std::sync::LazyLock;

use rand::RngExt as _;

use super::cart_pole::arrow;
use super::dynamics::{Dynamics, SAVED_EXTRA, continuous, discrete};
use crate::env::{Action, EnvSpec, Rng, Space};
use crate::scene::{Ink, Scene, Shape};

const MIN_POSITION: f64 = -1.2;
const MAX_POSITION: f64 = 0.6;
const MAX_SPEED: f64 = 0.07;
/// The flag of the discrete tasks.
const GOAL: f64 = 0.5;
/// The flag of the continuous task.
const CONTINUOUS_GOAL: f64 = 0.45;
/// Acceleration of one push.
const FORCE: f64 = 0.001;
const GRAVITY: f64 = 0.0025;
/// Acceleration of a full push in the continuous task.
const POWER: f32 = 0.0015;
/// Seconds that a step stands for on the screen; the equations have no unit of time.
const DT: f64 = 1.0 / 30.0;

const STATE: &[&str] = &["position", "velocity [1/step]"];

/// `MountainCar-v0`.
pub(crate) struct MountainCarV0;

/// `MountainCarContinuous-v0`.
pub(crate) struct MountainCarContinuousV0;

/// `mountain-car`: 200 steps; the car stays at the flag once it is there. Gymnasium's −1 for every step makes nearly
/// all pairs of clips ties, so the true reward here is how high the car is: 0 at the bottom, 1 at the flag.
pub(crate) struct MountainCar;

static V0: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "MountainCar-v0",
    summary: "Drive an underpowered car out of a valley; ends at the flag (Gymnasium).",
    observation: Space::Box { low: vec![-1.2, -0.07], high: vec![0.6, 0.07] },
    action: Space::Discrete { n: 3 },
    state: STATE,
    saved_len: STATE.len() + SAVED_EXTRA,
    dt: DT,
    horizon: 200,
    terminates: true,
});

static CONTINUOUS_V0: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "MountainCarContinuous-v0",
    summary: "Drive an underpowered car out of a valley with little effort; ends at the flag (Gymnasium).",
    action: Space::Box { low: vec![-1.0], high: vec![1.0] },
    horizon: 999,
    ..V0.clone()
});

static FIXED: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "mountain-car",
    summary: "Rock an underpowered car up to the flag and stay there; higher is better.",
    terminates: false,
    ..V0.clone()
});

fn advance(state: &mut [f64; 2], push: usize) {
    let [mut position, mut velocity] = *state;
    velocity += (push as f64 - 1.0) * FORCE + (3.0 * position).cos() * -GRAVITY;
    velocity = velocity.clamp(-MAX_SPEED, MAX_SPEED);
    position = (position + velocity).clamp(MIN_POSITION, MAX_POSITION);
    if position == MIN_POSITION && velocity < 0.0 {
        velocity = 0.0;
    }
    *state = [position, velocity];
}

fn reset(rng: &mut Rng) -> [f64; 2] {
    [rng.random_range(-0.6..-0.4), 0.0]
}

fn observe(state: &[f64; 2], observation: &mut [f32]) {
    observation.copy_from_slice(&[state[0] as f32, state[1] as f32]);
}

impl Dynamics<2> for MountainCarV0 {
    fn spec() -> &'static EnvSpec {
        &V0
    }

    fn reset(rng: &mut Rng) -> [f64; 2] {
        reset(rng)
    }

    fn observe(state: &[f64; 2], observation: &mut [f32]) {
        observe(state, observation);
    }

    fn step(state: &mut [f64; 2], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let push = discrete(action, 3);
        advance(state, push);
        (-1.0, state[0] >= GOAL && state[1] >= 0.0, [push as f64 - 1.0, 0.0])
    }

    fn draw(state: &[f64; 2], action: [f64; 2], scene: &mut Scene) {
        draw(state, action, GOAL, scene);
    }
}

impl Dynamics<2> for MountainCar {
    fn spec() -> &'static EnvSpec {
        &FIXED
    }

    fn reset(rng: &mut Rng) -> [f64; 2] {
        reset(rng)
    }

    fn observe(state: &[f64; 2], observation: &mut [f32]) {
        observe(state, observation);
    }

    fn step(state: &mut [f64; 2], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let push = discrete(action, 3);
        if state[0] < GOAL {
            advance(state, push);
        }
        if state[0] >= GOAL {
            state[1] = 0.0;
        }
        // Height of the hill is sin 3x; its bottom is −1.
        let height = ((3.0 * state[0]).sin() + 1.0) / ((3.0 * GOAL).sin() + 1.0);
        let reward = if state[0] >= GOAL { 1.0 } else { height.min(1.0) };
        (reward, false, [push as f64 - 1.0, 0.0])
    }

    fn draw(state: &[f64; 2], action: [f64; 2], scene: &mut Scene) {
        draw(state, action, GOAL, scene);
    }
}

impl Dynamics<2> for MountainCarContinuousV0 {
    fn spec() -> &'static EnvSpec {
        &CONTINUOUS_V0
    }

    fn reset(rng: &mut Rng) -> [f64; 2] {
        reset(rng)
    }

    fn observe(state: &[f64; 2], observation: &mut [f32]) {
        observe(state, observation);
    }

    fn step(state: &mut [f64; 2], action: Action<'_>) -> (f64, bool, [f64; 2]) {
        let [mut position, mut velocity] = *state;
        let given = continuous(action, 0);
        let force = given.clamp(-1.0, 1.0);
        // min(max(action, -1.0), 1.0) keeps the float32 of the action inside the bounds and is a Python float beyond.
        let push = if given == force { f64::from(force * POWER) } else { f64::from(force) * 0.0015 };
        velocity += push - GRAVITY * (3.0 * position).cos();
        velocity = velocity.clamp(-MAX_SPEED, MAX_SPEED);
        position = (position + velocity).clamp(MIN_POSITION, MAX_POSITION);
        if position == MIN_POSITION && velocity < 0.0 {
            velocity = 0.0;
        }
        let terminated = position >= CONTINUOUS_GOAL && velocity >= 0.0;
        // The cost is of the action as given, not as clipped.
        let cost = f64::from(given * given) * 0.1;
        // Gymnasium stores the state as float32 after every step.
        *state = [f64::from(position as f32), f64::from(velocity as f32)];
        (if terminated { 100.0 } else { 0.0 } - cost, terminated, [f64::from(force), 0.0])
    }

    fn draw(state: &[f64; 2], action: [f64; 2], scene: &mut Scene) {
        draw(state, action, CONTINUOUS_GOAL, scene);
    }
}

fn height(x: f32) -> f32 {
    (3.0 * x).sin() * 0.45 + 0.55
}

fn draw(state: &[f64; 2], action: [f64; 2], goal: f64, scene: &mut Scene) {
    let (low, high) = (MIN_POSITION as f32 - 0.05, MAX_POSITION as f32 + 0.05);
    scene.clear([low, -0.1], [high, 1.3]);
    let hill: Vec<[f32; 2]> = (0..=60).map(|i| low + (high - low) * i as f32 / 60.0).map(|x| [x, height(x)]).collect();
    scene.shapes.push(Shape::Polyline { points: hill.clone(), radius: 0.01, ink: Ink::Ground });
    scene.shapes.push(Shape::Area { surface: hill, bottom: -0.1, ink: Ink::Ground });
    let flag = goal as f32;
    let base = height(flag);
    scene.shapes.push(Shape::Capsule { from: [flag, base], to: [flag, base + 0.22], radius: 0.008, ink: Ink::Target });
    let pennant = vec![[flag, base + 0.22], [flag + 0.11, base + 0.18], [flag, base + 0.14]];
    scene.shapes.push(Shape::Polygon { points: pennant, rounding: 0.0, ink: Ink::Target });
    // The car stands on the slope.
    let x = state[0] as f32;
    let slope = (3.0 * x).cos() * 3.0 * 0.45;
    let norm = slope.hypot(1.0);
    let (along, up) = ([1.0 / norm, slope / norm], [-slope / norm, 1.0 / norm]);
    let at = |a: f32, u: f32| [x + along[0] * a + up[0] * u, height(x) + along[1] * a + up[1] * u];
    if action[0] != 0.0 {
        let side = action[0].signum() as f32;
        arrow(scene, at(side * 0.1, 0.07), at(side * 0.1 + 0.14 * action[0] as f32, 0.07));
    }
    let body = vec![at(-0.09, 0.035), at(0.09, 0.035), at(0.075, 0.095), at(-0.075, 0.095)];
    scene.shapes.push(Shape::Polygon { points: body, rounding: 0.015, ink: Ink::Body });
    for side in [-0.05, 0.05] {
        scene.shapes.push(Shape::Circle { center: at(side, 0.03), radius: 0.03, ink: Ink::Joint });
    }
    scene.tracked = Some(at(0.0, 0.07));
}
