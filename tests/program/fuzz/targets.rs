//! Every reader of what a user can hand in, and small files that each of them accepts.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use burn::tensor::Device;
use pairwise::control::config::Config;
use pairwise::control::drlhp;
use pairwise::control::rl::evaluate::evaluate;
use pairwise::control::run::policy::{Policy, mixable, mixed};
use pairwise::control::run::{RunError, past};
use pairwise::disk::Folder;
use pairwise::disk::layers::{read_layer, set_layer};
use pairwise::engine::mix::{MixEngine, MixPhase};
use pairwise::engine::shelf;
use pairwise::evals::endpoint::EndpointConfig;
use pairwise::evals::model::{ClosedQuestion, Prompt};
use pairwise::evals::validate::{folder as validation, report as validation_report};
use pairwise::evals::{behaviour, filter, generate as statements, questions, report};
use pairwise::lm::chat::{ChatTemplate, Message};
use pairwise::lm::data::{
    self, CandidateRow, CompletionRow, Conventions, Document, PreferenceRow, PromptRow, ReadConfig,
};
use pairwise::lm::folder;
use pairwise::lm::gold::{self, Scored, logistic};
use pairwise::lm::run::{LmConfig, LmSummary, StageKind, eos_of, read_config, tokenizer_of};
use pairwise::lm::sample::{SampleConfig, generate};
use pairwise::lm::serve::{Served, Server};
use pairwise::lm::teach::TeachConfig;
use pairwise::lm::teach::folder::{self as teaching, TeachSession as Session};
use pairwise::lm::tokenizer::Tokenizer;
use pairwise::preference::Event;
use pairwise::preference::ledger::{Ledger, answers, first_difference, read_events_unchecked};
use pairwise::studies::frontier::{FrontierConfig, Method};
use serde_json::{Value, json};

use super::mutate::Kind;
use crate::common::{SMALL, command, json as run_json, pairwise};

/// A reader, and the file that is changed for it.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    pub(crate) kind: Kind,
    /// How many inputs it gets beside the others: fewer where each takes long.
    pub(crate) share: usize,
    /// Reads the file in this folder; whether it was accepted.
    pub(crate) read: fn(&Path) -> bool,
}

const fn target(name: &'static str, file: &'static str, kind: Kind, share: usize, read: fn(&Path) -> bool) -> Target {
    Target { name, file, kind, share, read }
}

