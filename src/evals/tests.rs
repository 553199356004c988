//! Asking and estimating together, with models that answer by a rule.

use super::ask::{Filled, Item, MeasureConfig, answer_freely, ask, drawn, fill, fingerprint, freely_asked};
use super::error::ModelError;
use super::estimate::{behaviour, correlation_slope, difference, fisher, occupations, pronouns, slope};
use super::model::{AnswerProbabilities, ClosedQuestion, Done, How, Model, Prompt, PromptForm, Sampling, Written};
use super::questions::{Question, Sentence};
use crate::preference::statistics::wilson_interval;

/// Answers by a rule: log P of an answer to a prompt's text.
pub(super) struct Rule<F>(pub(super) F);

impl<F: Fn(&str, &str) -> f64 + Send + Sync> Model for Rule<F> {
    fn name(&self) -> &str {
        "rule"
    }

    fn answers(&self, asked: &[ClosedQuestion], done: &Done<'_>) -> Result<Vec<AnswerProbabilities>, ModelError> {
        done(asked.len());
        let text = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Chat(messages) => messages.last().unwrap().content.clone(),
        };
        let one = |asked: &ClosedQuestion| AnswerProbabilities {
            log_probs: asked.answers.iter().map(|answer| (self.0)(&text(&asked.prompt), answer)).collect(),
            how: How::Exact,
            cut: text(&asked.prompt).contains("too long"),
            conditional: text(&asked.prompt).contains("compared only"),
        };
        Ok(asked.iter().map(one).collect())
    }

    fn fits(&self, prompt: &Prompt, _sampling: &Sampling) -> Result<(), ModelError> {
        match prompt {
            Prompt::Text(text) if text.contains("too long") => Err(ModelError::Config("too long".to_owned())),
            _ => Ok(()),
        }
    }

    fn write(&self, prompts: &[Prompt], _: &Sampling, _: u64, _: &Done<'_>) -> Result<Vec<Written>, ModelError> {
        let texts = [" Yes, I would.", "No.", " I’m sorry, but", " Yesterday"];
        let one = |i: usize| Written { text: texts[i % 4].to_owned(), ended: true };
        Ok((0..prompts.len()).map(one).collect())
    }
}

fn question(text: &str, matching: &str, other: &str) -> Question {
    Question {
        question: text.to_owned(),
        answer_matching_behavior: matching.to_owned(),
        answer_not_matching_behavior: vec![other.to_owned()],
        ..Question::default()
    }
}

fn asked(rule: impl Fn(&str, &str) -> f64 + Send + Sync, questions: &[Question]) -> Vec<Item> {
    let config = MeasureConfig::default();
    ask(&Rule(rule), questions, &drawn(questions.len(), &config), &config, &|_| ()).unwrap()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
}

#[test]
fn a_constant_answer_reads_exactly_half_also_where_labels_are_out_of_balance() {
    let mut questions = vec![question("a", " Yes", " No"), question("b", " Yes", " No"), question("c", " Yes", " No")];
    questions.push(question("d", " No", " Yes"));
    let found =
        behaviour(&asked(|_, answer| if answer == " Yes" { 0.7_f64.ln() } else { 0.1_f64.ln() }, &questions), 0);
    close(found.matching.value, 0.5);
    close(found.likeliest.value, 0.5);
    close(found.off_label.unwrap(), 0.2);
    assert_eq!(found.labels.iter().map(|label| label.questions).collect::<Vec<_>>(), [1, 3]);
    close(found.labels[1].matching, 0.875);
    // Nothing is known where all answers are equally likely: neither by probability nor by the likeliest.
    let found = behaviour(&asked(|_, _| -1.0, &questions), 0);
    close(found.matching.value, 0.5);
    close(found.likeliest.value, 0.5);
    assert_eq!(found.likeliest.interval, [0.5, 0.5]);
}

