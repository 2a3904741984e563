//! Who is online, as a phone of the tenant sees it.

use std::collections::BTreeSet;

use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::Frame,
    ids::DeviceId,
    presence::{Presence, Who},
    testing::Tenant,
};
use gatepass_relay::testing::{Tenancy, TestRelay};

use crate::client::{Client, eventually};

/// What a phone knows.
#[derive(Default)]
pub(crate) struct Lights(BTreeSet<Who>);

impl Lights {
    fn hear(&mut self, bytes: &[u8]) {
        let Presence { whole, online, offline } = Presence::decode(bytes).expect("a list");
        self.0.retain(|who| !whole.is_some_and(|span| span.contains(*who)) && !offline.contains(who));
        self.0.extend(online);
    }

    /// Listens until exactly these are on.
    pub(crate) async fn become_those(&mut self, phone: &mut Client, expected: &[Who]) {
        let expected: BTreeSet<Who> = expected.iter().copied().collect();
        while self.0 != expected {
            let Frame::Message { bytes, .. } = phone.frame().await else { panic!("not a message") };
            self.hear(&bytes);
        }
    }
}

/// Asks a relay who is online.
pub(crate) async fn look(phone: &mut Client, tenant: &Tenant) {
    phone.subscribe(Channel::Presence(tenant.id)).await;
}

#[tokio::test]
async fn a_technician_sees_which_computers_are_on_and_which_go_off() {
    let (mut tenant, mut other) = (Tenant::new(1), Tenant::new(2));
    let relay = TestRelay::start(Tenancy::of([tenant.trust(), other.trust()])).await;
    let (computer, late, phone) = (tenant.computer(), tenant.computer(), tenant.phone(1).identity);
    let on = |id| Who::Computer(id);
    let own = Who::Device(DeviceId(phone.statement().subject));
    let agent = Client::connect(&relay, &computer).await;
    let _stranger = Client::connect(&relay, &other.computer()).await;
    let (mut device, mut lights) = (Client::connect(&relay, &phone).await, Lights::default());
    look(&mut device, &tenant).await;
    lights.become_those(&mut device, &[on(computer.computer()), own]).await;
    let second = Client::connect(&relay, &late).await;
    lights.become_those(&mut device, &[on(computer.computer()), on(late.computer()), own]).await;
    drop(agent);
    lights.become_those(&mut device, &[on(late.computer()), own]).await;
    drop(second);
    lights.become_those(&mut device, &[own]).await;
    device.send(Frame::Unsubscribe { channel: Channel::Presence(tenant.id).to_string() }).await;
    let _agent = Client::connect(&relay, &computer).await;
    eventually(|| relay.relay.metrics().connections.get() == 3).await;
    device.silent().await;
}

#[tokio::test]
async fn computers_do_not_see_each_other_and_nobody_sees_another_tenants() {
    let (mut tenant, other) = (Tenant::new(1), Tenant::new(2));
    let relay = TestRelay::start(Tenancy::of([tenant.trust(), other.trust()])).await;
    let presence =
        |tenant: &Tenant| Frame::Subscribe { channel: Channel::Presence(tenant.id).to_string(), since: None };
    let mut agent = Client::connect(&relay, &tenant.computer()).await;
    assert_eq!(agent.refused(presence(&tenant)).await, Code::NotAllowed);
    let mut device = Client::connect(&relay, &tenant.phone(1).identity).await;
    assert_eq!(device.refused(presence(&other)).await, Code::NotAllowed);
    let publish = Frame::Publish { id: 1, channel: Channel::Presence(tenant.id).to_string(), bytes: vec![0].into() };
    assert_eq!(device.refused(publish).await, Code::NotAllowed);
}

#[tokio::test]
async fn a_phone_that_does_not_listen_for_a_while_has_the_whole_list_afterwards() {
    const COMPUTERS: usize = 500;
    let mut tenant = Tenant::new(1);
    // Room for two messages that wait.
    let relay = TestRelay::with(Tenancy::of([tenant.trust()]), |config| config.limits.presence_messages = 2).await;
    let phone = tenant.phone(1).identity;
    let (mut device, mut lights) = (Client::connect(&relay, &phone).await, Lights::default());
    look(&mut device, &tenant).await;
    let (mut agents, mut all) = (vec![], vec![Who::Device(DeviceId(phone.statement().subject))]);
    for _ in 0..COMPUTERS {
        let computer = tenant.computer();
        all.push(Who::Computer(computer.computer()));
        agents.push(Client::connect(&relay, &computer).await);
    }
    lights.become_those(&mut device, &all).await;
    let gone: Vec<Client> = agents.drain(..COMPUTERS / 2).collect();
    drop(gone);
    let left = [&all[..1], &all[1 + COMPUTERS / 2..]].concat();
    lights.become_those(&mut device, &left).await;
}
