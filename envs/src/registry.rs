//! All environments by name.

use crate::acrobot::{Acrobot, AcrobotV1};
use crate::cart_pole::{CartPole, CartPoleV1};
use crate::env::{Env, EnvSpec};
use crate::inverted_pendulum::InvertedPendulum;
use crate::mountain_car::{MountainCar, MountainCarContinuousV0, MountainCarV0};
use crate::pendulum::Pendulum;
use crate::reacher::Reacher;
use crate::task::{Dynamics, Task};
use crate::taste;

/// There is no environment of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown environment '{given}': did you mean '{nearest}'? There are: {}", all.join(", "))]
pub struct UnknownEnv {
    /// What was asked for.
    pub given: String,
    /// The name nearest to it.
    pub nearest: &'static str,
    /// All names.
    pub all: Vec<&'static str>,
}

type Maker = fn() -> Box<dyn Env>;

fn task<D: Dynamics<N> + 'static, const N: usize>() -> Box<dyn Env> {
    Box::new(Task::<D, N>::new())
}

/// Fixed-horizon tasks first, then Gymnasium's; those judged by other tastes last.
const MAKERS: &[Maker] = &[
    task::<Pendulum<false>, 2>, task::<CartPole, 4>, task::<MountainCar, 2>, task::<Acrobot, 4>, task::<Reacher, 6>,
    task::<InvertedPendulum, 4>, task::<CartPoleV1, 4>, task::<Pendulum<true>, 2>, task::<MountainCarV0, 2>,
    task::<MountainCarContinuousV0, 2>, task::<AcrobotV1, 4>,
];

/// Specifications of all environments, the fixed-horizon tasks for preference learning first.
pub fn specs() -> impl Iterator<Item = &'static EnvSpec> {
    MAKERS.iter().chain(&taste::MAKERS).map(|make| make().spec())
}

/// Makes an environment; load or reset it before stepping.
///
/// # Errors
/// [`UnknownEnv`], which names the nearest one.
pub fn make(id: &str) -> Result<Box<dyn Env>, UnknownEnv> {
    let all = || MAKERS.iter().chain(&taste::MAKERS).map(|make| make());
    all().find(|env| env.spec().id == id).ok_or_else(|| {
        let lower = id.to_lowercase();
        let distance = |spec: &EnvSpec| edit_distance(&lower, &spec.id.to_lowercase());
        let nearest = specs().min_by_key(|spec| distance(spec)).expect("the registry is not empty").id;
        UnknownEnv { given: id.to_owned(), nearest, all: specs().map(|spec| spec.id).collect() }
    })
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{edit_distance, make};

    #[test]
    fn unknown_names_suggest_the_nearest() {
        for (given, nearest) in [("pendlum", "pendulum"), ("cartpole-v1", "CartPole-v1"), ("Reacher", "reacher")] {
            assert_eq!(make(given).err().map(|e| e.nearest), Some(nearest));
        }
        assert_eq!((edit_distance("kitten", "sitting"), edit_distance("", "abc")), (3, 3));
    }
}
