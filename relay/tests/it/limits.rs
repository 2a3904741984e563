//! Clients that are slow, broken, greedy or hostile: each is stopped at its limit, told so where that is possible, and
//! nobody else notices.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::{Frame, MAX_FRAME},
    ids::{DeviceId, Rid},
    testing::Tenant,
};
use gatepass_relay::{
    config::TlsMode,
    metrics::{End, Limit, Unsent},
    testing::{Tenancy, TestRelay, proof},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, Heard, PATIENCE, claim, eventually, forward, open, paired};

/// Takes what is said until the end; the last ERR code and the close code.
async fn end_of(client: &mut Client) -> (Option<Code>, Option<u16>) {
    let mut last = None;
    loop {
        match client.hear().await {
            Heard::Frame(Frame::Err { code, .. }) => last = Some(code),
            Heard::Frame(_) => {}
            Heard::Closed(code) => return (last, code),
        }
    }
}

#[tokio::test]
async fn who_does_not_authenticate_gets_nowhere() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let agent = tenant.computer();
    for first in [open(1), claim(1), Frame::Subscribe { channel: Channel::Tenant(tenant.id).to_string(), since: None }]
    {
        let mut client = Client::unauthenticated(&relay).await;
        client.send(first).await;
        assert_eq!(end_of(&mut client).await, (Some(Code::NotAllowed), Some(1008)));
    }
    let mut client = Client::unauthenticated(&relay).await;
    let replayed = Frame::Auth { proof: proof(&agent.sign, [0; 32], "127.0.0.1"), chain: agent.chain.clone() };
    client.send(replayed).await;
    assert_eq!(end_of(&mut client).await, (Some(Code::NotAllowed), Some(1008)), "an old proof");
    let mut stranger = Tenant::new(2);
    let mut client = Client::unauthenticated(&relay).await;
    let answer = client.authenticate(&stranger.computer()).await;
    assert!(matches!(answer, Heard::Frame(Frame::Err { code: Code::Certificate, .. })), "{answer:?}");
    assert_eq!(relay.relay.metrics().welcomed.get(), 0);
    eventually(|| relay.relay.metrics().handshakes.get() == 0).await;
}

#[tokio::test]
async fn who_closes_first_is_answered_and_the_socket_ends_with_that() {
    let relay = TestRelay::with(Tenancy::of([]), |config| config.limits.handshake_seconds = NonZeroU32::MIN).await;
    let mut client = Client::unauthenticated(&relay).await;
    client.0.close(None).await.unwrap();
    assert!(matches!(client.hear().await, Heard::Frame(Frame::Challenge { .. })));
    assert_eq!(client.hear().await, Heard::Closed(Some(1000)));
    assert_eq!(client.hear().await, Heard::Closed(None));
    eventually(|| relay.relay.metrics().handshakes.get() == 0).await;
    assert_eq!(relay.relay.metrics().refused.of(Limit::HandshakeTime).get(), 0, "it was not left to run into a limit");
}

#[tokio::test]
async fn who_says_nothing_is_closed_after_the_handshake_time() {
    let tenancy = Tenancy::of([Tenant::new(1).trust()]);
    let relay = TestRelay::with(tenancy, |config| config.limits.handshake_seconds = NonZeroU32::MIN).await;
    let mut silent_socket = TcpStream::connect(relay.address()).await.unwrap();
    let mut slow_head = TcpStream::connect(relay.address()).await.unwrap();
    slow_head.write_all(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut upgraded = Client::unauthenticated(&relay).await;
    assert!(matches!(upgraded.hear().await, Heard::Frame(Frame::Challenge { .. })));
    assert_eq!(upgraded.hear().await, Heard::Closed(None));
    for socket in [&mut silent_socket, &mut slow_head] {
        let mut rest = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("closed in time").unwrap();
    }
    eventually(|| relay.relay.metrics().refused.of(Limit::HandshakeTime).get() == 3).await;
}

#[tokio::test]
async fn sockets_that_say_nothing_take_no_turn_from_those_that_speak() {
    let mut tenant = Tenant::new(1);
    let one = |config: &mut gatepass_relay::Config| config.limits.handshakes = 1;
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), one).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(relay.address()).await.unwrap());
    }
    let mut agent = Client::connect(&relay, &tenant.computer()).await;
    agent.open(1).await;
    assert_eq!(relay.relay.metrics().refused.of(Limit::Handshakes).get(), 0);
}

