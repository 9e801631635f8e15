//! The boots of a run, and which of the VM's tests each is for.

use super::{table::Row, verdict::Verdict};

/// On which boots tests run. Each test names its own: `Boots` in premod/tests/vm/harness.rs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boots {
    /// The core: what must be known of a kernel before anything else.
    Every,
    /// What depends on the kernel.
    OldestAndNewest,
    /// What does not depend on it.
    One,
    /// What depends on how the kernel preempts, beyond what every boot shows.
    Preempted,
}

use Boots::{Every, OldestAndNewest, One, Preempted};

impl Boots {
    /// How the test program calls it.
    fn word(self) -> &'static str {
        match self {
            Every => "every",
            OldestAndNewest => "oldest-and-newest",
            One => "one",
            Preempted => "preempted",
        }
    }
}

/// A kernel as it is booted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) series: &'static str,
    /// Whether bpf is among its security modules.
    pub(crate) bpf_lsm: bool,
    /// How it preempts tasks (`preempt=`), if not as it was built to.
    pub(crate) preempt: Option<&'static str>,
    /// What this boot is among.
    among: &'static [Boots],
}

/// All boots of a whole run.
pub(crate) const KINDS: [Kind; 6] = [
    Kind {
        series: "6.1",
        bpf_lsm: true,
        preempt: None,
        among: &[Every, OldestAndNewest, Preempted],
    },
    Kind {
        series: "6.12",
        bpf_lsm: true,
        preempt: None,
        among: &[Every, One, Preempted],
    },
    Kind {
        series: "6.12",
        bpf_lsm: false,
        preempt: None,
        among: &[Every, Preempted],
    },
    Kind {
        series: "6.12",
        bpf_lsm: true,
        preempt: Some("full"),
        among: &[Preempted],
    },
    Kind {
        series: "6.18",
        bpf_lsm: true,
        preempt: None,
        among: &[Every, Preempted],
    },
    Kind {
        series: "7",
        bpf_lsm: true,
        preempt: None,
        among: &[Every, OldestAndNewest, Preempted],
    },
];

impl Kind {
    /// The name of its column.
    pub(crate) fn place(&self) -> String {
        let lsm = if self.bpf_lsm { "" } else { "-nolsm" };
        let preempt = self.preempt.map(|mode| format!("-preempt-{mode}"));
        format!("{}{lsm}{}", self.series, preempt.unwrap_or_default())
    }

    /// What `PREMOD_BOOTS` says to the test program. With `all`, what depends on the kernel runs on this one, too,
    /// whichever it is.
    pub(crate) fn words(&self, all: bool) -> String {
        let words = self.among(all).into_iter().map(Boots::word);
        words.collect::<Vec<_>>().join(",")
    }

    /// Roughly how long its tests take, beside the others.
    pub(crate) fn size(&self, all: bool) -> usize {
        let size = |boots| match boots {
            Every => 2,
            One => 3,
            OldestAndNewest => 7,
            Preempted => 1,
        };
        self.among(all).into_iter().map(size).sum()
    }

    /// Whether it has the core, and is not for a few tests only.
    fn is_whole(&self) -> bool {
        self.among.contains(&Every)
    }

    fn among(&self, all: bool) -> Vec<Boots> {
        let mut among = self.among.to_vec();
        if all && self.is_whole() && !among.contains(&OldestAndNewest) {
            among.push(OldestAndNewest);
        }
        among
    }
}

/// Says what was left out on the kernels between the oldest and the newest, if anything was, and how to run it.
pub(crate) fn left_out(rows: &[Row]) -> Option<String> {
    let mut places: Vec<(&str, usize)> = Vec::new();
    let depends = |row: &&Row| row.reason.as_deref() == Some(OldestAndNewest.word());
    let left_out = rows.iter().filter(|row| row.verdict == Verdict::LeftOut);
    let is_whole = |place| {
        KINDS
            .iter()
            .any(|kind| kind.is_whole() && kind.place() == place)
    };
    for row in left_out.filter(depends) {
        let place = row.place.as_deref().unwrap_or_default();
        if !is_whole(place) {
            continue;
        }
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, count)) => *count += 1,
            None => places.push((place, 1)),
        }
    }
    let places: Vec<String> = places
        .iter()
        .map(|(place, count)| format!("{count} on {place}"))
        .collect();
    (!places.is_empty()).then(|| {
        format!(
            "Tests left out, because they ran on the oldest and the newest kernel: {}. `cargo xtask test --all` runs them.",
            places.join(", ")
        )
    })
}

/// A failure for each test that every boot has left out.
pub(crate) fn run_nowhere(rows: &[Row]) -> Vec<Row> {
    let ran = |name: &str| {
        let mut all = rows.iter().filter(|row| row.name == name);
        all.any(|row| row.verdict != Verdict::LeftOut)
    };
    let mut nowhere: Vec<Row> = Vec::new();
    for row in rows.iter().filter(|row| !ran(&row.name)) {
        if nowhere.iter().all(|known| known.name != row.name) {
            nowhere.push(Row::failure(&row.name, "it runs on no kernel".to_owned()));
        }
    }
    nowhere
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::kernels::SERIES;

    #[test]
    fn every_test_has_its_kernels() {
        let on = |series: &str, boots| {
            let mut kinds = KINDS
                .iter()
                .filter(|kind| kind.series == series && kind.bpf_lsm);
            kinds.any(|kind| kind.among.contains(&boots))
        };
        assert!(SERIES.iter().all(|series| on(series, Every)));
        let [oldest, .., newest] = SERIES;
        assert!(on(oldest, OldestAndNewest) && on(newest, OldestAndNewest));
        assert!(SERIES.iter().any(|series| on(series, One)));
        assert_eq!(KINDS[1].words(false), "every,one,preempted");
        assert_eq!(
            KINDS[1].words(true),
            "every,one,preempted,oldest-and-newest"
        );
        let preempts = |kind: &&Kind| kind.preempt.is_some();
        let kind = KINDS.iter().find(preempts).unwrap();
        assert_eq!(kind.place(), "6.12-preempt-full");
        assert_eq!(kind.words(true), "preempted");
    }

    #[test]
    fn what_is_left_out_is_told_and_what_never_runs_fails() {
        let row = |name: &str, place: &str, verdict| Row {
            place: Some(place.to_owned()),
            verdict,
            ..Row::failure(name, "oldest-and-newest".to_owned())
        };
        let mut rows = vec![
            row("store", "6.1", Verdict::Pass),
            row("store", "6.12", Verdict::LeftOut),
        ];
        let told = left_out(&rows).unwrap();
        assert!(
            told.contains("1 on 6.12. `cargo xtask test --all`"),
            "{told}"
        );
        assert!(run_nowhere(&rows).is_empty());
        rows.push(row("lost", "6.1", Verdict::LeftOut));
        rows.push(row("lost", "6.12", Verdict::LeftOut));
        let nowhere = run_nowhere(&rows);
        assert_eq!(nowhere.len(), 1);
        assert!(nowhere[0].failed() && nowhere[0].name == "lost");
        assert_eq!(left_out(&rows[..1]), None);
    }
}
