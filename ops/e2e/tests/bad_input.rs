//! What villains, accidents and typing errors put in: refused with a sentence, and nothing granted.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use gatepass_e2e::{Plan, World, in_jail, run, until};

#[test]
fn a_phone_takes_no_code_that_is_not_its_tenants_own() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let stranger = world.other_tenant("Beta");
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let code = login.code();
        let said = stranger.approve(&code).finish().refused();
        assert!(said.contains("another organisation"), "{said}");

        let mut damaged = code.clone().into_bytes();
        damaged[20] = if damaged[20] == b'0' { b'1' } else { b'0' };
        let damaged = String::from_utf8(damaged).unwrap();
        for (garbage, why) in [
            ("https://example.com/login", "not one of gatepass"),
            ("GP1:", "damaged"),
            ("GP1:QED8", "damaged"),
            ("GP1:gibberish \u{1b}[2J", "damaged"),
            (&"GP1:A".repeat(1000), "damaged"),
            (&damaged, ""),
        ] {
            let said = world.phone.approve(garbage).finish().refused();
            assert!(said.to_lowercase().contains(why) && !said.contains('\u{1b}'), "{garbage:.40}: {said}");
        }
        let nothing = world.folder().join("nothing.png");
        fs::write(&nothing, b"\x89PNG\r\n\x1a\nno picture").unwrap();
        assert!(world.phone.scan_picture(&nothing, &["--approve"]).finish().refused().contains("not a PNG picture"));
        // None of this has burnt the code.
        world.phone.approve(&code).granted();
    });
}

#[test]
fn a_phone_whose_certificate_has_expired_or_was_revoked_approves_nothing() {
    in_jail(|| {
        let mut world = World::new(Plan::default());
        // By the computer's clock the phone's day is over; the phone itself lives in the past.
        let old = world.another_phone("alex", "Old phone", &["--days", "1"]);
        world.computer.agent().kill();
        world.computer.spawn_agent_at("+36h");
        world.computer.wait_for_agent();
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let said = old.approve(&login.code()).finish().refused();
        assert!(said.contains("not valid"), "{said}");
        login.finish().refused();

        world.computer.agent().kill();
        world.computer.start_agent();
        let status = world.phone.does(&["status"]);
        let device = status.split('(').nth(1).and_then(|rest| rest.split(')').next()).unwrap();
        world.admin.signs(&["revoke", "device", device]);
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let said = world.phone.approve(&login.code()).finish().refused();
        assert!(said.contains("revoked"), "{said}");
        assert!(world.computer.has_no_grant());
    });
}

#[test]
fn a_server_from_an_old_backup_takes_no_policy_back() {
    in_jail(|| {
        let mut world = World::new(Plan::default());
        let (database, backup) = (world.folder().join("server/state"), world.folder().join("backup"));
        world.server.kill();
        run(Command::new("cp").arg("-a").arg(&database).arg(&backup)).ok();
        world.server.restart();
        world.computer.wait_for_agent();
        world.admin.sets_policy("default_minutes = 5\nsoftware_keys = false\n");
        until("the new policy", || world.computer.status().contains(r#""policy_epoch": 2"#).then_some(()));

        world.server.kill();
        fs::remove_dir_all(&database).unwrap();
        fs::rename(&backup, &database).unwrap();
        world.server.restart();
        world.computer.agent().kill();
        world.computer.start_agent();
        assert!(world.computer.status().contains(r#""policy_epoch": 2"#), "{}", world.computer.status());
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let said = world.phone.approve(&login.code()).finish().refused();
        assert!(said.contains("policy"), "{said}");
        assert!(world.computer.has_no_grant());
        // Nor does the administrator sign anything on top of it.
        let said = world.admin.tries_to_sign(&["revoke", "refresh"]).refused();
        assert!(said.contains("old backup"), "{said}");
    });
}

#[test]
fn a_local_account_is_never_taken_over() {
    in_jail(|| {
        let mut world = World::new(Plan::default());
        // Made while the agent was away, which keeps these names for itself.
        world.computer.agent().kill();
        world.computer.add_user("gp-alex");
        world.computer.start_agent();
        let before =
            run(Command::new("getent").args(["shadow", "gp-alex"])).ok() + &fs::read_to_string("/etc/passwd").unwrap();
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let said = world.phone.approve(&login.code()).finish().refused();
        assert!(said.contains("account could not be made ready"), "{said}");
        let said = login.finish().refused();
        assert!(said.contains("already taken on this computer"), "{said}");
        let after =
            run(Command::new("getent").args(["shadow", "gp-alex"])).ok() + &fs::read_to_string("/etc/passwd").unwrap();
        assert_eq!(before, after);
    });
}

#[test]
fn names_with_shell_path_or_terminal_characters_do_nothing() {
    in_jail(|| {
        let world = World::new(Plan::default());
        for name in
            ["gp-$(touch /run/owned)", "gp-../../etc/passwd", "gp-a;touch /run/owned", "gp-\u{1b}[2J", "gp-äöü", "gp- "]
        {
            let said = world.computer.pam(name, &["authenticate"]).finish().refused();
            assert!(!said.contains('\u{1b}') && !said.contains("GP1:"), "{name:?}: {said}");
        }
        let mut not_utf8 = Command::new("pamtester");
        not_utf8
            .arg("gatepass-test")
            .arg(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"gp-\xff\xfe"));
        assert!(!run(not_utf8.arg("authenticate")).status.success());
        assert!(!fs::exists("/run/owned").unwrap());

        for name in ["../../etc", "al ex\n", "$(id)", "a:b", ""] {
            world.admin.tries_to_sign(&["technician", "add", name]).refused();
        }
        world.logs_in(&[]);
    });
}

#[test]
fn nobody_but_root_is_answered_at_the_socket_and_garbage_hurts_nobody() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let socket = "/run/gatepass/pam.sock";
        let ask = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                   s.settimeout(5)\nprint(len(s.recv(100)))";
        let mut stranger = Command::new("setpriv");
        stranger.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "python3", "-c", ask]);
        let answered = run(stranger.arg(socket));
        assert!(!answered.status.success() || answered.out.trim() == "0", "{}", answered.said());
        for garbage in
            [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x04", b"\0\0\0\x02\xc1\xc1", &[0; 100], b"GET / HTTP/1.1\r\n\r\n"]
        {
            let mut root = UnixStream::connect(socket).unwrap();
            root.write_all(garbage).unwrap();
            root.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            let _ = root.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{garbage:?} was answered");
        }
        // One that says half of something and stays, and the rest goes on.
        let mut half = UnixStream::connect(socket).unwrap();
        half.write_all(b"\0\0\x01").unwrap();
        world.logs_in(&[]);
    });
}

#[test]
fn a_ticket_is_good_for_what_it_says_and_no_longer() {
    in_jail(|| {
        let world = World::new(Plan::default());
        // One for a computer enrols no phone; one that was used is used.
        let phone = world.new_phone("Second phone");
        assert!(phone.asks(&world.admin.ticket("agent", &[]), "Second phone").refused().contains("for computers"));
        let ticket = world.admin.ticket("phone", &[]);
        phone.asks(&ticket, "Second phone").ok();
        let third = world.new_phone("Third phone");
        let said = third.asks(&ticket, "Third phone").refused();
        assert!(said.contains("ticket"), "{said}");
        // A file that others can read is no secret.
        let shared = world.admin.ticket("phone", &[]);
        run(Command::new("chmod").arg("644").arg(&shared)).ok();
        assert!(third.asks(&shared, "Third phone").refused().contains("chmod 600"));
    });
}
