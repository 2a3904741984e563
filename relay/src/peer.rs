//! One authenticated connection, as the rest of the relay sees it: who it is, and the queue in front of its socket.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicU64},
};

use gatepass_protocol::{
    channel::Channel,
    frame::Frame,
    ids::{ComputerId, DeviceId, Rid, Serial, TenantId},
    presence::Who,
};

use crate::{auth::Standing, backplane::Topic, locked, outbox::Outbox, websocket::Packet};

/// Who a connection is, by its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// The agent of a computer.
    Agent(ComputerId),
    /// A phone.
    Device(DeviceId),
}

/// Who a connection is and whose, as its certificate proved.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose.
    pub tenant: TenantId,
    /// Who.
    pub principal: Principal,
    /// The certificate.
    pub certificate: Serial,
    /// What to ask again when the tenant's lists change.
    pub standing: Standing,
}

impl Identity {
    /// The identifier of the computer or device.
    pub(crate) fn client(&self) -> [u8; 16] {
        match self.principal {
            Principal::Agent(ComputerId(id)) | Principal::Device(DeviceId(id)) => id,
        }
    }

    /// Who is online with this connection.
    pub fn who(&self) -> Who {
        match self.principal {
            Principal::Agent(id) => Who::Computer(id),
            Principal::Device(id) => Who::Device(id),
        }
    }

    /// The word for a log line, which does not say who.
    pub fn kind(&self) -> &'static str {
        match self.principal {
            Principal::Agent(_) => "agent",
            Principal::Device(_) => "device",
        }
    }

    /// The rights to listen: to what is meant for oneself, and to one's tenant. Which computers are on is for those who go to
    /// them, not for other computers.
    pub fn may_subscribe(&self, channel: &Channel) -> bool {
        match (channel, self.principal) {
            (Channel::Computer(id), Principal::Agent(own)) => *id == own,
            (Channel::Device(id), Principal::Device(own)) => *id == own,
            (Channel::Tenant(id), _) | (Channel::Presence(id), Principal::Device(_)) => *id == self.tenant,
            _ => false,
        }
    }

    /// The rights to speak: agents to devices, devices to computers. What a tenant hears as one comes from its server.
    pub fn may_publish(&self, channel: &Channel) -> bool {
        matches!(
            (channel, self.principal),
            (Channel::Computer(_), Principal::Device(_)) | (Channel::Device(_), Principal::Agent(_))
        )
    }
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Peer {
    /// Its number at this relay, never used again.
    pub id: u64,
    /// Who it is.
    pub identity: Identity,
    /// What waits for its socket.
    pub outbox: Outbox,
    /// When it was last heard, by the relay's own count of seconds.
    pub heard: AtomicU32,
    /// The period of the ticket that it was given; 0: none.
    pub ticket_of: AtomicU64,
    /// The pairings that it has an end of: few.
    pub pairings: Mutex<Vec<Rid>>,
    /// The channels that it listens to: few.
    pub topics: Mutex<Vec<Topic>>,
}

impl Peer {
    /// A connection with nothing in it yet.
    pub fn new(id: u64, identity: Identity, outbox: Outbox) -> Self {
        let (pairings, topics) = Default::default();
        Self { id, identity, outbox, heard: AtomicU32::new(0), ticket_of: AtomicU64::new(0), pairings, topics }
    }

    /// Queues a frame for this connection alone.
    pub fn send(&self, frame: &Frame) -> bool {
        self.outbox.push(Packet::binary(&frame.encode()))
    }

    /// Whether it has an end of a pairing.
    pub fn has(&self, rid: &Rid) -> bool {
        locked(&self.pairings).contains(rid)
    }

    /// It has an end of this pairing now.
    pub fn enter(&self, rid: Rid) {
        enter(&mut locked(&self.pairings), rid);
    }

    /// It has no end of this pairing any more.
    pub fn leave(&self, rid: &Rid) {
        locked(&self.pairings).retain(|held| held != rid);
    }

    /// It listens to this channel now.
    pub fn listen(&self, topic: Topic) {
        enter(&mut locked(&self.topics), topic);
    }

    /// It does not listen to this channel any more.
    pub fn ignore(&self, topic: &Topic) {
        locked(&self.topics).retain(|held| held != topic);
    }
}

fn enter<T: PartialEq>(held: &mut Vec<T>, new: T) {
    if !held.contains(&new) {
        held.push(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_may_hear_what_is_its_own_and_speak_only_across() {
        let (tenant, own) = (TenantId([1; 16]), [2; 16]);
        let standing = Standing::default();
        let identity =
            |principal| Identity { tenant, principal, certificate: Serial([3; 16]), standing: standing.clone() };
        let agent = identity(Principal::Agent(ComputerId(own)));
        let device = identity(Principal::Device(DeviceId(own)));
        // channel, agent: subscribe, publish; device: subscribe, publish
        for (channel, rights) in [
            (Channel::Computer(ComputerId(own)), [true, false, false, true]),
            (Channel::Computer(ComputerId([9; 16])), [false, false, false, true]),
            (Channel::Device(DeviceId(own)), [false, true, true, false]),
            (Channel::Device(DeviceId([9; 16])), [false, true, false, false]),
            (Channel::Tenant(tenant), [true, false, true, false]),
            (Channel::Tenant(TenantId([9; 16])), [false, false, false, false]),
            (Channel::Presence(tenant), [false, false, true, false]),
            (Channel::Presence(TenantId([9; 16])), [false, false, false, false]),
        ] {
            let have = [&agent, &device].map(|who| [who.may_subscribe(&channel), who.may_publish(&channel)]);
            assert_eq!(have.concat(), rights, "{channel}");
        }
    }
}
