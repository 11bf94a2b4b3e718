//! `users import`: adds the users of another server.
//!
//! The file is read twice. The first pass checks every line and changes nothing; the second
//! inserts all users in one transaction. Neither holds the file in memory.

mod line;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::thread;

use diesel::Connection;
use serde::Serialize;

use self::line::{Parsed, Times};
use super::{Error, Import, Operator, connect_to_change};
use crate::accounts::AccountEvent;
use crate::cli::format::to_json;
use crate::cli::print;
use crate::cli::propagation::PROPAGATION_TIME;
use crate::config::Config;
use crate::crypto::Digest;
use crate::ids::UserId;
use crate::sessions::Context;
use crate::store::import::{ImportedUser, existing_tokens, existing_users, insert, taken_names};
use crate::store::{Conn, events::Event};

/// How many lines are looked up, or inserted, at once.
const BATCH: usize = 500;
/// The maximum length of a line in bytes.
const MAX_LINE_LEN: u64 = 64 * 1024;

/// The result of an import, as `--json` prints it.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether the users were imported, and not only checked.
    imported: bool,
    users: usize,
    /// Lines that were ignored, because their login name exists.
    skipped: usize,
    refresh_tokens: usize,
    /// Refresh tokens that were not imported, because they have expired.
    expired_refresh_tokens: usize,
    errors: Vec<LineError>,
}

#[derive(Serialize)]
struct LineError {
    line: usize,
    reason: String,
}

/// Why a pass stops.
enum Stop {
    Error(Error),
    Query(diesel::result::Error),
}

impl From<diesel::result::Error> for Stop {
    fn from(error: diesel::result::Error) -> Self {
        Self::Query(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) fn import(config: &Config, arguments: &Import) -> Result<(), Error> {
    let mut conn = connect_to_change(config)?;
    let operator = Operator::new()?;
    let cx = operator.context(config);
    let times = Times { now: cx.now, tokens_expire_at: cx.now.after(config.policy.idle_lifetime) };
    let mut check = Check::new(arguments.skip_existing);
    check.file(&mut conn, &arguments.file, times)?;
    let mut report = check.report;
    if report.errors.is_empty() && !arguments.check {
        let skipped = check.skipped;
        insert_file(&mut conn, &arguments.file, &skipped, times, &cx)?;
        report.imported = true;
        if report.refresh_tokens > 0 {
            // Every server looks again whether there are imported tokens.
            thread::sleep(PROPAGATION_TIME);
        }
    }
    if arguments.json {
        print(&to_json(&report))?;
    } else {
        for LineError { line, reason } in &report.errors {
            eprintln!("line {line}: {reason}");
        }
    }
    match report.errors.len() {
        0 if arguments.json => Ok(()),
        0 => Ok(print(&report.to_string())?),
        1 => Err(Error::BadLines("1 line".to_owned())),
        n => Err(Error::BadLines(format!("{n} lines"))),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = if self.imported { "imported" } else { "can be imported" };
        writeln!(f, "{} users and {} refresh tokens {done}", self.users, self.refresh_tokens)?;
        if self.skipped > 0 {
            writeln!(f, "{} lines skipped: their login name exists", self.skipped)?;
        }
        if self.expired_refresh_tokens > 0 {
            writeln!(f, "{} refresh tokens have expired", self.expired_refresh_tokens)?;
        }
        Ok(())
    }
}

/// Calls `each` with the number and the text of each line that is not blank. Holds one line
/// in memory.
fn for_each_line(
    path: &Path,
    mut each: impl FnMut(usize, Result<&str, String>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = file.by_ref().take(MAX_LINE_LEN).read_until(b'\n', &mut bytes);
        if read.map_err(failed)? == 0 {
            break;
        }
        let is_complete = bytes.last() == Some(&b'\n') || at_end(&mut file).map_err(failed)?;
        if !is_complete {
            skip_line(&mut file).map_err(failed)?;
            each(number, Err(format!("the line is longer than {MAX_LINE_LEN} bytes")))?;
            continue;
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| "the line is not UTF-8".to_owned());
        let line = line.map(|text| text.trim_start_matches('\u{feff}').trim());
        if line != Ok("") {
            each(number, line)?;
        }
    }
    Ok(())
}

fn at_end(file: &mut impl BufRead) -> io::Result<bool> {
    Ok(file.fill_buf()?.is_empty())
}

fn skip_line(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = file.fill_buf()?;
        let (length, is_end) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        file.consume(length);
        if is_end {
            return Ok(());
        }
    }
}

/// The first pass.
struct Check {
    skip_existing: bool,
    report: Report,
    /// The line of each name, id and refresh token, by a digest: a file may have millions.
    seen: HashMap<u128, usize>,
    batch: Vec<(usize, Parsed)>,
    /// The numbers of lines that are ignored, in their order.
    skipped: Vec<usize>,
}

impl Check {
    fn new(skip_existing: bool) -> Self {
        Self {
            skip_existing,
            report: Report::default(),
            seen: HashMap::new(),
            batch: Vec::new(),
            skipped: Vec::new(),
        }
    }

