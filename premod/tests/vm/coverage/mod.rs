//! Every way to change a file's data, tried on every filesystem. Each gives a cell of docs/coverage.md.
//!
//! A way is tried in three periods. In each it changes the data several times; the first change has to be
//! announced once and before it, the others not at all. Then the file is synced, and the next period begins.

mod calls_of_32_bits;
pub(crate) mod dax;
mod ioctls;
mod mappings;
mod nfsd;
mod silent;
mod sizes;
mod splices;
mod stacked;
mod writes;

pub(crate) use self::{
    silent::{defragment, place_on_disk},
    sizes::dedupe,
};

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    harness::{Boots, Check, Place, Run, Test},
    trace::{Trace, path_of},
    workload::now,
};

/// How often each way is tried.
const PERIODS: u64 = 3;
/// How often the data changes in each period.
const CHANGES: u64 = 4;
/// Size of the files that are changed: a block for each change, and some more.
pub(crate) const BLOCKS: u64 = 16;
/// Size of a block in bytes.
pub(crate) const BLOCK: u64 = 4096;

/// A way to change files, ready to be gone.
pub(crate) struct Change {
    /// Every file that it changes.
    pub(crate) files: Vec<Target>,
    /// The words that events may use for it.
    pub(crate) ops: &'static [&'static str],
    /// Changes the data for the n-th time, differently each time.
    pub(crate) make: Box<dyn FnMut(u64)>,
    /// The data is filled in again after each period: the change can be made once only.
    pub(crate) refill: bool,
    /// Why every change is announced, where more than the first of a period is.
    pub(crate) repeats: Option<&'static str>,
    /// Why it is not announced before it happens, for those that are not.
    pub(crate) excuse: Option<&'static str>,
}

/// What a way does to a file's data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Some byte is different afterwards.
    Changes,
    /// The bytes are the same, but the call may change them in general: it is announced.
    Keeps,
    /// No byte ever changes: there must be no event.
    None,
}

/// A file that a way changes.
pub(crate) struct Target {
    /// What happens to it.
    pub(crate) effect: Effect,
    /// What its first block consists of; the next block's byte is one more.
    first: u8,
    /// The name that events have to give it.
    pub(crate) path: PathBuf,
    /// For looking at it and syncing it.
    pub(crate) file: File,
}

/// Sets everything up, before premod starts. An error says why the way does not exist here.
pub(crate) type Way = fn(&Place) -> Result<Change, String>;

/// Makes the tables of a file's ways, and of the tests of what is announced. The names are those in
/// docs/coverage.md.
macro_rules! ways {
    ($($name:literal => $way:ident),+ $(,)?) => {
        pub(crate) const WAYS: &[(&str, $crate::coverage::Way)] = &[$(($name, $way)),+];
        pub(crate) const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: concat!("covered: ", $name),
            run: $crate::harness::Run::Shared(|place| {
                let way: $crate::coverage::Way = $way;
                $crate::coverage::judge($name, place, way(place))
            }),
            boots: $crate::harness::Boots::Every,
        }),+];
    };
}
pub(crate) use ways;

/// All ways.
pub(crate) fn tests() -> Vec<Test> {
    [
        writes::TESTS,
        splices::TESTS,
        sizes::TESTS,
        mappings::TESTS,
        ioctls::TESTS,
        stacked::TESTS,
        nfsd::TESTS,
        dax::TESTS,
        silent::TESTS,
    ]
    .concat()
}

/// Every way, with its name.
fn all_ways() -> impl Iterator<Item = (&'static str, Way)> {
    let ways = [
        writes::WAYS,
        splices::WAYS,
        sizes::WAYS,
        mappings::WAYS,
        ioctls::WAYS,
        stacked::WAYS,
        nfsd::WAYS,
        dax::WAYS,
        silent::WAYS,
    ];
    ways.into_iter().flatten().copied()
}

/// The way with this name.
pub(crate) fn way(name: &str) -> Way {
    let (_, way) = all_ways()
        .find(|(known, _)| *known == name)
        .expect("a known way");
    way
}

/// All ways, against frozen files. Not DAX, whose files are refused.
pub(crate) fn frozen_tests() -> Vec<Test> {
    all_ways()
        .filter(|(name, _)| !name.starts_with("DAX"))
        .map(|(name, _)| Test {
            // The list is made once.
            name: format!("frozen: {name}").leak(),
            run: Run::Frozen(name),
            boots: Boots::OldestAndNewest,
        })
        .collect()
}

impl Change {
    /// A way that changes one file.
    pub(crate) fn of(
        target: Target,
        ops: &'static [&'static str],
        make: impl FnMut(u64) + 'static,
    ) -> Self {
        Self::of_all(vec![target], ops, make)
    }

    /// A way that changes several files.
    pub(crate) fn of_all(
        files: Vec<Target>,
        ops: &'static [&'static str],
        make: impl FnMut(u64) + 'static,
    ) -> Self {
        Self {
            files,
            ops,
            make: Box::new(make),
            refill: false,
            repeats: None,
            excuse: None,
        }
    }

    /// The same, with the data filled in again after each period.
    pub(crate) fn refilled(self) -> Self {
        Self {
            refill: true,
            ..self
        }
    }
}

