//! A relay and a control plane behind one listener, as `gatepass-relay` assembles them, and a tenant for load tests at it.

use std::{
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use gatepass_control::{Control, News, OPERATOR_TOKEN_FILE};
use gatepass_loadtest::results::Results;
use gatepass_protocol::{
    channel::Bulletin, ids::TenantId, signed::Unverified, statement::Statement, trust::TrustStore,
};
use gatepass_relay::{Api, Config, Memory, Relay, Tenants, config::TlsMode, tls};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

/// Everything, gone with the test.
pub(crate) struct Server {
    pub(crate) folder: TempDir,
    pub(crate) url: String,
    certificate: Option<PathBuf>,
    _runtime: Runtime,
}

struct Directory(Control);

impl Tenants for Directory {
    fn trust(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        self.0.trust(tenant)
    }
}

/// The program.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gatepass-loadtest"))
}

/// What a program said on both its outputs.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Server {
    /// A server with a tenant that the load tester made there.
    pub(crate) fn start(secure: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (url, certificate) = runtime.block_on(serve(&folder, secure));
        let server = Self { folder, url, certificate, _runtime: runtime };
        let token = server.path(OPERATOR_TOKEN_FILE);
        let mut tenant = program();
        tenant
            .arg("tenant")
            .arg(server.tenant())
            .args(["--server", &server.url])
            .arg("--operator-token-file")
            .arg(token);
        if let Some(certificate) = &server.certificate {
            tenant.arg("--server-ca").arg(certificate);
        }
        let made = tenant.output().unwrap();
        assert!(made.status.success(), "{}", said(&made));
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tenant's folder.
    pub(crate) fn tenant(&self) -> PathBuf {
        self.path("tenant")
    }

    /// `gatepass-loadtest run`, small and with what is given.
    pub(crate) fn run(&self, profile: &str, more: &[&str]) -> Command {
        let mut run = program();
        run.args(["run", profile, "--tenant"]).arg(self.tenant()).args(more);
        run
    }

    /// The results that a run wrote.
    pub(crate) fn results(&self, name: &str) -> Results {
        Results::parse(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }
}

async fn serve(folder: &TempDir, secure: bool) -> (String, Option<PathBuf>) {
    let control = Control::open(&folder.path().join("control.sqlite")).unwrap();
    let mut config = Config::default();
    config.edge.state_dir = folder.path().join("relay");
    config.tls.mode = if secure { TlsMode::SelfMade } else { TlsMode::Off };
    config.limits.publish_per_second = NonZeroU32::MAX;
    config.limits.publish_burst = NonZeroU32::MAX;
    let tls = tls::prepare(&config).unwrap();
    let certificate = tls.as_ref().and_then(|tls| tls.self_made()).map(Path::to_owned);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{}://{}", if secure { "https" } else { "http" }, listener.local_addr().unwrap());
    let directory = Arc::new(Directory(control.clone()));
    let relay = Relay::new(config, directory, |sink, _| Memory::new(Duration::from_secs(60)).join(sink));
    let (announcing, mut news) = (relay.clone(), control.news());
    tokio::spawn(async move {
        while let Ok(News { tenant, statement, .. }) = news.recv().await {
            let claimed = Unverified::<Statement>::decode(statement.clone()).unwrap();
            let bulletin = Bulletin::new(claimed.claimed().kind, claimed.claimed().epoch, statement);
            announcing.announce(tenant, bulletin).await.unwrap();
        }
    });
    let api: Api = Arc::new(move |request, _from| {
        let control = control.clone();
        Box::pin(async move { control.handle(request).await })
    });
    tokio::spawn(async move {
        relay.serve(listener, tls, Some(api), std::future::pending()).await;
    });
    (url, certificate)
}
