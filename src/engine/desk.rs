//! The desk between a window and work that takes long. The window never waits for the work.
//!
//! ```text
//!   window ──command──▶ clerk ──tray──▶ worker
//!      ◀────────── view, newest wins ──────┘
//! ```
//!
//! Commands go through a bounded channel. The **clerk** is a thread that takes them one by one: it does what is quick, such
//! as writing an answer to a ledger, and lays the rest on the tray. The **worker** is a thread that owns every tensor; it
//! takes from the tray when it can. Both write into one view, of which the window gets a copy whenever it asks: a slow
//! window costs neither memory nor speed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The window's side of a desk: commands `C` in, views `V` out. Dropping it ends the work and waits for that.
pub struct Engine<C, V> {
    commands: Option<SyncSender<C>>,
    view: Arc<Mutex<V>>,
    stop: Arc<AtomicBool>,
    /// Clerk and worker.
    threads: [Option<JoinHandle<()>>; 2],
}

/// The engine does not take commands at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is busy or has ended; nothing was changed")]
pub struct Refused;

/// What is told to the user without ending the work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Messages {
    /// The newest ones, the newest last.
    pub kept: Vec<String>,
    /// How many there have been.
    pub count: usize,
}

/// What clerk and worker share: the tray `T`, and the view `V` that they fill in.
pub(super) struct Desk<T, V> {
    tray: Mutex<T>,
    /// Notified when something on the tray changes, and at the end.
    changed: Condvar,
    view: Arc<Mutex<V>>,
    messages: fn(&mut V) -> &mut Messages,
    /// Set to end whatever takes long.
    pub stop: Arc<AtomicBool>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// Commands that may wait: more than a person can give while an iteration lasts.
const COMMANDS: usize = 256;

/// Messages kept.
const MESSAGES: usize = 20;

/// How often a worker looks up while it has nothing to do: it is notified of everything.
pub(super) const LOOK_UP: Duration = Duration::from_millis(200);

impl<C: Send + 'static, V: Clone + Send + 'static> Engine<C, V> {
    /// Starts a clerk and a worker. `messages` says where the view keeps its messages; `wake` is called when there is
    /// something new to show. The clerk's errors are told to the user.
    pub(super) fn launch<T: Default + Send + 'static>(
        view: V,
        messages: fn(&mut V) -> &mut Messages,
        wake: impl Fn() + Send + Sync + 'static,
        clerk: impl Fn(&Desk<T, V>, C) -> Result<(), String> + Send + 'static,
        work: impl FnOnce(&Desk<T, V>) + Send + 'static,
    ) -> Self {
        let (commands, received) = sync_channel(COMMANDS);
        let (view, stop) = (Arc::new(Mutex::new(view)), Arc::<AtomicBool>::default());
        let desk = Arc::new(Desk {
            tray: Mutex::default(),
            changed: Condvar::new(),
            view: Arc::clone(&view),
            messages,
            stop: Arc::clone(&stop),
            wake: Box::new(wake),
        });
        let clerks = Arc::clone(&desk);
        let threads =
            [std::thread::spawn(move || attend(&received, &clerks, clerk)), std::thread::spawn(move || work(&desk))];
        Self { commands: Some(commands), view, stop, threads: threads.map(Some) }
    }

    /// Sends a command; never waits.
    ///
    /// # Errors
    /// [`Refused`] when the work has ended, or hundreds of commands wait already.
    pub fn send(&self, command: C) -> Result<(), Refused> {
        self.commands.as_ref().ok_or(Refused)?.try_send(command).map_err(|_| Refused)
    }

    /// What there is to show now.
    #[must_use]
    pub fn view(&self) -> V {
        lock(&self.view).clone()
    }

    /// Ends the work and waits for that; what is to be saved is saved.
    pub fn close(self) {
        drop(self);
    }
}

impl<C, V> Drop for Engine<C, V> {
    fn drop(&mut self) {
        // The clerk ends with the channel, after what it still has in hand, and stops the worker.
        self.commands = None;
        for thread in self.threads.iter_mut().filter_map(Option::take) {
            // A panic was reported by its own hook. Where it was the clerk's, the worker has to be stopped still.
            thread.join().ok();
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Messages {
    /// The newest message, if there is one that is not among the first `known`, which then count as known.
    pub fn news(&self, known: &mut usize) -> Option<String> {
        let new = self.count > *known;
        *known = self.count;
        self.kept.last().filter(|_| new).cloned()
    }
}

impl<T, V> Desk<T, V> {
    pub(super) fn tray(&self) -> MutexGuard<'_, T> {
        lock(&self.tray)
    }

    /// Lets go of the tray until something on it has changed, or for some time.
    pub(super) fn wait<'a>(&self, tray: MutexGuard<'a, T>, patience: Duration) -> MutexGuard<'a, T> {
        self.changed.wait_timeout(tray, patience).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether the window wants the work to end.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        let tray = self.tray();
        self.stop.store(true, Ordering::Relaxed);
        drop(tray);
        self.changed.notify_all();
    }

    pub(super) fn show(&self, change: impl FnOnce(&mut V)) {
        change(&mut lock(&self.view));
        (self.wake)();
    }

    /// Tells the user something.
    pub(super) fn tell(&self, message: String) {
        self.show(|view| {
            let Messages { kept, count } = (self.messages)(view);
            kept.push(message);
            *count += 1;
            let surplus = kept.len().saturating_sub(MESSAGES);
            kept.drain(..surplus);
        });
    }
}

/// Takes commands until the window lets go of its end of the channel.
fn attend<C, T, V>(commands: &Receiver<C>, desk: &Desk<T, V>, clerk: impl Fn(&Desk<T, V>, C) -> Result<(), String>) {
    while let Ok(command) = commands.recv() {
        if let Err(reason) = clerk(desk, command) {
            desk.tell(reason);
        }
        desk.changed.notify_all();
    }
    desk.stop();
}

/// A lock whose holder panicked still holds whole values: every change is one assignment or one push.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
