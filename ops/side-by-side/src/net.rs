//! The load's side of all connections: one thread, one epoll, as little as possible between the socket and the figure, so that
//! two cores are enough for a server and its load.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    fd::OwnedFd,
    time::Timespec,
};

use crate::{
    message,
    websocket::{self, BINARY, CLOSE, Found, PING, PONG},
};

/// Few, so that a message that is due is sent on time while a thousand others are being read.
const EVENTS: usize = 64;
/// An answer to a request that is longer than this is no answer.
const LONGEST_ANSWER: usize = 8 * 1024;
/// The key of RFC 6455's example. A server answers to any.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a client of one subject says and hears inside the WebSocket.
pub(crate) trait Speaker {
    /// The path of the upgrade request.
    fn path(&self) -> String;
    /// The socket is a WebSocket: what to send first. True if it is ready with that.
    fn opened(&mut self, out: &mut Out) -> bool;
    /// The payload of a frame from the server.
    fn hear(&mut self, payload: &[u8], out: &mut Out, heard: &mut Hearing) -> anyhow::Result<()>;
    /// Sends a message to whoever listens.
    fn say(&mut self, message: &[u8], out: &mut Out) -> anyhow::Result<()>;
}

/// What is to be written to a socket.
#[derive(Default)]
pub(crate) struct Out(Vec<u8>);

impl Out {
    /// One frame.
    pub(crate) fn frame(&mut self, payload: &[u8]) {
        websocket::masked(BINARY, payload, &mut self.0);
    }
}

/// What was heard on one line.
pub(crate) struct Hearing<'a> {
    line: usize,
    at: Instant,
    heard: &'a mut Vec<Heard>,
}

impl Hearing<'_> {
    /// It is ready for the work: authenticated, subscribed.
    pub(crate) fn ready(&mut self) {
        self.heard.push(Heard { line: self.line, at: self.at, what: What::Ready });
    }

    /// A message of ours.
    pub(crate) fn message(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let what = What::Message(message::number(bytes)?);
        self.heard.push(Heard { line: self.line, at: self.at, what });
        Ok(())
    }
}

/// Something that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    /// On which line.
    pub(crate) line: usize,
    /// When it was read.
    pub(crate) at: Instant,
    /// What.
    pub(crate) what: What,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The line is ready for the work.
    Ready,
    /// The message of this number.
    Message(u64),
}

struct Line {
    socket: TcpStream,
    speaker: Box<dyn Speaker>,
    open: bool,
    /// A frame, or an answer, that is not all there.
    rest: Vec<u8>,
    /// What the socket did not take at once.
    waiting: Vec<u8>,
}

/// All connections of one piece of work. Dropping it resets them, so that no port is left waiting.
pub(crate) struct Net {
    server: SocketAddr,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    lines: Vec<Line>,
    out: Out,
    scratch: Vec<u8>,
}

