//! Where the API is: an address that the key may be sent to.

use std::fmt;

use url::{Host, Url};

/// The API's base URL: https, or plain http to this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiUrl {
    base: Url,
}

/// An address that the API key is not sent to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Not a URL.
    #[error("the API URL is not an absolute http or https URL, such as https://zepl.calry.app")]
    NotAUrl,
    /// User, password, query or fragment.
    #[error("the API URL holds a user, password, query or fragment; give only scheme, host, port and path")]
    Extras,
    /// Plain http to another machine.
    #[error(
        "the API URL is plain http to another machine, and everybody on the way could read the API key; use https, or \
         --insecure-http if you accept that"
    )]
    Plain,
}

impl ApiUrl {
    /// Parses the base URL.
    ///
    /// # Errors
    /// [`InvalidUrl`] where the key must not be sent there.
    pub fn parse(text: &str, insecure_http: bool) -> Result<Self, InvalidUrl> {
        let mut base = Url::parse(text).map_err(|_| InvalidUrl::NotAUrl)?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(InvalidUrl::NotAUrl);
        }
        let extras = !base.username().is_empty()
            || base.password().is_some()
            || base.query().is_some()
            || base.fragment().is_some();
        if extras {
            return Err(InvalidUrl::Extras);
        }
        let loopback = match base.host() {
            Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        if base.scheme() == "http" && !loopback && !insecure_http {
            return Err(InvalidUrl::Plain);
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self { base })
    }

    /// Whether it is plain http.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// The address of a resource; `path` has no leading slash and consists of unreserved characters.
    pub(super) fn join(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        for good in [
            "http://127.0.0.1:4010",
            "http://127.9.9.9",
            "http://[::1]:1",
            "http://LOCALHOST/x",
            "https://zepl.calry.app",
        ] {
            assert!(ApiUrl::parse(good, false).is_ok(), "{good}");
        }
        for bad in
            ["http://zepl.calry.app", "http://localhost.example.com", "http://10.0.0.1", "http://0x7f.1.example/"]
        {
            assert_eq!(ApiUrl::parse(bad, false), Err(InvalidUrl::Plain), "{bad}");
            assert!(ApiUrl::parse(bad, true).is_ok(), "{bad}");
        }
    }

    #[test]
    fn an_address_with_extras_is_refused() {
        for bad in ["https://u@h", "https://u:p@h", "https://h/?q", "https://h/#f"] {
            assert_eq!(ApiUrl::parse(bad, true), Err(InvalidUrl::Extras), "{bad}");
        }
        for bad in ["", "zepl.calry.app", "file:///etc/passwd", "ftp://h"] {
            assert_eq!(ApiUrl::parse(bad, true), Err(InvalidUrl::NotAUrl), "{bad}");
        }
    }

    #[test]
    fn a_path_prefix_is_kept() {
        let joined = |base: &str| ApiUrl::parse(base, false).unwrap().join("api/v1/workspace").to_string();
        assert_eq!(joined("https://h"), "https://h/api/v1/workspace");
        assert_eq!(joined("https://h/proxy"), "https://h/proxy/api/v1/workspace");
        assert_eq!(joined("https://h/proxy/"), "https://h/proxy/api/v1/workspace");
    }
}
