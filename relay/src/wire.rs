//! A socket that two may write to: its own task, and whoever has a frame for it while it is idle.
//!
//! Nothing here waits but for readiness. A write takes what the kernel takes at once, so that a publisher can write straight
//! into an idle socket and no task has to be woken for it; who writes holds the connection's queue, so frames stay in order.
//!
//! With TLS, encryption is done in between, in memory: [`ServerConnection`] knows no sockets. One lock guards it, held for the
//! length of a call.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};
use rustls::ServerConnection;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Plain text that TLS may hold because the kernel did not take it: one of its records.
const TLS_BACKLOG: usize = 16 * 1024;

/// The writing end.
#[derive(Debug)]
pub(crate) enum WireWriter {
    /// Of a socket.
    Tcp { tcp: OwnedWriteHalf, tls: Option<SharedTls> },
    /// Of a simulated one.
    #[cfg(test)]
    Memory(crate::simulation::pipe::Near),
}

/// The reading end.
#[derive(Debug)]
pub(crate) enum WireReader {
    /// Of a socket.
    Tcp { tcp: OwnedReadHalf, tls: Option<SharedTls> },
    /// Of a simulated one.
    #[cfg(test)]
    Memory(crate::simulation::pipe::Near),
}

#[derive(Debug, Clone)]
pub(crate) struct SharedTls(std::sync::Arc<Mutex<ServerConnection>>);

/// Both ends of a socket whose TLS handshake, if it has one, is over.
pub(crate) fn wire(tcp: TcpStream, tls: Option<ServerConnection>) -> (WireReader, WireWriter) {
    let tls = tls.map(|mut tls| {
        tls.set_buffer_limit(Some(TLS_BACKLOG));
        SharedTls(std::sync::Arc::new(Mutex::new(tls)))
    });
    let (reader, writer) = tcp.into_split();
    (WireReader::Tcp { tcp: reader, tls: tls.clone() }, WireWriter::Tcp { tcp: writer, tls })
}

impl SharedTls {
    fn lock(&self) -> MutexGuard<'_, ServerConnection> {
        // rustls does not panic, and if it did, its next call would fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket as the blocking interface that TLS wants, which never blocks.
struct NoWait<'a>(&'a TcpStream);

impl Read for NoWait<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for NoWait<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the kernel what TLS has ready. True once all of it is gone.
fn push_out(tls: &mut ServerConnection, tcp: &TcpStream) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(&mut NoWait(tcp)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

impl WireWriter {
    /// Writes what the socket takes now: how much of it that is, and whether the kernel has all that was ever taken.
    /// Where it is less than all of it, [`WireWriter::poll_ready`] follows.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<(usize, bool)> {
        let (tcp, tls): (&TcpStream, _) = match self {
            Self::Tcp { tcp, tls } => (tcp.as_ref(), tls),
            #[cfg(test)]
            Self::Memory(near) => return near.write(bytes),
        };
        let Some(tls) = tls else {
            return match tcp.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, bytes.is_empty())),
                taken => taken.map(|taken| (taken, taken == bytes.len())),
            };
        };
        let mut tls = tls.lock();
        // What is left of earlier writes goes first, and while it does not, nothing is added to it.
        if !push_out(&mut tls, tcp)? {
            return Ok((0, false));
        }
        let taken = tls.writer().write(bytes)?;
        Ok((taken, push_out(&mut tls, tcp)?))
    }

    /// The same for a socket that is idle, past the runtime's book of which socket is ready: one of ten thousand is not in the
    /// processor's cache.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<(usize, bool)> {
        let Self::Tcp { tcp, tls: None } = self else { return self.write(bytes) };
        match send(tcp.as_ref(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => Ok((0, false)),
            taken => Ok(taken.map(|taken| (taken, taken == bytes.len()))?),
        }
    }

    /// Waits until the socket takes more.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp { tcp, .. } => tcp.as_ref().poll_write_ready(context),
            #[cfg(test)]
            Self::Memory(near) => near.poll_room(context),
        }
    }

    /// Says goodbye in TLS's way, where there is TLS and room. The socket is closed with its reading end.
    pub(crate) fn say_goodbye(self) {
        self.close_tls();
        // Both ends go at the same time, so this one need not be shut by itself.
        match self {
            Self::Tcp { tcp, .. } => tcp.forget(),
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// Says goodbye and shuts this end, while the other one still listens.
    pub(crate) fn shut(self) {
        self.close_tls();
        // Dropping shuts it.
        drop(self);
    }

    fn close_tls(&self) {
        if let Self::Tcp { tcp, tls: Some(tls) } = self {
            let mut tls = tls.lock();
            tls.send_close_notify();
            let _ = push_out(&mut tls, tcp.as_ref());
        }
    }
}

impl WireReader {
    /// Waits for bytes. `Ok(0)`: the client has closed its end.
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let (tcp, tls) = match self {
            Self::Tcp { tcp, tls } => (tcp, tls),
            #[cfg(test)]
            Self::Memory(near) => return near.poll_read(context, buffer),
        };
        let Some(tls) = tls else {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(tcp).poll_read(context, &mut buffer))?;
            return Poll::Ready(Ok(buffer.filled().len()));
        };
        let tcp: &TcpStream = tcp.as_ref();
        loop {
            {
                let mut tls = tls.lock();
                match tls.reader().read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // A client that cuts the line without TLS's goodbye is how phones leave.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                    read => return Poll::Ready(read),
                }
                match tls.read_tls(&mut NoWait(tcp)) {
                    Ok(_) => {
                        tls.process_new_packets().map_err(io::Error::other)?;
                        // TLS may have something to say by itself: to a key update, for example.
                        push_out(&mut tls, tcp)?;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            // The readiness was used up just now, so this waits; it may be there again already, and then it is read again.
            ready!(tcp.poll_read_ready(context))?;
        }
    }
}
