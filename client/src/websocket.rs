//! Frames over a WebSocket, one a binary message.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gatepass_protocol::frame::{Frame, MAX_FRAME};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message, client::IntoClientRequest, error::ProtocolError, http::header::RETRY_AFTER,
        protocol::WebSocketConfig,
    },
};

use crate::{
    Endpoint, Settings, Why,
    dial::{Stream, dial},
    link::{End, Opened},
};

/// From the open stream to the relay's answer.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the answer to the challenge, which a relay sends right behind it.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(5);
/// The read buffer is held by every connection; the default would be 128 KiB.
const READ_BUFFER: usize = 4 * 1024;

/// A WebSocket.
pub(crate) struct WebSocket {
    socket: WebSocketStream<Box<dyn Stream>>,
    relay: String,
}

/// Why there is none.
pub(crate) enum Failed {
    /// The relay is not there, or does not want to.
    Here(End),
    /// Something between it and us has no liking for WebSockets, by all appearances.
    Between(End),
    /// There was no answer at all: the relay has too much to do, or is gone; or its answer, or the question, was swallowed.
    Unanswered(End),
}

/// Opens a WebSocket, as far as the relay's challenge.
pub(crate) async fn open(settings: &Settings, relay: &Endpoint) -> Result<Opened<WebSocket>, Failed> {
    let stream = dial(relay, &settings.tls, &settings.proxies).await;
    let stream = stream.map_err(|error| Failed::Here(Why::from(error).into()))?;
    let name = relay.authority();
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * MAX_FRAME)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    // TLS is already below, so the scheme only decides the Host header's default port.
    let scheme = if relay.is_secure() { "wss" } else { "ws" };
    let request = format!("{scheme}://{name}/v1/ws").into_client_request();
    let request = request.map_err(|error| Failed::Here(broken(&name, error)))?;
    let upgraded = timeout(UPGRADE_TIMEOUT, client_async_with_config(request, stream, Some(config))).await;
    let upgraded = upgraded.map_err(|_| Failed::Unanswered(End::silent(&name)))?;
    let (socket, _) = upgraded.map_err(|error| match error {
        tungstenite::Error::Http(answer) => {
            let asks_to_wait =
                matches!(answer.status().as_u16(), 429 | 503) && answer.headers().contains_key(RETRY_AFTER);
            let end = http(&name, &answer);
            if asks_to_wait { Failed::Here(end) } else { Failed::Between(end) }
        }
        tungstenite::Error::Io(_) | tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            Failed::Unanswered(broken(&name, error))
        }
        error => Failed::Between(broken(&name, error)),
    })?;
    let mut socket = WebSocket { socket, relay: name.clone() };
    let first = async {
        loop {
            if let Some(frame) = socket.next().await? {
                return Ok(frame);
            }
        }
    };
    let first = timeout(CHALLENGE_TIMEOUT, first).await.unwrap_or_else(|_| Err(End::silent(&name)));
    match first.map_err(Failed::Between)? {
        Frame::Challenge { nonce, .. } => Ok((socket, nonce)),
        _ => Err(Failed::Here(End::bad_frame(&name, "no challenge"))),
    }
}

impl WebSocket {
    /// The next frame, or nothing where WebSocket spoke for itself.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, End> {
        let relay = &self.relay;
        match self.socket.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                Frame::decode(&bytes).map(Some).map_err(|error| End::bad_frame(relay, error))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
            Some(Ok(Message::Text(_))) => Err(End::bad_frame(relay, "text")),
            Some(Ok(Message::Close(Some(close)))) => Err(End::cut(relay, format!("closed with {}", close.code))),
            Some(Ok(Message::Close(None))) | None => Err(End::cut(relay, "closed")),
            Some(Err(error)) => Err(broken(relay, error)),
        }
    }

    /// Sends these frames with one flush.
    pub(crate) async fn send(&mut self, frames: impl IntoIterator<Item = Frame>) -> Result<(), End> {
        let write = async {
            for frame in frames {
                self.socket.feed(Message::Binary(frame.encode().into())).await?;
            }
            self.socket.flush().await
        };
        write.await.map_err(|error| broken(&self.relay, error))
    }

    /// Asks for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), End> {
        self.socket.send(Message::Ping(Bytes::new())).await.map_err(|error| broken(&self.relay, error))
    }

    /// Says goodbye.
    pub(crate) async fn close(&mut self) {
        let _ = self.socket.close(None).await;
    }
}

fn http<B>(relay: &str, answer: &tungstenite::http::Response<B>) -> End {
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    End::not_opened(relay, answer.status().as_u16(), retry_after)
}

fn broken(relay: &str, error: tungstenite::Error) -> End {
    match error {
        tungstenite::Error::Http(answer) => http(relay, &answer),
        tungstenite::Error::Capacity(error) => End::bad_frame(relay, error),
        error => End::cut(relay, error),
    }
}