    fn file(&mut self, conn: &mut Conn, path: &Path, times: Times) -> Result<(), Error> {
        let checked = for_each_line(path, |number, text| {
            match text.and_then(|text| line::parse(text, times)) {
                Ok(parsed) => self.batch.push((number, parsed)),
                Err(reason) => self.report.errors.push(LineError { line: number, reason }),
            }
            if self.batch.len() >= BATCH {
                self.look_up(conn)?;
            }
            Ok(())
        });
        let checked = checked.and_then(|()| Ok(self.look_up(conn)?));
        self.report.errors.sort_by_key(|error| error.line);
        match checked {
            Ok(()) => Ok(()),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Query(error)) => Err(error.into()),
        }
    }

    /// Compares a batch with the database and with the lines before it.
    fn look_up(&mut self, conn: &mut Conn) -> diesel::QueryResult<()> {
        let batch = std::mem::take(&mut self.batch);
        let names: Vec<&str> = batch.iter().map(|(_, line)| line.user.name.as_str()).collect();
        let taken = taken_names(conn, &names)?;
        let ids: Vec<UserId> = batch.iter().map(|(_, line)| line.user.user).collect();
        let existing = existing_users(conn, &ids)?;
        let tokens = batch.iter().flat_map(|(_, line)| &line.user.refresh_tokens);
        let tokens: Vec<Digest> = tokens.map(|(digest, _)| *digest).collect();
        let tokens = existing_tokens(conn, &tokens)?;
        for (number, Parsed { user, expired_tokens }) in batch {
            if self.skip_existing && taken.contains(&user.name) {
                self.report.skipped += 1;
                self.skipped.push(number);
                continue;
            }
            if taken.contains(&user.name) {
                self.reject(number, format!("the login name {} exists", user.name));
            }
            if existing.contains(&user.user) {
                self.reject(number, format!("the id {} exists", user.user));
            }
            let was_imported = |(digest, _): &(Digest, _)| tokens.contains(digest.as_bytes());
            if user.refresh_tokens.iter().any(was_imported) {
                self.reject(number, "a refresh token was imported before".to_owned());
            }
            self.compare(number, &user);
            self.report.users += 1;
            self.report.refresh_tokens += user.refresh_tokens.len();
            self.report.expired_refresh_tokens += expired_tokens;
        }
        Ok(())
    }

    /// Rejects a line that repeats a value of an earlier line.
    fn compare(&mut self, number: usize, user: &ImportedUser) {
        let mut values = vec![
            ("login name", Digest::of(&[b"name", user.name.as_bytes()])),
            ("id", Digest::of(&[b"id", user.user.0.as_bytes()])),
        ];
        let tokens = user.refresh_tokens.iter().map(|(digest, _)| Digest::of(&[digest.as_bytes()]));
        values.extend(tokens.map(|digest| ("refresh token", digest)));
        for (value, digest) in values {
            let mut key = [0; 16];
            key.copy_from_slice(&digest.as_bytes()[..16]);
            if let Some(earlier) = self.seen.insert(u128::from_be_bytes(key), number) {
                self.reject(number, format!("line {earlier} has the same {value}"));
            }
        }
    }

    fn reject(&mut self, line: usize, reason: String) {
        self.report.errors.push(LineError { line, reason });
    }
}

/// The second pass: inserts everything or nothing.
fn insert_file(
    conn: &mut Conn,
    path: &Path,
    skipped: &[usize],
    times: Times,
    cx: &Context<'_>,
) -> Result<(), Error> {
    let inserted = conn.transaction(|conn| {
        let mut batch = Vec::with_capacity(BATCH);
        let mut count = 0;
        for_each_line(path, |number, text| {
            if skipped.binary_search(&number).is_ok() {
                return Ok(());
            }
            let parsed = text.and_then(|text| line::parse(text, times));
            batch.push(parsed.map_err(|_| Error::FileChanged)?.user);
            if batch.len() == BATCH {
                insert_batch(conn, &mut batch, &mut count, cx)?;
            }
            Ok(())
        })?;
        insert_batch(conn, &mut batch, &mut count, cx)?;
        Ok(())
    });
    match inserted {
        Ok(()) => Ok(()),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Query(error)) => Err(error.into()),
    }
}

/// Inserts a batch with an entry of the audit log for each user, and empties it.
fn insert_batch(
    conn: &mut Conn,
    batch: &mut Vec<ImportedUser>,
    count: &mut u128,
    cx: &Context<'_>,
) -> diesel::QueryResult<()> {
    let events: Vec<Event<'_>> = batch
        .iter()
        .zip(*count..)
        .map(|(new, n)| {
            let cx = Context { event: cx.event.offset(n), ..*cx };
            cx.user_event(AccountEvent::Imported.as_str(), new.user)
        })
        .collect();
    insert(conn, batch, &events, cx.now)?;
    *count += batch.len() as u128;
    batch.clear();
    Ok(())
}
