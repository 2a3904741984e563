//! The relay's hot paths, without what the network does between them: [`OPERATIONS`]. What is written to sockets of this machine
//! is written, and the kernel's part of that counts.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use gatepass_benches::relay::OPERATIONS;

/// As in the relay.
#[global_allocator]
static MEMORY: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots();
    let mut group = criterion.benchmark_group("relay");
    for (name, make) in OPERATIONS {
        let mut operation = make();
        group.throughput(Throughput::Elements(operation.units()));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    operation.prepare();
                    let begun = Instant::now();
                    operation.run();
                    spent += begun.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
