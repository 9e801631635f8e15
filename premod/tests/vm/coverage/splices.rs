//! Copies that the kernel makes by itself.

use std::{fs::File, io::Write, os::fd::OwnedFd};

use rustix::pipe::{IoSliceRaw, SpliceFlags, pipe, splice, vmsplice};

use super::{BLOCK, Change, Target, ways, writes};
use crate::{harness::Place, workload::Mapping};

ways! {
    "splice from a pipe" => splice_from_pipe,
    "vmsplice and splice" => vmsplice_and_splice,
    "sendfile" => sendfile,
    "copy_file_range" => copy_file_range,
}

fn splice_from_pipe(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let file = target.same();
    let (reader, writer) = pipe().expect("a pipe");
    let mut writer = File::from(writer);
    Ok(Change::of(target, &["write"], move |n| {
        writer
            .write_all(&[writes::byte(n)])
            .expect("room in the pipe");
        move_from_pipe(&reader, &file, n, 1);
    }))
}

/// Moves bytes from a pipe to the place of the n-th change.
pub(crate) fn move_from_pipe(reader: &OwnedFd, file: &File, n: u64, length: usize) {
    let mut offset = writes::offset(n);
    let moved = splice(
        reader,
        None,
        file,
        Some(&mut offset),
        length,
        SpliceFlags::empty(),
    );
    assert_eq!(moved, Ok(length));
}

fn vmsplice_and_splice(place: &Place) -> Result<Change, String> {
    let target = writes::target(place);
    let file = target.same();
    let (reader, writer) = pipe().expect("a pipe");
    Ok(Change::of(target, &["write"], move |n| {
        // Given away: the page may become the file's own.
        let mut memory = Mapping::aligned(BLOCK as usize);
        memory.store(0, writes::byte(n));
        let slices = [IoSliceRaw::from_slice(memory.bytes())];
        // SAFETY: the memory is not changed any more.
        let given = unsafe { vmsplice(&writer, &slices, SpliceFlags::GIFT) };
        assert_eq!(given, Ok(BLOCK as usize));
        move_from_pipe(&reader, &file, n, BLOCK as usize);
    }))
}

/// A file beside the target with other data.
fn source(place: &Place) -> Target {
    let source = Target::new(place.file("source"));
    for n in 0..32 {
        let byte = [writes::byte(n)];
        std::os::unix::fs::FileExt::write_all_at(&source.file, &byte, n).expect("pwrite");
    }
    source.file.sync_all().expect("fsync");
    source
}

fn sendfile(place: &Place) -> Result<Change, String> {
    let (target, source) = (writes::target(place), source(place));
    let file = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(writes::offset(n))).expect("lseek");
        let mut from = n;
        let sent = rustix::fs::sendfile(&file, &source.file, Some(&mut from), 1);
        assert_eq!(sent, Ok(1));
    }))
}

fn copy_file_range(place: &Place) -> Result<Change, String> {
    let (target, source) = (writes::target(place), source(place));
    let file = target.same();
    Ok(Change::of(target, &["copy"], move |n| {
        let (mut from, mut to) = (n, writes::offset(n));
        let copied =
            rustix::fs::copy_file_range(&source.file, Some(&mut from), &file, Some(&mut to), 1);
        assert_eq!(copied, Ok(1));
    }))
}
