//! Mixing the weights of networks that were fine-tuned from one initialisation: Rewarded Soups (Ramé et al. 2023, arXiv
//! 2306.04488), and the other ways to merge in use. Used by agents and by language models.
//!
//! Notation: θ_i are the models' weights, θ_0 those they were fine-tuned from, τ_i = θ_i − θ_0 their task vectors, w_i
//! weights. Every tensor is merged on its own. Where mergekit and a paper differ, both are here under their own names.

use rand::RngExt as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::stream;

/// How to merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Σ w_i θ_i: a rewarded soup.
    Linear,
    /// Spherical interpolation of two (Shoemake 1985), a tensor taken as one vector: the angle is that of the
    /// directions, what is mixed the vectors themselves, as in mergekit.
    Slerp,
    /// θ_0 + λ Σ w_i τ_i (Ilharco et al. 2022, arXiv 2212.04089).
    TaskArithmetic,
    /// Of each τ_i the largest entries, of these the ones of the elected sign, averaged (Yadav et al. 2023, arXiv
    /// 2306.01708).
    Ties,
    /// Of each τ_i a random share, rescaled (Yu et al. 2023, arXiv 2311.03099).
    Dare,
    /// DARE's random share, of these the entries of the elected sign.
    DareTies,
}

/// What makes up for the entries that DARE drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rescale {
    /// The rest is divided by the share that is kept: the paper.
    Density,
    /// The rest is scaled to the sum of absolute values there was before: mergekit.
    L1,
}

/// How an entry's sign is elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignElection {
    /// The sign of Σ w_i τ_i: mergekit.
    Weighted,
    /// The sign of Σ τ_i: the paper.
    Unweighted,
}

/// A way to merge and its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeConfig {
    /// How.
    pub method: Method,
    /// One for each model. Of spherical interpolation the second is how far it goes from the first model to the second.
    pub weights: Vec<f64>,
    /// Whether the sum is divided by the sum of the weights (by that of the agreeing ones where signs are elected).
    /// Without it linear and TIES do, as in mergekit, and the others do not.
    pub normalize: Option<bool>,
    /// λ: what the merged task vector is multiplied with.
    pub lambda: f64,
    /// Share of each task vector that is kept.
    pub density: f64,
    /// DARE's.
    pub rescale: Rescale,
    /// That of TIES, and of DARE with signs.
    pub signs: SignElection,
    /// Of DARE's choice.
    pub seed: u64,
}

/// A way to merge that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct MergeError {
    field: &'static str,
    problem: String,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Linear, Self::Slerp, Self::TaskArithmetic, Self::Ties, Self::Dare, Self::DareTies];

    /// As configurations spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Slerp => "slerp",
            Self::TaskArithmetic => "task-arithmetic",
            Self::Ties => "ties",
            Self::Dare => "dare",
            Self::DareTies => "dare-ties",
        }
    }

    /// Whether it starts from what the models were fine-tuned from.
    #[must_use]
    pub fn needs_base(self) -> bool {
        !matches!(self, Self::Linear | Self::Slerp)
    }
}

impl Default for MergeConfig {
    fn default() -> Self {
        Self {
            method: Method::Linear,
            weights: Vec::new(),
            normalize: None,
            lambda: 1.0,
            density: 0.5,
            rescale: Rescale::Density,
            signs: SignElection::Weighted,
            seed: 0,
        }
    }
}

