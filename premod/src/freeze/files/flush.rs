//! Flushing the files, with an eye on the clock: fsync cannot be interrupted.

use std::{fs::File, io, sync::Arc, thread, time::Instant};

use tokio::{
    sync::oneshot,
    time::{Instant as TokioInstant, timeout_at},
};

/// How a flush ended.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// All is on disk.
    Done,
    /// The deadline has passed; it goes on in a thread of its own.
    Late,
    /// It failed for the file of this number.
    Failed(usize, io::Error),
}

/// The files, which a thread can keep when nobody waits for it any more.
#[derive(Clone)]
pub(crate) struct Flusher(Arc<Vec<Arc<File>>>);

impl Flusher {
    /// For these files.
    pub(crate) fn new(files: impl Iterator<Item = Arc<File>>) -> Self {
        Self(Arc::new(files.collect()))
    }

    /// Writes all dirty pages of all files to disk, and so write-protects them in every mapping
    /// (`folio_mkclean`, 6.1 to 7.x).
    pub(crate) async fn flush(&self, deadline: Instant) -> Flushed {
        let files = Arc::clone(&self.0);
        let (sender, receiver) = oneshot::channel();
        let work = thread::Builder::new().spawn(move || {
            let failed = files
                .iter()
                .enumerate()
                .find_map(|(number, file)| Some((number, file.sync_all().err()?)));
            let _ = sender.send(failed);
        });
        if let Err(error) = work {
            return Flushed::Failed(0, error);
        }
        match timeout_at(TokioInstant::from_std(deadline), receiver).await {
            Err(_) => Flushed::Late,
            Ok(Ok(None)) => Flushed::Done,
            Ok(Ok(Some((number, error)))) => Flushed::Failed(number, error),
            Ok(Err(panic)) => Flushed::Failed(0, io::Error::other(panic)),
        }
    }
}
