//! Draws the status page of the daemon as HTML. It is complete without JavaScript.
//!
//! Every text from files, git or Calry goes through `safe`, which neutralises control and misleading characters; maud
//! then escapes it. Addresses are relative: the page works below any path of a proxy. The script only replaces `<main>`
//! and sends requests to the daemon.
//!
//! Never: show what the status withholds, or load anything from another host.

mod overview;
mod parts;
pub(super) mod routes;
mod workspace;

use std::sync::Arc;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::model::printable;
use crate::report::health::HealthLevel;
use crate::report::links::{PROJECT, project_file};
use crate::report::status::{WorkspaceStatus, find_workspace};
use parts::{safe, sprite, stamp};

/// The style sheet, served at `/assets/page.css`.
pub(super) const STYLE: &str = include_str!("page.css");
/// The script, served at `/assets/page.js`.
pub(super) const SCRIPT: &str = include_str!("page.js");

/// The content security policy: the browser may load only the page's own assets.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub version: &'a str,
    pub started: Timestamp,
    /// The time on the daemon's clock.
    pub now: Timestamp,
    /// Identifies this state: it changes when the state does.
    pub id: &'a str,
    pub workspaces: &'a [Arc<WorkspaceStatus>],
    /// The workspace that the address names.
    pub only: Option<&'a str>,
}

enum Subject<'a> {
    One(&'a WorkspaceStatus),
    All,
    Nothing,
}

impl View<'_> {
    /// False if the address names a workspace that the daemon does not have.
    #[must_use]
    pub(super) fn exists(&self) -> bool {
        !matches!(self.subject(), Subject::Nothing)
    }

    fn subject(&self) -> Subject<'_> {
        match (self.only, self.workspaces) {
            (Some(asked), all) => find_workspace(all, asked, Arc::clone)
                .map_or(Subject::Nothing, |one| Subject::One(one)),
            (None, [one]) => Subject::One(one),
            (None, _) => Subject::All,
        }
    }

    /// The title, the level and the headline.
    fn heading(&self) -> (String, HealthLevel, String) {
        match self.subject() {
            Subject::One(one) => workspace::heading(one, self.now),
            Subject::All => {
                let (title, level) = overview::title(self);
                (title.clone(), level, title)
            }
            Subject::Nothing => {
                let title = "No such workspace".to_owned();
                (title.clone(), HealthLevel::Failing, title)
            }
        }
    }
}

/// Where an operator reads on. Each is of the version that runs, as far as it depends on it.
fn project_links() -> [(&'static str, String); 4] {
    [
        ("Documentation", project_file("docs/daemon.md")),
        ("Troubleshooting", project_file("docs/troubleshooting.md")),
        ("Changes in this version", project_file("CHANGELOG.md")),
        ("Issues", format!("{PROJECT}/issues")),
    ]
}

#[must_use]
pub(super) fn page(view: &View<'_>) -> String {
    let (title, level, _) = view.heading();
    let head = html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        meta name="color-scheme" content="light dark";
        meta name="robots" content="noindex";
        title { (title) }
        link rel="icon" type="image/svg+xml" href={ "assets/" (word(level)) ".svg" };
        link rel="stylesheet" href="assets/page.css";
        script src="assets/page.js" defer {}
    };
    let body = html! {
        (sprite())
        a.skip href="#main" { "Skip to the status" }
        header.bar {
            a.brand href="./" { (parts::icon("logo")) span { "calry-gitops" } }
            p #contact .contact { span.dot {} span.text { "Without JavaScript this page does not refresh" } }
            button #reconcile .button type="button" hidden {
                (parts::icon("again"))
                span {
                    @if matches!(view.subject(), Subject::All) { "Reconcile all" } @else { "Reconcile" span.wide { " now" } }
                }
            }
        }
        p #lost .lost hidden {}
        p #answer .answer role="status" {}
        p #announcement .unseen role="status" {}
        (PreEscaped(content(view)))
        footer.foot {
            p {
                "calry-gitops " (safe(view.version, 40)) ", up since " (stamp(view.started)) ". "
                "The same as JSON: " a href="api/v1/status" { "/api/v1/status" } ". In a terminal: "
                code { "calry-gitops status --watch" } "."
            }
            p {
                @for (at, (name, address)) in project_links().into_iter().enumerate() {
                    @if at > 0 { " · " }
                    a href=(address) rel="external noopener" { (name) }
                }
            }
        }
        dialog #ask aria-labelledby="ask-title" {
            form method="dialog" {
                h2 #ask-title {}
                p #ask-text {}
                dl #ask-facts .facts hidden {}
                label #ask-label hidden {
                    "Token" input #ask-token type="password" autocomplete="off" spellcheck="false";
                }
                p.actions {
                    // The Enter key presses the first button that submits.
                    button #ask-no .button .quiet type="button" { "Cancel" }
                    button #ask-yes .button .strong type="submit" value="yes" {}
                }
            }
        }
    };
    html! { (DOCTYPE) html lang="en" { head { (head) } body { (body) } } }.into_string()
}

/// The part of the document that changes: its `<main>`.
#[must_use]
pub(super) fn content(view: &View<'_>) -> String {
    let (title, level, headline) = view.heading();
    let (inner, name) = match view.subject() {
        Subject::One(one) => {
            // Before the first reconciliation a workspace without a name is the only one, and its label changes after it.
            let known = one.name.is_some() || one.workspace.is_some();
            let name = if known {
                printable(one.label())
            } else {
                String::new()
            };
            (workspace::content(one, view), name)
        }
        Subject::All => (overview::content(view), String::new()),
        Subject::Nothing => (nothing(view), String::new()),
    };
    html! {
        main #main tabindex="-1" data-id=(view.id) data-version=(view.version) data-now=(view.now) data-title=(title)
            data-level=(word(level)) data-headline=(headline) data-workspace=(name) { (inner) }
    }
    .into_string()
}

fn nothing(view: &View<'_>) -> Markup {
    html! {
        section.verdict.bad {
            (parts::icon("bad"))
            div {
                h1 { "No such workspace" }
                p {
                    "This daemon has no workspace " q { (safe(view.only.unwrap_or_default(), 80)) } ". "
                    a href="./" { "All workspaces" }
                }
            }
        }
    }
}

/// The name of the level's class, icon and file.
const fn word(level: HealthLevel) -> &'static str {
    match level {
        HealthLevel::InSync => "good",
        HealthLevel::Waiting => "wait",
        HealthLevel::OutOfSync => "differs",
        HealthLevel::Failing => "bad",
    }
}

/// The tab icon of a level, by its name.
#[must_use]
pub(super) fn tab_icon(word: &str) -> Option<String> {
    const DISC: &str = r#"<circle cx="8" cy="8" r="8"/>"#;
    let (colour, shape, sign) = match word {
        "good" => ("#1a7f4b", DISC, "m4.2 8.3 2.6 2.6 5-5.4"),
        "wait" => ("#57606a", DISC, "M8 3.8v4.5l3 1.7"),
        "differs" => ("#b35900", r#"<path d="M8 0l8 15H0z"/>"#, "M8 5v5m0 1.5v1.6"),
        "bad" => (
            "#c9242d",
            r#"<path d="M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7z"/>"#,
            "m5 5 6 6m0-6-6 6",
        ),
        _ => return None,
    };
    let frame = r#"svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16""#;
    let sign = format!(r#"<path d="{sign}" fill="none" stroke="white" stroke-width="2"/>"#);
    Some(format!(r#"<{frame} fill="{colour}">{shape}{sign}</svg>"#))
}

#[cfg(test)]
mod tests;
