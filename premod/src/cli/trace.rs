//! `premod trace`

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser};

use super::{
    cgroup::cgroup,
    shared::{EndingArgs, ListArgs},
    time::time,
};
use crate::{
    DEFAULT_BUFFER_SIZE,
    commands::trace::Settings,
    events::{Op, Pid, Tid},
    output::{Cgroup, Columns, Exclude, Filter, Form},
};

/// Report the first modification of each file since its data was last clean, before it happens.
///
/// Filters choose among these events; they do not change which modification is the first.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Files, or directories with everything below them; all files that can be seen if none is given
    pub paths: Vec<PathBuf>,

    /// Where more PATHs stand.
    #[command(flatten)]
    pub list: ListArgs,

    /// Trace while CMD runs, and end with its exit status
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,

    /// Write one JSON object per line
    #[arg(long)]
    pub json: bool,

    /// Write to FILE instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// End after N events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub events: Option<u64>,

    /// End after this time (60, 0.5, 500ms, 1m30s)
    #[arg(short, long, value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,

    /// What becomes of CMD.
    #[command(flatten)]
    pub ending: EndingArgs,

    /// Begin each line of the table with the time of day
    #[arg(short = 'T', long)]
    pub timestamp: bool,

    /// Only events caused by this process
    #[arg(short, long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,

    /// Only events caused by this thread
    #[arg(short, long, value_name = "TID", value_delimiter = ',')]
    pub tid: Vec<u32>,

    /// Only events caused by this user id
    #[arg(short, long, value_name = "UID", value_delimiter = ',')]
    pub uid: Vec<u32>,

    /// Only events caused by tasks of this name, of which the first 15 bytes count
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub comm: Vec<OsString>,

    /// Only events caused in this cgroup (its directory, or its id) or below it; =CGROUP for it alone
    #[arg(long, value_name = "CGROUP", value_parser = cgroup)]
    pub cgroup: Vec<Cgroup>,

    /// Only these kinds of modification
    #[arg(long, value_name = "OP", value_delimiter = ',', value_parser = op_parser())]
    pub op: Vec<Op>,

    /// Only files on filesystems of this type
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub fs: Vec<String>,

    /// Leave out what lies below this directory, or files whose path matches (*, ?, [], ** across directories)
    ///
    /// A directory (DIR or DIR/**) is decided in the kernel, as PATH is, by whatever path its files are opened. It has
    /// to be there when premod starts; else, and for every other pattern, the path counts as premod's own mount
    /// namespace has it. A pattern without a slash is about the file's own name. Patterns do not leave out files with
    /// several names. When in doubt, an event is shown.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,

    /// Size of the event buffer in bytes, or with K, M or G
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_BUFFER_SIZE, value_parser = size)]
    pub buffer_size: u32,

    /// How long direct writes and truncates without a sync count as one period
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub period: Duration,

    /// Also report what premod itself modifies
    #[arg(long)]
    pub own: bool,

    /// Wait for PATHs that do not exist yet (without it that is an error)
    #[arg(long)]
    pub wait: bool,
}

impl TraceArgs {
    /// Checks what clap cannot, and turns the options into what the command knows.
    ///
    /// # Errors
    /// If a pattern is no glob.
    pub fn into_settings(self, verbose: u8) -> Result<Settings, crate::Error> {
        let form = if self.json {
            Form::Json
        } else {
            Form::Table(Columns {
                time: self.timestamp,
            })
        };
        Ok(Settings {
            paths: self.list.with(self.paths),
            command: self.command,
            form,
            output: self.output,
            events: self.events,
            duration: self.duration,
            ending: self.ending.into(),
            buffer_size: self.buffer_size,
            period: self.period,
            own: self.own,
            wait: self.wait,
            kernel_log_level: if verbose >= 2 { 4 } else { 0 },
            filter: Filter {
                pids: self.pid.into_iter().map(Pid).collect(),
                tids: self.tid.into_iter().map(Tid).collect(),
                uids: self.uid,
                comms: self
                    .comm
                    .into_iter()
                    .map(std::os::unix::ffi::OsStringExt::into_vec)
                    .collect(),
                cgroups: self.cgroup,
                ops: self.op,
                filesystems: self.fs,
                exclude: Exclude::new(&self.exclude)?,
            },
        })
    }
}

fn op_parser() -> impl TypedValueParser<Value = Op> {
    PossibleValuesParser::new(Op::ALL.map(Op::name)).map(|name| {
        // The parser lets only these names through.
        Op::ALL
            .into_iter()
            .find(|op| op.name() == name)
            .unwrap_or(Op::Unknown)
    })
}

fn size(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (&text[..end], 1 << 10),
        Some((end, 'm' | 'M')) => (&text[..end], 1 << 20),
        Some((end, 'g' | 'G')) => (&text[..end], 1 << 30),
        _ => (text, 1),
    };
    let count: u32 = digits
        .parse()
        .map_err(|_| "not a size; try 64K, 16M".to_owned())?;
    match count.checked_mul(factor) {
        Some(0) => Err("has to be more than 0".to_owned()),
        Some(bytes) if bytes <= 1 << 30 => Ok(bytes),
        _ => Err("too large: at most 1G".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_understood() {
        assert_eq!(size("64K"), Ok(65536));
        assert_eq!(size("1G"), Ok(1 << 30));
        assert_eq!(size("4096"), Ok(4096));
        for wrong in ["", "K", "0", "2G", "-1", "1T", "1é"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
