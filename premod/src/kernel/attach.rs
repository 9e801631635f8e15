//! The table of hooks, and attaching them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    thread::{available_parallelism, scope},
};

use aya::{
    Btf, Ebpf,
    programs::{Program, ProgramError},
};

use super::{btf, environment::Environment, load as loading};
use crate::error::Error;

/// How a program hangs in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An LSM hook, which could also deny.
    Lsm,
    /// The entry of a kernel function.
    Fentry,
    /// The exit of a kernel function.
    Fexit,
    /// A tracepoint with typed arguments.
    Tracepoint,
    /// The entry of a kernel function, by a breakpoint or what stands for one: dearer, and never skipped.
    Kprobe,
    /// What premod runs itself, by reading: it is called for each thing of a kind that the kernel has.
    Iterator,
}

/// One way to attach one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attachment {
    /// How it hangs.
    pub kind: Kind,
    /// The LSM hook, function or tracepoint.
    pub target: &'static str,
    /// Name of the program in the object.
    #[serde(skip)]
    pub program: &'static str,
}

/// One thing premod listens to, with the ways to do so, best first.
#[derive(Debug)]
pub struct Hook {
    /// What it sees.
    pub sees: &'static str,
    /// Ways to attach, best first.
    pub ways: &'static [Attachment],
    /// What is missed without it.
    pub cost: &'static str,
    /// Tracing is refused without it.
    pub essential: bool,
    /// A change may be lost, or be announced too late, if the kernel skips its program. The others are second looks, or
    /// know more than those that decide.
    pub decides: bool,
    /// When it is needed.
    pub when: When,
}

/// When a hook is needed: one that is not costs nobody anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// When PATHs are traced.
    Scoped,
    /// When some disk wants pages to be stable while they are written back, so that a writer may sleep for
    /// that after it has locked the page.
    StablePages,
    /// When the kernel knows btrfs.
    Btrfs,
}

impl Attachment {
    /// The name of the target's type in the kernel's type information.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self.kind {
            Kind::Lsm => format!("bpf_lsm_{}", self.target),
            Kind::Fentry | Kind::Fexit | Kind::Kprobe => self.target.to_owned(),
            Kind::Tracepoint => format!("btf_trace_{}", self.target),
            Kind::Iterator => format!("bpf_iter_{}", self.target),
        }
    }

    /// Whether a change may be lost if the kernel skips the program. It never skips one of an LSM hook.
    #[must_use]
    pub fn loses_when_skipped(&self) -> bool {
        self.kind != Kind::Lsm
            && HOOKS
                .iter()
                .any(|hook| hook.decides && hook.ways.contains(self))
    }
}

/// Type information for [`attach`] to find the targets of these in.
///
/// # Errors
/// If aya does not understand it.
pub fn targets<'a>(
    btf: &btf::Btf,
    ways: impl IntoIterator<Item = &'a Attachment>,
) -> Result<Btf, Error> {
    let names: Vec<_> = ways.into_iter().map(Attachment::type_name).collect();
    btf.of_targets(names.iter().map(String::as_str))
        .map_err(|error| Error::kernel("cannot use the kernel's type information", &error))
}

impl When {
    /// Whether it is needed now.
    #[must_use]
    pub fn applies(self, scoped: bool, environment: &Environment) -> bool {
        match self {
            Self::Always => true,
            Self::Scoped => scoped,
            Self::StablePages => environment.stable_pages,
            Self::Btrfs => environment.btrfs,
        }
    }
}

pub(crate) const fn lsm(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Lsm,
        target,
        program,
    }
}

pub(crate) const fn fentry(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Fentry,
        target,
        program,
    }
}

pub(crate) const fn fexit(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Fexit,
        target,
        program,
    }
}

pub(crate) const fn tracepoint(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Tracepoint,
        target,
        program,
    }
}

pub(crate) const fn iterator(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Iterator,
        target,
        program,
    }
}

pub(crate) const fn kprobe(target: &'static str, program: &'static str) -> Attachment {
    Attachment {
        kind: Kind::Kprobe,
        target,
        program,
    }
}

