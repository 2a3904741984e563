//! A challenge, its QR code, and what a policy says of offline codes.
#![no_main]

use gatepass_protocol::{
    ids::ComputerId,
    offline::{Challenge, ChallengeQr, OfflineTerms, Question},
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gatepass_fuzz::canonical::<OfflineTerms>(bytes);
    gatepass_fuzz::canonical::<Question>(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let computer = ComputerId([7; 16]);
    if let Ok(challenge) = Challenge::from_text(text, computer) {
        assert_eq!(Challenge::from_text(&challenge.text(), computer), Ok(challenge));
    }
    if let Ok(qr) = ChallengeQr::from_text(text) {
        assert_eq!(qr.to_text(), text.trim_end_matches(['\r', '\n']));
    }
});
