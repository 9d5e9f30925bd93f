//! `ringnbd image diff` and `ringnbd image map`: parts of a disk, in order.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::cli::text::written;
use crate::config::ControlAddress;
use crate::store::image_path::ImagePath;
use crate::store::{MapFiles, NodePart, OpenStore, StoreError};

/// A part that differs; its keys are part of the interface.
#[derive(Debug, Serialize)]
struct DifferenceJson {
    start: u64,
    length: u64,
}

/// A part of a map, with the keys of `qemu-img map --output=json`.
#[derive(Debug, Serialize)]
struct PartJson {
    start: u64,
    length: u64,
    depth: u32,
    present: bool,
    zero: bool,
    data: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl PartJson {
    fn of(part: &NodePart) -> Self {
        Self {
            start: part.start,
            length: part.end - part.start,
            // Counted from 0 there; what is nowhere was looked for down to the last layer.
            depth: if part.depth > 0 { part.depth } else { part.layers }.saturating_sub(1),
            present: part.depth > 0,
            zero: !part.has_data,
            data: part.has_data,
            // A layer has each byte where the disk has it.
            offset: part.has_data.then_some(part.start),
        }
    }
}

/// Output that may be long.
struct PartLines {
    out: BufWriter<io::Stdout>,
    /// What ended it.
    ended: Option<io::Error>,
}

impl PartLines {
    fn new() -> Self {
        Self { out: BufWriter::new(io::stdout()), ended: None }
    }

    /// Nothing more is looked for once nobody reads it.
    fn put(&mut self, text: &str) -> Result<(), StoreError> {
        self.out.write_all(text.as_bytes()).map_err(|error| {
            self.ended = Some(error);
            StoreError::Interrupted
        })
    }

    fn end(mut self, result: Result<(), StoreError>, text: &str) -> Result<Outcome, StoreError> {
        if let Some(error) = self.ended.take() {
            return Ok(written(Err(error)));
        }
        result?;
        Ok(written(self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush())))
    }
}

pub(super) fn diff(
    from: &ImagePath,
    to: &ImagePath,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let place = StorePlace { store: &from.store, control };
    owner::look(place, (&from.node, Some(&to.node)), |store| differences(store, (from, to), as_json))
}

fn differences(
    store: &OpenStore<MapFiles>,
    (from, to): (&ImagePath, &ImagePath),
    as_json: bool,
) -> Result<Outcome, StoreError> {
    let (size_of_from, size) = (store.size_of(&from.node)?, store.size_of(&to.node)?);
    let (mut lines, mut changed, mut is_first) = (PartLines::new(), 0, true);
    let begin = || match as_json {
        true => format!(
            "{{\n  \"from\": {},\n  \"to\": {},\n  \"from_size\": {size_of_from},\n  \"size\": {size},\n  \"extents\": [",
            serde_json::Value::from(from.node.to_string()),
            serde_json::Value::from(to.node.to_string())
        ),
        false => format!("{:>16}  {:>16}\n", "START", "LENGTH"),
    };
    let result = store.differences(&from.node, &to.node, &mut |part| {
        let part = DifferenceJson { start: part.start, length: part.end - part.start };
        changed += part.length;
        if is_first {
            lines.put(&begin())?;
        }
        let comma = if is_first { "" } else { "," };
        is_first = false;
        match as_json {
            true => {
                let object = serde_json::to_string(&part).expect("numbers are JSON");
                lines.put(&format!("{comma}\n    {object}"))
            }
            false => lines.put(&format!("{:>16}  {:>16}\n", part.start, part.length)),
        }
    });
    // Nothing is printed of what is refused.
    let begin = if is_first { begin() } else { String::new() };
    let end = if as_json { format!("\n  ],\n  \"changed\": {changed}\n}}\n") } else { String::new() };
    lines.end(result, &format!("{begin}{end}"))
}

pub(super) fn map(
    of: &ImagePath,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let place = StorePlace { store: &of.store, control };
    owner::look(place, (&of.node, None), |store| parts(store, of, as_json))
}

fn parts(store: &OpenStore<MapFiles>, of: &ImagePath, as_json: bool) -> Result<Outcome, StoreError> {
    let (mut lines, mut is_first) = (PartLines::new(), true);
    let title = format!("{:>16}  {:>16}  {:>5}  TYPE\n", "START", "LENGTH", "DEPTH");
    let result = store.map(&of.node, &mut |part| {
        let lead = match (as_json, is_first) {
            (true, true) => "[",
            (true, false) => ",\n",
            (false, true) => &title,
            (false, false) => "",
        };
        lines.put(lead)?;
        is_first = false;
        if as_json {
            return lines.put(&serde_json::to_string(&PartJson::of(&part)).expect("numbers are JSON"));
        }
        let kind = if part.has_data { "data" } else { "zero" };
        let length = part.end - part.start;
        lines.put(&format!("{:>16}  {length:>16}  {:>5}  {kind}\n", part.start, part.depth))
    });
    let end = match (as_json, is_first) {
        (true, true) => "[]\n",
        (true, false) => "]\n",
        (false, true) => &title,
        (false, false) => "",
    };
    lines.end(result, end)
}
