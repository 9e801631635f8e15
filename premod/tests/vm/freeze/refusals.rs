//! What premod does not freeze: one sentence, and an exit code of its own.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

use super::policies::{actor, freeze, outcome};
use crate::{
    coverage::dax,
    freeze::actor::Outcome,
    harness::{Place, Test},
    refusals::refused,
    tests,
    tools::run,
};

tests! {
    on Every;
    Alone files_whose_stores_cannot_be_seen_are_not_frozen,
    Alone files_that_others_can_change_are_not_frozen,
    Alone a_dax_file_is_not_frozen,
    Alone what_is_no_file_is_not_frozen,
    Alone a_filesystem_that_is_frozen_already_is_named,
    Alone a_file_is_frozen_once_only,
    Alone only_root_freezes,
    Alone nobody_is_held_who_cannot_be_told_from_others on One,
}

/// The only test where bpf is not among the security modules.
pub(crate) const WITHOUT_LSM: &[Test] = &[Test {
    name: "without_bpf_among_the_security_modules_nothing_is_frozen",
    run: crate::harness::Run::Alone(without_lsm),
    boots: crate::harness::Boots::Every,
}];

fn premod(file: &Path) -> Command {
    let mut command = Command::new("premod");
    command.arg("freeze").arg(file).args(["--", "true"]);
    command
}

pub(super) fn not_frozen(file: &Path, code: i32, words: &[&str]) {
    refused(&mut premod(file), code, words);
}

/// A new file of a page.
fn file(path: &Path) -> &Path {
    fs::write(path, [b'x'; 4096]).expect("a new file");
    path
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn without_lsm(place: &Place) {
    not_frozen(file(&place.file("data")), 13, &["bpf", "lsm"]);
}

fn files_whose_stores_cannot_be_seen_are_not_frozen(place: &Place) {
    let tmpfs = Path::new("/tmp/data");
    not_frozen(file(tmpfs), 15, &["/tmp/data", "tmpfs", "mapping"]);
    let huge = place.file("huge");
    fs::create_dir(&huge).expect("mkdir");
    run("mount", &["-t", "hugetlbfs", "none", plain(&huge)]);
    let data = huge.join("data");
    File::create(&data).expect("a new file");
    not_frozen(&data, 15, &["hugetlbfs"]);
    run("umount", &[plain(&huge)]);
}

fn files_that_others_can_change_are_not_frozen(place: &Place) {
    // The actors mount what is needed.
    let overlay = actor(place, "overlayfs: write");
    let upper = Path::new(&overlay.files[0].path);
    let merged = place.outside.join("overlayfs__write/merged/data");
    assert!(merged.exists(), "the overlay of {}", upper.display());
    not_frozen(&merged, 15, &["overlayfs", "upper"]);
    let exported = actor(place, "nfsd: write");
    let remote = exported.files[0].path.replacen("/mnt", "/run/nfs", 1);
    not_frozen(Path::new(&remote), 15, &["NFS"]);
    let mounted = super::fuse::mount(&place.file("fuse"));
    not_frozen(mounted.path(), 15, &["FUSE"]);
}

fn a_dax_file_is_not_frozen(place: &Place) {
    let directory = dax::mounted(place).expect("the first filesystem has DAX");
    not_frozen(file(&directory.join("not frozen")), 15, &["DAX"]);
}

fn what_is_no_file_is_not_frozen(place: &Place) {
    not_frozen(&place.directory, 14, &["directory"]);
    not_frozen(&place.file("missing"), 14, &["missing", "No such file"]);
    not_frozen(Path::new("/dev/null"), 14, &["/dev/null", "device"]);
}

fn a_filesystem_that_is_frozen_already_is_named(place: &Place) {
    let (image, point) = (Path::new("/tmp/image"), place.file("point"));
    File::create(image)
        .and_then(|image| image.set_len(16 << 20))
        .expect("an image");
    run("mkfs.ext4", &["-q", plain(image)]);
    fs::create_dir(&point).expect("mkdir");
    run("modprobe", &["loop"]);
    run("mount", &["-o", "loop", plain(image), plain(&point)]);
    let data = point.join("data");
    file(&data);
    run("fsfreeze", &["-f", plain(&point)]);
    let refusal = std::panic::catch_unwind(|| not_frozen(&data, 15, &["fsfreeze"]));
    run("fsfreeze", &["-u", plain(&point)]);
    run("umount", &[plain(&point)]);
    refusal.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn a_file_is_frozen_once_only(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let first = freeze(&[&writer], &["--hold"]);
    let path = writer.files[0].path.clone();
    let pid = first.pid().to_string();
    not_frozen(Path::new(&path), 19, &["EBUSY", &pid]);
    // Another name of the same file.
    let link = place.file("link");
    fs::hard_link(&path, &link).expect("link");
    not_frozen(&link, 19, &["EBUSY", &pid]);
    assert_eq!(
        outcome(&mut writer),
        Outcome::Held,
        "the first freeze goes on"
    );
    first.signal(rustix::process::Signal::TERM);
    first.end().expect(0);
}

fn only_root_freezes(place: &Place) {
    let mut command = premod(file(&place.file("data")));
    refused(command.uid(1000).gid(1000), 10, &["sudo"]);
}

/// On a kernel that was built without kcmp(2): here a filter answers in its place.
fn nobody_is_held_who_cannot_be_told_from_others(place: &Place) {
    let data = place.file("data");
    let file = file(&data);
    let mut hold = premod(file);
    // SAFETY: between fork and exec, system calls only.
    unsafe { hold.pre_exec(without_kcmp) };
    refused(&mut hold, 13, &["kcmp", "CONFIG_KCMP", "--deny"]);
    let mut deny = Command::new("premod");
    deny.args(["freeze", "--deny", plain(file), "--", "true"]);
    // SAFETY: as above.
    unsafe { deny.pre_exec(without_kcmp) };
    let status = deny.status().expect("premod can be run");
    assert!(status.success(), "{status}");
}

/// From here on, kcmp(2) ends with ENOSYS.
fn without_kcmp() -> std::io::Result<()> {
    const NUMBER: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let step = |code: u32, k: u32, jf: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::SYS_kcmp as u32,
            1,
        ),
        step(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
            0,
        ),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the filter outlives the call, which copies it. Root needs not give up new privileges for it.
    let failed = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
