//! Adapters to and from [`gymnasium_rs::core::Env`], the trait of the Rust port of Gymnasium.
//!
//! [`Gym`] lends an environment of this crate to code written for gymnasium-rs, [`FromGym`] the other way round.

use std::collections::HashMap;

use gymnasium_rs::core::{Env as GymEnv, Info, Options, Reward, Space as GymSpace};
use ndarray::{Array1, Array3};
use rand::{RngExt as _, SeedableRng as _};

use crate::env::{Action, Env, EnvSpec, Rng, Space, StateError, Step};
use crate::raster::{Palette, render};
use crate::scene::{Ink, Scene, Shape};
use crate::tasks::{UnknownEnv, make};

/// An environment of this crate as a gymnasium-rs one: `Env<Array1<f32>, i32>` for discrete actions,
/// `Env<Array1<f32>, Array1<f32>>` for continuous ones.
///
/// The time limit is part of it, as with Gymnasium's `make`. Rewards are rounded to the trait's `f32`.
pub struct Gym {
    env: Box<dyn Env>,
    rng: Rng,
}

/// A gymnasium-rs environment as one of this crate.
///
/// The foreign trait has no way to read or set a state, so [`Env::save`] writes nothing and [`Env::load`] is an
/// error; [`Env::draw`] shows the observation as bars.
pub struct FromGym<E> {
    env: E,
    spec: &'static EnvSpec,
    observation: Vec<f32>,
    elapsed: usize,
    step_foreign: StepForeign<E>,
    reset_foreign: fn(&mut E, i32) -> Array1<f32>,
}

