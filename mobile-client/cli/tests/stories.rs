//! `gatepass-phone` as a technician uses it: the real program, a real relay, the agent's side of the protocol, and a control
//! plane of a few lines.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod control;
#[path = "../../core/tests/world/mod.rs"]
mod world;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use gatepass_logon::picture::{Style, render};
use gatepass_protocol::{
    Code, channel::Channel, ids::TechnicianId, pairing::agent::Verdict, policy::Scenario, statement::Purpose,
};
use gatepass_relay::{system_clock, testing::TestRelay};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

use control::Control;
use world::{Agent, GRANT, World};

const PIN: &str = "814-273";

/// A technician's folder, with an enrolled phone in it.
struct Phone {
    folder: TempDir,
    control: Control,
}

/// What a command said.
struct Said {
    ok: bool,
    out: String,
    err: String,
}

fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

impl Phone {
    /// A phone that has a ticket.
    async fn with_ticket(world: &mut World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::start(world).await;
        let ticket = world.tenant.ticket(Purpose::Phone, &control.url());
        secret(&folder.path().join("ticket"), &ticket.to_text());
        secret(&folder.path().join("pin"), PIN);
        Self { folder, control }
    }

    async fn enrolled(world: &mut World) -> Self {
        let phone = Self::with_ticket(world).await;
        let said =
            phone.run(&["enrol", "--no-wait", "--name", "pixel", "--ticket-file", "ticket", "--pin-file", "pin"]).await;
        assert!(said.ok, "{}", said.err);
        phone.control.approve(world);
        let said = phone.run(&["enrol"]).await;
        assert!(said.ok, "{}", said.err);
        phone
    }

    async fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, "").await
    }

    async fn run_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepass-phone"))
            .args(["--home", "home"])
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that refuses its options does not read.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Scans what a terminal shows.
    async fn scan(&self, code: &str, options: &[&str]) -> Said {
        let screen = format!("$ ssh web-01\nScan this:\n{}Waiting ...\n", render(code, Style::HalfBlocks));
        self.run_with(&[&["scan", "--terminal", "-", "--pin-file", "pin"], options].concat(), &screen).await
    }
}

fn said_in(text: &str, prefix: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(prefix))
        .unwrap_or_else(|| panic!("no {prefix:?} in:\n{text}"))
        .to_owned()
}

