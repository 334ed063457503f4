//! Tasks with owners, readiness, drain, reload.
