//! Makes a history that breaks a promise as short as possible, and describes it in words.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::calry::Violation;
use crate::history::{History, Setting};
use crate::run;

/// The most histories that are tried to make one shorter.
const ATTEMPTS: usize = 600;

/// The last lines of what happened that are printed.
const LAST: usize = 60;

struct Shortest {
    history: History,
    violation: Violation,
    attempts: usize,
}

impl Shortest {
    /// Keeps a shorter history if it breaks the same promise.
    fn accept(&mut self, candidate: History) -> bool {
        if self.attempts == 0 {
            return false;
        }
        self.attempts -= 1;
        match run::run(&Arc::new(candidate.clone())) {
            Err(violation) if violation.promise == self.violation.promise => {
                (self.history, self.violation) = (candidate, violation);
                true
            }
            _ => false,
        }
    }

    fn drop_events(&mut self) {
        let mut size = self.history.events.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < self.history.events.len() {
                let mut candidate = self.history.clone();
                let end = (at + size).min(candidate.events.len());
                candidate.events.drain(at..end);
                if !self.accept(candidate) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    fn simplify(&mut self) {
        let changes: [fn(&mut Setting); 12] = [
            |setting| setting.replicas = 1,
            |setting| setting.state = false,
            |setting| setting.max_changes = None,
            |setting| setting.policy = false,
            |setting| setting.semantics = Default::default(),
            |setting| setting.method = Default::default(),
            |setting| setting.latency = 4,
            |setting| setting.concurrency = 1,
            |setting| setting.holds = Default::default(),
            |setting| setting.holds.until = None,
            |setting| setting.pinned = false,
            |setting| setting.begins = (12, 0),
        ];
        for change in changes {
            let mut candidate = self.history.clone();
            change(&mut candidate.setting);
            // An event about a replica that is gone means nothing.
            if candidate.setting.replicas < self.history.setting.replicas {
                candidate
                    .events
                    .retain(|(_, event)| event.replica().is_none_or(|replica| replica == 0));
            }
            self.accept(candidate);
        }
        for provider in self.history.setting.live.clone().into_keys() {
            let mut candidate = self.history.clone();
            candidate.setting.live.remove(provider);
            self.accept(candidate);
        }
        for (provider, file) in self.history.setting.files.clone() {
            let mut candidate = self.history.clone();
            if candidate.setting.files.len() > 1 {
                candidate.setting.files.remove(provider);
                if self.accept(candidate) {
                    continue;
                }
            }
            for part in 0..7 {
                let mut shorter = self
                    .history
                    .setting
                    .files
                    .get(provider)
                    .unwrap_or(&file)
                    .clone();
                shorter.drop_part(part);
                let mut candidate = self.history.clone();
                candidate.setting.files.insert(provider, shorter);
                self.accept(candidate);
            }
        }
    }

    /// Moves the events together.
    fn hurry(&mut self) {
        for at in 0..self.history.events.len() {
            let mut candidate = self.history.clone();
            let before = at
                .checked_sub(1)
                .map_or(Duration::ZERO, |before| candidate.events[before].0);
            let gap = candidate.events[at].0.saturating_sub(before);
            let less = gap.saturating_sub(Duration::from_secs(5));
            candidate
                .events
                .iter_mut()
                .skip(at)
                .for_each(|(time, _)| *time -= less);
            if !less.is_zero() {
                self.accept(candidate);
            }
        }
    }
}

/// The story of the history of a seed, which breaks a promise.
pub(crate) fn story(seed: u64, violation: Violation, shortens: bool) -> String {
    let history = History::from_seed(seed);
    let long = history.events.len();
    let mut shortest = Shortest {
        history,
        violation,
        attempts: if shortens { ATTEMPTS } else { 0 },
    };
    shortest.drop_events();
    shortest.simplify();
    shortest.drop_events();
    shortest.hurry();
    let Shortest {
        history, violation, ..
    } = shortest;
    let (_, trace) = run::play(&Arc::new(history.clone()));
    let mut story = String::new();
    let _ = writeln!(
        story,
        "seed {seed} breaks the promise {:?}: {}\n\n{}after the start (shortened from {long} events):",
        violation.promise, violation.what, history.setting
    );
    for (at, event) in &history.events {
        let _ = writeln!(story, "{:>9.3} s  {event}", at.as_secs_f64());
    }
    let _ = writeln!(story, "\nwhat happened:");
    let end = trace
        .iter()
        .position(|line| line.contains("BROKEN"))
        .map_or(trace.len(), |at| at + 1);
    let lines = without_quiet(&trace[..end]);
    for line in &lines[lines.len().saturating_sub(LAST)..] {
        let _ = writeln!(story, "{line}");
    }
    let _ = write!(
        story,
        "\nto run it again: SIMULATION_SEED={seed} SIMULATION_HISTORIES=1 cargo test --test simulation"
    );
    story
}

/// The lines without reconciliations in which nothing happened, which are only counted.
fn without_quiet(trace: &[String]) -> Vec<String> {
    let (mut lines, mut quiet): (Vec<String>, usize) = (Vec::new(), 0);
    for line in trace {
        if line.ends_with("by Interval, Ok;  ")
            && lines.last().is_some_and(|last| last.contains(": GET "))
        {
            lines.pop();
            quiet += 1;
            continue;
        }
        if quiet > 0 && !line.contains(": GET ") {
            let at =
                lines.len() - usize::from(lines.last().is_some_and(|last| last.contains(": GET ")));
            lines.insert(at, format!("             ({quiet} quiet reconciliations)"));
            quiet = 0;
        }
        lines.push(line.clone());
    }
    lines
}
