//! Streams of events, and the way of a POST to the stream that it belongs to.
//!
//! A client without a WebSocket hears in one request, which never ends, and speaks in others, which a balancer may send to
//! any relay of the region. So the stream's token says at which node the stream is, and each POST shows it.
//!
//! ```text
//! token = base64url(node u64 || stream 16 || HMAC(key, "gp1 stream" node stream))     key = HMAC(the region's secret, "gp1 stream key")
//!
//!  client --- POST ---> any node: token right? body whole? ---> the stream's node: in turn? ---> the connection's task
//!         <-- 204 ----                                     <---                             <---
//! ```
//!
//! Any node sees whether a token is one of the region's before it costs anything, and reads at most one POST of a stream at a
//! time. The connection's task takes POSTs as it takes frames from a socket: when it is done with those before. Of what waits
//! for it there is a bound; beyond that the client is told to come again. A number that was taken is not taken twice, so
//! whoever lost an answer asks again; with other frames it is somebody else's, and the client learns that it is not alone.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use dashmap::{DashMap, Entry};
use gatepass_protocol::sse::Post;
use hyper::header::{self, HeaderMap};
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::debug;

use crate::{
    backplane::Backplane,
    metrics::{Held, Label, Metrics, Posted},
    websocket::Received,
};

/// POSTs that may wait for a connection's task: each node of the region can have one.
const WAITING: usize = 4;
/// How long a POST waits for its turn. A client asks again after that, so it is shorter than what proxies put up with.
const TURN: Duration = Duration::from_secs(10);
/// How long another node is waited for, which lets a POST wait for so long itself.
const ELSEWHERE: Duration = Duration::from_secs(12);
/// Bytes of what a token's MAC is about.
const NAMED: usize = 24;
/// Bytes of a MAC.
const MAC: usize = 32;
/// What a note between nodes begins with.
const ASK: u8 = b'P';
const ANSWER: u8 = b'A';

type Id = [u8; 16];

/// Where a stream is, as a token of this region says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    node: u64,
    stream: Id,
}

/// The streams of this node.
#[derive(Debug)]
pub(crate) struct Streams {
    node: u64,
    /// Once the region's secret is known.
    key: OnceLock<Key>,
    open: DashMap<Id, mpsc::Sender<Waiting>>,
    /// Streams, here or elsewhere, of which a POST is being read here.
    reading: DashMap<Id, ()>,
    /// Who waits for another node's answer.
    asked: DashMap<u64, oneshot::Sender<Posted>>,
    asks: AtomicU64,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Waiting {
    post: Post,
    answer: oneshot::Sender<Posted>,
}

/// One stream's end at its connection. Dropped with it.
#[derive(Debug)]
pub(crate) struct Stream {
    id: Id,
    streams: Arc<Streams>,
    posts: mpsc::Receiver<Waiting>,
    /// The number of the last that was taken, and by what its frames are known again.
    taken: u64,
    known_by: u64,
    hashing: RandomState,
    _counted: Held,
}

/// The right to read a POST.
#[derive(Debug)]
pub(crate) struct Reading<'a>(&'a Streams, Id);

/// A question to another node. Forgotten with its asker, who may be cut off before the answer.
struct Asked<'a>(&'a Streams, u64);

impl Streams {
    /// Of the node by this name.
    pub(crate) fn new(node: u64, metrics: Arc<Metrics>) -> Arc<Self> {
        let (key, open, reading, asked, asks) = Default::default();
        Arc::new(Self { node, key, open, reading, asked, asks, metrics })
    }

    /// The region's secret is known: from now on there can be streams.
    pub(crate) fn learn(&self, secret: &[u8; 32]) {
        let key = sign(&Key::new(HMAC_SHA256, secret), b"gp1 stream key");
        let _ = self.key.set(Key::new(HMAC_SHA256, key.as_ref()));
    }

