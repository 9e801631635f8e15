//! The programs of a freeze, and how they attach.

use aya::Ebpf;

use crate::{
    error::Error,
    kernel::{
        attach::{self, Attachment, fentry, fexit, iterator, kprobe, lsm, tracepoint},
        btf::Btf,
        environment::Environment,
    },
};

/// What premod's own question about a file needs.
pub(super) const QUESTION: Attachment = fentry("security_file_fcntl", "look");

/// What each freeze has for itself: what ends a flight, and what premod runs to learn who uses the files.
pub(super) const OWN: &[Attachment] = &[
    tracepoint("sys_exit", "sys_exit"),
    iterator("task_file", "descriptors"),
    iterator("task_vma", "mappings"),
];

/// What all freezes share, in the order in which it is attached: what ends a flight comes before what begins one.
const SHARED: &[Attachment] = &[
    QUESTION,
    lsm("task_alloc", "task_alloc"),
    lsm("task_free", "task_free"),
    lsm("inode_rename", "inode_rename"),
    lsm("inode_unlink", "inode_unlink"),
    lsm("inode_rmdir", "inode_rmdir"),
    lsm("sb_mount", "sb_mount"),
    lsm("move_mount", "move_mount"),
    tracepoint("signal_generate", "signal_generate"),
    fexit("do_page_mkwrite", "mkwrite_ends"),
    fexit("do_page_mkwrite", "mkwrite_ends_again"),
    fentry("generic_write_checks", "write_seen"),
    fentry("generic_write_checks", "write_seen_again"),
    tracepoint("writeback_dirty_folio", "dirty_seen"),
    tracepoint("writeback_dirty_folio", "dirty_seen_again"),
    kprobe("do_page_mkwrite", "mkwrite_begins"),
    lsm("file_ioctl", "file_ioctl"),
    lsm("file_mprotect", "file_mprotect"),
    lsm("mmap_file", "mmap_file"),
    lsm("file_open", "file_open"),
    lsm("file_permission", "file_permission"),
];

/// What all freezes share on this kernel.
///
/// # Errors
/// If it lacks something.
pub(super) fn shared(btf: &Btf, environment: &Environment) -> Result<Vec<Attachment>, Error> {
    let hook = "bpf_lsm_inode_setattr";
    let setattr = match btf.arguments(hook) {
        Some(2) => lsm("inode_setattr", "inode_setattr_of_two"),
        Some(3) => lsm("inode_setattr", "inode_setattr_of_three"),
        _ => {
            return Err(Error::KernelLacks {
                release: environment.release.clone(),
                what: format!("the hook {hook} in a form that premod knows"),
                cost: "truncates could not be kept out".to_owned(),
            });
        }
    };
    let compat = lsm("file_ioctl_compat", "file_ioctl_compat");
    let compat = btf
        .has_function("bpf_lsm_file_ioctl_compat")
        .then_some(compat);
    Ok((SHARED.iter().copied())
        .chain([setattr])
        .chain(compat)
        .collect())
}

/// Attaches programs of the object.
///
/// # Errors
/// If the kernel does not take one.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    environment: &Environment,
    ways: &[Attachment],
) -> Result<(), Error> {
    let kernel_btf = attach::targets(btf, ways)?;
    attach::load_ahead(ebpf, &kernel_btf, ways);
    for way in ways {
        attach::attach(ebpf, &kernel_btf, *way, environment)?;
    }
    Ok(())
}
