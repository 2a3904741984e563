//! One type for the sockets of this relay while they speak HTTP, with and without TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use rustls::ServerConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A socket.
pub(crate) struct Socket {
    stream: Stream,
    /// Read already and given back: what comes next.
    early: Bytes,
}

enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// With TLS. Boxed: its state is a kilobyte that a plain connection does not have.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// A socket as it is.
    pub(crate) fn plain(socket: TcpStream) -> Self {
        Self { stream: Stream::Plain(socket), early: Bytes::new() }
    }

    /// One with TLS.
    pub(crate) fn tls(socket: TlsStream<TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(socket)), early: Bytes::new() }
    }

    /// Gives back what was read and is for somebody else.
    pub(crate) fn unread(&mut self, bytes: Vec<u8>) {
        self.early = bytes.into();
    }

    /// The socket, and what TLS knows of it. Nothing may be left unread.
    pub(crate) fn into_parts(self) -> (TcpStream, Option<ServerConnection>) {
        match self.stream {
            Stream::Plain(socket) => (socket, None),
            Stream::Tls(socket) => {
                let (socket, tls) = socket.into_inner();
                (socket, Some(tls))
            }
        }
    }
}

macro_rules! either {
    ($self:ident, $inner:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Plain(socket) => {
                let $inner = Pin::new(socket);
                $call
            }
            Stream::Tls(socket) => {
                let $inner = Pin::new(socket.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        either!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(socket) => socket.is_write_vectored(),
            Stream::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_shutdown(cx))
    }
}
