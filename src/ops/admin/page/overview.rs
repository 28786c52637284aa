//! Draws the list of the daemon's workspaces, failing ones first.

use maud::{Markup, html};

use super::parts::{ago, clauses, filter, icon, safe};
use super::{View, word, workspace};
use crate::model::short_commit;
use crate::report::health::{Health, HealthLevel, health};
use crate::report::links::page_url;
use crate::report::status::{Mode, ProviderState, WorkspaceStatus};
use crate::report::words::counted;

/// The title of the page, and the worst level of all workspaces.
pub(super) fn title(view: &View<'_>) -> (String, HealthLevel) {
    let levels: Vec<HealthLevel> = view
        .workspaces
        .iter()
        .map(|one| health(one, view.now).level)
        .collect();
    let count = |level| levels.iter().filter(|one| **one == level).count();
    let (failing, differing) = (count(HealthLevel::Failing), count(HealthLevel::OutOfSync));
    let title = if failing > 0 {
        counted(failing, "workspace is failing", "workspaces are failing")
    } else if differing > 0 {
        counted(
            differing,
            "workspace is out of sync",
            "workspaces are out of sync",
        )
    } else if levels.is_empty() {
        "No workspaces".to_owned()
    } else if count(HealthLevel::InSync) == 0 {
        "The first reconciliations are running".to_owned()
    } else {
        "In sync".to_owned()
    };
    let worst = levels.into_iter().min();
    (title, worst.unwrap_or(HealthLevel::Waiting))
}

pub(super) fn content(view: &View<'_>) -> Markup {
    let (title, level) = title(view);
    let mut all: Vec<(Health, &WorkspaceStatus)> = view
        .workspaces
        .iter()
        .map(|one| (health(one, view.now), &**one))
        .collect();
    all.sort_by(|(left, a), (right, b)| (left.level, a.label()).cmp(&(right.level, b.label())));
    let providers: usize = all.iter().map(|(_, one)| one.providers.len()).sum();
    html! {
        section class={ "verdict " (word(level)) } {
            (icon(word(level)))
            div {
                h1 { (title) }
                p { (all.len()) " workspaces, " (providers) " providers" }
            }
        }
        section.panel aria-labelledby="workspaces" {
            div.head {
                h2 #workspaces { "Workspaces" }
                (filter("Filter workspaces"))
            }
            table.rows data-filtered {
                thead {
                    tr {
                        th scope="col" { "Workspace" }
                        th scope="col" { "State" }
                        th.wide.number scope="col" { "Out of sync" }
                        th.wide.number scope="col" { "Failed" }
                        th.wide.number scope="col" { "On hold" }
                        th.wide scope="col" { "Revision" }
                        th.wide scope="col" { "Last reconciliation" }
                    }
                }
                tbody {
                    @for (health, one) in all { (row(&health, one, view)) }
                }
            }
        }
    }
}

fn row(health: &Health, one: &WorkspaceStatus, view: &View<'_>) -> Markup {
    let level = word(health.level);
    let in_sync = one.count(ProviderState::InSync);
    let failing = one
        .providers
        .iter()
        .filter(|provider| provider.is_failing());
    let failed = failing.count();
    html! {
        tr data-k={ "w-" (safe(one.label(), 80)) } {
            th scope="row" {
                a href=(page_url(".", Some(one.label()))) { (safe(one.label(), 80)) }
                @if let Some(known) = &one.workspace { small { (safe(&known.name, 60)) } }
                @match one.mode {
                    Mode::Observe => span.badge.observe { (icon("eye")) "observe" },
                    Mode::Enforce => span.badge { (icon("again")) "enforce" },
                }
            }
            td class=(level) {
                span.state { (icon(level)) span { (workspace::headline(health)) } }
                small {
                    @if let Some(detail) = &health.detail { (clauses(detail, 240)) } @else { (in_sync) " in sync" }
                }
            }
            @for count in [one.count(ProviderState::Update), failed, one.count(ProviderState::Held)] {
                td.wide.number.some[count > 0] { (count) }
            }
            td.wide {
                @if let Some(revision) = &one.revision {
                    code { (safe(short_commit(&revision.commit), 12)) } small { (safe(&revision.subject, 60)) }
                }
            }
            td.wide { @if let Some(pass) = &one.last_pass { (ago(pass.began, view.now)) } }
        }
    }
}
