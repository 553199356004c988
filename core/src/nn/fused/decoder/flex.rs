//! The decoder's operations on Flex, burn's CPU backend.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata as _};

use super::kernels::{
    Attend, AttendBackward, GateBackward, GateForward, GeluBackward, GeluForward, LogProbs, LogProbsBackward,
    NormBackward, NormForward, Rotate,
};
use super::layout::{AttentionLayout, Heads, NormConfig, Sequence};
use super::matrix::{Matrix, multiply};
use super::ops::DecoderOps;
use crate::nn::fused::flex::{contiguous, give_back, record, slice, tensor};
use crate::nn::fused::scratch::{self, Scratch};
use crate::nn::fused::simd::dispatch;

/// Queries that attention takes together: their scores against a few hundred keys stay in the second cache.
const QUERIES: usize = 64;

impl DecoderOps for Flex {
    fn linear(input: FlexTensor, weight: FlexTensor) -> FlexTensor {
        linear_forward(&contiguous(input), &contiguous(weight))
    }

    fn rows(table: FlexTensor, indices: Arc<Vec<u32>>) -> FlexTensor {
        let table = contiguous(table);
        let width = table.shape()[1];
        let mut output = Vec::with_capacity(indices.len() * width);
        for &index in indices.iter() {
            output.extend_from_slice(&slice(&table)[index as usize * width..][..width]);
        }
        tensor(output, [indices.len(), width])
    }

    fn norm(input: FlexTensor, weight: FlexTensor, norm: NormConfig) -> FlexTensor {
        norm_forward(&contiguous(input), &contiguous(weight), norm, false).0
    }

    fn gated_silu(gate_up: FlexTensor) -> FlexTensor {
        let gate_up = contiguous(gate_up);
        let [rows, columns] = matrix_shape(&gate_up);
        let mut output = scratch::unwritten(rows * columns / 2);
        dispatch(GateForward { gate_up: slice(&gate_up), width: columns / 2, output: &mut output });
        tensor(output, [rows, columns / 2])
    }

    fn gelu_tanh(input: FlexTensor) -> FlexTensor {
        let input = contiguous(input);
        let mut output = scratch::unwritten(slice(&input).len());
        dispatch(GeluForward { input: slice(&input), output: &mut output });
        tensor(output, matrix_shape(&input))
    }

    fn attention(qkv: FlexTensor, layout: Arc<AttentionLayout>) -> FlexTensor {
        attention_forward(qkv, &layout).0
    }

    fn token_log_probs(hidden: FlexTensor, head: FlexTensor, targets: Arc<Vec<u32>>) -> (FlexTensor, FlexTensor) {
        let (log_probs, about, _) = log_probs_forward(&contiguous(hidden), &contiguous(head), &targets);
        (log_probs, about)
    }
}

impl<C: CheckpointStrategy> DecoderOps for Autodiff<Flex, C> {
    fn linear(input: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (input, weight) = (contiguous(input), contiguous(weight));
        let output = linear_forward(&input, &weight);
        record::<C, _, _>(LinearBackward, [input_node, weight_node], (input, weight), output)
    }

    fn rows(table: FloatTensor<Self>, indices: Arc<Vec<u32>>) -> FloatTensor<Self> {
        let (table, node) = table.into_parts();
        let shape = matrix_shape(&table);
        let output = Flex::rows(table, Arc::clone(&indices));
        record::<C, _, _>(RowsBackward, [node], (shape, indices), output)
    }

