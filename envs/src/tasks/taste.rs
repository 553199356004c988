//! Tasks judged by another taste: the same body and the same states, but another reward.

use std::sync::LazyLock;

use super::dynamics::continuous;
use super::own;
use crate::env::{Action, Env, EnvSpec, Rng, Space, StateError, Step};
use crate::scene::Scene;

/// What somebody wants of a task, step by step; more is better.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    /// What it is called.
    pub name: &'static str,
    /// The environment whose reward it is: the task itself, or the task judged by this taste.
    pub env: &'static str,
    /// One sentence about that environment.
    pub summary: &'static str,
    /// Reward of a step.
    pub reward: fn(&Judged<'_>) -> f64,
}

/// A step as a taste sees it.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The task's own reward.
    pub own_reward: f64,
    /// What is observed after the step.
    pub next_observation: &'a [f32],
    /// The action, element by element in −1..1 of its range.
    pub action: &'a [f32],
}

/// The two tastes of a task that has some: what it is about, and little effort.
#[must_use]
pub fn tastes(env: &str) -> Option<&'static [Taste; 2]> {
    TASTES.iter().find(|(task, _)| *task == env).map(|(_, tastes)| tastes)
}

/// The task that an environment is: itself, or the one that it judges by another taste.
#[must_use]
pub fn task(env: &str) -> &str {
    let judged = TASTES.iter().find(|(_, tastes)| tastes.iter().any(|taste| taste.env == env));
    judged.map_or(env, |(task, _)| *task)
}

/// Tasks and their tastes. A line makes an environment of each taste that has a name of its own.
static TASTES: &[(&str, [Taste; 2])] = &[
    (
        "reacher",
        [
            own_reward("precision", "reacher"),
            Taste {
                name: "effort saved",
                env: "reacher-gentle",
                summary: "The arm of `reacher`, whose one wish is to move with little torque.",
                reward: effort_saved,
            },
        ],
    ),
    // Its own reward counts a little torque already; the height of its end does not.
    (
        "pendulum",
        [
            Taste {
                name: "upright",
                env: "pendulum-upright",
                summary: "The rod of `pendulum`, whose one wish is a high end, at any torque.",
                reward: |step| f64::from(step.next_observation[0]),
            },
            Taste {
                name: "torque saved",
                env: "pendulum-gentle",
                summary: "The rod of `pendulum`, whose one wish is to move with little torque.",
                reward: effort_saved,
            },
        ],
    ),
    (
        "inverted-pendulum",
        [
            own_reward("upright", "inverted-pendulum"),
            Taste {
                name: "force saved",
                env: "inverted-pendulum-gentle",
                summary: "The cart of `inverted-pendulum`, whose one wish is to push with little force.",
                reward: effort_saved,
            },
        ],
    ),
];

/// The taste that a task's own reward is.
const fn own_reward(name: &'static str, env: &'static str) -> Taste {
    Taste { name, env, summary: "The task's own reward.", reward: |step| step.own_reward }
}

fn effort_saved(step: &Judged<'_>) -> f64 {
    let squares = step.action.iter().map(|a| f64::from(a * a)).sum::<f64>();
    -squares / step.action.len().max(1) as f64
}

/// A task with another taste's reward.
struct Tasted {
    task: Box<dyn Env>,
    spec: &'static EnvSpec,
    reward: fn(&Judged<'_>) -> f64,
    /// Largest action, element by element.
    high: Vec<f32>,
    /// The action in −1..1.
    action: Vec<f32>,
}

/// Specifications of the tasks that are judged by another taste, in the order of [`TASTES`].
pub(super) fn specs() -> impl Iterator<Item = &'static EnvSpec> {
    static SPECS: LazyLock<Vec<EnvSpec>> = LazyLock::new(|| {
        let spec = |(task, taste): (&str, &Taste)| {
            let task = own(task).expect("tastes are of tasks that exist, as a test shows");
            EnvSpec { id: taste.env, summary: taste.summary, ..task.spec().clone() }
        };
        others().map(spec).collect()
    });
    SPECS.iter()
}

