//! The typed table of kernel facts: every offset and constant the BPF programs need.
//!
//! Offsets come from BTF. `I_DIRTY_PAGES` is an enumerator from 6.18 on; before that it stands only in
//! the format of a tracepoint. The dirty mark of `xa_flags` follows from an enumerator where the kernel
//! has it (6.10 and later), and is learnt from a scratch file elsewhere.

use premod_common::facts::Facts;

use super::{btf::Btf, tracefs};

/// One fact: what it is, what it is worth, where it was found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Fact {
    /// Its name, as `structure.member` or as the kernel's constant.
    pub name: &'static str,
    /// Its value; `None` if it could not be found.
    pub value: Option<u32>,
    /// Where the value was found, or would have been.
    pub source: &'static str,
    /// What does not work without it.
    pub cost: &'static str,
    /// Nothing works without it.
    pub essential: bool,
}

/// All facts about one kernel.
#[derive(Clone, Debug)]
pub struct FactTable {
    /// The table as the BPF programs take it. What is missing is 0.
    pub facts: Facts,
    /// The same with names and sources, for people.
    pub list: Vec<Fact>,
}

impl FactTable {
    /// The first fact that is missing and that a freeze needs.
    #[must_use]
    pub fn missing_for_freeze(&self) -> Option<&Fact> {
        self.list
            .iter()
            // The mark is looked for when the programs are there.
            .filter(|fact| fact.name != DIRTY_MARK)
            .find(|fact| {
                (fact.essential || matches!(fact.cost, FREEZING | CALLS)) && fact.value.is_none()
            })
    }

    /// The first essential fact that is missing.
    #[must_use]
    pub fn missing(&self) -> Option<&Fact> {
        self.list
            .iter()
            .find(|fact| fact.essential && fact.value.is_none())
    }

    /// What tracing can do without, and should not have to: a sentence for people.
    #[must_use]
    pub fn incomplete(&self) -> Option<String> {
        let fact = self.list.iter().find(|fact| {
            fact.value.is_none() && !fact.essential && fact.source.starts_with("tracefs")
        })?;
        Some(format!(
            "{} was not found, because tracefs is not mounted and cannot be: {} (mount -t tracefs tracefs /sys/kernel/tracing)",
            fact.name, fact.cost
        ))
    }

    /// Notes what the dirty mark of `xa_flags` is.
    pub fn set_dirty_mark(&mut self, mark: u32, source: &'static str) {
        self.facts.mapping_dirty_mark = mark;
        for fact in &mut self.list {
            if fact.name == DIRTY_MARK {
                fact.value = Some(mark);
                fact.source = source;
            }
        }
    }
}

/// Name of the dirty mark's entry.
pub const DIRTY_MARK: &str = "xa_flags dirty mark";

const PATHS: &str = "events cannot name the file";
const IDENTITY: &str = "inodes cannot be told apart";
const STATE: &str = "dirty and clean cannot be told apart";
const STORES: &str = "stores into mappings";
const WRITES: &str = "writes";
const LONG_WRITES: &str = "writes during which their file becomes clean";
const TRUNCATES: &str = "truncates";
const FREEZING: &str = "freezing";
const CALLS: &str = "freezing; a rename over another file is announced for both, and so are deduplication and btrfs's defragmentation";
const LINKS: &str = "files that lose their only name outside of the traced directories";
const RENAMES: &str = "files renamed into a traced directory";

/// A member of a kernel structure whose offset is needed.
struct Offset {
    /// As it is shown.
    name: &'static str,
    structure: &'static str,
    /// In the spellings of different kernels, between `|`.
    member: &'static str,
    /// Where it goes.
    field: Field,
    /// What does not work without it.
    cost: &'static str,
}

/// Structure, member (and where it is, if that is another path), the field it goes to, what it is needed for.
macro_rules! offset {
    ($structure:ident, $member:literal, $field:ident, $cost:expr) => {
        offset!($structure, $member at $member, $field, $cost)
    };
    ($structure:ident, $name:literal at $member:literal, $field:ident, $cost:expr) => {
        Offset {
            name: concat!(stringify!($structure), ".", $name),
            structure: stringify!($structure),
            member: $member,
            field: |facts| &mut facts.$field,
            cost: $cost,
        }
    };
}