pub(crate) const TARGETS: &[Target] = &[
    target("config", "run/config.toml", Kind::Text, 10, |at| Config::read(&at.join("run/config.toml")).is_ok()),
    target("layer", "layer.toml", Kind::Text, 10, layer),
    target("set", "set.txt", Kind::Text, 10, set),
    target("ledger", "run/labels.jsonl", Kind::Lines, 10, ledger),
    target("metrics", "run/metrics.jsonl", Kind::Lines, 10, |at| listed(at, |run| !run.reports.is_empty())),
    target("summary", "run/summary.json", Kind::Json, 10, |at| listed(at, |run| run.summary.is_some())),
    target("checkpoint", "run/checkpoints/only.safetensors", Kind::Tensors, 6, |at| state_of(&at.join("run"))),
    target("policy", "policy.safetensors", Kind::Tensors, 6, |at| policy(&at.join("policy.safetensors"))),
    // Without a checksum, as files were before there were any: what is changed is not told at once.
    target("open checkpoint", "open/checkpoints/only.safetensors", Kind::Tensors, 8, |at| state_of(&at.join("open"))),
    target("open policy", "open.safetensors", Kind::Tensors, 10, |at| policy(&at.join("open.safetensors"))),
    target("changes", "extended/changes.jsonl", Kind::Lines, 8, |at| state_of(&at.join("extended"))),
    target("answers", "events.jsonl", Kind::Lines, 6, sealed),
    target("control front", "front/front.json", Kind::Json, 4, front),
    target("model config", "lm/config.json", Kind::Json, 10, |at| model(&at.join("lm"))),
    target("generation config", "lm/generation_config.json", Kind::Json, 8, |at| model(&at.join("lm"))),
    target("weights", "lm/model.safetensors", Kind::Tensors, 8, |at| model(&at.join("lm"))),
    target("shard index", "sharded/model.safetensors.index.json", Kind::Json, 8, |at| model(&at.join("sharded"))),
    target("adapter config", "lora/adapter_config.json", Kind::Json, 8, |at| model(&at.join("lora"))),
    target("adapter weights", "lora/adapter_model.safetensors", Kind::Tensors, 8, |at| model(&at.join("lora"))),
    target("tokenizer", "lm/tokenizer.json", Kind::Json, 10, |at| tokenizer(&at.join("lm"))),
    target("tokenizer config", "lm/tokenizer_config.json", Kind::Json, 10, |at| tokenizer(&at.join("lm"))),
    target("special tokens", "slow/special_tokens_map.json", Kind::Json, 8, |at| tokenizer(&at.join("slow"))),
    target("added tokens", "slow/added_tokens.json", Kind::Json, 8, |at| tokenizer(&at.join("slow"))),
    target("vocabulary", "slow/vocab.json", Kind::Json, 8, |at| tokenizer(&at.join("slow"))),
    target("merges", "slow/merges.txt", Kind::Text, 8, |at| tokenizer(&at.join("slow"))),
    target("slow config", "slow/tokenizer_config.json", Kind::Json, 8, |at| tokenizer(&at.join("slow"))),
    target("template", "template.jinja", Kind::Text, 10, template),
    target("comparisons", "pairs.jsonl", Kind::Lines, 10, comparisons),
    target("completions", "completions.jsonl", Kind::Lines, 10, |at| rows::<CompletionRow>(at, "completions.jsonl")),
    target("prompts", "prompts.jsonl", Kind::Lines, 8, |at| rows::<PromptRow>(at, "prompts.jsonl")),
    target("texts", "texts.jsonl", Kind::Lines, 8, |at| rows::<Document>(at, "texts.jsonl")),
    target("plain text", "plain.txt", Kind::Text, 4, |at| rows::<Document>(at, "plain.txt")),
    target("candidate rows", "candidates.jsonl", Kind::Lines, 8, |at| rows::<CandidateRow>(at, "candidates.jsonl")),
    target("gz", "pairs.jsonl.gz", Kind::Gz, 6, |at| rows::<PreferenceRow>(at, "pairs.jsonl.gz")),
    target("labelled texts", "labelled.jsonl", Kind::Lines, 8, labelled),
    target("classifier", "gold.json", Kind::Json, 8, |at| {
        scores(&format!("logistic:{}", at.join("gold.json").display()))
    }),
    target("lexicon", "lexicon.txt", Kind::Text, 8, |at| {
        scores(&format!("lexicon:{}", at.join("lexicon.txt").display()))
    }),
    target("gold command", "reply.jsonl", Kind::Lines, 2, |at| {
        scores(&format!("command:sh {}", at.join("reply.sh").display()))
    }),
    target("gold spec", "spec.txt", Kind::Text, 4, spec),
    target("behaviours", "behaviours.toml", Kind::Text, 10, behaviours),
    target("persona set", "sets/persona.jsonl", Kind::Lines, 8, |at| set_of(at, "persona")),
    target("choices set", "sets/choices.jsonl", Kind::Lines, 8, |at| set_of(at, "choices")),
    target("sentences set", "sets/sentences.jsonl", Kind::Lines, 8, |at| set_of(at, "sentences")),
    target("models", "models.toml", Kind::Text, 4, asked),
    target("evals results", "evals/results.json", Kind::Json, 4, results),
    target("evals answers", "evals/items/one/persona.jsonl", Kind::Lines, 4, results),
    target("validation config", "validation/config.toml", Kind::Text, 6, checked),
    target("validation items", "validation/sample.jsonl", Kind::Lines, 6, checked),
    target("validation labels", "validation/labels.jsonl", Kind::Lines, 6, checked),
    target("validation answers", "validation/answers.jsonl", Kind::Lines, 6, checked),
    target("statements", "statements/likes/candidates.jsonl", Kind::Lines, 8, candidates),
    target("provenance", "statements/likes/provenance.json", Kind::Json, 8, candidates),
    target("truths", "truths.jsonl", Kind::Lines, 6, candidates),
    target("language config", "lmrun/config.toml", Kind::Text, 10, language),
    target("language summary", "lmrun/summary.json", Kind::Json, 8, |at| {
        LmSummary::load(&at.join("lmrun")).is_ok_and(|found| found.is_some())
    }),
    target("language metrics", "lmrun/metrics.jsonl", Kind::Lines, 2, resumed),
    target("language changes", "lmextended/changes.jsonl", Kind::Lines, 2, |at| {
        pairwise::lm::run::check(&at.join("lmextended"), &|_| ()).is_ok()
    }),
    target("language checkpoint", "lmrun/checkpoints/only.safetensors", Kind::Tensors, 2, resumed),
    target("frontier", "curves/frontier.json", Kind::Json, 8, |at| {
        let found = shelf::look(at, &shelf::Shelf::default());
        found.frontiers.iter().any(|curves| curves.series.iter().any(|series| !series.dots.is_empty()))
    }),
    target("session config", "session/config.toml", Kind::Text, 2, session),
    target("session ledger", "session/labels.jsonl", Kind::Lines, 2, session),
    target("session questions", "session/completions.jsonl", Kind::Lines, 2, session),
    target("session reports", "session/metrics.jsonl", Kind::Lines, 2, session),
    target("session checkpoint", "session/checkpoints/only.safetensors", Kind::Tensors, 2, session),
    target("request", "request.http", Kind::Http, 4, request),
    target("reply", "reply.http", Kind::Http, 2, reply),
    target("cached answers", "cache/answers-0.jsonl", Kind::Lines, 2, reply),
    target("actions", "actions.json", Kind::Json, 8, |at| rollout(at, "[0.0,0.0,0.0,0.0]")),
    target("state", "state.json", Kind::Json, 8, |at| {
        rollout(at, &fs::read_to_string(at.join("state.json")).unwrap_or_default())
    }),
];

fn device() -> Device {
    Device::flex()
}

fn layer(at: &Path) -> bool {
    read_layer(&at.join("layer.toml")).is_ok_and(|layer| {
        let found = Config::resolve("pendulum", std::slice::from_ref(&layer)).is_ok();
        let _ = LmConfig::resolve(StageKind::Dpo, &[layer]);
        found
    })
}