#[tokio::test]
async fn a_crowd_waits_for_its_turn_and_nobody_is_sent_away() {
    let mut tenant = Tenant::new(1);
    let one = |config: &mut gatepass_relay::Config| config.limits.handshakes = 1;
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), one).await;
    let metrics = relay.relay.metrics();
    let slow = Client::unauthenticated(&relay).await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        let (computer, address) = (tenant.computer(), relay.address());
        crowd.push(tokio::spawn(async move {
            let socket = TcpStream::connect(address).await.unwrap();
            Client::over(socket, address).await.welcomed(&computer).await
        }));
    }
    eventually(|| metrics.waiting.get() == 20).await;
    assert_eq!(metrics.handshakes.get(), 1);
    drop(slow);
    let mut all = Vec::new();
    for client in crowd {
        all.push(client.await.unwrap());
    }
    assert_eq!((metrics.waiting.get(), metrics.connections.get()), (0, 20));
    assert_eq!(metrics.refused.of(Limit::Handshakes).get(), 0);
}

#[tokio::test]
async fn who_never_begins_tls_is_closed_too() {
    let relay = TestRelay::with(Tenancy::of([Tenant::new(1).trust()]), |config| {
        config.tls.mode = TlsMode::SelfMade;
        config.limits.handshake_seconds = NonZeroU32::MIN;
    })
    .await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    let mut nothing = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut nothing)).await.expect("closed in time").unwrap();
    assert!(nothing.is_empty());
    eventually(|| relay.relay.metrics().refused.of(Limit::HandshakeTime).get() == 1).await;
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    let whole = open(2).encode();
    for garbage in [
        Message::Binary(Bytes::new()),
        Message::Binary(Bytes::from_static(b"\xff\xff\xff")),
        Message::Binary(Bytes::copy_from_slice(&whole[..whole.len() / 2])),
        Message::Binary([&whole[..], b"\0"].concat().into()),
        Message::Binary(Bytes::from_static(&[0x92, 20, 1])),
        Message::Text("hello".into()),
    ] {
        let mut client = Client::connect(&relay, &computer).await;
        client.send_raw(garbage.clone()).await;
        assert_eq!(end_of(&mut client).await, (Some(Code::BadFrame), Some(1002)), "{garbage:?}");
        let mut client = Client::unauthenticated(&relay).await;
        client.send_raw(garbage.clone()).await;
        assert_eq!(end_of(&mut client).await, (Some(Code::BadFrame), Some(1002)), "before AUTH: {garbage:?}");
    }
    // A frame that only a relay says is understood and refused.
    assert_eq!(agent.refused(Frame::Ack { id: 1, delivered: 1 }).await, Code::BadFrame);
    device.send(forward(1, 1, 0, "still here")).await;
    assert_eq!(agent.frame().await, forward(1, 1, 0, "still here"));
    eventually(|| relay.relay.metrics().ended.of(End::Protocol).get() == 6).await;
}

#[tokio::test]
async fn a_frame_beyond_the_limit_is_not_even_read() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let giant = || Message::Binary(Bytes::from(vec![0; MAX_FRAME + 1]));
    let mut client = Client::connect(&relay, &tenant.computer()).await;
    client.send_raw(giant()).await;
    assert_eq!(end_of(&mut client).await, (Some(Code::Size), Some(1009)));
    let mut client = Client::unauthenticated(&relay).await;
    client.send_raw(giant()).await;
    assert_eq!(end_of(&mut client).await, (Some(Code::Size), Some(1009)), "before AUTH");
    assert_eq!(relay.relay.metrics().refused.of(Limit::FrameSize).get(), 2);
    // A head without end.
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    let head = format!("GET /v1/ws HTTP/1.1\r\nx: {}", "y".repeat(64 * 1024));
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("closed");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn half_a_frame_and_then_nothing_is_no_frame() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let mut client = Client::connect(&relay, &tenant.computer()).await;
    // The head of a masked WebSocket frame of 100 bytes, and three of them.
    let stream = client.0.get_mut();
    stream.write_all(&[0x82, 0x80 | 100, 1, 2, 3, 4, 9, 9, 9]).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(client);
    eventually(|| relay.relay.metrics().connections.get() == 0).await;
    assert_eq!(relay.relay.metrics().frames_in.get(), 0);
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_closed_with_a_hint_and_the_others_go_on() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.queue_bytes = 64 * 1024;
        config.limits.queue_messages = 64;
    })
    .await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let mut quick = Client::connect(&relay, &computer).await;
    quick.subscribe(on).await;
    let small = TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(4 * 1024).unwrap();
    let small = small.connect(relay.address()).await.unwrap();
    let mut slow = Client::over(small, relay.address()).await.welcomed(&computer).await;
    slow.subscribe(on).await;

    let mut device = Client::connect(&relay, &phone).await;
    let bytes = Bytes::from(vec![7; 8_000]);
    let mut published = 0;
    while relay.relay.metrics().ended.of(End::Overflow).get() == 0 {
        published += 1;
        assert!(published < 10_000, "the slow one is never closed");
        let frame = Frame::Publish { id: published, channel: on.to_string(), bytes: bytes.clone() };
        assert!(matches!(device.ask(frame).await, Frame::Ack { id, .. } if id == published));
        assert!(matches!(quick.frame().await, Frame::Message { .. }), "the quick one misses nothing");
    }
    assert!(relay.relay.metrics().dropped.of(Unsent::Ended).get() > 0);
    // Now it reads again: what had been written before, then when to come back.
    let mut last = None;
    let code = loop {
        match slow.hear().await {
            Heard::Frame(frame) => last = Some(frame),
            Heard::Closed(code) => break code,
        }
    };
    assert!(matches!(last, Some(Frame::Drain { after_ms: 500..1500, url: None })), "{last:?}");
    assert_eq!(code, Some(1013));
    eventually(|| relay.relay.metrics().connections.get() == 2).await;
}

