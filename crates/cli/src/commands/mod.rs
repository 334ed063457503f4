//! What a person can type, a file for each family of commands. In: its arguments. Out: something that runs, or the answer
//! of something that does, in words, a table or JSON. Commands never import each other; what they share is `output`,
//! `error`, `admin_client` and `resolve`.

pub(crate) mod admin;
pub(crate) mod backup;
pub(crate) mod clock;
pub(crate) mod control;
pub(crate) mod fileserver;
pub(crate) mod gate;
pub(crate) mod gatekeeper;
pub(crate) mod import;
pub(crate) mod lists;
pub(crate) mod mesh;
pub(crate) mod nft;
pub(crate) mod policy;
pub(crate) mod status;
pub(crate) mod tunnel;
