//! The task behind a [`Connection`](crate::Connection): dial, authenticate, pump, wait, again. It owns the socket; the
//! [`Session`] outlives it.

use std::{collections::HashMap, future::Future, time::Duration};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    frame::{Frame, RelayAuth, return_mac},
    signed::Signed,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, error::Elapsed, sleep_until, timeout},
};

use crate::{
    Endpoint, Regions, State, Why,
    backoff::{self, Backoff},
    connection::{Command, Incoming, Settings},
    edge,
    link::{Blocked, End, Link},
    regions::{self, Board},
    route::Route,
    session::Session,
};
use zeroize::Zeroizing;

/// From CHALLENGE to WELCOME; the relay itself allows 5 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A relay pings more often than this. After it we ask ourselves, for a NAT may have forgotten the connection.
const QUIET: Duration = Duration::from_secs(45);
/// How long a ping or a write may stay without effect.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that held for this long was a good one, as was one that carried a pairing: its end starts from a short wait.
/// Mere subscriptions don't count, or everybody would hammer a relay that breaks under them.
const PROVEN: Duration = Duration::from_secs(10);
/// Requests taken from the queue before one flush.
const BATCH: usize = 32;

/// What a relay gave to come back with, by its authority.
type Tickets = HashMap<String, (Bytes, Zeroizing<[u8; 32]>)>;

/// The program has let go.
struct LetGo;

pub(crate) async fn run(
    settings: Settings,
    regions: Option<Regions>,
    mut commands: mpsc::Receiver<Command>,
    incoming: mpsc::Sender<Incoming>,
    state: watch::Sender<State>,
) {
    let mut session = Session::default();
    let mut backoff = Backoff::default();
    let mut tickets = Tickets::default();
    let blocked = Blocked::default();
    let mut route = Route::default();
    let relays = &settings.relays;
    let board = Board::new(relays.len());
    // Ends with this.
    let mut measuring = JoinSet::new();
    let regions = regions.filter(|_| relays.len() > 1);
    if let Some(regions) = regions {
        let first = regions::measure_all(&settings, &board);
        if meanwhile(first, &mut commands, &incoming, &mut session).await.is_err() {
            state.send_replace(State::Stopped);
            return;
        }
        measuring.spawn(regions::watch_over(settings.clone(), board.clone(), regions));
    }
    while let Some(at) = route.next(|| board.order()) {
        let relay = &relays[at];
        state.send_replace(State::Connecting { attempt: backoff.attempt() });
        let connecting = connect(&settings, relay, &mut tickets, &blocked);
        let Ok(opened) = meanwhile(connecting, &mut commands, &incoming, &mut session).await else {
            break;
        };
        let was_online = opened.is_ok();
        let end = match opened {
            Ok((link, online)) => {
                state.send_replace(online);
                board.is_at(Some(at));
                let since = Instant::now();
                let mut pump = Pump {
                    link,
                    session: &mut session,
                    incoming: &incoming,
                    relay: relay.authority(),
                    tickets: &mut tickets,
                    paired: false,
                    cut: false,
                };
                let home = async {
                    match regions {
                        Some(regions) => board.clone().time_to_return(at, regions).await,
                        None => std::future::pending().await,
                    }
                };
                let unblocked = blocked.gone(&settings, relay);
                let moving = async {
                    let from = relay.authority();
                    tokio::select! {
                        () = home => Why::Returning { relay: from, to: relays[board.home()].authority() },
                        () = unblocked => Why::Unblocked { relay: from },
                    }
                };
                let Err(end) = pump.run(&mut commands, moving).await else { break };
                if pump.cut {
                    // The machine may be in another network.
                    blocked.forget(None);
                }
                let proven = pump.paired || since.elapsed() >= PROVEN;
                session.disconnected();
                board.is_at(None);
                if proven {
                    backoff.succeeded();
                }
                end
            }
            Err(end) => {
                board.failed(at);
                end
            }
        };
        match &end.why {
            Why::Draining { .. } => {
                board.failed(at);
                // Only to a relay that we were told of: a lying one can send us away, but not to a place of its choice.
                let next =
                    end.next.as_ref().and_then(|next| relays.iter().position(|known| known.is_same_server(next)));
                route.sent(at, next, board.order());
            }
            Why::Unblocked { relay } => {
                blocked.forget(Some(relay));
                route.lost(at, board.order());
            }
            Why::Returning { .. } => {
                let (home, order) = (board.home(), board.order());
                route.returning(at, home, order);
            }
            // It can't take up now what there is to take up; another may.
            Why::Refused { code: Code::Draining, .. } if was_online => route.sent(at, None, board.order()),
            // Pairings can be resumed where they are, so back to where we were first.
            _ if was_online => route.lost(at, board.order()),
            _ => {}
        }
        let random = u64::from_le_bytes(edge::random());
        let wait = match &end.why {
            Why::Returning { .. } | Why::Unblocked { .. } => Duration::ZERO,
            // The next relay is not to blame, and may be well: what this one asks for is no matter there.
            _ if !was_online && !route.all_tried() => backoff::jitter(backoff::BASE, random),
            why if why.needs_somebody() => backoff::CAP / 2 + backoff::jitter(backoff::CAP / 2, random),
            _ => backoff.after_failure(random).max(end.not_before),
        };
        let until = Instant::now() + wait;
        tracing::debug!(why = %end.why, "realtime connection ended");
        state.send_replace(State::Waiting { until, why: end.why });
        if meanwhile(sleep_until(until), &mut commands, &incoming, &mut session).await.is_err() {
            break;
        }
    }
    state.send_replace(State::Stopped);
}

