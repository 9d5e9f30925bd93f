//! A doorbell for those who have something for a shard again and again.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use super::waker::ring;
use crate::sys::Doorbell;

/// The shard looks before it sleeps.
const AWAKE: u8 = 0;
/// It sleeps for a moment, and looks then.
const DOZES: u8 = 1;
/// It sleeps until it is rung.
const SLEEPS: u8 = 2;

/// A doorbell that rings only when its shard would not look by itself: a ring costs a system call here and
/// another one there, and a shard that is rung for each of many things does little else.
///
/// Nothing is missed: whoever announces puts it in its place before it asks how the shard is, and the shard
/// tells before it looks for the last time.
#[derive(Debug)]
pub(crate) struct QuietDoorbell {
    shard: AtomicU8,
    doorbell: Arc<Doorbell>,
}

impl QuietDoorbell {
    /// One of a shard that is awake.
    pub(crate) fn new(doorbell: &Arc<Doorbell>) -> Self {
        Self { shard: AtomicU8::new(AWAKE), doorbell: Arc::clone(doorbell) }
    }

    /// The one that rings.
    pub(crate) fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    /// Something is in its place, where the shard finds it.
    pub(crate) fn announce(&self) {
        if self.shard() != AWAKE {
            ring(&self.doorbell);
        }
    }

    /// The same, and more may follow: an [announcement](Self::announce) does, at the end. A shard that dozes
    /// is left alone.
    pub(crate) fn announce_one_of_several(&self) {
        if self.shard() == SLEEPS {
            ring(&self.doorbell);
        }
    }

    fn shard(&self) -> u8 {
        // Pairs with the one of `tell`: one of the two sides sees what the other has done.
        fence(Ordering::SeqCst);
        self.shard.load(Ordering::Relaxed)
    }

    /// The shard is going to sleep until it is rung. What is there already it has to look for after this.
    pub(crate) fn sleep(&self) {
        self.tell(SLEEPS);
    }

    /// The shard is going to sleep for a moment. What is there already it has to look for after this.
    pub(crate) fn doze(&self) {
        self.tell(DOZES);
    }

    fn tell(&self, state: u8) {
        self.shard.store(state, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard looks by itself again.
    pub(crate) fn wake(&self) {
        self.shard.store(AWAKE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// A shard that looks, tells that it sleeps, looks again and sleeps, and somebody who announces one thing
    /// after the other: a thing that is missed stops both.
    #[test]
    fn nothing_is_missed() {
        const THINGS: u32 = 20_000;
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let quiet = Arc::new(QuietDoorbell::new(&doorbell));
        let (sender, things) = crossbeam_channel::unbounded();
        let (go_on, next) = channel();
        let announcer = std::thread::spawn({
            let quiet = Arc::clone(&quiet);
            move || {
                for thing in 0..THINGS {
                    sender.send(thing).unwrap();
                    quiet.announce_one_of_several();
                    // Now and then the other side is on its way to sleep.
                    if thing % 3 == 0 {
                        quiet.announce();
                        next.recv().unwrap();
                    }
                }
                quiet.announce();
            }
        });
        let (mut seen, mut turns) = (0, 0);
        while seen < THINGS {
            for thing in things.try_iter() {
                assert_eq!(thing, seen);
                seen += 1;
                if thing % 3 == 0 {
                    go_on.send(()).unwrap();
                }
            }
            turns += 1;
            if turns % 2 == 0 {
                quiet.doze()
            } else {
                quiet.sleep()
            }
            if things.is_empty() && seen < THINGS {
                assert!(doorbell.was_rung(60), "nobody rang for {seen}");
            }
            quiet.wake();
        }
        announcer.join().unwrap();
    }

    #[test]
    fn it_rings_for_a_shard_that_would_not_look() {
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let quiet = QuietDoorbell::new(&doorbell);
        let rings = |announce: fn(&QuietDoorbell)| {
            announce(&quiet);
            doorbell.was_rung(0)
        };
        let both = || (rings(QuietDoorbell::announce_one_of_several), rings(QuietDoorbell::announce));
        assert_eq!(both(), (false, false));
        quiet.doze();
        assert_eq!(both(), (false, true));
        quiet.sleep();
        assert_eq!(both(), (true, true));
        quiet.wake();
        assert_eq!(both(), (false, false));
    }
}
