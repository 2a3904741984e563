//! Turns: how many sockets may speak at once before it is known who they are, and who is next.
//!
//! When more come than there are turns, addresses take turns: one that has just come is next, then each in the order in which it
//! had its last. Of one address, who came last is next. So somebody who comes alone waits neither for a crowd from elsewhere
//! nor, while few come, for the crowd behind the same address; the crowd as a whole is no later for it. However many have just
//! come, every fourth turn is for the address that has waited longest: a few that come again and again keep no office out.
//! Whoever waits longer than it should is refused, so what is never served is never older than that.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::{
    locked,
    metrics::{Held, Metrics},
};

/// Turns in a row for addresses that have just come, while others wait.
const NEW_IN_A_ROW: u32 = 3;

/// A bounded number of turns.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    free: u32,
    /// Those who wait.
    addresses: HashMap<IpAddr, Address>,
    /// Their addresses: the first is next. Those that have had no turn yet are below 0, the newest first.
    order: BTreeMap<i64, IpAddr>,
    /// How many of those have been next, one after another.
    new_in_a_row: u32,
    /// How many have waited: the number of the next.
    came: u64,
    /// The ends of the order, which is never as long as either could count.
    first: i64,
    last: i64,
}

/// Where somebody waits.
#[derive(Debug)]
struct Address {
    place: i64,
    /// By when they came.
    waiting: BTreeMap<u64, oneshot::Sender<Turn>>,
}

/// A turn. Dropped, it is somebody else's.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    _counted: Held,
}

/// Somebody in the queue, who leaves it when dropped.
struct Place<'a> {
    turns: &'a Turns,
    from: IpAddr,
    number: u64,
}

impl Turns {
    pub(crate) fn new(count: u32, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { free: count, ..State::default() }), metrics })
    }

    /// A turn that nobody has.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Turn> {
        let mut state = locked(&self.state);
        state.free = state.free.checked_sub(1)?;
        drop(state);
        Some(self.turn())
    }

    /// A turn for somebody at this address, as soon as there is one; `None` if that takes too long.
    pub(crate) async fn wait(self: &Arc<Self>, from: IpAddr, patience: Duration) -> Option<Turn> {
        if let Some(turn) = self.take() {
            self.metrics.turn_waits.observe(Duration::ZERO);
            return Some(turn);
        }
        let _counted = self.metrics.waiting.hold();
        let since = Instant::now();
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut state = locked(&self.state);
            if state.free > 0 {
                state.free -= 1;
                drop(state);
                return Some(self.turn());
            }
            state.queue(from, sender)
        };
        let _place = Place { turns: self, from, number };
        let turn = timeout(patience, receiver).await.ok()?.ok()?;
        self.metrics.turn_waits.observe(since.elapsed());
        Some(turn)
    }

    fn turn(self: &Arc<Self>) -> Turn {
        Turn { turns: self.clone(), _counted: self.metrics.handshakes.hold() }
    }

    /// Gives a turn that has ended to whoever is next.
    fn pass_on(self: &Arc<Self>) {
        let mut state = locked(&self.state);
        match state.next() {
            Some(sender) => {
                drop(state);
                // Who gave up in this moment drops it, and so passes it on.
                let _ = sender.send(self.turn());
            }
            None => state.free += 1,
        }
    }
}

impl State {
    fn queue(&mut self, from: IpAddr, sender: oneshot::Sender<Turn>) -> u64 {
        self.came += 1;
        let address = self.addresses.entry(from).or_insert_with(|| {
            self.first -= 1;
            self.order.insert(self.first, from);
            Address { place: self.first, waiting: BTreeMap::new() }
        });
        address.waiting.insert(self.came, sender);
        self.came
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (&first, _) = self.order.first_key_value()?;
        let is_new = first < 0 && self.new_in_a_row < NEW_IN_A_ROW;
        self.new_in_a_row = if is_new { self.new_in_a_row + 1 } else { 0 };
        let place = if is_new { first } else { self.longest_waiting()? };
        let from = self.order.remove(&place)?;
        let Entry::Occupied(mut address) = self.addresses.entry(from) else { return None };
        let (_, next) = address.get_mut().waiting.pop_last()?;
        if address.get().waiting.is_empty() {
            address.remove();
            self.tidy();
        } else {
            self.last += 1;
            address.get_mut().place = self.last;
            self.order.insert(self.last, from);
        }
        Some(next)
    }

    /// The place of the address with whoever came first, of those that have had no turn and those that had one longest ago.
    fn longest_waiting(&self) -> Option<i64> {
        let ends = [self.order.range(..0).next_back(), self.order.range(0..).next()];
        let since = |from: &IpAddr| self.addresses.get(from)?.waiting.first_key_value().map(|(number, _)| *number);
        ends.into_iter().flatten().min_by_key(|(_, from)| since(from)).map(|(place, _)| *place)
    }

