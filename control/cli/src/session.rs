//! A profile in use: the server's API with the administrator's token, and what this machine knows to be in force.
//!
//! The server isn't believed. Statements that it shows must be signed by the profile's CA keys, and must not be older than
//! what this machine saw before: otherwise a server that hides the newest revocation list would have the administrator sign
//! one that brings a stolen phone back. What was seen is kept beside the profile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hyper::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use gatepass_client::{Http, Proxies, Slot, Tls, edge};
use gatepass_control::api::{Base64, InForce, Log, NewStatement, Page, Statements, Technician};
use gatepass_protocol::Code;
use gatepass_protocol::enrol::Ticket;
use gatepass_protocol::ids::{Serial, TenantId};
use gatepass_protocol::keys::{Signer as _, SigningKey};
use gatepass_protocol::log::Head;
use gatepass_protocol::signed::Signed;
use gatepass_protocol::slot::Tries;
use gatepass_protocol::statement::{CertifiedKey, Draft, KeyUse, Kind, Statement};
use gatepass_protocol::trust::TrustStore;
use gatepass_protocol::witness::{Witness, Witnessed};

use crate::files;
use crate::profile::Profile;

pub(crate) struct Session {
    pub(crate) profile: Profile,
    pub(crate) profile_path: PathBuf,
    pub(crate) tenant: TenantId,
    http: Http,
}

/// What this machine has seen: kept beside the profile.
#[derive(Default, Serialize, Deserialize)]
struct Seen {
    statements: Statements,
    /// Identifiers by name.
    technicians: BTreeMap<String, String>,
    /// When words were typed for phones.
    #[serde(default)]
    tries: Tries,
    /// Of the audit log.
    #[serde(default)]
    log: Witness,
}

const OLD_BACKUP: &str = "nothing was signed. If the server was restored from an old backup, run 'gatepass resend'; if \
                          not, somebody is hiding the newest";

const FORKED: &str = "If the server was restored from an old backup, that is why; if not, \
                      somebody rewrites what happened: keep this machine's profile folder as evidence, and call the operator";

impl Session {
    /// Reads the profile and its token.
    pub(crate) fn open(profile_path: &Path) -> Result<Session> {
        let profile = Profile::read(profile_path)?;
        let token = files::read_secret(&profile.token_file, "the token file")?;
        let tls = Tls::from_pem(profile.server_ca_pem()?.as_deref())?;
        let http = Http::new(&profile.url, tls, Proxies::from_environment()?)?.with_bearer(&token);
        Ok(Session { tenant: profile.tenant()?, profile, profile_path: profile_path.to_owned(), http })
    }

    /// A statement about a new key, from now on for so many seconds.
    pub(crate) fn draft(&self, trust: &TrustStore, key: &SigningKey, seconds: u64) -> Draft {
        let (now, serial) = (edge::now(), Serial::random(&mut edge::rng()));
        Draft {
            serial,
            tenant: self.tenant,
            subject: serial.0,
            keys: vec![CertifiedKey { key_use: KeyUse::Sign, key: key.public_key() }],
            not_before: now,
            not_after: now + seconds,
            epoch: trust.revocation_epoch(),
        }
    }

    /// A ticket for whoever holds it, by this statement and its key.
    pub(crate) fn ticket(
        &self,
        statement: &Signed<Statement>,
        key: &SigningKey,
        url: Option<String>,
    ) -> Result<Ticket> {
        Ok(Ticket {
            statement: statement.bytes().clone(),
            seed: *key.seed(),
            url: url.unwrap_or_else(|| self.profile.url.clone()),
            tls_ca_pem: self.profile.server_ca_pem()?,
            cas: self.profile.cas.clone(),
        })
    }

    /// GET something of the tenant.
    pub(crate) async fn get<T: DeserializeOwned>(&self, what: &str) -> Result<T> {
        Ok(self.http.get_json(&self.path(what)).await?)
    }

    /// All of a list of the tenant.
    pub(crate) async fn list<T: DeserializeOwned>(&self, what: &str) -> Result<Vec<T>> {
        list(&self.http, &self.path(what)).await
    }

    /// PUT something in the place of what is there.
    pub(crate) async fn put<Q: Serialize, A: DeserializeOwned>(&self, what: &str, question: &Q) -> Result<A> {
        Ok(self.http.send_json(Method::PUT, &self.path(what), question).await?.json()?)
    }

