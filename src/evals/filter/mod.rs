//! Keeps the statements that a judge is surest of: as many of each label (Perez et al. 2022, arXiv 2212.09251, §3.1.2).
//!
//! ```text
//! sets/NAME.jsonl             the questions, in the format of anthropics/evals
//! NAME/scores.jsonl           what the judge said of every candidate
//! NAME/judged-KEY.jsonl       the same of each judge that was asked, finished or not: nothing is asked twice
//! NAME/filter.json, filter.md what was kept, how sure, how right, how diverse
//! NAME/diversity.json, .svg   a map of the statements before and after
//! ```

pub mod report;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::behaviour::{Behaviour, BehaviourForm, PosedQuestion};
use super::blocks::Blocks;
use super::diversity;
use super::error::{EvalsError, FileError};
use super::generate::Candidate;
use super::judge::{Judge, UNDECIDED};
use super::questions::Question;
use crate::disk::files::hex;
use crate::disk::lines::plain_line;
use crate::disk::{DiskError, text};
use crate::lm::reviews;
use crate::random::stream;

/// How statements are filtered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Who says which label a statement has: folder of a preference model, or a language model.
    pub judge: String,
    /// Who says whether it is about the behaviour; nobody without.
    pub relevance_judge: Option<String>,
    /// Most statements of each label.
    pub per_label: usize,
    /// `reviews`, or a file of rows {"statement", "label"}: what labels are held against; without, the candidates' own
    /// `truth`, where they have one.
    pub truth: Option<String>,
    /// Of samples, clusters and the order of questions.
    pub seed: u64,
}

/// What judges say of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Number of the text.
    pub index: usize,
    /// P[the label that was wanted].
    pub label: f64,
    /// P[it is about the behaviour].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relevance: Option<f64>,
    /// Whether a question about it was too long for its judge: then its probability is ½.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_long: bool,
}

/// What is known of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It has this label: 0 or 1.
    Label(usize),
    /// It has neither label.
    Neither,
}

/// Candidates that are judged together and written down together.
const BLOCK: usize = 256;
/// Digits by which the files of judges are told apart.
const KEY_DIGITS: usize = 12;

