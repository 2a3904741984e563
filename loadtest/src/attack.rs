//! Clients that mean no good: what others suffer of them is measured by running a load beside them (`gatepass-loadtest siege`).
//!
//! They come from 250 addresses of their own (127.96.0.0/24, against loopback), in a process of their own at the lowest priority, so
//! that what they cost is what they cost the relay. Those that have to be let in first are computers and phones of the tenant.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use gatepass_client::{Endpoint, EndpointError, edge};
use gatepass_protocol::{
    api::{Base64, text},
    channel::Channel,
    frame::{Frame, RelayAuth},
    ids::{DeviceId, TenantId},
    keys::SigningKey,
    signed::Signed,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::Fleet;

/// The attackers' identities begin here, behind those of any load.
const FIRST: u32 = 10_000_000;
/// One address for so many of an attacker's sockets.
const ADDRESSES: u32 = 250;
/// A try that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way of meaning no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// 200 phones that are sent large messages and read none of them
    SlowReaders,
    /// 2,000 computers that are let in and never answer again
    DeadPeers,
    /// 5,000 sockets that say nothing
    HalfOpen,
    /// 2,000 sockets that say their request a byte a second
    Slowloris,
    /// 50 computers that begin a frame of a gigabyte, again and again
    GiantFrames,
    /// 20 computers that ping as fast as they can
    PingFlood,
    /// Sockets that are reset as soon as they are there, as many as go
    Resets,
    /// 100,000 sockets that say something that is nothing
    Junk,
}

/// What an attacker is told. It holds the CA's private key, as a worker's plan does.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// How.
    pub attack: Attack,
    /// Whom: `ws://host:port`.
    pub relay: String,
    /// The tenant whose clients they are.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The seed of its CA's key.
    pub ca: Base64,
    /// When certificates begin, in Unix seconds.
    pub now: u64,
    /// The tenant's revocation epoch.
    pub epoch: u64,
    /// For how long, if nobody stops it.
    pub seconds: f64,
}

/// Why nobody attacks.
#[derive(Debug, thiserror::Error)]
pub enum AttackError {
    /// The relay's address is none.
    #[error(transparent)]
    Address(#[from] EndpointError),
    /// Attackers speak no TLS.
    #[error(
        "{relay}: attackers speak no TLS; give them a relay without it (ws://), as behind a balancer that ends TLS"
    )]
    Secure {
        /// Which.
        relay: String,
    },
    /// The plan is broken.
    #[error("the CA's key in the plan is not one")]
    Key,
}

/// What an attacker did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Sockets that were opened.
    pub sockets: u64,
    /// Sockets that were refused, or closed by the relay.
    pub closed: u64,
    /// Bytes that were sent.
    pub bytes: u64,
}

#[derive(Default)]
struct Count {
    sockets: AtomicU64,
    closed: AtomicU64,
    bytes: AtomicU64,
}

struct Attacker {
    relay: Endpoint,
    fleet: Fleet,
    until: Instant,
    count: Count,
}

impl Attack {
    /// Its name in the table.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How many do it at once.
    fn crowd(self) -> u32 {
        match self {
            Attack::SlowReaders => 200,
            Attack::DeadPeers | Attack::Slowloris => 2_000,
            Attack::HalfOpen => 5_000,
            Attack::GiantFrames => 50,
            Attack::PingFlood => 20,
            Attack::Resets => 64,
            Attack::Junk => 256,
        }
    }
}

