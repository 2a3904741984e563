//! What is asked at this computer, as the phone shows it, and what the policy lets this technician choose.

use gatepass_accounts::{AccountError, AccountName, AccountSpec, AccountState, OnEnd};
use gatepass_agent_core::grant::{Grant, Right};
use gatepass_client::edge;
use gatepass_logon::text::Refusal;
use gatepass_logon::wire::Start;
use gatepass_protocol::Code;
use gatepass_protocol::pairing::messages::{Context, Request};
use gatepass_protocol::policy::{AccountKind, Choice, Policy, Question, Scenario, named_account};
use gatepass_protocol::statement::DeviceTerms;
use gatepass_protocol::trust::Certified;

use crate::agent::Agent;
use crate::config::Config;
use crate::process;

/// How long a technician may think, in seconds. The pairing at the relay lives no longer.
const THINKING_TIME: u64 = 80;

/// What is asked.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) scenario: Scenario,
    pub(crate) request: Request,
    pub(crate) right: Wish,
    /// The program had looked the user up before it asked us, and goes on with what it found (sshd, su).
    looked_up: bool,
}

/// For which right.
#[derive(Clone)]
pub(crate) enum Wish {
    /// This account: it was named at the login, and can't be another any more.
    Account(AccountName),
    /// An account that the technician chooses.
    AnyAccount,
    /// More rights for a user who is there.
    Elevation,
}

impl Asked {
    /// What a PAM conversation asks for; `None` when it is not ours to answer.
    pub(crate) fn of(config: &Config, start: &Start, pid: u32) -> Result<Option<Self>, Refusal> {
        let request = Request {
            service: start.service.clone(),
            user: start.user.clone(),
            target: start.user.clone(),
            from: start.rhost.clone(),
            tty: start.tty.clone(),
            command: String::new(),
        };
        let scenario = scenario(start);
        if start.user == config.logon.login_user && start.renames {
            return Ok(Some(Self { scenario, request, right: Wish::AnyAccount, looked_up: false }));
        }
        // su names the account that it goes to; sudo the one that asks, which may be one of ours and open already.
        let goes_there = !start.service.contains("sudo");
        match AccountName::new(&start.user) {
            Ok(name) if goes_there && may_be_ours(&name) => {
                Ok(Some(Self { scenario, request, right: Wish::Account(name), looked_up: !start.renames }))
            }
            _ if config.logon.elevation_services.contains(&start.service) => elevation(start, request, pid).map(Some),
            _ if start.user == config.logon.login_user => {
                let reason = format!("{} needs the account's own name here. Try again as gp-YOURNAME.", start.service);
                Err(Refusal::Because { reason })
            }
            _ => Ok(None),
        }
    }

    /// M4: the question for this technician, or the code and the words why it is not even asked.
    pub(crate) fn context(
        &self,
        agent: &Agent,
        device: &Certified<DeviceTerms>,
        now: u64,
    ) -> Result<Context, (Code, String)> {
        // Looking at accounts below may take a while, and nobody should wait for the lists meanwhile.
        let (policy, policy_epoch, revocation_epoch) = {
            let trust = agent.trust.read();
            let policy = trust.policy().ok_or_else(|| (Code::StaleEpoch, Code::StaleEpoch.to_string()))?;
            if policy.statement().not_after < now {
                let reason = "The tenant's policy has expired. Ask your administrator to sign a new one.".into();
                return Err((Code::StaleEpoch, reason));
            }
            (policy.terms().clone(), trust.policy_epoch(), trust.revocation_epoch())
        };
        let question = Question {
            technician: device.terms().technician,
            protection: device.terms().protection,
            computer: agent.computer,
            tags: &agent.tags,
            scenario: self.scenario,
        };
        let accounts = self.accounts(device.terms())?;
        let mut choices = self.possible(agent, device, policy.choices(&question), &accounts, now)?;
        self.can_go_on(agent, device.terms(), now)?;
        let mut default_minutes = policy.default_minutes;
        if let Some((kind, live)) = open_already(agent, &accounts) {
            if live.approver.technician != device.terms().technician {
                let reason = format!("{} is in use by another technician.", live.right.shown_account());
                return Err((Code::Account, reason));
            }
            let minutes = join_only(&mut choices, kind, &live);
            default_minutes = minutes.unwrap_or(default_minutes);
        }
        if choices.is_empty() {
            return Err((Code::Policy, Code::Policy.to_string()));
        }
        let offered = |kind: &AccountKind| choices.iter().any(|choice| choice.accounts.contains(kind));
        Ok(Context {
            machine: agent.machine.clone(),
            scenario: self.scenario,
            request: self.request.clone(),
            accounts: accounts.into_iter().filter(|(kind, _)| offered(kind)).collect(),
            choices,
            default_minutes,
            nonce: edge::random(),
            time: now,
            expires: now + THINKING_TIME,
            policy_epoch,
            revocation_epoch,
            audit_root: [0; 32],
        })
    }

