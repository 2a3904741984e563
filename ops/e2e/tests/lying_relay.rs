//! A relay that lies in every way it can. Where the technician's approval does not arrive as it was given, nothing is granted, and each
//! end says what it can know; where it does arrive, there is the one grant that was approved and no other.
#![allow(clippy::unwrap_used)]

use gatepass_e2e::{Lie, Login, Plan, Scan, World, in_jail, rid_of, until};

/// The one generic failure: a message did not authenticate.
const GENERIC: &str = "could not agree: somebody may have interfered";
/// What a phone sees of a failure that is the other side's secret.
const CLOSED: &str = "closed the login";
/// Nothing came.
const SILENT: &str = "did not answer in time";
/// What the person at the computer is told when the phone has gone.
const BROKEN: &str = "connection to the phone broke";

/// What the login does after a lie.
#[derive(Clone, Copy)]
enum Then {
    /// It burns the code and shows another: nobody had proved anything yet.
    NextCode,
    /// It ends with this sentence.
    Ends(&'static str),
}

/// A lie, and what is seen of it at the phone and at the login.
type Cell = (Lie, &'static str, Then);

/// A login and a phone that approves it, over a relay that lies about it.
struct Try {
    cell: Cell,
    login: Login,
    scan: Scan,
}

fn begin(world: &World, cell: Cell) -> Try {
    let login = world.computer.pam("gp-alex", &["authenticate"]);
    let code = login.code();
    world.lying_relay.as_ref().unwrap().lie(&code, cell.0.clone());
    let scan = world.phone.approve(&code);
    Try { cell, login, scan }
}

impl Try {
    fn turns_out_refused(self) {
        let (lie, at_phone, then) = self.cell;
        let said = self.scan.finish().refused();
        assert!(said.contains(at_phone), "{lie:?}: the phone says\n{said}");
        match then {
            Then::NextCode => {
                until(&format!("another code after {lie:?}"), || {
                    (self.login.said().matches("GP1:").count() > 1).then_some(())
                });
            }
            Then::Ends(sentence) => {
                let said = self.login.finish().refused();
                assert!(said.contains(sentence), "{lie:?}: the login says\n{said}");
            }
        }
    }
}

/// Tries the cells, some at a time, and looks that nothing at all was granted.
fn nothing_is_granted(world: &World, cells: Vec<Cell>) {
    let mut cells = cells.into_iter().peekable();
    while cells.peek().is_some() {
        let tries: Vec<Try> = cells.by_ref().take(12).map(|cell| begin(world, cell)).collect();
        tries.into_iter().for_each(Try::turns_out_refused);
    }
    assert_eq!(grants(world), 0);
}

/// How many grants there ever were, by the trail; and none is open.
fn grants(world: &World) -> usize {
    let status = world.computer.status();
    assert!(status.contains(r#""events_waiting": 0"#) || world.computer.has_no_grant(), "{status}");
    world.admin.audit().matches(r#""event":"granted""#).count()
}

#[test]
fn bytes_that_were_changed_are_never_taken() {
    in_jail(|| {
        let world = World::new(Plan { lying_relay: true, ..Plan::default() });
        let mut cells: Vec<Cell> = Vec::new();
        for (number, at_phone, then) in [
            (1, CLOSED, Then::NextCode),
            (2, GENERIC, Then::NextCode),
            (3, CLOSED, Then::NextCode),
            (4, GENERIC, Then::Ends(BROKEN)),
            (5, CLOSED, Then::Ends(GENERIC)),
        ] {
            cells.push((Lie::Truncate(number), at_phone, then));
            cells.extend([0, 20, 40, 60, 80, 100].map(|percent| (Lie::Flip(number, percent), at_phone, then)));
        }
        cells.push((Lie::ForgeTag, CLOSED, Then::NextCode));
        nothing_is_granted(&world, cells);
    });
}

#[test]
fn a_message_that_comes_twice_or_from_yesterday_is_not_taken() {
    in_jail(|| {
        let world = World::new(Plan { lying_relay: true, ..Plan::default() });
        let mut cells = vec![
            (Lie::Repeat(1), CLOSED, Then::NextCode),
            (Lie::Repeat(2), GENERIC, Then::Ends(BROKEN)),
            (Lie::Repeat(3), CLOSED, Then::Ends(GENERIC)),
        ];
        // Yesterday: an approval whose computer was slower than its technician's mind.
        let login = world.computer.pam("gp-alex", &["authenticate"]);
        let (code, relay) = (login.code(), world.lying_relay.as_ref().unwrap());
        relay.lie(&code, Lie::Drop(5));
        let scan = world.phone.approve(&code);
        let old = until("a pairing to record", || {
            relay.heard(&code, 5).map(|_| (1..=5).map(|number| relay.heard(&code, number).unwrap()))
        });
        for ((number, old), (at_phone, then)) in (1..=5).zip(old).zip([
            (CLOSED, Then::NextCode),
            (GENERIC, Then::NextCode),
            (CLOSED, Then::NextCode),
            (GENERIC, Then::Ends(BROKEN)),
            (CLOSED, Then::Ends(GENERIC)),
        ]) {
            cells.push((Lie::Replay(number, old), at_phone, then));
        }
        drop((scan, login));
        nothing_is_granted(&world, cells);
    });
}

#[test]
fn two_sessions_can_not_be_spliced_nor_their_codes_keys_be_swapped() {
    in_jail(|| {
        let world = World::new(Plan { lying_relay: true, ..Plan::default() });
        let relay = world.lying_relay.as_ref().unwrap();
        for (number, at_phone, then) in [
            (1, CLOSED, Then::NextCode),
            (2, GENERIC, Then::NextCode),
            (3, CLOSED, Then::NextCode),
            (4, GENERIC, Then::Ends(BROKEN)),
            (5, CLOSED, Then::Ends(GENERIC)),
        ] {
            let logins = [(), ()].map(|()| world.computer.pam("gp-alex", &["authenticate"]));
            let codes = [logins[0].code(), logins[1].code()];
            for (one, other) in [(0, 1), (1, 0)] {
                relay.lie(&codes[one], Lie::Cross(number, rid_of(&codes[other])));
            }
            let scans = [world.phone.approve(&codes[0]), world.phone.approve(&codes[1])];
            for (login, scan) in logins.into_iter().zip(scans) {
                let cell = (Lie::Cross(number, rid_of(&codes[0])), at_phone, then);
                Try { cell, login, scan }.turns_out_refused();
            }
        }
        // The phone that read one code is led to the login that shows another.
        let logins = [(), ()].map(|()| world.computer.pam("gp-alex", &["authenticate"]));
        let codes = [logins[0].code(), logins[1].code()];
        relay.lie(&codes[0], Lie::Swap(rid_of(&codes[1])));
        let [_, led_to] = logins;
        let cell = (Lie::Swap(rid_of(&codes[1])), CLOSED, Then::NextCode);
        Try { cell, login: led_to, scan: world.phone.approve(&codes[0]) }.turns_out_refused();
        assert_eq!(grants(&world), 0);
    });
}

#[test]
fn a_message_that_never_comes_or_too_late_ends_in_a_sentence_not_in_a_grant() {
    in_jail(|| {
        let world = World::new(Plan { lying_relay: true, ..Plan::default() });
        // In lockstep nothing follows a message that is held back: late is never.
        let mut cells: Vec<Cell> = Vec::new();
        for number in 1..=4 {
            let then = if number == 4 { Then::Ends(BROKEN) } else { Then::NextCode };
            cells.extend([(Lie::Drop(number), SILENT, then), (Lie::Late(number), SILENT, then)]);
        }
        cells.push((Lie::Drop(5), "", Then::Ends("Nobody approved in time")));
        nothing_is_granted(&world, cells);
    });
}

#[test]
fn where_the_approval_arrives_there_is_one_grant_whatever_the_relay_does_with_the_rest() {
    in_jail(|| {
        let world = World::new(Plan { lying_relay: true, ..Plan::default() });
        let lies = [Lie::Honest, Lie::Repeat(4), Lie::Repeat(5), Lie::Repeat(6), Lie::Truncate(6), Lie::Flip(6, 50)];
        for (at, lie) in lies.into_iter().enumerate() {
            let phone_knows = matches!(lie, Lie::Honest | Lie::Repeat(5 | 6));
            let mut one = begin(&world, (lie, "", Then::NextCode));
            one.login.wait_for("Approved. You are gp-alex");
            until("the login to end", || one.login.has_ended().then_some(()));
            let said = one.scan.finish();
            assert_eq!(said.status.success(), phone_knows, "{:?}: the phone says\n{}", one.cell.0, said.err);
            // Nobody opened a session with it, and the technician can end it in any case.
            let listed = world.phone.does(&["grants"]);
            let grant = listed.split_whitespace().next().unwrap();
            world.phone.does(&["end", grant]);
            until("the grant to be over", || world.computer.has_no_grant().then_some(()));
            until("the trail to be complete", || (grants(&world) == at + 1).then_some(()));
        }
    });
}
