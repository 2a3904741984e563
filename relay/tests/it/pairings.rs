//! A phone and an agent meet at the relay.

use bytes::Bytes;
use gatepass_protocol::{Code, frame::Frame, frame::MAX_UNACKED, ids::Rid, testing::Tenant};
use gatepass_relay::testing::{Tenancy, TestRelay};

use crate::client::{Client, claim, eventually, forward, open, paired};

#[tokio::test]
async fn a_phone_and_an_agent_talk_until_one_says_goodbye() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    device.send(forward(1, 1, 0, "m1")).await;
    assert_eq!(agent.frame().await, forward(1, 1, 0, "m1"));
    agent.send(forward(1, 1, 1, "m2")).await;
    assert_eq!(device.frame().await, forward(1, 1, 1, "m2"));
    let ack = Frame::ForwardAck { rid: Rid([1; 16]), ack: 1 };
    device.send(ack.clone()).await;
    assert_eq!(agent.frame().await, ack);
    agent.send(forward(1, 2, 1, "result")).await;
    let close = Frame::Close { rid: Rid([1; 16]) };
    agent.send(close.clone()).await;
    assert_eq!(device.frame().await, forward(1, 2, 1, "result"));
    assert_eq!(device.frame().await, close);
    assert_eq!(device.refused(forward(1, 2, 2, "late")).await, Code::Unknown);
    assert_eq!(relay.relay.metrics().pairings.get(), 0);
}

#[tokio::test]
async fn a_code_is_claimed_once_and_the_second_phone_is_told() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone, thief) = (tenant.computer(), tenant.phone(1).identity, tenant.phone(2).identity);
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    let mut thief = Client::connect(&relay, &thief).await;
    assert_eq!(thief.refused(claim(1)).await, Code::Claimed);
    assert_eq!(device.refused(claim(1)).await, Code::Claimed, "nor by the first once more");
    assert_eq!(thief.refused(forward(1, 1, 0, "m1")).await, Code::Unknown);
    assert_eq!(thief.refused(Frame::Close { rid: Rid([1; 16]) }).await, Code::Unknown);
    device.send(forward(1, 1, 0, "m1")).await;
    assert_eq!(agent.frame().await, forward(1, 1, 0, "m1"), "the pairing does not suffer");
}

#[tokio::test]
async fn agents_open_and_phones_claim_within_their_tenant_only() {
    let (mut tenant, mut other) = (Tenant::new(1), Tenant::new(2));
    let relay = TestRelay::start(Tenancy::of([tenant.trust(), other.trust()])).await;
    let mut agent = Client::connect(&relay, &tenant.computer()).await;
    let mut neighbour = Client::connect(&relay, &tenant.computer()).await;
    let mut device = Client::connect(&relay, &tenant.phone(1).identity).await;
    let mut stranger = Client::connect(&relay, &other.phone(1).identity).await;
    assert_eq!(device.refused(open(1)).await, Code::NotAllowed);
    let token = agent.open(1).await;
    assert_eq!(agent.refused(claim(1)).await, Code::NotAllowed);
    assert_eq!(agent.refused(open(1)).await, Code::NotAllowed, "an id is opened once");
    assert_eq!(agent.refused(forward(1, 1, 0, "to nobody")).await, Code::NotAllowed);
    assert_eq!(stranger.refused(claim(1)).await, Code::Unknown);
    assert_eq!(device.refused(claim(2)).await, Code::Unknown);
    let stolen = Frame::Resume { rid: Rid([1; 16]), token, last_seq: 0 };
    assert_eq!(neighbour.refused(stolen.clone()).await, Code::ResumeDenied, "the token, but another's certificate");
    assert_eq!(stranger.refused(stolen).await, Code::Unknown);
    device.claim(1).await;
    assert_eq!(agent.frame().await, claim(1));
}

#[tokio::test]
async fn a_phone_that_was_cut_off_comes_back_and_misses_nothing() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, agent_token, mut device, device_token) = paired(&relay, &computer, &phone, 1).await;
    device.send(forward(1, 1, 0, "m1")).await;
    assert_eq!(agent.frame().await, forward(1, 1, 0, "m1"));
    drop(device);
    eventually(|| relay.relay.metrics().connections.get() == 1).await;
    agent.send(forward(1, 1, 1, "m2")).await;
    agent.send(forward(1, 2, 1, "m2b")).await;

    let mut device = Client::connect(&relay, &phone).await;
    let resume = |token, last_seq| Frame::Resume { rid: Rid([1; 16]), token, last_seq };
    assert_eq!(device.refused(resume([0; 32], 0)).await, Code::ResumeDenied);
    assert_eq!(device.ask(resume(device_token, 0)).await, Frame::Resumed { rid: Rid([1; 16]), last_seq: 1 });
    assert_eq!(device.frame().await, forward(1, 1, 1, "m2"));
    assert_eq!(device.frame().await, forward(1, 2, 1, "m2b"));
    device.send(forward(1, 1, 0, "m1")).await;
    device.send(forward(1, 2, 2, "m3")).await;
    assert_eq!(agent.frame().await, forward(1, 2, 2, "m3"), "what was sent again is not delivered again");

    // The agent comes back while its old connection still looks alive; that one is no end of the pairing any more.
    let mut back = Client::connect(&relay, &computer).await;
    assert_eq!(back.ask(resume(agent_token, 1)).await, Frame::Resumed { rid: Rid([1; 16]), last_seq: 2 });
    assert_eq!(back.frame().await, forward(1, 2, 2, "m3"));
    assert_eq!(agent.refused(forward(1, 3, 2, "ghost")).await, Code::Unknown);
    drop(agent);
    eventually(|| relay.relay.metrics().connections.get() == 2).await;
    back.send(forward(1, 3, 2, "m4")).await;
    assert_eq!(device.frame().await, forward(1, 3, 2, "m4"));
}

