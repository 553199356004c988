//! The engine behind the Mix panel: a front's policies or models, mixed while a slider moves.
//!
//! The worker looks only at the newest wish: what a slider passed on its way is never computed, and a model that writes
//! stops at the next token when something else is wanted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use burn::tensor::Device;
use pairwise_envs::VecEnv;

use super::desk::{Desk, Engine, LOOK_UP, Messages};
use crate::control::rl::ppo::Agent;
use crate::control::run::policy::{Policy, mixable, mixed as mixed_agents};
use crate::device::{self, DeviceChoice};
use crate::disk::lines::from_text;
use crate::lm::folder;
use crate::lm::merge::mixed as mixed_models;
use crate::lm::model::Decoder;
use crate::lm::run::{eos_of, tokenizer_of};
use crate::lm::sample::{SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::preference::statistics::quantile;
use crate::random::stream;
use crate::studies::control_front::{ControlFront, ControlMethod};
use crate::studies::front::Fronts;

/// A front that is open, in threads of its own.
pub type MixEngine = Engine<MixCommand, MixView>;

/// What a window can ask of a front.
#[derive(Debug, Clone, PartialEq)]
pub enum MixCommand {
    /// Shows something; it takes the place of what was asked for before.
    Show(Wish),
    /// Saves a mix, or a point, as a model of its own.
    Save(Pick, PathBuf),
}

/// A front: what was measured, and what can be mixed.
#[derive(Debug, Clone, PartialEq)]
pub struct MixFront {
    /// What is mixed.
    pub kind: MixKind,
    /// What is weighed, in the order of the weights.
    pub objectives: Vec<String>,
    /// Unit of the points' rewards.
    pub unit: &'static str,
    /// Everything that was measured.
    pub points: Vec<MixPoint>,
    /// Families of policies that can be mixed at any weights.
    pub soups: Vec<Soup>,
    /// All seeds.
    pub seeds: Vec<u64>,
}

/// What a front is of.
#[derive(Debug, Clone, PartialEq)]
pub enum MixKind {
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
pub struct MixPoint {
    /// How it was made.
    pub method: String,
    /// Its weights.
    pub weights: Vec<f64>,
    /// Seed.
    pub seed: u64,
    /// What each objective gets.
    pub rewards: Vec<f64>,
    /// Whether it is one policy or a mix of policies, so that what it does can be shown.
    pub shown: bool,
    /// Files or folders of the policies that it is mixed from; one, if it is a policy itself.
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
    /// Which policy or mix.
    pub pick: Pick,
    /// Of a language model: the text to complete.
    pub text: String,
    /// Of a language model: the number of the random draw.
    pub draw: u64,
    /// Of a policy: the state to go on from. `None` begins a new episode.
    pub from: Option<Vec<f64>>,
    /// When it was asked for.
    pub asked: Instant,
}

/// Which policy or mix is to be shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Pick {
    /// A soup by its number, at these weights.
    Mix(usize, Vec<f64>),
    /// A point by its number.
    Point(usize),
}

/// What a window shows; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MixView {
    /// The front's folder.
    pub folder: PathBuf,
    /// What is going on.
    pub phase: MixPhase,
    /// The front, once it is read.
    pub front: Option<Arc<MixFront>>,
    /// What became of the newest wish.
    pub shown: Option<Arc<Fulfilled>>,
    /// Milliseconds from each wish to the first thing that could be shown for it. A wish that was replaced before that does
    /// not count.
    pub latencies: Arc<Vec<f64>>,
    /// Where the last mix was saved.
    pub saved: Option<PathBuf>,
    /// What went wrong.
    pub messages: Messages,
}

/// What the engine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MixPhase {
    /// Reading the front.
    #[default]
    Opening,
    /// Waiting for wishes, or fulfilling one.
    Ready,
    /// The front cannot be read.
    Failed(String),
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq)]
pub struct Fulfilled {
    /// Which policy or mix it is.
    pub pick: Pick,
    /// What it does.
    pub performance: Performance,
}

