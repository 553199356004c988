//! Optimisers and learning-rate schedules of language-model training, as in PyTorch and transformers.

use std::f64::consts::PI;

use burn::tensor::Tensor;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use crate::nn::fused::{self, AdamStep};
use crate::nn::{AdamConfig, constant, to_host};
use crate::range::OutOfRange;

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Loshchilov & Hutter 2019, arXiv 1711.05101.
    Adamw,
    /// PyTorch's RMSprop with smoothing 0.99 (Tieleman & Hinton 2012), as DPO's reference code uses.
    Rmsprop,
    /// Shazeer & Stern 2018, arXiv 1804.04235, with a given learning rate and without first moments, as transformers'
    /// `adafactor`.
    Adafactor,
}

/// How the learning rate changes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls to zero along a straight line.
    Linear,
    /// It falls to zero along half a cosine.
    Cosine,
}

/// Hyper-parameters of an optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Which optimiser.
    pub kind: OptimizerKind,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Steps in which the learning rate grows from zero. A number below 1 is a share of all steps.
    pub warmup: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f32,
    /// AdamW's decay of the second moment.
    pub beta2: f32,
    /// AdamW's and RMSprop's ε.
    pub epsilon: f32,
    /// Share of each matrix that a step takes away, times the learning rate; vectors and biases keep theirs.
    pub weight_decay: f32,
    /// Norm of all gradients together above which they are scaled down; 0 for never.
    pub max_gradient_norm: f32,
}

/// An optimiser's state: two tensors for each parameter. What they hold depends on the optimiser.
#[derive(Debug, Clone, Default)]
pub struct Optimizer {
    /// Steps taken.
    pub steps: u64,
    /// AdamW: first and second moments. RMSprop: nothing, and the mean square. Adafactor: row means and column means.
    pub moments: Vec<[Tensor<2>; 2]>,
}

/// Largest learning rate. Beyond it a step of any optimiser here overflows weights of order one within some steps.
pub const MOST_LEARNING_RATE: f64 = 100.0;

impl Default for OptimizerConfig {
    /// TRL's: AdamW, linear decay, no weight decay, norm 1.
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-6,
            schedule: Schedule::Linear,
            warmup: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
        }
    }
}

impl OptimizerConfig {
    /// The learning rate of step `step` (from 0) of `total`, as in transformers' schedulers: with a warm-up the first
    /// step has the rate 0.
    #[must_use]
    pub fn learning_rate(&self, step: usize, total: usize) -> f64 {
        let warmup = if self.warmup < 1.0 { (self.warmup * total as f64).ceil() } else { self.warmup.floor() };
        let (step, total) = (step as f64, total as f64);
        if step < warmup {
            return self.learning_rate * step / warmup;
        }
        let left = (total - warmup).max(1.0);
        let done = ((step - warmup) / left).min(1.0);
        self.learning_rate
            * match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => 1.0 - done,
                Schedule::Cosine => 0.5 * (1.0 + (PI * done).cos()),
            }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first one.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        check_learning_rate("learning_rate", self.learning_rate)?;
        OutOfRange::check("warmup", self.warmup, self.warmup >= 0.0, "at least 0")?;
        let check = |name: &str, found: f32, fine, what: &str| OutOfRange::check(name, found.into(), fine, what);
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            check(name, beta, (0.0..1.0).contains(&beta), "at least 0 and below 1")?;
        }
        check("epsilon", self.epsilon, self.epsilon > 0.0, "positive")?;
        check("weight_decay", self.weight_decay, (0.0..=1.0).contains(&self.weight_decay), "between 0 and 1")?;
        check("max_gradient_norm", self.max_gradient_norm, self.max_gradient_norm >= 0.0, "at least 0")
    }
}

/// Checks a learning rate.
///
/// # Errors
/// [`OutOfRange`] under this name.
pub(super) fn check_learning_rate(name: &str, rate: f64) -> Result<(), OutOfRange> {
    OutOfRange::check(name, rate, rate > 0.0 && rate <= MOST_LEARNING_RATE, "positive and at most 100")
}

/// Adafactor's ε₁, added to squared gradients.
const ADAFACTOR_EPSILON: f32 = 1e-30;
/// Adafactor's d: largest root mean square of an update.
const ADAFACTOR_THRESHOLD: f32 = 1.0;
/// Adafactor's decay of second moments: 1 − t^−0.8.
const ADAFACTOR_DECAY: f64 = 0.8;
/// RMSprop's smoothing, PyTorch's default.
const RMSPROP_SMOOTHING: f32 = 0.99;

