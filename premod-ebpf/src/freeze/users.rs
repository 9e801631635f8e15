//! Who uses the guarded inodes: asked of the kernel by inode, whatever the users call themselves and by whatever name
//! they have opened a file.
//!
//! These programs run when premod reads an iterator, once for each descriptor and each mapping of all processes. The
//! kernel goes through all threads, and leaves out those that share the descriptors of their process's first thread; of
//! a process whose first thread has ended it leaves out none.

use core::ffi::c_void;

use aya_ebpf::{bindings::seq_file, helpers::generated::bpf_seq_write};
use premod_common::guard::{Use, UseKind};

use crate::{
    facts::fact,
    kernel::{File, load, read},
    maps::GUARDS,
    running::Running,
};

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAYFS: u64 = 0x794c_7630;
/// `VM_WRITE` and `VM_SHARED` of include/linux/mm.h; see the trace's hooks/mmap.rs.
const STORABLE: u64 = 0x2 | 0x8;

/// `struct bpf_iter_meta` of the kernel's stable interface, as far as it is needed.
#[repr(C)]
struct Meta {
    output: *mut seq_file,
}

/// `struct bpf_iter__task_file`, likewise.
#[repr(C)]
struct Descriptor {
    meta: *const Meta,
    task: *const u8,
    number: u64,
    file: *const u8,
}

/// `struct bpf_iter__task_vma`, likewise.
#[repr(C)]
struct Mapping {
    meta: *const Meta,
    task: *const u8,
    area: *const u8,
}

/// A descriptor of a task.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn descriptors(context: *const Descriptor) -> i32 {
    // SAFETY: the kernel passes the structure that the section's name says.
    let (task, file, meta) = unsafe { ((*context).task, (*context).file, (*context).meta) };
    if task.is_null() || file.is_null() || File(file).is_read_only() {
        return 0;
    }
    let inode = File(file).inode();
    let mut kind = UseKind::Open;
    let mut address = inode.address();
    if inode.superblock().magic() == OVERLAYFS {
        // What is open for writing has been copied to the upper filesystem.
        if fact!(overlay_upper) == 0 {
            kind = UseKind::Stacked;
        } else {
            let upper = read(address + u64::from(fact!(overlay_upper)));
            address = read(upper + u64::from(fact!(dentry_d_inode)));
        }
    }
    report(meta, Running::of(task), address, kind);
    0
}

/// A mapping of a task. Through overlayfs, too, its file is the one on the upper filesystem.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_vma")]
extern "C" fn mappings(context: *const Mapping) -> i32 {
    // SAFETY: as for `descriptors`.
    let (task, area, meta) = unsafe { ((*context).task, (*context).area, (*context).meta) };
    if task.is_null() || area.is_null() {
        return 0;
    }
    // SAFETY: the offsets are those of vm_flags and vm_file in struct vm_area_struct.
    let (flags, file): (u64, *const u8) = unsafe {
        (
            load!(area, vm_area_struct_vm_flags),
            load!(area, vm_area_struct_vm_file),
        )
    };
    if flags & STORABLE != STORABLE || file.is_null() {
        return 0;
    }
    let inode = File(file).inode().address();
    report(meta, Running::of(task), inode, UseKind::Mapped);
    0
}

#[inline(always)]
fn report(meta: *const Meta, task: Running, inode: u64, kind: UseKind) {
    // SAFETY: only whether there is an entry matters.
    let guarded = unsafe { GUARDS.get(inode) }.is_some();
    if !guarded && !matches!(kind, UseKind::Stacked) {
        return;
    }
    let found = Use {
        inode,
        memory: task.memory(),
        started: task.started(),
        pid: task.process(),
        threads: task.threads() as u32,
        kind: kind as u32,
        padding: 0,
    };
    // SAFETY: the kernel's own structure. If its buffer is full, the kernel comes again.
    unsafe {
        let found: *const Use = &raw const found;
        bpf_seq_write(
            (*meta).output,
            found.cast_mut().cast::<c_void>(),
            Use::SIZE as u32,
        );
    }
}
