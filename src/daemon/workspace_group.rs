//! State shared by all workspace loops of the process: start-up staggering, a read limit, and the detection of two entries
//! for the same Calry workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::http::ConcurrencyLimit;
use crate::reconcile::Failure;

/// How many directories are read at once. Reads mostly come from the page cache, so more would only compete for the CPU.
const MAX_READS: usize = 8;
/// A read that takes longer is treated as hanging.
const SLOW_READ: Duration = Duration::from_secs(2);
/// The longest pause between the starts of two first reconciliations.
const MAX_START_STAGGER: Duration = Duration::from_millis(50);

/// All workspace loops of the process.
#[derive(Debug)]
pub struct WorkspaceGroup {
    names: Vec<Option<String>>,
    read_limit: ConcurrencyLimit,
    /// The loops that found each Calry workspace, by API URL and workspace id. The first loop owns it.
    owners: Mutex<BTreeMap<(String, String), BTreeSet<usize>>>,
}

/// The place of one loop in the group.
#[derive(Clone, Debug)]
pub struct Slot {
    group: Arc<WorkspaceGroup>,
    index: usize,
}

impl WorkspaceGroup {
    /// One slot for each workspace, in the order of the configuration. A single workspace needs no name.
    #[must_use]
    pub fn slots(names: Vec<Option<String>>) -> Vec<Slot> {
        let count = names.len();
        // A workspace reads one directory at a time, so at most `count` reads can hang.
        let read_limit = ConcurrencyLimit::new(MAX_READS, count, SLOW_READ);
        let group = Arc::new(Self {
            names,
            read_limit,
            owners: Mutex::default(),
        });
        (0..count)
            .map(|index| Slot {
                group: Arc::clone(&group),
                index,
            })
            .collect()
    }
}

impl Slot {
    /// The configured name of the workspace; `None` if there is only one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name_of(self.index)
    }

    fn name_of(&self, index: usize) -> Option<&str> {
        self.group.names.get(index)?.as_deref()
    }

    pub(super) fn read_limit(&self) -> &ConcurrencyLimit {
        &self.group.read_limit
    }

    /// The delay between the start and the first reconciliation: none for a single workspace.
    pub(super) fn delay(&self, interval: Duration) -> Duration {
        (interval / self.count()).min(MAX_START_STAGGER)
            * u32::try_from(self.index).unwrap_or(u32::MAX)
    }

    /// The pause after the first reconciliation. It spreads the loops evenly over the interval.
    pub(super) fn first_pause(&self, interval: Duration) -> Duration {
        let share = (self.index + 1) as f64 / f64::from(self.count());
        interval.mul_f64(share.min(1.0))
    }

    /// The number of loops, this one included.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.group.names.len())
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// Claims the Calry workspace that the API key of this loop belongs to. If several loops claim the same one, the first
    /// in the configuration owns it and gets the names of the others.
    ///
    /// # Errors
    /// [`Failure::Taken`] for all loops but the first.
    pub(super) fn claim_workspace(
        &self,
        api: &str,
        workspace: &str,
    ) -> Result<Vec<String>, Failure> {
        let workspace_key = (api.to_owned(), workspace.to_owned());
        let mut owners = self.group.owners.lock();
        owners.retain(|at, loops| {
            if *at != workspace_key {
                loops.remove(&self.index);
            }
            !loops.is_empty()
        });
        let loops = owners.entry(workspace_key).or_default();
        loops.insert(self.index);
        let name = |index: &usize| self.name_of(*index).unwrap_or_default().to_owned();
        match loops.first() {
            Some(first) if *first != self.index => Err(Failure::Taken(name(first))),
            _ => Ok(loops.iter().skip(1).map(name).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: usize) -> Vec<Slot> {
        WorkspaceGroup::slots((0..count).map(|n| Some(format!("w{n}"))).collect())
    }

    #[test]
    fn many_loops_are_spread_and_a_single_one_starts_at_once() {
        let minute = Duration::from_secs(60);
        let alone = &WorkspaceGroup::slots(vec![None])[0];
        assert_eq!(
            (alone.delay(minute), alone.first_pause(minute)),
            (Duration::ZERO, minute)
        );
        let many = slots(1000);
        let delays: Vec<Duration> = many.iter().map(|slot| slot.delay(minute)).collect();
        assert!(
            delays
                .windows(2)
                .all(|two| two[1] - two[0] == MAX_START_STAGGER)
                && delays[999] < minute
        );
        let pauses: Vec<Duration> = many.iter().map(|slot| slot.first_pause(minute)).collect();
        assert!(
            pauses
                .windows(2)
                .all(|two| two[1] - two[0] >= Duration::from_millis(59))
                && pauses[999] == minute
        );
        // A short interval shortens the start as well.
        assert!(many[999].delay(Duration::from_secs(1)) < Duration::from_secs(1));
    }

    #[test]
    fn the_first_loop_of_the_configuration_owns_a_workspace() {
        let all = slots(3);
        let taken = |claim: Result<Vec<String>, Failure>| match claim {
            Err(Failure::Taken(by)) => by,
            other => panic!("{other:?}"),
        };
        assert_eq!(all[1].claim_workspace("a", "1").unwrap(), [""; 0]);
        assert_eq!(
            all[0].claim_workspace("b", "1").unwrap(),
            [""; 0],
            "another API"
        );
        assert_eq!(taken(all[2].claim_workspace("a", "1")), "w1");
        assert_eq!(
            all[1].claim_workspace("a", "1").unwrap(),
            ["w2"],
            "the owner gets the names of the others"
        );
        // The order of the configuration decides, not the order of the claims.
        assert_eq!(all[0].claim_workspace("a", "1").unwrap(), ["w1", "w2"]);
        assert_eq!(taken(all[1].claim_workspace("a", "1")), "w0");
        // A corrected key frees the workspace for the others.
        assert_eq!(all[0].claim_workspace("a", "2").unwrap(), [""; 0]);
        assert_eq!(all[1].claim_workspace("a", "1").unwrap(), ["w2"]);
    }
}
