//! The phone's side of a login: QR codes that come and go, and the one pairing that leads to an approval.
//!
//! A code is shown for 45 s and good for 15 s more, so that the one which was just scanned is not pulled away. The first
//! phone that claims a code with the right tag has it; a wrong tag, a broken handshake or a lost connection before the
//! phone has shown its certificate costs that code only, and the next one is shown. After that there is one outcome.

use std::sync::Arc;
use std::time::Duration;

use gatepass_client::{Incoming, RequestError, edge};
use gatepass_logon::text::Refusal;
use gatepass_protocol::Code;
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::Rid;
use gatepass_protocol::pairing::Failure;
use gatepass_protocol::pairing::agent::{Approved, AwaitDecision, Claimed, Identified, Offer, Verdict};
use gatepass_protocol::qr::{GRACE, SHOWN_FOR};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::question::Asked;
use crate::agent::Agent;
use crate::clock::now;
use crate::relay::{Ear, Pairing, Relay};

/// How long somebody may stand at the computer until a phone has approved.
const PATIENCE: Duration = Duration::from_secs(300);
/// From the opening of a pairing to its end at the relay.
const PAIRING_LIFE: Duration = Duration::from_secs(90);
/// Between two tries to open a pairing at a relay that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// After so many the login is given up.
const RETRIES: u32 = 10;

/// A phone's approval, and the channel it came by.
pub(crate) struct Consent {
    pub(crate) approved: Box<Approved>,
    pub(crate) pairing: Pairing,
    pub(crate) ear: Ear,
}

/// What the screen should show.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    /// The code.
    pub(crate) code: String,
    /// When it is no longer good.
    pub(crate) until: Option<Instant>,
}

/// Between the screen and the phone.
pub(crate) struct Codes {
    /// The newest code.
    pub(crate) newest: watch::Sender<Shown>,
    /// The screen wants a fresh one; else (a screen that shows codes as they come) they change by themselves.
    pub(crate) wanted: Option<Arc<Notify>>,
}

/// A code that may be claimed.
struct Offered {
    offer: Offer,
    pairing: Pairing,
    opened: Instant,
}

/// How a pairing ended without an approval.
enum Failed {
    /// Before anybody had shown a certificate: the next code is shown.
    Code,
    /// For this login.
    Login(Refusal),
}

/// Waits until a phone has approved, or until it is sure that none will.
pub(crate) async fn approval(agent: &Arc<Agent>, asked: &Arc<Asked>, codes: Codes) -> Result<Consent, Refusal> {
    let (sender, mut ear) = Relay::ear();
    let give_up = Instant::now() + PATIENCE;
    let mut offered: Vec<Offered> = Vec::new();
    let mut renew = Instant::now();
    let mut failed = 0;
    loop {
        if Instant::now() >= renew {
            renew = match offer(agent, &sender).await {
                Ok(fresh) => {
                    failed = 0;
                    let until = Some(fresh.opened + Duration::from_secs(SHOWN_FOR + GRACE));
                    codes.newest.send_replace(Shown { code: fresh.offer.text(), until });
                    offered.push(fresh);
                    // A screen that asks for codes gets the next one when it asks.
                    Instant::now() + codes.wanted.as_ref().map_or(Duration::from_secs(SHOWN_FOR), |_| PATIENCE)
                }
                // Somebody stands before an empty screen, or one with a code that nobody can use any more.
                Err(RequestError::Refused { code, .. }) if offered.is_empty() => {
                    return Err(Refusal::Because { reason: code.to_string() });
                }
                Err(error) if offered.is_empty() && failed == RETRIES => {
                    tracing::warn!(%error, "no pairing could be opened");
                    return Err(super::unreachable(agent));
                }
                Err(_) => {
                    failed += 1;
                    Instant::now() + RETRY
                }
            };
        }
        tokio::select! {
            () = sleep_until(renew.min(give_up)) => {
                if Instant::now() >= give_up {
                    return Err(Refusal::Expired);
                }
            }
            () = wanted(&codes) => renew = Instant::now(),
            incoming = ear.recv() => {
                let Some(incoming) = incoming else { return Err(Refusal::Broken) };
                let Some(claim) = taken(&mut offered, incoming) else { continue };
                match talk(agent, asked, claim, &mut ear).await {
                    Ok((approved, pairing)) => return Ok(Consent { approved, pairing, ear }),
                    Err(Failed::Login(refusal)) => return Err(refusal),
                    Err(Failed::Code) => renew = Instant::now(),
                }
            }
        }
        offered.retain(|offered| Instant::now() < offered.opened + Duration::from_secs(SHOWN_FOR + GRACE));
    }
}

