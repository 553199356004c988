//! Every fused operation against its definition in plain tensor operations (forward, and backward through burn's own
//! autodiff), against finite differences in f64, and on every instruction set of this machine.

use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Device, Tensor};
use rand::RngExt as _;

use super::kernels::{Backward, Forward};
use super::ppo_loss::PpoKernel;
use super::simd::{Isa, run_on};
use super::{ActorCritic, AdamStep, PpoLoss, reference};

use crate::nn::{Activation, AdamConfig, Layout, constant, parameter, to_host};
use crate::random::{Rng, stream};

type Plain = Autodiff<Flex, NoCheckpointing>;

const ACTIVATIONS: [Activation; 5] =
    [Activation::Identity, Activation::Tanh, Activation::Relu, Activation::LeakyRelu, Activation::Silu];

/// Pairs of activations, of hidden layers and of the output: each on its own, and mixed.
fn activations() -> impl Iterator<Item = (Activation, Activation)> {
    let others = ACTIVATIONS.into_iter().cycle().skip(1);
    ACTIVATIONS.into_iter().zip(others).chain(ACTIVATIONS.map(|activation| (activation, Activation::Identity)))
}

/// Members, batch, and widths: no layer, odd ones, whole vectors, narrow outputs, blocks that are full and not.
const SHAPES: &[(usize, usize, &[usize])] = &[
    (1, 1, &[1, 1]),
    (1, 7, &[3, 2]),
    (2, 5, &[4, 33, 1]),
    (3, 131, &[17, 64, 65, 6]),
    (1, 256, &[3, 64, 64, 1]),
    (1, 129, &[5, 16, 31, 32, 40]),
    (2, 300, &[70, 9, 2]),
];

pub(super) fn random(len: usize, rng: &mut Rng) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The operation of `super` as burn itself would differentiate it.
fn plain_mlp(input: Tensor<3>, parameters: Tensor<2>, layout: &Layout) -> Tensor<3> {
    let [input, parameters] = [input.try_into_primitive::<Plain>(), parameters.try_into_primitive::<Plain>()]
        .map(|tensor| tensor.expect("test tensors are on Flex with autodiff"));
    Tensor::from_primitive::<Plain>(reference::mlp::<Plain>(input, &parameters, layout))
}

pub(super) fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3_f32, |max, e| max.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{what} [{i}]: {f}, expected {e} (largest {scale})");
    }
}

#[test]
fn the_network_and_its_gradients_are_those_of_plain_operations() {
    let device = Device::flex();
    for (activation, output) in activations() {
        for &(members, batch, sizes) in SHAPES {
            // Hidden layers and outputs go through every activation, together and apart.
            let layout = Layout { sizes: sizes.to_vec(), activation, output };
            let mut rng = stream(0, "fused-mlp", batch as u64);
            let inputs = random(members * batch * layout.inputs(), &mut rng);
            // Small enough that no output saturates: at its end tanh's slope 1 − y² is all rounding.
            let parameters: Vec<f32> = random(members * layout.len(), &mut rng).iter().map(|p| 0.25 * p).collect();
            let weights = constant(
                &random(members * batch * layout.outputs(), &mut rng),
                [members, batch, layout.outputs()],
                &device,
            );
            let both = [super::mlp, plain_mlp].map(|mlp| {
                let input = parameter(inputs.clone(), [members, batch, layout.inputs()], &device);
                let parameters = parameter(parameters.clone(), [members, layout.len()], &device);
                let output = mlp(input.clone(), parameters.clone(), &layout);
                let gradients = (output.clone() * weights.clone()).sum().backward();
                let of_input = input.grad(&gradients).expect("it requires one");
                let of_parameters = parameters.grad(&gradients).expect("it requires one");
                [to_host(output), to_host(of_input), to_host(of_parameters)]
            });
            for (i, what) in ["output", "input gradient", "parameter gradient"].into_iter().enumerate() {
                assert_close(&format!("{layout:?} {what}"), &both[0][i], &both[1][i], 3e-6);
            }
        }
    }
}

