//! The fused operations on Flex, burn's CPU backend.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata as _};
use burn::tensor::{Shape, TensorData};

use super::kernels::{self, BLOCK};
use super::ppo_loss::{PpoGradients, PpoKernel, PpoLoss};
use super::scratch::{self, Scratch};
use super::simd::dispatch;
use super::{AdamStep, FusedOps};
use crate::nn::mlp::Layout;

impl FusedOps for Flex {
    fn mlp(input: FlexTensor, parameters: FlexTensor, layout: Layout) -> FlexTensor {
        mlp_forward(&input, &parameters, &layout, false).0
    }

    fn add_squares(values: FlexTensor, sum: FlexTensor) -> FlexTensor {
        let squares = dispatch(kernels::SquaredNorm(slice(&contiguous(values))));
        tensor(vec![slice(&contiguous(sum))[0] + squares], [1])
    }

    fn adam(
        parameter: FlexTensor,
        gradient: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        squares: FlexTensor,
        step: AdamStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [mut parameter, mut first, mut second] = [parameter, first, second].map(whole);
        let gradient = contiguous(gradient);
        let (step_size, correction2) = step.corrected();
        dispatch(kernels::AdamStep {
            parameter: parameter.storage_mut(),
            gradient: slice(&gradient),
            first: first.storage_mut(),
            second: second.storage_mut(),
            scale: step.scale(slice(&contiguous(squares))[0]),
            beta1: step.config.beta1,
            beta2: step.config.beta2,
            epsilon: step.config.epsilon,
            step_size,
            correction2,
        });
        if gradient.is_unique()
            && let Ok(memory) = gradient.into_data().try_into_vec()
        {
            scratch::give_back(memory);
        }
        (parameter, first, second)
    }

    fn ppo_loss(
        outputs: FlexTensor,
        log_std: FlexTensor,
        values: FlexTensor,
        batch: FlexTensor,
        loss: PpoLoss,
    ) -> (FlexTensor, FlexTensor) {
        let PpoGradients { total, metrics, .. } = ppo_gradients(outputs, log_std, values, batch, loss);
        (tensor(vec![total], [1]), tensor(metrics.to_vec(), [PpoLoss::METRICS]))
    }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn mlp(input: FloatTensor<Self>, parameters: FloatTensor<Self>, layout: Layout) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (parameters, parameters_node) = parameters.into_parts();
        match MlpBackward.prepare::<C>([input_node, parameters_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (output, saved) = mlp_forward(&input, &parameters, &layout, true);
                prepared.finish(MlpState { input, parameters, saved, layout }, output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(mlp_forward(&input, &parameters, &layout, false).0),
        }
    }

    fn ppo_loss(
        outputs: FloatTensor<Self>,
        log_std: FloatTensor<Self>,
        values: FloatTensor<Self>,
        batch: FloatTensor<Self>,
        loss: PpoLoss,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (outputs, outputs_node) = outputs.into_parts();
        let (log_std, log_std_node) = log_std.into_parts();
        let (values, values_node) = values.into_parts();
        let shapes = PpoShapes { outputs: outputs.shape(), log_std: log_std.shape(), values: values.shape() };
        // What was collected takes no gradient.
        let gradients = ppo_gradients(outputs, log_std, values, batch.into_primitive(), loss);
        let total = tensor(vec![gradients.total], [1]);
        let metrics = FloatTensor::<Self>::new(tensor(gradients.metrics.to_vec(), [PpoLoss::METRICS]));
        let nodes = [outputs_node, log_std_node, values_node];
        let total = match PpoBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((gradients, shapes), total),
            OpsKind::UnTracked(prepared) => prepared.finish(total),
        };
        (total, metrics)
    }
}

// ------------------------------------------------------------------------------------------------------ the network

/// The backward pass of [`super::mlp`].
#[derive(Debug)]
struct MlpBackward;

/// What it needs of the forward pass.
#[derive(Debug, Clone)]
struct MlpState {
    input: FlexTensor,
    parameters: FlexTensor,
    /// `[members][batch · layout.saved()]`
    saved: Arc<Scratch>,
    layout: Layout,
}

impl Backward<Flex, 2> for MlpBackward {
    type State = MlpState;

