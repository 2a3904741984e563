//! `gatepass-agent enrol`: keys, certificate and trust out of a ticket.
//!
//! The computer makes its own keys and signs its own certificate with the ticket's key; the control plane only counts the
//! ticket's uses. What it answers is believed as far as it is signed by the CA keys that the ticket names, and no further.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use gatepass_client::api::{Base64, EnrolAgent, Statements, Welcome};
use gatepass_client::{Http, Tls, edge};
use gatepass_protocol::enrol::Ticket;
use gatepass_protocol::ids::{ComputerId, Serial};
use gatepass_protocol::keys::{ChannelKey, OtpKey, Signer as _, SigningKey};
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::{AgentTerms, CertifiedKey, Draft, KeyUse, Purpose, Statement, TicketTerms};
use gatepass_protocol::trust::{CaPublic, Certified, TrustStore};
use gatepass_protocol::wire;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::identity::{self, Stored, private_folder, replace_file};
use crate::run::{host_name, os_name};
use crate::trust;

/// Enrols this computer.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) async fn run(config: &Config, ticket_file: &Path, again: bool) -> anyhow::Result<ExitCode> {
    private_folder(&config.state).with_context(|| format!("the state folder {}", config.state.display()))?;
    let identity_file = identity::path(&config.state);
    if identity_file.exists() && !again {
        bail!(
            "this computer is enrolled already; --again replaces its keys (a running agent has to be restarted then)"
        );
    }
    let ticket = read_ticket(ticket_file)?;
    let tls_ca_pem = match config.relay.ca_file.as_str() {
        "" => ticket.tls_ca_pem.clone(),
        file => Some(fs::read_to_string(file).with_context(|| file.to_owned())?),
    };
    let tls = Tls::from_pem(tls_ca_pem.as_deref())?;
    let now = edge::now();
    let (trust, certified) = judge(&ticket, now)?;

    let (sign, channel) = (SigningKey::generate(&mut edge::rng()), ChannelKey::generate(&mut edge::rng()));
    let otp = OtpKey::generate(&mut edge::rng());
    let computer = ComputerId::random(&mut edge::rng());
    let (host, domain) = names(config);
    let keys = vec![
        CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
        CertifiedKey { key_use: KeyUse::Channel, key: channel.public_key() },
        CertifiedKey { key_use: KeyUse::Otp, key: otp.public_key() },
    ];
    let certificate = certificate(&ticket, &certified, computer, keys, host.clone(), domain, now)?;
    let chain = vec![certificate.clone(), ticket.statement.clone()];
    // What the control plane, the relay and each phone will check.
    trust.agent(&chain, now).map_err(|code| anyhow::anyhow!("the ticket does not give a valid certificate: {code}"))?;

    let question = EnrolAgent { ticket: Base64(ticket.statement.clone()), certificate: Base64(certificate) };
    let http = Http::new(&ticket.url, tls, config.relay.proxies()?)?;
    let welcome: Welcome = http.post_json("/api/v1/enrol/agent", &question).await?;
    keep(config, &ticket, trust, &welcome.statements, now)?;
    let stored = Stored {
        version: identity::VERSION,
        tenant: certified.statement().tenant,
        computer,
        sign: *sign.seed(),
        channel: *channel.to_bytes(),
        chain,
        cas: ticket.cas.clone(),
        url: ticket.url.clone(),
        tls_ca_pem: ticket.tls_ca_pem.clone(),
        otp: Some(*otp.to_bytes()),
    };
    // Last: with it the computer is enrolled.
    replace_file(&identity_file, &Zeroizing::new(wire::to_vec(&stored)))
        .with_context(|| identity_file.display().to_string())?;
    println!("Enrolled {host} as computer {computer}.");
    println!("Next: systemctl enable --now gatepass-agent, then gatepass-agent doctor");
    Ok(ExitCode::SUCCESS)
}

fn read_ticket(file: &Path) -> anyhow::Result<Ticket> {
    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "{} may be read by others (mode {:o}): chmod 600 it. Who has read it can enrol computers",
            file.display(),
            metadata.mode() & 0o777
        );
    }
    let text = Zeroizing::new(fs::read_to_string(file).with_context(|| file.display().to_string())?);
    Ok(Ticket::from_text(&text)?)
}

/// Whether the ticket is what it says, by the CA keys that came with it.
fn judge(ticket: &Ticket, now: u64) -> anyhow::Result<(TrustStore, Certified<TicketTerms>)> {
    let claimed = Unverified::<Statement>::decode(ticket.statement.clone()).context("the ticket")?;
    let tenant = claimed.claimed().tenant;
    let cas: Vec<CaPublic> = ticket.cas.iter().map(|pem| CaPublic::from_pem(pem)).collect::<Result<_, _>>()?;
    let trust = TrustStore::new(tenant, cas);
    let certified = trust.ticket(&ticket.statement, now).map_err(|code| match code {
        gatepass_protocol::Code::Certificate => {
            anyhow::anyhow!("the ticket is not valid, or not any more: ask your administrator for a new one")
        }
        code => anyhow::anyhow!("the ticket: {code}"),
    })?;
    if certified.terms().purpose != Purpose::Agent {
        bail!("this ticket is for phones; ask your administrator for one for computers");
    }
    Ok((trust, certified))
}

fn certificate(
    ticket: &Ticket,
    certified: &Certified<TicketTerms>,
    computer: ComputerId,
    keys: Vec<CertifiedKey>,
    host: String,
    domain: String,
    now: u64,
) -> anyhow::Result<Bytes> {
    let terms = AgentTerms {
        computer: host,
        domain,
        os: os_name(Path::new("/etc/os-release")),
        tags: certified.terms().tags.clone(),
    };
    let draft = Draft {
        serial: Serial::random(&mut edge::rng()),
        tenant: certified.statement().tenant,
        subject: computer.0,
        keys,
        not_before: now,
        not_after: certified.terms().certificates_until,
        epoch: certified.statement().epoch,
    };
    let signed = draft.sign(&terms, &ticket.key())?;
    Ok(signed.bytes().clone())
}

/// Keeps the lists that the control plane gave, as far as they are signed.
fn keep(config: &Config, ticket: &Ticket, mut trust: TrustStore, lists: &Statements, now: u64) -> anyhow::Result<()> {
    for (kind, verdict) in lists.accept_into(&mut trust, now) {
        if let Err(code) = verdict {
            bail!(
                "{} sent a {kind:?} list that the tenant's CA did not sign, or that is out of date: {code}",
                ticket.url
            );
        }
    }
    let file = trust::path(&config.state);
    replace_file(&file, &serde_json::to_vec(&Statements::of(&trust))?).with_context(|| file.display().to_string())
}

/// The host's name and its domain, if it has one.
fn names(config: &Config) -> (String, String) {
    let name = if config.computer_name.is_empty() { host_name() } else { config.computer_name.clone() };
    match name.split_once('.') {
        Some((host, domain)) if config.computer_name.is_empty() => (host.to_owned(), domain.to_owned()),
        _ => (name, String::new()),
    }
}
