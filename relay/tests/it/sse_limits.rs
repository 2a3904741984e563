//! Streams of events and POSTs of those who are slow, broken, greedy or hostile: each is stopped at its limit, told so where
//! that is possible, and nobody else notices.

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::{Frame, MAX_FRAME},
    sse::MAX_POST,
    testing::Tenant,
};
use gatepass_relay::{
    Memory,
    metrics::{End, Limit, Posted},
    testing::{Tenancy, TestRelay},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    client::{Client, Heard, PATIENCE, eventually, open},
    listener::{Listener, head, post, post_head, request, status},
};

fn posts(relay: &TestRelay, outcome: Posted) -> u64 {
    relay.relay.metrics().posts.of(outcome).get()
}

#[tokio::test]
async fn who_does_not_authenticate_gets_nowhere_without_a_websocket_either() {
    let tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.handshake_seconds = NonZeroU32::MIN;
    })
    .await;
    let mut eager = Listener::unauthenticated(&relay).await;
    assert!(matches!(eager.frame().await, Frame::Challenge { .. }));
    assert_eq!(eager.refused(open(1)).await, Code::NotAllowed);
    assert_eq!(eager.hear().await, Heard::Closed(Some(1008)));
    drop(eager);
    let mut stranger = Listener::unauthenticated(&relay).await;
    let answer = stranger.authenticate(&Tenant::new(2).computer()).await;
    assert!(matches!(answer, Heard::Frame(Frame::Err { code: Code::Certificate, .. })), "{answer:?}");
    drop(stranger);
    let mut silent = Listener::unauthenticated(&relay).await;
    assert!(matches!(silent.frame().await, Frame::Challenge { .. }));
    assert_eq!(silent.hear().await, Heard::Closed(None));
    assert_eq!(silent.send_raw([]).await, 410);
    let metrics = relay.relay.metrics();
    assert_eq!((metrics.welcomed.get(), metrics.refused.of(Limit::HandshakeTime).get()), (0, 1));
    eventually(|| metrics.streams.get() == 0 && metrics.handshakes.get() == 0).await;
}

#[tokio::test]
async fn garbage_in_a_post_ends_its_own_stream_only() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let computer = tenant.computer();
    let mut other = Listener::connect(&relay, &computer).await;
    for garbage in [&b"\xff\xff\xff"[..], b"", &open(1).encode()[..5]] {
        let mut listener = Listener::connect(&relay, &computer).await;
        assert_eq!(listener.send_raw([Bytes::copy_from_slice(garbage)]).await, 204);
        let told = listener.hear().await;
        assert!(matches!(told, Heard::Frame(Frame::Err { code: Code::BadFrame, .. })), "{told:?}");
        assert_eq!(listener.hear().await, Heard::Closed(Some(1002)));
        assert_eq!(listener.send_raw([]).await, 410, "and nothing more is taken");
    }
    // What is no POST is refused before it comes near the stream.
    for body in [&b""[..], &[0; 7], &[0; 8], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 1]] {
        assert_eq!(status(&post(relay.address(), &other.token, body).await), 400, "{body:?}");
    }
    // Nothing is to be said on the stream's own socket.
    let mut talker = Listener::connect(&relay, &computer).await;
    talker.socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(matches!(talker.hear().await, Heard::Frame(Frame::Err { code: Code::BadFrame, .. })));
    assert_eq!(talker.hear().await, Heard::Closed(Some(1002)));
    other.silent().await;
}

