//! The commands and the news of the kernel's NBD client, as values.
//!
//! Source: `linux/nbd-netlink.h`.

use std::os::fd::RawFd;
use std::time::Duration;

use super::netlink::{AttributeWriter, Attributes, NotNetlink, find, u32_at};

pub(super) const FAMILY: &str = "nbd";
pub(super) const NEWS_GROUP: &str = "nbd_mc_group";
pub(super) const CONTROLLER: u16 = 0x10;
pub(super) const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

pub(super) const CONNECT: u8 = 1;
pub(super) const DISCONNECT: u8 = 2;
pub(super) const RECONFIGURE: u8 = 3;
pub(super) const LINK_DEAD: u8 = 4;
pub(super) const STATUS: u8 = 5;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const DEVICE_LIST: u16 = 9;
const BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;
const DEVICE_ITEM: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_CONNECTED: u16 = 2;

/// What a device is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewDevice<'a> {
    pub(super) index: u32,
    pub(super) identifier: &'a str,
    pub(super) size: u64,
    pub(super) block_size: u32,
    pub(super) server_flags: u16,
    /// For one request; zero means none.
    pub(super) timeout: Duration,
    /// For how long requests wait when all connections are dead.
    pub(super) dead_timeout: Duration,
}

/// Where the family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FamilyIds {
    pub(super) family: u16,
    pub(super) news_group: u32,
}

/// What the kernel says of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceStatus {
    pub(super) index: u32,
    pub(super) is_connected: bool,
}

pub(super) fn family_query() -> Vec<u8> {
    AttributeWriter::default().text(CTRL_ATTR_FAMILY_NAME, FAMILY).finish()
}

/// `None` when the answer lacks one of the numbers.
pub(super) fn family_ids(attributes: &[u8]) -> Result<Option<FamilyIds>, NotNetlink> {
    let family = find(attributes, CTRL_ATTR_FAMILY_ID)?;
    let groups = find(attributes, CTRL_ATTR_MCAST_GROUPS)?.unwrap_or_default();
    let mut news_group = None;
    for group in Attributes(groups) {
        let (_, group) = group?;
        let name = find(group, CTRL_ATTR_MCAST_GRP_NAME)?.unwrap_or_default();
        if name.strip_suffix(b"\0").unwrap_or(name) == NEWS_GROUP.as_bytes() {
            news_group = find(group, CTRL_ATTR_MCAST_GRP_ID)?;
        }
    }
    let (Some(family), Some(news_group)) = (family, news_group) else { return Ok(None) };
    let family = super::netlink::u16_at(family, 0)?;
    Ok(Some(FamilyIds { family, news_group: u32_at(news_group, 0)? }))
}

pub(super) fn connect(device: &NewDevice<'_>, sockets: &[RawFd]) -> Vec<u8> {
    AttributeWriter::default()
        .u32(INDEX, device.index)
        .u64(SIZE_BYTES, device.size)
        .u64(BLOCK_SIZE_BYTES, device.block_size.into())
        .u64(TIMEOUT, whole_seconds(device.timeout))
        .u64(SERVER_FLAGS, device.server_flags.into())
        .u64(DEAD_CONN_TIMEOUT, whole_seconds(device.dead_timeout))
        .text(BACKEND_IDENTIFIER, device.identifier)
        .nested(SOCKETS, socket_items(sockets))
        .finish()
}

/// Offers a connection. The kernel refuses when the device has another identifier. It takes the connection
/// when one of its own is dead, and drops it without a word when none is.
pub(super) fn offer(index: u32, identifier: &str, socket: RawFd) -> Vec<u8> {
    AttributeWriter::default()
        .u32(INDEX, index)
        .text(BACKEND_IDENTIFIER, identifier)
        .nested(SOCKETS, socket_items(&[socket]))
        .finish()
}

pub(super) fn resize(index: u32, identifier: &str, size: u64, block_size: u32) -> Vec<u8> {
    AttributeWriter::default()
        .u32(INDEX, index)
        .text(BACKEND_IDENTIFIER, identifier)
        .u64(SIZE_BYTES, size)
        .u64(BLOCK_SIZE_BYTES, block_size.into())
        .finish()
}

pub(super) fn only_index(index: u32) -> Vec<u8> {
    AttributeWriter::default().u32(INDEX, index).finish()
}

