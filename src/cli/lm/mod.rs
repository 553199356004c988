//! `lm …`: language models.

mod corpus;
mod front;
mod frontier;
mod generate;
mod merge;
mod progress;
mod score;
mod serve;
mod shared;
mod soup;
mod train;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::flags::ResumeArgs;
use crate::lm::run::StageKind;
pub(super) use shared::{StudyArgs, study};

/// Arguments of `lm`.
#[derive(Debug, Args)]
pub(crate) struct LmArgs {
    #[command(subcommand)]
    pub(super) command: LmCommand,
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
    Resume(ResumeArgs),
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
