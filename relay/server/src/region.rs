//! `--role relay`: a relay without a database. Its tenants come from the control plane's feed, and it goes on from what it
//! has kept of them while the control plane is away.
//!
//! ```text
//! control plane --(GET /api/v1/feed, waits for news)--> Region --> trust stores, asked at every connection
//!                                                         |  '--> the tenants' channels
//!                                                         '-----> state_dir/tenants/ID.json, read at the next start
//! ```
//!
//! A relay is trusted with nothing, so what it believes decides only whom it serves: a control plane that lies to it can
//! keep computers and phones out, or let strangers in who then talk to nobody, for agents and phones check all of it
//! themselves. Even so it loses nothing by a lie: lists count by their CA's signature and by epochs that never go back,
//! also across restarts, and a CA key that it has once been told of stays until a list that a CA key signed revokes it. A
//! key that is added later is taken on the control plane's word, as the first was: refusing it would keep out a customer's
//! real computers, and accepting it gives a stranger nothing but a connection.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use gatepass_client::{Http, Proxies, Tls, edge};
use gatepass_protocol::{
    Code,
    api::{Base64, Feed, TenantTrust},
    channel::Bulletin,
    ids::TenantId,
    signed::Unverified,
    statement::{Kind, Statement},
    trust::{Accepted, CaPublic, TrustStore},
};
use gatepass_relay::{Relay, Tenants};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::settings::Settings;

/// Where tenants are kept, below the state folder.
const FOLDER: &str = "tenants";
/// CA keys of one tenant, and tenants, that a control plane can make this remember.
const MOST_CAS: usize = 16;
const MOST_TENANTS: usize = 200_000;
/// First and last bound of the wait after a failure; the last is also how late a revocation can be here after an outage.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LAST_WAIT: Duration = Duration::from_secs(5);
/// A control plane that has nothing to say and says so at once, since it is going down, is asked no more often.
const QUIET: Duration = Duration::from_secs(1);

/// The tenants of a regional relay.
pub(crate) struct Region {
    folder: PathBuf,
    /// Served; none named: all.
    only: HashSet<TenantId>,
    tenants: RwLock<HashMap<TenantId, Arc<TrustStore>>>,
}

impl Tenants for Region {
    fn trust(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }
}

/// What a statement says, and its bytes, for the tenant's channel.
struct New {
    kind: Kind,
    epoch: u64,
    bytes: Bytes,
}

/// The control plane, as the settings name it.
pub(crate) fn control_plane(settings: &Settings) -> anyhow::Result<Http> {
    let region = &settings.region;
    let file = settings.edge.state_dir.join(&region.token_file);
    let shown = file.display();
    let metadata = fs::metadata(&file).with_context(|| {
        format!(
            "can't read {shown}; copy relay.token from the control plane's state folder, or set `region.token_file`"
        )
    })?;
    if metadata.mode() & 0o077 != 0 {
        bail!("{shown} is a secret, but others can read it (mode {:o}): chmod 600 it", metadata.mode() & 0o777);
    }
    let token = Zeroizing::new(fs::read_to_string(&file).with_context(|| format!("can't read {shown}"))?);
    let pem = match region.ca_file.as_os_str().is_empty() {
        true => None,
        false => {
            let file = &region.ca_file;
            Some(fs::read_to_string(file).with_context(|| format!("can't read {}: `region.ca_file`", file.display()))?)
        }
    };
    let tls = Tls::from_pem(pem.as_deref()).context("`region.ca_file`")?;
    Ok(Http::new(&region.control_plane, tls, Proxies::from_environment()?)?.with_bearer(&token))
}

