//! The parts `sqlite` and `lmdb`: money is moved between accounts, and each copy that is made under a freeze
//! has all of it.

use std::{
    fmt,
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
    lmdb, plain,
    premod::Freeze,
    process, sqlite,
};

/// Accounts, and what is in each at the beginning.
pub(crate) const ACCOUNTS: u64 = 9_000;
pub(crate) const BALANCE: u64 = 1000;
/// Bytes that make an account as large as a real one.
pub(crate) const PADDING: usize = 240;
/// Processes that move money.
const TELLERS: usize = 2;
/// Transfers that each of them makes between two copies at least.
const BETWEEN: u64 = 3;
/// Time for others between two transfers: two emulated CPUs have to do all this.
const PACE: Duration = Duration::from_millis(20);
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
pub(crate) fn transfer(kind: &str, database: &Path, teller: usize, line: usize, board: &Path) {
    let board = Board::open(board, false);
    let mut bank: Box<dyn Bank> = match kind {
        "sqlite" => Box::new(sqlite::Bank::open(database)),
        _ => Box::new(lmdb::Bank::open(database)),
    };
    let mut random = fastrand::Rng::with_seed(teller as u64);
    let line = &board.lines[line];
    while board.phase() != Phase::End {
        let from = random.u64(0..ACCOUNTS);
        let to = (from + random.u64(1..ACCOUNTS)) % ACCOUNTS;
        bank.transfer(teller, from, to, random.u64(1..100));
        line.complete();
        thread::sleep(PACE);
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

/// Opens a bank of each kind in each directory, copies all of them again and again while money is moved, and
/// audits each copy.
pub(crate) fn run(directories: &[PathBuf], board_path: &Path, copies: u32) {
    let board = Board::open(board_path, true);
    let mut banks = Vec::new();
    for directory in directories {
        for kind in ["sqlite", "lmdb"] {
            let first = banks.len() * TELLERS;
            banks.push(Open::start(kind, directory, first, board, board_path));
        }
    }
    banks
        .iter()
        .for_each(Open::without_a_freeze_copies_are_broken);
    let mut longest = 0;
    for _ in 0..copies {
        banks.iter().for_each(Open::progress);
        let before: Vec<_> = banks.iter().map(Open::done).collect();
        let began = Instant::now();
        copy_frozen(&banks);
        longest = longest.max(began.elapsed().as_millis());
        let books: Vec<_> = banks.iter().map(Open::whole_copy).collect();
        banks.iter().for_each(Open::progress);
        for ((bank, before), books) in banks.iter().zip(&before).zip(books) {
            bank.compare(before, &books);
        }
    }
    board.enter(Phase::End);
    for bank in banks {
        let done: u64 = bank.done().iter().sum();
        println!("{bank}: {copies} of {copies} copies are whole, {done} transfers");
        bank.finish();
    }
    println!("the longest freeze took {longest} ms with premod's start");
}

fn copy_frozen(banks: &[Open]) {
    let files = banks.iter().flat_map(|bank| &bank.files);
    let mut words: Vec<String> = files.map(|file| plain(file).to_owned()).collect();
    words.extend(["--hold", "--timeout", "120s", "--"].map(str::to_owned));
    let program = std::env::current_exe().expect("our own path");
    words.extend([plain(&program), "copy"].map(str::to_owned));
    for bank in banks {
        bank.remove_copies();
        words.extend(bank.what_to_copy());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Freeze::start(&words).end().expect(0);
}

/// Copies files as a program on a slow disk would: what is shorter than this is torn too rarely to show anything.
/// The words are a file and the directory it is copied to, and so on.
pub(crate) fn copy(words: &[PathBuf]) -> io::Result<()> {
    for pair in words.chunks(2) {
        let [path, directory] = pair else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
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

/// A bank at work.
struct Open {
    kind: &'static str,
    directory: PathBuf,
    board: &'static Board,
    /// What is frozen, and what of it is copied.
    files: Vec<PathBuf>,
    copied: Vec<PathBuf>,
    /// The line of the first teller.
    first: usize,
    tellers: Vec<Child>,
}

impl Open {
    fn start(
        kind: &'static str,
        directory: &Path,
        first: usize,
        board: &'static Board,
        board_path: &Path,
    ) -> Self {
        let directory = directory.join(kind);
        fs::create_dir_all(directory.join("copies")).expect("mkdir");
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
        let teller = |number: usize| {
            Command::new("/proc/self/exe")
                .args(["transfer", kind])
                .arg(&database)
                .args([number.to_string(), (first + number).to_string()])
                .arg(board_path)
                .spawn()
                .expect("a teller")
        };
        let tellers = (0..TELLERS).map(teller).collect();
        let open = Self {
            kind,
            directory,
            board,
            files,
            copied,
            first,
            tellers,
        };
        open.progress();
        open
    }

    fn done(&self) -> Vec<u64> {
        let lines = self.board.lines.iter().skip(self.first).take(TELLERS);
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

    fn copies(&self) -> PathBuf {
        self.directory.join("copies")
    }

    /// Words for [`copy`].
    fn what_to_copy(&self) -> Vec<String> {
        let to = self.copies();
        let pair = |file: &PathBuf| [plain(file).to_owned(), plain(&to).to_owned()];
        self.copied.iter().flat_map(pair).collect()
    }

    fn remove_copies(&self) {
        for entry in fs::read_dir(self.copies()).expect("the copies") {
            fs::remove_file(entry.expect("a copy").path()).expect("rm");
        }
    }

    /// The tellers' numbers in the copy, or what is wrong with it.
    fn audit(&self) -> Result<Vec<u64>, String> {
        let name = self.copied[0].file_name().expect("a name");
        let output = Command::new("/proc/self/exe")
            .args(["audit", self.kind])
            .arg(self.copies().join(name))
            .output()
            .expect("the audit can be run");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{}: {}", output.status, said.trim()));
        }
        let books: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let numbers = books["tellers"].as_array().expect("a list").iter();
        Ok(numbers
            .map(|number| number.as_u64().expect("a number"))
            .collect())
    }

    fn whole_copy(&self) -> Vec<u64> {
        let books = self.audit();
        books
            .unwrap_or_else(|error| panic!("{self}: a copy made under a freeze is broken: {error}"))
    }

    /// A copy has every transfer that was made before the freeze, and none that was made after it.
    fn compare(&self, before: &[u64], books: &[u64]) {
        for ((before, after), number) in before.iter().zip(self.done()).zip(books) {
            // A transfer is counted after it was committed.
            assert!(
                (*before..=after + 1).contains(number),
                "{self}: a copy has {number} transfers of a teller, who had made {before} before \
                 and {after} after"
            );
        }
    }

    /// If it were not so, whole copies would mean nothing.
    fn without_a_freeze_copies_are_broken(&self) {
        for number in 1..=TRIES {
            self.progress();
            self.remove_copies();
            let copied = Command::new("/proc/self/exe")
                .arg("copy")
                .args(self.what_to_copy())
                .status();
            assert!(copied.expect("the copier").success());
            if let Err(error) = self.audit() {
                println!("{self}: without a freeze, copy {number} is broken: {error}");
                return;
            }
        }
        panic!("{self}: without a freeze {TRIES} copies were whole");
    }

    fn finish(mut self) {
        for teller in &mut self.tellers {
            let status = process::wait(teller);
            assert!(status.success(), "a teller ended with {status}");
        }
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.directory.display())
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
