//! `ringnbd devices`: the `/dev/nbdN` that are attached.

mod metrics;

use serde::Serialize;

use super::Outcome;
use super::text::{human, json, print, table};
use crate::attach::{self, ListedDevice};
use crate::nbd::printable::printable;

const LONG_HELP: &str = "\
JSON: {\"devices\": [{...}]}, with these keys:
  device       such as /dev/nbd3
  uri          the export; null when something else attached the device
  identifier   what the device carries, or null
  pid          the process that attached it, or null while it is going
  supervisor   the process that gives it new connections, or null
  connections  how many it has, dead ones too
  connected    what the kernel says, or null
  size_bytes   the device's size
  export_size_bytes   the export's, as the supervisor heard it last, or null
  read_only    true or false
  reads_in_flight, writes_in_flight   requests under way

Metrics, by device and export: ringnbd_device_connections, _connected, _supervised, _size_bytes,
_export_size_bytes; by op
(read, write, discard, flush) also ringnbd_device_in_flight, and since the device was made
ringnbd_device_requests_total, _bytes_total, _seconds_total. For the textfile collector, by a timer:
  ringnbd devices --metrics >/run/metrics/nbd.$$ && mv /run/metrics/nbd.$$ /run/metrics/nbd.prom";

/// Options of `ringnbd devices`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows the JSON keys.")]
pub(crate) struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Print metrics for Prometheus, for the textfile collector of its node exporter
    #[arg(long, conflicts_with = "json")]
    pub metrics: bool,
}

#[derive(Debug, Serialize)]
struct DevicesJson {
    devices: Vec<DeviceJson>,
}

#[derive(Debug, Serialize)]
struct DeviceJson {
    device: String,
    uri: Option<String>,
    identifier: Option<String>,
    pid: Option<u32>,
    supervisor: Option<u32>,
    connections: usize,
    connected: Option<bool>,
    size_bytes: u64,
    export_size_bytes: Option<u64>,
    read_only: bool,
    reads_in_flight: u64,
    writes_in_flight: u64,
}

impl From<ListedDevice> for DeviceJson {
    fn from(listed: ListedDevice) -> Self {
        Self {
            device: listed.kernel.name(),
            uri: listed.identifier.map(|identifier| identifier.uri.to_string()),
            identifier: listed.kernel.identifier,
            pid: listed.kernel.pid,
            supervisor: listed.supervisor,
            connections: listed.kernel.queues,
            connected: listed.is_connected,
            size_bytes: listed.kernel.size,
            export_size_bytes: listed.export_size,
            read_only: listed.kernel.is_read_only,
            reads_in_flight: listed.kernel.in_flight.0,
            writes_in_flight: listed.kernel.in_flight.1,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let devices = match attach::list() {
        Ok(devices) => devices,
        Err(error) => return Outcome::refused(error),
    };
    if args.metrics {
        return print(&metrics::page(&devices));
    }
    let devices: Vec<DeviceJson> = devices.into_iter().map(DeviceJson::from).collect();
    print(&if args.json { json(&DevicesJson { devices }) } else { as_table(&devices) })
}

fn as_table(devices: &[DeviceJson]) -> String {
    let titles = ["DEVICE", "SIZE", "ACCESS", "CONNECTIONS", "IN FLIGHT", "PID", "SUPERVISOR", "EXPORT"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    let pid = |pid: Option<u32>| pid.map_or("-".into(), |pid| pid.to_string());
    for device in devices {
        let export = device.uri.clone().or_else(|| device.identifier.as_deref().map(printable));
        rows.push(vec![
            device.device.clone(),
            size(device),
            if device.read_only { "read-only" } else { "read-write" }.into(),
            device.connections.to_string(),
            device.reads_in_flight.saturating_add(device.writes_in_flight).to_string(),
            pid(device.pid),
            pid(device.supervisor),
            export.unwrap_or("-".into()),
        ]);
    }
    table(&rows, &[false, true, false, true, true, true, true, false])
}

/// The device's, and the export's where that is another one.
fn size(device: &DeviceJson) -> String {
    let of_device = human(device.size_bytes);
    match device.export_size_bytes.filter(|bytes| *bytes != device.size_bytes) {
        Some(bytes) => format!("{of_device} of {}", human(bytes)),
        None => of_device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let device = |device: &str, uri: Option<&str>, identifier: &str| DeviceJson {
            device: device.into(),
            uri: uri.map(String::from),
            identifier: Some(identifier.into()),
            pid: Some(7),
            supervisor: None,
            connections: 4,
            connected: Some(true),
            size_bytes: 1 << 30,
            export_size_bytes: Some(1 << 30),
            read_only: true,
            reads_in_flight: 1,
            writes_in_flight: 2,
        };
        let shown = as_table(&[
            device("/dev/nbd0", Some("nbd://a/"), "ringnbd/1"),
            device("/dev/nbd11", None, "a\u{1b}[2J"),
        ]);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[1],
            "/dev/nbd0   1 GiB  read-only            4          3    7           -  nbd://a/"
        );
        let differs = DeviceJson { export_size_bytes: Some(3 << 30), ..device("/dev/nbd0", None, "") };
        let shown_size = as_table(&[differs]);
        assert!(shown_size.contains("  1 GiB of 3 GiB  "), "{shown_size}");
        assert!(!shown.contains('\u{1b}') && lines[2].starts_with("/dev/nbd11"), "{shown}");
    }
}