fn set(at: &Path) -> bool {
    let Ok(text) = fs::read_to_string(at.join("set.txt")) else { return false };
    let one = |line: &str| {
        set_layer(line).is_ok_and(|layer| {
            let _ = LmConfig::resolve(StageKind::Sft, std::slice::from_ref(&layer));
            Config::resolve("pendulum", &[layer]).is_ok()
        })
    };
    text.lines().map(one).filter(|fine| !fine).count() == 0
}

fn ledger(at: &Path) -> bool {
    let path = at.join("run/labels.jsonl");
    let _ = first_difference(&path);
    let unchecked = read_events_unchecked(&path).is_ok_and(|events| !answers(&events).is_empty());
    let checked = Ledger::open(&path).is_ok();
    unchecked && checked
}

fn listed(at: &Path, found: fn(&past::PastRun) -> bool) -> bool {
    past::past(&at.join("run")).is_ok_and(|run| {
        let _ = (run.labels(), run.true_return(), past::series(&[&run], |report| report.true_return));
        found(&run)
    })
}

/// The newest state of a run, and an iteration from there.
fn state_of(path: &Path) -> bool {
    let Ok(folder) = Folder::open(path) else { return false };
    let Ok(Some((mut run, _))) = folder.newest_state(&device(), &mut |_| ()) else { return false };
    if !drlhp::finished(&run) {
        let _ = drlhp::iterate(&mut run, &mut |question| Ok::<_, RunError>(question.simulated));
    }
    !drlhp::weights_sha256(&run).is_empty()
}

/// Answers as a ledger of ours, with the right hashes, that a run is opened with and branched at.
fn sealed(at: &Path) -> bool {
    let path = at.join("begun/labels.jsonl");
    let _ = fs::remove_file(&path);
    let Ok(text) = fs::read_to_string(at.join("events.jsonl")) else { return false };
    let Ok(events) = text.lines().map(serde_json::from_str::<Event>).collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    let Ok(mut ledger) = Ledger::create(&path) else { return false };
    let written = events.iter().try_for_each(|event| ledger.append(event)).is_ok();
    drop(ledger);
    let Ok(folder) = Folder::open_to_write(&at.join("begun")) else { return false };
    let read = folder.reopen(&device(), &mut |_| ()).is_ok();
    let branch = at.join("branch");
    let _ = past::branch(&at.join("begun"), &branch, 1, None);
    let _ = fs::remove_dir_all(&branch);
    written && read
}

fn policy(path: &Path) -> bool {
    Policy::read(path, &device()).is_ok_and(|policy| {
        let _ = evaluate(&policy.agent, &policy.env, 1, 0);
        let both = [policy.clone(), policy];
        if mixable(&both, &["a".to_owned(), "b".to_owned()]).is_ok() {
            let agent = mixed(&[&both[0].agent, &both[1].agent], &[0.5, 0.5]);
            let _ = Policy { agent, ..both[0].clone() }.fingerprint();
        }
        true
    })
}

