//! `scan`: read the code, show who asks for what, decide, show the outcome.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args};
use gatepass_client::{Connection, edge};
use gatepass_mobile::{
    book::{Computer, Granted},
    enrol,
    keys::ApprovalKey,
    login::{self, Question},
    profile::Profile,
};
use gatepass_protocol::{
    pairing::{
        messages::{Context, Outcome, Verification},
        phone::{Asked, Chosen, DeviceIdentity},
    },
    policy::AccountKind,
    qr::PREFIX,
    trust::TrustStore,
};
use tokio::task::JoinHandle;

use crate::{
    home::Home,
    picture::Source,
    terminal::{ask, line, pin},
    when, witness,
};

#[derive(Args)]
#[command(group = ArgGroup::new("code").multiple(false), group = ArgGroup::new("decision").multiple(false))]
pub(crate) struct Scan {
    /// A picture of the screen (PNG)
    #[arg(group = "code", value_name = "PICTURE")]
    picture: Option<PathBuf>,
    /// The code as text; without a value from standard input, which keeps it out of the list of processes
    #[arg(long, group = "code", num_args = 0..=1, default_missing_value = "-", value_name = "TEXT")]
    text: Option<String>,
    /// What a terminal shows, as text (such as 'tmux capture-pane -p' prints); - is standard input
    #[arg(long, group = "code", value_name = "FILE")]
    terminal: Option<PathBuf>,

    /// Approve
    #[arg(long, group = "decision")]
    approve: bool,
    /// Deny
    #[arg(long, group = "decision")]
    deny: bool,
    /// Deny, and say that it was not you who asked
    #[arg(long, group = "decision")]
    not_me: bool,

    /// The kind of account: own, named, shared, random
    #[arg(long, value_parser = account_kind)]
    account: Option<AccountKind>,
    /// A group to be in; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// For how many minutes
    #[arg(long)]
    minutes: Option<u32>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// The ticket of another system that this is for
    #[arg(long)]
    ticket: Option<String>,
    /// Do not ask again: what is not given is taken as proposed
    #[arg(long)]
    yes: bool,
    /// The PIN; a file that only you can read [default: asked, unseen]
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

/// How often a PIN may be typed for one approval.
const PIN_TRIES: u32 = 3;

enum Decision {
    Approve(Chosen, ApprovalKey),
    Deny { not_me: bool },
}

fn account_kind(name: &str) -> Result<AccountKind, String> {
    AccountKind::from_name(name).ok_or_else(|| String::from("one of own, named, shared, random"))
}

/// Who this phone is, for pairings and orders.
pub(crate) fn identity(profile: &Profile) -> Result<DeviceIdentity> {
    DeviceIdentity::new(profile.chain()?, profile.channel_key(), profile.sign_key())
        .map_err(|code| anyhow::anyhow!("this phone's profile does not fit its certificate: {code}"))
}

impl Scan {
    pub(crate) async fn run(self, home: &Home) -> Result<ExitCode> {
        let mut profile = home.enrolled()?;
        let identity = identity(&profile)?;
        let mut trust = profile.trust()?;
        profile.certificate(&trust, edge::now())?;
        // Opening the key takes a while on purpose; where the PIN is known already, the network is waited for meanwhile.
        let mut key =
            self.pin_file.as_deref().filter(|_| self.approve).map(|file| unlock(&profile, Some(file))).transpose()?;

        let code = gatepass_protocol::pairing::phone::Scan::from_text(&self.source().read(PREFIX)?)?;
        let relay = code.relay_idx();
        if profile.settings(&trust, Some(relay)).is_err() {
            enrol::refresh(&mut profile, &mut trust, edge::now()).await?;
        }
        let mut connection = Connection::start(profile.settings(&trust, Some(relay))?);
        let question = match login::begin(&mut connection, code, &identity, &mut trust).await {
            Ok(question) => question,
            Err(error) => {
                // Not before the computer has been told: it shows its next code then, and not only when this one is too old.
                connection.close().await;
                return Err(error.into());
            }
        };
        let caught_up = self.catch_up(&mut profile, &mut trust, &question).await;
        home.remember(&trust)?;
        if let Err(error) = caught_up {
            question.deny(&connection, false).await?;
            connection.close().await;
            return Err(error);
        }
        show(question.asked());

        let (chosen, key) = match self.settle(&profile, question.asked(), key.take()).await {
            Ok(Decision::Approve(chosen, key)) => (chosen, key),
            Ok(Decision::Deny { not_me }) => {
                question.deny(&connection, not_me).await?;
                connection.close().await;
                line!(
                    "{}",
                    if not_me { "Denied, as somebody else's request. Tell your administrator." } else { "Denied." }
                );
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => {
                // The person at the computer is not left waiting for what will not come.
                question.deny(&connection, false).await?;
                connection.close().await;
                return Err(error.context("nothing was approved"));
            }
        };
        let needs_code = question.asked().needs_code(&chosen) == Some(true);
        let computer = Computer::of(question.asked(), relay);
        let approved = question.approve(&connection, &chosen, &identity, &key).await?;
        if needs_code {
            line!("Confirm code: {}", approved.confirm_code());
            line!("Type it at the computer.");
        }
        let outcome = approved.outcome(&mut connection).await;
        connection.close().await;
        match outcome? {
            Outcome::Granted { grant, account, until } => {
                line!("Granted: {} on {} until {}", account, computer.name, when::clock(until));
                line!("Grant: {}", grant);
                home.change_book(|book| {
                    book.granted(Granted { grant, computer: computer.id, account, until });
                    book.met(computer);
                })?;
                witness::look(home, &profile).await?;
                Ok(ExitCode::SUCCESS)
            }
            Outcome::Refused(code) => bail!("the computer refused: {code}"),
        }
    }

    fn source(&self) -> Source<'_> {
        let (picture, terminal) = (self.picture.as_deref(), self.terminal.as_deref());
        Source { picture, terminal, text: self.text.as_deref() }
    }

