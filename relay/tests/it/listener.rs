//! A client without a WebSocket, at the level of HTTP: it says exactly what a test tells it to, right or wrong.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    frame::Frame,
    ids::Rid,
    sse::{Event, Post, Reader},
};
use gatepass_relay::testing::{TestRelay, proof};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::client::{Credentials, Heard, PATIENCE, claim, open};

/// A stream of events, and the POSTs that belong to it.
pub(crate) struct Listener {
    pub(crate) socket: TcpStream,
    reader: Reader,
    ready: VecDeque<Event>,
    pub(crate) token: String,
    /// Where POSTs go: any relay of the region.
    pub(crate) post_to: SocketAddr,
    /// Of the last POST.
    pub(crate) number: u64,
}

/// Reads a response's head.
pub(crate) async fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, socket.read_u8()).await.expect("in time").expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

/// A request on a socket of its own, and its answer.
pub(crate) async fn request(to: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(to).await.expect("connected");
    // One that is refused by its head may be closed before all of its body is out.
    let _ = socket.write_all(request).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// A POST's head, for a body of this length.
pub(crate) fn post_head(token: &str, length: usize) -> String {
    format!(
        "POST /v1/send HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
}

pub(crate) async fn post(to: SocketAddr, token: &str, body: &[u8]) -> String {
    request(to, &[post_head(token, body.len()).as_bytes(), body].concat()).await
}

impl Listener {
    /// A stream on a socket that is connected to the relay, not authenticated.
    pub(crate) async fn over(mut socket: TcpStream, address: SocketAddr) -> Self {
        socket.write_all(b"GET /v1/events HTTP/1.1\r\nHost: relay\r\n\r\n").await.expect("sent");
        let head = head(&mut socket).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let (reader, ready, token) = Default::default();
        let mut listener = Self { socket, reader, ready, token, post_to: address, number: 0 };
        loop {
            match listener.event().await {
                Some(Event::Alive) => {}
                Some(Event::Session(token)) => listener.token = token,
                Some(first) => {
                    listener.ready.push_front(first);
                    return listener;
                }
                None => panic!("closed"),
            }
        }
    }

    pub(crate) async fn unauthenticated(relay: &TestRelay) -> Self {
        let socket = TcpStream::connect(relay.address()).await.expect("connected");
        Self::over(socket, relay.address()).await
    }

    pub(crate) async fn connect(relay: &TestRelay, who: &impl Credentials) -> Self {
        Self::unauthenticated(relay).await.welcomed(who).await
    }

    pub(crate) async fn welcomed(mut self, who: &impl Credentials) -> Self {
        let answer = self.authenticate(who).await;
        assert!(matches!(answer, Heard::Frame(Frame::Welcome { .. })), "{answer:?}");
        self
    }

    pub(crate) async fn authenticate(&mut self, who: &impl Credentials) -> Heard {
        let Heard::Frame(Frame::Challenge { nonce, .. }) = self.hear().await else { panic!("no challenge") };
        self.send([Frame::Auth { proof: proof(who.key(), nonce, "127.0.0.1:1"), chain: who.chain() }]).await;
        self.hear().await
    }

    /// The next event; `None` at the end.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let mut bytes = [0; 4_096];
            let read = timeout(PATIENCE, self.socket.read(&mut bytes)).await.expect("waited in vain");
            let read = read.ok().filter(|read| *read > 0)?;
            self.reader.read(&bytes[..read], |event| self.ready.push_back(event)).expect("events");
        }
    }

    /// The next thing that is said, pings and tickets aside.
    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            match self.event().await {
                Some(Event::Frame(bytes)) => match Frame::decode(&bytes).expect("a frame") {
                    Frame::Ticket { .. } => {}
                    frame => return Heard::Frame(frame),
                },
                Some(Event::Close { code, .. }) => return Heard::Closed(Some(code)),
                Some(_) => {}
                None => return Heard::Closed(None),
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        match self.hear().await {
            Heard::Frame(frame) => frame,
            Heard::Closed(code) => panic!("closed with {code:?}"),
        }
    }

    /// The body of the next POST, with these frames.
    pub(crate) fn next_post(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Vec<u8> {
        self.number += 1;
        Post { number: self.number, frames: frames.into_iter().collect() }.encode()
    }

    /// Sends these bytes as frames; the answer's status.
    pub(crate) async fn send_raw(&mut self, frames: impl IntoIterator<Item = Bytes>) -> u16 {
        let body = self.next_post(frames);
        status(&post(self.post_to, &self.token, &body).await)
    }

    pub(crate) async fn send(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let frames: Vec<Bytes> = frames.into_iter().map(|frame| frame.encode().into()).collect();
        assert_eq!(self.send_raw(frames).await, 204);
    }

    /// Sends and hears the answer.
    pub(crate) async fn ask(&mut self, frame: Frame) -> Frame {
        self.send([frame]).await;
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
            Frame::Opened { rid, token } if rid == Rid([n; 16]) => token,
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Claims pairing `n`; its resume token.
    pub(crate) async fn claim(&mut self, n: u8) -> [u8; 32] {
        match self.ask(claim(n)).await {
            Frame::Claimed { rid, token } if rid == Rid([n; 16]) => token,
            other => panic!("not claimed: {other:?}"),
        }
    }

    /// That nothing more was said: everything before the answer to this would have come before it.
    pub(crate) async fn silent(&mut self) {
        assert_eq!(self.refused(Frame::Subscribe { channel: "nowhere".into(), since: None }).await, Code::Unknown);
    }
}
