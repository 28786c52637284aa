//! The repository that the daemon fetches: what a fetch costs, every failure of a server, and a process that is killed.

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use calry_gitops::desired::git::{
    CloneRoot, FETCH_TIMEOUT, FetchError, FetchedCommit, GitCredentials, GitPath, GitReference,
    GithubApp, MAX_FETCH, Remote, RemoteSettings, load_fetched,
};
use calry_gitops::http::{HttpUrl, SecretFile, UrlPolicy, install_tls};
use calry_gitops::model::FetchFailure;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::support::git_server::{GitFault, GitServer, Step};
use crate::support::{Signer, World, live, until};

const GUESTY: &str = "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n";

/// A clone of a server's repository, without a daemon.
struct Clone {
    runtime: Runtime,
    remote: Remote,
    directory: PathBuf,
}

impl Clone {
    fn of(server: &GitServer, directory: &Path) -> Self {
        Self::with(server, directory, |_| {})
    }

    fn with(
        server: &GitServer,
        directory: &Path,
        change: impl FnOnce(&mut RemoteSettings),
    ) -> Self {
        install_tls();
        let mut settings = RemoteSettings {
            url: HttpUrl::parse(&server.url(), UrlPolicy::api(false)).unwrap(),
            reference: GitReference::parse("main").unwrap(),
            credentials: GitCredentials::None,
            ca_file: None,
            root: Arc::new(CloneRoot::Directory(directory.to_owned())),
            depth: NonZeroU32::MIN,
            timeout: FETCH_TIMEOUT,
            max_bytes: MAX_FETCH,
        };
        change(&mut settings);
        Self {
            runtime: Runtime::new().unwrap(),
            remote: Remote::new(settings),
            directory: directory.to_owned(),
        }
    }

    fn fetch(&self) -> Result<Option<Arc<FetchedCommit>>, FetchError> {
        self.remote
            .fetch(self.runtime.handle(), &CancellationToken::new())
    }

    fn current(&self) -> Option<String> {
        self.remote.current().map(|commit| commit.id())
    }

    /// The text of the definition files, by name.
    fn files(&self) -> Vec<String> {
        let loaded = load_fetched(&self.remote, &GitPath::parse("definitions").unwrap(), None);
        let loaded = loaded.unwrap().loaded;
        let problems = &loaded.diagnostics;
        assert!(problems.is_empty(), "{problems:?}");
        loaded.files.iter().map(|file| file.name.clone()).collect()
    }

    /// Every file of the clone whose name is not that of a finished fetch.
    fn leftovers(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    let is_pack = name.starts_with("pack-")
                        && path.with_extension("pack").exists()
                        && path.with_extension("idx").exists();
                    let others = ["lock", "fetched.json", "HEAD", "config", "shallow"];
                    if !is_pack && !others.contains(&name) {
                        found.push(path);
                    }
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.directory, &mut found);
        found
    }
}

fn definitions(text: &str) -> [(&str, &str); 2] {
    [("definitions/guesty.yaml", text), ("README.md", "Words\n")]
}

