//! The end of an output: what is still to be written, and how long anybody waits for that.

use std::time::Duration;

use tokio::time::Instant;

use super::signals::Signals;
use crate::output::writer::Writer;

/// A second signal that comes this soon belongs to the first: timeout(1) sends one to premod and one to its group.
const ONE: Duration = Duration::from_millis(300);

/// Since when premod has to end without waiting for a reader who stands still; never, if nothing has told it to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hurry(Option<Instant>);

impl Hurry {
    /// From now on, if it was told to end.
    pub(super) fn if_told(told: bool) -> Self {
        Self(told.then(Instant::now))
    }

    /// A signal has come; whether it is one more.
    fn more(&mut self) -> bool {
        let since = *self.0.get_or_insert_with(Instant::now);
        since.elapsed() > ONE
    }
}

/// Waits until everything is written, or cannot be, and returns true; false if it has to be given up.
///
/// A reader may take his time. But in a hurry, after a signal or when the time is up, nobody waits for one who stands
/// still. A signal makes it a hurry, and one more ends it.
pub(super) async fn drain(writer: &Writer, hurry: &mut Hurry, signals: &mut Signals) -> bool {
    loop {
        let hurried = hurry.0.is_some();
        let written = async {
            if hurried {
                return writer.drained_unless_still().await;
            }
            writer.drained().await;
            true
        };
        tokio::pin!(written);
        loop {
            tokio::select! {
                biased;
                written = &mut written => return written,
                _ = signals.next() => {
                    if hurry.more() {
                        return false;
                    }
                    if !hurried {
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_signals_at_once_are_one() {
        let mut hurry = Hurry::default();
        assert!(!hurry.more(), "the first makes it a hurry");
        assert!(!hurry.more());
        std::thread::sleep(ONE * 2);
        assert!(hurry.more());
        let mut hurry = Hurry::if_told(true);
        assert!(!hurry.more());
        std::thread::sleep(ONE * 2);
        assert!(hurry.more());
    }
}
