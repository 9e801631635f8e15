//! What happens to frozen files: told by the kernel side, or looked for.

use std::time::Duration;

use premod_common::guard::{GuardRecord, Happening};

use super::{
    freezer::Freezer,
    happened::{Happened, Violation, Why},
};
use crate::{error::Error, events};

/// A program that hangs twice tells twice, within this time.
const TWICE: Duration = Duration::from_millis(5);

impl Freezer {
    /// Waits for the next thing that happens.
    ///
    /// # Errors
    /// If the kernel side cannot be heard any more.
    pub async fn next(&mut self) -> Result<Happened, Error> {
        loop {
            if let Some(happened) = self.next_told() {
                return Ok(happened);
            }
            let mut ready = self
                .happenings
                .readable_mut()
                .await
                .map_err(|error| Error::kernel("cannot wait for the ring buffer", &error))?;
            // Cleared before reading, so that what comes in between wakes us again.
            ready.clear_ready();
        }
    }

    /// The next thing that has happened already.
    fn next_told(&mut self) -> Option<Happened> {
        loop {
            if let Some(happened) = self.told_of.pop() {
                return Some(happened);
            }
            let item = self.happenings.get_mut().next()?;
            let record = GuardRecord::decode(&item)?;
            drop(item);
            let frozen = self.frozen?;
            let happening = Happening::from_number(record.happening)?;
            if happening == Happening::Renamed {
                self.name_changed(&record, frozen.since.0);
                continue;
            }
            if happening.is_modification() {
                if record.mono_ns < frozen.since.0 {
                    continue;
                }
                self.unseen += 1;
                if self.is_told_twice(&record) {
                    continue;
                }
            }
            let file = self.inodes.iter().position(|&inode| inode == record.inode);
            return Some(match happening {
                Happening::Refused => Happened::Refused(record, file),
                Happening::Held => Happened::Held(record, file),
                Happening::Killed => Happened::Killed(record, file),
                // Renamed is told above.
                Happening::Touched | Happening::Stored | Happening::Renamed => {
                    let why = if happening == Happening::Stored {
                        Why::Stored
                    } else {
                        Why::Modified
                    };
                    Happened::Violated(Violation {
                        why,
                        file,
                        record: Some(record),
                        mono: events::MonotonicNs(record.mono_ns),
                    })
                }
            });
        }
    }

    /// A name on the way to some of the files is renamed, replaced or removed.
    fn name_changed(&mut self, record: &GuardRecord, since: u64) {
        // What was before the files were frozen was counted when they were.
        if record.mono_ns < since {
            return;
        }
        self.renamed += 1;
        let violation = |&file: &usize| {
            Happened::Violated(Violation {
                why: Why::Replaced,
                file: Some(file),
                record: Some(*record),
                mono: events::MonotonicNs(record.mono_ns),
            })
        };
        let files = self.names.files(record.inode).iter().rev();
        self.told_of.extend(files.map(violation));
    }

    /// What a program sees that hangs twice is told twice.
    fn is_told_twice(&mut self, record: &GuardRecord) -> bool {
        let twice = !self.told_twice
            && self.last_told.as_ref().is_some_and(|last| {
                (last.tid, last.inode, last.happening, last.op)
                    == (record.tid, record.inode, record.happening, record.op)
                    && record.mono_ns - last.mono_ns < TWICE.as_nanos() as u64
            });
        self.told_twice = twice;
        self.last_told = Some(*record);
        twice
    }

    /// Looks for violations that nobody tells: skipped programs, lost records, replaced files, the end of the
    /// time. Has to be asked before the thaw, and now and then before.
    ///
    /// # Errors
    /// If the kernel side cannot be asked.
    pub fn examine(&mut self) -> Result<Vec<Happened>, Error> {
        // First, because whoever has changed a name was told of before he did it, and who he was is worth to know.
        let mut replaced: Vec<usize> = (0..self.targets.len()).collect();
        replaced.retain(|&number| !self.targets[number].is_in_its_place());
        let mut found: Vec<Happened> = std::iter::from_fn(|| self.next_told()).collect();
        let Some(frozen) = self.frozen else {
            return Ok(found);
        };
        let mono = events::now();
        let violated = |why, file| {
            Happened::Violated(Violation {
                why,
                file,
                record: None,
                mono,
            })
        };
        if self.guards.were_skipped() {
            found.push(violated(Why::Skipped, None));
        }
        let tally = self.guards.controls.tally()?;
        if tally.lost > 0 && (tally.touches > self.unseen || tally.renamed > self.renamed) {
            found.push(violated(Why::Lost, None));
            self.unseen = tally.touches;
            self.renamed = tally.renamed;
        }
        for number in replaced {
            found.push(violated(Why::Replaced, Some(number)));
        }
        if mono.0 >= frozen.deadline.0 {
            found.push(violated(Why::Expired, None));
        }
        Ok(found)
    }
}
