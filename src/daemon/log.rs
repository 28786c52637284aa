//! The log of the daemon: one line per reconciliation and one per change.
//!
//! The message is a sentence for people; the fields hold the same facts for programs (`--log-format json`). A reconciliation
//! without changes logs nothing about single providers.

use tracing::{debug, error, info, warn};

use super::{Approval, BackedOff, KeyFindings, ReconciliationReport, ReconciliationResult};
use crate::desired::git::CheckoutTrust;
use crate::model::{
    Diagnostic, Hold, Provider, Revision, Severity, ellipsize, human_duration, printable,
};
use crate::plan::{
    Cause, Digest, OverriddenHold, Plan, PlanEntry, PolicyAction, Verdict, describe_hold, refusal,
};
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::reconcile::{Failure, today};
use crate::report::status::Mode;
use crate::report::words::{describe_counts, describe_mismatch, key_warning, name_changes, plural};

/// Logs a reconciliation without its updates, which were logged when they ended.
pub fn reconciliation(report: &ReconciliationReport, mode: Mode, directory: &str) {
    for diagnostic in &report.findings.new_diagnostics {
        problem(diagnostic, directory);
    }
    for (entry, cause) in &report.findings.differences {
        difference(entry, *cause);
    }
    for violation in &report.findings.new_violations {
        let (policy, provider) = (&violation.policy, violation.provider.as_deref());
        let sentence = violation.sentence();
        match violation.action {
            PolicyAction::Deny => error!(policy, provider, "denied by policy: {sentence}"),
            PolicyAction::Warn => warn!(policy, provider, "policy {sentence}"),
        }
    }
    match &report.findings.approval {
        Some(Approval::Used(digest)) => {
            info!(%digest, "the plan {digest} was approved and is applied despite the limits");
        }
        Some(Approval::Overrode(digest, overridden)) => {
            overridden_hold(None, Some(digest), overridden);
        }
        Some(Approval::Forgotten(digest)) => {
            warn!(%digest, "the approval of {digest} is void: files or live state have changed since");
        }
        None => {}
    }
    let news = report.findings.catalogue.notices.last();
    if let Some(notice) = news.filter(|_| report.findings.catalogue.is_news) {
        info!(names = notice.names, "{}", notice.sentence());
    }
    if report.findings.key.is_news {
        key_expiry(&report.findings.key);
    }
    // If no revision is in force, the reconciliation failed for that reason.
    if let Some(revision) = report
        .findings
        .revision
        .as_ref()
        .filter(|_| report.findings.trust_changed)
    {
        match &report.findings.trust {
            Some(CheckoutTrust::Refused(refused)) => {
                let revision = revision.short();
                error!(
                    refused = refused.commit,
                    revision, "{refused}; revision {revision} stays in force"
                );
            }
            _ => info!(
                revision = revision.short(),
                "the checked-out commit is trusted again"
            ),
        }
    }
    if report.findings.also_changed {
        let also = report.findings.also.join(", ");
        error!(
            also,
            "{}",
            crate::report::status::shared_key_error(&report.findings.also)
        );
    }
    let (number, delivery) = (report.number, report.delivery.as_deref());
    let trigger = report.trigger.as_str();
    let cause = match delivery {
        Some(id) => format!("{trigger}, delivery {}", ellipsize(&printable(id), 64)),
        None => trigger.to_owned(),
    };
    let took = human_duration(report.took);
    let next = report
        .next
        .map(|next| format!("; next in {}", human_duration(next)))
        .unwrap_or_default();
    let duration_seconds = report.took.as_secs_f64();
    match &report.result {
        ReconciliationResult::Failed(failure @ Failure::Stopped) => {
            info!(
                pass = number,
                trigger,
                delivery,
                duration_seconds,
                result = "stopped",
                "reconciliation {number} ({cause}): {failure}"
            );
        }
        ReconciliationResult::Failed(failure) => {
            error!(
                pass = number,
                trigger,
                delivery,
                duration_seconds,
                result = "failed",
                "reconciliation {number} ({cause}) failed after {took}: {failure}{next}"
            );
        }
        ReconciliationResult::Refused(plan, _) => {
            let refusal = report.result.error().unwrap_or_default();
            let digest = plan.digest.as_ref().map(ToString::to_string);
            error!(
                pass = number,
                trigger,
                delivery,
                duration_seconds,
                result = "refused",
                digest,
                "reconciliation {number} ({cause}): {refusal}{next}"
            );
        }
        ReconciliationResult::Observed(plan) | ReconciliationResult::Applied(plan, _) => {
            let summary = plan.summary();
            let revision = plan.revision.as_ref().map(Revision::short);
            let at = revision
                .as_ref()
                .map(|r| format!(" at {r}"))
                .unwrap_or_default();
            let counts = match &report.result {
                ReconciliationResult::Applied(_, applied) => {
                    describe_results(plan, &applied.results)
                }
                _ => describe_counts(&summary),
            };
            let result = report.result.outcome().as_str();
            let observing = match mode {
                _ if report.findings.standby => " (standby: nothing is written)",
                Mode::Observe => " (observe: nothing is written)",
                Mode::Enforce => "",
            };
            info!(
                pass = number,
                trigger,
                delivery,
                duration_seconds,
                result,
                revision,
                in_sync = summary.in_sync,
                update = summary.update,
                held = summary.held,
                invalid = summary.invalid,
                unreadable = summary.unreadable,
                missing = summary.missing,
                unmanaged = summary.unmanaged,
                "reconciliation {number} ({cause}){at} took {took}{observing}: {counts}{next}"
            );
        }
    }
}

