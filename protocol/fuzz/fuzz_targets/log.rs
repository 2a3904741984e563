//! A proof that somebody sends, an entry and a signed head of the audit log.
#![no_main]

use gatepass_protocol::log::{self, Entry, Frontier, Head, Proof};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gatepass_fuzz::canonical::<Entry>(bytes);
    gatepass_fuzz::canonical::<Head>(bytes);
    gatepass_fuzz::never_verifies::<Head>(bytes);
    let Some((numbers, rest)) = bytes.split_first_chunk::<16>() else { return };
    let numbers = u128::from_be_bytes(*numbers);
    let (index, size) = ((numbers >> 64) as u64, numbers as u64);
    let Ok(proof) = Proof::from_bytes(rest) else { return };
    assert_eq!(proof.to_bytes(), rest);
    // Nobody finds a way from one hash to another that was chosen before.
    let (leaf, root) = (log::leaf(b"one"), log::leaf(b"another"));
    assert!(proof.includes(&leaf, index, size, &root).is_err());
    assert!(index == 0 || proof.continues((index, &leaf), (size, &root)).is_err());
    if let Ok(frontier) = Frontier::new(size, proof) {
        assert!(frontier.root() != root);
    }
});
