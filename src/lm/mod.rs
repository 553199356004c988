//! Language models: a decoder, its training from texts and from preferences, sampling, and Hugging Face folders.

pub mod gold;
pub mod reviews;
