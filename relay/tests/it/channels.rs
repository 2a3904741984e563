//! Channels: who may hear and say what, and what reaches whom.

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::{Bulletin, Channel},
    frame::{Frame, Place},
    ids::{ComputerId, DeviceId, Serial, TenantId},
    statement::Kind,
    testing::Tenant,
};
use gatepass_relay::{
    metrics::ChannelResume,
    testing::{Tenancy, TestRelay},
};

use crate::client::{Client, Heard, eventually};

fn publish(id: u32, to: Channel, text: &str) -> Frame {
    Frame::Publish { id, channel: to.to_string(), bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

fn message(on: Channel, offset: u64, bytes: impl Into<Bytes>) -> Frame {
    Frame::Message { channel: on.to_string(), offset, bytes: bytes.into() }
}

fn subscribe(to: Channel) -> Frame {
    Frame::Subscribe { channel: to.to_string(), since: None }
}

#[tokio::test]
async fn an_order_reaches_the_computer_and_the_report_comes_back() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let to_computer = Channel::Computer(computer.computer());
    let to_device = Channel::Device(DeviceId(phone.statement().subject));
    let mut agent = Client::connect(&relay, &computer).await;
    let mut device = Client::connect(&relay, &phone).await;
    assert_eq!(
        device.ask(publish(7, to_computer, "anybody?")).await,
        Frame::Ack { id: 7, delivered: 0 },
        "nobody listens"
    );
    let offset = agent.subscribe(to_computer).await;
    device.subscribe(to_device).await;
    assert_eq!(device.ask(publish(8, to_computer, "end grant 1")).await, Frame::Ack { id: 8, delivered: 1 });
    assert_eq!(agent.frame().await, message(to_computer, offset + 1, "end grant 1"));
    agent.send(publish(1, to_device, "ended")).await;
    assert_eq!(agent.frame().await, Frame::Ack { id: 1, delivered: 1 });
    assert!(matches!(device.frame().await, Frame::Message { bytes, .. } if bytes == "ended"));

    agent.send(Frame::Unsubscribe { channel: to_computer.to_string() }).await;
    agent.silent().await;
    assert_eq!(device.ask(publish(9, to_computer, "late")).await, Frame::Ack { id: 9, delivered: 0 });
    eventually(|| relay.relay.metrics().channels.get() == 1).await;
}

#[tokio::test]
async fn both_connections_of_a_computer_hear_it_and_the_one_that_left_does_not_count() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let mut old = Client::connect(&relay, &computer).await;
    let mut new = Client::connect(&relay, &computer).await;
    let mut device = Client::connect(&relay, &phone).await;
    old.subscribe(on).await;
    new.subscribe(on).await;
    new.subscribe(on).await;
    assert_eq!(device.ask(publish(1, on, "x")).await, Frame::Ack { id: 1, delivered: 2 });
    drop(old);
    eventually(|| relay.relay.metrics().connections.get() == 2).await;
    assert_eq!(device.ask(publish(2, on, "y")).await, Frame::Ack { id: 2, delivered: 1 });
    drop(new);
    eventually(|| relay.relay.metrics().channels.get() == 0).await;
    assert_eq!(device.ask(publish(3, on, "z")).await, Frame::Ack { id: 3, delivered: 0 });
}

#[tokio::test]
async fn nobody_listens_or_speaks_where_it_has_no_right() {
    let (mut tenant, mut other) = (Tenant::new(1), Tenant::new(2));
    let relay = TestRelay::start(Tenancy::of([tenant.trust(), other.trust()])).await;
    let (computer, neighbour) = (tenant.computer(), tenant.computer());
    let (phone, foreign) = (tenant.phone(1).identity, other.phone(1).identity);
    let on_computer = Channel::Computer(computer.computer());
    let on_device = Channel::Device(DeviceId(phone.statement().subject));
    let mut agent = Client::connect(&relay, &neighbour).await;
    let mut device = Client::connect(&relay, &phone).await;
    let mut stranger = Client::connect(&relay, &foreign).await;
    let mut owner = Client::connect(&relay, &computer).await;
    owner.subscribe(on_computer).await;

    let own_tenant = Channel::Tenant(tenant.id);
    for forbidden in [
        subscribe(on_computer),
        subscribe(on_device),
        subscribe(Channel::Tenant(other.id)),
        publish(1, on_computer, "as a computer"),
        publish(1, own_tenant, "as the server"),
    ] {
        assert_eq!(agent.refused(forbidden.clone()).await, Code::NotAllowed, "agent: {forbidden:?}");
    }
    for forbidden in [
        subscribe(on_computer),
        subscribe(Channel::Device(DeviceId([9; 16]))),
        publish(1, on_device, "to another phone"),
        publish(1, own_tenant, "as the server"),
    ] {
        assert_eq!(device.refused(forbidden.clone()).await, Code::NotAllowed, "device: {forbidden:?}");
    }
    for name in ["", "computer", "computer/zz", "pair/00", "tenant/../..", "COMPUTER/00000000000000000000000000000000"]
    {
        let frame = Frame::Subscribe { channel: name.into(), since: None };
        assert_eq!(agent.refused(frame).await, Code::Unknown, "{name}");
    }
    assert!(matches!(
        agent.ask(Frame::Publish { id: 5, channel: "nowhere".into(), bytes: Bytes::new() }).await,
        Frame::Err { code: Code::Unknown, id: Some(5), .. }
    ));
    // The same name in another tenant is another channel.
    assert_eq!(stranger.ask(publish(2, on_computer, "evil")).await, Frame::Ack { id: 2, delivered: 0 });
    owner.silent().await;
}

