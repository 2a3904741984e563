//! The counters that make eight digits enough: how often somebody guessed, and which codes by the time were used.
//!
//! A guess is on the disk before it is compared, so that pulling the plug buys no further one; what can't be written is not compared.
//! Whoever takes the file away wins nothing either: counters that begin anew take no code before the control plane has been heard.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gatepass_agent_core::clock::{BootId, Now};
use gatepass_protocol::ids::DeviceId;
use gatepass_protocol::offline::{TIME_SLACK, TIME_STEP};
use serde::{Deserialize, Serialize};

use crate::identity::replace_file;

/// So many failures in a row lock a technician's codes.
pub(crate) const FAILURES: u32 = 5;
/// For so many seconds the first time; each further failure doubles it.
pub(crate) const FIRST_LOCK: u64 = 60;
/// A lock is no longer than a day: long enough for nobody to guess, short enough to get over a prank.
const LONGEST_LOCK: u64 = 86_400;

/// The counters, as they are on the disk.
pub(crate) struct Counters {
    file: PathBuf,
    kept: Kept,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Kept {
    /// When the control plane was last heard, in Unix seconds; none: never since the counters were begun.
    heard: Option<u64>,
    /// Codes by the time count from this step on.
    first_step: u64,
    /// By the account of the technician whose codes are guessed; all that belong to nobody count as one.
    guesses: BTreeMap<String, Guesses>,
    /// The newest step of which a device's code was used.
    steps: BTreeMap<String, u64>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Guesses {
    failures: u32,
    lock: Option<Lock>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Lock {
    seconds: u64,
    from: u64,
    uptime: u64,
    boot: BootId,
}

impl Lock {
    /// By the clock that nobody can set, as long as the machine is not booted anew; by the other one then, and never longer than it
    /// was meant.
    fn left(&self, now: Now) -> u64 {
        let passed = match now.boot == self.boot {
            true => now.uptime.saturating_sub(self.uptime),
            false => now.wall.saturating_sub(self.from),
        };
        self.seconds.saturating_sub(passed)
    }
}

/// Why a code is not even compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoGuess {
    #[error("locked for {seconds} more seconds")]
    Locked { seconds: u64 },
    #[error("the counters can't be written: {0}")]
    Disk(#[from] io::Error),
    #[error("this code was used before")]
    Used,
}

impl Counters {
    /// What was kept; nothing, or something damaged, begins anew.
    pub(crate) fn open(state: &Path, now: Now) -> Self {
        let file = state.join("offline.json");
        let kept = match fs::read(&file).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                tracing::error!(%error, file = %file.display(), "the counters of offline codes are damaged: they begin anew");
                Kept::anew(now)
            }
            Err(_) => Kept::anew(now),
        };
        Self { file, kept }
    }

    /// The control plane was heard now.
    pub(crate) fn heard(&mut self, now: Now) -> io::Result<()> {
        self.change(|kept| kept.heard = Some(now.wall))
    }

    /// When it was last heard; none: never since the counters were begun.
    pub(crate) fn last_heard(&self) -> Option<u64> {
        self.kept.heard
    }

    /// Whether these codes are locked, and for how many seconds.
    pub(crate) fn locked(&self, account: &str, now: Now) -> Option<u64> {
        self.kept.guesses.get(account)?.lock.map(|lock| lock.left(now)).filter(|left| *left > 0)
    }

    /// A code was typed: counts as a failure from now on, until [`Counters::right`] takes it back.
    pub(crate) fn guess(&mut self, account: &str, now: Now) -> Result<(), NoGuess> {
        if let Some(seconds) = self.locked(account, now) {
            return Err(NoGuess::Locked { seconds });
        }
        self.change(|kept| {
            let guesses = kept.guesses.entry(account.to_owned()).or_default();
            guesses.failures = guesses.failures.saturating_add(1);
            guesses.lock = guesses.failures.checked_sub(FAILURES).map(|more| Lock {
                seconds: FIRST_LOCK.saturating_mul(1 << more.min(20)).min(LONGEST_LOCK),
                from: now.wall,
                uptime: now.uptime,
                boot: now.boot,
            });
        })?;
        Ok(())
    }

    /// The first step of the time whose code this device may still use.
    pub(crate) fn first_step(&self, device: DeviceId) -> u64 {
        let used = self.kept.steps.get(&device.to_string()).map_or(0, |step| step + 1);
        used.max(self.kept.first_step)
    }

    /// The code was right: the failures are forgotten, and one by the time is used up.
    pub(crate) fn right(&mut self, account: &str, by_time: Option<(DeviceId, u64)>) -> Result<(), NoGuess> {
        // Somebody may have used the same code since it was compared.
        if by_time.is_some_and(|(device, step)| step < self.first_step(device)) {
            return Err(NoGuess::Used);
        }
        self.change(|kept| {
            kept.guesses.remove(account);
            kept.steps.extend(by_time.map(|(device, step)| (device.to_string(), step)));
        })?;
        Ok(())
    }

    /// Writes first: what is not on the disk has not happened.
    fn change(&mut self, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let mut changed = self.kept.clone();
        change(&mut changed);
        replace_file(&self.file, &serde_json::to_vec(&changed)?)?;
        self.kept = changed;
        Ok(())
    }
}

impl Kept {
    /// Codes of now may have been used under the counters that are gone.
    fn anew(now: Now) -> Self {
        Self { first_step: now.wall / TIME_STEP + 2 * TIME_SLACK + 1, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 16]);

