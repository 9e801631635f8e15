//! docs/coverage.md: which ways to change a file are announced before they happen, on which kernel and
//! filesystem. It is written by the test run, and compared with the one that is committed.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    guest::BootCoverage,
    table::Row,
    verdict::{Cell, CoverageCell},
};
use crate::{
    paths,
    vm::disk::{Filesystem, TESTED},
};

/// The filter that selects the tests which fill in the table, and no others.
pub(crate) const FILTER: &str = "covered";

/// Everything that is known, as it stands in premod/tests/vm/coverage/table.json.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Coverage {
    /// The kernels' releases by the names of their columns.
    kernels: BTreeMap<String, String>,
    /// In the order of the tests.
    ways: Vec<WayCells>,
}

/// One way to change a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WayCells {
    name: String,
    /// By filesystem, then by kernel.
    cells: BTreeMap<String, BTreeMap<String, Known>>,
}

/// What is known of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    cell: Cell,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Coverage {
    fn path() -> PathBuf {
        paths::root().join("premod/tests/vm/coverage/table.json")
    }

    fn committed() -> Result<Self> {
        let path = Self::path();
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is broken", path.display()))
    }

    fn of(boots: &[BootCoverage]) -> Self {
        let mut coverage = Self::default();
        // Some boots are for other tests only.
        for boot in boots.iter().filter(|boot| !boot.cells.is_empty()) {
            coverage
                .kernels
                .insert(boot.kernel.clone(), boot.release.clone());
            for cell in &boot.cells {
                coverage.add(&boot.kernel, cell);
            }
        }
        coverage
    }

    fn add(&mut self, kernel: &str, cell: &CoverageCell) {
        let known = Known {
            cell: cell.cell,
            why: cell.why.clone(),
        };
        let place = self.ways.iter().position(|way| way.name == cell.coverage);
        let place = place.unwrap_or_else(|| {
            self.ways.push(WayCells {
                name: cell.coverage.clone(),
                cells: BTreeMap::new(),
            });
            self.ways.len() - 1
        });
        let kernels = self.ways[place].cells.entry(cell.fs.clone()).or_default();
        kernels.insert(kernel.to_owned(), known);
    }

    fn get(&self, way: &str, fs: &str, kernel: &str) -> Option<&Known> {
        let way = self.ways.iter().find(|known| known.name == way)?;
        way.cells.get(fs)?.get(kernel)
    }

    /// What has become worse since `before`, a sentence for each. `whole` says that every test was run, so
    /// that a cell that is missing has been lost.
    fn worse_than(&self, before: &Self, whole: bool) -> Vec<String> {
        let mut worse = Vec::new();
        for way in &before.ways {
            for (fs, kernels) in &way.cells {
                for (kernel, known) in kernels {
                    let was = known.cell;
                    let cell = format!("\"{}\" on {fs} and kernel {kernel}", way.name);
                    match self.get(&way.name, fs, kernel).map(|known| known.cell) {
                        Some(now) if now > was => {
                            worse.push(format!("{cell} was {was} and is {now}"));
                        }
                        None if whole => worse.push(format!("{cell} was {was} and is not tested")),
                        _ => {}
                    }
                }
            }
        }
        worse
    }

    fn write(&self) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        let page = paths::root().join("docs/coverage.md");
        for (path, text) in [(Self::path(), json), (page, self.page())] {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// docs/coverage.md
    fn page(&self) -> String {
        let mut notes = Vec::new();
        let mut rows = String::new();
        for way in &self.ways {
            let _ = write!(rows, "| {} |", way.name);
            for fs in TESTED.map(Filesystem::name) {
                let _ = write!(rows, " {} |", way.shown(fs, &mut notes));
            }
            rows.push('\n');
        }
        let kernels: Vec<String> = self
            .kernels
            .iter()
            .map(|(name, release)| format!("{name} ({release})"))
            .collect();
        let mut page = format!("{HEAD}\nKernels: {}.\n\n", kernels.join(", "));
        let _ = writeln!(
            page,
            "| way | {} |",
            TESTED.map(Filesystem::name).join(" | ")
        );
        let _ = writeln!(page, "| --- |{}", " --- |".repeat(TESTED.len()));
        page.push_str(&rows);
        page.push_str("\n## Notes\n\n");
        for (number, note) in notes.iter().enumerate() {
            let _ = writeln!(page, "{}. {note}.", number + 1);
        }
        page.push_str(TAIL);
        page
    }
}

