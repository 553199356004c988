//! Speed of the control side: environments, drawing, PPO, the reward fit. `cargo bench --bench control`.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use pairwise::control::config::Config;
use pairwise::control::drlhp::{self, SegmentQuery};
use pairwise::control::reward::ensemble::{Ensemble, RewardConfig};
use pairwise::control::reward::fit::{FitExample, fit};
use pairwise::control::rl::ppo::{self, Agent};
use pairwise::preference::Label;
use pairwise::random::stream;
use pairwise_envs::{Palette, Scene, VecEnv};
use rand::RngExt as _;

fn main() {
    divan::main();
}

/// All tasks of fixed length.
fn tasks() -> impl Iterator<Item = &'static str> {
    pairwise_envs::tasks().map(|spec| spec.id)
}

/// Steps of 8 environments with random actions, observations and saved states included.
#[divan::bench(args = tasks())]
fn random_rollout(bencher: Bencher, env: &str) {
    let config = Config::preset(env).expect("a task of this project");
    let device = burn::tensor::Device::flex();
    bencher
        .counter(ItemsCount::new(8 * 256_usize))
        .with_inputs(|| fresh(&config, &device))
        .bench_refs(|(agent, envs)| ppo::collect(None, &agent.head, envs, 256, &mut stream(0, "bench", 0)));
}

/// The same with actions of a policy.
#[divan::bench(args = tasks())]
fn policy_rollout(bencher: Bencher, env: &str) {
    let config = Config::preset(env).expect("a task of this project");
    let device = burn::tensor::Device::flex();
    bencher
        .counter(ItemsCount::new(8 * 256_usize))
        .with_inputs(|| fresh(&config, &device))
        .bench_refs(|(agent, envs)| ppo::collect(Some(agent), &agent.head, envs, 256, &mut stream(0, "bench", 0)));
}

/// One PPO update on 2048 transitions: 10 epochs of minibatches of 64. Items are samples trained on.
#[divan::bench(args = tasks())]
fn ppo_update(bencher: Bencher, env: &str) {
    let mut config = Config::preset(env).expect("a task of this project");
    (config.ppo.epochs, config.ppo.minibatch_size) = (10, 64);
    let device = burn::tensor::Device::flex();
    let (agent, mut envs) = fresh(&config, &device);
    let rollout = ppo::collect(Some(&agent), &agent.head, &mut envs, 256, &mut stream(0, "bench", 0));
    bencher.counter(ItemsCount::new(10 * 2048_usize)).with_inputs(|| fresh(&config, &device).0).bench_refs(|agent| {
        ppo::update(agent, &config.ppo, &rollout, &rollout.true_rewards, 0.0, &mut stream(0, "bench", 0))
    });
}

/// 50 gradient steps of 3 members on 200 comparisons of 30-step clips. Items are pairs trained on, per member.
#[divan::bench]
fn reward_fit(bencher: Bencher) {
    let config = RewardConfig::default();
    let device = burn::tensor::Device::flex();
    let mut rng = stream(0, "bench", 0);
    let mut segment = || (0..30 * 4).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
    let example = |id: u64| FitExample {
        id,
        first: segment(),
        second: segment(),
        target: f64::from(u8::from(id.is_multiple_of(2))),
        true_returns: None,
    };
    let examples: Vec<FitExample> = (0..200).map(example).collect();
    bencher
        .counter(ItemsCount::new(50 * config.batch_size))
        .with_inputs(|| Ensemble::new(&config, 3, 1, 0, &device))
        .bench_refs(|ensemble| fit(ensemble, &config, &examples, 50, 0, 0));
}

/// A whole small preference run: 10 thousand steps and 60 labels of `pendulum`. Items are environment steps.
#[divan::bench(sample_count = 5)]
fn preference_run(bencher: Bencher) {
    let mut config = Config::preset("pendulum").expect("a task of this project");
    (config.steps, config.preferences.labels) = (12_192, 60);
    let device = burn::tensor::Device::flex();
    bencher.counter(ItemsCount::new(config.steps)).with_inputs(|| config.clone()).bench_values(|config| {
        let mut run = drlhp::start(config, &device).expect("a task of this project");
        while !drlhp::finished(&run) {
            let answer = |question: &SegmentQuery| Ok::<Label, drlhp::Halt>(question.simulated);
            drlhp::iterate(&mut run, &mut { answer }).expect("a run that learns");
        }
        run
    });
}

/// A frame of 480 pixels.
#[divan::bench(args = tasks())]
fn render(bencher: Bencher, env: &str) {
    let mut env = pairwise_envs::make(env).expect("a task of this project");
    let mut observation = vec![0.0; env.spec().observation.len()];
    env.reset(&mut stream(0, "bench", 0), &mut observation);
    let mut scene = Scene::default();
    bencher.bench_local(|| {
        scene.shapes.clear();
        env.draw(&mut scene);
        pairwise_envs::render(black_box(&scene), &[], 480, 480, &Palette::default())
    });
}

fn fresh(config: &Config, device: &burn::tensor::Device) -> (Agent, VecEnv) {
    let envs = VecEnv::new(&config.env, 8, 0, drlhp::episode_rng).expect("a task of this project");
    let agent = Agent::new(&config.ppo, &envs.spec().observation, &envs.spec().action, 0, device);
    (agent, envs)
}
