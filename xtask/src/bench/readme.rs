//! The figures in README.md.

use std::fs;

use anyhow::{Context as _, Result};

use super::{
    baseline::Baseline,
    results::{Measured, thousands},
};
use crate::paths;

/// The kernel whose figures stand there.
const KERNEL: &str = "6.12";

/// Between these two lines.
const BEGIN: &str = "<!-- written by cargo xtask bench -->\n";
const END: &str = "<!-- end -->\n";

const OPERATIONS: [&str; 6] = [
    "pwrite of 512 bytes, already dirty",
    "pwrite of 512 bytes, first after fsync",
    "store into a mapping, already dirty",
    "pread of 512 bytes",
    "open and close",
    "untar of a source tree",
];

const WATCHERS: [&str; 6] = [
    "nobody",
    "premod trace, file inside",
    "premod trace, file outside",
    "premod freeze, another file",
    "fanotify, FAN_MODIFY",
    "inotifywait",
];

/// Puts the figures of one kernel in the place of those that are there.
pub(super) fn write(baseline: &Baseline) -> Result<()> {
    let Some(measured) = baseline.0.iter().find(|one| one.kernel == KERNEL) else {
        return Ok(());
    };
    let path = paths::root().join("README.md");
    let text = fs::read_to_string(&path).context("cannot read README.md")?;
    fs::write(&path, replaced(&text, &figures(measured))?).context("cannot write README.md")
}

fn figures(measured: &Measured) -> String {
    let mut text = measured.table(&WATCHERS, &OPERATIONS);
    let watcher = WATCHERS[1];
    if let Some(event) = measured.event(watcher) {
        text.push_str(&format!(
            "\nFrom the ring buffer to the line of JSON an event takes premod {} instructions, and a second without events \
             {}.\n",
            thousands(event.per_event),
            thousands(event.idle),
        ));
    }
    text
}

fn replaced(text: &str, figures: &str) -> Result<String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .context("README.md has no place for the figures")?;
    let (_, after) = rest
        .split_once(END)
        .context("the place for the figures in README.md has no end")?;
    Ok(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("head\n{BEGIN}old\n{END}tail\n");
        let new = replaced(&text, "new\n").unwrap();
        assert_eq!(new, format!("head\n{BEGIN}\nnew\n\n{END}tail\n"));
        assert_eq!(replaced(&new, "new\n").unwrap(), new);
        assert!(replaced("nothing", "new").is_err());
    }
}
