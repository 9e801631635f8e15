//! The table at the end of a test run.

use std::fmt::Write as _;

use super::verdict::Verdict;

/// One result.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Where it ran: a kernel, or nothing for this machine.
    pub(crate) place: Option<String>,
    pub(crate) fs: Option<String>,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f32,
    /// Why it failed or was skipped.
    pub(crate) reason: Option<String>,
    /// How many tests the row stands for: passed, failed, skipped. A row of cargo's stands for
    /// many.
    pub(crate) counts: Option<Counts>,
}

/// How many tests had which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Row {
    /// Something that failed on this machine.
    pub(crate) fn failure(name: &str, reason: String) -> Self {
        Self {
            name: name.to_owned(),
            place: None,
            fs: None,
            verdict: Verdict::Fail,
            seconds: 0.0,
            reason: Some(reason),
            counts: None,
        }
    }

    pub(crate) fn failed(&self) -> bool {
        self.verdict == Verdict::Fail
    }

    fn counts(&self) -> Counts {
        let one = |verdict| usize::from(self.verdict == verdict);
        let mut counts = self.counts.unwrap_or(Counts {
            passed: one(Verdict::Pass),
            failed: one(Verdict::Fail),
            skipped: one(Verdict::Skip),
        });
        // A row that failed without a failed test (it did not build) is a failure all the same.
        if self.failed() {
            counts.failed = counts.failed.max(1);
        }
        counts
    }
}

/// `N passed, N failed, N skipped`.
pub(crate) fn summary(rows: &[Row]) -> String {
    let total = rows
        .iter()
        .map(Row::counts)
        .fold(Counts::default(), |a, b| Counts {
            passed: a.passed + b.passed,
            failed: a.failed + b.failed,
            skipped: a.skipped + b.skipped,
        });
    format!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    )
}

/// The whole table: what ran here, what ran in the VM (a line for each test, a column for each
/// boot, a letter for each file system), and the reasons of what did not pass.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    let (here, guests): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.place.is_none());
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in &here {
        let word = match row.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "skip",
            Verdict::LeftOut => "left out",
        };
        let tests = row
            .counts
            .map(|counts| format!("  {} tests", counts.passed + counts.failed));
        let tests = tests.unwrap_or_default();
        push(
            &mut text,
            &format!("{:width$}  {word}  {:5.1} s{tests}", row.name, row.seconds),
        );
    }
    if !guests.is_empty() {
        push(&mut text, "");
        push_grid(&mut text, &guests, width);
        push_slowest(&mut text, &guests);
    }
    for row in rows
        .iter()
        .filter(|row| matches!(row.verdict, Verdict::Fail | Verdict::Skip))
    {
        let word = if row.failed() { "failed" } else { "skipped" };
        let place = row
            .place
            .as_deref()
            .map(|place| format!(" on {place}"))
            .unwrap_or_default();
        let fs = row
            .fs
            .as_deref()
            .map(|fs| format!(" {fs}"))
            .unwrap_or_default();
        let reason = shortened(row.reason.as_deref().unwrap_or("no reason given"));
        push(
            &mut text,
            &format!("\n{word}: {}{place}{fs}: {reason}", row.name),
        );
    }
    text
}

/// A reason in one line of bearable length; the details have all of it.
fn shortened(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = line.chars().count();
    if length <= LONGEST_REASON {
        return line;
    }
    // The end names the file with the details.
    let head: String = line.chars().take(LONGEST_REASON * 3 / 4).collect();
    let tail: String = line.chars().skip(length - LONGEST_REASON / 4).collect();
    format!("{head} … {tail}")
}

/// How long a reason may be in the table.
const LONGEST_REASON: usize = 400;

/// The tests that took longest, because somebody waits for them at every change.
fn push_slowest(text: &mut String, rows: &[&Row]) {
    let mut slowest: Vec<&&Row> = rows.iter().filter(|row| row.seconds >= 10.0).collect();
    slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let shown: Vec<String> = slowest
        .iter()
        .take(SLOWEST)
        .map(|row| {
            let place = row.place.as_deref().unwrap_or_default();
            format!("{} ({place}, {:.0} s)", row.name, row.seconds)
        })
        .collect();
    if !shown.is_empty() {
        push(text, &format!("Slowest: {}", shown.join(", ")));
    }
}

