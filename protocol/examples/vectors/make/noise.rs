//! The same channel, computed a second time: `snow` for the messages, and the key schedule by itself.

use gatepass_protocol::qr::QrPayload;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

pub const NAME: &str = "Noise_XKpsk0_25519_ChaChaPoly_SHA256";

/// The PSK and prologue of a QR, not by the code under test.
pub fn psk(qr: &QrPayload) -> [u8; 32] {
    let mut psk = [0; 32];
    Hkdf::<Sha256>::new(Some(b"gp1 qr"), &qr.qs).expand(b"psk", &mut psk).unwrap();
    psk
}

pub fn prologue(qr: &QrPayload) -> Vec<u8> {
    [b"gp1", &qr.to_bytes()[..]].concat()
}

/// A phone made of snow.
pub fn initiator(qr: &QrPayload, s: &[u8; 32], e: &[u8; 32]) -> snow::HandshakeState {
    snow::Builder::new(NAME.parse().unwrap())
        .prologue(&prologue(qr))
        .unwrap()
        .psk(0, &psk(qr))
        .unwrap()
        .local_private_key(s)
        .unwrap()
        .remote_public_key(&qr.a_q)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(e)
        .build_initiator()
        .unwrap()
}

/// An agent made of snow.
pub fn responder(qr: &QrPayload, a_q: &[u8; 32], e: &[u8; 32]) -> snow::HandshakeState {
    snow::Builder::new(NAME.parse().unwrap())
        .prologue(&prologue(qr))
        .unwrap()
        .psk(0, &psk(qr))
        .unwrap()
        .local_private_key(a_q)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(e)
        .build_responder()
        .unwrap()
}

pub fn read(state: &mut snow::HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8192];
    let length = state.read_message(message, &mut out).unwrap();
    out.truncate(length);
    out
}

pub fn write(state: &mut snow::HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8192];
    let length = state.write_message(payload, &mut out).unwrap();
    out.truncate(length);
    out
}

pub fn open(state: &mut snow::TransportState, message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8192];
    let length = state.read_message(message, &mut out).unwrap();
    out.truncate(length);
    out
}

pub fn seal(state: &mut snow::TransportState, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8192];
    let length = state.write_message(payload, &mut out).unwrap();
    out.truncate(length);
    out
}

/// The chaining key after each of these inputs, and the last three keys: up, down, exporter. `inputs`: psk, e, es, e, ee, se.
pub fn schedule(inputs: &[[u8; 32]; 6]) -> (Vec<[u8; 32]>, [[u8; 32]; 3]) {
    let mut ck: [u8; 32] = Sha256::digest(NAME).into();
    let mut steps = Vec::new();
    for input in inputs {
        [ck, _, _] = hkdf3(&ck, input);
        steps.push(ck);
    }
    (steps, hkdf3(&ck, &[]))
}

/// Noise's HKDF with three outputs.
pub fn hkdf3(ck: &[u8; 32], input: &[u8]) -> [[u8; 32]; 3] {
    let prk = mac(ck, &[input]);
    let first = mac(&prk, &[&[1]]);
    let second = mac(&prk, &[&first, &[2]]);
    let third = mac(&prk, &[&second, &[3]]);
    [first, second, third]
}

fn mac(key: &[u8], pieces: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    pieces.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().into()
}

/// `type u8 | length u16 | body | zeros` up to `length` bytes.
pub fn pad(kind: u8, body: &[u8], length: usize) -> Vec<u8> {
    let size = u16::try_from(body.len()).unwrap().to_be_bytes();
    let mut padded = [&[kind], &size[..], body].concat();
    assert!(padded.len() <= length);
    padded.resize(length, 0);
    padded
}

/// The body of a padded message.
pub fn body(padded: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([padded[1], padded[2]]));
    &padded[3..3 + length]
}
