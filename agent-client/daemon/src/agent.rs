//! The running agent: what every login, order and timer shares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gatepass_accounts::Accounts;
use gatepass_agent_core::{Grants, Receipt};
use gatepass_client::{Endpoint, Http, Proxies, Tls};
use gatepass_protocol::Code;
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::{ComputerId, GrantId, TenantId};
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::order::EndReason;
use gatepass_protocol::pairing::agent::AgentIdentity;
use gatepass_protocol::pairing::messages::MachineCard;
use gatepass_protocol::statement::Kind;
use sha2::{Digest, Sha256};

use crate::audit::Audit;
use crate::clock::now;
use crate::config::Config;
use crate::login::Queue;
use crate::offline::Offline;
use crate::relay::Relay;
use crate::trust::Trust;
use crate::{orders, sessions};

/// How long a session's terminal has to show why it ends.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Everything.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) tenant: TenantId,
    pub(crate) computer: ComputerId,
    pub(crate) machine: MachineCard,
    pub(crate) tags: Vec<String>,
    pub(crate) identity: AgentIdentity,
    pub(crate) sign: Arc<SigningKey>,
    pub(crate) tls: Tls,
    pub(crate) proxies: Proxies,
    pub(crate) trust: Trust,
    pub(crate) relay: Arc<Relay>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) accounts: Arc<dyn Accounts>,
    /// Logins that may wait for a phone at the same time.
    pub(crate) waiting: Arc<Queue>,
    pub(crate) orders: orders::Seen,
    pub(crate) offline: Offline,
    pub(crate) http: Http,
    pub(crate) started: u64,
    grants: Mutex<Grants>,
}

/// What an [`Agent`] is made of, besides what it makes itself.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) machine: MachineCard,
    pub(crate) tags: Vec<String>,
    pub(crate) tenant: TenantId,
    pub(crate) identity: AgentIdentity,
    pub(crate) sign: Arc<SigningKey>,
    pub(crate) tls: Tls,
    pub(crate) proxies: Proxies,
    pub(crate) trust: Trust,
    pub(crate) audit: Audit,
    pub(crate) accounts: Arc<dyn Accounts>,
    pub(crate) grants: Grants,
    pub(crate) offline: Offline,
    pub(crate) http: Http,
}

