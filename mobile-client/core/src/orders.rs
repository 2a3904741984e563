//! Orders to a computer outside a pairing: list my grants, end one. Signed by the phone, sealed to the computer; the report
//! comes back the same way, and answers to exactly this order.

use std::time::Duration;

use bytes::Bytes;
use gatepass_client::{Connection, Incoming, RequestError, Why, edge};
use gatepass_protocol::{
    Code,
    channel::Channel,
    ids::{ComputerId, DeviceId, GrantId, Serial},
    keys::PublicKey,
    order::{Letter, Order, Report},
    pairing::phone::DeviceIdentity,
    sealed,
    signed::{Signed, Unverified},
    statement::KeyUse,
    trust::TrustStore,
};
use tokio::time::timeout;

use crate::{book::Computer, login::hear};

/// An end strips groups, ends sessions and verifies all of it before it is reported.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The relay was not reached.
    #[error(transparent)]
    NotConnected(#[from] Why),
    /// The relay refused, or the connection was cut.
    #[error("{}", match .0 { RequestError::Refused { code, .. } => code.to_string(), other => other.to_string() })]
    Refused(#[from] RequestError),
    /// The computer's certificate is not valid any more.
    #[error("the computer {name} can't be believed any more ({code})")]
    NotTrusted {
        /// Which.
        name: String,
        /// Why.
        code: Code,
    },
    /// It is off, or offline.
    #[error("the computer {name} is not connected: its grants end by themselves when their time is over")]
    Away {
        /// Which.
        name: String,
    },
    /// No report came.
    #[error("the computer {name} got the order and has not answered: try again in a minute")]
    Silent {
        /// Which.
        name: String,
    },
}

/// A report that holds.
pub struct Reported {
    /// By which computer.
    pub computer: ComputerId,
    /// The chain of its certificate.
    pub chain: Vec<Bytes>,
    /// What it says.
    pub report: Report,
}

/// Starts listening for reports and for the tenant's news; once for a connection.
pub async fn listen(connection: &Connection, identity: &DeviceIdentity, trust: &TrustStore) -> Result<(), OrderError> {
    connection.sender().online().await?;
    let device = Channel::Device(DeviceId(identity.statement().subject));
    let (own, news) = tokio::join!(
        connection.sender().subscribe(device),
        connection.sender().subscribe(Channel::Tenant(trust.tenant()))
    );
    news?;
    own?;
    Ok(())
}

/// Sends an order and waits for its report. `end`: the grant to end, or none to only look.
pub async fn order(
    connection: &mut Connection,
    identity: &DeviceIdentity,
    trust: &mut TrustStore,
    computer: &Computer,
    end: Option<GrantId>,
) -> Result<Reported, OrderError> {
    let name = || computer.name.clone();
    let not_trusted = |code| OrderError::NotTrusted { name: name(), code };
    let now = edge::now();
    let agent = trust.agent(&computer.chain(), now).map_err(not_trusted)?;
    let Some(PublicKey::X25519(recipient)) = agent.statement().key(KeyUse::Channel) else {
        return Err(not_trusted(Code::Certificate));
    };
    let nonce = edge::random();
    let order = Order { computer: computer.id, nonce, time: now, end };
    let Ok(signed) = Signed::sign(order, &identity.sign) else { unreachable!("a key in memory signs") };
    let letter = Letter { chain: identity.chain.clone(), signed: signed.bytes().clone() };
    let sealed =
        sealed::seal(&recipient, &letter.encode(), &mut edge::rng()).map_err(|_| not_trusted(Code::Certificate))?;
    if connection.sender().publish(Channel::Computer(computer.id), sealed).await? == 0 {
        return Err(OrderError::Away { name: name() });
    }
    let answer = async {
        loop {
            match connection.next().await.ok_or(RequestError::Stopped)? {
                Incoming::Message { channel: Channel::Device(_), bytes, .. } => {
                    match open(&bytes, identity, trust, edge::now()) {
                        Ok(reported)
                            if reported.computer == computer.id && reported.report.answers == Some(Serial(nonce)) =>
                        {
                            return Ok(reported);
                        }
                        Ok(_) => {}
                        Err(code) => tracing::debug!(%code, "a message to this phone is no report that holds"),
                    }
                }
                Incoming::Message { channel: Channel::Tenant(_), bytes, .. } => hear(trust, &bytes, edge::now()),
                // The report may be among what was missed.
                Incoming::Refetch { channel: Channel::Device(_) } => return Err(OrderError::Silent { name: name() }),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, answer).await.unwrap_or(Err(OrderError::Silent { name: name() }))
}

/// Opens and checks a message on the device's channel.
pub fn open(message: &[u8], identity: &DeviceIdentity, trust: &TrustStore, now: u64) -> Result<Reported, Code> {
    let opened = sealed::open(&identity.channel, message).map_err(|_| Code::Context)?;
    let Letter { chain, signed } = Letter::decode(&opened).map_err(|_| Code::Context)?;
    let agent = trust.agent(&chain, now)?;
    let key = agent.statement().key(KeyUse::Sign).ok_or(Code::Certificate)?;
    let report =
        Unverified::<Report>::decode(signed).map_err(|_| Code::Context)?.verify(&key).map_err(|_| Code::Certificate)?;
    if report.body().device != DeviceId(identity.statement().subject) {
        return Err(Code::Context);
    }
    Ok(Reported { computer: ComputerId(agent.statement().subject), chain, report: report.into_body() })
}
