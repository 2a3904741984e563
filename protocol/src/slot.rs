//! Enrolment of a phone by two words: the phone shows them, the administrator types them, and a control plane that may lie
//! carries seven messages between the two.
//!
//! ```text
//! phone                                                     administrator, CA unlocked
//!   words = two of the list, shown
//!   1  Hello  {version, sid, Ya}              ------------>   types the words
//!                                             <------------   2  Answer {Yb, Tb}        CPace, and its key confirmation
//!   wrong Tb: the words are burnt
//!   3  Commit {Ta, SHA-256(Np)}               ------------>   wrong Ta: ends
//!                                             <------------   4  Nonce  {Na}
//!   5  Reveal {Np}                            ------------>   reads out the six digits
//!   the technician types them; wrong: ends
//!   shows three digits, to be read back                       types them; wrong: ends
//!                                             <------------   6  sealed: a ticket for this phone alone, with the CA keys
//!   7  sealed: its request, what it is        ------------>   sees it, picks the technician, signs the certificate
//! ```
//!
//! Two words are 16 bits. CPace gives whoever stands between one guess a slot, which shows; nobody can try in private. Whoever
//! guesses right (1 in 65,536, at most ten times a day) has two different keys with the two ends, and so two different codes, of
//! which neither can be steered: the phone is bound to `Np` before it hears `Na`, and the administrator's end tells `Na`
//! before it hears `Np`. Only then do keys travel. The three digits that are read back are there for the administrator, whose
//! program would otherwise not know that the technician typed anything.
//!
//! Each state is a type and is used up by its message, whatever came: after a wrong one there is nothing left to try again with.

use bytes::Bytes;
use hkdf::Hkdf;
use hmac::Mac;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    cpace::{Isk, Run, lv_cat},
    enrol::{DeviceRequest, Ticket},
    noise::CipherState,
    signed::{Signed, Unverified},
    wire,
    words::Words,
};

/// The version of this exchange.
pub const VERSION: u8 = 1;

/// How long a slot stays open, in seconds.
pub const OPEN_FOR: u64 = 10 * 60;

/// How many slots a tenant may open in [`OPEN_FOR`]. Each is a chance for whoever guesses words, so both ends count too.
pub const MOST_AT_ONCE: u64 = 3;

/// And in a day.
pub const MOST_A_DAY: u64 = 10;

/// The seconds of a day.
pub const DAY: u64 = 86_400;

/// The largest message: a ticket with several CA keys and a server's certificate.
pub const LARGEST: usize = 16 * 1024;

/// What the two ends are called in CPace: so that no message of one passes for the other's.
const PHONE: &[u8] = b"phone";
const ADMINISTRATOR: &[u8] = b"administrator";

const CODE_DIGITS: usize = 6;
const REPLY_DIGITS: usize = 3;

/// Why an exchange ended. There is no way back into it: open a new slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Not what this end expects here: another version, or a carrier that changes things.
    #[error(
        "what came is not a message of this exchange: somebody changed it on the way, or one program is older; start anew with new words"
    )]
    Malformed,
    /// The ends don't share the words.
    #[error(
        "the words typed there are not the ones shown here, or somebody stands between; these words are burnt: start anew with new ones"
    )]
    Words,
    /// What was revealed is not what was promised.
    #[error(
        "the other end changed its mind about a number that it had promised: somebody stands between; start anew, and tell your operator if it happens again"
    )]
    Promise,
    /// The person typed another code.
    #[error(
        "that is not the code: a slip of the finger, or somebody stands between; nothing was enrolled, start anew with new words"
    )]
    Code,
    /// What was sealed does not open, or is not what belongs here.
    #[error(
        "what came is not from the other end: somebody stands between; nothing was enrolled, start anew with new words"
    )]
    Forged,
}

/// How often slots were opened: both ends keep it, and neither goes on where a lying server lets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tries(Vec<u64>);

/// Wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} enrolments by words were begun {}, which is all that is allowed: wait {} minutes, or use a ticket ('gatepass ticket new --for phone')", .most, if *.most == MOST_AT_ONCE { "within ten minutes" } else { "within a day" }, .wait.div_ceil(60))]
pub struct TooMany {
    /// How many are allowed.
    pub most: u64,
    /// For how many seconds no more.
    pub wait: u64,
}

impl Tries {
    /// What somebody else counted, by its times.
    pub fn of(times: Vec<u64>) -> Self {
        Self(times)
    }

    /// Counts one more at this time, in Unix seconds, if it is allowed.
    pub fn count(&mut self, now: u64) -> Result<(), TooMany> {
        // A clock that was put back does not make room.
        self.0.retain(|at| at.saturating_add(DAY) > now);
        for (most, span) in [(MOST_A_DAY, DAY), (MOST_AT_ONCE, OPEN_FOR)] {
            let mut within: Vec<u64> = self.0.iter().copied().filter(|at| at.saturating_add(span) > now).collect();
            within.sort_unstable_by(|one, other| other.cmp(one));
            if let Some(oldest) = usize::try_from(most - 1).ok().and_then(|last| within.get(last)) {
                return Err(TooMany { most, wait: oldest.saturating_add(span) - now });
            }
        }
        self.0.push(now);
        Ok(())
    }
}

/// 1, from the phone, at the opening of the slot.
#[derive(Serialize, Deserialize)]
struct Hello {
    version: u8,
    #[serde(with = "serde_bytes")]
    sid: [u8; 16],
    #[serde(with = "serde_bytes")]
    share: [u8; 32],
}

/// 2, from the administrator.
#[derive(Serialize, Deserialize)]
struct Answer {
    #[serde(with = "serde_bytes")]
    share: [u8; 32],
    #[serde(with = "serde_bytes")]
    tag: [u8; 64],
}

/// 3, from the phone.
#[derive(Serialize, Deserialize)]
struct Commit {
    #[serde(with = "serde_bytes")]
    tag: [u8; 64],
    #[serde(with = "serde_bytes")]
    commitment: [u8; 32],
}

/// 4 and 5.
#[derive(Serialize, Deserialize)]
struct Nonce(#[serde(with = "serde_bytes")] [u8; 32]);

/// 7, from the phone: what an administrator sees before signing. All but the keys is the phone's own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The request as in an enrolment by ticket, signed by the ticket's key.
    pub request: Bytes,
    /// What it is: "Pixel 9", "gatepass-phone".
    pub model: String,
    /// What runs on it: "Android 16", "Linux".
    pub platform: String,
}

/// What both ends derive once both nonces are known.
#[derive(ZeroizeOnDrop)]
struct Secrets {
    code: String,
    reply: String,
    down: [u8; 32],
    up: [u8; 32],
}

impl Secrets {
    fn derive(isk: &Isk, phone: &[u8; 32], administrator: &[u8; 32]) -> Self {
        let input = Zeroizing::new([&isk.key()[..], phone, administrator].concat());
        let prk = Hkdf::<Sha256>::new(Some(b"gp1 slot"), &input);
        let expand = |info: &[u8]| {
            let mut out = [0; 32];
            // 32 bytes are one block of the 255 that HKDF gives.
            let _ = prk.expand(info, &mut out);
            out
        };
        let digits = |info: &[u8], digits: usize| {
            let mut bytes = Zeroizing::new(expand(info));
            let number =
                u64::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
            bytes.zeroize();
            // 64 bits to a million: no digit is likelier than another by more than 2^-44.
            format!("{:0digits$}", number % 10_u64.pow(digits as u32))
        };
        Self {
            code: digits(b"code", CODE_DIGITS),
            reply: digits(b"reply", REPLY_DIGITS),
            down: expand(b"down"),
            up: expand(b"up"),
        }
    }

