//! What every target checks of a decoder: no bytes make it panic, and what it takes has exactly one encoding.

use gatepass_protocol::{
    signed::{Body, Unverified},
    wire,
};

/// Decodes; what decodes encodes to the same bytes.
pub fn canonical<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = wire::from_slice::<T>(bytes) {
        assert_eq!(wire::to_vec(&value), bytes);
    }
}

/// Decodes signed bytes; what was not signed by this key does not verify.
pub fn never_verifies<B: Body>(bytes: &[u8]) {
    if let Ok(unverified) = Unverified::<B>::decode(bytes.to_vec()) {
        let nobody = gatepass_protocol::keys::PublicKey::Ed25519([9; 32]);
        assert!(unverified.verify(&nobody).is_err());
    }
}
