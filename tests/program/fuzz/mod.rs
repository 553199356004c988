//! Damaged files for every reader: each is accepted or refused, and nothing else happens.
//!
//! Seeded mutations of small good files are read in processes of their own, so that an abort, a stack overflow, an endless
//! loop or too much memory is found out as well as a panic. A test goes over ten thousand inputs. The long run:
//!
//! ```text
//! PAIRWISE_FUZZ=100000 PAIRWISE_FUZZ_SEED=1 cargo test --test program fuzz:: -- --nocapture
//! ```
//!
//! Input `i` of a target is the same for a seed on every machine. `PAIRWISE_FUZZ_TARGET=policy` takes one target only.
//! What failed, made as small as it goes, is kept in `target/fuzz`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "the long run says how far it is; only tests print")]

mod mutate;
mod targets;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use mutate::{Kind, Rng, mutated};
use targets::{TARGETS, Target};

/// An input may take this much CPU time.
const MOST_CPU: Duration = Duration::from_secs(2);

/// After so much CPU time, or so long, without a sign of life an input hangs. The machine may have other things to do.
const HANGS_CPU: Duration = Duration::from_secs(10);
const HANGS_WALL: Duration = Duration::from_secs(120);

/// Memory that inputs may take beyond what good ones take, in MB.
const MOST_MEMORY: usize = 500;

/// Address space of a worker, in kB: what asks for more ends by an abort.
const ADDRESSES: usize = 3_500_000;

/// Inputs that a worker goes over before another one takes its place.
const BATCH: usize = 400;

// ----------------------------------------------------------------------------------------------------------- the worker

/// What a worker is told: by its environment, since it is the test binary started again.
const JOB: &str = "PAIRWISE_FUZZ_JOB";

/// Goes over inputs of a target: "TARGET\tSEED\tFROM\tTO\tFOLDER", or one that lies in a file: "TARGET\tFILE\tFOLDER".
/// "FOLDER" alone: fills it with good files.
#[test]
#[ignore = "a process that other tests start"]
fn worker() {
    let job = std::env::var(JOB).expect("it is told its job");
    let job: Vec<&str> = job.split('\t').collect();
    if let [folder] = job[..] {
        return targets::make(Path::new(folder));
    }
    let target = target(job[0]);
    let folder = Path::new(job[job.len() - 1]);
    let reports = File::create(folder.join("worker.reports")).unwrap();
    let mut at = File::create(folder.join("worker.at")).unwrap();
    let good = fs::read(folder.join(target.file)).unwrap();
    let all = [
        good.clone(),
        b"{\"a\": [1, 2.5, null]}\n\x00\xff\xfe".to_vec(),
        fs::read(folder.join("run/config.toml")).unwrap_or_default(),
    ];
    // Panics of other threads than this one are seen by their message only.
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut said) = SAID.lock() {
            let text = info.payload_as_str().unwrap_or("?").chars().take(200).collect::<String>();
            let place = info.location().map_or_else(String::new, |place| format!("{}:{}", place.file(), place.line()));
            let line = format!("{place}: {}", text.replace(['\n', '\t'], " "));
            // Also where it is found when this file itself is wrong.
            writeln!(std::io::stderr(), "{line}").ok();
            said.push(line);
        }
    }));
    let accepted = (target.read)(folder);
    report(&reports, "good", 0, &accepted.to_string());
    let before = peak();
    let (from, to) = if job.len() == 3 { (0, 1) } else { (job[2].parse().unwrap(), job[3].parse().unwrap()) };
    let mut count = 0;
    for i in from..to {
        at.seek(SeekFrom::Start(0)).unwrap();
        write!(at, "{i:>12}").unwrap();
        let bytes = match job.len() {
            3 => fs::read(job[1]).unwrap(),
            _ => input(target, job[1].parse().unwrap(), i, &good, &all),
        };
        restore(folder, target, &bytes);
        SAID.lock().unwrap().clear();
        let began = ProcessTime::now();
        let found = catch_unwind(AssertUnwindSafe(|| (target.read)(folder)));
        let spent = began.elapsed();
        let said = std::mem::take(&mut *SAID.lock().unwrap());
        // A panic that is caught where it is known to come from is an error like any other.
        let fatal = found.is_err() || target.kind == Kind::Http && !said.is_empty();
        if fatal {
            report(&reports, "panic", i, said.last().map_or("?", String::as_str));
        }
        if spent > MOST_CPU {
            report(&reports, "slow", i, &format!("{:.1} s of CPU time", spent.as_secs_f64()));
        }
        count += usize::from(found.unwrap_or(false));
        if peak() > before + MOST_MEMORY {
            report(&reports, "memory", i, &format!("{} MB, {before} before", peak()));
            break;
        }
    }
    report(&reports, "accepted", count as u64, "");
    at.seek(SeekFrom::Start(0)).unwrap();
    write!(at, "{:>12}", "done").unwrap();
}

