//! Numbers that are not finite: found where they arise, and named.
//!
//! NaN and infinities spread through everything that is computed from them, and comparisons with NaN are all false. So
//! every trainer looks at what it has on the host anyway (rewards, losses, norms, weights that are hashed) and stops at
//! the first number that is not finite, before it is written anywhere.

use std::fmt::Display;

/// A quantity that is not finite. Nothing can be learned from it, and nothing that was computed from it is kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what} is {found} at {at}: {advice}")]
pub struct NotFinite {
    /// Which quantity of what: "the predicted reward of member 2".
    pub what: String,
    /// What was found.
    pub found: f64,
    /// When: "iteration 7 (environment step 16384)", "step 12".
    pub at: String,
    /// What to try.
    pub advice: &'static str,
}

impl NotFinite {
    /// An error if one of these values is not finite. `what` names it by its place among them.
    ///
    /// # Errors
    /// [`NotFinite`] with the first such value.
    pub fn check<W: Display>(
        values: impl IntoIterator<Item = f64>,
        what: impl FnOnce(usize) -> W,
        at: impl FnOnce() -> String,
        advice: &'static str,
    ) -> Result<(), Self> {
        match first(values) {
            None => Ok(()),
            Some((place, found)) => Err(Self { what: what(place).to_string(), found, at: at(), advice }),
        }
    }
}

/// The place and the value of the first number that is not finite.
#[must_use]
pub fn first(values: impl IntoIterator<Item: Into<f64>>) -> Option<(usize, f64)> {
    values.into_iter().map(Into::into).enumerate().find(|(_, value)| !value.is_finite())
}

/// Whether an error of type `E` is behind an error. With [`NotFinite`] the run failed, and nothing that was given is wrong
/// in form.
#[must_use]
pub fn is_behind<E: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<E>())
}

#[cfg(test)]
mod tests {
    use super::{NotFinite, first};

    #[test]
    fn the_first_of_them_is_named_with_its_place_and_value() {
        assert_eq!(first([0.0, -0.0, f64::MAX, f64::MIN_POSITIVE / 2.0]), None);
        assert_eq!(first([1.0, f64::NEG_INFINITY, f64::NAN]), Some((1, f64::NEG_INFINITY)));
        assert_eq!(first([1.0, f32::INFINITY]), Some((1, f64::INFINITY)));
        let found = NotFinite::check([1.0, f64::NAN], |i| format!("member {i}"), || "step 3".to_owned(), "stop");
        assert_eq!(found.unwrap_err().to_string(), "member 1 is NaN at step 3: stop");
    }
}
