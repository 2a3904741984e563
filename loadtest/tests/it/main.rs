//! The load tester as somebody runs it: the real program with its worker processes, against a real relay and control plane.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod runs;
mod server;
mod siege;
mod trouble;
