//! Telling freezes to thaw, and what had become of those that have ended already.

use std::path::PathBuf;

use super::{
    control::{Peer, Request, ask_all},
    file_id::FileId,
    registry::Registry,
};
use crate::{Error, freeze::report::SetReport};

/// What has come of telling one freeze to thaw.
#[derive(Debug)]
pub enum Answer {
    /// It has let everybody go.
    Thawed(SetReport),
    /// It had ended before, behind everybody's back, and had been violated. That is told once.
    HadEnded(SetReport),
    /// It has not answered, or there is none.
    Failed(Error),
}

impl Answer {
    /// How the freeze was, if it is known.
    #[must_use]
    pub fn report(&self) -> Option<&SetReport> {
        match self {
            Self::Thawed(report) | Self::HadEnded(report) => Some(report),
            Self::Failed(_) => None,
        }
    }
}

/// Whom to ask, and the file that led there.
type Asked = (Peer, Option<(FileId, PathBuf)>);

impl Registry {
    /// Thaws the freezes that these files belong to, each once. `registry` is that of this machine, if there is one.
    ///
    /// # Errors
    /// If it cannot be told whose a file is. Nobody was asked then.
    pub async fn thaw_files(
        registry: Option<&Self>,
        files: Vec<(FileId, PathBuf)>,
    ) -> Result<Vec<Answer>, Error> {
        let mut asked: Vec<Asked> = Vec::new();
        let mut unanswered = Vec::new();
        for (file, path) in files {
            let owner = match registry {
                Some(registry) => registry.owner(file)?,
                None => None,
            };
            match owner {
                // One premod is asked once, whatever it has of these files.
                Some(peer) if asked.iter().any(|(other, _)| other.pid() == peer.pid()) => {}
                Some(peer) => asked.push((peer, Some((file, path)))),
                None => unanswered.push((file, Error::NotFrozen { path })),
            }
        }
        let mut answers = Vec::new();
        unanswered.extend(thaw(asked, &mut answers).await);
        answers.extend(unanswered.into_iter().map(|(file, error)| {
            let ended = registry.and_then(|registry| registry.take_ended(file));
            ended.map_or(Answer::Failed(error), Answer::HadEnded)
        }));
        Ok(answers)
    }

    /// Thaws these freezes, and tells of all that had ended before.
    pub async fn thaw_all(&self, peers: Vec<Peer>) -> Vec<Answer> {
        let asked = peers.into_iter().map(|peer| (peer, None)).collect();
        let mut answers = Vec::new();
        thaw(asked, &mut answers).await;
        answers.extend(self.take_all_ended().into_iter().map(Answer::HadEnded));
        answers
    }
}

/// Asks all of them; the files of those that have not answered, and why. They may have ended meanwhile.
async fn thaw(asked: Vec<Asked>, answers: &mut Vec<Answer>) -> Vec<(FileId, Error)> {
    let (peers, files): (Vec<Peer>, Vec<_>) = asked.into_iter().unzip();
    let mut silent = Vec::new();
    for (answer, file) in ask_all(&peers, Request::Thaw).await.into_iter().zip(files) {
        match (answer, file) {
            (Ok(Some(report)), _) => answers.push(Answer::Thawed(report)),
            (Ok(None), Some((file, path))) => silent.push((file, Error::NotFrozen { path })),
            (Err(error), Some((file, _))) => silent.push((file, error)),
            // It has ended by itself.
            (Ok(None), None) => {}
            (Err(error), None) => answers.push(Answer::Failed(error)),
        }
    }
    silent
}
