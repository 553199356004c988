//! People check a sample of a set: is the label right, is the question about the behaviour, is it clear?
//!
//! Perez et al. 2022, section 3.4: several raters answer the same items, each in an order of their own, and none sees the set's
//! labels or another's answers.
//!
//! - [`folder`]: what is drawn and answered, on disk
//! - [`report`]: how far raters agree with the set and with each other

pub mod folder;
pub mod report;

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

use super::error::EvalsError;
use super::questions::{Question, Rows, Set};
use crate::random::stream;

/// What is checked, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// The set's name: that of its file.
    pub name: String,
    /// The set's file.
    pub set: String,
    /// SHA-256 of that file when the sample was drawn.
    pub set_sha256: String,
    /// Questions in the sample.
    pub sample: usize,
    /// Questions that every rater gets twice without being told, to see whether they agree with themselves.
    pub repeats: usize,
    /// Seed of the sample and of all orders.
    pub seed: u64,
    /// The behaviour, as it goes on after "somebody who".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<String>,
}

/// A question of the sample, without its label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleItem {
    /// Number in the sample, from 0.
    pub item: usize,
    /// What is asked.
    pub question: String,
    /// Of persona sets: the statement in the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// The matching answer and another one, in alphabetical order, as the set writes them.
    pub answers: [String; 2],
}

/// What the set says of an item: kept apart from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Number in the sample, from 0.
    pub item: usize,
    /// Row of the set, from 0.
    pub row: usize,
    /// The answer that matches the behaviour.
    pub matching: String,
    /// How sure the set is of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_confidence: Option<f64>,
}

/// An answer of a rater.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub rater: String,
    /// The item.
    pub item: usize,
    /// Whether the rater had answered it before, unknown to them.
    #[serde(default)]
    pub repeat: bool,
    /// The answer of somebody with the behaviour, as the set writes it; nothing for "can't tell".
    pub label: Option<String>,
    /// Whether the question is about the behaviour: 1 not at all, 5 entirely.
    pub relevance: u8,
    /// Whether the question can be understood in several ways.
    pub ambiguous: bool,
    /// Milliseconds from the question's appearance to the answer.
    pub milliseconds: u64,
    /// When, in seconds since 1970.
    pub time: f64,
}

/// A line of the answers' file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// An item was answered.
    Answer(Answer),
    /// An answer was taken back.
    Undo {
        /// Whose.
        rater: String,
        /// Of which item.
        item: usize,
        /// Of its second showing.
        #[serde(default)]
        repeat: bool,
        /// When, in seconds since 1970.
        time: f64,
    },
    /// A rater has answered everything and sees the report: their answers are final.
    Finish {
        /// Who.
        rater: String,
        /// When, in seconds since 1970.
        time: f64,
    },
}

/// An item as a rater gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The item.
    pub item: usize,
    /// Whether it was there before.
    pub repeat: bool,
    /// Which of its answers is shown first.
    pub first: usize,
}

/// What a rater reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaterQuestion {
    /// The statement, or the whole question.
    pub text: String,
    /// What to say about it.
    pub question: String,
    /// The answers to choose from.
    pub answers: [String; 2],
}

/// Longest name of a rater, characters.
const LONGEST_NAME: usize = 60;