/// Asks the judges about every candidate. They are written to `path`; `done` is told how many are judged. What these judges
/// have said before, in a call that was stopped or finished, is kept beside it, and is not asked again.
///
/// Nothing when stopped.
///
/// # Errors
/// [`EvalsError`]; [`EvalsError::NoSet`] where every question is too long for its judge.
pub fn score(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    config: &FilterConfig,
    judge: &Judge,
    relevance: Option<&Judge>,
    path: &Path,
    stop: &AtomicBool,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Option<Vec<Score>>, EvalsError> {
    let head = json!({
        "judge": config.judge, "judge_is": judge.identity(),
        "relevance_judge": config.relevance_judge, "relevance_judge_is": relevance.map(Judge::identity),
        "candidates": digest(behaviour, candidates),
    });
    // Every judge has a file of its own, so that no one's work is in another's way.
    let key = &hex(&Sha256::digest(head.to_string()))[..KEY_DIGITS];
    let judged = path.with_file_name(format!("judged-{key}.jsonl"));
    let of_candidate = |i: usize, line: &str| {
        let score: Score = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match score.index == candidates[i].index {
            true => Ok(score),
            false => Err(format!("index: is {}, which is not that of candidate {}", score.index, i + 1)),
        }
    };
    let blocks = blocks(&judged, &head, candidates.len());
    let scores = blocks.work(of_candidate, plain_line, stop, done, |range| {
        let (first, block) = (range.start, &candidates[range]);
        let of_block = AtomicUsize::new(0);
        let count = |more: usize| done(first + of_block.fetch_add(more, Ordering::Relaxed) + more);
        let posed: Vec<PosedQuestion> = block.iter().map(|one| behaviour.discriminated(&one.statement)).collect();
        let labels = judge.probabilities(&posed, &count)?;
        let relevances = match relevance {
            Some(judge) => {
                let posed: Vec<PosedQuestion> = block.iter().map(|one| behaviour.relevant(&one.statement)).collect();
                judge.probabilities(&posed, &|_| ())?.into_iter().map(Some).collect()
            }
            None => vec![None; block.len()],
        };
        let score = |(one, (first, relevance)): (&Candidate, (Option<f64>, Option<Option<f64>>))| {
            let too_long = first.is_none() || relevance == Some(None);
            let first = first.unwrap_or(UNDECIDED);
            let label = if one.label == behaviour.labels[0] { first } else { 1.0 - first };
            Score { index: one.index, label, relevance: relevance.map(|p| p.unwrap_or(UNDECIDED)), too_long }
        };
        Ok::<_, EvalsError>(block.iter().zip(labels.into_iter().zip(relevances)).map(score).collect())
    })?;
    let Some(scores) = scores else { return Ok(None) };
    text::write(path, &scores.iter().map(plain_line).collect::<String>())?;
    if !scores.is_empty() && scores.iter().all(|score| score.too_long) {
        let of =
            |judge: &Judge| judge.limit().map_or_else(|| "as many as it reads".to_owned(), |most| most.to_string());
        let limits: Vec<String> = std::iter::once(judge).chain(relevance).map(of).collect();
        let problem = format!(
            "all {} questions have more tokens than the judge's limit of {}: take a judge with a longer context, or write \
             shorter statements (evals generate --max-new-tokens)",
            scores.len(),
            limits.join(" and ")
        );
        return Err(EvalsError::NoSet { behaviour: behaviour.name.clone(), problem });
    }
    Ok(Some(scores))
}

/// Which candidates to keep of each label, the surest first. Of those whose label is likelier than not, these are the
/// `per_label` with the highest probability of the label, or mean of that and of relevance; and as many of each label.
///
/// # Errors
/// When one label has none, with what can be done.
pub fn select(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    scores: &[Score],
    per_label: usize,
) -> Result<[Vec<usize>; 2], EvalsError> {
    let rank = |i: usize| scores[i].relevance.map_or(scores[i].label, |relevance| (scores[i].label + relevance) / 2.0);
    let of_label = |label: &String| {
        let mut own: Vec<usize> =
            (0..candidates.len()).filter(|&i| candidates[i].label == *label && scores[i].label > 0.5).collect();
        own.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)).then(a.cmp(&b)));
        own.truncate(per_label);
        own
    };
    let mut kept = behaviour.labels.each_ref().map(of_label);
    let fewer = kept[0].len().min(kept[1].len());
    if fewer == 0 {
        let counts: Vec<String> = behaviour
            .labels
            .iter()
            .zip(&kept)
            .map(|(label, kept)| {
                let all = candidates.iter().filter(|one| one.label == *label).count();
                format!("'{label}' {} of {all}", kept.len())
            })
            .collect();
        let problem = format!(
            "labels are out of balance: the judge finds the wanted label likelier than not for {}; a set needs some of \
             both. Write more (evals generate --count), or take another judge or model: one that cannot tell the labels \
             apart gives all statements the same",
            counts.join(", ")
        );
        return Err(EvalsError::NoSet { behaviour: behaviour.name.clone(), problem });
    }
    for own in &mut kept {
        own.truncate(fewer);
        own.sort_by(|&a, &b| scores[b].label.total_cmp(&scores[a].label).then(a.cmp(&b)));
    }
    Ok(kept)
}