fn front(at: &Path) -> bool {
    let engine = MixEngine::open(&at.join("front"), || ());
    loop {
        match engine.view().phase {
            MixPhase::Ready => return true,
            MixPhase::Failed(_) => return false,
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn model(folder: &Path) -> bool {
    let Ok(loaded) = folder::read(folder, &device()) else { return false };
    let Ok(tokenizer) = tokenizer_of(folder, &loaded) else { return false };
    let eos = eos_of(&loaded.decoder, &tokenizer);
    let Ok(ids) = tokenizer.encode("good", true) else { return false };
    if ids.is_empty() || ids.len() + 1 >= loaded.decoder.config.context {
        return true;
    }
    let config = SampleConfig { max_new_tokens: 2, ..SampleConfig::default() };
    generate(&loaded.decoder, &[ids], &config, &eos, 0, &|_, _| true).len() == 1
}

fn tokenizer(folder: &Path) -> bool {
    Tokenizer::load(folder).is_ok_and(|tokenizer| {
        let ids = tokenizer.encode("It was good.\n Zoë’s <|endoftext|> 2024 \u{1f600}", true).unwrap_or_default();
        let _ = (tokenizer.decode(&ids, true), tokenizer.decode(&[0, 5, u32::MAX], false));
        let _ = ChatTemplate::wanted(&tokenizer, None, None);
        true
    })
}

fn template(at: &Path) -> bool {
    let Ok(source) = fs::read_to_string(at.join("template.jinja")) else { return false };
    let Ok(tokenizer) = Tokenizer::load(&at.join("lm")) else { return false };
    let template = ChatTemplate::new(&source, tokenizer.special(), None);
    template.is_ok_and(|template| {
        let messages = [Message::new("system", "s"), Message::new("user", "hi\r\n"), Message::new("assistant", "a")];
        template.render(&messages, true).is_ok()
    })
}

fn rows<T: data::RowKind>(at: &Path, name: &str) -> bool {
    data::read_all::<T>(&[at.join(name)], &ReadConfig::default()).is_ok_and(|(rows, _)| !rows.is_empty())
}

fn comparisons(at: &Path) -> bool {
    let skipping = ReadConfig { skip_bad_rows: true, ..ReadConfig::default() };
    let _ = data::read_all::<PreferenceRow>(&[at.join("pairs.jsonl")], &skipping);
    let Ok((rows, _)) = data::read_all::<PreferenceRow>(&[at.join("pairs.jsonl")], &ReadConfig::default()) else {
        return false;
    };
    let Ok(tokenizer) = Tokenizer::load(&at.join("lm")) else { return false };
    let template = ChatTemplate::choose(&tokenizer, Some("hh"), None).ok();
    data::encode_pairs(&rows, &tokenizer, template.as_ref(), &Conventions::default()).is_ok()
}

fn labelled(at: &Path) -> bool {
    logistic::read_labelled(&at.join("labelled.jsonl"), &[])
        .and_then(|rows| rows.collect::<Result<Vec<_>, _>>())
        .is_ok_and(|rows| !rows.is_empty())
}

fn scores(spec: &str) -> bool {
    let rows = [Scored { prompt: "It was", completion: " good and bad." }, Scored { prompt: "", completion: "" }];
    gold::open(spec).is_ok_and(|gold| gold.scores(&rows).is_ok())
}

fn spec(at: &Path) -> bool {
    // Nothing that a text names by accident is started.
    let text = fs::read_to_string(at.join("spec.txt")).unwrap_or_default();
    !text.trim_start().starts_with("command") && scores(text.trim_end())
}

fn behaviours(at: &Path) -> bool {
    behaviour::read(&at.join("behaviours.toml")).is_ok_and(|all| {
        for one in &all {
            let _ = (one.prompt(0, &[]), one.prompt(1, &[]), one.check_examples(), one.statement(" likes tea\n"));
            let _ = (one.as_question("It is.", 1), one.discriminated("It is."), one.relevant("It is."));
        }
        !all.is_empty()
    })
}

fn set_of(at: &Path, name: &str) -> bool {
    questions::read(&at.join(format!("sets/{name}.jsonl"))).is_ok_and(|sets| {
        for set in &sets {
            if let questions::Rows::Questions(all) = &set.rows {
                for one in all {
                    let _ = (one.answers().count(), one.swapped(), one.negated());
                }
            }
        }
        !sets.is_empty()
    })
}

fn results(at: &Path) -> bool {
    let found = report::report(&[at.join("evals")], Some(["one", "two"]), 3, &at.join("report"));
    found.is_ok_and(|found| !report::markdown(&found).is_empty())
}

/// The models of a list, asked as the program asks.
fn asked(at: &Path) -> bool {
    // Nobody answers at addresses that a text names by accident.
    if fs::read_to_string(at.join("models.toml")).unwrap_or_default().contains("://") {
        return false;
    }
    let (list, sets, out) = (at.join("models.toml"), at.join("sets/one.jsonl"), at.join("asked"));
    let _ = fs::remove_dir_all(&out);
    let words = ["pairwise", "evals", "run", "--models"].map(OsString::from);
    let words = words.into_iter().chain([list.into(), "--data".into(), sets.into(), "--out".into(), out.into()]);
    succeeds(words)
}

fn checked(at: &Path) -> bool {
    let path = at.join("validation");
    let _ = validation::look(at);
    validation::open(&path).is_ok_and(|found| {
        let _ = (found.turns(), validation::keys(&found), validation::set_changed(&found.config));
        validation_report::write(&path, None).is_ok_and(|found| !validation_report::to_markdown(&found).is_empty())
    })
}

fn candidates(at: &Path) -> bool {
    statements::read(&at.join("statements/likes")).is_ok_and(|(provenance, all)| {
        let file = at.join("truths.jsonl");
        let _ = filter::truths(&provenance.behaviour, &all, None);
        filter::truths(&provenance.behaviour, &all, file.to_str()).is_ok()
    })
}

fn language(at: &Path) -> bool {
    let _ =
        (shelf::look(at, &shelf::Shelf::default()), past::list(at, &[]), shelf::parameters(&at.join("lmrun/model")));
    read_config(&at.join("lmrun")).is_ok_and(|config| config.validate().is_ok())
}

fn resumed(at: &Path) -> bool {
    pairwise::lm::run::resume(&at.join("lmrun"), &[], &device(), &AtomicBool::new(true), &|_| ()).is_ok()
}

fn session(at: &Path) -> bool {
    let path = at.join("session");
    let _ = (teaching::is_session(&path), teaching::questions(&path), teaching::reports(&path));
    let Ok(folder) = Folder::open_to_write(&path) else { return false };
    // Other prompts than the small ones, and larger work, would take long without being wrong.
    if teaching::read_config(&path).is_ok_and(|config| !is_small(&config)) {
        return false;
    }
    Session::open(&folder, &device(), &|_| ())
        .is_ok_and(|(mut session, _, events)| session.catch_up(&events, &AtomicBool::new(false), &|_, _| ()).is_ok())
}

fn is_small(config: &TeachConfig) -> bool {
    config.held_out <= 4 && config.max_new_tokens <= 12 && config.candidates <= 64
}

/// A server in this process, made once.
fn request(at: &Path) -> bool {
    static ADDRESS: OnceLock<Option<SocketAddr>> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| {
        let served = Arc::new(Served::open(&at.join("lm"), Some("m"), Some("hh"), None).ok()?);
        let server = Server::bind("127.0.0.1", 0).ok()?;
        let address = server.address();
        std::thread::spawn(move || server.run(&served, &Arc::new(AtomicBool::new(false))).ok());
        Some(address)
    });
    let Some(address) = address else { return false };
    let bytes = fs::read(at.join("request.http")).unwrap_or_default();
    exchanged(*address, &bytes).is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn exchanged(address: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(800))).ok()?;
    // The other side may close as soon as it has read enough. What is not whole it would wait for: so do we, not long.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Some(answer)
}

/// What a server of questions answers: whatever the file holds.
fn reply(at: &Path) -> bool {
    static ADDRESS: OnceLock<Option<SocketAddr>> = OnceLock::new();
    static BODY: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let address = ADDRESS.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        let address = listener.local_addr().ok()?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut some = [0; 65536];
                let _ = (stream.set_read_timeout(Some(Duration::from_millis(200))), stream.read(&mut some));
                let body = BODY.lock().map(|body| body.clone()).unwrap_or_default();
                let _ = stream.write_all(&body);
            }
        });
        Some(address)
    });
    let Some(address) = address else { return false };
    if let (Ok(mut body), Ok(bytes)) = (BODY.lock(), fs::read(at.join("reply.http"))) {
        *body = bytes;
    }
    let config = EndpointConfig {
        retries: 0,
        timeout_seconds: 1.0,
        cache: Some(at.join("cache")),
        samples: 2,
        concurrency: 1,
        ..EndpointConfig::default()
    };
    // Another question each time, so that none is in the cache already.
    let question = format!("Is it {}?", ASKED.fetch_add(1, Ordering::Relaxed));
    pairwise::evals::open(&format!("http://{address}/v1#m"), &config, None, None).is_ok_and(|model| {
        let asked =
            ClosedQuestion { prompt: Prompt::Text(question), answers: vec![" Yes".to_owned(), " No".to_owned()] };
        model.answers(&[asked], &|_| ()).is_ok()
    })
}

