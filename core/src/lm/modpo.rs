//! Multi-objective direct preference optimisation (Zhou et al. 2023, arXiv 2310.03708): alignment with several rewards
//! at once, as simple as DPO.
//!
//! The policy shall maximise the collective reward r_w = wᵀ r* of N objectives. It learns from the preferences of one
//! objective, k. The other objectives enter as margin rewards r_{−k}, which are given: reward models, gold rewards, or
//! the implicit rewards of policies that were trained with DPO. Let Δ be the difference of the log-ratios to the
//! reference, u_c − u_r as in `super::loss`, and δr_{−k} the difference of the margin rewards (chosen − rejected). Then
//! the log-odds that objective k prefers the chosen completion are z/w_k with
//!
//! ```text
//! z = βΔ − w_{−k}ᵀ δr_{−k}                                                                     (eq. 10)
//! ```
//!
//! and the loss is −ln σ(z/w_k). Another weighting changes only these two numbers of the loss; the rewards and the
//! reference's log-probabilities stay the same.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::data::{Encoded, EncodedPair};
use super::dpo::{Judged, Reference, part};
use super::error::LmError;
use super::gold::Gold;
use super::loss::{BRADLEY_TERRY, PairLogProbs, Value};
use super::model::Decoder;
use super::pairs::{PackedPairs, pair_tokens};
use super::tokenizer::Tokenizer;
use super::train::{Part, Stage, Whole};
use super::{diagnose, reward, score};
use crate::finite::NotFinite;
use crate::preference::statistics::deviation;

/// MODPO's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModpoLoss {
    /// β: strength of the pull to the reference policy.
    pub beta: f64,
    /// w_k: weight of the objective whose preferences are learned from. It is above 0: at 0 the preferences would say
    /// nothing, and the policy would be the one that the margin rewards ask for.
    pub weight: f64,
    /// How the loss is scaled.
    pub form: ModpoForm,
}

/// How MODPO's loss is scaled. A run has one w_k, so both forms have the same optimum, but their gradients differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModpoForm {
    /// −w_k ln σ(z/w_k): its slope is at most β for any weight, so that learning rates and clipping mean the same for
    /// all weights. At w_k = 1 both forms are DPO.
    Bounded,
    /// −ln σ(z/w_k), as published: its slope is up to β/w_k.
    Paper,
}

/// A reward of whole completions, from which margins are computed.
pub enum MarginReward {
    /// The mean score of reward models.
    Model(Vec<Decoder>),
    /// β (log π(y|x) − log π_ref(y|x)) of a policy that was trained with DPO (arXiv 2305.18290, eq. 5).
    Implicit {
        /// π
        policy: Box<Decoder>,
        /// π_ref
        reference: Box<Decoder>,
        /// The β that the policy was trained with.
        beta: f64,
    },
    /// A gold reward, which reads the texts.
    Gold(Box<dyn Gold>),
}

/// The numbers that standardise a reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Mean over samples of the reference policy.
    pub mean: f64,
    /// Standard deviation over them.
    pub deviation: f64,
}

/// Policy training on the preferences of one objective, with the other objectives as margins.
#[derive(Debug, Clone)]
pub struct Modpo {
    /// The preferences of objective k, which are learned from.
    pub pairs: Vec<EncodedPair>,
    /// w_{−k}ᵀ δr_{−k} of every pair.
    pub margins: Vec<f64>,
    /// What the policy is compared with.
    pub reference: Reference,
    /// The loss.
    pub loss: ModpoLoss,
}

impl Default for ModpoLoss {
    /// The paper's β. Without a weight it is DPO.
    fn default() -> Self {
        Self { beta: 0.1, weight: 1.0, form: ModpoForm::Bounded }
    }
}

impl ModpoLoss {
    /// The loss of a pair with this margin.
    #[must_use]
    pub fn value(&self, pair: &PairLogProbs, margin: f64) -> Value {
        let logit = self.logit(pair, margin);
        let (loss, slope) = (BRADLEY_TERRY.loss(logit, 1.0), BRADLEY_TERRY.slope(logit, 1.0));
        // d logit / d βΔ = 1/w_k, which the bounded form's factor cancels.
        let (loss, slope) = match self.form {
            ModpoForm::Bounded => (self.weight * loss, slope),
            ModpoForm::Paper => (loss, slope / self.weight),
        };
        Value { loss, of_chosen: self.beta * slope, of_rejected: -self.beta * slope }
    }

