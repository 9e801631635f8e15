//! The lines that the VM's test program writes, and the skips that are expected of it.

use std::{fmt, fs};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::paths;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Pass,
    Fail,
    Skip,
    /// It was not asked for: it runs on other boots, or on this one with `--all`.
    #[serde(rename = "left out")]
    LeftOut,
}

/// One line of the test program.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    Test(Test),
    Cell(CoverageCell),
    /// The last line: how many verdicts there were.
    Done {
        done: usize,
    },
}

/// The verdict on one test.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    pub(crate) test: String,
    /// The file system it ran on; none for a test that needs none.
    #[serde(default)]
    pub(crate) fs: Option<String>,
    pub(crate) verdict: Verdict,
    #[serde(default)]
    pub(crate) seconds: f32,
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// What became of one way to change a file, on one filesystem.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoverageCell {
    /// The way's name.
    pub(crate) coverage: String,
    pub(crate) fs: String,
    pub(crate) cell: Cell,
    /// A sentence, for what is not simply announced before.
    #[serde(default)]
    pub(crate) why: Option<String>,
}

/// What can become of a way to change a file, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cell {
    /// No byte changes, and nothing is announced.
    Silent,
    /// Announced before it happens.
    Before,
    /// There is no such way here.
    #[serde(rename = "not applicable")]
    NotApplicable,
    /// Announced while it happens, or afterwards.
    Late,
    /// Not announced.
    Unseen,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "silent",
            Self::Before => "before",
            Self::NotApplicable => "not applicable",
            Self::Late => "late",
            Self::Unseen => "unseen",
        })
    }
}

impl Line {
    pub(crate) fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).with_context(|| format!("not a verdict: {line}"))
    }
}

/// A skip that may happen. `*` stands for anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    test: String,
    kernel: String,
    fs: String,
    /// `on` or `off`: whether bpf is among the kernel's security modules.
    lsm: String,
    reason: String,
}

/// The table of skips that may happen.
#[derive(Debug)]
pub(crate) struct Skips(Vec<Skip>);

impl Skips {
    /// Reads premod/tests/vm/expected-skips.json; none is expected when there is no such file.
    pub(crate) fn load() -> Result<Self> {
        let path = paths::root().join("premod/tests/vm/expected-skips.json");
        if !path.exists() {
            return Ok(Self(Vec::new()));
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(Self(
            serde_json::from_str(text).context("not a list of skips")?,
        ))
    }

    /// Whether `test` may be skipped on this kernel for the reason it gives.
    pub(crate) fn expect(&self, test: &Test, kernel: &str, bpf_lsm: bool) -> bool {
        let lsm = if bpf_lsm { "on" } else { "off" };
        let fs = test.fs.as_deref().unwrap_or_default();
        let reason = test.reason.as_deref().unwrap_or_default();
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        self.0.iter().any(|skip| {
            is(&skip.test, &test.test)
                && is(&skip.kernel, kernel)
                && is(&skip.fs, fs)
                && is(&skip.lsm, lsm)
                && !reason.is_empty()
                && is(&skip.reason, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(line: &str) -> Test {
        match Line::parse(line).unwrap() {
            Line::Test(test) => test,
            _ => panic!("{line} is a test"),
        }
    }

    #[test]
    fn verdicts_are_read() {
        let passed =
            test(r#"{"test":"a","fs":"xfs","verdict":"pass","seconds":1.5,"reason":null}"#);
        assert_eq!(
            (passed.verdict, passed.fs.as_deref()),
            (Verdict::Pass, Some("xfs"))
        );
        assert_eq!(test(r#"{"test":"a","verdict":"fail"}"#).fs, None);
        assert_eq!(
            Line::parse(r#"{"done":7}"#).unwrap(),
            Line::Done { done: 7 }
        );
        for wrong in ["", "ok", "{}", r#"{"test":"a","verdict":"maybe"}"#] {
            assert!(Line::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_listed_skips_with_their_reason_are_expected() {
        let skips = Skips::parse(
            r#"[{"test":"dax","kernel":"*","fs":"btrfs","lsm":"*","reason":"btrfs has no DAX"},
                {"test":"deny","kernel":"6.12","fs":"*","lsm":"off","reason":"*"}]"#,
        )
        .unwrap();
        let skipped = |test, fs, reason| Test {
            test: String::from(test),
            fs: Some(String::from(fs)),
            verdict: Verdict::Skip,
            seconds: 0.0,
            reason: Some(String::from(reason)),
        };
        assert!(skips.expect(&skipped("dax", "btrfs", "btrfs has no DAX"), "6.1", true));
        assert!(!skips.expect(&skipped("dax", "btrfs", "out of memory"), "6.1", true));
        assert!(!skips.expect(&skipped("dax", "xfs", "btrfs has no DAX"), "6.1", true));
        assert!(skips.expect(&skipped("deny", "xfs", "no LSM"), "6.12", false));
        assert!(!skips.expect(&skipped("deny", "xfs", "no LSM"), "6.12", true));
        assert!(!skips.expect(&skipped("deny", "xfs", ""), "6.12", false));
    }
}
