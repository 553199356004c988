//! Tasks judged by another taste: the same body and the same states, but another reward.

use std::sync::LazyLock;

use crate::env::{Action, Env, EnvSpec, Rng, Space, StateError, Step};
use crate::inverted_pendulum::InvertedPendulum;
use crate::pendulum::Pendulum;
use crate::reacher::Reacher;
use crate::scene::Scene;
use crate::task::{Dynamics as _, Task, continuous};

/// What somebody wants of a task, step by step; more is better.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    /// What it is called.
    pub name: &'static str,
    /// The environment whose reward it is.
    pub env: &'static str,
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

static TASTES: [(&str, [Taste; 2]); 3] = [
    (
        "reacher",
        [
            Taste { name: "precision", env: "reacher", reward: |step| step.own_reward },
            Taste { name: "effort saved", env: "reacher-gentle", reward: effort_saved },
        ],
    ),
    // Its own reward counts a little torque already; the height of its end does not.
    (
        "pendulum",
        [
            Taste { name: "upright", env: "pendulum-upright", reward: |step| f64::from(step.next_observation[0]) },
            Taste { name: "torque saved", env: "pendulum-gentle", reward: effort_saved },
        ],
    ),
    (
        "inverted-pendulum",
        [
            Taste { name: "upright", env: "inverted-pendulum", reward: |step| step.own_reward },
            Taste { name: "force saved", env: "inverted-pendulum-gentle", reward: effort_saved },
        ],
    ),
];

fn effort_saved(step: &Judged<'_>) -> f64 {
    let squares = step.action.iter().map(|a| f64::from(a * a)).sum::<f64>();
    -squares / step.action.len().max(1) as f64
}

/// A task with another taste's reward.
pub(crate) struct Tasted {
    task: Box<dyn Env>,
    spec: &'static EnvSpec,
    reward: fn(&Judged<'_>) -> f64,
    /// Largest action, element by element.
    high: Vec<f32>,
    /// The action in −1..1.
    action: Vec<f32>,
}

/// All of them, for the registry.
pub(crate) static MAKERS: [fn() -> Box<dyn Env>; 4] = [
    || Tasted::boxed(Box::new(Task::<Reacher, 6>::new()), &REACHER_GENTLE),
    || Tasted::boxed(Box::new(Task::<Pendulum<false>, 2>::new()), &PENDULUM_UPRIGHT),
    || Tasted::boxed(Box::new(Task::<Pendulum<false>, 2>::new()), &PENDULUM_GENTLE),
    || Tasted::boxed(Box::new(Task::<InvertedPendulum, 4>::new()), &INVERTED_PENDULUM_GENTLE),
];

static REACHER_GENTLE: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "reacher-gentle",
    summary: "The arm of `reacher`, whose one wish is to move with little torque.",
    ..Reacher::spec().clone()
});

static PENDULUM_UPRIGHT: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "pendulum-upright",
    summary: "The rod of `pendulum`, whose one wish is a high end, at any torque.",
    ..Pendulum::<false>::spec().clone()
});

static PENDULUM_GENTLE: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "pendulum-gentle",
    summary: "The rod of `pendulum`, whose one wish is to move with little torque.",
    ..Pendulum::<false>::spec().clone()
});

static INVERTED_PENDULUM_GENTLE: LazyLock<EnvSpec> = LazyLock::new(|| EnvSpec {
    id: "inverted-pendulum-gentle",
    summary: "The cart of `inverted-pendulum`, whose one wish is to push with little force.",
    ..InvertedPendulum::spec().clone()
});

impl Tasted {
    fn boxed(task: Box<dyn Env>, spec: &'static EnvSpec) -> Box<dyn Env> {
        let taste = TASTES.iter().flat_map(|(_, tastes)| tastes).find(|taste| taste.env == spec.id);
        let reward = taste.expect("every environment here is a taste's, as a test shows").reward;
        let high = match &spec.action {
            Space::Box { high, .. } => high.clone(),
            Space::Discrete { .. } => Vec::new(),
        };
        Box::new(Self { task, spec, reward, action: vec![0.0; high.len()], high })
    }
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
    use crate::registry::{make, specs};

    #[test]
    fn tastes_share_body_and_states_with_their_task_and_differ_in_reward() {
        for (name, both) in &TASTES {
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
