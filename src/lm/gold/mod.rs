//! Gold rewards: scores that are known, not learned from comparisons, against which what was learned is judged.

mod command;
mod lexicon;
pub mod logistic;

use std::io;
use std::path::PathBuf;

use rayon::prelude::*;
use regex::Regex;

use self::command::Command;
use self::lexicon::Lexicon;
use self::logistic::Logistic;
use super::reviews::{self, Attributes};

/// What is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scored<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The completion, with the white space that it begins with; prompt and completion together are the text.
    pub completion: &'a str,
}

/// A reward that is known, not learned from comparisons.
pub trait Gold: Send + Sync {
    /// One finite score for each row, in order; higher is better.
    ///
    /// # Errors
    /// When an external command fails; the built-in rewards cannot.
    fn scores(&self, rows: &[Scored<'_>]) -> Result<Vec<f64>, GoldError>;
}

/// A gold reward that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GoldError {
    /// Not the name of a gold reward.
    #[error("gold reward '{spec}': {reason}; possible are {POSSIBLE}")]
    Spec {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// A line of a file is not what it should be.
    #[error("{}: line {line}: {reason}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A file is not a saved model.
    #[error("{}: not a model that `lm gold train` saved: {reason}", path.display())]
    Model {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A training setting out of its range.
    #[error("{field} = {found}: must be {expected}")]
    Config {
        /// Setting.
        field: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Texts that no classifier can be trained on.
    #[error("cannot train a classifier: {0}")]
    Data(String),
    /// The external command did not do its part.
    #[error("gold reward command '{command}': {reason}{}", said(stderr))]
    Command {
        /// The command.
        command: String,
        /// What it did, and what would be right.
        reason: String,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
}

/// Opens the gold reward that a text names:
///
/// - `reviews:sentiment`, `reviews:politeness`, `reviews:specificity`, `reviews:length`: an attribute of prompt and
///   completion together (a clause may begin in the prompt), see [`reviews::attributes`]; length in words;
/// - `lexicon:FILE`: the sum of the valences of the completion's words in a lexicon in VADER's format (Hutto & Gilbert
///   2014), `word TAB valence`, further columns ignored. Only the lexicon is used, none of VADER's rules of grammar;
/// - `lexicon-compound:FILE`: that sum x as x / √(x² + 15), in (−1, 1), VADER's normalisation;
/// - `logistic:FILE`: probability of the class "pos" that a saved [`Logistic`] gives to prompt and completion together
///   (Rafailov et al. 2023, §6: p(positive | x, y)); `logistic-odds:FILE`: its log-odds;
/// - `length`: words of the completion; `length:N`: −|words − N|;
/// - `regex:PATTERN`: number of matches in the completion that do not overlap;
/// - `command:PROGRAM ARGUMENT…`, split at white space: a program that is started once and answers each line
///   `{"prompt": …, "completion": …}` on its standard input with a line `{"score": number}` on its standard output.
///
/// # Errors
/// [`GoldError::Spec`] for anything else, with the list of what is possible; the other ones for a file that is not as
/// it should be, or a program that cannot be started.
pub fn open(spec: &str) -> Result<Box<dyn Gold>, GoldError> {
    let wrong = |reason: &str| GoldError::Spec { spec: spec.to_owned(), reason: reason.to_owned() };
    let (name, rest) = spec.split_once(':').map_or((spec, None), |(name, rest)| (name, Some(rest)));
    let argument = |what: &str| match rest {
        Some(rest) if !rest.trim().is_empty() => Ok(rest),
        _ => Err(wrong(&format!("'{name}:' must be followed by {what}"))),
    };
    Ok(match name {
        "reviews" => {
            let attribute: fn(&Attributes) -> f64 = match argument("an attribute")? {
                "sentiment" => |a| a.sentiment,
                "politeness" => |a| a.politeness,
                "specificity" => |a| a.specificity,
                "length" => |a| a.words as f64,
                other => return Err(wrong(&format!("reviews have no attribute '{other}'"))),
            };
            Box::new(Whole(move |text: &str| attribute(&reviews::attributes(text))))
        }
        "lexicon" => {
            let lexicon = Lexicon::read(argument("a file")?.as_ref())?;
            Box::new(Completion(move |text: &str| lexicon.sum(text)))
        }
        "lexicon-compound" => {
            let lexicon = Lexicon::read(argument("a file")?.as_ref())?;
            Box::new(Completion(move |text: &str| lexicon::compound(lexicon.sum(text))))
        }
        "logistic" => {
            let model = Logistic::read(argument("a file")?.as_ref())?;
            Box::new(Whole(move |text: &str| model.probability(text)))
        }
        "logistic-odds" => {
            let model = Logistic::read(argument("a file")?.as_ref())?;
            Box::new(Whole(move |text: &str| model.log_odds(text)))
        }
        "length" if rest.is_none() => Box::new(Completion(|text: &str| reviews::words(text) as f64)),
        "length" => {
            let target = argument("a number of words")?.parse::<u32>();
            let target = target.map_err(|_| wrong("the length to aim at must be a whole number of words"))?;
            Box::new(Completion(move |text: &str| -(reviews::words(text) as f64 - f64::from(target)).abs()))
        }
        "regex" => {
            let pattern = Regex::new(argument("a pattern")?).map_err(|error| wrong(&error.to_string()))?;
            Box::new(Completion(move |text: &str| pattern.find_iter(text).count() as f64))
        }
        "command" => Box::new(Command::start(argument("a program")?)?),
        _ => return Err(wrong("there is none of this name")),
    })
}

/// What [`open`] takes, for messages.
const POSSIBLE: &str = "reviews:sentiment|politeness|specificity|length, lexicon:FILE, lexicon-compound:FILE, \
                        logistic:FILE, logistic-odds:FILE, length, length:WORDS, regex:PATTERN, \
                        command:PROGRAM ARGUMENT…";

/// A function of the completion.
struct Completion<F>(F);

/// A function of prompt and completion together.
struct Whole<F>(F);

impl<F: Fn(&str) -> f64 + Send + Sync> Gold for Completion<F> {
    fn scores(&self, rows: &[Scored<'_>]) -> Result<Vec<f64>, GoldError> {
        Ok(rows.par_iter().map(|row| self.0(row.completion)).collect())
    }
}

impl<F: Fn(&str) -> f64 + Send + Sync> Gold for Whole<F> {
    fn scores(&self, rows: &[Scored<'_>]) -> Result<Vec<f64>, GoldError> {
        Ok(rows.par_iter().map(|row| self.0(&[row.prompt, row.completion].concat())).collect())
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its standard error ends with:\n{stderr}") }
}

#[cfg(test)]
mod tests {
    use super::{GoldError, Scored, open};

    fn score(spec: &str, prompt: &str, completion: &str) -> f64 {
        open(spec).unwrap().scores(&[Scored { prompt, completion }]).unwrap()[0]
    }

    #[test]
    fn each_reward_scores_what_it_says() {
        for (spec, expected) in [
            ("reviews:length", 8.0),
            ("length", 5.0),
            ("length:7", -2.0),
            ("regex:o+", 4.0),
            // "not" in the prompt turns the completion's "good": −½ shrunk by one judgement to −¼.
            ("reviews:sentiment", -0.25 / (1.0 + 0.0625_f64).sqrt()),
            ("reviews:politeness", 0.0),
        ] {
            assert_eq!(score(spec, "Tea was not", " good, so we took one ."), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_not_a_reward_is_answered_with_the_list() {
        for spec in [
            "",
            "sentiment",
            "reviews",
            "reviews:",
            "reviews:joy",
            "lexicon:",
            "length:x",
            "length:-3",
            "regex:(",
            "command: ",
        ] {
            let error = open(spec).err().unwrap_or_else(|| panic!("'{spec}' was taken"));
            assert!(matches!(error, GoldError::Spec { .. }), "{error}");
            assert!(error.to_string().contains("reviews:sentiment|"), "{error}");
        }
        let missing = open("logistic:/nowhere/model.json").err().unwrap().to_string();
        assert!(missing.starts_with("/nowhere/model.json: "), "{missing}");
    }
}
