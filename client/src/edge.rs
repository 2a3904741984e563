//! The impure edge: the system's clock and randomness. Everything below it takes `now` and an RNG as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use rand_core::{CryptoRng, UnwrapErr};

/// Now, in seconds since 1970 (0 on a machine whose clock lies before that: everything then counts as not yet valid).
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The operating system's random numbers. Panics when the system has none, for then no key may be made.
pub fn rng() -> impl CryptoRng {
    UnwrapErr(getrandom::SysRng)
}

/// `N` fresh random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    use rand_core::Rng as _;
    let mut bytes = [0; N];
    rng().fill_bytes(&mut bytes);
    bytes
}
