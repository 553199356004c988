//! A reward that another program gives. It reads texts and writes scores as JSON lines.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::reward::{Gold, GoldError, Scored};

/// A running program that scores texts. It is ended when this is dropped.
pub(super) struct ScoringCommand {
    /// As it was given, for messages.
    name: String,
    /// How long it may write nothing.
    patience: Duration,
    session: Mutex<RunningCommand>,
}

/// How long a command may write nothing while it owes an answer. A model on a slow machine may need many seconds for
/// one text, but nobody wants to find out the next morning that the command hung.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time for a command that closed its output to end, and for the last of its errors to arrive.
const GRACE: Duration = Duration::from_secs(1);
/// How many of the last bytes of its standard error are kept.
const STDERR_TAIL: usize = 4096;
/// Most bytes of a line of its output. An answer has about 20.
const LINE: usize = 1 << 20;
/// Most lines of its output that are kept until they are asked for. When there are more, the command has to wait.
const WAITING: usize = 1024;

/// The process and the threads that write to it and read from it.
struct RunningCommand {
    child: Child,
    /// Batches to its input. Another thread writes them, because the command may fill its output first and wait until
    /// that is read.
    batches: Sender<Vec<u8>>,
    /// Lines of its output.
    lines: Receiver<io::Result<String>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: JoinHandle<()>,
    /// Why it cannot be asked any more. After a failure nobody knows which line answers which text.
    failed: Option<String>,
}

/// A line that the command reads.
#[derive(Serialize)]
struct ScoreRequest<'a> {
    prompt: &'a str,
    completion: &'a str,
}

/// A line that it writes.
#[derive(Deserialize)]
struct ScoreReply {
    score: f64,
}

impl ScoringCommand {
    /// Starts a program; its name and arguments are separated by white space.
    pub(super) fn start(command: &str) -> Result<Self, GoldError> {
        let mut words = command.split_whitespace();
        let failed = |reason: String| GoldError::Command { command: command.to_owned(), reason, stderr: String::new() };
        let program = words.next().ok_or_else(|| failed("has no program".to_owned()))?;
        let mut child = std::process::Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let piped = "all three streams were piped, and nobody took them yet";
        let (batches, to_write) = channel();
        let stdin = child.stdin.take().expect(piped);
        std::thread::spawn(move || write_batches(stdin, &to_write));
        let (to_read, lines) = sync_channel(WAITING);
        let stdout = child.stdout.take().expect(piped);
        std::thread::spawn(move || read_lines(stdout, &to_read));
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (tail, pipe) = (Arc::clone(&stderr), child.stderr.take().expect(piped));
        let stderr_reader = std::thread::spawn(move || keep_tail(pipe, &tail));
        let session = RunningCommand { child, batches, lines, stderr, stderr_reader, failed: None };
        Ok(Self { name: command.to_owned(), patience: PATIENCE, session: Mutex::new(session) })
    }
}

impl Gold for ScoringCommand {
    fn scores(&self, rows: &[Scored<'_>]) -> Result<Vec<f64>, GoldError> {
        let mut session = lock(&self.session);
        session.ask(rows, self.patience).map_err(|reason| {
            session.failed.get_or_insert_with(|| reason.clone());
            session.child.kill().ok();
            let stderr = String::from_utf8_lossy(&lock(&session.stderr)).trim_end().to_owned();
            GoldError::Command { command: self.name.clone(), reason, stderr }
        })
    }
}

impl RunningCommand {
    /// One score for each row, or what went wrong.
    fn ask(&mut self, rows: &[Scored<'_>], patience: Duration) -> Result<Vec<f64>, String> {
        if let Some(reason) = &self.failed {
            return Err(format!("failed before: {reason}"));
        }
        match self.lines.try_recv() {
            Ok(Ok(line)) => {
                return Err(format!(
                    "wrote '{}' without being asked; it must write one line for each that it reads",
                    shown(&line)
                ));
            }
            Ok(Err(error)) => return Err(format!("its output cannot be read: {error}")),
            Err(_) => {}
        }
        let mut batch = Vec::new();
        for row in rows {
            let question = ScoreRequest { prompt: row.prompt, completion: row.completion };
            serde_json::to_writer(&mut batch, &question).expect("two strings always serialise");
            batch.push(b'\n');
        }
        // A closed channel means that the command no longer reads. What it wrote says more about the reason.
        self.batches.send(batch).ok();
        (1..=rows.len()).map(|number| self.answer(number, rows.len(), patience)).collect()
    }

    fn answer(&mut self, number: usize, of: usize, patience: Duration) -> Result<f64, String> {
        let line = match self.lines.recv_timeout(patience) {
            Ok(Ok(line)) => line,
            Ok(Err(error)) => return Err(format!("its answer {number} of {of} cannot be read: {error}")),
            Err(RecvTimeoutError::Timeout) => {
                let waited = patience.as_secs_f64();
                return Err(format!(
                    "said nothing for {waited} s when answer {number} of {of} was due (does it flush?)"
                ));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("{} when answer {number} of {of} was due", self.end()));
            }
        };
        let wrong = |what: String| format!("answer {number} of {of} is '{}': {what}", shown(&line));
        let answer: ScoreReply =
            serde_json::from_str(&line).map_err(|_| wrong("must be {\"score\": number}".to_owned()))?;
        if answer.score.is_finite() { Ok(answer.score) } else { Err(wrong("the score must be finite".to_owned())) }
    }

