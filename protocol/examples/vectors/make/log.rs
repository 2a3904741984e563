use std::collections::HashMap;

use gatepass_protocol::{
    ids::ComputerId,
    keys::{Signer, SigningKey},
    log::{self, Entry, Frontier, Hash, Head, Nodes},
    signed::Signed,
    testing::{NOW, Tenant},
    wire,
};
use serde_json::{Value, json};

use super::hex;

#[derive(Default)]
struct Tree(HashMap<(u8, u64), Hash>);

impl Nodes for Tree {
    type Error = (u8, u64);

    fn node(&mut self, level: u8, place: u64) -> Result<Hash, (u8, u64)> {
        self.0.get(&(level, place)).copied().ok_or((level, place))
    }
}

fn entry(number: u64) -> Entry {
    let computer = (!number.is_multiple_of(3)).then_some(ComputerId([7; 16]));
    let event = if computer.is_some() {
        vec![number as u8; 5]
    } else {
        br#"{"at":1,"act":"group made","to":"night"}"#.to_vec()
    };
    Entry { received: NOW + number, computer, revoked: number == 4, event }
}

pub fn file() -> Value {
    let tenant = Tenant::new(11);
    let key = SigningKey::from_seed(&[12; 32]);
    let (mut tree, mut frontier, mut entries, mut roots) =
        (Tree::default(), Frontier::default(), Vec::new(), Vec::new());
    roots.push(json!({ "size": 0, "root": hex(frontier.root()) }));
    for number in 0..7 {
        let entry = entry(number);
        let nodes = &mut tree.0;
        frontier.push(entry.leaf(), |level, place, hash| {
            nodes.insert((level, place), *hash);
        });
        entries.push(json!({
            "received": entry.received, "computer": entry.computer.map(|id| id.to_string()), "revoked": entry.revoked,
            "event": hex(&entry.event), "entry": hex(wire::to_vec(&entry)), "leaf": hex(entry.leaf()),
        }));
        roots.push(json!({ "size": number + 1, "root": hex(frontier.root()) }));
    }
    let (mut inclusion, mut consistency) = (Vec::new(), Vec::new());
    for size in [1, 5, 7] {
        for index in 0..size {
            let proof = log::inclusion(&mut tree, index, size).unwrap().to_bytes();
            inclusion.push(json!({ "index": index, "size": size, "proof": hex(proof) }));
        }
        for old in 1..=size {
            let proof = log::consistency(&mut tree, old, size).unwrap().to_bytes();
            let frontier = log::frontier(&mut tree, old).unwrap().to_bytes();
            consistency.push(json!({ "old": old, "new": size, "proof": hex(proof), "frontier_of_old": hex(frontier) }));
        }
    }
    let head = Head { tenant: tenant.id, size: 7, time: NOW + 9, root: frontier.root() };
    let signed = Signed::sign(head.clone(), &key).unwrap();
    json!({
        "about": "The audit log: what its leaves are made of, the roots as it grows, proofs, and a signed head. Section 13.",
        "entries": entries, "roots": roots, "inclusion": inclusion, "consistency": consistency,
        "head": {
            "tenant": head.tenant.to_string(), "size": head.size, "time": head.time, "root": hex(head.root),
            "log_key": hex(&key.public_key().spki()[12..]), "signed": hex(signed.bytes()),
        },
    })
}
