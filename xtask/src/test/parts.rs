//! How long each part of a run took.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

/// The parts that have ended, in that order. Some run beside others.
#[derive(Default)]
pub(crate) struct Parts(Mutex<Vec<(String, Duration)>>);

impl Parts {
    /// Does one part.
    pub(crate) fn time<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        if let Ok(mut parts) = self.0.lock() {
            parts.push((name.to_owned(), start.elapsed()));
        }
        result
    }
}

/// One line: `Time: setup 12 s, clippy 60 s`.
impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.lock().map_err(|_| fmt::Error)?;
        for (number, (name, time)) in parts.iter().enumerate() {
            let before = if number == 0 { "Time: " } else { ", " };
            write!(f, "{before}{name} {:.0} s", time.as_secs_f32())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_time() {
        let parts = Parts::default();
        assert_eq!(parts.time("setup", || 7), 7);
        parts.time("clippy", || ());
        assert_eq!(parts.to_string(), "Time: setup 0 s, clippy 0 s");
    }
}
