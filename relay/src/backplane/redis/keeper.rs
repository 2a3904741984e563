//! Keeps a link to each server that holds data: finds out which those are, connects, subscribes, proves each second that
//! what is published arrives, and after each change has everything looked up that may have been missed meanwhile.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
    time::Duration,
};

use futures_util::future::join_all;
use redis::{RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Shared,
    keys::{BUCKETS, SLOTS},
    link::Link,
    notice::Notice,
    routes::Way,
    settings::parse_address,
};
use crate::{config::BackplaneKind, locked};

/// Between two looks at everything.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks when something is wrong: a tenth of the time within which a relay has to be back.
const HURRIED: Duration = Duration::from_millis(200);

/// A server, and the first and last slot that it holds.
type Holding = ((String, u16), (usize, usize));

#[derive(Default)]
struct Keeper {
    links: HashMap<String, Arc<Link>>,
    /// As it was last said to be.
    holdings: Vec<Holding>,
    sentinel: Option<MultiplexedConnection>,
    proved: Option<Instant>,
    ever: bool,
    /// An outage is warned about once, however long it lasts.
    warned: bool,
}

/// Works until nobody needs it any more.
pub(super) async fn keep(shared: Weak<Shared>) {
    let mut keeper = Keeper::default();
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let whole = keeper.look(&shared).await;
        let wake = shared.wake.clone();
        drop(shared);
        if whole {
            let _ = timeout(EVERY, wake.notified()).await;
        } else {
            sleep(HURRIED).await;
        }
    }
}

impl Keeper {
    /// One look at everything; whether all is well.
    async fn look(&mut self, shared: &Arc<Shared>) -> bool {
        self.links.retain(|_, link| link.is_alive());
        match self.holdings(shared).await {
            Ok(holdings) => self.holdings = holdings,
            // Who holds what is not known anew, but may still be as it was.
            Err(error) => self.warn("can't find out where Redis is", &error),
        }
        self.connect(shared).await;
        let gained = self.assign(shared).await;
        if !gained.is_empty() {
            self.bring_up_to_date(shared, &gained);
        }
        let covered = (0..BUCKETS).all(|bucket| shared.routes.now(bucket).is_some());
        let proved = if self.proved.is_none_or(|when| when.elapsed() >= EVERY) || !gained.is_empty() {
            self.prove(shared).await
        } else {
            true
        };
        if covered && proved {
            shared.proved_now();
        }
        let age = shared.proof_age().unwrap_or(Duration::MAX).as_millis();
        shared.metrics.backplane_probe_age.set(i64::try_from(age).unwrap_or(i64::MAX));
        shared.tend_pairings();
        shared.tend_tenants();
        if covered && proved && std::mem::take(&mut self.warned) {
            info!("Redis works again");
        }
        covered && proved
    }

    fn warn(&mut self, what: &str, error: &RedisError) {
        if std::mem::replace(&mut self.warned, true) {
            debug!(%error, "{what}");
        } else {
            warn!(%error, "{what}; trying on, several times a second");
        }
    }

    /// Which server holds which slots.
    async fn holdings(&mut self, shared: &Shared) -> Result<Vec<Holding>, RedisError> {
        let all = (0, SLOTS - 1);
        match shared.settings.kind {
            BackplaneKind::Memory | BackplaneKind::Redis => {
                Ok(shared.settings.servers.iter().take(1).map(|server| (server.clone(), all)).collect())
            }
            BackplaneKind::RedisSentinel => Ok(vec![(self.ask_sentinels(shared).await?, all)]),
            BackplaneKind::RedisCluster => self.ask_cluster(shared).await,
        }
    }

