//! What every environment promises: a state that is complete, a length that leaks nothing, drawings that fit.

use pairwise_envs::{Action, Actions, Env, Palette, Rng, Scene, Space, StateError, VecEnv, make, render, specs, tasks};
use rand::{RngExt as _, SeedableRng as _};

fn episode_rng(seed: u64, env: usize, episode: u64) -> Rng {
    Rng::seed_from_u64(seed * 1_000_003 + env as u64 * 101 + episode)
}

/// Steps with a random action, twice as wide as the bounds allow; returns everything visible as bits.
fn random_step(env: &mut dyn Env, rng: &mut Rng) -> (Vec<u32>, u64, bool, bool) {
    let mut observation = vec![0.0; env.spec().observation.len()];
    let step = match &env.spec().action {
        Space::Discrete { n } => env.step(Action::Discrete(rng.random_range(0..*n)), &mut observation),
        Space::Box { low, high } => {
            let action: Vec<f32> = low.iter().zip(high).map(|(l, h)| 2.0 * rng.random_range(*l..=*h)).collect();
            env.step(Action::Continuous(&action), &mut observation)
        }
    };
    assert!(observation.iter().all(|x| x.is_finite()) && step.reward.is_finite());
    (observation.iter().map(|x| x.to_bits()).collect(), step.reward.to_bits(), step.terminated, step.truncated)
}

#[test]
fn short_named_tasks_never_end_before_their_horizon() {
    for spec in specs().filter(|spec| !spec.terminates) {
        let mut env = make(spec.id).expect("it is listed");
        let mut rng = Rng::seed_from_u64(5);
        let mut observation = vec![0.0; spec.observation.len()];
        for _ in 0..3 {
            env.reset(&mut rng, &mut observation);
            for step in 1..=spec.horizon {
                let (_, _, terminated, truncated) = random_step(env.as_mut(), &mut rng);
                assert!(!terminated && truncated == (step == spec.horizon), "{} at step {step}", spec.id);
            }
        }
    }
    assert!(tasks().all(|spec| !spec.terminates) && tasks().count() >= 6);
}

#[test]
fn a_loaded_state_goes_on_to_the_bit() {
    for spec in specs() {
        let (mut one, mut two) = (make(spec.id).expect("listed"), make(spec.id).expect("listed"));
        let mut rng = Rng::seed_from_u64(9);
        let mut observation = vec![0.0; spec.observation.len()];
        one.reset(&mut rng, &mut observation);
        (0..7).for_each(|_| drop(random_step(one.as_mut(), &mut rng)));
        let mut saved = vec![0.0; spec.saved_len];
        one.save(&mut saved);
        two.load(&saved).expect("it was saved");
        let (mut left, mut right) = (Scene::default(), Scene::default());
        one.draw(&mut left);
        two.draw(&mut right);
        assert_eq!(left, right, "{}: a state is enough to draw", spec.id);
        let mut other = rng.clone();
        for step in 0..40 {
            assert_eq!(
                random_step(one.as_mut(), &mut rng),
                random_step(two.as_mut(), &mut other),
                "{} {step}",
                spec.id
            );
        }
    }
}

#[test]
fn a_state_of_the_wrong_shape_is_refused_and_changes_nothing() {
    let mut env = make("CartPole-v1").expect("it exists");
    env.load(&[0.1, 0.2, 0.03, 0.4]).expect("four finite numbers");
    assert!(matches!(env.load(&[0.0; 3]), Err(StateError::Length { found: 3, .. })));
    assert!(matches!(env.load(&[0.0, f64::NAN, 0.0, 0.0]), Err(StateError::NotFinite { index: 1, .. })));
    assert!(matches!(env.load(&[0.0, 0.0, 1e18, 0.0]), Err(StateError::TooLarge { name: "theta [rad]", .. })));
    let mut observation = [0.0; 4];
    env.observe(&mut observation);
    assert_eq!(observation, [0.1, 0.2, 0.03, 0.4]);
}

/// Issue 28, F5: `acrobot` never ended from 1e18 rad, others gave infinities.
#[test]
fn absurd_states_are_refused_by_name_and_the_largest_ones_step_to_an_end() {
    for spec in specs() {
        let mut env = make(spec.id).expect("listed");
        for (i, name) in spec.state.iter().enumerate() {
            for absurd in [1e18, -1e18, 1.1e6, f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let mut state = vec![0.0; spec.state.len()];
                state[i] = absurd;
                let error = env.load(&state).expect_err("no motion leads there").to_string();
                assert!(error.starts_with(spec.id), "{error}");
                assert!(!absurd.is_finite() || error.contains(name), "{error}");
            }
            for largest in [1e6, -1e6] {
                let mut state = vec![0.0; spec.state.len()];
                state[i] = largest;
                env.load(&state).expect("it is the largest that is taken");
                let mut observation = vec![0.0; spec.observation.len()];
                for _ in 0..spec.horizon {
                    match &spec.action {
                        Space::Discrete { .. } => env.step(Action::Discrete(1), &mut observation),
                        Space::Box { high, .. } => env.step(Action::Continuous(high), &mut observation),
                    };
                }
            }
        }
    }
}

