//! Times of the parts of a request's way, and of whole requests to a shard: `cargo bench --features bench --bench request_path`.
//!
//! Compare two builds with `--save-baseline` and `--baseline`; where the machine is noisy, count instructions (`perf/instructions`).

mod workloads;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn request_path(criterion: &mut Criterion) {
    for mut workload in workloads::all() {
        let (group, name) = workload.name.split_once('/').expect("names are group/name");
        let mut group = criterion.benchmark_group(group);
        group.throughput(Throughput::Elements(workload.operations));
        group.bench_function(name, |bencher| bencher.iter(|| (workload.round)()));
        group.finish();
    }
}

criterion_group!(benches, request_path);
criterion_main!(benches);