#[tokio::test]
async fn a_token_that_was_made_up_or_belongs_elsewhere_opens_nothing() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let other_region = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Listener::connect(&relay, &computer).await;
    let mut device = Listener::connect(&relay, &phone).await;
    let elsewhere = Listener::connect(&other_region, &computer).await;
    let body = agent.next_post([open(1).encode().into()]);
    let mut changed = agent.token.clone();
    let last = changed.pop().map(|last| if last == 'A' { 'E' } else { 'A' });
    changed.extend(last);
    let endless = "A".repeat(10_000);
    for token in ["", "x", &changed, &elsewhere.token, &endless] {
        assert_eq!(status(&post(relay.address(), token, &body).await), 401, "{token:.20}");
    }
    // A token is whose stream it is: somebody else's is somebody else's rights, and its answers go to that one.
    let number = device.number;
    device.number = agent.number - 1;
    let own = std::mem::replace(&mut device.token, agent.token.clone());
    assert_eq!(device.send_raw([open(1).encode().into()]).await, 204);
    assert!(matches!(agent.frame().await, Frame::Opened { .. }));
    (device.token, device.number) = (own, number);
    device.silent().await;
    assert_eq!(device.refused(open(2)).await, Code::NotAllowed);
    assert_eq!(posts(&relay, Posted::Forged), 5);
}

#[tokio::test]
async fn a_post_that_trickles_is_closed_in_time_and_its_stream_goes_on() {
    let mut tenant = Tenant::new(1);
    let second = |config: &mut gatepass_relay::Config| config.limits.handshake_seconds = NonZeroU32::MIN;
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), second).await;
    let mut agent = Listener::connect(&relay, &tenant.computer()).await;
    let mut trickle = TcpStream::connect(relay.address()).await.unwrap();
    trickle.write_all(post_head(&agent.token, 1_000).as_bytes()).await.unwrap();
    trickle.write_all(&[0; 8]).await.unwrap();
    // Meanwhile another one of the same stream waits; nobody else does.
    while agent.send_raw([]).await != 503 {}
    let mut other = Listener::connect(&relay, &tenant.computer()).await;
    other.open(1).await;
    let answer = head(&mut trickle).await;
    assert_eq!(status(&answer), 408, "{answer}");
    let mut rest = Vec::new();
    timeout(PATIENCE, trickle.read_to_end(&mut rest)).await.expect("closed").unwrap();
    agent.number -= 1;
    assert_eq!(agent.send_raw([]).await, 204, "it comes again, and is in time");
    agent.silent().await;
    // A head that trickles is no POST at all.
    let mut slow_head = TcpStream::connect(relay.address()).await.unwrap();
    slow_head.write_all(b"POST /v1/send HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    timeout(PATIENCE, slow_head.read_to_end(&mut rest)).await.expect("closed").unwrap();
    assert_eq!((posts(&relay, Posted::Slow), relay.relay.metrics().refused.of(Limit::HandshakeTime).get()), (1, 2));
}

#[tokio::test]
async fn a_post_beyond_the_limit_is_refused_by_what_it_says_of_itself() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let mut agent = Listener::connect(&relay, &tenant.computer()).await;
    // Nothing of the body has to be sent.
    let giant = request(relay.address(), post_head(&agent.token, MAX_POST + 1).as_bytes()).await;
    assert_eq!(status(&giant), 413, "{giant}");
    let endless = post_head(&agent.token, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let chunk = [b"8000\r\n", &[0; 0x8000][..], b"\r\n"].concat();
    let endless = request(relay.address(), &[endless.as_bytes(), &chunk, &chunk].concat()).await;
    assert_eq!(status(&endless), 413, "{endless}");
    let frame = [&[0, 0, 0, 0, 0, 0, 0, 9][..], &(MAX_FRAME as u16 + 1).to_be_bytes(), &[0; MAX_FRAME + 1]].concat();
    assert_eq!(status(&post(relay.address(), &agent.token, &frame).await), 413);
    let cut = [post_head(&agent.token, 100).as_bytes(), &[0; 50]].concat();
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    socket.write_all(&cut).await.unwrap();
    drop(socket);
    eventually(|| posts(&relay, Posted::TooLarge) == 3).await;
    assert_eq!(relay.relay.metrics().refused.of(Limit::FrameSize).get(), 3);
    agent.silent().await;
}

