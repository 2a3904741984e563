//! `enrol` and `status`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use gatepass_client::edge;
use gatepass_mobile::{
    enrol::{self, EnrolError, Enrolment},
    keys::check_pin,
    profile::Profile,
    slot,
};
use gatepass_protocol::{enrol::Ticket, slot::Introduction, statement::KeyProtection};
use zeroize::Zeroizing;

use crate::{
    computers,
    home::{self, Home},
    terminal::{line, pin, typed},
    when, witness,
};

/// How often the control plane is asked whether the administrator has approved.
const ASK_EVERY: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Enrol {
    /// Where the control plane answers, to enrol by two words with your administrator: https://host[:port]
    #[arg(long, value_name = "URL", requires = "tenant", conflicts_with_all = ["ticket_file", "no_wait"])]
    server: Option<String>,
    /// The tenant's tag, 8 digits, which your administrator sees
    #[arg(long, value_name = "TAG", requires = "server")]
    tenant: Option<String>,
    /// The certificate to expect there, where no public CA vouches for it
    #[arg(long, value_name = "FILE", requires = "server")]
    server_ca: Option<PathBuf>,
    /// The ticket, to enrol without anybody at the other end; a file that only you can read
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<PathBuf>,
    /// What to call this phone [default: this machine's name]
    #[arg(long)]
    name: Option<String>,
    /// The PIN; a file that only you can read [default: asked twice, unseen]
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// Do not wait for the administrator; run 'enrol' again later
    #[arg(long)]
    no_wait: bool,
}

impl Enrol {
    pub(crate) async fn run(self, home: &Home) -> Result<ExitCode> {
        let mut profile = match home.profile()? {
            Some(profile) if profile.fingerprint().is_none() => {
                bail!("this phone is already enrolled ({}): for another, give another --home", profile.device_name)
            }
            Some(profile) if self.ticket_file.is_none() && self.server.is_none() => profile,
            _ => self.begin(home).await?,
        };
        if self.server.is_none() {
            line!("Fingerprint of this phone's request: {}", profile.fingerprint().unwrap_or_default());
            line!("Read it to your administrator, who compares it and approves.");
        }
        let mut done = approved(&mut profile).await?;
        if !done && self.no_wait {
            return Ok(ExitCode::SUCCESS);
        }
        if !done {
            line!("Waiting for the approval (Ctrl-C and 'gatepass-phone enrol' later is fine) ...");
        }
        while !done {
            tokio::time::sleep(ASK_EVERY).await;
            done = approved(&mut profile).await?;
        }
        home.keep(&profile)?;
        show(&profile)?;
        computers::fetch(home, &profile, &profile.trust()?).await?;
        Ok(ExitCode::SUCCESS)
    }

    async fn begin(&self, home: &Home) -> Result<Profile> {
        if let (Some(url), Some(tenant)) = (&self.server, &self.tenant) {
            return self.by_words(home, url, tenant).await;
        }
        let file = self.ticket_file.as_deref().context(
            "give what your administrator tells you: --server URL --tenant TAG, or --ticket-file FILE with a ticket",
        )?;
        let ticket = Ticket::from_text(&home::secret(file)?)?;
        // Nobody thinks up a PIN for a ticket that is none.
        enrol::check(&ticket, edge::now())?;
        let pin = self.new_pin()?;
        let name = self.device_name();
        let enrolment = Enrolment::begin(&ticket, &name, &pin, edge::now(), &mut edge::rng())?;
        let profile = enrolment.through(home.proxies.clone()).send().await?;
        home.keep(&profile)?;
        Ok(profile)
    }

