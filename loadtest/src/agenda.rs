//! What one worker does when, from the first moment of the load to the last: the whole of it is decided before it begins.

use std::time::Duration;

use crate::{
    profile::{Day, Load, Profile, hours},
    schedule::{Arrivals, Schedule, Share},
};

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// An agent shows a QR.
    Show,
    /// A phone scans the QR that has been shown longest.
    Scan,
    /// A phone publishes to this channel.
    Publish {
        /// Which.
        channel: u32,
    },
    /// An end of this of the worker's pairings says something, in this turn of its.
    Say {
        /// Which.
        talk: u32,
        /// From 0.
        turn: u32,
    },
    /// Clients are cut off.
    Cut,
    /// Whoever was cut should be back.
    Muster,
    /// Somebody comes for the first time, and goes again.
    Newcomer,
    /// This agent of the worker's is switched on.
    Join(u32),
    /// This agent of the worker's is switched off.
    Leave(u32),
    /// Somebody loses the connection.
    Reconnect,
}

/// What to do when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Since the load began.
    pub(crate) at: Duration,
    /// What.
    pub(crate) act: Act,
    /// Whether it counts; not in the warm-up.
    pub(crate) measured: bool,
}

/// A list that everybody hears, put in force through the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// A policy.
    Policy,
    /// A revocation list.
    Revocation,
}

/// For how long a QR is on the screen before it is scanned, in a working day.
pub(crate) const SHOWN: Duration = Duration::from_millis(250);
/// Different random numbers for each purpose of one seed.
const NEWCOMERS: u64 = 0x6e65_7763;
const RECONNECTS: u64 = 0x7265_636f;

/// One worker's agenda, by time.
pub(crate) fn agenda(profile: &Profile, share: Share) -> Vec<Entry> {
    let seed = profile.seed;
    let seconds = Duration::from_secs_f64;
    let mut entries = Vec::new();
    let mut put = |at: Duration, act: Act, measured: bool| entries.push(Entry { at, act, measured });
    match &profile.load {
        Load::Idle(_) | Load::Revocation(_) => {}
        Load::Storm(storm) => {
            for round in 0..storm.rounds {
                let begins = f64::from(round) * storm.round_seconds;
                put(seconds(begins), Act::Cut, true);
                put(seconds(begins + storm.round_seconds), Act::Muster, true);
            }
            let newcomers = Schedule::steady(
                profile.seconds(),
                storm.newcomers_per_second,
                Arrivals::Even,
                seed ^ NEWCOMERS,
                share,
            );
            newcomers.for_each(|at| put(at, Act::Newcomer, true));
        }
        Load::Pairings(load) => {
            let whole = load.warm_up_seconds + load.seconds;
            for at in Schedule::steady(whole, load.per_second, load.arrivals, seed, share) {
                let measured = at >= seconds(load.warm_up_seconds);
                put(at, Act::Show, measured);
                put(at + seconds(load.shown_ms / 1_000.0), Act::Scan, measured);
            }
        }
        Load::Messages(load) => {
            let whole = load.warm_up_seconds + load.seconds;
            let talks = share.members(profile.agents.min(profile.phones)).count().max(1) as u32;
            let moments = Schedule::steady(whole, load.per_second, load.arrivals, seed, share);
            for (n, at) in moments.enumerate() {
                let n = n as u32;
                put(at, Act::Say { talk: n % talks, turn: n / talks }, at >= seconds(load.warm_up_seconds));
            }
        }
        Load::Fanout(load) => {
            let whole = load.warm_up_seconds + load.seconds;
            let moments = Schedule::steady(whole, load.per_second, load.arrivals, seed, share);
            for (n, at) in moments.enumerate() {
                let channel = (share.index + n as u32 * share.of) % load.channels;
                put(at, Act::Publish { channel }, at >= seconds(load.warm_up_seconds));
            }
        }
        Load::Day(day) => working_day(profile, day, share, &mut put),
    }
    entries.sort_by_key(|entry| entry.at);
    entries
}

/// How many of a worker's agents are on when the load begins.
pub(crate) fn at_first(profile: &Profile, agents: u32) -> u32 {
    match &profile.load {
        Load::Day(day) => part(agents, day.online_percent.first().copied().unwrap_or(100.0)),
        _ => agents,
    }
}

fn part(of: u32, percent: f64) -> u32 {
    (f64::from(of) * percent / 100.0).round() as u32
}

