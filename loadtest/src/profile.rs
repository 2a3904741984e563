//! What a load is: a TOML file, read as strictly as the relay's configuration, with every key's default in the profile of its
//! kind that is shipped in `loadtest/profiles`.
//!
//! A file names its `kind` and whatever is to be otherwise than in the shipped profile. A key that no such profile has is
//! refused with the nearest one.

use std::path::{Path, PathBuf};

use gatepass_relay::config::{self, ConfigError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

mod load;

pub use self::load::{Day, Fanout, Idle, Load, Messages, Pairings, Revocation, Storm};
use crate::{
    limits::{Limit, LimitError},
    schedule::Stretch,
};

/// The shipped profiles, by name, which is also their kind.
pub const SHIPPED: [(&str, &str); 7] = [
    ("idle", include_str!("../profiles/idle.toml")),
    ("storm", include_str!("../profiles/storm.toml")),
    ("pairings", include_str!("../profiles/pairings.toml")),
    ("messages", include_str!("../profiles/messages.toml")),
    ("fanout", include_str!("../profiles/fanout.toml")),
    ("revocation", include_str!("../profiles/revocation.toml")),
    ("day", include_str!("../profiles/day.toml")),
];

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Neither a shipped profile nor a file.
    #[error("{name:?} is neither a file nor a shipped profile ({}){}", names(), did_you_mean(.name))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// No kind, or an unknown one.
    #[error("`kind` must be one of {}, but is {kind:?}", names())]
    Kind {
        /// What it is.
        kind: String,
    },
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `--set` is wrong.
    #[error("--set {text:?}: {problem}")]
    Set {
        /// What was given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// A limit is wrong.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

fn names() -> String {
    SHIPPED.map(|(name, _)| name).join(", ")
}

fn did_you_mean(name: &str) -> String {
    let nearest = SHIPPED.map(|(shipped, _)| (strsim::damerau_levenshtein(name, shipped), shipped)).into_iter().min();
    nearest
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, near)| format!("; did you mean {near:?}?"))
        .unwrap_or_default()
}

/// A load, complete and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name: of the file, or of the shipped profile.
    pub name: String,
    /// Decides the order of everything random.
    pub seed: u64,
    /// Simulated computers.
    pub agents: u32,
    /// Simulated phones.
    pub phones: u32,
    /// How fast they connect before the load begins, a second; 0: all at once.
    pub connects_per_second: f64,
    /// How many of them share one source address; loopback only.
    pub clients_per_address: u32,
    /// After this an operation without an outcome has failed.
    pub patience_seconds: f64,
    /// What must hold.
    pub limits: Vec<Limit>,
    /// What is done.
    pub load: Load,
}

/// The file of a kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct File<L> {
    kind: String,
    seed: u64,
    agents: u32,
    phones: u32,
    connects_per_second: f64,
    clients_per_address: u32,
    patience_seconds: f64,
    limits: Vec<String>,
    load: L,
}

trait Kind: Default + Serialize + DeserializeOwned + Into<Load> {
    const NAME: &'static str;
    /// Agents, phones, connects a second.
    const CROWD: (u32, u32, f64);
    const LIMITS: &'static [&'static str];
}

macro_rules! kinds {
    ($($kind:ident $name:literal $crowd:expr, $limits:expr;)*) => {$(
        impl From<$kind> for Load {
            fn from(load: $kind) -> Load {
                Load::$kind(load)
            }
        }

        impl Kind for $kind {
            const NAME: &'static str = $name;
            const CROWD: (u32, u32, f64) = $crowd;
            const LIMITS: &'static [&'static str] = &$limits;
        }
    )*};
}

kinds! {
    Idle "idle" (5_000, 0, 500.0), ["errors=0"];
    Storm "storm" (5_000, 0, 500.0), ["errors=0", "newcomer.p99_ms=1000"];
    Pairings "pairings" (500, 500, 500.0), ["errors=0", "pairing.p99_ms=50"];
    Messages "messages" (300, 300, 500.0), ["errors=0", "message.p99_ms=20"];
    Fanout "fanout" (1_000, 20, 500.0), ["errors=0", "delivery.p99_ms=100"];
    Revocation "revocation" (5_000, 0, 500.0), ["errors=0", "last.max_ms=1000"];
    Day "day" (2_000, 200, 500.0), ["errors=0", "pairing.p99_ms=100"];
}