impl WayCells {
    /// The text of one cell: what holds on all kernels, or what holds on which.
    fn shown(&self, fs: &str, notes: &mut Vec<String>) -> String {
        let Some(kernels) = self.cells.get(fs) else {
            return "not tested".to_owned();
        };
        let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
        for (kernel, known) in kernels {
            let mut text = match known.cell {
                Cell::Late | Cell::Unseen => format!("**{}**", known.cell),
                good => good.to_string(),
            };
            if let Some(why) = &known.why {
                let number = notes.iter().position(|note| note == why);
                let number = number.unwrap_or_else(|| {
                    notes.push(why.clone());
                    notes.len() - 1
                });
                let _ = write!(text, " [{}]", number + 1);
            }
            match groups.iter_mut().find(|(other, _)| *other == text) {
                Some((_, kernels)) => kernels.push(kernel),
                None => groups.push((text, vec![kernel])),
            }
        }
        match &groups[..] {
            [(text, _)] => text.clone(),
            groups => groups
                .iter()
                .map(|(text, kernels)| format!("{}: {text}", kernels.join(", ")))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

/// Compares what the boots have seen with what is committed, and writes it down if all was run.
pub(crate) fn conclude(boots: &[BootCoverage], whole: bool) -> Result<Option<Row>> {
    let now = Coverage::of(boots);
    if now.ways.is_empty() {
        return Ok(None);
    }
    let before = Coverage::committed()?;
    let worse = now.worse_than(&before, whole);
    if !worse.is_empty() {
        return Ok(Some(Row::failure("docs/coverage.md", worse.join("; "))));
    }
    if whole && now != before {
        now.write()?;
        eprintln!("test: docs/coverage.md was written anew");
    }
    Ok(None)
}

const HEAD: &str = "\
# What is announced before it happens

Written by `cargo xtask test`, or the part `cargo xtask test --vm-only --filter covered`. Each line is a way to change
a file's data, tried on each filesystem and kernel in three dirty periods, with four changes in each. A cell that names
no kernel holds for all of them.

- **before**: one event, earlier than the change, with the right path and generation; none for the further changes
  of the period; one more after the next sync.
- **silent**: no byte changes, and there is no event.
- **late**: one event, but only while the change happened or after it.
- **unseen**: no event.
- **not applicable**: there is no such way here.
";

const TAIL: &str = "
## Not in the table

- **tmpfs, hugetlbfs**: a store through a mapping makes no call that could be seen; refused as PATH.
- **An active swap file, the device below a mounted filesystem**: the kernel writes to the disk's blocks and never
  to the file. Not seen.
- **The far side of FUSE, NFS and other network filesystems**: what others change is not seen.
- **Direct memory access to pages that were pinned before they were written back**: the device stores without a
  fault. `__mark_inode_dirty` sees it when the pages are let go. From 6.5 on the kernel refuses long pins of a
  file's pages.
- **Not tried**: FUSE passthrough, ksmbd, cachefiles, nvmet and LIO, core dumps and process accounting. By the kernel's
  source all of them come by `generic_write_checks`, but no test says so. `FALLOC_FL_WRITE_ZEROES` (6.17) needs a
  device that the VM does not have.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(kernel: &str, cells: &[(&str, Cell, Option<&str>)]) -> BootCoverage {
        BootCoverage {
            kernel: kernel.to_owned(),
            release: format!("{kernel}.1"),
            cells: cells
                .iter()
                .map(|&(way, cell, why)| CoverageCell {
                    coverage: way.to_owned(),
                    fs: "xfs".to_owned(),
                    cell,
                    why: why.map(str::to_owned),
                })
                .collect(),
        }
    }

    #[test]
    fn a_worse_or_missing_cell_is_named() {
        let before = Coverage::of(&[boot(
            "6.1",
            &[("write", Cell::Before, None), ("dax", Cell::Late, None)],
        )]);
        let same = before.worse_than(&before, true);
        assert_eq!(same, [""; 0]);
        let better = Coverage::of(&[boot(
            "6.1",
            &[("write", Cell::Before, None), ("dax", Cell::Before, None)],
        )]);
        assert_eq!(better.worse_than(&before, true), [""; 0]);
        let worse = Coverage::of(&[boot("6.1", &[("write", Cell::NotApplicable, None)])]);
        assert_eq!(
            worse.worse_than(&before, true),
            [
                "\"write\" on xfs and kernel 6.1 was before and is not applicable",
                "\"dax\" on xfs and kernel 6.1 was late and is not tested"
            ]
        );
        assert_eq!(worse.worse_than(&before, false).len(), 1);
    }

    #[test]
    fn the_committed_page_shows_the_committed_table() {
        let page = fs::read_to_string(paths::root().join("docs/coverage.md")).unwrap();
        assert_eq!(Coverage::committed().unwrap().page(), page);
    }

    #[test]
    fn kernels_are_named_where_they_differ() {
        let coverage = Coverage::of(&[
            boot(
                "6.1",
                &[
                    ("pin", Cell::Unseen, Some("no fault")),
                    ("write", Cell::Before, None),
                ],
            ),
            boot(
                "7",
                &[
                    ("pin", Cell::NotApplicable, None),
                    ("write", Cell::Before, None),
                ],
            ),
        ]);
        let page = coverage.page();
        assert!(
            page.contains("| write | not tested | before | not tested |"),
            "{page}"
        );
        assert!(
            page.contains("6.1: **unseen** [1]; 7: not applicable |"),
            "{page}"
        );
        assert!(page.contains("\n1. no fault.\n"), "{page}");
        assert!(page.contains("Kernels: 6.1 (6.1.1), 7 (7.1)."), "{page}");
    }
}
