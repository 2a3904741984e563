//! `gatepass audit`: the tenant's trail as a person reads it, or as JSON Lines. On the way it is checked: each entry is
//! chained to the one before, and what a computer says there was signed by that computer.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::json;

use gatepass_control::api::{Act, Computer, Page, Status, Technician, TrailEntry, hex, trail_hash};
use gatepass_protocol::event::Event;
use gatepass_protocol::ids::ComputerId;
use gatepass_protocol::keys::PublicKey;
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::KeyUse;
use gatepass_protocol::trust::TrustStore;

use crate::session::Session;
use crate::{say, show};

/// What one request brings at most.
const PAGE: usize = 200;

/// Show the audit trail, and check that nothing is missing from it; with --json one object a line
#[derive(Args)]
pub(crate) struct Audit {
    /// Show only the last entries; 0: all of them, from the first on
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    last: u64,
}

/// Names for identifiers.
struct Names {
    computers: HashMap<String, String>,
    technicians: HashMap<String, String>,
}

impl Audit {
    pub(crate) async fn run(self, profile: &Path) -> Result<()> {
        let session = Session::open(profile)?;
        let computers: Vec<Computer> = session.list("/computers").await?;
        let technicians: Vec<Technician> = session.list("/technicians").await?;
        let names = Names {
            computers: computers.into_iter().map(|one| (one.id.to_string(), one.name)).collect(),
            technicians: technicians.into_iter().map(|one| (one.id.to_string(), one.name)).collect(),
        };
        let status: Status = session.get("").await?;
        // One more than is shown: its hash is where the chain begins.
        let mut after = if self.last == 0 { 0 } else { status.events.saturating_sub(self.last.saturating_add(1)) };
        let shown_from = if self.last == 0 { 1 } else { status.events.saturating_sub(self.last) + 1 };
        let mut previous: Option<[u8; 32]> = (after == 0).then_some([0; 32]);
        let mut signers = Signers { trust: session.profile.trust()?, keys: HashMap::new(), sequences: HashMap::new() };
        loop {
            let cursor = hex(&after.to_be_bytes());
            let page: Page<TrailEntry> = session.get(&format!("/events?after={cursor}&limit={PAGE}")).await?;
            for entry in &page.items {
                check(entry, after, previous)?;
                let gap = signers.check(entry)?;
                (after, previous) = (entry.seq, entry.hash.0[..].try_into().ok());
                if entry.seq >= shown_from {
                    say(&if show::is_json() { in_json(entry, &names) } else { in_words(entry, &names) })?;
                    if let Some(gap) = gap.filter(|_| !show::is_json()) {
                        say(&format!(
                            "        before this, {gap} of its events are missing: withheld, or still to come"
                        ))?;
                    }
                }
            }
            if page.next.is_none() {
                break;
            }
        }
        if after < status.events {
            bail!("the trail ends at {after}, but the server counts {} entries", status.events);
        }
        Ok(())
    }
}

fn check(entry: &TrailEntry, after: u64, previous: Option<[u8; 32]>) -> Result<()> {
    if entry.seq != after.saturating_add(1) {
        bail!("the audit trail was tampered with: entry {} follows entry {after}", entry.seq);
    }
    match previous {
        Some(previous) if trail_hash(&previous, &entry.event.0)[..] != entry.hash.0 => {
            bail!("the audit trail was tampered with: the hash of entry {} is wrong", entry.seq)
        }
        _ => Ok(()),
    }
}

/// Who signed: each computer's key by its certificate, and the number of its last event.
struct Signers {
    /// Without a revocation list: what a computer said before it was revoked, it said.
    trust: TrustStore,
    keys: HashMap<Vec<Bytes>, (ComputerId, PublicKey)>,
    sequences: HashMap<ComputerId, u64>,
}

