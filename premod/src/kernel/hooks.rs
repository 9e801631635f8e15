//! The table of hooks.

use super::attach::{Attachment, Hook, When, fentry, fexit, kprobe, lsm, tracepoint};

/// Tells the end of a rename which one it is.
const RENAME_MOVES: Attachment = kprobe("take_dentry_name_snapshot", "kprobe_rename_moves");

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
        ways: &[
            kprobe("release_dentry_name_snapshot", "kprobe_rename_ends").with(&RENAME_MOVES),
            fexit("vfs_rename", "vfs_rename").with_twin("vfs_rename_again"),
        ],
        cost: "files renamed into a traced directory would be missed, and paths would be those of before",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "renames that begin",
        ways: &[
            lsm("inode_rename", "lsm_inode_rename"),
            kprobe("security_inode_rename", "kprobe_inode_rename"),
            fentry("security_inode_rename", "fentry_inode_rename"),
        ],
        cost: "files that are being renamed into a traced directory, or new ones below such a directory, would be missed until they have been",
        essential: true,
        decides: true,
        when: When::Always,
    },
    Hook {
        sees: "hard links that begin",
        ways: &[
            lsm("inode_link", "lsm_inode_link"),
            kprobe("security_inode_link", "kprobe_inode_link"),
            fentry("security_inode_link", "fentry_inode_link"),
        ],
        cost: "changes of files that are being linked into a traced directory would be missed until they have been",
        essential: true,
        decides: true,
        when: When::Scoped,
    },
    Hook {
        sees: "hard links",
        ways: &[fexit("vfs_link", "vfs_link").with_twin("vfs_link_again")],
        cost: "files linked into a traced directory that lose their old name would be missed",
        essential: true,
        decides: true,
        when: When::Scoped,
    },
    Hook {
        sees: "symbolic links",
        ways: &[fexit("vfs_symlink", "vfs_symlink").with_twin("vfs_symlink_again")],
        cost: "where a PATH leads through a new symbolic link would be noticed only after up to 0.1 s",
        essential: false,
        decides: true,
        when: When::Scoped,
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
        sees: "both files of ioctls that exchange the blocks of two",
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
            // Before 6.5.
            kprobe(
                "invalidate_inode_pages2_range",
                "kprobe_invalidate_inode_pages2_range",
            ),
            fentry(
                "invalidate_inode_pages2_range",
                "invalidate_inode_pages2_range",
            ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::attach::Kind;

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
