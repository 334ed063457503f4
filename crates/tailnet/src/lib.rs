//! The registry of the mesh: users, pre-auth keys, nodes, routes, names, and what each node is told of it. In: what clients and
//! administrators want, and the time. Out: what must be saved, audit lines, and a [`Snapshot`] that maps are made of.
//!
//! ```text
//! request -> Registry (one owner) -> saves, audits
//!                 \-> Snapshot (shared, never changed) -> Sent::advance -> map message
//! ```

mod apps;
pub mod import;
mod member;
mod names;
mod near;
mod nodes;
mod pool;
pub mod record;
mod refusal;
mod register;
mod registry;
mod routes;
mod sent;
mod snapshot;

pub use apps::{APP_ROUTES, App};
pub use member::{Member, Pending};
pub use names::domain_name;
pub use pool::Pools;
pub use refusal::Refusal;
pub use register::Registered;
pub use registry::{Audit, OPEN, Registry, Saved, Settings, Slot};
pub use routes::{Carrier, Leaves, Moved, RouteState, RouteView, Source};
pub use sent::Sent;
pub use snapshot::Snapshot;
