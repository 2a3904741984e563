//! Time in nanoseconds, the same for all processes of a machine, and waiting for a moment of it.
//!
//! Tokio's timers round up to a millisecond, which would be twenty times what is measured; a `timerfd` is late by what the
//! system takes to wake a thread.

use std::{io, ops::Add, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe::Receiver;

/// A moment: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
        Self(tv_sec.cast_unsigned() * 1_000_000_000 + tv_nsec.cast_unsigned())
    }

    /// The time from `earlier` to this moment; none if it is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Waits for moments, one after the other.
#[derive(Debug)]
pub struct Pacer {
    timer: OwnedFd,
    /// The same timer, as something that tokio waits to read from.
    rings: Receiver,
}

impl Pacer {
    /// A timer, inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let rings = Receiver::from_owned_fd_unchecked(timer.try_clone()?)?;
        Ok(Self { timer, rings })
    }

    /// Returns at this moment, at once if it has passed.
    pub async fn until(&mut self, at: Moment) -> io::Result<()> {
        if at <= Moment::now() {
            return Ok(());
        }
        let it_value =
            Timespec { tv_sec: (at.0 / 1_000_000_000).cast_signed(), tv_nsec: (at.0 % 1_000_000_000).cast_signed() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        while Moment::now() < at {
            self.rings.readable().await?;
            // How often it rang, in eight bytes; nothing where tokio was too early.
            let _ = self.rings.try_read(&mut [0; 8]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pacer_never_returns_early_and_never_hangs_on_what_is_past() {
        let mut pacer = Pacer::new().unwrap();
        for micros in [300, 0, 50, 2_000, 1] {
            let at = Moment::now() + Duration::from_micros(micros);
            pacer.until(at).await.unwrap();
            assert!(Moment::now() >= at);
        }
        pacer.until(Moment(0)).await.unwrap();
    }
}
