//! A technician gets in: by ssh, login, sudo and su, scanning what the terminal shows.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use gatepass_e2e::{Plan, Provider, World, in_jail, run, until};

#[test]
fn a_technician_scans_what_ssh_shows_and_gets_a_shell() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, grant) = world.logs_in(&["--group", "adm", "--minutes", "7"]);
        let id = terminal.command("id");
        assert!(id.contains("uid=7") && id.contains("(gp-alex)") && id.contains("(adm)"), "{id}");
        assert!(!id.contains("sudo"), "a group that was not chosen: {id}");
        assert_eq!(terminal.command("pwd; touch here; ls").trim(), "/home/gp-alex\nhere");
        let grants = world.phone.does(&["grants"]);
        assert!(grants.contains(&grant) && grants.contains("1 session"), "{grants}");
    });
}

#[test]
fn without_libnss_systemd_a_standing_account_is_opened_for_the_grant() {
    in_jail(|| {
        let world = World::new(Plan { provider: Provider::Standing, ..Plan::default() });
        // The account has to stand before sshd will ask for it. The first login at the machine makes it.
        let terminal = world.computer.login("gatepass");
        let scan = world.phone.approve_with(&terminal.read_qr(), &["--account", "named"]);
        scan.granted();
        terminal.wait_for("gp-alex@web-01");
        terminal.type_line("exit");
        until("the grant to end", || world.phone.does(&["receipts"]).contains("signature  holds").then_some(()));
        assert!(!world.computer.has_open_account("gp-alex"));
        assert!(run(Command::new("getent").args(["passwd", "gp-alex"])).status.success(), "it stands, closed");

        let (terminal, _) = world.logs_in(&["--group", "sudo"]);
        let id = terminal.command("id");
        assert!(id.contains("(gp-alex)") && id.contains("(sudo)"), "{id}");
        assert!(world.computer.has_open_account("gp-alex"));
        terminal.type_line("exit");
        terminal.wait_for_end();
        until("the account to be closed", || (!world.computer.has_open_account("gp-alex")).then_some(()));
        let in_sudo = || run(Command::new("id").arg("gp-alex")).out.contains("sudo");
        until("it to be in no group", || (!in_sudo()).then_some(()));
    });
}

#[test]
fn at_the_console_the_technician_chooses_an_account_that_is_made_for_once() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let terminal = world.computer.login("gatepass");
        let said = world.phone.approve_with(&terminal.read_qr(), &["--account", "random"]).finish().ok();
        let account = said.split("Granted: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
        assert!(account.starts_with("alex_") && account.len() == 17, "{account}");
        terminal.wait_for(&format!("{account}@web-01"));
        assert_eq!(terminal.command("id -un").trim(), account);
        assert!(world.computer.has_open_account(&account));
        terminal.type_line("exit");
        terminal.wait_for_end();
        until("the account to be gone", || (!world.computer.has_open_account(&account)).then_some(()));
        until("its home directory to be gone", || {
            (!std::fs::exists(format!("/home/{account}")).unwrap()).then_some(())
        });
    });
}

