//! The model and what is drawn of it, in a buffer instead of a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::draw::{Look, draw};
use super::figures::{ClientFigures, ExportFigures, SecondFigures, ServerFigures, ShardFigures, Shot};
use super::model::{TopAction, TopModel, TopPage};
use super::plain;

fn export(name: &str, scale: u64, second: u64) -> ExportFigures {
    ExportFigures {
        export: name.to_owned(),
        size_bytes: 10 << 30,
        connections: scale.min(4),
        in_flight: scale % 33,
        reads: 100 * scale * second,
        read_bytes: 409_600 * scale * second,
        writes: 10 * scale * second,
        written_bytes: 1_310_720 * scale * second,
        others: second,
        errors: if scale == 7 { second } else { 0 },
        p50_ns: 90_000 + scale * 1000,
        p99_ns: 1_200_000 + scale * 10_000,
        ..ExportFigures::default()
    }
}

fn client(number: u64, name: &str, second: u64) -> ClientFigures {
    ClientFigures {
        id: format!("0.{number}"),
        peer: format!("192.0.2.{number}:50412"),
        export: name.to_owned(),
        shard: number % 2,
        age_seconds: 4000.0 * number as f64,
        in_flight: number,
        requests: 500 * number * second,
        bytes: 2_048_000 * number * second,
    }
}

/// A server of three exports, `second` seconds after its start.
fn shot(second: u64) -> Shot {
    let seconds = (0..second * 40).map(|at| SecondFigures {
        end_unix_ms: 1_000_000 + at * 1000,
        length_ms: 1000,
        reads: 1000 + at * 37 % 700,
        read_bytes: 4_096_000 + at % 13 * 800_000,
        writes: 200,
        written_bytes: 819_200,
        p50_ns: 90_000,
        p99_ns: 800_000 + at * 53 % 11 * 100_000,
        ..SecondFigures::default()
    });
    let shard = |failed: bool, used| ShardFigures {
        responsive: !failed,
        failed,
        connections: 3,
        in_flight: 12,
        unsent: 1,
        buffer_memory_used_bytes: used,
        buffer_memory_bytes: 256 << 20,
    };
    Shot {
        taken: Duration::from_secs(second),
        figures: ServerFigures {
            version: "0.1.0".into(),
            stopping: false,
            shards: vec![shard(false, 64 << 20), shard(true, 256 << 20)],
            exports: vec![
                export("backup", 1, second),
                export("vm/database", 70, second),
                export("vm/web", 7, second),
            ],
            seconds: seconds.collect(),
        },
        clients: vec![
            client(1, "backup", second),
            client(2, "vm/database", second),
            client(3, "vm/web", second),
        ],
        client_count: 3,
    }
}

fn model() -> TopModel {
    let mut model = TopModel::default();
    model.take(shot(1));
    model.take(shot(2));
    model
}

fn press(model: &mut TopModel, codes: &[KeyCode]) -> TopAction {
    let mut last = TopAction::Nothing;
    for code in codes {
        last = model.key(KeyEvent::new(*code, KeyModifiers::NONE));
    }
    last
}

fn drawn(model: &mut TopModel, width: u16, height: u16) -> Buffer {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    model.room = draw(model, Look { has_colours: true }, area, &mut buffer);
    buffer
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let Rect { width, height, .. } = buffer.area;
    (0..height)
        .map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned())
        .collect()
}

fn names(model: &TopModel) -> Vec<&str> {
    model.shown.iter().map(|row| model.exports[*row].of.export.as_str()).collect()
}

#[test]
fn rates_are_those_between_two_shots() {
    let model = model();
    let of = |name: &str| model.exports.iter().find(|row| row.of.export == name).unwrap();
    assert_eq!((of("vm/web").reads, of("vm/web").writes, of("vm/web").errors), (700.0, 70.0, 1.0));
    assert_eq!(model.sums().0, 100.0 * 78.0 + 10.0 * 78.0 + 3.0);
    assert_eq!(model.clients[2].requests, 1500.0);
    assert_eq!(names(&model), ["vm/database", "vm/web", "backup"]);
    assert_eq!(model.seconds.len(), 80, "told again from the start, and kept once");
}

#[test]
fn a_server_that_goes_and_comes_back() {
    let mut model = model();
    model.fail("no server listens there".into());
    let text = lines(&drawn(&mut model, 100, 24)).join("\n");
    assert!(
        text.contains("No answer; these are old figures (trying again): no server listens there"),
        "{text}"
    );
    assert!(text.contains("vm/database"), "what was there is still shown: {text}");
    // The new one counts from the start.
    let mut fresh = shot(1);
    fresh.taken = Duration::from_secs(60);
    model.take(fresh);
    assert!(model.exports.iter().all(|row| row.requests() == 0.0), "no rate is negative or huge");
    assert_eq!((model.trouble.clone(), model.seconds.len()), (None, 40));
    let mut gone = shot(2);
    gone.figures.exports.remove(1);
    gone.taken = Duration::from_secs(61);
    press(&mut model, &[KeyCode::End]);
    model.take(gone);
    assert_eq!((model.shown.len(), model.selected), (2, 1), "the selection stays inside");
}

