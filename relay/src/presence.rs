//! Who of a tenant is online, for the phones of that tenant that want to know.
//!
//! A node keeps the list of everybody online of each tenant that somebody here asks about, and one task for it. What changes
//! within [`GATHER`] goes out as one message, with only the last of each computer or phone. A new subscriber gets the whole list,
//! a span at a time and only as fast as it reads; meanwhile it hears what changes as well. So the list may be of any length, a slow
//! reader costs nothing, and a change is never overtaken by what was so before it: both are read off the same list.
//!
//! Of what waits for a reader the oldest is dropped when it gets too much. It is then given the whole list again.

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use dashmap::DashMap;
use gatepass_protocol::{
    channel::Channel,
    frame::Frame,
    ids::TenantId,
    presence::{Key, Presence, Span, Who},
};
use tokio::{sync::Notify, time::sleep};
use tracing::debug;

use crate::{
    backplane::{Backplane, Refusal},
    locked,
    outbox::Pushed,
    peer::Peer,
    websocket::Packet,
};

/// How long changes are gathered: nobody sees a light turn green a tenth of a second later, and a storm is a few messages.
const GATHER: Duration = Duration::from_millis(100);
/// Spans that a subscriber is given at a time.
const SPANS: usize = 8;
/// A backplane that can't be reached is asked again after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// The tenants whose presence somebody at this node follows.
#[derive(Clone, Default)]
pub(crate) struct Lists(Arc<DashMap<TenantId, Arc<List>>>);

#[derive(Default)]
struct List {
    state: Mutex<State>,
    /// There is something to do.
    woken: Notify,
    running: AtomicBool,
}

#[derive(Default)]
struct State {
    online: BTreeSet<Who>,
    /// What was said before the list was known; it counts behind the list.
    early: Option<Vec<(Who, bool)>>,
    changed: BTreeSet<Who>,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    peer: Arc<Peer>,
    /// Where in the list it is; `None`: it has all of it.
    at: Option<Bound<Who>>,
}

impl Lists {
    /// Subscribes a connection that has the right to. The list follows as soon as it is known.
    pub(crate) fn subscribe(&self, plane: &Arc<dyn Backplane>, tenant: TenantId, peer: &Arc<Peer>) {
        // Under the map's guard, so that the list is not removed as unwanted in between.
        let list = self.0.entry(tenant).or_default();
        let mut state = locked(&list.state);
        state.subscribers.retain(|known| known.peer.id != peer.id);
        state.subscribers.push(Subscriber { peer: peer.clone(), at: Some(Bound::Unbounded) });
        drop(state);
        list.woken.notify_one();
        if !list.running.swap(true, SeqCst) {
            tokio::spawn(self.clone().keep(tenant, list.clone(), plane.clone()));
        }
    }

    /// Ends a subscription, if there is one.
    pub(crate) fn unsubscribe(&self, tenant: &TenantId, peer: &Peer) {
        let Some(list) = self.0.get(tenant).map(|found| found.clone()) else { return };
        locked(&list.state).subscribers.retain(|known| known.peer.id != peer.id);
        list.woken.notify_one();
    }

    /// Somebody came or went.
    pub(crate) fn note(&self, tenant: &TenantId, who: Who, online: bool) {
        let Some(list) = self.0.get(tenant).map(|found| found.clone()) else { return };
        let mut state = locked(&list.state);
        if let Some(early) = &mut state.early {
            early.push((who, online));
        } else if state.note(who, online) {
            list.woken.notify_one();
        }
    }

    /// A list's task: as long as somebody wants it.
    async fn keep(self, tenant: TenantId, list: Arc<List>, plane: Arc<dyn Backplane>) {
        loop {
            match list.learn(tenant, plane.as_ref()).await {
                Ok(()) => list.serve(tenant).await,
                Err(refusal) => {
                    debug!(%refusal, "who is online is not known yet");
                    sleep(AGAIN).await;
                }
            }
            // Where it can't be told now, a little too much comes until somebody follows again.
            let _ = plane.follow_presence(tenant, false).await;
            let unwanted = |known: &Arc<List>| locked(&known.state).subscribers.is_empty();
            if self.0.remove_if(&tenant, |_, known| unwanted(known)).is_some() {
                return;
            }
        }
    }
}