/// Logs that a plan is applied although the workspace is on hold. The lines of a daemon name the workspace themselves.
pub fn overridden_hold(
    workspace: Option<&str>,
    digest: Option<&Digest>,
    overridden: &OverriddenHold,
) {
    let digest = digest.map(ToString::to_string).unwrap_or_default();
    let (hold, reason) = (
        describe_hold(&overridden.hold),
        printable(&overridden.reason),
    );
    warn!(
        workspace,
        digest,
        reason,
        "the plan {digest} was approved and is applied although {hold}; the reason of the approval: {reason}"
    );
}

/// Logs that the API key ends soon or has ended, or that it is not known when.
fn key_expiry(key: &KeyFindings) {
    let today = today();
    if let Some(error) = &key.error {
        warn!("{error}");
    }
    if let Some(expiry) = key.expiry {
        let (expires, days_left) = (expiry.to_string(), expiry.days_left(today));
        let sentence = key_warning(&key.source, expiry, today);
        warn!(expires, days_left, "{sentence}");
    }
}

/// The results of a plan in counts. Updated providers do not count as in sync.
fn describe_results(plan: &Plan, results: &[UpdateResult]) -> String {
    let [mut updated, mut failed, mut not_converged, mut waiting] = [0_usize; 4];
    for result in results {
        match result.outcome {
            Outcome::Applied | Outcome::Unchanged => updated += 1,
            Outcome::Failed(_) | Outcome::Partial(_) => failed += 1,
            Outcome::NotConverged(_) => not_converged += 1,
            Outcome::Skipped(_) => waiting += 1,
        }
    }
    // The first count of a plan is that of its updates.
    let all = describe_counts(&plan.summary());
    let others = all.split_once(", ").map_or(&*all, |(_, others)| others);
    let count = |count, word: &str| plural(count, word, word);
    [
        count(updated, "updated"),
        count(failed, "failed"),
        count(not_converged, "not converged"),
        count(waiting, "waiting"),
        Some(others.to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(", ")
}

/// The target of the lines about single updates, so that one-shot commands can show them as well.
pub const AUDIT: &str = "calry_gitops::audit";

/// Logs the result of an update as soon as it ends. If a request was sent, this is its audit line (`audit`): together these
/// lines record every write. Paths are separated by spaces; a path that is not plain words is quoted.
pub fn update(plan: &Plan, result: &UpdateResult, backed_off: Option<BackedOff>) {
    let UpdateResult {
        provider,
        changes,
        outcome,
        sent,
        ..
    } = result;
    let provider = provider.as_str();
    let brief = backed_off.as_ref().is_some_and(|it| it.brief);
    let again = backed_off
        .map(|it| {
            format!(
                "; next attempt in {}, or when its file changes",
                human_duration(it.left)
            )
        })
        .unwrap_or_default();
    let sentence = describe_update(result);
    let revision = plan.revision.as_ref();
    let audit = (*sent > 0).then_some(true);
    macro_rules! line {
        ($level:ident, $($message:tt)*) => {
            $level!(
                target: AUDIT,
                audit,
                slug = printable(&plan.workspace.slug),
                provider,
                cause = word(result.cause),
                revision = revision.map(Revision::short),
                commit = revision.map(|revision| revision.commit.as_str()),
                outcome = outcome.as_str(),
                sent,
                duration_seconds = result.took.as_secs_f64(),
                paths = changes.iter().map(|c| printable(&c.path())).collect::<Vec<_>>().join(" "),
                $($message)*
            )
        };
    }
    match outcome {
        Outcome::Applied | Outcome::Unchanged => line!(info, "{sentence}"),
        Outcome::NotConverged(_) => line!(warn, "{sentence}{again}"),
        Outcome::Failed(_) if brief => line!(warn, "{sentence}{again}"),
        Outcome::Failed(_) | Outcome::Partial(_) => line!(error, "{sentence}{again}"),
        // A failure was logged when it happened.
        Outcome::Skipped(_) => line!(debug, "{sentence}"),
    }
}

/// How an update ended, as a sentence.
#[must_use]
pub fn describe_update(result: &UpdateResult) -> String {
    let provider = &result.provider;
    let what = name_changes(&result.changes);
    match &result.outcome {
        Outcome::Applied => {
            let why = match result.cause {
                Cause::Change => "updated",
                Cause::Drift => "drifted; drift undone",
            };
            // A provider on hold is not updated.
            let over = hold_is_over(result.desired.hold.as_ref());
            format!("{provider} {why}{over}: {what}")
        }
        Outcome::Unchanged => format!("{provider} was in sync already when it was read again"),
        Outcome::NotConverged(mismatches) => {
            let fields = mismatches
                .iter()
                .take(8)
                .map(describe_mismatch)
                .collect::<Vec<_>>()
                .join("; ");
            format!("Calry took the update of {provider} and kept other values: {fields}")
        }
        Outcome::Partial(refused) => {
            let why = refusal(refused).unwrap_or_default();
            let what = if result.sent > 0 {
                "updated in part"
            } else {
                "not updated"
            };
            format!("{provider} was {what}: {why}")
        }
        Outcome::Failed(why) => format!("{provider} was not updated: {why}"),
        Outcome::Skipped(why) => format!("{provider} was not tried: {why}"),
    }
}

/// Logs that another writer keeps undoing the updates of a provider. Called once.
pub(super) fn contested(provider: &Provider, times: u32) {
    warn!(
        provider = provider.as_str(),
        times,
        "another writer has undone the last {times} updates of {provider}, each within an interval; check whether a second \
         calry-gitops or another program writes to this workspace"
    );
}

fn hold_is_over(ended: Option<&Hold>) -> String {
    let words = |hold: &Hold| format!(" (its hold until {} is over)", hold.until);
    ended.map(words).unwrap_or_default()
}

fn difference(entry: &PlanEntry, cause: Option<Cause>) {
    let provider = entry.label();
    let what = name_changes(entry.changes());
    match (&entry.verdict, cause) {
        (Verdict::Held { hold, .. }, _) => {
            let reason = hold
                .reason
                .as_deref()
                .map(|r| format!(" ({})", ellipsize(&printable(r), 200)))
                .unwrap_or_default();
            info!(
                provider,
                state = "held",
                "{provider} is on hold until {}{reason}; it differs in: {what}",
                hold.until
            );
        }
        (Verdict::Unreadable(problem), _) => {
            let problem = printable(problem);
            error!(
                provider,
                state = "unreadable",
                "Calry's definition of {provider} cannot be read: {problem}"
            );
        }
        (_, Some(cause)) => {
            let would = match cause {
                Cause::Change => "would be updated",
                Cause::Drift => "has drifted; drift would be undone",
            };
            let cause = word(cause);
            let over = hold_is_over(entry.ended_hold());
            warn!(
                provider,
                state = "update",
                cause,
                "{provider} {would}{over}: {what}"
            );
        }
        _ => {}
    }
}

fn problem(diagnostic: &Diagnostic, directory: &str) {
    let Diagnostic { file, message, .. } = diagnostic;
    let code = diagnostic.code.as_str();
    let excerpt = diagnostic.excerpt.as_ref();
    let place = excerpt.map_or_else(String::new, |e| format!(":{}:{}", e.line, e.column));
    let help = diagnostic.help.as_deref();
    let help = help.map_or_else(String::new, |help| format!(" ({help})"));
    let (line, column) = (excerpt.map(|e| e.line), excerpt.map(|e| e.column));
    // File names are foreign text, in the messages as well.
    let sentence = printable(&format!("{directory}/{file}{place}: {message}{help}"));
    let file = printable(file);
    match diagnostic.severity {
        Severity::Error => error!(file, line, column, code, "{sentence}"),
        Severity::Warning => warn!(file, line, column, code, "{sentence}"),
    }
}

fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::Change => "change",
        Cause::Drift => "drift",
    }
}
