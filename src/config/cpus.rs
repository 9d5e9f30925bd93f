//! Lists of CPUs as `taskset` and the kernel write them: `0-3,5`.

use std::fmt::{self, Display};
use std::str::FromStr;

/// CPUs in the order in which they were given, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    #[error("\"{0}\" is not a list of CPUs: write numbers and ranges with commas, such as 0-3,5")]
    Malformed(String),
    #[error("CPU {0} is in the list twice")]
    Twice(usize),
}

/// The largest CPU number that the kernel's masks can name here.
const HIGHEST: usize = 8191;

impl CpuList {
    /// The CPUs, at least one.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || CpuListError::Malformed(text.to_owned());
        let number = |text: &str| match text.parse::<usize>() {
            Ok(cpu) if cpu <= HIGHEST && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(cpu),
            _ => Err(malformed()),
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(malformed());
            }
            for cpu in first..=last {
                if cpus.contains(&cpu) {
                    return Err(CpuListError::Twice(cpu));
                }
                cpus.push(cpu);
            }
        }
        Ok(Self(cpus))
    }
}

/// Shows CPUs with commas, neighbours as a range.
pub(crate) struct ShowCpus<'a>(pub &'a [usize]);

impl Display for ShowCpus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.chunk_by(|&cpu, &next| next == cpu + 1).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                run => write!(f, "{comma}{}", run[0])?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers_and_ranges() {
        for (text, cpus) in [("0", vec![0]), ("0-3,5", vec![0, 1, 2, 3, 5]), ("7,2-2", vec![7, 2])] {
            assert_eq!(text.parse::<CpuList>().unwrap().as_slice(), cpus);
        }
        for text in ["", "a", "1-", "-1", "3-1", "0,,1", "0, 1", "+1", "8192", "0-99999999999999999999"] {
            assert_eq!(text.parse::<CpuList>(), Err(CpuListError::Malformed(text.to_owned())), "{text}");
        }
        assert_eq!("0-3,2".parse::<CpuList>(), Err(CpuListError::Twice(2)));
    }

    #[test]
    fn neighbours_are_shown_as_a_range() {
        assert_eq!(ShowCpus(&[0, 1, 2, 5, 7, 8]).to_string(), "0-2,5,7-8");
        assert_eq!(ShowCpus(&[]).to_string(), "");
    }
}
