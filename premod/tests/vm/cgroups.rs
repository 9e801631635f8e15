//! `--cgroup`: a cgroup with all below it, decided while the task that causes the event is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    harness::Place,
    tests,
    trace::{Trace, path_of},
};

tests! {
    Alone a_cgroup_is_asked_for_with_all_below_it,
    Alone a_cgroup_is_asked_for_alone,
    Alone a_cgroup_that_is_made_anew_is_asked_for_from_the_first_event_on,
    Alone what_is_no_cgroup_is_refused on One,
}

/// A cgroup that is gone when it is dropped, or when it is removed.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    fn id(&self) -> String {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&self.0).expect("stat").ino().to_string()
    }

    /// Somebody in it writes to this file, and ends.
    fn write(&self, path: &Path) {
        let script = format!(
            "echo $$ > {}/cgroup.procs && echo x > {}",
            self.path(),
            path.display()
        );
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.expect("sh").success());
    }

    /// Removes it, as soon as the kernel has seen that nobody is in it any more.
    fn remove(&self) {
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                _ => return,
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Shows what files with these names are written to by, when premod is asked for `options`. premod cannot read
/// anything until everybody who writes is gone.
fn shown(place: &Place, options: &[&str], groups: &[(&Group, &str)]) -> Vec<String> {
    // The test itself writes the sentinels.
    let own = fs::read_to_string("/proc/self/cgroup").expect("cgroup v2");
    let own = own.trim().rsplit(':').next().expect("a path");
    let own = format!("=/sys/fs/cgroup{own}");
    let arguments = [
        options,
        &["--cgroup", &own, place.directory.to_str().expect("plain")],
    ]
    .concat();
    let mut trace = Trace::start_with(&place.directory, &arguments);
    let premod = rustix::process::Pid::from_raw(trace.pid().cast_signed()).expect("an id");
    let send = |signal| rustix::process::kill_process(premod, signal).expect("premod runs");
    send(rustix::process::Signal::STOP);
    for (group, name) in groups {
        group.write(&place.file(name));
        group.remove();
    }
    send(rustix::process::Signal::CONT);
    let events = trace.events();
    trace.end_cleanly();
    events
        .iter()
        .filter_map(|event| Some(path_of(event).file_name()?.to_str()?.to_owned()))
        .collect()
}

fn a_cgroup_is_asked_for_with_all_below_it(place: &Place) {
    let pod = Group::new("premod-pod");
    let container = Group::new("premod-pod/container");
    let deep = Group::new("premod-pod/container/deep");
    let beside = Group::new("premod-pod-beside");
    let other = Group::new("premod-other");
    let writers = [
        (&deep, "deep"),
        (&container, "container"),
        (&pod, "pod"),
        (&beside, "beside"),
        (&other, "other"),
    ];
    let (path, id) = (other.path().to_owned(), pod.id());
    let options = ["--cgroup", &id, "--cgroup", &path];
    assert_eq!(
        shown(place, &options, &writers),
        ["deep", "container", "pod", "other"]
    );
}

fn a_cgroup_is_asked_for_alone(place: &Place) {
    let pod = Group::new("premod-alone");
    let below = Group::new("premod-alone/below");
    let other = Group::new("premod-not-alone");
    let (alone, id) = (format!("={}", pod.path()), format!("={}", other.id()));
    let writers = [(&below, "below"), (&pod, "itself"), (&other, "by its id")];
    let names: Vec<_> = writers.iter().map(|(_, name)| *name).collect();
    assert_eq!(names.len(), 3);
    let options = ["--cgroup", &alone, "--cgroup", &id];
    assert_eq!(
        shown(
            place,
            &options,
            &[(&below, "below"), (&pod, "itself"), (&other, "by-id")]
        ),
        ["itself", "by-id"]
    );
}

fn a_cgroup_that_is_made_anew_is_asked_for_from_the_first_event_on(place: &Place) {
    let pod = Group::new("premod-anew");
    let own = fs::read_to_string("/proc/self/cgroup").expect("cgroup v2");
    let own = own.trim().rsplit(':').next().expect("a path");
    let own = format!("=/sys/fs/cgroup{own}");
    let here = place.directory.to_str().expect("a plain path");
    let arguments = ["--cgroup", &own, "--cgroup", pod.path(), here];
    let mut trace = Trace::start_with(&place.directory, &arguments);
    pod.write(&place.file("first"));
    // Before premod has a chance to look, and after.
    let premod = rustix::process::Pid::from_raw(trace.pid().cast_signed()).expect("an id");
    let send = |signal| rustix::process::kill_process(premod, signal).expect("premod runs");
    send(rustix::process::Signal::STOP);
    pod.remove();
    fs::create_dir(&pod.0).expect("mkdir");
    let below = Group::new("premod-anew/below");
    let other = Group::new("premod-anew-other");
    for (group, name) in [(&pod, "again"), (&below, "below"), (&other, "other")] {
        group.write(&place.file(name));
    }
    send(rustix::process::Signal::CONT);
    let mut events = trace.events();
    below.write(&place.file("later"));
    other.write(&place.file("other-later"));
    events.extend(trace.events());
    // One that is there for so short a time that nobody sees whose it is.
    send(rustix::process::Signal::STOP);
    below.remove();
    pod.remove();
    fs::create_dir(&pod.0).expect("mkdir");
    pod.write(&place.file("short"));
    pod.remove();
    send(rustix::process::Signal::CONT);
    events.extend(trace.events());
    trace.end_cleanly();
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| Some(path_of(event).file_name()?.to_str()?.to_owned()))
        .collect();
    assert_eq!(names, ["first", "again", "below", "later", "short"]);
}

fn what_is_no_cgroup_is_refused(place: &Place) {
    let here = place.directory.to_str().expect("a plain path");
    let file = "/sys/fs/cgroup/cgroup.procs";
    for wrong in [here, file, "/proc"] {
        let output = Command::new("premod")
            .args(["trace", "--cgroup", wrong])
            .output()
            .expect("premod can be run");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wrong) && said.contains("cgroup2"), "{said}");
    }
}
