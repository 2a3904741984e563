//! `/etc/gatepass/agent.toml`: every key optional, every default here, and a key that nobody knows refused with the nearest
//! known one, so that a misspelt setting never looks as if it had been set.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use gatepass_accounts::UserDbConfig;
use gatepass_client::{Proxies, ProxyError};
use serde::Deserialize;

/// Where the file is unless `--config` says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/gatepass/agent.toml";

/// Everything an administrator can set. `agent.example.toml` explains each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) state: PathBuf,
    pub(crate) pam_socket: PathBuf,
    pub(crate) admin_socket: PathBuf,
    pub(crate) computer_name: String,
    pub(crate) relay: Relay,
    pub(crate) accounts: AccountsConfig,
    pub(crate) logon: Logon,
    pub(crate) log: Log,
}

/// `[relay]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Relay {
    pub(crate) url: String,
    pub(crate) ca_file: String,
    pub(crate) proxy: Address,
}

/// A proxy's address: it may have a password in it, so it shows nothing of itself.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Address(String);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

impl Relay {
    /// Through which proxies the agent goes out.
    pub(crate) fn proxies(&self) -> Result<Proxies, ProxyError> {
        Proxies::from_setting(&self.proxy.0, "relay.proxy")
    }

    /// Whether there is a password in the file.
    pub(crate) fn has_password(&self) -> bool {
        self.proxy.0.contains('@')
    }
}

/// `[accounts]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct AccountsConfig {
    pub(crate) provider: Provider,
    pub(crate) uids: [u32; 2],
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
    pub(crate) userdb_socket: PathBuf,
}

/// Which account provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Provider {
    #[default]
    Auto,
    Userdb,
    Standing,
}

/// `[logon]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Logon {
    pub(crate) login_user: String,
    pub(crate) max_waiting: usize,
    pub(crate) elevation_services: Vec<String>,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) json: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: "/var/lib/gatepass/agent".into(),
            pam_socket: "/run/gatepass/pam.sock".into(),
            admin_socket: "/run/gatepass/agent.sock".into(),
            computer_name: String::new(),
            relay: Relay::default(),
            accounts: AccountsConfig::default(),
            logon: Logon::default(),
            log: Log::default(),
        }
    }
}

impl Default for AccountsConfig {
    fn default() -> Self {
        let userdb = UserDbConfig::default();
        Self {
            provider: Provider::Auto,
            uids: [*userdb.uids.start(), *userdb.uids.end()],
            home: userdb.homes.base,
            shell: userdb.shell,
            userdb_socket: userdb.socket,
        }
    }
}

