//! What goes wrong: no relay, no enrolment, strangers at the socket, hostile bytes, secrets that must not show.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use gatepass_logon::wire::{Phase, Verdict};
use gatepass_protocol::Code;
use gatepass_protocol::ids::Serial;
use gatepass_protocol::pairing::messages::Outcome;
use gatepass_protocol::policy::AccountKind;
use gatepass_protocol::statement::Purpose;

use crate::machine::{Machine, chosen, write_private};
use crate::{is_in_adm, shell, story};

#[test]
fn without_a_relay_the_person_is_told_where_to_look() {
    story("trouble::without_a_relay_the_person_is_told_where_to_look", async || {
        let mut machine = Machine::new("userdb", false).await;
        machine.relay.take().unwrap().stop().await;
        let mut login = machine.program("sshd", "gp-alex");
        login.begin(Phase::Authenticate);
        assert_eq!(login.verdict(), Verdict::Unavailable);
        assert!(login.said().contains("can't reach the relay"), "{}", login.said());
    });
}

#[test]
fn a_computer_that_is_not_enrolled_says_so_and_serves_once_it_is() {
    story("trouble::a_computer_that_is_not_enrolled_says_so_and_serves_once_it_is", async || {
        let mut machine = Machine::new("userdb", false).await;
        machine.kill();
        let identity = machine.at("state/identity");
        std::fs::rename(&identity, machine.at("kept")).unwrap();
        let mut agent = machine.agent_command().arg("run").spawn().unwrap();
        let socket = machine.at("pam.sock");
        machine.until("the socket is there", |_| UnixStream::connect(&socket).is_ok()).await;
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        assert_eq!(login.verdict(), Verdict::Unavailable);
        assert!(login.said().contains("not enrolled"), "{}", login.said());
        std::fs::rename(machine.at("kept"), &identity).unwrap();
        machine.until("the agent is connected", |machine| machine.status()["relay_online"] == true).await;
        agent.kill().unwrap();
        agent.wait().unwrap();
    });
}

#[test]
fn enrolment_refuses_what_would_not_work_and_says_why() {
    story("trouble::enrolment_refuses_what_would_not_work_and_says_why", async || {
        let mut machine = Machine::new("userdb", false).await;
        let url = "http://127.0.0.1:1";
        let phone_ticket = machine.tenant.ticket(Purpose::Phone, url).to_text();
        let other = gatepass_protocol::testing::Tenant::at(2, 1_000_000).ticket(Purpose::Agent, url).to_text();
        for (name, text, why) in [
            ("garbage", "GPT1:zzz", "not a Gatepass enrolment ticket"),
            ("phone", phone_ticket.as_str(), "is for phones"),
            ("expired", other.as_str(), "not any more"),
        ] {
            let file = machine.folder.path().join(name);
            write_private(&file, text);
            let output = machine.command(&["enrol", "--again", "--ticket-file", file.to_str().unwrap()]);
            assert!(!output.status.success());
            assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{name}: {output:?}");
        }
        let ticket = machine.at("agent.ticket");
        let again = machine.command(&["enrol", "--ticket-file", &ticket]);
        assert!(String::from_utf8_lossy(&again.stderr).contains("enrolled already"), "{again:?}");
        shell(&format!("chmod 644 {ticket}"));
        let open = machine.command(&["enrol", "--again", "--ticket-file", &ticket]);
        assert!(String::from_utf8_lossy(&open.stderr).contains("chmod 600"), "{open:?}");
    });
}

