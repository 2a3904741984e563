//! A computer with the real agent, a relay, a control plane and a technician's phone. Inside `ops/jail` only.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepass_client::api::Base64;
use gatepass_client::{Connection, Proxies, Settings, Tls, edge};
use gatepass_mobile::login::{self, LoginError};
use gatepass_mobile::orders;
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::offline::OfflineTerms;
use gatepass_protocol::pairing::messages::{Context, Outcome, Verification};
use gatepass_protocol::pairing::phone::{Chosen, Scan};
use gatepass_protocol::policy::AccountKind;
use gatepass_protocol::statement::{Purpose, RelayEntry, RelayTerms};
use gatepass_protocol::testing::{Phone, Tenant};
use gatepass_protocol::trust::TrustStore;
use gatepass_relay::system_clock;
use gatepass_relay::testing::{Tenancy, TestRelay};

use crate::control::Control;
use crate::module::Program;

pub(crate) struct Machine {
    pub(crate) tenant: Tenant,
    pub(crate) control: Control,
    pub(crate) phone: Phone,
    /// The relay that its phone goes to, and that relay's number in the tenant's list.
    pub(crate) relay: Option<TestRelay>,
    pub(crate) relay_index: u16,
    pub(crate) folder: tempfile::TempDir,
    agent: Option<Child>,
}

impl Machine {
    /// A computer that is enrolled, with its agent running, accounts made by `provider`, under a policy with or without code.
    pub(crate) async fn new(provider: &str, confirm: bool) -> Self {
        Self::prepared(provider, confirm, |_| {}).await
    }

    /// The same; `prepare` has the state folder before anything is in it.
    pub(crate) async fn prepared(provider: &str, confirm: bool, prepare: impl FnOnce(&Path)) -> Self {
        Self::made(provider, confirm, None, prepare).await
    }

    /// The same, under a policy that takes offline codes.
    pub(crate) async fn with_codes(offline: &OfflineTerms) -> Self {
        Self::made("userdb", true, Some(offline), |_| {}).await
    }

