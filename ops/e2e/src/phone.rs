//! A technician's phone, at the command line `gatepass-phone`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::admin::write_secret;
use crate::process::{Finished, Running, program, run};
use crate::terminal::Terminal;
use crate::wait::until;

/// A phone and its PIN.
#[derive(Debug)]
pub struct Phone {
    folder: PathBuf,
}

/// A decision on its way.
#[derive(Debug)]
pub struct Scan {
    process: Running,
    log: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(1);

impl Phone {
    /// A phone out of its box, with the PIN that its technician has chosen.
    pub(crate) fn new(folder: &Path, pin: &str) -> Self {
        std::fs::create_dir_all(folder).expect("the world's folder can be written");
        let phone = Self { folder: folder.to_owned() };
        write_secret(&phone.pin_file(), pin);
        phone
    }

    /// Asks to be enrolled with a ticket.
    pub fn asks(&self, ticket: &Path, name: &str) -> Finished {
        let mut enrol = self.gatepass_phone(&["enrol", "--no-wait", "--name", name]);
        run(enrol.arg("--ticket-file").arg(ticket).arg("--pin-file").arg(self.pin_file()))
    }

    /// The fingerprint that it shows while it waits for the administrator.
    pub fn fingerprint(&self) -> String {
        let said = self.does(&["enrol", "--no-wait"]);
        let line = said.lines().find_map(|line| line.split_once("request: "));
        line.unwrap_or_else(|| panic!("no fingerprint in:\n{said}")).1.trim().to_owned()
    }

    /// Fetches its certificate once the administrator has approved.
    pub fn completes(&self) -> String {
        self.does(&["enrol"])
    }

    /// Scans a code and approves what is asked, with everything as the computer proposes it.
    pub fn approve(&self, code: &str) -> Scan {
        self.scan(code, &["--approve", "--yes"])
    }

    /// Scans a code and approves, choosing: `--group sudo`, `--minutes 1`, `--account random`, `--reason TEXT`.
    pub fn approve_with(&self, code: &str, choice: &[&str]) -> Scan {
        self.scan(code, &[&["--approve", "--yes"], choice].concat())
    }

    /// Scans a code and says no.
    pub fn deny(&self, code: &str) -> Scan {
        self.scan(code, &["--deny"])
    }

    /// Scans a code and says that it was somebody else who asked.
    pub fn not_me(&self, code: &str) -> Scan {
        self.scan(code, &["--not-me"])
    }

    /// Scans a code, with any options.
    pub fn scan(&self, code: &str, options: &[&str]) -> Scan {
        self.start(self.gatepass_phone(&["scan", "--text", code]).args(options))
    }

    /// Scans a code at a terminal, and asks there whether to approve.
    pub fn asks_at_a_terminal(&self, code: &str) -> Terminal {
        let (program, home, pin) = (program("gatepass-phone"), self.home(), self.pin_file());
        let [program, home, pin] = [&program, &home, &pin].map(|path| path.to_str().expect("paths of ours are text"));
        Terminal::open(&self.folder, &[program, "--home", home, "scan", "--text", code, "--yes", "--pin-file", pin])
    }

    /// Scans a picture file, with any options.
    pub fn scan_picture(&self, picture: &Path, options: &[&str]) -> Scan {
        self.start(self.gatepass_phone(&["scan"]).arg(picture).args(options))
    }

    /// Runs any other command. Panics unless it succeeds.
    pub fn does(&self, arguments: &[&str]) -> String {
        run(&mut self.gatepass_phone(arguments)).ok()
    }

    /// Runs any other command.
    pub fn tries(&self, arguments: &[&str]) -> Finished {
        run(&mut self.gatepass_phone(arguments))
    }

    /// Its PIN's file, of mode 0600.
    pub fn pin_file(&self) -> PathBuf {
        self.folder.join("pin")
    }

    /// Where it keeps its keys.
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    fn start(&self, scan: &mut Command) -> Scan {
        let log = self.folder.join(format!("scan-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        Scan { process: Running::start(scan.arg("--pin-file").arg(self.pin_file()), &log), log }
    }

    fn gatepass_phone(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("gatepass-phone"));
        command.arg("--home").arg(self.home()).args(arguments);
        command
    }
}

impl Scan {
    /// The digits that the phone shows, to be typed at the computer.
    pub fn confirm_code(&mut self) -> String {
        until("a confirm code on the phone", || {
            let said = self.process.log();
            let code = said.lines().find_map(|line| line.strip_prefix("Confirm code: "));
            assert!(code.is_some() || !self.process.has_ended(), "no confirm code:\n{said}");
            code.map(str::to_owned)
        })
    }

    /// Whether the phone is done.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// What it says at the end.
    pub fn finish(mut self) -> Finished {
        let status = self.process.wait();
        let said = self.process.log();
        let _ = std::fs::remove_file(&self.log);
        Finished { status, out: said.clone(), err: said }
    }

    /// The grant that came of it. Panics if there is none.
    pub fn granted(self) -> String {
        let said = self.finish().ok();
        let line = said.lines().find_map(|line| line.strip_prefix("Grant: "));
        line.unwrap_or_else(|| panic!("no grant:\n{said}")).to_owned()
    }
}
