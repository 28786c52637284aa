//! What a pass means for the commit that it was about: whether Calry has it. Everything here is pure.

use crate::daemon::{ReconciliationReport, ReconciliationResult};
use crate::desired::git::{CheckoutTrust, RefusedCheckout, TrustError};
use crate::model::Revision;
use crate::plan::{Plan, Verdict};
use crate::reconcile::Failure;
use crate::reconcile::apply::Outcome;

use super::config::Rules;

/// How many providers a description names.
const NAMED: usize = 3;

/// What a forge shows at a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitStatus {
    /// The full id of the commit.
    pub sha: String,
    /// How it stands.
    pub state: CommitState,
    /// A sentence of at most 140 characters: providers and counts, and nothing that others wrote.
    pub description: String,
}

/// How a commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitState {
    /// Calry does not have it yet.
    Pending,
    /// Calry has it.
    Success,
    /// Calry does not have it, and somebody must act.
    Failure,
}

/// What one target was told of one workspace's commits.
#[derive(Clone, Debug, Default)]
pub struct CommitTracker {
    told: Option<CommitStatus>,
    /// The commit that is checked out and not trusted; what is told is about the one in force.
    refused: Option<String>,
    failures: u32,
}

impl CommitTracker {
    /// A plan is about to be carried out: its commit is pending, unless Calry had it already and only drift is put back.
    pub fn applying(&mut self, plan: &Plan) -> Option<CommitStatus> {
        let sha = sha(plan.revision.as_ref())?;
        let due = plan.steps().count();
        let had = self
            .told
            .as_ref()
            .is_some_and(|told| told.sha == sha && told.state != CommitState::Pending);
        if due == 0 || had {
            return None;
        }
        self.news(
            sha,
            CommitState::Pending,
            format!("{} to update", providers(due)),
        )
    }

    /// What a pass means for its commit; `None` where the forge shows that already.
    pub fn ended(&mut self, report: &ReconciliationReport, rules: &Rules) -> Option<CommitStatus> {
        let refused = match &report.findings.trust {
            // Of one that differs, the commit itself is trusted.
            Some(CheckoutTrust::Refused(RefusedCheckout { commit, reason }))
                if *reason != TrustError::Dirty =>
            {
                commit.clone()
            }
            _ => None,
        };
        if std::mem::replace(&mut self.refused, refused) != self.refused
            && let Some(sha) = self.refused.clone()
        {
            let description = "not trusted, and not applied: see the daemon's log".to_owned();
            return Some(CommitStatus {
                sha,
                state: CommitState::Failure,
                description,
            });
        }
        let sha = sha(report.findings.revision.as_ref());
        let (state, description) = match &report.result {
            ReconciliationResult::Failed(Failure::Stopped) => return None,
            ReconciliationResult::Failed(failure) => {
                self.failures = self.failures.saturating_add(1);
                // A network that fails for a moment says nothing of the commit.
                let lasting =
                    failure.is_invalid_definitions() || self.failures >= rules.failed_passes;
                (
                    lasting.then_some(CommitState::Failure)?,
                    "the pass failed: see the daemon's log".to_owned(),
                )
            }
            other => {
                self.failures = 0;
                judge(other, report)?
            }
        };
        self.news(sha?, state, description)
    }

    /// The forge did not get what was last said of a commit: the next reconciliation that is about it says it again.
    pub fn forget(&mut self, sha: &str) {
        if self.told.as_ref().is_some_and(|told| told.sha == sha) {
            self.told = None;
        }
        if self.refused.as_deref() == Some(sha) {
            self.refused = None;
        }
    }

    fn news(
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
        let known = self.told.as_ref() == Some(&status);
        self.told = Some(status);
        self.told.clone().filter(|_| !known)
    }
}

/// The full id of a commit whose files are what is read: one that differs from its commit says nothing of it.
fn sha(revision: Option<&Revision>) -> Option<String> {
    let Revision { commit, dirty, .. } = revision?;
    let full = matches!(commit.len(), 40 | 64)
        && commit
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    (full && !dirty).then(|| commit.clone())
}

fn judge(
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
    let backed_off = |name: &&str| {
        report
            .findings
            .backed_off
            .iter()
            .any(|(p, rest)| !rest.brief && p.as_str() == *name)
    };
    // What is tried again in a moment is not failed yet.
    let brief = |name: &&str| {
        report
            .findings
            .backed_off
            .iter()
            .any(|(p, rest)| rest.brief && p.as_str() == *name)
    };
    let (soon, failed): (Vec<&str>, Vec<&str>) =
        updates(&|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Partial(_)))
            .into_iter()
            .partition(brief);
    let kept = updates(&|outcome| matches!(outcome, Outcome::NotConverged(_)));
    let (resting, waiting): (Vec<&str>, Vec<&str>) =
        updates(&|outcome| matches!(outcome, Outcome::Skipped(_)))
            .into_iter()
            .partition(backed_off);
    let observed = matches!(result, ReconciliationResult::Observed(_));
    let due = plan.steps().count();
    use CommitState::{Failure, Pending, Success};
    Some(if matches!(result, ReconciliationResult::Refused(..)) {
        (
            Failure,
            format!(
                "refused: it would change {}, more than is allowed",
                providers(due)
            ),
        )
    } else if !failed.is_empty() || !resting.is_empty() {
        (
            Failure,
            format!("not updated: {}", named(&[failed, resting].concat())),
        )
    } else if !kept.is_empty() {
        (
            Failure,
            format!("Calry kept other values: {}", named(&kept)),
        )
    } else if !invalid.is_empty() || report.findings.errors > 0 {
        (Failure, format!("cannot be used: {}", named(&invalid)))
    } else if !soon.is_empty() {
        (Pending, format!("tried again: {}", named(&soon)))
    } else if !waiting.is_empty() {
        (Pending, format!("not tried yet: {}", named(&waiting)))
    } else if observed && due > 0 {
        (
            Pending,
            format!("{} would be updated; it is only observed", providers(due)),
        )
    } else if !held.is_empty() {
        (Pending, format!("on hold: {}", named(&held)))
    } else {
        (Success, "Calry has it".to_owned())
    })
}

