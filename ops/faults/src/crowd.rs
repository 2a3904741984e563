//! The clients: real connections of the fleet's agents and phones, with somebody who listens to each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gatepass_client::{Connection, Incoming, Sender, Settings, State};
use gatepass_loadtest::Fleet;
use gatepass_protocol::{
    channel::{Bulletin, Channel},
    ids::{Rid, TenantId},
    statement::Kind,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::region::Region;

/// A newcomer that is not let in within this time, into a region that is whole, never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// All clients.
pub(crate) struct Crowd {
    pub(crate) agents: Vec<Arc<Member>>,
    pub(crate) phones: Vec<Arc<Member>>,
}

/// One client.
pub(crate) struct Member {
    pub(crate) sender: Sender,
    pairings: Mutex<HashMap<Rid, UnboundedSender<Incoming>>>,
    /// When which revocation list arrived.
    lists: Mutex<Vec<(u64, Instant)>>,
    /// When it came online or went offline.
    online: Mutex<Vec<(Instant, bool)>>,
}

impl Crowd {
    /// Connects so many of each, spread over the relays.
    pub(crate) async fn connect(region: &Region, fleet: &Fleet, each: u32) -> Result<Self> {
        let mut joining = JoinSet::new();
        for n in 0..each {
            let (tls, relays) = (region.tenant.tls(), |n| region.relays_for(n));
            // Not the relay of the agent with the same number: most pairings are between two relays.
            let settings = [
                fleet.agent_settings(n, relays(n)?, tls.clone()),
                fleet.phone_settings(n, relays(n / 2 + 1)?, tls.clone()),
            ];
            for (kind, settings) in settings.into_iter().enumerate() {
                let tenant = fleet.tenant();
                joining
                    .spawn(async move { Ok::<_, anyhow::Error>((kind, n, Member::connect(settings, tenant).await?)) });
            }
        }
        let mut members: [Vec<(u32, Arc<Member>)>; 2] = [vec![], vec![]];
        while let Some(joined) = joining.join_next().await {
            let (kind, n, member) = joined??;
            members[kind].push((n, member));
        }
        let [agents, phones] = members.map(|mut members| {
            members.sort_unstable_by_key(|(n, _)| *n);
            members.into_iter().map(|(_, member)| member).collect()
        });
        Ok(Self { agents, phones })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.agents.iter().chain(&self.phones)
    }
}

impl Member {
    async fn connect(settings: Settings, tenant: TenantId) -> Result<Arc<Self>> {
        let mut connection = Connection::start(settings);
        let sender = connection.sender().clone();
        let member = Arc::new(Self {
            sender: sender.clone(),
            pairings: Mutex::default(),
            lists: Mutex::default(),
            online: Mutex::default(),
        });
        let mut states = sender.state();
        let watching = member.clone();
        tokio::spawn(async move {
            loop {
                let online = matches!(*states.borrow_and_update(), State::Online { .. });
                {
                    let mut known = locked(&watching.online);
                    if known.last().is_none_or(|(_, before)| *before != online) {
                        known.push((Instant::now(), online));
                    }
                }
                if states.changed().await.is_err() {
                    return;
                }
            }
        });
        let listening = member.clone();
        tokio::spawn(async move {
            while let Some(incoming) = connection.next().await {
                listening.take(incoming);
            }
        });
        member.is_online_within(PATIENCE).await?;
        let subscribed = timeout(PATIENCE, sender.subscribe(Channel::Tenant(tenant))).await;
        subscribed.context("no answer to a subscription")?.context("a subscription was refused")?;
        Ok(member)
    }

    async fn is_online_within(&self, time: Duration) -> Result<()> {
        let mut states = self.sender.state();
        let online = timeout(time, states.wait_for(|state| matches!(state, State::Online { .. }))).await;
        match online {
            Ok(Ok(_)) => Ok(()),
            _ => bail!("a client was not let in: {:?}", *self.sender.state().borrow()),
        }
    }

    fn take(&self, incoming: Incoming) {
        let rid = match &incoming {
            Incoming::Message { bytes, .. } => {
                if let Ok(Bulletin { kind: Kind::Revocation, epoch, .. }) = Bulletin::decode(bytes) {
                    locked(&self.lists).push((epoch, Instant::now()));
                }
                return;
            }
            // The newest statement of each kind follows by itself.
            Incoming::Refetch { .. } => return,
            Incoming::Claimed { rid, .. } | Incoming::Forwarded { rid, .. } | Incoming::Closed { rid, .. } => *rid,
        };
        if let Some(mail) = locked(&self.pairings).get(&rid) {
            let _ = mail.send(incoming);
        }
    }

    /// What comes for a pairing from now on.
    pub(crate) fn expect(&self, rid: Rid) -> UnboundedReceiver<Incoming> {
        let (sender, receiver) = unbounded_channel();
        locked(&self.pairings).insert(rid, sender);
        receiver
    }

    /// Whether it is connected now.
    pub(crate) fn is_online(&self) -> bool {
        matches!(*self.sender.state().borrow(), State::Online { .. })
    }

    /// Waits until it is.
    pub(crate) async fn online(&self) {
        let _ = self.sender.state().wait_for(|state| matches!(state, State::Online { .. })).await;
    }

    /// The newest revocation list that it has.
    pub(crate) fn newest(&self) -> u64 {
        locked(&self.lists).iter().map(|(epoch, _)| *epoch).max().unwrap_or(0)
    }

    /// For how long it was online and had not heard of a list, or of a newer one, that was published then. `None`: it never did.
    pub(crate) fn waited_for(&self, epoch: u64, published: Instant) -> Option<Duration> {
        let arrived = locked(&self.lists).iter().filter(|(known, _)| *known >= epoch).map(|(_, when)| *when).min()?;
        let mut waited = Duration::ZERO;
        let mut online: Option<Instant> = None;
        for (when, now_online) in locked(&self.online).iter().copied().chain([(arrived, false)]) {
            let when = when.min(arrived);
            if let Some(since) = online.take() {
                waited += when.saturating_duration_since(since.max(published));
            }
            online = now_online.then_some(when);
        }
        Some(waited)
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
