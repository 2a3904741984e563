//! The audit log in an auditor's hands, and in those of somebody who would rather that it said something else.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod harness;

use std::fs;

use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::log::Head;
use gatepass_protocol::signed::Signed;
use serde_json::{Value, json};

use harness::{Administrator, Computer, Server};

const VERIFY: &str = "audit verify trail.jsonl --ca gatepass-ca.pem";

/// A tenant with a computer that has said a few things.
fn world() -> (Server, Administrator, Computer) {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let computer = Computer::with(&admin.ticket("agent", ""), "web01");
    server.enrol_agent(&computer.enrolment()).unwrap();
    for number in 1..=9 {
        server.send_event(&computer.signed(computer.event(number, &format!("=cmd {number}")))).unwrap();
    }
    admin.did("technician add bo");
    (server, admin, computer)
}

fn lines(admin: &Administrator) -> Vec<String> {
    fs::read_to_string(admin.path("trail.jsonl")).unwrap().lines().map(str::to_owned).collect()
}

fn replace(admin: &Administrator, lines: &[String]) {
    fs::write(admin.path("trail.jsonl"), lines.join("\n") + "\n").unwrap();
}

#[test]
fn an_auditor_proves_offline_that_nothing_was_changed() {
    let (server, admin, computer) = world();
    let said = admin.did("audit export trail.jsonl");
    assert!(said.contains("entries of the audit log of"), "{said}");
    let proved = admin.did(VERIFY);
    assert!(proved.contains("all of them are here, unchanged and in order"), "{proved}");
    assert!(proved.contains("9 events were signed by computers"), "{proved}");
    assert!(proved.contains("not proved that nobody was shown another log"), "{proved}");

    // A head that somebody saw before is of this log.
    fs::write(admin.path("seen.jsonl"), admin.did("audit heads")).unwrap();
    server.send_event(&computer.signed(computer.event(10, "later"))).unwrap();
    fs::remove_file(admin.path("trail.jsonl")).unwrap();
    admin.did("audit export trail.jsonl");
    let proved = admin.did(&format!("{VERIFY} --witnessed seen.jsonl"));
    assert!(proved.contains("proved     1 heads that others have seen are of this log"), "{proved}");

    // What was chosen is proved one by one; what comes after a number, together.
    fs::remove_file(admin.path("trail.jsonl")).unwrap();
    admin.did("audit export trail.jsonl --computer web01 --kind started");
    let proved = admin.did(VERIFY);
    assert!(proved.contains("10 chosen entries are in it") && proved.contains("no other entries"), "{proved}");
    fs::remove_file(admin.path("trail.jsonl")).unwrap();
    admin.did("audit export trail.jsonl --from 5");
    assert!(admin.did(VERIFY).contains("all after the first 5 are here"));
    let found: Value = serde_json::from_str(&admin.did(&format!("{VERIFY} --json"))).unwrap();
    assert_eq!((found["complete"].as_bool(), found["from"].as_u64()), (Some(false), Some(5)));
}

#[test]
fn whatever_is_done_to_an_export_is_found() {
    let (_server, admin, _computer) = world();
    admin.did("audit export trail.jsonl");
    let whole = lines(&admin);
    let last = whole.len() - 1;
    let edited = |at: usize, edit: &dyn Fn(&mut Value)| {
        let mut lines = whole.clone();
        let mut line: Value = serde_json::from_str(&lines[at]).unwrap();
        edit(&mut line);
        lines[at] = line.to_string();
        lines
    };
    let recounted = |mut lines: Vec<String>| {
        let at = lines.len() - 1;
        lines[at] = json!({ "entries": at - 1 }).to_string();
        lines
    };
    let without = |at: usize| {
        let mut lines = whole.clone();
        lines.remove(at);
        lines
    };
    let swapped = {
        let mut lines = whole.clone();
        lines.swap(3, 4);
        lines
    };
    let act = r#"{"at":1,"act":"nothing","to":""}"#;
    let cases = [
        ("an entry was taken out", without(3), "follows entry"),
        ("and the rest counted anew", recounted(without(3)), "follows entry"),
        ("the last entry was taken out", recounted(without(last - 1)), "the log's signed head counts"),
        ("the end was cut off", whole[..last].to_vec(), "without its last line"),
        ("two changed places", swapped, "follows entry"),
        ("a time was changed", edited(2, &|line| line["signed"]["at"] = 1.into()), "what entry 2 reads is not"),
        (
            "and what is read of it",
            edited(2, &|line| {
                line["signed"]["at"] = 1.into();
                line["read"]["received"] = 1.into();
            }),
            "what entry 2 reads is not",
        ),
        (
            "the readable part was changed",
            edited(2, &|line| line["read"]["to"] = "x".into()),
            "what entry 2 reads is not",
        ),
        ("a mark was set", edited(last - 2, &|line| line["signed"]["revoked"] = true.into()), "reads is not"),
        (
            "an act was put in the place of another",
            {
                let base64 = base64(act.as_bytes());
                edited(2, &move |line| line["signed"]["event"] = base64.clone().into())
            },
            "what entry 2 reads is not",
        ),
        ("something was put behind", [whole.clone(), vec![whole[2].clone()]].concat(), "something follows"),
        ("the head is of another tenant", edited(0, &|line| line["tenant"] = "00".repeat(16).into()), "first line"),
    ];
    for (what, lines, why) in cases {
        replace(&admin, &lines);
        let error = admin.refused(VERIFY);
        assert!(error.contains("proves nothing") && error.contains(why), "{what}: {error}");
    }
    // Each byte of the signed head counts.
    let mut start: Value = serde_json::from_str(&whole[0]).unwrap();
    let head = start["head"].as_str().unwrap().to_owned();
    for at in [10, 30, 60, head.len() - 10] {
        let mut changed = head.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        start["head"] = String::from_utf8(changed).unwrap().into();
        replace(&admin, &[vec![start.to_string()], whole[1..].to_vec()].concat());
        assert!(admin.refused(VERIFY).contains("proves nothing"), "byte {at} of the head");
    }
    replace(&admin, &whole);
    admin.did(VERIFY);
    admin.did("ca new other --out gatepass --password-file password");
    let error = admin.refused("audit verify trail.jsonl --ca gatepass/gatepass-ca.pem");
    assert!(error.contains("was not signed by computer"), "{error}");
}

