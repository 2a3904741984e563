//! Runs one operation of the relay several times, for `benches/instructions` to count its instructions: everything that counts
//! happens inside of `counted`.
//!
//! ```text
//! gatepass-operation                 the operations' names
//! gatepass-operation NAME TIMES      runs it, and says how many units that was
//! ```
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use gatepass_benches::relay::{OPERATIONS, Operation};

/// As in the relay.
#[global_allocator]
static MEMORY: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Found by its name, so it must not be inlined.
#[inline(never)]
fn counted(operation: &mut dyn Operation) {
    operation.run();
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        return OPERATIONS.iter().for_each(|(name, _)| println!("{name}"));
    };
    let times: u64 = arguments.next().unwrap().parse().unwrap();
    let (_, make) = OPERATIONS.iter().find(|(known, _)| *known == name).unwrap();
    let mut operation = make();
    // The first time, tables grow and keys are made.
    operation.prepare();
    operation.run();
    for _ in 0..times {
        operation.prepare();
        counted(operation.as_mut());
    }
    println!("{}", times * operation.units());
}
