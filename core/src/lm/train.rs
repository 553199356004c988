//! The training loop of all stages: batches, gradients, steps, evaluation.
//!
//! A batch of examples is cut into parts of about equal length. Each part is packed and computed on its own, several at
//! a time, and the gradients of the parts are added in order. The result depends on the configuration and never on the
//! number of threads. Losses are normalised over the whole batch, so other parts change only the rounding.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{AddAssign, ControlFlow};

use burn::tensor::Tensor;
use rand::seq::SliceRandom as _;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::model::Decoder;
use super::optim::{Optimizer, OptimizerConfig};
use crate::disk::archive::{Archive, ArchiveError};
use crate::finite::NotFinite;
use crate::preference::calibration::expected_calibration_error;
use crate::preference::statistics::wilson_interval;
use crate::random::{Rng, stream};
use crate::range::OutOfRange;

/// How a stage is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the examples.
    pub epochs: f64,
    /// Steps; 0 for as many as the epochs have.
    pub steps: usize,
    /// Examples of a step.
    pub batch_size: usize,
    /// Tokens that are computed together. More tokens need more memory, and fewer calls.
    pub part_tokens: usize,
    /// Compute activations again in the backward pass rather than keep them (Chen et al. 2016, arXiv 1604.06174).
    pub gradient_checkpointing: bool,
    /// Optimiser and schedule.
    pub optimizer: OptimizerConfig,
    /// Steps between two lines of metrics.
    pub log_every: usize,
    /// Steps between two evaluations; 0 for one at the end.
    pub eval_every: usize,
    /// Steps between two checkpoints; 0 for one at the end.
    pub save_every: usize,
}

/// A stage of training: examples, and a loss of the model's last hidden states.
#[expect(clippy::len_without_is_empty, reason = "a stage without examples does not occur")]
pub trait Stage: Sync {
    /// What the loss needs in addition to the hidden states.
    type Packed;

    /// Number of examples.
    fn len(&self) -> usize;

    /// Tokens of an example.
    fn tokens(&self, example: usize) -> usize;

    /// The weight of an example in a batch's mean: 1, or its number of tokens.
    fn weight(&self, _example: usize) -> f64 {
        1.0
    }

    /// Examples as sequences.
    fn pack(&self, examples: &[usize]) -> (Batch, Self::Packed);

    /// A number that the loss of every part needs. It is computed on the whole batch first (KTO's z₀).
    fn baseline(&self, _model: &Decoder, _examples: &[usize], _part_tokens: usize) -> f64 {
        0.0
    }

    /// The loss of these examples, divided by the weight of the whole batch that they are a part of.
    ///
    /// # Shapes
    /// - `hidden`: `[batch.ids.len(), hidden]`
    fn loss(&self, model: &Decoder, hidden: Tensor<2>, packed: &Self::Packed, whole: Whole) -> Part;
}

/// The batch that a part belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Whole {
    /// Sum of its examples' weights.
    pub weight: f64,
    /// See [`Stage::baseline`].
    pub baseline: f64,
}

/// What a part of a batch adds to its loss.
#[derive(Debug)]
pub struct Part {
    /// A value whose gradient is that of the loss: `[1]`. It need not be the loss itself.
    pub objective: Tensor<1>,
    /// The metrics to log.
    pub metrics: Metrics,
}

/// Weighted means by name, and predicted answers to comparisons.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Weighted sum and sum of weights of each metric.
    sums: BTreeMap<Cow<'static, str>, [f64; 2]>,
    /// Probability that the chosen completion is preferred, as predicted and as given.
    answers: Vec<[f64; 2]>,
}

/// A model in training.
#[derive(Debug, Clone)]
pub struct Trainee {
    /// The model.
    pub model: Decoder,
    /// Its optimiser.
    pub optimizer: Optimizer,
    /// Steps taken.
    pub step: usize,
}

/// Called after each step with its examples and metrics; training ends when it returns a break.
pub type Each<'a, E> = dyn FnMut(&mut Trainee, &[usize], &Metrics) -> Result<ControlFlow<()>, E> + 'a;

/// Advice for training that has led to numbers that are not finite.
pub(super) const DIVERGED: &str =
    "training has diverged; try a smaller learning rate, a longer warm-up, or clipping gradients at a smaller norm";

/// Bins of predicted probabilities.
const CALIBRATION_BINS: usize = 10;

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 1.0,
            steps: 0,
            batch_size: 32,
            part_tokens: 1024,
            gradient_checkpointing: false,
            optimizer: OptimizerConfig::default(),
            log_every: 10,
            eval_every: 0,
            save_every: 0,
        }
    }
}

