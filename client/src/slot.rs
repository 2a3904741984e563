//! The messages of an enrolment by words, fetched and sent through a control plane that need not be honest:
//! [`gatepass_protocol::slot`] judges what comes.

use std::time::Duration;

use gatepass_protocol::{
    api::{Base64, SlotMessage},
    ids::Serial,
    slot::{LARGEST, OPEN_FOR},
};
use hyper::Method;
use tokio::time::{Instant, sleep};

use crate::{Http, HttpError};

/// A server holds the answer back while there is none; one that does not is not asked all the time.
const PAUSE: Duration = Duration::from_millis(250);

/// One end's way to a slot.
pub struct Slot {
    http: Http,
    /// `/api/v1/enrol/slots/SLOT`, or the same below a tenant.
    path: String,
    /// When it is over by this end's clock, whatever the server says.
    until: Instant,
}

/// Why a message did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The server was not reached, or says that the slot is over.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Nobody answered.
    #[error("ten minutes have passed, and this enrolment is over: start anew with new words")]
    Late,
    /// Larger than any message there is.
    #[error("what the server gave as a message is larger than any: is it a Gatepass server?")]
    TooLarge,
}

impl Slot {
    /// The phone's way to a slot that was opened now.
    pub fn of_phone(http: Http, slot: Serial) -> Self {
        Self::at(http, format!("/api/v1/enrol/slots/{slot}"))
    }

    /// The administrator's way to a slot of a tenant, whose path is given: `/api/v1/tenants/TENANT`.
    pub fn of_tenant(http: Http, tenant: &str, slot: Serial) -> Self {
        Self::at(http, format!("{tenant}/slots/{slot}"))
    }

    fn at(http: Http, path: String) -> Self {
        Self { http, path, until: Instant::now() + Duration::from_secs(OPEN_FOR) }
    }

    /// Waits for a message of the other end.
    pub async fn hear(&self, number: u8) -> Result<Vec<u8>, SlotError> {
        let path = format!("{}/messages/{number}", self.path);
        loop {
            if Instant::now() >= self.until {
                return Err(SlotError::Late);
            }
            match self.http.request(Method::GET, &path, None).await {
                Ok(answer) if answer.status == 200 => {
                    let SlotMessage { message: Base64(bytes) } = answer.json()?;
                    return if bytes.len() <= LARGEST { Ok(bytes.to_vec()) } else { Err(SlotError::TooLarge) };
                }
                Ok(_) => {}
                Err(error) if error.may_pass() => tracing::warn!(%error, "still waiting"),
                Err(error) => return Err(error.into()),
            }
            sleep(PAUSE).await;
        }
    }

    /// Sends this end's message. An answer that was lost is asked for again: the same message twice is the same.
    pub async fn say(&self, number: u8, message: Vec<u8>) -> Result<(), SlotError> {
        let path = format!("{}/messages/{number}", self.path);
        let message = SlotMessage { message: message.into() };
        loop {
            match self.http.send_json(Method::PUT, &path, &message).await {
                Ok(_) => return Ok(()),
                Err(error) if error.may_pass() && Instant::now() < self.until => sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends it, so that the other end need not wait. Where the server can't be told, it ends by itself.
    pub async fn close(&self) {
        if let Err(error) = self.http.request(Method::DELETE, &self.path, None).await {
            tracing::debug!(%error, "the slot was not closed");
        }
    }
}
