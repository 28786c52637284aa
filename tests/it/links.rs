//! Links to commits, files and the status page.

use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::json;

use crate::support::{Checkout, World, live, repository};

const FILE: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n";

fn checkout() -> Checkout {
    let definitions = json!([live("HOSTAWAY", &["name"], &["pictures"])]);
    let world = World::with(definitions, Config::default());
    world.write("hostaway.yaml", FILE);
    Checkout::of(world)
}

#[test]
fn the_page_and_the_status_link_to_commit_file_and_page() {
    let checkout = checkout();
    // The provider is listed with its file because its update failed.
    let refusal = FaultKind::Status {
        code: axum::http::StatusCode::BAD_REQUEST,
        message: "No.".to_owned(),
        retry_after: None,
    };
    let fault = Fault::once(refusal).on(axum::http::Method::PATCH);
    checkout.world.sandbox.inject(fault.times(9));
    let mut daemon = checkout.world.daemon(&[
        "--interval=1h",
        "--repository-url=gitlab+https://git.example.com/acme/defs.git",
        "--external-url=https://calry.example.com/prod",
    ]);
    daemon.line("reconciliation 1 ");
    let status = daemon.get("/api/v1/status").json();
    assert_eq!(
        status["workspaces"][0]["links"],
        json!({
            "page": "https://calry.example.com/prod/",
            "repository": "gitlab+https://git.example.com/acme/defs.git",
            "directory": "definitions",
        })
    );
    let page = daemon.get("/").body;
    let base = "https://git.example.com/acme/defs/-";
    let commit = checkout.main.to_string();
    assert!(page.contains(&format!("href=\"{base}/commit/{}", &commit[..10])));
    let file = format!("href=\"{base}/blob/{commit}/definitions/hostaway.yaml\"");
    assert!(page.contains(&file), "{page}");
}

#[test]
fn a_page_without_the_addresses_has_no_links() {
    let checkout = checkout();
    let mut daemon = checkout.world.daemon(&["--interval=1h"]);
    daemon.line("reconciliation 1 ");
    assert!(
        daemon.get("/api/v1/status").json()["workspaces"][0]
            .get("links")
            .is_none()
    );
    let page = daemon.get("/").body;
    let (state, foot) = page.split_once("</main>").unwrap();
    assert!(!state.contains("href=\"http"), "{state}");
    // The links of the foot lead to the program's own repository.
    let project = concat!("href=\"", env!("CARGO_PKG_REPOSITORY"), "/");
    assert_eq!(
        foot.matches("href=\"http").count(),
        foot.matches(project).count()
    );
}

#[test]
fn an_address_with_a_password_is_refused_without_showing_it() {
    let checkout = checkout();
    for flag in ["--repository-url", "--external-url"] {
        let url = format!("{flag}=https://me:hunter2@git.example.com/acme/defs");
        let ran = checkout.world.run(&["run", "--once", &url]).exits(64);
        assert!(ran.err.contains(flag), "{}", ran.err);
        assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    }
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> Vec<String> {
    let mut code = false;
    let heading = |line: &str| {
        code ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#').strip_prefix(' ')?;
        if code || !line.starts_with('#') {
            return None;
        }
        let title = title.trim().to_lowercase().replace(' ', "-");
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_');
        Some(title.chars().filter(kept).collect())
    };
    page.lines().filter_map(heading).collect()
}

#[test]
fn every_link_of_the_documentation_leads_to_a_file_and_a_heading() {
    // Relative links only: no network.
    let docs = std::fs::read_dir(repository().join("docs")).unwrap();
    let mut pages: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.extend(
        [
            "README.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "deploy/README.md",
        ]
        .map(|page| repository().join(page)),
    );
    let mut links = 0;
    for page in pages
        .iter()
        .filter(|page| page.extension().is_some_and(|e| e == "md"))
    {
        let text = std::fs::read_to_string(page).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            if path.contains("://") {
                continue;
            }
            links += 1;
            let file = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            assert!(file.exists(), "{}: {target}", page.display());
            if !anchor.is_empty() && file.extension().is_some_and(|e| e == "md") {
                let anchors = anchors(&std::fs::read_to_string(&file).unwrap());
                let found = anchors.iter().any(|known| known == anchor);
                assert!(found, "{}: {target}", page.display());
            }
        }
    }
    assert!(links > 30, "{links}");
}