impl Region {
    /// With what was kept.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let folder = settings.edge.state_dir.join(FOLDER);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("can't make {}", folder.display()))?;
        let region = Self { folder, only: settings.region.tenants()?, tenants: RwLock::default() };
        let files = fs::read_dir(&region.folder).with_context(|| format!("can't read {}", region.folder.display()))?;
        for path in files.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match restore(&path) {
                Ok(trust) if region.serves(&trust.tenant()) => region.put(trust),
                Ok(_) => {}
                // The control plane tells it anew.
                Err(problem) => error!(file = %path.display(), %problem, "a kept tenant can't be used"),
            }
        }
        Ok(region)
    }

    /// Whether it knows nobody yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Gives the channels what is known from before.
    pub(crate) async fn announce_all(&self, relay: &Relay) {
        let all: Vec<_> = self.tenants.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for trust in all {
            let kept = [Kind::Policy, Kind::Revocation, Kind::Relays].into_iter().filter_map(|kind| trust.kept(kind));
            announce(relay, trust.tenant(), kept.filter_map(read)).await;
        }
    }

    /// Follows the control plane until dropped. `known` turns true once it has told all that there is.
    pub(crate) async fn follow(&self, http: &Http, relay: &Relay, known: &watch::Sender<bool>) {
        let (mut cursor, mut failures) = (String::new(), 0_u32);
        loop {
            let asked = Instant::now();
            match http.get_json::<Feed>(&self.question(&cursor)).await {
                Ok(feed) => {
                    if failures > 0 {
                        info!("the control plane answers again");
                    }
                    failures = 0;
                    relay.metrics().control_plane_heard.set(edge::now().try_into().unwrap_or(i64::MAX));
                    let quiet = feed.tenants.is_empty() && !feed.more;
                    for told in feed.tenants {
                        self.take(told, relay).await;
                    }
                    cursor = feed.cursor;
                    if !feed.more {
                        known.send_replace(true);
                    }
                    if quiet {
                        sleep(QUIET.saturating_sub(asked.elapsed())).await;
                    }
                }
                Err(error) => {
                    if failures == 0 {
                        warn!(%error, "the control plane can't be asked: going on with what is known");
                    }
                    let bound = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LAST_WAIT);
                    failures = failures.saturating_add(1);
                    // Somewhere in the upper half, so that all relays of a control plane do not come back in step.
                    let random = f64::from(u32::from_le_bytes(edge::random())) / f64::from(u32::MAX);
                    sleep(bound.mul_f64(0.5 + random / 2.0)).await;
                }
            }
        }
    }

    fn question(&self, cursor: &str) -> String {
        let tenants: String = self.only.iter().map(|tenant| format!("&tenant={tenant}")).collect();
        // It comes from the control plane, and is not to become more than a parameter.
        let cursor: String = cursor.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
        format!("/api/v1/feed?after={cursor}{tenants}")
    }

    fn serves(&self, tenant: &TenantId) -> bool {
        self.only.is_empty() || self.only.contains(tenant)
    }

    fn put(&self, trust: TrustStore) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(trust.tenant(), Arc::new(trust));
    }

    /// Believes what is to be believed of a tenant, tells its channel, and keeps it.
    async fn take(&self, told: TenantTrust, relay: &Relay) {
        let tenant = told.tenant;
        let known = self.trust(&tenant);
        let full = self.tenants.read().unwrap_or_else(PoisonError::into_inner).len() >= MOST_TENANTS;
        if !self.serves(&tenant) || (known.is_none() && full) {
            return warn!("the control plane told of a tenant that was not asked for, or of too many: not taken");
        }
        let (trust, news) = believe(known.as_deref(), &told, edge::now());
        let changed = known.is_none_or(|known| !news.is_empty() || known.cas().count() != trust.cas().count());
        if !changed {
            return;
        }
        let (kept, path) = (TenantTrust::of(&trust), self.folder.join(format!("{tenant}.json")));
        // Before the channels hear of it, for they are told by whom the new lists revoke.
        self.put(trust);
        announce(relay, tenant, news).await;
        let written = tokio::task::spawn_blocking(move || keep(&path, &kept)).await;
        if let Err(problem) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            error!(%problem, "a tenant can't be kept: after a restart it is known only once the control plane answers");
        }
    }
}

/// What is believed of a tenant after being told something, and which lists are new.
fn believe(known: Option<&TrustStore>, told: &TenantTrust, now: u64) -> (TrustStore, Vec<New>) {
    let mut cas: Vec<CaPublic> = known.map(|known| known.cas().copied().collect()).unwrap_or_default();
    for ca in told.ca_pem.iter().filter_map(|pem| CaPublic::from_pem(pem).ok()) {
        if !cas.contains(&ca) && cas.len() < MOST_CAS {
            if known.is_some() {
                // Tenants are named at debug only; the administrator finds the key by `gatepass status`.
                warn!(kid = ?ca.key().kid(), "the control plane has added a CA key to a tenant");
            }
            cas.push(ca);
        }
    }
    let mut trust = TrustStore::new(told.tenant, cas);
    if let Some(Err(code)) = known.map(|known| TenantTrust::of(known).statements.restore_into(&mut trust)) {
        error!(%code, "what was believed of a tenant does not verify any more");
    }
    let mut news = Vec::new();
    // The revocation list first, since it may concern who signed the others.
    for Base64(list) in
        [&told.statements.revocation, &told.statements.policy, &told.statements.relays].into_iter().flatten()
    {
        match accept(&mut trust, list, now) {
            Ok(Accepted::New) => news.extend(read(list)),
            Ok(Accepted::Known) => {}
            Err(code) => warn!(%code, "the control plane gave a list that is not in order: the one before stays"),
        }
    }
    (trust, news)
}

/// Takes a list that is in order. One that has ended is better than none: it still says who was revoked.
fn accept(trust: &mut TrustStore, list: &Bytes, now: u64) -> Result<Accepted, Code> {
    let claimed = Unverified::<Statement>::decode(list.clone()).map_err(|_| Code::Certificate)?;
    let at = now.min(claimed.claimed().not_after);
    trust.accept(list, at).map(|(_, accepted)| accepted)
}

