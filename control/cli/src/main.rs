//! `gatepass`, the administrator's command line.
//!
//! It makes a tenant's CA key, and signs with it what agents and phones act on: certificates, tickets, policy, revocations.
//! The server stores and forwards what was signed here; this program believes the CA keys in its profile and verifies what
//! the server shows, as agents and phones do.

mod audit;
mod ca;
mod device;
mod files;
mod introduce;
mod keys;
mod lists;
mod password;
mod people;
mod policy;
mod policy_file;
mod profile;
mod revoke;
mod session;
mod show;
mod tenant;
mod ticket;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use profile::Profile;
use session::Session;

/// Administer a Gatepass tenant: its CA keys, people, computers, phones, policy and audit trail
#[derive(Parser)]
#[command(name = "gatepass", version, after_help = FIRST_STEPS)]
struct Arguments {
    /// The profile: server, tenant, token file [default: ~/.config/gatepass/profile.toml]
    #[arg(long, global = true, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print what is listed or shown as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "\
First steps:
  gatepass tenant create \"Acme\" --url https://gate.example --operator-token-file /var/lib/gatepass/relay/operator.token
  gatepass ca new acme-2026              make the CA key; its password never leaves this machine
  gatepass ca add gatepass-ca.pem        let the tenant trust it
  gatepass relay set https://gate.example
  gatepass technician add alex
  gatepass policy set policy.toml        'gatepass policy example' shows one
  gatepass ticket new --for agent        then on the computer: gatepass-agent enrol
  gatepass device enrol                  enrols a phone: it shows two words, you type them";

#[derive(Subcommand)]
enum Command {
    /// Create and list tenants, as the operator of a server
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Make, add and list CA keys
    #[command(subcommand)]
    Ca(ca::Command),
    /// Add, list and delegate the operator's people, as the operator of a server
    #[command(subcommand)]
    Person(people::People),
    /// Add, change and list technicians, the people who may approve
    #[command(subcommand)]
    Technician(people::Technicians),
    /// Make, change and list groups of technicians
    #[command(subcommand)]
    Group(people::Groups),
    /// Sign in with a password and a one-time code, and set them
    #[command(subcommand)]
    SignIn(people::SignIns),
    /// Make, list and remove tokens for the API, each with a role and an end
    #[command(subcommand)]
    Token(people::Tokens),
    /// Make and list enrolment tickets for computers and phones
    #[command(subcommand)]
    Ticket(ticket::Command),
    /// Enrol and list phones, and approve those that wait
    #[command(subcommand)]
    Device(device::Command),
    /// List computers, and share them
    #[command(subcommand)]
    Computer(Computers),
    /// Show, check and set the policy: who may have what, where and how
    #[command(subcommand)]
    Policy(policy::Command),
    /// Show and set where the relays are
    #[command(subcommand)]
    Relay(lists::Relays),
    /// Take trust away from something, at once and for good
    Revoke(revoke::Revoke),
    /// Show the audit trail, and check that nothing is missing from it
    Audit(audit::Audit),
    /// Show the tenant at a glance
    Status,
    /// After a server was restored from a backup: give it the newest policy and lists that this machine has seen
    Resend,
    /// Print completions for a shell: bash, zsh, fish, elvish, powershell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// List computers, and share them
#[derive(Subcommand)]
enum Computers {
    /// List enrolled computers
    List,
    /// Share a computer with these, and nobody else any more
    Share(people::Share),
    /// Show with whom a computer is shared
    Shares {
        /// The computer's name or identifier
        computer: String,
    },
}

fn main() -> ExitCode {
    // Passwords and keys are in this memory: no core dump, and no debugger of the same user.
    let sealed = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = sealed {
        let _ = writeln!(std::io::stderr(), "gatepass: can't keep secrets out of core dumps: {error}");
        return ExitCode::FAILURE;
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
            // A cause that its effect quotes already is not said twice.
            let mut text = String::new();
            for part in chain {
                if !text.contains(&part) {
                    text.push_str(if text.is_empty() { "" } else { ": " });
                    text.push_str(&part);
                }
            }
            // The parser shows the line of a file of one's own; of what others say, no line break is kept.
            let text = if error.chain().any(|cause| cause.is::<toml::de::Error>()) {
                text.trim_end().lines().map(show::clean).collect::<Vec<_>>().join("\n")
            } else {
                show::clean(&text)
            };
            let _ = writeln!(std::io::stderr(), "gatepass: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    show::in_json(arguments.json);
    if let Command::Completions { shell } = arguments.command {
        clap_complete::generate(shell, &mut Arguments::command(), "gatepass", &mut std::io::stdout());
        return Ok(());
    }
    let profile = arguments.profile.map_or_else(Profile::default_path, Ok)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start")?;
    runtime.block_on(async {
        match arguments.command {
            Command::Tenant(command) => tenant::run(command, &profile).await,
            Command::Ca(command) => ca::run(command, &profile).await,
            Command::Person(command) => people::people(command).await,
            Command::Technician(command) => people::technicians(command, &profile).await,
            Command::Group(command) => people::groups(command, &profile).await,
            Command::SignIn(command) => people::sign_ins(command, &profile).await,
            Command::Token(command) => people::tokens(command, &profile).await,
            Command::Ticket(command) => ticket::run(command, &profile).await,
            Command::Device(command) => device::run(command, &profile).await,
            Command::Computer(Computers::List) => lists::computers(&profile).await,
            Command::Computer(Computers::Share(share)) => share.run(&Session::open(&profile)?).await,
            Command::Computer(Computers::Shares { computer }) => {
                people::shares(&Session::open(&profile)?, &computer).await
            }
            Command::Completions { .. } => Ok(()),
            Command::Policy(command) => policy::run(command, &profile).await,
            Command::Relay(command) => lists::relays(command, &profile).await,
            Command::Revoke(revoke) => revoke.run(&profile).await,
            Command::Audit(audit) => audit.run(&profile).await,
            Command::Resend => lists::resend(&profile).await,
            Command::Status => lists::status(&profile).await,
        }
    })
}

/// Prints a line. A reader that went away (`| head`) is no error worth a word.
fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("can't print"),
    }
}

/// Asks for an answer on the terminal.
fn ask(question: &str) -> Result<String> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{question}").and_then(|()| stderr.flush()).context("can't ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("can't read the answer")?;
    Ok(answer.trim().to_owned())
}
