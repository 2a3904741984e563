//! What an administrator does from an empty server on, and what goes right.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod harness;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;

use gatepass_client::{api::Place, edge};
use gatepass_control::{Control, Database};
use gatepass_protocol::ids::Serial;
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::policy::{AccountKind, Question, Scenario};
use gatepass_protocol::statement::{KeyProtection, KeyUse, Kind};
use gatepass_protocol::trust::{CaPublic, TrustStore};

use harness::{Administrator, Computer, Phone, Server};

const POLICY: &str = r#"
default_minutes = 30
software_keys = true
[[rule]]
name = "on call"
technicians = ["alex"]
tags = ["web"]
scenarios = ["ssh"]
accounts = ["named"]
groups = ["sudo"]
max_minutes = 60
reason = true
"#;

#[test]
fn an_administrator_walks_from_an_empty_server_to_a_lost_phone() {
    let server = Server::start();
    let admin = Administrator::new();
    let mut news = server.control.news();

    admin.create_tenant(&server, "Acme & Sons");
    let made = admin.did("ca new acme-2026 --password-file password");
    assert!(made.contains("gatepass-ca.json"), "{made}");
    admin.did("ca add gatepass-ca.pem");
    assert!(admin.did("ca list").contains("yes"));
    admin.did("technician add alex");
    admin.signed(&format!("relay set {}", server.url));
    assert!(admin.did("relay list").contains("0      ws://127.0.0.1:"));

    // A computer enrols itself.
    let ticket = admin.ticket("agent", " --tag web --uses 2");
    let computer = Computer::with(&ticket, "web01");
    let welcome = server.enrol_agent(&computer.enrolment()).unwrap();
    let ca = CaPublic::from_pem(&welcome.ca_pem[0]).unwrap();
    let mut agent = TrustStore::new(welcome.tenant, [ca]);
    agent.accept_relays(&welcome.statements.relays.unwrap().0, edge::now()).unwrap();
    assert!(welcome.statements.policy.is_none());
    assert!(admin.did("computer list").contains("web01"));

    // A phone asks, and the administrator compares fingerprints.
    let phone = Phone::with(&admin.ticket("phone", ""), "Alex's phone");
    let waiting = server.enrol_device(&phone.enrolment).unwrap();
    assert!(server.enrolled(&waiting).is_none());
    assert!(admin.did("device pending").contains(&phone.fingerprint));
    let request = &waiting.request_id.to_string()[..8];
    let approved =
        admin.signed(&format!("device approve {request} --technician alex --fingerprint {}", phone.fingerprint));
    assert!(approved.contains("belongs to alex"), "{approved}");
    assert!(admin.did("device list").contains("Alex's phone"));
    assert!(!admin.did("device pending").contains(&phone.fingerprint));
    let welcome = server.enrolled(&waiting).unwrap();
    let chain: Vec<Bytes> = welcome.certificate.into_iter().map(|link| link.0).collect();
    let device = agent.device(&chain, edge::now()).unwrap();
    assert_eq!((device.statement().subject, device.terms().technician_name.as_str()), (phone.id.0, "alex"));

    // The policy reaches the agent, and reads back.
    admin.write("policy.toml", POLICY);
    admin.did("policy check policy.toml");
    assert!(admin.signed("policy set policy.toml").contains("policy 1 is in force"));
    assert!(admin.signed("policy set policy.toml").contains("policy 2 is in force"));
    let relays = news.try_recv().unwrap();
    assert_eq!((relays.tenant, relays.kind), (admin.tenant(), Kind::Relays));
    for _ in 0..2 {
        agent.accept_policy(&news.try_recv().unwrap().statement, edge::now()).unwrap();
    }
    let question = Question {
        technician: device.terms().technician,
        protection: KeyProtection::Software,
        computer: computer.id,
        tags: &["web".to_owned()],
        scenario: Scenario::Ssh,
    };
    let choices = agent.policy().unwrap().terms().choices(&question);
    assert_eq!((choices.len(), &choices[0].accounts), (1, &vec![AccountKind::Named]));
    let shown = admin.did("policy show");
    assert!(shown.contains("technicians = [\"alex\"]") && shown.contains("# epoch 2"), "{shown}");

    // The phone is lost.
    let revoked = admin.signed(&format!("revoke device {}", phone.id));
    assert!(revoked.contains("Alex's phone of alex"), "{revoked}");
    agent.accept_revocation(&news.try_recv().unwrap().statement, edge::now()).unwrap();
    assert!(agent.device(&chain, edge::now()).is_err());
    assert!(server.control.trust(&admin.tenant()).unwrap().device(&chain, edge::now()).is_err());
    assert!(admin.did("device list").contains("revoked"));

    // And all of it is written down.
    let status = admin.did("status");
    assert!(status.contains("Acme & Sons") && status.contains("policy        epoch 2"), "{status}");
    let trail = admin.did("audit");
    for act in
        ["tenant created", "CA key added", "ticket added", "computer enrolled", "device approved", "policy signed"]
    {
        assert!(trail.contains(act), "{act}: {trail}");
    }
    let json = admin.did("audit --json --last 2");
    assert_eq!(json.lines().count(), 2);
    assert!(json.contains("\"event\":\"revocation list signed\""), "{json}");
}

