//! Several requests at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Requests that are under way at once: of those that may move much, and of those for small objects.
const WIDTH: usize = 8;
const SMALL_WIDTH: usize = 64;

type TierWork<'a, E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send + 'a>>;

/// Does all, a few at once. The first error ends it.
pub(super) async fn all<'a, I, E>(
    work: impl IntoIterator<Item = I>,
    begin: impl FnMut(I) -> TierWork<'a, E>,
) -> Result<(), E> {
    at_once(WIDTH, work, begin).await
}

/// Asks for small objects, many at once.
pub(super) async fn all_small<'a, I, E>(
    work: impl IntoIterator<Item = I>,
    begin: impl FnMut(I) -> TierWork<'a, E>,
) -> Result<(), E> {
    at_once(SMALL_WIDTH, work, begin).await
}

async fn at_once<'a, I, E>(
    width: usize,
    work: impl IntoIterator<Item = I>,
    mut begin: impl FnMut(I) -> TierWork<'a, E>,
) -> Result<(), E> {
    let mut rest = work.into_iter();
    let mut under_way: VecDeque<TierWork<'a, E>> = VecDeque::new();
    poll_fn(|context| {
        loop {
            while under_way.len() < width
                && let Some(next) = rest.next()
            {
                under_way.push_back(begin(next));
            }
            let mut is_any_done = false;
            for _ in 0..under_way.len() {
                let Some(mut one) = under_way.pop_front() else { break };
                match one.as_mut().poll(context) {
                    Poll::Ready(Ok(())) => is_any_done = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => under_way.push_back(one),
                }
            }
            if !is_any_done {
                return if under_way.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    })
    .await
}
