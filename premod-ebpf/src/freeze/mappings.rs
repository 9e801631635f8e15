//! Stores through mappings, and mappings that could be stored through.

use aya_ebpf::{
    macros::{kprobe, lsm},
    programs::{LsmContext, ProbeContext},
};
use premod_common::{
    event::Op,
    guard::{Flight, Phase},
};

use crate::{
    calls::modify,
    facts::fact,
    flight::take_off,
    guard,
    keep_out::{refuse_store, tell_of_store},
    kernel::{File, load, read},
};

/// `PROT_WRITE`, `MAP_TYPE`, `MAP_SHARED` and `MAP_SHARED_VALIDATE` of the kernel's stable interface.
const PROT_WRITE: u64 = 0x2;
const MAP_TYPE: u64 = 0xf;
const MAP_SHARED: u64 = 0x1;
const MAP_SHARED_VALIDATE: u64 = 0x3;
/// `VM_SHARED` of include/linux/mm.h; see the trace's hooks/mmap.rs.
const VM_SHARED: u64 = 0x8;

/// `security_mmap_file(struct file *file, reqprot, prot, flags)`, 6.1 to 7.x: new writable shared mappings.
#[lsm(hook = "mmap_file")]
fn mmap_file(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(4);
    let file: *const u8 = ctx.arg(0);
    let protection: u64 = ctx.arg(2);
    let flags: u64 = ctx.arg(3);
    let kind = flags & MAP_TYPE;
    if verdict != 0
        || file.is_null()
        || protection & PROT_WRITE == 0
        || (kind != MAP_SHARED && kind != MAP_SHARED_VALIDATE)
    {
        return verdict;
    }
    modify(File(file).inode(), Op::Mmap)
}

/// `security_file_mprotect(struct vm_area_struct *vma, reqprot, prot)`, 6.1 to 7.x: shared mappings that
/// become writable.
#[lsm(hook = "file_mprotect")]
fn file_mprotect(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(3);
    let protection: u64 = ctx.arg(2);
    if verdict != 0 || protection & PROT_WRITE == 0 {
        return verdict;
    }
    let area: *const u8 = ctx.arg(0);
    // SAFETY: the offsets are those of vm_flags and vm_file in struct vm_area_struct.
    let file: *const u8 = unsafe {
        if load!(area, vm_area_struct_vm_flags: u64) & VM_SHARED == 0 {
            return 0;
        }
        load!(area, vm_area_struct_vm_file)
    };
    if file.is_null() {
        return 0;
    }
    modify(File(file).inode(), Op::Mmap)
}

/// `do_page_mkwrite(struct vm_fault *vmf)` on 6.1, `(vmf, struct folio *)` later: a store to a clean page of
/// a shared mapping, before the page can be stored to.
///
/// A kprobe, because nothing stands behind it, and the kernel never skips one: it does not preempt a task inside of it.
#[kprobe(function = "do_page_mkwrite")]
fn mkwrite_begins(ctx: ProbeContext) -> u32 {
    fault(ctx.arg(0).unwrap_or(0));
    0
}

/// `struct vm_fault`
#[inline(always)]
fn fault(fault: u64) {
    let area = read(fault + u64::from(fact!(vm_fault_vma)));
    let file = read(area + u64::from(fact!(vm_area_struct_vm_file)));
    let inode = read(file + u64::from(fact!(file_f_inode)));
    guard::at(inode, |set, phase, now| {
        if matches!(phase, Phase::Open) {
            return 0;
        }
        let ends = take_off(set, inode, Flight::Fault, now);
        if matches!(phase, Phase::Closed) {
            refuse_store(set, inode, now);
            if !ends {
                tell_of_store(set, inode);
            }
        }
        0
    });
}
