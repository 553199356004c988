//! The fused operations on Flex, burn's CPU backend.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata as _};
use burn::tensor::{Tensor, TensorData};

use super::adam_step::AdamStep;
use super::kernels::{self, BLOCK};
use super::ops::{self, FusedOps};
use super::ppo_loss::{ActorCritic, PpoKernel, PpoLoss, PpoValue};
use super::scratch::{self, Scratch};
use super::simd::dispatch;
use crate::nn::layout::Layout;
use crate::nn::tensors::{constant, to_host};

/// [`ops::mlp`] without gradients and, on the CPU, without tensors: environments live on the host, and one step of them
/// is little to compute.
///
/// # Shapes
/// - `input`: `[batch, in]`, the same for all members; `parameters`: `[members, layout.len()]`
/// - `output`: becomes `[members, batch, out]`
pub fn mlp_on_host(input: &[f32], parameters: &Tensor<2>, layout: &Layout, output: &mut Vec<f32>) {
    let parameters = parameters.clone().inner();
    match parameters.clone().try_into_primitive::<Flex>() {
        Ok(parameters) => {
            assert!(input.len().is_multiple_of(layout.inputs()), "the input consists of whole rows");
            forward(input, input.len() / layout.inputs(), parameters, layout, false, output);
        }
        Err(_) => {
            let shape = [1, input.len() / layout.inputs(), layout.inputs()];
            let input = constant(input, shape, &parameters.device());
            *output = to_host(ops::mlp(input, parameters, layout));
        }
    }
}

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
            kept: step.kept(),
        });
        give_back(gradient);
        (parameter, first, second)
    }

    fn ppo_loss(
        observations: FlexTensor,
        parameters: FlexTensor,
        batch: FlexTensor,
        networks: ActorCritic,
        loss: PpoLoss,
    ) -> (FlexTensor, FlexTensor) {
        let (value, gradient) = ppo_gradient(observations, parameters, batch, &networks, loss);
        scratch::give_back(gradient);
        (tensor(vec![value.total], [1]), tensor(value.metrics.to_vec(), [PpoLoss::METRICS]))
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
        observations: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        batch: FloatTensor<Self>,
        networks: ActorCritic,
        loss: PpoLoss,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (parameters, node) = parameters.into_parts();
        // What was collected takes no gradient.
        let (observations, batch) = (observations.into_primitive(), batch.into_primitive());
        let (value, gradient) = ppo_gradient(observations, parameters, batch, &networks, loss);
        let total = tensor(vec![value.total], [1]);
        let metrics = FloatTensor::<Self>::new(tensor(value.metrics.to_vec(), [PpoLoss::METRICS]));
        (record::<C, _, _>(PpoBackward, [node], gradient, total), metrics)
    }
}

// ------------------------------------------------------------------------------------------------------ the network

/// The backward pass of [`ops::mlp`].
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
        let (input, parameters) = mlp_backward(&ops.state, output_gradient, ops.parents[0].is_some());
        for (node, gradient) in ops.parents.into_iter().zip([input, Some(parameters)]) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// Output, and what the backward pass needs if `keep`.
fn mlp_forward(input: &FlexTensor, parameters: &FlexTensor, layout: &Layout, keep: bool) -> (FlexTensor, Arc<Scratch>) {
    let input = contiguous(input.clone());
    let (members, batch) = (parameters.shape()[0], input.shape()[1]);
    assert_eq!(input.shape()[2], layout.inputs(), "the input's last dimension is the network's");
    let mut output = Vec::new();
    let saved = forward(slice(&input), batch, parameters.clone(), layout, keep, &mut output);
    (tensor(output, [members, batch, layout.outputs()]), Arc::new(saved))
}