#[test]
fn nothing_new_costs_one_request_and_a_new_commit_two() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    server.commit("main", &definitions(GUESTY));
    let clone = Clone::of(&server, dir.path());
    assert!(clone.fetch().unwrap().is_some());
    assert_eq!(
        server.take_steps(),
        [Step::Advertise, Step::List, Step::Fetch]
    );
    assert_eq!(clone.files(), ["guesty.yaml"]);
    assert!(clone.fetch().unwrap().is_none());
    assert_eq!(server.take_steps(), [Step::List]);
    let second = server.commit("main", &definitions("provider: GUESTY\n"));
    assert_eq!(clone.fetch().unwrap().unwrap().id(), second);
    assert_eq!(server.take_steps(), [Step::List, Step::Fetch]);
    assert_eq!(clone.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn references_of_every_kind_are_followed() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let first = server.commit("main", &definitions(GUESTY));
    let other = server.commit("main-2", &definitions("provider: LODGIFY\n"));
    server.tag("v1", "v1", "main", None);
    let of = |reference: &str| {
        let reference = GitReference::parse(reference).unwrap();
        let clone = Clone::with(&server, dir.path(), |it| it.reference = reference);
        let fetched = clone.fetch().map(|_| clone.current().unwrap());
        (fetched.map_err(|error| error.kind()), clone)
    };
    for reference in ["main", "refs/heads/main", "v1", "refs/tags/v1", &first] {
        assert_eq!(of(reference).0, Ok(first.clone()), "{reference}");
    }
    // A commit does not move: nothing is asked once it is there.
    let (_, pinned) = of(&first);
    server.take_steps();
    assert!(pinned.fetch().unwrap().is_none());
    assert_eq!(server.take_steps(), []);
    drop(pinned);
    assert_eq!(of(&first).0, Ok(first.clone()));
    assert_eq!(server.take_steps(), []);
    assert_eq!(of(&other).0, Ok(other));
    server.set("refs/tags/main", Some(&first));
    assert_eq!(
        of("main").0,
        Err(FetchFailure::Reference),
        "a branch and a tag"
    );
    assert_eq!(of("refs/heads/main").0, Ok(first));
    for wrong in ["", "a b", "-x..y", "main^", "x:y", &"x".repeat(300)] {
        assert!(GitReference::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_default_branch_is_kept_and_a_missing_one_is_an_error() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let clone = Clone::with(&server, dir.path(), |it| {
        it.reference = GitReference::Default
    });
    let error = |clone: &Clone| clone.fetch().unwrap_err();
    assert!(matches!(error(&clone), FetchError::Empty));
    let first = server.commit("main", &definitions(GUESTY));
    clone.fetch().unwrap();
    server.commit("next", &definitions("provider: LODGIFY\n"));
    server.set_head("refs/heads/next");
    assert!(matches!(
        error(&clone),
        FetchError::DefaultBranchMoved { .. }
    ));
    // Another process keeps it as well.
    drop(clone);
    let clone = Clone::with(&server, dir.path(), |it| {
        it.reference = GitReference::Default
    });
    assert!(matches!(
        error(&clone),
        FetchError::DefaultBranchMoved { .. }
    ));
    server.set_head("refs/heads/main");
    server.set("refs/heads/main", None);
    assert!(matches!(error(&clone), FetchError::ReferenceMissing(_)));
    assert_eq!(clone.current(), Some(first.clone()));
    assert_eq!(clone.files(), ["guesty.yaml"]);
    server.set("refs/heads/main", Some(&first));
    assert!(clone.fetch().unwrap().is_none());
}

#[test]
fn the_history_may_be_rewritten() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let first = server.commit("main", &definitions(GUESTY));
    let second = server.commit("main", &definitions("provider: GUESTY\n"));
    let clone = Clone::of(&server, dir.path());
    clone.fetch().unwrap();
    assert_eq!(clone.current(), Some(second));
    server.set("refs/heads/main", Some(&first));
    clone.fetch().unwrap();
    assert_eq!(clone.current(), Some(first));
    server.set("refs/heads/main", None);
    let other = server.commit("main", &definitions("provider: LODGIFY\n"));
    clone.fetch().unwrap();
    assert_eq!(clone.current(), Some(other));
}

/// Every failure of a fetch leaves the commit in force and nothing on disk, and the next fetch is right.
#[test]
fn an_answer_that_breaks_off_at_any_byte_changes_nothing() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let clone = Clone::of(&server, dir.path());
    let mut before = server.commit("main", &definitions(GUESTY));
    clone.fetch().unwrap();
    for step in [Step::List, Step::Fetch] {
        let mut whole = 0;
        for at in 0.. {
            let text = format!("provider: GUESTY\n# {step:?} {at}\n");
            let next = server.commit("main", &definitions(&text));
            server.fault(step, GitFault::Cut(at));
            let fetched = clone.fetch();
            assert_eq!(clone.leftovers(), Vec::<PathBuf>::new(), "{step:?} {at}");
            match fetched {
                Err(_) => {
                    assert_eq!(clone.current(), Some(before), "{step:?} {at}");
                    clone.fetch().unwrap();
                    whole = 0;
                }
                // Only the end of the connection was missing.
                Ok(_) => whole += 1,
            }
            assert_eq!(clone.current(), Some(next.clone()), "{step:?} {at}");
            before = next;
            if whole == 10 {
                assert!(at > 250, "{step:?} {at}");
                break;
            }
        }
    }
    assert_eq!(clone.files(), ["guesty.yaml"]);
}

#[test]
fn a_first_answer_that_breaks_off_leaves_no_clone() {
    let server = GitServer::start();
    let first = server.commit("main", &definitions(GUESTY));
    for (step, at) in [
        (Step::Advertise, 0),
        (Step::Advertise, 150),
        (Step::List, 160),
        (Step::Fetch, 60),
        (Step::Fetch, 200),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let clone = Clone::of(&server, dir.path());
        server.fault(step, GitFault::Cut(at));
        assert!(clone.fetch().is_err(), "{step:?} {at}");
        assert_eq!((clone.current(), clone.leftovers()), (None, vec![]));
        clone.fetch().unwrap();
        assert_eq!(clone.current(), Some(first.clone()));
    }
}

#[test]
fn a_wrong_byte_of_a_pack_never_puts_another_commit_into_force() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let clone = Clone::of(&server, dir.path());
    let mut before = server.commit("main", &definitions(GUESTY));
    clone.fetch().unwrap();
    for at in 0..600 {
        let text = format!("provider: GUESTY\n# flip {at}\n");
        let next = server.commit("main", &definitions(&text));
        server.fault(Step::Fetch, GitFault::Flip(at));
        // A failure may also be of the new clone by which the old one is replaced.
        let fetched = clone.fetch();
        let expected = if fetched.is_ok() {
            next.clone()
        } else {
            before
        };
        assert_eq!(clone.current(), Some(expected), "{at}");
        assert_eq!(clone.files(), ["guesty.yaml"], "{at}");
        if fetched.is_err() {
            clone.fetch().unwrap();
        }
        assert_eq!(clone.current(), Some(next.clone()), "{at}");
        before = next;
    }
}

