//! The line to the daemon: a Unix socket that can't hang, can't be answered by anybody but root, and can't kill its host.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use gatepass_logon::wire::{self, FrameError, FromDaemon, FromModule};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};

/// A connection to the daemon.
pub(crate) struct Line {
    socket: OwnedFd,
    patience: Timespec,
    gives_up: Option<OwnedFd>,
    given_up: bool,
}

/// Why there is no line.
pub(crate) enum NoLine {
    /// Nobody listens, or the socket is out of order.
    NoAgent(io::Error),
    /// Somebody else than the trusted user listens.
    NotTheAgent { uid: u32 },
}

impl Line {
    /// Connects to a daemon of the user `trusted`. It may be silent for so long, and until `gives_up` is readable.
    pub(crate) fn connect(
        path: &Path,
        patience: Duration,
        gives_up: Option<OwnedFd>,
        trusted: u32,
    ) -> Result<Self, NoLine> {
        let connected = || -> rustix::io::Result<OwnedFd> {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Before connecting: a daemon that hangs with a full backlog would block that too.
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
            rustix::io::retry_on_intr(|| connect(&socket, &SocketAddrUnix::new(path)?))?;
            Ok(socket)
        };
        let socket = connected().map_err(|error| NoLine::NoAgent(error.into()))?;
        let peer = sockopt::socket_peercred(&socket).map_err(|error| NoLine::NoAgent(error.into()))?;
        match peer.uid.as_raw() {
            uid if uid == trusted => {
                let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
                Ok(Self { socket, patience, gives_up, given_up: false })
            }
            uid => Err(NoLine::NotTheAgent { uid }),
        }
    }

    /// Whether the last [`Line::hear`] ended because the person gave up.
    pub(crate) fn given_up(&self) -> bool {
        self.given_up
    }

    pub(crate) fn say(&mut self, message: &FromModule) -> Result<(), FrameError> {
        wire::write_frame(self, message)
    }

    pub(crate) fn hear(&mut self) -> Result<FromDaemon, FrameError> {
        wire::read_frame(self)
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut watched = vec![PollFd::new(&self.socket, PollFlags::IN)];
        watched.extend(self.gives_up.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        if rustix::io::retry_on_intr(|| poll(&mut watched, Some(&self.patience)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if watched.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            self.given_up = true;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(recv(&self.socket, buffer, RecvFlags::empty())?.0)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Without the flag a daemon that died would kill sshd or sudo by SIGPIPE.
        Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
