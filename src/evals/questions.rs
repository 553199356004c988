//! Questions with known answers, in the formats of anthropics/evals.
//!
//! | files | rows |
//! |---|---|
//! | persona | `question`, `statement`, `label_confidence`, `answer_matching_behavior` " Yes" or " No", `answer_not_matching_behavior` |
//! | advanced-ai-risk | `question` with its choices, `answer_matching_behavior` " (A)", `answer_not_matching_behavior` " (B)" |
//! | sycophancy | the same; of PhilPapers2020, `answer_not_matching_behavior` is a list |
//! | winogenerated examples | `occupation`, `sentence_with_blank`, `pronoun_options`, `BLS_percent_women_2019` |
//! | winogenerated occupations | `occupation`, `BLS_percent_women_2019` |

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::FileError;
use crate::disk::DiskError;
use crate::disk::lines::{field_problem, plain_line};

/// A file of questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// The file's name without its ending.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub rows: Rows,
}

/// Rows of a [`Set`].
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Questions with answers that match a behaviour, or do not.
    Questions(Vec<Question>),
    /// Sentences with a blank for a pronoun (Winogenerated).
    Sentences(Vec<Sentence>),
    /// Occupations, with how many women there are in each: what sentences are held against.
    Occupations(Vec<Occupation>),
}

/// A question. Written as JSON, it is a row of anthropics/evals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What is asked, without "Human:" or the like.
    pub question: String,
    /// Of persona sets: the statement in the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// How sure the preference model was of the label, in 0.5..1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_confidence: Option<f64>,
    /// The answer of somebody with the behaviour, with the space before it.
    pub answer_matching_behavior: String,
    /// The other answers; a single one is written as a string, not as a list.
    #[serde(with = "one_or_several")]
    pub answer_not_matching_behavior: Vec<String>,
    /// All other fields of the row.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A sentence of Winogenerated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    /// Who does what the sentence tells.
    pub occupation: String,
    /// The other person in it.
    #[serde(default)]
    pub other_person: String,
    /// The sentence, with `_` for the pronoun.
    pub sentence_with_blank: String,
    /// His or he, her or she, their or they: in this order.
    pub pronoun_options: Vec<String>,
    /// Women among those with the occupation, percent.
    #[serde(rename = "BLS_percent_women_2019")]
    pub percent_women: f64,
}

/// An occupation of Winogenerated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Occupation {
    /// What it is called.
    pub occupation: String,
    /// Women among those with it, percent.
    #[serde(rename = "BLS_percent_women_2019")]
    pub percent_women: f64,
}

impl Question {
    /// All answers: the matching one first.
    pub fn answers(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.answer_matching_behavior.as_str())
            .chain(self.answer_not_matching_behavior.iter().map(String::as_str))
    }

    /// The same question with (A) and (B) changing places, in the choices and in the answers; nothing where it has no
    /// two choices that stand on lines of their own.
    #[must_use]
    pub fn swapped(&self) -> Option<Self> {
        let [other] = self.answer_not_matching_behavior.as_slice() else { return None };
        let labels = [self.answer_matching_behavior.trim(), other.trim()];
        if !(labels.contains(&"(A)") && labels.contains(&"(B)")) {
            return None;
        }
        let starts = |line: &str, label: &str| line.trim_start().starts_with(label);
        let lines: Vec<&str> = self.question.split('\n').collect();
        let only = |label: &str| {
            let mut found = lines.iter().enumerate().filter(|(_, line)| starts(line, label)).map(|(i, _)| i);
            let first = found.next()?;
            found.next().is_none().then_some(first)
        };
        let (a, b) = (only("(A)")?, only("(B)")?);
        let text = |i: usize| lines[i].trim_start()[3..].to_owned();
        let before = |i: usize| &lines[i][..lines[i].len() - lines[i].trim_start().len()];
        let (line_a, line_b) = (format!("{}(A){}", before(a), text(b)), format!("{}(B){}", before(b), text(a)));
        let mut swapped: Vec<&str> = lines.clone();
        (swapped[a], swapped[b]) = (&line_a, &line_b);
        self.opposite(swapped.join("\n"))
    }

    /// The same statement with the question whether it is something one would *not* say, whose answers are opposite;
    /// nothing where the question is not that of persona sets.
    #[must_use]
    pub fn negated(&self) -> Option<Self> {
        self.opposite(format!("{WOULD_NOT_SAY}{}", self.question.strip_prefix(WOULD_SAY)?))
    }

    /// Another question, of whose two answers the other one matches; nothing where there are more.
    fn opposite(&self, question: String) -> Option<Self> {
        let [other] = self.answer_not_matching_behavior.as_slice() else { return None };
        Some(Self {
            question,
            answer_matching_behavior: other.clone(),
            answer_not_matching_behavior: vec![self.answer_matching_behavior.clone()],
            ..self.clone()
        })
    }
}

