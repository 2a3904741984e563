//! The relay is away, and a technician gets in all the same: with a code that the phone shows and the computer checks by itself.
#![allow(clippy::unwrap_used)]

use gatepass_e2e::{Plan, Terminal, World, in_jail, policy, until};

/// The stories' policy, with offline codes.
fn with_codes() -> String {
    let offline =
        "[offline]\nmax_age_hours = 24\nmax_minutes = 20\nscenarios = [\"ssh\", \"elevation\"]\ngroups = [\"adm\"]\n";
    policy(false).replacen("[[rule]]", &format!("{offline}\n[[rule]]"), 1)
}

/// A world in which offline codes are allowed, and everybody knows it.
fn prepared() -> World {
    let world = World::new(Plan::default());
    world.admin.sets_policy(&with_codes());
    world.phone.does(&["status"]);
    until("the computer to know the policy and the phone", || {
        world.computer.status().contains("1 phones known, control plane heard").then_some(())
    });
    world
}

/// The code for what a terminal shows, by the phone's camera.
fn scanned(world: &World, terminal: &Terminal) -> String {
    let picture = terminal.photograph();
    code_in(&world.phone.does(&["code", picture.to_str().unwrap(), "--pin-file", &pin(world)]))
}

fn pin(world: &World) -> String {
    world.phone.pin_file().to_str().unwrap().to_owned()
}

fn code_in(said: &str) -> String {
    let line = said.lines().find_map(|line| line.strip_prefix("Code: "));
    line.unwrap_or_else(|| panic!("no code in:\n{said}")).to_owned()
}

/// The challenge that a terminal shows, as a person would type it.
fn challenge(shown: &str) -> String {
    let rest = shown.rsplit_once("or type ").unwrap().1;
    rest.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn with_the_relay_away_a_code_gives_a_shell_and_the_trail_hears_of_it_when_the_relay_is_back() {
    in_jail(|| {
        let mut world = prepared();
        world.server.kill();
        let terminal = world.computer.ssh("gp-alex");
        terminal.wait_for("The code:");
        assert!(!world.computer.has_open_account("gp-alex"));
        let code = scanned(&world, &terminal);
        terminal.type_line("0000 0000");
        terminal.wait_for("That is not the code; 2 tries are left");
        terminal.type_line(&code);
        terminal.wait_for("gp-alex@web-01");
        let id = terminal.command("id");
        assert!(id.contains("(gp-alex)") && id.contains("(adm)"), "{id}");
        assert!(!id.contains("sudo"), "a group that codes don't give: {id}");

        // The same code, once more: it answers another challenge.
        let again = world.computer.ssh("gp-alex");
        again.wait_for("The code:");
        again.type_line(&code);
        again.wait_for("That is not the code");
        again.press("C-c");

        terminal.type_line("exit");
        terminal.wait_for_end();
        until("the account to be closed", || (!world.computer.has_open_account("gp-alex")).then_some(()));
        world.server.restart();
        world.computer.wait_for_agent();
        let has =
            |trail: &str, words: [&str; 2]| trail.lines().any(|line| words.iter().all(|word| line.contains(word)));
        until("grant and end in the trail", || {
            let trail = world.admin.audit();
            let granted = has(&trail, [r#""event":"granted""#, "by offline code"]);
            (granted && has(&trail, [r#""event":"ended""#, "logged out"])).then_some(())
        });
        // And the QR codes are back.
        world.logs_in(&[]);
    });
}

#[test]
fn sudo_takes_a_code_too_and_the_challenge_can_be_typed_into_the_phone() {
    in_jail(|| {
        let mut world = prepared();
        world.computer.add_user("tess");
        world.server.kill();
        let terminal = world.computer.shell("tess");
        terminal.type_line("clear; sudo id -un; echo it-ended");
        terminal.wait_for("Your name as a technician");
        terminal.type_line("alex");
        let shown = terminal.wait_for("The code:");
        let typed = challenge(&shown);
        let ask = |challenge: &str, account: &str| {
            let pin = pin(&world);
            let asks =
                ["code", "--computer", "web-01", "--challenge", challenge, "--account", account, "--pin-file", &pin];
            world.phone.tries(&asks)
        };
        let slip = typed.replacen(&typed[..1], if typed.starts_with('F') { "G" } else { "F" }, 1);
        assert!(ask(&slip, "tess").refused().contains("not a challenge of that computer"));
        let of_another = code_in(&ask(&typed, "carol").ok());
        terminal.type_line(&of_another);
        terminal.wait_for("That is not the code");
        terminal.type_line(&code_in(&ask(&typed.to_lowercase(), "tess").ok()));
        terminal.wait_for("\nroot\nit-ended\n");
    });
}

#[test]
fn a_revoked_phone_shows_codes_that_nobody_takes() {
    in_jail(|| {
        let mut world = prepared();
        world.admin.signs(&["revoke", "technician", "alex"]);
        until("the revocation at the computer", || world.computer.status().contains("0 phones known").then_some(()));
        world.server.kill();
        let terminal = world.computer.ssh("gp-alex");
        terminal.wait_for("The code:");
        // The phone has not heard of it.
        let code = scanned(&world, &terminal);
        for asked in ["or type", "2 tries are left. The code:", "1 try is left. The code:"] {
            terminal.wait_for(asked);
            terminal.type_line(&code);
        }
        terminal.wait_for("No right offline code was typed");
        assert!(!world.computer.has_open_account("gp-alex") && world.computer.has_no_grant());
    });
}

#[test]
fn a_computer_that_heard_nothing_for_too_long_or_whose_clock_was_set_back_takes_no_code() {
    in_jail(|| {
        let mut world = prepared();
        world.server.kill();
        for (offset, why) in [("+2d", "no news for over 24 h"), ("-2h", "the clock was set back")] {
            world.computer.agent().kill();
            world.computer.spawn_agent_at(offset);
            until("the agent", || world.computer.status().contains("\"grants\"").then_some(()));
            let terminal = world.computer.ssh("gp-alex");
            let shown = terminal.wait_for_any(&["Press Enter to go on", "The code:"]);
            assert!(shown.replace('\n', " ").contains(why), "{shown}");
            terminal.press("C-c");
        }
    });
}