const OFFSETS: &[Offset] = &[
    offset!(file, "f_inode", file_f_inode, IDENTITY),
    offset!(file, "f_path.mnt", file_f_path_mnt, PATHS),
    offset!(file, "f_path.dentry", file_f_path_dentry, PATHS),
    offset!(file, "f_flags", file_f_flags, STATE),
    offset!(path, "mnt", path_mnt, PATHS),
    offset!(path, "dentry", path_dentry, PATHS),
    offset!(vfsmount, "mnt_root", vfsmount_mnt_root, PATHS),
    offset!(mount, "mnt", mount_mnt, PATHS),
    offset!(mount, "mnt_parent", mount_mnt_parent, PATHS),
    offset!(mount, "mnt_mountpoint", mount_mnt_mountpoint, PATHS),
    offset!(mount, "mnt_ns", mount_mnt_ns, PATHS),
    offset!(mnt_namespace, "event", mnt_namespace_event, PATHS),
    offset!(dentry, "d_parent", dentry_d_parent, PATHS),
    offset!(dentry, "d_name.name", dentry_d_name_name, PATHS),
    offset!(dentry, "d_inode", dentry_d_inode, IDENTITY),
    offset!(dentry, "d_hash.pprev", dentry_d_hash_pprev, PATHS),
    // The union that d_alias is in has lost its name in 7.x.
    offset!(dentry, "d_alias" at "d_u.d_alias|d_alias", dentry_d_alias, PATHS),
    offset!(dentry, "d_seq" at "d_seq.seqcount.sequence", dentry_d_seq, PATHS),
    offset!(dentry, "d_flags", dentry_d_flags, PATHS),
    offset!(hlist_node, "next", hlist_node_next, PATHS),
    offset!(inode, "i_mode", inode_i_mode, IDENTITY),
    offset!(inode, "i_sb", inode_i_sb, IDENTITY),
    offset!(inode, "i_mapping", inode_i_mapping, STATE),
    offset!(inode, "i_ino", inode_i_ino, IDENTITY),
    offset!(inode, "i_generation", inode_i_generation, IDENTITY),
    offset!(inode, "i_dentry.first", inode_i_dentry_first, PATHS),
    offset!(inode, "i_nlink", inode_i_nlink, STATE),
    // A kernel with PREEMPT_RT counts elsewhere.
    offset!(inode, "i_rwsem" at "i_rwsem.count.counter|i_rwsem.rwbase.readers.counter", inode_i_rwsem, LINKS),
    offset!(address_space, "host", address_space_host, STATE),
    offset!(
        address_space,
        "i_pages.xa_flags",
        address_space_xa_flags,
        STATE
    ),
    offset!(super_block, "s_dev", super_block_s_dev, IDENTITY),
    offset!(super_block, "s_magic", super_block_s_magic, IDENTITY),
    offset!(super_block, "s_bdi", super_block_s_bdi, STATE),
    offset!(super_block, "s_type", super_block_s_type, IDENTITY),
    offset!(super_block, "s_root", super_block_s_root, PATHS),
    offset!(file_system_type, "name", file_system_type_name, IDENTITY),
    offset!(vm_fault, "vma", vm_fault_vma, STORES),
    offset!(vm_fault, "pgoff", vm_fault_pgoff, STORES),
    offset!(vm_fault, "flags", vm_fault_flags, STORES),
    offset!(vm_area_struct, "vm_file", vm_area_struct_vm_file, STORES),
    offset!(vm_area_struct, "vm_flags", vm_area_struct_vm_flags, STORES),
    offset!(kiocb, "ki_filp", kiocb_ki_filp, WRITES),
    offset!(kiocb, "ki_pos", kiocb_ki_pos, WRITES),
    offset!(kiocb, "ki_flags", kiocb_ki_flags, WRITES),
    offset!(iov_iter, "count", iov_iter_count, WRITES),
    offset!(iattr, "ia_valid", iattr_ia_valid, TRUNCATES),
    offset!(iattr, "ia_size", iattr_ia_size, TRUNCATES),
    offset!(folio, "mapping", folio_mapping, LONG_WRITES),
    offset!(renamedata, "old_dentry", renamedata_old_dentry, RENAMES),
    offset!(renamedata, "new_dentry", renamedata_new_dentry, RENAMES),
    offset!(inode, "i_dio_count.counter", inode_i_dio_count, FREEZING),
    offset!(inode, "i_writecount.counter", inode_i_writecount, FREEZING),
    offset!(
        address_space,
        "i_mmap_writable.counter",
        address_space_i_mmap_writable,
        FREEZING
    ),
    offset!(
        super_block,
        "s_writers.frozen",
        super_block_s_writers_frozen,
        FREEZING
    ),
    offset!(task_struct, "tgid", task_struct_tgid, FREEZING),
    offset!(task_struct, "mm", task_struct_mm, FREEZING),
    offset!(task_struct, "flags", task_struct_flags, CALLS),
    offset!(task_struct, "signal", task_struct_signal, FREEZING),
    offset!(task_struct, "pending.signal", task_struct_pending, FREEZING),
    offset!(
        task_struct,
        "group_leader",
        task_struct_group_leader,
        FREEZING
    ),
    offset!(task_struct, "ptrace", task_struct_ptrace, FREEZING),
    offset!(task_struct, "parent", task_struct_parent, FREEZING),
    offset!(
        task_struct,
        "start_boottime",
        task_struct_start_boottime,
        FREEZING
    ),
    offset!(
        signal_struct,
        "nr_threads",
        signal_struct_nr_threads,
        FREEZING
    ),
    offset!(signal_struct, "live.counter", signal_struct_live, FREEZING),
    offset!(
        signal_struct,
        "shared_pending.signal",
        signal_struct_shared_pending,
        FREEZING
    ),
    offset!(
        signal_struct,
        "group_stop_count",
        signal_struct_group_stop_count,
        FREEZING
    ),
    offset!(signal_struct, "flags", signal_struct_flags, FREEZING),
    offset!(
        task_struct,
        "thread_info.flags",
        task_struct_thread_info_flags,
        FREEZING
    ),
    offset!(task_struct, "sighand", task_struct_sighand, FREEZING),
    offset!(sighand_struct, "action", sighand_struct_action, FREEZING),
    offset!(task_struct, "files", task_struct_files, FREEZING),
    offset!(files_struct, "count.counter", files_struct_count, FREEZING),
    offset!(files_struct, "fdt", files_struct_fdt, FREEZING),
    offset!(fdtable, "max_fds", fdtable_max_fds, FREEZING),
    offset!(fdtable, "fd", fdtable_fd, FREEZING),
    offset!(mm_struct, "mm_users.counter", mm_struct_mm_users, FREEZING),
    offset!(pt_regs, "orig_ax", pt_regs_orig_ax, CALLS),
    offset!(pt_regs, "ax", pt_regs_ax, CALLS),
    offset!(pt_regs, "si", pt_regs_si, CALLS),
    offset!(pt_regs, "cx", pt_regs_cx, CALLS),
];