fn providers(count: usize) -> String {
    format!(
        "{count} {}",
        if count == 1 { "provider" } else { "providers" }
    )
}

/// The first few; a name is cut so that it stays a sentence.
fn named(labels: &[&str]) -> String {
    let more = labels.len().saturating_sub(NAMED);
    let first: Vec<String> = labels
        .iter()
        .take(NAMED)
        .map(|label| crate::model::ellipsize(label, 32))
        .collect();
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    first.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::super::tests::{applied, failed, report};
    use super::*;

    fn of(commit: &str, dirty: bool, result: ReconciliationResult) -> ReconciliationReport {
        let revision = Revision {
            commit: commit.to_owned(),
            subject: String::new(),
            author: String::new(),
            time: String::new(),
            dirty,
        };
        let mut report = report(result);
        report.findings.revision = Some(revision);
        report
    }

    #[test]
    fn only_the_full_id_of_a_clean_checkout_gets_a_status_and_each_status_once() {
        let full = "0123456789abcdef0123456789abcdef01234567";
        let mut tracker = CommitTracker::default();
        let rules = Rules::default();
        for (commit, dirty) in [
            ("0123456789", false),
            (full, true),
            ("../../../0123456789abcdef0123456789abcde", false),
        ] {
            assert_eq!(
                tracker.ended(&of(commit, dirty, applied(&[], &[])), &rules),
                None,
                "{commit}"
            );
        }
        let told = tracker
            .ended(&of(full, false, applied(&[], &[])), &rules)
            .unwrap();
        assert_eq!(
            (told.sha.as_str(), told.state),
            (full, CommitState::Success)
        );
        assert_eq!(
            tracker.ended(&of(full, false, applied(&[], &[])), &rules),
            None
        );
    }

    #[test]
    fn a_commit_that_is_not_trusted_fails_once_and_the_one_in_force_is_told_as_ever() {
        let (full, other) = (
            "0123456789abcdef0123456789abcdef01234567",
            "1123456789abcdef0123456789abcdef01234567",
        );
        let mut tracker = CommitTracker::default();
        let mut ended = |trust| {
            let mut report = of(full, false, applied(&[], &[]));
            report.findings.trust = Some(trust);
            tracker
                .ended(&report, &Rules::default())
                .map(|told| (told.sha, told.state))
        };
        let refused = || {
            CheckoutTrust::Refused(RefusedCheckout {
                commit: Some(other.to_owned()),
                reason: TrustError::Unsigned,
            })
        };
        assert_eq!(
            ended(refused()),
            Some((other.to_owned(), CommitState::Failure))
        );
        assert_eq!(
            ended(refused()),
            Some((full.to_owned(), CommitState::Success))
        );
        assert_eq!(ended(refused()), None);
        assert_eq!(ended(CheckoutTrust::Trusted), None);
        assert_eq!(
            ended(CheckoutTrust::Refused(RefusedCheckout {
                commit: Some(full.to_owned()),
                reason: TrustError::Dirty
            })),
            None
        );
    }

    #[test]
    fn a_commit_fails_by_a_failing_network_only_where_that_lasts() {
        let full = "0123456789abcdef0123456789abcdef01234567";
        let mut tracker = CommitTracker::default();
        let states: Vec<Option<CommitState>> = (0..5)
            .map(|_| {
                tracker
                    .ended(&of(full, false, failed()), &Rules::default())
                    .map(|told| told.state)
            })
            .collect();
        assert_eq!(states, [None, None, Some(CommitState::Failure), None, None]);
    }

    #[test]
    fn a_status_that_the_forge_did_not_get_is_said_again_and_another_is_not() {
        let (full, other) = (
            "0123456789abcdef0123456789abcdef01234567",
            "1123456789abcdef0123456789abcdef01234567",
        );
        let (mut tracker, rules) = (CommitTracker::default(), Rules::default());
        let ended = |tracker: &mut CommitTracker| {
            tracker.ended(&of(full, false, applied(&[], &[])), &rules)
        };
        assert!(ended(&mut tracker).is_some());
        tracker.forget(other);
        assert_eq!(ended(&mut tracker), None);
        tracker.forget(full);
        assert_eq!(
            ended(&mut tracker).map(|told| told.sha),
            Some(full.to_owned())
        );
    }
}
