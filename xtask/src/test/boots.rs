//! The boots of a run, and which of the VM's tests each is for.

use super::{table::Row, verdict::Verdict};

/// A group of the VM's tests. Each test names its own: `Boots` in premod/tests/vm/harness.rs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// What must be known of a kernel before anything else.
    Core,
    /// What depends on the kernel.
    Kernel,
    /// What does not.
    CommandLine,
}

use Group::{CommandLine, Core, Kernel};

impl Group {
    /// Its word in `PREMOD_TESTS`.
    fn word(self) -> &'static str {
        match self {
            Core => "core",
            Kernel => "kernel",
            CommandLine => "command-line",
        }
    }
}

/// A kernel as it is booted, with the groups of tests that run on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) series: &'static str,
    /// Whether bpf is among its security modules.
    pub(crate) bpf_lsm: bool,
    groups: &'static [Group],
}

/// The oldest kernel and the newest have all that depends on the kernel; those between them have the core, and with
/// `--all` the same.
pub(crate) const KINDS: [Kind; 5] = [
    Kind {
        series: "6.1",
        bpf_lsm: true,
        groups: &[Core, Kernel],
    },
    Kind {
        series: "6.12",
        bpf_lsm: true,
        groups: &[Core, CommandLine],
    },
    Kind {
        series: "6.12",
        bpf_lsm: false,
        groups: &[Core],
    },
    Kind {
        series: "6.18",
        bpf_lsm: true,
        groups: &[Core],
    },
    Kind {
        series: "7",
        bpf_lsm: true,
        groups: &[Core, Kernel],
    },
];

impl Kind {
    /// The name of its column.
    pub(crate) fn place(&self) -> String {
        let lsm = if self.bpf_lsm { "" } else { "-nolsm" };
        format!("{}{lsm}", self.series)
    }

    /// What `PREMOD_TESTS` says to the test program.
    pub(crate) fn words(&self, all: bool) -> String {
        let groups = self.groups(all);
        groups
            .iter()
            .map(|group| group.word())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Roughly how long its tests take, beside the others.
    pub(crate) fn size(&self, all: bool) -> usize {
        let size = |group: &Group| match group {
            Core => 2,
            CommandLine => 3,
            Kernel => 4,
        };
        self.groups(all).iter().map(size).sum()
    }

    fn groups(&self, all: bool) -> Vec<Group> {
        let mut groups = self.groups.to_vec();
        if all && !groups.contains(&Kernel) {
            groups.push(Kernel);
        }
        groups
    }
}

/// Says what was left out, if anything was, and how to run it.
pub(crate) fn left_out(rows: &[Row]) -> Option<String> {
    let mut places: Vec<(&str, usize)> = Vec::new();
    for row in rows.iter().filter(|row| row.verdict == Verdict::LeftOut) {
        let place = row.place.as_deref().unwrap_or_default();
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
            "Tests left out, because they run on other kernels: {}. `cargo xtask test --all` runs all.",
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
    fn every_group_runs_where_it_should() {
        let on = |series: &str, group| {
            let mut kinds = KINDS
                .iter()
                .filter(|kind| kind.series == series && kind.bpf_lsm);
            kinds.any(|kind| kind.groups.contains(&group))
        };
        assert!(SERIES.iter().all(|series| on(series, Core)));
        let [oldest, .., newest] = SERIES;
        assert!(on(oldest, Kernel) && on(newest, Kernel));
        assert!(SERIES.iter().any(|series| on(series, CommandLine)));
        assert_eq!(KINDS[1].words(false), "core,command-line");
        assert_eq!(KINDS[1].words(true), "core,command-line,kernel");
    }

    #[test]
    fn what_is_left_out_is_told_and_what_never_runs_fails() {
        let row = |name: &str, place: &str, verdict| Row {
            place: Some(place.to_owned()),
            verdict,
            ..Row::failure(name, String::new())
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
