//! The relay's settings, and the strict reading of the TOML file that they come from.
//!
//! Every key has a default, so an empty file is a valid one, and a test holds `relay.example.toml` to naming each key with
//! exactly that default. A key that nobody reads is a mistake of whoever wrote it: it is refused, with the nearest key
//! that exists. The known keys are those of the default value itself, so there is no second list to forget.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use gatepass_protocol::frame::{MAX_FRAME, MAX_TTL};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What a relay is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where it listens and what it is called.
    pub edge: Edge,
    /// How its connections are encrypted.
    pub tls: Tls,
    /// Bounds on what clients can make it hold.
    pub limits: Limits,
    /// Pairings.
    pub pairing: Pairing,
    /// Shutting down.
    pub drain: Drain,
    /// What the relays of a region share.
    pub backplane: Backplane,
}

/// Where the relay listens and what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Edge {
    /// Address and port.
    pub listen: SocketAddr,
    /// The names by which clients dial, without port. A client signs the name that it dialled, so that nobody can pass
    /// its proof on to another relay; a proof for a name that is not in this list is refused. The self-made TLS
    /// certificate is made for these names.
    pub names: Vec<String>,
    /// The folder of everything that the relay makes itself.
    pub state_dir: PathBuf,
    /// Proxies and load balancers in front, as addresses or networks (`10.0.0.0/8`): what they say of whom they call for
    /// is believed.
    pub proxies: Vec<String>,
    /// Whether those begin each connection with a PROXY header (version 1 or 2). Without, they are HTTP proxies, and
    /// their X-Forwarded-For is read.
    pub proxy_protocol: bool,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8443).into(),
            names: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            state_dir: "/var/lib/gatepass/relay".into(),
            proxies: vec![],
            proxy_protocol: false,
        }
    }
}

/// Where the certificate comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Made by the relay at its first start, kept in `state_dir`. Clients have to be given it.
    #[default]
    SelfMade,
    /// From `certificate` and `key`.
    Files,
    /// No TLS: behind a proxy that ends it, or in a test.
    Off,
}

/// How connections are encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Where the certificate comes from.
    pub mode: TlsMode,
    /// PEM file: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file: the private key.
    pub key: PathBuf,
    /// PEM file: the CAs of which a client must have a certificate to be let into TLS at all; empty: anybody may come.
    pub client_ca: PathBuf,
}

/// Bounds on what clients can make the relay hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Sockets open at once, of any kind.
    pub connections: u32,
    /// Sockets at once that speak and have not authenticated yet; more wait for their turn.
    pub handshakes: u32,
    /// Seconds for each step before a connection is authenticated: TLS, HTTP request head, AUTH.
    pub handshake_seconds: NonZeroU32,
    /// New sockets a second, from everybody together; more wait in the kernel's queue.
    pub accepts_per_second: NonZeroU32,
    /// New sockets at once, from everybody together.
    pub accept_burst: NonZeroU32,
    /// New sockets a second from one address (IPv6: from one /64).
    pub ip_per_second: NonZeroU32,
    /// New sockets at once from one address.
    pub ip_burst: NonZeroU32,
    /// Addresses that are remembered; when the table is full, all share one bucket until it has been tidied.
    pub ip_tracked: u32,
    /// Connections that one tenant may have, at all relays of the region together.
    pub tenant_connections: NonZeroU32,
    /// Pairings that one tenant may have open, at all relays of the region together.
    pub tenant_pairings: NonZeroU32,
    /// Bytes a minute that all clients of one tenant may send, at all relays of the region together.
    pub tenant_bytes_per_minute: NonZeroU32,
    /// Clients a second of one tenant that authenticate.
    pub tenant_connects_per_second: NonZeroU32,
    /// Clients at once of one tenant that authenticate.
    pub tenant_connect_burst: NonZeroU32,
    /// Times a second that one computer or phone authenticates.
    pub client_connects_per_second: NonZeroU32,
    /// Times at once that one computer or phone authenticates.
    pub client_connect_burst: NonZeroU32,
    /// Computers and phones, and tenants, that are remembered for those; when a table is full, the rest share one bucket.
    pub clients_tracked: u32,
    /// Frames a second that all clients of one tenant may send.
    pub tenant_frames_per_second: NonZeroU32,
    /// Frames at once that all clients of one tenant may send.
    pub tenant_frame_burst: NonZeroU32,
    /// Bytes a second that all clients of one tenant may send.
    pub tenant_bytes_per_second: NonZeroU32,
    /// Bytes at once that all clients of one tenant may send.
    pub tenant_byte_burst: NonZeroU32,
    /// Messages a second that all clients of one tenant may publish to channels.
    pub tenant_publishes_per_second: NonZeroU32,
    /// Messages at once that all clients of one tenant may publish.
    pub tenant_publish_burst: NonZeroU32,
    /// Frames a second that one connection may send.
    pub client_frames_per_second: NonZeroU32,
    /// Frames at once that one connection may send.
    pub client_frame_burst: NonZeroU32,
    /// Pairings that one connection may have open.
    pub pairings: u32,
    /// Messages a second that one connection may publish to channels.
    pub publish_per_second: NonZeroU32,
    /// Messages at once that one connection may publish: fewer than `queue_messages`, or one client could fill the queue
    /// of another that reads as fast as it can.
    pub publish_burst: NonZeroU32,
    /// Bytes that wait for one slow reader before it is closed.
    pub queue_bytes: u32,
    /// Messages that wait for one slow reader before it is closed.
    pub queue_messages: u32,
    /// Messages about who is online that wait for one slow reader; beyond that, the oldest are dropped.
    pub presence_messages: u32,
    /// Seconds that one write may take before the reader counts as stalled.
    pub write_seconds: NonZeroU32,
    /// Seconds between the relay's pings.
    pub ping_seconds: NonZeroU32,
    /// Seconds without a byte from a client after which it is gone.
    pub idle_seconds: NonZeroU32,
}

