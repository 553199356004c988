//! The program in a real window on a screen of its own (Xvfb), driven by key presses. `.ci/run` runs these; they need
//! `Xvfb` and a software OpenGL.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, IoSlice};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pairwise::preference::Label;
use pairwise::preference::ledger::{Answer, Ledger, answers, read_events_unchecked};
use rand::RngExt as _;
use serde_json::Value;
use x11rb::connection::{Connection as _, RequestConnection as _};
use x11rb::protocol::xproto::{
    ConnectionExt as _, ImageFormat, InputFocus, KEY_PRESS_EVENT, KEY_RELEASE_EVENT, Window,
};
use x11rb::rust_connection::RustConnection;

/// X keysyms (X11/keysymdef.h).
const LEFT: u32 = 0xff51;
const RIGHT: u32 = 0xff53;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// An X server without a screen to look at.
struct Screen {
    server: Child,
    display: String,
    x: RustConnection,
    root: Window,
}

impl Screen {
    fn start() -> Self {
        let server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut server = server.expect("Xvfb has to be installed");
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let display = format!(":{}", number.trim());
        let (x, screen) = RustConnection::connect(Some(&display)).unwrap();
        let root = x.setup().roots[screen].root;
        Self { server, display, x, root }
    }

    /// Gives the one visible window the keyboard, as a window manager would.
    fn focus(&self) -> Window {
        let began = Instant::now();
        loop {
            let windows = self.x.query_tree(self.root).unwrap().reply().unwrap().children;
            let large = |window: &Window| self.x.get_geometry(*window).unwrap().reply().is_ok_and(|g| g.width > 500);
            if let Some(window) = windows.into_iter().find(large) {
                self.x.set_input_focus(InputFocus::PARENT, window, x11rb::CURRENT_TIME).unwrap();
                if self.x.get_input_focus().unwrap().reply().unwrap().focus == window {
                    return window;
                }
            }
            assert!(began.elapsed() < PATIENCE, "no window takes the keyboard");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&self, keysym: u32) {
        let setup = self.x.setup();
        let (first, count) = (setup.min_keycode, setup.max_keycode - setup.min_keycode + 1);
        let map = self.x.get_keyboard_mapping(first, count).unwrap().reply().unwrap();
        let key = map.keysyms.chunks(map.keysyms_per_keycode.into()).position(|syms| syms.contains(&keysym)).unwrap();
        let code = first + u8::try_from(key).unwrap();
        for event in [KEY_PRESS_EVENT, KEY_RELEASE_EVENT] {
            self.fake_input(event, code);
        }
    }

    /// `XTestFakeInput`, byte by byte: x11rb has it as a feature, with which `cargo test` would compile x11rb and all that
    /// stands on it anew.
    fn fake_input(&self, event: u8, code: u8) {
        let xtest = self.x.query_extension(b"XTEST").unwrap().reply().unwrap();
        assert!(xtest.present, "Xvfb has XTEST");
        let mut request = [0; 36];
        // The request's number, and its length in words of four bytes.
        (request[0], request[1], request[2]) = (xtest.major_opcode, 2, 9);
        (request[4], request[5]) = (event, code);
        request[12..16].copy_from_slice(&self.root.to_ne_bytes());
        self.x.send_request_without_reply(&[IoSlice::new(&request)], Vec::new()).unwrap().check().unwrap();
    }

    /// `[height, width, 3]`: what the window shows.
    fn picture(&self, window: Window) -> (u32, u32, Vec<[u8; 3]>) {
        let size = self.x.get_geometry(window).unwrap().reply().unwrap();
        let image = self.x.get_image(ImageFormat::Z_PIXMAP, window, 0, 0, size.width, size.height, u32::MAX);
        let pixels = image.unwrap().reply().unwrap().data;
        (size.width.into(), size.height.into(), pixels.chunks(4).map(|p| [p[2], p[1], p[0]]).collect())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// The program, and what it says.
struct Program {
    child: Child,
    lines: Receiver<Value>,
}

impl Program {
    fn start(screen: &Screen, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pairwise"))
            .args(["app", "--narrate", "--least-seconds", "0", "--size", "1280x800", "--theme", "light"])
            .args(arguments)
            .env("DISPLAY", &screen.display)
            .env("LIBGL_ALWAYS_SOFTWARE", "1")
            // Not the developer's own window.
            .env("XDG_DATA_HOME", env!("CARGO_TARGET_TMPDIR"))
            .env_remove("WAYLAND_DISPLAY")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                sender.send(serde_json::from_str(&line).unwrap()).ok();
            }
        });
        Self { child, lines }
    }

    /// The next thing that it says, within some time.
    fn says(&self, patience: Duration) -> Option<Value> {
        match self.lines.recv_timeout(patience) {
            Ok(said) => Some(said),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the program has ended"),
        }
    }