async fn wanted(codes: &Codes) {
    match &codes.wanted {
        Some(wanted) => wanted.notified().await,
        None => std::future::pending().await,
    }
}

async fn offer(agent: &Arc<Agent>, ear: &mpsc::Sender<Incoming>) -> Result<Offered, RequestError> {
    let place = agent.relay.place(&agent.trust.read()).ok_or(RequestError::Offline)?;
    let offer = Offer::new(place.index, agent.tenant, now().wall, &mut edge::rng());
    let pairing = agent.relay.open(offer.rid(), ear).await?;
    // Perhaps it was opened at another relay than the code says, for the agent has just fled from one to the next.
    if agent.relay.place(&agent.trust.read()) != Some(place) {
        return Err(RequestError::Cut);
    }
    Ok(Offered { offer, pairing, opened: Instant::now() })
}

/// What became of an offered code.
enum Claim {
    Good(Box<Claimed>, Pairing, Instant),
    /// Lost: somebody without the code claimed it, or the relay has it no more.
    Bad,
}

fn taken(offered: &mut Vec<Offered>, incoming: Incoming) -> Option<Claim> {
    let rid = match &incoming {
        Incoming::Claimed { rid, .. } | Incoming::Closed { rid, .. } => *rid,
        _ => return None,
    };
    let at = offered.iter().position(|offered| offered.pairing.rid() == rid)?;
    let Offered { offer, pairing, opened } = offered.remove(at);
    match incoming {
        Incoming::Claimed { nonce, tag, .. } => Some(match offer.claim(&nonce, &tag, now().wall) {
            Ok(claimed) => Claim::Good(Box::new(claimed), pairing, opened),
            Err(_) => {
                tracing::warn!(%rid, "a code was claimed by somebody who never saw it, or too late");
                Claim::Bad
            }
        }),
        _ => Some(Claim::Bad),
    }
}

/// M1 to M5 with one phone.
async fn talk(
    agent: &Arc<Agent>,
    asked: &Arc<Asked>,
    claim: Claim,
    ear: &mut Ear,
) -> Result<(Box<Approved>, Pairing), Failed> {
    let Claim::Good(claimed, pairing, opened) = claim else { return Err(Failed::Code) };
    let deadline = opened + PAIRING_LIFE;
    let m1 = message(ear, pairing.rid(), deadline).await.ok_or(Failed::Code)?;
    let (await_device, m2) = claimed.receive(&m1, &agent.identity, &mut edge::rng()).map_err(|_| Failed::Code)?;
    send(&pairing, m2).await?;

    let m3 = message(ear, pairing.rid(), deadline).await.ok_or(Failed::Code)?;
    let identified = {
        let trust = agent.trust.read();
        await_device.receive(&m3, &trust, now().wall)
    };
    let identified = match identified {
        Ok(identified) => identified,
        // Nobody with a certificate: as before.
        Err(Failure { code: None, .. }) => return Err(Failed::Code),
        Err(failure) => return Err(told(&pairing, failure).await),
    };
    let await_decision = ask(agent, asked, identified, &pairing).await?;

    let Some(m5) = message(ear, pairing.rid(), deadline).await else {
        return Err(Failed::Login(if Instant::now() >= deadline { Refusal::Expired } else { Refusal::Broken }));
    };
    let verdict = {
        let trust = agent.trust.read();
        await_decision.1.receive(&m5, &agent.identity, &trust, now().wall)
    };
    match verdict {
        Ok(Verdict::Approved(approved)) => Ok((approved, pairing)),
        Ok(Verdict::Denied { not_me }) => {
            let kind = if not_me { EventKind::NotMe } else { EventKind::Denied };
            agent.report(Event { kind, ..await_decision.0 });
            Err(Failed::Login(if not_me { Refusal::NotMe } else { Refusal::Denied }))
        }
        Err(failure) => Err(told(&pairing, failure).await),
    }
}

