//! The agent is killed at every point of every kind of grant, and once more while it recovers. However it goes: after the
//! restart nothing is open without a live grant, and one approval has given at most one grant.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod machine;

use std::collections::BTreeSet;

use gatepass_agent_core::fault::Point;
use gatepass_agent_core::grant::Right;
use gatepass_agent_core::{Grants, Refused};
use gatepass_protocol::order::EndReason;
use machine::{DiesAt, Machine, SESSION, folder, now, rights, until_death, wanted};

/// A login, up to an open session.
fn log_in(grants: &mut Grants, machine: &Machine, right: &Right) {
    let grant = grants.grant(&wanted(right.clone(), 1), now(0)).unwrap();
    machine.world().alive.insert(SESSION.pid);
    grants.session_opened(&grant.id, SESSION, now(1)).unwrap();
}

/// What holds after any restart.
fn assert_all_is_well(grants: &mut Grants, machine: &Machine, right: &Right, story: &str) {
    machine.assert_nothing_open_without_a_grant(grants, now(3), story);
    for grant in grants.open_grants() {
        assert!(grant.is_live(), "{story}: a grant is neither live nor closed: {grant:?}");
    }
    // The same approval once more, as a repeated message would bring it.
    let again = grants.grant(&wanted(right.clone(), 1), now(4));
    let world = machine.world();
    if right.account().is_some() {
        assert!(world.enabled <= 1, "{story}: one approval opened an account {} times", world.enabled);
    }
    drop(world);
    machine.assert_nothing_open_without_a_grant(grants, now(4), story);
    if again.is_err() {
        assert!(matches!(again, Err(Refused::Duplicate)), "{story}: {again:?}");
    }
}

/// Runs the story of a login (and its end) with a death at `point`; `None` when the story never comes there.
fn die(machine: &Machine, folder: &std::path::Path, right: &Right, point: Point, ending: bool) -> Option<()> {
    let died = if ending {
        let mut grants = machine.healthy_agent(folder);
        log_in(&mut grants, machine, right);
        drop(grants);
        until_death(|| {
            let mut grants = machine.agent(folder, DiesAt(point));
            grants.end(&wanted(right.clone(), 1).id, EndReason::Logout, now(2)).unwrap();
        })
        .is_none()
    } else {
        until_death(|| log_in(&mut machine.agent(folder, DiesAt(point)), machine, right)).is_none()
    };
    died.then_some(())
}

#[test]
fn killed_anywhere_in_a_grant_or_its_end_nothing_stays_open() {
    let mut reached = BTreeSet::new();
    for (kind, right) in rights() {
        for ending in [false, true] {
            for point in Point::all() {
                let (machine, folder) = (Machine::default(), folder());
                if die(&machine, folder.path(), &right, point, ending).is_none() {
                    continue;
                }
                reached.insert(point.to_string());
                let story = format!("{kind}, killed at {point} while {}", if ending { "ending" } else { "granting" });
                let mut grants = machine.healthy_agent(folder.path());
                let recovered = grants.recover(now(3));
                assert!(recovered.failed.is_empty(), "{story}: {recovered:?}");
                assert_all_is_well(&mut grants, &machine, &right, &story);
            }
        }
    }
    let all: BTreeSet<String> = Point::all().map(|point| point.to_string()).collect();
    assert_eq!(reached, all, "every point was tried");
}

#[test]
fn killed_again_while_recovering_nothing_stays_open() {
    for (kind, right) in rights() {
        for ending in [false, true] {
            for first in Point::all() {
                let (machine, place) = (Machine::default(), folder());
                if die(&machine, place.path(), &right, first, ending).is_none() {
                    continue;
                }
                for second in Point::all() {
                    let (machine, place) = (Machine::default(), folder());
                    die(&machine, place.path(), &right, first, ending);
                    let died = until_death(|| machine.agent(place.path(), DiesAt(second)).recover(now(2))).is_none();
                    if !died {
                        continue;
                    }
                    let story = format!("{kind}, killed at {first}, then at {second} while recovering");
                    let mut grants = machine.healthy_agent(place.path());
                    grants.recover(now(3));
                    assert_all_is_well(&mut grants, &machine, &right, &story);
                }
            }
        }
    }
}

#[test]
fn an_open_session_outlives_a_restart_of_the_agent() {
    for (kind, right) in rights() {
        let (machine, folder) = (Machine::default(), folder());
        log_in(&mut machine.healthy_agent(folder.path()), &machine, &right);
        // The user database lives in the agent and dies with it; accounts in /etc stay. Both must be as before.
        machine.world().accounts.clear();
        let mut grants = machine.healthy_agent(folder.path());
        let recovered = grants.recover(now(2));
        assert_eq!(recovered.kept.len(), 1, "{kind}: {recovered:?}");
        assert_eq!(grants.get(&recovered.kept[0]).unwrap().sessions, [SESSION], "{kind}");
        machine.assert_nothing_open_without_a_grant(&grants, now(2), kind);
        assert!(grants.due(now(2)).is_empty(), "{kind}");
        assert!(grants.session_closed(&recovered.kept[0], &SESSION, now(3)), "{kind}: it was the last session");
        let receipt = grants.end(&recovered.kept[0], EndReason::Logout, now(3)).unwrap();
        assert_eq!(receipt.of.reason_to_end, Some(EndReason::Logout));
        machine.assert_nothing_open_without_a_grant(&grants, now(3), kind);
    }
}

#[test]
fn a_grant_without_a_session_does_not_outlive_a_restart() {
    for (kind, right) in rights() {
        let (machine, folder) = (Machine::default(), folder());
        log_in(&mut machine.healthy_agent(folder.path()), &machine, &right);
        machine.world().alive.clear();
        let mut grants = machine.healthy_agent(folder.path());
        let recovered = grants.recover(now(2));
        assert_eq!(recovered.closed.len(), 1, "{kind}");
        machine.assert_nothing_open_without_a_grant(&grants, now(2), kind);
    }
}

#[test]
fn an_account_that_is_open_with_no_grant_behind_it_is_closed_at_the_next_start() {
    let (machine, place) = (Machine::default(), folder());
    let right = rights()[0].1.clone();
    log_in(&mut machine.healthy_agent(place.path()), &machine, &right);
    // The journal is lost: another folder.
    let other = folder();
    let mut grants = machine.healthy_agent(other.path());
    let recovered = grants.recover(now(2));
    assert_eq!(recovered.swept.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["gp-alex"]);
    machine.assert_nothing_open_without_a_grant(&grants, now(2), "after the sweep");
    assert!(grants.recover(now(3)).swept.is_empty(), "once is enough");
}

#[test]
fn a_reboot_ends_every_grant() {
    for (kind, right) in rights() {
        let (machine, folder) = (Machine::default(), folder());
        log_in(&mut machine.healthy_agent(folder.path()), &machine, &right);
        machine.world().alive.clear();
        let mut grants = machine.healthy_agent(folder.path());
        let after =
            gatepass_agent_core::clock::Now { boot: gatepass_agent_core::clock::BootId([1; 16]), uptime: 5, ..now(60) };
        let recovered = grants.recover(after);
        assert_eq!(recovered.closed[0].of.reason_to_end, Some(EndReason::Restart), "{kind}");
        machine.assert_nothing_open_without_a_grant(&grants, after, kind);
    }
}