impl<L: Kind> Default for File<L> {
    fn default() -> Self {
        let (agents, phones, connects_per_second) = L::CROWD;
        Self {
            kind: L::NAME.into(),
            seed: 1,
            agents,
            phones,
            connects_per_second,
            clients_per_address: 100,
            patience_seconds: 30.0,
            limits: L::LIMITS.iter().map(|limit| (*limit).to_owned()).collect(),
            load: L::default(),
        }
    }
}

impl Profile {
    /// A shipped profile by its name, or a file; with `KEY=VALUE` changes, whose values are TOML.
    pub fn load(name: &str, changes: &[String]) -> Result<Self, ProfileError> {
        if let Some((shipped, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            return Self::parse(shipped, text, changes);
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(ProfileError::Unknown { name: name.to_owned() });
        }
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: PathBuf::from(path), source })?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&stem, &text, changes)
    }

    /// A profile's text.
    pub fn parse(name: &str, text: &str, changes: &[String]) -> Result<Self, ProfileError> {
        let table: toml::Table = text.parse().map_err(ConfigError::from)?;
        let kind = table.get("kind").and_then(toml::Value::as_str).unwrap_or_default();
        match kind {
            "idle" => File::<Idle>::read(name, text, changes),
            "storm" => File::<Storm>::read(name, text, changes),
            "pairings" => File::<Pairings>::read(name, text, changes),
            "messages" => File::<Messages>::read(name, text, changes),
            "fanout" => File::<Fanout>::read(name, text, changes),
            "revocation" => File::<Revocation>::read(name, text, changes),
            "day" => File::<Day>::read(name, text, changes),
            _ => Err(ProfileError::Kind { kind: kind.to_owned() }),
        }
    }

    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self.load {
            Load::Idle(_) => Idle::NAME,
            Load::Storm(_) => Storm::NAME,
            Load::Pairings(_) => Pairings::NAME,
            Load::Messages(_) => Messages::NAME,
            Load::Fanout(_) => Fanout::NAME,
            Load::Revocation(_) => Revocation::NAME,
            Load::Day(_) => Day::NAME,
        }
    }

    /// How long the load lasts, in seconds, without connecting before it.
    pub fn seconds(&self) -> f64 {
        match &self.load {
            Load::Idle(idle) => idle.seconds,
            Load::Storm(storm) => f64::from(storm.rounds) * storm.round_seconds,
            Load::Pairings(load) => load.warm_up_seconds + load.seconds,
            Load::Messages(load) => load.warm_up_seconds + load.seconds,
            Load::Fanout(load) => load.warm_up_seconds + load.seconds,
            Load::Revocation(load) => f64::from(load.lists) * load.every_seconds,
            Load::Day(day) => 24.0 * day.seconds_per_hour,
        }
    }

    /// What latencies it measures, the one that matters first.
    pub fn series(&self) -> &'static [&'static str] {
        match self.load {
            Load::Idle(_) => &["connect"],
            Load::Storm(_) => &["reconnect", "newcomer", "connect"],
            Load::Pairings(_) => &["pairing", "claim", "open", "connect"],
            Load::Messages(_) => &["message", "connect"],
            Load::Fanout(_) => &["delivery", "publish", "connect"],
            Load::Revocation(_) => &["revocation", "last", "connect"],
            Load::Day(_) => &["pairing", "claim", "open", "connect", "reconnect", "policy", "revocation", "last"],
        }
    }

    /// How many clients there are at once, at most.
    pub fn clients(&self) -> u32 {
        self.agents.saturating_add(self.phones)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
        if self.agents == 0 {
            return wrong("agents", "must be at least 1");
        }
        if self.clients_per_address == 0 {
            return wrong("clients_per_address", "must be at least 1");
        }
        let least = [
            ("connects_per_second", self.connects_per_second, 0.0),
            ("patience_seconds", self.patience_seconds, 0.1),
            ("load.seconds", self.seconds(), 0.1),
        ];
        if let Some((key, ..)) = least.into_iter().find(|(_, value, least)| !(*least..1e7).contains(value)) {
            return wrong(key, "is out of range");
        }
        match &self.load {
            Load::Pairings(_) | Load::Messages(_) | Load::Fanout(_) if self.phones == 0 => {
                wrong("phones", "must be at least 1 for this kind")
            }
            Load::Pairings(load) if !(0.0..=30_000.0).contains(&load.shown_ms) => {
                wrong("load.shown_ms", "must be 0 to 30000")
            }
            Load::Messages(Messages { bytes, .. }) | Load::Fanout(Fanout { bytes, .. })
                if !(16..=7_000).contains(bytes) =>
            {
                wrong("load.bytes", "must be 16 to 7000")
            }
            Load::Messages(_) if self.seconds() > 75.0 => {
                wrong("load.seconds", "must be at most 75 with the warm-up: a pairing lives 90 s")
            }
            Load::Fanout(load) if load.channels == 0 || load.channels > self.agents => {
                wrong("load.channels", "must be 1 to the number of agents")
            }
            Load::Revocation(load) if load.entries > 400 => {
                // 17 bytes each, and a bulletin that is too large for a frame is fetched instead of heard.
                wrong("load.entries", "must be at most 400, which is what fits into one announcement")
            }
            Load::Storm(load) if !(0.0..=100.0).contains(&load.cut_percent) => {
                wrong("load.cut_percent", "must be 0 to 100")
            }
            Load::Day(day) if day.online_percent.len() != 24 => wrong("load.online_percent", "must be 24 numbers"),
            Load::Day(day) if day.logins_per_hour.len() != 24 => wrong("load.logins_per_hour", "must be 24 numbers"),
            Load::Day(day) if day.online_percent.iter().any(|percent| !(0.0..=100.0).contains(percent)) => {
                wrong("load.online_percent", "must be 0 to 100")
            }
            _ => Ok(()),
        }
    }
}