/// Where a fact goes.
type Field = fn(&mut Facts) -> &mut u32;

/// Structures whose types programs name to the kernel, each with the field that the type's number goes to.
const TYPES: &[(&str, Field)] = &[
    ("file", |facts| &mut facts.type_file),
    ("address_space", |facts| &mut facts.type_address_space),
    ("kiocb", |facts| &mut facts.type_kiocb),
    ("iov_iter", |facts| &mut facts.type_iov_iter),
    ("inode", |facts| &mut facts.type_inode),
    ("dentry", |facts| &mut facts.type_dentry),
    ("vfsmount", |facts| &mut facts.type_vfsmount),
    ("iattr", |facts| &mut facts.type_iattr),
    ("vm_fault", |facts| &mut facts.type_vm_fault),
    ("timespec64", |facts| &mut facts.type_timespec64),
];

/// Collects all facts that can be had without asking the kernel to run anything.
#[must_use]
pub fn gather(btf: &Btf) -> FactTable {
    let mut facts = Facts::default();
    let mut list = Vec::with_capacity(OFFSETS.len() + 4);
    for offset in OFFSETS {
        let value = offset
            .member
            .split('|')
            .find_map(|spelling| btf.offset(offset.structure, spelling));
        *(offset.field)(&mut facts) = value.unwrap_or(0);
        list.push(Fact {
            name: offset.name,
            value,
            source: "BTF",
            cost: offset.cost,
            essential: !matches!(offset.cost, FREEZING | CALLS),
        });
    }

    let mark = btf
        .enumerator("___GFP_LAST_BIT")
        .and_then(|bit| 1u32.checked_shl(bit.try_into().ok()?));
    facts.mapping_dirty_mark = mark.unwrap_or(0);
    list.push(Fact {
        name: DIRTY_MARK,
        value: mark,
        source: if mark.is_some() {
            "BTF ___GFP_LAST_BIT"
        } else {
            "a scratch file"
        },
        cost: STATE,
        essential: true,
    });

    let (dirty_pages, source) = i_dirty_pages(btf);
    facts.i_dirty_pages = dirty_pages.unwrap_or(0);
    list.push(Fact {
        name: "I_DIRTY_PAGES",
        value: dirty_pages,
        source,
        cost: "stores to DAX files may be missed, and, once in a million, a change whose page is written back just when it becomes dirty",
        essential: false,
    });

    let write_fault = btf
        .enumerator("FAULT_FLAG_WRITE")
        .and_then(|value| value.try_into().ok());
    facts.fault_flag_write = write_fault.unwrap_or(0);
    list.push(Fact {
        name: "FAULT_FLAG_WRITE",
        value: write_fault,
        source: "BTF",
        cost: "stores to DAX files are announced late",
        essential: false,
    });

    facts.iomap_is_old = iomap_is_old(btf).into();
    facts.bpf_rdonly_cast = btf.function("bpf_rdonly_cast").unwrap_or(0);
    for (structure, place) in TYPES {
        *place(&mut facts) = btf.structure(structure).unwrap_or(0);
    }
    facts.page_shift = rustix::param::page_size().trailing_zeros();
    facts.o_direct = libc::O_DIRECT as u32;
    FactTable { facts, list }
}

