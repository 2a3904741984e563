//! `computers`: those that this phone has dealt with, and which of them are on.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Result;
use gatepass_client::Connection;
use gatepass_mobile::presence;
use gatepass_protocol::presence::Who;

use crate::{home::Home, terminal::line};

pub(crate) async fn list(home: &Home) -> Result<ExitCode> {
    let book = home.book()?;
    if book.computers().is_empty() {
        line!("No computers yet: this phone has not scanned any.");
        return Ok(ExitCode::SUCCESS);
    }
    let profile = home.enrolled()?;
    let trust = profile.trust()?;
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
    for computer in book.computers() {
        let word = match online.contains(&Who::Computer(computer.id)) {
            true => "online",
            false if silent => "unknown",
            false => "offline",
        };
        line!("{:<8} {}  {}", word, computer.id, computer.name);
    }
    Ok(ExitCode::SUCCESS)
}
