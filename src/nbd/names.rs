//! The spec's names of numbers: the one table of commands, of options, and of option replies.

use alloc::borrow::Cow;
use alloc::format;

use crate::vocabulary::CommandKind;
use crate::wire::*;

/// Commands ("Request types"), and what each asks of a device.
const COMMANDS: [(u16, &str, Option<CommandKind>); 8] = [
    (NBD_CMD_READ, "NBD_CMD_READ", Some(CommandKind::Read)),
    (NBD_CMD_WRITE, "NBD_CMD_WRITE", Some(CommandKind::Write)),
    (NBD_CMD_DISC, "NBD_CMD_DISC", None),
    (NBD_CMD_FLUSH, "NBD_CMD_FLUSH", Some(CommandKind::Flush)),
    (NBD_CMD_TRIM, "NBD_CMD_TRIM", Some(CommandKind::Trim)),
    (NBD_CMD_CACHE, "NBD_CMD_CACHE", Some(CommandKind::Cache)),
    (NBD_CMD_WRITE_ZEROES, "NBD_CMD_WRITE_ZEROES", Some(CommandKind::WriteZeroes)),
    (NBD_CMD_BLOCK_STATUS, "NBD_CMD_BLOCK_STATUS", Some(CommandKind::BlockStatus)),
];

/// "Option types".
const OPTIONS: [(u32, &str); 11] = [
    (NBD_OPT_EXPORT_NAME, "NBD_OPT_EXPORT_NAME"),
    (NBD_OPT_ABORT, "NBD_OPT_ABORT"),
    (NBD_OPT_LIST, "NBD_OPT_LIST"),
    (NBD_OPT_PEEK_EXPORT, "NBD_OPT_PEEK_EXPORT"),
    (NBD_OPT_STARTTLS, "NBD_OPT_STARTTLS"),
    (NBD_OPT_INFO, "NBD_OPT_INFO"),
    (NBD_OPT_GO, "NBD_OPT_GO"),
    (NBD_OPT_STRUCTURED_REPLY, "NBD_OPT_STRUCTURED_REPLY"),
    (NBD_OPT_LIST_META_CONTEXT, "NBD_OPT_LIST_META_CONTEXT"),
    (NBD_OPT_SET_META_CONTEXT, "NBD_OPT_SET_META_CONTEXT"),
    (NBD_OPT_EXTENDED_HEADERS, "NBD_OPT_EXTENDED_HEADERS"),
];

/// "Option reply types".
const OPTION_REPLIES: [(u32, &str); 14] = [
    (NBD_REP_ACK, "NBD_REP_ACK"),
    (NBD_REP_SERVER, "NBD_REP_SERVER"),
    (NBD_REP_INFO, "NBD_REP_INFO"),
    (NBD_REP_META_CONTEXT, "NBD_REP_META_CONTEXT"),
    (NBD_REP_ERR_UNSUP, "NBD_REP_ERR_UNSUP"),
    (NBD_REP_ERR_POLICY, "NBD_REP_ERR_POLICY"),
    (NBD_REP_ERR_INVALID, "NBD_REP_ERR_INVALID"),
    (NBD_REP_ERR_PLATFORM, "NBD_REP_ERR_PLATFORM"),
    (NBD_REP_ERR_TLS_REQD, "NBD_REP_ERR_TLS_REQD"),
    (NBD_REP_ERR_UNKNOWN, "NBD_REP_ERR_UNKNOWN"),
    (NBD_REP_ERR_SHUTDOWN, "NBD_REP_ERR_SHUTDOWN"),
    (NBD_REP_ERR_BLOCK_SIZE_REQD, "NBD_REP_ERR_BLOCK_SIZE_REQD"),
    (NBD_REP_ERR_TOO_BIG, "NBD_REP_ERR_TOO_BIG"),
    (NBD_REP_ERR_EXT_HEADER_REQD, "NBD_REP_ERR_EXT_HEADER_REQD"),
];

/// The name of a command, such as `NBD_CMD_READ`, or `command 9`.
pub fn command(number: u16) -> Cow<'static, str> {
    match COMMANDS.iter().find(|(known, ..)| *known == number) {
        Some((_, name, _)) => (*name).into(),
        None => format!("command {number}").into(),
    }
}

/// What a command asks of a device; `None` for DISC and for numbers that no command has.
pub fn command_kind(number: u16) -> Option<CommandKind> {
    COMMANDS.iter().find(|(known, ..)| *known == number).and_then(|(_, _, kind)| *kind)
}

/// The name of an option, such as `NBD_OPT_GO`, or `option 0x2a`.
pub fn option(number: u32) -> Cow<'static, str> {
    name_in(&OPTIONS, number).unwrap_or_else(|| format!("option {number:#x}").into())
}

/// The name of an option reply, such as `NBD_REP_ACK`, or `reply 0x2a`.
pub fn option_reply(number: u32) -> Cow<'static, str> {
    name_in(&OPTION_REPLIES, number).unwrap_or_else(|| format!("reply {number:#x}").into())
}

fn name_in(table: &[(u32, &'static str)], number: u32) -> Option<Cow<'static, str>> {
    table.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_of_the_spec() {
        assert_eq!(
            (command(0), command(7), command(9)),
            ("NBD_CMD_READ".into(), "NBD_CMD_BLOCK_STATUS".into(), "command 9".into())
        );
        assert_eq!((option(7), option(12)), ("NBD_OPT_GO".into(), "option 0xc".into()));
        assert_eq!(option_reply(1 << 31 | 6), "NBD_REP_ERR_UNKNOWN");
        assert_eq!(option_reply(99), "reply 0x63");
    }

    #[test]
    fn every_kind_of_command_has_a_number_in_the_order_of_kinds() {
        let kinds: alloc::vec::Vec<_> =
            COMMANDS.iter().filter_map(|(number, ..)| command_kind(*number)).collect();
        assert_eq!(kinds, CommandKind::ALL);
        assert_eq!((command_kind(NBD_CMD_DISC), command_kind(8)), (None, None));
    }
}