/// Whether iomap, by which ext4, xfs and btrfs write directly, does without `kiocb_invalidate_pages`: before 6.5, when
/// `current->backing_dev_info` went by the same series of changes.
pub(super) fn iomap_is_old(btf: &Btf) -> bool {
    btf.offset("task_struct", "backing_dev_info").is_some()
}

/// From overlayfs's own inode to its dentry on the upper filesystem; `None` if there is no overlayfs, or if it cannot be
/// found. Most kernels have it as a module, with type information of its own.
#[must_use]
pub fn overlay_upper(btf: &Btf) -> Option<u32> {
    let between = |btf: &Btf| {
        let offset = |member| btf.offset("ovl_inode", member);
        offset("__upperdentry")?.checked_sub(offset("vfs_inode")?)
    };
    between(btf).or_else(|| {
        let module = std::fs::read("/sys/kernel/btf/overlay").ok()?;
        between(&btf.with_module(&module).ok()?)
    })
}

fn i_dirty_pages(btf: &Btf) -> (Option<u32>, &'static str) {
    if let Some(value) = btf
        .enumerator("I_DIRTY_PAGES")
        .and_then(|value| value.try_into().ok())
    {
        return (Some(value), "BTF");
    }
    let value = tracefs::read("events/writeback/writeback_mark_inode_dirty/format")
        .and_then(|format| tracefs::flag(&format, "I_DIRTY_PAGES"));
    (value, "tracefs writeback_mark_inode_dirty/format")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_beyond_the_word_is_missing() {
        let strings = b"\0___GFP_LAST_BIT\0";
        let words = [
            0x0001_eb9f,
            24,
            0,
            20,
            20,
            strings.len() as u32,
            0,
            6 << 24 | 1,
            4,
            1,
            64,
        ];
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        let btf = Btf::parse([&bytes[..], strings].concat()).unwrap();
        assert_eq!(btf.enumerator("___GFP_LAST_BIT"), Some(64));
        assert_eq!(gather(&btf).facts.mapping_dirty_mark, 0);
    }

    #[test]
    fn what_can_be_done_without_is_told_in_a_sentence() {
        let table = |value, source, essential| FactTable {
            facts: Facts::default(),
            list: vec![Fact {
                name: "I_DIRTY_PAGES",
                value,
                source,
                cost: "something may be missed",
                essential,
            }],
        };
        let sentence = table(None, "tracefs x/format", false).incomplete().unwrap();
        assert!(
            sentence.contains("I_DIRTY_PAGES") && sentence.contains("something may be missed"),
            "{sentence}"
        );
        assert_eq!(table(Some(4), "tracefs x/format", false).incomplete(), None);
        assert_eq!(table(None, "BTF", false).incomplete(), None);
    }

    #[test]
    fn every_field_is_asked_for_once() {
        let mut facts = Facts::default();
        for (index, offset) in OFFSETS.iter().enumerate() {
            let place = (offset.field)(&mut facts);
            assert_eq!(*place, 0, "{} shares a field", offset.name);
            *place = index as u32 + 1;
        }
    }
}