/// Draws a sample: as many of each label as the set has, in an order that tells nothing.
///
/// Of questions with several answers that do not match, one is drawn.
///
/// # Errors
/// [`EvalsError::Config`]: the set has no questions with answers, or the sample is empty.
pub fn draw(set: &Set, config: &ValidationConfig) -> Result<(Vec<SampleItem>, Vec<Key>), EvalsError> {
    let refused = |problem: String| Err(EvalsError::Config(problem));
    let questions = match &set.rows {
        Rows::Questions(questions) => questions,
        Rows::Sentences(_) | Rows::Occupations(_) => {
            return refused(format!(
                "{}: holds no questions with labels (it is of Winogenerated): there is nothing for people to agree with",
                set.path.display()
            ));
        }
    };
    if config.sample == 0 {
        return refused("sample: must be 1 or more".to_owned());
    }
    let mut rows = stratified(questions, config.sample, config.seed);
    // Sorted first, so that the order does not depend on the labels by way of the strata.
    rows.sort_unstable();
    rows.shuffle(&mut stream(config.seed, "validation order", 0));
    if config.repeats > rows.len() / 2 {
        return refused(format!(
            "repeats: is {}, and must be at most half of the {} items: the first half can be shown again in the second",
            config.repeats,
            rows.len()
        ));
    }
    let drawn = rows.into_iter().enumerate().map(|(item, row)| {
        let question = &questions[row];
        let others = &question.answer_not_matching_behavior;
        let other = stream(config.seed, "validation answer", row as u64).random_range(0..others.len());
        let mut answers = [question.answer_matching_behavior.clone(), others[other].clone()];
        answers.sort();
        let key = Key {
            item,
            row,
            matching: question.answer_matching_behavior.clone(),
            label_confidence: question.label_confidence,
        };
        let (text, statement) = (question.question.clone(), question.statement.clone());
        (SampleItem { item, question: text, statement, answers }, key)
    });
    Ok(drawn.unzip())
}

/// The items in a rater's own order, some of them twice.
///
/// Which answer stands first is drawn. Where all items have the same two answers it is drawn once for each rater: "Yes"
/// and "No" that change places make people err, and the place tells nothing either way. (A) and (B) stand as in the
/// question.
#[must_use]
pub fn turns(items: &[SampleItem], config: &ValidationConfig, rater: &str) -> Vec<Turn> {
    let mut order: Vec<(usize, bool)> = (0..items.len()).map(|item| (item, false)).collect();
    order.shuffle(&mut stream(config.seed, &format!("validation order of {rater}"), 0));
    let half = order.len() / 2;
    let again: Vec<(usize, bool)> = order[..config.repeats.min(half)].iter().map(|&(item, _)| (item, true)).collect();
    order.extend(again);
    order[half..].shuffle(&mut stream(config.seed, &format!("validation order of {rater}"), 1));
    let alike = items.windows(2).all(|pair| pair[0].answers == pair[1].answers);
    let sides = format!("validation sides of {rater}");
    let turn = |(turn, (item, repeat)): (usize, (usize, bool))| {
        let index = if alike { 0 } else { turn as u64 };
        let first = match items[item].answers.iter().all(|answer| is_choice(answer)) {
            true => 0,
            false => usize::from(stream(config.seed, &sides, index).random_bool(0.5)),
        };
        Turn { item, repeat, first }
    };
    order.into_iter().enumerate().map(turn).collect()
}

/// What a rater reads of an item.
#[must_use]
pub fn asked(config: &ValidationConfig, item: &SampleItem, turn: Turn) -> RaterQuestion {
    let words = |answer: &str| answer.trim().to_lowercase();
    let yes_or_no = item.answers.iter().all(|answer| matches!(words(answer).as_str(), "yes" | "no"));
    let [first, second] = [turn.first, 1 - turn.first].map(|i| item.answers[i].trim().to_owned());
    let behaviour = config.behaviour.as_deref().map(|text| text.trim().trim_end_matches('.'));
    let (text, question) = match (behaviour.filter(|text| !text.is_empty()), &item.statement) {
        (Some(behaviour), Some(statement)) if yes_or_no => {
            (statement.as_str(), format!("Would somebody who {behaviour} agree?"))
        }
        (Some(behaviour), _) => (item.question.as_str(), format!("Which answer would somebody who {behaviour} give?")),
        (None, _) => {
            let name = config.name.replace(['-', '_'], " ");
            (item.question.as_str(), format!("Which answer shows the behaviour “{name}”?"))
        }
    };
    RaterQuestion { text: text.trim().to_owned(), question, answers: [first, second] }
}

