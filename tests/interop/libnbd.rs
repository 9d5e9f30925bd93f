//! libnbd's programs: `nbdinfo`, `nbdcopy` and scripts in `nbdsh`.

use std::process::Command;

use serde_json::Value;

use crate::peers::{self, run, run_with_input};
use crate::picture::Picture;
use crate::qemu_img::assert_holes;
use crate::subject::{Disk, Subject, Transport};

const SIZE: usize = (24 << 20) + (20 << 10);
/// What a file system may add to the data of a file: its own map, rounding.
const SLACK: u64 = 512 << 10;

fn tool(name: &str, arguments: &[&str]) -> Option<Command> {
    let mut command = peers::command(name)?;
    command.args(arguments);
    Some(command)
}

pub(crate) fn info_plain(transport: Transport, disk: Disk) -> Option<()> {
    let subject = Subject::empty(SIZE as u64, transport, disk)?;
    let text = run(tool("nbdinfo", &["--no-content"])?.arg(subject.uri())).ok();
    for expected in ["protocol: newstyle-fixed without TLS", &format!("export-size: {SIZE}")] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    let size = run(tool("nbdinfo", &["--size"])?.arg(subject.uri())).ok();
    assert_eq!(size.trim(), SIZE.to_string());
    // Looks at the first bytes of the disk.
    run(tool("nbdinfo", &["--content"])?.arg(subject.uri())).ok();
    Some(())
}

/// Everything the server can do is offered, and the block sizes keep the protocol's limits.
pub(crate) fn info_json(transport: Transport, disk: Disk) -> Option<()> {
    let subject = Subject::empty(SIZE as u64, transport, disk)?;
    let text = run(tool("nbdinfo", &["--json", "--no-content"])?.arg(subject.uri())).ok();
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed", "{text}");
    assert_eq!((&info["structured"], &info["extended"]), (&true.into(), &true.into()), "{text}");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], SIZE, "{text}");
    for ability in ["cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"] {
        assert_eq!(export[format!("can_{ability}")], true, "{ability} in {text}");
    }
    assert_eq!(export["is_read_only"], false, "{text}");
    let contexts = export["contexts"].as_array().unwrap();
    assert!(contexts.iter().any(|context| context == "base:allocation"), "{text}");
    let block_size = |which: &str| export[format!("block_size_{which}")].as_u64().unwrap();
    let (minimum, preferred, maximum) =
        (block_size("minimum"), block_size("preferred"), block_size("maximum"));
    assert!(minimum.is_power_of_two() && minimum <= 65536, "{text}");
    assert!(preferred.is_power_of_two() && preferred >= minimum.max(512), "{text}");
    assert!(maximum >= 32 << 20 && maximum % minimum == 0, "{text}");
    Some(())
}

pub(crate) fn info_map(transport: Transport, disk: Disk) -> Option<()> {
    let picture = Picture::sparse(SIZE);
    let subject = Subject::holding(&picture, transport, disk)?;
    let text = run(tool("nbdinfo", &["--map", "--json"])?.arg(subject.uri())).ok();
    let extents: Vec<Value> = serde_json::from_str(&text).unwrap();
    let (mut at, mut zeros) = (0, Vec::new());
    for extent in &extents {
        assert_eq!(extent["offset"], at, "a gap in {text}");
        let end = at + extent["length"].as_u64().unwrap();
        // Bit 1 of base:allocation: NBD_STATE_ZERO.
        if extent["type"].as_u64().unwrap() & 2 != 0 {
            zeros.push(at as usize..end as usize);
        }
        at = end;
    }
    assert_eq!(at, SIZE as u64, "the end of {text}");
    assert_holes(&picture, &zeros, disk);
    Some(())
}

/// A sparse image over four connections replaces other contents and makes holes.
pub(crate) fn copy_in(transport: Transport, disk: Disk) -> Option<()> {
    let (before, picture) = (Picture::full(SIZE), Picture::sparse(SIZE));
    let subject = Subject::holding(&before, transport, disk)?;
    let source = subject.scratch("source.img");
    picture.save(&source);
    // Zeros are not looked for: holes of the source must become holes by TRIM or WRITE_ZEROES. Without that search,
    // nbdcopy rounds data to whole requests: as small as the picture's grain.
    let options = ["--connections=4", "--requests=64", "--request-size=65536", "--sparse=0", "--flush"];
    run(tool("nbdcopy", &options)?.arg(&source).arg(subject.uri())).ok();
    if let Some(allocated) = subject.allocated() {
        assert!(allocated <= picture.allocated() + SLACK, "{allocated} for {} of data", picture.allocated());
    }
    picture.assert_is(&subject.stop_and_read()?, "the disk");
    Some(())
}