#[test]
fn one_input_for_all_members_is_the_same_input_for_each() {
    let device = Device::flex();
    let layout = Layout { sizes: vec![5, 20, 3], activation: Activation::Tanh, output: Activation::Identity };
    let mut rng = stream(0, "fused-shared", 0);
    let (inputs, parameters) = (random(140 * 5, &mut rng), random(3 * layout.len(), &mut rng));
    let run = |copies: usize| {
        let input = parameter(inputs.repeat(copies), [copies, 140, 5], &device);
        let parameters = parameter(parameters.clone(), [3, layout.len()], &device);
        let output = super::mlp(input.clone(), parameters.clone(), &layout);
        let gradients = (output.clone() * output.clone()).sum().backward();
        let of_input = input.grad(&gradients).expect("it requires one").sum_dim(0);
        (to_host(output), to_host(parameters.grad(&gradients).expect("it requires one")), to_host(of_input))
    };
    let (one, three) = (run(1), run(3));
    assert_eq!((one.0, one.1), (three.0, three.1));
    assert_close("input gradient", &one.2, &three.2, 1e-6);
}

/// The network in f64 on the host, for finite differences.
fn host_mlp(input: &[f64], parameters: &[f64], layout: &Layout) -> Vec<f64> {
    let mut x = input.to_vec();
    let layers = layout.layers();
    for (i, layer) in layers.iter().enumerate() {
        let (weight, bias) = (&parameters[layer.weight()], &parameters[layer.bias()]);
        let activation = if i + 1 == layers.len() { layout.output } else { layout.activation };
        let rows = x.chunks(layer.inputs).flat_map(|row| {
            (0..layer.outputs).map(move |o| {
                let z = bias[o] + row.iter().enumerate().map(|(j, v)| v * weight[j * layer.outputs + o]).sum::<f64>();
                match activation {
                    Activation::Identity => z,
                    Activation::Tanh => z.tanh(),
                    Activation::Relu => z.max(0.0),
                    Activation::LeakyRelu => z.max(0.01 * z),
                    Activation::Silu => z / (1.0 + (-z).exp()),
                }
            })
        });
        x = rows.collect();
    }
    x
}

#[test]
fn the_networks_gradients_are_finite_differences_on_every_instruction_set() {
    for isa in Isa::available() {
        for (activation, output) in activations() {
            for sizes in [&[3, 2][..], &[4, 19, 6], &[3, 17, 33, 1]] {
                let layout = Layout { sizes: sizes.to_vec(), activation, output };
                let mut rng = stream(0, "fused-differences", 0);
                let batch = 9;
                let input = random(batch * layout.inputs(), &mut rng);
                // Small enough that no output saturates.
                let parameters: Vec<f32> = random(layout.len(), &mut rng).iter().map(|p| 0.5 * p).collect();
                let weights = random(batch * layout.outputs(), &mut rng);
                let mut output = vec![0.0; batch * layout.outputs()];
                let mut saved = vec![0.0; batch * layout.saved()];
                let (mut gradient, mut input_gradient) = (vec![0.0; layout.len()], vec![0.0; input.len()]);
                let (layout, input, parameters) = (&layout, &input[..], &parameters[..]);
                run_on(isa, Forward { layout, input, parameters, output: &mut output, saved: &mut saved });
                let backward = Backward {
                    layout,
                    input,
                    parameters,
                    saved: &saved,
                    output_gradient: &weights,
                    gradient: &mut gradient,
                    input_gradient: &mut input_gradient,
                };
                run_on(isa, backward);
                let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
                let (input, parameters, weights) = (wide(input), wide(parameters), wide(&weights));
                let what = format!("{isa:?} {layout:?}");
                let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
                assert_close(&what, &output, &narrow(host_mlp(&input, &parameters, layout)), 2e-6);
                let value = |input: &[f64], parameters: &[f64]| -> f64 {
                    host_mlp(input, parameters, layout).iter().zip(&weights).map(|(y, w)| y * w).sum()
                };
                // Small enough that no unit crosses a kink of ReLU with these inputs.
                let step = 1e-7;
                let difference = |values: &[f64], f: &dyn Fn(&[f64]) -> f64| -> Vec<f32> {
                    let at = |i: usize, by: f64| {
                        let mut moved = values.to_vec();
                        moved[i] += by;
                        f(&moved)
                    };
                    (0..values.len()).map(|i| ((at(i, step) - at(i, -step)) / (2.0 * step)) as f32).collect()
                };
                assert_close(&what, &gradient, &difference(&parameters, &|p| value(&input, p)), 3e-6);
                assert_close(&what, &input_gradient, &difference(&input, &|x| value(x, &parameters)), 3e-6);
            }
        }
    }
}

