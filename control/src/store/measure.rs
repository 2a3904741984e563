//! How long the audit trail takes to list and search, when there is a lot of it: fills a SQLite file and measures.
//!
//! `EVENTS=1000000 cargo nextest run --locked --release -p gatepass-control --run-ignored only --no-capture -E 'test(searching_the_trail)'`

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::time::{Duration, Instant};

use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::{ComputerId, TechnicianId, TenantId};
use gatepass_protocol::keys::{PublicKey, SignError, Signer};
use gatepass_protocol::signed::Signed;
use rand_core::Rng as _;

use super::*;
use crate::api::{Named, Outcome};
use crate::http::Slice;
use crate::{Control, rng};

/// Nobody verifies these signatures, so none is computed.
struct Nobody;

impl Signer for Nobody {
    fn public_key(&self) -> PublicKey {
        PublicKey::Ed25519([1; 32])
    }

    fn sign(&self, _: &[u8]) -> Result<[u8; 64], SignError> {
        Ok([1; 64])
    }
}

/// Computers, technicians, and one event in so many that is rare.
const COMPUTERS: u64 = 5_000;
const TECHNICIANS: u64 = 500;
const RARE: u64 = 10_000;
const START: u64 = 1_700_000_000;

fn id(number: u64) -> [u8; 16] {
    (u128::from(number) << 64 | 7).to_be_bytes()
}

fn event(tenant: TenantId, number: u64) -> Vec<u8> {
    let computer = ComputerId(id(number.wrapping_mul(7919) % COMPUTERS));
    let kind = match number {
        number if number.is_multiple_of(RARE) => EventKind::NotMe,
        number => [EventKind::Asked, EventKind::Granted, EventKind::Ended, EventKind::Refused][number as usize % 4],
    };
    let event = Event {
        tenant,
        computer,
        sequence: number,
        time: START + number / 10,
        kind,
        technician: (kind != EventKind::Asked).then(|| TechnicianId(id(number.wrapping_mul(104_729) % TECHNICIANS))),
        device: None,
        grant: None,
        scenario: None,
        account: "gp-alex".into(),
        code: None,
        evidence: vec![3; 32],
        policy_epoch: 12,
        text: "root wants to update the packages of this computer".into(),
    };
    Signed::sign(event, &Nobody).unwrap().bytes().to_vec()
}

fn fill(control: &Control, tenant: TenantId, events: u64) {
    let mut number = 0;
    while number < events {
        let to = (number + 20_000).min(events);
        let filled = control.inner.store.write(Scope::Tenant(tenant), |db| {
            for number in number..to {
                let computer = ComputerId(id(number.wrapping_mul(7919) % COMPUTERS));
                let actor = Actor::Computer { computer, revoked: false };
                append(db, tenant, actor, &event(tenant, number), START + number / 10)?;
            }
            Ok::<_, StoreError>(())
        });
        filled.unwrap();
        number = to;
    }
}

fn p99(mut took: Vec<Duration>) -> (Duration, Duration) {
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

#[test]
#[ignore = "measures, for docs/guides/audit.md: minutes, and a gigabyte for a million events"]
fn searching_the_trail() {
    let events: u64 = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let folder = tempfile::TempDir::new_in(std::env::var("FOLDER").unwrap_or("/tmp".into())).unwrap();
    let path = folder.path().join("control.sqlite");
    let control = Control::open(&path).unwrap();
    let tenant = control.inner.new_tenant(&Named { name: "Acme".into() }, START).unwrap().id;
    let begun = Instant::now();
    fill(&control, tenant, events);
    let took = begun.elapsed();
    let size = std::fs::metadata(&path).unwrap().len();
    println!("{events} events: {:.1} us and {} bytes each", took.as_secs_f64() * 1e6 / events as f64, size / events);
    type Choose = fn(u64) -> Filter;
    let searches: [(&str, Choose); 9] = [
        ("a page anywhere", |_| Filter::default()),
        ("a computer", |n| Filter { computer: Some(id(n % COMPUTERS)), ..Filter::default() }),
        ("a technician", |n| Filter { actor: Some(id(n % TECHNICIANS)), ..Filter::default() }),
        ("a technician, refused", |n| Filter {
            actor: Some(id(n % TECHNICIANS)),
            outcome: Some(Outcome::Refused),
            ..Filter::default()
        }),
        ("a kind", |_| Filter { kind: Some("granted".into()), ..Filter::default() }),
        ("a rare outcome", |_| Filter { outcome: Some(Outcome::Alert), ..Filter::default() }),
        ("what there is none of", |_| Filter { kind: Some("nothing".into()), ..Filter::default() }),
        ("a computer in a span", |n| Filter {
            computer: Some(id(n % COMPUTERS)),
            since: Some(START + n % 50_000),
            until: Some(START + n % 50_000 + 40_000),
            ..Filter::default()
        }),
        ("a page with proofs", |_| Filter::default()),
    ];
    let inner = &control.inner;
    for (name, choose) in searches {
        let took = (0..300).map(|_| {
            let random = rng().next_u64();
            let proved_in = name.ends_with("proofs").then_some(events);
            let filter = Filter { proved_in, ..choose(random >> 20) };
            let after = (random % events).to_be_bytes().to_vec();
            let slice = Slice { after, filter, ..Slice::default() };
            let begun = Instant::now();
            inner.events(tenant, &slice).unwrap();
            begun.elapsed()
        });
        let (half, most) = p99(took.collect());
        println!("{name:24} p50 {half:>10.1?}  p99 {most:>10.1?}");
    }
    let took = (0..300).map(|_| {
        let begun = Instant::now();
        inner.log(tenant, rng().next_u64() % events, START).unwrap();
        begun.elapsed()
    });
    let (half, most) = p99(took.collect());
    println!("{:24} p50 {half:>10.1?}  p99 {most:>10.1?}", "a head with its proof");
}
