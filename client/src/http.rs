//! HTTP for everything that is asked once: enrolment, statements, audit events, administration. JSON both ways, the same TLS
//! settings as the realtime connection, one connection a request, bounded in time and size.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{task::JoinSet, time::timeout};
use zeroize::Zeroizing;

use crate::{DialError, Endpoint, EndpointError, Proxies, Tls, dial::dial};

/// From the first byte sent to the last received. Argon2id and a busy disk on the other side fit in easily.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answers are a page of the audit trail, and a tenant whose three lists are as large as a control plane takes.
const LARGEST_ANSWER: usize = 8 << 20;
/// A refusal is shown to a person: this many characters of it.
const LONGEST_SENTENCE: usize = 500;

/// A server that answers JSON requests.
#[derive(Clone)]
pub struct Http {
    endpoint: Endpoint,
    tls: Tls,
    proxies: Proxies,
    bearer: Option<Arc<Zeroizing<String>>>,
    program: &'static str,
}

/// An answer whose status was in the 200s.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status: 200, or for example 202 where the work is still waiting for somebody.
    pub status: u16,
    /// The body as it came.
    pub body: Bytes,
    server: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is not one.
    #[error(transparent)]
    Address(#[from] EndpointError),
    /// The server was not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A token would travel in clear over a network.
    #[error("{server} is not reached over TLS, so the token was not sent: use https")]
    Insecure {
        /// Who was to be called.
        server: String,
    },
    /// The connection broke off.
    #[error("{server} broke off the connection ({reason}): try again")]
    Broken {
        /// Who was called.
        server: String,
        /// What HTTP said.
        reason: String,
    },
    /// No answer in time.
    #[error("{server} took longer than {} seconds to answer: try again later", ANSWER_TIMEOUT.as_secs())]
    Slow {
        /// Who was called.
        server: String,
    },
    /// The server said no.
    #[error("{server} refused ({status}): {message}")]
    Refused {
        /// Who was called.
        server: String,
        /// The HTTP status.
        status: u16,
        /// The server's own sentence.
        message: String,
        /// How many seconds it asks to wait, where it does.
        retry_after: Option<u64>,
    },
    /// The answer is not what was asked for.
    #[error(
        "{server} gave an answer that this version does not understand ({reason}): is it a Gatepass server of the same age?"
    )]
    Strange {
        /// Who was called.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl HttpError {
    /// Whether the same question may be answered a little later: the network's or the server's trouble, not the question's.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Dial(error) => !error.needs_somebody(),
            Self::Broken { .. } | Self::Slow { .. } => true,
            Self::Refused { status, .. } => matches!(status, 429 | 500..),
            Self::Address(_) | Self::Insecure { .. } | Self::Strange { .. } => false,
        }
    }
}

/// What a refusal's body says: an RFC 9457 problem.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

impl Http {
    /// A server at `https://host[:port]`.
    pub fn new(base: &str, tls: Tls, proxies: Proxies) -> Result<Self, HttpError> {
        Ok(Self {
            endpoint: base.parse()?,
            tls,
            proxies,
            bearer: None,
            program: concat!("gatepass/", env!("CARGO_PKG_VERSION")),
        })
    }

    /// The same server, showing a token with each request.
    pub fn with_bearer(mut self, token: &str) -> Self {
        self.bearer = Some(Arc::new(Zeroizing::new(format!("Bearer {}", token.trim()))));
        self
    }

    /// The same server, told which program asks: `name/version`.
    pub fn with_program(mut self, program: &'static str) -> Self {
        self.program = program;
        self
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// GET `path`, answered in JSON.
    pub async fn get_json<A: DeserializeOwned>(&self, path: &str) -> Result<A, HttpError> {
        self.request(Method::GET, path, None).await?.json()
    }

    /// POST `question` as JSON to `path`, answered in JSON.
    pub async fn post_json<Q: Serialize + ?Sized, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<A, HttpError> {
        self.send_json(Method::POST, path, question).await?.json()
    }

    /// Any method with a JSON body; the caller looks at the status.
    pub async fn send_json<Q: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        question: &Q,
    ) -> Result<Answer, HttpError> {
        let body = serde_json::to_vec(question).map_err(|error| self.strange(&error))?;
        self.request(method, path, Some(body)).await
    }

    /// Any method; the caller looks at the status.
    pub async fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Answer, HttpError> {
        let server = self.endpoint.authority();
        if self.bearer.is_some() && !self.endpoint.is_secure() && !self.endpoint.is_loopback() {
            return Err(HttpError::Insecure { server });
        }
        let stream = dial(&self.endpoint, &self.tls, &self.proxies).await?;
        let question = self.question(method, path, body)?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Dropped at the end of the exchange, which ends the connection with it.
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            let (head, body) = sender.send_request(question).await?.into_parts();
            Ok::<_, hyper::Error>((head, Limited::new(body, LARGEST_ANSWER).collect().await))
        };
        let (head, body) = timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(|_| HttpError::Slow { server: server.clone() })?
            .map_err(|error| HttpError::Broken { server: server.clone(), reason: error.to_string() })?;
        let body =
            body.map_err(|error| HttpError::Broken { server: server.clone(), reason: error.to_string() })?.to_bytes();
        let status = head.status;
        if status.is_success() {
            return Ok(Answer { status: status.as_u16(), body, server });
        }
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let message =
            refusal(&body).unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
        Err(HttpError::Refused { server, status: status.as_u16(), message, retry_after })
    }

    fn question(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut question = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.endpoint.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, self.program);
        if body.is_some() {
            question = question.header(CONTENT_TYPE, "application/json");
        }
        if let Some(bearer) = &self.bearer {
            let mut value = HeaderValue::from_str(bearer).map_err(|error| self.strange(&error))?;
            value.set_sensitive(true);
            question = question.header(AUTHORIZATION, value);
        }
        question.body(Full::from(body.unwrap_or_default())).map_err(|error| self.strange(&error))
    }

    fn strange(&self, reason: &dyn std::fmt::Display) -> HttpError {
        HttpError::Strange { server: self.endpoint.authority(), reason: reason.to_string() }
    }
}

impl Answer {
    /// The body, read as JSON.
    pub fn json<A: DeserializeOwned>(&self) -> Result<A, HttpError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| HttpError::Strange { server: self.server.clone(), reason: error.to_string() })
    }
}

/// The server's own sentence, if it sent one: it may be a stranger's page, so only JSON of the expected form counts.
fn refusal(body: &[u8]) -> Option<String> {
    let problem: Problem = serde_json::from_slice(body).ok()?;
    Some(problem.detail.chars().take(LONGEST_SENTENCE).collect())
}
