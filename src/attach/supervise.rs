//! Gives the kernel new connections for those that are dead, for as long as the device is attached.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::attaching::Attached;
use super::attempts::Attempts;
use super::error::AttachError;
use super::growth::Growth;
use super::held::SocketNumber;
use super::kernel::Heard;
use super::link::{self, LinkWishes};
use super::sysfs::{KernelDevice, Sysfs};

/// How soon a device that was detached is noticed. The kernel does not tell it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many connections must be declined in a row before the kernel is believed to need none. One may be
/// declined because it ended while it was offered.
const DECLINES: u8 = 2;

/// Returns when the device is not attached any more, or is another one's.
pub(crate) fn supervise(mut attached: Attached) -> Result<(), AttachError> {
    let sysfs = Sysfs::default();
    let mut vacancies = Vacancies::new(attached.is_adopted);
    let mut attempts = Attempts::default();
    let mut growth = Growth::default();
    loop {
        let now = Instant::now();
        let wait = if vacancies.are_any() { attempts.wait(now).min(LOOK_EVERY) } else { LOOK_EVERY };
        vacancies.hear(attached.news.wait(attached.index, wait)?);
        let Some(device) = still_ours(&sysfs, &attached)? else {
            tracing::info!(device = attached.device(), "detached");
            return Ok(());
        };
        grow_if_due(&mut attached, &device, &mut growth);
        if !vacancies.are_any() || !attempts.wait(Instant::now()).is_zero() {
            continue;
        }
        match offer_one(&mut attached, &device) {
            Ok((is_taken, size)) => {
                vacancies.offered(is_taken);
                attempts.succeeded();
                if is_taken {
                    tracing::info!(device = attached.device(), "gave the kernel a new connection");
                    growth.connected(&device, size);
                    grow_if_due(&mut attached, &device, &mut growth);
                }
            }
            Err(error) => attempts.failed(Instant::now(), &attached.device(), "no new connection", &error),
        }
    }
}

fn still_ours(sysfs: &Sysfs, attached: &Attached) -> Result<Option<KernelDevice>, AttachError> {
    let identifier = Some(attached.identifier.to_string());
    let device = sysfs.device(attached.index)?;
    Ok(device.filter(|device| device.pid.is_some() && device.identifier == identifier))
}

/// Whether the kernel took it, and the size that the server says now.
fn offer_one(attached: &mut Attached, device: &KernelDevice) -> Result<(bool, u64), AttachError> {
    let wishes = LinkWishes { read_only: device.is_read_only, end_on_growth: attached.ends_on_growth };
    let (socket, shape) = link::connect(&attached.identifier.uri, wishes)?;
    attached.note_size(shape.size);
    shape.fits(device)?;
    attached
        .kernel
        .offer(attached.index, &attached.identifier.to_string(), &socket)
        .map_err(|failure| failure.of("the kernel refused a new connection"))?;
    let has_ended = has_ended(&socket);
    let number = SocketNumber::of_closed(socket).ok();
    let is_held = number.and_then(SocketNumber::is_there);
    if is_held == Some(false) && has_ended {
        let error = std::io::ErrorKind::ConnectionReset.into();
        return Err(AttachError::Kernel { what: "a new connection ended at once", error });
    }
    Ok((is_held.unwrap_or(true), shape.size))
}

/// Nothing is read: what arrives may be the kernel's.
fn has_ended(socket: &OwnedFd) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let flags = PollFlags::RDHUP;
    poll(&mut [PollFd::new(socket, flags)], Some(&at_once)).is_ok_and(|events| events > 0)
}

/// Has the kernel take a size that all connections have. It may wait for requests under way: nobody who
/// answers requests waits for this process.
fn grow_if_due(attached: &mut Attached, device: &KernelDevice, growth: &mut Growth) {
    let Some(size) = growth.due(device, Instant::now()) else { return };
    let identifier = attached.identifier.to_string();
    match attached.kernel.resize(attached.index, &identifier, size, device.block_size) {
        Ok(()) => {
            growth.attempts.succeeded();
            tracing::info!(device = attached.device(), size, "grew");
        }
        Err(failure) => {
            let error = failure.of("the kernel did not resize the device");
            growth.attempts.failed(Instant::now(), &attached.device(), "it did not grow", &error);
        }
    }
}

/// How many connections the kernel may want.
#[derive(Debug, Default, PartialEq, Eq)]
struct Vacancies {
    /// What it said.
    dead: usize,
    /// There may be more than it said: so many connections have to be declined until that is over.
    doubt: u8,
}

impl Vacancies {
    /// What happened to a device that was there before is not known.
    fn new(is_adopted: bool) -> Self {
        Self { dead: 0, doubt: if is_adopted { DECLINES } else { 0 } }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Dead(more) => self.dead = self.dead.saturating_add(more),
            Heard::TooMuch => self.doubt = DECLINES,
        }
    }

    fn offered(&mut self, is_taken: bool) {
        match (is_taken, self.doubt) {
            (true, _) => self.dead = self.dead.saturating_sub(1),
            // It said that one was dead, and took none.
            (false, 0) => *self = Self { dead: 0, doubt: DECLINES - 1 },
            (false, doubt) => *self = Self { dead: 0, doubt: doubt - 1 },
        }
    }

    fn are_any(&self) -> bool {
        self.dead > 0 || self.doubt > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A kernel as simple as can be: connections die, offers are taken while one is dead.
    fn lives(is_adopted: bool, already_dead: usize, deaths: &[bool]) -> (usize, usize) {
        let mut dead = already_dead;
        let mut vacancies = Vacancies::new(is_adopted);
        let mut in_vain = 0;
        let mut offer = |dead: &mut usize, vacancies: &mut Vacancies| {
            let is_taken = *dead > 0;
            *dead -= usize::from(is_taken);
            in_vain += usize::from(!is_taken);
            vacancies.offered(is_taken);
        };
        for &is_heard in deaths {
            dead += 1;
            vacancies.hear(if is_heard { Heard::Dead(1) } else { Heard::TooMuch });
            if dead.is_multiple_of(2) && vacancies.are_any() {
                offer(&mut dead, &mut vacancies);
            }
        }
        while vacancies.are_any() {
            offer(&mut dead, &mut vacancies);
        }
        (dead, in_vain)
    }

    proptest! {
        #[test]
        fn every_vacancy_is_filled(already in 0_usize..5, deaths in prop::collection::vec(any::<bool>(), 0..20)) {
            prop_assert_eq!(lives(true, already, &deaths).0, 0);
            prop_assert_eq!(lives(false, 0, &deaths).0, 0);
        }

        #[test]
        fn nothing_is_offered_in_vain_while_all_is_heard(deaths in 0_usize..20) {
            prop_assert_eq!(lives(false, 0, &vec![true; deaths]), (0, 0));
        }
    }
}
