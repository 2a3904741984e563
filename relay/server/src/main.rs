//! `gatepass-relay`: the relay, the control plane, or both in one process.

mod region;
mod serve;
mod settings;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use gatepass_control::Control;
use gatepass_telemetry::Sending;
use tracing_subscriber::Layer as _;

use crate::settings::{DEFAULT_FILE, Format, Role, Settings};

/// What a handshake needs for a moment lies between what its connection needs for weeks, and the system's allocator gives
/// little of that back: with this one, ten thousand idle connections take less than half.
#[global_allocator]
static MEMORY: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The relay between phones and computers, and the control plane: in one process, or each where it is needed.
///
/// Without a configuration file it listens on 127.0.0.1:8443 with a certificate that it makes itself, and keeps everything
/// in /var/lib/gatepass/relay. `relay.example.toml` documents every key.
#[derive(Parser)]
#[command(name = "gatepass-relay", version)]
struct Arguments {
    /// The configuration file [default: /etc/gatepass/relay.toml, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// What this process is
    #[arg(long, value_enum, default_value_t = Role::All, global = true)]
    role: Role,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Reads the configuration and says whether the server would start with it
    CheckConfig,
    /// Writes everything that the control plane knows into a new SQLite file, while it runs; whichever database it has
    Backup {
        /// The file to make: as secret as the database
        file: PathBuf,
    },
    /// Fills an empty database from a backup; the servers must be stopped. All tokens become void, and all tickets used up
    Restore {
        /// The backup
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone, nobody can be told.
            let _ = writeln!(std::io::stderr(), "gatepass-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(Arguments { config, role, command }: Arguments) -> anyhow::Result<()> {
    let file = config.as_deref();
    let named = file.map_or_else(|| DEFAULT_FILE.to_owned(), |file| file.display().to_string());
    let settings = Settings::load(file, role).with_context(|| format!("the configuration {named} is not usable"))?;
    match command {
        Some(Command::CheckConfig) => check(&settings, role),
        Some(Command::Backup { file }) => {
            let rows = Control::back_up(&settings.database(), &file).context("no backup was made")?;
            say(&format!("{rows} rows are in {}: keep it as secret as the database", file.display()))
        }
        Some(Command::Restore { file }) => {
            let rows = Control::restore(&settings.database(), &file).context("nothing was restored")?;
            say(&format!(
                "{rows} rows are restored. The next start makes a new operator.token; with it, give each tenant's \
                 administrator a new token ('gatepass tenant token'), who then runs 'gatepass resend'"
            ))
        }
        None => run(settings, role),
    }
}

fn check(settings: &Settings, role: Role) -> anyhow::Result<()> {
    let (edge, tls) = (&settings.edge, settings.tls.mode);
    if tls == gatepass_relay::config::TlsMode::Files {
        gatepass_relay::tls::prepare(&settings.relay())?;
    }
    if role == Role::Relay {
        region::control_plane(settings)?;
    }
    let _ = gatepass_relay::backplane::prepare(&settings.relay())?;
    let names = edge.names.join(", ");
    let what = match role {
        Role::All => "a relay and control plane",
        Role::Relay => "a regional relay",
        Role::Control => "a control plane",
    };
    say(&format!("ok: {what} would listen on {} as {names}, state in {}", edge.listen, edge.state_dir.display()))
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

fn run(settings: Settings, role: Role) -> anyhow::Result<()> {
    keep_memory_private().context("can't switch off core dumps")?;
    raise_open_files().context("can't raise the number of open files")?;
    let traces = log(&settings)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if settings.runtime.workers > 0 {
        runtime.worker_threads(settings.runtime.workers);
    }
    runtime.enable_all().build()?.block_on(async {
        let traces = traces.map(Sending::start);
        // As a task, so that who accepts connections is one of the workers, and need not wake them for each.
        let served = tokio::spawn(serve::run(settings, role)).await;
        if let Some(traces) = traces {
            traces.flush().await;
        }
        served?
    })
}

/// The TLS key and tokens are in memory: no core dumps, and no debugger but root's.
fn keep_memory_private() -> rustix::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Each connection is an open file, and the usual soft limit of 1,024 is meant for programs that use select(2).
fn raise_open_files() -> rustix::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
}

fn log(settings: &Settings) -> anyhow::Result<Option<Sending>> {
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let filter = settings.log_filter()?;
    let lines = match settings.log.format {
        Format::Text => lines.with_filter(filter).boxed(),
        Format::Json => lines.json().with_filter(filter).boxed(),
    };
    Ok(gatepass_telemetry::init("gatepass-relay", lines)?)
}
