//! Flags: those that several commands have, and the way from a flag to a value of a configuration.
//!
//! Flags that set values of a configuration are structs with the configuration's names and nesting. Clap fills them and
//! serde writes them as a layer; a flag that was not given is `None`, and in no layer. A flag that implies other values is
//! parsed to all of them, or has an `imply` that says why. [`tests`] holds every flag against the `--set` that it is short
//! for.

use std::ops::Not;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use toml::Table;

use super::failure::Failure;
use super::screen::print_json;
use crate::device::DeviceChoice;
use crate::disk::layers::{layer, read_layer, resolve, set_layer};
use crate::lm::chat;
use crate::table::Line;

/// Threads to use.
#[derive(Debug, Args)]
pub(crate) struct Threads {
    /// Threads to use; results are the same with any number [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), allow_negative_numbers = true)]
    threads: Option<u16>,
}

/// Whether scripts read along.
#[derive(Debug, Args)]
pub(crate) struct JsonArgs {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// What most commands take.
#[derive(Debug, Args)]
pub(crate) struct SharedArgs {
    #[command(flatten)]
    pub(crate) threads: Threads,
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// What lies over a configuration's defaults, under the flags.
#[derive(Debug, Args)]
pub(crate) struct LayerArgs {
    /// TOML file laid over the defaults and a task's preset, such as the config.toml of another run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any value of the configuration by its path in config.toml, as KEY.PART=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Where a run draws and computes.
#[derive(Debug, Args, Serialize)]
pub(crate) struct RunFlags {
    /// Seed of every random draw
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Where tensors live: auto, cpu, cuda or cuda:N
    #[arg(long)]
    device: Option<DeviceChoice>,
}

/// Arguments of `resume` and of `lm resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Run folder
    pub(crate) run: PathBuf,
    /// Change a value of the configuration from here on, as KEY.PART=VALUE: more steps or labels, learning rates and so on.
    /// The change is recorded in changes.jsonl; with more steps a finished run goes on
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

/// The seed of a command that keeps no configuration.
#[derive(Debug, Args)]
pub(crate) struct SeedArgs {
    /// Seed of every random draw
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

impl Threads {
    /// Sets the size of rayon's global pool.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        let threads = self.threads.map_or(0, usize::from);
        let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        built.map_err(|error| Failure::negative(error.to_string()))
    }
}

impl JsonArgs {
    /// Prints a result as the last line, if that is asked for.
    pub(crate) fn print(&self, result: &impl Serialize) {
        if self.json {
            print_json(result);
        }
    }
}

impl LayerArgs {
    /// All layers, the last one on top: the file, the assignments, the flags.
    pub(crate) fn under(&self, flags: &impl Serialize) -> Result<Vec<Table>, Failure> {
        let mut layers: Vec<Table> = self.config.iter().map(|path| read_layer(path)).collect::<Result<_, _>>()?;
        layers.extend(assigned(&self.set)?);
        layers.push(layer(flags)?);
        Ok(layers)
    }

