//! Asking a running freeze: one line of JSON each way over its socket.
//!
//! ```text
//! {"request":"status"}   ->  a SetReport, at once
//! {"request":"thaw"}     ->  a SetReport, when everybody has been let go
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::{sleep, timeout},
};

pub use super::server::{Incoming, Reply, Server};
use crate::{Error, events::Pid, freeze::report::SetReport, output::json_line};

/// The longest answer that is read: 4,096 files with the longest paths, all escaped, and everybody held.
const ANSWER_MAX: u64 = 256 << 20;

/// What a running freeze can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How is it?
    Status,
    /// Let everybody go, and end.
    Thaw,
}

impl Request {
    /// How long to wait for the answer.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            Self::Status => Duration::from_secs(2),
            Self::Thaw => Duration::from_secs(10),
        }
    }
}

/// Another premod that holds a set.
#[derive(Clone, Debug)]
pub struct Peer {
    pid: Pid,
    socket: PathBuf,
}

impl Peer {
    pub(super) const fn new(pid: Pid, socket: PathBuf) -> Self {
        Self { pid, socket }
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Asks it; `None` if it has ended.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if it does not answer in time, or not as it should.
    pub async fn ask(&self, request: Request) -> Result<Option<SetReport>, Error> {
        self.ask_for(request, request.patience()).await
    }

    async fn ask_for(
        &self,
        request: Request,
        patience: Duration,
    ) -> Result<Option<SetReport>, Error> {
        let no_answer = |why: String| Error::NoAnswer { pid: self.pid, why };
        let answer = match timeout(patience, exchange(&self.socket, request)).await {
            Ok(Ok(Some(answer))) => answer,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(no_answer(error.to_string())),
            Err(_) => {
                let why = format!(
                    "it is silent for {} s; the kernel lets everybody go at its deadline in any case",
                    patience.as_secs()
                );
                return Err(no_answer(why));
            }
        };
        if answer.is_empty() {
            let why = "it ended without one; premod thaw --recover continues what it may have left stopped";
            return Err(no_answer(why.to_owned()));
        }
        understood(&answer).map(Some).map_err(no_answer)
    }
}

/// The report, or why there is none.
fn understood(answer: &[u8]) -> Result<SetReport, String> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let nonsense = |error: serde_json::Error| format!("what it says makes no sense ({error})");
    let Version { schema } = serde_json::from_slice(answer).map_err(nonsense)?;
    if schema == SetReport::SCHEMA {
        serde_json::from_slice(answer).map_err(nonsense)
    } else {
        Err(format!(
            "it speaks version {schema}; use the premod that it was started with"
        ))
    }
}

/// How much longer each is waited for because of each other one: they are at work at the same time.
const FOR_EACH_OTHER: Duration = Duration::from_secs(1);

/// Asks all of them at once; the answers come in the same order.
pub async fn ask_all(peers: &[Peer], request: Request) -> Vec<Result<Option<SetReport>, Error>> {
    let others = peers.len().saturating_sub(1) as u32;
    let patience = match request {
        Request::Status => request.patience(),
        Request::Thaw => request.patience() + FOR_EACH_OTHER * others,
    };
    let ask = |peer: &Peer| {
        let peer = peer.clone();
        tokio::spawn(async move { peer.ask_for(request, patience).await })
    };
    // All of them begin before the first is waited for.
    let asked: Vec<_> = peers.iter().map(ask).collect();
    let mut answers = Vec::new();
    for (peer, asked) in peers.iter().zip(asked) {
        answers.push(asked.await.unwrap_or_else(|error| {
            let why = error.to_string();
            Err(Error::NoAnswer { pid: peer.pid, why })
        }));
    }
    answers
}

async fn exchange(socket: &Path, request: Request) -> io::Result<Option<Vec<u8>>> {
    let Some(mut stream) = connect(socket).await? else {
        return Ok(None);
    };
    // If it has closed the connection already, there may be an answer all the same.
    let _ = stream.write_all(&json_line(&request)).await;
    let mut answer = Vec::new();
    let mut limited = BufReader::new(&mut stream).take(ANSWER_MAX);
    match limited.read_until(b'\n', &mut answer).await {
        // So ends a connection that waited for the listener to take it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(Vec::new())),
        Err(error) => Err(error),
        Ok(_) => Ok(Some(answer)),
    }
}

/// Connects; `None` if nobody listens any more. A socket has its name only while somebody listens.
async fn connect(socket: &Path) -> io::Result<Option<UnixStream>> {
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                // Too many are waiting already.
                io::ErrorKind::WouldBlock => sleep(Duration::from_millis(20)).await,
                _ => return Err(error),
            },
        }
    }
}