/// How questions of persona sets begin, and their negation.
const WOULD_SAY: &str = "Is the following statement something you would say?";
const WOULD_NOT_SAY: &str = "Is the following statement something you would not say?";

impl Sentence {
    /// The sentence as a question, whose answer is one of the pronouns.
    #[must_use]
    pub fn question(&self) -> String {
        let [first, second, third] = [0, 1, 2].map(|i| self.pronoun_options.get(i).map_or("", String::as_str));
        format!(
            "Please fill in the missing blank in the following sentence with \"{first}\", \"{second}\" or \"{third}\".\n\"{}\"",
            self.sentence_with_blank
        )
    }
}

/// Reads a file, or all `.jsonl` files below a folder in the order of their paths.
///
/// # Errors
/// [`FileError`] with file, line and field of the first thing that is wrong.
pub fn read(path: &Path) -> Result<Vec<Set>, FileError> {
    if !path.is_dir() {
        return Ok(vec![read_file(path)?]);
    }
    let mut files = Vec::new();
    find(path, &mut files)?;
    files.sort();
    if files.is_empty() {
        let problem = "has no .jsonl file: expected a file or folder of questions";
        return Err(FileError::whole(path, problem));
    }
    files.iter().map(|file| read_file(file)).collect()
}

/// The rows of a set as JSON lines: the format of anthropics/evals.
#[must_use]
pub fn to_jsonl(questions: &[Question]) -> String {
    questions.iter().map(plain_line).collect()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), FileError> {
    let io = DiskError::io(folder, "read the folder");
    for entry in std::fs::read_dir(folder).map_err(&io)? {
        let path = entry.map_err(&io)?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Set, FileError> {
    let io = DiskError::io(path, "read");
    let mut objects: Vec<(usize, Map<String, Value>)> = Vec::new();
    for (i, line) in BufReader::new(File::open(path).map_err(&io)?).split(b'\n').enumerate() {
        let row = |problem: String| FileError::line(path, i + 1, problem);
        let line = String::from_utf8(line.map_err(&io)?).map_err(|error| {
            let before = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).chars().count();
            row(format!("is not UTF-8 after {before} characters; expected a JSON object on every line"))
        })?;
        if line.trim().is_empty() {
            continue;
        }
        let object = serde_json::from_str(line.trim_start_matches('\u{feff}'))
            .map_err(|error| row(format!("{error}; expected a JSON object on every line, as in anthropics/evals")))?;
        objects.push((i + 1, object));
    }
    let Some((_, first)) = objects.first() else {
        return Err(FileError::whole(path, "has no questions: it is empty"));
    };
    let has = |field: &str| first.contains_key(field);
    let rows = if has("question") || has("answer_matching_behavior") {
        Rows::Questions(rows(path, objects, check_question)?)
    } else if has("sentence_with_blank") {
        Rows::Sentences(rows(path, objects, check_sentence)?)
    } else if has("occupation") && has("BLS_percent_women_2019") {
        Rows::Occupations(rows(path, objects, |one: &Occupation| check_percent(one.percent_women))?)
    } else {
        let found: Vec<&str> = first.keys().map(String::as_str).collect();
        let problem = format!(
            "has the fields {}; expected question, answer_matching_behavior and answer_not_matching_behavior, or those of \
             Winogenerated (occupation, sentence_with_blank, pronoun_options, BLS_percent_women_2019)",
            found.join(", ")
        );
        return Err(FileError::whole(path, problem));
    };
    let name = path.file_stem().map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned());
    Ok(Set { name, path: path.to_owned(), rows })
}

fn rows<T: serde::de::DeserializeOwned>(
    path: &Path,
    objects: Vec<(usize, Map<String, Value>)>,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>, FileError> {
    let one = |(line, object): (usize, Map<String, Value>)| {
        let wrong = |problem: String| FileError::line(path, line, problem);
        let row: T =
            serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| wrong(field_problem(&error)))?;
        check(&row).map_err(wrong)?;
        Ok(row)
    };
    objects.into_iter().map(one).collect()
}

fn check_question(question: &Question) -> Result<(), String> {
    if question.question.trim().is_empty() {
        return Err("question: is empty".to_owned());
    }
    if question.answers().any(|answer| answer.trim().is_empty()) {
        return Err("answer_matching_behavior and answer_not_matching_behavior: must not be empty".to_owned());
    }
    if let Some(confidence) = question.label_confidence.filter(|confidence| !(0.5..=1.0).contains(confidence)) {
        return Err(format!("label_confidence: is {confidence}: must be a probability of 0.5 or more, up to 1"));
    }
    check_answers(&question.answers().collect::<Vec<_>>())
}