/// How many slow tests are named.
const SLOWEST: usize = 5;

fn push_grid(text: &mut String, rows: &[&Row], width: usize) {
    let distinct = |value: fn(&Row) -> Option<&str>| {
        let mut found: Vec<&str> = Vec::new();
        for name in rows.iter().filter_map(|row| value(row)) {
            if !found.contains(&name) {
                found.push(name);
            }
        }
        found
    };
    let names = distinct(|row| Some(&row.name));
    let places = distinct(|row| row.place.as_deref());
    let filesystems = distinct(|row| row.fs.as_deref());
    let legend = if filesystems.is_empty() {
        String::new()
    } else {
        format!("one letter each for {}; ", filesystems.join(", "))
    };
    push(
        text,
        &format!("In the VM: {legend}. pass, F fail, s skip, - left out"),
    );
    let column = |place: &str| place.len().max(filesystems.len());
    let mut line = " ".repeat(width);
    for place in &places {
        let _ = write!(line, "  {place:0$}", column(place));
    }
    push(text, &line);
    for name in names {
        let mut line = format!("{name:width$}");
        for place in &places {
            let cell = cell(rows, name, place, &filesystems);
            let _ = write!(line, "  {cell:0$}", column(place));
        }
        push(text, &line);
    }
}

/// The letters of one test on one kernel.
fn cell(rows: &[&Row], name: &str, place: &str, filesystems: &[&str]) -> String {
    let letter = |fs: Option<&str>| {
        let verdicts = rows.iter().filter(|row| {
            row.name == name && row.place.as_deref() == Some(place) && row.fs.as_deref() == fs
        });
        verdicts
            .map(|row| match row.verdict {
                Verdict::Pass => '.',
                Verdict::Fail => 'F',
                Verdict::Skip => 's',
                Verdict::LeftOut => '-',
            })
            .next()
    };
    match letter(None) {
        Some(letter) => letter.to_string(),
        None => filesystems
            .iter()
            .map(|fs| letter(Some(fs)).unwrap_or(' '))
            .collect(),
    }
}

fn push(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, place: Option<&str>, fs: Option<&str>, verdict: Verdict) -> Row {
        Row {
            name: name.to_owned(),
            place: place.map(str::to_owned),
            fs: fs.map(str::to_owned),
            verdict,
            seconds: 1.0,
            reason: (verdict != Verdict::Pass).then(|| "because".to_owned()),
            counts: None,
        }
    }

    #[test]
    fn the_table_has_a_letter_for_each_file_system() {
        let rows = [
            row("fmt", None, None, Verdict::Pass),
            row("store", Some("6.1"), Some("ext4"), Verdict::Pass),
            row("store", Some("6.1"), Some("xfs"), Verdict::Fail),
            row("store", Some("7"), Some("ext4"), Verdict::Skip),
            row("store", Some("7"), Some("xfs"), Verdict::Pass),
            row("load", Some("6.1"), None, Verdict::LeftOut),
            row("load", Some("7"), None, Verdict::Pass),
        ];
        let text = render(&rows);
        assert!(text.contains("fmt    pass    1.0 s\n"), "{text}");
        assert!(text.contains("store  .F   s.\n"), "{text}");
        assert!(text.contains("load   -    .\n"), "{text}");
        assert!(
            text.contains("failed: store on 6.1 xfs: because\n"),
            "{text}"
        );
        assert_eq!(summary(&rows), "4 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_long_reason_keeps_its_beginning_and_its_end() {
        let reason = format!("left\n  right {} (details: log)", "x".repeat(1000));
        let short = shortened(&reason);
        assert!(short.starts_with("left right xxx"), "{short}");
        assert!(short.ends_with("x (details: log)"), "{short}");
        assert!(short.chars().count() < 410);
    }

    #[test]
    fn rows_of_cargo_count_their_tests() {
        let mut cargo = row("host tests", None, None, Verdict::Pass);
        cargo.counts = Some(Counts {
            passed: 40,
            failed: 0,
            skipped: 2,
        });
        assert_eq!(summary(&[cargo.clone()]), "40 passed, 0 failed, 2 skipped");
        // It did not build.
        cargo.verdict = Verdict::Fail;
        cargo.counts = Some(Counts::default());
        assert_eq!(summary(&[cargo]), "0 passed, 1 failed, 0 skipped");
    }
}
