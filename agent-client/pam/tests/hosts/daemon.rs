//! A daemon that follows a script for each connection and remembers what it was told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gatepass_logon::text;
use gatepass_logon::wire::{FromDaemon, FromModule, Phase, Start, Verdict, read_frame, write_frame};

use crate::{CODE, jail};

/// What the daemon was told, and by which process.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) start: Start,
    /// The peer's process by the kernel's word.
    pub(crate) pid: u32,
}

/// The daemon.
#[derive(Clone)]
pub(crate) struct Daemon {
    told: Arc<Mutex<Vec<Told>>>,
    heard: Arc<Mutex<Vec<FromModule>>>,
}

/// What the daemon does in the authenticate phase: its end of the line, and the rest is the script's.
pub(crate) struct Line {
    stream: UnixStream,
    heard: Arc<Mutex<Vec<FromModule>>>,
}

impl Line {
    pub(crate) fn say(&mut self, message: &FromDaemon) {
        // Somebody who left doesn't listen: the tests look at what was said by then.
        let _ = write_frame(&mut self.stream, message);
    }

    /// The next message from the module; None when it is gone.
    pub(crate) fn hear(&mut self) -> Option<FromModule> {
        let message: Option<FromModule> = read_frame(&mut self.stream).ok();
        self.heard.lock().unwrap().extend(message.clone());
        message
    }

    /// Writes bytes that are no frame.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        use std::io::Write as _;
        self.stream.write_all(bytes).unwrap();
    }

    /// Shows the picture as the surface asks for it: at once, or as a prompt that has to be answered.
    pub(crate) fn show_picture(&mut self, start: &Start) {
        if start.live {
            self.say(&FromDaemon::Info(text::waiting(CODE, start.style)));
        } else {
            self.say(&FromDaemon::Prompt { text: text::approve_then_enter(CODE, start.style), echo: true });
            self.hear();
        }
    }

    pub(crate) fn grant(&mut self) {
        self.say(&FromDaemon::SetSession([0x5e; 16]));
        self.say(&FromDaemon::SetEnv("GATEPASS_UNTIL".into(), "14:30".into()));
        self.say(&FromDaemon::Done(Verdict::Success));
    }

    pub(crate) fn deny(&mut self) {
        self.say(&FromDaemon::Error(text::Refusal::Denied.to_string()));
        self.say(&FromDaemon::Done(Verdict::Denied));
    }
}

impl Daemon {
    /// Serves: `authenticate` follows this script; every other phase succeeds.
    pub(crate) fn serve(authenticate: impl Fn(&Start, &mut Line) + Send + Sync + 'static) -> Self {
        Self::serve_with(authenticate, |line| line.say(&FromDaemon::Done(Verdict::Success)))
    }

    /// Serves: `authenticate` and `open`, which answers to a session that begins, follow these scripts; the rest succeeds.
    pub(crate) fn serve_with(
        authenticate: impl Fn(&Start, &mut Line) + Send + Sync + 'static,
        open: fn(&mut Line),
    ) -> Self {
        let daemon = Self { told: Arc::default(), heard: Arc::default() };
        let listener = UnixListener::bind(jail::SOCKET).unwrap();
        fs::set_permissions(jail::SOCKET, fs::Permissions::from_mode(0o666)).unwrap();
        let (serving, script) = (daemon.clone(), Arc::new(authenticate));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, serving, script) = (stream.unwrap(), serving.clone(), script.clone());
                std::thread::spawn(move || {
                    let pid = rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().get() as u32;
                    let Ok(FromModule::Start(start)) = read_frame(&mut stream) else { return };
                    serving.told.lock().unwrap().push(Told { start: start.clone(), pid });
                    let mut line = Line { stream, heard: serving.heard };
                    match start.phase {
                        Phase::Authenticate => script(&start, &mut line),
                        Phase::OpenSession => open(&mut line),
                        _ => line.say(&FromDaemon::Done(Verdict::Success)),
                    }
                });
            }
        });
        daemon
    }

    /// What was told so far.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// The phases that it was asked for so far.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.told().iter().map(|told| told.start.phase).collect()
    }

    /// Waits until this phase was asked for.
    pub(crate) fn wait_for(&self, phase: Phase) -> Told {
        wait(&format!("{phase:?}"), || self.told().into_iter().find(|told| told.start.phase == phase))
    }

    /// Waits until the module said this.
    pub(crate) fn wait_to_hear(&self, message: &FromModule) {
        wait(&format!("{message:?}"), || self.heard.lock().unwrap().contains(message).then_some(()));
    }
}

/// Waits for something to be there.
pub(crate) fn wait<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    match wait_or(look) {
        Some(found) => found,
        None => panic!("waited in vain for {what}"),
    }
}

/// Waits for something; None when it does not come.
pub(crate) fn wait_or<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if begun.elapsed() > Duration::from_secs(15) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
