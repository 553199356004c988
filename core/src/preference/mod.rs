//! The preference core shared by control and language models: labels, likelihood, simulated teachers, acquisition,
//! calibration, statistics, and the ledger.
//!
//! **Architecture invariant:** this module sees scores and ids; never an environment, a tensor, a token or a widget.

pub mod calibration;
pub mod label;
pub mod ledger;
pub mod likelihood;
pub mod query;
pub mod statistics;
pub mod teacher;

pub use label::Label;
pub use ledger::{Event, Repeat, SegmentId, Why};
pub use likelihood::Likelihood;
pub use query::{SAMPLERS, Sampler};
pub use statistics::{epic_distance, pearson, spearman};
pub use teacher::{TEACHERS, Teacher, TeacherContext};
