//! The thread that owns a run: trains, hands answers over, and keeps the view fresh.

use std::collections::BTreeMap;
use std::f64::consts::{PI, TAU};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::book::{Asked, query_of};
use super::{Clip, Desk, Episode, Given, Pair, Phase, Shared, Slice, SliceRequest, lock};
use rand::RngExt as _;

use crate::control::config::{Rater, RewardSource};
use crate::control::drlhp::{self, Compared, Question, Report, Run, Segment};
use crate::control::epic::epic;
use crate::control::run::{self, Answers, Host, Outcome, Reopened, RunError};
use crate::device;
use crate::disk::{Clock, Folder};
use crate::preference::ledger::{Answer, Ledger, answers, undone};
use crate::preference::{Event, Label, pearson};
use crate::random::stream;

/// Opens the folder and takes its run as far as the window lets it; a finished one can still be looked at.
pub(super) fn work(folder: Folder, shared: &Shared) {
    let (outcome, worker) = match open(&folder, shared) {
        Ok((run, clock, mut worker)) => (run::execute(run, &folder, clock, &mut worker), Some(worker)),
        Err(error) => (Err(error), None),
    };
    let finished = matches!(outcome, Ok(Outcome::Finished(_)));
    let phase = match outcome {
        Ok(Outcome::Finished(summary)) => Phase::Finished(summary),
        Ok(Outcome::Interrupted { .. }) => Phase::Stopped,
        Err(error) => Phase::Failed(error.to_string()),
    };
    // From here on nobody collects answers, nor writes anything: others may.
    lock(&shared.desk).book.close();
    let to_read = folder.to_read();
    drop(folder);
    shared.show(|view| {
        view.phase = phase;
        view.questions.clear();
    });
    if let Some(mut worker) = worker.filter(|_| finished)
        && let Err(error) = worker.exhibit(&to_read)
    {
        shared.tell(error.to_string());
    }
}

fn open<'a>(folder: &Folder, shared: &'a Shared) -> Result<(Run, Clock, Worker<'a>), RunError> {
    // With changes that take effect only after what the run catches up with.
    let config = folder.config()?;
    let device = device::pick(config.device)?;
    let Reopened { run, clock, ledger, events } = folder.reopen(&device, &mut |message| shared.tell(message))?;
    // Bad lines were told a moment ago.
    let reports = folder.metrics(&mut |_| ())?;
    let mut past = lock(&shared.past);
    reports.into_iter().for_each(|report| past.push(report));
    drop(past);
    let given = |a: &Answer| (a.query, Given { label: a.label, seconds: a.seconds, repeat: a.repeat });
    let labels = Arc::new(answers(&events).iter().map(given).collect());
    let undone = undone(&events);
    let total_steps = config.preferences.random_steps + config.iterations() * config.rollout_len();
    shared.show(|view| {
        view.labels = labels;
        view.undone = undone;
        view.progress.total_steps = total_steps;
        view.progress.labels = config.preferences.labels;
    });
    let simulated = run.config.preferences.rater == Rater::Simulated;
    let (for_teacher, for_person) = if simulated { (Some(ledger), None) } else { (None, Some(ledger)) };
    let ledger = folder.ledger();
    let mut worker = Worker {
        shared,
        last_session: events.iter().map(Event::session).max(),
        answers: Answers::new(events, for_teacher, ledger),
        person_ledger: for_person,
        pairs: BTreeMap::new(),
        began: Instant::now(),
        episodes: 0,
    };
    worker.show(&run, Phase::Training);
    Ok((run, clock, worker))
}

struct Worker<'a> {
    shared: &'a Shared,
    answers: Answers,
    /// The last exchange that the ledger knew when the run was opened.
    last_session: Option<u64>,
    /// Handed to the clerk when the run has caught up with its ledger.
    person_ledger: Option<Ledger>,
    pairs: BTreeMap<u64, Arc<Pair>>,
    /// When the present iteration began.
    began: Instant,
    episodes: u64,
}

/// How often the worker looks up while it has nothing to do: it is notified of everything else.
const LOOK_UP: Duration = Duration::from_millis(200);

