//! `gatepass audit`: the tenant's trail as a person reads it, as JSON Lines or CSV, and the proof that nothing in it was changed.
//!
//! The server is not believed: the entries have to give the root of a signed head, that head has to continue the heads that this
//! machine has seen, and what a computer says there has to be signed by that computer.

mod export;
mod file;
mod read;
mod verify;

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};

use gatepass_client::edge;
use gatepass_control::api::{Base64, Computer, Log, Outcome, Page, Person, Technician, TrailEntry, hex};
use gatepass_protocol::event::Event;
use gatepass_protocol::ids::{ComputerId, Serial};
use gatepass_protocol::keys::PublicKey;
use gatepass_protocol::log::{Frontier, Hash, Head, Proof};
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::KeyUse;
use gatepass_protocol::trust::TrustStore;
use gatepass_protocol::witness::Witnessed;

use crate::session::{self, Session};
use crate::{say, show, tenant};
use read::Names;

/// What one request brings at most.
const PAGE: usize = 200;

/// Show the audit trail, and check that nothing is missing from it; with --json one object a line
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    chosen: Chosen,
    /// Show only the last entries; 0: all of them, from the first on
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    last: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Write the trail into a file, with what proves it (JSON Lines) or as a table (CSV)
    Export(export::Export),
    /// Check an exported trail, without a server
    Verify(verify::Verify),
    /// Print the signed heads of the log that this machine has seen, for comparing with an export
    Heads,
    /// Show what the server's operator and the operator's people did, and check that nothing is missing from it
    Operator(tenant::Operator),
}

/// Which entries; nothing: all
#[derive(Args, Default)]
struct Chosen {
    /// Received then or later: 2026-11-27, 2026-11-27T10:00Z, or 36h or 7d ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Received before then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// By this technician (a name), or with this token (its identifier)
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// Of this computer: its name or identifier
    #[arg(long)]
    computer: Option<String>,
    /// Of this kind: granted, refused, technician-added, signed-in
    #[arg(long)]
    kind: Option<String>,
    /// With this outcome: done, denied, refused, alert
    #[arg(long)]
    outcome: Option<Outcome>,
}

impl Chosen {
    /// The same for the API; empty: all entries.
    fn query(&self, names: &Names) -> Result<String> {
        let mut query = String::new();
        for (key, time) in [("since", &self.since), ("until", &self.until)] {
            let Some(text) = time else { continue };
            let time = show::parse_time(text, edge::now()).with_context(|| {
                format!("--{key} {text:?} is no time: write 2026-11-27, 2026-11-27T10:00Z, 36h or 7d")
            })?;
            query.push_str(&format!("&{key}={time}"));
        }
        for (key, who, known) in
            [("actor", &self.actor, &names.technicians), ("computer", &self.computer, &names.computers)]
        {
            let Some(who) = who else { continue };
            let named: Vec<&String> = known.iter().filter(|(_, name)| *name == who).map(|(id, _)| id).collect();
            let id = match (who.parse::<Serial>(), &named[..]) {
                (Ok(id), _) => id.to_string(),
                (_, [id]) => (*id).clone(),
                (_, []) => bail!("there is no {key} {who:?} here: give a name that is listed, or an identifier"),
                _ => bail!("several are named {who:?}: give the identifier of one"),
            };
            query.push_str(&format!("&{key}={id}"));
        }
        if let Some(kind) = &self.kind {
            let kind = kind.to_lowercase().replace(' ', "-");
            if !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                bail!("--kind {kind:?} is no kind: 'gatepass audit' shows them, like granted and technician-added");
            }
            query.push_str(&format!("&kind={kind}"));
        }
        if let Some(outcome) = self.outcome {
            query.push_str(&format!("&outcome={}", outcome.name()));
        }
        Ok(query)
    }
}

impl Audit {
    pub(crate) async fn run(self, profile: &Path) -> Result<()> {
        match self.command {
            Some(Command::Export(export)) => export.run(&Session::open(profile)?).await,
            Some(Command::Verify(verify)) => verify.run(),
            Some(Command::Operator(operator)) => of_operator(&operator).await,
            Some(Command::Heads) => heads(&Session::open(profile)?).await,
            None => show(&Session::open(profile)?, &self.chosen, self.last).await,
        }
    }
}

async fn show(session: &Session, chosen: &Chosen, last: u64) -> Result<()> {
    let names = Names::of(session).await?;
    let query = chosen.query(&names)?;
    let (head, _) = session.log_head().await?;
    let mut signers = Signers::new(session.profile.trust()?);
    if query.is_empty() {
        let from = if last == 0 { 0 } else { head.size.saturating_sub(last) };
        return walk(session, &head, Part::From(from), async |entry| {
            let gap = signers.check(entry)?;
            print(entry, &names)?;
            if let Some(gap) = gap.filter(|_| !show::is_json()) {
                say(&format!("        before this, {gap} of its events are missing: withheld, or still to come"))?;
            }
            Ok(())
        })
        .await;
    }
    let mut kept = VecDeque::new();
    walk(session, &head, Part::Chosen(&query), async |entry| {
        signers.check(entry)?;
        kept.push_back(entry.clone());
        if last > 0 && kept.len() as u64 > last {
            kept.pop_front();
        }
        Ok(())
    })
    .await?;
    kept.iter().try_for_each(|entry| print(entry, &names))
}