/// A stream whose kernel buffers are small.
async fn narrow(relay: &TestRelay) -> Listener {
    let small = TcpSocket::new_v4().expect("a socket");
    small.set_recv_buffer_size(4 * 1024).expect("set");
    Listener::over(small.connect(relay.address()).await.expect("connected"), relay.address()).await
}

#[tokio::test]
async fn a_listener_that_is_too_slow_is_closed_with_a_hint_and_the_others_go_on() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        (config.limits.queue_bytes, config.limits.queue_messages) = (64 * 1024, 64);
    })
    .await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let subscribe = || Frame::Subscribe { channel: on.to_string(), since: None };
    let mut quick = Listener::connect(&relay, &computer).await;
    quick.ask(subscribe()).await;
    let mut slow = narrow(&relay).await.welcomed(&computer).await;
    slow.ask(subscribe()).await;
    let mut device = Client::connect(&relay, &phone).await;
    let mut published = 0;
    while relay.relay.metrics().ended.of(End::Overflow).get() == 0 {
        published += 1;
        assert!(published < 10_000, "the slow one is never closed");
        device.ask(Frame::Publish { id: published, channel: on.to_string(), bytes: vec![7; 8_000].into() }).await;
        assert!(matches!(quick.frame().await, Frame::Message { .. }), "the quick one misses nothing");
    }
    // Now it listens again: what had been written before, then when to come back.
    let mut last = None;
    let code = loop {
        match slow.hear().await {
            Heard::Frame(frame) => last = Some(frame),
            Heard::Closed(code) => break code,
        }
    };
    assert!(matches!(last, Some(Frame::Drain { after_ms: 500..1500, url: None })), "{last:?}");
    assert_eq!(code, Some(1013));
    assert_eq!(slow.send_raw([]).await, 410);
}

#[tokio::test]
async fn who_does_not_listen_is_not_listened_to_and_let_go() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.write_seconds = NonZeroU32::new(3).unwrap();
        (config.limits.queue_bytes, config.limits.queue_messages) = (u32::MAX, u32::MAX);
    })
    .await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let mut stuck = narrow(&relay).await.welcomed(&computer).await;
    stuck.ask(Frame::Subscribe { channel: on.to_string(), since: None }).await;
    let mut device = Client::connect(&relay, &phone).await;
    for id in 0..1_000 {
        device.ask(Frame::Publish { id, channel: on.to_string(), bytes: vec![7; 8_000].into() }).await;
    }
    let frames = relay.relay.metrics().frames_in.get();
    assert_eq!(stuck.send_raw([open(1).encode().into()]).await, 410, "it waits for its turn until the end");
    let metrics = relay.relay.metrics();
    assert_eq!((metrics.ended.of(End::Stalled).get(), metrics.frames_in.get()), (1, frames));
}

#[tokio::test]
async fn who_posts_faster_than_it_may_is_taken_from_more_slowly_and_loses_nothing() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.client_frames_per_second = NonZeroU32::new(200).unwrap();
        config.limits.client_frame_burst = NonZeroU32::new(5).unwrap();
    })
    .await;
    let mut agent = Listener::connect(&relay, &tenant.computer()).await;
    for n in 0..6 {
        agent.send((0..10).map(|m| open(10 * n + m))).await;
    }
    for _ in 0..60 {
        assert!(matches!(agent.frame().await, Frame::Opened { .. }));
    }
    assert!(relay.relay.metrics().refused.of(Limit::ClientFrames).get() >= 1);
}

/// A relay that believes this machine as a proxy, for whose limits a second of one address is two newcomers.
async fn behind_a_proxy(tenant: &Tenant, memory: &Memory) -> TestRelay {
    TestRelay::sharing(memory, Tenancy::of([tenant.trust()]), |config| {
        config.limits.ip_per_second = NonZeroU32::MIN;
        config.limits.ip_burst = NonZeroU32::MIN.saturating_add(1);
        config.edge.proxies = vec!["127.0.0.0/8".to_owned()];
    })
    .await
}

