//! HTTP as enrolment and the administrator's commands use it, against a server of a few lines.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::Arc;

use gatepass_client::{Http, HttpError, Proxies, Tls};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

/// Answers one request with `answer`, over TLS where a certificate is given; returns what was asked.
async fn serve(
    listener: TcpListener,
    certificate: Option<CertifiedKey<rcgen::KeyPair>>,
    answer: &'static str,
) -> Option<String> {
    let (tcp, _) = listener.accept().await.unwrap();
    let Some(certificate) = certificate else { return exchange(tcp, answer).await };
    let key = rustls_pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    exchange(tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await.ok()?, answer).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> Option<String> {
    let mut asked = String::new();
    while !asked.ends_with('}') && !asked.ends_with("\r\n\r\n") {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok()?;
        asked.push_str(std::str::from_utf8(&part[..read]).unwrap());
    }
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()?;
    Some(asked)
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

const YES: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"id\": 1}";

#[tokio::test]
async fn a_request_and_its_answer_travel_as_json_over_a_pinned_certificate() {
    let (listener, port) = listener().await;
    let certificate = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = certificate.cert.pem();
    let server = tokio::spawn(serve(listener, Some(certificate), YES));
    let http = Http::new(&format!("https://localhost:{port}"), Tls::only(&pem).unwrap(), Proxies::none())
        .unwrap()
        .with_bearer("s3cret\n");
    let answer: serde_json::Value = http.post_json("/api/v1/x", &serde_json::json!({"name": "a"})).await.unwrap();
    assert_eq!(answer["id"], 1);
    let asked = server.await.unwrap().unwrap();
    assert!(
        asked.starts_with("POST /api/v1/x HTTP/1.1") && asked.contains("authorization: Bearer s3cret\r\n"),
        "{asked}"
    );
    assert!(asked.ends_with(r#"{"name":"a"}"#), "{asked}");
}

#[tokio::test]
async fn a_server_with_another_certificate_learns_nothing() {
    let (listener, port) = listener().await;
    let server =
        tokio::spawn(serve(listener, Some(generate_simple_self_signed(["localhost".to_owned()]).unwrap()), YES));
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let http = Http::new(&format!("https://localhost:{port}"), Tls::only(&other).unwrap(), Proxies::none()).unwrap();
    let error = http.get_json::<serde_json::Value>("/").await.unwrap_err();
    assert!(matches!(error, HttpError::Dial(gatepass_client::DialError::Untrusted { .. })), "{error}");
    assert_eq!(server.await.unwrap(), None);
}

#[tokio::test]
async fn a_refusal_says_the_servers_own_sentence() {
    let (listener, port) = listener().await;
    let no = "HTTP/1.1 409 Conflict\r\ncontent-length: 56\r\nretry-after: 7\r\n\r\n{\"title\": \"Conflict\", \"detail\": \"the ticket is used up\"}";
    tokio::spawn(serve(listener, None, no));
    let http = Http::new(&format!("http://127.0.0.1:{port}"), Tls::system().unwrap(), Proxies::none()).unwrap();
    let error = http.get_json::<serde_json::Value>("/").await.unwrap_err();
    assert!(error.to_string().ends_with("refused (409): the ticket is used up"), "{error}");
    assert!(matches!(error, HttpError::Refused { retry_after: Some(7), .. }));
}

#[tokio::test]
async fn a_token_never_travels_in_clear_over_a_network() {
    let http = Http::new("http://192.0.2.1", Tls::system().unwrap(), Proxies::none()).unwrap().with_bearer("s3cret");
    let error = http.get_json::<serde_json::Value>("/").await.unwrap_err();
    assert!(matches!(error, HttpError::Insecure { .. }) && error.to_string().contains("https"), "{error}");
}
