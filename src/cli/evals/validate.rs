//! `evals validate`.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::flags::JsonArgs;
use crate::cli::screen::{ask as show_prompt, note, print_line, print_table, remark, shown, warn};
use crate::evals::validate::folder::{self, Validation, Wanted, now};
use crate::evals::validate::report::{self, ReportLine};
use crate::evals::validate::{Answer, RaterQuestion, Turn, answers_of, asked, is_final, next_turn, rater_name, turns};

/// Arguments of `evals validate`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ValidateArgs {
    /// A set in the format of anthropics/evals; not needed to go on with a validation that was begun
    #[arg(value_name = "SET.jsonl")]
    set: Option<PathBuf>,
    /// Folder of the sample and the answers; a validation that it holds goes on
    #[arg(long, value_name = "DIR", required_unless_present = "report")]
    out: Option<PathBuf>,
    /// Questions to draw, every label by its share of the set [default: 100]
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// How many of these every rater gets twice without being told, to see whether they agree with themselves [default: 0]
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
    /// Seed of the sample and of all orders [default: 0]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// The behaviour in words that follow "somebody who"; raters are asked what such a person would say
    #[arg(long, value_name = "TEXT")]
    behaviour: Option<String>,
    /// Who answers; each rater gets the questions in another order
    #[arg(long, value_name = "NAME", default_value = "me")]
    rater: String,
    /// Say how far the raters of this folder agree, and write its report.json and report.md
    #[arg(long, value_name = "DIR", conflicts_with_all = ["set", "out", "sample", "repeats", "seed", "behaviour", "rater"])]
    report: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArgs,
}

/// What a line that a rater wrote means.
#[derive(Debug, PartialEq, Eq)]
enum RaterLine {
    /// Which of the two shown answers, or neither; how relevant; whether ambiguous.
    Answer(Option<usize>, u8, bool),
    Undo,
    Quit,
}

const HELP: &str = "\
A line answers a question: 1 or 2 for the answer, or ? for can't tell; then 1 to 5 for how much the question is about the
behaviour (1 not at all, 5 entirely); then a if it can be understood in several ways. So: 15, 2 4 a, ?3
u takes the last answer back, q ends. Every answer is on the disk at once; the same command goes on.";

pub(super) fn validate(args: &ValidateArgs) -> Result<(), Failure> {
    if let Some(path) = &args.report {
        return print_report(path, &args.json);
    }
    let Some(path) = &args.out else { return Err(Failure::usage("--out DIR: name a folder for the answers")) };
    let rater = rater_name(&args.rater).map_err(|problem| Failure::usage(format!("--rater: {problem}")))?;
    let wanted = Wanted {
        set: args.set.clone(),
        sample: args.sample,
        repeats: args.repeats,
        seed: args.seed,
        behaviour: args.behaviour.clone(),
    };
    let mut validation = folder::begin(path, &wanted)?;
    validation.warnings.iter().for_each(|text| warn(text));
    if validation.items.len() < validation.config.sample {
        note(&format!("the set has {} questions; all of them are drawn", validation.items.len()));
    }
    if is_final(&validation.events, rater) {
        return Err(Failure::usage(format!("{rater} has finished and seen the report: the answers are final")));
    }
    ask(&mut validation, rater)?;
    let (given, of) = (answers_of(&validation.events, rater).len(), validation.turns());
    let next = match given < of {
        true => format!("go on with: pairwise evals validate --out {} --rater {rater:?}", path.display()),
        false => format!("the report: pairwise evals validate --report {}", path.display()),
    };
    print_line(&format!("{rater} has answered {given} of {of}; {next}"));
    args.json.print(&json!({ "out": shown(path), "rater": rater, "answered": given, "of": of }));
    Ok(())
}

/// Asks a rater's questions until all are answered, or they end. Questions are on stderr; so stdout has results only.
fn ask(validation: &mut Validation, rater: &str) -> Result<(), Failure> {
    let turns = turns(&validation.items, &validation.config, rater);
    let terminal = std::io::stdin().is_terminal();
    remark(HELP);
    let mut input = std::io::stdin().lock();
    let mut number = 0;
    let mut since = Instant::now();
    let mut shown = None;
    loop {
        let turn = next_turn(&turns, &answers_of(&validation.events, rater));
        let Some(turn) = turn else { return Ok(()) };
        let question = asked(&validation.config, &validation.items[turn.item], turn);
        if shown.replace(turn) != Some(turn) {
            show(validation, rater, &question);
            since = Instant::now();
        }
        if terminal {
            show_prompt("> ");
        }
        let mut line = String::new();
        number += 1;
        if input.read_line(&mut line)? == 0 {
            if terminal {
                remark("");
            }
            return Ok(());
        }
        match read(&line) {
            Ok(RaterLine::Answer(chosen, relevance, ambiguous)) => {
                let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                let answer = answer(validation, rater, turn, chosen, relevance, ambiguous, milliseconds);
                folder::answer(validation, answer)?;
            }
            Ok(RaterLine::Undo) => {
                if folder::undo(validation, rater)?.is_none() {
                    remark("there is no answer to take back");
                }
            }
            Ok(RaterLine::Quit) => return Ok(()),
            Err(problem) if terminal => remark(&problem),
            Err(problem) => {
                return Err(Failure::usage(format!("stdin:{number}: {problem}; the answers before it are kept")));
            }
        }
    }
}

