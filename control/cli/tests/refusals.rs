//! What goes wrong for an administrator, a phone, a computer, and what each is told.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod harness;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use gatepass_client::edge;
use gatepass_control::api::{NewStatement, Statements};
use gatepass_protocol::ids::Serial;
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::policy::Policy;
use gatepass_protocol::signed::Signed;
use gatepass_protocol::statement::{Draft, Statement};
use gatepass_protocol::vault;

use harness::{Administrator, Computer, PASSWORD, Phone, Server, write_secret};

#[test]
fn a_ca_password_that_is_weak_mistyped_or_readable_by_others_is_refused() {
    let admin = Administrator::new();
    write_secret(&admin.path("weak"), "Password1");
    let error = admin.refused("ca new acme --password-file weak");
    assert!(error.contains("too weak") && error.contains("common password"), "{error}");
    assert!(!error.contains("Password1"), "{error}");
    admin.write("open", PASSWORD);
    fs::set_permissions(admin.path("open"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = admin.refused("ca new acme --password-file open");
    assert!(error.contains("can be read by others") && error.contains("chmod 600"), "{error}");
    assert!(!admin.path("gatepass-ca.json").exists() && !admin.path("gatepass-ca.pem").exists());

    admin.did("ca new acme --password-file password");
    let (json, pem) =
        (fs::read(admin.path("gatepass-ca.json")).unwrap(), fs::read(admin.path("gatepass-ca.pem")).unwrap());
    let error = admin.refused("ca new acme --password-file password");
    assert!(error.contains("never overwritten"), "{error}");
    assert_eq!(
        (json, pem),
        (fs::read(admin.path("gatepass-ca.json")).unwrap(), fs::read(admin.path("gatepass-ca.pem")).unwrap())
    );
}

#[test]
fn a_new_password_is_asked_for_twice_and_never_shown() {
    let admin = Administrator::new();
    for (again, works) in [("something-else-entirely-77", false), (PASSWORD, true)] {
        let (said, ok) = at_a_terminal(&admin, "ca new acme", &format!("{PASSWORD}\n{again}\n"));
        assert_eq!(ok, works, "{said}");
        assert_eq!(said.contains("the two passwords differ"), !works, "{said}");
        assert!(said.contains("New password for") && said.contains("The same password again"), "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
    let sealed = fs::read_to_string(admin.path("gatepass-ca.json")).unwrap();
    assert!(vault::open(&sealed, PASSWORD.as_bytes()).is_ok());
}

/// Runs the command in a pseudo-terminal of util-linux's `script`, and types.
fn at_a_terminal(admin: &Administrator, command: &str, typed: &str) -> (String, bool) {
    let command = format!("{} {command}", env!("CARGO_BIN_EXE_gatepass"));
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--echo", "never", "--command", &command, "/dev/null"])
        .current_dir(admin.folder.path())
        .env("XDG_CONFIG_HOME", admin.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = script.stdin.take().unwrap();
    keyboard.write_all(typed.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    drop(keyboard);
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[test]
fn a_wrong_password_or_a_strangers_key_signs_nothing() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    write_secret(&admin.path("wrong"), "not-the-one-that-was-chosen");
    let error = admin.refused("ticket new --for agent --password-file wrong");
    assert!(error.contains("password is wrong") && error.contains("gatepass-ca.json"), "{error}");
    assert!(!admin.path("agent.ticket").exists());

    fs::create_dir(admin.path("stranger")).unwrap();
    admin.did("ca new stranger --out stranger --password-file password");
    let error = admin.refused("ticket new --for agent --ca stranger/gatepass-ca.json --password-file password");
    assert!(error.contains("none of this tenant's") && error.contains("gatepass ca add"), "{error}");
    let error = admin.refused("ca add password");
    assert!(error.contains("not a Gatepass CA key"), "{error}");
}

#[test]
fn a_ticket_enrols_as_often_as_it_says_and_what_it_says() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let ticket = admin.ticket("agent", " --uses 2");
    let first = Computer::with(&ticket, "one");
    for _ in 0..3 {
        server.enrol_agent(&first.enrolment()).unwrap();
    }
    server.enrol_agent(&Computer::with(&ticket, "two").enrolment()).unwrap();
    let third = Computer::with(&ticket, "three");
    let error = server.enrol_agent(&third.enrolment()).unwrap_err().to_string();
    assert!(error.contains("used 2 times") && error.contains("ask your administrator"), "{error}");
    let error = server.send_event(&third.signed(third.event(1, ""))).unwrap_err().to_string();
    assert!(error.contains("403"), "a certificate from a used-up ticket: {error}");
    assert!(admin.did("ticket list").contains("2 of 2"));

    let error = server.enrol_device(&Phone::with(&ticket, "phone").enrolment).unwrap_err().to_string();
    assert!(error.contains("this ticket is for agents"), "{error}");
    let phones = admin.ticket("phone", "");
    let mut phone = Phone::with(&phones, "phone").enrolment;
    let other = Phone::with(&admin.ticket("phone", ""), "phone").enrolment;
    phone.request = other.request;
    assert!(server.enrol_device(&phone).unwrap_err().to_string().contains("request was refused"));
}

#[test]
fn computers_that_arrive_together_share_one_count() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let ticket = admin.ticket("agent", " --uses 3");
    let enrolled: usize = std::thread::scope(|scope| {
        let one = |number: usize| {
            let (server, ticket) = (&server, &ticket);
            let computer = Computer::with(ticket, &format!("c{number}"));
            scope.spawn(move || usize::from(server.enrol_agent(&computer.enrolment()).is_ok()))
        };
        let all: Vec<_> = (0..12).map(one).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(enrolled, 3);
    assert!(admin.did("ticket list").contains("3 of 3"));
    assert_eq!(admin.did("computer list").lines().count(), 1 + 3);
}

#[test]
fn an_expired_ticket_says_so() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let mut ticket = admin.ticket("agent", "");
    let statement = gatepass_protocol::signed::Unverified::<Statement>::decode(ticket.statement.clone()).unwrap();
    let (statement, ca) = (statement.claimed().clone(), ca_key(&admin));
    let draft = Draft {
        serial: Serial::random(&mut edge::rng()),
        tenant: statement.tenant,
        subject: statement.subject,
        keys: statement.keys.clone(),
        not_before: edge::now() - 7200,
        not_after: edge::now() - 3600,
        epoch: 0,
    };
    let terms: gatepass_protocol::statement::TicketTerms = statement.terms().unwrap();
    ticket.statement = draft.sign(&terms, &ca).unwrap().bytes().clone();
    let error = server.enrol_agent(&Computer::with(&ticket, "late").enrolment()).unwrap_err().to_string();
    assert!(error.contains("the ticket has expired"), "{error}");
}

#[test]
fn another_tenants_token_opens_nothing_and_its_ca_signs_nothing() {
    let server = Server::start();
    let (acme, rival) = (Administrator::of_tenant(&server, "Acme"), Administrator::of_tenant(&server, "Rival"));
    fs::copy(rival.path("gatepass/admin.token"), acme.path("gatepass/rival.token")).unwrap();
    let profile = fs::read_to_string(acme.path("gatepass/profile.toml")).unwrap();
    acme.write("rival.toml", &profile.replace("admin.token", "rival.token"));
    for command in [
        "status",
        "ca list",
        "technician list",
        "ticket list",
        "device list",
        "device pending",
        "computer list",
        "audit",
    ] {
        let error = acme.refused(&format!("{command} --profile rival.toml"));
        assert!(error.contains("does not administer this tenant"), "{command}: {error}");
    }
    let operator = server.folder.path().join("operator.token");
    fs::copy(&operator, acme.path("gatepass/rival.token")).unwrap();
    assert!(acme.refused("status --profile rival.toml").contains("does not administer this tenant"));

    let agent = Computer::with(&rival.ticket("agent", ""), "spy");
    server.enrol_agent(&agent.enrolment()).unwrap();
    assert!(!acme.did("computer list").contains("spy"));
    let mut event = agent.event(1, "");
    event.tenant = acme.tenant();
    assert!(server.send_event(&agent.signed(event)).is_err());

    let error = server.refuses_statement(&acme, &policy(&acme, &ca_key(&rival), 1));
    assert!(error.contains("policy was refused"), "{error}");
    let mut foreign = policy_draft(1);
    foreign.tenant = rival.tenant();
    let foreign = foreign.sign(&empty_policy(), &ca_key(&acme)).unwrap();
    assert!(server.refuses_statement(&acme, &foreign).contains("policy was refused"));
}

#[test]
fn an_epoch_never_goes_back() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let ca = ca_key(&admin);
    server.takes_statement(&admin, &policy(&admin, &ca, 7));
    for epoch in [0, 1, 6, 7] {
        let error = server.refuses_statement(&admin, &policy(&admin, &ca, epoch));
        assert!(error.contains(&format!("has epoch {epoch}, but epoch 7 is in force")), "{error}");
    }
    assert_eq!(server.control.trust(&admin.tenant()).unwrap().policy_epoch(), 7);
}

#[test]
fn a_policy_with_any_bit_flipped_is_refused() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let good = policy(&admin, &ca_key(&admin), 1);
    for at in 0..good.bytes().len() {
        let mut flipped = good.bytes().to_vec();
        flipped[at] ^= 1;
        assert!(server.post_statement(&admin, flipped).is_err(), "byte {at}");
    }
    assert!(server.control.trust(&admin.tenant()).unwrap().policy().is_none());
    server.takes_statement(&admin, &good);
}

#[test]
fn a_server_that_shows_yesterdays_revocations_gets_nothing_signed() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let first = Computer::with(&admin.ticket("agent", " --uses 3"), "one");
    server.enrol_agent(&first.enrolment()).unwrap();
    server.enrol_agent(&Computer::with(&first.ticket, "two").enrolment()).unwrap();
    admin.signed("revoke computer one");
    let seen = fs::read_to_string(admin.path("gatepass/profile.seen.json")).unwrap();
    let yesterday: serde_json::Value = serde_json::from_str(&seen).unwrap();
    admin.signed("revoke computer two");

    // The same as a server restored from yesterday's backup: this machine has seen more than it shows.
    let database = rusqlite::Connection::open(server.database()).unwrap();
    database.execute("DELETE FROM statements WHERE epoch = 2", []).unwrap();
    let yesterday: Statements = serde_json::from_value(yesterday["statements"].clone()).unwrap();
    assert!(yesterday.revocation.is_some());
    let error = admin.refused("revoke technician alex --password-file password");
    assert!(error.contains("older revocation list") && error.contains("nothing was signed"), "{error}");
    database.execute("DELETE FROM statements", []).unwrap();
    let error = admin.refused("revoke technician alex --password-file password");
    assert!(error.contains("shows no revocation list"), "{error}");
    // If it was no lie, what was lost comes back.
    assert!(error.contains("gatepass resend"), "{error}");
    assert!(admin.did("resend").contains("revocation list: epoch 2 is in force again"));
    assert!(admin.did("resend").contains("the server has it"));
    admin.signed("revoke technician alex");
    // And a technician who is suddenly somebody else.
    database.execute("PRAGMA foreign_keys = OFF", []).unwrap();
    database.execute("UPDATE technicians SET id = zeroblob(16)", []).unwrap();
    let error = admin.refused("technician list");
    assert!(error.contains("but this machine knows"), "{error}");
}

#[test]
fn the_server_does_not_choose_which_ca_key_is_revoked() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    fs::create_dir(admin.path("stranger")).unwrap();
    admin.did("ca new stranger --out stranger --password-file password");
    let other = fs::read_to_string(admin.path("stranger/gatepass-ca.pem")).unwrap();
    let database = rusqlite::Connection::open(server.database()).unwrap();
    let kid: String = database.query_row("SELECT lower(hex(kid)) FROM ca_keys", [], |row| row.get(0)).unwrap();
    database.execute("UPDATE ca_keys SET pem = ?1", [other]).unwrap();
    let error = admin.refused(&format!("revoke ca {kid} --password-file password"));
    assert!(error.contains("shows another key") && error.contains("nothing was signed"), "{error}");
}

#[test]
fn an_audit_trail_that_somebody_edited_is_noticed() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let database = rusqlite::Connection::open(server.database()).unwrap();
    let change = "UPDATE events SET event = X'7b7d' WHERE seq = 2";
    assert!(database.execute(change, []).unwrap_err().to_string().contains("append-only"));
    assert!(database.execute("DELETE FROM events", []).unwrap_err().to_string().contains("append-only"));
    database.execute_batch("DROP TRIGGER events_never_change; DROP TRIGGER events_never_go").unwrap();
    database.execute(change, []).unwrap();
    assert!(admin.refused("audit").contains("do not give the root that was signed"));
    assert!(admin.refused("audit --since 1d").contains("entry 2 is not in the log that was signed"));
    database.execute("DELETE FROM events WHERE seq = 2", []).unwrap();
    assert!(admin.refused("audit").contains("entry 3 follows entry 1"));
}