fn print(entry: &TrailEntry, names: &Names) -> Result<()> {
    say(&if show::is_json() {
        show::escape(&read::in_json(entry, names).to_string())
    } else {
        read::in_words(entry, names)
    })
}

/// The operator's own log. There is no profile that would remember its head, so this look stands for itself.
async fn of_operator(operator: &tenant::Operator) -> Result<()> {
    let http = operator.http()?;
    let people: Vec<Person> = session::list(&http, "/api/v1/people").await?;
    let names = Names {
        technicians: people.into_iter().map(|one| (one.id.to_string(), one.name)).collect(),
        ..Names::default()
    };
    let log: Log = http.get_json("/api/v1/operator/log").await?;
    let head = Witnessed { head: log.head, log_key: log.key }.verify()?;
    let entries: Vec<TrailEntry> = session::list(&http, "/api/v1/operator/events").await?;
    let mut frontier = Frontier::default();
    for entry in entries.iter().filter(|entry| entry.seq <= head.size) {
        follows(&mut frontier, entry)?;
        print(entry, &names)?;
    }
    complete(&frontier, &head)
}

async fn heads(session: &Session) -> Result<()> {
    session.log_head().await?;
    session.log_heads()?.iter().try_for_each(|head| say(&serde_json::to_string(head)?))
}

/// Which part of the trail.
enum Part<'a> {
    /// All after the first so many, which have to give the head's root.
    From(u64),
    /// Those chosen by a query, each with its own proof.
    Chosen(&'a str),
}

/// Hands over the entries of a head's log, one after the other, each page checked before the next is asked for.
async fn walk(
    session: &Session,
    head: &Head,
    part: Part<'_>,
    mut take: impl AsyncFnMut(&TrailEntry) -> Result<()>,
) -> Result<()> {
    let (mut frontier, query) = match part {
        Part::From(from) => (Some(begun(from, &session.log_frontier(from).await?)?), String::new()),
        Part::Chosen(query) => (None, format!("{query}&proved_in={}", head.size)),
    };
    let mut after = frontier.as_ref().map_or(0, Frontier::size);
    while after < head.size {
        let cursor = hex(&after.to_be_bytes());
        let page: Page<TrailEntry> = session.get(&format!("/events?after={cursor}&limit={PAGE}{query}")).await?;
        // What came after the head was signed is for the next time.
        for entry in page.items.iter().filter(|entry| entry.seq <= head.size) {
            match &mut frontier {
                Some(frontier) => follows(frontier, entry)?,
                None => included(entry, head, after)?,
            }
            after = entry.seq;
            take(entry).await?;
        }
        // Also a server that leads round in a circle is left: what is missing then shows.
        if page.next.is_none() || page.items.is_empty() || page.items.iter().all(|entry| entry.seq > head.size) {
            break;
        }
    }
    frontier.map_or(Ok(()), |frontier| complete(&frontier, head))
}

/// The log's beginning, by the server's word; it shows at the end whether it was true.
fn begun(from: u64, roots: &Base64) -> Result<Frontier> {
    Frontier::new(from, Proof::from_bytes(&roots.0)?).context("what goes before the first entry")
}

/// Takes the next entry of a log.
fn follows(frontier: &mut Frontier, entry: &TrailEntry) -> Result<()> {
    if entry.seq != frontier.size() + 1 {
        bail!("the audit trail was tampered with: entry {} follows entry {}", entry.seq, frontier.size());
    }
    frontier.push(entry.entry().leaf(), |_, _, _: &Hash| {});
    Ok(())
}

/// All of it gives the head.
fn complete(frontier: &Frontier, head: &Head) -> Result<()> {
    if frontier.size() < head.size {
        bail!("the trail ends at {}, but the log's signed head counts {} entries", frontier.size(), head.size);
    }
    if frontier.root() != head.root {
        bail!(
            "the audit trail was tampered with: its {} entries do not give the root that was signed, so that at least one of them \
             was changed since",
            head.size
        );
    }
    Ok(())
}

/// One entry is in the head's log.
fn included(entry: &TrailEntry, head: &Head, after: u64) -> Result<()> {
    let why = || format!("the audit trail was tampered with: entry {} is not in the log that was signed", entry.seq);
    let proof = Proof::from_bytes(&entry.proof.as_ref().with_context(why)?.0).with_context(why)?;
    if entry.seq <= after {
        bail!("the audit trail was tampered with: entry {} follows entry {after}", entry.seq);
    }
    proof.includes(&entry.entry().leaf(), entry.seq - 1, head.size, &head.root).with_context(why)
}

/// Who signed: each computer's key by its certificate, and the number of its last event.
struct Signers {
    /// Without a revocation list: what a computer said before it was revoked, it said.
    trust: TrustStore,
    keys: HashMap<Vec<Bytes>, (ComputerId, PublicKey)>,
    sequences: HashMap<ComputerId, u64>,
}

impl Signers {
    fn new(trust: TrustStore) -> Signers {
        Signers { trust, keys: HashMap::new(), sequences: HashMap::new() }
    }

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

impl Names {
    async fn of(session: &Session) -> Result<Names> {
        let computers: Vec<Computer> = session.list("/computers").await?;
        let technicians: Vec<Technician> = session.list("/technicians").await?;
        Ok(Names {
            computers: computers.into_iter().map(|one| (one.id.to_string(), one.name)).collect(),
            technicians: technicians.into_iter().map(|one| (one.id.to_string(), one.name)).collect(),
        })
    }
}
