//! The operations themselves.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, IoSlice, Write as _},
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
    path::Path,
    sync::atomic::Ordering::SeqCst,
};

use rustix::{
    fs::{CWD, FallocateFlags, OFlags, RenameFlags, SeekFrom, fallocate},
    pipe::SpliceFlags,
};

use crate::{
    files::{self, LARGEST, NAMES},
    kinds::Kind,
    mapping::PAGE,
    worker::{Handle, Place, Tools},
};

/// The blocks of all three filesystems, as the VM makes them.
const BLOCK: u64 = 4096;

/// A random part of a file.
struct Range {
    offset: u64,
    length: u64,
}

impl Range {
    /// Any bytes; short more often than long.
    fn any(random: &mut fastrand::Rng) -> Self {
        let longest = [64, 512, 4096, 32768][random.usize(0..4)];
        let length = random.u64(1..=longest);
        let offset = random.u64(0..LARGEST - length);
        Self { offset, length }
    }

    /// Whole blocks.
    fn blocks(random: &mut fastrand::Rng) -> Self {
        let blocks = random.u64(1..=4);
        Self {
            offset: random.u64(0..LARGEST / BLOCK - blocks) * BLOCK,
            length: blocks * BLOCK,
        }
    }

    fn of<'a>(&self, noise: &'a [u8], random: &mut fastrand::Rng) -> &'a [u8] {
        let length = self.length as usize;
        let begin = random.usize(0..=noise.len() - length);
        &noise[begin..begin + length]
    }
}

