//! What a relay does for a socket, a frame and a message, each by itself: timed by the bench `relay`, and its instructions
//! counted by `benches/instructions`.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use gatepass_protocol::{
    channel::Channel,
    frame::{Frame, MAX_TTL, return_mac},
    ids::{ComputerId, DeviceId, Rid, Serial, TenantId},
    testing::{NOW, Tenant},
};
use gatepass_relay::{
    auth::authenticate,
    peer::{Identity, Principal},
    testing::{
        Tenancy,
        inside::{Client, Inside, Pass, device},
        proof,
    },
};
use tokio::{runtime::Runtime, task::yield_now};

/// One piece of work of a relay.
pub trait Operation {
    /// What clients do for it before, which does not count.
    fn prepare(&mut self) {}

    /// The work.
    fn run(&mut self);

    /// How much of it that is.
    fn units(&self) -> u64 {
        1
    }
}

/// An operation's name, and what makes one.
pub type Named = (&'static str, fn() -> Box<dyn Operation>);

/// All of them, by name.
pub const OPERATIONS: [Named; 12] = [
    ("fan-out to 1,000: a delivery", || Box::new(FanOut::to(1_000))),
    ("fan-out to 10: a delivery", || Box::new(FanOut::to(10))),
    ("mailbox: a forward and its acknowledgement", || Box::new(Mailbox::new())),
    ("ticket: a check", || Box::new(Ticket::new())),
    ("ticket: a new one", || Box::new(NewTicket::new())),
    ("admission: a socket", || Box::new(Sockets::new())),
    ("admission: a request for a WebSocket", || Box::new(Upgrade::new())),
    ("admission: a certificate of the CA and its proof", || Box::new(Certificate::new(Tenant::computer))),
    ("admission: a certificate by ticket and its proof", || Box::new(Certificate::new(Tenant::computer_by_ticket))),
    ("rates: a client that comes", || Box::new(Passes::new())),
    ("rates: a frame", || Box::new(Asking::new(|pass| pass.frame(256)))),
    ("rates: a publish", || Box::new(Asking::new(Pass::publish))),
];

const TENANT: TenantId = TenantId([1; 16]);
const RELAY: &str = "127.0.0.1:8443";
const NONCE: [u8; 32] = [7; 32];
/// Of what is over in less time than looking at the clock takes.
const MANY: u64 = 1_000;
/// Bytes of a message: a small bulletin, or a step of a pairing.
const MESSAGE: usize = 200;

/// A relay, and the thread that it has for itself.
struct Scene {
    runtime: Runtime,
    relay: Inside,
}

impl Scene {
    fn new(tenancy: Arc<Tenancy>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let relay = runtime.block_on(Inside::new(tenancy));
        Self { runtime, relay }
    }

    fn client(&self, identity: Identity) -> Client {
        self.runtime.block_on(self.relay.client(identity)).unwrap()
    }

    fn say(&self, client: &Client, frame: &Frame) {
        assert!(self.runtime.block_on(client.say(frame.encode().into())));
    }
}

fn computer() -> Identity {
    Identity { principal: Principal::Agent(ComputerId([9; 16])), certificate: Serial([9; 16]), ..device(TENANT, 9) }
}

/// A computer speaks to a phone, on which so many connections listen.
struct FanOut {
    scene: Scene,
    publisher: Client,
    listeners: Vec<Client>,
    message: Bytes,
}

impl FanOut {
    fn to(listeners: usize) -> Self {
        let scene = Scene::new(Tenancy::of([]));
        let channel = Channel::Device(DeviceId([1; 16])).to_string();
        let listeners = (0..listeners).map(|_| {
            let listener = scene.client(device(TENANT, 1));
            scene.say(&listener, &Frame::Subscribe { channel: channel.clone(), since: None });
            listener
        });
        let listeners = listeners.collect();
        let publisher = scene.client(computer());
        let message = Frame::Publish { id: 1, channel, bytes: vec![5; MESSAGE].into() }.encode().into();
        Self { scene, publisher, listeners, message }
    }
}

impl Operation for FanOut {
    fn prepare(&mut self) {
        for client in self.listeners.iter_mut().chain([&mut self.publisher]) {
            client.heard().unwrap();
        }
    }

    fn run(&mut self) {
        let Scene { runtime, relay } = &self.scene;
        let all = relay.delivered() + self.listeners.len() as u64;
        runtime.block_on(async {
            assert!(self.publisher.say(self.message.clone()).await);
            while relay.delivered() < all {
                yield_now().await;
            }
        });
    }

    fn units(&self) -> u64 {
        self.listeners.len() as u64
    }
}

/// A phone's message to a computer, which says that it came.
struct Mailbox {
    scene: Scene,
    agent: Client,
    phone: Client,
    seq: u32,
    /// The next message and its acknowledgement.
    frames: (Bytes, Bytes),
    /// The last ones.
    said: (Bytes, Bytes),
}

const PAIRING: Rid = Rid([3; 16]);

impl Mailbox {
    fn new() -> Self {
        let scene = Scene::new(Tenancy::of([]));
        let (agent, phone) = (scene.client(computer()), scene.client(device(TENANT, 1)));
        scene.say(&agent, &Frame::Open { rid: PAIRING, ttl: MAX_TTL });
        scene.say(&phone, &Frame::Claim { rid: PAIRING, n: [1; 16], tag: [2; 16] });
        let (frames, said) = Default::default();
        Self { scene, agent, phone, seq: 0, frames, said }
    }
}

impl Operation for Mailbox {
    fn prepare(&mut self) {
        // What the relay left to do behind a message has its turn.
        self.scene.runtime.block_on(yield_now());
        let (forwarded, acked) = (self.agent.heard().unwrap(), self.phone.heard().unwrap());
        assert!(forwarded.ends_with(&self.said.0) && acked.ends_with(&self.said.1), "the last round was lost");
        self.seq += 1;
        let forward = Frame::Forward { rid: PAIRING, seq: self.seq, ack: 0, bytes: vec![5; MESSAGE].into() };
        let ack = Frame::ForwardAck { rid: PAIRING, ack: self.seq };
        self.frames = (forward.encode().into(), ack.encode().into());
        self.said = self.frames.clone();
    }

    fn run(&mut self) {
        let _inside = self.scene.runtime.enter();
        let (forward, ack) = std::mem::take(&mut self.frames);
        // Nothing of this waits for anything.
        assert!(self.phone.say(forward).now_or_never().unwrap());
        assert!(self.agent.say(ack).now_or_never().unwrap());
    }
}

/// A client comes back.
struct Ticket {
    scene: Scene,
    ticket: Bytes,
    mac: [u8; 32],
}

impl Ticket {
    fn new() -> Self {
        let mut tenant = Tenant::new(1);
        let tenancy = Tenancy::of([tenant.trust()]);
        let who = identity_of(&tenancy, &tenant.computer());
        let scene = Scene::new(tenancy);
        let (ticket, secret) = scene.relay.ticket(&who).unwrap();
        Self { scene, ticket, mac: return_mac(&secret, &NONCE, RELAY) }
    }
}

impl Operation for Ticket {
    fn run(&mut self) {
        assert!(self.scene.relay.returned(&self.ticket, RELAY, &self.mac, &NONCE).is_some());
    }
}

/// A client is given a ticket.
struct NewTicket {
    scene: Scene,
    who: Identity,
}

impl NewTicket {
    fn new() -> Self {
        let mut tenant = Tenant::new(1);
        let tenancy = Tenancy::of([tenant.trust()]);
        let who = identity_of(&tenancy, &tenant.computer());
        Self { scene: Scene::new(tenancy), who }
    }
}

impl Operation for NewTicket {
    fn run(&mut self) {
        assert!(self.scene.relay.ticket(&self.who).is_some());
    }
}

fn names() -> Vec<String> {
    vec!["127.0.0.1".to_owned()]
}

fn identity_of(tenancy: &Tenancy, agent: &gatepass_protocol::pairing::agent::AgentIdentity) -> Identity {
    let proof = proof(&agent.sign, NONCE, RELAY);
    authenticate(tenancy, &names(), &NONCE, &proof, &agent.chain, NOW).unwrap()
}

/// Sockets of many addresses are accepted.
struct Sockets {
    scene: Scene,
    next: u32,
}

impl Sockets {
    fn new() -> Self {
        Self { scene: Scene::new(Tenancy::of([])), next: 0 }
    }
}

impl Operation for Sockets {
    fn run(&mut self) {
        for _ in 0..MANY {
            self.next += 1;
            assert!(self.scene.relay.admits(Ipv4Addr::from(0x0a00_0000 + self.next % 65_536).into()));
        }
    }

    fn units(&self) -> u64 {
        MANY
    }
}

/// A socket's first request, as our clients send it.
struct Upgrade(Scene);

const REQUEST: &[u8] = b"GET /v1/ws HTTP/1.1\r\nHost: relay.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Upgrade {
    fn new() -> Self {
        Self(Scene::new(Tenancy::of([])))
    }
}

