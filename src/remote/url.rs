//! Where the API is. A URL that would carry the key in the clear to another host does not parse.

use std::fmt;

use url::{Host, Url};

/// The base URL of the API: https, or http to this machine alone.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiUrl(Url);

/// A text that cannot be the API's URL. It never repeats the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiUrl {
    /// Not an absolute http or https URL.
    #[error("the API URL must be an absolute URL such as https://zepl.calry.app")]
    Form,
    /// Credentials in the URL.
    #[error("the API URL must not hold a user or password: Calry knows nothing but the API key")]
    Credentials,
    /// A query or fragment.
    #[error(
        "the API URL must not hold a query (?) or a fragment (#): give the address up to the path before /api/v1"
    )]
    Query,
    /// Plain http to another machine.
    #[error(
        "the API URL is plain http, which would send the API key in the clear: use https (only addresses of this machine, such as http://localhost, may do without)"
    )]
    Clear,
}

impl ApiUrl {
    /// Parses the base URL; path prefixes are kept and trailing slashes do not matter. `insecure_http` lets plain http
    /// through to any host; without it only 127.0.0.0/8, `[::1]` and `localhost` may do without TLS.
    ///
    /// # Errors
    /// [`InvalidApiUrl`].
    pub fn parse(text: &str, insecure_http: bool) -> Result<Self, InvalidApiUrl> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidApiUrl::Form)?;
        let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
            return Err(InvalidApiUrl::Form);
        };
        let loopback = is_loopback(&host);
        if !url.username().is_empty() || url.password().is_some() {
            Err(InvalidApiUrl::Credentials)
        } else if url.query().is_some() || url.fragment().is_some() {
            Err(InvalidApiUrl::Query)
        } else if url.scheme() == "http" && !loopback && !insecure_http {
            Err(InvalidApiUrl::Clear)
        } else {
            Ok(Self(url))
        }
    }

    /// The URL of a path below the base. The path begins with a slash and needs no escaping.
    pub(super) fn at(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }
}

/// Whether a host is this machine.
pub(super) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, InvalidApiUrl> {
        ApiUrl::parse(text, false).map(|url| url.at("/api/v1/workspace").to_string())
    }

    #[test]
    fn prefixes_are_kept_and_trailing_slashes_do_not_matter() {
        for (text, want) in [
            (
                "https://zepl.calry.app",
                "https://zepl.calry.app/api/v1/workspace",
            ),
            (
                "https://zepl.calry.app/",
                "https://zepl.calry.app/api/v1/workspace",
            ),
            (
                "https://gateway:8443/calry//\n",
                "https://gateway:8443/calry/api/v1/workspace",
            ),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(want));
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        for local in [
            "http://127.0.0.1:1",
            "http://127.9.9.9",
            "http://[::1]:8080/",
            "http://localhost",
            "HTTP://LOCALHOST",
        ] {
            assert!(parse(local).is_ok(), "{local}");
        }
        for far in [
            "http://zepl.calry.app",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://[::2]",
        ] {
            assert_eq!(parse(far), Err(InvalidApiUrl::Clear), "{far}");
            assert!(ApiUrl::parse(far, true).is_ok(), "{far}");
        }
    }

    #[test]
    fn a_url_that_hides_something_is_refused_without_repeating_it() {
        assert_eq!(
            parse("https://u:hunter2@x"),
            Err(InvalidApiUrl::Credentials)
        );
        assert_eq!(parse("https://x/?key=hunter2"), Err(InvalidApiUrl::Query));
        assert_eq!(parse("https://x/#hunter2"), Err(InvalidApiUrl::Query));
        for bad in [
            "",
            "zepl.calry.app",
            "ftp://x",
            "https://",
            "file:///etc/passwd",
            "hunter2:hunter2",
        ] {
            assert_eq!(parse(bad), Err(InvalidApiUrl::Form), "{bad}");
        }
    }
}
