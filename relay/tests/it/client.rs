//! A client at the level of frames: it says exactly what a test tells it to, right or wrong.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::Frame,
    ids::Rid,
    keys::SigningKey,
    pairing::{agent::AgentIdentity, phone::DeviceIdentity},
};
use gatepass_relay::testing::{TestRelay, proof};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::CloseFrame},
};

/// Far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// With the last ticket that it was given.
pub(crate) struct Client(pub(crate) WebSocketStream<Box<dyn Stream>>, pub(crate) Option<Ticket>);

pub(crate) type Ticket = (Bytes, [u8; 32]);

/// Who can authenticate.
pub(crate) trait Credentials {
    fn chain(&self) -> Vec<Bytes>;
    fn key(&self) -> &SigningKey;
}

impl Credentials for AgentIdentity {
    fn chain(&self) -> Vec<Bytes> {
        self.chain.clone()
    }
    fn key(&self) -> &SigningKey {
        &self.sign
    }
}

impl Credentials for DeviceIdentity {
    fn chain(&self) -> Vec<Bytes> {
        self.chain.clone()
    }
    fn key(&self) -> &SigningKey {
        &self.sign
    }
}

/// What a client hears in the end.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Frame(Frame),
    Closed(Option<u16>),
}

pub(crate) fn open(n: u8) -> Frame {
    Frame::Open { rid: Rid([n; 16]), ttl: 90 }
}

pub(crate) fn claim(n: u8) -> Frame {
    Frame::Claim { rid: Rid([n; 16]), n: [1; 16], tag: [2; 16] }
}

pub(crate) fn forward(n: u8, seq: u32, ack: u32, text: &str) -> Frame {
    Frame::Forward { rid: Rid([n; 16]), seq, ack, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

impl Client {
    /// A WebSocket on any stream, not authenticated.
    pub(crate) async fn over(stream: impl Stream + 'static, address: SocketAddr) -> Self {
        let stream: Box<dyn Stream> = Box::new(stream);
        let url = format!("ws://{address}/v1/ws");
        let upgrade = tokio_tungstenite::client_async(url, stream);
        Self(timeout(PATIENCE, upgrade).await.expect("in time").expect("upgraded").0, None)
    }

    pub(crate) async fn unauthenticated(relay: &TestRelay) -> Self {
        let stream = TcpStream::connect(relay.address()).await.expect("connected");
        Self::over(stream, relay.address()).await
    }

    /// Answers the challenge; returns what the relay says to it.
    pub(crate) async fn authenticate(&mut self, who: &impl Credentials) -> Heard {
        let Heard::Frame(Frame::Challenge { nonce, .. }) = self.hear().await else { panic!("no challenge") };
        self.send(Frame::Auth { proof: proof(who.key(), nonce, "127.0.0.1:1"), chain: who.chain() }).await;
        self.hear().await
    }

    pub(crate) async fn welcomed(mut self, who: &impl Credentials) -> Self {
        let answer = self.authenticate(who).await;
        assert!(matches!(answer, Heard::Frame(Frame::Welcome { .. })), "{answer:?}");
        self
    }

    pub(crate) async fn connect(relay: &TestRelay, who: &impl Credentials) -> Self {
        Self::unauthenticated(relay).await.welcomed(who).await
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        self.send_raw(Message::Binary(frame.encode().into())).await;
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        timeout(PATIENCE, self.0.send(message)).await.expect("in time").expect("sent");
    }

    /// The next thing that is said, pings aside; a ticket is put by.
    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            let next = timeout(PATIENCE, self.0.next()).await.expect("waited in vain");
            return match next {
                Some(Ok(Message::Binary(bytes))) => match Frame::decode(&bytes).expect("a frame") {
                    Frame::Ticket { ticket, secret } => {
                        self.1 = Some((ticket, secret));
                        continue;
                    }
                    frame => Heard::Frame(frame),
                },
                Some(Ok(Message::Close(frame))) => Heard::Closed(frame.map(|CloseFrame { code, .. }| code.into())),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Heard::Closed(None),
            };
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        match self.hear().await {
            Heard::Frame(frame) => frame,
            Heard::Closed(code) => panic!("closed with {code:?}"),
        }
    }

    /// Sends and hears the answer.
    pub(crate) async fn ask(&mut self, frame: Frame) -> Frame {
        self.send(frame).await;
        self.frame().await
    }

    /// Sends what is to be refused and hears why.
    pub(crate) async fn refused(&mut self, frame: Frame) -> Code {
        match self.ask(frame).await {
            Frame::Err { code, .. } => code,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Opens pairing `n`; its resume token.
    pub(crate) async fn open(&mut self, n: u8) -> [u8; 32] {
        match self.ask(open(n)).await {
            Frame::Opened { token, .. } => token,
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Claims pairing `n`; its resume token.
    pub(crate) async fn claim(&mut self, n: u8) -> [u8; 32] {
        match self.ask(claim(n)).await {
            Frame::Claimed { token, .. } => token,
            other => panic!("not claimed: {other:?}"),
        }
    }

    pub(crate) async fn subscribe(&mut self, name: Channel) -> u64 {
        match self.ask(Frame::Subscribe { channel: name.to_string(), since: None }).await {
            Frame::Subscribed { place, .. } => place.offset,
            other => panic!("not subscribed: {other:?}"),
        }
    }

    /// Reads until the relay has dealt with everything that was sent.
    pub(crate) async fn caught_up(&mut self) {
        self.send(Frame::Subscribe { channel: "nowhere".into(), since: None }).await;
        while !matches!(self.frame().await, Frame::Err { code: Code::Unknown, rid: None, .. }) {}
    }

    /// That nothing more was said: everything before the answer to this would have come before it.
    pub(crate) async fn silent(&mut self) {
        let nowhere = Frame::Subscribe { channel: "nowhere".into(), since: None };
        assert_eq!(self.refused(nowhere).await, Code::Unknown);
    }
}

/// A pairing `n` between two fresh connections: agent, its token, device, its token.
pub(crate) async fn paired(
    relay: &TestRelay,
    agent: &AgentIdentity,
    device: &DeviceIdentity,
    n: u8,
) -> (Client, [u8; 32], Client, [u8; 32]) {
    let mut agent = Client::connect(relay, agent).await;
    let mut device = Client::connect(relay, device).await;
    let agent_token = agent.open(n).await;
    let device_token = device.claim(n).await;
    assert_eq!(agent.frame().await, claim(n));
    (agent, agent_token, device, device_token)
}

pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
