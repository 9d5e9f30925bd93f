//! Metrics of attached devices, in the text format of Prometheus.

use std::fmt::Write;

use crate::attach::{DoneByKind, DoneRequests, ListedDevice};

/// A family: its name behind the common front, its kind, what it is, and its samples by operation.
type Family = (&'static str, &'static str, &'static str, fn(&ListedDevice) -> Samples);
/// Values by the label `op`, which is left away where it is empty.
type Samples = Vec<(&'static str, f64)>;

const FAMILIES: [Family; 9] = [
    ("connections", "gauge", "Connections of a device, dead ones too.", |device| {
        vec![("", device.kernel.queues as f64)]
    }),
    ("connected", "gauge", "Whether the kernel says that a device is connected.", |device| {
        device.is_connected.map(|is_connected| ("", f64::from(u8::from(is_connected)))).into_iter().collect()
    }),
    ("supervised", "gauge", "Whether somebody makes new connections for those that end.", |device| {
        vec![("", f64::from(u8::from(device.supervisor.is_some())))]
    }),
    ("size_bytes", "gauge", "The size of a device.", |device| vec![("", device.kernel.size as f64)]),
    (
        "export_size_bytes",
        "gauge",
        "The size of a device's export, as its supervisor heard it last.",
        |device| device.export_size.map(|bytes| ("", bytes as f64)).into_iter().collect(),
    ),
    ("in_flight", "gauge", "Requests under way.", |device| {
        let (reads, writes) = device.kernel.in_flight;
        vec![("read", reads as f64), ("write", writes as f64)]
    }),
    ("requests_total", "counter", "Requests that a device has done.", |device| {
        by_kind(&device.done, |done| done.requests as f64)
    }),
    ("bytes_total", "counter", "Bytes of requests that a device has done.", |device| {
        by_kind(&device.done, |done| done.bytes as f64)
    }),
    ("seconds_total", "counter", "The sum of the times that requests took.", |device| {
        by_kind(&device.done, |done| done.milliseconds as f64 / 1000.0)
    }),
];

fn by_kind(done: &DoneByKind, of: fn(&DoneRequests) -> f64) -> Samples {
    let DoneByKind { reads, writes, discards, flushes } = done;
    vec![("read", of(reads)), ("write", of(writes)), ("discard", of(discards)), ("flush", of(flushes))]
}

/// All families; nothing where no device is attached.
pub(super) fn page(devices: &[ListedDevice]) -> String {
    let mut page = String::new();
    for (name, kind, help, samples) in FAMILIES.iter().filter(|_| !devices.is_empty()) {
        let _ = writeln!(page, "# HELP ringnbd_device_{name} {help}\n# TYPE ringnbd_device_{name} {kind}");
        for device in devices {
            let uri = device.identifier.as_ref().map(|identifier| identifier.uri.to_string());
            let labels = format!(
                "device=\"{}\",export=\"{}\"",
                device.kernel.name(),
                uri.map(|uri| escaped(&uri)).unwrap_or_default()
            );
            for (op, value) in samples(device) {
                let op = if op.is_empty() { String::new() } else { format!(",op=\"{op}\"") };
                let _ = writeln!(page, "ringnbd_device_{name}{{{labels}{op}}} {value}");
            }
        }
    }
    page
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::KernelDevice;

    #[test]
    fn a_page() {
        assert_eq!(page(&[]), "");
        let kernel = KernelDevice {
            index: 3,
            pid: Some(7),
            size: 1 << 20,
            in_flight: (1, 2),
            is_held: false,
            identifier: None,
            queues: 4,
            block_size: 512,
            is_read_only: false,
        };
        let done = DoneRequests { requests: 5, bytes: 4096, milliseconds: 1500 };
        let uri = "67e55044-10b1-426f-9247-bb680e5fe0c8 nbd+unix:///a%22b?socket=/run/s";
        let page = page(&[ListedDevice {
            kernel,
            identifier: format!("ringnbd/1 {uri}").parse().ok(),
            supervisor: None,
            export_size: Some(2 << 20),
            is_connected: Some(true),
            done: DoneByKind { writes: done, ..DoneByKind::default() },
        }]);
        let labels = r#"device="/dev/nbd3",export="nbd+unix:///a%22b?socket=/run/s""#;
        for line in [
            "# TYPE ringnbd_device_in_flight gauge".to_owned(),
            format!("ringnbd_device_connections{{{labels}}} 4"),
            format!("ringnbd_device_export_size_bytes{{{labels}}} 2097152"),
            format!("ringnbd_device_supervised{{{labels}}} 0"),
            format!("ringnbd_device_in_flight{{{labels},op=\"write\"}} 2"),
            format!("ringnbd_device_requests_total{{{labels},op=\"write\"}} 5"),
            format!("ringnbd_device_seconds_total{{{labels},op=\"write\"}} 1.5"),
        ] {
            assert!(page.lines().any(|told| told == line), "{line}\n{page}");
        }
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