const fn at_least_one(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100_000,
            handshakes: 2_048,
            handshake_seconds: at_least_one(5),
            accepts_per_second: at_least_one(5_000),
            accept_burst: at_least_one(20_000),
            ip_per_second: at_least_one(50),
            ip_burst: at_least_one(500),
            ip_tracked: 100_000,
            tenant_connections: at_least_one(50_000),
            tenant_pairings: at_least_one(10_000),
            tenant_bytes_per_minute: at_least_one(960 * 1024 * 1024),
            tenant_connects_per_second: at_least_one(2_000),
            tenant_connect_burst: at_least_one(20_000),
            client_connects_per_second: at_least_one(10),
            client_connect_burst: at_least_one(100),
            clients_tracked: 200_000,
            tenant_frames_per_second: at_least_one(20_000),
            tenant_frame_burst: at_least_one(40_000),
            tenant_bytes_per_second: at_least_one(16 * 1024 * 1024),
            tenant_byte_burst: at_least_one(32 * 1024 * 1024),
            tenant_publishes_per_second: at_least_one(2_000),
            tenant_publish_burst: at_least_one(10_000),
            client_frames_per_second: at_least_one(1_000),
            client_frame_burst: at_least_one(2_000),
            pairings: 64,
            publish_per_second: at_least_one(20),
            publish_burst: at_least_one(100),
            queue_bytes: 256 * 1024,
            queue_messages: 1_024,
            presence_messages: 64,
            write_seconds: at_least_one(10),
            ping_seconds: at_least_one(25),
            idle_seconds: at_least_one(75),
        }
    }
}

/// Pairings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pairing {
    /// The longest life of a pairing, in seconds, whatever an agent asks for. The protocol allows 90.
    pub ttl_seconds: u32,
    /// Seconds that a message is kept for an end that is away.
    pub resume_seconds: u32,
}

impl Default for Pairing {
    fn default() -> Self {
        Self { ttl_seconds: MAX_TTL, resume_seconds: 60 }
    }
}

/// Shutting down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drain {
    /// Seconds over which the clients' connections are closed, and over which they come back.
    pub spread_seconds: u32,
    /// The relay that clients are sent to meanwhile (`wss://host:port/v1/ws`); empty: this one.
    pub url: String,
}

impl Default for Drain {
    fn default() -> Self {
        Self { spread_seconds: 5, url: String::new() }
    }
}

/// Where what the relays of one region share is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackplaneKind {
    /// In this process: a region of one relay.
    #[default]
    Memory,
    /// In one Redis server.
    Redis,
    /// In a Redis server that Sentinels watch over.
    RedisSentinel,
    /// In a Redis cluster.
    RedisCluster,
}

