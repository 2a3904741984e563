//! A signed approval, and the other bodies that agents, devices and tickets sign.
#![no_main]

use gatepass_protocol::{
    enrol::DeviceRequest,
    event::Event,
    frame::RelayAuth,
    order::{Order, Receipt, Report},
    pairing::messages::Approval,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gatepass_fuzz::never_verifies::<Approval>(bytes);
    gatepass_fuzz::canonical::<Approval>(bytes);
    gatepass_fuzz::never_verifies::<RelayAuth>(bytes);
    gatepass_fuzz::never_verifies::<DeviceRequest>(bytes);
    gatepass_fuzz::never_verifies::<Event>(bytes);
    gatepass_fuzz::never_verifies::<Order>(bytes);
    gatepass_fuzz::never_verifies::<Report>(bytes);
    gatepass_fuzz::never_verifies::<Receipt>(bytes);
});