#[test]
fn a_server_that_never_ends_its_answer_is_given_up() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    server.commit("main", &definitions(GUESTY));
    let clone = Clone::with(&server, dir.path(), |it| {
        it.timeout = Duration::from_millis(300)
    });
    for (step, fault) in [
        (Step::Advertise, GitFault::Stall(0)),
        (Step::List, GitFault::Stall(180)),
        (Step::Fetch, GitFault::Stall(200)),
        (Step::Fetch, GitFault::Drip(Duration::from_millis(5))),
    ] {
        server.fault(step, fault.clone());
        let error = clone.fetch().unwrap_err();
        assert_eq!(
            error.kind(),
            FetchFailure::TimedOut,
            "{step:?} {fault:?}: {error}"
        );
        assert_eq!(clone.leftovers(), Vec::<PathBuf>::new());
    }
    clone.fetch().unwrap();
}

#[test]
fn a_pack_or_an_object_that_is_too_large_is_refused_and_leaves_nothing() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let clone = Clone::with(&server, dir.path(), |it| it.max_bytes = 20_000);
    let first = server.commit("main", &definitions(GUESTY));
    clone.fetch().unwrap();
    let random: String = std::iter::repeat_with(fastrand::alphanumeric)
        .take(40_000)
        .collect();
    server.commit(
        "main",
        &[("definitions/guesty.yaml", GUESTY), ("large", &random)],
    );
    server.take_steps();
    let error = clone.fetch().unwrap_err();
    assert_eq!(error.kind(), FetchFailure::TooLarge, "{error}");
    // As a whole clone it might have been smaller.
    let twice = [Step::List, Step::Fetch, Step::List, Step::Fetch];
    assert_eq!(server.take_steps(), twice);
    assert_eq!(
        (clone.current(), clone.leftovers()),
        (Some(first.clone()), vec![])
    );
    // A small pack with an object that fills the memory.
    server.set("refs/heads/main", Some(&first));
    let bomb = "0".repeat(40 << 20);
    server.commit(
        "main",
        &[("definitions/guesty.yaml", GUESTY), ("bomb", &bomb)],
    );
    let roomy = Clone::with(&server, &dir.path().join("roomy"), |_| {});
    server.take_steps();
    let error = roomy.fetch().unwrap_err();
    assert!(matches!(error, FetchError::LargeObject(_)), "{error}");
    assert_eq!(
        server.take_steps(),
        [Step::Advertise, Step::List, Step::Fetch]
    );
    // A pack that claims more objects than any memory holds.
    server.set("refs/heads/main", Some(&first));
    let next = server.commit("main", &definitions("provider: GUESTY\n"));
    let claim = b"000dpackfile\n0011\x01PACK\0\0\0\x02\xff\xff\xff\xff0000".to_vec();
    server.fault(Step::Fetch, GitFault::Body(claim));
    let error = clone.fetch().unwrap_err();
    assert_eq!(error.kind(), FetchFailure::TooLarge, "{error}");
    assert_eq!((clone.current(), clone.leftovers()), (Some(first), vec![]));
    clone.fetch().unwrap();
    assert_eq!(clone.current(), Some(next));
}

