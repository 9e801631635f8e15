//! `premod thaw`

use std::path::PathBuf;

use anyhow::Result;

use super::{Names, complain, recover, show};
use crate::{
    Error,
    exit_code::ExitCode,
    freeze::{
        registry::{FileId, Registry},
        report::SetReport,
        thaw::Answer,
    },
    output::{json_line, printable, sets},
};

/// What `premod thaw` was asked to do.
#[derive(Debug)]
pub struct Settings {
    /// What to thaw.
    pub what: What,
    /// Whether stdout gets JSON.
    pub json: bool,
}

/// What to thaw.
#[derive(Debug)]
pub enum What {
    /// The freezes that these files belong to.
    Files(Names),
    /// Every freeze.
    All,
    /// What a premod that was killed has left stopped.
    Recover,
}

/// Thaws, and tells what had happened; returns the exit status.
///
/// # Errors
/// If the run directory cannot be used, or stdout cannot be written.
pub async fn run(settings: Settings) -> Result<u8> {
    let code = match settings.what {
        What::Recover => recover::run(settings.json)?,
        What::All => thaw_all(Registry::find()?, settings.json).await?,
        What::Files(files) => {
            let (files, codes) = identified(files.read()?);
            let registry = Registry::find()?;
            thaw_files(registry, files, codes, settings.json).await?
        }
    };
    Ok(code as u8)
}

/// The files that there are; about the others it complains.
fn identified(paths: Vec<PathBuf>) -> (Vec<(FileId, PathBuf)>, Vec<ExitCode>) {
    let mut codes = Vec::new();
    let identify = |path: PathBuf| match FileId::at(&path) {
        Ok(file) => Some((file, path)),
        Err(source) => {
            codes.push(complain(&Error::Thaw { path, source }));
            None
        }
    };
    let files = paths.into_iter().filter_map(identify).collect();
    (files, codes)
}

async fn thaw_all(registry: Option<Registry>, json: bool) -> Result<ExitCode> {
    let peers = match &registry {
        Some(registry) => registry.peers()?,
        None => Vec::new(),
    };
    if peers.is_empty() {
        say!("premod: nothing is frozen");
    }
    let answers = match registry {
        Some(registry) => registry.thaw_all(peers).await,
        None => Vec::new(),
    };
    conclude(&answers, Vec::new(), json)
}

async fn thaw_files(
    registry: Option<Registry>,
    files: Vec<(FileId, PathBuf)>,
    codes: Vec<ExitCode>,
    json: bool,
) -> Result<ExitCode> {
    let answers = Registry::thaw_files(registry.as_ref(), files).await?;
    conclude(&answers, codes, json)
}

/// Says what has come of it, and adds it to what had gone wrong before.
fn conclude(answers: &[Answer], mut codes: Vec<ExitCode>, json: bool) -> Result<ExitCode> {
    for answer in answers {
        match answer {
            Answer::Thawed(report) => tell(report),
            Answer::HadEnded(report) => {
                say!(
                    "premod: the freeze of {} by premod {} had ended before",
                    named(report),
                    report.pid.0
                );
                tell_violations(report);
            }
            Answer::Failed(error) => codes.push(complain(error)),
        }
    }
    let reports = || answers.iter().filter_map(Answer::report);
    codes.extend(
        reports()
            .filter(|report| report.is_violated())
            .map(|_| ExitCode::Violated),
    );
    if json {
        show(&reports().flat_map(json_line).collect::<Vec<_>>())?;
    }
    Ok(gravest(&codes))
}

/// What had happened to the files of one set.
fn tell(report: &SetReport) {
    let SetReport { pid, .. } = report;
    let files = named(report);
    let (refused, killed) = (report.refused, report.killed);
    say!(
        "premod: thawed {files} of premod {}: {refused} calls refused, {killed} processes killed",
        pid.0
    );
    for held in &report.held {
        let why = match held.stopped_by_others {
            true => "somebody else has stopped it too",
            false => "premod could not continue it",
        };
        say!(
            "premod: still stopped: {}: {why}",
            sets::process(held.pid, held.tid, &held.comm)
        );
    }
    tell_violations(report);
}

/// The files of a set, in words.
fn named(report: &SetReport) -> String {
    match report.files.as_slice() {
        [file] => printable(&file.path.0),
        files => format!("{} files", files.len()),
    }
}

