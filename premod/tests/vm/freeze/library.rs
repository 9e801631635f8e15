//! A program that freezes by the library, without the command, keeps what the command keeps.

use std::{
    fs::File,
    io::{BufRead, BufReader, Lines, Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use premod::freeze::{Event, Freezer};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{runtime, sync::oneshot};

use super::{
    actor::{Actor, Outcome},
    policies::{actor, outcome},
    process,
};
use crate::{harness::Place, tests};

tests! {
    on One;
    Alone a_program_freezes_without_the_command,
    Alone a_program_is_told_when_others_end_its_freeze,
    Alone whoever_a_program_holds_goes_on_when_it_is_killed,
}

/// The program: freezes a file until the end of its stdin, and says what it hears.
pub(crate) fn freeze_by_library(file: &Path) {
    let (sender, mut done) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let builder = Freezer::builder().paths([file.to_owned()]);
        let mut freezer = builder.freeze().await.expect("the file is frozen");
        say(&json!(freezer.report()));
        let own = File::options().append(true).open(file);
        let own = own.and_then(|mut file| file.write_all(b"own"));
        say(&json!({"own": own.map_err(|error| error.raw_os_error()).err()}));
        loop {
            tokio::select! {
                _ = &mut done => break,
                event = freezer.next() => match event.expect("it is heard") {
                    Event::KeptOut(kept) => say(&json!({"type": kept.how.name(), "pid": kept.task.pid})),
                    Event::Violated(violation) => say(&json!({"type": violation.why.describe()})),
                    Event::Over(over) => {
                        say(&json!({"over": format!("{over:?}")}));
                        break;
                    }
                },
            }
        }
        let thawed = freezer.thaw().expect("it is thawed");
        say(&json!(thawed.report));
        thawed.finish().await.expect("nothing is kept");
    });
}

fn say(value: &Value) {
    println!("{value}");
}

/// The program, as the test sees it.
struct Program {
    child: Child,
    /// Until this is dropped it keeps the file frozen.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Freezes what an actor changes.
    fn freezing(actor: &Actor) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["freeze-by-library", &actor.files[0].path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program");
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let lines = BufReader::new(stdout).lines();
        let mut program = Self {
            child,
            stdin,
            lines,
        };
        assert_eq!(program.hear()["state"], "frozen");
        // To wait for itself would be to wait for ever.
        assert_eq!(program.hear()["own"], libc::EBUSY);
        let refused = program.hear();
        assert_eq!(refused["type"], "refused", "{refused}");
        assert_eq!(refused["pid"], program.child.id(), "{refused}");
        program
    }

    /// The next that it says.
    fn hear(&mut self) -> Value {
        let line = self.lines.next().expect("it has more to say");
        serde_json::from_str(&line.expect("UTF-8")).expect("JSON")
    }

    /// What it says up to its end.
    fn rest(&mut self) -> Vec<Value> {
        self.stdin = None;
        let line = |line: std::io::Result<String>| line.expect("UTF-8");
        let lines = self.lines.by_ref().map(line);
        lines
            .map(|line| serde_json::from_str(&line).expect("JSON"))
            .collect()
    }
}

/// What a verb of premod says as JSON, of the one freeze that there is.
fn asked(arguments: &[&str], code: i32) -> Value {
    let output = Command::new("premod").args(arguments).output();
    let output = output.expect("premod can be run");
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

fn a_program_freezes_without_the_command(place: &Place) {
    let mut writer = actor(place, "pwrite");
    writer.look();
    let mut program = Program::freezing(&writer);
    assert_eq!(outcome(&mut writer), Outcome::Held);
    let held = program.hear();
    assert_eq!(
        (&held["type"], &held["pid"]),
        (&json!("held"), &json!(writer.pid()))
    );
    let set = asked(&["status", "--json"], 0);
    assert_eq!(set["pid"], program.child.id(), "{set}");
    assert_eq!(set["held"][0]["pid"], writer.pid(), "{set}");
    assert_eq!(writer.look(), [false]);
    let rest = program.rest();
    let report = rest.last().expect("a report");
    assert_eq!(report["state"], "thawed", "{rest:?}");
    assert_eq!(report["violations"]["count"], 0, "{rest:?}");
    assert!(process::wait(&mut program.child).success());
    process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
    assert_eq!(writer.look(), [true]);
}

fn a_program_is_told_when_others_end_its_freeze(place: &Place) {
    let writer = actor(place, "pwrite");
    let mut program = Program::freezing(&writer);
    let set = asked(&["thaw", "--json", "--all"], 17);
    assert_eq!(set["violations"]["count"], 1, "{set}");
    assert_eq!(program.hear()["over"], "Asked");
    let rest = program.rest();
    assert_eq!(rest, [set], "what it knows is what others are told");
    assert!(process::wait(&mut program.child).success());
}

fn whoever_a_program_holds_goes_on_when_it_is_killed(place: &Place) {
    let mut writer = actor(place, "pwrite");
    let mut program = Program::freezing(&writer);
    assert_eq!(outcome(&mut writer), Outcome::Held);
    process::signal(program.child.id(), Signal::KILL);
    process::wait_for("the writer goes on", || writer.outcome() == Outcome::Made);
    process::wait(&mut program.child);
}
