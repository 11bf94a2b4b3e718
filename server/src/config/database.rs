//! The section `[database]`.

use std::path::Path;

use matchbook_settings::{PositiveDuration, Settings, SettingsError, available_cpus};
use serde::Deserialize;

use crate::store::Options;

#[derive(Deserialize)]
struct Database {
    url: String,
    pool_size: u16,
    acquire_timeout: PositiveDuration,
    max_queue: u32,
    query_timeout: PositiveDuration,
    start_timeout: PositiveDuration,
    migrate: bool,
}

/// `data_dir` replaces `{data_dir}` in the URL.
pub(super) fn read(settings: &Settings, data_dir: &Path) -> Result<Options, SettingsError> {
    let database: Database = settings.section("database")?;
    let url = database.url.replace("{data_dir}", &data_dir.to_string_lossy());
    Ok(Options {
        url: url.parse().map_err(|problem| settings.invalid("database.url", problem))?,
        pool_size: match database.pool_size {
            0 => u32::try_from(available_cpus() * 2).unwrap_or(u32::MAX).max(4),
            size => size.into(),
        },
        acquire_timeout: database.acquire_timeout.0,
        max_queue: database.max_queue,
        query_timeout: database.query_timeout.0,
        start_timeout: database.start_timeout.0,
        migrate: database.migrate,
    })
}
