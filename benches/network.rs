//! Speed of the fused operations: one training step (forward, backward, Adam) of small networks.
//! `cargo bench --bench network`. FLOP counted: 6 a weight and sample (2 forward, 4 backward).

use burn::tensor::{Device, Tensor};
use divan::Bencher;
use divan::counter::ItemsCount;
use pairwise::nn::{Activation, Adam, AdamConfig, Mlp, constant};
use pairwise::random::stream;
use rand::RngExt as _;

fn main() {
    divan::main();
}

/// Hidden width and batch.
const SIZES: &[(usize, usize)] =
    &[(64, 64), (64, 256), (64, 1024), (64, 4096), (256, 64), (256, 256), (256, 1024), (256, 4096)];

/// 17 → width → width → 6, tanh, mean squared output as the loss. Items are FLOP, so the rate is FLOP/s.
#[divan::bench(args = SIZES)]
fn training_step(bencher: Bencher, (width, batch): (usize, usize)) {
    let device = Device::flex();
    let mut rng = stream(0, "bench", 0);
    let sizes = [17, width, width, 6];
    let mut network = Mlp::kaiming(&sizes, Activation::Tanh, &mut rng, &device);
    let mut adam = Adam::new(AdamConfig::default());
    let values: Vec<f32> = (0..batch * 17).map(|_| rng.random_range(-1.0..1.0)).collect();
    let input: Tensor<3> = constant(&values, [1, batch, 17], &device);
    bencher.counter(ItemsCount::new(6 * batch * weights(&sizes))).bench_local(|| {
        let output = network.forward(input.clone());
        let mut gradients = (output.clone() * output).mean().backward();
        adam.step(&mut [&mut network.parameters], &mut gradients, 1e-4, None)
    });
}

/// The same, forward only.
#[divan::bench(args = SIZES)]
fn inference(bencher: Bencher, (width, batch): (usize, usize)) {
    let device = Device::flex();
    let mut rng = stream(0, "bench", 0);
    let sizes = [17, width, width, 6];
    let network = Mlp::kaiming(&sizes, Activation::Tanh, &mut rng, &device).detached();
    let values: Vec<f32> = (0..batch * 17).map(|_| rng.random_range(-1.0..1.0)).collect();
    let input: Tensor<3> = constant(&values, [1, batch, 17], &device);
    bencher.counter(ItemsCount::new(2 * batch * weights(&sizes))).bench_local(|| network.forward(input.clone()));
}

fn weights(sizes: &[usize]) -> usize {
    sizes.windows(2).map(|pair| pair[0] * pair[1]).sum()
}
