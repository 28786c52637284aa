//! Parses the `Retry-After` header.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::machine;

/// The longest accepted wait; a longer one is reduced to it.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The wait that an answer asks for. A date is compared with the answer's own date, so it does not depend on our clock.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let wait = headers.get(RETRY_AFTER)?.to_str().ok()?;
    parse(wait, date(headers).unwrap_or_else(|| machine::now().into()))
}

/// The time of an answer by the server's clock.
pub(crate) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?.trim()).ok()
}

/// Parses seconds or an HTTP date (RFC 9110, section 10.2.3). A date in the past is a wait of zero.
fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().map_or(LONGEST_WAIT, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value)
            .ok()?
            .duration_since(now)
            .unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_date_is_compared_with_the_date_of_the_same_answer() {
        let headers = |date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(
                RETRY_AFTER,
                "Sun, 06 Nov 1994 08:49:47 GMT".parse().unwrap(),
            );
            date.map(|date| headers.insert(DATE, date.parse().unwrap()));
            headers
        };
        assert_eq!(
            retry_after(&headers(Some("Sun, 06 Nov 1994 08:49:37 GMT"))),
            Some(Duration::from_secs(10))
        );
        assert_eq!(retry_after(&headers(None)), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers(Some("today"))), Some(Duration::ZERO));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value| parse(value, now);
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            read("Sun, 06 Nov 1994 08:49:47 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            read("Sunday, 06-Nov-94 08:49:47 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999999999999999"), Some(LONGEST_WAIT));
        for nonsense in ["", "soon", "-5", "1.5", "7 seconds"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