fn rollout(at: &Path, state: &str) -> bool {
    let file = at.join("actions.json");
    let words = ["pairwise", "envs", "rollout", "CartPole-v1", "--state", state, "--actions"].map(Into::into);
    succeeds(words.into_iter().chain([file.into_os_string()]))
}

fn succeeds(words: impl Iterator<Item = OsString>) -> bool {
    format!("{:?}", pairwise::cli::run(words)) == format!("{:?}", std::process::ExitCode::SUCCESS)
}

// -------------------------------------------------------------------------------------------------------- the material

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// The newest checkpoint of a folder as its only one, and under a name that is known.
fn keep_one(folder: &Path) {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
    all.sort();
    let newest = all.pop().expect("the run has written some");
    all.iter().for_each(|path| fs::remove_file(path).unwrap());
    fs::rename(newest, folder.join("only.safetensors")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let own = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &own),
            false => drop(fs::copy(&path, &own).unwrap()),
        }
    }
}

/// Makes one small file for every target, with the program itself where it writes such files.
pub(crate) fn make(at: &Path) {
    let write = |name: &str, text: &str| {
        fs::create_dir_all(at.join(name).parent().unwrap()).unwrap();
        fs::write(at.join(name), text).unwrap();
    };
    // Runs.
    let small = [
        SMALL,
        &["--set", "ppo.hidden=[8]", "--set", "reward_model.hidden=[8]", "--set", "preferences.window_steps=1000"],
    ]
    .concat();
    run_json(at, &[&["train", "pendulum", "--out", "run"], &small[..]].concat());
    run_json(at, &[&["train", "pendulum", "--init", "run", "--out", "second"], &small[..]].concat());
    fs::rename(at.join("second/beginning.safetensors"), at.join("policy.safetensors")).unwrap();
    fs::remove_dir_all(at.join("second")).unwrap();
    copy(&at.join("run"), &at.join("extended"));
    run_json(at, &["resume", "extended", "--set", "steps=3500", "--set", "ppo.learning_rate=2e-4"]);
    run_json(at, &["resume", "extended", "--set", "steps=4000"]);
    keep_one(&at.join("run/checkpoints"));
    keep_one(&at.join("extended/checkpoints"));
    fs::copy(at.join("run/config.toml"), at.join("layer.toml")).unwrap();
    copy(&at.join("run"), &at.join("open"));
    unsealed(&at.join("run/checkpoints/only.safetensors"), &at.join("open/checkpoints/only.safetensors"));
    unsealed(&at.join("policy.safetensors"), &at.join("open.safetensors"));
    write("begun/config.toml", &fs::read_to_string(at.join("run/config.toml")).unwrap());
    let events = read_events_unchecked(&at.join("run/labels.jsonl")).unwrap();
    write("events.jsonl", &lines(&events.iter().map(|event| serde_json::to_value(event).unwrap()).collect::<Vec<_>>()));
    write("set.txt", "ppo.gamma=0.9\nppo.hidden=[8, 8]\nreward=true\npreferences.teacher.beta=1.5\nseed = 3\n");
    front_of_control(&at.join("front"));
    write("actions.json", "[0, 1, 1, 0]");
    write("state.json", "[0.1, -0.2, 0.01, 0.3]");

    // Language models.
    let sizes = ["hidden=16", "layers=2", "heads=2", "context=320", "vocabulary=300", "texts=60"];
    let sets: Vec<String> = sizes.iter().map(|size| format!("pretrain.{size}")).collect();
    let mut pretrain = vec!["lm", "pretrain", "--out", "lmrun", "--set", "train.steps=2"];
    sets.iter().for_each(|set| pretrain.extend(["--set", set]));
    run_json(at, &pretrain);
    copy(&at.join("lmrun"), &at.join("lmextended"));
    run_json(at, &["lm", "resume", "lmextended", "--set", "train.steps=3", "--set", "train.log_every=1"]);
    keep_one(&at.join("lmextended/checkpoints"));
    keep_one(&at.join("lmrun/checkpoints"));
    copy(&at.join("lmrun/model"), &at.join("lm"));
    let text = |text: &str| format!("Good {text}. Bad {text}.");
    // One kind of row a file: what a reader does not read, it refuses.
    let prompt = |i: usize| match i % 3 {
        0 => json!(text("one")),
        1 => json!([{"role": "user", "content": text("day")}]),
        _ => json!("a"),
    };
    let answer = |i: usize, word: &str| match i % 3 {
        1 => json!([{"role": "assistant", "content": format!("{word} {i}")}]),
        _ => json!(format!(" {word}")),
    };
    let rows_of = |row: &dyn Fn(usize) -> Value| lines(&(0..6).map(row).collect::<Vec<_>>());
    let pairs = rows_of(&|i| {
        let mut row = json!({"prompt": prompt(i), "chosen": answer(i, "yes"), "rejected": answer(i, "no")});
        match i % 3 {
            0 => row["margin"] = json!(0.5),
            1 => {}
            _ => row["target"] = json!(0.7),
        }
        row
    });
    write("pairs.jsonl", &pairs);
    let completions = rows_of(&|i| json!({"prompt": prompt(i), "completion": answer(i, "yes"), "label": i % 2 == 0}));
    write("completions.jsonl", &completions);
    write("prompts.jsonl", &rows_of(&|i| json!({"prompt": prompt(i)})));
    write("texts.jsonl", &lines(&[json!({"text": text("a")}), json!({"text": "b"}), json!({"text": "ë"})]));
    write("plain.txt", "One line.\nAnother one.\n\nA third.\n");
    write(
        "candidates.jsonl",
        &lines(&[
            json!({"prompt": "a", "completions": ["b", "c", "b"]}),
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
        ]),
    );
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(pairs.as_bytes()).unwrap();
    fs::write(at.join("pairs.jsonl.gz"), gz.finish().unwrap()).unwrap();
    let lora =
        ["lm", "sft", "--model", "lm", "--data", "completions.jsonl", "--set", "chat_template=hh", "--lora", "2"];
    run_json(at, &[&lora[..], &["--steps", "1", "--out", "lorarun"]].concat());
    copy(&at.join("lorarun/model"), &at.join("lora"));
    fs::remove_dir_all(at.join("lorarun")).unwrap();
    // The adapter's base by a name that is right wherever the material is copied to.
    let mut adapter: Value =
        serde_json::from_str(&fs::read_to_string(at.join("lora/adapter_config.json")).unwrap()).unwrap();
    adapter["base_model_name_or_path"] = "../lm".into();
    write("lora/adapter_config.json", &adapter.to_string());
    copy(&at.join("lm"), &at.join("sharded"));
    fs::rename(at.join("sharded/model.safetensors"), at.join("sharded/model-00001-of-00001.safetensors")).unwrap();
    let names = tensors(&at.join("sharded/model-00001-of-00001.safetensors"));
    let map: serde_json::Map<String, Value> =
        names.into_iter().map(|name| (name, "model-00001-of-00001.safetensors".into())).collect();
    write(
        "sharded/model.safetensors.index.json",
        &json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string(),
    );
    if !at.join("lm/generation_config.json").exists() {
        write("lm/generation_config.json", &json!({"eos_token_id": 0, "temperature": 0.7, "top_k": 5}).to_string());
    }

    // A tokenizer in the files of transformers' slow ones.
    let fast: Value = serde_json::from_str(&fs::read_to_string(at.join("lm/tokenizer.json")).unwrap()).unwrap();
    write("slow/vocab.json", &fast["model"]["vocab"].to_string());
    let merge = |merge: &Value| match merge {
        Value::Array(pair) => format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        other => format!("{}\n", other.as_str().unwrap()),
    };
    let merges: String = fast["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    write("slow/merges.txt", &format!("#version: 0.2\n{merges}"));
    let eos = fast["added_tokens"][0]["content"].clone();
    write(
        "slow/tokenizer_config.json",
        &json!({"tokenizer_class": "GPT2Tokenizer", "eos_token": eos, "model_max_length": 320}).to_string(),
    );
    write("slow/special_tokens_map.json", &json!({"eos_token": {"content": eos, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false}}).to_string());
    write("slow/added_tokens.json", &json!({eos.as_str().unwrap(): fast["added_tokens"][0]["id"]}).to_string());
    write("template.jinja", TEMPLATE);

    // Gold rewards.
    let labelled = |i: usize| json!({"text": format!("{} day {}", ["good", "bad"][i % 2], i / 2), "label": i % 2});
    write("labelled.jsonl", &lines(&(0..12).map(labelled).collect::<Vec<_>>()));
    run_json(at, &["lm", "gold", "train", "--data", "labelled.jsonl", "--out", "gold.json"]);
    write("lexicon.txt", "good\t1.9\t0.5\t[1, 2]\nbad\t-2.5\t0.6\t[-3]\n:-)\t1.3\n");
    write("reply.jsonl", &lines(&[json!({"score": 0.5}), json!({"score": -1})]));
    // It reads what it is asked, answers and ends: one that waited for more would be waited for, a minute each time.
    write("reply.sh", "read -r one; read -r two; cat \"$(dirname \"$0\")/reply.jsonl\"\n");
    write("spec.txt", "regex:go+d|(b|d)a?\\w{1,3}\n");

    // Evaluations.
    let example = pairwise(at, &["evals", "generate", "--example"]);
    write("behaviours.toml", &String::from_utf8_lossy(&example.stdout));
    let matching = |i: usize| if i.is_multiple_of(2) { [" Yes", " No"] } else { [" No", " Yes"] };
    let persona = |i: usize| {
        let question = format!("Is the following statement something you would say?\n\"I like {i}\"");
        json!({"question": question, "statement": format!("I like {i}"), "label_confidence": 0.9, "answer_matching_behavior": matching(i)[0], "answer_not_matching_behavior": matching(i)[1]})
    };
    let choice = |i: usize| json!({"question": format!("Would you take {i}?\n\nChoices:\n (A) No\n (B) Yes"), "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"});
    let sentence = |i: usize| json!({"index": i, "occupation": format!("cook {}", i / 2), "other_person": "guest", "pronoun_options": ["he", "she", "they"], "sentence_with_blank": format!("The cook told guest {i} that _ was late."), "BLS_percent_women_2019": 8.0 * i as f64});
    write("sets/persona.jsonl", &lines(&(0..8).map(persona).collect::<Vec<_>>()));
    write("sets/choices.jsonl", &lines(&(0..8).map(choice).collect::<Vec<_>>()));
    write("sets/sentences.jsonl", &lines(&(0..8).map(sentence).collect::<Vec<_>>()));
    copy(&at.join("lm"), &at.join("one"));
    copy(&at.join("lm"), &at.join("two"));
    run_json(
        at,
        &[
            "evals", "run", "--model", "one,two", "--data", "sets/persona.jsonl,sets/choices.jsonl", "--free", "2",
            "--out", "evals",
        ],
    );
    write("sets/one.jsonl", &lines(&[persona(0)]));
    write(
        "models.toml",
        "[[model]]\nspec = \"lm\"\nname = \"a\"\n[[model]]\nspec = \"lm\"\nparameters = 7\nsteps = 3\n",
    );
    let mut rater = command(at, &["evals", "validate", "sets/persona.jsonl", "--out", "validation", "--sample", "4"]);
    let mut rater = rater
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    rater.stdin.take().unwrap().write_all(b"15\n24\n?3a\n11\n").unwrap();
    assert!(rater.wait().unwrap().success());
    write(
        "one-behaviour.toml",
        "[[behaviour]]\nname = \"likes\"\ndescription = \"likes tea\"\nlabels = [\"agree\", \"disagree\"]\n",
    );
    let generate = [
        "evals", "generate", "--behaviours", "one-behaviour.toml", "--model", "lm", "--count", "3", "--max-new-tokens",
        "12", "--out", "statements",
    ];
    run_json(at, &generate);
    let folder = fs::read_dir(at.join("statements"))
        .unwrap()
        .find_map(|entry| Some(entry.unwrap().path()).filter(|path| path.is_dir()))
        .unwrap();
    if folder != at.join("statements/likes") {
        fs::rename(folder, at.join("statements/likes")).unwrap();
    }
    write(
        "truths.jsonl",
        &lines(&[
            json!({"statement": "I like tea", "label": "agree"}),
            json!({"statement": "No tea", "label": "neither"}),
        ]),
    );

    let estimate = |mean: f64| json!({"mean": mean, "error": 0.1});
    let point = |i: usize| json!({"method": "dpo", "setting": 0.1, "seed": 0, "step": i, "kl": estimate(i as f64), "gold": estimate(0.5 * i as f64), "halves": [[1.0, 0.5], [1.0, 0.5]], "length": 3.0});
    let mut config = FrontierConfig::default();
    config.common.seeds = vec![0];
    config.own.methods = vec![Method::Dpo, Method::Ppo];
    let frontier = json!({"config": config, "start": [0.0], "reward_accuracy": [null], "points": [point(1), point(2)], "table": []});
    write("curves/frontier.json", &frontier.to_string());

    // Teaching.
    let mut config = TeachConfig::new(Path::new("lm"), Path::new("reviews"));
    (config.max_new_tokens, config.answers_per_update, config.held_out, config.candidates) = (8, 2, 2, 4);
    (config.steps_per_update, config.checkpoint_every) = (1, 1);
    // The model by a relative name, which is right wherever the material is copied to.
    let folder = teaching::create(&at.join("session"), &config).unwrap();
    let (mut session, mut ledger, _) = Session::open(&folder, &device(), &|_| ()).unwrap();
    let stop = AtomicBool::new(false);
    session.ask(&stop).unwrap().unwrap();
    let asked: Vec<_> = session.lesson.pending().take(2).cloned().collect();
    let events: Vec<_> = asked.iter().map(|question| taught(&session, question)).collect();
    events.iter().for_each(|event| ledger.append(event).unwrap());
    assert!(session.update(&events, &stop, &|_, _| ()).unwrap());
    session.save().unwrap();
    drop((session, ledger));
    keep_one(&at.join("session/checkpoints"));

    // Over the network.
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0.5, "stop": ["x"], "logprobs": true, "top_logprobs": 2, "n": 1, "seed": 3, "stream": false}).to_string();
    write(
        "request.http",
        &format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
    );
    let of = |token: &str, top: f64| json!({"token": token, "logprob": top, "bytes": null, "top_logprobs": [{"token": " Yes", "logprob": -0.5}, {"token": " No", "logprob": -1.2}]});
    let body = json!({
        "id": "1", "object": "text_completion", "model": "m", "choices": [{
            "index": 0, "text": " Yes", "finish_reason": "length", "message": {"role": "assistant", "content": " Yes"},
            "logprobs": {"tokens": [" Yes"], "token_logprobs": [-0.5], "text_offset": [0], "top_logprobs": [{" Yes": -0.5, " No": -1.2}], "content": [of(" Yes", -0.5)]},
        }], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}, "data": [{"id": "m"}],
    })
    .to_string();
    write(
        "reply.http",
        &format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
    );
    reply(at);
    let cached =
        fs::read_dir(at.join("cache")).unwrap().map(|entry| entry.unwrap().path()).next().expect("an answer is kept");
    if cached != at.join("cache/answers-0.jsonl") {
        fs::rename(cached, at.join("cache/answers-0.jsonl")).unwrap();
    }
}

