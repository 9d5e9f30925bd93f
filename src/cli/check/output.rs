//! Results of `ringnbd check` as text, JSON and JUnit's XML.

use std::fmt::Write as _;

use serde::Serialize;

use crate::check::{Examined, Judgement, Level, Sender, Statement, WireTransfer};

#[derive(Debug, Serialize)]
pub(super) struct ExaminationJson<'a> {
    server: &'a str,
    met: usize,
    not_met: usize,
    not_applicable: usize,
    not_asked: usize,
    statements: Vec<ExaminedJson<'a>>,
}

#[derive(Debug, Serialize)]
struct ExaminedJson<'a> {
    #[serde(flatten)]
    statement: StatementJson,
    standing: &'static str,
    reason: Option<&'a str>,
    seconds: f64,
    transfers: &'a [WireTransfer],
}

#[derive(Debug, Serialize)]
pub(super) struct StatementJson {
    id: &'static str,
    title: &'static str,
    heading: &'static str,
    level: &'static str,
    writes: bool,
}

impl StatementJson {
    fn new(statement: &Statement) -> Self {
        let Statement { id, title, heading, writes, .. } = *statement;
        let level = if statement.level == Level::Must { "must" } else { "should" };
        Self { id, title, heading, level, writes }
    }
}

const fn standing_name(standing: Judgement) -> &'static str {
    match standing {
        Judgement::Met => "met",
        Judgement::NotMet => "not_met",
        Judgement::NotApplicable => "not_applicable",
        Judgement::NotAsked => "not_asked",
    }
}

fn count(examined: &[Examined], standing: Judgement) -> usize {
    examined.iter().filter(|one| one.standing == standing).count()
}

pub(super) fn results_json<'a>(server: &'a str, examined: &'a [Examined]) -> ExaminationJson<'a> {
    ExaminationJson {
        server,
        met: count(examined, Judgement::Met),
        not_met: count(examined, Judgement::NotMet),
        not_applicable: count(examined, Judgement::NotApplicable),
        not_asked: count(examined, Judgement::NotAsked),
        statements: examined
            .iter()
            .map(|one| ExaminedJson {
                statement: StatementJson::new(&one.statement),
                standing: standing_name(one.standing),
                reason: Some(one.reason.as_str()).filter(|reason| !reason.is_empty()),
                seconds: one.took.as_secs_f64(),
                transfers: &one.transfers,
            })
            .collect(),
    }
}

pub(super) fn list_json(statements: &[Statement]) -> Vec<StatementJson> {
    statements.iter().map(StatementJson::new).collect()
}

/// One line for each statement.
pub(super) fn list(statements: &[Statement]) -> String {
    let mut text = String::new();
    for statement in statements {
        let Statement { id, title, heading, writes, .. } = statement;
        let danger = if *writes { " (--danger)" } else { "" };
        let _ = writeln!(text, "{id:<5} {:<6} {title}{danger}  \u{2014} {heading}", word(statement.level));
    }
    text
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Must => "MUST",
        Level::Should => "SHOULD",
    }
}

/// A statement, and what shows that it is not met.
pub(super) fn line(examined: &Examined) -> String {
    let Statement { id, title, heading, level, .. } = examined.statement;
    let standing = match examined.standing {
        Judgement::Met => "met",
        Judgement::NotMet => "NOT MET",
        Judgement::NotApplicable => "n/a",
        Judgement::NotAsked => "not asked",
    };
    let mut text = format!("{standing:<10} {id:<5} {title}\n");
    match examined.standing {
        Judgement::Met => {}
        Judgement::NotMet => {
            let _ = writeln!(text, "           {} of \"{heading}\": {}", word(level), examined.reason);
            for transfer in &examined.transfers {
                let _ = writeln!(text, "           {}", shown(transfer));
            }
        }
        Judgement::NotApplicable | Judgement::NotAsked => {
            let _ = writeln!(text, "           {}", examined.reason);
        }
    }
    text
}

/// `2 > 49 48 ... (4096 bytes)`: connection 2, from the client.
pub(super) fn shown(transfer: &WireTransfer) -> String {
    let WireTransfer { connection, length, bytes, .. } = transfer;
    let arrow = if transfer.sender == Sender::Client { '>' } else { '<' };
    let is_cut = bytes.len() < length * 3 - usize::from(*length > 0);
    let rest = if is_cut { format!(" ... ({length} bytes)") } else { String::new() };
    format!("{connection} {arrow} {bytes}{rest}")
}

