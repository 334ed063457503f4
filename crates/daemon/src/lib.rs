//! Rooms with a loop each. What comes in are settings and sockets; what goes out is traffic that `decide` let
//! through. Rooms never import each other: they meet in `door` (who may pass, who is still inside) and `run`.

pub mod api;
pub mod audit;
pub mod backup;
pub mod clock;
pub mod control;
mod digest;
pub mod door;
pub mod files;
pub mod gate;
pub mod hint;
mod html;
pub mod lists;
pub mod owner;
mod private;
pub mod run;
pub mod tunnel;
mod wall;

pub(crate) use private::private;
pub use wall::wall;
