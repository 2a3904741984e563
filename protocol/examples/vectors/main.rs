//! Writes the published test vectors: `cargo run -p gatepass-protocol --features testing --example vectors -- docs/vectors`.

#![allow(clippy::print_stderr)]

mod make;

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: vectors FOLDER");
        return ExitCode::FAILURE;
    };
    for (name, text) in make::all() {
        let file = folder.join(name);
        if let Err(error) = std::fs::write(&file, text) {
            eprintln!("{}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
