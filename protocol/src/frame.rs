//! What a client and a relay say to each other: msgpack arrays `[type, fields...]`, one a binary WebSocket message.
//!
//! ```text
//! relay  -> client   CHALLENGE(nonce)                      the first frame of every connection
//! client -> relay    AUTH(proof, certificate chain)
//! relay  -> client   WELCOME, TICKET                       next time RETURN(ticket, relay, mac) will do in place of AUTH
//! agent  -> relay    OPEN(rid, ttl)                        a pairing waits to be claimed
//! phone  -> relay    CLAIM(rid, n, tag)                    first come, first served; passed on to the agent, who checks it
//! both               FWD(rid, seq, ack, bytes)             kept until acknowledged; RESUME(rid, token, last_seq) replays
//! both               SUBSCRIBE(channel, since), PUBLISH, MESSAGE   channels; SUBSCRIBED says whether anything was missed
//! relay  -> client   ERR(code, ...), DRAIN(when, where)
//! ```
//!
//! The relay reads all of this and can change all of it. Nothing here is trusted by either end: what matters travels in
//! FWD's bytes, encrypted and authenticated end to end.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{code::Code, ids::Rid, noise::hmac, signed::Body, wire};

/// The largest frame, in bytes. The largest padded pairing message (6144 + 64) and the largest statement fit with room
/// for their frame.
pub const MAX_FRAME: usize = 8 * 1024;
/// How long a pairing may wait and live, in seconds.
pub const MAX_TTL: u32 = 90;
/// FWD frames of one direction that a relay keeps until they are acknowledged.
pub const MAX_UNACKED: usize = 16;

/// A place in a channel: up to where somebody has heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which count of the channel's messages this is: another one, where the count was lost and begun anew.
    pub epoch: u64,
    /// The number of the newest message that was heard.
    pub offset: u64,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Relay to client, first on every connection.
    Challenge {
        /// Fresh and random; the proof signs it.
        nonce: [u8; 32],
        /// The relay's clock, in Unix seconds: a hint for `doctor`, never trusted.
        server_time: u64,
    },
    /// Client to relay: who I am.
    Auth {
        /// A [`RelayAuth`], signed.
        proof: Bytes,
        /// The certificate, then its issuer's where that is not a CA.
        chain: Vec<Bytes>,
    },
    /// Relay to client: authenticated.
    Welcome {
        /// The relay's number for this connection, for its log and yours.
        connection: u64,
        /// The relay's clock, in Unix seconds.
        server_time: u64,
    },
    /// Agent to relay: a pairing that a phone may claim.
    Open {
        /// Derived from the QR.
        rid: Rid,
        /// Seconds, at most [`MAX_TTL`].
        ttl: u32,
    },
    /// Relay to agent: the pairing waits.
    Opened {
        /// The pairing.
        rid: Rid,
        /// Resumes this end of it from another connection.
        token: [u8; 32],
    },
    /// Phone to relay, and unchanged from relay to agent: this QR is mine.
    Claim {
        /// The pairing.
        rid: Rid,
        /// Fresh and random.
        n: [u8; 16],
        /// [`crate::qr::QrKeys::claim_tag`]: proves to the agent that the QR was read.
        tag: [u8; 16],
    },
    /// Relay to phone: the pairing is yours.
    Claimed {
        /// The pairing.
        rid: Rid,
        /// Resumes this end of it from another connection.
        token: [u8; 32],
    },
    /// A pairing message, opaque to the relay.
    Forward {
        /// The pairing.
        rid: Rid,
        /// 1, 2, 3, … in each direction.
        seq: u32,
        /// The highest `seq` of the other direction up to which nothing is missing.
        ack: u32,
        /// One message of the channel.
        bytes: Bytes,
    },
    /// Client to relay, from a new connection: go on where we were.
    Resume {
        /// The pairing.
        rid: Rid,
        /// From OPENED or CLAIMED.
        token: [u8; 32],
        /// The highest `seq` that I received.
        last_seq: u32,
    },
    /// Relay to client: you are back; what you lack follows.
    Resumed {
        /// The pairing.
        rid: Rid,
        /// The highest `seq` that the relay has from you: send again from there.
        last_seq: u32,
    },
    /// Client to relay.
    Subscribe {
        /// A [`crate::channel::Channel`].
        channel: String,
        /// Up to where the client has heard it; none, if it never did.
        since: Option<Place>,
    },
    /// Relay to client: subscribed. Unasked: what was missed meanwhile can't be had any more.
    Subscribed {
        /// The channel.
        channel: String,
        /// Where the client is once it has what follows: every later message bears the next offset.
        place: Place,
        /// Nothing is missing since the place that the client named. Otherwise it must fetch anew what it needs.
        complete: bool,
        /// How many of the next MESSAGEs of this channel make up for what was before: what was missed, or the newest
        /// statement of each kind.
        following: u32,
    },
    /// Client to relay.
    Publish {
        /// Chosen by the client; comes back in ACK or ERR.
        id: u32,
        /// A [`crate::channel::Channel`].
        channel: String,
        /// The message, sealed or signed by who sends it.
        bytes: Bytes,
    },
    /// Relay to client: published.
    Ack {
        /// From PUBLISH.
        id: u32,
        /// How many connections it was handed to; 0: nobody listens.
        delivered: u32,
    },
    /// Relay to client: a message on a channel.
    Message {
        /// The channel.
        channel: String,
        /// Its place in the channel, rising.
        offset: u64,
        /// As published.
        bytes: Bytes,
    },
    /// Client to relay.
    Unsubscribe {
        /// The channel.
        channel: String,
    },
    /// The pairing is over, for both ends.
    Close {
        /// The pairing.
        rid: Rid,
    },
    /// Relay to client: what you asked for is not done.
    Err {
        /// Why.
        code: Code,
        /// The pairing, if it is about one.
        rid: Option<Rid>,
        /// The PUBLISH, if it is about one.
        id: Option<u32>,
        /// For a log; a person is told [`Code::message`].
        text: String,
    },
    /// Relay to client: I am going down.
    Drain {
        /// Reconnect after this many milliseconds.
        after_ms: u32,
        /// Where, if not here.
        url: Option<String>,
    },
    /// Relay to client: something to come back with, in place of an earlier one.
    Ticket {
        /// For the relay; opaque.
        ticket: Bytes,
        /// For the client alone: the key of [`return_mac`].
        secret: [u8; 32],
    },
    /// Client to relay, in place of AUTH: I was here before. Refused, AUTH may follow.
    Return {
        /// From TICKET.
        ticket: Bytes,
        /// The host, and the port where the URL has one, that the client dialled.
        relay: String,
        /// [`return_mac`].
        mac: [u8; 32],
    },
    /// An acknowledgement without a message to carry it.
    ForwardAck {
        /// The pairing.
        rid: Rid,
        /// As in [`Frame::Forward`].
        ack: u32,
    },
}

