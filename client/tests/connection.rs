//! What a program sees of a connection while a relay, played here frame by frame, comes, goes and lies.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gatepass_client::{Connection, Endpoint, Incoming, Proxies, RequestError, Settings, State, Tls, Why};
use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::{Frame, Place, RelayAuth},
    ids::{Rid, TenantId},
    keys::{Signer, SigningKey},
    signed::Unverified,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

const CHANNEL: Channel = Channel::Tenant(TenantId([7; 16]));
const RID: Rid = Rid([3; 16]);

/// A relay that does what the test says.
struct Relay {
    listener: TcpListener,
}

/// Its end of one connection.
struct Peer(WebSocketStream<TcpStream>);

impl Relay {
    async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn endpoint(&self) -> Endpoint {
        format!("ws://{}", self.listener.local_addr().unwrap()).parse().unwrap()
    }

    /// Accepts a client and asks who it is.
    async fn challenge(&self) -> (Peer, Frame) {
        let (tcp, _) = within(self.listener.accept()).await.unwrap();
        let mut peer = Peer(accept_async(tcp).await.unwrap());
        peer.send(Frame::Challenge { nonce: [9; 32], server_time: 0 }).await;
        let auth = peer.next().await;
        (peer, auth)
    }

    /// Accepts a client and lets it in.
    async fn welcome(&self) -> Peer {
        let (mut peer, auth) = self.challenge().await;
        assert!(matches!(auth, Frame::Auth { .. }));
        peer.send(Frame::Welcome { connection: 1, server_time: 0 }).await;
        peer
    }
}

impl Peer {
    async fn send(&mut self, frame: Frame) {
        self.0.send(Message::Binary(frame.encode().into())).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Message::Binary(bytes) = within(self.0.next()).await.unwrap().unwrap() {
                return Frame::decode(&bytes).unwrap();
            }
        }
    }

    async fn forward(&mut self, seq: u32, ack: u32, bytes: &'static [u8]) {
        self.send(Frame::Forward { rid: RID, seq, ack, bytes: Bytes::from_static(bytes) }).await;
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), work).await.expect("nothing happened for 20 seconds")
}

fn settings(relays: &[&Relay]) -> Settings {
    Settings {
        relays: relays.iter().map(|relay| relay.endpoint()).collect(),
        tls: Tls::system().unwrap(),
        proxies: Proxies::none(),
        chain: vec![Bytes::from_static(b"certificate")],
        key: Arc::new(SigningKey::from_seed(&[5; 32])),
    }
}

async fn waiting(connection: &Connection) -> Why {
    let mut state = connection.sender().state();
    let state = within(state.wait_for(|state| matches!(state, State::Waiting { .. }))).await.unwrap().clone();
    let State::Waiting { why, .. } = state else { unreachable!() };
    why
}

/// A device with a claimed pairing.
async fn claimed(relay: &Relay) -> (Connection, Peer) {
    let connection = Connection::start(settings(&[relay]));
    let mut peer = relay.welcome().await;
    connection.sender().online().await.unwrap();
    let sender = connection.sender().clone();
    let claim = tokio::spawn(async move { sender.claim(RID, [1; 16], [2; 16]).await });
    assert_eq!(peer.next().await, Frame::Claim { rid: RID, n: [1; 16], tag: [2; 16] });
    peer.send(Frame::Claimed { rid: RID, token: [4; 32] }).await;
    assert_eq!(claim.await.unwrap(), Ok(()));
    (connection, peer)
}

#[tokio::test]
async fn a_client_proves_its_key_to_the_relay_that_it_dialled_and_to_no_other() {
    let relay = Relay::start().await;
    let connection = Connection::start(settings(&[&relay]));
    let (mut peer, auth) = relay.challenge().await;
    let Frame::Auth { proof, chain } = auth else { panic!("{auth:?}") };
    assert_eq!(chain, [Bytes::from_static(b"certificate")]);
    let key = SigningKey::from_seed(&[5; 32]).public_key();
    let proof = Unverified::<RelayAuth>::decode(proof).unwrap().verify(&key).unwrap();
    assert_eq!((proof.body().nonce, &proof.body().relay), ([9; 32], &relay.endpoint().authority()));
    peer.send(Frame::Welcome { connection: 77, server_time: proof.body().time + 60 }).await;
    connection.sender().online().await.unwrap();
    let State::Online { connection: number, skew, .. } = connection.sender().state().borrow().clone() else { panic!() };
    assert_eq!((number, skew), (77, 60));
}

