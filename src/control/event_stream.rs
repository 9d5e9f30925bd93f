//! Events as a body that has no end: server-sent events, as browsers read them (the HTML standard, 9.2).
//!
//! hyper asks for more when the socket takes it, so nothing is kept for a reader that is slow.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::events::{EventKind, Events, FollowerPlace};

/// A line is sent so often at least, so that a client that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Then the stream ends, and the client asks again: a connection of HTTP does not last much longer.
const LIFE: Duration = Duration::from_secs(240);
/// How long a client waits before it asks again, in milliseconds.
const RETRY_MS: u32 = 1000;
/// Bytes of events that are sent at once.
const AT_ONCE: usize = 8 << 10;

/// Ends with the next event, or when it is time to say that nothing happens; whether it is that.
type NextNews = Pin<Box<dyn Future<Output = (watch::Receiver<u64>, bool)>>>;

/// See the module.
pub(in crate::control) struct EventStream {
    place: FollowerPlace,
    /// The number of the last event that the client has.
    sent: u64,
    /// What is sent before all events.
    head: Option<String>,
    until: Instant,
    waiting: Option<NextNews>,
    news: Option<watch::Receiver<u64>>,
}

impl EventStream {
    /// The events behind one whose id the client names, or all that come from now on. `None`: too many follow
    /// already.
    pub(in crate::control) fn begin(events: &Rc<Events>, last: Option<&str>) -> Option<Self> {
        let place = events.follow()?;
        let newest = events.newest();
        let (sent, is_strange) = match last.map(|id| events.number(id)) {
            None => (newest, false),
            Some(Some(number)) => (number, false),
            // Of another process: this one begins.
            Some(None) => (0, true),
        };
        let mut head = format!("retry: {RETRY_MS}\nid: {}\n\n", events.id(sent));
        if is_strange {
            head += "event: lost\ndata: {\"events\":null}\n\n";
        }
        let (until, news) = (Instant::now() + LIFE, Some(events.subscribe()));
        Some(Self { place, sent, head: Some(head), until, waiting: None, news })
    }

    /// What can be sent now.
    fn next_text(&mut self) -> Option<String> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let events = &self.place.0;
        let batch = events.behind(self.sent, AT_ONCE);
        let mut text = String::new();
        if batch.lost > 0 {
            self.sent += batch.lost;
            let (id, lost) = (events.id(self.sent), batch.lost);
            text += &format!("id: {id}\nevent: lost\ndata: {{\"events\":{lost}}}\n\n");
        }
        for event in batch.events {
            self.sent = event.number;
            let (id, kind) = (events.id(event.number), EventKind::name(event.kind));
            text += &format!("id: {id}\nevent: {kind}\ndata: {}\n\n", event.data);
        }
        (!text.is_empty()).then_some(text)
    }

    pub(super) fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(text) = self.next_text() {
                return Poll::Ready(Some(text.into()));
            }
            if self.place.0.has_ended() || Instant::now() >= self.until {
                return Poll::Ready(None);
            }
            let (news, until) = (&mut self.news, self.until.min(Instant::now() + HEARTBEAT));
            let waiting = self.waiting.get_or_insert_with(|| {
                let mut news = news.take().expect("it comes back with the wait");
                Box::pin(async move {
                    let is_late = timeout_at(until, news.changed()).await.is_err();
                    (news, is_late)
                })
            });
            let (news, is_late) = ready!(waiting.as_mut().poll(context));
            (self.waiting, self.news) = (None, Some(news));
            if is_late {
                return Poll::Ready(Some(Bytes::from_static(b":\n\n")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn next(stream: &mut EventStream) -> Option<String> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match stream.poll_bytes(&mut context) {
            Poll::Ready(bytes) => bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()),
            Poll::Pending => Some(String::new()),
        }
    }

    #[test]
    fn a_client_goes_on_where_it_was() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let events = Rc::new(Events::default());
            events.tell(EventKind::ExportAdded, json!({ "export": "a\nid: 9" }));
            events.tell(EventKind::ExportAdded, json!({ "export": "b" }));
            let mut stream = EventStream::begin(&events, None).unwrap();
            assert_eq!(next(&mut stream).unwrap(), format!("retry: 1000\nid: {}\n\n", events.id(2)));
            assert_eq!(next(&mut stream).as_deref(), Some(""), "what was before is not told");
            events.tell(EventKind::ExportRemoved, json!({ "export": "a" }));
            let text = next(&mut stream).unwrap();
            assert!(
                text.starts_with(&format!("id: {}\nevent: export_removed\ndata: {{", events.id(3))),
                "{text}"
            );

            let mut back = EventStream::begin(&events, Some(&events.id(0))).unwrap();
            assert!(next(&mut back).is_some());
            let text = next(&mut back).unwrap();
            assert_eq!(text.matches("\nevent: ").count(), 3, "{text}");
            assert_eq!(
                text.lines().filter(|line| line.starts_with("id: ")).count(),
                3,
                "nothing is made up: {text}"
            );

            let mut strange = EventStream::begin(&events, Some("1-1")).unwrap();
            assert!(next(&mut strange).unwrap().contains("event: lost\ndata: {\"events\":null}"));
            assert_eq!(next(&mut strange).unwrap().matches("\nevent: ").count(), 3, "all of this process");

            (0..2000).for_each(|_| events.tell(EventKind::ExportChanged, json!({})));
            let text = next(&mut stream).unwrap();
            assert!(text.contains("event: lost\ndata: {\"events\":976}\n\n"), "{text:.200}");
            assert!(text.len() < 4 * AT_ONCE, "{}", text.len());
            let first = text.matches("\nevent: ").count();
            events.tell(EventKind::Stopping, json!({}));
            let mut rest = 0;
            while let Some(text) = next(&mut stream) {
                rest += text.matches("\nevent: ").count();
            }
            assert_eq!(first + rest, 1 + 1024 + 1, "the loss, all that is kept, and the end");
        });
    }

    #[test]
    fn followers_are_bounded_and_places_come_back() {
        let events = Rc::new(Events::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let mut all: Vec<_> = (0..100).map_while(|_| EventStream::begin(&events, None)).collect();
        assert_eq!(all.len(), 8);
        all.pop();
        assert!(EventStream::begin(&events, None).is_some());
        let all_have_left = || {
            let mut context = Context::from_waker(std::task::Waker::noop());
            std::pin::pin!(events.deserted()).poll(&mut context).is_ready()
        };
        assert!(!all_have_left());
        drop(all);
        assert!(all_have_left());
    }
}