    /// The master, by the first Sentinel that answers.
    async fn ask_sentinels(&mut self, shared: &Shared) -> Result<(String, u16), RedisError> {
        let mut which = redis::cmd("SENTINEL");
        which.arg("get-master-addr-by-name").arg(&shared.settings.master);
        if let Some(mut known) = self.sentinel.take()
            && let Ok(Some(master)) = which.query_async::<Option<(String, u16)>>(&mut known).await
        {
            self.sentinel = Some(known);
            return Ok(master);
        }
        let mut why: RedisError =
            (redis::ErrorKind::MasterNameNotFoundBySentinel, "no Sentinel knows the master").into();
        for (host, port) in &shared.settings.servers {
            let asked = async {
                let mut sentinel = plain(shared, &shared.settings.sentinel_client(host, *port)?).await?;
                Ok::<_, RedisError>((which.query_async::<Option<(String, u16)>>(&mut sentinel).await?, sentinel))
            };
            match asked.await {
                Ok((Some(master), sentinel)) => {
                    self.sentinel = Some(sentinel);
                    return Ok(master);
                }
                Ok((None, _)) => {}
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// The masters, by whichever node of the cluster answers first.
    async fn ask_cluster(&self, shared: &Shared) -> Result<Vec<Holding>, RedisError> {
        let mut which = redis::cmd("CLUSTER");
        which.arg("SLOTS");
        for link in self.links.values() {
            if let Ok(answer) = link.ask(&which).await {
                let (host, _) = parse_address(&link.address).unwrap_or_default();
                return Ok(read_slots(answer, &host));
            }
        }
        let known = self.holdings.iter().map(|(address, _)| address);
        let mut why: RedisError =
            (redis::ErrorKind::ClusterConnectionNotFound, "no node of the cluster answers").into();
        let mut tried = HashSet::new();
        for (host, port) in shared.settings.servers.iter().chain(known) {
            if !tried.insert((host, port)) {
                continue;
            }
            let asked = async {
                let mut node = plain(shared, &shared.settings.client(host, *port)?).await?;
                which.query_async::<Value>(&mut node).await
            };
            match asked.await {
                Ok(answer) => return Ok(read_slots(answer, host)),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Connects to each server that holds something and has no link; lets go of those that hold nothing any more.
    async fn connect(&mut self, shared: &Shared) {
        let wanted: HashSet<(String, u16)> = self.holdings.iter().map(|(address, _)| address.clone()).collect();
        let names: HashSet<String> = wanted.iter().map(name).collect();
        self.links.retain(|address, link| {
            let stays = names.contains(address);
            if !stays {
                link.give_up();
            }
            stays
        });
        let missing = wanted.iter().filter(|address| !self.links.contains_key(&name(address)));
        let connecting = missing.map(|(host, port)| async move {
            let client = shared.settings.client(host, *port)?;
            let (handoff, wake) = (shared.handoff.clone(), shared.wake.clone());
            Link::connect(&client, shared.settings.timeout, handoff, wake, shared.metrics.clone()).await
        });
        for link in join_all(connecting).await {
            match link {
                Ok(link) => {
                    if std::mem::replace(&mut self.ever, true) {
                        shared.metrics.backplane_reconnects.inc();
                    }
                    info!(redis = link.address, "connected");
                    self.links.insert(link.address.clone(), Arc::new(link));
                }
                Err(error) => {
                    shared.metrics.backplane_errors.inc();
                    self.warn("can't connect to Redis", &error);
                }
            }
        }
    }

    /// Gives each bucket its link, and subscribes there. Returns the buckets that have another link than before.
    async fn assign(&mut self, shared: &Shared) -> HashSet<usize> {
        let before = shared.routes.table();
        let mut table: Vec<Way> = (0..BUCKETS).map(|bucket| self.way(shared, bucket)).collect();
        let mut gained: HashMap<String, Vec<usize>> = HashMap::new();
        for (bucket, (now, before)) in table.iter().zip(before.iter()).enumerate() {
            match (now, before) {
                (Way::Link(now), Way::Link(before)) if Arc::ptr_eq(now, before) => {}
                (Way::Link(now), _) => gained.entry(now.address.clone()).or_default().push(bucket),
                (Way::None(_), _) => {}
            }
        }
        let subscribing = gained.iter().map(|(address, buckets)| self.subscribe(shared, address, buckets));
        for (address, subscribed) in gained.keys().zip(join_all(subscribing).await) {
            if let Err(error) = subscribed {
                warn!(redis = address, %error, "can't subscribe");
            }
        }
        for (way, before) in table.iter_mut().zip(before.iter()) {
            if matches!(way, Way::Link(link) if !link.is_alive()) {
                *way = Way::None(Instant::now());
            }
            if let (Way::None(since), Way::None(earlier)) = (&mut *way, before) {
                *since = *earlier;
            }
        }
        let gained = gained.into_values().flatten();
        let gained = gained.filter(|bucket| matches!(table[*bucket], Way::Link(_))).collect();
        shared.routes.set(table);
        gained
    }

    fn way(&self, shared: &Shared, bucket: usize) -> Way {
        let slot = shared.keys.slot(bucket);
        let holds = |(_, (first, last)): &&Holding| (*first..=*last).contains(&slot);
        let link = self.holdings.iter().find(holds).and_then(|(address, _)| self.links.get(&name(address)));
        link.map_or_else(|| Way::None(Instant::now()), |link| Way::Link(link.clone()))
    }

    async fn subscribe(&self, shared: &Shared, address: &str, buckets: &[usize]) -> Result<(), RedisError> {
        let Some(link) = self.links.get(address) else { return Ok(()) };
        let of: HashSet<usize> = buckets.iter().copied().collect();
        let mut channels: Vec<String> =
            buckets.iter().map(|bucket| format!("{}{}", shared.keys.notices(*bucket), shared.node)).collect();
        channels.extend(shared.channels(|bucket| of.contains(&bucket)));
        channels.extend(shared.presence_channels(|bucket| of.contains(&bucket)));
        link.subscribe(&channels).await
    }

    fn bring_up_to_date(&self, shared: &Shared, gained: &HashSet<usize>) {
        // Followed between the subscriptions and the new table: their own link was another.
        shared.sync_buckets(|bucket| gained.contains(&bucket));
        shared.catch_up_buckets(|bucket| gained.contains(&bucket));
        shared.put_back(|bucket| gained.contains(&bucket));
    }

    /// Publishes to this node's own notice channel at each server, and waits until it arrives through the same queue as
    /// everything else. Another bucket each time: a subscription that is missing is found.
    async fn prove(&mut self, shared: &Shared) -> bool {
        self.proved = Some(Instant::now());
        shared.sweep_presence();
        shared.tell_address().await;
        let turn = shared.probes_sent.fetch_add(1, SeqCst) as usize;
        let table = shared.routes.table();
        let proofs = self.links.values().map(|link| {
            let here = |bucket: &usize| matches!(&table[*bucket], Way::Link(at) if Arc::ptr_eq(at, link));
            let buckets: Vec<usize> = (0..BUCKETS).filter(here).collect();
            async move {
                let Some(bucket) = buckets.get(turn % buckets.len().max(1)) else { return true };
                let lapsed: HashSet<usize> = shared.renew_signs(link, &buckets).await.into_iter().collect();
                if !lapsed.is_empty() {
                    shared.put_back(|bucket| lapsed.contains(&bucket));
                }
                let proved = probe(shared, link, *bucket).await;
                if !proved {
                    warn!(redis = link.address, "what is published does not arrive: connecting anew");
                    link.give_up();
                }
                proved
            }
        });
        join_all(proofs).await.into_iter().all(|proved| proved)
    }
}

async fn probe(shared: &Shared, link: &Link, bucket: usize) -> bool {
    let Ok(token) = getrandom::u64() else { return false };
    let (sender, arrived) = oneshot::channel();
    locked(&shared.probes).insert(token, sender);
    let channel = format!("{}{}", shared.keys.notices(bucket), shared.node);
    let notice = Notice::Probe(token).encode();
    let there_and_back = async {
        link.publish(&channel, &notice).await.is_ok() && arrived.await.is_ok() && link.read_clock().await.is_ok()
    };
    let proved = timeout(shared.settings.timeout, there_and_back).await.unwrap_or(false);
    locked(&shared.probes).remove(&token);
    proved
}

/// A connection for a question.
async fn plain(shared: &Shared, client: &redis::Client) -> Result<MultiplexedConnection, RedisError> {
    let limit = Some(shared.settings.timeout);
    let config = redis::AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn name((host, port): &(String, u16)) -> String {
    format!("{host}:{port}")
}

/// Reads CLUSTER SLOTS: ranges with their master first. A node that does not know its own name leaves it empty.
fn read_slots(answer: Value, asked: &str) -> Vec<Holding> {
    let Value::Array(ranges) = answer else { return vec![] };
    let number = |value: Option<&Value>| match value {
        Some(Value::Int(number)) => usize::try_from(*number).ok(),
        _ => None,
    };
    let read = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let slots = (number(range.first())?, number(range.get(1))?);
        let Some(Value::Array(master)) = range.get(2) else { return None };
        let host = match master.first() {
            Some(Value::BulkString(host)) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
            _ => asked.to_owned(),
        };
        Some(((host, u16::try_from(number(master.get(1))?).ok()?), slots))
    };
    ranges.iter().filter_map(read).collect()
}
