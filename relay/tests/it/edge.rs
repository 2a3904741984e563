//! HTTP, TLS, health, metrics, and the end.

use std::{
    io::Cursor,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use gatepass_protocol::{
    Code,
    frame::{Frame, Place},
    testing::Tenant,
};
use gatepass_relay::{
    Metrics,
    config::TlsMode,
    metrics::{End, Limit},
    testing::{Tenancy, TestRelay},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    client::{Client, Heard, PATIENCE, Stream, eventually, forward, paired},
    listener::Listener,
};

async fn request_on(stream: &mut impl Stream, head: &str) -> String {
    let head = format!("{head}\r\nHost: relay\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    answer
}

async fn request(relay: &TestRelay, head: &str) -> String {
    request_on(&mut TcpStream::connect(relay.address()).await.expect("connected"), head).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn an_operator_sees_health_and_metrics_and_nothing_else() {
    let relay = TestRelay::start(Tenancy::of([])).await;
    for (head, expected) in [
        ("GET /health/live HTTP/1.1", "200"),
        ("GET /health/ready HTTP/1.1", "200"),
        ("GET /metrics HTTP/1.1", "200"),
        ("POST /metrics HTTP/1.1", "405"),
        ("GET /v1/ws HTTP/1.1", "426"),
        ("GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 12", "426"),
        ("GET / HTTP/1.1", "404"),
        ("GET /api/v1/tenants HTTP/1.1", "404"),
        ("nonsense", "400"),
    ] {
        assert_eq!(status(&request(&relay, head).await), expected, "{head}");
    }
    let metrics = request(&relay, "GET /metrics HTTP/1.1").await;
    for name in Metrics::NAMES {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_idles_between_two_requests_is_closed_and_nothing_is_wrong_with_that() {
    let second = |config: &mut gatepass_relay::Config| config.limits.handshake_seconds = NonZeroU32::MIN;
    let relay = TestRelay::with(Tenancy::of([]), second).await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: relay\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("closed in time").unwrap();
    assert_eq!(status(&answer), "200");
    eventually(|| relay.relay.metrics().handshakes.get() == 0).await;
    assert_eq!(relay.relay.metrics().refused.of(Limit::HandshakeTime).get(), 0);
}

/// Asks on a connection that stays open; what is read until the body's end.
async fn ask_on(socket: &mut TcpStream) -> String {
    socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: relay\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"live\n") {
        assert_ne!(timeout(PATIENCE, socket.read_buf(&mut answer)).await.expect("in time").expect("read"), 0);
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn who_asks_on_and_on_keeps_nobody_out_and_is_not_there_for_ever() {
    let few = |config: &mut gatepass_relay::Config| {
        (config.limits.handshakes, config.limits.handshake_seconds) = (1, NonZeroU32::MIN);
    };
    let relay = TestRelay::with(Tenancy::of([]), few).await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    let mut answer = ask_on(&mut socket).await;
    assert_eq!(status(&request(&relay, "GET /health/ready HTTP/1.1").await), "200", "beside one that stays");
    let since = Instant::now();
    while !answer.contains("connection: close") {
        assert!(since.elapsed() < PATIENCE, "it asks for ever");
        sleep(Duration::from_millis(200)).await;
        answer = ask_on(&mut socket).await;
    }
    assert_eq!(timeout(PATIENCE, socket.read_buf(&mut Vec::new())).await.expect("closed in time").unwrap(), 0);
}

#[tokio::test]
async fn a_connection_that_asked_for_something_else_before_becomes_a_websocket_too() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    ask_on(&mut socket).await;
    let mut agent = Client::over(socket, relay.address()).await.welcomed(&tenant.computer()).await;
    agent.open(1).await;
    drop(agent);
    eventually(|| relay.relay.metrics().connections.get() == 0).await;
}

#[tokio::test]
async fn a_client_with_the_relays_certificate_talks_tls_and_nobody_else_does() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.tls.mode = TlsMode::SelfMade).await;
    assert!(relay.url().starts_with("wss://"));
    let mut roots = RootCertStore::empty();
    let pem = relay.certificate_pem().expect("self-made");
    roots.add(CertificateDer::from_pem_reader(Cursor::new(pem)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = |roots| {
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    };
    let (trusting, wary) = (config(roots), config(RootCertStore::empty()));
    let connect = async |connector: &TlsConnector, name: &'static str| {
        let socket = TcpStream::connect(relay.address()).await.unwrap();
        connector.connect(ServerName::try_from(name).unwrap(), socket).await
    };
    for name in ["localhost", "127.0.0.1"] {
        let stream = connect(&trusting, name).await.expect("trusted under each of its names");
        let mut agent = Client::over(stream, relay.address()).await.welcomed(&tenant.computer()).await;
        agent.open(if name == "localhost" { 1 } else { 2 }).await;
    }
    assert!(connect(&trusting, "other.example").await.is_err());
    assert!(connect(&wary, "localhost").await.is_err());
    let plain = request(&relay, "GET /health/live HTTP/1.1").await;
    assert!(!plain.contains("200"), "no plain HTTP on a TLS port");
    let answer = request_on(&mut connect(&trusting, "localhost").await.unwrap(), "GET /health/ready HTTP/1.1").await;
    assert_eq!(status(&answer), "200");
}

#[tokio::test]
async fn at_a_shutdown_each_client_is_told_when_to_come_back() {
    let mut tenant = Tenant::new(1);
    let elsewhere = "wss://other.example".to_owned();
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.drain.spread_seconds = 6;
        config.drain.url = elsewhere.clone();
    })
    .await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    device.send(forward(1, 1, 0, "last words")).await;
    device.silent().await;
    let mut half = Client::unauthenticated(&relay).await;
    let address = relay.address();
    let handle = relay.relay.clone();
    let stopped = tokio::spawn(relay.stop());
    assert_eq!(agent.frame().await, forward(1, 1, 0, "last words"), "nothing that was sent is lost");
    for client in [&mut agent, &mut device] {
        let drain = client.frame().await;
        assert!(
            matches!(&drain, Frame::Drain { after_ms: 0..=6000, url: Some(url) } if *url == elsewhere),
            "{drain:?}"
        );
    }
    let newcomer = async || TcpStream::connect(address).await.unwrap();
    let ready = request_on(&mut newcomer().await, "GET /health/ready HTTP/1.1").await;
    assert!(status(&ready) == "503" && ready.ends_with("draining\n"), "{ready}");
    let upgrade = request_on(&mut newcomer().await, "GET /v1/ws HTTP/1.1").await;
    assert!(status(&upgrade) == "503" && upgrade.contains("retry-after: "), "{upgrade}");
    let answer = half.authenticate(&computer).await;
    assert!(matches!(answer, Heard::Frame(Frame::Err { code: Code::Draining, .. })), "{answer:?}");
    assert_eq!(half.hear().await, Heard::Closed(Some(1012)));
    for client in [&mut agent, &mut device] {
        assert_eq!(client.hear().await, Heard::Closed(Some(1012)));
        assert_eq!(client.hear().await, Heard::Closed(None));
    }
    timeout(PATIENCE, stopped).await.expect("and it is gone").unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!((handle.metrics().ended.of(End::Draining).get(), handle.metrics().connections.get()), (2, 0));
}

#[tokio::test]
async fn every_metric_moves() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.limits.pairings = 1).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = gatepass_protocol::channel::Channel::Computer(computer.computer());
    let (mut agent, token, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    agent.subscribe(on).await;
    agent.ask(Frame::Subscribe { channel: on.to_string(), since: Some(Place { epoch: 1, offset: 1 }) }).await;
    let publish = Frame::Publish { id: 1, channel: on.to_string(), bytes: "x".into() };
    device.ask(publish).await;
    agent.frame().await;
    agent.refused(crate::client::open(2)).await;
    let mut back = Client::connect(&relay, &computer).await;
    let resume = |token| Frame::Resume { rid: gatepass_protocol::ids::Rid([1; 16]), token, last_seq: 0 };
    back.refused(resume([0; 32])).await;
    back.ask(resume(token)).await;
    let half = Client::unauthenticated(&relay).await;
    let listener = Listener::connect(&relay, &computer).await;
    let metrics = relay.relay.metrics();
    eventually(|| metrics.handshakes.get() == 1).await;
    // These move below, with a slow reader (`limits`), and in the tests of TLS, of several relays, of the server and of Redis.
    let elsewhere = [
        "connections_ended_total",
        "control_plane_heard_seconds",
        "pairings_ended_total",
        "packets_dropped_total",
        "posts_carried_total",
        "tls_not_after_seconds",
        "tls_reloads_total",
        "relay_waiting",
    ];
    let here = |name: &&&str| !elsewhere.iter().any(|other| name.ends_with(other)) && !name.contains("_backplane_");
    for (name, text) in Metrics::NAMES.iter().filter(here).map(|name| (name, metrics.render())) {
        let moved = text.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"));
        assert!(moved, "{name} stands still");
    }
    drop((agent, device, back, half, listener));
    eventually(|| metrics.ended.of(End::Left).get() == 4).await;
    eventually(|| metrics.pairings_ended.of(gatepass_relay::metrics::Outcome::Left).get() == 1).await;
    for gauge in [&metrics.connections, &metrics.streams, &metrics.handshakes, &metrics.pairings, &metrics.channels] {
        eventually(|| gauge.get() == 0).await;
    }
    assert_eq!(metrics.refused.of(Limit::Pairings).get(), 1);
}

/// A relay for whose limits one second of one address is one connection, and that believes this machine as a proxy.
async fn behind_a_proxy(protocol: bool) -> TestRelay {
    TestRelay::with(Tenancy::of([]), |config| {
        (config.limits.ip_per_second, config.limits.ip_burst) = (NonZeroU32::MIN, NonZeroU32::MIN);
        (config.edge.proxies, config.edge.proxy_protocol) = (vec!["127.0.0.0/8".to_owned()], protocol);
        config.limits.handshake_seconds = NonZeroU32::MIN;
    })
    .await
}

#[tokio::test]
async fn behind_a_balancer_each_client_is_counted_by_its_own_address() {
    let relay = behind_a_proxy(true).await;
    let ask = async |header: &[u8]| {
        let mut socket = TcpStream::connect(relay.address()).await.unwrap();
        socket.write_all(header).await.unwrap();
        request_on(&mut socket, "GET /health/live HTTP/1.1").await
    };
    for (client, expected) in [("192.0.2.7", "200"), ("192.0.2.8", "200"), ("192.0.2.7", "503")] {
        let answer = ask(format!("PROXY TCP4 {client} 127.0.0.1 4660 8443\r\n").as_bytes()).await;
        assert_eq!(status(&answer), expected, "{client}: {answer}");
        assert!(expected == "200" || answer.contains("retry-after: ") && answer.ends_with("ip_rate\n"), "{answer}");
    }
    // The balancer itself may look after it as often as it likes.
    for _ in 0..5 {
        assert_eq!(status(&ask(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await), "200");
    }
    assert_eq!(relay.relay.metrics().refused.of(Limit::IpRate).get(), 1);
}

#[tokio::test]
async fn a_balancer_that_does_not_say_for_whom_it_calls_is_closed_and_counted() {
    let relay = behind_a_proxy(true).await;
    for (sent, limit) in [
        (&b"GET /health/live HTTP/1.1\r\nHost: relay\r\n\r\n"[..], Limit::ProxyHeader),
        (b"PROXY TCP4 nobody 127.0.0.1 4660 8443\r\n", Limit::ProxyHeader),
        (b"PROXY TCP4 192.0.2.7 127", Limit::HandshakeTime),
        (b"", Limit::HandshakeTime),
    ] {
        let before = relay.relay.metrics().refused.of(limit).get();
        let mut socket = TcpStream::connect(relay.address()).await.unwrap();
        socket.write_all(sent).await.unwrap();
        let mut nothing = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut nothing)).await.expect("closed in time");
        assert!(nothing.is_empty(), "{}", String::from_utf8_lossy(&nothing));
        assert_eq!(relay.relay.metrics().refused.of(limit).get(), before + 1);
    }
    eventually(|| relay.relay.metrics().handshakes.get() == 0).await;
}

#[tokio::test]
async fn behind_an_http_proxy_its_word_for_the_client_counts_and_nobody_elses() {
    let relay = behind_a_proxy(false).await;
    let live = |client: &str| format!("GET /health/live HTTP/1.1\r\nX-Forwarded-For: 9.9.9.9, {client}");
    for (client, expected) in [("192.0.2.7", "200"), ("192.0.2.8", "200"), ("192.0.2.7", "503"), ("somebody", "400")] {
        let answer = request(&relay, &live(client)).await;
        assert_eq!(status(&answer), expected, "{client}: {answer}");
    }
    let refused = &relay.relay.metrics().refused;
    assert_eq!((refused.of(Limit::IpRate).get(), refused.of(Limit::ProxyHeader).get()), (1, 1));
    let upgrade = "GET /v1/ws HTTP/1.1\r\nX-Forwarded-For: 192.0.2.8\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    assert_eq!(status(&request(&relay, upgrade).await), "503", "a WebSocket is counted like everything else");

    let open = TestRelay::with(Tenancy::of([]), |config| config.limits.ip_per_second = NonZeroU32::MIN).await;
    for _ in 0..5 {
        assert_eq!(status(&request(&open, &live("somebody")).await), "200", "it is not asked");
    }
}
