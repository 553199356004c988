//! Fits the reward ensemble to comparisons: Christiano et al. 2017, eq. 1 and the modifications of §2.2.3.

use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::RngExt as _;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use super::ensemble::{Ensemble, FitTarget, Member, RewardConfig};
use crate::finite;
use crate::nn::{Mlp, constant, to_host};
use crate::preference::{Likelihood, calibration};
use crate::random::stream;

/// A comparison as the fit sees it: inputs of both segments, and an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct FitExample {
    /// Number of the query; decides which members hold it out, for good.
    pub id: u64,
    /// `[steps, obs + action]`: inputs of the first segment.
    pub first: Vec<f32>,
    /// `[steps, obs + action]`: inputs of the second segment.
    pub second: Vec<f32>,
    /// Probability mass on the first segment: μ(1) of eq. 1.
    pub target: f64,
    /// True returns of both, for the "regression to true returns" ablation only.
    pub true_returns: Option<[f64; 2]>,
}

/// What a fit reports; means over the members.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct FitMetrics {
    /// Mean loss on each member's training comparisons.
    pub train_loss: f64,
    /// Mean loss on each member's held-out comparisons; `None` where no member holds any out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Share of held-out, decided comparisons predicted rightly; `None` where none is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Expected calibration error on held-out comparisons, 10 bins; `None` where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_ece: Option<f64>,
    /// L2 coefficient (geometric mean).
    pub l2: f64,
}

/// A member whose fit led to a number that is not finite, which makes the member useless.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Astray {
    /// Number of the member.
    pub member: usize,
    /// Which of its quantities.
    pub what: &'static str,
    /// What was found.
    pub found: f64,
}

/// Trains every member for `steps` gradient steps. Members train in parallel; each draws from its own streams, so
/// the result does not depend on the number of threads. `None` where there is nothing to fit to.
///
/// # Shapes
/// - every segment of `examples` has the same number of steps
///
/// # Errors
/// [`Astray`] for the first member whose losses or weights are not finite.
pub fn fit(
    ensemble: &mut Ensemble,
    config: &RewardConfig,
    examples: &[FitExample],
    steps: usize,
    seed: u64,
    session: u64,
) -> Result<Option<FitMetrics>, Astray> {
    if examples.is_empty() {
        return Ok(None);
    }
    let reports: Vec<Result<FitMetrics, Astray>> = ensemble
        .members
        .par_iter_mut()
        .enumerate()
        .map(|(index, member)| fit_member(member, index, config, examples, steps, seed, session))
        .collect();
    let reports = reports.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Some(averaged(&reports)))
}

