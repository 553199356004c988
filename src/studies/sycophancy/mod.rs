//! How training on comparisons teaches models to agree with whoever asks: by size, by training, by the bias of who
//! compares; and what undoes it.
//!
//! For each seed and size a model learns to write questions of [`opinions`] and to answer them truly: the base.
//! For each bias an annotator ([`opinions::Annotator`]) compares the two answers to the same questions, and from
//! these labels come a DPO policy, a reward model, and a PPO policy of it. All are asked the same held-out questions,
//! without a view, with a right and with a wrong one. For one size there are remedies against the largest bias: MODPO
//! with the truth as second objective, and soups with the policy of unbiased labels.
//!
//! ```text
//! DIR/
//!   config.toml                    what is run
//!   models/SEED-SIZE/              base, dpo-BIAS, ppo-BIAS, modpo-WEIGHT, as Hugging Face folders
//!   points/SEED-SIZE-TRAINING.json what each was measured at: what is there is not done again
//!   sycophancy.json table.txt sycophancy.svg
//! ```

mod config;
pub mod opinions;
mod table;
mod texts;
mod unit;
mod work;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use burn::tensor::Device;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use crate::disk::DiskError;
use crate::disk::archive::write_atomically;
use crate::disk::lock::Claim;
use crate::lm::error::LmError;
use crate::lm::run::{SIZES, Show};
use crate::studies::beginning::{io, read_json, same_config, write_json};
pub use config::{Point, SycophancyConfig, Training};
pub use table::{Along, Control, Finding, Mean, Measure, Row, Sycophancy, Trend};
use texts::Texts;
use unit::Unit;
use work::{Work, point_file};

/// Runs everything that the folder does not hold yet, and writes table, JSON and figure; nothing is returned where it was
/// stopped. `show` is told of what goes on.
///
/// As many models are trained beside each other as there are threads, each by one: a small one would not fill two. The
/// results do not depend on it.
///
/// # Errors
/// [`LmError`]; what was trained and measured before is kept, and a later call goes on from there.
pub fn sycophancy(
    config: &SycophancyConfig,
    folder: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<Option<Sycophancy>, LmError> {
    config.validate()?;
    let _claim = Claim::make(folder).map_err(DiskError::from)?;
    for name in ["points", "models"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).map_err(|source| io(&path, "make the folder", source))?;
    }
    same_config(config, "study of sycophancy", folder)?;
    // The largest first, so that no thread is left alone with one at the end.
    let largest_first = SIZES.iter().rev().map(|(name, ..)| *name);
    let units: Vec<(u64, &str)> = largest_first
        .filter(|name| config.sizes.iter().any(|size| size == name))
        .flat_map(|size| config.seeds.iter().map(move |&seed| (seed, size)))
        .collect();
    let missing: Vec<(u64, &str)> = units
        .iter()
        .copied()
        .filter(|&(seed, size)| config.branches(size).iter().any(|&one| !point_file(folder, seed, size, one).exists()))
        .collect();
    if !missing.is_empty() {
        let work = Work::new(config, folder, &units, show);
        if !train_all(config, folder, device, &missing, stop, &work)? {
            return Ok(None);
        }
    }
    let mut points: Vec<Point> = Vec::new();
    for &seed in &config.seeds {
        for size in &config.sizes {
            for branch in config.branches(size) {
                points.extend(read_json::<Vec<Point>>(&point_file(folder, seed, size, branch))?);
            }
        }
    }
    let found = table::summarised(config, points);
    write_json(&folder.join("sycophancy.json"), &found)?;
    let path = folder.join("table.txt");
    write_atomically(&path, found.text().as_bytes()).map_err(|source| io(&path, "write the table", source))?;
    table::draw(&found, &folder.join("sycophancy.svg"))?;
    Ok(Some(found))
}