    fn backward(self, ops: Ops<MlpState, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output_gradient = gradients.consume::<Flex>(&ops.node);
        let [input_node, parameters_node] = ops.parents;
        let (input, parameters) = mlp_backward(&ops.state, output_gradient, input_node.is_some());
        if let (Some(node), Some(gradient)) = (input_node, input) {
            gradients.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = parameters_node {
            gradients.register::<Flex>(node.id, parameters);
        }
    }
}

/// Output, and what the backward pass needs if `keep`.
fn mlp_forward(input: &FlexTensor, parameters: &FlexTensor, layout: &Layout, keep: bool) -> (FlexTensor, Arc<Scratch>) {
    let (input, parameters) = (contiguous(input.clone()), contiguous(parameters.clone()));
    let (members, batch) = (parameters.shape()[0], input.shape()[1]);
    assert_eq!(input.shape()[2], layout.inputs(), "the input's last dimension is the network's");
    assert_eq!(parameters.shape()[1], layout.len(), "the parameters are those of the layout");
    let rows = if keep { batch } else { batch.min(BLOCK) };
    let mut saved = Scratch::new(if keep { members * rows * layout.saved() } else { rows * layout.saved() });
    let mut output = vec![0.0; members * batch * layout.outputs()];
    for member in 0..members {
        dispatch(kernels::Forward {
            layout,
            input: member_of(slice(&input), member, batch * layout.inputs()),
            parameters: part(slice(&parameters), member, layout.len()),
            output: part_mut(&mut output, member, batch * layout.outputs()),
            saved: part_mut(&mut saved.0, if keep { member } else { 0 }, rows * layout.saved()),
        });
    }
    (tensor(output, [members, batch, layout.outputs()]), Arc::new(saved))
}

/// Gradients of the input, if wanted, and of the parameters.
fn mlp_backward(state: &MlpState, output_gradient: FlexTensor, input_wanted: bool) -> (Option<FlexTensor>, FlexTensor) {
    let MlpState { input, parameters, saved, layout } = state;
    let (input, parameters) = (contiguous(input.clone()), contiguous(parameters.clone()));
    let output_gradient = contiguous(output_gradient);
    let (members, batch) = (parameters.shape()[0], input.shape()[1]);
    let shared = input.shape()[0] < members;
    let mut gradient = scratch::zeros(members * layout.len());
    let mut input_gradient = vec![0.0; if input_wanted { members * batch * layout.inputs() } else { 0 }];
    let wanted = if input_wanted { batch * layout.inputs() } else { 0 };
    for member in 0..members {
        dispatch(kernels::Backward {
            layout,
            input: member_of(slice(&input), member, batch * layout.inputs()),
            parameters: part(slice(&parameters), member, layout.len()),
            saved: part(&saved.0, member, batch * layout.saved()),
            output_gradient: part(slice(&output_gradient), member, batch * layout.outputs()),
            gradient: part_mut(&mut gradient, member, layout.len()),
            input_gradient: part_mut(&mut input_gradient, member, wanted),
        });
    }
    if input_wanted && shared {
        // All members saw the one input: its gradient is the sum of theirs.
        let (sum, others) = input_gradient.split_at_mut(wanted);
        for other in others.chunks(wanted) {
            sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        }
        input_gradient.truncate(wanted);
    }
    let input_gradient = input_wanted.then(|| tensor(input_gradient, [input.shape()[0], batch, layout.inputs()]));
    (input_gradient, tensor(gradient, [members, layout.len()]))
}

// ----------------------------------------------------------------------------------------------------------- PPO loss

/// The backward pass of [`super::ppo_loss`]; the forward pass made the gradients.
#[derive(Debug)]
struct PpoBackward;

/// Shapes of the tensors that take gradients.
#[derive(Debug, Clone)]
struct PpoShapes {
    outputs: Shape,
    log_std: Shape,
    values: Shape,
}

impl Backward<Flex, 3> for PpoBackward {
    type State = (PpoGradients, PpoShapes);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let outer = slice(&contiguous(gradients.consume::<Flex>(&ops.node)))[0];
        let (PpoGradients { outputs, log_std, values, .. }, shapes) = ops.state;
        let shapes = [shapes.outputs, shapes.log_std, shapes.values];
        for ((node, mut gradient), shape) in ops.parents.into_iter().zip([outputs, log_std, values]).zip(shapes) {
            let Some(node) = node else { continue };
            if outer != 1.0 {
                gradient.iter_mut().for_each(|g| *g *= outer);
            }
            gradients.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(gradient, shape)));
        }
    }
}

fn ppo_gradients(
    outputs: FlexTensor,
    log_std: FlexTensor,
    values: FlexTensor,
    batch: FlexTensor,
    loss: PpoLoss,
) -> PpoGradients {
    let [outputs, log_std, values, batch] = [outputs, log_std, values, batch].map(contiguous);
    let (outputs, log_std, values, batch) = (slice(&outputs), slice(&log_std), slice(&values), slice(&batch));
    dispatch(PpoKernel { outputs, log_std, values, batch, loss })
}

// ----------------------------------------------------------------------------------------------------------- tensors

/// The tensor with its values in order; a part of a larger one stays where it is.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    match tensor.as_slice::<f32>().is_some() {
        true => tensor,
        false => tensor.to_contiguous(),
    }
}

/// The tensor with its values in order and nothing beside them in its storage, so that they can be written.
fn whole(tensor: FlexTensor) -> FlexTensor {
    let tensor = contiguous(tensor);
    match tensor.storage::<f32>().len() == tensor.shape().num_elements() {
        true => tensor,
        false => tensor.to_contiguous(),
    }
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("the tensor was made contiguous, and networks are f32")
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

fn part(values: &[f32], index: usize, len: usize) -> &[f32] {
    &values[index * len..(index + 1) * len]
}

fn part_mut(values: &mut [f32], index: usize, len: usize) -> &mut [f32] {
    &mut values[index * len..(index + 1) * len]
}

/// A member's input, which may be the same for all.
fn member_of(values: &[f32], member: usize, len: usize) -> &[f32] {
    part(values, if values.len() == len { 0 } else { member }, len)
}
