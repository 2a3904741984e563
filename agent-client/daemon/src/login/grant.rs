//! From an approval to the right: the confirm code, single use, the audit trail, the journal, the act, in this order.

use std::sync::Arc;
use std::time::Duration;

use gatepass_agent_core::Wanted;
use gatepass_agent_core::fault::Step;
use gatepass_agent_core::grant::{Approval, Approver, Grant, Right};
use gatepass_client::{Incoming, edge};
use gatepass_logon::text::{self, Refusal};
use gatepass_logon::wire::FromDaemon;
use gatepass_protocol::Code;
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::{DeviceId, GrantId};
use gatepass_protocol::order::EndReason;
use gatepass_protocol::pairing::agent::{Approved, Open};
use gatepass_protocol::policy::Policy;
use sha2::{Digest, Sha256};

use super::phone::Consent;
use super::question::Asked;
use crate::agent::Agent;
use crate::clock::{now, time_of_day};
use crate::door::{Gone, Terminal};
use crate::relay::{Ear, Pairing};

/// Time to read three digits off a phone and type them.
const TYPING_TIME: Duration = Duration::from_secs(60);
/// Of a reason or a ticket goes into the trail at most this many bytes: with the longest command and the longest reason that fit
/// into their messages, an event would be larger than the control plane takes. The approval has the hash of the whole.
pub(super) const LONGEST_REASON: usize = 500;
/// How long the channel stays open after the result, for a phone that changes its mind at once.
const LINGER: Duration = Duration::from_secs(30);

/// Acts on an approval and tells both sides.
pub(crate) async fn act(
    agent: &Arc<Agent>,
    asked: &Asked,
    consent: Consent,
    terminal: &mut Terminal,
) -> Result<Result<(), Refusal>, Gone> {
    let Consent { approved, pairing, ear } = consent;
    if approved.needs_code() && !typed_code(&approved, terminal).await? {
        let event = granted_event(agent, asked, &approved, None);
        agent.report(Event { kind: EventKind::Refused, code: Some(Code::ConfirmCode), ..event });
        return Ok(Err(refuse(&pairing, *approved, Code::ConfirmCode, Refusal::WrongCode).await));
    }
    if let Err(code) = still_holds(agent, &approved) {
        let event = granted_event(agent, asked, &approved, None);
        agent.report(Event { kind: EventKind::Refused, code: Some(code), ..event });
        let reason = code.to_string();
        return Ok(Err(refuse(&pairing, *approved, code, Refusal::Because { reason }).await));
    }
    let wanted = wanted(agent, asked, &approved);
    let event = granted_event(agent, asked, &approved, Some(wanted.id));
    let grant = match begin(agent, wanted, event).await {
        Ok(grant) => grant,
        Err((code, refusal)) => return Ok(Err(refuse(&pairing, *approved, code, refusal).await)),
    };
    // A list that came while the account was made did not see this grant yet; one that comes from now on does.
    if still_holds(agent, &approved) == Err(Code::Revoked) {
        agent.end(grant.id, EndReason::Administrator).await;
        let reason = Code::Revoked.to_string();
        return Ok(Err(refuse(&pairing, *approved, Code::Revoked, Refusal::Because { reason }).await));
    }
    match approved.granted(grant.id, grant.right.shown_account().to_owned(), grant.deadline.wall) {
        Ok((open, m6)) => {
            // A phone that is away right now asks for its grants later.
            let _ = pairing.send(m6).await;
            tokio::spawn(linger(agent.clone(), grant.id, open, pairing, ear));
        }
        Err(failure) => tracing::warn!(%failure, "the result could not be sent"),
    }
    let told = tell(&grant, terminal).await;
    if told.is_err() && grant.step != Step::Active {
        // Nobody is there to use it. (One that was joined has its own sessions.)
        agent.end(grant.id, EndReason::Failed).await;
    }
    told.map(Ok)
}

/// The trail, single use, the journal, the act. The event says what is about to be granted.
pub(super) async fn begin(agent: &Arc<Agent>, wanted: Wanted, event: Event) -> Result<Grant, (Code, Refusal)> {
    // In the trail before it is done: what can't be accounted for is not granted.
    if let Err(error) = agent.audit.append(event.clone()) {
        let reason =
            format!("The audit trail can't be written ({error}), so nothing is granted. Free some space on the disk.");
        return Err((Code::Account, Refusal::Because { reason }));
    }
    match agent.with_grants(move |grants| grants.grant(&wanted, now())).await {
        Some(Ok(grant)) => Ok(grant),
        Some(Err(refused)) => {
            let code = match refused {
                gatepass_agent_core::Refused::Duplicate => Code::Duplicate,
                gatepass_agent_core::Refused::TooLate => Code::TimedOut,
                _ => Code::Account,
            };
            tracing::error!(%refused, "an approval could not be acted on");
            let reason = refused.to_string();
            agent.report(Event { kind: EventKind::Refused, code: Some(code), text: reason.clone(), ..event });
            Err((code, Refusal::Because { reason }))
        }
        None => Err((Code::Account, Refusal::Broken)),
    }
}

