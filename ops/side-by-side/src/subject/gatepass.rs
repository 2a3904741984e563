//! Our relay, as it is delivered: every connection authenticates with a certificate of its own or of its phone.
//!
//! ```text
//! fan-out   many connections of one phone listen to device/ID, a computer speaks on it
//! pairs     computers open pairings, phones claim them, messages go both ways as FWD, acknowledged
//! idle      each a computer of its own, listening to tenant/ID
//! connect   the same computers, with AUTH; and again with RETURN and the ticket that they were given
//! ```

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use gatepass_client::{Endpoint, Settings, Tls, edge};
use gatepass_loadtest::{Fleet, Tenant, tenant::Server as ControlPlane};
use gatepass_protocol::{
    channel::Channel,
    frame::{Frame, MAX_TTL, RelayAuth, return_mac},
    ids::{DeviceId, Rid},
    keys::SigningKey,
    signed::Signed,
};

use super::{Role, Wire};
use crate::{
    message,
    net::{Hearing, Out, Speaker},
    process::{Process, free_address},
};

/// The phone whose connections hear the fan-out, and the computer that speaks to it. Those of pairs are numbered from 1.
const FAN: u32 = 0;
/// The first of the idle computers.
const IDLE: u32 = 100_000;
/// The first bytes of MESSAGE: an array of four, type 14.
const MESSAGE: [u8; 2] = [0x94, 14];

/// A tenant at our relay, in a database that each fresh relay is given.
pub(super) struct Tenancy {
    fleet: Fleet,
    state: PathBuf,
}

impl Tenancy {
    /// Starts the relay once, and makes a tenant as an operator does.
    pub(super) fn new(relay: &Path, folder: &Path) -> anyhow::Result<Self> {
        let state = folder.join("relay-state");
        let (address, _running) = run(relay, &state, Wire::Plain, folder)?;
        let server = ControlPlane {
            url: format!("http://{address}"),
            operator_token: state.join("operator.token"),
            server_ca: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tenant = runtime.block_on(Tenant::create(&server, "bench", &folder.join("tenant")))?;
        Ok(Self { fleet: tenant.fleet(1), state })
    }

    /// A fresh relay that knows the tenant.
    pub(super) fn start(
        &self,
        relay: &Path,
        wire: Wire,
        folder: &Path,
    ) -> anyhow::Result<(SocketAddr, Process, Callers)> {
        let (address, process) = run(relay, &self.state, wire, folder)?;
        let (fleet, certificate) = (self.fleet.clone(), self.state.join("relay.pem"));
        Ok((address, process, Callers { fleet, relay: address.to_string(), certificate, tickets: Tickets::default() }))
    }
}

fn run(relay: &Path, state: &Path, wire: Wire, folder: &Path) -> anyhow::Result<(SocketAddr, Process)> {
    let address = free_address()?;
    let tls = match wire {
        Wire::Plain => "off",
        Wire::Tls => "self-made",
    };
    // Limits that the work here is not meant to meet: everybody comes from one address, and one computer speaks for all.
    let config = format!(
        "[edge]\nlisten = '{address}'\nstate_dir = '{}'
[tls]\nmode = '{tls}'
[limits]\nip_per_second = 1000000\nip_burst = 1000000\npublish_per_second = 1000000\npublish_burst = 1000000
accepts_per_second = 1000000\naccept_burst = 1000000\nclient_connects_per_second = 1000000\nclient_connect_burst = 1000000
tenant_connects_per_second = 1000000\ntenant_connect_burst = 1000000
client_frames_per_second = 1000000\nclient_frame_burst = 1000000
tenant_frames_per_second = 1000000\ntenant_frame_burst = 1000000
tenant_publishes_per_second = 1000000\ntenant_publish_burst = 1000000
tenant_bytes_per_second = 1000000000\ntenant_byte_burst = 1000000000
queue_bytes = 67108864\nqueue_messages = 1000000
[drain]\nspread_seconds = 0
[log]\nfilter = 'warn'
[runtime]\nworkers = 1\n",
        state.display()
    );
    let file = folder.join("relay.toml");
    fs::write(&file, config)?;
    let arguments = |command: &mut Command| {
        command.arg("--config").arg(&file);
    };
    Ok((address, Process::start("gatepass-relay", relay, arguments, folder, address)?))
}

/// Who calls a relay.
pub(super) struct Callers {
    fleet: Fleet,
    relay: String,
    /// The relay's own, where it has TLS.
    certificate: PathBuf,
    tickets: Tickets,
}

/// What visitors were given to come back with, by their numbers.
type Tickets = Rc<RefCell<HashMap<usize, (Bytes, [u8; 32])>>>;

impl Callers {
    /// The connections of idle computers as agents make them, over TLS.
    pub(super) fn agents(&self) -> anyhow::Result<impl Fn(usize) -> (Settings, Channel)> {
        let relay: Endpoint = format!("wss://{}", self.relay).parse()?;
        let tls = Tls::only(&fs::read_to_string(&self.certificate)?)?;
        let (fleet, tenant) = (self.fleet.clone(), Channel::Tenant(self.fleet.tenant()));
        Ok(move |number| (fleet.agent_settings(IDLE + number as u32, vec![relay.clone()], tls.clone()), tenant))
    }

