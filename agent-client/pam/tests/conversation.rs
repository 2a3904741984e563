//! Scripted conversations: a daemon that follows a script at one end, PAM with a script at the other, the module between them.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gatepass_logon::picture::Style;
use gatepass_logon::wire::{FromDaemon, FromModule, MAX_FRAME, Phase, Secret, Start, Verdict, read_frame, write_frame};
use pam_gatepass::module::{Code, Item, Pam, SESSION_VARIABLE, Tone, run};
use pam_gatepass::options::Options;
use pam_gatepass::terminal::Terminal;

/// PAM and the person in front of it.
struct Person {
    items: HashMap<Item, &'static str>,
    user: Result<String, Code>,
    environment: HashMap<String, String>,
    /// What they type at each prompt; None gives up.
    types: Vec<Option<&'static str>>,
    sees: Vec<String>,
    log: std::cell::RefCell<Vec<String>>,
    terminal: Terminal,
    gives_up: Option<OwnedFd>,
}

impl Person {
    fn at_sudo() -> Self {
        Self {
            items: HashMap::from([(Item::Service, "sudo"), (Item::Tty, "/dev/pts/3"), (Item::Ruser, "alex")]),
            user: Ok("alex".into()),
            environment: HashMap::new(),
            types: Vec::new(),
            sees: Vec::new(),
            log: Vec::new().into(),
            terminal: Terminal { utf8: true, columns: 80, rows: 24, kind: Some("xterm".into()) },
            gives_up: None,
        }
    }

    fn at_ssh() -> Self {
        let items = HashMap::from([(Item::Service, "sshd"), (Item::Tty, "ssh"), (Item::Rhost, "192.0.2.7")]);
        Self { items, user: Ok("gp-alex".into()), ..Self::at_sudo() }
    }
}

impl Pam for Person {
    fn item(&self, item: Item) -> String {
        self.items.get(&item).copied().unwrap_or_default().to_owned()
    }
    fn user(&mut self) -> Result<String, Code> {
        self.user.clone()
    }
    fn set_user(&mut self, name: &str) -> Result<(), Code> {
        self.user = Ok(name.to_owned());
        Ok(())
    }
    fn env(&self, name: &str) -> Option<String> {
        self.environment.get(name).cloned()
    }
    fn set_env(&mut self, name: &str, value: &str) -> Result<(), Code> {
        self.environment.insert(name.to_owned(), value.to_owned());
        Ok(())
    }
    fn show(&mut self, tone: Tone, text: &str) -> Result<(), Code> {
        self.sees.push(format!("{tone:?} {text}"));
        Ok(())
    }
    fn ask(&mut self, text: &str, echo: bool) -> Option<Secret> {
        self.sees.push(format!("ask({echo}) {text}"));
        self.types.remove(0).map(|typed| Secret::new(typed.to_owned()))
    }
    fn log(&self, text: &str) {
        self.log.borrow_mut().push(text.to_owned());
    }
    fn gives_up(&self) -> Option<OwnedFd> {
        self.gives_up.as_ref().map(|fd| fd.try_clone().unwrap())
    }
    fn terminal(&self) -> Terminal {
        self.terminal.clone()
    }
    fn adopt_orphans(&mut self) {}
}

/// A daemon for one conversation.
struct Daemon<T> {
    _folder: tempfile::TempDir,
    options: Options,
    plays: JoinHandle<T>,
}

