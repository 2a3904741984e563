//! The life of a grant when nobody kills the agent: every way to end, every way to be refused.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod machine;

use std::process::Command;

use gatepass_agent_core::clock::SLACK;
use gatepass_agent_core::grant::{Right, Session};
use gatepass_agent_core::journal::JournalError;
use gatepass_agent_core::{Refused, UNUSED_AFTER, Unfinished, Wanted};
use gatepass_protocol::order::EndReason;
use machine::{ALL_ACTS, Machine, SESSION, START, folder, now, rights, wanted};

fn named() -> Right {
    rights()[0].1.clone()
}

#[test]
fn technician_gets_an_account_with_groups_and_it_is_gone_after_logout() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(named(), 1), now(0)).unwrap();
    {
        let world = machine.world();
        let account = &world.accounts[&"gp-alex".parse().unwrap()];
        assert!(account.enabled);
        assert_eq!(account.groups, ["adm", "sudo"]);
        assert_eq!(account.expiry, Some(grant.deadline.wall));
    }
    machine.world().alive.insert(SESSION.pid);
    grants.session_opened(&grant.id, SESSION, now(1)).unwrap();
    assert!(grants.session_closed(&grant.id, &SESSION, now(2)));
    grants.end(&grant.id, EndReason::Logout, now(2)).unwrap();
    assert_eq!(grants.open_grants().count(), 0);
    assert_eq!(machine.world().passwords[&"gp-alex".parse().unwrap()], 3, "once at the login, twice at its end");
    machine.assert_nothing_open_without_a_grant(&grants, now(2), "after logout");
    assert_eq!(grants.receipts().count(), 1);
}

#[test]
fn an_account_that_is_not_to_be_kept_is_removed() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(rights()[1].1.clone(), 1), now(0)).unwrap();
    grants.end(&grant.id, EndReason::Technician, now(1)).unwrap();
    assert!(machine.world().accounts.is_empty());
}

#[test]
fn the_grant_ends_with_its_time_on_whichever_clock_comes_first() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(named(), 1), now(0)).unwrap();
    machine.world().alive.insert(SESSION.pid);
    grants.session_opened(&grant.id, SESSION, now(1)).unwrap();
    assert!(grants.due(now(1799)).is_empty());
    assert_eq!(grants.due(now(1800)), [(grant.id, EndReason::Time)]);
    let set_back = gatepass_agent_core::clock::Now { wall: now(100).wall, ..now(1800) };
    assert_eq!(grants.due(set_back), [(grant.id, EndReason::Time)], "the wall clock was set back");
}

#[test]
fn a_grant_that_nobody_uses_ends_soon() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(named(), 1), now(0)).unwrap();
    assert!(grants.due(now(UNUSED_AFTER)).is_empty());
    assert_eq!(grants.due(now(UNUSED_AFTER + 1)), [(grant.id, EndReason::Failed)]);
}

#[test]
fn a_session_whose_process_died_without_a_word_is_a_logout() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(named(), 1), now(0)).unwrap();
    machine.world().alive.insert(SESSION.pid);
    grants.session_opened(&grant.id, SESSION, now(1)).unwrap();
    machine.world().alive.clear();
    assert_eq!(grants.due(now(5)), [(grant.id, EndReason::Logout)]);
}

#[test]
fn one_approval_gives_one_grant_also_after_its_end_a_restart_and_a_compaction() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(named(), 1), now(0)).unwrap();
    assert!(matches!(grants.grant(&wanted(named(), 1), now(0)), Err(Refused::Duplicate)));
    grants.end(&grant.id, EndReason::Technician, now(1)).unwrap();
    assert!(matches!(grants.grant(&wanted(named(), 1), now(2)), Err(Refused::Duplicate)));
    grants.compact(now(3)).unwrap();
    drop(grants);
    let mut grants = machine.healthy_agent(folder.path());
    assert!(matches!(grants.grant(&wanted(named(), 1), now(4)), Err(Refused::Duplicate)));
    assert_eq!(grants.receipts().count(), 1, "and its receipt is still there");
    assert!(grants.grant(&wanted(named(), 2), now(5)).is_ok(), "a new approval is another matter");
}