    fn open(key: [u8; 32], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Ended> {
        CipherState::new(key).decrypt(&[], sealed).map_err(|_| Ended::Forged)
    }

    fn seal(key: [u8; 32], message: &[u8]) -> Vec<u8> {
        // One message a key: the counter of a new cipher is not used up.
        CipherState::new(key).encrypt(&[], message).unwrap_or_default()
    }
}

/// Whether a person typed these digits; spaces and hyphens between them are how people write them.
fn typed_is(typed: &str, digits: &str) -> bool {
    let typed: Zeroizing<String> = Zeroizing::new(typed.chars().filter(|c| !c.is_whitespace() && *c != '-').collect());
    typed.as_bytes().ct_eq(digits.as_bytes()).into()
}

fn channel_identifier(tenant_tag: [u8; 4]) -> Vec<u8> {
    lv_cat(&[b"gp1 slot", &tenant_tag])
}

fn commitment(nonce: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(b"gp1 slot commit\0").chain_update(nonce).finalize().into()
}

fn random(rng: &mut impl CryptoRng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn tag_of(isk: &Isk, share: &[u8; 32], ad: &[u8]) -> [u8; 64] {
    isk.tag(share, ad).finalize().into_bytes().into()
}

fn read<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Ended> {
    wire::from_slice(bytes).map_err(|_| Ended::Malformed)
}

/// The phone's end.
pub mod phone {
    use super::*;

    /// Shows its words, and waits for somebody who types them.
    pub struct Opened {
        run: Run,
    }

    /// The words were typed; promised a nonce.
    pub struct Promised {
        isk: Isk,
        nonce: [u8; 32],
    }

    /// Waits for its person to type the code that the administrator reads out.
    pub struct Asking {
        secrets: Secrets,
    }

    /// Shows the reply, and waits for the ticket.
    pub struct Accepted {
        secrets: Secrets,
    }

    /// Has the ticket, and owes its request.
    pub struct Ticketed {
        secrets: Secrets,
    }

    impl Opened {
        /// Opens with fresh words in the tenant of this tag; gives message 1.
        pub fn new(words: &Words, tenant_tag: [u8; 4], rng: &mut impl CryptoRng) -> (Self, Vec<u8>) {
            let mut sid = [0; 16];
            rng.fill_bytes(&mut sid);
            let run = Run::new(&words.secret(), &channel_identifier(tenant_tag), sid, rng);
            let hello = wire::to_vec(&Hello { version: VERSION, sid, share: *run.share() });
            (Self { run }, hello)
        }

        /// Takes message 2; gives message 3.
        pub fn answered(self, message: &[u8], rng: &mut impl CryptoRng) -> Result<(Promised, Vec<u8>), Ended> {
            let Answer { share, tag } = read(message)?;
            let own = *self.run.share();
            let isk = self.run.initiator(PHONE, &share, ADMINISTRATOR).map_err(|_| Ended::Malformed)?;
            isk.tag(&share, ADMINISTRATOR).verify_slice(&tag).map_err(|_| Ended::Words)?;
            let nonce = random(rng);
            let commit = Commit { tag: tag_of(&isk, &own, PHONE), commitment: commitment(&nonce) };
            Ok((Promised { isk, nonce }, wire::to_vec(&commit)))
        }
    }

    impl Promised {
        /// Takes message 4; gives message 5.
        pub fn told(self, message: &[u8]) -> Result<(Asking, Vec<u8>), Ended> {
            let Nonce(theirs) = read(message)?;
            let secrets = Secrets::derive(&self.isk, &self.nonce, &theirs);
            Ok((Asking { secrets }, wire::to_vec(&Nonce(self.nonce))))
        }
    }

    impl Asking {
        /// Takes what the person typed. There is one try.
        pub fn typed(self, code: &str) -> Result<Accepted, Ended> {
            if typed_is(code, &self.secrets.code) { Ok(Accepted { secrets: self.secrets }) } else { Err(Ended::Code) }
        }
    }

    impl Accepted {
        /// What the technician reads back, so that the administrator knows.
        pub fn reply(&self) -> &str {
            &self.secrets.reply
        }

        /// Takes message 6: a ticket for this phone.
        pub fn ticket(self, message: &[u8]) -> Result<(Ticketed, Ticket), Ended> {
            let opened = Secrets::open(self.secrets.down, message)?;
            let ticket = wire::from_slice(&opened).map_err(|_| Ended::Forged)?;
            Ok((Ticketed { secrets: self.secrets }, ticket))
        }
    }

    impl Ticketed {
        /// Gives message 7.
        pub fn introduce(self, introduction: &Introduction) -> Vec<u8> {
            Secrets::seal(self.secrets.up, &wire::to_vec(introduction))
        }
    }
}

/// The administrator's end.
pub mod administrator {
    use super::*;

    /// Typed the words.
    pub struct Answering {
        isk: Isk,
        share: [u8; 32],
    }

    /// Knows that the phone has the same words, and told its nonce.
    pub struct Telling {
        isk: Isk,
        commitment: [u8; 32],
        nonce: [u8; 32],
    }

    /// Reads out the code, and waits for the reply.
    pub struct Reading {
        secrets: Secrets,
    }

    /// Sent the ticket, and waits for the request.
    pub struct Sent {
        secrets: Secrets,
    }

    impl Answering {
        /// Takes message 1 and the words; gives message 2.
        pub fn new(
            words: &Words,
            tenant_tag: [u8; 4],
            message: &[u8],
            rng: &mut impl CryptoRng,
        ) -> Result<(Self, Vec<u8>), Ended> {
            let Hello { version, sid, share } = read(message)?;
            if version != VERSION {
                return Err(Ended::Malformed);
            }
            let run = Run::new(&words.secret(), &channel_identifier(tenant_tag), sid, rng);
            let own = *run.share();
            let isk = run.responder(ADMINISTRATOR, &share, PHONE).map_err(|_| Ended::Malformed)?;
            let answer = Answer { share: own, tag: tag_of(&isk, &own, ADMINISTRATOR) };
            Ok((Self { isk, share }, wire::to_vec(&answer)))
        }

        /// Takes message 3; gives message 4.
        pub fn promised(self, message: &[u8], rng: &mut impl CryptoRng) -> Result<(Telling, Vec<u8>), Ended> {
            let Commit { tag, commitment } = read(message)?;
            self.isk.tag(&self.share, PHONE).verify_slice(&tag).map_err(|_| Ended::Words)?;
            let nonce = random(rng);
            Ok((Telling { isk: self.isk, commitment, nonce }, wire::to_vec(&Nonce(nonce))))
        }
    }

    impl Telling {
        /// Takes message 5.
        pub fn revealed(self, message: &[u8]) -> Result<Reading, Ended> {
            let Nonce(theirs) = read(message)?;
            if commitment(&theirs) != self.commitment {
                return Err(Ended::Promise);
            }
            Ok(Reading { secrets: Secrets::derive(&self.isk, &theirs, &self.nonce) })
        }
    }

    impl Reading {
        /// What the administrator reads out.
        pub fn code(&self) -> &str {
            &self.secrets.code
        }

        /// Takes what the technician read back; gives message 6. There is one try.
        pub fn replied(self, typed: &str, ticket: &Ticket) -> Result<(Sent, Vec<u8>), Ended> {
            if !typed_is(typed, &self.secrets.reply) {
                return Err(Ended::Code);
            }
            let message = Secrets::seal(self.secrets.down, &Zeroizing::new(wire::to_vec(ticket)));
            Ok((Sent { secrets: self.secrets }, message))
        }
    }

    impl Sent {
        /// Takes message 7: the request, which the ticket's key must have signed, and what the phone says of itself.
        pub fn introduced(
            self,
            message: &[u8],
            ticket: &Ticket,
        ) -> Result<(Signed<DeviceRequest>, Introduction), Ended> {
            let opened = Secrets::open(self.secrets.up, message)?;
            let introduction: Introduction = wire::from_slice(&opened).map_err(|_| Ended::Forged)?;
            let request =
                Unverified::<DeviceRequest>::decode(introduction.request.clone()).map_err(|_| Ended::Forged)?;
            let request = request.verify(&crate::keys::Signer::public_key(&ticket.key())).map_err(|_| Ended::Forged)?;
            Ok((request, introduction))
        }
    }
}
