//! Relays and their clients in one process and in virtual time, on a course that a seed decides: pairings that are opened, claimed by
//! several at once, talked over, resumed and closed; channels that are listened to, published to and announced on; connections that are
//! cut, abandoned and slow; relays that crash, drain and lose the backplane, whose answers and notices come late and in any order.
//!
//! What runs is the relay from its WebSocket framing down to the hub and the mailbox; in memory are its sockets ([`pipe`]) and the
//! backplane behind a [`weather`] of its own. Each [`client`] checks each frame against what may come now; [`truth`] is the model.
//!
//! - of all claims of a pairing, at most one succeeds
//! - each message of a pairing arrives once and in order, and nothing after its end
//! - no end waits for ever: in the end all have arrived, or it was told that they will not
//! - whoever listens to a channel hears each message once and in order, or was told that some are missing; in the end everybody has the
//!   newest statement
//! - of a tenant's quota, no more is given out than there is
//! - once everybody has left, nothing is left: no connection, pairing, channel or task
//!
//! A course that goes wrong is printed with its seed, which plays it again:
//!
//! ```text
//! GATEPASS_SIMULATION_SEEDS=20000 cargo nextest run -p gatepass-relay simulation              as many as that
//! GATEPASS_SIMULATION_SEED=17 cargo nextest run -p gatepass-relay --no-capture simulation     that one, printed
//! ```

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod client;
mod dice;
pub(crate) mod pipe;
mod truth;
mod weather;
mod world;

use std::{
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// Courses of a usual run.
const USUAL: u64 = 250;

type Course = Vec<(u128, String)>;

fn play(seed: u64) -> Result<Course, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(world::play(seed))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn wrong(seed: u64, what: &str) -> ! {
    panic!("seed {seed}:\n{what}\nplay it again: GATEPASS_SIMULATION_SEED={seed}")
}

#[test]
fn whatever_happens_to_relays_and_clients_nothing_is_lost_doubled_or_left_waiting() {
    if let Some(seed) = number("GATEPASS_SIMULATION_SEED") {
        let course = play(seed).unwrap_or_else(|what| wrong(seed, &what));
        let lines: Vec<String> = course.iter().map(|(ms, what)| format!("{ms:>8} ms  {what}\n")).collect();
        return std::io::stderr().write_all(lines.concat().as_bytes()).unwrap();
    }
    let (seeds, next) = (number("GATEPASS_SIMULATION_SEEDS").unwrap_or(USUAL), AtomicU64::new(0));
    let some = || {
        loop {
            let seed = next.fetch_add(1, SeqCst);
            if seed >= seeds {
                return;
            }
            play(seed).unwrap_or_else(|what| wrong(seed, &what));
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let playing: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        playing.into_iter().for_each(|one| one.join().unwrap_or_else(|problem| std::panic::resume_unwind(problem)));
    });
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..8 {
        let (one, other) = (play(seed).unwrap(), play(seed).unwrap());
        let differs = one.iter().zip(&other).find(|(one, other)| one != other);
        assert_eq!((differs, one.len()), (None, other.len()), "seed {seed}");
    }
}
