//! What the BPF programs are told about the running kernel before they are loaded.
//!
//! Nothing in here has a value of its own: user space finds every member in the kernel's BTF and tracefs, and
//! writes it into the programs' instructions, so that the verifier sees constants.

/// What the programs have in the places of facts, until the loader writes these there. The n-th field of [`Facts`]
/// has the mark plus n.
pub mod mark {
    /// Offset of a load. No structure of ours is that large.
    pub const OFFSET: i32 = 0x7000;
    /// Number that a register is set to (32 bits). None of ours is that large.
    pub const VALUE: i32 = 0x7ac7_0000;
    /// Helper that is called: a function of the kernel's own, by its type's number. The kernel has no helper with a
    /// number that large.
    pub const CALL: i32 = 0x7ca1_0000;
}

/// Offsets in bytes of kernel structure members, and constants that differ between kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(
    missing_docs,
    reason = "each field is named structure_member, as in the kernel"
)]
pub struct Facts {
    pub file_f_inode: u32,
    pub file_f_path_mnt: u32,
    pub file_f_path_dentry: u32,
    pub file_f_flags: u32,
    pub path_mnt: u32,
    pub path_dentry: u32,
    pub vfsmount_mnt_root: u32,
    pub mount_mnt: u32,
    pub mount_mnt_parent: u32,
    pub mount_mnt_mountpoint: u32,
    pub mount_mnt_ns: u32,
    pub mnt_namespace_event: u32,
    pub dentry_d_parent: u32,
    pub dentry_d_name_name: u32,
    pub dentry_d_inode: u32,
    pub dentry_d_hash_pprev: u32,
    pub dentry_d_alias: u32,
    pub dentry_d_seq: u32,
    pub dentry_d_flags: u32,
    pub hlist_node_next: u32,
    pub inode_i_mode: u32,
    pub inode_i_sb: u32,
    pub inode_i_mapping: u32,
    pub inode_i_ino: u32,
    pub inode_i_generation: u32,
    pub inode_i_dentry_first: u32,
    pub inode_i_nlink: u32,
    pub inode_i_rwsem: u32,
    pub address_space_host: u32,
    pub address_space_xa_flags: u32,
    pub super_block_s_dev: u32,
    pub super_block_s_magic: u32,
    pub super_block_s_bdi: u32,
    pub super_block_s_type: u32,
    pub super_block_s_root: u32,
    pub file_system_type_name: u32,
    pub vm_fault_vma: u32,
    pub vm_fault_pgoff: u32,
    pub vm_fault_flags: u32,
    pub vm_area_struct_vm_file: u32,
    pub vm_area_struct_vm_flags: u32,
    pub kiocb_ki_filp: u32,
    pub kiocb_ki_pos: u32,
    pub kiocb_ki_flags: u32,
    pub iov_iter_count: u32,
    pub iattr_ia_valid: u32,
    pub iattr_ia_size: u32,
    pub folio_mapping: u32,
    pub renamedata_old_dentry: u32,
    pub renamedata_new_dentry: u32,
    pub inode_i_dio_count: u32,
    pub inode_i_writecount: u32,
    pub address_space_i_mmap_writable: u32,
    pub super_block_s_writers_frozen: u32,
    pub task_struct_tgid: u32,
    pub task_struct_mm: u32,
    pub task_struct_flags: u32,
    pub task_struct_signal: u32,
    pub task_struct_pending: u32,
    pub task_struct_group_leader: u32,
    pub task_struct_ptrace: u32,
    pub task_struct_parent: u32,
    pub task_struct_start_boottime: u32,
    pub signal_struct_nr_threads: u32,
    pub signal_struct_live: u32,
    pub signal_struct_shared_pending: u32,
    pub signal_struct_group_stop_count: u32,
    pub signal_struct_flags: u32,
    pub task_struct_thread_info_flags: u32,
    pub task_struct_sighand: u32,
    pub sighand_struct_action: u32,
    pub task_struct_files: u32,
    pub files_struct_count: u32,
    pub files_struct_fdt: u32,
    pub fdtable_max_fds: u32,
    pub fdtable_fd: u32,
    pub mm_struct_mm_users: u32,
    /// From overlayfs's own inode to its `ovl_inode.__upperdentry`; 0 when it could not be found.
    pub overlay_upper: u32,
    pub pt_regs_orig_ax: u32,
    pub pt_regs_ax: u32,
    pub pt_regs_si: u32,
    pub pt_regs_cx: u32,
    /// Bit of `xa_flags` that says that some page is dirty (`PAGECACHE_TAG_DIRTY`).
    pub mapping_dirty_mark: u32,
    /// `I_DIRTY_PAGES`; 0 when it could not be found.
    pub i_dirty_pages: u32,
    /// `FAULT_FLAG_WRITE` of `vm_fault.flags`; 0 when it could not be found.
    pub fault_flag_write: u32,
    /// log2 of the page size in bytes.
    pub page_shift: u32,
    /// `O_DIRECT` of this architecture.
    pub o_direct: u32,
    /// 1 if direct writes do not come by `kiocb_invalidate_pages`.
    pub iomap_is_old: u32,
    /// Number of the type of the function `bpf_rdonly_cast` (6.2 and later); 0 if the kernel has none.
    pub bpf_rdonly_cast: u32,
    /// Numbers of the types of structures, for that function.
    pub type_file: u32,
    pub type_address_space: u32,
    pub type_kiocb: u32,
    pub type_iov_iter: u32,
    pub type_inode: u32,
    pub type_dentry: u32,
    pub type_vfsmount: u32,
    pub type_iattr: u32,
    pub type_vm_fault: u32,
    /// A structure that begins with a number of 64 bits.
    pub type_timespec64: u32,
}

impl Facts {
    /// How many facts there are.
    pub const COUNT: usize = size_of::<Self>() / size_of::<u32>();

    /// All of them in their order.
    #[must_use]
    pub const fn values(&self) -> [u32; Self::COUNT] {
        // SAFETY: repr(C), u32 only.
        unsafe { core::mem::transmute_copy(self) }
    }
}

/// What the BPF programs are told about this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Random number by which the enrolment hook knows premod's own request.
    pub nonce: u64,
    /// Address of the `backing_dev_info` that filesystems without dirty tracking share (procfs has it,
    /// and so has tmpfs); 0 when not known yet.
    pub untracked_bdi: u64,
    /// `s_magic` of overlayfs: its inodes have no data of their own, the upper filesystem's have.
    pub overlay_magic: u64,
    /// After how many nanoseconds a change that left no dirty page counts as written back.
    pub period: u64,
    /// Address of premod's own mount namespace, whose mounts decide what a PATH leads to; 0 when not known yet.
    pub namespace: u64,
    /// premod's own process id in the initial pid namespace.
    pub own_pid: u32,
    /// [`crate::inode::Scoped`] as a number.
    pub scoped: u32,
    /// Non-zero: premod's own modifications are announced too.
    pub include_own: u32,
    /// Non-zero: events say whether they are caused in one of the cgroups that are asked for.
    pub cgroups: u32,
}

impl Settings {
    /// As they stand in the programs' read-only data.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; size_of::<Self>()] {
        // SAFETY: repr(C), integers only, no padding (asserted below), and bytes need no alignment.
        unsafe { &*(&raw const *self).cast() }
    }
}

const _: () = assert!(size_of::<Settings>() == 56);
