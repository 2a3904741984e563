//! Turns: how many sockets may speak at once before it is known who they are, and who is next.
//!
//! When more come than there are turns, the one that came last is next. Those who come one by one while a crowd is being let
//! in so wait for one turn to end, and not for the whole crowd; the crowd as a whole is no later for it. Whoever waits longer
//! than it should is refused, so what is never served is never older than that.

use std::{
    collections::VecDeque,
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

/// A bounded number of turns.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    free: u32,
    /// Oldest first. Those who gave up are still in it, and are no longer heard.
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A turn. Dropped, it is somebody else's.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    _counted: Held,
}

impl Turns {
    pub(crate) fn new(count: u32, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { free: count, waiting: VecDeque::new() }), metrics })
    }

    /// A turn that nobody has.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Turn> {
        let mut state = locked(&self.state);
        state.free = state.free.checked_sub(1)?;
        drop(state);
        Some(self.turn())
    }

    /// A turn, as soon as there is one; `None` if that takes too long.
    pub(crate) async fn wait(self: &Arc<Self>, patience: Duration) -> Option<Turn> {
        if let Some(turn) = self.take() {
            self.metrics.turn_waits.observe(Duration::ZERO);
            return Some(turn);
        }
        let _counted = self.metrics.waiting.hold();
        let since = Instant::now();
        let (sender, receiver) = oneshot::channel();
        if let Some(turn) = self.queue(sender) {
            return Some(turn);
        }
        let turn = timeout(patience, receiver).await.ok()?.ok()?;
        self.metrics.turn_waits.observe(since.elapsed());
        Some(turn)
    }

    /// Queues up, unless a turn has become free since.
    fn queue(self: &Arc<Self>, sender: oneshot::Sender<Turn>) -> Option<Turn> {
        let mut state = locked(&self.state);
        if state.free > 0 {
            state.free -= 1;
            drop(state);
            return Some(self.turn());
        }
        // All wait for the same time, so those who gave up are the oldest.
        while state.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            state.waiting.pop_front();
        }
        state.waiting.push_back(sender);
        None
    }

    fn turn(self: &Arc<Self>) -> Turn {
        Turn { turns: self.clone(), _counted: self.metrics.handshakes.hold() }
    }

    /// Gives a turn that has ended to whoever came last.
    fn pass_on(self: &Arc<Self>) {
        let mut state = locked(&self.state);
        let next = loop {
            match state.waiting.pop_back() {
                Some(sender) if sender.is_closed() => {}
                next => break next,
            }
        };
        if state.waiting.is_empty() {
            // What a crowd needed is given back.
            state.waiting = VecDeque::new();
        }
        match next {
            Some(sender) => {
                drop(state);
                // Who gave up in this moment drops it, and so passes it on.
                let _ = sender.send(self.turn());
            }
            None => state.free += 1,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(4);

    /// Somebody who waits, and was asked once whether it still does.
    macro_rules! waiter {
        ($turns:expr) => {{
            let mut waiter = Box::pin($turns.wait(PATIENCE));
            assert!((&mut waiter).now_or_never().is_none());
            waiter
        }};
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_a_crowd_waits_is_next() {
        let metrics = Arc::<Metrics>::default();
        let turns = Turns::new(1, metrics.clone());
        let first = turns.wait(PATIENCE).await.unwrap();
        let (crowd, newcomer) = (waiter!(turns), waiter!(turns));
        assert_eq!((metrics.handshakes.get(), metrics.waiting.get()), (1, 2));
        drop(first);
        let second = newcomer.await.unwrap();
        drop(second);
        drop(crowd.await.unwrap());
        assert_eq!((metrics.handshakes.get(), metrics.waiting.get()), (0, 0));
        assert!(turns.take().is_some(), "none is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_is_refused_and_holds_up_nobody() {
        let metrics = Arc::<Metrics>::default();
        let turns = Turns::new(1, metrics.clone());
        let first = turns.take().unwrap();
        assert!(turns.wait(PATIENCE).await.is_none());
        let (gone, stays) = (waiter!(turns), waiter!(turns));
        assert_eq!(locked(&turns.state).waiting.len(), 2, "who gave up is forgotten");
        drop(gone);
        drop(first);
        drop(stays.await.unwrap());
        assert!(turns.take().is_some());
        assert_eq!(metrics.waiting.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_given_to_somebody_who_goes_in_that_moment_is_not_lost() {
        let turns = Turns::new(1, Arc::default());
        let first = turns.take().unwrap();
        let (patient, hasty) = (waiter!(turns), waiter!(turns));
        drop(first);
        assert!(turns.take().is_none(), "it is on its way to the one");
        drop(hasty);
        assert!(patient.await.is_some(), "and is the other's");
    }
}