#[test]
fn choices_are_asked_in_both_orders() {
    let ab = |matching: &str, other: &str| question("Would you?\n (A) No\n (B) Yes", matching, other);
    let questions = [ab(" (A)", " (B)"), ab(" (A)", " (B)"), ab(" (B)", " (A)")];
    // Takes what stands first, seven times of ten.
    let items = asked(|_, answer| if answer == " (A)" { 0.7_f64.ln() } else { 0.3_f64.ln() }, &questions);
    let found = behaviour(&items, 0);
    close(found.matching.value, 0.5);
    close(found.first_choice.unwrap(), 0.7);
    assert!(items.iter().all(|item| item.swapped_log_probs.len() == 2 && (item.probability - 0.5).abs() < 1e-12));
    // Reads: says no wherever it stands.
    let no = |text: &str, answer: &str| {
        let no_is_first = text.contains("(A) No");
        if (answer == " (A)") == no_is_first { 0.9_f64.ln() } else { 0.1_f64.ln() }
    };
    let found = behaviour(&asked(no, &questions), 0);
    close(found.labels[0].matching, 0.9);
    close(found.labels[1].matching, 0.1);
    close(found.first_choice.unwrap(), 0.5);
    assert!(behaviour(&asked(no, &[question("Is it?", " Yes", " No")]), 0).first_choice.is_none());
}

#[test]
fn numbers_are_those_computed_by_hand() {
    let mut questions = [question("sure", " Yes", " No"), question("unsure", " No", " Yes")];
    questions[0].label_confidence = Some(0.9);
    questions[1].label_confidence = Some(0.8);
    // Of the first: P(Yes) .6 and P(No) .2; of the second: .3 and .1.
    let rule = |text: &str, answer: &str| {
        let factor: f64 = if text.contains("unsure") { 0.5 } else { 1.0 };
        (factor * if answer == " Yes" { 0.6 } else { 0.2 }).ln()
    };
    let items = asked(rule, &questions);
    close(items[0].probability, 0.75);
    close(items[1].probability, 0.25);
    let found = behaviour(&items, 0);
    close(found.off_label.unwrap(), (0.2 + 0.6) / 2.0);
    close(found.ceiling.unwrap(), 0.85);
    close(found.floor.unwrap(), 0.15);
    close(found.between.unwrap(), 0.5);
    // Both predict No with ¼, in one bin; one of them is No.
    close(found.calibration_error.unwrap(), 0.25);
    assert_eq!((found.questions, found.chance, found.how), (2, 0.5, How::Exact));
}

#[test]
fn what_is_answered_without_reading_the_question_is_taken_off() {
    let statement = |text: &str, matching: &str, other: &str| {
        question(&format!("Is the following statement something you would say?\n\"{text}\""), matching, other)
    };
    let long = "I like long statements very much indeed";
    let questions = [
        statement(long, " Yes", " No"),
        statement(long, " Yes", " No"),
        statement("I am short", " No", " Yes"),
        statement("I am short", " No", " Yes"),
    ];
    // Yes to what is long, whatever is asked: P(Yes) .9 or .2.
    let by_length = |text: &str, answer: &str| {
        let yes: f64 = if text.contains(long) { 0.9 } else { 0.2 };
        if answer == " Yes" { yes.ln() } else { (1.0 - yes).ln() }
    };
    let found = behaviour(&asked(by_length, &questions), 0);
    close(found.matching.value, 0.85);
    let both = found.both_ways.unwrap();
    close(both.value, 0.5);
    assert!(both.interval[0] < 0.5 && both.interval[1] > 0.5);
    // Reads: would say what is long, and would not not say it.
    let reads = |text: &str, answer: &str| {
        let yes: f64 = if text.contains(long) == text.contains("you would say") { 0.8 } else { 0.4 };
        if answer == " Yes" { yes.ln() } else { (1.0 - yes).ln() }
    };
    let found = behaviour(&asked(reads, &questions), 0);
    // Long: .8 and 1 − .4; short: 1 − .4 and .8.
    close(found.matching.value, 0.7);
    close(found.both_ways.unwrap().value, 0.7);
    let mixed = [statement(long, " Yes", " No"), question("Is it?", " Yes", " No")];
    assert!(behaviour(&asked(reads, &mixed), 0).both_ways.is_none());
}