#[test]
fn a_server_that_makes_its_log_anew_is_caught_by_whoever_saw_the_old_one() {
    let (server, admin, computer) = world();
    admin.did("audit");
    fs::write(admin.path("seen.jsonl"), admin.did("audit heads")).unwrap();
    // Everything in the server's hands is changed so that it fits together again, but for what others remember.
    let database = rusqlite::Connection::open(server.database()).unwrap();
    database
        .execute_batch(
            "DROP TRIGGER events_never_change; DROP TRIGGER events_never_go;
             UPDATE events SET at = at - 60 WHERE seq = 3; DELETE FROM log_nodes; DELETE FROM event_facts",
        )
        .unwrap();
    drop(gatepass_control::Control::open(&server.database()).unwrap());
    let error = admin.refused("audit");
    assert!(error.contains("does not continue what was seen of it"), "{error}");
    server.send_event(&computer.signed(computer.event(10, ""))).unwrap();
    assert!(admin.refused("audit").contains("does not continue"), "more entries do not help");
    assert!(admin.refused("audit export trail.jsonl").contains("does not continue"));
    // Somebody else's machine has seen nothing, and exports what it is shown: the witness tells.
    fs::rename(admin.path("gatepass/profile.seen.json"), admin.path("evidence.json")).unwrap();
    admin.did("audit export trail.jsonl");
    admin.did(VERIFY);
    let error = admin.refused(&format!("{VERIFY} --witnessed seen.jsonl"));
    assert!(error.contains("FORKED"), "{error}");

    // Or it is cut off: nothing shorter than what was seen is taken.
    fs::rename(admin.path("evidence.json"), admin.path("gatepass/profile.seen.json")).unwrap();
    database.execute_batch("DELETE FROM events WHERE seq > 5; DELETE FROM log_nodes; DELETE FROM event_facts").unwrap();
    drop(gatepass_control::Control::open(&server.database()).unwrap());
    assert!(admin.refused("audit").contains("does not continue"));
    // Or another key signs it.
    database.execute("UPDATE tenants SET log_key = ?1", [[9_u8; 32]]).unwrap();
    assert!(admin.refused("audit").contains("another key"));
    // A witness who invents a head needs the log's key for it.
    let head = Head { tenant: admin.tenant(), size: 3, time: 1, root: [1; 32] };
    let forged = Signed::sign(head, &SigningKey::from_seed(&[1; 32])).unwrap();
    let line: Value =
        serde_json::from_str(fs::read_to_string(admin.path("seen.jsonl")).unwrap().lines().next().unwrap()).unwrap();
    let forged = json!({ "head": base64(forged.bytes()), "log_key": line["log_key"] });
    admin.write("forged.jsonl", &forged.to_string());
    assert!(admin.refused(&format!("{VERIFY} --witnessed forged.jsonl")).contains("not signed with the log's key"));
}

#[test]
fn what_is_looked_for_is_found_and_nothing_else() {
    let (_server, admin, computer) = world();
    let count = |chosen: &str| admin.did(format!("audit --last 0 --json {chosen}").trim()).lines().count();
    let all = count("");
    assert_eq!((count("--computer web01"), count(&format!("--computer {}", computer.id))), (9, 9));
    assert_eq!((count("--kind started"), count("--kind technician-added"), count("--kind granted")), (9, 2, 0));
    assert_eq!((count("--outcome done"), count("--outcome alert")), (all, 0));
    assert_eq!((count("--since 1h"), count("--until 1h"), count("--since 2026-01-01 --computer web01")), (all, 0, 9));
    assert_eq!(admin.did("audit --kind started --last 2 --json").lines().count(), 2);
    // Each act says who did it, and by which request.
    let act: Value = serde_json::from_str(admin.did("audit --kind technician-added --json --last 1").trim()).unwrap();
    assert_eq!(
        (act["role"].as_str(), act["request"].as_str()),
        (Some("tenant-admin"), Some("POST /tenants/{tenant}/technicians"))
    );
    let token = act["token"].as_str().unwrap();
    assert!(count(&format!("--actor {token}")) >= 3, "what was done with this token");
    for (wrong, why) in [
        ("--computer nowhere", "no computer \"nowhere\""),
        ("--actor nobody", "no actor \"nobody\""),
        ("--since soon", "is no time"),
        ("--outcome good", "known are: done"),
        ("--kind a&b", "is no kind"),
    ] {
        let error = admin.refused(&format!("audit {wrong}"));
        assert!(error.contains(why), "{wrong}: {error}");
    }
    // A table shows formulas, and does not carry them out.
    admin.did("audit export trail.csv --format csv");
    let table = fs::read_to_string(admin.path("trail.csv")).unwrap();
    assert!(table.contains("\"'=cmd 4\"") && !table.contains("\"=cmd"), "{table}");
    assert_eq!(table.matches("\r\n").count(), all + 1);
    assert!(admin.refused("audit export trail.csv").contains("is not written over"));
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(gatepass_control::api::Base64::from(bytes.to_vec())).unwrap().as_str().unwrap().to_owned()
}