#[test]
fn a_vector_steps_each_environment_as_if_it_were_alone() {
    for id in ["CartPole-v1", "pendulum", "reacher"] {
        let (n, steps) = (3, 260);
        let mut vector = VecEnv::new(id, n, 4, episode_rng).expect("it exists");
        let spec = vector.spec();
        let (obs, act) = (spec.observation.len(), spec.action.len());
        let mut alone: Vec<_> = (0..n).map(|_| make(id).expect("it exists")).collect();
        let mut episodes = vec![0; n];
        let mut seen = vec![vec![0.0; obs]; n];
        for i in 0..n {
            alone[i].reset(&mut episode_rng(4, i, 0), &mut seen[i]);
        }
        for step in 0..steps {
            let continuous: Vec<f32> = (0..n * act).map(|i| ((step * 7 + i * 3) as f32 * 0.1).sin()).collect();
            let discrete: Vec<usize> = (0..n).map(|i| (step / (i + 2)) % 2).collect();
            let is_discrete = matches!(spec.action, Space::Discrete { .. });
            vector.step(if is_discrete { Actions::Discrete(&discrete) } else { Actions::Continuous(&continuous) });
            for i in 0..n {
                let action = match is_discrete {
                    true => Action::Discrete(discrete[i]),
                    false => Action::Continuous(&continuous[i * act..(i + 1) * act]),
                };
                let expected = alone[i].step(action, &mut seen[i]);
                assert_eq!(&vector.final_observations()[i * obs..(i + 1) * obs], seen[i]);
                assert_eq!(
                    (vector.rewards()[i], vector.terminated()[i], vector.truncated()[i]),
                    (expected.reward, expected.terminated, expected.truncated)
                );
                if expected.terminated || expected.truncated {
                    episodes[i] += 1;
                    alone[i].reset(&mut episode_rng(4, i, episodes[i]), &mut seen[i]);
                }
                assert_eq!(&vector.observations()[i * obs..(i + 1) * obs], seen[i], "the next episode begins at once");
            }
        }
        assert!(episodes.iter().all(|&episodes| episodes > 0), "{id}: the test must cross an episode's end");
    }
}

#[test]
fn a_restored_vector_goes_on_to_the_bit() {
    let step = |vector: &mut VecEnv, t: usize| {
        vector.step(Actions::Discrete(&[t % 2, (t / 3) % 2]));
        (vector.observations().to_vec(), vector.rewards().to_vec(), vector.finished().to_vec())
    };
    let mut vector = VecEnv::new("CartPole-v1", 2, 8, episode_rng).expect("it exists");
    (0..55).for_each(|t| drop(step(&mut vector, t)));
    let snapshot = vector.snapshot();
    let expected: Vec<_> = (55..140).map(|t| step(&mut vector, t)).collect();
    let mut restored = VecEnv::new("CartPole-v1", 2, 8, episode_rng).expect("it exists");
    restored.restore(&snapshot).expect("same environment");
    assert_eq!(restored.observations().len(), 8);
    let found: Vec<_> = (55..140).map(|t| step(&mut restored, t)).collect();
    assert_eq!(expected, found);
    let mut other = VecEnv::new("CartPole-v1", 3, 8, episode_rng).expect("it exists");
    assert!(other.restore(&snapshot).is_err(), "three environments cannot take the state of two");
}

/// Whatever happens, the body stays in the picture, and the picture changes when the state does.
#[test]
fn drawings_are_finite_and_move() {
    for spec in specs() {
        let mut env = make(spec.id).expect("listed");
        let mut rng = Rng::seed_from_u64(2);
        let mut observation = vec![0.0; spec.observation.len()];
        env.reset(&mut rng, &mut observation);
        let mut scene = Scene::default();
        let mut pictures = Vec::new();
        for step in 0..60 {
            env.draw(&mut scene);
            assert!(scene.min[0] < scene.max[0] && scene.min[1] < scene.max[1], "{}", spec.id);
            if let Some([x, y]) = scene.tracked {
                let inside = scene.min[0] <= x && x <= scene.max[0] && scene.min[1] <= y && y <= scene.max[1];
                assert!(inside, "{} step {step}: ({x}, {y}) is outside the view", spec.id);
            }
            if step % 30 == 0 {
                pictures.push(render(&scene, &[], 96, 96, &Palette::default()).expect("96 × 96 is a size").rgba);
            }
            if random_step(env.as_mut(), &mut rng).2 {
                env.reset(&mut rng, &mut observation);
            }
        }
        assert_ne!(pictures[0], pictures[1], "{}", spec.id);
    }
}