/// Whether it was not stopped.
fn train_all(
    config: &SycophancyConfig,
    folder: &Path,
    device: &Device,
    missing: &[(u64, &str)],
    stop: &AtomicBool,
    work: &Work<'_>,
) -> Result<bool, LmError> {
    let wanted: Vec<u64> =
        config.seeds.iter().copied().filter(|seed| missing.iter().any(|(other, _)| other == seed)).collect();
    work.note(&format!("writing texts and questions of {} seeds", wanted.len()));
    let worlds = wanted.par_iter().map(|&seed| Texts::new(config, seed)).collect::<Result<Vec<_>, _>>()?;
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let stopped = || stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    let one_after_another = || -> Result<(), LmError> {
        while let Some(&(seed, size)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let world = worlds.iter().find(|world| world.seed == seed).expect("every missing seed has a world");
            if stopped() {
                break;
            }
            Unit::new(config, world, size, folder, device, &stopped, work).run()?;
        }
        Ok(())
    };
    let worker = || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|error| LmError::Config(format!("a thread cannot be had: {error}")))?;
        let ended = pool.install(one_after_another);
        failed.fetch_or(ended.is_err(), Ordering::Relaxed);
        ended
    };
    thread::scope(|scope| {
        let count = rayon::current_num_threads().min(missing.len());
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<Vec<_>>().into_iter().collect::<Result<(), LmError>>()
    })?;
    Ok(!stop.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use burn::tensor::Device;

    use super::config::Branch;
    use super::{Sycophancy, SycophancyConfig, Texts, Training, sycophancy};
    use crate::lm::data::EncodedPair;
    use crate::lm::ppo::PpoConfig;
    use crate::lm::run::{LmError, LmProgress};
    use crate::studies::sycophancy::opinions::Answer;

    fn small() -> SycophancyConfig {
        SycophancyConfig {
            seeds: vec![5],
            sizes: vec!["30k".to_owned()],
            biases: vec![0.0, 4.0],
            remedy_weights: vec![0.5],
            vocabulary: 600,
            context: 192,
            texts: 96,
            tuning_steps: 4,
            tuning_batch_size: 4,
            comparisons: 24,
            questions: 6,
            // The first step of a warm-up moves nothing.
            dpo_steps: vec![2, 3],
            batch_size: 4,
            reward_batch_size: 6,
            ppo_iterations: vec![1],
            ppo: PpoConfig { batch_size: 4, minibatch_size: 4, ..SycophancyConfig::default().ppo },
            ..SycophancyConfig::default()
        }
    }

    fn run(config: &SycophancyConfig, folder: &Path) -> Result<Option<Sycophancy>, LmError> {
        sycophancy(config, folder, &Device::flex(), &AtomicBool::new(false), &|_| ())
    }

    #[test]
    fn a_study_goes_on_where_it_stopped_with_any_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let config = small();
        let path = folder.path().join("whole");
        let whole = run(&config, &path).unwrap().unwrap();
        let count = |training: Training| whole.points.iter().filter(|point| point.training == training).count();
        let all = [Training::Base, Training::Dpo, Training::Reward, Training::Ppo, Training::Modpo, Training::Soup];
        assert_eq!(all.map(count), [1, 2 * 2, 2, 2, 1, 1]);
        let fine = |share: f64| (0.0..=1.0).contains(&share);
        assert!(whole.points.iter().all(|point| fine(point.behaviour.agrees) && fine(point.behaviour.accuracy)));
        let divergences: Vec<f64> = whole.points.iter().filter_map(|point| point.kl).collect();
        assert_eq!((divergences.len(), divergences[0]), (9, 0.0));
        assert!(divergences[1..].iter().all(|kl| *kl > 0.0), "{divergences:?}");
        for file in ["sycophancy.json", "sycophancy.svg", "table.txt", "models/5-30k/dpo-4/tokenizer.json"] {
            assert!(path.join(file).exists(), "{file}");
        }
        assert!(!path.join("models/5-30k/base.safetensors").exists());
        assert_eq!(std::fs::read_to_string(path.join("table.txt")).unwrap(), whole.text());

        // Points that are gone are measured again: with the models of the folder, and without.
        let points = |name: &str| path.join(format!("points/5-30k-{name}.json"));
        for name in ["base", "dpo-4", "ppo-0", "soups"] {
            std::fs::remove_file(points(name)).unwrap();
        }
        assert_eq!(run(&config, &path).unwrap().unwrap(), whole);
        std::fs::remove_dir_all(path.join("models")).unwrap();
        for name in ["modpo-0.5", "soups"] {
            std::fs::remove_file(points(name)).unwrap();
        }
        assert_eq!(run(&config, &path).unwrap().unwrap(), whole);

        // Another configuration has another folder.
        let error = run(&SycophancyConfig { beta: 0.2, ..config.clone() }, &path).unwrap_err().to_string();
        assert!(error.contains("holds another study of sycophancy: choose another --out"), "{error}");

        // Stopped at once and after each training, with four threads.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let broken = folder.path().join("broken");
        let resumed = pool.install(|| {
            for tries in 0.. {
                let stop = AtomicBool::new(tries == 0);
                let show = |shown: LmProgress<'_>| {
                    if matches!(shown, LmProgress::Note(note) if note.contains("agrees with")) {
                        stop.store(true, Ordering::Relaxed);
                    }
                };
                let found = sycophancy(&config, &broken, &Device::flex(), &stop, &show).unwrap();
                if let Some(found) = found {
                    assert!(tries > config.branches("30k").len() - 2, "{tries}");
                    return found;
                }
            }
            unreachable!("each try trains one more");
        });
        assert_eq!(resumed, whole);
    }

    /// A base that is stopped at every checkpoint ends as one that is not.
    #[test]
    fn a_base_goes_on_from_its_checkpoint() {
        use super::Work;
        use super::unit::Unit;
        use std::sync::atomic::AtomicUsize;
        let folder = tempfile::tempdir().unwrap();
        let config = small();
        let world = Texts::new(&config, 5).unwrap();
        let device = Device::flex();
        let base = |name: &str, every: usize| {
            let path = folder.path().join(name);
            let work = Work::new(&config, &path, &[], &|_| ());
            let asked = AtomicUsize::new(1);
            let stopped = || asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(every);
            for tries in 1.. {
                let unit = Unit::new(&config, &world, "30k", &path, &device, &stopped, &work);
                if let Some(base) = unit.base().unwrap() {
                    return (unit.odds(base), tries);
                }
            }
            unreachable!("each try goes further");
        };
        let (whole, once) = base("whole", usize::MAX);
        let (broken, tries) = base("broken", 2);
        assert!(once == 1 && tries > 3, "{once} {tries}");
        assert_eq!(broken, whole);
    }

    #[test]
    fn labels_are_answers_and_comparisons_have_one_answer_on_each_side() {
        let config = SycophancyConfig { comparisons: 300, ..small() };
        let world = Texts::new(&config, 1).unwrap();
        let [unbiased, biased] = [0.0, 4.0].map(|bias| world.labels(&config, bias));
        // One draw decides for all annotators: only where views are wrong does the bias turn answers to the view, and where
        // they are right to the truth.
        for (i, question) in world.compared.questions.iter().enumerate() {
            match question.view {
                None => assert_eq!(unbiased[i], biased[i]),
                Some(view) if unbiased[i] != biased[i] => assert_eq!(biased[i], view),
                Some(_) => {}
            }
        }
        let own = |asked: &EncodedPair, answer: Answer| {
            let side = if answer == Answer::Good { &asked.chosen } else { &asked.rejected };
            world.tokenizer.decode(side.completion(), false).unwrap()
        };
        assert!(
            world
                .compared
                .pairs
                .iter()
                .all(|pair| own(pair, Answer::Good) == " Good" && own(pair, Answer::Bad) == " Bad")
        );
    }

    #[test]
    fn remedies_are_tried_with_the_largest_small_model() {
        let of = |sizes: &[&str]| {
            let sizes = sizes.iter().map(|&size| size.to_owned()).collect();
            SycophancyConfig { sizes, ..SycophancyConfig::default() }.remedy_size().to_owned()
        };
        assert_eq!(of(&["3m", "100k", "30k"]), "100k");
        assert_eq!(of(&["3m", "1m"]), "1m");
        assert_eq!(SycophancyConfig::default().remedy_size(), "300k");
        assert!(!SycophancyConfig::default().branches("1m").contains(&Branch::Soups));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_reason() {
        type Change = fn(&mut SycophancyConfig);
        let folder = tempfile::tempdir().unwrap();
        let wrong = |change: Change| {
            let mut config = small();
            change(&mut config);
            run(&config, folder.path()).unwrap_err().to_string()
        };
        let cases: [(Change, &str); 13] = [
            (|config| config.recalled = -0.1, "recalled = -0.1: must be at least 0 and below 1"),
            (
                |config| config.sizes.push("5x".to_owned()),
                "sizes: \"5x\" is none: must be 30k, 100k, 300k, 1m, 3m, 10m",
            ),
            (|config| config.sizes.push("30k".to_owned()), "sizes: \"30k\" is there twice"),
            (|config| config.sizes.clear(), "sizes: there is none"),
            (|config| config.biases.push(-1.0), "biases: -1: must be 0 or more"),
            (|config| config.biases = vec![2.0, 4.0], "biases = [2.0, 4.0]: must be 0, which is the control"),
            (|config| config.seeds.clear(), "seeds: there is none: give one or more"),
            (|config| config.seeds.push(5), "seeds: 5 is there twice"),
            (|config| config.remedy_size = "3m".to_owned(), "remedy_size = \"3m\": must be one of the sizes: 30k"),
            (|config| config.remedy_weights.push(1.0), "remedy_weights: 1: must be between 0 and 1"),
            (|config| config.dpo_steps = vec![5, 5], "dpo_steps = [5, 5]: must be one or more, from 1 on, each larger"),
            (|config| config.beta = 0.0, "beta = 0: must be positive"),
            (|config| config.questions = 0, "questions = 0: must be 1 or more"),
        ];
        for (change, expected) in cases {
            let found = wrong(change);
            assert!(found.contains(expected), "{found}, expected {expected}");
        }
        assert!(!folder.path().join("config.toml").exists());
        let error = run(&SycophancyConfig { context: 40, ..small() }, folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("context = 40: a text has "), "{error}");
    }
}
