//! The engine behind the Mix panel: a front's policies or models, mixed while a slider moves.
//!
//! One thread owns every tensor. It looks only at the newest wish: what a slider passed on its way is never computed, and
//! a model that writes stops at the next token when something else is wanted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use burn::tensor::Device;
use pairwise_envs::VecEnv;

use super::{Refused, lock};
use crate::control::rl::ppo::Agent;
use crate::control::run::policy::{Policy, mixable, mixed as mixed_agents};
use crate::device::{self, DeviceChoice};
use crate::lm::folder;
use crate::lm::merge::mixed as mixed_models;
use crate::lm::model::Decoder;
use crate::lm::run::{eos_of, tokenizer_of};
use crate::lm::sample::{SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::random::stream;
use crate::studies::control_front::{ControlFront, ControlMethod};
use crate::studies::front::Fronts;

/// A front that is open, in a thread of its own.
pub struct MixEngine {
    /// Its folder.
    pub path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A front: what was measured, and what can be mixed.
#[derive(Debug, Clone, PartialEq)]
pub struct Front {
    /// What is mixed.
    pub kind: Kind,
    /// What is weighed, in the order of the weights.
    pub objectives: Vec<String>,
    /// What the numbers of points are.
    pub unit: &'static str,
    /// Everything that was measured.
    pub points: Vec<Point>,
    /// Families of policies that can be mixed at any weights.
    pub soups: Vec<Soup>,
    /// Seeds there are.
    pub seeds: Vec<u64>,
}

/// What a front is of.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Policies of a control task.
    Control {
        /// The task.
        env: String,
    },
    /// Language models.
    Language {
        /// Most tokens of a completion.
        max_new_tokens: usize,
    },
}

/// A policy that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// How it was made.
    pub method: String,
    /// Its weights.
    pub weights: Vec<f64>,
    /// Seed.
    pub seed: u64,
    /// What each objective gets.
    pub rewards: Vec<f64>,
    /// Whether it is a policy, or a mix of some: what it does can be shown.
    pub shown: bool,
    /// Files or folders of what it is, or is mixed of.
    policies: Vec<PathBuf>,
}

/// Policies of single objectives, which can be mixed.
#[derive(Debug, Clone, PartialEq)]
pub struct Soup {
    /// What it is called.
    pub name: String,
    /// Seed.
    pub seed: u64,
    /// The policies, in the order of the weights.
    policies: Vec<PathBuf>,
}

/// What is to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Of whom.
    pub pick: Pick,
    /// Of a language model: the text to complete.
    pub text: String,
    /// And the number of the draw.
    pub draw: u64,
    /// Of a policy: the state to go on from; without, a fresh episode.
    pub from: Option<Vec<f64>>,
    /// When it was asked for.
    pub asked: Instant,
}

/// Who is to be shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Pick {
    /// A soup by its number, at these weights.
    Mix(usize, Vec<f64>),
    /// A point by its number.
    Point(usize),
}

/// What a window shows; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What is going on.
    pub phase: Phase,
    /// The front, once it is read.
    pub front: Option<Arc<Front>>,
    /// What the newest wish has come to.
    pub shown: Option<Arc<Shown>>,
    /// Milliseconds from a wish to the first thing that there was to show of it, one for each that was not overtaken.
    pub latencies: Arc<Vec<f64>>,
    /// Where the last mix was saved.
    pub saved: Option<PathBuf>,
    /// What went wrong last; how many times so far.
    pub message: Option<(usize, String)>,
}

/// What the engine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Phase {
    /// Reading the front.
    #[default]
    Opening,
    /// Waiting for wishes, or fulfilling one.
    Ready,
    /// The front cannot be read.
    Failed(String),
}

/// What a wish has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Of whom.
    pub pick: Pick,
    /// What they do.
    pub doing: Doing,
}