/// What the relays of a region share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backplane {
    /// Where it is kept.
    pub kind: BackplaneKind,
    /// `host:port` of the Redis server, of the Sentinels, or of some nodes of the cluster.
    pub servers: Vec<String>,
    /// The name by which the Sentinels know the master.
    pub sentinel_master: String,
    /// The user to log in as; empty: Redis' default user.
    pub username: String,
    /// The file with the password; empty: the environment variable `GATEPASS_REDIS_PASSWORD`, or no password.
    pub password_file: PathBuf,
    /// The same for the Sentinels.
    pub sentinel_username: String,
    /// The same for the Sentinels; the variable is `GATEPASS_SENTINEL_PASSWORD`.
    pub sentinel_password_file: PathBuf,
    /// Whether the connections are encrypted.
    pub tls: bool,
    /// PEM file: who may have signed the servers' certificates; empty: whom the system trusts.
    pub tls_ca: PathBuf,
    /// PEM file: this relay's certificate, where the servers ask for one.
    pub tls_certificate: PathBuf,
    /// PEM file: its private key.
    pub tls_key: PathBuf,
    /// What every key begins with: one for each region that shares a Redis.
    pub prefix: String,
    /// Milliseconds after which a command to Redis counts as failed.
    pub timeout_ms: NonZeroU32,
    /// Messages from Redis that may wait for the relay.
    pub queue_messages: NonZeroU32,
    /// Bytes of messages from Redis that may wait for the relay.
    pub queue_bytes: NonZeroU32,
    /// Where this relay listens for the others of its region, `address:port`; empty: it does not, and their messages come through
    /// Redis.
    pub peer_listen: String,
    /// `host:port` by which the others reach it; empty: `peer_listen`, or where that is every address, the one from which this
    /// relay reaches Redis.
    pub peer_address: String,
    /// Newest messages of a channel that are kept for those who were away.
    pub history_messages: NonZeroU32,
    /// Seconds after a channel's last message for which they are kept.
    pub history_seconds: NonZeroU32,
}

impl Default for Backplane {
    fn default() -> Self {
        Self {
            kind: BackplaneKind::Memory,
            servers: vec!["127.0.0.1:6379".into()],
            sentinel_master: "gatepass".into(),
            username: String::new(),
            password_file: PathBuf::new(),
            sentinel_username: String::new(),
            sentinel_password_file: PathBuf::new(),
            tls: false,
            tls_ca: PathBuf::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            prefix: "gp".into(),
            timeout_ms: at_least_one(1_000),
            queue_messages: at_least_one(16_384),
            queue_bytes: at_least_one(32 * 1024 * 1024),
            peer_listen: String::new(),
            peer_address: String::new(),
            history_messages: at_least_one(64),
            history_seconds: at_least_one(60),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// A key that nobody reads.
    #[error("unknown key `{key}`{}", .nearest.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownKey {
        /// As written, with its sections.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value that can't work.
    #[error("`{key}`: {problem}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

/// A network, or one address as a network of its own.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()
}

/// Reads a configuration file into any type whose default names all its keys.
pub fn load<T: Serialize + DeserializeOwned + Default>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text)
}

/// Reads a configuration's text, as [`load`] does.
pub fn parse<T: Serialize + DeserializeOwned + Default>(text: &str) -> Result<T, ConfigError> {
    let written: toml::Table = text.parse()?;
    let known = keys(&T::default());
    let unknown = paths(&written).into_iter().find(|path| !known.contains(path));
    if let Some(key) = unknown {
        return Err(ConfigError::UnknownKey { nearest: nearest(&key, &known), key });
    }
    // From the text and not from the table, so that an error names its line.
    Ok(toml::from_str(text)?)
}

/// Every key of a configuration, with its sections: `limits.queue_bytes`.
pub fn keys<T: Serialize>(defaults: &T) -> Vec<String> {
    toml::Table::try_from(defaults).map(|table| paths(&table)).unwrap_or_default()
}

fn paths(table: &toml::Table) -> Vec<String> {
    table
        .iter()
        .flat_map(|(name, value)| match value {
            toml::Value::Table(inner) if !inner.is_empty() => {
                paths(inner).into_iter().map(|path| format!("{name}.{path}")).collect()
            }
            // An empty section names no key, and only a section that exists may be empty.
            toml::Value::Table(_) => vec![],
            _ => vec![name.clone()],
        })
        .collect()
}