#[test]
fn the_answers_of_servers_have_their_kinds() {
    let server = GitServer::start();
    server.commit("main", &definitions(GUESTY));
    let status = |code, headers: &str| GitFault::Status(code, headers.to_owned());
    let limited = "Retry-After: 77\r\n";
    for (step, fault, kind, wait) in [
        (
            Step::Advertise,
            status(401, ""),
            FetchFailure::Credentials,
            None,
        ),
        (
            Step::Advertise,
            status(403, ""),
            FetchFailure::Credentials,
            None,
        ),
        (
            Step::Advertise,
            status(404, ""),
            FetchFailure::NotFound,
            None,
        ),
        (
            Step::Advertise,
            status(429, limited),
            FetchFailure::RateLimited,
            Some(77),
        ),
        (
            Step::List,
            status(403, limited),
            FetchFailure::RateLimited,
            Some(77),
        ),
        (
            Step::List,
            status(503, limited),
            FetchFailure::Server,
            Some(77),
        ),
        (Step::Fetch, status(500, ""), FetchFailure::Server, None),
        (
            Step::Advertise,
            GitFault::Body(b"<html>".to_vec()),
            FetchFailure::InvalidAnswer,
            None,
        ),
        (
            Step::List,
            GitFault::Body(vec![b'x'; 100]),
            FetchFailure::InvalidAnswer,
            None,
        ),
        (
            Step::Fetch,
            GitFault::Body(b"0000".to_vec()),
            FetchFailure::InvalidAnswer,
            None,
        ),
        (
            Step::Fetch,
            GitFault::Body(b"0025ERR upload-pack: not our ref 1234".to_vec()),
            FetchFailure::Reference,
            None,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let clone = Clone::of(&server, dir.path());
        // A second attempt with a new advertisement may follow.
        (0..2).for_each(|_| server.fault(step, fault.clone()));
        let error = clone.fetch().unwrap_err();
        assert_eq!(error.kind(), kind, "{step:?} {fault:?}: {error}");
        assert_eq!(error.retry_after(), wait.map(Duration::from_secs));
        server.forget_faults();
        clone.fetch().unwrap();
    }
    let closed = GitServer::start();
    let dir = tempfile::tempdir().unwrap();
    let absent = Clone::with(&closed, dir.path(), |it| {
        it.url = HttpUrl::parse("http://127.0.0.1:9/x.git", UrlPolicy::api(false)).unwrap();
    });
    assert_eq!(
        absent.fetch().unwrap_err().kind(),
        FetchFailure::Unreachable
    );
}

#[test]
fn a_redirect_is_followed_within_the_server_and_no_token_leaves_it() {
    let (server, other) = (GitServer::start(), GitServer::start());
    server.commit("main", &definitions(GUESTY));
    other.commit("main", &definitions(GUESTY));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "canary-token\n").unwrap();
    let with_token = |it: &mut RemoteSettings| {
        it.credentials = GitCredentials::Token {
            username: "git".to_owned(),
            file: SecretFile::new(dir.path().join("token")),
        };
    };
    let clone = Clone::with(&server, dir.path(), with_token);
    let to = |server: &GitServer, path: &str| {
        let url = server.url().replace("/acme/definitions.git", path);
        GitFault::Status(
            301,
            format!("Location: {url}/info/refs?service=git-upload-pack\r\n"),
        )
    };
    server.fault(Step::Advertise, to(&other, "/acme/definitions.git"));
    let error = clone.fetch().unwrap_err();
    assert_eq!(error.kind(), FetchFailure::Redirected, "{error}");
    assert!(error.to_string().contains(&other.url()), "{error}");
    assert_eq!(other.requests().len(), 0);
    // A password in the address would be a second credential.
    let GitFault::Status(_, location) = to(&server, "/acme/renamed.git") else {
        panic!()
    };
    let with_password = location.replace("http://", "http://u:canary-password@");
    server.fault(Step::Advertise, GitFault::Status(301, with_password));
    let error = clone.fetch().unwrap_err();
    assert_eq!(error.kind(), FetchFailure::Redirected, "{error}");
    assert!(!error.to_string().contains("canary"), "{error}");
    server.fault(Step::Advertise, to(&server, "/acme/renamed.git"));
    clone.fetch().unwrap();
    for step in [Step::List, Step::Fetch] {
        let moved = GitFault::Status(307, format!("Location: {}\r\n", other.url()));
        server.commit(
            "main",
            &definitions(&format!("provider: GUESTY # {step:?}\n")),
        );
        (0..2).for_each(|_| server.fault(step, moved.clone()));
        assert!(clone.fetch().is_err());
        server.forget_faults();
    }
    assert_eq!(other.requests().len(), 0);
    for _ in 0..5 {
        server.fault(Step::Advertise, to(&server, "/acme/circle.git"));
    }
    let fresh = Clone::with(&server, &dir.path().join("fresh"), with_token);
    assert_eq!(
        fresh.fetch().unwrap_err().kind(),
        FetchFailure::InvalidAnswer
    );
}

#[test]
fn a_token_is_read_at_each_fetch_and_never_shown() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    server.commit("main", &definitions(GUESTY));
    let token = dir.path().join("token");
    let clone = Clone::with(&server, &dir.path().join("clone"), |it| {
        it.credentials = GitCredentials::Token {
            username: "oauth2".to_owned(),
            file: SecretFile::new(&token),
        };
    });
    server.require("canary-one");
    assert_eq!(clone.fetch().unwrap_err().kind(), FetchFailure::Credentials);
    assert_eq!(
        server.requests().len(),
        0,
        "without a token nothing is asked"
    );
    fs::write(&token, "canary-old").unwrap();
    let error = clone.fetch().unwrap_err();
    assert_eq!(error.kind(), FetchFailure::Credentials);
    assert!(!error.to_string().contains("canary"), "{error}");
    assert!(error.to_string().contains(token.to_str().unwrap()));
    fs::write(&token, "canary-one\n").unwrap();
    clone.fetch().unwrap();
    let sent = server.requests().pop().unwrap().authorization.unwrap();
    let pair = sent.strip_prefix("Basic ").unwrap();
    assert_eq!(STANDARD.decode(pair).unwrap(), b"oauth2:canary-one");
    // A server that repeats what it was sent.
    for echo in ["canary-one", pair] {
        let location = format!("Location: http://127.0.0.1:9/{echo}/x\r\n");
        let fresh = Clone::with(&server, &dir.path().join("fresh"), |it| {
            it.credentials = GitCredentials::Token {
                username: "oauth2".to_owned(),
                file: SecretFile::new(&token),
            };
        });
        server.fault(Step::Advertise, GitFault::Status(302, location));
        let error = fresh.fetch().unwrap_err();
        assert_eq!(error.kind(), FetchFailure::Redirected);
        let text = error.to_string();
        assert!(text.contains(":9/") && !text.contains(echo), "{text}");
    }
    assert!(!format!("{:?} {:?}", clone.remote, clone.remote.current()).contains("canary"));
}

