//! What the daemon remembers between passes: the desired state that it last applied, whom to leave alone for a while, and
//! how often it failed. Nothing of it outlives the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::LONGEST_PAUSE;
use super::pass::{PassReport, PassResult};
use crate::apply::{Outcome, UpdateResult};
use crate::model::{Desired, Diagnostic, Provider, Secret, Workspace};
use crate::plan::{Applied, Change, Plan, Verdict};

/// What one workspace's loop remembers.
#[derive(Debug, Default)]
pub struct Memory {
    /// The desired state last applied, or found in place.
    pub(super) applied: Applied,
    /// Providers whose last update failed.
    resting: BTreeMap<Provider, Rest>,
    /// The workspace of the API key that was used last.
    known: Option<(Secret, Workspace)>,
    /// The id of the workspace that everything else here is about.
    home: Option<String>,
    /// Passes that failed as a whole, in a row.
    failures: u32,
    /// How many passes there were.
    pub(super) passes: u64,
    /// What was last said of each provider that differs and is not changed, so that a quiet pass says nothing.
    pub(super) told: BTreeMap<Provider, Vec<Change>>,
    /// The problems that were last said.
    pub(super) problems: Vec<Diagnostic>,
    /// Reading the definitions that was begun and given up, and hangs as far as anybody knows.
    pub(super) reading: Option<JoinHandle<()>>,
    /// The names of the other workspaces of the configuration that are the same one of Calry.
    pub(super) also: Vec<String>,
}

#[derive(Debug)]
struct Rest {
    desired: Arc<Desired>,
    failures: u32,
    until: Instant,
    why: String,
    /// Calry took the update and kept other values: trying again is of no use before something changes.
    not_converged: bool,
}

impl Memory {
    /// The workspace, where this key was asked before. Another key clears what is known and lets everybody try again.
    pub(super) fn workspace_of(&mut self, key: &Secret) -> Option<Workspace> {
        match &self.known {
            Some((known, workspace)) if known == key => Some(workspace.clone()),
            Some(_) => {
                self.known = None;
                self.resting.clear();
                None
            }
            None => None,
        }
    }

    /// Whether another key than the last one may belong to another workspace: then that is to be asked before anything is
    /// compared with what was applied.
    pub(super) const fn may_have_moved(&self) -> bool {
        self.known.is_none() && self.home.is_some()
    }

    /// Takes over which workspace the rest is about. Whether the definitions are for it is not known yet.
    pub(super) fn learn_home(&mut self, workspace: &Workspace) {
        // What was applied to one workspace says nothing of another.
        if self.home.as_ref().is_some_and(|home| *home != workspace.id) {
            self.applied.clear();
        }
        self.home = Some(workspace.id.clone());
    }

    /// Takes over the workspace of a key, after the definitions were found to be for it.
    pub(super) fn learn_workspace(&mut self, key: &Secret, workspace: &Workspace) {
        self.learn_home(workspace);
        self.known = Some((key.clone(), workspace.clone()));
    }

    /// The providers of a plan that are not to be tried now. A new desired state is tried at once.
    pub(super) fn resting(&mut self, plan: &Plan, asked: bool) -> BTreeMap<Provider, String> {
        let now = Instant::now();
        self.resting.retain(|provider, rest| {
            let same = plan.steps().any(|step| step.desired.provider == *provider && step.desired == rest.desired);
            same && (!asked || rest.not_converged)
        });
        self.resting
            .iter()
            .filter(|(_, rest)| rest.until > now)
            .map(|(provider, rest)| {
                let left = Duration::from_secs((rest.until - now).as_secs() + 1);
                let why = format!(
                    "tried again in {} or when its file changes: {}",
                    humantime::format_duration(left),
                    rest.why
                );
                (provider.clone(), why)
            })
            .collect()
    }

    /// Whose updates failed, and how long until they are tried again.
    pub(super) fn rests(&self) -> BTreeMap<Provider, Duration> {
        let now = Instant::now();
        self.resting
            .iter()
            .map(|(provider, rest)| (provider.clone(), rest.until.saturating_duration_since(now)))
            .collect()
    }