/// Waits for `work` while answering the program's requests, which know what to do without a connection.
async fn meanwhile<T>(
    work: impl Future<Output = T>,
    commands: &mut mpsc::Receiver<Command>,
    incoming: &mpsc::Sender<Incoming>,
    session: &mut Session,
) -> Result<T, LetGo> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            command = commands.recv() => session.command(command.ok_or(LetGo)?, Instant::now()),
            () = incoming.closed() => return Err(LetGo),
        }
    }
}

async fn connect(
    settings: &Settings,
    relay: &Endpoint,
    tickets: &mut Tickets,
    blocked: &Blocked,
) -> Result<(Link, State), End> {
    let (mut link, nonce) = Link::open(settings, relay, blocked).await?;
    let authenticated = timeout(HANDSHAKE_TIMEOUT, authenticate(settings, relay, &mut link, nonce, tickets)).await;
    let online = authenticated.map_err(|_| End::silent(&relay.authority()))??;
    Ok((link, online))
}

async fn authenticate(
    settings: &Settings,
    relay: &Endpoint,
    link: &mut Link,
    nonce: [u8; 32],
    tickets: &mut Tickets,
) -> Result<State, End> {
    let name = relay.authority();
    let online = |connection, server_time: u64| {
        let skew = server_time.cast_signed().saturating_sub(edge::now().cast_signed());
        State::Online { relay: name.clone(), connection, skew }
    };
    // Kept until the relay gives another or does not take it: where a relay has too much to do to answer in time, whoever comes
    // again must not cost it more than before.
    if let Some((ticket, secret)) = tickets.get(&name) {
        let mac = return_mac(secret, &nonce, &name);
        let back = Frame::Return { ticket: ticket.clone(), relay: name.clone(), mac };
        link.send([back]).await?;
        match receive(link).await? {
            Frame::Welcome { connection, server_time } => return Ok(online(connection, server_time)),
            Frame::Err { code: Code::ResumeDenied, .. } => drop(tickets.remove(&name)),
            Frame::Err { code, text, .. } => return Err(Why::Refused { relay: name, code, text }.into()),
            Frame::Drain { after_ms, url } => return Err(drain(name, after_ms, url.as_deref())),
            _ => return Err(End::bad_frame(&name, "no welcome")),
        }
    }
    let proof = RelayAuth { nonce, relay: name.clone(), time: edge::now() };
    let proof = Signed::sign(proof, &*settings.key).map_err(|error| End::cut(&name, error))?.bytes().clone();
    let auth = Frame::Auth { proof, chain: settings.chain.clone() };
    link.send([auth]).await?;
    match receive(link).await? {
        Frame::Welcome { connection, server_time } => Ok(online(connection, server_time)),
        Frame::Err { code, text, .. } => Err(Why::Refused { relay: name, code, text }.into()),
        Frame::Drain { after_ms, url } => Err(drain(name, after_ms, url.as_deref())),
        _ => Err(End::bad_frame(&name, "no welcome")),
    }
}

/// One online connection.
struct Pump<'a> {
    link: Link,
    session: &'a mut Session,
    incoming: &'a mpsc::Sender<Incoming>,
    relay: String,
    tickets: &'a mut Tickets,
    /// A pairing's message has come.
    paired: bool,
    /// The program wants a new connection; what it asked before goes out first.
    cut: bool,
}