fn daemon<T: Send + 'static>(script: impl FnOnce(Start, &mut UnixStream) -> T + Send + 'static) -> Daemon<T> {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pam.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let plays = std::thread::spawn(move || {
        let (mut line, _) = listener.accept().unwrap();
        let FromModule::Start(start) = read_frame(&mut line).unwrap() else { panic!("not a start") };
        script(start, &mut line)
    });
    Daemon {
        _folder: folder,
        options: Options { socket, timeout: Duration::from_secs(20), ..Options::default() },
        plays,
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn authenticate<T>(daemon: Daemon<T>, person: &mut Person) -> (Code, T) {
    let code = run(Phase::Authenticate, &daemon.options, own_uid(), person);
    (code, daemon.plays.join().unwrap())
}

#[test]
fn a_technician_approves_and_types_the_code() {
    let mut person = Person { types: vec![Some("831")], ..Person::at_sudo() };
    let daemon = daemon(|start, line| {
        write_frame(line, &FromDaemon::Info("the picture".into())).unwrap();
        write_frame(line, &FromDaemon::Prompt { text: "digits: ".into(), echo: true }).unwrap();
        let answer: FromModule = read_frame(line).unwrap();
        write_frame(line, &FromDaemon::SetSession([0xab; 16])).unwrap();
        write_frame(line, &FromDaemon::SetEnv("GATEPASS_UNTIL".into(), "14:30".into())).unwrap();
        write_frame(line, &FromDaemon::Done(Verdict::Success)).unwrap();
        (start, answer)
    });
    let (code, (start, answer)) = authenticate(daemon, &mut person);
    assert_eq!(code, Code::Success);
    assert_eq!(answer, FromModule::Answer(Secret::new("831".into())));
    assert_eq!(person.sees, ["Info the picture", "ask(true) digits: "]);
    assert_eq!(person.environment[SESSION_VARIABLE], "ab".repeat(16));
    assert_eq!(person.environment["GATEPASS_UNTIL"], "14:30");
    let wanted = Start {
        phase: Phase::Authenticate,
        service: "sudo".into(),
        user: "alex".into(),
        ruser: "alex".into(),
        rhost: String::new(),
        tty: "/dev/pts/3".into(),
        pid: std::process::id(),
        style: Style::HalfBlocks,
        live: true,
        renames: false,
        session: None,
    };
    assert_eq!(start, wanted);
}

#[test]
fn ssh_is_not_live_and_gets_a_picture_though_it_has_no_terminal_yet() {
    let mut person = Person::at_ssh();
    person.terminal = Terminal { utf8: false, columns: 10, rows: 10, kind: None };
    let daemon = daemon(|start, line| {
        write_frame(line, &FromDaemon::Done(Verdict::Denied)).unwrap();
        start
    });
    let (code, start) = authenticate(daemon, &mut person);
    assert_eq!(code, Code::AuthErr);
    assert!(!start.live);
    assert_eq!(start.style, Style::HalfBlocks);
    assert_eq!(start.rhost, "192.0.2.7");
}

#[test]
fn the_administrators_options_win() {
    let mut person = Person::at_ssh();
    let mut daemon = daemon(|start, line| {
        write_frame(line, &FromDaemon::Done(Verdict::Ignore)).unwrap();
        start
    });
    daemon.options.style = Some(Style::AsciiInverted);
    daemon.options.live = Some(true);
    let (code, start) = authenticate(daemon, &mut person);
    assert_eq!(code, Code::Ignore);
    assert!(start.live);
    assert_eq!(start.style, Style::AsciiInverted);
}

#[test]
fn each_verdict_is_what_pam_calls_it() {
    use Code::{AcctExpired, AuthErr, AuthinfoUnavail, Ignore, PermDenied, Success, UserUnknown};
    let table = [
        (Verdict::Success, [Success, Success, Success]),
        (Verdict::Denied, [AuthErr, PermDenied, PermDenied]),
        (Verdict::Unavailable, [AuthinfoUnavail, AuthinfoUnavail, PermDenied]),
        (Verdict::Ignore, [Ignore, Ignore, Ignore]),
        (Verdict::UserUnknown, [UserUnknown, UserUnknown, PermDenied]),
        (Verdict::Expired, [AcctExpired, AcctExpired, PermDenied]),
    ];
    for (verdict, wanted) in table {
        let phases = [Phase::Authenticate, Phase::Account, Phase::OpenSession];
        let got = phases.map(|phase| {
            let daemon = daemon(move |_, line| write_frame(line, &FromDaemon::Done(verdict)).unwrap());
            run(phase, &daemon.options, own_uid(), &mut Person::at_sudo())
        });
        assert_eq!(got, wanted, "{verdict:?}");
    }
}

#[test]
fn later_phases_hand_back_the_grant() {
    let mut person = Person::at_ssh();
    person.environment.insert(SESSION_VARIABLE.into(), "0123456789abcdef0123456789abcdef".into());
    let daemon = daemon(|start, line| {
        write_frame(line, &FromDaemon::Done(Verdict::Success)).unwrap();
        start.session
    });
    assert_eq!(run(Phase::CloseSession, &daemon.options, own_uid(), &mut person), Code::Success);
    assert_eq!(daemon.plays.join().unwrap(), Some(0x0123456789abcdef0123456789abcdef_u128.to_be_bytes()));
}

#[test]
fn somebody_who_gives_up_is_let_go_and_the_daemon_is_told() {
    let mut person = Person { types: vec![None], ..Person::at_ssh() };
    let daemon = daemon(|_, line| {
        write_frame(line, &FromDaemon::Prompt { text: "scan".into(), echo: true }).unwrap();
        read_frame::<FromModule>(line).unwrap()
    });
    assert_eq!(authenticate(daemon, &mut person), (Code::ConvErr, FromModule::Cancelled));
}

#[test]
fn somebody_who_gives_up_while_waiting_does_not_have_to_wait() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut person = Person { gives_up: Some(reader.into()), ..Person::at_sudo() };
    let daemon = daemon(move |_, line| {
        write_frame(line, &FromDaemon::Info("scan".into())).unwrap();
        (&writer).write_all(b"^C").unwrap();
        read_frame::<FromModule>(line).unwrap()
    });
    assert_eq!(authenticate(daemon, &mut person), (Code::ConvErr, FromModule::Cancelled));
}

#[test]
fn login_goes_on_as_the_approved_account_and_nobody_else_does() {
    for (service, code, user) in [
        ("login", Code::Success, "alex_566054625600"),
        ("su", Code::AuthinfoUnavail, "alex"),
        ("sshd", Code::AuthinfoUnavail, "alex"),
    ] {
        let mut person = Person::at_sudo();
        person.items.insert(Item::Service, service);
        let daemon = daemon(|start, line| {
            // Its own name is no other name.
            write_frame(line, &FromDaemon::SetUser("alex".into())).unwrap();
            write_frame(line, &FromDaemon::SetUser("alex_566054625600".into())).unwrap();
            // Whoever refused is gone by now.
            let _ = write_frame(line, &FromDaemon::Done(Verdict::Success));
            start.renames
        });
        assert_eq!(authenticate(daemon, &mut person), (code, service == "login"));
        assert_eq!(person.user.as_deref(), Ok(user));
    }
}

#[test]
fn without_a_daemon_a_sentence_says_so_and_only_our_own_logins_are_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { socket: folder.path().join("pam.sock"), ..Options::default() };
    let phase = |phase, person: &mut Person| run(phase, &options, own_uid(), person);

    let mut person = Person::at_sudo();
    assert_eq!(phase(Phase::Authenticate, &mut person), Code::AuthinfoUnavail);
    assert!(person.sees[0].contains("does not answer at") && person.sees[0].contains("gatepass-agent doctor"));
    assert_eq!(phase(Phase::Account, &mut person), Code::AuthinfoUnavail);
    assert_eq!(phase(Phase::OpenSession, &mut person), Code::Ignore);
    assert_eq!(phase(Phase::CloseSession, &mut person), Code::Ignore);
    assert_eq!(person.sees.len(), 1);

    person.environment.insert(SESSION_VARIABLE.into(), "00".repeat(16));
    assert_eq!(phase(Phase::Account, &mut person), Code::PermDenied);
    assert_eq!(phase(Phase::OpenSession, &mut person), Code::PermDenied);
}

