//! Where Redis is and how to get in, out of the configuration.

use std::{fs, net::SocketAddr, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
    io::tcp::TcpSettings,
};

use crate::config::{self, BackplaneKind, ConfigError};

/// In place of `backplane.password_file`.
const PASSWORD_VARIABLE: &str = "GATEPASS_REDIS_PASSWORD";
/// In place of `backplane.sentinel_password_file`.
const SENTINEL_PASSWORD_VARIABLE: &str = "GATEPASS_SENTINEL_PASSWORD";

/// Settings that have been read and can be used.
#[derive(Clone)]
pub struct Settings {
    pub(super) kind: BackplaneKind,
    /// Where to begin.
    pub(super) servers: Vec<(String, u16)>,
    pub(super) master: String,
    pub(super) prefix: String,
    pub(super) timeout: Duration,
    pub(super) resume_for: Duration,
    pub(super) history_messages: u64,
    pub(super) history_ms: u64,
    pub(super) queue_messages: usize,
    pub(super) queue_bytes: usize,
    /// `None`: other relays' messages come through Redis.
    pub(super) peer_listen: Option<SocketAddr>,
    /// Empty: the former.
    pub(super) peer_address: String,
    redis: RedisConnectionInfo,
    sentinel: RedisConnectionInfo,
    /// `None`: without TLS.
    tls: Option<redis::TlsCertificates>,
}

/// Reads `host:port`, `[v6]:port`.
pub(super) fn parse_address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// Where to listen for other relays, and that they can find it.
fn peer_listen(config: &config::Backplane) -> Result<Option<SocketAddr>, ConfigError> {
    let wrong = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.into() });
    if config.peer_listen.is_empty() {
        return Ok(None);
    }
    let Ok(listen) = config.peer_listen.parse::<SocketAddr>() else {
        return wrong("backplane.peer_listen", "write an address of this machine and a port, as in 10.0.0.5:8445");
    };
    if !config.peer_address.is_empty() && parse_address(&config.peer_address).is_none() {
        return wrong("backplane.peer_address", "write host:port, as in relay-1.internal:8445");
    }
    Ok(Some(listen))
}

fn login(
    username: &str,
    file: &std::path::Path,
    key: &'static str,
    variable: &str,
) -> Result<RedisConnectionInfo, ConfigError> {
    let mut login = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    if !username.is_empty() {
        login = login.set_username(username);
    }
    let password = match file.as_os_str().is_empty() {
        false => {
            let unreadable =
                |error| ConfigError::Value { key, problem: format!("can't read {:?}: {error}", file.display()) };
            Some(fs::read_to_string(file).map_err(unreadable)?)
        }
        true => std::env::var(variable).ok(),
    };
    Ok(match password.as_deref().map(|password| password.trim_end_matches(['\r', '\n'])) {
        Some(password) if !password.is_empty() => login.set_password(password),
        _ => login,
    })
}

impl Settings {
    /// Reads what the configuration names: passwords and certificates.
    pub fn load(config: &config::Backplane, resume_for: Duration) -> Result<Self, ConfigError> {
        let tls = match config.tls {
            false => None,
            true => {
                let read = |key, path: &std::path::Path| match path.as_os_str().is_empty() {
                    true => Ok(None),
                    false => fs::read(path).map(Some).map_err(|error| ConfigError::Value {
                        key,
                        problem: format!("can't read {:?}: {error}", path.display()),
                    }),
                };
                let certificate = read("backplane.tls_certificate", &config.tls_certificate)?;
                let client_tls = match (certificate, read("backplane.tls_key", &config.tls_key)?) {
                    (Some(client_cert), Some(client_key)) => Some(redis::ClientTlsConfig { client_cert, client_key }),
                    _ => None,
                };
                Some(redis::TlsCertificates { client_tls, root_cert: read("backplane.tls_ca", &config.tls_ca)? })
            }
        };
        let settings = Self {
            kind: config.kind,
            servers: config.servers.iter().filter_map(|server| parse_address(server)).collect(),
            master: config.sentinel_master.clone(),
            prefix: config.prefix.clone(),
            timeout: Duration::from_millis(config.timeout_ms.get().into()),
            resume_for,
            history_messages: config.history_messages.get().into(),
            history_ms: u64::from(config.history_seconds.get()) * 1_000,
            queue_messages: config.queue_messages.get() as usize,
            queue_bytes: config.queue_bytes.get() as usize,
            peer_listen: peer_listen(config)?,
            peer_address: config.peer_address.clone(),
            redis: login(&config.username, &config.password_file, "backplane.password_file", PASSWORD_VARIABLE)?,
            sentinel: login(
                &config.sentinel_username,
                &config.sentinel_password_file,
                "backplane.sentinel_password_file",
                SENTINEL_PASSWORD_VARIABLE,
            )?,
            tls,
        };
        // Certificates that can't be used are found now, and not in the log of a relay that is never ready.
        settings.client("localhost", 1).map_err(|error| ConfigError::Value {
            key: "backplane.tls_ca",
            problem: format!("or tls_certificate, or tls_key, can't be used: {error}"),
        })?;
        Ok(settings)
    }

    /// What connects to a server that holds data.
    pub(super) fn client(&self, host: &str, port: u16) -> Result<Client, RedisError> {
        self.to(host, port, &self.redis)
    }

    /// What connects to a Sentinel.
    pub(super) fn sentinel_client(&self, host: &str, port: u16) -> Result<Client, RedisError> {
        self.to(host, port, &self.sentinel)
    }

    fn to(&self, host: &str, port: u16, login: &RedisConnectionInfo) -> Result<Client, RedisError> {
        let host = host.to_owned();
        let address = match self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        // Small commands at once: off by default.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info: ConnectionInfo =
            address.into_connection_info()?.set_tcp_settings(tcp).set_redis_settings(login.clone());
        match &self.tls {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(parse_address("redis.example.com:6379"), Some(("redis.example.com".into(), 6379)));
        assert_eq!(parse_address("[::1]:6379"), Some(("::1".into(), 6379)));
        assert_eq!((parse_address("redis"), parse_address(":1"), parse_address("a:b")), (None, None, None));
    }

    #[test]
    fn a_password_comes_from_a_file_without_its_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "secret\n").unwrap();
        let config = config::Backplane { password_file: file.path().into(), ..config::Backplane::default() };
        let settings = Settings::load(&config, Duration::from_secs(60)).unwrap();
        assert_eq!(settings.redis.password(), Some("secret"));
        let config = config::Backplane { password_file: "/nonexistent".into(), ..config::Backplane::default() };
        let error = Settings::load(&config, Duration::from_secs(60)).err().unwrap().to_string();
        assert!(error.starts_with("`backplane.password_file`"), "{error}");
    }
}
