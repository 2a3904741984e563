//! One fault, from the start of a region to the account.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, bail};
use gatepass_client::Http;
use gatepass_loadtest::Fleet;
use gatepass_protocol::statement::Kind;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    account::Account,
    crowd::{Crowd, locked},
    dice::Dice,
    fault::Fault,
    pairing::{Cast, Pairing},
    region::{Region, are_ready},
};

/// Seconds that a pairing lives: the most that the protocol allows.
const TTL: u32 = 90;
/// Of those that begin when it has struck. Where one end is told and can't tell the other, that one hears when this is over.
const SHORT_TTL: u32 = 30;
/// Pairings of one agent and of one phone.
const EACH: u32 = 5;
/// Pairings that begin once all is whole.
const NEWCOMERS: usize = 20;
/// Every so many pairings, a second phone claims at the same moment.
const RIVALS: u32 = 4;
/// Within which all are in flight, and after which the region has to be whole.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often new revocation lists are published.
const LISTS: Duration = Duration::from_secs(1);
/// A list that was published this long ago has to be everywhere for the region to be whole.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// A message that was said this long ago, and not answered, is one that does not get through.
const STUCK: Duration = Duration::from_millis(500);
/// For how long everything has to be well to be called whole: longer than a failover takes to be noticed.
const STAYS: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The revocation lists that were published, and when.
type Published = watch::Receiver<Vec<(u64, Instant)>>;

/// The pairings that have begun.
type Begun = Arc<Mutex<Vec<Arc<Pairing>>>>;

/// Pairings, begun by and by.
struct Pairings {
    crowd: Arc<Crowd>,
    seed: u64,
    finish: watch::Sender<bool>,
    begun: Begun,
    playing: JoinSet<()>,
}

impl Pairings {
    fn begin(&mut self, ttl: u32) {
        let number = locked(&self.begun).len() as u32;
        let mut dice = Dice::new(self.seed, number.into());
        let crowd = &self.crowd;
        let any = |dice: &mut Dice| dice.below(crowd.phones.len() as u64) as usize;
        let first = any(&mut dice);
        let mut phones = vec![crowd.phones[first].clone()];
        if number.is_multiple_of(RIVALS) {
            // Never itself.
            let other = (first + 1 + dice.below(crowd.phones.len() as u64 - 1) as usize) % crowd.phones.len();
            phones.push(crowd.phones[other].clone());
        }
        let agent = crowd.agents[number as usize % crowd.agents.len()].clone();
        let pairing = Pairing::new(number, ttl, phones.len());
        locked(&self.begun).push(pairing.clone());
        self.playing.spawn(pairing.play(Cast { agent, phones }, self.finish.subscribe(), dice));
    }

    /// Begins more, so many a second, until dropped.
    async fn go_on_beginning(&mut self, per_second: f64) -> ! {
        loop {
            self.begin(SHORT_TTL);
            sleep(Duration::from_secs_f64(1.0 / per_second)).await;
        }
    }
}

