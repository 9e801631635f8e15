//! The processes that hammer the files: `write KIND BOARD FILE...`. Each writer has a region of each file for
//! itself, and knows what has to be there.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice},
    os::unix::{
        fs::{FileExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::Duration,
};

use rustix::fs::OFlags;

use crate::{
    board::{Board, Line, Phase},
    mapping::Mapping,
    queues::{Aio, Uring},
    region::{BLOCK, BLOCKS, REGIONS, Region, TAIL, block},
    size,
};

/// The processes: what they do, and the writers that they have, each a thread where there are two.
pub(crate) const PROCESSES: [(&str, &[usize]); 7] = [
    ("calls", &[0, 1]),
    ("direct", &[2]),
    ("uring", &[3]),
    ("aio", &[4]),
    ("store", &[5]),
    ("stores", &[6, 7]),
    ("size", &[8]),
];

/// What the writers are called, by their numbers.
pub(crate) const NAMES: [&str; 9] = [
    "write, thread of two",
    "pwritev, thread of two",
    "pwrite with O_DIRECT",
    "io_uring",
    "aio",
    "store, only thread",
    "store, thread of two",
    "store, other thread",
    "append, truncate, extend",
];

/// After a refusal.
const PATIENCE: Duration = Duration::from_millis(5);

/// One writer.
pub(crate) struct Writer {
    board: &'static Board,
    number: usize,
    files: Vec<File>,
    regions: Vec<Region>,
}

/// Acts as one of the processes, until the board says that it is over.
pub(crate) fn run(kind: &str, board: &Path, files: &[PathBuf]) {
    let board = Board::open(board, false);
    let (_, numbers) = PROCESSES
        .into_iter()
        .find(|(name, _)| *name == kind)
        .expect("a known kind of writer");
    if let [number] = numbers {
        return Writer::new(board, *number, files, kind == "direct").work(kind);
    }
    let threads: Vec<_> = numbers
        .iter()
        .map(|number| {
            let writer = Writer::new(board, *number, files, false);
            let kind = kind.to_owned();
            thread::spawn(move || writer.work(&kind))
        })
        .collect();
    for thread in threads {
        thread.join().expect("a writer");
    }
}

impl Writer {
    fn new(board: &'static Board, number: usize, files: &[PathBuf], direct: bool) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if direct {
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        let open = |path: &PathBuf| options.open(path).expect("open");
        Self {
            board,
            number,
            files: files.iter().map(open).collect(),
            regions: files.iter().map(|_| Region::new(number)).collect(),
        }
    }

    fn line(&self) -> &'static Line {
        &self.board.lines[self.number]
    }

    fn work(self, kind: &str) {
        let number = self.number;
        let files: Vec<File> = self
            .files
            .iter()
            .map(|file| file.try_clone().expect("dup"))
            .collect();
        match kind {
            "calls" if number == 0 => self.write(move |file, offset, count| {
                let file = &files[file];
                rustix::fs::seek(file, rustix::fs::SeekFrom::Start(offset))?;
                whole(rustix::io::write(file, &block(number, count).0)?);
                Ok(())
            }),
            "calls" => self.write(move |file, offset, count| {
                let block = block(number, count);
                let (first, second) = block.0.split_at(1000);
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                whole(rustix::io::pwritev(&files[file], &slices, offset)?);
                Ok(())
            }),
            "direct" => self.write(move |file, offset, count| {
                whole(files[file].write_at(&block(number, count).0, offset)?);
                Ok(())
            }),
            "uring" => {
                let (mut ring, line) = (Uring::new(), self.line());
                self.write(move |file, offset, count| {
                    let block = block(number, count);
                    let again = || {
                        line.again.fetch_add(1, SeqCst);
                    };
                    ring.write(&files[file], &block, offset, again).map(whole)
                });
            }
            "aio" => {
                let aio = Aio::new();
                self.write(move |file, offset, count| {
                    let block = block(number, count);
                    aio.write(&files[file], &block, offset).map(whole)
                });
            }
            "store" | "stores" => {
                let mut mappings: Vec<Mapping> = files.iter().map(Mapping::shared).collect();
                for mapping in &mut mappings {
                    mapping.store(Region::begin(number) as usize, number, 0);
                }
                self.write(move |file, offset, count| {
                    mappings[file].store(offset as usize, number, count);
                    Ok(())
                });
            }
            _ => size::work(self.board, self.line(), self.files),
        }
    }

    /// Writes block after block, and looks at the region after each.
    fn write(mut self, mut write: impl FnMut(usize, u64, u64) -> io::Result<()>) {
        let line = self.line();
        for count in 1.. {
            if !proceed(self.board, line) {
                return;
            }
            let file = count as usize % self.files.len();
            let number = count as usize / self.files.len() % BLOCKS;
            let region = &mut self.regions[file];
            let result = write(file, region.offset(number), count);
            if judge(self.board, line, result) {
                region.wrote(number, count);
            }
            region.check(&self.files[file]);
        }
    }
}

