//! The channel: `Noise_XKpsk0_25519_ChaChaPoly_SHA256`, and what is said in it after the handshake.
//!
//! The responder's static key is the QR's `A_q`, the pre-shared key comes from the QR's secret, the prologue is `"gp1"` and
//! the QR's 56 bytes. In the PSK patterns each `e` is also mixed into the key (Noise, section 9.2).

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{
    Failure,
    padding::{self, Type},
};
use crate::{
    Code,
    keys::{ChannelKey, NotContributory},
    noise::{CipherState, Forged, Split, SymmetricState, TAG, hmac},
    qr::{QrKeys, QrPayload},
};

const NAME: &[u8] = b"Noise_XKpsk0_25519_ChaChaPoly_SHA256";

// Whatever goes wrong inside the channel is the one generic failure: nobody learns which check it was.
impl From<Forged> for Failure {
    fn from(_: Forged) -> Self {
        Failure::generic()
    }
}

impl From<NotContributory> for Failure {
    fn from(_: NotContributory) -> Self {
        Failure::generic()
    }
}

impl From<padding::BadPadding> for Failure {
    fn from(_: padding::BadPadding) -> Self {
        Failure::generic()
    }
}

type Body = Zeroizing<Vec<u8>>;

fn begin(qr: &QrPayload, keys: &QrKeys) -> SymmetricState {
    let mut state = SymmetricState::new(NAME, &[b"gp1", &qr.to_bytes()[..]].concat());
    state.mix_hash(&qr.a_q);
    state.mix_key_and_hash(&keys.psk);
    state
}

fn mix_e(state: &mut SymmetricState, e: &[u8; 32]) {
    state.mix_hash(e);
    state.mix_key(e);
}

fn split_at_key(message: &[u8], length: usize) -> Result<(&[u8], &[u8]), Failure> {
    message.split_at_checked(length).ok_or(Failure::generic())
}

fn key(bytes: &[u8]) -> Result<[u8; 32], Failure> {
    bytes.try_into().map_err(|_| Failure::generic())
}

fn opened(kind: Type, padded: &[u8]) -> Result<Body, Failure> {
    Ok(Zeroizing::new(padding::unpad(kind, padded)?.to_vec()))
}

/// The phone has sent M1.
pub(super) struct InitiatorSent {
    state: SymmetricState,
    e: ChannelKey,
}

/// The phone has read M2.
pub(super) struct InitiatorReady {
    state: SymmetricState,
    re: [u8; 32],
}

/// The agent has read M1.
pub(super) struct ResponderReady {
    state: SymmetricState,
    e: ChannelKey,
}

/// The agent has sent M2.
pub(super) struct ResponderSent {
    state: SymmetricState,
    e: ChannelKey,
}

