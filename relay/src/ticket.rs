//! Tickets: a client that was here comes back for the price of a MAC instead of signatures.
//!
//! ```text
//! relay  -> client   TICKET(ticket, secret)          after WELCOME, and anew while the connection lasts
//! client -> relay    RETURN(ticket, relay, mac)      on its next connection, in place of AUTH
//!
//! key    = HMAC(the region's secret, "gp1 ticket key" period)
//! ticket = body || HMAC(key, "gp1 ticket" body)       body: who, and what its right to be here hangs on
//! secret = HMAC(key, "gp1 ticket secret" body)
//! mac    = HMAC(secret, "gp1 return" nonce relay)
//! ```
//!
//! Like AUTH, a RETURN is good for one challenge and names the relay that was dialled, so who sees one can't use it, here or
//! elsewhere. The ticket alone is worth nothing: whoever has it needs the secret, which only the client was told and which the
//! relays of a region can make again. They keep nothing. Keys change every hour; what a ticket says is held against the
//! revocation list of now, so a revoked client does not come back by it.

use gatepass_protocol::{
    ids::{ComputerId, DeviceId, Serial, TenantId},
    wire,
};
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{Standing, host},
    peer::{Identity, Principal},
};

/// Seconds for which one key makes tickets.
const PERIOD: u64 = 3_600;
/// Periods for which a ticket is good after its own. A connection gets a new ticket in each.
const GOOD_FOR: u64 = 1;
/// Bytes of a MAC.
const MAC: usize = 32;

/// Makes and takes tickets.
pub(crate) struct Tickets(Key);

/// What a client is given.
pub(crate) struct Issued {
    pub(crate) ticket: Vec<u8>,
    pub(crate) secret: [u8; MAC],
    /// The period it was made in; in the next, another is due.
    pub(crate) period: u64,
}

/// What is in a ticket.
#[derive(Serialize, Deserialize)]
struct Body(u64, TenantId, u8, [u8; 16], Serial, Standing);

const AGENT: u8 = 1;
const DEVICE: u8 = 2;

/// The period that a time is in.
pub(crate) fn period(now: u64) -> u64 {
    now / PERIOD
}

fn mac(key: &Key, label: &str, pieces: &[&[u8]]) -> [u8; MAC] {
    let mut bytes = [0; MAC];
    bytes.copy_from_slice(sign(key, &labelled(label, pieces)).as_ref());
    bytes
}

fn labelled(label: &str, pieces: &[&[u8]]) -> Vec<u8> {
    [label.as_bytes(), &pieces.concat()].concat()
}

impl Tickets {
    /// With a region's secret.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self(Key::new(HMAC_SHA256, secret))
    }

    fn key(&self, period: u64) -> Key {
        Key::new(HMAC_SHA256, &mac(&self.0, "gp1 ticket key", &[&period.to_be_bytes()]))
    }

    /// A ticket for whoever authenticated.
    pub(crate) fn issue(&self, identity: &Identity, now: u64) -> Issued {
        let (kind, id) = match identity.principal {
            Principal::Agent(ComputerId(id)) => (AGENT, id),
            Principal::Device(DeviceId(id)) => (DEVICE, id),
        };
        let period = period(now);
        let body = Body(period, identity.tenant, kind, id, identity.certificate, identity.standing.clone());
        let body = wire::to_vec(&body);
        let key = self.key(period);
        let secret = mac(&key, "gp1 ticket secret", &[&body]);
        let ticket = [&body[..], &mac(&key, "gp1 ticket", &[&body])].concat();
        Issued { ticket, secret, period }
    }

    /// Who comes back; `None` if the ticket is not one of ours, or too old, or answers another challenge or relay than this.
    /// The certificate it stands for may have been revoked since.
    pub(crate) fn take(
        &self,
        ticket: &[u8],
        relay: &str,
        answer: &[u8; MAC],
        nonce: &[u8; 32],
        names: &[String],
        now: u64,
    ) -> Option<Identity> {
        let (body, tag) = ticket.split_last_chunk::<MAC>()?;
        let Body(made, tenant, kind, id, certificate, standing) = wire::from_slice(body).ok()?;
        let age = period(now).checked_sub(made)?;
        if age > GOOD_FOR || !names.iter().any(|name| name.eq_ignore_ascii_case(host(relay))) {
            return None;
        }
        let key = self.key(made);
        verify(&key, &labelled("gp1 ticket", &[body]), tag).ok()?;
        let secret = Key::new(HMAC_SHA256, &mac(&key, "gp1 ticket secret", &[body]));
        verify(&secret, &labelled("gp1 return", &[nonce, relay.as_bytes()]), answer).ok()?;
        let principal = match kind {
            AGENT => Principal::Agent(ComputerId(id)),
            DEVICE => Principal::Device(DeviceId(id)),
            _ => return None,
        };
        Some(Identity { tenant, principal, certificate, standing })
    }
}

#[cfg(test)]
mod tests {
    use gatepass_protocol::frame::return_mac;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const NONCE: [u8; 32] = [7; 32];

    fn identity() -> Identity {
        let principal = Principal::Agent(ComputerId([2; 16]));
        let standing = Standing::default();
        Identity { tenant: TenantId([1; 16]), principal, certificate: Serial([3; 16]), standing }
    }

    fn names() -> Vec<String> {
        vec!["relay.example".to_owned()]
    }

    #[test]
    fn who_was_here_comes_back_to_any_relay_of_the_region_for_two_hours() {
        let issued = Tickets::new(&[9; 32]).issue(&identity(), NOW);
        let elsewhere = Tickets::new(&[9; 32]);
        let dialled = "Relay.example:8443";
        let answer = return_mac(&issued.secret, &NONCE, dialled);
        let take = |now| elsewhere.take(&issued.ticket, dialled, &answer, &NONCE, &names(), now);
        let back = take(NOW + PERIOD).unwrap();
        assert_eq!(
            (back.tenant, back.principal, back.certificate),
            (identity().tenant, identity().principal, identity().certificate)
        );
        assert!(take(NOW + 2 * PERIOD).is_none(), "too old");
        assert!(take(NOW - PERIOD).is_none(), "from the future");
    }

    #[test]
    fn a_ticket_is_worth_nothing_without_its_secret_its_challenge_and_its_relay() {
        let tickets = Tickets::new(&[9; 32]);
        let Issued { ticket, secret, .. } = tickets.issue(&identity(), NOW);
        let dialled = "relay.example";
        let answer = return_mac(&secret, &NONCE, dialled);
        let take = |tickets: &Tickets, ticket: &[u8], dialled: &str, answer, nonce| {
            tickets.take(ticket, dialled, &answer, &nonce, &names(), NOW)
        };
        assert!(take(&tickets, &ticket, dialled, answer, NONCE).is_some());
        assert!(take(&tickets, &ticket, dialled, answer, [8; 32]).is_none(), "a recorded answer");
        assert!(take(&tickets, &ticket, dialled, return_mac(&[0; 32], &NONCE, dialled), NONCE).is_none(), "stolen");
        let other = "evil.example";
        assert!(
            take(&tickets, &ticket, other, return_mac(&secret, &NONCE, other), NONCE).is_none(),
            "made for another"
        );
        assert!(take(&Tickets::new(&[8; 32]), &ticket, dialled, answer, NONCE).is_none(), "of another region");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(take(&tickets, &changed, dialled, answer, NONCE).is_none(), "byte {at} changed");
            assert!(take(&tickets, &ticket[..at], dialled, answer, NONCE).is_none(), "cut at {at}");
        }
    }
}