impl Net {
    /// None yet.
    pub(crate) fn to(server: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            server,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            lines: Vec::new(),
            out: Out::default(),
            scratch: vec![0; 256 * 1024],
        })
    }

    /// One more line; it will say when it is ready.
    pub(crate) fn connect(&mut self, speaker: Box<dyn Speaker>) -> anyhow::Result<usize> {
        let server = self.server;
        // On loopback the kernel answers, at once.
        let socket = TcpStream::connect(server).with_context(|| format!("can't connect to {server}"))?;
        socket.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        socket.set_nonblocking(true)?;
        let line = self.lines.len();
        epoll::add(&self.epoll, &socket, EventData::new_u64(line as u64), EventFlags::IN)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n\r\n",
            speaker.path(),
        );
        self.lines.push(Line { socket, speaker, open: false, rest: Vec::new(), waiting: Vec::new() });
        self.out.0.extend_from_slice(request.as_bytes());
        self.write(line)?;
        Ok(line)
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Sends the message of a number.
    pub(crate) fn say(&mut self, line: usize, number: u64) -> anyhow::Result<()> {
        self.lines[line].speaker.say(&message::of(number), &mut self.out)?;
        self.write(line)
    }

    /// Waits until something comes, but no longer than this, and adds it to what was heard. A line that ends is an error.
    pub(crate) fn turn(&mut self, wait: Duration, heard: &mut Vec<Heard>) -> anyhow::Result<()> {
        let wait = Timespec::try_from(wait)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = std::mem::take(&mut self.events);
        let turned = events.drain(..).try_for_each(|event| {
            let (flags, line) = (event.flags, event.data.u64() as usize);
            if flags.contains(EventFlags::OUT) {
                self.write_waiting(line)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.read(line, heard).with_context(|| format!("connection {} of {}", line + 1, self.lines.len()))?;
            }
            Ok(())
        });
        self.events = events;
        turned
    }

    fn read(&mut self, at: usize, heard: &mut Vec<Heard>) -> anyhow::Result<()> {
        let line = &mut self.lines[at];
        let got = match line.socket.read(&mut self.scratch) {
            Ok(0) => bail!("the server closed it"),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("the server broke it off"),
        };
        let mut heard = Hearing { line: at, at: Instant::now(), heard };
        let new = &self.scratch[..got];
        if line.rest.is_empty() && line.open {
            let used = frames(&mut *line.speaker, new, &mut self.out, &mut heard)?;
            line.rest.extend_from_slice(&new[used..]);
        } else {
            let mut rest = std::mem::take(&mut line.rest);
            rest.extend_from_slice(new);
            if !line.open {
                match upgraded(&rest)? {
                    Some(end) => drop(rest.drain(..end)),
                    None => {
                        line.rest = rest;
                        return Ok(());
                    }
                }
                line.open = true;
                if line.speaker.opened(&mut self.out) {
                    heard.ready();
                }
            }
            let used = frames(&mut *line.speaker, &rest, &mut self.out, &mut heard)?;
            rest.drain(..used);
            // Nothing is kept where nothing is left: fifteen thousand lines are idle.
            line.rest = if rest.is_empty() { Vec::new() } else { rest };
        }
        if self.out.0.is_empty() { Ok(()) } else { self.write(at) }
    }

    fn write(&mut self, at: usize) -> anyhow::Result<()> {
        let (line, out) = (&mut self.lines[at], &mut self.out.0);
        if line.waiting.is_empty() {
            let written = match line.socket.write(out) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error).context("the server broke it off"),
            };
            if written < out.len() {
                line.waiting.extend_from_slice(&out[written..]);
                let both = EventFlags::IN | EventFlags::OUT;
                epoll::modify(&self.epoll, &line.socket, EventData::new_u64(at as u64), both)?;
            }
        } else {
            line.waiting.extend_from_slice(out);
        }
        out.clear();
        Ok(())
    }

    fn write_waiting(&mut self, at: usize) -> anyhow::Result<()> {
        let line = &mut self.lines[at];
        match line.socket.write(&line.waiting) {
            Ok(written) => drop(line.waiting.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the server broke it off"),
        }
        if line.waiting.is_empty() {
            epoll::modify(&self.epoll, &line.socket, EventData::new_u64(at as u64), EventFlags::IN)?;
        }
        Ok(())
    }
}

/// Where the answer to the upgrade request ends; `None` while it is not all there.
fn upgraded(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") else {
        if answer.len() > LONGEST_ANSWER {
            bail!("the server's answer to the upgrade has no end");
        }
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
        let body = String::from_utf8_lossy(&answer[end..]);
        bail!("the server did not upgrade: {} {}", head.lines().next().unwrap_or_default(), body.trim());
    }
    Ok(Some(end + 4))
}

/// Hands each whole frame to the speaker; how much of the buffer they were.
fn frames(speaker: &mut dyn Speaker, bytes: &[u8], out: &mut Out, heard: &mut Hearing<'_>) -> anyhow::Result<usize> {
    let mut used = 0;
    while let Some(found) = Found::first(&bytes[used..]) {
        let payload = &bytes[used..][found.payload.clone()];
        used += found.end();
        match found.opcode {
            CLOSE => {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                bail!("the server closed it: {code} {reason}");
            }
            PING => websocket::masked(PONG, payload, &mut out.0),
            PONG => {}
            _ if !found.whole => bail!("the server sent a fragment"),
            _ => speaker.hear(payload, out, heard)?,
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_upgrade_is_shown() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\nmore");
        assert_eq!(upgraded(good.as_bytes()).unwrap(), Some(good.len() - 4));
        assert_eq!(upgraded(&good.as_bytes()[..40]).unwrap(), None);
        let busy = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\n\r\nip-rate\n";
        let error = upgraded(busy).unwrap_err().to_string();
        assert_eq!(error, "the server did not upgrade: HTTP/1.1 503 Service Unavailable ip-rate");
    }
}
