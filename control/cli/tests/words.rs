//! A technician's phone and an administrator meet by two words, over a real control plane; the phone's part is the library that
//! every phone is made of. The commands of the guide to enrolment are run here, in their order.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod harness;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gatepass_client::{Proxies, api::NewSlot, edge};
use gatepass_mobile::{
    enrol::{self, Enrolment},
    profile::Profile,
    slot::{self, WordsError},
};
use gatepass_protocol::{
    qr::tenant_tag,
    slot::{Ended, Introduction, Tries},
};

use gatepass_control::api::hex;

use harness::{Administrator, Server};

const PIN: &str = "814-273";

/// `gatepass device enrol`, with somebody at the keyboard.
struct Desk {
    child: Child,
    keys: ChildStdin,
    screen: BufReader<ChildStdout>,
    seen: String,
}

impl Desk {
    fn begin(admin: &Administrator, arguments: &[&str]) -> Desk {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepass"))
            .args(["device", "enrol", "--password-file", "password"])
            .args(arguments)
            .current_dir(admin.folder.path())
            .env_clear()
            .env("XDG_CONFIG_HOME", admin.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Desk { child, keys, screen, seen: String::new() }
    }

    fn types(&mut self, text: &str) {
        // It may have ended already.
        let _ = writeln!(self.keys, "{text}");
    }

    /// Reads up to a line with this in it, and gives what stands behind it.
    fn reads(&mut self, wanted: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.screen.read_line(&mut line).unwrap() > 0, "it ended without {wanted:?}: {}", self.seen);
            self.seen.push_str(&line);
            if let Some((_, rest)) = line.split_once(wanted) {
                return rest.trim().to_owned();
            }
        }
    }

    /// How it ended: whether well, and all that it said.
    fn ends(self) -> (bool, String) {
        let Desk { child, keys, mut screen, mut seen } = self;
        drop(keys);
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut screen, &mut rest).unwrap();
        let output = child.wait_with_output().unwrap();
        seen.push_str(&rest);
        seen.push_str(&String::from_utf8(output.stderr).unwrap());
        (output.status.success(), seen)
    }
}

fn shows(server: &Server, admin: &Administrator, name: &str) -> slot::Shown {
    server.runtime.block_on(slot::open(&place(server, admin), name, &mut Tries::default())).unwrap()
}

fn place(server: &Server, admin: &Administrator) -> slot::Server {
    let (url, tenant) = (server.url.clone(), hex(&tenant_tag(admin.tenant())));
    slot::Server { url, tls_ca_pem: None, proxies: Proxies::none(), tenant }
}

/// A phone goes the whole way with an administrator who is honest.
fn enrols(server: &Server, admin: &Administrator, name: &str) -> Profile {
    let mut desk = Desk::begin(admin, &["--technician", "alex", "--phone", name]);
    let shown = shows(server, admin, name);
    desk.reads("shows two words");
    desk.types(&shown.words().to_string().to_uppercase());
    let asking = server.runtime.block_on(shown.typed()).unwrap();
    let code = desk.reads("on the phone:  ");
    let accepted = server.runtime.block_on(asking.code(&code)).unwrap();
    desk.types(accepted.reply());
    let mut profile = server.runtime.block_on(async {
        let (ticketed, ticket) = accepted.ticket().await.unwrap();
        let enrolment = Enrolment::begin(&ticket, name, PIN, edge::now(), &mut edge::rng()).unwrap();
        let introduction = Introduction {
            request: enrolment.request().clone(),
            model: "Pixel 9".into(),
            platform: "Android 16".into(),
        };
        let profile = enrolment.send().await.unwrap();
        ticketed.introduce(&introduction).await.unwrap();
        profile
    });
    let (ok, said) = desk.ends();
    assert!(ok && said.contains("belongs to alex") && said.contains("Pixel 9, Android 16"), "{said}");
    assert!(server.runtime.block_on(enrol::ask(&mut profile, edge::now())).unwrap(), "it asked for the approval");
    profile
}

#[test]
fn a_technician_enrols_two_phones_loses_one_and_the_other_goes_on() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let (lost, kept) = (enrols(&server, &admin, "old phone"), enrols(&server, &admin, "new phone"));
    let listed = admin.did("device list");
    assert!(listed.contains("old phone") && listed.contains("new phone"), "{listed}");
    assert!(!admin.did("device pending").contains("phone"), "nothing is left over");
    admin.signed(&format!("revoke device {}", lost.device));
    let trust = server.control.trust(&admin.tenant()).unwrap();
    assert!(trust.device(&lost.chain().unwrap(), edge::now()).is_err());
    assert!(trust.device(&kept.chain().unwrap(), edge::now()).is_ok());
    let trail = admin.did("audit");
    assert!(trail.contains("enrolment slot opened") && trail.contains("device approved"), "{trail}");
}

