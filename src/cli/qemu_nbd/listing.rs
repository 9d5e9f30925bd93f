//! What `qemu-nbd --list` prints, for scripts that read it.

use std::fmt::Write as _;

use crate::nbd::client::handshake::{Dialect, ExportDetails, ListedExport};
use crate::nbd::printable::printable;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// QEMU's names, in its order.
const FLAGS: [(u16, &str); 12] = [
    (NBD_FLAG_READ_ONLY, "readonly"),
    (NBD_FLAG_SEND_FLUSH, "flush"),
    (NBD_FLAG_SEND_FUA, "fua"),
    (NBD_FLAG_ROTATIONAL, "rotational"),
    (NBD_FLAG_SEND_TRIM, "trim"),
    (NBD_FLAG_SEND_WRITE_ZEROES, "zeroes"),
    (NBD_FLAG_SEND_DF, "df"),
    (NBD_FLAG_CAN_MULTI_CONN, "multi"),
    (NBD_FLAG_SEND_RESIZE, "resize"),
    (NBD_FLAG_SEND_CACHE, "cache"),
    (NBD_FLAG_SEND_FAST_ZERO, "fast-zero"),
    (NBD_FLAG_BLOCK_STATUS_PAYLOAD, "block-status-payload"),
];

pub(super) fn text(dialect: Dialect, exports: &[ListedExport]) -> String {
    let mut text = format!("exports available: {}\n", exports.len());
    for listed in exports {
        let _ = writeln!(text, " export: '{}'", printable(&listed.name));
        if !listed.description.is_empty() {
            let _ = writeln!(text, "  description: {}", printable(&listed.description));
        }
        // QEMU gives no list at all when the server says nothing of one export; its name is of more use.
        if let Ok(details) = &listed.details {
            push_details(&mut text, dialect, details);
        }
    }
    text
}

fn push_details(text: &mut String, dialect: Dialect, details: &ExportDetails) {
    let flags = details.transmission_flags;
    if flags & NBD_FLAG_HAS_FLAGS != 0 {
        let names = FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| format!("{name} "));
        let _ =
            writeln!(text, "  size:  {}\n  flags: {flags:#x} ( {})", details.size, names.collect::<String>());
    }
    if let Some(sizes) = details.block_sizes {
        let _ = writeln!(text, "  min block: {}\n  opt block: {}", sizes.minimum, sizes.preferred);
        let _ = writeln!(text, "  max block: {}", sizes.maximum);
    }
    let width = if dialect.reply_mode == ReplyMode::Extended { 64 } else { 32 };
    let _ = writeln!(text, "  transaction size: {width}-bit");
    if let Some(contexts) = details.contexts.as_ref().filter(|contexts| !contexts.is_empty()) {
        let _ = writeln!(text, "  available meta contexts: {}", contexts.len());
        contexts.iter().for_each(|context| {
            let _ = writeln!(text, "   {}", printable(context));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockSizes;

    /// As QEMU 10 prints it of ringnbd; `tests/interop.rs` compares both programs.
    #[test]
    fn is_as_qemu_prints_it() {
        let details = ExportDetails {
            name: "a".into(),
            description: Some("of info, which qemu does not ask for".into()),
            size: 1 << 20,
            transmission_flags: NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH,
            block_sizes: Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 1 << 25 }),
            contexts: Some(vec!["base:allocation".into()]),
        };
        let exports = [
            ListedExport { name: "a".into(), description: "x".into(), details: Ok(details) },
            ListedExport { name: "b\n".into(), description: String::new(), details: Err("no".into()) },
        ];
        let expected = "\
exports available: 2
 export: 'a'
  description: x
  size:  1048576
  flags: 0x7 ( readonly flush )
  min block: 1
  opt block: 4096
  max block: 33554432
  transaction size: 64-bit
  available meta contexts: 1
   base:allocation
 export: 'b\\n'
";
        let dialect = Dialect { fixed_newstyle: true, reply_mode: ReplyMode::Extended };
        assert_eq!(text(dialect, &exports), expected);
    }
}
