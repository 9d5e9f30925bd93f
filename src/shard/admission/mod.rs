//! Who may hold memory, places and room for replies; who waits for them, and who has to go.

pub(crate) mod budget;
pub(crate) mod queue;
pub(crate) mod seniority;
pub(crate) mod stall;
