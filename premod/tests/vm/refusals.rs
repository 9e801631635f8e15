//! What premod refuses: one sentence, and an exit code of its own.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use crate::{harness::Place, tests};

tests! {
    on Every;
    Alone without_privilege_premod_says_which_capability_is_missing,
    Alone without_type_information_premod_says_so,
    Alone a_kernel_that_forbids_bpf_is_named,
    Alone a_wrong_path_is_named,
    Alone a_path_where_stores_cannot_be_seen_is_refused,
    Alone output_that_cannot_be_written_is_named,
    Alone a_wrong_option_value_is_named,
    // The last: there is no way back from lockdown.
    Alone lockdown_is_named,
}

/// Runs premod, which has to fail with this code and one sentence on stderr that contains `words`.
pub(crate) fn refused(command: &mut Command, code: i32, words: &[&str]) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("premod can be run");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    let note = |line: &&str| !line.contains("tracing by fentry");
    let lines: Vec<&str> = stderr.lines().filter(note).collect();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(lines.len(), 1, "one sentence: {stderr}");
    assert!(lines[0].starts_with("premod: "), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in: {stderr}");
    }
    assert!(output.stdout.is_empty(), "nothing on stdout");
}

fn trace(arguments: &[&str]) -> Command {
    let mut command = Command::new("premod");
    command.arg("trace").args(arguments);
    command
}

fn without_privilege_premod_says_which_capability_is_missing(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    refused(
        trace(&[here]).uid(1000).gid(1000),
        10,
        &["CAP_BPF and CAP_PERFMON", "sudo"],
    );
    let doctor = Command::new("premod")
        .arg("doctor")
        .uid(1000)
        .gid(1000)
        .output();
    let doctor = doctor.expect("premod can be run");
    assert_eq!(doctor.status.code(), Some(10), "{doctor:?}");
}

fn without_type_information_premod_says_so(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    let script = format!("mount -t tmpfs none /sys/kernel/btf && exec premod trace {here}");
    refused(
        Command::new("unshare").args(["-m", "sh", "-c", &script]),
        12,
        &[
            "type information",
            "/sys/kernel/btf/vmlinux",
            "CONFIG_DEBUG_INFO_BTF",
        ],
    );
}

fn a_kernel_that_forbids_bpf_is_named(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    let mut command = trace(&[here]);
    // SAFETY: the closure makes two system calls and touches no memory of the parent.
    unsafe { command.pre_exec(forbid_bpf) };
    refused(
        &mut command,
        11,
        &["refuses premod's BPF programs", "policy"],
    );
}

/// A seccomp filter by which bpf() answers EPERM, as container runtimes and hardened kernels do.
fn forbid_bpf() -> io::Result<()> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};
    let step = |code: u32, jt: u8, jf: u8, k: u32| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, libc::SYS_bpf as u32),
        step(
            BPF_RET | BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        step(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: a valid program, which the kernel copies.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn a_wrong_path_is_named(place: &Place) {
    refused(
        &mut trace(&["/no/such/file"]),
        14,
        &["premod: cannot trace /no/such/file: No such file or directory (os error 2)\n"],
    );
    refused(
        &mut trace(&["/dev/null"]),
        14,
        &["/dev/null", "character device"],
    );
    let fifo = place.file("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    refused(
        &mut trace(&[fifo.to_str().expect("a plain path")]),
        14,
        &["FIFO"],
    );
}

fn a_path_where_stores_cannot_be_seen_is_refused(place: &Place) {
    refused(
        &mut trace(&["/tmp"]),
        15,
        &["/tmp", "tmpfs", "mapping", "truncate could be seen"],
    );
    let huge = place.file("huge");
    fs::create_dir(&huge).expect("mkdir");
    let huge = huge.to_str().expect("a plain path");
    let mounted = Command::new("mount")
        .args(["-t", "hugetlbfs", "none", huge])
        .status();
    assert!(mounted.expect("mount").success());
    refused(&mut trace(&[huge]), 15, &["hugetlbfs", "mapping"]);
    assert!(
        Command::new("umount")
            .arg(huge)
            .status()
            .expect("umount")
            .success()
    );

    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        fs::create_dir(place.file(name)).expect("mkdir");
        place.file(name).to_str().expect("a plain path").to_owned()
    });
    assert!(
        Command::new("modprobe")
            .arg("overlay")
            .status()
            .expect("modprobe")
            .success()
    );
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "none", "-o", &options, &merged])
        .status();
    assert!(mounted.expect("mount").success());
    refused(
        &mut trace(&[&merged]),
        15,
        &["overlayfs", "upper directory"],
    );
    assert!(
        Command::new("umount")
            .arg(&merged)
            .status()
            .expect("umount")
            .success()
    );
}

fn output_that_cannot_be_written_is_named(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    refused(
        &mut trace(&["-o", "/no/such/directory/log", here]),
        16,
        &["/no/such/directory/log"],
    );
    let full = fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let output = trace(&["--json", here, "--", "true"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("premod can be run");
    assert_eq!(output.status.code(), Some(16), "{output:?}");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        stderr.contains("cannot write stdout: No space left"),
        "{stderr}"
    );
    refused_by_shell(
        &format!("exec premod trace {here} -- true >&-"),
        "cannot write stdout: Bad file descriptor",
    );
    // One that may grow no more: CMD still has the signal that premod does without.
    let log = place.outside.join("log");
    let writes = format!(
        "for name in $(seq 200); do echo x > {here}/$name; done; grep SigIgn /proc/self/status >&2"
    );
    let log = log.to_str().expect("a plain path");
    refused_by_shell(
        &format!("ulimit -f 1; exec premod trace --json -o {log} {here} -- sh -c '{writes}'"),
        &format!("cannot write {log}: File too large"),
    );
    let written = fs::read_to_string(log).expect("the log");
    assert!(
        written.ends_with("}\n"),
        "it ends with a whole line: {written}"
    );
}

/// What this shell becomes cannot write its output, and says so.
fn refused_by_shell(script: &str, words: &str) {
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", script]).output().expect("sh");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(16), "{script}: {stderr}");
    assert!(stderr.contains(words), "{script}: {stderr}");
    if let Some(ignored) = stderr.lines().find_map(|line| line.strip_prefix("SigIgn:")) {
        let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a set of signals");
        assert_eq!(ignored & 1 << (libc::SIGXFSZ - 1), 0, "{stderr}");
    }
}

fn a_wrong_option_value_is_named(_place: &Place) {
    for (arguments, words) in [
        (["--op", "erase"], "erase"),
        (["--buffer-size", "many"], "many"),
        (["-n", "0"], "0"),
        (["-d", "-1"], "-1"),
        (["--exclude", "["], "--exclude ["),
        (["--cgroup", "/no/such/cgroup"], "/no/such/cgroup"),
    ] {
        let output = trace(&arguments).output().expect("premod can be run");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

fn lockdown_is_named(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    fs::write("/sys/kernel/security/lockdown", "confidentiality").expect("lockdown");
    refused(
        &mut trace(&[here]),
        11,
        &["locked down", "confidentiality", "integrity"],
    );
    let doctor = Command::new("premod")
        .arg("doctor")
        .output()
        .expect("premod can be run");
    assert_eq!(doctor.status.code(), Some(11), "{doctor:?}");
}
