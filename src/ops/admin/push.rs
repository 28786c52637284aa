//! Reads the body of a push hook: which references of which repository were pushed. Pure.
//!
//! One type has the fields of every host, because their names do not clash: GitHub, Gitea and Forgejo, GitLab, Bitbucket
//! Cloud and Bitbucket Data Center.
//!
//! Never: fail. A body that is not understood is a push of which nothing is known.

use std::borrow::Cow;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::daemon::Push;

/// The most references of one push. With more, the references are unknown.
const MAX_REFERENCES: usize = 64;
/// The longest name of a reference, in bytes.
const MAX_NAME: usize = 250;
/// The longest address of a repository, in bytes.
const MAX_ADDRESS: usize = 1024;
/// The most addresses of one push. With more, the addresses are unknown.
const MAX_ADDRESSES: usize = 16;

/// A push, as far as it is known. Its texts are untrusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushEvent {
    /// The addresses of the repository: host and path.
    pub addresses: Vec<String>,
    /// `None` if they are unknown.
    pub references: Option<Vec<PushedReference>>,
    /// The host's id of the delivery.
    pub delivery: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushedReference {
    /// The full name.
    pub name: String,
    /// The commit that it names now; `None` if it was deleted or the commit is unknown.
    pub commit: Option<String>,
}

impl PushEvent {
    pub fn parse(body: &[u8], delivery: Option<String>) -> Self {
        // A form, which is a choice in the settings of GitHub's and Gitea's webhooks.
        let json = match body.starts_with(b"payload=") {
            true => url::form_urlencoded::parse(body)
                .next()
                .map_or(Cow::Borrowed(body), |(_, text)| {
                    text.into_owned().into_bytes().into()
                }),
            false => Cow::Borrowed(body),
        };
        let payload: Payload = serde_json::from_slice(&json).unwrap_or_default();
        Self {
            addresses: payload.addresses(),
            references: payload.references(),
            delivery,
        }
    }

    /// Whether the push names this repository as its own.
    pub fn names(&self, url: &str) -> bool {
        comparable(url).is_some_and(|own| self.addresses.contains(&own))
    }

    /// Whether this repository may be what the push names: itself, or its mirror on a host that the push does not name.
    pub fn may_be_of(&self, url: &str) -> bool {
        let host = |address: &str| address.split('/').next().map(str::to_owned);
        comparable(url).is_none_or(|own| {
            let mut named = self.addresses.iter();
            self.addresses.contains(&own) || !named.any(|it| host(it) == host(&own))
        })
    }

    /// The push of a repository that this decides about; `None` if none of the references matters to it. Unknown references
    /// may be any.
    pub fn push_for(&self, is_moved_by: impl Fn(&str) -> bool) -> Option<Push> {
        let commit = match &self.references {
            None => None,
            Some(references) => {
                let moved = references.iter().find(|pushed| is_moved_by(&pushed.name));
                moved?.commit.clone()
            }
        };
        Some(Push {
            commit,
            delivery: self.delivery.clone(),
        })
    }

    /// The push of a directory, which holds whatever branch its owner checks out.
    pub fn push(&self) -> Push {
        let commit = match self.references.as_deref() {
            Some([only]) => only.commit.clone(),
            _ => None,
        };
        Push {
            commit,
            delivery: self.delivery.clone(),
        }
    }
}

/// The fields that the hosts' payloads have.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload {
    #[serde(rename = "ref")]
    reference: Option<String>,
    after: Option<String>,
    /// GitLab: the commit, also of an annotated tag.
    checkout_sha: Option<String>,
    /// GitHub: the commit, also of an annotated tag.
    head_commit: Option<Target>,
    repository: Option<Addresses>,
    /// GitLab.
    project: Option<Addresses>,
    /// Bitbucket Cloud.
    push: Option<CloudPush>,
    /// Bitbucket Data Center.
    changes: Option<Beginning<DataCenterChange>>,
}

/// The addresses of a repository.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Addresses {
    clone_url: Option<String>,
    html_url: Option<String>,
    git_http_url: Option<String>,
    web_url: Option<String>,
    url: Option<String>,
    links: Option<Links>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Links {
    html: Option<Link>,
    clone: Option<Beginning<Link>>,
}

#[derive(Deserialize)]
struct Link {
    href: Option<String>,
}

#[derive(Deserialize)]
struct CloudPush {
    changes: Beginning<CloudChange>,
}

