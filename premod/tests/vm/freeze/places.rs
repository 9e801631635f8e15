//! Where premod is run: among others who may write into the BPF filesystem, and in a time namespace.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
};

use rustix::process::Signal;

use super::{
    policies::{actor, outcome, terminate},
    premod::Freeze,
    process,
};
use crate::{
    freeze::actor::Outcome, harness::Place, refusals::refused, tests, tools::run,
    workload::clean_file,
};

tests! {
    Alone what_others_put_into_the_bpf_filesystem_is_left_alone,
    Alone in_a_time_namespace_nothing_is_frozen_or_thawed on Every,
    Alone in_a_pid_namespace_nobody_is_taken_for_dead,
}

/// Mounted so that everybody may write into it, as some systems do it.
fn what_others_put_into_the_bpf_filesystem_is_left_alone(place: &Place) {
    const BPFFS: &str = "/sys/fs/bpf";
    const OURS: &str = "/sys/fs/bpf/premod";
    let victim = place.file("victim");
    fs::create_dir(&victim).expect("mkdir");
    for name in ["switch", "tally", "held", "other"] {
        fs::write(victim.join(name), "precious").expect("a new file");
    }
    let path = place.file("data");
    clean_file(&path);
    run("mount", &["-t", "bpf", "-o", "mode=1777", "bpf", BPFFS]);
    let outcome = std::panic::catch_unwind(|| {
        // Somebody is there first.
        let script = format!("mkdir {OURS} && ln -s {} {OURS}/1-1", victim.display());
        let made = Command::new("sh")
            .args(["-c", &script])
            .uid(65534)
            .gid(65534)
            .status();
        assert!(made.expect("sh").success());
        for arguments in [
            &["thaw", "--recover"][..],
            &["freeze", "data", "--", "true"],
        ] {
            let mut premod = Command::new("premod");
            premod.args(arguments).current_dir(&place.directory);
            refused(&mut premod, 1, &[OURS, "root"]);
            assert_eq!(fs::read_dir(&victim).expect("it is there").count(), 4);
        }
        // A link in a directory of root's is none of premod's either.
        fs::remove_file(Path::new(OURS).join("1-1")).expect("unlink");
        fs::remove_dir(OURS).expect("rmdir");
        fs::create_dir(OURS).expect("mkdir");
        symlink(&victim, Path::new(OURS).join("1-1")).expect("symlink");
        run("premod", &["thaw", "--recover"]);
        run(
            "premod",
            &["freeze", path.to_str().expect("a plain path"), "--", "true"],
        );
        assert_eq!(fs::read_dir(&victim).expect("it is there").count(), 4);
    });
    let _ = fs::remove_file(Path::new(OURS).join("1-1"));
    let _ = fs::remove_dir(OURS);
    run("umount", &[BPFFS]);
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn in_a_time_namespace_nothing_is_frozen_or_thawed(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let path = writer.files[0].path.clone();
    for offsets in ["monotonic 1000 0", "boottime 1000 0"] {
        for arguments in [&["freeze", &path, "--", "true"][..], &["thaw", "--recover"]] {
            let mut premod = Command::new("/proc/self/exe");
            premod
                .args(["in-time-namespace", offsets, "premod"])
                .args(arguments);
            refused(&mut premod, 2, &["time namespace", "host"]);
        }
    }
    // It is seen by whoever is held whether anything was let go.
    let mut freeze = Freeze::start(&[&path]);
    freeze.frozen();
    assert_eq!(outcome(&mut writer), Outcome::Held);
    freeze.signal(Signal::INT);
    terminate(freeze).expect(0);
    process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
}

/// With the host's BPF filesystem, as a privileged container may have it: the premod of the host lives.
fn in_a_pid_namespace_nobody_is_taken_for_dead(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let path = writer.files[0].path.clone();
    let mut freeze = Freeze::start(&[&path]);
    freeze.frozen();
    writer.look();
    let other = place.file("other");
    clean_file(&other);
    let other = other.to_str().expect("a plain path");
    for arguments in [&["freeze", other, "--", "true"][..], &["thaw", "--recover"]] {
        let mut premod = Command::new("unshare");
        premod
            .args(["--pid", "--fork", "--mount-proc", "premod"])
            .args(arguments);
        refused(&mut premod, 2, &["pid namespace", "host"]);
    }
    assert_eq!(outcome(&mut writer), Outcome::Held);
    assert_eq!(writer.look(), [false]);
    terminate(freeze).expect(0);
    process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
}

/// `in-time-namespace OFFSETS PROGRAM ARGUMENT...`: runs it in a time namespace with these offsets.
pub(crate) fn in_time_namespace(offsets: &str, program: &str, arguments: &[String]) -> ExitCode {
    // SAFETY: no preconditions; children are in the new namespace.
    let made = unsafe { libc::unshare(0x80) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    fs::write("/proc/self/timens_offsets", format!("{offsets}\n")).expect("the offsets");
    let mut command = Command::new(program);
    // To fork: 6.1 makes no child that shares this process's memory.
    // SAFETY: does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
    let status = command.args(arguments).status();
    let code = status.expect("it can be run").code().unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
