//! Faults under load. A binary of its own, because it must run alone: it measures times.

mod needs_programs;
