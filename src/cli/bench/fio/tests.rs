use super::*;

fn parse(text: &str) -> (Result<FioJob, String>, Vec<String>) {
    let mut warnings = Vec::new();
    (FioJob::parse(text, false, &mut warnings), warnings)
}

#[track_caller]
fn error(text: &str) -> String {
    parse(text).0.unwrap_err()
}

#[test]
fn the_common_keys() {
    let text = "\
; as fio's own example
[global]
ioengine=nbd
uri=nbd+unix:///?socket=/tmp/socket
bs=4k
  iodepth = 32
time_based
runtime=30
ramp_time=500ms

[job0]
# of both sections
rw=randrw
rwmixread=50
fsync=16
numjobs=4
rate_iops=1000
offset=1m
size=2G
randseed=5
verify=crc32c
group_reporting
";
    let (job, warnings) = parse(text);
    let expected = FioJob {
        uri: Some("nbd+unix:///?socket=/tmp/socket".parse().unwrap()),
        rw: Some(ReadWrite::Randrw),
        mix: Some(50),
        fsync: Some(16),
        bs: Some(4096),
        depth: Some(32),
        connections: Some(4),
        // Four jobs, reads and writes.
        rate: Some(8000),
        duration: Some(Duration::from_secs(30)),
        warm_up: Some(Duration::from_millis(500)),
        operations: None,
        size: Some(2 << 30),
        offset: Some(1 << 20),
        seed: Some(5),
        verify: true,
        time_based: true,
    };
    assert_eq!(job, Ok(expected));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_rate_holds_for_each_job_and_for_reads_and_writes() {
    let rate = |lines: &str| parse(&format!("[j]\nsize=1m\nrate_iops=500\n{lines}")).0.unwrap();
    assert_eq!(rate("rw=randwrite\nnumjobs=3").rate, Some(1500));
    assert_eq!(rate("rw=randrw").rate, Some(1000));
    let (job, warnings) = parse("[j]\nsize=1m\nrate_iops=500\nrw=randrw\nrwmixread=70");
    assert_eq!(job.unwrap().mix, Some(50));
    assert!(warnings[0].contains("rwmixread has no effect"), "{warnings:?}");
}

#[test]
fn variables_of_the_environment_are_used() {
    let path = std::env::var("PATH").unwrap();
    assert_eq!(with_variables("a${PATH}b${PATH}"), Ok(format!("a{path}b{path}")));
    assert!(with_variables("${RINGNBD_NO_SUCH}").unwrap_err().contains("RINGNBD_NO_SUCH"));
    assert!(error("[j]\nsize=${PATH\n").contains("line 2: ${PATH lacks its }"));
}

#[test]
fn without_time_based_each_job_moves_its_size() {
    let job = parse("[j]\nrw=read\nbs=8k\nsize=1m\nnumjobs=3\nruntime=60").0.unwrap();
    assert_eq!((job.operations, job.duration), (Some(3 * 128), Some(Duration::from_secs(60))));
    let (job, warnings) = parse("[j]\nruntime=2m");
    assert_eq!(job.unwrap().duration, Some(Duration::from_secs(120)));
    assert!(warnings[0].contains("time_based"), "{warnings:?}");
    assert_eq!(parse("[j]\nnumber_ios=10\nnumjobs=2").0.unwrap().operations, Some(20));
    assert!(error("[j]\nrw=read").contains("no end"));
    assert!(error("[j]\ntime_based=1\nsize=1m").contains("needs a runtime"));
}

#[test]
fn unknown_keys_are_named_and_unsupported_ones_refused() {
    let (job, warnings) = parse("[j]\nsize=1m\nclocksource=cpu\ncpus_allowed=1");
    assert!(job.is_ok());
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].ends_with(": clocksource, cpus_allowed"), "{warnings:?}");
    for (line, says) in [
        ("rw=rw", "rw=rw is not supported"),
        ("rw=trimwrite", "not supported"),
        ("bs=4k-64k", "one size"),
        ("bs=4k,8k", "one size"),
        ("size=50%", "one size"),
        ("rate_iops=100,200", "one whole number"),
        ("rate=10m", "rate is not supported"),
        ("offset_increment=1g", "offset_increment is not supported"),
        ("ioengine=libaio", "is not NBD"),
        ("verify=null", "crc32c"),
        ("do_verify=0", "always read back"),
        ("rwmixread=101", "0 to 100"),
        ("iodepth=0", "above 0"),
        ("iodepth", "needs a value"),
        ("uri=http://x", "not an NBD URI"),
        ("runtime=5x", "not a time"),
        ("[k]", "a second job"),
        ("[global]", "must stand before"),
        ("[k", "lacks its ]"),
    ] {
        let error = error(&format!("[j]\nsize=1m\n{line}\n"));
        assert!(error.contains(says) && error.starts_with("line 3: "), "{line}: {error}");
    }
}

#[test]
fn sizes_and_times_as_fio_writes_them() {
    for (text, bytes) in [("512", 512), ("4K", 4096), ("4kb", 4096), ("4KiB", 4096), ("1t", 1 << 40)] {
        assert_eq!(size("bs", text), Ok(bytes), "{text}");
    }
    for text in ["", "k", "1p5", "99999999999t", "-1"] {
        assert!(size("bs", text).is_err(), "{text}");
    }
    for (text, milliseconds) in [("3", 3_000), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000)] {
        assert_eq!(seconds("runtime", text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
}