/// Writes M1.
pub(super) fn write_m1(
    qr: &QrPayload,
    keys: &QrKeys,
    hello: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<(InitiatorSent, Vec<u8>), Failure> {
    let padded = padding::pad(Type::Hello, hello)?;
    let mut state = begin(qr, keys);
    let e = ChannelKey::generate(rng);
    let public = e.public_bytes();
    mix_e(&mut state, &public);
    state.mix_key(&*e.agree(&qr.a_q)?);
    let payload = state.encrypt_and_hash(&padded)?;
    Ok((InitiatorSent { state, e }, [&public[..], &payload].concat()))
}

impl InitiatorSent {
    /// Reads M2: its body, and the hash that the agent's signature in it covers.
    pub(super) fn read_m2(mut self, message: &[u8]) -> Result<(InitiatorReady, Body, [u8; 32]), Failure> {
        let (re, payload) = split_at_key(message, 32)?;
        let re = key(re)?;
        mix_e(&mut self.state, &re);
        self.state.mix_key(&*self.e.agree(&re)?);
        let signed = self.state.handshake_hash();
        let body = opened(Type::AgentIdentity, &self.state.decrypt_and_hash(payload)?)?;
        Ok((InitiatorReady { state: self.state, re }, body, signed))
    }
}

impl InitiatorReady {
    /// Writes M3.
    pub(super) fn write_m3(mut self, s: &ChannelKey, identity: &[u8]) -> Result<(Transport, Vec<u8>), Failure> {
        let padded = padding::pad(Type::DeviceIdentity, identity)?;
        let sealed_s = self.state.encrypt_and_hash(&s.public_bytes())?;
        self.state.mix_key(&*s.agree(&self.re)?);
        let payload = self.state.encrypt_and_hash(&padded)?;
        let Split { up, down, exporter, h } = self.state.split();
        Ok((Transport { send: up, receive: down, exporter, h }, [sealed_s, payload].concat()))
    }
}

/// Reads M1.
pub(super) fn read_m1(
    qr: &QrPayload,
    keys: &QrKeys,
    a_q: &ChannelKey,
    message: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<(ResponderReady, Body), Failure> {
    let (re, payload) = split_at_key(message, 32)?;
    let re = key(re)?;
    let mut state = begin(qr, keys);
    mix_e(&mut state, &re);
    state.mix_key(&*a_q.agree(&re)?);
    let body = opened(Type::Hello, &state.decrypt_and_hash(payload)?)?;
    let e = ChannelKey::generate(rng);
    mix_e(&mut state, &e.public_bytes());
    state.mix_key(&*e.agree(&re)?);
    Ok((ResponderReady { state, e }, body))
}

impl ResponderReady {
    /// The hash that the agent signs in M2.
    pub(super) fn to_sign(&self) -> [u8; 32] {
        self.state.handshake_hash()
    }

    /// Writes M2.
    pub(super) fn write_m2(mut self, identity: &[u8]) -> Result<(ResponderSent, Vec<u8>), Failure> {
        let padded = padding::pad(Type::AgentIdentity, identity)?;
        let payload = self.state.encrypt_and_hash(&padded)?;
        let message = [&self.e.public_bytes()[..], &payload].concat();
        Ok((ResponderSent { state: self.state, e: self.e }, message))
    }
}

impl ResponderSent {
    /// Reads M3: its body, and the phone's static key.
    pub(super) fn read_m3(mut self, message: &[u8]) -> Result<(Transport, Body, [u8; 32]), Failure> {
        let (sealed_s, payload) = split_at_key(message, 32 + TAG)?;
        let rs = key(&self.state.decrypt_and_hash(sealed_s)?)?;
        self.state.mix_key(&*self.e.agree(&rs)?);
        let body = opened(Type::DeviceIdentity, &self.state.decrypt_and_hash(payload)?)?;
        let Split { up, down, exporter, h } = self.state.split();
        Ok((Transport { send: down, receive: up, exporter, h }, body, rs))
    }
}

/// The finished channel.
pub(super) struct Transport {
    send: CipherState,
    receive: CipherState,
    exporter: Zeroizing<[u8; 32]>,
    h: [u8; 32],
}

impl Transport {
    /// The handshake hash: names this channel and no other.
    pub(super) fn h(&self) -> [u8; 32] {
        self.h
    }

    /// Encrypts the next message. One that is too large is refused, and the channel stays as it was.
    pub(super) fn seal(&mut self, kind: Type, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let padded = padding::pad(kind, body).map_err(|_| Failure::of(Code::Size))?;
        Ok(self.send.encrypt(&[], &padded)?)
    }

    /// Decrypts the next message, which must be of this type.
    pub(super) fn open(&mut self, kind: Type, message: &[u8]) -> Result<Body, Failure> {
        opened(kind, &self.receive.decrypt(&[], message)?)
    }

    /// Decrypts the next message, which is of one of two types: `Ok` the first, `Err` the second.
    pub(super) fn open_either(
        &mut self,
        first: Type,
        second: Type,
        message: &[u8],
    ) -> Result<Result<Body, Body>, Failure> {
        let padded = self.receive.decrypt(&[], message)?;
        if padding::peek(&padded) == Some(second as u8) {
            Ok(Err(opened(second, &padded)?))
        } else {
            Ok(Ok(opened(first, &padded)?))
        }
    }

    /// The three digits that both ends know and nobody else.
    pub(super) fn confirm_code(&self) -> String {
        confirm_code(&self.exporter, &self.h)
    }
}

/// HMAC-SHA256(exporter, "gp1 confirm" h), its first 8 bytes as a big-endian number, modulo 1000, in three digits.
pub(crate) fn confirm_code(exporter: &[u8; 32], h: &[u8; 32]) -> String {
    let mac = hmac(exporter, &[b"gp1 confirm", h]);
    let number = mac[..8].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{:03}", number % 1000)
}