#[test]
fn strangers_and_garbage_at_the_socket_get_no_answer_and_hurt_nobody() {
    story("trouble::strangers_and_garbage_at_the_socket_get_no_answer_and_hurt_nobody", async || {
        let machine = Machine::new("userdb", false).await;
        shell(&format!("chmod 711 {}", machine.folder.path().display()));
        let socket = machine.at("pam.sock");
        // A user without rights may connect, and is hung up on.
        let stranger = format!(
            "setpriv --reuid nobody --clear-groups perl -MIO::Socket::UNIX -e '\
             my $s = IO::Socket::UNIX->new(Peer => \"{socket}\") or die \"connect: $!\"; print defined(getc($s)) ? \"answered\" : \"closed\"'"
        );
        assert_eq!(shell(&stranger), (0, "closed".into()));
        assert_ne!(shell(&format!("setpriv --reuid nobody --clear-groups cat < {}", machine.at("agent.sock"))).0, 0);
        let half = [0, 0, 1, 0, 0x81];
        for bytes in [&[0xff; 64][..], &[0, 0, 0, 0], &[0, 0, 0, 3, 1, 2, 3], &half] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{bytes:?}: {answer:?}");
        }
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        login.code();
    });
}

#[test]
fn no_secret_is_in_the_log_or_readable_by_others() {
    story("trouble::no_secret_is_in_the_log_or_readable_by_others", async || {
        let machine = Machine::new("userdb", true).await;
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        let code = login.code();
        let approval = machine.approve(&code, chosen(AccountKind::Named)).await;
        login.prompt();
        login.answer(&approval.digits);
        assert_eq!(login.verdict(), Verdict::Success);
        assert!(matches!(approval.outcome().await, Outcome::Granted { .. }));
        let identity = std::fs::read(machine.at("state/identity")).unwrap();
        type Keys = (
            u8,
            bytes::Bytes,
            bytes::Bytes,
            bytes::Bytes,
            bytes::Bytes,
            Vec<bytes::Bytes>,
            Vec<String>,
            String,
            Option<String>,
            bytes::Bytes,
        );
        let (_, _, _, sign, channel, .., otp) = gatepass_protocol::wire::from_slice::<Keys>(&identity).unwrap();
        let log = machine.log();
        assert!(log.contains("ready"), "{log}");
        for secret in [&sign[..], &channel[..], &otp[..]] {
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!log.contains(&hex));
        }
        assert!(!log.contains(&code) && !log.contains("GPT1:"));
        let readable = shell(&format!("find {} -perm /077", machine.at("state")));
        assert_eq!(readable.1, "", "everything in the state folder is root's alone");
        let pid = shell(&format!("pgrep -f 'gatepass-agent --config {}'", machine.at("agent.toml"))).1;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.trim().lines().next().unwrap())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    });
}

#[test]
fn a_full_disk_grants_nothing_and_still_ends_what_is_open() {
    story("trouble::a_full_disk_grants_nothing_and_still_ends_what_is_open", async || {
        let small = |state: &Path| {
            let mounted = shell(&format!("mount -t tmpfs -o size=256k,mode=700 tmpfs {}", state.display()));
            assert_eq!(mounted.0, 0, "{mounted:?}");
        };
        let mut machine = Machine::prepared("userdb", false, small).await;
        let fill = format!("dd if=/dev/zero of={}/filler bs=1k 2>/dev/null; true", machine.at("state"));

        let mut open = machine.program("login", "gp-alex");
        open.begin(Phase::Authenticate);
        let approval = machine.approve(&open.code(), chosen(AccountKind::Named)).await;
        assert_eq!(open.verdict(), Verdict::Success);
        let Outcome::Granted { grant, .. } = approval.outcome().await else { panic!("not granted") };
        assert_eq!(open.phase(Phase::OpenSession), Verdict::Success);

        shell(&fill);
        let mut login = machine.program("login", "gatepass");
        login.begin(Phase::Authenticate);
        let approval = machine.approve(&login.code(), chosen(AccountKind::Random)).await;
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("Free some space"), "{}", login.said());
        assert_eq!(approval.outcome().await, Outcome::Refused(Code::Account));
        assert!(is_in_adm("gp-alex"), "what is open goes on");

        machine.revoke(2, vec![Serial(grant.0)], true).await;
        machine.until("the grant is taken back", |_| !is_in_adm("gp-alex")).await;
        assert!(open.is_ended(), "and can be revoked");
        shell(&format!("rm {}/filler", machine.at("state")));
        machine.until("the end is written down", |machine| machine.grants() == 0).await;
        shell(&format!("umount -l {}", machine.at("state")));
    });
}