    /// Two words, a code and a reply; then as with a ticket.
    async fn by_words(&self, home: &Home, url: &str, tenant: &str) -> Result<Profile> {
        let (pin, name) = (self.new_pin()?, self.device_name());
        let tls_ca_pem = self.server_ca.as_deref().map(std::fs::read_to_string).transpose();
        let server = slot::Server {
            url: url.to_owned(),
            tls_ca_pem: tls_ca_pem.context("can't read the file given as --server-ca")?,
            proxies: home.proxies.clone(),
            tenant: tenant.to_owned(),
        };
        let mut tries = home.tries()?;
        let shown = slot::open(&server, &name, &mut tries).await;
        // A slot that the server did not open counts too: it may only say so.
        home.keep_tries(&tries)?;
        let shown = shown?;
        line!("The two words:  {}", shown.words());
        line!("Read them to your administrator, who runs 'gatepass device enrol'.");
        let asking = shown.typed().await?;
        let accepted = asking.code(&typed("The code that your administrator reads out")?).await?;
        line!("That is the code. Tell your administrator these digits:  {}", accepted.reply());
        let (ticketed, ticket) = accepted.ticket().await?;
        let enrolment = Enrolment::begin(&ticket, &name, &pin, edge::now(), &mut edge::rng())?;
        let system = rustix::system::uname();
        let introduction = Introduction {
            request: enrolment.request().clone(),
            model: concat!("gatepass-phone ", env!("CARGO_PKG_VERSION")).to_owned(),
            platform: format!("{} {}", system.sysname().to_string_lossy(), system.machine().to_string_lossy()),
        };
        let profile = enrolment.through(home.proxies.clone()).send().await?;
        home.keep(&profile)?;
        ticketed.introduce(&introduction).await?;
        Ok(profile)
    }

    fn device_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }

    fn new_pin(&self) -> Result<Zeroizing<String>> {
        let first = pin(self.pin_file.as_deref(), "Choose a PIN for approvals (6 characters or more)")?;
        check_pin(&first)?;
        if self.pin_file.is_none() && *pin(None, "The same PIN again")? != *first {
            bail!("the two PINs differ: run the command again");
        }
        Ok(first)
    }
}

/// Asks once. A server that is away for a while is asked again like one that has no answer yet.
async fn approved(profile: &mut Profile) -> Result<bool> {
    match enrol::ask(profile, edge::now()).await {
        Err(EnrolError::Http(error)) if error.may_pass() => {
            tracing::warn!(%error, "still waiting");
            Ok(false)
        }
        answer => Ok(answer?),
    }
}

pub(crate) async fn status(home: &Home) -> Result<ExitCode> {
    let mut profile = home.enrolled()?;
    if let Some(fingerprint) = profile.fingerprint() {
        line!("Waiting for the administrator's approval; fingerprint {}", fingerprint);
        return Ok(ExitCode::FAILURE);
    }
    let mut trust = profile.trust()?;
    let reached = enrol::refresh(&mut profile, &mut trust, edge::now()).await;
    home.remember(&trust)?;
    if reached.is_ok() {
        computers::fetch(home, &profile, &trust).await?;
    }
    let shown = show(&profile);
    match &reached {
        Ok(()) => line!("Control     {} answers", profile.url),
        Err(error) => line!("Control     {}", error),
    }
    shown?;
    let is_wrong = reached.is_ok() && witness::look(home, &profile).await?;
    Ok(if reached.is_ok() && !is_wrong { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(profile: &Profile) -> Result<()> {
    let now = edge::now();
    let trust = profile.trust()?;
    line!("Phone       {} ({})", profile.device_name, profile.device);
    line!("Tenant      {}", profile.tenant);
    let certificate = profile.certificate(&trust, now)?;
    let (terms, statement) = (certificate.terms(), certificate.statement());
    line!("Technician  {} ({})", terms.technician_name, terms.technician);
    let place = match terms.protection {
        KeyProtection::Software => "in software, behind the PIN",
        KeyProtection::Hardware => "in hardware",
    };
    line!("Approvals   signed by a key {}", place);
    line!("Certificate {}, valid until {}", statement.serial, when::date(statement.not_after));
    line!("Policy      epoch {}", trust.policy_epoch());
    line!("Revocation  epoch {}", trust.revocation_epoch());
    match trust.relays() {
        Some(list) => list.terms().relays.iter().for_each(|relay| line!("Relay {}     {}", relay.index, relay.url)),
        None => line!("Relays      none known yet: ask your administrator to sign a relay list"),
    }
    Ok(())
}