/// Does something that concerns more than one file.
pub(crate) fn on_filesystem(kind: Kind, traced: &Path) -> io::Result<()> {
    match kind {
        Kind::Sync => rustix::fs::sync(),
        Kind::Syncfs => rustix::fs::syncfs(File::open(traced)?)?,
        Kind::DropCaches => fs::write("/proc/sys/vm/drop_caches", "3")?,
        // Makes premod find out anew what lies below its PATHs. Two at once: one of them fails.
        Kind::RenameDirectory => {
            fs::rename(traced.join("moving"), traced.join("moved"))?;
            fs::rename(traced.join("moved"), traced.join("moving"))?;
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(())
}

/// Does something with one file. Returns whether a modification was completed.
pub(crate) fn on_file(
    kind: Kind,
    handle: &mut Handle,
    place: &Place<'_>,
    source: Option<&File>,
    tools: &mut Tools,
) -> io::Result<bool> {
    match kind {
        Kind::Write | Kind::Append | Kind::Writev | Kind::Direct => {
            write(kind, handle, place, tools)
        }
        Kind::Store | Kind::StoreByKernel => store(kind, handle, tools),
        Kind::Ftruncate | Kind::Truncate | Kind::OpenTruncate => {
            truncate(kind, handle, place, tools)
        }
        Kind::Fallocate | Kind::Punch | Kind::Zero | Kind::Collapse | Kind::Insert => {
            allocate(kind, &handle.file, tools)
        }
        Kind::Clone | Kind::CloneRange | Kind::CopyRange | Kind::Splice | Kind::Sendfile => {
            let source = source.ok_or(io::ErrorKind::NotFound)?;
            copy(kind, &handle.file, place, source, tools)
        }
        Kind::Rename => rename(place, tools).map(|()| false),
        _ => {
            look(kind, handle, tools)?;
            Ok(false)
        }
    }
}

/// Writes at `offset`. What is beyond the end of the file may write back what is dirty around that: XFS zeroes what lies
/// between (iomap_zero_range, since Linux 6.12).
fn write_to<T>(
    file: &File,
    place: &Place<'_>,
    offset: u64,
    write: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if offset > file.metadata()?.size() {
        place.slot.cleaning.during(write)
    } else {
        write()
    }
}

fn write(
    kind: Kind,
    handle: &mut Handle,
    place: &Place<'_>,
    tools: &mut Tools,
) -> io::Result<bool> {
    let random = &mut tools.random;
    let range = Range::any(random);
    let bytes = range.of(&tools.noise, random);
    let written = match kind {
        Kind::Write => write_to(&handle.file, place, range.offset, || {
            handle.file.write_at(bytes, range.offset)
        })?,
        Kind::Append => {
            // Files would only grow.
            if handle.file.metadata()?.size() > LARGEST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let file = match handle.append.take() {
                Some(file) => file,
                None => handle.again(OFlags::APPEND)?,
            };
            handle.append.insert(file).write(bytes)?
        }
        Kind::Writev => {
            let parts: Vec<IoSlice<'_>> = bytes
                .chunks(range.length as usize / 3 + 1)
                .map(IoSlice::new)
                .collect();
            write_to(&handle.file, place, range.offset, || {
                Ok(rustix::io::pwritev(&handle.file, &parts, range.offset)?)
            })?
        }
        _ => {
            let range = Range::blocks(random);
            let file = match handle.direct.take() {
                Some(file) => file,
                None => handle.again(OFlags::DIRECT)?,
            };
            // Other bytes each time.
            let byte = random.usize(0..tools.aligned.0.len());
            tools.aligned.0[byte] = random.u8(..);
            let bytes = &tools.aligned.0[..range.length as usize];
            handle.direct.insert(file).write_at(bytes, range.offset)?
        }
    };
    Ok(written > 0)
}

fn store(kind: Kind, handle: &mut Handle, tools: &mut Tools) -> io::Result<bool> {
    let random = &mut tools.random;
    let size = handle.file.metadata()?.size().min(LARGEST);
    if size == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let offset = random.u64(0..size) as usize;
    let mapping = handle.map()?;
    let room = mapping.length() - offset;
    if kind == Kind::StoreByKernel {
        let length = room.min(random.usize(1..2 * PAGE));
        let position = random.u64(0..LARGEST - length as u64);
        return Ok(mapping.read_into(offset, length, &tools.noise_file, position)? > 0);
    }
    let begin = random.usize(0..tools.noise.len() - 64);
    let bytes = &tools.noise[begin..begin + room.min(random.usize(1..64))];
    if !mapping.store(offset, bytes) {
        // Somebody has truncated the file since. Bytes before its end may have been stored.
        handle.mapping = None;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(true)
}

fn truncate(kind: Kind, handle: &Handle, place: &Place<'_>, tools: &mut Tools) -> io::Result<bool> {
    let size = tools.random.u64(0..LARGEST);
    match kind {
        Kind::Ftruncate => handle.file.set_len(size)?,
        Kind::Truncate => {
            if handle.inode != place.slot.current.load(SeqCst) {
                return Ok(false);
            }
            let path = files::path(place.traced, place.number, place.slot.name.load(SeqCst));
            let path = CString::new(path.as_os_str().as_bytes())?;
            // SAFETY: a NUL-terminated path that lives through the call.
            if unsafe { libc::truncate(path.as_ptr(), size as i64) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        _ => drop(handle.again(OFlags::TRUNC)?),
    }
    Ok(true)
}

fn allocate(kind: Kind, file: &File, tools: &mut Tools) -> io::Result<bool> {
    let random = &mut tools.random;
    let mut range = if matches!(kind, Kind::Collapse | Kind::Insert) {
        Range::blocks(random)
    } else {
        Range::any(random)
    };
    let keep = random.bool();
    let flags = match kind {
        Kind::Fallocate if keep => FallocateFlags::KEEP_SIZE,
        Kind::Fallocate => FallocateFlags::empty(),
        Kind::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Kind::Zero if keep => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        Kind::Zero => FallocateFlags::ZERO_RANGE,
        Kind::Collapse => FallocateFlags::COLLAPSE_RANGE,
        _ => {
            range.length = BLOCK;
            if file.metadata()?.size() + range.length > LARGEST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            FallocateFlags::INSERT_RANGE
        }
    };
    fallocate(file, flags, range.offset, range.length)?;
    Ok(true)
}

fn copy(
    kind: Kind,
    file: &File,
    place: &Place<'_>,
    source: &File,
    tools: &mut Tools,
) -> io::Result<bool> {
    let random = &mut tools.random;
    let range = Range::any(random);
    let length = range.length as usize;
    let mut from = random.u64(0..LARGEST);
    let copied = match kind {
        Kind::Clone => {
            rustix::fs::ioctl_ficlone(file, source)?;
            1
        }
        Kind::CloneRange => {
            clone_range(file, source, random)?;
            1
        }
        Kind::CopyRange => {
            let mut to = range.offset;
            rustix::fs::copy_file_range(source, Some(&mut from), file, Some(&mut to), length)?
        }
        Kind::Splice => {
            let (output, mut input) = io::pipe()?;
            let length = length.min(PAGE);
            input.write_all(&tools.noise[..length])?;
            let mut to = range.offset;
            let flags = SpliceFlags::empty();
            write_to(file, place, range.offset, || {
                let to = Some(&mut to);
                Ok(rustix::pipe::splice(
                    &output, None, file, to, length, flags,
                )?)
            })?
        }
        _ => {
            rustix::fs::seek(file, SeekFrom::Start(range.offset))?;
            write_to(file, place, range.offset, || {
                Ok(rustix::fs::sendfile(file, source, Some(&mut from), length)?)
            })?
        }
    };
    Ok(copied > 0)
}

fn clone_range(file: &File, source: &File, random: &mut fastrand::Rng) -> io::Result<()> {
    let (from, to) = (Range::blocks(random), Range::blocks(random));
    let argument = libc::file_clone_range {
        src_fd: i64::from(source.as_raw_fd()),
        src_offset: from.offset,
        src_length: from.length,
        dest_offset: to.offset,
    };
    // SAFETY: valid descriptors, and an argument that lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FICLONERANGE, &raw const argument) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the slot's file another of its names. Two at once: one of them fails.
fn rename(place: &Place<'_>, tools: &mut Tools) -> io::Result<()> {
    let old = place.slot.name.load(SeqCst);
    let new = (old + tools.random.u64(1..NAMES)) % NAMES;
    let [from, to] = [old, new].map(|name| files::path(place.traced, place.number, name));
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    place.slot.name.store(new, SeqCst);
    Ok(())
}

/// Does what modifies nothing.
fn look(kind: Kind, handle: &mut Handle, tools: &mut Tools) -> io::Result<()> {
    let range = Range::any(&mut tools.random);
    match kind {
        Kind::Msync => handle.map()?.sync()?,
        Kind::Fsync => handle.file.sync_all()?,
        Kind::Fdatasync => handle.file.sync_data()?,
        Kind::SyncFileRange => {
            let flags = libc::SYNC_FILE_RANGE_WRITE
                | libc::SYNC_FILE_RANGE_WAIT_BEFORE
                | libc::SYNC_FILE_RANGE_WAIT_AFTER;
            let (offset, length) = (range.offset as i64, range.length as i64);
            let file = handle.file.as_raw_fd();
            // SAFETY: a valid descriptor and numbers.
            if unsafe { libc::sync_file_range(file, offset, length, flags) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Kind::Read => {
            let mut buffer = vec![0; range.length as usize];
            let _ = handle.file.read_at(&mut buffer, range.offset)?;
        }
        Kind::ReadMapped if !handle.map()?.read() => {
            // A page lay behind the end of the file, and the mapping has a hole now.
            handle.mapping = None;
        }
        _ => {}
    }
    Ok(())
}
