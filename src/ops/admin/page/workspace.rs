//! Draws the page of one workspace: the verdict, what needs attention, what is in sync, then the activity.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};
use serde_json::json;

use super::parts::{
    ERROR, ago, capitalised, cause, clauses, clock, copy, count_changes, diff, filter, icon,
    mismatch_table, problem, safe, sentence, stress_off, until,
};
use super::{View, word};
use crate::model::{KeyExpiry, KeyStage, Severity, human_duration, short_commit};
use crate::plan::{Cause, PlainValue, PolicyAction, Violation};
use crate::report::health::{Health, HealthLevel, health};
use crate::report::plan::DiagnosticItem;
use crate::report::status::{
    ApiKeyStatus, ChangeRecord, LeadershipStatus, Mode, ProviderState, ProviderStatus,
    ReconciliationOutcome, ReconciliationRecord, ReplicaRole, RepositoryStatus, UpdateOutcome,
    WorkspaceStatus,
};
use crate::report::words::{elapsed, plural};

/// The most differences on a page, shared by the providers that are out of sync. The page stays small enough to be sent often.
const MAX_DIFF_LINES: usize = 140;
/// How many changes of the history are shown, and in how many groups. All of them are in the JSON.
const RECENT: usize = 12;
const GROUPS: usize = 8;
/// At most this many cards are shown unfolded.
const MAX_OPEN_CARDS: usize = 3;
const PASSES: usize = 8;
const RECENT_LINES: usize = 5;
const NOTICES: usize = 3;
const PROBLEMS: usize = 12;
/// A list of at most this many is shown unfolded.
const MAX_OPEN_ROWS: usize = 40;
/// A longer list of providers gets a filter.
const FILTER_ABOVE: usize = 10;

/// The title, the level and the headline.
pub(super) fn heading(one: &WorkspaceStatus, now: Timestamp) -> (String, HealthLevel, String) {
    let health = health(one, now);
    let headline = headline(&health);
    let title = format!("{headline} · {}", safe(one.label(), 60));
    (title, health.level, headline)
}

pub(super) fn headline(health: &Health) -> String {
    match health.level {
        // With a duration in it, the headline would change every second.
        HealthLevel::Waiting => capitalised(health.headline.split(',').next().unwrap_or_default()),
        _ => capitalised(&health.headline),
    }
}

