//! Who may take up the relay's time before it is known who they are.
//!
//! Checked for each socket, cheapest first and before TLS: a bucket for all new sockets, a bound on all sockets, a token
//! bucket for each address, and once it has said something, a bound on those that have not authenticated. An IPv6 customer
//! has a whole /64, so that is what counts as an address there.
//!
//! A crowd that comes at once is not sent away where it need not be: who was refused comes again, which costs both ends more
//! than to wait. So what is over the rate stays in the kernel's queue, and what is over the bound on handshakes waits here for
//! its [turn](crate::turns), both for no longer than a client would.
//!
//! Whoever is stopped is told so with 503 and a time to come back, as long as only few are being told and telling is cheap:
//! a TLS handshake is the very thing that the limits are there to save, so with TLS the socket is just closed.
//!
//! What is known of a client once it has authenticated is for [`crate::rates`] to limit.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, clock::Clock};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use crate::{
    config::Limits,
    locked,
    metrics::{Limit, Metrics},
    rates::Rates,
    turns::{Turn, Turns},
};

/// How often a table of buckets may be searched for those that are full again.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// How long a socket may be in the kernel's queue. Together with its turn less than the ten seconds after which a client gives
/// up: otherwise nobody in the queue would be there any more when it is reached.
const QUEUED: Duration = Duration::from_secs(2);
/// How long it may wait for its turn.
const TURN: Duration = Duration::from_secs(7);
/// The shortest pause of the one who accepts: timers know nothing shorter.
const PAUSE: Duration = Duration::from_millis(1);
/// Sockets at once that are told to wait, besides those that are let in: each lasts one short request.
const TOLD_AT_ONCE: usize = 64;

/// The gate in front of the relay.
#[derive(Debug)]
pub(crate) struct Admission {
    accepts: DefaultDirectRateLimiter,
    connections: Arc<Semaphore>,
    turns: Arc<Turns>,
    told: Arc<Semaphore>,
    addresses: Buckets<IpAddr>,
    /// What clients may ask for after they have authenticated.
    pub(crate) rates: Rates,
    metrics: Arc<Metrics>,
    all: u32,
}

/// A socket that was let in.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Held as long as the socket is open.
    pub(crate) connection: OwnedSemaphorePermit,
    /// Held until it has authenticated, or shown that it belongs to somebody who is being served.
    pub(crate) handshake: Option<Turn>,
}

impl Admission {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let accepts = Quota::per_second(limits.accepts_per_second).allow_burst(limits.accept_burst);
        let addresses = Quota::per_second(limits.ip_per_second).allow_burst(limits.ip_burst);
        Self {
            accepts: DefaultDirectRateLimiter::direct(accepts),
            connections: Arc::new(Semaphore::new(limits.connections as usize)),
            turns: Turns::new(limits.handshakes, metrics.clone()),
            told: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
            addresses: Buckets::new(addresses, limits.ip_tracked as usize),
            rates: Rates::new(limits, metrics.clone()),
            metrics,
            all: limits.connections,
        }
    }

    /// Waits until one more socket may be taken from the kernel's queue, which was `seen` empty then: so nobody in it has been
    /// there for longer. Where that may be too long, it is refused instead, and so are those behind it, until the queue is
    /// empty again or there is room.
    pub(crate) async fn pace(&self, seen: Instant) -> Result<(), Limit> {
        while let Err(until) = self.accepts.check() {
            if seen.elapsed() >= QUEUED {
                self.metrics.refused.inc(Limit::AcceptRate);
                return Err(Limit::AcceptRate);
            }
            sleep(until.wait_time_from(self.accepts.clock().now()).max(PAUSE)).await;
        }
        Ok(())
    }

    /// Lets a socket in that has said nothing yet, if there is room for one more.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Limit> {
        self.connections.clone().try_acquire_owned().map_err(|_| {
            self.metrics.refused.inc(Limit::Connections);
            Limit::Connections
        })
    }

    /// Waits until one more may be there that has not authenticated.
    pub(crate) async fn turn(&self, from: IpAddr) -> Result<Turn, Limit> {
        let turn = self.turns.wait(subscriber_of(from), TURN).await;
        turn.ok_or(Limit::Handshakes).inspect_err(|limit| self.metrics.refused.inc(*limit))
    }

    /// Whether one more may be there right now that has not authenticated.
    pub(crate) fn turn_now(&self) -> Result<Turn, Limit> {
        self.turns.take().ok_or(Limit::Handshakes).inspect_err(|limit| self.metrics.refused.inc(*limit))
    }

    /// Whether an address comes no more often than it may. One that does is counted as refused.
    pub(crate) fn in_time(&self, address: IpAddr) -> Result<(), Limit> {
        if self.addresses.has_token(&subscriber_of(address)) {
            return Ok(());
        }
        self.metrics.refused.inc(Limit::IpRate);
        Err(Limit::IpRate)
    }

    /// A place in which a socket that was not let in is told so, if there is one.
    pub(crate) fn place_to_be_told(&self) -> Option<OwnedSemaphorePermit> {
        self.told.clone().try_acquire_owned().ok()
    }

    /// Waits until every socket that was let in is gone.
    pub(crate) async fn empty(&self) {
        // An error would mean that the semaphore was closed, which nobody does.
        let _ = self.connections.acquire_many(self.all).await;
    }
}