    /// The loss of a pair whose chosen completion is preferred with probability `target`.
    #[must_use]
    pub fn expected(&self, pair: &PairLogProbs, margin: f64, target: f64) -> Value {
        let value = self.value(pair, margin);
        match target == 1.0 {
            true => value,
            false => value.mixed(&self.value(&pair.swapped(), -margin), target),
        }
    }

    /// z/w_k: log-odds that the chosen completion is preferred.
    #[must_use]
    pub fn logit(&self, pair: &PairLogProbs, margin: f64) -> f64 {
        let [chosen, rejected] = pair.log_ratios();
        (self.beta * (chosen - rejected) - margin) / self.weight
    }
}

impl MarginReward {
    /// Rewards of completions.
    ///
    /// # Shapes
    /// - returns `[completions.len()]`
    ///
    /// # Errors
    /// Errors of a gold reward, or a reward that is not finite.
    pub fn of(&self, completions: &[Encoded], tokenizer: &Tokenizer, part_tokens: usize) -> Result<Vec<f64>, LmError> {
        let rewards = self.computed(completions, tokenizer, part_tokens)?;
        let what = |i| format!("the reward of completion {i}");
        let advice = "nothing can be learned from it; look at the model, or the gold reward, that gave it";
        NotFinite::check(rewards.iter().copied(), what, || "the measuring of margins".to_owned(), advice)?;
        Ok(rewards)
    }

    fn computed(
        &self,
        completions: &[Encoded],
        tokenizer: &Tokenizer,
        part_tokens: usize,
    ) -> Result<Vec<f64>, LmError> {
        match self {
            Self::Model(members) => Ok(reward::completion_scores(members, completions)),
            Self::Implicit { policy, reference, beta } => {
                let [own, other] =
                    [policy, reference].map(|model| score::log_probs(model, completions, part_tokens, &|_| ()));
                Ok(own.iter().zip(other).map(|(own, other)| beta * (own - other)).collect())
            }
            Self::Gold(gold) => {
                let written = completions.iter().map(|encoded| (encoded.prompt(), encoded.completion()));
                diagnose::scores_of(&**gold, tokenizer, written)
            }
        }
    }
}

impl Scale {
    /// Does not change rewards.
    pub const NONE: Self = Self { mean: 0.0, deviation: 1.0 };

    /// The scale of these rewards; `None` where they are all the same, because nothing can be divided by 0.
    #[must_use]
    pub fn of(rewards: &[f64]) -> Option<Self> {
        let (mean, deviation) = deviation(rewards);
        (deviation > 0.0 && deviation.is_finite()).then_some(Self { mean, deviation })
    }

    /// A reward in standard deviations from the mean.
    #[must_use]
    pub fn apply(&self, reward: f64) -> f64 {
        (reward - self.mean) / self.deviation
    }
}

/// w_{−k}ᵀ δr_{−k} of every pair, from the standardised rewards of both sides by every other objective.
///
/// # Shapes
/// - `weights`: `[objectives]`; `rewards`: `[objectives][pairs]`; returns `[pairs]`
#[must_use]
pub fn margins(weights: &[f64], rewards: &[Vec<[f64; 2]>], pairs: usize) -> Vec<f64> {
    let of_pair = |pair: usize| {
        let of_objective = |(weight, rewards): (&f64, &Vec<[f64; 2]>)| {
            let [chosen, rejected] = rewards[pair];
            weight * (chosen - rejected)
        };
        weights.iter().zip(rewards).map(of_objective).sum()
    };
    (0..pairs).map(of_pair).collect()
}

impl Stage for Modpo {
    type Packed = PackedPairs;

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn tokens(&self, pair: usize) -> usize {
        pair_tokens(&self.pairs[pair])
    }