fn tell_violations(report: &SetReport) {
    if report.is_violated() {
        say!("premod: {}", sets::violated(&report.violations));
        for violation in &report.violations.first {
            say!("premod: violation: {}", sets::violation(violation));
        }
    }
}

/// Of several, the one that a caller must not overlook.
fn gravest(codes: &[ExitCode]) -> ExitCode {
    let gravity = |code: &ExitCode| match code {
        ExitCode::Violated => 3,
        ExitCode::NotFrozen => 1,
        ExitCode::Ok => 0,
        _ => 2,
    };
    codes
        .iter()
        .copied()
        .max_by_key(gravity)
        .unwrap_or(ExitCode::Ok)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;
    use crate::freeze::{
        control::Request,
        tests::{Directory, answering, report},
    };

    #[test]
    fn a_violation_outweighs_whatever_else_went_wrong() {
        use ExitCode::{BadPath, Failure, NotFrozen, Ok, Violated};
        assert_eq!(gravest(&[]), Ok);
        assert_eq!(gravest(&[NotFrozen]), NotFrozen);
        assert_eq!(gravest(&[Failure, NotFrozen]), Failure);
        assert_eq!(gravest(&[NotFrozen, BadPath]), BadPath);
        assert_eq!(gravest(&[NotFrozen, Violated, Failure]), Violated);
    }

    #[tokio::test]
    async fn the_exit_status_tells_what_had_happened() {
        let directory = Directory::new();
        let registry = directory.registry();
        let paths = ["one", "two", "other"].map(|name| directory.file(name));
        let files = paths.each_ref().map(|path| File::open(path).unwrap());
        let thaw = |paths: &[&PathBuf]| {
            let (files, codes) = identified(paths.iter().map(|path| (*path).clone()).collect());
            thaw_files(Some(registry.clone()), files, codes, false)
        };
        let missing = directory.path.join("missing");
        assert_eq!(thaw(&[&paths[0]]).await.unwrap(), ExitCode::NotFrozen);
        assert_eq!(thaw(&[&missing]).await.unwrap(), ExitCode::BadPath);

        let claim = registry
            .claim(&[files[0].as_fd(), files[1].as_fd()])
            .unwrap();
        // Nobody listens: it has not frozen anything yet.
        assert_eq!(thaw(&[&paths[0]]).await.unwrap(), ExitCode::NotFrozen);
        let engine = answering(claim.listen().unwrap(), |_| Some(report(0)));
        assert_eq!(thaw(&[&paths[0], &paths[1]]).await.unwrap(), ExitCode::Ok);
        assert_eq!(
            thaw(&[&paths[0], &paths[2]]).await.unwrap(),
            ExitCode::NotFrozen
        );
        let all = thaw_all(Some(registry.clone()), true).await.unwrap();
        assert_eq!(all, ExitCode::Ok);
        assert_eq!(engine.end().await, vec![Request::Thaw; 3]);

        let engine = answering(claim.listen().unwrap(), |_| Some(report(1)));
        assert_eq!(
            thaw(&[&paths[2], &paths[1]]).await.unwrap(),
            ExitCode::Violated
        );
        engine.end().await;
        let engine = answering(claim.listen().unwrap(), |_| None);
        assert_eq!(thaw(&[&paths[0]]).await.unwrap(), ExitCode::Failure);
        engine.end().await;

        // It has ended behind everybody's back: that it was violated is told once.
        let mut ended = report(1);
        let FileId { device, inode } = FileId::at(&paths[0]).unwrap();
        (ended.files[0].device, ended.files[0].inode) = (device, inode);
        claim.keep(&ended).unwrap();
        assert_eq!(
            thaw(&[&paths[0], &paths[2]]).await.unwrap(),
            ExitCode::Violated
        );
        assert_eq!(thaw(&[&paths[0]]).await.unwrap(), ExitCode::NotFrozen);
        claim.keep(&ended).unwrap();
        let all = thaw_all(Some(registry.clone()), false).await.unwrap();
        assert_eq!(all, ExitCode::Violated);
        claim.keep(&ended).unwrap();
        drop(claim);
        registry.claim(&[files[0].as_fd()]).unwrap();
        assert_eq!(thaw(&[&paths[0]]).await.unwrap(), ExitCode::NotFrozen);
        assert_eq!(
            thaw_all(Some(registry.clone()), false).await.unwrap(),
            ExitCode::Ok
        );
    }
}
