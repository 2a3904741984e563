//! `code`: an offline code, for a computer that can't reach its relay.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args};
use gatepass_client::edge;
use gatepass_mobile::{
    book::Computer,
    keys,
    offline::{Asked, Freshness},
};
use gatepass_protocol::{
    ids::ComputerId,
    offline::{Challenge, ChallengeQr, Offer, QR_PREFIX, TIME_STEP},
    policy::{AccountKind, Scenario},
};

use crate::{
    home::Home,
    picture::Source,
    terminal::{ask, line, pin},
    when,
};

#[derive(Args)]
#[command(group = ArgGroup::new("where").required(true).multiple(false))]
pub(crate) struct Code {
    /// A picture of the screen with the challenge (PNG)
    #[arg(group = "where", value_name = "PICTURE")]
    picture: Option<PathBuf>,
    /// The QR code's text; without a value from standard input
    #[arg(long, group = "where", num_args = 0..=1, default_missing_value = "-", value_name = "TEXT")]
    text: Option<String>,
    /// What a terminal shows, as text; - is standard input
    #[arg(long, group = "where", value_name = "FILE")]
    terminal: Option<PathBuf>,
    /// The computer's name, or its identity; its challenge is typed
    #[arg(long, group = "where", value_name = "NAME")]
    computer: Option<String>,

    /// The challenge that the computer shows [default: asked]
    #[arg(long, requires = "computer", conflicts_with = "time", value_name = "CHALLENGE")]
    challenge: Option<String>,
    /// A code by the time instead of a challenge, for this scenario: ssh, console, logon, elevation, ...
    #[arg(long, requires = "computer", value_parser = scenario, value_name = "SCENARIO")]
    time: Option<Scenario>,
    /// The account that the computer shows; for an elevation the user who asks [default: your own]
    #[arg(long, requires = "computer")]
    account: Option<String>,
    /// Which of several offers, by its number [default: asked]
    #[arg(long, value_name = "NUMBER")]
    offer: Option<usize>,
    /// The PIN; a file that only you can read [default: asked, unseen]
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

fn scenario(name: &str) -> Result<Scenario, String> {
    Scenario::from_name(name).ok_or_else(|| String::from("one of logon, unlock, elevation, rdp, ssh, console"))
}

impl Code {
    pub(crate) fn run(self, home: &Home) -> Result<ExitCode> {
        let (profile, now) = (home.enrolled()?, edge::now());
        let trust = profile.trust()?;
        let device = profile.certificate(&trust, now)?;
        let directory = home.directory()?;
        let (agent, fresh, account) = match &self.computer {
            None => {
                let qr = ChallengeQr::from_text(&self.source().read(QR_PREFIX)?)?;
                let agent = directory.of(&qr, &trust, now)?;
                let challenge = Challenge::from_bits(qr.bits, ComputerId(agent.statement().subject))?;
                (agent, Freshness::Challenge(challenge), qr.account)
            }
            Some(name) => {
                let agent = directory.find(name, &trust, now)?;
                let fresh = self.freshness(ComputerId(agent.statement().subject))?;
                (agent, fresh, self.account.clone().unwrap_or_default())
            }
        };
        let asked = Asked::new(&device, &agent, &trust, fresh, &account, now)?;
        let terms = agent.terms();
        let domain = if terms.domain.is_empty() { String::new() } else { format!(" in {}", terms.domain) };
        line!("");
        line!("Computer    {}{}", terms.computer, domain);
        line!("            {}, identity {}", terms.os, asked.computer());
        line!("Asks for    {}", fresh.scenario().name());
        line!("Account     {}", asked.account());
        for (at, offer) in asked.offers().iter().enumerate() {
            let before = if at == 0 { "It gives" } else { "or" };
            line!("{:<10}  {}: {}", before, at + 1, words(offer));
        }
        line!("By policy   {}, revocation list {}", trust.policy_epoch(), trust.revocation_epoch());
        if fresh.scenario() == Scenario::Elevation {
            line!("Look at the computer's screen for the command: nobody but you checks it.");
        }
        line!("");
        let offer = self.pick(asked.offers())?;
        let pin = pin(self.pin_file.as_deref(), "PIN")?;
        let sealed = profile
            .sealed_otp_key()
            .context("this phone was enrolled before there were offline codes: enrol it again, with another --home")?;
        let key = keys::open_otp(sealed, &pin).context("the PIN is wrong, or the phone's key file was changed")?;
        // The PIN may have taken a while.
        let now = edge::now();
        let code = asked.code(offer, &key, &device, &agent, now)?;
        line!("Code: {}", grouped(&code));
        if let Some(chain) = directory.chain(asked.computer()) {
            // So that its grant can be looked at and ended once both are online. At which relay it is, nobody says; the first is asked.
            let relay = trust.relays().and_then(|list| list.terms().relays.first()).map_or(0, |relay| relay.index);
            let computer = Computer::new(asked.computer(), &terms.computer, relay, &chain);
            home.change_book(|book| {
                if book.computer(computer.id).is_none() {
                    book.met(computer);
                }
            })?;
        }
        if let Freshness::Time(_) = fresh {
            line!("Good for about {}.", when::span(TIME_STEP - now % TIME_STEP + TIME_STEP));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn source(&self) -> Source<'_> {
        let (picture, terminal) = (self.picture.as_deref(), self.terminal.as_deref());
        Source { picture, terminal, text: self.text.as_deref() }
    }

    fn freshness(&self, computer: ComputerId) -> Result<Freshness> {
        if let Some(scenario) = self.time {
            return Ok(Freshness::Time(scenario));
        }
        let typed = match &self.challenge {
            Some(challenge) => challenge.clone(),
            None => ask("The challenge that the computer shows", "")?,
        };
        Ok(Freshness::Challenge(Challenge::from_text(&typed, computer)?))
    }

    fn pick<'a>(&self, offers: &'a [Offer]) -> Result<&'a Offer> {
        let number = match (self.offer, offers) {
            (Some(number), _) => number,
            (None, [_]) => 1,
            (None, _) => ask("Which of them", "1")?.parse().context("that is not a number")?,
        };
        match number.checked_sub(1).and_then(|at| offers.get(at)) {
            Some(offer) => Ok(offer),
            None => bail!("there is no offer {number}: choose 1 to {}", offers.len()),
        }
    }
}

fn words(offer: &Offer) -> String {
    let groups = match (offer.kind, &offer.groups[..]) {
        (AccountKind::Own, _) => String::from("the rights asked for"),
        (_, []) => String::from("no groups"),
        (_, groups) => format!("groups {}", groups.join(", ")),
    };
    let reason = if offer.reason { ", with a reason typed at the computer" } else { "" };
    format!("{} account, {groups}, {} minutes{reason}", offer.kind.name(), offer.minutes)
}

/// In halves, which are easier to carry over; the computer leaves out the blank.
fn grouped(code: &str) -> String {
    let (first, second) = code.split_at(code.len() / 2);
    format!("{first} {second}")
}
