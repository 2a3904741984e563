//! Starting the real programs, and having their words when something fails.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::wait::until;

/// A program of this workspace, built beside the one that is running.
pub fn program(name: &str) -> PathBuf {
    let itself = std::env::current_exe().expect("a program knows where it is");
    let found = itself.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("{name} is not built: run `cargo build --workspace` first, or ops/test, which builds all")
    })
}

/// What a program that ended has said.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Finished {
    /// Its output, if it succeeded. Panics with all it said otherwise.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}\n{}{}", self.status, self.out, self.err);
        self.out
    }

    /// Its complaint, if it failed in an orderly way. Panics otherwise.
    pub fn refused(self) -> String {
        let orderly = self.status.code().is_some_and(|code| code != 0 && code != 101);
        assert!(orderly, "{}: a refusal was expected\n{}{}", self.status, self.out, self.err);
        self.err
    }

    /// Everything it said.
    pub fn said(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Finished {
    run_with(command, "")
}

/// Runs a program to its end, with `input` on its standard input.
pub(crate) fn run_with(command: &mut Command, input: &str) -> Finished {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // What is written is short, and a program that does not read it is free not to.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("a child's output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished { status: output.status, out: text(output.stdout), err: text(output.stderr) }
}

/// A program that runs until it is stopped; its words go to a file.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; its words are added to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log can be opened");
        let other = file.try_clone().expect("a file can be opened twice");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(other).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")), log: log.to_owned() }
    }

    /// All it has said so far, and its predecessors in the same log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop (SIGTERM), and waits until it has. Panics unless it went in order.
    pub fn stop(&mut self) {
        run(Command::new("kill").arg(self.pid().to_string())).ok();
        let status = self.wait();
        assert!(status.success() || status.signal() == Some(15), "{status}\n{}", self.log());
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        until("a program to end", || self.child.try_wait().ok().flatten())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
