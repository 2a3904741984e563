//! The published test vectors, made in memory. Everything in them comes from seeded sources, so that they are the same
//! bytes each time; a test compares them with the files.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

pub mod approval;
pub mod frames;
pub mod handshake;
mod log;
pub mod noise;
mod offline;
mod qr;
mod sealed;
pub mod slot;
mod statements;
mod vault;

use serde_json::Value;

/// Each file's name and text.
pub fn all() -> Vec<(&'static str, String)> {
    let files = [
        ("qr.json", qr::file()),
        ("handshake.json", handshake::file()),
        ("confirm.json", handshake::confirm()),
        ("frames.json", frames::file()),
        ("statements.json", statements::file()),
        ("approval.json", approval::file()),
        ("sealed.json", sealed::file()),
        ("offline.json", offline::file()),
        ("slot.json", slot::file()),
        ("log.json", log::file()),
        ("vault.json", vault::file()),
    ];
    files.into_iter().map(|(name, value)| (name, pretty(&value))).collect()
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    text
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hexes(chain: &[bytes::Bytes]) -> Vec<String> {
    chain.iter().map(hex).collect()
}