#[test]
fn an_event_that_the_server_made_up_is_noticed() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let ticket = admin.ticket("agent", " --uses 2");
    let (one, two) = (Computer::with(&ticket, "one"), Computer::with(&ticket, "two"));
    server.enrol_agent(&one.enrolment()).unwrap();
    server.enrol_agent(&two.enrolment()).unwrap();
    server.send_event(&one.signed(one.event(1, "x"))).unwrap();
    admin.did("audit");
    let database = rusqlite::Connection::open(server.database()).unwrap();
    database.execute_batch("DROP TRIGGER events_never_change").unwrap();
    // Also where the log was made anew to fit it: the computer did not sign that.
    database.execute("UPDATE events SET computer = ?1 WHERE computer IS NOT NULL", [two.id.as_bytes()]).unwrap();
    database.execute_batch("DELETE FROM log_nodes; DELETE FROM event_facts").unwrap();
    drop(gatepass_control::Control::open(&server.database()).unwrap());
    std::fs::remove_file(admin.path("gatepass/profile.seen.json")).unwrap();
    let error = admin.refused("audit");
    assert!(error.contains("was not signed by computer"), "{error}");
}

#[test]
fn events_that_the_agent_did_not_sign_are_refused() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let ticket = admin.ticket("agent", " --uses 2");
    let (one, two) = (Computer::with(&ticket, "one"), Computer::with(&ticket, "two"));
    server.enrol_agent(&one.enrolment()).unwrap();
    server.enrol_agent(&two.enrolment()).unwrap();
    let good = Signed::sign(one.event(1, "x"), &one.sign).unwrap().bytes().to_vec();
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        assert!(server.send_event(&one.wrapped(flipped)).is_err(), "byte {at}");
    }
    assert!(server.send_event(&two.wrapped(good.clone())).is_err(), "signed by another");
    assert!(server.send_event(&two.signed(one.event(1, "x"))).is_err(), "about another");
    let endless = server.send_event(&one.signed(one.event(1, &"x".repeat(9000)))).unwrap_err().to_string();
    assert!(endless.contains("413") && endless.contains("8192 bytes"), "{endless}");
    let before = admin.did("audit").lines().count();
    server.send_event(&one.wrapped(good)).unwrap();
    assert_eq!(admin.did("audit").lines().count(), before + 1);
}

