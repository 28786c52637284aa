//! Draws the list of the daemon's workspaces, failing ones first.

use maud::{Markup, html};

use super::parts::{ago, filter, icon, safe};
use super::{View, word, workspace};
use crate::model::short_commit;
use crate::report::status::{State, WorkspaceStatus};
use crate::report::verdict::{Standing, Tone, standing};
use crate::report::words::counted;

/// The title of the page, and the worst tone of all workspaces.
pub(super) fn title(view: &View<'_>) -> (String, Tone) {
    let tones: Vec<Tone> = view
        .workspaces
        .iter()
        .map(|one| standing(one, view.now).tone)
        .collect();
    let count = |tone| tones.iter().filter(|one| **one == tone).count();
    let title = if let Some(bad) = counted(
        count(Tone::Bad),
        "workspace is failing",
        "workspaces are failing",
    ) {
        bad
    } else if let Some(differ) = counted(
        count(Tone::Differs),
        "workspace is out of sync",
        "workspaces are out of sync",
    ) {
        differ
    } else if tones.is_empty() {
        "No workspaces".to_owned()
    } else if count(Tone::Good) == 0 {
        "The first syncs are running".to_owned()
    } else {
        "In sync".to_owned()
    };
    (title, tones.into_iter().min().unwrap_or(Tone::Waiting))
}

pub(super) fn content(view: &View<'_>) -> Markup {
    let (title, tone) = title(view);
    let mut all: Vec<(Standing, &WorkspaceStatus)> = view
        .workspaces
        .iter()
        .map(|one| (standing(one, view.now), &**one))
        .collect();
    all.sort_by(|(left, a), (right, b)| (left.tone, a.label()).cmp(&(right.tone, b.label())));
    let providers: usize = all.iter().map(|(_, one)| one.providers.len()).sum();
    html! {
        section class={ "verdict " (word(tone)) } {
            (icon(word(tone)))
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
                        th.wide scope="col" { "Revision" }
                        th.wide scope="col" { "Last sync" }
                    }
                }
                tbody {
                    @for (standing, one) in all { (row(&standing, one, view)) }
                }
            }
        }
    }
}

fn row(standing: &Standing, one: &WorkspaceStatus, view: &View<'_>) -> Markup {
    let tone = word(standing.tone);
    let address: String = url::form_urlencoded::byte_serialize(one.label().as_bytes()).collect();
    let in_sync = one
        .providers
        .iter()
        .filter(|provider| provider.state == State::InSync)
        .count();
    html! {
        tr data-k={ "w-" (safe(one.label(), 80)) } {
            th scope="row" {
                a href={ "./?workspace=" (address) } { (safe(one.label(), 80)) }
                @if let Some(known) = &one.workspace { small { (safe(&known.name, 60)) } }
            }
            td class=(tone) {
                span.state { (icon(tone)) span { (workspace::headline(one, view.now)) } }
                small {
                    @if let Some(detail) = &standing.detail { (safe(detail, 140)) } @else { (in_sync) " in sync" }
                }
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
