//! Which relay to be at, where a tenant has several: the nearest one that works, found out by measuring.
//!
//! A measurement is what a new connection costs: name lookup, TCP, proxy, TLS, and the answer to whether the relay is ready.
//! All are measured at the start, and the nearest is *home*. From then on the home and the next best are measured again and
//! again, so that there is always one of which it is known that it works; all of them seldom, for each costs its relay a
//! handshake. When the home is lost, the connection goes to the next best; it returns when the home has been well for a
//! while, not in the middle of a pairing, and at a moment of its own, or the crowd that fled together would be back together.
//!
//! [`Ranks`] judges and knows neither clock nor sockets; [`watch_over`] measures.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{Endpoint, Http, Method, Settings, backoff, edge};

/// A relay that takes longer is none to go to.
const LONGEST: Duration = Duration::from_secs(3);
/// All are measured in every so many rounds.
const ALL_EVERY: u32 = 6;
/// The home has to have been well this often in a row before it is returned to.
const WELL: u32 = 2;
/// Another relay becomes the home only if it is nearer by more than a quarter, and by more than this: or two that are alike
/// would take turns.
const CLEARLY: Duration = Duration::from_millis(3);

/// How a connection looks after several relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regions {
    /// Between two rounds of measuring the home and the next best, give or take half.
    pub measure_every: Duration,
    /// Between two looks at a home that the connection is away from, give or take half.
    pub look_home_every: Duration,
    /// A home that is well again is returned to within this time, each client at its own moment.
    pub return_within: Duration,
}

impl Default for Regions {
    fn default() -> Self {
        Self {
            measure_every: Duration::from_secs(600),
            look_home_every: Duration::from_secs(30),
            return_within: Duration::from_secs(180),
        }
    }
}

/// What is known of one relay.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// What a connection costs, smoothed; `None`: never reached.
    cost: Option<Duration>,
    /// Good measurements since the last bad one.
    well: u32,
    /// Whether the last measurement, or connection, was bad.
    down: bool,
}

/// What has been measured so far.
#[derive(Clone, Debug)]
pub(crate) struct Ranks {
    seen: Vec<Seen>,
    home: usize,
}

impl Ranks {
    pub(crate) fn new(relays: usize) -> Self {
        Self { seen: vec![Seen::default(); relays], home: 0 }
    }

    /// Where to go, best first: the home, then the nearest, then those of which nothing is known, then those that are down;
    /// among equals in the list's order.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.seen.len()).collect();
        order.sort_by_key(|&at| {
            let seen = self.seen[at];
            (seen.down, at != self.home, seen.cost.is_none(), seen.cost)
        });
        order
    }

    /// Takes a measurement; `None`: not reached, or not ready.
    pub(crate) fn measured(&mut self, at: usize, cost: Option<Duration>) {
        let Some(seen) = self.seen.get_mut(at) else { return };
        match cost {
            Some(cost) => {
                // Towards the new value by a third: one slow answer moves nobody.
                seen.cost = Some(seen.cost.map_or(cost, |old| (old * 2 + cost) / 3));
                seen.well = seen.well.saturating_add(1);
                seen.down = false;
            }
            None => (seen.well, seen.down) = (0, true),
        }
        self.settle();
    }

    /// A connection there failed or was lost: not a place to go back to before it has been measured.
    pub(crate) fn failed(&mut self, at: usize) {
        if let Some(seen) = self.seen.get_mut(at) {
            (seen.well, seen.down) = (0, true);
        }
    }

    /// Whether the home is well enough to be returned to.
    pub(crate) fn home_is_well(&self) -> bool {
        self.seen.get(self.home).is_some_and(|home| home.well >= WELL && !home.down)
    }

    /// Another home, if one is clearly nearer. One that is down for now stays the home: it is where the others of this
    /// place are, and will be again.
    fn settle(&mut self) {
        let nearest = self.order().into_iter().filter(|&at| !self.seen[at].down).min_by_key(|&at| {
            let cost = self.seen[at].cost;
            (cost.is_none(), cost)
        });
        let Some(nearest) = nearest.filter(|nearest| *nearest != self.home) else { return };
        let (Some(new), old) = (self.seen[nearest].cost, self.seen[self.home].cost) else { return };
        let is_clear = old.is_none_or(|old| new * 4 < old * 3 && new + CLEARLY < old);
        if is_clear {
            self.home = nearest;
        }
    }
}

/// What the measuring and the connection share.
#[derive(Clone)]
pub(crate) struct Board(Arc<Shared>);

struct Shared {
    ranks: Mutex<Ranks>,
    /// Something was measured.
    news: watch::Sender<()>,
    /// Where the connection is, if it is anywhere.
    at: watch::Sender<Option<usize>>,
    /// Look at the home soon.
    away: Notify,
}

impl Board {
    pub(crate) fn new(relays: usize) -> Self {
        Self(Arc::new(Shared {
            ranks: Mutex::new(Ranks::new(relays)),
            news: watch::Sender::new(()),
            at: watch::Sender::new(None),
            away: Notify::new(),
        }))
    }

    /// Where to be.
    pub(crate) fn home(&self) -> usize {
        self.ranks().home
    }

    /// Where to go, best first.
    pub(crate) fn order(&self) -> Vec<usize> {
        self.ranks().order()
    }

    /// A connection there failed.
    pub(crate) fn failed(&self, at: usize) {
        self.ranks().failed(at);
    }

