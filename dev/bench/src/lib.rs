//! Shared code of the benchmark programs.

pub mod load;
pub mod seed;