impl MergeConfig {
    /// Checks the numbers against the number of models.
    ///
    /// # Errors
    /// Naming the first one that cannot be.
    pub fn validate(&self, models: usize, has_base: bool) -> Result<(), MergeError> {
        let wrong = |field, problem: String| Err(MergeError { field, problem });
        if models == 0 {
            return wrong("models", "there are none: give one or more".to_owned());
        }
        if self.weights.len() != models {
            return wrong(
                "weights",
                format!("there are {} for {models} models: must be one for each", self.weights.len()),
            );
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite()) {
            return wrong("weights", format!("{weight} is not a number"));
        }
        if self.method == Method::Slerp {
            if models != 2 {
                return wrong("models", format!("there are {models}: spherical interpolation is between two"));
            }
            let [first, second] = [self.weights[0], self.weights[1]];
            if (first + second - 1.0).abs() > SUM_TOLERANCE || !(0.0..=1.0).contains(&second) {
                return wrong(
                    "weights",
                    format!("{first} and {second}: must be between 0 and 1 and sum to 1 for slerp"),
                );
            }
        }
        if self.normalizes() && self.method == Method::Linear && self.weights.iter().sum::<f64>().abs() < SUM_TOLERANCE
        {
            return wrong(
                "weights",
                "their sum is 0, which nothing can be divided by: set normalize = false".to_owned(),
            );
        }
        if self.method.needs_base() && !has_base {
            return wrong(
                "base",
                "is missing: this method starts from what the models were fine-tuned from".to_owned(),
            );
        }
        if !(self.density > 0.0 && self.density <= 1.0) {
            return wrong("density", format!("{}: must be above 0 and at most 1", self.density));
        }
        match self.lambda.is_finite() {
            true => Ok(()),
            false => wrong("lambda", format!("{}: must be a number", self.lambda)),
        }
    }

    fn normalizes(&self) -> bool {
        self.normalize.unwrap_or(matches!(self.method, Method::Linear | Method::Ties))
    }
}

/// Weights that differ from a sum of one by less are taken to sum to one: more than rounding, less than a choice.
pub const SUM_TOLERANCE: f64 = 1e-6;

/// Directions whose cosine is beyond this are mixed on the straight line, as in mergekit: the sine would be too small to
/// divide by.
const PARALLEL: f64 = 0.9995;

/// Entries that are computed together: enough to share among threads, and the same whatever their number.
const CHUNK: usize = 1 << 16;

/// All weights that are multiples of 1/steps and sum to 1, the first objective's growing last: of two objectives from
/// (0, 1) to (1, 0).
#[must_use]
pub fn grid(objectives: usize, steps: usize) -> Vec<Vec<f64>> {
    let mut all: Vec<Vec<usize>> = vec![Vec::new()];
    for left in (0..objectives).rev() {
        let more = |begun: Vec<usize>| -> Vec<Vec<usize>> {
            let rest = steps - begun.iter().sum::<usize>();
            // The last takes what is left.
            let range = if left == 0 { rest..=rest } else { 0..=rest };
            range.map(|count| [begun.as_slice(), &[count]].concat()).collect()
        };
        all = all.into_iter().flat_map(more).collect();
    }
    let shares = |counts: Vec<usize>| counts.into_iter().map(|count| count as f64 / steps as f64).collect();
    all.into_iter().map(shares).collect()
}

