//! What happened here, signed, for the tenant's trail: spooled on the disk first, then posted until the control plane has it.
//!
//! Events are numbered without gaps for each computer, so a trail from which one is missing shows it. The spool is bounded;
//! when the control plane is away for so long that it fills up, new events are counted but not kept, and the gap in the
//! numbers says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gatepass_client::api::{Base64, NewEvent};
use gatepass_client::{Http, HttpError, Method};
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::{ComputerId, TenantId};
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::signed::Signed;
use tokio::sync::Notify;

use crate::identity::{private_folder, replace_file};

/// Events kept for a control plane that is away: some 600 bytes each.
const MAX_SPOOLED: u64 = 20_000;
/// Of these, what anybody can cause who asks and is refused: the rest is for grants, which don't happen without their event.
const MAX_SPOOLED_OF_ANYBODY: u64 = 15_000;
/// First and last pause between tries to post.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The agent's part of the trail.
pub(crate) struct Audit {
    folder: PathBuf,
    tenant: TenantId,
    computer: ComputerId,
    key: Arc<SigningKey>,
    chain: Vec<Bytes>,
    http: Http,
    numbers: Mutex<Numbers>,
    written: Notify,
}

/// Which events there are.
#[derive(Clone, Copy)]
struct Numbers {
    /// The next event's.
    next: u64,
    /// How many are spooled.
    spooled: u64,
}

impl Audit {
    pub(crate) fn open(state: &Path, identity: &crate::identity::Identity, http: Http) -> std::io::Result<Self> {
        let folder = state.join("spool");
        private_folder(&folder)?;
        let spooled = spooled(&folder);
        let last_posted =
            fs::read_to_string(folder.join("last")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let next = spooled.last().copied().unwrap_or(0).max(last_posted) + 1;
        Ok(Self {
            folder,
            tenant: identity.tenant,
            computer: identity.computer,
            key: identity.sign.clone(),
            chain: identity.chain.clone(),
            http,
            numbers: Mutex::new(Numbers { next, spooled: spooled.len() as u64 }),
            written: Notify::new(),
        })
    }

    /// An event of this computer, to be completed.
    pub(crate) fn event(&self, kind: EventKind, time: u64) -> Event {
        Event {
            tenant: self.tenant,
            computer: self.computer,
            sequence: 0,
            time,
            kind,
            technician: None,
            device: None,
            grant: None,
            scenario: None,
            account: String::new(),
            code: None,
            evidence: Vec::new(),
            policy_epoch: 0,
            text: String::new(),
        }
    }

    /// Numbers, signs and spools an event. It is on the disk when this returns `Ok`.
    pub(crate) fn append(&self, mut event: Event) -> std::io::Result<()> {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        event.sequence = numbers.next;
        numbers.next += 1;
        let room = match event.kind {
            EventKind::Asked | EventKind::Refused | EventKind::Denied => MAX_SPOOLED_OF_ANYBODY,
            _ => MAX_SPOOLED,
        };
        if numbers.spooled >= room {
            return Err(std::io::Error::new(
                std::io::ErrorKind::QuotaExceeded,
                "the spool for the control plane is full",
            ));
        }
        let name = format!("{:020}.event", event.sequence);
        let signed = Signed::sign(event, &*self.key).map_err(std::io::Error::other)?;
        replace_file(&self.folder.join(name), signed.bytes())?;
        numbers.spooled += 1;
        self.written.notify_one();
        Ok(())
    }

    /// How many events wait to be posted.
    pub(crate) fn waiting(&self) -> u64 {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).spooled
    }

    /// Posts what is spooled, oldest first, for as long as the daemon runs.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut pause = RETRY.0;
        loop {
            match self.post_all().await {
                Ok(()) => {
                    pause = RETRY.0;
                    self.written.notified().await;
                }
                Err(error) => {
                    tracing::warn!(%error, waiting = self.waiting(), "the audit trail could not be posted; it waits on the disk");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    async fn post_all(&self) -> Result<(), HttpError> {
        for number in spooled(&self.folder) {
            let path = self.folder.join(format!("{number:020}.event"));
            let Ok(signed) = fs::read(&path) else { continue };
            let chain = self.chain.iter().cloned().map(Base64).collect();
            let body = NewEvent { chain, event: Base64(signed.into()) };
            match self.http.send_json(Method::POST, "/api/v1/events", &body).await {
                Ok(_) => {}
                // Refused for what it is, and again tomorrow: keeping it would hold up all that follow. The number's gap stays.
                Err(HttpError::Refused { status: 400 | 409 | 413 | 422, message, .. }) => {
                    tracing::error!(number, message, "the control plane refused an event for good");
                }
                Err(error) => return Err(error),
            }
            if let Err(error) = replace_file(&self.folder.join("last"), number.to_string().as_bytes()) {
                tracing::error!(%error, "the number of the last event sent can't be kept");
            }
            if fs::remove_file(&path).is_ok() {
                let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
                numbers.spooled = numbers.spooled.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// The numbers of the spooled events, rising.
fn spooled(folder: &Path) -> Vec<u64> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".event")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
