//! A grant ends by logout, by time, from the phone, by the administrator; and then nothing of it is left.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use gatepass_e2e::{Plan, Terminal, World, in_jail, run, until};

/// Leaves programs behind that try to outlive the session: as the account, and as root by sudo.
fn leave_programs_behind(world: &World, terminal: &Terminal) {
    terminal.type_line("setsid nohup sleep 1111 >/dev/null 2>&1 &");
    terminal.type_line("clear; sudo sh -c 'setsid nohup sleep 2222 >/dev/null 2>&1 &'; echo left-behind");
    world.phone.approve(&terminal.read_qr()).granted();
    terminal.wait_for("left-behind\n");
    until("programs that stay behind", || (running("sleep 1111") && running("sleep 2222")).then_some(()));
}

fn running(command: &str) -> bool {
    run(Command::new("pgrep").args(["-f", "-x", command])).status.success()
}

/// Nothing is left, and the receipt says why it ended.
fn is_over(world: &World, grant: &str, why: &str) {
    until("the account to be closed", || (!world.computer.has_open_account("gp-alex")).then_some(()));
    until("its programs to be gone", || (!running("sleep 1111") && !running("sleep 2222")).then_some(()));
    let receipt = until("the receipt", || {
        let receipts = world.phone.does(&["receipts"]);
        receipts.split("Receipt ").find(|receipt| receipt.starts_with(grant)).map(str::to_owned)
    });
    assert!(receipt.contains(&format!("ended      {why}")), "{receipt}");
    assert!(receipt.contains("signature  holds") && !receipt.contains("NO"), "{receipt}");
    let ended = |trail: &str| {
        trail.lines().any(|line| line.contains(r#""event":"ended""#) && line.contains(grant) && line.contains(why))
    };
    until("the end in the trail", || ended(&world.admin.audit()).then_some(()));
}

#[test]
fn logging_out_ends_the_grant_and_all_that_was_left_behind() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, grant) = world.logs_in(&[]);
        leave_programs_behind(&world, &terminal);
        terminal.type_line("exit");
        terminal.wait_for_end();
        is_over(&world, &grant, "logged out");
    });
}

#[test]
fn the_technician_ends_it_from_the_phone() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, grant) = world.logs_in(&[]);
        let said = world.phone.does(&["end", &grant[..8]]);
        assert!(said.contains("Ended") && said.contains("signature  holds"), "{said}");
        let shown = terminal.wait_for_end();
        assert!(shown.contains("Gatepass: the grant of gp-alex is over: ended from the phone."), "{shown}");
        is_over(&world, &grant, "ended from the phone");
    });
}

#[test]
fn the_administrator_revokes_the_grant() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, grant) = world.logs_in(&[]);
        world.admin.signs(&["revoke", "grant", &grant]);
        let shown = terminal.wait_for_end();
        assert!(shown.contains("revoked by an administrator"), "{shown}");
        is_over(&world, &grant, "revoked by an administrator");
        // The technician is still trusted: another grant is possible.
        world.logs_in(&[]);
    });
}

#[test]
fn the_administrator_revokes_the_technician_and_all_grants_end() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, _) = world.logs_in(&[]);
        world.admin.signs(&["revoke", "technician", "alex"]);
        let shown = terminal.wait_for_end();
        assert!(shown.contains("revoked by an administrator"), "{shown}");
        until("the account to be closed", || (!world.computer.has_open_account("gp-alex")).then_some(()));
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let said = world.phone.approve(&login.code()).finish().refused();
        assert!(said.contains("revoked"), "{said}");
        assert!(world.computer.has_no_grant());
    });
}

#[test]
fn the_administrator_revokes_the_computer_and_all_its_grants_end() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, _) = world.logs_in(&[]);
        world.admin.signs(&["revoke", "computer", "web-01"]);
        let shown = terminal.wait_for_end();
        assert!(shown.contains("revoked by an administrator"), "{shown}");
        until("the account to be closed", || (!world.computer.has_open_account("gp-alex")).then_some(()));
    });
}

#[test]
fn root_ends_it_at_the_computer() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, grant) = world.logs_in(&[]);
        world.computer.does(&["end", &grant[..8]]);
        terminal.wait_for_end();
        is_over(&world, &grant, "ended on the computer");
    });
}

#[test]
fn time_ends_it_after_a_warning_and_the_command_as_root_with_it() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let (terminal, grant) = world.logs_in(&["--minutes", "2"]);
        terminal.type_line("clear; sudo sleep 2222");
        let command = world.phone.approve_with(&terminal.read_qr(), &["--minutes", "1"]).granted();
        until("the command", || running("sleep 2222").then_some(()));
        // A minute each: the command's and the warning's, then the login's.
        terminal.wait_for("Gatepass: gp-alex ends in 1 minute");
        until("the command to be ended", || (!running("sleep 2222")).then_some(()));
        let shown = terminal.wait_for_end();
        assert!(shown.contains("Gatepass: the time of gp-alex is over."), "{shown}");
        is_over(&world, &grant, "time over");
        let receipts = world.phone.does(&["receipts"]);
        assert!(
            receipts.split("Receipt ").any(|receipt| receipt.starts_with(&command) && receipt.contains("time over")),
            "{receipts}"
        );
    });
}