/// Merges one tensor of several models. `name` is the tensor's, and part of DARE's random choice.
///
/// The result does not depend on the number of threads.
///
/// # Shapes
/// - `base`, every one of `models`, and what is returned: `[entries]`
///
/// # Panics
/// When lengths differ, or the configuration does not fit the models ([`MergeConfig::validate`]).
#[must_use]
pub fn merge(config: &MergeConfig, name: &str, base: Option<&[f32]>, models: &[&[f32]]) -> Vec<f32> {
    let entries = models[0].len();
    assert!(models.iter().chain(&base).all(|tensor| tensor.len() == entries), "all models have the same shapes");
    assert_eq!(config.weights.len(), models.len(), "there is a weight for each model");
    let weights = &config.weights;
    match config.method {
        Method::Linear => {
            let divisor = if config.normalizes() { weights.iter().sum() } else { 1.0 };
            mixed(models, weights, |_, mixed| mixed / divisor)
        }
        Method::Slerp => {
            let shares = slerp_shares(models[0], models[1], weights[1]);
            mixed(models, &shares, |_, mixed| mixed)
        }
        Method::TaskArithmetic => {
            let base = base.expect("the configuration was validated: this method has a base");
            let divisor = if config.normalizes() { weights.iter().sum() } else { 1.0 };
            let total: f64 = weights.iter().sum();
            mixed(models, weights, |i, mixed| {
                let origin = f64::from(base[i]);
                origin + config.lambda * (mixed - total * origin) / divisor
            })
        }
        Method::Ties | Method::Dare | Method::DareTies => {
            let base = base.expect("the configuration was validated: this method has a base");
            let sparse: Vec<Vec<f32>> = models
                .par_iter()
                .enumerate()
                .map(|(model, weights)| {
                    let mut task = task_vector(base, weights);
                    match config.method {
                        Method::Ties => keep_largest(&mut task, config.density),
                        _ => keep_random(&mut task, config, name, model),
                    }
                    task
                })
                .collect();
            let sparse: Vec<&[f32]> = sparse.iter().map(Vec::as_slice).collect();
            by_entry(entries, |i| f64::from(base[i]) + config.lambda * combined(config, &sparse, i))
        }
    }
}

/// The two shares of spherical interpolation: sin((1 − t)Ω)/sin Ω and sin(tΩ)/sin Ω, where Ω is the angle between the
/// vectors.
fn slerp_shares(a: &[f32], b: &[f32], t: f64) -> [f64; 2] {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    let cosine = dot(a, b) / norms;
    // No angle with nothing, either.
    if cosine.is_nan() || cosine.abs() > PARALLEL {
        return [1.0 - t, t];
    }
    let angle = cosine.acos();
    [((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
}

/// τ = θ − θ_0. In f32 the difference of near numbers is exact.
fn task_vector(base: &[f32], model: &[f32]) -> Vec<f32> {
    model.iter().zip(base).map(|(model, base)| model - base).collect()
}

/// Keeps the entries of the largest magnitude, of equal ones the first; the others become 0.
fn keep_largest(task: &mut [f32], density: f64) {
    let kept = (density * task.len() as f64) as usize;
    if kept >= task.len() {
        return;
    }
    if kept == 0 {
        task.fill(0.0);
        return;
    }
    // Of numbers that are not negative the bits have the numbers' order, and are compared by one instruction.
    let mut magnitudes: Vec<u32> = task.iter().map(|value| value.abs().to_bits()).collect();
    let (_, least, _) = magnitudes.select_nth_unstable_by(kept - 1, |a, b| b.cmp(a));
    let least = f32::from_bits(*least);
    // Of those at the border as many as there is room for.
    let mut room = kept - task.iter().filter(|value| value.abs() > least).count();
    for value in task {
        let at_border = value.abs() == least;
        if value.abs() < least || (at_border && room == 0) {
            *value = 0.0;
        } else if at_border {
            room -= 1;
        }
    }
}

/// Keeps each entry with the probability `density`, and rescales the rest.
fn keep_random(task: &mut [f32], config: &MergeConfig, name: &str, model: usize) {
    let absolute = |task: &[f32]| task.iter().map(|value| f64::from(value.abs())).sum::<f64>();
    let before = absolute(task);
    task.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let mut rng = stream(config.seed, &format!("dare {model} {name}"), chunk as u64);
        values.iter_mut().filter(|_| rng.random::<f64>() >= config.density).for_each(|value| *value = 0.0);
    });
    let after = absolute(task);
    let scale = match config.rescale {
        Rescale::Density => 1.0 / config.density,
        // Nothing was kept, or there was nothing.
        Rescale::L1 if after == 0.0 => 1.0,
        Rescale::L1 => before / after,
    };
    task.par_chunks_mut(CHUNK).for_each(|values| {
        values.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
    });
}

/// The task vectors' entry `i` merged: Σ w_i τ_i over all of them, or over those of the elected sign (0 elects +).
fn combined(config: &MergeConfig, tasks: &[&[f32]], i: usize) -> f64 {
    let weights = &config.weights;
    let elects = config.method != Method::Dare;
    let all = match config.signs {
        SignElection::Weighted => sum(tasks, weights, i),
        SignElection::Unweighted => tasks.iter().map(|task| f64::from(task[i])).sum(),
    };
    let positive = all >= 0.0;
    let (mut mixed, mut agreeing) = (0.0, 0.0);
    for (task, weight) in tasks.iter().zip(weights) {
        let value = f64::from(task[i]);
        let vote = match config.signs {
            SignElection::Weighted => weight * value,
            SignElection::Unweighted => value,
        };
        if !elects || (vote > 0.0) == positive && vote != 0.0 {
            mixed += weight * value;
            agreeing += weight;
        }
    }
    match config.normalizes() && agreeing != 0.0 {
        true => mixed / agreeing,
        false => mixed,
    }
}

fn sum(tensors: &[&[f32]], weights: &[f64], i: usize) -> f64 {
    tensors.iter().zip(weights).map(|(tensor, weight)| weight * f64::from(tensor[i])).sum()
}

/// Every entry of a merged tensor, from its number and Σ w_i θ_i.
fn mixed(models: &[&[f32]], weights: &[f64], value: impl Fn(usize, f64) -> f64 + Sync) -> Vec<f32> {
    /// Entries that are summed side by side: they stay in the nearest cache.
    const BLOCK: usize = 1024;
    let mut merged = vec![0.0; models[0].len()];
    merged.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
        let start = block * BLOCK;
        let mut sums = [0.0; BLOCK];
        for (model, weight) in models.iter().zip(weights) {
            for (sum, entry) in sums.iter_mut().zip(&model[start..start + values.len()]) {
                *sum += weight * f64::from(*entry);
            }
        }
        for (i, (slot, sum)) in values.iter_mut().zip(sums).enumerate() {
            *slot = value(start + i, sum) as f32;
        }
    });
    merged
}

