//! Offline codes: how a technician gets in while the computer's relay can't be reached.
//!
//! ```text
//! K        = HKDF-SHA256(salt "gp1 otp", ECDH_P256(device, computer), device technician computer epoch)
//! code     = HMAC-SHA256(K, "gp1 code" 00 len Question), its first 8 bytes modulo 10^8, or 10^10
//! Question = [mode, number, scenario, kind, account, groups, minutes]
//! ```
//!
//! The computer shows a challenge, the phone shows exactly what the code would give, and the code is good for that on that computer
//! in answer to that challenge. Both compute what the policy gives by themselves, so nothing but the challenge and the code crosses the
//! air, and a phone and a computer that hold different policies do not agree. Where a challenge can't be carried to the phone, its
//! place can be taken by the time (RFC 6238).
//!
//! The epoch is the one of the device's certificate, which both ends hold whatever lists they have missed. K can be computed by both
//! ends, so unlike an approval a code proves nothing to a third party.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    ids::{ComputerId, TenantId},
    keys::{NotP256, OtpKey},
    numbered::numbered,
    policy::{AccountKind, Policy, Scenario},
    qr::tenant_tag,
    signed::labelled,
    statement::{AgentTerms, DeviceTerms, KeyUse},
    trust::Certified,
    wire,
};

/// How often a code may be typed in answer to one challenge.
pub const TRIES: u32 = 3;
/// How long a code by the time stands for, in seconds (RFC 6238's X).
pub const TIME_STEP: u64 = 30;
/// Codes by the time of so many steps before and after are taken too: clocks differ, and typing takes time.
pub const TIME_SLACK: u64 = 1;

/// What a policy says of offline codes: the value of its extension [`OFFLINE_CODES`](crate::statement::OFFLINE_CODES). A policy
/// without it allows none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineTerms {
    /// Only within so many hours after the computer has last heard from its control plane.
    pub max_age_hours: u32,
    /// The longest time that a code gives, in minutes.
    pub max_minutes: u32,
    /// What codes are taken for.
    pub scenarios: Vec<Scenario>,
    /// The groups that a code may give; none named: those that the rules give.
    pub groups: Option<Vec<String>>,
    /// A code that gives one of these groups has ten digits.
    pub long_codes: Vec<String>,
    /// Codes by the time are taken too.
    pub time_codes: bool,
    /// Codes are taken while the relay is there, too.
    pub while_online: bool,
}

impl OfflineTerms {
    /// The extension's value.
    pub fn encode(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// Reads the extension's value. What can't be read allows nothing.
    pub fn decode(value: &[u8]) -> Option<Self> {
        wire::from_slice(value).ok()
    }
}

/// What a code would give: the same at both ends, as it comes from the same policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The kind of account.
    pub kind: AccountKind,
    /// All of these groups, as far as the computer has them.
    pub groups: Vec<String>,
    /// For so many minutes.
    pub minutes: u32,
    /// A reason must be typed at the computer.
    pub reason: bool,
    /// How long its code is.
    pub digits: Digits,
}

/// How long a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digits {
    /// Eight.
    Eight,
    /// Ten, for groups with rights over more than this computer.
    Ten,
}

impl Digits {
    /// The number.
    pub fn count(self) -> usize {
        match self {
            Digits::Eight => 8,
            Digits::Ten => 10,
        }
    }
}

/// What a code would give this technician: an offer for each rule. A rule's confirm code is not asked for besides: an offline code
/// is typed at the computer anyway.
pub fn offers(
    policy: &Policy,
    terms: &OfflineTerms,
    question: &crate::policy::Question<'_>,
    kind: AccountKind,
) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    if !terms.scenarios.contains(&question.scenario) {
        return offers;
    }
    for choice in policy.choices(question).into_iter().filter(|choice| choice.accounts.contains(&kind)) {
        let allowed = |group: &String| terms.groups.as_ref().is_none_or(|groups| groups.contains(group));
        // An elevation is one command as another user: it puts nobody into a group.
        let groups: Vec<String> = match kind {
            AccountKind::Own => Vec::new(),
            _ => choice.groups.into_iter().filter(allowed).collect(),
        };
        let long = groups.iter().any(|group| terms.long_codes.contains(group));
        let offer = Offer {
            kind,
            minutes: policy.default_minutes.min(choice.max_minutes).min(terms.max_minutes).max(1),
            reason: choice.reason,
            digits: if long { Digits::Ten } else { Digits::Eight },
            groups,
        };
        let same = |other: &Offer| (&other.groups, other.minutes) == (&offer.groups, offer.minutes);
        match offers.iter_mut().find(|other| same(other)) {
            // Of two rules that give the same, one without the duty counts.
            Some(other) => other.reason &= offer.reason,
            None => offers.push(offer),
        }
    }
    offers
}