#[test]
fn a_second_login_to_an_open_account_joins_its_grant_and_spends_its_own_approval() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let first = grants.grant(&wanted(named(), 1), now(0)).unwrap();
    let second = grants.grant(&Wanted { until: START + 9_999, ..wanted(named(), 2) }, now(1)).unwrap();
    assert_eq!((second.id, second.deadline), (first.id, first.deadline), "no longer than the first approval");
    assert_eq!((grants.open_grants().count(), machine.world().enabled), (1, 1));
    assert!(matches!(grants.grant(&wanted(named(), 2), now(2)), Err(Refused::Duplicate)));
    let third = grants.grant(&Wanted { until: START + 600, ..wanted(named(), 3) }, now(3)).unwrap();
    assert_eq!(third.deadline.wall, START + 600, "and no longer than the shortest");
    assert_eq!(machine.world().accounts[&"gp-alex".parse().unwrap()].expiry, Some(START + 600));
    drop(grants);
    machine.world().alive.insert(SESSION.pid);
    let mut grants = machine.healthy_agent(folder.path());
    assert!(matches!(grants.grant(&wanted(named(), 3), now(4)), Err(Refused::Duplicate)), "also after a restart");
    assert_eq!(grants.get(&first.id).unwrap().deadline.wall, START + 600);
}

#[test]
fn an_open_account_is_neither_shared_nor_given_other_groups() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    grants.grant(&wanted(named(), 1), now(0)).unwrap();
    let mut other_groups = wanted(named(), 2);
    let Right::Account { groups, .. } = &mut other_groups.right else { unreachable!() };
    groups.pop();
    let mut somebody_else = wanted(named(), 3);
    somebody_else.approver.technician = gatepass_protocol::ids::TechnicianId([1; 16]);
    for wanted in [other_groups, somebody_else] {
        let refused = grants.grant(&wanted, now(1)).unwrap_err();
        assert!(matches!(&refused, Refused::Busy { account, .. } if account == "gp-alex"), "{refused}");
        assert!(refused.to_string().contains("sudo"), "{refused}");
    }
}

#[test]
fn somebody_elses_account_is_never_touched() {
    let (machine, folder) = (Machine::default(), folder());
    machine.world().foreign.insert("gp-alex".parse().unwrap());
    let mut grants = machine.healthy_agent(folder.path());
    let refused = grants.grant(&wanted(named(), 1), now(0)).unwrap_err();
    assert!(matches!(refused, Refused::Account(_)), "{refused}");
    assert!(machine.world().accounts.is_empty());
    assert_eq!(grants.open_grants().count(), 0);
}

#[test]
fn a_provider_that_fails_halfway_leaves_nothing_open() {
    for (act, name) in ALL_ACTS {
        let (machine, folder) = (Machine::default(), folder());
        machine.world().broken.insert(name);
        let mut grants = machine.healthy_agent(folder.path());
        let refused = grants.grant(&wanted(named(), 1), now(0)).unwrap_err();
        assert!(matches!(refused, Refused::Account(_)), "{act}: {refused}");
        machine.assert_nothing_open_without_a_grant(&grants, now(0), name);
        // What could not be undone (here: a password not rotated) is tried again until it can.
        machine.world().broken.clear();
        for (id, reason) in grants.due(now(1)) {
            assert_eq!(reason, EndReason::Failed);
            grants.end(&id, reason, now(1)).unwrap();
        }
        assert_eq!(grants.open_grants().count(), 0, "{act}");
    }
}

#[test]
fn an_end_that_fails_is_tried_again_and_keeps_its_reason() {
    for what in ["disable", "end_sessions", "strip_groups", "rotate_password", "remove"] {
        let (machine, folder) = (Machine::default(), folder());
        let mut grants = machine.healthy_agent(folder.path());
        let grant = grants.grant(&wanted(rights()[1].1.clone(), 1), now(0)).unwrap();
        machine.world().broken.insert(what);
        assert!(matches!(grants.end(&grant.id, EndReason::Technician, now(1)), Err(Unfinished::Account(_))), "{what}");
        assert!(grants.of_account("alex_566054625600", now(1)).is_none(), "{what}: an ending grant lets nobody in");
        machine.world().broken.clear();
        assert_eq!(grants.due(now(2)), [(grant.id, EndReason::Technician)]);
        let receipt = grants.end(&grant.id, EndReason::Time, now(2)).unwrap();
        assert_eq!(receipt.of.reason_to_end, Some(EndReason::Technician), "{what}");
    }
}