#[test]
fn everything_is_still_in_force_after_a_restart() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let computer = Computer::with(&admin.ticket("agent", ""), "web01");
    server.enrol_agent(&computer.enrolment()).unwrap();
    admin.write("policy.toml", POLICY);
    admin.signed("policy set policy.toml");
    admin.signed("revoke computer web01");
    let (tenant, database) = (admin.tenant(), server.database());
    let again = gatepass_control::Control::open(&database).unwrap();
    let trust = again.trust(&tenant).unwrap();
    assert_eq!((trust.policy_epoch(), trust.revocation_epoch()), (1, 1));
    assert!(trust.is_revoked(computer.id.as_bytes()));
    assert_eq!(again.in_force().unwrap().len(), 2);
}

#[test]
fn two_ca_keys_stand_side_by_side_until_one_is_revoked() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let by_the_old = Computer::with(&admin.ticket("agent", " --uses 2"), "old");
    server.enrol_agent(&by_the_old.enrolment()).unwrap();
    fs::create_dir(admin.path("new")).unwrap();
    admin.did("ca new next --out new --password-file password");
    admin.did("ca add new/gatepass-ca.pem --name next");
    let by_the_new = Computer::with(&admin.ticket("agent", " --ca new/gatepass-ca.json"), "new");
    server.enrol_agent(&by_the_new.enrolment()).unwrap();

    let list = admin.did("ca list");
    let old = list.lines().find(|line| line.contains("acme")).and_then(|line| line.split(' ').next()).unwrap();
    let itself = admin.refused(&format!("revoke ca {old} --password-file password"));
    assert!(itself.contains("can't revoke itself"), "{itself}");
    admin.signed(&format!("revoke ca {old} --ca new/gatepass-ca.json"));
    let refused = server.enrol_agent(&Computer::with(&by_the_old.ticket, "late").enrolment()).unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
    // How its grants ended is worth knowing, with a mark that says whose word it may be.
    server.send_event(&by_the_old.signed(by_the_old.event(1, ""))).unwrap();
    server.send_event(&by_the_new.signed(by_the_new.event(1, ""))).unwrap();
    let trail = admin.did("audit --last 2");
    assert!(trail.contains("old  (revoked)  started") && trail.contains("new  started"), "{trail}");
}

#[test]
fn what_an_agent_signed_is_kept_once_in_order_and_readably() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let computer = Computer::with(&admin.ticket("agent", ""), "web01");
    server.enrol_agent(&computer.enrolment()).unwrap();
    let event = computer.signed(computer.event(1, "hello\u{1b}[2J\u{202e}"));
    let first = server.send_event(&event).unwrap().seq;
    assert_eq!(server.send_event(&event).unwrap().seq, first, "an answer that was lost on the way");
    assert_eq!(server.send_event(&computer.signed(computer.event(2, ""))).unwrap().seq, first + 1);
    let trail = admin.did("audit --last 2");
    assert!(trail.contains("web01  started  hello"), "{trail}");
    assert!(!trail.contains(['\u{1b}', '\u{202e}']), "{trail:?}");
    let json = admin.did("audit --last 2 --json");
    assert!(json.contains("\"sequence\":2") && !json.contains('\u{202e}'), "{json}");
    server.send_event(&computer.signed(computer.event(5, ""))).unwrap();
    assert!(admin.did("audit").contains("2 of its events are missing"));
    let everything = admin.did("audit --last 0");
    assert!(everything.lines().next().unwrap().contains("tenant created"), "{everything}");
}