#[tokio::test]
async fn technician_enrols_and_the_administrator_sees_the_same_fingerprint() {
    let (mut world, _agent) = World::new().await;
    let phone = Phone::with_ticket(&mut world).await;
    let said =
        phone.run(&["enrol", "--no-wait", "--name", "pixel", "--ticket-file", "ticket", "--pin-file", "pin"]).await;
    assert_eq!(said_in(&said.out, "Fingerprint of this phone's request: "), phone.control.fingerprint());
    let said = phone.run(&["scan", "--text", "GP1:", "--approve"]).await;
    assert!(!said.ok && said.err.contains("not enrolled yet"), "{}", said.err);

    phone.control.approve(&mut world);
    let said = phone.run(&["enrol"]).await;
    assert!(said.ok && said.out.contains("Technician  alex"), "{}{}", said.out, said.err);
    assert!(said.out.contains("in software, behind the PIN"), "{}", said.out);
    let status = phone.run(&["status"]).await;
    assert!(status.ok && status.out.contains("Policy      epoch 1"), "{}{}", status.out, status.err);

    let mode = fs::metadata(phone.path("home/profile.json")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for secret in [PIN, fs::read_to_string(phone.path("ticket")).unwrap().trim()] {
        assert!(!fs::read_to_string(phone.path("home/profile.json")).unwrap().contains(secret));
    }
}

#[tokio::test]
async fn a_ticket_or_pin_that_others_can_read_is_not_used() {
    let (mut world, _agent) = World::new().await;
    let phone = Phone::with_ticket(&mut world).await;
    for name in ["ticket", "pin"] {
        fs::set_permissions(phone.path(name), fs::Permissions::from_mode(0o640)).unwrap();
        let said = phone.run(&["enrol", "--ticket-file", "ticket", "--pin-file", "pin"]).await;
        assert!(!said.ok && said.err.contains(&format!("chmod 600 {name}")), "{}", said.err);
        fs::set_permissions(phone.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    secret(&phone.path("pin"), "111111");
    let said = phone.run(&["enrol", "--ticket-file", "ticket", "--pin-file", "pin"]).await;
    assert!(!said.ok && said.err.contains("guessed at once"), "{}", said.err);
    secret(&phone.path("ticket"), "GPT1:AAAA");
    let said = phone.run(&["enrol", "--ticket-file", "ticket", "--pin-file", "pin"]).await;
    assert!(!said.ok && said.err.contains("ask your administrator"), "{}", said.err);
}

/// The computer approves if the digits that the phone shows are right, as if somebody had typed them.
async fn grant(agent: &mut Agent, offer: gatepass_protocol::pairing::agent::Offer) -> String {
    let rid = offer.rid();
    let approved = agent.approved(offer).await;
    let code = (0..1000).map(|code| format!("{code:03}")).find(|code| approved.code_is_right(code)).unwrap();
    let until = approved.until(gatepass_client::edge::now());
    let (_, m6) = approved.granted(GRANT, "gp-alex".into(), until).unwrap();
    agent.connection.sender().forward(rid, m6).await.unwrap();
    code
}

#[tokio::test]
async fn technician_scans_a_terminal_approves_and_later_ends_the_grant() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let offer = agent.offer().await;
    let code = offer.text();
    let options =
        ["--approve", "--account", "named", "--group", "sudo", "--minutes", "30", "--reason", "disk full", "--yes"];
    let (typed, said) = tokio::join!(grant(&mut agent, offer), phone.scan(&code, &options));
    assert!(said.ok, "{}{}", said.out, said.err);
    assert!(said.out.contains("Computer    web-01 in example.org"), "{}", said.out);
    assert_eq!(said_in(&said.out, "Confirm code: "), typed);
    assert!(said.out.contains("Granted: gp-alex on web-01 until "), "{}", said.out);
    assert_eq!(said_in(&said.out, "Grant: "), GRANT.to_string());

    // The agent answers orders; the first ends the grant, the second only looks.
    let receipt = agent.receipt(TechnicianId([1; 16]));
    agent
        .connection
        .sender()
        .subscribe(gatepass_protocol::channel::Channel::Computer(agent.computer.computer()))
        .await
        .unwrap();
    let (order, said) = tokio::join!(agent.obey(vec![receipt.clone()]), phone.run(&["end", "abab"]));
    assert_eq!(order.end, Some(GRANT));
    assert!(said.ok && said.out.contains("Ended abab"), "{}{}", said.out, said.err);
    assert!(
        said.out.contains("account off: yes, groups stripped: yes, password rotated: yes, sessions ended: yes"),
        "{}",
        said.out
    );
    let (order, said) = tokio::join!(agent.obey(vec![receipt]), phone.run(&["grants"]));
    assert_eq!((order.end, said.out.trim()), (None, "No live grants."));

    drop(agent);
    let said = phone.run(&["receipts"]).await;
    assert!(
        said.ok && said.out.contains("ended      ended from the phone") && said.out.contains("signature  holds"),
        "{}{}",
        said.out,
        said.err
    );
}

#[tokio::test]
async fn technician_is_asked_at_a_terminal_and_types_the_pin_unseen() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let offer = agent.offer().await;
    let command = format!("{} --home home scan --text '{}'", env!("CARGO_BIN_EXE_gatepass-phone"), offer.text());
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(phone.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let person = async {
        let mut seen = String::new();
        for (question, answer) in [
            ("(n)ot me [d]: ", "a"),
            ("(adm, sudo) [none]: ", "sudo"),
            ("Minutes (up to 60) [30]: ", "10"),
            ("Reason (may be left out): ", "disk full"),
            ("Account named, sudo, 10 minutes. Approve? (y/n) [n]: ", "y"),
            ("PIN: ", "000-000"),
            ("PIN: ", PIN),
        ] {
            read_until(&mut screen, &mut seen, question).await;
            keyboard.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
        read_until(&mut screen, &mut seen, "Grant: ").await;
        seen
    };
    let (typed, seen) = tokio::join!(grant(&mut agent, offer), person);
    assert!(seen.contains(&format!("Confirm code: {typed}")), "{seen}");
    assert!(seen.contains("PIN is wrong") && !seen.contains(PIN) && !seen.contains("000-000"), "{seen}");
    assert!(terminal.wait().await.unwrap().success());
}

/// Reads the screen up to a text that has not been read before.
async fn read_until(screen: &mut tokio::process::ChildStdout, seen: &mut String, text: &str) {
    let before = seen.len();
    while !seen[before..].contains(text) {
        let mut part = [0; 1024];
        let read = timeout(Duration::from_secs(20), screen.read(&mut part))
            .await
            .unwrap_or_else(|_| panic!("no {text:?} in:\n{seen}"));
        let read = read.unwrap_or(0);
        assert!(read > 0, "no {text:?} in:\n{seen}");
        seen.push_str(&String::from_utf8_lossy(&part[..read]));
    }
}

#[tokio::test]
async fn a_wrong_pin_approves_nothing() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    secret(&phone.path("pin"), "814-274");
    let offer = agent.offer().await;
    let code = offer.text();
    let (verdict, said) = tokio::join!(agent.decide(offer), phone.scan(&code, &["--approve", "--yes"]));
    assert!(matches!(verdict, Verdict::Denied { not_me: false }), "whoever waits at the computer is told");
    assert!(!said.ok && said.err.contains("PIN is wrong") && said.err.contains("nothing was approved"), "{}", said.err);
}

#[tokio::test]
async fn technician_denies_from_pasted_text() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    for (option, expected) in [("--deny", false), ("--not-me", true)] {
        let offer = agent.offer().await;
        let pasted = render(&offer.text(), Style::Text);
        let arguments = ["scan", "--text", "-", option];
        let (verdict, said) = tokio::join!(agent.decide(offer), phone.run_with(&arguments, &pasted));
        assert!(matches!(verdict, Verdict::Denied { not_me } if not_me == expected));
        assert!(said.ok && said.out.contains("Denied"), "{}{}", said.out, said.err);
    }
}

#[tokio::test]
async fn technician_sees_the_exact_command_and_nothing_that_steers_the_terminal() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let offer = agent.offer().await;
    let code = offer.text();
    let sudo = agent.decide_about(offer, |context| {
        context.scenario = Scenario::Elevation;
        context.request.service = "sudo".into();
        context.request.user = "mallory\u{1b}[2J\u{202e}".into();
        context.request.target = "root".into();
        context.request.command = "/usr/bin/systemctl restart 'nginx'\r\nCommand     /bin/true".into();
    });
    let (_, said) = tokio::join!(sudo, phone.scan(&code, &["--deny"]));
    assert!(
        said.out.contains("Command     /usr/bin/systemctl restart 'nginx'??Command     /bin/true\n"),
        "{}",
        said.out
    );
    assert!(said.out.contains("Asks for    elevation (sudo), to become root"), "{}", said.out);
    assert!(said.out.contains("User        mallory?[2J?"), "{}", said.out);
    assert!(!said.out.contains(['\u{1b}', '\u{202e}', '\r']), "{:?}", said.out);
}