#[test]
fn a_github_app_gets_a_token_of_its_installation_and_another_one_when_that_is_refused() {
    const KEY: &str = include_str!("../fixtures/github/app.pem");
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    server.commit("main", &definitions(GUESTY));
    let key = dir.path().join("key.pem");
    let clone = Clone::with(&server, &dir.path().join("clone"), |it| {
        let app = GithubApp::new(&it.url, "123".to_owned(), "456".to_owned(), key.clone());
        it.credentials = GitCredentials::GithubApp(app.unwrap());
    });
    assert_eq!(clone.fetch().unwrap_err().kind(), FetchFailure::Credentials);
    fs::write(&key, KEY).unwrap();
    let created = |token: &str| {
        let body = json!({"token": token, "expires_at": "2099-01-01T00:00:00Z"});
        GitFault::Body(body.to_string().into_bytes())
    };
    server.require("canary-one");
    server.fault(Step::Token, created("canary-one"));
    clone.fetch().unwrap();
    let asked = server.requests().remove(0);
    assert!(asked.authorization.unwrap().starts_with("Bearer ey"));
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(body, json!({"permissions": {"contents": "read"}}));
    assert_eq!(
        server.take_steps(),
        [Step::Token, Step::Advertise, Step::List, Step::Fetch]
    );
    clone.fetch().unwrap();
    assert_eq!(server.take_steps(), [Step::List], "the token is kept");
    // It was revoked.
    server.require("canary-two");
    server.fault(Step::Token, created("canary-two"));
    clone.fetch().unwrap();
    assert_eq!(server.take_steps(), [Step::List, Step::Token, Step::List]);
    let limited = "Retry-After: 77\r\n";
    for (status, headers, kind, why) in [
        (
            401,
            "",
            FetchFailure::Credentials,
            "the private key and the clock",
        ),
        (403, "", FetchFailure::Credentials, "Contents: Read-only"),
        (422, "", FetchFailure::Credentials, "Contents: Read-only"),
        (403, limited, FetchFailure::RateLimited, ""),
        (
            404,
            "",
            FetchFailure::Credentials,
            "--git-github-installation-id",
        ),
        (429, "", FetchFailure::RateLimited, ""),
        (502, "", FetchFailure::Server, ""),
    ] {
        server.require("canary-three");
        let fault = GitFault::Status(status, headers.to_owned());
        server.fault(Step::Token, fault);
        let error = clone.fetch().unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.to_string().contains(why), "{status}: {error}");
        server.require("canary-four");
        server.fault(Step::Token, created("canary-four"));
        clone.fetch().unwrap();
    }
}

#[test]
fn a_clone_that_was_damaged_or_cut_off_is_replaced() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let first = server.commit("main", &definitions(GUESTY));
    let packs = |directory: &Path| {
        let mut found = Vec::new();
        for repository in fs::read_dir(directory).unwrap() {
            for generation in fs::read_dir(repository.unwrap().path()).unwrap() {
                let packs = generation.unwrap().path().join("objects/pack");
                found.extend(
                    fs::read_dir(packs)
                        .into_iter()
                        .flatten()
                        .map(|it| it.unwrap().path()),
                );
            }
        }
        found
    };
    let clone = Clone::of(&server, dir.path());
    clone.fetch().unwrap();
    // While it runs: an object cannot be read any more.
    for pack in packs(dir.path()) {
        fs::write(pack, "rubbish").unwrap();
    }
    let path = GitPath::parse("definitions").unwrap();
    assert!(load_fetched(&clone.remote, &path, None).is_err());
    assert!(clone.fetch().unwrap().is_some());
    assert_eq!(clone.files(), ["guesty.yaml"]);
    // A fetch finds it: the base of a delta cannot be read.
    for pack in packs(dir.path()) {
        fs::write(pack, "rubbish").unwrap();
    }
    let next = server.commit("main", &definitions("provider: GUESTY\n"));
    server.fault(Step::Fetch, GitFault::Body(b"000dpackfile\n0000".to_vec()));
    server.take_steps();
    clone.fetch().unwrap();
    assert_eq!(clone.current(), Some(next));
    let steps = [
        Step::List,
        Step::Fetch,
        Step::Advertise,
        Step::List,
        Step::Fetch,
    ];
    assert_eq!(
        server.take_steps(),
        steps,
        "the second one is a whole clone"
    );
    assert_eq!(clone.files(), ["guesty.yaml"]);
    server.set("refs/heads/main", Some(&first));
    clone.fetch().unwrap();
    // Before it starts.
    drop(clone);
    for pack in packs(dir.path()) {
        fs::write(pack, "rubbish").unwrap();
    }
    let clone = Clone::of(&server, dir.path());
    clone.remote.restore();
    assert_eq!(clone.current(), None);
    clone.fetch().unwrap();
    assert_eq!(clone.files(), ["guesty.yaml"]);
    // What a killed process leaves.
    drop(clone);
    let pack = packs(dir.path()).remove(0);
    fs::write(pack.with_file_name(".tmpAbCdEf"), "rubbish").unwrap();
    fs::write(pack.with_file_name("pack-1234.pack"), "rubbish").unwrap();
    fs::write(pack.with_file_name("../../shallow.lock"), "rubbish").unwrap();
    let clone = Clone::of(&server, dir.path());
    clone.remote.restore();
    assert_eq!(clone.current(), Some(first));
    server.commit("main", &definitions("provider: GUESTY\n"));
    clone.fetch().unwrap();
    assert_eq!(clone.leftovers(), Vec::<PathBuf>::new());
    // Two processes never share it.
    let second = Clone::of(&server, dir.path());
    assert!(matches!(second.fetch(), Err(FetchError::InUse(_))));
}

