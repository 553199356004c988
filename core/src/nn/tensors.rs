//! Tensors from numbers of the host, and back.

use burn::tensor::{Device, Tensor, TensorData};

/// A trainable copy of `data` on `device`.
///
/// # Shapes
/// - `data`: `shape.iter().product()` values, row-major
#[must_use]
pub fn parameter<const D: usize>(data: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data, shape), &device.clone().autodiff()).require_grad()
}

/// The values of a tensor on the host, row-major.
#[must_use]
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .inner()
        .into_data()
        .convert::<f32>()
        .try_into_vec::<f32>()
        .expect("the data were converted to f32 on the line above")
}

/// A constant on `device` made from host values.
///
/// # Shapes
/// - `data`: `shape.iter().product()` values, row-major
#[must_use]
pub fn constant<const D: usize>(data: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data.to_vec(), shape), device)
}

/// Parameters `[members, len]` from the tensors they consist of, each `[members, rows, columns]`.
///
/// # Panics
/// When they do not have that size together.
pub(crate) fn joined(tensors: Vec<Tensor<3>>, shape: [usize; 2]) -> Tensor<2> {
    let flat = |tensor: Tensor<3>| {
        let [members, rows, columns] = tensor.dims();
        tensor.reshape([members, rows * columns])
    };
    let all: Tensor<2> = Tensor::cat(tensors.into_iter().map(flat).collect(), 1);
    assert_eq!(all.dims(), shape, "the tensors are those of this network");
    all.inner().autodiff().require_grad()
}
