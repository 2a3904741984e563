//! What waits to be written to one connection, and the writing.
//!
//! Anybody may push, nobody ever waits. While the socket is idle, a push writes straight into it: no task is woken, and the
//! kernel's buffer is the queue. When the kernel takes no more, or when the connection has no socket that can be written to
//! like that, packets queue, and the connection's own task writes what has gathered, many at a time. A packet is encoded
//! once and shared: a message to ten thousand connections is ten thousand pointers.
//!
//! Two queues, each bounded in bytes and in messages. *Control* is what was promised (pairing messages, answers, statements):
//! nothing is ever dropped from its middle, and a reader too slow for its bound loses the connection and comes back to
//! resume. *Presence* is what the next message makes old: there the oldest are dropped, and counted.
//!
//! Packets are a WebSocket's; to a client that has none, each goes as server-sent events instead.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use crate::{
    metrics::{End, Metrics, Unsent},
    sse,
    websocket::Packet,
    wire::WireWriter,
};

/// How much is written at a time: enough to fill a socket buffer's worth of small frames, and what a slow socket can hold
/// beyond its queue.
const BATCH_BYTES: usize = 16 * 1024;

/// The bounds of the queues.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of either queue, in bytes.
    pub bytes: u32,
    /// Of the control queue, in messages.
    pub messages: u32,
    /// Of the presence queue, in messages.
    pub presence: u32,
}

/// How packets go over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As they are.
    WebSocket,
    /// As server-sent events.
    Events,
}

/// The queues in front of one connection's socket.
#[derive(Debug)]
pub struct Outbox {
    bounds: Bounds,
    framing: Framing,
    queue: Mutex<Queue>,
    metrics: Arc<Metrics>,
}

/// Small, because who writes to ten thousand of them waits for memory most of all.
#[derive(Debug)]
struct Queue {
    wire: Option<WireWriter>,
    /// What waits. None while the socket is idle.
    backlog: Option<Box<Backlog>>,
    end: Option<End>,
    /// The connection's task.
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Backlog {
    control: Lane,
    presence: Lane,
    /// What is being written: a part of it the socket has.
    current: Bytes,
    /// TLS holds what the kernel did not take.
    unflushed: bool,
    /// Since when the socket takes nothing.
    blocked: Option<Instant>,
    /// Since when something waits.
    waiting: Instant,
}

#[derive(Debug, Default)]
struct Lane {
    packets: VecDeque<Packet>,
    bytes: usize,
}

impl Lane {
    fn push(&mut self, packet: Packet) {
        self.bytes += packet.bytes().len();
        self.packets.push_back(packet);
    }

    fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.bytes().len();
        Some(packet)
    }
}

/// What became of a packet about who is online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is written or queued.
    Taken,
    /// So it is, and older ones were dropped for it.
    Displaced,
    /// The connection is ending.
    Ended,
}

/// How far the connection's task has come with writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// Nothing waits.
    Idle,
    /// The socket takes no more now.
    Blocked {
        /// It has just begun.
        first: bool,
    },
    /// Everything is written that will be, and this is why the connection ends.
    Ended(End),
}

impl Outbox {
    /// Empty queues before this WebSocket.
    pub(crate) fn new(bounds: Bounds, metrics: Arc<Metrics>, wire: WireWriter) -> Self {
        let queue = Queue { wire: Some(wire), backlog: None, end: None, waker: None };
        Self { bounds, framing: Framing::WebSocket, queue: Mutex::new(queue), metrics }
    }

    /// The same before a socket that is to be written to like this.
    pub(crate) fn with(self, framing: Framing) -> Self {
        Self { framing, ..self }
    }

    /// Writes or queues a packet. False if the connection is ending, which a full queue makes it.
    pub fn push(&self, packet: Packet) -> bool {
        self.push_framed(self.framed(packet))
    }

    /// The first packet, behind what HTTP has yet to say: in one write.
    pub(crate) fn push_behind(&self, http: Vec<u8>, packet: Packet) -> bool {
        let first = [&http, &self.framed(packet).bytes()[..]].concat();
        self.push_framed(Packet::raw(first.into()))
    }

    fn push_framed(&self, packet: Packet) -> bool {
        let bounds = &self.bounds;
        self.take_in(packet, |backlog, packet| {
            let lane = &mut backlog.control;
            let fits = lane.bytes + packet.bytes().len() <= bounds.bytes as usize
                && lane.packets.len() < bounds.messages as usize;
            if fits {
                lane.push(packet);
            }
            fits
        })
    }

