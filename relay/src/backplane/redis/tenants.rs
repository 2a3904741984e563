//! What counts for a whole tenant across nodes: its quotas, and who of it is online.
//!
//! Each node gives a sign of life in every bucket in which something of it counts, and renews it each second. What belongs to
//! a node without one is dropped by whoever comes across it: a crashed node's share is free, and its clients are offline,
//! within [`SIGN_MS`]. A node whose own sign lapsed (it stood still, or Redis lost it) puts everything of it back.

use std::{collections::HashSet, sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::future::join_all;
use gatepass_protocol::{channel::Channel, ids::TenantId};
use redis::Value;
use tokio::{runtime::Handle, time::sleep};

use super::{
    Shared,
    keys::{BUCKETS, Keys},
    link::{Arg, Link},
    scripts::{Nonsense, Script},
};
use crate::{
    backplane::{Refusal, Resource, Who},
    locked,
};

/// How long a sign of life lasts: a few renewals may fail.
const SIGN_MS: u64 = 4_000;
/// The bucket of what the whole region shares.
const SECRETS: usize = 0;
/// Shares that nobody renews are forgotten after a day; those of dead nodes count no longer than their sign.
const IDLE_MS: u64 = 24 * 60 * 60 * 1_000;

fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Connections => "connections",
        Resource::Pairings => "pairings",
    }
}

fn who(text: &str) -> Option<Who> {
    match text.parse().ok()? {
        Channel::Computer(id) => Some(Who::Computer(id)),
        Channel::Device(id) => Some(Who::Device(id)),
        Channel::Tenant(_) | Channel::Presence(_) => None,
    }
}

fn text(who: Who) -> String {
    match who {
        Who::Computer(id) => Channel::Computer(id),
        Who::Device(id) => Channel::Device(id),
    }
    .to_string()
}