#[tokio::test]
async fn more_than_the_policy_allows_is_refused_on_the_phone_with_what_it_allows() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    for options in [["--group", "docker"], ["--minutes", "61"], ["--account", "random"]] {
        let offer = agent.offer().await;
        let code = offer.text();
        let options = ["--approve", "--yes", options[0], options[1]];
        let (verdict, said) = tokio::join!(agent.decide(offer), phone.scan(&code, &options));
        assert!(matches!(verdict, Verdict::Denied { not_me: false }), "{options:?}");
        let told = said.err.contains("up to 60 minutes") && said.err.contains("nothing was approved");
        assert!(!said.ok && told, "{}", said.err);
    }
}

#[tokio::test]
async fn a_refusal_by_the_computer_is_told_with_what_to_do() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let offer = agent.offer().await;
    let code = offer.text();
    let refuse = async {
        let rid = offer.rid();
        let refusal = agent.approved(offer).await.refuse(Code::ConfirmCode).reply.unwrap();
        agent.connection.sender().forward(rid, refusal).await.unwrap();
    };
    let ((), said) = tokio::join!(refuse, phone.scan(&code, &["--approve", "--yes"]));
    assert!(
        !said.ok && said.err.contains(Code::ConfirmCode.message()) && said.err.contains(Code::ConfirmCode.todo()),
        "{}",
        said.err
    );
    assert!(!said.out.contains("Granted"), "{}", said.out);
}

