//! Language models: a decoder, its training from texts and from preferences, sampling, and Hugging Face folders.

pub mod batch;
pub mod chat;
pub mod config;
pub mod data;
pub mod diagnose;
pub mod dpo;
pub mod error;
mod fields;
pub mod folder;
pub mod gold;
pub mod kto;
pub mod layout;
pub mod lora;
pub mod loss;
pub mod merge;
pub mod model;
pub mod modpo;
pub mod open;
pub mod optim;
pub mod pairs;
pub mod ppo;
pub mod reviews;
pub mod reward;
pub mod run;
pub mod sample;
pub mod score;
pub mod serve;
pub mod sft;
pub mod teach;
#[cfg(test)]
mod tests;
pub mod tokenizer;
pub mod train;
