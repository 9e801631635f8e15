//! premod as a job of a shell: Ctrl-Z and fg.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{
    freeze::process::{wait, wait_for},
    harness::Place,
    shell::{lead, terminal},
    tests,
};

tests! {
    on One;
    Alone a_job_is_stopped_and_goes_on,
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn a_job_is_stopped_and_goes_on(place: &Place) {
    let here = &place.directory;
    let [log, said, stopped, resume, code, tick] =
        ["log", "said", "stopped", "resume", "code", "tick"].map(|name| place.outside.join(name));
    // A command that never stops writing, unless it is stopped.
    let busy = format!(
        "-- sh -c 'while :; do echo x >> {}; sleep 0.1; done'",
        plain(&tick)
    );
    for (command, end) in [("", "0\n"), (&*busy, "130\n")] {
        for path in [&log, &stopped, &resume, &code, &tick] {
            let _ = fs::remove_file(path);
        }
        // What a shell does for its user at the prompt.
        let script = format!(
            "set -m; premod trace --json -o {log} {here} {command} 2> {said}; echo $? > {stopped}; \
             while ! [ -e {resume} ]; do sleep 0.1; done; fg > /dev/null; echo $? > {code}",
            log = plain(&log),
            here = plain(here),
            said = plain(&said),
            stopped = plain(&stopped),
            resume = plain(&resume),
            code = plain(&code),
        );
        let (master, slave) = terminal();
        let mut keys = File::from(master);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .stdin(slave)
            .stdout(Stdio::null());
        // SAFETY: the closure makes two system calls and touches no memory of the parent.
        unsafe { shell.pre_exec(lead) };
        let mut shell = shell.spawn().expect("sh");
        let holds = |path: &Path, words: &str| {
            fs::read_to_string(path).is_ok_and(|text| text.contains(words))
        };
        wait_for("premod traces", || holds(&said, "premod: tracing "));
        wait_for("the command", || command.is_empty() || tick.exists());
        keys.write_all(b"\x1a").expect("a key");
        // 128 and SIGTSTP.
        wait_for("the shell goes on", || holds(&stopped, "148"));
        let size = || fs::metadata(&tick).map_or(0, |status| status.len());
        let before = size();
        fs::write(here.join("meanwhile"), "x").expect("writing");
        sleep(Duration::from_secs(1));
        assert_eq!(size(), before, "the command is stopped too");
        assert!(!holds(&log, "/meanwhile\""), "premod is stopped");
        fs::write(&resume, "").expect("writing");
        wait_for("what happened meanwhile", || holds(&log, "/meanwhile\""));
        wait_for("the command", || command.is_empty() || size() > before);
        fs::write(here.join("afterwards"), "x").expect("writing");
        wait_for("what happens now", || holds(&log, "/afterwards\""));
        keys.write_all(b"\x03").expect("a key");
        wait_for("the end", || holds(&code, "\n"));
        assert_eq!(fs::read_to_string(&code).expect("the code"), end);
        assert!(holds(&log, "\"summary\""), "it ends as always");
        wait(&mut shell);
        for name in ["meanwhile", "afterwards"] {
            fs::remove_file(here.join(name)).expect("removing");
        }
    }
}
