//! Simulated histories: the real daemon loop, reconciliation, client, state files and election, on simulated machines and
//! against a Calry in memory. One seed decides everything, and time passes only when every task waits.
//!
//! `SIMULATION_HISTORIES` sets how many histories run, `SIMULATION_SEED` the first seed. A history that breaks a promise is
//! made as short as possible (unless `SIMULATION_SHORTEN=0`) and described in words.
//!
//! `tests/planted/planted.py` shows that they find faults.

// A panic is how a test fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod calry;
mod files;
mod history;
mod lease;
mod process;
mod run;
mod shorten;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use history::History;
use parking_lot::Mutex;

/// How many histories run by default; the gate runs more of them, optimized.
const HISTORIES: u64 = 100;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn no_history_breaks_a_promise() {
    let histories = variable("SIMULATION_HISTORIES").unwrap_or(HISTORIES);
    let first = variable("SIMULATION_SEED").unwrap_or(0);
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let (totals, broken) = (Mutex::new(run::Totals::default()), Mutex::new(None));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + histories {
                        return;
                    }
                    match run::run(&Arc::new(History::from_seed(seed))) {
                        Ok(totals_of_one) => totals.lock().add(&totals_of_one),
                        Err(violation) => {
                            stop.store(true, Relaxed);
                            broken.lock().get_or_insert((seed, violation));
                        }
                    }
                }
            });
        }
    });
    let tried = next.load(Relaxed).saturating_sub(first).min(histories);
    if let Some((seed, violation)) = broken.into_inner() {
        let shortens = variable("SIMULATION_SHORTEN") != Some(0);
        let story = shorten::story(seed, violation, shortens);
        panic!(
            "after {tried} histories in {:.0?}\n\n{story}",
            began.elapsed()
        );
    }
    println!(
        "{histories} histories in {:.0?}: {}",
        began.elapsed(),
        totals.into_inner()
    );
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..20 {
        let history = Arc::new(History::from_seed(seed));
        let traces = [(), ()].map(|()| run::trace(&history));
        let differs = traces[0]
            .iter()
            .zip(&traces[1])
            .find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(traces[0].len(), traces[1].len(), "seed {seed}");
    }
}
