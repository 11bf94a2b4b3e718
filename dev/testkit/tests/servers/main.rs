//! PostgreSQL and Redis servers of one test.

mod needs_programs;
