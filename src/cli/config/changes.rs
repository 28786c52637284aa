//! Reports at SIGHUP what the configuration file has changed since the start: the daemon reads it once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::key::NOTIFICATIONS;
use super::value::EffectiveValue;
use super::{Configuration, MAX_NAMED, WorkspaceConfig, load};
use crate::report::words::list_first;

/// The longest wait for the file, which may be on a file system that does not answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

impl Configuration {
    /// Logs how the configuration file differs from the start, if it does.
    pub(in crate::cli) async fn report_changes(&self) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let shown = file.display().to_string();
        let reading = tokio::task::spawn_blocking(move || load(Some(&file)));
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(Ok(fresh))) => {
                let differences = self.differences(&fresh);
                if !differences.is_empty() {
                    let changed = list_first(&differences, MAX_NAMED);
                    tracing::warn!(
                        changed,
                        "the configuration file {shown} has changed since the start: {changed}; restart the daemon to use it"
                    );
                }
            }
            Ok(Ok(Err(error))) => tracing::warn!(
                "the configuration file {shown} is no longer valid: {}; the daemon continues with the configuration of its \
                 start",
                error.summary()
            ),
            Ok(Err(_)) | Err(_) => tracing::warn!(
                "the configuration file {shown} was not read within {} s",
                READ_TIMEOUT.as_secs()
            ),
        }
    }

    /// The keys that have other values in another configuration, such as `interval` or `mode of staging`.
    fn differences(&self, other: &Self) -> Vec<String> {
        let several = self.has_named_workspaces() || other.has_named_workspaces();
        let mut differences: Vec<String> = changed_keys(&self.top, &other.top)
            .filter(|value| !(several && value.key.per_workspace))
            .map(|value| value.key.name.clone())
            .collect();
        let (ours, theirs) = (self.by_name(), other.by_name());
        for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
            differences.push(format!("the new workspace {name}"));
        }
        for (name, ours) in &ours {
            let Some(theirs) = theirs.get(name) else {
                differences.push(format!("the removed workspace {name}"));
                continue;
            };
            let changed =
                changed_keys(&ours.values, &theirs.values).filter(|value| value.key.per_workspace);
            differences.extend(changed.map(|value| format!("{} of {name}", value.key.name)));
        }
        if self.notifications.documents != other.notifications.documents {
            differences.push(NOTIFICATIONS.to_owned());
        }
        differences
    }

    fn by_name(&self) -> BTreeMap<&str, &WorkspaceConfig> {
        let named = self.workspaces.iter();
        named
            .filter_map(|workspace| Some((workspace.name.as_deref()?, workspace)))
            .collect()
    }
}

/// The values that differ; both lists have every key, in one order.
fn changed_keys<'a>(
    ours: &'a [EffectiveValue],
    theirs: &'a [EffectiveValue],
) -> impl Iterator<Item = &'a EffectiveValue> {
    ours.iter()
        .zip(theirs)
        .filter(|(ours, theirs)| ours.values != theirs.values)
        .map(|(ours, _)| ours)
}