fn report(mut reports: &File, what: &str, i: u64, text: &str) {
    reports.write_all(format!("{what}\t{i}\t{text}\n").as_bytes()).unwrap();
}

/// Puts a changed file in the place of the good one, and away what reading has written beside it.
fn restore(folder: &Path, target: &Target, bytes: &[u8]) {
    let path = folder.join(target.file);
    // A reader may have cut, renamed or replaced it.
    if path.is_dir() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::write(&path, bytes).unwrap();
}

fn input(target: &Target, seed: u64, i: u64, good: &[u8], all: &[Vec<u8>]) -> Vec<u8> {
    mutated(&mut Rng::new(seed, target.name, i), target.kind, good, all)
}

/// The most memory that this process has had, in MB.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<usize>().ok()).map_or(0, |kb| kb / 1024)
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().chain(SELF_TEST).find(|target| target.name == name).unwrap()
}

// ----------------------------------------------------------------------------------------------------------- the parent

/// What an input did that it must not.
#[derive(Debug, Clone)]
struct Failed {
    target: &'static str,
    what: String,
    /// Number of the input.
    index: u64,
    text: String,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    inputs: u64,
    accepted: u64,
    /// Whether the good file was accepted.
    good: bool,
}

/// How a worker ended.
struct Ended {
    /// `None` where it went to its end; otherwise what it did at which input.
    failed: Option<(String, u64, String)>,
    reports: Vec<(String, u64, String)>,
}

/// What makes this binary a worker.
const WORKER: &str = "fuzz::worker --exact --ignored --test-threads=1 --nocapture";

/// Good files of every kind. They are made in a process of its own, whose working directory is the folder: some of them
/// name others by relative paths.
fn make(material: &Path) {
    fs::create_dir(material).unwrap();
    let mut worker = Command::new(std::env::current_exe().unwrap());
    worker.args(WORKER.split(' ')).env(JOB, material).current_dir(material);
    let output = worker.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Starts this binary again as a worker, and watches it.
fn watch(folder: &Path, job: &str, wall: Duration) -> Ended {
    let log = File::create(folder.join("worker.log")).unwrap();
    fs::write(folder.join("worker.at"), "").unwrap();
    let mut worker = Command::new("sh")
        .args(["-c", &format!("ulimit -v {ADDRESSES}; ulimit -c 0; exec \"$0\" {WORKER}")])
        .arg(std::env::current_exe().unwrap())
        .env(JOB, format!("{job}\t{}", folder.display()))
        .env("RAYON_NUM_THREADS", "1")
        .env("MALLOC_ARENA_MAX", "2")
        .env_remove("RUST_BACKTRACE")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let place = || fs::read_to_string(folder.join("worker.at")).unwrap_or_default().trim().to_owned();
    let (mut last, mut since, mut spent) = (String::new(), Instant::now(), Duration::ZERO);
    let status = loop {
        if let Some(status) = worker.try_wait().unwrap() {
            break Some(status);
        }
        let now = place();
        if now != last {
            (last, since, spent) = (now, Instant::now(), cpu(worker.id()));
        }
        if since.elapsed() > wall || cpu(worker.id()) > spent + HANGS_CPU {
            worker.kill().unwrap();
            worker.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = fs::read_to_string(folder.join("worker.reports")).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.splitn(3, '\t').map(str::to_owned);
        Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?))
    };
    let reports = text.lines().filter_map(parse).collect();
    let at = place();
    let failed = match (status, at.as_str()) {
        (Some(status), "done") if status.success() => None,
        (status, at) => {
            let log = fs::read(folder.join("worker.log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let said = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was said").to_owned();
            let (what, text) = match status {
                None => ("hang", "no sign of life".to_owned()),
                Some(status) => ("crash", format!("{status}: {said}")),
            };
            // Before its first input it is the good file that it failed at.
            Some((what.to_owned(), at.parse().unwrap_or(u64::MAX), text))
        }
    };
    Ended { failed, reports }
}

/// CPU time of a process so far.
fn cpu(id: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: state, ten others, and ticks of user and system. A tick is 10 ms.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Goes over inputs `from..to` of a target.
fn go_over(
    target: &'static Target,
    seed: u64,
    from: u64,
    to: u64,
    material: &Path,
    wall: Duration,
) -> (Count, Vec<Failed>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut count, mut failures) = (Count { good: true, ..Count::default() }, Vec::new());
    let mut from = from;
    while from < to {
        fresh(material, folder.path());
        let ended = watch(folder.path(), &format!("{}\t{seed}\t{from}\t{to}", target.name), wall);
        let fail = |(what, index, text): (String, u64, String)| Failed { target: target.name, what, index, text };
        let mut next = to;
        for (what, i, text) in ended.reports {
            match what.as_str() {
                "good" => count.good &= text == "true",
                "accepted" => count.accepted += i,
                "memory" => {
                    next = i + 1;
                    failures.push(fail((what, i, text)));
                }
                _ => failures.push(fail((what, i, text))),
            }
        }
        if let Some(failed) = ended.failed {
            next = failed.1.saturating_add(1);
            failures.push(fail(failed));
        }
        count.inputs += next.min(to) - from;
        from = next;
    }
    (count, failures)
}

/// The material as it was, whatever readers have done to it.
fn fresh(material: &Path, folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
    }
    let copied = Command::new("cp").arg("-r").arg(material.join(".")).arg(folder).status().unwrap();
    assert!(copied.success());
}

