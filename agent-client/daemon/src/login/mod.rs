//! A login, from the PAM module's first word to its verdict.
//!
//! ```text
//! question   what is asked, by whom, and what this technician may choose
//! phone      the QR codes and the pairing behind them: M1 to M5
//! screen     what the person at the computer sees meanwhile
//! queue      how many may wait
//! grant      confirm code, the act, M6
//! ```

mod grant;
mod phone;
mod question;
mod queue;
mod screen;

use std::sync::Arc;
use std::time::Duration;

use gatepass_client::State;
use gatepass_logon::text::Refusal;
use gatepass_logon::wire::{FromDaemon, Phase, Start, Verdict};
use gatepass_protocol::event::{Event, EventKind};

use crate::agent::Agent;
use crate::door::{Gone, Terminal};
use crate::sessions;
use question::Asked;

pub(crate) use question::may_be_ours;
pub(crate) use queue::Queue;

/// How long a login may wait for a connection that is just coming back.
const RELAY_PATIENCE: Duration = Duration::from_secs(3);
/// Somebody who reads why there is no way in is given this long.
const READING_TIME: Duration = Duration::from_secs(20);

/// Has one conversation.
pub(crate) async fn converse(agent: Arc<Agent>, start: Start, mut terminal: Terminal) {
    let verdict = match start.phase {
        Phase::Authenticate => authenticate(&agent, &start, &mut terminal).await,
        Phase::Account => Ok(sessions::account(&agent, &start).await),
        Phase::OpenSession => open_session(&agent, &start, &mut terminal).await,
        Phase::CloseSession => {
            sessions::close(&agent, &start, terminal.pid).await;
            Ok(Verdict::Success)
        }
    };
    tracing::debug!(phase = ?start.phase, service = start.service, ?verdict, "a conversation ended");
    if let Ok(verdict) = verdict {
        // A module that is gone has its own verdict.
        let _ = terminal.tell(&FromDaemon::Done(verdict)).await;
    }
}

/// Answers when this computer is not enrolled yet.
pub(crate) async fn not_enrolled(start: Start, mut terminal: Terminal) {
    let verdict = match start.phase {
        Phase::Authenticate => {
            refuse(&start, &mut terminal, &Refusal::NotEnrolled).await.map(|()| Verdict::Unavailable)
        }
        _ => Ok(Verdict::Ignore),
    };
    if let Ok(verdict) = verdict {
        let _ = terminal.tell(&FromDaemon::Done(verdict)).await;
    }
}

async fn authenticate(agent: &Arc<Agent>, start: &Start, terminal: &mut Terminal) -> Result<Verdict, Gone> {
    let asked = match Asked::of(&agent.config, start, terminal.pid) {
        Ok(Some(asked)) => asked,
        Ok(None) => return Ok(Verdict::Ignore),
        Err(refusal) => return refused(agent, None, start, terminal, &refusal).await,
    };
    match approved(agent, &asked, start, terminal).await? {
        Ok(()) => Ok(Verdict::Success),
        Err(refusal) => refused(agent, Some(&asked), start, terminal, &refusal).await,
    }
}

async fn approved(
    agent: &Arc<Agent>,
    asked: &Asked,
    start: &Start,
    terminal: &mut Terminal,
) -> Result<Result<(), Refusal>, Gone> {
    if let Err(refusal) = reachable(agent).await {
        return Ok(Err(refusal));
    }
    let Some(_place) = agent.waiting.enter(start) else { return Ok(Err(Refusal::TooMany)) };
    match screen::wait_for_phone(agent, asked, start, terminal).await? {
        Ok(consent) => grant::act(agent, asked, consent, terminal).await,
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Whether a phone could reach this computer now.
async fn reachable(agent: &Arc<Agent>) -> Result<(), Refusal> {
    let sender = agent.relay.sender().ok_or_else(|| unreachable(agent))?;
    let mut state = sender.state();
    let online = state.wait_for(|state| matches!(state, State::Online { .. }));
    match tokio::time::timeout(RELAY_PATIENCE, online).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(unreachable(agent)),
    }
}

fn unreachable(agent: &Agent) -> Refusal {
    let relays = agent.relay_endpoints();
    Refusal::Unreachable {
        relay: relays.first().map_or_else(|| "of this tenant (none is known)".to_owned(), ToString::to_string),
    }
}

/// Says why there is no way in, and writes it down.
async fn refused(
    agent: &Arc<Agent>,
    asked: Option<&Asked>,
    start: &Start,
    terminal: &mut Terminal,
    refusal: &Refusal,
) -> Result<Verdict, Gone> {
    tracing::info!(service = start.service, "a login was refused");
    tracing::debug!("it was refused with: {refusal}");
    // What the phone said is in the trail already, with who said it.
    if !matches!(refusal, Refusal::Denied | Refusal::NotMe) && agent.waiting.is_worth_a_line() {
        agent.report(Event {
            scenario: asked.map(|asked| asked.scenario),
            account: start.user.clone(),
            text: refusal.to_string(),
            ..agent.event(EventKind::Refused)
        });
    }
    refuse(start, terminal, refusal).await?;
    Ok(match refusal {
        // Where a password would do as well, it still does.
        Refusal::Unreachable { .. } | Refusal::NotEnrolled | Refusal::TooMany => Verdict::Unavailable,
        _ => Verdict::Denied,
    })
}

/// Shows a refusal where the person sees it: ssh shows nothing but prompts.
async fn refuse(start: &Start, terminal: &mut Terminal, refusal: &Refusal) -> Result<(), Gone> {
    match start.live {
        true => terminal.tell(&FromDaemon::Error(refusal.to_string())).await,
        false => terminal.ask(format!("\n{refusal}\nPress Enter to go on. "), true, READING_TIME).await.map(|_| ()),
    }
}

async fn open_session(agent: &Arc<Agent>, start: &Start, terminal: &mut Terminal) -> Result<Verdict, Gone> {
    match sessions::open(agent, start, terminal.pid).await {
        Ok(Some(grant)) => {
            terminal.tell(&FromDaemon::SetSession(*grant.as_bytes())).await?;
            terminal.tell(&FromDaemon::SetEnv("GATEPASS_GRANT".into(), grant.to_string())).await?;
            Ok(Verdict::Success)
        }
        Ok(None) => Ok(Verdict::Ignore),
        Err(error) => {
            tracing::warn!(%error, "a session was not opened");
            terminal.tell(&FromDaemon::Error(format!("Gatepass: {error}."))).await?;
            Ok(Verdict::Expired)
        }
    }
}
