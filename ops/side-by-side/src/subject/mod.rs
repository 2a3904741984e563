//! Who is measured: each starts with one worker on loopback and speaks WebSocket without TLS.

mod floor;
mod gatepass;
mod nats;
mod nchan;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use gatepass_client::Settings;
use gatepass_protocol::channel::Channel;
use tempfile::TempDir;

use crate::{net::Speaker, process::Process, quiet::Awake};

/// A server that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Subject {
    /// The least that a server can do.
    Floor,
    /// Our relay.
    Gatepass,
    /// nats-server.
    Nats,
    /// nginx with the nchan module.
    Nchan,
}

impl Subject {
    /// All, in the order in which they are shown.
    pub(crate) const ALL: [Self; 4] = [Self::Floor, Self::Gatepass, Self::Nats, Self::Nchan];

    /// Its name in tables, files and arguments.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Gatepass => "gatepass",
            Self::Nats => "nats",
            Self::Nchan => "nchan",
        }
    }

    /// Others that do the same work.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Nats | Self::Nchan)
    }

    /// Debian's packages that it needs.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Floor | Self::Gatepass => &[],
            Self::Nats => &["nats-server"],
            Self::Nchan => &["nginx", "libnginx-mod-nchan"],
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Hears the one channel.
    Subscriber,
    /// Speaks on it.
    Publisher,
    /// Waits for the first side of a pair, and answers it.
    Answering(usize),
    /// Begins; connects once the other side is ready.
    Asking(usize),
    /// One of many that listen to a channel and hear nothing.
    Idle(usize),
    /// One of many that come, and no more.
    Visitor(usize),
    /// A visitor that comes again, with what it was given to come back with.
    Returning(usize),
}

/// What is between a client and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Nothing.
    Plain,
    /// TLS: our relay only.
    Tls,
}

/// What outlives a server: a quiet machine, where programs are, and who may log in.
pub(crate) struct Stable {
    /// What keeps the processors awake.
    pub(crate) awake: Awake,
    relay: PathBuf,
    folder: TempDir,
    tenancy: Option<gatepass::Tenancy>,
}

/// A running server.
pub(crate) struct Server {
    /// Where it takes connections.
    pub(crate) address: SocketAddr,
    /// Its process.
    pub(crate) process: Process,
    speakers: Speakers,
    _folder: TempDir,
}

enum Speakers {
    Floor,
    Nats,
    Nchan,
    Gatepass(gatepass::Callers),
}

impl Stable {
    /// With our relay's program.
    pub(crate) fn new(relay: PathBuf, awake: Awake) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("gatepass-bench.").tempdir()?;
        Ok(Self { awake, relay, folder, tenancy: None })
    }

    /// Starts a fresh server.
    pub(crate) fn start(&mut self, subject: Subject, wire: Wire) -> anyhow::Result<Server> {
        let folder = tempfile::Builder::new().prefix(subject.name()).tempdir_in(self.folder.path())?;
        let at = folder.path();
        let (address, process, speakers) = match subject {
            Subject::Floor => floor::start(at).map(|(address, process)| (address, process, Speakers::Floor)),
            Subject::Nats => nats::start(at).map(|(address, process)| (address, process, Speakers::Nats)),
            Subject::Nchan => nchan::start(at).map(|(address, process)| (address, process, Speakers::Nchan)),
            Subject::Gatepass => {
                let tenancy = match &self.tenancy {
                    Some(tenancy) => tenancy,
                    None => {
                        let new = gatepass::Tenancy::new(&self.relay, self.folder.path())?;
                        self.tenancy.insert(new)
                    }
                };
                tenancy
                    .start(&self.relay, wire, at)
                    .map(|(address, process, callers)| (address, process, Speakers::Gatepass(callers)))
            }
        }
        .with_context(|| format!("{subject} does not start"))?;
        Ok(Server { address, process, speakers, _folder: folder })
    }
}

impl Server {
    /// How an idle agent of our relay connects over TLS, and what it listens to.
    pub(crate) fn agents(&self) -> anyhow::Result<impl Fn(usize) -> (Settings, Channel)> {
        match &self.speakers {
            Speakers::Gatepass(callers) => callers.agents(),
            _ => bail!("only our relay is measured with TLS"),
        }
    }

    /// A client for a piece of work.
    pub(crate) fn speaker(&self, role: Role) -> Box<dyn Speaker> {
        match &self.speakers {
            Speakers::Floor => Box::new(floor::Client(role)),
            Speakers::Nats => Box::new(nats::Client::new(role)),
            Speakers::Nchan => Box::new(nchan::Client(role)),
            Speakers::Gatepass(callers) => Box::new(callers.client(role)),
        }
    }
}

/// A program on the path, or where Debian puts daemons.
fn daemon(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed; ops/bench installs it"))
}

/// A path inside a configuration file.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}
