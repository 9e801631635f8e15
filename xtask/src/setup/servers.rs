//! Database servers for the guest: Debian's packages, unpacked into a root directory of their own, which they are run in
//! (chroot), because the guest's own lacks most of what they are linked with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::apt::PrivateApt;
use crate::{paths, vm::Copied};

const PACKAGES: [&str; 4] = [
    "dash",
    "mariadb-client-core",
    "mariadb-server-core",
    "postgresql-15",
];

/// Dependencies that only maintainer scripts or unused programs need.
const LEFT_OUT: [&str; 30] = [
    "adduser",
    "debconf",
    "debianutils",
    "dpkg",
    "gcc-",
    "init-system-helpers",
    "libc-bin",
    "libc-l10n",
    "libdb5",
    "libfile-find",
    "libgdbm",
    "libjson",
    "libllvm",
    "libnumber",
    "libpam-modules",
    "libperl",
    "libsemanage",
    "libtext-glob",
    "libz3",
    "locales",
    "lsb-base",
    "mariadb-common",
    "mysql-common",
    "netbase",
    "openssl",
    "passwd",
    "perl",
    "postgresql-client-common",
    "postgresql-common",
    "tzdata",
];

/// The programs that are needed; the others only take memory from the guest.
const PROGRAMS: [&str; 7] = [
    "initdb",
    "mariadb",
    "mariadbd",
    "pg_amcheck",
    "postgres",
    "psql",
    "tar",
];

/// Where programs are.
const PROGRAM_DIRECTORIES: [&str; 5] = [
    "bin",
    "sbin",
    "usr/bin",
    "usr/lib/postgresql/15/bin",
    "usr/sbin",
];

const PRUNED: [&str; 14] = [
    "etc",
    "usr/lib/postgresql/15/lib/bitcode",
    "usr/lib/postgresql/15/lib/pgxs",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/sasl2",
    "usr/share/doc",
    "usr/share/gcc",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/postgresql/15/man",
    "usr/share/postgresql/15/tsearch_data",
    "usr/share/postgresql-common",
    "var",
];

/// Counted up when what is done with the packages changes.
const REVISION: u32 = 2;

/// Megabytes of memory for a guest that has them: it keeps them in memory, and runs four of them at a time.
pub(crate) const MEMORY: u32 = 3072;

fn root() -> PathBuf {
    paths::vm().join("servers/root")
}

fn stamp() -> PathBuf {
    paths::vm().join("servers/stamp")
}

fn wanted_stamp() -> String {
    format!("{REVISION} {}", PACKAGES.join(" "))
}

/// Whether they are there as this version of xtask wants them.
pub(crate) fn present() -> bool {
    fs::read_to_string(stamp()).is_ok_and(|stamp| stamp == wanted_stamp())
}

/// What the guest gets: the servers, the script that copies their data, and Debian's shell and tar for it. The shell of
/// busybox takes busybox's tar, which can do less.
pub(crate) fn copied() -> Vec<Copied> {
    let script = paths::root().join("docs/examples/copy-server.sh");
    let program = |name| root().join("bin").join(name);
    let places = [
        (root(), "/servers"),
        (script, "/usr/bin/copy-server"),
        (program("sh"), "/usr/bin/sh"),
        (program("tar"), "/usr/bin/tar"),
    ];
    let copied = places.map(|(host, guest)| Copied {
        host,
        guest: guest.to_owned(),
    });
    copied.to_vec()
}

/// Fetches and unpacks them.
pub(crate) fn fetch(apt: &PrivateApt) -> Result<String> {
    let parent = paths::vm().join("servers");
    if parent.exists() {
        fs::remove_dir_all(&parent).with_context(|| format!("rm -r {}", parent.display()))?;
    }
    // Packages of another part may still lie there.
    apt.clean()?;
    let root = root();
    apt.unpack_into(&root, &PACKAGES, &LEFT_OUT, &PRUNED)?;
    prune_programs(&root)?;
    for libraries in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
        name_as_linked(&root.join(libraries))?;
    }
    // The link is absolute, and would lead to this machine's own.
    let loader = "ld-linux-x86-64.so.2";
    let link = root.join("lib64").join(loader);
    drop(fs::remove_file(&link));
    fs::copy(root.join("lib/x86_64-linux-gnu").join(loader), &link)
        .with_context(|| format!("cannot make {}", link.display()))?;
    fs::write(stamp(), wanted_stamp()).context("cannot write the servers' stamp")?;
    Ok("unpacked".to_owned())
}

/// Keeps the programs that are needed, and a shell, which initdb runs.
fn prune_programs(root: &Path) -> Result<()> {
    for directory in PROGRAM_DIRECTORIES {
        let directory = root.join(directory);
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !PROGRAMS.iter().any(|program| name == **program) && name != "dash" {
                fs::remove_file(entry.path())
                    .with_context(|| format!("rm {}", entry.path().display()))?;
            }
        }
    }
    let shell = root.join("bin/dash");
    fs::rename(&shell, root.join("bin/sh")).with_context(|| format!("mv {}", shell.display()))
}

/// Gives libraries the names that programs are linked with, instead of links: a copy for the guest follows links, and
/// would have each of them twice.
fn name_as_linked(directory: &Path) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let links: Vec<_> = paths.iter().filter(|path| path.is_symlink()).collect();
    let mut linked = Vec::new();
    for link in links {
        let target = fs::canonicalize(link).with_context(|| link.display().to_string())?;
        fs::remove_file(link)
            .and_then(|()| fs::copy(&target, link))
            .with_context(|| format!("cannot make {}", link.display()))?;
        linked.push(target);
    }
    for target in linked {
        // Two links may have led to it.
        drop(fs::remove_file(target));
    }
    Ok(())
}