numbered! {
    /// What makes a code fresh.
    pub enum Mode: "mode of an offline code" {
        /// A challenge, which the computer has made.
        Challenge = 1,
        /// The time, in steps of [`TIME_STEP`].
        Time = 2,
    }
}

/// What a code is computed over: all that it gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What makes it fresh.
    pub mode: Mode,
    /// The challenge's 50 bits, or the number of the time's step.
    pub number: u64,
    /// What is asked for.
    pub scenario: Scenario,
    /// The kind of account.
    pub kind: AccountKind,
    /// Its name; for an elevation the asking user's.
    pub account: String,
    /// The offer's groups.
    pub groups: Vec<String>,
    /// The offer's minutes.
    pub minutes: u32,
}

impl Question {
    /// Of an offer, in answer to a challenge.
    pub fn of_challenge(offer: &Offer, account: &str, challenge: Challenge) -> Self {
        Self::new(Mode::Challenge, challenge.bits(), challenge.scenario(), offer, account)
    }

    /// Of an offer, in this step of the time.
    pub fn of_time(offer: &Offer, account: &str, scenario: Scenario, step: u64) -> Self {
        Self::new(Mode::Time, step, scenario, offer, account)
    }

    fn new(mode: Mode, number: u64, scenario: Scenario, offer: &Offer, account: &str) -> Self {
        let Offer { kind, groups, minutes, .. } = offer;
        Self { mode, number, scenario, kind: *kind, account: account.into(), groups: groups.clone(), minutes: *minutes }
    }

    fn message(&self) -> Vec<u8> {
        labelled("gp1 code", &wire::to_vec(self))
    }

    /// Names what was granted, in the place of an approval's hash: SHA-256 of what the code is computed over.
    pub fn evidence(&self) -> [u8; 32] {
        Sha256::digest(self.message()).into()
    }
}

/// The key of one device's codes on one computer. Wiped on drop.
pub struct CodeKey(Zeroizing<[u8; 32]>);

/// One of the two can't have codes: it was enrolled before there were any, or its certificate has a key that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key for offline codes is certified: enrol again")]
pub struct NoKey;

impl From<NotP256> for NoKey {
    fn from(_: NotP256) -> Self {
        Self
    }
}

impl CodeKey {
    /// As the phone has it. Both certificates were verified.
    pub fn of_device(
        own: &OtpKey,
        device: &Certified<DeviceTerms>,
        agent: &Certified<AgentTerms>,
    ) -> Result<Self, NoKey> {
        let theirs = agent.statement().key(KeyUse::Otp).ok_or(NoKey)?;
        let shared = own.agree(&theirs)?;
        Ok(Self::derive(&shared, device, ComputerId(agent.statement().subject)))
    }

    /// As the computer has it. The device's certificate was verified.
    pub fn of_agent(own: &OtpKey, device: &Certified<DeviceTerms>, computer: ComputerId) -> Result<Self, NoKey> {
        let theirs = device.statement().key(KeyUse::Otp).ok_or(NoKey)?;
        let shared = own.agree(&theirs)?;
        Ok(Self::derive(&shared, device, computer))
    }

    fn derive(shared: &[u8; 32], device: &Certified<DeviceTerms>, computer: ComputerId) -> Self {
        let statement = device.statement();
        let epoch = statement.epoch.to_be_bytes();
        let info: [&[u8]; 4] = [&statement.subject, device.terms().technician.as_bytes(), computer.as_bytes(), &epoch];
        let mut key = Zeroizing::new([0; 32]);
        if Hkdf::<Sha256>::new(Some(b"gp1 otp"), shared).expand_multi_info(&info, &mut *key).is_err() {
            unreachable!("HKDF gives 32 bytes")
        }
        Self(key)
    }

