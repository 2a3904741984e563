//! Networks that have no liking for WebSockets: something small and real between the connection and the real relay.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gatepass_client::{Connection, Incoming, Proxies, Settings, State, Tls, Why, edge};
use gatepass_protocol::{channel::Channel, ids::Rid, keys::SigningKey, testing::Tenant};
use gatepass_relay::{
    metrics::Posted,
    system_clock,
    testing::{Tenancy, TestRelay},
};
use rustls::{ServerConfig, crypto::ring};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional, split},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(30);

/// What stands in the way does with those who ask for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// Lets them through.
    Nothing,
    /// Passes the request on without the headers of the upgrade, as an old HTTP proxy does.
    Strips,
    /// Answers them itself.
    Answers(&'static str),
    /// Lets the upgrade pass and no byte after it.
    SwallowsAfter,
    /// Lets the upgrade pass and cuts the connection.
    CutsAfter,
    /// Cuts the connection at the question.
    CutsBefore,
    /// Takes the question and says nothing.
    Swallows,
}

/// A middlebox in front of a relay. It can be changed, and can cut everybody off.
struct Middlebox {
    address: SocketAddr,
    does: watch::Sender<Does>,
    cuts: watch::Sender<u32>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Who has asked for a WebSocket so far.
    upgrades: AtomicUsize,
    /// Of how many POSTs the answers are still to be lost.
    to_lose: AtomicUsize,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Middlebox {
    async fn before(relay: SocketAddr, does: Does) -> Self {
        Self::with(relay, does, usize::MAX, None).await
    }

    /// `at_a_time`: the most that is passed on in one piece. With `tls` it ends TLS here.
    async fn with(relay: SocketAddr, does: Does, at_a_time: usize, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (does, what) = watch::channel(does);
        let (cuts, cut) = watch::channel(0);
        let seen = Arc::<Seen>::default();
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (what, mut cut, seen, tls) = (what.clone(), cut.clone(), all.clone(), tls.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let near: Box<dyn Stream> = match tls {
                        Some(tls) => Box::new(tls.accept(near).await.unwrap()),
                        None => Box::new(near),
                    };
                    tokio::select! {
                        _ = pass(near, relay, &what, at_a_time, &seen) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, does, cuts, seen }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn upgrades(&self) -> usize {
        self.seen.upgrades.load(SeqCst)
    }
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// One connection, to its end.
async fn pass(
    mut near: Box<dyn Stream>,
    relay: SocketAddr,
    does: &watch::Receiver<Does>,
    at_a_time: usize,
    seen: &Seen,
) -> io::Result<()> {
    let mut asked = head(&mut near).await?;
    let mut far = TcpStream::connect(relay).await?;
    let is_upgrade = asked.starts_with("GET /v1/ws ");
    let does = if is_upgrade { *does.borrow() } else { Does::Nothing };
    seen.upgrades.fetch_add(usize::from(is_upgrade), SeqCst);
    match does {
        Does::Nothing | Does::SwallowsAfter | Does::CutsAfter => {}
        Does::Strips => {
            let kept = asked.lines().filter(|line| {
                let line = line.to_ascii_lowercase();
                !["upgrade:", "connection:", "sec-websocket"].iter().any(|header| line.starts_with(header))
            });
            asked = kept.map(|line| format!("{line}\r\n")).collect();
        }
        Does::Answers(answer) => return near.write_all(answer.as_bytes()).await,
        Does::CutsBefore => return Ok(()),
        Does::Swallows => return near.read_to_end(&mut Vec::new()).await.map(drop),
    }
    far.write_all(asked.as_bytes()).await?;
    let loses = |left: usize| left.checked_sub(1);
    if asked.starts_with("POST ") && seen.to_lose.fetch_update(SeqCst, SeqCst, loses).is_ok() {
        let (mut near_in, _near_out) = split(near);
        let (mut far_in, mut far_out) = far.into_split();
        tokio::select! {
            _ = copy(&mut near_in, &mut far_out) => {}
            answered = head(&mut far_in) => assert!(answered?.starts_with("HTTP/1.1 204 ")),
        }
        return Ok(());
    }
    if matches!(does, Does::SwallowsAfter | Does::CutsAfter) {
        let answer = head(&mut far).await?;
        near.write_all(answer.as_bytes()).await?;
        if does == Does::SwallowsAfter {
            near.read_to_end(&mut Vec::new()).await?;
        }
        return Ok(());
    }
    if at_a_time == usize::MAX {
        return copy_bidirectional(&mut near, &mut far).await.map(drop);
    }
    let ((near_in, near_out), (far_in, far_out)) = (split(near), far.into_split());
    tokio::select! {
        ended = bits(near_in, far_out, at_a_time) => ended,
        ended = bits(far_in, near_out, at_a_time) => ended,
    }
}

async fn bits(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, at_a_time: usize) -> io::Result<()> {
    let mut bytes = vec![0; at_a_time];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
    }
}

/// A way out by CONNECT, to one place.
async fn proxy(to: SocketAddr) -> (Proxies, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxies = Proxies::from_setting(&format!("http://{}", listener.local_addr().unwrap()), "the test").unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                assert!(head(&mut near).await?.starts_with("CONNECT "));
                near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                copy_bidirectional(&mut near, &mut TcpStream::connect(to).await?).await
            });
        }
    });
    (proxies, asked)
}