/// Makes an input smaller as long as it fails in the same way.
fn smallest(failed: &Failed, bytes: Vec<u8>, material: &Path, wall: Duration) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().with_extension("input");
    let fails = |bytes: &[u8]| {
        fresh(material, folder.path());
        fs::write(&file, bytes).unwrap();
        let ended = watch(folder.path(), &format!("{}\t{}", failed.target, file.display()), wall);
        let place = |text: &str| text.split(": ").next().unwrap_or_default().to_owned();
        let same = |(what, _, text): &(String, u64, String)| *what == failed.what && place(text) == place(&failed.text);
        ended.reports.iter().chain(&ended.failed).any(same)
    };
    let mut bytes = bytes;
    let mut tries = 60;
    let mut part = bytes.len() / 2;
    while part > 0 && tries > 0 {
        let mut at = 0;
        while at < bytes.len() && tries > 0 {
            tries -= 1;
            let end = (at + part).min(bytes.len());
            let less = [&bytes[..at], &bytes[end..]].concat();
            if fails(&less) { bytes = less } else { at = end }
        }
        part /= 2;
    }
    fs::remove_file(&file).ok();
    bytes
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} = {text}")))
}

/// How many inputs each target gets of so many.
fn shares(targets: &[&'static Target], total: u64) -> Vec<u64> {
    let all: usize = targets.iter().map(|target| target.share).sum();
    targets.iter().map(|target| (total * target.share as u64).div_ceil(all as u64)).collect()
}

#[test]
fn no_damaged_file_ends_hangs_or_fills_the_program() {
    let (total, seed) = (number("PAIRWISE_FUZZ", 10_000), number("PAIRWISE_FUZZ_SEED", 28));
    let only = std::env::var("PAIRWISE_FUZZ_TARGET").ok();
    let targets: Vec<&'static Target> =
        TARGETS.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name)).collect();
    let made = tempfile::tempdir().unwrap();
    let material = made.path().join("material");
    make(&material);
    let mut batches = Vec::new();
    for (target, count) in targets.iter().zip(shares(&targets, total)) {
        batches.extend((0..count).step_by(BATCH).map(|from| (*target, from, (from + BATCH as u64).min(count))));
    }
    let found: Mutex<(BTreeMap<&str, Count>, Vec<Failed>)> = Mutex::default();
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(target, from, to)) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (count, failed) = go_over(target, seed, from, to, &material, HANGS_WALL);
                    let mut found = found.lock().unwrap();
                    let all = found.0.entry(target.name).or_insert(Count { good: true, ..Count::default() });
                    (all.inputs, all.accepted) = (all.inputs + count.inputs, all.accepted + count.accepted);
                    all.good &= count.good;
                    failed.iter().for_each(|failed| println!("{failed:?}"));
                    found.1.extend(failed);
                }
            });
        }
    });
    let (counts, failures) = found.into_inner().unwrap();
    println!("seed {seed}, {:.0} s", began.elapsed().as_secs_f64());
    println!("{:<22} {:>8} {:>8}", "target", "inputs", "accepted");
    counts.iter().for_each(|(name, count)| println!("{name:<22} {:>8} {:>8}", count.inputs, count.accepted));
    let sum: u64 = counts.values().map(|count| count.inputs).sum();
    println!("{sum} inputs, {} failures", failures.len());
    keep(&failures, seed, &material);
    let refused: Vec<&&str> = counts.iter().filter(|(_, count)| !count.good).map(|(name, _)| name).collect();
    assert!(refused.is_empty(), "the good file must be accepted, or nothing is tried: {refused:?}");
    assert!(failures.is_empty(), "{} inputs failed; see above, and target/fuzz", failures.len());
}