#[derive(Deserialize)]
struct CloudChange {
    new: Option<CloudReference>,
    old: Option<CloudReference>,
}

#[derive(Deserialize)]
struct CloudReference {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    target: Option<Target>,
}

/// A commit.
#[derive(Deserialize)]
struct Target {
    #[serde(alias = "hash")]
    id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataCenterChange {
    #[serde(rename = "ref")]
    reference: DataCenterReference,
    to_hash: Option<String>,
}

#[derive(Deserialize)]
struct DataCenterReference {
    id: String,
}

impl Payload {
    fn addresses(&self) -> Vec<String> {
        let mut found = Vec::new();
        for of in [&self.repository, &self.project].into_iter().flatten() {
            let links = of.links.as_ref();
            let html = links.and_then(|links| links.html.as_ref());
            let clone = links.and_then(|links| links.clone.as_ref());
            let linked = html
                .into_iter()
                .chain(clone.into_iter().flat_map(|links| &links.items))
                .map(|link| &link.href);
            let own = [
                &of.clone_url,
                &of.html_url,
                &of.git_http_url,
                &of.web_url,
                &of.url,
            ];
            for text in own.into_iter().chain(linked).flatten() {
                if let Some(address) = comparable(text)
                    && !found.contains(&address)
                {
                    found.push(address);
                }
            }
        }
        match found.len() {
            0..=MAX_ADDRESSES => found,
            _ => Vec::new(),
        }
    }

    /// `None` unless every reference is known.
    fn references(&self) -> Option<Vec<PushedReference>> {
        let references: Vec<_> = match (&self.reference, &self.push, &self.changes) {
            (Some(name), ..) => vec![self.reference(name)?],
            (None, Some(push), _) => push.changes.all(CloudChange::reference)?,
            (None, None, Some(changes)) => changes.all(DataCenterChange::reference)?,
            (None, None, None) => return None,
        };
        (!references.is_empty()).then_some(references)
    }