#[test]
fn a_clock_that_was_set_back_refuses_grants_until_root_accepts_it() {
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(named(), 1), now(10_000 - 9_000)).unwrap();
    grants.end(&grant.id, EndReason::Technician, now(1001)).unwrap();
    drop(grants);
    let mut grants = machine.healthy_agent(folder.path());
    let early = gatepass_agent_core::clock::Now { wall: now(1001).wall - SLACK - 1, ..now(1002) };
    let refused = grants.grant(&wanted(named(), 2), early).unwrap_err();
    assert!(matches!(refused, Refused::Clock(_)), "{refused}");
    assert!(refused.to_string().contains("accept-clock"), "{refused}");
    grants.accept_clock(early).unwrap();
    grants.compact(early).unwrap();
    drop(grants);
    let mut grants = machine.healthy_agent(folder.path());
    assert!(grants.grant(&wanted(named(), 3), early).is_ok());
}

/// Runs the test again in a process whose files can't grow past `bytes`, as on a full disk; true in that process.
fn on_a_full_disk(test: &str, blocks: u32) -> bool {
    if std::env::var_os("GATEPASS_TEST_FULL_DISK").is_some() {
        return true;
    }
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --exact {test}");
    let status = Command::new("sh")
        .arg("-c")
        .arg(limited)
        .arg(std::env::current_exe().unwrap())
        .env("GATEPASS_TEST_FULL_DISK", "1")
        .status();
    assert!(status.unwrap().success());
    false
}

#[test]
fn a_full_disk_grants_nothing() {
    if !on_a_full_disk("a_full_disk_grants_nothing", 2) {
        return;
    }
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let refused = (1..50).find_map(|number| {
        let granted = grants.grant(&wanted(named(), number), now(number.into()));
        granted
            .and_then(|grant| {
                grants.end(&grant.id, EndReason::Logout, now(number.into())).map_err(|_| Refused::TooLate)
            })
            .err()
    });
    let refused = refused.unwrap();
    assert!(matches!(refused, Refused::Journal(JournalError::DiskFull { .. }) | Refused::TooLate), "{refused}");
    let before = machine.world().enabled;
    let refused = grants.grant(&wanted(rights()[1].1.clone(), 99), now(60)).unwrap_err();
    assert!(refused.to_string().contains("free some space"), "{refused}");
    assert_eq!(machine.world().enabled, before, "nothing was opened");
    machine.assert_nothing_open_without_a_grant(&grants, now(60), "on a full disk");
}

#[test]
fn a_full_disk_keeps_no_grant_from_ending() {
    if !on_a_full_disk("a_full_disk_keeps_no_grant_from_ending", 3) {
        return;
    }
    let (machine, folder) = (Machine::default(), folder());
    let mut grants = machine.healthy_agent(folder.path());
    let grant = grants.grant(&wanted(named(), 1), now(0)).unwrap();
    for pid in 1.. {
        machine.world().alive.insert(pid);
        if grants.session_opened(&grant.id, Session { pid, started: 0 }, now(1)).is_err() {
            break; // the disk is full now, and the grant active
        }
    }
    let unfinished = grants.end(&grant.id, EndReason::Technician, now(2)).unwrap_err();
    assert!(matches!(unfinished, Unfinished::Journal(_)), "{unfinished}");
    machine.assert_nothing_open_without_a_grant(&grants, now(2), "ended on a full disk");
    drop(grants);
    // After a restart the journal still says "active"; the closed account says that its end began.
    let mut grants = machine.healthy_agent(folder.path());
    assert!(grants.recover(now(3)).kept.is_empty());
    machine.assert_nothing_open_without_a_grant(&grants, now(3), "restarted on a full disk");
}
