//! Whether whoever reads the output is still there.
//!
//! A program that writes seldom would notice only with its next line that nobody reads any more, hours later perhaps.

use std::{future::pending, io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The other end of a pipe or a socket; none, if the output is neither.
pub(crate) struct Reader(Option<(AsyncFd<OwnedFd>, Interest)>);

impl Reader {
    /// Begins to watch over the reader of this output.
    ///
    /// Has to be called inside of a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// If it cannot be watched.
    pub(crate) fn watch(output: OwnedFd) -> io::Result<Self> {
        // What his end comes as. On a socket, other things come that way too.
        let interest = match FileType::from_raw_mode(fstat(&output)?.st_mode) {
            FileType::Fifo => Interest::ERROR,
            FileType::Socket => Interest::ERROR.add(Interest::WRITABLE),
            _ => return Ok(Self(None)),
        };
        // SAFETY: the descriptor is the same for as long as it lives.
        let watched = unsafe { AsyncFd::register_with_interest(output, interest) };
        Ok(Self(Some((watched?, interest))))
    }

    /// Waits until nobody reads any more; for ever, if nobody can tell.
    pub(crate) async fn gone(&self) {
        let Some((output, interest)) = &self.0 else {
            return pending().await;
        };
        loop {
            let Ok(mut ready) = output.ready(*interest).await else {
                return pending().await;
            };
            // That it is closed is never taken back.
            if ready.ready().is_write_closed() || is_gone(output.get_ref()) {
                return;
            }
            ready.clear_ready();
        }
    }
}

fn is_gone(output: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(output, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut polled, Some(&now)).is_ok()
        && polled[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use std::{
        os::{fd::AsFd, unix::net::UnixStream},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    async fn is_noticed(reader: &Reader) -> bool {
        timeout(Duration::from_millis(200), reader.gone())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn a_reader_who_goes_is_noticed_and_no_other() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let reader = Reader::watch(write.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(!is_noticed(&reader).await);
        // What stands in the pipe is no reason to stay.
        rustix::io::write(&write, b"x").unwrap();
        assert!(!is_noticed(&reader).await);
        drop(read);
        assert!(is_noticed(&reader).await);

        let (ours, theirs) = UnixStream::pair().unwrap();
        let reader = Reader::watch(ours.into()).unwrap();
        rustix::io::write(&theirs, b"x").unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_noticed(&reader).await, "it may still read");
        drop(theirs);
        assert!(is_noticed(&reader).await);

        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_noticed(&Reader::watch(file.into()).unwrap()).await);
    }
}