/// The index in a LINK_DEAD, or in the answer to CONNECT.
pub(super) fn index_of(attributes: &[u8]) -> Result<Option<u32>, NotNetlink> {
    find(attributes, INDEX)?.map(|value| u32_at(value, 0)).transpose()
}

pub(super) fn statuses(attributes: &[u8]) -> Result<Vec<DeviceStatus>, NotNetlink> {
    let mut found = Vec::new();
    for item in Attributes(find(attributes, DEVICE_LIST)?.unwrap_or_default()) {
        let (kind, item) = item?;
        let index = find(item, DEVICE_INDEX)?;
        if let (DEVICE_ITEM, Some(index)) = (kind, index) {
            let connected = find(item, DEVICE_CONNECTED)?.and_then(|value| value.first());
            let is_connected = connected.is_some_and(|value| *value != 0);
            found.push(DeviceStatus { index: u32_at(index, 0)?, is_connected });
        }
    }
    Ok(found)
}

fn socket_items(sockets: &[RawFd]) -> AttributeWriter {
    sockets.iter().fold(AttributeWriter::default(), |items, socket| {
        items.nested(SOCK_ITEM, AttributeWriter::default().u32(SOCK_FD, *socket as u32))
    })
}

/// The kernel counts whole seconds, and zero means something else than little.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_family_is_found_among_others() {
        let group = |name: &str, id| {
            let group = AttributeWriter::default().u32(CTRL_ATTR_MCAST_GRP_ID, id);
            group.text(CTRL_ATTR_MCAST_GRP_NAME, name)
        };
        let groups = AttributeWriter::default().nested(1, group("other", 3)).nested(2, group(NEWS_GROUP, 9));
        let answer = AttributeWriter::default()
            .text(CTRL_ATTR_FAMILY_NAME, FAMILY)
            .bytes(CTRL_ATTR_FAMILY_ID, &33_u16.to_ne_bytes())
            .nested(CTRL_ATTR_MCAST_GROUPS, groups);
        assert_eq!(family_ids(&answer.finish()), Ok(Some(FamilyIds { family: 33, news_group: 9 })));
        assert_eq!(family_ids(&family_query()), Ok(None));
    }

    #[test]
    fn a_device_has_all_that_was_asked_for() {
        let device = NewDevice {
            index: 3,
            identifier: "me",
            size: 1 << 40,
            block_size: 4096,
            server_flags: 0x8001,
            timeout: Duration::ZERO,
            dead_timeout: Duration::from_millis(1500),
        };
        let bytes = connect(&device, &[5, 6]);
        let number = |kind| u64::from_ne_bytes(find(&bytes, kind).unwrap().unwrap().try_into().unwrap());
        assert_eq!(index_of(&bytes), Ok(Some(3)));
        assert_eq!(
            [SIZE_BYTES, BLOCK_SIZE_BYTES, TIMEOUT, SERVER_FLAGS, DEAD_CONN_TIMEOUT].map(number),
            [1 << 40, 4096, 0, 0x8001, 2]
        );
        assert_eq!(find(&bytes, BACKEND_IDENTIFIER), Ok(Some(&b"me\0"[..])));
        let items: Vec<_> = Attributes(find(&bytes, SOCKETS).unwrap().unwrap()).map(Result::unwrap).collect();
        let sockets = items.iter().map(|(_, item)| u32_at(find(item, SOCK_FD).unwrap().unwrap(), 0).unwrap());
        assert_eq!(sockets.collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn the_status_of_several_devices() {
        let item = |index, connected: u8| {
            AttributeWriter::default().u32(DEVICE_INDEX, index).bytes(DEVICE_CONNECTED, &[connected])
        };
        let list = AttributeWriter::default().nested(DEVICE_ITEM, item(0, 1)).nested(DEVICE_ITEM, item(7, 0));
        let answer = AttributeWriter::default().nested(DEVICE_LIST, list).finish();
        let expected =
            [(0, true), (7, false)].map(|(index, is_connected)| DeviceStatus { index, is_connected });
        assert_eq!(statuses(&answer).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_value(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..12], 0..120)) {
            let _ = family_ids(&bytes);
            let _ = index_of(&bytes);
            if let Ok(found) = statuses(&bytes) {
                prop_assert!(found.len() <= bytes.len() / 8);
            }
        }
    }
}