fn by_entry(entries: usize, value: impl Fn(usize) -> f64 + Sync) -> Vec<f32> {
    let mut merged = vec![0.0; entries];
    merged.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        values.iter_mut().enumerate().for_each(|(i, slot)| *slot = value(chunk * CHUNK + i) as f32);
    });
    merged
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{MergeConfig, Method, Rescale, SignElection, grid, merge};
    use crate::fixtures::{json, own, shared};

    fn of(method: Method, weights: &[f64]) -> MergeConfig {
        MergeConfig { method, weights: weights.to_vec(), ..MergeConfig::default() }
    }

    fn assert_close(name: &str, found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= 1e-6 * expected.abs().max(0.1), "{name}: {found}, expected {expected}");
        }
    }

    /// Tensors are summed in blocks on several threads: every entry is that of its own place, the last block's too.
    #[test]
    fn entries_of_long_tensors_keep_their_places() {
        let tensor = |scale: f32| -> Vec<f32> { (0..5000).map(|i| (i as f32 * scale).sin()).collect() };
        let (a, b, base) = (tensor(0.7), tensor(1.3), tensor(0.1));
        let config = of(Method::Linear, &[1.0, 3.0]);
        let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 0.25 * f64::from(*a) + 0.75 * f64::from(*b)).collect();
        assert_close("linear", &merge(&config, "t", None, &[&a, &b]), &expected);
        let config = of(Method::TaskArithmetic, &[0.5, 0.25]);
        let expected: Vec<f64> = (0..a.len())
            .map(|i| {
                let [a, b, base] = [a[i], b[i], base[i]].map(f64::from);
                base + 0.5 * (a - base) + 0.25 * (b - base)
            })
            .collect();
        assert_close("task arithmetic", &merge(&config, "t", Some(&base), &[&a, &b]), &expected);
    }

    #[test]
    fn weights_are_all_shares_that_sum_to_one() {
        assert_eq!(grid(2, 2), [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]);
        let three = grid(3, 4);
        assert_eq!(three.len(), 15);
        assert!(three.iter().all(|weights| weights.iter().sum::<f64>() == 1.0));
        assert_eq!(grid(4, 1).len(), 4);
    }

    #[test]
    fn every_method_merges_as_counted_by_hand() {
        let base = [1.0, 1.0, 1.0, 1.0];
        let (a, b) = ([3.0, 1.5, 0.0, 1.0], [2.0, -1.0, 0.5, 1.25]);
        let models: [&[f32]; 2] = [&a, &b];
        let merged = |config: &MergeConfig| merge(config, "weight", Some(&base), &models);
        assert_eq!(merged(&of(Method::Linear, &[0.25, 0.75])), [2.25, -0.375, 0.375, 1.1875]);
        assert_eq!(merged(&of(Method::Linear, &[1.0, 3.0])), [2.25, -0.375, 0.375, 1.1875]);
        let summed = MergeConfig { normalize: Some(false), ..of(Method::Linear, &[1.0, 1.0]) };
        assert_eq!(merged(&summed), [5.0, 0.5, 0.5, 2.25]);
        // Task vectors (2, ½, −1, 0) and (1, −2, −½, ¼).
        let halved = MergeConfig { lambda: 0.5, ..of(Method::TaskArithmetic, &[1.0, 1.0]) };
        assert_eq!(merged(&halved), [2.5, 0.25, 0.25, 1.125]);
        // The larger halves are (2, 0, −1, 0) and (1, −2, 0, 0), and no two entries disagree.
        assert_eq!(merged(&of(Method::Ties, &[1.0, 1.0])), [2.5, -1.0, 0.0, 1.0]);
        // All of both: the second entry's signs differ, and −2 wins.
        let all = MergeConfig { density: 1.0, ..of(Method::Ties, &[1.0, 1.0]) };
        assert_eq!(merged(&all), [2.5, -1.0, 0.25, 1.25]);
        // With weights 5 and 1 the weighted sum 5·½ − 2 elects +; unweighted −2 still wins.
        let weighted = MergeConfig { density: 1.0, ..of(Method::Ties, &[5.0, 1.0]) };
        assert_eq!(merged(&weighted)[1], 1.5);
        assert_eq!(merged(&MergeConfig { signs: SignElection::Unweighted, ..weighted })[1], -1.0);
        // Perpendicular vectors of lengths 2 and 1, a third of the way: sin 60° and sin 30°.
        let third = of(Method::Slerp, &[2.0 / 3.0, 1.0 / 3.0]);
        let mixed = merge(&third, "weight", None, &[&[2.0, 0.0], &[0.0, 1.0]]);
        assert_close("slerp", &mixed, &[3.0_f64.sqrt(), 0.5]);
        // No angle with nothing.
        assert_eq!(merge(&of(Method::Slerp, &[0.5, 0.5]), "weight", None, &[&[2.0, 0.0], &[0.0, 0.0]]), [1.0, 0.0]);
    }

    #[test]
    fn dare_keeps_a_share_and_makes_up_for_the_rest() {
        let base = vec![0.0; 200_000];
        let model: Vec<f32> = (0..200_000).map(|i| (i % 7) as f32 - 2.0).collect();
        let merged = |config: &MergeConfig, name: &str| merge(config, name, Some(&base), &[&model]);
        for (rescale, exact) in [(Rescale::Density, false), (Rescale::L1, true)] {
            let config = MergeConfig { density: 0.3, rescale, ..of(Method::Dare, &[1.0]) };
            let found = merged(&config, "weight");
            let kept: Vec<usize> = (0..200_000).filter(|&i| found[i] != 0.0).collect();
            let scales: Vec<f32> = kept.iter().map(|&i| found[i] / model[i]).collect();
            assert!(scales.iter().all(|scale| (scale - scales[0]).abs() < 1e-6));
            // One value in seven is 0.
            let share = kept.len() as f64 / (200_000.0 * 6.0 / 7.0);
            assert!((share - 0.3).abs() < 0.005, "{share}");
            let total = |values: &[f32]| values.iter().map(|value| f64::from(value.abs())).sum::<f64>();
            let ratio = total(&found) / total(&model);
            assert!((ratio - 1.0).abs() < if exact { 1e-6 } else { 0.02 }, "{rescale:?}: {ratio}");
            assert_eq!(exact, (scales[0] - 1.0 / 0.3).abs() > 1e-6, "{rescale:?}: {}", scales[0]);
            assert_eq!(merged(&config, "weight"), found);
            assert_ne!(merged(&config, "other"), found);
            assert_ne!(merged(&MergeConfig { seed: 1, ..config }, "weight"), found);
        }
        // Two that disagree everywhere: signs are elected among what was kept.
        let opposite: Vec<f32> = model.iter().map(|value| -2.0 * value).collect();
        let config = MergeConfig { density: 0.5, ..of(Method::DareTies, &[1.0, 1.0]) };
        let found = merge(&config, "weight", Some(&base), &[&model, &opposite]);
        let allowed = |i: usize| [0.0, 2.0 * model[i], 2.0 * opposite[i]].contains(&found[i]);
        assert!((0..200_000).all(allowed));
    }

    #[test]
    fn merging_does_not_depend_on_the_number_of_threads() {
        let tensor = |k: usize| (0..300_000).map(|i| ((i * k) % 101) as f32 / 7.0 - 5.0).collect::<Vec<f32>>();
        let (base, a, b) = (tensor(3), tensor(5), tensor(7));
        let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for method in Method::ALL {
            let config = of(method, &[0.4, 0.6]);
            let merged = |threads| pool(threads).install(|| merge(&config, "weight", Some(&base), &[&a, &b]));
            assert_eq!(merged(1), merged(3), "{method:?}");
        }
    }

    #[test]
    fn what_cannot_be_merged_is_refused_with_the_reason() {
        let problem = |config: MergeConfig, models: usize, has_base: bool| {
            config.validate(models, has_base).map_or_else(|error| error.to_string(), |()| String::new())
        };
        let two = |method| of(method, &[0.5, 0.5]);
        for method in Method::ALL {
            assert_eq!(problem(two(method), 2, true), "");
            assert_eq!(problem(two(method), 2, false).is_empty(), !method.needs_base(), "{method:?}");
        }
        for (config, models, expected) in [
            (two(Method::Linear), 0, "models: there are none: give one or more"),
            (two(Method::Linear), 3, "weights: there are 2 for 3 models: must be one for each"),
            (of(Method::Linear, &[0.5, f64::NAN]), 2, "weights: NaN is not a number"),
            (
                of(Method::Linear, &[1.0, -1.0]),
                2,
                "weights: their sum is 0, which nothing can be divided by: set normalize = false",
            ),
            (of(Method::Slerp, &[1.0]), 1, "models: there are 1: spherical interpolation is between two"),
            (of(Method::Slerp, &[0.5, 0.6]), 2, "weights: 0.5 and 0.6: must be between 0 and 1 and sum to 1 for slerp"),
            (MergeConfig { density: 0.0, ..two(Method::Ties) }, 2, "density: 0: must be above 0 and at most 1"),
            (MergeConfig { lambda: f64::INFINITY, ..two(Method::Ties) }, 2, "lambda: inf: must be a number"),
        ] {
            assert_eq!(problem(config, models, true), expected);
        }
    }

    fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(all) => all.iter().flat_map(numbers).collect(),
            one => vec![one.as_f64().unwrap()],
        }
    }

    /// The published formulas in float64 on small matrices.
    #[test]
    fn merges_are_those_of_the_formulas() {
        let golden = json(own("golden/losses_merge_hv.json"));
        let tensor = |name: &str| -> Vec<f32> {
            numbers(&golden["merge"][name]).into_iter().map(|value| value as f32).collect()
        };
        let [base, a, b] = ["base", "A", "B"].map(tensor);
        for (name, config) in [
            ("linear_0_3", of(Method::Linear, &[0.7, 0.3])),
            ("slerp_0_3", of(Method::Slerp, &[0.7, 0.3])),
            ("task_arith_w_0_5_0_5", of(Method::TaskArithmetic, &[0.5, 0.5])),
            ("ties_w1_1_dens0_5", of(Method::Ties, &[1.0, 1.0])),
        ] {
            let found = merge(&config, name, Some(&base), &[&a, &b]);
            assert_close(name, &found, &numbers(&golden["merge"][name]));
        }
    }

    /// The same on real checkpoints.
    #[test]
    #[ignore = "needs ../shared/data/hf and merges"]
    fn merges_of_checkpoints_are_those_of_the_formulas() {
        let (expected, folder) = (json(shared("merges/merges.json")), shared("hf"));
        let read = |name: &str, tensor: &str| -> Vec<f32> {
            let bytes = std::fs::read(folder.join(name).join("model.safetensors")).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let data = tensors.tensor(tensor).unwrap().data().to_vec();
            data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
        };
        for (name, of_tensor) in expected["tensors"].as_object().unwrap() {
            let [base, a, b] = ["llama", "llama_pertA", "llama_pertB"].map(|model| read(model, name));
            let far: Vec<f32> = base.iter().zip(&a).map(|(base, a)| 10.0 * (a - base)).collect();
            let results = of_tensor["results"].as_object().unwrap();
            let halves = |weights: &[f64]| MergeConfig { density: 0.5, ..of(Method::Ties, weights) };
            let cases: [(&str, MergeConfig, Vec<&[f32]>); 11] = [
                ("linear(B1:0.7,pertA:0.3)", of(Method::Linear, &[0.7, 0.3]), vec![&base, &a]),
                ("linear(B1:0.3,pertA:0.7)", of(Method::Linear, &[0.3, 0.7]), vec![&base, &a]),
                ("linear(pertA:0.3,pertB:0.7)", of(Method::Linear, &[0.3, 0.7]), vec![&a, &b]),
                ("slerp(B1,pertA,t=0.3)", of(Method::Slerp, &[0.7, 0.3]), vec![&base, &a]),
                ("slerp(B1,10*(pertA-B1),t=0.3)", of(Method::Slerp, &[0.7, 0.3]), vec![&base, &far]),
                ("slerp(pertA,pertB,t=0.3)", of(Method::Slerp, &[0.7, 0.3]), vec![&a, &b]),
                (
                    "task_arithmetic(base=B1,models=[pertA],w=[0.3],lambda=1)",
                    of(Method::TaskArithmetic, &[0.3]),
                    vec![&a],
                ),
                (
                    "task_arithmetic(base=B1,models=[pertA,pertB],w=[0.3,0.7],lambda=1)",
                    of(Method::TaskArithmetic, &[0.3, 0.7]),
                    vec![&a, &b],
                ),
                ("ties(base=B1,models=[pertA],w=[1],density=0.5)", halves(&[1.0]), vec![&a]),
                ("ties(base=B1,models=[pertA,pertB],w=[1,1],density=0.5)", halves(&[1.0, 1.0]), vec![&a, &b]),
                ("ties(base=B1,models=[pertA,pertB],w=[0.3,0.7],density=0.5)", halves(&[0.3, 0.7]), vec![&a, &b]),
            ];
            assert_eq!(results.len(), cases.len());
            for (case, config, models) in cases {
                let found = merge(&config, name, Some(&base), &models);
                assert_close(&format!("{name}: {case}"), &found, &numbers(&results[case]));
            }
        }
    }
}