#[test]
fn wrong_words_enrol_nobody_and_are_burnt() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let mut desk = Desk::begin(&admin, &["--technician", "alex"]);
    let shown = shows(&server, &admin, "phone");
    let right = shown.words().to_string();
    // What is no word costs nothing; what is another word costs the slot.
    desk.types("tobacco tiger");
    desk.types(if right == "tiger tobacco" { "tiger tomorrow" } else { "tiger tobacco" });
    let refused = server.runtime.block_on(shown.typed()).err().unwrap();
    assert!(matches!(refused, WordsError::Ended(Ended::Words)), "{refused}");
    let (ok, said) = desk.ends();
    assert!(!ok && said.contains("\"tobacco\" is not a word") && said.contains("this enrolment is over"), "{said}");
    assert!(admin.did("device list").lines().count() <= 1 && admin.did("device pending").lines().count() <= 1);

    let mut again = Desk::begin(&admin, &["--technician", "alex"]);
    again.reads("On the phone:");
    again.types(&right);
    let slots = server.http().with_bearer(&admin.token());
    let path = format!("/api/v1/tenants/{}/slots", admin.tenant());
    let open = server.runtime.block_on(slots.request(hyper::Method::GET, &path, None)).unwrap();
    assert!(!String::from_utf8(open.body.to_vec()).unwrap().contains("\"phone\""), "its slot is closed");
    again.child.kill().unwrap();
}

#[test]
fn a_wrong_code_on_the_phone_ends_it_and_so_do_wrong_digits_at_the_desk() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    for is_phones_mistake in [true, false] {
        let mut desk = Desk::begin(&admin, &["--technician", "alex"]);
        let shown = shows(&server, &admin, "phone");
        desk.types(&shown.words().to_string());
        let asking = server.runtime.block_on(shown.typed()).unwrap();
        let code = desk.reads("on the phone:  ");
        let wrong = if code.starts_with('1') { "200 000" } else { "100 000" };
        let accepted = server.runtime.block_on(asking.code(if is_phones_mistake { wrong } else { &code }));
        desk.types("not digits");
        let (ok, said) = desk.ends();
        assert!(!ok && said.contains("nothing was sent or signed"), "{said}");
        if is_phones_mistake {
            assert!(matches!(accepted.err(), Some(WordsError::Ended(Ended::Code))));
        } else {
            let refused = server.runtime.block_on(accepted.unwrap().ticket()).err().unwrap();
            assert!(refused.to_string().contains("this enrolment is over"), "{refused}");
        }
    }
    assert!(admin.did("device pending").lines().count() <= 1);
}

#[test]
fn slots_are_counted_by_the_server_and_by_the_phone_itself() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let place = place(&server, &admin);
    let mut tries = Tries::default();
    for _ in 0..3 {
        server.runtime.block_on(slot::open(&place, "phone", &mut tries)).unwrap();
    }
    let own = server.runtime.block_on(slot::open(&place, "phone", &mut tries)).err().unwrap();
    assert!(matches!(own, WordsError::TooMany(_)), "{own}");
    let theirs = server.runtime.block_on(slot::open(&place, "other phone", &mut Tries::default())).err().unwrap();
    assert!(theirs.to_string().contains("(429)") && theirs.to_string().contains("wait 10 minutes"), "{theirs}");
    let said = admin.refused("device enrol --technician alex --password-file password");
    assert!(said.contains("several phones show words (phone, phone, phone); say which with --phone NAME"), "{said}");
}

