//! One timing wheel for all connections: who is to be looked at in which second.
//!
//! A timer for each of a hundred thousand idle connections would be memory and work for nothing; none of their times matters
//! to the second. Nothing is ever taken out: whoever is gone when its second comes is skipped.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use crate::locked;

/// Why a connection is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Whether it is still there and still may be, and to ping it.
    Beat,
    /// Whether its socket still takes nothing.
    Stall,
}

/// The wheel, and the clock that it turns by: whole seconds since it was made.
#[derive(Debug)]
pub(crate) struct Wheel {
    begun: Instant,
    seconds: AtomicU32,
    slots: Mutex<BTreeMap<u32, Vec<(u64, Due)>>>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { begun: Instant::now(), seconds: AtomicU32::new(0), slots: Mutex::default() }
    }
}

impl Wheel {
    /// The second that it is, without asking the machine's clock.
    pub(crate) fn now(&self) -> u32 {
        self.seconds.load(Relaxed)
    }

    /// Looks at a connection after so many seconds.
    pub(crate) fn after(&self, seconds: u32, id: u64, due: Due) {
        let at = self.now().saturating_add(seconds.max(1));
        locked(&self.slots).entry(at).or_default().push((id, due));
    }

    /// Turns to the present. Returns who is due.
    pub(crate) fn turn(&self) -> Vec<(u64, Due)> {
        let now = u32::try_from(self.begun.elapsed().as_secs()).unwrap_or(u32::MAX);
        if now == self.now() {
            return vec![];
        }
        self.seconds.store(now, Relaxed);
        let mut slots = locked(&self.slots);
        let later = slots.split_off(&now.saturating_add(1));
        std::mem::replace(&mut *slots, later).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_due_once_in_its_second_and_not_before() {
        let wheel = Wheel::default();
        wheel.after(2, 1, Due::Beat);
        wheel.after(0, 2, Due::Stall);
        wheel.after(300, 3, Due::Beat);
        assert_eq!(wheel.turn(), []);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(wheel.turn(), [(2, Due::Stall)]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(wheel.turn(), [(1, Due::Beat)], "late, where the machine was busy, but not lost");
        tokio::time::advance(Duration::from_secs(400)).await;
        assert_eq!(wheel.turn(), [(3, Due::Beat)]);
        assert_eq!(wheel.now(), 411);
        assert_eq!(wheel.turn(), []);
    }
}
