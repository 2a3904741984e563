//! `device enrol`: a phone shows two words, the administrator types them, reads out a code and types three digits that come
//! back. Then the phone is known, sends its keys, and gets a certificate. What the server carries meanwhile is believed as
//! little as ever: see [`gatepass_protocol::slot`].

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use gatepass_client::edge;
use gatepass_control::api::{self, PendingDevice};
use gatepass_protocol::enrol::Ticket;
use gatepass_protocol::keys::SigningKey;
use gatepass_protocol::qr::tenant_tag;
use gatepass_protocol::slot::administrator::Answering;
use gatepass_protocol::slot::{Ended, OPEN_FOR};
use gatepass_protocol::statement::{Purpose, TicketTerms};
use gatepass_protocol::trust::TrustStore;
use gatepass_protocol::words::{NotWords, Words};

use crate::device::{Certify, protection_in_words};
use crate::session::Session;
use crate::{ca, say, show};

/// How often it is looked for phones that show words.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Enrol {
    /// Whose phone it is [default: asked, once the phone is known]
    #[arg(long, value_name = "NAME")]
    technician: Option<String>,
    /// Which of several phones that wait: the name that it shows
    #[arg(long, value_name = "NAME")]
    phone: Option<String>,
    /// For how many days the phone stays enrolled
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// The address that phones know the server by, where it isn't the profile's
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    unlock: ca::Unlock,
}

impl Enrol {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let trust = session.trust().await?;
        if let Some(name) = &self.technician {
            session.technician(name).await?;
        }
        let ca = self.unlock.open(session)?;
        let url = self.url.clone().unwrap_or_else(|| session.profile.url.clone());
        let tag = tenant_tag(session.tenant);
        // A certificate of its own making is no secret, and the words hold without it; but the phone has to reach the server.
        let server_ca = if session.profile.server_ca.is_some() { " --server-ca FILE" } else { "" };
        say(&format!("On the phone:  gatepass-phone enrol --server {url} --tenant {}{server_ca}", api::hex(&tag)))?;
        let slot = self.waiting(session).await?;
        say(&format!("\"{}\" shows two words.", show::clean(&slot.name)))?;
        let words = ask_words()?;
        // Before anything is tried: whoever ends this program in time gets no further try for it.
        session.count_try()?;
        let way = session.slot(slot.id);
        let ticket = self.ticket(session, &trust, &ca, url)?;
        let known = self.exchange(&way, &words, tag, &ticket).await;
        if known.is_err() {
            way.close().await;
        }
        let (request, introduction) = known?;
        let pending = self.pending(session, request.bytes()).await?;
        let body = request.body();
        say(&format!(
            "phone:        {}\nmodel:        {}, {}\nits key:      {}",
            show::clean(&body.device_name),
            show::clean(&introduction.model),
            show::clean(&introduction.platform),
            protection_in_words(body.protection),
        ))?;
        let signed = self.sign(session, &trust, &ca, &pending, body).await;
        if signed.is_err() {
            // Nobody else is to approve it later by a fingerprint that nobody compared.
            let refuse = format!("/devices/pending/{}/refuse", pending.request);
            let _: Result<PendingDevice> = session.post(&refuse, &()).await;
        }
        way.close().await;
        signed
    }

    /// A phone that shows words; waits until there is one.
    async fn waiting(&self, session: &Session) -> Result<api::Slot> {
        let until = tokio::time::Instant::now() + Duration::from_secs(OPEN_FOR);
        loop {
            let mut waiting: Vec<api::Slot> = session.list("/slots").await?;
            if let Some(name) = &self.phone {
                waiting.retain(|slot| slot.name == *name);
            }
            match &waiting[..] {
                [one] => return Ok(one.clone()),
                [] if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK).await,
                [] => bail!("no phone has shown words for ten minutes; run this again when one does"),
                several => {
                    let names: Vec<String> = several.iter().map(|slot| show::clean(&slot.name)).collect();
                    bail!("several phones show words ({}); say which with --phone NAME", names.join(", "));
                }
            }
        }
    }

    /// A ticket for this one phone, and for as long as the slot is open.
    fn ticket(&self, session: &Session, trust: &TrustStore, ca: &SigningKey, url: String) -> Result<Ticket> {
        let key = SigningKey::generate(&mut edge::rng());
        let draft = session.draft(trust, &key, OPEN_FOR);
        let certificates_until = draft.not_before;
        let terms = TicketTerms { purpose: Purpose::Phone, uses: 1, tags: Vec::new(), certificates_until };
        session.ticket(&draft.sign(&terms, ca)?, &key, Some(url))
    }

    async fn exchange(
        &self,
        way: &gatepass_client::Slot,
        words: &Words,
        tag: [u8; 4],
        ticket: &Ticket,
    ) -> Result<(
        gatepass_protocol::signed::Signed<gatepass_protocol::enrol::DeviceRequest>,
        gatepass_protocol::slot::Introduction,
    )> {
        let (state, answer) = Answering::new(words, tag, &way.hear(1).await?, &mut edge::rng())?;
        way.say(2, answer).await?;
        let commit = way.hear(3).await.context("the phone did not take the words")?;
        let (state, nonce) = state.promised(&commit, &mut edge::rng())?;
        way.say(4, nonce).await?;
        let state = state.revealed(&way.hear(5).await?)?;
        let (first, last) = state.code().split_at(3);
        say(&format!("Read this code to the technician, who types it on the phone:  {first} {last}"))?;
        let reply = crate::ask("Type the three digits that the phone answers: ")?;
        let (state, sealed) = match state.replied(&reply, ticket) {
            Err(Ended::Code) => bail!(
                "those are not the digits: a slip of the finger, or somebody stands between; nothing was sent or signed, start \
                 anew with new words"
            ),
            other => other?,
        };
        way.say(6, sealed).await?;
        Ok(state.introduced(&way.hear(7).await?, ticket)?)
    }

    /// What the server knows of the request that came through the slot: the very same bytes.
    async fn pending(&self, session: &Session, request: &[u8]) -> Result<PendingDevice> {
        let waiting: Vec<PendingDevice> = session.list("/devices/pending").await?;
        let found = waiting.into_iter().find(|pending| pending.enrol.0 == request);
        found.context("the server does not show the phone's request, which the phone has sent; nothing was signed")
    }

    async fn sign(
        &self,
        session: &Session,
        trust: &TrustStore,
        ca: &SigningKey,
        pending: &PendingDevice,
        body: &gatepass_protocol::enrol::DeviceRequest,
    ) -> Result<()> {
        let name = match &self.technician {
            Some(name) => name.clone(),
            None => crate::ask("Whose phone is it? The technician's name: ")?,
        };
        let technician = session.technician(&name).await?;
        Certify { session, trust, technician: &technician, days: self.days }.sign(ca, pending, body).await
    }
}

/// The two words. A word that is none was misheard, and costs nothing.
fn ask_words() -> Result<Words> {
    loop {
        let typed = crate::ask("Type them: ")?;
        match typed.parse() {
            Ok(words) => return Ok(words),
            Err(NotWords::NotTwo) if typed.is_empty() => bail!("no words were typed; nothing was tried"),
            Err(wrong) => say(&wrong.to_string())?,
        }
    }
}
