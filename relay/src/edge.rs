//! The edge: sockets in, HTTP/1.1 on them, and from there a WebSocket, a stream of events, a health check, the metrics, or the
//! API of whoever shares this listener.
//!
//! ```text
//! accept -> first byte -> turn -> PROXY header -> TLS -> GET /v1/ws         -> connection::begin
//!                                                        GET /v1/events     -> connection::begin
//!                                                        POST /v1/send      -> stream
//!                                                        GET /health/live   200 while the process runs
//!                                                        GET /health/ready  200 while clients should come here
//!                                                        GET /metrics       Prometheus text
//!                                                        /api/...           the control plane, where it is in this process
//! ```
//!
//! In all that is spoken here the client speaks first. Until then a socket is the acceptor's, and costs a small task there and no
//! turn, so that any number of them takes nothing from those who speak.
//!
//! Nothing before authentication may cost much: the request head is bounded in bytes and in time, and a socket that was
//! refused is answered 503 with a time to come back where that is cheap, and otherwise closed.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gatepass_protocol::sse::{EVENTS, SEND};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1::{self, Parts},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, watch},
    time::timeout,
};
use tracing::{debug, error, warn};

use crate::{
    acceptor::Acceptor,
    admission::Entry,
    backplane::BoxFuture,
    connection,
    core::Core,
    forwarded::{self, Proxies},
    line::Line,
    locked,
    metrics::{Label, Limit},
    post,
    socket::Socket,
    sse,
    stream::Stream,
    tls::Tls,
    upgrade::{self, Asked, accept_key, ask, switching},
    wire::wire,
};

/// What answers requests outside of the relay's own paths.
pub type Api = Arc<dyn Fn(Request<Incoming>, SocketAddr) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync>;

/// The largest request head. Ours need less than 1 KiB; browsers and proxies add theirs.
const MAX_HEAD: usize = 16 * 1024;
/// A probe of the backplane that takes longer counts as failed.
const PROBE: Duration = Duration::from_secs(1);
/// For how many times the handshake limit a socket may ask one thing after another. A balancer's own may for ever.
const ASKING: u32 = 4;
/// How long requests under way are given at the end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Accepts sockets until `shutdown`, then drains.
pub(crate) async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    tls: Option<Tls>,
    api: Option<Api>,
    websockets: bool,
    shutdown: impl Future<Output = ()>,
) {
    let (stopping, stop) = watch::channel(false);
    let proxies = Proxies::new(&core.config.edge);
    let door = Arc::new(Door { core: core.clone(), proxies, tls, api, websockets, stop });
    let open = {
        let (door, workers) = (door.clone(), Handle::current());
        move |socket, from, paced| door.clone().open(socket, from, paced, workers.clone())
    };
    let at_door = door.clone();
    let mut acceptor = match Acceptor::start(listener, core.clone(), move |from| at_door.in_time(from.ip()), open) {
        Ok(acceptor) => acceptor,
        Err(error) => return error!(%error, "can't accept connections"),
    };
    {
        let keep_tls = async {
            if let Some(tls) = &door.tls {
                tls.watch(&core.metrics).await;
            }
        };
        let work = async { tokio::join!(core.tick(), core.learn_secret(), core.quotas.settle(), keep_tls) };
        tokio::pin!(work);
        tokio::select! {
            _ = &mut work => {}
            () = shutdown => {}
        }
        // Meanwhile whoever asks is told so: a load balancer that this relay is not ready, a client to come back later.
        tokio::select! {
            _ = &mut work => {}
            () = core.drain() => {}
        }
    }
    acceptor.close().await;
    let _ = stopping.send(true);
    if timeout(LAST_REQUESTS, core.admission.empty()).await.is_err() {
        warn!("some connections did not end in time");
    }
}

struct Door {
    core: Arc<Core>,
    proxies: Proxies,
    tls: Option<Tls>,
    api: Option<Api>,
    /// Whether clients are let in at all, or only whoever asks the API.
    websockets: bool,
    stop: watch::Receiver<bool>,
}

/// One socket on its way through HTTP.
struct Visit {
    door: Arc<Door>,
    /// The client, or the proxy that asks for one client after another.
    from: SocketAddr,
    since: Instant,
    /// It is told that it stops at this limit, and nothing else.
    stopped: Option<Limit>,
    /// It has asked for something: from then on it may idle a while.
    asked: AtomicBool,
    /// Goes on with what the socket becomes.
    entry: Mutex<Option<Entry>>,
    turn: Mutex<Option<Turn>>,
}