fn connect(url: String, tls: Tls, proxies: Proxies, chain: &[Bytes], key: &SigningKey) -> Connection {
    Connection::start(Settings {
        relays: vec![url.parse().unwrap()],
        tls,
        proxies,
        chain: chain.to_vec(),
        key: Arc::new(SigningKey::from_seed(&key.seed())),
    })
}

fn plainly(address: SocketAddr, chain: &[Bytes], key: &SigningKey) -> Connection {
    connect(format!("ws://{address}"), Tls::system().unwrap(), Proxies::none(), chain, key)
}

async fn next(connection: &mut Connection) -> Incoming {
    timeout(PATIENCE, connection.next()).await.unwrap().unwrap()
}

/// The next message of a pairing. A claim may be told twice, where a cut came right behind it.
async fn forwarded(connection: &mut Connection) -> Bytes {
    loop {
        match next(connection).await {
            Incoming::Forwarded { bytes, .. } => return bytes,
            Incoming::Closed { code, .. } => panic!("the pairing was lost: {code:?}"),
            _ => {}
        }
    }
}

async fn until(mut so: impl FnMut() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waited).await.expect("waited in vain");
}

/// Hours in a moment, in steps in which pings are still answered in time.
async fn until_later(so: impl Fn() -> bool) {
    for _ in 0..5_000 {
        if so() {
            return;
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3)).await;
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    panic!("waited in vain");
}

async fn online(connection: &Connection) {
    let mut state = connection.sender().state();
    timeout(PATIENCE, state.wait_for(|state| matches!(state, State::Online { .. }))).await.unwrap().unwrap();
}

/// A pairing with messages both ways, by an agent and a phone that are online.
async fn a_login(agent: &mut Connection, device: &mut Connection, n: u8, cut: impl Fn()) {
    let rid = Rid([n; 16]);
    agent.sender().open(rid, 60).await.unwrap();
    device.sender().claim(rid, [1; 16], [2; 16]).await.unwrap();
    assert!(matches!(next(agent).await, Incoming::Claimed { nonce: [1, ..], tag: [2, ..], .. }));
    for round in 0..4_u8 {
        // As large as they get.
        device.sender().forward(rid, vec![round; 6_200]).await.unwrap();
        cut();
        assert!(forwarded(agent).await == vec![round; 6_200]);
        agent.sender().forward(rid, vec![round, round]).await.unwrap();
        cut();
        assert_eq!(forwarded(device).await, vec![round, round]);
    }
}

