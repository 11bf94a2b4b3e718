//! A short run of the benchmark.

mod needs_programs;