/// Attacks until the time is over, or until `stop`.
pub async fn attack(plan: Plan, stop: impl Future<Output = ()>) -> Result<Tally, AttackError> {
    let until = Instant::now() + Duration::from_secs_f64(plan.seconds);
    let relay: Endpoint = plan.relay.parse()?;
    if relay.is_secure() {
        return Err(AttackError::Secure { relay: plan.relay });
    }
    let seed = <[u8; 32]>::try_from(&*plan.ca.0).map_err(|_| AttackError::Key)?;
    let fleet = Fleet::new(plan.tenant, SigningKey::from_seed(&seed), 1, plan.now).at_epoch(plan.epoch);
    let attacker = Arc::new(Attacker { relay, fleet, until, count: Count::default() });
    let mut crowd = JoinSet::new();
    for n in 0..plan.attack.crowd() {
        let attacker = attacker.clone();
        crowd.spawn(async move { attacker.keep_on(plan.attack, n).await });
    }
    if plan.attack == Attack::SlowReaders {
        // Somebody has to send what they don't read.
        for n in 0..plan.attack.crowd() / 10 {
            let attacker = attacker.clone();
            crowd.spawn(async move { while timeout_at(&attacker, attacker.publishes(n)).await.is_some() {} });
        }
    }
    tokio::select! { () = sleep_until(until) => {}, () = stop => {} }
    crowd.shutdown().await;
    let count = &attacker.count;
    let read = |count: &AtomicU64| count.load(Relaxed);
    Ok(Tally { sockets: read(&count.sockets), closed: read(&count.closed), bytes: read(&count.bytes) })
}

async fn timeout_at<T>(attacker: &Attacker, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(attacker.until, work).await.ok()
}

