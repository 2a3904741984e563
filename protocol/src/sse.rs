//! The same frames where WebSockets don't get through: server-sent events from the relay (the HTML standard, section 9.2),
//! POSTs to it.
//!
//! ```text
//! GET /v1/events   event: session / data: TOKEN        first; names this stream in each POST
//!                  data: BASE64                        a frame (RFC 4648, section 4, with padding)
//!                  : ping                              answer with a POST, which may be empty
//!                  :                                   a sign of life, or padding
//!                  event: close / data: 1013 reason    last: a WebSocket's close code and reason
//!
//! POST /v1/send    number u64 | (length u16 | frame)*  Authorization: Bearer TOKEN
//! ```
//!
//! POSTs are numbered from 1 and sent one at a time: one whose answer was lost is sent again under its number, and is not
//! acted on twice.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;

use crate::frame::MAX_FRAME;

/// Where the events are.
pub const EVENTS: &str = "/v1/events";
/// Where POSTs go.
pub const SEND: &str = "/v1/send";
/// The largest body of a POST, in bytes: three of the largest frames, and little enough that a relay can hold one for each
/// stream that has not authenticated.
pub const MAX_POST: usize = 32 * 1024;

/// Of a POST's number, and of a frame's length.
const NUMBER: usize = 8;
const LENGTH: usize = 2;
/// The longest line: `data: ` and the largest frame.
const MAX_LINE: usize = 6 + MAX_FRAME.div_ceil(3) * 4;
const PING: &[u8] = b": ping";

/// What a relay says in its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stream's token, for POSTs from now on.
    Session(String),
    /// A frame.
    Frame(Bytes),
    /// Whether the client is there.
    Ping,
    /// The relay is there.
    Alive,
    /// The stream is over.
    Close {
        /// Of a WebSocket (RFC 6455, section 7.4).
        code: u16,
        /// For a log.
        reason: String,
    },
}

impl Event {
    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Event::Session(token) => format!("event: session\ndata: {token}\n\n").into_bytes(),
            Event::Frame(frame) => {
                let mut text = String::with_capacity(8 + frame.len().div_ceil(3) * 4);
                text.push_str("data: ");
                BASE64.encode_string(frame, &mut text);
                text.push_str("\n\n");
                text.into_bytes()
            }
            Event::Ping => [PING, b"\n\n"].concat(),
            Event::Alive => b":\n\n".to_vec(),
            Event::Close { code, reason } => format!("event: close\ndata: {code} {reason}\n\n").into_bytes(),
        }
    }
}

/// Why a stream is none of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// Nothing that a relay says is as long.
    #[error("a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// An event's data is not what its name promises.
    #[error("an event that does not decode")]
    Malformed,
}

/// Takes a relay's stream apart.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    /// A line end of two bytes may be cut between them.
    after_return: bool,
    name: Vec<u8>,
    data: Option<Vec<u8>>,
}

impl Reader {
    /// Takes in what arrived, and hands out each event that is whole.
    pub fn read(&mut self, bytes: &[u8], mut take: impl FnMut(Event)) -> Result<(), SseError> {
        let mut rest = bytes;
        while let Some((&first, after)) = rest.split_first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                rest = after;
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + part.len() > MAX_LINE {
                return Err(SseError::TooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.line(&line)? {
                take(event);
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Event>, SseError> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map_or(Ok(None), |data| event(&name, &data));
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"" if line == PING => return Ok(Some(Event::Ping)),
            b"" => return Ok(Some(Event::Alive)),
            b"event" => self.name = value.to_vec(),
            // Nothing of ours has several lines of data; joined, they would be no base64.
            b"data" if self.data.is_some() => return Err(SseError::Malformed),
            b"data" => self.data = Some(value.to_vec()),
            // As the standard says.
            _ => {}
        }
        Ok(None)
    }
}

fn event(name: &[u8], data: &[u8]) -> Result<Option<Event>, SseError> {
    let text = || std::str::from_utf8(data).map_err(|_| SseError::Malformed);
    Ok(match name {
        b"" | b"message" => Some(Event::Frame(BASE64.decode(data).map_err(|_| SseError::Malformed)?.into())),
        b"session" => Some(Event::Session(text()?.to_owned())),
        b"close" => {
            let text = text()?;
            let (code, reason) = text.split_once(' ').unwrap_or((text, ""));
            let code = code.parse().map_err(|_| SseError::Malformed)?;
            Some(Event::Close { code, reason: reason.to_owned() })
        }
        // Of a later version.
        _ => None,
    })
}

/// What a client sends at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// From 1, one more for each.
    pub number: u64,
    /// In order. None: a sign of life, which the relay answers in its stream.
    pub frames: Vec<Bytes>,
}

/// Why a body is no POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// It, or a frame in it, is larger than allowed.
    #[error("a POST is at most {MAX_POST} bytes, and a frame in it at most {MAX_FRAME}")]
    TooLarge,
    /// Cut, numbered 0, or with lengths that don't add up.
    #[error("not a number and frames with their lengths")]
    Malformed,
}

