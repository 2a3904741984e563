//! Policy: who may have what, where and how. The CA signs it; agents enforce it; phones show only what it allows.
//!
//! Rules are additive: each gives a right together with its duties, and an approval stands when one rule gives all of it.
//! No rule takes anything away, so the order of rules means nothing.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ComputerId, TechnicianId},
    numbered::numbered,
    statement::{KeyProtection, Kind, Terms},
};

numbered! {
    /// What is asked for.
    pub enum Scenario: "scenario" {
        /// A session at a logon screen.
        Logon = 1 "logon",
        /// An existing session.
        Unlock = 2 "unlock",
        /// One command or session with more rights: sudo, su.
        Elevation = 3 "elevation",
        /// Remote desktop.
        Rdp = 4 "rdp",
        /// A remote shell.
        Ssh = 5 "ssh",
        /// A text console.
        Console = 6 "console",
    }
}

numbered! {
    /// Which account a grant is for.
    pub enum AccountKind: "kind of account" {
        /// None: the asking user's own, for one command or session.
        Own = 0 "own",
        /// `gp-alex`, the technician's own on each computer.
        Named = 1 "named",
        /// `gp-1234`, shared.
        Shared = 2 "shared",
        /// `alex_566054625600`, new each time.
        Random = 3 "random",
    }
}

/// One rule. On the wire its choice's fields follow its own in one array, which keeps a policy within four levels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RuleWire", from = "RuleWire")]
pub struct Rule {
    /// What the administrator calls it.
    pub name: String,
    /// Whom it gives the right to; empty: every technician of the tenant.
    pub technicians: Vec<TechnicianId>,
    /// Where; with `tags` empty too: everywhere.
    pub computers: Vec<ComputerId>,
    /// Where: computers with one of these tags.
    pub tags: Vec<String>,
    /// For what.
    pub scenarios: Vec<Scenario>,
    /// What it gives.
    pub choice: Choice,
}

type RuleWire = (
    String,
    Vec<TechnicianId>,
    Vec<ComputerId>,
    Vec<String>,
    Vec<Scenario>,
    Vec<AccountKind>,
    Vec<String>,
    u32,
    bool,
    bool,
);

impl From<Rule> for RuleWire {
    fn from(rule: Rule) -> Self {
        let Rule { name, technicians, computers, tags, scenarios, choice } = rule;
        let Choice { accounts, groups, max_minutes, confirm, reason } = choice;
        (name, technicians, computers, tags, scenarios, accounts, groups, max_minutes, confirm, reason)
    }
}

impl From<RuleWire> for Rule {
    fn from(
        (name, technicians, computers, tags, scenarios, accounts, groups, max_minutes, confirm, reason): RuleWire,
    ) -> Self {
        Rule {
            name,
            technicians,
            computers,
            tags,
            scenarios,
            choice: Choice { accounts, groups, max_minutes, confirm, reason },
        }
    }
}

/// What a rule gives, and its duties. This is also what a phone offers to its technician.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The kinds of account.
    pub accounts: Vec<AccountKind>,
    /// The groups, any of which may be chosen.
    pub groups: Vec<String>,
    /// The longest time, in minutes.
    pub max_minutes: u32,
    /// The code that the phone shows must be typed at the computer.
    pub confirm: bool,
    /// A reason must be given.
    pub reason: bool,
}

/// The whole policy of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What a phone proposes, in minutes.
    pub default_minutes: u32,
    /// Approval keys in software are good enough.
    pub software_keys: bool,
    /// Accounts are deleted at the end of a grant, not kept for the next.
    pub delete_on_end: bool,
    /// Accounts that were kept are deleted after this many days without use.
    pub idle_days: u32,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Terms for Policy {
    const KIND: Kind = Kind::Policy;
}

/// Whom, where and what a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who approves.
    pub technician: TechnicianId,
    /// Where the approval key lives.
    pub protection: KeyProtection,
    /// On which computer.
    pub computer: ComputerId,
    /// The computer's tags.
    pub tags: &'a [String],
    /// What is asked for.
    pub scenario: Scenario,
}

/// What was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The kind of account.
    pub account: AccountKind,
    /// The groups.
    pub groups: &'a [String],
    /// For how many minutes, rounded up.
    pub minutes: u32,
    /// A reason was given.
    pub reason: bool,
}

impl Policy {
    /// What this technician may choose here; empty: nothing at all.
    pub fn choices(&self, question: &Question<'_>) -> Vec<Choice> {
        if question.protection == KeyProtection::Software && !self.software_keys {
            return Vec::new();
        }
        self.rules.iter().filter(|rule| rule.applies(question)).map(|rule| rule.choice.clone()).collect()
    }
}

