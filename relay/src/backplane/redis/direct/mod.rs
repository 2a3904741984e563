//! Straight from relay to relay: a pairing's messages without the way through Redis.
//!
//! ```text
//!  relay A                                        Redis                          relay B
//!    each second: "A is at this address,   ---->  kept for 4 s
//!      with this certificate"                       |
//!                                                   +--- who is at A? ------------- calls A by TLS 1.3, takes that certificate
//!    takes who proves the region's secret  <--------------------------------------- caller, HMAC over the TLS session
//!    acts on it                            <--------------------------------------- notices, as they go through Redis too
//! ```
//!
//! Each connection carries notices one way, so two relays have two. Where there is none (no address is configured, it can't be
//! reached, it does not take what is sent to it), notices go through Redis. What is lost with a connection is still kept by
//! its sender, which tells Redis of it then: see [`handover`](super::handover).

mod identity;
mod line;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::{DashMap, Entry};
use redis::Value;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket, lookup_host},
    sync::{OnceCell, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;
use tracing::{debug, info, warn};

pub(super) use self::line::Outgoing;
use self::{
    identity::{Fingerprint, Identity, NAME, Proof, connector},
    line::read_from,
};
use super::{Shared, keys::BUCKETS, notice::Notice, written};
use crate::{locked, metrics::Held};

/// How long what a relay says of itself stands: a few renewals may fail.
const ADDRESS_MS: u64 = 4_000;
/// For a TLS handshake and the proof. Relays are near each other.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Handshakes at once: a region has few relays, and whoever else calls must not keep them out by much.
const HANDSHAKES: usize = 64;
/// Before a relay that could not be reached is called again.
const AGAIN: Duration = Duration::from_secs(1);

/// This relay's connections to and from the others.
#[derive(Default)]
pub(super) struct Direct {
    listening: Option<Listening>,
    links: DashMap<u64, Link>,
    links_made: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
}

struct Listening {
    identity: Identity,
    at: SocketAddr,
    /// By which the others reach it, once that is known.
    address: OnceCell<String>,
    listener: Mutex<Option<std::net::TcpListener>>,
}

impl Listening {
    /// As configured, or where it listens. If that is everywhere: at the address from which it reaches Redis, as the others do.
    async fn address(&self, redis: &[(String, u16)]) -> io::Result<&String> {
        let found = || async {
            if !self.at.ip().is_unspecified() {
                return Ok(self.at.to_string());
            }
            let (host, port) = redis.first().ok_or(io::ErrorKind::NotFound)?;
            let to = lookup_host((host.as_str(), *port)).await?.next().ok_or(io::ErrorKind::NotFound)?;
            let any = if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
            // Which way it would go: this sends nothing.
            let way = UdpSocket::bind((any, 0)).await?;
            way.connect(to).await?;
            Ok(SocketAddr::new(way.local_addr()?.ip(), self.at.port()).to_string())
        };
        self.address.get_or_try_init(found).await
    }
}

enum Link {
    Calling,
    Up(Arc<Outgoing>),
}

impl Direct {
    /// Listens, if that is configured. Where it can't, the others send through Redis.
    pub(super) fn new(listen: Option<SocketAddr>, address: &str) -> Self {
        let Some(listen) = listen else { return Self::default() };
        let bound = std::net::TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        match (bound, Identity::new()) {
            (Ok((at, listener)), Some(identity)) => {
                let address = OnceCell::new_with(Some(address.to_owned()).filter(|address| !address.is_empty()));
                let listener = Mutex::new(Some(listener));
                Self { listening: Some(Listening { identity, at, address, listener }), ..Self::default() }
            }
            (bound, _) => {
                let error = bound.err().map(|error| error.to_string()).unwrap_or_default();
                warn!(%listen, error, "can't listen for the other relays (backplane.peer_listen): what they have for this one goes through Redis");
                Self::default()
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Where a relay's word about itself is.
fn address_key(shared: &Shared, node: u64) -> (usize, String) {
    let bucket = (node % BUCKETS as u64) as usize;
    (bucket, shared.keys.key(bucket, "a", written(node)))
}

impl Shared {
    /// Takes calls from now on.
    pub(super) fn listen(&self) {
        let listener = self.direct.listening.as_ref().and_then(|listening| locked(&listening.listener).take());
        match listener.map(TcpListener::from_std) {
            Some(Ok(listener)) => self.direct.spawn(accept(self.this.clone(), listener)),
            Some(Err(error)) => warn!(%error, "can't listen for the other relays"),
            None => {}
        }
    }

    /// Says where this relay listens for the others.
    pub(super) async fn tell_address(&self) {
        let Some(listening) = &self.direct.listening else { return };
        let (bucket, key) = address_key(self, self.name);
        let Some(link) = self.routes.now(bucket) else { return };
        let address = match listening.address(&self.settings.servers).await {
            Ok(address) => address,
            Err(error) => {
                return warn!(%error, "can't tell by which address the other relays reach this one: write backplane.peer_address");
            }
        };
        let said = [&listening.identity.fingerprint, address.as_bytes()].concat();
        let mut set = redis::cmd("SET");
        set.arg(key).arg(said).arg("PX").arg(ADDRESS_MS);
        // What goes wrong with Redis is noticed elsewhere.
        let _ = link.ask(&set).await;
    }

    /// The connection to another relay, if there is one; if not, it is called.
    pub(super) fn link_to(&self, node: u64) -> Option<Arc<Outgoing>> {
        if let Some(link) = self.direct.links.get(&node) {
            return match &*link {
                Link::Up(link) if link.is_up() => Some(link.clone()),
                _ => None,
            };
        }
        if let Entry::Vacant(free) = self.direct.links.entry(node) {
            free.insert(Link::Calling);
            self.direct.spawn(call(self.this.clone(), node));
        }
        None
    }

    async fn address_of(&self, node: u64) -> Option<(Fingerprint, String)> {
        let (bucket, key) = address_key(self, node);
        let Ok(Value::BulkString(said)) = self.routes.now(bucket)?.ask(redis::cmd("GET").arg(key)).await else {
            return None;
        };
        let (fingerprint, address) = said.split_first_chunk()?;
        Some((*fingerprint, String::from_utf8(address.to_vec()).ok()?))
    }

    async fn connect(&self, node: u64) -> Option<TlsStream<TcpStream>> {
        let (fingerprint, address) = self.address_of(node).await?;
        let secret = self.secret().await.ok()?;
        let connecting = async {
            let socket = TcpStream::connect(&address).await?;
            socket.set_nodelay(true)?;
            let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
            let mut stream = connector(fingerprint).map_err(std::io::Error::other)?.connect(name, socket).await?;
            let proof = Proof::new(&secret, stream.get_ref().1, (self.name, node));
            let tag = proof.ok_or_else(|| std::io::Error::other("no TLS session"))?.tag();
            stream.write_all(&[self.name.to_be_bytes().as_slice(), &tag].concat()).await?;
            stream.flush().await?;
            Ok::<_, std::io::Error>(stream)
        };
        match timeout(HANDSHAKE, connecting).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                warn!(address, %error, "another relay can't be called: what is for it goes through Redis; check its backplane.peer_address");
                None
            }
            Err(_) => {
                warn!(address, "another relay does not answer: what is for it goes through Redis");
                None
            }
        }
    }
}

/// Calls another relay, and writes to it until that ends.
async fn call(shared: Weak<Shared>, node: u64) {
    let connected = match shared.upgrade() {
        Some(shared) => shared.connect(node).await,
        None => return,
    };
    if let (Some(stream), Some(shared)) = (connected, shared.upgrade()) {
        let outgoing = Outgoing::new(shared.direct.links_made.fetch_add(1, Relaxed) + 1);
        shared.direct.links.insert(node, Link::Up(outgoing.clone()));
        let _up: Held = shared.metrics.backplane_links.hold();
        info!(node = written(node), "messages go straight to this relay");
        drop(shared);
        outgoing.write_to(stream).await;
        info!(node = written(node), "the connection to this relay is gone: what is for it goes through Redis");
    }
    if let Some(shared) = shared.upgrade() {
        shared.sync_towards(node);
    }
    sleep(AGAIN).await;
    if let Some(shared) = shared.upgrade() {
        shared.direct.links.remove(&node);
    }
}

async fn accept(shared: Weak<Shared>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let Some(shared_now) = shared.upgrade() else { return };
                let serving = serve(shared.clone(), socket, turn);
                shared_now.direct.spawn(serving);
            }
            // No files left, most likely: others need a moment to end.
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Takes a call, and acts on what comes until it ends.
async fn serve(shared: Weak<Shared>, socket: TcpStream, turn: tokio::sync::OwnedSemaphorePermit) {
    let opening = async {
        socket.set_nodelay(true).ok()?;
        let shared = shared.upgrade()?;
        let listening = shared.direct.listening.as_ref()?;
        let mut stream = listening.identity.acceptor.accept(socket).await.ok()?;
        let (mut name, mut tag) = ([0; 8], [0; 32]);
        stream.read_exact(&mut name).await.ok()?;
        stream.read_exact(&mut tag).await.ok()?;
        let caller = u64::from_be_bytes(name);
        let secret = shared.secret().await.ok()?;
        let proof = Proof::new(&secret, stream.get_ref().1, (caller, shared.name))?;
        proof.is(&tag).then_some((stream, caller))
    };
    let opened = timeout(HANDSHAKE, opening).await;
    drop(turn);
    let Ok(Some((stream, caller))) = opened else {
        return debug!("a call to this relay's backplane.peer_listen was none of this region");
    };
    // Somebody there talks to somebody here, who will answer.
    if let Some(shared) = shared.upgrade() {
        shared.link_to(caller);
    }
    read_from(stream, |notice| match (shared.upgrade(), notice) {
        (Some(shared), Notice::Pairing { rid, to, news }) => {
            shared.heard_directly(caller, rid, to, news);
            true
        }
        _ => false,
    })
    .await;
}