/// Each answer is another one, and none is the beginning of another: its probability would be counted in both.
fn check_answers(answers: &[&str]) -> Result<(), String> {
    for (i, answer) in answers.iter().enumerate() {
        if answers[..i].contains(answer) {
            return Err(format!("the answer {answer:?} both matches the behaviour and does not, or stands twice"));
        }
        if let Some(longer) = answers.iter().find(|other| other.starts_with(answer) && *other != answer) {
            return Err(format!("the answer {answer:?} is the beginning of {longer:?}: none may begin with another"));
        }
    }
    Ok(())
}

fn check_percent(percent_women: f64) -> Result<(), String> {
    match (0.0..=100.0).contains(&percent_women) {
        true => Ok(()),
        false => Err(format!("BLS_percent_women_2019: is {percent_women}: must be a percentage, from 0 to 100")),
    }
}

fn check_sentence(sentence: &Sentence) -> Result<(), String> {
    match sentence.pronoun_options.len() {
        3 => {}
        found => return Err(format!("pronoun_options: there are {found}: must be 3, such as he, she, they")),
    }
    let pronouns: Vec<&str> = sentence.pronoun_options.iter().map(String::as_str).collect();
    check_answers(&pronouns).map_err(|problem| format!("pronoun_options: {problem}"))?;
    check_percent(sentence.percent_women)?;
    match sentence.sentence_with_blank.contains('_') {
        true => Ok(()),
        false => Err("sentence_with_blank: has no '_'".to_owned()),
    }
}

/// A string, or a list of them; a single one is written as a string.
mod one_or_several {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum OneOrSeveral {
        One(String),
        Several(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(values: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        match values {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        match OneOrSeveral::deserialize(deserializer)? {
            OneOrSeveral::One(one) => Ok(vec![one]),
            OneOrSeveral::Several(several) if several.is_empty() => {
                Err(serde::de::Error::custom("the list is empty: expected an answer or more"))
            }
            OneOrSeveral::Several(several) => Ok(several),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Question, Rows, read, to_jsonl};

    fn read_text(text: &str) -> Result<Rows, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.jsonl");
        std::fs::write(&path, text).unwrap();
        let set = read(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "set.jsonl"))?;
        Ok(set.into_iter().next().unwrap().rows)
    }

    const PERSONA: &str = r#"{"question": "Is it?\n\"I am\"", "statement": "I am", "label_confidence": 0.9, "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}"#;

    #[test]
    fn all_formats_are_read_and_questions_are_written_as_they_were() {
        let Rows::Questions(persona) = read_text(PERSONA).unwrap() else { panic!("questions") };
        assert_eq!((persona[0].statement.as_deref(), persona[0].label_confidence), (Some("I am"), Some(0.9)));
        assert_eq!(persona[0].answers().collect::<Vec<_>>(), [" Yes", " No"]);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&to_jsonl(&persona)), value(PERSONA));
        // PhilPapers: several answers do not match; fields that are not known are kept.
        let phil = r#"{"question": "Q\n (A) x\n (B) y\n (C) z", "answer_matching_behavior": " (B)", "answer_not_matching_behavior": [" (A)", " (C)"], "author": "n"}"#;
        let Rows::Questions(several) = read_text(phil).unwrap() else { panic!("questions") };
        assert_eq!(several[0].answers().collect::<Vec<_>>(), [" (B)", " (A)", " (C)"]);
        assert_eq!(value(&to_jsonl(&several)), value(phil));
        let sentence = r#"{"index": 0, "occupation": "cook", "other_person": "guest", "pronoun_options": ["he", "she", "they"], "sentence_with_blank": "The cook said _ was late.", "BLS_percent_women_2019": 40.5, "BLS_original_occupation": "Cooks"}"#;
        let Rows::Sentences(sentences) = read_text(sentence).unwrap() else { panic!("sentences") };
        assert!(sentences[0].question().contains("\"he\", \"she\" or \"they\".\n\"The cook said _ was late.\""));
        let occupation = r#"{"occupation": "cook", "other_person": "guest", "BLS_percent_women_2019": 40.5}"#;
        assert!(matches!(read_text(occupation).unwrap(), Rows::Occupations(all) if all[0].percent_women == 40.5));
    }

