//! Enrolment tickets: signed here, handed over as a file. The server gets the statement, to count its uses; the secret that
//! goes with it is in the file only.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use gatepass_client::edge;
use gatepass_control::api;
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::statement::{Purpose, TicketTerms};

use crate::session::Session;
use crate::{ca, files, say, show};

/// Make and list enrolment tickets for computers and phones
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a ticket, signed by the CA key, and write it to a file (mode 0600)
    ///
    /// A ticket for agents enrols a computer by itself. A ticket for phones lets a phone ask; you approve it with
    /// 'gatepass device approve'. Whoever has the file can use it, so hand it over like a password.
    New(New),
    /// List tickets and how often they were used
    List,
}

#[derive(Clone, Copy, ValueEnum)]
enum For {
    Agent,
    Phone,
}

#[derive(Args)]
pub(crate) struct New {
    /// What the ticket enrols
    #[arg(long = "for", value_name = "WHAT")]
    purpose: For,
    /// How often it may be used
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    uses: u32,
    /// For how many hours it may be used
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=8760))]
    hours: u64,
    /// A tag that its computers get, for the policy to name them by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// For how many days the computers that it enrols stay enrolled
    #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// Where to write the ticket [default: agent.ticket or phone.ticket]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The address that agents and phones know the server by, where it isn't the profile's
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    unlock: ca::Unlock,
}

pub(crate) async fn run(command: Command, profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    match command {
        Command::New(new) => make(&session, new).await,
        Command::List => list(&session).await,
    }
}

async fn make(session: &Session, new: New) -> Result<()> {
    let (purpose, default_out) = match new.purpose {
        For::Agent => (Purpose::Agent, "agent.ticket"),
        For::Phone => (Purpose::Phone, "phone.ticket"),
    };
    let out = new.out.unwrap_or_else(|| PathBuf::from(default_out));
    let trust = session.trust().await?;
    let ca = new.unlock.open(session)?;
    let key = SigningKey::generate(&mut edge::rng());
    let draft = session.draft(&trust, &key, new.hours * 3600);
    let (serial, now) = (draft.serial, draft.not_before);
    let terms = TicketTerms { purpose, uses: new.uses, tags: new.tags, certificates_until: now + new.days * 86_400 };
    let statement = draft.sign(&terms, &ca)?;
    let ticket = session.ticket(&statement, &key, new.url)?;
    // The file first: a ticket that the server knows and nobody holds would only be clutter.
    files::write_secret(&out, &format!("{}\n", *zeroize::Zeroizing::new(ticket.to_text())))?;
    if let Err(error) = session.submit(&statement).await {
        let _ = std::fs::remove_file(&out);
        return Err(error);
    }
    say(&format!(
        "ticket {serial}: {} {}, until {}\n  {}  keep it secret, and delete it after use",
        new.uses,
        if new.uses == 1 { "use" } else { "uses" },
        show::time(now + new.hours * 3600),
        out.display()
    ))
}

async fn list(session: &Session) -> Result<()> {
    let tickets: Vec<api::Ticket> = session.list("/tickets").await?;
    let row = |ticket: &api::Ticket| {
        let used = format!("{} of {}", ticket.used, ticket.uses);
        vec![
            ticket.serial.to_string(),
            ticket.purpose.clone(),
            used,
            show::time(ticket.not_after),
            ticket.tags.join(" "),
        ]
    };
    show::list(&["TICKET", "FOR", "USED", "UNTIL", "TAGS"], &tickets, row)
}
