//! The fused operations, and the trait by which burn finds each backend's.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use super::adam_step::AdamStep;
use super::ppo_loss::{self, ActorCritic, PpoLoss};
use super::reference;
use crate::nn::layout::Layout;

/// A multilayer perceptron in one operation.
///
/// # Shapes
/// - `input`: `[members, batch, in]` or `[1, batch, in]`; `parameters`: `[members, layout.len()]`
/// - returns `[members, batch, out]`
#[must_use]
pub fn mlp(input: Tensor<3>, parameters: Tensor<2>, layout: &Layout) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::mlp(
        input.into_dispatch(),
        parameters.into_dispatch(),
        layout.clone(),
    ))
}

/// `sum` + Σ x², without gradients.
///
/// # Shapes
/// - `values`: any; `sum`: `[1]`
/// - returns `[1]`
#[must_use]
pub fn add_squares<const D: usize>(values: Tensor<D>, sum: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::add_squares(values.into_dispatch(), sum.into_dispatch()))
}

/// One step of Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1; with weight decay AdamW, Loshchilov & Hutter 2019,
/// arXiv 1711.05101, algorithm 2) on one parameter, without gradients.
///
/// # Shapes
/// - `parameter`, `gradient`, `first`, `second`: the same, any; `squares`: `[1]`, Σ g² over all
///   gradients, for clipping
/// - returns parameter, first and second moment after the step
#[must_use]
pub fn adam<const D: usize>(
    [parameter, gradient, first, second]: [Tensor<D>; 4],
    squares: Tensor<1>,
    step: AdamStep,
) -> [Tensor<D>; 3] {
    let (parameter, first, second) = <Dispatch as FusedOps>::adam(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        squares.into_dispatch(),
        step,
    );
    [parameter, first, second].map(Tensor::from_dispatch)
}

/// PPO's loss on one minibatch (arXiv 1707.06347, eq. 7 and 9, negated), from the observations on: a value to
/// differentiate, and metrics without gradients (policy loss, value loss, entropy, k3 estimate of KL(old ‖ new), share
/// of clipped samples).
///
/// # Shapes
/// - `observations`: `[batch, obs]`; `parameters`: `[1, networks.len()]`
/// - `batch`: `[batch, k + 3]`: an action as drawn (one-hot for a softmax), its log-probability when drawn, its
///   advantage Â, the target of its state's value. One tensor, because a minibatch is gathered and cut as a whole
/// - returns `[1]` and `[5]`
#[must_use]
pub fn ppo_loss(
    observations: Tensor<2>,
    parameters: Tensor<2>,
    batch: Tensor<2>,
    networks: &ActorCritic,
    loss: PpoLoss,
) -> (Tensor<1>, Tensor<1>) {
    let (total, metrics) = <Dispatch as FusedOps>::ppo_loss(
        observations.into_dispatch(),
        parameters.into_dispatch(),
        batch.into_dispatch(),
        networks.clone(),
        loss,
    );
    (Tensor::from_dispatch(total), Tensor::<1>::from_dispatch(metrics).inner())
}

/// The operations, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait FusedOps: Backend {
    /// See [`mlp`].
    fn mlp(input: FloatTensor<Self>, parameters: FloatTensor<Self>, layout: Layout) -> FloatTensor<Self> {
        reference::mlp::<Self>(input, &parameters, &layout)
    }

    /// See [`add_squares`].
    fn add_squares(values: FloatTensor<Self>, sum: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::add_squares::<Self>(values, sum)
    }

    /// See [`adam`].
    fn adam(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        squares: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::adam::<Self>([parameter, gradient, first, second], squares, step).into()
    }

    /// See [`ppo_loss`].
    fn ppo_loss(
        observations: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        batch: FloatTensor<Self>,
        networks: ActorCritic,
        loss: PpoLoss,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        ppo_loss::reference::<Self>(observations, &parameters, &batch, &networks, loss)
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    //! On CUDA each of them is what `reference` says.

    use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
    use burn::backend::{Autodiff, Cube};

    use super::FusedOps;

    impl FusedOps for Cube {}
    impl<C: CheckpointStrategy> FusedOps for Autodiff<Cube, C> {}
}
