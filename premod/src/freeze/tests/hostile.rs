//! Clients that mean harm, or are broken: the freeze goes on, and others are answered.

use std::{
    fs::File,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{Directory, Engine, answering, report, user};
use crate::{
    freeze::{
        control::{Peer, Request},
        registry::{Claim, Registry},
        report::SetReport,
    },
    fuzz,
};

/// A running freeze.
struct Freeze {
    _directory: Directory,
    _claim: Claim,
    engine: Engine,
    peer: Peer,
    socket: PathBuf,
}

fn freeze(answer: SetReport) -> Freeze {
    let directory = Directory::new();
    let registry = directory.registry();
    let file = File::open(directory.file("db")).unwrap();
    let claim = registry.claim(&[file.as_fd()]).unwrap();
    let server = claim.listen().unwrap();
    Freeze {
        engine: answering(server, move |_| Some(answer.clone())),
        peer: registry.peers().unwrap().remove(0),
        socket: directory.run().join(format!("{}.sock", std::process::id())),
        _claim: claim,
        _directory: directory,
    }
}

impl Freeze {
    /// Sends this, and reads what comes.
    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(4), stream.read_to_end(&mut answer))
            .await
            .expect("the connection is closed");
        answer
    }

    async fn is_well(&self) {
        let answer = self.peer.ask(Request::Status).await.unwrap();
        assert!(answer.is_some());
    }
}

#[tokio::test]
async fn garbage_gets_no_answer() {
    let freeze = freeze(report(0));
    let long = [
        b"{\"request\":\"thaw\",\"x\":\"".to_vec(),
        vec![b'x'; 1 << 20],
    ]
    .concat();
    for garbage in [
        &b""[..],
        b"\n",
        b"\0\0\0\0\n",
        b"thaw\n",
        b"{\"request\":\"thaw\"",
        b"{\"request\":\"format\"}\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
        b"\xff\xfe{\"request\":\"thaw\"}\n",
        &long,
    ] {
        assert!(freeze.send(garbage).await.is_empty());
    }
    freeze.is_well().await;
    assert_eq!(freeze.engine.end().await, [Request::Status]);
}

#[test]
fn no_bytes_whatever_stop_the_server() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let freeze = runtime.block_on(async { freeze(report(0)) });
    proptest!(fuzz::effort(200), |(bytes in fuzz::bytes(600))| {
        let answer = runtime.block_on(freeze.send(&bytes));
        prop_assert!(answer.is_empty(), "{bytes:?}");
    });
    runtime.block_on(freeze.is_well());
}

#[tokio::test]
async fn clients_that_say_nothing_take_places_for_a_second_only() {
    let freeze = freeze(report(0));
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = UnixStream::connect(&freeze.socket).await.unwrap();
        stream.write_all(b"{\"request\":").await.unwrap();
        silent.push(stream);
    }
    // The first 64 are let in; the others, and whoever comes after them, wait until those are thrown out.
    let began = Instant::now();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    freeze.is_well().await;
    assert!(began.elapsed() < Duration::from_millis(3000));
    assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_never_reads_keeps_nobody_waiting() {
    let mut large = report(0);
    large.files = vec![large.files[0].clone(); 50_000];
    let freeze = freeze(large);
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut stream = UnixStream::connect(&freeze.socket).await.unwrap();
        stream
            .write_all(b"{\"request\":\"status\"}\n")
            .await
            .unwrap();
        deaf.push(stream);
    }
    freeze.is_well().await;
    let began = Instant::now();
    freeze.engine.end().await;
    assert!(began.elapsed() < Duration::from_millis(2500));
    drop(deaf);
}

#[tokio::test]
async fn another_user_gets_no_answer() {
    let directory = Directory::new();
    let file = File::open(directory.file("db")).unwrap();
    // A registry that takes its owner for somebody else.
    let registry = Registry::open_in(&directory.run(), user()).unwrap();
    let claim = registry
        .with_user(user() + 1)
        .claim(&[file.as_fd()])
        .unwrap();
    let engine = answering(claim.listen().unwrap(), |_| Some(report(0)));
    let peer = registry.peers().unwrap().remove(0);
    assert!(peer.ask(Request::Thaw).await.is_err());
    assert!(engine.end().await.is_empty());
}
