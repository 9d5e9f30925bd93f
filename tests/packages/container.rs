//! The seccomp profile for containers: it has what the sandbox leaves, nothing of what the sandbox calls hostile, and a server starts under it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde_json::Value;

use super::{PACKAGES, PROGRAM};
use crate::peers;

fn profile() -> Value {
    let text = std::fs::read_to_string(format!("{PACKAGES}/container/seccomp.json")).expect("the profile");
    serde_json::from_str(&text).expect("JSON")
}

/// Names with this action.
fn named(profile: &Value, action: &str) -> BTreeSet<String> {
    let rules = profile["syscalls"].as_array().expect("rules").iter();
    let names = rules.filter(|rule| rule["action"] == action).map(|rule| rule["names"].as_array());
    names.flatten().flatten().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// Calls that a part of the sandbox's source names; those that libc does not know have their names in a comment.
fn of_the_sandbox(part: &str) -> BTreeSet<String> {
    let names = part.split("libc::SYS_").skip(1).map(|rest| {
        rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
    });
    let numbers = part.lines().filter_map(|line| {
        let (number, name) = line.trim().split_once(", // ")?;
        number.parse::<u32>().ok().map(|_| name.to_owned())
    });
    names.chain(numbers).collect()
}

#[test]
fn the_profile_has_what_the_sandbox_leaves() {
    let source = include_str!("../../src/sandbox/filter.rs");
    let (source, _tests) = source.split_once("#[cfg(test)]\nmod tests").expect("tests");
    let (before, hostile) = source.split_once("const HOSTILE").expect("a list of hostile calls");
    let (hostile, behind) = hostile.split_once("];").expect("its end");
    let profile = profile();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed = named(&profile, "SCMP_ACT_ALLOW");
    let mut wanted = of_the_sandbox(before);
    wanted.extend(of_the_sandbox(behind));
    // Where threads are made without `clone`, its C library has it refused so.
    assert!(wanted.remove("clone3") && named(&profile, "SCMP_ACT_ERRNO").contains("clone3"));
    let missing: Vec<_> = wanted.difference(&allowed).collect();
    assert!(wanted.len() > 100 && missing.is_empty(), "the profile lacks {missing:?}");
    let hostile = of_the_sandbox(hostile);
    // The container's own process is started under it.
    let bad: Vec<_> = hostile.intersection(&allowed).filter(|name| *name != "execve").collect();
    assert!(hostile.len() > 30 && bad.is_empty(), "the profile allows {bad:?}");
}

/// The numbers of this architecture's calls, of the kernel's header.
fn numbers() -> Option<BTreeMap<String, i64>> {
    let places = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"];
    let text = places.iter().find_map(|place| std::fs::read_to_string(place).ok());
    let text = peers::or_skip(text.filter(|_| cfg!(target_arch = "x86_64")), "numbers of system calls")?;
    let number = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    Some(text.lines().filter_map(number).collect())
}

/// The profile as programs for the kernel. A call that the header is too old for is left out, as a container's runtime does.
fn programs(profile: &Value) -> Option<[BpfProgram; 2]> {
    let numbers = numbers()?;
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture");
    let mut allowed = BTreeMap::new();
    for rule in profile["syscalls"].as_array().expect("rules") {
        if rule["action"] != "SCMP_ACT_ALLOW" {
            continue;
        }
        let conditions = rule["args"].as_array().into_iter().flatten().map(|argument| {
            assert_eq!(argument["op"], "SCMP_CMP_MASKED_EQ");
            let number = |name: &str| argument[name].as_u64().expect("a number");
            let operator = SeccompCmpOp::MaskedEq(number("value"));
            let index = number("index") as u8;
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, number("valueTwo")).unwrap()
        });
        let conditions: Vec<_> = conditions.collect();
        for name in rule["names"].as_array().expect("names").iter().filter_map(Value::as_str) {
            let rules = if conditions.is_empty() {
                Vec::new()
            } else {
                vec![SeccompRule::new(conditions.clone()).unwrap()]
            };
            if let Some(&number) = numbers.get(name) {
                allowed.insert(number, rules);
            }
        }
    }
    assert!(allowed.len() > 150);
    let refused = |errno: i32| SeccompAction::Errno(errno as u32);
    let clone3 = BTreeMap::from([(numbers["clone3"], Vec::new())]);
    // `clone3` passes here, so that it fails as the other program says.
    allowed.insert(numbers["clone3"], Vec::new());
    let first = SeccompFilter::new(clone3, SeccompAction::Allow, refused(libc::ENOSYS), architecture);
    let second = SeccompFilter::new(allowed, refused(libc::EPERM), SeccompAction::Allow, architecture);
    Some([first.unwrap().try_into().unwrap(), second.unwrap().try_into().unwrap()])
}

fn under_the_profile(arguments: &[&str]) -> Option<peers::Finished> {
    let programs = programs(&profile())?;
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    // SAFETY: what runs between fork and exec makes system calls only; the programs were made before.
    unsafe {
        command.pre_exec(move || {
            for program in &programs {
                seccompiler::apply_filter(program).map_err(|_| std::io::Error::last_os_error())?;
            }
            Ok(())
        });
    }
    Some(peers::run(&mut command))
}

#[test]
fn a_server_starts_under_the_profile_and_serves() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("disk.img"), vec![1; 1 << 20]).unwrap();
    let program = format!("'{PROGRAM}'");
    let copy = format!("{program} copy \"$uri\" '{}' --verify --quiet", path("copy.img"));
    let disk = format!("file:{}?direct=true", path("disk.img"));
    let small = ["serve", "--shards", "1", "--memory", "64M", "--sandbox", "on", "--run", &copy];
    let Some(finished) = under_the_profile(&[&small[..], &[&disk]].concat()) else { return };
    // A command that is started by the server is under its sandbox's filter no less.
    assert!(finished.status.success(), "{finished}");
    assert_eq!(std::fs::read(path("copy.img")).unwrap(), vec![1; 1 << 20]);
    let store = path("store");
    for arguments in [&["store", "init", &store][..], &["image", "create", &format!("{store}/a"), "1M"]] {
        let finished = under_the_profile(arguments).expect("as before");
        assert!(finished.status.success(), "{finished}");
    }
    let look = format!("{program} info \"$uri\"");
    let overlay = format!("overlay:{}?base={}", path("overlay"), path("disk.img"));
    let control = format!("unix:{}", path("c"));
    let arguments =
        ["serve", "--shards", "1", "--memory", "64M", "--control", &control, "--run", &look, &overlay];
    let finished = under_the_profile(&arguments).expect("as before");
    assert!(finished.status.success(), "{finished}");
}
