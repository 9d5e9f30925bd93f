//! The terminal: keys in, cells out. A thread asks the server meanwhile, so keys never wait for it.

use std::io::{self, IsTerminal, Stdin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{Event, KeyEventKind, poll, read};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::draw::{Look, draw};
use super::figures::{Camera, Shot};
use super::model::{TopAction, TopModel};

/// How long a key or a shot may wait for the other.
const PATIENCE: Duration = Duration::from_millis(100);

/// Shows the server until a key or `is_over` ends it.
///
/// # Errors
/// The terminal's.
pub(super) fn show(
    mut model: TopModel,
    camera: Camera,
    interval: Duration,
    look: Look,
    is_over: &Arc<AtomicBool>,
) -> io::Result<()> {
    let shots = shots(camera, interval)?;
    let mut terminal = ratatui::try_init()?;
    let shown = run(&mut terminal, &mut model, &shots, look, is_over);
    let restored = ratatui::try_restore();
    shown.and(restored)
}

/// Shots from a thread of their own, which ends with whoever takes them.
fn shots(mut camera: Camera, interval: Duration) -> io::Result<Receiver<Result<Shot, String>>> {
    let (sender, shots) = sync_channel(1);
    let ask = move || {
        while sender.send(camera.shoot()).is_ok() {
            std::thread::sleep(interval);
        }
    };
    std::thread::Builder::new().name("figures".into()).spawn(ask)?;
    Ok(shots)
}

/// Waits for a key, or that the terminal is gone: reading from it would never wait again.
fn is_gone(stdin: &Stdin) -> io::Result<bool> {
    let mut ready = [PollFd::new(stdin, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).unwrap_or_default();
    match rustix::event::poll(&mut ready, Some(&patience)) {
        Ok(_) => Ok(ready[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)),
        // Such as that the window has another size.
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn run(
    terminal: &mut DefaultTerminal,
    model: &mut TopModel,
    shots: &Receiver<Result<Shot, String>>,
    look: Look,
    is_over: &AtomicBool,
) -> io::Result<()> {
    // Without it as a terminal, keys come from another file.
    let stdin = Some(io::stdin()).filter(IsTerminal::is_terminal);
    let patience = if stdin.is_some() { Duration::ZERO } else { PATIENCE };
    let mut is_new = true;
    while !is_over.load(Ordering::Relaxed) {
        if is_new {
            let mut room = 0;
            terminal.draw(|frame| room = draw(model, look, frame.area(), frame.buffer_mut()))?;
            model.room = room;
            is_new = false;
        }
        if let Some(stdin) = &stdin
            && is_gone(stdin)?
        {
            return Ok(());
        }
        if poll(patience)? {
            match read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    if model.key(key) == TopAction::Quit {
                        return Ok(());
                    }
                    is_new = true;
                }
                Event::Resize(..) => is_new = true,
                _ => {}
            }
        }
        while let Ok(shot) = shots.try_recv() {
            match shot {
                Ok(shot) => model.take(shot),
                Err(why) => model.fail(why),
            }
            is_new = true;
        }
    }
    Ok(())
}
