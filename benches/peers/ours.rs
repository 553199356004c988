//! Our side of `benches/peers/run.py`: each call does one piece of work and prints one JSON object.
//!
//! usage: ours matmul SECONDS | mlp WIDTH BATCH SECONDS | fit SECONDS | run SEED < settings.toml

#![allow(clippy::print_stdout, reason = "a result for run.py, which reads all of it")]

use std::hint::black_box;
use std::io::Read as _;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use cpu_time::ProcessTime;
use pairwise::control::config::Config;
use pairwise::control::drlhp::{self, SegmentQuery};
use pairwise::control::reward::ensemble::{Ensemble, RewardConfig};
use pairwise::control::reward::fit::{FitExample, fit};
use pairwise::control::rl::evaluate::evaluate;
use pairwise::nn::{Activation, Adam, AdamConfig, Mlp, constant};
use pairwise::preference::Label;
use pairwise::random::{Rng, stream};
use rand::RngExt as _;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize| arguments.get(i).ok_or("an argument is missing")?.parse::<f64>().map_err(|e| e.to_string());
    let result = match arguments.first().map(String::as_str) {
        Some("matmul") => matmul(number(1)?),
        Some("mlp") => mlp(number(1)? as usize, number(2)? as usize, number(3)?),
        Some("fit") => reward_fit(number(1)?),
        Some("run") => run(number(1)? as u64)?,
        // Without arguments `cargo bench` only asks whether it works.
        _ => json!(null),
    };
    println!("{result}");
    Ok(())
}

/// GFLOP/s of a matrix product of 512 × 512, in rounds of CPU time.
fn matmul(seconds: f64) -> Value {
    let device = Device::flex();
    let n = 512;
    let a: Tensor<2> = constant(&random(n * n, &mut stream(0, "peers", 0)), [n, n], &device);
    let flop = 2.0 * (n * n * n) as f64;
    json!(
        rounds(seconds, 1, || drop(black_box(a.clone().matmul(a.clone()))))
            .map(|s| flop / s * 1e-9)
            .collect::<Vec<_>>()
    )
}

/// CPU seconds of a training step of 17 → width → width → 6 with tanh, in rounds.
fn mlp(width: usize, batch: usize, seconds: f64) -> Value {
    let device = Device::flex();
    let mut rng = stream(0, "peers", 0);
    let mut network = Mlp::kaiming(&[17, width, width, 6], Activation::Tanh, &mut rng, &device);
    let mut adam = Adam::new(AdamConfig::default());
    let input: Tensor<3> = constant(&random(batch * 17, &mut rng), [1, batch, 17], &device);
    let step = || {
        let output = network.forward(input.clone());
        let mut gradients = (output.clone() * output).mean().backward();
        adam.step(&mut [&mut network.parameters], &mut gradients, 1e-4, None);
    };
    json!(rounds(seconds, 10, step).collect::<Vec<_>>())
}

/// Dataset pairs a CPU second: 200 pairs of 50 steps, one network of 32 × 32, batches of 32, 10 epochs a round.
fn reward_fit(seconds: f64) -> Value {
    let config = RewardConfig {
        members: 1,
        bootstrap: false,
        holdout: 0.0,
        adaptive_l2: false,
        l2: 0.0,
        hidden: vec![32, 32],
        activation: Activation::Relu,
        batch_size: 32,
        ..RewardConfig::default()
    };
    let mut rng = stream(0, "peers", 0);
    let example = |id: u64| FitExample {
        id,
        first: random(50 * 4, &mut rng),
        second: random(50 * 4, &mut rng),
        target: f64::from(u8::from(id.is_multiple_of(2))),
        true_returns: None,
    };
    let examples: Vec<FitExample> = (0..200).map(example).collect();
    let mut ensemble = Ensemble::new(&config, 3, 1, 0, &Device::flex());
    // An epoch of 200 pairs in batches of 32 is 6.25 steps; ten of them are 63 rounded up.
    let steps = (10 * examples.len()).div_ceil(config.batch_size);
    let pairs = (steps * config.batch_size) as f64;
    let one = || {
        black_box(fit(&mut ensemble, &config, &examples, steps, 0, 0)).expect("the examples can be fitted");
    };
    json!(rounds(seconds, 1, one).map(|s| pairs / s).collect::<Vec<_>>())
}

/// A whole run with the settings on standard input (`env = …` among them), in memory.
fn run(seed: u64) -> Result<Value, Box<dyn std::error::Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut settings: toml::Table = text.parse()?;
    settings.insert("seed".to_owned(), toml::Value::Integer(i64::try_from(seed)?));
    let env = settings.get("env").and_then(toml::Value::as_str).ok_or("env is missing")?.to_owned();
    let config = Config::resolve(&env, &[settings])?;
    let start = ProcessTime::now();
    let mut run = drlhp::start(config, &Device::flex())?;
    let mut labels = 0;
    while !drlhp::finished(&run) {
        let report = drlhp::iterate(&mut run, &mut |question: &SegmentQuery| {
            Ok::<Label, Box<dyn std::error::Error>>(question.simulated)
        })?;
        labels = report.labels_asked;
    }
    let cpu = start.elapsed().as_secs_f64();
    let evaluation = evaluate(&run.agent, &env, 100, seed)?;
    Ok(json!({ "steps": run.env_steps, "labels": labels, "cpu_seconds": cpu, "return": evaluation.mean }))
}

/// CPU seconds of `work`, one figure for every `repeat` calls, until `seconds` are over.
fn rounds(seconds: f64, repeat: u32, mut work: impl FnMut()) -> std::vec::IntoIter<f64> {
    for _ in 0..2 * repeat {
        work();
    }
    let (begin, mut all) = (ProcessTime::now(), Vec::new());
    while begin.elapsed() < Duration::from_secs_f64(seconds) || all.len() < 5 {
        let start = ProcessTime::now();
        for _ in 0..repeat {
            work();
        }
        all.push(start.elapsed().as_secs_f64() / f64::from(repeat));
    }
    all.into_iter()
}

fn random(count: usize, rng: &mut Rng) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}
