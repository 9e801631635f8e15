//! Typed views of kernel structures.
//!
//! The hook's argument is a pointer whose type the verifier knows, and `*(pointer + offset)` is a checked
//! load: it costs one instruction, and reads as zero instead of faulting. The offsets come from the
//! loader ([`crate::facts`]). Pointers that lost their type (kept in a map, computed) are read by [`read`].

use core::{
    arch::asm,
    ffi::c_void,
    mem::{MaybeUninit, offset_of},
    ptr::read_volatile,
};

use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_probe_read_kernel};

use premod_common::facts::{Facts, mark};

use crate::facts::{fact, setting};

const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;
pub(crate) const O_ACCMODE: u32 = 0o3;

/// Loads a member of a structure that the verifier knows, by the fact that is its offset:
/// `load!(inode, inode_i_sb)`, or with the member's type, `load!(inode, inode_i_mode: u16)`.
macro_rules! load {
    ($base:expr, $field:ident) => {
        load!($base, $field: _)
    };
    ($base:expr, $field:ident : $type:ty) => {
        $crate::kernel::load_member::<
            { core::mem::offset_of!(premod_common::facts::Facts, $field) },
            $type,
        >($base)
    };
}

pub(crate) use load;

/// One instruction, whose offset the loader fills in.
///
/// # Safety
/// `base` is a pointer to a kernel structure, from a hook's argument or loaded from one, and the fact at `FACT`
/// (bytes in [`premod_common::facts::Facts`]) is the offset of a member of type `T`.
#[inline(always)]
pub(crate) unsafe fn load_member<const FACT: usize, T: Copy>(base: *const u8) -> T {
    /// The size in the words of BPF's assembler.
    macro_rules! instruction {
        ($size:literal) => {{
            let value: u64;
            // SAFETY: the verifier checks offset and size against the structure; a bad address reads as zero.
            unsafe {
                asm!(
                    concat!("{value} = *(", $size, " *)({base} + {mark})"),
                    value = out(reg) value,
                    base = in(reg) base,
                    mark = const mark::OFFSET + FACT as i32 / 4,
                    options(pure, readonly, nostack),
                );
            }
            value
        }};
    }
    const { assert!(matches!(size_of::<T>(), 2 | 4 | 8)) };
    let value = match size_of::<T>() {
        8 => instruction!("u64"),
        4 => instruction!("u32"),
        _ => instruction!("u16"),
    };
    // SAFETY: BPF runs on little-endian machines here: a smaller value is in the lower bytes, which come first.
    unsafe { core::mem::transmute_copy(&value) }
}

/// Gives an address a type that the verifier knows, so that [`load!`] works with it: `bpf_rdonly_cast`, a call that the
/// kernel replaces by one instruction. The type's number is the fact that is so many bytes into [`Facts`].
#[inline(always)]
pub(crate) fn cast<const TYPE: usize>(address: u64) -> *const u8 {
    let typed: u64;
    // SAFETY: the function takes any address: loads from a bad one read as zero.
    unsafe {
        asm!(
            "w2 = {kind}",
            "call {function}",
            kind = const mark::VALUE + TYPE as i32 / 4,
            function = const mark::CALL + offset_of!(Facts, bpf_rdonly_cast) as i32 / 4,
            out("r0") typed,
            inlateout("r1") address => _,
            out("r2") _,
            out("r3") _,
            out("r4") _,
            out("r5") _,
            options(pure, nomem, nostack),
        );
    }
    typed as *const u8
}

/// A kernel address that the verifier takes for a number from here on: as such it can be passed to functions that are
/// verified by themselves. On little-endian machines the instruction does nothing, and takes no time.
#[inline(always)]
pub(crate) fn untyped(address: u64) -> u64 {
    let mut number = address;
    // SAFETY: registers only.
    unsafe { asm!("{number} = le64 {number}", number = inout(reg) number) };
    number
}

/// Reads from an address whose type the verifier does not know; zero if it cannot be read.
#[inline(always)]
pub(crate) fn read(address: u64) -> u64 {
    // SAFETY: all bit patterns are a u64.
    unsafe { read_as(address) }
}

/// As [`read`], for members of 32 bits.
#[inline(always)]
pub(crate) fn read_u32(address: u64) -> u32 {
    // SAFETY: all bit patterns are a u32.
    unsafe { read_as(address) }
}

/// Without a branch for what cannot be read: the helper writes zeroes then (`bpf_probe_read_kernel_common`), and the
/// verifier would follow both ways from there on.
///
/// # Safety
/// All bit patterns are a `T`.
#[inline(always)]
unsafe fn read_as<T>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address, and writes all of the value in any case.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        );
        value.assume_init()
    }
}