#[test]
fn a_daemon_that_is_not_roots_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("pam.sock")).unwrap();
    let options = Options { socket: folder.path().join("pam.sock"), ..Options::default() };
    let mut person = Person::at_sudo();
    assert_eq!(run(Phase::Authenticate, &options, own_uid() + 1, &mut person), Code::AuthinfoUnavail);
    assert!(person.sees[0].contains("is not the Gatepass agent"));
    let (mut line, _) = listener.accept().unwrap();
    assert!(read_frame::<FromModule>(&mut line).is_err());
}

#[test]
fn a_daemon_that_dies_talks_nonsense_or_hangs_is_unavailable_and_never_a_loop() {
    type Script = fn(&mut UnixStream);
    let scripts: [(&str, Script); 8] = [
        ("dies at once", |_| {}),
        ("dies in a frame", |line| line.write_all(&[0, 0, 1]).unwrap()),
        ("dies in a body", |line| line.write_all(&[0, 0, 0, 9, 0x81]).unwrap()),
        ("garbage", |line| line.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap()),
        ("well framed garbage", |line| line.write_all(b"\x00\x00\x00\x03\x93\x01\x02").unwrap()),
        ("oversize", |line| line.write_all(&(MAX_FRAME as u32 + 1).to_be_bytes()).unwrap()),
        ("empty", |line| line.write_all(&[0; 64]).unwrap()),
        ("hangs", |line| drop(read_frame::<FromModule>(line))),
    ];
    for (what, script) in scripts {
        let mut daemon = daemon(move |_, line| script(line));
        daemon.options.timeout = Duration::from_millis(300);
        let mut person = Person::at_sudo();
        let begun = Instant::now();
        let (code, ()) = authenticate(daemon, &mut person);
        assert_eq!(code, Code::AuthinfoUnavail, "{what}");
        assert!(person.sees[0].contains("stopped in the middle"), "{what}: {:?}", person.sees);
        assert_eq!(person.log.borrow().len(), 1, "{what}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}");
    }
}