/// Every member's network on a batch of its own, or on the one batch there is.
fn forward(
    input: &[f32],
    batch: usize,
    parameters: FlexTensor,
    layout: &Layout,
    keep: bool,
    output: &mut Vec<f32>,
) -> Scratch {
    let parameters = contiguous(parameters);
    let members = parameters.shape()[0];
    assert_eq!(parameters.shape()[1], layout.len(), "the parameters are those of the layout");
    let rows = if keep { batch } else { batch.min(BLOCK) };
    let mut saved = Scratch::new(if keep { members * rows * layout.saved() } else { rows * layout.saved() });
    output.clear();
    output.resize(members * batch * layout.outputs(), 0.0);
    for member in 0..members {
        dispatch(kernels::Forward {
            layout,
            input: member_of(input, member, batch * layout.inputs()),
            parameters: part(slice(&parameters), member, layout.len()),
            output: part_mut(output, member, batch * layout.outputs()),
            saved: part_mut(&mut saved.0, if keep { member } else { 0 }, rows * layout.saved()),
        });
    }
    saved
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

/// The backward pass of [`ops::ppo_loss`]; the forward pass made the gradient.
#[derive(Debug)]
struct PpoBackward;

impl Backward<Flex, 1> for PpoBackward {
    /// The parameters' gradient.
    type State = Vec<f32>;

    fn backward(self, ops: Ops<Vec<f32>, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let outer = slice(&contiguous(gradients.consume::<Flex>(&ops.node)))[0];
        let ([node], mut gradient) = (ops.parents, ops.state);
        let Some(node) = node else { return };
        if outer != 1.0 {
            gradient.iter_mut().for_each(|g| *g *= outer);
        }
        let len = gradient.len();
        gradients.register::<Flex>(node.id, tensor(gradient, [1, len]));
    }
}

/// The loss, and the gradient of the parameters.
fn ppo_gradient(
    observations: FlexTensor,
    parameters: FlexTensor,
    batch: FlexTensor,
    networks: &ActorCritic,
    loss: PpoLoss,
) -> (PpoValue, Vec<f32>) {
    let [observations, parameters, batch] = [observations, parameters, batch].map(contiguous);
    let (observations, parameters, batch) = (slice(&observations), slice(&parameters), slice(&batch));
    assert_eq!(parameters.len(), networks.len(), "the parameters are those of the networks");
    assert_eq!(networks.policy.inputs(), networks.value.inputs(), "both networks see the observations");
    let layouts = [&networks.policy, &networks.value];
    let ranges = [networks.policy_range(), networks.value_range()];
    let rows = observations.len() / networks.policy.inputs();
    let columns = networks.policy.outputs() + PpoLoss::EXTRA_COLUMNS;
    assert_eq!(batch.len(), rows * columns, "there is a sample for every observation");
    let widths = layouts.map(|layout| rows * layout.outputs());
    let mut saved = layouts.map(|layout| Scratch::new(rows * layout.saved()));
    let (mut outputs, mut output_gradients) = (widths.map(Scratch::new), widths.map(Scratch::new));
    for i in 0..2 {
        dispatch(kernels::Forward {
            layout: layouts[i],
            input: observations,
            parameters: &parameters[ranges[i].clone()],
            output: &mut outputs[i].0[..widths[i]],
            saved: &mut saved[i].0,
        });
    }
    let mut gradient = scratch::zeros(networks.len());
    let [of_policy, of_value] = &mut output_gradients;
    let value = dispatch(PpoKernel {
        outputs: &outputs[0].0[..widths[0]],
        log_std: &parameters[networks.log_std_range()],
        values: &outputs[1].0[..widths[1]],
        batch,
        loss,
        outputs_gradient: &mut of_policy.0[..widths[0]],
        log_std_gradient: &mut gradient[networks.log_std_range()],
        values_gradient: &mut of_value.0[..widths[1]],
    });
    for i in 0..2 {
        dispatch(kernels::Backward {
            layout: layouts[i],
            input: observations,
            parameters: &parameters[ranges[i].clone()],
            saved: &saved[i].0,
            output_gradient: &output_gradients[i].0[..widths[i]],
            gradient: &mut gradient[ranges[i].clone()],
            input_gradient: &mut [],
        });
    }
    (value, gradient)
}

// ----------------------------------------------------------------------------------------------------------- tensors

/// The output of an operation on these nodes, with the state of its backward pass where there will be one.
pub(super) fn record<C: CheckpointStrategy, O: Backward<Flex, N>, const N: usize>(
    operation: O,
    nodes: [NodeGuard; N],
    state: O::State,
    output: FlexTensor,
) -> FloatTensor<Autodiff<Flex, C>> {
    match operation.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}

/// The tensor with its values in order; a part of a larger one stays where it is.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
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

/// Keeps the memory of a tensor that nobody else holds.
pub(super) fn give_back(tensor: FlexTensor) {
    if tensor.is_unique()
        && let Ok(memory) = tensor.into_data().try_into_vec()
    {
        scratch::give_back(memory);
    }
}

pub(super) fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("the tensor was made contiguous, and networks are f32")
}

pub(super) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
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