    /// DELETE something of the tenant.
    pub(crate) async fn delete(&self, what: &str) -> Result<()> {
        self.http.request(Method::DELETE, &self.path(what), None).await?;
        Ok(())
    }

    /// POST something to the tenant.
    pub(crate) async fn post<Q: Serialize, A: DeserializeOwned>(&self, what: &str, question: &Q) -> Result<A> {
        Ok(self.http.post_json(&self.path(what), question).await?)
    }

    /// Counts that words are tried now; the server counts too, but need not be honest.
    pub(crate) fn count_try(&self) -> Result<()> {
        let mut seen = self.seen()?;
        seen.tries.count(edge::now())?;
        self.remember(&seen)
    }

    /// The way to a phone that shows words.
    pub(crate) fn slot(&self, slot: Serial) -> Slot {
        Slot::of_tenant(self.http.clone(), &self.path(""), slot)
    }

    fn path(&self, what: &str) -> String {
        format!("/api/v1/tenants/{}{what}", self.tenant)
    }

    /// Hands over a signed statement, and remembers that it is in force.
    pub(crate) async fn submit(&self, statement: &Signed<Statement>) -> Result<InForce> {
        let bytes = Base64::from(statement.bytes().to_vec());
        let in_force = self.post("/statements", &NewStatement { statement: bytes.clone() }).await?;
        let mut seen = self.seen()?;
        match statement.body().kind {
            Kind::Policy => seen.statements.policy = Some(bytes),
            Kind::Revocation => seen.statements.revocation = Some(bytes),
            Kind::Relays => seen.statements.relays = Some(bytes),
            Kind::Device | Kind::Agent | Kind::Ticket | Kind::Revoker => {}
        }
        self.remember(&seen)?;
        Ok(in_force)
    }

    /// The tenant's technicians. A name that suddenly means somebody else is noticed.
    pub(crate) async fn technicians(&self) -> Result<Vec<Technician>> {
        let mut technicians: Vec<Technician> = self.list("/technicians").await?;
        technicians.sort_by(|one, other| one.name.cmp(&other.name));
        let mut seen = self.seen()?;
        for technician in &technicians {
            let known = seen.technicians.entry(technician.name.clone()).or_insert_with(|| technician.id.to_string());
            if *known != technician.id.to_string() {
                bail!(
                    "the server says that the technician \"{}\" is {}, but this machine knows {known}; nothing was signed",
                    technician.name,
                    technician.id
                );
            }
        }
        self.remember(&seen)?;
        Ok(technicians)
    }

    /// The technician of that name.
    pub(crate) async fn technician(&self, name: &str) -> Result<Technician> {
        let technicians = self.technicians().await?;
        let names: Vec<&str> = technicians.iter().map(|technician| technician.name.as_str()).collect();
        let hint = crate::keys::hint(name, &names);
        let found = technicians.iter().find(|technician| technician.name == name).cloned();
        found.with_context(|| format!("there is no technician \"{name}\"{hint}"))
    }

    /// What is in force: the newest that the server shows, if this machine has seen nothing newer.
    pub(crate) async fn trust(&self) -> Result<TrustStore> {
        let mut trust = self.profile.trust()?;
        let mut seen = self.seen()?;
        seen.statements.restore_into(&mut trust).with_context(|| self.seen_path().display().to_string())?;
        let shown: Statements = self.http.get_json(&format!("/api/v1/statements/{}", self.tenant)).await?;
        let hidden = [
            ("policy", trust.kept(Kind::Policy).is_some() && shown.policy.is_none()),
            ("revocation list", trust.revocation().is_some() && shown.revocation.is_none()),
            ("relay list", trust.relays().is_some() && shown.relays.is_none()),
        ];
        if let Some((kind, _)) = hidden.into_iter().find(|(_, hidden)| *hidden) {
            bail!("the server shows no {kind}, but this machine has seen one; {OLD_BACKUP}");
        }
        let known: Vec<Bytes> = in_order(&seen.statements).map(|(_, statement)| statement).collect();
        for (kind, statement) in in_order(&shown).filter(|(_, statement)| !known.contains(statement)) {
            accept(&mut trust, kind, statement, edge::now())?;
        }
        seen.statements = shown;
        self.remember(&seen)?;
        Ok(trust)
    }

