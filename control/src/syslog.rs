//! The audit trail to a SIEM: RFC 5424 messages with structured data, over UDP (RFC 5426), TCP or TLS (RFC 5425) with octet counting
//! (RFC 6587).
//!
//! How far each tenant's trail was sent is kept in the database, and moved on once a batch is out: after a restart it goes on from there,
//! and what may have been lost on the way is sent again. Syslog has no acknowledgements, so what a collector took and lost, and UDP's
//! datagrams, nobody knows of; the trail itself stays here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use gatepass_protocol::calendar::rfc3339;
use gatepass_protocol::event::Event;
use gatepass_protocol::ids::TenantId;
use gatepass_protocol::signed::Unverified;

use crate::Control;
use crate::api::{Act, TrailEntry, is_unprintable};
use crate::store::{self, Facts, Filter, Scope, StoreError};

/// Entries that are sent before it is written down that they were.
const BATCH: u64 = 200;
/// How often the trail is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// First and last pause while the collector is away.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A collector that takes nothing for so long is away.
const PATIENCE: Duration = Duration::from_secs(15);
/// RFC 5426, 3.2: more than that is not sure to arrive. Over TCP, what collectors take by default.
const LARGEST: (usize, usize) = (2048, 8192);
/// Facility 13, log audit.
const FACILITY: u8 = 13 * 8;
/// The enterprise number of the structured data's name: the one for documentation (RFC 5612), as Gatepass has none of its own.
const DATA: &str = "gatepass@32473";

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    transport: Transport,
    host: String,
    port: u16,
    /// The certificates to believe, for TLS.
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// It is no address of a collector.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no collector: write tls://host:6514, tcp://host:601 or udp://host:514")]
pub struct NoCollector(String);

impl FromStr for Collector {
    type Err = NoCollector;

    fn from_str(text: &str) -> Result<Collector, NoCollector> {
        let wrong = || NoCollector(text.to_owned());
        let (transport, rest) = match text.split_once("://").ok_or_else(wrong)? {
            ("udp", rest) => (Transport::Udp, rest),
            ("tcp", rest) => (Transport::Tcp, rest),
            ("tls", rest) => (Transport::Tls, rest),
            _ => return Err(wrong()),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let is_plain =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte));
        if !is_plain {
            return Err(wrong());
        }
        Ok(Collector { transport, host: host.to_owned(), port, ca_file: None })
    }
}

impl Collector {
    /// Believes the certificates of this file, and no others.
    pub fn with_ca(mut self, file: Option<PathBuf>) -> Collector {
        self.ca_file = file;
        self
    }

    /// Whether it needs certificates to believe.
    pub fn is_tls(&self) -> bool {
        self.transport == Transport::Tls
    }

    /// What it is called where the database keeps how far it was sent.
    fn name(&self) -> String {
        format!("syslog {}:{}", self.host, self.port)
    }

    async fn connect(&self) -> std::io::Result<Line> {
        let address = (self.host.as_str(), self.port);
        if self.transport == Transport::Udp {
            let to = tokio::net::lookup_host(address).await?.next();
            let to = to.ok_or_else(|| std::io::Error::other("the name has no address"))?;
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
            socket.connect(to).await?;
            return Ok(Line::Datagrams(socket));
        }
        let stream = TcpStream::connect(address).await?;
        if self.transport == Transport::Tcp {
            return Ok(Line::Stream(Box::new(stream)));
        }
        let roots = roots(self.ca_file.as_deref())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
        Ok(Line::Stream(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)))
    }
}

fn roots(file: Option<&Path>) -> std::io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let file = file.ok_or_else(|| std::io::Error::other("no certificates to believe are given"))?;
    for certificate in CertificateDer::pem_file_iter(file).map_err(std::io::Error::other)? {
        roots.add(certificate.map_err(std::io::Error::other)?).map_err(std::io::Error::other)?;
    }
    Ok(roots)
}

/// A way to the collector.
enum Line {
    Datagrams(UdpSocket),
    Stream(Box<dyn AsyncWrite + Unpin + Send>),
}

impl Line {
    fn largest(&self) -> usize {
        match self {
            Line::Datagrams(_) => LARGEST.0,
            Line::Stream(_) => LARGEST.1,
        }
    }

    async fn send(&mut self, messages: &[String]) -> std::io::Result<()> {
        match self {
            Line::Datagrams(socket) => {
                for message in messages {
                    socket.send(message.as_bytes()).await?;
                }
            }
            Line::Stream(stream) => {
                let mut frames = String::new();
                for message in messages {
                    let _ = write!(frames, "{} {message}", message.len());
                }
                stream.write_all(frames.as_bytes()).await?;
                stream.flush().await?;
            }
        }
        Ok(())
    }
}