impl Shared {
    /// The first node's wish is everybody's.
    pub(super) async fn secret(&self) -> Result<[u8; 32], Refusal> {
        if let Some(known) = self.secret.get() {
            return Ok(*known);
        }
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh).map_err(|_| Refusal::Unavailable)?;
        let shared = self.agree_on_secret(&fresh).await?;
        Ok(*self.secret.get_or_init(|| shared))
    }

    async fn agree_on_secret(&self, wish: &[u8; 32]) -> Result<[u8; 32], Refusal> {
        let link = self.routes.wait(SECRETS).await.ok_or(Refusal::Unavailable)?;
        let mut agree = redis::cmd("SET");
        agree.arg(self.keys.key(SECRETS, "k", "tickets")).arg(wish).arg("NX").arg("GET");
        match link.ask(&agree).await {
            Ok(Value::Nil) => Ok(*wish),
            Ok(Value::BulkString(known)) => known.try_into().map_err(|_| Refusal::Unavailable),
            _ => Err(Refusal::Unavailable),
        }
    }

    pub(super) async fn hold(
        &self,
        tenant: TenantId,
        resource: Resource,
        share: u64,
        limit: u64,
    ) -> Result<u64, Refusal> {
        let bucket = Keys::tenant_bucket(&tenant);
        self.signs[bucket].store(true, SeqCst);
        let name = format!("{tenant}/{}", word(resource));
        let keys = [self.keys.key(bucket, "q", name), self.keys.key(bucket, "l", &self.node)];
        let signs = self.keys.key(bucket, "l", "");
        let args = [
            self.node.as_str().into(),
            Arg::Number(share),
            Arg::Number(limit),
            signs.as_str().into(),
            Arg::Number(SIGN_MS),
            Arg::Number(IDLE_MS),
        ];
        let answer = self.call(bucket, Script::Hold, &keys, &args).await?;
        let mut answer = answer.map_err(|_| Refusal::Unavailable)?;
        let granted = answer.number().map_err(|Nonsense| Refusal::Unavailable)?;
        match granted {
            0 => drop(self.shares.remove(&(tenant, resource))),
            _ => drop(self.shares.insert((tenant, resource), (granted, limit))),
        }
        Ok(granted)
    }

    pub(super) async fn spend(
        &self,
        tenant: TenantId,
        amount: u64,
        limit: u64,
        window: Duration,
    ) -> Result<u64, Refusal> {
        let bucket = Keys::tenant_bucket(&tenant);
        let keys = [self.keys.key(bucket, "s", tenant), self.keys.key(bucket, "l", &self.node)];
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
        let args = [Arg::Number(amount), Arg::Number(limit), Arg::Number(window)];
        let answer = self.call(bucket, Script::Spend, &keys, &args).await?;
        answer.map_err(|_| Nonsense).and_then(|mut answer| answer.number()).map_err(|Nonsense| Refusal::Unavailable)
    }

    /// Somebody came to, or left, this node. What can't be said now is said by [`Shared::tend_tenants`].
    pub(super) fn presence(&self, tenant: TenantId, who: Who, online: bool) {
        let turned = {
            let mut count = self.here.entry((tenant, who)).or_default();
            *count = if online { *count + 1 } else { count.saturating_sub(1) };
            *count == u32::from(online)
        };
        self.here.remove_if(&(tenant, who), |_, count| *count == 0);
        // Without a runtime the whole process is at its end.
        let runtime = Handle::try_current().ok().filter(|_| turned);
        if let Some((runtime, shared)) = runtime.zip(self.this.upgrade()) {
            runtime.spawn(async move {
                let Ok(_turn) = shared.syncs.acquire().await else { return };
                shared.say(tenant, who).await;
            });
        }
    }

    /// Says of somebody what is so here, until nothing else is so meanwhile.
    async fn say(&self, tenant: TenantId, who: Who) {
        let here = || self.here.contains_key(&(tenant, who));
        loop {
            let online = here();
            let said = self.change(tenant, if online { "+" } else { "-" }, &text(who), false).await;
            if said.is_err() {
                locked(&self.unsaid).insert((tenant, who));
                return;
            }
            if here() == online {
                return;
            }
        }
    }

    pub(super) async fn online(&self, tenant: TenantId) -> Result<Vec<Who>, Refusal> {
        let all = self.change(tenant, "", "", true).await?;
        Ok(all.iter().filter_map(|one| std::str::from_utf8(one).ok().and_then(who)).collect())
    }

    async fn change(&self, tenant: TenantId, change: &str, who: &str, list: bool) -> Result<Vec<Vec<u8>>, Refusal> {
        let bucket = Keys::tenant_bucket(&tenant);
        if change == "+" {
            self.signs[bucket].store(true, SeqCst);
        }
        let keys = [self.keys.key(bucket, "W", tenant), self.keys.key(bucket, "l", &self.node)];
        let signs = self.keys.key(bucket, "l", "");
        let sets = self.keys.key(bucket, "w", format_args!("{tenant}/"));
        let channel = self.keys.key(bucket, "v", tenant);
        let args = [
            self.node.as_str().into(),
            change.into(),
            who.into(),
            signs.as_str().into(),
            Arg::Number(SIGN_MS),
            sets.as_str().into(),
            channel.as_str().into(),
            Arg::Number(list.into()),
        ];
        let answer = self.call(bucket, Script::Presence, &keys, &args).await?;
        answer.map_err(|_| Nonsense).and_then(|mut answer| answer.list()).map_err(|Nonsense| Refusal::Unavailable)
    }

    pub(super) async fn follow_presence(&self, tenant: TenantId, wanted: bool) -> Result<(), Refusal> {
        let bucket = Keys::tenant_bucket(&tenant);
        let channel = self.keys.key(bucket, "v", tenant);
        if !wanted {
            self.watched.remove(&tenant);
            if let Some(link) = self.routes.now(bucket) {
                let _ = link.unsubscribe(&[channel]).await;
            }
            return Ok(());
        }
        self.watched.entry(tenant).or_default();
        let subscribed = match self.routes.wait(bucket).await {
            Some(link) => link.subscribe(&[channel]).await.is_ok(),
            None => false,
        };
        if !subscribed {
            self.watched.remove(&tenant);
            return Err(Refusal::Unavailable);
        }
        let online = self.online(tenant).await?;
        if let Some(mut known) = self.watched.get_mut(&tenant) {
            known.extend(online);
        }
        Ok(())
    }

    /// Word of somebody has arrived.
    pub(super) fn presence_news(&self, tenant: &str, payload: &[u8]) {
        let Ok(tenant) = tenant.parse::<TenantId>() else { return };
        let Some((change, who)) = std::str::from_utf8(payload).ok().and_then(|news| news.split_at_checked(1)) else {
            return;
        };
        if let Some(who) = self::who(who) {
            self.tell_presence(tenant, who, change == "+");
        }
    }

    /// Tells what is not known yet.
    fn tell_presence(&self, tenant: TenantId, who: Who, online: bool) {
        let news = match self.watched.get_mut(&tenant) {
            Some(mut known) if online => known.insert(who),
            Some(mut known) => known.remove(&who),
            None => false,
        };
        if let Some(sink) = self.sink.upgrade().filter(|_| news) {
            sink.presence(&tenant, who, online);
        }
    }

    /// Asks who is online, of tenants that are followed here: words may have been lost. Not before every node had time to
    /// put back what a Redis that lost everything has to know, or everybody would be offline for a moment.
    pub(super) fn ask_presence_later(&self, of: impl Fn(usize) -> bool) {
        let watched = self.watched.iter().map(|entry| *entry.key());
        for tenant in watched.filter(|tenant| of(Keys::tenant_bucket(tenant))).collect::<Vec<_>>() {
            let Some(shared) = self.this.upgrade() else { return };
            tokio::spawn(async move {
                sleep(Duration::from_millis(SIGN_MS)).await;
                let Ok(online) = shared.online(tenant).await else { return };
                let online: HashSet<Who> = online.into_iter().collect();
                let known = shared.watched.get(&tenant).map(|known| known.clone()).unwrap_or_default();
                let gone = known.iter().filter(|who| !online.contains(who)).map(|who| (*who, false));
                let news: Vec<(Who, bool)> = gone.chain(online.iter().map(|who| (*who, true))).collect();
                news.into_iter().for_each(|(who, online)| shared.tell_presence(tenant, who, online));
            });
        }
    }

    /// What a new link at these buckets has to subscribe to, for those who follow who is online.
    pub(super) fn presence_channels(&self, of: impl Fn(usize) -> bool) -> Vec<String> {
        let watched = self.watched.iter().map(|entry| *entry.key());
        let watched = watched.map(|tenant| (Keys::tenant_bucket(&tenant), tenant)).filter(|(bucket, _)| of(*bucket));
        watched.map(|(bucket, tenant)| self.keys.key(bucket, "v", tenant)).collect()
    }

    /// Renews the signs of life at a server; whether one had lapsed.
    pub(super) async fn renew_signs(&self, link: &Link, buckets: &[usize]) -> Vec<usize> {
        let used: Vec<usize> = buckets.iter().copied().filter(|bucket| self.signs[*bucket].load(SeqCst)).collect();
        let renewals = used.iter().map(|bucket| async move {
            let mut renew = redis::cmd("SET");
            renew.arg(self.keys.key(*bucket, "l", &self.node)).arg("1").arg("PX").arg(SIGN_MS).arg("GET");
            link.ask(&renew).await
        });
        let renewed = used.iter().zip(join_all(renewals).await);
        renewed.filter(|(_, before)| matches!(before, Ok(Value::Nil))).map(|(bucket, _)| *bucket).collect()
    }

    /// Puts back what counts of this node in these buckets.
    pub(super) fn put_back(&self, of: impl Fn(usize) -> bool) {
        self.ask_presence_later(&of);
        let in_these = |tenant: &TenantId| of(Keys::tenant_bucket(tenant));
        let here = self.here.iter().map(|entry| *entry.key()).filter(|(tenant, _)| in_these(tenant));
        locked(&self.unsaid).extend(here);
        let shares = self.shares.iter().map(|entry| (*entry.key(), *entry.value()));
        let shares: Vec<_> = shares.filter(|((tenant, _), _)| in_these(tenant)).collect();
        for ((tenant, resource), (share, limit)) in shares {
            let Some(shared) = self.this.upgrade() else { return };
            tokio::spawn(async move {
                let Ok(_turn) = shared.syncs.acquire().await else { return };
                // Where it fails, the next gain of the bucket or lapse of the sign brings it back.
                let _ = shared.hold(tenant, resource, share, limit).await;
            });
        }
        if let Some((known, shared)) = self.secret.get().copied().filter(|_| of(SECRETS)).zip(self.this.upgrade()) {
            // Who has the same wish, or was too late, is answered with what is so: nothing to do about that.
            tokio::spawn(async move { shared.agree_on_secret(&known).await });
        }
        self.tend_tenants();
    }

    /// Says what could not be said.
    pub(super) fn tend_tenants(&self) {
        let unsaid: HashSet<(TenantId, Who)> = std::mem::take(&mut *locked(&self.unsaid));
        for (tenant, who) in unsaid {
            let Some(shared) = self.this.upgrade() else { return };
            tokio::spawn(async move {
                let Ok(_turn) = shared.syncs.acquire().await else { return };
                shared.say(tenant, who).await;
            });
        }
    }

    /// Looks whose nodes are gone, for tenants that are followed here.
    pub(super) fn sweep_presence(&self) {
        for tenant in self.watched.iter().map(|entry| *entry.key()) {
            let Some(shared) = self.this.upgrade() else { return };
            tokio::spawn(async move {
                let Ok(_turn) = shared.syncs.acquire().await else { return };
                let _ = shared.change(tenant, "", "", false).await;
            });
        }
    }
}

/// Nothing of this node counts anywhere yet.
pub(super) fn no_signs() -> Vec<std::sync::atomic::AtomicBool> {
    (0..BUCKETS).map(|_| std::sync::atomic::AtomicBool::new(false)).collect()
}