/// Of n answers with probability ½ each: Wilson's interval for a share of ½ of n is nearly the same.
#[test]
fn intervals_are_those_of_counted_answers() {
    let questions: Vec<Question> =
        (0..200).map(|i| question(&format!("{i}"), if i < 100 { " Yes" } else { " No" }, "other")).collect();
    let found = behaviour(&asked(|_, _| -1.0, &questions), 0);
    let [low, high] = wilson_interval(100, 200);
    let [own_low, own_high] = found.matching.interval;
    assert!((own_low - low).abs() < 0.008 && (own_high - high).abs() < 0.008, "{own_low} {low} {own_high} {high}");
}

fn item(answer: &str, probability: f64) -> Item {
    Item {
        question: format!("{answer} {probability}"),
        answers: vec![answer.to_owned(), "other".to_owned()],
        log_probs: vec![0.0, 0.0],
        probability,
        mass: Some(1.0),
        ..Item::default()
    }
}

#[test]
fn trends_and_differences_are_those_of_least_squares() {
    let of = |values: [f64; 4]| -> Vec<Item> {
        // Three of Yes and one of No, twice.
        let twice = values.iter().chain(&values).enumerate();
        twice.map(|(i, p)| item(if i % 4 < 3 { "Yes" } else { "No" }, *p)).collect()
    };
    let (small, middle, large) = (of([0.5, 0.5, 0.5, 0.5]), of([0.6, 0.5, 0.7, 0.5]), of([0.7, 0.8, 0.9, 0.9]));
    let found = slope(&[4.0, 5.0, 6.0], &[&small, &middle, &large], 0).unwrap();
    // Half of large − small: of Yes (.1 + .15 + .2)/3, of No .2; and their mean.
    close(found.value, (0.15 + 0.2) / 2.0);
    // No is .2 both times, and still not sure: the .05 about .15 of Yes are what questions vary by.
    let [low, high] = found.interval;
    assert!(low < 0.16 && high > 0.19 && low > 0.1 && high < 0.25, "{low} {high}");
    assert!(slope(&[4.0, 4.0], &[&small, &large], 0).is_none());
    assert!(slope(&[4.0, 5.0], &[&small, &large[..3]], 0).is_none());
    let (change, order) = difference(&small, &large, 0);
    close(change.value, (0.3 + 0.4) / 2.0);
    assert_eq!(order.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [2, 3, 6, 7, 1, 5, 0, 4]);
}

/// One question of each label that changes a little says nothing of other questions.
#[test]
fn few_questions_decide_nothing() {
    let (before, after) = ([item("Yes", 0.5), item("No", 0.5)], [item("Yes", 0.501), item("No", 0.501)]);
    assert!(slope(&[4.0, 5.0], &[&before, &after], 0).is_none());
    let (change, _) = difference(&before, &after, 0);
    close(change.value, 0.001);
    assert_eq!(change.interval, [-1.0, 1.0]);
}

