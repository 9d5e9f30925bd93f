//! What goes wrong in a database, as the errors of whoever uses it.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Makes errors of redb those of a type that has a case `Database(Box<redb::Error>)`.
macro_rules! from_redb {
    ($own:ident: $($name:ident)*) => {$(
        impl From<redb::$name> for $own {
            fn from(error: redb::$name) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

pub(super) use from_redb;

/// Calls what uses a database. A panic of it costs the database, and nothing else.
pub(super) fn caught_in<T, E>(
    call: impl FnOnce() -> Result<T, E>,
    panicked: impl FnOnce(String) -> E,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(panicked(text.to_owned()))
    })
}
