//! Who may freeze a file: one process at a time, and not for longer than it lives.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::{
        fd::AsFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use super::{Directory, registry, user};
use crate::{
    Error,
    events::Pid,
    freeze::{
        control::{Peer, Request},
        registry::{FileId, Registry},
    },
};

const OWN: fn() -> Pid = || Pid(std::process::id());

#[test]
fn a_file_is_claimed_once_and_free_again_afterwards() {
    let directory = Directory::new();
    let registry = directory.registry();
    let path = directory.file("db");
    let file = File::open(&path).unwrap();
    let claim = registry.claim(&[file.as_fd()]).unwrap();
    assert_eq!(directory.leftovers().len(), 2, "a claim, and a file's link");
    let error = registry.claim(&[file.as_fd()]).unwrap_err();
    let sentence = format!(
        "cannot freeze {}: it is frozen already by premod {} (EBUSY); premod status tells more",
        path.display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), sentence);
    let owner = registry.owner(FileId::at(&path).unwrap()).unwrap();
    assert_eq!(owner.map(|peer| peer.pid()), Some(OWN()));
    drop(claim);
    assert!(directory.leftovers().is_empty());
    let owner = registry.owner(FileId::at(&path).unwrap()).unwrap();
    assert!(owner.is_none());
    registry.claim(&[file.as_fd()]).unwrap();
}

#[test]
fn all_files_are_claimed_or_none() {
    let directory = Directory::new();
    let registry = directory.registry();
    let files = ["a", "b", "c"].map(|name| File::open(directory.file(name)).unwrap());
    let [a, b, c] = files.each_ref().map(AsFd::as_fd);
    let _first = registry.claim(&[b]).unwrap();
    for all in [[a, b, c], [c, b, a]] {
        let error = registry.claim(&all).unwrap_err();
        let named = matches!(&error, Error::Busy { path, .. } if path.ends_with("b"));
        assert!(named, "{error}");
        assert_eq!(directory.leftovers().len(), 2, "only b is claimed");
    }
    registry.claim(&[a, c]).unwrap();
}

#[test]
fn a_file_that_comes_twice_is_claimed_once() {
    let directory = Directory::new();
    let path = directory.file("a");
    let link = directory.path.join("link");
    std::fs::hard_link(&path, &link).unwrap();
    let files = [&path, &link, &path].map(|path| File::open(path).unwrap());
    let files = files.each_ref().map(AsFd::as_fd);
    let _claim = directory.registry().claim(&files).unwrap();
    assert_eq!(directory.leftovers().len(), 2);
}

#[test]
fn no_two_ever_have_the_same_file() {
    let directory = Directory::new();
    let registry = directory.registry();
    let files = ["a", "b"].map(|name| File::open(directory.file(name)).unwrap());
    let inside = [AtomicU32::new(0), AtomicU32::new(0)];
    let successes = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 0..8 {
            let (registry, files, inside, successes) = (&registry, &files, &inside, &successes);
            scope.spawn(move || {
                for round in 0..200 {
                    let wanted: &[usize] = [&[0][..], &[1], &[0, 1], &[1, 0]][(number + round) % 4];
                    let open: Vec<_> = wanted.iter().map(|&one| files[one].as_fd()).collect();
                    match registry.claim(&open) {
                        Ok(claim) => {
                            for &one in wanted {
                                assert_eq!(inside[one].fetch_add(1, Ordering::SeqCst), 0);
                            }
                            thread::yield_now();
                            for &one in wanted {
                                inside[one].fetch_sub(1, Ordering::SeqCst);
                            }
                            successes.fetch_add(1, Ordering::SeqCst);
                            drop(claim);
                        }
                        Err(error) => assert!(matches!(error, Error::Busy { .. }), "{error}"),
                    }
                }
            });
        }
    });
    assert!(successes.into_inner() > 8);
    assert!(directory.leftovers().is_empty());
}

#[test]
fn whoever_tidies_up_gets_in_nobodys_way() {
    let directory = Directory::new();
    let registry = directory.registry();
    let path = directory.file("a");
    let file = File::open(&path).unwrap();
    let id = FileId::at(&path).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert!(registry.peers().unwrap().is_empty());
                registry.owner(id).unwrap();
            }
        });
        let claimed: Result<Vec<_>, _> = (0..500)
            .map(|_| registry.claim(&[file.as_fd()]).map(drop))
            .collect();
        over.store(true, Ordering::SeqCst);
        claimed.unwrap();
    });
}

