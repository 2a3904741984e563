//! The text of a QR, and a channel's name.
#![no_main]

use gatepass_protocol::{channel::Channel, qr::QrPayload};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(qr) = QrPayload::from_text(text) {
        assert_eq!(qr.to_text(), text.trim_end_matches(['\r', '\n']));
    }
    if let Ok(channel) = text.parse::<Channel>() {
        assert_eq!(channel.to_string(), text);
    }
});