/// Every hook that tracing uses, in the order in which they are attached: what forgets comes first, then
/// what announces, and the net last, so that no event is called late because premod was starting.
pub const HOOKS: &[Hook] = &[
    Hook {
        sees: "eviction of inodes",
        ways: &[
            lsm("inode_free_security", "lsm_inode_free_security"),
            kprobe("security_inode_free", "kprobe_inode_free_security"),
            fentry("security_inode_free", "fentry_inode_free_security"),
        ],
        cost: "the map of inodes would grow without bound",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "renames",
        ways: &[fexit("vfs_rename", "vfs_rename")],
        cost: "files renamed into a traced directory would be missed, and paths would be those of before",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "hard links",
        ways: &[fexit("vfs_link", "vfs_link")],
        cost: "files linked into a traced directory that lose their old name would be missed",
        essential: true,
        decides: true,
        when: When::Scoped,
    },
    Hook {
        sees: "deduplication",
        ways: &[fentry("vfs_dedupe_file_range_one", "dedupe_begins")],
        cost: "it is reported as a write, though no byte changes",
        essential: false,
        decides: false,
        when: When::Always,
    },
    Hook {
        sees: "the end of deduplication",
        ways: &[fexit("vfs_dedupe_file_range_one", "dedupe_ends")],
        cost: "a write after a deduplication that failed could be taken for part of it",
        essential: false,
        decides: false,
        when: When::Always,
    },
    Hook {
        sees: "fsync, fdatasync, msync",
        ways: &[
            kprobe("vfs_fsync_range", "kprobe_vfs_fsync_range"),
            fentry("vfs_fsync_range", "vfs_fsync_range"),
        ],
        cost: "changes that leave no dirty page would be announced once only",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "fsync on ext4, xfs and most others, where the above is inlined",
        ways: &[
            kprobe(
                "file_write_and_wait_range",
                "kprobe_file_write_and_wait_range",
            ),
            fentry("file_write_and_wait_range", "file_write_and_wait_range"),
        ],
        cost: "changes that leave no dirty page would be announced once per --period only",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "fsync on btrfs, where the above is inlined",
        ways: &[
            kprobe(
                "file_check_and_advance_wb_err",
                "kprobe_file_check_and_advance_wb_err",
            ),
            fentry(
                "file_check_and_advance_wb_err",
                "file_check_and_advance_wb_err",
            ),
        ],
        cost: "changes that leave no dirty page would be announced once per --period only",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "sync, syncfs",
        ways: &[
            kprobe("sync_inodes_sb", "kprobe_sync_inodes_sb"),
            fentry("sync_inodes_sb", "sync_inodes_sb"),
        ],
        cost: "changes that leave no dirty page would not be announced again before an fsync",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "fallocate, MADV_REMOVE",
        ways: &[
            kprobe("vfs_fallocate", "kprobe_vfs_fallocate"),
            fentry("vfs_fallocate", "vfs_fallocate"),
        ],
        cost: "they would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "reflinks",
        ways: &[
            kprobe("vfs_clone_file_range", "kprobe_vfs_clone_file_range"),
            fentry("vfs_clone_file_range", "vfs_clone_file_range"),
        ],
        cost: "they are reported as op write",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "reflinks again, overlayfs's among them; on 6.12 and later also XFS's exchange of ranges",
        ways: &[
            kprobe("remap_verify_area", "kprobe_remap_verify_area"),
            fentry("remap_verify_area", "remap_verify_area"),
            fentry("do_clone_file_range", "do_clone_file_range"),
        ],
        cost: "reflinks by overlayfs, and XFS's exchange of ranges, would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "copy_file_range",
        ways: &[
            kprobe("vfs_copy_file_range", "kprobe_vfs_copy_file_range"),
            fentry("vfs_copy_file_range", "vfs_copy_file_range"),
        ],
        cost: "it is reported as op write",
        essential: false,
        decides: false,
        when: When::Always,
    },
    Hook {
        sees: "ioctls that exchange the blocks of two files",
        ways: &[
            kprobe("security_file_ioctl", "kprobe_security_file_ioctl"),
            fentry("security_file_ioctl", "security_file_ioctl"),
        ],
        cost: "EXT4_IOC_MOVE_EXT, EXT4_IOC_SWAP_BOOT and XFS_IOC_SWAPEXT would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "the same, from programs of 32 bits",
        ways: &[
            kprobe(
                "security_file_ioctl_compat",
                "kprobe_security_file_ioctl_compat",
            ),
            fentry("security_file_ioctl_compat", "security_file_ioctl_compat"),
        ],
        cost: "EXT4_IOC_MOVE_EXT by programs of 32 bits would be missed",
        essential: false,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "the two files of such an ioctl",
        ways: &[
            kprobe("lock_two_nondirectories", "kprobe_lock_two_nondirectories"),
            fentry("lock_two_nondirectories", "lock_two_nondirectories"),
        ],
        cost: "EXT4_IOC_MOVE_EXT, EXT4_IOC_SWAP_BOOT and XFS_IOC_SWAPEXT would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "the write family, under the inode lock",
        ways: &[
            kprobe("generic_write_checks", "kprobe_generic_write_checks"),
            fentry("generic_write_checks", "generic_write_checks"),
        ],
        cost: "writes would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "direct writes, again or for the first time",
        ways: &[
            kprobe("kiocb_invalidate_pages", "kprobe_kiocb_invalidate_pages"),
            fentry("kiocb_invalidate_pages", "kiocb_invalidate_pages"),
        ],
        cost: "a direct write to a file that has dirty pages would be missed if they are written back before it",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "encoded writes of btrfs, under the inode lock",
        ways: &[
            kprobe(
                "generic_write_checks_count",
                "kprobe_generic_write_checks_count",
            ),
            fentry("generic_write_checks_count", "generic_write_checks_count"),
        ],
        cost: "encoded writes are missed",
        essential: false,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "each page of a write that is in memory, before it is changed",
        ways: &[fentry("folio_wait_stable", "folio_wait_stable")],
        cost: "a write that goes on after its file became clean is announced late",
        essential: false,
        decides: false,
        when: When::Always,
    },
    Hook {
        sees: "the same page, after its writeback has been waited for",
        ways: &[fexit("folio_wait_stable", "folio_is_stable")],
        cost: "a write whose file becomes clean meanwhile is announced late",
        essential: false,
        decides: false,
        when: When::StablePages,
    },
    Hook {
        sees: "each page of a write that was not in memory, before it is changed",
        ways: &[fexit("filemap_add_folio", "filemap_add_folio")],
        cost: "a write that goes on after its file became clean is announced late",
        essential: false,
        decides: false,
        when: When::Always,
    },
    Hook {
        sees: "each page of a write on btrfs, on 6.1 and 6.12, before it is changed",
        ways: &[fexit("pagecache_get_page", "pagecache_get_page")],
        cost: "a write that goes on after its file became clean is announced late",
        essential: false,
        decides: false,
        when: When::Btrfs,
    },
    Hook {
        sees: "truncate",
        ways: &[
            lsm("path_truncate", "lsm_path_truncate"),
            fentry("security_path_truncate", "fentry_path_truncate"),
        ],
        cost: "truncate is reported with a path inside of its filesystem",
        essential: false,
        decides: false,
        when: When::Always,
    },
    Hook {
        sees: "ftruncate, open with O_TRUNC (on 6.1 the hook above sees them)",
        ways: &[
            lsm("file_truncate", "lsm_file_truncate"),
            fentry("security_file_truncate", "fentry_file_truncate"),
        ],
        cost: "none on kernels before 6.2",
        essential: false,
        decides: false,
        when: When::Always,
    },
    Hook {
        sees: "every change of size, again",
        ways: &[
            kprobe("notify_change", "kprobe_notify_change"),
            fentry("notify_change", "notify_change"),
        ],
        cost: "truncates would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "stores through shared mappings",
        ways: &[
            kprobe("do_page_mkwrite", "kprobe_do_page_mkwrite"),
            fentry("do_page_mkwrite", "do_page_mkwrite"),
        ],
        cost: "stores through mappings would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "stores through shared mappings of DAX files",
        ways: &[
            kprobe("dax_iomap_fault", "kprobe_dax_iomap_fault"),
            fentry("dax_iomap_fault", "dax_iomap_fault"),
        ],
        cost: "stores to DAX files are announced late",
        essential: false,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "pages that become dirty (the net)",
        ways: &[tracepoint("writeback_dirty_folio", "writeback_dirty_folio")],
        cost: "changes that no other hook sees would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "inodes that become dirty (the net, for DAX)",
        ways: &[
            kprobe("__mark_inode_dirty", "kprobe_mark_inode_dirty"),
            tracepoint("writeback_mark_inode_dirty", "writeback_mark_inode_dirty"),
        ],
        cost: "stores to DAX files would be missed",
        essential: true,
        decides: true,
        when: When::Always,
    },
];

