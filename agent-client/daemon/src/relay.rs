//! The connection to the relay: kept up by `gatepass-client`, shared by all logins. Of the tenant's relays it goes to the
//! nearest, flees to the next and comes back by itself; what must not be forgotten here is that a code on a screen names the
//! relay where its pairing is open.
//!
//! What comes from it goes three ways: a pairing's messages to the login that opened the pairing, a tenant's statements to
//! [`crate::trust`], orders to [`crate::orders`]. A login that is too slow to take its messages loses its pairing; it never
//! holds up the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gatepass_client::{Connection, Endpoint, Incoming, Regions, RequestError, Sender, Settings, State, Why};
use gatepass_protocol::Code;
use gatepass_protocol::channel::Channel;
use gatepass_protocol::ids::Rid;
use gatepass_protocol::trust::TrustStore;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::sleep;

use crate::agent::Agent;

/// Messages of one login that may wait: a pairing has six.
const WAITING: usize = 16;
/// Lists and orders that are judged at the same time.
const MESSAGES: usize = 16;
/// How long a pairing may live at the relay, in seconds.
const TTL: u32 = gatepass_protocol::frame::MAX_TTL;

/// A relay that can't take a subscription is asked again after this long.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(2);

/// The way to the relay.
pub(crate) struct Relay {
    sender: Mutex<Option<Sender>>,
    routes: Mutex<HashMap<Rid, mpsc::Sender<Incoming>>>,
    /// The relay list or its override changed: connect anew.
    moved: Notify,
    /// Lists and orders that are being judged: a relay that sends more than this at once loses the rest.
    messages: Arc<Semaphore>,
}

/// One connection to one relay.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The relay's index in the tenant's list: a QR carries it.
    pub(crate) index: u16,
    relay: String,
    connection: u64,
}

/// What a login hears.
pub(crate) type Ear = mpsc::Receiver<Incoming>;

/// A pairing at the relay; it is closed there when this is dropped.
pub(crate) struct Pairing {
    rid: Rid,
    relay: Arc<Relay>,
    sender: Sender,
}

impl Relay {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            sender: Mutex::default(),
            routes: Mutex::default(),
            moved: Notify::new(),
            messages: Arc::new(Semaphore::new(MESSAGES)),
        })
    }

    /// A queue for the messages of one login's pairings.
    pub(crate) fn ear() -> (mpsc::Sender<Incoming>, Ear) {
        mpsc::channel(WAITING)
    }

    /// The connection's sending half, once there is one.
    pub(crate) fn sender(&self) -> Option<Sender> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the connection is doing, if there is a relay to connect to at all.
    pub(crate) fn state(&self) -> Option<State> {
        Some(self.sender()?.state().borrow().clone())
    }

    /// Where this agent is connected; `None` where it is not.
    pub(crate) fn place(&self, trust: &TrustStore) -> Option<Place> {
        let Some(State::Online { relay, connection, .. }) = self.state() else { return None };
        let list = trust.relays().map(|list| list.terms().relays.as_slice()).unwrap_or_default();
        let here = |url: &str| url.parse::<Endpoint>().is_ok_and(|endpoint| endpoint.authority() == relay);
        // By the configuration it may be one that is not in the list, whose phones are told of it in the same way.
        let index = list.iter().find(|entry| here(&entry.url)).map_or(0, |entry| entry.index);
        Some(Place { index, relay, connection })
    }

    /// Opens a pairing whose messages go to `ear`.
    pub(crate) async fn open(
        self: &Arc<Self>,
        rid: Rid,
        ear: &mpsc::Sender<Incoming>,
    ) -> Result<Pairing, RequestError> {
        let sender = self.sender().ok_or(RequestError::Offline)?;
        self.routes().insert(rid, ear.clone());
        // From here on dropping it takes the route away again.
        let pairing = Pairing { rid, relay: self.clone(), sender };
        pairing.sender.open(rid, TTL).await?;
        Ok(pairing)
    }

    /// The relays have changed.
    pub(crate) fn reconnect(&self) {
        self.moved.notify_one();
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<Rid, mpsc::Sender<Incoming>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, rid: Rid, incoming: Incoming) {
        let Some(ear) = self.routes().get(&rid).cloned() else { return };
        if ear.try_send(incoming).is_err() {
            self.routes().remove(&rid);
            tracing::warn!(%rid, "a login did not take its messages: its pairing is dropped");
        }
    }
}