/// Waits for the next operation; false at the end.
pub(crate) fn proceed(board: &Board, line: &Line) -> bool {
    line.ready.store(1, SeqCst);
    loop {
        thread::sleep(Duration::from_millis(board.pace.load(SeqCst)));
        match board.phase() {
            Phase::Wait => {}
            Phase::Work => return true,
            Phase::End => return false,
        }
    }
}

/// Notes how an operation ended; false if it was refused, which it may only be with EBUSY, and if somebody
/// denies.
pub(crate) fn judge(board: &Board, line: &Line, result: io::Result<()>) -> bool {
    match result {
        Ok(()) => line.complete(),
        Err(error) => {
            let busy = error.raw_os_error() == Some(libc::EBUSY);
            assert!(
                busy && board.may_deny(),
                "the writer sees an error: {error}"
            );
            line.refused.fetch_add(1, SeqCst);
            thread::sleep(PATIENCE);
            return false;
        }
    }
    true
}

fn whole(written: usize) {
    assert_eq!(written, BLOCK, "a short write");
}

/// All writers, as processes.
pub(crate) struct Crew {
    board: &'static Board,
    children: Vec<(&'static str, Child)>,
}

impl Crew {
    /// Lays out the files, starts the writers, and waits until they have everything open and mapped.
    /// They rest for `pace` milliseconds after each operation.
    pub(crate) fn start(board: &Path, files: &[PathBuf], kinds: &[&str], pace: u64) -> Self {
        for path in files {
            let file = File::create(path).expect("a new file");
            for writer in 0..REGIONS {
                Region::lay_out(&file, writer);
            }
            assert_eq!(file.metadata().expect("fstat").len(), TAIL);
        }
        let path = board;
        let board = Board::open(path, true);
        board.pace.store(pace, SeqCst);
        let children = PROCESSES
            .into_iter()
            .filter(|(kind, _)| kinds.is_empty() || kinds.contains(kind))
            .map(|(kind, _)| {
                let mut command = Command::new("/proc/self/exe");
                command.args(["write", kind]).arg(path).args(files);
                // A group that somebody could continue: in others the stops of the terminal have no effect.
                command.process_group(0);
                (kind, command.spawn().expect("a writer"))
            })
            .collect();
        let crew = Self { board, children };
        crew.wait_until("ready", |line| line.ready.load(SeqCst) == 1);
        board.enter(Phase::Work);
        crew
    }

    /// Process ids, with what the processes do.
    pub(crate) fn processes(&self) -> Vec<(&'static str, u32)> {
        let process = |(kind, child): &(&'static str, Child)| (*kind, child.id());
        self.children.iter().map(process).collect()
    }

    /// The numbers of the writers.
    pub(crate) fn numbers(&self) -> Vec<usize> {
        let numbers = |kind| PROCESSES.into_iter().find(|(name, _)| *name == kind);
        let mut all = Vec::new();
        for (kind, _) in &self.children {
            all.extend(
                numbers(*kind)
                    .map(|(_, numbers)| numbers)
                    .unwrap_or_default(),
            );
        }
        all
    }

    /// The writers' lines.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &'static Line> {
        let board = self.board;
        self.numbers()
            .into_iter()
            .map(move |number| &board.lines[number])
    }

    /// Waits until each writer has completed some more operations.
    pub(crate) fn progress(&self, operations: u64) {
        let before = self
            .board
            .lines
            .each_ref()
            .map(|line| line.done.load(SeqCst));
        let mut numbers = self.numbers().into_iter().cycle();
        self.wait_until("going on", |line| {
            let number = numbers.next().expect("endless");
            line.done.load(SeqCst) >= before[number] + operations
        });
    }

    fn wait_until(&self, what: &str, mut is: impl FnMut(&Line) -> bool) {
        // Emulation is slow; a writer that stands still is a failure all the same.
        for _ in 0..6000 {
            // Each is asked, whatever the others say.
            let waiting = self.lines().filter(|line| !is(line)).count();
            if waiting == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let states: Vec<_> = self
            .processes()
            .into_iter()
            .map(|(kind, pid)| (kind, crate::process::state(pid)))
            .collect();
        panic!("not every writer is {what}: {states:?}");
    }

    /// Makes sure that none has ended.
    pub(crate) fn check(&mut self) {
        for (kind, child) in &mut self.children {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the writer {kind} ended: {ended:?}");
        }
    }

    /// Lets the writers come to their end, at which each has checked its own data.
    pub(crate) fn finish(mut self) {
        self.check();
        self.board.enter(Phase::End);
        for (kind, child) in &mut self.children {
            let status = crate::process::wait(child);
            assert!(status.success(), "the writer {kind} ended with {status}");
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
