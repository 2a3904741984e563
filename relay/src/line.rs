//! One client's line: what it says, on its WebSocket or in POSTs, and the outbox that writes to its socket.
//!
//! [`Line::next`] is where a connection's task waits. It lets the outbox write first; while a write does not get on, nothing
//! is read, so that a client that does not listen is not listened to. Bytes are read into a buffer that all connections of a
//! thread share: an idle line holds none.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, ready},
};

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    metrics::End,
    outbox::{Framing, Outbox, Writing},
    stream::Stream,
    websocket::{Malformed, Packet, Reader, Received},
    wire::WireReader,
};

/// Two of the largest frames, or many usual ones, at a time.
const SCRATCH: usize = 16 * 1024;
/// Things that a client may still say after our last word, before it is let go all the same.
const LISTENED_TO: usize = 256;
/// Reads of what is no frame, of that.
const NONSENSE: usize = 4;
/// Things received and not yet acted on of which the memory is kept.
const KEPT_CAPACITY: usize = 4;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// One client's line.
#[derive(Debug)]
pub(crate) struct Line {
    reader: WireReader,
    source: Source,
    inbox: VecDeque<Received>,
}

/// Where a client's frames come from.
#[derive(Debug)]
enum Source {
    /// From its socket.
    WebSocket {
        frames: Reader,
        /// Bytes that came with the HTTP request.
        early: Vec<u8>,
    },
    /// From POSTs on other sockets; its own only says when it ends.
    Posts(Box<Stream>),
}

/// What happens next on a line.
#[derive(Debug)]
pub(crate) enum Next {
    /// The client said something.
    Received(Received),
    /// What it said is no WebSocket frame for a relay.
    Malformed(Malformed),
    /// It is gone.
    Gone,
    /// The outbox has written all that it will.
    Ended(End),
    /// The client takes nothing, from now on. Said once.
    Blocked,
}

impl Line {
    /// A WebSocket whose client has sent these bytes already.
    pub(crate) fn new(reader: WireReader, early: Vec<u8>) -> Self {
        Self { reader, source: Source::WebSocket { frames: Reader::default(), early }, inbox: VecDeque::new() }
    }

    /// A stream of events, whose client answers by POSTs.
    pub(crate) fn of_stream(reader: WireReader, stream: Stream) -> Self {
        Self { reader, source: Source::Posts(Box::new(stream)), inbox: VecDeque::new() }
    }

    /// How the outbox has to write.
    pub(crate) fn framing(&self) -> Framing {
        match self.source {
            Source::WebSocket { .. } => Framing::WebSocket,
            Source::Posts(_) => Framing::Events,
        }
    }

    /// Writes and reads until something happens.
    pub(crate) async fn next(&mut self, outbox: &Outbox) -> Next {
        poll_fn(|context| self.poll_next(context, outbox)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>, outbox: &Outbox) -> Poll<Next> {
        match outbox.poll_write(context) {
            Writing::Idle => {}
            Writing::Ended(end) => return Poll::Ready(Next::Ended(end)),
            Writing::Blocked { first: true } => return Poll::Ready(Next::Blocked),
            Writing::Blocked { first: false } => return Poll::Pending,
        }
        self.poll_received(context)
    }

    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(received) = self.inbox.pop_front() {
                if self.inbox.is_empty() && self.inbox.capacity() > KEPT_CAPACITY {
                    self.inbox = VecDeque::new();
                }
                return Poll::Ready(Next::Received(received));
            }
            let Self { reader, source, inbox } = self;
            let read = match source {
                Source::WebSocket { frames, early } if early.is_empty() => BUFFER.with_borrow_mut(|buffer| {
                    Poll::Ready(match ready!(reader.poll_read(context, buffer)) {
                        Ok(0) | Err(_) => None,
                        Ok(count) => Some(frames.read(&mut buffer[..count], |received| inbox.push_back(received))),
                    })
                }),
                Source::WebSocket { frames, early } => {
                    let mut bytes = std::mem::take(early);
                    Poll::Ready(Some(frames.read(&mut bytes, |received| inbox.push_back(received))))
                }
                Source::Posts(stream) => match stream.poll_taken(context, inbox) {
                    Poll::Ready(()) => Poll::Ready(Some(Ok(()))),
                    Poll::Pending => BUFFER.with_borrow_mut(|buffer| {
                        Poll::Ready(match ready!(reader.poll_read(context, buffer)) {
                            Ok(0) | Err(_) => None,
                            // There is nothing to be said here.
                            Ok(_) => Some(Err(Malformed::Protocol)),
                        })
                    }),
                },
            };
            match ready!(read) {
                // What came whole before the mistake is not acted on: its sender is not to be trusted with anything.
                Some(Err(malformed)) => return Poll::Ready(Next::Malformed(malformed)),
                Some(Ok(())) => {}
                None => return Poll::Ready(Next::Gone),
            }
        }
    }

    /// Says the last words, and waits until the client has answered: its last bytes would otherwise be met by a reset that
    /// eats ours.
    pub(crate) async fn finish(&mut self, outbox: &Outbox, packets: Vec<Packet>, code: CloseCode, reason: &str) {
        if !self.say_last(outbox, packets, code, reason).await {
            return;
        }
        let mut nonsense = 0;
        // Who just goes on talking has heard enough.
        for _ in 0..LISTENED_TO {
            match poll_fn(|context| self.poll_received(context)).await {
                Next::Received(Received::Close) | Next::Gone => return,
                // No more than a WebSocket's end is listened for; and not for long where none can be made out.
                Next::Malformed(_) if nonsense < NONSENSE => {
                    nonsense += 1;
                    if let Source::WebSocket { frames, .. } = &mut self.source {
                        *frames = Reader::default();
                    }
                }
                Next::Malformed(_) => return,
                _ => {}
            }
        }
    }

    /// Answers a client that has closed: it sends nothing more, and waits for the socket to end (RFC 6455, section 7.1.1).
    pub(crate) async fn answer_close(&mut self, outbox: &Outbox) {
        self.say_last(outbox, vec![], CloseCode::Normal, "").await;
    }

    /// False if nobody takes it.
    async fn say_last(&mut self, outbox: &Outbox, mut packets: Vec<Packet>, code: CloseCode, reason: &str) -> bool {
        packets.push(Packet::close(code, reason));
        outbox.last_words(&packets);
        if !poll_fn(|context| outbox.poll_last_words(context)).await {
            return false;
        }
        if let Source::Posts(stream) = &mut self.source {
            stream.close();
            // An answer of HTTP ends with its server's end of the socket.
            outbox.shut();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_are_streams_costs_a_websocket_no_memory() {
        assert_eq!(size_of::<Source>(), size_of::<(Reader, Vec<u8>)>());
    }
}