fn read(list: &Bytes) -> Option<New> {
    let claimed = Unverified::<Statement>::decode(list.clone()).ok()?;
    let (kind, epoch) = (claimed.claimed().kind, claimed.claimed().epoch);
    Some(New { kind, epoch, bytes: list.clone() })
}

async fn announce(relay: &Relay, tenant: TenantId, news: impl IntoIterator<Item = New>) {
    for New { kind, epoch, bytes } in news {
        if let Err(refusal) = relay.announce(tenant, Bulletin::new(kind, epoch, bytes)).await {
            error!(%refusal, ?kind, "a statement could not be announced");
        }
    }
}

/// Replaces a file as a whole, or leaves the old one.
fn keep(path: &Path, tenant: &TenantTrust) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(tenant)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Reads a kept tenant. Each list is verified again: the file may have been cut off or changed.
fn restore(path: &Path) -> anyhow::Result<TrustStore> {
    let kept: TenantTrust = serde_json::from_slice(&fs::read(path)?)?;
    if path.file_stem().is_none_or(|name| *name != *kept.tenant.to_string()) {
        bail!("it is of another tenant than its name says");
    }
    let cas = kept.ca_pem.iter().map(|pem| CaPublic::from_pem(pem)).collect::<Result<Vec<_>, _>>()?;
    let mut trust = TrustStore::new(kept.tenant, cas);
    kept.statements.restore_into(&mut trust).map_err(|code| anyhow::anyhow!("a list does not verify: {code}"))?;
    Ok(trust)
}

#[cfg(test)]
mod tests {
    use gatepass_protocol::{
        api::Statements,
        ids::Serial,
        testing::{NOW, Tenant},
    };

    use super::*;

    fn told(tenant: &Tenant, revocation: &Bytes) -> TenantTrust {
        let statements = Statements { revocation: Some(Base64(revocation.clone())), ..Statements::default() };
        TenantTrust { tenant: tenant.id, ca_pem: vec![tenant.ca_public().to_pem()], statements }
    }

    #[test]
    fn a_control_plane_that_lies_takes_nothing_away() {
        let (mut tenant, mut stranger) = (Tenant::new(1), Tenant::new(2));
        let (old, new) = (tenant.revocation(1, vec![]), tenant.revocation(2, vec![Serial([7; 16])]));
        let (trust, news) = believe(None, &told(&tenant, &new), NOW);
        assert_eq!((trust.revocation_epoch(), news.len()), (2, 1));

        // An older list, a list of another CA key, the same again, no keys at all.
        for lie in [
            told(&tenant, &old),
            told(&tenant, &stranger.revocation(9, vec![])),
            told(&tenant, &new),
            TenantTrust { ca_pem: vec![], ..told(&tenant, &new) },
            TenantTrust { ca_pem: vec!["junk".into()], statements: Statements::default(), tenant: tenant.id },
        ] {
            let (after, news) = believe(Some(&trust), &lie, NOW);
            assert_eq!((after.revocation_epoch(), news.len()), (2, 0), "{lie:?}");
            assert!(after.is_revoked(&[7; 16]) && after.cas().count() == 1, "{lie:?}");
        }
        // A key more is taken, and lets in whom it certifies; what was known stays.
        let more = TenantTrust { ca_pem: vec![stranger.ca_public().to_pem()], ..told(&tenant, &new) };
        let (after, _) = believe(Some(&trust), &more, NOW);
        assert!(after.cas().count() == 2 && after.is_revoked(&[7; 16]));
    }

    #[test]
    fn a_list_that_has_ended_still_says_who_was_revoked() {
        let mut tenant = Tenant::new(1);
        let list = tenant.revocation(3, vec![Serial([7; 16])]);
        let (trust, _) = believe(None, &told(&tenant, &list), u64::MAX);
        assert!(trust.is_revoked(&[7; 16]));
    }

    #[test]
    fn what_was_kept_is_believed_again_only_if_it_is_whole() {
        let mut tenant = Tenant::new(1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{}.json", tenant.id));
        let list = tenant.revocation(3, vec![Serial([7; 16])]);
        let (trust, _) = believe(None, &told(&tenant, &list), NOW);
        keep(&path, &TenantTrust::of(&trust)).unwrap();
        assert!(restore(&path).unwrap().is_revoked(&[7; 16]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        let text = fs::read_to_string(&path).unwrap();
        let other = Tenant::new(2).revocation(4, vec![]);
        let forged = TenantTrust {
            statements: Statements { revocation: Some(Base64(other)), ..Statements::default() },
            ..TenantTrust::of(&trust)
        };
        for (bad, why) in [
            (text[..text.len() / 2].to_owned(), "cut off"),
            (serde_json::to_string(&forged).unwrap(), "a list of another CA key"),
            (text.replacen(&tenant.id.to_string(), &Tenant::new(2).id.to_string(), 1), "another tenant's"),
            (String::new(), "empty"),
        ] {
            fs::write(&path, bad).unwrap();
            assert!(restore(&path).is_err(), "{why}");
        }
    }
}
