//! The URLs that this program calls. Each is parsed by the policy of its purpose.
//!
//! Never: carry a password, send confidential data unencrypted to another machine, or show what the policy hides.

use std::fmt;

use url::{Host, Url};

/// An absolute http or https URL. Its `Display` shows what its policy allows.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    url: Url,
    visible: Visible,
}

/// Which URLs are accepted for a purpose, and how much of them may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlPolicy {
    /// Whether another machine may be called over plain http. This one may: 127.0.0.0/8, `[::1]` and `localhost`.
    insecure_http: bool,
    query: bool,
    visible: Visible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visible {
    All,
    /// The query may be a signature.
    WithoutQuery,
    /// The path may be a secret, as a Slack webhook's is.
    Nothing,
}

/// A URL is not accepted. The error never quotes the text, which may contain a password. It is the end of a sentence that
/// names the purpose of the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("must be an absolute URL, such as https://host.example.com/path")]
    Form,
    #[error("must not contain a user name or password")]
    Credentials,
    #[error("must not contain a query (?) or a fragment (#)")]
    Query,
    #[error(
        "must use https: plain http, which can be read and changed in transit, is only allowed to this machine"
    )]
    PlainHttp,
}

impl UrlPolicy {
    /// The source of a snapshot, which must not be changed in transit because it decides a plan.
    pub const SNAPSHOT: Self = Self {
        insecure_http: false,
        query: true,
        visible: Visible::WithoutQuery,
    };

    /// A daemon. No key is ever sent to it.
    pub const DAEMON: Self = Self {
        insecure_http: true,
        query: false,
        visible: Visible::All,
    };

    /// Calry's API, which gets the API key; `insecure_http` allows plain http to any machine.
    #[must_use]
    pub const fn api(insecure_http: bool) -> Self {
        Self {
            insecure_http,
            query: false,
            visible: Visible::All,
        }
    }

    /// A webhook or the API of a git host; `insecure_http` allows plain http to any machine.
    #[must_use]
    pub const fn webhook(insecure_http: bool) -> Self {
        Self {
            insecure_http,
            query: true,
            visible: Visible::Nothing,
        }
    }
}

impl HttpUrl {
    /// Parses a URL; surrounding white space is ignored.
    pub fn parse(text: &str, policy: UrlPolicy) -> Result<Self, InvalidUrl> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidUrl::Form)?;
        let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
            return Err(InvalidUrl::Form);
        };
        if !url.username().is_empty() || url.password().is_some() {
            Err(InvalidUrl::Credentials)
        } else if !policy.query && (url.query().is_some() || url.fragment().is_some()) {
            Err(InvalidUrl::Query)
        } else if url.scheme() == "http" && !policy.insecure_http && !is_loopback(&host) {
            Err(InvalidUrl::PlainHttp)
        } else {
            Ok(Self {
                url,
                visible: policy.visible,
            })
        }
    }

    pub(crate) const fn as_url(&self) -> &Url {
        &self.url
    }

    /// The URL of a path below this one, such as `/api/v1/workspace`. The path must need no escaping. Trailing slashes of this
    /// URL are ignored.
    pub(crate) fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// The URL below this one. Each segment is escaped, including its slashes.
    #[must_use]
    pub fn below(&self, segments: &[&str]) -> Self {
        let mut url = self.url.clone();
        // A URL with a host has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        Self { url, ..*self }
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.visible {
            Visible::All => f.write_str(self.url.as_str().trim_end_matches('/')),
            Visible::WithoutQuery => {
                let mut url = self.url.clone();
                url.set_query(None);
                url.set_fragment(None);
                f.write_str(url.as_str())
            }
            Visible::Nothing => f.write_str("***"),
        }
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: [UrlPolicy; 6] = [
        UrlPolicy::api(false),
        UrlPolicy::api(true),
        UrlPolicy::webhook(false),
        UrlPolicy::webhook(true),
        UrlPolicy::SNAPSHOT,
        UrlPolicy::DAEMON,
    ];

    fn api(text: &str) -> Result<String, InvalidUrl> {
        HttpUrl::parse(text, UrlPolicy::api(false))
            .map(|url| url.at("/api/v1/workspace").to_string())
    }

    #[test]
    fn path_prefixes_are_kept_and_trailing_slashes_are_ignored() {
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
            assert_eq!(api(text).as_deref(), Ok(want));
        }
    }

    #[test]
    fn plain_http_is_limited_to_this_machine_unless_the_policy_allows_more() {
        for policy in POLICIES {
            for local in [
                "http://127.0.0.1:1",
                "http://127.9.9.9",
                "http://[::1]:8080/",
                "http://localhost",
                "HTTP://LOCALHOST",
            ] {
                assert!(HttpUrl::parse(local, policy).is_ok(), "{local}");
            }
            for far in [
                "http://zepl.calry.app",
                "http://10.0.0.1",
                "http://localhost.example.com",
                "http://[::2]",
            ] {
                let refused = HttpUrl::parse(far, policy).err();
                let expected = (!policy.insecure_http).then_some(InvalidUrl::PlainHttp);
                assert_eq!(refused, expected, "{far} {policy:?}");
            }
        }
        let allowing = POLICIES.map(|policy| policy.insecure_http);
        assert_eq!(allowing, [false, true, false, true, false, true]);
    }

    #[test]
    fn every_policy_refuses_credentials_and_other_schemes_without_quoting_the_text() {
        for policy in POLICIES {
            let refused = |text: &str| HttpUrl::parse(text, policy).unwrap_err();
            assert_eq!(refused("https://u:hunter2@x"), InvalidUrl::Credentials);
            assert_eq!(refused("https://u@x"), InvalidUrl::Credentials);
            for bad in [
                "",
                "zepl.calry.app",
                "ftp://x",
                "https://",
                "file:///etc/passwd",
                "hunter2:hunter2",
            ] {
                assert_eq!(refused(bad), InvalidUrl::Form, "{bad}");
                assert!(!refused(bad).to_string().contains("hunter2"));
            }
        }
    }

    #[test]
    fn a_query_is_refused_or_hidden() {
        for text in ["https://x/?key=hunter2", "https://x/#hunter2"] {
            for policy in POLICIES {
                match HttpUrl::parse(text, policy) {
                    Ok(url) => assert!(
                        policy.query && !format!("{url} {url:?}").contains("hunter2"),
                        "{policy:?}"
                    ),
                    Err(error) => assert_eq!(error, InvalidUrl::Query, "{policy:?}"),
                }
            }
        }
    }

    #[test]
    fn a_webhook_url_is_hidden_and_escaped_segments_stay_below_it() {
        let base =
            HttpUrl::parse("https://git.example.com/api/v4/", UrlPolicy::webhook(false)).unwrap();
        let below = base.below(&["projects", "a/b c", "x"]);
        assert_eq!(
            below.as_url().as_str(),
            "https://git.example.com/api/v4/projects/a%2Fb%20c/x"
        );
        assert_eq!(format!("{below} {below:?}"), "*** HttpUrl(***)");
    }
}
