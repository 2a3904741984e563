//! `computers`: those that this phone knows, and which of them are on.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use anyhow::Result;
use gatepass_client::{Connection, edge};
use gatepass_mobile::{directory::Directory, presence, profile::Profile};
use gatepass_protocol::{ids::ComputerId, presence::Who, trust::TrustStore};

use crate::{home::Home, terminal::line};

/// Fetches and keeps the computers that are new, for the day when nobody can be asked.
pub(crate) async fn fetch(home: &Home, profile: &Profile, trust: &TrustStore) -> Result<Directory> {
    let mut directory = home.directory()?;
    match directory.refresh(profile, trust, edge::now()).await {
        Ok(()) => home.keep_directory(&directory)?,
        Err(error) => line!("Warning: new computers could not be fetched ({})", error),
    }
    Ok(directory)
}

pub(crate) async fn list(home: &Home) -> Result<ExitCode> {
    let book = home.book()?;
    let profile = home.enrolled()?;
    let trust = profile.trust()?;
    let known = fetch(home, &profile, &trust).await?;
    let mut computers: BTreeMap<ComputerId, String> = known.names().into_iter().collect();
    computers.extend(book.computers().iter().map(|computer| (computer.id, computer.name.clone())));
    if computers.is_empty() {
        line!("No computers yet: this phone knows of none.");
        return Ok(ExitCode::SUCCESS);
    }
    let relays = trust.relays().map(|list| list.terms().relays.as_slice()).unwrap_or_default();
    // A computer may be at any of them.
    let mut online = BTreeSet::new();
    let mut silent = false;
    for relay in relays {
        let mut connection = Connection::start(profile.settings(&trust, Some(relay.index))?);
        match presence::online(&mut connection, trust.tenant()).await {
            Ok(all) => online.extend(all),
            Err(error) => {
                silent = true;
                line!("{}: {}", relay.url, error);
            }
        }
        connection.close().await;
    }
    for (id, name) in &computers {
        let word = match online.contains(&Who::Computer(*id)) {
            true => "online",
            false if silent => "unknown",
            false => "offline",
        };
        line!("{:<8} {}  {}", word, id, name);
    }
    Ok(ExitCode::SUCCESS)
}
