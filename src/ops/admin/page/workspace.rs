//! One workspace: the verdict first, then what needs somebody, then what is well, then what happened.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, html};

use super::parts::{ago, capitalised, cause, diff, filter, icon, kept, problem, safe, until};
use super::{View, word};
use crate::model::{Severity, short_commit, spoken};
use crate::plan::Cause;
use crate::report::plan::Problem;
use crate::report::status::{
    Ended, Lead, Leadership, Mode, Outcome, Pass, ProviderStatus, Record, State, WorkspaceStatus,
};
use crate::report::verdict::{Standing, Tone, standing};
use crate::report::words::counted;

/// The most differences on a page, shared by the providers that differ; so a page stays small enough to be sent often.
const LINES: usize = 140;
/// How much of the history is shown. All of it is in the JSON.
const RECENT: usize = 10;
/// How many passes are shown.
const PASSES: usize = 8;
/// How many differences of a change in the history are shown.
const RECENT_LINES: usize = 5;
/// How many problems of files are shown.
const PROBLEMS: usize = 12;
/// A list of so many is shown unfolded.
const UNFOLDED: usize = 40;
/// So many providers are looked through by the eye.
const SEARCHED: usize = 10;
/// The most characters of an error.
const ERROR: usize = 500;

/// How good it is, and whether there is a refusal or the like.
pub(super) fn tone(one: &WorkspaceStatus, now: Timestamp) -> Tone {
    standing(one, now).tone
}

/// The title of the tab.
pub(super) fn title(one: &WorkspaceStatus, now: Timestamp) -> String {
    format!("{} · {}", headline(one, now), safe(one.label(), 60))
}

/// The verdict in a few words.
pub(super) fn headline(one: &WorkspaceStatus, now: Timestamp) -> String {
    let told = standing(one, now);
    // A duration in it would make it news every second.
    if told.tone == Tone::Waiting {
        "The first pass is under way".to_owned()
    } else {
        capitalised(&told.headline)
    }
}

