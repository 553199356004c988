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

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::Device;
use clap::{Args, Subcommand};
use serde::Serialize;

use self::progress::StageProgress;
use super::flags::{self, template_time};
use super::train::on_interrupt;
use super::{
    Failure, JsonArgs, LayerArgs, SharedArgs, note, number, over_seeds, print_line, print_table, print_text, remark,
    shown, write, write_or_print,
};
use crate::device::{self, DeviceChoice};
use crate::lm::data::{self, ReadConfig, RowKind};
use crate::lm::run::{Shown, StageKind};

/// Arguments of `lm`.
#[derive(Debug, Args)]
pub(crate) struct LmArgs {
    #[command(subcommand)]
    pub(super) command: LmCommand,
}

/// How rows are read and rendered.
#[derive(Debug, Args)]
struct RowsArgs {
    /// A chat template by name or file, for rows that are chats [default: the model's own]
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// The day that a chat template is told if it asks, such as 2024-07-26 [default: today, in UTC]
    #[arg(long, value_name = "DATE")]
    template_date: Option<String>,
    /// Most bytes of a line [default: 16777216]
    #[arg(long, value_name = "N")]
    max_line_bytes: Option<u64>,
}

/// How a conversation is rendered.
#[derive(Debug, Args)]
struct TemplateArgs {
    /// A chat template by name or file [default: the tokenizer's, or hh]
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// The day that a chat template is told if it asks, such as 2024-07-26 [default: the current day, in UTC]
    #[arg(long, value_name = "DATE")]
    template_date: Option<String>,
}

/// Where a study goes, and what lies over its configuration.
#[derive(Debug, Args)]
pub(super) struct StudyArgs {
    /// Folder; what it holds already is not trained or measured again
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) layers: LayerArgs,
    #[command(flatten)]
    pub(super) shared: SharedArgs,
}

/// Flags of studies that make their models from texts.
#[derive(Debug, Args, Serialize)]
struct WorldFlags {
    /// `reviews`, imdb:DIR with the files train.pos.jsonl.gz, train.neg.jsonl.gz and so on, or a file or folder of texts
    #[arg(long, value_parser = flags::corpus)]
    corpus: Option<String>,
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters
    #[arg(long)]
    size: Option<String>,
    /// Seeds, each with a model and runs of its own
    #[arg(long, value_name = "S,S,…", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
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

/// Commands of `lm`.
#[derive(Debug, Subcommand)]
pub(super) enum LmCommand {
    /// Train a fresh model on texts
    Pretrain(train::StageArgs<train::PretrainFlags>),
    /// Fine-tune a model on completions: rows {"prompt", "completion"}
    Sft(train::StageArgs<train::TrainFlags>),
    /// Fit a reward model to comparisons: rows {"prompt", "chosen", "rejected"}
    Reward(train::StageArgs<train::RewardFlags>),
    /// Train a policy directly on comparisons (DPO and its family)
    Dpo(train::StageArgs<train::DpoFlags>),
    /// Train a policy for several objectives at once: on the comparisons of one, with the rewards of the others (MODPO)
    Modpo(train::StageArgs<train::ModpoFlags>),
    /// Train a policy on good and bad completions: rows {"prompt", "completion", "label"}
    Kto(train::StageArgs<train::TrainFlags>),
    /// Train a policy with PPO on a reward model or a gold reward: rows {"prompt"}
    Ppo(train::StageArgs<train::PpoFlags>),
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
    /// Measure how much gold reward DPO, PPO and others gain for how much divergence: a table, JSON and a figure
    Frontier(frontier::FrontierArgs),
    /// Weigh several objectives in all ways (MODPO, soups, MORLHF …): fronts, hypervolumes and costs as a table, JSON and
    /// a figure
    Front(front::FrontArgs),
    /// Merge models, or adapters of one base, by their weights: linear, SLERP, task arithmetic, TIES, DARE
    Merge(merge::MergeArgs),
    /// Measure mixes of models from one end to the other, choose the weights of a soup, and write it
    Soup(soup::SoupArgs),
    /// Write texts of the embedded world
    Reviews(corpus::ReviewsArgs),
}

pub(crate) fn lm(args: LmArgs) -> Result<(), Failure> {
    match args.command {
        LmCommand::Pretrain(args) => train::train(StageKind::Pretrain, args),
        LmCommand::Sft(args) => train::train(StageKind::Sft, args),
        LmCommand::Reward(args) => train::train(StageKind::Reward, args),
        LmCommand::Dpo(args) => train::train(StageKind::Dpo, args),
        LmCommand::Modpo(args) => train::train(StageKind::Modpo, args),
        LmCommand::Kto(args) => train::train(StageKind::Kto, args),
        LmCommand::Ppo(args) => train::train(StageKind::Ppo, args),
        LmCommand::Resume(args) => train::resume(&args),
        LmCommand::Sample(args) => generate::sample(&args),
        LmCommand::Score(args) => score::score(&args),
        LmCommand::Query(args) => score::query(&args),
        LmCommand::Chat(args) => generate::chat(&args),
        LmCommand::Serve(args) => serve::serve(&args),
        LmCommand::Tokenizer(command) => corpus::tokenizer(&command),
        LmCommand::Gold(command) => corpus::gold(&command),
        LmCommand::Frontier(args) => frontier::frontier(&args),
        LmCommand::Front(args) => front::front(&args),
        LmCommand::Merge(args) => merge::merge(&args),
        LmCommand::Soup(args) => soup::soup(args),
        LmCommand::Reviews(args) => corpus::reviews(&args),
    }
}

/// Runs a study with its progress on the screen: what it found, and the seconds that it took.
pub(super) fn study<T, E>(
    StudyArgs { out, shared, .. }: &StudyArgs,
    run: impl FnOnce(&Device, &AtomicBool, &(dyn Fn(Shown<'_>) + Sync)) -> Result<Option<T>, E>,
) -> Result<(T, f64), Failure>
where
    Failure: From<E>,
{
    shared.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let started = Instant::now();
    let found = run(&device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    let found = found.ok_or_else(|| Failure::kept("trained and measured", out))?;
    Ok((found, started.elapsed().as_secs_f64()))
}

/// The configuration of a command that has one.
#[cfg(test)]
pub(super) fn resolved(args: LmArgs) -> Result<toml::Table, Failure> {
    use crate::disk::layers::layer;
    Ok(match args.command {
        LmCommand::Pretrain(mut args) => layer(&train::resolve(StageKind::Pretrain, &mut args)?),
        LmCommand::Sft(mut args) => layer(&train::resolve(StageKind::Sft, &mut args)?),
        LmCommand::Reward(mut args) => layer(&train::resolve(StageKind::Reward, &mut args)?),
        LmCommand::Dpo(mut args) => layer(&train::resolve(StageKind::Dpo, &mut args)?),
        LmCommand::Modpo(mut args) => layer(&train::resolve(StageKind::Modpo, &mut args)?),
        LmCommand::Kto(mut args) => layer(&train::resolve(StageKind::Kto, &mut args)?),
        LmCommand::Ppo(mut args) => layer(&train::resolve(StageKind::Ppo, &mut args)?),
        LmCommand::Front(args) => layer(&front::config(&args)?),
        LmCommand::Frontier(args) => layer(&frontier::config(&args)?),
        LmCommand::Merge(args) => layer(&merge::config(&args)?),
        LmCommand::Soup(mut args) => layer(&soup::config(&mut args)?),
        other => panic!("{other:?}: has no configuration here"),
    }?)
}
