//! Two relays of one region, on a real Redis: what counts and is seen for both together.

use std::{num::NonZeroU32, sync::Arc};

use gatepass_protocol::{Code, channel::Channel, frame::Frame, ids::DeviceId, presence::Who, testing::Tenant};
use gatepass_relay::testing::{
    Tenancy, TestRelay,
    redis::{Server, eventually},
};

use crate::{
    client::{Client, Heard, open},
    presence::{Lights, look},
};

async fn two_relays(tenancy: &Arc<Tenancy>, redis: &Server, limit: u32) -> [TestRelay; 2] {
    let start = async || {
        let relay = TestRelay::with(tenancy.clone(), |config| {
            config.backplane = redis.backplane();
            config.limits.tenant_connections = NonZeroU32::new(limit).expect("not zero");
            config.limits.tenant_pairings = NonZeroU32::new(2).expect("not zero");
        })
        .await;
        eventually("Redis is reached", async || relay.relay.issues_tickets().then_some(())).await;
        relay
    };
    [start().await, start().await]
}

#[tokio::test]
async fn a_phone_at_one_relay_sees_the_computers_at_the_other() {
    let (mut tenant, redis) = (Tenant::new(1), Server::start(&[]).await);
    let [a, b] = two_relays(&Tenancy::of([tenant.trust()]), &redis, 100).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let own = Who::Device(DeviceId(phone.statement().subject));
    let agent = Client::connect(&a, &computer).await;
    let (mut device, mut lights) = (Client::connect(&b, &phone).await, Lights::default());
    look(&mut device, &tenant).await;
    lights.become_those(&mut device, &[Who::Computer(computer.computer()), own]).await;
    drop(agent);
    lights.become_those(&mut device, &[own]).await;
}

#[tokio::test]
async fn a_tenant_has_so_many_connections_and_pairings_in_the_whole_region() {
    let (mut tenant, redis) = (Tenant::new(1), Server::start(&[]).await);
    let relays = two_relays(&Tenancy::of([tenant.trust()]), &redis, 4).await;
    let computer = tenant.computer();
    let mut agents = vec![];
    for relay in relays.iter().cycle().take(4) {
        agents.push(Client::connect(relay, &computer).await);
    }
    for relay in &relays {
        let mut fifth = Client::unauthenticated(relay).await;
        let answer = fifth.authenticate(&computer).await;
        assert!(matches!(answer, Heard::Frame(Frame::Err { code: Code::Quota, .. })), "{answer:?}");
    }
    agents[0].open(1).await;
    agents[1].open(2).await;
    assert_eq!(agents[2].refused(open(3)).await, Code::Quota);
    agents[0].send(Frame::Close { rid: gatepass_protocol::ids::Rid([1; 16]) }).await;
    agents[0].caught_up().await;
    // Its share is free at its own relay at once, and at the other before long.
    agents[2].open(4).await;
}

#[tokio::test]
async fn a_computer_that_comes_back_to_the_other_relay_goes_on_where_it_was() {
    let (mut tenant, redis) = (Tenant::new(1), Server::start(&[]).await);
    let [a, b] = two_relays(&Tenancy::of([tenant.trust()]), &redis, 100).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let on = Channel::Computer(computer.computer());
    let subscribe = |since| Frame::Subscribe { channel: on.to_string(), since };
    let mut agent = Client::connect(&a, &computer).await;
    let mut device = Client::connect(&b, &phone).await;
    let Frame::Subscribed { place, .. } = agent.ask(subscribe(None)).await else { panic!("not subscribed") };
    drop(agent);
    for id in 1..=3 {
        let publish = Frame::Publish { id, channel: on.to_string(), bytes: vec![id as u8].into() };
        assert!(matches!(device.ask(publish).await, Frame::Ack { .. }));
    }
    let mut agent = Client::connect(&b, &computer).await;
    let answer = agent.ask(subscribe(Some(place))).await;
    assert!(matches!(answer, Frame::Subscribed { complete: true, following: 3, .. }), "{answer:?}");
    for id in 1..=3 {
        let expected = vec![id as u8];
        assert!(matches!(agent.frame().await, Frame::Message { bytes, .. } if bytes == expected));
    }
}
