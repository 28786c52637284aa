//! A process: the daemon's loop and its candidate for the Lease, on a simulated machine that may freeze it or kill it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use calry_gitops::daemon::{
    self, Faults, Handle, Leadership, LoopEnd, LoopFile, LoopSettings, Mode, Observer,
    ReconciliationReport, StateStore, StatusPublisher, WorkspaceGroup,
};
use calry_gitops::desired::definitions::{MemoryDefinitions, MemoryDirectory, MissingSecrets};
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::desired::watch::WatchOptions;
use calry_gitops::http::{Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use calry_gitops::live::{Api, KeySource};
use calry_gitops::machine::{Machine, run_on};
use calry_gitops::ops::kubernetes::{Cluster, Lease, Pod, Shards, Times};
use calry_gitops::plan::MaxChanges;
use calry_gitops::policies::PolicyFile;
use calry_gitops::reconcile::backups::Backups;
use calry_gitops::reconcile::{DefinitionsSource, Source};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::calry::{MemoryBackups, Network, ProcessView, REQUEST_TIMEOUT, Shared, TIMEOUT};
use crate::{calry, lease};

pub(crate) struct SimulatedMachine {
    started: Instant,
    begins: Timestamp,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    skew: SignedDuration,
    skew_before: SignedDuration,
    is_dead: bool,
    /// How many more steps the process makes before it is killed.
    steps_left: Option<u64>,
    /// The freezes: since when, and how long.
    frozen: Vec<(Duration, Duration)>,
    /// Of the tasks that wait for the end of a freeze.
    waiting: Vec<Waker>,
}

impl SimulatedMachine {
    fn new(world: &Shared, skew: SignedDuration) -> Arc<Self> {
        let world = world.lock();
        let state = State {
            skew,
            skew_before: skew,
            ..State::default()
        };
        Arc::new(Self {
            started: world.started,
            begins: calry::begins(&world.setting),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn wall(&self) -> Timestamp {
        self.wall_with(self.state.lock().skew)
    }

    /// The time by the clock as it was before its last jump.
    pub(crate) fn wall_before(&self) -> Timestamp {
        self.wall_with(self.state.lock().skew_before)
    }

    fn wall_with(&self, skew: SignedDuration) -> Timestamp {
        self.begins + SignedDuration::try_from(self.started.elapsed()).unwrap() + skew
    }

    pub(crate) fn skew(&self) -> SignedDuration {
        self.state.lock().skew
    }

    pub(crate) fn jump(&self, by: SignedDuration) {
        let mut state = self.state.lock();
        state.skew_before = state.skew;
        state.skew += by;
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.state.lock().is_dead
    }

    pub(crate) fn kill_after(&self, steps: u64) {
        self.state.lock().steps_left = Some(steps);
    }

    pub(crate) fn kill(&self) {
        self.state.lock().is_dead = true;
    }

    /// Freezes the process; the end of the freeze needs [`Self::thaw`].
    pub(crate) fn freeze(&self, lasts: Duration) {
        self.state
            .lock()
            .frozen
            .push((self.started.elapsed(), lasts));
    }

    pub(crate) fn thaw(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The length of the longest freeze that ended after a moment.
    pub(crate) fn frozen_since(&self, since: Duration) -> Option<Duration> {
        let state = self.state.lock();
        let ended = state
            .frozen
            .iter()
            .filter(|(at, lasts)| *at + *lasts > since);
        ended.map(|(_, lasts)| *lasts).max()
    }
}

impl Machine for SimulatedMachine {
    fn now(&self) -> Timestamp {
        self.wall()
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed() + Duration::from_secs(1000)
    }

    fn poll_run(&self, context: &mut Context<'_>) -> Poll<()> {
        let now = self.started.elapsed();
        let mut state = self.state.lock();
        if state.is_dead {
            return Poll::Pending;
        }
        if state.frozen.iter().any(|(at, lasts)| *at + *lasts > now) {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        if let Some(steps) = &mut state.steps_left {
            if *steps == 0 {
                state.is_dead = true;
                return Poll::Pending;
            }
            *steps -= 1;
        }
        Poll::Ready(())
    }
}

/// Where the parts of one history are.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) world: Shared,
    /// Of each replica, because one change wakes all watchers in no certain order.
    pub(crate) definitions: Vec<MemoryDefinitions>,
    pub(crate) lease: lease::Shared,
    /// A directory with the key file, the secrets and the state of each replica.
    pub(crate) directory: PathBuf,
}

impl Place {
    pub(crate) fn publish(&self, directory: &MemoryDirectory, notify: bool) {
        for definitions in &self.definitions {
            definitions.replace(directory.clone(), notify);
        }
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.join("key")
    }

    pub(crate) fn policies(&self) -> PathBuf {
        self.directory.join("policies.yaml")
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.directory.join("secrets")
    }

    pub(crate) fn state(&self, replica: usize) -> PathBuf {
        self.directory.join(format!("state-{replica}"))
    }
}

pub(crate) struct Process {
    /// Its number among all processes of the history.
    pub(crate) number: usize,
    pub(crate) machine: Arc<SimulatedMachine>,
    pub(crate) handle: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: JoinHandle<LoopEnd>,
}

/// Reports nothing.
struct Silent;

impl Observer for Silent {
    fn restore(&self, _: &Map<String, Value>) {}

    fn state(&self) -> Map<String, Value> {
        Map::new()
    }
}

fn http() -> &'static Http {
    static HTTP: OnceLock<Http> = OnceLock::new();
    HTTP.get_or_init(|| {
        install_tls();
        Http::new(HttpTimeouts::default()).unwrap()
    })
}

/// What a process of a replica is made of.
fn prepare(
    place: &Place,
    replica: usize,
    skew: SignedDuration,
) -> (Arc<SimulatedMachine>, usize, LoopSettings, Option<Lease>) {
    let machine = SimulatedMachine::new(&place.world, skew);
    let (setting, number) = {
        let world = place.world.lock();
        (world.setting.clone(), world.processes.len())
    };
    let times = Times {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };
    let candidate = (setting.replicas > 1).then(|| {
        let client = lease::client(&place.lease, Duration::from_millis(setting.latency));
        let cluster = Cluster::new(client, "calry".to_owned(), Pod::default());
        Lease::new(
            &cluster,
            "calry-gitops".to_owned(),
            format!("process-{number}"),
            times,
            Shards::default(),
        )
    });
    let leadership = candidate
        .as_ref()
        .map_or_else(Leadership::default, |it| it.leadership().clone());
    {
        let mut world = place.world.lock();
        world.record(format_args!("replica {replica} starts as process {number}"));
        world.processes.push(ProcessView {
            replica,
            machine: Arc::clone(&machine),
            leadership: leadership.clone(),
            shown: Default::default(),
            in_doubt: Default::default(),
            in_flight: Default::default(),
            slowed: None,
            gate: Duration::ZERO..Duration::ZERO,
            overridden: None,
            requests: 0,
            reports: 0,
            recent: Default::default(),
            confirmed: Default::default(),
        });
    }
    let network = Arc::new(Network {
        world: Arc::clone(&place.world),
        process: number,
    });
    let url = HttpUrl::parse("http://127.0.0.1:1", UrlPolicy::api(false)).unwrap();
    let api = Api::new(http(), url, setting.method)
        .unwrap()
        .with_request_timeout(REQUEST_TIMEOUT)
        .with_write_guard(Arc::new(leadership.clone()))
        .simulated(http(), network);
    let definitions = DefinitionsSource::Memory(place.definitions[replica].clone());
    let state = match setting.state {
        true => StateStore::open(&place.state(replica), None),
        false => StateStore::in_process(),
    };
    let state = Arc::new(state.unwrap());
    let loop_file = LoopFile::new(&state, None, &definitions, "api", Arc::new(Silent));
    let settings = LoopSettings {
        source: Arc::new(Source {
            definitions,
            secrets: SecretSources::new(Some(place.secrets())).with_variables(|_| None),
            missing: MissingSecrets::Error,
            strict: false,
            only: Vec::new(),
            base: None,
            trust: None,
            workspace: None,
            policies: setting.policy.then(|| PolicyFile(place.policies())),
        }),
        repository: None,
        links: Default::default(),
        key: KeySource::File(place.key_file()),
        key_expiry: Default::default(),
        api,
        interval: setting.interval,
        mode: if setting.observe {
            Mode::Observe
        } else {
            Mode::Enforce
        },
        max_changes: setting
            .max_changes
            .map_or(MaxChanges::Unlimited, MaxChanges::Count),
        concurrency: setting.concurrency,
        timeout: TIMEOUT,
        backups: setting.has_backups().then(|| {
            Backups::new(Arc::new(MemoryBackups {
                world: Arc::clone(&place.world),
            }))
        }),
        watch_options: WatchOptions::default(),
        apply_listener: None,
        update_listener: None,
        state,
        loop_file: Arc::new(loop_file),
        slot: WorkspaceGroup::slots(vec![None]).remove(0),
        leadership,
    };
    (machine, number, settings, candidate)
}

/// What `run --once` finds wrong.
pub(crate) async fn once(place: &Place, skew: SignedDuration) -> Faults {
    let (machine, _, settings, _) = prepare(place, 0, skew);
    let once = async move {
        daemon::once(&settings, &CancellationToken::new())
            .await
            .faults()
    };
    run_on(machine, once).await
}

/// Starts the process of a replica.
pub(crate) fn start(
    place: &Place,
    replica: usize,
    skew: SignedDuration,
    report: impl Fn(usize, &ReconciliationReport) + Send + Sync + 'static,
) -> Process {
    let (machine, number, settings, candidate) = prepare(place, replica, skew);
    let handle = Handle::new(StatusPublisher::new(&settings, "definitions"));
    let stop = CancellationToken::new();
    let (of_loop, candidate_stop) = (stop.clone(), CancellationToken::new());
    let (loop_handle, lease_handle) = (handle.clone(), handle.clone());
    let main = async move {
        let keeping = candidate.map(|candidate| {
            let keep = candidate.keep(vec![lease_handle], None, candidate_stop.clone());
            tokio::spawn(calry_gitops::machine::inherit(keep))
        });
        let end = daemon::run(&settings, &loop_handle, of_loop, |it| report(number, it)).await;
        candidate_stop.cancel();
        if let Some(keeping) = keeping {
            let _ = keeping.await;
        }
        end
    };
    let ended = tokio::spawn(run_on(Arc::clone(&machine) as Arc<dyn Machine>, main));
    Process {
        number,
        machine,
        handle,
        stop,
        ended,
    }
}

/// Damages the state files of a replica.
pub(crate) fn damage(state: &Path) {
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let _ = std::fs::write(entry.path(), "{\"version\":");
    }
}