#[test]
fn secrets_are_for_their_owner_only_and_never_reach_the_server() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let ticket = admin.ticket("agent", "");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    for name in ["gatepass-ca.json", "gatepass/admin.token", "gatepass/profile.toml"] {
        assert_eq!(mode(&admin.path(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&server.folder.path().join("operator.token")), 0o600);
    assert_eq!(mode(&server.database()), 0o600);
    for file in fs::read_dir(server.folder.path()).unwrap().map(|file| file.unwrap().path()) {
        let bytes = fs::read(&file).unwrap();
        let has = |secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!has(admin.token().as_bytes()) && !has(&ticket.seed), "{}", file.display());
    }
}

#[test]
fn a_server_restored_from_yesterdays_backup_is_brought_up_to_date_by_its_administrators() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let folder = tempfile::TempDir::new().unwrap();
    let yesterday = folder.path().join("yesterday.backup");
    Control::back_up(&Database::File(server.database()), &yesterday).unwrap();
    let stolen = Serial([7; 16]);
    admin.signed(&format!("revoke device {stolen}"));

    // The disk is lost, and with it what happened since.
    let again = tempfile::TempDir::new().unwrap();
    Control::restore(&Database::File(again.path().join("control.db")), &yesterday).unwrap();
    let server = Server::with(again, "127.0.0.1:0");
    let profile = fs::read_to_string(admin.path("gatepass/profile.toml")).unwrap();
    let moved =
        |line: &str| if line.starts_with("url") { format!("url = \"{}\"", server.url) } else { line.to_owned() };
    let profile: Vec<String> = profile.lines().map(moved).collect();
    admin.write("gatepass/profile.toml", &profile.join("\n"));
    let refused = admin.refused("status");
    assert!(refused.contains("the token is missing, or does not administer"), "{refused}");

    let operator = server.folder.path().join("operator.token");
    let (url, operator) = (&server.url, operator.display());
    admin.did(&format!("tenant token Acme --url {url} --operator-token-file {operator} --token-file new.token"));
    fs::rename(admin.path("new.token"), admin.path("gatepass/admin.token")).unwrap();
    let refused = admin.refused(&format!("revoke device {} --password-file password", Serial([8; 16])));
    assert!(refused.contains("'gatepass resend'"), "{refused}");
    assert!(admin.did("resend").contains("epoch 1 is in force again"));
    assert!(server.control.trust(&admin.tenant()).unwrap().is_revoked(&stolen.0));
}

#[test]
fn each_end_is_told_whom_it_may_meet_offline_and_nobody_else_is_told_anything() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let computer = Computer::with(&admin.ticket("agent", " --tag web"), "web01");
    server.enrol_agent(&computer.enrolment()).unwrap();
    let phone = Phone::with(&admin.ticket("phone", ""), "Alex's phone");
    let waiting = server.enrol_device(&phone.enrolment).unwrap();
    let computers = vec![computer.certificate.bytes().clone(), computer.ticket.statement.clone()];
    let directory = |chain: &[Bytes], key: &SigningKey, subject: [u8; 16], place| {
        server.runtime.block_on(gatepass_client::directory(&server.http(), chain, key, admin.tenant(), subject, place))
    };
    let of_computer = |place| directory(&computers, &computer.sign, computer.id.0, place);
    let (nobody, place) = of_computer(Place::default()).unwrap();
    assert!(nobody.is_empty(), "a phone that waits is none yet");

    admin.signed(&format!(
        "device approve {} --technician alex --fingerprint {}",
        waiting.request_id, phone.fingerprint
    ));
    let welcome = server.enrolled(&waiting).unwrap();
    let phones: Vec<Bytes> = welcome.certificate.into_iter().map(|link| link.0).collect();
    let (found, place) = of_computer(place).unwrap();
    assert_eq!(found, std::slice::from_ref(&phones));
    let trust = server.control.trust(&admin.tenant()).unwrap();
    let device = trust.device(&found[0], edge::now()).unwrap();
    assert!(device.statement().key(KeyUse::Otp).is_some(), "its key for offline codes is certified");
    let later = Place { since: place.since + 1000, ..place };
    assert!(of_computer(later).unwrap().0.is_empty(), "what it has had is not sent again");

    let of_phone = |key: &SigningKey, subject| directory(&phones, key, subject, Place::default());
    assert_eq!(of_phone(&phone.sign, phone.id.0).unwrap().0, std::slice::from_ref(&computers));
    assert!(of_phone(&computer.sign, phone.id.0).is_err(), "somebody with the certificate, and not its key");
    assert!(of_phone(&phone.sign, computer.id.0).is_err(), "somebody who says to be another");
    admin.signed(&format!("revoke device {}", phone.id));
    let refused = of_phone(&phone.sign, phone.id.0).unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
}
