//! Phones: who waits, who is in, and how one gets in: the administrator knows it by its words ([`crate::introduce`]) or compares
//! fingerprints, unlocks the CA and signs.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use gatepass_client::edge;
use gatepass_control::api::{ApproveDevice, Device, PendingDevice, Technician};
use gatepass_protocol::enrol::{DeviceRequest, fingerprint};
use gatepass_protocol::ids::Serial;
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::signed::{Signed, Unverified};
use gatepass_protocol::statement::{DeviceTerms, Draft, KeyProtection, KeyUse, Purpose};
use gatepass_protocol::trust::TrustStore;

use crate::session::Session;
use crate::{ask, ca, introduce, say, show};

/// Enrol and list phones, and approve those that wait
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List enrolled phones
    List,
    /// Enrol a phone that shows two words: type them, read out a code, type the digits that come back, sign
    ///
    /// Only this way does each end know the other before anything is sent. For phones that nobody stands beside, there are
    /// tickets: 'gatepass ticket new --for phone', then 'pending' and 'approve'.
    Enrol(introduce::Enrol),
    /// List phones that enrolled with a ticket and wait for your approval
    Pending,
    /// Compare the fingerprint with the one on the phone, then sign the phone's certificate
    Approve(Approve),
    /// Send a waiting phone away, for example when the fingerprint is another
    Refuse {
        /// The request: its first digits are enough
        request: String,
    },
}

#[derive(Args)]
pub(crate) struct Approve {
    /// The request: its first digits are enough
    request: String,
    /// Whose phone it is
    #[arg(long, value_name = "NAME")]
    technician: String,
    /// The fingerprint that the phone shows, instead of being asked whether it is the same
    #[arg(long, value_name = "FINGERPRINT")]
    fingerprint: Option<String>,
    /// For how many days the phone stays enrolled
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    #[command(flatten)]
    unlock: ca::Unlock,
}

pub(crate) async fn run(command: Command, profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    match command {
        Command::List => list(&session).await,
        Command::Enrol(enrol) => enrol.run(&session).await,
        Command::Pending => pending(&session).await,
        Command::Approve(approve) => approve.run(&session).await,
        Command::Refuse { request } => refuse(&session, &request).await,
    }
}

async fn list(session: &Session) -> Result<()> {
    let devices: Vec<Device> = session.list("/devices").await?;
    let row = |device: &Device| {
        let state = if device.revoked {
            "revoked"
        } else if device.not_after < edge::now() {
            "expired"
        } else {
            "enrolled"
        };
        let (approved, until) = (show::time(device.approved), show::time(device.not_after));
        vec![device.id.to_string(), device.technician.clone(), device.name.clone(), state.to_owned(), approved, until]
    };
    show::list(&["DEVICE", "TECHNICIAN", "NAME", "STATE", "APPROVED", "UNTIL"], &devices, row)
}

async fn pending(session: &Session) -> Result<()> {
    let trust = session.trust().await?;
    let waiting: Vec<PendingDevice> = session.list("/devices/pending").await?;
    let row = |pending: &PendingDevice| {
        let fingerprint =
            verified(&trust, pending).map_or_else(|_| "does not verify".to_owned(), |request| fingerprint(&request));
        vec![pending.request.to_string(), pending.name.clone(), show::time(pending.asked), fingerprint]
    };
    show::list(&["REQUEST", "NAME", "ASKED", "FINGERPRINT"], &waiting, row)
}

async fn refuse(session: &Session, request: &str) -> Result<()> {
    let waiting: Vec<PendingDevice> = session.list("/devices/pending").await?;
    let path = format!("/devices/pending/{}/refuse", pick(request, &waiting)?.request);
    let refused: PendingDevice = session.post(&path, &()).await?;
    say(&format!("the request {} of \"{}\" is refused", refused.request, show::clean(&refused.name)))
}

