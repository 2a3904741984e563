//! The local socket between the PAM module and the daemon, from both ends.
#![no_main]

use gatepass_logon::wire::{FromDaemon, FromModule, read_frame};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = read_frame::<FromModule>(&mut &bytes[..]);
    let _ = read_frame::<FromDaemon>(&mut &bytes[..]);
});