    fn pack(&self, pairs: &[usize]) -> (Batch, PackedPairs) {
        PackedPairs::of(&self.pairs, pairs)
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedPairs, whole: Whole) -> Part {
        let judge = |number: usize, pair: &PairLogProbs| {
            let (margin, target) = (self.margins[number], self.pairs[number].target.unwrap_or(1.0));
            let rewards = pair.log_ratios().map(|ratio| self.loss.beta * ratio);
            Judged {
                value: self.loss.expected(pair, margin, target),
                rewards,
                logit: self.loss.logit(pair, margin),
                target,
            }
        };
        part(model, hidden, packed, &self.reference, whole, &judge)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value as Json;

    use super::{Modpo, ModpoForm, ModpoLoss, PairLogProbs, Scale, margins};
    use crate::fixtures::{json, own, shared};
    use crate::lm::dpo::{Dpo, Reference, log_probs};
    use crate::lm::loss::LossConfig;
    use crate::lm::model::Decoder;
    use crate::lm::optim::{Optimizer, OptimizerConfig, Schedule};
    use crate::lm::tests::{as_traced, follow, made_up, model, pairs, trained};
    use crate::lm::train::{Stage as _, TrainConfig, Trainee, evaluate, step};

    fn close(name: &str, found: f64, expected: f64, tolerance: f64) {
        assert!(
            (found - expected).abs() < tolerance * expected.abs().max(0.01),
            "{name}: {found}, expected {expected}"
        );
    }

    /// The formula in float64, of two and of three objectives.
    #[test]
    fn losses_at_all_weights_are_those_of_the_formula() {
        let golden = json(own("golden/losses_merge_hv.json"));
        let inputs = &golden["inputs"];
        let number = |name: &str, i: usize| inputs[name][i].as_f64().unwrap();
        for (name, expected) in golden["modpo"].as_object().unwrap() {
            let weights: Vec<f64> = serde_json::from_str(name.trim_start_matches("w=")).unwrap();
            let others = &weights[1..];
            for i in 0..4 {
                let pair = PairLogProbs {
                    chosen: number("policy_chosen", i),
                    rejected: number("policy_rejected", i),
                    reference_chosen: number("ref_chosen", i),
                    reference_rejected: number("ref_rejected", i),
                    chosen_length: number("len_chosen", i),
                    rejected_length: number("len_rejected", i),
                };
                let margin = |side: &str| -> Vec<f64> {
                    (0..others.len()).map(|objective| inputs[side][i][objective].as_f64().unwrap()).collect()
                };
                let both: Vec<Vec<[f64; 2]>> = margin("margin_chosen")
                    .into_iter()
                    .zip(margin("margin_rejected"))
                    .map(|(chosen, rejected)| vec![[chosen, rejected]])
                    .collect();
                let loss = ModpoLoss { beta: 0.1, weight: weights[0], form: ModpoForm::Paper };
                let margin = margins(others, &both, 1)[0];
                let paper = loss.value(&pair, margin);
                close(name, paper.loss, expected["loss"][i].as_f64().unwrap(), 1e-12);
                let rewards = ["chosen_reward", "rejected_reward"].map(|side| expected[side][i].as_f64().unwrap());
                close(name, loss.logit(&pair, margin), rewards[0] - rewards[1], 1e-12);
                // The bounded form is the same but for the factor.
                let bounded = ModpoLoss { form: ModpoForm::Bounded, ..loss }.value(&pair, margin);
                for (bounded, paper) in [
                    (bounded.loss, paper.loss),
                    (bounded.of_chosen, paper.of_chosen),
                    (bounded.of_rejected, paper.of_rejected),
                ] {
                    close(name, bounded, weights[0] * paper, 1e-12);
                }
            }
        }
    }

    fn stage(data: &Path, llama: &Decoder, weight: f64, form: ModpoForm) -> Modpo {
        let pairs = pairs(data);
        let text = std::fs::read_to_string(data.join("prefs/pairs.jsonl")).unwrap();
        let words = |line: &str| {
            let row: Json = serde_json::from_str(line).unwrap();
            ["chosen_words", "rejected_words"].map(|side| -0.05 * row[side].as_f64().unwrap())
        };
        let rewards: Vec<[f64; 2]> = text.lines().map(words).collect();
        let margins = margins(&[1.0 - weight], &[rewards], pairs.len());
        let reference = Reference::LogProbs(log_probs(llama, &pairs, 2000, &|_| ()));
        Modpo { pairs, margins, reference, loss: ModpoLoss { beta: 0.1, weight, form } }
    }

    /// `../shared/data/prefs`: the released form in PyTorch, with a penalty on words as the margin reward.
    #[test]
    #[ignore = "needs ../shared/data/hf and prefs"]
    fn eight_steps_are_those_of_pytorch() {
        let data = shared("");
        let (traces, offset) = (json(data.join("prefs/dpo.json")), json(data.join("prefs/offset_policy_losses.json")));
        let (llama, moved) = (model(&data, "llama"), model(&data, "llama_pertA"));
        for (name, weight) in [("modpo_w0.5,0.5", 0.5), ("modpo_w0.1,0.9", 0.1)] {
            let stage = stage(&data, &llama, weight, ModpoForm::Paper);
            let trace = &traces["losses"][name]["float64"];
            let names = ["loss", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "grad_norm"];
            let trained = follow(&stage, llama.clone(), trace, 8, &names, 1e-4);
            let all: Vec<usize> = (0..64).collect();
            let found = evaluate(&trained, &stage, &all, 2000).get("loss").unwrap();
            close(name, found, trace["after"]["loss_mean_all_64"].as_f64().unwrap(), 1e-4);
            for (examples, key) in [(&all[..8], "first_batch_mean"), (&all[..], "all_64_mean")] {
                let found = evaluate(&moved, &stage, examples, 1000).get("loss").unwrap();
                close(name, found, offset["losses"][name][key].as_f64().unwrap(), 1e-5);
            }
        }
    }

    #[test]
    fn with_all_the_weight_it_is_dpo_to_the_bit() {
        let (model, mut pairs) = made_up();
        pairs[3].target = Some(0.3);
        let reference = Reference::LogProbs(log_probs(&model, &pairs, 500, &|_| ()));
        let dpo = Dpo { pairs: pairs.clone(), loss: LossConfig::default(), reference: reference.clone() };
        let expected = trained(&model, &dpo, &as_traced());
        for form in [ModpoForm::Bounded, ModpoForm::Paper] {
            let loss = ModpoLoss { form, ..ModpoLoss::default() };
            let margins = margins(&[], &[], pairs.len());
            let modpo = Modpo { pairs: pairs.clone(), margins, reference: reference.clone(), loss };
            assert_eq!(trained(&model, &modpo, &as_traced()), expected, "{form:?}");
        }
    }

    /// Both orders of every pair, as from a rater without an opinion on objective k: what is left are the margins, the
    /// more exactly the smaller w_k is.
    #[test]
    fn with_little_weight_the_policy_becomes_that_of_the_margin() {
        let (model, mut pairs) = made_up();
        pairs.truncate(6);
        for pair in &mut pairs {
            pair.target = Some(0.5);
        }
        let wanted: Vec<f64> = (0..6).map(|i| 0.3 * (f64::from(i) - 2.5)).collect();
        let reference = log_probs(&model, &pairs, 500, &|_| ());
        let loss = ModpoLoss { weight: 0.01, ..ModpoLoss::default() };
        let stage = Modpo {
            pairs: pairs.clone(),
            margins: wanted.clone(),
            reference: Reference::LogProbs(reference.clone()),
            loss,
        };
        let optimizer = OptimizerConfig {
            learning_rate: 3e-3,
            schedule: Schedule::Linear,
            max_gradient_norm: 0.0,
            ..OptimizerConfig::default()
        };
        let config = TrainConfig { optimizer, batch_size: 6, ..TrainConfig::default() };
        let mut trainee = Trainee { model, optimizer: Optimizer::default(), step: 0 };
        let all: Vec<usize> = (0..stage.len()).collect();
        for _ in 0..300 {
            step(&mut trainee, &stage, &config, &all, 300, 0).unwrap();
        }
        let after = log_probs(&trainee.model, &pairs, 500, &|_| ());
        for ((after, before), wanted) in after.iter().zip(&reference).zip(&wanted) {
            let reward = loss.beta * ((after[0] - before[0]) - (after[1] - before[1]));
            assert!((reward - wanted).abs() < 0.02, "{reward}, expected {wanted}");
        }
    }

    #[test]
    fn the_slope_is_bounded_at_any_weight() {
        let pair = PairLogProbs {
            chosen: -50.0,
            rejected: -10.0,
            reference_chosen: -20.0,
            reference_rejected: -20.0,
            chosen_length: 5.0,
            rejected_length: 5.0,
        };
        for weight in [1.0, 0.1, 1e-3, 1e-9] {
            let loss = ModpoLoss { weight, ..ModpoLoss::default() };
            let value = loss.value(&pair, 2.0);
            // max(0, −z) in the limit: z = 0.1 · (−40) − 2.
            assert!(value.loss.is_finite() && (value.loss - 6.0).abs() <= weight, "{weight}: {value:?}");
            assert!(value.of_chosen.abs() <= loss.beta && value.of_rejected.abs() <= loss.beta);
        }
    }

    #[test]
    fn rewards_are_standardised_by_the_references_samples() {
        let scale = Scale::of(&[1.0, 3.0, 5.0, 7.0]).unwrap();
        assert_eq!((scale.mean, scale.deviation), (4.0, 5.0_f64.sqrt()));
        assert_eq!(scale.apply(4.0 + 5.0_f64.sqrt()), 1.0);
        assert_eq!(Scale::of(&[2.0, 2.0]), None);
        assert_eq!(Scale::NONE.apply(3.5), 3.5);
    }
}
