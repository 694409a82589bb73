//! Cron expressions of five fields in UTC.

use anyhow::{Context, Result, ensure};

/// Milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;

/// Minutes that are searched: a year and a day.
const SEARCH_LIMIT: i64 = 366 * 24 * 60;

/// Gives the next time of a cron expression after a time, both in milliseconds since 1970.
pub fn next(expression: &str, after_ms: i64) -> Result<i64> {
    let fields: Vec<&str> = expression.split_whitespace().collect();
    ensure!(fields.len() == 5, "{expression:?} is no cron expression of five fields");
    let first = after_ms.div_euclid(MINUTE_MS) + 1;
    for minute in first..first + SEARCH_LIMIT {
        let (day, in_day) = (minute.div_euclid(24 * 60), minute.rem_euclid(24 * 60));
        let (_, month, date) = civil(day);
        // 1970-01-01 was a Thursday.
        let values = [in_day % 60, in_day / 60, date, month, (day + 4).rem_euclid(7)];
        let mut all = true;
        for (field, value) in fields.iter().zip(values) {
            all &= matches(field, value)?;
        }
        if all {
            return Ok(minute * MINUTE_MS);
        }
    }
    anyhow::bail!("{expression:?} has no time within a year")
}

fn matches(field: &str, value: i64) -> Result<bool> {
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().context("a cron's step")?),
            None => (part, 1),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (0, 59),
            Some((low, high)) => (low.parse()?, high.parse()?),
            None => (range.parse()?, range.parse()?),
        };
        if (low..=high).contains(&value) && (value - low) % step == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives the year, the month and the day of a number of days since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Writes a time in RFC 3339.
pub fn rfc3339(ms: i64) -> String {
    let (year, month, day) = civil(ms.div_euclid(86_400_000));
    let s = ms.rem_euclid(86_400_000) / 1_000;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3_600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    // 2026-11-30T19:00:00Z, a Monday.
    const NOW_MS: i64 = 1_796_065_200_000;

    #[test]
    fn the_next_time_of_an_expression_is_found() -> Result<()> {
        assert_eq!(rfc3339(NOW_MS), "2026-11-30T19:00:00Z");
        for (expression, next_time) in [
            ("0 9 * * *", "2026-12-01T09:00:00Z"),
            ("*/15 * * * *", "2026-11-30T19:15:00Z"),
            ("30 8-10,22 * * *", "2026-11-30T22:30:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("0 12 * * 0", "2026-12-06T12:00:00Z"),
        ] {
            let found = next(expression, NOW_MS).map(rfc3339);
            if expression == "0 0 29 2 *" {
                assert!(found.is_err(), "it is more than a year away");
                continue;
            }
            assert_eq!(found?, next_time, "{expression}");
        }
        assert!(next("0 9 * *", NOW_MS).is_err() && next("x 9 * * *", NOW_MS).is_err());
        Ok(())
    }
}