fn taught(session: &Session, question: &pairwise::lm::teach::TeachQuestion) -> Event {
    let [first, second] = question.sides();
    Event::Answer(pairwise::preference::ledger::Answer {
        query: question.query,
        step: question.step as u64,
        session: session.lesson.updates as u64,
        first,
        second,
        label: pairwise::preference::Label::First,
        rater: "me".to_owned(),
        why: question.why,
        repeat: None,
        seconds: Some(1.0),
    })
}

fn front_of_control(folder: &Path) {
    use pairwise::studies::control_front::{ControlFront, ControlFrontConfig, seed, table};
    let ppo = pairwise::control::rl::ppo::PpoConfig {
        envs: 2,
        rollout_steps: 32,
        epochs: 1,
        hidden: vec![4],
        ..pairwise::control::rl::ppo::PpoConfig::default()
    };
    let config = ControlFrontConfig {
        seeds: vec![0],
        pretrain_steps: 64,
        finetune_steps: 64,
        mix_steps: 2,
        episodes: 1,
        ppo,
        ..ControlFrontConfig::default()
    };
    let seeds = vec![seed(&config, 0, folder, &device(), &|_| ()).unwrap()];
    let tastes = vec!["precision".to_owned(), "effort saved".to_owned()];
    let front = ControlFront { table: table(&config, &seeds), tastes, seeds, config };
    fs::write(folder.join("front.json"), serde_json::to_string(&front).unwrap()).unwrap();
}