    fn norm(input: FloatTensor<Self>, weight: FloatTensor<Self>, norm: NormConfig) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (input, weight) = (contiguous(input), contiguous(weight));
        let (output, statistics) = norm_forward(&input, &weight, norm, true);
        let state = NormState { input, weight, statistics, norm };
        record::<C, _, _>(NormalBackward, [input_node, weight_node], state, output)
    }

    fn gated_silu(gate_up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate_up, node) = gate_up.into_parts();
        let gate_up = contiguous(gate_up);
        let output = Flex::gated_silu(gate_up.clone());
        record::<C, _, _>(GatedBackward, [node], gate_up, output)
    }

    fn gelu_tanh(input: FloatTensor<Self>) -> FloatTensor<Self> {
        let (input, node) = input.into_parts();
        let input = contiguous(input);
        let output = Flex::gelu_tanh(input.clone());
        record::<C, _, _>(GeluOpBackward, [node], input, output)
    }

    fn attention(qkv: FloatTensor<Self>, layout: Arc<AttentionLayout>) -> FloatTensor<Self> {
        let (qkv, node) = qkv.into_parts();
        let (output, state) = attention_forward(qkv, &layout);
        record::<C, _, _>(AttentionBackward, [node], state, output)
    }

    fn token_log_probs(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<Vec<u32>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (hidden, hidden_node) = hidden.into_parts();
        let (head, head_node) = head.into_parts();
        let (hidden, head) = (contiguous(hidden), contiguous(head));
        let (log_probs, about, probabilities) = log_probs_forward(&hidden, &head, &targets);
        let state = LogProbsState { hidden, head, targets, probabilities };
        let log_probs = record::<C, _, _>(LogProbsOpBackward, [hidden_node, head_node], state, log_probs);
        (log_probs, FloatTensor::<Self>::new(about))
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 2> for LinearBackward {
    /// Input and weight.
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let (input, weight) = ops.state;
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        linear_backward(&input, &weight, slice(&output_gradient), nodes, gradients);
        give_back(output_gradient);
        give_back(input);
    }
}

fn linear_forward(input: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
    let ([rows, inputs], [outputs, width]) = (matrix_shape(input), matrix_shape(weight));
    assert_eq!(inputs, width, "the input is as wide as the weight");
    let mut output = scratch::unwritten(rows * outputs);
    let (input, weight) = (Matrix::new(slice(input), inputs), Matrix::new(slice(weight), inputs));
    multiply([rows, outputs, inputs], input, weight.transposed(), 1.0, &mut output, outputs, false);
    tensor(output, [rows, outputs])
}

/// Registers the gradients of input and weight, each where it has a node.
fn linear_backward(
    input: &FlexTensor,
    weight: &FlexTensor,
    output_gradient: &[f32],
    [input_node, weight_node]: [Option<NodeId>; 2],
    gradients: &mut Gradients,
) {
    let ([rows, inputs], [outputs, _]) = (matrix_shape(input), matrix_shape(weight));
    let delta = Matrix::new(output_gradient, outputs);
    if let Some(node) = weight_node {
        let mut gradient = scratch::unwritten(outputs * inputs);
        let input = Matrix::new(slice(input), inputs);
        multiply([outputs, inputs, rows], delta.transposed(), input, 1.0, &mut gradient, inputs, false);
        gradients.register::<Flex>(node, tensor(gradient, [outputs, inputs]));
    }
    if let Some(node) = input_node {
        let mut gradient = scratch::unwritten(rows * inputs);
        let weight = Matrix::new(slice(weight), inputs);
        multiply([rows, inputs, outputs], delta, weight, 1.0, &mut gradient, inputs, false);
        gradients.register::<Flex>(node, tensor(gradient, [rows, inputs]));
    }
}

#[derive(Debug)]
struct RowsBackward;

impl Backward<Flex, 1> for RowsBackward {
    /// Shape of the table, and the rows taken.
    type State = ([usize; 2], Arc<Vec<u32>>);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let ([node], ([count, width], indices)) = (ops.parents, ops.state);
        let Some(node) = node else { return };
        let mut gradient = vec![0.0; count * width];
        for (&index, row) in indices.iter().zip(slice(&output_gradient).chunks_exact(width)) {
            let sums = &mut gradient[index as usize * width..][..width];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        gradients.register::<Flex>(node.id, tensor(gradient, [count, width]));
        give_back(output_gradient);
    }
}

#[derive(Debug)]
struct NormalBackward;

/// What the backward pass of a normalisation needs.
#[derive(Debug, Clone)]
struct NormState {
    input: FlexTensor,
    weight: FlexTensor,
    statistics: Arc<Scratch>,
    norm: NormConfig,
}

impl Backward<Flex, 2> for NormalBackward {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let both = norm_backward(&ops.state, &output_gradient);
        for (node, gradient) in ops.parents.into_iter().zip(both) {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, gradient);
            }
        }
        give_back(output_gradient);
        give_back(ops.state.input);
    }
}

