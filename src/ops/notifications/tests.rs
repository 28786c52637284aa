//! The events of many reconciliations, in any order.

use std::sync::Arc;

use jiff::civil::{Date, date};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::daemon::fixtures::{change, desired, entry, live, plan, report, result, revision};
use crate::daemon::{FetchState, ReconciliationResult};
use crate::desired::git::{
    CheckoutTrust, RefusedCheckout, SignatureError, TrustError, VerifiedObject,
};
use crate::model::{ActiveHold, FetchFailure, Hold, HoldScope, Provider};
use crate::plan::{Cause, Payload, PlanEntry, Step, Verdict};
use crate::reconcile::Failure;
use crate::reconcile::apply::{Outcome, Report};
use crate::report::catalogue::CatalogueNotice;
use crate::report::links::{Links, RepositoryUrl};
use crate::report::status::RepositoryFailure;

pub(super) fn failed() -> ReconciliationResult {
    ReconciliationResult::Failed(Failure::Internal("no network".to_owned()))
}

fn in_sync(provider: &str) -> Verdict {
    Verdict::InSync(desired(provider), Arc::new(live(provider)))
}

fn due(provider: &str, cause: Cause) -> PlanEntry {
    let step = Step {
        desired: desired(provider),
        live: Arc::new(live(provider)),
        applied: None,
        changes: vec![change()],
        cause,
        payload: Payload::default(),
    };
    entry(provider, Verdict::Update(Box::new(step)))
}

/// An applied plan: `updates` with their outcomes, and `others` with their verdicts.
pub(super) fn applied(
    updates: &[(&str, Cause, Outcome)],
    others: &[(&str, Verdict)],
) -> ReconciliationResult {
    let mut entries: Vec<PlanEntry> = updates
        .iter()
        .map(|(provider, cause, _)| due(provider, *cause))
        .collect();
    entries.extend(
        others
            .iter()
            .map(|(provider, verdict)| entry(provider, verdict.clone())),
    );
    let results = updates
        .iter()
        .map(|(provider, cause, outcome)| result(provider, *cause, outcome.clone()))
        .collect();
    ReconciliationResult::Applied(plan(entries), Report { results })
}

const TODAY: Date = date(2026, 11, 24);

fn kinds(memory: &mut ReportedState, result: ReconciliationResult) -> Vec<EventKind> {
    let thresholds = Thresholds {
        failed_passes: 2,
        ..Thresholds::default()
    };
    events(memory, &report(result), &thresholds, TODAY)
        .into_iter()
        .map(|event| event.kind)
        .collect()
}

/// A change of git with this outcome.
fn changed(outcome: Outcome) -> ReconciliationResult {
    applied(&[("A", Cause::Change, outcome)], &[])
}

#[test]
fn a_backed_off_provider_has_not_recovered() {
    let memory = &mut ReportedState::default();
    let failed = || changed(Outcome::Failed("no".to_owned()));
    let resting = || changed(Outcome::Skipped("tried again in 60s".to_owned()));
    assert_eq!(kinds(memory, failed()), []);
    assert_eq!(kinds(memory, resting()), [EventKind::Failed]);
    assert_eq!(kinds(memory, resting()), []);
    assert_eq!(kinds(memory, failed()), []);
    // A failed reconciliation says nothing about the provider.
    assert_eq!(kinds(memory, self::failed()), []);
    let done = kinds(memory, changed(Outcome::Applied));
    assert_eq!(done, [EventKind::Applied, EventKind::Recovered]);
}

#[test]
fn each_untrusted_checkout_is_reported_once() {
    let memory = &mut ReportedState::default();
    let mut kinds = |trust| {
        let mut report = report(applied(&[], &[]));
        report.findings.trust = Some(trust);
        let events = events(memory, &report, &Thresholds::default(), TODAY);
        events
            .into_iter()
            .map(|event| (event.kind, event.reason))
            .collect::<Vec<_>>()
    };
    let refused = |commit: &str| {
        CheckoutTrust::Refused(RefusedCheckout {
            commit: Some(commit.to_owned()),
            reason: TrustError::Signature(VerifiedObject::Commit, SignatureError::Missing),
            behind: None,
        })
    };
    let report_of = |commit| {
        let reason =
            format!("the checked-out commit ({commit}) is refused: the commit is not signed");
        vec![(EventKind::Refused, Some(reason))]
    };
    assert_eq!(kinds(CheckoutTrust::Trusted), []);
    assert_eq!(kinds(refused("a")), report_of("a"));
    assert_eq!(kinds(refused("a")), []);
    assert_eq!(kinds(refused("b")), report_of("b"));
    assert_eq!(
        kinds(CheckoutTrust::Trusted),
        [(EventKind::Recovered, None)]
    );
    assert_eq!(kinds(CheckoutTrust::Trusted), []);
}

