//! `grants`, `end` and `receipts`: orders to the computers that this phone knows.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use clap::Args;
use gatepass_client::{Connection, edge};
use gatepass_mobile::{
    book::Computer,
    orders::{self, OrderError, Reported},
    profile::{Profile, ProfileError},
};
use gatepass_protocol::{
    ids::GrantId, order::GrantView, pairing::phone::DeviceIdentity, policy::AccountKind, trust::TrustStore,
};

use crate::{home::Home, scan::identity, terminal::line, when};

#[derive(Args)]
pub(crate) struct End {
    /// The grant, or the beginning of its name
    grant: String,
}

/// Everything that orders need.
struct Desk<'a> {
    home: &'a Home,
    profile: Profile,
    identity: DeviceIdentity,
    trust: TrustStore,
    /// One connection for each relay that the computers were met at.
    connections: BTreeMap<u16, Connection>,
}

impl<'a> Desk<'a> {
    fn open(home: &'a Home) -> Result<Self> {
        let profile = home.enrolled()?;
        let trust = profile.trust()?;
        let identity = identity(&profile)?;
        Ok(Self { home, profile, identity, trust, connections: BTreeMap::new() })
    }

    /// One order; its receipts are in the book afterwards. A computer that is not at the relay where it was met may have fled
    /// to another, or its relay may be gone: all are asked.
    async fn order(&mut self, computer: &Computer, end: Option<GrantId>) -> Result<Reported> {
        let listed = self.trust.relays().map(|list| list.terms().relays.as_slice()).unwrap_or_default();
        let others: Vec<u16> =
            listed.iter().map(|entry| entry.index).filter(|index| *index != computer.relay).collect();
        let mut failed = None;
        for relay in std::iter::once(computer.relay).chain(others) {
            match self.order_at(relay, computer, end).await {
                Ok(reported) => {
                    self.book(computer, relay, &reported)?;
                    return Ok(reported);
                }
                Err(error) => {
                    let elsewhere =
                        matches!(error.downcast_ref(), Some(OrderError::Away { .. } | OrderError::NotConnected(_)))
                            || matches!(error.downcast_ref(), Some(ProfileError::NoRelay));
                    // That it is at none of them is said as of the one where it was met.
                    let error = failed.get_or_insert(error);
                    if !elsewhere {
                        tracing::debug!(%error, relay, "not asked elsewhere");
                        break;
                    }
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Err(ProfileError::NoRelay.into()),
        }
    }

    async fn order_at(&mut self, relay: u16, computer: &Computer, end: Option<GrantId>) -> Result<Reported> {
        if !self.connections.contains_key(&relay) {
            let connection = Connection::start(self.profile.settings(&self.trust, Some(relay))?);
            orders::listen(&connection, &self.identity, &self.trust).await?;
            self.connections.insert(relay, connection);
        }
        let Some(connection) = self.connections.get_mut(&relay) else { unreachable!("inserted above") };
        Ok(orders::order(connection, &self.identity, &mut self.trust, computer, end).await?)
    }

    /// Writes down what a computer reported, and where it was found.
    fn book(&self, computer: &Computer, relay: u16, reported: &Reported) -> Result<()> {
        let live: Vec<GrantId> = reported.report.grants.iter().map(|view| view.grant).collect();
        self.home.change_book(|book| {
            book.only_live(reported.computer, &live);
            // They come newest first and are kept oldest first.
            for receipt in reported.report.receipts.iter().rev() {
                if let Err(code) = book.keep(&reported.chain, receipt, &self.trust, self.identity.terms().technician) {
                    tracing::warn!(%code, "a receipt does not hold");
                }
            }
            if relay != computer.relay {
                let mut moved = computer.clone();
                moved.relay = relay;
                book.met(moved);
            }
        })
    }

    async fn close(self) -> Result<()> {
        for connection in self.connections.into_values() {
            connection.close().await;
        }
        self.home.remember(&self.trust)
    }
}

pub(crate) async fn list(home: &Home) -> Result<ExitCode> {
    let mut desk = Desk::open(home)?;
    let mut none = true;
    for computer in home.book()?.computers() {
        match desk.order(computer, None).await {
            Ok(reported) => {
                none &= reported.report.grants.is_empty();
                reported.report.grants.iter().for_each(|view| show(computer, view));
            }
            Err(error) => {
                none = false;
                line!("{}: {}", computer.name, error);
            }
        }
    }
    if none {
        line!("No live grants.");
    }
    desk.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn show(computer: &Computer, view: &GrantView) {
    let groups = if view.groups.is_empty() { String::new() } else { format!(" in {}", view.groups.join(", ")) };
    let left = when::span(view.until.saturating_sub(edge::now()));
    line!(
        "{}  {}  {}{} ({}), until {} ({} left), {} {}",
        view.grant,
        computer.name,
        view.account,
        groups,
        view.scenario.name(),
        when::clock(view.until),
        left,
        view.sessions,
        if view.sessions == 1 { "session" } else { "sessions" }
    );
}

impl End {
    pub(crate) async fn run(self, home: &Home) -> Result<ExitCode> {
        let mut desk = Desk::open(home)?;
        let (grant, computer) = desk.find(&self.grant).await?;
        let reported = desk.order(&computer, Some(grant)).await;
        desk.close().await?;
        let live = reported?.report.grants.iter().any(|view| view.grant == grant);
        if live {
            line!(
                "{} is not over yet: the computer is still ending it. Look again with 'gatepass-phone grants'.",
                grant
            );
            return Ok(ExitCode::FAILURE);
        }
        line!("Ended {} on {}.", grant, computer.name);
        let profile = home.enrolled()?;
        let trust = profile.trust()?;
        home.book()?
            .receipts(&trust)
            .into_iter()
            .filter(|(of, _)| *of == grant)
            .for_each(|(of, receipt)| show_receipt(home, of, receipt));
        Ok(ExitCode::SUCCESS)
    }
}

impl Desk<'_> {
    /// The grant that is meant and its computer; one that another phone approved is asked for.
    async fn find(&mut self, beginning: &str) -> Result<(GrantId, Computer)> {
        let book = self.home.book()?;
        let known = book.find(beginning).map(|granted| (granted.grant, granted.computer));
        if let Ok((grant, at)) = known
            && let Some(computer) = book.computer(at)
        {
            return Ok((grant, computer.clone()));
        }
        let wanted = beginning.trim().to_ascii_lowercase();
        for computer in book.computers() {
            let Ok(reported) = self.order(computer, None).await else { continue };
            let found = reported
                .report
                .grants
                .iter()
                .find(|view| !wanted.is_empty() && view.grant.to_string().starts_with(&wanted));
            if let Some(view) = found {
                return Ok((view.grant, computer.clone()));
            }
        }
        Err(known.err().unwrap_or(gatepass_mobile::book::NoGrant::Unknown).into())
    }
}

pub(crate) async fn receipts(home: &Home) -> Result<ExitCode> {
    let mut desk = Desk::open(home)?;
    for computer in home.book()?.computers() {
        // What a computer that is away has signed is fetched next time.
        if let Err(error) = desk.order(computer, None).await
            && !error.downcast_ref::<OrderError>().is_some_and(|error| matches!(error, OrderError::Away { .. }))
        {
            line!("{}: {}", computer.name, error);
        }
    }
    let receipts = home.book()?.receipts(&desk.trust);
    desk.close().await?;
    if receipts.is_empty() {
        line!("No receipts yet.");
    }
    receipts.into_iter().for_each(|(grant, receipt)| show_receipt(home, grant, receipt));
    Ok(ExitCode::SUCCESS)
}

fn show_receipt(
    home: &Home,
    grant: GrantId,
    receipt: Result<gatepass_protocol::order::Receipt, gatepass_protocol::Code>,
) {
    let receipt = match receipt {
        Ok(receipt) => receipt,
        Err(code) => return line!("Receipt {}: does not hold any more ({})", grant, code.message()),
    };
    let name = home.book().ok().and_then(|book| book.computer(receipt.computer).map(|computer| computer.name.clone()));
    let groups = if receipt.groups.is_empty() { String::from("no group") } else { receipt.groups.join(", ") };
    line!("Receipt {}", grant);
    line!("  computer   {} ({})", name.unwrap_or_default(), receipt.computer);
    line!("  account    {} ({}), {}", receipt.account, receipt.scenario.name(), groups);
    line!("  from       {}", when::date(receipt.since));
    line!(
        "  to         {}, after {}",
        when::date(receipt.ended),
        when::span(receipt.ended.saturating_sub(receipt.since))
    );
    line!("  ended      {}", receipt.reason.name());
    let verified = receipt.verified;
    let mut checks = vec![
        ("account off", verified.disabled),
        ("groups stripped", verified.groups_stripped),
        ("password rotated", verified.password_rotated),
    ];
    // For one command or session nothing was made that could be left: the asking user's account is that user's own.
    checks.retain(|_| receipt.kind != AccountKind::Own);
    checks.push(("sessions ended", verified.sessions_ended));
    let word = |done| if done { "yes" } else { "NO" };
    let checks: Vec<String> = checks.iter().map(|(what, done)| format!("{what}: {}", word(*done))).collect();
    line!("  verified   {}", checks.join(", "));
    line!("  signature  holds");
}
