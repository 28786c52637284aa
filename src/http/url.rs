//! The URLs that this program calls. Each is parsed once, by the policy of what it is for.
//!
//! Never: carry a password, send what is confidential in the clear to another machine, or show what its policy hides.

use std::fmt;

use url::{Host, Url};

/// An absolute http or https URL. Its `Display` shows what its policy allows.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    url: Url,
    visible: Visible,
}

/// What a URL is for, and so which ones are accepted and how much of one may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlPolicy {
    plain_http: PlainHttp,
    query: bool,
    visible: Visible,
}

/// Which machines may be called over plain http.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlainHttp {
    /// 127.0.0.0/8, `[::1]` and `localhost`.
    Loopback,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visible {
    All,
    /// A query may be a signature.
    WithoutQuery,
    /// The path may be a secret, as a Slack webhook's is.
    Nothing,
}

/// A text that is not such a URL. It never repeats the text, which may hold a password; it is the end of a sentence that
/// names what the URL is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("must be an absolute URL, such as https://host.example.com/path")]
    Form,
    #[error("must not contain a user name or password")]
    Credentials,
    #[error("must not contain a query (?) or a fragment (#)")]
    Query,
    #[error(
        "must use https: plain http, which others can read and change on the way, is only allowed to this machine"
    )]
    PlainHttp,
}

impl UrlPolicy {
    /// Where a snapshot is fetched: its content decides a plan, so nobody may change it on the way.
    pub const SNAPSHOT: Self = Self {
        plain_http: PlainHttp::Loopback,
        query: true,
        visible: Visible::WithoutQuery,
    };

    /// Where a daemon listens; no key is ever sent there.
    pub const DAEMON: Self = Self {
        plain_http: PlainHttp::Any,
        query: false,
        visible: Visible::All,
    };

    /// Calry's API, which gets the API key; `insecure_http` allows plain http to any machine.
    #[must_use]
    pub const fn api(insecure_http: bool) -> Self {
        Self {
            plain_http: PlainHttp::unless(insecure_http),
            query: false,
            visible: Visible::All,
        }
    }

    /// A webhook or the API of a git host; `insecure_http` allows plain http to any machine.
    #[must_use]
    pub const fn webhook(insecure_http: bool) -> Self {
        Self {
            plain_http: PlainHttp::unless(insecure_http),
            query: true,
            visible: Visible::Nothing,
        }
    }
}

impl PlainHttp {
    const fn unless(insecure_http: bool) -> Self {
        if insecure_http {
            Self::Any
        } else {
            Self::Loopback
        }
    }
}

impl HttpUrl {
    /// Parses a URL; white space around it does not matter.
    ///
    /// # Errors
    /// [`InvalidUrl`].
    pub fn parse(text: &str, policy: UrlPolicy) -> Result<Self, InvalidUrl> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidUrl::Form)?;
        let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
            return Err(InvalidUrl::Form);
        };
        if !url.username().is_empty() || url.password().is_some() {
            Err(InvalidUrl::Credentials)
        } else if !policy.query && (url.query().is_some() || url.fragment().is_some()) {
            Err(InvalidUrl::Query)
        } else if url.scheme() == "http"
            && policy.plain_http == PlainHttp::Loopback
            && !is_loopback(&host)
        {
            Err(InvalidUrl::PlainHttp)
        } else {
            Ok(Self {
                url,
                visible: policy.visible,
            })
        }
    }

    /// The URL itself, for a request.
    pub(crate) const fn as_url(&self) -> &Url {
        &self.url
    }

    /// The URL of a path below this one, such as `/api/v1/workspace`. The path needs no escaping; slashes at the end of this
    /// URL do not matter.
    pub(crate) fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// The URL below this one; each segment is escaped, slashes in it included.
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
    fn path_prefixes_are_kept_and_trailing_slashes_do_not_matter() {
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
    fn plain_http_is_for_this_machine_unless_the_policy_allows_it() {
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
                let allowed = policy.plain_http == PlainHttp::Any;
                let parsed = HttpUrl::parse(far, policy);
                assert!(
                    if allowed {
                        parsed.is_ok()
                    } else {
                        parsed == Err(InvalidUrl::PlainHttp)
                    },
                    "{far} {policy:?}"
                );
            }
        }
        let allowing = POLICIES.map(|policy| policy.plain_http == PlainHttp::Any);
        assert_eq!(allowing, [false, true, false, true, false, true]);
    }

    #[test]
    fn credentials_and_other_schemes_are_refused_by_every_policy_without_repeating_the_text() {
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
    fn a_webhook_shows_nothing_and_what_is_below_it_stays_below_it() {
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
