//! The least that a program has to do to listen to fanotify, as a measure of what fanotify itself costs.

use std::{
    ffi::CString,
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// `FAN_PRE_ACCESS` of include/uapi/linux/fanotify.h, 6.14 and later.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;

/// What one listens to.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Told after a write.
    Modify,
    /// Asked before a read or a write.
    PreAccess,
}

impl Kind {
    pub(crate) fn of(word: &str) -> Option<Self> {
        match word {
            "modify" => Some(Self::Modify),
            "pre-access" => Some(Self::PreAccess),
            _ => None,
        }
    }
}

/// Whether the kernel has `FAN_PRE_ACCESS`.
pub(crate) fn has_pre_content() -> Result<(), String> {
    group(Kind::PreAccess)
        .and_then(|group| mark(&group, Kind::PreAccess, Path::new("/mnt/test")))
        .map_err(|error| format!("the kernel refuses FAN_PRE_ACCESS: {error}"))
}

fn group(kind: Kind) -> std::io::Result<OwnedFd> {
    let class = match kind {
        Kind::Modify => libc::FAN_CLASS_NOTIF,
        Kind::PreAccess => libc::FAN_CLASS_PRE_CONTENT,
    };
    let flags = (libc::O_RDONLY | libc::O_LARGEFILE) as u32;
    // SAFETY: no pointers; a descriptor that is not negative is ours.
    unsafe {
        let descriptor = libc::fanotify_init(class | libc::FAN_CLOEXEC, flags);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Marks the whole filesystem.
fn mark(group: &OwnedFd, kind: Kind, mount: &Path) -> std::io::Result<()> {
    let mask = match kind {
        Kind::Modify => libc::FAN_MODIFY,
        Kind::PreAccess => FAN_PRE_ACCESS,
    };
    let path = CString::new(mount.as_os_str().as_bytes())?;
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: the path is a C string that outlives the call.
    let result = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            flags,
            mask,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Listens until killed.
pub(crate) fn run(kind: Kind, mount: &Path) {
    let group = group(kind).expect("fanotify");
    mark(&group, kind, mount).expect("the mark");
    let mut stream = File::from(group);
    let mut buffer = [0; 8192];
    loop {
        let length = stream.read(&mut buffer).expect("events");
        let mut rest = &buffer[..length];
        while let Some((head, _)) =
            rest.split_at_checked(size_of::<libc::fanotify_event_metadata>())
        {
            // SAFETY: the kernel wrote a whole record; read_unaligned asks nothing of the address.
            let event = unsafe {
                head.as_ptr()
                    .cast::<libc::fanotify_event_metadata>()
                    .read_unaligned()
            };
            if event.fd >= 0 {
                // SAFETY: the kernel opened it for us.
                let file = unsafe { OwnedFd::from_raw_fd(event.fd) };
                if matches!(kind, Kind::PreAccess) {
                    let mut answer = [0; 8];
                    answer[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
                    answer[4..].copy_from_slice(&libc::FAN_ALLOW.to_ne_bytes());
                    stream.write_all(&answer).expect("the answer");
                }
            }
            rest = &rest[event.event_len as usize..];
        }
    }
}