    async fn made(provider: &str, confirm: bool, offline: Option<&OfflineTerms>, prepare: impl FnOnce(&Path)) -> Self {
        let mut tenant = Tenant::at(1, edge::now());
        tenant.offline_codes = offline.is_some();
        let phone = tenant.phone(7);
        let relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), |_| {}, system_clock()).await;
        let control = Control::default();
        let url = control.start(tenant.id).await;
        control.directory.lock().unwrap().push(phone.identity.chain.clone());
        {
            let mut lists = control.statements.lock().unwrap();
            lists.policy = Some(Base64(tenant.policy_with(1, confirm, offline)));
            lists.revocation = Some(Base64(tenant.revocation(1, vec![])));
            let relays = RelayTerms { relays: vec![RelayEntry { index: 3, url: relay.url() }] };
            lists.relays = Some(Base64(tenant.list(1).sign(&relays, &tenant.ca).unwrap().bytes().clone()));
        }
        let folder = tempfile::tempdir().unwrap();
        // A build that goes on beside the tests, perhaps with other features, replaces the program's file.
        let (built, ours) = (env!("CARGO_BIN_EXE_gatepass-agent"), folder.path().join("gatepass-agent"));
        std::fs::hard_link(built, &ours).or_else(|_| std::fs::copy(built, &ours).map(|_| ())).unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        prepare(&folder.path().join("state"));
        let ticket = tenant.ticket(Purpose::Agent, &url).to_text();
        write_private(&folder.path().join("agent.ticket"), &ticket);
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "state = {:?}\npam_socket = {:?}\nadmin_socket = {:?}\n[accounts]\nprovider = \"{provider}\"\n[log]\nlevel = \"debug\"\n",
            at("state"),
            at("pam.sock"),
            at("agent.sock"),
        );
        std::fs::write(folder.path().join("agent.toml"), config).unwrap();
        let mut machine = Self { tenant, control, phone, relay: Some(relay), relay_index: 3, folder, agent: None };
        let enrolled = machine.command(&["enrol", "--ticket-file", &machine.at("agent.ticket")]);
        assert!(enrolled.status.success(), "{enrolled:?}");
        machine.start(&[]).await;
        machine
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Starts the agent and waits until it is connected.
    pub(crate) async fn start(&mut self, more: &[&str]) {
        self.spawn(more);
        self.until("the agent is connected", |machine| machine.status()["relay_online"] == true).await;
    }

    /// Starts the agent and waits for nothing.
    pub(crate) fn spawn(&mut self, more: &[&str]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.at("log")).unwrap();
        let agent = self.agent_command().arg("run").args(more).stderr(log).spawn().unwrap();
        self.agent = Some(agent);
    }

    /// Kills it, as a crash does.
    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Whether the agent has died by itself.
    #[cfg(feature = "fault")]
    pub(crate) async fn died_within(&mut self, within: Duration) -> bool {
        let give_up = std::time::Instant::now() + within;
        while std::time::Instant::now() < give_up {
            if self.agent.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.agent = None;
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// A command of the agent's.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.agent_command().args(arguments).output().unwrap()
    }

    pub(crate) fn agent_command(&self) -> Command {
        let mut command = Command::new(self.at("gatepass-agent"));
        command.args(["--config", &self.at("agent.toml")]).stdin(Stdio::null());
        command
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.command(&["status", "--json"]).stdout).unwrap_or_default()
    }

    pub(crate) fn grants(&self) -> usize {
        self.status()["grants"].as_array().map_or(usize::MAX, Vec::len)
    }

    /// What the agent wrote to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    pub(crate) fn program(&self, service: &str, user: &str) -> Program {
        Program::start(&PathBuf::from(self.at("pam.sock")), service, user)
    }

    /// The tenant's newest lists, as the phone knows them.
    pub(crate) fn trust(&self) -> TrustStore {
        let mut trust = self.tenant.trust();
        for (_, verdict) in self.control.statements.lock().unwrap().accept_into(&mut trust, edge::now()) {
            verdict.unwrap();
        }
        trust
    }

    /// Puts a new revocation list in force: at the control plane, and, `announced`, at everybody connected.
    pub(crate) async fn revoke(&mut self, epoch: u64, ids: Vec<gatepass_protocol::ids::Serial>, announced: bool) {
        let list = self.tenant.revocation(epoch, ids);
        self.control.statements.lock().unwrap().revocation = Some(Base64(list.clone()));
        if announced {
            self.relay.as_ref().unwrap().announce(&list).await;
        }
    }

    /// Gives the tenant a second relay, with this number.
    pub(crate) async fn second_relay(&mut self, index: u16) -> TestRelay {
        let second = TestRelay::with_clock(Tenancy::of([self.tenant.trust()]), |_| {}, system_clock()).await;
        let first = self.relay.as_ref().unwrap();
        let relays = RelayTerms {
            relays: vec![
                RelayEntry { index: self.relay_index, url: first.url() },
                RelayEntry { index, url: second.url() },
            ],
        };
        let list = self.tenant.list(2).sign(&relays, &self.tenant.ca).unwrap().bytes().clone();
        self.control.statements.lock().unwrap().relays = Some(Base64(list.clone()));
        first.announce(&list).await;
        second
    }

    /// The relay where the agent is, as its status names it.
    pub(crate) fn is_at(&self, relay: &TestRelay) -> bool {
        let status = self.status();
        status["relay_online"] == true && status["relay"] == relay.address().to_string()
    }

    /// The phone's connection.
    pub(crate) fn connect(&self) -> Connection {
        let identity = &self.phone.identity;
        Connection::start(Settings {
            relays: vec![self.relay.as_ref().unwrap().url().parse().unwrap()],
            tls: Tls::system().unwrap(),
            proxies: Proxies::none(),
            chain: identity.chain.clone(),
            key: Arc::new(SigningKey::from_seed(&identity.sign.seed())),
        })
    }

    /// The technician scans a code and approves; says what was asked, the confirm code, and, in the end, what came of it.
    pub(crate) async fn approve(&self, code: &str, chosen: Chosen) -> Approval {
        self.try_to_approve(code, chosen).await.unwrap()
    }

    pub(crate) async fn try_to_approve(&self, code: &str, chosen: Chosen) -> Result<Approval, LoginError> {
        self.approve_trusting(code, chosen, self.trust()).await
    }

    /// The same with a phone that knows these lists.
    pub(crate) async fn approve_trusting(
        &self,
        code: &str,
        chosen: Chosen,
        mut trust: TrustStore,
    ) -> Result<Approval, LoginError> {
        let mut connection = self.connect();
        let scan = Scan::from_text(code).unwrap();
        assert_eq!(scan.relay_idx(), self.relay_index, "the relay's number in the tenant's list");
        let question = login::begin(&mut connection, scan, &self.phone.identity, &mut trust).await?;
        let context = question.asked().context().clone();
        let approved = question.approve(&connection, &chosen, &self.phone.identity, &self.phone.approve).await?;
        let digits = approved.confirm_code();
        let outcome = tokio::spawn(async move { approved.outcome(&mut connection).await.unwrap() });
        Ok(Approval { context, digits, outcome })
    }

    /// The technician scans a code and says no.
    pub(crate) async fn deny(&self, code: &str, not_me: bool) {
        let mut connection = self.connect();
        let scan = Scan::from_text(code).unwrap();
        let question = login::begin(&mut connection, scan, &self.phone.identity, &mut self.trust()).await.unwrap();
        question.deny(&connection, not_me).await.unwrap();
        connection.close().await;
    }

    /// An order from the phone.
    pub(crate) async fn order(&self, end: Option<GrantId>) -> orders::Reported {
        let mut connection = self.connect();
        let (identity, mut trust) = (&self.phone.identity, self.trust());
        orders::listen(&connection, identity, &trust).await.unwrap();
        let status = self.status();
        let id = status["computer"].as_str().unwrap().parse().unwrap();
        let chain = self.chain();
        let computer = gatepass_mobile::book::Computer::new(id, "web-01", self.relay_index, &chain);
        orders::order(&mut connection, identity, &mut trust, &computer, end).await.unwrap()
    }

    /// The agent's certificate chain, out of its identity file.
    pub(crate) fn chain(&self) -> Vec<Bytes> {
        type Stored = (u8, Bytes, Bytes, Bytes, Bytes, Vec<Bytes>, Vec<String>, String, Option<String>, Bytes);
        let bytes = std::fs::read(self.at("state/identity")).unwrap();
        gatepass_protocol::wire::from_slice::<Stored>(&bytes).unwrap().5
    }

    /// Waits until something holds; says what it waited for when it does not come.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("waited in vain until {what}; the agent's log:\n{}", self.log());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// An approval on its way.
pub(crate) struct Approval {
    pub(crate) context: Context,
    pub(crate) digits: String,
    outcome: tokio::task::JoinHandle<Outcome>,
}

impl Approval {
    pub(crate) async fn outcome(self) -> Outcome {
        tokio::time::timeout(Duration::from_secs(20), self.outcome).await.unwrap().unwrap()
    }
}

/// An account for half an hour, in the group adm.
pub(crate) fn chosen(kind: AccountKind) -> Chosen {
    let groups = if kind == AccountKind::Own { vec![] } else { vec!["adm".into()] };
    Chosen {
        kind,
        groups,
        minutes: 30,
        reason: "disk full".into(),
        ticket: "T-1".into(),
        verification: Verification::Pin,
    }
}

pub(crate) fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
