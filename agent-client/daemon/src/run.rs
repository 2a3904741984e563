//! `gatepass-agent run`: put together, recover, then serve.
//!
//! In this order, because each needs the one before it: identity, what is believed, the accounts' provider, the journal.
//! Then everything that a crash left open is closed, and only then does anybody get an answer at a socket.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gatepass_accounts::{
    Accounts, Homes, Standing, StandingConfig, UserDb, UserDbConfig, doctor::can_be_user_database,
};
use gatepass_agent_core::fault::Fault;
use gatepass_agent_core::{Author, Grants};
use gatepass_client::Http;
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::pairing::agent::AgentIdentity;
use gatepass_protocol::pairing::messages::MachineCard;
use gatepass_protocol::statement::AgentTerms;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::{Agent, Parts};
use crate::audit::Audit;
use crate::clock::now;
use crate::config::{Config, Provider};
use crate::identity::{Identity, IdentityError, private_folder};
use crate::login::may_be_ours;
use crate::offline::Offline;
use crate::process::ProcessTree;
use crate::trust::Trust;
use crate::{admin, door, login, relay, sessions};

/// How often an agent that is not enrolled looks whether it is.
const LOOK_FOR_IDENTITY: Duration = Duration::from_secs(1);
/// How often accounts that nobody uses any more are looked for, and the control plane is asked for lists.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, fault: Arc<dyn Fault>) -> anyhow::Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = serve(&config, fault) => done?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopped");
    for socket in [&config.pam_socket, &config.admin_socket] {
        let _ = fs::remove_file(socket);
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: &Config, fault: Arc<dyn Fault>) -> anyhow::Result<()> {
    private_folder(&config.state).with_context(|| format!("the state folder {}", config.state.display()))?;
    let identity = enrolled(config).await?;
    let agent = assemble(config.clone(), identity, fault)?;
    recover(&agent).await;

    let pam = door::bind(&config.pam_socket, 0o666).await.with_context(|| config.pam_socket.display().to_string())?;
    let admin =
        door::bind(&config.admin_socket, 0o600).await.with_context(|| config.admin_socket.display().to_string())?;
    tokio::spawn(relay::run(agent.clone()));
    tokio::spawn(agent.audit.clone().run());
    tokio::spawn(sessions::watch(agent.clone()));
    tokio::spawn(keep_house(agent.clone()));
    tokio::spawn(admin::serve(admin, agent.clone()));
    tracing::info!(provider = agent.accounts.name(), version = env!("CARGO_PKG_VERSION"), "ready");
    door::serve(pam, move |start, terminal| login::converse(agent.clone(), start, terminal)).await;
    Ok(())
}

/// The identity; until there is one, every login is told that the computer is not enrolled.
async fn enrolled(config: &Config) -> anyhow::Result<Identity> {
    match Identity::load(config) {
        Err(IdentityError::NotEnrolled) => {}
        other => return Ok(other?),
    }
    tracing::warn!("{}", IdentityError::NotEnrolled);
    let pam: UnixListener = door::bind(&config.pam_socket, 0o666).await?;
    let looking = async {
        loop {
            tokio::time::sleep(LOOK_FOR_IDENTITY).await;
            match Identity::load(config) {
                Err(IdentityError::NotEnrolled) => {}
                other => return other,
            }
        }
    };
    let found = tokio::select! {
        found = looking => found?,
        () = door::serve(pam, login::not_enrolled) => anyhow::bail!("the PAM socket closed"),
    };
    let _ = fs::remove_file(&config.pam_socket);
    Ok(found)
}

fn assemble(config: Config, identity: Identity, fault: Arc<dyn Fault>) -> anyhow::Result<Arc<Agent>> {
    let tls = identity.tls()?;
    let proxies = config.relay.proxies()?;
    let http = Http::new(&identity.url, tls.clone(), proxies.clone())?
        .with_program(concat!("gatepass-agent/", env!("CARGO_PKG_VERSION")));
    let trust = Trust::load(&identity, &config.state, http.clone());
    let audit = Audit::open(&config.state, &identity, http.clone()).context("the spool of the audit trail")?;
    let accounts = provider(&config)?;
    let author = Author::new(identity.tenant, identity.computer, identity.sign.clone());
    let grants = Grants::open(&config.state, accounts.clone(), Arc::new(ProcessTree), author, fault)?;
    let own = SigningKey::from_seed(&identity.sign.seed());
    let paired = AgentIdentity::new(identity.chain.clone(), own, identity.channel.clone())
        .map_err(|_| IdentityError::Damaged { path: crate::identity::path(&config.state) })?;
    let offline = Offline::open(&config.state, identity.otp);
    let terms: Option<AgentTerms> = paired.statement().terms().ok();
    Ok(Agent::new(Parts {
        machine: MachineCard {
            computer: identity.computer,
            host: host_name(),
            os: os_name(Path::new("/etc/os-release")),
            agent: env!("CARGO_PKG_VERSION").into(),
        },
        tags: terms.map(|terms| terms.tags).unwrap_or_default(),
        tenant: identity.tenant,
        identity: paired,
        sign: identity.sign,
        tls,
        proxies,
        trust,
        audit,
        accounts,
        grants,
        offline,
        http,
        config,
    }))
}

