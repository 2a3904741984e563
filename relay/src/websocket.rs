//! WebSocket framing (RFC 6455, section 5) for the server's end, without a socket.
//!
//! An idle connection costs nothing here: bytes are read into a buffer that all connections of a thread share, and only the
//! beginning of a frame that has not arrived whole is kept. A frame to clients is encoded once, as a [`Packet`], and written
//! as it is to however many sockets: a server's frames carry no mask.
//!
//! Heads are read and written by tungstenite; what a relay takes of the protocol is a part of it: binary messages of at most
//! [`MAX_FRAME`] bytes, whole or in fragments, and the control frames. No extensions.

use bytes::{BufMut, Bytes, BytesMut};
use gatepass_protocol::frame::MAX_FRAME;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

/// The longest payload of a control frame (RFC 6455, section 5.5).
const MAX_CONTROL: usize = 125;
/// The longest head: two bytes, a length of eight, a mask of four.
const MAX_HEAD: usize = 14;

/// A frame to a client, as it goes over its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet(Bytes);

impl Packet {
    /// A binary message.
    pub fn binary(payload: &[u8]) -> Self {
        Self::new(OpCode::Data(Data::Binary), payload)
    }

    /// A question whether the client is there.
    pub fn ping() -> Self {
        Self(Bytes::from_static(&[0x89, 0]))
    }

    /// The answer to a client's ping.
    pub fn pong(payload: &[u8]) -> Self {
        Self::new(OpCode::Control(Control::Pong), payload)
    }

    /// The last frame. `reason` is short: at most 123 bytes.
    pub fn close(code: CloseCode, reason: &str) -> Self {
        let mut payload = Vec::with_capacity(2 + reason.len());
        payload.put_u16(code.into());
        payload.extend_from_slice(reason.as_bytes());
        Self::new(OpCode::Control(Control::Close), &payload)
    }

    /// Several packets as one, to be written at once.
    pub fn joined<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> Self {
        let mut all = BytesMut::new();
        packets.into_iter().for_each(|packet| all.extend_from_slice(&packet.0));
        Self(all.freeze())
    }

    /// What is written as it is.
    pub(crate) fn raw(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The frames in it, with what each carries.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (OpCode, Bytes)> {
        let mut rest = self.0.clone();
        std::iter::from_fn(move || {
            let (head, start, end) = head(&rest).ok().flatten()?;
            let payload = rest.split_to(end.min(rest.len())).split_off(start);
            Some((head.opcode, payload))
        })
    }

    /// The bytes for the socket.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    fn new(opcode: OpCode, payload: &[u8]) -> Self {
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        let mut bytes = BytesMut::with_capacity(MAX_HEAD + payload.len()).writer();
        // Writing to memory can't fail.
        let _ = header.format(payload.len() as u64, &mut bytes);
        let mut bytes = bytes.into_inner();
        bytes.extend_from_slice(payload);
        Self(bytes.freeze())
    }
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Binary(Bytes),
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// An answer to ours.
    Pong,
    /// A part of a message that is not its last: there is nothing to be done about it yet.
    Part,
    /// It says goodbye, or answers ours.
    Close,
}

/// Why the bytes are not what a relay takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A message of more than [`MAX_FRAME`] bytes.
    #[error("a message is at most {MAX_FRAME} bytes")]
    TooLarge,
    /// A text message.
    #[error("messages are binary")]
    Text,
    /// Against RFC 6455.
    #[error("not the WebSocket protocol")]
    Protocol,
}

/// Takes a client's bytes apart.
#[derive(Debug, Default)]
pub struct Reader {
    /// The beginning of a frame. Without memory of its own where there is none.
    partial: Vec<u8>,
    /// The fragments of a message so far.
    fragments: Option<Vec<u8>>,
}

impl Reader {
    /// Takes in what arrived, and hands out each thing that is whole. The bytes are unmasked where they lie.
    pub fn read(&mut self, bytes: &mut [u8], mut take: impl FnMut(Received)) -> Result<(), Malformed> {
        if self.partial.is_empty() {
            let used = self.frames(bytes, &mut take)?;
            self.partial = bytes[used..].to_vec();
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let used = self.frames(&mut all, &mut take)?;
        all.drain(..used);
        all.shrink_to_fit();
        self.partial = all;
        Ok(())
    }

    /// Whether a frame or a message has begun and not ended.
    pub fn is_within(&self) -> bool {
        !self.partial.is_empty() || self.fragments.is_some()
    }

    /// Returns how many bytes belong to whole frames.
    fn frames(&mut self, bytes: &mut [u8], take: &mut impl FnMut(Received)) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some((head, start, end)) = head(&bytes[used..])? {
            self.check(&head, end - start)?;
            if bytes.len() - used < end {
                break;
            }
            let payload = &mut bytes[used + start..used + end];
            unmask(payload, head.mask.ok_or(Malformed::Protocol)?);
            if let Some(received) = self.frame(&head, payload) {
                take(received);
            }
            used += end;
        }
        Ok(used)
    }

