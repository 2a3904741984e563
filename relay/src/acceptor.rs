//! The acceptor: a thread that takes sockets from the kernel's queue, keeps those that have said nothing yet, and has those
//! that speak wait for their turn.
//!
//! It is not one of the runtime's workers. However many sockets come at once, the kernel's queue is emptied: where it is full,
//! TCP tries again after one second and then after three, whoever it is that comes. And however many say nothing, or are
//! reset as soon as they are there, those who are being served don't wait for them.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use rustix::net::sockopt::set_tcp_nodelay;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{oneshot, watch},
    task::{unconstrained, yield_now},
    time::sleep,
};
use tracing::warn;

use crate::{admission::Admission, core::Core, metrics::Limit};

/// A pause after a failed accept, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Sockets that are accepted before those that are there get their turn on the processor: a few hundred microseconds' worth.
const ACCEPTED_AT_ONCE: usize = 16;

/// The thread. Dropped, it is over, and so are the sockets that it has.
#[derive(Debug)]
pub(crate) struct Acceptor {
    stopping: watch::Sender<bool>,
    closed: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Begins. Each socket is given to `open`, in the thread's own runtime, or with the limit at which it stops: its address' own,
    /// which `in_time` says, or that of all.
    ///
    /// # Errors
    ///
    /// The system has no thread or no files for it.
    pub(crate) fn start(
        listener: TcpListener,
        core: Arc<Core>,
        in_time: impl Fn(SocketAddr) -> Result<(), Limit> + Send + 'static,
        open: impl Fn(TcpStream, SocketAddr, Result<(), Limit>) + Send + 'static,
    ) -> io::Result<Self> {
        no_delay(&listener);
        let listener = listener.into_std()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let ((stopping, mut stop), (close, closed)) = (watch::channel(false), oneshot::channel());
        let run = async move {
            let listener = match TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return warn!(%error, "can't accept connections"),
            };
            tokio::select! {
                () = accept(&listener, &core.admission, in_time, open) => {}
                _ = stop.wait_for(|stopping| *stopping) => {}
            }
            drop(listener);
            let _ = close.send(());
            // Those who are told to come back another time are told so.
            while stop.changed().await.is_ok() {}
        };
        let thread = thread::Builder::new().name("acceptor".into()).spawn(move || runtime.block_on(run))?;
        Ok(Self { stopping, closed, thread: Some(thread) })
    }

    /// Closes the listening socket.
    pub(crate) async fn close(&mut self) {
        self.stopping.send_replace(true);
        let _ = (&mut self.closed).await;
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stopping = watch::Sender::default();
        // Milliseconds at most, after which the address is free.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes sockets from the kernel's queue.
async fn accept(
    listener: &TcpListener,
    admission: &Admission,
    in_time: impl Fn(SocketAddr) -> Result<(), Limit>,
    open: impl Fn(TcpStream, SocketAddr, Result<(), Limit>),
) {
    loop {
        let mut next = Some(listener.accept().await);
        let seen = Instant::now();
        for nth in 1.. {
            match next {
                Some(Ok((socket, from))) => {
                    // An address that comes too often takes nothing of what there is for all.
                    let paced = match in_time(from) {
                        Ok(()) => admission.pace(seen).await,
                        refused => refused,
                    };
                    open(socket, from, paced);
                }
                Some(Err(error)) => {
                    warn!(%error, "can't accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
                None => break,
            }
            if nth % ACCEPTED_AT_ONCE == 0 {
                yield_now().await;
            }
            // Nothing only where the queue is empty, and not where tokio would have others go first.
            next = unconstrained(listener.accept()).now_or_never();
        }
    }
}

/// Has small frames sent at once by every socket that is accepted: on Linux they inherit it, which saves a call for each.
fn no_delay(listener: &TcpListener) {
    if let Err(error) = set_tcp_nodelay(listener, true) {
        warn!(%error, "small frames will wait for each other");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_accepted_sends_small_frames_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        no_delay(&listener);
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, listener.accept());
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }
}
