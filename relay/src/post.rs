//! `POST /v1/send`: what a client says to its stream of events, on a socket of its own.
//!
//! The token is looked at before the body; a body is read within the time that a handshake has, one of a stream at a time,
//! and no larger than [`MAX_POST`].

use std::time::Duration;

use bytes::Bytes;
use gatepass_protocol::sse::{MAX_POST, Post, PostError};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderValue},
};
use tokio::time::timeout;

use crate::{
    core::Core,
    metrics::{Label, Limit, Posted},
    stream::Address,
};

/// Takes a POST to a stream, and says what became of it.
pub(crate) async fn take(
    core: &Core,
    to: Option<Address>,
    request: Request<Incoming>,
    limit: Duration,
) -> Response<Full<Bytes>> {
    let posted = match to {
        Some(to) => read_and_send(core, &to, request, limit).await.unwrap_or_else(|refused| refused),
        None => Posted::Forged,
    };
    core.metrics.posts.inc(posted);
    match posted {
        Posted::TooLarge => core.metrics.refused.inc(Limit::FrameSize),
        Posted::Slow => core.metrics.refused.inc(Limit::HandshakeTime),
        _ => {}
    }
    response(posted)
}

async fn read_and_send(
    core: &Core,
    to: &Address,
    request: Request<Incoming>,
    limit: Duration,
) -> Result<Posted, Posted> {
    let reading = core.streams.read(to).ok_or(Posted::Busy)?;
    // Before any of it is read, where it says how long it is.
    if request.body().size_hint().lower() > MAX_POST as u64 {
        return Err(Posted::TooLarge);
    }
    let body = timeout(limit, Limited::new(request.into_body(), MAX_POST).collect()).await.map_err(|_| Posted::Slow)?;
    let body =
        body.map_err(|error| if error.is::<LengthLimitError>() { Posted::TooLarge } else { Posted::Malformed })?;
    let body = body.to_bytes();
    let post = Post::decode(&body).map_err(|error| match error {
        PostError::TooLarge => Posted::TooLarge,
        PostError::Malformed => Posted::Malformed,
    })?;
    let posted = core.streams.send(core.plane.as_ref(), to, post, body).await;
    drop(reading);
    Ok(posted)
}

fn response(posted: Posted) -> Response<Full<Bytes>> {
    let (status, headers): (_, &[_]) = match posted {
        Posted::Taken | Posted::Repeated => (StatusCode::NO_CONTENT, &[]),
        Posted::OutOfOrder => (StatusCode::CONFLICT, &[]),
        Posted::Gone => (StatusCode::GONE, &[]),
        Posted::Busy => (StatusCode::SERVICE_UNAVAILABLE, &[(header::RETRY_AFTER, "1")]),
        Posted::Forged => (StatusCode::UNAUTHORIZED, &[(header::WWW_AUTHENTICATE, "Bearer")]),
        Posted::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, &[(header::CONNECTION, "close")]),
        Posted::Malformed => (StatusCode::BAD_REQUEST, &[(header::CONNECTION, "close")]),
        Posted::Slow => (StatusCode::REQUEST_TIMEOUT, &[(header::CONNECTION, "close")]),
    };
    let body = if status == StatusCode::NO_CONTENT { Bytes::new() } else { format!("{}\n", posted.text()).into() };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
