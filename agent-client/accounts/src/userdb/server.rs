//! The socket behind the user database: one thread, one poll loop, and a bound on everything.
//!
//! Every process of the computer that looks up a user may connect here, so nobody may be able to stop it for the others: a message
//! has a largest size, a connection that idles is closed, and when all places are taken the longest-idle connection goes, those of
//! ordinary users before those of root (sshd must always get through). A client is answered only while it reads, and after a few
//! answers it is the others' turn.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::socket_peercred,
};

use super::records::{Directory, answer};
use crate::{AccountError, During};

/// A question is at most a few hundred bytes.
const MESSAGE: usize = 4096;

/// Lookups take microseconds, so this many at once are a storm.
const CONNECTIONS: usize = 256;

/// libnss-systemd asks at once after it connected and hangs up after the answer.
const IDLE: Duration = Duration::from_secs(10);

/// libnss-systemd asks one question a connection. Who asks more waits for the others in between.
const TURN: usize = 8;

/// How long to wait before accepting again when there are no files left.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// How often idle connections are looked for.
const SWEEP: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// The running server. It ends, and its socket goes, when this is dropped.
pub(super) struct Server {
    path: PathBuf,
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(path: &Path, directory: Arc<dyn Directory>) -> Result<Self, AccountError> {
        let listener = listen(path)?;
        let (wake, woken) = UnixStream::pair().during("make a socket pair for", path)?;
        let thread = thread::Builder::new()
            .name("userdb".into())
            .spawn(move || Loop { listener, woken, directory, connections: Vec::new() }.run())
            .during("start the thread of", path)?;
        Ok(Self { path: path.into(), wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The socket appears under its name only when anybody may connect to it; a dead predecessor's is replaced.
fn listen(path: &Path) -> Result<UnixListener, AccountError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).during("make the directory", dir)?;
    // libnss-systemd skips hidden names.
    let new = dir.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let _ = fs::remove_file(&new);
    let made = || {
        let listener = UnixListener::bind(&new)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o666))?;
        fs::rename(&new, path)?;
        Ok::<_, io::Error>(listener)
    };
    made().during("listen on", path)
}

struct Connection {
    stream: UnixStream,
    root: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    active: Instant,
}

struct Loop {
    listener: UnixListener,
    woken: UnixStream,
    directory: Arc<dyn Directory>,
    connections: Vec<Connection>,
}

impl Loop {
    fn run(mut self) {
        loop {
            let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            fds.extend(self.connections.iter().map(|connection| {
                let wanted = if connection.output.is_empty() { PollFlags::IN } else { PollFlags::OUT };
                PollFd::new(&connection.stream, wanted)
            }));
            let waits = !self.connections.iter().any(Connection::has_question);
            let patience = if waits { SWEEP } else { Timespec::default() };
            if let Err(error) = poll(&mut fds, Some(&patience))
                && error != rustix::io::Errno::INTR
            {
                tracing::error!(%error, "the user database can't wait for questions; stopping it");
                return;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            if ready[0] {
                return;
            }
            let now = Instant::now();
            let mut ready_connections = ready[2..].iter();
            self.connections.retain_mut(|connection| {
                let ready = *ready_connections.next().unwrap_or(&false) || connection.has_question();
                if ready {
                    connection.go_on(&*self.directory, now)
                } else {
                    now.duration_since(connection.active) < IDLE
                }
            });
            if ready[1] {
                self.accept(now);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => continue,
                Err(error) => {
                    // Out of files, most likely: give back the idlest and go on.
                    tracing::warn!(%error, "the user database can't accept a connection");
                    self.evict();
                    thread::sleep(EXHAUSTED);
                    return;
                }
            };
            let Ok(peer) = socket_peercred(&stream) else { continue };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.connections.len() >= CONNECTIONS {
                self.evict();
            }
            let mut connection =
                Connection { stream, root: peer.uid.is_root(), input: Vec::new(), output: Vec::new(), active: now };
            // The question is usually there already, and so saves a round of the loop.
            if connection.go_on(&*self.directory, now) {
                self.connections.push(connection);
            }
        }
    }

    fn evict(&mut self) {
        let idlest =
            self.connections.iter().enumerate().min_by_key(|(_, connection)| (connection.root, connection.active));
        if let Some((n, _)) = idlest {
            self.connections.swap_remove(n);
        }
    }
}

impl Connection {
    /// Reads, answers and writes as far as possible without waiting. False: the connection is over.
    fn go_on(&mut self, directory: &dyn Directory, now: Instant) -> bool {
        self.active = now;
        let mut left = TURN;
        loop {
            match self.flush() {
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
                Ok(()) => self.output.clear(),
            }
            if let Some(end) = self.input.iter().position(|byte| *byte == 0) {
                if left == 0 {
                    return true;
                }
                left -= 1;
                let message: Vec<u8> = self.input.drain(..=end).collect();
                match answer(directory, &message[..end], self.root) {
                    Some(bytes) => self.output = bytes,
                    None => return false,
                }
                continue;
            }
            if self.input.len() >= MESSAGE {
                return false;
            }
            let mut part = [0; MESSAGE];
            let room = MESSAGE - self.input.len();
            match self.stream.read(&mut part[..room]) {
                Ok(0) => return false,
                Ok(n) => self.input.extend_from_slice(&part[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Whether a question waits that came while it was the others' turn.
    fn has_question(&self) -> bool {
        self.output.is_empty() && self.input.contains(&0)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Record;
    use super::*;

    struct Nobody;

    impl Directory for Nobody {
        fn service(&self) -> &str {
            "io.gatepass.Test"
        }

        fn by_name(&self, _: &str, _: bool) -> Option<Record> {
            None
        }

        fn by_uid(&self, _: u32, _: bool) -> Option<Record> {
            None
        }

        fn all(&self, _: bool) -> Vec<Record> {
            Vec::new()
        }
    }

    #[test]
    fn after_a_few_answers_it_is_the_others_turn() {
        let (stream, mut client) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        client.write_all(&b"{\"method\":\"a.b\"}\0".repeat(TURN * 2 + 1)).unwrap();
        let now = Instant::now();
        let mut connection = Connection { stream, root: false, input: Vec::new(), output: Vec::new(), active: now };
        for answers in [TURN, TURN, 1, 0] {
            assert!(connection.go_on(&Nobody, now));
            let mut part = [0; 65536];
            let n = client.read(&mut part).unwrap_or(0);
            assert_eq!(part[..n].iter().filter(|byte| **byte == 0).count(), answers);
        }
        assert!(!connection.has_question());
    }
}
