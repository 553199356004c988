//! The fused operations on an NVIDIA GPU, where they are plain tensor operations, against the CPU's hand-written ones.
//!
//! `cargo test --release --features cuda --test program cuda:: -- --ignored`

use burn::tensor::{Device, Tensor};
use pairwise::device::{DeviceChoice, pick};
use pairwise::nn::fused::{self, ActorCritic, PpoLoss};
use pairwise::nn::{Activation, Adam, AdamConfig, Layout, constant, parameter, to_host};
use pairwise::random::{Rng, stream};
use rand::RngExt as _;

/// Of the largest value: sums of up to 4,096 terms of f32 in another order. TensorFloat-32 would give 1e-3.
const TOLERANCE: f32 = 2e-5;

fn devices() -> [Device; 2] {
    [DeviceChoice::Cpu, DeviceChoice::Cuda(0)].map(|choice| pick(choice).expect("this test needs a GPU"))
}

fn random(len: usize, scale: f32, rng: &mut Rng) -> Vec<f32> {
    (0..len).map(|_| scale * rng.random_range(-1.0..1.0_f32)).collect()
}

fn layout(sizes: &[usize], activation: Activation) -> Layout {
    Layout { sizes: sizes.to_vec(), activation, output: Activation::Identity }
}

/// Panics where they differ; says by how much.
fn compare(what: &str, [cpu, cuda]: [Vec<f32>; 2]) {
    assert_eq!(cpu.len(), cuda.len(), "{what}");
    let scale = cpu.iter().fold(1e-6_f32, |max, value| max.max(value.abs()));
    let difference = cpu.iter().zip(&cuda).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    println!("{what}: {:.1e}", difference / scale);
    assert!(difference <= TOLERANCE * scale, "{what}: {difference} of {scale}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn networks_and_their_gradients_are_those_of_the_cpu() {
    let cases: [(usize, usize, &[usize]); 4] =
        [(1, 7, &[3, 2]), (3, 131, &[17, 64, 65, 6]), (1, 4096, &[3, 64, 64, 1]), (2, 1000, &[17, 256, 256, 6])];
    for activation in [Activation::Tanh, Activation::Relu, Activation::LeakyRelu, Activation::Silu] {
        for (members, batch, sizes) in cases {
            let layout = layout(sizes, activation);
            let mut rng = stream(0, "cuda-mlp", batch as u64);
            let inputs = random(members * batch * layout.inputs(), 1.0, &mut rng);
            let parameters = random(members * layout.len(), 0.25, &mut rng);
            let weights = random(members * batch * layout.outputs(), 1.0, &mut rng);
            let [cpu, cuda] = devices().map(|device| {
                let input = parameter(inputs.clone(), [members, batch, layout.inputs()], &device);
                let parameters = parameter(parameters.clone(), [members, layout.len()], &device);
                let weights: Tensor<3> = constant(&weights, [members, batch, layout.outputs()], &device);
                let output = fused::mlp(input.clone(), parameters.clone(), &layout);
                let gradients = (output.clone() * weights).sum().backward();
                let gradient = |found: Option<Tensor<3>>| to_host(found.expect("it requires one"));
                let by_parameters = to_host(parameters.grad(&gradients).expect("it requires one"));
                [to_host(output), gradient(input.grad(&gradients)), by_parameters]
            });
            for ((name, cpu), cuda) in ["output", "by input", "by parameters"].into_iter().zip(cpu).zip(cuda) {
                compare(&format!("{activation:?} {members} x {batch} {sizes:?} {name}"), [cpu, cuda]);
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn steps_of_ppo_and_adam_are_those_of_the_cpu() {
    for (log_std, k) in [(1, 1), (0, 3)] {
        let networks = ActorCritic {
            policy: layout(&[4, 64, 64, k], Activation::Tanh),
            log_std,
            value: layout(&[4, 64, 64, 1], Activation::Tanh),
        };
        let loss = PpoLoss { clip: 0.2, value_coefficient: 0.5, entropy_coefficient: 0.01, normalize_advantages: true };
        let rows = 2048;
        let mut rng = stream(0, "cuda-ppo", k as u64);
        let observations = random(rows * 4, 1.0, &mut rng);
        let parameters = random(networks.len(), 0.2, &mut rng);
        let sample = |row: usize| {
            let action: Vec<f32> = match log_std {
                0 => (0..k).map(|i| f32::from(u8::from(i == row % k))).collect(),
                _ => random(k, 1.0, &mut rng),
            };
            [action, vec![-1.1 + rng.random_range(-0.3..0.3)], random(2, 1.0, &mut rng)].concat()
        };
        let batch: Vec<f32> = (0..rows).flat_map(sample).collect();
        let [cpu, cuda] = devices().map(|device| {
            let mut parameters = parameter(parameters.clone(), [1, networks.len()], &device);
            let observations: Tensor<2> = constant(&observations, [rows, 4], &device);
            let batch: Tensor<2> = constant(&batch, [rows, k + PpoLoss::EXTRA_COLUMNS], &device);
            let mut optimizer = Adam::new(AdamConfig::default());
            let mut all = Vec::new();
            for _ in 0..5 {
                let (total, metrics) =
                    fused::ppo_loss(observations.clone(), parameters.clone(), batch.clone(), &networks, loss);
                let mut gradients = total.backward();
                let info = optimizer.step(&mut [&mut parameters], &mut gradients, 1e-3, Some(0.5));
                all.extend([to_host(metrics), to_host(info.gradient_squares)].concat());
            }
            [all, to_host(parameters)]
        });
        for ((name, cpu), cuda) in ["losses", "parameters after 5 steps"].into_iter().zip(cpu).zip(cuda) {
            compare(&format!("PPO, {k} outputs: {name}"), [cpu, cuda]);
        }
    }
}