    /// The account of each kind that could be had here by this technician.
    pub(super) fn accounts(&self, technician: &DeviceTerms) -> Result<Vec<(AccountKind, String)>, (Code, String)> {
        let named = named_account(&technician.technician_name);
        match &self.right {
            Wish::Elevation => Ok(vec![(AccountKind::Own, self.request.user.clone())]),
            Wish::AnyAccount => {
                let digits = u64::from_be_bytes(edge::random()) % 1_000_000_000_000;
                // 20 characters, the most that a directory takes.
                let stem: String =
                    named[3..].trim_start_matches(|c: char| !c.is_ascii_lowercase()).chars().take(7).collect();
                let stem = if stem.is_empty() { "gp".to_owned() } else { stem };
                Ok(vec![(AccountKind::Named, named), (AccountKind::Random, format!("{stem}_{digits:012}"))])
            }
            Wish::Account(name) if name.is_shared() => Ok(vec![(AccountKind::Shared, name.to_string())]),
            Wish::Account(name) if name.as_str() == named => Ok(vec![(AccountKind::Named, named)]),
            Wish::Account(name) => {
                let reason = format!("{name} is not the account of the technician who scanned. Log in as {named}.");
                Err((Code::Policy, reason))
            }
        }
    }

    /// A standing account that is made only after the approval comes too late for a program that has looked already. So it is made
    /// now, locked, for somebody who may have it, and the next try finds it. (The user database answers such programs by itself.)
    pub(super) fn can_go_on(&self, agent: &Agent, technician: &DeviceTerms, now: u64) -> Result<(), (Code, String)> {
        let Wish::Account(name) = &self.right else { return Ok(()) };
        let made = (|| {
            let missing = self.looked_up
                && agent.accounts.name() == "standing"
                && agent.accounts.state(name)? == AccountState::Absent;
            if missing {
                agent.accounts.create(&spec(name.clone(), technician, &[], now))?;
            }
            Ok::<_, AccountError>(missing)
        })();
        match made {
            Ok(false) => Ok(()),
            Ok(true) => {
                let reason = format!(
                    "{name} was not on this computer yet. It is now, locked until you approve: connect once more."
                );
                Err((Code::Account, reason))
            }
            Err(error) => Err((Code::Account, error.to_string())),
        }
    }

    /// The policy's choices, less what can't be had on this computer: better not offered than refused after the approval.
    fn possible(
        &self,
        agent: &Agent,
        device: &Certified<DeviceTerms>,
        choices: Vec<Choice>,
        accounts: &[(AccountKind, String)],
        now: u64,
    ) -> Result<Vec<Choice>, (Code, String)> {
        let mut why_not = None;
        let mut can_be_had = |kind: AccountKind, groups: &[String]| {
            let Some((_, name)) = accounts.iter().find(|(known, _)| *known == kind) else { return false };
            if kind == AccountKind::Own {
                return true;
            }
            let wanted = AccountName::new(name).map(|name| spec(name, device.terms(), groups, now));
            let checked = wanted.and_then(|wanted| agent.accounts.check(&wanted));
            match checked {
                Ok(()) => true,
                Err(AccountError::UnknownGroup { group }) => {
                    tracing::warn!(group, "the policy gives a group that this computer does not have");
                    false
                }
                Err(error) => {
                    why_not = Some(error.to_string());
                    false
                }
            }
        };
        let mut possible = Vec::new();
        for mut choice in choices {
            choice.accounts.retain(|kind| can_be_had(*kind, &[]));
            if let Some(kind) = choice.accounts.first().copied() {
                choice.groups.retain(|group| kind != AccountKind::Own && can_be_had(kind, std::slice::from_ref(group)));
                possible.push(choice);
            }
        }
        match why_not {
            _ if !possible.is_empty() => Ok(possible),
            Some(error) => Err((Code::Account, error)),
            None => Err((Code::Policy, Code::Policy.to_string())),
        }
    }