    /// A new stream and its token; `None` while there can't be any.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<(Stream, String)> {
        let key = self.key.get()?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).ok()?;
        let (sender, posts) = mpsc::channel(WAITING);
        self.open.insert(id, sender);
        let (hashing, _counted) = (RandomState::new(), self.metrics.streams.hold());
        let stream = Stream { id, streams: self.clone(), posts, taken: 0, known_by: 0, hashing, _counted };
        Some((stream, Address { node: self.node, stream: id }.token(key)))
    }

    /// To which stream a request is addressed, if its token is one of the region's.
    pub(crate) fn address(&self, headers: &HeaderMap) -> Option<Address> {
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let address = Address::read(token.trim(), self.key.get()?);
        address.filter(|_| scheme.eq_ignore_ascii_case("bearer"))
    }

    /// Whether the stream is at this node.
    pub(crate) fn is_here(&self, address: &Address) -> bool {
        address.node == self.node && self.open.contains_key(&address.stream)
    }

    /// The right to read a stream's POST; `None` while another one of it is being read.
    pub(crate) fn read(&self, address: &Address) -> Option<Reading<'_>> {
        match self.reading.entry(address.stream) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(());
                Some(Reading(self, address.stream))
            }
        }
    }

    /// Brings a POST to its stream: `body` is `post` as it came.
    pub(crate) async fn send(&self, plane: &dyn Backplane, to: &Address, post: Post, body: Bytes) -> Posted {
        if to.node == self.node {
            return self.hand(&to.stream, post).await;
        }
        self.metrics.posts_carried.inc();
        let call = self.asks.fetch_add(1, Relaxed);
        let (sender, answer) = oneshot::channel();
        self.asked.insert(call, sender);
        let _asked = Asked(self, call);
        let ask = [&[ASK], &self.node.to_be_bytes()[..], &call.to_be_bytes(), &to.stream, &body].concat();
        match plane.tell(to.node, ask.into()).await {
            Ok(true) => match timeout(ELSEWHERE, answer).await {
                Ok(Ok(posted)) => posted,
                // It may have been taken; the number says so when it comes again.
                _ => Posted::Busy,
            },
            Ok(false) => Posted::Gone,
            Err(refusal) => {
                debug!(%refusal, "a POST could not be carried");
                Posted::Busy
            }
        }
    }

    /// What another node says.
    pub(crate) fn told(self: &Arc<Self>, plane: &Arc<dyn Backplane>, note: &[u8]) {
        match Note::read(note) {
            Some(Note::Ask { from, call, stream, body }) => {
                let Ok(post) = Post::decode(body) else { return };
                let (streams, plane) = (self.clone(), plane.clone());
                // As many as wait for streams here, which is bounded; the rest is answered at once.
                tokio::spawn(async move {
                    let posted = streams.hand(&stream, post).await;
                    let answer = [&[ANSWER], &call.to_be_bytes()[..], &[posted as u8]].concat();
                    let _ = plane.tell(from, answer.into()).await;
                });
            }
            Some(Note::Answer { call, posted }) => {
                // Where nobody waits any more, it was late.
                let _ = self.asked.remove(&call).map(|(_, asker)| asker.send(posted));
            }
            None => debug!("a note of another version was not understood"),
        }
    }

    /// Hands a POST to its connection's task and waits until it has been taken.
    async fn hand(&self, stream: &Id, post: Post) -> Posted {
        let Some(posts) = self.open.get(stream).map(|found| found.clone()) else { return Posted::Gone };
        let (answer, taken) = oneshot::channel();
        match posts.try_send(Waiting { post, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Posted::Busy,
            Err(mpsc::error::TrySendError::Closed(_)) => return Posted::Gone,
        }
        match timeout(TURN, taken).await {
            Ok(taken) => taken.unwrap_or(Posted::Gone),
            Err(_) => Posted::Busy,
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.reading.remove(&self.1);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.asked.remove(&self.1);
    }
}

impl Stream {
    /// Takes the next POST whose turn it is: what it says comes into the inbox.
    pub(crate) fn poll_taken(&mut self, context: &mut Context<'_>, inbox: &mut VecDeque<Received>) -> Poll<()> {
        // None once it is closed: then nothing comes any more.
        while let Poll::Ready(Some(Waiting { post: Post { number, frames }, answer })) = self.posts.poll_recv(context) {
            let known_by = self.hashing.hash_one(&frames);
            let posted = match number.checked_sub(self.taken) {
                Some(1) => Posted::Taken,
                Some(2..) => Posted::OutOfOrder,
                Some(0) if known_by != self.known_by => Posted::OutOfOrder,
                _ => Posted::Repeated,
            };
            // Nobody may be there to hear it: then it is asked again.
            let _ = answer.send(posted);
            if posted == Posted::Taken {
                (self.taken, self.known_by) = (number, known_by);
                match frames.is_empty() {
                    true => inbox.push_back(Received::Ping(Bytes::new())),
                    false => inbox.extend(frames.into_iter().map(Received::Binary)),
                }
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Takes nothing any more.
    pub(crate) fn close(&mut self) {
        self.posts.close();
        while self.posts.try_recv().is_ok() {}
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.open.remove(&self.id);
    }
}

impl Address {
    fn token(&self, key: &Key) -> String {
        let named = [&self.node.to_be_bytes()[..], &self.stream].concat();
        let mac = sign(key, &labelled(&named));
        URL_SAFE_NO_PAD.encode([&named, mac.as_ref()].concat())
    }

    fn read(token: &str, key: &Key) -> Option<Self> {
        // Longer ones are not even decoded.
        let bytes = Some(token).filter(|token| token.len() <= (NAMED + MAC) * 2)?;
        let bytes = URL_SAFE_NO_PAD.decode(bytes).ok()?;
        let (named, mac) = bytes.split_first_chunk::<NAMED>()?;
        verify(key, &labelled(named), mac).ok()?;
        let (node, stream) = named.split_first_chunk()?;
        Some(Self { node: u64::from_be_bytes(*node), stream: stream.try_into().ok()? })
    }
}

fn labelled(named: &[u8]) -> Vec<u8> {
    [b"gp1 stream", named].concat()
}

/// What nodes say to each other about POSTs.
enum Note<'a> {
    Ask { from: u64, call: u64, stream: Id, body: &'a [u8] },
    Answer { call: u64, posted: Posted },
}

impl<'a> Note<'a> {
    fn read(note: &'a [u8]) -> Option<Self> {
        let (kind, rest) = note.split_first()?;
        let number = |bytes: &'a [u8]| {
            let (number, rest) = bytes.split_first_chunk()?;
            Some((u64::from_be_bytes(*number), rest))
        };
        match *kind {
            ASK => {
                let (from, rest) = number(rest)?;
                let (call, rest) = number(rest)?;
                let (stream, body) = rest.split_first_chunk()?;
                Some(Note::Ask { from, call, stream: *stream, body })
            }
            ANSWER => {
                let (call, posted) = number(rest)?;
                let [posted] = posted else { return None };
                Some(Note::Answer { call, posted: *Posted::ALL.get(usize::from(*posted))? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::{Memory, backplane::conformance::Heard};

    fn streams(secret: u8) -> Arc<Streams> {
        let streams = Streams::new(7, Arc::default());
        streams.learn(&[secret; 32]);
        streams
    }

    fn addressed(streams: &Streams, authorization: &str) -> Option<Address> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        streams.address(&headers)
    }

    fn post(number: u64) -> Post {
        Post { number, frames: vec![Bytes::from(vec![number as u8])] }
    }

    #[test]
    fn a_token_names_its_stream_at_every_node_of_the_region_and_at_no_other() {
        let here = streams(1);
        assert!(Streams::new(7, Arc::default()).begin().is_none(), "nobody knows the secret yet");
        let (stream, token) = here.begin().unwrap();
        let address = addressed(&here, &format!("Bearer {token}")).unwrap();
        assert!(here.is_here(&address));
        let elsewhere = Streams::new(8, Arc::default());
        elsewhere.learn(&[1; 32]);
        assert_eq!(addressed(&elsewhere, &format!("bearer {token}")), Some(address));
        assert!(!elsewhere.is_here(&address));
        assert_eq!(addressed(&streams(2), &format!("Bearer {token}")), None, "another region");
        assert_eq!(addressed(&here, &format!("Basic {token}")), None);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(addressed(&here, &format!("Bearer {changed}")), None, "byte {at} changed");
            let cut = URL_SAFE_NO_PAD.encode(&bytes[..at]);
            assert_eq!(addressed(&here, &format!("Bearer {cut}")), None, "cut at {at}");
        }
        drop(stream);
        assert!(!here.is_here(&address) && here.open.is_empty());
    }

    #[test]
    fn of_one_stream_one_post_is_read_at_a_time() {
        let streams = streams(1);
        let (_stream, token) = streams.begin().unwrap();
        let address = addressed(&streams, &format!("Bearer {token}")).unwrap();
        let first = streams.read(&address).unwrap();
        assert!(streams.read(&address).is_none());
        drop(first);
        assert!(streams.read(&address).is_some() && streams.reading.is_empty());
    }

    #[tokio::test]
    async fn each_number_is_taken_once_and_in_its_turn() {
        let streams = streams(1);
        let (mut stream, _) = streams.begin().unwrap();
        let id = stream.id;
        let mut inbox = VecDeque::new();
        let take = async {
            loop {
                poll_fn(|context| stream.poll_taken(context, &mut inbox)).await;
            }
        };
        let hand = async {
            let mut answers = vec![];
            for number in [2, 1, 1, 2, 4, 3, 1] {
                answers.push(streams.hand(&id, post(number)).await);
            }
            answers.push(streams.hand(&id, Post { number: 3, ..post(7) }).await);
            answers
        };
        let answers = tokio::select! {
            answers = hand => answers,
            () = take => unreachable!(),
        };
        use Posted::{OutOfOrder, Repeated, Taken};
        let expected = [OutOfOrder, Taken, Repeated, Taken, OutOfOrder, Taken, Repeated, OutOfOrder];
        assert_eq!(answers, expected, "the last one is somebody else's");
        let frames = [1, 2, 3].map(|n: u8| Received::Binary(Bytes::from(vec![n])));
        assert_eq!(inbox, frames);
        drop(stream);
        assert_eq!(streams.hand(&id, post(4)).await, Posted::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_connection_that_takes_nothing_is_bounded() {
        let streams = streams(1);
        let (stream, _) = streams.begin().unwrap();
        let hand = || streams.hand(&stream.id, post(1));
        let waiting = [hand(), hand(), hand(), hand()];
        let (waited, refused) = tokio::join!(futures_util::future::join_all(waiting), hand());
        assert_eq!(refused, Posted::Busy, "at once");
        assert_eq!(waited, [Posted::Busy; WAITING], "after a while");
    }

    /// A node's part in what nodes say to each other.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_gone_or_says_nothing_keeps_nobody_waiting_for_ever() {
        let memory = Memory::new(Duration::from_secs(60));
        let silent = Arc::new(Heard::default());
        let weak: std::sync::Weak<Heard> = Arc::downgrade(&silent);
        let node = memory.join(weak);
        let plane = memory.join(std::sync::Weak::<Heard>::new());
        let streams = Streams::new(plane.name(), Arc::default());
        let to = |node| Address { node, stream: [1; 16] };
        let send = async |node| streams.send(plane.as_ref(), &to(node), post(1), post(1).encode().into()).await;
        assert_eq!(send(node.name()).await, Posted::Busy);
        assert_eq!(send(u64::MAX).await, Posted::Gone);
        assert!(timeout(Duration::from_millis(1), send(node.name())).await.is_err(), "its client is cut off");
        assert!(streams.asked.is_empty());
    }

    proptest! {
        #[test]
        fn no_note_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Note::read(&bytes);
        }
    }
}
