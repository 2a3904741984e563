//! Any order of logins, logouts, ends, failures of the accounts' provider, crashes and restarts: after each restart nothing is
//! open without a live grant, no approval has ever given two grants, and whatever began to end does end.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod machine;

use std::collections::BTreeMap;

use gatepass_agent_core::Grants;
use gatepass_agent_core::fault::{NoFault, Point};
use gatepass_agent_core::grant::Session;
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::order::EndReason;
use machine::{DiesAt, Machine, folder, now, rights, until_death, wanted};
use proptest::prelude::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Happens {
    /// An approval arrives, for the right of this number; perhaps not for the first time.
    Approval { right: usize, number: u8 },
    /// Somebody logs in with some live grant.
    Login { pid: u32 },
    /// A session closes, with or without a word.
    Logout { pid: u32, silently: bool },
    /// Some grant is ended from outside.
    End,
    /// The timer looks, this many seconds later.
    Time { passes: u64 },
    /// Something of the provider breaks, or all is mended.
    Broken(Option<&'static str>),
    /// The agent dies at the next arrival at this point, if it comes there, and is started anew. `forgets`: its accounts die
    /// with it, as the user database's do.
    Crash { point: usize, forgets: bool },
}

fn happens() -> impl Strategy<Value = Happens> {
    let broken =
        prop::sample::select(vec!["create", "set_groups", "enable", "disable", "end_sessions", "strip_groups"]);
    prop_oneof![
        4 => (0..3usize, 1..6u8).prop_map(|(right, number)| Happens::Approval { right, number }),
        4 => (1..9u32).prop_map(|pid| Happens::Login { pid }),
        2 => (1..9u32, any::<bool>()).prop_map(|(pid, silently)| Happens::Logout { pid, silently }),
        1 => Just(Happens::End),
        3 => prop_oneof![Just(1), Just(130), Just(1900)].prop_map(|passes| Happens::Time { passes }),
        1 => prop::option::of(broken).prop_map(Happens::Broken),
        3 => (0..Point::all().count(), any::<bool>()).prop_map(|(point, forgets)| Happens::Crash { point, forgets }),
    ]
}

/// One life of a machine, with one agent after the other.
struct Life {
    machine: Machine,
    folder: tempfile::TempDir,
    /// Seconds since the beginning.
    clock: u64,
    /// The grants that each approval gave.
    given: BTreeMap<u8, GrantId>,
    grants_made: u8,
}

impl Life {
    /// One thing happens to a running agent.
    fn step(&mut self, grants: &mut Grants, happens: &Happens) {
        let at = now(self.clock);
        match happens {
            Happens::Approval { right, number } => {
                self.grants_made += 1;
                let mut wanted = wanted(rights()[*right].1.clone(), *number);
                wanted.id = GrantId([self.grants_made; 16]);
                wanted.until = at.wall + 1800;
                if let Ok(grant) = grants.grant(&wanted, at) {
                    assert_eq!(self.given.insert(*number, grant.id), None, "approval {number} was used twice");
                }
            }
            Happens::Login { pid } => {
                let live = grants.open_grants().find(|grant| grant.is_live()).map(|grant| grant.id);
                if let Some(id) = live {
                    self.machine.world().alive.insert(*pid);
                    let _ = grants.session_opened(&id, Session { pid: *pid, started: 0 }, at);
                }
            }
            Happens::Logout { pid, silently } => {
                let session = Session { pid: *pid, started: 0 };
                self.machine.world().alive.remove(pid);
                let of = grants.open_grants().find(|grant| grant.sessions.contains(&session)).map(|grant| grant.id);
                if let Some(id) = of.filter(|_| !silently)
                    && grants.session_closed(&id, &session, at)
                {
                    let _ = grants.end(&id, EndReason::Logout, at);
                }
            }
            Happens::End => {
                let first = grants.open_grants().next().map(|grant| grant.id);
                if let Some(id) = first {
                    let _ = grants.end(&id, EndReason::Technician, at);
                }
            }
            Happens::Time { passes } => {
                self.clock += passes;
                let at = now(self.clock);
                for (id, reason) in grants.due(at) {
                    let _ = grants.end(&id, reason, at);
                }
                if *passes > 1000 {
                    grants.compact(at).unwrap();
                }
            }
            Happens::Broken(what) => {
                let mut world = self.machine.world();
                world.broken.clear();
                world.broken.extend(what.iter());
            }
            Happens::Crash { .. } => {}
        }
    }

    /// A healthy agent starts on what the last one left.
    fn start(&mut self) -> Grants {
        self.machine.world().broken.clear();
        let mut grants = self.machine.agent(self.folder.path(), NoFault);
        let recovered = grants.recover(now(self.clock));
        assert!(recovered.failed.is_empty(), "{recovered:?}");
        self.machine.assert_nothing_open_without_a_grant(&grants, now(self.clock), "after a restart");
        grants
    }
}

/// Lets all of it happen. A crash is looked at together with what happens up to the next one.
fn live(story: &[Happens]) {
    let (machine, folder) = (Machine::default(), folder());
    let mut life = Life { machine, folder, clock: 0, given: BTreeMap::new(), grants_made: 0 };
    let mut rest = story;
    let mut crash = None;
    loop {
        let end = rest.iter().position(|happens| matches!(happens, Happens::Crash { .. })).unwrap_or(rest.len());
        let mut grants = match crash {
            None => life.start(),
            Some(point) => {
                drop(life.start());
                let fault = DiesAt(Point::all().nth(point).unwrap());
                life.machine.agent(life.folder.path(), fault)
            }
        };
        let given = life.given.clone();
        let survived = until_death(|| {
            for happens in &rest[..end] {
                life.step(&mut grants, happens);
            }
            grants
        });
        if survived.is_none() {
            // What it was about to say, nobody heard; what it had said before counts.
            life.given.extend(given);
        }
        drop(survived);
        let Some(Happens::Crash { point, forgets }) = rest.get(end) else { break };
        if *forgets {
            life.machine.world().accounts.clear();
        }
        crash = Some(*point);
        rest = &rest[end + 1..];
    }
    // In the end all time is over, and so is every grant.
    life.clock += 10_000;
    let grants = life.start();
    assert_eq!(grants.open_grants().count(), 0);
    assert!(life.machine.world().accounts.values().all(|account| !account.enabled && account.groups.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_stays_open_without_a_grant(story in prop::collection::vec(happens(), 1..40)) {
        live(&story);
    }
}
