//! `gatepass-phone`: a phone at the command line, for technicians at a terminal, for scripts, and for trying everything out.
//! Its approval key is software behind a PIN and says so; policy may refuse such keys.

mod code;
mod computers;
mod enrolment;
mod grants;
mod home;
mod picture;
mod scan;
mod terminal;
mod when;
mod witness;

use std::{os::unix::process::CommandExt, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use gatepass_client::Proxies;
use gatepass_telemetry::Sending;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing_subscriber::Layer as _;

use home::Home;

/// A phone at the command line: enrol it, scan logon screens, approve or deny, end what you granted.
#[derive(Parser)]
#[command(name = "gatepass-phone", version, arg_required_else_help = true)]
struct Cli {
    /// Where the phone keeps its keys [default: $XDG_DATA_HOME/gatepass-phone]
    #[arg(long, global = true, value_name = "FOLDER")]
    home: Option<PathBuf>,
    /// The HTTP proxy to go out through, as http://host:port, or "none"; with a user name and password only by the
    /// environment [default: HTTPS_PROXY, ALL_PROXY and NO_PROXY]
    #[arg(long, global = true, value_name = "URL", default_value = "", hide_default_value = true)]
    proxy: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enrol this phone, by two words with your administrator or by a ticket, or go on waiting for the approval
    Enrol(enrolment::Enrol),
    /// Scan the code of a logon screen, see what it asks, and decide
    Scan(Box<scan::Scan>),
    /// Show an offline code, for a computer that can't reach its relay
    Code(Box<code::Code>),
    /// List the computers that this phone knows, and which are on; fetches those that are new
    Computers,
    /// List your live grants
    Grants,
    /// End a grant now
    End(grants::End),
    /// Show the receipts of ended grants, each checked again
    Receipts,
    /// Print the signed heads of the tenant's audit log that this phone has seen, for 'gatepass audit verify --witnessed'
    Heads,
    /// Show who this phone is and whom it believes, with the newest lists
    Status,
}

fn main() -> ExitCode {
    // Keys and PIN are in this memory: no core file, no other program of the same user that looks in.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let filter = tracing_subscriber::EnvFilter::try_from_env("GATEPASS_LOG").unwrap_or_else(|_| "error".into());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter).boxed();
    let traces = gatepass_telemetry::init("gatepass-phone", lines);
    let cli = Cli::parse();
    if matches!(cli.command, Command::Scan(_) | Command::Code(_)) {
        with_large_pages();
    }
    match traces.map_err(Into::into).and_then(|traces| run(cli, traces)) {
        Ok(code) => code,
        Err(error) => {
            // An error may quote what a server or a computer said.
            let sentence = gatepass_mobile::clean(&format!("{error:#}"));
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("gatepass-phone: {sentence}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Opening the key goes through 64 MiB at random: in pages of 2 MiB that takes two thirds of the time that it takes in pages of
/// 4 KiB. The C library is told so before a program begins, so this one begins once more. Where it can't, it is only slower.
fn with_large_pages() {
    const SETTINGS: &str = "GLIBC_TUNABLES";
    if std::env::var_os(SETTINGS).is_none()
        && let Ok(this) = std::env::current_exe()
    {
        let mut arguments = std::env::args_os();
        let mut again = std::process::Command::new(this);
        again.arg0(arguments.next().unwrap_or_default()).args(arguments).env(SETTINGS, "glibc.malloc.hugetlb=1");
        let _ = again.exec();
    }
}

// One worker for the connection, so that it lives on while this thread waits for a person at a prompt.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn run(cli: Cli, traces: Option<Sending>) -> Result<ExitCode> {
    let traces = traces.map(Sending::start);
    let done = act(cli).await;
    if let Some(traces) = traces {
        traces.flush().await;
    }
    done
}

async fn act(cli: Cli) -> Result<ExitCode> {
    if cli.proxy.contains('@') {
        bail!(
            "--proxy takes no password, for other users of this machine would see it: set the environment variable \
             HTTPS_PROXY to http://user:password@host:port instead"
        );
    }
    let home = Home::find(cli.home, Proxies::from_setting(&cli.proxy, "--proxy")?)?;
    match cli.command {
        Command::Enrol(enrol) => enrol.run(&home).await,
        Command::Scan(scan) => scan.run(&home).await,
        Command::Code(code) => code.run(&home),
        Command::Computers => computers::list(&home).await,
        Command::Grants => grants::list(&home).await,
        Command::End(end) => end.run(&home).await,
        Command::Receipts => grants::receipts(&home).await,
        Command::Heads => witness::heads(&home),
        Command::Status => enrolment::status(&home).await,
    }
}
