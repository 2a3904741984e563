//! `gatepass-agent`: the root daemon that asks a technician's phone and acts on what it approves.

mod admin;
mod agent;
mod audit;
mod clock;
mod config;
mod doctor;
mod door;
mod enrol;
mod identity;
mod login;
mod offline;
mod orders;
mod process;
mod relay;
mod run;
mod sessions;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use gatepass_agent_core::fault::{Fault, NoFault};
use gatepass_protocol::ids::GrantId;
use gatepass_telemetry::Sending;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing_subscriber::Layer as _;

use config::Config;

/// The Gatepass agent: temporary admin rights on this computer, approved on a technician's phone.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// The configuration, instead of /etc/gatepass/agent.toml.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent (as root).
    Run {
        /// Kills the agent at this point of a grant: for tests.
        #[cfg(feature = "fault")]
        #[arg(long)]
        fault: Option<gatepass_agent_core::fault::Point>,
    },
    /// Makes this computer's keys and certificate and joins a tenant.
    Enrol {
        /// The file with the ticket that the administrator gave out. It is a secret: mode 0600.
        #[arg(long)]
        ticket_file: PathBuf,
        /// Replaces an enrolment that is there already.
        #[arg(long)]
        again: bool,
    },
    /// Says how the running agent does.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Looks for everything that could keep logins from working, and says what to do about it.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ends a grant at once.
    End {
        /// Its name, as `status` shows it; its first digits are enough.
        grant: String,
    },
    /// Says that the clock is right now, after it had been wrong: grants are refused until then.
    AcceptClock,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = keep_secrets_in_memory().and_then(|()| act(&arguments));
    match done {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program's last word to its user")]
fn report(error: &anyhow::Error) {
    eprintln!("gatepass-agent: {error:#}");
}

fn act(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = arguments.config.as_deref();
    if let Command::Doctor { json } = &arguments.command {
        return block_on(doctor::run(path, *json));
    }
    let config = Config::load(path)?;
    match &arguments.command {
        Command::Run { .. } => {
            let traces = log_to_stderr(&config)?;
            let fault = fault_of(&arguments.command);
            block_on(async {
                // They go on being sent until the process ends.
                let _traces = traces.map(Sending::start);
                run::run(config, fault).await
            })
        }
        Command::Enrol { ticket_file, again } => block_on(enrol::run(&config, ticket_file, *again)),
        Command::Status { json } => block_on(admin::status(&config, *json)),
        Command::End { grant } => block_on(admin::end(&config, grant)),
        Command::AcceptClock => block_on(admin::accept_clock(&config)),
        Command::Doctor { .. } => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(not(feature = "fault"))]
fn fault_of(_: &Command) -> Arc<dyn Fault> {
    Arc::new(NoFault)
}

#[cfg(feature = "fault")]
fn fault_of(command: &Command) -> Arc<dyn Fault> {
    match command {
        Command::Run { fault: Some(point) } => Arc::new(run::KilledAt(*point)),
        _ => Arc::new(NoFault),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("the async runtime did not start")?.block_on(work)
}

/// No core file and no debugger of another user gets at the keys.
fn keep_secrets_in_memory() -> anyhow::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("core dumps can't be switched off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("core dumps can't be switched off")
}

fn log_to_stderr(config: &Config) -> anyhow::Result<Option<Sending>> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level)
        .with_context(|| format!("log.level = \"{}\"", config.log.level))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match config.log.json {
        true => lines.json().with_filter(filter).boxed(),
        false => lines.with_ansi(false).with_filter(filter).boxed(),
    };
    Ok(gatepass_telemetry::init("gatepass-agent", lines)?)
}

/// The one grant whose name begins so.
pub(crate) fn grant_of(names: &[GrantId], begins: &str) -> anyhow::Result<GrantId> {
    let mut found = names.iter().filter(|id| !begins.is_empty() && id.to_string().starts_with(&begins.to_lowercase()));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(*id),
        (None, _) => anyhow::bail!("no open grant's name begins with \"{begins}\"; `gatepass-agent status` shows them"),
        (Some(_), Some(_)) => anyhow::bail!("several open grants' names begin with \"{begins}\"; give more digits"),
    }
}
