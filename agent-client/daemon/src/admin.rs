//! The socket of root at this computer: `status`, `end`, `accept-clock`. One JSON line each way.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use gatepass_client::State;
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::order::EndReason;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::agent::Agent;
use crate::clock::{now, time_of_day};
use crate::config::Config;
use crate::door;

/// Ending kills sessions and may take seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest question.
const LONGEST: u64 = 1024;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Status,
    End(String),
    AcceptClock,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Status(Box<Status>),
    Done,
    Refused(String),
}

/// How the agent does.
#[derive(Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) tenant: String,
    pub(crate) computer: String,
    pub(crate) host: String,
    /// Unix seconds.
    pub(crate) started: u64,
    pub(crate) accounts: String,
    pub(crate) relay: String,
    pub(crate) relay_online: bool,
    /// The relay's clock minus ours, in seconds, while connected.
    pub(crate) relay_clock: Option<i64>,
    pub(crate) policy_epoch: u64,
    pub(crate) revocation_epoch: u64,
    pub(crate) events_waiting: u64,
    /// How offline codes stand.
    pub(crate) offline_codes: String,
    /// What is wrong with the clock, if anything.
    pub(crate) clock: Option<String>,
    pub(crate) grants: Vec<GrantStatus>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct GrantStatus {
    pub(crate) grant: String,
    pub(crate) technician: String,
    pub(crate) account: String,
    pub(crate) groups: Vec<String>,
    pub(crate) scenario: String,
    pub(crate) step: String,
    pub(crate) since: u64,
    pub(crate) until: u64,
    pub(crate) sessions: usize,
}

/// Answers root, for as long as the daemon runs.
pub(crate) async fn serve(listener: UnixListener, agent: Arc<Agent>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if door::trusted_peer(&stream).is_some() => {
                tokio::spawn(tokio::time::timeout(PATIENCE, converse(stream, agent.clone())));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the admin socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, agent: Arc<Agent>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(Question::Status) => Answer::Status(Box::new(status_of(&agent).await)),
        Ok(Question::End(grant)) => end_here(&agent, &grant).await,
        Ok(Question::AcceptClock) => match agent.with_grants(|grants| grants.accept_clock(now())).await {
            Some(Ok(())) => Answer::Done,
            Some(Err(error)) => Answer::Refused(error.to_string()),
            None => Answer::Refused("the agent is stopping".into()),
        },
        Err(error) => Answer::Refused(format!("not understood: {error}")),
    };
    let mut json = serde_json::to_vec(&answer)?;
    json.push(b'\n');
    write.write_all(&json).await
}

async fn end_here(agent: &Arc<Agent>, begins: &str) -> Answer {
    let open =
        |grants: &mut gatepass_agent_core::Grants| grants.open_grants().map(|grant| grant.id).collect::<Vec<GrantId>>();
    let open = agent.with_grants(open).await.unwrap_or_default();
    match crate::grant_of(&open, begins) {
        Ok(id) => match agent.end(id, EndReason::Local).await {
            Some(_) => Answer::Done,
            None => Answer::Refused(
                "it could not be ended whole yet and is tried again every second; the log says why".into(),
            ),
        },
        Err(error) => Answer::Refused(error.to_string()),
    }
}