    /// The key's bytes, for the published vectors.
    #[cfg(feature = "testing")]
    pub fn bytes(&self) -> [u8; 32] {
        *self.0
    }

    /// The code.
    pub fn code(&self, question: &Question, digits: Digits) -> Zeroizing<String> {
        // HMAC takes a key of any length.
        let Ok(mac) = Hmac::<Sha256>::new_from_slice(&*self.0) else { unreachable!("HMAC takes any key") };
        let mut tag: [u8; 32] = mac.chain_update(question.message()).finalize().into_bytes().into();
        let mut first = [0; 8];
        first.copy_from_slice(&tag[..8]);
        tag.zeroize();
        // Of 2^64 values, so no digit is more likely than another by more than one in a thousand millions.
        let code = u64::from_be_bytes(first) % 10u64.pow(digits.count() as u32);
        Zeroizing::new(format!("{code:0width$}", width = digits.count()))
    }

    /// Compares what was typed, blanks and hyphens left out, in constant time.
    pub fn is_right(&self, question: &Question, digits: Digits, typed: &str) -> bool {
        let mut only_digits = Zeroizing::new(String::with_capacity(typed.len()));
        only_digits.extend(typed.chars().filter(|c| !matches!(c, ' ' | '-' | '\r' | '\n' | '\t')));
        self.code(question, digits).as_bytes().ct_eq(only_digits.as_bytes()).into()
    }
}

/// What a computer shows: 50 bits, which say for which scenario, and on which computer, the code is asked for.
///
/// ```text
/// scenario 4 bits | random 36 bits | check 10 bits = SHA-256("gp1 challenge" 00 computer, the 40 bits before)
/// ```
///
/// The check makes sure that what was typed into the phone is what the screen shows, and that the right computer was chosen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    scenario: Scenario,
    random: u64,
    check: u64,
}

/// The text is not a challenge of this computer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a challenge of that computer: compare it with the screen, and the computer's name too")]
pub struct NotAChallenge;

/// Crockford's base32: no I, L, O and U, so that nothing is taken for something else.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a challenge.
const LENGTH: usize = 10;

impl Challenge {
    /// A fresh one.
    pub fn new(scenario: Scenario, computer: ComputerId, rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 8];
        rng.fill_bytes(&mut bytes[..5]);
        let random = u64::from_le_bytes(bytes) & ((1 << 36) - 1);
        Self { scenario, random, check: check(scenario, random, computer) }
    }

    /// What the code is asked for.
    pub fn scenario(self) -> Scenario {
        self.scenario
    }

    /// The 50 bits.
    pub fn bits(self) -> u64 {
        u64::from(u8::from(self.scenario)) << 46 | self.random << 10 | self.check
    }

    /// Of 50 bits, if they are a challenge of this computer.
    pub fn from_bits(bits: u64, computer: ComputerId) -> Result<Self, NotAChallenge> {
        let scenario = u8::try_from(bits >> 46).map_err(|_| NotAChallenge)?;
        let scenario = Scenario::try_from(scenario).map_err(|_| NotAChallenge)?;
        let challenge = Self { scenario, random: (bits >> 10) & ((1 << 36) - 1), check: bits & 0x3ff };
        if challenge.check == check(scenario, challenge.random, computer) { Ok(challenge) } else { Err(NotAChallenge) }
    }

    /// As a person types it: two groups of five.
    pub fn text(self) -> String {
        let letter = |at: usize| char::from(LETTERS[(self.bits() >> (5 * (LENGTH - 1 - at)) & 31) as usize]);
        let (first, second): (String, String) = ((0..5).map(letter).collect(), (5..LENGTH).map(letter).collect());
        format!("{first}-{second}")
    }

    /// Reads what a person typed: small letters, blanks and hyphens anywhere, I and L for 1, O for 0.
    pub fn from_text(text: &str, computer: ComputerId) -> Result<Self, NotAChallenge> {
        let mut bits = 0u64;
        let mut length = 0;
        for character in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let meant = match character.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let value = LETTERS.iter().position(|letter| char::from(*letter) == meant).ok_or(NotAChallenge)?;
            length += 1;
            if length > LENGTH {
                return Err(NotAChallenge);
            }
            bits = bits << 5 | value as u64;
        }
        if length == LENGTH { Self::from_bits(bits, computer) } else { Err(NotAChallenge) }
    }
}