/// Output, and means and reciprocal scales if `keep`.
fn norm_forward(input: &FlexTensor, weight: &FlexTensor, norm: NormConfig, keep: bool) -> (FlexTensor, Arc<Scratch>) {
    let [rows, width] = matrix_shape(input);
    assert_eq!(slice(weight).len(), width, "there is a weight for every column");
    let mut statistics = Scratch::new(if keep { 2 * rows } else { 0 });
    let mut output = scratch::unwritten(rows * width);
    dispatch(NormForward {
        input: slice(input),
        weight: slice(weight),
        bias: None,
        norm,
        output: &mut output,
        statistics: &mut statistics.0,
    });
    (tensor(output, [rows, width]), Arc::new(statistics))
}

/// Gradients of input and weight.
fn norm_backward(state: &NormState, output_gradient: &FlexTensor) -> [FlexTensor; 2] {
    let [rows, width] = matrix_shape(&state.input);
    let mut input_gradient = scratch::unwritten(rows * width);
    let mut weight_gradient = vec![0.0; width];
    dispatch(NormBackward {
        input: slice(&state.input),
        weight: slice(&state.weight),
        statistics: &state.statistics.0,
        norm: state.norm,
        output_gradient: slice(output_gradient),
        input_gradient: &mut input_gradient,
        weight_gradient: &mut weight_gradient,
    });
    [tensor(input_gradient, [rows, width]), tensor(weight_gradient, [1, width])]
}

#[derive(Debug)]
struct GatedBackward;

#[derive(Debug)]
struct GeluOpBackward;

impl Backward<Flex, 1> for GatedBackward {
    /// The input.
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let ([node], gate_up) = (ops.parents, ops.state);
        let Some(node) = node else { return };
        let [rows, columns] = matrix_shape(&gate_up);
        let mut gradient = scratch::unwritten(rows * columns);
        dispatch(GateBackward {
            gate_up: slice(&gate_up),
            width: columns / 2,
            output_gradient: slice(&output_gradient),
            gradient: &mut gradient,
        });
        gradients.register::<Flex>(node.id, tensor(gradient, [rows, columns]));
        give_back(output_gradient);
        give_back(gate_up);
    }
}

impl Backward<Flex, 1> for GeluOpBackward {
    /// The input.
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let ([node], input) = (ops.parents, ops.state);
        let Some(node) = node else { return };
        let mut input_gradient = scratch::unwritten(slice(&input).len());
        dispatch(GeluBackward {
            input: slice(&input),
            output_gradient: slice(&output_gradient),
            input_gradient: &mut input_gradient,
        });
        gradients.register::<Flex>(node.id, tensor(input_gradient, matrix_shape(&input)));
        give_back(output_gradient);
        give_back(input);
    }
}

#[derive(Debug)]
struct AttentionBackward;

/// What the backward pass of attention needs. The weights are computed again, from the scores and their sums.
#[derive(Debug, Clone)]
struct AttentionState {
    /// Queries and keys rotated.
    qkv: FlexTensor,
    /// `[rows, heads.queries]`: the logarithm of the sum of a query's exponentiated scores.
    log_sums: Arc<Scratch>,
    layout: Arc<AttentionLayout>,
}

impl Backward<Flex, 1> for AttentionBackward {
    type State = AttentionState;

    fn backward(self, ops: Ops<AttentionState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let ([node], state) = (ops.parents, ops.state);
        let Some(node) = node else { return };
        gradients.register::<Flex>(node.id, attention_backward(&state, &output_gradient));
        give_back(output_gradient);
        give_back(state.qkv);
    }
}

/// A block of queries of one head against the keys that any of them sees.
struct Block {
    /// First row of the batch.
    row: usize,
    /// Queries.
    queries: usize,
    /// Position of the first query in its sequence.
    position: usize,
    /// Keys, as positions of the sequence.
    keys: std::ops::Range<usize>,
}

/// The blocks of a sequence's own rows, in order.
fn blocks<'a>(sequence: &'a Sequence, layout: &'a AttentionLayout) -> impl Iterator<Item = Block> + 'a {
    let own = sequence.rows.len();
    (0..own).step_by(QUERIES).map(move |start| {
        let queries = QUERIES.min(own - start);
        let position = sequence.prefix.len() + start;
        let keys = layout.visible(position).start..position + queries;
        Block { row: sequence.rows.start + start, queries, position, keys }
    })
}

/// All rows of one sequence: where they lie one after another, in place; else gathered.
fn sequence_rows<'a>(qkv: &'a [f32], width: usize, sequence: &Sequence, gathered: &'a mut Vec<f32>) -> &'a [f32] {
    let of = |rows: &std::ops::Range<usize>| &qkv[rows.start * width..rows.end * width];
    if sequence.prefix.is_empty() {
        return of(&sequence.rows);
    }
    gathered.clear();
    gathered.extend_from_slice(of(&sequence.prefix));
    gathered.extend_from_slice(of(&sequence.rows));
    gathered
}

