//! `kill -9` of the real agent at every point of a grant, with both kinds of account: within a second of its restart nothing is
//! open without a live grant. Built with the feature `fault`: `cargo nextest run -p gatepass-agent --features fault`.

use std::time::{Duration, Instant};

use gatepass_agent_core::fault::Point;
use gatepass_logon::wire::{Phase, Verdict};
use gatepass_protocol::policy::AccountKind;

use crate::machine::{Machine, chosen};
use crate::{is_in_adm, story};

/// Whether somebody could log in: the account's expiry, in days, lies ahead.
fn is_open(account: &str) -> bool {
    let (code, shadow) = crate::shell(&format!("getent shadow {account}"));
    let today = gatepass_client::edge::now() / 86_400;
    let expires = shadow.trim().split(':').nth(7).map(str::parse::<u64>);
    code == 0 && expires.is_some_and(|day| day.map_or(true, |day| day > today))
}

/// A login and its end, with an agent that dies at `point`; says whether it came there.
async fn live_and_die(machine: &mut Machine, point: Point) -> bool {
    machine.start(&["--fault", &point.to_string()]).await;
    let mut login = machine.program("login", "gp-alex");
    login.begin(Phase::Authenticate);
    let code = login.code();
    let approval = machine.try_to_approve(&code, chosen(AccountKind::Named)).await;
    if approval.is_ok()
        && login.try_verdict() == Some(Verdict::Success)
        && login.try_phase(Phase::OpenSession).is_some()
    {
        login.try_phase(Phase::CloseSession);
    }
    machine.died_within(Duration::from_secs(2)).await
}

async fn every_point(provider: &str) {
    let mut machine = Machine::new(provider, false).await;
    machine.kill();
    let mut reached = 0;
    for point in Point::all() {
        let died = live_and_die(&mut machine, point).await;
        if !died {
            machine.kill();
        }
        reached += usize::from(died);
        let since = Instant::now();
        machine.spawn(&[]);
        machine.until("the account is closed", |_| !is_open("gp-alex")).await;
        let took = since.elapsed();
        assert!(took < Duration::from_secs(1), "{provider}, {point}: closed after {took:?}");
        // Nobody is served before all the rest is closed, too.
        machine.until("the agent is connected", |machine| machine.status()["relay_online"] == true).await;
        assert_eq!(machine.grants(), 0, "{provider}, {point}");
        assert!(!is_in_adm("gp-alex"), "{provider}, {point}: a group is left");
        let account = machine.program("login", "gp-alex").phase(Phase::Account);
        assert_ne!(account, Verdict::Success, "{provider}, {point}");
        machine.kill();
    }
    // Remove never comes for an account that is kept; all others do.
    assert_eq!(reached, Point::all().count() - 2, "{provider}");
}

#[test]
fn killed_anywhere_the_user_database_leaves_nothing_open() {
    story("faults::killed_anywhere_the_user_database_leaves_nothing_open", async || every_point("userdb").await);
}

#[test]
fn killed_anywhere_standing_accounts_are_left_closed() {
    story("faults::killed_anywhere_standing_accounts_are_left_closed", async || every_point("standing").await);
}
