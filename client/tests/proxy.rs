//! Computers whose only way out is an HTTP proxy: a small real one, and the real relay behind it.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use gatepass_client::{Connection, Http, HttpError, Method, Proxies, Settings, Tls, Why};
use gatepass_protocol::{channel::Channel, keys::SigningKey, testing::Tenant};
use gatepass_relay::{
    config::TlsMode,
    testing::{Tenancy, TestRelay},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// A name that only the proxy can resolve.
const NAME: &str = "relay.test";
/// `dave:s3cret%`, as HTTP says it.
const LOGIN: &str = "proxy-authorization: Basic ZGF2ZTpzM2NyZXQl";

/// A proxy that connects to one relay under its name, on port 443 and no other.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn to(relay: SocketAddr, wants_login: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heads = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let heads = heads.clone();
                tokio::spawn(async move {
                    let head = head(&mut near).await;
                    let answer =
                        match (wants_login && !head.contains(LOGIN), head.starts_with("CONNECT relay.test:443 ")) {
                            (true, _) => "407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"x\"",
                            (false, false) => "403 Forbidden",
                            (false, true) => "200 Connection established",
                        };
                    heads.lock().unwrap().push(head);
                    // A refusal has a page with it, as real ones do.
                    let page = if answer.starts_with("200") { "" } else { "content-length: 4\r\n\r\nno.\n" };
                    let end = if page.is_empty() { "\r\n" } else { "" };
                    near.write_all(format!("HTTP/1.1 {answer}\r\n{page}{end}").as_bytes()).await.unwrap();
                    if page.is_empty() {
                        let mut far = TcpStream::connect(relay).await.unwrap();
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { address, asked }
    }

    fn url(&self, login: &str) -> Proxies {
        Proxies::from_setting(&format!("http://{login}{}", self.address), "the test").unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn relay(tenant: &Tenant) -> TestRelay {
    let named = |config: &mut gatepass_relay::Config| {
        config.edge.names = vec![NAME.to_owned()];
        config.tls.mode = TlsMode::SelfMade;
    };
    TestRelay::with(Tenancy::of([tenant.trust()]), named).await
}

/// Why an agent that goes out like this does not come online, or that it does.
async fn connect(tenant: &mut Tenant, relay: &TestRelay, url: &str, proxies: Proxies) -> Result<Connection, Why> {
    let agent = tenant.computer();
    let connection = Connection::start(Settings {
        relays: vec![url.parse().unwrap()],
        tls: Tls::only(relay.certificate_pem().unwrap()).unwrap(),
        proxies,
        chain: agent.chain.clone(),
        key: Arc::new(SigningKey::from_seed(&agent.sign.seed())),
    });
    timeout(PATIENCE, connection.sender().online()).await.unwrap()?;
    let own = Channel::Computer(agent.computer());
    timeout(PATIENCE, connection.sender().subscribe(own)).await.unwrap().unwrap();
    Ok(connection)
}

#[tokio::test]
async fn a_computer_whose_only_way_out_is_a_proxy_reaches_relay_and_control_plane() {
    let mut tenant = Tenant::new(1);
    let relay = relay(&tenant).await;
    let proxy = Proxy::to(relay.address(), true).await;
    let through = proxy.url("dave:s3cret%25@");
    connect(&mut tenant, &relay, "wss://relay.test", through.clone()).await.unwrap();
    let tls = Tls::only(relay.certificate_pem().unwrap()).unwrap();
    let http = Http::new("https://relay.test", tls, through.clone()).unwrap();
    assert_eq!(http.request(Method::GET, "/health/ready", None).await.unwrap().status, 200);
    gatepass_client::reach(http.endpoint(), &through).await.unwrap();
    for head in proxy.asked() {
        assert!(
            head.starts_with("CONNECT relay.test:443 HTTP/1.1\r\n") && head.contains("host: relay.test:443"),
            "{head}"
        );
    }
    assert_eq!(proxy.asked().len(), 3);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_what_to_do_and_without_the_password() {
    let mut tenant = Tenant::new(1);
    let relay = relay(&tenant).await;
    let proxy = Proxy::to(relay.address(), true).await;
    let name = proxy.address.to_string();
    for (login, url, expected) in [
        ("", "wss://relay.test", "asks for a user name and password"),
        ("dave:wr0ng@", "wss://relay.test", "refused the user name and password"),
        ("dave:s3cret%25@", "wss://relay.test:8443", "refused to connect to relay.test:8443 (HTTP 403)"),
    ] {
        let why = connect(&mut tenant, &relay, url, proxy.url(login)).await.err().unwrap();
        let said = why.to_string();
        assert!(said.contains(expected) && said.contains(&name), "{said}");
        assert!(why.needs_somebody(), "nothing here passes by itself: {said}");
        assert!(!["wr0ng", "s3cret"].iter().any(|secret| format!("{said} {why:?}").contains(secret)), "{said}");
    }
}

#[tokio::test]
async fn what_is_no_proxy_is_called_that_and_one_that_is_gone_too() {
    let mut tenant = Tenant::new(1);
    let relay = relay(&tenant).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxies = Proxies::from_setting(&format!("http://{address}"), "the test").unwrap();
    for (answer, expected) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "does not answer like an HTTP proxy"),
        // Whoever speaks first in the tunnel is not the relay.
        (b"HTTP/1.1 200 OK\r\n\r\nwelcome", "bytes of its own"),
        (&[b'x'; 100_000][..], "does not answer like an HTTP proxy"),
        (b"", "does not answer like an HTTP proxy"),
    ] {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            let _ = stream.write_all(answer).await;
        };
        let asked = async {
            let tls = Tls::only(relay.certificate_pem().unwrap()).unwrap();
            let http = Http::new("https://relay.test", tls, proxies.clone()).unwrap();
            http.request(Method::GET, "/", None).await.unwrap_err()
        };
        let (error, ()) = tokio::join!(asked, serve);
        assert!(matches!(error, HttpError::Dial(_)) && error.to_string().contains(expected), "{error}");
    }
    drop(listener);
    let why = connect(&mut tenant, &relay, "wss://relay.test", proxies).await.err().unwrap();
    assert!(
        why.to_string().contains(&format!("the proxy {address} can't be reached")) && !why.needs_somebody(),
        "{why}"
    );
}