/// What somebody does.
#[derive(Debug, Clone, PartialEq)]
pub enum Doing {
    /// A text, completed so far.
    Writes {
        /// The text.
        text: String,
        /// What follows it.
        completion: String,
        /// Whether that is all.
        done: bool,
    },
    /// An episode: `[steps, saved]` states.
    Acts {
        /// The states.
        states: Vec<f64>,
    },
}

/// Latencies that are kept for the quantiles.
const LATENCIES: usize = 1000;

/// Models that are kept in memory, beside those that are mixed.
const KEPT: usize = 12;

/// Fronts in a folder of runs, the newest first: those of language models and those of control tasks.
#[must_use]
pub fn fronts(runs: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(runs) else { return Vec::new() };
    let changed = |path: &Path| std::fs::metadata(path.join(FRONT)).and_then(|file| file.modified()).ok();
    let mut found: Vec<(SystemTime, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((changed(&entry.path())?, entry.path()))).collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    found.into_iter().map(|(_, path)| path).collect()
}

/// What a front writes.
const FRONT: &str = "front.json";

impl MixEngine {
    /// Opens a front. `wake` is called when there is something new to show.
    pub fn open(path: &Path, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            desk: Mutex::default(),
            changed: Condvar::new(),
            view: Mutex::default(),
            wake: Box::new(wake),
        });
        let thread = {
            let (path, shared) = (path.to_owned(), Arc::clone(&shared));
            std::thread::spawn(move || work(&path, &shared))
        };
        Self { path: path.to_owned(), shared, thread: Some(thread) }
    }

    /// Asks for something to be shown; it takes the place of what was asked for before.
    pub fn wish(&self, wish: Wish) {
        lock(&self.shared.desk).wish = Some(wish);
        self.shared.changed.notify_all();
    }

    /// Saves a mix, or a point, as a model of its own.
    ///
    /// # Errors
    /// [`Refused`] while another one is being saved.
    pub fn save(&self, pick: Pick, path: PathBuf) -> Result<(), Refused> {
        let mut desk = lock(&self.shared.desk);
        if desk.save.is_some() {
            return Err(Refused);
        }
        desk.save = Some((pick, path));
        drop(desk);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// What there is to show now.
    #[must_use]
    pub fn view(&self) -> View {
        lock(&self.shared.view).clone()
    }
}

impl Drop for MixEngine {
    fn drop(&mut self) {
        lock(&self.shared.desk).stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by its own hook.
            thread.join().ok();
        }
    }
}

impl View {
    /// Median and 99th percentile of the milliseconds that wishes took, if there were any.
    #[must_use]
    pub fn latency(&self) -> Option<[f64; 2]> {
        let mut sorted = self.latencies.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).copied();
        Some([at(0.5)?, at(0.99)?])
    }
}

// --------------------------------------------------------------------------------------------------------- the thread

struct Shared {
    desk: Mutex<Desk>,
    /// Notified when something on the desk changes.
    changed: Condvar,
    view: Mutex<View>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Desk {
    wish: Option<Wish>,
    save: Option<(Pick, PathBuf)>,
    stop: bool,
}

impl Shared {
    fn show(&self, change: impl FnOnce(&mut View)) {
        change(&mut lock(&self.view));
        (self.wake)();
    }

    fn tell(&self, message: String) {
        self.show(|view| {
            let count = view.message.as_ref().map_or(0, |(count, _)| *count);
            view.message = Some((count + 1, message));
        });
    }