impl Attacker {
    /// One of the crowd: again and again.
    async fn keep_on(&self, attack: Attack, n: u32) {
        loop {
            let once = async {
                match attack {
                    Attack::SlowReaders => self.reads_nothing(n).await,
                    Attack::DeadPeers => self.is_dead(n).await,
                    Attack::HalfOpen => self.says_nothing(n).await,
                    Attack::Slowloris => self.speaks_slowly(n).await,
                    Attack::GiantFrames => self.begins_a_giant(n).await,
                    Attack::PingFlood => self.pings(n).await,
                    Attack::Resets => self.resets(n).await,
                    Attack::Junk => self.talks_nonsense(n).await,
                }
            };
            if once.await.is_none() {
                self.count.closed.fetch_add(1, Relaxed);
                // Who was refused is as quick to try again as a bad client is, and no quicker.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn socket(&self, n: u32) -> Option<TcpStream> {
        let address: SocketAddr = tokio::net::lookup_host((self.relay.host(), self.relay.port())).await.ok()?.next()?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
        if address.ip().is_loopback() && address.is_ipv4() {
            let from = Ipv4Addr::new(127, 96, 0, 1 + (n % ADDRESSES) as u8);
            socket.bind((IpAddr::from(from), 0).into()).ok()?;
        }
        let stream = timeout(PATIENCE, socket.connect(address)).await.ok()?.ok()?;
        self.count.sockets.fetch_add(1, Relaxed);
        Some(stream)
    }

    async fn sends(&self, stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
        stream.write_all(bytes).await.ok()?;
        self.count.bytes.fetch_add(bytes.len() as u64, Relaxed);
        Some(())
    }

    /// Waits until the relay closes.
    async fn is_closed(stream: &mut TcpStream) {
        let mut ignored = [0; 4_096];
        while stream.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
    }

    /// Let in as a computer or phone.
    async fn enters(&self, n: u32, chain: &[Bytes], key: &SigningKey) -> Option<WebSocketStream<TcpStream>> {
        let stream = self.socket(n).await?;
        let url = format!("ws://{}/v1/ws", self.relay.authority());
        let (mut socket, _) = timeout(PATIENCE, client_async(url, stream)).await.ok()?.ok()?;
        loop {
            let next = timeout(PATIENCE, socket.next()).await.ok()??.ok()?;
            let Message::Binary(bytes) = next else { continue };
            match Frame::decode(&bytes).ok()? {
                Frame::Challenge { nonce, .. } => {
                    let body = RelayAuth { nonce, relay: self.relay.authority(), time: edge::now() };
                    let proof = Signed::sign(body, key).ok()?.bytes().clone();
                    let auth = Frame::Auth { proof, chain: chain.to_vec() };
                    socket.send(Message::Binary(auth.encode().into())).await.ok()?;
                }
                Frame::Welcome { .. } => return Some(socket),
                _ => return None,
            }
        }
    }

    async fn enters_as_computer(&self, n: u32) -> Option<WebSocketStream<TcpStream>> {
        let agent = self.fleet.agent(FIRST + n);
        self.enters(n, &agent.chain, &agent.sign).await
    }

    async fn reads_nothing(&self, n: u32) -> Option<()> {
        let phone = self.fleet.phone(FIRST + n).identity;
        let mut socket = self.enters(n, &phone.chain, &phone.sign).await?;
        let channel = Channel::Device(DeviceId(phone.statement().subject)).to_string();
        let subscribe = Frame::Subscribe { channel, since: None };
        socket.send(Message::Binary(subscribe.encode().into())).await.ok()?;
        // Until it is put out, which it does not notice: as long as that takes and somewhat more.
        sleep(Duration::from_secs(15)).await;
        None
    }

    /// Sends to the slow readers, as fast as it may.
    async fn publishes(&self, n: u32) -> Option<()> {
        const EACH: usize = 10;
        let mut socket = self.enters_as_computer(n).await?;
        let channels: Vec<String> = (0..EACH)
            .map(|one| {
                let phone = self.fleet.phone(FIRST + n * EACH as u32 + one as u32).identity;
                Channel::Device(DeviceId(phone.statement().subject)).to_string()
            })
            .collect();
        let bytes = Bytes::from(vec![7; 8_000]);
        for (id, channel) in channels.iter().cycle().enumerate() {
            let publish = Frame::Publish { id: id as u32, channel: channel.clone(), bytes: bytes.clone() };
            socket.send(Message::Binary(publish.encode().into())).await.ok()?;
            self.count.bytes.fetch_add(bytes.len() as u64, Relaxed);
            // The answers; and no faster than they come.
            timeout(PATIENCE, socket.next()).await.ok()??.ok()?;
        }
        None
    }

    async fn is_dead(&self, n: u32) -> Option<()> {
        let _socket = self.enters_as_computer(n).await?;
        sleep_until(self.until).await;
        Some(())
    }

    async fn says_nothing(&self, n: u32) -> Option<()> {
        let mut stream = self.socket(n).await?;
        Self::is_closed(&mut stream).await;
        None
    }

    async fn speaks_slowly(&self, n: u32) -> Option<()> {
        let mut stream = self.socket(n).await?;
        for byte in b"GET /v1/ws HTTP/1.1\r\nX-A: ".iter().chain([b'a'].iter().cycle()) {
            self.sends(&mut stream, &[*byte]).await?;
            sleep(Duration::from_secs(1)).await;
        }
        None
    }

    async fn begins_a_giant(&self, n: u32) -> Option<()> {
        let mut stream = self.enters_as_computer(n).await?.into_inner();
        // FIN, binary; masked, of 2^30 bytes.
        let head = [0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
        self.sends(&mut stream, &head).await?;
        loop {
            self.sends(&mut stream, &[0; 16_384]).await?;
        }
    }

    async fn pings(&self, n: u32) -> Option<()> {
        let (mut reading, mut writing) = self.enters_as_computer(n).await?.into_inner().into_split();
        let mut ping = vec![0x89, 0x80 | 125, 1, 2, 3, 4];
        ping.resize(6 + 125, 0);
        let many = ping.repeat(64);
        let answers = async {
            let mut ignored = [0; 16_384];
            while reading.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
        };
        let pings = async {
            while writing.write_all(&many).await.is_ok() {
                self.count.bytes.fetch_add(many.len() as u64, Relaxed);
            }
        };
        tokio::select! { () = answers => {}, () = pings => {} }
        None
    }

    async fn resets(&self, n: u32) -> Option<()> {
        let stream = self.socket(n.wrapping_add(self.count.sockets.load(Relaxed) as u32)).await?;
        // Nothing is waited for: the other side gets a reset.
        stream.set_zero_linger().ok()?;
        Some(())
    }

    async fn talks_nonsense(&self, n: u32) -> Option<()> {
        const ALL: u64 = 100_000;
        let so_far = self.count.sockets.load(Relaxed);
        if so_far >= ALL {
            sleep_until(self.until).await;
        }
        let mut stream = self.socket(n.wrapping_add(so_far as u32)).await?;
        let mut junk = [0; 512];
        getrandom::fill(&mut junk).ok()?;
        self.sends(&mut stream, &junk).await?;
        timeout(PATIENCE, Self::is_closed(&mut stream)).await.ok()
    }
}
