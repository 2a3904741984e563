//! Talking with the technician: lines out, answers in, the PIN unseen. Whatever is written is cleaned here, for it may have come
//! over the wire: nothing steers the terminal.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use gatepass_mobile::clean;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::home;

/// Writes one line, with every argument cleaned.
macro_rules! line {
    ($format:literal $(, $argument:expr)* $(,)?) => {
        $crate::terminal::write_line(&format!($format $(, gatepass_mobile::clean(&$argument.to_string()))*))
    };
}
pub(crate) use line;

/// Writes one line at once.
pub(crate) fn write_line(text: &str) {
    let mut out = io::stdout().lock();
    // A closed pipe is no reason to stop: the approval may be on its way.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Asks one question; an empty answer is the proposal.
pub(crate) fn ask(question: &str, proposal: &str) -> Result<String> {
    if !io::stdin().is_terminal() {
        bail!(
            "there is no terminal to ask \"{question}\" at: answer by options instead (see 'gatepass-phone scan --help')"
        );
    }
    let mut out = io::stdout().lock();
    let (shown, default) = (clean(question), clean(proposal));
    if proposal.is_empty() {
        write!(out, "{shown}: ")?
    } else {
        write!(out, "{shown} [{default}]: ")?
    }
    out.flush()?;
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer)? == 0 {
        bail!("the input ended at \"{question}\": nothing was approved");
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() { proposal.to_owned() } else { answer.to_owned() })
}

/// A line that somebody types, or writes into a pipe: what can't be known before the question.
pub(crate) fn typed(question: &str) -> Result<String> {
    let mut out = io::stdout().lock();
    write!(out, "{}: ", clean(question)).and_then(|()| out.flush())?;
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer)? == 0 {
        bail!("the input ended at \"{question}\": nothing was enrolled");
    }
    Ok(answer.trim().to_owned())
}

/// The PIN: from a file that only its owner can read, or typed unseen. Never an argument.
pub(crate) fn pin(file: Option<&Path>, question: &str) -> Result<Zeroizing<String>> {
    if let Some(file) = file {
        let text = home::secret(file)?;
        return Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let _unseen = Unseen::begin();
    let typed = rpassword::prompt_password(format!("{question}: "));
    typed.map(Zeroizing::new).context("there is no terminal to type the PIN at: give a file with --pin-file")
}

/// The terminal's echo is off while this lives: already before the question is shown, so that a fast answer is not seen.
struct Unseen {
    terminal: File,
    before: Termios,
}

impl Unseen {
    /// None without a terminal; whoever reads the answer says so.
    fn begin() -> Option<Self> {
        let terminal = File::open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Now, &unseen).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