    fn signal(&mut self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn ends(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the program does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The clip of higher true return, for the question that has just appeared.
fn better(said: &Value) -> (u64, Label) {
    let returns: Vec<f64> = said["true_returns"].as_array().unwrap().iter().map(|r| r.as_f64().unwrap()).collect();
    (said["query"].as_u64().unwrap(), if returns[0] > returns[1] { Label::First } else { Label::Second })
}

fn key(label: Label) -> u32 {
    if label == Label::First { LEFT } else { RIGHT }
}

fn given(run: &Path) -> BTreeMap<u64, Label> {
    let events = read_events_unchecked(&run.join("labels.jsonl")).unwrap_or_default();
    answers(&events).iter().map(|answer| (answer.query, answer.label)).collect()
}

fn replays(run: &Path) {
    let replay = Command::new(env!("CARGO_BIN_EXE_pairwise")).arg("replay").arg(run).arg("--json").output().unwrap();
    let out = String::from_utf8(replay.stdout).unwrap();
    let said: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert!(replay.status.success() && said["agrees"] == true, "{said}");
    assert_eq!(said["recorded_sha256"], said["replayed_sha256"]);
}

/// Colours that may be a bit off at the edges of shapes.
fn share(pixels: &[[u8; 3]], color: [u8; 3]) -> f64 {
    let near = |pixel: &&[u8; 3]| pixel.iter().zip(color).all(|(a, b)| a.abs_diff(b) <= 2);
    pixels.iter().filter(near).count() as f64 / pixels.len() as f64
}

#[test]
#[ignore = "needs Xvfb; .ci/run runs it"]
fn thirty_answers_by_key_presses_in_a_real_window() {
    let folder = tempfile::tempdir().unwrap();
    let (runs, run) = (folder.path().to_str().unwrap(), folder.path().join("pendulum-s0"));
    let screen = Screen::start();
    let teach = ["--env", "pendulum", "--teach", "--labels", "30", "--runs", runs];
    let mut program = Program::start(&screen, &teach);
    assert_eq!(program.says(PATIENCE).unwrap()["event"], "first-frame");
    let window = screen.focus();
    let mut expected = BTreeMap::new();
    let began = Instant::now();
    while !run.join("summary.json").exists() {
        assert!(began.elapsed() < 4 * PATIENCE, "{} answers, {:?}", expected.len(), given(&run));
        let Some(said) = program.says(Duration::from_millis(200)) else { continue };
        assert_eq!(said["event"], "pair");
        let (query, label) = better(&said);
        if expected.len() == 5 {
            // Both clips are there: their frames are blue and orange.
            std::thread::sleep(Duration::from_millis(300));
            let (width, height, pixels) = screen.picture(window);
            let rgba = pixels.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
            let png = pairwise_envs::png(&pairwise_envs::Frame { width, height, rgba }).unwrap();
            std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("teach.png"), png).unwrap();
            assert_eq!((width, height), (1280, 800));
            for color in ["first", "second"].map(theme_color) {
                assert!(share(&pixels, color) > 0.001, "{color:?} is missing");
            }
        }
        expected.insert(query, label);
        screen.press(key(label));
    }
    program.signal("-TERM");
    assert!(program.ends().success());

    let (_, events, warnings) = Ledger::open(&run.join("labels.jsonl")).unwrap();
    let answers = answers(&events);
    let found: BTreeMap<u64, Label> = answers.iter().map(|answer: &Answer| (answer.query, answer.label)).collect();
    assert_eq!((found, warnings.len()), (expected, 0));
    assert_eq!(answers.iter().filter(|answer| answer.repeat.is_none()).count(), 30);
    for name in ["config.toml", "metrics.jsonl", "summary.json", "figures/learning.svg"] {
        assert!(run.join(name).is_file(), "{name}");
    }
    replays(&run);
}

/// An answer is acknowledged when the next pair appears.
#[test]
#[ignore = "needs Xvfb; .ci/run runs it"]
fn no_acknowledged_answer_is_lost_in_twenty_kills() {
    let folder = tempfile::tempdir().unwrap();
    let (runs, run) = (folder.path().to_str().unwrap(), folder.path().join("pendulum-s0"));
    let screen = Screen::start();
    let mut rng = pairwise::random::stream(0, "kills", 0);
    let mut acknowledged: BTreeMap<u64, Label> = BTreeMap::new();
    for kill in 0..20 {
        let first = ["--env", "pendulum", "--teach", "--labels", "200", "--runs", runs];
        let again = ["--run", run.to_str().unwrap()];
        let mut program = Program::start(&screen, if kill == 0 { &first } else { &again });
        assert_eq!(program.says(PATIENCE).unwrap()["event"], "first-frame");
        screen.focus();
        let mut sent: Option<(u64, Label)> = None;
        let mut say = |program: &Program, patience| {
            let said = program.says(patience)?;
            acknowledged.extend(sent.take());
            let (query, label) = better(&said);
            assert!(!acknowledged.contains_key(&query), "question {query} is asked again");
            sent = Some((query, label));
            screen.press(key(label));
            Some(())
        };
        say(&program, PATIENCE).expect("a run that was killed opens again and asks");
        let end = Instant::now() + Duration::from_millis(rng.random_range(20..1500));
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            say(&program, left);
        }
        program.signal("-KILL");
        program.ends();
        let given = given_after_a_kill(&run);
        for (query, label) in &acknowledged {
            assert_eq!(given.get(query), Some(label), "kill {kill}, question {query}");
        }
        // What was written although the next pair had not appeared yet counts too.
        acknowledged = given;
    }
    assert!(acknowledged.len() >= 40, "{}", acknowledged.len());
}

fn given_after_a_kill(run: &Path) -> BTreeMap<u64, Label> {
    let (_, events, _) = Ledger::open(&run.join("labels.jsonl")).unwrap();
    answers(&events).iter().map(|answer| (answer.query, answer.label)).collect()
}

fn theme_color(name: &str) -> [u8; 3] {
    let theme: toml::Table = toml::from_str(include_str!("../../assets/themes/light.toml")).unwrap();
    let hex = theme[name].as_str().unwrap().trim_start_matches('#').to_owned();
    [0, 2, 4].map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
}
