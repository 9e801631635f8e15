//! A FUSE filesystem of one file, which is its root.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
};

use crate::tools::run;

/// A mounted one; unmounted on drop.
pub(crate) struct Fuse(PathBuf);

// Requests of linux/fuse.h.
const INIT: u32 = 26;
const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const OPEN: u32 = 14;

/// Mounts it over a new file.
pub(crate) fn mount(point: &Path) -> Fuse {
    fs::write(point, "").expect("a new file");
    thread::spawn(serving(point, "100644"));
    Fuse(point.to_owned())
}

/// Mounts a directory over one. Nothing is ever answered, as long as what comes with it is kept.
pub(crate) fn mount_dead(point: &Path) -> (Fuse, impl Sized + use<>) {
    fs::create_dir_all(point).expect("mkdir");
    let server = serving(point, "40755");
    (Fuse(point.to_owned()), server)
}

/// Mounts it, and returns what serves it.
fn serving(point: &Path, mode: &str) -> impl FnOnce() + use<> {
    // It is a module on 6.1, and built in later.
    if !Path::new("/dev/fuse").exists() {
        run("modprobe", &["fuse"]);
    }
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let device = device.expect("/dev/fuse");
    let number = device.as_raw_fd();
    let options = format!("fd={number},rootmode={mode},user_id=0,group_id=0");
    let options = std::ffi::CString::new(options).expect("no NUL byte");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("premod", point, "fuse", flags, options.as_c_str()).expect("mount");
    move || serve(device)
}

/// Answers requests until it is unmounted.
fn serve(mut device: File) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = device.read(&mut request) {
        let word = |at: usize| {
            let bytes = request[at..at + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(bytes)
        };
        let (opcode, unique) = (word(4), &request[8..16]);
        assert!(length >= 40, "a request");
        let body = match opcode {
            // Version 7.31 and nothing else.
            INIT => [7_u32.to_ne_bytes(), 31_u32.to_ne_bytes()]
                .concat()
                .into_iter()
                .chain([0; 56])
                .collect(),
            GETATTR => attributes(),
            STATFS => vec![0; 80],
            OPEN => vec![0; 16],
            _ => Vec::new(),
        };
        let error = if body.is_empty() { -libc::ENOSYS } else { 0 };
        let size = (16 + body.len()) as u32;
        let head = [&size.to_ne_bytes()[..], &error.to_ne_bytes(), unique].concat();
        if device.write_all(&[head, body].concat()).is_err() {
            return;
        }
    }
}

/// `struct fuse_attr_out` of an empty file.
fn attributes() -> Vec<u8> {
    let mut body = vec![0; 104];
    // Inode number, mode, links.
    body[16..24].copy_from_slice(&1_u64.to_ne_bytes());
    body[76..80].copy_from_slice(&0o100_644_u32.to_ne_bytes());
    body[80..84].copy_from_slice(&1_u32.to_ne_bytes());
    body
}

impl Fuse {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
