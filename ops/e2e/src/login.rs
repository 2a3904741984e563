//! A login without a terminal: `pamtester` walks through PAM's phases for a service whose module writes the code as text. For
//! stories with many logins, in which no screen matters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use gatepass_protocol::qr::{LENGTH, QrPayload};

use crate::process::{Finished, Running};
use crate::wait::until;

/// The name of the PAM service.
pub(crate) const SERVICE: &str = "gatepass-test";
/// While this file is there, an opened session does not go on to its end.
const HELD: &str = "/run/sessions-are-held";
/// What an opened session runs.
const HOLD: &str = "/run/hold-session";

/// Its stack.
pub(crate) fn stack(module: &Path) -> String {
    let wait = format!("#!/bin/sh\nwhile [ -e {HELD} ]; do sleep 0.02; done\n");
    fs::write(HOLD, wait).expect("/run can be written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(HOLD, mode).expect("/run can be written");
    let module = module.display();
    format!(
        "auth required {module} style=text live=yes renames=yes\naccount required {module}\nsession required {module}\n\
         session optional pam_exec.so quiet type=open_session {HOLD}\n"
    )
}

/// From `authenticate` to `close_session`.
pub const ALL_PHASES: &[&str] = &["authenticate", "acct_mgmt", "open_session", "close_session"];

/// A login on its way.
#[derive(Debug)]
pub struct Login {
    process: Running,
    log: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(1);

impl Login {
    pub(crate) fn start(folder: &Path, user: &str, phases: &[&str]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = folder.join(format!("login-{number}.log"));
        // Without a terminal it would keep what it says for later.
        let mut pamtester = Command::new("stdbuf");
        // Each from a place of its own: the agent lets no single one wait too often at a time.
        pamtester.args(["-oL", "pamtester", "-I", &format!("tty=pts/{number}")]).arg(SERVICE).arg(user).args(phases);
        Self { process: Running::start(&mut pamtester, &log), log }
    }

    /// Keeps sessions open that are opened from now on, until [`Login::release`].
    pub fn hold() {
        fs::write(HELD, "").expect("/run can be written");
    }

    /// Lets sessions go on to their end.
    pub fn release() {
        let _ = fs::remove_file(HELD);
    }

    /// The newest code that it shows, once it shows one.
    pub fn code(&self) -> String {
        until("a code at the login", || {
            let said = self.process.log();
            let (_, shown) = said.rsplit_once("GP1:")?;
            // In groups, with `_` for the blank; 56 bytes are 84 characters of base45.
            let shown = shown.chars().filter(|c| !c.is_whitespace()).map(|c| if c == '_' { ' ' } else { c });
            let code = format!("GP1:{}", shown.take(LENGTH / 2 * 3).collect::<String>());
            QrPayload::from_text(&code).is_ok().then_some(code)
        })
    }

    /// Waits until it has said this.
    pub fn wait_for(&self, text: &str) -> String {
        until(&format!("{text:?} at the login"), || Some(self.process.log()).filter(|said| said.contains(text)))
    }

    /// All it has said so far.
    pub fn said(&self) -> String {
        self.process.log()
    }

    /// Whether it is over.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// What it says at the end.
    pub fn finish(mut self) -> Finished {
        let status = self.process.wait();
        Finished { status, out: self.process.log(), err: self.process.log() }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            let said = format!("--- a login ---\n{}\n", self.process.log());
            let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
        }
        let _ = fs::remove_file(&self.log);
    }
}
