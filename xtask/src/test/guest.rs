//! Runs the VM's test program on one kernel.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    boots::Kind,
    table::Row,
    verdict::{CoverageCell, Line, Skips, Test, Verdict},
};
use crate::{
    paths, setup,
    vm::{Vm, disk::TESTED, quote, session::Outcome, session::Sink},
};

/// One boot and what runs in it.
pub(crate) struct Boot<'a> {
    pub(crate) kind: Kind,
    /// Run what depends on the kernel on this one, too, whichever it is.
    pub(crate) all: bool,
    pub(crate) filter: Option<&'a str>,
    pub(crate) limit: Duration,
    pub(crate) programs: &'a [(PathBuf, String)],
    pub(crate) skips: &'a Skips,
}

impl Boot<'_> {
    /// Boots and collects the verdicts. Whatever goes wrong with the boot is a failed row.
    pub(crate) fn run(&self) -> Result<(Vec<Row>, BootCoverage)> {
        let place = self.kind.place();
        let mut command = "premod-vm-test".to_owned();
        if let Some(filter) = self.filter {
            command = format!("{command} {}", quote(filter));
        }
        let lsm = if self.kind.bpf_lsm { "on" } else { "off" };
        let among = self.kind.words(self.all);
        let environment = [
            ("PREMOD_LSM", lsm),
            ("PREMOD_BOOTS", &among),
            ("RUST_BACKTRACE", "0"),
        ];
        let mut append = vec![PERSISTENT.to_owned()];
        append.extend(self.kind.preempt.map(|mode| format!("preempt={mode}")));
        let vm = Vm {
            filesystems: TESTED.to_vec(),
            programs: self.programs.to_vec(),
            bpf_lsm: self.kind.bpf_lsm,
            memory: MEMORY,
            append,
            environment: environment
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .to_vec(),
            timeout: Some(self.limit),
            ..Vm::new(setup::kernel(self.kind.series)?, command)
        };
        eprintln!("test: kernel {place} ({}) ...", vm.kernel.release);
        let start = Instant::now();
        let details = paths::vm()
            .join("log")
            .join(format!("test-{place}.details"));
        let mut collector = Collector::create(&place, &details)?;
        let report = vm.run(&format!("test-{place}"), &mut collector)?;
        collector.finish();
        let seconds = start.elapsed().as_secs_f32();
        let mut rows: Vec<Row> = collector
            .tests
            .iter()
            .map(|test| self.judge(test, &place, &details))
            .collect();
        if let Some(reason) = collector.problem(&report.outcome) {
            let log = paths::shown(&report.log);
            rows.push(Row {
                place: Some(place.clone()),
                seconds,
                ..Row::failure("the boot as a whole", format!("{reason} (log: {log})"))
            });
        }
        let failed = rows.iter().filter(|row| row.failed()).count();
        let boot = report.boot.map_or(0.0, |boot| boot.as_secs_f32());
        eprintln!(
            "test: kernel {place}: {} verdicts, {failed} failed ({seconds:.0} s, {boot:.1} s of \
             it to boot)",
            collector.ran()
        );
        if failed > 0 {
            let details = fs::read_to_string(&details).unwrap_or_default();
            for line in details.lines() {
                eprintln!("  {place} | {line}");
            }
        }
        let coverage = BootCoverage {
            kernel: place,
            release: vm.kernel.release.clone(),
            cells: collector.cells,
        };
        Ok((rows, coverage))
    }

    /// The row of one verdict: a skip that nobody expects is a failure.
    fn judge(&self, test: &Test, place: &str, details: &Path) -> Row {
        let mut reason = test.reason.clone();
        let Kind {
            series, bpf_lsm, ..
        } = self.kind;
        let unexpected = test.verdict == Verdict::Skip && !self.skips.expect(test, series, bpf_lsm);
        let verdict = if unexpected {
            Verdict::Fail
        } else {
            test.verdict
        };
        if unexpected {
            let given = reason.as_deref().unwrap_or("no reason given");
            reason = Some(format!("skipped and not among the expected skips: {given}"));
        } else if verdict == Verdict::Fail {
            let given = reason.as_deref().unwrap_or("no reason given");
            reason = Some(format!("{given} (details: {})", paths::shown(details)));
        }
        Row {
            name: test.test.clone(),
            place: Some(place.to_owned()),
            fs: test.fs.clone(),
            verdict,
            seconds: test.seconds,
            reason,
            counts: None,
        }
    }
}

/// The cells that one boot has filled in.
pub(crate) struct BootCoverage {
    /// The name of the boot's column.
    pub(crate) kernel: String,
    pub(crate) release: String,
    pub(crate) cells: Vec<CoverageCell>,
}

/// Megabytes of memory; a part of them is the storage of the DAX tests.
const MEMORY: u32 = 2560;
/// Two devices, of a size that mkfs.ext4 and mkfs.xfs take.
const PERSISTENT: &str = "memmap=64M!1536M memmap=384M!1600M";

