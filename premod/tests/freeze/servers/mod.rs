//! The part `servers`: PostgreSQL and MariaDB move money, and their data directories are copied under a freeze, by the script
//! that docs/examples has for it. No client may see an error, and each copy has to start and to be whole.

mod client;
mod kind;
mod office;
mod root;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use self::{client::Client, kind::Kind, office::Office};
use crate::{
    databases::{ACCOUNTS, BALANCE, Books},
    plain, process,
};

/// docs/examples/copy-server.sh, where `cargo xtask soak` puts it.
const COPY: &str = "/usr/bin/copy-server";
/// How often it is looked for a copy without a freeze that is broken.
const TRIES: u32 = 1;

/// Runs all servers, or the one that is named, in each directory, and copies each of them again and again.
pub(crate) fn run(which: &str, directories: &[PathBuf], copies: u32) {
    root::prepare();
    for directory in directories {
        let chosen = kind::KINDS
            .iter()
            .filter(|kind| which == "servers" || which == kind.name());
        let open: Vec<Open> = chosen.map(|kind| Open::start(*kind, directory)).collect();
        assert!(!open.is_empty(), "there is no server {which}");
        open.iter().for_each(Open::without_a_freeze);
        let mut longest = vec![(0, 0); open.len()];
        for number in 0..copies {
            for (open, longest) in open.iter().zip(&mut longest) {
                let (took, gap) = open.copy_frozen(number % 2 == 1);
                *longest = (took.max(longest.0), gap.max(longest.1));
            }
        }
        for (open, (took, gap)) in open.into_iter().zip(longest) {
            println!(
                "{}: {copies} of {copies} copies start and are whole, {} transfers; a copy took {took} ms at most, a client \
                 waited {gap} ms at most",
                plain(&open.data),
                open.office.done().iter().sum::<u64>()
            );
            open.finish();
        }
    }
}

/// A server at work.
struct Open {
    kind: Kind,
    data: PathBuf,
    copy: PathBuf,
    server: Running,
    office: Office,
}

impl Open {
    fn start(kind: Kind, directory: &Path) -> Self {
        let data = directory.join(kind.name());
        let began = Instant::now();
        kind.create(&data);
        let server = Running::start(kind, &data, kind.name());
        let office = Office::open(kind, &server.sockets);
        println!(
            "{}: at work after {} s",
            plain(&data),
            began.elapsed().as_secs()
        );
        if kind == Kind::MariaDbUring {
            // It would go on with threads of its own.
            server.has_said("Using io_uring");
        }
        Self {
            kind,
            copy: data.with_extension("copy"),
            data,
            server,
            office,
        }
    }

    /// Freezes, copies, and audits; how long the copy took, and how long a client has waited.
    /// In a quiet one only the server's own threads are at work.
    fn copy_frozen(&self, quiet: bool) -> (u128, u128) {
        self.office.progress();
        let before = self.office.done();
        self.office.forget_gaps();
        self.remove_copy();
        if quiet {
            self.office.leave_work(self.kind);
        }
        let began = Instant::now();
        let (status, said) = self.run_script(quiet);
        let took = began.elapsed().as_millis();
        assert!(status.success(), "{}: {status}: {said}", plain(&self.data));
        println!("{}: {}", plain(&self.data), summary(&said));
        assert!(
            !said.contains("ended with 17"),
            "a file was given another name: {said}"
        );
        self.office.resume();
        self.office.progress();
        let gap = self.office.longest_gap().as_millis();
        let began = Instant::now();
        let books = self.audit();
        println!(
            "{}: audited in {} s",
            plain(&self.data),
            began.elapsed().as_secs()
        );
        let books = books.unwrap_or_else(|error| {
            panic!(
                "{}: a copy made under a freeze is broken: {error}",
                plain(&self.data)
            )
        });
        self.office.compare(&before, &books);
        self.server.check();
        (took, gap)
    }

    /// Runs the script. In a quiet copy the server is told to write when the files are frozen.
    fn run_script(&self, quiet: bool) -> (ExitStatus, String) {
        let mut script = Command::new(COPY)
            .args([&self.data, &self.copy])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script");
        let stderr = BufReader::new(script.stderr.take().expect("a pipe"));
        let mut said = String::new();
        for line in stderr.lines() {
            let line = line.expect("stderr is UTF-8");
            if quiet && line.starts_with("premod: frozen: ") {
                self.office.order(self.kind.write_now());
            }
            said += &line;
            said.push('\n');
        }
        (process::wait(&mut script), said)
    }

    /// Starts another server on the copy, looks at everything in it, and adds up.
    fn audit(&self) -> Result<Books, String> {
        let auditor =
            Running::try_start(self.kind, &self.copy, &format!("{}-copy", self.kind.name()))?;
        self.kind.check(&auditor.sockets)?;
        let mut client = Client::start(&mut self.kind.client(&auditor.sockets, "bank"));
        let mut numbers = |statement: &str| -> Result<Vec<u64>, String> {
            let lines = client.ask(statement)?;
            let numbers = lines
                .iter()
                .map(|line| line.parse().map_err(|_| line.clone()));
            numbers.collect()
        };
        let sums = numbers("SELECT sum(balance) FROM account; SELECT count(*) FROM account;")?;
        if sums != [ACCOUNTS * BALANCE, ACCOUNTS] {
            return Err(format!("the sum and the number of accounts are {sums:?}"));
        }
        let tellers = numbers("SELECT transfers FROM teller ORDER BY id;")?;
        drop(client);
        auditor.end()?;
        Ok(Books {
            sum: sums[0],
            tellers,
        })
    }