/// Where the queries, keys and values of a head are in a row.
fn columns_of(head: usize, heads: Heads) -> [usize; 3] {
    let key = head / (heads.queries / heads.keys) * heads.width;
    [head * heads.width, heads.query_columns() + key, heads.query_columns() + heads.key_columns() + key]
}

/// Output, and what the backward pass needs.
fn attention_forward(qkv: FlexTensor, layout: &Arc<AttentionLayout>) -> (FlexTensor, AttentionState) {
    let heads = layout.heads;
    let qkv = contiguous(qkv);
    let [rows, joint] = matrix_shape(&qkv);
    assert_eq!(joint, heads.joint(), "the input has the columns of queries, keys and values");
    let qkv = match &layout.rotation {
        None => qkv,
        Some(rotation) => {
            assert_eq!(rotation.cos.len(), rows * heads.width / 2, "there are angles for every row");
            let mut turned = scratch::unwritten(rows * joint);
            turned.copy_from_slice(slice(&qkv));
            dispatch(Rotate { qkv: &mut turned, heads, rotation, back: false });
            give_back(qkv);
            tensor(turned, [rows, joint])
        }
    };
    let width = heads.query_columns();
    let mut output = scratch::unwritten(rows * width);
    let mut log_sums = Scratch::new(rows * heads.queries);
    let (mut gathered, mut scores) = (Vec::new(), Vec::new());
    for sequence in &layout.sequences {
        let all = sequence_rows(slice(&qkv), joint, sequence, &mut gathered);
        for head in 0..heads.queries {
            let [of_query, of_key, of_value] = columns_of(head, heads);
            for block in blocks(sequence, layout) {
                let count = block.keys.len();
                let at = |column: usize| Matrix::new(&all[block.keys.start * joint + column..], joint);
                scores.resize(block.queries * count, 0.0);
                multiply(
                    [block.queries, count, heads.width],
                    Matrix::new(&slice(&qkv)[block.row * joint + of_query..], joint),
                    at(of_key).transposed(),
                    layout.scale,
                    &mut scores,
                    count,
                    false,
                );
                dispatch(Attend {
                    scores: &mut scores,
                    keys: count,
                    position: block.position,
                    first_key: block.keys.start,
                    layout,
                    log_sums: &mut log_sums.0[block.row * heads.queries + head..],
                    log_sums_apart: heads.queries,
                    again: false,
                });
                let weights = Matrix::new(&scores, count);
                let output = &mut output[block.row * width + of_query..];
                multiply([block.queries, heads.width, count], weights, at(of_value), 1.0, output, width, false);
            }
        }
    }
    let state = AttentionState { qkv, log_sums: Arc::new(log_sums), layout: Arc::clone(layout) };
    (tensor(output, [rows, width]), state)
}