/// As [`read`], for code without loops. Where the kernel lets us give an address a type, this is a load, which costs a tenth
/// of what the helper does; the verifier leaves one of the two ways only.
#[inline(always)]
pub(crate) fn peek(address: u64) -> u64 {
    if fact!(bpf_rdonly_cast) == 0 {
        return read(address);
    }
    // SAFETY: a load by a pointer that the verifier knows: a bad address reads as zero.
    unsafe { read_volatile(cast_to_word(address).cast()) }
}

/// As [`peek`], for members of 32 bits.
#[inline(always)]
pub(crate) fn peek_u32(address: u64) -> u32 {
    if fact!(bpf_rdonly_cast) == 0 {
        return read_u32(address);
    }
    // SAFETY: as in `peek`.
    unsafe { read_volatile(cast_to_word(address).cast()) }
}

/// Any structure will do that begins with a number of 64 bits.
#[inline(always)]
fn cast_to_word(address: u64) -> *const u8 {
    cast::<{ offset_of!(Facts, type_timespec64) }>(address)
}

/// Whether the dentry at this address cannot be found by its name any more.
#[inline(always)]
pub(crate) fn is_unhashed(dentry: u64) -> bool {
    read(dentry + u64::from(fact!(dentry_d_hash_pprev))) == 0
}

/// The running task: process id << 32 | thread id.
pub(crate) type Task = u64;

/// The task that the program runs for.
#[inline(always)]
pub(crate) fn current_task() -> Task {
    // SAFETY: no preconditions.
    unsafe { bpf_get_current_pid_tgid() }
}

/// Its process id in the initial pid namespace.
#[inline(always)]
pub(crate) fn current_process() -> u32 {
    (current_task() >> 32) as u32
}

/// `struct inode`
#[derive(Clone, Copy)]
pub(crate) struct Inode(pub(crate) *const u8);

impl Inode {
    /// The inode whose pages a mapping holds.
    ///
    /// # Safety
    /// `mapping` is a `struct address_space` that the verifier knows, and not null.
    #[inline(always)]
    pub(crate) unsafe fn of_mapping(mapping: *const u8) -> Option<Self> {
        // SAFETY: the offset is that of host in struct address_space, a pointer.
        let host: *const u8 = unsafe { load!(mapping, address_space_host) };
        (!host.is_null()).then_some(Self(host))
    }

    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub(crate) fn number(self) -> u64 {
        // SAFETY: i_ino is a 64-bit number: unsigned long, from 7.x on u64.
        unsafe { load!(self.0, inode_i_ino) }
    }

    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        // SAFETY: i_generation is a u32.
        unsafe { load!(self.0, inode_i_generation) }
    }

    /// How many names it has in its filesystem.
    #[inline(always)]
    pub(crate) fn links(self) -> u32 {
        // SAFETY: i_nlink is an unsigned int.
        unsafe { load!(self.0, inode_i_nlink) }
    }

    /// More than one name in its filesystem.
    #[inline(always)]
    pub(crate) fn has_links(self) -> bool {
        self.links() > 1
    }

    #[inline(always)]
    pub(crate) fn superblock(self) -> SuperBlock {
        // SAFETY: i_sb is a pointer.
        SuperBlock(unsafe { load!(self.0, inode_i_sb) })
    }

    /// `i_mapping->i_pages.xa_flags`
    #[inline(always)]
    pub(crate) fn mapping_flags(self) -> u32 {
        // SAFETY: i_mapping is a pointer to an address_space, whose xa_flags is a gfp_t (u32).
        unsafe {
            let mapping: *const u8 = load!(self.0, inode_i_mapping);
            load!(mapping, address_space_xa_flags)
        }
    }

    /// The mapping's dirty mark, or 0.
    #[inline(always)]
    pub(crate) fn dirty_mark(self) -> u32 {
        self.mapping_flags() & fact!(mapping_dirty_mark)
    }

    #[inline(always)]
    pub(crate) fn is_dirty(self) -> bool {
        self.dirty_mark() != 0
    }

    /// No file of anybody: it has no name, and nobody can have it open, which would take a dentry. Such is the inode through
    /// which btrfs moves data of others.
    #[inline(always)]
    fn is_internal(self) -> bool {
        // SAFETY: i_nlink is an unsigned int, i_dentry.first a pointer.
        let (links, alias) = unsafe {
            (
                load!(self.0, inode_i_nlink: u32),
                load!(self.0, inode_i_dentry_first: u64),
            )
        };
        // One comparison: of two the verifier would follow each outcome.
        u64::from(links) | untyped(alias) == 0
    }

    /// Somebody's regular file on a filesystem that tracks dirty pages and holds the data itself.
    #[inline(always)]
    pub(crate) fn is_tracked_kind(self) -> bool {
        // SAFETY: i_mode is a umode_t (u16).
        let mode: u16 = unsafe { load!(self.0, inode_i_mode) };
        if mode & S_IFMT != S_IFREG {
            return false;
        }
        let superblock = self.superblock();
        superblock.bdi() != setting!(untracked_bdi)
            && superblock.magic() != setting!(overlay_magic)
            && !self.is_internal()
    }
}

