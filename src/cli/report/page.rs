//! The report as a page that needs nothing but itself, and its pictures in one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::chart::{NARROW, Picture, WIDE, escape, long_time};
use super::source::{Row, Source};
use super::spectrum_chart::{self, Curve};
use super::summary::{baseline, counts, heads, latencies, phase_rows, ratio};
use super::{heat_chart, phase_chart, theme};
use crate::stats::provenance;

/// Heat maps and curves of one picture, at most: beyond that nobody sees anything.
const MOST_ROWS: usize = 24;

const PAGE_STYLE: &str = "\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--text);font:14px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\
main{max-width:1480px;margin:0 auto;padding:20px 16px 40px}h1{font-size:20px;margin:0 0 4px}h2{font-size:14px;margin:0 0 6px}\
p{margin:0}.quiet{color:var(--quiet)}.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;margin-top:12px}\
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr));gap:12px;margin-top:12px}.grid .card{margin:0;min-width:0}\
.scroll{overflow-x:auto}.card svg{display:block;width:100%}.card svg.narrow{display:none}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:right;padding:5px 0 5px 18px;white-space:nowrap;border-top:1px solid var(--line)}th{border-top:0;color:var(--quiet);font-weight:500;font-size:12px}\
th:first-child,td:first-child,.left{text-align:left}th:first-child,td:first-child{padding-left:0}td small{display:block;color:var(--quiet);font-size:11px;line-height:1.2}\
td small.worse{color:var(--c4)}td small.better{color:var(--c2)}.swatch{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:7px}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:0}dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace;font-size:12.5px}\
dd.plain{font:inherit}@media(max-width:560px){main{padding:14px 10px 30px}.card{padding:12px}.card svg.wide{display:none}.card svg.narrow{display:block}\
dl{display:block}dd{margin-bottom:6px}}@media print{.card{break-inside:avoid}}";

/// A row, what it is called here, its colour, and what tells it from others of that colour.
struct Entry<'a> {
    source: usize,
    row: &'a Row,
    name: String,
    color: usize,
    dash: usize,
}

/// Colours tell sources apart where there are several, and rows where there is one.
fn entries(sources: &[Source]) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    for (source, of) in sources.iter().enumerate() {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, row) in of.rows.iter().enumerate() {
            let nth = seen.entry(&row.command).or_default();
            let (name, color, dash) = match sources.len() {
                1 => (row.name(), index, 0),
                _ => (format!("{}: {}", of.label, row.name()), source, *nth),
            };
            *nth += 1;
            entries.push(Entry { source, row, name, color, dash });
        }
    }
    entries
}

/// All pictures in their order: spectra by command, phases, heat maps.
fn pictures(sources: &[Source], width: f64) -> Vec<Picture> {
    let entries = entries(sources);
    let mut commands: BTreeMap<&str, Vec<Curve<'_>>> = BTreeMap::new();
    for Entry { row, name, color, dash, .. } in entries.iter().take(MOST_ROWS) {
        let curve = Curve { name: name.clone(), color: *color, dash: *dash, histogram: &row.total };
        commands.entry(&row.command).or_default().push(curve);
    }
    let mut pictures: Vec<_> = commands
        .iter()
        .map(|(command, curves)| {
            spectrum_chart::draw(&format!("Latency by percentile: {command}"), curves, width)
        })
        .collect();
    let rows: Vec<_> = entries.iter().take(MOST_ROWS).map(|entry| (entry.name.clone(), entry.row)).collect();
    pictures.extend(phase_chart::draw("Where the time of a mean request goes", &rows, width));
    for entry in entries.iter().filter(|entry| !entry.row.columns.is_empty()).take(MOST_ROWS) {
        let title = format!("{} over time", entry.name);
        pictures.push(heat_chart::draw(&title, entry.row, sources[entry.source].seconds, width));
    }
    pictures
}

/// The page.
pub(super) fn html(sources: &[Source]) -> String {
    let labels: Vec<_> = sources.iter().map(|source| source.label.as_str()).collect();
    let title = format!("Latency: {}", labels.join(" against "));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>{}{}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
        theme::of_pictures(),
        theme::of_pages(),
        title = escape(&title),
    );
    let _ = writeln!(page, "<p class=\"quiet\">{}</p>", escape(&overview(sources)));
    page += "<section class=\"card scroll\">";
    page += &main_table(sources);
    page += "</section>\n<div class=\"grid\">\n";
    for (wide, narrow) in pictures(sources, WIDE).iter().zip(pictures(sources, NARROW)) {
        let _ = writeln!(page, "<section class=\"card\">{}{}</section>", wide.embedded(), narrow.embedded());
    }
    page += "</div>\n";
    let phases = phase_rows(sources);
    if phases.len() > 1 {
        page += "<section class=\"card scroll\"><h2>Phases</h2>";
        page += &plain_table(&phases);
        page += "</section>\n";
    }
    page += "<section class=\"card\"><h2>What made this</h2><dl>";
    page += &origins(sources);
    page += "</dl></section>\n</main>\n</body>\n</html>\n";
    page
}

fn overview(sources: &[Source]) -> String {
    let one = |source: &Source| {
        let requests: u64 = source.rows.iter().map(|row| row.total.len()).sum();
        let worst = source.rows.iter().max_by_key(|row| row.total.max());
        let worst = worst.map_or_else(String::new, |row| {
            let when = heat_chart::describe(row);
            if when.is_empty() { String::new() } else { format!("; {when}") }
        });
        format!("{}: {requests} requests in {:.1} s{worst}", source.label, source.seconds)
    };
    sources.iter().map(one).collect::<Vec<_>>().join(". ")
}