impl<L: Kind> File<L> {
    fn read(name: &str, text: &str, changes: &[String]) -> Result<Profile, ProfileError> {
        // Once as it was written, so that an error names its line.
        let mut file: Self = config::parse(text)?;
        if !changes.is_empty() {
            let mut table: toml::Table = text.parse().map_err(ConfigError::from)?;
            changes.iter().try_for_each(|change| set(&mut table, change))?;
            file = config::parse(&table.to_string())?;
        }
        let File { seed, agents, phones, connects_per_second, clients_per_address, patience_seconds, .. } = file;
        let mut profile = Profile {
            name: name.to_owned(),
            seed,
            agents,
            phones,
            connects_per_second,
            clients_per_address,
            patience_seconds,
            limits: vec![],
            load: file.load.into(),
        };
        profile.check()?;
        for limit in &file.limits {
            profile.limits.push(Limit::parse(limit, profile.series())?);
        }
        Ok(profile)
    }
}

/// Puts `key=value` into a table, `section.key` too. What is no TOML value counts as text.
fn set(table: &mut toml::Table, change: &str) -> Result<(), ProfileError> {
    let wrong = |problem: &str| ProfileError::Set { text: change.to_owned(), problem: problem.to_owned() };
    let (path, value) = change.split_once('=').ok_or_else(|| wrong("write KEY=VALUE, as in load.seconds=10"))?;
    let value = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| toml::Value::String(change[path.len() + 1..].to_owned()));
    let mut names: Vec<&str> = path.trim().split('.').collect();
    let last = names.pop().unwrap_or_default();
    let mut inner = table;
    for name in names {
        let section = inner.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        inner = section.as_table_mut().ok_or_else(|| wrong("that is a key and no section"))?;
    }
    // A profile says 10 where it means 10.0.
    let value = match (inner.get(last), value) {
        (Some(toml::Value::Float(_)), toml::Value::Integer(whole)) => toml::Value::Float(whole as f64),
        (_, value) => value,
    };
    inner.insert(last.to_owned(), value);
    Ok(())
}