#[tokio::test]
async fn a_reader_that_never_reads_again_is_let_go() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.write_seconds = NonZeroU32::MIN;
        config.limits.queue_bytes = u32::MAX;
        config.limits.queue_messages = u32::MAX;
    })
    .await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let small = TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(4 * 1024).unwrap();
    let small = small.connect(relay.address()).await.unwrap();
    let mut stuck = Client::over(small, relay.address()).await.welcomed(&computer).await;
    stuck.subscribe(on).await;
    let mut device = Client::connect(&relay, &phone).await;
    let bytes = Bytes::from(vec![7; 8_000]);
    for id in 0..1_000 {
        device.ask(Frame::Publish { id, channel: on.to_string(), bytes: bytes.clone() }).await;
    }
    eventually(|| relay.relay.metrics().ended.of(End::Stalled).get() == 1).await;
    eventually(|| relay.relay.metrics().connections.get() == 1).await;
}

#[tokio::test]
async fn a_client_that_vanished_without_a_word_is_missed_and_one_that_answers_pings_is_not() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.ping_seconds = NonZeroU32::MIN;
        config.limits.idle_seconds = NonZeroU32::new(2).unwrap();
    })
    .await;
    let computer = tenant.computer();
    let _frozen = Client::connect(&relay, &computer).await;
    let mut alive = Client::connect(&relay, &computer).await;
    // Reading is what answers pings.
    let _ = timeout(Duration::from_secs(4), alive.hear()).await;
    eventually(|| relay.relay.metrics().ended.of(End::Idle).get() == 1).await;
    alive.silent().await;
    // Nor is one that has said nothing yet, at a relay that has run for longer than clients may be quiet.
    let mut newcomer = Client::connect(&relay, &computer).await;
    let _ = timeout(Duration::from_secs(3), newcomer.hear()).await;
    newcomer.silent().await;
}

#[tokio::test]
async fn one_connection_has_only_so_many_pairings() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.limits.pairings = 2).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Client::connect(&relay, &computer).await;
    let mut device = Client::connect(&relay, &phone).await;
    agent.open(1).await;
    agent.open(2).await;
    assert_eq!(agent.refused(open(3)).await, Code::Quota);
    assert_eq!(relay.relay.metrics().refused.of(Limit::Pairings).get(), 1);
    agent.send(Frame::Close { rid: Rid([1; 16]) }).await;
    agent.open(3).await;
    device.claim(2).await;
    device.claim(3).await;
    assert_eq!(device.refused(claim(4)).await, Code::Quota);
}