async fn status_of(agent: &Arc<Agent>) -> Status {
    let look = |grants: &mut gatepass_agent_core::Grants| {
        let clock = grants.check_clock(now()).err().map(|error| error.to_string());
        let grants = grants.open_grants().map(|grant| GrantStatus {
            grant: grant.id.to_string(),
            technician: grant.approver.name.clone(),
            account: grant.right.shown_account().into(),
            groups: grant.right.groups().to_vec(),
            scenario: grant.scenario.name().into(),
            step: grant.step.to_string(),
            since: grant.granted_at,
            until: grant.deadline.wall,
            sessions: grant.sessions.len(),
        });
        (clock, grants.collect())
    };
    let (clock, grants) = agent.with_grants(look).await.unwrap_or_default();
    let (relay, relay_online, relay_clock) = match agent.relay.state() {
        Some(State::Online { relay, skew, .. }) => (relay, true, Some(skew)),
        Some(State::Waiting { why, .. }) => (why.to_string(), false, None),
        Some(State::Connecting { .. }) => ("connecting".into(), false, None),
        Some(State::Stopped) | None => ("no relay is known".into(), false, None),
    };
    let trust = agent.trust.read();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        tenant: agent.tenant.to_string(),
        computer: agent.computer.to_string(),
        host: agent.machine.host.clone(),
        started: agent.started,
        accounts: agent.accounts.name().into(),
        relay,
        relay_online,
        relay_clock,
        policy_epoch: trust.policy_epoch(),
        revocation_epoch: trust.revocation_epoch(),
        events_waiting: agent.audit.waiting(),
        offline_codes: agent.offline.summary(trust.policy().and_then(|policy| policy.offline()).as_ref()),
        clock,
        grants,
    }
}

async fn ask(config: &Config, question: &Question) -> anyhow::Result<Answer> {
    let socket = &config.admin_socket;
    let not_there = || format!("the agent does not answer at {}: is it running, and are you root?", socket.display());
    let mut stream = UnixStream::connect(socket).await.with_context(not_there)?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line).await.with_context(not_there)?;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.with_context(not_there)??;
    serde_json::from_slice(&answer).with_context(not_there)
}

/// The running agent's status.
pub(crate) async fn look(config: &Config) -> anyhow::Result<Status> {
    match ask(config, &Question::Status).await? {
        Answer::Status(status) => Ok(*status),
        Answer::Refused(why) => bail!(why),
        Answer::Done => bail!("the agent gave an answer of another version"),
    }
}

/// `gatepass-agent status`
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) async fn status(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let status = look(config).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{status}");
    }
    Ok(ExitCode::SUCCESS)
}

impl std::fmt::Display for Status {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let online = if self.relay_online { "connected to " } else { "not connected: " };
        writeln!(out, "computer   {} ({})", self.host, self.computer)?;
        writeln!(out, "tenant     {}", self.tenant)?;
        writeln!(out, "agent      {}, running since {}", self.version, time_of_day(self.started))?;
        writeln!(out, "relay      {online}{}", self.relay)?;
        writeln!(out, "accounts   {}", self.accounts)?;
        writeln!(out, "policy     epoch {}, revocation list {}", self.policy_epoch, self.revocation_epoch)?;
        writeln!(out, "audit      {} events wait to be sent", self.events_waiting)?;
        writeln!(out, "offline    {}", self.offline_codes)?;
        if let Some(clock) = &self.clock {
            writeln!(out, "clock      {clock}")?;
        }
        if self.grants.is_empty() {
            return writeln!(out, "grants     none");
        }
        for grant in &self.grants {
            let groups =
                if grant.groups.is_empty() { String::new() } else { format!(" in {}", grant.groups.join(", ")) };
            writeln!(
                out,
                "grant      {}  {} of {}{groups}, {}, {} sessions, until {}",
                &grant.grant[..8],
                grant.account,
                grant.technician,
                grant.step,
                grant.sessions,
                time_of_day(grant.until)
            )?;
        }
        Ok(())
    }
}

/// `gatepass-agent end GRANT`
pub(crate) async fn end(config: &Config, grant: &str) -> anyhow::Result<ExitCode> {
    done(ask(config, &Question::End(grant.into())).await?, "Ended.")
}

/// `gatepass-agent accept-clock`
pub(crate) async fn accept_clock(config: &Config) -> anyhow::Result<ExitCode> {
    done(ask(config, &Question::AcceptClock).await?, "The clock counts as right from now on.")
}

#[expect(clippy::print_stdout, reason = "this is what the commands are for")]
fn done(answer: Answer, said: &str) -> anyhow::Result<ExitCode> {
    match answer {
        Answer::Done => {
            println!("{said}");
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(why) => bail!(why),
        Answer::Status(_) => bail!("the agent gave an answer of another version"),
    }
}
