//! The parts `sqlite` and `lmdb`: money is moved between accounts, and each copy that is made under a freeze
//! has all of it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    board::{Board, Phase},
    lmdb,
    premod::Freeze,
    process, sqlite,
};

/// Accounts, and what is in each at the beginning.
pub(crate) const ACCOUNTS: u64 = 12_000;
pub(crate) const BALANCE: u64 = 1000;
/// Bytes that make an account as large as a real one.
pub(crate) const PADDING: usize = 240;
/// Processes that move money.
const TELLERS: usize = 3;
/// Transfers that each of them makes between two copies at least.
const BETWEEN: u64 = 5;
/// How often a copy without a freeze may be fine.
const TRIES: u32 = 20;

/// A database that money is moved in.
pub(crate) trait Bank {
    /// Moves an amount from one account to another, if there is enough, and counts up the teller's number,
    /// all in one transaction.
    fn transfer(&mut self, teller: usize, from: u64, to: u64, amount: u64);
}

/// What is in a database: the sum of all balances, and each teller's number.
pub(crate) struct Books {
    pub(crate) sum: u64,
    pub(crate) tellers: Vec<u64>,
}

/// Moves money until the board says that it is over.
pub(crate) fn transfer(kind: &str, database: &Path, teller: usize, board: &Path) {
    let board = Board::open(board, false);
    let mut bank: Box<dyn Bank> = match kind {
        "sqlite" => Box::new(sqlite::Bank::open(database)),
        _ => Box::new(lmdb::Bank::open(database)),
    };
    let mut random = fastrand::Rng::with_seed(teller as u64);
    let line = &board.lines[teller];
    while board.phase() != Phase::End {
        let from = random.u64(0..ACCOUNTS);
        let to = (from + random.u64(1..ACCOUNTS)) % ACCOUNTS;
        bank.transfer(teller, from, to, random.u64(1..100));
        line.complete();
        // Time for the others, and for premod.
        thread::sleep(Duration::from_millis(1));
    }
}

