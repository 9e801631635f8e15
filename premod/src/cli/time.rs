//! How times are written on the command line: the same for every option.

use std::time::Duration;

/// The longest time that is taken: a hundred years, which is for ever.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A number of seconds (`90`, `0.5`), or numbers with units as jiff understands them: `500ms`, `5s`, `1m30s`, `2h`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = match text.parse() {
        Ok(seconds) if seconds > LONGEST.as_secs_f64() => Some(Duration::MAX),
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|time| Duration::try_from(time).ok()),
    };
    match time {
        Some(time) if time.is_zero() => Err("has to be more than 0".to_owned()),
        Some(time) if time > LONGEST => Err("too long: at most a hundred years".to_owned()),
        Some(time) => Ok(time),
        None => Err("not a time; try 60, 0.5, 500ms, 1m30s, 2h".to_owned()),
    }
}

/// The longest freeze: a week. It is meant to be short.
const LONGEST_FREEZE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The same for the time that files may be frozen.
pub(super) fn time_frozen(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time > LONGEST_FREEZE => Err("too long: at most a week".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        for (text, milliseconds) in [
            ("60", 60_000),
            ("0.5", 500),
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("2h", 7_200_000),
        ] {
            assert_eq!(
                time(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for wrong in [
            "", "0", "0s", "-1", "-1s", "x", "s", "nan", "inf", "1e300", "1e30", "9999999h", "5 x",
        ] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(time("8760h").is_ok());
        assert!(time_frozen("168h").is_ok());
        assert!(time_frozen("169h").is_err());
    }
}
