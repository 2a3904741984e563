//! Frames over server-sent events and POSTs, where no WebSocket gets through: see [`gatepass_protocol::sse`].
//!
//! The stream is one request; a task of its own sends what is to be said in others, one at a time, each with all that has
//! gathered meanwhile. One whose answer is lost is sent again under its number.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use gatepass_protocol::{
    frame::Frame,
    sse::{EVENTS, Event, Post, Reader, SEND},
};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    Endpoint, Settings, Why, backoff,
    dial::dial,
    edge,
    link::{End, Opened},
};

/// From the open stream to the challenge.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// For one try of a POST. A relay that can't take it yet says so after 12 s at the latest.
const POST_TIMEOUT: Duration = Duration::from_secs(15);
/// For all tries of one.
const POST_PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries, give or take half, beside what the relay asks for.
const AGAIN: Duration = Duration::from_millis(500);
/// Frames that wait for the next POST.
const WAITING: usize = 64;
/// The largest answer to a POST that is read: a word.
const LARGEST_ANSWER: usize = 4 * 1024;
/// What an HTTP connection holds of what it reads: a frame and a half.
const READ_BUFFER: usize = 16 * 1024;

/// A stream of events and the POSTs that belong to it.
pub(crate) struct Events {
    relay: String,
    stream: Incoming,
    reader: Reader,
    ready: VecDeque<Event>,
    /// An empty one: a sign of life.
    posts: Option<mpsc::Sender<Bytes>>,
    poster: JoinSet<Result<(), End>>,
    _driver: JoinSet<hyper::Result<()>>,
}

/// Opens a stream, as far as the relay's challenge.
pub(crate) async fn open(settings: &Settings, relay: &Endpoint) -> Result<Opened<Events>, End> {
    let name = relay.authority();
    let opened = timeout(OPEN_TIMEOUT, begin(settings, relay, &name)).await;
    opened.unwrap_or_else(|_| Err(End::silent(&name)))
}

async fn begin(settings: &Settings, relay: &Endpoint, name: &str) -> Result<Opened<Events>, End> {
    let question = Request::get(EVENTS)
        .header(HOST, name)
        .header(ACCEPT, EVENT_STREAM)
        .header(CACHE_CONTROL, "no-store")
        .body(Empty::<Bytes>::new());
    let question = question.map_err(|error| End::cut(name, error))?;
    let (mut sender, _driver) = connect(settings, relay).await?;
    let answer = sender.send_request(question).await.map_err(|error| End::cut(name, error))?;
    let kind = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if answer.status() != StatusCode::OK || !kind.starts_with(EVENT_STREAM.as_bytes()) {
        return Err(End::not_opened(name, answer.status().as_u16(), retry_after(&answer)));
    }
    let mut events = Events {
        relay: name.to_owned(),
        stream: answer.into_body(),
        reader: Reader::default(),
        ready: VecDeque::new(),
        posts: None,
        poster: JoinSet::new(),
        _driver,
    };
    loop {
        match events.event().await? {
            Event::Session(token) if events.posts.is_none() => {
                let poster = Poster::new(settings, relay, &token)?;
                let (sender, queue) = mpsc::channel(WAITING);
                events.posts = Some(sender);
                events.poster.spawn(poster.run(queue));
            }
            Event::Frame(bytes) => match Frame::decode(&bytes) {
                Ok(Frame::Challenge { nonce, .. }) if events.posts.is_some() => return Ok((events, nonce)),
                _ => return Err(End::bad_frame(name, "no challenge")),
            },
            Event::Close { code, .. } => return Err(End::cut(name, format!("closed with {code}"))),
            Event::Session(_) | Event::Ping | Event::Alive => {}
        }
    }
}

const EVENT_STREAM: &str = "text/event-stream";

type Http<B> = (SendRequest<B>, JoinSet<hyper::Result<()>>);

async fn connect<B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static>(
    settings: &Settings,
    relay: &Endpoint,
) -> Result<Http<B>, End> {
    let stream = dial(relay, &settings.tls, &settings.proxies).await.map_err(Why::from)?;
    let handshake = http1::Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| End::cut(&relay.authority(), error))?;
    // Ends with whoever holds it.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    Ok((sender, driver))
}

fn retry_after<B>(answer: &Response<B>) -> Option<&str> {
    answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok())
}

