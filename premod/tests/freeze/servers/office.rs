//! The tellers of a bank: each has a client of its own, and waits for its answer before a transfer counts as made.

use std::{
    fmt::Write,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{client::Client, kind::Kind};
use crate::{
    databases::{ACCOUNTS, BALANCE, Books, PADDING},
    process,
};

/// Clients that move money.
const TELLERS: usize = 3;
/// Transfers that each of them makes between two copies at least.
const BETWEEN: u64 = 3;
/// Time for others between two transfers: two emulated CPUs have to do all this.
const PACE: Duration = Duration::from_millis(60);
/// Transfers of the first teller between two checkpoints.
const CHECKPOINT: u64 = 40;
/// Accounts that are made by one statement.
const AT_ONCE: u64 = 500;

/// What is known of a teller.
#[derive(Default)]
struct Line {
    done: AtomicU64,
    /// The longest time between two transfers, in microseconds.
    gap: AtomicU64,
}

pub(crate) struct Office {
    lines: Arc<[Line; TELLERS]>,
    over: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    burst: Mutex<Client>,
    tellers: Vec<JoinHandle<()>>,
}

impl Office {
    /// Makes the bank, and lets the tellers begin.
    pub(crate) fn open(kind: Kind, sockets: &Path) -> Self {
        let mut client = Client::start(&mut kind.client(sockets, kind.first_database()));
        client.ask("CREATE DATABASE bank;").expect("a database");
        drop(client);
        let mut client = Client::start(&mut kind.client(sockets, "bank"));
        client.ask(&tables()).expect("the tables");
        let burst = Mutex::new(client);
        let lines: Arc<[Line; TELLERS]> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let paused = Arc::new(AtomicBool::new(false));
        let teller = |number: usize| {
            let client = Client::start(&mut kind.client(sockets, "bank"));
            let (lines, over, paused) =
                (Arc::clone(&lines), Arc::clone(&over), Arc::clone(&paused));
            thread::spawn(move || work(kind, client, number, &lines[number], &over, &paused))
        };
        let tellers = (0..TELLERS).map(teller).collect();
        Self {
            lines,
            over,
            paused,
            burst,
            tellers,
        }
    }

    pub(crate) fn done(&self) -> Vec<u64> {
        self.lines
            .iter()
            .map(|line| line.done.load(SeqCst))
            .collect()
    }

    /// Waits until each teller has made some more transfers.
    pub(crate) fn progress(&self) {
        let before = self.done();
        process::wait_for("every teller goes on", || {
            let failed = self.tellers.iter().any(JoinHandle::is_finished);
            assert!(!failed, "a client has seen an error");
            let done = self.done();
            done.iter()
                .zip(&before)
                .all(|(done, before)| *done >= before + BETWEEN)
        });
    }

    /// Lets the tellers pause, with much that the server has still to write.
    pub(crate) fn leave_work(&self, kind: Kind) {
        self.paused.store(true, SeqCst);
        let change = "UPDATE account SET padding = concat(left(padding, 1), id + floor(balance)) WHERE id % 3 = 0;";
        self.order(&format!("{} {change}", kind.write_later()));
    }

    /// Gives an order; whoever gives it may have to wait.
    pub(crate) fn order(&self, statements: &str) {
        let mut client = self.burst.lock().expect("nobody has failed");
        client.ask(statements).expect("no error");
    }

    pub(crate) fn resume(&self) {
        self.paused.store(false, SeqCst);
    }

    pub(crate) fn forget_gaps(&self) {
        self.lines.iter().for_each(|line| line.gap.store(0, SeqCst));
    }

    /// The longest time that a client has waited.
    pub(crate) fn longest_gap(&self) -> Duration {
        let gaps = self.lines.iter().map(|line| line.gap.load(SeqCst));
        Duration::from_micros(gaps.max().unwrap_or(0))
    }

    /// A copy has every transfer that was made before the freeze, and none that was made after it.
    pub(crate) fn compare(&self, before: &[u64], books: &Books) {
        assert_eq!(
            books.tellers.len(),
            TELLERS,
            "tellers are missing in the copy"
        );
        for ((before, after), number) in before.iter().zip(self.done()).zip(&books.tellers) {
            // A transfer is counted after it was committed.
            assert!(
                (*before..=after + 1).contains(number),
                "a copy has {number} transfers of a teller, who had made {before} before and {after} after"
            );
        }
    }

    pub(crate) fn close(self) {
        self.over.store(true, SeqCst);
        for teller in self.tellers {
            teller.join().expect("a teller has seen no error");
        }
    }
}

/// What makes the bank.
fn tables() -> String {
    let mut text = format!(
        "CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL, padding CHAR({PADDING}) NOT NULL); \
         CREATE TABLE teller (id INT PRIMARY KEY, transfers BIGINT NOT NULL);\n"
    );
    for first in (0..ACCOUNTS).step_by(AT_ONCE as usize) {
        let rows = (first..first + AT_ONCE).map(|id| format!("({id},{BALANCE},'x')"));
        let rows: Vec<_> = rows.collect();
        writeln!(text, "INSERT INTO account VALUES {};", rows.join(",")).expect("a string");
    }
    let rows: Vec<_> = (0..TELLERS).map(|id| format!("({id},0)")).collect();
    writeln!(text, "INSERT INTO teller VALUES {};", rows.join(",")).expect("a string");
    text
}

/// Moves money until it is over.
fn work(
    kind: Kind,
    mut client: Client,
    number: usize,
    line: &Line,
    over: &AtomicBool,
    paused: &AtomicBool,
) {
    let mut random = fastrand::Rng::with_seed(number as u64);
    while !over.load(SeqCst) {
        if paused.load(SeqCst) {
            thread::sleep(PACE);
            continue;
        }
        let began = Instant::now();
        let from = random.u64(0..ACCOUNTS);
        let to = (from + random.u64(1..ACCOUNTS)) % ACCOUNTS;
        let amount = random.i64(-100..100);
        // In the order of the accounts, so that nobody waits for somebody who waits for it.
        let (first, second) = (from.min(to), from.max(to));
        let mut statements = format!(
            "{} UPDATE account SET balance = balance - {amount} WHERE id = {first}; \
             UPDATE account SET balance = balance + {amount} WHERE id = {second}; \
             UPDATE teller SET transfers = transfers + 1 WHERE id = {number}; COMMIT;",
            kind.begin()
        );
        let done = line.done.load(SeqCst);
        if number == 0 && done % CHECKPOINT == CHECKPOINT - 1 {
            statements += kind.checkpoint();
        }
        client
            .ask(&statements)
            .unwrap_or_else(|error| panic!("a client has seen an error: {error}"));
        line.done.fetch_add(1, SeqCst);
        line.gap
            .fetch_max(began.elapsed().as_micros() as u64, SeqCst);
        thread::sleep(PACE);
    }
}