    pub(super) fn client(&self, role: Role) -> Client {
        let agent = |number| {
            let agent = self.fleet.agent(number);
            (Channel::Computer(agent.computer()), agent.chain, agent.sign)
        };
        let phone = |number| {
            let phone = self.fleet.phone(number).identity;
            (Channel::Device(DeviceId(phone.statement().subject)), phone.chain, phone.sign)
        };
        let pair = |pair: usize| pair as u32 + 1;
        let (own, chain, key) = match role {
            Role::Subscriber => phone(FAN),
            Role::Publisher => agent(FAN),
            Role::Asking(number) => phone(pair(number)),
            Role::Answering(number) => agent(pair(number)),
            Role::Idle(number) | Role::Visitor(number) | Role::Returning(number) => agent(IDLE + number as u32),
        };
        let channel = match role {
            Role::Publisher => phone(FAN).0,
            Role::Idle(_) => Channel::Tenant(self.fleet.tenant()),
            _ => own,
        };
        let (relay, tickets) = (self.relay.clone(), self.tickets.clone());
        Client { role, chain, key, relay, tickets, channel, said: 0, heard: 0, seen: false }
    }
}

/// A client of our relay.
pub(super) struct Client {
    role: Role,
    chain: Vec<Bytes>,
    key: SigningKey,
    relay: String,
    tickets: Tickets,
    channel: Channel,
    /// The number of the last PUBLISH or FWD.
    said: u32,
    /// The number of the last FWD that came.
    heard: u32,
    /// A MESSAGE has come, and was decoded as a whole.
    seen: bool,
}

impl Client {
    fn rid(pair: usize) -> Rid {
        let mut rid = [0x70; 16];
        rid[..8].copy_from_slice(&(pair as u64).to_be_bytes());
        Rid(rid)
    }

    fn authenticate(&self, nonce: [u8; 32]) -> anyhow::Result<Frame> {
        if let Role::Returning(number) = self.role {
            let ticket = self.tickets.borrow_mut().remove(&number);
            let (ticket, secret) = ticket.with_context(|| format!("visitor {number} was given no ticket"))?;
            let mac = return_mac(&secret, &nonce, &self.relay);
            return Ok(Frame::Return { ticket, relay: self.relay.clone(), mac });
        }
        let proof = RelayAuth { nonce, relay: self.relay.clone(), time: edge::now() };
        Ok(Frame::Auth { proof: Signed::sign(proof, &self.key)?.bytes().clone(), chain: self.chain.clone() })
    }

    /// What makes an authenticated connection ready for its work, if anything.
    fn first_request(&self) -> Option<Frame> {
        match self.role {
            Role::Subscriber | Role::Idle(_) => {
                Some(Frame::Subscribe { channel: self.channel.to_string(), since: None })
            }
            Role::Publisher | Role::Visitor(_) | Role::Returning(_) => None,
            Role::Answering(pair) => Some(Frame::Open { rid: Self::rid(pair), ttl: MAX_TTL }),
            // The other end is the one who would check what is proved here.
            Role::Asking(pair) => Some(Frame::Claim { rid: Self::rid(pair), n: [1; 16], tag: [2; 16] }),
        }
    }
}

impl Speaker for Client {
    fn path(&self) -> String {
        "/v1/ws".to_owned()
    }

    fn opened(&mut self, _: &mut Out) -> bool {
        false
    }

    fn hear(&mut self, payload: &[u8], out: &mut Out, heard: &mut Hearing) -> anyhow::Result<()> {
        // The one frame that comes a hundred thousand times a second: its bytes are its last field.
        if self.seen && payload.starts_with(&MESSAGE) && payload.len() > message::LEN {
            return heard.message(&payload[payload.len() - message::LEN..]);
        }
        match Frame::decode(payload)? {
            Frame::Message { channel, bytes, .. } if channel == self.channel.to_string() => {
                self.seen = true;
                heard.message(&bytes)
            }
            Frame::Forward { seq, bytes, .. } if seq == self.heard + 1 => {
                self.heard = seq;
                heard.message(&bytes)
            }
            Frame::Message { channel, .. } => bail!("the relay sends a message of {channel}"),
            Frame::Forward { seq, .. } => bail!("the relay forwards message {seq} where {} was next", self.heard + 1),
            Frame::Challenge { nonce, .. } => {
                out.frame(&self.authenticate(nonce)?.encode());
                Ok(())
            }
            Frame::Welcome { .. } => {
                match self.first_request() {
                    Some(request) => out.frame(&request.encode()),
                    None => heard.ready(),
                }
                Ok(())
            }
            Frame::Subscribed { .. } | Frame::Opened { .. } | Frame::Claimed { .. } => {
                heard.ready();
                Ok(())
            }
            Frame::Ticket { ticket, secret } => {
                if let Role::Visitor(number) = self.role {
                    self.tickets.borrow_mut().insert(number, (ticket, secret));
                }
                Ok(())
            }
            Frame::Err { code, text, .. } => bail!("the relay refuses: {text} ({})", code.name()),
            Frame::Drain { after_ms, .. } => bail!("the relay sends it away for {after_ms} ms"),
            // What else a relay has to say is of no concern to this work.
            _ => Ok(()),
        }
    }

    fn say(&mut self, message: &[u8], out: &mut Out) -> anyhow::Result<()> {
        self.said += 1;
        let bytes = Bytes::copy_from_slice(message);
        let frame = match self.role {
            Role::Asking(pair) | Role::Answering(pair) => {
                Frame::Forward { rid: Self::rid(pair), seq: self.said, ack: self.heard, bytes }
            }
            _ => Frame::Publish { id: self.said, channel: self.channel.to_string(), bytes },
        };
        out.frame(&frame.encode());
        Ok(())
    }
}
