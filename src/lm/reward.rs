//! A reward model: a decoder whose head gives one number at the last token, fitted to comparisons with the likelihood
//! of the shared core (Bradley-Terry; Ouyang et al. 2022, arXiv 2203.02155, eq. 1).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::data::EncodedPair;
use super::model::Decoder;
use super::train::{Metrics, Part, Stage, Whole};
use crate::nn::{constant, to_host};
use crate::preference::Likelihood;

/// Hyper-parameters of a reward model's loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardLoss {
    /// How a difference of scores becomes the probability of an answer. A row's own margin takes the place of this
    /// one's.
    pub likelihood: Likelihood,
    /// Weight of (score of the chosen + score of the rejected)², which keeps scores around zero (Eisenstein et al. 2023,
    /// arXiv 2312.09244); 0 for none.
    pub centering: f64,
}

/// Fitting a reward model.
#[derive(Debug, Clone)]
pub struct RewardModel {
    /// What is learned from.
    pub pairs: Vec<EncodedPair>,
    /// The loss.
    pub loss: RewardLoss,
}

impl Default for RewardLoss {
    /// TRL's: no errors, no margin, no centring.
    fn default() -> Self {
        let likelihood = Likelihood { temperature: 1.0, error_rate: 0.0, margin: 0.0, tie: 0.0 };
        Self { likelihood, centering: 0.0 }
    }
}

/// Scores of sequences: the head's first output at each one's last token.
///
/// # Shapes
/// - returns `[sequences.len()]`
#[must_use]
pub fn scores(model: &Decoder, sequences: &[&[u32]]) -> Vec<f32> {
    let mut batch = Batch::default();
    let last = sequences.iter().map(|ids| last_row(&batch.push(ids).collect::<Vec<_>>())).collect();
    to_host(model.scores(model.hidden(&batch, None), last).narrow(1, 0, 1))
}

impl Stage for RewardModel {
    /// Pairs, and the last rows of chosen and rejected in turn.
    type Packed = (Vec<usize>, Vec<u32>);

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn tokens(&self, pair: usize) -> usize {
        let EncodedPair { chosen, rejected, .. } = &self.pairs[pair];
        chosen.ids.len() + rejected.ids.len() - chosen.prompt_len
    }

    fn weight(&self, _pair: usize) -> f64 {
        1.0
    }

    fn pack(&self, pairs: &[usize]) -> (Batch, Self::Packed) {
        let mut batch = Batch::default();
        let mut last = Vec::with_capacity(2 * pairs.len());
        for &pair in pairs {
            let EncodedPair { chosen, rejected, .. } = &self.pairs[pair];
            let rows = batch.push_sharing(&[&chosen.ids, &rejected.ids]);
            last.extend(rows.iter().map(|rows| last_row(rows)));
        }
        (batch, (pairs.to_vec(), last))
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, (pairs, last): &Self::Packed, whole: Whole) -> Part {
        let scores = model.scores(hidden, last.clone()).narrow(1, 0, 1);
        let values = to_host(scores.clone());
        let RewardLoss { likelihood, centering } = self.loss;
        let mut metrics = Metrics::default();
        let mut slopes = Vec::with_capacity(values.len());
        for (&pair, both) in pairs.iter().zip(values.chunks_exact(2)) {
            let EncodedPair { margin, target, .. } = &self.pairs[pair];
            let likelihood = Likelihood { margin: margin.unwrap_or(likelihood.margin), ..likelihood };
            let target = target.unwrap_or(1.0);
            let [chosen, rejected] = [f64::from(both[0]), f64::from(both[1])];
            let (difference, sum) = (chosen - rejected, chosen + rejected);
            let loss = likelihood.loss(difference, target) + centering * sum * sum;
            let slope = likelihood.slope(difference, target);
            slopes.extend([slope, -slope].map(|slope| ((slope + 2.0 * centering * sum) / whole.weight) as f32));
            metrics.answer(likelihood.probability(difference), target);
            let mut add = |name, value| metrics.add(name, value, 1.0);
            add("loss", loss);
            add("accuracy", if difference > 0.0 { 1.0 } else { 0.0 });
            add("margin", difference);
            add("mean_reward", 0.5 * sum);
        }
        let slopes: Tensor<2> = constant(&slopes, [slopes.len(), 1], &model.device());
        Part { objective: (scores * slopes).sum(), metrics }
    }
}

fn last_row(rows: &[usize]) -> u32 {
    let last = rows.last().expect("an encoded completion has a token");
    u32::try_from(*last).expect("a batch has fewer than 2³² rows")
}
