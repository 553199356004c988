//! A run of an ensemble of reward models: a run folder for each member, one after another.
//!
//! ```text
//! runs/<name>/
//!   config.toml      resolved configuration
//!   member-0/ …      a run folder for each member
//!   summary.json     what --json printed: of the mean over members, and of each
//! ```

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};

use super::config::{LmConfig, RewardRunConfig, StageKind, first_config};
use super::course::read_config;
use super::execute::evaluated;
use super::one;
use super::outcome::{LmOutcome, LmProgress, LmSummary, Show, member_folder};
use super::prepare::{Work, prepare};
use super::reward_models::{RewardModels, read};
use crate::disk::files::hex;
use crate::disk::{Folder, changes};
use crate::lm::error::LmError;
use crate::lm::reward::pair_scores;
use crate::preference::query::disagreement;

/// Trains an ensemble in a new folder.
///
/// # Errors
/// [`LmError`].
pub(super) fn begin(
    config: &LmConfig,
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<LmOutcome, LmError> {
    let config = one::checked(config)?;
    let _folder = Folder::create_with(path, &config.to_toml())?;
    let outcome = train(&config, path, device, stop, show);
    if outcome.is_err() && !member_folder(path, 0).exists() {
        // The first member could not begin, so nor could the ensemble.
        let _ = fs::remove_dir_all(path);
    }
    outcome
}

/// Trains the members that are not finished, one after another, and measures the ensemble.
///
/// # Errors
/// [`LmError`].
pub(super) fn train(
    config: &LmConfig,
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<LmOutcome, LmError> {
    let count = config.reward.map_or(1, |reward| reward.members);
    let mut summaries: Vec<LmSummary> = Vec::with_capacity(count);
    for member in 0..count {
        let folder = member_folder(path, member);
        if folder.join("config.toml").is_file() {
            same_as_member(&of_one(config, member), &first_config(&folder)?, path, &folder)?;
        }
        if let Some(summary) = LmSummary::load(&folder)? {
            summaries.push(summary);
            continue;
        }
        let (steps, tokens) = totals(&summaries);
        if stop.load(Ordering::Relaxed) && member > 0 {
            return Ok(LmOutcome::Interrupted { step: steps });
        }
        show(LmProgress::Note(&format!("member {} of {count}", member + 1)));
        // Steps and tokens are counted over all members.
        let of_member = |shown: LmProgress<'_>| match shown {
            LmProgress::Step(step, total, metrics, own) => {
                show(LmProgress::Step(member * total + step, count * total, metrics, tokens + own));
            }
            other => show(other),
        };
        let outcome = match folder.join("config.toml").is_file() {
            true => {
                let config = read_config(&folder)?;
                one::resume(&Folder::open_to_write(&folder)?, &config, None, device, stop, &of_member)?
            }
            false => one::train(&of_one(config, member), &folder, device, stop, &of_member)?,
        };
        match outcome {
            LmOutcome::Finished(summary) => summaries.push(*summary),
            LmOutcome::Interrupted { step } => return Ok(LmOutcome::Interrupted { step: steps + step }),
        }
    }
    let summary = summarise(config, path, device, &summaries)?;
    summary.save()?;
    Ok(LmOutcome::Finished(Box::new(summary)))
}

/// The configuration of a member's run.
fn of_one(config: &LmConfig, member: usize) -> LmConfig {
    let reward = config.reward.map(|reward| RewardRunConfig { member: Some(member), ..reward });
    LmConfig { reward, ..config.clone() }
}

/// Checks that a member was begun with the ensemble's configuration.
fn same_as_member(wanted: &LmConfig, found: &LmConfig, run: &Path, member: &Path) -> Result<(), LmError> {
    let differences = changes::differences(&found.to_table(), &wanted.to_table());
    let Some(changes::Difference { field, first, second }) = differences.first() else { return Ok(()) };
    let shown = |value: &Option<toml::Value>| value.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    Err(LmError::Config(format!(
        "{}: {field}: the member was begun with {}, the ensemble's config.toml in {} says {}. Undo the edit",
        member.join("config.toml").display(),
        shown(first),
        run.display(),
        shown(second)
    )))
}

/// Steps taken and tokens gone over.
fn totals(summaries: &[LmSummary]) -> (usize, u64) {
    summaries.iter().fold((0, 0), |(steps, tokens), summary| (steps + summary.steps, tokens + summary.tokens))
}

/// What the ensemble does on the held-out comparisons: measures of the mean of the members' scores under the names of a
/// single model's, each member's accuracy, and how much they disagree on average.
fn summarise(config: &LmConfig, path: &Path, device: &Device, summaries: &[LmSummary]) -> Result<LmSummary, LmError> {
    let mut eval = Map::new();
    // Remarks on the rows were shown by every member.
    let prepared = prepare(&of_one(config, 0), &Folder::open(&member_folder(path, 0))?, device, &|_| ())?;
    if let Work::Comparisons(_, Some(held_out)) = prepared.work {
        let RewardModels { members, likelihood, .. } = read(path, device)?;
        let part_tokens = config.train.part_tokens;
        let count = members.len() as f64;
        let mut means = vec![[0.0; 2]; held_out.pairs.len()];
        let mut all = Vec::with_capacity(members.len() * means.len());
        for member in &members {
            let scores = pair_scores(member, &held_out.pairs, part_tokens);
            all.extend(scores.iter().map(|[chosen, rejected]| likelihood.probability(chosen - rejected)));
            for (mean, score) in means.as_flattened_mut().iter_mut().zip(scores.as_flattened()) {
                *mean += score / count;
            }
        }
        let pairs: Vec<usize> = (0..means.len()).collect();
        eval = evaluated(&held_out.measure(&pairs, &means).0);
        let disagreements = disagreement(&all, members.len());
        let mean = disagreements.iter().sum::<f64>() / disagreements.len() as f64;
        eval.insert("eval_disagreement".to_owned(), json!(mean));
        for (member, summary) in summaries.iter().enumerate() {
            // Where all held-out comparisons tie, there is none.
            if let Some(own) = summary.eval.get("eval_accuracy") {
                eval.insert(format!("eval_accuracy/member-{member}"), own.clone());
            }
        }
    }
    let mut hash = Sha256::new();
    summaries.iter().for_each(|summary| hash.update(&summary.weights_sha256));
    let (steps, tokens) = totals(summaries);
    Ok(LmSummary {
        stage: StageKind::Reward,
        seed: config.seed,
        steps,
        trained_parameters: summaries.iter().map(|summary| summary.trained_parameters).sum(),
        eval,
        sampled: None,
        tokens,
        wall_seconds: summaries.iter().map(|summary| summary.wall_seconds).sum(),
        cpu_seconds: summaries.iter().map(|summary| summary.cpu_seconds).sum(),
        weights_sha256: hex(&hash.finalize()),
        model: path.to_owned(),
        run_dir: path.to_owned(),
    })
}