#[tokio::test]
async fn whoever_comes_late_gets_the_newest_statement_of_each_kind_first() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let on = Channel::Tenant(tenant.id);
    let (old, new) = (tenant.policy(1, true), tenant.policy(2, true));
    let list = tenant.revocation(1, vec![]);
    for statement in [&old, &list, &new] {
        relay.announce(statement).await;
    }
    let mut agent = Client::connect(&relay, &tenant.computer()).await;
    let offset = agent.subscribe(on).await;
    let bulletin = |kind, epoch, statement: &Bytes| Bulletin::new(kind, epoch, statement.clone()).encode();
    assert_eq!(agent.frame().await, message(on, 2, bulletin(Kind::Revocation, 1, &list)));
    assert_eq!(agent.frame().await, message(on, 3, bulletin(Kind::Policy, 2, &new)));
    agent.silent().await;
    let newest = tenant.revocation(2, vec![Serial([9; 16])]);
    relay.announce(&newest).await;
    assert_eq!(agent.frame().await, message(on, offset + 1, bulletin(Kind::Revocation, 2, &newest)));
    let mut other = Client::connect(&relay, &Tenant::new(1).computer()).await;
    assert!(other.subscribe(on).await > offset, "another computer of the same tenant");
}

/// Cut, and back where it was.
async fn since(agent: &mut Client, on: Channel, since: Place) -> (Place, bool, u32) {
    match agent.ask(Frame::Subscribe { channel: on.to_string(), since: Some(since) }).await {
        Frame::Subscribed { place, complete, following, .. } => (place, complete, following),
        other => panic!("not subscribed: {other:?}"),
    }
}

#[tokio::test]
async fn whoever_was_away_gets_what_it_missed_or_is_told_that_it_must_fetch() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    // Another connection keeps the channel, as on another day a minute does.
    let mut keeper = Client::connect(&relay, &computer).await;
    let mut agent = Client::connect(&relay, &computer).await;
    let mut device = Client::connect(&relay, &phone).await;
    keeper.subscribe(on).await;
    let Frame::Subscribed { place, complete: true, following: 0, .. } = agent.ask(subscribe(on)).await else {
        panic!()
    };
    device.ask(publish(1, on, "one")).await;
    assert_eq!(agent.frame().await, message(on, place.offset + 1, "one"));
    let heard = Place { offset: place.offset + 1, ..place };
    drop(agent);
    for text in ["two", "three"] {
        device.ask(publish(2, on, text)).await;
    }
    let mut agent = Client::connect(&relay, &computer).await;
    let now = Place { offset: heard.offset + 2, ..place };
    assert_eq!(since(&mut agent, on, heard).await, (now, true, 2));
    assert_eq!(agent.frame().await, message(on, heard.offset + 1, "two"));
    assert_eq!(agent.frame().await, message(on, heard.offset + 2, "three"));
    assert_eq!(since(&mut agent, on, now).await, (now, true, 0), "nothing was missed");
    let other = Place { epoch: place.epoch ^ 1, ..now };
    assert_eq!(since(&mut agent, on, other).await, (now, false, 0), "of another count");
    let ahead = Place { offset: now.offset + 1, ..now };
    assert_eq!(since(&mut agent, on, ahead).await, (now, false, 0), "what was never said can't have been heard");
    let large = "x".repeat(8_000);
    for _ in 0..64 {
        device.ask(publish(3, on, &large)).await;
    }
    let mut agent = Client::connect(&relay, &computer).await;
    let end = Place { offset: now.offset + 64, ..now };
    assert_eq!(since(&mut agent, on, now).await, (end, false, 0), "more than the queue of a slow reader holds");
    let last = Place { offset: end.offset - 1, ..end };
    assert_eq!(since(&mut agent, on, last).await, (end, true, 1));
    let metrics = relay.relay.metrics();
    assert_eq!(metrics.channel_resumes.of(ChannelResume::Complete).get(), 3);
    assert_eq!(metrics.channel_resumes.of(ChannelResume::Refetch).get(), 3);
}