    /// Refuses a frame by its head, before its payload is waited for.
    fn check(&self, head: &FrameHeader, length: usize) -> Result<(), Malformed> {
        let plain = !(head.rsv1 || head.rsv2 || head.rsv3) && head.mask.is_some();
        let so_far = self.fragments.as_ref().map(Vec::len);
        match (head.opcode, so_far) {
            _ if !plain => Err(Malformed::Protocol),
            (OpCode::Control(_), _) if !head.is_final || length > MAX_CONTROL => Err(Malformed::Protocol),
            (OpCode::Control(Control::Reserved(_)), _) => Err(Malformed::Protocol),
            (OpCode::Control(_), _) => Ok(()),
            (OpCode::Data(Data::Text), _) => Err(Malformed::Text),
            (OpCode::Data(Data::Continue), Some(so_far)) if so_far + length > MAX_FRAME => Err(Malformed::TooLarge),
            (OpCode::Data(Data::Continue), Some(_)) => Ok(()),
            (OpCode::Data(Data::Binary), None) if length > MAX_FRAME => Err(Malformed::TooLarge),
            (OpCode::Data(Data::Binary), None) => Ok(()),
            (OpCode::Data(_), _) => Err(Malformed::Protocol),
        }
    }

    /// A whole frame, which was checked.
    fn frame(&mut self, head: &FrameHeader, payload: &[u8]) -> Option<Received> {
        match head.opcode {
            OpCode::Control(Control::Ping) => Some(Received::Ping(Bytes::copy_from_slice(payload))),
            OpCode::Control(Control::Pong) => Some(Received::Pong),
            OpCode::Control(_) => Some(Received::Close),
            OpCode::Data(Data::Binary) if head.is_final => Some(Received::Binary(Bytes::copy_from_slice(payload))),
            OpCode::Data(_) => {
                let mut message = self.fragments.take().unwrap_or_default();
                message.extend_from_slice(payload);
                if head.is_final {
                    return Some(Received::Binary(message.into()));
                }
                self.fragments = Some(message);
                Some(Received::Part)
            }
        }
    }
}