/// What a policy or a mix does.
#[derive(Debug, Clone, PartialEq)]
pub enum Performance {
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

/// The file that a front writes.
const FRONT: &str = "front.json";

impl MixEngine {
    /// Opens a front. `wake` is called when there is something new to show.
    pub fn open(path: &Path, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let (path, view) = (path.to_owned(), MixView { folder: path.to_owned(), ..MixView::default() });
        Self::launch(view, |view| &mut view.messages, wake, clerk, move |desk| work(&path, desk))
    }
}

impl MixView {
    /// Median and 99th percentile of the milliseconds that wishes took, if there were any.
    #[must_use]
    pub fn latency(&self) -> Option<[f64; 2]> {
        let at = |share| quantile(self.latencies.iter().copied(), share);
        Some([at(0.5)?, at(0.99)?])
    }
}

/// What lies between clerk and worker.
#[derive(Default)]
struct Tray {
    wish: Option<Wish>,
    save: Option<(Pick, PathBuf)>,
}

type MixDesk = Desk<Tray, MixView>;

fn clerk(desk: &MixDesk, command: MixCommand) -> Result<(), String> {
    let mut tray = desk.tray();
    match command {
        MixCommand::Show(wish) => tray.wish = Some(wish),
        MixCommand::Save(..) if tray.save.is_some() => return Err("the last mix is still being saved".to_owned()),
        MixCommand::Save(pick, path) => tray.save = Some((pick, path)),
    }
    Ok(())
}

// ----------------------------------------------------------------------------------------------------------- the worker

/// What the worker holds.
struct Bench {
    path: PathBuf,
    front: Arc<MixFront>,
    device: Device,
    models: HashMap<PathBuf, Decoder>,
    policies: HashMap<PathBuf, Policy>,
    tokenizer: Option<Tokenizer>,
}

fn work(path: &Path, desk: &MixDesk) {
    let mut bench = match Bench::open(path) {
        Ok(bench) => bench,
        Err(reason) => {
            desk.show(|view| view.phase = MixPhase::Failed(reason));
            return;
        }
    };
    desk.show(|view| {
        view.front = Some(Arc::clone(&bench.front));
        view.phase = MixPhase::Ready;
    });
    loop {
        let mut tray = desk.tray();
        while !desk.stopped() && tray.wish.is_none() && tray.save.is_none() {
            tray = desk.wait(tray, LOOK_UP);
        }
        if desk.stopped() {
            return;
        }
        let (wish, save) = (tray.wish.take(), tray.save.take());
        drop(tray);
        if let Some((pick, path)) = save {
            match bench.save(&pick, &path) {
                Ok(()) => desk.show(|view| view.saved = Some(path)),
                Err(reason) => desk.tell(reason),
            }
        }
        if let Some(wish) = wish
            && let Err(reason) = bench.fulfil(&wish, desk)
        {
            desk.tell(reason);
        }
    }
}

impl Bench {
    fn open(path: &Path) -> Result<Self, String> {
        let file = path.join(FRONT);
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let front = match from_text::<Fronts>(&text) {
            Ok(found) => of_models(&found),
            Err(of_language) => match from_text::<ControlFront>(&text) {
                Ok(found) => of_control(&found)?,
                // Only a front of control tasks has this field, so the other error is of no help.
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

    fn fulfil(&mut self, wish: &Wish, desk: &MixDesk) -> Result<(), String> {
        let (policies, weights) = self.recipe(&wish.pick)?;
        let overtaken = || desk.stopped() || desk.tray().wish.is_some();
        // `first`: whether it is the first thing to see of this wish.
        let show = |first: bool, performance: Performance| {
            let waited = wish.asked.elapsed().as_secs_f64() * 1e3;
            desk.show(|view| {
                view.shown = Some(Arc::new(Fulfilled { pick: wish.pick.clone(), performance }));
                if first {
                    let latencies = Arc::make_mut(&mut view.latencies);
                    if latencies.len() == LATENCIES {
                        latencies.remove(0);
                    }
                    latencies.push(waited);
                }
            });
        };
        match self.front.kind.clone() {
            MixKind::Control { env } => {
                let Policy { agent, .. } = self.policy(&policies, &weights)?;
                show(true, Performance::Acts { states: episode(&agent, &env, wish.from.as_deref(), wish.draw)? });
            }
            MixKind::Language { max_new_tokens } => {
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
                let writes = |ids: &[u32], done: bool| {
                    let completion = tokenizer.decode(ids, true).unwrap_or_default();
                    Performance::Writes { text: wish.text.clone(), completion, done }
                };
                // The first token is shown even if a newer wish waits: a slider that keeps moving shows something, too.
                let goes_on = |_: usize, so_far: &[u32]| {
                    show(so_far.len() == 1, writes(so_far, false));
                    !overtaken()
                };
                let written = generate(&model, &[ids], &sampling, &eos, 0, &goes_on);
                if let [completion] = written.as_slice()
                    && !overtaken()
                {
                    // `goes_on` is not called for a text that ends at once.
                    show(completion.ids.len() == 1, writes(&completion.ids, true));
                }
            }
        }
        Ok(())
    }

    fn save(&mut self, pick: &Pick, path: &Path) -> Result<(), String> {
        let (policies, weights) = self.recipe(pick)?;
        match self.front.kind.clone() {
            MixKind::Control { .. } => {
                let policy = self.policy(&policies, &weights)?;
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
                }
                policy.save(path).map_err(|error| error.to_string())
            }
            MixKind::Language { .. } => {
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
                let MixPoint { shown, policies, weights, method, .. } =
                    self.front.points.get(*point).ok_or_else(missing)?;
                match (*shown, policies.as_slice()) {
                    (true, [_]) => Ok((policies.clone(), vec![1.0])),
                    (true, _) => Ok((policies.clone(), weights.clone())),
                    (false, _) => Err(format!("{method} is no single model, and cannot be shown")),
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
        // The next state belongs to another episode.
        if !envs.finished().is_empty() {
            break;
        }
    }
    Ok(states)
}

fn of_models(found: &Fronts) -> MixFront {
    use crate::studies::front::Method;
    let point = |point: &crate::studies::front::Point| MixPoint {
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
    MixFront {
        kind: MixKind::Language { max_new_tokens: found.config.common.max_new_tokens },
        objectives: found.config.own.objectives.clone(),
        unit: "standard deviations above the start",
        points: found.points.iter().map(point).collect(),
        soups,
        seeds: found.config.common.seeds.clone(),
    }
}

fn of_control(found: &ControlFront) -> Result<MixFront, String> {
    found.config.validate()?;
    let name = |method: ControlMethod| match method {
        ControlMethod::Soup => "soup",
        ControlMethod::Morl => "MORL",
    };
    let mut points = Vec::new();
    let mut soups: Vec<Soup> = Vec::new();
    for seed in &found.seeds {
        for point in &seed.points {
            points.push(MixPoint {
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
    Ok(MixFront {
        kind: MixKind::Control { env: found.config.env.clone() },
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

    use super::{MixCommand, MixEngine, MixPhase, MixView, Performance, Pick, Wish, fronts};
    use crate::control::rl::ppo::PpoConfig;
    use crate::control::run::policy::Policy;
    use crate::studies::beginning::StudyConfig;
    use crate::studies::control_front::{self as control, ControlFront, ControlFrontConfig};
    use crate::studies::front::{FrontConfig, FrontOwn, Method};

    fn wait(engine: &MixEngine, wanted: impl Fn(&MixView) -> bool) -> MixView {
        let began = Instant::now();
        loop {
            let view = engine.view();
            if wanted(&view) {
                return view;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}, {:?}", view.phase, view.messages);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn ask(engine: &MixEngine, wish: Wish) {
        engine.send(MixCommand::Show(wish)).unwrap();
    }

    fn wish(pick: Pick) -> Wish {
        Wish { pick, text: "We bought".to_owned(), draw: 0, from: None, asked: Instant::now() }
    }

    fn shows(engine: &MixEngine, wish: Wish) -> Performance {
        let pick = wish.pick.clone();
        ask(engine, wish);
        let done =
            |doing: &Performance| matches!(doing, Performance::Acts { .. } | Performance::Writes { done: true, .. });
        let view = wait(engine, |view| {
            view.shown.as_ref().is_some_and(|shown| shown.pick == pick && done(&shown.performance))
        });
        view.shown.unwrap().performance.clone()
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
        let view = wait(&engine, |view| view.phase == MixPhase::Ready);
        let front = view.front.unwrap();
        assert_eq!((front.objectives.len(), front.points.len(), front.soups.len()), (2, 6, 1));

        let Performance::Acts { states } = shows(&engine, wish(Pick::Mix(0, vec![0.3, 0.7]))) else {
            panic!("it acts")
        };
        let saved = pairwise_envs::make("reacher").unwrap().spec().saved_len;
        assert_eq!(states.len() % saved, 0);
        assert!(states.len() / saved > 90, "an episode has 100 steps");
        // Another policy goes on from the tenth state, to somewhere else.
        let tenth = states[10 * saved..11 * saved].to_vec();
        let other = Wish { from: Some(tenth.clone()), ..wish(Pick::Point(1)) };
        let Performance::Acts { states: others } = shows(&engine, other) else { panic!("it acts") };
        assert_eq!(others[..saved], tenth);
        assert_ne!(others[saved..2 * saved], states[11 * saved..12 * saved]);
        let [median, last] = engine.view().latency().unwrap();
        assert!(median > 0.0 && last >= median);

        let path = runs.path().join("mix.safetensors");
        engine.send(MixCommand::Save(Pick::Mix(0, vec![0.3, 0.7]), path.clone())).unwrap();
        let _ = wait(&engine, |view| view.saved.is_some());
        let Policy { agent, .. } = Policy::read(&path, &Device::flex()).unwrap();
        let again = super::episode(&agent, "reacher", None, 0).unwrap();
        assert_eq!(again, states);

        ask(&engine, wish(Pick::Point(99)));
        let view = wait(&engine, |view| view.messages.count > 0);
        assert_eq!(view.messages.kept, ["the front has changed: open it again"]);
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
        let view = wait(&engine, |view| view.phase == MixPhase::Ready);
        let front = view.front.unwrap();
        assert_eq!((front.soups.len(), front.points.len()), (1, 9));

        let mix = |share: f64| Pick::Mix(0, vec![share, 1.0 - share]);
        let Performance::Writes { text, completion, .. } = shows(&engine, wish(mix(0.5))) else { panic!("it writes") };
        assert!(text == "We bought" && !completion.is_empty());
        // The same wish is fulfilled in the same way; another draw writes something else.
        let Performance::Writes { completion: again, .. } = shows(&engine, wish(mix(0.500001))) else {
            panic!("it writes")
        };
        assert_eq!(again, completion);
        let other = Wish { draw: 1, ..wish(mix(0.5)) };
        let Performance::Writes { completion: other, .. } = shows(&engine, other) else { panic!("it writes") };
        assert_ne!(other, completion);
        // Only the last of many wishes has to be fulfilled.
        for i in 0..50 {
            ask(&engine, wish(mix(f64::from(i) / 100.0)));
        }
        let _ = shows(&engine, wish(mix(0.9)));
        assert!(engine.view().latencies.len() < 50);

        let point = |method: Method| front.points.iter().position(|point| point.method == method.name()).unwrap();
        let _ = shows(&engine, wish(Pick::Point(point(Method::Modpo))));
        ask(&engine, wish(Pick::Point(point(Method::Mod))));
        let view = wait(&engine, |view| view.messages.count == 1);
        assert!(view.messages.kept[0].contains("MOD is no single model"));
        ask(&engine, Wish { text: "very ".repeat(100), ..wish(mix(0.5)) });
        let view = wait(&engine, |view| view.messages.count == 2);
        assert!(view.messages.kept[1].contains("tokens: must have 1 to 63"));

        let path = runs.path().join("mix");
        engine.send(MixCommand::Save(mix(0.5), path.clone())).unwrap();
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
            let view = wait(&engine, |view| view.phase != MixPhase::Opening);
            match view.phase {
                MixPhase::Failed(reason) => reason,
                other => panic!("{other:?}"),
            }
        };
        assert!(reason(None).contains("front.json: "));
        assert!(reason(Some("{}")).contains("front.json: missing field `config`"), "{}", reason(Some("{}")));
        let control = "{\"tastes\": []}";
        assert!(reason(Some(control)).contains("missing field"), "{}", reason(Some(control)));
    }
}
