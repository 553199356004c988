//! What takes longer than a frame goes on in threads beside the window.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egui::Context;

use crate::engine::desk::Engine;

/// A look at a folder that is repeated while somebody wants to know.
pub(super) struct Repeated<T> {
    looking: Option<JoinHandle<T>>,
    looked: Option<Instant>,
}

/// Engines that are being ended, by their folders. What is to be saved takes time, for which the window does not wait.
#[derive(Default)]
pub(super) struct Closing(Vec<(PathBuf, JoinHandle<()>)>);

/// Time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

impl<T> Default for Repeated<T> {
    fn default() -> Self {
        Self { looking: None, looked: None }
    }
}

impl<T: Send + 'static> Repeated<T> {
    /// What was found, once for each look. Begins the next one, where it is due, with what `prepare` makes.
    pub(super) fn news<F: FnOnce() -> T + Send + 'static>(
        &mut self,
        ctx: &Context,
        prepare: impl FnOnce() -> F,
    ) -> Option<T> {
        let found = finished(&mut self.looking);
        if found.is_some() {
            self.looked = Some(Instant::now());
        }
        if self.looking.is_none() && self.looked.is_none_or(|looked| looked.elapsed() >= BETWEEN_LOOKS) {
            self.looking = Some(in_background(ctx, prepare()));
        }
        ctx.request_repaint_after(BETWEEN_LOOKS);
        found
    }

    /// Whether there was a look since the last change.
    pub(super) fn looked(&self) -> bool {
        self.looked.is_some()
    }

    /// Something has changed: the next look is due at once.
    pub(super) fn changed(&mut self) {
        self.looked = None;
    }
}

impl Closing {
    pub(super) fn close<C, V>(&mut self, folder: PathBuf, engine: Engine<C, V>)
    where
        C: Send + 'static,
        V: Clone + Send + 'static,
    {
        self.0.retain(|(_, thread)| !thread.is_finished());
        self.0.push((folder, std::thread::spawn(move || engine.close())));
    }

    /// Waits until the engine of this folder has ended, so that it can be opened again; without one, until all have.
    pub(super) fn wait(&mut self, folder: Option<&Path>) {
        for (_, thread) in self.0.extract_if(.., |(closing, _)| folder.is_none_or(|folder| closing == folder)) {
            // A panic was reported by its own hook.
            thread.join().ok();
        }
    }
}

/// What a thread has found, once it has.
pub(super) fn finished<T>(thread: &mut Option<JoinHandle<T>>) -> Option<T> {
    thread.take_if(|thread| thread.is_finished()).and_then(|thread| thread.join().ok())
}

/// Does `work`, and calls for a new frame when it is done.
pub(super) fn in_background<T: Send + 'static>(
    ctx: &Context,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let ctx = ctx.clone();
    std::thread::spawn(move || {
        let result = work();
        // The thread has ended when the next frame is drawn, or in the one after it.
        ctx.request_repaint_after(Duration::from_millis(20));
        result
    })
}

/// Calls for a new frame, at most thirty times a second.
pub(super) fn waker(ctx: &Context) -> impl Fn() + Send + Sync + 'static {
    let ctx = ctx.clone();
    move || ctx.request_repaint_after(Duration::from_millis(33))
}
