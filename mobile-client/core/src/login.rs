//! A scanned code's way to its decision: claim, handshake, question, answer, outcome, over a [`Connection`].
//!
//! Every message is judged by the state machine of [`gatepass_protocol::pairing::phone`]; here is only who waits for what, and
//! for how long. On the way the tenant's newest lists arrive, so that a phone never trusts a computer that was revoked while
//! it slept.

use std::time::Duration;

use bytes::Bytes;
use gatepass_client::{Connection, Incoming, RequestError, Why, edge};
use gatepass_protocol::{
    Code,
    channel::{Bulletin, Channel},
    ids::Rid,
    keys::Signer,
    pairing::{
        Failure,
        messages::Outcome,
        phone::{self, Asked, Chosen, DeviceIdentity, NotApproved, Scan},
    },
    trust::TrustStore,
};
use tokio::time::timeout;

/// The agent answers within milliseconds; a cut may be resumed within this.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// The code is typed at the computer and the account made ready: somewhat longer than a pairing lives.
const DECISION: Duration = Duration::from_secs(100);
/// What this program says it is.
const APP: &str = concat!("gatepass-phone ", env!("CARGO_PKG_VERSION"));

/// Why there was no decision, or no grant.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Another organisation's.
    #[error("this code belongs to another organisation than this phone: scan it with a phone that is enrolled there")]
    OtherTenant,
    /// The relay was not reached.
    #[error(transparent)]
    NotConnected(#[from] Why),
    /// The relay refused the claim.
    #[error("{}", said(.0))]
    NotClaimed(RequestError),
    /// The other side is not who it must be, or refused.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The pairing ended before its decision.
    #[error("{}", match .0 { Some(code) => code.to_string(), None => String::from(CLOSED) })]
    Lost(Option<Code>),
    /// Nothing came.
    #[error("the computer did not answer in time: scan the code that is on its screen now")]
    Silent,
    /// What was chosen is not offered, or the key did not sign.
    #[error(transparent)]
    NotApproved(#[from] NotApproved),
}

// By hand: `#[from]` would make it a source too, which is told after its own sentence once more.
impl From<RequestError> for LoginError {
    fn from(error: RequestError) -> Self {
        Self::NotClaimed(error)
    }
}

const CLOSED: &str = "The computer closed the login. Scan the code that is on its screen now.";

fn said(error: &RequestError) -> String {
    match error {
        RequestError::Refused { code, .. } => code.to_string(),
        other => other.to_string(),
    }
}

/// The computer's question, waiting for its answer.
pub struct Question {
    rid: Rid,
    asked: Asked,
}

/// An approval on its way.
pub struct Approved {
    rid: Rid,
    state: phone::AwaitOutcome,
}

/// Claims the scanned pairing and asks the computer what it wants. Newer lists that arrive meanwhile go into `trust`.
pub async fn begin(
    connection: &mut Connection,
    scan: Scan,
    identity: &DeviceIdentity,
    trust: &mut TrustStore,
) -> Result<Question, LoginError> {
    if !scan.is_of(trust) {
        return Err(LoginError::OtherTenant);
    }
    connection.sender().online().await?;
    let rid = scan.rid();
    let (n, tag) = scan.claim(&mut edge::rng());
    // Both at once: the lists are there before the computer's first word, at no round trip of their own.
    let (subscribed, claimed) = tokio::join!(
        connection.sender().subscribe(Channel::Tenant(trust.tenant())),
        connection.sender().claim(rid, n, tag)
    );
    if let Err(error) = subscribed {
        tracing::debug!(%error, "no news of the tenant");
    }
    claimed?;
    let asked = handshake(connection, scan, identity, trust).await;
    if asked.is_err() {
        let _ = connection.sender().end(rid).await;
    }
    Ok(Question { rid, asked: asked? })
}

async fn handshake(
    connection: &mut Connection,
    scan: Scan,
    identity: &DeviceIdentity,
    trust: &mut TrustStore,
) -> Result<Asked, LoginError> {
    let rid = scan.rid();
    let (state, m1) = scan.start(APP, trust, &mut edge::rng())?;
    connection.sender().forward(rid, m1).await?;
    let m2 = receive(connection, rid, Some(trust), HANDSHAKE).await?;
    let (state, m3) = state.receive(&m2, identity, trust, edge::now())?;
    connection.sender().forward(rid, m3).await?;
    let m4 = receive(connection, rid, Some(trust), HANDSHAKE).await?;
    Ok(state.receive(&m4)?)
}

impl Question {
    /// Who asks for what, where, and what may be chosen.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Approves. The signer is the device's approval key, which its person has just unlocked.
    pub async fn approve(
        self,
        connection: &Connection,
        chosen: &Chosen,
        identity: &DeviceIdentity,
        signer: &dyn Signer,
    ) -> Result<Approved, LoginError> {
        let (state, m5) = self.asked.approve(chosen, identity, signer)?;
        connection.sender().forward(self.rid, m5).await?;
        Ok(Approved { rid: self.rid, state })
    }

    /// Denies; `not_me`: somebody else asked.
    pub async fn deny(self, connection: &Connection, not_me: bool) -> Result<(), LoginError> {
        let m5 = self.asked.deny(not_me)?;
        Ok(connection.sender().forward(self.rid, m5).await?)
    }
}

impl Approved {
    /// The three digits to type at the computer.
    pub fn confirm_code(&self) -> String {
        self.state.confirm_code()
    }

    /// What became of it.
    pub async fn outcome(self, connection: &mut Connection) -> Result<Outcome, LoginError> {
        let m6 = receive(connection, self.rid, None, DECISION).await?;
        let (outcome, _open) = self.state.receive(&m6)?;
        Ok(outcome)
    }
}

async fn receive(
    connection: &mut Connection,
    rid: Rid,
    mut trust: Option<&mut TrustStore>,
    patience: Duration,
) -> Result<Bytes, LoginError> {
    let next = async {
        loop {
            match connection.next().await {
                Some(Incoming::Forwarded { rid: from, bytes }) if from == rid => return Ok(bytes),
                Some(Incoming::Closed { rid: which, code }) if which == rid => return Err(LoginError::Lost(code)),
                Some(Incoming::Message { channel: Channel::Tenant(_), bytes, .. }) => {
                    if let Some(trust) = trust.as_deref_mut() {
                        hear(trust, &bytes, edge::now());
                    }
                }
                Some(_) => {}
                None => return Err(LoginError::NotClaimed(RequestError::Stopped)),
            }
        }
    };
    timeout(patience, next).await.unwrap_or(Err(LoginError::Silent))
}

/// Takes a list off the tenant's channel, if it is in order and newer.
pub fn hear(trust: &mut TrustStore, message: &[u8], now: u64) {
    let Ok(bulletin) = Bulletin::decode(message) else { return };
    // One too large for a frame is fetched at the next `refresh`.
    let Some(statement) = bulletin.statement else { return };
    if let Err(code) = trust.accept(&statement, now) {
        tracing::debug!(%code, "a list on the tenant's channel is not in order");
    }
}
