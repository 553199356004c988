//! All environments by name. A task is one file here, and one line in [`TASKS`].

mod acrobot;
mod cart_pole;
mod dynamics;
mod inverted_pendulum;
mod mountain_car;
mod pendulum;
mod reacher;
mod taste;

use crate::env::{Env, EnvSpec};
use dynamics::{Dynamics, Task};

pub use taste::{Judged, Taste, task, tastes};

/// There is no environment of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown environment '{given}': {} {}", hint(*nearest), all.join(", "))]
pub struct UnknownEnv {
    /// What was asked for.
    pub given: String,
    /// The name nearest to it, if one is near.
    pub nearest: Option<&'static str>,
    /// All names.
    pub all: Vec<&'static str>,
}

type Maker = fn() -> Box<dyn Env>;

/// Tasks that never end before their horizon, so that the length of an episode says nothing about the reward.
const TASKS: &[Maker] = &[
    new::<pendulum::Pendulum<false>, _>,
    new::<cart_pole::CartPole, _>,
    new::<reacher::Reacher, _>,
    new::<inverted_pendulum::InvertedPendulum, _>,
    new::<mountain_car::MountainCar, _>,
    new::<acrobot::Acrobot, _>,
];

/// Gymnasium's classic control.
const GYMNASIUM: &[Maker] = &[
    new::<cart_pole::CartPoleV1, _>,
    new::<pendulum::Pendulum<true>, _>,
    new::<mountain_car::MountainCarV0, _>,
    new::<mountain_car::MountainCarContinuousV0, _>,
    new::<acrobot::AcrobotV1, _>,
];

/// Specifications of all environments: the fixed-horizon tasks, Gymnasium's, and tasks judged by another taste.
pub fn specs() -> impl Iterator<Item = &'static EnvSpec> {
    TASKS.iter().chain(GYMNASIUM).map(|make| make().spec()).chain(taste::specs())
}

/// Specifications of the fixed-horizon tasks, each judged by its own reward: what an agent is taught and compared on.
pub fn tasks() -> impl Iterator<Item = &'static EnvSpec> {
    TASKS.iter().map(|make| make().spec())
}

/// Makes an environment; load or reset it before stepping.
///
/// # Errors
/// [`UnknownEnv`], which names the nearest one.
pub fn make(id: &str) -> Result<Box<dyn Env>, UnknownEnv> {
    own(id).or_else(|| taste::make(id)).ok_or_else(|| {
        let all: Vec<&str> = specs().map(|spec| spec.id).collect();
        let distance = |name: &&str| strsim::damerau_levenshtein(&id.to_lowercase(), &name.to_lowercase());
        // One letter in four may be wrong: beyond that it is another word.
        let nearest = all.iter().copied().min_by_key(distance).filter(|name| distance(name) <= id.chars().count() / 4);
        UnknownEnv { given: id.to_owned(), nearest, all }
    })
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| "there are".to_owned(), |name| format!("did you mean '{name}'? There are"))
}

/// An environment that is judged by its own reward.
fn own(id: &str) -> Option<Box<dyn Env>> {
    TASKS.iter().chain(GYMNASIUM).map(|make| make()).find(|env| env.spec().id == id)
}

fn new<D: Dynamics<N> + 'static, const N: usize>() -> Box<dyn Env> {
    Box::new(Task::<D, N>::new())
}

#[cfg(test)]
mod tests {
    use super::{make, specs};

    #[test]
    fn unknown_names_suggest_the_nearest() {
        for (given, nearest) in [
            ("pendlum", Some("pendulum")),
            ("cartpole-v1", Some("CartPole-v1")),
            ("Reacher", Some("reacher")),
            ("hopper", None),
        ] {
            assert_eq!(make(given).err().map(|e| e.nearest), Some(nearest));
        }
        let message = make("pendlum").err().map(|e| e.to_string()).unwrap_or_default();
        let expected = "unknown environment 'pendlum': did you mean 'pendulum'? There are pendulum, cartpole, ";
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn no_two_names_differ_by_capitals_alone_and_every_name_makes_its_environment() {
        let mut names: Vec<String> = specs().map(|spec| spec.id.to_lowercase()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), specs().count());
        assert!(specs().all(|spec| make(spec.id).is_ok_and(|env| env.spec() == spec)));
    }
}