pub(super) fn content(one: &WorkspaceStatus, view: &View<'_>) -> Markup {
    let now = view.now;
    let (mut trouble, mut held, mut in_sync, mut unmanaged) = (vec![], vec![], vec![], vec![]);
    for provider in &one.providers {
        let section = match provider.state {
            ProviderState::Held => &mut held,
            ProviderState::InSync => &mut in_sync,
            ProviderState::Unmanaged => &mut unmanaged,
            ProviderState::Update
            | ProviderState::Invalid
            | ProviderState::Unreadable
            | ProviderState::Missing => &mut trouble,
        };
        section.push(provider);
    }
    let each = (MAX_DIFF_LINES / trouble.len().max(1)).clamp(4, 60);
    html! {
        @if view.workspaces.len() > 1 {
            nav aria-label="Breadcrumb" { p.crumbs { a href="./" { "All workspaces" } " / " (safe(one.label(), 80)) } }
        }
        (verdict(one, view))
        @let old = stale(one);
        @if one.summary.is_some() { (tiles(one, old.is_some())) }
        div.columns {
            div.first.old[old.is_some()] {
                (hold(one))
                (action(one, now))
                (violations(one))
                (problems(one))
                @if let Some(compared) = old {
                    p.asof { (icon("wait")) span {
                        "The providers below are as of " strong { (clock(compared)) } ", " (ago(compared, now))
                        ". Calry was not read since."
                    } }
                }
                @if one.providers.len() > FILTER_ABOVE { (filter("Filter providers")) }
                @if !trouble.is_empty() {
                    section.panel aria-labelledby="differs" {
                        div.head { h2 #differs { "Out of sync" } span.count { (trouble.len()) } }
                        div data-filtered { @for provider in &trouble { (card(provider, one, each, unfolded(provider, &trouble), now)) } }
                    }
                }
                @if !held.is_empty() {
                    section.panel aria-labelledby="held" {
                        div.head { h2 #held { "On hold" } span.count { (held.len()) } }
                        p.hint {
                            @if one.hold.is_some() { "Changes are suspended by workspace.yaml, or by the file of the provider." }
                            @else { "Changes are suspended by the file, to the end of that day (UTC)." }
                        }
                        div data-filtered { @for provider in &held { (card(provider, one, each, held.len() <= MAX_OPEN_CARDS, now)) } }
                    }
                }
                section.panel aria-labelledby="in-sync" {
                    div.head {
                        h2 #in-sync { "In sync" }
                        span.count { (in_sync.len()) }
                    }
                    @if in_sync.is_empty() {
                        p.hint {
                            @if one.summary.is_none() { "Nothing has been compared yet." }
                            @else { "No provider that git manages is in sync." }
                        }
                    } @else { (rows(&in_sync, one, now)) }
                }
                @if !unmanaged.is_empty() {
                    section.panel aria-labelledby="unmanaged" {
                        div.head { h2 #unmanaged { "Not managed" } span.count { (unmanaged.len()) } }
                        p.hint { "No file mentions these providers, so they are not changed." }
                        details.plain open[unmanaged.len() <= MAX_OPEN_ROWS] data-k="unmanaged" {
                            summary { "Providers without a file" }
                            ul.names data-filtered {
                                @for provider in &unmanaged { li { (label(provider)) } }
                            }
                        }
                    }
                }
            }
            div.second {
                (facts(one, view))
                (recent(one, now))
                (passes(one, now))
            }
        }
    }
}

fn verdict(one: &WorkspaceStatus, view: &View<'_>) -> Markup {
    let health = health(one, view.now);
    let (level, headline) = (health.level, headline(&health));
    // What to do about a refused plan follows below.
    let detail = health.detail.filter(|_| refused_plan(one).is_none());
    let managed = one.providers.len() - one.count(ProviderState::Unmanaged);
    html! {
        section class={ "verdict " (word(level)) } {
            (icon(word(level)))
            div {
                p.eyebrow {
                    @match &one.workspace {
                        Some(known) => { strong { (safe(&known.slug, 80)) } " " (safe(&known.name, 60)) },
                        None => strong { (safe(&one.directory, 80)) "/" },
                    }
                    @if one.mode == Mode::Observe {
                        span.badge.observe { (icon("eye")) "observes, writes nothing" }
                    }
                    @if let Some((_, stage)) = key_stage(one, view.now) && stage != KeyStage::Fresh {
                        span.badge.differs { (icon("differs")) @if stage == KeyStage::Over { "API key expired" } @else { "API key expires" } }
                    }
                    @if one.standby().is_some() {
                        span.badge.observe { (icon("eye")) "standby, writes nothing" }
                    }
                }
                h1 { (headline) }
                @if let Some(detail) = detail {
                    p { (capitalised(&safe(&detail, ERROR))) }
                } @else if one.summary.is_some() {
                    p {
                        @if managed == 0 { "Git manages no provider yet" }
                        @else { (one.count(ProviderState::InSync)) " of " (managed) " managed providers are in sync" }
                        @if let Some(revision) = &one.revision {
                            " with " (commit(one, short_commit(&revision.commit)))
                            " “" (safe(&revision.subject, 100)) "”"
                            @if revision.dirty { " and changes that are not committed" }
                        }
                        "."
                    }
                }
            }
        }
    }
}

/// When the providers were last compared, if a later reconciliation failed or the daemon hangs.
fn stale(one: &WorkspaceStatus) -> Option<Timestamp> {
    let failed = one
        .last_pass
        .as_ref()
        .is_some_and(|last| last.result == ReconciliationOutcome::Failed);
    one.compared.filter(|_| failed || !one.alive)
}

/// Whether a card is open at first: if there are few, or few that fail.
fn unfolded(provider: &ProviderStatus, all: &[&ProviderStatus]) -> bool {
    let failing = all.iter().filter(|one| one.is_failing()).count();
    all.len() <= MAX_OPEN_CARDS || (provider.is_failing() && failing <= MAX_OPEN_CARDS)
}

/// The digest of the refused plan that waits for approval.
fn refused_plan(one: &WorkspaceStatus) -> Option<&str> {
    let last = one.last_pass.as_ref()?;
    last.digest
        .as_deref()
        .filter(|_| last.result == ReconciliationOutcome::Refused)
}

/// What the approval of the refused plan does, as JSON for the dialog: names and values, and `bad` where a user should look twice.
fn describe_plan(one: &WorkspaceStatus) -> String {
    let updates = one
        .providers
        .iter()
        .filter(|provider| provider.state == ProviderState::Update);
    let changes = updates.clone().flat_map(|one| &one.changes);
    let off = changes
        .clone()
        .filter(|change| change.after == Some(PlainValue::Bool(false)));
    let off =
        plural(off.count(), "field", "fields").map(|count| json!(["Switches off", count, "bad"]));
    let commit = one.revision.as_ref().map(|revision| {
        let commit = safe(short_commit(&revision.commit), 12);
        json!([
            "Commit",
            format!("{commit} “{}”", safe(&revision.subject, 60))
        ])
    });
    let facts = [
        Some(json!(["Workspace", safe(one.label(), 60)])),
        commit,
        plural(updates.count(), "provider", "providers").map(|count| json!(["Updates", count])),
        off,
        Some(json!(["Changes", count_changes(changes)])),
    ];
    json!(facts.into_iter().flatten().collect::<Vec<_>>()).to_string()
}

/// The number of providers by state; each links to its section.
fn tiles(one: &WorkspaceStatus, old: bool) -> Markup {
    let tile = |state: ProviderState, at: &str, words: &str| {
        let (icon_name, _) = state_label(state);
        let count = one.count(state);
        let always = matches!(state, ProviderState::InSync | ProviderState::Update);
        html! {
            @if always || count > 0 { li { a class=(if count == 0 { "none" } else { icon_name }) href=[(count > 0).then_some(at)] {
                (icon(icon_name)) b { (count) } " " span { (words) }
            } } }
        }
    };
    html! {
        ul.tiles.old[old] aria-label="Providers by state" {
            (tile(ProviderState::InSync, "#in-sync", "in sync"))
            (tile(ProviderState::Update, "#differs", "out of sync"))
            (tile(ProviderState::Invalid, "#differs", "invalid"))
            (tile(ProviderState::Unreadable, "#differs", "unreadable"))
            (tile(ProviderState::Missing, "#differs", "missing"))
            (tile(ProviderState::Held, "#held", "on hold"))
            (tile(ProviderState::Unmanaged, "#unmanaged", "not managed"))
        }
    }
}

/// Until when nothing is written to the workspace, and why.
fn hold(one: &WorkspaceStatus) -> Markup {
    let Some(hold) = &one.hold else {
        return html! {};
    };
    html! {
        section.panel aria-labelledby="workspace-hold" {
            div.head { h2 #workspace-hold { (icon("wait")) "The workspace is on hold" } }
            p { strong { "Until " (safe(&hold.until, 40)) } ": "
                @if let Some(reason) = &hold.reason { (safe(reason, 300)) } @else { "no reason given" } }
            p.hint { "Nothing is written. Differences are still found and shown." }
            @if let Some(digest) = &hold.digest {
                @let digest = safe(digest, 100);
                p.digest { code { (digest) } (copy(&digest, "the digest")) }
                p.hint {
                    "In an emergency, approve exactly this plan with a reason, which is logged: "
                    code { "POST /api/v1/approve" } " with " code { "{\"digest\": \"…\", \"reason\": \"…\"}" } "."
                }
            }
        }
    }
}

/// What to do about the workspace as a whole.
fn action(one: &WorkspaceStatus, now: Timestamp) -> Markup {
    let again = html! {
        @if let Some(next) = one.next_pass {
            "Next attempt " (until(next, now)) ", or as soon as "
            @if one.repository.is_some() { "a new commit is fetched" } @else { "a file changes" }
            " or you press Reconcile."
        }
    };
    let alert = |title: &str, inner: Markup| {
        html! { section.alert aria-labelledby="action" { h2 #action { (icon("bad")) (title) } (inner) } }
    };
    if !one.alive {
        return alert(
            "What to do",
            html! {
                p { "Restart the daemon; its log shows the last step. The last known state follows." }
            },
        );
    }
    let Some(pass) = &one.last_pass else {
        return html! {};
    };
    match (pass.result, &pass.digest) {
        (ReconciliationOutcome::Failed, _) => alert(
            "What to do",
            html! {
                p { "Nothing was changed. Fix the problem above. " (again) }
                @if one.summary.is_some() { p { "The last known state follows." } }
            },
        ),
        (ReconciliationOutcome::Refused, Some(digest)) => alert(
            "What to do",
            html! {
                p {
                    "Nothing was changed. Review the differences below. If you want them, approve exactly this plan; if "
                    "not, fix the files. Any other plan has another digest and needs its own approval."
                }
                p.digest { code { (safe(digest, 100)) } (copy(&safe(digest, 100), "the digest")) }
                p.actions {
                    button.button.strong type="button" data-approve=(safe(digest, 100)) data-plan=(describe_plan(one)) hidden {
                        "Approve this plan"
                    }
                }
            },
        ),
        (ReconciliationOutcome::Refused, None) if !one.violations.is_empty() => alert(
            "What to do",
            html! { p { "Nothing was changed. Change the files so that the policies below allow them. " (again) } },
        ),
        (ReconciliationOutcome::Refused, None) => alert(
            "What to do",
            html! { p { "Nothing was changed. " (again) } },
        ),
        _ if one.refused_commit().is_none() && one.lasting_fetch_failure(now).is_some() => alert(
            "What to do",
            html! {
                p {
                    "New commits do not reach Calry. Fix the problem above. "
                    @if let Some(next) = one.repository.as_ref().and_then(|it| it.next_fetch) {
                        "Next attempt " (until(next, now)) "."
                    }
                }
                p {
                    "The last commit stays in force, and drift is still "
                    @match one.mode { Mode::Enforce => "undone.", Mode::Observe => "reported." }
                }
            },
        ),
        _ => html! {},
    }
}

fn problems(one: &WorkspaceStatus) -> Markup {
    let mut list: Vec<&DiagnosticItem> = one.diagnostics.iter().collect();
    // Errors first, each in its order.
    list.sort_by_key(|problem| problem.severity == Severity::Warning);
    let of = |level| {
        list.iter()
            .filter(|problem| problem.severity == level)
            .count()
    };
    let counts = [
        plural(of(Severity::Error), "error", "errors"),
        plural(of(Severity::Warning), "warning", "warnings"),
    ];
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if list.is_empty() {
        return html! {};
    }
    html! {
        section.panel aria-labelledby="problems" {
            div.head { h2 #problems { "Problems in the files" } span.count { (counts) } }
            @if of(Severity::Error) > 0 {
                p.hint {
                    "An error in a file suspends only its own provider. A fixed file is read at once."
                }
            }
            @let directory = one.directory.trim_end_matches('/');
            ul.problems { @for fault in list.iter().take(PROBLEMS) { (problem(fault, directory)) } }
            @if list.len() > PROBLEMS {
                p.more { "and " (list.len() - PROBLEMS) " more: " code { "calry-gitops validate" } " lists them all " (copy("calry-gitops validate", "the command")) }
            }
        }
    }
}

/// What the operator's policies deny, or warn of.
fn violations(one: &WorkspaceStatus) -> Markup {
    let mut list: Vec<&Violation> = one.violations.iter().collect();
    // Denials first, each in its order.
    list.sort_by_key(|violation| violation.action == PolicyAction::Warn);
    let denied = list
        .iter()
        .filter(|violation| violation.action == PolicyAction::Deny);
    let denied = denied.count();
    let counts = [
        plural(denied, "denial", "denials"),
        plural(list.len() - denied, "warning", "warnings"),
    ];
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if list.is_empty() {
        return html! {};
    }
    html! {
        section.panel aria-labelledby="policies" {
            div.head { h2 #policies { "Policies" } span.count { (counts) } }
            ul.problems { @for violation in list.iter().take(PROBLEMS) {
                @let denies = violation.action == PolicyAction::Deny;
                li.problem {
                    p {
                        span.badge.bad[denies].differs[!denies] {
                            @if denies { (icon("bad")) "denied" } @else { (icon("differs")) "warning" }
                        }
                        " " strong { (safe(&violation.message, ERROR)) }
                    }
                    p.place {
                        @if let Some(provider) = &violation.provider { (safe(provider, 80)) " " }
                        @if let Some(path) = &violation.path { code { (safe(path, 120)) } " " }
                        "· policy " code { (safe(&violation.policy, 80)) }
                        @if denies && violation.lifted_by_approval { " · an approval of the plan lifts it" }
                    }
                }
            } }
            @if list.len() > PROBLEMS { p.more { "and " (list.len() - PROBLEMS) " more" } }
        }
    }
}

/// A provider that needs attention.
fn card(
    provider: &ProviderStatus,
    one: &WorkspaceStatus,
    lines: usize,
    unfolded: bool,
    now: Timestamp,
) -> Markup {
    let failing = provider
        .outcome
        .filter(|_| provider.state == ProviderState::Update);
    let (shape, state) = match failing {
        Some(UpdateOutcome::Failed) => ("bad", "update failed"),
        Some(UpdateOutcome::NotConverged) => ("bad", "not converged"),
        Some(UpdateOutcome::Skipped) => ("differs", "waiting"),
        _ => state_label(provider.state),
    };
    let unconverged = &provider.not_converged;
    let differences = plural(
        unconverged.len(),
        "field kept by Calry",
        "fields kept by Calry",
    )
    .unwrap_or_else(|| count_changes(&provider.changes));
    html! {
        details class={ "card " (shape) } open[unfolded] data-k={ "c-" (label(provider)) } {
            summary {
                span.name { (label(provider)) }
                span class={ "state " (shape) } { (icon(shape)) span { (state) } }
                @if let Some(by) = provider.cause { (cause(by)) }
                span.aside {
                    @if !differences.is_empty() { span { (stress_off(&differences)) } }
                    (ago(provider.since, now))
                }
            }
            div.inside {
                @if let Some(hold) = &provider.hold {
                    p { strong { "Until " (safe(&hold.until, 40)) } ": "
                        @if let Some(reason) = &hold.reason { (safe(reason, 300)) } @else { "no reason given" } }
                }
                @if let Some(consequence) = &provider.consequence { p { strong { (capitalised(&safe(consequence, ERROR))) } "." } }
                @if let Some(error) = &provider.error { p.error { (sentence(&capitalised(&safe(error, ERROR)))) } }
                // Not the whole update: Calry took the rest of it.
                @if !unconverged.is_empty() { (mismatch_table(unconverged, lines)) }
                @else if !provider.changes.is_empty() { (diff(&provider.changes, lines, 0)) }
                @if let Some(times) = provider.undone {
                    p.error { "Another writer undid each of the last " (times) " updates. Is a second calry-gitops running?" }
                }
                p.hint { (advice(provider, one, failing)) @if let Some(at) = provider.retry_at {
                    " Next attempt " (until(at, now)) ", or as soon as its file changes."
                } }
                @if let Some(file) = &provider.file {
                    p.place {
                        @match file_url(one, file) {
                            Some(url) => a.out href=(url) rel="noreferrer" { (path(one, file)) },
                            None => (path(one, file)),
                        }
                        @if let Some(last) = &provider.last_update {
                            " · last updated " (ago(last.time, now)) (at(one, last.revision.as_deref()))
                        }
                    }
                }
            }
        }
    }
}

/// What to do about a provider.
fn advice(
    provider: &ProviderStatus,
    one: &WorkspaceStatus,
    failing: Option<UpdateOutcome>,
) -> &'static str {
    let refused = one
        .last_pass
        .as_ref()
        .is_some_and(|pass| pass.result == ReconciliationOutcome::Refused);
    match (provider.state, failing) {
        (ProviderState::Update, Some(UpdateOutcome::NotConverged)) => {
            "Put the values that Calry kept into the file, or ask Calry why."
        }
        (ProviderState::Update, Some(_)) => "",
        (ProviderState::Update, None) if one.mode == Mode::Observe => match provider.cause {
            Some(Cause::Drift) => {
                "It was changed in Calry. The daemon only observes: undo the change in Calry, or adopt it into the file."
            }
            _ => "The daemon only observes: nothing is written.",
        },
        (ProviderState::Update, None) if refused => "It is part of the refused plan.",
        (ProviderState::Update, None) if one.standby().is_some() => {
            "The leader updates it; this replica is a standby."
        }
        (ProviderState::Update, None) => "The next successful reconciliation updates it.",
        (ProviderState::Held, _) if provider.changes.is_empty() => "No differences.",
        (ProviderState::Held, _) => "These changes are made when the hold ends.",
        (ProviderState::Invalid, _) => "The provider is not changed until the file is fixed.",
        (ProviderState::Unreadable, _) => {
            "The provider is neither compared nor updated until Calry's answer can be read."
        }
        (ProviderState::Missing, _) => "Ask Calry to add it, or remove the file.",
        (ProviderState::InSync | ProviderState::Unmanaged, _) => "",
    }
}

fn rows(list: &[&ProviderStatus], one: &WorkspaceStatus, now: Timestamp) -> Markup {
    html! {
        details.plain open[list.len() <= MAX_OPEN_ROWS] data-k="in-sync" {
            summary { "Providers" }
            table.rows.short data-filtered {
                thead {
                    tr {
                        th scope="col" { "Provider" }
                        th scope="col" { "In sync since" }
                        th.wide scope="col" { "Last update" }
                    }
                }
                tbody {
                    @for provider in list {
                        tr {
                            th scope="row" { (label(provider)) }
                            td { (ago(provider.since, now)) }
                            td.wide {
                                @if let Some(last) = &provider.last_update {
                                    (ago(last.time, now)) (at(one, last.revision.as_deref()))
                                    @if last.cause == Cause::Drift { ", drift undone" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn facts(one: &WorkspaceStatus, view: &View<'_>) -> Markup {
    let now = view.now;
    let seconds =
        |seconds| human_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    html! {
        section.panel aria-labelledby="facts" {
            div.head { h2 #facts { "Daemon" } }
            dl.facts {
                @if let Some(revision) = &one.revision {
                    dt { "Revision" }
                    dd {
                        (commit(one, short_commit(&revision.commit)))
                        @if revision.dirty { " " span.badge.differs { (icon("differs")) "not committed" } }
                        span.subject { (safe(&revision.subject, 120)) }
                        small { (safe(&revision.author, 60))
                            @if let Ok(time) = revision.time.parse::<Timestamp>() { ", " (ago(time, now)) } }
                    }
                } @else if one.summary.is_some() {
                    dt { "Revision" } dd { "The definitions are not in a git checkout" }
                }
                @if let Some(repository) = &one.repository { (repository_facts(repository, one, now)) }
                @if let Some(trust) = &one.trust {
                    dt { "Signature" }
                    dd {
                        @if trust.trusted { "Trusted" }
                        @else {
                            span.badge.invalid { (icon("invalid")) "refused" }
                            @if let Some(commit) = &trust.commit { " " code { (safe(short_commit(commit), 12)) } }
                            small {
                                (safe(trust.reason.as_deref().unwrap_or_default(), 300))
                                @if let Some(commits) = trust.behind.and_then(|behind| plural(behind as usize, "commit", "commits")) {
                                    "; the revision in force is " (commits) " behind"
                                }
                            }
                        }
                    }
                }
                @if let Some(LeadershipStatus { lease, state, holder }) = &one.leadership {
                    dt { "Leader" }
                    dd {
                        @if *state == ReplicaRole::Leader { "This replica" }
                        @else if let Some(holder) = holder { code { (safe(holder, 128)) } }
                        @else { "unknown" }
                        small {
                            @if *state == ReplicaRole::Standby { "this replica is a standby; " }
                            "Lease " (safe(lease, 128))
                        }
                    }
                }
                @if let Some(key) = &one.api_key { (key_facts(key, one, now)) }
                @if !one.catalogue.is_empty() {
                    dt { "Catalogue" }
                    dd {
                        @for notice in one.catalogue.iter().rev().take(NOTICES) {
                            small { (capitalised(&safe(&notice.sentence(), ERROR))) ", " (ago(notice.time, now)) }
                        }
                    }
                }
                @if let Some(pass) = &one.last_pass {
                    dt { "Last reconciliation" }
                    dd { (outcome_badge(pass.result)) " " (ago(pass.began, now))
                        small {
                            "number " (pass.number) " (" (pass.trigger.as_str()) "), took "
                            (seconds(pass.duration_seconds))
                        }
                    }
                }
                dt { "Next reconciliation" }
                dd {
                    @match (one.pass, one.next_pass) {
                        (Some(pass), _) => {
                            span.badge.wait { (icon("wait")) "running" } " started " (ago(pass.began, now))
                            small { "number " (pass.number) " (" (pass.trigger.as_str()) ")" }
                        }
                        (None, Some(next)) => {
                            strong { (until(next, now)) }
                            small {
                                "every " (seconds(one.interval_seconds)) ", earlier when "
                                @if one.repository.is_some() { "a commit is fetched" } @else { "files change" }
                            }
                        },
                        (None, None) => "none planned",
                    }
                }
                dt { "Mode" }
                dd {
                    @match one.mode {
                        Mode::Enforce => "enforces: drift is undone",
                        Mode::Observe => "observes: drift is reported, nothing is written",
                    }
                }
                dt { "Definitions" } dd { code { (safe(&one.directory, 120)) } }
                dt { "Calry" } dd { code { (safe(&one.api, 120)) } }
            }
        }
    }
}

/// When the API key ends, and how urgent a new one is.
fn key_stage(one: &WorkspaceStatus, now: Timestamp) -> Option<(KeyExpiry, KeyStage)> {
    let expiry = one.api_key.as_ref()?.expiry()?;
    Some((expiry, expiry.stage(now.to_zoned(TimeZone::UTC).date())))
}

fn key_facts(key: &ApiKeyStatus, one: &WorkspaceStatus, now: Timestamp) -> Markup {
    let stage = key_stage(one, now);
    html! {
        dt { "API key" }
        dd {
            @match stage {
                Some((expiry, stage)) => {
                    @if stage == KeyStage::Over { span.badge.bad { (icon("bad")) "expired" } " " }
                    (capitalised(&expiry.describe(now.to_zoned(TimeZone::UTC).date())))
                    @if stage != KeyStage::Fresh {
                        small { "Create a new one in the Calry console, and replace the key and its day." }
                    }
                }
                None => {
                    "Its last day is unknown"
                    @if let Some(error) = &key.error { small { (sentence(&capitalised(&safe(error, ERROR)))) } }
                }
            }
        }
    }
}

fn repository_facts(
    repository: &RepositoryStatus,
    one: &WorkspaceStatus,
    now: Timestamp,
) -> Markup {
    html! {
        dt { "Repository" }
        dd {
            code { (safe(&repository.short_reference(), 80)) } " of " code { (safe(&repository.url, 120)) }
            small {
                @if let (Some(id), Some(time)) = (&repository.commit, repository.commit_fetched) {
                    (commit(one, short_commit(id))) " fetched " (ago(time, now))
                } @else if repository.failure.is_none() { "the first fetch is running" }
                @else { "no commit was fetched yet" }
            }
        }
        dt { "Last fetch" }
        dd {
            @match (&repository.failure, repository.last_success) {
                (Some(failure), last) => {
                    span.badge.bad { (icon("bad")) "failed" } " since " (ago(failure.since, now))
                    small {
                        (sentence(&capitalised(&safe(&failure.message, ERROR))))
                        @if let Some(last) = last { " Last success " (ago(last, now)) "." }
                    }
                },
                (None, Some(last)) => { span.badge.good { (icon("good")) "ok" } " " (ago(last, now)) },
                (None, None) => { span.badge.wait { (icon("wait")) "running" } },
            }
            @if let Some(next) = repository.next_fetch {
                small { "next " (until(next, now)) ", at once after a push hook" }
            }
        }
    }
}

fn recent(one: &WorkspaceStatus, now: Timestamp) -> Markup {
    let all = &one.history.changes;
    // The changes of one reconciliation have one time.
    let groups = all.chunk_by(|one, next| one.time == next.time).take(GROUPS);
    let mut left = RECENT;
    let groups: Vec<(&[ChangeRecord], usize)> = groups
        .map(|group| {
            let shown = group.len().min(left);
            left -= shown;
            (group, shown)
        })
        .filter(|(_, shown)| *shown > 0)
        .collect();
    let earlier = all.len() - groups.iter().map(|(group, _)| group.len()).sum::<usize>();
    html! {
        section.panel aria-labelledby="recent" {
            div.head { h2 #recent { "Activity" } }
            @if all.is_empty() { p.hint { "No changes and no drift since the daemon started." } }
            ol.events {
                @for (group, shown) in groups {
                    @match group {
                        [record] => (event(record, one, now)),
                        _ => (group_of_events(group, shown, one, now)),
                    }
                }
            }
            @if earlier > 0 {
                p.more { (earlier) " earlier in " a href="api/v1/status" { "the JSON" } }
            }
        }
    }
}

/// The number of the reconciliation that made a change, if it is remembered.
fn reconciliation(record: &ChangeRecord, one: &WorkspaceStatus) -> Option<u64> {
    let pass = one
        .last_pass
        .iter()
        .chain(&one.history.passes)
        .find(|pass| pass.began <= record.time)?;
    // The change is recorded when the reconciliation ends.
    let age = elapsed(pass.began, record.time).as_secs_f64();
    (age <= pass.duration_seconds + 1.0).then_some(pass.number)
}

/// The changes of one reconciliation: `Reconciliation 41: 17 updated`.
fn group_of_events(
    group: &[ChangeRecord],
    shown: usize,
    one: &WorkspaceStatus,
    now: Timestamp,
) -> Markup {
    let Some(first) = group.first() else {
        return html! {};
    };
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for record in group {
        let (_, done) = outcome(record);
        match counts.iter_mut().find(|(known, _)| *known == done) {
            Some((_, count)) => *count += 1,
            None => counts.push((done, 1)),
        }
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(done, count)| format!("{count} {}", in_plural(done)))
        .collect();
    let shapes: Vec<&str> = group.iter().map(|record| outcome(record).0).collect();
    let shape = ["bad", "differs"]
        .into_iter()
        .find(|worst| shapes.contains(worst))
        .unwrap_or("good");
    html! {
        li class=(shape) data-k={ "g-" (first.time) } {
            (icon(shape))
            div {
                details.group data-k={ "h-" (first.time) } {
                    summary {
                        strong {
                            @match reconciliation(first, one) {
                                Some(number) => { "Reconciliation " (number) },
                                None => "One reconciliation",
                            }
                        }
                        ": " (counts.join(", "))
                    }
                    ol.events {
                        @for record in group.iter().take(shown) { (event(record, one, now)) }
                    }
                    @if group.len() > shown {
                        p.more { "and " (group.len() - shown) " more in " a href="api/v1/status" { "the JSON" } }
                    }
                }
                p.meta { (ago(first.time, now)) (at(one, first.revision.as_deref())) }
            }
        }
    }
}

/// The words of an outcome after a number: `3 drifted`.
fn in_plural(done: &str) -> &str {
    match done {
        "has drifted" => "drifted",
        "was not updated" => "not updated",
        done => done,
    }
}

/// The icon and the words for what happened.
const fn outcome(record: &ChangeRecord) -> (&'static str, &'static str) {
    match (record.outcome, record.cause) {
        (None, Cause::Change) => ("differs", "would be updated"),
        (None, Cause::Drift) => ("differs", "has drifted"),
        (Some(UpdateOutcome::Applied | UpdateOutcome::Unchanged), Cause::Change) => {
            ("good", "updated")
        }
        (Some(UpdateOutcome::Applied | UpdateOutcome::Unchanged), Cause::Drift) => {
            ("good", "drifted, drift undone")
        }
        (Some(UpdateOutcome::NotConverged), Cause::Change) => ("bad", "did not converge"),
        (Some(UpdateOutcome::NotConverged), Cause::Drift) => ("bad", "drifted, did not converge"),
        (Some(UpdateOutcome::Failed | UpdateOutcome::Skipped), Cause::Change) => {
            ("bad", "was not updated")
        }
        (Some(UpdateOutcome::Failed | UpdateOutcome::Skipped), Cause::Drift) => {
            ("bad", "drifted, drift not undone")
        }
    }
}

fn event(record: &ChangeRecord, one: &WorkspaceStatus, now: Timestamp) -> Markup {
    let (shape, done) = outcome(record);
    let mut counts = count_changes(&record.changes);
    if record.more > 0 {
        counts = format!("{counts} and {} more", record.more);
    }
    let key = format!("{}-{}", record.time, safe(&record.provider, 60));
    html! {
        li class=(shape) data-k={ "e-" (key) } {
            (icon(shape))
            div {
                p {
                    strong { (safe(&record.provider, 60)) } " " (done)
                    @if record.times > 1 { ", " (record.times) " times" }
                }
                p.meta { (ago(record.time, now)) " " (cause(record.cause)) (at(one, record.revision.as_deref())) }
                @if let Some(error) = &record.error { p.error { (sentence(&clauses(error, 240))) } }
                @if !record.changes.is_empty() {
                    details.plain data-k={ "d-" (key) } {
                        summary { (counts) span.unseen { " of " (safe(&record.provider, 60)) } }
                        (diff(&record.changes, RECENT_LINES, record.more))
                    }
                }
            }
        }
    }
}

fn passes(one: &WorkspaceStatus, now: Timestamp) -> Markup {
    let all = &one.history.passes;
    html! {
        section.panel aria-labelledby="passes" {
            div.head { h2 #passes { "Recent reconciliations" } }
            @if all.is_empty() {
                p.hint { "None changed or found anything yet." }
            } @else {
                p.hint { "Quiet ones are hidden, repeated failures are grouped." }
                table.rows.passes {
                    thead { tr { th scope="col" { "Number" } th scope="col" { "Result" } th scope="col" { "When" } } }
                    tbody { @for pass in all.iter().take(PASSES) { (row(pass, one, now)) } }
                }
            }
        }
    }
}

fn row(pass: &ReconciliationRecord, one: &WorkspaceStatus, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" { (pass.number) small { (pass.trigger.as_str()) } }
            td {
                (outcome_badge(pass.result)) @if pass.times > 1 { " " (pass.times) " times in a row" }
                @if let Some(error) = &pass.error { small { (sentence(&clauses(error, 160))) } }
            }
            td {
                (ago(pass.began, now))
                @if let Some(revision) = &pass.revision { small { (commit(one, revision)) } }
            }
        }
    }
}

fn outcome_badge(result: ReconciliationOutcome) -> Markup {
    let shape = match result {
        ReconciliationOutcome::Ok | ReconciliationOutcome::Applied => "good",
        ReconciliationOutcome::Incomplete => "differs",
        ReconciliationOutcome::Refused | ReconciliationOutcome::Failed => "bad",
    };
    html! { span class={ "badge " (shape) } { (icon(shape)) (result.as_str()) } }
}

const fn state_label(state: ProviderState) -> (&'static str, &'static str) {
    match state {
        ProviderState::InSync => ("good", "in sync"),
        ProviderState::Update => ("differs", "out of sync"),
        ProviderState::Held => ("held", "on hold"),
        ProviderState::Invalid => ("bad", "invalid"),
        ProviderState::Unreadable => ("bad", "unreadable"),
        ProviderState::Missing => ("missing", "missing"),
        ProviderState::Unmanaged => ("unmanaged", "not managed"),
    }
}

/// The provider's name, or its file's if the name is unknown.
fn label(provider: &ProviderStatus) -> String {
    safe(
        provider
            .provider
            .as_deref()
            .or(provider.file.as_deref())
            .unwrap_or("?"),
        80,
    )
}

fn path(one: &WorkspaceStatus, file: &str) -> Markup {
    html! { code { (safe(one.directory.trim_end_matches('/'), 80)) "/" (safe(file, 120)) } }
}

fn file_url(one: &WorkspaceStatus, file: &str) -> Option<String> {
    let revision = one.revision.as_ref()?;
    one.links.as_ref()?.file(&revision.commit, file)
}

fn at(one: &WorkspaceStatus, revision: Option<&str>) -> Markup {
    html! { @if let Some(revision) = revision { " at " (commit(one, revision)) } }
}

/// The id of a commit, with a link if the repository's address is known.
fn commit(one: &WorkspaceStatus, revision: &str) -> Markup {
    let short = safe(revision, 20);
    let url = one.links.as_ref().and_then(|links| links.commit(revision));
    html! {
        @match url {
            Some(url) => a.out href=(url) rel="noreferrer" { code { (short) } },
            None => code { (short) },
        }
    }
}
