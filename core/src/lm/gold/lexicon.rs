//! Sums of valences by a lexicon in VADER's format.

use std::collections::HashMap;
use std::path::Path;

use super::reward::GoldError;
use crate::disk::DiskError;

/// Valences of words.
pub(super) struct Lexicon(HashMap<String, f64>);

impl Lexicon {
    /// Reads lines `word TAB valence`. Further columns are ignored. If a word has several lines, the last one counts,
    /// as in VADER, whose own file has such words.
    pub(super) fn read(path: &Path) -> Result<Self, GoldError> {
        let text = std::fs::read_to_string(path).map_err(DiskError::io(path, "read"))?;
        let mut valences = HashMap::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |reason| DiskError::Line { path: path.to_owned(), line: i + 1, reason };
            let mut fields = line.split('\t');
            let (word, valence) = fields
                .next()
                .zip(fields.next())
                .ok_or_else(|| wrong(format!("'{line}' must be a word, a tab and a valence")))?;
            let number = valence.trim().parse().ok().filter(|v: &f64| v.is_finite());
            let number = number.ok_or_else(|| wrong(format!("the valence '{valence}' must be a finite number")))?;
            valences.insert(word.to_lowercase(), number);
        }
        if valences.is_empty() {
            let reason = "the file has no word".to_owned();
            return Err(DiskError::Line { path: path.to_owned(), line: 1, reason }.into());
        }
        Ok(Self(valences))
    }

    /// Sum of the valences of a text's words. A word is a stretch between white space, in small letters. It is looked
    /// up with its punctuation first (":-)"), and without the punctuation around it where the lexicon lacks that.
    pub(super) fn sum(&self, text: &str) -> f64 {
        let valence = |word: &str| {
            let bare = word.trim_matches(|c: char| c.is_ascii_punctuation());
            self.0.get(word).or_else(|| self.0.get(bare)).copied().unwrap_or(0.0)
        };
        text.to_lowercase().split_whitespace().map(valence).sum()
    }
}

/// x / √(x² + 15): VADER's "compound".
pub(super) fn compound(sum: f64) -> f64 {
    sum / (sum * sum + 15.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::{Lexicon, compound};

    #[test]
    fn words_are_found_as_they_stand_or_without_punctuation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lexicon.txt");
        std::fs::write(&path, "good\t1.9\t0.9\t[2, 1]\nbad\t-2.5\n:-)\t1.3\nGood\t2.0\n\n").unwrap();
        let lexicon = Lexicon::read(&path).unwrap();
        for (text, expected) in [("(Good!) :-)", 3.3), ("bad good bad", -3.0), ("goodness", 0.0), ("", 0.0)] {
            assert_eq!(lexicon.sum(text), expected, "{text}");
        }
        for (content, reason) in
            [("good 1.9\n", "line 1: "), ("\nbad\tx\n", "line 2: "), ("bad\tNaN\n", "finite"), ("", "no word")]
        {
            std::fs::write(&path, content).unwrap();
            let error = Lexicon::read(&path).err().unwrap().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    /// Valences looked up by hand in VADER's file: good 1.9, food 0, great 3.1, horrible −2.5, love 3.2, :) 2.0.
    #[test]
    fn vader_sums_by_hand() {
        let lexicon = Lexicon::read(&crate::fixtures::own("vader/vader_lexicon.txt")).unwrap();
        for (text, expected) in [
            ("The food was good, the view GREAT.", 1.9 + 3.1),
            ("A horrible trip; but I love trains :)", -2.5 + 3.2 + 2.0),
            ("Nothing at all.", 0.0),
        ] {
            assert!((lexicon.sum(text) - expected).abs() < 1e-12, "{text}: {}", lexicon.sum(text));
        }
        // VADER's documented compound of a sum of 4 would be 4 / √31.
        assert!((compound(4.0) - 0.718_421_2).abs() < 1e-6);
    }
}