#[tokio::test]
async fn a_code_that_is_none_of_ours_is_refused_before_anybody_is_called() {
    let (mut world, _agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let other =
        gatepass_protocol::qr::QrPayload { relay_idx: 0, tenant_tag: [9; 4], qs: [1; 16], a_q: [2; 32] }.to_text();
    for (text, expected) in
        [("https://example.com", "not one of Gatepass"), ("GP1:garbage", "damaged"), (&other, "another organisation")]
    {
        let said = phone.run(&["scan", "--text", text, "--deny"]).await;
        assert!(!said.ok && said.err.contains(expected), "{text}: {}", said.err);
    }
}

#[tokio::test]
async fn a_proxy_is_gone_through_or_named_and_its_password_has_no_place_among_the_arguments() {
    let (mut world, _agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let said = phone.run(&["--proxy", "none", "status"]).await;
    assert!(said.ok, "{}", said.err);
    for (proxy, expected) in [
        ("http://dave:s3cret@proxy.example:3128", "HTTPS_PROXY"),
        ("socks5://proxy.example", "only http:// is understood"),
        ("http://proxy.example:port", "--proxy is not a proxy's address"),
    ] {
        let said = phone.run(&["status", "--proxy", proxy]).await;
        assert!(!said.ok && said.err.contains(expected) && !said.err.contains("s3cret"), "{}", said.err);
    }
    let said = phone.run(&["--proxy", "http://127.0.0.1:1", "status"]).await;
    assert!(!said.ok && said.out.contains("the proxy 127.0.0.1:1 can't be reached"), "{}{}", said.out, said.err);
}

#[tokio::test]
async fn a_technician_sees_which_of_their_computers_are_on() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let said = phone.run(&["computers"]).await;
    assert!(said.ok && said.out.contains("No computers yet"), "{}{}", said.out, said.err);
    let offer = agent.offer().await;
    let code = offer.text();
    let (_, said) = tokio::join!(grant(&mut agent, offer), phone.scan(&code, &["--approve", "--yes"]));
    assert!(said.ok, "{}", said.err);
    let said = phone.run(&["computers"]).await;
    assert!(said.ok && said.out.starts_with("online "), "{}{}", said.out, said.err);
    agent.connection.close().await;
    let said = phone.run(&["computers"]).await;
    assert!(said.ok && said.out.starts_with("offline "), "{}{}", said.out, said.err);
}

#[tokio::test]
async fn a_computer_that_has_fled_to_another_relay_is_found_there() {
    let (mut world, mut agent) = World::new().await;
    let phone = Phone::enrolled(&mut world).await;
    let offer = agent.offer().await;
    let code = offer.text();
    let (_, said) = tokio::join!(grant(&mut agent, offer), phone.scan(&code, &["--approve", "--yes"]));
    assert!(said.ok, "{}", said.err);

    let second = TestRelay::with_clock(world.relay.tenancy.clone(), |_| {}, system_clock()).await;
    phone.control.second_relay(&mut world, &second.url());
    let said = phone.run(&["status"]).await;
    assert!(said.ok && said.out.contains("Relay 1"), "{}{}", said.out, said.err);
    let first = std::mem::replace(&mut world.relay, second);
    agent.connection = world.connect(&agent.computer.chain, &agent.computer.sign);
    agent.connection.sender().online().await.unwrap();
    let own = Channel::Computer(agent.computer.computer());
    agent.connection.sender().subscribe(own).await.unwrap();
    let (_, said) = tokio::join!(agent.obey(vec![]), phone.run(&["grants"]));
    assert!(said.ok && said.out.contains("No live grants."), "{}{}", said.out, said.err);

    // It is asked there first from now on, whatever has become of the other.
    first.stop().await;
    let (_, said) = tokio::join!(agent.obey(vec![]), phone.run(&["grants"]));
    assert!(said.ok && said.out.contains("No live grants."), "{}{}", said.out, said.err);
}