impl Default for Logon {
    fn default() -> Self {
        Self {
            login_user: "gatepass".into(),
            max_waiting: 32,
            elevation_services: ["sudo", "sudo-i", "su", "su-l", "gatepass-sudo", "gatepass-su"]
                .map(String::from)
                .into(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Wrong { path: PathBuf, message: String },
    #[error("{}: there is no key \"{key}\"{}", path.display(), did_you_mean(*.nearest))]
    UnknownKey { path: PathBuf, key: String, nearest: Option<&'static str> },
}

fn did_you_mean(name: Option<&'static str>) -> String {
    match name {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => "; agent.example.toml lists all of them".into(),
    }
}

/// Every key, with its table. A test holds this against the example file.
const KEYS: &[&str] = &[
    "state",
    "pam_socket",
    "admin_socket",
    "computer_name",
    "relay.url",
    "relay.ca_file",
    "relay.proxy",
    "accounts.provider",
    "accounts.uids",
    "accounts.home",
    "accounts.shell",
    "accounts.userdb_socket",
    "logon.login_user",
    "logon.max_waiting",
    "logon.elevation_services",
    "log.level",
    "log.json",
];

impl Config {
    /// Reads `path`. The default file may be missing: then every default holds. A file that was asked for may not.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let asked_for = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => Ok(Self::default()),
            Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |message: String| ConfigError::Wrong { path: path.to_owned(), message };
        let table: toml::Table = text.parse().map_err(|error| wrong(said(&error, text)))?;
        if let Some(key) = unknown(&table) {
            let nearest = nearest_key(&key);
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest });
        }
        let config: Self = toml::from_str(text).map_err(|error| wrong(said(&error, text)))?;
        // What the environment says matters to the commands that go out, and to no others.
        if !config.relay.proxy.0.is_empty() {
            config.relay.proxies().map_err(|error| wrong(error.to_string()))?;
        }
        let paths = [
            ("state", &config.state),
            ("pam_socket", &config.pam_socket),
            ("admin_socket", &config.admin_socket),
            ("accounts.home", &config.accounts.home),
            ("accounts.shell", &config.accounts.shell),
            ("accounts.userdb_socket", &config.accounts.userdb_socket),
        ];
        for (key, value) in paths {
            if !value.is_absolute() {
                return Err(wrong(format!("{key} must be an absolute path, not \"{}\"", value.display())));
            }
        }
        let [first, last] = config.accounts.uids;
        if first < 1000 || first > last {
            return Err(wrong("accounts.uids must be the first and the last of a range above 1000".into()));
        }
        if config.logon.max_waiting == 0 {
            return Err(wrong("logon.max_waiting must be at least 1".into()));
        }
        Ok(config)
    }
}

/// What TOML found wrong. It would show the line, and there may be a proxy's password in it.
fn said(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
    let shown = text.lines().nth(line - 1).unwrap_or_default();
    match shown.contains("proxy") || shown.contains('@') {
        true => format!("line {line}: {}", error.message()),
        false => error.to_string(),
    }
}

/// The first key that is in no list of ours.
fn unknown(table: &toml::Table) -> Option<String> {
    table.iter().find_map(|(name, value)| match value {
        toml::Value::Table(inner) if KEYS.iter().any(|known| known.starts_with(&format!("{name}."))) => {
            inner.keys().map(|key| format!("{name}.{key}")).find(|key| !KEYS.contains(&key.as_str()))
        }
        _ => (!KEYS.contains(&name.as_str())).then(|| name.clone()),
    })
}

fn nearest_key(key: &str) -> Option<&'static str> {
    let score = |known: &str| {
        let short = known.rsplit('.').next().unwrap_or(known);
        strsim::jaro_winkler(key, known).max(strsim::jaro_winkler(key, short))
    };
    KEYS.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b))).filter(|best| score(best) > 0.75)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../agent.example.toml");

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("agent.toml"))
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let example = format!("{:?}", parse(EXAMPLE).unwrap());
        assert_eq!(example, format!("{:?}", Config::default()));
        let table: toml::Table = EXAMPLE.parse().unwrap();
        for key in KEYS {
            let found = match key.split_once('.') {
                Some((section, key)) => table.get(section).and_then(|section| section.get(key)).is_some(),
                None => table.contains_key(*key),
            };
            assert!(found, "{key} is not in agent.example.toml");
        }
    }

    #[test]
    fn a_misspelt_key_is_refused_and_the_right_one_named() {
        for (text, nearest) in [
            ("stat = \"/x\"", "state"),
            ("[logon]\nmax_wating = 3", "logon.max_waiting"),
            ("max_waiting = 3", "logon.max_waiting"),
            ("[relay]\nurls = \"wss://x\"", "relay.url"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("did you mean \"{nearest}\"")), "{text}: {message}");
        }
        let message = parse("[zebra]\nx = 1").unwrap_err().to_string();
        assert!(message.contains("agent.example.toml"), "{message}");
    }

    #[test]
    fn a_wrong_proxy_is_refused_and_its_password_never_shown() {
        for text in [
            "[relay]\nproxy = \"socks5://u:s3cret@proxy:1\"",
            "[relay]\nproxy = \"http://u:s3cret@proxy:port\"",
            "[relay]\nproxy = \"http://u:s3cret@proxy:1",
            "[relay]\nproxy = [\"http://u:s3cret@proxy:1\"]",
            "[relay]\nproxi = \"http://u:s3cret@proxy:1\"",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
            assert!(error.to_string().contains("proxy") || error.to_string().contains("line 2"), "{error}");
        }
        let config = parse("[relay]\nproxy = \"http://u:s3cret@proxy:1\"").unwrap();
        assert!(config.relay.has_password() && !format!("{config:?}").contains("s3cret"), "{config:?}");
    }

    #[test]
    fn a_relative_path_is_refused() {
        assert!(parse("state = \"here\"").unwrap_err().to_string().contains("absolute"));
    }
}