#[test]
fn a_clone_does_not_grow_for_ever() {
    let (server, dir) = (GitServer::start(), tempfile::tempdir().unwrap());
    let clone = Clone::of(&server, dir.path());
    let mut most = 0;
    for n in 0..120 {
        server.commit("main", &definitions(&format!("provider: GUESTY\n# {n}\n")));
        clone.fetch().unwrap();
        assert_eq!(clone.files(), ["guesty.yaml"]);
        let files = walk_count(dir.path());
        most = most.max(files);
    }
    // At most two generations of fifty packs and their indexes.
    assert!(most < 220, "{most}");
}

fn walk_count(directory: &Path) -> usize {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { walk_count(&path) } else { 1 }
        })
        .sum()
}

fn world() -> World {
    let definitions = json!([live("GUESTY", &["name"], &["rooms"])]);
    World::with(definitions, calry_gitops::sandbox::Config::default())
}

/// Writes the file `allowed` with the only key that may sign.
fn allow(world: &World, signer: &Signer) {
    let allowed = format!("ada@x {}\n", signer.public());
    fs::write(world.dir.path().join("allowed"), allowed).unwrap();
}

fn listing(world: &World, field: &str) -> Value {
    world.live("GUESTY")["fieldsToSync"]["listing"][field].clone()
}

#[test]
fn a_daemon_applies_what_is_pushed_and_names_its_commit() {
    let (server, world) = (GitServer::start(), world());
    let url = server.url();
    server.commit("main", &definitions(GUESTY));
    let mut daemon = world.daemon(&["--git-url", &url, "--git-interval", "1s"]);
    daemon.line("reconciliation 1 ");
    let id = server.commit(
        "main",
        &definitions("provider: GUESTY\nfieldsToSync:\n  listing: [name, rooms]\n"),
    );
    daemon.line("GUESTY updated");
    assert_eq!(listing(&world, "rooms"), json!(true));
    daemon.line("reconciliation 2 ");
    let status = daemon.status();
    assert_eq!(status["revision"]["commit"], json!(id));
    assert_eq!(status["repository"]["commit"], json!(id));
    assert_eq!(status["repository"]["reference"], json!("refs/heads/main"));
    assert_eq!(status["directory"], json!("definitions"));
    server.set("refs/heads/main", None);
    let refused = daemon.line("cannot fetch");
    assert!(
        refused.contains(&format!("{} stays in force", &id[..10])),
        "{refused}"
    );
    until("the status shows the failure", || {
        daemon.status()["repository"]["failure"]["kind"] == json!("reference")
    });
    server.set("refs/heads/main", Some(&id));
    daemon.line("can be fetched again");
    until("the failure is over", || {
        daemon.status()["repository"]["failure"].is_null()
    });
}

#[test]
fn a_failure_that_changes_its_kind_is_logged_once_for_each_and_counts_as_one() {
    let (server, world) = (GitServer::start(), world());
    let url = server.url();
    server.commit("main", &definitions(GUESTY));
    let mut daemon = world.daemon(&["--git-url", &url, "--git-interval", "1s"]);
    daemon.line("reconciliation 1 ");
    let (unavailable, missing) = (503, 404);
    for status in [unavailable, missing, unavailable] {
        // The advertisement is kept, so the server is asked for the references only.
        server.fault(Step::List, GitFault::Status(status, String::new()));
        if status == missing {
            server.fault(Step::Advertise, GitFault::Status(status, String::new()));
        }
    }
    until("three fetches have failed", || {
        daemon.status()["repository"]["failure"]["times"] == json!(3)
    });
    daemon.line("can be fetched again");
    let seen = daemon.seen.iter();
    let failures = seen.filter(|line| line.contains("cannot fetch")).count();
    assert_eq!(failures, 2, "{:#?}", daemon.seen);
}

#[test]
fn a_daemon_that_is_killed_during_a_fetch_is_right_after_a_restart() {
    let (server, world) = (GitServer::start(), world());
    let url = server.url();
    server.commit("main", &definitions(GUESTY));
    let args = [
        "--git-url",
        &url,
        "--git-interval",
        "1s",
        "--git-dir",
        "clone",
    ];
    for at in [0, 100, 150, 200, 250, 300, 400] {
        let field = if at % 200 == 0 { "rooms" } else { "name" };
        server.fault(Step::Fetch, GitFault::Stall(at));
        let text = format!("provider: GUESTY\nfieldsToSync:\n  listing: [{field}] # {at}\n");
        let id = server.commit("main", &definitions(&text));
        let mut daemon = world.daemon(&args);
        until("the fetch hangs", || {
            server
                .requests()
                .iter()
                .any(|request| request.step == Step::Fetch)
        });
        daemon.signal("KILL");
        daemon.wait();
        server.forget_faults();
        server.take_steps();
        let mut daemon = world.daemon(&args);
        daemon.line("reconciliation 1 ");
        assert_eq!(daemon.status()["revision"]["commit"], json!(id), "{at}");
        assert_eq!(listing(&world, field), json!(true));
    }
}