    /// A configuration's defaults with these layers and `flags` over them.
    pub(crate) fn resolve<C>(&self, defaults: &C, flags: &impl Serialize) -> Result<C, Failure>
    where
        C: Serialize + DeserializeOwned,
    {
        Ok(resolve(defaults, &self.under(flags)?)?)
    }
}

/// A layer for each `--set`.
pub(crate) fn assigned(set: &[String]) -> Result<Vec<Table>, Failure> {
    Ok(set.iter().map(|assignment| set_layer(assignment)).collect::<Result<_, _>>()?)
}

/// The time that `--template-date` gives.
pub(crate) fn template_time(date: Option<&str>) -> Result<Option<i64>, Failure> {
    let date = date.map(chat::date).transpose();
    date.map_err(|problem| Failure::usage(format!("--template-date: {problem}")))
}

/// Leaves a flag out of a layer that was not given, and so is `false`.
pub(crate) fn is_off(flag: &bool) -> bool {
    flag.not()
}

/// The same for `--no-…`, which was not given where the value is `true`.
pub(crate) fn is_on(flag: &bool) -> bool {
    *flag
}

/// Writes a path into a configuration: what exists is whole, so that the run can be repeated from anywhere.
pub(crate) fn place<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(whole).transpose().map_err(S::Error::custom)?.serialize(serializer)
}

/// The same for a list of paths.
pub(crate) fn places<S: Serializer>(paths: &Option<Vec<PathBuf>>, serializer: S) -> Result<S::Ok, S::Error> {
    let whole = |paths: &Vec<PathBuf>| paths.iter().map(|path| whole(path)).collect::<Result<Vec<_>, _>>();
    paths.as_ref().map(whole).transpose().map_err(S::Error::custom)?.serialize(serializer)
}

/// The same for a path that stays as it is given.
pub(crate) fn text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(utf8).transpose().map_err(S::Error::custom)?.serialize(serializer)
}

/// Writes what a line of a table means, where configurations hold that and not its name.
pub(crate) fn item<T: Serialize, S: Serializer>(
    line: &Option<&'static Line<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    line.map(|line| &line.item).serialize(serializer)
}

/// A reward as a configuration has it: a place that it names is whole.
pub(crate) fn reward(spec: &str) -> Result<String, String> {
    const PLACES: [&str; 6] = ["model", "implicit", "lexicon", "lexicon-compound", "logistic", "logistic-odds"];
    match spec.split_once(':').filter(|(kind, _)| PLACES.contains(kind)) {
        Some((kind, place)) => Ok(format!("{kind}:{}", whole(Path::new(place))?)),
        None => Ok(spec.to_owned()),
    }
}

/// A corpus as a configuration has it: its folder is whole.
pub(crate) fn corpus(name: &str) -> Result<String, String> {
    match name.strip_prefix("imdb:") {
        Some(folder) => Ok(format!("imdb:{}", absolute(Path::new(folder))?)),
        None if name == "reviews" => Ok(name.to_owned()),
        None => absolute(Path::new(name)),
    }
}

/// A path, whole where it exists.
fn whole(path: &Path) -> Result<String, String> {
    if path.exists() { absolute(path) } else { utf8(path) }
}

fn absolute(path: &Path) -> Result<String, String> {
    utf8(&std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?)
}

fn utf8(path: &Path) -> Result<String, String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        format!("{} is not UTF-8, but a configuration is: rename it, or give it through a link", path.display())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;

    use clap::parser::ValueSource;
    use clap::{CommandFactory as _, Parser as _};
    use toml::Table;

    use super::super::arguments::{leaves, spread};
    use super::super::{Cli, Command, Failure, evals, front, lm, train};
    use crate::disk::layers::layer;

