//! What comes over a relay's channels: bulletins, who is online, and letters as they are inside their seal.
#![no_main]

use gatepass_protocol::{channel::Bulletin, order::Letter, presence::Presence};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(bulletin) = Bulletin::decode(bytes) {
        assert_eq!(bulletin.encode(), bytes);
    }
    if let Ok(presence) = Presence::decode(bytes) {
        assert_eq!(presence.encode(), bytes);
    }
    if let Ok(letter) = Letter::decode(bytes) {
        assert_eq!(letter.encode(), bytes);
    }
});