#[test]
fn a_lasting_failure_of_fetches_and_its_end_are_each_reported_once() {
    let memory = &mut ReportedState::default();
    let mut reported = |fetch: &FetchState, result: ReconciliationResult| {
        let mut report = report(result);
        report.findings.fetch = fetch.clone();
        let thresholds = Thresholds {
            failed_passes: 9,
            ..Thresholds::default()
        };
        let events = events(memory, &report, &thresholds, TODAY);
        // The memory survives a restart.
        *memory = serde_json::from_value(serde_json::to_value(&*memory).unwrap()).unwrap();
        events
            .into_iter()
            .map(|event| (event.kind, event.reason))
            .collect::<Vec<_>>()
    };
    let well = || applied(&[], &[]);
    let stopped = || ReconciliationResult::Failed(Failure::Stopped);
    let begin = || vec![(EventKind::Failed, Some("no route".to_owned()))];
    let end = || vec![(EventKind::Recovered, None)];
    let working = &FetchState::Working;
    let failing = &FetchState::Failing(RepositoryFailure {
        kind: FetchFailure::Unreachable,
        message: "no route".to_owned(),
        since: jiff::Timestamp::UNIX_EPOCH,
        times: 7,
        retry_after: None,
    });
    assert_eq!(reported(working, well()), []);
    assert_eq!(reported(failing, stopped()), []);
    assert_eq!(reported(failing, well()), begin());
    assert_eq!(reported(failing, well()), []);
    assert_eq!(reported(failing, failed()), []);
    // After a restart the failure is a short one at first.
    assert_eq!(reported(&FetchState::Unclear, well()), []);
    assert_eq!(reported(working, failed()), end());
    assert_eq!(reported(working, well()), []);
    // It is reported even if the reconciliation failed for another reason.
    assert_eq!(reported(failing, failed()), begin());
    assert_eq!(reported(working, well()), end());
}

#[test]
fn an_update_that_does_not_converge_is_reported_once_until_it_does() {
    let memory = &mut ReportedState::default();
    let kept = || changed(Outcome::NotConverged(vec![change().into_mismatch()]));
    let backed_off = || changed(Outcome::Skipped("later".to_owned()));
    assert_eq!(kinds(memory, kept()), [EventKind::NotConverged]);
    for result in [backed_off(), kept(), backed_off(), kept()] {
        assert_eq!(kinds(memory, result), []);
    }
    assert_eq!(
        kinds(memory, applied(&[], &[("A", in_sync("A"))])),
        [EventKind::Recovered]
    );
    assert_eq!(kinds(memory, kept()), [EventKind::NotConverged]);
}

#[test]
fn standing_drift_is_reported_once_and_a_hold_before_its_end() {
    let memory = &mut ReportedState::default();
    let observed = || ReconciliationResult::Observed(plan(vec![due("A", Cause::Drift)]));
    assert_eq!(kinds(memory, observed()), [EventKind::Drift]);
    assert_eq!(kinds(memory, observed()), []);
    assert_eq!(kinds(memory, applied(&[], &[("A", in_sync("A"))])), []);
    assert_eq!(kinds(memory, observed()), [EventKind::Drift]);
    let mut held = |until| {
        let reason = Some("Vertrag".to_owned());
        let hold = ActiveHold::of(&Hold { until, reason }, HoldScope::Provider);
        let (pending, step) = (vec![change()], None);
        kinds(
            memory,
            applied(
                &[],
                &[(
                    "B",
                    Verdict::Held {
                        hold,
                        pending,
                        step,
                    },
                )],
            ),
        )
    };
    assert_eq!(held(date(2027, 3, 1)), []);
    assert_eq!(held(date(2026, 11, 27)), [EventKind::HoldExpiring]);
    assert_eq!(held(date(2026, 11, 27)), []);
    // Another day is another hold.
    assert_eq!(held(date(2026, 11, 26)), [EventKind::HoldExpiring]);
}

