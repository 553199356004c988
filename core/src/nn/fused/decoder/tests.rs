//! Every operation against its definition in plain tensor operations, forward and, through burn's own autodiff,
//! backward; and what packing must not change.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use rand::RngExt as _;

use super::{AttentionLayout, Heads, NormConfig, NormKind, Rotation, Sequence, reference};
use crate::nn::fused::tests::{assert_close, random};
use crate::nn::{constant, parameter, to_host};
use crate::random::stream;

/// Runs both on the same parameters: output, and every parameter's gradient of a weighted sum of the outputs.
fn compare<const N: usize>(
    what: &str,
    shapes: [[usize; 2]; N],
    fused: impl Fn([Tensor<2>; N]) -> Tensor<2>,
    plain: impl Fn([Tensor<2>; N]) -> Tensor<2>,
) {
    let device = Device::flex();
    let mut rng = stream(0, what, 0);
    let values = shapes.map(|[rows, columns]| random(rows * columns, &mut rng));
    let weights = stream(1, what, 0);
    let run = |operation: &dyn Fn([Tensor<2>; N]) -> Tensor<2>| {
        let inputs: [Tensor<2>; N] = std::array::from_fn(|i| parameter(values[i].clone(), shapes[i], &device));
        let output = operation(inputs.clone());
        let [rows, columns] = output.dims();
        let weights = constant(&random(rows * columns, &mut weights.clone()), [rows, columns], &device);
        let gradients = (output.clone() * weights).sum().backward();
        let mut all = vec![to_host(output)];
        all.extend(inputs.map(|input| to_host(input.grad(&gradients).expect("every input requires a gradient"))));
        all
    };
    let (found, expected) = (run(&fused), run(&plain));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_close(&format!("{what} {i}"), found, expected, 5e-6);
    }
}

const SHAPES: [[usize; 2]; 4] = [[1, 1], [3, 17], [130, 64], [7, 100]];

#[test]
fn linear_layers_are_those_of_plain_operations() {
    for [rows, inputs] in SHAPES {
        for outputs in [1, 5, 96] {
            compare(
                &format!("linear {rows} {inputs} {outputs}"),
                [[rows, inputs], [outputs, inputs], [1, outputs]],
                |[input, weight, bias]| super::linear(input, weight, Some(bias)),
                |[input, weight, bias]| reference::linear(input, weight) + bias,
            );
        }
    }
}

#[test]
fn normalisations_are_those_of_plain_operations() {
    for shape in SHAPES {
        for kind in [NormKind::Layer, NormKind::RootMeanSquare] {
            // Not too small: the slope of a normalised single value is all rounding.
            let norm = NormConfig { kind, epsilon: 1e-2 };
            compare(
                &format!("norm {shape:?} {kind:?}"),
                [shape, [1, shape[1]], [1, shape[1]]],
                |[input, weight, bias]| super::norm(input, weight, Some(bias), norm),
                |[input, weight, bias]| reference::norm(input, weight, norm) + bias,
            );
        }
    }
}

#[test]
fn nonlinearities_are_those_of_plain_operations() {
    for shape in SHAPES {
        compare(
            &format!("gated {shape:?}"),
            [[shape[0], 2 * shape[1]]],
            |[gate_up]| super::gated_silu(gate_up * 6.0),
            |[gate_up]| reference::gated_silu(gate_up * 6.0),
        );
        compare(
            &format!("gelu {shape:?}"),
            [shape],
            |[input]| super::gelu_tanh(input * 4.0),
            |[input]| reference::gelu_tanh(input * 4.0),
        );
    }
}

#[test]
fn rows_of_a_table_are_those_of_plain_operations() {
    let indices = Arc::new(vec![4, 0, 4, 2, 2, 2]);
    compare(
        "rows",
        [[5, 13]],
        |[table]| super::rows(table, Arc::clone(&indices)),
        |[table]| reference::rows(table, &indices),
    );
}