/// A task judged by another taste.
pub(super) fn make(id: &str) -> Option<Box<dyn Env>> {
    let ((task, taste), spec) = others().zip(specs()).find(|(_, spec)| spec.id == id)?;
    let high = match &spec.action {
        Space::Box { high, .. } => high.clone(),
        Space::Discrete { .. } => Vec::new(),
    };
    Some(Box::new(Tasted { task: own(task)?, spec, reward: taste.reward, action: vec![0.0; high.len()], high }))
}

/// Tastes that are not the task's own reward, each with its task.
fn others() -> impl Iterator<Item = (&'static str, &'static Taste)> {
    TASTES.iter().flat_map(|(task, both)| both.iter().filter(|taste| taste.env != *task).map(|taste| (*task, taste)))
}

impl Env for Tasted {
    fn spec(&self) -> &'static EnvSpec {
        self.spec
    }

    fn reset(&mut self, rng: &mut Rng, observation: &mut [f32]) {
        self.task.reset(rng, observation);
    }

    fn step(&mut self, action: Action<'_>, observation: &mut [f32]) -> Step {
        let step = self.task.step(action, observation);
        for (i, (share, high)) in self.action.iter_mut().zip(&self.high).enumerate() {
            *share = (continuous(action, i) / high).clamp(-1.0, 1.0);
        }
        let judged = Judged { own_reward: step.reward, next_observation: observation, action: &self.action };
        Step { reward: (self.reward)(&judged), ..step }
    }

    fn observe(&self, observation: &mut [f32]) {
        self.task.observe(observation);
    }

    fn save(&self, state: &mut [f64]) {
        self.task.save(state);
    }

    fn load(&mut self, state: &[f64]) -> Result<(), StateError> {
        self.task.load(state).map_err(|error| error.of(self.spec.id))
    }

    fn draw(&self, scene: &mut Scene) {
        self.task.draw(scene);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::{TASTES, task, tastes};
    use crate::env::{Action, Rng};
    use crate::tasks::{make, specs};

    #[test]
    fn tastes_share_body_and_states_with_their_task_and_differ_in_reward() {
        for (name, both) in TASTES {
            for taste in both {
                assert_eq!(task(taste.env), *name);
                let (mut own, mut other) = (make(name).unwrap(), make(taste.env).unwrap());
                let spec = own.spec();
                let mut seen = [vec![0.0; spec.observation.len()], vec![0.0; spec.observation.len()]];
                own.reset(&mut Rng::seed_from_u64(3), &mut seen[0]);
                other.reset(&mut Rng::seed_from_u64(3), &mut seen[1]);
                for i in 0..50 {
                    // Twice as wide as the range.
                    let action = vec![(i as f32 * 0.7).sin() * 6.0; spec.action.len()];
                    let steps = [&mut own, &mut other]
                        .into_iter()
                        .zip(&mut seen)
                        .map(|(env, seen)| env.step(Action::Continuous(&action), seen))
                        .collect::<Vec<_>>();
                    assert_eq!(seen[0], seen[1]);
                    if taste.env == *name {
                        assert_eq!(steps[0], steps[1]);
                    }
                    if taste.name.ends_with("saved") {
                        assert!((-1.0..=0.0).contains(&steps[1].reward), "{}", steps[1].reward);
                    }
                }
            }
        }
        assert!(tastes("acrobot").is_none() && task("acrobot") == "acrobot");
        assert!(TASTES.iter().flat_map(|(_, both)| both).all(|taste| specs().any(|spec| spec.id == taste.env)));
    }

    /// By hand: half of the largest force is a quarter of the largest effort; the pendulum's end is at cos θ.
    #[test]
    fn rewards_are_those_of_the_taste() {
        let reward = |env: &str, state: &[f64], action: &[f32]| {
            let mut env = make(env).unwrap();
            env.load(state).unwrap();
            let mut seen = vec![0.0; env.spec().observation.len()];
            (env.step(Action::Continuous(action), &mut seen).reward, seen)
        };
        assert_eq!(reward("inverted-pendulum-gentle", &[0.0; 4], &[1.5]).0, -0.25);
        assert_eq!(reward("reacher-gentle", &[0.0; 6], &[1.0, 0.5]).0, -0.625);
        assert_eq!(reward("pendulum-gentle", &[1.0, 0.0], &[-9.0]).0, -1.0);
        let (height, seen) = reward("pendulum-upright", &[1.0, 0.0], &[0.0]);
        assert_eq!(height, f64::from(seen[0]));
    }
}
