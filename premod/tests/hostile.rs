//! What anybody chose is quoted on stderr, and none of it reaches the terminal raw. Needs no privilege.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
};

const HOSTILE: &[u8] = b"/no/such\n\x1b[31m\x07\xff\xc2\x9b\xe2\x80\xae";
const HARMLESS: &str = "/no/such\\x0a\\x1b[31m\\x07";

/// What premod says on stderr about these arguments, which have to be wrong.
fn complaint(arguments: &[&[u8]]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_premod"))
        .args(arguments.iter().map(|argument| OsStr::from_bytes(argument)))
        .stdin(Stdio::null())
        .output()
        .expect("premod can be run");
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).expect("valid UTF-8");
    let raw = |character: char| character.is_control() && character != '\n';
    assert!(!text.chars().any(raw), "{text:?}");
    assert!(!text.contains('\u{202e}'), "{text:?}");
    text
}

#[test]
fn a_sentence_quotes_names_harmlessly_and_stays_one_line() {
    let path = [HOSTILE, b"/log"].concat();
    let sentence = complaint(&[b"trace", b"-o", &path]);
    assert_eq!(sentence.lines().count(), 1, "{sentence:?}");
    assert!(
        sentence.starts_with("premod: cannot write ") && sentence.contains(HARMLESS),
        "{sentence:?}"
    );
}

#[test]
fn a_file_that_cannot_be_thawed_is_quoted_harmlessly() {
    let sentence = complaint(&[b"thaw", HOSTILE]);
    let first = sentence.lines().next().expect("a sentence");
    assert!(
        first.starts_with("premod: cannot thaw ") && first.contains(HARMLESS),
        "{sentence:?}"
    );
}

#[test]
fn a_complaint_about_the_command_line_quotes_harmlessly() {
    // These have to be UTF-8, or they are not quoted at all.
    let hostile = "a\nb\x1b[31m\u{9b}\u{202e}";
    let harmless = "a\\x0ab\\x1b[31m\\xc2\\x9b\\xe2\\x80\\xae";
    for arguments in [
        vec!["trace", "--op", hostile],
        vec!["trace", "-p", hostile],
        vec![hostile],
        vec!["trace", &format!("--{hostile}")],
        vec!["doctor", hostile],
        vec!["status", hostile],
        vec!["thaw", &format!("--all={hostile}")],
    ] {
        let arguments: Vec<&[u8]> = arguments
            .iter()
            .map(|argument| argument.as_bytes())
            .collect();
        let text = complaint(&arguments);
        assert!(text.contains(harmless), "{text:?}");
    }
    complaint(&[b"trace", b"--op", HOSTILE]);
    complaint(&[b"trace", b"--exclude", "[\x1b[2J\u{9b}".as_bytes()]);
}
