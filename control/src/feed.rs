//! What regional relays ask for: the CA keys and statements of tenants, as they change. One request waits until there is
//! something new, so that a revocation is at every relay as soon as it is here.
//!
//! A relay shows the token of [`RELAY_TOKEN_FILE`](crate::RELAY_TOKEN_FILE). What it gets is no secret, only nobody else's
//! business: who the tenants are, and how often they revoke something.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use gatepass_protocol::api::Feed;

use crate::problem::Refusal;
use crate::{Control, token};

/// How long an answer waits for news: less than clients and what is between have patience for.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// Bytes of statements in one answer, but for the first tenant's: a third more in base64, it stays below what a client takes.
const BUDGET: usize = 1024 * 1024;

impl Control {
    pub(crate) async fn feed(&self, bearer: Option<&str>, query: &str) -> Result<Feed, Refusal> {
        if !bearer.is_some_and(|bearer| token::is_one_of(bearer, &[self.inner.relay_token])) {
            return Err(Refusal::RelaysOnly);
        }
        let (mut cursor, mut tenants) = ("", HashSet::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("after", value) => cursor = value,
                ("tenant", value) => {
                    let tenant = value.parse();
                    tenants.insert(tenant.map_err(|_| Refusal::Fix(format!("{value:?} is not a tenant")))?);
                }
                _ => return Err(Refusal::Fix("the only parameters are after and tenant".to_owned())),
            }
        }
        let (trust, until) = (&self.inner.trust, Instant::now() + WAIT);
        let (mut changes, mut closing) = (trust.changes(), self.inner.closing.subscribe());
        loop {
            changes.mark_unchanged();
            let feed = trust.since(cursor, &tenants, BUDGET);
            // Whoever asks for the first time learns at once that there is nothing.
            let is_first = trust.number(cursor).is_none();
            if !feed.tenants.is_empty() || is_first || *closing.borrow_and_update() {
                return Ok(feed);
            }
            tokio::select! {
                waited = timeout_at(until, changes.changed()) => if waited.is_err() { return Ok(feed) },
                _ = closing.changed() => {}
            }
        }
    }
}