#[test]
fn log_probabilities_are_those_of_plain_operations() {
    for [rows, width] in SHAPES {
        for vocabulary in [1, 7, 300] {
            let mut rng = stream(0, "targets", rows as u64);
            let targets: Arc<Vec<u32>> = Arc::new((0..rows).map(|_| rng.random_range(0..vocabulary)).collect());
            compare(
                &format!("log-probs {rows} {width} {vocabulary}"),
                [[rows, width], [vocabulary as usize, width]],
                |[hidden, head]| super::token_log_probs(hidden * 3.0, head, Arc::clone(&targets)).0.unsqueeze(),
                |[hidden, head]| reference::token_log_probs(hidden * 3.0, head, &targets).0.unsqueeze(),
            );
            let device = Device::flex();
            let [hidden, head] = [rows, vocabulary as usize]
                .map(|count| constant(&random(count * width, &mut rng), [count, width], &device));
            let found = super::token_log_probs(hidden.clone(), head.clone(), Arc::clone(&targets)).1;
            let expected = reference::token_log_probs(hidden, head, &targets).1;
            assert_close("entropy and likeliest", &to_host(found), &to_host(expected), 5e-6);
        }
    }
}

/// Sequences of one to 150 tokens; with a shared prefix: a prompt and two completions, and a sequence on its own.
fn layouts() -> Vec<AttentionLayout> {
    let own = |rows: std::ops::Range<usize>| Sequence { prefix: 0..0, rows };
    let plain = vec![own(0..3), own(3..4), own(4..154)];
    let shared = vec![
        own(0..70),
        Sequence { prefix: 0..70, rows: 70..75 },
        Sequence { prefix: 0..70, rows: 75..150 },
        own(150..152),
    ];
    let mut all = Vec::new();
    for sequences in [plain, shared] {
        let rows = sequences.iter().map(|sequence| sequence.rows.end).max().expect("there are sequences");
        for (queries, keys, width) in [(1, 1, 4), (4, 2, 16), (3, 3, 10), (6, 1, 48)] {
            for window in [None, Some(1), Some(20)] {
                let heads = Heads { queries, keys, width };
                let mut rng = stream(2, "angles", 0);
                let angles: Vec<f32> = random(rows * width / 2, &mut rng).iter().map(|a| 3.0 * a).collect();
                let rotation = Rotation {
                    cos: angles.iter().map(|angle| angle.cos()).collect(),
                    sin: angles.iter().map(|angle| angle.sin()).collect(),
                };
                let rotation = (width > 4).then_some(rotation);
                let scale = 1.0 / (width as f32).sqrt();
                all.push(AttentionLayout { sequences: sequences.clone(), heads, scale, window, rotation });
            }
        }
    }
    all
}

#[test]
fn attention_is_that_of_plain_operations() {
    for (i, layout) in layouts().into_iter().enumerate() {
        let rows = layout.sequences.iter().map(|sequence| sequence.rows.end).max().expect("there are sequences");
        let heads = layout.heads;
        let layout = Arc::new(layout);
        compare(
            &format!("attention {i} {heads:?}"),
            [[rows, heads.joint()]],
            |[qkv]| super::attention(qkv * 3.0, &layout),
            |[qkv]| reference::attention(&(qkv * 3.0), &layout),
        );
    }
}

