//! Language models: a decoder, its training from texts and from preferences, sampling, and Hugging Face folders.

pub mod chat;
pub mod data;
pub mod tokenizer;
