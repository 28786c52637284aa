//! The metrics of the repositories that the daemon fetches. A repository that several workspaces share has its series once.
//!
//! The label `reference` is the configured one, because a label that changed after the first fetch would begin new series.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::text::{Kind, Page};
use super::unix_seconds;
use crate::daemon::Repository;
use crate::daemon::repository::RepositoryState;
use crate::desired::git::GitReference;
use crate::model::{FetchFailure, ellipsize, printable};

/// The longest URL and the longest reference in a label, in characters.
const MAX_LABEL: usize = 250;

/// The values of one repository at one moment.
struct RepositorySample {
    url: String,
    reference: String,
    interval: f64,
    state: Arc<RepositoryState>,
}

impl RepositorySample {
    fn labels(&self) -> [(&str, &str); 2] {
        [("repository", &self.url), ("reference", &self.reference)]
    }
}

/// Writes the families, if there is a repository.
pub(super) fn write(page: &mut Page, repositories: &[Arc<Repository>]) {
    let samples = samples(repositories);
    if samples.is_empty() {
        return;
    }
    let help = "Fetches from the git server by result: success, or the kind of the failure.";
    let mut family = page.family(Kind::Counter, "calry_gitops_git_fetches_total", help);
    for one in &samples {
        let [repository, reference] = one.labels();
        let counters = &one.state.counters;
        let labels = [repository, reference, ("result", "success")];
        family.sample(&labels, counters.succeeded);
        for kind in FetchFailure::ALL {
            let labels = [repository, reference, ("result", kind.as_str())];
            family.sample(&labels, counters.failed.get(&kind).unwrap_or(&0));
        }
    }
    let help = "The time that fetches took, failed ones included.";
    let mut family = page.family(Kind::Counter, "calry_gitops_git_fetch_seconds_total", help);
    for one in &samples {
        family.sample(&one.labels(), one.state.counters.duration.as_secs_f64());
    }
    let help = "Whether the last fetch failed (1), by the kind of the failure.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_git_failing", help);
    for one in &samples {
        let failure = one
            .state
            .status
            .failure
            .as_ref()
            .map(|failure| failure.kind);
        let [repository, reference] = one.labels();
        for kind in FetchFailure::ALL {
            let labels = [repository, reference, ("reason", kind.as_str())];
            family.sample(&labels, u8::from(failure == Some(kind)));
        }
    }
    let help = "When a fetch last succeeded, with or without a new commit; 0 before the first.";
    let name = "calry_gitops_git_last_success_timestamp_seconds";
    let mut family = page.family(Kind::Gauge, name, help);
    for one in &samples {
        let time = unix_seconds(one.state.status.last_success);
        family.sample(&one.labels(), time);
    }
    let help = "The configured time between two fetches without a hook, before jitter.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_git_interval_seconds", help);
    for one in &samples {
        family.sample(&one.labels(), one.interval);
    }
}

/// One sample of each repository. The labels are unique: repositories may differ in their credentials only.
fn samples(repositories: &[Arc<Repository>]) -> Vec<RepositorySample> {
    let mut taken = BTreeSet::new();
    let label = |text: &str| ellipsize(&printable(text), MAX_LABEL);
    let sample = |repository: &Arc<Repository>| {
        let remote = repository.remote();
        let reference = match remote.reference() {
            GitReference::Default => "HEAD".to_owned(),
            named => label(&named.to_string()),
        };
        let mut url = label(&remote.url().to_string());
        while !taken.insert((url.clone(), reference.clone())) {
            url.push('+');
        }
        RepositorySample {
            url,
            reference,
            interval: repository.interval().as_secs_f64(),
            state: repository.state(),
        }
    };
    repositories.iter().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fixtures::repository;

    fn text(repositories: &[Arc<Repository>]) -> String {
        let mut page = Page::default();
        write(&mut page, repositories);
        page.into_text()
    }

    #[test]
    fn repositories_of_one_name_keep_series_apart_and_labels_are_bounded() {
        let long = format!("https://git.example.com/{}.git", "a".repeat(2_000));
        let url = "https://git.example.com/a.git";
        let text = text(&[
            repository(url, None),
            repository(url, None),
            repository(url, Some("v1")),
            repository(&long, Some("main")),
        ]);
        let series: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.rsplit_once(' ')?.0))
            .collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
        assert_eq!(
            series.len(),
            4 * 30,
            "as the documentation of the module says"
        );
        assert!(series.iter().all(|line| line.len() < 500));
        let interval = series
            .iter()
            .filter_map(|line| line.strip_prefix("calry_gitops_git_interval_seconds"));
        let start = r#"{repository="https://git.example.com/a.git"#;
        assert_eq!(
            interval.take(3).collect::<Vec<_>>(),
            [
                format!(r#"{start}",reference="HEAD"}}"#),
                format!(r#"{start}+",reference="HEAD"}}"#),
                format!(r#"{start}",reference="v1"}}"#),
            ]
        );
    }

    #[test]
    fn without_a_repository_there_is_no_family() {
        assert_eq!(text(&[]), "");
    }
}
