//! What breaks around a login: the relay goes away in the middle of it, the clock is set back.
#![allow(clippy::unwrap_used)]

use gatepass_e2e::{ALL_PHASES, Login, Plan, World, in_jail, until};

#[test]
fn a_relay_that_restarts_in_the_middle_of_a_login_costs_a_code_not_more() {
    in_jail(|| {
        let mut world = World::new(Plan::default());
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let phone = world.phone.asks_at_a_terminal(&login.code());
        phone.wait_for("Approve?");
        world.server.restart();
        world.computer.wait_for_agent();
        phone.type_line("a");
        phone.wait_for_end();
        assert!(!world.computer.has_open_account("gp-alex") && world.computer.has_no_grant());
        let said = login.finish().refused();
        assert!(said.contains("connection to the phone broke"), "{said}");
        // And with the next login all is well.
        world.logs_in(&[]);
    });
}

#[test]
fn a_grant_outlives_its_relay_and_ends_in_time() {
    in_jail(|| {
        let mut world = World::new(Plan::default());
        let (terminal, grant) = world.logs_in(&[]);
        world.server.kill();
        assert!(terminal.command("id").contains("gp-alex"));
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        assert!(login.finish().refused().contains("can't reach the relay"));
        terminal.type_line("exit");
        terminal.wait_for_end();
        until("the account to be closed", || (!world.computer.has_open_account("gp-alex")).then_some(()));
        // The proof and the trail arrive when the server is back.
        world.server.restart();
        world.computer.wait_for_agent();
        let ended =
            |trail: String| trail.lines().any(|line| line.contains(r#""event":"ended""#) && line.contains(&grant));
        until("the end in the trail", || ended(world.admin.audit()).then_some(()));
        assert!(world.phone.does(&["receipts"]).contains(&grant));
    });
}

#[test]
fn a_clock_that_is_set_back_prolongs_nothing_and_grants_nothing() {
    in_jail(|| {
        let mut world = World::new(Plan::default());
        Login::hold();
        let login = world.computer.pam("gp-alex", ALL_PHASES);
        let begun = std::time::Instant::now();
        world.phone.approve_with(&login.code(), &["--minutes", "1"]).granted();
        until("a session", || world.computer.status().contains(r#""sessions": 1"#).then_some(()));
        world.computer.agent().kill();
        world.computer.spawn_agent_at("-2h");
        let status = until("the agent", || {
            Some(world.computer.status()).filter(|status| status.contains("the clock was set back"))
        });
        // By the wall clock there are two hours and a minute left. The minute counts, wherever it is measured.
        if status.contains(r#""grant":"#) {
            until("the grant to end with its minute", || world.computer.has_no_grant().then_some(()));
            assert!(begun.elapsed().as_secs() < 120, "it was prolonged");
        }
        assert!(!world.computer.has_open_account("gp-alex"));
        drop(login);

        // And nothing new is granted before somebody has looked.
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let scan = until("a code or a refusal", || {
            if login.said().contains("GP1:") {
                return Some(Some(world.phone.approve(&login.code())));
            }
            login.said().contains("clock").then_some(None)
        });
        let said = login.finish().refused();
        assert!(world.computer.has_no_grant() && !world.computer.has_open_account("gp-alex"), "{said}");
        drop(scan);
        // The clock is right again.
        world.computer.agent().kill();
        world.computer.start_agent();
        Login::release();
        world.logs_in(&[]);
    });
}