pub(super) fn summary(examined: &[Examined]) -> String {
    let must = |one: &&Examined| one.standing == Judgement::NotMet && one.statement.level == Level::Must;
    format!(
        "{} met, {} not met ({} of them MUST), {} not applicable, {} not asked\n",
        count(examined, Judgement::Met),
        count(examined, Judgement::NotMet),
        examined.iter().filter(must).count(),
        count(examined, Judgement::NotApplicable),
        count(examined, Judgement::NotAsked)
    )
}

/// A test suite in the XML that CI systems read.
pub(super) fn junit(server: &str, examined: &[Examined]) -> String {
    let skipped = count(examined, Judgement::NotApplicable) + count(examined, Judgement::NotAsked);
    let seconds: f64 = examined.iter().map(|one| one.took.as_secs_f64()).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{skipped}\" time=\"{seconds:.3}\">\n",
        xml(server),
        examined.len(),
        count(examined, Judgement::NotMet)
    );
    for one in examined {
        let Statement { id, title, heading, level, .. } = one.statement;
        let (name, seconds) = (xml(&format!("{id} {title}")), one.took.as_secs_f64());
        let _ = write!(text, "  <testcase classname=\"nbd\" name=\"{name}\" time=\"{seconds:.3}\"");
        let _ = match one.standing {
            Judgement::Met => writeln!(text, "/>"),
            Judgement::NotMet => {
                let kind = xml(&format!("{} of \"{heading}\"", word(level)));
                let bytes: Vec<String> = one.transfers.iter().map(shown).collect();
                writeln!(
                    text,
                    ">\n    <failure type=\"{kind}\" message=\"{}\">{}</failure>\n  </testcase>",
                    xml(&one.reason),
                    xml(&bytes.join("\n"))
                )
            }
            Judgement::NotApplicable | Judgement::NotAsked => {
                writeln!(text, ">\n    <skipped message=\"{}\"/>\n  </testcase>", xml(&one.reason))
            }
        };
    }
    text.push_str("</testsuite>\n");
    text
}

/// Text as XML has it. What a server said may hold anything; XML may not.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push('\n'),
            other if other.is_control() || matches!(other, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}')
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::check;

    fn examined() -> Vec<Examined> {
        let standings = [Judgement::Met, Judgement::NotMet, Judgement::NotApplicable, Judgement::NotAsked];
        let statements = check::all().into_iter().zip(standings);
        statements
            .map(|(statement, standing)| Examined {
                statement,
                standing,
                reason: if standing == Judgement::Met { String::new() } else { "it said <\"\u{1}&>".into() },
                transfers: match standing {
                    Judgement::NotMet => vec![WireTransfer {
                        connection: 1,
                        sender: Sender::Server,
                        length: 3,
                        bytes: "4e 42".into(),
                    }],
                    _ => Vec::new(),
                },
                took: Duration::from_millis(1500),
            })
            .collect()
    }

    #[test]
    fn lines_and_their_sum() {
        let all = examined();
        let text: String = all.iter().map(line).collect();
        assert!(text.starts_with("met        H1    Unknown client flags"), "{text}");
        assert!(text.contains("\n           1 < 4e 42 ... (3 bytes)\n"), "{text}");
        assert!(text.contains("MUST of \"Fixed newstyle negotiation\": it said"), "{text}");
        assert_eq!(summary(&all), "1 met, 1 not met (1 of them MUST), 1 not applicable, 1 not asked\n");
    }

    #[test]
    fn the_json_keys_are_stable() {
        let all = examined();
        let value = serde_json::to_value(results_json("nbd://h/", &all)).unwrap();
        assert_eq!((&value["met"], &value["not_asked"]), (&1.into(), &1.into()));
        assert_eq!(
            value["statements"][1],
            serde_json::json!({
                "id": "H2", "title": all[1].statement.title, "heading": "Fixed newstyle negotiation",
                "level": "must", "writes": false, "standing": "not_met", "reason": "it said <\"\u{1}&>",
                "seconds": 1.5,
                "transfers": [{"connection": 1, "sender": "server", "length": 3, "bytes": "4e 42"}],
            })
        );
    }

    #[test]
    fn xml_holds_no_byte_of_a_server_as_it_is() {
        let text = junit("a&b", &examined());
        assert!(text.contains("<testsuite name=\"a&amp;b\" tests=\"4\" failures=\"1\""), "{text}");
        assert!(text.contains("message=\"it said &lt;&quot;\u{fffd}&amp;&gt;\""), "{text}");
        assert_eq!(text.matches("<testcase").count(), 4);
        assert_eq!(text.matches("<skipped").count(), 2);
    }

    #[test]
    fn ids_are_unique() {
        let all = check::all();
        let mut ids: Vec<_> = all.iter().map(|statement| statement.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
        assert!(list(&all).lines().count() == all.len());
    }
}