fn show(validation: &Validation, rater: &str, question: &RaterQuestion) {
    let given = answers_of(&validation.events, rater).len();
    let [first, second] = &question.answers;
    remark(&format!("\n{} of {}\n\n{}\n", given + 1, validation.turns(), question.text));
    remark(&format!("{}  1 {first}  2 {second}  ? can't tell", question.question));
}

fn answer(
    validation: &Validation,
    rater: &str,
    turn: Turn,
    chosen: Option<usize>,
    relevance: u8,
    ambiguous: bool,
    milliseconds: u64,
) -> Answer {
    let answers = &validation.items[turn.item].answers;
    Answer {
        rater: rater.to_owned(),
        item: turn.item,
        repeat: turn.repeat,
        label: chosen.map(|side| answers[(turn.first + side) % 2].clone()),
        relevance,
        ambiguous,
        milliseconds,
        time: now(),
    }
}

/// What a line means.
fn read(line: &str) -> Result<RaterLine, String> {
    let keys: Vec<char> = line.chars().filter(|key| !key.is_whitespace()).map(|key| key.to_ascii_lowercase()).collect();
    let (label, relevance, ambiguous) = match keys.as_slice() {
        ['u'] => return Ok(RaterLine::Undo),
        ['q'] => return Ok(RaterLine::Quit),
        [label, relevance] => (*label, *relevance, false),
        [label, relevance, 'a'] => (*label, *relevance, true),
        _ => return Err(format!("{:?}: write 1, 2 or ?, then 1 to 5, then a if ambiguous; or u, or q", line.trim())),
    };
    let chosen = match label {
        '1' => Some(0),
        '2' => Some(1),
        '?' => None,
        other => return Err(format!("the answer is {other:?}: must be 1, 2 or ?")),
    };
    match relevance.to_digit(10).and_then(|digit| u8::try_from(digit).ok()) {
        Some(relevance @ 1..=5) => Ok(RaterLine::Answer(chosen, relevance, ambiguous)),
        _ => Err(format!("the relevance is {relevance:?}: must be 1 to 5")),
    }
}

fn print_report(path: &Path, json: &JsonArgs) -> Result<(), Failure> {
    let found = report::write(path, None)?;
    print_line(&format!("{}: {} of {} items answered", found.config.name, found.answered, found.items));
    if found.set_changed == Some(true) {
        print_line("the set's file has changed since the sample was drawn: this is about the set as it was then");
    }
    let row = |ReportLine { name, value, paper }: ReportLine| vec![name, value, paper.to_owned()];
    print_table(&["", "found", "Perez et al. 2022"], report::table(&found).into_iter().map(row));
    if let Some(why) = report::withheld(&found) {
        print_line(&why);
    }
    for disagreement in &found.disagreements {
        let text = disagreement.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (row, label) = (disagreement.row, &disagreement.label);
        print_line(&format!("row {row}, the set says {label}; {}: {text}", report::chosen(disagreement)));
    }
    print_line(&format!("in {} and report.json", path.join("report.md").display()));
    json.print(&found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{RaterLine, read};

    #[test]
    fn lines_of_raters() {
        assert_eq!(read("15\n"), Ok(RaterLine::Answer(Some(0), 5, false)));
        assert_eq!(read(" 2 4 A "), Ok(RaterLine::Answer(Some(1), 4, true)));
        assert_eq!(read("?3"), Ok(RaterLine::Answer(None, 3, false)));
        assert_eq!((read("u"), read("Q\n")), (Ok(RaterLine::Undo), Ok(RaterLine::Quit)));
        for (line, problem) in
            [("", "\"\": write 1, 2 or ?"), ("1", "\"1\""), ("35", "'3': must be 1, 2"), ("16", "'6': must be 1 to 5")]
        {
            assert!(read(line).unwrap_err().contains(problem), "{line}: {:?}", read(line));
        }
    }
}
