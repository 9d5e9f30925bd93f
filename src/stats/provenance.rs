//! What made a log: the command and the machine, as comments that a report repeats.

use std::fs;
use std::sync::OnceLock;

/// Begins the comment with the command line.
pub const COMMAND: &str = "command: ";
/// Begins the comment with the machine.
pub const MACHINE: &str = "machine: ";

/// The comments for a log of this process: command, version, machine.
pub fn comments() -> Vec<String> {
    let words = std::env::args_os().map(|word| quote(&word.to_string_lossy()));
    let command = words.collect::<Vec<_>>().join(" ");
    vec![
        format!("{COMMAND}{command}"),
        format!("version: {}", env!("CARGO_PKG_VERSION")),
        format!("{MACHINE}{}", machine()),
        "unit: nanoseconds".to_owned(),
    ]
}

/// Host, processors, memory and kernel in one line, as far as they are known. They are read once, because a
/// sandboxed server could not read them later.
pub fn machine() -> String {
    static MACHINE: OnceLock<String> = OnceLock::new();
    MACHINE.get_or_init(look_at_machine).clone()
}

fn look_at_machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        value.map(|(_, value)| value.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let model =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kibibytes = memory.and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    let mut parts = vec![format!("{processors} CPUs ({model})")];
    parts.extend(kibibytes.map(|count| format!("{:.0} GiB", count / 1024.0 / 1024.0)));
    parts.push(format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()));
    parts.join(", ")
}

/// A word of a command line that can be pasted into a shell, on one line.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace(['\n', '\r'], " ").replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_pasted() {
        assert_eq!(quote("--depth"), "--depth");
        assert_eq!(quote("nbd+unix:///?socket=/s"), "'nbd+unix:///?socket=/s'");
        assert_eq!(quote("it's\n"), r"'it'\''s '");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn comments_are_single_lines() {
        let comments = comments();
        assert!(comments.iter().all(|line| !line.contains('\n')), "{comments:?}");
        assert!(comments[0].starts_with(COMMAND) && comments[2].contains("CPUs"), "{comments:?}");
    }
}
