//! The table for people. The path comes last, so that no path can push a column out of line.

use std::io::Write;

use unicode_width::UnicodeWidthStr;

use super::text::printable;
use crate::events::FirstDirty;

/// Which columns are shown besides the usual ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Time of day.
    pub time: bool,
}

/// Longest `comm`, as escaped text may be longer than the kernel's 15 bytes.
const COMM_WIDTH: usize = 15;

pub(super) fn header(buffer: &mut Vec<u8>, columns: Columns) {
    if columns.time {
        line(buffer, &[("TIME", 15)], "");
    }
    cells(buffer, "OP", "WHEN", "PID", "COMM", "GEN");
    buffer.extend_from_slice(b"PATH\n");
}

pub(super) fn event(buffer: &mut Vec<u8>, event: &FirstDirty, columns: Columns) {
    if columns.time {
        let zoned = event.timestamp.to_zoned(jiff::tz::TimeZone::system());
        line(
            buffer,
            &[(&zoned.strftime("%H:%M:%S%.6f").to_string(), 15)],
            "",
        );
    }
    let when = if event.pre { "before" } else { "late" };
    cells(
        buffer,
        event.op.name(),
        when,
        &event.pid.0.to_string(),
        &printable(&event.comm),
        &event.generation.to_string(),
    );
    let mut path = printable(&event.path.bytes);
    if event.path.cut {
        path.insert_str(0, ".../");
    }
    if event.path.in_filesystem {
        path.insert_str(0, &format!("[{}]", printable(event.filesystem.as_bytes())));
    }
    if event.path.deleted {
        path.push_str(" (deleted)");
    }
    if event.path.undecided {
        path.push_str(" (undecided)");
    }
    buffer.extend_from_slice(path.as_bytes());
    buffer.push(b'\n');
}

fn cells(buffer: &mut Vec<u8>, op: &str, when: &str, pid: &str, comm: &str, generation: &str) {
    line(buffer, &[(op, 9), (when, 6)], pid);
    let comm = shortened(comm);
    line(buffer, &[(comm, COMM_WIDTH)], generation);
}

/// Left-aligned cells, then one that is right-aligned in seven columns.
fn line(buffer: &mut Vec<u8>, left: &[(&str, usize)], right: &str) {
    for (text, width) in left {
        buffer.extend_from_slice(text.as_bytes());
        let padding = width.saturating_sub(text.width()) + 1;
        buffer.extend(std::iter::repeat_n(b' ', padding));
    }
    if !right.is_empty() {
        // Writing to a Vec does not fail.
        let _ = write!(buffer, "{right:>7} ");
    }
}

fn shortened(text: &str) -> &str {
    let ends = text
        .char_indices()
        .map(|(start, character)| start + character.len_utf8());
    let fitting = ends.take_while(|&end| text[..end].width() <= COMM_WIDTH);
    &text[..fitting.last().unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::text::sample;

    fn rows(events: &[FirstDirty]) -> Vec<String> {
        let mut buffer = Vec::new();
        header(&mut buffer, Columns::default());
        for one in events {
            event(&mut buffer, one, Columns::default());
        }
        String::from_utf8(buffer)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn columns_stay_aligned_whatever_the_names() {
        let mut wide = sample();
        wide.comm = bytes::Bytes::from_static("名前名前名".as_bytes());
        let mut hostile = sample();
        hostile.comm = bytes::Bytes::from_static(b"\x1b\x1b\x1b\x1b\x1b\x1b\x1b");
        let rows = rows(&[sample(), wide, hostile]);
        assert_eq!(
            rows[0],
            "OP        WHEN       PID COMM                GEN PATH"
        );
        assert_eq!(
            rows[1],
            "mmap      before     100 postgres              3 /data/db/heap"
        );
        let column = |row: &str| row[..row.find("/data").unwrap()].width();
        assert!(
            rows[1..].iter().all(|row| column(row) == column(&rows[1])),
            "{rows:?}"
        );
    }

    #[test]
    fn no_field_reaches_the_terminal_raw() {
        let mut odd = sample();
        odd.path.in_filesystem = true;
        odd.filesystem = "fuse.\x1b[2J".into();
        odd.comm = bytes::Bytes::from_static(b"\t\xef\xb8\x8f\n");
        let row = &rows(&[odd])[1];
        assert!(row.ends_with("[fuse.\\x1b[2J]/data/db/heap"), "{row}");
        assert!(row.contains(" \\x09\\xef\\xb8\\x8 "), "{row}");
    }

    #[test]
    fn peculiar_paths_are_marked() {
        let mut odd = sample();
        odd.pre = false;
        odd.path.deleted = true;
        odd.path.in_filesystem = true;
        odd.path.undecided = true;
        odd.path.bytes = bytes::Bytes::from_static(b"/x\n");
        assert!(rows(&[odd])[1].ends_with("[ext4]/x\\x0a (deleted) (undecided)"));
    }
}
