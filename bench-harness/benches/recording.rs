//! What the generator's own work costs: a second of a million messages, in batches of half a
//! millisecond each. Recording is to be less than 5% of a message's whole work, which also has a
//! socket in it; the schedule and the batches alone are here.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_bench::cost::Generator;

const RATE_PER_S: u64 = 1_000_000;
const MESSAGE_BYTES: usize = 100;
const STEP_NS: u64 = 500_000;

fn generator(c: &mut Criterion) {
    let mut group = c.benchmark_group("generator");
    group.throughput(Throughput::Elements(RATE_PER_S));
    group.sample_size(10);
    for (name, builds, records) in [
        ("schedule", false, false),
        ("schedule and record", false, true),
        ("schedule and build", true, false),
        ("schedule, build and record", true, true),
    ] {
        let mut generator = Generator::new(RATE_PER_S, MESSAGE_BYTES);
        group.bench_function(name, |b| {
            b.iter(|| generator.second(STEP_NS, builds, records))
        });
    }
    group.finish();
}

criterion_group!(benches, generator);
criterion_main!(benches);
