//! Losses of the difference Δ of two log-ratios: DPO, and what puts another function in the place of −ln σ.

use super::definition::{BRADLEY_TERRY, Loss, Point, Smoothing, Value, loss, steepness};
use crate::preference::likelihood::{log_sigmoid, sigmoid};
use crate::table::Line;

/// DPO (arXiv 2305.18290, eq. 7): −ln σ(z). With label smoothing ε conservative DPO (Mitchell 2023):
/// −(1 − ε) ln σ(z) − ε ln σ(−z).
pub static SIGMOID: Line<Loss> = loss("sigmoid", "DPO (Rafailov et al. 2023); cDPO with label smoothing", |at| {
    let (z, target) = (at.z(), 1.0 - at.config.label_smoothing);
    along(at, BRADLEY_TERRY.loss(z, target), BRADLEY_TERRY.slope(z, target))
})
.smoothed(Smoothing::Optional);

/// Robust DPO (arXiv 2403.00409): [−(1 − ε) ln σ(z) + ε ln σ(−z)] / (1 − 2ε). Unbiased when a share ε of the labels is
/// flipped, but unbounded below.
pub(super) static ROBUST: Line<Loss> = loss("robust", "robust DPO, for flipped labels (Chowdhury et al. 2024)", |at| {
    let (z, smoothing) = (at.z(), at.config.label_smoothing);
    let loss = smoothing * log_sigmoid(-z) - (1.0 - smoothing) * log_sigmoid(z);
    let slope = -(1.0 - smoothing) * sigmoid(-z) - smoothing * sigmoid(z);
    along(at, loss / (1.0 - 2.0 * smoothing), slope / (1.0 - 2.0 * smoothing))
})
.smoothed(Smoothing::Optional);

/// IPO (arXiv 2310.12036, eq. 17) with summed log-ratios, as in DPO's reference code: (Δ − 1/(2β))².
pub static IPO_SUM: Line<Loss> = loss("ipo-sum", "IPO with summed log-ratios (Azar et al. 2023)", |at| {
    let error = at.chosen - at.rejected - 1.0 / (2.0 * at.config.beta);
    Value { loss: error * error, of_chosen: 2.0 * error, of_rejected: -2.0 * error }
});

/// SLiC's (arXiv 2305.10425): max(0, 1 − z).
pub(super) static HINGE: Line<Loss> = loss("hinge", "SLiC's hinge (Zhao et al. 2023)", |at| {
    let z = at.z();
    along(at, (1.0 - z).max(0.0), if z < 1.0 { -1.0 } else { 0.0 })
});

/// EXO (arXiv 2402.00856, eq. 16): the reverse Kullback-Leibler divergence of (σ(z), σ(−z)) from (1 − ε, ε).
pub(super) static EXO: Line<Loss> = loss("exo", "EXO; needs label smoothing (Ji et al. 2024)", |at| {
    let (z, smoothing) = (at.z(), at.config.label_smoothing);
    let (likely, unlikely) = ((1.0 - smoothing).ln(), smoothing.ln());
    let loss = sigmoid(z) * (log_sigmoid(z) - likely) + sigmoid(-z) * (log_sigmoid(-z) - unlikely);
    along(at, loss, steepness(z) * (z - likely + unlikely))
})
.smoothed(Smoothing::Needed);

/// DiscoPOP (arXiv 2406.08414, eq. 5): (1 − m)·(−ln σ(z)) + m·e^(−z), m = σ(z/τ).
pub(super) static DISCOPOP: Line<Loss> = loss("discopop", "DiscoPOP (Lu et al. 2024)", |at| {
    let (z, tau) = (at.z(), at.config.discopop_tau);
    let (mix, mix_slope) = (sigmoid(z / tau), steepness(z / tau) / tau);
    let exponential = (-z).exp();
    let loss = -log_sigmoid(z) * (1.0 - mix) + exponential * mix;
    let slope = -sigmoid(-z) * (1.0 - mix) - exponential * mix + (exponential + log_sigmoid(z)) * mix_slope;
    along(at, loss, slope)
});

/// From the slope with respect to z.
fn along(at: &Point<'_>, loss: f64, slope: f64) -> Value {
    Value { loss, of_chosen: at.config.beta * slope, of_rejected: -at.config.beta * slope }
}
