//! One client: challenge, answer, then frames until the end.
//!
//! One task a connection reads and acts. Others write to its socket only through its [`Outbox`], which writes at once where
//! the socket is idle, and otherwise leaves it to the task to write what has gathered. While a write does not get on, its
//! client's frames are not read either; if its queue runs full meanwhile, or the write takes too long, the connection ends.
//!
//! Whether its frames come and go on a WebSocket, or in POSTs and as server-sent events, is the line's and the outbox's affair.
//!
//! ```text
//!   CHALLENGE -> AUTH or RETURN -> WELCOME, TICKET   within limits.handshake_seconds, or it is closed
//!   frames ... ERR where one is refused   the connection stays
//!   ERR, close 1008 / 1002 / 1009         not let in / no frame / too large
//!   ERR, close 1008                       the certificate was revoked
//!   DRAIN, close 1012 / 1013              the relay goes down / the client was too slow: come back and resume
//! ```

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use gatepass_protocol::{
    Code,
    frame::{Frame, MAX_FRAME},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tracing::{Instrument, debug, debug_span, info, warn};

use crate::{
    auth::{Rejected, authenticate},
    core::Core,
    line::{Line, Next},
    metrics::{End, Label, Limit},
    outbox::Outbox,
    peer::Identity,
    session::Session,
    turns::Turn,
    websocket::{Malformed, Packet, Received},
    wheel::Due,
    wire::WireWriter,
};

/// Pings, pongs and parts of a message before the first frame: more is no client.
const CHATS_BEFORE: u32 = 16;
/// How long a client that is being closed is given to take its last frames.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A client that was too slow comes back after this many milliseconds, give or take half.
const OVERFLOW_PAUSE_MS: u32 = 1_000;

/// Lets a client in, and starts serving it. What HTTP has yet to say goes out with the first frame; `open` is held for as
/// long as the client is there.
pub(crate) async fn begin(
    core: Arc<Core>,
    mut line: Line,
    writer: WireWriter,
    http: Vec<u8>,
    handshake: Turn,
    open: OwnedSemaphorePermit,
) {
    let outbox = Outbox::new(core.bounds(), core.metrics.clone(), writer).with(line.framing());
    let limit = Duration::from_secs(core.config.limits.handshake_seconds.get().into());
    let identity = match timeout(limit, greet(&core, &mut line, &outbox, http)).await {
        Ok(Some(identity)) => identity,
        Ok(None) => return,
        Err(_) => return core.metrics.refused.inc(Limit::HandshakeTime),
    };
    let pass = match core.admission.rates.enter(identity.tenant, identity.client()) {
        Ok(pass) => pass,
        Err(limit) => {
            let problem = Problem::Refused(limit.code(), format!("{}: come back later", limit.text()));
            return refuse(&core, &mut line, &outbox, problem).await;
        }
    };
    let account = match core.quotas.enter(identity.tenant).await {
        Ok(account) => account,
        Err(limit) => {
            let problem = Problem::Refused(limit.code(), format!("{}: come back later", limit.text()));
            return refuse(&core, &mut line, &outbox, problem).await;
        }
    };
    match Session::begin(core.clone(), identity, outbox, pass, account) {
        // A task of its own: what the handshake needed is freed, and this one lives for weeks.
        Ok(session) => drop(tokio::spawn(serve(session, line, open))),
        Err(peer) => refuse(&core, &mut line, &peer.outbox, Problem::Draining).await,
    }
    drop(handshake);
}

/// Challenges, and checks the answer. `None`: refused, and told so.
async fn greet(core: &Core, line: &mut Line, outbox: &Outbox, http: Vec<u8>) -> Option<Identity> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).ok()?;
    let challenge = Frame::Challenge { nonce, server_time: core.now() };
    outbox.push_behind(http, Packet::binary(&challenge.encode()));
    let mut first = first_frame(line, outbox).await?;
    if let Ok(Frame::Return { ticket, relay, mac }) = &first {
        if let Some(identity) = core.returned(ticket, relay, mac, &nonce) {
            return Some(identity);
        }
        let text = "this ticket is not taken here; AUTH is".to_owned();
        outbox.push(Packet::binary(&Frame::Err { code: Code::ResumeDenied, rid: None, id: None, text }.encode()));
        first = first_frame(line, outbox).await?;
    }
    let refusal = match first {
        Ok(Frame::Auth { proof, chain }) => {
            let checked =
                authenticate(core.tenants.as_ref(), &core.config.edge.names, &nonce, &proof, &chain, core.now());
            match checked {
                Ok(identity) => return Some(identity),
                Err(rejected) => {
                    // Only somebody with a good certificate gets this far, so it is this relay's configuration.
                    if matches!(rejected, Rejected::Name { .. }) {
                        warn!("{rejected}");
                    }
                    Problem::Refused(rejected.code(), rejected.to_string())
                }
            }
        }
        Ok(_) => Problem::Refused(Code::NotAllowed, "the first frame must be AUTH or RETURN".to_owned()),
        Err(problem) => problem,
    };
    debug!(code = refusal.code().name(), "refused before authentication");
    refuse(core, line, outbox, refusal).await;
    None
}