#[test]
fn many_files_cost_one_descriptor() {
    let directory = Directory::new();
    let registry = directory.registry();
    let names = (0..300).map(|number| directory.file(&number.to_string()));
    let files: Vec<_> = names.map(|path| File::open(path).unwrap()).collect();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let claim = registry.claim(&files).unwrap();
    assert_eq!(directory.leftovers().len(), 301);
    let run = directory.run();
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    assert_eq!(open.filter(|path| path.starts_with(&run)).count(), 1);
    drop(claim);
    assert!(directory.leftovers().is_empty());
}

#[test]
fn a_link_to_nowhere_claims_nothing() {
    let directory = Directory::new();
    let registry = directory.registry();
    let path = directory.file("db");
    let id = FileId::at(&path).unwrap();
    let link = directory.run().join("locks").join(id.to_string());
    symlink(format!("{}-1-0", std::process::id()), &link).unwrap();
    assert!(registry.owner(id).unwrap().is_none());
    drop(
        registry
            .claim(&[File::open(&path).unwrap().as_fd()])
            .unwrap(),
    );
    symlink("4711-1-0", &link).unwrap();
    assert!(registry.peers().unwrap().is_empty());
    assert!(directory.leftovers().is_empty());
}

/// Another process that claims a file and listens, until it is killed.
struct Holder {
    child: Child,
    pid: Pid,
}

const RUN: &str = "PREMOD_TEST_RUN";
const FILE: &str = "PREMOD_TEST_FILE";

impl Holder {
    fn start(directory: &Directory, file: &PathBuf) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "freeze::tests::claims::holds_until_killed"])
            .args(["--ignored", "--nocapture"])
            .env(RUN, directory.run())
            .env(FILE, file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ready = lines.map(Result::unwrap);
        assert!(ready.any(|line| line.contains("holding")));
        let pid = Pid(child.id());
        Self { child, pid }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Not a test: what a [`Holder`] runs.
#[tokio::test]
#[ignore = "the other process of the tests below"]
async fn holds_until_killed() {
    let (Some(run), Some(file)) = (std::env::var_os(RUN), std::env::var_os(FILE)) else {
        return;
    };
    let file = File::open(file).unwrap();
    let claim = registry(run.as_ref()).claim(&[file.as_fd()]).unwrap();
    let _server = claim.listen().unwrap();
    println!("holding");
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_process_holds_nothing_and_what_it_left_is_removed() {
    let directory = Directory::new();
    let registry = directory.registry();
    let path = directory.file("db");
    let file = File::open(&path).unwrap();
    let holder = Holder::start(&directory, &path);
    let holder_pid = holder.pid;
    let error = registry.claim(&[file.as_fd()]).unwrap_err();
    let named = matches!(&error, Error::Busy { pid, .. } if *pid == Some(holder_pid));
    assert!(named, "{error}");
    let pids: Vec<_> = registry.peers().unwrap().iter().map(Peer::pid).collect();
    assert_eq!(pids, [holder_pid]);

    holder.kill();
    assert_eq!(
        directory.leftovers().len(),
        4,
        "a socket, two locks, a link"
    );
    let owner = registry.owner(FileId::at(&path).unwrap()).unwrap();
    assert!(owner.is_none());
    registry.claim(&[file.as_fd()]).unwrap();
    assert!(registry.peers().unwrap().is_empty());
    assert!(directory.leftovers().is_empty());
}

#[tokio::test]
async fn who_dies_between_the_listing_and_the_question_has_ended() {
    let directory = Directory::new();
    let path = directory.file("db");
    let holder = Holder::start(&directory, &path);
    let peers = directory.registry().peers().unwrap();
    holder.kill();
    assert!(peers[0].ask(Request::Thaw).await.unwrap().is_none());
}

#[test]
fn a_run_directory_that_others_could_write_is_refused() {
    let directory = Directory::new();
    let refused = |path: &PathBuf, user, reason: &str| {
        let sentence = Registry::open_in(path, user).unwrap_err().to_string();
        assert!(sentence.contains(reason), "{sentence}");
    };
    let path = directory.path.join("open");
    std::fs::create_dir(&path).unwrap();
    for mode in [0o777, 0o720, 0o702] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        refused(&path, user(), "others than root may write into it");
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    refused(&path, user() + 1, "it is not root's own");
    let link = directory.path.join("link");
    symlink(&path, &link).unwrap();
    refused(&link, user(), "cannot use");
    refused(&directory.file("file"), user(), "cannot use");
    refused(&directory.path.join("no/such"), user(), "cannot use");
    Registry::open_in(&path, user()).unwrap();
}