#[test]
fn a_grant_ends_with_its_time_to_the_second() {
    story("trouble::a_grant_ends_with_its_time_to_the_second", async || {
        let machine = Machine::new("userdb", false).await;
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        let minute = gatepass_protocol::pairing::phone::Chosen { minutes: 1, ..chosen(AccountKind::Named) };
        let approval = machine.approve(&login.code(), minute).await;
        assert_eq!(login.verdict(), Verdict::Success);
        let Outcome::Granted { until, .. } = approval.outcome().await else { panic!("not granted") };
        assert_eq!(login.phase(Phase::OpenSession), Verdict::Success);
        while gatepass_client::edge::now() < until - 1 {
            assert!(login.runs() && is_in_adm("gp-alex"));
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        machine.until("the grant is closed", |machine| machine.grants() == 0).await;
        assert!(gatepass_client::edge::now() <= until + 2);
        assert!(!login.runs() && !is_in_adm("gp-alex"));
    });
}

#[test]
fn a_code_that_a_stranger_claims_is_replaced() {
    story("trouble::a_code_that_a_stranger_claims_is_replaced", async || {
        let machine = Machine::new("userdb", false).await;
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        let first = login.code();
        // The relay knows the code's name at the relay, and nothing of its secret.
        let stranger = machine.connect();
        stranger.sender().online().await.unwrap();
        let rid = gatepass_protocol::pairing::phone::Scan::from_text(&first).unwrap().rid();
        stranger.sender().claim(rid, [1; 16], [2; 16]).await.unwrap();
        let second = login.code();
        assert_ne!(first, second);
        machine.approve(&second, chosen(AccountKind::Named)).await;
        assert_eq!(login.verdict(), Verdict::Success);
    });
}

#[test]
fn a_code_is_replaced_and_its_predecessor_is_good_for_a_little_longer() {
    story("trouble::a_code_is_replaced_and_its_predecessor_is_good_for_a_little_longer", async || {
        let machine = Machine::new("userdb", false).await;
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        let first = login.code();
        let mut other = machine.program("login", "gp-carol");
        other.begin(Phase::Authenticate);
        let seconds = std::time::Instant::now();
        let second = tokio::task::block_in_place(|| login.code_within(std::time::Duration::from_secs(50)));
        assert!((44..=46).contains(&seconds.elapsed().as_secs()), "{:?}", seconds.elapsed());
        assert_ne!(first, second);
        machine.approve(&first, chosen(AccountKind::Named)).await;
        assert_eq!(login.verdict(), Verdict::Success);
    });
}

#[test]
fn status_and_doctor_tell_a_person_what_there_is() {
    story("trouble::status_and_doctor_tell_a_person_what_there_is", async || {
        let mut machine = Machine::new("userdb", false).await;
        let status = String::from_utf8(machine.command(&["status"]).stdout).unwrap();
        assert!(status.contains("connected to 127.0.0.1") && status.contains("grants     none"), "{status}");
        let doctor = |machine: &Machine| String::from_utf8(machine.command(&["doctor"]).stdout).unwrap();
        let report = doctor(&machine);
        for expected in
            ["good    enrolment", "good    agent", "good    clock", "good    relay", "good    journal", "PROBLEM PAM"]
        {
            assert!(report.contains(expected), "{expected}:\n{report}");
        }
        machine.relay.take().unwrap().stop().await;
        machine.kill();
        let report = doctor(&machine);
        assert!(report.contains("PROBLEM relay") && report.contains("PROBLEM agent"), "{report}");
        assert_eq!(machine.command(&["doctor"]).status.code(), Some(1));
    });
}
