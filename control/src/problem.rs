//! Every way in which the control plane says no, as an RFC 9457 problem: what happened, to what, what to do next.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

use gatepass_protocol::Code;
use gatepass_protocol::slot::TooMany;

use crate::access::Role;
use crate::store::StoreError;

/// Why a request was not carried out. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Send a token that administers this tenant.
    #[error(
        "the token is missing, or does not administer this tenant: use the token file that 'gatepass tenant create' wrote"
    )]
    SignIn,
    /// Send the operator's token.
    #[error(
        "the token is missing, or not the operator's: use operator.token, which the server wrote into its state folder"
    )]
    OperatorOnly,
    /// Send the relays' token.
    #[error("the token is missing, or not the relays': use relay.token, which the server wrote into its state folder")]
    RelaysOnly,
    /// Try again with the right ones.
    #[error(
        "the name, the password or the code is wrong, the code was used before, or too many wrong ones were tried; wait for the \
         next code, and after five wrong tries for up to fifteen minutes"
    )]
    WrongSignIn,
    /// Ask for a new token.
    #[error("this token has expired; ask for a new one")]
    TokenExpired,
    /// Ask somebody with another role.
    #[error("the role {role} may not do this; ask an administrator of the tenant")]
    NotAllowed {
        /// The token's role.
        role: Role,
    },
    /// Fetch it again, and decide again.
    #[error("it was changed by somebody else since you looked, and is left as it is; look again")]
    Changed,
    /// Remove what was made, and make it again with another key.
    #[error(
        "this was done before with the same idempotency key, as {0}, and its secret was shown then: remove that one, and ask for another"
    )]
    SecretShown(String),
    /// Correct the address.
    #[error("there is nothing at this address for this method")]
    NoSuchPage,
    /// Correct the request.
    #[error("{0}")]
    Fix(String),
    /// Send less.
    #[error("the request is larger than {limit} bytes")]
    TooLarge {
        /// The most that is taken.
        limit: usize,
    },
    /// Send faster, or check the network.
    #[error("the request did not arrive in time; send it again")]
    Slow,
    /// Name one that exists.
    #[error("there is no {what} {name} in this tenant")]
    Missing {
        /// What kind of thing.
        what: &'static str,
        /// The name or identifier that was given.
        name: String,
    },
    /// Choose another name, or use the one that is there.
    #[error("there already is a {what} {name}")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name or identifier.
        name: String,
    },
    /// Sign again with a CA key of the tenant, or with fitting contents.
    #[error("the {what} was refused: {code}")]
    Statement {
        /// What kind of statement.
        what: &'static str,
        /// What an agent or a phone would say to it.
        code: Code,
    },
    /// Fetch the newest statement and sign the next epoch.
    #[error("the {kind} has epoch {got}, but epoch {newest} is in force; fetch it, and sign a higher one")]
    EpochBehind {
        /// What kind of statement.
        kind: &'static str,
        /// The epoch that was sent.
        got: u64,
        /// The epoch in force.
        newest: u64,
    },
    /// Ask the administrator for a new ticket.
    #[error("the ticket has expired, or is not valid yet by the server's clock; ask your administrator for a new one")]
    TicketExpired,
    /// Ask the administrator for a new ticket.
    #[error("the ticket has been used {uses} times, which is all it allows; ask your administrator for a new one")]
    TicketUsedUp {
        /// How often it may be used.
        uses: u32,
    },
    /// Ask for the right one.
    #[error("there is no tenant with this tag: ask your administrator, whom 'gatepass device enrol' tells it")]
    NoSuchTag,
    /// Wait, or enrol by a ticket.
    #[error(transparent)]
    TooMany(TooMany),
    /// Open a new slot.
    #[error(
        "this enrolment is over: it was ended at one of its two ends, or ten minutes have passed; start anew with new words"
    )]
    SlotOver,
    /// Try again a little later.
    #[error("the control plane has more to do than it can; try again in a few seconds")]
    Overloaded,
    /// Tell the operator.
    #[error("the control plane failed; its log says why")]
    Failed,
    /// See the variant of [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    /// A stable name, the last part of the problem's type.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Refusal::SignIn | Refusal::OperatorOnly | Refusal::RelaysOnly => "sign-in",
            Refusal::WrongSignIn => "wrong-sign-in",
            Refusal::TokenExpired => "token-expired",
            Refusal::NotAllowed { .. } => "not-allowed",
            Refusal::Changed => "changed",
            Refusal::SecretShown(_) => "secret-shown",
            Refusal::NoSuchPage => "no-such-page",
            Refusal::Fix(_) => "fix",
            Refusal::TooLarge { .. } => "too-large",
            Refusal::Slow => "slow",
            Refusal::Missing { .. } => "missing",
            Refusal::Exists { .. } => "exists",
            Refusal::Statement { .. } => "statement",
            Refusal::EpochBehind { .. } => "epoch-behind",
            Refusal::TicketExpired => "ticket-expired",
            Refusal::TicketUsedUp { .. } => "ticket-used-up",
            Refusal::NoSuchTag => "no-such-tag",
            Refusal::TooMany(_) => "too-many",
            Refusal::SlotOver => "slot-over",
            Refusal::Overloaded => "overloaded",
            Refusal::Store(StoreError::DiskFull) => "disk-full",
            Refusal::Store(StoreError::Busy) => "busy",
            Refusal::Store(StoreError::Gone(_)) => "database-gone",
            Refusal::Store(StoreError::Unsure) => "unsure",
            Refusal::Failed | Refusal::Store(_) => "failed",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::SignIn
            | Refusal::OperatorOnly
            | Refusal::RelaysOnly
            | Refusal::TokenExpired
            | Refusal::WrongSignIn => StatusCode::UNAUTHORIZED,
            Refusal::NotAllowed { .. } => StatusCode::FORBIDDEN,
            Refusal::Changed => StatusCode::PRECONDITION_FAILED,
            Refusal::NoSuchPage | Refusal::NoSuchTag | Refusal::Missing { .. } => StatusCode::NOT_FOUND,
            Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::SlotOver => StatusCode::GONE,
            Refusal::Fix(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Slow => StatusCode::REQUEST_TIMEOUT,
            Refusal::Exists { .. } | Refusal::EpochBehind { .. } | Refusal::SecretShown(_) => StatusCode::CONFLICT,
            Refusal::Statement { .. } | Refusal::TicketExpired | Refusal::TicketUsedUp { .. } => StatusCode::FORBIDDEN,
            Refusal::Overloaded | Refusal::Store(StoreError::Busy | StoreError::Gone(_) | StoreError::Unsure) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::Store(StoreError::DiskFull) => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::Failed | Refusal::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer on the wire. What a broken database said stays in the log: it is no business of whoever asked.
    pub(crate) fn response(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let detail = match self {
            Refusal::Store(StoreError::Gone(reason)) => {
                tracing::error!(%reason, "the database can't be reached");
                "the database can't be reached; nothing was written, try again".to_owned()
            }
            Refusal::Store(error) if status == StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!(%error, "the database failed");
                Refusal::Failed.to_string()
            }
            other => other.to_string(),
        };
        let mut problem = serde_json::json!({
            "type": format!("urn:gatepass:problem:{}", self.name()),
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": detail,
        });
        if let Refusal::Statement { code, .. } = self {
            problem["code"] = code.number().into();
        }
        let mut response = Response::new(Full::from(problem.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self {
            Refusal::TooMany(TooMany { wait, .. }) => headers.insert(RETRY_AFTER, HeaderValue::from(*wait)),
            _ if status == StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("2"))
            }
            _ => None,
        };
        response
    }
}