/// The client's first frame; `None` if it is gone before.
async fn first_frame(line: &mut Line, outbox: &Outbox) -> Option<Result<Frame, Problem>> {
    let mut chats = CHATS_BEFORE;
    loop {
        match line.next(outbox).await {
            Next::Received(Received::Binary(bytes)) => return Some(Frame::decode(&bytes).map_err(Problem::from)),
            Next::Received(Received::Ping(_) | Received::Pong | Received::Part) if chats == 0 => {
                return Some(Err(Problem::NoFrame));
            }
            Next::Received(Received::Ping(payload)) => {
                chats -= 1;
                outbox.push(Packet::pong(&payload));
            }
            Next::Received(Received::Pong | Received::Part) => chats -= 1,
            Next::Blocked => {}
            Next::Malformed(malformed) => return Some(Err(malformed.into())),
            Next::Received(Received::Close) => {
                line.answer_close(outbox).await;
                return None;
            }
            Next::Gone | Next::Ended(_) => return None,
        }
    }
}

/// What is wrong with what a client sent, such that its connection ends.
#[derive(Debug)]
enum Problem {
    Refused(Code, String),
    TooLarge,
    NoFrame,
    Draining,
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::TooLarge => Problem::TooLarge,
            Malformed::Text | Malformed::Protocol => Problem::NoFrame,
        }
    }
}

impl From<gatepass_protocol::frame::FrameError> for Problem {
    fn from(error: gatepass_protocol::frame::FrameError) -> Self {
        if error.code() == Code::Size { Problem::TooLarge } else { Problem::NoFrame }
    }
}

impl Problem {
    fn code(&self) -> Code {
        match self {
            Problem::Refused(code, _) => *code,
            Problem::TooLarge => Code::Size,
            Problem::NoFrame => Code::BadFrame,
            Problem::Draining => Code::Draining,
        }
    }

    fn close_code(&self) -> CloseCode {
        match self {
            Problem::Refused(..) => CloseCode::Policy,
            Problem::TooLarge => CloseCode::Size,
            Problem::NoFrame => CloseCode::Protocol,
            Problem::Draining => CloseCode::Restart,
        }
    }

    fn text(self) -> String {
        match self {
            Problem::Refused(_, text) => text,
            Problem::TooLarge => format!("a frame is at most {MAX_FRAME} bytes"),
            Problem::NoFrame => "not a frame".to_owned(),
            Problem::Draining => "going down".to_owned(),
        }
    }
}

async fn refuse(core: &Core, line: &mut Line, outbox: &Outbox, problem: Problem) {
    match problem {
        Problem::TooLarge => core.metrics.refused.inc(Limit::FrameSize),
        Problem::Draining => core.metrics.refused.inc(Limit::Draining),
        Problem::Refused(..) | Problem::NoFrame => {}
    }
    core.metrics.errors.inc(problem.code());
    let close_code = problem.close_code();
    let error = Frame::Err { code: problem.code(), rid: None, id: None, text: problem.text() };
    let last = line.finish(outbox, vec![Packet::binary(&error.encode())], close_code, "");
    let _ = timeout(LAST_WORDS, last).await;
}

