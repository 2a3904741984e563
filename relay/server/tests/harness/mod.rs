//! The server as a process, and what its administrator signs.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use gatepass_client::{Connection, Http, Incoming, Proxies, Settings, Tls};
use gatepass_protocol::{
    channel::Bulletin,
    ids::{ComputerId, Serial, TenantId},
    keys::{ChannelKey, Signer, SigningKey},
    statement::{AgentTerms, CertifiedKey, Draft, KeyUse, Kind, RevocationTerms},
    testing::Tenant,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_gatepass-relay");
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a configuration, and the server in it.
pub(crate) struct Server {
    dir: TempDir,
    pub(crate) port: u16,
    running: Option<Child>,
    started_at: usize,
    log: Arc<Mutex<String>>,
}

impl Server {
    pub(crate) fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        // Free now, and nobody else's until the server takes it.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let state = dir.path().join("state");
        let config = format!("[edge]\nlisten = '127.0.0.1:{port}'\nstate_dir = '{}'\n{more}", state.display());
        fs::write(dir.path().join("relay.toml"), config).expect("written");
        Self { dir, port, running: None, started_at: 0, log: Arc::default() }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("relay.toml")
    }

    pub(crate) fn state(&self, file: &str) -> PathBuf {
        self.dir.path().join("state").join(file)
    }

    pub(crate) fn start(&mut self) {
        self.start_as("all");
        self.wait_for_start();
    }

    /// Starts it in a role and does not wait.
    pub(crate) fn start_as(&mut self, role: &str) {
        self.started_at = self.log().len();
        let mut command = Command::new(PROGRAM);
        command.args(["--role", role, "--config"]).arg(self.config()).env_remove("RUST_BACKTRACE");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("started");
        let stderr = child.stderr.take().expect("piped");
        self.running = Some(child);
        let log = self.log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lock().expect("not poisoned").push_str(&(line + "\n"));
            }
        });
    }

    /// Waits until it listens.
    pub(crate) fn wait_for_start(&self) {
        self.wait(|log| log[self.started_at..].contains("listening"));
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    pub(crate) fn wait(&self, condition: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !condition(&self.log()) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain; its log:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.running.as_ref().expect("running").id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().expect("kill").success());
    }

    /// As a power cut ends it.
    pub(crate) fn kill(&mut self) {
        let mut child = self.running.take().expect("running");
        child.kill().expect("killed");
        child.wait().expect("waited");
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.running.take().expect("running");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("waited") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end; its log:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls::only(&fs::read_to_string(self.state("relay.pem")).expect("its certificate")).expect("usable")
    }

    pub(crate) fn http(&self) -> Http {
        Http::new(&self.url(), self.tls(), Proxies::none()).expect("a URL")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn check_config(file: &Path) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["check-config", "--config"]).arg(file).env_remove("RUST_BACKTRACE").output().expect("run")
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// An agent's certificate that is valid now, under the server's name for the tenant.
pub(crate) fn agent(tenant: &mut Tenant, id: TenantId) -> (Bytes, SigningKey, ComputerId) {
    let (sign, channel) = (SigningKey::generate(&mut tenant.rng), ChannelKey::generate(&mut tenant.rng));
    let keys = vec![
        CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
        CertifiedKey { key_use: KeyUse::Channel, key: channel.public_key() },
    ];
    let computer = ComputerId::random(&mut tenant.rng);
    let terms = AgentTerms { computer: "pc".into(), domain: String::new(), os: "Debian".into(), tags: vec![] };
    let draft = tenant.draft(computer.0, keys);
    let draft = Draft { tenant: id, not_before: now() - 60, not_after: now() + 3_600, ..draft };
    let certificate = draft.sign(&terms, &tenant.ca).expect("signed");
    (certificate.bytes().clone(), sign, computer)
}

pub(crate) fn revocation(tenant: &mut Tenant, id: TenantId, epoch: u64, revoked: &[[u8; 16]]) -> Bytes {
    let revoked = revoked.iter().map(|id| Serial(*id)).collect();
    let terms = RevocationTerms { issued: now(), next_update: now() + 3_600, min_epoch: 0, revoked };
    let draft = tenant.list(epoch);
    let draft = Draft { tenant: id, not_before: now() - 60, not_after: now() + 3_600, ..draft };
    draft.sign(&terms, &tenant.ca).expect("signed").bytes().clone()
}

/// A tenant at a server: made by its operator, with its first CA key.
pub(crate) struct Customer {
    pub(crate) id: TenantId,
    pub(crate) tenant: Tenant,
    token: String,
}

impl Customer {
    pub(crate) async fn at(server: &Server) -> Self {
        let operator = fs::read_to_string(server.state("operator.token")).expect("made");
        let operator = server.http().with_bearer(operator.trim());
        let name = format!("Example {}", u64::from_le_bytes(gatepass_client::edge::random()));
        let created: Value = operator.post_json("/api/v1/tenants", &json!({ "name": name })).await.expect("created");
        let id: TenantId = created["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        let token = created["token"].as_str().expect("a token").to_owned();
        let customer = Self { id, tenant: Tenant::new(now()), token };
        customer.trust(server, "first", &customer.tenant).await;
        customer
    }

    /// Has the server trust the CA key of `of`.
    pub(crate) async fn trust(&self, server: &Server, name: &str, of: &Tenant) {
        let ca = json!({ "name": name, "pem": of.ca_public().to_pem() });
        let admin = server.http().with_bearer(&self.token);
        let _: Value = admin.post_json(&format!("/api/v1/tenants/{}/ca-keys", self.id), &ca).await.expect("trusted");
    }

    /// Has the server put a list in force.
    pub(crate) async fn publish(&self, server: &Server, list: &Bytes) {
        let statement = gatepass_control::api::NewStatement { statement: list.to_vec().into() };
        let admin = server.http().with_bearer(&self.token);
        let path = format!("/api/v1/tenants/{}/statements", self.id);
        let _: Value = admin.post_json(&path, &statement).await.expect("in force");
    }
}

/// A computer that a CA has certified.
pub(crate) struct Computer {
    pub(crate) id: ComputerId,
    certificate: Bytes,
    sign: SigningKey,
}

impl Computer {
    pub(crate) fn of(tenant: &mut Tenant, id: TenantId) -> Self {
        let (certificate, sign, computer) = agent(tenant, id);
        Self { id: computer, certificate, sign }
    }

    pub(crate) fn connect(&self, server: &Server) -> Connection {
        Connection::start(Settings {
            relays: vec![server.url().parse().expect("a URL")],
            tls: server.tls(),
            proxies: Proxies::none(),
            chain: vec![self.certificate.clone()],
            key: Arc::new(SigningKey::from_seed(&self.sign.seed())),
        })
    }
}

/// Waits for a list on the tenant's channel.
pub(crate) async fn hears(connection: &mut Connection, epoch: u64, list: &Bytes) {
    let next = tokio::time::timeout(PATIENCE, connection.next()).await.expect("in time");
    let Some(Incoming::Message { bytes, .. }) = next else { panic!("not a message: {next:?}") };
    let bulletin = Bulletin::decode(&bytes).expect("a bulletin");
    assert_eq!((bulletin.kind, bulletin.epoch, bulletin.statement), (Kind::Revocation, epoch, Some(list.clone())));
}
