//! Stores through shared mappings.

use premod_common::event::Op;

use crate::{
    arguments::{Arguments, entries, pointer},
    emit::Change,
    kernel::{File, load},
    maps::fact,
    touch::{Advances, touch},
};

/// `do_page_mkwrite(struct vm_fault *vmf)` on 6.1, `(vmf, struct folio *)` later.
///
/// Every filesystem's `page_mkwrite` is called from here, when a task stores to a page of a shared
/// mapping that is write-protected because it is clean. The store itself happens after the fault.
#[inline(always)]
fn store(arguments: &impl Arguments) {
    stored(arguments, pointer!(arguments, 0, type_vm_fault));
}

entries!("do_page_mkwrite": do_page_mkwrite, kprobe_do_page_mkwrite => store);

/// `dax_iomap_fault(struct vm_fault *vmf, …)`, 6.1 to 7.x: every fault on a DAX file, which has no pages
/// that could become writable.
#[inline(always)]
fn dax_fault(arguments: &impl Arguments) {
    let fault = pointer!(arguments, 0, type_vm_fault);
    // SAFETY: the offsets are those of flags and vma in struct vm_fault, and of vm_flags in the vma.
    let (write, shared) = unsafe {
        let area: *const u8 = load!(fault, vm_fault_vma);
        (
            load!(fault, vm_fault_flags: u32) & fact!(fault_flag_write) != 0,
            load!(area, vm_area_struct_vm_flags: u64) & VM_SHARED != 0,
        )
    };
    if write && shared {
        stored(arguments, fault);
    }
}

entries!("dax_iomap_fault": dax_iomap_fault, kprobe_dax_iomap_fault => dax_fault);

/// `VM_SHARED` of include/linux/mm.h, which takes its value from the processors' page tables of the
/// nineties; 6.19 and later have it in BTF as `VMA_SHARED_BIT`, 3.
const VM_SHARED: u64 = 0x8;

#[inline(always)]
fn stored(program: &impl Advances, fault: *const u8) {
    // SAFETY: the offsets are those of vma and pgoff in struct vm_fault, and of vm_file in the vma.
    let (file, page) = unsafe {
        let area: *const u8 = load!(fault, vm_fault_vma);
        (
            File(load!(area, vm_area_struct_vm_file)),
            load!(fault, vm_fault_pgoff: u64),
        )
    };
    let range = Some((page << fact!(page_shift), 1 << fact!(page_shift)));
    let change = Change {
        op: Op::Mmap as u8,
        unpaged: false,
        range,
    };
    touch(program, file.inode(), file.place(), change);
}
