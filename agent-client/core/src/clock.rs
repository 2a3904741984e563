//! Time that nobody can turn back.
//!
//! A grant's end is held by two clocks: the wall clock, which people read and an attacker or a flat battery can set, and
//! the seconds since boot, which nobody can set but which start anew with each boot. Whichever comes first ends the grant;
//! a reboot ends it too, as nothing of its sessions is left.
//!
//! The highest wall time ever seen is in the journal. A clock that is more than [`SLACK`] behind it was set back: approvals
//! long expired would look fresh, so nothing is granted until the clock is right, or an administrator says that it is.

use serde::{Deserialize, Serialize};

/// How far the wall clock may be behind the newest record: time synchronisation corrects by seconds, a zone or battery
/// fault by hours.
pub const SLACK: u64 = 5 * 60;

/// One boot of the machine: `/proc/sys/kernel/random/boot_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(#[serde(with = "serde_bytes")] pub [u8; 16]);

/// What the machine's clocks say, read by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix seconds.
    pub wall: u64,
    /// Seconds since boot, sleep included (`CLOCK_BOOTTIME`).
    pub uptime: u64,
    /// Which boot.
    pub boot: BootId,
}

/// When a grant ends, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// Unix seconds: what the technician approved.
    pub wall: u64,
    /// Seconds since the boot in which it was granted.
    pub uptime: u64,
    /// That boot.
    pub boot: BootId,
}

impl Deadline {
    /// The deadline at wall time `wall`, counted from now on both clocks.
    pub fn at(wall: u64, now: Now) -> Self {
        Self { wall, uptime: now.uptime.saturating_add(wall.saturating_sub(now.wall)), boot: now.boot }
    }

    /// Seconds that are left: the fewer of what the two clocks say, none after a reboot.
    pub fn left(&self, now: Now) -> u64 {
        if now.boot != self.boot {
            return 0;
        }
        self.wall.saturating_sub(now.wall).min(self.uptime.saturating_sub(now.uptime))
    }
}

/// The wall clock is far behind the newest record of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock was set back: it is {behind} seconds behind the newest record of the journal. Set it right; if it is right now and \
     was wrong before, run `gatepass-agent accept-clock`"
)]
pub struct ClockSetBack {
    /// By how much.
    pub behind: u64,
}

/// Remembers the highest time seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Guard {
    highest: u64,
}

impl Guard {
    pub(crate) fn see(&mut self, wall: u64) {
        self.highest = self.highest.max(wall);
    }

    /// An administrator says that the clock is right.
    pub(crate) fn accept(&mut self, wall: u64) {
        self.highest = wall;
    }

    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    pub(crate) fn check(&self, wall: u64) -> Result<(), ClockSetBack> {
        match self.highest.saturating_sub(wall) {
            behind if behind > SLACK => Err(ClockSetBack { behind }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 16]);

    fn now(wall: u64, uptime: u64) -> Now {
        Now { wall, uptime, boot: BOOT }
    }

    #[test]
    fn whichever_clock_comes_first_ends_the_grant() {
        let deadline = Deadline::at(2000, now(1000, 50));
        assert_eq!(deadline.left(now(1400, 450)), 600);
        assert_eq!(deadline.left(now(100, 1049)), 1, "the wall clock was set back, the uptime holds");
        assert_eq!(deadline.left(now(100, 1050)), 0);
        assert_eq!(deadline.left(now(2000, 60)), 0, "the wall clock was set forward");
        assert_eq!(deadline.left(Now { boot: BootId([2; 16]), ..now(1001, 51) }), 0, "a reboot");
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed_until_it_is_accepted() {
        let mut guard = Guard::default();
        guard.see(10_000);
        assert_eq!(guard.check(10_000 - SLACK), Ok(()), "a small correction is no attack");
        assert_eq!(guard.check(10_000 - SLACK - 1), Err(ClockSetBack { behind: SLACK + 1 }));
        guard.see(5_000);
        assert!(guard.check(5_000).is_err(), "seeing an earlier time forgets nothing");
        guard.accept(5_000);
        assert_eq!(guard.check(5_000), Ok(()));
    }
}
