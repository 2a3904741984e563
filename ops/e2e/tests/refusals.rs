//! No way in, and a sentence that says why.
#![allow(clippy::unwrap_used)]

use gatepass_e2e::{Plan, World, in_jail, until};

#[test]
fn who_is_denied_on_the_phone_reads_so_at_the_computer() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let terminal = world.computer.ssh("gp-alex");
        let code = terminal.read_qr();
        world.phone.deny(&code).finish().ok();
        terminal.enter_until(&["Denied on the phone. Try again if that was a slip."]);
        // ssh itself asks three times.
        terminal.enter();
        world.phone.not_me(&terminal.read_qr()).finish().ok();
        terminal.enter_until(&["as somebody else's request."]);
        assert!(!world.computer.has_open_account("gp-alex") && world.computer.has_no_grant());
    });
}

#[test]
fn not_me_is_said_at_the_computer_and_stands_in_the_trail() {
    in_jail(|| {
        let world = World::new(Plan::default());
        let terminal = world.computer.login("gp-alex");
        world.phone.not_me(&terminal.read_qr()).finish().ok();
        terminal.wait_for("Denied on the phone as somebody else's request.");
        let event = until("an event in the trail", || {
            world.admin.audit().lines().find(|line| line.contains(r#""event":"not-me""#)).map(str::to_owned)
        });
        assert!(event.contains(r#""technician_name":"alex""#), "{event}");
        assert!(!world.computer.has_open_account("gp-alex") && world.computer.has_no_grant());
    });
}

#[test]
fn wrong_digits_are_refused_at_both_ends() {
    in_jail(|| {
        let world = World::new(Plan { confirm_code: true, ..Plan::default() });
        let terminal = world.computer.ssh("gp-alex");
        let mut scan = world.phone.approve(&terminal.read_qr());
        let digits: u32 = scan.confirm_code().parse().unwrap();
        terminal.enter_until(&["Type the 3 digits"]);
        terminal.type_line(&format!("{:03}", (digits + 1) % 1000));
        terminal.wait_for("These are not the digits that the phone shows.");
        let said = scan.finish().refused();
        assert!(said.contains("The code typed at the computer is not the one on the phone."), "{said}");
        assert!(!world.computer.has_open_account("gp-alex") && world.computer.has_no_grant());
    });
}

#[test]
fn what_the_policy_does_not_offer_is_refused_before_anything_is_approved() {
    in_jail(|| {
        let world = World::new(Plan::default());
        for choice in [&["--group", "root"][..], &["--minutes", "61"], &["--account", "shared"]] {
            let login = world.computer.pam("gp-alex", &["authenticate"]);
            let said = world.phone.approve_with(&login.code(), choice).finish().refused();
            assert!(said.contains("nothing was approved") && said.contains("policy"), "{choice:?}: {said}");
            login.finish().refused();
        }
        // Somebody else's account.
        let login = world.computer.pam("gp-kim", &["authenticate"]);
        let said = world.phone.approve(&login.code()).finish().refused();
        assert!(said.contains("policy does not allow"), "{said}");
        assert!(login.finish().refused().contains("Log in as gp-alex"));
        assert!(world.computer.has_no_grant());
    });
}
