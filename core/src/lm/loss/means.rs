//! Losses of log-ratios, or of log-probabilities, that are divided by lengths.

use super::definition::{Loss, Point, Value, loss};
use crate::preference::likelihood::{log_sigmoid, sigmoid};
use crate::table::Line;

/// IPO (arXiv 2310.12036, eq. 17) as in TRL: (u_c/|c| − u_r/|r| − 1/(2β))².
pub(super) static IPO: Line<Loss> = loss("ipo", "IPO with log-ratios per token, as in TRL (Azar et al. 2023)", |at| {
    let error = per_token(at) - 1.0 / (2.0 * at.config.beta);
    normalised(at, error * error, 2.0 * error)
});

/// DPO with length-normalised log-ratios (arXiv 2411.15124, eq. 6).
pub(super) static SIGMOID_NORM: Line<Loss> =
    loss("sigmoid-norm", "DPO with log-ratios per token (Lambert et al. 2024)", |at| with_margin(at, 0.0));

/// SimPO (arXiv 2405.14734, eq. 6): −ln σ(β(c/|c| − r/|r|) − γ).
pub(super) static SIMPO: Line<Loss> =
    loss("simpo", "SimPO; no reference (Meng et al. 2024)", |at| with_margin(at, at.config.simpo_gamma))
        .without_reference();

/// ORPO (arXiv 2403.07691, eq. 6): −c/|c| − λ ln σ(ln odds(c) − ln odds(r)), where a completion's odds are those of its
/// tokens' geometric mean. The first term is over the completion alone.
pub(super) static ORPO: Line<Loss> = loss("orpo", "ORPO; no reference (Hong et al. 2024)", |at| {
    // ln odds(m) = m − ln(1 − eᵐ) of a mean log-probability m < 0; its slope is 1 / (1 − eᵐ).
    let (c, r) = (at.chosen / at.pair.chosen_length, at.rejected / at.pair.rejected_length);
    let kept = |m: f64| -m.min(-1e-12).exp_m1();
    let x = (c - kept(c).ln()) - (r - kept(r).ln());
    let pull = at.config.orpo_lambda * sigmoid(-x);
    Value {
        loss: -c - at.config.orpo_lambda * log_sigmoid(x),
        of_chosen: (-1.0 - pull / kept(c)) / at.pair.chosen_length,
        of_rejected: pull / kept(r) / at.pair.rejected_length,
    }
})
.without_reference();

/// −ln σ(β(u_c/|c| − u_r/|r|) − margin)
fn with_margin(at: &Point<'_>, margin: f64) -> Value {
    let x = at.config.beta * per_token(at) - margin;
    normalised(at, -log_sigmoid(x), -at.config.beta * sigmoid(-x))
}

/// u_c/|c| − u_r/|r|
fn per_token(at: &Point<'_>) -> f64 {
    at.chosen / at.pair.chosen_length - at.rejected / at.pair.rejected_length
}

/// From the slope with respect to [`per_token`].
fn normalised(at: &Point<'_>, loss: f64, slope: f64) -> Value {
    Value { loss, of_chosen: slope / at.pair.chosen_length, of_rejected: -slope / at.pair.rejected_length }
}
