//! The size that a device can have: the one that the server has said on all of its connections.
//!
//! On a connection of before the server may refuse what lies behind the size that it said there. So a device
//! grows when as many connections were made anew as it has, to the least that was said on them.

use std::collections::VecDeque;
use std::time::Instant;

use super::attempts::Attempts;
use super::sysfs::KernelDevice;

/// What the server said lately, and how far the kernel has followed.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// On the latest connections, as many as the device has.
    sizes: VecDeque<u64>,
    /// Of the kernel, to take a size.
    pub(super) attempts: Attempts,
}

impl Growth {
    /// The kernel took a connection, on which the server said that size.
    pub(super) fn connected(&mut self, device: &KernelDevice, size: u64) {
        self.sizes.push_back(size);
        let surplus = self.sizes.len().saturating_sub(device.queues.max(1));
        self.sizes.drain(..surplus);
    }

    /// The size that the device is to be given now.
    pub(super) fn due(&self, device: &KernelDevice, now: Instant) -> Option<u64> {
        if self.sizes.len() < device.queues.max(1) || !self.attempts.wait(now).is_zero() {
            return None;
        }
        let least = *self.sizes.iter().min()?;
        let whole = least - least % u64::from(device.block_size.max(1));
        (whole > device.size).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::AttachError;
    use super::*;

    fn device(queues: usize) -> KernelDevice {
        KernelDevice {
            index: 0,
            pid: Some(1),
            size: 32 << 20,
            in_flight: (0, 0),
            is_held: false,
            identifier: None,
            queues,
            block_size: 4096,
            is_read_only: false,
        }
    }

    #[test]
    fn a_device_grows_when_all_its_connections_have_the_size() {
        let (device, now) = (device(3), Instant::now());
        let mut growth = Growth::default();
        assert_eq!(growth.due(&device, now), None);
        for (size, due) in
            [(64, None), (64, None), (96, Some(64)), (96, Some(64)), (96, Some(96)), (32, None)]
        {
            growth.connected(&device, size << 20);
            assert_eq!(growth.due(&device, now), due.map(|due| due << 20), "{growth:?}");
        }
    }

    #[test]
    fn a_part_of_a_block_is_left_out() {
        let mut growth = Growth::default();
        growth.connected(&device(1), (32 << 20) + 4095);
        assert_eq!(growth.due(&device(1), Instant::now()), None);
        growth.connected(&device(1), (32 << 20) + 8191);
        assert_eq!(growth.due(&device(1), Instant::now()), Some((32 << 20) + 4096));
    }

    #[test]
    fn a_kernel_that_refuses_is_asked_again_later() {
        let now = Instant::now();
        let mut growth = Growth::default();
        growth.connected(&device(1), 64 << 20);
        growth.attempts.failed(now, "d", "it did not grow", &AttachError::NoModule);
        assert_eq!(growth.due(&device(1), now), None);
        let later = now + growth.attempts.wait(now);
        assert_eq!(growth.due(&device(1), later), Some(64 << 20));
        // It has grown, by whatever way.
        let grown = KernelDevice { size: 64 << 20, ..device(1) };
        assert_eq!(growth.due(&grown, later), None);
    }
}
