//! The Bradley-Terry likelihood of an answer, given the difference of two scores.

use serde::{Deserialize, Serialize};

use crate::range::OutOfRange;

/// How a difference of scores z = score(first) − score(second) becomes the probability of an answer.
///
/// With x = z / temperature: `P[first] = (1 − ε)·σ(x) + ε/2` (Christiano et al. 2017, eq. 1 with the error model of
/// §2.2.3), and the loss of a soft label μ is `−μ ln P[first] − (1 − μ) ln P[second]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Likelihood {
    /// Divides the difference of scores.
    pub temperature: f64,
    /// ε: share of answers that are uniformly random (paper: 0.1).
    pub error_rate: f64,
    /// How much better, after temperature, the preferred one has to be for the same loss (Llama 2's margin).
    pub margin: f64,
    /// Half-width δ of indifference in the model of Rao & Kupper 1967: `P[first] = σ(x − δ)`, `P[second] = σ(−x − δ)`,
    /// `P[equal] = (e^{2δ} − 1)·P[first]·P[second]`. At 0 "equal" is the soft label ½ of the paper.
    pub tie: f64,
}

impl Default for Likelihood {
    /// The paper's.
    fn default() -> Self {
        Self { temperature: 1.0, error_rate: 0.1, margin: 0.0, tie: 0.0 }
    }
}

impl Likelihood {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Naming the first one out of range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let check = OutOfRange::check;
        // Scores are divided by it in single precision: beyond these bounds only infinities or zeros come out.
        check("temperature", self.temperature, (1e-6..=1e6).contains(&self.temperature), "between 1e-6 and 1e6")?;
        check("error_rate", self.error_rate, (0.0..1.0).contains(&self.error_rate), "at least 0 and below 1")?;
        check("margin", self.margin, (0.0..=100.0).contains(&self.margin), "between 0 and 100")?;
        check("tie", self.tie, (0.0..=20.0).contains(&self.tie), "between 0 and 20")
    }

    /// P[first is preferred] when a decision is made, without the error model: what queries are scored by.
    #[must_use]
    pub fn probability(&self, difference: f64) -> f64 {
        sigmoid(difference / self.temperature)
    }

    /// Loss of an answer with mass `target` on the first. With `tie` > 0 the mass min(μ, 1 − μ)·2 counts as "equal".
    #[must_use]
    pub fn loss(&self, difference: f64, target: f64) -> f64 {
        let x = difference / self.temperature;
        let [first, second, equal] = self.masses(target);
        let mut loss = 0.0;
        // A mass of zero must not meet an infinite loss.
        if first > 0.0 {
            loss += first * self.decided(x);
        }
        if second > 0.0 {
            loss += second * self.decided(-x);
        }
        if equal > 0.0 {
            let (tie, rate) = (self.tie, self.error_rate);
            let log_equal = (2.0 * tie).exp_m1().ln() + log_sigmoid(x - tie) + log_sigmoid(-x - tie);
            loss -= equal * if rate > 0.0 { ((1.0 - rate) * log_equal.exp() + rate / 3.0).ln() } else { log_equal };
        }
        loss
    }

    /// d[`loss`](Self::loss) / d difference: what a fitted score is pulled with.
    #[must_use]
    pub fn slope(&self, difference: f64, target: f64) -> f64 {
        let x = difference / self.temperature;
        let [first, second, equal] = self.masses(target);
        let mut slope = first * self.decided_slope(x) - second * self.decided_slope(-x);
        if equal > 0.0 {
            let (tie, rate) = (self.tie, self.error_rate);
            let of_log = sigmoid(tie - x) - sigmoid(tie + x);
            let likely = (1.0 - rate) * (2.0 * tie).exp_m1() * sigmoid(x - tie) * sigmoid(-x - tie);
            // Without errors the share is 1, also where the probability underflows.
            let share = if rate > 0.0 { likely / (likely + rate / 3.0) } else { 1.0 };
            slope -= equal * share * of_log;
        }
        slope / self.temperature
    }

    /// Entropy of an answer with mass `target` on the first, nats: the least loss that any prediction can have for it
    /// (without the error model, which only adds to the loss).
    #[must_use]
    pub fn entropy(&self, target: f64) -> f64 {
        self.masses(target).iter().map(|&mass| if mass > 0.0 { -mass * mass.ln() } else { 0.0 }).sum()
    }

    /// Mass on first, second and equal.
    #[must_use]
    pub fn masses(&self, target: f64) -> [f64; 3] {
        if self.tie > 0.0 {
            let equal = 2.0 * target.min(1.0 - target);
            [(2.0 * target - 1.0).max(0.0), (1.0 - 2.0 * target).max(0.0), equal]
        } else {
            [target, 1.0 - target, 0.0]
        }
    }

    /// −ln of the probability that the one ahead by `x` is preferred.
    fn decided(&self, x: f64) -> f64 {
        let x = x - self.margin - self.tie;
        let answers = if self.tie > 0.0 { 3.0 } else { 2.0 };
        match self.error_rate {
            0.0 => -log_sigmoid(x),
            rate => -((1.0 - rate) * sigmoid(x) + rate / answers).ln(),
        }
    }

    /// d decided / d x
    fn decided_slope(&self, x: f64) -> f64 {
        let x = x - self.margin - self.tie;
        let answers = if self.tie > 0.0 { 3.0 } else { 2.0 };
        match self.error_rate {
            0.0 => -sigmoid(-x),
            rate => {
                let likely = (1.0 - rate) * sigmoid(x);
                -likely * sigmoid(-x) / (likely + rate / answers)
            }
        }
    }
}

