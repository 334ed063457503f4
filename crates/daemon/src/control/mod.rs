//! The coordination server of the mesh. In: connections of official clients. Out: what they may know and reach.

pub mod noise_stream;