impl Operation for Upgrade {
    fn run(&mut self) {
        assert!(self.0.relay.answer(REQUEST).is_some());
    }
}

/// A computer authenticates.
struct Certificate {
    tenancy: Arc<Tenancy>,
    names: Vec<String>,
    proof: Bytes,
    chain: Vec<Bytes>,
}

impl Certificate {
    fn new(computer: fn(&mut Tenant) -> gatepass_protocol::pairing::agent::AgentIdentity) -> Self {
        let mut tenant = Tenant::new(1);
        let agent = computer(&mut tenant);
        let proof = proof(&agent.sign, NONCE, RELAY);
        Self { tenancy: Tenancy::of([tenant.trust()]), names: names(), proof, chain: agent.chain }
    }
}

impl Operation for Certificate {
    fn run(&mut self) {
        let checked = authenticate(self.tenancy.as_ref(), &self.names, &NONCE, &self.proof, &self.chain, NOW);
        assert!(checked.is_ok());
    }
}

/// Clients of one tenant are given their passes, and leave.
struct Passes {
    scene: Scene,
    next: u8,
}

impl Passes {
    fn new() -> Self {
        Self { scene: Scene::new(Tenancy::of([])), next: 0 }
    }
}

impl Operation for Passes {
    fn run(&mut self) {
        for _ in 0..MANY {
            self.next = self.next.wrapping_add(1);
            assert!(self.scene.relay.pass(&device(TENANT, self.next)).is_some());
        }
    }

    fn units(&self) -> u64 {
        MANY
    }
}

/// A connection asks for things.
struct Asking {
    pass: Pass,
    ask: fn(&Pass) -> bool,
}

impl Asking {
    fn new(ask: fn(&Pass) -> bool) -> Self {
        let pass = Scene::new(Tenancy::of([])).relay.pass(&device(TENANT, 1)).unwrap();
        Self { pass, ask }
    }
}

impl Operation for Asking {
    fn run(&mut self) {
        for _ in 0..MANY {
            assert!((self.ask)(&self.pass));
        }
    }

    fn units(&self) -> u64 {
        MANY
    }
}