/// `struct super_block`
#[derive(Clone, Copy)]
pub(crate) struct SuperBlock(pub(crate) *const u8);

impl SuperBlock {
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        // SAFETY: s_dev is a dev_t (u32).
        unsafe { load!(self.0, super_block_s_dev) }
    }

    #[inline(always)]
    pub(crate) fn magic(self) -> u64 {
        // SAFETY: s_magic is an unsigned long.
        unsafe { load!(self.0, super_block_s_magic) }
    }

    /// Address of the `backing_dev_info`.
    #[inline(always)]
    pub(crate) fn bdi(self) -> u64 {
        // SAFETY: s_bdi is a pointer.
        unsafe { load!(self.0, super_block_s_bdi) }
    }

    /// Address of the filesystem type's name.
    #[inline(always)]
    pub(crate) fn type_name(self) -> u64 {
        // SAFETY: s_type is a pointer to a file_system_type, whose name is a pointer.
        unsafe {
            let file_system: *const u8 = load!(self.0, super_block_s_type);
            load!(file_system, file_system_type_name)
        }
    }
}

/// `struct file`
#[derive(Clone, Copy)]
pub(crate) struct File(pub(crate) *const u8);

impl File {
    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        // SAFETY: f_inode is a pointer.
        Inode(unsafe { load!(self.0, file_f_inode) })
    }

    #[inline(always)]
    fn flags(self) -> u32 {
        // SAFETY: f_flags is an unsigned int.
        unsafe { load!(self.0, file_f_flags) }
    }

    /// Opened with `O_DIRECT`: writes may leave no dirty page behind.
    #[inline(always)]
    pub(crate) fn is_direct(self) -> bool {
        self.flags() & fact!(o_direct) != 0
    }

    /// Opened for reading only: the operation is about to be refused.
    #[inline(always)]
    pub(crate) fn is_read_only(self) -> bool {
        self.flags() & O_ACCMODE == 0
    }

    #[inline(always)]
    pub(crate) fn place(self) -> Place {
        // SAFETY: f_path is a struct path inside of the file.
        unsafe {
            Place {
                mount: load!(self.0, file_f_path_mnt),
                dentry: load!(self.0, file_f_path_dentry),
            }
        }
    }
}

/// Address of the namespace of a mount, of which this is the `struct vfsmount`.
#[inline(always)]
pub(crate) fn namespace_of(mount: u64) -> u64 {
    read(mount - u64::from(fact!(mount_mnt)) + u64::from(fact!(mount_mnt_ns)))
}

/// Where the file is, as far as the hook knows: addresses of `struct vfsmount` and `struct dentry`, 0 when not
/// known. The dentry's, as long as it is passed on unchanged, is one whose type the verifier knows.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) mount: u64,
    pub(crate) dentry: u64,
}

impl Place {
    /// The hook knows the inode only.
    ///
    /// The compiler must not see that both are 0: it would call `memset`, and the verifier would not know any more
    /// that the dentry is none to load from.
    #[inline(always)]
    pub(crate) fn unknown() -> Self {
        let zero: u64;
        // SAFETY: registers only.
        unsafe { asm!("{zero} = 0", zero = out(reg) zero) };
        Self {
            mount: zero,
            dentry: zero,
        }
    }

    /// Whether the dentry is one of the inode's: overlayfs gives its own together with the inode of the
    /// upper filesystem.
    #[inline(always)]
    pub(crate) fn names(self, inode: Inode) -> bool {
        // SAFETY: a hook's dentry has kept its type; the offset is that of d_inode.
        self.dentry != 0
            && unsafe { load!(self.dentry as *const u8, dentry_d_inode: u64) } == inode.address()
    }

    /// Whether the name is one no more.
    #[inline(always)]
    pub(crate) fn is_lost(self) -> bool {
        let dentry = self.dentry as *const u8;
        // SAFETY: a hook's dentry has kept its type; the offsets are those of members of struct dentry.
        self.dentry != 0
            && unsafe {
                load!(dentry, dentry_d_hash_pprev: u64) == 0
                    && load!(dentry, dentry_d_parent: u64) != self.dentry
            }
    }
}