impl Metrics {
    /// Adds a value that counts `weight` in the mean.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, value: f64, weight: f64) {
        let [sum, total] = self.sums.entry(name.into()).or_default();
        *sum += value * weight;
        *total += weight;
    }

    /// Adds an answer to a comparison: the probability that the chosen completion is preferred, as predicted and as
    /// given.
    pub fn answer(&mut self, predicted: f64, given: f64) {
        self.answers.push([predicted, given]);
    }

    /// How good the predicted answers are: the number of answers but ties, a 95 % interval of the share of right
    /// predictions (Wilson), and the expected calibration error. `None` without answers; no interval if all tie.
    #[must_use]
    pub fn calibration(&self) -> Option<(usize, Option<[f64; 2]>, f64)> {
        let decided = self.answers.iter().filter(|[_, given]| *given != 0.5);
        let right = decided.clone().filter(|[predicted, given]| (predicted - 0.5) * (given - 0.5) > 0.0).count();
        let count = decided.count();
        // Which completion is called chosen means nothing, so both orders count.
        let (predicted, given): (Vec<f64>, Vec<f64>) =
            self.answers.iter().flat_map(|[p, g]| [(*p, *g), (1.0 - p, 1.0 - g)]).unzip();
        let error = expected_calibration_error(&predicted, &given, CALIBRATION_BINS)?;
        Some((count, (count > 0).then(|| wilson_interval(right, count)), error))
    }

    /// A mean; `None` if no value counts in it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.sums.get(name).filter(|[_, total]| *total != 0.0).map(|[sum, total]| sum / total)
    }

    /// All means in which a value counts.
    pub fn means(&self) -> impl Iterator<Item = (&Cow<'static, str>, f64)> {
        self.sums.iter().filter(|(_, [_, total])| *total != 0.0).map(|(name, [sum, total])| (name, sum / total))
    }

    /// Refuses means that are not finite. The loss and the gradient come first, because the others follow from them.
    ///
    /// # Errors
    /// [`NotFinite`] with the first such mean. `prefix` stands before its name, and `at` gives the time.
    pub fn check_finite(&self, prefix: &str, at: impl FnOnce() -> String) -> Result<(), NotFinite> {
        let wrong = |name: &str| self.get(name).filter(|mean| !mean.is_finite()).map(|mean| (name.to_owned(), mean));
        let first = ["loss", "loss/policy_avg", "loss/value_avg", "grad_norm", "policy/grad_norm", "value/grad_norm"];
        let found = first.into_iter().find_map(wrong);
        let found = found.or_else(|| self.means().find(|(_, mean)| !mean.is_finite()).map(|(n, m)| (n.to_string(), m)));
        match found {
            None => Ok(()),
            Some((name, found)) => {
                let what = match name.as_str() {
                    "loss" => format!("the {prefix}loss"),
                    "grad_norm" => format!("the {prefix}norm of the gradient"),
                    name => format!("the {prefix}metric '{name}'"),
                };
                Err(NotFinite { what, found, at: at(), advice: DIVERGED })
            }
        }
    }

    /// Puts the sums into a checkpoint. `prefix` stands before the names of all entries.
    pub fn save(&self, archive: &mut Archive, prefix: &str) {
        let names: Vec<&str> = self.sums.keys().map(AsRef::as_ref).collect();
        let sums: Vec<f64> = self.sums.values().flatten().copied().collect();
        archive.put(&format!("{prefix}names"), &names);
        archive.put_f64(format!("{prefix}sums"), &[names.len(), 2], &sums);
        archive.put_f64(format!("{prefix}answers"), &[self.answers.len(), 2], self.answers.as_flattened());
    }

    /// Reads the sums from a checkpoint, as [`Metrics::save`] wrote them.
    ///
    /// # Errors
    /// When an entry is missing or of another kind.
    pub fn load(archive: &Archive, prefix: &str) -> Result<Self, ArchiveError> {
        let twos = |name: &str| -> Result<Vec<[f64; 2]>, ArchiveError> {
            Ok(archive.f64_any(&format!("{prefix}{name}"))?.as_chunks::<2>().0.to_vec())
        };
        let names: Vec<String> = archive.get(&format!("{prefix}names"))?;
        Ok(Self { sums: names.into_iter().map(Cow::Owned).zip(twos("sums")?).collect(), answers: twos("answers")? })
    }
}

impl AddAssign<&Metrics> for Metrics {
    fn add_assign(&mut self, other: &Self) {
        self.answers.extend_from_slice(&other.answers);
        for (name, [sum, total]) in &other.sums {
            let mine = self.sums.entry(name.clone()).or_default();
            mine[0] += sum;
            mine[1] += total;
        }
    }
}

