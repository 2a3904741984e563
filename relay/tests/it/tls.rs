//! Certificates from files: renewed while clients are connected, replaced by wrong ones, and asked of clients.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, path::Path, sync::Arc};

use gatepass_protocol::testing::Tenant;
use gatepass_relay::{
    config::TlsMode,
    metrics::Reload,
    testing::{Tenancy, TestRelay},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::client::{Client, PATIENCE, eventually};

/// A certificate for the names of a relay under test, which is its own authority, and its key.
struct Certificate {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
}

fn certificate(ends_in_year: i32) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned)).unwrap();
    parameters.not_after = rcgen::date_time_ymd(ends_in_year, 1, 1);
    let signed = parameters.self_signed(&key).unwrap();
    Certificate { pem: signed.pem(), key_pem: key.serialize_pem(), der: signed.der().clone() }
}

impl Certificate {
    /// As programs that renew certificates do it: a new file over the old name.
    fn write(&self, dir: &Path) {
        replace(&dir.join("cert.pem"), &self.pem);
        replace(&dir.join("key.pem"), &self.key_pem);
    }
}

fn replace(path: &Path, text: &str) {
    fs::write(path.with_extension("new"), text).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client that believes one certificate, and has one of its own perhaps.
fn connector(trusts: &Certificate, own: Option<Own>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    TlsConnector::from(Arc::new(match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    }))
}

async fn connect(relay: &TestRelay, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(relay.address()).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), socket).await
}

/// The answer to a request for the relay's health; with TLS 1.3, who is not let in finds out by reading.
async fn health(relay: &TestRelay, connector: &TlsConnector) -> std::io::Result<String> {
    let mut stream = connect(relay, connector).await?;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time")?;
    Ok(answer)
}

async fn with_files(tenant: &Tenant, dir: &Path, change: impl FnOnce(&mut gatepass_relay::Config)) -> TestRelay {
    TestRelay::with(Tenancy::of([tenant.trust()]), |config| {
        config.tls.mode = TlsMode::Files;
        (config.tls.certificate, config.tls.key) = (dir.join("cert.pem"), dir.join("key.pem"));
        change(config);
    })
    .await
}

#[tokio::test]
async fn a_renewed_certificate_serves_newcomers_a_wrong_one_nobody_and_open_connections_stay() {
    let mut tenant = Tenant::new(1);
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (certificate(2090), certificate(2091));
    first.write(dir.path());
    let relay = with_files(&tenant, dir.path(), |_| {}).await;
    let metrics = relay.relay.metrics();
    let stream = connect(&relay, &connector(&first, None)).await.expect("trusted");
    let mut agent = Client::over(stream, relay.address()).await.welcomed(&tenant.computer()).await;
    eventually(|| metrics.tls_not_after.get() == 3_786_912_000).await;

    second.write(dir.path());
    eventually(|| metrics.tls_reloads.of(Reload::Loaded).get() == 1).await;
    assert!(health(&relay, &connector(&second, None)).await.expect("the new one").contains("200"));
    assert!(connect(&relay, &connector(&first, None)).await.is_err(), "the old one is gone");
    eventually(|| metrics.tls_not_after.get() == 3_818_448_000).await;
    agent.open(1).await;

    // A key that belongs to another certificate, no certificate at all, one that has ended, none.
    for (n, wrong) in [
        ("key.pem", first.key_pem.as_str()),
        ("cert.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("cert.pem", &certificate(2020).pem),
        ("key.pem", ""),
    ]
    .into_iter()
    .enumerate()
    {
        replace(&dir.path().join(wrong.0), wrong.1);
        eventually(|| metrics.tls_reloads.of(Reload::Refused).get() == n as u64 + 1).await;
        assert!(health(&relay, &connector(&second, None)).await.expect("it goes on").contains("200"));
    }
    first.write(dir.path());
    eventually(|| metrics.tls_reloads.of(Reload::Loaded).get() == 2).await;
    assert!(health(&relay, &connector(&first, None)).await.expect("put right").contains("200"));
    agent.open(2).await;
}

#[tokio::test]
async fn with_a_clients_ca_whoever_has_no_certificate_of_it_does_not_get_in() {
    let authority = || {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
    };
    let client = |by: &CertifiedIssuer<'_, KeyPair>| -> Own {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(["pc-1".to_owned()]).unwrap().signed_by(&key, by).unwrap();
        (vec![signed.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let (ours, theirs) = (authority(), authority());
    let dir = tempfile::tempdir().unwrap();
    let own = certificate(2090);
    own.write(dir.path());
    fs::write(dir.path().join("clients.pem"), ours.pem()).unwrap();
    let tenant = Tenant::new(1);
    let relay = with_files(&tenant, dir.path(), |config| config.tls.client_ca = dir.path().join("clients.pem")).await;
    assert!(health(&relay, &connector(&own, Some(client(&ours)))).await.expect("let in").contains("200"));
    assert!(health(&relay, &connector(&own, Some(client(&theirs)))).await.is_err());
    assert!(health(&relay, &connector(&own, None)).await.is_err());
    // Another CA from now on, without a restart.
    replace(&dir.path().join("clients.pem"), &theirs.pem());
    eventually(|| relay.relay.metrics().tls_reloads.of(Reload::Loaded).get() == 1).await;
    assert!(health(&relay, &connector(&own, Some(client(&ours)))).await.is_err());
    assert!(health(&relay, &connector(&own, Some(client(&theirs)))).await.expect("let in").contains("200"));
}
