//! A phone of another make: `ops/python`, which was written from `docs/PROTOCOL.md` alone, meets the real server and agent.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use gatepass_e2e::{Plan, World, in_jail, run};
/// A member of a line of JSON that is a text.
fn field(json: &str, name: &str) -> String {
    let begin = format!("\"{name}\": \"");
    let (_, rest) = json.split_once(&begin).unwrap_or_else(|| panic!("no {name} in {json}"));
    rest.split('"').next().unwrap().to_owned()
}

/// A command of the Python phone, which says each thing in a line of JSON.
struct Said {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../python")
}

impl Said {
    fn by(identity: &Path, arguments: &[&str], input: &str) -> Self {
        let mut command = Command::new(python().join("python"));
        command.arg(python().join("gatepass_phone.py")).args(arguments).arg("--identity").arg(identity);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// The next thing it says, which must be this.
    fn next(&mut self, event: &str) -> String {
        let line = self.lines.next().unwrap_or_else(|| panic!("the Python phone ended before {event:?}")).unwrap();
        assert_eq!(field(&line, "event"), event, "{line}");
        line
    }

    fn finish(mut self) -> i32 {
        self.process.wait().unwrap().code().unwrap()
    }
}

/// Enrols it as another phone of alex.
fn enrolled(world: &World) -> PathBuf {
    let identity = world.folder().join("python");
    let ticket = world.admin.ticket("phone", &[]);
    let mut enrol = Said::by(&identity, &["enrol", "--ticket-file", ticket.to_str().unwrap()], "");
    let waiting = enrol.next("waiting");
    let (request, shown) = (field(&waiting, "request_id"), field(&waiting, "fingerprint"));
    world.admin.signs(&["device", "approve", &request, "--technician", "alex", "--fingerprint", &shown]);
    assert_eq!(field(&enrol.next("enrolled"), "technician"), "alex");
    assert_eq!(enrol.finish(), 0);
    identity
}

/// Makes its environment, which needs the network, before the jail is entered.
fn with_its_packages() {
    if std::env::var_os("GATEPASS_JAIL").is_none() {
        run(Command::new(python().join("python")).args(["-c", ""])).ok();
    }
}

#[test]
fn a_phone_written_from_the_protocol_page_alone_logs_in() {
    with_its_packages();
    in_jail(|| {
        let world = World::new(Plan { confirm_code: true, ..Plan::default() });
        let identity = enrolled(&world);
        let terminal = world.computer.ssh("gp-alex");
        let code = format!("{}\n", terminal.read_qr());
        let mut scan =
            Said::by(&identity, &["scan", "--qr", "-", "--approve", "--group", "adm", "--minutes", "7"], &code);
        assert!(scan.next("asked").contains("\"user\": \"gp-alex\""));
        let digits = field(&scan.next("approved"), "confirm_code");
        terminal.enter_until(&["3 digits"]);
        terminal.type_line(&digits);
        assert_eq!(field(&scan.next("granted"), "account"), "gp-alex");
        assert_eq!(scan.finish(), 0);
        terminal.enter_until(&["gp-alex@web-01"]);
        let id = terminal.command("id");
        assert!(id.contains("(gp-alex)") && id.contains("(adm)"), "{id}");
    });
}

#[test]
fn it_denies_and_hears_why_it_is_refused() {
    with_its_packages();
    in_jail(|| {
        let world = World::new(Plan::default());
        let identity = enrolled(&world);
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let mut scan = Said::by(&identity, &["scan", "--qr", "-", "--not-me"], &format!("{}\n", login.code()));
        scan.next("asked");
        scan.next("denied");
        assert_eq!(scan.finish(), 0);
        assert!(!login.finish().status.success());

        let device = field(&std::fs::read_to_string(identity.join("identity.json")).unwrap(), "device");
        world.admin.signs(&["revoke", "device", &device]);
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let mut scan = Said::by(&identity, &["scan", "--qr", "-", "--approve"], &format!("{}\n", login.code()));
        let refused = scan.next("relay refused");
        assert!(refused.contains("\"code\": 31"), "{refused}");
        assert_eq!(scan.finish(), 2);
    });
}
