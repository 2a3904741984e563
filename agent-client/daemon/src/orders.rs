//! What a technician's phone says to this computer when no pairing is open: "what do I have here", "end that"; and the
//! reports that answer. Both sealed, both signed; an order works once, and only on the technician's own grants.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use gatepass_client::edge;
use gatepass_protocol::Code;
use gatepass_protocol::channel::Channel;
use gatepass_protocol::ids::{DeviceId, Serial, TechnicianId};
use gatepass_protocol::keys::PublicKey;
use gatepass_protocol::order::{EndReason, GrantView, Letter, ORDER_WINDOW, Order, Report};
use gatepass_protocol::pairing::padding;
use gatepass_protocol::sealed;
use gatepass_protocol::signed::{Signed, Unverified};
use gatepass_protocol::statement::{DeviceTerms, KeyUse};
use gatepass_protocol::trust::Certified;

use crate::agent::Agent;
use crate::clock::now;

use std::sync::Arc;

/// Orders that were taken lately: each works once.
#[derive(Default)]
pub(crate) struct Seen(Mutex<HashMap<[u8; 16], u64>>);

/// Why an order is not obeyed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it can't be opened or read")]
    Unreadable,
    #[error("its sender: {0}")]
    Sender(#[from] Code),
    #[error("it is for another computer, too old, or from a wrong clock")]
    NotNow,
    #[error("it was obeyed before")]
    Repeated,
}

impl Seen {
    /// True the first time.
    fn first(&self, nonce: [u8; 16], at: u64) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Twice the window: an order may come from a clock that is ahead by one.
        seen.retain(|_, taken| *taken + 2 * ORDER_WINDOW >= at);
        seen.insert(nonce, at).is_none()
    }
}

/// Takes one message from the computer's channel.
pub(crate) async fn take(agent: &Arc<Agent>, bytes: &[u8]) {
    match read(agent, bytes) {
        Ok((device, chain, order)) => obey(agent, &device, &chain, &order).await,
        Err(refused) => tracing::warn!(%refused, "an order was refused"),
    }
}

fn read(agent: &Agent, bytes: &[u8]) -> Result<(Certified<DeviceTerms>, Vec<Bytes>, Order), Refused> {
    let opened = sealed::open(&agent.identity.channel, bytes).map_err(|_| Refused::Unreadable)?;
    let letter = Letter::decode(&opened).map_err(|_| Refused::Unreadable)?;
    let at = now().wall;
    let device = agent.trust.read().device(&letter.chain, at)?;
    let key = device.statement().key(KeyUse::Sign).ok_or(Code::Certificate)?;
    let order = Unverified::<Order>::decode(letter.signed).map_err(|_| Refused::Unreadable)?;
    let order = order.verify(&key).map_err(|_| Code::Certificate)?.into_body();
    if order.computer != agent.computer || order.time.abs_diff(at) > ORDER_WINDOW {
        return Err(Refused::NotNow);
    }
    if !agent.orders.first(order.nonce, at) {
        return Err(Refused::Repeated);
    }
    Ok((device, letter.chain, order))
}

async fn obey(agent: &Arc<Agent>, device: &Certified<DeviceTerms>, chain: &[Bytes], order: &Order) {
    let technician = device.terms().technician;
    if let Some(id) = order.end {
        let own = move |grants: &mut gatepass_agent_core::Grants| {
            grants.get(&id).is_some_and(|grant| grant.approver.technician == technician)
        };
        match agent.with_grants(own).await {
            Some(true) => {
                agent.end(id, EndReason::Technician).await;
            }
            // Ended already, or somebody else's: the report says what there is.
            _ => tracing::info!(grant = %id, "an order to end a grant that is not open, or not the technician's"),
        }
    }
    report_to(agent, chain, Some(Serial(order.nonce))).await;
}

/// Tells a device what its technician has here and had lately.
pub(crate) async fn report_to(agent: &Arc<Agent>, chain: &[Bytes], answers: Option<Serial>) {
    let at = now().wall;
    let device = match agent.trust.read().device(chain, at) {
        Ok(device) => device,
        Err(code) => return tracing::info!(%code, "no report to a device that is no longer valid"),
    };
    let id = DeviceId(device.statement().subject);
    let Some(PublicKey::X25519(reader)) = device.statement().key(KeyUse::Channel) else { return };
    let Some((grants, receipts)) = mine(agent, device.terms().technician).await else { return };
    let Some(letter) = fitting(agent, Report { device: id, answers, time: at, grants, receipts }) else { return };
    let Ok(sealed) = sealed::seal(&reader, &letter, &mut edge::rng()) else { return };
    let Some(sender) = agent.relay.sender() else { return };
    // A phone that is not there now asks when it is back.
    if let Err(error) = sender.publish(Channel::Device(id), sealed).await {
        tracing::debug!(%error, "a report was not delivered");
    }
}

/// A technician's live grants and newest receipts.
async fn mine(agent: &Arc<Agent>, technician: TechnicianId) -> Option<(Vec<GrantView>, Vec<Bytes>)> {
    agent
        .with_grants(move |grants| {
            let live = grants.open_grants().filter(|grant| grant.approver.technician == technician);
            let live = live.filter(|grant| grant.is_live()).map(|grant| grant.view()).collect();
            let closed: Vec<Bytes> = grants
                .receipts()
                .filter(|receipt| receipt.of.approver.technician == technician)
                .map(|receipt| receipt.signed.clone())
                .collect();
            (live, closed.into_iter().rev().collect())
        })
        .await
}

/// The signed report with as many receipts, newest first, as fit into one message.
fn fitting(agent: &Agent, mut report: Report) -> Option<Vec<u8>> {
    loop {
        let signed = Signed::sign(report.clone(), &agent.identity.sign).ok()?;
        let letter = Letter { chain: agent.identity.chain.clone(), signed: signed.bytes().clone() }.encode();
        if letter.len() <= padding::MAX_BODY {
            return Some(letter);
        }
        if report.receipts.pop().is_none() && report.grants.pop().is_none() {
            return None;
        }
    }
}
