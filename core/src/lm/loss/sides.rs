//! Losses of each side's own log-ratio.

use super::definition::{Loss, Point, Value, loss, steepness};
use crate::preference::likelihood::{log_sigmoid, sigmoid};
use crate::table::Line;

/// NCA (arXiv 2402.05369): −ln σ(βu_c) − ½ ln σ(−βu_c) − ½ ln σ(−βu_r).
pub(super) static NCA: Line<Loss> = loss("nca", "NCA (Chen et al. 2024)", |at| {
    let [chosen, rejected] = at.rewards();
    let loss = -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected);
    apart(at, loss, 0.5 * sigmoid(chosen) - sigmoid(-chosen), 0.5 * sigmoid(rejected))
});

/// BCO (arXiv 2404.04656) with its shift δ = 0, as TRL's `bco_pair`: −ln σ(βu_c) − ln σ(−βu_r).
pub(super) static BCO: Line<Loss> = loss("bco", "BCO without its shift (Jung et al. 2024)", |at| {
    let [chosen, rejected] = at.rewards();
    apart(at, -log_sigmoid(chosen) - log_sigmoid(-rejected), -sigmoid(-chosen), sigmoid(rejected))
});

/// SPPO with hard labels (arXiv 2405.00675): (u_c − 1/(2β))² + (u_r + 1/(2β))².
pub(super) static SPPO: Line<Loss> = loss("sppo", "SPPO with hard labels (Wu et al. 2024)", |at| {
    let errors = [at.chosen - 1.0 / (2.0 * at.config.beta), at.rejected + 1.0 / (2.0 * at.config.beta)];
    let loss = errors[0] * errors[0] + errors[1] * errors[1];
    Value { loss, of_chosen: 2.0 * errors[0], of_rejected: 2.0 * errors[1] }
});

/// APO-zero (arXiv 2408.06266, eq. 7): 1 − σ(βu_c) + σ(βu_r).
pub(super) static APO_ZERO: Line<Loss> = loss("apo-zero", "APO-zero (D'Oosterlinck et al. 2024)", |at| {
    let [chosen, rejected] = at.rewards();
    apart(at, sigmoid(-chosen) + sigmoid(rejected), -steepness(chosen), steepness(rejected))
});

/// APO-down (same, eq. 8): σ(βu_c) + 1 − σ(z).
pub(super) static APO_DOWN: Line<Loss> = loss("apo-down", "APO-down (D'Oosterlinck et al. 2024)", |at| {
    let ([chosen, _], z) = (at.rewards(), at.z());
    apart(at, sigmoid(chosen) + sigmoid(-z), steepness(chosen) - steepness(z), steepness(z))
});

/// From the slopes with respect to βu_c and βu_r.
fn apart(at: &Point<'_>, loss: f64, of_chosen: f64, of_rejected: f64) -> Value {
    Value { loss, of_chosen: at.config.beta * of_chosen, of_rejected: at.config.beta * of_rejected }
}
