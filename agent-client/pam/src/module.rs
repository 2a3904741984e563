//! What the module does, apart from C: one conversation with the daemon for each PAM phase.

use std::fmt;
use std::os::fd::OwnedFd;

use gatepass_logon::picture::choose_style;
use gatepass_logon::text::{Refusal, clean};
use gatepass_logon::wire::{FromDaemon, FromModule, Phase, Secret, Start, Verdict};

use crate::line::{Line, NoLine};
use crate::options::Options;
use crate::terminal::Terminal;

/// How the grant's id gets from one phase to the next: through PAM's environment.
///
/// `pam_set_data` would not do: sshd authenticates in a process of its own, and PAM's environment is the only thing that it carries
/// over from there. The id is no secret and proves nothing; the daemon holds it against the account.
pub const SESSION_VARIABLE: &str = "GATEPASS_SESSION";

/// Phases that ask nobody anything need no patience: a hung daemon must not hang every login and logout.
const UNATTENDED: std::time::Duration = std::time::Duration::from_secs(10);

/// PAM's return values, those of them that this module returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "PAM's own names")]
pub enum Code {
    Success = 0,
    ServiceErr = 3,
    SystemErr = 4,
    PermDenied = 6,
    AuthErr = 7,
    AuthinfoUnavail = 9,
    UserUnknown = 10,
    AcctExpired = 13,
    SessionErr = 14,
    ConvErr = 19,
    Ignore = 25,
}

/// What the module wants to know from PAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "PAM's own names")]
pub enum Item {
    Service,
    Tty,
    Rhost,
    Ruser,
}

/// How a text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "PAM's own names")]
pub enum Tone {
    Info,
    Error,
}

/// PAM, as far as the module uses it. The real one is in `ffi`; tests script theirs.
pub trait Pam {
    /// An item; empty when it is not set.
    fn item(&self, item: Item) -> String;
    /// `PAM_USER`, asked for if nobody set it.
    fn user(&mut self) -> Result<String, Code>;
    /// Changes `PAM_USER`.
    fn set_user(&mut self, name: &str) -> Result<(), Code>;
    /// A variable of PAM's environment, which becomes the session's.
    fn env(&self, name: &str) -> Option<String>;
    /// Sets one.
    fn set_env(&mut self, name: &str, value: &str) -> Result<(), Code>;
    /// Shows a text.
    fn show(&mut self, tone: Tone, text: &str) -> Result<(), Code>;
    /// Asks; None when the person gave up.
    fn ask(&mut self, text: &str, echo: bool) -> Option<Secret>;
    /// Writes to the system's log.
    fn log(&self, text: &str);
    /// Becomes readable when the person gives up outside of a prompt.
    fn gives_up(&self) -> Option<OwnedFd>;
    /// The terminal of this process.
    fn terminal(&self) -> Terminal;
    /// From now on what is orphaned below this process becomes its child, and does not get lost among everybody's.
    fn adopt_orphans(&mut self);
}

/// Does one phase with the daemon that runs as the user `trusted` (root, but in tests).
pub fn run(phase: Phase, options: &Options, trusted: u32, pam: &mut impl Pam) -> Code {
    let outcome = start(phase, options, pam).and_then(|start| converse(&start, options, trusted, pam));
    match outcome {
        Ok(verdict) => code(phase, verdict),
        Err(End::Pam(code)) => code,
        Err(End::Refusal(refusal, detail)) => {
            pam.log(&clean(&format!("{refusal} ({detail})")));
            unavailable(phase, &refusal, pam)
        }
    }
}

/// Why a conversation ended without a verdict.
enum End {
    /// PAM failed, or the person gave up.
    Pam(Code),
    /// The daemon failed: what the person is told, and what the log says besides.
    Refusal(Refusal, String),
}

impl From<Code> for End {
    fn from(code: Code) -> Self {
        Self::Pam(code)
    }
}

fn start(phase: Phase, options: &Options, pam: &mut impl Pam) -> Result<Start, End> {
    let (service, tty) = (pam.item(Item::Service), pam.item(Item::Tty));
    let ssh = tty == "ssh" || service.starts_with("sshd");
    let terminal = if ssh { Terminal::assumed() } else { pam.terminal() };
    let best = || choose_style(terminal.utf8, terminal.columns, terminal.rows, terminal.kind.as_deref());
    Ok(Start {
        phase,
        user: pam.user()?,
        ruser: pam.item(Item::Ruser),
        rhost: pam.item(Item::Rhost),
        pid: std::process::id(),
        style: options.style.unwrap_or_else(best),
        live: options.live.unwrap_or(!ssh),
        renames: options.renames.unwrap_or(service == "login"),
        session: pam.env(SESSION_VARIABLE).as_deref().and_then(session_from_hex),
        service,
        tty,
    })
}

