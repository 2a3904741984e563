//! What is true: the simple model that everything is checked against, and the course of events for whoever has to find out.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use bytes::Bytes;
use gatepass_protocol::{frame::Frame, ids::Rid};
use tokio::time::Instant;

use crate::{backplane::Side, locked};

pub(super) struct Truth {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wrong: Vec<String>,
    course: Vec<(u128, String)>,
    pairings: BTreeMap<Rid, Pairing>,
}

#[derive(Default)]
struct Pairing {
    opened: bool,
    claimed: Vec<usize>,
    /// From then on its time may be over.
    until: Option<Instant>,
    /// How much each end had sent when it closed: agent, device.
    closed: [Option<u32>; 2],
}

/// What a message says.
pub(super) fn message(rid: Rid, side: Side, seq: u32) -> Bytes {
    let mut text = format!("{rid:?} {side:?} {seq} ").into_bytes();
    // Now and then a large one.
    text.resize(if seq.is_multiple_of(5) { 1_500 } else { 300 }, b'.');
    text.into()
}

fn at(side: Side) -> usize {
    usize::from(side == Side::Device)
}

impl Truth {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), state: Mutex::default() }
    }

    /// What must not be.
    pub(super) fn wrong(&self, what: String) {
        self.event(&format!("WRONG: {what}"));
        locked(&self.state).wrong.push(what);
    }

    pub(super) fn is_wrong(&self) -> bool {
        !locked(&self.state).wrong.is_empty()
    }

    pub(super) fn event(&self, what: &str) {
        let when = self.begun.elapsed().as_millis();
        locked(&self.state).course.push((when, what.to_owned()));
    }

    pub(super) fn note(&self, client: usize, what: &str, rid: &Rid) {
        self.event(&format!("client {client} {what} ({rid:?})"));
    }

    pub(super) fn heard(&self, client: usize, frame: &Frame) {
        let text = match frame {
            Frame::Opened { rid, .. } => format!("OPENED {rid:?}"),
            Frame::Claimed { rid, .. } => format!("CLAIMED {rid:?}"),
            Frame::Forward { rid, seq, ack, .. } => format!("FWD {rid:?} {seq} {ack}"),
            Frame::Claim { rid, .. } => format!("CLAIM {rid:?}"),
            // The epoch is random.
            Frame::Subscribed { channel, place, complete, following } => {
                format!("SUBSCRIBED {channel} {}, complete: {complete}, {following} follow", place.offset)
            }
            Frame::Message { channel, offset, .. } => format!("MESSAGE {channel} {offset}"),
            Frame::Welcome { .. } => "WELCOME".to_owned(),
            Frame::Ticket { .. } => "TICKET".to_owned(),
            // When to come back is random.
            Frame::Drain { .. } => "DRAIN".to_owned(),
            other => format!("{other:?}"),
        };
        self.event(&format!("client {client} hears {text}"));
    }

    pub(super) fn asked(&self, rid: Rid, ttl: u32) {
        let until = Instant::now() + Duration::from_secs(ttl.into());
        locked(&self.state).pairings.entry(rid).or_default().until = Some(until);
    }

    pub(super) fn opened(&self, rid: Rid) {
        locked(&self.state).pairings.entry(rid).or_default().opened = true;
    }

    /// Pairings whose QR is shown.
    pub(super) fn shown(&self) -> Vec<Rid> {
        let state = locked(&self.state);
        let shown = state.pairings.iter().filter(|(_, pairing)| pairing.opened && pairing.claimed.is_empty());
        shown.map(|(rid, _)| *rid).collect()
    }

    pub(super) fn claimed(&self, rid: Rid, client: usize) {
        let claimed = {
            let mut state = locked(&self.state);
            let claimed = &mut state.pairings.entry(rid).or_default().claimed;
            claimed.push(client);
            claimed.clone()
        };
        if claimed.len() > 1 {
            self.wrong(format!("{rid:?} was given to clients {claimed:?}"));
        }
    }

    pub(super) fn closed(&self, rid: Rid, side: Side, sent: u32) {
        locked(&self.state).pairings.entry(rid).or_default().closed[at(side)] = Some(sent);
    }

    pub(super) fn was_closed_by(&self, rid: Rid, side: Side) -> bool {
        locked(&self.state).pairings.get(&rid).is_some_and(|pairing| pairing.closed[at(side)].is_some())
    }

    /// An end is told that the other one closed: it has all that was said before.
    pub(super) fn heard_close(&self, client: usize, rid: Rid, side: Side, received: u32) {
        let sent = locked(&self.state).pairings.get(&rid).and_then(|pairing| {
            // What was taken in for a backplane that is away may come too late.
            let in_time = pairing.until.is_some_and(|until| Instant::now() < until);
            pairing.closed[at(side.other())].filter(|_| in_time)
        });
        if let Some(sent) = sent.filter(|sent| *sent > received) {
            self.wrong(format!("client {client}: {rid:?} was closed after {sent} messages, and {received} had come"));
        }
    }

    /// The first wrong thing, with what came before it.
    pub(super) fn verdict(&self) -> Result<Vec<(u128, String)>, String> {
        let mut state = locked(&self.state);
        // Of one moment, the order is nobody's business.
        let mut course = std::mem::take(&mut state.course);
        match state.wrong.first() {
            None => {
                course.sort();
                Ok(course)
            }
            Some(first) => {
                let end = course.iter().position(|(_, what)| what.starts_with("WRONG")).unwrap_or(course.len());
                let lines: Vec<String> = course[..end].iter().map(|(ms, what)| format!("{ms:>8} ms  {what}")).collect();
                Err(format!("{}\n{first}", lines.join("\n")))
            }
        }
    }
}