    fn leave(&mut self, from: IpAddr, number: u64) {
        let Entry::Occupied(mut address) = self.addresses.entry(from) else { return };
        address.get_mut().waiting.remove(&number);
        if address.get().waiting.is_empty() {
            self.order.remove(&address.remove().place);
            self.tidy();
        }
    }

    /// Gives back what a crowd needed.
    fn tidy(&mut self) {
        if self.addresses.is_empty() {
            self.addresses = HashMap::new();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        locked(&self.turns.state).leave(self.from, self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(4);
    const OFFICE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    /// Somebody who waits, and was asked once whether it still does.
    macro_rules! waiter {
        ($turns:expr, $from:expr) => {{
            let mut waiter = Box::pin($turns.wait($from, PATIENCE));
            assert!((&mut waiter).now_or_never().is_none());
            waiter
        }};
    }

    fn waiting(turns: &Turns) -> (usize, usize) {
        let state = locked(&turns.state);
        assert_eq!(state.order.len(), state.addresses.len());
        (state.addresses.len(), state.addresses.values().map(|address| address.waiting.len()).sum())
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_a_crowd_of_the_same_office_waits_is_next() {
        let metrics = Arc::<Metrics>::default();
        let turns = Turns::new(1, metrics.clone());
        let first = turns.wait(OFFICE, PATIENCE).await.unwrap();
        let (crowd, newcomer) = (waiter!(turns, OFFICE), waiter!(turns, OFFICE));
        assert_eq!((metrics.handshakes.get(), metrics.waiting.get()), (1, 2));
        drop(first);
        let second = newcomer.await.unwrap();
        drop(second);
        drop(crowd.await.unwrap());
        assert_eq!((metrics.handshakes.get(), metrics.waiting.get()), (0, 0));
        assert!(turns.take().is_some(), "none is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_alone_does_not_wait_for_a_crowd_however_many_come_after() {
        let turns = Turns::new(1, Arc::default());
        let mut taken = turns.take().unwrap();
        let mut office: Vec<_> = (0..5).map(|_| waiter!(turns, OFFICE)).collect();
        let mut alone = waiter!(turns, HOME);
        office.extend((0..5).map(|_| waiter!(turns, OFFICE)));
        drop(taken);
        taken = (&mut alone).now_or_never().flatten().expect("it is next");
        let mut second = waiter!(turns, HOME);
        drop(taken);
        taken = (&mut second).now_or_never().flatten().expect("it had no turn that it would have to wait for");
        let third = waiter!(turns, HOME);
        drop(office.pop());
        drop(taken);
        drop(third.await.unwrap());
        for waiter in office.into_iter().rev() {
            drop(waiter.await.unwrap());
        }
        assert_eq!(waiting(&turns), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_who_come_again_and_again_keep_no_office_out() {
        let turns = Turns::new(1, Arc::default());
        let mut taken = turns.take().unwrap();
        let mut office: Vec<_> = (0..3).map(|_| waiter!(turns, OFFICE)).collect();
        let mut let_in = 0;
        for _ in 0..12 {
            let mut again = waiter!(turns, HOME);
            drop(taken);
            taken = match (&mut again).now_or_never().flatten() {
                Some(turn) => turn,
                None => {
                    let_in += 1;
                    office.pop().unwrap().await.unwrap()
                }
            };
        }
        assert_eq!(let_in, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn two_crowds_are_let_in_by_turns() {
        let turns = Turns::new(1, Arc::default());
        let taken = turns.take().unwrap();
        let mut crowds: Vec<_> =
            [OFFICE, OFFICE, OFFICE, HOME, HOME, HOME].into_iter().map(|from| (from, waiter!(turns, from))).collect();
        drop(taken);
        let mut let_in = vec![];
        while !crowds.is_empty() {
            let at = crowds.iter_mut().position(|(_, waiter)| waiter.now_or_never().is_some()).unwrap();
            let_in.push(crowds.remove(at).0);
        }
        assert_eq!(let_in, [HOME, OFFICE, HOME, OFFICE, HOME, OFFICE]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_is_refused_and_forgotten() {
        let metrics = Arc::<Metrics>::default();
        let turns = Turns::new(1, metrics.clone());
        let first = turns.take().unwrap();
        assert!(turns.wait(OFFICE, PATIENCE).await.is_none());
        let (gone, stays) = (waiter!(turns, OFFICE), waiter!(turns, HOME));
        assert_eq!(waiting(&turns), (2, 2));
        drop(gone);
        assert_eq!(waiting(&turns), (1, 1));
        drop(first);
        drop(stays.await.unwrap());
        assert!(turns.take().is_some());
        assert_eq!((metrics.waiting.get(), waiting(&turns)), (0, (0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_given_to_somebody_who_goes_in_that_moment_is_not_lost() {
        let turns = Turns::new(1, Arc::default());
        let first = turns.take().unwrap();
        let (patient, hasty) = (waiter!(turns, HOME), waiter!(turns, OFFICE));
        drop(first);
        assert!(turns.take().is_none(), "it is on its way to the one");
        drop(hasty);
        assert!(patient.await.is_some(), "and is the other's");
    }
}
