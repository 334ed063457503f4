//! The mesh with official clients: `portcullis control` and real `tailscaled` on hosts of their own, real packets.
//! What is proven is named by each file: who joins, what a fixed address is worth, what a name routes, what a filter
//! lets through, what stands in front, what IPv6 alone carries, how a node's life goes, what names lead to,
//! and that older releases of the client do the same, as does one of another make.

mod connector;
mod demo;
mod fixed;
mod fronts;
mod headscale;
mod ipv6;
mod join;
mod life;
mod names;
mod ports;
mod printed;
mod routes;
mod rust;
mod versions;