#[tokio::test]
async fn a_refused_certificate_is_said_so_and_not_tried_again_at_once() {
    let relay = Relay::start().await;
    let connection = Connection::start(settings(&[&relay]));
    let (mut peer, _) = relay.challenge().await;
    peer.send(Frame::Err { code: Code::Revoked, rid: None, id: None, text: String::new() }).await;
    let why = connection.sender().online().await.unwrap_err();
    assert!(matches!(why, Why::Refused { code: Code::Revoked, .. }) && why.needs_somebody(), "{why}");
}

#[tokio::test]
async fn a_ticket_is_good_until_the_relay_has_answered_it() {
    let relay = Relay::start().await;
    let _connection = Connection::start(settings(&[&relay]));
    let mut peer = relay.welcome().await;
    let ticket = |ticket: &'static [u8]| Frame::Ticket { ticket: Bytes::from_static(ticket), secret: [5; 32] };
    peer.send(ticket(b"first")).await;
    drop(peer);
    // A relay that breaks down under those who come back is met again by the cheap way.
    for _ in 0..2 {
        let (_peer, back) = relay.challenge().await;
        assert!(matches!(&back, Frame::Return { ticket, .. } if ticket == "first"), "{back:?}");
    }
    let (mut peer, _) = relay.challenge().await;
    let denied = Frame::Err { code: Code::ResumeDenied, rid: None, id: None, text: String::new() };
    peer.send(denied).await;
    assert!(matches!(peer.next().await, Frame::Auth { .. }), "for the same challenge");
    drop(peer);
    let (_peer, back) = relay.challenge().await;
    assert!(matches!(back, Frame::Auth { .. }), "it is not shown again: {back:?}");
}

fn subscribe(since: Option<(u64, u64)>) -> Frame {
    let since = since.map(|(epoch, offset)| Place { epoch, offset });
    Frame::Subscribe { channel: CHANNEL.to_string(), since }
}

fn subscribed(epoch: u64, offset: u64, complete: bool, following: u32) -> Frame {
    Frame::Subscribed { channel: CHANNEL.to_string(), place: Place { epoch, offset }, complete, following }
}

fn message(offset: u64) -> Frame {
    Frame::Message { channel: CHANNEL.to_string(), offset, bytes: Bytes::from_static(b"news") }
}

fn news(offset: u64) -> Option<Incoming> {
    Some(Incoming::Message { channel: CHANNEL, offset, bytes: Bytes::from_static(b"news") })
}

const REFETCH: Option<Incoming> = Some(Incoming::Refetch { channel: CHANNEL });

/// A client that listens.
async fn listening(relay: &Relay) -> (Connection, Peer) {
    let connection = Connection::start(settings(&[relay]));
    let mut peer = relay.welcome().await;
    let sender = connection.sender().clone();
    tokio::spawn(async move { sender.subscribe(CHANNEL).await });
    assert_eq!(peer.next().await, subscribe(None));
    (connection, peer)
}

#[tokio::test]
async fn a_subscription_outlives_a_cut_and_goes_on_where_it_was() {
    let relay = Relay::start().await;
    let (mut connection, mut peer) = listening(&relay).await;
    for frame in [subscribed(8, 5, true, 1), message(3), message(6)] {
        peer.send(frame).await;
    }
    assert_eq!(within(connection.next()).await, news(3), "retained");
    assert_eq!(within(connection.next()).await, news(6));
    drop(peer);
    let mut peer = relay.welcome().await;
    assert_eq!(peer.next().await, subscribe(Some((8, 6))));
    // Cut again while it catches up: it has seven of what it missed.
    for frame in [subscribed(8, 8, true, 2), message(7)] {
        peer.send(frame).await;
    }
    assert_eq!(within(connection.next()).await, news(7));
    drop(peer);
    let mut peer = relay.welcome().await;
    assert_eq!(peer.next().await, subscribe(Some((8, 7))));
    for frame in [subscribed(8, 8, true, 1), message(8), message(9)] {
        peer.send(frame).await;
    }
    assert_eq!(within(connection.next()).await, news(8));
    assert_eq!(within(connection.next()).await, news(9));
}