#[test]
fn without_its_server_a_restarted_daemon_has_the_last_commit_and_otherwise_nothing() {
    let (server, world) = (GitServer::start(), world());
    let url = server.url();
    let id = server.commit("main", &definitions(GUESTY));
    let kept = [
        "--git-url",
        &url,
        "--git-interval",
        "1s",
        "--git-dir",
        "clone",
    ];
    let mut daemon = world.daemon(&kept);
    daemon.line("reconciliation 1 ");
    daemon.signal("TERM");
    daemon.wait();
    let fail = || {
        for _ in 0..20 {
            server.fault(Step::Advertise, GitFault::Status(503, String::new()));
        }
    };
    fail();
    let mut daemon = world.daemon(&kept);
    daemon.line("cannot fetch");
    daemon.line("reconciliation 1 ");
    assert_eq!(daemon.status()["revision"]["commit"], json!(id));
    drop(daemon);
    fail();
    let mut daemon = world.daemon(&["--git-url", &url, "--git-interval", "1s"]);
    let line = daemon.line("reconciliation 1 ");
    assert!(line.contains("status 503"), "{line}");
    assert_eq!(world.updates().len(), 0);
}

#[test]
fn a_request_fetches_first_and_nothing_temporary_stays() {
    let (server, mut world) = (GitServer::start(), world());
    let url = server.url();
    let temporary = world.dir.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    world.env("TMPDIR", temporary.to_str().unwrap());
    server.commit("main", &definitions(GUESTY));
    let mut daemon = world.daemon(&["--git-url", &url, "--git-interval", "1h"]);
    daemon.line("reconciliation 1 ");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1);
    let id = server.commit("main", &definitions("provider: GUESTY\n"));
    daemon.signal("HUP");
    let line = daemon.line("reconciliation 2 ");
    assert!(line.contains(&id[..10]), "{line}");
    // Also while a fetch hangs.
    server.commit("main", &definitions(GUESTY));
    server.fault(Step::List, GitFault::Stall(0));
    server.take_steps();
    daemon.signal("HUP");
    until("the fetch hangs", || server.requests().len() == 1);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn one_reconciliation_fails_if_the_fetch_before_it_failed() {
    let (server, world) = (GitServer::start(), world());
    let url = server.url();
    server.commit("main", &definitions(GUESTY));
    let args = ["run", "--once", "--git-url", &url, "--git-dir", "clone"];
    world.run(&args).exits(0);
    server.set("refs/heads/main", None);
    world.run(&args).exits(1).says("stays in force");
    world.run(&args[..4]).exits(1).says("has no commit");
}

#[test]
fn workspaces_of_one_repository_share_one_fetch() {
    let (server, mut world) = (GitServer::start(), world());
    let url = server.url();
    server.commit(
        "main",
        &[("one/guesty.yaml", GUESTY), ("two/guesty.yaml", GUESTY)],
    );
    world.env.remove("CALRY_API_KEY");
    let key = world.sandbox.keys().write.clone();
    fs::write(world.dir.path().join("key"), &key).unwrap();
    fs::write(world.dir.path().join("key2"), &world.sandbox.keys().read).unwrap();
    let config = format!(
        "gitUrl: {url}\ngitInterval: 1h\nworkspaces:\n  - name: one\n    gitPath: one\n    apiKeyFile: key\n  \
         - name: two\n    gitPath: two\n    mode: observe\n    apiKeyFile: key2\n"
    );
    let fetched_by = |config: &str, workspaces: usize| {
        fs::write(world.dir.path().join("config.yaml"), config).unwrap();
        let mut daemon = world.daemon(&["--config", "config.yaml"]);
        for _ in 0..workspaces {
            daemon.line("reconciliation 1 ");
        }
        assert_eq!(daemon.count_lines("cannot fetch"), 0);
        (server.take_steps(), daemon)
    };
    let once = [Step::Advertise, Step::List, Step::Fetch];
    assert_eq!(fetched_by(&config, 2).0, once);
    // The shortest interval counts.
    let hurried = format!("{config}    gitInterval: 1s\n");
    let (steps, daemon) = fetched_by(&hurried, 2);
    assert_eq!(steps, once);
    until("the next fetch", || server.take_steps() == [Step::List]);
    drop(daemon);
    server.take_steps();
    // One that needs more of the history has a clone of its own.
    fs::write(world.dir.path().join("key3"), &key).unwrap();
    allow(&world, &Signer::new(1));
    let third = "  - name: three\n    apiKeyFile: key3\n    allowedSigners: allowed\n";
    let (steps, _daemon) = fetched_by(&format!("gitDir: clones\n{config}{third}"), 3);
    let fetches = steps.iter().filter(|step| **step == Step::Fetch);
    assert_eq!(fetches.count(), 2);
}