    /// How a command that closed its output ended. Waits a little for the end and for the last of its errors.
    fn end(&mut self) -> String {
        let until = Instant::now() + GRACE;
        loop {
            let status = self.child.try_wait().ok().flatten();
            if (status.is_some() && self.stderr_reader.is_finished()) || Instant::now() > until {
                return status.map_or("closed its output".to_owned(), |status| format!("ended ({status})"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn write_batches(mut stdin: ChildStdin, batches: &Receiver<Vec<u8>>) {
    for batch in batches {
        if stdin.write_all(&batch).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn read_lines(stdout: ChildStdout, lines: &SyncSender<io::Result<String>>) {
    let mut reader = BufReader::new(stdout);
    while let Some(line) = read_line(&mut reader).transpose() {
        let last = line.is_err();
        if lines.send(line).is_err() || last {
            return;
        }
    }
}

/// The next line without its end; `None` at the end of the output.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    reader.take(LINE as u64 + 1).read_until(b'\n', &mut bytes)?;
    if bytes.len() > LINE {
        return Err(io::Error::other(format!(
            "it is longer than {LINE} bytes (it begins '{}'); expected a line {{\"score\": number}}",
            shown(&String::from_utf8_lossy(&bytes[..20]))
        )));
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    String::from_utf8(bytes).map(Some).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

fn keep_tail(mut pipe: impl Read, tail: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        let mut tail = lock(tail);
        tail.extend_from_slice(&buffer[..read]);
        let excess = tail.len().saturating_sub(STDERR_TAIL);
        tail.drain(..excess);
    }
}

/// Locks, also after a panic of another thread: nothing here panics between two changes that belong together.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The beginning of a line, for a message.
fn shown(line: &str) -> String {
    let line: String = line.chars().take(120).collect();
    line.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::{Gold as _, Scored, ScoringCommand};

    /// A command that runs a shell script.
    fn shell(folder: &Path, script: &str) -> ScoringCommand {
        let path = folder.join("score.sh");
        std::fs::write(&path, script).unwrap();
        ScoringCommand::start(&format!("sh {}", path.display())).unwrap()
    }

    /// Answers each line with its length, at once: the shell's own `printf` does not wait for more.
    const LENGTHS: &str = r#"while IFS= read -r line; do printf '{"score": %d}\n' ${#line}; done"#;

    #[test]
    fn it_answers_batch_after_batch_also_large_ones() {
        // 8,000 answers fill more than a pipe holds (64 KiB), and so do the questions.
        let folder = tempfile::tempdir().unwrap();
        let command = shell(folder.path(), LENGTHS);
        for rows in [1, 3, 8_000] {
            let texts: Vec<String> = (0..rows).map(|i| "x".repeat(i % 90)).collect();
            let rows: Vec<_> = texts.iter().map(|text| Scored { prompt: "p\n", completion: text }).collect();
            let lengths: Vec<f64> =
                texts.iter().map(|text| (r#"{"prompt":"p\n","completion":""}"#.len() + text.len()) as f64).collect();
            assert_eq!(command.scores(&rows).unwrap(), lengths);
        }
        assert_eq!(command.scores(&[]).unwrap(), Vec::<f64>::new());
    }

    #[test]
    fn a_command_that_fails_is_named_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [Scored { prompt: "p", completion: "c" }; 3];
        for (script, parts) in [
            (
                "read line; echo '{\"score\": 1}'; echo no weights >&2; exit 3",
                ["exit status: 3", "answer 2 of 3", "no weights"],
            ),
            (
                "read line; echo '{\"scores\": 1}'; read line",
                ["'{\"scores\": 1}'", "answer 1 of 3", "{\"score\": number}"],
            ),
            ("read line; echo NaN; read line", ["'NaN'", "answer 1 of 3", "{\"score\": number}"]),
            ("exec cat /dev/zero", ["answer 1 of 3", "longer than 1048576 bytes", "\\u{0}"]),
            ("echo loading >&2; exec sleep 30", ["said nothing for 0.3 s", "answer 1 of 3", "loading"]),
        ] {
            let mut command = shell(folder.path(), script);
            command.patience = Duration::from_millis(300);
            let error = command.scores(&rows).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{script}: {error}");
            let again = command.scores(&rows).unwrap_err().to_string();
            assert!(again.contains("failed before"), "{again}");
        }
        let command = shell(folder.path(), "while read line; do echo '{\"score\": 1}'; echo '{\"score\": 2}'; done");
        command.scores(&rows[..1]).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(command.scores(&rows).unwrap_err().to_string().contains("without being asked"));
        let missing = ScoringCommand::start("/nowhere/program --fast").err().unwrap().to_string();
        assert!(missing.contains("'/nowhere/program --fast': cannot be started"), "{missing}");
    }
}