type StepForeign<E> = fn(&mut E, Action<'_>) -> (Array1<f32>, Reward, bool, bool);

/// Side of what [`Gym`] renders, pixels.
const RENDER_SIDE: u32 = 256;

// ---------------------------------------------------------------------------------------------------------- lending

impl Gym {
    /// Environment `id`. Resets without a seed go on drawing from a stream that starts at `seed`.
    ///
    /// # Errors
    /// [`UnknownEnv`] when there is no such environment.
    pub fn new(id: &str, seed: u64) -> Result<Self, UnknownEnv> {
        Ok(Self { env: make(id)?, rng: Rng::seed_from_u64(seed) })
    }

    fn reset(&mut self, seed: Option<i32>) -> (Array1<f32>, Info) {
        if let Some(seed) = seed {
            self.rng = Rng::seed_from_u64(u64::from(seed.cast_unsigned()));
        }
        let mut observation = vec![0.0; self.env.spec().observation.len()];
        self.env.reset(&mut self.rng, &mut observation);
        (observation.into(), HashMap::new())
    }

    fn step(&mut self, action: Action<'_>) -> (Array1<f32>, Reward, bool, bool, Info) {
        let mut observation = vec![0.0; self.env.spec().observation.len()];
        let Step { reward, terminated, truncated } = self.env.step(action, &mut observation);
        (observation.into(), reward as f32, terminated, truncated, HashMap::new())
    }

    fn picture(&self) -> Option<Array3<u8>> {
        let mut scene = Scene::default();
        self.env.draw(&mut scene);
        let frame = render(&scene, &[], RENDER_SIDE, RENDER_SIDE, &Palette::default()).ok()?;
        let rgb: Vec<u8> = frame.rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Array3::from_shape_vec((frame.height as usize, frame.width as usize, 3), rgb).ok()
    }
}

/// A negative index counts as the first action.
impl GymEnv<Array1<f32>, i32> for Gym {
    fn observation_space(&self) -> GymSpace {
        to_gym(&self.env.spec().observation)
    }

    fn action_space(&self) -> GymSpace {
        to_gym(&self.env.spec().action)
    }

    fn reset(&mut self, seed: Option<i32>, _options: Options) -> (Array1<f32>, Info) {
        self.reset(seed)
    }

    fn step(&mut self, action: i32) -> (Array1<f32>, Reward, bool, bool, Info) {
        self.step(Action::Discrete(usize::try_from(action).unwrap_or(0)))
    }

    fn render(&self) -> Option<Array3<u8>> {
        self.picture()
    }

    fn close(&mut self) {}
}

impl GymEnv<Array1<f32>, Array1<f32>> for Gym {
    fn observation_space(&self) -> GymSpace {
        to_gym(&self.env.spec().observation)
    }

    fn action_space(&self) -> GymSpace {
        to_gym(&self.env.spec().action)
    }

    fn reset(&mut self, seed: Option<i32>, _options: Options) -> (Array1<f32>, Info) {
        self.reset(seed)
    }

    fn step(&mut self, action: Array1<f32>) -> (Array1<f32>, Reward, bool, bool, Info) {
        self.step(Action::Continuous(&action.to_vec()))
    }

    fn render(&self) -> Option<Array3<u8>> {
        self.picture()
    }

    fn close(&mut self) {}
}

fn to_gym(space: &Space) -> GymSpace {
    match space {
        Space::Discrete { n } => GymSpace::Discrete(i32::try_from(*n).unwrap_or(i32::MAX)),
        Space::Box { low, high } => GymSpace::Box { low: low.clone().into(), high: high.clone().into() },
    }
}

fn from_gym(space: GymSpace) -> Space {
    match space {
        GymSpace::Discrete(n) => Space::Discrete { n: usize::try_from(n).unwrap_or(0) },
        GymSpace::Box { low, high } => Space::Box { low: low.to_vec(), high: high.to_vec() },
    }
}

// -------------------------------------------------------------------------------------------------------- borrowing

impl<E: GymEnv<Array1<f32>, i32>> FromGym<E> {
    /// A foreign environment with discrete actions, cut off after `horizon` steps of `dt` seconds.
    #[must_use]
    pub fn discrete(env: E, id: &str, dt: f64, horizon: usize) -> Self {
        let spec = foreign_spec(id, env.observation_space(), env.action_space(), dt, horizon);
        Self::with(
            env,
            spec,
            |env, seed| env.reset_seed(seed).0,
            |env, action| {
                let index = match action {
                    Action::Discrete(index) => i32::try_from(index).unwrap_or(i32::MAX),
                    Action::Continuous(values) => values.first().map_or(0, |v| v.round() as i32),
                };
                let (observation, reward, terminated, truncated, _) = env.step(index);
                (observation, reward, terminated, truncated)
            },
        )
    }
}

impl<E: GymEnv<Array1<f32>, Array1<f32>>> FromGym<E> {
    /// A foreign environment with continuous actions, cut off after `horizon` steps of `dt` seconds.
    #[must_use]
    pub fn continuous(env: E, id: &str, dt: f64, horizon: usize) -> Self {
        let spec = foreign_spec(id, env.observation_space(), env.action_space(), dt, horizon);
        Self::with(
            env,
            spec,
            |env, seed| env.reset_seed(seed).0,
            |env, action| {
                let values = match action {
                    Action::Discrete(index) => vec![index as f32],
                    Action::Continuous(values) => values.to_vec(),
                };
                let (observation, reward, terminated, truncated, _) = env.step(values.into());
                (observation, reward, terminated, truncated)
            },
        )
    }
}

impl<E> FromGym<E> {
    fn with(
        env: E,
        spec: EnvSpec,
        reset_foreign: fn(&mut E, i32) -> Array1<f32>,
        step_foreign: StepForeign<E>,
    ) -> Self {
        let observation = vec![0.0; spec.observation.len()];
        // An adapter's specification lives as long as the program, as those of the crate's own tasks do.
        Self { env, spec: Box::leak(Box::new(spec)), observation, elapsed: 0, step_foreign, reset_foreign }
    }

    /// Keeps the foreign observation, which may be of another length than its space says.
    fn keep(&mut self, observed: &Array1<f32>) {
        self.observation.iter_mut().zip(observed).for_each(|(to, from)| *to = *from);
    }
}

fn foreign_spec(id: &str, observation: GymSpace, action: GymSpace, dt: f64, horizon: usize) -> EnvSpec {
    EnvSpec {
        id: Box::leak(id.to_owned().into_boxed_str()),
        summary: "An environment of gymnasium-rs.",
        observation: from_gym(observation),
        action: from_gym(action),
        state: &[],
        saved_len: 0,
        dt,
        horizon,
        terminates: true,
    }
}

impl<E: Send> Env for FromGym<E> {
    fn spec(&self) -> &'static EnvSpec {
        self.spec
    }

    fn reset(&mut self, rng: &mut Rng, observation: &mut [f32]) {
        let observed = (self.reset_foreign)(&mut self.env, rng.random_range(0..i32::MAX));
        self.keep(&observed);
        self.elapsed = 0;
        self.observe(observation);
    }

    fn step(&mut self, action: Action<'_>, observation: &mut [f32]) -> Step {
        let (observed, reward, terminated, truncated) = (self.step_foreign)(&mut self.env, action);
        self.keep(&observed);
        self.elapsed += 1;
        self.observe(observation);
        Step { reward: f64::from(reward), terminated, truncated: truncated || self.elapsed >= self.spec.horizon }
    }

    fn observe(&self, observation: &mut [f32]) {
        observation.copy_from_slice(&self.observation);
    }

    fn save(&self, _state: &mut [f64]) {}

    fn load(&mut self, _state: &[f64]) -> Result<(), StateError> {
        Err(StateError::Unsupported { id: self.spec.id })
    }

    fn draw(&self, scene: &mut Scene) {
        let n = self.observation.len() as f32;
        scene.clear([-0.5, -1.2], [n - 0.5, 1.2]);
        scene.shapes.push(Shape::Capsule { from: [-0.5, 0.0], to: [n - 0.5, 0.0], radius: 0.01, ink: Ink::Ground });
        for (i, value) in self.observation.iter().enumerate() {
            let (x, y) = (i as f32, value.clamp(-1.0, 1.0));
            scene.shapes.push(Shape::Capsule { from: [x, 0.0], to: [x, y], radius: 0.2, ink: Ink::Body });
        }
    }
}
