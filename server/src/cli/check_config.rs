//! `matchbook-server check-config`: prints the settings.

use std::io;

use matchbook_settings::Settings;

/// Prints the settings in use, with secrets masked, and the source of each.
pub fn run(settings: &Settings) -> io::Result<()> {
    settings.print(&mut io::stdout().lock())
}
