//! What the two ends of a tunnel, their proxies and their visitors speak: frames, hellos, connect strings, upstream forms,
//! PROXY lines, HTTP/1.1. In: bytes a peer or a person sent. Out: values that are proof of their own validity. No IO. Fuzzed.

pub mod connect;
pub mod frame;
pub mod hello;
pub mod http1;
pub mod mux;
pub mod proxy_line;
pub mod upstream;
pub mod ws;
