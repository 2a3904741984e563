//! The server's one configuration file: the relay's sections, and what belongs to the process around it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use gatepass_client::Endpoint;
use gatepass_control::{Collector, Database, NoCollector};
use gatepass_protocol::ids::TenantId;
use gatepass_relay::config::{self, Backplane, Config, ConfigError, Drain, Edge, Limits, Pairing, Tls};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;

/// Where the file is, if nobody says otherwise. Without it, everything is as its default.
pub(crate) const DEFAULT_FILE: &str = "/etc/gatepass/relay.toml";

/// Tenants that a regional relay can be limited to.
const MOST_TENANTS: usize = 200;
/// More threads than any machine has use for.
const MOST_WORKERS: usize = 1_024;

/// What this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Relay and control plane in one process.
    All,
    /// A regional relay, without a database: its tenants come from the control plane of `region.control_plane`.
    Relay,
    /// The control plane, whose relays are elsewhere.
    Control,
}

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// See [`Config::edge`].
    pub(crate) edge: Edge,
    /// See [`Config::tls`].
    pub(crate) tls: Tls,
    /// See [`Config::limits`].
    pub(crate) limits: Limits,
    /// See [`Config::pairing`].
    pub(crate) pairing: Pairing,
    /// See [`Config::drain`].
    pub(crate) drain: Drain,
    /// See [`Config::backplane`].
    pub(crate) backplane: Backplane,
    /// The control plane.
    pub(crate) control: Control,
    /// Where the audit trail goes.
    pub(crate) audit: Audit,
    /// A regional relay.
    pub(crate) region: Region,
    /// The log.
    pub(crate) log: Log,
    /// The process.
    pub(crate) runtime: Runtime,
}

/// The control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Control {
    /// The SQLite file; a relative path is below `edge.state_dir`.
    pub(crate) database: PathBuf,
    /// Instead of it, a Postgres database for several nodes: libpq's `key=value ..` or `postgresql://..`, without a password.
    pub(crate) postgres: String,
    /// The file with the password for Postgres; empty: none. A relative path is below `edge.state_dir`.
    pub(crate) postgres_password_file: PathBuf,
    /// PEM file with the certificates to believe for Postgres.
    pub(crate) postgres_ca_file: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            database: "control.sqlite".into(),
            postgres: String::new(),
            postgres_password_file: PathBuf::new(),
            postgres_ca_file: PathBuf::new(),
        }
    }
}

/// Where the audit trail goes besides the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Audit {
    /// A syslog collector: `tls://host:6514`, `tcp://host:601` or `udp://host:514`; empty: none.
    pub(crate) syslog: String,
    /// PEM file with the certificates to believe for a collector by TLS; a relative path is below `edge.state_dir`.
    pub(crate) syslog_ca_file: PathBuf,
}

/// A regional relay: where its tenants come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Region {
    /// The control plane, `https://host[:port]`.
    pub(crate) control_plane: String,
    /// The file with the relays' token, its owner's alone; a relative path is below `edge.state_dir`.
    pub(crate) token_file: PathBuf,
    /// PEM file with the certificates to believe for the control plane; empty: those of this machine.
    pub(crate) ca_file: PathBuf,
    /// The tenants that are served; none: all.
    pub(crate) tenants: Vec<String>,
}

impl Default for Region {
    fn default() -> Self {
        Self {
            control_plane: String::new(),
            token_file: "relay.token".into(),
            ca_file: PathBuf::new(),
            tenants: vec![],
        }
    }
}

impl Region {
    /// The tenants that are served.
    pub(crate) fn tenants(&self) -> Result<HashSet<TenantId>, ConfigError> {
        let wrong = |problem| ConfigError::Value { key: "region.tenants", problem };
        // They are named in the head of each request, which has a bound.
        if self.tenants.len() > MOST_TENANTS {
            return Err(wrong(format!("names more than {MOST_TENANTS}; name none, which means all")));
        }
        let parse = |id: &String| id.parse().map_err(|_| wrong(format!("{id:?} is not a tenant's identifier")));
        self.tenants.iter().map(parse).collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Err(error) = self.control_plane.parse::<Endpoint>() {
            return Err(ConfigError::Value { key: "region.control_plane", problem: error.to_string() });
        }
        self.tenants().map(drop)
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

/// The log, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Log {
    /// What is logged: a level, or `target=level` pairs.
    pub(crate) filter: String,
    /// How a line looks.
    pub(crate) format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), format: Format::Text }
    }
}

/// The process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Runtime {
    /// Worker threads; 0: one for each core.
    pub(crate) workers: usize,
}

