//! The arguments of the kernel function that a program hangs on, whether by fentry, tracepoint or kprobe.
//!
//! The kernel skips a fentry program if another task was preempted inside of it on the same CPU. It does not preempt
//! a task inside of a kprobe, so that those are not skipped for it; they cost more, and are attached where the kernel
//! preempts tasks that run in it.

use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext};

use crate::{kernel::cast, touch::Advances};

/// What a program is given.
pub(crate) trait Arguments: Advances {
    /// An argument that is a number; its upper half is undefined if the function takes only 32 bits.
    fn number(&self, index: usize) -> u64;

    /// An argument that is a pointer to a structure. `TYPE` is where in [`premod_common::facts::Facts`] the number of the
    /// structure's type stands.
    fn pointer<const TYPE: usize>(&self, index: usize) -> *const u8;
}

/// These pass on what the kernel has typed.
macro_rules! typed_by_the_kernel {
    ($($context:ty),*) => {$(
        impl Arguments for $context {
            #[inline(always)]
            fn number(&self, index: usize) -> u64 {
                self.arg(index)
            }

            #[inline(always)]
            fn pointer<const TYPE: usize>(&self, index: usize) -> *const u8 {
                self.arg(index)
            }
        }
    )*};
}

typed_by_the_kernel!(FEntryContext, BtfTracePointContext);

impl Arguments for ProbeContext {
    #[inline(always)]
    fn number(&self, index: usize) -> u64 {
        // There are as many registers as the functions that we hang on have arguments.
        self.arg(index).unwrap_or(0)
    }

    #[inline(always)]
    fn pointer<const TYPE: usize>(&self, index: usize) -> *const u8 {
        cast::<TYPE>(self.number(index))
    }
}

/// An argument that is a pointer to a structure, by the fact that is the structure's type:
/// `pointer!(arguments, 0, type_file)`.
macro_rules! pointer {
    ($arguments:expr, $index:expr, $type:ident) => {
        $crate::arguments::Arguments::pointer::<
            { core::mem::offset_of!(premod_common::facts::Facts, $type) },
        >($arguments, $index)
    };
}

/// Two programs for the entry of a function, one by fentry and one by kprobe, that do the same:
/// `entries!("function": fentry_program, kprobe_program => what_both_do)`.
macro_rules! entries {
    ($function:literal : $fentry:ident, $kprobe:ident => $what:path) => {
        #[aya_ebpf::macros::fentry(function = $function)]
        fn $fentry(ctx: aya_ebpf::programs::FEntryContext) -> i32 {
            $what(&ctx);
            0
        }

        #[aya_ebpf::macros::kprobe(function = $function)]
        fn $kprobe(ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            $what(&ctx);
            0
        }
    };
}

pub(crate) use {entries, pointer};
