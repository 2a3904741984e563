//! A vault, as far as it is read without its password.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = gatepass_protocol::vault::name(text);
});