    /// Whether there is something newer to do.
    fn overtaken(&self) -> bool {
        let desk = lock(&self.desk);
        desk.stop || desk.wish.is_some()
    }
}

/// What the thread holds.
struct Bench {
    path: PathBuf,
    front: Arc<Front>,
    device: Device,
    models: HashMap<PathBuf, Decoder>,
    policies: HashMap<PathBuf, Policy>,
    tokenizer: Option<Tokenizer>,
}

fn work(path: &Path, shared: &Shared) {
    let mut bench = match Bench::open(path) {
        Ok(bench) => bench,
        Err(reason) => {
            shared.show(|view| view.phase = Phase::Failed(reason));
            return;
        }
    };
    shared.show(|view| {
        view.front = Some(Arc::clone(&bench.front));
        view.phase = Phase::Ready;
    });
    loop {
        let mut desk = lock(&shared.desk);
        while !desk.stop && desk.wish.is_none() && desk.save.is_none() {
            let waited = shared.changed.wait_timeout(desk, Duration::from_secs(1));
            desk = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(desk, _)| desk);
        }
        if desk.stop {
            return;
        }
        let (wish, save) = (desk.wish.take(), desk.save.take());
        drop(desk);
        if let Some((pick, path)) = save {
            match bench.save(&pick, &path) {
                Ok(()) => shared.show(|view| view.saved = Some(path)),
                Err(reason) => shared.tell(reason),
            }
        }
        if let Some(wish) = wish
            && let Err(reason) = bench.fulfil(&wish, shared)
        {
            shared.tell(reason);
        }
    }
}

impl Bench {
    fn open(path: &Path) -> Result<Self, String> {
        let file = path.join(FRONT);
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let front = match serde_json::from_str::<Fronts>(&text) {
            Ok(found) => of_models(&found),
            Err(of_language) => match serde_json::from_str::<ControlFront>(&text) {
                Ok(found) => of_control(&found)?,
                // Which of both it was to be is told by what they alone have.
                Err(of_control) if text.contains("\"tastes\"") => {
                    return Err(format!("{}: {of_control}", file.display()));
                }
                Err(_) => return Err(format!("{}: {of_language}", file.display())),
            },
        };
        let device = device::pick(DeviceChoice::Cpu).map_err(|error| error.to_string())?;
        Ok(Self {
            path: path.to_owned(),
            front: Arc::new(front),
            device,
            models: HashMap::new(),
            policies: HashMap::new(),
            tokenizer: None,
        })
    }

    fn fulfil(&mut self, wish: &Wish, shared: &Shared) -> Result<(), String> {
        let (policies, weights) = self.recipe(&wish.pick)?;
        let first = |doing: Doing| {
            let waited = wish.asked.elapsed().as_secs_f64() * 1e3;
            shared.show(|view| {
                view.shown = Some(Arc::new(Shown { pick: wish.pick.clone(), doing }));
                let latencies = Arc::make_mut(&mut view.latencies);
                if latencies.len() == LATENCIES {
                    latencies.remove(0);
                }
                latencies.push(waited);
            });
        };
        match self.front.kind.clone() {
            Kind::Control { env } => {
                let Policy { agent, .. } = self.policy(&policies, &weights)?;
                first(Doing::Acts { states: episode(&agent, &env, wish.from.as_deref(), wish.draw)? });
            }
            Kind::Language { max_new_tokens } => {
                let model = self.model(&policies, &weights)?;
                let tokenizer = self.tokenizer.as_ref().ok_or("the models have no tokenizer")?;
                let ids = tokenizer.encode(&wish.text, true).map_err(|error| error.to_string())?;
                if ids.is_empty() || ids.len() >= model.config.context {
                    return Err(format!(
                        "the text has {} tokens: must have 1 to {}",
                        ids.len(),
                        model.config.context.saturating_sub(1)
                    ));
                }
                let eos = eos_of(&model, tokenizer);
                let sampling = SampleConfig { max_new_tokens, seed: wish.draw, ..SampleConfig::default() };
                let text_of = |ids: &[u32]| tokenizer.decode(ids, true).unwrap_or_default();
                let writes =
                    |completion: String, done: bool| Doing::Writes { text: wish.text.clone(), completion, done };
                // What was begun is shown before it gives way: a slider that keeps moving shows something, too.
                let goes_on = |_: usize, so_far: &[u32]| {
                    let doing = writes(text_of(so_far), false);
                    match so_far.len() {
                        1 => first(doing),
                        _ => shared.show(|view| {
                            view.shown = Some(Arc::new(Shown { pick: wish.pick.clone(), doing }));
                        }),
                    }
                    !shared.overtaken()
                };
                let written = generate(&model, &[ids], &sampling, &eos, 0, &goes_on);
                if let [completion] = written.as_slice()
                    && !shared.overtaken()
                {
                    let doing = writes(text_of(&completion.ids), true);
                    // A text that ends at once has told `goes_on` nothing.
                    if completion.ids.len() == 1 {
                        first(doing);
                    } else {
                        shared.show(|view| view.shown = Some(Arc::new(Shown { pick: wish.pick.clone(), doing })));
                    }
                }
            }
        }
        Ok(())
    }