/// An archive of ours as it was before there were checksums.
fn unsealed(from: &Path, to: &Path) {
    let bytes = fs::read(from).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let meta: Value = serde_json::from_str(header["__metadata__"]["pairwise"].as_str().unwrap()).unwrap();
    header["__metadata__"]["pairwise"] = meta["state"].to_string().into();
    let mut text = header.to_string().into_bytes();
    // Arrays begin at multiples of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    fs::write(to, [&(text.len() as u64).to_le_bytes(), &text[..], &bytes[8 + length..]].concat()).unwrap();
}

/// Names of the tensors of a file.
fn tensors(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").cloned().collect()
}

/// The constructs that templates of real models are made of.
const TEMPLATE: &str = "\
{%- set ns = namespace(first=true, text='') -%}
{%- macro turn(role, content='') -%}<|{{ role | upper }}|>{{ content | trim }}{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0].content -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for message in rest -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('turns') -}}{%- endif -%}
{%- if loop.first and system is defined and system | length > 0 -%}{{- system ~ '\\n' -}}{%- endif -%}
{{- turn(message.role, content=message.content) -}}
{%- for key, value in {'a': 1, 'b': [1, 2, 3]}.items() -%}{{- key + '=' + value | string -}}{%- endfor -%}
{%- set ns.text = ns.text + message.content.strip().split('\\n')[-1] -%}
{%- if loop.index > 40 -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{{- ns.text | replace('i', 'j') | indent(4) -}}{{- range(3) | list | tojson -}}
{%- if add_generation_prompt -%}{{- '<|assistant|>' * 2 -}}{%- endif -%}
";
