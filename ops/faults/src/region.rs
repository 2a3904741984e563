//! A region as an MSP runs it: a control plane, three relays in front of a Redis cluster of three masters and three replicas, all of
//! them processes.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gatepass_client::{Endpoint, Http, Method, Proxies};
use gatepass_loadtest::{Tenant, tenant::Server as ControlPlane};
use gatepass_relay::{
    Config,
    config::{Backplane, TlsMode},
    testing::redis::Cluster,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

use crate::network::{Network, here};

/// Relays of the region.
pub(crate) const RELAYS: usize = 3;
/// Longer than a relay takes to start or to drain.
const PATIENCE: Duration = Duration::from_secs(30);
/// Over which a relay that goes down spreads its clients.
const SPREAD: u32 = 2;

/// All of it, gone when dropped.
pub(crate) struct Region {
    pub(crate) cluster: Cluster,
    pub(crate) relays: Vec<Program>,
    pub(crate) tenant: Tenant,
    pub(crate) network: Network,
    _control: Program,
}

/// A server as a process, with what starts it.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    /// `None`: at the control plane's place.
    relay: Option<usize>,
    role: &'static str,
    folder: PathBuf,
    binary: PathBuf,
    process: Option<Child>,
}

impl Region {
    /// Starts it, with a tenant. `folder` holds its files and logs.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let network = Network::new(RELAYS)?;
        let cluster = Cluster::start_at(network.redis(), true).await;
        let binary = relay_binary()?;
        let mut control = Program::new("control", None, &network, folder, &binary)?;
        let mut settings = configuration(&control, Backplane::default());
        // Tokens are sent over TLS only.
        settings.tls.mode = TlsMode::SelfMade;
        control.configure(settings, "")?;
        control.start(&network).await?;
        let (url, state) = (format!("https://{}", control.address), control.folder.join("state"));
        let certificate = state.join("relay.pem");
        let server = ControlPlane {
            url: url.clone(),
            operator_token: state.join("operator.token"),
            server_ca: Some(certificate.clone()),
        };
        let tenant = Tenant::create(&server, "chaos", &folder.join("tenant")).await?;
        let mut relays = vec![];
        for nth in 0..RELAYS {
            let mut relay = Program::new("relay", Some(nth), &network, folder, &binary)?;
            // Any free port: they tell each other which.
            let peer_listen = SocketAddr::new(relay.address.ip(), 0).to_string();
            let timeout_ms = NonZeroU32::MIN.saturating_add(999);
            let plane = Backplane { timeout_ms, peer_listen, ..cluster.backplane() };
            let region = format!("[region]\ncontrol_plane = '{url}'\nca_file = '{}'\n", certificate.display());
            relay.configure(configuration(&relay, plane), &region)?;
            let token = relay.folder.join("state/relay.token");
            fs::copy(state.join("relay.token"), &token).context("the control plane has no relay.token")?;
            fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
            relay.start(&network).await?;
            relays.push(relay);
        }
        let region = Self { cluster, relays, tenant, network, _control: control };
        let begun = Instant::now();
        let probes = region.probes()?;
        while !are_ready(&probes).await {
            if begun.elapsed() > PATIENCE {
                bail!(
                    "the relays are not ready after {} s: see their logs in {}",
                    PATIENCE.as_secs(),
                    folder.display()
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(region)
    }

    /// The relays, as client `n` prefers them: each has a first choice, spread evenly, and the others behind it.
    pub(crate) fn relays_for(&self, n: u32) -> Result<Vec<Endpoint>> {
        let urls = self.relays.iter().map(|relay| Ok(format!("ws://{}", relay.address).parse()?));
        let mut relays: Vec<Endpoint> = urls.collect::<Result<_>>()?;
        relays.rotate_left(n as usize % RELAYS);
        Ok(relays)
    }

    /// What asks each relay whether it is ready.
    pub(crate) fn probes(&self) -> Result<Vec<Http>> {
        self.relays.iter().map(|relay| relay.probe(&self.tenant)).collect()
    }
}

/// Whether every relay says that it is ready.
pub(crate) async fn are_ready(probes: &[Http]) -> bool {
    for probe in probes {
        let asked = timeout(Duration::from_secs(1), probe.request(Method::GET, "/health/ready", None)).await;
        if !matches!(asked, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

/// With limits that a crowd from few addresses does not meet.
fn configuration(program: &Program, backplane: Backplane) -> Config {
    let mut config = Config { backplane, ..Config::default() };
    config.edge.listen = program.address;
    config.edge.names.push(program.address.ip().to_string());
    config.edge.state_dir = program.folder.join("state");
    config.tls.mode = TlsMode::Off;
    config.drain.spread_seconds = SPREAD;
    let limits = &mut config.limits;
    for limit in [
        &mut limits.ip_per_second,
        &mut limits.ip_burst,
        &mut limits.client_connects_per_second,
        &mut limits.client_connect_burst,
    ] {
        *limit = NonZeroU32::MIN.saturating_add(999_999);
    }
    config
}

fn relay_binary() -> Result<PathBuf> {
    let itself = std::env::current_exe().context("can't find this program")?;
    let found =
        itself.ancestors().skip(1).take(2).map(|folder| folder.join("gatepass-relay")).find(|file| file.exists());
    found.context(
        "gatepass-relay is not built: run `cargo build -p gatepass-relay-server` first, or ops/chaos, which does",
    )
}

impl Program {
    fn new(role: &'static str, relay: Option<usize>, network: &Network, folder: &Path, binary: &Path) -> Result<Self> {
        let (name, host) = match relay {
            Some(nth) => (format!("relay-{nth}"), network.relay(nth)),
            None => ("control".to_owned(), network.control()),
        };
        let port = match relay {
            // Nobody else is there.
            Some(_) if network.is_own() => 8_443,
            _ => TcpListener::bind((host, 0)).and_then(|socket| socket.local_addr()).context("no free port")?.port(),
        };
        let folder = folder.join(name);
        fs::create_dir_all(folder.join("state"))?;
        fs::set_permissions(folder.join("state"), fs::Permissions::from_mode(0o700))?;
        Ok(Self { address: (host, port).into(), relay, role, folder, binary: binary.to_owned(), process: None })
    }

    fn configure(&mut self, config: Config, more: &str) -> Result<()> {
        let text = format!("{}\n{more}[log]\nfilter = 'info'\n[runtime]\nworkers = 1\n", toml::to_string(&config)?);
        fs::write(self.folder.join("relay.toml"), text)?;
        Ok(())
    }

    /// Starts it, and waits until it takes connections.
    pub(crate) async fn start(&mut self, network: &Network) -> Result<()> {
        let mut command = self.relay.map_or_else(here, |nth| network.at_relay(nth));
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        command.arg(&self.binary).args(["--role", self.role, "--config"]).arg(self.folder.join("relay.toml"));
        command.env_remove("HTTP_PROXY").env_remove("http_proxy").env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("can't start setpriv (package util-linux)")?);
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            if ended || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("{} does not listen on {}:\n{log}", self.folder.display(), self.address);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("it does not run")?;
        let pid = process.id().try_into().ok().and_then(Pid::from_raw).context("no process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let begun = Instant::now();
        while process.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                let _ = process.kill();
                bail!("{} did not end in {} s", self.folder.display(), PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// What asks it whether it is ready.
    pub(crate) fn probe(&self, tenant: &Tenant) -> Result<Http> {
        Ok(Http::new(&format!("http://{}", self.address), tenant.tls().clone(), Proxies::none())?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
