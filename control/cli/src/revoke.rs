//! `gatepass revoke`: the next revocation list, with one more name on it. Names never leave the list: a list that forgets
//! would bring a stolen phone back.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use gatepass_client::edge;
use gatepass_control::api::{CaKey, Computer, Device, Ticket, hex};
use gatepass_protocol::ids::{ComputerId, DeviceId, GrantId, Serial};
use gatepass_protocol::keys::Signer as _;
use gatepass_protocol::statement::{Extension, REVOKER, RevocationTerms, Statement};
use gatepass_protocol::trust::CaPublic;

use crate::lists::list_draft;
use crate::session::Session;
use crate::{ca, say, show};

/// How long a list counts as fresh.
const FRESH: u64 = 30 * 86_400;

/// Take trust away from something, at once and for good
#[derive(Args)]
pub(crate) struct Revoke {
    #[command(subcommand)]
    what: What,
    /// Sign with this revoke-only key instead of the CA key; see 'gatepass ca revoke-key'
    #[arg(long, global = true, value_name = "FILE")]
    revoke_key: Option<PathBuf>,
    #[command(flatten)]
    unlock: ca::Unlock,
}

#[derive(Subcommand)]
enum What {
    /// A phone: lost, stolen, replaced
    Device {
        /// The device's identifier
        id: String,
    },
    /// A computer
    Computer {
        /// The computer's identifier, or its name
        id: String,
    },
    /// A technician, with all their phones
    Technician {
        /// The technician's name
        name: String,
    },
    /// A ticket, with all computers that were enrolled with it
    Ticket {
        /// The ticket's serial
        id: String,
    },
    /// A CA key, with everything it signed; sign with another one (--ca)
    Ca {
        /// The key, as 'gatepass ca list' shows it
        key: String,
    },
    /// A revoke-only key; the next list then outranks every list that it could sign
    RevokeKey {
        /// Its gatepass-revoke.cert
        cert: PathBuf,
    },
    /// A grant: it ends at once
    Grant {
        /// The grant's identifier
        id: String,
    },
    /// Nothing more: sign the same list anew, before it counts as out of date
    Refresh,
    /// Show the list in force
    List,
}

impl Revoke {
    pub(crate) async fn run(self, profile: &Path) -> Result<()> {
        let session = Session::open(profile)?;
        let trust = session.trust().await?;
        let (mut revoked, min_epoch) =
            trust.revocation().map(|list| (list.terms().revoked.clone(), list.terms().min_epoch)).unwrap_or_default();
        if let What::List = self.what {
            let row = |id: &Serial| vec![id.to_string()];
            return say(show::table(&["REVOKED"], &revoked.iter().map(row).collect::<Vec<_>>()).trim_end());
        }
        let named = self.what.name(&session).await?;
        let (key, extensions) = match &self.revoke_key {
            None => (self.unlock.open(&session)?, Vec::new()),
            Some(_) if matches!(self.what, What::Ca { .. } | What::RevokeKey { .. }) => {
                bail!("a revoke-only key revokes no other key; sign with a CA key")
            }
            Some(path) => {
                let (key, statement) = ca::open_revoke_key(path, self.unlock.password_file())?;
                (key, vec![Extension { id: REVOKER, value: statement }])
            }
        };
        if let Some((id, what)) = &named {
            if id.0 == key.public_key().revocation_id() {
                bail!(
                    "a CA key can't revoke itself, as nobody would believe its next list; sign with another one (--ca)"
                );
            }
            match revoked.binary_search(id) {
                Ok(_) => bail!("{what} is revoked already"),
                Err(place) => revoked.insert(place, *id),
            }
        }
        let (now, mut epoch) = (edge::now(), trust.revocation_epoch() + 1);
        if let What::RevokeKey { cert } = &self.what {
            let (_, max_epoch) = ca::read_revoke_key(&session, cert)?;
            epoch = epoch.max(max_epoch.saturating_add(1));
        }
        let terms = RevocationTerms { issued: now, next_update: now + FRESH, min_epoch, revoked };
        session.submit(&list_draft(&session, epoch).sign_with(&terms, extensions, &key)?).await?;
        let signed_by_it = |statement: &Statement| {
            let signer = trust.cas().find(|ca| ca.key().kid() == statement.issuer);
            let signer = signer.map(|ca| ca.key().revocation_id());
            signer.is_some_and(|signer| named.as_ref().is_some_and(|(id, _)| id.0 == signer))
        };
        let again = [
            (trust.policy().map(|list| signed_by_it(list.statement())), "policy set"),
            (trust.relays().map(|list| signed_by_it(list.statement())), "relay set"),
        ];
        for (_, command) in again.iter().filter(|(signed_by_it, _)| *signed_by_it == Some(true)) {
            say(&format!(
                "note: run 'gatepass {command}' again with another CA key, as this one's signature no longer counts"
            ))?;
        }
        let what = named.as_ref().map_or("nothing more", |(_, what)| what.as_str());
        say(&format!("revoked: {what}; revocation list {epoch} is in force, with {} entries", terms.revoked.len()))
    }
}

