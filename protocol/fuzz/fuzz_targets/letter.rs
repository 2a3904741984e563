//! A sealed letter, to a key that nobody seals to.
#![no_main]

use gatepass_protocol::{keys::ChannelKey, sealed};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(sealed::open(&ChannelKey::from_bytes(&[3; 32]), bytes).is_err());
});