/// The answers that were not taken back, in the order in which they were given. Of two of the same rater for the same
/// showing, the later one.
#[must_use]
pub fn in_force(events: &[Event]) -> Vec<&Answer> {
    let mut answers: Vec<Option<&Answer>> = Vec::new();
    let mut at: BTreeMap<(&str, usize, bool), usize> = BTreeMap::new();
    for event in events {
        match event {
            Event::Answer(answer) => {
                let showing = (answer.rater.as_str(), answer.item, answer.repeat);
                if let Some(before) = at.insert(showing, answers.len()) {
                    answers[before] = None;
                }
                answers.push(Some(answer));
            }
            Event::Undo { rater, item, repeat, .. } => {
                if let Some(before) = at.remove(&(rater.as_str(), *item, *repeat)) {
                    answers[before] = None;
                }
            }
            Event::Finish { .. } => {}
        }
    }
    answers.into_iter().flatten().collect()
}

/// The answers of a rater that are in force.
#[must_use]
pub fn answers_of<'a>(events: &'a [Event], rater: &str) -> Vec<&'a Answer> {
    in_force(events).into_iter().filter(|answer| answer.rater == rater).collect()
}

/// The first of a rater's turns without an answer; nothing when all have one.
#[must_use]
pub fn next_turn(turns: &[Turn], answers: &[&Answer]) -> Option<Turn> {
    let answered = |turn: &Turn| answers.iter().any(|answer| (answer.item, answer.repeat) == (turn.item, turn.repeat));
    turns.iter().copied().find(|turn| !answered(turn))
}

/// Whether a rater's answers are final.
#[must_use]
pub fn is_final(events: &[Event], who: &str) -> bool {
    events.iter().any(|event| matches!(event, Event::Finish { rater, .. } if rater == who))
}

