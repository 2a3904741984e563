//! Clients without a WebSocket: the same frames as server-sent events and POSTs.

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;
use gatepass_protocol::{Code, channel::Channel, frame::Frame, ids::Rid, sse::Event, testing::Tenant};
use gatepass_relay::{
    Memory,
    metrics::{End, Posted},
    testing::{Tenancy, TestRelay},
};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    client::{Client, Heard, PATIENCE, claim, eventually, forward},
    listener::{Listener, head, post, request, status},
};

/// Speaks as if both were good friends of the relay: a pairing from OPEN to CLOSE.
async fn a_login(agent: &mut Listener, device: &mut Listener, n: u8) {
    agent.open(n).await;
    device.claim(n).await;
    assert_eq!(agent.frame().await, claim(n));
    device.send([forward(n, 1, 0, "m1")]).await;
    assert_eq!(agent.frame().await, forward(n, 1, 0, "m1"));
    agent.send([forward(n, 1, 1, "m2"), forward(n, 2, 1, "m4")]).await;
    assert_eq!(device.frame().await, forward(n, 1, 1, "m2"));
    assert_eq!(device.frame().await, forward(n, 2, 1, "m4"));
    device.send([forward(n, 2, 2, "m5"), Frame::Close { rid: Rid([n; 16]) }]).await;
    assert_eq!(agent.frame().await, forward(n, 2, 2, "m5"));
    assert_eq!(agent.frame().await, Frame::Close { rid: Rid([n; 16]) });
}

#[tokio::test]
async fn an_agent_and_a_phone_without_websockets_meet() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Listener::connect(&relay, &computer).await;
    let mut device = Listener::connect(&relay, &phone).await;
    a_login(&mut agent, &mut device, 1).await;
    let metrics = relay.relay.metrics();
    assert_eq!((metrics.streams.get(), metrics.connections.get(), metrics.posts_carried.get()), (2, 2, 0));
    drop((agent, device));
    eventually(|| metrics.ended.of(End::Left).get() == 2).await;
    for gauge in [&metrics.streams, &metrics.connections, &metrics.handshakes, &metrics.pairings] {
        eventually(|| gauge.get() == 0).await;
    }
}

#[tokio::test]
async fn one_with_a_websocket_and_one_without_meet() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let mut agent = Client::connect(&relay, &computer).await;
    agent.subscribe(on).await;
    let mut device = Listener::connect(&relay, &phone).await;
    agent.open(1).await;
    device.claim(1).await;
    assert_eq!(agent.frame().await, claim(1));
    agent.send(forward(1, 1, 0, "m2")).await;
    assert_eq!(device.frame().await, forward(1, 1, 0, "m2"));
    let order = Frame::Publish { id: 1, channel: on.to_string(), bytes: "order".into() };
    assert_eq!(device.ask(order).await, Frame::Ack { id: 1, delivered: 1 });
    assert!(matches!(agent.frame().await, Frame::Message { bytes, .. } if bytes == "order"));
}

#[tokio::test]
async fn a_channel_with_many_listeners_reaches_those_without_a_websocket_too() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, everybody) = (tenant.computer(), Channel::Tenant(tenant.id));
    let mut listeners = vec![];
    for _ in 0..3 {
        let mut listener = Listener::connect(&relay, &computer).await;
        listener.ask(Frame::Subscribe { channel: everybody.to_string(), since: None }).await;
        listeners.push(listener);
    }
    // More than are written to at once, so that a task hands out what has gathered.
    let mut others = vec![];
    for _ in 0..40 {
        let mut other = Client::connect(&relay, &computer).await;
        other.subscribe(everybody).await;
        others.push(other);
    }
    for epoch in 1..=20 {
        relay.announce(&tenant.revocation(epoch, vec![])).await;
    }
    for listener in &mut listeners {
        for expected in 1..=20 {
            assert!(matches!(listener.frame().await, Frame::Message { offset, .. } if offset == expected));
        }
    }
}

