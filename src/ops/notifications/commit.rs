//! The status of the commit that a reconciliation was about: whether Calry has it. Pure.

use std::collections::BTreeSet;

use crate::daemon::{ReconciliationReport, ReconciliationResult};
use crate::desired::git::{CheckoutTrust, RefusedCheckout, TrustError};
use crate::model::{Revision, ellipsize};
use crate::plan::{Plan, Refusal, Verdict};
use crate::reconcile::Failure;
use crate::reconcile::apply::Outcome;
use crate::report::words::counted;

use super::config::Thresholds;

/// The number of providers that a description names.
const MAX_NAMES: usize = 3;

/// The status that a git host shows at a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitStatus {
    /// The full id of the commit.
    pub sha: String,
    pub state: CommitState,
    /// At most 140 characters: providers and counts, no text from elsewhere.
    pub description: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitState {
    /// Calry does not have it yet.
    Pending,
    /// Calry has it.
    Success,
    /// Calry does not have it, and a person must act.
    Failure,
}

/// The last commit status that one target received for one workspace.
#[derive(Clone, Debug, Default)]
pub struct CommitTracker {
    last: Option<CommitStatus>,
    /// The checked-out commit if it is not trusted. `last` is about the commit in force.
    untrusted: Option<String>,
    failures: u32,
}

impl CommitTracker {
    /// A plan is about to be applied: its commit is pending, unless Calry had it already and only drift is reverted.
    pub fn start(&mut self, plan: &Plan) -> Option<CommitStatus> {
        let sha = sha(plan.revision.as_ref())?;
        let due = plan.steps().count();
        let had = self
            .last
            .as_ref()
            .is_some_and(|status| status.sha == sha && status.state != CommitState::Pending);
        if due == 0 || had {
            return None;
        }
        self.update(
            sha,
            CommitState::Pending,
            format!("{} to update", providers(due)),
        )
    }

    /// The status of the commit after a reconciliation; `None` if the git host shows it already.
    pub fn finish(
        &mut self,
        report: &ReconciliationReport,
        thresholds: &Thresholds,
    ) -> Option<CommitStatus> {
        let untrusted = match &report.findings.trust {
            // If the files differ from the commit, the commit itself is trusted.
            Some(CheckoutTrust::Refused(RefusedCheckout { commit, reason, .. }))
                if *reason != TrustError::Dirty =>
            {
                commit.clone()
            }
            _ => None,
        };
        if std::mem::replace(&mut self.untrusted, untrusted) != self.untrusted
            && let Some(sha) = self.untrusted.clone()
        {
            return Some(CommitStatus {
                sha,
                state: CommitState::Failure,
                description: "not trusted, so not applied: see the daemon's log".to_owned(),
            });
        }
        let sha = sha(report.findings.revision.as_ref());
        let (state, description) = match &report.result {
            ReconciliationResult::Failed(Failure::Stopped) => return None,
            ReconciliationResult::Failed(failure) => {
                self.failures = self.failures.saturating_add(1);
                // A short network failure says nothing about the commit.
                let lasting =
                    failure.is_invalid_definitions() || self.failures >= thresholds.failed_passes;
                (
                    lasting.then_some(CommitState::Failure)?,
                    "the reconciliation failed: see the daemon's log".to_owned(),
                )
            }
            other => {
                self.failures = 0;
                classify(other, report)?
            }
        };
        self.update(sha?, state, description)
    }

    /// The git host did not receive the last status of a commit, so the next reconciliation posts it again.
    pub fn forget(&mut self, sha: &str) {
        if self.last.as_ref().is_some_and(|last| last.sha == sha) {
            self.last = None;
        }
        if self.untrusted.as_deref() == Some(sha) {
            self.untrusted = None;
        }
    }

    fn update(
        &mut self,
        sha: String,
        state: CommitState,
        description: String,
    ) -> Option<CommitStatus> {
        let status = CommitStatus {
            sha,
            state,
            description,
        };
        let known = self.last.as_ref() == Some(&status);
        self.last = Some(status);
        self.last.clone().filter(|_| !known)
    }
}

/// The full id of the commit; `None` if the files differ from it.
fn sha(revision: Option<&Revision>) -> Option<String> {
    let Revision { commit, dirty, .. } = revision?;
    let full = matches!(commit.len(), 40 | 64)
        && commit
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    (full && !dirty).then(|| commit.clone())
}