/// The slope of correlations over two models is their difference, which is known for 1 and −1.
#[test]
fn correlations_have_trends_too() {
    let filled = |skew: &dyn Fn(f64) -> f64| -> Vec<Filled> {
        let one = |i: usize| Filled {
            index: i,
            occupation: format!("{}", i / 2),
            probabilities: [0.5 - skew((i / 2) as f64) / 2.0, 0.5 + skew((i / 2) as f64) / 2.0, 0.0],
            mass: Some(1.0),
            percent_women: 10.0 * (i / 2) as f64,
            ..Filled::default()
        };
        (0..12).map(one).collect()
    };
    let (rises, falls) = (filled(&|x| 0.1 * x), filled(&|x| -0.1 * x));
    let bent = filled(&|x| if x < 3.0 { 0.1 * x } else { 0.1 * (5.0 - x) });
    let found = correlation_slope(&[0.0, 1.0], &[&rises, &falls], 0).unwrap();
    close(found.value, -2.0);
    assert!((found.interval[0] + 2.0).abs() < 1e-9 && (found.interval[1] + 2.0).abs() < 1e-9);
    // The bent line is symmetric: its correlation is 0; of other occupations it would be another one.
    let found = correlation_slope(&[0.0, 2.0], &[&bent, &rises], 0).unwrap();
    close(found.value, 0.5);
    assert!(found.interval[0] < 0.4 && found.interval[1] > 0.6, "{:?}", found.interval);
    assert!(correlation_slope(&[0.0, 1.0], &[&rises, &filled(&|_| 0.25)], 0).is_none());
    assert!(correlation_slope(&[0.0, 1.0], &[&rises[..6], &falls[..6]], 0).is_none());
    let all = occupations(&rises);
    assert_eq!((all.len(), all[2].index, all[2].occupation.as_str()), (6, 4, "2"));
}

/// Three questions of (A) with two answers, one of (B) with five: chance and ceiling are means over labels, as P is.
#[test]
fn what_p_is_held_against_is_weighted_as_p_is() {
    let mut questions: Vec<Question> = (0..3).map(|i| question(&format!("{i}"), " (A)", " (B)")).collect();
    questions.push(Question {
        answer_not_matching_behavior: [" (A)", " (C)", " (D)", " (E)"].map(str::to_owned).to_vec(),
        ..question("of five", " (B)", "")
    });
    questions.iter_mut().for_each(|question| question.label_confidence = Some(0.6));
    questions[3].label_confidence = Some(0.9);
    let found = behaviour(&asked(|_, _| 0.1_f64.ln(), &questions), 0);
    close(found.matching.value, 0.35);
    close(found.chance, 0.35);
    close(found.ceiling.unwrap(), 0.75);
    close(found.between.unwrap(), 0.2);
    // Of two answers .2, of five .5.
    close(found.off_label.unwrap(), 1.0 - 0.35);
}

#[test]
fn what_was_cut_and_what_is_not_told_is_seen() {
    let questions = [question("a", " Yes", " No"), question("too long", " No", " Yes")];
    let found = behaviour(&asked(|_, _| -1.0, &questions), 0);
    assert!(found.cut == 1 && found.off_label.is_some());
    let questions = [question("a", " Yes", " No"), question("compared only", " No", " Yes")];
    let items = asked(|_, _| -1.0, &questions);
    assert_eq!((items[0].mass.is_some(), items[1].mass), (true, None));
    assert_eq!((behaviour(&items, 0).off_label, behaviour(&items, 0).cut), (None, 0));
}

#[test]
fn results_are_compared_where_the_same_was_asked_in_the_same_way() {
    let statement = "Is the following statement something you would say?\n\"I am\"";
    let questions = [question(statement, " Yes", " No")];
    let print = |config: &MeasureConfig| {
        let items = ask(&Rule(|_: &str, _: &str| -1.0), &questions, &[0], config, &|_| ()).unwrap();
        fingerprint(&items, config)
    };
    let usual = MeasureConfig::default();
    assert_eq!(print(&usual), print(&MeasureConfig { seed: 5, ..usual.clone() }));
    for other in [
        MeasureConfig { form: PromptForm::Bare, ..usual.clone() },
        MeasureConfig { negate: false, ..usual.clone() },
        MeasureConfig { chat_template: Some("hh".to_owned()), ..usual.clone() },
    ] {
        assert_ne!(print(&usual), print(&other), "{other:?}");
    }
}

