//! Plain values for the tests of the daemon and of what reports about it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Findings, ReconciliationReport, ReconciliationResult, Repository, Trigger};
use crate::desired::git::{CloneRoot, GitCredentials, GitReference, Remote, RemoteSettings};
use crate::http::{Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use crate::live::{Api, ApiKey, KeySource, Transport};
use crate::model::{
    Desired, DesiredPartnerKey, Live, LivePartnerKey, LiveProblems, Provider, Revision, Secret,
    UpdateMethod, Workspace,
};
use crate::plan::{Cause, Change, Plan, PlanEntry, Verdict};
use crate::reconcile::apply::{Outcome, UpdateResult};

pub(crate) fn workspace() -> Workspace {
    Workspace {
        id: "a".to_owned(),
        name: String::new(),
        slug: "acme".to_owned(),
    }
}

/// A repository that is never fetched. Without a reference it follows the default branch.
pub(crate) fn repository(url: &str, reference: Option<&str>) -> Arc<Repository> {
    let remote = Remote::new(RemoteSettings {
        url: HttpUrl::parse(url, UrlPolicy::api(false)).unwrap(),
        reference: reference.map_or(GitReference::Default, |name| {
            GitReference::parse(name).unwrap()
        }),
        credentials: GitCredentials::None,
        ca_file: None,
        root: Arc::new(CloneRoot::Directory("unused".into())),
        depth: NonZeroU32::MIN,
        timeout: Duration::from_mins(1),
        max_bytes: 1 << 20,
    });
    Arc::new(Repository::new(Arc::new(remote), Duration::from_mins(1)))
}

/// An API whose requests are carried by `transport`.
pub(crate) fn api(transport: Arc<dyn Transport>) -> Api {
    install_tls();
    let http = Http::new(HttpTimeouts::default()).unwrap();
    let url = HttpUrl::parse("http://127.0.0.1:9", UrlPolicy::api(false)).unwrap();
    let api = Api::new(&http, url, UpdateMethod::Patch).unwrap();
    api.simulated(&http, transport)
}

pub(crate) fn key() -> ApiKey {
    let key = KeySource::Variable(Some(Secret::new("key")));
    key.read().unwrap()
}

pub(crate) fn revision(commit: &str, dirty: bool) -> Revision {
    Revision {
        commit: commit.to_owned(),
        subject: String::new(),
        author: String::new(),
        time: String::new(),
        dirty,
    }
}

pub(crate) fn desired(provider: &str) -> Arc<Desired> {
    Arc::new(Desired {
        provider: Provider::parse(provider).unwrap(),
        icon: None,
        partner_key: DesiredPartnerKey::default(),
        fields: Default::default(),
        hold: None,
    })
}

pub(crate) fn live(provider: &str) -> Live {
    Live {
        id: String::new(),
        name: String::new(),
        provider: Provider::parse(provider).unwrap(),
        icon: None,
        partner_key: LivePartnerKey::default(),
        fields: Default::default(),
        updated_at: String::new(),
        problems: LiveProblems::default(),
    }
}

pub(crate) fn change() -> Change {
    Change::Field {
        group: "listing".to_owned(),
        field: "name".to_owned(),
        before: Some(false),
        after: true,
    }
}

pub(crate) fn entry(provider: &str, verdict: Verdict) -> PlanEntry {
    PlanEntry {
        provider: Provider::parse(provider).ok(),
        file: None,
        verdict,
        unresolved: Vec::new(),
        shared: None,
        origins: None,
    }
}

pub(crate) fn plan(entries: Vec<PlanEntry>) -> Plan {
    Plan {
        workspace: workspace(),
        revision: None,
        entries,
        digest: None,
        base: None,
        loosened: Vec::new(),
        hold: None,
        holds: Default::default(),
        overridden: None,
        snapshot: None,
        violations: Vec::new(),
    }
}

/// The result of one request.
pub(crate) fn result(provider: &str, cause: Cause, outcome: Outcome) -> UpdateResult {
    UpdateResult {
        provider: Provider::parse(provider).unwrap(),
        desired: desired(provider),
        changes: vec![change()],
        cause,
        outcome,
        sent: 1,
        updated_at: None,
        transient: None,
        took: Duration::ZERO,
    }
}

pub(crate) fn report(result: ReconciliationResult) -> ReconciliationReport {
    ReconciliationReport {
        number: 1,
        trigger: Trigger::Interval,
        delivery: None,
        took: Duration::ZERO,
        result,
        findings: Findings::default(),
        problems: Vec::new(),
        next: None,
    }
}