/// Writes what failed to `target/fuzz`: one input of each way of failing, made small.
fn keep(failures: &[Failed], seed: u64, material: &Path) {
    let mut seen = Vec::new();
    for failed in failures {
        let way = (failed.target, failed.what.clone(), failed.text.split(": ").next().unwrap_or_default().to_owned());
        if failed.index == u64::MAX || seen.contains(&way) {
            continue;
        }
        seen.push(way);
        let target = target(failed.target);
        let good = fs::read(material.join(target.file)).unwrap();
        let all = [
            good.clone(),
            b"{\"a\": [1, 2.5, null]}\n\x00\xff\xfe".to_vec(),
            fs::read(material.join("run/config.toml")).unwrap(),
        ];
        let bytes = input(target, seed, failed.index, &good, &all);
        let wall = if failed.what == "hang" { HANGS_WALL / 4 } else { HANGS_WALL };
        let small = smallest(failed, bytes, material, wall);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{}-{seed}-{}", failed.target.replace(' ', "-"), failed.index));
        fs::write(&path, &small).unwrap();
        println!("{} {}: {}: {} bytes in {}", failed.target, failed.what, failed.text, small.len(), path.display());
    }
}

// -------------------------------------------------------------------------------------------------------- the self-test

/// Readers with the faults that are looked for.
const SELF_TEST: &[Target] = &[Target { name: "faulty", file: "bytes", kind: Kind::Text, share: 1, read: faulty }];

fn faulty(at: &Path) -> bool {
    let bytes = fs::read(at.join("bytes")).unwrap_or_default();
    match bytes.first() {
        Some(b'p') => panic!("a panic: {}", bytes.len()),
        Some(b'a') => std::process::abort(),
        Some(b'o') => deeper(&bytes) > 0,
        Some(b'm') => {
            let much = vec![1_u8; 700 << 20];
            much.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>() > 0
        }
        Some(b'M') => std::hint::black_box(vec![0_u8; 1 << 40]).len() > 1,
        Some(b'h') => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        Some(b's') => {
            let began = ProcessTime::now();
            while began.elapsed() < MOST_CPU + Duration::from_millis(200) {
                std::hint::spin_loop();
            }
            true
        }
        _ => true,
    }
}

fn deeper(bytes: &[u8]) -> usize {
    let copy = [bytes, &[0; 64]].concat();
    // Never empty, as nobody but the compiler need know.
    if std::hint::black_box(copy.is_empty()) { 0 } else { deeper(&copy[..1]) + std::hint::black_box(copy.len()) }
}

#[test]
fn every_way_to_fail_is_found_out() {
    let material = tempfile::tempdir().unwrap();
    fs::write(material.path().join("bytes"), "good").unwrap();
    let wall = Duration::from_secs(8);
    for (input, what) in [
        ("p", "panic"),
        ("a", "crash"),
        ("o", "crash"),
        ("m", "memory"),
        ("M", "crash"),
        ("h", "hang"),
        ("s", "slow"),
        ("good", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fresh(material.path(), folder.path());
        let file = folder.path().join("input");
        fs::write(&file, input).unwrap();
        let ended = watch(
            folder.path(),
            &format!("faulty\t{}", file.display()),
            if what == "hang" { wall } else { HANGS_WALL },
        );
        let all: Vec<_> = ended
            .reports
            .iter()
            .chain(&ended.failed)
            .filter(|(what, ..)| what != "good" && what != "accepted")
            .collect();
        match what {
            "" => assert!(all.is_empty(), "{all:?}"),
            _ => assert!(all.iter().any(|(found, ..)| found == what), "{input}: {all:?}"),
        }
    }
    // And made small: what matters is the first byte.
    let failed = Failed { target: "faulty", what: "panic".to_owned(), index: 0, text: String::new() };
    let folder = tempfile::tempdir().unwrap();
    fresh(material.path(), folder.path());
    let file = folder.path().join("input");
    fs::write(&file, "pqrstuvwxyz").unwrap();
    let ended = watch(folder.path(), &format!("faulty\t{}", file.display()), wall);
    let text = ended.reports.iter().find(|(what, ..)| what == "panic").unwrap().2.clone();
    assert_eq!(smallest(&Failed { text, ..failed }, b"pqrstuvwxyz".to_vec(), material.path(), wall), b"p");
}

/// The same inputs on every machine: a seed in a report is worth something.
#[test]
fn inputs_depend_on_their_seed_alone() {
    let good = b"{\"a\": [1, 2, {\"b\": \"c\"}], \"d\": 0.5}\n".to_vec();
    let all = vec![good.clone()];
    let of = |seed: u64| -> Vec<Vec<u8>> {
        (0..200).map(|i| mutated(&mut Rng::new(seed, "x", i), Kind::Lines, &good, &all)).collect()
    };
    assert_eq!(of(1), of(1));
    let changed = of(1).iter().filter(|bytes| **bytes != good).count();
    assert!(of(1) != of(2) && changed > 198, "{changed}");
}