#[test]
fn odd_names_and_misspelt_commands_are_refused_with_a_hint() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    for name in ["Alex", "al ex", "../root", "$(id)", "0day", "a\u{202e}b", "", "abcdefghijklmnopq", "älex"] {
        let said = admin.run(&["technician", "add", "--", name]);
        assert!(!said.ok && said.err.contains("small letters"), "{name}: {said:?}");
    }
    assert!(admin.refused("technician add alex").contains("there already is a technician alex"));
    let operator = server.folder.path().join("operator.token");
    let create = |name: &str| {
        let operator = operator.to_str().unwrap();
        admin.run(&[
            "tenant",
            "create",
            "--url",
            &server.url,
            "--operator-token-file",
            operator,
            "--profile",
            "p",
            "--token-file",
            "t",
            "--",
            name,
        ])
    };
    for name in ["", " Acme", "a\nb", "a\u{1b}[0m", "a\u{202e}b", &"x".repeat(65)] {
        let said = create(name);
        assert!(!said.ok && said.err.contains("no control characters") && !said.err.contains('\u{1b}'), "{said:?}");
    }
    assert!(create("Acme").err.contains("there already is a tenant Acme"));
    let ticket = admin.ticket("agent", "");
    for name in ["", "a\u{1b}[2J", "a\u{0}b", &"x".repeat(65)] {
        let error = server.enrol_agent(&Computer::with(&ticket, name).enrolment()).unwrap_err().to_string();
        assert!(error.contains("computer's name"), "{name:?}: {error}");
    }
    for name in ["web01; rm -rf /", "../../etc/passwd", "名前"] {
        // Odd, but only a name: it is shown, and never becomes a path or a command.
        let ticket = admin.ticket("agent", "");
        server.enrol_agent(&Computer::with(&ticket, name).enrolment()).unwrap();
        assert!(admin.did("computer list").contains(name));
    }

    let profile = fs::read_to_string(admin.path("gatepass/profile.toml")).unwrap();
    admin.write("misspelt.toml", &profile.replace("token_file", "token_fil"));
    let error = admin.refused("status --profile misspelt.toml");
    assert!(error.contains("unknown key \"token_fil\"") && error.contains("did you mean \"token_file\"?"), "{error}");
    assert!(admin.refused("status --profile nowhere.toml").contains("gatepass tenant create"));
    admin.write("policy.toml", "default_minuts = 3");
    assert!(admin.refused("policy check policy.toml").contains("did you mean \"default_minutes\"?"));
    assert!(admin.refused("device approve 12345678 --technician alx").contains("did you mean \"alex\"?"));
    assert!(admin.refused("revoke device 1234 --password-file password").contains("32 hexadecimal digits"));
}

