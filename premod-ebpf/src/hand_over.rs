//! How kprobes go on with an inode that is not quiet: all in one and the same program.
//!
//! With all that may follow, each of them would be verified for as long as all the others together take now. They write down
//! what they have found out and call that program as a function: a tail call from a function comes back to its caller. There
//! is no such program for fentry, which the kernel lets call only programs for the same function.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    macros::{kprobe, map},
    maps::{PerCpuArray, ProgramArray},
    programs::ProbeContext,
};
use premod_common::facts::Facts;

use core::{ffi::c_void, mem::offset_of};

use crate::{
    emit::Change,
    kernel::{Inode, Place, cast, untyped},
    maps::{Count, count},
    protocol::How,
    touch::{Advances, advance},
};

/// What a hook has found out. Nobody else's kprobe runs on this CPU meanwhile.
#[map]
static HANDED_OVER: PerCpuArray<HandedOver> = PerCpuArray::with_max_entries(1, 0);

/// The program that goes on.
#[map]
static ADVANCE: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct HandedOver {
    inode: u64,
    place: Place,
    how: How,
    offset: u64,
    length: u64,
    op: u8,
    unpaged: bool,
    has_range: bool,
}

impl Advances for ProbeContext {
    #[inline(always)]
    fn advance(&self, inode: Inode, place: Place, change: Change, how: How) {
        let Some(handed_over) = HANDED_OVER.get_ptr_mut(0) else {
            return;
        };
        let (offset, length) = change.range.unwrap_or_default();
        // SAFETY: the pointer comes from the map.
        unsafe {
            *handed_over = HandedOver {
                inode: untyped(inode.address()),
                place: Place {
                    mount: untyped(place.mount),
                    dentry: untyped(place.dentry),
                },
                how,
                offset,
                length,
                op: change.op,
                unpaged: change.unpaged,
                has_range: change.range.is_some(),
            };
        }
        hand_over(self.as_ptr());
    }
}

/// Calls the program that goes on.
#[inline(never)]
fn hand_over(context: *mut c_void) -> i32 {
    // SAFETY: the context of a kprobe, as the program that is called has one.
    unsafe { ADVANCE.tail_call(&ProbeContext::new(context.cast::<pt_regs>().cast()), 0) };
    // The loader has not put it there.
    count(Count::Lost);
    0
}

#[kprobe]
fn kprobe_advance(_ctx: ProbeContext) -> u32 {
    let Some(handed_over) = HANDED_OVER.get_ptr(0) else {
        return 0;
    };
    // SAFETY: the pointer comes from the map.
    let handed_over = unsafe { *handed_over };
    let inode = Inode(cast::<{ offset_of!(Facts, type_inode) }>(handed_over.inode));
    let place = Place {
        mount: cast::<{ offset_of!(Facts, type_vfsmount) }>(handed_over.place.mount) as u64,
        dentry: cast::<{ offset_of!(Facts, type_dentry) }>(handed_over.place.dentry) as u64,
    };
    let change = Change {
        op: handed_over.op,
        unpaged: handed_over.unpaged,
        range: handed_over
            .has_range
            .then_some((handed_over.offset, handed_over.length)),
    };
    advance(inode, place, change, handed_over.how);
    0
}
