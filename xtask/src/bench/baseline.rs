//! bench/baseline.json: what was measured when the numbers were last looked at, and whether it has become worse.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::results::{AGAIN, Measured, NOBODY};
use crate::paths;

/// By how much more of the instructions that premod adds an operation may take.
const TOLERANCE: f64 = 0.05;

/// As many instructions more are no news: an interrupt that fell into most of the samples, a longer chain in a
/// hash table.
const NOISE: i64 = 20;

/// The committed numbers.
#[derive(Debug, Default)]
pub(crate) struct Baseline(pub(crate) Vec<Measured>);

/// An operation and what became of its cost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The operation and who watches.
    pub(crate) name: String,
    /// Why it is too much.
    pub(crate) worse: Option<String>,
}

impl Baseline {
    fn path() -> PathBuf {
        paths::root().join("bench/baseline.json")
    }

    /// The numbers as they are committed; none if there are none yet.
    pub(crate) fn committed() -> Result<Self> {
        let path = Self::path();
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let measured = serde_json::from_str(&text);
        Ok(Self(measured.with_context(|| {
            format!("{} is broken", path.display())
        })?))
    }

    /// What was measured on a kernel.
    pub(crate) fn of(&self, series: &str) -> Result<Measured> {
        let measured = self.0.iter().find(|one| one.kernel == series);
        measured.cloned().with_context(|| {
            format!("bench/baseline.json has nothing about {series}: run cargo xtask bench")
        })
    }

    /// Puts what was measured in the place of what was there for the same kernel.
    pub(crate) fn take(&mut self, measured: Measured) {
        match self.0.iter_mut().find(|one| one.kernel == measured.kernel) {
            Some(place) => *place = measured,
            None => self.0.push(measured),
        }
        let series = &crate::setup::kernels::SERIES;
        self.0
            .sort_by_key(|one| series.iter().position(|series| *series == one.kernel));
    }

    pub(crate) fn write(&self) -> Result<()> {
        let path = Self::path();
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        fs::create_dir_all(path.parent().context("it has a directory")?)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Compares what premod adds to each operation with what it added before.
    pub(crate) fn judge(&self, now: &Measured) -> Vec<Judged> {
        let before = match self.of(&now.kernel) {
            Ok(before) => before,
            Err(error) => {
                return vec![Judged {
                    name: "costs".to_owned(),
                    worse: Some(error.to_string()),
                }];
            }
        };
        let mut judged = Vec::new();
        for cell in &now.cells {
            if cell.watcher == NOBODY || cell.watcher == AGAIN || !cell.exact {
                continue;
            }
            let (watcher, operation) = (&cell.watcher, &cell.operation);
            let (Some(was), Some(is)) = (
                before.added(watcher, operation),
                now.added(watcher, operation),
            ) else {
                continue;
            };
            let allowed = was + NOISE.max((was as f64 * TOLERANCE) as i64);
            judged.push(Judged {
                name: format!("costs: {operation}: {watcher}"),
                worse: (is > allowed).then(|| {
                    format!("it adds {is} instructions, and added {was} (bench/baseline.json)")
                }),
            });
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::measured, *};

    fn worse(was: u64, is: u64) -> bool {
        let baseline = Baseline(vec![measured(&[(NOBODY, 2600), ("premod", 2600 + was)])]);
        // Another release of the kernel may be faster or slower by itself.
        let judged = baseline.judge(&measured(&[(NOBODY, 2500), ("premod", 2500 + is)]));
        assert_eq!(judged.len(), 1);
        assert_eq!(judged[0].name, "costs: write: premod");
        judged[0].worse.is_some()
    }

    #[test]
    fn more_than_a_twentieth_more_is_worse() {
        assert!(!worse(1000, 1050) && worse(1000, 1051));
        assert!(!worse(1000, 10));
        assert!(!worse(0, 20) && worse(0, 21));
    }

    #[test]
    fn a_kernel_without_numbers_is_no_success() {
        let judged = Baseline::default().judge(&measured(&[(NOBODY, 1), ("premod", 1)]));
        assert!(judged[0].worse.is_some());
    }

    #[test]
    fn a_kernel_has_its_numbers_once() {
        let mut baseline = Baseline::default();
        baseline.take(measured(&[(NOBODY, 1)]));
        baseline.take(measured(&[(NOBODY, 2)]));
        assert_eq!(baseline.0.len(), 1);
        assert_eq!(baseline.0[0].instructions(NOBODY, "write"), Some(2));
    }
}
