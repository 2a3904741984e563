//! The policy as people write it: a TOML file with names instead of identifiers, checked word by word before anything is
//! signed. Nothing is meant by silence: a rule that shall hold for all technicians or everywhere says "all".

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use gatepass_control::api::{Computer, Technician, is_unprintable};
use gatepass_protocol::ids::{ComputerId, TechnicianId};
use gatepass_protocol::offline::OfflineTerms;
use gatepass_protocol::policy::{AccountKind, Choice, Policy, Rule, Scenario};

use crate::keys::{check, hint};

/// Shown by `gatepass policy example`, and read by a test.
pub(crate) const EXAMPLE: &str = include_str!("policy-example.toml");

/// No grant is longer: who needs a week has an account of their own.
const LONGEST_MINUTES: u32 = 7 * 24 * 60;

/// A computer that has heard nothing for longer may have missed any revocation.
const LONGEST_OFFLINE_HOURS: u32 = 30 * 24;

const ALL: &str = "all";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PolicyFile {
    default_minutes: u32,
    software_keys: bool,
    #[serde(default)]
    delete_on_end: bool,
    #[serde(default = "thirty")]
    idle_days: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline: Option<OfflineFile>,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleFile>,
}

/// Offline codes; a policy that says nothing of them allows none.
#[derive(Debug, Serialize, Deserialize)]
struct OfflineFile {
    max_age_hours: u32,
    max_minutes: u32,
    scenarios: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    long_codes: Vec<String>,
    #[serde(default)]
    time_codes: bool,
    #[serde(default)]
    while_online: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct RuleFile {
    name: String,
    technicians: Names,
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    computers: Names,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    scenarios: Vec<String>,
    accounts: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    max_minutes: u32,
    #[serde(default)]
    confirm_code: bool,
    #[serde(default)]
    reason: bool,
}

/// `"all"`, or a list of names.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Names {
    All(String),
    Some(Vec<String>),
}

const KEYS: &[&str] = &["default_minutes", "software_keys", "delete_on_end", "idle_days", "offline", "rule"];
const OFFLINE_KEYS: &[&str] =
    &["max_age_hours", "max_minutes", "scenarios", "groups", "long_codes", "time_codes", "while_online"];
const RULE_KEYS: &[&str] = &[
    "name",
    "technicians",
    "computers",
    "tags",
    "scenarios",
    "accounts",
    "groups",
    "max_minutes",
    "confirm_code",
    "reason",
];

fn thirty() -> u32 {
    30
}

impl Default for Names {
    fn default() -> Self {
        Names::Some(Vec::new())
    }
}

impl Names {
    fn is_empty(&self) -> bool {
        matches!(self, Names::Some(names) if names.is_empty())
    }
}

/// Who and what there is in the tenant, for names to become identifiers.
pub(crate) struct Directory {
    pub(crate) technicians: Vec<Technician>,
    pub(crate) computers: Vec<Computer>,
}

impl PolicyFile {
    /// Reads the file's text; says where and what, and the nearest word that there is.
    pub(crate) fn parse(text: &str) -> Result<PolicyFile> {
        let table: toml::Table = text.parse()?;
        check(&table, KEYS, "policy")?;
        if let Some(offline) = table.get("offline").and_then(toml::Value::as_table) {
            check(offline, OFFLINE_KEYS, "table [offline]")?;
        }
        for (index, rule) in table.get("rule").and_then(toml::Value::as_array).into_iter().flatten().enumerate() {
            if let Some(rule) = rule.as_table() {
                let named = rule.get("name").and_then(toml::Value::as_str).map(|name| format!("rule \"{name}\""));
                check(rule, RULE_KEYS, &named.unwrap_or_else(|| format!("rule number {}", index + 1)))?;
            }
        }
        // From the text and not from the table: the parser shows the line.
        Ok(toml::from_str(text)?)
    }

    /// Turns names into identifiers and checks everything.
    pub(crate) fn compile(&self, directory: &Directory) -> Result<Policy> {
        minutes("default_minutes", self.default_minutes)?;
        let mut rules: Vec<Rule> = Vec::new();
        for file in &self.rules {
            if rules.iter().any(|rule| rule.name == file.name) {
                bail!("there are two rules \"{}\"; give each its own name", file.name);
            }
            rules.push(file.compile(directory).with_context(|| format!("in the rule \"{}\"", file.name))?);
        }
        Ok(Policy {
            default_minutes: self.default_minutes,
            software_keys: self.software_keys,
            delete_on_end: self.delete_on_end,
            idle_days: self.idle_days,
            rules,
        })
    }