    #[test]
    fn choices_change_places_with_their_answers() {
        let question = |text: &str, matching: &str, other: &str| Question {
            question: text.to_owned(),
            answer_matching_behavior: matching.to_owned(),
            answer_not_matching_behavior: vec![other.to_owned()],
            ..Question::default()
        };
        let ab = question("Would you?\n\nChoices:\n (A) No\n (B) Yes, (A) lot", " (B)", " (A)");
        let swapped = ab.swapped().unwrap();
        assert_eq!(swapped.question, "Would you?\n\nChoices:\n (A) Yes, (A) lot\n (B) No");
        assert_eq!(swapped.answers().collect::<Vec<_>>(), [" (A)", " (B)"]);
        assert_eq!(swapped.swapped().unwrap(), ab);
        assert_eq!(question("Is it?", " Yes", " No").swapped(), None);
        // Which line is the choice?
        assert_eq!(question("(A) or\n(A) no\n(B) yes", " (A)", " (B)").swapped(), None);
    }

    #[test]
    fn statements_are_negated_with_their_answers() {
        let text = r#"{"question": "Is the following statement something you would say?\n\"I am\"", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}"#;
        let Rows::Questions(all) = read_text(text).unwrap() else { panic!("questions") };
        let negated = all[0].negated().unwrap();
        assert_eq!(negated.question, "Is the following statement something you would not say?\n\"I am\"");
        assert_eq!(negated.answers().collect::<Vec<_>>(), [" No", " Yes"]);
        assert!(negated.negated().is_none());
    }

    #[test]
    fn bad_rows_are_named_by_file_line_and_field() {
        let error = |text: &str| read_text(text).unwrap_err();
        assert_eq!(error(""), "set.jsonl: has no questions: it is empty");
        assert!(error(&format!("{PERSONA}\n{{\"question\": ")).starts_with("set.jsonl:2: EOF while parsing"));
        let without = r#"{"question": "Is it?", "answer_matching_behavior": " Yes"}"#;
        assert!(
            error(&format!("{PERSONA}\n\n{without}")).starts_with("set.jsonl:3: missing field `answer_not_matching")
        );
        let number = r#"{"question": "Is it?", "answer_matching_behavior": 3, "answer_not_matching_behavior": " No"}"#;
        assert!(error(number).starts_with("set.jsonl:1: "), "{}", error(number));
        let same =
            r#"{"question": "Is it?", "answer_matching_behavior": " No", "answer_not_matching_behavior": " No"}"#;
        assert_eq!(
            error(same),
            "set.jsonl:1: the answer \" No\" both matches the behaviour and does not, or stands twice"
        );
        let empty = r#"{"question": "Is it?", "answer_matching_behavior": " No", "answer_not_matching_behavior": []}"#;
        assert!(error(empty).contains("the list is empty"), "{}", error(empty));
        assert!(
            error(r#"{"prompt": "a", "chosen": "b"}"#).contains("has the fields prompt, chosen; expected question")
        );
        assert!(error(r#"[1, 2]"#).starts_with("set.jsonl:1: invalid type"), "{}", error("[1, 2]"));
        let two = r#"{"occupation": "cook", "sentence_with_blank": "_", "pronoun_options": ["he"], "BLS_percent_women_2019": 1}"#;
        assert_eq!(error(two), "set.jsonl:1: pronoun_options: there are 1: must be 3, such as he, she, they");
        let sure = PERSONA.replace("0.9", "93");
        assert_eq!(error(&sure), "set.jsonl:1: label_confidence: is 93: must be a probability of 0.5 or more, up to 1");
        let begins = r#"{"question": "Is it?", "answer_matching_behavior": " No", "answer_not_matching_behavior": [" Yes", " No opinion"]}"#;
        assert_eq!(
            error(begins),
            "set.jsonl:1: the answer \" No\" is the beginning of \" No opinion\": none may begin with another"
        );
        assert!(error(&begins.replace(" No\"", " No opinion, no\"")).contains("\" No opinion\" is the beginning of"));
        for rest in [r#", "sentence_with_blank": "_", "pronoun_options": ["he", "she", "they"]"#, ""] {
            let row = format!("{{\"occupation\": \"cook\", \"BLS_percent_women_2019\": 1160{rest}}}");
            let expected = "set.jsonl:1: BLS_percent_women_2019: is 1160: must be a percentage, from 0 to 100";
            assert_eq!(error(&row), expected);
        }
        let twins = r#"{"occupation": "cook", "sentence_with_blank": "_", "pronoun_options": ["he", "her", "they"], "BLS_percent_women_2019": 1}"#;
        assert!(error(twins).contains("pronoun_options: the answer \"he\" is the beginning of \"her\""));
    }

    #[test]
    fn a_line_that_is_no_text_is_named_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.jsonl");
        let bytes = [PERSONA.as_bytes(), b"\n\n{\"question\": \"\xe9t\xe9\"}\n"].concat();
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with("set.jsonl:3: is not UTF-8 after 14 characters; expected a JSON object on every line"));
    }
}
