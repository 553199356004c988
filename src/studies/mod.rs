//! Experiments: what the algorithms do, measured over seeds, with tables and figures.

pub mod beginning;
pub mod control_front;
pub mod front;
pub mod frontier;
pub mod soup_path;
pub mod sycophancy;
