//! Gold rewards: scores that are known, not learned from comparisons. What was learned is judged by them.

mod command;
mod lexicon;
pub mod logistic;
mod reward;

use rayon::prelude::*;
use regex::Regex;

use self::command::ScoringCommand;
use self::lexicon::Lexicon;
use self::logistic::Logistic;
pub use self::reward::{Gold, GoldError, Scored};
use super::reviews::{self, Attributes};

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
/// [`GoldError::Spec`] for anything else, with the list of what is possible. Other errors are about a file that cannot
/// be used, or a program that cannot be started.
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
        "command" => Box::new(ScoringCommand::start(argument("a program")?)?),
        _ => return Err(wrong("there is no gold reward of this name")),
    })
}

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
            "", "sentiment", "reviews", "reviews:", "reviews:joy", "lexicon:", "length:x", "length:-3", "regex:(",
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