impl Trainee {
    /// A model before its first step.
    #[must_use]
    pub fn new(model: Decoder) -> Self {
        Self { model, optimizer: Optimizer::default(), step: 0 }
    }
}

impl TrainConfig {
    /// The number of all steps.
    #[must_use]
    pub fn total_steps(&self, examples: usize) -> usize {
        match self.steps {
            0 => (examples as f64 * self.epochs / self.batch_size as f64).ceil().max(1.0) as usize,
            steps => steps,
        }
    }

    /// The examples of a step. Each epoch has every example once, in an order of its own.
    #[must_use]
    pub fn examples(&self, seed: u64, step: usize, len: usize) -> Vec<usize> {
        let start = step * self.batch_size;
        let mut order: (usize, Vec<usize>) = (usize::MAX, Vec::new());
        let mut example = |position: usize| {
            let epoch = position / len;
            if order.0 != epoch {
                order = (epoch, (0..len).collect());
                order.1.shuffle(&mut stream(seed, "order", epoch as u64));
            }
            order.1[position % len]
        };
        (start..start + self.batch_size).map(&mut example).collect()
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first one.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        self.optimizer.validate()?;
        for (name, value) in
            [("batch_size", self.batch_size), ("part_tokens", self.part_tokens), ("log_every", self.log_every)]
        {
            OutOfRange::check(name, value as f64, value > 0, "a whole number from 1 on")?;
        }
        OutOfRange::check("epochs", self.epochs, self.epochs > 0.0, "positive")
    }
}

/// One step of training on these examples. The metrics hold the stage's own, `grad_norm` and `learning_rate`.
///
/// # Errors
/// [`NotFinite`] for a loss, a gradient or another metric. The trainee is of no use then.
pub fn step<S: Stage>(
    trainee: &mut Trainee,
    stage: &S,
    config: &TrainConfig,
    examples: &[usize],
    total_steps: usize,
    seed: u64,
) -> Result<Metrics, NotFinite> {
    let whole = whole(&trainee.model, stage, examples, config.part_tokens);
    let parts = cut(|example| stage.tokens(example), examples, config.part_tokens);
    let of_part = |i: usize| {
        let mut rng = stream(seed, &format!("dropout-{i}"), trainee.step as u64);
        gradients(&trainee.model, stage, &parts[i], whole, config.gradient_checkpointing, &mut rng)
    };
    let (mut metrics, mut sum) = (Metrics::default(), Vec::new());
    // As many parts at a time as there are threads: all parts at once would hold all their gradients in memory.
    let indices: Vec<usize> = (0..parts.len()).collect();
    for indices in indices.chunks(rayon::current_num_threads()) {
        let done: Vec<_> = indices.par_iter().map(|&i| of_part(i)).collect();
        for (gradients, of_part) in done {
            metrics += &of_part;
            add(&mut sum, gradients);
        }
    }
    let sum = sum.into_iter().zip(trainee.model.trained_mut());
    let sum = sum.map(|(sum, tensor)| sum.unwrap_or_else(|| tensor.zeros_like())).collect();
    let learning_rate = config.optimizer.learning_rate(trainee.step, total_steps);
    let Trainee { model, optimizer, .. } = trainee;
    let norm = optimizer.step(&config.optimizer, learning_rate, model.trained_mut(), sum);
    trainee.step += 1;
    metrics.add("grad_norm", norm, 1.0);
    metrics.add("learning_rate", learning_rate, 1.0);
    metrics.check_finite("", || format!("step {}", trainee.step))?;
    Ok(metrics)
}

