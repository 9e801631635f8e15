//! How freezes were that ended behind everybody's back: `premod freeze -f` has returned long ago, the time was up, and
//! nobody was there to be told of a violation. Whoever comes to thaw the files is told.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::file_id::FileId;
use crate::{freeze::report::SetReport, output::json_line};

/// Keeps a report for whoever comes.
pub(super) fn keep(directory: &Path, report: &SetReport) -> io::Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(directory);
    if let Err(error) = made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let name = format!("{}-{}", report.pid.0, report.began.as_nanosecond());
    let unready = directory.join(format!("{name}.new"));
    fs::write(&unready, json_line(report))?;
    fs::rename(unready, directory.join(name))
}

/// The report about this file, which is not kept any longer.
pub(super) fn take(directory: &Path, file: FileId) -> Option<SetReport> {
    let mut all = reports(directory);
    let (path, report) = all.find(|(_, report)| is_about(report, &[file]))?;
    // Whoever cannot remove it is told again the next time.
    let _ = fs::remove_file(path);
    Some(report)
}

/// All reports, which are not kept any longer.
pub(super) fn take_all(directory: &Path) -> Vec<SetReport> {
    let take = |(path, report)| fs::remove_file(path).ok().map(|()| report);
    reports(directory).filter_map(take).collect()
}

/// These files are frozen anew: what was before concerns nobody any more.
pub(super) fn forget(directory: &Path, files: &[FileId]) {
    for (path, report) in reports(directory) {
        if is_about(&report, files) {
            let _ = fs::remove_file(path);
        }
    }
}

fn reports(directory: &Path) -> impl Iterator<Item = (PathBuf, SetReport)> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let path = entry.path();
        let report = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some((path, report))
    })
}

fn is_about(report: &SetReport, files: &[FileId]) -> bool {
    report.files.iter().any(|file| {
        let id = FileId {
            device: file.device,
            inode: file.inode,
        };
        files.contains(&id)
    })
}