#[tokio::test]
async fn a_computer_that_was_away_hears_at_once_what_was_revoked() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, on) = (tenant.computer(), Channel::Tenant(tenant.id));
    let mut agent = Client::connect(&relay, &computer).await;
    relay.announce(&tenant.revocation(1, vec![])).await;
    let Frame::Subscribed { place, following: 1, .. } = agent.ask(subscribe(on)).await else { panic!() };
    drop(agent);
    relay.announce(&tenant.policy(1, true)).await;
    let newest = tenant.revocation(2, vec![Serial([9; 16])]);
    relay.announce(&newest).await;
    let mut agent = Client::connect(&relay, &computer).await;
    assert!(matches!(since(&mut agent, on, place).await, (_, true, 2)));
    assert!(
        matches!(agent.frame().await, Frame::Message { bytes, .. } if Bulletin::decode(&bytes).unwrap().kind == Kind::Policy)
    );
    let revoked = Bulletin::new(Kind::Revocation, 2, newest).encode();
    assert_eq!(agent.frame().await, message(on, place.offset + 2, revoked));
    // Without a place that is known, it is the newest of each kind.
    let mut agent = Client::connect(&relay, &computer).await;
    let unknown = Place { epoch: 1, offset: 1 };
    assert!(matches!(since(&mut agent, on, unknown).await, (_, false, 2)));
}

#[tokio::test]
async fn a_revoked_phone_is_told_and_put_out_and_not_let_in_again() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = Client::connect(&relay, &computer).await;
    let mut device = Client::connect(&relay, &phone).await;
    device.subscribe(Channel::Tenant(tenant.id)).await;
    let list = tenant.revocation(1, vec![Serial(phone.statement().subject)]);
    relay.announce(&list).await;
    assert!(matches!(device.frame().await, Frame::Message { .. }), "it hears the list");
    assert!(matches!(device.frame().await, Frame::Err { code: Code::Revoked, .. }));
    assert_eq!(device.hear().await, Heard::Closed(Some(1008)));
    agent.silent().await;
    let mut again = Client::unauthenticated(&relay).await;
    let answer = again.authenticate(&phone).await;
    assert!(matches!(answer, Heard::Frame(Frame::Err { code: Code::Revoked, .. })), "{answer:?}");
    assert_eq!(again.hear().await, Heard::Closed(Some(1008)));
}

#[tokio::test]
async fn a_thousand_computers_hear_one_statement_and_all_in_order() {
    const COMPUTERS: usize = 300;
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let on = Channel::Tenant(tenant.id);
    let computer = tenant.computer();
    let mut agents = Vec::new();
    for _ in 0..COMPUTERS {
        let mut agent = Client::connect(&relay, &computer).await;
        agent.subscribe(on).await;
        agents.push(agent);
    }
    for epoch in 1..=5 {
        relay.announce(&tenant.revocation(epoch, vec![])).await;
    }
    for agent in &mut agents {
        for expected in 1..=5 {
            let Frame::Message { offset, bytes, .. } = agent.frame().await else { panic!("no message") };
            assert_eq!((offset, Bulletin::decode(&bytes).unwrap().epoch), (expected, expected));
        }
    }
    assert_eq!(relay.relay.metrics().delivered.get(), 5 * COMPUTERS as u64);
}

#[tokio::test]
async fn what_does_not_fit_into_a_message_is_refused_to_its_sender() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let computer = tenant.computer();
    let on = Channel::Computer(computer.computer());
    let mut agent = Client::connect(&relay, &computer).await;
    agent.subscribe(on).await;
    let mut device = Client::connect(&relay, &tenant.phone(1).identity).await;
    let publish = |id, size| Frame::Publish { id, channel: on.to_string(), bytes: Bytes::from(vec![7; size]) };
    assert!(matches!(device.ask(publish(3, 8_129)).await, Frame::Err { code: Code::Size, id: Some(3), .. }));
    assert_eq!(device.ask(publish(4, 8_128)).await, Frame::Ack { id: 4, delivered: 1 });
    assert!(matches!(agent.frame().await, Frame::Message { bytes, .. } if bytes.len() == 8_128));
}

#[test]
fn channels_of_two_kinds_with_one_id_are_two() {
    assert_ne!(Channel::Computer(ComputerId([1; 16])).to_string(), Channel::Tenant(TenantId([1; 16])).to_string());
}
