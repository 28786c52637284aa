//! Plays a history and judges it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use calry_gitops::daemon::{LoopEnd, ReconciliationReport, ReconciliationResult};
use calry_gitops::desired::definitions::{MemoryDefinitions, MemoryDirectory};
use calry_gitops::model::{Desired, KeySection, Revision};
use calry_gitops::plan::{Cause, Change, Digest, Verdict};
use calry_gitops::reconcile::apply::Outcome;
use calry_gitops::report::consequences::describe_consequence;
use calry_gitops::sandbox::Mask;
use jiff::SignedDuration;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::Level;

use crate::calry::{GitState, OTHER_KEY, Promise, Shared, TIMEOUT, Version, Violation, World};
use crate::files::{self, FileSpec, Mistake, PARTS};
use crate::history::{Click, Event, History};
use crate::process::{self, Place, Process};

/// What many histories had in common.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    processes: u64,
    reconciliations: u64,
    requests: u64,
    updates: u64,
    faults: u64,
    virtual_seconds: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.processes += other.processes;
        self.reconciliations += other.reconciliations;
        self.requests += other.requests;
        self.updates += other.updates;
        self.faults += other.faults;
        self.virtual_seconds += other.virtual_seconds;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} processes, {} reconciliations, {} requests, {} updates, {} faults, {} simulated days",
            self.processes,
            self.reconciliations,
            self.requests,
            self.updates,
            self.faults,
            self.virtual_seconds / 86_400
        )
    }
}