/// Looks into a copy, and prints what is in it. Fails if it is broken.
pub(crate) fn audit(kind: &str, copy: &Path) -> ExitCode {
    let books = match kind {
        "sqlite" => sqlite::audit(copy),
        _ => lmdb::audit(copy),
    };
    match books {
        Ok(books) if books.sum == ACCOUNTS * BALANCE => {
            println!("{}", json!({"tellers": books.tellers}));
            ExitCode::SUCCESS
        }
        Ok(books) => {
            eprintln!("audit: the sum is {}", books.sum);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("audit: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Copies files into a directory as a program on a slow disk would: what is shorter than this is torn too
/// rarely to show anything.
pub(crate) fn copy(directory: &Path, files: &[PathBuf]) -> io::Result<()> {
    for path in files {
        let mut from = File::open(path)?;
        let mut to = File::create(directory.join(path.file_name().unwrap_or_default()))?;
        let mut chunk = vec![0; 128 << 10];
        loop {
            let read = from.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            to.write_all(&chunk[..read])?;
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn plain(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

/// A bank at work.
struct Open {
    kind: String,
    board: &'static Board,
    /// What is frozen, and what of it is copied.
    files: Vec<PathBuf>,
    copied: Vec<PathBuf>,
    copies: PathBuf,
    tellers: Vec<Child>,
}

/// Copies the database again and again while money is moved, and audits each copy.
pub(crate) fn run(kind: &str, directory: &Path, board: &Path, copies: u32) {
    let open = Open::start(kind, directory, board);
    open.without_a_freeze_copies_are_broken();
    let mut longest = 0;
    for _ in 0..copies {
        open.progress();
        let before = open.done();
        let began = Instant::now();
        open.copy_frozen();
        longest = longest.max(began.elapsed().as_millis());
        let books = open
            .audit()
            .unwrap_or_else(|error| panic!("a copy is broken: {error}"));
        open.progress();
        for ((before, after), number) in before.iter().zip(open.done()).zip(books) {
            // A transfer is counted after it was committed.
            assert!(
                (*before..=after + 1).contains(&number),
                "a copy has {number} transfers of a teller, who had made {before} before and {after} after"
            );
        }
    }
    let done: u64 = open.done().iter().sum();
    open.finish();
    println!(
        "{kind}: {copies} of {copies} copies are whole, {done} transfers, \
         the longest freeze {longest} ms with premod's start"
    );
}

impl Open {
    fn start(kind: &str, directory: &Path, board_path: &Path) -> Self {
        let copies = directory.join("copies");
        fs::create_dir_all(&copies).expect("mkdir");
        let (database, files, copied) = match kind {
            "sqlite" => {
                let database = directory.join("bank.db");
                sqlite::create(&database);
                let wal = directory.join("bank.db-wal");
                let index = directory.join("bank.db-shm");
                let copied = vec![database.clone(), wal.clone()];
                (database.clone(), vec![database, wal, index], copied)
            }
            _ => {
                let database = directory.join("bank.lmdb");
                lmdb::create(&database);
                let data = database.join("data.mdb");
                (database, vec![data.clone()], vec![data])
            }
        };
        let board = Board::open(board_path, true);
        let tellers = (0..TELLERS).map(|teller| {
            Command::new("/proc/self/exe")
                .args(["transfer", kind])
                .arg(&database)
                .arg(teller.to_string())
                .arg(board_path)
                .spawn()
                .expect("a teller")
        });
        let open = Self {
            kind: kind.to_owned(),
            board,
            files,
            copied,
            copies,
            tellers: tellers.collect(),
        };
        open.progress();
        open
    }

    fn done(&self) -> Vec<u64> {
        let lines = self.board.lines.iter().take(TELLERS);
        lines.map(|line| line.done.load(SeqCst)).collect()
    }

    /// Waits until each teller has made some more transfers.
    fn progress(&self) {
        let before = self.done();
        process::wait_for("every teller goes on", || {
            let done = self.done();
            done.iter()
                .zip(&before)
                .all(|(done, before)| *done >= before + BETWEEN)
        });
    }

    /// The program that copies.
    fn copier(&self) -> Vec<String> {
        let program = std::env::current_exe().expect("our own path");
        let mut words = vec![plain(&program), "copy".to_owned(), plain(&self.copies)];
        words.extend(self.copied.iter().map(|path| plain(path)));
        words
    }

    fn remove_copies(&self) {
        for entry in fs::read_dir(&self.copies).expect("the copies") {
            fs::remove_file(entry.expect("a copy").path()).expect("rm");
        }
    }

    fn copy_frozen(&self) {
        self.remove_copies();
        let mut words: Vec<&str> = self
            .files
            .iter()
            .map(|file| file.to_str().expect("a plain path"))
            .collect();
        words.extend(["--hold", "--timeout", "60s", "--"]);
        let copier = self.copier();
        words.extend(copier.iter().map(String::as_str));
        Freeze::start(&words).end().expect(0);
    }

    /// The tellers' numbers in the copy, or what is wrong with it.
    fn audit(&self) -> Result<Vec<u64>, String> {
        let name = self.copied[0].file_name().expect("a name");
        let output = Command::new("/proc/self/exe")
            .args(["audit", &self.kind])
            .arg(self.copies.join(name))
            .output()
            .expect("the audit can be run");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{}: {said}", output.status));
        }
        let books: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let numbers = books["tellers"].as_array().expect("a list").iter();
        Ok(numbers
            .map(|number| number.as_u64().expect("a number"))
            .collect())
    }

    /// If it were not so, whole copies would mean nothing.
    fn without_a_freeze_copies_are_broken(&self) {
        for number in 1..=TRIES {
            self.progress();
            self.remove_copies();
            let copier = self.copier();
            let copied = Command::new(&copier[0]).args(&copier[1..]).status();
            assert!(copied.expect("the copier").success());
            if let Err(error) = self.audit() {
                println!(
                    "{}: without a freeze, copy {number} is broken: {}",
                    self.kind,
                    error.trim()
                );
                return;
            }
        }
        panic!("without a freeze {TRIES} copies were whole");
    }

    fn finish(mut self) {
        self.board.enter(Phase::End);
        for teller in &mut self.tellers {
            let status = process::wait(teller);
            assert!(status.success(), "a teller ended with {status}");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for teller in &mut self.tellers {
            let _ = teller.kill();
            let _ = teller.wait();
        }
    }
}