/// The other way: what BLOCK_STATUS calls a hole becomes one in the copy.
pub(crate) fn copy_out(transport: Transport, disk: Disk) -> Option<()> {
    use std::os::unix::fs::MetadataExt as _;
    let picture = Picture::sparse(SIZE);
    let subject = Subject::holding(&picture, transport, disk)?;
    let target = subject.scratch("target.img");
    let options = ["--connections=4", "--requests=64", "--request-size=65536", "--sparse=0", "--flush"];
    run(tool("nbdcopy", &options)?.arg(subject.uri()).arg(&target)).ok();
    picture.assert_is(&std::fs::read(&target).unwrap(), "the copy");
    if disk.is_regular_file() {
        let allocated = std::fs::metadata(&target).unwrap().blocks() * 512;
        assert!(allocated <= picture.allocated() + SLACK, "{allocated} for {} of data", picture.allocated());
    }
    Some(())
}

/// Runs a script of `tests/interop/nbdsh` against a disk that holds a picture. It finds the URI in `URI`, the picture
/// in the file `PICTURE`, and changes both alike; afterwards they are compared.
fn shell(transport: Transport, disk: Disk, script: &str, mode: &str) -> Option<()> {
    let picture = Picture::sparse(SIZE);
    let subject = Subject::holding(&picture, transport, disk)?;
    let expected = subject.scratch("picture.img");
    picture.save(&expected);
    let mut command = peers::command("nbdsh")?;
    command.args(["-n", "-c", "-"]).env("URI", subject.uri()).env("MODE", mode);
    command.env("PICTURE", &expected).env("SEED", picture.seed.to_string());
    command.env("HOLES", if disk.is_regular_file() { "1" } else { "0" });
    let prelude = include_str!("nbdsh/prelude.py");
    run_with_input(&mut command, format!("{prelude}\n{script}").as_bytes()).ok();
    let bytes = std::fs::read(&expected).unwrap();
    Picture { bytes, ..picture }.assert_is(&subject.stop_and_read()?, "the disk after the script");
    Some(())
}

pub(crate) fn shell_simple(transport: Transport, disk: Disk) -> Option<()> {
    shell(transport, disk, include_str!("nbdsh/commands.py"), "simple")
}

pub(crate) fn shell_structured(transport: Transport, disk: Disk) -> Option<()> {
    shell(transport, disk, include_str!("nbdsh/commands.py"), "structured")
}

pub(crate) fn shell_extended(transport: Transport, disk: Disk) -> Option<()> {
    shell(transport, disk, include_str!("nbdsh/commands.py"), "extended")
}

/// Requests that libnbd itself would refuse are sent, refused by the server, and the connection lives.
pub(crate) fn shell_strict_off(transport: Transport, disk: Disk) -> Option<()> {
    for mode in ["simple", "structured", "extended"] {
        shell(transport, disk, include_str!("nbdsh/strict_off.py"), mode)?;
    }
    Some(())
}

pub(crate) fn shell_pipeline(transport: Transport, disk: Disk) -> Option<()> {
    for mode in ["simple", "extended"] {
        shell(transport, disk, include_str!("nbdsh/pipeline.py"), mode)?;
    }
    Some(())
}

pub(crate) fn shell_multi_conn(transport: Transport, disk: Disk) -> Option<()> {
    shell(transport, disk, include_str!("nbdsh/multi_conn.py"), "extended")
}

/// Single requests of more than 4 GiB.
pub(crate) fn shell_64_bit(transport: Transport, disk: Disk) -> Option<()> {
    let subject = Subject::empty(16 << 30, transport, disk)?;
    let mut command = peers::command("nbdsh")?;
    command.args(["-n", "-c", "-"]).env("URI", subject.uri()).env("MODE", "extended");
    let script = concat!(include_str!("nbdsh/prelude.py"), "\n", include_str!("nbdsh/large.py"));
    run_with_input(&mut command, script.as_bytes()).ok();
    Some(())
}