impl Post {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.number.to_be_bytes().to_vec();
        for frame in &self.frames {
            // A frame's length fits: it is at most MAX_FRAME.
            body.extend_from_slice(&(frame.len() as u16).to_be_bytes());
            body.extend_from_slice(frame);
        }
        body
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, PostError> {
        if body.len() > MAX_POST {
            return Err(PostError::TooLarge);
        }
        let (number, mut rest) = body.split_first_chunk::<NUMBER>().ok_or(PostError::Malformed)?;
        let number = u64::from_be_bytes(*number);
        if number == 0 {
            return Err(PostError::Malformed);
        }
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<LENGTH>().ok_or(PostError::Malformed)?;
            let length = usize::from(u16::from_be_bytes(*length));
            if length > MAX_FRAME {
                return Err(PostError::TooLarge);
            }
            let (frame, after) = after.split_at_checked(length).ok_or(PostError::Malformed)?;
            // A copy: one that is kept for somebody must not keep the others with it.
            frames.push(Bytes::copy_from_slice(frame));
            rest = after;
        }
        Ok(Self { number, frames })
    }

    /// As many of these frames as fit into one POST: how many.
    pub fn fitting<'a>(frames: impl IntoIterator<Item = &'a Bytes>) -> usize {
        let mut size = NUMBER;
        let fits = |frame: &&Bytes| {
            size += LENGTH + frame.len();
            size <= MAX_POST
        };
        frames.into_iter().take_while(fits).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<Event>, SseError> {
        let (mut reader, mut events) = (Reader::default(), vec![]);
        for piece in pieces {
            reader.read(piece, |event| events.push(event))?;
        }
        Ok(events)
    }

    fn frame(bytes: &'static [u8]) -> Event {
        Event::Frame(Bytes::from_static(bytes))
    }

    #[test]
    fn each_event_has_its_bytes() {
        let close = Event::Close { code: 1013, reason: "too slow; come back and resume".into() };
        for (event, bytes) in [
            (Event::Session("abc_-".into()), &b"event: session\ndata: abc_-\n\n"[..]),
            (frame(b"\x93\x03"), b"data: kwM=\n\n"),
            (frame(b""), b"data: \n\n"),
            (Event::Ping, b": ping\n\n"),
            (Event::Alive, b":\n\n"),
            (close, b"event: close\ndata: 1013 too slow; come back and resume\n\n"),
            (Event::Close { code: 1002, reason: String::new() }, b"event: close\ndata: 1002 \n\n"),
        ] {
            assert_eq!(event.encode(), bytes);
            assert_eq!(read(&[bytes]), Ok(vec![event]));
        }
    }

    #[test]
    fn a_stream_is_read_as_the_standard_says() {
        for text in ["data: kwM=\n\n", "data:kwM=\r\n\r\n", "data: kwM=\r\r", "event\ndata: kwM=\nid: 7\nretry\n\n"] {
            assert_eq!(read(&[text.as_bytes()]), Ok(vec![frame(b"\x93\x03")]), "{text:?}");
        }
        assert_eq!(read(&[b"data: kwM=\r", b"\n\r", b"\ndata: kwM=\n\n"]).unwrap().len(), 2);
        assert_eq!(read(&[b"event: later\ndata: x\n\n"]), Ok(vec![]), "what a later version says is passed over");
        assert_eq!(read(&[b"\n\ndata: kwM="]), Ok(vec![]), "half an event is none");
        let close = Event::Close { code: 1002, reason: String::new() };
        assert_eq!(read(&[b"event: close\ndata: 1002\n\n"]), Ok(vec![close]));
    }

    #[test]
    fn what_is_no_stream_of_a_relay_is_refused_and_fills_no_memory() {
        for (text, error) in [
            ("data: <html>\n\n", SseError::Malformed),
            ("data: kwM\n\n", SseError::Malformed),
            ("data: kwM=\ndata: kwM=\n\n", SseError::Malformed),
            ("event: close\ndata: soon\n\n", SseError::Malformed),
            (&format!(":{}", "x".repeat(MAX_LINE)), SseError::TooLong),
        ] {
            assert_eq!(read(&[text.as_bytes()]), Err(error), "{text:.20}");
        }
        let largest = Event::Frame(vec![7; MAX_FRAME].into());
        assert_eq!(read(&[&largest.encode()]), Ok(vec![largest]));
    }

    #[test]
    fn a_post_has_its_bytes() {
        let frames = [&b"\x93\x03\x05"[..], b""].map(Bytes::from_static).to_vec();
        let post = Post { number: 258, frames };
        let bytes = [0, 0, 0, 0, 0, 0, 1, 2, 0, 3, 0x93, 3, 5, 0, 0];
        assert_eq!(post.encode(), bytes);
        assert_eq!(Post::decode(&bytes), Ok(post));
        for cut in [0, 7, 9, 10, 12, 14] {
            assert_eq!(Post::decode(&bytes[..cut]), Err(PostError::Malformed), "cut at {cut}");
        }
        let giant = Post { number: 1, frames: vec![vec![0; MAX_FRAME + 1].into()] };
        assert_eq!(Post::decode(&giant.encode()), Err(PostError::TooLarge));
        assert_eq!(Post::decode(&vec![0; MAX_POST + 1]), Err(PostError::TooLarge));
    }

    #[test]
    fn as_many_frames_as_fit_are_sent_together() {
        let frames: Vec<Bytes> =
            [MAX_FRAME, MAX_FRAME, MAX_FRAME, MAX_FRAME, 1].map(|length| vec![0; length].into()).into();
        let count = Post::fitting(&frames);
        assert_eq!(count, 3);
        let body = Post { number: 1, frames: frames[..count].to_vec() }.encode();
        assert!(body.len() <= MAX_POST && Post::decode(&body).is_ok());
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_the_same_events_come_out(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1_usize..20,
        ) {
            let events: Vec<Event> = frames.into_iter().map(|frame| Event::Frame(frame.into())).collect();
            let bytes = events.iter().flat_map(Event::encode).collect::<Vec<u8>>();
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            prop_assert_eq!(read(&pieces), Ok(events));
        }

        #[test]
        fn a_post_comes_out_as_it_went_in(
            number in 1_u64..,
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let post = Post { number, frames: frames.into_iter().map(Bytes::from).collect() };
            prop_assert_eq!(Post::decode(&post.encode()), Ok(post));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[&bytes]);
            let _ = Post::decode(&bytes);
        }
    }
}