/// The stretches of a day's curve.
pub fn hours(curve: &[f64], seconds_per_hour: f64, per_hour: impl Fn(f64) -> f64) -> Vec<Stretch> {
    let stretch = |value: &f64| Stretch { seconds: seconds_per_hour, per_second: per_hour(*value) / seconds_per_hour };
    curve.iter().map(stretch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Arrivals;

    fn shipped_is_the_default<L: Kind + PartialEq + std::fmt::Debug>() {
        let (_, text) = SHIPPED.into_iter().find(|(name, _)| *name == L::NAME).unwrap();
        let file: File<L> = config::parse(text).unwrap();
        assert_eq!(file, File::<L>::default(), "{}.toml", L::NAME);
        let written: toml::Table = text.parse().unwrap();
        let named = config::keys(&written);
        for key in config::keys(&File::<L>::default()) {
            assert!(named.contains(&key), "{}.toml does not name {key}", L::NAME);
            let name = key.rsplit('.').next().unwrap();
            let mut before = "";
            let documented = text.lines().any(|line| {
                let found = line.starts_with(&format!("{name} =")) && before.starts_with("# ");
                before = line;
                found
            });
            assert!(documented, "{}.toml says nothing about {key}", L::NAME);
        }
        assert_eq!(Profile::load(L::NAME, &[]).unwrap().kind(), L::NAME);
    }

    #[test]
    fn each_shipped_profile_explains_every_key_with_its_default() {
        shipped_is_the_default::<Idle>();
        shipped_is_the_default::<Storm>();
        shipped_is_the_default::<Pairings>();
        shipped_is_the_default::<Messages>();
        shipped_is_the_default::<Fanout>();
        shipped_is_the_default::<Revocation>();
        shipped_is_the_default::<Day>();
    }

    #[test]
    fn a_mistyped_key_is_refused_with_the_right_one() {
        let refused = |text: &str, changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
            Profile::parse("mine", text, &changes).unwrap_err().to_string()
        };
        let wrong = refused("kind = 'pairings'\n[load]\nper_secnd = 5", &[]);
        assert!(wrong.contains("unknown key `load.per_secnd`; did you mean `load.per_second`?"), "{wrong}");
        let wrong = refused("kind = 'pairings'", &["agnets=5"]);
        assert!(wrong.contains("did you mean `agents`?"), "{wrong}");
        let wrong = refused("kind = 'idle'\n[load]\nrounds = 5", &[]);
        assert!(wrong.contains("`load.rounds`"), "a key of another kind: {wrong}");
        assert!(refused("agents = 5", &[]).contains("`kind` must be one of idle, storm"));
        assert!(refused("kind = 'idle'", &["agents"]).contains("KEY=VALUE"));
        assert!(refused("kind = 'fanout'\nphones = 0", &[]).starts_with("`phones`"));
        assert!(refused("kind = 'day'\n[load]\nonline_percent = [1, 2]", &[]).contains("24"));
        let wrong = Profile::load("pairing", &[]).unwrap_err().to_string();
        assert!(wrong.contains("did you mean \"pairings\"?"), "{wrong}");
    }

    #[test]
    fn a_change_on_the_command_line_counts_like_one_in_the_file() {
        let changes =
            ["agents=7", "load.per_second=9", "load.arrivals=even", "limits=[\"p99_ms=3\"]"].map(str::to_owned);
        let profile = Profile::load("pairings", &changes).unwrap();
        let Load::Pairings(load) = &profile.load else { panic!("another kind") };
        assert_eq!((profile.agents, load.per_second, load.arrivals), (7, 9.0, Arrivals::Even));
        assert_eq!(profile.limits.iter().map(ToString::to_string).collect::<Vec<_>>(), ["pairing.p99_ms=3"]);
    }
}