#[test]
fn a_rows_output_does_not_depend_on_its_batch() {
    let device = Device::flex();
    let layout = Layout { sizes: vec![6, 64, 50, 3], activation: Activation::Silu, output: Activation::Tanh };
    let mut rng = stream(0, "fused-rows", 0);
    let inputs = random(300 * 6, &mut rng);
    let parameters = constant(&random(layout.len(), &mut rng), [1, layout.len()], &device);
    let of = |rows: std::ops::Range<usize>| {
        let input = constant(&inputs[rows.start * 6..rows.end * 6], [1, rows.len(), 6], &device);
        to_host(super::mlp(input, parameters.clone(), &layout))
    };
    let all = of(0..300);
    for rows in [0..1, 7..8, 100..113, 127..130, 299..300] {
        assert_eq!(of(rows.clone()), all[rows.start * 3..rows.end * 3], "{rows:?}");
    }
}

#[test]
fn numbers_of_the_host_go_through_every_member_as_a_tensor_does() {
    let device = Device::flex();
    let layout = Layout { sizes: vec![6, 20, 3], activation: Activation::Tanh, output: Activation::Relu };
    let mut rng = stream(0, "fused-host", 0);
    let inputs = random(70 * 6, &mut rng);
    let parameters: Tensor<2> = constant(&random(2 * layout.len(), &mut rng), [2, layout.len()], &device);
    // What was there before must not matter.
    let mut found = vec![1.0; 5];
    super::mlp_on_host(&inputs, &parameters, &layout, &mut found);
    assert_eq!(found, to_host(super::mlp(constant(&inputs, [1, 70, 6], &device), parameters, &layout)));
}

#[test]
fn adam_is_that_of_plain_operations() {
    let device = Device::flex();
    for len in [1, 15, 16, 1000, 4483] {
        let mut rng = stream(0, "fused-adam", len as u64);
        let mut values = || constant(&random(len, &mut rng), [1, len], &device);
        let [parameter, gradient, first, second] = [values(), values(), values(), values().abs()];
        let squares = constant(&[1.7], [1], &device);
        for (number, max_norm, weight_decay) in [(1, None, 0.0), (2, Some(0.5), 0.1), (1000, Some(2.0), 10.0)] {
            let config = AdamConfig { weight_decay, ..AdamConfig::default() };
            let step = AdamStep { config, learning_rate: 0.01, number, max_norm };
            let inputs = [parameter.clone(), gradient.clone(), first.clone(), second.clone()];
            let found = super::adam(inputs.clone(), squares.clone(), step);
            let primitives = inputs.map(|t| t.try_into_primitive::<Flex>().expect("on Flex"));
            let squares = squares.clone().try_into_primitive::<Flex>().expect("on Flex");
            let expected = reference::adam::<Flex>(primitives, squares, step);
            for (found, expected) in found.into_iter().zip(expected) {
                let expected = to_host(Tensor::<2>::from_primitive::<Flex>(expected));
                assert_close(&format!("{len} {number}"), &to_host(found), &expected, 1e-6);
            }
        }
        let expected: f64 = to_host(gradient.clone()).iter().map(|&g| f64::from(g) * f64::from(g)).sum();
        let found = to_host(super::add_squares(gradient, squares))[0] - 1.7;
        assert!((f64::from(found) - expected).abs() < 1e-6 * expected.max(1.0), "{found} {expected}");
    }
}

