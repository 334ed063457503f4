//! A false network and clock, and slow reference models that share no nouns with what they check.

pub mod doorbook;
pub mod filter;
pub mod fuzz;
#[cfg(feature = "mesh")]
pub mod mesh;
pub mod mux;