    fn at(wall: u64) -> Now {
        Now { wall, uptime: wall, boot: BOOT }
    }

    fn locked(counters: &mut Counters, now: Now) -> Option<u64> {
        match counters.guess("gp-alex", now) {
            Ok(()) => None,
            Err(NoGuess::Locked { seconds }) => Some(seconds),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn five_failures_lock_for_a_minute_and_each_further_one_twice_as_long() {
        let state = tempfile::tempdir().unwrap();
        let mut counters = Counters::open(state.path(), at(1000));
        for _ in 0..FAILURES {
            assert_eq!(locked(&mut counters, at(1000)), None);
        }
        assert_eq!(locked(&mut counters, at(1000)), Some(60));
        assert_eq!(locked(&mut counters, at(1059)), Some(1));
        assert_eq!(locked(&mut counters, at(1060)), None);
        assert_eq!(locked(&mut counters, at(1060)), Some(120));
        assert!(counters.guess("gp-kim", at(1060)).is_ok(), "another technician's codes are not locked");
        counters.right("gp-alex", None).unwrap();
        for _ in 0..FAILURES {
            assert_eq!(locked(&mut counters, at(1061)), None, "a right code forgets the failures");
        }
    }

    #[test]
    fn a_lock_and_the_failures_outlive_a_restart() {
        let state = tempfile::tempdir().unwrap();
        for _ in 0..FAILURES {
            // Killed after each guess, before anything was compared.
            assert_eq!(locked(&mut Counters::open(state.path(), at(1000)), at(1000)), None);
        }
        assert_eq!(locked(&mut Counters::open(state.path(), at(1010)), at(1010)), Some(50));
    }

    #[test]
    fn no_clock_that_is_set_makes_a_lock_shorter_or_longer() {
        let state = tempfile::tempdir().unwrap();
        let mut counters = Counters::open(state.path(), at(1000));
        for _ in 0..FAILURES {
            counters.guess("gp-alex", at(1000)).unwrap();
        }
        let set = |wall, uptime| Now { wall, uptime, boot: BOOT };
        assert_eq!(counters.locked("gp-alex", set(900_000, 1010)), Some(50), "set forward");
        assert_eq!(counters.locked("gp-alex", set(1, 1010)), Some(50), "set back");
        let booted = |wall| Now { wall, uptime: 3, boot: BootId([2; 16]) };
        assert_eq!(counters.locked("gp-alex", booted(1030)), Some(30));
        assert_eq!(counters.locked("gp-alex", booted(5)), Some(60), "set back before a boot: as long as it was meant");
    }

    #[test]
    fn a_code_by_the_time_is_used_once_also_after_a_restart() {
        let (state, device) = (tempfile::tempdir().unwrap(), DeviceId([9; 16]));
        let mut counters = Counters::open(state.path(), at(0));
        counters.right("gp-alex", Some((device, 100))).unwrap();
        for mut counters in [counters, Counters::open(state.path(), at(0))] {
            assert_eq!(counters.first_step(device), 101);
            assert!(matches!(counters.right("gp-alex", Some((device, 100))), Err(NoGuess::Used)));
            assert!(matches!(counters.right("gp-alex", Some((device, 99))), Err(NoGuess::Used)));
        }
    }

    #[test]
    fn counters_that_were_deleted_or_damaged_take_nothing_until_the_control_plane_is_heard() {
        let (state, device) = (tempfile::tempdir().unwrap(), DeviceId([9; 16]));
        let mut counters = Counters::open(state.path(), at(3000));
        counters.heard(at(3000)).unwrap();
        counters.right("gp-alex", Some((device, 103))).unwrap();
        assert_eq!(counters.last_heard(), Some(3000));
        for damage in [None, Some("{")] {
            match damage {
                None => fs::remove_file(state.path().join("offline.json")).unwrap(),
                Some(text) => fs::write(state.path().join("offline.json"), text).unwrap(),
            }
            let counters = Counters::open(state.path(), at(3030));
            assert_eq!(counters.last_heard(), None);
            assert!(counters.first_step(device) > 3030 / TIME_STEP + TIME_SLACK, "no code of now may come again");
        }
    }

    #[test]
    fn what_can_not_be_written_is_not_compared() {
        let state = tempfile::tempdir().unwrap();
        let mut counters = Counters::open(&state.path().join("gone"), at(1000));
        assert!(matches!(counters.guess("gp-alex", at(1000)), Err(NoGuess::Disk(_))));
        assert!(matches!(counters.right("gp-alex", None), Err(NoGuess::Disk(_))));
    }
}
