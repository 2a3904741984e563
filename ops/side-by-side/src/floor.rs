//! The floor: the least that a server can do. One thread, one epoll, no bounds, nobody authenticated; a message is framed once
//! and written to each subscriber with one write. What another server takes beyond this is its own.
//!
//! ```text
//! GET /subscribe     hears what is published
//! GET /publish       what it sends goes to every subscriber
//! GET /pair/N/SIDE   what it sends goes to the other side (0 or 1) of pair N
//! ```

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    fd::OwnedFd,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::websocket::{self, BINARY, CLOSE, Found, PING, PONG};

/// The listener among the lines of the epoll.
const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 256;

struct Line {
    socket: TcpStream,
    stage: Stage,
    /// A frame, or a request, that is not all there.
    rest: Vec<u8>,
    /// What the socket did not take at once.
    waiting: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Request,
    Subscriber,
    Publisher,
    Pair(u64, usize),
}

struct Floor {
    epoll: OwnedFd,
    lines: Vec<Option<Line>>,
    free: Vec<usize>,
    subscribers: Vec<usize>,
    pairs: HashMap<u64, [Option<usize>; 2]>,
    frame: Vec<u8>,
}

/// Serves until it is killed.
pub(crate) fn serve(listener: &TcpListener) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut floor = Floor {
        epoll,
        lines: Vec::new(),
        free: Vec::new(),
        subscribers: Vec::new(),
        pairs: HashMap::new(),
        frame: Vec::new(),
    };
    let mut events = Vec::with_capacity(EVENTS);
    let mut scratch = vec![0; 64 * 1024];
    loop {
        match epoll::wait(&floor.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let (flags, data) = (event.flags, event.data.u64());
            if data == LISTENER {
                floor.accept(listener)?;
                continue;
            }
            let at = data as usize;
            let alive = (!flags.contains(EventFlags::OUT) || floor.write_waiting(at))
                && (!flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
                    || floor.read(at, &mut scratch));
            if !alive {
                floor.forget(at);
            }
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let at = self.free.pop().unwrap_or_else(|| {
                self.lines.push(None);
                self.lines.len() - 1
            });
            epoll::add(&self.epoll, &socket, EventData::new_u64(at as u64), EventFlags::IN)?;
            self.lines[at] = Some(Line { socket, stage: Stage::Request, rest: Vec::new(), waiting: Vec::new() });
        }
    }

    /// False once the line is dead.
    fn read(&mut self, at: usize, scratch: &mut [u8]) -> bool {
        let Some(line) = &mut self.lines[at] else { return true };
        let got = match line.socket.read(scratch) {
            Ok(0) => return false,
            Ok(got) => got,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        if line.rest.is_empty() && line.stage != Stage::Request {
            let used = self.frames(at, &mut scratch[..got]);
            if let (Some(used), Some(line)) = (used, &mut self.lines[at]) {
                line.rest.extend_from_slice(&scratch[used..got]);
            }
            return used.is_some();
        }
        let mut rest = std::mem::take(&mut line.rest);
        rest.extend_from_slice(&scratch[..got]);
        if line.stage == Stage::Request {
            let Some(end) = rest.windows(4).position(|end| end == b"\r\n\r\n") else {
                line.rest = rest;
                return true;
            };
            if !self.upgrade(at, &rest[..end]) {
                return false;
            }
            rest.drain(..end + 4);
        }
        let used = self.frames(at, &mut rest);
        if let (Some(used), Some(line)) = (used, &mut self.lines[at]) {
            rest.drain(..used);
            line.rest = rest;
        }
        used.is_some()
    }

    fn upgrade(&mut self, at: usize, request: &[u8]) -> bool {
        let Ok(request) = std::str::from_utf8(request) else { return false };
        let path = request.split(' ').nth(1).unwrap_or_default();
        let key = request.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
        });
        let (Some(stage), Some(key)) = (stage(path), key) else { return false };
        match stage {
            Stage::Subscriber => self.subscribers.push(at),
            Stage::Pair(pair, side) => self.pairs.entry(pair).or_default()[side] = Some(at),
            Stage::Request | Stage::Publisher => {}
        }
        if let Some(line) = &mut self.lines[at] {
            line.stage = stage;
        }
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.write(at, answer.as_bytes());
        true
    }

    /// Acts on the frames of a buffer, and says how much of it they were; `None` when the client leaves.
    fn frames(&mut self, at: usize, bytes: &mut [u8]) -> Option<usize> {
        let mut used = 0;
        while let Some(found) = Found::first(&bytes[used..]) {
            let rest = &mut bytes[used..];
            found.unmask(rest);
            used += found.end();
            let opcode = match found.opcode {
                CLOSE => return None,
                PING => PONG,
                PONG => continue,
                _ => BINARY,
            };
            let mut frame = std::mem::take(&mut self.frame);
            frame.clear();
            websocket::unmasked(opcode, &rest[found.payload.clone()], &mut frame);
            match self.lines[at].as_ref().map(|line| line.stage) {
                _ if opcode == PONG => self.write(at, &frame),
                Some(Stage::Publisher) => {
                    for index in 0..self.subscribers.len() {
                        self.write(self.subscribers[index], &frame);
                    }
                }
                Some(Stage::Pair(pair, side)) => {
                    if let Some(other) = self.pairs.get(&pair).and_then(|sides| sides[1 - side]) {
                        self.write(other, &frame);
                    }
                }
                _ => {}
            }
            self.frame = frame;
        }
        Some(used)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let Some(line) = &mut self.lines[at] else { return };
        let written = if line.waiting.is_empty() { line.socket.write(bytes).unwrap_or(0) } else { bytes.len() + 1 };
        match bytes.get(written..) {
            Some([]) => {}
            // A dead socket's hang-up arrives by itself.
            Some(rest) => {
                line.waiting.extend_from_slice(rest);
                let _ = epoll::modify(
                    &self.epoll,
                    &line.socket,
                    EventData::new_u64(at as u64),
                    EventFlags::IN | EventFlags::OUT,
                );
            }
            None => line.waiting.extend_from_slice(bytes),
        }
    }

    fn write_waiting(&mut self, at: usize) -> bool {
        let Some(line) = &mut self.lines[at] else { return true };
        match line.socket.write(&line.waiting) {
            Ok(written) => drop(line.waiting.drain(..written)),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        if line.waiting.is_empty() {
            let _ = epoll::modify(&self.epoll, &line.socket, EventData::new_u64(at as u64), EventFlags::IN);
        }
        true
    }

    fn forget(&mut self, at: usize) {
        // Closing the socket takes it out of the epoll.
        let Some(line) = self.lines[at].take() else { return };
        self.free.push(at);
        match line.stage {
            Stage::Subscriber => self.subscribers.retain(|subscriber| *subscriber != at),
            Stage::Pair(pair, side) => {
                if let Some(sides) = self.pairs.get_mut(&pair) {
                    sides[side] = None;
                }
            }
            Stage::Request | Stage::Publisher => {}
        }
    }
}

fn stage(path: &str) -> Option<Stage> {
    let mut parts = path.split('/').skip(1);
    match (parts.next()?, parts.next(), parts.next()) {
        ("subscribe", None, None) => Some(Stage::Subscriber),
        ("publish", None, None) => Some(Stage::Publisher),
        ("pair", Some(pair), Some(side)) => {
            Some(Stage::Pair(pair.parse().ok()?, side.parse().ok().filter(|side| *side < 2)?))
        }
        _ => None,
    }
}
