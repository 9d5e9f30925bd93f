//! Real clients against the real server.
//!
//! The table below says which client does what on which kind of disk; each line is run over a unix socket and over TCP.
//! A test is called after its cell: `qemu_img_convert_in::unix::direct`. Set `RINGNBD_TEST_PEER=qemu-nbd` (or `nbdkit`)
//! to run the unix half against another server, which shows that a test can pass and fail for the right reason.
//!
//! The oracle is never a client under test: it is the picture the test made from a printed seed, compared with what is in
//! the file or device behind the server's back.

#[path = "support/peers.rs"]
mod peers;
mod support;

#[path = "interop/fio.rs"]
mod fio;
#[path = "interop/libnbd.rs"]
mod libnbd;
#[path = "interop/listing.rs"]
mod listing;
#[path = "interop/picture.rs"]
mod picture;
#[path = "interop/qemu_img.rs"]
mod qemu_img;
#[path = "interop/qemu_io.rs"]
mod qemu_io;
#[path = "interop/reconnect.rs"]
mod reconnect;
#[path = "interop/relay.rs"]
mod relay;
#[path = "interop/subject.rs"]
mod subject;

use subject::{Disk, Transport};

/// Makes one test of each line's check for each disk and transport.
macro_rules! matrix {
    ($($name:ident: $module:ident::$check:ident => $($disk:ident)+;)+) => {$(
        mod $name {
            mod unix {
                $(#[test] fn $disk() { crate::cell(crate::$module::$check, crate::Transport::Unix, crate::Disk::$disk()); })+
            }
            mod tcp {
                $(#[test] fn $disk() { crate::cell(crate::$module::$check, crate::Transport::Tcp, crate::Disk::$disk()); })+
            }
        }
    )+};
}

/// `None` is a skip, which has named itself.
fn cell(check: impl Fn(Transport, Disk) -> Option<()>, transport: Transport, disk: Disk) {
    let _ = check(transport, disk);
}

// `file` is buffered, `direct` the same with O_DIRECT, `device` a loop block device, `memory` a mem: export, `overlay` an image over
// a base.
matrix! {
    qemu_img_info:          qemu_img::info                 => file direct device memory;
    qemu_img_convert_in:    qemu_img::convert_in           => file direct device memory overlay;
    qemu_img_convert_out:   qemu_img::convert_out          => file direct device memory overlay;
    qemu_img_compare:       qemu_img::compare              => file direct device memory overlay;
    qemu_img_map:           qemu_img::map                  => file direct device memory overlay;
    qemu_img_qcow2:         qemu_img::qcow2_inside         => file direct device memory;
    qemu_io_script:         qemu_io::random_script         => file direct device memory overlay;
    qemu_io_allocation:     qemu_io::allocation            => file direct;
    qemu_io_extended:       qemu_io::extended_headers      => file direct memory;
    nbdinfo_plain:          libnbd::info_plain             => file direct device memory;
    nbdinfo_json:           libnbd::info_json              => file direct device memory overlay;
    nbdinfo_map:            libnbd::info_map               => file direct device memory;
    nbdcopy_in:             libnbd::copy_in                => file direct device memory overlay;
    nbdcopy_out:            libnbd::copy_out               => file direct device memory overlay;
    nbdsh_simple:           libnbd::shell_simple           => file direct device memory overlay;
    nbdsh_structured:       libnbd::shell_structured       => file direct device memory overlay;
    nbdsh_extended:         libnbd::shell_extended         => file direct device memory overlay;
    nbdsh_strict_off:       libnbd::shell_strict_off       => file direct device memory;
    nbdsh_pipeline:         libnbd::shell_pipeline         => file direct device memory overlay;
    nbdsh_multi_conn:       libnbd::shell_multi_conn       => file direct device memory overlay;
    nbdsh_64_bit:           libnbd::shell_64_bit           => file direct memory;
    nbd_client_list:        listing::nbd_client            => file direct device memory;
    nbdkit_nbd_plugin:      relay::nbdkit                  => file direct device memory;
    qemu_nbd_relay:         relay::qemu_nbd                => file direct device memory;
    storage_daemon_relay:   relay::storage_daemon          => file direct device memory;
    fio_verify:             fio::verify                    => file direct device memory overlay;
}