impl Hook {
    /// The way to attach this hook on the running kernel; `None` if there is none.
    #[must_use]
    pub fn choose(&self, btf: &btf::Btf, environment: &Environment) -> Option<Attachment> {
        let exists = |way: &&Attachment| match way.kind {
            Kind::Lsm => environment.bpf_lsm_is_active() && btf.has_function(&way.type_name()),
            Kind::Fentry | Kind::Fexit | Kind::Iterator => btf.has_function(&way.type_name()),
            Kind::Kprobe => {
                environment.preemption.is_anywhere()
                    && btf.has_function(&way.type_name())
                    && btf.has_function("bpf_rdonly_cast")
            }
            // A tracepoint's type has no entry of its own that all kernels spell alike; the load tells.
            Kind::Tracepoint => true,
        };
        self.ways.iter().find(exists).copied()
    }
}

/// Loads programs, on all CPUs: the kernel takes most of the time in which premod starts to verify them one by one, and
/// verifies different ones side by side.
///
/// What it does not take is left to [`attach`], which tries it again and says why.
pub fn load_ahead(ebpf: &mut Ebpf, kernel_btf: &Btf, ways: &[Attachment]) {
    let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let wanted: Vec<_> = ways
        .iter()
        .filter_map(|way| Some((programs.remove(way.program)?, way.target)))
        .collect();
    let queue = Mutex::new(wanted.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    scope(|threads| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                while let Some((program, target)) = next() {
                    let _ = load(program, kernel_btf, target);
                }
            });
        }
    });
}