/// The bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes; the limit is {MAX_FRAME}")]
    TooLarge(usize),
    /// Not an array that begins with a known type.
    #[error("not a frame of a known type")]
    UnknownType,
    /// The fields are not those of its type.
    #[error("a frame of type {0} whose fields do not decode")]
    BadFields(u8),
}

impl FrameError {
    /// The code that a relay answers with.
    pub fn code(self) -> Code {
        match self {
            FrameError::TooLarge(_) => Code::Size,
            FrameError::UnknownType | FrameError::BadFields(_) => Code::BadFrame,
        }
    }
}

/// 32 bytes of msgpack `bin`.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Bin32(#[serde(with = "serde_bytes")] [u8; 32]);

/// 16 bytes of msgpack `bin`.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Bin16(#[serde(with = "serde_bytes")] [u8; 16]);

impl Frame {
    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        use Frame::*;
        match self {
            Challenge { nonce, server_time } => wire::to_vec(&(0u8, Bin32(*nonce), server_time)),
            Auth { proof, chain } => wire::to_vec(&(1u8, proof, chain)),
            Welcome { connection, server_time } => wire::to_vec(&(2u8, connection, server_time)),
            Open { rid, ttl } => wire::to_vec(&(3u8, rid, ttl)),
            Opened { rid, token } => wire::to_vec(&(4u8, rid, Bin32(*token))),
            Claim { rid, n, tag } => wire::to_vec(&(5u8, rid, Bin16(*n), Bin16(*tag))),
            Claimed { rid, token } => wire::to_vec(&(6u8, rid, Bin32(*token))),
            Forward { rid, seq, ack, bytes } => wire::to_vec(&(7u8, rid, seq, ack, bytes)),
            Resume { rid, token, last_seq } => wire::to_vec(&(8u8, rid, Bin32(*token), last_seq)),
            Resumed { rid, last_seq } => wire::to_vec(&(9u8, rid, last_seq)),
            Subscribe { channel, since } => wire::to_vec(&(10u8, channel, since)),
            Subscribed { channel, place, complete, following } => {
                wire::to_vec(&(11u8, channel, place, complete, following))
            }
            Publish { id, channel, bytes } => wire::to_vec(&(12u8, id, channel, bytes)),
            Ack { id, delivered } => wire::to_vec(&(13u8, id, delivered)),
            Message { channel, offset, bytes } => wire::to_vec(&(14u8, channel, offset, bytes)),
            Unsubscribe { channel } => wire::to_vec(&(15u8, channel)),
            Close { rid } => wire::to_vec(&(16u8, rid)),
            Err { code, rid, id, text } => wire::to_vec(&(17u8, code, rid, id, text)),
            Drain { after_ms, url } => wire::to_vec(&(18u8, after_ms, url)),
            ForwardAck { rid, ack } => wire::to_vec(&(19u8, rid, ack)),
            Ticket { ticket, secret } => wire::to_vec(&(20u8, ticket, Bin32(*secret))),
            Return { ticket, relay, mac } => wire::to_vec(&(21u8, ticket, relay, Bin32(*mac))),
        }
    }

    /// Reads one frame from exactly its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        // A frame is a msgpack fixarray (0x90 + length) whose first element is its type, a positive fixint.
        let kind = match bytes {
            [0x92..=0x9f, kind, ..] if *kind <= 21 => *kind,
            _ => return Err(FrameError::UnknownType),
        };
        fn fields<T: Serialize + DeserializeOwned>(kind: u8, bytes: &[u8]) -> Result<T, FrameError> {
            wire::from_slice(bytes).map_err(|_| FrameError::BadFields(kind))
        }
        type Tag = u8;
        Ok(match kind {
            0 => fields(kind, bytes)
                .map(|(_, Bin32(nonce), server_time): (Tag, _, _)| Frame::Challenge { nonce, server_time })?,
            1 => fields(kind, bytes).map(|(_, proof, chain): (Tag, _, _)| Frame::Auth { proof, chain })?,
            2 => fields(kind, bytes)
                .map(|(_, connection, server_time): (Tag, _, _)| Frame::Welcome { connection, server_time })?,
            3 => fields(kind, bytes).map(|(_, rid, ttl): (Tag, _, _)| Frame::Open { rid, ttl })?,
            4 => fields(kind, bytes).map(|(_, rid, Bin32(token)): (Tag, _, _)| Frame::Opened { rid, token })?,
            5 => fields(kind, bytes).map(|(_, rid, Bin16(n), Bin16(tag)): (Tag, _, _, _)| Frame::Claim {
                rid,
                n,
                tag,
            })?,
            6 => fields(kind, bytes).map(|(_, rid, Bin32(token)): (Tag, _, _)| Frame::Claimed { rid, token })?,
            7 => fields(kind, bytes).map(|(_, rid, seq, ack, bytes): (Tag, _, _, _, _)| Frame::Forward {
                rid,
                seq,
                ack,
                bytes,
            })?,
            8 => fields(kind, bytes).map(|(_, rid, Bin32(token), last_seq): (Tag, _, _, _)| Frame::Resume {
                rid,
                token,
                last_seq,
            })?,
            9 => fields(kind, bytes).map(|(_, rid, last_seq): (Tag, _, _)| Frame::Resumed { rid, last_seq })?,
            10 => fields(kind, bytes).map(|(_, channel, since): (Tag, _, _)| Frame::Subscribe { channel, since })?,
            11 => fields(kind, bytes).map(|(_, channel, place, complete, following): (Tag, _, _, _, _)| {
                Frame::Subscribed { channel, place, complete, following }
            })?,
            12 => fields(kind, bytes).map(|(_, id, channel, bytes): (Tag, _, _, _)| Frame::Publish {
                id,
                channel,
                bytes,
            })?,
            13 => fields(kind, bytes).map(|(_, id, delivered): (Tag, _, _)| Frame::Ack { id, delivered })?,
            14 => fields(kind, bytes).map(|(_, channel, offset, bytes): (Tag, _, _, _)| Frame::Message {
                channel,
                offset,
                bytes,
            })?,
            15 => fields(kind, bytes).map(|(_, channel): (Tag, _)| Frame::Unsubscribe { channel })?,
            16 => fields(kind, bytes).map(|(_, rid): (Tag, _)| Frame::Close { rid })?,
            17 => fields(kind, bytes).map(|(_, code, rid, id, text): (Tag, _, _, _, _)| Frame::Err {
                code,
                rid,
                id,
                text,
            })?,
            18 => fields(kind, bytes).map(|(_, after_ms, url): (Tag, _, _)| Frame::Drain { after_ms, url })?,
            19 => fields(kind, bytes).map(|(_, rid, ack): (Tag, _, _)| Frame::ForwardAck { rid, ack })?,
            20 => {
                fields(kind, bytes).map(|(_, ticket, Bin32(secret)): (Tag, _, _)| Frame::Ticket { ticket, secret })?
            }
            _ => fields(kind, bytes).map(|(_, ticket, relay, Bin32(mac)): (Tag, _, _, _)| Frame::Return {
                ticket,
                relay,
                mac,
            })?,
        })
    }
}

/// What a client signs to prove to a relay that it holds its certificate's authentication key.
///
/// It names the relay, so that a relay can't use one client's proof to pose as it at another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayAuth {
    /// From CHALLENGE.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 32],
    /// The host, and the port where the URL has one, that the client dialled.
    pub relay: String,
    /// The client's clock, in Unix seconds.
    pub time: u64,
}

/// What a client answers a CHALLENGE with that has a TICKET's secret: HMAC-SHA256 over a label, the nonce and the relay that
/// it dialled.
pub fn return_mac(secret: &[u8; 32], nonce: &[u8; 32], relay: &str) -> [u8; 32] {
    hmac(secret, &[b"gp1 return", nonce, relay.as_bytes()])
}

impl Body for RelayAuth {
    const LABEL: &'static str = "gp1 relay-auth";
}