#[tokio::test]
async fn a_program_is_told_to_fetch_anew_where_the_relay_has_lost_something() {
    let relay = Relay::start().await;
    let (mut connection, mut peer) = listening(&relay).await;
    peer.send(subscribed(8, 5, true, 0)).await;
    // While connected.
    for frame in [subscribed(9, 2, false, 1), message(1), message(3)] {
        peer.send(frame).await;
    }
    assert_eq!(within(connection.next()).await, REFETCH);
    assert_eq!(within(connection.next()).await, news(1));
    assert_eq!(within(connection.next()).await, news(3), "of the new count");
    drop(peer);
    // And after a cut; again after one in the middle of what was to make up for it.
    let mut peer = relay.welcome().await;
    assert_eq!(peer.next().await, subscribe(Some((9, 3))));
    for frame in [subscribed(10, 70, false, 2), message(40)] {
        peer.send(frame).await;
    }
    assert_eq!(within(connection.next()).await, REFETCH);
    assert_eq!(within(connection.next()).await, news(40));
    drop(peer);
    let mut peer = relay.welcome().await;
    assert_eq!(peer.next().await, subscribe(None), "it can't say where it was");
    for frame in [subscribed(10, 70, true, 2), message(40), message(70)] {
        peer.send(frame).await;
    }
    for expected in [REFETCH, news(40), news(70)] {
        assert_eq!(within(connection.next()).await, expected);
    }
}

#[tokio::test]
async fn a_relay_that_swallows_a_message_is_asked_for_it_and_can_repeat_none() {
    let relay = Relay::start().await;
    let (mut connection, mut peer) = listening(&relay).await;
    for frame in [subscribed(8, 5, true, 0), message(6), message(6), message(8), message(9)] {
        peer.send(frame).await;
    }
    assert_eq!(within(connection.next()).await, news(6));
    assert_eq!(peer.next().await, subscribe(Some((8, 6))), "once");
    for frame in [subscribed(8, 9, true, 3), message(7), message(8), message(9), message(10)] {
        peer.send(frame).await;
    }
    for expected in 7..=10 {
        assert_eq!(within(connection.next()).await, news(expected));
    }
    // One that says that nothing is missing, and sends too little for that.
    drop(peer);
    let mut peer = relay.welcome().await;
    assert_eq!(peer.next().await, subscribe(Some((8, 10))));
    peer.send(subscribed(8, 12, true, 0)).await;
    assert_eq!(within(connection.next()).await, REFETCH);
    // One that counts to the end of numbers, and then goes on.
    for frame in [subscribed(9, u64::MAX, false, 0), message(1), subscribed(9, 1, false, 0), message(2)] {
        peer.send(frame).await;
    }
    for expected in [REFETCH, REFETCH, news(2)] {
        assert_eq!(within(connection.next()).await, expected);
    }
}

#[tokio::test]
async fn a_relay_that_cannot_just_now_is_asked_again() {
    let relay = Relay::start().await;
    let (connection, mut peer) = listening(&relay).await;
    peer.send(subscribed(8, 5, true, 0)).await;
    drop(peer);
    let mut peer = relay.welcome().await;
    assert_eq!(peer.next().await, subscribe(Some((8, 5))));
    peer.send(Frame::Err { code: Code::Draining, rid: None, id: None, text: String::new() }).await;
    let why = waiting(&connection).await;
    assert!(!why.needs_somebody(), "{why}");
    assert_eq!(relay.welcome().await.next().await, subscribe(Some((8, 5))), "it still listens");
}

