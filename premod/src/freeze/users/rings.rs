//! Processes that write by `io_uring`.
//!
//! A request that is kept out cannot be repeated by the kernel, as a system call is: it ends with an error, which servers take
//! for one of the disk. So whoever has a ring, and a file open for writing, stands still before anybody is kept out. The
//! kernel's workers, which do what was requested already, are threads of the process: each comes to stand still when it
//! has nothing more to do, and everybody passes until then.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use premod_common::guard::{Mode, UseKind};

use super::User;
use crate::{
    error::Error,
    freeze::{
        gate::Gate,
        hold::processes::{has_ended, threads},
    },
};

/// How long they may take. Whoever takes longer, or cannot be seized, is kept out like anybody else: its requests fail.
const PATIENCE: Duration = Duration::from_secs(2);

impl Gate {
    pub(in crate::freeze) async fn hold_who_has_rings(
        &mut self,
        limit: Instant,
    ) -> Result<(), Error> {
        if self.builder.mode != Mode::Hold || !self.any(|look| look.writers > 0)? {
            return Ok(());
        }
        let users = self.users(&[UseKind::Open], limit).await?;
        let held = |user: &&User| user.pid != 1 && user.has_ring();
        let users: Vec<&User> = users.iter().filter(held).collect();
        if let Some(keeper) = &mut self.keeper {
            keeper
                .hold(&users, limit.min(Instant::now() + PATIENCE))
                .await;
        }
        Ok(())
    }
}

/// Whether a process has a ring among its descriptors. Its first thread has none any more when it has ended.
pub(super) fn has_ring(pid: u32) -> bool {
    if has_ended(pid, pid) {
        return threads(pid)
            .into_iter()
            .any(|one| thread_has_ring(pid, one));
    }
    thread_has_ring(pid, pid)
}

fn thread_has_ring(pid: u32, thread: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/task/{thread}/fd"));
    descriptors.into_iter().flatten().flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|file| file == Path::new("anon_inode:[io_uring]"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_known_by_its_descriptor() {
        let own = std::process::id();
        assert!(!has_ring(own));
        // Where io_uring is forbidden there is nothing to find.
        if let Ok(_ring) = io_uring::IoUring::new(2) {
            assert!(has_ring(own));
        }
    }
}