#[tokio::test]
async fn a_computer_that_floods_a_phone_is_slowed_and_the_phone_stays() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.publish_per_second = NonZeroU32::MIN;
        config.limits.publish_burst = NonZeroU32::new(3).unwrap();
    })
    .await;
    let phone = tenant.phone(1).identity;
    let on = Channel::Device(DeviceId(phone.statement().subject));
    let mut device = Client::connect(&relay, &phone).await;
    device.subscribe(on).await;
    let publish = |id| Frame::Publish { id, channel: on.to_string(), bytes: Bytes::from_static(b"x") };
    let (mut rogue, mut honest) =
        (Client::connect(&relay, &tenant.computer()).await, Client::connect(&relay, &tenant.computer()).await);
    let mut passed = 0;
    for id in 1..=50 {
        match rogue.ask(publish(id)).await {
            Frame::Ack { delivered: 1, .. } => passed += 1,
            Frame::Err { code: Code::Rate, id: Some(about), .. } if about == id => {}
            other => panic!("{other:?}"),
        }
    }
    // Three at once, and one for each second that the machine took for this.
    assert!((3..40).contains(&passed), "{passed}");
    assert_eq!(honest.ask(publish(1)).await, Frame::Ack { id: 1, delivered: 1 });
    for _ in 0..=passed {
        assert!(matches!(device.frame().await, Frame::Message { .. }));
    }
    device.silent().await;
    assert_eq!(relay.relay.metrics().refused.of(Limit::Publishes).get(), 50 - passed);
}

#[tokio::test]
async fn one_address_in_a_hurry_is_told_to_wait() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.ip_per_second = NonZeroU32::MIN;
        config.limits.ip_burst = NonZeroU32::new(2).unwrap();
    })
    .await;
    let computer = tenant.computer();
    let _connected = Client::connect(&relay, &computer).await;
    let mut answer = String::new();
    for _ in 0..50 {
        let mut next = TcpStream::connect(relay.address()).await.unwrap();
        next.write_all(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        answer.clear();
        timeout(PATIENCE, next.read_to_string(&mut answer)).await.unwrap().unwrap();
        if !answer.starts_with("HTTP/1.1 426") {
            break;
        }
    }
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: ") && answer.ends_with("ip_rate\n"));
    assert!(relay.relay.metrics().refused.of(Limit::IpRate).get() >= 1);
}

#[tokio::test]
async fn beyond_the_bound_on_sockets_nobody_is_let_in_until_one_leaves() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.limits.connections = 1).await;
    let computer = tenant.computer();
    let first = Client::connect(&relay, &computer).await;
    let mut second = TcpStream::connect(relay.address()).await.unwrap();
    second.write_all(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, second.read_to_string(&mut answer)).await.expect("closed at once").unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: ") && answer.ends_with("connections\n")
    );
    assert_eq!(relay.relay.metrics().refused.of(Limit::Connections).get(), 1);
    drop(first);
    eventually(|| relay.relay.metrics().connections.get() == 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    Client::connect(&relay, &computer).await.silent().await;
}

/// Everybody at once, each leaving in the middle of something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_comes_and_goes_leaves_nothing_behind() {
    const PAIRS: u8 = 120;
    let mut tenant = Tenant::new(1);
    let relay = Arc::new(TestRelay::start(Tenancy::of([tenant.trust()])).await);
    let computer = Arc::new(tenant.computer());
    let phone = Arc::new(tenant.phone(1).identity);
    let own = Channel::Computer(computer.computer());
    let everybody = Channel::Tenant(tenant.id);
    let crowd = (0..PAIRS).map(|n| {
        let (relay, computer, phone) = (relay.clone(), computer.clone(), phone.clone());
        tokio::spawn(async move {
            let mut agent = Client::connect(&relay, computer.as_ref()).await;
            let mut device = Client::connect(&relay, phone.as_ref()).await;
            agent.send(Frame::Subscribe { channel: own.to_string(), since: None }).await;
            agent.send(Frame::Subscribe { channel: everybody.to_string(), since: None }).await;
            device.send(Frame::Subscribe { channel: everybody.to_string(), since: None }).await;
            agent.send(open(n)).await;
            for frame in [claim(n), forward(n, 1, 0, "m1"), forward(n, 2, 0, "m2")].into_iter().take(n as usize % 4) {
                device.send(frame).await;
            }
            let order = Frame::Publish { id: 1, channel: own.to_string(), bytes: Bytes::from_static(b"order") };
            device.send(order).await;
            match n % 5 {
                0 => agent.send(Frame::Close { rid: Rid([n; 16]) }).await,
                1 => agent.send(Frame::Unsubscribe { channel: own.to_string() }).await,
                2 => agent.caught_up().await,
                3 => device.send_raw(Message::Text("bye".into())).await,
                _ => {}
            }
        })
    });
    for one in crowd.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    for epoch in 1..=3 {
        relay.announce(&tenant.revocation(epoch, vec![])).await;
    }
    let metrics = relay.relay.metrics();
    for gauge in [&metrics.connections, &metrics.handshakes, &metrics.pairings, &metrics.channels] {
        eventually(|| gauge.get() == 0).await;
    }
    assert_eq!(metrics.welcomed.get(), 2 * u64::from(PAIRS));
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 255).await;
    device.send(forward(255, 1, 0, "as new")).await;
    assert_eq!(agent.frame().await, forward(255, 1, 0, "as new"));
}