#[test]
fn a_catalogue_notice_is_reported_once_and_none_of_those_before_the_first_report() {
    let numbered = |last: u64| -> Vec<CatalogueNotice> {
        let notice = |number| CatalogueNotice {
            number,
            names: number as usize,
            ..CatalogueNotice::default()
        };
        (1..=last).map(notice).collect()
    };
    let memory = &mut ReportedState::default();
    let mut found = |last: u64, is_news| {
        let mut report = report(applied(&[], &[]));
        report.findings.catalogue.notices = numbered(last);
        report.findings.catalogue.is_news = is_news;
        let events = events(memory, &report, &Thresholds::default(), date(2026, 11, 29));
        let kinds = events.iter().map(|one| one.kind);
        assert!(
            kinds
                .clone()
                .all(|kind| kind == EventKind::CatalogueChanged)
        );
        kinds.count()
    };
    assert_eq!(found(4, false), 0);
    assert_eq!(found(4, false), 0);
    assert_eq!(found(5, true), 1);
    assert_eq!(found(5, false), 0);
    // Two were found, and none was delivered before the process ended.
    assert_eq!(found(7, false), 2);
    // Another workspace counts from one.
    assert_eq!(found(0, false), 0);
    assert_eq!(found(1, true), 1);
}

#[test]
fn a_provider_that_has_no_file_is_reported_once_and_so_is_its_end() {
    let memory = &mut ReportedState::default();
    let mut found = |providers: &[&str]| {
        let mut report = report(applied(&[], &[]));
        let named = providers.iter().map(|name| Provider::parse(name).unwrap());
        report.findings.without_file = named.collect();
        let events = events(memory, &report, &Thresholds::default(), date(2026, 11, 29));
        let about = |event: Event| (event.kind, event.providers[0].provider.clone());
        events.into_iter().map(about).collect::<Vec<_>>()
    };
    let named = |kind, provider: &str| vec![(kind, provider.to_owned())];
    assert_eq!(found(&["B"]), named(EventKind::Failed, "B"));
    assert_eq!(found(&["B"]), []);
    assert_eq!(found(&["B", "C"]), named(EventKind::Failed, "C"));
    assert_eq!(found(&["C"]), named(EventKind::Recovered, "B"));
}

#[test]
fn a_key_is_reported_when_it_is_near_when_it_is_urgent_and_when_it_is_over() {
    let memory = &mut ReportedState::default();
    let mut on = |last_day: &str, today: Date| {
        let mut report = report(failed());
        report.findings.key.is_read = true;
        report.findings.key.expiry = last_day.parse().ok();
        let events = events(memory, &report, &Thresholds::default(), today);
        let mut sentences = events
            .into_iter()
            .filter(|one| one.kind == EventKind::KeyExpiring);
        sentences.next().map(|one| one.sentence)
    };
    let said = |text: &str| Some(format!("the API key {text}"));
    let last = "2026-12-20";
    assert_eq!(on(last, date(2026, 12, 5)), None);
    assert_eq!(
        on(last, date(2026, 12, 6)),
        said("expires on 2026-12-20, in 14 days")
    );
    assert_eq!(on(last, date(2026, 12, 16)), None);
    assert_eq!(
        on(last, date(2026, 12, 17)),
        said("expires on 2026-12-20, in 3 days")
    );
    assert_eq!(on(last, date(2026, 12, 20)), None);
    assert_eq!(
        on(last, date(2026, 12, 21)),
        said("expired at the end of 2026-12-20 (UTC)")
    );
    assert_eq!(on(last, date(2026, 12, 22)), None);
    // A new key is another key.
    assert_eq!(on("2027-06-18", date(2026, 12, 22)), None);
    assert_eq!(
        on("2027-06-18", date(2027, 6, 10)),
        said("expires on 2027-06-18, in 8 days")
    );
}