fn main_table(sources: &[Source]) -> String {
    let mut text = String::from("<table><thead><tr><th></th><th class=\"left\"></th>");
    heads().iter().for_each(|head| text += &format!("<th>{head}</th>"));
    text += "</tr></thead><tbody>";
    for Entry { source, row, color, .. } in entries(sources) {
        let of = &sources[source];
        let color = color % theme::COLORS;
        let _ = write!(
            text,
            "<tr><td><span class=\"swatch\" style=\"background:var(--c{color})\"></span>{}</td><td class=\"left\">{}</td>",
            escape(&of.label),
            escape(&row.name())
        );
        counts(row, of).iter().for_each(|cell| text += &format!("<td>{cell}</td>"));
        let bases = baseline(sources, source, row).map(|base| latencies(&base.total));
        for (index, value) in latencies(&row.total).into_iter().enumerate() {
            let against = bases.as_ref().map_or_else(String::new, |bases| against(value, bases[index]));
            let _ = write!(text, "<td>{}{against}</td>", long_time(value));
        }
        text += "</tr>";
    }
    text + "</tbody></table>"
}

/// A ratio, coloured where it is more than noise.
fn against(value: f64, base: f64) -> String {
    let class = match value / base.max(1.0) {
        ..0.95 => " class=\"better\"",
        ..1.05 => "",
        _ => " class=\"worse\"",
    };
    format!("<small{class}>{}</small>", ratio(value, base))
}

fn plain_table(rows: &[Vec<String>]) -> String {
    let mut text = String::from("<table>");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        text += "<tr>";
        for (column, cell) in row.iter().enumerate() {
            let class = if column == 1 { " class=\"left\"" } else { "" };
            let cell = if cell.ends_with(" us") { cell.replace(" us", " µs") } else { cell.clone() };
            let _ = write!(text, "<{tag}{class}>{}</{tag}>", escape(&cell));
        }
        text += "</tr>";
    }
    text + "</table>"
}

fn origins(sources: &[Source]) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: &str, class: &str| {
        let _ = write!(text, "<dt>{}</dt><dd{class}>{}</dd>", escape(name), escape(value));
    };
    for source in sources {
        add("log", &source.label, " class=\"plain\"");
        source.facts.iter().for_each(|(name, fact)| add(name, fact, ""));
        if source.begin_unix_seconds > 0.0 {
            let begin = UNIX_EPOCH + Duration::from_secs_f64(source.begin_unix_seconds);
            add("began", &humantime::format_rfc3339_seconds(begin).to_string(), "");
        }
    }
    let own = provenance::comments();
    let command = own.first().and_then(|line| line.strip_prefix(provenance::COMMAND));
    add("report", command.unwrap_or_default(), "");
    text
}

/// What made the pictures, for those who have nothing but them.
fn footer(sources: &[Source]) -> Picture {
    const LINE: f64 = 15.0;
    let mut lines = Vec::new();
    for source in sources {
        let shown = source.facts.iter().filter(|(name, _)| ["command", "machine"].contains(name));
        shown.for_each(|(name, fact)| wrap(&format!("{} {name}: {fact}", source.label), &mut lines));
    }
    let mut picture = Picture::new("What made this", WIDE, 22.0 + LINE * lines.len() as f64);
    for (index, line) in lines.iter().enumerate() {
        let indent = if line.starts_with(' ') { 16.0 } else { 0.0 };
        picture.text(indent, 32.0 + LINE * index as f64, "quiet small", "start", line.trim_start());
    }
    picture
}

/// Cuts a text into lines that are not too long for a picture, between words where it can be; all but the first begin with a space.
fn wrap(text: &str, lines: &mut Vec<String>) {
    const LONGEST: usize = 104;
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > LONGEST {
        let space = rest[..LONGEST].iter().rposition(|letter| *letter == ' ').filter(|at| *at > LONGEST / 2);
        let mut tail = rest.split_off(space.unwrap_or(LONGEST));
        lines.push(rest.iter().collect());
        if tail[0] != ' ' {
            tail.insert(0, ' ');
        }
        rest = tail;
    }
    lines.push(rest.iter().collect());
}

/// The pictures, one below the other.
pub(super) fn svg(sources: &[Source]) -> String {
    const MARGIN: f64 = 20.0;
    let mut pictures = pictures(sources, WIDE);
    pictures.push(footer(sources));
    let mut body = String::new();
    let mut y = MARGIN;
    for picture in &pictures {
        body += &picture.group(MARGIN, y);
        y += picture.height + MARGIN;
    }
    let (width, height) = (WIDE + 2.0 * MARGIN, y);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\
         <style>{}</style><rect width=\"100%\" height=\"100%\" class=\"ground\"/>{body}</svg>\n",
        theme::of_pictures()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_words() {
        let mut lines = Vec::new();
        wrap("short", &mut lines);
        wrap(&"word ".repeat(50), &mut lines);
        wrap(&"x".repeat(250), &mut lines);
        assert_eq!(lines.len(), 1 + 3 + 3, "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 105), "{lines:#?}");
        assert_eq!(lines.concat().replace(' ', ""), format!("short{}{}", "word".repeat(50), "x".repeat(250)));
    }
}
