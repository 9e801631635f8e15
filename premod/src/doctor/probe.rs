//! The live test: modify a scratch file in three ways and see whether premod says so beforehand.

use std::{
    fs::File,
    io::Write,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    time::Duration,
};

use rustix::mm::{MapFlags, ProtFlags};

use crate::{
    Error, Tracer,
    events::{FirstDirty, MonotonicNs, Op, Record},
    kernel::detach,
};

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(5);
const LENGTH: usize = 4096;

/// One modification of the live test.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Probed {
    /// What was done.
    #[serde(serialize_with = "name")]
    pub op: Op,
    /// One event came, marked as before the modification, and was made before it.
    pub seen: bool,
}

fn name<S: serde::Serializer>(op: &Op, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(op.name())
}

/// Does the live test in `directory`. The scratch file is removed again.
///
/// # Errors
/// If the directory cannot be traced or written.
pub async fn run(directory: &Path) -> Result<Vec<Probed>, Error> {
    let path = directory.join(format!(".premod-doctor-{}", std::process::id()));
    let result = probe(&path).await;
    // If it was not created there is nothing to remove.
    let _ = std::fs::remove_file(&path);
    result
}

async fn probe(path: &Path) -> Result<Vec<Probed>, Error> {
    let failed = |source: std::io::Error| Error::Path {
        path: path.to_owned(),
        source,
    };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(&[0; LENGTH])
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    let mapping = Mapping::new(&file).map_err(failed)?;
    let mut tracer = Tracer::builder().path(path).include_own(true).start()?;

    let mut probed = Vec::new();
    for op in [Op::Write, Op::Mmap, Op::Truncate] {
        match op {
            Op::Write => file.write_all_at(b"1", 0).map_err(failed)?,
            Op::Mmap => mapping.store(),
            _ => file.set_len(LENGTH as u64 / 2).map_err(failed)?,
        }
        let after = crate::events::now();
        let event = next(&mut tracer).await;
        probed.push(Probed {
            op,
            seen: event.is_some_and(|event| is_as_promised(&event, op, after)),
        });
        file.sync_all().map_err(failed)?;
    }
    detach::behind(|| drop(tracer));
    Ok(probed)
}

fn is_as_promised(event: &FirstDirty, op: Op, after: MonotonicNs) -> bool {
    event.op == op && event.pre && event.mono < after
}

async fn next(tracer: &mut Tracer) -> Option<FirstDirty> {
    match tokio::time::timeout(PATIENCE, tracer.next()).await {
        Ok(Some(Record::FirstDirty(event))) => Some(event),
        _ => None,
    }
}

/// A shared mapping of the scratch file.
struct Mapping(*mut u8);

impl Mapping {
    fn new(file: &File) -> std::io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LENGTH,
                protection,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )
        }?;
        Ok(Self(address.cast()))
    }

    fn store(&self) {
        // SAFETY: inside of the mapping, and the file is that long.
        unsafe { self.0.write_volatile(b'2') };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrows from it.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), LENGTH) };
    }
}
