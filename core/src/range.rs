//! Settings that are out of their range, and the error that names them.

/// A setting that is out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} = {found}: must be {expected}")]
pub struct OutOfRange {
    /// Which setting.
    pub field: String,
    /// Its value.
    pub found: f64,
    /// What would be right, as the end of a sentence.
    pub expected: String,
}

impl OutOfRange {
    /// An error unless a setting is `fine`, and finite.
    ///
    /// # Errors
    /// [`OutOfRange`] with the setting, its value, and what would be right.
    pub fn check(field: &str, found: f64, fine: bool, expected: &str) -> Result<(), Self> {
        match fine && found.is_finite() {
            true => Ok(()),
            false => Err(Self { field: field.to_owned(), found, expected: expected.to_owned() }),
        }
    }

    /// The same error where the setting belongs to a group: `group.field`.
    #[must_use]
    pub fn of(self, group: &str) -> Self {
        Self { field: format!("{group}.{}", self.field), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::OutOfRange;

    #[test]
    fn a_setting_out_of_range_is_named_with_its_group() {
        assert_eq!(OutOfRange::check("rate", 0.5, true, "positive"), Ok(()));
        for (found, fine) in [(f64::NAN, true), (f64::INFINITY, true), (-1.0, false)] {
            let error = OutOfRange::check("rate", found, fine, "positive").unwrap_err();
            assert_eq!(error.of("optimizer").to_string(), format!("optimizer.rate = {found}: must be positive"));
        }
    }
}
