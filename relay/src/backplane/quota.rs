//! A tenant's quota, as one node gives it out: in most cases without asking anybody.
//!
//! The node holds a share of the quota, a little more than is in use here, and gives out of that. Only when it is used up,
//! and now and then, does it ask the backplane to change it. Several nodes together never give out more than the limit, as
//! long as each hears from the backplane; a node that is cut off gives out no more than its last share.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dashmap::DashMap;
use gatepass_protocol::ids::TenantId;
use tokio::time::Instant;

use super::{Backplane, Refusal, Resource};
use crate::locked;

/// The part of a limit that a node holds beyond what is in use: idle shares of a few nodes keep little from the others.
const SPARE: u64 = 32;
/// At most so many.
const MAX_SPARE: u64 = 64;
/// After a refusal, or where nobody answered, nobody is asked for this long: a crowd costs one question.
const PAUSE: Duration = Duration::from_millis(250);

/// One resource of all tenants at this node.
pub struct Quota {
    plane: Arc<dyn Backplane>,
    resource: Resource,
    books: DashMap<TenantId, Arc<Book>>,
}

#[derive(Debug)]
struct Book {
    state: Mutex<State>,
    /// Held while the backplane is asked: a crowd asks once.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    share: u64,
    limit: u64,
    refused: Option<(Instant, Option<Refusal>)>,
}

/// One that is in use; given back when dropped.
#[derive(Debug)]
pub struct Taken(Arc<Book>);

impl Drop for Taken {
    fn drop(&mut self) {
        locked(&self.0.state).used -= 1;
    }
}

impl State {
    fn wanted(&self) -> u64 {
        self.used + (self.limit / SPARE).clamp(1, MAX_SPARE)
    }
}

impl Quota {
    /// Nothing is in use yet.
    pub fn new(plane: Arc<dyn Backplane>, resource: Resource) -> Self {
        Self { plane, resource, books: DashMap::new() }
    }

    /// Takes one of a tenant's `limit`; `None` where all are in use, here or at other nodes.
    pub async fn take(&self, tenant: TenantId, limit: u64) -> Result<Option<Taken>, Refusal> {
        let new = || Arc::new(Book { state: Mutex::default(), asking: tokio::sync::Mutex::default() });
        let book = self.books.entry(tenant).or_insert_with(new).clone();
        if let Some(taken) = book.take(limit) {
            return Ok(Some(taken));
        }
        let _asking = book.asking.lock().await;
        // Whoever asked meanwhile may have been given some for this one too, or been refused for it.
        if let Some(taken) = book.take(limit) {
            return Ok(Some(taken));
        }
        let refused = locked(&book.state).refused;
        if let Some((_, why)) = refused.filter(|(when, _)| when.elapsed() < PAUSE) {
            return why.map_or(Ok(None), Err);
        }
        let asked = self.ask(tenant, &book, false).await;
        let taken = book.take(limit);
        locked(&book.state).refused = taken.is_none().then(|| (Instant::now(), asked.err()));
        match taken {
            Some(taken) => Ok(Some(taken)),
            None => asked.map(|()| None),
        }
    }

    /// Makes the shares fit what is in use, and forgets tenants of which nothing is. To be done every ten seconds or so.
    pub async fn settle(&self) {
        let books: Vec<_> = self.books.iter().map(|entry| (*entry.key(), entry.value().clone())).collect();
        for (tenant, book) in books {
            let _asking = book.asking.lock().await;
            // What can't be told now is told the next time.
            if self.ask(tenant, &book, true).await.is_ok() {
                let idle = |book: &Arc<Book>| Arc::strong_count(book) <= 2 && locked(&book.state).share == 0;
                self.books.remove_if(&tenant, |_, known| Arc::ptr_eq(known, &book) && idle(known));
            }
        }
    }

    async fn ask(&self, tenant: TenantId, book: &Book, settling: bool) -> Result<(), Refusal> {
        let (wanted, limit) = {
            let mut state = locked(&book.state);
            // An idle share goes back whole; the first taker asks anew.
            let wanted = if settling && state.used == 0 { 0 } else { state.wanted() };
            // What is given back is not given out any more, from before the others may have it.
            state.share = state.share.min(wanted);
            (wanted, state.limit)
        };
        let share = self.plane.hold(tenant, self.resource, wanted, limit).await?;
        locked(&book.state).share = share;
        Ok(())
    }
}

impl Book {
    fn take(self: &Arc<Self>, limit: u64) -> Option<Taken> {
        let mut state = locked(&self.state);
        state.limit = limit;
        if state.used >= state.share.min(limit) {
            return None;
        }
        state.used += 1;
        Some(Taken(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::{Sink, conformance::Heard, memory::Memory};

    const TENANT: TenantId = TenantId([1; 16]);

    fn nodes() -> ([Quota; 2], [Arc<dyn Sink>; 2]) {
        let memory = Memory::new(Duration::from_secs(60));
        let sinks: [Arc<dyn Sink>; 2] = [Arc::new(Heard::default()), Arc::new(Heard::default())];
        let quota = |sink: &Arc<dyn Sink>| Quota::new(memory.join(Arc::downgrade(sink)), Resource::Connections);
        ([quota(&sinks[0]), quota(&sinks[1])], sinks)
    }

    async fn take_all(quota: &Quota, limit: u64) -> Vec<Taken> {
        let mut taken = vec![];
        while let Some(one) = quota.take(TENANT, limit).await.unwrap() {
            taken.push(one);
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn two_nodes_give_out_all_of_it_and_not_one_more() {
        let ([a, b], _sinks) = nodes();
        let few: Vec<Taken> =
            [a.take(TENANT, 100).await, a.take(TENANT, 100).await].map(|one| one.unwrap().unwrap()).into();
        let most = take_all(&b, 100).await;
        let rest = take_all(&a, 100).await;
        assert_eq!(few.len() + most.len() + rest.len(), 100);
        drop(most);
        assert!(take_all(&a, 100).await.is_empty(), "not before it is given back");
        b.settle().await;
        tokio::time::advance(PAUSE).await;
        assert_eq!(take_all(&a, 100).await.len() + few.len() + rest.len(), 100, "what one gives back another gets");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_limit_counts_at_once_and_nothing_is_remembered_of_who_left() {
        let ([a, _b], _sinks) = nodes();
        let taken = take_all(&a, 50).await;
        assert_eq!(taken.len(), 50);
        tokio::time::advance(PAUSE).await;
        assert!(a.take(TENANT, 10).await.unwrap().is_none());
        drop(taken);
        a.settle().await;
        assert!(a.books.is_empty());
    }
}
