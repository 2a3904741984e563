//! What counts for a whole tenant, among the nodes of one process. A node whose sink is gone is gone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, Weak},
    time::Duration,
};

use gatepass_protocol::ids::TenantId;
use tokio::time::Instant;

use crate::{
    backplane::{Resource, Sink, Who},
    locked,
};

/// A node: its number, and what is told to it.
type At<'a> = (u64, &'a Weak<dyn Sink>);

/// How much each node has.
type Shares = HashMap<u64, (Weak<dyn Sink>, u64)>;

#[derive(Default)]
pub(super) struct Tenants {
    shares: Mutex<HashMap<(TenantId, Resource), Shares>>,
    /// How much was spent, and when that no longer counts.
    spent: Mutex<HashMap<TenantId, (u64, Instant)>>,
    online: Mutex<HashMap<TenantId, Online>>,
}

#[derive(Default)]
struct Online {
    /// At which nodes, with how many connections.
    at: BTreeMap<Who, HashMap<u64, u32>>,
    nodes: HashMap<u64, Weak<dyn Sink>>,
    followers: HashMap<u64, Weak<dyn Sink>>,
}

impl Tenants {
    pub(super) fn hold(&self, what: (TenantId, Resource), (id, sink): At<'_>, share: u64, limit: u64) -> u64 {
        let mut all = locked(&self.shares);
        let shares = all.entry(what).or_default();
        shares.retain(|node, (sink, _)| *node != id && sink.strong_count() > 0);
        let taken: u64 = shares.values().map(|(_, share)| share).sum();
        let granted = share.min(limit.saturating_sub(taken));
        if granted > 0 {
            shares.insert(id, (sink.clone(), granted));
        } else if shares.is_empty() {
            all.remove(&what);
        }
        granted
    }

    pub(super) fn spend(&self, tenant: TenantId, amount: u64, limit: u64, window: Duration) -> u64 {
        let now = Instant::now();
        let mut all = locked(&self.spent);
        // Tenants that send nothing are not remembered.
        all.retain(|of, (_, until)| *of == tenant || *until > now);
        let (spent, until) = all.entry(tenant).or_insert((0, now + window));
        if *until <= now {
            (*spent, *until) = (0, now + window);
        }
        let granted = amount.min(limit.saturating_sub(*spent));
        *spent += granted;
        granted
    }

    pub(super) fn presence(&self, tenant: TenantId, who: Who, (id, sink): At<'_>, here: bool) {
        let mut all = locked(&self.online);
        let online = all.entry(tenant).or_default();
        online.sweep(&tenant);
        let before = online.at.contains_key(&who);
        let at = online.at.entry(who).or_default();
        let count = at.entry(id).or_default();
        *count = if here { *count + 1 } else { count.saturating_sub(1) };
        at.retain(|_, count| *count > 0);
        let after = !at.is_empty();
        online.nodes.entry(id).or_insert_with(|| sink.clone());
        if !after {
            online.at.remove(&who);
        }
        if before != after {
            online.tell(&tenant, who, after);
        }
        if online.is_empty() {
            all.remove(&tenant);
        }
    }

    pub(super) fn online(&self, tenant: TenantId) -> Vec<Who> {
        let mut all = locked(&self.online);
        let Some(online) = all.get_mut(&tenant) else { return vec![] };
        online.sweep(&tenant);
        online.at.keys().copied().collect()
    }

    pub(super) fn follow(&self, tenant: TenantId, (id, sink): At<'_>, wanted: bool) {
        let mut all = locked(&self.online);
        let online = all.entry(tenant).or_default();
        if wanted {
            online.followers.insert(id, sink.clone());
        } else {
            online.followers.remove(&id);
        }
        if online.is_empty() {
            all.remove(&tenant);
        }
    }

    /// A node of this process is gone: who was there only is offline.
    pub(super) fn left(&self, id: u64) {
        locked(&self.shares).retain(|_, shares| {
            shares.remove(&id);
            !shares.is_empty()
        });
        locked(&self.online).retain(|tenant, online| {
            online.followers.remove(&id);
            if online.nodes.remove(&id).is_some() {
                online.forget_unknown(tenant);
            }
            !online.is_empty()
        });
    }
}

impl Online {
    fn is_empty(&self) -> bool {
        self.at.is_empty() && self.followers.is_empty()
    }

    /// Forgets who was at nodes that are gone.
    fn sweep(&mut self, tenant: &TenantId) {
        let before = self.nodes.len();
        self.nodes.retain(|_, sink| sink.strong_count() > 0);
        if self.nodes.len() < before {
            self.forget_unknown(tenant);
        }
    }

    fn forget_unknown(&mut self, tenant: &TenantId) {
        let mut gone = HashSet::new();
        for (who, at) in &mut self.at {
            at.retain(|node, _| self.nodes.contains_key(node));
            if at.is_empty() {
                gone.insert(*who);
            }
        }
        self.at.retain(|_, at| !at.is_empty());
        gone.into_iter().for_each(|who| self.tell(tenant, who, false));
    }

    fn tell(&self, tenant: &TenantId, who: Who, online: bool) {
        for sink in self.followers.values().filter_map(Weak::upgrade) {
            sink.presence(tenant, who, online);
        }
    }
}
