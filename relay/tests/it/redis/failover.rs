//! Pairings that talk while Redis fails over or restarts.

use super::*;

/// Pairings whose ends talk while something is done to Redis: each message arrives once, in order.
async fn talk_through(config: &Config, breaking: impl AsyncFnOnce()) {
    const PAIRS: usize = 24;
    const BEFORE: u32 = 5;
    const MEANWHILE: u32 = 40;
    const ALL: u32 = 45;
    let (a, b) = (join(config).await, join(config).await);
    let mut pairs = vec![];
    for _ in 0..PAIRS {
        pairs.push(pair(&a, &b).await);
    }
    let talk = |from: u32, to: u32| {
        let (a, b) = (&a, &b);
        pairs.iter().map(move |paired| async move {
            for n in from..=to {
                // Each waits for the other's, as the real protocol does: at most one is on its way.
                send(b, paired.rid, Side::Device, n, n - 1).await;
                eventually("the message arrives", async || {
                    (a.numbers(paired.rid, Side::Agent).last() >= Some(&n)).then_some(())
                })
                .await;
                send(a, paired.rid, Side::Agent, n, n).await;
                eventually("the answer arrives", async || {
                    (b.numbers(paired.rid, Side::Device).last() >= Some(&n)).then_some(())
                })
                .await;
            }
        })
    };
    futures_util::future::join_all(talk(1, BEFORE)).await;
    let talking = futures_util::future::join_all(talk(BEFORE + 1, MEANWHILE));
    futures_util::future::join(talking, breaking()).await;
    futures_util::future::join_all(talk(MEANWHILE + 1, ALL)).await;
    let all: Vec<u32> = (1..=ALL).collect();
    for Paired { rid, .. } in &pairs {
        a.hears(*rid, Side::Agent, &all).await;
        b.hears(*rid, Side::Device, &all).await;
    }
    a.ready().await;
    let thief = b.plane.claim(pairs[0].rid, pairs[0].tenant, holder(), frame("claim")).await;
    assert_eq!(thief, Err(Refusal::Claimed));
    pair(&a, &b).await;
}

#[tokio::test]
async fn a_master_fails_over_under_talking_pairings_and_none_loses_a_word() {
    let mut redis = Watched::start().await;
    let config = configured(redis.backplane());
    let master = &mut redis.servers[0];
    talk_through(&config, async move || master.kill()).await;
}

#[tokio::test]
async fn a_master_of_a_cluster_fails_over_under_talking_pairings_and_none_loses_a_word() {
    let mut redis = Cluster::start(true).await;
    let config = configured(redis.backplane());
    let master = &mut redis.masters[1];
    talk_through(&config, async move || master.kill()).await;
}

#[tokio::test]
async fn a_restart_under_talking_pairings_loses_no_word() {
    let mut redis = Server::start(&[]).await;
    let config = configured(redis.backplane());
    let server = &mut redis;
    talk_through(&config, async move || server.restart().await).await;
}

#[tokio::test]
async fn a_planned_failover_of_a_cluster_loses_no_word() {
    // The former master unsubscribes its clients without being asked: a trap for who counts answers.
    let redis = Cluster::start(true).await;
    let config = configured(redis.backplane());
    let over = async || {
        let mut asked: Option<Instant> = None;
        eventually("the replica is the master", async || {
            // Redis gives up after five seconds in which the replica did not catch up, and says so to nobody.
            if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(6)) {
                redis.replicas[0].ask::<String>(&["CLUSTER", "FAILOVER"]).await?;
                asked = Some(Instant::now());
            }
            let about: String = redis.replicas[0].ask(&["INFO", "replication"]).await?;
            about.contains("role:master").then_some(())
        })
        .await;
    };
    talk_through(&config, over).await;
}
