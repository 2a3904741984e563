//! `kill -9` of the agent at every point of a grant, for both providers and both kinds of account. Whatever the moment: within a
//! second of its restart no account is open without a live grant, and nothing of the login is left when the session is over.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use gatepass_agent_core::fault::Point;
use gatepass_e2e::{ALL_PHASES, Login, Plan, Provider, World, in_jail, run, until, within};

/// What the issue promises.
const SWEPT_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn killed_at_any_point_no_account_stays_open_without_a_grant() {
    in_jail(|| at_every_point(Provider::Userdb, "named"));
}

#[test]
fn nor_does_one_that_is_made_for_once() {
    in_jail(|| at_every_point(Provider::Userdb, "random"));
}

#[test]
fn nor_does_a_standing_account() {
    in_jail(|| at_every_point(Provider::Standing, "named"));
}

#[test]
fn nor_does_a_standing_one_that_is_made_for_once() {
    in_jail(|| at_every_point(Provider::Standing, "random"));
}

fn at_every_point(provider: Provider, kind: &str) {
    let mut world = World::new(Plan { provider, ..Plan::default() });
    let mut killed = 0;
    for point in Point::all() {
        killed += u32::from(killed_at(&mut world, kind, point));
    }
    // All but those of a removal, where the account stays.
    let unreached = if kind == "named" { 2 } else { 0 };
    assert_eq!(killed, Point::all().count() as u32 - unreached, "points at which the agent was killed");

    // As many grants as approvals, and each of them over.
    let trail = world.admin.audit();
    let granted = |line: &&str| line.contains(r#""event":"granted""#);
    let mut approvals: Vec<&str> =
        trail.lines().filter(granted).filter_map(|line| line.split("\"evidence\":").nth(1)).collect();
    let all = approvals.len();
    approvals.sort();
    approvals.dedup();
    assert_eq!(approvals.len(), all, "two grants for one approval:\n{trail}");
}

/// One login, with the agent killed at `point`; whether it was.
fn killed_at(world: &mut World, kind: &str, point: Point) -> bool {
    world.computer.agent().kill();
    world.computer.start_agent_killed_at(&point.to_string());
    Login::hold();
    let mut login = world.computer.pam("gatepass", ALL_PHASES);
    let scan = world.phone.approve_with(&login.code(), &["--account", kind, "--group", "adm"]);
    // Either it dies on the way in, or the session is open now and it dies on the way out.
    until("a crash or a session", || {
        (world.computer.agent().has_ended() || login.said().contains("Approved.")).then_some(())
    });
    Login::release();
    until("a crash or the end", || {
        let over = login.has_ended() && world.computer.has_no_grant();
        (world.computer.agent().has_ended() || over).then_some(())
    });
    let killed = world.computer.agent().has_ended();
    let accounts = accounts();
    if killed {
        let restarted = Instant::now();
        world.computer.spawn_agent();
        let swept = within(SWEPT_WITHIN, || {
            let open: Vec<&String> = accounts.iter().filter(|name| world.computer.has_open_account(name)).collect();
            let live = if open.is_empty() { String::new() } else { world.computer.status() };
            open.iter().all(|name| live.contains(name.as_str())).then_some(())
        });
        assert!(
            swept.is_some(),
            "killed at {point}: after {:?} one of {accounts:?} is open without a grant",
            restarted.elapsed()
        );
        world.computer.wait_for_agent();
    }
    drop((scan, login));
    // The session is over now, in whatever way: nothing may be left.
    for name in &accounts {
        until(&format!("{name} to be closed and in no group, killed at {point}"), || {
            let in_group = run(Command::new("id").arg(name)).out.contains("(adm)");
            (!in_group && !world.computer.has_open_account(name)).then_some(())
        });
    }
    until("every grant to be over", || world.computer.has_no_grant().then_some(()));
    killed
}

/// Every account that looks like one of Gatepass.
fn accounts() -> Vec<String> {
    let passwd = run(Command::new("getent").arg("passwd")).out;
    let names = passwd.lines().filter_map(|line| line.split(':').next());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("alex_")).map(str::to_owned).collect();
    names.push("gp-alex".to_owned());
    names
}