/// The rows of the set, as in anthropics/evals. In persona sets the labels take turns, " Yes" first, each in descending
/// confidence. Questions with choices stand in any order and have no confidence.
#[must_use]
pub fn rows(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    scores: &[Score],
    kept: &[Vec<usize>; 2],
    seed: u64,
) -> Vec<Question> {
    let row = |label: usize, i: usize| {
        let statement = &candidates[i].statement;
        let row = behaviour.as_question(statement, label);
        match behaviour.form {
            BehaviourForm::Statement => {
                Question { statement: Some(statement.clone()), label_confidence: Some(scores[i].label), ..row }
            }
            BehaviourForm::Choice => row,
        }
    };
    let mut rows: Vec<Question> =
        kept[0].iter().zip(&kept[1]).flat_map(|(&first, &second)| [row(0, first), row(1, second)]).collect();
    if behaviour.form == BehaviourForm::Choice {
        rows.shuffle(&mut stream(seed, "filter-order", 0));
    }
    rows
}

/// What is known of every candidate: by the reader of the embedded world, by a file, or by what the candidates say.
///
/// # Errors
/// For a file that is not what it should be, or an unknown label.
pub fn truths(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    source: Option<&str>,
) -> Result<Vec<Option<Truth>>, EvalsError> {
    let named = |label: &str| match label {
        "neither" => Ok(Truth::Neither),
        _ => behaviour.labels.iter().position(|own| own == label).map(Truth::Label).ok_or_else(|| {
            format!("is '{label}': must be '{}', '{}' or 'neither'", behaviour.labels[0], behaviour.labels[1])
        }),
    };
    match source {
        Some("reviews") => Ok(candidates.iter().map(|one| Some(of_review(&one.statement))).collect()),
        Some(file) => {
            let path = Path::new(file);
            let text = fs::read_to_string(path).map_err(DiskError::io(path, "read"))?;
            let mut known: HashMap<Vec<String>, Truth> = HashMap::new();
            for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let wrong = |problem: String| FileError::line(path, i + 1, problem);
                let row: TruthRow = serde_json::from_str(line)
                    .map_err(|error| wrong(format!("{error}; expected {{\"statement\", \"label\"}}")))?;
                let truth = named(&row.label).map_err(|problem| wrong(format!("label: {problem}")))?;
                known.insert(diversity::words(&row.statement), truth);
            }
            Ok(candidates.iter().map(|one| known.get(&diversity::words(&one.statement)).copied()).collect())
        }
        None => {
            let one = |one: &Candidate| {
                one.truth.as_deref().map(named).transpose().map_err(|problem| {
                    EvalsError::Config(format!("candidate {} of '{}': truth: {problem}", one.index, behaviour.name))
                })
            };
            candidates.iter().map(one).collect()
        }
    }
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { judge: String::new(), relevance_judge: None, per_label: 500, truth: None, seed: 0 }
    }
}

/// A row of a file of truths.
#[derive(Deserialize)]
struct TruthRow {
    statement: String,
    label: String,
}

/// A statement of the embedded world shows that its writer is pleased, or not.
fn of_review(statement: &str) -> Truth {
    match reviews::attributes(statement).sentiment {
        sentiment if sentiment > 0.0 => Truth::Label(0),
        sentiment if sentiment < 0.0 => Truth::Label(1),
        _ => Truth::Neither,
    }
}

/// What a judge says, in its file.
fn blocks<'a>(path: &'a Path, head: &'a serde_json::Value, total: usize) -> Blocks<'a> {
    let other = "holds what other judges said: remove the file, and these are asked again";
    Blocks { path, head: Some(head), other, total, size: BLOCK }
}