    /// The computer knows a newer revocation list than this phone: whoever kept it from us may want us to trust that computer.
    async fn catch_up(&self, profile: &mut Profile, trust: &mut TrustStore, question: &Question) -> Result<()> {
        let asked = question.asked();
        if asked.context().revocation_epoch > trust.revocation_epoch()
            && let Err(error) = enrol::refresh(profile, trust, edge::now()).await
        {
            line!("Warning: there is a newer revocation list, which could not be fetched ({})", error);
        }
        trust.agent(asked.agent_chain(), edge::now()).map_err(|code| anyhow::anyhow!("do not approve this: {code}"))?;
        Ok(())
    }

    /// The technician's decision, with the unlocked key where it is yes.
    async fn settle(&self, profile: &Profile, asked: &Asked, unlocking: Option<Unlocking>) -> Result<Decision> {
        if self.deny || self.not_me {
            return Ok(Decision::Deny { not_me: self.not_me });
        }
        if !self.approve {
            match &*ask("Approve? (a)pprove, (d)eny, (n)ot me", "d")?.to_lowercase() {
                "a" | "approve" => {}
                "n" | "not me" => return Ok(Decision::Deny { not_me: true }),
                _ => return Ok(Decision::Deny { not_me: false }),
            }
        }
        let context = asked.context();
        let chosen = self.choose(context)?;
        if asked.needs_code(&chosen).is_none() || account_name(context, chosen.kind).is_none() {
            let with_reason = Chosen { reason: String::from("a reason"), ..chosen.clone() };
            if chosen.reason.trim().is_empty() && asked.needs_code(&with_reason).is_some() {
                bail!("the policy asks for a reason (--reason); it offers {}", offers(context).join("; or "));
            }
            bail!("the policy does not offer this, but {}", offers(context).join("; or "));
        }
        if !self.yes && !ask(&format!("{}. Approve? (y/n)", told(&chosen)), "n")?.starts_with(['y', 'Y']) {
            return Ok(Decision::Deny { not_me: false });
        }
        let key = match unlocking {
            Some(unlocking) => unlocking.await.context("the key could not be opened")??,
            None => self.ask_for_key(profile).await?,
        };
        Ok(Decision::Approve(chosen, key))
    }

    /// A typed PIN may be mistyped; one from a file is what it is.
    async fn ask_for_key(&self, profile: &Profile) -> Result<ApprovalKey> {
        let mut tries = if self.pin_file.is_some() { 1 } else { PIN_TRIES };
        loop {
            tries -= 1;
            match unlock(profile, self.pin_file.as_deref())?.await.context("the key could not be opened")? {
                Err(error) if tries > 0 => line!("{}. Try again.", error),
                opened => return opened,
            }
        }
    }