    fn save(&mut self, pick: &Pick, path: &Path) -> Result<(), String> {
        let (policies, weights) = self.recipe(pick)?;
        match self.front.kind.clone() {
            Kind::Control { .. } => {
                let policy = self.policy(&policies, &weights)?;
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
                }
                policy.save(path).map_err(|error| error.to_string())
            }
            Kind::Language { .. } => {
                let model = self.model(&policies, &weights)?;
                folder::write(&model, None, path).map_err(|error| error.to_string())?;
                let tokenizer = self.tokenizer.as_ref().ok_or("the models have no tokenizer")?;
                tokenizer.save(path).map_err(|error| error.to_string())
            }
        }
    }

    /// What is mixed, and with which weights.
    fn recipe(&self, pick: &Pick) -> Result<(Vec<PathBuf>, Vec<f64>), String> {
        let missing = || "the front has changed: open it again".to_owned();
        match pick {
            Pick::Mix(soup, weights) => {
                let soup = self.front.soups.get(*soup).ok_or_else(missing)?;
                match soup.policies.len() == weights.len() {
                    true => Ok((soup.policies.clone(), weights.clone())),
                    false => Err(missing()),
                }
            }
            Pick::Point(point) => {
                let Point { shown, policies, weights, method, .. } =
                    self.front.points.get(*point).ok_or_else(missing)?;
                match (*shown, policies.as_slice()) {
                    (true, [_]) => Ok((policies.clone(), vec![1.0])),
                    (true, _) => Ok((policies.clone(), weights.clone())),
                    (false, _) => Err(format!("{method} is no single model that could be shown")),
                }
            }
        }
    }

    fn policy(&mut self, policies: &[PathBuf], weights: &[f64]) -> Result<Policy, String> {
        for policy in policies {
            if !self.policies.contains_key(policy) {
                let read = Policy::read(&self.path.join(policy), &self.device).map_err(|error| error.to_string())?;
                self.policies.insert(policy.clone(), read);
            }
        }
        let found: Vec<Policy> = policies.iter().filter_map(|policy| self.policies.get(policy)).cloned().collect();
        let [first, ..] = found.as_slice() else { return Err("the front has changed: open it again".to_owned()) };
        if let [one] = found.as_slice() {
            return Ok(one.clone());
        }
        let names: Vec<String> = policies.iter().map(|policy| policy.display().to_string()).collect();
        mixable(&found, &names).map_err(|error| error.to_string())?;
        let agents: Vec<&Agent> = found.iter().map(|policy| &policy.agent).collect();
        Ok(Policy { agent: mixed_agents(&agents, weights), ..first.clone() })
    }

    fn model(&mut self, policies: &[PathBuf], weights: &[f64]) -> Result<Decoder, String> {
        if self.models.len() > KEPT {
            self.models.retain(|path, _| policies.contains(path));
        }
        for policy in policies {
            if !self.models.contains_key(policy) {
                let path = self.path.join(policy);
                let loaded = folder::read(&path, &self.device).map_err(|error| error.to_string())?;
                if self.tokenizer.is_none() {
                    self.tokenizer = Some(tokenizer_of(&path, &loaded).map_err(|error| error.to_string())?);
                }
                self.models.insert(policy.clone(), folder::merged(&loaded.decoder));
            }
        }
        let found: Vec<&Decoder> = policies.iter().filter_map(|policy| self.models.get(policy)).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            all => Ok(mixed_models(all, weights)),
        }
    }
}