/// An order reaches whoever listens, once it does.
async fn an_order(device: &Connection, agent: &mut Connection, orders: Channel) {
    while device.sender().publish(orders, &b"order"[..]).await != Ok(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while !matches!(next(agent).await, Incoming::Message { bytes, .. } if bytes == "order") {}
}

async fn relay(tenant: &Tenant) -> TestRelay {
    TestRelay::with_clock(Tenancy::of([tenant.trust()]), |_| {}, system_clock()).await
}

#[tokio::test]
async fn whatever_a_network_does_to_websockets_a_login_gets_through() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let whole = usize::MAX;
    for (n, (does, at_a_time)) in [
        (Does::Strips, whole),
        (Does::Answers("HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nno.\n"), whole),
        (Does::Answers("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwelcome.\n"), whole),
        (Does::Answers("HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\n\r\n"), whole),
        (Does::Answers("HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n"), whole),
        (Does::SwallowsAfter, whole),
        (Does::CutsAfter, whole),
        (Does::CutsBefore, whole),
        (Does::Strips, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let middlebox = Middlebox::with(relay.address(), does, at_a_time, None).await;
        let mut agent = plainly(middlebox.address, &computer.chain, &computer.sign);
        let mut device = plainly(middlebox.address, &phone.chain, &phone.sign);
        online(&agent).await;
        online(&device).await;
        a_login(&mut agent, &mut device, n as u8, || {}).await;
        assert_eq!(relay.relay.metrics().streams.get(), 2, "{does:?}");
        agent.close().await;
        device.close().await;
        until(|| relay.relay.metrics().streams.get() == 0).await;
    }
}

#[tokio::test]
async fn where_nothing_answers_it_is_tried_in_the_other_way_the_next_time() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let middlebox = Middlebox::before(relay.address(), Does::Swallows).await;
    let computer = tenant.computer();
    let agent = plainly(middlebox.address, &computer.chain, &computer.sign);
    until(|| middlebox.upgrades() == 1).await;
    until_later(|| relay.relay.metrics().connections.get() == 1).await;
    online(&agent).await;
    assert_eq!((relay.relay.metrics().streams.get(), middlebox.upgrades()), (1, 1));
}

#[tokio::test]
async fn a_post_whose_answer_is_lost_is_sent_again_and_nothing_arrives_twice() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let middlebox = Middlebox::before(relay.address(), Does::Strips).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = plainly(relay.address(), &computer.chain, &computer.sign);
    let orders = Channel::Computer(computer.computer());
    online(&agent).await;
    agent.sender().subscribe(orders).await.unwrap();
    middlebox.seen.to_lose.store(3, SeqCst);
    let device = plainly(middlebox.address, &phone.chain, &phone.sign);
    online(&device).await;
    for round in 0..20_u8 {
        assert_eq!(device.sender().publish(orders, vec![round]).await, Ok(1));
        assert!(matches!(next(&mut agent).await, Incoming::Message { bytes, .. } if bytes[..] == [round]));
    }
    let metrics = relay.relay.metrics();
    assert_eq!((metrics.posts.of(Posted::Repeated).get(), metrics.welcomed.get(), metrics.published.get()), (3, 2, 20));
}

#[tokio::test]
async fn one_end_is_blocked_and_the_other_is_not() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let middlebox = Middlebox::before(relay.address(), Does::Strips).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = plainly(relay.address(), &computer.chain, &computer.sign);
    let mut device = plainly(middlebox.address, &phone.chain, &phone.sign);
    online(&agent).await;
    online(&device).await;
    a_login(&mut agent, &mut device, 1, || {}).await;
    assert_eq!((relay.relay.metrics().streams.get(), relay.relay.metrics().connections.get()), (1, 2));
}

#[tokio::test]
async fn a_login_survives_a_blocked_network_that_is_cut_at_every_message() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let middlebox = Middlebox::before(relay.address(), Does::Strips).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = plainly(middlebox.address, &computer.chain, &computer.sign);
    let mut device = plainly(middlebox.address, &phone.chain, &phone.sign);
    online(&agent).await;
    online(&device).await;
    let orders = Channel::Computer(computer.computer());
    agent.sender().subscribe(orders).await.unwrap();
    a_login(&mut agent, &mut device, 1, || middlebox.cut()).await;
    online(&device).await;
    online(&agent).await;
    assert_eq!(middlebox.upgrades(), 2, "that it is blocked was found out once by each");
    an_order(&device, &mut agent, orders).await;
}

#[tokio::test]
async fn through_an_http_proxy_and_a_balancer_that_ends_tls_and_knows_no_websockets() {
    let mut tenant = Tenant::at(1, edge::now());
    let named = |config: &mut gatepass_relay::Config| config.edge.names = vec!["relay.test".to_owned()];
    let relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), named, system_clock()).await;
    let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let tls = Some(TlsAcceptor::from(Arc::new(config)));
    let balancer = Middlebox::with(relay.address(), Does::Strips, usize::MAX, tls).await;
    let (proxies, asked) = proxy(balancer.address).await;
    let tls = Tls::only(&made.cert.pem()).unwrap();
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let through = |chain, key| connect("wss://relay.test".to_owned(), tls.clone(), proxies.clone(), chain, key);
    let mut agent = through(&computer.chain, &computer.sign);
    let mut device = through(&phone.chain, &phone.sign);
    online(&agent).await;
    online(&device).await;
    a_login(&mut agent, &mut device, 1, || {}).await;
    assert_eq!((relay.relay.metrics().streams.get(), balancer.upgrades()), (2, 2));
    let asked = asked.load(SeqCst);
    assert!((6..20).contains(&asked), "POSTs go through the proxy, several on one connection: {asked}");
}

