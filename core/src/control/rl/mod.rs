//! Reinforcement learning: PPO, normalisation, evaluation.

pub mod evaluate;
pub mod normalize;
pub mod ppo;