impl Events {
    async fn event(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let read = tokio::select! {
                Some(ended) = self.poster.join_next() => {
                    return Err(match ended {
                        Ok(Err(end)) => end,
                        // Nobody ends it before us.
                        Ok(Ok(())) | Err(_) => End::cut(&self.relay, "nothing can be sent any more"),
                    });
                }
                read = self.stream.frame() => read,
            };
            let bytes = match read {
                Some(Ok(read)) => read.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(End::cut(&self.relay, error)),
                None => return Err(End::cut(&self.relay, "closed")),
            };
            let ready = &mut self.ready;
            let read = self.reader.read(&bytes, |event| ready.push_back(event));
            read.map_err(|error| End::bad_frame(&self.relay, error))?;
        }
    }

    /// The next frame, or nothing where the relay only gave a sign of life.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, End> {
        match self.event().await? {
            Event::Frame(bytes) => Frame::decode(&bytes).map(Some).map_err(|error| End::bad_frame(&self.relay, error)),
            Event::Ping => {
                // Where no more fits, something is being sent anyway.
                let _ = self.posts.as_ref().map(|posts| posts.try_send(Bytes::new()));
                Ok(None)
            }
            Event::Close { code, .. } => Err(End::cut(&self.relay, format!("closed with {code}"))),
            Event::Session(_) | Event::Alive => Ok(None),
        }
    }

    /// Has these frames sent; waits while too many wait.
    pub(crate) async fn send(&mut self, frames: impl IntoIterator<Item = Frame>) -> Result<(), End> {
        for frame in frames {
            self.post(frame.encode().into()).await?;
        }
        Ok(())
    }

    /// Asks for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), End> {
        self.post(Bytes::new()).await
    }

    async fn post(&mut self, frame: Bytes) -> Result<(), End> {
        if let Some(posts) = &self.posts
            && posts.send(frame).await.is_ok()
        {
            return Ok(());
        }
        Err(match self.poster.join_next().await {
            Some(Ok(Err(end))) => end,
            _ => End::cut(&self.relay, "nothing can be sent any more"),
        })
    }

    /// Waits until all has been sent.
    pub(crate) async fn close(&mut self) {
        self.posts = None;
        self.poster.join_next().await;
    }
}

/// Sends what is to be said.
struct Poster {
    settings: Settings,
    relay: Endpoint,
    authorization: HeaderValue,
    http: Option<Http<Full<Bytes>>>,
    number: u64,
}

impl Poster {
    fn new(settings: &Settings, relay: &Endpoint, token: &str) -> Result<Self, End> {
        let authorization = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut authorization =
            authorization.map_err(|_| End::bad_frame(&relay.authority(), "a token that is none"))?;
        authorization.set_sensitive(true);
        Ok(Self { settings: settings.clone(), relay: relay.clone(), authorization, http: None, number: 0 })
    }

    /// Sends until nothing more comes.
    async fn run(mut self, mut queue: mpsc::Receiver<Bytes>) -> Result<(), End> {
        let mut frames = Vec::new();
        loop {
            if frames.is_empty() && queue.recv_many(&mut frames, WAITING).await == 0 {
                return Ok(());
            }
            // A sign of life needs no POST of its own beside others.
            frames.retain(|frame| !frame.is_empty());
            let rest = frames.split_off(Post::fitting(&frames));
            self.number += 1;
            let post = Post { number: self.number, frames: std::mem::replace(&mut frames, rest) };
            self.post(post.encode().into()).await?;
        }
    }

    async fn post(&mut self, body: Bytes) -> Result<(), End> {
        let begun = Instant::now();
        loop {
            let is_fresh = self.http.is_none();
            let again = AGAIN / 2 + backoff::jitter(AGAIN, u64::from_le_bytes(edge::random()));
            let (pause, end) = match timeout(POST_TIMEOUT, self.ask(body.clone())).await {
                Ok(Ok(answer)) => match answer.status().as_u16() {
                    200..300 => return Ok(()),
                    status @ (408 | 429 | 503) => {
                        let end = End::not_opened(&self.relay.authority(), status, retry_after(&answer));
                        (end.not_before + again, end)
                    }
                    status => return Err(End::cut(&self.relay.authority(), format!("HTTP {status} to a POST"))),
                },
                // One that had been kept may just have been closed.
                Ok(Err(end)) => (if is_fresh { again } else { Duration::ZERO }, end),
                Err(_) => (Duration::ZERO, End::silent(&self.relay.authority())),
            };
            if begun.elapsed() + pause > POST_PATIENCE {
                return Err(end);
            }
            tracing::debug!(why = %end.why, "a POST is sent again");
            sleep(pause).await;
        }
    }

    /// One try, on the connection of the last one where that is still there.
    async fn ask(&mut self, body: Bytes) -> Result<Response<()>, End> {
        let name = self.relay.authority();
        let question = Request::post(SEND)
            .header(HOST, &name)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Full::new(body));
        let question = question.map_err(|error| End::cut(&name, error))?;
        let mut http = self.http.take();
        if let Some((sender, _)) = &mut http
            && sender.ready().await.is_err()
        {
            http = None;
        }
        let (mut sender, driver) = match http {
            Some(http) => http,
            None => connect(&self.settings, &self.relay).await?,
        };
        let (head, body) = sender.send_request(question).await.map_err(|error| End::cut(&name, error))?.into_parts();
        if Limited::new(body, LARGEST_ANSWER).collect().await.is_ok() {
            self.http = Some((sender, driver));
        }
        Ok(Response::from_parts(head, ()))
    }
}
