//! `lm tokenizer`, `gold`, `reviews`: what texts need before and after a model.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::flags::{JsonArgs, SeedArgs};
use crate::cli::screen::{number, print_line, shown, write_or_print};
use crate::evals::behaviour::{self, Behaviour};
use crate::lm::data::{self, CompletionRow, Content, Document, ReadConfig};
use crate::lm::gold::{GoldError, Scored, logistic, open};
use crate::lm::reviews::{Review, attributes, prefix, review};
use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};
use crate::random::stream;

/// Commands of `lm tokenizer`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TokenizerCommand {
    /// Train byte-level BPE on texts
    Train {
        /// Texts: rows {"text"}, plain text, or `reviews`
        #[arg(long, value_name = "FILE,FILE,…", required = true)]
        data: Vec<PathBuf>,
        /// Tokens of the tokenizer
        #[arg(long, value_name = "N", default_value_t = 4096)]
        vocab_size: usize,
        /// Folder for its files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Texts of the embedded world
        #[arg(long, value_name = "N", default_value_t = 20_000)]
        texts: usize,
    },
}

/// Commands of `lm gold`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GoldCommand {
    /// Train a logistic regression on word n-grams from labelled texts
    Train {
        /// Rows {"text", "label"}, or IMDB's files *.pos.jsonl.gz and *.neg.jsonl.gz
        #[arg(long, value_name = "FILE,FILE,…", required = true)]
        data: Vec<PathBuf>,
        /// Labelled texts to measure the accuracy on
        #[arg(long, value_name = "FILE,FILE,…")]
        test: Vec<PathBuf>,
        /// File for the classifier
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Leave out the first row of files *.pos.jsonl[.gz], which is not a review in a common copy of IMDB
        #[arg(long)]
        skip_first: bool,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Score rows {"prompt", "completion"}
    Score {
        /// Gold reward to score with
        #[arg(long, value_name = "SPEC")]
        gold: String,
        /// Rows to score
        #[arg(long, value_name = "FILE,FILE,…", required = true)]
        data: Vec<PathBuf>,
        #[command(flatten)]
        json: JsonArgs,
    },
}

/// Arguments of `lm reviews`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReviewsArgs {
    /// Texts to write
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: usize,
    /// Cut each text after this many words into prompt and completion
    #[arg(long, value_name = "N", conflicts_with = "rows")]
    prompt_words: Option<usize>,
    /// What the rows hold
    #[arg(long, value_enum, default_value_t = ReviewRows::Texts)]
    #[arg(requires_ifs = [("statements", "behaviours"), ("judgements", "behaviours")])]
    rows: ReviewRows,
    /// File of behaviours, as for `evals generate`: the prompts of its first behaviour are used, whose first label must
    /// stand for somebody who is pleased
    #[arg(long, value_name = "FILE")]
    behaviours: Option<PathBuf>,
    #[command(flatten)]
    seed: SeedArgs,
    /// File for the rows [default: the screen]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Kinds of rows of the embedded world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReviewRows {
    /// {"text"}, or with --prompt-words {"prompt", "completion"}
    Texts,
    /// {"prompt", "completion"}: the prompt for a label, and a sentence that has it; `lm sft` teaches a model to write
    /// them
    Statements,
    /// {"prompt", "chosen", "rejected", "completion"}: the question which label a sentence has, and its answers; `lm
    /// reward` and `lm sft` teach models to judge with them
    Judgements,
}

pub(super) fn tokenizer(command: &TokenizerCommand) -> Result<(), Failure> {
    let TokenizerCommand::Train { data: files, vocab_size, out, texts } = command;
    let config = TokenizerConfig { vocab_size: *vocab_size, begin: true, ..TokenizerConfig::default() };
    let texts: Vec<String> = if files == &[PathBuf::from("reviews")] {
        (0..*texts as u64).map(|i| review(&mut stream(0, "review", i)).text).collect()
    } else {
        let (documents, _) = data::read_all::<Document>(files, &ReadConfig::default())?;
        documents.into_iter().map(|document| document.text).collect()
    };
    let characters: usize = texts.iter().map(String::len).sum();
    let tokenizer = Tokenizer::train(texts.iter().cloned(), &config)?;
    std::fs::create_dir_all(out)?;
    tokenizer.save(out)?;
    let mut tokens = 0;
    for text in texts.iter().take(1000) {
        tokens += tokenizer.encode(text, false)?.len();
    }
    let some: usize = texts.iter().take(1000).map(String::len).sum();
    print_line(&format!(
        "{} tokens from {} texts ({characters} bytes), {:.2} bytes a token, in {}",
        tokenizer.vocab_size(),
        texts.len(),
        some as f64 / tokens.max(1) as f64,
        out.display()
    ));
    Ok(())
}