#[tokio::test]
async fn a_relay_that_wants_nobody_now_is_not_asked_in_another_way() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let full = Does::Answers("HTTP/1.1 503 Service Unavailable\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n");
    let middlebox = Middlebox::before(relay.address(), full).await;
    let computer = tenant.computer();
    let agent = plainly(middlebox.address, &computer.chain, &computer.sign);
    let why = timeout(PATIENCE, agent.sender().online()).await.unwrap().unwrap_err();
    assert!(matches!(why, Why::NotOpened { status: 503, .. }), "{why}");
    let until = match &*agent.sender().state().borrow() {
        State::Waiting { until, .. } => *until,
        other => panic!("{other:?}"),
    };
    assert!(until.duration_since(tokio::time::Instant::now()) > Duration::from_secs(7));
    assert_eq!(relay.relay.metrics().posts.of(Posted::Taken).get(), 0);
}

#[tokio::test]
async fn what_answers_in_place_of_a_relay_is_believed_nothing() {
    let portal = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>Welcome".to_owned();
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let endless = format!("{events}data: {}", "A".repeat(20_000));
    for answer in [
        portal,
        endless,
        events.to_owned(),
        format!("{events}data: kwM=\n\n"),
        format!("{events}event: session\ndata: x\n\ndata: <html>\n\n"),
        format!("{events}event: session\ndata: x\n\nevent: close\ndata: 1012 restarting\n\n"),
        format!("{events}event: session\ndata: \u{7}\n\ndata: kwM=\n\n"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let computer = Tenant::at(1, edge::now()).computer();
        let agent = plainly(listener.local_addr().unwrap(), &computer.chain, &computer.sign);
        let said = answer.clone();
        let serve = async {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                if head(&mut near).await.is_ok() {
                    let _ = near.write_all(said.as_bytes()).await;
                }
            }
        };
        let why = tokio::select! {
            why = agent.sender().online() => why.unwrap_err(),
            () = serve => unreachable!(),
        };
        assert!(matches!(why, Why::NotOpened { status: 200, .. }), "{why}: {answer:.200}");
    }
}

#[tokio::test]
async fn a_computer_that_is_carried_into_another_network_goes_back_to_a_websocket() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let middlebox = Middlebox::before(relay.address(), Does::CutsAfter).await;
    let computer = tenant.computer();
    let agent = plainly(middlebox.address, &computer.chain, &computer.sign);
    online(&agent).await;
    assert_eq!(relay.relay.metrics().streams.get(), 1);
    middlebox.does.send_replace(Does::Nothing);
    agent.sender().reconnect().await.unwrap();
    until(|| relay.relay.metrics().streams.get() == 0 && relay.relay.metrics().connections.get() == 1).await;
    online(&agent).await;
}

#[tokio::test]
async fn a_network_that_was_mended_is_noticed_and_nothing_is_lost_by_it() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = relay(&tenant).await;
    let middlebox = Middlebox::before(relay.address(), Does::Strips).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = plainly(middlebox.address, &computer.chain, &computer.sign);
    let orders = Channel::Computer(computer.computer());
    online(&agent).await;
    agent.sender().subscribe(orders).await.unwrap();
    // It is looked after now and then, and still blocked: nothing changes, and pings are answered meanwhile.
    until_later(|| middlebox.upgrades() >= 3).await;
    assert_eq!((relay.relay.metrics().streams.get(), relay.relay.metrics().welcomed.get()), (1, 1));
    middlebox.does.send_replace(Does::Nothing);
    let mut state = agent.sender().state();
    let unblocked = tokio::spawn(async move {
        let unblocked = |state: &State| matches!(state, State::Waiting { why: Why::Unblocked { .. }, .. });
        state.wait_for(unblocked).await.is_ok()
    });
    until_later(|| unblocked.is_finished()).await;
    assert!(unblocked.await.unwrap());
    online(&agent).await;
    until(|| relay.relay.metrics().streams.get() == 0).await;
    let device = plainly(relay.address(), &phone.chain, &phone.sign);
    online(&device).await;
    an_order(&device, &mut agent, orders).await;
}