    /// Private: two guards in one expression would wait for each other.
    fn ranks(&self) -> MutexGuard<'_, Ranks> {
        self.0.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is there now, or nowhere.
    pub(crate) fn is_at(&self, at: Option<usize>) {
        self.0.at.send_replace(at);
        let away = at.is_some_and(|at| at != self.home());
        if away {
            self.0.away.notify_one();
        }
    }

    fn measured(&self, results: impl IntoIterator<Item = (usize, Option<Duration>)>) {
        let mut ranks = self.ranks();
        results.into_iter().for_each(|(at, cost)| ranks.measured(at, cost));
        drop(ranks);
        self.0.news.send_replace(());
    }

    /// Returns when a connection that is `at` some relay should go home.
    pub(crate) async fn time_to_return(self, at: usize, regions: Regions) {
        let mut news = self.0.news.subscribe();
        let should = |board: &Self| {
            let ranks = board.ranks();
            ranks.home != at && ranks.home_is_well()
        };
        loop {
            while !should(&self) {
                // The other side of it is held here, so this can't fail.
                let _ = news.changed().await;
            }
            sleep(backoff::jitter(regions.return_within, random())).await;
            if should(&self) {
                return;
            }
        }
    }
}

/// Measures all relays once; returns as soon as there is one to go to and the others have had their chance.
pub(crate) async fn measure_all(settings: &Settings, board: &Board) {
    let all: Vec<usize> = (0..settings.relays.len()).collect();
    measure(settings, board, &all).await;
}

/// Measures again and again, until dropped.
pub(crate) async fn watch_over(settings: Settings, board: Board, regions: Regions) {
    for round in 1_u32.. {
        let begun = Instant::now();
        let pause = regions.measure_every / 2 + backoff::jitter(regions.measure_every, random());
        while begun.elapsed() < pause {
            let home = board.home();
            let is_away = board.0.at.borrow().is_some_and(|at| at != home);
            let left = pause.saturating_sub(begun.elapsed());
            if is_away {
                let look = regions.look_home_every / 2 + backoff::jitter(regions.look_home_every, random());
                sleep(look.min(left)).await;
                measure(&settings, &board, &[home]).await;
            } else {
                let _ = timeout(left, board.0.away.notified()).await;
            }
        }
        let order = board.order();
        let few = if round % ALL_EVERY == 0 { order.len() } else { 2 };
        measure(&settings, &board, &order[..few.min(order.len())]).await;
    }
}

async fn measure(settings: &Settings, board: &Board, which: &[usize]) {
    let mut tasks = JoinSet::new();
    for &at in which {
        let Some(relay) = settings.relays.get(at).cloned() else { continue };
        let settings = settings.clone();
        tasks.spawn(async move { (at, cost(&settings, &relay).await) });
    }
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.extend(result.ok());
    }
    board.measured(results);
}

/// What a connection to a relay costs now; `None` where it is not reached, or is not ready for clients.
async fn cost(settings: &Settings, relay: &Endpoint) -> Option<Duration> {
    let http = Http::new(&relay.to_string(), settings.tls.clone(), settings.proxies.clone()).ok()?;
    let begun = Instant::now();
    match timeout(LONGEST, http.request(Method::GET, "/health/ready", None)).await {
        Ok(Ok(_)) => Some(begun.elapsed()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a relay could not be measured");
            None
        }
        Err(_) => None,
    }
}

fn random() -> u64 {
    u64::from_le_bytes(edge::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn the_nearest_is_home_and_the_rest_follow_by_distance() {
        let mut ranks = Ranks::new(4);
        for (at, cost) in [(0, ms(80)), (1, ms(20)), (2, None), (3, ms(40))] {
            ranks.measured(at, cost);
        }
        assert_eq!((ranks.home, ranks.order()), (1, vec![1, 3, 0, 2]));
        assert_eq!(Ranks::new(3).order(), [0, 1, 2], "nothing is known: the list's order");
    }

    #[test]
    fn two_that_are_alike_do_not_take_turns() {
        let mut ranks = Ranks::new(2);
        ranks.measured(0, ms(20));
        for cost in [18, 22, 17, 16, 19] {
            ranks.measured(1, ms(cost));
            assert_eq!(ranks.home, 0);
        }
        // Fractions of a millisecond apart, as in one building.
        let mut ranks = Ranks::new(2);
        ranks.measured(0, Some(Duration::from_micros(900)));
        ranks.measured(1, Some(Duration::from_micros(300)));
        assert_eq!(ranks.home, 0);
    }

    #[test]
    fn one_slow_answer_moves_nobody_and_a_computer_that_was_carried_away_moves() {
        let mut ranks = Ranks::new(2);
        ranks.measured(0, ms(20));
        ranks.measured(1, ms(60));
        ranks.measured(0, ms(90));
        assert_eq!(ranks.home, 0);
        for _ in 0..10 {
            ranks.measured(0, ms(120));
            ranks.measured(1, ms(15));
        }
        assert_eq!(ranks.home, 1);
    }

    #[test]
    fn a_home_that_is_down_is_gone_to_last_and_stays_the_home() {
        let mut ranks = Ranks::new(3);
        for (at, cost) in [(0, ms(10)), (1, ms(50)), (2, ms(30))] {
            ranks.measured(at, cost);
        }
        ranks.failed(0);
        assert_eq!((ranks.home, ranks.order()), (0, vec![2, 1, 0]));
        assert!(!ranks.home_is_well());
        ranks.measured(0, ms(10));
        assert!(!ranks.home_is_well(), "not by one good measurement");
        ranks.measured(0, ms(10));
        assert!(ranks.home_is_well() && ranks.order()[0] == 0);
    }
}
