//! `matchbook-server backup` and `restore`: copies and replaces a SQLite database.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::clock;
use crate::config::Config;
use crate::data_dir::{self, DataDir};
use crate::store::Url;
use crate::store::sqlite::{self, Content};

#[derive(Clone, Args)]
pub struct Backup {
    /// The new file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Clone, Args)]
pub struct Restore {
    /// The file that `backup` wrote, or another copy of a database.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The reasons why a database is not copied or replaced, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the database is PostgreSQL, which has tools of its own: back it up with `pg_dump \
         --format=custom`, or with `pg_basebackup` and archived WAL; back up {0} too"
    )]
    BackupOfPostgres(String),
    #[error(
        "the database is PostgreSQL, which has tools of its own: stop the servers, restore a dump \
         into an empty database with `pg_restore --no-owner --exit-on-error`, or a copy of \
         `pg_basebackup` with archived WAL; then end the sessions that may have been logged out \
         since the backup, with `matchbook-server sessions end`"
    )]
    RestoreOfPostgres,
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    #[error("nothing was changed: {0}")]
    Sqlite(#[from] sqlite::Error),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Copies the database, and prints what else belongs to a backup. Blocks.
pub fn backup(config: &Config, Backup { file }: &Backup) -> Result<(), Error> {
    let Url::Sqlite(database) = &config.database.url else {
        return Err(Error::BackupOfPostgres(secret(config)));
    };
    let content = sqlite::backup(database, file)?;
    let mut output = format!("{} holds a copy of {}", file.display(), config.database.url);
    output += &describe(content);
    let secret = secret(config);
    let _ = writeln!(output, "back up {secret} too: without it the copy is of no use");
    Ok(super::print(&output)?)
}

/// Replaces the database, and prints what the operator has to do. Blocks.
pub fn restore(config: &Config, Restore { file }: &Restore) -> Result<(), Error> {
    let Url::Sqlite(database) = &config.database.url else {
        return Err(Error::RestoreOfPostgres);
    };
    if database.starts_with(&config.data_dir) {
        DataDir::at(&config.data_dir).create()?;
    }
    let now = clock::now();
    let restored = sqlite::restore(database, file, now)?;
    let mut output = format!("{} holds a copy of {}", config.database.url, file.display());
    output += &describe(restored.content);
    if let Some(former) = &restored.former {
        let _ = writeln!(output, "the former database is {}", absolute(former).display());
    }
    let secret = secret(config);
    let _ = write!(
        output,
        "1. the database needs {secret} from the same time\n2. logouts since then are forgotten: \
         end all restored sessions with `matchbook-server sessions end --before {now}`\n3. revoke \
         again each key that was revoked since then, with `matchbook-server keys revoke KID`\n4. \
         flush Redis if the server uses one, and start the server\n"
    );
    Ok(super::print(&output)?)
}

fn describe(content: Content) -> String {
    let sessions = if content.sessions == 1 { "session" } else { "sessions" };
    let mut text = format!(", with {} {sessions}", content.sessions);
    if let Some(time) = content.newest_event {
        let _ = write!(text, "; the newest entry of its audit log is of {time}");
    }
    text + "\n"
}

/// Names the secret that belongs to the database.
fn secret(config: &Config) -> String {
    match &config.secret {
        Some(_) => "the configured `secret`".to_owned(),
        None => format!("the secret in {}", DataDir::at(&config.data_dir).path("secret").display()),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
