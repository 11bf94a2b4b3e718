//! What the programs of the benchmark share.

pub mod load;
pub mod seed;
