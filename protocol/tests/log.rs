//! The audit log's tree: any number of entries, any of them, and whoever changes one.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::collections::HashMap;

use gatepass_protocol::api;
use gatepass_protocol::ids::TenantId;
use gatepass_protocol::keys::{PublicKey, Signer as _, SigningKey};
use gatepass_protocol::log::{self, Frontier, Hash, Nodes, Proof};
use gatepass_protocol::signed::Signed;
use gatepass_protocol::witness::{NotTheLog, Witness};
use proptest::prelude::*;

/// A log in memory.
#[derive(Default)]
struct Log {
    frontier: Frontier,
    nodes: HashMap<(u8, u64), Hash>,
}

impl Log {
    fn of(entries: &[Vec<u8>]) -> Log {
        let mut log = Log::default();
        for entry in entries {
            let nodes = &mut log.nodes;
            log.frontier.push(log::leaf(entry), |level, place, hash| {
                nodes.insert((level, place), *hash);
            });
        }
        log
    }
}

impl Nodes for Log {
    type Error = (u8, u64);

    fn node(&mut self, level: u8, place: u64) -> Result<Hash, (u8, u64)> {
        self.nodes.get(&(level, place)).copied().ok_or((level, place))
    }
}

/// RFC 9162, 2.1.1, word for word.
fn by_the_book(entries: &[Vec<u8>]) -> Hash {
    match entries {
        [] => log::nothing(),
        [one] => log::leaf(one),
        many => {
            let middle = many.len().next_power_of_two() / 2;
            log::node(&by_the_book(&many[..middle]), &by_the_book(&many[middle..]))
        }
    }
}

fn numbered(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|number| number.to_be_bytes().to_vec()).collect()
}

fn entries() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..150)
}

#[test]
fn the_trees_of_the_rfcs_own_implementation_come_out() {
    // The inputs and roots of Google's Certificate Transparency test data, which every implementation is compared with.
    let inputs: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut frontier = Frontier::default();
    for (input, root) in inputs.iter().zip(roots) {
        frontier.push(log::leaf(input), |_, _, _| {});
        let hex: String = frontier.root().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, root, "after {} entries", frontier.size());
    }
}

#[test]
fn every_entry_of_every_small_log_is_proved_and_every_two_logs_are_consistent() {
    for size in 1..=40 {
        let all = numbered(size);
        let mut log = Log::of(&all);
        let root = log.frontier.root();
        assert_eq!(root, by_the_book(&all));
        assert_eq!(log::root(&mut log, size), Ok(root));
        for index in 0..size {
            let proof = log::inclusion(&mut log, index, size).unwrap();
            let leaf = log::leaf(&all[index as usize]);
            assert_eq!(proof.includes(&leaf, index, size, &root), Ok(()), "{index} of {size}");
            for other in (0..size + 2).filter(|other| *other != index) {
                assert!(proof.includes(&leaf, other, size, &root).is_err(), "{index} passed for {other} of {size}");
            }
        }
        for old in 0..=size {
            let old_root = by_the_book(&all[..old as usize]);
            let proof = log::consistency(&mut log, old, size).unwrap();
            assert_eq!(proof.continues((old, &old_root), (size, &root)), Ok(()), "{old} to {size}");
            let mut begun = Frontier::new(old, log::frontier(&mut log, old).unwrap()).unwrap();
            assert_eq!(begun.root(), old_root);
            all[old as usize..].iter().for_each(|entry| begun.push(log::leaf(entry), |_, _, _| {}));
            assert_eq!(begun.root(), root);
        }
    }
}

