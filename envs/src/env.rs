//! What an environment is: its specification, and the trait that all of them implement.

use rand::rngs::Xoshiro256PlusPlus;

use crate::scene::Scene;

/// The random stream of everything recorded; value-stable across versions of `rand`.
pub type Rng = Xoshiro256PlusPlus;

/// A control task that can be stepped, saved, loaded and drawn.
///
/// Semantics are Gymnasium's: `terminated` says that the task itself ended (no value beyond it), `truncated` that
/// the time limit cut it off (its value goes on). Neither resets by itself; [`crate::VecEnv`] does that.
/// Stepping, observing and saving never allocate, and take the same time for every state.
///
/// A state that is driven so far that it overflows becomes infinite or NaN, and so do what is observed and the reward:
/// whoever steps has to look, and to stop there.
pub trait Env: Send {
    /// Fixed facts about the task.
    fn spec(&self) -> &'static EnvSpec;

    /// Draws an initial state from `rng` and writes its observation.
    ///
    /// # Shapes
    /// - `observation`: `[spec.observation.len()]`
    fn reset(&mut self, rng: &mut Rng, observation: &mut [f32]);

    /// Advances one control step and writes the observation after it.
    ///
    /// A continuous action outside its bounds is treated as Gymnasium treats it (usually clipped).
    ///
    /// # Shapes
    /// - `observation`: `[spec.observation.len()]`
    fn step(&mut self, action: Action<'_>, observation: &mut [f32]) -> Step;

    /// Writes the observation of the present state.
    fn observe(&self, observation: &mut [f32]);

    /// Writes the full state: the physical variables named by `spec.state`, then what else is needed to go on
    /// exactly (elapsed steps, last action).
    ///
    /// # Shapes
    /// - `state`: `[spec.saved_len]`
    fn save(&self, state: &mut [f64]);

    /// Restores a state written by [`Env::save`], or sets the physical variables alone (elapsed steps and last
    /// action become zero).
    ///
    /// # Shapes
    /// - `state`: `[spec.saved_len]` or `[spec.state.len()]`
    ///
    /// # Errors
    /// [`StateError`] when the length is neither, a value is not finite, or a physical variable is beyond
    /// [`LARGEST_STATE`]. The present state stays then.
    fn load(&mut self, state: &[f64]) -> Result<(), StateError>;

    /// Draws the present state as shapes in world coordinates (metres, y up).
    fn draw(&self, scene: &mut Scene);
}

/// Fixed facts about an environment.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvSpec {
    /// Identifier used on the command line, e.g. `pendulum` or `Pendulum-v1`.
    pub id: &'static str,
    /// One sentence for people: what one sees, and what is wanted.
    pub summary: &'static str,
    /// What the agent observes.
    pub observation: Space,
    /// What the agent can do.
    pub action: Space,
    /// Names and units of the physical state variables, in the order of [`Env::save`].
    pub state: &'static [&'static str],
    /// Length of what [`Env::save`] writes.
    pub saved_len: usize,
    /// Seconds between two control steps.
    pub dt: f64,
    /// Time limit in steps; the step that reaches it is `truncated`.
    pub horizon: usize,
    /// Whether the task can end before its time limit. If so, the length of an episode leaks the reward.
    pub terminates: bool,
}

/// A set of observations or actions.
#[derive(Debug, Clone, PartialEq)]
pub enum Space {
    /// The integers `0..n`.
    Discrete {
        /// Number of elements.
        n: usize,
    },
    /// Vectors between two bounds, element by element; bounds may be infinite.
    Box {
        /// Lower bounds.
        low: Vec<f32>,
        /// Upper bounds, as many as `low`.
        high: Vec<f32>,
    },
}

/// One action.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action<'a> {
    /// An element of [`Space::Discrete`].
    Discrete(usize),
    /// An element of [`Space::Box`].
    Continuous(&'a [f32]),
}

/// What a step returned, beside the observation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    /// True reward of the step.
    pub reward: f64,
    /// The task ended: nothing can be earned beyond this state.
    pub terminated: bool,
    /// The time limit was reached: the state's value goes on.
    pub truncated: bool,
}

/// Largest magnitude of a physical variable that [`Env::load`] takes: a thousand times what the tasks themselves come to,
/// and small enough that one step cannot overflow.
pub const LARGEST_STATE: f64 = 1e6;

/// A state that does not fit the environment.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StateError {
    /// Wrong number of values.
    #[error("{id}: a state has {} values ({}), or {saved_len} as saved; found {found}", names.len(), names.join(", "))]
    Length {
        /// Environment.
        id: &'static str,
        /// Names of the physical variables.
        names: &'static [&'static str],
        /// Length of a full saved state.
        saved_len: usize,
        /// Length found.
        found: usize,
    },
    /// A value is NaN or infinite.
    #[error("{id}: state value {index} is {value}; every value must be finite")]
    NotFinite {
        /// Environment.
        id: &'static str,
        /// Position of the value.
        index: usize,
        /// What was found.
        value: f64,
    },
    /// A value that no motion of the task leads to.
    #[error("{id}: {name} = {value:e}: every physical variable must be between -1e6 and 1e6")]
    TooLarge {
        /// Environment.
        id: &'static str,
        /// Name of the variable.
        name: &'static str,
        /// What was found.
        value: f64,
    },
    /// An environment of another library that keeps its state to itself.
    #[error("{id}: this environment cannot be set to a state")]
    Unsupported {
        /// Environment.
        id: &'static str,
    },
}

impl StateError {
    /// The same error of an environment that stands for another.
    pub(crate) fn of(mut self, own: &'static str) -> Self {
        match &mut self {
            Self::Length { id, .. }
            | Self::NotFinite { id, .. }
            | Self::TooLarge { id, .. }
            | Self::Unsupported { id } => {
                *id = own;
            }
        }
        self
    }
}

impl Space {
    /// Numbers needed to write one element down: 1 for discrete spaces, the dimension for boxes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Discrete { .. } => 1,
            Self::Box { low, .. } => low.len(),
        }
    }

    /// Whether elements have no coordinates at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