    fn reference(&self, name: &str) -> Option<PushedReference> {
        let head = self
            .head_commit
            .as_ref()
            .and_then(|commit| commit.id.as_ref());
        let commit = match name.starts_with("refs/tags/") {
            // What an annotated tag names first is an object of its own.
            true => self.checkout_sha.as_ref().or(head),
            false => self.after.as_ref().or(self.checkout_sha.as_ref()),
        };
        PushedReference::new(name.to_owned(), commit)
    }
}

impl PushedReference {
    /// `None` if this is not the full name of a reference.
    fn new(name: String, commit: Option<&String>) -> Option<Self> {
        let is_full = name.starts_with("refs/")
            && name.len() <= MAX_NAME
            && !name.chars().any(char::is_control);
        let is_commit = |id: &&String| {
            matches!(id.len(), 40 | 64)
                && id.bytes().all(|b| b.is_ascii_hexdigit())
                && id.bytes().any(|b| b != b'0')
        };
        let commit = commit.filter(is_commit).map(|id| id.to_ascii_lowercase());
        is_full.then_some(Self { name, commit })
    }
}

impl CloudChange {
    fn reference(&self) -> Option<PushedReference> {
        // A deleted reference has only its old state.
        let named = self.new.as_ref().or(self.old.as_ref())?;
        let directory = match named.kind.as_str() {
            "branch" => "heads",
            "tag" => "tags",
            _ => return None,
        };
        let target = self.new.as_ref().and_then(|new| new.target.as_ref());
        let commit = target.and_then(|target| target.id.as_ref());
        PushedReference::new(format!("refs/{directory}/{}", named.name), commit)
    }
}

impl DataCenterChange {
    fn reference(&self) -> Option<PushedReference> {
        let name = &self.reference.id;
        // The object of an annotated tag is not distinguished from a commit.
        let commit = self.to_hash.as_ref();
        PushedReference::new(
            name.clone(),
            commit.filter(|_| !name.starts_with("refs/tags/")),
        )
    }
}

/// The host and the path of an address, without what differs between two addresses of one repository. Hosts compare paths
/// without case.
fn comparable(address: &str) -> Option<String> {
    if address.len() > MAX_ADDRESS {
        return None;
    }
    let url = Url::parse(address).ok()?;
    let path = url.path().trim_end_matches('/').to_ascii_lowercase();
    let path = path.strip_suffix(".git").unwrap_or(&path);
    let host = url.host_str()?.to_ascii_lowercase();
    let comparable = format!("{host}{path}");
    // Escapes can make it longer, here or as JSON.
    let is_plain = comparable.len() <= MAX_ADDRESS && !comparable.contains(['"', '\\']);
    (path.len() > 1 && is_plain).then_some(comparable)
}

/// The first items of a list, so that a long one takes little memory.
struct Beginning<T> {
    items: Vec<T>,
    is_whole: bool,
}

impl<T> Beginning<T> {
    /// `None` unless the list is whole and each item is understood.
    fn all<R>(&self, each: impl Fn(&T) -> Option<R>) -> Option<Vec<R>> {
        self.is_whole
            .then(|| self.items.iter().map(each).collect())
            .flatten()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Beginning<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Beginning<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX_REFERENCES {
                    match list.next_element()? {
                        Some(item) => items.push(item),
                        None => {
                            return Ok(Beginning {
                                items,
                                is_whole: true,
                            });
                        }
                    }
                }
                let mut is_whole = true;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    is_whole = false;
                }
                Ok(Beginning { items, is_whole })
            }
        }

        deserializer.deserialize_seq(Items(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMMIT: &str = "59b20b8d5c6ff8d09518454d4dd8b7b30f095ab5";

    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/fixtures/pushes/",
                $name,
                ".json"
            ))
        };
    }

    fn parse(body: &str) -> PushEvent {
        PushEvent::parse(body.as_bytes(), None)
    }

    fn references(event: &PushEvent) -> Vec<(&str, Option<&str>)> {
        let all = event.references.iter().flatten();
        all.map(|one| (one.name.as_str(), one.commit.as_deref()))
            .collect()
    }

    #[test]
    fn the_push_of_every_host_names_its_repository_and_its_references() {
        let main = vec![("refs/heads/main", Some(COMMIT))];
        for (body, url, pushed) in [
            (
                fixture!("github"),
                "https://github.com/acme/definitions.git",
                main.clone(),
            ),
            (
                fixture!("github-tag"),
                "https://github.com/acme/definitions",
                vec![("refs/tags/v1", Some(COMMIT))],
            ),
            (
                fixture!("github-deleted"),
                "https://github.com/acme/definitions",
                vec![("refs/heads/main", None)],
            ),
            (
                fixture!("gitea"),
                "https://git.example.com/acme/definitions.git",
                main.clone(),
            ),
            (
                fixture!("gitlab"),
                "https://gitlab.example.com/acme/definitions.git",
                main.clone(),
            ),
            (
                fixture!("gitlab-tag"),
                "https://gitlab.example.com/acme/definitions.git",
                vec![("refs/tags/v1", Some(COMMIT))],
            ),
            (
                fixture!("bitbucket-cloud"),
                "https://bitbucket.org/acme/definitions.git",
                vec![("refs/heads/main", Some(COMMIT)), ("refs/tags/old", None)],
            ),
            (
                fixture!("bitbucket-data-center"),
                "https://bitbucket.example.com/scm/acme/definitions.git",
                vec![
                    ("refs/heads/main", Some(COMMIT)),
                    ("refs/heads/old", None),
                    ("refs/tags/v1", None),
                ],
            ),
        ] {
            let event = parse(body);
            assert_eq!(references(&event), pushed, "{url}");
            assert!(event.names(url), "{url} is not in {:?}", event.addresses);
            assert!(!event.names("https://github.com/acme/other.git"));
        }
    }

    #[test]
    fn a_form_is_read_like_json() {
        let form: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", fixture!("github"))
            .finish();
        assert_eq!(parse(&form), parse(fixture!("github")));
        assert_eq!(parse("payload=%ff"), PushEvent::default());
    }

    #[test]
    fn what_is_not_understood_is_unknown() {
        let many = |count: usize| {
            let change = r#"{"ref": {"id": "refs/heads/main"}}"#;
            format!(r#"{{"changes": [{}]}}"#, vec![change; count].join(","))
        };
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "{",
            r#"{"ref": 5}"#,
            r#"{"ref": "main"}"#,
            r#"{"ref": "refs/heads/a\u0007"}"#,
            r#"{"changes": []}"#,
            r#"{"push": {"changes": [{"new": null, "old": null}]}}"#,
            r#"{"push": {"changes": [{"new": {"type": "bookmark", "name": "main"}, "old": null}]}}"#,
            &many(MAX_REFERENCES + 1),
            &"[".repeat(100_000),
        ] {
            assert_eq!(parse(body).references, None, "{body:.100}");
        }
        assert_eq!(
            references(&parse(&many(MAX_REFERENCES))).len(),
            MAX_REFERENCES
        );
        let event = parse(r#"{"ref": "refs/heads/main", "after": "main"}"#);
        assert_eq!(references(&event), [("refs/heads/main", None)]);
    }

    #[test]
    fn addresses_are_compared_without_scheme_user_port_case_and_suffix() {
        let own = comparable("https://git.example.com/acme/definitions.git");
        assert_eq!(own.as_deref(), Some("git.example.com/acme/definitions"));
        for same in [
            "http://GIT.example.com:3000/acme/definitions",
            "ssh://git@Git.Example.com:2222/acme/definitions.git",
            "https://ada:secret@git.example.com/acme/definitions.git/",
            "https://git.example.com/Acme/Definitions.GIT",
        ] {
            assert_eq!(comparable(same), own, "{same}");
        }
        for other in [
            "https://git.example.com/acme/definitions2",
            "https://git.example.com.evil.example/acme/definitions",
            "https://git.example.com/",
            "git@git.example.com:acme/definitions.git",
            "mailto:acme/definitions",
            "",
        ] {
            assert_ne!(comparable(other), own, "{other}");
        }
    }

    #[test]
    fn a_push_is_for_those_who_follow_one_of_its_references() {
        let event = parse(fixture!("bitbucket-cloud"));
        let commit = |of: &str| event.push_for(|name| name == of).map(|push| push.commit);
        assert_eq!(commit("refs/heads/main"), Some(Some(COMMIT.to_owned())));
        assert_eq!(commit("refs/tags/old"), Some(None));
        assert_eq!(commit("refs/heads/other"), None);
        assert!(PushEvent::default().push_for(|_| false).is_some());
    }

    #[test]
    fn a_mirror_on_a_host_that_the_push_does_not_name_may_be_its_repository() {
        let event = parse(
            r#"{"repository": {"clone_url": "https://git.example.com/acme/definitions.git", "html_url": "https://web.example.com/acme/x"}}"#,
        );
        for (url, may_be) in [
            ("https://GIT.example.com/Acme/definitions", true),
            ("https://mirror.example.com/acme/definitions.git", true),
            ("https://mirror.example.com/other", true),
            ("https://git.example.com/acme/other.git", false),
            ("https://web.example.com:8443/acme/definitions.git", false),
        ] {
            assert_eq!(event.may_be_of(url), may_be, "{url}");
        }
    }

    #[test]
    fn the_number_and_the_length_of_addresses_are_bounded() {
        let links = |count: usize| {
            let links = (0..count)
                .map(|n| serde_json::json!({"href": format!("https://git.example.com/acme/{n}")}));
            let links: Vec<_> = links.collect();
            serde_json::json!({"repository": {"links": {"clone": links}}}).to_string()
        };
        let count = |body: &str| parse(body).addresses.len();
        assert_eq!(count(&links(MAX_ADDRESSES)), MAX_ADDRESSES);
        assert_eq!(count(&links(MAX_ADDRESSES + 1)), 0, "unknown");
        for long in ["\u{e9}".repeat(500), "x".repeat(MAX_ADDRESS)] {
            assert_eq!(comparable(&format!("https://a.example/{long}")), None);
        }
        for escaped in ["ssh://git.example.com/a\\b", "ssh://git\"/a"] {
            assert_eq!(comparable(escaped), None, "{escaped}");
        }
    }

    proptest! {
        #[test]
        fn no_body_is_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PushEvent::parse(&body, None);
        }

        #[test]
        fn no_change_of_a_payload_is_a_panic(
            of in proptest::sample::select(vec![
                fixture!("github"), fixture!("gitlab"), fixture!("gitea"), fixture!("bitbucket-cloud"),
                fixture!("bitbucket-data-center"),
            ]),
            at in any::<proptest::sample::Index>(),
            length in 0_usize..20,
            other in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut body = of.as_bytes().to_vec();
            let at = at.index(body.len());
            let end = (at + length).min(body.len());
            body.splice(at..end, other);
            for reference in PushEvent::parse(&body, None).references.iter().flatten() {
                prop_assert!(reference.name.starts_with("refs/") && reference.name.len() <= MAX_NAME);
            }
        }
    }
}
