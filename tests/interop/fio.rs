//! `fio` with its own NBD engine: four jobs, each with its connection and 64 requests in flight, checksums on every block.

use serde_json::Value;

use crate::peers::{self, run};
use crate::picture;
use crate::subject::{Disk, Subject, Transport};

/// Each of the four jobs has its own part of the disk.
const PART: u64 = 8 << 20;

pub(crate) fn verify(transport: Transport, disk: Disk) -> Option<()> {
    let seed = picture::seed();
    let subject = Subject::empty(4 * PART, transport, disk)?;
    let mut command = peers::command("fio")?;
    command.args(["--name=verify", "--ioengine=nbd", "--rw=randrw", "--iodepth=64", "--numjobs=4"]);
    command.args(["--bsrange=4k-64k", "--blockalign=4k", "--verify=crc32c", "--verify_fatal=1"]);
    command.args(["--verify_state_save=0", "--fsync=200", "--output-format=json"]);
    command.args([format!("--size={PART}"), format!("--offset_increment={PART}")]);
    command.arg(format!("--randseed={}", seed >> 1)).arg(format!("--uri={}", subject.uri()));
    let text = run(command.current_dir(subject.scratch(""))).ok();
    // Engines may greet on standard output first.
    let report: Value = serde_json::from_str(&text[text.find("{\n").unwrap()..]).unwrap();
    let jobs = report["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 4, "{text}");
    for job in jobs {
        assert_eq!(job["error"], 0, "{text}");
        let done = |side: &str| job[side]["total_ios"].as_u64().unwrap();
        assert!(done("write") > 50 && done("read") > 100, "{text}");
    }
    Some(())
}