/// Serves one client to its end.
pub(crate) async fn serve(session: Session, mut line: Line, open: OwnedSemaphorePermit) {
    let (begun, id, kind) = (Instant::now(), session.peer.id, session.peer.identity.kind());
    let span = debug_span!("connection", id, kind);
    let end = exchange(&session, &mut line).instrument(span).await;
    let reason = match &end {
        Left::Ended(end) => *end,
        Left::Closed | Left::Gone => End::Left,
        Left::Problem(_) => End::Protocol,
    };
    session.core.metrics.ended.inc(reason);
    // Whoever still sends to it learns that it is gone.
    session.peer.outbox.end(reason);
    // Rarely needed, so on the heap.
    let outbox = &session.peer.outbox;
    match end {
        Left::Ended(end) => Box::pin(farewell(&session, &mut line, end)).await,
        Left::Closed => drop(Box::pin(timeout(LAST_WORDS, line.answer_close(outbox))).await),
        Left::Gone => {}
        Left::Problem(problem) => Box::pin(refuse(&session.core, &mut line, outbox, problem)).await,
    }
    session.peer.outbox.close();
    info!(id, kind, reason = reason.text(), seconds = begun.elapsed().as_secs(), "ended");
    drop(session);
    drop(open);
}

/// Why frames stopped.
enum Left {
    Ended(End),
    /// The client has closed, and waits for the answer.
    Closed,
    /// Nobody is there any more to be told anything.
    Gone,
    Problem(Problem),
}

/// Frames both ways until something ends it.
async fn exchange(session: &Session, line: &mut Line) -> Left {
    let Session { core, peer, .. } = session;
    debug!(tenant = %peer.identity.tenant, who = ?peer.identity.principal, "authenticated");
    core.watch(peer);
    loop {
        let next = line.next(&peer.outbox).await;
        peer.heard.store(core.wheel.now(), Relaxed);
        match next {
            Next::Received(Received::Binary(bytes)) => match Frame::decode(&bytes) {
                Ok(frame) => {
                    if let Err(soon) = session.pass.frame(bytes.len()) {
                        // On the heap: few ever wait, and every idle connection would have a place for it.
                        Box::pin(session.pass.wait(bytes.len(), soon)).await;
                    }
                    if !session.account.frame(bytes.len()) {
                        Box::pin(session.account.wait(bytes.len())).await;
                    }
                    session.handle(frame, bytes).await;
                }
                Err(error) => return Left::Problem(error.into()),
            },
            Next::Received(chat @ (Received::Ping(_) | Received::Pong | Received::Part)) => {
                if let Err(soon) = session.pass.chat() {
                    Box::pin(session.pass.wait_to_chat(soon)).await;
                }
                if let Received::Ping(payload) = chat {
                    peer.outbox.push(Packet::pong(&payload));
                }
            }
            Next::Malformed(malformed) => return Left::Problem(malformed.into()),
            Next::Received(Received::Close) => return Left::Closed,
            Next::Gone => return Left::Gone,
            Next::Ended(end) => return Left::Ended(end),
            Next::Blocked => core.wheel.after(core.config.limits.write_seconds.get(), peer.id, Due::Stall),
        }
    }
}

/// Says why, and where there is a point in it, when to come back.
async fn farewell(session: &Session, line: &mut Line, end: End) {
    let Session { core, peer, .. } = session;
    let mut packets = vec![];
    let (code, reason) = match end {
        End::Left | End::Protocol => (CloseCode::Normal, ""),
        End::Stalled | End::Idle => (CloseCode::Away, "no answer"),
        End::Revoked => {
            core.metrics.errors.inc(Code::Revoked);
            let text = "the certificate has ended or was revoked".to_owned();
            let error = Frame::Err { code: Code::Revoked, rid: None, id: None, text };
            packets.push(Packet::binary(&error.encode()));
            (CloseCode::Policy, "revoked")
        }
        End::Overflow => {
            let after_ms = OVERFLOW_PAUSE_MS / 2 + (f64::from(OVERFLOW_PAUSE_MS) * core.fraction()) as u32;
            packets.push(Packet::binary(&Frame::Drain { after_ms, url: None }.encode()));
            (CloseCode::Again, "too slow; come back and resume")
        }
        End::Draining => (CloseCode::Restart, "restarting"),
    };
    let _ = timeout(LAST_WORDS, line.finish(&peer.outbox, packets, code, reason)).await;
}