    /// What it says of offline codes, checked.
    pub(crate) fn offline(&self) -> Result<Option<OfflineTerms>> {
        self.offline.as_ref().map(|offline| offline.compile().context("in [offline]")).transpose()
    }

    /// The file that compiles to this policy.
    pub(crate) fn of(policy: &Policy, offline: Option<&OfflineTerms>, directory: &Directory) -> PolicyFile {
        PolicyFile {
            default_minutes: policy.default_minutes,
            software_keys: policy.software_keys,
            delete_on_end: policy.delete_on_end,
            idle_days: policy.idle_days,
            offline: offline.map(OfflineFile::of),
            rules: policy.rules.iter().map(|rule| RuleFile::of(rule, directory)).collect(),
        }
    }

    /// As TOML.
    pub(crate) fn to_text(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

impl OfflineFile {
    fn compile(&self) -> Result<OfflineTerms> {
        minutes("max_minutes", self.max_minutes)?;
        if !(1..=LONGEST_OFFLINE_HOURS).contains(&self.max_age_hours) {
            bail!("max_age_hours is {}, but it is 1 to {LONGEST_OFFLINE_HOURS} hours (30 days)", self.max_age_hours);
        }
        self.groups.iter().flatten().chain(&self.long_codes).try_for_each(|one| word("a group", one))?;
        Ok(OfflineTerms {
            max_age_hours: self.max_age_hours,
            max_minutes: self.max_minutes,
            scenarios: one_or_more("scenario", &self.scenarios, Scenario::ALL, Scenario::name)?,
            groups: self.groups.clone(),
            long_codes: self.long_codes.clone(),
            time_codes: self.time_codes,
            while_online: self.while_online,
        })
    }

    fn of(terms: &OfflineTerms) -> OfflineFile {
        OfflineFile {
            max_age_hours: terms.max_age_hours,
            max_minutes: terms.max_minutes,
            scenarios: terms.scenarios.iter().map(|one| one.name().to_owned()).collect(),
            groups: terms.groups.clone(),
            long_codes: terms.long_codes.clone(),
            time_codes: terms.time_codes,
            while_online: terms.while_online,
        }
    }
}

impl RuleFile {
    fn compile(&self, directory: &Directory) -> Result<Rule> {
        word("the name", &self.name)?;
        minutes("max_minutes", self.max_minutes)?;
        for (what, words) in [("a tag", &self.tags), ("a group", &self.groups)] {
            words.iter().try_for_each(|one| word(what, one))?;
        }
        let scenarios = one_or_more("scenario", &self.scenarios, Scenario::ALL, Scenario::name)?;
        let accounts = one_or_more("kind of account", &self.accounts, AccountKind::ALL, AccountKind::name)?;
        let (own, elevation) = (accounts.contains(&AccountKind::Own), scenarios.contains(&Scenario::Elevation));
        if own != elevation {
            bail!(
                "the scenario \"elevation\" (sudo, su) and the account \"own\" belong together: one command as the user who asks \
                 for it; name both or neither"
            );
        }
        let (computers, everywhere) = self.computers(directory)?;
        if computers.is_empty() && self.tags.is_empty() && !everywhere {
            bail!("it says nowhere; name tags or computers, or write computers = \"all\"");
        }
        if everywhere && !self.tags.is_empty() {
            bail!("it holds on all computers, so its tags mean nothing; leave one of them out");
        }
        let choice = Choice {
            accounts,
            groups: self.groups.clone(),
            max_minutes: self.max_minutes,
            confirm: self.confirm_code,
            reason: self.reason,
        };
        Ok(Rule {
            name: self.name.clone(),
            technicians: self.technicians(directory)?,
            computers,
            tags: self.tags.clone(),
            scenarios,
            choice,
        })
    }

    fn technicians(&self, directory: &Directory) -> Result<Vec<TechnicianId>> {
        let names = match &self.technicians {
            Names::All(all) if all == ALL => return Ok(Vec::new()),
            Names::All(name) => bail!("technicians is a list of names, like [\"{name}\"], or \"all\""),
            Names::Some(names) if names.is_empty() => {
                bail!("it says nobody; name technicians, or write technicians = \"all\"")
            }
            Names::Some(names) => names,
        };
        let known: Vec<&str> = directory.technicians.iter().map(|one| one.name.as_str()).collect();
        let find = |name: &String| {
            let found = directory.technicians.iter().find(|one| one.name == *name || one.id.to_string() == *name);
            found.map(|one| one.id).with_context(|| format!("there is no technician \"{name}\"{}", hint(name, &known)))
        };
        names.iter().map(find).collect()
    }

    /// The computers, and whether all are meant.
    fn computers(&self, directory: &Directory) -> Result<(Vec<ComputerId>, bool)> {
        let names = match &self.computers {
            Names::All(all) if all == ALL => return Ok((Vec::new(), true)),
            Names::All(name) => bail!("computers is a list of names, like [\"{name}\"], or \"all\""),
            Names::Some(names) => names,
        };
        let known: Vec<&str> = directory.computers.iter().map(|one| one.name.as_str()).collect();
        let find = |name: &String| {
            // An identifier may stand for a computer that isn't enrolled yet, or no longer.
            if let Ok(id) = name.parse() {
                return Ok(id);
            }
            let found: Vec<_> = directory.computers.iter().filter(|one| one.name == *name && !one.revoked).collect();
            match found[..] {
                [one] => Ok(one.id),
                [] => bail!("there is no computer \"{name}\"{}", hint(name, &known)),
                _ => bail!(
                    "several computers are called \"{name}\"; write the identifier that 'gatepass computer list' shows"
                ),
            }
        };
        Ok((names.iter().map(find).collect::<Result<_>>()?, false))
    }

    fn of(rule: &Rule, directory: &Directory) -> RuleFile {
        let technician = |id: &TechnicianId| {
            let known = directory.technicians.iter().find(|one| one.id == *id);
            known.map_or_else(|| id.to_string(), |one| one.name.clone())
        };
        let computer = |id: &ComputerId| {
            let known = directory.computers.iter().find(|one| one.id == *id).map(|one| &one.name);
            let unique = |name: &&String| directory.computers.iter().filter(|one| one.name == **name).count() == 1;
            known.filter(unique).cloned().unwrap_or_else(|| id.to_string())
        };
        let everywhere = rule.computers.is_empty() && rule.tags.is_empty();
        RuleFile {
            name: rule.name.clone(),
            technicians: match rule.technicians[..] {
                [] => Names::All(ALL.to_owned()),
                ref some => Names::Some(some.iter().map(technician).collect()),
            },
            computers: if everywhere {
                Names::All(ALL.to_owned())
            } else {
                Names::Some(rule.computers.iter().map(computer).collect())
            },
            tags: rule.tags.clone(),
            scenarios: rule.scenarios.iter().map(|one| one.name().to_owned()).collect(),
            accounts: rule.choice.accounts.iter().map(|one| one.name().to_owned()).collect(),
            groups: rule.choice.groups.clone(),
            max_minutes: rule.choice.max_minutes,
            confirm_code: rule.choice.confirm,
            reason: rule.choice.reason,
        }
    }
}

fn minutes(what: &str, minutes: u32) -> Result<()> {
    if (1..=LONGEST_MINUTES).contains(&minutes) {
        Ok(())
    } else {
        bail!("{what} is {minutes}, but a grant lasts 1 to {LONGEST_MINUTES} minutes (a week)")
    }
}

fn word(what: &str, word: &str) -> Result<()> {
    let fits = (1..=64).contains(&word.chars().count()) && word.trim() == word;
    if fits && !word.chars().any(|character| is_unprintable(character) || matches!(character, ':' | ',' | '/')) {
        Ok(())
    } else {
        bail!(
            "{what} \"{word}\" has to have 1 to 64 characters, none of them a colon, a comma, a slash or a control character"
        )
    }
}

fn one_or_more<T: Copy + PartialEq>(
    what: &str,
    names: &[String],
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<Vec<T>> {
    if names.is_empty() {
        bail!("it has no {what}");
    }
    let known: Vec<&str> = all.iter().map(|one| name_of(*one)).collect();
    let mut found = Vec::new();
    for name in names {
        let one = all.iter().find(|one| name_of(**one) == name);
        let one = *one.with_context(|| format!("there is no {what} \"{name}\"{}", hint(name, &known)))?;
        if !found.contains(&one) {
            found.push(one);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "policy_file_tests.rs"]
mod tests;
