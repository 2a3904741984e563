//! A tenant with a real relay, and the agent's side of the protocol, for phones to meet.

use std::sync::Arc;

use bytes::Bytes;
use gatepass_client::{Connection, Incoming, Proxies, Settings, Tls, edge};
use gatepass_protocol::{
    channel::Channel,
    ids::{DeviceId, GrantId, Serial, TechnicianId},
    keys::{PublicKey, SigningKey},
    order::{EndReason, Letter, Order, Receipt, Report, Verified},
    pairing::{
        agent::{AgentIdentity, Approved, Identified, Offer, Verdict},
        messages::Context,
    },
    policy::{AccountKind, Question, Scenario},
    sealed,
    signed::{Signed, Unverified},
    statement::KeyUse,
    testing::{Tenant, context},
    trust::TrustStore,
};
use gatepass_relay::{
    system_clock,
    testing::{Tenancy, TestRelay},
};

/// The grant of every test.
pub(crate) const GRANT: GrantId = GrantId([0xab; 16]);

/// A tenant and its relay.
pub(crate) struct World {
    pub(crate) tenant: Tenant,
    pub(crate) relay: TestRelay,
}

/// The agent of a computer `web-01`, connected.
pub(crate) struct Agent {
    pub(crate) computer: AgentIdentity,
    pub(crate) connection: Connection,
    pub(crate) trust: TrustStore,
}

impl World {
    pub(crate) async fn new() -> (Self, Agent) {
        let mut tenant = Tenant::at(1, edge::now());
        let relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), |_| {}, system_clock()).await;
        let (computer, trust) = (tenant.computer(), tenant.trust_with_policy());
        let world = Self { tenant, relay };
        let connection = world.connect(&computer.chain, &computer.sign);
        connection.sender().online().await.unwrap();
        (world, Agent { computer, connection, trust })
    }

    pub(crate) fn connect(&self, chain: &[Bytes], key: &SigningKey) -> Connection {
        Connection::start(Settings {
            relays: vec![self.relay.url().parse().unwrap()],
            tls: Tls::system().unwrap(),
            proxies: Proxies::none(),
            chain: chain.to_vec(),
            key: Arc::new(SigningKey::from_seed(&key.seed())),
        })
    }
}

impl Agent {
    /// A code on the screen.
    pub(crate) async fn offer(&self) -> Offer {
        let offer = Offer::new(0, self.trust.tenant(), edge::now(), &mut edge::rng());
        self.connection.sender().open(offer.rid(), 60).await.unwrap();
        offer
    }

    async fn forwarded(&mut self) -> Bytes {
        loop {
            match self.connection.next().await.unwrap() {
                Incoming::Forwarded { bytes, .. } => return bytes,
                Incoming::Closed { code, .. } => panic!("closed: {code:?}"),
                _ => {}
            }
        }
    }

    /// Handshake with whoever claims.
    pub(crate) async fn identify(&mut self, offer: Offer) -> Identified {
        let rid = offer.rid();
        let Some(Incoming::Claimed { nonce, tag, .. }) = self.connection.next().await else { panic!("no claim") };
        let claimed = offer.claim(&nonce, &tag, edge::now()).unwrap();
        let m1 = self.forwarded().await;
        let (state, m2) = claimed.receive(&m1, &self.computer, &mut edge::rng()).unwrap();
        self.connection.sender().forward(rid, m2).await.unwrap();
        let m3 = self.forwarded().await;
        state.receive(&m3, &self.trust, edge::now()).unwrap()
    }

    /// Asks an ordinary question, changed by the test, and judges what comes back.
    pub(crate) async fn decide_about(&mut self, offer: Offer, change: impl FnOnce(&mut Context)) -> Verdict {
        let rid = offer.rid();
        let identified = self.identify(offer).await;
        let terms = identified.device().terms().clone();
        let question = Question {
            technician: terms.technician,
            protection: terms.protection,
            computer: self.computer.computer(),
            tags: &[],
            scenario: Scenario::Ssh,
        };
        let choices = self.trust.policy().unwrap().terms().choices(&question);
        let now = edge::now();
        let mut context = Context { time: now, expires: now + 60, ..context(&self.computer, &self.trust, choices) };
        change(&mut context);
        let (state, m4) = identified.ask(context).unwrap();
        self.connection.sender().forward(rid, m4).await.unwrap();
        let m5 = self.forwarded().await;
        state.receive(&m5, &self.computer, &self.trust, now).unwrap_or_else(|failure| panic!("{failure}"))
    }

    pub(crate) async fn decide(&mut self, offer: Offer) -> Verdict {
        self.decide_about(offer, |_| {}).await
    }

    pub(crate) async fn approved(&mut self, offer: Offer) -> Box<Approved> {
        match self.decide(offer).await {
            Verdict::Approved(approved) => approved,
            Verdict::Denied { .. } => panic!("denied"),
        }
    }

    /// Takes one order as an agent does, and answers that nothing lives any more, with these receipts.
    pub(crate) async fn obey(&mut self, receipts: Vec<Bytes>) -> Order {
        self.connection.sender().subscribe(Channel::Computer(self.computer.computer())).await.unwrap();
        let Some(Incoming::Message { bytes, .. }) = self.connection.next().await else { panic!("no order") };
        let letter = Letter::decode(&sealed::open(&self.computer.channel, &bytes).unwrap()).unwrap();
        let device = self.trust.device(&letter.chain, edge::now()).unwrap();
        let key = device.statement().key(KeyUse::Sign).unwrap();
        let order = Unverified::<Order>::decode(letter.signed).unwrap().verify(&key).unwrap().into_body();
        let id = DeviceId(device.statement().subject);
        let report =
            Report { device: id, answers: Some(Serial(order.nonce)), time: edge::now(), grants: vec![], receipts };
        let signed = Signed::sign(report, &self.computer.sign).unwrap();
        let letter = Letter { chain: self.computer.chain.clone(), signed: signed.bytes().clone() };
        let Some(PublicKey::X25519(to)) = device.statement().key(KeyUse::Channel) else { panic!("no key") };
        let sealed = sealed::seal(&to, &letter.encode(), &mut edge::rng()).unwrap();
        assert_eq!(self.connection.sender().publish(Channel::Device(id), sealed).await.unwrap(), 1);
        order
    }

    /// The receipt of [`GRANT`].
    pub(crate) fn receipt(&self, technician: TechnicianId) -> Bytes {
        let now = edge::now();
        let receipt = Receipt {
            tenant: self.trust.tenant(),
            computer: self.computer.computer(),
            grant: GRANT,
            technician,
            device: Serial([0; 16]),
            scenario: Scenario::Ssh,
            kind: AccountKind::Named,
            account: "gp-alex".into(),
            groups: vec!["sudo".into()],
            since: now - 60,
            ended: now,
            reason: EndReason::Technician,
            verified: Verified { disabled: true, groups_stripped: true, password_rotated: true, sessions_ended: true },
            approval: [0; 32],
        };
        Signed::sign(receipt, &self.computer.sign).unwrap().bytes().clone()
    }
}
