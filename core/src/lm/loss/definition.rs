//! What a loss is, where it is computed, and its numbers.

use serde::{Deserialize, Serialize};

use crate::preference::Likelihood;
use crate::preference::likelihood::sigmoid;
use crate::range::OutOfRange;
use crate::table::Line;

/// A loss of pairs.
#[derive(Debug)]
pub struct Loss {
    /// Whether it compares with a reference policy.
    pub reference: bool,
    /// What it makes of label smoothing.
    pub smoothing: Smoothing,
    /// The loss at a point, and its slopes.
    pub value: fn(&Point<'_>) -> Value,
}

/// What a loss makes of label smoothing ε.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothing {
    /// It has none.
    None,
    /// 0 ≤ ε < ½.
    Optional,
    /// 0 < ε < ½: without, it is infinite.
    Needed,
}

/// A loss and its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Which.
    pub kind: &'static Line<Loss>,
    /// β: strength of the pull to the reference policy; IPO's τ.
    pub beta: f64,
    /// ε: share of labels taken to be flipped.
    pub label_smoothing: f64,
    /// Takes a reference that finds all completions equally likely (u = log π).
    pub reference_free: bool,
    /// SimPO's target margin γ.
    pub simpo_gamma: f64,
    /// ORPO's λ.
    pub orpo_lambda: f64,
    /// DiscoPOP's temperature τ.
    pub discopop_tau: f64,
}

/// Log-probabilities of a pair, nats, and lengths, tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogProbs {
    /// log π(chosen | x)
    pub chosen: f64,
    /// log π(rejected | x)
    pub rejected: f64,
    /// log π_ref(chosen | x)
    pub reference_chosen: f64,
    /// log π_ref(rejected | x)
    pub reference_rejected: f64,
    /// Tokens of the chosen completion, with its EOS.
    pub chosen_length: f64,
    /// Tokens of the rejected one.
    pub rejected_length: f64,
}

/// A loss at a point.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Value {
    /// The loss.
    pub loss: f64,
    /// d loss / d log π(chosen | x)
    pub of_chosen: f64,
    /// d loss / d log π(rejected | x)
    pub of_rejected: f64,
}

/// Where a loss is computed.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    /// The numbers of the loss.
    pub config: &'a LossConfig,
    /// The pair.
    pub pair: &'a PairLogProbs,
    /// u_c, or c without a reference.
    pub chosen: f64,
    /// u_r, or r without a reference.
    pub rejected: f64,
}

/// The likelihood of the shared core that DPO maximises: without errors, margins or ties.
pub(in crate::lm) const BRADLEY_TERRY: Likelihood =
    Likelihood { temperature: 1.0, error_rate: 0.0, margin: 0.0, tie: 0.0 };

impl PairLogProbs {
    /// The same pair with the other one preferred.
    #[must_use]
    pub fn swapped(&self) -> Self {
        Self {
            chosen: self.rejected,
            rejected: self.chosen,
            reference_chosen: self.reference_rejected,
            reference_rejected: self.reference_chosen,
            chosen_length: self.rejected_length,
            rejected_length: self.chosen_length,
        }
    }

    /// u = log π − log π_ref of the two completions.
    #[must_use]
    pub fn log_ratios(&self) -> [f64; 2] {
        [self.chosen - self.reference_chosen, self.rejected - self.reference_rejected]
    }
}

impl Value {
    /// The mean of this, with probability `target`, and of the loss of the swapped pair.
    #[must_use]
    pub fn mixed(&self, swapped: &Self, target: f64) -> Self {
        let mix = |one: f64, other: f64| target * one + (1.0 - target) * other;
        Self {
            loss: mix(self.loss, swapped.loss),
            of_chosen: mix(self.of_chosen, swapped.of_rejected),
            of_rejected: mix(self.of_rejected, swapped.of_chosen),
        }
    }
}

impl LossConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Naming the first one out of range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let check = OutOfRange::check;
        // The losses have terms of 1/β and of β²: beyond these bounds their slopes leave single precision.
        check("beta", self.beta, (1e-9..=1e6).contains(&self.beta), "between 1e-9 and 1e6")?;
        let smoothing = self.label_smoothing;
        let (fine, expected) = match self.kind.smoothing {
            Smoothing::None => (smoothing == 0.0, "0 for this loss, which has none"),
            Smoothing::Optional => ((0.0..0.5).contains(&smoothing), "at least 0 and below 0.5"),
            Smoothing::Needed => (smoothing > 0.0 && smoothing < 0.5, "above 0 and below 0.5 for this loss"),
        };
        check("label_smoothing", smoothing, fine, expected)?;
        let tau = self.discopop_tau;
        check("discopop_tau", tau, (1e-9..=1e9).contains(&tau), "between 1e-9 and 1e9")?;
        let lambda = self.orpo_lambda;
        check("orpo_lambda", lambda, (0.0..=1e9).contains(&lambda), "between 0 and 1e9")?;
        let gamma = self.simpo_gamma;
        check("simpo_gamma", gamma, (-1e9..=1e9).contains(&gamma), "between -1e9 and 1e9")
    }

    /// The loss of a pair.
    #[must_use]
    pub fn value(&self, pair: &PairLogProbs) -> Value {
        let [chosen, rejected] = self.log_ratios(pair);
        (self.kind.value)(&Point { config: self, pair, chosen, rejected })
    }

    /// The loss of a pair of which the first completion is preferred with probability `target`: the mean over the two
    /// answers. A tie is ½.
    #[must_use]
    pub fn expected(&self, pair: &PairLogProbs, target: f64) -> Value {
        let value = self.value(pair);
        if target == 1.0 {
            return value;
        }
        let swapped = self.value(&pair.swapped());
        value.mixed(&swapped, target)
    }

    /// Implicit rewards β·u of the two completions (arXiv 2305.18290, eq. 5, up to a term of the prompt).
    #[must_use]
    pub fn rewards(&self, pair: &PairLogProbs) -> [f64; 2] {
        self.log_ratios(pair).map(|ratio| self.beta * ratio)
    }

    /// u of the two completions.
    fn log_ratios(&self, pair: &PairLogProbs) -> [f64; 2] {
        match self.reference_free || !self.kind.reference {
            true => [pair.chosen, pair.rejected],
            false => pair.log_ratios(),
        }
    }
}

/// A line of the table, of a loss with a reference and without label smoothing.
pub(super) const fn loss(name: &'static str, summary: &'static str, value: fn(&Point<'_>) -> Value) -> Line<Loss> {
    Line { name, summary, item: Loss { reference: true, smoothing: Smoothing::None, value } }
}

impl Line<Loss> {
    pub(super) const fn smoothed(mut self, smoothing: Smoothing) -> Self {
        self.item.smoothing = smoothing;
        self
    }

    pub(super) const fn without_reference(mut self) -> Self {
        self.item.reference = false;
        self
    }
}

impl Point<'_> {
    /// z
    pub(super) fn z(&self) -> f64 {
        self.config.beta * (self.chosen - self.rejected)
    }

    /// βu_c and βu_r
    pub(super) fn rewards(&self) -> [f64; 2] {
        [self.config.beta * self.chosen, self.config.beta * self.rejected]
    }
}

/// Slope of the logistic function.
pub(super) fn steepness(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}