impl Optimizer {
    /// One step on `parameters`, which have no gradients of their own. Returns the norm of all gradients before they
    /// were scaled.
    ///
    /// A vector is a parameter of one row; it is not decayed.
    pub fn step(
        &mut self,
        config: &OptimizerConfig,
        learning_rate: f64,
        parameters: Vec<&mut Tensor<2>>,
        gradients: Vec<Tensor<2>>,
    ) -> f64 {
        assert_eq!(parameters.len(), gradients.len(), "there is a gradient for every parameter");
        if self.moments.is_empty() {
            self.moments = gradients.iter().map(|gradient| config.fresh_moments(gradient)).collect();
        }
        self.steps += 1;
        let device = gradients.first().expect("something is trained").device();
        let zero: Tensor<1> = constant(&[0.0], [1], &device);
        // One partial sum for each parameter, added in the order of the parameters, with any number of threads.
        let squares: Vec<f64> = gradients
            .iter()
            .map(|gradient| f64::from(to_host(fused::add_squares(gradient.clone(), zero.clone()))[0]))
            .collect();
        let norm = squares.iter().sum::<f64>().sqrt();
        let max = f64::from(config.max_gradient_norm);
        let scale = if max > 0.0 { (max / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let number = self.steps;
        let placeholder: Tensor<2> = zero.clone().unsqueeze();
        let moments: Vec<_> = self.moments.iter_mut().collect();
        parameters.into_par_iter().zip(gradients).zip(moments).for_each(|((parameter, gradient), moments)| {
            let gradient = if scale < 1.0 { gradient * scale } else { gradient };
            let decay = if parameter.dims()[0] > 1 { config.weight_decay } else { 0.0 };
            // Taken out rather than cloned: a tensor with one owner is updated in place.
            let take = |tensor: &mut Tensor<2>| std::mem::replace(tensor, placeholder.clone());
            let (value, both) = (take(parameter), moments.each_mut().map(take));
            let step = Step { learning_rate, number, decay };
            (*parameter, *moments) = config.update(value, gradient, both, step);
        });
        norm
    }
}

/// Numbers of one step on one parameter.
#[derive(Debug, Clone, Copy)]
struct Step {
    learning_rate: f64,
    number: u64,
    decay: f32,
}

impl OptimizerConfig {
    fn fresh_moments(&self, gradient: &Tensor<2>) -> [Tensor<2>; 2] {
        let [rows, columns] = gradient.dims();
        let zeros = |shape: [usize; 2]| Tensor::zeros(shape, &gradient.device());
        match self.kind {
            OptimizerKind::Adamw => [zeros([rows, columns]), zeros([rows, columns])],
            OptimizerKind::Rmsprop => [zeros([1, 1]), zeros([rows, columns])],
            // A vector's second moments are not factored.
            OptimizerKind::Adafactor if rows == 1 => [zeros([1, 1]), zeros([rows, columns])],
            OptimizerKind::Adafactor => [zeros([rows, 1]), zeros([1, columns])],
        }
    }

    /// The parameter and its moments after a step.
    fn update(
        &self,
        parameter: Tensor<2>,
        gradient: Tensor<2>,
        [first, second]: [Tensor<2>; 2],
        step: Step,
    ) -> (Tensor<2>, [Tensor<2>; 2]) {
        let kept = (1.0 - step.learning_rate * f64::from(step.decay)) as f32;
        match self.kind {
            OptimizerKind::Adamw => {
                let config = AdamConfig {
                    beta1: self.beta1,
                    beta2: self.beta2,
                    epsilon: self.epsilon,
                    weight_decay: step.decay,
                };
                let squares = constant(&[0.0], [1], &gradient.device());
                let (learning_rate, number) = (step.learning_rate, step.number);
                let step = AdamStep { config, learning_rate, number, max_norm: None };
                let [parameter, first, second] = fused::adam([parameter, gradient, first, second], squares, step);
                (parameter, [first, second])
            }
            OptimizerKind::Rmsprop => {
                let second = second * RMSPROP_SMOOTHING + gradient.clone().square() * (1.0 - RMSPROP_SMOOTHING);
                let update = gradient / (second.clone().sqrt() + self.epsilon);
                (parameter * kept - update * step.learning_rate, [first, second])
            }
            OptimizerKind::Adafactor => {
                let [rows, columns] = gradient.dims();
                let decay = (1.0 - (step.number as f64).powf(-ADAFACTOR_DECAY)) as f32;
                let squares = gradient.clone().square() + ADAFACTOR_EPSILON;
                let (update, moments) = if rows == 1 {
                    let second = second * decay + squares * (1.0 - decay);
                    (gradient / second.clone().sqrt(), [first, second])
                } else {
                    let of_rows = first * decay + squares.clone().mean_dim(1) * (1.0 - decay);
                    let of_columns = second * decay + squares.mean_dim(0) * (1.0 - decay);
                    let scaled_rows = (of_rows.clone() / of_rows.clone().mean_dim(0)).sqrt().recip();
                    let scaled_columns = of_columns.clone().sqrt().recip();
                    (gradient * scaled_rows * scaled_columns, [of_rows, of_columns])
                };
                let root: Tensor<2> = (update.clone().square().mean() as Tensor<1>).sqrt().unsqueeze();
                let update = update / (root / ADAFACTOR_THRESHOLD).clamp_min(1.0).expand([rows, columns]);
                (parameter * kept - update * step.learning_rate, moments)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{Optimizer, OptimizerConfig, OptimizerKind, Schedule};
    use crate::nn::{constant, to_host};

    /// Three steps on a matrix and a vector with gradients p³ and p − 1.
    fn three_steps(config: &OptimizerConfig) -> [Vec<f32>; 2] {
        let device = Device::flex();
        let mut matrix = constant(&[1.0, -2.0, 0.5, 1.5, 0.25, -0.75], [2, 3], &device);
        let mut vector = constant(&[0.5, -1.0], [1, 2], &device);
        let mut optimizer = Optimizer::default();
        for _ in 0..3 {
            let gradients = vec![matrix.clone().powi_scalar(3), vector.clone() - 1.0];
            optimizer.step(config, 0.1, vec![&mut matrix, &mut vector], gradients);
        }
        [to_host(matrix), to_host(vector)]
    }

    #[test]
    fn three_steps_agree_with_pytorch_and_transformers() {
        let plain = OptimizerConfig { max_gradient_norm: 0.0, ..OptimizerConfig::default() };
        let cases = [
            (OptimizerConfig { weight_decay: 0.3, max_gradient_norm: 1.0, ..plain }, ADAMW),
            (OptimizerConfig { kind: OptimizerKind::Rmsprop, ..plain }, RMSPROP),
            (OptimizerConfig { kind: OptimizerKind::Adafactor, ..plain }, ADAFACTOR),
        ];
        for (config, (matrix, vector)) in cases {
            let found = three_steps(&config);
            for (found, expected) in found[0].iter().chain(&found[1]).zip(matrix.iter().chain(&vector)) {
                assert!((found - expected).abs() < 3e-6, "{config:?}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn schedules_are_those_of_transformers() {
        let at = |schedule, warmup, step| {
            OptimizerConfig { schedule, warmup, learning_rate: 1.0, ..OptimizerConfig::default() }
                .learning_rate(step, 10)
        };
        assert_eq!([0, 1, 2, 6, 9].map(|step| at(Schedule::Linear, 2.0, step)), [0.0, 0.5, 1.0, 0.5, 0.125]);
        assert_eq!([0, 1, 2, 9].map(|step| at(Schedule::Constant, 0.2, step)), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!([0, 5].map(|step| at(Schedule::Cosine, 0.0, step)), [1.0, 0.5]);
        assert!((at(Schedule::Cosine, 0.0, 9) - 0.024_471_741_852_423_234).abs() < 1e-12);
    }

    // PyTorch 2.15's AdamW (eps 1e-8, decay on the matrix only, clip_grad_norm_ 1) and RMSprop, and transformers 5.23's
    // Adafactor (scale_parameter=False, relative_step=False, warmup_init=False), float32.
    const ADAMW: ([f32; 6], [f32; 2]) =
        ([0.624_817_8, -1.5343066, 0.18283787, 1.0786998, -0.010_642_555, -0.4004114], [0.800_012_8, -0.699_890_26]);
    const RMSPROP: ([f32; 6], [f32; 2]) =
        ([5.960_464_5e-8, -0.791_618, 0.1570057, 0.43316838, 0.21245283, 0.18975092], [1.0763872, 0.690_312_6]);
    const ADAFACTOR: ([f32; 6], [f32; 2]) =
        ([0.916_921_8, -1.7513227, 0.41516116, 0.96745074, 0.24850741, -0.3442663], [0.768_377_4, -0.706_661_7]);
}