#[tokio::test]
async fn an_agent_that_was_away_when_its_code_was_claimed_learns_of_it() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Client::connect(&relay, &computer).await;
    let token = agent.open(1).await;
    drop(agent);
    eventually(|| relay.relay.metrics().connections.get() == 0).await;
    let mut device = Client::connect(&relay, &phone).await;
    device.claim(1).await;
    device.send(forward(1, 1, 0, "m1")).await;
    device.silent().await;
    let mut agent = Client::connect(&relay, &computer).await;
    let resumed = agent.ask(Frame::Resume { rid: Rid([1; 16]), token, last_seq: 0 }).await;
    assert_eq!(resumed, Frame::Resumed { rid: Rid([1; 16]), last_seq: 0 });
    assert_eq!(agent.frame().await, claim(1));
    assert_eq!(agent.frame().await, forward(1, 1, 0, "m1"));
}

#[tokio::test]
async fn a_phone_that_was_away_for_the_result_gets_it_although_the_agent_is_done() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, _, device, token) = paired(&relay, &computer, &phone, 1).await;
    drop(device);
    eventually(|| relay.relay.metrics().connections.get() == 1).await;
    agent.send(forward(1, 1, 0, "result")).await;
    agent.send(Frame::Close { rid: Rid([1; 16]) }).await;
    agent.silent().await;
    drop(agent);
    eventually(|| relay.relay.metrics().connections.get() == 0).await;
    let mut device = Client::connect(&relay, &phone).await;
    device.ask(Frame::Resume { rid: Rid([1; 16]), token, last_seq: 0 }).await;
    assert_eq!(device.frame().await, forward(1, 1, 0, "result"));
    assert_eq!(device.frame().await, Frame::Close { rid: Rid([1; 16]) });
}

#[tokio::test]
async fn a_pairing_ends_with_its_time_and_both_are_told() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.pairing.ttl_seconds = 1).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    // The agent asks for 90 seconds; the relay's own limit is what counts.
    let (mut agent, _, mut device, token) = paired(&relay, &computer, &phone, 1).await;
    let expired = |frame| matches!(frame, Frame::Err { code: Code::Expired, rid: Some(Rid([1, ..])), .. });
    assert!(expired(agent.frame().await));
    assert!(expired(device.frame().await));
    assert_eq!(device.refused(claim(1)).await, Code::Claimed);
    let back = Frame::Resume { rid: Rid([1; 16]), token, last_seq: 0 };
    assert_eq!(device.refused(back).await, Code::Expired);
    assert_eq!(relay.relay.metrics().pairings.get(), 0);

    agent.open(2).await;
    assert!(matches!(agent.frame().await, Frame::Err { code: Code::Expired, .. }));
    assert_eq!(device.refused(claim(2)).await, Code::Expired, "a code that nobody scanned in time");
    assert_eq!(agent.refused(Frame::Open { rid: Rid([3; 16]), ttl: 0 }).await, Code::BadFrame);
}

#[tokio::test]
async fn numbers_out_of_order_and_too_many_unread_are_refused() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    assert_eq!(device.refused(forward(1, 2, 0, "a gap")).await, Code::BadFrame);
    assert_eq!(device.refused(forward(1, 1, 5, "acks what was never sent")).await, Code::BadFrame);
    for seq in 1..=MAX_UNACKED as u32 {
        device.send(forward(1, seq, 0, "x")).await;
    }
    assert_eq!(device.refused(forward(1, 17, 0, "one more")).await, Code::Rate);
    for seq in 1..=MAX_UNACKED as u32 {
        assert_eq!(agent.frame().await, forward(1, seq, 0, "x"));
    }
    agent.send(Frame::ForwardAck { rid: Rid([1; 16]), ack: 16 }).await;
    device.frame().await;
    device.send(forward(1, 17, 0, "now")).await;
    assert_eq!(agent.frame().await, forward(1, 17, 0, "now"));
}

#[tokio::test]
async fn the_largest_message_passes() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let (mut agent, _, mut device, _) = paired(&relay, &computer, &phone, 1).await;
    let message = Frame::Forward { rid: Rid([1; 16]), seq: 1, ack: 0, bytes: Bytes::from(vec![7; 8_000]) };
    device.send(message.clone()).await;
    assert_eq!(agent.frame().await, message);
}