/// M4, after making sure that this computer knows what the phone knows.
async fn ask(
    agent: &Arc<Agent>,
    asked: &Arc<Asked>,
    identified: Identified,
    pairing: &Pairing,
) -> Result<(Event, AwaitDecision), Failed> {
    if identified.revocation_epoch() > agent.trust.read().revocation_epoch() {
        agent.fetch_lists().await;
    }
    // The phone's own certificate may be on the list that was just fetched.
    let (behind, revoked) = {
        let trust = agent.trust.read();
        let device = identified.device();
        let ids = [device.statement().serial.0, device.statement().subject, device.terms().technician.0];
        (identified.revocation_epoch() > trust.revocation_epoch(), ids.iter().any(|id| trust.is_revoked(id)))
    };
    if behind || revoked {
        let code = if revoked { Code::Revoked } else { Code::StaleEpoch };
        return Err(told(pairing, identified.refuse(code)).await);
    }
    let event = Event {
        technician: Some(identified.device().terms().technician),
        device: Some(identified.device().statement().serial),
        scenario: Some(asked.scenario),
        account: asked.request.target.clone(),
        text: format!("{} asks for {} {}", asked.request.user, asked.request.target, asked.request.command)
            .trim_end()
            .to_owned(),
        ..agent.event(EventKind::Asked)
    };
    agent.report(event.clone());
    // Looks up accounts and groups on the disk.
    let (for_context, device) = ((agent.clone(), asked.clone()), identified.device().clone());
    let context = move || for_context.1.context(&for_context.0, &device, now().wall);
    let context = match tokio::task::spawn_blocking(context).await {
        Ok(Ok(context)) => context,
        Ok(Err((code, reason))) => {
            told(pairing, identified.refuse(code)).await;
            return Err(Failed::Login(Refusal::Because { reason }));
        }
        Err(_) => return Err(Failed::Login(Refusal::Broken)),
    };
    match identified.ask(context) {
        Ok((await_decision, m4)) => {
            send(pairing, m4).await?;
            Ok((event, await_decision))
        }
        Err(failure) => Err(told(pairing, failure).await),
    }
}

/// Tells the phone what it may know of a failure; the person at the computer is told the same.
async fn told(pairing: &Pairing, failure: Failure) -> Failed {
    let reason = failure.message();
    if let Some(reply) = failure.reply {
        // Who does not hear it sees the pairing close.
        let _ = pairing.send(reply).await;
    }
    Failed::Login(match failure.code {
        Some(Code::TimedOut) => Refusal::Expired,
        _ => Refusal::Because { reason },
    })
}

async fn send(pairing: &Pairing, message: Vec<u8>) -> Result<(), Failed> {
    pairing.send(message).await.map_err(|_| Failed::Login(Refusal::Broken))
}

/// The next message of this pairing; `None` when it is closed or its time is over.
async fn message(ear: &mut Ear, rid: Rid, deadline: Instant) -> Option<bytes::Bytes> {
    loop {
        match timeout_at(deadline, ear.recv()).await.ok()?? {
            Incoming::Forwarded { rid: of, bytes } if of == rid => return Some(bytes),
            Incoming::Closed { rid: of, .. } if of == rid => return None,
            // Of another code of this login, which nobody will go on with.
            _ => {}
        }
    }
}
