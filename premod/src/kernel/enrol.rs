//! Enrolment: asking the kernel which inode an open file is.
//!
//! `stat` is no answer: on btrfs and overlayfs its device is not the kernel's. Instead premod makes a
//! harmless call on the file, `fcntl(F_GETFD)` with a random number as the argument that the kernel
//! ignores, and a program on `security_file_fcntl` writes down what it sees.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use aya::{
    Btf, Ebpf,
    maps::Array,
    programs::{FEntry, fentry::FEntryLinkId},
};
use premod_common::{
    facts::{Facts, Settings},
    inode::Enrolled,
};
use rustix::fs::{Mode, OFlags};

use super::{
    attach::{Attachment, fentry},
    environment::Environment,
    facts::FactTable,
    load,
};
use crate::{error::Error, mounts};

const PROGRAM: &str = "security_file_fcntl";

/// How the enrolment program hangs.
pub const HOOK: Attachment = fentry(PROGRAM, PROGRAM);

/// A small instance of the object, with only the enrolment program in the kernel.
pub struct Enroller {
    ebpf: Ebpf,
    nonce: u64,
    link: Option<FEntryLinkId>,
    /// Takes the program off. The kernel waits for a tenth of a second before it is done with that.
    resting: Option<JoinHandle<()>>,
}

impl Enroller {
    /// Loads the enrolment program.
    ///
    /// # Errors
    /// If the kernel refuses it: then it refuses the others too.
    pub fn load(
        loader: &mut load::Loader,
        facts: Facts,
        btf: &Btf,
        environment: &Environment,
    ) -> Result<Self, Error> {
        let nonce = random();
        let setup = load::Setup {
            facts,
            settings: Settings {
                nonce,
                ..Settings::default()
            },
            buffer_size: rustix::param::page_size() as u32,
            inodes: 1,
            cpus: 1,
            log_level: 0,
        };
        let mut ebpf = loader.object(&setup, environment)?;
        let program = program(&mut ebpf)?;
        program
            .load(PROGRAM, btf)
            .map_err(|error| load::explain(PROGRAM, &error, environment))?;
        Ok(Self {
            ebpf,
            nonce,
            link: None,
            resting: None,
        })
    }

    /// Asks about any number of open files. From then on the program is attached, and costs every fcntl a little, until
    /// [`Enroller::rest`].
    ///
    /// # Errors
    /// If the program cannot be attached, or does not answer.
    pub fn ask(&mut self, files: &[BorrowedFd<'_>]) -> Result<Vec<Enrolled>, Error> {
        if self.link.is_none() {
            // The kernel does not attach a program twice.
            self.wait_until_rested();
            let link = program(&mut self.ebpf)?
                .attach()
                .map_err(|error| Error::kernel("cannot ask the kernel for inodes", &error))?;
            self.link = Some(link);
        }
        files.iter().map(|file| self.ask_one(*file)).collect()
    }

    /// Nothing more is to be asked for now.
    ///
    /// # Errors
    /// If the program cannot be detached.
    pub fn rest(&mut self) -> Result<(), Error> {
        let Some(link) = self.link.take() else {
            return Ok(());
        };
        let link = program(&mut self.ebpf)?
            .take_link(link)
            .map_err(|error| Error::kernel("cannot end to ask the kernel for inodes", &error))?;
        // If there can be no thread, it is dropped here.
        self.resting = thread::Builder::new().spawn(move || drop(link)).ok();
        Ok(())
    }

    fn wait_until_rested(&mut self) {
        if let Some(resting) = self.resting.take() {
            // It does not panic.
            let _ = resting.join();
        }
    }

    fn ask_one(&mut self, file: BorrowedFd<'_>) -> Result<Enrolled, Error> {
        let no_answer = || Error::Kernel {
            context: "cannot ask the kernel for an inode".to_owned(),
            reason: "the enrolment hook (security_file_fcntl) did not answer".to_owned(),
        };
        let map = self.ebpf.map_mut("ENROLLED").ok_or_else(no_answer)?;
        let mut answers: Array<_, Enrolled> = map
            .try_into()
            .map_err(|error| Error::kernel("cannot use a BPF map", &error))?;
        answers
            .set(0, Enrolled::default(), 0)
            .map_err(|error| Error::kernel("cannot write a BPF map", &error))?;
        // SAFETY: F_GETFD takes no argument and changes nothing; the descriptor is open.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD, self.nonce) };
        let answer = answers
            .get(&0, 0)
            .map_err(|error| Error::kernel("cannot read a BPF map", &error))?;
        if answer.inode == 0 {
            Err(no_answer())
        } else {
            Ok(answer)
        }
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut FEntry, Error> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Error::BadValue(format!("the object has no program {PROGRAM}")))
}

/// What only the kernel itself can tell.
#[derive(Clone, Copy, Debug)]
pub struct Learnt {
    /// `backing_dev_info` of filesystems that keep no dirty marks.
    pub untracked_bdi: u64,
    /// premod's process id in the initial pid namespace.
    pub own_pid: u32,
    /// Address of premod's mount namespace.
    pub namespace: u64,
}

/// Learns what BTF does not tell, and completes the table of facts where an old kernel needs it.
///
/// # Errors
/// If there is no writable place for the scratch file that such a kernel needs.
pub fn learn(
    enroller: &mut Enroller,
    table: &mut FactTable,
    places: &[PathBuf],
) -> Result<Learnt, Error> {
    // procfs has no pages of its own, and so the backing device that means just that.
    let procfs = Path::new("/proc/self/stat");
    let procfs = File::open(procfs).map_err(|error| Error::KernelLacks {
        release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        what: format!(
            "{}, as long as procfs is not mounted ({error}; mount -t proc proc /proc)",
            procfs.display()
        ),
        cost: "premod cannot tell which filesystems keep dirty marks".to_owned(),
    })?;
    let answer = enroller.ask(&[procfs.as_fd()])?;
    let learnt = Learnt {
        untracked_bdi: answer[0].bdi,
        own_pid: answer[0].tgid,
        namespace: answer[0].namespace,
    };
    if table.facts.mapping_dirty_mark == 0 {
        let mark = scratch_mark(places, |file| {
            let answer = enroller.ask(&[file])?[0];
            Ok((answer.bdi != learnt.untracked_bdi).then_some(answer.mapping_flags))
        })?;
        if let Some(mark) = mark {
            table.set_dirty_mark(mark, "a scratch file");
        }
    }
    Ok(learnt)
}

/// Dirties one page of an unnamed file and looks which mark its mapping gets. `flags` tells the `xa_flags` of a
/// file's mapping; nothing, if it keeps no marks.
pub(crate) fn scratch_mark(
    places: &[PathBuf],
    mut flags: impl FnMut(BorrowedFd<'_>) -> Result<Option<u32>, Error>,
) -> Result<Option<u32>, Error> {
    let usual = ["/var/tmp", "/var/lib", "/root", "/"].map(PathBuf::from);
    let mounted = mounts::all();
    for place in places.iter().chain(&usual).chain(&mounted) {
        let how = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(place, how, Mode::RUSR | Mode::WUSR) else {
            continue;
        };
        let Some(before) = flags(file.as_fd())? else {
            continue;
        };
        if rustix::io::write(&file, b"premod").is_err() {
            continue;
        }
        let after = flags(file.as_fd())?.unwrap_or(before);
        // The marks are the highest bits: dirty, then writeback, then towrite. The write has set just one.
        let mark = after & !before;
        if mark.is_power_of_two() {
            return Ok(Some(mark));
        }
    }
    Ok(None)
}

/// A number nobody can guess, and that nobody passes to fcntl by chance.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