impl Pairing {
    pub(crate) fn rid(&self) -> Rid {
        self.rid
    }

    /// Sends the next message to the phone.
    pub(crate) async fn send(&self, message: Vec<u8>) -> Result<(), RequestError> {
        self.sender.forward(self.rid, message).await
    }
}

impl Drop for Pairing {
    fn drop(&mut self) {
        self.relay.routes().remove(&self.rid);
        let (sender, rid) = (self.sender.clone(), self.rid);
        tokio::spawn(async move { sender.end(rid).await });
    }
}

/// Keeps the connection and hands out what it brings, for as long as the daemon runs.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        let relays = agent.relay_endpoints();
        if relays.is_empty() {
            tracing::warn!("no relay is known yet: waiting for the tenant's relay list");
            agent.relay.moved.notified().await;
            continue;
        }
        let settings = Settings {
            relays,
            tls: agent.tls.clone(),
            proxies: agent.proxies.clone(),
            chain: agent.identity.chain.clone(),
            key: agent.sign.clone(),
        };
        let mut connection = Connection::start_nearest(settings, Regions::default());
        *agent.relay.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.sender().clone());
        tokio::spawn(subscribe(agent.clone(), connection.sender().clone()));
        let mut state = connection.sender().state();
        loop {
            tokio::select! {
                incoming = connection.next() => match incoming {
                    Some(incoming) => take(&agent, incoming),
                    None => break,
                },
                Ok(()) = state.changed() => {
                    // Perhaps this computer was revoked, and cut off before it heard so: its grants have to end all the same.
                    if matches!(&*state.borrow_and_update(), State::Waiting { why: Why::Refused { .. }, .. }) {
                        let agent = agent.clone();
                        tokio::spawn(async move { agent.fetch_lists().await });
                    }
                }
                () = agent.relay.moved.notified() => break,
            }
        }
        *agent.relay.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
        connection.close().await;
    }
}

/// Listens to the own and the tenant's channel, and fetches the lists once for whatever was missed before.
async fn subscribe(agent: Arc<Agent>, sender: Sender) {
    for channel in [Channel::Computer(agent.computer), Channel::Tenant(agent.tenant)] {
        loop {
            match sender.subscribe(channel).await {
                Ok(_) => break,
                Err(RequestError::Stopped) => return,
                // The relay can't just now.
                Err(RequestError::Refused { code: Code::Draining, .. }) => sleep(SUBSCRIBE_AGAIN).await,
                Err(error) => {
                    tracing::error!(%channel, %error, "not subscribed: orders and revocations won't come by this channel");
                    break;
                }
            }
        }
    }
    agent.fetch_lists().await;
}

fn take(agent: &Arc<Agent>, incoming: Incoming) {
    match incoming {
        Incoming::Message { channel, bytes, .. } => {
            let Ok(slot) = agent.relay.messages.clone().try_acquire_owned() else {
                tracing::warn!(%channel, "a message was dropped: too many at the same time");
                return;
            };
            let agent = agent.clone();
            tokio::spawn(async move {
                match channel {
                    Channel::Tenant(_) => agent.hear_list(&bytes).await,
                    Channel::Computer(_) => crate::orders::take(&agent, &bytes).await,
                    Channel::Device(_) | Channel::Presence(_) => {}
                }
                drop(slot);
            });
        }
        Incoming::Refetch { channel } => {
            // Nothing to do. The newest of the tenant's lists follow by themselves, and whoever gave an order that was lost
            // has no report and gives it again.
            tracing::info!(%channel, "messages of a channel were missed");
        }
        Incoming::Claimed { rid, .. } | Incoming::Forwarded { rid, .. } | Incoming::Closed { rid, .. } => {
            agent.relay.deliver(rid, incoming);
        }
    }
}