impl Host for Worker<'_> {
    fn answer(&mut self, question: &Question) -> Result<Label, RunError> {
        let label = self.answers.answer(question)?;
        let given = Given { label, seconds: None, repeat: None };
        self.shared.show(|view| {
            Arc::make_mut(&mut view.labels).insert(question.query, given);
            view.progress.resolved += 1;
        });
        Ok(label)
    }

    fn exchange(&mut self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError> {
        let now = run.sessions as u64;
        if self.last_session.is_some_and(|last| now <= last) {
            self.show(run, Phase::CatchingUp);
            return self.answers.exchange(run, waits);
        }
        {
            let mut desk = lock(&self.shared.desk);
            if let Some(ledger) = self.person_ledger.take() {
                desk.book.ledger = Some(ledger);
            }
            desk.book.session = now;
        }
        self.show(run, if waits { Phase::Waiting } else { Phase::Training });
        let take = |desk: &mut Desk| {
            // What is said from here on takes effect in the exchange after this one.
            desk.book.session = now + 1;
            std::mem::take(&mut desk.book.given)
        };
        // A pause was kept after the last iteration already; only waiting takes time here.
        if !waits {
            let mut desk = lock(&self.shared.desk);
            return Ok((!desk.stop).then(|| take(&mut desk)));
        }
        let events = self.pause(run, |desk| !desk.book.given.is_empty(), take);
        self.shared.show(|view| view.phase = Phase::Training);
        Ok(events)
    }

    fn iterated(&mut self, run: &Run, report: &Report) -> bool {
        lock(&self.shared.past).push(report.clone());
        let seconds = self.began.elapsed().as_secs_f64();
        let steps = run.config.rollout_len() as f64;
        self.shared.show(|view| view.progress.steps_per_second = steps / seconds.max(1e-9));
        self.show(run, Phase::Training);
        let began = self.began;
        let due = move |desk: &Desk| {
            desk.speed_limit.is_none_or(|limit| began.elapsed().as_secs_f64() >= steps / limit.max(1e-3))
        };
        let on = self.pause(run, due, |_| ()).is_some();
        self.began = Instant::now();
        on
    }

    fn wants_checkpoint(&mut self) -> bool {
        std::mem::take(&mut lock(&self.shared.desk).checkpoint)
    }
}

impl<'a> Worker<'a> {
    /// Shows what the window asks for of a finished run, until it is closed.
    fn exhibit(&mut self, folder: &Folder) -> Result<(), RunError> {
        let device = device::pick(folder.config()?.device)?;
        let Some((run, _)) = folder.newest_state(&device, &mut |_| {})? else { return Ok(()) };
        let mut desk = lock(&self.shared.desk);
        while !desk.stop {
            desk = self.look(&run, desk);
            desk = self.shared.changed.wait_timeout(desk, LOOK_UP).unwrap_or_else(|e| e.into_inner()).0;
        }
        Ok(())
    }

