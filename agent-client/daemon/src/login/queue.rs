//! Who may wait for a phone, and what of the refusals is worth a line in the trail. Anybody may ask, so nobody may be able to
//! keep the others out by asking, or to fill the disk and the trail.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gatepass_logon::wire::Start;

/// Refusals that are written into the trail, a minute: more is somebody who plays.
const REFUSALS: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// The logins that wait.
pub(crate) struct Queue {
    at_once: usize,
    waiting: Mutex<HashMap<String, usize>>,
    refusals: Mutex<(Instant, u32)>,
}

/// One place in it, until dropped.
pub(crate) struct Place {
    queue: Arc<Queue>,
    from: String,
}

impl Queue {
    pub(crate) fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self { at_once, waiting: Mutex::default(), refusals: Mutex::new((Instant::now(), 0)) })
    }

    /// A place for this login, if there is one: a quarter of all is the most for one user or one host.
    pub(crate) fn enter(self: &Arc<Self>, start: &Start) -> Option<Place> {
        let origin = [&start.ruser, &start.rhost, &start.tty].into_iter().find(|origin| !origin.is_empty());
        let from = origin.cloned().unwrap_or_default();
        let mut waiting = locked(&self.waiting);
        let (all, own) = (waiting.values().sum::<usize>(), waiting.get(&from).copied().unwrap_or(0));
        if all >= self.at_once || own >= self.at_once.div_ceil(4) {
            return None;
        }
        *waiting.entry(from.clone()).or_default() += 1;
        Some(Place { queue: self.clone(), from })
    }

    /// Whether a refusal goes into the trail, or there were too many in this minute.
    pub(crate) fn is_worth_a_line(&self) -> bool {
        let mut refusals = locked(&self.refusals);
        if refusals.0.elapsed() >= MINUTE {
            *refusals = (Instant::now(), 0);
        }
        refusals.1 = refusals.1.saturating_add(1);
        refusals.1 <= REFUSALS
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = locked(&self.queue.waiting);
        if let Some(count) = waiting.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use gatepass_logon::picture::Style;
    use gatepass_logon::wire::Phase;

    use super::*;

    fn start(ruser: &str, rhost: &str) -> Start {
        Start {
            phase: Phase::Authenticate,
            service: "sudo".into(),
            user: "root".into(),
            ruser: ruser.into(),
            rhost: rhost.into(),
            tty: "pts/1".into(),
            pid: 1,
            style: Style::HalfBlocks,
            live: true,
            renames: false,
            session: None,
        }
    }

    #[test]
    fn one_user_or_host_leaves_room_for_the_others() {
        let queue = Queue::new(8);
        let mut mallory: Vec<Place> = std::iter::from_fn(|| queue.enter(&start("mallory", ""))).collect();
        assert_eq!(mallory.len(), 2);
        let others: Vec<Place> = ["::1", "::2", "::3"]
            .into_iter()
            .flat_map(|host| [host; 3])
            .filter_map(|host| queue.enter(&start("", host)))
            .collect();
        assert_eq!(others.len(), 6);
        assert!(queue.enter(&start("tess", "")).is_none(), "there is an end to it");
        mallory.pop();
        assert!(queue.enter(&start("tess", "")).is_some());
        drop((mallory, others));
        assert!(locked(&queue.waiting).is_empty());
        assert!(Queue::new(1).enter(&start("tess", "")).is_some());
    }

    #[test]
    fn somebody_who_plays_does_not_fill_the_trail() {
        let queue = Queue::new(8);
        assert_eq!((0..1000).filter(|_| queue.is_worth_a_line()).count(), REFUSALS as usize);
        locked(&queue.refusals).0 -= MINUTE;
        assert!(queue.is_worth_a_line());
    }
}
