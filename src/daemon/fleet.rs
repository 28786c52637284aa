//! What the loops of one process share, so that many of them weigh little, none is in another's way, and no two of them
//! keep the same workspace of Calry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::http::Places;
use crate::reconcile::Failure;

/// How many directories are read at once. What is read is mostly in memory, and then this is more than there are processors.
const READING: usize = 8;
/// Reading that takes longer is taken to hang.
const HANGS: Duration = Duration::from_secs(2);
/// Between the beginnings of two first passes, at most.
const FIRST_PASSES: Duration = Duration::from_millis(50);

/// The loops of one process.
#[derive(Debug)]
pub struct Fleet {
    names: Vec<Option<String>>,
    reading: Places,
    /// Who keeps which workspace of Calry, by its API's address and its id. The first of them has it.
    homes: Mutex<BTreeMap<(String, String), BTreeSet<usize>>>,
}

/// One loop's place among those of its process.
#[derive(Clone, Debug)]
pub struct Seat {
    fleet: Arc<Fleet>,
    index: usize,
}

impl Fleet {
    /// A seat for each workspace, in the order of the configuration. One that is alone needs no name.
    #[must_use]
    pub fn seats(names: Vec<Option<String>>) -> Vec<Seat> {
        let count = names.len();
        // A workspace reads one directory at a time, so that what hangs is bounded by their number.
        let reading = Places::new(READING, count, HANGS);
        let fleet = Arc::new(Self {
            names,
            reading,
            homes: Mutex::default(),
        });
        (0..count)
            .map(|index| Seat {
                fleet: Arc::clone(&fleet),
                index,
            })
            .collect()
    }
}

impl Seat {
    /// What the operator calls the workspace, where there are several.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name_of(self.index)
    }

    fn name_of(&self, index: usize) -> Option<&str> {
        self.fleet.names.get(index)?.as_deref()
    }

    /// Places for reading definitions.
    pub(super) fn reading(&self) -> &Places {
        &self.fleet.reading
    }

    /// How long after the start the first pass begins: at once for one that is alone.
    pub(super) fn delay(&self, interval: Duration) -> Duration {
        (interval / self.count()).min(FIRST_PASSES) * u32::try_from(self.index).unwrap_or(u32::MAX)
    }

    /// How long the pause after the first pass is, so that from then on the passes of all loops are spread over the
    /// interval.
    pub(super) fn first_pause(&self, interval: Duration) -> Duration {
        let share = (self.index + 1) as f64 / f64::from(self.count());
        interval.mul_f64(share.min(1.0))
    }

    /// How many loops there are, itself included.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.fleet.names.len())
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// Says which workspace of Calry this loop found behind its API key. Of several that found the same, the one that
    /// stands first in the configuration keeps it; answers with the names of the others.
    ///
    /// # Errors
    /// [`Failure::Taken`] for all but the first.
    pub(super) fn claim(&self, api: &str, workspace: &str) -> Result<Vec<String>, Failure> {
        let home = (api.to_owned(), workspace.to_owned());
        let mut homes = self.fleet.homes.lock();
        homes.retain(|at, loops| {
            if *at != home {
                loops.remove(&self.index);
            }
            !loops.is_empty()
        });
        let loops = homes.entry(home).or_default();
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

    fn seats(count: usize) -> Vec<Seat> {
        Fleet::seats((0..count).map(|n| Some(format!("w{n}"))).collect())
    }

    #[test]
    fn passes_of_many_loops_are_spread_and_one_that_is_alone_starts_at_once() {
        let minute = Duration::from_secs(60);
        let alone = &Fleet::seats(vec![None])[0];
        assert_eq!(
            (alone.delay(minute), alone.first_pause(minute)),
            (Duration::ZERO, minute)
        );
        let many = seats(1000);
        let delays: Vec<Duration> = many.iter().map(|seat| seat.delay(minute)).collect();
        assert!(
            delays.windows(2).all(|two| two[1] - two[0] == FIRST_PASSES) && delays[999] < minute
        );
        let pauses: Vec<Duration> = many.iter().map(|seat| seat.first_pause(minute)).collect();
        assert!(
            pauses
                .windows(2)
                .all(|two| two[1] - two[0] >= Duration::from_millis(59))
                && pauses[999] == minute
        );
        // Where the interval is short, so is the start.
        assert!(many[999].delay(Duration::from_secs(1)) < Duration::from_secs(1));
    }

    #[test]
    fn of_two_loops_for_one_workspace_the_first_of_the_configuration_keeps_it() {
        let all = seats(3);
        let taken = |claim: Result<Vec<String>, Failure>| match claim {
            Err(Failure::Taken(by)) => by,
            other => panic!("{other:?}"),
        };
        assert_eq!(all[1].claim("a", "1").unwrap(), [""; 0]);
        assert_eq!(all[0].claim("b", "1").unwrap(), [""; 0], "another API");
        assert_eq!(taken(all[2].claim("a", "1")), "w1");
        assert_eq!(
            all[1].claim("a", "1").unwrap(),
            ["w2"],
            "the one that goes on is told, too"
        );
        // Whoever stands before it takes over, whoever came first.
        assert_eq!(all[0].claim("a", "1").unwrap(), ["w1", "w2"]);
        assert_eq!(taken(all[1].claim("a", "1")), "w0");
        // A key that was mended frees the others.
        assert_eq!(all[0].claim("a", "2").unwrap(), [""; 0]);
        assert_eq!(all[1].claim("a", "1").unwrap(), ["w2"]);
    }
}