/// A frame's head, and where its payload begins and ends; `None` where the head is not there yet.
fn head(bytes: &[u8]) -> Result<Option<(FrameHeader, usize, usize)>, Malformed> {
    let mut cursor = std::io::Cursor::new(bytes);
    let Some((head, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Malformed::Protocol)? else {
        return Ok(None);
    };
    let start = cursor.position() as usize;
    // Compared before it is added to anything: it may be any number.
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME).ok_or(Malformed::TooLarge)?;
    Ok(Some((head, start, start + length)))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    // Eight at a time: the compiler makes vectors of it.
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c, d]) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{
        Message, WebSocket,
        protocol::{Role, WebSocketConfig, frame::Frame as WsFrame},
    };

    use super::*;

    /// A frame as a client of another make sends it.
    fn masked(opcode: OpCode, is_final: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
        WsFrame::from_payload(header, Bytes::copy_from_slice(payload)).format(&mut bytes).unwrap();
        bytes
    }

    fn read_all(reader: &mut Reader, bytes: &[u8], at_a_time: usize) -> Result<Vec<Received>, Malformed> {
        let mut all = vec![];
        for part in bytes.chunks(at_a_time.max(1)) {
            reader.read(&mut part.to_vec(), |received| all.push(received))?;
        }
        Ok(all)
    }

    const BINARY: OpCode = OpCode::Data(Data::Binary);
    const CONTINUE: OpCode = OpCode::Data(Data::Continue);
    const PING: OpCode = OpCode::Control(Control::Ping);

    proptest! {
        #[test]
        fn messages_arrive_whole_however_the_network_cuts_them(
            messages in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..700), any::<[u8; 4]>(), 1..4_usize), 1..6),
            at_a_time in 1..900_usize,
        ) {
            let mut bytes = vec![];
            let mut expected = vec![];
            for (payload, mask, fragments) in &messages {
                let size = payload.len().div_ceil(*fragments).max(1);
                let parts: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
                for (nth, part) in parts.iter().enumerate() {
                    let opcode = if nth == 0 { BINARY } else { CONTINUE };
                    bytes.extend(masked(opcode, nth + 1 == parts.len(), part, *mask));
                    // A ping may stand between the fragments of a message.
                    bytes.extend(masked(PING, true, b"?", *mask));
                    expected.push(Received::Ping(Bytes::from_static(b"?")));
                }
                expected.insert(expected.len() - 1, Received::Binary(payload.clone().into()));
            }
            let mut reader = Reader::default();
            let mut received = read_all(&mut reader, &bytes, at_a_time).unwrap();
            received.retain(|received| *received != Received::Part);
            prop_assert_eq!(received, expected);
            prop_assert!(!reader.is_within());
            prop_assert_eq!(reader.partial.capacity(), 0, "an idle connection holds no buffer");
        }

        #[test]
        fn no_bytes_make_it_panic_or_hold_more_than_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..3_000), at_a_time in 1..500_usize) {
            let mut reader = Reader::default();
            let _ = read_all(&mut reader, &bytes, at_a_time);
            prop_assert!(reader.partial.len() <= MAX_HEAD + MAX_FRAME);
            prop_assert!(reader.fragments.as_ref().map_or(0, Vec::len) <= MAX_FRAME);
        }

        #[test]
        fn a_client_of_another_make_reads_our_packets(payload in proptest::collection::vec(any::<u8>(), 0..=MAX_FRAME)) {
            let packets = [Packet::binary(&payload), Packet::ping(), Packet::close(CloseCode::Restart, "restarting")];
            let stream = std::io::Cursor::new(Packet::joined(&packets).bytes().to_vec());
            let mut client = WebSocket::from_raw_socket(stream, Role::Client, Some(WebSocketConfig::default()));
            prop_assert_eq!(client.read().unwrap(), Message::Binary(payload.into()));
            prop_assert_eq!(client.read().unwrap(), Message::Ping(Bytes::new()));
            let Message::Close(Some(close)) = client.read().unwrap() else { panic!("no close") };
            prop_assert_eq!((close.code, close.reason.as_str()), (CloseCode::Restart, "restarting"));
        }
    }

    #[test]
    fn what_is_against_the_protocol_is_refused_by_its_head() {
        let unmasked = Packet::binary(b"x").bytes().to_vec();
        let mut reserved = masked(BINARY, true, b"x", [1; 4]);
        reserved[0] |= 0x40;
        let giant = [&[0x82][..], &[0xff; 9], &[0; 4]].concat();
        let text = OpCode::Data(Data::Text);
        let full = vec![0; MAX_FRAME];
        for (why, bytes, expected) in [
            ("no mask", unmasked, Malformed::Protocol),
            ("a reserved bit", reserved, Malformed::Protocol),
            (
                "an opcode that does not exist",
                masked(OpCode::Data(Data::Reserved(3)), true, b"", [0; 4]),
                Malformed::Protocol,
            ),
            ("text", masked(text, true, b"hello", [1; 4]), Malformed::Text),
            ("a continuation of nothing", masked(CONTINUE, true, b"x", [1; 4]), Malformed::Protocol),
            (
                "a message within a message",
                [masked(BINARY, false, b"x", [1; 4]), masked(BINARY, true, b"x", [1; 4])].concat(),
                Malformed::Protocol,
            ),
            ("a ping in fragments", masked(PING, false, b"x", [1; 4]), Malformed::Protocol),
            ("a long ping", masked(PING, true, &[0; 126], [1; 4]), Malformed::Protocol),
            ("a giant's head", giant, Malformed::TooLarge),
            (
                "fragments beyond the limit",
                [masked(BINARY, false, &full, [1; 4]), masked(CONTINUE, true, b"x", [1; 4])].concat(),
                Malformed::TooLarge,
            ),
        ] {
            assert_eq!(read_all(&mut Reader::default(), &bytes, usize::MAX), Err(expected), "{why}");
        }
        let whole = masked(BINARY, true, &full, [9; 4]);
        assert_eq!(read_all(&mut Reader::default(), &whole, 1_000).unwrap(), [Received::Binary(full.into())]);
    }
}
