//! Language models: a decoder, its training from texts and from preferences, sampling, and Hugging Face folders.

pub mod batch;
pub mod config;
pub mod folder;
pub mod lora;
pub mod loss;
pub mod model;
pub mod optim;
pub mod train;