#[tokio::test]
async fn a_computer_that_comes_again_and_again_is_told_to_wait_and_its_neighbour_is_let_in() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.client_connects_per_second = NonZeroU32::MIN;
        config.limits.client_connect_burst = NonZeroU32::MIN;
    })
    .await;
    let (flapping, other) = (tenant.computer(), tenant.computer());
    let _first = Client::connect(&relay, &flapping).await;
    let mut second = Client::unauthenticated(&relay).await;
    let answer = second.authenticate(&flapping).await;
    assert!(matches!(answer, Heard::Frame(Frame::Err { code: Code::Rate, .. })), "{answer:?}");
    assert_eq!(second.hear().await, Heard::Closed(Some(1008)));
    Client::connect(&relay, &other).await.silent().await;
    assert_eq!(relay.relay.metrics().refused.of(Limit::ClientConnects).get(), 1);
}

#[tokio::test]
async fn a_tenant_with_as_many_connections_as_it_may_have_keeps_no_other_tenant_out() {
    let (mut large, mut small) = (Tenant::new(1), Tenant::new(2));
    let relay = TestRelay::with(Tenancy::of([large.trust(), small.trust()]), |config| {
        config.limits.tenant_connections = NonZeroU32::new(2).unwrap();
    })
    .await;
    let (one, two, three) = (large.computer(), large.computer(), large.computer());
    let (first, _second) = (Client::connect(&relay, &one).await, Client::connect(&relay, &two).await);
    let mut third = Client::unauthenticated(&relay).await;
    let answer = third.authenticate(&three).await;
    assert!(matches!(answer, Heard::Frame(Frame::Err { code: Code::Quota, .. })), "{answer:?}");
    Client::connect(&relay, &small.computer()).await.silent().await;
    drop(first);
    eventually(|| relay.relay.metrics().connections.get() == 1).await;
    Client::connect(&relay, &three).await.silent().await;
}

#[tokio::test]
async fn who_sends_frames_faster_than_it_may_is_read_more_slowly_and_loses_nothing() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.limits.client_frames_per_second = NonZeroU32::new(200).unwrap();
        config.limits.client_frame_burst = NonZeroU32::new(5).unwrap();
    })
    .await;
    let mut agent = Client::connect(&relay, &tenant.computer()).await;
    for n in 0..60 {
        agent.send(open(n)).await;
    }
    for _ in 0..60 {
        assert!(matches!(agent.frame().await, Frame::Opened { .. }));
    }
    assert!(relay.relay.metrics().refused.of(Limit::ClientFrames).get() >= 1);
}

#[tokio::test]
async fn who_pings_as_fast_as_it_can_is_read_slowly_and_the_others_notice_nothing() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        (config.limits.client_frames_per_second, config.limits.client_frame_burst) =
            (NonZeroU32::new(1_000).unwrap(), NonZeroU32::new(100).unwrap());
    })
    .await;
    let mut agent = Client::connect(&relay, &tenant.computer()).await;
    // More than the sockets of both ends hold is never taken.
    let flood = async {
        loop {
            agent.send_raw(Message::Ping(vec![7; 125].into())).await;
        }
    };
    let limited = async {
        let refused = relay.relay.metrics().refused.of(Limit::ClientFrames);
        eventually(|| refused.get() > 3).await;
        let mut other = Client::connect(&relay, &tenant.computer()).await;
        other.open(1).await;
    };
    tokio::select! { () = flood => {}, () = limited => {} }
}

#[tokio::test]
async fn who_goes_on_sending_what_is_no_frame_is_not_read_to_the_end() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let agent = Client::connect(&relay, &tenant.computer()).await;
    let mut socket = agent.0.into_inner();
    // A message of a gigabyte, masked.
    let head = [0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    socket.write_all(&head).await.unwrap();
    let mut sent = 0_usize;
    // Sockets hold some megabytes; after that either it takes no more, or it is gone.
    while let Ok(Ok(())) = timeout(PATIENCE, socket.write_all(&[0; 65_536])).await {
        sent += 65_536;
        assert!(sent < 64 << 20, "a relay that reads {sent} bytes of nonsense");
    }
    eventually(|| relay.relay.metrics().connections.get() == 0).await;
}
