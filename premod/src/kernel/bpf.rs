//! What aya has no call for: bpf(2) itself.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

/// A descriptor of the program with this id.
///
/// # Errors
/// If there is none (ENOENT), or the kernel refuses.
pub(crate) fn program(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

/// A descriptor of the link with this id: what it attaches stays attached for as long. Since Linux 5.8.
///
/// # Errors
/// If there is none (ENOENT), or the kernel refuses.
pub(crate) fn link(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_LINK_GET_FD_BY_ID, id)
}

fn by_id(command: bpf_cmd, id: u32) -> io::Result<OwnedFd> {
    let mut attributes = attributes();
    attributes.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    let descriptor = call(command, &mut attributes)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// Puts a map into an array of maps. The kernel waits until no program uses the one any more that was there before.
///
/// # Errors
/// If they do not fit together, or there is no such place.
pub(crate) fn insert(array: BorrowedFd<'_>, place: u32, map: BorrowedFd<'_>) -> io::Result<()> {
    let descriptor = map.as_raw_fd();
    let mut attributes = element(array, &place);
    attributes.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const descriptor) as u64;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Takes a map out of an array of maps, and waits until no program uses it any more.
///
/// # Errors
/// If there is none at that place (ENOENT).
pub(crate) fn remove(array: BorrowedFd<'_>, place: u32) -> io::Result<()> {
    call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(array, &place)).map(drop)
}

/// Whether there is a map at this place of an array of maps. To open it takes `CAP_SYS_ADMIN`; this does not.
///
/// # Errors
/// If the kernel does not tell.
pub(crate) fn has_map(array: BorrowedFd<'_>, place: u32) -> io::Result<bool> {
    let mut id = 0u32;
    let mut attributes = element(array, &place);
    attributes.__bindgen_anon_2.__bindgen_anon_1.value = (&raw mut id) as u64;
    match call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        found => found.map(|_| true),
    }
}

/// What a call about an element of an array is about.
fn element(array: BorrowedFd<'_>, place: &u32) -> bpf_attr {
    let mut attributes = attributes();
    attributes.__bindgen_anon_2.map_fd = array.as_raw_fd() as u32;
    attributes.__bindgen_anon_2.key = (&raw const *place) as u64;
    attributes
}

/// How often the kernel has skipped a program: `bpf_prog_info.recursion_misses`, 5.12 and later. The same number
/// stands in the program's fdinfo, which takes many times as long to read.
pub(crate) fn recursion_misses(program: &OwnedFd) -> Option<u64> {
    // SAFETY: all zeroes are valid for what is made of integers.
    let mut info = unsafe { MaybeUninit::<bpf_prog_info>::zeroed().assume_init() };
    let mut attributes = attributes();
    attributes.info.bpf_fd = program.as_raw_fd() as u32;
    attributes.info.info = (&raw mut info) as u64;
    attributes.info.info_len = size_of::<bpf_prog_info>() as u32;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes).ok()?;
    Some(info.recursion_misses)
}

fn attributes() -> bpf_attr {
    // SAFETY: all zeroes are valid for a union of structures that are made of integers.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// What it refers to has to be as large as the command wants it.
fn call(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes no more of the attributes than they are large, and of what they refer to no more
    // than the command is about, for which the callers above have made room.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut *attributes,
            size_of::<bpf_attr>(),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
