//! A login, from the PAM module's first word to its verdict.
//!
//! ```text
//! question   what is asked, by whom, and what this technician may choose
//! phone      the QR codes and the pairing behind them: M1 to M5
//! screen     what the person at the computer sees meanwhile
//! queue      how many may wait
//! grant      confirm code, the act, M6
//! offline    a code in the place of all that, while the relay is away
//! ```

mod grant;
mod offline;
mod phone;
mod question;
mod queue;
mod screen;

use std::sync::Arc;
use std::time::Duration;

use gatepass_client::State;
use gatepass_logon::text::{self, Refusal};
use gatepass_logon::wire::{FromDaemon, Phase, Start, Verdict};
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::offline::OfflineTerms;

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
    let offline = offline::terms(agent, asked);
    let reached = reachable(agent).await;
    if let (Err(refusal), None) = (&reached, &offline) {
        return Ok(Err(refusal.clone()));
    }
    let Some(_place) = agent.waiting.enter(start) else { return Ok(Err(Refusal::TooMany)) };
    if reached.is_ok() && !wants_code(offline.as_ref(), terminal).await? {
        match screen::wait_for_phone(agent, asked, start, terminal).await? {
            Ok(consent) => return grant::act(agent, asked, consent, terminal).await,
            // It seemed to be there, and was not.
            Err(Refusal::Unreachable { .. }) if offline.is_some() => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    match offline {
        Some(terms) => offline::log_in(agent, asked, &terms, start, terminal).await,
        None => Ok(Err(unreachable(agent))),
    }
}

/// Whether somebody would rather type a code, where that may be done while the relay is there.
async fn wants_code(terms: Option<&OfflineTerms>, terminal: &mut Terminal) -> Result<bool, Gone> {
    if !terms.is_some_and(|terms| terms.while_online) {
        return Ok(false);
    }
    let answer = terminal.ask(text::WHICH_WAY.to_owned(), true, READING_TIME).await?;
    Ok(answer.is_some_and(|answer| answer.as_str().trim().eq_ignore_ascii_case("o")))
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
        Refusal::Unreachable { .. } | Refusal::TooLongOffline { .. } | Refusal::NotEnrolled | Refusal::TooMany => {
            Verdict::Unavailable
        }
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