/// Takes the remaining steps of `total`. After each step, `each` receives the trainee, the step's examples and its
/// metrics. If it returns a break before the last step, training ends there, and a break is returned.
///
/// `batch` gives the examples of a step by its number from 0. All random draws depend only on `seed` and that number,
/// so a trainee from a checkpoint goes on as if it had not been saved.
///
/// # Errors
/// As [`step`], and the errors of `each`.
pub fn run<S: Stage, E: From<NotFinite>>(
    trainee: &mut Trainee,
    stage: &S,
    config: &TrainConfig,
    total: usize,
    batch: &dyn Fn(usize) -> Vec<usize>,
    seed: u64,
    each: &mut Each<'_, E>,
) -> Result<ControlFlow<()>, E> {
    while trainee.step < total {
        let examples = batch(trainee.step);
        let metrics = step(trainee, stage, config, &examples, total, seed)?;
        if each(trainee, &examples, &metrics)?.is_break() && trainee.step < total {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The stage's metrics on these examples, without training.
#[must_use]
pub fn evaluate<S: Stage>(model: &Decoder, stage: &S, examples: &[usize], part_tokens: usize) -> Metrics {
    let whole = whole(model, stage, examples, part_tokens);
    let of_part = |examples: &Vec<usize>| {
        let (batch, packed) = stage.pack(examples);
        stage.loss(model, model.hidden(&batch, None), &packed, whole).metrics
    };
    let mut metrics = Metrics::default();
    let done: Vec<Metrics> =
        cut(|example| stage.tokens(example), examples, part_tokens).par_iter().map(of_part).collect();
    done.iter().for_each(|of_part| metrics += of_part);
    metrics
}

/// The batch that these examples make up.
pub(super) fn whole<S: Stage>(model: &Decoder, stage: &S, examples: &[usize], part_tokens: usize) -> Whole {
    Whole {
        weight: examples.iter().map(|&example| stage.weight(example)).sum(),
        baseline: stage.baseline(model, examples, part_tokens),
    }
}

/// Cuts a batch into parts of about equal size, of about `tokens` tokens or fewer (at most half an example more). More
/// than two parts are a multiple of four, so that two or four threads have equal shares of the work.
pub fn cut(lengths: impl Fn(usize) -> usize, examples: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let total: usize = examples.iter().map(|&example| lengths(example)).sum();
    let count = match total.div_ceil(tokens) {
        0 => 1,
        few @ 1..=2 => few,
        many => many.next_multiple_of(4),
    };
    let mut parts = vec![Vec::new(); count];
    let mut before = 0;
    for &example in examples {
        // An example belongs to the part that its middle falls into.
        let length = lengths(example);
        let middle = before + length / 2;
        parts[(middle * count / total.max(1)).min(count - 1)].push(example);
        before += length;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Gradients of all trained parameters, and the part's metrics.
pub(super) fn gradients<S: Stage>(
    model: &Decoder,
    stage: &S,
    examples: &[usize],
    whole: Whole,
    checkpointing: bool,
    rng: &mut Rng,
) -> (Vec<Option<Tensor<2>>>, Metrics) {
    let (batch, packed) = stage.pack(examples);
    let tracked = model.tracked();
    if !checkpointing {
        let hidden = tracked.hidden(&batch, Some(rng));
        let Part { objective, metrics } = stage.loss(&tracked, hidden, &packed, whole);
        return (tracked.gradients(&mut objective.backward()), metrics);
    }

    // Forward without gradients, keeping what goes into each block.
    let layout = model.attention_layout(&batch);
    let streams: Vec<Rng> = model.layout.blocks.iter().scan(rng, |rng, _| Some(fork(rng))).collect();
    let mut inputs = vec![model.embed(&batch)];
    for (block, rng) in model.layout.blocks.iter().zip(&streams) {
        let input = inputs.last().expect("the embedding is the first").clone();
        inputs.push(model.block(block, input, &layout, Some(&mut rng.clone())));
    }
    // Backward, block by block: each block is computed again, and differentiated with the gradient from above.
    let mut sum = Vec::new();
    let leaf = |tensor: Tensor<2>| tensor.autodiff().require_grad();
    let last = leaf(inputs.pop().expect("there is one more than there are blocks"));
    let Part { objective, metrics } = stage.loss(&tracked, tracked.normalise_last(last.clone()), &packed, whole);
    let mut gradients = objective.backward();
    let mut above = last.grad_remove(&mut gradients).unwrap_or_else(|| last.inner().zeros_like());
    add(&mut sum, tracked.gradients(&mut gradients));
    for ((block, rng), input) in model.layout.blocks.iter().zip(&streams).zip(inputs.iter()).rev() {
        let tracked = model.tracked();
        let input = leaf(input.clone());
        let output = tracked.block(block, input.clone(), &layout, Some(&mut rng.clone()));
        let mut gradients = (output * above).sum().backward();
        above = input.grad_remove(&mut gradients).expect("the input requires a gradient");
        add(&mut sum, tracked.gradients(&mut gradients));
    }
    if model.adapters.is_none() {
        let tracked = model.tracked();
        let mut gradients = (tracked.embed(&batch) * above).sum().backward();
        add(&mut sum, tracked.gradients(&mut gradients));
    }
    (sum, metrics)
}

/// Adds gradients to sums; `None` stands for a gradient of 0.
fn add(sum: &mut Vec<Option<Tensor<2>>>, gradients: Vec<Option<Tensor<2>>>) {
    sum.resize(gradients.len(), None);
    for (sum, gradient) in sum.iter_mut().zip(gradients) {
        *sum = match (sum.take(), gradient) {
            (Some(sum), Some(gradient)) => Some(sum + gradient),
            (sum, gradient) => sum.or(gradient),
        };
    }
}

/// A block's own generator, so that the block can draw the same numbers twice.
fn fork(rng: &mut Rng) -> Rng {
    use rand::SeedableRng as _;
    Rng::from_rng(rng)
}