impl Signers {
    /// Checks the signature of what a computer said, and tells how many of its events are missing before this one.
    fn check(&mut self, entry: &TrailEntry) -> Result<Option<u64>> {
        let Some(computer) = entry.computer else { return Ok(None) };
        let why =
            || format!("the audit trail was tampered with: entry {} was not signed by computer {computer}", entry.seq);
        let links: Vec<Bytes> = entry.chain.iter().map(|link| link.0.clone()).collect();
        let (subject, key) = match self.keys.get(&links) {
            Some(known) => *known,
            None => {
                let agent = self.trust.agent(&links, entry.at).with_context(why)?;
                let key = agent.statement().key(KeyUse::Sign).with_context(why)?;
                *self.keys.entry(links).or_insert((ComputerId(agent.statement().subject), key))
            }
        };
        let event =
            Unverified::<Event>::decode(entry.event.0.clone()).with_context(why)?.verify(&key).with_context(why)?;
        if subject != computer || event.body().computer != computer {
            bail!(why());
        }
        let sequence = event.body().sequence;
        let last = self.sequences.insert(computer, sequence);
        Ok(last.and_then(|last| sequence.checked_sub(last.saturating_add(1))).filter(|missing| *missing > 0))
    }
}

fn in_words(entry: &TrailEntry, names: &Names) -> String {
    let mut words = vec![format!("{:>6}", entry.seq)];
    match (entry.computer, event(entry), act(entry)) {
        (Some(_), Some(event), _) => {
            words.push(show::time(event.time));
            words.push(names.computer(&event.computer.to_string()));
            words.extend(entry.revoked.then(|| "(revoked)".to_owned()));
            words.push(event.kind.name().to_owned());
            words.extend(event.scenario.map(|scenario| scenario.name().to_owned()));
            words.extend(event.technician.map(|who| names.technician(&who.to_string())));
            words.extend(
                Some(&event.account).filter(|account| !account.is_empty()).map(|account| format!("as {account}")),
            );
            words.extend(event.grant.map(|grant| format!("grant {grant}")));
            words.extend(event.code.map(|code| format!("({}: {})", code.name(), code.message())));
            words.extend(Some(event.text).filter(|text| !text.is_empty()));
        }
        (None, _, Some(act)) => {
            words.extend([show::time(act.at), "control plane".to_owned(), act.act, act.to]);
            words.extend(Some(act.detail).filter(|detail| !detail.is_empty()).map(|detail| format!("({detail})")));
        }
        _ => words.extend([show::time(entry.at), "an entry that this version can't read".to_owned()]),
    }
    show::clean(&words.join("  "))
}

fn in_json(entry: &TrailEntry, names: &Names) -> String {
    let mut line = json!({ "seq": entry.seq, "received": entry.at, "hash": hex(&entry.hash.0) });
    if let (Some(computer), Some(event)) = (entry.computer, event(entry)) {
        line["time"] = event.time.into();
        line["event"] = event.kind.name().into();
        line["computer"] = computer.to_string().into();
        line["computer_name"] = names.computer(&computer.to_string()).into();
        line["revoked"] = entry.revoked.into();
        line["sequence"] = event.sequence.into();
        line["technician"] = event.technician.map(|id| id.to_string()).into();
        line["technician_name"] = event.technician.map(|id| names.technician(&id.to_string())).into();
        line["device_certificate"] = event.device.map(|id| id.to_string()).into();
        line["grant"] = event.grant.map(|id| id.to_string()).into();
        line["scenario"] = event.scenario.map(|scenario| scenario.name()).into();
        line["account"] = event.account.into();
        line["code"] = event.code.map(|code| code.name()).into();
        line["evidence"] = hex(&event.evidence).into();
        line["policy_epoch"] = event.policy_epoch.into();
        line["text"] = event.text.into();
    } else if let Some(act) = act(entry) {
        line["time"] = act.at.into();
        line["event"] = act.act.into();
        line["to"] = act.to.into();
        line["detail"] = act.detail.into();
    }
    show::escape(&line.to_string())
}

fn event(entry: &TrailEntry) -> Option<Event> {
    Unverified::<Event>::decode(entry.event.0.clone()).ok().map(|event| event.claimed().clone())
}

fn act(entry: &TrailEntry) -> Option<Act> {
    serde_json::from_slice(&entry.event.0).ok()
}

impl Names {
    fn computer(&self, id: &str) -> String {
        self.computers.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    fn technician(&self, id: &str) -> String {
        self.technicians.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}
