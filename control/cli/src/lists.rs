//! The short ones: computers, relays, and the tenant at a glance.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use gatepass_client::{Endpoint, edge};
use gatepass_control::api::{Computer, Status};
use gatepass_protocol::ids::Serial;
use gatepass_protocol::statement::{Draft, RelayEntry, RelayTerms};

use crate::session::Session;
use crate::{ca, say, show};

/// Lists are signed to hold until the next one; what ages is a revocation list, which says itself when the next is due.
pub(crate) const FOR_TEN_YEARS: u64 = 3650 * 86_400;

/// Show and set where the relays are
#[derive(Subcommand)]
pub(crate) enum Relays {
    /// Show the relay list in force
    List,
    /// Sign a new relay list
    Set {
        /// The relays, from index 0 on: https://host[:port] or wss://host[:port]
        #[arg(required = true, value_name = "URL")]
        urls: Vec<String>,
        #[command(flatten)]
        unlock: ca::Unlock,
    },
}

pub(crate) async fn computers(profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    let mut computers: Vec<Computer> = session.list("/computers").await?;
    computers.sort_by(|one, other| one.name.cmp(&other.name));
    let row = |one: &Computer| {
        let state = if one.revoked {
            "revoked"
        } else if one.not_after < edge::now() {
            "expired"
        } else {
            "enrolled"
        };
        let heard = one.last_event.map_or_else(|| "never".to_owned(), show::time);
        let name = if one.domain.is_empty() { one.name.clone() } else { format!("{}.{}", one.name, one.domain) };
        vec![
            one.id.to_string(),
            name,
            one.os.clone(),
            one.tags.join(" "),
            state.to_owned(),
            heard,
            one.agent_version.clone(),
        ]
    };
    show::list(&["COMPUTER", "NAME", "SYSTEM", "TAGS", "STATE", "LAST EVENT", "AGENT"], &computers, row)
}

pub(crate) async fn relays(command: Relays, profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    let trust = session.trust().await?;
    match command {
        Relays::List => {
            let relays = trust.relays().map(|list| list.terms().relays.as_slice()).unwrap_or_default();
            let row = |relay: &RelayEntry| vec![relay.index.to_string(), relay.url.clone()];
            show::list(&["INDEX", "RELAY"], relays, row)
        }
        Relays::Set { urls, unlock } => {
            let entry = |(index, url): (usize, &String)| {
                let endpoint: Endpoint = url.parse()?;
                let scheme = if endpoint.is_secure() { "wss" } else { "ws" };
                Ok(RelayEntry {
                    index: u16::try_from(index).context("too many relays")?,
                    url: format!("{scheme}://{}", endpoint.authority()),
                })
            };
            let terms = RelayTerms { relays: urls.iter().enumerate().map(entry).collect::<Result<_>>()? };
            let epoch = trust.relays().map_or(0, |list| list.statement().epoch) + 1;
            let statement = list_draft(&session, epoch).sign(&terms, &unlock.open(&session)?)?;
            session.submit(&statement).await?;
            say(&format!("relay list {epoch} is in force"))
        }
    }
}

pub(crate) async fn resend(profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    for (kind, outcome) in session.resend().await? {
        say(&format!("{kind}: {}", show::clean(&outcome)))?;
    }
    Ok(())
}

/// What a policy, a revocation list and a relay list have in common.
pub(crate) fn list_draft(session: &Session, epoch: u64) -> Draft {
    let now = edge::now();
    Draft {
        serial: Serial::random(&mut edge::rng()),
        tenant: session.tenant,
        subject: [0; 16],
        keys: Vec::new(),
        not_before: now,
        not_after: now + FOR_TEN_YEARS,
        epoch,
    }
}

pub(crate) async fn status(profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    let status: Status = session.get("").await?;
    if show::is_json() {
        return show::value(&status);
    }
    let drift = status.time.abs_diff(edge::now());
    let clock =
        if drift > 60 { format!("  (its clock and this one differ by {drift} seconds)") } else { String::new() };
    let trust = session.trust().await?;
    let epoch = |epoch: u64| if epoch == 0 { "none yet".to_owned() } else { format!("epoch {epoch}") };
    let due = trust.revocation().map(|list| list.terms().next_update).filter(|due| *due < edge::now());
    let due = if due.is_some() { "  (a new one is due: 'gatepass revoke refresh')" } else { "" };
    say(&format!(
        "tenant        {} ({})\nserver        {}, version {}{clock}\nCA keys       {}\ntechnicians   {}\nphones        {} \
         enrolled, {} waiting\ncomputers     {}\npolicy        {}\nrevocations   {}{due}\nrelays        {}\naudit trail   {} \
         entries",
        show::clean(&status.tenant.name),
        status.tenant.id,
        session.profile.url,
        show::clean(&status.version),
        status.ca_keys,
        status.technicians,
        status.devices,
        status.pending,
        status.computers,
        epoch(trust.policy_epoch()),
        epoch(trust.revocation_epoch()),
        epoch(status.relays_epoch),
        status.events
    ))
}