impl List {
    async fn learn(&self, tenant: TenantId, plane: &dyn Backplane) -> Result<(), Refusal> {
        locked(&self.state).early = Some(vec![]);
        plane.follow_presence(tenant, true).await?;
        let online = plane.online(tenant).await?;
        let mut state = locked(&self.state);
        state.online = online.into_iter().collect();
        for (who, online) in state.early.take().unwrap_or_default() {
            state.note(who, online);
        }
        state.subscribers.iter_mut().for_each(|subscriber| subscriber.at = Some(Bound::Unbounded));
        Ok(())
    }

    async fn serve(&self, tenant: TenantId) {
        loop {
            let busy = {
                let mut state = locked(&self.state);
                state.hand_out(&tenant);
                if state.subscribers.is_empty() {
                    return;
                }
                state.subscribers.iter().any(|subscriber| subscriber.at.is_some())
            };
            if !busy {
                self.woken.notified().await;
            }
            sleep(GATHER).await;
        }
    }
}

impl State {
    /// Whether that is news.
    fn note(&mut self, who: Who, online: bool) -> bool {
        let news = if online { self.online.insert(who) } else { self.online.remove(&who) };
        if news {
            self.changed.insert(who);
        }
        news
    }

    /// Says what has changed, and more of the list to those who don't have all of it. Who is ending is forgotten.
    fn hand_out(&mut self, tenant: &TenantId) {
        let Self { online, changed, subscribers, .. } = self;
        let changed: Vec<Who> = std::mem::take(changed).into_iter().collect();
        let news: Vec<Packet> = changed
            .chunks(Presence::MOST)
            .map(|some| {
                let (here, gone) = some.iter().partition(|who| online.contains(who));
                message(tenant, &Presence { whole: None, online: here, offline: gone })
            })
            .collect();
        subscribers.retain_mut(|subscriber| {
            news.iter().all(|packet| subscriber.push(packet).is_some()) && subscriber.give(tenant, online)
        });
    }
}

impl Subscriber {
    /// Whether nothing was dropped for it; `None` once its connection is ending.
    fn push(&mut self, packet: &Packet) -> Option<bool> {
        match self.peer.outbox.push_presence(packet.clone()) {
            Pushed::Taken => Some(true),
            Pushed::Displaced => {
                self.at = Some(Bound::Unbounded);
                Some(false)
            }
            Pushed::Ended => None,
        }
    }

    /// Gives it more of the list, if it reads. False once its connection is ending.
    fn give(&mut self, tenant: &TenantId, online: &BTreeSet<Who>) -> bool {
        for _ in 0..SPANS {
            let Some(at) = self.at.filter(|_| self.peer.outbox.is_idle()) else { break };
            let some: Vec<Who> = online.range((at, Bound::Unbounded)).take(Presence::MOST).copied().collect();
            let last = some.last().filter(|_| some.len() == Presence::MOST).copied();
            let key = |bound: Bound<Who>| match bound {
                Bound::Excluded(who) | Bound::Included(who) => who.into(),
                Bound::Unbounded => Key::FIRST,
            };
            let whole = Some(Span { after: key(at), upto: last.map_or(Key::LAST, Key::from) });
            match self.push(&message(tenant, &Presence { whole, online: some, offline: vec![] })) {
                Some(true) => self.at = last.map(Bound::Excluded),
                Some(false) => break,
                None => return false,
            }
        }
        true
    }
}

fn message(tenant: &TenantId, presence: &Presence) -> Packet {
    let channel = Channel::Presence(*tenant).to_string();
    Packet::binary(&Frame::Message { channel, offset: 0, bytes: presence.encode().into() }.encode())
}