#[tokio::test]
async fn posts_to_a_stream_that_is_here_are_no_newcomers_and_all_others_are() {
    let mut tenant = Tenant::new(1);
    let memory = Memory::new(Duration::from_secs(60));
    let (here, elsewhere) = (behind_a_proxy(&tenant, &memory).await, behind_a_proxy(&tenant, &memory).await);
    let mut agent = Listener::connect(&here, &tenant.computer()).await;
    let mut from = async |to: &TestRelay, token: &str| {
        let head = post_head(token, 8).replace("Host:", "X-Forwarded-For: 192.0.2.7\r\nHost:");
        agent.number += 1;
        let body = agent.number.to_be_bytes();
        let answer = request(to.address(), &[head.as_bytes(), &body].concat()).await;
        agent.number -= u64::from(status(&answer) != 204);
        status(&answer)
    };
    let token = agent.token.clone();
    for _ in 0..10 {
        assert_eq!(from(&here, &token).await, 204);
    }
    for (to, token, first) in [(&here, "made up", 401), (&elsewhere, token.as_str(), 204)] {
        let mut answers = vec![];
        while answers.last() != Some(&503) {
            answers.push(from(to, token).await);
            assert!(answers.len() < 100);
        }
        assert!(answers.len() > 2 && answers[..2] == [first, first], "{answers:?}");
        assert_eq!(to.relay.metrics().refused.of(Limit::IpRate).get(), 1);
    }
}

#[tokio::test]
async fn one_socket_with_many_posts_for_another_relay_is_told_to_wait() {
    let mut tenant = Tenant::new(1);
    let (memory, tenancy) = (Memory::new(Duration::from_secs(60)), Tenancy::of([tenant.trust()]));
    let slow = |config: &mut gatepass_relay::Config| {
        (config.limits.ip_per_second, config.limits.ip_burst) = (NonZeroU32::MIN, NonZeroU32::new(4).unwrap());
    };
    let here = TestRelay::sharing(&memory, tenancy.clone(), slow).await;
    let elsewhere = TestRelay::sharing(&memory, tenancy, slow).await;
    let mut agent = Listener::connect(&here, &tenant.computer()).await;
    for (to, told_to_wait) in [(&here, false), (&elsewhere, true)] {
        let mut kept = TcpStream::connect(to.address()).await.unwrap();
        let mut answers = vec![];
        for _ in 0..20 {
            let body = agent.next_post([]);
            let head = post_head(&agent.token, body.len()).replace("Connection: close\r\n", "");
            kept.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            answers.push(status(&crate::listener::head(&mut kept).await));
            if answers.last() == Some(&503) {
                break;
            }
        }
        assert_eq!(answers.contains(&503), told_to_wait, "{answers:?}");
    }
}

#[tokio::test]
async fn a_proxys_socket_may_carry_one_clients_post_and_then_anothers_stream() {
    let mut tenant = Tenant::new(1);
    let handshakes = |config: &mut gatepass_relay::Config| config.limits.handshakes = 2;
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), handshakes).await;
    let (computer, other) = (tenant.computer(), tenant.computer());
    let mut agent = Listener::connect(&relay, &computer).await;
    let mut kept = TcpStream::connect(relay.address()).await.unwrap();
    for _ in 0..3 {
        let body = agent.next_post([]);
        let head = post_head(&agent.token, body.len()).replace("Connection: close\r\n", "");
        kept.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        assert_eq!(status(&crate::listener::head(&mut kept).await), 204);
    }
    // It belongs to somebody who is being served, so it takes no newcomer's place.
    eventually(|| relay.relay.metrics().handshakes.get() == 0).await;
    let newcomer = Listener::connect(&relay, &computer).await;
    eventually(|| relay.relay.metrics().handshakes.get() == 0).await;
    let mut second = Listener::over(kept, relay.address()).await.welcomed(&other).await;
    second.open(1).await;
    drop((agent, newcomer));
}