/// What a socket becomes when HTTP is over on it, with what HTTP has yet to say.
enum Turn {
    WebSocket(Vec<u8>),
    Stream(Stream, Vec<u8>),
}

impl Door {
    /// Whether an address comes no more often than it may; a proxy has to say first for whom it does.
    fn in_time(&self, from: IpAddr) -> Result<(), Limit> {
        if self.proxies.contain(from) { Ok(()) } else { self.core.admission.in_time(from) }
    }

    /// A new socket, in the acceptor's runtime. It goes over to the `workers` when it has its turn.
    fn open(self: Arc<Self>, socket: TcpStream, from: SocketAddr, paced: Result<(), Limit>, workers: Handle) {
        match paced.and_then(|()| self.core.admission.admit()) {
            Ok(connection) => drop(tokio::spawn(self.first_byte(socket, from, connection, workers))),
            Err(limit) => self.stop(socket, from, limit),
        }
    }

    /// Waits until there is something to do, and the time to do it.
    async fn first_byte(
        self: Arc<Self>,
        socket: TcpStream,
        from: SocketAddr,
        connection: OwnedSemaphorePermit,
        workers: Handle,
    ) {
        let mut stop = self.stop.clone();
        // Looked for, and left where it is: what tokio says of a new socket is a guess.
        let mut byte = [0];
        let spoken = tokio::select! {
            spoken = timeout(self.handshake_limit(), socket.peek(&mut byte)) => spoken,
            _ = stop.wait_for(|stopping| *stopping) => return,
        };
        match spoken {
            Ok(Ok(1)) => {}
            // It is gone without a word.
            Ok(_) => return,
            Err(_) => return self.core.metrics.refused.inc(Limit::HandshakeTime),
        }
        let turn = match self.core.admission.turn(from.ip()).await {
            Ok(turn) => turn,
            Err(limit) => return self.stop(socket, from, limit),
        };
        let entry = Entry { connection, handshake: Some(turn) };
        let moved = socket.into_std().map(|socket| workers.spawn(self.speaks(socket, from, entry)));
        if let Err(error) = moved {
            warn!(%error, "lost a socket");
        }
    }

    /// A socket that has something to say, at the workers.
    async fn speaks(self: Arc<Self>, socket: std::net::TcpStream, from: SocketAddr, entry: Entry) {
        match TcpStream::from_std(socket) {
            Ok(socket) => self.announced(socket, from, entry).await,
            Err(error) => warn!(%error, "lost a socket"),
        }
    }

    /// Lets the proxy say first whose socket it is, where it is a proxy's.
    async fn announced(self: Arc<Self>, mut socket: TcpStream, from: SocketAddr, entry: Entry) {
        let mut client = from;
        if self.proxies.announce(from.ip()) {
            let refused = &self.core.metrics.refused;
            match timeout(self.handshake_limit(), forwarded::read(&mut socket)).await {
                Ok(Ok(said)) => client = said.unwrap_or(from),
                Ok(Err(error)) => {
                    refused.inc(Limit::ProxyHeader);
                    return warn!(proxy = %from.ip(), %error, "closed");
                }
                Err(_) => return refused.inc(Limit::HandshakeTime),
            }
            if !self.proxies.contain(client.ip())
                && let Err(limit) = self.core.admission.in_time(client.ip())
            {
                return self.stop(socket, client, limit);
            }
        }
        self.visit(client, None, Some(entry)).receive(socket).await;
    }

    /// Tells a socket that it was not let in, where that costs little; otherwise it is just closed.
    fn stop(self: Arc<Self>, socket: TcpStream, from: SocketAddr, limit: Limit) {
        debug!(limit = limit.text(), "refused");
        // Without TLS an answer is cheap; a TLS handshake is the very thing that the limit is there to save.
        let place = if self.tls.is_none() { self.core.admission.place_to_be_told() } else { None };
        if let Some(place) = place {
            let visit = self.visit(from, Some(limit), None);
            tokio::spawn(async move {
                visit.receive(socket).await;
                drop(place);
            });
        }
    }

    fn visit(self: Arc<Self>, from: SocketAddr, stopped: Option<Limit>, entry: Option<Entry>) -> Arc<Visit> {
        let (asked, turn) = Default::default();
        Arc::new(Visit { door: self, from, since: Instant::now(), stopped, asked, entry: Mutex::new(entry), turn })
    }

    fn handshake_limit(&self) -> Duration {
        Duration::from_secs(self.core.config.limits.handshake_seconds.get().into())
    }
}

