//! What runs in virtual machines: the boots with their tests, and what premod costs. Several run at a time, because one
//! guest leaves much of two CPUs idle.

use std::{
    cmp::Reverse,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::Receiver,
    },
    thread,
    time::Instant,
};

use anyhow::Result;

use super::{
    guest::{Boot, BootCoverage},
    parts::Parts,
    table::Row,
    verdict::Verdict,
};
use crate::bench;

/// The kernel on which instructions are counted.
pub(crate) const MEASURED: &str = "6.12";

/// How the rows of what premod costs begin.
pub(crate) const COSTS: &str = "costs";

/// One virtual machine.
pub(crate) enum Job<'a> {
    Boot(Boot<'a>),
    /// Counts the instructions that premod costs.
    Costs,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Ran {
    pub(crate) rows: Vec<Row>,
    pub(crate) coverage: Vec<BootCoverage>,
}

impl Job<'_> {
    fn name(&self) -> String {
        match self {
            Self::Boot(boot) => boot.kind.place(),
            Self::Costs => COSTS.to_owned(),
        }
    }

    /// Roughly how long it takes, beside the others.
    fn size(&self) -> usize {
        match self {
            Self::Boot(boot) => boot.kind.size(boot.all),
            Self::Costs => 1,
        }
    }

    fn run(&self) -> Result<Ran> {
        match self {
            Self::Boot(boot) => {
                let (rows, coverage) = boot.run()?;
                let coverage = vec![coverage];
                Ok(Ran { rows, coverage })
            }
            Self::Costs => Ok(Ran {
                rows: costs(),
                ..Ran::default()
            }),
        }
    }
}

/// Runs all, `together` at a time, and one more at a time when nobody can send to `others` any more: what ran beside has
/// ended. Returns what came of them in the order in which they are given.
pub(crate) fn run(
    jobs: &[Job<'_>],
    together: usize,
    others: Receiver<()>,
    parts: &Parts,
) -> Result<Ran> {
    // The longest first: at the end nothing long is left alone.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|number| Reverse(jobs[*number].size()));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some(&number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let job = &jobs[number];
            let ran = parts.time(&job.name(), || job.run());
            if let Ok(mut results) = results.lock() {
                results.push((number, ran));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..together.min(jobs.len()) {
            scope.spawn(work);
        }
        scope.spawn(move || {
            let _ = others.recv();
            work();
        });
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(number, _)| *number);
    let mut all = Ran::default();
    for (_, ran) in results {
        let ran = ran?;
        all.rows.extend(ran.rows);
        all.coverage.extend(ran.coverage);
    }
    Ok(all)
}

/// What premod costs, a row for each operation.
fn costs() -> Vec<Row> {
    let start = Instant::now();
    eprintln!("test: kernel {MEASURED}: counting instructions ...");
    let judged = match bench::gate(MEASURED) {
        Ok(judged) => judged,
        Err(error) => return vec![Row::failure(COSTS, format!("{error:#}"))],
    };
    let seconds = start.elapsed().as_secs_f32() / judged.len().max(1) as f32;
    let row = |(name, worse): (String, Option<String>)| Row {
        name,
        place: Some(MEASURED.to_owned()),
        fs: None,
        verdict: if worse.is_some() {
            Verdict::Fail
        } else {
            Verdict::Pass
        },
        seconds,
        reason: worse,
        counts: None,
    };
    judged.into_iter().map(row).collect()
}