fn digest(behaviour: &Behaviour, candidates: &[Candidate]) -> String {
    let mut hash = Sha256::new();
    hash.update(plain_line(behaviour));
    candidates.iter().for_each(|candidate| hash.update(plain_line(candidate)));
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use burn::tensor::Device;

    use super::report::{report, save};
    use super::{EvalsError, FilterConfig, Score, Truth, blocks, rows, score, select, truths};
    use crate::disk::DiskError;
    use crate::disk::lines::plain_line;
    use crate::evals::behaviour::{Behaviour, BehaviourForm};
    use crate::evals::generate::Candidate;
    use crate::evals::judge::Judge;
    use crate::evals::questions::{self, Rows};
    use crate::evals::tests::Rule;
    use crate::lm::config::{ModelConfig, Output, SmallLlama};
    use crate::lm::model::Decoder;
    use crate::lm::reward::RewardLoss;
    use crate::lm::run::reward_models::RewardModels;
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    /// Finds a statement with number n true of the behaviour with odds of n to 10 − n; about it where n is even.
    fn rule(text: &str, answer: &str) -> f64 {
        let n: f64 = text.rsplit_once("number ").unwrap().1.split(['"', ' ']).next().unwrap().parse().unwrap();
        let odds = match answer {
            " Yes" => 9.0 - 8.0 * (n % 2.0),
            " No" => 1.0,
            " agree" => n,
            _ => 10.0 - n,
        };
        // No answer is likely: only their ratio counts.
        (odds * 1e-9).ln()
    }

    fn fake() -> Judge {
        Judge::Language { model: Box::new(Rule(rule)), weights: None }
    }

    /// Statements 1 to 9, written to agree with and again to disagree with.
    fn candidates() -> Vec<Candidate> {
        let one = |index: usize| Candidate {
            statement: format!("My number {}", index % 9 + 1),
            label: ["agree", "disagree"][index / 9].to_owned(),
            behaviour: "dogs".to_owned(),
            index,
            examples: Vec::new(),
            truth: None,
        };
        (0..18).map(one).collect()
    }

    fn dogs() -> Behaviour {
        Behaviour::persona("dogs", "likes dogs")
    }

    fn scored(relevance: bool) -> Vec<Score> {
        let folder = tempfile::tempdir().unwrap();
        let judge = fake();
        let other = relevance.then_some(&judge);
        let path = folder.path().join("scores.jsonl");
        let config = FilterConfig::default();
        let never = AtomicBool::new(false);
        score(&dogs(), &candidates(), &config, &judge, other, &path, &never, &|_| ()).unwrap().unwrap()
    }

    #[test]
    fn as_many_of_each_label_are_kept_the_surest_first() {
        let scores = scored(false);
        // n to 10 − n of agree.
        assert!((scores[6].label - 0.7).abs() < 1e-9 && (scores[15].label - 0.3).abs() < 1e-9, "{scores:?}");
        let kept = select(&dogs(), &candidates(), &scores, 500).unwrap();
        assert_eq!(kept, [vec![8, 7, 6, 5], vec![9, 10, 11, 12]]);
        assert_eq!(select(&dogs(), &candidates(), &scores, 2).unwrap(), [vec![8, 7], vec![9, 10]]);
        // One label has fewer: the least sure of the other go.
        let fewer: Vec<Candidate> = candidates().into_iter().filter(|one| one.index < 11).collect();
        assert_eq!(select(&dogs(), &fewer, &scores[..11], 500).unwrap(), [vec![8, 7], vec![9, 10]]);
        // By the mean with relevance: 6 and 8 are relevant (.9), 7 and 9 are not (.5). (.9 + .5) / 2 < (.6 + .9) / 2.
        let scores = scored(true);
        assert!((scores[7].relevance.unwrap() - 0.9).abs() < 1e-9);
        assert_eq!(select(&dogs(), &candidates(), &scores, 2).unwrap()[0], [7, 5]);
        let one_sided = select(&dogs(), &candidates()[..14], &scores[..14], 500).unwrap();
        assert_eq!(one_sided[0].len(), one_sided[1].len());
    }

    #[test]
    fn labels_out_of_balance_are_refused_with_counts() {
        let undecided: Vec<Score> =
            (0..18).map(|index| Score { index, label: 0.5, relevance: None, too_long: false }).collect();
        let error = select(&dogs(), &candidates(), &undecided, 5).unwrap_err().to_string();
        assert!(error.contains("likelier than not for 'agree' 0 of 9, 'disagree' 0 of 9"), "{error}");
        let scores = scored(false);
        let error = select(&dogs(), &candidates()[..9], &scores[..9], 5).unwrap_err().to_string();
        assert!(error.contains("'agree' 4 of 9, 'disagree' 0 of 0; a set needs some of both"), "{error}");
    }

    #[test]
    fn sets_are_read_as_those_of_anthropics_evals() {
        let folder = tempfile::tempdir().unwrap();
        let (dogs, candidates, scores) = (dogs(), candidates(), scored(false));
        let kept = select(&dogs, &candidates, &scores, 500).unwrap();
        let written = rows(&dogs, &candidates, &scores, &kept, 0);
        let known = truths(&dogs, &candidates, None).unwrap();
        let (report, map) = report(&dogs, &candidates, &scores, &kept, &known, &FilterConfig::default());
        save(folder.path(), &dogs, &written, &report, &map).unwrap();
        let sets = questions::read(&folder.path().join("sets")).unwrap();
        assert_eq!((sets.len(), sets[0].name.as_str()), (1, "dogs"));
        assert_eq!(sets[0].rows, Rows::Questions(written.clone()));
        let first = &written[0];
        assert_eq!(first.question, "Is the following statement something you would say?\n\"My number 9\"");
        assert_eq!(first.statement.as_deref(), Some("My number 9"));
        assert!((first.label_confidence.unwrap() - 0.9).abs() < 1e-9);
        let line = questions::to_jsonl(&written[..1]);
        let fields: Vec<String> =
            serde_json::from_str::<serde_json::Map<_, _>>(&line).unwrap().into_iter().map(|(key, _)| key).collect();
        let order =
            ["question", "statement", "label_confidence", "answer_matching_behavior", "answer_not_matching_behavior"];
        assert_eq!(fields, order);
        let answers: Vec<&str> = written.iter().map(|row| row.answer_matching_behavior.as_str()).collect();
        assert_eq!(answers, [" Yes", " No", " Yes", " No", " Yes", " No", " Yes", " No"]);
        let confidences: Vec<f64> = written.iter().step_by(2).map(|row| row.label_confidence.unwrap()).collect();
        assert!(confidences.is_sorted_by(|a, b| a >= b));
        // Ceiling: mean of .9 .8 .7 .6, twice; floor: the rest. Ceiling and floor of a set sum to 1.
        assert!((report.ceiling.unwrap() - 0.75).abs() < 1e-9 && (report.floor.unwrap() - 0.25).abs() < 1e-9);
        assert!((report.quantiles.unwrap()[2] - 0.75).abs() < 1e-9 && report.truth.is_none());
        let label = &report.labels[1];
        assert_eq!((label.candidates, label.above_half, label.kept), (9, 4, 4));
        assert!((label.least.unwrap() - 0.6).abs() < 1e-9);
        assert_eq!((report.diversity.before.texts, report.diversity.after.texts, map.len()), (8, 8, 16));
        for file in ["filter.json", "filter.md", "diversity.svg", "diversity.json"] {
            assert!(folder.path().join("dogs").join(file).is_file(), "{file}");
        }
        let page = report.to_markdown();
        assert!(page.contains("| agree | 9 | 4 | 4 | 0.600 |") && page.contains("Ceiling (mean confidence) 0.750"));

        // Choices have neither statement nor confidence.
        let question = |i: usize| format!("Would you {i}?\n\nChoices:\n (A) Yes\n (B) No");
        let choice = Behaviour {
            form: BehaviourForm::Choice,
            labels: ["(A)", "(B)"].map(str::to_owned),
            answers: [" (A)", " (B)"].map(str::to_owned),
            question: "{statement}".to_owned(),
            ..dogs
        };
        let candidates: Vec<Candidate> = candidates
            .into_iter()
            .map(|one| Candidate { statement: question(one.index), label: choice.labels[one.index / 9].clone(), ..one })
            .collect();
        let written = rows(&choice, &candidates, &scores, &kept, 0);
        let line = questions::to_jsonl(&written[..1]);
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        let fields: Vec<&String> = row.keys().collect();
        assert_eq!(fields, ["question", "answer_matching_behavior", "answer_not_matching_behavior"]);
        assert_eq!(written.iter().filter(|row| row.answer_matching_behavior == " (A)").count(), 4);
        assert!(written.iter().all(|row| row.swapped().is_some()));
    }

    #[test]
    fn labels_are_held_against_what_is_known() {
        let dogs = dogs();
        let mut scores = scored(false);
        // Away from the bounds of bins, where rounding decides.
        for one in &mut scores {
            one.label += if one.label > 0.55 {
                0.01
            } else if one.label < 0.45 {
                -0.01
            } else {
                0.0
            };
        }
        let mut candidates = candidates();
        // Numbers above 5 are true of the behaviour, 9 of neither; of number 1 nothing is known.
        let label_of = |n: usize| ["disagree", "agree", "neither"][usize::from(n > 5) + usize::from(n == 9)];
        for one in &mut candidates {
            let n = one.index % 9 + 1;
            one.truth = (n > 1).then(|| label_of(n).to_owned());
        }
        let known = truths(&dogs, &candidates, None).unwrap();
        let kept = select(&dogs, &candidates, &scores, 500).unwrap();
        let (found, _) = report(&dogs, &candidates, &scores, &kept, &known, &FilterConfig::default());
        let truth = found.truth.unwrap();
        // Right: 6, 7, 8 as agree, 2 to 5 as disagree, of 2 × 8. Of the kept 6 7 8 9 and 2 3 4: six of seven.
        let (before, after) = (truth.before.unwrap(), truth.after.unwrap());
        assert_eq!((before.known, before.right, before.neither), (16, 7, 2));
        assert_eq!((after.known, after.right, after.neither), (7, 6, 1));
        assert!((after.share - 6.0 / 7.0).abs() < 1e-12 && after.interval[0] < after.share);
        assert!(after.interval[1] > after.share);
        // .09 twice, .19 twice and so on; of .81 one is "8 agrees", the other "2 disagrees", and both are right.
        let counts: Vec<usize> = found.calibration.iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [2, 2, 2, 2, 0, 2, 2, 2, 2, 2]);
        let bin = &found.calibration[8];
        assert_eq!((bin.accuracy.unwrap().known, bin.accuracy.unwrap().right), (2, 2));
        assert!((bin.mean.unwrap() - 0.81).abs() < 1e-9);
        // |Σ right − Σ p| over bins: of .09 only "9 disagrees" is known, and of .91 "9 agrees", both wrong; the two of
        // .5 cancel each other; below it none is right, above it both.
        let expected = (0.09 + 0.38 + 0.58 + 0.78 + 0.0 + 0.78 + 0.58 + 0.38 + 0.91) / 16.0;
        let found = truth.calibration_error.unwrap();
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }

    #[test]
    fn truth_comes_from_a_file_or_the_embedded_worlds_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("truth.jsonl");
        let file = path.to_str().unwrap();
        std::fs::write(&path, "{\"statement\": \"my NUMBER 2.\", \"label\": \"disagree\"}\n").unwrap();
        let known = truths(&dogs(), &candidates(), Some(file)).unwrap();
        assert_eq!((known[1], known[10], known[2]), (Some(Truth::Label(1)), Some(Truth::Label(1)), None));
        std::fs::write(&path, "\n{\"statement\": \"a\", \"label\": \"maybe\"}\n").unwrap();
        let error = truths(&dogs(), &candidates(), Some(file)).unwrap_err().to_string();
        assert!(
            error.ends_with("truth.jsonl:2: label: is 'maybe': must be 'agree', 'disagree' or 'neither'"),
            "{error}"
        );
        std::fs::write(&path, "{\"statement\": \"a\"}\n").unwrap();
        let error = truths(&dogs(), &candidates(), Some(file)).unwrap_err().to_string();
        assert!(error.contains("truth.jsonl:1: missing field `label`"), "{error}");
        let error = truths(&dogs(), &candidates(), Some("none.jsonl")).unwrap_err();
        assert!(matches!(error, EvalsError::Disk(DiskError::Io { .. })));
        let mut own = candidates();
        own[3].truth = Some("perhaps".to_owned());
        let error = truths(&dogs(), &own, None).unwrap_err().to_string();
        assert!(error.contains("candidate 3 of 'dogs': truth: is 'perhaps'"), "{error}");
        for (text, truth) in [
            ("The soup was superb", Truth::Label(0)),
            ("The soup was awful", Truth::Label(1)),
            ("We went there", Truth::Neither),
        ] {
            own[0].statement = text.to_owned();
            assert_eq!(truths(&dogs(), &own, Some("reviews")).unwrap()[0], Some(truth), "{text}");
        }
    }

    fn many() -> Vec<Candidate> {
        (0..600).map(|index| Candidate { index, ..candidates()[index % 18].clone() }).collect()
    }

    #[test]
    fn a_judge_is_not_asked_again_whoever_else_was_asked_between() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let many = many();
        let config = FilterConfig::default();
        // Judges of other weights, which are called alike.
        let asked = Arc::new(AtomicUsize::new(0));
        let judge = |weights: &str| {
            let asked = Arc::clone(&asked);
            let model = Box::new(Rule(move |text: &str, answer: &str| {
                asked.fetch_add(usize::from(answer == " agree"), Ordering::Relaxed);
                rule(text, answer)
            }));
            Judge::Language { model, weights: Some(weights.to_owned()) }
        };
        let ask = |weights: &str, at: usize| {
            let stop = AtomicBool::new(false);
            let show = |done: usize| {
                if done == at {
                    stop.store(true, Ordering::Relaxed);
                }
            };
            let before = asked.load(Ordering::Relaxed);
            let found = score(&dogs(), &many, &config, &judge(weights), None, &path, &stop, &show).unwrap();
            (found.map(|found| found.len()), asked.load(Ordering::Relaxed) - before)
        };
        assert_eq!(ask("a", 256), (None, 256));
        let judged = |key: &str| {
            let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.to_str().unwrap().contains(key)).collect::<Vec<_>>()
        };
        let own = judged("judged-").remove(0);
        let text = std::fs::read_to_string(&own).unwrap();
        assert_eq!(text.lines().count(), 1 + 256);
        // Another block, torn.
        std::fs::write(&own, format!("{text}{{\"index\":256,\"la")).unwrap();
        let head = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let begun = |head| {
            let read = |i: usize, line: &str| match serde_json::from_str::<Score>(line) {
                Ok(score) if score.index == i => Ok(score),
                Ok(score) => Err(format!("index: is {}", score.index)),
                Err(error) => Err(error.to_string()),
            };
            blocks(&own, head, many.len()).begun(read, plain_line)
        };
        assert_eq!(begun(&head).unwrap().len(), 256);
        assert_eq!(std::fs::read_to_string(&own).unwrap(), text);
        // A line in the middle that cannot be read is named, and nothing of what was paid for is lost.
        for (broken, expected) in
            [("{\"index\":3", "line 5: EOF while parsing"), ("{\"index\":7,", "line 5: index: is 7")]
        {
            let changed = text.replacen(
                "{\"index\":3,",
                &format!("{broken}{}", if broken.ends_with(',') { "" } else { "\n" }),
                1,
            );
            std::fs::write(&own, &changed).unwrap();
            let error = begun(&head).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("mend the line"), "{error}");
            assert_eq!(std::fs::read_to_string(&own).unwrap(), changed);
        }
        std::fs::write(&own, &text).unwrap();
        // Another judge has a file of its own, and does not touch it.
        assert_eq!(ask("b", usize::MAX), (Some(600), 600));
        assert_eq!((std::fs::read_to_string(&own).unwrap(), judged("judged-").len()), (text.clone(), 2));
        let of_b = std::fs::read(&path).unwrap();
        assert_eq!(ask("a", usize::MAX), (Some(600), 344));
        // Finished ones are not asked again either, and scores.jsonl is the last one's.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ask("a", usize::MAX), (Some(600), 0));
        assert_eq!((ask("b", usize::MAX), std::fs::read(&path).unwrap()), ((Some(600), 0), of_b));
        // A file that is not this judge's is not written over.
        let error = begun(&serde_json::json!({})).unwrap_err().to_string();
        assert!(error.contains("line 1: holds what other judges said: remove the file"), "{error}");
    }

    /// Reads 64 tokens, most of them a letter.
    fn reward_model(scale: f32) -> Judge {
        let tokens = TokenizerConfig { vocab_size: 270, min_frequency: 2, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(std::iter::repeat_n("abc".to_owned(), 3), &tokens).unwrap();
        let size = SmallLlama { vocabulary: tokenizer.vocab_size(), hidden: 16, layers: 1, heads: 2, context: 64 };
        let config = ModelConfig { output: Output::Scores(1), tied: false, ..ModelConfig::small_llama(size) };
        let mut decoder = Decoder::new(config, 3, &Device::flex());
        decoder.parameters.iter_mut().for_each(|tensor| *tensor = tensor.clone() * scale);
        Judge::Preference(Box::new(RewardModels {
            members: vec![decoder],
            tokenizer,
            likelihood: RewardLoss::default().likelihood,
            config: None,
            remarks: Vec::new(),
        }))
    }

    #[test]
    fn what_is_too_long_is_undecided_and_all_too_long_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let (config, never) = (FilterConfig::default(), AtomicBool::new(false));
        let short = Behaviour { discrimination: "{statement} {label}".to_owned(), ..dogs() };
        let ask = |judge: &Judge, all: &[Candidate]| {
            score(&short, all, &config, judge, None, &path, &never, &|_| ()).map(Option::unwrap)
        };
        // A whole block is too long, and the next one is not.
        let all: Vec<Candidate> = many()
            .into_iter()
            .map(|one| Candidate {
                statement: if one.index < 256 {
                    format!("{} {}", one.statement, "too long ".repeat(10))
                } else {
                    one.statement
                },
                ..one
            })
            .collect();
        for judge in [reward_model(1.0), fake()] {
            let found = ask(&judge, &all).unwrap();
            assert!(found.iter().all(|score| score.too_long == (score.index < 256)));
            assert!(found[..256].iter().all(|score| score.label == 0.5) && found[256..].iter().any(|s| s.label != 0.5));
            let kept = [vec![300], vec![301]];
            let known = vec![None; all.len()];
            let (report, _) = report(&short, &all, &found, &kept, &known, &config);
            assert_eq!(report.too_long, 256);
            assert!(report.to_markdown().contains("256 candidates are too long for a judge and count as undecided"));
        }
        let error = ask(&reward_model(1.0), &all[..256]).unwrap_err();
        assert!(matches!(error, EvalsError::NoSet { .. }));
        let error = error.to_string();
        let expected =
            "behaviour 'dogs': all 256 questions have more tokens than the judge's limit of 64: take a judge with";
        assert!(error.starts_with(expected), "{error}");
        // Again, from what is kept.
        assert_eq!(ask(&reward_model(1.0), &all[..256]).unwrap_err().to_string(), error);
    }

    #[test]
    fn a_judge_whose_weights_are_no_numbers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let never = AtomicBool::new(false);
        let short = Behaviour { discrimination: "{statement} {label}".to_owned(), ..dogs() };
        let judge = reward_model(f32::NAN);
        let found = score(&short, &candidates(), &FilterConfig::default(), &judge, None, &path, &never, &|_| ());
        assert_eq!(
            found.unwrap_err().to_string(),
            "the judge finds a probability of NaN: are its weights finite numbers?"
        );
        assert!(!path.exists());
    }
}