    /// What an approval gives.
    pub(crate) fn right(&self, kind: AccountKind, account: &str, groups: &[String], policy: Option<&Policy>) -> Right {
        match kind {
            AccountKind::Own => Right::Elevation { from: account.into(), to: self.request.target.clone() },
            _ => Right::Account {
                name: account.into(),
                kind,
                groups: groups.to_vec(),
                // A name that is made up for one grant is of no use to the next.
                delete: kind == AccountKind::Random || policy.is_some_and(|policy| policy.delete_on_end),
            },
        }
    }
}

/// An account to ask the provider about, before it is known for how long it is wanted.
pub(super) fn spec(name: AccountName, technician: &DeviceTerms, groups: &[String], now: u64) -> AccountSpec {
    AccountSpec {
        name,
        technician: *technician.technician.as_bytes(),
        technician_name: technician.technician_name.clone(),
        groups: groups.to_vec(),
        not_after: now + 60,
        on_end: OnEnd::Keep,
    }
}

/// The live grant of one of these accounts.
fn open_already(agent: &Agent, accounts: &[(AccountKind, String)]) -> Option<(AccountKind, Grant)> {
    let (grants, at) = (agent.grants(), crate::clock::now());
    let mut with_account = accounts.iter().filter(|(kind, _)| *kind != AccountKind::Own);
    with_account.find_map(|(kind, name)| Some((*kind, grants.of_account(name, at)?.clone())))
}

/// Who is in already can log in once more with just the groups and the time that are left of it: a second window, not a second
/// grant. Says which time to propose.
fn join_only(choices: &mut Vec<Choice>, kind: AccountKind, live: &Grant) -> Option<u32> {
    let minutes = u32::try_from(live.deadline.left(crate::clock::now()).div_ceil(60)).ok()?.max(1);
    let mut joining = None;
    for choice in choices.iter_mut().filter(|choice| choice.accounts.contains(&kind)) {
        choice.accounts.retain(|other| *other != kind);
        if live.right.groups().iter().all(|group| choice.groups.contains(group)) {
            let groups = live.right.groups().to_vec();
            let max_minutes = minutes.min(choice.max_minutes);
            joining = Some(Choice { accounts: vec![kind], groups, max_minutes, ..choice.clone() });
        }
    }
    choices.extend(joining.clone());
    choices.retain(|choice| !choice.accounts.is_empty());
    joining.map(|choice| choice.max_minutes)
}

/// sudo and su: who asks, for whom, and exactly what will run.
fn elevation(start: &Start, request: Request, pid: u32) -> Result<Asked, Refusal> {
    let arguments = process::arguments(pid).map_err(|error| Refusal::Because { reason: error.to_string() })?;
    // sudo authenticates the user who asks; su the user who is asked for.
    let asks = if start.ruser.is_empty() { start.user.clone() } else { start.ruser.clone() };
    let target = if start.service.contains("sudo") { sudo_target(&arguments) } else { Some(start.user.clone()) };
    // The later phases come with the name of the user that it became, and are let through for the one that was approved.
    let target = target.filter(|target| !target.starts_with('#')).ok_or_else(|| Refusal::Because {
        reason:
            "It is not clear as whom the command would run. Name the user as -u NAME, and write long options in full."
                .into(),
    })?;
    let request = Request { user: asks, target, command: process::quoted(&arguments), ..request };
    Ok(Asked { scenario: Scenario::Elevation, request, right: Wish::Elevation, looked_up: false })
}

