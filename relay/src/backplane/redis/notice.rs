//! What one node tells another through Redis: mostly about a pairing, the event with the numbers that show whether one is
//! missing.
//!
//! ```text
//! F rid[16] side seq[4] ack[4] frame    a message
//! A rid[16] side ack[4] frame           an acknowledgement alone
//! C rid[16] side frame                  a claim
//! X rid[16] side last[4]                the other end closed, after its message `last`
//! M rid[16] side generation[16]         this end, as it was in this generation, moved to another node
//! H rid[16] side                        the other end is at the node that says this, directly
//! G rid[16] side                        that node said something, directly, to an end that is not here
//! S rid[16] node[8] token[8]            that node waits for Redis to know what this one knows of the pairing
//! D token[8]                            it does
//! P token[8]                            a node's own probe
//! N note                                not about a pairing: see `Backplane::tell`
//! ```
//! Numbers are big-endian; a side is `a` or `d`, the end that is told. What is kept for a resume is a notice too, so that
//! a script passes bytes on and looks into none.

use bytes::Bytes;
use gatepass_protocol::ids::Rid;

use crate::backplane::Side;

/// One time that an end took its place at a node: what an end does is refused once it has taken another.
pub(super) type Generation = [u8; 16];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    Pairing {
        rid: Rid,
        to: Side,
        news: News,
    },
    /// That node waits for Redis to know what this one knows of the pairing.
    Settle {
        rid: Rid,
        node: u64,
        token: u64,
    },
    /// It does.
    Settled(u64),
    Probe(u64),
    Note(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    Forward { seq: u32, ack: u32, frame: Bytes },
    Ack { ack: u32, frame: Bytes },
    Claim(Bytes),
    Closed { last: u32 },
    Moved(Generation),
    Here,
    Gone,
}

pub(super) fn letter(side: Side) -> char {
    match side {
        Side::Agent => 'a',
        Side::Device => 'd',
    }
}

pub(super) fn side(letter: u8) -> Option<Side> {
    match letter {
        b'a' => Some(Side::Agent),
        b'd' => Some(Side::Device),
        _ => None,
    }
}

impl Notice {
    pub(super) fn encode(&self) -> Bytes {
        let (kind, rid, to, numbers, rest): (u8, _, _, [Option<u32>; 2], &[u8]) = match self {
            Notice::Probe(token) => return [b"P".as_slice(), &token.to_be_bytes()].concat().into(),
            Notice::Settled(token) => return [b"D".as_slice(), &token.to_be_bytes()].concat().into(),
            Notice::Settle { rid, node, token } => {
                let numbers = [node.to_be_bytes(), token.to_be_bytes()].concat();
                return [b"S".as_slice(), rid.as_bytes(), &numbers].concat().into();
            }
            Notice::Note(note) => return [b"N".as_slice(), note].concat().into(),
            Notice::Pairing { rid, to, news } => match news {
                News::Forward { seq, ack, frame } => (b'F', rid, to, [Some(*seq), Some(*ack)], frame),
                News::Ack { ack, frame } => (b'A', rid, to, [Some(*ack), None], frame),
                News::Claim(frame) => (b'C', rid, to, [None; 2], frame),
                News::Closed { last } => (b'X', rid, to, [Some(*last), None], &[]),
                News::Moved(generation) => (b'M', rid, to, [None; 2], generation),
                News::Here => (b'H', rid, to, [None; 2], &[]),
                News::Gone => (b'G', rid, to, [None; 2], &[]),
            },
        };
        let mut bytes = Vec::with_capacity(26 + rest.len());
        bytes.push(kind);
        bytes.extend_from_slice(rid.as_bytes());
        bytes.push(letter(*to) as u8);
        numbers.iter().flatten().for_each(|number| bytes.extend_from_slice(&number.to_be_bytes()));
        bytes.extend_from_slice(rest);
        bytes.into()
    }

    /// Reads a notice; `None` for what is none. The frame is a copy, for the bytes may be a piece of something larger.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        if *kind == b'P' {
            return Some(Notice::Probe(u64::from_be_bytes(rest.try_into().ok()?)));
        }
        if *kind == b'N' {
            return Some(Notice::Note(Bytes::copy_from_slice(rest)));
        }
        if *kind == b'D' {
            return Some(Notice::Settled(u64::from_be_bytes(rest.try_into().ok()?)));
        }
        let (rid, rest) = rest.split_first_chunk()?;
        if *kind == b'S' {
            let (node, token) = rest.split_first_chunk()?;
            let token = u64::from_be_bytes(token.try_into().ok()?);
            return Some(Notice::Settle { rid: Rid(*rid), node: u64::from_be_bytes(*node), token });
        }
        let (to, rest) = rest.split_first()?;
        let number = |bytes: &mut &[u8]| {
            let (number, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(u32::from_be_bytes(*number))
        };
        let mut rest = rest;
        let news = match kind {
            b'F' => {
                News::Forward { seq: number(&mut rest)?, ack: number(&mut rest)?, frame: Bytes::copy_from_slice(rest) }
            }
            b'A' => News::Ack { ack: number(&mut rest)?, frame: Bytes::copy_from_slice(rest) },
            b'C' => News::Claim(Bytes::copy_from_slice(rest)),
            b'X' => News::Closed { last: number(&mut rest)? },
            b'M' => News::Moved(rest.try_into().ok()?),
            b'H' if rest.is_empty() => News::Here,
            b'G' if rest.is_empty() => News::Gone,
            _ => return None,
        };
        Some(Notice::Pairing { rid: Rid(*rid), to: side(*to)?, news })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Notice> {
        let frame = Bytes::from_static(b"frame");
        let news = [
            News::Forward { seq: 1, ack: 0x0102_0304, frame: frame.clone() },
            News::Ack { ack: 7, frame: frame.clone() },
            News::Claim(frame),
            News::Closed { last: 3 },
            News::Moved([b'0'; 16]),
            News::Here,
            News::Gone,
        ];
        let sides = [Side::Agent, Side::Device];
        let of_pairings = news
            .into_iter()
            .flat_map(|news| sides.map(|to| Notice::Pairing { rid: Rid([9; 16]), to, news: news.clone() }));
        let settle = Notice::Settle { rid: Rid([9; 16]), node: 1, token: 2 };
        of_pairings
            .chain([settle, Notice::Settled(2), Notice::Probe(u64::MAX), Notice::Note(Bytes::from_static(b"note"))])
            .collect()
    }

    #[test]
    fn what_one_node_says_another_reads() {
        for notice in all() {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        let one = &all()[0];
        let golden = [b"F".as_slice(), &[9; 16], b"a", &[0, 0, 0, 1], &[1, 2, 3, 4], b"frame"].concat();
        assert_eq!(one.encode(), golden);
    }

    #[test]
    fn what_is_cut_or_bent_is_no_panic() {
        for bytes in all().iter().map(Notice::encode) {
            for at in 0..bytes.len() {
                let _ = Notice::decode(&bytes[..at]);
                let mut bent = bytes.to_vec();
                bent[at] ^= 0xff;
                let _ = Notice::decode(&bent);
            }
        }
    }
}
