//! The line that says how a running test does: one that changes in a terminal, one now and then elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

use gatepass_loadtest::{
    crew::{Phase, Progress},
    summary::{kib, ms, number, plain},
};

/// Seconds between two lines where there is no terminal.
const EVERY: u32 = 5;

/// The live line, on standard error: standard output is for the summary.
pub(crate) struct Live {
    kind: &'static str,
    terminal: bool,
    /// Columns of the terminal.
    width: usize,
    calls: u32,
    phase: Option<Phase>,
}

impl Live {
    pub(crate) fn new(kind: &'static str) -> Self {
        let width = rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| usize::from(size.ws_col).max(20));
        Self { kind, terminal: io::stderr().is_terminal(), width, calls: 0, phase: None }
    }

    pub(crate) fn show(&mut self, progress: &Progress) {
        let line = self.line(progress);
        let mut out = io::stderr().lock();
        // Where nobody listens, the test goes on.
        let _ = if self.terminal {
            let line: String = line.chars().take(self.width - 1).collect();
            write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush())
        } else if self.calls.is_multiple_of(EVERY) || self.phase != Some(progress.phase) {
            writeln!(out, "{line}")
        } else {
            Ok(())
        };
        (self.calls, self.phase) = (self.calls + 1, Some(progress.phase));
    }

    pub(crate) fn end(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }

    fn line(&self, progress: &Progress) -> String {
        let Progress { phase, s, of, online, latest, errors, server } = progress;
        let time = match of {
            Some(of) => format!("{s:.0}/{of:.0} s"),
            None => format!("{s:.0} s"),
        };
        let phase = match phase {
            Phase::Preparing => return format!("{}: making identities", self.kind),
            Phase::Connecting => "connecting",
            Phase::Load => self.kind,
            Phase::Stopping => "stopping",
        };
        let mut parts =
            vec![format!("{time:>10} {phase}"), format!("{} online", number(online.max(&0).cast_unsigned()))];
        if let Some((name, series)) = latest {
            parts.push(format!(
                "{name} {}/s p50 {} p99 {} max {}",
                plain(series.per_s),
                ms(series.p50_ms),
                ms(series.p99_ms),
                ms(series.max_ms)
            ));
        }
        parts.push(format!("{} errors", number(*errors)));
        if let Some((rss, cpu)) = server {
            parts.push(format!("server {} {cpu:.0} %", kib(*rss)));
        }
        parts.join(" | ")
    }
}
