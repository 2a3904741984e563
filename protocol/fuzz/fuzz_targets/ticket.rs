//! An enrolment ticket's text, and a CA key's PEM.
#![no_main]

use gatepass_protocol::{enrol::Ticket, trust::CaPublic};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(ticket) = Ticket::from_text(text) {
        assert_eq!(ticket.to_text(), text.trim());
        for ca in &ticket.cas {
            let _ = CaPublic::from_pem(ca);
        }
    }
    if let Ok(ca) = CaPublic::from_pem(text) {
        assert_eq!(CaPublic::from_pem(&ca.to_pem()), Ok(ca));
    }
});