#[test]
fn keys_sort_filter_pause_and_leave() {
    let mut model = model();
    press(&mut model, &[KeyCode::Char('S')]);
    assert_eq!(names(&model), ["backup", "vm/database", "vm/web"], "by name");
    press(&mut model, &[KeyCode::Char('r')]);
    assert_eq!(names(&model), ["vm/web", "vm/database", "backup"]);
    press(&mut model, &[KeyCode::Char('/'), KeyCode::Char('W'), KeyCode::Char('e'), KeyCode::Char('q')]);
    assert_eq!(names(&model), Vec::<&str>::new(), "q is a letter while a filter is typed");
    press(&mut model, &[KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!(names(&model), ["vm/web"]);
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!((model.page, model.shown.len()), (TopPage::Clients, 1), "the clients of that export");
    press(&mut model, &[KeyCode::Esc, KeyCode::Char('1'), KeyCode::Char('p')]);
    model.take(Shot { taken: Duration::from_secs(3), ..Shot::default() });
    assert_eq!(model.shown.len(), 3, "it stands still");
    press(&mut model, &[KeyCode::Char(' ')]);
    model.take(Shot { taken: Duration::from_secs(4), ..Shot::default() });
    assert_eq!(model.shown.len(), 0);
    assert_eq!(press(&mut model, &[KeyCode::Char('q')]), TopAction::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    model.is_typing = true;
    assert_eq!(model.key(control_c), TopAction::Quit);
}

/// Any keys in any order: it draws, whatever the size.
#[test]
fn no_key_and_no_size_is_too_much() {
    let codes = [
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Backspace,
        KeyCode::Char('s'),
        KeyCode::Char('r'),
        KeyCode::Char('/'),
        KeyCode::Char('?'),
        KeyCode::Char('p'),
    ];
    let mut chance = crate::random::Random::new(19);
    let mut model = model();
    for step in 0..3000u64 {
        press(&mut model, &[chance.pick(&codes)]);
        if step % 7 == 0 {
            model.take(shot(1 + chance.below(3)));
        }
        let (width, height) = (chance.below(220) as u16, chance.below(60) as u16);
        drawn(&mut model, width, height);
        assert!(model.selected < model.shown.len().max(1));
    }
}

#[test]
fn golden_of_eighty_columns() {
    let mut model = model();
    let shown = lines(&drawn(&mut model, 80, 16)).join("\n") + "\n";
    let golden = include_str!("golden.txt");
    if std::env::var_os("RINGNBD_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/top/golden.txt"), &shown).unwrap();
        return;
    }
    assert_eq!(shown, golden, "RINGNBD_GOLDEN=1 writes it anew");
}

#[test]
fn each_width_shows_what_fits() {
    for (width, titles) in [
        (60, &["EXPORT", "READ/s", "WRITE/s", "P99"][..]),
        (80, &["EXPORT", "READ/s", "WRITE/s", "READ B/s", "WRITE B/s", "P99"]),
        (120, &["EXPORT", "READ B/s", "P50", "P99", "ERRORS", "FLIGHT", "CLIENTS"]),
        (200, &["EXPORT", "OTHER/s", "P50", "ERRORS", "CLIENTS", "SIZE", "ACCESS"]),
    ] {
        for page in TopPage::ALL {
            let mut model = TopModel { page, ..model() };
            press(&mut model, &[KeyCode::Home]);
            let shown = lines(&drawn(&mut model, width, 30));
            let text = shown.join("\n");
            if page == TopPage::Exports {
                let header = shown.iter().find(|line| line.starts_with("EXPORT")).expect("titles");
                assert!(titles.iter().all(|title| header.contains(title)), "{width}: {header}");
                assert!(text.contains("vm/database"), "{text}");
            }
            if let Some(directory) = std::env::var_os("RINGNBD_PICTURES") {
                let buffer = drawn(&mut model, width, 30);
                for is_dark in [false, true] {
                    let name = format!("top-{width}-{page:?}-{}.svg", if is_dark { "dark" } else { "light" });
                    std::fs::write(std::path::Path::new(&directory).join(name), svg(&buffer, is_dark))
                        .unwrap();
                }
            }
        }
    }
}

#[test]
fn hostile_names_stay_in_their_cells() {
    let mut hostile = shot(2);
    hostile.figures.exports = [
        "\u{1b}[2J\u{1b}[31mred",
        &"x".repeat(4096),
        &"\u{65e5}\u{672c}".repeat(600),
        "a\u{202e}b\nc\td\u{0}",
        "",
        "e\u{301}\u{301}\u{301}\u{200d}\u{1f468}",
    ]
    .iter()
    .map(|name| export(name, 3, 2))
    .collect();
    hostile.clients[0].peer = "\u{1b}]0;title\u{7}".repeat(200);
    for page in TopPage::ALL {
        for width in [8, 20, 60, 80, 120, 200] {
            let mut model = TopModel { page, ..TopModel::default() };
            model.take(hostile.clone());
            let buffer = drawn(&mut model, width, 20);
            for cell in buffer.content() {
                assert!(!cell.symbol().chars().any(char::is_control), "{:?}", cell.symbol());
                assert!(!cell.symbol().contains('\u{202e}'));
            }
            let shown = lines(&buffer).join("\n");
            if page == TopPage::Exports && width >= 60 {
                assert!(shown.contains("\\u{1b}[2J") && shown.contains('\u{2026}'), "{shown}");
                assert!(shown.contains("xxxxxx\u{2026}"), "a long name ends with a sign: {shown}");
            }
            let plain = plain::text(&model);
            assert!(!plain.chars().any(|character| character.is_control() && character != '\n'), "{plain}");
        }
    }
}

#[test]
fn the_largest_numbers_are_drawn() {
    let most = u64::MAX;
    let mut hostile = shot(2);
    hostile.client_count = most;
    for of in &mut hostile.figures.exports {
        let export = of.export.clone();
        *of = ExportFigures {
            export,
            size_bytes: most,
            connections: most,
            in_flight: most,
            reads: most,
            read_bytes: most,
            writes: most,
            written_bytes: most,
            others: most,
            errors: most,
            p50_ns: most,
            p99_ns: most,
            read_only: true,
        };
    }
    for of in &mut hostile.figures.shards {
        (of.in_flight, of.buffer_memory_used_bytes, of.buffer_memory_bytes) = (most, most, 0);
    }
    for of in &mut hostile.figures.seconds {
        *of = SecondFigures {
            reads: most,
            writes: most,
            read_bytes: most,
            written_bytes: most,
            p99_ns: most,
            ..of.clone()
        };
        (of.length_ms, of.end_unix_ms) = (0, most);
    }
    for of in &mut hostile.clients {
        (of.age_seconds, of.bytes, of.requests, of.in_flight) = (f64::MAX, most, most, most);
    }
    for page in TopPage::ALL {
        let mut model = TopModel { page, ..TopModel::default() };
        model.take(shot(1));
        model.take(hostile.clone());
        drawn(&mut model, 200, 30);
        assert!(plain::text(&model).lines().count() > 3);
    }
}

#[test]
fn ten_thousand_exports_are_sorted_and_shown_in_part() {
    let mut many = shot(2);
    many.figures.exports = (0..10_000).map(|number| export(&format!("disk{number:05}"), number, 2)).collect();
    let mut model = TopModel::default();
    model.take(many.clone());
    many.taken = Duration::from_secs(3);
    many.figures.exports = (0..10_000).map(|number| export(&format!("disk{number:05}"), number, 3)).collect();
    model.take(many);
    drawn(&mut model, 120, 40);
    assert_eq!(names(&model)[..2], ["disk09999", "disk09998"]);
    press(&mut model, &[KeyCode::End]);
    let shown = lines(&drawn(&mut model, 120, 40)).join("\n");
    assert!(shown.contains("disk00000") && shown.contains("10000 of 10000"), "{shown}");
    press(&mut model, &[KeyCode::PageUp]);
    assert!(model.selected < 9_990);
}

#[test]
fn without_colours_there_are_none() {
    let mut model = model();
    model.fail("gone".into());
    let area = Rect::new(0, 0, 120, 30);
    let mut buffer = Buffer::empty(area);
    draw(&model, Look { has_colours: false }, area, &mut buffer);
    let is_plain = |cell: &ratatui::buffer::Cell| {
        cell.fg == ratatui::style::Color::Reset && cell.bg == ratatui::style::Color::Reset
    };
    assert!(buffer.content().iter().all(is_plain));
}

/// Red wherever its row is not the selected one, which is reversed.
#[test]
fn what_is_wrong_is_red() {
    let mut figures = shot(2);
    figures.figures.shards.push(ShardFigures { failed: false, ..figures.figures.shards[1].clone() });
    let mut model = TopModel { page: TopPage::Shards, ..TopModel::default() };
    model.take(figures);
    let red_words = |model: &mut TopModel| {
        let buffer = drawn(model, 120, 30);
        let is_red = |x: u16, y: u16| buffer[(x, y)].fg == ratatui::style::Color::Red;
        let red_of = |y: u16| (0..120).filter(|x| is_red(*x, y)).map(|x| buffer[(x, y)].symbol()).collect();
        let rows: Vec<String> = (0..30).map(red_of).filter(|red: &String| !red.is_empty()).collect();
        rows
    };
    // The memory of both is used up, too.
    assert_eq!(red_words(&mut model), ["1: failed100%", "2: does not answer100%"]);
    press(&mut model, &[KeyCode::Down]);
    assert_eq!(red_words(&mut model), ["2: does not answer100%"]);
    assert_eq!(red_words(&mut self::model()), ["errors 1/s", "2"], "the export with a new error");
}

#[test]
fn json_has_what_is_shown() {
    let model = model();
    let json = plain::json(&model);
    assert_eq!(json["exports"][0]["export"], "vm/database");
    assert_eq!(json["exports"][0]["reads_per_second"], 7000.0);
    assert_eq!(
        (&json["clients"].as_array().unwrap().len(), &json["shards"][1]["failed"]),
        (&3, &true.into())
    );
    assert!(plain::text(&model).contains("shard 1 has failed"));
    // More shards than exports, and a page that is not that of exports.
    for page in TopPage::ALL {
        let mut few = shot(2);
        few.figures.exports.truncate(1);
        let mut model = TopModel { page, ..TopModel::default() };
        model.take(few);
        let json = plain::json(&model);
        let count = |key: &str| json[key].as_array().unwrap().len();
        assert_eq!((count("exports"), count("clients"), count("shards")), (1, 3, 2), "{page:?}");
        assert!(plain::text(&model).lines().count() > 2, "{page:?}");
    }
}

#[test]
fn addresses_of_admin_servers() {
    for (text, shown) in [
        ("http://127.0.0.1:9800/", "127.0.0.1:9800"),
        ("http://127.0.0.1:9800/metrics", "127.0.0.1:9800"),
        ("localhost:9800", "localhost:9800"),
        ("http://[::1]:9800", "[::1]:9800"),
        ("unix:/run/a/b", "unix:/run/a/b"),
    ] {
        let address = super::admin_address(text).unwrap();
        assert!(format!("{address:?}").len() > 3 && !shown.is_empty(), "{text}");
    }
    for text in ["", "http://", "http://localhost", "/run/x"] {
        assert!(super::admin_address(text).is_err(), "{text}");
    }
}

/// A picture of a terminal, to be looked at.
fn svg(buffer: &Buffer, is_dark: bool) -> String {
    let Rect { width, height, .. } = buffer.area;
    let (back, front) = if is_dark { ("#1e1e1e", "#d4d4d4") } else { ("#ffffff", "#222222") };
    let (cell_width, cell_height) = (8, 17);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"DejaVu Sans Mono, monospace\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"{back}\"/>\n",
        u32::from(width) * cell_width,
        u32::from(height) * cell_height
    );
    for y in 0..height {
        for x in 0..width {
            let cell = &buffer[(x, y)];
            let colour = match cell.fg {
                ratatui::style::Color::Red => "#cd3131",
                ratatui::style::Color::Green => "#0d9d59",
                ratatui::style::Color::Cyan => "#0598a4",
                ratatui::style::Color::Magenta => "#bc05bc",
                _ => front,
            };
            let is_reversed = cell.modifier.contains(Modifier::REVERSED);
            let (left, top) = (u32::from(x) * cell_width, u32::from(y) * cell_height);
            if is_reversed {
                let _ = writeln!(
                    text,
                    "<rect x=\"{left}\" y=\"{top}\" width=\"{cell_width}\" height=\"{cell_height}\" fill=\"{colour}\"/>"
                );
            }
            let colour = if is_reversed { back } else { colour };
            let weight = if cell.modifier.contains(Modifier::BOLD) { "bold" } else { "normal" };
            let opacity = if cell.modifier.contains(Modifier::DIM) { "0.6" } else { "1" };
            let line = if cell.modifier.contains(Modifier::UNDERLINED) { "underline" } else { "none" };
            let symbol = cell.symbol().replace('&', "&amp;").replace('<', "&lt;");
            if symbol != " " || line == "underline" {
                let _ = writeln!(
                    text,
                    "<text x=\"{left}\" y=\"{}\" fill=\"{colour}\" font-weight=\"{weight}\" opacity=\"{opacity}\" text-decoration=\"{line}\" xml:space=\"preserve\">{symbol}</text>",
                    top + 13
                );
            }
        }
    }
    text + "</svg>\n"
}
