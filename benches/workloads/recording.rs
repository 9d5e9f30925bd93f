//! What a finished request leaves in the statistics.

use std::hint::black_box;

use ringnbd::internal::stats::{ExportInterval, Operation, Timing};

use super::{ROUND, Workload};

/// Requests whose phases last from 1 us to about 1 ms.
fn recording(name: &'static str, histograms: bool) -> Workload {
    let mut export = ExportInterval::default();
    let timings: Vec<(Timing, u64)> = (0..u64::from(ROUND))
        .map(|index| {
            let arrived = 1_000_000 + index * 100;
            let submitted = arrived + 1_000 + index * 37;
            let completed = submitted + 5_000 + index * 7_919;
            let operation = if index % 3 == 0 { Operation::Write } else { Operation::Read };
            let timing = Timing {
                command: operation.into(),
                arrived,
                submitted,
                completed,
                offset: index * 4096,
                length: 4096,
            };
            (timing, completed + 2_000 + index * 911)
        })
        .collect();
    Workload::new(name, move || {
        for (timing, sent) in black_box(&timings) {
            export.count_bytes(timing.operation(), timing.length);
            if histograms {
                export.record(timing, *sent, 1);
            } else {
                export.count_request(timing.operation());
            }
        }
    })
}

pub(super) fn workloads() -> Vec<Workload> {
    vec![recording("stats/histograms", true), recording("stats/counters_only", false)]
}
