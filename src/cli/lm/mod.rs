//! `lm …`: language models.

mod corpus;
mod front;
mod frontier;
mod generate;
mod merge;
mod progress;
mod score;
mod serve;
mod soup;
mod train;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use toml::{Table, Value};

use super::{Failure, LayerArgs, SharedArgs, note, print_json, print_line, print_text, remark, shown};
use crate::disk::archive::write_atomically;
use crate::lm::chat;
use crate::lm::data::{self, ReadConfig, RowKind};
use crate::lm::run::StageKind;

/// Arguments of `lm`.
#[derive(Debug, Args)]
pub(crate) struct LmArgs {
    #[command(subcommand)]
    command: Command,
}

/// How rows are read and rendered.
#[derive(Debug, Args)]
struct RowsArgs {
    /// The day that a chat template is told if it asks, such as 2024-07-26 [default: today, in UTC]
    #[arg(long, value_name = "DATE")]
    template_date: Option<String>,
    /// Most bytes of a line [default: 16777216]
    #[arg(long, value_name = "N")]
    max_line_bytes: Option<u64>,
}

impl RowsArgs {
    fn config(&self) -> ReadConfig {
        let usual = ReadConfig::default();
        ReadConfig { max_line_bytes: self.max_line_bytes.unwrap_or(usual.max_line_bytes), ..usual }
    }

    fn read<T: RowKind>(&self, files: &[PathBuf]) -> Result<Vec<T>, Failure> {
        let (rows, skipped) = data::read_all::<T>(files, &self.config())?;
        if let Some(remark) = skipped.unread_fields() {
            note(&remark);
        }
        Ok(rows)
    }

    fn time(&self) -> Result<Option<i64>, Failure> {
        template_time(self.template_date.as_deref())
    }
}

/// The time that `--template-date` gives.
pub(crate) fn template_time(date: Option<&str>) -> Result<Option<i64>, Failure> {
    let date = date.map(chat::date).transpose();
    date.map_err(|problem| Failure::usage(format!("--template-date: {problem}")))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a fresh model on texts
    Pretrain(train::PretrainArgs),
    /// Fine-tune a model on completions: rows {"prompt", "completion"}
    Sft(train::TrainArgs),
    /// Fit a reward model to comparisons: rows {"prompt", "chosen", "rejected"}
    Reward(train::RewardArgs),
    /// Train a policy directly on comparisons (DPO and its family)
    Dpo(train::DpoArgs),
    /// Train a policy for several objectives at once: on the comparisons of one, with the rewards of the others (MODPO)
    Modpo(train::ModpoArgs),
    /// Train a policy on good and bad completions: rows {"prompt", "completion", "label"}
    Kto(train::TrainArgs),
    /// Train a policy with PPO on a reward model or a gold reward: rows {"prompt"}
    Ppo(train::PpoArgs),
    /// Go on with an interrupted run from its newest checkpoint
    Resume(train::ResumeArgs),
    /// Let a model complete prompts
    Sample(generate::SampleArgs),
    /// Log-probabilities of completions under a model
    Score(score::ScoreArgs),
    /// Choose which comparisons to ask for next, by where the members of a reward ensemble disagree
    Query(score::QueryArgs),
    /// Talk to a model
    Chat(generate::ChatArgs),
    /// Serve a model by OpenAI's protocol, on this machine
    Serve(serve::ServeArgs),
    /// Train a tokenizer
    #[command(subcommand)]
    Tokenizer(corpus::TokenizerCommand),
    /// Gold rewards: train a classifier, or score texts
    #[command(subcommand)]
    Gold(corpus::GoldCommand),
    /// Measure the frontier of gold reward against divergence for DPO, PPO and others: a table, JSON and a figure
    Frontier(frontier::FrontierArgs),
    /// Weigh several objectives in all ways (MODPO, soups, MORLHF …): fronts, hypervolumes and costs as a table, JSON and
    /// a figure
    Front(front::FrontArgs),
    /// Merge models, or adapters of one base, by their weights: linear, SLERP, task arithmetic, TIES, DARE
    Merge(merge::MergeArgs),
    /// Look at a soup of models from end to end, choose its weights, and write it
    Soup(soup::SoupArgs),
    /// Write texts of the embedded world
    Reviews(corpus::ReviewsArgs),
}

pub(crate) fn lm(args: &LmArgs) -> Result<(), Failure> {
    match &args.command {
        Command::Pretrain(args) => train::pretrain(args),
        Command::Sft(args) => train::train(StageKind::Sft, args, Table::new()),
        Command::Reward(args) => train::reward(args),
        Command::Dpo(args) => train::dpo(args),
        Command::Modpo(args) => train::modpo(args),
        Command::Kto(args) => train::train(StageKind::Kto, args, Table::new()),
        Command::Ppo(args) => train::ppo(args),
        Command::Resume(args) => train::resume(args),
        Command::Sample(args) => generate::sample(args),
        Command::Score(args) => score::score(args),
        Command::Query(args) => score::query(args),
        Command::Chat(args) => generate::chat(args),
        Command::Serve(args) => serve::serve(args),
        Command::Tokenizer(command) => corpus::tokenizer(command),
        Command::Gold(command) => corpus::gold(command),
        Command::Frontier(args) => frontier::frontier(args),
        Command::Front(args) => front::front(args),
        Command::Merge(args) => merge::merge(args),
        Command::Soup(args) => soup::soup(args),
        Command::Reviews(args) => corpus::reviews(args),
    }
}

fn whole(name: &str, value: usize) -> Result<Value, Failure> {
    i64::try_from(value).map(Value::Integer).map_err(|_| Failure::usage(format!("{name} {value}: far too large")))
}

/// A corpus as a configuration has it: its folder whole, so that the command can be repeated from anywhere.
fn corpus(name: &str) -> Result<Value, Failure> {
    Ok(match name.strip_prefix("imdb:") {
        Some(folder) => format!("imdb:{}", whole_path(Path::new(folder))?).into(),
        None if name == "reviews" => name.into(),
        None => whole_path(Path::new(name))?.into(),
    })
}

fn seeds(all: &[u64]) -> Result<Value, Failure> {
    let seeds = all.iter().map(|&seed| whole("--seeds", usize::try_from(seed).unwrap_or(usize::MAX)));
    Ok(Value::Array(seeds.collect::<Result<_, _>>()?))
}

/// A path in a configuration: whole, so that the run can be resumed from anywhere.
fn path(path: &Path) -> Result<Value, Failure> {
    let whole = if path.exists() { whole_path(path)? } else { utf8(path)? };
    Ok(whole.into())
}

fn whole_path(path: &Path) -> Result<String, Failure> {
    utf8(&std::path::absolute(path)?)
}

fn utf8(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let place = path.display();
        Failure::usage(format!("{place}: is not UTF-8, which a configuration is: rename it, or give it through a link"))
    })
}

/// A reward as a configuration has it: the place that it names whole, likewise.
fn reward(spec: &str) -> Result<Value, Failure> {
    const PLACES: [&str; 6] = ["model", "implicit", "lexicon", "lexicon-compound", "logistic", "logistic-odds"];
    match spec.split_once(':').filter(|(kind, _)| PLACES.contains(kind)) {
        Some((kind, place)) => Ok(format!("{kind}:{}", path(Path::new(place))?.as_str().unwrap_or_default()).into()),
        None => Ok(spec.into()),
    }
}

fn paths(all: &[PathBuf]) -> Result<Value, Failure> {
    Ok(Value::Array(all.iter().map(|one| path(one)).collect::<Result<_, _>>()?))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_atomically(path, text.as_bytes()).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
