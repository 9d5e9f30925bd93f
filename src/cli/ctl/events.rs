//! `ringnbd ctl events`: what happens to a server, a line for each event.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::question::sentence;
use crate::cli::Outcome;
use crate::cli::http::of_connecting;
use crate::cli::text::written;
use crate::nbd::printable::printable;

/// The server says something so often at least.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest line of it.
const LINE_BYTES: u64 = 1 << 20;

/// Which events.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsCommand {
    /// Those that came behind the one with this id, as --json tells it, as far as the server has them still
    #[arg(long, value_name = "ID")]
    since: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print a JSON object for each, one a line
    #[arg(long)]
    json: bool,
}

/// An event, read of its lines.
#[derive(Debug, Default, PartialEq)]
struct ReadEvent {
    kind: String,
    data: String,
}

/// Reads server-sent events, as the HTML standard has them, of the parts that our servers send.
#[derive(Debug, Default)]
struct EventLines {
    open: ReadEvent,
    /// Of the last event, or where the server said that this begins.
    last: Option<String>,
}

impl EventLines {
    /// One more line without its end; an event if that was its last one.
    fn line(&mut self, line: &str) -> Option<ReadEvent> {
        match line.split_once(": ") {
            Some(("id", id)) => self.last = Some(id.to_owned()),
            Some(("event", kind)) => kind.clone_into(&mut self.open.kind),
            Some(("data", data)) => data.clone_into(&mut self.open.data),
            None if line.is_empty() => {
                return Some(std::mem::take(&mut self.open)).filter(|event| !event.kind.is_empty());
            }
            // A comment, or how long to wait.
            _ => {}
        }
        None
    }
}

/// How a stream ended.
enum StreamEnd {
    /// There were as many as wanted, or nobody reads what is printed.
    Enough(Outcome),
    /// The server ends streams now and then, and when it stops.
    Closed,
}

/// Prints what happens until the server ends, or as many events as are wanted.
pub(super) fn follow(socket: &Path, command: &EventsCommand) -> Outcome {
    let mut lines = EventLines { last: command.since.clone(), ..EventLines::default() };
    let mut left = command.count;
    let mut has_begun = false;
    loop {
        let stream = match connect(socket, lines.last.as_deref()) {
            Ok(stream) => stream,
            Err(_) if has_begun => return Outcome::failed("the server has ended"),
            Err(why) => return Outcome::refused(format_args!("{}: {why}", socket.display())),
        };
        has_begun = true;
        match read(stream, &mut lines, &mut left, command.json) {
            Ok(StreamEnd::Enough(outcome)) => return outcome,
            Ok(StreamEnd::Closed) => {}
            Err(why) => return Outcome::refused(why),
        }
    }
}

/// Asks for events. The request is one of HTTP/1.0, so that the answer comes as it is, and ends with the
/// connection.
fn connect(socket: &Path, last: Option<&str>) -> Result<BufReader<UnixStream>, String> {
    let mut stream = UnixStream::connect(socket).map_err(|error| of_connecting(error).to_string())?;
    stream.set_read_timeout(Some(SILENCE)).map_err(|error| error.to_string())?;
    let last = match last {
        Some(id) if id.bytes().all(|byte| byte.is_ascii_graphic()) => format!("Last-Event-ID: {id}\r\n"),
        Some(_) => return Err("--since is the id of an event".to_owned()),
        None => String::new(),
    };
    let request = format!("GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n{last}\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| format!("the server does not answer: {error}"))?;
    Ok(BufReader::new(stream))
}

/// A line without its end; `None` at the end of the stream.
fn next_line(stream: &mut BufReader<UnixStream>) -> Result<Option<String>, String> {
    use std::io::Read;
    let mut line = Vec::new();
    match stream.take(LINE_BYTES).read_until(b'\n', &mut line) {
        Ok(_) if !line.ends_with(b"\n") => Ok(None),
        Ok(_) => {
            let text = String::from_utf8(line).map_err(|_| "the server sends no text".to_owned())?;
            Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        // The server ended, and not in good order.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(format!("the server is silent: {error}")),
    }
}

fn read(
    mut stream: BufReader<UnixStream>,
    lines: &mut EventLines,
    left: &mut Option<u64>,
    as_json: bool,
) -> Result<StreamEnd, String> {
    let Some(status) = next_line(&mut stream)? else { return Ok(StreamEnd::Closed) };
    let mut head = true;
    while let Some(line) = next_line(&mut stream)? {
        if head {
            head = !line.is_empty();
            continue;
        }
        if status.split(' ').nth(1) != Some("200") {
            let body = serde_json::from_str(&line).unwrap_or(Value::Null);
            return Err(
                sentence(&body).unwrap_or_else(|| format!("the server answered {}", printable(&status)))
            );
        }
        let Some(event) = lines.line(&line) else { continue };
        if *left == Some(0) {
            return Ok(StreamEnd::Enough(Outcome::Done));
        }
        let shown = shown(&event, lines.last.as_deref().unwrap_or_default(), as_json);
        // Without a reader there is nothing to do; a command that prints once has ended by then.
        if let Err(error) =
            std::io::stdout().write_all(shown.as_bytes()).and_then(|()| std::io::stdout().flush())
        {
            return Ok(StreamEnd::Enough(written(Err(error))));
        }
        *left = left.map(|left| left - 1);
        if *left == Some(0) {
            return Ok(StreamEnd::Enough(Outcome::Done));
        }
    }
    Ok(StreamEnd::Closed)
}

fn shown(event: &ReadEvent, id: &str, as_json: bool) -> String {
    let mut data: Map<String, Value> = serde_json::from_str(&event.data).unwrap_or_default();
    if as_json {
        let mut all =
            Map::from_iter([("id".to_owned(), id.into()), ("event".to_owned(), event.kind.clone().into())]);
        all.append(&mut data);
        return format!("{}\n", Value::Object(all));
    }
    let moment = data.remove("unix_ms").and_then(|moment| moment.as_u64()).unwrap_or_default();
    // Far beyond any year that can be written.
    let moment = UNIX_EPOCH + Duration::from_millis(moment.min(1 << 47));
    let mut line = format!("{}  {:<17}", humantime::format_rfc3339_millis(moment), printable(&event.kind));
    for (key, value) in data {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line += &format!(" {}={}", printable(&key), printable(&text));
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_line_by_line() {
        let text = "retry: 1000\nid: 7-1\n\n:\n\nid: 7-2\nevent: export_added\ndata: {\"export\":\"a\",\"unix_ms\":0}\n\n";
        let mut lines = EventLines::default();
        let read: Vec<_> = text.lines().filter_map(|line| lines.line(line)).collect();
        assert_eq!(read.len(), 1);
        assert_eq!(lines.last.as_deref(), Some("7-2"));
        assert_eq!(
            shown(&read[0], "7-2", true),
            "{\"event\":\"export_added\",\"export\":\"a\",\"id\":\"7-2\",\"unix_ms\":0}\n"
        );
        assert_eq!(shown(&read[0], "7-2", false), "1970-01-01T00:00:00.000Z  export_added      export=a\n");
        let hostile = ReadEvent {
            kind: "x\u{1b}[2J".into(),
            data: "{\"a\":\"\\u001b\",\"unix_ms\":99999999999999999}".into(),
        };
        assert!(!shown(&hostile, "", false).contains('\u{1b}'));
    }
}