/// Means, each over the members that know the number.
fn averaged(members: &[FitMetrics]) -> FitMetrics {
    let mean = |value: fn(&FitMetrics) -> Option<f64>| {
        let known: Vec<f64> = members.iter().filter_map(value).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    FitMetrics {
        train_loss: members.iter().map(|m| m.train_loss).sum::<f64>() / members.len() as f64,
        validation_loss: mean(|m| m.validation_loss),
        validation_accuracy: mean(|m| m.validation_accuracy),
        validation_ece: mean(|m| m.validation_ece),
        // A single zero makes it zero: ln 0 = −∞.
        l2: (members.iter().map(|m| m.l2.ln()).sum::<f64>() / members.len() as f64).exp(),
    }
}

/// Gradient steps between two looks at training and validation loss. Ibarz et al. adapt the coefficient at every step,
/// by 0.1 %; a look goes over all comparisons, so one change of 5 % stands for fifty of theirs.
const STEPS_BETWEEN_LOOKS: usize = 50;

/// The paper's band for validation loss / training loss.
const OVERFITTING_BAND: [f64; 2] = [1.1, 1.5];

fn fit_member(
    member: &mut Member,
    index: usize,
    config: &RewardConfig,
    examples: &[FitExample],
    steps: usize,
    seed: u64,
    session: u64,
) -> Result<FitMetrics, Astray> {
    let (train, validation) = split(config, examples, index, seed);
    let data = Data::new(member, config, examples);
    let mut rng = stream(seed, &format!("reward-batches-{index}"), session);
    for step in 0..steps {
        // Draw a minibatch from the member's bootstrap.
        let chosen: Vec<usize> = (0..config.batch_size).map(|_| train[rng.random_range(0..train.len())]).collect();
        let loss = data.loss(&member.network, config, &chosen).mean();
        // L2 as a term of the loss, not as weight decay: under Adam these differ.
        let mut gradients = (loss + member.network.squared_norm() * member.l2).backward();
        let Member { network, optimizer, .. } = member;
        optimizer.step(&mut [&mut network.parameters], &mut gradients, config.learning_rate, None);

        let since_look = step % STEPS_BETWEEN_LOOKS + 1;
        let look = since_look == STEPS_BETWEEN_LOOKS || step + 1 == steps;
        if config.adaptive_l2 && look && !validation.is_empty() {
            let excess = |chosen: &[usize]| data.relative_excess(data.mean_loss(member, config, chosen)?, chosen);
            // Where there is nothing to know, a NaN leaves the coefficient as it is.
            let ratio = excess(&validation)
                .zip(excess(&train))
                .map_or(f64::NAN, |(held_out, own)| held_out / own.clamp(1e-12, f64::INFINITY));
            member.l2 = adapt(member.l2, ratio, (1.0 + config.l2_rate).powf(since_look as f64) - 1.0);
        }
    }
    let held_out = data.probabilities(member, config, &validation);
    let targets: Vec<f64> = validation.iter().map(|&i| examples[i].target).collect();
    let astray = |what, found| Astray { member: index, what, found };
    let (own, other) = (data.mean_loss(member, config, &train), data.mean_loss(member, config, &validation));
    for (what, loss) in [("loss", own), ("loss on held-out answers", other)] {
        if let Some(loss) = loss.filter(|loss| !loss.is_finite()) {
            return Err(astray(what, loss));
        }
    }
    if let Some((_, found)) = finite::first(to_host(member.network.detached().parameters)) {
        return Err(astray("weight", found));
    }
    Ok(FitMetrics {
        train_loss: own.expect("the split leaves something to train on"),
        validation_loss: other,
        validation_accuracy: calibration::accuracy(&held_out, &targets),
        validation_ece: calibration::expected_calibration_error(&held_out, &targets, 10),
        l2: member.l2,
    })
}

/// Raises the coefficient when the validation loss is more than 1.5 × the training loss, lowers it below 1.1 ×.
fn adapt(l2: f64, ratio: f64, rate: f64) -> f64 {
    // The bounds only keep the number finite: below, L2 has no effect; above, the network is a constant.
    match () {
        () if ratio > OVERFITTING_BAND[1] => (l2 * (1.0 + rate)).min(1.0),
        () if ratio < OVERFITTING_BAND[0] => (l2 / (1.0 + rate)).max(1e-8),
        () => l2,
    }
}

/// Indices that a member trains on (with repetitions) and those it holds out.
///
/// Both depend on the query's number alone, so a member never trains on what it held out before. The bootstrap is
/// the streaming form of sampling |D| with replacement: every comparison counts Poisson(1) times (Oza & Russell 2001).
fn split(config: &RewardConfig, examples: &[FitExample], member: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (i, example) in examples.iter().enumerate() {
        let mut rng = stream(seed, &format!("reward-split-{member}"), example.id);
        if rng.random::<f64>() < config.holdout {
            validation.push(i);
        } else {
            let count = if config.bootstrap { poisson_1(rng.random()) } else { 1 };
            train.extend(std::iter::repeat_n(i, count));
        }
    }
    // With a handful of labels the draws can leave nothing to train on.
    if train.is_empty() {
        train.extend(0..examples.len());
    }
    (train, validation)
}

/// A Poisson(1) draw by inversion of a uniform one.
fn poisson_1(uniform: f64) -> usize {
    let (mut count, mut probability, mut cumulative) = (0, (-1.0_f64).exp(), (-1.0_f64).exp());
    while uniform > cumulative && count < 20 {
        count += 1;
        probability /= count as f64;
        cumulative += probability;
    }
    count
}

/// The comparisons on the device.
struct Data {
    /// `[n, 2 · steps · features]`
    segments: Tensor<2>,
    /// `[1, n]`: μ(1)
    targets: Tensor<2>,
    /// `[2, n]`: true returns, standardised; only for the ablation
    returns: Option<Tensor<2>>,
    /// `[n]`: entropy of each answer, nats: no prediction has a smaller loss
    least: Vec<f64>,
    /// `[n]`: the loss of predicting no difference, nats
    blind: Vec<f64>,
    steps: usize,
    features: usize,
}

impl Data {
    fn new(member: &Member, config: &RewardConfig, examples: &[FitExample]) -> Self {
        let network = &member.network;
        let (features, device) = (network.layout.inputs(), network.parameters.device().without_autodiff());
        let steps = examples[0].first.len() / features;
        let flat: Vec<f32> = examples.iter().flat_map(|e| e.first.iter().chain(&e.second)).copied().collect();
        let targets: Vec<f32> = examples.iter().map(|e| e.target as f32).collect();
        let returns = matches!(config.target, FitTarget::Returns).then(|| {
            let all: Vec<[f64; 2]> = examples.iter().map(|e| e.true_returns.unwrap_or_default()).collect();
            // Mean per step, so that the target is of order one per step as the prediction is.
            let side = |side: usize| all.iter().map(move |r| (r[side] / steps as f64) as f32);
            constant(&side(0).chain(side(1)).collect::<Vec<f32>>(), [2, examples.len()], &device)
        });
        // 0 and 1 in the ablation, whose squared errors are compared as they are.
        let bounds = |e: &FitExample| match config.target {
            FitTarget::Comparisons => (config.likelihood.entropy(e.target), config.likelihood.loss(0.0, e.target)),
            FitTarget::Returns => (0.0, 1.0),
        };
        let (least, blind) = examples.iter().map(bounds).unzip();
        Self {
            least,
            blind,
            segments: constant(&flat, [examples.len(), 2 * steps * features], &device),
            targets: constant(&targets, [1, examples.len()], &device),
            returns,
            steps,
            features,
        }
    }

    /// Predicted returns of both segments of the chosen comparisons, `[2, n]`.
    fn returns(&self, network: &Mlp, chosen: &Tensor<1, Int>) -> Tensor<2> {
        let n = chosen.dims()[0];
        let input = self.segments.clone().select(0, chosen.clone()).reshape([1, n * 2 * self.steps, self.features]);
        network.forward(input).reshape([n, 2, self.steps]).sum_dim(2).reshape([n, 2]).transpose()
    }

    /// Loss of each chosen comparison, `[1, n]`.
    fn loss(&self, network: &Mlp, config: &RewardConfig, chosen: &[usize]) -> Tensor<2> {
        let chosen = self.indices(chosen);
        let returns = self.returns(network, &chosen);
        if let Some(truth) = &self.returns {
            let error = returns / self.steps as f32 - truth.clone().select(1, chosen);
            return (error.clone() * error).mean_dim(0);
        }
        let difference = returns.clone().narrow(0, 0, 1) - returns.narrow(0, 1, 1);
        bradley_terry_loss(&config.likelihood, difference, self.targets.clone().select(1, chosen))
    }

    /// Mean loss over the chosen comparisons, without gradients; `None` where there are none.
    fn mean_loss(&self, member: &Member, config: &RewardConfig, chosen: &[usize]) -> Option<f64> {
        if chosen.is_empty() {
            return None;
        }
        let loss = self.loss(&member.network.detached(), config, chosen);
        Some(f64::from(to_host(loss.mean())[0]))
    }

    /// What share of the knowable part of the chosen answers a prediction with this mean loss still lacks: 0 for a
    /// perfect one, 1 for predicting no difference; `None` where there is nothing to know.
    ///
    /// An uncertain answer costs its entropy (ln 2 for "equal") whatever is predicted. Where most answers are "equal",
    /// that part of the plain losses would hide any overfitting; and the rest depends on how many answers are decided,
    /// which differs by chance between training and validation. Without any "equal" this is the plain loss up to a
    /// constant factor.
    fn relative_excess(&self, loss: f64, chosen: &[usize]) -> Option<f64> {
        let mean = |values: &[f64]| chosen.iter().map(|&i| values[i]).sum::<f64>() / chosen.len() as f64;
        let least = mean(&self.least);
        let knowable = mean(&self.blind) - least;
        (knowable > 1e-9).then(|| (loss - least) / knowable)
    }

    /// Predicted probability that the first is preferred, of each chosen comparison.
    fn probabilities(&self, member: &Member, config: &RewardConfig, chosen: &[usize]) -> Vec<f64> {
        if chosen.is_empty() {
            return Vec::new();
        }
        let returns = to_host(self.returns(&member.network.detached(), &self.indices(chosen)));
        let (first, second) = returns.split_at(chosen.len());
        first.iter().zip(second).map(|(a, b)| config.likelihood.probability(f64::from(a - b))).collect()
    }

    fn indices(&self, chosen: &[usize]) -> Tensor<1, Int> {
        let chosen: Vec<i32> =
            chosen.iter().map(|&i| i32::try_from(i).expect("fewer than 2³¹ comparisons fit in memory")).collect();
        let len = chosen.len();
        Tensor::from_data(TensorData::new(chosen, [len]), &self.segments.device())
    }
}

/// [`Likelihood::loss`] on tensors.
///
/// # Shapes
/// - `difference`: predicted return of the first minus the second, any; `target`: the same
/// - returns the loss of each, the same
#[must_use]
pub fn bradley_terry_loss<const D: usize>(
    likelihood: &Likelihood,
    difference: Tensor<D>,
    target: Tensor<D>,
) -> Tensor<D> {
    let Likelihood { temperature, error_rate, margin, tie } = *likelihood;
    let x = difference / temperature;
    let decided = |x: Tensor<D>| {
        let x = x - (margin + tie);
        let answers = if tie > 0.0 { 3.0 } else { 2.0 };
        match error_rate > 0.0 {
            true => -(activation::sigmoid(x) * (1.0 - error_rate) + error_rate / answers).log(),
            false => -activation::log_sigmoid(x),
        }
    };
    if tie == 0.0 {
        return target.clone() * decided(x.clone()) + (-target + 1.0) * decided(-x);
    }
    let log_equal = activation::log_sigmoid(x.clone() - tie) + activation::log_sigmoid(-x.clone() - tie);
    let log_equal = log_equal + (2.0 * tie).exp_m1().ln();
    let equal = match error_rate > 0.0 {
        true => -(log_equal.exp() * (1.0 - error_rate) + error_rate / 3.0).log(),
        false => -log_equal,
    };
    let first = (target.clone() * 2.0 - 1.0).clamp_min(0.0);
    let second = (-target.clone() * 2.0 + 1.0).clamp_min(0.0);
    let tied = target.clone().min_pair(-target + 1.0) * 2.0;
    first * decided(x.clone()) + second * decided(-x) + tied * equal
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use rand::RngExt as _;

    use super::{Ensemble, FitExample, RewardConfig, adapt, bradley_terry_loss, fit, poisson_1, split};
    use crate::nn::{constant, to_host};
    use crate::preference::Likelihood;
    use crate::random::stream;

    #[test]
    fn the_tensor_loss_is_the_scalar_one() {
        let device = Device::flex();
        let (z, t) = ([-30.0_f32, -4.0, -0.3, 0.0, 0.7, 5.0, 30.0], [1.0_f32, 0.0, 0.5, 0.5, 0.3, 1.0, 0.5]);
        let paper = Likelihood::default();
        for likelihood in [
            paper,
            Likelihood { error_rate: 0.0, ..paper },
            Likelihood { margin: 0.4, temperature: 2.0, ..paper },
            Likelihood { tie: 0.6, ..paper },
            Likelihood { tie: 0.6, error_rate: 0.0, ..paper },
        ] {
            let loss = bradley_terry_loss(&likelihood, constant(&z, [7], &device), constant(&t, [7], &device));
            for (i, found) in to_host(loss).into_iter().enumerate() {
                let expected = likelihood.loss(f64::from(z[i]), f64::from(t[i]));
                assert!(
                    (f64::from(found) - expected).abs() < 1e-5 * expected.max(1.0),
                    "{likelihood:?} {i}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn l2_rises_when_overfitting_and_falls_when_underfitting() {
        assert!(adapt(1e-4, 1.6, 0.01) > 1e-4);
        assert!(adapt(1e-4, 1.0, 0.01) < 1e-4);
        assert_eq!(adapt(1e-4, 1.3, 0.01), 1e-4);
        // The paper's ratio compares means: equal losses on sets of any size give 1, which is underfitting.
        assert!(adapt(1e-4, 0.9, 0.01) < 1e-4);
    }

    #[test]
    fn l2_rises_on_memorised_answers_even_where_most_are_equal() {
        let mut rng = stream(0, "memorise", 0);
        let mut segment = || (0..8).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        // Nine in ten say "equal"; the others decide by chance, so whatever is learned of them is overfitting.
        let example = |id: u64| {
            let target = match id % 20 {
                0 => 1.0,
                10 => 0.0,
                _ => 0.5,
            };
            FitExample { id, first: segment(), second: segment(), target, true_returns: None }
        };
        let examples: Vec<FitExample> = (0..200).map(example).collect();
        let config = RewardConfig { members: 1, l2: 1e-6, l2_rate: 0.01, ..RewardConfig::default() };
        let mut ensemble = Ensemble::new(&config, 3, 1, 0, &Device::flex().autodiff());
        let report = fit(&mut ensemble, &config, &examples, 600, 0, 0).unwrap().unwrap();
        // The case: the plain ratio of the losses stays below the band, and would lower the coefficient.
        assert!(report.validation_loss.unwrap() / report.train_loss < 1.5, "{report:?}");
        assert!(ensemble.members[0].l2 > config.l2, "{report:?}");
    }

    #[test]
    fn l2_falls_on_a_constant_reward_whatever_share_of_the_answers_is_decided() {
        let config = RewardConfig { members: 1, l2: 0.3, l2_rate: 0.01, ..RewardConfig::default() };
        let segment = vec![0.0; 12];
        let example =
            |id| FitExample { id, first: segment.clone(), second: segment.clone(), target: 0.5, true_returns: None };
        let mut examples: Vec<FitExample> = (0..60).map(example).collect();
        // Every held-out answer is decided, and one in three of the others: the losses above the entropy differ by a
        // factor of three although nothing is learned from either.
        let (_, validation) = split(&config, &examples, 0, 0);
        for (i, example) in examples.iter_mut().enumerate() {
            if i % 3 == 0 || validation.contains(&i) {
                example.target = 1.0;
            }
        }
        let mut ensemble = Ensemble::new(&config, 3, 1, 0, &Device::flex().autodiff());
        fit(&mut ensemble, &config, &examples, 100, 0, 0).unwrap();
        assert!(ensemble.members[0].l2 < config.l2, "{}", ensemble.members[0].l2);
    }

    fn some_examples(targets: &[f64]) -> Vec<FitExample> {
        let mut rng = stream(0, "examples", 0);
        let mut segment = || (0..8).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let example = |(id, &target): (usize, &f64)| FitExample {
            id: id as u64,
            first: segment(),
            second: segment(),
            target,
            true_returns: None,
        };
        targets.iter().enumerate().map(example).collect()
    }

    /// Issue 28, B3: −0.0 and 1.0 stood for what is not known.
    #[test]
    fn what_is_not_known_is_absent_and_a_coefficient_of_zero_is_zero() {
        let config = RewardConfig { members: 2, l2: 0.0, adaptive_l2: false, ..RewardConfig::default() };
        let fitted = |config: &RewardConfig, targets: &[f64]| {
            let mut ensemble = Ensemble::new(config, 3, 1, 0, &Device::flex().autodiff());
            fit(&mut ensemble, config, &some_examples(targets), 5, 0, 0).unwrap()
        };
        assert_eq!(fitted(&config, &[]), None);
        // Nothing is held out.
        let none = fitted(&RewardConfig { holdout: 0.0, ..config.clone() }, &[1.0; 20]).unwrap();
        assert_eq!((none.validation_loss, none.validation_accuracy, none.validation_ece), (None, None, None));
        assert_eq!(none.l2, 0.0);
        let text = serde_json::to_string(&none).unwrap();
        assert!(!text.contains("validation") && !text.contains("null"), "{text}");
        // All tie: there is a loss, and no answer to be right about.
        let ties = fitted(&config, &[0.5; 40]).unwrap();
        assert!(ties.validation_loss.is_some() && ties.validation_accuracy.is_none(), "{ties:?}");
        // Older lines, in which it is not so, are still read.
        let old =
            r#"{"train_loss":0.5,"validation_loss":-0.0,"validation_accuracy":0.75,"validation_ece":0.1,"l2":1.0}"#;
        assert_eq!(serde_json::from_str::<super::FitMetrics>(old).unwrap().validation_accuracy, Some(0.75));
    }

    /// Issue 28, B1.
    #[test]
    fn a_member_that_went_astray_is_named() {
        let config = RewardConfig { members: 3, ..RewardConfig::default() };
        let mut examples = some_examples(&[1.0; 30]);
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            examples[3].first[5] = wrong;
            let mut ensemble = Ensemble::new(&config, 3, 1, 0, &Device::flex().autodiff());
            let error = fit(&mut ensemble, &config, &examples, 30, 0, 0).unwrap_err();
            assert!(!error.found.is_finite() && error.what.starts_with("loss"), "{error:?}");
        }
        // A rate that blows it up.
        let wild = RewardConfig { learning_rate: 1e38, holdout: 0.0, ..config };
        let mut ensemble = Ensemble::new(&wild, 3, 1, 0, &Device::flex().autodiff());
        let error = fit(&mut ensemble, &wild, &some_examples(&[1.0, 0.0, 1.0]), 30, 0, 0).unwrap_err();
        assert!(!error.found.is_finite(), "{error:?}");
    }

    #[test]
    fn bootstrap_counts_have_poisson_frequencies() {
        let draws = 100_000;
        let mut frequencies = [0; 21];
        (0..draws).for_each(|i| frequencies[poisson_1((f64::from(i) + 0.5) / f64::from(draws))] += 1);
        let e = (-1.0_f64).exp();
        for (count, expected) in [e, e, e / 2.0, e / 6.0, e / 24.0].into_iter().enumerate() {
            assert!((f64::from(frequencies[count]) / f64::from(draws) - expected).abs() < 1e-4);
        }
    }
}
