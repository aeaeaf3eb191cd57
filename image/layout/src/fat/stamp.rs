//! A time as FAT writes it: two seconds exact, from 1980 to 2107.

use std::time::{SystemTime, UNIX_EPOCH};

/// A time in UTC: FAT has no time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) time: u16,
    pub(super) date: u16,
}

// === impl Stamp ===

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Stamp {
        Stamp::at(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

impl Stamp {
    fn at(seconds: u64) -> Stamp {
        /// Days from 1970-01-01 to 1980-01-01, where FAT begins, and to the last day of 2107, where it ends.
        const DAYS: std::ops::RangeInclusive<u64> = 3652..=50402;
        let days = (seconds / 86_400).clamp(*DAYS.start(), *DAYS.end()) - DAYS.start();
        let is_leap = |year: u64| year.is_multiple_of(4) && year != 2100;
        let (mut year, mut day) = (1980, days);
        while day >= 365 + u64::from(is_leap(year)) {
            day -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let february = 28 + u64::from(is_leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        let of_day = seconds % 86_400;
        let date = ((year - 1980) << 9) | (month << 5) | (day + 1);
        let time = ((of_day / 3600) << 11) | ((of_day / 60 % 60) << 5) | (of_day % 60 / 2);
        Stamp { time: u16::try_from(time).unwrap_or(0), date: u16::try_from(date).unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_fat_has_them() {
        let check = |seconds: u64, date: (u16, u16, u16), time: (u16, u16, u16)| {
            let expected = Stamp {
                date: ((date.0 - 1980) << 9) | (date.1 << 5) | date.2,
                time: (time.0 << 11) | (time.1 << 5) | (time.2 / 2),
            };
            assert_eq!(Stamp::at(seconds), expected, "{seconds}");
        };
        check(0, (1980, 1, 1), (0, 0, 0));
        check(315_532_800, (1980, 1, 1), (0, 0, 0));
        check(951_782_399, (2000, 2, 28), (23, 59, 58));
        check(951_782_400, (2000, 2, 29), (0, 0, 0));
        check(1_767_225_600, (2026, 1, 1), (0, 0, 0));
        check(4_107_542_400, (2100, 3, 1), (0, 0, 0));
        check(u64::MAX, (2107, 12, 31), (7, 0, 14));
    }
}