impl What {
    /// What goes on the list, and what to call it. An identifier that the server doesn't know is revoked all the same, with a
    /// warning: the server isn't the judge of what may be revoked.
    async fn name(&self, session: &Session) -> Result<Option<(Serial, String)>> {
        let (id, what) = match self {
            What::Device { id } => {
                let known: Vec<Device> = session.list("/devices").await?;
                let id: DeviceId = id.parse().with_context(|| format!("{id:?}; see 'gatepass device list'"))?;
                let found = known.iter().find(|one| one.id == id);
                (id.0, label("device", id, found.map(|one| format!("{} of {}", one.name, one.technician)))?)
            }
            What::Computer { id } => {
                let known: Vec<Computer> = session.list("/computers").await?;
                let mut found = known.iter().filter(|one| one.id.to_string() == *id || one.name == *id);
                match (found.next(), found.next()) {
                    (Some(_), Some(_)) => bail!("several computers are called \"{id}\"; give the identifier"),
                    (Some(one), None) => (one.id.0, label("computer", one.id, Some(one.name.clone()))?),
                    (None, _) => {
                        let id: ComputerId = id.parse().with_context(|| format!("there is no computer {id:?}"))?;
                        (id.0, label("computer", id, None)?)
                    }
                }
            }
            What::Technician { name } => {
                let technician = session.technician(name).await?;
                (technician.id.0, format!("technician {name}"))
            }
            What::Ticket { id } => {
                let known: Vec<Ticket> = session.list("/tickets").await?;
                let id: Serial = id.parse().with_context(|| format!("{id:?}; see 'gatepass ticket list'"))?;
                let found = known.iter().find(|one| one.serial == id);
                (id.0, label("ticket", id, found.map(|one| format!("for {}", one.purpose)))?)
            }
            What::Ca { key } => {
                let known: Vec<CaKey> = session.list("/ca-keys").await?;
                let found = known.iter().find(|one| hex(&one.kid.0) == *key);
                let found = found.with_context(|| format!("there is no CA key {key:?}; see 'gatepass ca list'"))?;
                let public = CaPublic::from_pem(&found.pem)?;
                if public.key().kid() != found.kid {
                    bail!("the server shows another key under the name {key}; nothing was signed");
                }
                (public.key().revocation_id(), format!("CA key {key} ({})", found.name))
            }
            What::RevokeKey { cert } => {
                let (serial, _) = ca::read_revoke_key(session, cert)?;
                (serial.0, format!("revoke-only key {serial}"))
            }
            What::Grant { id } => {
                let id: GrantId = id
                    .parse()
                    .with_context(|| format!("{id:?}: give the whole identifier, as 'gatepass audit' shows it"))?;
                (id.0, format!("grant {id}"))
            }
            What::Refresh | What::List => return Ok(None),
        };
        Ok(Some((Serial(id), show::clean(&what))))
    }
}

fn label(what: &str, id: impl Display, known: Option<String>) -> Result<String> {
    match known {
        Some(name) => Ok(format!("{what} {id} ({name})")),
        None => {
            say(&format!("note: the server knows no {what} {id}; revoking it all the same"))?;
            Ok(format!("{what} {id}"))
        }
    }
}