pub(super) fn content(one: &WorkspaceStatus, view: &View<'_>) -> Markup {
    let now = view.now;
    let of = |state| {
        one.providers
            .iter()
            .filter(move |provider| provider.state == state)
    };
    let trouble: Vec<&ProviderStatus> = one
        .providers
        .iter()
        .filter(|provider| {
            matches!(
                provider.state,
                State::Update | State::Invalid | State::Unreadable | State::Missing
            )
        })
        .collect();
    let held: Vec<&ProviderStatus> = of(State::Held).collect();
    let in_sync: Vec<&ProviderStatus> = of(State::InSync).collect();
    let unmanaged: Vec<&ProviderStatus> = of(State::Unmanaged).collect();
    let each = (LINES / trouble.len().max(1)).clamp(4, 60);
    html! {
        @if view.workspaces.len() > 1 {
            nav aria-label="Breadcrumb" { p.crumbs { a href="./" { "All workspaces" } " / " (safe(one.label(), 80)) } }
        }
        (verdict(one, view))
        @if one.summary.is_some() { (tiles(one)) }
        div.columns {
            div.first {
                (action(one, now))
                (problems(one))
                @if one.providers.len() > SEARCHED { (filter("Filter providers")) }
                @if !trouble.is_empty() {
                    section.panel aria-labelledby="differs" {
                        div.head { h2 #differs { "Out of sync" } span.count { (trouble.len()) } }
                        div data-filtered { @for provider in &trouble { (card(provider, one, each, now)) } }
                    }
                }
                @if !held.is_empty() {
                    section.panel aria-labelledby="held" {
                        div.head { h2 #held { "On hold" } span.count { (held.len()) } }
                        p.hint { "Left alone because their files say so, to the end of that day (UTC)." }
                        div data-filtered { @for provider in &held { (card(provider, one, each, now)) } }
                    }
                }
                section.panel aria-labelledby="in-sync" {
                    div.head {
                        h2 #in-sync { "In sync" }
                        span.count { (in_sync.len()) }
                    }
                    @if in_sync.is_empty() {
                        p.hint {
                            @if one.summary.is_none() { "Nothing was compared yet." }
                            @else { "No provider that git manages is in sync." }
                        }
                    } @else { (rows(&in_sync, now)) }
                }
                @if !unmanaged.is_empty() {
                    section.panel aria-labelledby="unmanaged" {
                        div.head { h2 #unmanaged { "Not managed" } span.count { (unmanaged.len()) } }
                        p.hint { "There is no file for these, so they are left alone." }
                        details.plain open[unmanaged.len() <= UNFOLDED] data-k="unmanaged" {
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
    let Standing { tone, detail, .. } = standing(one, view.now);
    let count = |state| {
        one.providers
            .iter()
            .filter(|provider| provider.state == state)
            .count()
    };
    let managed = one.providers.len() - count(State::Unmanaged);
    html! {
        section class={ "verdict " (word(tone)) } {
            (icon(word(tone)))
            div {
                p.eyebrow {
                    @match &one.workspace {
                        Some(known) => { strong { (safe(&known.slug, 80)) } " " (safe(&known.name, 60)) },
                        None => strong { (safe(&one.directory, 80)) "/" },
                    }
                    @if one.mode == Mode::Observe {
                        span.badge.observe { (icon("eye")) "observes, writes nothing" }
                    }
                    @if one.led_elsewhere().is_some() {
                        span.badge.observe { (icon("eye")) "stands by, writes nothing" }
                    }
                }
                h1 { (headline(one, view.now)) }
                @if let Some(detail) = detail {
                    p { (capitalised(&safe(&short_digest(&detail, one), ERROR))) }
                } @else if one.summary.is_some() {
                    p {
                        @if managed == 0 { "Git manages no provider yet" }
                        @else { (count(State::InSync)) " of " (managed) " managed providers are in sync" }
                        @if let Some(revision) = &one.revision {
                            " with " code { (safe(short_commit(&revision.commit), 12)) }
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

/// A refusal without most of its digest, which stands below it.
fn short_digest(detail: &str, one: &WorkspaceStatus) -> String {
    match one
        .last_pass
        .as_ref()
        .and_then(|pass| pass.digest.as_deref())
    {
        Some(digest) => detail.replace(digest, &safe(digest, 16)),
        None => detail.to_owned(),
    }
}

/// The states, counted; each leads to where it is told.
fn tiles(one: &WorkspaceStatus) -> Markup {
    let count = |state| {
        one.providers
            .iter()
            .filter(|provider| provider.state == state)
            .count()
    };
    let tile = |state: State, at: &str, words: &str| {
        let (icon_name, _) = told(state);
        let count = count(state);
        html! {
            li { a class=(if count == 0 { "none" } else { icon_name }) href=[(count > 0).then_some(at)] {
                (icon(icon_name)) b { (count) } " " span { (words) }
            } }
        }
    };
    html! {
        ul.tiles aria-label="Providers by state" {
            (tile(State::InSync, "#in-sync", "in sync"))
            (tile(State::Update, "#differs", "differ"))
            (tile(State::Invalid, "#differs", "invalid"))
            (tile(State::Unreadable, "#differs", "unreadable"))
            (tile(State::Missing, "#differs", "missing"))
            (tile(State::Held, "#held", "on hold"))
            (tile(State::Unmanaged, "#unmanaged", "not managed"))
        }
    }
}

/// What somebody must do about the workspace as a whole.
fn action(one: &WorkspaceStatus, now: Timestamp) -> Markup {
    let again = html! {
        @if let Some(next) = one.next_pass {
            "It is tried again " (until(next, now)) ", and at once when a file changes or somebody asks."
        }
    };
    let alert = |title: &str, inner: Markup| {
        html! { section.alert aria-labelledby="action" { h2 #action { (icon("bad")) (title) } (inner) } }
    };
    if !one.alive {
        return alert(
            "What to do",
            html! {
                p { "Restart the daemon; its log tells the last step. What follows is what it knew before." }
            },
        );
    }
    let Some(pass) = &one.last_pass else {
        return html! {};
    };
    match (pass.result, &pass.digest) {
        (Ended::Failed, _) => alert(
            "What to do",
            html! {
                p { "The pass changed nothing. Mend what the sentence above names. " (again) }
                @if one.summary.is_some() { p { "What follows is what was known before." } }
            },
        ),
        (Ended::Refused, Some(digest)) => alert(
            "What to do",
            html! {
                p {
                    "Nothing was changed. Look at what differs below. If that is wanted, approve exactly this plan; if "
                    "not, mend the files. A plan that differs by anything has another digest, and is refused again."
                }
                p.digest { code { (safe(digest, 100)) } }
                p.actions {
                    button.button.strong type="button" data-approve=(safe(digest, 100)) hidden { "Approve this plan" }
                    span { "In a terminal: " code { "calry-gitops apply --approve" } " with this digest" }
                }
            },
        ),
        (Ended::Refused, None) => alert(
            "What to do",
            html! { p { "Nothing was changed. " (again) } },
        ),
        _ => html! {},
    }
}

fn problems(one: &WorkspaceStatus) -> Markup {
    let mut list: Vec<&Problem> = one.diagnostics.iter().collect();
    // Errors first, each in its order.
    list.sort_by_key(|problem| problem.severity == Severity::Warning);
    let of = |level| {
        list.iter()
            .filter(|problem| problem.severity == level)
            .count()
    };
    let counts = [
        counted(of(Severity::Error), "error", "errors"),
        counted(of(Severity::Warning), "warning", "warnings"),
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
                    "A file with an error keeps only its own provider from being updated. Mended, it is read at once."
                }
            }
            @let directory = one.directory.trim_end_matches('/');
            ul.problems { @for fault in list.iter().take(PROBLEMS) { (problem(fault, directory)) } }
            @if list.len() > PROBLEMS {
                p.more { "and " (list.len() - PROBLEMS) " more: " code { "calry-gitops validate" } " tells them all" }
            }
        }
    }
}

/// A provider that is not quiet.
fn card(provider: &ProviderStatus, one: &WorkspaceStatus, lines: usize, now: Timestamp) -> Markup {
    let failing = provider.outcome.filter(|_| provider.state == State::Update);
    let (shape, state) = match failing {
        Some(Outcome::Failed) => ("bad", "update failed"),
        Some(Outcome::NotConverged) => ("bad", "not converged"),
        Some(Outcome::Skipped) => ("differs", "waits"),
        _ => told(provider.state),
    };
    let differences = counted(provider.changes.len(), "difference", "differences");
    let unfolded = lines >= LINES / 20 || provider.is_in_trouble();
    html! {
        details class={ "card " (shape) } open[unfolded] data-k={ "c-" (label(provider)) } {
            summary {
                span.name { (label(provider)) }
                span class={ "state " (shape) } { (icon(shape)) span { (state) } }
                @if let Some(by) = provider.cause { (cause(by)) }
                span.aside {
                    @if let Some(differences) = &differences { span { (differences) } }
                    (ago(provider.since, now))
                }
            }
            div.inside {
                @if let Some(hold) = &provider.hold {
                    p { strong { "Until " (safe(&hold.until, 20)) } ": "
                        @if let Some(reason) = &hold.reason { (safe(reason, 300)) } @else { "no reason is given" } }
                }
                @if let Some(error) = &provider.error { p.error { (capitalised(&safe(error, ERROR))) } }
                @if !provider.not_converged.is_empty() { (kept(&provider.not_converged, lines)) }
                @if !provider.changes.is_empty() { (diff(&provider.changes, lines, 0)) }
                @if let Some(times) = provider.undone {
                    p.error { "Another writer undid each of the last " (times) " updates: is a second calry-gitops running?" }
                }
                p.hint { (advice(provider, one, failing)) @if let Some(at) = provider.retry_at {
                    " It is tried again " (until(at, now)) ", and at once when its file changes."
                } }
                @if let Some(file) = &provider.file {
                    p.place {
                        code { (safe(one.directory.trim_end_matches('/'), 80)) "/" (safe(file, 120)) }
                        @if let Some(last) = &provider.last_update {
                            " · last updated " (ago(last.time, now)) (at(last.revision.as_deref()))
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
    failing: Option<Outcome>,
) -> &'static str {
    let refused = one
        .last_pass
        .as_ref()
        .is_some_and(|pass| pass.result == Ended::Refused);
    match (provider.state, failing) {
        (State::Update, Some(Outcome::NotConverged)) => {
            "Calry took the update and kept other values: have the file say what Calry keeps, or ask Calry why."
        }
        (State::Update, Some(_)) => "",
        (State::Update, None) if one.mode == Mode::Observe => match provider.cause {
            Some(Cause::Drift) => {
                "Somebody changed it in Calry. It is only observed here: undo it there, or take it over into the file."
            }
            _ => "It is only observed here: nothing is written.",
        },
        (State::Update, None) if refused => "It is part of the plan that was refused.",
        (State::Update, None) if one.led_elsewhere().is_some() => {
            "The replica that leads updates it; this one stands by."
        }
        (State::Update, None) => "It is updated by the next pass that goes well.",
        (State::Held, _) if provider.changes.is_empty() => "Nothing differs.",
        (State::Held, _) => "This is what will be updated when the hold is over.",
        (State::Invalid, _) => "Until it can be used, the provider stays as it is.",
        (State::Unreadable, _) => {
            "Until Calry's answer can be read, nothing of it is compared or updated."
        }
        (State::Missing, _) => "Connect it in Calry, or remove the file.",
        (State::InSync | State::Unmanaged, _) => "",
    }
}

fn rows(list: &[&ProviderStatus], now: Timestamp) -> Markup {
    html! {
        details.plain open[list.len() <= UNFOLDED] data-k="in-sync" {
            summary { "Providers that are as git wants them" }
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
                                    (ago(last.time, now)) (at(last.revision.as_deref()))
                                    @if last.cause == Cause::Drift { ", drift put back" }
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
    let seconds = |seconds| spoken(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    html! {
        section.panel aria-labelledby="facts" {
            div.head { h2 #facts { "The daemon" } }
            dl.facts {
                @if let Some(revision) = &one.revision {
                    dt { "Revision" }
                    dd {
                        code { (safe(short_commit(&revision.commit), 12)) }
                        @if revision.dirty { " " span.badge.differs { (icon("differs")) "not committed" } }
                        span.subject { (safe(&revision.subject, 120)) }
                        small { (safe(&revision.author, 60))
                            @if let Ok(time) = revision.time.parse::<Timestamp>() { ", " (ago(time, now)) } }
                    }
                } @else if one.summary.is_some() {
                    dt { "Revision" } dd { "The definitions are not in a git checkout" }
                }
                @if let Some(trust) = &one.trust {
                    dt { "Signature" }
                    dd {
                        @if trust.trusted { "Trusted" }
                        @else {
                            span.badge.invalid { (icon("invalid")) "refused" }
                            @if let Some(commit) = &trust.commit { " " code { (safe(short_commit(commit), 12)) } }
                            small { (safe(trust.reason.as_deref().unwrap_or_default(), 300)) }
                        }
                    }
                }
                @if let Some(Leadership { lease, state, holder }) = &one.leadership {
                    dt { "Leader" }
                    dd {
                        @if *state == Lead::Leader { "This replica" }
                        @else if let Some(holder) = holder { code { (safe(holder, 128)) } }
                        @else { "Nobody, as far as is known" }
                        small {
                            @if *state == Lead::Standby { "this replica stands by; " }
                            "Lease " (safe(lease, 128))
                        }
                    }
                }
                @if let Some(pass) = &one.last_pass {
                    dt { "Last pass" }
                    dd { (ended(pass.result)) " " (ago(pass.began, now))
                        small {
                            "pass " (pass.number) " (" (pass.trigger.as_str()) "), took "
                            (seconds(pass.duration_seconds))
                        }
                    }
                }
                dt { "Next pass" }
                dd {
                    @match (one.pass, one.next_pass) {
                        (Some(pass), _) => {
                            span.badge.wait { (icon("wait")) "under way" } " began " (ago(pass.began, now))
                            small { "pass " (pass.number) " (" (pass.trigger.as_str()) ")" }
                        }
                        (None, Some(next)) => {
                            strong { (until(next, now)) }
                            small { "every " (seconds(one.interval_seconds)) ", earlier when files change" }
                        },
                        (None, None) => "none is planned",
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

fn recent(one: &WorkspaceStatus, now: Timestamp) -> Markup {
    let all = &one.history.changes;
    html! {
        section.panel aria-labelledby="recent" {
            div.head { h2 #recent { "Activity" } }
            @if all.is_empty() { p.hint { "Nothing was changed or found since the daemon started." } }
            ol.events {
                @for record in all.iter().take(RECENT) { (event(record, now)) }
            }
            @if all.len() > RECENT {
                p.more { (all.len() - RECENT) " earlier ones are in " a href="api/v1/status" { "the JSON" } }
            }
        }
    }
}

fn event(record: &Record, now: Timestamp) -> Markup {
    let (shape, done) = match (record.outcome, record.cause) {
        (None, Cause::Change) => ("differs", "would be updated"),
        (None, Cause::Drift) => ("differs", "has drifted"),
        (Some(Outcome::Applied | Outcome::Unchanged), Cause::Change) => ("good", "updated"),
        (Some(Outcome::Applied | Outcome::Unchanged), Cause::Drift) => {
            ("good", "drifted, and was put back")
        }
        (Some(Outcome::NotConverged), Cause::Change) => ("bad", "did not converge"),
        (Some(Outcome::NotConverged), Cause::Drift) => ("bad", "drifted, and did not converge"),
        (Some(Outcome::Failed | Outcome::Skipped), Cause::Change) => ("bad", "was not updated"),
        (Some(Outcome::Failed | Outcome::Skipped), Cause::Drift) => {
            ("bad", "drifted, and was not put back")
        }
    };
    let differences = counted(
        record.changes.len() + record.more,
        "difference",
        "differences",
    );
    html! {
        li class=(shape) data-k={ "e-" (record.time) "-" (safe(&record.provider, 60)) } {
            (icon(shape))
            div {
                p {
                    strong { (safe(&record.provider, 60)) } " " (done)
                    @if record.times > 1 { ", " (record.times) " times" }
                }
                p.meta { (ago(record.time, now)) " " (cause(record.cause)) (at(record.revision.as_deref())) }
                @if let Some(error) = &record.error { p.error { (safe(error, 240)) } }
                @if let Some(differences) = differences {
                    details.plain data-k={ "d-" (record.time) } {
                        summary { (differences) span.unseen { " of " (safe(&record.provider, 60)) } }
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
            div.head { h2 #passes { "Passes" } }
            @if all.is_empty() {
                p.hint { "None did or found anything yet." }
            } @else {
                p.hint { "Those that did or found something; those that fail in a row are one." }
                table.rows.passes {
                    thead { tr { th scope="col" { "Pass" } th scope="col" { "Result" } th scope="col" { "When" } } }
                    tbody { @for pass in all.iter().take(PASSES) { (row(pass, now)) } }
                }
            }
        }
    }
}

fn row(pass: &Pass, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" { (pass.number) small { (pass.trigger.as_str()) } }
            td {
                (ended(pass.result)) @if pass.times > 1 { " " (pass.times) " times in a row" }
                @if let Some(error) = &pass.error { small { (safe(error, 160)) } }
            }
            td {
                (ago(pass.began, now))
                @if let Some(revision) = &pass.revision { small { code { (safe(revision, 20)) } } }
            }
        }
    }
}

/// What came of a pass, as a badge.
fn ended(result: Ended) -> Markup {
    let shape = match result {
        Ended::Ok | Ended::Applied => "good",
        Ended::Incomplete => "differs",
        Ended::Refused | Ended::Failed => "bad",
    };
    html! { span class={ "badge " (shape) } { (icon(shape)) (result.as_str()) } }
}

/// The icon and the words of a state.
const fn told(state: State) -> (&'static str, &'static str) {
    match state {
        State::InSync => ("good", "in sync"),
        State::Update => ("differs", "differs"),
        State::Held => ("held", "on hold"),
        State::Invalid => ("bad", "invalid"),
        State::Unreadable => ("bad", "unreadable"),
        State::Missing => ("missing", "missing"),
        State::Unmanaged => ("unmanaged", "not managed"),
    }
}

/// A provider's name, or its file's, where that does not say.
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

/// A revision behind something.
fn at(revision: Option<&str>) -> Markup {
    html! { @if let Some(revision) = revision { " at " code { (safe(revision, 20)) } } }
}