fn classify(
    result: &ReconciliationResult,
    report: &ReconciliationReport,
) -> Option<(CommitState, String)> {
    let plan = result.plan()?;
    let labels = |wanted: fn(&Verdict) -> bool| -> Vec<&str> {
        plan.entries
            .iter()
            .filter(|entry| wanted(&entry.verdict))
            .map(|entry| entry.provider.as_ref().map_or("?", |p| p.as_str()))
            .collect()
    };
    let invalid = labels(|verdict| {
        matches!(
            verdict,
            Verdict::Invalid | Verdict::Missing | Verdict::Unreadable(_)
        )
    });
    let held =
        labels(|verdict| matches!(verdict, Verdict::Held { pending, .. } if !pending.is_empty()));
    let updates = |wanted: &dyn Fn(&Outcome) -> bool| -> Vec<&str> {
        result
            .updates()
            .iter()
            .filter(|one| wanted(&one.outcome))
            .map(|one| one.provider.as_str())
            .collect()
    };
    let is_backed_off = |name: &str, brief: bool| {
        let mut backed_off = report.findings.backed_off.iter();
        backed_off.any(|(p, rest)| rest.brief == brief && p.as_str() == name)
    };
    // A provider that is retried in a moment has not failed yet.
    let (soon, failed): (Vec<&str>, Vec<&str>) =
        updates(&|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Partial(_)))
            .into_iter()
            .partition(|name| is_backed_off(name, true));
    let kept = updates(&|outcome| matches!(outcome, Outcome::NotConverged(_)));
    let (skipped, waiting): (Vec<&str>, Vec<&str>) =
        updates(&|outcome| matches!(outcome, Outcome::Skipped(_)))
            .into_iter()
            .partition(|name| is_backed_off(name, false));
    let failed = [failed, skipped].concat();
    let observed = matches!(result, ReconciliationResult::Observed(_));
    let due = plan.steps().count();
    let named = |what: &str, names: &[&str]| format!("{what}: {}", join_names(names));
    use CommitState::{Failure, Pending, Success};
    Some(if let ReconciliationResult::Refused(_, refusal) = result {
        let why = match refusal {
            Refusal::Denied { violations, .. } => {
                let policies: BTreeSet<&str> =
                    violations.iter().map(|one| one.policy.as_str()).collect();
                named("denied by policy", &Vec::from_iter(policies))
            }
            _ => format!(
                "refused: it would change {}, more than the limit",
                providers(due)
            ),
        };
        (Failure, why)
    } else if !failed.is_empty() {
        (Failure, named("not updated", &failed))
    } else if !kept.is_empty() {
        (Failure, named("Calry kept other values", &kept))
    } else if !invalid.is_empty() || report.findings.errors > 0 {
        (Failure, named("errors in the definitions", &invalid))
    } else if !soon.is_empty() {
        (Pending, named("will be retried", &soon))
    } else if !waiting.is_empty() {
        (Pending, named("not updated yet", &waiting))
    } else if observed && due > 0 {
        let due = providers(due);
        (Pending, format!("observe mode: {due} would be updated"))
    } else if !held.is_empty() {
        (Pending, named("on hold", &held))
    } else {
        (Success, "in sync".to_owned())
    })
}

fn providers(count: usize) -> String {
    counted(count, "provider", "providers")
}

/// The first names, shortened, and the number of the others.
fn join_names(labels: &[&str]) -> String {
    let first = labels
        .iter()
        .take(MAX_NAMES)
        .map(|label| ellipsize(label, 32));
    let first = first.collect::<Vec<_>>().join(", ");
    match labels.len().saturating_sub(MAX_NAMES) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{applied, failed};
    use super::*;
    use crate::daemon::fixtures::{report, revision};
    use crate::desired::git::{SignatureError, VerifiedObject};

    fn of(commit: &str, dirty: bool, result: ReconciliationResult) -> ReconciliationReport {
        let mut report = report(result);
        report.findings.revision = Some(revision(commit, dirty));
        report
    }

    const FULL: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "1123456789abcdef0123456789abcdef01234567";

    /// The status after a reconciliation without changes at the commit `FULL`.
    fn in_sync(tracker: &mut CommitTracker) -> Option<CommitStatus> {
        tracker.finish(&of(FULL, false, applied(&[], &[])), &Thresholds::default())
    }

    #[test]
    fn only_the_full_id_of_a_clean_checkout_gets_a_status_and_each_status_once() {
        let mut tracker = CommitTracker::default();
        let thresholds = Thresholds::default();
        for (commit, dirty) in [
            ("0123456789", false),
            (FULL, true),
            ("../../../0123456789abcdef0123456789abcde", false),
        ] {
            assert_eq!(
                tracker.finish(&of(commit, dirty, applied(&[], &[])), &thresholds),
                None,
                "{commit}"
            );
        }
        let status = in_sync(&mut tracker).unwrap();
        assert_eq!((&*status.sha, status.state), (FULL, CommitState::Success));
        assert_eq!(in_sync(&mut tracker), None);
    }

    #[test]
    fn an_untrusted_commit_fails_once_and_the_one_in_force_keeps_its_status() {
        let mut tracker = CommitTracker::default();
        let mut ended = |trust| {
            let mut report = of(FULL, false, applied(&[], &[]));
            report.findings.trust = Some(trust);
            let status = tracker.finish(&report, &Thresholds::default());
            status.map(|status| (status.sha, status.state))
        };
        let refused = |commit: &str, reason| {
            CheckoutTrust::Refused(RefusedCheckout {
                commit: Some(commit.to_owned()),
                reason,
                behind: None,
            })
        };
        let unsigned = || {
            refused(
                OTHER,
                TrustError::Signature(VerifiedObject::Commit, SignatureError::Missing),
            )
        };
        let status = |sha: &str, state| Some((sha.to_owned(), state));
        assert_eq!(ended(unsigned()), status(OTHER, CommitState::Failure));
        assert_eq!(ended(unsigned()), status(FULL, CommitState::Success));
        assert_eq!(ended(unsigned()), None);
        assert_eq!(ended(CheckoutTrust::Trusted), None);
        assert_eq!(ended(refused(FULL, TrustError::Dirty)), None);
    }

    #[test]
    fn a_commit_fails_after_repeated_network_failures_only() {
        let mut tracker = CommitTracker::default();
        let states = [(); 5].map(|()| {
            let status = tracker.finish(&of(FULL, false, failed()), &Thresholds::default());
            status.map(|status| status.state)
        });
        assert_eq!(states, [None, None, Some(CommitState::Failure), None, None]);
    }

    #[test]
    fn only_a_status_that_the_git_host_did_not_receive_is_posted_again() {
        let mut tracker = CommitTracker::default();
        assert!(in_sync(&mut tracker).is_some());
        tracker.forget(OTHER);
        assert_eq!(in_sync(&mut tracker), None);
        tracker.forget(FULL);
        assert_eq!(in_sync(&mut tracker).unwrap().sha, FULL);
    }
}