#[test]
fn hostile_texts_never_reach_the_terminal_raw() {
    let mut person = Person { types: vec![Some("")], ..Person::at_sudo() };
    let daemon = daemon(|_, line| {
        write_frame(line, &FromDaemon::Info("\x1b]0;title\x07 one\0two".into())).unwrap();
        write_frame(line, &FromDaemon::Prompt { text: "\x1b[2Jscan\r".into(), echo: false }).unwrap();
        read_frame::<FromModule>(line).unwrap();
        write_frame(line, &FromDaemon::Error("de\u{9b}nied\u{202e}".into())).unwrap();
        write_frame(line, &FromDaemon::Done(Verdict::Denied)).unwrap();
    });
    assert_eq!(authenticate(daemon, &mut person).0, Code::AuthErr);
    assert_eq!(person.sees, ["Info ?]0;title? one?two", "ask(false) ?[2Jscan?", "Error de?nied?"]);
}

#[test]
fn nobody_is_asked_anything_after_authentication() {
    for phase in [Phase::Account, Phase::OpenSession, Phase::CloseSession] {
        let mut person = Person::at_sudo();
        let daemon = daemon(|_, line| {
            write_frame(line, &FromDaemon::Prompt { text: "password: ".into(), echo: false }).unwrap();
            read_frame::<FromModule>(line).is_err()
        });
        let code = run(phase, &daemon.options, own_uid(), &mut person);
        assert_ne!(code, Code::Success);
        assert!(daemon.plays.join().unwrap(), "{phase:?} answered");
        assert!(person.sees.is_empty());
    }
}

#[test]
fn a_name_that_is_not_utf8_is_nobody() {
    let mut person = Person { user: Err(Code::UserUnknown), ..Person::at_sudo() };
    let options = Options { socket: PathBuf::from("/nonexistent/pam.sock"), ..Options::default() };
    assert_eq!(run(Phase::Authenticate, &options, own_uid(), &mut person), Code::UserUnknown);
}