impl Visit {
    async fn receive(self: Arc<Self>, socket: TcpStream) {
        let limit = self.door.handshake_limit();
        let mut socket = match &self.door.tls {
            None => Socket::plain(socket),
            Some(tls) => match timeout(limit, tls.acceptor().accept(socket)).await {
                Ok(Ok(socket)) => Socket::tls(socket),
                Ok(Err(error)) => return debug!(%error, "no TLS"),
                Err(_) => return self.door.core.metrics.refused.inc(Limit::HandshakeTime),
            },
        };
        if !self.may_be_let_in_at_once() {
            return Box::pin(self.http(socket)).await;
        }
        let mut stop = self.door.stop.clone();
        let asked = tokio::select! {
            asked = timeout(limit, ask(&mut socket, MAX_HEAD)) => asked,
            _ = stop.wait_for(|stopping| *stopping) => return,
        };
        match asked {
            Ok(Ok(Asked::WebSocket { accept, early })) => {
                self.let_in(socket, early, Turn::WebSocket(switching(&accept))).await;
            }
            Ok(Ok(Asked::Other(read))) => {
                socket.unread(read);
                // On the heap: few sockets come here, and all would have a place for it.
                Box::pin(self.http(socket)).await;
            }
            Ok(Err(error)) => debug!(%error, "no HTTP"),
            Err(_) => self.door.core.metrics.refused.inc(Limit::HandshakeTime),
        }
    }

    /// Whether the client is known and nothing speaks against a WebSocket: then its request needs no HTTP server.
    fn may_be_let_in_at_once(&self) -> bool {
        let door = &self.door;
        self.stopped.is_none() && door.websockets && !door.core.is_draining() && !door.proxies.contain(self.from.ip())
    }

