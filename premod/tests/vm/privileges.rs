//! What premod keeps of root's privileges, what it needs them for, and that CMD gets neither less nor more.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{
    harness::Place,
    paths::BindMount,
    tests,
    trace::{Trace, paths_of},
};

tests! {
    on One;
    Alone what_is_mounted_in_others_directories_is_traced,
    Alone files_in_others_directories_can_be_frozen,
    Alone the_command_has_what_premod_was_started_with,
}

/// A directory that is an ordinary user's alone, as those of databases are.
fn private(place: &Place) -> PathBuf {
    let private = place.file("private");
    fs::create_dir(&private).expect("mkdir");
    fs::set_permissions(&private, Permissions::from_mode(0o700)).expect("chmod");
    chown(&private, Some(1000), Some(1000)).expect("chown");
    private
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn what_is_mounted_in_others_directories_is_traced(place: &Place) {
    let point = private(place).join("point");
    let foreign = place.outside.join("foreign");
    for directory in [&point, &foreign] {
        fs::create_dir(directory).expect("mkdir");
    }
    let mut trace = Trace::start(&place.directory);
    let mount = BindMount::new(&foreign, &point);
    sleep(Duration::from_secs(1));
    // By the path that it is not traced for: nothing but the look at the mount tells that it lies below PATH.
    let path = foreign.join("file");
    fs::write(&path, "x").expect("writing");
    assert_eq!(paths_of(&trace.events()), [path]);
    drop(mount);
    trace.end_cleanly();
}

fn files_in_others_directories_can_be_frozen(place: &Place) {
    let db = private(place).join("db");
    fs::write(&db, "x").expect("writing");
    chown(&db, Some(1000), Some(1000)).expect("chown");
    let output = Command::new("premod")
        .args(["freeze", plain(&db), "--", "sleep", "1"])
        .output()
        .expect("premod can be run");
    assert!(output.status.success(), "{output:?}");
}

/// What stands in /proc/self/status of a program: its privileges, and what it does with signals.
fn status(command: &mut Command) -> BTreeMap<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| {
            [
                "Cap",
                "Sig",
                "NoNewPrivs",
                "Seccomp",
                "Groups",
                "Uid",
                "Gid",
            ]
            .iter()
            .any(|wanted| name.starts_with(wanted))
                && *name != "SigQ"
        })
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn the_command_has_what_premod_was_started_with(place: &Place) {
    let (here, log, db) = (
        &place.directory,
        place.outside.join("log"),
        place.file("db"),
    );
    fs::write(&db, "x").expect("writing");
    let look = ["cat", "/proc/self/status"];
    // As others are started, and with SIGPIPE ignored and some signals blocked.
    for unusual in [false, true] {
        let started = |arguments: &[&str]| {
            let mut command = Command::new(arguments[0]);
            command.args(&arguments[1..]);
            let prepare = move || {
                if unusual {
                    // SAFETY: a number, a set that is live, and no handler.
                    unsafe {
                        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                        let mut blocked: libc::sigset_t = std::mem::zeroed();
                        libc::sigaddset(&raw mut blocked, libc::SIGUSR1);
                        libc::sigaddset(&raw mut blocked, libc::SIGALRM);
                        libc::sigprocmask(
                            libc::SIG_BLOCK,
                            &raw const blocked,
                            std::ptr::null_mut(),
                        );
                    }
                }
                Ok(())
            };
            // SAFETY: the closure makes system calls and touches no memory of the parent.
            unsafe { command.pre_exec(prepare) };
            status(&mut command)
        };
        let plainly = started(&look);
        assert_eq!(plainly["NoNewPrivs"], "0");
        let ignored = u64::from_str_radix(&plainly["SigIgn"], 16).expect("hexadecimal");
        assert_eq!(
            ignored >> (libc::SIGPIPE - 1) & 1 == 1,
            unusual,
            "{ignored:x}"
        );
        for premod in [
            &["premod", "trace", "-o", plain(&log), plain(here), "--"][..],
            &["premod", "freeze", plain(&db), "--"],
        ] {
            assert_eq!(started(&[premod, &look].concat()), plainly, "{premod:?}");
        }
    }
}
