//! Reinforcement learning: PPO, normalisation, evaluation.

pub mod evaluate;
pub mod front;
pub mod normalize;
pub mod ppo;