proptest! {
    /// A lasting failure is reported once, and its end is reported if and only if the failure was.
    #[test]
    fn failures_and_recoveries_take_turns(passes in proptest::collection::vec(any::<bool>(), 1..60)) {
        let mut memory = ReportedState::default();
        let (mut row, mut reported) = (0, false);
        for fails in passes {
            let result = if fails { failed() } else { applied(&[], &[]) };
            let seen = kinds(&mut memory, result);
            row = if fails { row + 1 } else { 0 };
            let expected = match (fails, row, reported) {
                (true, 2, _) => vec![EventKind::Failed],
                (false, _, true) => vec![EventKind::Recovered],
                _ => vec![],
            };
            prop_assert_eq!(seen, expected);
            reported = fails && row >= 2;
        }
    }

    /// No event lists more than [`MAX_PROVIDERS`] providers, and each kind has at most one event per reconciliation.
    #[test]
    fn one_event_of_a_kind_for_each_pass(fates in proptest::collection::vec((0..40usize, 0..4u8), 0..60)) {
        let names: Vec<String> = (0..40).map(|n| format!("P{n}")).collect();
        let fates: std::collections::BTreeMap<usize, u8> = fates.into_iter().collect();
        let updates: Vec<(&str, Cause, Outcome)> = fates.iter().map(|(n, fate)| {
            let outcome = match fate {
                0 | 1 => Outcome::Applied,
                2 => Outcome::Failed("no".to_owned()),
                _ => Outcome::Skipped("later".to_owned()),
            };
            (names[*n].as_str(), if *fate == 0 { Cause::Change } else { Cause::Drift }, outcome)
        }).collect();
        let mut memory = ReportedState::default();
        let events = events(&mut memory, &report(applied(&updates, &[])), &Thresholds { failed_passes: 1, ..Thresholds::default() }, TODAY);
        let kinds: std::collections::BTreeSet<EventKind> = events.iter().map(|event| event.kind).collect();
        prop_assert_eq!(kinds.len(), events.len());
        for event in events {
            let of = fates.values().filter(|fate| match event.kind {
                EventKind::Applied => **fate == 0,
                EventKind::Drift => **fate > 0,
                EventKind::Failed => **fate == 2,
                _ => false,
            });
            prop_assert_eq!(event.providers.len() + event.more, of.count());
            prop_assert!(event.providers.len() <= MAX_PROVIDERS && !event.providers.is_empty());
        }
    }
}

#[test]
fn a_message_shows_that_files_differ_from_the_commit() {
    let links = |repository: &str| Links {
        page: Some("https://calry.example.com/".to_owned()),
        repository: RepositoryUrl::parse(repository).ok(),
        directory: String::new(),
    };
    for (dirty, repository, said) in [
        (true, "", "at `0123456789+dirty`"),
        (false, "", "at `0123456789`"),
        (
            true,
            "https://github.com/acme/defs",
            "at <https://github.com/acme/defs/commit/0123456789abcdef|0123456789+dirty>",
        ),
    ] {
        let mut report = report(failed());
        report.findings.revision = Some(revision("0123456789abcdef", dirty));
        let thresholds = Thresholds {
            failed_passes: 1,
            hold_days: 0,
            ..Thresholds::default()
        };
        let state = &mut ReportedState::default();
        let event = events(state, &report, &thresholds, TODAY).remove(0);
        let message = Notification::of(event, &report, None, None, &links(repository));
        let message = message.slack().to_string();
        for said in [said, "<https://calry.example.com/|Status page>"] {
            assert!(message.contains(said), "{message}");
        }
    }
}

#[test]
fn a_commit_status_links_to_the_status_page_unless_it_has_its_own_link() {
    for (own, link) in [
        (None, "https://calry.example.com/"),
        (Some("https://ops.example.com/"), "https://ops.example.com/"),
    ] {
        let github = json!({"repository": "acme/defs", "tokenFile": "token", "targetUrl": own});
        let mut target: Target =
            serde_json::from_value(json!({"name": "x", "github": github})).unwrap();
        target.link_to("https://calry.example.com/");
        let Channel::Commit(forge) = target.channel else {
            panic!("not a commit status")
        };
        assert_eq!(forge.target_url.as_deref(), Some(link));
    }
}