/// A token bucket for each key. The table is bounded, or somebody with many keys would fill memory: while it is full,
/// those that are not in it share one bucket.
#[derive(Debug)]
pub(crate) struct Buckets<K: Hash + Eq + Clone> {
    each: DefaultKeyedRateLimiter<K>,
    rest: DefaultDirectRateLimiter,
    tracked: usize,
    tidied: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(crate) fn new(quota: Quota, tracked: usize) -> Self {
        Self {
            each: DefaultKeyedRateLimiter::keyed(quota),
            rest: DefaultDirectRateLimiter::direct(quota),
            tracked,
            tidied: Mutex::new(Instant::now()),
        }
    }

    pub(crate) fn has_token(&self, key: &K) -> bool {
        if self.each.len() >= self.tracked {
            let mut tidied = locked(&self.tidied);
            if tidied.elapsed() >= TIDY_EVERY {
                *tidied = Instant::now();
                self.each.retain_recent();
                self.each.shrink_to_fit();
            }
            drop(tidied);
            if self.each.len() >= self.tracked {
                return self.rest.check().is_ok();
            }
        }
        self.each.check_key(key).is_ok()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.each.len()
    }
}

/// What one customer of a network provider has: an IPv4 address, or an IPv6 /64.
fn subscriber_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use futures_util::FutureExt as _;

    use super::*;

    fn gate(change: impl FnOnce(&mut Limits)) -> Admission {
        let mut limits = Limits { ip_per_second: NonZeroU32::MIN, ip_burst: NonZeroU32::MIN, ..Limits::default() };
        change(&mut limits);
        Admission::new(&limits, Arc::default())
    }

    fn v6(last: u16, network: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, last).into()
    }

    #[test]
    fn a_network_is_one_address_however_many_it_has() {
        let gate = gate(|_| {});
        let hurried = |from| gate.in_time(from).err() == Some(Limit::IpRate);
        assert!(!hurried(v6(1, 1)));
        assert!(hurried(v6(2, 1)));
        assert!(!hurried(v6(1, 2)), "the neighbour is not to blame");
        assert!(!hurried([192, 0, 2, 1].into()));
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert!(hurried(mapped), "the same address in disguise");
        assert_eq!(gate.metrics.refused.of(Limit::IpRate).get(), 2);
    }

    #[test]
    fn an_attacker_with_many_addresses_fills_no_memory() {
        let gate = gate(|limits| limits.ip_tracked = 10);
        let admitted = (0..1_000).filter(|network| gate.in_time(v6(1, *network)).is_ok()).count();
        assert!(gate.addresses.len() <= 10);
        assert_eq!(admitted, 11, "ten of their own, and one from the bucket that all share");
    }

    #[test]
    fn sockets_are_counted_while_they_are_open_and_handshakes_while_they_last() {
        let gate = gate(|limits| (limits.connections, limits.handshakes) = (2, 1));
        let first = gate.admit().unwrap();
        let handshake = gate.turn_now().unwrap();
        assert_eq!(gate.turn_now().unwrap_err(), Limit::Handshakes);
        assert_eq!(gate.metrics.handshakes.get(), 1);
        drop(handshake);
        let _second = gate.admit().unwrap();
        assert!(gate.turn_now().is_ok());
        assert_eq!(gate.admit().unwrap_err(), Limit::Connections);
        drop(first);
        assert!(gate.admit().is_ok());
    }

    #[tokio::test]
    async fn what_comes_too_fast_stays_in_the_queue_until_its_client_would_no_longer_be_there() {
        let once = NonZeroU32::MIN;
        let gate = gate(|limits| (limits.accepts_per_second, limits.accept_burst) = (once, once));
        let now = Instant::now();
        assert_eq!(gate.pace(now).await, Ok(()));
        assert!(gate.pace(now).now_or_never().is_none(), "it can wait");
        let long_ago = now.checked_sub(QUEUED).unwrap();
        assert_eq!(gate.pace(long_ago).await, Err(Limit::AcceptRate), "it has waited");
        assert_eq!(gate.metrics.refused.of(Limit::AcceptRate).get(), 1);
    }

    #[test]
    fn only_few_are_told_to_wait_at_once() {
        let gate = gate(|_| {});
        let places: Vec<_> = (0..TOLD_AT_ONCE).map(|_| gate.place_to_be_told().unwrap()).collect();
        assert!(gate.place_to_be_told().is_none());
        drop(places);
        assert!(gate.place_to_be_told().is_some());
    }
}
