//! Days as dates, and seconds as times.

use std::time::{SystemTime, UNIX_EPOCH};

/// Year, month and day of a day number since 1970-01-01, in the Gregorian calendar.
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    /// Days of 400 years, after which the calendar repeats.
    const CYCLE: i64 = 146_097;
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut year, mut day) = (1970 + 400 * days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

/// The time now as RFC 3339 has it, UTC, to the second: `2026-11-30T18:00:00Z`.
pub(crate) fn now() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970, in the format of [`now`].
pub(crate) fn rfc3339(seconds: u64) -> String {
    let ([year, month, day], [hour, minute, second]) = split(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Seconds since 1970 to the minute, for people: `2026-11-30 18:00 UTC`.
pub(crate) fn minute(seconds: u64) -> String {
    let ([year, month, day], [hour, minute, _]) = split(seconds);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Date and time of day.
fn split(seconds: u64) -> ([i64; 3], [u64; 3]) {
    let (days, rest) = ((seconds / 86_400).cast_signed(), seconds % 86_400);
    let (year, month, day) = civil(days);
    ([year, month, day], [rest / 3600, rest / 60 % 60, rest % 60])
}