fn converse(start: &Start, options: &Options, trusted: u32, pam: &mut impl Pam) -> Result<Verdict, End> {
    let (patience, gives_up) = match start.phase {
        Phase::Authenticate => (options.timeout, pam.gives_up()),
        Phase::Account | Phase::OpenSession | Phase::CloseSession => (options.timeout.min(UNATTENDED), None),
    };
    let socket = options.socket.display().to_string();
    let mut line = Line::connect(&options.socket, patience, gives_up, trusted).map_err(|no_line| match no_line {
        NoLine::NoAgent(error) => End::Refusal(Refusal::NoAgent { socket: socket.clone() }, error.to_string()),
        NoLine::NotTheAgent { uid } => {
            End::Refusal(Refusal::NotTheAgent { socket: socket.clone() }, format!("user {uid} listens there"))
        }
    })?;
    line.say(&FromModule::Start(start.clone())).map_err(gone)?;
    loop {
        let message = match line.hear() {
            Ok(message) => message,
            Err(_) if line.given_up() => return Err(give_up(&mut line)),
            Err(error) => return Err(gone(error)),
        };
        match message {
            FromDaemon::Info(text) => pam.show(Tone::Info, &clean(&text))?,
            FromDaemon::Error(text) => pam.show(Tone::Error, &clean(&text))?,
            FromDaemon::Prompt { text, echo } if start.phase == Phase::Authenticate => {
                match pam.ask(&clean(&text), echo) {
                    Some(answer) => line.say(&FromModule::Answer(answer)).map_err(gone)?,
                    None => return Err(give_up(&mut line)),
                }
            }
            FromDaemon::Prompt { .. } => return Err(gone("a prompt in a phase that asks nobody")),
            FromDaemon::SetUser(name) if name != start.user && !start.renames => {
                // Going on would let the person in as somebody whom nobody approved.
                let reason =
                    format!("{} can only log in the account that it was asked for, {}.", start.service, start.user);
                return Err(End::Refusal(Refusal::Because { reason }, format!("the daemon named {name}")));
            }
            FromDaemon::SetUser(name) => pam.set_user(&name)?,
            FromDaemon::SetSession(id) => pam.set_env(SESSION_VARIABLE, &session_to_hex(&id))?,
            FromDaemon::SetEnv(name, value) => pam.set_env(&name, &value)?,
            FromDaemon::Done(verdict) => {
                // sudo and su, whose sessions end by killing what is below them. login would take an orphan for its shell.
                if (start.phase, verdict) == (Phase::OpenSession, Verdict::Success) && !start.ruser.is_empty() {
                    pam.adopt_orphans();
                }
                return Ok(verdict);
            }
        }
    }
}

fn give_up(line: &mut Line) -> End {
    // The daemon hears it if it still listens; the person has left either way.
    let _ = line.say(&FromModule::Cancelled);
    End::Pam(Code::ConvErr)
}

fn gone(why: impl fmt::Display) -> End {
    End::Refusal(Refusal::AgentGone, why.to_string())
}

/// The daemon can't say. Somebody who waits at a logon is told why. For the rest: a login that was granted minutes ago must not slip past
/// the daemon (nothing would end it); any other login is no business of ours, so that a dead daemon locks nobody else out.
fn unavailable(phase: Phase, refusal: &Refusal, pam: &mut impl Pam) -> Code {
    let granted = pam.env(SESSION_VARIABLE).is_some();
    match phase {
        Phase::Authenticate => {
            // A terminal that is gone as well changes nothing about the answer.
            let _ = pam.show(Tone::Error, &clean(&refusal.to_string()));
            Code::AuthinfoUnavail
        }
        Phase::Account if granted => Code::PermDenied,
        Phase::Account => Code::AuthinfoUnavail,
        Phase::OpenSession if granted => Code::PermDenied,
        Phase::CloseSession if granted => Code::SessionErr,
        Phase::OpenSession | Phase::CloseSession => Code::Ignore,
    }
}

fn code(phase: Phase, verdict: Verdict) -> Code {
    match (phase, verdict) {
        (_, Verdict::Success) => Code::Success,
        (_, Verdict::Ignore) => Code::Ignore,
        // Not `PAM_SESSION_ERR`, which sudo takes for a trifle: it would run the command in a session that nothing ends.
        (Phase::OpenSession, _) => Code::PermDenied,
        (Phase::CloseSession, _) => Code::SessionErr,
        (Phase::Authenticate, Verdict::Denied) => Code::AuthErr,
        (Phase::Account, Verdict::Denied) => Code::PermDenied,
        (_, Verdict::Unavailable) => Code::AuthinfoUnavail,
        (_, Verdict::UserUnknown) => Code::UserUnknown,
        (_, Verdict::Expired) => Code::AcctExpired,
    }
}

fn session_to_hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn session_from_hex(hex: &str) -> Option<[u8; 16]> {
    let id = u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32)?.to_be_bytes();
    (session_to_hex(&id) == hex).then_some(id)
}