/// Gradient of queries, keys and values.
fn attention_backward(state: &AttentionState, output_gradient: &FlexTensor) -> FlexTensor {
    let AttentionState { qkv, log_sums, layout } = state;
    let heads = layout.heads;
    let ([rows, joint], [_, width]) = (matrix_shape(qkv), matrix_shape(output_gradient));
    let (qkv, output_gradient) = (slice(qkv), slice(output_gradient));
    let mut gradient = scratch::zeros(rows * joint);
    let mut log_sums = log_sums.0.clone();
    let (mut gathered, mut sums) = (Vec::new(), Vec::new());
    let (mut weights, mut of_scores) = (Vec::new(), Vec::new());
    for sequence in &layout.sequences {
        let all = sequence_rows(qkv, joint, sequence, &mut gathered);
        // Gradients of the sequence's rows; those of a prefix are sums over all sequences that begin with it.
        sums.clear();
        sums.resize(sequence.tokens() * joint, 0.0);
        for head in 0..heads.queries {
            let [of_query, of_key, of_value] = columns_of(head, heads);
            for block in blocks(sequence, layout) {
                let count = block.keys.len();
                let first = block.keys.start * joint;
                let (keys, values) =
                    (Matrix::new(&all[first + of_key..], joint), Matrix::new(&all[first + of_value..], joint));
                let queries = Matrix::new(&qkv[block.row * joint + of_query..], joint);
                let delta = Matrix::new(&output_gradient[block.row * width + of_query..], width);
                weights.resize(block.queries * count, 0.0);
                of_scores.resize(block.queries * count, 0.0);
                // The weights again.
                let to_keys = [block.queries, count, heads.width];
                multiply(to_keys, queries, keys.transposed(), layout.scale, &mut weights, count, false);
                dispatch(Attend {
                    scores: &mut weights,
                    keys: count,
                    position: block.position,
                    first_key: block.keys.start,
                    layout,
                    log_sums: &mut log_sums[block.row * heads.queries + head..],
                    log_sums_apart: heads.queries,
                    again: true,
                });
                // dV += Wᵀ·dO, dW = dO·Vᵀ
                let back = [count, heads.width, block.queries];
                let weights_matrix = Matrix::new(&weights, count).transposed();
                multiply(back, weights_matrix, delta, 1.0, &mut sums[first + of_value..], joint, true);
                multiply(to_keys, delta, values.transposed(), 1.0, &mut of_scores, count, false);
                dispatch(AttendBackward { weights: &weights, gradient: &mut of_scores, keys: count });
                // dQ = dS·K, dK += dSᵀ·Q
                let scores = Matrix::new(&of_scores, count);
                let of_queries = &mut sums[block.position * joint + of_query..];
                multiply([block.queries, heads.width, count], scores, keys, layout.scale, of_queries, joint, false);
                let of_keys = &mut sums[first + of_key..];
                multiply(back, scores.transposed(), queries, layout.scale, of_keys, joint, true);
            }
        }
        let (of_prefix, own) = sums.split_at(sequence.prefix.len() * joint);
        for (rows, values) in [(&sequence.prefix, of_prefix), (&sequence.rows, own)] {
            let into = &mut gradient[rows.start * joint..rows.end * joint];
            into.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
    if let Some(rotation) = &layout.rotation {
        dispatch(Rotate { qkv: &mut gradient, heads, rotation, back: true });
    }
    tensor(gradient, [rows, joint])
}

#[derive(Debug)]
struct LogProbsOpBackward;

#[derive(Debug, Clone)]
struct LogProbsState {
    hidden: FlexTensor,
    head: FlexTensor,
    targets: Arc<Vec<u32>>,
    /// `[rows, vocabulary]`
    probabilities: Arc<Vec<f32>>,
}

impl Backward<Flex, 2> for LogProbsOpBackward {
    type State = LogProbsState;

    fn backward(self, ops: Ops<LogProbsState, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let LogProbsState { hidden, head, targets, probabilities } = ops.state;
        let mut delta = Arc::unwrap_or_clone(probabilities);
        dispatch(LogProbsBackward { probabilities: &mut delta, targets: &targets, gradient: slice(&output_gradient) });
        // The logits are a linear layer of the hidden states.
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        linear_backward(&hidden, &head, &delta, nodes, gradients);
        scratch::give_back(delta);
        give_back(hidden);
    }
}

/// Log-probabilities, what is known of the distributions, and all probabilities.
fn log_probs_forward(
    hidden: &FlexTensor,
    head: &FlexTensor,
    targets: &[u32],
) -> (FlexTensor, FlexTensor, Arc<Vec<f32>>) {
    let ([rows, width], [vocabulary, _]) = (matrix_shape(hidden), matrix_shape(head));
    assert_eq!(rows, targets.len(), "there is a target for every row");
    assert!(targets.iter().all(|&target| (target as usize) < vocabulary), "targets are tokens of the vocabulary");
    let mut logits = scratch::unwritten(rows * vocabulary);
    let head = Matrix::new(slice(head), width);
    let hidden = Matrix::new(slice(hidden), width);
    multiply([rows, vocabulary, width], hidden, head.transposed(), 1.0, &mut logits, vocabulary, false);
    let (mut log_probs, mut about) = (vec![0.0; rows], vec![0.0; 2 * rows]);
    let (entropy, likeliest) = about.split_at_mut(rows);
    dispatch(LogProbs { logits: &mut logits, targets, log_probs: &mut log_probs, entropy, likeliest });
    (tensor(log_probs, [rows]), tensor(about, [2, rows]), Arc::new(logits))
}

fn matrix_shape(tensor: &FlexTensor) -> [usize; 2] {
    [tensor.shape()[0], tensor.shape()[1]]
}