#[test]
fn only_signed_commits_of_the_repository_run_and_the_last_one_stays_in_force() {
    let (server, world, ada) = (GitServer::start(), world(), Signer::new(1));
    let url = server.url();
    allow(&world, &ada);
    let rooms = definitions("provider: GUESTY\nfieldsToSync:\n  listing: [name, rooms]\n");
    let signed = server.signed_commit("main", &rooms, &ada);
    let refused = server.commit("main", &definitions(GUESTY));
    let args = [
        "--git-url",
        &url,
        "--git-interval",
        "1s",
        "--allowed-signers",
        "allowed",
    ];
    let mut daemon = world.daemon(&args);
    daemon.line("reconciliation 1 ");
    let status = daemon.status();
    // The commit before it was fetched as well.
    assert_eq!(status["revision"]["commit"], json!(signed));
    assert_eq!(status["trust"]["commit"], json!(refused));
    assert_eq!(status["repository"]["commit"], json!(refused));
    assert_eq!(listing(&world, "rooms"), json!(true));
    let signed = server.signed_commit("main", &definitions(GUESTY), &ada);
    daemon.line("is trusted again");
    assert_eq!(daemon.status()["revision"]["commit"], json!(signed));
    until("the signed commit is applied", || {
        listing(&world, "rooms") == json!(false)
    });
}

#[test]
fn a_tag_must_be_signed_under_its_own_name_if_tags_are_verified() {
    let (server, world, ada) = (GitServer::start(), world(), Signer::new(1));
    let url = server.url();
    allow(&world, &ada);
    let main = server.commit("main", &definitions(GUESTY));
    server.tag("signed", "signed", "main", Some(&ada));
    server.tag("renamed", "signed", "main", Some(&ada));
    server.tag("stranger", "stranger", "main", Some(&Signer::new(2)));
    server.tag("unsigned", "unsigned", "main", None);
    let id = server.commit("light", &definitions("provider: GUESTY\n"));
    server.set("refs/tags/light", Some(&id));
    server.signed_tag("long", "long", "main", |_| {
        format!("-----BEGIN SSH SIGNATURE-----\n{}", "x".repeat(100_000))
    });
    for (tag, pinned, text) in [
        ("signed", None, Ok(())),
        (
            "renamed",
            None,
            Err("was signed under another name (signed)"),
        ),
        ("stranger", None, Err("is not among the allowed")),
        ("unsigned", None, Err("is not signed")),
        ("long", None, Err("it is too long")),
        ("refs/tags/light", None, Err("not an annotated one")),
        ("main", None, Err("refs/tags/main")),
        // The tag of a commit that is trusted by its id does not count.
        ("long", Some(&main), Ok(())),
        ("refs/tags/light", Some(&id), Ok(())),
        ("refs/tags/light", Some(&main), Err("not an annotated one")),
    ] {
        let mut args = vec![
            "run",
            "--once",
            "--git-url",
            &url,
            "--git-ref",
            tag,
            "--verify",
            "tag",
            "--allowed-signers",
            "allowed",
        ];
        args.extend(pinned.into_iter().flat_map(|id| ["--trusted-revision", id]));
        let ran = world.run(&args).exits(i32::from(text.is_err()));
        ran.says(text.err().unwrap_or_default());
    }
}

#[test]
fn contradicting_options_are_refused_before_anything_is_fetched() {
    let world = world();
    for (args, text) in [
        (
            &["--git-url", "https://x/y.git", "-d", "defs"][..],
            "cannot be used with",
        ),
        (
            &["--git-url", "https://u:hunter2@x/y.git"],
            "must not contain a user name",
        ),
        (&["--git-url", "http://example.com/y.git"], "must use https"),
        (&["--git-url", "git@example.com:y.git"], "takes https only"),
        (
            &["--git-url", "https://x/y.git", "--git-path", "../x"],
            "directory in the repository",
        ),
        (
            &["--git-url", "https://x/y.git", "--git-github-app-id", "1"],
            "needs all of",
        ),
        (&["--git-ref", "main"], "needs --git-url"),
        (&["--verify", "tag"], "needs --git-url"),
        (
            &[
                "--git-url",
                "https://x/y.git",
                "--git-ref",
                "v1",
                "--verify",
                "tag",
            ],
            "needs --allowed-signers or --allowed-keys",
        ),
        (
            &[
                "--git-url",
                "https://x/y.git",
                "--verify",
                "tag",
                "--allowed-keys",
                "k",
            ],
            "needs a tag as --git-ref",
        ),
        (
            &[
                "--git-url",
                "https://x/y.git",
                "--git-ref",
                "refs/heads/main",
                "--verify",
                "tag",
                "--allowed-keys",
                "k",
            ],
            "needs a tag as --git-ref",
        ),
    ] {
        let mut all = vec!["run"];
        all.extend(args);
        let ran = world.run(&all).exits(64).says(text);
        drop(ran);
    }
}