/// How often a running boot shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Takes the test program's output as it comes.
struct Collector {
    place: String,
    tests: Vec<Test>,
    cells: Vec<CoverageCell>,
    done: Option<usize>,
    garbage: Option<String>,
    unfinished: Vec<u8>,
    details: File,
    said: Instant,
}

impl Collector {
    fn create(place: &str, details: &Path) -> Result<Self> {
        let parent = details.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("mkdir {}", parent.display()))?;
        let shown = || format!("cannot create {}", details.display());
        Ok(Self {
            place: place.to_owned(),
            tests: Vec::new(),
            cells: Vec::new(),
            done: None,
            garbage: None,
            unfinished: Vec::new(),
            details: File::create(details).with_context(shown)?,
            said: Instant::now(),
        })
    }

    fn line(&mut self, line: &str) {
        match Line::parse(line) {
            Ok(Line::Done { done }) => self.done = Some(done),
            Ok(Line::Cell(cell)) => self.cells.push(cell),
            Ok(Line::Test(test)) => self.test(test),
            Err(error) => {
                self.garbage.get_or_insert(format!("{error:#}"));
            }
        }
    }

    fn test(&mut self, test: Test) {
        let Test {
            verdict, seconds, ..
        } = test;
        let due = verdict == Verdict::Fail || self.said.elapsed() > HEARTBEAT;
        if due && verdict != Verdict::LeftOut {
            self.said = Instant::now();
            eprintln!(
                "test: kernel {}: {} verdicts, now {} {}: {verdict:?}",
                self.place,
                self.ran() + 1,
                test.test,
                test.fs.as_deref().unwrap_or_default(),
            );
        }
        if verdict != Verdict::LeftOut {
            // Below what the test has said, for whoever looks for the time.
            drop(writeln!(
                self.details,
                "--- {verdict:?} after {seconds:.1} s"
            ));
        }
        self.tests.push(test);
    }

    /// How many tests have run.
    fn ran(&self) -> usize {
        let ran = |test: &&Test| test.verdict != Verdict::LeftOut;
        self.tests.iter().filter(ran).count()
    }

    /// Takes what follows the last newline.
    fn finish(&mut self) {
        if !self.unfinished.is_empty() {
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.unfinished)).into_owned();
            self.line(&line);
        }
    }

    /// What is wrong with the boot as a whole, if anything is.
    fn problem(&self, outcome: &Outcome) -> Option<String> {
        match outcome {
            Outcome::Complaint(line) => return Some(format!("the kernel complained: {line}")),
            Outcome::Timeout(when) => return Some(format!("the time was up {when}")),
            Outcome::Failed(reason) => return Some(reason.clone()),
            Outcome::Unread => return Some("it was interrupted".to_owned()),
            Outcome::Exited(_) => {}
        }
        if let Some(garbage) = &self.garbage {
            return Some(garbage.clone());
        }
        let failed = self.tests.iter().any(|test| test.verdict == Verdict::Fail);
        match (self.done, outcome) {
            (None, _) => Some("the test program ended before it was done".to_owned()),
            (Some(done), _) if done != self.tests.len() => Some(format!(
                "it announced {done} verdicts and gave {}",
                self.tests.len()
            )),
            (Some(_), Outcome::Exited(status)) if *status != 0 && !failed => Some(format!(
                "the test program ended with {status} though nothing failed"
            )),
            _ => None,
        }
    }
}

impl Sink for Collector {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unfinished.extend(bytes);
        while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unfinished.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.details.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(output: &[&str]) -> Collector {
        let mut collector = Collector::create("6.1", Path::new("/dev/null")).unwrap();
        for part in output {
            collector.stdout(part.as_bytes()).unwrap();
        }
        collector.finish();
        collector
    }

    #[test]
    fn verdicts_may_come_in_pieces() {
        let collector = collector(&[
            "{\"test\":\"a\",\"ver",
            "dict\":\"pass\"}\n{\"do",
            "ne\":1}",
        ]);
        assert_eq!(collector.tests.len(), 1);
        assert_eq!(collector.problem(&Outcome::Exited(0)), None);
    }

    #[test]
    fn a_boot_must_end_with_done_and_the_right_number() {
        let verdict = "{\"test\":\"a\",\"verdict\":\"pass\"}\n";
        let problem = |output: &[&str], outcome| collector(output).problem(&outcome).is_some();
        assert!(problem(&[verdict], Outcome::Exited(0)));
        assert!(problem(&[verdict, "{\"done\":2}\n"], Outcome::Exited(0)));
        assert!(problem(
            &[verdict, "thread panicked\n", "{\"done\":1}\n"],
            Outcome::Exited(0)
        ));
        assert!(problem(&[verdict, "{\"done\":1}\n"], Outcome::Exited(1)));
        assert!(problem(
            &[verdict, "{\"done\":1}\n"],
            Outcome::Timeout("in the end")
        ));
        assert!(!problem(&[verdict, "{\"done\":1}\n"], Outcome::Exited(0)));
    }
}