    /// Writes or queues a packet that the next one of its kind makes old.
    pub fn push_presence(&self, packet: Packet) -> Pushed {
        let mut displaced = false;
        let bounds = &self.bounds;
        let taken = self.take_in(self.framed(packet), |backlog, packet| {
            let lane = &mut backlog.presence;
            lane.push(packet);
            while lane.bytes > bounds.bytes as usize || lane.packets.len() > bounds.presence as usize {
                lane.pop();
                self.metrics.dropped.inc(Unsent::Presence);
                displaced = true;
            }
            true
        });
        match (taken, displaced) {
            (false, _) => Pushed::Ended,
            (true, true) => Pushed::Displaced,
            (true, false) => Pushed::Taken,
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        self.lock().backlog.is_none()
    }

    /// Whether packets of these sizes together would fit into an empty queue, frames' heads and names included.
    pub fn has_room(&self, sizes: impl Iterator<Item = usize>) -> bool {
        const HEAD: usize = 80;
        let bytes: usize = sizes.map(|size| size + HEAD).sum();
        let bytes = match self.framing {
            Framing::WebSocket => bytes,
            Framing::Events => bytes.div_ceil(3) * 4,
        };
        bytes <= self.bounds.bytes as usize
    }

    /// Writes a packet, or has it queued: by `queue`, which says whether there was room.
    fn take_in(&self, packet: Packet, queue: impl FnOnce(&mut Backlog, Packet) -> bool) -> bool {
        let mut state = self.lock();
        if state.end.is_some() {
            return false;
        }
        if let Some(backlog) = &mut state.backlog {
            if !queue(backlog, packet) {
                self.finish(state, End::Overflow);
                return false;
            }
            return true;
        }
        let Some(wire) = &state.wire else { return false };
        let bytes = packet.bytes();
        match wire.write_now(bytes) {
            Ok((taken, true)) if taken == bytes.len() => {
                self.count(1, bytes.len(), Duration::ZERO);
                true
            }
            Ok((taken, flushed)) => {
                let mut backlog = Box::new(Backlog::new(!flushed));
                if taken > 0 {
                    self.count(1, bytes.len(), Duration::ZERO);
                    backlog.current = bytes.slice(taken..);
                } else {
                    queue(&mut backlog, packet);
                }
                state.backlog = Some(backlog);
                wake(state);
                true
            }
            Err(_) => {
                self.finish(state, End::Left);
                false
            }
        }
    }

    /// Ends the connection: nothing more is taken in. What is queued is still written, unless the queue was the problem.
    pub fn end(&self, why: End) {
        let queue = self.lock();
        // Who takes nothing can't be told anything else first.
        if queue.end.is_none() || why == End::Stalled {
            self.finish(queue, why);
        }
    }

    fn finish(&self, mut queue: MutexGuard<'_, Queue>, why: End) {
        queue.end = Some(why);
        if matches!(why, End::Overflow | End::Stalled | End::Left)
            && let Some(backlog) = &mut queue.backlog
        {
            let lost = backlog.control.packets.len() + backlog.presence.packets.len();
            self.metrics.dropped.of(Unsent::Ended).add(lost as u64);
            (backlog.control, backlog.presence) = Default::default();
        }
        wake(queue);
    }

    /// Since when the socket has taken nothing; `None` while it does.
    pub(crate) fn blocked_since(&self) -> Option<Instant> {
        self.lock().backlog.as_ref().and_then(|backlog| backlog.blocked)
    }

    /// Writes what waits, as far as the socket takes it. For the connection's task, which is woken when there is more.
    pub(crate) fn poll_write(&self, context: &mut Context<'_>) -> Writing {
        let mut queue = self.lock();
        loop {
            if let Some(end @ (End::Overflow | End::Stalled)) = queue.end {
                // Its task says a last word yet, or none; not here.
                return Writing::Ended(end);
            }
            match self.write_some(&mut queue, context) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => {
                    let blocked = queue.backlog.as_mut().map(|backlog| &mut backlog.blocked);
                    let first =
                        blocked.is_some_and(|blocked| blocked.replace(blocked.unwrap_or_else(Instant::now)).is_none());
                    queue.note(context);
                    return Writing::Blocked { first };
                }
                Ok(None) => {
                    if let Some(end) = queue.end {
                        return Writing::Ended(end);
                    }
                    queue.note(context);
                    return Writing::Idle;
                }
                Err(_) => return Writing::Ended(*queue.end.get_or_insert(End::Left)),
            }
        }
    }

