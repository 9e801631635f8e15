//! Questions and answers between premod processes that mean well.

use std::{fs::File, io, os::fd::AsFd, os::unix::fs::PermissionsExt, time::Instant};

use tokio::net::UnixListener;

use super::{Directory, answering, report};
use crate::{
    Error,
    events::Pid,
    freeze::{
        control::{Peer, Request, ask_all},
        registry::Claim,
        report::State,
    },
};

fn claim(directory: &Directory) -> Claim {
    let file = File::open(directory.file("db")).unwrap();
    directory.registry().claim(&[file.as_fd()]).unwrap()
}

/// The only one that listens.
fn peer(directory: &Directory) -> Peer {
    let mut peers = directory.registry().peers().unwrap();
    assert_eq!(peers.len(), 1);
    peers.remove(0)
}

#[tokio::test]
async fn a_freeze_answers_each_question_with_a_report() {
    let directory = Directory::new();
    let claim = claim(&directory);
    let engine = answering(claim.listen().unwrap(), |request| {
        let mut report = report(20);
        if request == Request::Thaw {
            report.state = State::Thawed;
        }
        Some(report)
    });
    let peer = peer(&directory);
    assert_eq!(peer.pid(), Pid(std::process::id()));
    let answer = peer.ask(Request::Status).await.unwrap().unwrap();
    assert_eq!(answer, report(20));
    assert_eq!(
        (answer.violations.count, answer.violations.first.len()),
        (20, 16)
    );
    let answer = peer.ask(Request::Thaw).await.unwrap().unwrap();
    assert_eq!(answer.state, State::Thawed);
    assert_eq!(engine.end().await, [Request::Status, Request::Thaw]);
    assert!(peer.ask(Request::Status).await.unwrap().is_none());
}

#[tokio::test]
async fn hundreds_are_answered_at_once() {
    let directory = Directory::new();
    let claim = claim(&directory);
    let engine = answering(claim.listen().unwrap(), |_| Some(report(1)));
    let peers = vec![peer(&directory); 300];
    for answer in ask_all(&peers, Request::Status).await {
        assert_eq!(answer.unwrap(), Some(report(1)));
    }
    assert_eq!(engine.end().await.len(), 300);
}

#[tokio::test]
async fn the_socket_is_roots_alone_and_goes_with_the_freeze() {
    let directory = Directory::new();
    let claim = claim(&directory);
    let listening = claim.listen().unwrap();
    let socket = directory.run().join(format!("{}.sock", std::process::id()));
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = claim.listen().unwrap_err().to_string();
    assert!(error.contains("freezes a set of files already"), "{error}");
    drop(listening);
    assert!(!socket.exists());
    claim.listen().unwrap().finish().await;
    drop(claim);
    assert!(directory.leftovers().is_empty());
}

#[tokio::test]
async fn an_answer_is_delivered_whole_before_the_server_ends() {
    let directory = Directory::new();
    let claim = claim(&directory);
    let mut large = report(1);
    large.files = vec![large.files[0].clone(); 100_000];
    let mut server = claim.listen().unwrap();
    let peer = peer(&directory);
    let asking = tokio::spawn(async move { peer.ask(Request::Thaw).await });
    server.next().await.reply.send(&large);
    server.finish().await;
    assert_eq!(asking.await.unwrap().unwrap(), Some(large));
}

#[tokio::test]
async fn a_premod_that_does_not_answer_is_not_waited_for() {
    let directory = Directory::new();
    let claim = claim(&directory);
    let mut server = claim.listen().unwrap();
    let peer = peer(&directory);
    let began = Instant::now();
    let asking = tokio::spawn(async move { peer.ask(Request::Status).await });
    let unanswered = server.next().await;
    let error = asking.await.unwrap().unwrap_err();
    assert!((1.9..3.0).contains(&began.elapsed().as_secs_f64()));
    let sentence = error.to_string();
    assert!(sentence.contains("it is silent for 2 s"), "{sentence}");
    // Nobody listens to this any more.
    unanswered.reply.send(&report(0));
    server.finish().await;
}

#[tokio::test]
async fn a_server_that_ends_lets_its_clients_go() {
    let directory = Directory::new();
    let claim = claim(&directory);
    let mut server = claim.listen().unwrap();
    let (first, second) = (peer(&directory), peer(&directory));
    let asking = tokio::spawn(async move { first.ask(Request::Thaw).await });
    drop(server.next().await);
    let sentence = asking.await.unwrap().unwrap_err().to_string();
    assert!(sentence.contains("it ended without one"), "{sentence}");
    let asking = tokio::spawn(async move { second.ask(Request::Thaw).await });
    let pending = server.next().await;
    drop(server);
    assert!(matches!(asking.await.unwrap(), Err(Error::NoAnswer { .. })));
    drop(pending);
}

/// What is made of an answer that no premod of this version gives.
async fn answered(answer: &'static [u8]) -> String {
    let directory = Directory::new();
    directory.registry();
    let socket = directory.run().join("1.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await?;
        io::Result::Ok(stream)
    });
    let sentence = peer(&directory)
        .ask(Request::Status)
        .await
        .unwrap_err()
        .to_string();
    server.await.unwrap().unwrap();
    sentence
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_an_error() {
    for answer in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"request\":\"thaw\"}\n",
    ] {
        let sentence = answered(answer).await;
        assert!(
            sentence.contains("what it says makes no sense"),
            "{sentence}"
        );
    }
    let newer = b"{\"schema\":2,\"type\":\"freeze\",\"set\":{}}\n";
    let sentence = answered(newer).await;
    assert!(sentence.contains("it speaks version 2"), "{sentence}");
}