    /// What is given by options is taken, the rest is asked, or taken as proposed with `--yes`.
    fn choose(&self, context: &Context) -> Result<Chosen> {
        let kinds: Vec<AccountKind> = context.accounts.iter().map(|(kind, _)| *kind).collect();
        let kind = match (self.account, &kinds[..]) {
            (Some(kind), _) => kind,
            (None, []) => bail!("the computer offers no account: nothing can be approved"),
            (None, [only]) => *only,
            (None, [first, ..]) if self.yes => *first,
            (None, [first, ..]) => {
                let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                let answer = ask(&format!("Account ({})", names.join(", ")), first.name())?;
                AccountKind::from_name(&answer)
                    .with_context(|| format!("\"{answer}\" is none of {}", names.join(", ")))?
            }
        };
        let offers: Vec<_> = context.choices.iter().filter(|choice| choice.accounts.contains(&kind)).collect();
        let mut groups: Vec<String> = offers.iter().flat_map(|choice| choice.groups.iter().cloned()).collect();
        groups.sort();
        groups.dedup();
        let groups = if !self.groups.is_empty() || self.yes || groups.is_empty() {
            self.groups.clone()
        } else {
            let shown = groups.join(", ");
            let proposal = if groups.len() == 1 { &*groups[0] } else { "none" };
            loop {
                let answer = ask(&format!("Groups, with commas between ({shown})"), proposal)?;
                let wished = answer.split(',').map(str::trim).filter(|group| !group.is_empty() && *group != "none");
                let wished: Vec<String> = wished.map(str::to_owned).collect();
                match wished.iter().find(|group| !groups.contains(group)) {
                    None => break wished,
                    Some(unknown) => line!("\"{}\" may not be given here; choose of {}, or none.", unknown, shown),
                }
            }
        };
        let longest = offers.iter().map(|choice| choice.max_minutes).max().unwrap_or(0);
        let proposal = context.default_minutes.clamp(1, longest.max(1));
        let minutes = match self.minutes {
            Some(minutes) => minutes,
            None if self.yes => proposal,
            None => ask(&format!("Minutes (up to {longest})"), &proposal.to_string())?
                .parse()
                .context("the minutes are not a number")?,
        };
        let reason = match &self.reason {
            Some(reason) => reason.clone(),
            None if self.yes => String::new(),
            None => {
                ask(if offers.iter().all(|choice| choice.reason) { "Reason" } else { "Reason (may be left out)" }, "")?
            }
        };
        let ticket = self.ticket.clone().unwrap_or_default();
        Ok(Chosen { kind, groups, minutes, reason, ticket, verification: Verification::Pin })
    }
}

/// A key that is being opened.
type Unlocking = JoinHandle<Result<ApprovalKey>>;

/// Asks for the PIN and opens the key in the background.
fn unlock(profile: &Profile, file: Option<&Path>) -> Result<Unlocking> {
    let pin = pin(file, "PIN")?;
    let vault = profile.sealed_approval_key().to_owned();
    Ok(tokio::task::spawn_blocking(move || {
        ApprovalKey::open(&vault, &pin).context("the PIN is wrong, or the phone's key file was changed")
    }))
}

fn show(asked: &Asked) {
    let (context, agent) = (asked.context(), asked.agent().terms());
    let (card, request) = (&context.machine, &context.request);
    line!("");
    let domain = if agent.domain.is_empty() { String::new() } else { format!(" in {}", agent.domain) };
    line!("Computer    {}{}", agent.computer, domain);
    if card.host != agent.computer {
        line!("            calls itself {} now, which is not what its certificate says", card.host);
    }
    line!("            {}, identity {}", card.os, card.computer);
    let target = if request.target.is_empty() || request.target == request.user {
        String::new()
    } else {
        format!(", to become {}", request.target)
    };
    line!("Asks for    {} ({}){}", context.scenario.name(), request.service, target);
    let from = if request.from.is_empty() { String::new() } else { format!(" from {}", request.from) };
    let tty = if request.tty.is_empty() { String::new() } else { format!(" on {}", request.tty) };
    line!("User        {}{}{}", request.user, tty, from);
    if !request.command.is_empty() {
        line!("Command     {}", request.command);
    }
    for (at, offer) in offers(context).into_iter().enumerate() {
        line!("{}  {}", if at == 0 { "You may give" } else { "          or" }, offer);
    }
    line!("Answer      within {}", when::span(context.expires.saturating_sub(context.time)));
    line!("");
}

fn account_name(context: &Context, kind: AccountKind) -> Option<&str> {
    context.accounts.iter().find(|(of, _)| *of == kind).map(|(_, name)| name.as_str())
}

/// The choices, in words.
fn offers(context: &Context) -> Vec<String> {
    let account = |kind: &AccountKind| account_name(context, *kind).map(|name| format!("{} ({name})", kind.name()));
    let words = |choice: &gatepass_protocol::policy::Choice| {
        let accounts: Vec<String> = choice.accounts.iter().filter_map(account).collect();
        let groups = if choice.groups.is_empty() {
            String::from("no groups")
        } else {
            format!("groups {}", choice.groups.join(", "))
        };
        let code = if choice.confirm { ", with the code typed at the computer" } else { "" };
        let reason = if choice.reason { ", with a reason" } else { "" };
        format!("account {}; {groups}; up to {} minutes{code}{reason}", accounts.join(" or "), choice.max_minutes)
    };
    context.choices.iter().map(words).collect()
}

fn told(chosen: &Chosen) -> String {
    let groups = if chosen.groups.is_empty() { String::from("no groups") } else { chosen.groups.join(", ") };
    format!("Account {}, {groups}, {} minutes", chosen.kind.name(), chosen.minutes)
}
