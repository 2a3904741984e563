//! A statement and the terms of each kind, signed and not.
#![no_main]

use gatepass_protocol::{
    policy::Policy,
    statement::{AgentTerms, DeviceTerms, RelayTerms, RevocationTerms, Statement, TicketTerms},
    wire,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gatepass_fuzz::never_verifies::<Statement>(bytes);
    gatepass_fuzz::canonical::<Statement>(bytes);
    let constraints = wire::from_slice::<Statement>(bytes).map(|statement| statement.constraints);
    for terms in [bytes, constraints.as_deref().unwrap_or_default()] {
        gatepass_fuzz::canonical::<DeviceTerms>(terms);
        gatepass_fuzz::canonical::<AgentTerms>(terms);
        gatepass_fuzz::canonical::<TicketTerms>(terms);
        gatepass_fuzz::canonical::<Policy>(terms);
        gatepass_fuzz::canonical::<RevocationTerms>(terms);
        gatepass_fuzz::canonical::<RelayTerms>(terms);
    }
});