impl Approve {
    async fn run(self, session: &Session) -> Result<()> {
        let technician = session.technician(&self.technician).await?;
        let trust = session.trust().await?;
        let waiting: Vec<PendingDevice> = session.list("/devices/pending").await?;
        let pending = pick(&self.request, &waiting)?;
        let request = verified(&trust, pending)?;
        let shown = fingerprint(&request);
        let protection = protection_in_words(request.body().protection);
        say(&format!(
            "phone:        {}\nits key:      {protection}\ntechnician:   {}\nfingerprint:  {shown}",
            show::clean(&request.body().device_name),
            technician.name
        ))?;
        match &self.fingerprint {
            Some(fingerprint) if fingerprint.trim().eq_ignore_ascii_case(&shown) => {}
            Some(_) => bail!("that is not the fingerprint of this request; nothing was signed"),
            None if ask("Does the phone show the same fingerprint? Type yes: ")? == "yes" => {}
            None => bail!("nothing was signed"),
        }
        let ca = self.unlock.open(session)?;
        Certify { session, trust: &trust, technician: &technician, days: self.days }
            .sign(&ca, pending, request.body())
            .await
    }
}

/// A phone's certificate: for whom, and for how long.
pub(crate) struct Certify<'a> {
    pub(crate) session: &'a Session,
    pub(crate) trust: &'a TrustStore,
    pub(crate) technician: &'a Technician,
    pub(crate) days: u64,
}

impl Certify<'_> {
    /// Signs it for a request that was checked, and hands it in.
    pub(crate) async fn sign(&self, ca: &SigningKey, pending: &PendingDevice, body: &DeviceRequest) -> Result<()> {
        let Certify { session, trust, technician, days } = self;
        if trust.is_revoked(technician.id.as_bytes()) {
            bail!("the technician \"{}\" is revoked", technician.name);
        }
        let now = edge::now();
        let draft = Draft {
            serial: Serial::random(&mut edge::rng()),
            tenant: session.tenant,
            subject: body.device.0,
            keys: body.keys.clone(),
            not_before: now,
            not_after: now + days * 86_400,
            epoch: trust.revocation_epoch(),
        };
        let terms = DeviceTerms {
            technician: technician.id,
            technician_name: technician.name.clone(),
            device_name: body.device_name.clone(),
            protection: body.protection,
        };
        let certificate = draft.sign(&terms, ca)?;
        let path = format!("/devices/pending/{}/approve", pending.request);
        let device: Device =
            session.post(&path, &ApproveDevice { certificate: certificate.bytes().to_vec().into() }).await?;
        say(&format!("device {} belongs to {} until {}", device.id, technician.name, show::time(device.not_after)))
    }
}

/// Where a phone keeps its approval key.
pub(crate) fn protection_in_words(protection: KeyProtection) -> &'static str {
    match protection {
        KeyProtection::Software => "in software, behind a PIN",
        KeyProtection::Hardware => "in hardware, behind a biometric, by its own word",
    }
}

fn pick<'a>(wanted: &str, waiting: &'a [PendingDevice]) -> Result<&'a PendingDevice> {
    let wanted = wanted.to_ascii_lowercase();
    let fits: Vec<_> = waiting.iter().filter(|pending| pending.request.to_string().starts_with(&wanted)).collect();
    match fits[..] {
        [one] if wanted.len() >= 4 => Ok(one),
        [] => bail!("no phone waits with the request {wanted}; see 'gatepass device pending'"),
        _ => bail!("{wanted} is too short to tell which request; give more digits"),
    }
}

/// The request, signed by a ticket for phones that this tenant's CA signed.
fn verified(trust: &TrustStore, pending: &PendingDevice) -> Result<Signed<DeviceRequest>> {
    let why = || format!("the request {} does not verify, and can't be approved", pending.request);
    let request = Unverified::<DeviceRequest>::decode(pending.enrol.0.clone()).with_context(why)?;
    // The ticket may have run out since the phone used it.
    let ticket = trust.ticket(&pending.ticket.0, pending.asked).with_context(why)?;
    let key = ticket.statement().key(KeyUse::Sign).with_context(why)?;
    if ticket.terms().purpose != Purpose::Phone || request.claimed().ticket != ticket.statement().serial {
        bail!(why());
    }
    request.verify(&key).with_context(why)
}
