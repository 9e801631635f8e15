//! What is measured: whole programs at work.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    clock::Clock,
    operations::{Operation, Sample},
};

/// The sources that are unpacked; the host puts them where we start.
const SOURCES: &str = "sources.tar";

const fn program(name: &'static str, prepare: fn(&Path) -> Box<dyn Sample>) -> Operation {
    Operation {
        name,
        clock: Clock::Children,
        samples: [3, 7],
        quick: false,
        exact: false,
        prepare,
    }
}

/// Every program.
pub(crate) const WORKLOADS: &[Operation] = &[
    program("untar of a source tree", |place| {
        let tree = place.join("tree");
        Box::new(Program {
            fresh: tree.clone(),
            command: vec!["tar".into(), "-xf".into(), SOURCES.into(), "-C".into()],
            last: tree,
            input: "",
        })
    }),
    program("sqlite3, 20 transactions", |place| {
        let directory = place.join("sqlite");
        Box::new(Program {
            fresh: directory.clone(),
            command: vec!["sqlite3".into()],
            last: directory.join("db"),
            input: TRANSACTIONS,
        })
    }),
];

const TRANSACTIONS: &str = "create table t(a integer primary key, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000)
insert into t select i, hex(randomblob(20)) from n;
update t set b = 'x' where a % 20 = 0;
update t set b = 'x' where a % 20 = 1;
update t set b = 'x' where a % 20 = 2;
update t set b = 'x' where a % 20 = 3;
update t set b = 'x' where a % 20 = 4;
update t set b = 'x' where a % 20 = 5;
update t set b = 'x' where a % 20 = 6;
update t set b = 'x' where a % 20 = 7;
update t set b = 'x' where a % 20 = 8;
update t set b = 'x' where a % 20 = 9;
update t set b = 'x' where a % 20 = 10;
update t set b = 'x' where a % 20 = 11;
update t set b = 'x' where a % 20 = 12;
update t set b = 'x' where a % 20 = 13;
update t set b = 'x' where a % 20 = 14;
update t set b = 'x' where a % 20 = 15;
update t set b = 'x' where a % 20 = 16;
delete from t where a % 20 = 17;
";

/// A program that works in a fresh directory.
struct Program {
    fresh: PathBuf,
    command: Vec<PathBuf>,
    /// Its last argument.
    last: PathBuf,
    input: &'static str,
}

impl Sample for Program {
    fn before(&mut self) {
        drop(fs::remove_dir_all(&self.fresh));
        fs::create_dir(&self.fresh).expect("a fresh directory");
    }

    fn run(&mut self) {
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .arg(&self.last)
            .stdin(Stdio::piped())
            .spawn()
            .expect("it can be run");
        let mut stdin = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, self.input.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("it ends").success(), "it succeeds");
    }
}