#[tokio::test]
async fn a_stream_is_what_proxies_pass_on_at_once() {
    let relay = TestRelay::start(Tenancy::of([])).await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, b"GET /v1/events HTTP/1.0\r\n\r\n").await.unwrap();
    let head = head(&mut socket).await;
    for line in ["content-type: text/event-stream", "cache-control: no-store, no-transform", "x-accel-buffering: no"] {
        assert!(head.lines().any(|have| have == line), "{line} is missing in {head}");
    }
    assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
    for (ask, expected) in [
        ("POST /v1/events", 405),
        ("GET /v1/send", 405),
        ("POST /v1/send", 401),
        ("POST /v1/send HTTP/1.1\r\nAuthorization: Basic YTpi\r\nX:", 401),
    ] {
        let ask = format!("{ask} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = request(relay.address(), ask.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{ask}");
    }
}

#[tokio::test]
async fn a_post_may_come_to_any_relay_of_the_region() {
    let mut tenant = Tenant::new(1);
    let (memory, tenancy) = (Memory::new(Duration::from_secs(60)), Tenancy::of([tenant.trust()]));
    let one = TestRelay::sharing(&memory, tenancy.clone(), |_| {}).await;
    let other = TestRelay::sharing(&memory, tenancy, |_| {}).await;
    across(&one, &other, &mut tenant).await;
}

/// Each stream at one relay, its POSTs at another, and in the middle of it at its own.
pub(crate) async fn across(one: &TestRelay, other: &TestRelay, tenant: &mut Tenant) {
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Listener::unauthenticated(one).await;
    agent.post_to = other.address();
    let mut agent = agent.welcomed(&computer).await;
    let mut device = Listener::unauthenticated(other).await;
    device.post_to = one.address();
    let mut device = device.welcomed(&phone).await;
    a_login(&mut agent, &mut device, 1).await;
    agent.post_to = one.address();
    a_login(&mut agent, &mut device, 2).await;
    let carried = |relay: &TestRelay| relay.relay.metrics().posts_carried.get();
    assert!(carried(one) >= 7 && carried(other) >= 3, "{} and {}", carried(one), carried(other));
    // The largest, sent again, and out of its turn.
    let largest = [Bytes::from(vec![0x92; 8_192]), vec![0x92; 8_192].into(), vec![0x92; 8_192].into()];
    agent.post_to = other.address();
    let body = agent.next_post([]);
    for (body, expected) in [(&body, 204), (&body, 204), (&agent.next_post([]), 204)] {
        assert_eq!(status(&post(agent.post_to, &agent.token, body).await), expected);
    }
    agent.number += 1;
    assert_eq!(agent.send_raw([]).await, 409);
    agent.number -= 2;
    assert_eq!(agent.send_raw(largest).await, 204);
    let refused = agent.hear().await;
    assert!(matches!(refused, Heard::Frame(Frame::Err { code: Code::BadFrame, .. })), "{refused:?}");
    assert_eq!(agent.hear().await, Heard::Closed(Some(1002)));
    let metrics = one.relay.metrics();
    drop(agent.socket);
    eventually(|| metrics.streams.get() == 0).await;
    assert_eq!(status(&post(agent.post_to, &agent.token, &[0, 0, 0, 0, 0, 0, 0, 9]).await), 410);
    assert!(other.relay.metrics().posts.of(Posted::Gone).get() == 1);
}

#[tokio::test]
async fn a_post_whose_answer_was_lost_is_sent_again_and_acted_on_once() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let mut agent = Client::connect(&relay, &computer).await;
    agent.subscribe(on).await;
    let mut device = Listener::connect(&relay, &phone).await;
    let publish = |id| Frame::Publish { id, channel: on.to_string(), bytes: Bytes::from(vec![id as u8]) };
    let body = device.next_post([publish(1).encode().into()]);
    for _ in 0..3 {
        assert_eq!(status(&post(relay.address(), &device.token, &body).await), 204);
    }
    device.send([publish(2)]).await;
    assert_eq!(status(&post(relay.address(), &device.token, &body).await), 204, "it comes late, and is an old one");
    for id in 1..=2 {
        assert_eq!(device.frame().await, Frame::Ack { id, delivered: 1 });
        assert!(matches!(agent.frame().await, Frame::Message { bytes, .. } if bytes[..] == [id as u8]));
    }
    device.silent().await;
    agent.silent().await;
    assert_eq!(relay.relay.metrics().posts.of(Posted::Repeated).get(), 3);
}