fn provider(config: &Config) -> anyhow::Result<Arc<dyn Accounts>> {
    let wanted = &config.accounts;
    let homes = Homes { base: wanted.home.clone(), ..Homes::default() };
    let (uids, state_dir) = (wanted.uids[0]..=wanted.uids[1], config.state.join("accounts"));
    let shell = wanted.shell.clone();
    let user_database = match wanted.provider {
        Provider::Auto => can_be_user_database(),
        Provider::Userdb => true,
        Provider::Standing => false,
    };
    Ok(if user_database {
        let socket = wanted.userdb_socket.clone();
        if let Some(folder) = socket.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Arc::new(UserDb::open(UserDbConfig { socket, state_dir, uids, homes, shell }, may_be_ours)?)
    } else {
        Arc::new(Standing::open(StandingConfig { state_dir, uids, homes, shell, ..StandingConfig::default() })?)
    })
}

/// Closes what a crash, a reboot or the time left open. Nobody is served before that.
async fn recover(agent: &Arc<Agent>) {
    let Some(recovered) = agent.with_grants(|grants| grants.recover(now())).await else { return };
    for receipt in &recovered.closed {
        agent.tell_ended(receipt);
    }
    let swept: Vec<&str> = recovered.swept.iter().map(AsRef::as_ref).collect();
    if !swept.is_empty() || !recovered.failed.is_empty() {
        let text = format!(
            "accounts open without a grant, now closed: {swept:?}; could not be closed: {:?}",
            recovered.failed
        );
        tracing::error!("{text}");
        agent.report(Event { text, ..agent.event(EventKind::Alert) });
    }
    let text = format!("{} grants go on, {} closed", recovered.kept.len(), recovered.closed.len());
    tracing::info!("{text}");
    agent.report(Event { text, ..agent.event(EventKind::Started) });
    // A revocation may have come while the agent was away.
    agent.end_revoked().await;
}

/// Removes accounts that nobody was granted for as long as the policy says, and asks for newer lists.
async fn keep_house(agent: Arc<Agent>) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    loop {
        tick.tick().await;
        let idle_days = agent.trust.read().policy().map(|policy| policy.terms().idle_days);
        if let Some(days) = idle_days.filter(|days| *days > 0) {
            let accounts = agent.accounts.clone();
            let before = now().wall.saturating_sub(u64::from(days) * 86_400);
            // Under the grants' lock, so that nobody is granted one that is just being removed.
            let remove = move |grants: &mut Grants| {
                let idle = accounts.idle_since(before)?;
                for name in idle.iter().filter(|name| grants.of_account(name.as_str(), now()).is_none()) {
                    accounts.remove(name)?;
                    tracing::info!(days, "an idle account was removed");
                }
                Ok::<_, gatepass_accounts::AccountError>(())
            };
            if let Some(Err(error)) = agent.with_grants(remove).await {
                tracing::error!(%error, "idle accounts could not be removed");
            }
        }
        agent.fetch_lists().await;
    }
}

/// This computer's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The operating system, as it calls itself.
pub(crate) fn os_name(os_release: &Path) -> String {
    let text = fs::read_to_string(os_release).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map_or_else(|| "Linux".into(), |value| value.trim_matches(['"', '\'']).to_owned())
}

/// Kills the agent, as `kill -9` does, where a grant comes to a point.
#[cfg(feature = "fault")]
pub(crate) struct KilledAt(pub(crate) gatepass_agent_core::fault::Point);

#[cfg(feature = "fault")]
impl Fault for KilledAt {
    fn reach(&self, point: gatepass_agent_core::fault::Point) {
        if point == self.0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