fn check(scenario: Scenario, random: u64, computer: ComputerId) -> u64 {
    let said = (u64::from(u8::from(scenario)) << 36 | random).to_be_bytes();
    let digest =
        Sha256::new().chain_update(b"gp1 challenge\0").chain_update(computer.0).chain_update(&said[3..]).finalize();
    u64::from(digest[0]) << 2 | u64::from(digest[1]) >> 6
}

/// A challenge as a QR code, with what a phone would have to be told besides.
///
/// ```text
/// version u8 = 1 | tenant_tag[4] | computer[8] | challenge[7] | account, UTF-8, at most 32 bytes     integers big-endian
/// "GPC1:" + base45     at most 83 alphanumeric characters, so no larger than the code of a pairing
/// ```
///
/// It holds no secret and is worth nothing to who photographs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeQr {
    /// As in the code of a pairing.
    pub tenant_tag: [u8; 4],
    /// The first half of the computer's identifier.
    pub computer: [u8; 8],
    /// The challenge's 50 bits.
    pub bits: u64,
    /// The account, or the user who asks for an elevation; empty: the technician's own.
    pub account: String,
}

/// What the text of a challenge's QR code begins with.
pub const QR_PREFIX: &str = "GPC1:";
/// The longest account's name in it.
pub const LONGEST_ACCOUNT: usize = 32;
const QR_VERSION: u8 = 1;

/// The text is no challenge's QR code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the QR code of an offline login, or a damaged one: scan it again")]
pub struct NotAChallengeQr;

impl ChallengeQr {
    /// Of a computer's challenge. `None`: the account's name is too long, so the challenge has to be typed.
    pub fn new(tenant: TenantId, computer: ComputerId, challenge: Challenge, account: &str) -> Option<Self> {
        let mut half = [0; 8];
        half.copy_from_slice(&computer.0[..8]);
        let fits = account.len() <= LONGEST_ACCOUNT;
        let qr = Self {
            tenant_tag: tenant_tag(tenant),
            computer: half,
            bits: challenge.bits(),
            account: account.to_owned(),
        };
        fits.then_some(qr)
    }

    /// Whether it is this computer's, and not another's.
    pub fn is_of(&self, tenant: TenantId, computer: ComputerId) -> bool {
        self.tenant_tag == tenant_tag(tenant) && self.computer == computer.0[..8]
    }

    /// The text inside the QR.
    pub fn to_text(&self) -> String {
        let bits = self.bits.to_be_bytes();
        let parts: [&[u8]; 5] = [&[QR_VERSION], &self.tenant_tag, &self.computer, &bits[1..], self.account.as_bytes()];
        format!("{QR_PREFIX}{}", base45::encode(parts.concat()))
    }

    /// Reads the text of a QR, exactly, but for the end of its line.
    pub fn from_text(text: &str) -> Result<Self, NotAChallengeQr> {
        let text = text.trim_end_matches(['\r', '\n']);
        let encoded = text.strip_prefix(QR_PREFIX).ok_or(NotAChallengeQr)?;
        let bytes = base45::decode(encoded).map_err(|_| NotAChallengeQr)?;
        let Some((head, account)) = bytes.split_first_chunk::<20>() else { return Err(NotAChallengeQr) };
        let account = std::str::from_utf8(account).map_err(|_| NotAChallengeQr)?;
        if head[0] != QR_VERSION || account.len() > LONGEST_ACCOUNT {
            return Err(NotAChallengeQr);
        }
        let mut qr = Self { tenant_tag: [0; 4], computer: [0; 8], bits: 0, account: account.to_owned() };
        qr.tenant_tag.copy_from_slice(&head[1..5]);
        qr.computer.copy_from_slice(&head[5..13]);
        let mut bits = [0; 8];
        bits[1..].copy_from_slice(&head[13..]);
        qr.bits = u64::from_be_bytes(bits);
        // base45 has one encoding of each value, but decoders differ in what else they take.
        if qr.bits < 1 << 50 && qr.to_text() == text { Ok(qr) } else { Err(NotAChallengeQr) }
    }
}