fn working_day(profile: &Profile, day: &Day, share: Share, put: &mut impl FnMut(Duration, Act, bool)) {
    let hour = day.seconds_per_hour;
    let mine = share.members(profile.agents).count() as u32;
    let mut on = at_first(profile, mine);
    for (number, percent) in day.online_percent.iter().enumerate() {
        let target = part(mine, *percent);
        let changes = on.abs_diff(target);
        for change in 0..changes {
            let at = (number as f64 + f64::from(change) / f64::from(changes)) * hour;
            let act = if target > on { Act::Join(on + change) } else { Act::Leave(on - 1 - change) };
            put(Duration::from_secs_f64(at), act, true);
        }
        on = target;
    }
    let thousands = f64::from(profile.agents) / 1_000.0;
    let logins = hours(&day.logins_per_hour, hour, |logins| logins * thousands);
    for at in Schedule::new(logins, Arrivals::Poisson, profile.seed, share) {
        put(at, Act::Show, true);
        put(at + SHOWN, Act::Scan, true);
    }
    let clients = f64::from(profile.clients());
    let lost = hours(&day.online_percent, hour, |percent| clients * percent / 100.0 * day.reconnects_per_hour / 100.0);
    for at in Schedule::new(lost, Arrivals::Poisson, profile.seed ^ RECONNECTS, share) {
        put(at, Act::Reconnect, true);
    }
}

/// When lists are put in force. The first one not at once: everybody has just come.
pub(crate) fn lists(profile: &Profile) -> Vec<(Duration, List)> {
    let spread = |count: u32, whole: f64, list: List| {
        let each = whole / f64::from(count.max(1));
        (0..count).map(move |n| (Duration::from_secs_f64((f64::from(n) + 0.5) * each), list))
    };
    let mut lists: Vec<_> = match &profile.load {
        Load::Revocation(load) => spread(load.lists, profile.seconds(), List::Revocation).collect(),
        Load::Day(day) => spread(day.policies, profile.seconds(), List::Policy)
            .chain(spread(day.revocations, profile.seconds(), List::Revocation))
            .collect(),
        _ => vec![],
    };
    lists.sort_by_key(|(at, _)| *at);
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str, changes: &[&str]) -> Profile {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        Profile::load(name, &changes).unwrap()
    }

    #[test]
    fn a_qr_is_scanned_after_it_was_shown_and_the_warm_up_does_not_count() {
        let profile = profile("pairings", &["load.seconds=2", "load.warm_up_seconds=1", "load.per_second=50"]);
        let entries = agenda(&profile, Share::ALL);
        assert!(entries.is_sorted_by_key(|entry| entry.at));
        let (mut shown, mut scanned) = (0, 0);
        for entry in &entries {
            match entry.act {
                Act::Show => shown += 1,
                Act::Scan => scanned += 1,
                _ => panic!("{entry:?}"),
            }
            assert!(scanned <= shown);
            assert!(entry.measured || entry.at < Duration::from_millis(1_250));
        }
        assert_eq!(shown, scanned);
        assert!(entries.iter().any(|entry| entry.measured) && entries.iter().any(|entry| !entry.measured));
    }

    #[test]
    fn through_the_day_as_many_computers_are_on_as_the_curve_says() {
        let profile = profile("day", &["agents=1000", "load.seconds_per_hour=1"]);
        let Load::Day(day) = &profile.load else { panic!("another kind") };
        for share in [Share::ALL, Share { index: 1, of: 3 }] {
            let mine = share.members(1_000).count() as u32;
            let mut on: Vec<bool> = (0..mine).map(|n| n < at_first(&profile, mine)).collect();
            let entries = agenda(&profile, share);
            for (hour, percent) in day.online_percent.iter().enumerate() {
                for entry in entries.iter().filter(|entry| entry.at.as_secs() == hour as u64) {
                    match entry.act {
                        Act::Join(n) => assert!(!std::mem::replace(&mut on[n as usize], true), "{n} was on"),
                        Act::Leave(n) => assert!(std::mem::replace(&mut on[n as usize], false), "{n} was off"),
                        _ => {}
                    }
                }
                let count = on.iter().filter(|on| **on).count() as u32;
                assert_eq!(count, part(mine, *percent), "hour {hour}");
            }
        }
    }

    #[test]
    fn workers_together_do_what_one_would() {
        let profile = profile("fanout", &["load.seconds=10", "load.per_second=30", "load.channels=3"]);
        let together: usize = (0..4).map(|index| agenda(&profile, Share { index, of: 4 }).len()).sum();
        assert_eq!(together, agenda(&profile, Share::ALL).len());
    }
}
