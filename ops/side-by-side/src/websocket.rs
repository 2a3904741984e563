//! WebSocket frames (RFC 6455), as little of them as clients and the floor need: no fragments, no extensions.

use std::ops::Range;

/// Any message of ours: the subjects don't look at it.
pub(crate) const BINARY: u8 = 2;
/// The other end goes.
pub(crate) const CLOSE: u8 = 8;
/// To be answered with [`PONG`].
pub(crate) const PING: u8 = 9;
/// The answer.
pub(crate) const PONG: u8 = 10;

/// A client has to mask what it sends. Which key it takes is of no concern where nobody else is on the wire.
const MASK: [u8; 4] = [0x6b, 0x1f, 0xa4, 0x93];

/// One frame in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// What it is.
    pub(crate) opcode: u8,
    /// False for a fragment.
    pub(crate) whole: bool,
    mask: Option<[u8; 4]>,
    /// Where its payload is.
    pub(crate) payload: Range<usize>,
}

impl Found {
    /// The first frame of a buffer; `None` while it is not all there.
    pub(crate) fn first(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (len, header) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, 10),
            short => (usize::from(short), 2),
        };
        let mask = (second & 0x80 != 0).then(|| bytes.get(header..)?.first_chunk().copied());
        let (mask, header) = match mask {
            Some(mask) => (Some(mask?), header + 4),
            None => (None, header),
        };
        let payload = header..header.checked_add(len)?;
        (payload.end <= bytes.len()).then_some(Self { opcode: first & 0x0f, whole: first & 0x80 != 0, mask, payload })
    }

    /// Where the next frame begins.
    pub(crate) fn end(&self) -> usize {
        self.payload.end
    }

    /// Takes the mask off the payload, where there is one.
    pub(crate) fn unmask(&self, bytes: &mut [u8]) {
        if let Some(mask) = self.mask {
            apply(mask, &mut bytes[self.payload.clone()]);
        }
    }
}

/// Appends a frame of a client.
pub(crate) fn masked(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, 0x80, payload.len(), out);
    out.extend_from_slice(&MASK);
    let at = out.len();
    out.extend_from_slice(payload);
    apply(MASK, &mut out[at..]);
}

/// Appends a frame of a server.
pub(crate) fn unmasked(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, 0, payload.len(), out);
    out.extend_from_slice(payload);
}

fn header(opcode: u8, mask: u8, len: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..126), _) => out.push(mask | short),
        (_, Ok(medium)) => {
            out.push(mask | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    let mut words = bytes.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_any_length_comes_back_as_it_was() {
        for len in [0, 1, 125, 126, 200, 65_535, 65_536] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            for write in [masked, unmasked] {
                let mut bytes = vec![];
                write(BINARY, &payload, &mut bytes);
                for cut in [1, len / 2, bytes.len() - 1] {
                    assert!(cut == bytes.len() || Found::first(&bytes[..cut.min(bytes.len() - 1)]).is_none());
                }
                bytes.extend_from_slice(b"next");
                let found = Found::first(&bytes).unwrap();
                assert_eq!((found.opcode, found.whole, found.end()), (BINARY, true, bytes.len() - 4));
                found.unmask(&mut bytes);
                assert_eq!(bytes[found.payload], payload, "{len}");
            }
        }
    }

    #[test]
    fn tungstenite_reads_what_is_written_here() {
        use tokio_tungstenite::tungstenite::protocol::frame::FrameSocket;
        let mut bytes = vec![];
        masked(BINARY, &[7; 300], &mut bytes);
        let mut socket = FrameSocket::new(std::io::Cursor::new(bytes));
        let frame = socket.read(None).unwrap().unwrap();
        assert!(frame.header().is_final && frame.header().mask.is_some());
        let mut payload = frame.payload().to_vec();
        apply(frame.header().mask.unwrap(), &mut payload);
        assert_eq!(payload, [7; 300]);
    }
}
