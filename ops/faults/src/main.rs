//! `gatepass-chaos`: a region of real processes under real clients, and what becomes of each pairing and each revocation list while
//! relays and Redis servers are killed, frozen, cut off and replaced. `ops/chaos` builds and starts it.
//!
//! ```text
//!  network   namespaces, so that a relay can be cut off; region: control plane, relays, Redis cluster
//!  crowd     the clients; pairing: what two of them say to each other, and the account of it
//!  fault     what is done; run: one fault from start to end; account: what it came to, and the table
//! ```

mod account;
mod crowd;
mod dice;
mod fault;
mod network;
mod pairing;
mod region;
mod run;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;

use crate::{account::Account, fault::Fault};

/// Breaks relays and Redis servers under pairings in flight, and says what became of each
///
/// For each fault a fresh region is started: a control plane, three relays, a Redis cluster of three masters and three replicas, all
/// on this machine. Exits with 1 where anything was lost, doubled, or ended without a word.
#[derive(Parser)]
#[command(name = "ops/chaos", version)]
struct Arguments {
    /// Only these faults
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',')]
    only: Vec<Fault>,
    /// Pairings in flight when a fault strikes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(8..=5_000))]
    pairings: u32,
    /// Another seed is another course of the same kind
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the account here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave configurations and logs in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Where standard error is gone, nobody can be told.
            let _ = writeln!(io::stderr(), "chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<bool> {
    let arguments = Arguments::parse();
    network::enter()?;
    // Servers die with the thread that started them: all of them are started by this one.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(all(&arguments))
}

async fn all(arguments: &Arguments) -> Result<bool> {
    let faults = if arguments.only.is_empty() { Fault::ALL.to_vec() } else { arguments.only.clone() };
    let (mut accounts, mut out) = (vec![], io::stderr());
    for fault in faults {
        let _ = write!(out, "{} ... ", fault.name());
        let folder = match &arguments.keep {
            Some(keep) => tempfile::Builder::new().disable_cleanup(true).prefix(&fault.name()).tempdir_in(keep),
            None => tempfile::tempdir(),
        };
        let folder = folder.context("no folder for configurations and logs")?;
        let account = run::run(fault, arguments.pairings, arguments.seed, folder.path()).await?;
        let _ = writeln!(out, "{}", if account.holds() { "holds" } else { "DOES NOT HOLD" });
        accounts.push(account);
    }
    let all: Vec<_> = accounts.iter().map(Account::json).collect();
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&all)?).with_context(|| file.display().to_string())?;
    }
    writeln!(io::stdout(), "{}", account::table(&accounts))?;
    Ok(accounts.iter().all(Account::holds))
}