/// 1 / (1 + e^{−x}) without overflow.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// ln σ(x) without overflow or cancellation.
#[must_use]
pub fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::{Likelihood, sigmoid};

    fn slope(likelihood: &Likelihood, z: f64, target: f64) -> f64 {
        let h = 1e-5;
        (likelihood.loss(z + h, target) - likelihood.loss(z - h, target)) / (2.0 * h)
    }

    #[test]
    fn the_slope_is_that_of_the_loss() {
        let plain = Likelihood { error_rate: 0.0, ..Likelihood::default() };
        let shapes = [
            plain,
            Likelihood::default(),
            Likelihood { temperature: 2.5, margin: 0.4, ..plain },
            Likelihood { tie: 0.7, ..plain },
            Likelihood { tie: 0.7, margin: 0.2, temperature: 0.5, ..Likelihood::default() },
        ];
        for likelihood in shapes {
            for z in [-3.0, -0.4, 0.0, 0.1, 2.0] {
                for target in [0.0, 0.3, 0.5, 0.8, 1.0] {
                    let (found, expected) = (likelihood.slope(z, target), slope(&likelihood, z, target));
                    assert!((found - expected).abs() < 1e-8, "{likelihood:?} {z} {target}: {found} {expected}");
                }
            }
        }
    }

    /// Values of `reference/preference-rl.md` §2.1: with a 10 % error rate a wrong answer's pull is bounded.
    #[test]
    fn the_error_model_bounds_the_pull_of_a_mislabel() {
        let robust = Likelihood::default();
        let plain = Likelihood { error_rate: 0.0, ..robust };
        for (z, expected, expected_plain) in [(-8.0, -0.006, -1.0), (-4.0, -0.24, -0.98), (0.0, -0.45, -0.5)] {
            assert!((slope(&robust, z, 1.0) - expected).abs() < 0.005);
            assert!((slope(&plain, z, 1.0) - expected_plain).abs() < 0.005);
            let s: f64 = sigmoid(z);
            assert!((slope(&robust, z, 1.0) + 0.9 * s * (1.0 - s) / (0.9 * s + 0.05)).abs() < 1e-7);
        }
    }

    #[test]
    fn it_stays_finite_and_right_far_out() {
        let plain = Likelihood { error_rate: 0.0, ..Likelihood::default() };
        assert_eq!(plain.loss(-1e4, 1.0), 1e4);
        assert_eq!(plain.loss(1e4, 1.0), 0.0);
        assert_eq!(plain.loss(1e4, 0.5), 5e3);
        assert!((Likelihood::default().loss(-1e4, 1.0) + 0.05_f64.ln()).abs() < 1e-12);
    }

    /// Gibbs' inequality: the loss is never below the answer's entropy, and reaches it where the prediction is right.
    #[test]
    fn no_prediction_costs_less_than_the_entropy_of_the_answer() {
        let plain = Likelihood { error_rate: 0.0, ..Likelihood::default() };
        for target in [0.0, 0.2, 0.5, 0.9, 1.0] {
            let excess = |z: f64| plain.loss(z, target) - plain.entropy(target);
            assert!((-80..=80).all(|z| excess(f64::from(z) / 4.0) > -1e-12), "{target}");
            let right: f64 = (target / (1.0 - target)).ln();
            assert!(excess(right.clamp(-40.0, 40.0)).abs() < 1e-12, "{target}");
        }
        assert_eq!(Likelihood { tie: 0.5, ..plain }.entropy(0.5), 0.0, "with ties, equal is an answer of its own");
    }

    #[test]
    fn with_ties_the_three_answers_have_probability_one_together() {
        for error_rate in [0.0, 0.1] {
            let likelihood = Likelihood { tie: 0.7, error_rate, ..Likelihood::default() };
            for z in [-3.0, -0.2, 0.0, 1.5] {
                let total: f64 = [1.0, 0.0, 0.5].iter().map(|&t| (-likelihood.loss(z, t)).exp()).sum();
                assert!((total - 1.0).abs() < 1e-12, "z {z}: {total}");
            }
        }
    }

    #[test]
    fn temperature_and_margin_shift_the_loss_as_defined() {
        let plain = Likelihood { error_rate: 0.0, ..Likelihood::default() };
        let warm = Likelihood { temperature: 2.0, ..plain };
        let margin = Likelihood { margin: 0.5, ..plain };
        assert_eq!(warm.loss(3.0, 0.3), plain.loss(1.5, 0.3));
        assert_eq!(margin.loss(3.0, 1.0), plain.loss(2.5, 1.0));
        assert_eq!(margin.loss(3.0, 0.0), plain.loss(3.5, 0.0));
        assert!(Likelihood { error_rate: 1.0, ..plain }.validate().is_err());
    }

    #[test]
    fn what_can_only_give_infinities_is_refused_and_what_is_accepted_gives_none() {
        let set: [fn(&mut Likelihood, f64); 4] =
            [|l, v| l.temperature = v, |l, v| l.error_rate = v, |l, v| l.margin = v, |l, v| l.tie = v];
        for (field, set) in set.iter().enumerate() {
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300] {
                let mut likelihood = Likelihood::default();
                set(&mut likelihood, value);
                assert!(likelihood.validate().is_err(), "field {field}: {value}");
            }
        }
        for temperature in [1e-40, 1e-7, 1e7, 0.0] {
            let error = Likelihood { temperature, ..Likelihood::default() }.validate().unwrap_err().to_string();
            assert!(error.contains("temperature") && error.contains("between 1e-6 and 1e6"), "{error}");
        }
        for temperature in [1e-6, 1.0, 1e6] {
            for (error_rate, margin, tie) in
                [(0.0, 0.0, 0.0), (0.1, 100.0, 20.0), (0.0, 100.0, 20.0), (0.999, 0.0, 1e-3)]
            {
                let likelihood = Likelihood { temperature, error_rate, margin, tie };
                likelihood.validate().unwrap();
                for z in [-1e9, -1.0, 0.0, 1e-9, 1e9] {
                    for target in [0.0, 0.25, 0.5, 1.0] {
                        let all = [
                            likelihood.loss(z, target),
                            likelihood.slope(z, target),
                            likelihood.probability(z),
                            likelihood.entropy(target),
                        ];
                        assert!(all.iter().all(|value| value.is_finite()), "{likelihood:?} {z} {target}: {all:?}");
                    }
                }
            }
        }
    }
}