/// The user of sudo's `-u`, read as sudo reads it; `None` where that can't be told.
fn sudo_target(arguments: &[Vec<u8>]) -> Option<String> {
    /// Options that take a value (sudo 1.9, parse_args.c).
    const SHORT: &str = "acCDgpRrtTUu";
    const LONG: [&str; 12] = [
        "auth-type",
        "login-class",
        "close-from",
        "chdir",
        "group",
        "prompt",
        "chroot",
        "role",
        "type",
        "command-timeout",
        "other-user",
        "user",
    ];
    /// Options that take none.
    const FLAGS: [&str; 15] = [
        "askpass",
        "bell",
        "background",
        "preserve-env",
        "edit",
        "set-home",
        "login",
        "remove-timestamp",
        "reset-timestamp",
        "list",
        "non-interactive",
        "no-update",
        "preserve-groups",
        "stdin",
        "shell",
    ];
    let mut target = "root".to_owned();
    let mut words = arguments.iter().skip(1).map(|word| String::from_utf8_lossy(word));
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value.to_owned())));
            if FLAGS.contains(&name) {
                continue;
            } else if !LONG.contains(&name) {
                return None; // an abbreviation, or an option of another version
            }
            let value = value.or_else(|| words.next().map(Into::into))?;
            if name == "user" {
                target = value;
            }
        } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            let Some(at) = cluster.find(|option| SHORT.contains(option)) else { continue };
            let (option, rest) = cluster[at..].split_at(1);
            let value = if rest.is_empty() { words.next().map(Into::into) } else { Some(rest.to_owned()) };
            let value = value?;
            if option == "u" {
                target = value;
            }
        } else if !word.contains('=') {
            break; // the command; what holds "=" before it is a variable
        }
    }
    Some(target)
}

fn scenario(start: &Start) -> Scenario {
    match start.service.as_str() {
        _ if start.tty == "ssh" => Scenario::Ssh,
        "sshd" => Scenario::Ssh,
        "login" | "remote" | "agetty" => Scenario::Console,
        service if service.starts_with("xrdp") => Scenario::Rdp,
        service if service.contains("lock") || service.contains("screensaver") => Scenario::Unlock,
        _ if start.tty.trim_start_matches("/dev/").starts_with("tty") => Scenario::Console,
        _ => Scenario::Logon,
    }
}

/// Whether a name looks like one that Gatepass gives: `gp-alex`, `gp-1234`.
pub(crate) fn may_be_ours(name: &AccountName) -> bool {
    name.as_str().strip_prefix("gp-").is_some_and(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_sudo_is_found_where_it_is_named() {
        for (command, target) in [
            (&["sudo", "id"][..], "root"),
            (&["sudo", "-u", "postgres", "psql"], "postgres"),
            (&["sudo", "-n", "--user=www", "ls", "-u", "x"], "www"),
            (&["sudo", "-upostgres", "psql"], "postgres"),
            (&["sudo", "-nu", "www", "id"], "www"),
            (&["sudo", "-g", "adm", "-u", "www", "id"], "www"),
            (&["sudo", "-p", "x -u nobody", "id"], "root"),
            (&["sudo", "A=1", "-u", "www", "id"], "www"),
            (&["sudo", "ls", "-u", "nobody"], "root"),
            (&["sudo", "--", "-u"], "root"),
            (&["sudo", "--us=www", "id"], "?"),
            (&["sudo", "-u"], "?"),
        ] {
            let arguments: Vec<Vec<u8>> = command.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(sudo_target(&arguments).as_deref().unwrap_or("?"), target, "{command:?}");
        }
    }

    #[test]
    fn a_technicians_name_becomes_a_name_that_an_account_can_have() {
        for name in ["alex", "Ann-Marie O'Hara", "Zoë", "../../x"] {
            assert!(AccountName::new(&named_account(name)).is_ok(), "{name}");
        }
    }
}
