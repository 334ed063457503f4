//! What every product runs on. In: settings, requests over the admin socket, events. Out: tasks with an owner and an end, state
//! that is saved before it is shown, admission of connections, lists, audit. It names no product.

pub mod admission;
pub mod answer;
pub mod api;
pub mod audit;
pub mod backup;
pub mod clock;
mod digest;
pub mod doctor;
pub mod fetch;
pub mod hint;
pub mod html;
pub mod http1;
pub mod lists;
pub mod metrics;
pub mod owner;
mod private;
pub mod reload;
pub mod run;
mod wall;
pub mod watchdog;

pub use digest::{hex, sha256_hex};
pub use private::private;
pub use wall::wall;