/// How long Calry may differ from git after the last fault: longer than the longest back-off.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Collects what is logged.
#[derive(Clone, Default)]
struct LogText(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn run(history: &Arc<History>) -> Result<Totals, Violation> {
    let (result, _) = play(history);
    result
}

/// What happened in a history, line by line.
pub(crate) fn trace(history: &Arc<History>) -> Vec<String> {
    play(history).1
}

pub(crate) fn play(history: &Arc<History>) -> (Result<Totals, Violation>, Vec<String>) {
    fastrand::seed(history.setting.seed);
    let log = LogText::default();
    let writer = log.clone();
    let level = if history.setting.seed.is_multiple_of(16) {
        Level::TRACE
    } else {
        Level::INFO
    };
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(level)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let base = std::path::Path::new("/dev/shm");
    let directory = match base.is_dir() {
        true => tempfile::tempdir_in(base),
        false => tempfile::tempdir(),
    };
    let directory = directory.unwrap();
    let world = runtime.block_on(async {
        let mut stage = Stage::new(history, directory.path().to_owned());
        stage.play(history).await;
        stage.place.world
    });
    drop(runtime);
    let mut world = world.lock();
    let text = String::from_utf8_lossy(&log.0.lock()).into_owned();
    if let Some(line) = text.lines().find(|line| line.contains("canary-")) {
        world.violate(
            Promise::NoSecretComesOut,
            format_args!("a line of the log has a secret: {line}"),
        );
    }
    let totals = Totals {
        processes: world.processes.len() as u64,
        reconciliations: world.processes.iter().map(|process| process.reports).sum(),
        requests: world.processes.iter().map(|process| process.requests).sum(),
        updates: world.writes,
        faults: world.faulty,
        virtual_seconds: world.elapsed_at_end.as_secs(),
    };
    (
        world.violation.clone().map_or(Ok(totals), Err),
        std::mem::take(&mut world.trace),
    )
}

struct Stage {
    place: Place,
    replicas: Vec<Option<Process>>,
    /// What ends later: restarts, freezes, wrong keys.
    pending: Vec<tokio::task::JoinHandle<()>>,
    started: Arc<Mutex<Vec<(usize, Process)>>>,
    commits: u64,
    files: BTreeMap<&'static str, FileSpec>,
    numbers: u32,
}

impl Stage {
    fn new(history: &History, directory: std::path::PathBuf) -> Self {
        let world = World::new(&history.setting);
        let place = Place {
            world: Arc::new(Mutex::new(world)),
            definitions: std::iter::repeat_with(MemoryDefinitions::default)
                .take(history.setting.replicas)
                .collect(),
            lease: Default::default(),
            directory,
        };
        let mut stage = Self {
            place,
            replicas: Vec::new(),
            pending: Vec::new(),
            started: Arc::default(),
            commits: 0,
            files: history.setting.files.clone(),
            numbers: 0,
        };
        std::fs::create_dir(stage.place.secrets()).unwrap();
        let names = files::all_secrets();
        names.iter().for_each(|name| stage.set_secret(name));
        stage.write_key();
        stage.write_policies(
            "policies:\n  - name: name-stays-on\n    each: change\n    message: it stays on\n    \
             expression: \"!(change.group == 'listing' && change.field == 'name' && change.switchesOff)\"\n",
        );
        stage.commit(true, None);
        for replica in 0..history.setting.replicas {
            let process = start(&stage.place, replica, SignedDuration::ZERO);
            stage.replicas.push(Some(process));
        }
        stage
    }

    fn unique(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn set_secret(&mut self, name: &str) {
        let value = format!("canary-secret-{}", self.unique());
        std::fs::write(self.place.secrets().join(name), &value).unwrap();
        let mut world = self.place.world.lock();
        let (at, mut secrets) = (world.elapsed(), world.secrets().clone());
        secrets.insert(name.to_owned(), value);
        world.secrets.push((at, secrets));
    }

    fn write_policies(&self, policies: &str) {
        std::fs::write(self.place.policies(), policies).unwrap();
    }

    fn write_key(&self) {
        std::fs::write(self.place.key_file(), &self.place.world.lock().key).unwrap();
    }

    /// Publishes the files. One of them may be half-written.
    fn commit(&mut self, notify: bool, half: Option<&'static str>) {
        self.commits += 1;
        let mut texts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for spec in self.files.values() {
            let mut text = spec.text();
            if half == Some(spec.provider) {
                text.truncate(text.len() / 2);
            }
            texts.insert(spec.name(), text.into_bytes());
        }
        let mut world = self.place.world.lock();
        if let Some(text) = world.setting.workspace_file() {
            texts.insert("workspace.yaml".to_owned(), text.into_bytes());
        }
        let mut files = self.files.clone();
        if let Some(half) = half {
            files.remove(half);
        }
        let at = world.elapsed();
        world.git.push(GitState {
            at,
            files: Some(files),
            notified: notify,
        });
        drop(world);
        let unsettled = half.map(|provider| format!("{}.yaml", provider.to_lowercase()));
        let revision = Revision {
            commit: format!("{:040x}", self.commits),
            subject: "A commit".to_owned(),
            author: "A developer".to_owned(),
            time: "2026-03-01T00:00:00Z".to_owned(),
            dirty: false,
        };
        let directory = MemoryDirectory {
            files: Some(texts),
            unsettled: unsettled.into_iter().collect(),
            revision: Some(revision),
        };
        self.place.publish(&directory, notify);
    }

    fn later(&mut self, after: Duration, then: impl FnOnce() + Send + 'static) {
        self.pending.push(tokio::spawn(async move {
            sleep(after).await;
            then();
        }));
    }

    fn restart_later(&mut self, replica: usize, after: Duration, skew: SignedDuration) {
        let (place, started) = (self.place.clone(), Arc::clone(&self.started));
        self.later(after, move || {
            let process = start(&place, replica, skew);
            started.lock().push((replica, process));
        });
    }

    /// Takes over the processes that have started meanwhile, and starts those again whose loops have ended.
    fn tend(&mut self) {
        for (replica, process) in std::mem::take(&mut *self.started.lock()) {
            self.replicas[replica] = Some(process);
        }
        for replica in 0..self.replicas.len() {
            if self.replicas[replica]
                .as_ref()
                .is_some_and(|process| process.ended.is_finished())
            {
                // The platform starts a process again that ends by itself.
                let Some(process) = self.replicas[replica].take() else {
                    continue;
                };
                let skew = process.machine.skew();
                process.machine.kill();
                self.restart_later(replica, Duration::from_secs(10), skew);
            }
        }
    }

    async fn play(&mut self, history: &History) {
        let started = self.place.world.lock().started;
        for (at, event) in &history.events {
            tokio::time::sleep_until(started + *at).await;
            self.tend();
            if self.place.world.lock().violation.is_some() {
                return self.end();
            }
            self.place.world.lock().record(format_args!("* {event}"));
            self.happen(event);
        }
        sleep(Duration::from_secs(1)).await;
        self.finish().await;
        self.end();
    }

    fn end(&self) {
        let mut world = self.place.world.lock();
        world.elapsed_at_end = world.elapsed();
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Edit { file, lost, half } => {
                self.files.insert(file.provider, file.clone());
                match half {
                    None => self.commit(!lost, None),
                    Some(lasts) => {
                        self.commit(!lost, Some(file.provider));
                        // The rest of the file follows, whatever else happens meanwhile.
                        let (notify, place) = (!lost, self.place.clone());
                        let whole = self.whole();
                        self.later(*lasts, move || whole.publish(&place, notify));
                    }
                }
            }
            Event::Remove(provider) => {
                if self.files.len() > 1 {
                    self.files.remove(provider);
                    self.commit(true, None);
                }
            }
            Event::Directory { missing, lasts } => {
                let mut world = self.place.world.lock();
                let at = world.elapsed();
                world.git.push(GitState {
                    at,
                    files: None,
                    notified: true,
                });
                drop(world);
                let files = (!missing).then(BTreeMap::new);
                let directory = MemoryDirectory {
                    files,
                    ..MemoryDirectory::default()
                };
                self.place.publish(&directory, true);
                let (whole, place) = (self.whole(), self.place.clone());
                self.later(*lasts, move || whole.publish(&place, true));
            }
            Event::Click { provider, click } => {
                let mut world = self.place.world.lock();
                world.change(provider, |live| apply_click(live, *click));
            }
            Event::RotateSecret(name) => self.set_secret(name),
            Event::RotateKey(after) => {
                let number = self.unique();
                self.place.world.lock().key =
                    format!("zepl.write-{number}.canary-key-{number}.acme");
                let (world, file) = (Arc::clone(&self.place.world), self.place.key_file());
                self.later(*after, move || {
                    std::fs::write(file, &world.lock().key).unwrap()
                });
            }
            Event::WrongKey(lasts) => {
                // Without a pin, only the state files show which workspace is the right one.
                let knows = {
                    let world = self.place.world.lock();
                    let setting = &world.setting;
                    setting.pinned
                        || setting.state
                            && !world.state_is_lost
                            && world.knows_workspace.len() == setting.replicas
                };
                if !knows {
                    return;
                }
                std::fs::write(self.place.key_file(), OTHER_KEY).unwrap();
                let (world, file) = (Arc::clone(&self.place.world), self.place.key_file());
                self.later(*lasts, move || {
                    std::fs::write(file, &world.lock().key).unwrap()
                });
            }
            Event::Faults { on, times, fault } => {
                self.place
                    .world
                    .lock()
                    .faults
                    .push_back((*on, *times, *fault));
            }
            Event::Stubborn { provider, field } => {
                let mut world = self.place.world.lock();
                world.stubborn.insert((provider, field));
                world.change(provider, |live| {
                    live["fieldsToSync"]["listing"][field] = json!(false)
                });
            }
            Event::Kill {
                replica,
                steps,
                restart,
            } => {
                if let Some(process) = self.replicas[*replica].take() {
                    let skew = process.machine.skew();
                    process.machine.kill_after(*steps);
                    let machine = Arc::clone(&process.machine);
                    // A process that waits makes few steps.
                    self.later(*restart, move || machine.kill());
                    self.restart_later(*replica, *restart + Duration::from_millis(1), skew);
                }
            }
            Event::Terminate { replica, restart } => {
                if let Some(process) = self.replicas[*replica].take() {
                    process.stop.cancel();
                    let (world, place, started) = (
                        Arc::clone(&self.place.world),
                        self.place.clone(),
                        Arc::clone(&self.started),
                    );
                    let (replica, restart, skew) = (*replica, *restart, process.machine.skew());
                    self.pending.push(tokio::spawn(async move {
                        stopped(&world, process).await;
                        sleep(restart).await;
                        let process = start(&place, replica, skew);
                        started.lock().push((replica, process));
                    }));
                }
            }
            Event::Freeze { replica, lasts } => {
                if let Some(process) = &self.replicas[*replica] {
                    process.machine.freeze(*lasts);
                    let machine = Arc::clone(&process.machine);
                    self.later(*lasts, move || machine.thaw());
                }
            }
            Event::Clock { replica, minutes } => {
                if let Some(process) = &self.replicas[*replica] {
                    process.machine.jump(SignedDuration::from_mins(*minutes));
                }
            }
            Event::Ask(replica) => {
                if let Some(process) = &self.replicas[*replica] {
                    process
                        .handle
                        .request(calry_gitops::daemon::Trigger::Request);
                }
            }
            Event::Approve(replica) => {
                if let Some(process) = &self.replicas[*replica] {
                    approve(process);
                }
            }
            Event::Override(replica) => {
                if let Some(process) = &self.replicas[*replica] {
                    override_hold(&self.place.world, process);
                }
            }
            Event::LeaseFaults { times, fault } => {
                self.place
                    .lease
                    .lock()
                    .faults
                    .extend(std::iter::repeat_n(*fault, *times));
            }
            Event::DamageState(replica) => {
                let mut world = self.place.world.lock();
                // With a wrong key, nothing else shows which workspace is the right one.
                if world.setting.pinned || !self.has_wrong_key() {
                    process::damage(&self.place.state(*replica));
                    world.state_is_lost = true;
                }
            }
        }
    }

    fn has_wrong_key(&self) -> bool {
        std::fs::read_to_string(self.place.key_file()).is_ok_and(|key| key == OTHER_KEY)
    }

    /// The files as they are now, to be published later.
    fn whole(&self) -> Whole {
        let workspace = self.place.world.lock().setting.workspace_file();
        Whole {
            files: self.files.clone(),
            workspace,
            number: self.commits,
        }
    }

    fn alive(&self) -> impl Iterator<Item = &Process> {
        self.replicas.iter().flatten()
    }

    /// After the last fault Calry becomes as git wants it, and then there is silence.
    async fn finish(&mut self) {
        // What was begun comes to its end.
        while !self.pending.is_empty() {
            for pending in std::mem::take(&mut self.pending) {
                let _ = pending.await;
            }
            self.tend();
        }
        {
            let mut world = self.place.world.lock();
            world.record("* the last fault is over");
            world.faults.clear();
            world.stubborn.clear();
        }
        self.place.lease.lock().faults.clear();
        self.write_key();
        self.write_policies("policies: []\n");
        self.place.world.lock().denies = false;
        self.commit(true, None);
        // What was sent may still arrive.
        sleep(Duration::from_secs(30)).await;
        let (enforces, masked, interval) = {
            let world = self.place.world.lock();
            let setting = &world.setting;
            (
                !setting.observe,
                setting.semantics.mask == Mask::Always,
                setting.interval,
            )
        };
        if enforces {
            let began = self.place.world.lock().elapsed();
            loop {
                self.tend();
                self.alive().for_each(approve);
                let difference = {
                    let mut world = self.place.world.lock();
                    let difference = world.first_difference();
                    let waited = world.elapsed() - began;
                    if let Some(difference) = difference.as_ref().filter(|_| waited > PATIENCE) {
                        world.violate(Promise::GitIsWhatRuns, format_args!("{difference} is not as git wants it {waited:?} after the last fault"));
                    }
                    if world.violation.is_some() {
                        return;
                    }
                    difference
                };
                if difference.is_none() {
                    break;
                }
                sleep(Duration::from_secs(2)).await;
            }
        }
        // Approvals, back-offs and masked values come to rest.
        let rest = if masked {
            Duration::from_secs(400)
        } else {
            Duration::ZERO
        };
        let mut rested = Duration::ZERO;
        while rested <= rest {
            self.alive().for_each(approve);
            sleep(interval * 2).await;
            rested += interval * 2;
        }
        self.tend();
        if !self.is_silent(interval * 3, "after the last fault").await {
            return;
        }
        if enforces && self.place.world.lock().setting.max_changes.is_none() {
            self.a_change_and_a_click_take_effect(interval).await;
        }
        let stopping: Vec<Process> = self.replicas.iter_mut().filter_map(Option::take).collect();
        let skews: Vec<SignedDuration> = stopping
            .iter()
            .map(|process| process.machine.skew())
            .collect();
        for process in &stopping {
            process.stop.cancel();
        }
        for process in stopping {
            stopped(&self.place.world, process).await;
        }
        let remembers = {
            let world = self.place.world.lock();
            // Of masked values a replica knows only what it sent itself.
            let knows = world.setting.state && !world.state_is_lost && world.setting.replicas == 1;
            world.violation.is_none() && enforces && (knows || !masked)
        };
        if remembers {
            for (replica, skew) in skews.iter().enumerate() {
                self.replicas[replica] = Some(start(&self.place, replica, *skew));
            }
            if !self
                .is_silent(Duration::from_secs(30), "after a restart")
                .await
            {
                return;
            }
        }
        let is_alone = {
            let setting = &self.place.world.lock().setting;
            setting.replicas == 1 && setting.max_changes.is_none()
        };
        if enforces && is_alone && remembers {
            self.one_reconciliation_has_a_true_exit_code(skews[0]).await;
        }
    }

    /// Nothing is written, and a reconciliation is one request.
    async fn is_silent(&mut self, lasts: Duration, when: &str) -> bool {
        let counts = |stage: &Self| {
            let world = stage.place.world.lock();
            let requests: u64 = world.processes.iter().map(|process| process.requests).sum();
            let reports: u64 = world.processes.iter().map(|process| process.reports).sum();
            (world.writes, requests, reports)
        };
        let held = |stage: &Self, held: fn(&World, &FileSpec) -> bool| -> usize {
            let world = stage.place.world.lock();
            stage
                .files
                .values()
                .filter(|spec| held(&world, spec))
                .count()
        };
        let (before, held_before) = (counts(self), held(self, World::may_be_held));
        sleep(lasts).await;
        let after = counts(self);
        // At midnight a hold may have ended.
        let is_same = held_before == held(self, World::is_held);
        let mut world = self.place.world.lock();
        if after.0 != before.0 && is_same && !world.keeps_names() {
            world.violate(
                Promise::NothingIsForgotten,
                format_args!(
                    "{} update(s) {when}, and nothing differs",
                    after.0 - before.0
                ),
            );
        }
        let (requests, reports) = (after.1 - before.1, after.2 - before.2);
        let starts = 2 * world.setting.replicas as u64;
        if requests > reports + starts && is_same && !world.keeps_names() {
            world.violate(
                Promise::FailuresStaySmall,
                format_args!("{requests} requests in {reports} quiet reconciliations {when}"),
            );
        }
        world.violation.is_none()
    }

    async fn a_change_and_a_click_take_effect(&mut self, interval: Duration) {
        let (provider, latency) = {
            let world = self.place.world.lock();
            let reached = |spec: &&FileSpec| {
                spec.is_valid()
                    && spec.listing.is_some()
                    && !world.may_be_held(spec)
                    && world
                        .live(spec.provider)
                        .is_some_and(|live| !world.reachable(spec, live).is_empty())
            };
            let provider = self.files.values().find(reached).map(|spec| spec.provider);
            (provider, Duration::from_millis(world.setting.latency))
        };
        let leader = self
            .alive()
            .any(|process| process.handle.publisher().leadership().leads());
        let Some(provider) = provider.filter(|_| leader) else {
            return;
        };
        // After a 429 the requests keep a distance, which halves each minute.
        let distance = {
            let world = self.place.world.lock();
            let slowed = world
                .processes
                .iter()
                .filter_map(|process| process.slowed)
                .max();
            slowed.map_or(Duration::ZERO, |at| {
                let minutes = (world.elapsed() - at).as_secs_f64() / 60.0;
                Duration::from_secs(4).mul_f64(0.5_f64.powf(minutes - 1.0).min(1.0))
            })
        };
        let reaction = Duration::from_millis(1000) + latency * 6 + distance;
        let spec = self.files.get_mut(provider).unwrap();
        let listing = spec.listing.get_or_insert_default();
        if !listing.remove("name") {
            listing.insert("name");
        }
        self.commit(true, None);
        self.place
            .world
            .lock()
            .record(format_args!("* a commit flips name of {provider}"));
        if !self
            .is_reached(reaction, "a commit that was announced")
            .await
        {
            return;
        }
        sleep(interval / 3).await;
        {
            let mut world = self.place.world.lock();
            world.record(format_args!(
                "* a user flips name of {provider} in the console"
            ));
            world.change(provider, |live| apply_click(live, Click::Field("name")));
        }
        self.is_reached(interval.mul_f64(1.1) + reaction, "a change in the console")
            .await;
        sleep(Duration::from_secs(2)).await;
    }

    /// The exit code of `run --once`.
    async fn one_reconciliation_has_a_true_exit_code(&mut self, skew: SignedDuration) {
        let others: Vec<Process> = self.replicas.iter_mut().filter_map(Option::take).collect();
        for process in others {
            process.stop.cancel();
            stopped(&self.place.world, process).await;
        }
        let found = process::once(&self.place, skew).await;
        let mut world = self.place.world.lock();
        let wrong = self
            .files
            .values()
            .any(|spec| spec.mistake.is_some() || !world.setting.live.contains_key(spec.provider));
        let all_reached = !world.keeps_names()
            && self.files.values().all(|spec| {
                let live = world.live(spec.provider);
                live.is_none_or(|live| world.reachable(spec, live).len() == PARTS.len())
            });
        if found.invalid_definitions != wrong {
            world.violate(
                Promise::SuccessMeansVerified,
                format_args!("run --once says {found:?}; wrong definitions: {wrong}"),
            );
        }
        if all_reached && found.failed {
            world.violate(
                Promise::SuccessMeansVerified,
                format_args!("run --once says {found:?}, and nothing failed"),
            );
        }
    }

    async fn is_reached(&self, within: Duration, after: &str) -> bool {
        sleep(within).await;
        let mut world = self.place.world.lock();
        if let Some(difference) = world.first_difference() {
            world.violate(
                Promise::GitIsWhatRuns,
                format_args!("{difference} is not as git wants it {within:?} after {after}"),
            );
        }
        world.violation.is_none()
    }
}

/// Files to be published later.
struct Whole {
    files: BTreeMap<&'static str, FileSpec>,
    workspace: Option<String>,
    number: u64,
}

impl Whole {
    fn publish(self, place: &Place, notify: bool) {
        let mut texts: BTreeMap<String, Vec<u8>> = self
            .files
            .values()
            .map(|spec| (spec.name(), spec.text().into_bytes()))
            .collect();
        if let Some(text) = self.workspace {
            texts.insert("workspace.yaml".to_owned(), text.into_bytes());
        }
        let mut world = place.world.lock();
        let at = world.elapsed();
        world.record("* the files are whole again");
        world.git.push(GitState {
            at,
            files: Some(self.files),
            notified: notify,
        });
        drop(world);
        let revision = Revision {
            commit: format!("{:040x}", self.number),
            subject: "A commit".to_owned(),
            author: "A developer".to_owned(),
            time: "2026-03-01T00:00:00Z".to_owned(),
            dirty: false,
        };
        let directory = MemoryDirectory {
            files: Some(texts),
            unsettled: Vec::new(),
            revision: Some(revision),
        };
        place.publish(&directory, notify);
    }
}

fn approve(process: &Process) {
    let status = process.handle.publisher().published();
    if let Some(digest) = status
        .last_pass
        .as_ref()
        .and_then(|pass| pass.digest.as_ref())
    {
        let _ = process
            .handle
            .approve(&Digest::parse(digest).unwrap(), None);
    }
}

fn override_hold(world: &Shared, process: &Process) {
    let status = process.handle.publisher().published();
    let hold = status.hold.as_ref();
    let digest = hold.and_then(|hold| hold.digest.as_ref());
    let Some(digest) = digest.map(|digest| Digest::parse(digest).unwrap()) else {
        return;
    };
    // Without a reason it has no effect.
    if process.handle.approve(&digest, None).is_err()
        && process
            .handle
            .approve(&digest, Some("an emergency"))
            .is_ok()
    {
        let mut world = world.lock();
        let at = world.elapsed();
        world.processes[process.number].overridden = Some(at);
    }
}

/// Waits for the end of a process that was asked to stop.
async fn stopped(world: &Shared, process: Process) {
    // The grace of running updates, and that of the Lease.
    let limit = Duration::from_secs(20 + 5);
    let end = tokio::time::timeout(limit, process.ended).await;
    let mut world = world.lock();
    match end {
        Ok(Ok(LoopEnd::Stopped | LoopEnd::WorkspaceMoved)) => {}
        Ok(Err(error)) => world.violate(
            Promise::FailuresStaySmall,
            format_args!("a process ended with {error}"),
        ),
        Err(_) if process.machine.frozen_since(Duration::ZERO).is_some() => {}
        Err(_) => world.violate(
            Promise::FailuresStaySmall,
            format_args!("process {} does not stop within {limit:?}", process.number),
        ),
    }
    process.machine.kill();
}

fn apply_click(live: &mut Value, click: Click) {
    let flip = |value: &mut Value| *value = json!(value != &json!(true));
    match click {
        Click::Icon(number) => live["icon"] = json!(files::icon(number)),
        Click::Field(field) => flip(&mut live["fieldsToSync"]["listing"][field]),
        Click::Rate(field) => flip(&mut live["fieldsToSync"]["rates"][field]),
        Click::Header(number) => {
            live["partnerKey"]["headers"]["x-api-key"] = json!(format!("canary-click-{number}"))
        }
        Click::Query(number) => {
            live["partnerKey"]["queryParams"]["client"] = json!(format!("canary-click-{number}"))
        }
        Click::RemoveKey => {
            if let Some(key) = live["partnerKey"].as_object_mut() {
                key.remove("headers");
            }
        }
    }
}

fn start(place: &Place, replica: usize, skew: SignedDuration) -> Process {
    let world = Arc::clone(&place.world);
    process::start(place, replica, skew, move |number, report| {
        judge_report(&world, number, report)
    })
}

/// Whether a definition is as desired; partner keys count unless Calry masks them.
fn is_as_desired(desired: &Desired, live: &Value, with_key: bool) -> bool {
    let icon = desired
        .icon
        .as_ref()
        .is_none_or(|icon| live["icon"] == json!(icon.as_str()));
    let key = !with_key
        || KeySection::BOTH.into_iter().all(|section| {
            let Some(values) = desired.partner_key.section(section) else {
                return true;
            };
            let wanted: Value = values
                .iter()
                .map(|(name, value)| {
                    (
                        name.clone(),
                        json!(value.value.as_ref().map(|it| it.expose())),
                    )
                })
                .collect();
            files::part(live, &format!("/partnerKey/{}", section.key())) == wanted
        });
    let fields = desired
        .fields
        .iter()
        .all(|(group, on)| files::part(live, &format!("/fieldsToSync/{group}")) == json!(on));
    icon && key && fields
}

/// A desired state with its secrets, as a text.
fn identity(desired: &Desired) -> String {
    let key = KeySection::BOTH.map(|section| {
        let values = desired.partner_key.section(section)?;
        let values = values.iter().map(|(name, value)| {
            (
                name.clone(),
                value.value.as_ref().map(|it| it.expose().to_owned()),
            )
        });
        Some(values.collect::<BTreeMap<_, _>>())
    });
    format!("{:?} {key:?} {:?}", desired.icon, desired.fields)
}

/// Judges what a process says about a reconciliation.
fn judge_report(world: &Shared, number: usize, report: &ReconciliationReport) {
    let mut world = world.lock();
    let now = world.elapsed();
    world.processes[number].reports += 1;
    let masked = world.setting.semantics.mask == Mask::Always;
    let replica = world.processes[number].replica;
    let summary: Vec<String> = report
        .result
        .updates()
        .iter()
        .map(|result| {
            format!(
                "{} {} ({:?})",
                result.provider,
                result.outcome.as_str(),
                result.cause
            )
        })
        .collect();
    let error = report.result.error().unwrap_or_default();
    world.record(format_args!(
        "replica {replica} reports: reconciliation {} by {:?}, {:?}; {} {error}",
        report.number,
        report.trigger,
        report.result.outcome(),
        summary.join(", ")
    ));
    let frozen = world.processes[number]
        .machine
        .frozen_since(Duration::ZERO)
        .unwrap_or_default();
    let results = report.result.updates();
    for (at, result) in results.iter().enumerate() {
        let provider = result.provider.as_str();
        let since = now.saturating_sub(result.took + TIMEOUT + Duration::from_secs(60) + frozen);
        let was = |version: &Version| is_as_desired(&result.desired, &version.live, true);
        let is_done = matches!(result.outcome, Outcome::Applied);
        // Whether masked values arrived is unknown, unless an answer said so at the moment of the update.
        if is_done && !world.versions_since(provider, since).iter().any(was) {
            world.violate(
                Promise::SuccessMeansVerified,
                format_args!(
                    "replica {replica} reports {provider} as applied, and Calry never had it"
                ),
            );
        }
        let was = |version: &Version| is_as_desired(&result.desired, &version.live, !masked);
        if result.outcome == Outcome::Unchanged
            && !world.versions_since(provider, since).iter().any(was)
        {
            world.violate(
                Promise::SuccessMeansVerified,
                format_args!(
                    "replica {replica} reports {provider} as unchanged, and Calry never had it"
                ),
            );
        }
        let identity = identity(&result.desired);
        let ever = world.versions.get(provider).is_some_and(|versions| {
            versions
                .iter()
                .any(|version| is_as_desired(&result.desired, &version.live, !masked))
        });
        let lost = world.state_is_lost;
        if matches!(
            result.outcome,
            Outcome::NotConverged(_) | Outcome::Partial(_)
        ) {
            world.applied_in_part.insert(provider.to_owned());
        }
        if result.cause == Cause::Drift && !ever && !world.applied_in_part.contains(provider) {
            world.violate(
                Promise::TruthfulCause,
                format_args!(
                    "{provider} is said to have drifted, and it was never as git wants it"
                ),
            );
        }
        // The result of an earlier update may follow a later look at the definition.
        let is_late = report.findings.late.contains_key(&result.provider)
            || results[at + 1..]
                .iter()
                .any(|later| later.provider == result.provider);
        let confirmed =
            !is_late && world.processes[number].confirmed.get(provider) == Some(&identity);
        if result.cause == Cause::Change
            && confirmed
            && !lost
            && !masked
            && world.setting.replicas == 1
        {
            world.violate(Promise::TruthfulCause, format_args!("{provider} is said to be changed by git, and git did not change since it was applied"));
        }
        match result.outcome {
            Outcome::Applied | Outcome::Unchanged => drop(
                world.processes[number]
                    .confirmed
                    .insert(provider.to_owned(), identity),
            ),
            Outcome::Skipped(_) => {}
            _ => drop(world.processes[number].confirmed.remove(provider)),
        }
    }
    let Some(plan) = report.result.plan() else {
        return;
    };
    world.knows_workspace.insert(replica);
    let since = now.saturating_sub(report.took + frozen + Duration::from_millis(1));
    for entry in &plan.entries {
        match (&entry.verdict, &entry.provider) {
            (Verdict::InSync(desired, _), Some(provider)) => {
                let provider = provider.as_str();
                let was = |version: &Version| is_as_desired(desired, &version.live, !masked);
                if !world.versions_since(provider, since).iter().any(was) {
                    world.violate(
                        Promise::SuccessMeansVerified,
                        format_args!(
                            "replica {replica} says that {provider} is in sync, and it is not"
                        ),
                    );
                }
                let identity = identity(desired);
                world.processes[number]
                    .confirmed
                    .insert(provider.to_owned(), identity);
            }
            (Verdict::Update(step), Some(provider)) => {
                let off = |change: &Change| matches!(change, Change::Field { group, after: false, .. } if group == "listing");
                let shown = describe_consequence(&step.changes).is_some();
                if step.changes.iter().any(off) != shown {
                    world.violate(
                        Promise::TruthfulCause,
                        format_args!("a plan for {provider} is not clear about the fields that it switches off"),
                    );
                }
                // Git changed: what was applied before is not what is wanted now.
                let identity = identity(&step.desired);
                let confirmed = &mut world.processes[number].confirmed;
                if confirmed
                    .get(provider.as_str())
                    .is_some_and(|known| *known != identity)
                {
                    confirmed.remove(provider.as_str());
                }
            }
            (_, Some(provider)) => {
                drop(world.processes[number].confirmed.remove(provider.as_str()))
            }
            _ => {}
        }
    }
    let is_quiet = matches!(report.result, ReconciliationResult::Applied(..))
        && report.result.updates().is_empty();
    let faults = report.faults();
    if is_quiet && !faults.failed && !faults.invalid_definitions && report.findings.errors == 0 {
        let invalid = |spec: &FileSpec| {
            spec.mistake
                .is_some_and(|mistake| mistake != Mistake::CutOff)
        };
        let state = world.git.iter().rev().find(|state| state.at <= since);
        let always = state.is_some_and(|state| {
            state.at <= since && world.git.last().is_some_and(|last| last.at <= since)
        });
        let hidden = state
            .and_then(|state| state.files.as_ref())
            .and_then(|files| files.values().find(|spec| invalid(spec)));
        if let Some(spec) = hidden.filter(|_| always).map(|spec| spec.provider) {
            world.violate(
                Promise::SuccessMeansVerified,
                format_args!(
                    "replica {replica} says that all is well, and the file of {spec} is invalid"
                ),
            );
        }
    }
}
