//! Tests that need libfaketime. `scripts/test` selects tests by this module's name.

mod clocks;