fn nearest(wrong: &str, known: &[String]) -> Option<String> {
    // The right name in the wrong section is the commonest slip, and by letters it may be far away.
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |key: &&String| {
        let whole = strsim::jaro_winkler(wrong, key);
        let name = strsim::jaro_winkler(&last(wrong), &last(key));
        whole.max(name)
    };
    known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|key| likeness(key) > 0.7).cloned()
}

impl Config {
    /// Refuses values that parse but can't work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
        if self.edge.names.is_empty() {
            return wrong("edge.names", "is empty, so no client could authenticate; write the names that clients dial");
        }
        if let Some(bad) = self.edge.names.iter().find(|name| !is_host(name)) {
            let problem = format!(
                "{bad:?} is no name that clients dial; write it out, without scheme, brackets, port or *: \"relay.example.com\""
            );
            return Err(ConfigError::Value { key: "edge.names", problem });
        }
        if let Some(bad) = self.edge.proxies.iter().find(|text| network(text).is_none()) {
            let problem = format!("{bad:?} is no address and no network; write \"192.0.2.1\" or \"10.0.0.0/8\"");
            return Err(ConfigError::Value { key: "edge.proxies", problem });
        }
        if self.edge.proxy_protocol && self.edge.proxies.is_empty() {
            return wrong("edge.proxy_protocol", "needs to know whose headers to believe; name them in edge.proxies");
        }
        if self.tls.mode == TlsMode::Files {
            for (key, path) in [("tls.certificate", &self.tls.certificate), ("tls.key", &self.tls.key)] {
                if let Err(error) = std::fs::File::open(path) {
                    return Err(ConfigError::Value {
                        key,
                        problem: format!("can't read {:?}: {error}", path.display()),
                    });
                }
            }
        }
        if !self.tls.client_ca.as_os_str().is_empty() && self.tls.mode == TlsMode::Off {
            return wrong("tls.client_ca", "needs TLS, which `tls.mode` switches off");
        }
        self.backplane.check()?;
        if self.pairing.ttl_seconds == 0 || self.pairing.ttl_seconds > MAX_TTL {
            return Err(ConfigError::Value { key: "pairing.ttl_seconds", problem: format!("must be 1 to {MAX_TTL}") });
        }
        if !self.drain.url.is_empty() && !self.drain.url.starts_with("wss://") && !self.drain.url.starts_with("ws://") {
            return wrong("drain.url", "is where clients go on: \"wss://relay.example.com/v1/ws\"; empty: to this one");
        }
        if self.drain.spread_seconds > LONGEST_DRAIN {
            let problem = format!(
                "must be at most {LONGEST_DRAIN}: whoever stops a relay waits that long, and service managers kill it sooner"
            );
            return Err(ConfigError::Value { key: "drain.spread_seconds", problem });
        }
        if self.limits.connections == 0 || self.limits.handshakes == 0 {
            return wrong("limits.connections", "and limits.handshakes must be at least 1, or nobody is let in");
        }
        // Room for one largest frame and the hint that follows an overflow.
        if self.limits.queue_bytes < 64 * 1024 || self.limits.queue_messages < 32 {
            return wrong("limits.queue_bytes", "must be at least 65536, and limits.queue_messages at least 32");
        }
        if (self.limits.tenant_byte_burst.get() as usize) < MAX_FRAME {
            let problem = format!("must be at least {MAX_FRAME}, or the largest frame would never pass");
            return Err(ConfigError::Value { key: "limits.tenant_byte_burst", problem });
        }
        if self.limits.idle_seconds <= self.limits.ping_seconds {
            return wrong(
                "limits.idle_seconds",
                "must be greater than limits.ping_seconds, or live clients are closed",
            );
        }
        Ok(())
    }
}

/// The longest time over which a relay may let go of its clients.
const LONGEST_DRAIN: u32 = 600;

/// Whether it is an address or a name, and nothing around it.
fn is_host(text: &str) -> bool {
    let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.parse::<std::net::IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(in_names))
}

