//! The answering side: takes requests from its socket, while the engine does its own work.
//!
//! Each client has a task, so that one who sends nothing, or garbage, or does not read, costs nobody else
//! anything. All waiting has an end. The tasks run when the engine awaits something: one that blocks its
//! thread is taken for one that does not answer.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{control::Request, lock::Lock};
use crate::{freeze::report::SetReport, output::json_line};

/// Most clients at a time; further ones wait to be let in.
const CLIENTS_MAX: usize = 64;
/// Longest request in bytes.
const REQUEST_MAX: u64 = 256;
/// How long a client may take to send its request, and to read the answer: less than a client waits, so that
/// one who comes when all places are taken by others who do nothing gets its answer all the same.
const CLIENT_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client waits for the engine: a little longer than any client does.
const ENGINE_PATIENCE: Duration = Duration::from_secs(15);

/// Listens for requests about one set.
#[derive(Debug)]
pub struct Server {
    requests: mpsc::Receiver<Incoming>,
    stop: oneshot::Sender<()>,
    task: Task,
    name: Name,
}

/// A request, and where the answer goes.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked.
    pub request: Request,
    /// Where to answer.
    pub reply: Reply,
}

/// Where an answer goes. Dropping it closes the connection without one.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Vec<u8>>);

impl Reply {
    /// Answers. Does not wait for the client to read: [`Server::finish`] does.
    pub fn send(self, report: &SetReport) {
        // Whoever has asked may be gone.
        let _ = self.0.send(json_line(report));
    }
}

impl Server {
    /// Listens at `path`, for this user only. The lock says that nobody else of this name lives.
    pub(super) fn bind(path: &Path, lock: Lock, user: u32) -> io::Result<Self> {
        // The socket gets its name only when somebody listens, so that a refused connection means a dead
        // process; it takes the place of one that was left behind.
        let unready = path.with_extension("new");
        let _ = std::fs::remove_file(&unready);
        let listener = UnixListener::bind(&unready)?;
        std::fs::set_permissions(&unready, PermissionsExt::from_mode(0o600))?;
        std::fs::rename(&unready, path)?;
        let name = Name {
            path: path.to_owned(),
            _lock: lock,
        };
        let (sender, requests) = mpsc::channel(CLIENTS_MAX);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, user, sender, stopped));
        Ok(Self {
            requests,
            stop,
            task: Task(task),
            name,
        })
    }

    /// The next request. May be dropped and called again without losing one.
    pub async fn next(&mut self) -> Incoming {
        match self.requests.recv().await {
            Some(incoming) => incoming,
            // The task has panicked: nobody can ask any more, and the freeze goes on.
            None => std::future::pending().await,
        }
    }

    /// A request that has come already.
    pub fn waiting(&mut self) -> Option<Incoming> {
        self.requests.try_recv().ok()
    }

    /// Ends: lets nobody in any more, and waits until what was answered has been read. Takes at most as
    /// long as one client may take to read.
    pub async fn finish(self) {
        let Self {
            requests,
            stop,
            mut task,
            name,
        } = self;
        drop(name);
        drop(requests);
        let _ = stop.send(());
        let _ = timeout(CLIENT_PATIENCE, &mut task.0).await;
    }
}

/// The socket's name, which goes before the lock does.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for Name {
    fn drop(&mut self) {
        // If it cannot be removed, the next who looks takes it for what a dead process has left.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(
    listener: UnixListener,
    user: u32,
    requests: mpsc::Sender<Incoming>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((stream, _)) if is_user(&stream, user) => {
                    clients.spawn(client(stream, requests.clone()));
                }
                Ok(_) => {}
                // Out of descriptors, most likely: it would fail again at once.
                Err(_) => sleep(Duration::from_millis(100)).await,
            },
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

fn is_user(stream: &UnixStream, user: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user)
}

/// One client, one request, one answer.
async fn client(mut stream: UnixStream, requests: mpsc::Sender<Incoming>) {
    let request = tokio::select! {
        request = timeout(CLIENT_PATIENCE, request(&mut stream)) => request,
        // The freeze is over.
        () = requests.closed() => return,
    };
    let Ok(Some(request)) = request else { return };
    let (sender, answer) = oneshot::channel();
    let reply = Reply(sender);
    if requests.send(Incoming { request, reply }).await.is_err() {
        return;
    }
    if let Ok(Ok(answer)) = timeout(ENGINE_PATIENCE, answer).await {
        // A client that does not read has not lost anything that it wanted.
        let _ = timeout(CLIENT_PATIENCE, stream.write_all(&answer)).await;
    }
}

async fn request(stream: &mut UnixStream) -> Option<Request> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(stream).take(REQUEST_MAX);
    limited.read_until(b'\n', &mut line).await.ok()?;
    serde_json::from_slice(&line).ok()
}
