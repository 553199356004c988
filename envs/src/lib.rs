//! Control environments for preference learning.
//!
//! Gymnasium's classic control under its own ids, fixed-horizon tasks whose length cannot leak the reward under
//! short names, vectorised stepping, and drawings as data.
//!
//! **Architecture invariant:** this crate knows nothing of burn, egui or preferences.

mod env;
#[cfg(all(unix, feature = "gymnasium-rs"))]
mod gym;
mod raster;
mod scene;
mod tasks;
mod vector;

pub use env::{Action, Env, EnvSpec, LARGEST_STATE, Rng, Space, StateError, Step};
#[cfg(all(unix, feature = "gymnasium-rs"))]
pub use gym::{FromGym, Gym};
pub use raster::{Frame, MAX_SIDE, Palette, RasterError, Rgba, gif, png, render, side_by_side};
pub use scene::{Ink, Point, Scene, Shape};
pub use tasks::{Judged, Taste, UnknownEnv, make, specs, task, tasks, tastes};
pub use vector::{Actions, EpisodeRng, Finished, VecEnv, VecEnvState};