    /// Serves requests until the end, or until one of them makes the socket something else.
    async fn http(self: Arc<Self>, socket: Socket) {
        let service = service_fn(|request| {
            let visit = self.clone();
            async move {
                let mut response = visit.answer(request).await;
                visit.answered(&mut response);
                Ok::<_, Infallible>(response)
            }
        });
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.door.handshake_limit())
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(socket), service);
        let mut stop = self.door.stop.clone();
        // A request that makes it something else is never answered by HTTP.
        let serve = poll_fn(|context| match Pin::new(&mut http).poll(context) {
            Poll::Pending if locked(&self.turn).is_none() => Poll::Pending,
            served => Poll::Ready(served),
        });
        let served = tokio::select! {
            served = serve => Some(served),
            _ = stop.wait_for(|stopping| *stopping) => None,
        };
        let served = match served {
            Some(Poll::Ready(served)) => served,
            Some(Poll::Pending) => {
                let Parts { io, read_buf, .. } = http.into_parts();
                let turn = locked(&self.turn).take();
                if let Some(turn) = turn {
                    self.let_in(io.into_inner(), read_buf.into(), turn).await;
                }
                return;
            }
            None => {
                Pin::new(&mut http).graceful_shutdown();
                http.await
            }
        };
        match served {
            Err(error) if error.is_timeout() && !self.asked.load(Relaxed) && self.stopped.is_none() => {
                self.door.core.metrics.refused.inc(Limit::HandshakeTime)
            }
            Err(error) => debug!(%error, "no HTTP"),
            Ok(()) => {}
        }
    }

    /// The socket is no longer HTTP's from here on. `early`: what its client has said since.
    async fn let_in(self: Arc<Self>, socket: Socket, early: Vec<u8>, turn: Turn) {
        // A socket that was stopped has no entry, and was answered so; one that had given up its place has another.
        let Some(Entry { connection, handshake: Some(handshake) }) = locked(&self.entry).take() else { return };
        let core = self.door.core.clone();
        drop(self);
        let (tcp, tls) = socket.into_parts();
        let (reader, writer) = wire(tcp, tls);
        let (line, http) = match turn {
            Turn::WebSocket(http) => (Line::new(reader, early), http),
            Turn::Stream(stream, http) => (Line::of_stream(reader, stream), http),
        };
        connection::begin(core, line, writer, http, handshake, connection).await;
    }

    /// Gives back the turn, of which who asks on and on has no need, and ends the socket where it has asked for long enough: so an
    /// address has no more of them than it may open in that time.
    fn answered(&self, response: &mut Response<Full<Bytes>>) {
        if let Some(entry) = &mut *locked(&self.entry) {
            entry.handshake = None;
        }
        if !self.door.proxies.contain(self.from.ip()) && self.since.elapsed() >= self.door.handshake_limit() * ASKING {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.asked.store(true, Relaxed);
        if let Some(limit) = self.stopped {
            return self.unavailable(limit);
        }
        let core = &self.door.core;
        let path = request.uri().path();
        let to = if path == SEND { core.streams.address(request.headers()) } else { None };
        // Who posts to a stream that is here was let in with it; anything else counts as somebody who comes.
        let is_known = to.is_some_and(|to| core.streams.is_here(&to));
        let from = match self.door.proxies.client_of(self.from.ip(), request.headers()) {
            Ok(None) => self.from,
            Ok(Some(client)) if is_known => (client, 0).into(),
            Ok(Some(client)) => match core.admission.in_time(client) {
                Ok(()) => (client, 0).into(),
                Err(limit) => return self.unavailable(limit),
            },
            Err(error) => {
                core.metrics.refused.inc(Limit::ProxyHeader);
                warn!(proxy = %self.from.ip(), %error, "closed");
                let mut response = text(StatusCode::BAD_REQUEST, format!("{}\n", Limit::ProxyHeader.text()));
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                return response;
            }
        };
        match (request.method(), path) {
            (_, upgrade::PATH | EVENTS | SEND) if !self.door.websockets => {
                text(StatusCode::NOT_FOUND, "there is no relay here\n")
            }
            (&Method::GET, upgrade::PATH | EVENTS) if core.is_draining() => {
                core.metrics.refused.inc(Limit::Draining);
                self.unavailable(Limit::Draining)
            }
            (&Method::GET, upgrade::PATH) => self.upgrade(&request).await,
            (&Method::GET, EVENTS) => self.stream().await,
            (&Method::POST, SEND) => {
                // Whoever is charged for each request by a proxy's word has been.
                if !is_known
                    && from == self.from
                    && !self.door.proxies.contain(from.ip())
                    && let Err(limit) = core.admission.in_time(from.ip())
                {
                    return self.unavailable(limit);
                }
                if to.is_some()
                    && let Some(entry) = &mut *locked(&self.entry)
                {
                    entry.handshake = None;
                }
                post::take(core, to, request, self.door.handshake_limit()).await
            }
            (&Method::GET, "/health/live") => text(StatusCode::OK, "live\n"),
            (&Method::GET, "/health/ready") => self.ready().await,
            (&Method::GET, "/metrics") => {
                let mut response = text(StatusCode::OK, core.metrics.render());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            (_, upgrade::PATH | EVENTS | "/health/live" | "/health/ready" | "/metrics") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
            }
            (_, SEND) => text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n"),
            _ => match &self.door.api {
                Some(api) => api(request, from).await,
                None => text(StatusCode::NOT_FOUND, "not here\n"),
            },
        }
    }

    /// Whether clients should come here.
    async fn ready(&self) -> Response<Full<Bytes>> {
        let core = &self.door.core;
        if core.is_draining() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        match timeout(PROBE, core.plane.probe()).await {
            Ok(Ok(())) => text(StatusCode::OK, "ready\n"),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "the backplane does not answer\n"),
        }
    }

    async fn upgrade(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let named = |name| request.headers().get_all(name).into_iter().map(HeaderValue::as_bytes);
        let Some(accept) = accept_key(named) else {
            let mut response = text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket, version 13\n");
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return response;
        };
        self.turn_into(Turn::WebSocket(switching(&accept))).await
    }

    async fn stream(&self) -> Response<Full<Bytes>> {
        let core = &self.door.core;
        match core.streams.begin() {
            Some((stream, token)) => self.turn_into(Turn::Stream(stream, sse::opening(&token, core.now()))).await,
            None => self.later("the backplane has not answered yet\n"),
        }
    }

    /// Ends HTTP on this socket: never returns, unless it may not.
    async fn turn_into(&self, turn: Turn) -> Response<Full<Bytes>> {
        match &mut *locked(&self.entry) {
            Some(Entry { handshake: Some(_), .. }) => {}
            // After POSTs of somebody else, for whom a proxy keeps the socket open.
            Some(Entry { handshake, .. }) => match self.door.core.admission.turn_now() {
                Ok(again) => *handshake = Some(again),
                Err(limit) => return self.unavailable(limit),
            },
            None => return text(StatusCode::BAD_REQUEST, "this connection was not let in\n"),
        }
        *locked(&self.turn) = Some(turn);
        std::future::pending().await
    }

    /// 503, with a time to come back that differs for each, so that they don't all come back at once.
    fn unavailable(&self, limit: Limit) -> Response<Full<Bytes>> {
        self.later(format!("{}\n", limit.text()))
    }

    fn later(&self, why: impl Into<Bytes>) -> Response<Full<Bytes>> {
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, why);
        let seconds = 1 + (self.door.core.fraction() * 10.0) as u16;
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