impl Target {
    /// A new file of [`BLOCKS`] blocks, each different, on disk.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self::starting_with(path, b'a')
    }

    /// The same with other bytes.
    pub(crate) fn starting_with(path: PathBuf, first: u8) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("a new file");
        let target = Self {
            effect: Effect::Changes,
            first,
            path,
            file,
        };
        target.fill();
        target.file.sync_all().expect("fsync");
        target
    }

    /// The same file, to which this happens.
    pub(crate) fn with(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    fn fill(&self) {
        for block in 0..BLOCKS {
            let bytes = [self.first + block as u8; BLOCK as usize];
            let written = self.file.write_all_at(&bytes, block * BLOCK);
            written.expect("a block");
        }
        self.file.set_len(BLOCKS * BLOCK).expect("ftruncate");
    }

    /// Another descriptor of the same open file.
    pub(crate) fn same(&self) -> File {
        self.file.try_clone().expect("dup")
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().expect("fstat").len() as usize];
        self.file.read_exact_at(&mut bytes, 0).expect("reading");
        bytes
    }
}

/// The verdict on a way, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Silent,
    Before,
    Late,
    Unseen,
}

impl Cell {
    const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Before => "before",
            Self::Late => "late",
            Self::Unseen => "unseen",
        }
    }
}

/// Goes the way, and prints the cell.
pub(crate) fn judge(name: &'static str, place: &Place, way: Result<Change, String>) -> Check {
    let filesystem = place.filesystem.clone();
    Box::new(move |trace| {
        let (cell, why) = match way {
            Err(why) => ("not applicable", Some(why)),
            Ok(change) => {
                let (excuse, repeats) = (change.excuse, change.repeats);
                let cell = try_it(change, trace);
                assert!(
                    cell <= Cell::Before || excuse.is_some(),
                    "{cell:?}, and nobody knows why"
                );
                let why = if cell > Cell::Before { excuse } else { repeats };
                (cell.name(), why.map(str::to_owned))
            }
        };
        println!(
            "{}",
            json!({"coverage": name, "fs": filesystem, "cell": cell, "why": why})
        );
    })
}

fn try_it(mut change: Change, trace: &mut Trace) -> Cell {
    let mut worst = Cell::Silent;
    let mut generations = vec![Vec::new(); change.files.len()];
    let mut made = 0;
    let mut period = 0;
    while period < PERIODS {
        let skipped = trace.skipped();
        let contents: Vec<_> = change.files.iter().map(Target::content).collect();
        let began = now();
        (change.make)(made);
        let ended = now();
        for (target, content) in change.files.iter().zip(contents) {
            let changed = target.content() != content;
            let wanted = target.effect == Effect::Changes;
            assert_eq!(changed, wanted, "the data of {}", target.path.display());
        }
        for n in 1..CHANGES {
            (change.make)(made + n);
        }
        made += CHANGES;
        let events = trace.events();
        for target in &change.files {
            if change.refill {
                target.fill();
            }
            target.file.sync_all().expect("fsync");
        }
        let _ = trace.events();
        let mut cell = Cell::Silent;
        for (target, generations) in change.files.iter().zip(&mut generations) {
            let event = event_about(target, &events, change.repeats.is_some());
            if let Some(event) = event {
                generations.push(event["generation"].as_u64().expect("a generation"));
            }
            cell = cell.max(cell_of(event, target.effect, change.ops, began..ended));
        }
        if cell > Cell::Before && trace.skipped() > skipped && made < BLOCKS {
            // The kernel did not run a hook, and premod has said so. That says nothing about the way.
            continue;
        }
        worst = worst.max(cell);
        period += 1;
    }
    for generations in generations {
        assert!(
            change.repeats.is_some() || generations.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "a generation was announced twice or left out: {generations:?}"
        );
    }
    worst
}

/// The event about a file, of which there may be one only.
fn event_about<'a>(target: &Target, events: &'a [Value], repeats: bool) -> Option<&'a Value> {
    let inode = target.file.metadata().expect("fstat").ino();
    let about: Vec<_> = events
        .iter()
        .filter(|event| event["inode"] == inode && ends_like(&path_of(event), &target.path))
        .collect();
    assert!(repeats || about.len() <= 1, "not one event but {about:?}");
    let event = about.into_iter().next()?;
    let path = path_of(event);
    if event["path_in_fs"] == true {
        assert!(
            target
                .path
                .ends_with(path.strip_prefix("/").expect("an absolute path"))
        );
    } else {
        assert_eq!(path, target.path, "{event}");
    }
    Some(event)
}

fn ends_like(path: &Path, other: &Path) -> bool {
    path.file_name() == other.file_name()
}

fn cell_of(event: Option<&Value>, effect: Effect, ops: &[&str], when: Range<u64>) -> Cell {
    let Some(event) = event else {
        return if effect == Effect::None {
            Cell::Silent
        } else {
            Cell::Unseen
        };
    };
    assert!(effect != Effect::None, "a false alarm: {event}");
    if event["pre"] != true {
        return Cell::Late;
    }
    let op = event["op"].as_str().expect("an op");
    assert!(ops.contains(&op), "{op} is not one of {ops:?}: {event}");
    let announced = event["mono_ns"].as_u64().expect("a time");
    assert!(when.contains(&announced), "{when:?}: {event}");
    Cell::Before
}