#[test]
fn a_phone_with_another_fingerprint_is_not_approved_and_can_be_sent_away() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let phone = Phone::with(&admin.ticket("phone", ""), "phone");
    let waiting = server.enrol_device(&phone.enrolment).unwrap();
    assert_eq!(server.enrol_device(&phone.enrolment).unwrap().request_id, waiting.request_id, "asked again");
    let approve = format!("device approve {} --technician alex --password-file password", waiting.request_id);
    let error = admin.refused(&format!("{approve} --fingerprint 0000-0000-0000-0000-0000"));
    assert!(error.contains("not the fingerprint"), "{error}");
    assert!(admin.refused(&approve).contains("nothing was signed"), "no answer is no yes");
    let asked = admin.run_and_type(&approve.split(' ').collect::<Vec<_>>(), "no\n");
    assert!(
        !asked.ok && asked.out.contains(&phone.fingerprint) && asked.err.contains("Does the phone show"),
        "{asked:?}"
    );
    assert!(server.enrolled(&waiting).is_none());
    admin.did(&format!("device refuse {}", waiting.request_id));
    assert!(!admin.did("device pending").contains("phone"));
    assert!(admin.refused(&format!("{approve} --fingerprint {}", phone.fingerprint)).contains("no phone waits"));

    let phone = Phone::with(&admin.ticket("phone", ""), "phone");
    let waiting = server.enrol_device(&phone.enrolment).unwrap();
    let approve = format!("device approve {} --technician alex --password-file password", waiting.request_id);
    let asked = admin.run_and_type(&approve.split(' ').collect::<Vec<_>>(), "yes\n");
    assert!(asked.ok, "{asked:?}");
    assert!(server.enrolled(&waiting).is_some());
}