#[test]
fn sudo_shows_the_phone_exactly_what_will_run_and_who_asks() {
    in_jail(|| {
        let world = World::new(Plan { confirm_code: true, ..Plan::default() });
        world.computer.add_user("tess");
        let terminal = world.computer.shell("tess");
        terminal.type_line("sudo sh -c 'id -u; echo \"$0 $SUDO_USER\"' 'two words'");
        let mut scan = world.phone.approve(&terminal.read_qr());
        let digits = scan.confirm_code();
        terminal.wait_for("Type the 3 digits");
        terminal.type_line(&digits);
        let said = scan.finish().ok();
        assert!(said.contains(r#"Command     sudo sh -c 'id -u; echo "$0 $SUDO_USER"' 'two words'"#), "{said}");
        assert!(said.contains("User        tess") && said.contains("to become root"), "{said}");
        terminal.wait_for("0\ntwo words tess");

        // The next command is asked for again.
        terminal.type_line("clear; sudo -u nobody id -un");
        let said = world.phone.deny(&terminal.read_qr()).finish().ok();
        assert!(said.contains("to become nobody"), "{said}");
        terminal.wait_for("Denied on the phone.");
    });
}

#[test]
fn su_makes_a_user_root_after_an_approval() {
    in_jail(|| {
        let world = World::new(Plan::default());
        world.computer.add_user("tess");
        let terminal = world.computer.shell("tess");
        terminal.type_line("su -c 'id -un; whoami'");
        let said = world.phone.approve(&terminal.read_qr()).finish().ok();
        assert!(said.contains("su -c 'id -un; whoami'") && said.contains("tess"), "{said}");
        terminal.wait_for("root\nroot");
    });
}

#[test]
fn the_longest_command_with_the_longest_reason_is_in_the_trail() {
    in_jail(|| {
        let world = World::new(Plan::default());
        world.computer.add_user("tess");
        let terminal = world.computer.shell("tess");
        terminal.type_line(r"clear; sudo true $(head -c 1200 /dev/zero | tr '\0' '\1'); echo it-ran");
        let scan = world.phone.approve_with(&terminal.read_qr(), &["--reason", &"because ".repeat(500)]);
        let grant = scan.granted();
        terminal.wait_for("it-ran\n");
        let granted = |trail: &str| {
            trail
                .lines()
                .any(|line| line.contains(r#""event":"granted""#) && line.contains(&grant) && line.contains("because"))
        };
        until("the grant in the trail", || granted(&world.admin.audit()).then_some(()));
    });
}

#[test]
fn a_command_in_another_users_rights_leaves_nothing_behind() {
    in_jail(|| {
        let world = World::new(Plan::default());
        world.computer.add_user("tess");
        world.computer.add_user("carol");
        let terminal = world.computer.shell("tess");
        // Not what was killed and waits for process 1 to notice.
        let runs = || run(Command::new("pgrep").args(["-r", "R,S,D,T", "-u", "carol", "-x", "sleep"])).status.success();
        // By itself, and ended from the phone while something else of it still runs.
        for (n, ends_by_itself) in [true, false].into_iter().enumerate() {
            let rest = if ends_by_itself { "" } else { "; cat" };
            terminal.type_line(&format!(
                "cd /; clear; sudo -u carol sh -c 'setsid nohup sleep 3333 >/dev/null 2>&1 & sleep 1{rest}'; echo it-ended-{n}"
            ));
            let grant = world.phone.approve(&terminal.read_qr()).granted();
            until("the program that stays behind", || runs().then_some(()));
            if !ends_by_itself {
                world.phone.does(&["end", &grant[..8]]);
            }
            terminal.wait_for(&format!("it-ended-{n}\n"));
            until("the grant to end", || world.phone.does(&["receipts"]).contains(&grant).then_some(()));
            assert!(!runs(), "it outlived its grant");
        }
    });
}

#[test]
fn who_kills_the_su_above_a_session_gains_no_time() {
    in_jail(|| {
        let world = World::new(Plan::default());
        world.computer.add_user("tess");
        world.computer.add_user("carol");
        let terminal = world.computer.shell("tess");
        terminal.type_line("cd /; clear; su carol -c 'sleep 3333'");
        let grant = world.phone.approve(&terminal.read_qr()).granted();
        let runs = || run(Command::new("pgrep").args(["-r", "R,S,D,T", "-u", "carol", "-x", "sleep"])).status.success();
        until("the session", || runs().then_some(()));
        // The real user of su is who called it, so that one may.
        run(Command::new("setpriv").args(["--reuid", "tess", "--clear-groups", "pkill", "-KILL", "-x", "su"])).ok();
        until("the grant to end", || world.phone.does(&["receipts"]).contains(&grant).then_some(()));
        assert!(!runs(), "it outlived its grant");
    });
}
