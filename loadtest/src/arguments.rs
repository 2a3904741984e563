//! What can be said on the command line.

use std::{net::ToSocketAddrs as _, path::PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use gatepass_client::Endpoint;
use gatepass_loadtest::{Profile, attack::Attack, profile::Load};

use crate::clients_per_worker;

/// Puts a stated load on a Gatepass relay, and measures how it does
///
/// Open loop: what is to happen when is decided before it begins, and latencies count from then, so that a server that stalls is
/// charged for all who would have waited. Load goes to this machine only, unless told otherwise twice.
#[derive(Parser)]
#[command(name = "gatepass-loadtest", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Compare the results of two runs
    #[arg(long, num_args = 2, value_names = ["BEFORE.json", "AFTER.json"])]
    pub(crate) compare: Option<Vec<PathBuf>>,
    /// With --compare: write a page with both
    #[arg(long, value_name = "FILE", requires = "compare")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a profile
    Run(Box<Run>),
    /// Run a profile in peace, then beside each kind of attack, then in peace again: what do the others suffer?
    Siege(Box<Siege>),
    /// Make a tenant for load tests at a server, with its CA key
    Tenant(NewTenant),
    /// Make the page of a run again from its JSON file
    Report {
        /// The results
        results: PathBuf,
        /// Where the page goes
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
    },
    /// List the shipped profiles, or print one
    Profiles {
        /// Which
        name: Option<String>,
    },
    /// A worker of a running test: started by it, and by nobody else
    #[command(hide = true)]
    Worker,
    /// The attackers of a siege: started by it, and by nobody else
    #[command(hide = true)]
    Attack,
}

#[derive(Args)]
pub(crate) struct NewTenant {
    /// A new folder for its profile, token, CA key and password
    pub(crate) folder: PathBuf,
    /// Where the server answers: https://host[:port]
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    /// The operator's token: operator.token beside the server's database
    #[arg(long, value_name = "FILE")]
    pub(crate) operator_token_file: PathBuf,
    /// The certificate (PEM) to expect from the server, where no public CA vouches for it
    #[arg(long, value_name = "FILE")]
    pub(crate) server_ca: Option<PathBuf>,
    /// What the tenant is called
    #[arg(long, default_value = "load test")]
    pub(crate) name: String,
}

#[derive(Args)]
pub(crate) struct Siege {
    #[command(flatten)]
    pub(crate) run: Run,
    /// Only these attacks
    #[arg(long, value_enum)]
    pub(crate) only: Vec<Attack>,
    /// The 99th percentile of what matters most may be so many times that in peace; more exits with 1
    #[arg(long, default_value_t = 2.0)]
    pub(crate) times: f64,
}

#[derive(Args)]
pub(crate) struct Run {
    /// A shipped profile (idle, storm, pairings, fanout, revocation, day) or a file
    pub(crate) profile: String,
    /// The tenant's folder, as 'gatepass-loadtest tenant' makes it
    #[arg(long, value_name = "FOLDER")]
    pub(crate) tenant: PathBuf,
    /// The relay, wss://host[:port] or ws://; given several times, clients are spread over the nodes of a cluster [default: where
    /// the tenant's control plane is]
    #[arg(long = "relay", value_name = "URL")]
    pub(crate) relays: Vec<String>,
    /// The certificate (PEM) to expect from the relay [default: the tenant's]
    #[arg(long, value_name = "FILE")]
    pub(crate) server_ca: Option<PathBuf>,
    /// Change a key of the profile, as in load.per_second=500; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Simulated computers [default: the profile's]
    #[arg(long)]
    agents: Option<u32>,
    /// Simulated phones [default: the profile's]
    #[arg(long)]
    phones: Option<u32>,
    /// Another seed is another load of the same kind [default: the profile's]
    #[arg(long)]
    seed: Option<u32>,
    /// What must hold, as in p99_ms=5 or connect.max_ms=250; exits with 1 otherwise; may be repeated
    #[arg(long = "limit", value_name = "[SERIES.]METRIC=BOUND")]
    pub(crate) limits: Vec<String>,
    /// Worker processes [default: one for each 15,000 clients]
    #[arg(long)]
    workers: Option<u32>,
    /// The server's process on this machine, or one of several [default: whoever listens on the relays' ports]
    #[arg(long = "server-pid", value_name = "PID")]
    pub(crate) server_pids: Vec<u32>,
    /// Write the results here
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with plots here
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// The target is not this machine: needed together with --target-is-mine
    #[arg(long)]
    not_loopback: bool,
    /// The target's name once more, from whoever may put load on it: needed together with --not-loopback
    #[arg(long, value_name = "HOST")]
    target_is_mine: Option<String>,
}

impl Run {
    /// What the command line changes of the profile.
    pub(crate) fn changes(&self) -> Vec<String> {
        let counts = [("agents", self.agents), ("phones", self.phones), ("seed", self.seed)];
        let given = counts.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        self.set.iter().cloned().chain(given).collect()
    }

    /// Refuses to put load on others' machines.
    pub(crate) fn allows(&self, target: &Endpoint) -> Result<()> {
        let host = target.host();
        if is_this_machine(target) || (self.not_loopback && self.target_is_mine.as_deref() == Some(host)) {
            return Ok(());
        }
        let told = match (self.not_loopback, self.target_is_mine.as_deref()) {
            (true, Some(named)) => format!("--target-is-mine names {named:?}"),
            (true, None) => "--target-is-mine is missing".to_owned(),
            (false, Some(_)) => "--not-loopback is missing".to_owned(),
            (false, None) => "neither was given".to_owned(),
        };
        bail!(
            "{host} is not this machine. A load test looks like an attack to whoever runs the other side, and can be one. If it \
             is yours, say so twice: --not-loopback --target-is-mine {host} ({told})"
        )
    }

    /// How many workers there are.
    pub(crate) fn workers(&self, profile: &Profile) -> Result<u32> {
        let (most, clients) = (clients_per_worker(), profile.clients());
        let needed = clients.div_ceil(most).max(1);
        let workers = self.workers.unwrap_or(needed);
        if workers < needed {
            bail!(
                "{clients} clients need {needed} workers: one may have {most} (open files); leave --workers out, or raise it"
            );
        }
        let least = match &profile.load {
            Load::Pairings(_) | Load::Messages(_) | Load::Fanout(_) | Load::Day(_) => {
                profile.agents.min(profile.phones.max(1))
            }
            Load::Idle(_) | Load::Storm(_) | Load::Revocation(_) => profile.agents,
        };
        if workers > least {
            bail!(
                "{workers} workers are too many: with {} agents and {} phones, some would have nobody",
                profile.agents,
                profile.phones
            );
        }
        Ok(workers)
    }
}

/// Loopback by name or address, or a name that resolves to nothing else.
fn is_this_machine(target: &Endpoint) -> bool {
    let resolved = || (target.host(), target.port()).to_socket_addrs().ok().map(|all| all.collect::<Vec<_>>());
    target.is_loopback()
        || resolved().is_some_and(|all| !all.is_empty() && all.iter().all(|address| address.ip().is_loopback()))
}
