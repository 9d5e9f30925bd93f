//! Handshake statements H1 to H5: greeting, client flags, unknown options, ABORT.

use crate::support::raw::Connection;
use crate::support::server::Server;
use crate::support::wire::*;

#[test]
fn h02_unknown_option_is_unsupported() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.expect_only(0x0765_4321, b"data", NBD_REP_ERR_UNSUP);
    client.expect_in_step();
    client.go("");
    client.expect_alive();
}