    /// Takes over what a plan found in place, and forgets what git no longer manages.
    pub(super) fn learn_plan(&mut self, plan: &Plan) {
        let managed: Vec<&Provider> = plan
            .entries
            .iter()
            .filter(|entry| !matches!(entry.verdict, Verdict::Unmanaged))
            .filter_map(|entry| entry.provider.as_ref())
            .collect();
        self.applied.retain(|provider, _| managed.binary_search(&provider).is_ok());
        for entry in &plan.entries {
            if let Verdict::InSync(desired) = &entry.verdict {
                self.applied.insert(desired.provider.clone(), Arc::clone(desired));
            }
        }
    }

    /// Takes over how an update ended.
    pub(super) fn learn_result(&mut self, result: &UpdateResult, interval: Duration) {
        match &result.outcome {
            Outcome::Applied | Outcome::Unchanged => {
                self.applied.insert(result.provider.clone(), Arc::clone(&result.desired));
                self.resting.remove(&result.provider);
            }
            Outcome::Skipped(_) => {}
            Outcome::Failed(_) | Outcome::NotConverged(_) => {
                let failures = self.resting.get(&result.provider).map_or(0, |rest| rest.failures) + 1;
                let rest = Rest {
                    desired: Arc::clone(&result.desired),
                    failures,
                    until: Instant::now() + growing(interval, failures),
                    why: result.outcome.error().unwrap_or_default(),
                    not_converged: matches!(result.outcome, Outcome::NotConverged(_)),
                };
                self.resting.insert(result.provider.clone(), rest);
            }
        }
    }

    /// How long to wait after a pass: the interval with jitter, and growing after passes that failed as a whole.
    pub(super) fn pause(&mut self, interval: Duration, report: &PassReport) -> Duration {
        if matches!(report.result, PassResult::Failed(_)) {
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
        let pause = if self.failures == 0 { interval } else { growing(interval, self.failures) };
        // A tenth up or down, so that a fleet of daemons does not ask in step.
        let spread = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
        if self.failures == 0 { spread } else { spread.min(LONGEST_PAUSE.max(interval)) }
    }
}

/// The interval, doubled with each failure but the first, to at most five minutes (or the interval, where that is longer).
fn growing(interval: Duration, failures: u32) -> Duration {
    let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    interval.saturating_mul(factor).min(LONGEST_PAUSE.max(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_pass_waits_longer_each_time_and_five_minutes_at_most() {
        let minute = Duration::from_secs(60);
        let pauses: Vec<u64> = (1..=5).map(|n| growing(minute, n).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 300, 300]);
        assert_eq!(growing(Duration::from_secs(900), 7).as_secs(), 900);
        assert_eq!(growing(Duration::from_secs(1), u32::MAX).as_secs(), 300);
    }

    #[test]
    fn what_was_applied_to_one_workspace_is_not_taken_for_applied_to_another() {
        let workspace = |id: &str| Workspace { id: id.to_owned(), name: String::new(), slug: String::new() };
        let provider = Provider::parse("HOSTAWAY").unwrap();
        let desired = Desired {
            provider: provider.clone(),
            icon: None,
            partner_key: crate::model::DesiredPartnerKey::default(),
            fields: BTreeMap::new(),
            hold: None,
        };
        let mut memory = Memory::default();
        memory.learn_workspace(&Secret::new("one"), &workspace("a"));
        memory.applied.insert(provider, Arc::new(desired));
        assert!(memory.workspace_of(&Secret::new("two")).is_none() && memory.may_have_moved());
        memory.learn_workspace(&Secret::new("two"), &workspace("a"));
        assert_eq!(memory.applied.len(), 1, "a rotated key of the same workspace");
        memory.learn_workspace(&Secret::new("three"), &workspace("b"));
        assert!(memory.applied.is_empty());
    }
}
