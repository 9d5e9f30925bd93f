//! The `ringnbd` command.
fn main() {}
