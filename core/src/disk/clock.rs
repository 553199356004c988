//! The time that work has taken, over interruptions.

use std::time::Instant;

use cpu_time::ProcessTime;

/// Wall and CPU time of a run, over interruptions.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Instant,
    cpu: Option<ProcessTime>,
    wall_before: f64,
    cpu_before: Option<f64>,
}

impl Clock {
    /// Starts counting from nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::start(0.0, Some(0.0))
    }

    /// Starts counting from seconds already spent; those of the CPU are `None` where they were not known.
    #[must_use]
    pub fn start(wall_before: f64, cpu_before: Option<f64>) -> Self {
        Self { wall: Instant::now(), cpu: ProcessTime::try_now().ok(), wall_before, cpu_before }
    }

    /// Wall-clock seconds.
    #[must_use]
    pub fn wall(&self) -> f64 {
        self.wall_before + self.wall.elapsed().as_secs_f64()
    }

    /// CPU seconds of this process; `None` where the system does not tell.
    #[must_use]
    pub fn cpu(&self) -> Option<f64> {
        let spent = self.cpu.and_then(|cpu| cpu.try_elapsed().ok())?;
        Some(self.cpu_before? + spent.as_secs_f64())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
