//! Transfers between accounts, each of them witnessed: the same for every database that speaks SQL.
//!
//! ```text
//!  begin; insert into witness (client, n, note); account A: balance - d, moves + 1; account B: balance + d, moves + 1; commit
//! ```
//!
//! **Invariants**, whatever died: of each client rows 0, 1, 2, ... without a gap, each note as it was written; all
//! balances sum to 0, all moves to twice the rows: a transaction is there as a whole or not at all.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    Failure, Result,
    command::{Background, Cmd},
    failure::ensure,
};

/// Accounts between which clients move.
const ACCOUNTS: u64 = 2000;
/// Bytes beside an account's figures: rows fill pages soon.
const FILLER: usize = 200;

/// What clients were told to have committed.
pub struct Ledger {
    /// How a transaction that will write begins, in the dialect of the database.
    begin: &'static str,
    /// Of each client the number of its next transaction: all before it were acknowledged.
    next: Vec<Arc<AtomicU64>>,
}

impl Ledger {
    /// For `clients` clients of a database that begins a transaction with `begin`.
    #[must_use]
    pub fn new(begin: &'static str, clients: usize) -> Self {
        Self { begin, next: (0..clients).map(|_| Arc::default()).collect() }
    }

    /// Statements that make and fill the tables.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut text = "create table witness (client int, n int, note varchar(500), primary key (client, n));
            create table account (id int primary key, balance bigint, moves bigint, filler varchar(200));
            insert into account values "
            .to_owned();
        for id in 0..ACCOUNTS {
            let separator = if id == 0 { "" } else { "," };
            write!(text, "{separator}({id}, 0, 0, '{}')", "a".repeat(FILLER)).ok();
        }
        text + ";\n"
    }

    /// Starts every client: `client` reads statements, and prints the rows of a query at once.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn clients(&self, client: impl Fn() -> Cmd) -> Result<Vec<Background>> {
        let start = |(number, next): (usize, &Arc<AtomicU64>)| {
            let (begin, client_number) = (self.begin, number as u64);
            let statements = (next.load(Ordering::SeqCst)..).map(move |n| transaction(begin, client_number, n));
            let next = Arc::clone(next);
            client().converse(statements, move |line| {
                if let Ok(n) = line.trim().parse::<u64>() {
                    next.store(n + 1, Ordering::SeqCst);
                }
            })
        };
        self.next.iter().enumerate().map(start).collect()
    }

    /// Transactions that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.next.iter().map(|next| next.load(Ordering::SeqCst)).sum()
    }

    /// Compares what is there with what was acknowledged; see [`Self::found`]. The clients that come next go on from what
    /// is there.
    ///
    /// # Errors
    /// A row that is missing, not as it was written or more than was asked for; sums that do not agree.
    pub fn verify(&self, query: impl Fn(&str) -> Result<String>) -> Result<u64> {
        let found = self.found(query)?;
        for (client, (next, found)) in self.next.iter().zip(&found).enumerate() {
            let acknowledged = next.load(Ordering::SeqCst);
            // one more may have been committed when its client died
            ensure((acknowledged..=acknowledged + 1).contains(found), || {
                format!("client {client}: {acknowledged} transactions were acknowledged, {found} are there")
            })?;
            next.store(*found, Ordering::SeqCst);
        }
        Ok(found.iter().sum())
    }

    /// How many transactions of each client are there, whatever was acknowledged; `query` gives rows as lines, columns
    /// separated by tabs or bars.
    ///
    /// # Errors
    /// A gap between them, a row that is not as it was written, sums that do not agree.
    pub fn found(&self, query: impl Fn(&str) -> Result<String>) -> Result<Vec<u64>> {
        let rows = query("select client, n, note from witness order by client, n")?;
        let mut found = vec![0_u64; self.next.len()];
        for line in rows.lines() {
            let (client, n, written) = columns(line).ok_or_else(|| Failure::new(format!("a row {line:?}")))?;
            let count = usize::try_from(client).ok().and_then(|client| found.get_mut(client));
            let count = count.ok_or_else(|| Failure::new(format!("a row of a client that is none: {line:?}")))?;
            ensure(n == *count, || format!("client {client}: row {count} is missing, {n} is there"))?;
            ensure(written == note(client, n), || {
                format!("client {client}: row {n} is not as it was written: {line:?}")
            })?;
            *count += 1;
        }
        let sums = query("select sum(balance), sum(moves), count(*) from account")?.replace('\t', "|");
        let expected = format!("0|{}|{ACCOUNTS}", 2 * found.iter().sum::<u64>());
        ensure(sums.trim() == expected, || format!("accounts sum to {}, not to {expected}", sums.trim()))?;
        Ok(found)
    }
}