impl Control {
    /// Sends the trails of all tenants to a collector, for as long as it is polled. With several nodes at one database, one of them does
    /// it: two would send everything twice.
    pub async fn forward(&self, collector: &Collector) {
        let (mut pause, mut line) = (RETRY.0, None);
        loop {
            match self.forward_some(collector, &mut line).await {
                Ok(true) => pause = RETRY.0,
                Ok(false) => {
                    pause = RETRY.0;
                    sleep(LOOK).await;
                }
                Err(error) => {
                    tracing::warn!(
                        collector = collector.name(),
                        error,
                        "the audit trail can't be sent; it waits, and is tried again"
                    );
                    line = None;
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Sends what is new of each tenant, a batch of each; says whether there was any.
    async fn forward_some(&self, collector: &Collector, line: &mut Option<Line>) -> Result<bool, String> {
        let target = collector.name();
        let waiting = self.in_the_background({
            let target = target.clone();
            move |control| control.inner.store.read(|db| store::behind(db, &target))
        });
        let mut is_any = false;
        for (tenant, sent) in waiting.await? {
            let entries = self.in_the_background(move |control| {
                control.inner.store.read(|db| store::page(db, tenant, &Filter::default(), sent, BATCH))
            });
            let entries = entries.await?;
            let Some(last) = entries.last().map(|entry| entry.seq) else { continue };
            let limit = timeout(PATIENCE, async {
                let line = match line {
                    Some(line) => line,
                    None => line.insert(collector.connect().await?),
                };
                let largest = line.largest();
                let messages: Vec<String> = entries.iter().map(|entry| message(tenant, entry, largest)).collect();
                line.send(&messages).await
            });
            limit.await.map_err(|_| "it took too long".to_owned())?.map_err(|error| error.to_string())?;
            let target = target.clone();
            let kept = self.in_the_background(move |control| {
                control.inner.store.write(Scope::Tenant(tenant), |db| store::sent(db, &target, tenant, last))
            });
            kept.await?;
            is_any = true;
        }
        Ok(is_any)
    }

    async fn in_the_background<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Control) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let control = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&control)).await.map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())
    }
}

/// An entry as RFC 5424 has it, no longer than `largest` bytes.
fn message(tenant: TenantId, entry: &TrailEntry, largest: usize) -> String {
    let facts = Facts::of(&entry.entry());
    let severity = match facts.outcome.name() {
        "alert" => 1,
        "done" => 6,
        _ => 4,
    };
    let mut data = format!("{DATA} tenant=\"{tenant}\" seq=\"{}\" outcome=\"{}\"", entry.seq, facts.outcome.name());
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = write!(data, " {name}=\"{}\"", escaped(&value));
        }
    };
    let (mut time, mut text, mut host) = (entry.at, String::new(), "-".to_owned());
    if let Some(computer) = entry.computer {
        host = computer.to_string();
        add("computer", Some(host.clone()));
        add("revoked", entry.revoked.then(|| "true".to_owned()));
        if let Ok(event) = Unverified::<Event>::decode(entry.event.0.clone()) {
            let event = event.claimed();
            time = event.time;
            add("sequence", Some(event.sequence.to_string()));
            add("technician", event.technician.map(|id| id.to_string()));
            add("device", event.device.map(|id| id.to_string()));
            add("grant", event.grant.map(|id| id.to_string()));
            add("scenario", event.scenario.map(|scenario| scenario.name().to_owned()));
            add("account", Some(event.account.clone()));
            add("code", event.code.map(|code| code.name().to_owned()));
            add("policyEpoch", Some(event.policy_epoch.to_string()));
            text = event.text.clone();
        }
    } else if let Ok(act) = serde_json::from_slice::<Act>(&entry.event.0) {
        add("to", Some(act.to.clone()));
        if let Some(by) = act.by {
            add("technician", by.technician.map(|id| id.to_string()));
            add("role", Some(by.role.name().to_owned()));
            add("token", Some(by.token.to_string()));
            add("request", Some(by.request));
        }
        text = format!("{} {} {}", act.act, act.to, act.detail).trim_end().to_owned();
    }
    let kind: String = facts.kind.bytes().filter(u8::is_ascii_graphic).take(32).map(char::from).collect();
    let kind = if kind.is_empty() { "-" } else { &kind };
    let text: String = text.chars().map(|letter| if is_unprintable(letter) { ' ' } else { letter }).collect();
    // The text is free, and says in front that it is UTF-8; of a message that is too long it is what is cut.
    let mut message =
        format!("<{}>1 {} {host} gatepass - {kind} [{data}] \u{feff}{text}", FACILITY + severity, rfc3339(time));
    if message.len() > largest {
        message.truncate((0..=largest).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0));
    }
    message
}

