//! The contract between this crate's environments and gymnasium-rs', in both directions.
#![cfg(all(unix, feature = "gymnasium-rs"))]

use gymnasium_rs::core::{Env as GymEnv, Space as GymSpace};
use gymnasium_rs::envs::cartpole::CartPole;
use ndarray::Array1;
use pairwise_envs::{Action, Env as _, FromGym, Gym, Rng, Space, make, specs};
use rand::SeedableRng as _;

/// What gymnasium-rs asks of an environment, for either kind of action.
fn contract<A>(env: &mut dyn GymEnv<Array1<f32>, A>, action: impl Fn(usize) -> A, horizon: usize) {
    let GymSpace::Box { low, high } = env.observation_space() else { panic!("observations are vectors") };
    assert_eq!(low.len(), high.len());
    let (first, _) = env.reset_seed(7);
    assert_eq!(first.len(), low.len());
    let again = env.reset_seed(7).0;
    assert_eq!(first, again, "a seed gives one initial state");
    let other = env.reset_default().0;
    assert_ne!(first, other, "a reset without a seed goes on drawing");

    let mut steps = 0;
    loop {
        let (observation, reward, terminated, truncated, _) = env.step(action(steps));
        steps += 1;
        assert!(reward.is_finite());
        for (i, value) in observation.iter().enumerate() {
            assert!((low[i]..=high[i]).contains(value), "observation {i} = {value}");
        }
        if terminated || truncated {
            assert_eq!(truncated, steps == horizon);
            break;
        }
    }
    let picture = env.render().expect("every environment can be drawn");
    assert_eq!(picture.shape()[2], 3);
    assert!(picture.iter().any(|&value| value != picture[[0, 0, 0]]), "the picture shows something");
    env.close();
}

#[test]
fn every_environment_keeps_the_contract_of_gymnasium_rs() {
    for spec in specs() {
        let mut env = Gym::new(spec.id, 0).expect("the registry lists it");
        match &spec.action {
            Space::Discrete { n } => contract::<i32>(&mut env, |step| (step % n) as i32, spec.horizon),
            Space::Box { low, .. } => {
                let len = low.len();
                contract::<Array1<f32>>(&mut env, |step| Array1::from_elem(len, (step as f32).sin()), spec.horizon);
            }
        }
    }
}

#[test]
fn a_lent_environment_steps_like_the_original() {
    let (mut lent, mut own) = (Gym::new("Pendulum-v1", 0).expect("it exists"), make("Pendulum-v1").expect("it exists"));
    let first = GymEnv::<Array1<f32>, Array1<f32>>::reset_seed(&mut lent, 3).0;
    let mut observation = [0.0; 3];
    own.reset(&mut Rng::seed_from_u64(3), &mut observation);
    assert_eq!(first.to_vec(), observation);
    for step in 0..200 {
        let torque = [(step as f32 * 0.3).sin() * 2.5];
        let expected = own.step(Action::Continuous(&torque), &mut observation);
        let (seen, reward, terminated, truncated, _) = lent.step(Array1::from_vec(torque.to_vec()));
        assert_eq!(seen.to_vec(), observation);
        assert_eq!((reward, terminated, truncated), (expected.reward as f32, expected.terminated, expected.truncated));
    }
}

/// gymnasium-rs' own cart-pole, borrowed: it must behave as it does without the adapter.
#[test]
fn a_borrowed_environment_steps_like_the_original() {
    let mut borrowed = FromGym::discrete(CartPole::new(), "gymnasium-rs/CartPole", 0.02, 15);
    let spec = borrowed.spec();
    assert_eq!((spec.action.clone(), spec.observation.len(), spec.horizon), (Space::Discrete { n: 2 }, 4, 15));
    let mut observation = [0.0; 4];
    borrowed.reset(&mut Rng::seed_from_u64(11), &mut observation);
    assert!(observation.iter().all(|x| x.abs() <= 0.05));
    let mut repeated = [0.0; 4];
    borrowed.reset(&mut Rng::seed_from_u64(11), &mut repeated);
    assert_eq!(observation, repeated, "a seeded reset is repeatable");

    // The adapter draws the foreign seed from the stream; the original reset with that seed must agree.
    let mut original = CartPole::new();
    let seed = rand::RngExt::random_range(&mut Rng::seed_from_u64(11), 0..i32::MAX);
    assert_eq!(original.reset_seed(seed).0.to_vec(), observation);
    for step in 1..=15 {
        let seen = borrowed.step(Action::Discrete(step % 2), &mut observation);
        let (expected, reward, terminated, _, _) = original.step((step % 2) as i32);
        assert_eq!(expected.to_vec(), observation);
        assert_eq!((seen.reward, seen.terminated), (f64::from(reward), terminated));
        assert_eq!(seen.truncated, step == 15, "the adapter adds the time limit");
    }
    assert!(borrowed.load(&[0.0; 4]).is_err(), "the foreign trait cannot set a state, and says so");
}