/// Does it all. `folder` is for files and logs.
pub(crate) async fn run(fault: Fault, pairings: u32, seed: u64, folder: &Path) -> Result<Account> {
    let mut account = Account { fault: fault.name(), ..Account::default() };
    let mut region = Region::start(folder).await?;
    if fault == Fault::RelayCutOff && !region.network.is_own() {
        account.skipped = Some("network namespaces are not allowed here".to_owned());
        return Ok(account);
    }
    let fleet = region.tenant.fleet(seed);
    let crowd = Arc::new(Crowd::connect(&region, &fleet, pairings.div_ceil(EACH).max(4)).await?);
    let (publish, published) = watch::channel(vec![]);
    let publishing =
        tokio::spawn(publish_lists(gatepass_loadtest::Tenant::open(&folder.join("tenant"))?, fleet, publish));

    let (finish, pairings_begun) = (watch::Sender::new(false), Begun::default());
    let mut all =
        Pairings { crowd: crowd.clone(), seed, finish, begun: pairings_begun.clone(), playing: JoinSet::new() };
    for _ in 0..pairings {
        all.begin(TTL);
        // As fast as phones and agents would be let in.
        sleep(Duration::from_millis(2)).await;
    }
    let begun = Instant::now();
    while !locked(&all.begun).iter().all(|pairing| pairing.is_in_flight()) {
        if begun.elapsed() > PATIENCE {
            bail!("the pairings are not in flight after {} s, without any fault", PATIENCE.as_secs());
        }
        sleep(LOOK).await;
    }
    let in_flight: HashSet<u32> =
        locked(&all.begun).iter().filter(|pairing| !pairing.is_over()).map(|pairing| pairing.number).collect();
    account.in_flight = in_flight.len();

    // New ones begin all the while.
    let wounded = watch::Sender::new(Instant::now());
    let watching = tokio::spawn({
        let (probes, wounded) = (region.probes()?, wounded.clone());
        let (crowd, begun, published) = (crowd.clone(), all.begun.clone(), published.clone());
        async move {
            loop {
                if !is_whole(&probes, &crowd, &begun, &published).await {
                    wounded.send_replace(Instant::now());
                }
                sleep(LOOK).await;
            }
        }
    });
    let per_second = (f64::from(pairings) / 100.0).max(1.0);
    let since = tokio::select! {
        since = fault.strike(&mut region) => since?,
        never = all.go_on_beginning(per_second) => never,
    };
    // What was done may show late, so whole is what stays so.
    while account.whole.is_none() && since.elapsed() < PATIENCE {
        let last = *wounded.borrow();
        if last.elapsed() >= STAYS && since.elapsed() >= STAYS {
            account.whole = Some(last.saturating_duration_since(since));
        }
        sleep(LOOK).await;
    }
    watching.abort();
    // Whole is what lets somebody new in.
    (0..NEWCOMERS).for_each(|_| all.begin(SHORT_TTL));
    let settled = Instant::now();
    while !locked(&all.begun).iter().rev().take(NEWCOMERS).all(|pairing| pairing.is_in_flight())
        && settled.elapsed() < PATIENCE / 3
    {
        sleep(LOOK).await;
    }
    all.finish.send_replace(true);
    while all.playing.join_next().await.is_some() {}
    publishing.abort();
    let _ = publishing.await;
    let lists = published.borrow().clone();
    let newest = lists.last().map_or(0, |(epoch, _)| *epoch);
    let ended = Instant::now();
    while crowd.all().any(|member| member.newest() < newest) && ended.elapsed() < PATIENCE {
        sleep(LOOK).await;
    }
    locked(&all.begun).iter().for_each(|pairing| account.add(pairing, in_flight.contains(&pairing.number)));
    for (epoch, when) in lists {
        for member in crowd.all() {
            account.expected += 1;
            if let Some(waited) = member.waited_for(epoch, when) {
                account.seen += 1;
                account.longest_list = account.longest_list.max(waited);
            }
        }
    }
    Ok(account)
}

/// Publishes revocation lists through the control plane, as an administrator's command does.
async fn publish_lists(tenant: gatepass_loadtest::Tenant, fleet: Fleet, published: watch::Sender<Vec<(u64, Instant)>>) {
    let mut epoch = tenant.next_epoch(Kind::Revocation).await.unwrap_or(1);
    loop {
        let list = fleet.revocation(epoch, vec![fleet.nobody(epoch as u32)]);
        if tenant.submit(&list).await.is_ok() {
            published.send_modify(|all| all.push((epoch, Instant::now())));
            epoch += 1;
        }
        sleep(LISTS).await;
    }
}

/// Whether every relay is ready, every client is online and up to date, and no pairing waits for an answer.
async fn is_whole(probes: &[Http], crowd: &Crowd, pairings: &Begun, published: &Published) -> bool {
    let due = |(epoch, when): &(u64, Instant)| (when.elapsed() > ON_ITS_WAY).then_some(*epoch);
    let newest = published.borrow().iter().filter_map(due).max().unwrap_or(0);
    crowd.all().all(|member| member.is_online() && member.newest() >= newest)
        && !locked(pairings).iter().any(|pairing| pairing.is_stuck(STUCK))
        && are_ready(probes).await
}