impl Pump<'_> {
    /// Until the program lets go (`Ok`) or the connection ends; also when `moving` says why there should be another, once nobody
    /// would be cut off by that.
    async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        moving: impl Future<Output = Why>,
    ) -> Result<(), End> {
        tokio::pin!(moving);
        self.session.connected();
        let mut heard = Instant::now();
        let mut pinged = false;
        let mut drain_at: Option<(Instant, End)> = None;
        loop {
            self.flush().await?;
            if self.cut {
                let reason = "its program asked for a new one".to_owned();
                return Err(Why::Cut { relay: self.relay.clone(), reason }.into());
            }
            // The relay is read only while the program keeps up, so that a slow program slows its senders.
            let full = !self.session.up.is_empty();
            let is_talking = self.session.is_talking(Instant::now());
            tokio::select! {
                why = &mut moving, if !is_talking && !full => {
                    let _ = timeout(PATIENCE, self.link.close()).await;
                    return Err(why.into());
                }
                command = commands.recv() => match command {
                    Some(command) => self.take(command, commands),
                    None => {
                        let _ = timeout(PATIENCE, self.link.close()).await;
                        return Ok(());
                    }
                },
                slot = self.incoming.reserve(), if full => match slot {
                    Ok(slot) => if let Some(event) = self.session.up.pop_front() { slot.send(event) },
                    Err(_) => self.session.up.clear(),
                },
                () = self.incoming.closed(), if !commands.is_closed() => commands.close(),
                received = self.link.next(), if !full => {
                    (heard, pinged) = (Instant::now(), false);
                    match received? {
                        Some(Frame::Drain { after_ms, url }) => {
                            let end = drain(self.relay.clone(), 0, url.as_deref());
                            drain_at = Some((Instant::now() + Duration::from_millis(after_ms.into()), end));
                        }
                        Some(Frame::Ticket { ticket, secret }) => {
                            self.tickets.insert(self.relay.clone(), (ticket, Zeroizing::new(secret)));
                        }
                        Some(frame) => {
                            self.paired |= matches!(frame, Frame::Forward { .. });
                            self.session.frame(frame).map_err(|frame| self.unexpected(frame))?;
                        }
                        None => {}
                    }
                }
                () = sleep_until(heard + if pinged { QUIET + PATIENCE } else { QUIET }) => {
                    if pinged {
                        return Err(Why::Silent { relay: self.relay.clone() }.into());
                    }
                    pinged = true;
                    let asked = timeout(PATIENCE, self.link.ping()).await;
                    self.written(asked)?;
                }
                () = sleep_until(drain_at.as_ref().map_or(heard, |(at, _)| *at)), if drain_at.is_some() => {
                    let _ = timeout(PATIENCE, self.link.close()).await;
                    if let Some((_, end)) = drain_at.take() {
                        return Err(end);
                    }
                }
            }
        }
    }

    /// A request, and those that already wait behind it: one flush for all.
    fn take(&mut self, command: Command, commands: &mut mpsc::Receiver<Command>) {
        let now = Instant::now();
        let mut next = Some(command);
        for _ in 0..BATCH {
            match next {
                Some(Command::Reconnect) => return self.cut = true,
                Some(command) => self.session.command(command, now),
                None => return,
            }
            next = commands.try_recv().ok();
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.session.out.is_empty() {
            return Ok(());
        }
        let written = timeout(PATIENCE, self.link.send(self.session.out.drain(..))).await;
        self.written(written)
    }

    fn written(&self, result: Result<Result<(), End>, Elapsed>) -> Result<(), End> {
        result.unwrap_or_else(|_| Err(End::silent(&self.relay)))
    }

    fn unexpected(&self, frame: Frame) -> End {
        match frame {
            Frame::Err { code, text, .. } => Why::Refused { relay: self.relay.clone(), code, text }.into(),
            _ => End::bad_frame(&self.relay, "a frame that a relay does not send here"),
        }
    }
}

async fn receive(link: &mut Link) -> Result<Frame, End> {
    loop {
        if let Some(frame) = link.next().await? {
            return Ok(frame);
        }
    }
}

fn drain(relay: String, after_ms: u32, url: Option<&str>) -> End {
    let not_before = Duration::from_millis(after_ms.into()).min(backoff::CAP);
    End { why: Why::Draining { relay }, not_before, next: url.and_then(|url| url.parse().ok()).map(Box::new) }
}
