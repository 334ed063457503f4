//! What HTTP says, pure. In: heads and bodies of HTTP/1.1 as bytes, field names and values of any version. Out: what they
//! mean (host, framing, visitor) and what goes on. Whatever two readers could understand differently is refused here.

pub mod chunked;
pub mod fields;
pub mod forwarded;
mod framing;
pub mod head;
mod method;
mod reject;
pub mod rewrite;
mod write;
