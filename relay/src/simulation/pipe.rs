//! A socket in memory: what one side writes the other reads, at once, up to a bound.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::{
    locked,
    wire::{WireReader, WireWriter},
};

/// Bytes that a kernel would take for a reader that does not read.
const ROOM: usize = 8 * 1024;

#[derive(Debug, Default)]
struct Flow {
    to_relay: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// By the client, or on the way.
    cut: bool,
    /// By the relay.
    shut: bool,
    /// Relay's reader, relay's writer, client.
    wakers: [Option<Waker>; 3],
}

const READER: usize = 0;
const WRITER: usize = 1;
const CLIENT: usize = 2;

/// The relay's side: one of its ends.
#[derive(Debug)]
pub(crate) struct Near {
    flow: Arc<Mutex<Flow>>,
    writes: bool,
}

impl Drop for Near {
    fn drop(&mut self) {
        if self.writes {
            let mut flow = locked(&self.flow);
            flow.shut = true;
            let waker = flow.wakers[CLIENT].take();
            drop(flow);
            wake(waker);
        }
    }
}

/// The client's side.
#[derive(Debug)]
pub(crate) struct Far(Arc<Mutex<Flow>>);

/// A socket.
pub(crate) fn pipe() -> (WireReader, WireWriter, Far) {
    let flow = Arc::new(Mutex::new(Flow::default()));
    let near = |writes| Near { flow: flow.clone(), writes };
    (WireReader::Memory(near(false)), WireWriter::Memory(near(true)), Far(flow))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Near {
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<(usize, bool)> {
        let mut flow = locked(&self.flow);
        if flow.cut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(ROOM.saturating_sub(flow.to_client.len()));
        flow.to_client.extend(&bytes[..taken]);
        let waker = flow.wakers[CLIENT].take();
        drop(flow);
        wake(waker);
        Ok((taken, taken == bytes.len()))
    }

    pub(crate) fn poll_room(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut flow = locked(&self.flow);
        if flow.cut || flow.to_client.len() < ROOM {
            return Poll::Ready(Ok(()));
        }
        flow.wakers[WRITER] = Some(context.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_read(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut flow = locked(&self.flow);
        let count = buffer.len().min(flow.to_relay.len());
        if count == 0 && !flow.cut {
            flow.wakers[READER] = Some(context.waker().clone());
            return Poll::Pending;
        }
        for (to, from) in buffer.iter_mut().zip(flow.to_relay.drain(..count)) {
            *to = from;
        }
        Poll::Ready(Ok(count))
    }
}

impl Far {
    /// What a client sends.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut flow = locked(&self.0);
        flow.to_relay.extend(bytes);
        let waker = flow.wakers[READER].take();
        drop(flow);
        wake(waker);
    }

    /// What has come for the client, once there is something; `None` once it is cut.
    pub(crate) async fn receive(&self) -> Option<Vec<u8>> {
        poll_fn(|context| {
            let mut flow = locked(&self.0);
            if flow.to_client.is_empty() && !flow.cut && !flow.shut {
                flow.wakers[CLIENT] = Some(context.waker().clone());
                return Poll::Pending;
            }
            let bytes: Vec<u8> = flow.to_client.drain(..).collect();
            let waker = flow.wakers[WRITER].take();
            drop(flow);
            wake(waker);
            Poll::Ready((!bytes.is_empty()).then_some(bytes))
        })
        .await
    }

    /// The socket is gone, and what was on its way to the client; what was on its way to the relay, perhaps.
    pub(crate) fn cut(&self, all: bool) {
        let mut flow = locked(&self.0);
        flow.cut = true;
        flow.to_client.clear();
        if all {
            flow.to_relay.clear();
        }
        let wakers = std::mem::take(&mut flow.wakers);
        drop(flow);
        wakers.into_iter().for_each(wake);
    }
}