    /// A copy that nothing holds still should be broken. A server repairs much when it starts, so that this is no proof.
    fn without_a_freeze(&self) {
        for number in 1..=TRIES {
            self.office.progress();
            self.remove_copy();
            fs::create_dir(&self.copy).expect("mkdir");
            root::own_directory(self.kind.user(), &self.copy);
            let list = self.data.with_extension("list");
            let script = format!(
                "cd '{from}' && find . -type f | sort > '{list}' && {{ find . -type d; cat '{list}'; }} | \
                 tar -cf - --no-recursion -T - | tar -xpf - -C '{to}'",
                from = plain(&self.data),
                list = plain(&list),
                to = plain(&self.copy)
            );
            let copied = Command::new("sh").args(["-c", &script]).status();
            let copied = copied.expect("a shell");
            let pid = ["postmaster.pid", "vm.pid"].map(|name| self.copy.join(name));
            pid.iter().for_each(|pid| drop(fs::remove_file(pid)));
            match self.audit() {
                Ok(_) => println!(
                    "{}: without a freeze, copy {number} is whole ({copied})",
                    plain(&self.data)
                ),
                Err(error) => {
                    let error: String = error.lines().take(3).collect::<Vec<_>>().join(" / ");
                    println!(
                        "{}: without a freeze, copy {number} is broken: {error}",
                        plain(&self.data)
                    );
                    return;
                }
            }
        }
    }

    fn remove_copy(&self) {
        if self.copy.exists() {
            fs::remove_dir_all(&self.copy).expect("rm -r");
        }
    }

    fn finish(self) {
        self.office.close();
        self.server.check();
        self.server.end().expect("it ends in an orderly way");
        fs::remove_dir_all(&self.data).expect("rm -r");
        fs::remove_dir_all(&self.copy).expect("rm -r");
    }
}

/// How each freeze began, who was held first, and how the others ended.
fn summary(said: &str) -> String {
    let parts = said.lines().filter_map(|line| {
        if let Some(line) = line.strip_prefix("premod: held: ") {
            return Some(format!("then {line}"));
        }
        let Some(line) = line.strip_prefix("premod: frozen: ") else {
            return line.strip_prefix("copy-server: ").map(str::to_owned);
        };
        let took = line.split(" (generation").next().unwrap_or(line);
        let held = line.split_once("held: ").map_or("nobody", |(_, held)| held);
        let first = held.split(", for ").next().unwrap_or(held);
        Some(format!("{took}; held: {first}"))
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// A running server.
struct Running {
    kind: Kind,
    child: Child,
    sockets: PathBuf,
    log: PathBuf,
}

impl Running {
    fn start(kind: Kind, data: &Path, name: &str) -> Self {
        Self::try_start(kind, data, name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Starts a server and waits until it answers.
    fn try_start(kind: Kind, data: &Path, name: &str) -> Result<Self, String> {
        let sockets = root::sockets(kind.user(), name);
        let log = PathBuf::from(format!("/tmp/{name}.log"));
        let file = File::create(&log).expect("the log");
        let mut command = kind.server(data, &sockets);
        command.stdout(file.try_clone().expect("dup")).stderr(file);
        let mut running = Self {
            kind,
            child: command.spawn().expect("the server can be run"),
            sockets,
            log,
        };
        let mut ended = None;
        process::wait_for("the server answers", || {
            ended = running.child.try_wait().expect("a child");
            let mut client = kind.client(&running.sockets, kind.first_database());
            let asked = client
                .args([if kind == Kind::Postgres { "-c" } else { "-e" }, "SELECT 1"])
                .output();
            ended.is_some() || asked.expect("the client").status.success()
        });
        match ended {
            Some(status) => Err(format!(
                "the server ended with {status}: {}",
                running.told()
            )),
            None => Ok(running),
        }
    }

    /// What its log says, or the end of it.
    fn told(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// The first trouble that its log tells of.
    fn trouble(&self) -> Option<String> {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut lines = log
            .lines()
            .skip_while(|line| !self.kind.complains(line))
            .peekable();
        lines.peek()?;
        Some(lines.take(6).collect::<Vec<_>>().join("\n"))
    }

    fn has_said(&self, words: &str) {
        let log = fs::read_to_string(&self.log).expect("the log");
        assert!(
            log.contains(words),
            "the server does not say {words}: {log}"
        );
    }

    /// It must not have noticed anything.
    fn check(&self) {
        if let Some(trouble) = self.trouble() {
            panic!("the server has noticed: {trouble}");
        }
    }

    /// Ends it as its administrator would.
    fn end(mut self) -> Result<(), String> {
        process::signal(self.child.id(), self.kind.end());
        let status = process::wait(&mut self.child);
        match self.trouble() {
            Some(trouble) => Err(trouble),
            None if !status.success() => Err(format!("the server ended with {status}")),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Not SIGKILL, after which PostgreSQL's other processes would go on for a while.
            process::signal(self.child.id(), rustix::process::Signal::TERM);
            process::signal(self.child.id(), self.kind.end());
            process::wait(&mut self.child);
        }
    }
}
