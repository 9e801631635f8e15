//! A reader who reads, one who stands still, and one who goes.

use std::io::{BufRead, BufReader, Read};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

use super::*;

fn pipe() -> (File, Writer) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let writer = Writer::start(Sink::File(File::from(writer))).unwrap();
    (File::from(reader), writer)
}

fn line(number: usize) -> String {
    format!("{number:0>99}\n")
}

#[tokio::test]
async fn everything_arrives_in_order() {
    let (mut reader, writer) = pipe();
    let read = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    let mut all = String::new();
    for number in 0..3000 {
        all.push_str(&line(number));
        writer.push(line(number).as_bytes());
    }
    writer.drained().await;
    drop(writer);
    assert_eq!(read.join().unwrap().unwrap(), all);
}

#[tokio::test]
async fn a_reader_who_stands_still_holds_up_nobody_and_finds_whole_lines() {
    let (reader, writer) = pipe();
    let mut pushed = 0;
    while writer.has_room() {
        let chunk: String = (pushed..pushed + 100).map(line).collect();
        writer.push(chunk.as_bytes());
        pushed += 100;
    }
    assert!(!writer.drained_unless_still().await);
    let unwritten = writer.give_up();
    let size = fcntl_getpipe_size(&reader).unwrap();
    assert!(unwritten as usize > pushed - size / 100, "{unwritten}");
    drop(writer);
    let in_pipe = rustix::io::ioctl_fionread(&reader).unwrap() as usize;
    let mut lines = Vec::new();
    let mut reader = BufReader::new(reader.take(in_pipe as u64));
    reader.read_to_end(&mut lines).unwrap();
    let written: Vec<_> = lines.lines().map(Result::unwrap).collect();
    // What the thread was about to write counts as unwritten, and may come all the same.
    let missing = pushed - written.len() - unwritten as usize;
    assert_eq!(missing, 0);
    let expected: Vec<_> = (0..written.len()).map(|n| format!("{n:0>99}")).collect();
    assert_eq!(written, expected);
}

#[tokio::test]
async fn room_comes_back_when_the_reader_goes_on() {
    let (mut reader, writer) = pipe();
    while writer.has_room() {
        writer.push(line(0).repeat(100).as_bytes());
    }
    let read = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    timeout(Duration::from_secs(30), writer.stirred(false))
        .await
        .unwrap();
    assert!(writer.error().is_none());
    writer.drained().await;
    drop(writer);
    read.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_who_has_gone_is_noticed() {
    let (reader, writer) = pipe();
    drop(reader);
    writer.push(b"x\n");
    timeout(Duration::from_secs(30), writer.stirred(true))
        .await
        .unwrap();
    let error = explained(writer.error().unwrap(), "stdout");
    assert!(matches!(error, OutputError::Closed), "{error}");
    // It takes what comes, and nothing becomes of it.
    writer.push(b"y\n");
    writer.drained().await;
}

#[tokio::test]
async fn a_descriptor_that_others_made_non_blocking_is_written_all_the_same() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    rustix::io::ioctl_fionbio(&reader, false).unwrap();
    let writer = Writer::start(Sink::File(File::from(writer))).unwrap();
    let text = line(7).repeat(5000);
    writer.push(text.as_bytes());
    let read = thread::spawn(move || {
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).map(|_| text)
    });
    writer.drained().await;
    drop(writer);
    assert_eq!(read.join().unwrap().unwrap(), text);
}

#[test]
fn pieces_end_with_lines() {
    assert_eq!(piece(b"a\nb\n"), 4);
    let long = [&[b'x'; ATOMIC - 2][..], b"\nyy\n"].concat();
    assert_eq!(piece(&long), ATOMIC - 1);
    let longer = [&[b'x'; ATOMIC][..], b"\nyy\n"].concat();
    assert_eq!(piece(&longer), ATOMIC + 1);
}