#[test]
fn adam_takes_a_part_of_a_larger_tensor() {
    let device = Device::flex();
    let values = random(40, &mut stream(0, "fused-adam-part", 0));
    let step = AdamStep { config: AdamConfig::default(), learning_rate: 0.1, number: 1, max_norm: None };
    let of = |part: Tensor<2>| {
        let squares = constant(&[0.0], [1], &device);
        super::adam([part.clone(), part.clone(), part.zeros_like(), part.zeros_like()], squares, step).map(to_host)
    };
    let part = constant(&values, [4, 10], &device).narrow(0, 1, 2);
    assert_eq!(of(part), of(constant(&values[10..30], [2, 10], &device)));
}

/// A mean over a minibatch that holds both clipped and other samples, through both networks.
#[test]
fn the_ppo_loss_and_its_gradient_are_those_of_plain_operations() {
    let device = Device::flex();
    for (gaussian, k, rows) in [(true, 1, 64), (true, 3, 37), (false, 2, 128), (false, 5, 33)] {
        for normalize_advantages in [true, false] {
            let network = |hidden: usize, activation: Activation, outputs: usize| Layout {
                sizes: vec![4, hidden, 20, outputs],
                activation,
                output: Activation::Identity,
            };
            let networks = ActorCritic {
                policy: network(17, Activation::Tanh, k),
                log_std: if gaussian { k } else { 0 },
                value: network(33, Activation::Silu, 1),
            };
            let loss = PpoLoss { clip: 0.2, value_coefficient: 0.7, entropy_coefficient: 0.03, normalize_advantages };
            let mut rng = stream(0, "fused-ppo", k as u64);
            let observations = random(rows * 4, &mut rng);
            let parameters: Vec<f32> = random(networks.len(), &mut rng).iter().map(|p| 0.3 * p).collect();
            let log_std = &parameters[networks.log_std_range()];
            let policy = constant(&parameters[networks.policy_range()], [1, networks.policy.len()], &device);
            let mut outputs = Vec::new();
            super::mlp_on_host(&observations, &policy, &networks.policy, &mut outputs);
            let actions: Vec<f32> = match gaussian {
                true => random(rows * k, &mut rng),
                false => (0..rows * k).map(|i| f32::from(u8::from((i / k) % k == i % k))).collect(),
            };
            // Near enough to the new log-probabilities that some ratios are clipped, on both sides, and others not.
            let log_prob = |row: usize| -> f32 {
                let (outputs, actions) = (&outputs[row * k..][..k], &actions[row * k..][..k]);
                if gaussian {
                    let density = |j: usize| {
                        let noise = (actions[j] - outputs[j]) * (-log_std[j]).exp();
                        -0.5 * noise * noise - log_std[j] - super::HALF_LN_2PI
                    };
                    return (0..k).map(density).sum();
                }
                let total = outputs.iter().map(|o| o.exp()).sum::<f32>().ln();
                outputs.iter().zip(actions).map(|(o, a)| (o - total) * a).sum()
            };
            let old: Vec<f32> = (0..rows).map(|row| log_prob(row) + 0.5 * rng.random_range(-1.0..1.0_f32)).collect();
            let sample = |row: usize| {
                let drawn = random(2, &mut rng);
                [&actions[row * k..(row + 1) * k], &[old[row], drawn[0], drawn[1]]].concat()
            };
            let batch: Vec<f32> = (0..rows).flat_map(sample).collect();
            let batch: Tensor<2> = constant(&batch, [rows, k + PpoLoss::EXTRA_COLUMNS], &device);
            let observations: Tensor<2> = constant(&observations, [rows, 4], &device);
            let fresh = || parameter(parameters.clone(), [1, networks.len()], &device);
            let ours = fresh();
            let (fused, metrics) = super::ppo_loss(observations.clone(), ours.clone(), batch.clone(), &networks, loss);
            let theirs = fresh();
            let primitive = |tensor: Tensor<2>| tensor.try_into_primitive::<Plain>().expect("on Flex with autodiff");
            let (plain, plain_metrics) = super::ppo_loss::reference::<Plain>(
                primitive(observations.clone().autodiff()),
                &primitive(theirs.clone()),
                &primitive(batch.clone().autodiff()),
                &networks,
                loss,
            );
            let plain = Tensor::<1>::from_primitive::<Plain>(plain);
            let plain_metrics = Tensor::<1>::from_primitive::<Plain>(plain_metrics);
            let what = format!("gaussian {gaussian}, {k} outputs, normalised {normalize_advantages}");
            let clipped = to_host(metrics.clone())[4];
            assert!((0.1..0.95).contains(&clipped), "{what}: the case needs clipped and other samples, {clipped}");
            assert_close(&what, &to_host(metrics), &to_host(plain_metrics), 2e-6);
            assert_close(&what, &to_host(fused.clone()), &to_host(plain.clone()), 2e-6);
            let (without_gradient, _) = super::ppo_loss(observations, ours.clone().inner(), batch, &networks, loss);
            assert_eq!(to_host(without_gradient), to_host(fused.clone()));
            // The loss as a part of another, as a test of the outer gradient.
            let (fused, plain) = ((fused * 3.0).backward(), (plain * 3.0).backward());
            let [found, expected] =
                [(ours, fused), (theirs, plain)].map(|(t, g)| to_host(t.grad(&g).expect("it requires one")));
            for (name, range) in [
                ("policy", networks.policy_range()),
                ("log std", networks.log_std_range()),
                ("value", networks.value_range()),
            ] {
                assert_close(&format!("{what}: {name}"), &found[range.clone()], &expected[range], 3e-6);
            }
        }
    }
}