impl Backplane {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
        let addressed = |server: &String| {
            server.rsplit_once(':').is_some_and(|(host, port)| {
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                is_host(bare) && port.parse::<u16>().is_ok()
            })
        };
        if self.servers.is_empty() || !self.servers.iter().all(addressed) {
            return wrong(
                "backplane.servers",
                "takes addresses with a port, at least one: [\"redis.example.com:6379\"]",
            );
        }
        if self.kind == BackplaneKind::Redis && self.servers.len() > 1 {
            return wrong(
                "backplane.servers",
                "takes one address where kind is \"redis\"; with several servers kind is \"redis-sentinel\" or \"redis-cluster\"",
            );
        }
        // Braces would move a key to another slot than the one that its tag was chosen for.
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            return wrong("backplane.prefix", "must not be empty, nor have braces in it: \"gp:eu-1\"");
        }
        if self.tls_certificate.as_os_str().is_empty() != self.tls_key.as_os_str().is_empty() {
            return wrong("backplane.tls_certificate", "and backplane.tls_key belong together: set both or none");
        }
        let used = [&self.tls_ca, &self.tls_certificate].iter().any(|path| !path.as_os_str().is_empty());
        if used && !self.tls {
            return wrong("backplane.tls", "is false, so tls_ca and tls_certificate would not be used; set it to true");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse::<Config>("").unwrap(), Config::default());
        Config::default().check().unwrap();
    }

    #[test]
    fn an_operator_who_mistypes_a_key_is_told_the_right_one() {
        for (text, near) in [
            ("[limits]\nqueue_byte = 1", "limits.queue_bytes"),
            ("[limit]\nqueue_bytes = 1", "limits.queue_bytes"),
            ("listen = '0.0.0.0:1'", "edge.listen"),
            ("[tls]\ncertificat = 'a'", "tls.certificate"),
        ] {
            let error = parse::<Config>(text).unwrap_err().to_string();
            assert!(error.contains(&format!("did you mean `{near}`?")), "{error}");
        }
        let error = parse::<Config>("[zzz]\nqqq = 1").unwrap_err().to_string();
        assert_eq!(error, "unknown key `zzz.qqq`");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_line() {
        let error = parse::<Config>("[limits]\nqueue_bytes = 'many'").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(parse::<Config>("[limits]\nip_burst = 0").is_err());
        assert!(parse::<Config>("[tls]\nmode = 'none'").is_err());
    }

    #[test]
    fn values_that_can_not_work_are_refused_by_name() {
        for (text, key) in [
            ("[edge]\nnames = []", "edge.names"),
            ("[edge]\nnames = ['https://relay/']", "edge.names"),
            ("[edge]\nnames = ['relay.example.com:443']", "edge.names"),
            ("[edge]\nnames = ['*.example.com']", "edge.names"),
            ("[edge]\nnames = ['[::1]']", "edge.names"),
            ("[drain]\nurl = 'http://other'", "drain.url"),
            ("[drain]\nspread_seconds = 100000", "drain.spread_seconds"),
            ("[limits]\nconnections = 0", "limits.connections"),
            ("[backplane]\nservers = ['redis://127.0.0.1:6379']", "backplane.servers"),
            ("[edge]\nproxies = ['10.0.0.0/33']", "edge.proxies"),
            ("[edge]\nproxies = ['balancer.example']", "edge.proxies"),
            ("[edge]\nproxy_protocol = true", "edge.proxy_protocol"),
            ("[tls]\nmode = 'files'\ncertificate = '/nonexistent.pem'", "tls.certificate"),
            ("[tls]\nmode = 'off'\nclient_ca = 'ca.pem'", "tls.client_ca"),
            ("[pairing]\nttl_seconds = 91", "pairing.ttl_seconds"),
            ("[limits]\nqueue_bytes = 10", "limits.queue_bytes"),
            ("[limits]\ntenant_byte_burst = 100", "limits.tenant_byte_burst"),
            ("[backplane]\nservers = []", "backplane.servers"),
            ("[backplane]\nservers = ['redis']", "backplane.servers"),
            ("[backplane]\nkind = 'redis'\nservers = ['a:1', 'b:2']", "backplane.servers"),
            ("[backplane]\nprefix = '{x}'", "backplane.prefix"),
            ("[backplane]\ntls = true\ntls_key = 'a'", "backplane.tls_certificate"),
            ("[backplane]\ntls_ca = 'a'", "backplane.tls"),
            ("[limits]\nidle_seconds = 25", "limits.idle_seconds"),
        ] {
            let error = parse::<Config>(text).unwrap().check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}`")), "{error}");
        }
    }
}