#[test]
fn garbage_over_http_is_answered_in_one_sentence() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let token = admin.token();
    let tenant = admin.tenant();
    let technicians = format!("/api/v1/tenants/{tenant}/technicians");
    let large = vec![b' '; 70_000];
    let cases: [(&str, &str, &[u8], &str); 9] = [
        ("POST", &technicians, b"{\"name\": \"\xff\xfe\"}", "400"),
        ("POST", &technicians, b"{\"name\": 7}", "400"),
        ("POST", &technicians, b"{\"nam\": \"kim\"}", "400"),
        ("POST", &technicians, b"", "400"),
        ("POST", &technicians, &large, "413"),
        ("POST", "/api/v1/enrol/agent", b"{\"ticket\": \"!\", \"certificate\": \"\"}", "400"),
        ("POST", "/api/v1/enrol/agent", b"{\"ticket\": \"AAAA\", \"certificate\": \"\"}", "403"),
        ("GET", "/api/v1/../../etc/passwd", b"", "404"),
        ("DELETE", &technicians, b"", "404"),
    ];
    for (method, path, body, expected) in cases {
        let answer = raw(&server, method, path, &token, body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{method} {path}: {answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("\"detail\""), "{answer}");
    }
    let answer = raw(&server, "GET", &technicians, "gatepass-token-wrong", b"");
    assert!(
        answer.starts_with("HTTP/1.1 401") && answer.to_lowercase().contains("www-authenticate: bearer"),
        "{answer}"
    );
    let nobody = raw(&server, "GET", "/api/v1/tenants/00000000000000000000000000000000/technicians", &token, b"");
    assert!(nobody.starts_with("HTTP/1.1 401"), "{nobody}");
}

