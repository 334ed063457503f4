//! Databases of other programs. In: an SQLite file. Out: rows of its tables as they stand, of one moment. The file is
//! never written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::sqlite::{error, unwritten};
use crate::{Result, StoreError};

/// Rows of one table: a hundred times what the largest server of such a kind is known to hold.
const MAX_ROWS: usize = 1_000_000;

/// A database of another program, open for reading.
#[derive(Debug)]
pub struct Foreign {
    db: Connection,
    path: PathBuf,
}

/// A row: its columns by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row(BTreeMap<String, Cell>);

/// What stands in a column. SQLite keeps any kind in any column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number, or a truth value.
    Integer(i64),
    /// A text, or bytes that are one; numbers with a fraction as SQLite writes them.
    Text(String),
    /// Bytes that are no text.
    Bytes(Vec<u8>),
}

impl Foreign {
    /// Opens a file and stays at this moment, whoever else writes.
    ///
    /// # Errors
    /// It cannot be read, or is no SQLite database.
    pub fn open(path: &Path) -> Result<Foreign> {
        if !std::fs::metadata(path).map_err(|e| StoreError::Other(format!("{}: {e}", path.display())))?.is_file() {
            return Err(StoreError::Other(format!("{} is no file", path.display())));
        }
        let db = unwritten(path)?;
        // The first look makes the moment.
        db.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").map_err(|e| error(path, e))?;
        Ok(Foreign { db, path: path.to_path_buf() })
    }

    /// The columns of a table; none where there is no such table.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn columns(&self, table: &str) -> Result<Vec<String>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut q = self.db.prepare("SELECT name FROM pragma_table_info(?1)")?;
            q.query_map([table], |r| r.get(0))?.collect()
        };
        read().map_err(|e| error(&self.path, e))
    }

    /// Every row of a table, in the order in which they were made; none where there is no such table.
    ///
    /// # Errors
    /// The file cannot be read or is damaged, or there are too many.
    pub fn rows(&self, table: &'static str) -> Result<Vec<Row>> {
        if self.columns(table)?.is_empty() {
            return Ok(Vec::new());
        }
        let read = || -> rusqlite::Result<Vec<Row>> {
            // The name is a word of this program.
            let mut q = self.db.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY rowid LIMIT {}", MAX_ROWS + 1))?;
            let names: Vec<String> = q.column_names().map(str::to_string).collect();
            let row = |r: &rusqlite::Row<'_>| {
                let cells = names.iter().enumerate().map(|(i, n)| Ok((n.clone(), cell(r.get_ref(i)?))));
                cells.collect::<rusqlite::Result<_>>().map(Row)
            };
            q.query_map([], row)?.collect()
        };
        let rows = read().map_err(|e| error(&self.path, e))?;
        if rows.len() > MAX_ROWS {
            return Err(StoreError::Other(format!(
                "{}: {table} has more than {MAX_ROWS} rows, which no import takes",
                self.path.display()
            )));
        }
        Ok(rows)
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    let bytes = |b: &[u8]| match std::str::from_utf8(b) {
        Ok(t) => Cell::Text(t.to_string()),
        Err(_) => Cell::Bytes(b.to_vec()),
    };
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(i) => Cell::Integer(i),
        ValueRef::Real(f) => Cell::Text(f.to_string()),
        ValueRef::Text(b) | ValueRef::Blob(b) => bytes(b),
    }
}

impl Row {
    /// The text in a column; nothing if it is empty, absent or no text.
    #[must_use]
    pub fn text(&self, column: &str) -> Option<&str> {
        match self.0.get(column)? {
            Cell::Text(t) if !t.is_empty() => Some(t),
            _ => None,
        }
    }

    /// True if anything stands in a column, of whatever kind; an empty text is nothing.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        match self.0.get(column) {
            None | Some(Cell::Null) => false,
            Some(Cell::Text(t)) => !t.is_empty(),
            Some(Cell::Bytes(b)) => !b.is_empty(),
            Some(Cell::Integer(_)) => true,
        }
    }

    /// The number in a column that counts from 0.
    #[must_use]
    pub fn number(&self, column: &str) -> Option<u64> {
        match self.0.get(column)? {
            Cell::Integer(i) => u64::try_from(*i).ok(),
            Cell::Text(t) => t.parse().ok(),
            _ => None,
        }
    }

    /// True if a column says so; absent is false.
    #[must_use]
    pub fn flag(&self, column: &str) -> bool {
        match self.0.get(column) {
            Some(Cell::Integer(i)) => *i != 0,
            Some(Cell::Text(t)) => t == "1" || t.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::Dir;

    #[test]
    fn rows_of_a_running_program_are_read_and_its_file_is_not_written() {
        let dir = Dir::new("foreign");
        let path = dir.at("db.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, yes NUMERIC, blob BLOB, real);
             INSERT INTO t VALUES (2, 'b', 1, x'ff00', 1.5), (1, NULL, 'true', x'6162', NULL);",
        )
        .unwrap();
        let before = std::fs::read(&path).unwrap();
        let foreign = Foreign::open(&path).unwrap();
        db.execute_batch("DELETE FROM t").unwrap();
        let rows = foreign.rows("t").unwrap();
        assert_eq!((rows.len(), rows[0].number("id"), rows[1].text("name")), (2, Some(1), Some("b")));
        assert_eq!((rows[0].text("name"), rows[0].text("blob"), rows[1].text("blob")), (None, Some("ab"), None));
        assert_eq!((rows[0].flag("yes"), rows[1].flag("yes"), rows[0].flag("id2")), (true, true, false));
        assert_eq!(rows[1].text("real"), Some("1.5"));
        assert!(rows[1].has("blob") && rows[0].has("yes") && !rows[0].has("name") && !rows[0].has("absent"));
        assert!(foreign.rows("none").unwrap().is_empty());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let letter = dir.write("letter.txt", "dear reader, this is no database at all, and long enough to tell");
        assert!(matches!(Foreign::open(&letter), Err(StoreError::Damaged(_))));
        assert!(Foreign::open(&dir.at("nothing")).is_err() && !dir.at("nothing").exists());
    }
}