/// An episode with deterministic actions, from a state or from the start.
fn episode(agent: &Agent, env: &str, from: Option<&[f64]>, draw: u64) -> Result<Vec<f64>, String> {
    let rng = |seed: u64, _: usize, _: u64| stream(seed, "mix-episode", 0);
    let mut envs = VecEnv::new(env, 1, draw, rng).map_err(|error| error.to_string())?;
    let (saved, horizon) = (envs.spec().saved_len, envs.spec().horizon);
    if let Some(state) = from {
        let mut fresh = envs.snapshot();
        fresh.states = state.to_vec();
        envs.restore(&fresh).map_err(|error| error.to_string())?;
    }
    let mut states = Vec::with_capacity((horizon + 1) * saved);
    let mut state = vec![0.0; saved];
    for _ in 0..=horizon {
        envs.save_states(&mut state);
        states.extend_from_slice(&state);
        let actions = agent.act_deterministic(envs.observations());
        agent.head.step(&mut envs, &actions);
        // The next state is that of another episode.
        if !envs.finished().is_empty() {
            break;
        }
    }
    Ok(states)
}

fn of_models(found: &Fronts) -> Front {
    use crate::studies::front::Method;
    let point = |point: &crate::studies::front::Point| Point {
        method: point.method.name().to_owned(),
        weights: point.weights.clone(),
        seed: point.seed,
        rewards: point.rewards.clone(),
        shown: !matches!(point.method, Method::BestOfN | Method::Mod),
        policies: point.models.clone(),
    };
    let mut soups: Vec<Soup> = Vec::new();
    for point in found.points.iter().filter(|point| matches!(point.method, Method::DpoSoup | Method::PpoSoup)) {
        let soup = Soup { name: point.method.name().to_owned(), seed: point.seed, policies: point.models.clone() };
        if !soups.contains(&soup) {
            soups.push(soup);
        }
    }
    Front {
        kind: Kind::Language { max_new_tokens: found.config.common.max_new_tokens },
        objectives: found.config.own.objectives.clone(),
        unit: "standard deviations above the start",
        points: found.points.iter().map(point).collect(),
        soups,
        seeds: found.config.common.seeds.clone(),
    }
}