#[test]
fn a_slot_is_its_tenants_and_each_end_says_its_own_messages_in_their_order() {
    let server = Server::start();
    let (ours, theirs) = (Administrator::of_tenant(&server, "Acme"), Administrator::of_tenant(&server, "Borealis"));
    let new =
        NewSlot { tenant: hex(&tenant_tag(ours.tenant())), name: "phone".into(), message: b"hello".to_vec().into() };
    let opened: gatepass_client::api::SlotOpened =
        server.runtime.block_on(server.http().post_json("/api/v1/enrol/slots", &new)).unwrap();
    let ask = |http: gatepass_client::Http, method: hyper::Method, path: String, body: Option<&str>| {
        let body = body.map(|text| format!("{{\"message\":\"{text}\"}}").into_bytes());
        match server.runtime.block_on(http.request(method, &path, body)) {
            Ok(answer) => (answer.status, String::from_utf8(answer.body.to_vec()).unwrap()),
            Err(gatepass_client::HttpError::Refused { status, message, .. }) => (status, message),
            Err(other) => panic!("{other}"),
        }
    };
    let (put, get) = (hyper::Method::PUT, hyper::Method::GET);
    let phone = |number: u8| format!("/api/v1/enrol/slots/{}/messages/{number}", opened.slot);
    let desk = |admin: &Administrator, number: u8| {
        let path = format!("/api/v1/tenants/{}/slots/{}/messages/{number}", admin.tenant(), opened.slot);
        (server.http().with_bearer(&admin.token()), path)
    };
    let (http, path) = desk(&theirs, 1);
    assert_eq!(ask(http, get.clone(), path, None).0, 404, "somebody else's");
    let (http, path) = desk(&ours, 1);
    assert!(ask(http, get, path, None).1.contains("aGVsbG8="));
    assert_eq!(ask(server.http(), put.clone(), phone(2), Some("aGk=")).0, 400, "the administrator's");
    assert_eq!(ask(server.http(), put.clone(), phone(3), Some("aGk=")).0, 400, "too early");
    let (http, path) = desk(&ours, 2);
    assert_eq!(ask(http.clone(), put.clone(), path.clone(), Some("aGk=")).0, 200);
    assert_eq!(ask(http.clone(), put.clone(), path.clone(), Some("aGk=")).0, 200, "the same again");
    assert_eq!(ask(http, put.clone(), path, Some("aGV5")).0, 409, "another administrator was faster");
    assert_eq!(ask(server.http(), put.clone(), phone(9), Some("aGk=")).0, 400);
    let slot = format!("/api/v1/enrol/slots/{}", opened.slot);
    assert_eq!(ask(server.http(), hyper::Method::DELETE, slot, None).0, 204);
    assert_eq!(ask(server.http(), put, phone(3), Some("aGk=")).0, 410);
}

#[test]
fn the_night_shift_revokes_with_a_key_that_does_nothing_else_until_it_is_taken_away() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let lost = enrols(&server, &admin, "phone");
    let night = "orbit-kettle-marrow-fiddle-62";
    harness::write_secret(&admin.path("night"), night);
    admin.signed("ca revoke-key create night --new-password-file night --lists 20");
    let by_night = |what: &str| format!("revoke {what} --revoke-key gatepass-revoke.json --password-file night");
    let said = admin.did(&by_night(&format!("device {}", lost.device)));
    assert!(said.contains("revocation list 1 is in force"), "{said}");
    let trust = || server.control.trust(&admin.tenant()).unwrap();
    assert!(trust().device(&lost.chain().unwrap(), edge::now()).is_err());
    let keys = admin.did("ca list");
    let ca = keys.lines().nth(1).and_then(|line| line.split(' ').next()).unwrap();
    let said = admin.refused(&by_night(&format!("ca {ca}")));
    assert!(said.contains("revokes no other key"), "{said}");
    let said = admin.refused("relay set https://gate.example --ca gatepass-revoke.json --password-file night");
    assert!(said.contains("is none of this tenant's"), "{said}");

    let said = admin.signed("revoke revoke-key gatepass-revoke.cert");
    assert!(said.contains("revocation list 21 is in force, with 2 entries"), "{said}");
    let said = admin.refused(&by_night(&format!("grant {}", "0".repeat(32))));
    assert!(said.contains("revoked"), "{said}");
    assert_eq!(trust().revocation_epoch(), 21);
}

#[test]
fn every_command_of_the_guide_to_enrolment_works() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let guide = include_str!("../../../docs/guides/enrolment.md");
    let commands = harness::shell_lines(guide);
    assert!(commands.len() >= 8, "the guide has lost its commands");
    harness::write_secret(&admin.path("night"), "orbit-kettle-marrow-fiddle-62");
    let mut device = String::new();
    for command in commands {
        let command = command.split('#').next().unwrap().trim();
        if command == "gatepass device enrol --technician alex" {
            let phone = enrols(&server, &admin, "alex's phone");
            device = phone.device.to_string();
            continue;
        }
        let command = command.replace("DEVICE", &device);
        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        let said = admin.run(&arguments);
        assert!(said.ok, "{command}: {}", said.err);
    }
    assert!(admin.did("device list").contains("revoked"));
}