#[tokio::test]
async fn a_machine_that_changed_its_network_asks_for_a_new_connection_and_keeps_its_subscriptions() {
    let relay = Relay::start().await;
    let connection = Connection::start(settings(&[&relay]));
    let sender = connection.sender().clone();
    tokio::spawn(async move { sender.subscribe(CHANNEL).await });
    let mut old = relay.welcome().await;
    assert_eq!(old.next().await, subscribe(None));
    old.send(subscribed(8, 1, true, 0)).await;
    connection.sender().reconnect().await.unwrap();
    let mut new = relay.welcome().await;
    assert!(matches!(new.next().await, Frame::Subscribe { .. }));
    assert!(!matches!(within(old.0.next()).await, Some(Ok(Message::Binary(_)))), "the old one is gone");
}

#[tokio::test]
async fn a_relay_is_called_from_the_address_that_the_program_chose() {
    let relay = Relay::start().await;
    let mut chosen = settings(&[&relay]);
    let source = "127.64.0.9".parse().unwrap();
    chosen.relays = vec![relay.endpoint().called_from(source)];
    let _connection = Connection::start(chosen);
    let (_stream, from) = within(relay.listener.accept()).await.unwrap();
    assert_eq!(from.ip(), source);
}

#[tokio::test]
async fn a_subscription_without_right_is_refused_to_the_one_who_asked() {
    let relay = Relay::start().await;
    let connection = Connection::start(settings(&[&relay]));
    let mut peer = relay.welcome().await;
    let sender = connection.sender().clone();
    let asked = tokio::spawn(async move { sender.subscribe(CHANNEL).await });
    peer.next().await;
    peer.send(Frame::Err { code: Code::NotAllowed, rid: None, id: None, text: String::new() }).await;
    assert!(matches!(within(asked).await.unwrap(), Err(RequestError::Refused { code: Code::NotAllowed, .. })));
}

#[tokio::test]
async fn a_cut_in_mid_pairing_loses_nothing_and_repeats_nothing() {
    let relay = Relay::start().await;
    let (mut connection, mut peer) = claimed(&relay).await;
    connection.sender().forward(RID, &b"one"[..]).await.unwrap();
    assert!(matches!(peer.next().await, Frame::Forward { seq: 1, ack: 0, .. }));
    peer.forward(1, 1, b"first").await;
    peer.forward(1, 1, b"first").await;
    assert!(matches!(within(connection.next()).await, Some(Incoming::Forwarded { bytes, .. }) if bytes == "first"));
    drop(peer);
    waiting(&connection).await;
    connection.sender().forward(RID, &b"two"[..]).await.unwrap();

    let mut peer = relay.welcome().await;
    assert_eq!(peer.next().await, Frame::Resume { rid: RID, token: [4; 32], last_seq: 1 });
    peer.send(Frame::Resumed { rid: RID, last_seq: 1 }).await;
    peer.forward(1, 1, b"first").await;
    peer.forward(2, 1, b"second").await;
    let Frame::Forward { seq: 2, bytes, .. } = peer.next().await else {
        panic!("the second message was not sent again")
    };
    assert_eq!(bytes, "two");
    assert!(matches!(within(connection.next()).await, Some(Incoming::Forwarded { bytes, .. }) if bytes == "second"));
}

#[tokio::test]
async fn a_relay_that_swallows_a_message_ends_the_pairing() {
    let relay = Relay::start().await;
    let (mut connection, mut peer) = claimed(&relay).await;
    peer.forward(2, 0, b"second").await;
    assert_eq!(within(connection.next()).await, Some(Incoming::Closed { rid: RID, code: Some(Code::BadFrame) }));
    assert_eq!(peer.next().await, Frame::Close { rid: RID });
}