#[test]
fn a_shared_prefix_gives_what_two_whole_sequences_give() {
    let device = Device::flex();
    let heads = Heads { queries: 4, keys: 2, width: 8 };
    let layout = |sequences: Vec<Sequence>| {
        Arc::new(AttentionLayout { sequences, heads, scale: 0.3, window: Some(9), rotation: None })
    };
    let mut rng = stream(0, "shared", 0);
    // 10 tokens of prompt, 4 and 7 of completions.
    let qkv = random(21 * heads.joint(), &mut rng);
    let attend = |layout: &Arc<AttentionLayout>, rows: &[u32]| {
        let all = constant(&qkv, [21, heads.joint()], &device);
        to_host(super::attention(super::rows(all, Arc::new(rows.to_vec())), layout))
    };
    let own = |rows| Sequence { prefix: 0..0, rows };
    let shared =
        layout(vec![own(0..10), Sequence { prefix: 0..10, rows: 10..14 }, Sequence { prefix: 0..10, rows: 14..21 }]);
    let all: Vec<u32> = (0..21).collect();
    let found = attend(&shared, &all);
    let whole: Vec<u32> = (0..14).chain(0..10).chain(14..21).collect();
    let expected = attend(&layout(vec![own(0..14), own(14..31)]), &whole);
    assert_close("first", &found[..14 * 32], &expected[..14 * 32], 1e-6);
    assert_close("second", &found[14 * 32..], &expected[24 * 32..], 1e-6);
}

/// On every instruction set, and for rows that are no whole number of blocks, sums are those over the entries that
/// rounded weights stand for, to within half a step of every input's block; and every weight is rounded by at most half
/// a step of its block.
#[test]
fn rounded_weights_are_multiplied_as_what_they_stand_for() {
    use super::host::{ProjectQuantized, Quantized};
    use crate::nn::fused::simd::{Isa, run_on};
    for (rows, inputs, outputs) in [(1, 64, 5), (1, 33, 3), (3, 100, 7), (2, 8, 2)] {
        let mut rng = stream(3, "quantized", (rows * inputs) as u64);
        let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random::<f32>() - 0.5).collect() };
        let (mut input, mut weight) = (random(rows * inputs), random(outputs * inputs));
        // The largest possible products, all of one sign: no sum may overflow.
        let extreme = inputs.min(32);
        input[..extreme].fill(-1.0);
        weight[(outputs - 1) * inputs..][..extreme].fill(-1.0);
        // A block of nothing, which has no scale.
        weight[..8].fill(0.0);
        let quantized = Quantized::of(&weight, inputs);
        let restored = quantized.restored();
        for (row, own) in weight.chunks_exact(inputs).zip(restored.chunks_exact(inputs)) {
            for (block, own) in row.chunks(32).zip(own.chunks(32)) {
                let step = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0;
                assert!(block.iter().zip(own).all(|(a, b)| (a - b).abs() <= 0.5001 * step));
            }
        }
        for isa in Isa::available() {
            let mut output = vec![0.0; rows * outputs];
            run_on(isa, ProjectQuantized { input: &input, weight: &quantized, output: &mut output });
            for (row, output) in input.chunks_exact(inputs).zip(output.chunks_exact(outputs)) {
                for (weight, output) in restored.chunks_exact(inputs).zip(output) {
                    let expected: f64 = row.iter().zip(weight).map(|(a, b)| f64::from(a * b)).sum();
                    let bound: f32 = row
                        .chunks(32)
                        .zip(weight.chunks(32))
                        .map(|(input, weight)| {
                            let step = input.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 32767.0;
                            // And what sums of f32 lose.
                            let lost: f32 = input.iter().zip(weight).map(|(a, b)| (a * b).abs()).sum();
                            weight.iter().map(|b| b.abs()).sum::<f32>() * 0.5001 * step + 1e-6 * lost
                        })
                        .sum();
                    let off = (f64::from(*output) - expected).abs();
                    assert!(off <= f64::from(bound), "{isa:?}: {output}, expected {expected} within {bound}");
                }
            }
            // NaN and infinities must show in the output.
            for odd in [f32::NAN, f32::INFINITY] {
                let mut input = input.clone();
                input[inputs / 2] = odd;
                run_on(isa, ProjectQuantized { input: &input, weight: &quantized, output: &mut output });
                assert!(output[..outputs].iter().all(|y| y.is_nan()), "{isa:?}: {output:?}");
            }
        }
    }
}
