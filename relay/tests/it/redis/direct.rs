//! Messages that go straight from relay to relay, with Redis behind: what holds while connections break and relays die.

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::*;

/// A region whose relays can reach each other.
fn reachable(redis: &Server) -> Config {
    let mut config = configured(redis.backplane());
    config.backplane.peer_listen = "127.0.0.1:0".into();
    config
}

/// Two relays that have a connection to each other, each way.
async fn linked(config: &Config) -> (Node, Node) {
    let (a, b) = (join(config).await, join(config).await);
    links(&a, &b).await;
    (a, b)
}

async fn links(a: &Node, b: &Node) {
    eventually("they call each other", async || {
        let Paired { rid, .. } = pair(a, b).await;
        b.plane.close(rid, Side::Device).await.unwrap();
        let up = |node: &Node| node.metrics.backplane_links.get() > 0;
        (up(a) && up(b)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn relays_that_listen_everywhere_find_each_other_where_they_reach_redis() {
    let redis = Server::start(&[]).await;
    let mut config = reachable(&redis);
    config.backplane.peer_listen = "0.0.0.0:0".into();
    linked(&config).await;
}

/// Something between two relays that can be cut.
struct Cable {
    address: String,
    whole: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Cable {
    async fn to(address: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let (whole, state) = watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut through = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let (address, mut state) = (address.clone(), state.clone());
                if !*state.borrow() {
                    continue;
                }
                through.spawn(async move {
                    let mut far = TcpStream::connect(address).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Self { address: own, whole, _tasks: tasks }
    }
}

#[tokio::test]
async fn relays_that_reach_each_other_do_what_every_backplane_must() {
    let redis = Server::start(&[]).await;
    conforms(reachable(&redis).backplane).await;
}

#[tokio::test]
async fn a_message_goes_straight_to_the_other_relay_and_redis_hears_of_many_at_once() {
    const ROUNDS: u32 = 200;
    let redis = Server::start(&[]).await;
    let (a, b) = linked(&reachable(&redis)).await;
    let Paired { rid, .. } = pair(&a, &b).await;
    let before = a.metrics.backplane_commands.get() + b.metrics.backplane_commands.get();
    for n in 1..=ROUNDS {
        send(&b, rid, Side::Device, n, n - 1).await;
        a.hears(rid, Side::Agent, &(1..=n).collect::<Vec<_>>()).await;
        send(&a, rid, Side::Agent, n, n).await;
        b.hears(rid, Side::Device, &(1..=n).collect::<Vec<_>>()).await;
    }
    let commands = a.metrics.backplane_commands.get() + b.metrics.backplane_commands.get() - before;
    assert!(commands < u64::from(ROUNDS), "{commands} commands for {} messages", 2 * ROUNDS);
    assert!(a.metrics.backplane_handed.get() >= u64::from(ROUNDS));
    assert_eq!(a.metrics.backplane_deferred.get(), 0);
}

#[tokio::test]
async fn a_connection_between_relays_is_cut_under_a_talking_pairing_and_no_word_is_lost() {
    let redis = Server::start(&[]).await;
    let a = join(&reachable(&redis)).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cable = Cable::to(free.to_string()).await;
    let mut behind_cable = reachable(&redis);
    behind_cable.backplane.peer_listen = free.to_string();
    behind_cable.backplane.peer_address = cable.address.clone();
    let b = join(&behind_cable).await;
    links(&a, &b).await;
    let Paired { rid, .. } = pair(&a, &b).await;
    for n in 1..=60 {
        match n {
            20 => cable.whole.send_replace(false),
            40 => cable.whole.send_replace(true),
            _ => true,
        };
        send(&b, rid, Side::Device, n, n - 1).await;
        a.hears(rid, Side::Agent, &(1..=n).collect::<Vec<_>>()).await;
        send(&a, rid, Side::Agent, n, n).await;
        b.hears(rid, Side::Device, &(1..=n).collect::<Vec<_>>()).await;
    }
    b.plane.close(rid, Side::Device).await.unwrap();
    eventually("the agent hears of the end", async || {
        let events = a.heard.events.lock().unwrap();
        events.contains(&(rid, Side::Agent, Event::Closed)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_end_comes_back_at_a_third_relay_and_has_what_redis_did_not_know() {
    let redis = Server::start(&[]).await;
    let config = reachable(&redis);
    let (a, b) = linked(&config).await;
    let c = join(&config).await;
    let Paired { rid, tenant, device } = pair(&a, &b).await;
    send(&b, rid, Side::Device, 1, 0).await;
    a.hears(rid, Side::Agent, &[1]).await;
    for n in 1..=3 {
        send(&a, rid, Side::Agent, n, 1).await;
    }
    b.hears(rid, Side::Device, &[1, 2, 3]).await;
    // At once, so long before Redis is told by itself. It had the first only.
    let back = c.plane.resume(rid, tenant, device, 1).await.unwrap();
    assert_eq!((back.sent, back.missed.len()), (1, 2));
    send(&c, rid, Side::Device, 2, 3).await;
    a.hears(rid, Side::Agent, &[1, 2]).await;
    send(&a, rid, Side::Agent, 4, 2).await;
    c.hears(rid, Side::Device, &[4]).await;
}

#[tokio::test]
async fn the_one_relay_that_knew_both_ends_dies_and_they_go_on_at_another() {
    let redis = Server::start(&[]).await;
    let config = reachable(&redis);
    let (a, b) = (join(&config).await, join(&config).await);
    let (rid, tenant, agent, device) = (Rid(random()), TenantId(random()), holder(), holder());
    a.plane.open(rid, tenant, agent.clone(), TTL).await.unwrap();
    a.plane.claim(rid, tenant, device.clone(), frame("claim")).await.unwrap();
    for n in 1..=3 {
        send(&a, rid, Side::Device, n, n - 1).await;
        send(&a, rid, Side::Agent, n, n).await;
    }
    // The phone has two of three; and the agent's own client keeps the third, for nobody said that it arrived.
    drop(a);
    let back = b.plane.resume(rid, tenant, agent, 3).await.unwrap();
    assert_eq!(back.side, Side::Agent);
    let unacked = back.sent + 1..=3;
    assert!(unacked.contains(&3), "the agent is asked for it again");
    send(&b, rid, Side::Agent, 3, 3).await;
    let back = b.plane.resume(rid, tenant, device, 2).await.unwrap();
    let missed: Vec<u32> = back
        .missed
        .iter()
        .filter_map(|event| if let Event::Forward { seq, .. } = event { Some(*seq) } else { None })
        .collect();
    assert_eq!(missed, [3]);
    send(&b, rid, Side::Device, 4, 3).await;
    b.hears(rid, Side::Agent, &[4]).await;
    send(&b, rid, Side::Agent, 4, 4).await;
    b.hears(rid, Side::Device, &[4]).await;
}

#[tokio::test]
async fn whoever_does_not_know_the_regions_secret_is_not_listened_to() {
    let redis = Server::start(&[]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = reachable(&redis);
    config.backplane.peer_listen = free.to_string();
    let node = join(&config).await;
    let mut stranger = TcpStream::connect(free).await.unwrap();
    stranger.write_all(&[0; 64]).await.unwrap();
    let mut answer = vec![];
    // An alert at most, and the end.
    let _ = stranger.read_to_end(&mut answer).await;
    assert!(answer.len() < 16, "{answer:?}");
    // And the relay goes on.
    links(&node, &join(&reachable(&redis)).await).await;
}