/// The lists may have changed while the code was typed.
fn still_holds(agent: &Agent, approved: &Approved) -> Result<(), Code> {
    approved.still_holds(&agent.trust.read(), now().wall)
}

/// One try.
async fn typed_code(approved: &Approved, terminal: &mut Terminal) -> Result<bool, Gone> {
    let typed = terminal.ask(text::CODE_PROMPT.to_owned(), true, TYPING_TIME).await?;
    Ok(typed.is_some_and(|typed| approved.code_is_right(typed.as_str())))
}

/// Tells the phone a code and gives back what the person at the computer is told.
async fn refuse(pairing: &Pairing, approved: Approved, code: Code, refusal: Refusal) -> Refusal {
    if let Some(reply) = approved.refuse(code).reply {
        let _ = pairing.send(reply).await;
    }
    refusal
}

fn wanted(agent: &Agent, asked: &Asked, approved: &Approved) -> Wanted {
    let (approval, device) = (approved.approval().body(), approved.device());
    let trust = agent.trust.read();
    let policy: Option<&Policy> = trust.policy().map(|policy| policy.terms());
    Wanted {
        id: GrantId::random(&mut edge::rng()),
        right: asked.right(approval.kind, &approval.account, &approval.groups, policy),
        approver: Approver {
            technician: approval.technician,
            name: device.terms().technician_name.clone(),
            device: DeviceId(device.statement().subject),
            certificate: device.statement().serial,
            chain: vec![device.bytes().clone()],
        },
        scenario: asked.scenario,
        approval: Approval(approval.h_final),
        evidence: Sha256::digest(approved.approval().bytes()).into(),
        until: approved.until(now().wall),
    }
}

/// A text, or as much of its beginning as fits.
pub(super) fn at_most(text: &str, bytes: usize) -> String {
    match text.floor_char_boundary(bytes) {
        all if all == text.len() => text.to_owned(),
        some => format!("{}...", &text[..some]),
    }
}

/// What there is to say, each with its word before it.
pub(super) fn said(parts: &[(&str, &str)]) -> String {
    let parts = parts.iter().filter(|(_, value)| !value.is_empty()).map(|(word, value)| format!("{word}{value}"));
    parts.collect::<Vec<_>>().join("; ")
}

fn granted_event(agent: &Agent, asked: &Asked, approved: &Approved, grant: Option<GrantId>) -> Event {
    let approval = approved.approval().body();
    Event {
        technician: Some(approval.technician),
        device: Some(approval.device),
        grant,
        scenario: Some(asked.scenario),
        account: approval.account.clone(),
        evidence: Sha256::digest(approved.approval().bytes()).to_vec(),
        text: said(&[
            ("in ", &approval.groups.join(", ")),
            ("for at most ", &format!("{} min", approval.max_session.div_ceil(60))),
            ("command: ", &asked.request.command),
            ("reason: ", &at_most(approved.reason(), LONGEST_REASON)),
            ("ticket: ", &at_most(approved.ticket(), LONGEST_REASON)),
        ]),
        ..agent.event(EventKind::Granted)
    }
}

/// Tells the module what it needs for the phases to come, and the person what they have.
pub(super) async fn tell(grant: &Grant, terminal: &mut Terminal) -> Result<(), Gone> {
    let until = time_of_day(grant.deadline.wall);
    terminal.tell(&FromDaemon::SetSession(*grant.id.as_bytes())).await?;
    match &grant.right {
        Right::Account { name, .. } => {
            terminal.tell(&FromDaemon::SetUser(name.clone())).await?;
            terminal.tell(&FromDaemon::Info(text::granted(name, &until))).await
        }
        Right::Elevation { .. } => terminal.tell(&FromDaemon::Info(text::elevated(&until))).await,
    }
}

/// Keeps the channel for a while after the result: until the phone has it and leaves, or ends the grant by it.
async fn linger(agent: Arc<Agent>, grant: GrantId, mut open: Open, pairing: Pairing, mut ear: Ear) {
    let listen = async {
        loop {
            match ear.recv().await {
                Some(Incoming::Forwarded { rid, bytes }) if rid == pairing.rid() => {
                    if open.receive(&bytes).is_ok()
                        && let Some(receipt) = agent.end(grant, EndReason::Technician).await
                        && let Ok(m7) = open.receipt(receipt.signed)
                    {
                        let _ = pairing.send(m7).await;
                    }
                    return;
                }
                Some(Incoming::Closed { rid, .. }) if rid == pairing.rid() => return,
                Some(_) => {}
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, listen).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_two_letters() {
        assert_eq!(at_most("to see the logs", LONGEST_REASON), "to see the logs");
        assert_eq!(at_most("\u{e9}\u{e9}\u{e9}", 3), "\u{e9}...");
    }
}