#[tokio::test]
async fn a_login_goes_on_on_another_stream_where_it_was_cut() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Listener::connect(&relay, &computer).await;
    let mut device = Listener::connect(&relay, &phone).await;
    let token = agent.open(1).await;
    device.claim(1).await;
    assert_eq!(agent.frame().await, claim(1));
    device.send([forward(1, 1, 0, "m1"), forward(1, 2, 0, "m3")]).await;
    assert_eq!(agent.frame().await, forward(1, 1, 0, "m1"));
    // Cut, and what was posted before is not lost: it was taken.
    agent.send([forward(1, 1, 1, "m2")]).await;
    drop(agent);
    assert_eq!(device.frame().await, forward(1, 1, 1, "m2"));
    let mut agent = Listener::connect(&relay, &computer).await;
    let resumed = agent.ask(Frame::Resume { rid: Rid([1; 16]), token, last_seq: 1 }).await;
    assert_eq!(resumed, Frame::Resumed { rid: Rid([1; 16]), last_seq: 1 });
    assert_eq!(agent.frame().await, forward(1, 2, 0, "m3"));
    agent.silent().await;
}

#[tokio::test]
async fn a_stream_is_drained_like_a_websocket() {
    let mut tenant = Tenant::new(1);
    let spread = |config: &mut gatepass_relay::Config| config.drain.spread_seconds = 1;
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), spread).await;
    let address = relay.address();
    let mut agent = Listener::connect(&relay, &tenant.computer()).await;
    let mut other = Listener::connect(&relay, &tenant.computer()).await;
    let stopped = tokio::spawn(relay.stop());
    for client in [&mut agent, &mut other] {
        let drain = client.frame().await;
        assert!(matches!(drain, Frame::Drain { .. }), "{drain:?}");
    }
    let newcomer = request(address, b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(status(&newcomer) == 503 && newcomer.contains("retry-after: "), "{newcomer}");
    for client in [&mut agent, &mut other] {
        assert_eq!(client.hear().await, Heard::Closed(Some(1012)));
        assert_eq!(client.hear().await, Heard::Closed(None), "and HTTP's answer ends");
    }
    drop((agent, other));
    timeout(PATIENCE, stopped).await.expect("and it is gone").unwrap();
}

#[tokio::test]
async fn who_was_revoked_is_told_and_put_out() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let phone = tenant.phone(1).identity;
    let mut device = Listener::connect(&relay, &phone).await;
    relay.announce(&tenant.revocation(1, vec![phone.statement().serial])).await;
    let told = device.hear().await;
    assert!(matches!(told, Heard::Frame(Frame::Err { code: Code::Revoked, .. })), "{told:?}");
    assert_eq!(device.hear().await, Heard::Closed(Some(1008)));
    assert_eq!(device.hear().await, Heard::Closed(None));
    assert_eq!(relay.relay.metrics().connections.get(), 1, "the relay ends first, for HTTP's clients wait for that");
    assert_eq!(relay.relay.metrics().ended.of(End::Revoked).get(), 1);
}

#[tokio::test]
async fn who_answers_pings_by_posts_stays_and_who_does_not_is_missed() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.ping_seconds = NonZeroU32::MIN;
        config.limits.idle_seconds = NonZeroU32::new(3).unwrap();
    })
    .await;
    let computer = tenant.computer();
    let mut frozen = Listener::connect(&relay, &computer).await;
    let mut alive = Listener::connect(&relay, &computer).await;
    let ended = &relay.relay.metrics().ended;
    while ended.of(End::Idle).get() == 0 {
        if alive.event().await == Some(Event::Ping) {
            assert_eq!(alive.send_raw([]).await, 204);
            while alive.event().await != Some(Event::Alive) {}
        }
    }
    alive.silent().await;
    assert_eq!(frozen.hear().await, Heard::Closed(Some(1001)));
}
