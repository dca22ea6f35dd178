//! What commands print: tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Writes to standard output. A reader that has gone (`plica status | head`) is nobody's error.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    // nowhere to say that standard output is broken, and the command has done its work
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Writes a value as indented JSON with a line end.
pub(super) fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => tracing::error!(%error, "what is to be printed is no JSON"),
    }
}

/// How far long work has come, on standard error if people look at it.
pub(super) struct Progress {
    what: &'static str,
    shown: Option<u64>,
}

impl Progress {
    /// Nothing has been done of `what`.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, shown: None }
    }

    /// `done` of `all` has been done.
    pub(super) fn at(&mut self, done: u64, all: u64) {
        let percent = done * 100 / all.max(1);
        let mut err = io::stderr().lock();
        if self.shown == Some(percent) || !err.is_terminal() {
            return;
        }
        self.shown = Some(percent);
        let end = if done == all { "\n" } else { "" };
        // as with standard output
        drop(write!(err, "\r{}: {percent} %{end}", self.what).and_then(|()| err.flush()));
    }
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, in aligned columns.
#[derive(Debug)]
pub(super) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub(super) fn new(columns: &[(&str, Align)]) -> Self {
        let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { aligns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heading] }
    }

    /// A table of names and values, without a heading.
    #[must_use]
    pub(super) fn facts() -> Self {
        Self { aligns: vec![Align::Left, Align::Left], rows: Vec::new() }
    }

    /// Adds a row, one cell a column.
    pub(super) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let row: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(row.len(), self.aligns.len(), "one cell a column");
        self.rows.push(row);
        self
    }

    /// The table as text: columns two spaces apart, no spaces at line ends.
    #[must_use]
    pub(super) fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.aligns.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.aligns).zip(&widths) {
                let pad = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell.as_str(), &pad, "  "]),
                    Align::Right => line.extend([pad.as_str(), cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A moment as `2026-01-31 12:00:00 UTC`, from Unix seconds.
#[must_use]
pub(super) fn moment(unix: u64) -> String {
    let (days, second) = (unix / 86400, unix % 86400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Counted in cycles of 400 years that
/// begin with March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("AT", Align::Left)]);
        table.row(["database", "8 GiB", "/dev/ublkb0"]).row(["wal", "512 MiB", ""]);
        assert_eq!(table.render(), "NAME         SIZE  AT\ndatabase    8 GiB  /dev/ublkb0\nwal       512 MiB\n");
        let mut facts = Table::facts();
        facts.row(["label", "größe"]).row(["size", "1 GiB"]);
        assert_eq!(facts.render(), "label  größe\nsize   1 GiB\n");
    }

    #[test]
    fn moments_are_civil() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(moment(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(moment(1_767_225_599), "2025-12-31 23:59:59 UTC");
        assert_eq!(moment(1_798_761_600), "2027-01-01 00:00:00 UTC");
    }
}
