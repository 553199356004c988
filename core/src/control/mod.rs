//! Agents: the loop of deep reinforcement learning from human preferences, what it is made of, and its runs.

pub mod config;
pub mod drlhp;
pub mod epic;
pub mod reward;
pub mod rl;
pub mod run;
