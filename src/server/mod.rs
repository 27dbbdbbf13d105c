//! The database server: how to find it, what it is, and every statement it is ever sent.
//!
//! [`Server`] knows where to connect and makes a [`Session`] per connection. A session is blocking
//! for its caller, yet ends at once when the run is cancelled: the connection is closed, and the
//! server releases every lock that it held. SQL stands in [`sql`] as named operations and nowhere
//! else.

pub mod connect;
mod fault;
pub mod flavor;
pub mod privileges;
pub mod session;
pub mod sql;
pub mod variables;

pub use connect::{ConnectOptions, Secret};
pub use flavor::Flavor;
pub use session::{Server, Session};
pub use sql::Stage;
pub use variables::Variables;

/// The tables of `format-spec/servers.md` that the specification test compares.
pub const TABLES: crate::base::spec::Tables = crate::base::spec::Tables {
    document: "servers.md",
    layouts: &[],
    enums: &[],
    limits: crate::base::optfile::LIMITS,
};
