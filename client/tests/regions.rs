//! A tenant with two regions: two real relays, one of them far away.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gatepass_client::{Connection, Incoming, Proxies, Regions, Settings, State, Tls, edge};
use gatepass_protocol::{channel::Channel, ids::Rid, keys::SigningKey, pairing::agent::AgentIdentity, testing::Tenant};
use gatepass_relay::{
    Config, system_clock,
    testing::{Tenancy, TestRelay},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(30);
const RID: Rid = Rid([6; 16]);
/// Small, for a test has no minutes; what is measured is the same.
const PACE: Regions = Regions {
    measure_every: Duration::from_millis(200),
    look_home_every: Duration::from_millis(100),
    return_within: Duration::from_millis(200),
};
/// Far more than anything on this machine takes.
const FAR: Duration = Duration::from_millis(250);

/// The way to a relay: long or short, and counted.
struct Way {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
}

impl Way {
    async fn to(relay: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::<AtomicUsize>::default();
        let count = taken.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(relay).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    // Either end gone, and the other is too.
                    tokio::select! {
                        () = carry(near_in, far_out, delay) => {}
                        () = carry(far_in, near_out, delay) => {}
                    }
                });
            }
        });
        Self { address, taken }
    }

    /// Waits until it was taken so many times more.
    async fn taken(&self, more: usize) {
        let wanted = self.taken.load(Relaxed) + more;
        let wait = async {
            while self.taken.load(Relaxed) < wanted {
                sleep(Duration::from_millis(10)).await
            }
        };
        timeout(PATIENCE, wait).await.unwrap();
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        sleep(delay).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

async fn relay(tenant: &Tenant, change: impl FnOnce(&mut Config)) -> TestRelay {
    TestRelay::with_clock(Tenancy::of([tenant.trust()]), change, system_clock()).await
}

fn settings(ways: &[&Way], agent: &AgentIdentity) -> Settings {
    Settings {
        relays: ways.iter().map(|way| format!("ws://{}", way.address).parse().unwrap()).collect(),
        tls: Tls::system().unwrap(),
        proxies: Proxies::none(),
        chain: agent.chain.clone(),
        key: Arc::new(SigningKey::from_seed(&agent.sign.seed())),
    }
}

/// Waits until it is connected by this way.
async fn is_at(connection: &Connection, way: &Way) {
    let there = way.address.to_string();
    let mut state = connection.sender().state();
    let at = state.wait_for(|state| matches!(state, State::Online { relay, .. } if *relay == there));
    drop(timeout(PATIENCE, at).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_computer_is_at_the_nearest_relay_flees_when_it_goes_and_comes_home_when_it_is_back() {
    let mut tenant = Tenant::at(1, edge::now());
    let (near, far) = (relay(&tenant, |_| {}).await, relay(&tenant, |_| {}).await);
    let address = near.address();
    let (short, long) = (Way::to(address, Duration::ZERO).await, Way::to(far.address(), FAR).await);
    let computer = tenant.computer();
    // The far one is the first of the list.
    let mut agent = Connection::start_nearest(settings(&[&long, &short], &computer), PACE);
    let orders = Channel::Computer(computer.computer());
    is_at(&agent, &short).await;
    agent.sender().subscribe(orders).await.unwrap();

    near.stop().await;
    is_at(&agent, &long).await;
    let phone = tenant.phone(1).identity;
    let order = async |relay: &TestRelay, text: &'static str| {
        let settings = Settings {
            relays: vec![relay.url().parse().unwrap()],
            tls: Tls::system().unwrap(),
            proxies: Proxies::none(),
            chain: phone.chain.clone(),
            key: Arc::new(SigningKey::from_seed(&phone.sign.seed())),
        };
        let device = Connection::start(settings);
        device.sender().online().await.unwrap();
        let heard = async { while device.sender().publish(orders, text).await != Ok(1) {} };
        timeout(PATIENCE, heard).await.unwrap();
    };
    order(&far, "there").await;
    // Regions count for themselves: what was published at the other meanwhile is not known here.
    let anew = Some(Incoming::Refetch { channel: orders });
    assert_eq!(agent.next().await, anew);
    assert!(matches!(agent.next().await, Some(Incoming::Message { bytes, .. }) if bytes == "there"));

    let again = |config: &mut Config| config.edge.listen = address;
    let near = relay(&tenant, again).await;
    is_at(&agent, &short).await;
    order(&near, "home").await;
    assert_eq!(agent.next().await, anew);
    assert!(matches!(agent.next().await, Some(Incoming::Message { bytes, .. }) if bytes == "home"));
    // It goes on measuring the other, or it would not know where to flee to.
    long.taken(2).await;
}

#[tokio::test]
async fn nobody_is_cut_off_in_the_middle_of_a_login_by_a_computer_that_goes_home() {
    let mut tenant = Tenant::at(1, edge::now());
    let (near, far) = (relay(&tenant, |_| {}).await, relay(&tenant, |_| {}).await);
    let address = near.address();
    let (short, long) = (Way::to(address, Duration::ZERO).await, Way::to(far.address(), FAR).await);
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Connection::start_nearest(settings(&[&short, &long], &computer), PACE);
    is_at(&agent, &short).await;
    near.stop().await;
    is_at(&agent, &long).await;
    agent.sender().open(RID, 60).await.unwrap();
    let mut device = Connection::start(Settings {
        relays: vec![far.url().parse().unwrap()],
        tls: Tls::system().unwrap(),
        proxies: Proxies::none(),
        chain: phone.chain.clone(),
        key: Arc::new(SigningKey::from_seed(&phone.sign.seed())),
    });
    device.sender().online().await.unwrap();
    device.sender().claim(RID, [1; 16], [2; 16]).await.unwrap();
    assert!(matches!(agent.next().await, Some(Incoming::Claimed { .. })));

    let again = |config: &mut Config| config.edge.listen = address;
    let _near = relay(&tenant, again).await;
    // It has seen often enough that the home is well, and stays.
    short.taken(8).await;
    is_at(&agent, &long).await;
    device.sender().forward(RID, &b"still here"[..]).await.unwrap();
    assert!(matches!(agent.next().await, Some(Incoming::Forwarded { bytes, .. }) if bytes == "still here"));
    device.sender().end(RID).await.unwrap();
    assert!(matches!(agent.next().await, Some(Incoming::Closed { rid: RID, code: None })));
    is_at(&agent, &short).await;
    drop(device.next());
}

#[tokio::test]
async fn a_relay_that_is_not_ready_is_nobodys_home() {
    let mut tenant = Tenant::at(1, edge::now());
    let ready = relay(&tenant, |_| {}).await;
    // It accepts, and never answers.
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (to_hung, to_ready) =
        (Way::to(hung.local_addr().unwrap(), Duration::ZERO).await, Way::to(ready.address(), Duration::ZERO).await);
    let agent = Connection::start_nearest(settings(&[&to_hung, &to_ready], &tenant.computer()), PACE);
    is_at(&agent, &to_ready).await;
}
