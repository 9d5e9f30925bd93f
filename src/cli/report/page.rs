//! The report as a page that needs nothing but itself, and its pictures in one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::chart::{NARROW, Picture, WIDE, escape, long_time};
use super::source::{ReportSource, Row};
use super::spectrum_chart::{self, Curve};
use super::summary::{baseline, counts, groups, heads, latencies, phase_rows, ratio};
use super::{heat_chart, phase_chart, theme};
use crate::stats::provenance;

/// The most curves of one picture: more cannot be told apart, so then each export has a picture of its own.
const MOST_CURVES: usize = 8;
/// The most heat maps whose cells have tooltips: a page with more would take tens of megabytes.
const MOST_TOLD: usize = 24;

const PAGE_STYLE: &str = "\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--text);font:14px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\
main{max-width:1480px;margin:0 auto;padding:20px 16px 40px}h1{font-size:20px;margin:0 0 4px}h2{font-size:14px;margin:0 0 6px}\
p{margin:0}.quiet{color:var(--quiet)}.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;margin-top:12px}\
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr));gap:12px;margin-top:12px}.grid .card{margin:0;min-width:0}\
.grid.pairs{grid-template-columns:repeat(2,minmax(0,1fr))}.absent{display:flex;align-items:center;justify-content:center;color:var(--quiet)}\
.scroll{overflow-x:auto}.card svg{display:block;width:100%}.card svg.narrow{display:none}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:right;padding:5px 0 5px 18px;white-space:nowrap;border-top:1px solid var(--line)}th{border-top:0;color:var(--quiet);font-weight:500;font-size:12px}\
th:first-child,td:first-child,.left{text-align:left}th:first-child,td:first-child{padding-left:0}td small{display:block;color:var(--quiet);font-size:11px;line-height:1.2}\
td small.worse{color:var(--c4)}td small.better{color:var(--c2)}.swatch{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:7px}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:0}dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace;font-size:12.5px}\
dd.plain{font:inherit}@media(max-width:1000px){.grid.pairs{grid-template-columns:minmax(0,1fr)}.absent{display:none}}@media(max-width:560px){main{padding:14px 10px 30px}.card{padding:12px}.card svg.wide{display:none}.card svg.narrow{display:block}\
dl{display:block}dd{margin-bottom:6px}}@media print{.card{break-inside:avoid}}";

/// A row, what it is called here, its colour, and what tells it from others of that colour.
struct CurveEntry<'a> {
    source: usize,
    row: &'a Row,
    name: String,
    color: usize,
    dash: usize,
}

/// Colours tell sources apart where there are several, and rows where there is one. Those of one export and
/// command are beside each other, and lines of several sources differ in their dashes as well: where two
/// curves are equal, the one below shows through the gaps.
fn entries(sources: &[ReportSource]) -> Vec<CurveEntry<'_>> {
    let mut seen: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    let mut entries = Vec::new();
    for (source, row) in groups(sources).into_iter().flatten() {
        let nth = seen.entry((source, &row.command)).or_default();
        let (name, color, dash) = match sources.len() {
            1 => (row.name(), entries.len(), entries.len() / theme::COLORS),
            _ => (format!("{}: {}", sources[source].label, row.name()), source, source + *nth),
        };
        *nth += 1;
        entries.push(CurveEntry { source, row, name, color, dash });
    }
    entries
}

/// All spectra: one for each command, or where those would hold too many curves one for each export and
/// command.
fn spectra(sources: &[ReportSource], width: f64) -> Vec<Picture> {
    let entries = entries(sources);
    let mut commands: BTreeMap<&str, Vec<&CurveEntry<'_>>> = BTreeMap::new();
    for entry in &entries {
        commands.entry(&entry.row.command).or_default().push(entry);
    }
    let mut pictures = Vec::new();
    for (command, entries) in commands {
        let together = entries.len() <= MOST_CURVES;
        for part in entries.chunk_by(|a, b| together || a.row.compare(b.row).is_eq()) {
            let what = if together { command.to_owned() } else { part[0].row.name() };
            let mut curves = Vec::new();
            for CurveEntry { source, name, color, dash, row } in part {
                let dash = if together { *dash } else { *source };
                curves.push(Curve { name: name.clone(), color: *color, dash, histogram: &row.total });
            }
            pictures.push(spectrum_chart::draw(&format!("Latency by percentile: {what}"), &curves, width));
        }
    }
    pictures
}

