//! A moment as machines and people write it. In: seconds since the Unix epoch, or RFC 3339. Out: the other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time, in seconds since the Unix epoch; RFC 3339 on the wire. Times before the epoch are its beginning:
/// official clients log out with a time far in the past and write "never" as the year 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

/// What RFC 3339 text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time such as 2026-01-31T12:00:00Z")]
pub struct TimestampError(String);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = i64::try_from(self.0).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        let text = at.and_then(|t| t.format(&Rfc3339).ok());
        f.write_str(text.as_deref().unwrap_or("9999-12-31T23:59:59Z"))
    }
}

/// `2026-11-21 14:07` in UTC, for tables that people read. Unlike a [`Timestamp`] it takes seconds before the epoch too: a
/// file may be that old.
#[must_use]
pub fn to_the_minute(seconds: i64) -> String {
    // Beyond the year 9999, or damaged.
    let Ok(at) = OffsetDateTime::from_unix_timestamp(seconds) else { return "–".to_string() };
    format!("{:04}-{:02}-{:02} {:02}:{:02}", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute())
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Timestamp, TimestampError> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError(text.chars().take(60).collect()))?;
        Ok(Timestamp(u64::try_from(at.unix_timestamp()).unwrap_or(0)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn minutes_of_tables() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_795_270_020, "2026-11-21 14:07"),
            (4_107_542_400, "2100-03-01 00:00"),
            (-1, "1969-12-31 23:59"),
            (i64::MAX, "–"),
        ] {
            assert_eq!(to_the_minute(seconds), text);
        }
    }

    #[test]
    fn times_of_clients() {
        assert_eq!("0001-01-01T00:00:00Z".parse::<Timestamp>().unwrap(), Timestamp(0));
        assert_eq!("1970-01-01T02:02:03+02:00".parse::<Timestamp>().unwrap(), Timestamp(123));
        assert_eq!(Timestamp(1_790_000_000).to_string(), "2026-09-21T14:13:20Z");
        assert!("tomorrow".parse::<Timestamp>().is_err());
        assert!(Timestamp(u64::MAX).to_string().starts_with("9999"));
    }

    proptest! {
        /// Every second up to the end of the year 9999 is read as it is written, and text sorts as time does.
        #[test]
        fn a_time_is_read_as_it_is_written(a in 0u64..253_402_300_800, b in 0u64..253_402_300_800) {
            let (a, b) = (Timestamp(a), Timestamp(b));
            prop_assert_eq!(a.to_string().parse::<Timestamp>().unwrap(), a);
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
            let minute = to_the_minute(a.0 as i64);
            prop_assert_eq!(minute.replace(' ', "T"), a.to_string()[..16].to_string());
        }
    }

    #[test]
    fn times_that_no_calendar_has() {
        for bad in
            ["", "2026-02-30T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "1790000000"]
        {
            let e = bad.parse::<Timestamp>().unwrap_err();
            assert_eq!(e.to_string(), format!("`{bad}` is no time such as 2026-01-31T12:00:00Z"));
        }
        // What a peer sends is shown in part, and cut between characters.
        let long = "\u{e9}".repeat(500);
        assert!(long.parse::<Timestamp>().unwrap_err().to_string().chars().count() < 120);
        assert_eq!("2026-01-31T12:00:00.999Z".parse(), Ok(Timestamp(1_769_860_800)), "parts of a second do not count");
        assert_eq!(Timestamp(253_402_300_800).to_string(), "9999-12-31T23:59:59Z");
    }
}