impl Settings {
    /// Reads a file, or the default one where it exists, and refuses what can't work.
    pub(crate) fn load(file: Option<&Path>, role: Role) -> Result<Self, ConfigError> {
        let settings = match file {
            Some(file) => config::load(file)?,
            None if Path::new(DEFAULT_FILE).exists() => config::load(Path::new(DEFAULT_FILE))?,
            None => Self::default(),
        };
        settings.check()?;
        match role {
            Role::Relay => settings.region.check()?,
            Role::All | Role::Control if settings.region.control_plane.is_empty() => {}
            Role::All | Role::Control => {
                let problem = "is for a regional relay, and this would be a control plane of its own; start it with --role relay, \
                               or take the key away"
                    .into();
                return Err(ConfigError::Value { key: "region.control_plane", problem });
            }
        }
        Ok(settings)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.relay().check()?;
        if self.control.database.as_os_str().is_empty() {
            let problem = "is empty; write the name of the SQLite file".into();
            return Err(ConfigError::Value { key: "control.database", problem });
        }
        self.collector()?;
        if let Err(error) = self.log_filter() {
            return Err(ConfigError::Value { key: "log.filter", problem: error.to_string() });
        }
        // A bare word that is no level would be a target, of which nothing is ever logged: silence.
        let mut words = self.log.filter.split(',').map(str::trim);
        if let Some(word) =
            words.find(|word| !word.contains(['=', '[', ':', '_']) && word.parse::<LevelFilter>().is_err())
        {
            let problem = format!("{word:?} is no level; write error, warn, info, debug or trace, or target=level");
            return Err(ConfigError::Value { key: "log.filter", problem });
        }
        if self.runtime.workers > MOST_WORKERS {
            let problem = format!("must be at most {MOST_WORKERS}; 0 is one for each core");
            return Err(ConfigError::Value { key: "runtime.workers", problem });
        }
        Ok(())
    }

    /// The relay's part.
    pub(crate) fn relay(&self) -> Config {
        Config {
            edge: self.edge.clone(),
            tls: self.tls.clone(),
            limits: self.limits.clone(),
            pairing: self.pairing.clone(),
            drain: self.drain.clone(),
            backplane: self.backplane.clone(),
        }
    }

    /// Where the control plane keeps what it knows.
    pub(crate) fn database(&self) -> Database {
        let (control, state_dir) = (&self.control, &self.edge.state_dir);
        let file = |name: &PathBuf| (!name.as_os_str().is_empty()).then(|| state_dir.join(name));
        if control.postgres.is_empty() {
            return Database::File(state_dir.join(&control.database));
        }
        Database::Postgres {
            connection: control.postgres.clone(),
            password_file: file(&control.postgres_password_file),
            ca_file: file(&control.postgres_ca_file),
        }
    }

    /// The syslog collector, if there is one.
    pub(crate) fn collector(&self) -> Result<Option<Collector>, ConfigError> {
        if self.audit.syslog.is_empty() {
            return Ok(None);
        }
        let collector: Collector = self
            .audit
            .syslog
            .parse()
            .map_err(|error: NoCollector| ConfigError::Value { key: "audit.syslog", problem: error.to_string() })?;
        let file = &self.audit.syslog_ca_file;
        if collector.is_tls() && file.as_os_str().is_empty() {
            let problem = "is empty; name the file with the certificates to believe for the collector".into();
            return Err(ConfigError::Value { key: "audit.syslog_ca_file", problem });
        }
        let file = (!file.as_os_str().is_empty()).then(|| self.edge.state_dir.join(file));
        Ok(Some(collector.with_ca(file)))
    }

    /// What is logged.
    pub(crate) fn log_filter(&self) -> Result<tracing_subscriber::EnvFilter, tracing_subscriber::filter::ParseError> {
        tracing_subscriber::EnvFilter::builder().parse(&self.log.filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../relay.example.toml");

    #[test]
    fn the_example_file_documents_every_key_with_its_default() {
        assert_eq!(config::parse::<Settings>(EXAMPLE).unwrap(), Settings::default());
        let written: toml::Table = EXAMPLE.parse().unwrap();
        let named = config::keys(&written);
        for key in config::keys(&Settings::default()) {
            assert!(named.contains(&key), "relay.example.toml does not name {key}");
            let name = key.rsplit('.').next().unwrap();
            let mut lines = EXAMPLE.lines();
            let mut before = "";
            let documented = lines.any(|line| {
                let found = line.starts_with(&format!("{name} =")) && before.starts_with("# ");
                before = line;
                found
            });
            assert!(documented, "relay.example.toml says nothing about {key}");
        }
    }

    #[test]
    fn the_processs_own_keys_are_as_strict_as_the_relays() {
        let error = config::parse::<Settings>("[control]\ndatabse = 'x'").unwrap_err().to_string();
        assert!(error.contains("did you mean `control.database`?"), "{error}");
        let settings = config::parse::<Settings>("[audit]\nsyslog = 'collector'").unwrap();
        assert!(settings.check().unwrap_err().to_string().starts_with("`audit.syslog`"));
        let settings = config::parse::<Settings>("[audit]\nsyslog = 'tls://collector:6514'").unwrap();
        assert!(settings.check().unwrap_err().to_string().starts_with("`audit.syslog_ca_file`"));
        let settings = config::parse::<Settings>("[log]\nfilter = 'relay=loud'").unwrap();
        assert!(settings.check().unwrap_err().to_string().starts_with("`log.filter`"));
        let settings = config::parse::<Settings>("[log]\nfilter = 'verbose'").unwrap();
        assert!(settings.check().unwrap_err().to_string().starts_with("`log.filter`"));
        let settings = config::parse::<Settings>("[runtime]\nworkers = 100000").unwrap();
        assert!(settings.check().unwrap_err().to_string().starts_with("`runtime.workers`"));
        let settings = config::parse::<Settings>("[control]\ndatabase = ''").unwrap();
        assert!(settings.check().unwrap_err().to_string().starts_with("`control.database`"));
    }
}
