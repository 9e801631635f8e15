//! Observes the periods of one filesystem's files.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::{atomic::Ordering::SeqCst, mpsc::Sender},
    thread,
    time::Duration,
};

use crate::{
    board::{Board, Cleaning, Entry, Phase, SLOTS},
    files::{self, Locks, now},
    judge::{Content, FileId, Period},
};

/// A period that goes on.
struct Open {
    file: FileId,
    /// Its descriptor, if this process keeps it open. If not, the kernel may evict the inode.
    held: Option<File>,
    check: u64,
    from: u64,
    before: Content,
    /// The counts of the operations that may write back, if none was going on.
    quiet: Option<[u64; 2]>,
}

/// Takes one file after the other for itself, and compares it with how it was the last time.
pub(crate) struct Checker {
    pub(crate) board: &'static Board,
    pub(crate) filesystem: usize,
    pub(crate) traced: PathBuf,
    pub(crate) locks: Locks,
    pub(crate) random: fastrand::Rng,
    pub(crate) periods: Sender<Period<Vec<Entry>>>,
    open: Vec<Option<Open>>,
    /// Files that were replaced while nobody held them: no content to compare.
    replaced: u64,
}

impl Checker {
    pub(crate) fn new(
        board: &'static Board,
        filesystem: usize,
        traced: PathBuf,
        locks: Locks,
        seed: u64,
        periods: Sender<Period<Vec<Entry>>>,
    ) -> Self {
        Self {
            board,
            filesystem,
            traced,
            locks,
            random: fastrand::Rng::with_seed(seed),
            periods,
            open: (0..SLOTS).map(|_| None).collect(),
            replaced: 0,
        }
    }

    /// Checks until the board says that it is over, and everything once more then. Returns how many files
    /// were replaced unobserved.
    pub(crate) fn run(mut self) -> u64 {
        while self.board.phase() != Phase::End {
            let slot = self.random.usize(0..SLOTS);
            self.check(slot);
            // Sometimes at once again: a period with few operations.
            let pause = [1, 1, 20, 100][self.random.usize(0..4)];
            thread::sleep(Duration::from_millis(pause));
        }
        for slot in 0..SLOTS {
            self.check(slot);
        }
        self.replaced
    }

    fn check(&mut self, number: usize) {
        let shared = &self.board.filesystems[self.filesystem];
        let slot = &shared.slots[number];
        let cleanings = [&slot.cleaning, &shared.cleaning];
        slot.wanted.fetch_add(1, SeqCst);
        let lock = self.locks.exclusive(self.filesystem, number);
        slot.wanted.fetch_sub(1, SeqCst);
        let name = slot.name.load(SeqCst);
        let path = files::path(&self.traced, number, name);
        let file = File::open(path).expect("the file has its name while nobody else has the lock");
        let id = files::identify(self.filesystem, &file).expect("the file's identity");
        let to = now();
        let mut content = None;
        if let Some(open) = self.open[number].take() {
            let undisturbed = open.quiet.is_some_and(|quiet| {
                let mut pairs = cleanings.iter().zip(quiet);
                pairs.all(|(cleaning, quiet)| cleaning.still(quiet))
            });
            let observed = match &open.held {
                Some(held) => Some(held),
                None if open.file == id => Some(&file),
                None => None,
            };
            if let Some(observed) = observed {
                let after = clean_content(observed).expect("the file can be read");
                if open.file == id {
                    content = Some(after);
                }
                let happened = slot.happened();
                let period = Period {
                    file: open.file,
                    prefix: files::prefix(number),
                    check: open.check,
                    from: open.from,
                    to,
                    before: open.before,
                    after,
                    first_change: happened.first_change,
                    changes: happened.changes,
                    undisturbed,
                    log: happened.log,
                };
                self.periods.send(period).expect("somebody judges");
            } else {
                self.replaced += 1;
            }
        }
        let [own, all] = cleanings.map(Cleaning::quiet);
        let quiet = own.zip(all).map(<[u64; 2]>::from);
        let quiet = quiet.filter(|_| self.board.is_settled());
        let before = match content {
            Some(content) if quiet.is_some() => content,
            // Somebody was just writing back: once more.
            _ => clean_content(&file).expect("the file can be read"),
        };
        slot.begin(id.inode);
        self.open[number] = Some(Open {
            file: id,
            held: self.random.bool().then_some(file),
            check: to,
            from: now(),
            before,
            quiet,
        });
        drop(lock);
    }
}

/// Cleans the file and reads it.
///
/// A direct write that collides with stores through mappings leaves EIO behind ("Page cache invalidation
/// failure on direct I/O"), which the next fsync reports, once.
fn clean_content(file: &File) -> io::Result<Content> {
    match file.sync_all() {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => file.sync_all()?,
        result => result?,
    }
    files::content(file)
}
