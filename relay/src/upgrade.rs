//! How a socket becomes a WebSocket (RFC 6455, section 4.2).
//!
//! Nearly every socket of a relay asks for that first, and for nothing else. So its first request is looked at here, before
//! there is an HTTP server for it: where it is the one for a WebSocket, no such server is made, and the answer goes out in one
//! write with the CHALLENGE. Whatever else it is, and whatever is wrong with it, is given back to be read by hyper.

use std::io;

use httparse::{EMPTY_HEADER, Request, Status};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Where clients come in.
pub(crate) const PATH: &str = "/v1/ws";
/// How the request begins that is looked at here.
const REQUEST_LINE: &[u8] = b"GET /v1/ws HTTP/1.1\r\n";
/// A request with more headers is given back. Browsers and proxies send about 20.
const MAX_HEADERS: usize = 64;
/// Most requests fit.
const USUAL_HEAD: usize = 1_024;

/// What a socket asked for first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A WebSocket.
    WebSocket {
        /// What its key is answered with.
        accept: String,
        /// What the client sent behind its request.
        early: Vec<u8>,
    },
    /// Something else, of which this has been read.
    Other(Vec<u8>),
}

/// Reads a socket's first request, of at most `longest` bytes, as far as it takes to know whether it is for a WebSocket.
pub(crate) async fn ask(socket: &mut (impl AsyncRead + Unpin), longest: usize) -> io::Result<Asked> {
    let mut head = Vec::with_capacity(USUAL_HEAD);
    loop {
        let read = head.len();
        if socket.read_buf(&mut head).await? == 0 {
            return Ok(Asked::Other(head));
        }
        let beginning = head.len().min(REQUEST_LINE.len());
        if head[..beginning] != REQUEST_LINE[..beginning] || head.len() > longest {
            return Ok(Asked::Other(head));
        }
        // Parsed once, when its end is there: a request that comes byte by byte must not be parsed as often.
        if has_end(&head[read.saturating_sub(2)..]) {
            return Ok(match parse(&head) {
                Some((accept, length)) => Asked::WebSocket { accept, early: head.split_off(length) },
                None => Asked::Other(head),
            });
        }
    }
}

/// Whether there is an empty line, with carriage returns or without.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|three| three == b"\n\r\n" || three[1..] == *b"\n\n")
}

/// The answer to a well-formed upgrade request's key, and how long the request is.
fn parse(bytes: &[u8]) -> Option<(String, usize)> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    let Ok(Status::Complete(length)) = request.parse(bytes) else { return None };
    let headers = &*request.headers;
    // A body would be read as frames.
    let has_body = ["content-length", "transfer-encoding"]
        .iter()
        .any(|body| headers.iter().any(|header| header.name.eq_ignore_ascii_case(body)));
    let named = |name: &'static str| {
        headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    accept_key(named).filter(|_| !has_body).map(|accept| (accept, length))
}

/// The answer to the key of a well-formed upgrade request, given the values of each header.
pub(crate) fn accept_key<'a, V: Iterator<Item = &'a [u8]>>(headers: impl Fn(&'static str) -> V) -> Option<String> {
    let lists = |name, wanted: &str| {
        let mut tokens = headers(name).flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
    };
    let well_formed = lists("connection", "upgrade")
        && lists("upgrade", "websocket")
        && headers("sec-websocket-version").next() == Some(b"13");
    let key = headers("sec-websocket-key").next().filter(|_| well_formed)?;
    Some(derive_accept_key(key))
}

/// The answer that makes a socket a WebSocket.
pub(crate) fn switching(accept: &str) -> Vec<u8> {
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ";
    [head, accept, "\r\n\r\n"].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const LONGEST: usize = 4_096;
    const REQUEST: &str = "GET /v1/ws HTTP/1.1\r\nHost: relay\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    /// RFC 6455, section 1.3.
    const ANSWER: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    /// What is made of bytes that come in pieces, and what is left of them.
    async fn asked(sent: &[u8], piece: usize) -> (Asked, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(piece);
        let write = async move {
            // The other end may have seen enough.
            let _ = near.write_all(sent).await;
        };
        let read = async move {
            let asked = ask(&mut far, LONGEST).await.unwrap();
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
            (asked, rest)
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn a_websocket_is_asked_for_in_one_piece_or_in_many_and_what_follows_is_its_own() {
        let sent = [REQUEST.as_bytes(), b"frames"].concat();
        for piece in [1, 7, REQUEST.len(), sent.len()] {
            let (asked, rest) = asked(&sent, piece).await;
            let Asked::WebSocket { accept, early } = asked else { panic!("in pieces of {piece}: {asked:?}") };
            assert_eq!((accept.as_str(), [early, rest].concat()), (ANSWER, b"frames".to_vec()), "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn whatever_else_it_is_nothing_of_it_is_lost() {
        let line = |old: &str, new: &str| REQUEST.replace(old, new);
        for sent in [
            line("GET", "POST"),
            line("/v1/ws", "/health/live"),
            line("/v1/ws", "/v1/ws?x"),
            line("HTTP/1.1", "HTTP/1.0"),
            line("Upgrade: WebSocket", "Upgrade: h2c"),
            line(", Upgrade", ""),
            line("Version: 13", "Version: 12"),
            line("Key: ", "Cookie: "),
            line("Host: relay", "Content-Length: 6"),
            line("Host: relay", "Transfer-Encoding: chunked"),
            line("Host: relay", "Host relay"),
            line("Host: relay", &"X: y\r\n".repeat(MAX_HEADERS)),
            line("Host: relay", &format!("X: {}", "y".repeat(LONGEST))),
            line("\r\n\r\n", ""),
            line("\r\n\r\n", "\r\n\n").replace("Version: 13", "Version: 12"),
            String::new(),
            "\u{16}\u{3}\u{1}".into(),
        ] {
            for piece in [1, 100, 8_192] {
                let (asked, rest) = asked(sent.as_bytes(), piece).await;
                let Asked::Other(read) = asked else { panic!("{sent}") };
                assert_eq!(String::from_utf8([read, rest].concat()).unwrap(), sent);
            }
        }
    }

    #[tokio::test]
    async fn what_can_not_become_a_websocket_is_not_waited_for() {
        // The sender waits for an answer, so there is no more to come.
        let (mut near, mut far) = tokio::io::duplex(LONGEST);
        for nonsense in ["GET /x", "\n", "GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\n\n"] {
            near.write_all(nonsense.as_bytes()).await.unwrap();
            assert_eq!(ask(&mut far, LONGEST).await.unwrap(), Asked::Other(nonsense.into()));
        }
    }

    #[test]
    fn the_answer_is_one_that_clients_take() {
        let mut headers = [EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut headers);
        let answer = switching(ANSWER);
        assert_eq!(response.parse(&answer), Ok(Status::Complete(answer.len())));
        assert_eq!(response.code, Some(101));
    }
}