    /// Makes what the window wants to see: an episode, a slice of the reward.
    fn look<'d>(&mut self, run: &Run, mut desk: MutexGuard<'d, Desk>) -> MutexGuard<'d, Desk>
    where
        'a: 'd,
    {
        if std::mem::take(&mut desk.episode) {
            drop(desk);
            self.roll_out(run);
            desk = lock(&self.shared.desk);
        }
        if let Some(request) = desk.slice.take() {
            drop(desk);
            self.slice(run, request);
            desk = lock(&self.shared.desk);
        }
        desk
    }

    /// Does what the window asks for until training may go on, and takes what `take` takes then; `None` to end.
    fn pause<T>(&mut self, run: &Run, ready: impl Fn(&Desk) -> bool, take: impl FnOnce(&mut Desk) -> T) -> Option<T> {
        let mut shown = None;
        let mut desk = lock(&self.shared.desk);
        loop {
            desk = self.look(run, desk);
            if desk.stop {
                return None;
            }
            if (!desk.paused || desk.steps > 0) && ready(&desk) {
                desk.steps = desk.steps.saturating_sub(1);
                return Some(take(&mut desk));
            }
            let phase = if desk.paused { Some(Phase::Paused) } else { None };
            if phase != shown {
                let waits = drlhp::waits(run);
                let phase = phase.clone().unwrap_or(if waits { Phase::Waiting } else { Phase::Training });
                self.shared.show(|view| view.phase = phase);
            }
            shown = phase;
            // A speed limit ends by itself.
            let patience = if desk.speed_limit.is_some() { LOOK_UP / 20 } else { LOOK_UP };
            desk = self.shared.changed.wait_timeout(desk, patience).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Brings the view up to date.
    fn show(&mut self, run: &Run, phase: Phase) {
        for compared in run.comparisons.iter().chain(&run.pending) {
            let known = self.pairs.entry(compared.query);
            known.or_insert_with(|| Arc::new(pair(run, compared)));
        }
        let of = |compared: &Compared| self.pairs.get(&compared.query).cloned();
        let answered: Vec<Arc<Pair>> = run.comparisons.iter().filter_map(of).collect();
        let live = self.person_ledger.is_none() && run.config.preferences.rater == Rater::Person;
        // Questions that were answered since, but not handed over, are closed already.
        let mut desk = lock(&self.shared.desk);
        let closed: Vec<u64> = desk.book.given.iter().map(query_of).collect();
        let open: Vec<&Compared> = run.pending.iter().filter(|q| live && !closed.contains(&q.query)).collect();
        let asked = |q: &&Compared| {
            let (first, second) = (q.first.id(), q.second.id());
            (q.query, Asked { step: q.step as u64, first, second, why: q.why, repeat: q.repeat })
        };
        desk.book.open = open.iter().map(asked).collect();
        let questions = open.iter().filter_map(|q| of(q)).collect();
        self.shared.show(|view| {
            view.phase = phase;
            view.progress.env_steps = run.env_steps;
            view.answered = Arc::new(answered);
            view.questions = questions;
            view.progress.resolved = view.labels.values().filter(|given| given.repeat.is_none()).count();
        });
    }

    fn roll_out(&mut self, run: &Run) {
        // Its own initial states: neither training's nor the final evaluation's.
        let seed = stream(run.config.seed, "watched-episodes", self.episodes).random();
        let Ok(segment) = drlhp::episode(&run.config.env, &run.agent, seed) else { return };
        let features = run.ensemble.features(&segment.observations, &segment.actions);
        let learned = run.config.reward == RewardSource::Preferences;
        let known = run.config.preferences.wanted.is_none();
        let episode = Episode {
            number: self.episodes,
            env_steps: run.env_steps,
            reward: if learned { run.ensemble.predict(&run.config.reward_model, &features) } else { Vec::new() },
            clip: clip(run, &segment),
            epic: if learned && known { epic(run) } else { None },
        };
        self.episodes += 1;
        self.shared.show(|view| view.episode = Some(Arc::new(episode)));
    }

    fn slice(&self, run: &Run, request: SliceRequest) {
        match slice(run, request) {
            Ok(slice) => self.shared.show(|view| view.slice = Some(Arc::new(slice))),
            Err(reason) => self.shared.tell(reason),
        }
    }
}

fn pair(run: &Run, compared: &Compared) -> Pair {
    let returns = drlhp::predicted_returns(run, &[&compared.first, &compared.second]);
    let likelihood = &run.config.reward_model.likelihood;
    Pair {
        query: compared.query,
        clips: [clip(run, &compared.first), clip(run, &compared.second)],
        step: compared.step,
        why: compared.why,
        novelty: novelty(run, compared),
        predicted: returns.iter().map(|member| likelihood.probability(member[0] - member[1])).collect(),
        repeat: compared.repeat,
    }
}

/// See [`Pair::novelty`].
fn novelty(run: &Run, compared: &Compared) -> Option<f64> {
    let obs = run.envs.spec().observation.len();
    let column = |rows: &[f32], i: usize| rows.iter().skip(i).step_by(obs).map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let deviation = |i: usize| {
        let seen = column(&run.reference.observations, i);
        let middle = mean(&seen);
        mean(&seen.iter().map(|x| (x - middle) * (x - middle)).collect::<Vec<f64>>()).sqrt().max(1e-6)
    };
    let scale: Vec<f64> = (0..obs).map(deviation).collect();
    let place =
        |clip: &Segment| (0..obs).map(|i| mean(&column(&clip.observations, i)) / scale[i]).collect::<Vec<f64>>();
    let earlier = run.comparisons.iter().chain(&run.pending).filter(|other| other.query < compared.query);
    let earlier: Vec<Vec<f64>> = earlier.flat_map(|other| [place(&other.first), place(&other.second)]).collect();
    let distance =
        |a: &[f64], b: &[f64]| (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / obs as f64).sqrt();
    let nearest = |clip: &Segment| {
        let here = place(clip);
        earlier.iter().map(|there| distance(&here, there)).fold(f64::INFINITY, f64::min)
    };
    (!earlier.is_empty()).then(|| nearest(&compared.first).max(nearest(&compared.second)))
}

fn clip(run: &Run, segment: &Segment) -> Clip {
    let learned = run.config.reward == RewardSource::Preferences;
    let features = run.ensemble.features(&segment.observations, &segment.actions);
    Clip {
        states: segment.states.clone(),
        predicted: if learned { run.ensemble.predict_members(&features) } else { Vec::new() },
        true_rewards: segment.true_rewards.clone(),
    }
}

/// The learned reward over two state variables.
fn slice(run: &Run, request: SliceRequest) -> Result<Slice, String> {
    let SliceRequest { x, y, points } = request;
    let mut env = pairwise_envs::make(&run.config.env).map_err(|e| e.to_string())?;
    let spec = env.spec();
    let (variables, saved, obs) = (spec.state.len(), spec.saved_len, spec.observation.len());
    if x >= variables || y >= variables || !(2..=512).contains(&points) {
        return Err(format!("a slice needs two of the {variables} state variables and 2 to 512 points"));
    }
    let seen = &run.reference.states;
    if seen.is_empty() {
        return Err("nothing was seen yet to draw the reward over".to_owned());
    }
    let sorted: Vec<Vec<f64>> = (0..variables)
        .map(|variable| {
            let mut values: Vec<f64> = seen.chunks(saved).map(|state| state[variable]).collect();
            values.sort_by(f64::total_cmp);
            values
        })
        .collect();
    let quantile = |variable: usize, share: f64| {
        let values = &sorted[variable];
        values[((values.len() - 1) as f64 * share).round() as usize]
    };
    let median: Vec<f64> = (0..variables).map(|variable| quantile(variable, 0.5)).collect();
    // Whether a full turn of a variable, which may have made many, changes nothing that the agent sees.
    let mut turns = |variable: usize| -> Result<bool, String> {
        let mut seen = [vec![0.0; obs], vec![0.0; obs]];
        for (turn, seen) in [0.0, TAU].into_iter().zip(&mut seen) {
            let mut state = median.clone();
            state[variable] += turn;
            env.load(&state).map_err(|e| e.to_string())?;
            env.observe(seen);
        }
        Ok(seen[0].iter().zip(&seen[1]).all(|(a, b)| (a - b).abs() < 1e-5))
    };
    let turning = [turns(x)?, turns(y)?];
    let range = |axis: usize, variable| {
        if turning[axis] { [-PI, PI] } else { [quantile(variable, 0.01), quantile(variable, 0.99)] }
    };
    let range = [range(0, x), range(1, y)];
    let place = |axis: usize, value: f64| if turning[axis] { (value + PI).rem_euclid(TAU) - PI } else { value };

    // One action of a box: none; of a discrete space: each, averaged afterwards.
    let outputs = run.agent.head.outputs();
    let actions: Vec<Vec<f32>> = match spec.action {
        pairwise_envs::Space::Discrete { n } => {
            (0..n).map(|action| (0..n).map(|i| f32::from(u8::from(i == action))).collect()).collect()
        }
        pairwise_envs::Space::Box { .. } => vec![vec![0.0; outputs]],
    };
    let rows = if x == y { 1 } else { points };
    let at = |[low, high]: [f64; 2], i: usize| low + (high - low) * i as f64 / (points - 1) as f64;
    let learned = run.config.reward == RewardSource::Preferences;
    let known = run.config.preferences.wanted.is_none();
    let (mut observations, mut features, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    let mut observation = vec![0.0; obs];
    for row in 0..rows {
        for column in 0..points {
            let mut state = median.clone();
            state[y] = at(range[1], row);
            state[x] = at(range[0], column);
            let mut mean = 0.0;
            for action in &actions {
                env.load(&state).map_err(|e| e.to_string())?;
                env.observe(&mut observation);
                observations.extend_from_slice(&observation);
                features.extend_from_slice(action);
                mean += run.agent.head.step_one(env.as_mut(), action, &mut observation).reward / actions.len() as f64;
            }
            truth.push(mean);
        }
    }
    let over_actions = |values: &[f64]| -> Vec<f64> {
        values.chunks(actions.len()).map(|v| v.iter().sum::<f64>() / v.len() as f64).collect()
    };
    let (mut reward, mut spread) = (Vec::new(), Vec::new());
    if learned {
        let inputs = run.ensemble.features(&observations, &features);
        reward = over_actions(&run.ensemble.predict(&run.config.reward_model, &inputs));
        let members: Vec<Vec<f64>> = run
            .ensemble
            .predict_members(&inputs)
            .iter()
            .zip(&run.ensemble.member_scale)
            .map(|(r, s)| over_actions(&r.iter().map(|&r| (f64::from(r) - s.mean) / s.std).collect::<Vec<f64>>()))
            .collect();
        let n = members.len().max(1) as f64;
        spread = (0..reward.len())
            .map(|i| {
                let mean = members.iter().map(|m| m[i]).sum::<f64>() / n;
                (members.iter().map(|m| (m[i] - mean) * (m[i] - mean)).sum::<f64>() / n).sqrt()
            })
            .collect();
    }
    let clips = run.comparisons.iter().flat_map(|c| [&c.first, &c.second]);
    // One state in five shows the path of a clip as well as all of them.
    let path = |clip: &Segment| {
        clip.states.chunks(saved).step_by(5).map(|s| [place(0, s[x]), place(1, s[y])]).collect::<Vec<_>>()
    };
    let labelled = clips.flat_map(path).collect();
    let correlation = if known && learned { pearson(&reward, &truth) } else { None };
    if !known {
        truth.clear();
    }
    Ok(Slice { request, env_steps: run.env_steps, range, reward, spread, truth, labelled, correlation })
}