/// Median milliseconds of answers; nothing of none.
#[must_use]
pub fn median_milliseconds(answers: &[&Answer]) -> Option<u64> {
    let mut times: Vec<u64> = answers.iter().map(|answer| answer.milliseconds).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// A rater's name without spaces around it.
///
/// # Errors
/// [`EvalsError::Config`], when it cannot be one.
pub fn rater_name(name: &str) -> Result<&str, EvalsError> {
    let refused = |problem: String| Err(EvalsError::Config(problem));
    let name = name.trim();
    match name {
        "" => refused("the rater needs a name, by which the answers of several people are told apart".to_owned()),
        long if long.chars().count() > LONGEST_NAME => {
            refused(format!("the rater's name has {} characters: at most {LONGEST_NAME}", long.chars().count()))
        }
        odd if odd.chars().any(char::is_control) => refused("the rater's name must be on one line".to_owned()),
        name => Ok(name),
    }
}

/// An answer like "(A)".
fn is_choice(answer: &str) -> bool {
    let letter = answer.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    letter.is_some_and(|letter| letter.chars().count() == 1)
}

/// Rows of a sample in which every label has its share of the set: the largest remainders get what is left, ties by lot.
fn stratified(questions: &[Question], sample: usize, seed: u64) -> Vec<usize> {
    let sample = sample.min(questions.len());
    let mut strata: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, question) in questions.iter().enumerate() {
        strata.entry(question.answer_matching_behavior.trim()).or_default().push(row);
    }
    let mut strata: Vec<Vec<usize>> = strata.into_values().collect();
    strata.shuffle(&mut stream(seed, "validation strata", 0));
    let share = |rows: &Vec<usize>| (rows.len() * sample / questions.len(), rows.len() * sample % questions.len());
    let mut quotas: Vec<usize> = strata.iter().map(|rows| share(rows).0).collect();
    let mut by_remainder: Vec<usize> = (0..strata.len()).collect();
    by_remainder.sort_by_key(|&i| std::cmp::Reverse(share(&strata[i]).1));
    let left = sample - quotas.iter().sum::<usize>();
    by_remainder.into_iter().take(left).for_each(|i| quotas[i] += 1);
    let mut drawn = Vec::new();
    for (i, (mut rows, quota)) in strata.into_iter().zip(quotas).enumerate() {
        rows.shuffle(&mut stream(seed, "validation sample", i as u64));
        drawn.extend(rows.into_iter().take(quota));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;

    use super::{
        Answer, Event, SampleItem, Turn, ValidationConfig, answers_of, asked, draw, in_force, median_milliseconds,
        next_turn, rater_name, turns,
    };
    use crate::evals::questions::{Question, Rows, Set};

    fn question(statement: &str, matching: &str, others: &[&str]) -> Question {
        Question {
            question: format!("Is the following statement something you would say?\n\"{statement}\""),
            statement: Some(statement.to_owned()),
            label_confidence: Some(0.875),
            answer_matching_behavior: matching.to_owned(),
            answer_not_matching_behavior: others.iter().map(|&other| other.to_owned()).collect(),
            other: serde_json::Map::new(),
        }
    }

    fn set(rows: Vec<Question>) -> Set {
        Set { name: "likes-tea".to_owned(), path: PathBuf::from("likes-tea.jsonl"), rows: Rows::Questions(rows) }
    }

    pub(super) fn config(sample: usize) -> ValidationConfig {
        ValidationConfig {
            name: "likes-tea".to_owned(),
            set: "likes-tea.jsonl".to_owned(),
            set_sha256: String::new(),
            sample,
            repeats: 0,
            seed: 7,
            behaviour: None,
        }
    }

    pub(super) fn given(rater: &str, item: usize, label: Option<&str>) -> Answer {
        Answer {
            rater: rater.to_owned(),
            item,
            repeat: false,
            label: label.map(str::to_owned),
            relevance: 4,
            ambiguous: false,
            milliseconds: 1500,
            time: 1.5,
        }
    }

    /// Three of four match by "Yes".
    fn tea(rows: usize) -> Vec<Question> {
        let one = |i: usize| match i % 4 {
            0 => question(&format!("tea {i}"), " No", &[" Yes"]),
            _ => question(&format!("tea {i}"), " Yes", &[" No"]),
        };
        (0..rows).map(one).collect()
    }

    #[test]
    fn a_sample_has_every_label_in_its_share_and_is_the_same_for_the_same_seed() {
        let set = set(tea(400));
        let (items, keys) = draw(&set, &config(40)).unwrap();
        assert_eq!(items.len(), 40);
        let mut labels = BTreeMap::new();
        keys.iter().for_each(|key| *labels.entry(key.matching.as_str()).or_insert(0) += 1);
        assert_eq!(labels, BTreeMap::from([(" No", 10), (" Yes", 30)]));
        let rows: BTreeSet<usize> = keys.iter().map(|key| key.row).collect();
        assert_eq!(rows.len(), 40, "no question twice");
        for (i, (item, key)) in items.iter().zip(&keys).enumerate() {
            assert_eq!((item.item, key.item), (i, i));
            assert_eq!(item.statement.as_deref(), Some(format!("tea {}", key.row).as_str()));
            assert_eq!(item.answers, [" No", " Yes"]);
        }
        assert_eq!(draw(&set, &config(40)).unwrap(), (items.clone(), keys));
        assert_ne!(draw(&set, &ValidationConfig { seed: 8, ..config(40) }).unwrap().0, items);
        // One of 41 is a remainder of 10.25 and 30.75: it goes to the larger one.
        let keys = draw(&set, &config(41)).unwrap().1;
        assert_eq!(keys.iter().filter(|key| key.matching == " Yes").count(), 31);
        // All of them where the set has no more, and labels that all differ are no reason to prefer any.
        assert_eq!(draw(&set, &config(4000)).unwrap().0.len(), 400);
    }

    #[test]
    fn answers_that_all_differ_are_drawn_evenly() {
        let rows: Vec<Question> = (0..200).map(|i| question("s", &format!(" {i:03}"), &[" other"])).collect();
        let set = set(rows);
        let mut drawn = vec![0; 200];
        for seed in 0..400 {
            let (_, keys) = draw(&set, &ValidationConfig { seed, ..config(20) }).unwrap();
            keys.iter().for_each(|key| drawn[key.row] += 1);
        }
        // 400 draws of a tenth: 40 each, standard deviation 6; the halves 4000 each.
        assert!(drawn.iter().all(|&count| (14..=70).contains(&count)), "{drawn:?}");
        let first: usize = drawn[..100].iter().sum();
        assert!((3700..=4300).contains(&first), "{first}");
    }

    #[test]
    fn what_raters_see_does_not_depend_on_the_labels() {
        let rows = tea(60);
        let flipped: Vec<Question> = rows
            .iter()
            .map(|row| Question {
                answer_matching_behavior: row.answer_not_matching_behavior[0].clone(),
                answer_not_matching_behavior: vec![row.answer_matching_behavior.clone()],
                label_confidence: Some(0.5),
                ..row.clone()
            })
            .collect();
        let config = config(60);
        let (a, keys_a) = draw(&set(rows), &config).unwrap();
        let (b, keys_b) = draw(&set(flipped), &config).unwrap();
        assert_eq!(a, b);
        assert!(keys_a.iter().zip(&keys_b).all(|(a, b)| a.row == b.row && a.matching != b.matching));
        let text = serde_json::to_string(&a).unwrap();
        assert!(!text.contains("0.875") && !text.contains("matching"), "{text}");
    }

    #[test]
    fn raters_have_orders_of_their_own_and_repeats_come_later() {
        let (items, _) = draw(&set(tea(40)), &config(20)).unwrap();
        let config = ValidationConfig { repeats: 6, ..config(20) };
        let (ann, ben) = (turns(&items, &config, "Ann"), turns(&items, &config, "Ben"));
        assert_eq!(ann, turns(&items, &config, "Ann"));
        assert_ne!(ann.iter().map(|t| t.item).collect::<Vec<_>>(), ben.iter().map(|t| t.item).collect::<Vec<_>>());
        for turns in [&ann, &ben] {
            assert_eq!(turns.len(), 26);
            let once: BTreeSet<usize> = turns.iter().filter(|turn| !turn.repeat).map(|turn| turn.item).collect();
            assert_eq!(once.len(), 20);
            let place = |item, repeat| turns.iter().position(|t| (t.item, t.repeat) == (item, repeat)).unwrap();
            let again: Vec<usize> = turns.iter().filter(|turn| turn.repeat).map(|turn| turn.item).collect();
            assert_eq!(again.len(), 6);
            assert!(again.iter().all(|&item| place(item, false) < 10 && place(item, true) >= 10));
            // Yes and No keep their places for a rater.
            assert!(turns.iter().all(|turn| turn.first == turns[0].first));
        }
        // Between raters they do not.
        let firsts: BTreeSet<usize> = (0..20).map(|i| turns(&items, &config, &format!("r{i}"))[0].first).collect();
        assert_eq!(firsts.len(), 2);
    }

    #[test]
    fn choices_stand_as_in_the_question_and_other_answers_by_lot() {
        let choices: Vec<Question> = (0..30).map(|_| question("s", " (B)", &[" (A)"])).collect();
        let (items, _) = draw(&set(choices), &config(30)).unwrap();
        assert!(turns(&items, &config(30), "Ann").iter().all(|turn| turn.first == 0));
        let texts: Vec<Question> = (0..100).map(|i| question("s", &format!("yes {i}"), &["no"])).collect();
        let (items, _) = draw(&set(texts), &config(100)).unwrap();
        let first = turns(&items, &config(100), "Ann").iter().filter(|turn| turn.first == 0).count();
        // 100 tosses: standard deviation 5.
        assert!((30..=70).contains(&first), "{first}");
    }

    #[test]
    fn of_several_other_answers_one_is_drawn() {
        let rows: Vec<Question> = (0..90).map(|_| question("s", " (B)", &[" (A)", " (C)", " (D)"])).collect();
        let (items, _) = draw(&set(rows), &config(90)).unwrap();
        let mut others = BTreeMap::new();
        for item in &items {
            let other = item.answers.iter().find(|answer| *answer != " (B)").unwrap();
            *others.entry(other.as_str()).or_insert(0) += 1;
        }
        assert_eq!(others.values().sum::<usize>(), 90);
        assert!(others.len() == 3 && others.values().all(|&count| count >= 15), "{others:?}");
    }

    #[test]
    fn statements_are_asked_about_as_such_where_the_behaviour_is_described() {
        let item = SampleItem {
            item: 0,
            question: "Is the following statement something you would say?\n\"Tea!\"".to_owned(),
            statement: Some("Tea!".to_owned()),
            answers: [" No".to_owned(), " Yes".to_owned()],
        };
        let turn = Turn { item: 0, repeat: false, first: 1 };
        let described = ValidationConfig { behaviour: Some("likes tea. ".to_owned()), ..config(1) };
        let shown = asked(&described, &item, turn);
        assert_eq!((shown.text.as_str(), shown.question.as_str()), ("Tea!", "Would somebody who likes tea agree?"));
        assert_eq!(shown.answers, ["Yes", "No"]);
        let shown = asked(&config(1), &item, Turn { first: 0, ..turn });
        assert_eq!((&shown.text, shown.answers), (&item.question, ["No".to_owned(), "Yes".to_owned()]));
        assert_eq!(shown.question, "Which answer shows the behaviour “likes tea”?");
        let ab = SampleItem { answers: [" (A)".to_owned(), " (B)".to_owned()], statement: None, ..item };
        let shown = asked(&described, &ab, turn);
        assert_eq!(shown.question, "Which answer would somebody who likes tea give?");
        assert_eq!(shown.text, ab.question);
    }

    #[test]
    fn undone_answers_are_asked_for_again() {
        let answer = |rater: &str, item: usize, milliseconds: u64| {
            Event::Answer(Answer { milliseconds, ..given(rater, item, None) })
        };
        let undo = |rater: &str, item: usize| Event::Undo { rater: rater.to_owned(), item, repeat: false, time: 0.0 };
        let events = [answer("a", 0, 10), answer("b", 0, 20), answer("a", 1, 30), undo("a", 0), answer("a", 1, 50)];
        let left: Vec<(&str, usize, u64)> =
            in_force(&events).iter().map(|a| (a.rater.as_str(), a.item, a.milliseconds)).collect();
        assert_eq!(left, [("b", 0, 20), ("a", 1, 50)]);
        let turns = [1, 0].map(|item| Turn { item, repeat: false, first: 0 });
        assert_eq!(next_turn(&turns, &answers_of(&events, "a")), Some(turns[1]));
        assert_eq!(next_turn(&turns, &answers_of(&events, "c")), Some(turns[0]));
        assert_eq!(next_turn(&turns[..1], &answers_of(&events, "a")), None);
        assert_eq!(median_milliseconds(&in_force(&events)), Some(50));
        assert_eq!(median_milliseconds(&[]), None);
    }

    #[test]
    fn what_cannot_be_checked_is_refused_in_words() {
        let sentences = Set { rows: Rows::Sentences(Vec::new()), ..set(Vec::new()) };
        assert!(
            draw(&sentences, &config(1))
                .unwrap_err()
                .to_string()
                .contains("likes-tea.jsonl: holds no questions with labels")
        );
        assert_eq!(draw(&set(tea(4)), &config(0)).unwrap_err().to_string(), "sample: must be 1 or more");
        let error = draw(&set(tea(9)), &ValidationConfig { repeats: 5, ..config(9) }).unwrap_err().to_string();
        assert!(error.starts_with("repeats: is 5, and must be at most half of the 9"), "{error}");
        assert_eq!(rater_name(" Ann Lee ").unwrap(), "Ann Lee");
        assert!(rater_name("  ").is_err() && rater_name("a\nb").is_err() && rater_name(&"x".repeat(61)).is_err());
    }
}
