//! The protocol's hot paths, and how near each side of a handshake comes to the sum of its primitives.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use chacha20poly1305::{ChaCha20Poly1305, aead::AeadInOut};
use criterion::{BatchSize, Criterion, Throughput};
use ed25519_dalek::Signer as _;
use gatepass_benches::Scene;
use gatepass_protocol::{
    frame::Frame,
    ids::Rid,
    keys::Signer as _,
    testing::{NOW, Rng, SoftKey},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What a side of a pairing computes, each with the library that the protocol uses.
struct Primitives {
    ed25519: ed25519_dalek::SigningKey,
    ed25519_signature: ed25519_dalek::Signature,
    p256: SoftKey,
    p256_public: Vec<u8>,
    p256_signature: [u8; 64],
    x25519: x25519_dalek::StaticSecret,
    x25519_public: x25519_dalek::PublicKey,
    cipher: ChaCha20Poly1305,
    body: Vec<u8>,
    buffer: Vec<u8>,
}

/// A statement's size, about.
const STATEMENT: usize = 330;

impl Primitives {
    fn new() -> Self {
        let ed25519 = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let x25519 = x25519_dalek::StaticSecret::from([9; 32]);
        let p256 = SoftKey::generate(&mut Rng::new(3));
        let body = vec![0x55; STATEMENT];
        let gatepass_protocol::keys::PublicKey::P256(public) = p256.public_key() else { unreachable!() };
        Self {
            ed25519_signature: ed25519.sign(&body),
            p256_signature: p256.sign(&body).unwrap(),
            p256_public: public.to_vec(),
            x25519_public: x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([10; 32])),
            cipher: ChaCha20Poly1305::new(&[1; 32].into()),
            buffer: Vec::with_capacity(8192),
            ed25519,
            p256,
            x25519,
            body,
        }
    }

    fn key_pair(&self) {
        black_box(x25519_dalek::PublicKey::from(black_box(&self.x25519)));
    }

    fn agree(&self) {
        black_box(black_box(&self.x25519).diffie_hellman(&self.x25519_public));
    }

    fn ed25519_sign(&self) {
        black_box(self.ed25519.sign(black_box(&self.body)));
    }

    fn ed25519_verify(&self) {
        let key = ed25519_dalek::VerifyingKey::from_bytes(self.ed25519.verifying_key().as_bytes()).unwrap();
        key.verify_strict(black_box(&self.body), &self.ed25519_signature).unwrap();
    }

    fn p256_sign(&self) {
        black_box(self.p256.sign(black_box(&self.body)).unwrap());
    }

    fn p256_verify(&self) {
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, &self.p256_public)
            .verify(black_box(&self.body), &self.p256_signature)
            .unwrap();
    }

    /// Encryption (decryption costs the same) of messages of these lengths.
    fn encrypt(&mut self, lengths: &[usize]) {
        for length in lengths {
            self.buffer.clear();
            self.buffer.resize(*length, 0);
            let buffer: &mut dyn chacha20poly1305::aead::Buffer = &mut self.buffer;
            self.cipher.encrypt_in_place(&[0; 12].into(), &[], buffer).unwrap();
        }
    }

    fn hash(&self, lengths: &[usize]) {
        for length in lengths {
            black_box(Sha256::digest(&black_box(&[0u8; 2048])[..*length]));
        }
    }

    /// HKDFs of three outputs: four HMACs each.
    fn derive(&self, times: usize) {
        for _ in 0..4 * times {
            let mac = Hmac::<Sha256>::new_from_slice(black_box(&[3; 32])).unwrap().chain_update([4; 32]);
            black_box(mac.finalize().into_bytes());
        }
    }

    /// M1 to M6 at the agent: its signature in M2, the device's certificate, the approval.
    fn agent(&mut self) {
        self.key_pair();
        (0..3).for_each(|_| self.agree());
        self.ed25519_sign();
        self.ed25519_verify();
        self.p256_verify();
        self.channel();
    }

    /// The same at the phone: the agent's certificate, its ticket, its signature in M2.
    fn phone(&mut self) {
        self.key_pair();
        (0..3).for_each(|_| self.agree());
        (0..3).for_each(|_| self.ed25519_verify());
        self.p256_sign();
        self.channel();
    }

    /// psk, e, es, e, ee, se and the split; six messages and the sealed static key; each of the handshake is hashed.
    fn channel(&mut self) {
        self.derive(7);
        self.encrypt(&[256, 1536, 32, 768, 1536, 768, 768]);
        self.hash(&[32, 59, 32, 272, 32, 1552, 48, 784, 500]);
    }
}

