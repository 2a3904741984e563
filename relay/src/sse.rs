//! Packets as server-sent events: the head of the answer that never ends, and each WebSocket packet in the other clothes.
//!
//! Everything in the relay makes WebSocket packets, which are shared by all who get them. Only the outbox of a stream turns
//! them into events as they come: it is the rarer way, and pays for itself.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use gatepass_protocol::sse::Event;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, OpCode};

use crate::websocket::Packet;

/// Some proxies pass nothing on before they have this much.
const PADDING: usize = 2 * 1024;

/// The answer to `GET /v1/events`, up to the first event, and that: the stream's token. It ends with the socket.
pub(crate) fn opening(token: &str, now: u64) -> Vec<u8> {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
    let padding = " ".repeat(PADDING);
    // X-Accel-Buffering is nginx's; others keep what may be stored or transformed until it is whole.
    let head = format!(
        "HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-type: text/event-stream\r\ncache-control: no-store, no-transform\r\n\
         x-accel-buffering: no\r\nconnection: close\r\n\r\n:{padding}\n\n"
    );
    [head.into_bytes(), Event::Session(token.to_owned()).encode()].concat()
}

/// The events of a packet.
pub(crate) fn events(packet: &Packet) -> Packet {
    Packet::raw(
        packet.frames().flat_map(|(opcode, payload)| event(opcode, payload).encode()).collect::<Vec<u8>>().into(),
    )
}

fn event(opcode: OpCode, payload: Bytes) -> Event {
    match opcode {
        OpCode::Data(_) => Event::Frame(payload),
        OpCode::Control(Control::Ping) => Event::Ping,
        OpCode::Control(Control::Close) => {
            let (code, reason) = payload.split_first_chunk().unwrap_or((&[0; 2], &[]));
            Event::Close { code: u16::from_be_bytes(*code), reason: String::from_utf8_lossy(reason).into_owned() }
        }
        OpCode::Control(_) => Event::Alive,
    }
}

#[cfg(test)]
mod tests {
    use gatepass_protocol::sse::Reader;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Event> {
        let mut events = vec![];
        Reader::default().read(bytes, |event| events.push(event)).unwrap();
        events
    }

    #[test]
    fn what_goes_to_a_websocket_goes_to_a_stream() {
        for length in [0, 1, 125, 126, 8_192] {
            let frame = vec![length as u8; length];
            let packets = [
                Packet::binary(&frame),
                Packet::ping(),
                Packet::pong(b""),
                Packet::close(CloseCode::Again, "too slow; come back and resume"),
            ];
            let close = Event::Close { code: 1013, reason: "too slow; come back and resume".into() };
            let expected = [Event::Frame(frame.into()), Event::Ping, Event::Alive, close];
            assert_eq!(read(events(&Packet::joined(&packets)).bytes()), expected, "written together");
            let each = packets.iter().flat_map(|packet| read(events(packet).bytes()));
            assert_eq!(each.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_stream_begins_as_a_proxy_expects_it_and_with_its_token() {
        let opening = String::from_utf8(opening("token", 784_111_777)).unwrap();
        let (head, body) = opening.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), "{head}");
        assert_eq!(read(body.as_bytes()), [Event::Alive, Event::Session("token".into())]);
    }
}
