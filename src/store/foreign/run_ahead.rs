//! Whether a pack is read from one end to the other, and how far ahead of that it pays to fetch.

use std::ops::Range;

/// Bytes that were read in a row before anything is fetched ahead.
const ENOUGH: u64 = 256 << 10;
/// Bytes ahead at most.
const MOST_AHEAD: u64 = 4 << 20;
/// Of what was read in a row, this part is fetched ahead: what nobody reads in the end is at most that much.
const PART: u64 = 4;
/// What lies between two reads in a row: chunks that are known from elsewhere.
const MOST_GAP: u64 = 128 << 10;

/// The reads of one pack.
#[derive(Debug, Default)]
pub(super) struct RunAhead {
    /// Where the last read ended.
    end: u64,
    /// Bytes that were read in a row up to there.
    length: u64,
    /// What was fetched ahead ends here.
    ahead: u64,
}

impl RunAhead {
    /// Notes a read; what is to be fetched ahead of the next ones, up to `most`.
    pub(super) fn note(&mut self, read: &Range<u64>, most: u64) -> Option<Range<u64>> {
        let goes_on = (self.end.saturating_sub(MOST_GAP)..=self.end + MOST_GAP).contains(&read.start);
        let length = read.end - read.start;
        if !goes_on {
            *self = Self { end: read.end, length, ahead: read.end };
            return None;
        }
        self.length += length.min(read.end.saturating_sub(self.end));
        self.end = self.end.max(read.end);
        self.ahead = self.ahead.max(self.end);
        if self.length < ENOUGH {
            return None;
        }
        let window = (self.length / PART).min(MOST_AHEAD);
        let end = (self.end + window).min(most);
        // Rather one request than many small ones.
        if end < most && end < self.ahead + window / 2 {
            return None;
        }
        let wanted = self.ahead..end;
        self.ahead = end;
        (!wanted.is_empty()).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 64 << 10;

    #[test]
    fn a_run_is_fetched_ahead_and_never_by_more_than_a_quarter() {
        let (mut run, mut fetched) = (RunAhead::default(), 0);
        for chunk in 0..1000 {
            let start = 4096 + chunk * CHUNK;
            if let Some(ahead) = run.note(&(start..start + CHUNK), u64::MAX) {
                fetched = ahead.end;
            }
            let read = (chunk + 1) * CHUNK;
            assert!(fetched.saturating_sub(start + CHUNK) <= read / PART, "{chunk}");
        }
        assert!(fetched > 1000 * CHUNK + (MOST_AHEAD / 2), "{fetched}");
    }

    #[test]
    fn scattered_reads_fetch_nothing_ahead_and_the_end_is_one() {
        let mut run = RunAhead::default();
        for chunk in (0..1000).map(|chunk| chunk * 7919 % 1000) {
            assert_eq!(run.note(&(chunk * CHUNK..(chunk + 1) * CHUNK), u64::MAX), None);
        }
        let mut run = RunAhead::default();
        let all = 100 * CHUNK;
        let ahead = (0..100).filter_map(|chunk| run.note(&(chunk * CHUNK..(chunk + 1) * CHUNK), all));
        assert!(ahead.map(|range| range.end).max() == Some(all));
    }
}
