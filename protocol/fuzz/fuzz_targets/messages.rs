//! The bodies of M1 to M7, and their padding.
#![no_main]

use gatepass_protocol::pairing::{
    messages::{AgentHello, Context, Decision, DeviceHello, Ending, Hello, Outcome},
    padding::{self, Type},
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gatepass_fuzz::canonical::<Hello>(bytes);
    gatepass_fuzz::canonical::<AgentHello>(bytes);
    gatepass_fuzz::canonical::<DeviceHello>(bytes);
    gatepass_fuzz::canonical::<Context>(bytes);
    gatepass_fuzz::canonical::<Decision>(bytes);
    gatepass_fuzz::canonical::<Outcome>(bytes);
    gatepass_fuzz::canonical::<Ending>(bytes);
    for kind in [Type::Hello, Type::Context, Type::Sealed] {
        if let Ok(body) = padding::unpad(kind, bytes) {
            assert_eq!(padding::pad(kind, body).expect("it was that long").as_slice(), bytes);
        }
    }
});
