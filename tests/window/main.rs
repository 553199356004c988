//! The window: by the names that a screen reader says, and as a real one on a screen of its own.
//!
//! The tests of one file: `cargo test --test window app::`. Those of `screen` need Xvfb: `cargo test --test window -- --ignored`.

mod app;
mod common;
mod language;
#[path = "../program/lesson.rs"]
mod lesson;
#[cfg(target_os = "linux")]
mod screen;