fn phases(sources: &[ReportSource], width: f64) -> Option<Picture> {
    let rows: Vec<_> = entries(sources).into_iter().map(|entry| (entry.name, entry.row)).collect();
    phase_chart::draw("Where the time of a mean request goes", &rows, width)
}

/// A heat map for each row that has times; by export and command, and where any source has one, `None` for
/// those that have not.
fn heat_maps(sources: &[ReportSource], width: f64) -> Vec<Vec<Option<Picture>>> {
    let entries = entries(sources);
    let draw = |entry: &CurveEntry<'_>| {
        let title = format!("{} over time", entry.name);
        heat_chart::draw(&title, entry.row, sources[entry.source].seconds, width)
    };
    let mut maps = Vec::new();
    for group in entries.chunk_by(|a, b| a.row.compare(b.row).is_eq()) {
        let of = |source: usize| {
            group.iter().find(|entry| entry.source == source && !entry.row.columns.is_empty())
        };
        let pictures: Vec<_> = (0..sources.len()).map(|source| of(source).map(draw)).collect();
        if pictures.iter().any(Option::is_some) {
            maps.push(pictures);
        }
    }
    maps
}

/// One picture for screens and one for phones, on a card.
fn card(page: &mut String, wide: &Picture, narrow: &Picture, tips: bool) {
    let _ =
        writeln!(page, "<section class=\"card\">{}{}</section>", wide.embedded(tips), narrow.embedded(false));
}

/// The pictures of a page: what sums up, and then the heat maps, those of two sources side by side.
fn cards(page: &mut String, sources: &[ReportSource]) {
    *page += "<div class=\"grid\">\n";
    let both = |width| spectra(sources, width).into_iter().chain(phases(sources, width));
    for (wide, narrow) in both(WIDE).zip(both(NARROW)) {
        card(page, &wide, &narrow, true);
    }
    let maps = heat_maps(sources, WIDE);
    let tips = maps.iter().flatten().flatten().count() <= MOST_TOLD;
    let pairs = if sources.len() == 2 { " pairs" } else { "" };
    let _ = writeln!(page, "</div>\n<div class=\"grid{pairs}\">");
    for (wide, narrow) in maps.iter().flatten().zip(heat_maps(sources, NARROW).iter().flatten()) {
        match (wide, narrow) {
            (Some(wide), Some(narrow)) => card(page, wide, narrow, tips),
            _ if sources.len() == 2 => {
                *page += "<section class=\"card absent\">no such requests in this log</section>\n"
            }
            _ => {}
        }
    }
    *page += "</div>\n";
}

pub(super) fn html(sources: &[ReportSource]) -> String {
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
    page += "</section>\n";
    cards(&mut page, sources);
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

fn overview(sources: &[ReportSource]) -> String {
    let one = |source: &ReportSource| {
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

fn main_table(sources: &[ReportSource]) -> String {
    let mut text = String::from("<table><thead><tr><th></th><th class=\"left\"></th>");
    heads().iter().for_each(|head| text += &format!("<th>{head}</th>"));
    text += "</tr></thead><tbody>";
    for CurveEntry { source, row, color, .. } in entries(sources) {
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

fn origins(sources: &[ReportSource]) -> String {
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
fn footer(sources: &[ReportSource]) -> Picture {
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

/// Cuts a text into lines that are not too long for a picture, between words where it can be; all but the
/// first begin with a space.
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

/// The pictures, one below the other; heat maps of two sources side by side.
pub(super) fn svg(sources: &[ReportSource]) -> String {
    const MARGIN: f64 = 20.0;
    let columns = if sources.len() == 2 { 2 } else { 1 };
    let (mut body, mut y) = (String::new(), MARGIN);
    let mut line = |pictures: &[Option<Picture>]| {
        for (column, picture) in pictures.iter().enumerate() {
            let x = MARGIN + (WIDE + MARGIN) * column as f64;
            body += &picture.as_ref().map_or_else(String::new, |picture| picture.group(x, y));
        }
        let height = pictures.iter().flatten().map(|picture| picture.height).fold(0.0, f64::max);
        y += height + MARGIN;
    };
    let mut spectra: Vec<_> = spectra(sources, WIDE).into_iter().map(Some).collect();
    spectra.chunks_mut(columns).for_each(|pictures| line(pictures));
    if let Some(phases) = phases(sources, WIDE) {
        line(&[Some(phases)]);
    }
    for maps in heat_maps(sources, WIDE) {
        maps.chunks(columns).for_each(&mut line);
    }
    line(&[Some(footer(sources))]);
    let (width, height) = (MARGIN + (WIDE + MARGIN) * columns as f64, y);
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
