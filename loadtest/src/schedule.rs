//! When things are meant to happen: decided before the test begins, and kept to whatever the server does.
//!
//! That is what *open loop* means. A tester that waits for an answer before it asks again asks less of a server that is slow,
//! and so measures only its good moments (coordinated omission). Here every moment is fixed by rate and seed; what can't be
//! sent in time is sent late, and its latency counts from when it was meant.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// As people come: at random, independent of each other (a Poisson process).
    #[default]
    Poisson,
    /// Evenly.
    Even,
}

/// A part of a schedule with one rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// How long it lasts, in seconds.
    pub seconds: f64,
    /// Arrivals a second.
    pub per_second: f64,
}

/// The moments of one worker's share of a load, as times since the load began.
#[derive(Debug, Clone)]
pub struct Schedule {
    stretches: Vec<Stretch>,
    arrivals: Arrivals,
    random: Random,
    /// The stretch that the next arrival may be in, with the seconds and the arrivals to be expected before it.
    stretch: (usize, f64, f64),
    /// Arrivals so far, and where the next one is on the scale on which one is expected for each unit.
    arrived: u64,
    first: f64,
    next: f64,
}

/// Which part of all it is: part `index` of `of` equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// From 0.
    pub index: u32,
    /// How many there are.
    pub of: u32,
}

impl Share {
    /// Everything.
    pub const ALL: Share = Share { index: 0, of: 1 };

    /// Which of `count` numbered things are of this part: every `of`-th.
    pub fn members(self, count: u32) -> impl Iterator<Item = u32> {
        (self.index..count).step_by(self.of.max(1) as usize)
    }
}

impl Schedule {
    /// A share of the arrivals at these rates. Shares of one seed differ, and together make the whole rate.
    pub fn new(stretches: Vec<Stretch>, arrivals: Arrivals, seed: u64, share: Share) -> Self {
        let of = f64::from(share.of.max(1));
        let stretches = stretches
            .into_iter()
            .map(|stretch| Stretch { per_second: (stretch.per_second / of).max(0.0), ..stretch })
            .collect();
        let mut random = Random::new(seed ^ (u64::from(share.index) << 32));
        // Even arrivals of several workers interleave.
        let first = match arrivals {
            Arrivals::Even => f64::from(share.index) / of,
            Arrivals::Poisson => random.exponential(),
        };
        Self { stretches, arrivals, random, stretch: (0, 0.0, 0.0), arrived: 0, first, next: first }
    }

    /// One rate for some time.
    pub fn steady(seconds: f64, per_second: f64, arrivals: Arrivals, seed: u64, share: Share) -> Self {
        Self::new(vec![Stretch { seconds, per_second }], arrivals, seed, share)
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let (mut index, mut seconds, mut expected) = self.stretch;
        let at = loop {
            let stretch = self.stretches.get(index)?;
            let here = stretch.seconds * stretch.per_second;
            if self.next < expected + here {
                break seconds + (self.next - expected) / stretch.per_second;
            }
            (index, seconds, expected) = (index + 1, seconds + stretch.seconds, expected + here);
        };
        self.stretch = (index, seconds, expected);
        self.arrived += 1;
        self.next = match self.arrivals {
            // Not by adding up: a million small errors would be one arrival more or less.
            Arrivals::Even => self.first + self.arrived as f64,
            Arrivals::Poisson => self.next + self.random.exponential(),
        };
        Some(Duration::from_secs_f64(at))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): repeatable, and good enough for spreading load.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.fraction() * bound as f64) as usize
    }

    /// With mean 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.fraction()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(index: u32, of: u32) -> Share {
        Share { index, of }
    }

    #[test]
    fn the_same_seed_is_the_same_load_and_another_one_is_not() {
        let moments = |seed| Schedule::steady(5.0, 100.0, Arrivals::Poisson, seed, Share::ALL).collect::<Vec<_>>();
        assert_eq!(moments(1), moments(1));
        assert_ne!(moments(1), moments(2));
    }

    #[test]
    fn arrivals_keep_their_rate_whatever_happens_to_what_they_start() {
        let moments: Vec<Duration> = Schedule::steady(10.0, 50.0, Arrivals::Even, 1, Share::ALL).collect();
        assert_eq!(moments.len(), 500);
        assert!(moments.iter().enumerate().all(|(n, at)| (at.as_secs_f64() - n as f64 * 0.02).abs() < 1e-6));
        let count = Schedule::steady(100.0, 200.0, Arrivals::Poisson, 3, Share::ALL).count() as f64;
        assert!((count - 20_000.0).abs() < 600.0, "{count}: more than four standard deviations off");
    }

    #[test]
    fn workers_share_a_load_without_doubling_or_bunching_it() {
        let mut together: Vec<Duration> =
            (0..4).flat_map(|index| Schedule::steady(10.0, 80.0, Arrivals::Even, 1, share(index, 4))).collect();
        together.sort();
        assert_eq!(together.len(), 800);
        assert!(together.windows(2).all(|pair| (pair[1] - pair[0]).as_secs_f64() > 0.012));
        let poisson = |index| Schedule::steady(10.0, 80.0, Arrivals::Poisson, 1, share(index, 4)).collect::<Vec<_>>();
        assert_ne!(poisson(0), poisson(1));
    }

    #[test]
    fn a_curve_is_followed_and_quiet_hours_are_quiet() {
        let curve = [(1.0, 10.0), (1.0, 0.0), (2.0, 100.0)];
        let stretches = curve.map(|(seconds, per_second)| Stretch { seconds, per_second }).to_vec();
        let moments: Vec<f64> =
            Schedule::new(stretches, Arrivals::Even, 1, Share::ALL).map(|at| at.as_secs_f64()).collect();
        let within = |from: f64, to: f64| moments.iter().filter(|at| (from..to).contains(*at)).count();
        assert_eq!((within(0.0, 1.0), within(1.0, 2.0), within(2.0, 4.0)), (10, 0, 200));
        assert_eq!(moments.len(), 210);
    }

    #[test]
    fn every_client_is_of_exactly_one_worker() {
        let mut all: Vec<u32> = (0..3).flat_map(|index| share(index, 3).members(10)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }
}