    /// Gives the server what this machine has seen and the server has lost; says of each kind what became of it.
    pub(crate) async fn resend(&self) -> Result<Vec<(&'static str, String)>> {
        let shown: Statements = self.http.get_json(&format!("/api/v1/statements/{}", self.tenant)).await?;
        let shown: Vec<Bytes> = in_order(&shown).map(|(_, statement)| statement).collect();
        let mut outcomes = Vec::new();
        for (kind, statement) in in_order(&self.seen()?.statements) {
            let outcome = if shown.contains(&statement) {
                "the server has it".to_owned()
            } else {
                let question = NewStatement { statement: statement.to_vec().into() };
                match self.post::<_, InForce>("/statements", &question).await {
                    Ok(in_force) => format!("epoch {} is in force again", in_force.epoch),
                    Err(error) => error.to_string(),
                }
            };
            outcomes.push((kind, outcome));
        }
        Ok(outcomes)
    }

    /// The head of the audit log: signed with the key that this machine knows, and continuing the log that it has seen.
    pub(crate) async fn log_head(&self) -> Result<(Head, Witnessed)> {
        let mut seen = self.seen()?;
        let shown: Log = self.http.get_json(&format!("/api/v1/log/{}?from={}", self.tenant, seen.log.seen())).await?;
        let head = match seen.log.accept(self.tenant, &shown) {
            Ok(head) => head,
            Err(error) if error.is_alarm() => bail!("{error}. {FORKED}"),
            Err(error) => bail!(error),
        };
        self.remember(&seen)?;
        Ok((head, Witnessed { head: shown.head, log_key: shown.key }))
    }

    /// What goes before the entries after the first `from`.
    pub(crate) async fn log_frontier(&self, from: u64) -> Result<Base64> {
        let log: Log = self.http.get_json(&format!("/api/v1/log/{}?from={from}", self.tenant)).await?;
        log.frontier.with_context(|| format!("the server says that its audit log has no {from} entries any more"))
    }

    /// The heads of the audit log that this machine has seen.
    pub(crate) fn log_heads(&self) -> Result<Vec<Witnessed>> {
        Ok(self.seen()?.log.heads())
    }

    fn seen(&self) -> Result<Seen> {
        let path = self.seen_path();
        if !path.exists() {
            return Ok(Seen::default());
        }
        let text = files::read_public(&path, "what this machine has seen")?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    fn remember(&self, seen: &Seen) -> Result<()> {
        let (path, text) = (self.seen_path(), serde_json::to_string_pretty(seen)?);
        let known = path.exists() && files::read_public(&path, "what this machine has seen")? == text;
        if known { Ok(()) } else { files::replace(&path, &text) }
    }

    fn seen_path(&self) -> PathBuf {
        self.profile_path.with_extension("seen.json")
    }
}

/// All of a list, page by page.
pub(crate) async fn list<T: DeserializeOwned>(http: &Http, path: &str) -> Result<Vec<T>> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page: Page<T> = http.get_json(&format!("{path}?after={after}")).await?;
        all.extend(page.items);
        match page.next {
            // A server that leads round in a circle is left.
            Some(next) if next > after => after = next,
            Some(_) => bail!("the server's list {path} has no end"),
            None => return Ok(all),
        }
    }
}

/// The revocation list last: it may revoke the CA key that signed one of the others, which stays in force until replaced.
fn in_order(statements: &Statements) -> impl Iterator<Item = (&'static str, Bytes)> {
    let all = [
        ("policy", &statements.policy),
        ("relay list", &statements.relays),
        ("revocation list", &statements.revocation),
    ];
    all.into_iter().filter_map(|(kind, statement)| Some((kind, statement.as_ref()?.0.clone())))
}

fn accept(trust: &mut TrustStore, kind: &str, statement: Bytes, when: u64) -> Result<()> {
    match trust.accept(&statement, when) {
        Ok(_) => Ok(()),
        Err(Code::StaleEpoch) => bail!("the server shows an older {kind} than this machine has seen; {OLD_BACKUP}"),
        Err(code) => bail!(
            "the server shows a {kind} that none of the CA keys in the profile has signed ({}); nothing was signed",
            code.name()
        ),
    }
}
