//! Films of agents: saved states drawn again, as animated GIF.

use pairwise_envs::{Env, EnvSpec, Frame, Palette, Point, Scene, gif, render, side_by_side};

use crate::control::drlhp::{self, Run, Segment};
use crate::control::rl::ppo::Agent;

/// An animated GIF.
#[derive(Debug, Clone, PartialEq)]
pub struct Film {
    /// The file's content.
    pub bytes: Vec<u8>,
    /// Pictures in it.
    pub frames: usize,
}

/// A film that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FilmError {
    /// No such environment.
    #[error(transparent)]
    Env(#[from] pairwise_envs::UnknownEnv),
    /// A saved state does not belong to the environment.
    #[error(transparent)]
    State(#[from] pairwise_envs::StateError),
    /// The size cannot be painted.
    #[error(transparent)]
    Raster(#[from] pairwise_envs::RasterError),
    /// No such comparison.
    #[error("query {query}: no such answered query; {there}")]
    NoPair {
        /// What was asked for.
        query: u64,
        /// What there is.
        there: String,
    },
}

/// States whose tracked point is shown as a trail: about a third of a second.
const TRAIL: usize = 12;

/// An episode of a policy, deterministic actions, from the initial state of `seed`.
///
/// `size` is the side in pixels, were the picture square; wide scenes keep the area.
///
/// # Errors
/// [`FilmError`]
pub fn episode(env: &str, agent: &Agent, seed: u64, size: u32) -> Result<Film, FilmError> {
    let task = pairwise_envs::make(env)?;
    let spec = task.spec();
    shot(spec, &film(spec, &drlhp::episode(env, agent, seed)?.states, size)?)
}

/// The clips that a query compared, side by side: the first left under blue, the second right under orange.
///
/// # Errors
/// [`FilmError`]
pub fn pair(run: &Run, query: u64, size: u32) -> Result<Film, FilmError> {
    let compared = run.comparisons.iter().find(|c| c.query == query).ok_or_else(|| {
        let last = run.comparisons.iter().map(|c| c.query).max();
        let there = last.map_or("there are none".to_owned(), |max| format!("there are 0 to {max}"));
        FilmError::NoPair { query, there }
    })?;
    let spec = run.envs.spec();
    let side = |segment: &Segment| film(spec, &segment.states, size);
    let pairs = side(&compared.first)?.into_iter().zip(side(&compared.second)?);
    let frames = pairs.map(|(a, b)| side_by_side(&a, &b, &Palette::default())).collect::<Result<Vec<_>, _>>()?;
    shot(spec, &frames)
}

fn shot(spec: &EnvSpec, frames: &[Frame]) -> Result<Film, FilmError> {
    // GIF counts in hundredths of a second, and players slow down anything below two.
    let delay = (spec.dt * 100.0).round().clamp(2.0, 100.0) as u16;
    Ok(Film { bytes: gif(frames, delay)?, frames: frames.len() })
}

/// Draws saved states again.
fn film(spec: &EnvSpec, states: &[f64], size: u32) -> Result<Vec<Frame>, FilmError> {
    let mut env: Box<dyn Env> = pairwise_envs::make(spec.id)?;
    let mut scene = Scene::default();
    let mut trail: Vec<Point> = Vec::new();
    let mut frames = Vec::new();
    for state in states.chunks(spec.saved_len) {
        env.load(state)?;
        env.draw(&mut scene);
        trail.extend(scene.tracked);
        let recent = &trail[trail.len().saturating_sub(TRAIL)..];
        let [w, h] = [0, 1].map(|i| scene.max[i] - scene.min[i]);
        // Wide scenes get wide pictures of the same area.
        let height = ((size as f32) * (h / w).sqrt()).round().max(1.0) as u32;
        let width = ((size as f32) * (w / h).sqrt()).round().max(1.0) as u32;
        frames.push(render(&scene, recent, width, height, &Palette::default())?);
    }
    Ok(frames)
}