/// What the policy and the value function of a minibatch say, and the minibatch, in f64.
#[derive(Clone)]
struct HostPpo {
    outputs: Vec<f64>,
    log_std: Vec<f64>,
    values: Vec<f64>,
    batch: Vec<f64>,
    loss: PpoLoss,
}

impl HostPpo {
    /// The share of each sample in the loss.
    fn terms(&self) -> Vec<f64> {
        let Self { outputs, log_std, values, batch, loss } = self;
        let (rows, k) = (values.len(), outputs.len() / values.len());
        let advantage = |row: usize| batch[row * (k + 3) + k + 1];
        let mean = (0..rows).map(advantage).sum::<f64>() / rows as f64;
        let variance = (0..rows).map(|row| (advantage(row) - mean).powi(2)).sum::<f64>() / (rows as f64 - 1.0);
        let term = |row: usize| {
            let (outputs, sample) = (&outputs[row * k..][..k], &batch[row * (k + 3)..][..k + 3]);
            let (log_prob, entropy) = if !log_std.is_empty() {
                let half_ln_2pi = 0.5 * (2.0 * std::f64::consts::PI).ln();
                let density = |j: usize| {
                    let noise = (sample[j] - outputs[j]) / log_std[j].exp();
                    -0.5 * noise * noise - log_std[j] - half_ln_2pi
                };
                ((0..k).map(density).sum::<f64>(), log_std.iter().map(|l| l + half_ln_2pi + 0.5).sum::<f64>())
            } else {
                let total = outputs.iter().map(|o| o.exp()).sum::<f64>().ln();
                let logs = outputs.iter().map(|o| o - total);
                let entropy = -logs.clone().map(|log| log * log.exp()).sum::<f64>();
                (logs.zip(sample).map(|(log, action)| log * action).sum::<f64>(), entropy)
            };
            let advantage = match loss.normalize_advantages {
                true => (advantage(row) - mean) / (variance.sqrt() + 1e-8),
                false => advantage(row),
            };
            let ratio = (log_prob - sample[k]).exp();
            let clip = f64::from(loss.clip);
            let surrogate = (ratio * advantage).min(ratio.clamp(1.0 - clip, 1.0 + clip) * advantage);
            let value = f64::from(loss.value_coefficient) * (values[row] - sample[k + 2]).powi(2);
            (value - surrogate - f64::from(loss.entropy_coefficient) * entropy) / rows as f64
        };
        (0..rows).map(term).collect()
    }
}

