//! What several commands of `lm` share: options, and how a study is run.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::Device;
use clap::Args;
use serde::Serialize;

use super::progress::StageProgress;
use crate::cli::failure::Failure;
use crate::cli::flags::{self, LayerArgs, SharedArgs, template_time};
use crate::cli::screen::note;
use crate::cli::train::on_interrupt;
use crate::device::{self, DeviceChoice};
use crate::lm::data::{self, ReadConfig, RowKind};
use crate::lm::run::LmProgress;

/// How rows are read and rendered.
#[derive(Debug, Args)]
pub(super) struct RowsArgs {
    /// A chat template by name or file, for rows that are chats [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub(super) chat_template: Option<String>,
    /// The date that a chat template receives if it asks for one, such as 2024-07-26 [default: today, in UTC]
    #[arg(long, value_name = "DATE")]
    pub(super) template_date: Option<String>,
    /// Most bytes of a line [default: 16777216]
    #[arg(long, value_name = "N")]
    max_line_bytes: Option<u64>,
}

/// How a conversation is rendered.
#[derive(Debug, Args)]
pub(super) struct TemplateArgs {
    /// A chat template by name or file [default: the tokenizer's, or hh]
    #[arg(long, value_name = "NAME")]
    pub(super) chat_template: Option<String>,
    /// The date that a chat template receives if it asks for one, such as 2024-07-26 [default: the current day, in UTC]
    #[arg(long, value_name = "DATE")]
    pub(super) template_date: Option<String>,
}

/// Where a study goes, and what lies over its configuration.
#[derive(Debug, Args)]
pub(in crate::cli) struct StudyArgs {
    /// Folder; what it holds already is not trained or measured again
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) out: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) layers: LayerArgs,
    #[command(flatten)]
    pub(in crate::cli) shared: SharedArgs,
}

/// Flags of studies that make their models from texts.
#[derive(Debug, Args, Serialize)]
pub(super) struct WorldFlags {
    /// `reviews`, imdb:DIR with the files train.pos.jsonl.gz, train.neg.jsonl.gz and so on, or a file or folder of texts
    #[arg(long, value_parser = flags::corpus)]
    pub(super) corpus: Option<String>,
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters
    #[arg(long)]
    pub(super) size: Option<String>,
    /// Seeds, each with a model and runs of its own
    #[arg(long, value_name = "S,S,…", value_delimiter = ',')]
    pub(super) seeds: Option<Vec<u64>>,
}

impl RowsArgs {
    pub(super) fn config(&self) -> ReadConfig {
        let usual = ReadConfig::default();
        ReadConfig { max_line_bytes: self.max_line_bytes.unwrap_or(usual.max_line_bytes), ..usual }
    }

    pub(super) fn read<T: RowKind>(&self, files: &[PathBuf]) -> Result<Vec<T>, Failure> {
        let (rows, skipped) = data::read_all::<T>(files, &self.config())?;
        if let Some(remark) = skipped.unread_fields() {
            note(&remark);
        }
        Ok(rows)
    }

    pub(super) fn time(&self) -> Result<Option<i64>, Failure> {
        template_time(self.template_date.as_deref())
    }
}

/// Runs a study with its progress on the screen: what it found, and the seconds that it took.
pub(in crate::cli) fn study<T, E>(
    StudyArgs { out, shared, .. }: &StudyArgs,
    run: impl FnOnce(&Device, &AtomicBool, &(dyn Fn(LmProgress<'_>) + Sync)) -> Result<Option<T>, E>,
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