pub(super) fn gold(command: &GoldCommand) -> Result<(), Failure> {
    match command {
        GoldCommand::Train { data, test, out, skip_first, json } => {
            let all = |files: &[PathBuf]| -> Result<Vec<(String, bool)>, Failure> {
                let mut rows = Vec::new();
                for file in files {
                    // IMDB as it is passed on: the first row of each file of good reviews is none.
                    let of_imdb = file.to_string_lossy().contains(".pos.jsonl");
                    let skipped: &[usize] = if *skip_first && of_imdb { &[1] } else { &[] };
                    for row in logistic::read_labelled(file, skipped)? {
                        rows.push(row?);
                    }
                }
                Ok(rows)
            };
            let rows = all(data)?;
            let count = rows.len();
            let model =
                logistic::train(rows.into_iter().map(Ok::<_, GoldError>), &logistic::LogisticConfig::default())?;
            model.save(out)?;
            let mut result =
                json!({"rows": count, "train_accuracy": model.model().training_accuracy, "out": shown(out)});
            print_line(&format!(
                "trained on {count} texts, accuracy there {:.2} %",
                100.0 * model.model().training_accuracy
            ));
            if !test.is_empty() {
                let rows = all(test)?;
                let right = rows.iter().filter(|(text, label)| (model.probability(text) > 0.5) == *label).count();
                let accuracy = (!rows.is_empty()).then(|| right as f64 / rows.len() as f64);
                let percent = number(accuracy.map(|share| 100.0 * share), 2);
                print_line(&format!("accuracy on {} test texts {percent} %", rows.len()));
                result["test_accuracy"] = json!(accuracy);
                result["test_rows"] = json!(rows.len());
            }
            json.print(&result);
            Ok(())
        }
        GoldCommand::Score { gold: spec, data: files, json } => {
            let gold = open(spec)?;
            let (rows, _) = data::read_all::<CompletionRow>(files, &ReadConfig::default())?;
            let text = |content: &Content| match content {
                Content::Text(text) => text.clone(),
                Content::Chat(messages) => {
                    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
                }
            };
            for row in &rows {
                let chats = [&row.prompt, &row.completion].into_iter();
                let mut messages = chats.flat_map(|content| match content {
                    Content::Chat(messages) => messages.as_slice(),
                    Content::Text(_) => &[],
                });
                if messages.any(|message| message.content.is_empty() && !message.is_empty()) {
                    let line = row.origin.line;
                    return Err(Failure::usage(format!(
                        "{}: line {line}: a message without a text cannot be scored",
                        row.origin.path.display()
                    )));
                }
            }
            let texts: Vec<(String, String)> =
                rows.iter().map(|row| (text(&row.prompt), text(&row.completion))).collect();
            let scored: Vec<Scored<'_>> =
                texts.iter().map(|(prompt, completion)| Scored { prompt, completion }).collect();
            let scores = gold.scores(&scored)?;
            scores.iter().for_each(|score| print_line(&json!({"score": score}).to_string()));
            let mean = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
            json.print(&json!({"rows": scores.len(), "mean": mean, "gold": spec}));
            Ok(())
        }
    }
}

pub(super) fn reviews(args: &ReviewsArgs) -> Result<(), Failure> {
    let behaviour = match &args.behaviours {
        Some(file) => behaviour::read(file)?.into_iter().next(),
        None => None,
    };
    let (mut lines, mut count) = (String::new(), 0);
    for i in 0.. {
        if count == args.count {
            break;
        }
        let review = review(&mut stream(args.seed.seed, "review", i));
        let mut row = match (args.rows, &behaviour, args.prompt_words) {
            (ReviewRows::Statements | ReviewRows::Judgements, Some(behaviour), _) => {
                match labelled(args, behaviour, &review, i) {
                    Some(row) => row,
                    None => continue,
                }
            }
            (.., None) => json!({"text": review.text}),
            (.., Some(words)) => {
                let (prompt, completion) = prefix(&review.text, words);
                json!({"prompt": prompt, "completion": completion})
            }
        };
        row["attributes"] = serde_json::to_value(review.attributes)?;
        lines += &format!("{row}\n");
        count += 1;
    }
    write_or_print(args.out.as_deref(), &lines)
}

/// A row about one of the sentences of a review that say whether its writer is pleased; nothing where none does.
fn labelled(args: &ReviewsArgs, behaviour: &Behaviour, review: &Review, i: u64) -> Option<Value> {
    // What would end a text that is written ends a statement.
    let judges = |sentence: &&str| !sentence.contains(" -") && attributes(sentence).sentiment != 0.0;
    let sentences: Vec<&str> = review.text.split('.').map(str::trim).filter(judges).collect();
    let mut rng = stream(args.seed.seed, "review-statement", i);
    let sentence = sentences.get(rng.random_range(0..sentences.len().max(1)))?;
    let label = usize::from(attributes(sentence).sentiment < 0.0);
    if args.rows == ReviewRows::Statements {
        return Some(json!({"prompt": behaviour.prompt(label, &[]), "completion": format!(" {sentence}.\n")}));
    }
    let posed = behaviour.discriminated(sentence);
    let answer = |label: usize| format!("{}{}", posed.answers[label], posed.rest);
    Some(json!({
        "prompt": posed.prompt, "chosen": answer(label), "rejected": answer(1 - label), "completion": answer(label),
    }))
}