fn handshakes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pairing");
    let mut scene = Scene::new();
    let mut primitives = Primitives::new();
    group.bench_function("agent, M1 to M6", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| scene.pairing().agent).sum());
    });
    group.bench_function("agent, its primitives", |bencher| bencher.iter(|| primitives.agent()));
    group.bench_function("phone, QR to M6", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| scene.pairing().phone).sum());
    });
    group.bench_function("phone, its primitives", |bencher| bencher.iter(|| primitives.phone()));
    group.finish();
}

fn checks(criterion: &mut Criterion) {
    let mut scene = Scene::new();
    let (device, agent) = scene.chains();
    let mut group = criterion.benchmark_group("verification");
    group.bench_function("device certificate", |bencher| bencher.iter(|| scene.trust.device(&device, NOW).unwrap()));
    group.bench_function("agent certificate by ticket", |bencher| {
        bencher.iter(|| scene.trust.agent(&agent, NOW).unwrap())
    });
    let list = scene.tenant.revocation(
        1,
        (0..1000u16)
            .map(|number| {
                let mut id = [0; 16];
                id[..2].copy_from_slice(&number.to_be_bytes());
                gatepass_protocol::ids::Serial(id)
            })
            .collect(),
    );
    group.bench_function("revocation list of 1,000", |bencher| {
        let fresh = || scene.trust.clone();
        bencher.iter_batched(fresh, |mut trust| trust.accept_revocation(&list, NOW).unwrap(), BatchSize::SmallInput);
    });
    // Each needs a pairing of its own up to M5, which is not counted.
    group.bench_function("approval, whole", |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let decision = scene.decision();
                let begun = Instant::now();
                black_box(scene.judge(decision));
                spent += begun.elapsed();
            }
            spent
        });
    });
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let rid = Rid([7; 16]);
    let samples = [
        ("FWD of 784 B", Frame::Forward { rid, seq: 3, ack: 2, bytes: vec![1; 784].into() }),
        (
            "MESSAGE of 200 B",
            Frame::Message { channel: format!("computer/{rid}"), offset: 9, bytes: vec![1; 200].into() },
        ),
        ("FWDACK", Frame::ForwardAck { rid, ack: 4 }),
    ];
    for (name, frame) in samples {
        let bytes = frame.encode();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode {name}"), |bencher| bencher.iter(|| black_box(&frame).encode()));
        group.bench_function(format!("decode {name}"), |bencher| {
            bencher.iter(|| Frame::decode(black_box(&bytes)).unwrap())
        });
    }
    group.finish();
}

/// Both in turns, so that whatever else the machine does hits both alike; the median of each.
fn side_by_side(name: &str, mut whole: impl FnMut() -> Duration, mut primitives: impl FnMut()) {
    let (mut wholes, mut sums) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        wholes.push(whole());
        let begun = Instant::now();
        primitives();
        sums.push(begun.elapsed());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let (whole, sum) = (median(&mut wholes), median(&mut sums));
    println!("{name:<18} {whole:>9.1} us {sum:>12.1} us {:>9.0} %", 100.0 * sum / whole);
}

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots();
    handshakes(&mut criterion);
    checks(&mut criterion);
    frames(&mut criterion);
    criterion.final_summary();
    // `cargo test` runs benches once, to see that they run.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (mut scene, mut other) = (Scene::new(), Scene::new());
    let (mut agent, mut phone) = (Primitives::new(), Primitives::new());
    println!("\n{:<18} {:>12} {:>15} {:>11}", "side", "pairing", "its primitives", "of limit");
    side_by_side("agent, M1 to M6", || scene.pairing().agent, || agent.agent());
    side_by_side("phone, QR to M6", || other.pairing().phone, || phone.phone());
}