#[tokio::test]
async fn a_pairing_that_the_relay_forgot_is_lost_out_loud() {
    let relay = Relay::start().await;
    let (mut connection, peer) = claimed(&relay).await;
    drop(peer);
    let mut peer = relay.welcome().await;
    assert!(matches!(peer.next().await, Frame::Resume { .. }));
    peer.send(Frame::Err { code: Code::ResumeDenied, rid: Some(RID), id: None, text: String::new() }).await;
    assert_eq!(within(connection.next()).await, Some(Incoming::Closed { rid: RID, code: Some(Code::ResumeDenied) }));
}

#[tokio::test]
async fn a_message_published_without_a_connection_or_cut_off_is_never_thought_delivered() {
    let relay = Relay::start().await;
    let connection = Connection::start(settings(&[&relay]));
    assert_eq!(connection.sender().publish(CHANNEL, &b"x"[..]).await, Err(RequestError::Offline));
    let mut peer = relay.welcome().await;
    connection.sender().online().await.unwrap();
    let sender = connection.sender().clone();
    let asked = tokio::spawn(async move { sender.publish(CHANNEL, &b"x"[..]).await });
    let Frame::Publish { id, .. } = peer.next().await else { panic!() };
    peer.send(Frame::Ack { id, delivered: 3 }).await;
    assert_eq!(within(asked).await.unwrap(), Ok(3));
    let sender = connection.sender().clone();
    let asked = tokio::spawn(async move { sender.publish(CHANNEL, &b"x"[..]).await });
    peer.next().await;
    drop(peer);
    assert_eq!(within(asked).await.unwrap(), Err(RequestError::Cut));
}

#[tokio::test]
async fn a_draining_relay_sends_its_clients_to_a_known_one_and_to_no_stranger() {
    let (first, second, stranger) = (Relay::start().await, Relay::start().await, Relay::start().await);
    let connection = Connection::start(settings(&[&first, &second]));
    let mut peer = first.welcome().await;
    peer.send(Frame::Drain { after_ms: 1, url: Some(stranger.endpoint().to_string()) }).await;
    let mut peer = second.welcome().await;
    peer.send(Frame::Drain { after_ms: 1, url: Some(second.endpoint().to_string()) }).await;
    let _peer = second.welcome().await;
    assert!(timeout(Duration::from_millis(50), stranger.listener.accept()).await.is_err());
    connection.sender().online().await.unwrap();
}

#[tokio::test]
async fn after_a_cut_the_same_relay_is_tried_first_and_then_the_next() {
    let (first, second) = (Relay::start().await, Relay::start().await);
    let connection = Connection::start(settings(&[&first, &second]));
    drop(first.welcome().await);
    let peer = first.welcome().await;
    connection.sender().online().await.unwrap();
    drop((first, peer));
    let _peer = second.welcome().await;
}

#[tokio::test]
async fn a_program_that_lets_go_while_offline_is_not_kept_waiting() {
    let relay = Relay::start().await;
    let connection = Connection::start(settings(&[&relay]));
    let mut state = connection.sender().state();
    let _held_by_another_task = connection.sender().clone();
    drop(connection);
    within(state.wait_for(|state| matches!(state, State::Stopped))).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_no_relay_is_named_as_such() {
    let relay = Relay::start().await;
    let connection = Connection::start(settings(&[&relay]));
    // It is asked for a WebSocket, and then for events.
    for _ in 0..2 {
        let (mut tcp, _) = within(relay.listener.accept()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
    }
    let why = waiting(&connection).await;
    assert!(matches!(why, Why::NotOpened { status: 404, .. }), "{why}");
}

#[tokio::test]
async fn what_was_sent_last_still_arrives_when_the_program_ends() {
    let relay = Relay::start().await;
    let (connection, mut peer) = claimed(&relay).await;
    connection.sender().forward(RID, &b"denied"[..]).await.unwrap();
    let closing = tokio::spawn(connection.close());
    assert!(matches!(peer.next().await, Frame::Forward { bytes, .. } if bytes == "denied"));
    assert!(matches!(within(peer.0.next()).await, Some(Ok(Message::Close(_)))));
    while within(peer.0.next()).await.is_some_and(|message| message.is_ok()) {}
    within(closing).await.unwrap();
}
