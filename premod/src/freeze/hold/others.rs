//! Freezes of other premods: a process that two of them have stopped goes on when both have let it go.

use std::path::Path;

use aya::maps::{HashMap, MapData};
use premod_common::guard::{HeldProcess, Phase};

use crate::{
    events,
    freeze::guards::{Controls, pins},
};

/// Those that live.
pub(crate) struct Others(Vec<Controls>);

impl Others {
    /// All but the one whose maps are pinned in this directory.
    pub(in crate::freeze) fn than(own: &Path) -> Self {
        // Where they cannot be found, nobody has pinned any.
        let all = pins::all().unwrap_or_default().into_iter();
        let lives =
            |directory: &std::path::PathBuf| directory != own && !pins::is_orphan(directory);
        let controls = all
            .filter(lives)
            .filter_map(|it| Controls::pinned(&it).ok());
        Self(controls.collect())
    }

    /// Whether one of them holds this process, which began so many nanoseconds after boot.
    pub(super) fn hold(&self, pid: u32, started: u64) -> bool {
        self.have(pid, started, |controls| [&controls.held, &controls.seized])
    }

    /// Whether one of them holds it by SIGSTOP, so that it must not be continued.
    pub(super) fn stop(&self, pid: u32, started: u64) -> bool {
        self.have(pid, started, |controls| [&controls.held])
    }

    fn have<const COUNT: usize>(
        &self,
        pid: u32,
        started: u64,
        lists: impl Fn(&Controls) -> [&HashMap<MapData, u32, HeldProcess>; COUNT],
    ) -> bool {
        let now = events::now().0;
        self.0.iter().any(|controls| {
            let closed = controls
                .switch
                .get(&0, 0)
                .is_ok_and(|switch| switch.phase_at(now) == Phase::Closed);
            let is = |list: &HashMap<MapData, u32, HeldProcess>| {
                list.get(&pid, 0).is_ok_and(|held| held.started == started)
            };
            closed && lists(controls).into_iter().any(is)
        })
    }
}