/// RFC 5424, 6.3.3: these three end a value otherwise.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '"' | '\\' | ']' => text.extend(['\\', letter]),
            letter if is_unprintable(letter) => text.push(' '),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::api::{Named, NewTechnician, Role};
    use crate::matrix;

    fn control(folder: &TempDir) -> (Control, TenantId) {
        let control = Control::open(&folder.path().join("control.sqlite")).unwrap();
        let tenant = control.inner.new_tenant(&Named { name: "Acme".into() }, 1).unwrap().id;
        (control, tenant)
    }

    fn add(control: &Control, tenant: TenantId, name: &str) {
        let new = NewTechnician { name: name.into(), email: "\"]\\@x".into(), role: Role::Technician };
        control.inner.new_technician(&matrix::call(tenant, None), new).unwrap();
    }

    /// Messages behind their lengths.
    async fn messages(stream: &mut TcpStream, count: usize) -> Vec<String> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let mut length = String::new();
            loop {
                match stream.read_u8().await.unwrap() {
                    b' ' => break,
                    digit => length.push(char::from(digit)),
                }
            }
            let mut message = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut message).await.unwrap();
            messages.push(String::from_utf8(message).unwrap());
        }
        messages
    }

    #[tokio::test]
    async fn a_collector_that_goes_away_misses_nothing() {
        let folder = TempDir::new().unwrap();
        let (control, tenant) = control(&folder);
        add(&control, tenant, "bo");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector: Collector = format!("tcp://{address}").parse().unwrap();
        let sending = tokio::spawn({
            let (control, collector) = (control.clone(), collector.clone());
            async move { control.forward(&collector).await }
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let operator = messages(&mut stream, 1).await;
        assert!(operator[0].contains("tenant=\"00000000"), "{}", operator[0]);
        let first = messages(&mut stream, 2).await;
        assert!(first[0].contains(" gatepass - tenant-created [gatepass@32473 tenant="), "{}", first[0]);
        assert!(first[1].starts_with("<110>1 1970-01-12T13:46:40Z - gatepass - technician-added ["), "{}", first[1]);
        // The process ends; what happens meanwhile is sent by the next.
        let caught_up = async {
            while !control.inner.store.read(|db| store::behind(db, &collector.name())).unwrap().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), caught_up).await.unwrap();
        sending.abort();
        drop((stream, listener));
        add(&control, tenant, "cleo");
        let sending = tokio::spawn({
            let (control, collector) = (control.clone(), collector.clone());
            async move { control.forward(&collector).await }
        });
        sleep(Duration::from_millis(50)).await;
        let listener = TcpListener::bind(address).await.unwrap();
        let (mut stream, _) = timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
        let next = messages(&mut stream, 1).await;
        assert!(next[0].contains("technician-added") && next[0].contains("cleo"), "{}", next[0]);
        sending.abort();
    }

    #[tokio::test]
    async fn datagrams_are_one_a_message_and_not_too_long() {
        let folder = TempDir::new().unwrap();
        let (control, tenant) = control(&folder);
        let long = "x".repeat(5000);
        let noted = control.inner.store.write(Scope::Tenant(tenant), |db| {
            crate::audit::note(db, tenant, 5, "group made", "night \"]\\ \u{202e}shift", &long)
        });
        noted.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let collector: Collector = format!("udp://{}", socket.local_addr().unwrap()).parse().unwrap();
        assert_eq!(control.forward_some(&collector, &mut None).await, Ok(true));
        let mut datagram = vec![0; 65_536];
        for _ in ["the operator's log", "the tenant's first entry"] {
            socket.recv(&mut datagram).await.unwrap();
        }
        let length = socket.recv(&mut datagram).await.unwrap();
        let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
        assert_eq!(length, 2048);
        assert!(text.contains("to=\"night \\\"\\]\\\\  shift\"]") && !text.contains('\u{202e}'), "{text}");
        assert_eq!(control.forward_some(&collector, &mut None).await, Ok(false));
    }

    #[test]
    fn what_is_no_collector_is_said_to_be_none() {
        for wrong in
            ["", "host:514", "http://host:1", "tcp://host", "tcp://:1", "tcp://host:0", "udp://a b:1", "tls://h:99999"]
        {
            assert!(wrong.parse::<Collector>().is_err(), "{wrong}");
        }
        let collector: Collector = "tls://[::1]:6514".parse().unwrap();
        assert_eq!((collector.host.as_str(), collector.port, collector.is_tls()), ("::1", 6514, true));
    }
}
