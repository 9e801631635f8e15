//! PostgreSQL and MariaDB: how their programs are called, with settings that let them write as much as they can.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use super::root;

/// A server, and how it does its I/O.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    /// Writes by threads of its own.
    MariaDb,
    /// Writes by `io_uring`.
    MariaDbUring,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Postgres, Kind::MariaDb, Kind::MariaDbUring];

const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

/// Durable, but with small buffers, so that every process writes; checkpoints and vacuums all the time. Old segments of
/// the log are kept, because a freeze does not keep anybody from renaming a file.
const POSTGRES_SETTINGS: [&str; 17] = [
    "listen_addresses=",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=2MB",
    "max_connections=20",
    "checkpoint_timeout=30s",
    "max_wal_size=64MB",
    "min_wal_size=32MB",
    "wal_keep_size=160MB",
    "bgwriter_delay=50ms",
    "bgwriter_lru_maxpages=20",
    "autovacuum_naptime=4s",
    "autovacuum_vacuum_scale_factor=0",
    "autovacuum_vacuum_threshold=20",
    "autovacuum_analyze_scale_factor=0",
    "autovacuum_analyze_threshold=20",
];

const MARIADB_SETTINGS: [&str; 12] = [
    "--no-defaults",
    "--skip-grant-tables",
    "--skip-networking",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=6M",
    "--innodb-log-file-size=8M",
    "--innodb-max-dirty-pages-pct-lwm=0.001",
    "--innodb-temp-data-file-path=ibtmp1:4M:autoextend",
    "--log-bin=bank-bin",
    "--sync-binlog=1",
    "--server-id=1",
    "--max-connections=20",
];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
            Self::MariaDbUring => "mariadb-uring",
        }
    }

    pub(crate) fn user(self) -> u32 {
        if self == Self::Postgres { 901 } else { 902 }
    }

    /// Makes an empty set of databases.
    pub(crate) fn create(self, data: &Path) {
        root::own_directory(self.user(), data);
        let (mut command, input) = if self == Self::Postgres {
            let mut command = root::command(self.user(), &format!("{POSTGRES}/initdb"));
            command.arg("-D").arg(data);
            let options = "-U postgres -A trust -E UTF8 --locale=C --data-checksums --no-sync";
            command.args(options.split(' '));
            (command, String::new())
        } else {
            let mut command = self.server(data, Path::new("/tmp"));
            command.args(["--bootstrap", "--skip-log-bin"]);
            let parts = ["system_tables", "performance_tables", "system_tables_data"];
            let parts = parts.map(|part| root::read(&format!("usr/share/mysql/mysql_{part}.sql")));
            let first = "CREATE DATABASE mysql;\nUSE mysql;\n";
            (command, format!("{first}{}", parts.concat()))
        };
        let script = data.with_extension("sql");
        std::fs::write(&script, input).expect("the script");
        let input = std::fs::File::open(&script).expect("the script");
        let output = command.stdin(input).output().expect("it can be run");
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// A server for a data directory, with its socket in a directory.
    pub(crate) fn server(self, data: &Path, sockets: &Path) -> Command {
        let mut command;
        if self == Self::Postgres {
            command = root::command(self.user(), &format!("{POSTGRES}/postgres"));
            command.arg("-D").arg(data).arg("-k").arg(sockets);
            for setting in POSTGRES_SETTINGS {
                command.args(["-c", setting]);
            }
        } else {
            command = root::command(self.user(), "/usr/sbin/mariadbd");
            command.args(MARIADB_SETTINGS);
            command.arg(format!("--datadir={}", data.display()));
            command.arg(format!("--socket={}", sockets.join("socket").display()));
            let native = u8::from(self == Self::MariaDbUring);
            command.arg(format!("--innodb-use-native-aio={native}"));
        }
        command.stdin(Stdio::null());
        command
    }

    /// The server's own client. It prints bare values, and ends at the first error.
    pub(crate) fn client(self, sockets: &Path, database: &str) -> Command {
        let mut command;
        if self == Self::Postgres {
            command = root::command(self.user(), &format!("{POSTGRES}/psql"));
            command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
            command.arg(sockets).args(["-d", database]);
        } else {
            command = root::command(self.user(), "/usr/bin/mariadb");
            let options = "--no-defaults -N -B --unbuffered --skip-reconnect";
            command.args(options.split(' '));
            command.arg(format!("--socket={}", sockets.join("socket").display()));
            command.arg(database);
        }
        command
    }

    /// The database that is always there.
    pub(crate) fn first_database(self) -> &'static str {
        if self == Self::Postgres {
            "postgres"
        } else {
            "mysql"
        }
    }

    /// What ends a server in an orderly way.
    pub(crate) fn end(self) -> Signal {
        if self == Self::Postgres {
            Signal::INT
        } else {
            Signal::TERM
        }
    }

    /// What has to be done now and then, so that the server writes more than its log.
    pub(crate) fn checkpoint(self) -> &'static str {
        if self == Self::Postgres {
            "CHECKPOINT;"
        } else {
            "FLUSH LOCAL TABLES account;"
        }
    }

    /// Lets dirty pages stay in memory.
    pub(crate) fn write_later(self) -> &'static str {
        if self == Self::Postgres {
            ""
        } else {
            "SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0; SET GLOBAL innodb_max_dirty_pages_pct = 90;"
        }
    }

    /// Has threads of the server's own write them. This itself writes nothing.
    pub(crate) fn write_now(self) -> &'static str {
        if self == Self::Postgres {
            "CHECKPOINT;"
        } else {
            "SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0.001; SET GLOBAL innodb_max_dirty_pages_pct = 0;"
        }
    }

    pub(crate) fn begin(self) -> &'static str {
        if self == Self::Postgres {
            "BEGIN;"
        } else {
            "START TRANSACTION;"
        }
    }

    /// Whether a line of the server's log tells of trouble.
    pub(crate) fn complains(self, line: &str) -> bool {
        let words: &[&str] = match self {
            Self::Postgres => &[
                "WARNING:",
                "ERROR:",
                "FATAL:",
                "PANIC:",
                "terminated by signal",
            ],
            _ => &["[ERROR]", "IO Error", "signal 11", "signal 6"],
        };
        // Who asks whether it has started yet is told so; and who is at work when the server ends, that he has to stop.
        let usual = [
            "the database system is starting up",
            "not yet accepting connections",
            "terminating autovacuum process due to administrator command",
        ];
        let is_usual = usual.iter().any(|words| line.contains(words));
        !is_usual && words.iter().any(|word| line.contains(word))
    }

    /// Looks at every page and every entry; what is wrong.
    pub(crate) fn check(self, sockets: &Path) -> Result<(), String> {
        let mut command = if self == Self::Postgres {
            let mut command = root::command(self.user(), &format!("{POSTGRES}/pg_amcheck"));
            command.args(["-U", "postgres", "-h"]).arg(sockets);
            command.args(["--install-missing", "--heapallindexed", "-d", "bank"]);
            command.args(["-t", "account", "-t", "teller"]);
            command
        } else {
            let mut command = self.client(sockets, "bank");
            command.args(["-e", "CHECK TABLE account, teller EXTENDED"]);
            command
        };
        let output = command.output().expect("the check can be run");
        let said = String::from_utf8_lossy(&output.stdout);
        let fine = |line: &str| self != Self::Postgres && line.ends_with("\tstatus\tOK");
        if output.status.success() && said.lines().all(fine) {
            return Ok(());
        }
        Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    }
}
