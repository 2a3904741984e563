//! Whatever is offered to a trust store, its epochs don't go back. The tenant is that of the vectors.
#![no_main]

use std::sync::LazyLock;

use gatepass_protocol::{
    testing::{NOW, Tenant},
    trust::TrustStore,
};

static TRUST: LazyLock<TrustStore> = LazyLock::new(|| {
    let mut tenant = Tenant::new(600);
    let mut trust = tenant.trust_with_policy();
    let list = tenant.revocation(3, vec![]);
    trust.accept(&list, NOW).expect("a list of this tenant");
    trust
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut trust = TRUST.clone();
    let offered = bytes::Bytes::copy_from_slice(bytes);
    let _ = trust.accept(&offered, NOW);
    assert!(trust.revocation_epoch() >= 3 && trust.policy_epoch() >= 1);
    let _ = trust.certificate(&[offered.clone()], NOW);
    let _ = trust.certificate(&[offered.clone(), offered], NOW);
});