fn of_control(found: &ControlFront) -> Result<Front, String> {
    found.config.validate()?;
    let name = |method: ControlMethod| match method {
        ControlMethod::Soup => "soup",
        ControlMethod::Morl => "MORL",
    };
    let mut points = Vec::new();
    let mut soups: Vec<Soup> = Vec::new();
    for seed in &found.seeds {
        for point in &seed.points {
            points.push(Point {
                method: name(point.method).to_owned(),
                weights: point.weights.to_vec(),
                seed: seed.seed,
                rewards: point.returns.to_vec(),
                shown: true,
                policies: point.policies.clone(),
            });
        }
        if let Some(soup) = seed.points.iter().find(|point| point.method == ControlMethod::Soup) {
            soups.push(Soup { name: "soup".to_owned(), seed: seed.seed, policies: soup.policies.clone() });
        }
    }
    Ok(Front {
        kind: Kind::Control { env: found.config.env.clone() },
        objectives: found.tastes.clone(),
        unit: "return of an episode",
        points,
        soups,
        seeds: found.seeds.iter().map(|seed| seed.seed).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use burn::tensor::Device;

    use super::{Doing, MixEngine, Phase, Pick, View, Wish, fronts};
    use crate::control::rl::ppo::PpoConfig;
    use crate::control::run::policy::Policy;
    use crate::studies::beginning::StudyConfig;
    use crate::studies::control_front::{self as control, ControlFront, ControlFrontConfig};
    use crate::studies::front::{FrontConfig, FrontOwn, Method};

    fn wait(engine: &MixEngine, wanted: impl Fn(&View) -> bool) -> View {
        let began = Instant::now();
        loop {
            let view = engine.view();
            if wanted(&view) {
                return view;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}, {:?}", view.phase, view.message);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn wish(pick: Pick) -> Wish {
        Wish { pick, text: "We bought".to_owned(), draw: 0, from: None, asked: Instant::now() }
    }

    fn shows(engine: &MixEngine, wish: Wish) -> Doing {
        let pick = wish.pick.clone();
        engine.wish(wish);
        let done = |doing: &Doing| matches!(doing, Doing::Acts { .. } | Doing::Writes { done: true, .. });
        let view =
            wait(engine, |view| view.shown.as_ref().is_some_and(|shown| shown.pick == pick && done(&shown.doing)));
        view.shown.unwrap().doing.clone()
    }

    fn control_front(folder: &Path) {
        let config = ControlFrontConfig {
            seeds: vec![3],
            pretrain_steps: 128,
            finetune_steps: 128,
            mix_steps: 2,
            episodes: 2,
            ppo: PpoConfig { envs: 2, rollout_steps: 32, epochs: 2, hidden: vec![8], ..PpoConfig::default() },
            ..ControlFrontConfig::default()
        };
        let seeds = vec![control::seed(&config, 3, folder, &Device::flex(), &|_| ()).unwrap()];
        let table = control::table(&config, &seeds);
        let tastes = vec!["precision".to_owned(), "effort saved".to_owned()];
        let front = ControlFront { config, tastes, seeds, table };
        std::fs::write(folder.join("front.json"), serde_json::to_string(&front).unwrap()).unwrap();
    }

    #[test]
    fn mixed_policies_act_and_go_on_from_where_another_was() {
        let runs = tempfile::tempdir().unwrap();
        let folder = runs.path().join("front-reacher");
        control_front(&folder);
        assert_eq!(fronts(runs.path()), [folder.as_path()]);
        let engine = MixEngine::open(&folder, || ());
        let view = wait(&engine, |view| view.phase == Phase::Ready);
        let front = view.front.unwrap();
        assert_eq!((front.objectives.len(), front.points.len(), front.soups.len()), (2, 6, 1));

        let Doing::Acts { states } = shows(&engine, wish(Pick::Mix(0, vec![0.3, 0.7]))) else { panic!("it acts") };
        let saved = pairwise_envs::make("reacher").unwrap().spec().saved_len;
        assert_eq!(states.len() % saved, 0);
        assert!(states.len() / saved > 90, "an episode has 100 steps");
        // Another policy goes on from the tenth state, to somewhere else.
        let tenth = states[10 * saved..11 * saved].to_vec();
        let other = Wish { from: Some(tenth.clone()), ..wish(Pick::Point(1)) };
        let Doing::Acts { states: others } = shows(&engine, other) else { panic!("it acts") };
        assert_eq!(others[..saved], tenth);
        assert_ne!(others[saved..2 * saved], states[11 * saved..12 * saved]);
        let [median, last] = engine.view().latency().unwrap();
        assert!(median > 0.0 && last >= median);

        let path = runs.path().join("mix.safetensors");
        engine.save(Pick::Mix(0, vec![0.3, 0.7]), path.clone()).unwrap();
        let _ = wait(&engine, |view| view.saved.is_some());
        let Policy { agent, .. } = Policy::read(&path, &Device::flex()).unwrap();
        let again = super::episode(&agent, "reacher", None, 0).unwrap();
        assert_eq!(again, states);

        engine.wish(wish(Pick::Point(99)));
        let view = wait(&engine, |view| view.message.is_some());
        assert_eq!(view.message.unwrap(), (1, "the front has changed: open it again".to_owned()));
    }

    #[test]
    fn mixed_models_write_until_something_else_is_wanted() {
        let runs = tempfile::tempdir().unwrap();
        let folder = runs.path().join("front");
        let FrontConfig { own, common } = FrontConfig::default();
        let common = StudyConfig {
            size: "30k".to_owned(),
            vocabulary: 300,
            context: 64,
            texts: 300,
            seeds: vec![0],
            prompts: 16,
            completions: 2,
            eval_prompts: 4,
            max_new_tokens: 40,
            batch_size: 4,
            steps: 2,
            ..common
        };
        let own = FrontOwn {
            weight_steps: 2,
            mix_steps: 2,
            objectives: vec!["length".to_owned(), "regex:e".to_owned()],
            methods: vec![Method::DpoSoup, Method::Modpo, Method::Mod],
            ..own
        };
        let config = FrontConfig { own, common };
        let never = AtomicBool::new(false);
        let _ = crate::studies::front::fronts(&config, &folder, &Device::flex(), &never, &|_| ()).unwrap().unwrap();
        let engine = MixEngine::open(&folder, || ());
        let view = wait(&engine, |view| view.phase == Phase::Ready);
        let front = view.front.unwrap();
        assert_eq!((front.soups.len(), front.points.len()), (1, 9));

        let mix = |share: f64| Pick::Mix(0, vec![share, 1.0 - share]);
        let Doing::Writes { text, completion, .. } = shows(&engine, wish(mix(0.5))) else { panic!("it writes") };
        assert!(text == "We bought" && !completion.is_empty());
        // The same wish is fulfilled in the same way; another draw writes something else.
        let Doing::Writes { completion: again, .. } = shows(&engine, wish(mix(0.500001))) else { panic!("it writes") };
        assert_eq!(again, completion);
        let other = Wish { draw: 1, ..wish(mix(0.5)) };
        let Doing::Writes { completion: other, .. } = shows(&engine, other) else { panic!("it writes") };
        assert_ne!(other, completion);
        // Only the last of many wishes has to be fulfilled.
        for i in 0..50 {
            engine.wish(wish(mix(f64::from(i) / 100.0)));
        }
        let _ = shows(&engine, wish(mix(0.9)));
        assert!(engine.view().latencies.len() < 50);

        let point = |method: Method| front.points.iter().position(|point| point.method == method.name()).unwrap();
        let _ = shows(&engine, wish(Pick::Point(point(Method::Modpo))));
        engine.wish(wish(Pick::Point(point(Method::Mod))));
        let view = wait(&engine, |view| view.message.is_some());
        assert!(view.message.unwrap().1.contains("MOD is no single model"));
        engine.wish(Wish { text: "very ".repeat(100), ..wish(mix(0.5)) });
        let view = wait(&engine, |view| view.message.as_ref().is_some_and(|(count, _)| *count == 2));
        assert!(view.message.unwrap().1.contains("tokens: must have 1 to 63"));

        let path = runs.path().join("mix");
        engine.save(mix(0.5), path.clone()).unwrap();
        let _ = wait(&engine, |view| view.saved.is_some());
        assert!(path.join("model.safetensors").exists() && path.join("tokenizer.json").exists());
    }

    #[test]
    fn a_front_that_cannot_be_read_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let reason = |text: Option<&str>| {
            match text {
                Some(text) => std::fs::write(folder.path().join("front.json"), text).unwrap(),
                None => std::fs::remove_file(folder.path().join("front.json")).unwrap_or_default(),
            }
            let engine = MixEngine::open(folder.path(), || ());
            let view = wait(&engine, |view| view.phase != Phase::Opening);
            match view.phase {
                Phase::Failed(reason) => reason,
                other => panic!("{other:?}"),
            }
        };
        assert!(reason(None).contains("front.json: "));
        assert!(reason(Some("{}")).contains("front.json: missing field `config`"), "{}", reason(Some("{}")));
        let control = "{\"tastes\": []}";
        assert!(reason(Some(control)).contains("missing field"), "{}", reason(Some(control)));
    }
}
