//! The PAM module's side of the socket, in a process of its own: what the agent does to a session, it does to that process,
//! and sudo's command is that process's command line.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use gatepass_logon::picture::Style;
use gatepass_logon::text::NOT_APPROVED_YET;
use gatepass_logon::wire::{self, FromDaemon, FromModule, Phase, Secret, Start, Verdict};

/// The agent answers in milliseconds; a loaded test machine may need longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program that a login lives in: sshd, sudo, su, login.
pub(crate) struct Program {
    child: Child,
    to: ChildStdin,
    from: Receiver<FromDaemon>,
    start: Start,
    /// Everything that was shown since the last question.
    pub(crate) shown: Vec<String>,
    /// What `SetUser` said.
    pub(crate) user: Option<String>,
}

/// The test binary runs this as the program: each `Start` on its standard input opens a conversation, and what the agent says
/// comes out of its standard output.
pub(crate) fn be_the_program() {
    let Some(socket) = std::env::var_os("GATEPASS_TEST_SOCKET") else { return };
    let (mut stdin, mut conversation) = (std::io::stdin(), None::<UnixStream>);
    while let Ok(message) = wire::read_frame::<FromModule>(&mut stdin) {
        if let FromModule::Start(_) = message {
            let stream = UnixStream::connect(&socket).unwrap();
            let mut hears = stream.try_clone().unwrap();
            std::thread::spawn(move || {
                let mut over = false;
                while let Ok(said) = wire::read_frame::<FromDaemon>(&mut hears) {
                    over = matches!(said, FromDaemon::Done(_));
                    let frame = wire::encode(&said).unwrap();
                    let mut out = std::io::stderr().lock();
                    out.write_all(&frame).unwrap();
                }
                if !over {
                    std::process::exit(1); // the agent is gone, and so is the login
                }
            });
            conversation = Some(stream);
        }
        wire::write_frame(conversation.as_mut().unwrap(), &message).unwrap();
    }
}

impl Program {
    /// Starts one. `arguments` are what `/proc` shows besides what the test harness needs.
    pub(crate) fn start(socket: &Path, service: &str, user: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["be_the_program", "--exact", "--nocapture"])
            .env("GATEPASS_TEST_SOCKET", socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, mut out) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
        let (said, from) = channel();
        std::thread::spawn(move || {
            while let Ok(message) = wire::read_frame::<FromDaemon>(&mut out) {
                if said.send(message).is_err() {
                    return;
                }
            }
        });
        let start = Start {
            phase: Phase::Authenticate,
            service: service.into(),
            user: user.into(),
            ruser: String::new(),
            rhost: "192.0.2.7".into(),
            tty: if service == "sshd" { "ssh".into() } else { "tty1".into() },
            pid: child.id(),
            style: Style::Text,
            live: service != "sshd",
            renames: service == "login",
            session: None,
        };
        Self { child, to, from, start, shown: Vec::new(), user: None }
    }

    /// Who asks (sudo, su).
    pub(crate) fn asks_as(&mut self, user: &str) {
        self.start.ruser = user.into();
    }

    /// Begins a phase.
    pub(crate) fn begin(&mut self, phase: Phase) {
        self.start.phase = phase;
        let start = FromModule::Start(self.start.clone());
        wire::write_frame(&mut self.to, &start).unwrap();
    }

    /// A whole phase in which nothing is asked.
    pub(crate) fn phase(&mut self, phase: Phase) -> Verdict {
        self.begin(phase);
        self.verdict()
    }

    /// Does what the agent says until it asks something.
    pub(crate) fn prompt(&mut self) -> String {
        match self.listen() {
            Ok(prompt) => prompt,
            Err(verdict) => panic!("a question was expected, and it was over: {verdict:?}, {:?}", self.shown),
        }
    }

    /// Does what the agent says until it is over. Prompts that only want to be read are answered.
    pub(crate) fn verdict(&mut self) -> Verdict {
        loop {
            match self.listen() {
                Ok(prompt) => {
                    assert!(prompt.contains("Press Enter"), "nothing more was expected to be asked: {prompt}");
                    self.shown.push(prompt);
                    self.answer("");
                }
                Err(verdict) => return verdict,
            }
        }
    }

    /// The verdict, or nothing when the agent went away.
    #[cfg(feature = "fault")]
    pub(crate) fn try_verdict(&mut self) -> Option<Verdict> {
        let give_up = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            let left = give_up.saturating_duration_since(std::time::Instant::now());
            match self.from.recv_timeout(left) {
                Ok(FromDaemon::Done(verdict)) => return Some(verdict),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// A phase with an agent that may go away in it.
    #[cfg(feature = "fault")]
    pub(crate) fn try_phase(&mut self, phase: Phase) -> Option<Verdict> {
        self.begin(phase);
        self.try_verdict()
    }

    /// Answers a prompt.
    pub(crate) fn answer(&mut self, text: &str) {
        wire::write_frame(&mut self.to, &FromModule::Answer(Secret::new(text.into()))).unwrap();
    }

    /// The code that is shown: `GP1:...`, out of a screen or a prompt.
    pub(crate) fn code(&mut self) -> String {
        self.code_within(PATIENCE)
    }

    /// The same, if it comes only after a while.
    pub(crate) fn code_within(&mut self, patience: Duration) -> String {
        loop {
            let message = self.from.recv_timeout(patience).expect("a code is shown");
            let (FromDaemon::Info(text) | FromDaemon::Prompt { text, .. }) = &message else { panic!("{message:?}") };
            if let Some(code) = code_in(text) {
                return code;
            }
        }
    }

    /// Everything that was shown, in one text.
    pub(crate) fn said(&self) -> String {
        self.shown.join("\n")
    }

    /// Whether the program still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Whether the program ends within a few seconds.
    pub(crate) fn is_ended(&mut self) -> bool {
        let give_up = std::time::Instant::now() + Duration::from_secs(5);
        while self.runs() && std::time::Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(10));
        }
        !self.runs()
    }

    fn next(&mut self) -> FromDaemon {
        self.from.recv_timeout(PATIENCE).expect("the agent says something in time")
    }

    fn listen(&mut self) -> Result<String, Verdict> {
        loop {
            match self.next() {
                FromDaemon::Info(text) | FromDaemon::Error(text) => self.shown.push(text),
                // The phone's word is still on its way.
                FromDaemon::Prompt { text, .. } if text == NOT_APPROVED_YET => {
                    std::thread::sleep(Duration::from_millis(20));
                    self.answer("");
                }
                FromDaemon::Prompt { text, .. } => return Ok(text),
                FromDaemon::SetUser(user) => {
                    self.start.user = user.clone();
                    self.user = Some(user);
                }
                // As sshd: its session is opened by another process than the one that authenticated.
                FromDaemon::SetSession(session) if self.start.service != "sshd" => self.start.session = Some(session),
                FromDaemon::SetSession(_) | FromDaemon::SetEnv(..) => {}
                FromDaemon::Done(verdict) => return Err(verdict),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A code that is shown as text stands in groups of four on several lines, with `_` for the blanks.
fn code_in(text: &str) -> Option<String> {
    let code: String = text[text.find("GP1:")?..].chars().filter(|c| !c.is_whitespace()).take(88).collect();
    Some(code.replace('_', " "))
}
