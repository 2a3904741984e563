//! Running the system's own account programs.
//!
//! They get a clean environment, a fixed search path, secrets on stdin only, and a bound on how long they may take.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{AccountError, During};

/// `useradd` itself gives up after 15 s behind a lock; a directory behind NSS may take as long.
const LIMIT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// What a program said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) err: String,
}

/// Runs `tool` and waits for its end.
pub(crate) fn run(tool: &'static str, arguments: &[&str], stdin: Option<&[u8]>) -> Result<Said, AccountError> {
    let started = || {
        let mut child = Command::new(tool)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipe = child.stdin.take();
        let written = stdin.zip(pipe).map_or(Ok(()), |(text, mut pipe)| pipe.write_all(text));
        // Their complaints fit a pipe, so that waiting before reading can't deadlock.
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        if retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&LIMIT)))? == 0 {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
        }
        let status = child.wait()?;
        if status.success() {
            written?;
        }
        let mut err = Vec::new();
        child.stderr.take().map(|pipe| pipe.take(4096).read_to_end(&mut err)).transpose()?;
        Ok(Said { code: status.code().unwrap_or(-1), err: String::from_utf8_lossy(&err).trim().to_owned() })
    };
    started().during("run", tool)
}
