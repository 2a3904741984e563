//! The socket that PAM modules talk to. Anyone may connect, as the module runs in programs of all kinds; only root is
//! answered, as the kernel says who it is. One task a conversation, a bounded number of them, each frame bounded, each wait
//! bounded.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatepass_logon::wire::{self, FromDaemon, FromModule, Start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use zeroize::Zeroizing;

/// Conversations at the same time; those that wait for a phone have a smaller bound of their own.
const CONVERSATIONS: usize = 256;
/// A module says at once what it wants, and takes at once what it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// A module's terminal, as seen from here.
pub(crate) struct Terminal {
    out: OwnedWriteHalf,
    heard: mpsc::Receiver<FromModule>,
    /// The process that the module lives in, as the kernel says.
    pub(crate) pid: u32,
}

/// The module went away: its program was killed, or the person hung up.
#[derive(Debug, thiserror::Error)]
#[error("the login went away")]
pub(crate) struct Gone;

impl Terminal {
    fn new(stream: UnixStream, pid: u32) -> Self {
        let (read, out) = stream.into_split();
        let (sender, heard) = mpsc::channel(1);
        tokio::spawn(listen(read, sender));
        Self { out, heard, pid }
    }

    /// What the module says next.
    pub(crate) async fn next(&mut self) -> Result<FromModule, Gone> {
        self.heard.recv().await.ok_or(Gone)
    }

    pub(crate) async fn tell(&mut self, message: &FromDaemon) -> Result<(), Gone> {
        let frame = wire::encode(message).map_err(|error| {
            tracing::error!(%error, "a message to the PAM module could not be encoded");
            Gone
        })?;
        match tokio::time::timeout(PATIENCE, self.out.write_all(&frame)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Asks something and waits for the answer; `None` when the person gave up.
    pub(crate) async fn ask(
        &mut self,
        text: String,
        echo: bool,
        within: Duration,
    ) -> Result<Option<wire::Secret>, Gone> {
        self.tell(&FromDaemon::Prompt { text, echo }).await?;
        match tokio::time::timeout(within, self.next()).await {
            Ok(Ok(FromModule::Answer(answer))) => Ok(Some(answer)),
            Ok(Ok(FromModule::Cancelled)) | Err(_) => Ok(None),
            Ok(Ok(FromModule::Start(_)) | Err(Gone)) => Err(Gone),
        }
    }

    async fn start(&mut self) -> Option<Start> {
        match tokio::time::timeout(PATIENCE, self.next()).await {
            Ok(Ok(FromModule::Start(start))) => Some(start),
            _ => None,
        }
    }
}

/// Reads frames in a task of its own, so that a wait for one can be given up without losing half of it.
async fn listen(mut read: OwnedReadHalf, heard: mpsc::Sender<FromModule>) {
    loop {
        let mut header = [0; 4];
        if read.read_exact(&mut header).await.is_err() {
            return;
        }
        let length = match wire::body_length(header) {
            Ok(length) => length,
            Err(error) => return tracing::warn!(%error, "a login was refused"),
        };
        let mut body = Zeroizing::new(vec![0; length]);
        if read.read_exact(&mut body).await.is_err() {
            return;
        }
        match wire::decode(&body) {
            Ok(message) => {
                if heard.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => return tracing::warn!(%error, "a login was refused"),
        }
    }
}

/// Binds a socket at `path` with `mode`; one that a dead agent left is replaced, a live one's is not.
pub(crate) async fn bind(path: &Path, mode: u32) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another agent answers there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// The peer's process, if it may talk to us: root, or (an agent that does not run as root, in a test) the same user.
pub(crate) fn trusted_peer(stream: &UnixStream) -> Option<u32> {
    let peer = stream.peer_cred().ok()?;
    let own = rustix::process::geteuid().as_raw();
    let pid = u32::try_from(peer.pid()?).ok()?;
    if peer.uid() == 0 || peer.uid() == own {
        return Some(pid);
    }
    tracing::warn!(uid = peer.uid(), pid, "somebody without rights talked to the agent's socket");
    None
}

/// Answers every module, for as long as the daemon runs. `converse` has the whole conversation after its start.
pub(crate) async fn serve<F>(listener: UnixListener, converse: impl Fn(Start, Terminal) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(CONVERSATIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "the PAM socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(pid) = trusted_peer(&stream) else { continue };
        let Ok(slot) = free.clone().try_acquire_owned() else {
            tracing::warn!(limit = CONVERSATIONS, "a login was dropped: too many at the same time");
            continue;
        };
        let converse = converse.clone();
        tokio::spawn(async move {
            let mut terminal = Terminal::new(stream, pid);
            if let Some(start) = terminal.start().await {
                converse(start, terminal).await;
            }
            drop(slot);
        });
    }
}
