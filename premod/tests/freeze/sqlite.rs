//! A bank in SQLite, with a write-ahead log and several connections.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, TransactionBehavior, params};

use crate::databases::{self, ACCOUNTS, BALANCE, Books, PADDING};

/// Transfers of the first teller between two checkpoints. Without them the log would never begin anew while
/// everybody is busy, and a copy of an old database with a log that goes further back is whole.
const CHECKPOINT: u64 = 5;

/// A connection.
pub(crate) struct Bank {
    connection: Connection,
    transfers: u64,
}

/// Makes the database.
pub(crate) fn create(path: &Path) {
    let mut connection = connect(path);
    let transaction = connection.transaction().expect("BEGIN");
    transaction
        .execute_batch(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, padding BLOB);
             CREATE TABLE teller (id INTEGER PRIMARY KEY, transfers INTEGER NOT NULL);
             INSERT INTO teller VALUES (0, 0), (1, 0);",
        )
        .expect("CREATE TABLE");
    {
        let insert = "INSERT INTO account VALUES (?1, ?2, zeroblob(?3))";
        let mut insert = transaction.prepare(insert).expect("INSERT");
        for account in 0..ACCOUNTS {
            insert
                .execute(params![account as i64, BALANCE as i64, PADDING as i64])
                .expect("INSERT");
        }
    }
    transaction.commit().expect("COMMIT");
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("the database can be opened");
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
        .expect("PRAGMA");
    let patience = Duration::from_secs(120);
    connection.busy_timeout(patience).expect("the timeout");
    connection
}

impl Bank {
    pub(crate) fn open(path: &Path) -> Self {
        Self {
            connection: connect(path),
            transfers: 0,
        }
    }
}

impl databases::Bank for Bank {
    fn transfer(&mut self, teller: usize, from: u64, to: u64, amount: u64) {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .expect("BEGIN");
        let (from, to, amount) = (from as i64, to as i64, amount as i64);
        let took = transaction
            .execute(
                "UPDATE account SET balance = balance - ?1 WHERE id = ?2 AND balance >= ?1",
                params![amount, from],
            )
            .expect("UPDATE");
        transaction
            .execute(
                "UPDATE account SET balance = balance + ?1 WHERE id = ?2",
                params![amount * took as i64, to],
            )
            .expect("UPDATE");
        transaction
            .execute(
                "UPDATE teller SET transfers = transfers + 1 WHERE id = ?1",
                params![teller as i64],
            )
            .expect("UPDATE");
        transaction.commit().expect("COMMIT");
        self.transfers += 1;
        if teller == 0 && self.transfers.is_multiple_of(CHECKPOINT) {
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            let checkpoint = self.connection.query_row(checkpoint, [], |_| Ok(()));
            checkpoint.expect("a checkpoint");
        }
    }
}

/// Opens a copy, checks it, and adds up.
pub(crate) fn audit(path: &Path) -> Result<Books, String> {
    look(path).map_err(|error| error.to_string())?
}

fn look(path: &Path) -> rusqlite::Result<Result<Books, String>> {
    let connection = Connection::open(path)?;
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if check != "ok" {
        return Ok(Err(check));
    }
    let sum: i64 =
        connection.query_row("SELECT sum(balance) FROM account", [], |row| row.get(0))?;
    let mut tellers = connection.prepare("SELECT transfers FROM teller ORDER BY id")?;
    let tellers = tellers.query_map([], |row| row.get::<_, i64>(0))?;
    let tellers: Vec<i64> = tellers.collect::<Result<_, _>>()?;
    Ok(Ok(Books {
        sum: sum.cast_unsigned(),
        tellers: tellers.into_iter().map(i64::cast_unsigned).collect(),
    }))
}