/// Attaches one program, and loads it if it is not loaded yet.
///
/// # Errors
/// If the kernel does not take it.
pub fn attach(
    ebpf: &mut Ebpf,
    kernel_btf: &Btf,
    way: Attachment,
    environment: &Environment,
) -> Result<(), Error> {
    let explain = |error: &ProgramError| loading::explain(way.program, error, environment);
    let program = ebpf
        .program_mut(way.program)
        .ok_or_else(|| Error::KernelLacks {
            release: environment.release.clone(),
            what: format!("the program {}", way.program),
            cost: "the object is incomplete".to_owned(),
        })?;
    load_and_attach(program, kernel_btf, way.target).map_err(|error| explain(&error))?;
    tracing::debug!("attached {:?} {}", way.kind, way.target);
    Ok(())
}

fn load_and_attach(program: &mut Program, btf: &Btf, target: &str) -> Result<(), ProgramError> {
    if program.fd().is_err() {
        load(program, btf, target)?;
    }
    match program {
        Program::Lsm(program) => program.attach().map(drop),
        Program::FEntry(program) => program.attach().map(drop),
        Program::FExit(program) => program.attach().map(drop),
        Program::BtfTracePoint(program) => program.attach().map(drop),
        Program::KProbe(program) => program.attach(target, 0).map(drop),
        // Whoever reads it attaches it.
        Program::Iter(_) => Ok(()),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn load(program: &mut Program, btf: &Btf, target: &str) -> Result<(), ProgramError> {
    match program {
        Program::Lsm(program) => program.load(target, btf),
        Program::FEntry(program) => program.load(target, btf),
        Program::FExit(program) => program.load(target, btf),
        Program::BtfTracePoint(program) => program.load(target, btf),
        Program::KProbe(program) => program.load(),
        Program::Iter(program) => program.load(target, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_net_is_attached_after_everything_that_announces() {
        let position = |target: &str| {
            HOOKS
                .iter()
                .position(|hook| hook.ways.iter().any(|way| way.target == target))
                .unwrap()
        };
        let net = position("writeback_dirty_folio");
        for target in [
            "generic_write_checks",
            "remap_verify_area",
            "vfs_fallocate",
            "folio_wait_stable",
            "filemap_add_folio",
            "pagecache_get_page",
            "do_page_mkwrite",
            "notify_change",
        ] {
            assert!(position(target) < net, "{target} announces before the net");
        }
        assert_eq!(
            position("inode_free_security"),
            0,
            "no entry may outlive its inode"
        );
    }

    #[test]
    fn every_lsm_hook_has_a_fallback() {
        for hook in HOOKS {
            if hook.ways.iter().any(|way| way.kind == Kind::Lsm) {
                assert!(
                    hook.ways.iter().any(|way| way.kind == Kind::Fentry),
                    "{}",
                    hook.sees
                );
            }
        }
    }
}