impl Rule {
    fn applies(&self, question: &Question<'_>) -> bool {
        let anywhere = self.computers.is_empty() && self.tags.is_empty();
        (self.technicians.is_empty() || self.technicians.contains(&question.technician))
            && (anywhere
                || self.computers.contains(&question.computer)
                || self.tags.iter().any(|tag| question.tags.contains(tag)))
            && self.scenarios.contains(&question.scenario)
    }
}

impl Choice {
    /// Whether this choice alone gives all that is wished for.
    pub fn gives(&self, wish: &Wish<'_>) -> bool {
        self.accounts.contains(&wish.account)
            && wish.groups.iter().all(|group| self.groups.contains(group))
            && (1..=self.max_minutes).contains(&wish.minutes)
            && (wish.reason || !self.reason)
    }
}

/// The account that a technician has on each computer ([`AccountKind::Named`]): `gp-` and the name in lower case, where what an
/// account's name can't have is a hyphen, 32 characters in all.
pub fn named_account(technician_name: &str) -> String {
    let fitting = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let short: String = technician_name.trim().chars().map(fitting).take(29).collect();
    format!("gp-{short}")
}

/// Whether a wish is granted by one of the choices, and with which duty: `Some(true)` when the confirm code must be typed.
/// Of several choices that give it, one without the code counts.
pub fn granted(choices: &[Choice], wish: &Wish<'_>) -> Option<bool> {
    choices.iter().filter(|choice| choice.gives(wish)).map(|choice| choice.confirm).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice() -> Choice {
        Choice {
            accounts: vec![AccountKind::Named],
            groups: vec!["adm".into(), "sudo".into()],
            max_minutes: 30,
            confirm: true,
            reason: true,
        }
    }

    fn policy() -> Policy {
        let rule = Rule {
            name: "on call".into(),
            technicians: vec![TechnicianId([1; 16])],
            computers: vec![],
            tags: vec!["web".into()],
            scenarios: vec![Scenario::Ssh],
            choice: choice(),
        };
        Policy { default_minutes: 30, software_keys: true, delete_on_end: false, idle_days: 30, rules: vec![rule] }
    }

    fn question(tags: &[String]) -> Question<'_> {
        Question {
            technician: TechnicianId([1; 16]),
            protection: KeyProtection::Software,
            computer: ComputerId([2; 16]),
            tags,
            scenario: Scenario::Ssh,
        }
    }

    #[test]
    fn a_rule_counts_for_its_people_places_and_scenarios_only() {
        let web = ["web".to_string()];
        let policy = policy();
        assert_eq!(policy.choices(&question(&web)), [choice()]);
        assert!(policy.choices(&question(&[])).is_empty());
        assert!(policy.choices(&Question { technician: TechnicianId([9; 16]), ..question(&web) }).is_empty());
        assert!(policy.choices(&Question { scenario: Scenario::Console, ..question(&web) }).is_empty());
        let hardware_only = Policy { software_keys: false, ..policy };
        assert!(hardware_only.choices(&question(&web)).is_empty());
        assert_eq!(hardware_only.choices(&Question { protection: KeyProtection::Hardware, ..question(&web) }).len(), 1);
    }

    #[test]
    fn a_technicians_name_becomes_a_name_that_an_account_can_have() {
        for (name, account) in [
            ("alex", "gp-alex"),
            ("Ann-Marie O'Hara", "gp-ann-marie-o-hara"),
            ("Zoë", "gp-zo-"),
            ("../../x", "gp-------x"),
        ] {
            assert_eq!(named_account(name), account);
        }
        assert_eq!(named_account(&"x".repeat(40)).len(), 32);
    }

    #[test]
    fn a_wish_needs_one_rule_that_gives_all_of_it() {
        let sudo = ["sudo".to_string()];
        let wish = Wish { account: AccountKind::Named, groups: &sudo, minutes: 30, reason: true };
        let other = Choice {
            accounts: vec![AccountKind::Shared],
            max_minutes: 90,
            confirm: false,
            reason: false,
            groups: vec![],
        };
        let choices = [choice(), other];
        assert_eq!(granted(&choices, &wish), Some(true));
        assert_eq!(
            granted(&choices, &Wish { minutes: 31, ..wish }),
            None,
            "not the time of one rule with the account of another"
        );
        assert_eq!(granted(&choices, &Wish { minutes: 0, ..wish }), None);
        assert_eq!(granted(&choices, &Wish { reason: false, ..wish }), None);
        assert_eq!(
            granted(&choices, &Wish { account: AccountKind::Shared, groups: &[], minutes: 90, reason: false }),
            Some(false)
        );
    }
}