proptest! {
    #[test]
    fn an_entry_that_was_changed_is_in_no_log(all in entries(), at in any::<prop::sample::Index>(), bit in 0_usize..8) {
        let (at, mut log) = (at.index(all.len()), Log::of(&all));
        let (size, root) = (all.len() as u64, log.frontier.root());
        let proof = log::inclusion(&mut log, at as u64, size).unwrap();
        let mut changed = all.clone();
        if changed[at].is_empty() { changed[at].push(0) } else { changed[at][0] ^= 1 << bit }
        prop_assert!(proof.includes(&log::leaf(&changed[at]), at as u64, size, &root).is_err());
        prop_assert_ne!(Log::of(&changed).frontier.root(), root);
    }

    #[test]
    fn a_log_that_was_forked_dropped_from_or_reordered_does_not_continue_the_old_one(
        all in entries(), more in entries(), at in any::<prop::sample::Index>(), how in 0..3,
    ) {
        let (old, old_root) = (all.len() as u64, Log::of(&all).frontier.root());
        let (mut other, at) = (all.clone(), at.index(all.len()));
        match how {
            0 => other[at].push(1),
            1 => drop(other.remove(at)),
            _ => other.rotate_left(at),
        }
        other.extend(more);
        prop_assume!(other.len() as u64 >= old && other[..all.len()] != all[..]);
        let mut log = Log::of(&other);
        let (new, new_root) = (other.len() as u64, log.frontier.root());
        let proof = log::consistency(&mut log, old, new).unwrap();
        prop_assert!(proof.continues((old, &old_root), (new, &new_root)).is_err());
    }

    #[test]
    fn a_proof_with_one_bit_flipped_proves_nothing(
        all in entries(), one in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>(),
    ) {
        let (mut log, size) = (Log::of(&all), all.len() as u64);
        let (root, one) = (log.frontier.root(), one.index(all.len()) as u64);
        let old_root = log::root(&mut log, one).unwrap();
        let flip = |proof: Proof| {
            let mut bytes = proof.to_bytes();
            if !bytes.is_empty() {
                let bit = bit.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            (!bytes.is_empty()).then(|| Proof::from_bytes(&bytes).unwrap())
        };
        if let Some(proof) = flip(log::inclusion(&mut log, one, size).unwrap()) {
            prop_assert!(proof.includes(&log::leaf(&all[one as usize]), one, size, &root).is_err());
        }
        if let Some(proof) = flip(log::consistency(&mut log, one, size).unwrap()) {
            prop_assert!(proof.continues((one, &old_root), (size, &root)).is_err());
        }
    }

    #[test]
    fn no_bytes_and_no_numbers_are_too_odd(
        bytes in prop::collection::vec(any::<u8>(), 0..2200), index in any::<u64>(), size in any::<u64>(), hash in any::<Hash>(),
    ) {
        let Ok(proof) = Proof::from_bytes(&bytes) else { return Ok(()) };
        prop_assert_eq!(proof.to_bytes(), bytes);
        prop_assert!(proof.includes(&hash, index, size, &hash).is_err() || (size == 1 && proof == Proof::default()));
        let _ = proof.continues((index, &hash), (size, &hash));
        let _ = Frontier::new(size, proof).map(|frontier| frontier.root());
    }
}

/// A control plane that shows a log.
struct Shower {
    entries: Vec<Vec<u8>>,
    key: SigningKey,
    tenant: TenantId,
}

impl Shower {
    fn show(&self, from: u64) -> api::Log {
        let mut log = Log::of(&self.entries);
        let size = self.entries.len() as u64;
        let head = log::Head { tenant: self.tenant, size, time: 7, root: log.frontier.root() };
        let PublicKey::Ed25519(key) = self.key.public_key() else { unreachable!() };
        let proof = |proof: Proof| Some(proof.to_bytes().into());
        api::Log {
            head: Signed::sign(head, &self.key).unwrap().bytes().to_vec().into(),
            key: key.to_vec().into(),
            consistency: (from <= size).then(|| log::consistency(&mut log, from, size).unwrap()).and_then(proof),
            frontier: None,
        }
    }
}

#[test]
fn a_witness_takes_what_continues_and_keeps_what_it_saw_where_something_does_not() {
    let mut server = Shower { entries: numbered(5), key: SigningKey::from_seed(&[1; 32]), tenant: TenantId([4; 16]) };
    let (mut witness, tenant) = (Witness::default(), server.tenant);
    assert_eq!(witness.accept(tenant, &server.show(0)).unwrap().size, 5);
    assert_eq!(witness.accept(tenant, &server.show(5)).unwrap().size, 5, "nothing new");
    server.entries = numbered(9);
    witness.accept(tenant, &server.show(5)).unwrap();
    assert_eq!((witness.seen(), witness.heads().len()), (9, 2));
    let before = witness.clone();
    let refused = |witness: &mut Witness, shown: &api::Log| {
        let error = witness.accept(tenant, shown).unwrap_err();
        assert_eq!(*witness, before, "what was seen is the evidence");
        error
    };
    // Changed, and grown so that it does not show by its size; cut off; and not proved.
    let honest = server.entries.clone();
    server.entries = numbered(30);
    server.entries[3] = b"other".to_vec();
    assert!(matches!(refused(&mut witness, &server.show(9)), NotTheLog::Forked { seen: 9, shown: 30, .. }));
    server.entries = numbered(8);
    assert!(refused(&mut witness, &server.show(9)).is_alarm());
    server.entries = numbered(20);
    assert!(refused(&mut witness, &server.show(4)).is_alarm(), "a proof from where it was not asked for");
    assert!(refused(&mut witness, &api::Log { consistency: None, ..server.show(9) }).is_alarm());
    // Somebody else's key, tenant or signature.
    server.entries = honest;
    server.key = SigningKey::from_seed(&[2; 32]);
    assert_eq!(refused(&mut witness, &server.show(9)), NotTheLog::OtherKey);
    let mut forged = server.show(9);
    forged.key = before.heads()[0].log_key.clone();
    assert_eq!(refused(&mut witness, &forged), NotTheLog::Signature);
    server.key = SigningKey::from_seed(&[1; 32]);
    server.tenant = TenantId([5; 16]);
    assert_eq!(refused(&mut witness, &server.show(9)), NotTheLog::OtherTenant(server.tenant));
    server.tenant = tenant;
    server.entries = numbered(20);
    assert_eq!(witness.accept(tenant, &server.show(9)).unwrap().size, 20, "and the honest log goes on");
}
