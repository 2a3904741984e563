//! The phone as a witness of the audit log: it remembers the newest head after each login, and notices a log that does not continue it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use gatepass_mobile::{enrol, profile::Profile};

use crate::home::Home;
use crate::terminal::line;

/// A login is over by now, and nobody waits longer for a control plane that is away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks at the audit log. Whoever keeps it must not be able to tell who will compare, so it is not asked for anybody in particular.
/// Says whether something is wrong with it; that it can't be reached is not.
pub(crate) async fn look(home: &Home, profile: &Profile) -> Result<bool> {
    let shown = match tokio::time::timeout(PATIENCE, enrol::log(profile)).await {
        Ok(Ok(shown)) => shown,
        Ok(Err(error)) => {
            tracing::info!(%error, "the audit log was not seen");
            return Ok(false);
        }
        Err(_) => return Ok(false),
    };
    match home.witness(&shown)? {
        Ok(()) => Ok(false),
        Err(error) if error.is_alarm() => {
            line!("ALARM: {}.", error);
            line!(
                "Tell your administrator and an auditor: the server was restored from an old backup, or somebody rewrites what \
                 happened. 'gatepass-phone heads' prints what this phone has seen, which is the proof."
            );
            Ok(true)
        }
        Err(error) => {
            line!("Warning: {}", error);
            Ok(false)
        }
    }
}

/// Prints the heads of the audit log that this phone has seen.
pub(crate) fn heads(home: &Home) -> Result<ExitCode> {
    for head in home.enrolled()?.heads() {
        line!("{}", serde_json::to_string(&head)?);
    }
    Ok(ExitCode::SUCCESS)
}