    /// Commands, with assignments that they need; below each its flags, with the assignments that they are short for. A
    /// line in brackets is a group of flags, or takes one.
    const FLAGS: &str = "\
[run]
  --seed 7              seed=7
  --device cpu          device=cpu
[stage]
  [run]
  --precision bf16      precision=bf16
[rows]
  [stage]
  --model other         model=other
  --data a,b            data=['a','b']
  --eval-data c         eval_data=['c']
[train]
  [rows]
  --lr 0.125            train.optimizer.learning_rate=0.125
  --epochs 7            train.epochs=7
  --steps 7             train.steps=7
  --batch-size 7        train.batch_size=7
  --lora 4              lora={rank=4, alpha=8.0, dropout=0.05, targets=['all-linear'], rslora=false}
  --gold model:x        gold='model:x'; eval_samples=256
  --skip-bad-rows       read.skip_bad_rows=true
[world]
  --corpus /a           corpus='/a'
  --size 30k            size='30k'
  --seeds 3,4           seeds=[3, 4]
train pendulum
  [run]
  --labels 77           preferences.labels=77
  --teacher mistake     preferences.teacher.mistake=0.1
  --sampler uniform     preferences.sampler=uniform
  --steps 77000         steps=77000
  --reward true         reward=true
  --init other          init=other
front
  pendulum              env=pendulum
  --seeds 3             seeds=[0, 1, 2]
  --no-morl             morl=false
  --labels 9            labels=9
lm pretrain
  [stage]
  --corpus a,b          data=['a', 'b']
  --size 30k            pretrain.hidden=16; pretrain.layers=3; pretrain.heads=2
  --texts 7             pretrain.texts=7
  --vocab-size 300      pretrain.vocabulary=300
  --packing             pretrain.packing=true
  --steps 7             train.steps=7
lm sft                  model=m; data=['d']
  [train]
lm kto                  model=m; data=['d']
  [train]
lm reward               model=m; data=['d']
  [train]
  --members 3           reward.members=3
lm dpo                  model=m; data=['d']
  [train]
  --loss ipo            dpo.loss.kind=ipo
  --loss simpo          dpo.loss.kind=simpo; dpo.reference=none
  --beta 0.5            dpo.loss.beta=0.5
  --label-smoothing 0.2  dpo.loss.label_smoothing=0.2
lm modpo                model=m; modpo.objectives=[{name='a', weight=0.5, data=['a'], reward='model:a'}, {name='b', weight=0.5, data=['b'], reward='model:b'}]; modpo.carrier=a
  [train]
  --objective name=a,weight=0.25,data=c,data=d --objective name=e,weight=0.75,beta=0.5,reference=r,reward=model:x,y  modpo.objectives=[{name='a', weight=0.25, data=['c', 'd']}, {name='e', weight=0.75, beta=0.5, reference='r', reward='model:x,y'}]
  --carrier b           modpo.carrier=b
  --beta 0.5            modpo.beta=0.5
  --form paper          modpo.form=paper
  --no-standardize      modpo.standardize=false
lm ppo                  model=m; data=['d']; gold=sentiment
  [rows]
  --gold model:x        gold='model:x'
  --reward-model r      ppo.reward_model=r
  --iterations 7        ppo.algorithm.iterations=7
  --batch-size 7        ppo.algorithm.batch_size=7
  --lr 0.125            ppo.algorithm.optimizer.learning_rate=0.125
  --kl-coefficient 0.5  ppo.algorithm.kl_coefficient=0.5
  --target-kl 9         ppo.algorithm.target_kl=9.0
  --max-new-tokens 7    ppo.algorithm.sampling.max_new_tokens=7; eval_tokens=7
lm front
  [world]
  --objectives a,b      objectives=['a', 'b']
  --methods modpo,mod   methods=['modpo', 'mod']
lm frontier
  [world]
  --gold a              gold=a
  --methods dpo,ipo     methods=['dpo', 'ipo']
lm merge a b --out c
  --method ties         method=ties
  --weights 0.25,-0.5   weights=[0.25, -0.5]
  --density 0.25        density=0.25
  --lambda 0.25         lambda=0.25
  --normalize false     normalize=false
  --seed 7              seed=7
lm soup --out c
  a b                   models=['a', 'b']
  --objective a --objective b  objectives=['a', 'b']
  --data a,b            data=['a', 'b']
  --weights 0.25,0.75   weights=[0.25, 0.75]; choice=given
  --uniform             choice=uniform
  --preference 0.2,0.8  preference=[0.2, 0.8]
  --steps 7             steps=7
  --prompts 7           prompts=7
  --max-new-tokens 7    max_new_tokens=7
  --seed 7              seed=7
evals sycophancy
  --seeds 3,4           seeds=[3, 4]
  --sizes 30k,1m        sizes=['30k', '1m']
  --biases 0,1.5        biases=[0.0, 1.5]
";

    /// The part of [`FLAGS`] that is about a command: its line, and the lines of its flags.
    fn part(command: &str) -> (&'static str, Vec<&'static str>) {
        let mut lines = FLAGS.lines().skip_while(|line| !format!("{line} ").starts_with(&format!("{command} ")));
        let first = lines.next().unwrap_or_else(|| panic!("{command}: say here what its flags are short for"));
        let flags = lines.take_while(|line| line.starts_with(' ')).map(str::trim);
        (first, flags.flat_map(|line| if line.starts_with('[') { part(line).1 } else { vec![line] }).collect())
    }

    /// The words of a line and, behind two spaces, its assignments.
    fn divided(line: &str) -> (&str, Vec<&str>) {
        let (words, assignments) = line.split_once("  ").unwrap_or((line, ""));
        (words, assignments.split("; ").map(str::trim).filter(|one| !one.is_empty()).collect())
    }

    /// Arguments that are no values of a configuration: of all commands, and of single ones.
    const OTHERS: &[(&str, &[&str])] = &[
        ("", &["config", "set", "out", "threads", "json", "help"]),
        ("train", &["env", "watch"]),
        ("lm merge", &["models", "base", "rank", "average", "unrelated"]),
    ];