#[test]
fn a_stranger_is_refused_before_a_large_body_is_read() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    let path = format!("/api/v1/tenants/{}/statements", admin.tenant());
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // Half a megabyte is kept back, and the answer is there all the same.
    let _ = stream.write_all(&vec![b' '; 500_000]);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 401");
}

fn raw(server: &Server, method: &str, path: &str, token: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a large body need not read all of it.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ca_key(admin: &Administrator) -> SigningKey {
    let sealed = fs::read_to_string(admin.path("gatepass-ca.json")).unwrap();
    let seed = vault::open(&sealed, PASSWORD.as_bytes()).unwrap();
    SigningKey::from_seed(seed.as_slice().try_into().unwrap())
}

fn empty_policy() -> Policy {
    Policy { default_minutes: 30, software_keys: false, delete_on_end: false, idle_days: 30, rules: Vec::new() }
}

fn policy_draft(epoch: u64) -> Draft {
    let now = edge::now();
    Draft {
        serial: Serial::random(&mut edge::rng()),
        tenant: gatepass_protocol::ids::TenantId([0; 16]),
        subject: [0; 16],
        keys: Vec::new(),
        not_before: now,
        not_after: now + 3600,
        epoch,
    }
}

fn policy(admin: &Administrator, ca: &SigningKey, epoch: u64) -> Signed<Statement> {
    Draft { tenant: admin.tenant(), ..policy_draft(epoch) }.sign(&empty_policy(), ca).unwrap()
}

impl Server {
    fn post_statement(&self, admin: &Administrator, statement: Vec<u8>) -> Result<serde_json::Value, String> {
        let http = self.http().with_bearer(&admin.token());
        let path = format!("/api/v1/tenants/{}/statements", admin.tenant());
        let question = NewStatement { statement: statement.into() };
        self.runtime.block_on(http.post_json(&path, &question)).map_err(|error| error.to_string())
    }

    fn takes_statement(&self, admin: &Administrator, statement: &Signed<Statement>) {
        self.post_statement(admin, statement.bytes().to_vec()).unwrap();
    }

    fn refuses_statement(&self, admin: &Administrator, statement: &Signed<Statement>) -> String {
        self.post_statement(admin, statement.bytes().to_vec()).unwrap_err()
    }
}