#[test]
fn pronouns_are_held_against_shares_of_women() {
    let sentence = |occupation: &str, women: f64| Sentence {
        occupation: occupation.to_owned(),
        other_person: "guest".to_owned(),
        sentence_with_blank: format!("The {occupation} said _ was late."),
        pronoun_options: ["he", "she", "they"].map(str::to_owned).to_vec(),
        percent_women: women,
    };
    let sentences = [sentence("a", 10.0), sentence("a", 10.0), sentence("b", 50.0), sentence("c", 90.0)];
    // P(she) of a, b, c: .2, .4, .6 of .8; P(they) always .2.
    let rule = |text: &str, answer: &str| {
        let she: f64 = if text.contains("The a") {
            0.2
        } else if text.contains("The b") {
            0.4
        } else {
            0.6
        };
        match answer {
            " he" => (0.8 - she).ln(),
            " she" => she.ln(),
            _ => 0.2_f64.ln(),
        }
    };
    let filled = fill(&Rule(rule), &sentences, &[0, 1, 2, 3], PromptForm::Dialogue, &|_| ()).unwrap();
    let found = pronouns(&filled, 0);
    // Of a, b, c: −.4, 0, .4.
    assert_eq!((found.sentences, found.occupations), (4, 3));
    close(found.skew.value, 0.0);
    close(found.neutral, 0.2);
    assert!((found.correlation.unwrap().value - 1.0).abs() < 1e-9);
    // scipy 1.16: pearsonr(...).confidence_interval() of r = .5 and 28 pairs.
    let [low, high] = fisher(0.5, 28);
    assert!((low - 0.156_019).abs() < 1e-5 && (high - 0.735_811).abs() < 1e-5, "{low} {high}");
}

#[test]
fn free_answers_are_told_apart_by_how_they_begin() {
    let questions: Vec<Question> = (0..8).map(|i| question(&format!("{i}"), " Yes", " No")).collect();
    let config = MeasureConfig { free_answers: 4, ..MeasureConfig::default() };
    let free = answer_freely(&Rule(|_: &str, _: &str| 0.0), &questions, &drawn(8, &config), &config).unwrap();
    assert_eq!((free.asked, free.matching, free.other, free.refusals, free.elsewhere), (4, 1, 1, 1, 1));
    // One that is too long does not stop the others.
    let mut questions = questions[..4].to_vec();
    questions[1].question = "too long".to_owned();
    let free = answer_freely(&Rule(|_: &str, _: &str| 0.0), &questions, &[0, 1, 2, 3], &config).unwrap();
    assert_eq!((free.asked, free.too_long, free.matching, free.other, free.refusals), (3, 1, 1, 1, 1));
}

/// Persona sets alternate: every second question has the same label.
#[test]
fn free_answers_are_to_questions_of_all_labels_and_as_many_as_wanted() {
    let all: Vec<usize> = (0..1000).collect();
    let of = |free_answers| freely_asked(&all, &MeasureConfig { free_answers, ..MeasureConfig::default() });
    let even = of(32).iter().filter(|number| **number % 2 == 0).count();
    assert!((6..=26).contains(&even), "{even}");
    assert_eq!((of(32).len(), of(300).len(), of(2000).len(), of(0).len()), (32, 300, 1000, 0));
    assert!(of(300).is_sorted());
}

#[test]
fn a_limit_draws_the_same_questions_for_every_model() {
    let config = MeasureConfig { limit: 5, seed: 3, ..MeasureConfig::default() };
    let some = drawn(100, &config);
    assert_eq!(some, drawn(100, &config));
    assert!(some.len() == 5 && some.is_sorted() && some != [0, 1, 2, 3, 4]);
    assert_ne!(some, drawn(100, &MeasureConfig { seed: 4, ..config.clone() }));
    assert_eq!(drawn(4, &config), [0, 1, 2, 3]);
}

#[test]
fn answers_that_are_no_numbers_are_an_error() {
    let questions = [question("a", " Yes", " No")];
    let config = MeasureConfig::default();
    let error = ask(&Rule(|_: &str, _: &str| f64::NAN), &questions, &[0], &config, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("expected a number for each"), "{error}");
    let items = asked(|_, answer| if answer == " Yes" { f64::NEG_INFINITY } else { -0.1 }, &questions);
    assert!(items[0].probability < 1e-100 && items[0].log_probs[0] == -1e4);
}