    fn line(words: &str, assignments: &[&str]) -> Vec<OsString> {
        let words = words.split(' ').filter(|word| !word.is_empty());
        let set = assignments.iter().map(|assignment| format!("--set={assignment}"));
        spread(
            &Cli::command(),
            ["pairwise"].into_iter().chain(words).map(OsString::from).chain(set.map(OsString::from)),
        )
    }

    /// The configuration of a line of words.
    fn resolved(words: &str, assignments: &[&str]) -> Result<Table, Failure> {
        let line = line(words, assignments);
        let cli = Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        match cli.command.expect("there is one") {
            Command::Train(args) => Ok(layer(&train::resolve(&args)?)?),
            Command::Front(args) => Ok(layer(&front::config(&args)?)?),
            Command::Lm(args) => lm::resolved(args),
            Command::Evals(args) => evals::resolved(&args),
            other => panic!("{other:?}: has no configuration here"),
        }
    }

    fn config(words: &str, assignments: &[&str]) -> Table {
        resolved(words, assignments).unwrap_or_else(|error| panic!("{words} {assignments:?}: {}", error.message))
    }

    /// Names of the arguments that stand on a line.
    fn given(words: &str) -> BTreeSet<String> {
        let mut matches =
            &Cli::command().try_get_matches_from(line(words, &[])).unwrap_or_else(|e| panic!("{words}: {e}"));
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        let of_line = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        matches
            .ids()
            .filter(|id| matches.try_contains_id(id.as_str()).is_ok())
            .filter(of_line)
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn every_flag_says_what_its_assignments_say() {
        let mut all = Vec::new();
        leaves(&Cli::command(), &[], &mut all);
        for (words, command) in all {
            let (name, mut command) = (words.join(" "), command);
            command.build();
            if !command.get_arguments().any(|arg| arg.get_id() == "config") {
                continue;
            }
            let (first, flags) = part(&name);
            let (begin, needs) = divided(first);
            let plain = config(begin, &needs);
            let mut seen = BTreeSet::new();
            for (flag, assignments) in flags.into_iter().map(divided) {
                let words = format!("{begin} {flag}");
                let found = config(&words, &needs);
                assert_eq!(found, config(begin, &[needs.clone(), assignments].concat()), "{words}");
                assert_ne!(found, plain, "{words}: changes nothing");
                seen.extend(given(&words));
            }
            let others = OTHERS.iter().filter(|(of, _)| of.is_empty() || *of == name).flat_map(|(_, ids)| *ids);
            let others: Vec<&str> = others.copied().collect();
            for arg in command.get_arguments().filter(|arg| !others.contains(&arg.get_id().as_str())) {
                assert!(seen.contains(arg.get_id().as_str()), "{name}: say here what {arg} is short for");
            }
        }
        assert_eq!(config("lm ppo", &["model=m", "data=['d']", "gold=a"])["eval_samples"], 256.into());
    }

    #[test]
    fn what_no_configuration_holds_is_refused_by_name() {
        let refused = |words: &str, assignments: &[&str]| match resolved(words, assignments) {
            Err(Failure { code: 2, message }) => message,
            other => panic!("{words}: {other:?}"),
        };
        for (words, assignments, expected) in [
            ("train pendulum --seed 9223372036854775808", &[][..], "seed = 9223372036854775808: must be below 2^63"),
            ("lm sft --steps 18446744073709551615", &[], "train.steps = 18446744073709551615: must be below 2^63"),
            ("evals sycophancy --seeds 1,9223372036854775808", &[], "seeds[1] = 9223372036854775808: must be below"),
            ("train pendulum", &["ppo.gama=1"], "ppo.gama: there is no such value; did you mean ppo.gamma?"),
            ("evals sycophancy", &["beeta=1"], "beeta: there is no such value; did you mean beta?"),
            ("evals sycophancy", &["seeds=[-1]"], "seeds"),
            ("lm front", &["lerning_rate=1"], "lerning_rate: there is no such value; did you mean learning_rate?"),
            ("lm frontier", &["ppo.gama=1"], "ppo.gama: there is no such value; did you mean ppo.gamma?"),
            ("lm frontier --methods best", &[], "methods[0]: unknown variant `best`"),
        ] {
            let message = refused(words, assignments);
            assert!(message.contains(expected), "{words}: {message}");
        }
    }
}
