//! Detects a write-ahead log (`-wal`) that was left by another database.
//!
//! After a crash SQLite applies the log to the database beside it, page by page. The log does
//! not say to which database it belongs. If the database was replaced by a copy meanwhile, the
//! pages of two databases would mix. Therefore Matchbook writes two random numbers into page 1
//! of the database, in fields that SQLite leaves to applications:
//!
//! * `user_version` is the current id of the database,
//! * `application_id` is the id before it.
//!
//! The id is renewed before each restart of the log, and again as the first write to the
//! restarted log (see [`super::checkpoint`]). So the state of the file under a log has an id
//! that no copy has, and the log begins with a page 1 that names this id as the one before.
//!
//! A database and a log belong together if the database's ids are those of a page 1 in the
//! log, because a checkpoint has copied that page; or if its current id is the id before that
//! of a page 1. This holds at each moment of the life of a database, also between the steps of
//! a renewal or a checkpoint. Therefore no crash leads to an error. It does not hold for a copy
//! from before the last restart of the log, or for another database. A copy of all files has
//! the same ids, and works.
//!
//! Without a page 1 in the log nothing is known, and the log is accepted. This is the case for
//! some milliseconds after a restart of the log, and for logs of versions without these ids.
//!
//! The format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::files::{beside, real_path};

/// The length of the parts of a page 1 that are read: the header of a database.
const HEADER: usize = 100;

/// The least significant bit is the byte order of the checksums.
const MAGIC: u32 = 0x377f_0682;

/// How often a log is read that does not seem to belong to its database. Another process may
/// restart the log between the reads of the two files.
const ATTEMPTS: u32 = 10;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// The databases that this process has checked.
///
/// POSIX locks belong to a process: closing any descriptor of a file releases all locks that
/// the process holds on it, also those of SQLite. A database must therefore not be read here
/// once the process has a connection to it.
static CHECKED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Checks that the log beside a database belongs to it, before SQLite opens the database.
/// Checks once per process, before its first connection. Returns a sentence for the operator
/// if the log belongs to another database.
pub(in crate::store) fn check(database: &Path) -> Result<(), String> {
    let database = real_path(database);
    let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    if checked.contains(&database) {
        return Ok(());
    }
    let log = beside(&database, "-wal");
    for attempt in 0..ATTEMPTS {
        match belongs(&database, &log) {
            Ok(true) => {
                checked.insert(database);
                return Ok(());
            }
            Ok(false) if attempt + 1 < ATTEMPTS => thread::sleep(PAUSE),
            Ok(false) => break,
            Err(error) => return Err(format!("{} cannot be read: {error}", log.display())),
        }
    }
    Err(format!(
        "{log} was left by another database, and SQLite would mix the two. Nothing was changed. \
         If the database was replaced by a copy, move {log} away; better, replace a database \
         with `matchbook-server restore FILE`",
        log = log.display()
    ))
}

/// The ids in a page 1, all big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    /// Counts changes of the schema. `VACUUM INTO` increments it in the copy.
    schema: u32,
    current: u32,
    previous: u32,
}

impl Ids {
    fn of(header: &[u8; HEADER]) -> Self {
        Self { schema: word(header, 40), current: word(header, 60), previous: word(header, 68) }
    }

    /// Returns whether a log with this page 1 may be the log of a database with `ids`.
    fn continues(&self, ids: &Self) -> bool {
        let is_copied = (ids.current, ids.previous) == (self.current, self.previous);
        ids.schema <= self.schema && (is_copied || ids.current == self.previous)
    }
}

/// Reads a big-endian number.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn belongs(database: &Path, log: &Path) -> io::Result<bool> {
    let Some(mut frames) = open_log(log)? else { return Ok(true) };
    let ids = read_ids(database)?;
    let mut is_empty = true;
    let mut knows_ids = false;
    while let Some(frame) = frames.next()? {
        is_empty = false;
        let Some(page_1) = frame else { continue };
        knows_ids = true;
        if ids.is_some_and(|ids| page_1.continues(&ids)) {
            return Ok(true);
        }
    }
    Ok(is_empty || (!knows_ids && ids.is_some()))
}

/// Reads the ids of a database. Returns `None` if it does not exist or is empty.
fn read_ids(database: &Path) -> io::Result<Option<Ids>> {
    let mut header = [0; HEADER];
    let read = File::open(database).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Ok(()) => Ok(Some(Ids::of(&header))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

/// Opens a log. Returns `None` if it has no content, as SQLite sees it.
fn open_log(path: &Path) -> io::Result<Option<Frames>> {
    let mut header = [0; 32];
    let opened = File::open(path).and_then(|file| {
        let mut reader = BufReader::new(file);
        reader.read_exact(&mut header).map(|()| reader)
    });
    let reader = match opened {
        Ok(reader) => reader,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let magic = word(&header, 0);
    let mut checksum = Checksum { big_endian: magic & 1 == 1, sums: (0, 0) };
    checksum.add(&header[..24]);
    let page_size = word(&header, 8) as usize;
    let is_valid = magic & !1 == MAGIC
        && checksum.sums == (word(&header, 24), word(&header, 28))
        && page_size.is_power_of_two()
        && (512..=65_536).contains(&page_size);
    let salts = (word(&header, 16), word(&header, 20));
    Ok(is_valid.then(|| Frames { reader, checksum, salts, page: vec![0; page_size] }))
}

/// The frames of a log, up to the first one that was not completely written or belongs to an
/// earlier run of the log.
struct Frames {
    reader: BufReader<File>,
    checksum: Checksum,
    salts: (u32, u32),
    page: Vec<u8>,
}

impl Frames {
    /// Reads the next frame. Returns `Some(None)` for a page other than page 1, and `None` at
    /// the end.
    #[expect(clippy::option_option, reason = "a frame may be without ids")]
    fn next(&mut self) -> io::Result<Option<Option<Ids>>> {
        let mut head = [0; 24];
        let read = self.reader.read_exact(&mut head);
        match read.and_then(|()| self.reader.read_exact(&mut self.page)) {
            Err(error) if is_missing(&error) => return Ok(None),
            done => done?,
        }
        self.checksum.add(&head[..8]);
        self.checksum.add(&self.page);
        let is_valid = (word(&head, 8), word(&head, 12)) == self.salts
            && (word(&head, 16), word(&head, 20)) == self.checksum.sums;
        if !is_valid {
            return Ok(None);
        }
        let header = self.page.first_chunk().filter(|_| word(&head, 0) == 1);
        Ok(Some(header.map(Ids::of)))
    }
}

/// The cumulative checksum of a log.
struct Checksum {
    big_endian: bool,
    sums: (u32, u32),
}

impl Checksum {
    /// Adds data whose length is a multiple of 8.
    fn add(&mut self, data: &[u8]) {
        let order = if self.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        let (pairs, _) = data.as_chunks::<8>();
        for &[a, b, c, d, e, f, g, h] in pairs {
            self.sums.0 = self.sums.0.wrapping_add(order([a, b, c, d])).wrapping_add(self.sums.1);
            self.sums.1 = self.sums.1.wrapping_add(order([e, f, g, h])).wrapping_add(self.sums.0);
        }
    }
}

#[cfg(test)]
mod tests;
