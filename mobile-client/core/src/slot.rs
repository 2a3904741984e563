//! Enrolment by two words, as the phone: it shows them, an administrator types them, its person types a code and reads three
//! digits back; then it has a ticket, and goes on as with any other ([`crate::enrol`]).
//!
//! Whatever does not fit ends it at both ends. Nothing is kept before the ticket is there.

use gatepass_client::{
    Http, HttpError, Proxies, Slot, SlotError, Tls, TlsError,
    api::{NewSlot, SlotOpened},
    edge,
};
use gatepass_protocol::{
    enrol::Ticket,
    slot::{Ended, Introduction, TooMany, Tries, phone},
    words::Words,
};

/// Why a phone did not get its ticket.
#[derive(Debug, thiserror::Error)]
pub enum WordsError {
    /// The tag is none.
    #[error("the tenant's tag has 8 digits, 0 to 9 and a to f: 'gatepass device enrol' shows it to your administrator")]
    NotATag,
    /// Wait.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The other end is not the one it should be.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The server was not reached or the slot is over.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The server was not reached or refused.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Where a phone asks that knows nothing yet. None of it is secret, and a wrong server gets nothing.
pub struct Server {
    /// `https://host[:port]`.
    pub url: String,
    /// The certificate to expect there, where no public CA vouches for it.
    pub tls_ca_pem: Option<String>,
    /// How to go out.
    pub proxies: Proxies,
    /// The tenant's tag: 8 hexadecimal digits.
    pub tenant: String,
}

/// Shows two words.
pub struct Shown {
    slot: Slot,
    state: phone::Opened,
    words: Words,
}

/// Asks its person for the code.
pub struct Asking {
    slot: Slot,
    state: phone::Asking,
}

/// Shows three digits.
pub struct Accepted {
    slot: Slot,
    state: phone::Accepted,
}

/// Has the ticket.
pub struct Ticketed {
    slot: Slot,
    state: phone::Ticketed,
}

/// Opens a slot. `tries` is what this phone has counted; whoever keeps it keeps it before anything else.
pub async fn open(server: &Server, device_name: &str, tries: &mut Tries) -> Result<Shown, WordsError> {
    let tag = tag(&server.tenant).ok_or(WordsError::NotATag)?;
    tries.count(edge::now())?;
    let words = Words::random(&mut edge::rng());
    let (state, hello) = phone::Opened::new(&words, tag, &mut edge::rng());
    let tls = Tls::from_pem(server.tls_ca_pem.as_deref())?;
    let http = Http::new(&server.url, tls, server.proxies.clone())?;
    let new = NewSlot { tenant: server.tenant.clone(), name: device_name.to_owned(), message: hello.into() };
    let opened: SlotOpened = http.post_json("/api/v1/enrol/slots", &new).await?;
    Ok(Shown { slot: Slot::of_phone(http, opened.slot), state, words })
}

impl Shown {
    /// What to show, and to read out.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Waits for the administrator who types them.
    pub async fn typed(self) -> Result<Asking, WordsError> {
        let Self { slot, state, .. } = self;
        let answer = slot.hear(2).await?;
        let (state, commit) = or_close(&slot, state.answered(&answer, &mut edge::rng())).await?;
        slot.say(3, commit).await?;
        let nonce = slot.hear(4).await?;
        let (state, reveal) = or_close(&slot, state.told(&nonce)).await?;
        slot.say(5, reveal).await?;
        Ok(Asking { slot, state })
    }
}

impl Asking {
    /// Takes the code that the administrator reads out. There is one try.
    pub async fn code(self, typed: &str) -> Result<Accepted, WordsError> {
        let state = or_close(&self.slot, self.state.typed(typed)).await?;
        Ok(Accepted { slot: self.slot, state })
    }
}

impl Accepted {
    /// What to show, and to read back.
    pub fn reply(&self) -> &str {
        self.state.reply()
    }

    /// Waits for the ticket.
    pub async fn ticket(self) -> Result<(Ticketed, Ticket), WordsError> {
        let sealed = self.slot.hear(6).await?;
        let (state, ticket) = or_close(&self.slot, self.state.ticket(&sealed)).await?;
        Ok((Ticketed { slot: self.slot, state }, ticket))
    }
}

impl Ticketed {
    /// Shows the administrator the request that was sent with the ticket, and what this phone is.
    pub async fn introduce(self, introduction: &Introduction) -> Result<(), WordsError> {
        Ok(self.slot.say(7, self.state.introduce(introduction)).await?)
    }
}

/// A wrong message burns the words: the other end hears of it at once.
async fn or_close<T>(slot: &Slot, outcome: Result<T, Ended>) -> Result<T, Ended> {
    if outcome.is_err() {
        slot.close().await;
    }
    outcome
}

fn tag(text: &str) -> Option<[u8; 4]> {
    let is_hex = text.len() == 8 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| is_hex).map(u32::to_be_bytes)
}