#[test]
fn the_ppo_losss_gradients_are_finite_differences_on_every_instruction_set() {
    for isa in Isa::available() {
        for (gaussian, k, rows) in [(true, 1, 64), (true, 3, 21), (false, 2, 50), (false, 5, 33)] {
            let mut rng = stream(1, "fused-ppo-differences", k as u64);
            let outputs = random(rows * k, &mut rng);
            let log_std = random(if gaussian { k } else { 0 }, &mut rng);
            let values = random(rows, &mut rng);
            let sample = |row: usize| {
                let mut sample = random(k + PpoLoss::EXTRA_COLUMNS, &mut rng);
                if !gaussian {
                    (0..k).for_each(|j| sample[j] = f32::from(u8::from(j == row % k)));
                }
                sample[k] -= k as f32;
                sample
            };
            let batch: Vec<f32> = (0..rows).flat_map(sample).collect();
            let loss =
                PpoLoss { clip: 0.3, value_coefficient: 0.7, entropy_coefficient: 0.03, normalize_advantages: true };
            let mut by_outputs = vec![0.0; outputs.len()];
            let (mut by_log_std, mut by_values) = (vec![0.0; log_std.len()], vec![0.0; rows]);
            let kernel = PpoKernel {
                outputs: &outputs,
                log_std: &log_std,
                values: &values,
                batch: &batch,
                loss,
                outputs_gradient: &mut by_outputs,
                log_std_gradient: &mut by_log_std,
                values_gradient: &mut by_values,
            };
            let found = run_on(isa, kernel);
            let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
            let host = HostPpo {
                outputs: wide(&outputs),
                log_std: wide(&log_std),
                values: wide(&values),
                batch: wide(&batch),
                loss,
            };
            let what = format!("{isa:?}, gaussian {gaussian}, {k} outputs");
            let total: f64 = host.terms().iter().sum();
            assert!((f64::from(found.total) - total).abs() < 2e-6 * total.abs().max(1.0), "{what}: {total}");
            // A gradient is a sum over samples that partly cancel: its rounding goes with the size of the terms.
            let check = |name: &str, gradient: &[f32], of: fn(&mut HostPpo) -> &mut Vec<f64>| {
                for (i, &gradient) in gradient.iter().enumerate() {
                    let step = 1e-6;
                    let moved = |by: f64| {
                        let mut moved = host.clone();
                        of(&mut moved)[i] += by;
                        moved.terms()
                    };
                    let slopes = moved(step).into_iter().zip(moved(-step)).map(|(a, b)| (a - b) / (2.0 * step));
                    let (sum, size) = slopes.fold((0.0, 1e-4), |(sum, size), s| (sum + s, size + s.abs()));
                    let error = (f64::from(gradient) - sum).abs();
                    assert!(error <= 3e-6 * size, "{what}: {name} [{i}] is {gradient}, expected {sum} ({size})");
                }
            };
            check("outputs", &by_outputs, |host| &mut host.outputs);
            check("values", &by_values, |host| &mut host.values);
            check("log std", &by_log_std, |host| &mut host.log_std);
        }
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let device = Device::flex();
    for activation in ACTIVATIONS {
        let layout = Layout { sizes: vec![3, 20, 2], activation, output: Activation::Identity };
        let mut parameters = vec![0.1; layout.len()];
        parameters[5] = f32::NAN;
        let input = constant(&[1.0; 6], [1, 2, 3], &device);
        let output = super::mlp(input, constant(&parameters, [1, layout.len()], &device), &layout);
        assert!(to_host(output).iter().all(|y| y.is_nan()), "{activation:?}");
    }
    let loss = PpoLoss { clip: 0.2, value_coefficient: 0.5, entropy_coefficient: 0.0, normalize_advantages: false };
    let (mut by_outputs, mut by_log_std, mut by_values) = ([0.0], [0.0], [0.0]);
    let kernel = PpoKernel {
        outputs: &[0.0],
        log_std: &[0.0],
        values: &[0.0],
        batch: &[0.1, -1.0, f32::NAN, 0.0],
        loss,
        outputs_gradient: &mut by_outputs,
        log_std_gradient: &mut by_log_std,
        values_gradient: &mut by_values,
    };
    let found = run_on(Isa::available()[0], kernel);
    assert!(found.total.is_nan() && by_outputs[0].is_nan(), "{found:?}");
}