impl Agent {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let waiting = Queue::new(parts.config.logon.max_waiting);
        Arc::new(Self {
            computer: parts.identity.computer(),
            config: parts.config,
            tenant: parts.tenant,
            machine: parts.machine,
            tags: parts.tags,
            identity: parts.identity,
            sign: parts.sign,
            tls: parts.tls,
            proxies: parts.proxies,
            trust: parts.trust,
            relay: Relay::new(),
            audit: Arc::new(parts.audit),
            accounts: parts.accounts,
            waiting,
            orders: orders::Seen::default(),
            offline: parts.offline,
            http: parts.http,
            started: now().wall,
            grants: Mutex::new(parts.grants),
        })
    }

    /// The grants. Acts on accounts take milliseconds to seconds: lock this in a blocking thread, see [`Agent::with_grants`].
    pub(crate) fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the grants in a blocking thread.
    pub(crate) async fn with_grants<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Grants) -> T + Send + 'static,
    ) -> Option<T> {
        let agent = self.clone();
        tokio::task::spawn_blocking(move || act(&mut agent.grants())).await.ok()
    }

    /// Where the relays are: the tenant's list, or what the configuration says instead.
    pub(crate) fn relay_endpoints(&self) -> Vec<Endpoint> {
        let configured = &self.config.relay.url;
        let urls: Vec<String> = match configured.as_str() {
            "" => self
                .trust
                .read()
                .relays()
                .map(|list| list.terms().relays.iter().map(|relay| relay.url.clone()).collect()),
            url => Some(vec![url.to_owned()]),
        }
        .unwrap_or_default();
        let parse = |url: &String| url.parse().inspect_err(|error| tracing::error!(%error, "a relay's address")).ok();
        urls.iter().filter_map(parse).collect()
    }

    /// Fetches the lists from the control plane and lets them take effect.
    pub(crate) async fn fetch_lists(self: &Arc<Self>) {
        match self.trust.fetch(now().wall).await {
            Ok(kinds) => {
                self.take_effect(kinds).await;
                self.fetch_directory().await;
            }
            Err(error) => tracing::warn!(%error, "the lists could not be fetched"),
        }
    }

    /// Notes that the control plane is there, and asks it for phones that may show offline codes one day.
    async fn fetch_directory(&self) {
        let names = (self.tenant, self.computer);
        let heard = self.offline.heard(&self.http, &self.identity.chain, &self.sign, names, &self.trust).await;
        if let Err(error) = heard {
            tracing::warn!(%error, "the tenant's phones could not be fetched: new ones can't log in by offline code here");
        }
    }

    /// Takes a list from the tenant's channel and lets it take effect.
    pub(crate) async fn hear_list(self: &Arc<Self>, bulletin: &[u8]) {
        match self.trust.hear(bulletin, now().wall).await {
            Ok(kinds) => self.take_effect(kinds).await,
            Err(error) => tracing::warn!(%error, "a list from the relay was refused"),
        }
    }

    async fn take_effect(self: &Arc<Self>, kinds: Vec<Kind>) {
        for kind in kinds {
            let epoch = match kind {
                Kind::Policy => self.trust.read().policy_epoch(),
                Kind::Revocation => self.trust.read().revocation_epoch(),
                _ => self.trust.read().relays().map_or(0, |list| list.statement().epoch),
            };
            tracing::info!(?kind, epoch, "a newer list is in force");
            self.report(Event { text: format!("{kind:?} {epoch}"), ..self.event(EventKind::ListAccepted) });
            match kind {
                Kind::Revocation => {
                    self.end_revoked().await;
                    self.offline.forget_revoked(&self.trust.read());
                }
                Kind::Relays => self.relay.reconnect(),
                _ => {}
            }
        }
    }

    /// Ends every grant that the revocation list in force no longer allows.
    pub(crate) async fn end_revoked(self: &Arc<Self>) {
        let open = |grants: &mut Grants| -> Vec<(GrantId, Vec<Bytes>)> {
            grants.open_grants().map(|grant| (grant.id, grant.approver.chain.clone())).collect()
        };
        let open = self.with_grants(open).await.unwrap_or_default();
        let revoked: Vec<GrantId> = {
            let (trust, at) = (self.trust.read(), now().wall);
            // Is this computer's own certificate revoked, nothing may go on that it vouched for.
            let all = matches!(trust.agent(&self.identity.chain, at), Err(Code::Revoked));
            let is_revoked = |id: &GrantId, chain: &[Bytes]| {
                all || trust.is_revoked(id.as_bytes()) || matches!(trust.device(chain, at), Err(Code::Revoked))
            };
            open.into_iter().filter(|(id, chain)| is_revoked(id, chain)).map(|(id, _)| id).collect()
        };
        for grant in revoked {
            self.end(grant, EndReason::Administrator).await;
        }
    }

    /// Ends a grant, tells its device and the audit trail. `None` when it was over already, or can't be finished yet; then
    /// the timer tries again.
    pub(crate) async fn end(self: &Arc<Self>, id: GrantId, reason: EndReason) -> Option<Receipt> {
        let told = move |grants: &mut Grants| Some(sessions::say_goodbye(grants.get(&id)?, reason));
        if self.with_grants(told).await.flatten()? {
            // sshd, or whatever stands behind that terminal, dies with the session: it has to pass the word on before.
            tokio::time::sleep(LAST_WORDS).await;
        }
        let end = move |grants: &mut Grants| {
            let grant = grants.get(&id)?;
            if reason == EndReason::Logout && sessions::is_somebody_in(grant) {
                return None; // somebody came in just as the last one left
            }
            Some(grants.end(&id, reason, now()))
        };
        let ended = self.with_grants(end).await.flatten()?;
        match ended {
            Ok(receipt) => {
                self.tell_ended(&receipt);
                Some(receipt)
            }
            Err(unfinished) => {
                tracing::error!(grant = %id, %unfinished, "a grant could not be ended whole yet");
                None
            }
        }
    }

    /// The audit trail and the device hear of an end.
    pub(crate) fn tell_ended(self: &Arc<Self>, receipt: &Receipt) {
        let grant = &receipt.of;
        self.report(Event {
            technician: Some(grant.approver.technician),
            device: Some(grant.approver.certificate),
            grant: Some(grant.id),
            scenario: Some(grant.scenario),
            account: grant.right.shown_account().into(),
            evidence: Sha256::digest(&receipt.signed).to_vec(),
            text: grant.reason_to_end.map(|reason| reason.name().to_owned()).unwrap_or_default(),
            ..self.event(EventKind::Ended)
        });
        let (agent, grant) = (self.clone(), receipt.of.clone());
        tokio::spawn(async move { orders::report_to(&agent, &grant.approver.chain, None).await });
    }

    /// An event of now, to be completed.
    pub(crate) fn event(&self, kind: EventKind) -> Event {
        Event { policy_epoch: self.trust.read().policy_epoch(), ..self.audit.event(kind, now().wall) }
    }

    /// Appends an event; one that can't be written is logged, and what it is about goes on.
    pub(crate) fn report(&self, event: Event) {
        if let Err(error) = self.audit.append(event) {
            tracing::error!(%error, "an audit event could not be written");
        }
    }
}