    /// Puts the last packets behind what is half written, after the end.
    pub(crate) fn last_words(&self, packets: &[Packet]) {
        let mut queue = self.lock();
        let words = self.framed(Packet::joined(packets));
        let backlog = queue.backlog.get_or_insert_with(|| Box::new(Backlog::new(false)));
        backlog.current = [&backlog.current[..], &words.bytes()[..]].concat().into();
    }

    /// Writes what is half written and the last words. True once all of it is out.
    pub(crate) fn poll_last_words(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut queue = self.lock();
        loop {
            match self.write_some(&mut queue, context) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => return Poll::Pending,
                Ok(None) => return Poll::Ready(true),
                Err(_) => return Poll::Ready(false),
            }
        }
    }

    /// Ends what is written, while the socket is still listened to.
    pub(crate) fn shut(&self) {
        if let Some(wire) = self.lock().wire.take() {
            wire.shut();
        }
    }

    /// Lets go of the socket, whoever still holds this.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.end.get_or_insert(End::Left);
        (queue.waker, queue.backlog) = (None, None);
        if let Some(wire) = queue.wire.take() {
            wire.say_goodbye();
        }
    }

    /// One write: `Some(true)`, it went; `Some(false)`, the socket is full and its readiness awaited; `None`, nothing waits.
    fn write_some(&self, queue: &mut Queue, context: &mut Context<'_>) -> io::Result<Option<bool>> {
        let Some(backlog) = &mut queue.backlog else { return Ok(None) };
        if backlog.current.is_empty() && !backlog.unflushed {
            let Some((count, waited)) = backlog.gather() else {
                queue.backlog = None;
                return Ok(None);
            };
            self.count(count, backlog.current.len(), waited);
        }
        let wire = queue.wire.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        loop {
            let (taken, flushed) = wire.write(&backlog.current)?;
            backlog.current.advance(taken);
            backlog.unflushed = !flushed;
            if taken > 0 || (flushed && backlog.current.is_empty()) {
                backlog.blocked = None;
                return Ok(Some(true));
            }
            match wire.poll_ready(context) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(Some(false)),
            }
        }
    }

    fn framed(&self, packet: Packet) -> Packet {
        match self.framing {
            Framing::WebSocket => packet,
            Framing::Events => sse::events(&packet),
        }
    }

    fn count(&self, packets: usize, bytes: usize, waited: Duration) {
        let metrics = &self.metrics;
        metrics.flushes.inc();
        metrics.frames_out.add(packets as u64);
        metrics.bytes_out.add(bytes as u64);
        metrics.queued.observe(waited);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics with the lock held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backlog {
    fn new(unflushed: bool) -> Self {
        let (control, presence) = Default::default();
        Self { control, presence, current: Bytes::new(), unflushed, blocked: None, waiting: Instant::now() }
    }

    /// Makes the next batch the one to be written. Returns how many packets are in it and how long they have waited.
    fn gather(&mut self) -> Option<(usize, Duration)> {
        let mut next = || self.control.pop().or_else(|| self.presence.pop());
        let first = next()?;
        let mut bytes = first.bytes().len();
        let mut packets = vec![first];
        while bytes < BATCH_BYTES
            && let Some(packet) = next()
        {
            bytes += packet.bytes().len();
            packets.push(packet);
        }
        self.current = match packets.as_slice() {
            [one] => one.bytes().clone(),
            several => Packet::joined(several).bytes().clone(),
        };
        let now = Instant::now();
        let waited = now - std::mem::replace(&mut self.waiting, now);
        Some((packets.len(), waited))
    }
}

impl Queue {
    /// Remembers whom to wake.
    fn note(&mut self, context: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }
}

/// Wakes the connection's task, without the lock.
fn wake(mut queue: MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpSocket, TcpStream},
    };

    use super::*;
    use crate::wire::wire;

    /// A connection whose kernel buffers are small, and its client.
    async fn connected(bounds: Bounds) -> (Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4 * 1024).unwrap();
        let (client, server) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
        let (reader, writer) = wire(server.unwrap().0, None);
        // The reading end is the task's, and these tests are the task.
        std::mem::forget(reader);
        (Outbox::new(bounds, Arc::default(), writer), client.unwrap())
    }

    const BOUNDS: Bounds = Bounds { bytes: 1 << 20, messages: 10_000, presence: 4 };

    fn numbered(n: u32) -> Packet {
        Packet::binary(&[&n.to_be_bytes()[..], &[0; 996]].concat())
    }

    /// Pushes until the socket is full. Returns how many it took.
    fn fill(outbox: &Outbox) -> u32 {
        let mut count = 0;
        while outbox.lock().backlog.is_none() {
            assert!(outbox.push(numbered(count)));
            count += 1;
        }
        count
    }

    /// What the client reads: the number in each packet.
    async fn read(client: &mut TcpStream, count: u32) -> Vec<u32> {
        let mut numbers = vec![];
        for _ in 0..count {
            let mut packet = [0; 1_004];
            client.read_exact(&mut packet).await.unwrap();
            numbers.push(u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]));
        }
        numbers
    }

    async fn written(outbox: &Outbox) {
        poll_fn(|context| match outbox.poll_write(context) {
            Writing::Idle => Poll::Ready(()),
            Writing::Blocked { .. } => Poll::Pending,
            Writing::Ended(end) => panic!("{end:?}"),
        })
        .await;
    }

    #[tokio::test]
    async fn an_idle_socket_is_written_to_at_once_and_no_task_is_woken() {
        let (outbox, mut client) = connected(BOUNDS).await;
        let task = futures_util::task::noop_waker();
        assert_eq!(outbox.poll_write(&mut Context::from_waker(&task)), Writing::Idle);
        assert!(outbox.push(numbered(7)));
        assert!(outbox.lock().backlog.is_none() && outbox.lock().waker.is_some());
        assert_eq!(read(&mut client, 1).await, [7]);
        assert_eq!((outbox.metrics.frames_out.get(), outbox.metrics.queued.count()), (1, 1));
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_follows_in_order_when_it_does() {
        let (outbox, mut client) = connected(BOUNDS).await;
        let taken = fill(&outbox);
        for n in taken..taken + 200 {
            assert!(outbox.push(numbered(n)));
        }
        let all = (0..taken + 200).collect::<Vec<u32>>();
        let (read, ()) = tokio::join!(read(&mut client, taken + 200), written(&outbox));
        assert_eq!(read, all);
        assert!(outbox.lock().backlog.is_none(), "and then it is idle again");
        let flushes = outbox.metrics.flushes.get();
        assert!(flushes < u64::from(taken) + 100, "what gathered was written together: {flushes} for {taken} and 200");
    }

    #[tokio::test]
    async fn a_reader_too_slow_for_what_was_promised_is_ended_and_its_memory_freed() {
        for bounds in [Bounds { messages: 3, ..BOUNDS }, Bounds { bytes: 3_500, ..BOUNDS }] {
            let (outbox, _client) = connected(bounds).await;
            fill(&outbox);
            (0..3).for_each(|n| assert!(outbox.push(numbered(n))));
            assert!(!outbox.push(numbered(3)), "over the bound");
            assert!(!outbox.push(numbered(4)), "and it stays ended");
            let task = futures_util::task::noop_waker();
            assert_eq!(outbox.poll_write(&mut Context::from_waker(&task)), Writing::Ended(End::Overflow));
            assert_eq!(outbox.lock().backlog.as_ref().unwrap().control.packets.capacity(), 0);
            assert_eq!(outbox.metrics.dropped.of(Unsent::Ended).get(), 3);
        }
    }

    #[tokio::test]
    async fn of_who_is_online_a_slow_reader_gets_the_newest_and_after_what_was_promised() {
        let (outbox, mut client) = connected(BOUNDS).await;
        let taken = fill(&outbox);
        (1_000..1_010).for_each(|n| assert_ne!(outbox.push_presence(numbered(n)), Pushed::Ended));
        assert!(outbox.push(numbered(5)));
        assert_eq!(outbox.metrics.dropped.of(Unsent::Presence).get(), 6);
        let (read, ()) = tokio::join!(read(&mut client, taken + 5), written(&outbox));
        assert_eq!(read[taken as usize..], [5, 1_006, 1_007, 1_008, 1_009]);
    }

    #[tokio::test]
    async fn what_was_queued_before_an_orderly_end_is_still_written() {
        let (outbox, mut client) = connected(BOUNDS).await;
        let taken = fill(&outbox);
        assert!(outbox.push(numbered(9)));
        outbox.end(End::Draining);
        assert!(!outbox.push(numbered(10)));
        let end = poll_fn(|context| match outbox.poll_write(context) {
            Writing::Ended(end) => Poll::Ready(end),
            _ => Poll::Pending,
        });
        let (read, end) = tokio::join!(read(&mut client, taken + 1), end);
        assert_eq!((read.last(), end), (Some(&9), End::Draining));
    }
}