/// Transaction `n` of `client`; the database prints `n` when it is committed.
fn transaction(begin: &str, client: u64, n: u64) -> String {
    let mut chance = fastrand::Rng::with_seed((client << 32) | n);
    let (one, other) = (chance.u64(0..ACCOUNTS - 1), chance.u64(1..ACCOUNTS));
    // always in this order, so that no two clients wait for each other
    let (from, to) = if one < other { (one, other) } else { (other - 1, one + 1) };
    let moved = chance.i32(-1000..1000);
    format!(
        "{begin}; insert into witness values ({client}, {n}, '{}'); \
         update account set balance = balance - ({moved}), moves = moves + 1 where id = {from}; \
         update account set balance = balance + ({moved}), moves = moves + 1 where id = {to}; commit; select {n};\n",
        note(client, n)
    )
}

/// 40 to 440 bytes that only this row has.
fn note(client: u64, n: u64) -> String {
    let length = usize::try_from(40 + n * 37 % 400).unwrap_or(40);
    format!("{client}/{n}.").chars().cycle().take(length).collect()
}

fn columns(line: &str) -> Option<(u64, u64, &str)> {
    let mut columns = line.splitn(3, ['\t', '|']);
    Some((columns.next()?.parse().ok()?, columns.next()?.parse().ok()?, columns.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger whose two clients were told that 3 and 2 transactions are committed.
    fn ledger() -> Ledger {
        let ledger = Ledger::new("begin", 2);
        for (next, n) in ledger.next.iter().zip([3, 2]) {
            next.store(n, Ordering::SeqCst);
        }
        ledger
    }

    fn rows(rows: &[(u64, u64)]) -> String {
        rows.iter().map(|(client, n)| format!("{client}|{n}|{}\n", note(*client, *n))).collect()
    }

    fn verify(witness: &str, sums: &str) -> Result<u64> {
        let query =
            |statement: &str| Ok(if statement.contains("witness") { witness.to_owned() } else { sums.to_owned() });
        ledger().verify(query)
    }

    #[test]
    fn what_was_acknowledged_and_one_more_of_a_client_is_right() {
        assert_eq!(verify(&rows(&[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]), "0|10|2000\n").unwrap(), 5);
        assert_eq!(verify(&rows(&[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]), "0\t12\t2000\n").unwrap(), 6);
    }

    #[test]
    fn what_is_missing_invented_changed_or_half_there_is_found() {
        let wrong = |witness: &str, sums: &str, says: &str| {
            let said = verify(witness, sums).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        };
        let whole = rows(&[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
        wrong(&rows(&[(0, 0), (0, 1), (0, 2), (1, 0)]), "0|8|2000", "2 transactions were acknowledged, 1 are there");
        wrong(&rows(&[(0, 0), (0, 2), (1, 0), (1, 1)]), "0|8|2000", "row 1 is missing");
        wrong(&rows(&[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1)]), "0|14|2000", "5 are there");
        wrong(&whole.replacen("1/1.1/1.", "1/1.1/0.", 1), "0|10|2000", "not as it was written");
        wrong(&rows(&[(2, 0)]), "0|2|2000", "a client that is none");
        wrong(&whole, "0|9|2000", "accounts sum to");
        wrong(&whole, "7|10|2000", "accounts sum to");
    }

    #[test]
    fn a_transfer_is_between_two_accounts_in_order() {
        for n in 0..2000 {
            let text = transaction("begin", 1, n);
            let ids: Vec<u64> = text
                .split("where id = ")
                .skip(1)
                .map(|rest| rest.split(';').next().unwrap().parse().unwrap())
                .collect();
            assert!(matches!(ids[..], [from, to] if from < to && to < ACCOUNTS), "{text}");
        }
    }
}
