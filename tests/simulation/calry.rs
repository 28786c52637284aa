//! A Calry in memory, the network in between, and what it sees of the daemons: every update is judged when it is sent and
//! when it is executed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::http;
use calry_gitops::daemon::Leadership;
use calry_gitops::live::{Backup, BrokenTransport, Transport};
use calry_gitops::model::UpdateMethod;
use calry_gitops::reconcile::apply::{STALE, STALE_IF_CARRIED};
use calry_gitops::reconcile::backups::BackupStore;
use calry_gitops::sandbox::{Mask, PartialPartnerKey, Semantics, Store, Update, mask};
use fastrand::Rng;
use futures_util::future::{BoxFuture, FutureExt as _};
use http_body_util::StreamBody;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use reqwest::{Body, Request, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::files::{self, FileSpec, PARTS, Secrets, TYPOS};
use crate::history::{Fault, RetryAfter, Setting, Target};
use crate::process::SimulatedMachine;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) promise: Promise,
    pub(crate) what: String,
    pub(crate) at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    GitIsWhatRuns,
    UnmanagedMeansUntouched,
    ReadingCannotWrite,
    NoSecretComesOut,
    SuccessMeansVerified,
    FailuresStaySmall,
    NoTypoIsApplied,
    OneWriteAtATime,
    NoNeedlessWrite,
    TruthfulCause,
    NothingIsForgotten,
    OnlyWhatIsAllowed,
    NothingOverwrittenIsLost,
}

/// What git wants from a moment on.
#[derive(Clone, Debug)]
pub(crate) struct GitState {
    pub(crate) at: Duration,
    /// `None` while the directory is missing or empty.
    pub(crate) files: Option<BTreeMap<&'static str, FileSpec>>,
    /// Whether the loops were notified.
    pub(crate) notified: bool,
}

/// A definition from a moment on.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) at: Duration,
    pub(crate) live: Arc<Value>,
}

/// One process, as the world sees it.
pub(crate) struct ProcessView {
    pub(crate) replica: usize,
    pub(crate) machine: Arc<SimulatedMachine>,
    pub(crate) leadership: Leadership,
    /// The version of each definition that it was shown last, and when.
    pub(crate) shown: BTreeMap<String, (usize, Duration)>,
    /// Since when the effect of its last update is unknown to it, by provider: no further one may be sent before a read.
    pub(crate) in_doubt: BTreeMap<String, Duration>,
    /// Its updates without an answer yet, by provider.
    pub(crate) in_flight: BTreeMap<String, usize>,
    /// When it was answered with 429 last.
    pub(crate) slowed: Option<Duration>,
    /// No request may begin in this time: Calry said so.
    pub(crate) gate: Range<Duration>,
    /// When a user last approved a plan although the workspace was on hold.
    pub(crate) overridden: Option<Duration>,
    pub(crate) requests: u64,
    pub(crate) reports: u64,
    /// The times of the last requests.
    pub(crate) recent: VecDeque<Duration>,
    /// The desired state with which each provider was last reported in sync or applied, as a text.
    pub(crate) confirmed: BTreeMap<String, String>,
}

pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) started: Instant,
    pub(crate) dice: Rng,
    pub(crate) store: Store,
    /// Another workspace, whose key must never be used to write.
    pub(crate) other: Store,
    pub(crate) key: String,
    pub(crate) versions: BTreeMap<String, Vec<Version>>,
    pub(crate) stubborn: BTreeSet<(&'static str, &'static str)>,
    /// Whether the policy of the history is in force.
    pub(crate) denies: bool,
    pub(crate) faults: VecDeque<(Target, usize, Fault)>,
    pub(crate) git: Vec<GitState>,
    pub(crate) secrets: Vec<(Duration, Secrets)>,
    pub(crate) processes: Vec<ProcessView>,
    pub(crate) violation: Option<Violation>,
    /// What happened, line by line.
    pub(crate) trace: Vec<String>,
    /// The definitions that were backed up, by provider.
    pub(crate) backups: BTreeMap<String, Vec<Value>>,
    pub(crate) writes: u64,
    pub(crate) faulty: u64,
    /// Whether state files were damaged.
    pub(crate) state_is_lost: bool,
    /// The providers of which Calry kept something.
    pub(crate) applied_in_part: BTreeSet<String>,
    /// The replicas that have made a plan.
    pub(crate) knows_workspace: BTreeSet<usize>,
    pub(crate) elapsed_at_end: Duration,
}

pub(crate) type Shared = Arc<Mutex<World>>;

pub(crate) const OTHER_KEY: &str = "zepl.other-1.canary-other.globex";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(40);
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an update may follow a change of the files of which its process was notified: the rate of reconciliations delays the
/// news by up to a second, and a distance between requests, after a 429, an update.
const OUTDATED: Duration = Duration::from_millis(2500);
const OUTDATED_IF_SLOWED: Duration = Duration::from_secs(5);

/// After how long a freeze is noticed.
const NOTICED: Duration = Duration::from_millis(600);

fn workspace(slug: &str, number: u8) -> Value {
    json!({
        "id": format!("00000000-0000-4000-8000-0000000000{number:02}"), "name": slug, "slug": slug,
        "defaultCurrency": "EUR", "defaultDiscountPercentage": 0,
        "createdAt": "2025-01-01T00:00:00.000Z", "updatedAt": "2025-01-01T00:00:00.000Z",
    })
}

impl World {
    pub(crate) fn new(setting: &Setting) -> Self {
        let mut dice = Rng::with_seed(setting.seed ^ 0x9e37_79b9_7f4a_7c15);
        let definition = |(number, (provider, unknown)): (usize, (&&str, &bool)),
                          dice: &mut Rng| {
            let mut fields = |names: &[&str]| -> Value {
                names
                    .iter()
                    .map(|name| ((*name).to_owned(), json!(dice.bool())))
                    .collect()
            };
            let (listing, rates) = (fields(&files::FIELDS), fields(&files::RATES));
            let mut definition = json!({
                "id": format!("00000000-0000-4000-9000-0000000000{number:02}"),
                "name": provider, "provider": provider,
                "partnerKey": {},
                "fieldsToSync": {"listing": listing, "rates": rates},
                "createdAt": "2025-01-01T00:00:00.000Z", "updatedAt": "2025-01-01T00:00:00.000Z",
            });
            if dice.bool() {
                definition["icon"] = json!(files::icon(dice.u32(1000..2000)));
            }
            for section in ["headers", "queryParams"] {
                if dice.bool() {
                    let value = format!("canary-live-{section}-{number}");
                    definition["partnerKey"][section] = json!({"x-old": value});
                }
            }
            if *unknown {
                definition["partnerKey"]["certificate"] = json!({"pem": "canary-certificate"});
            }
            ((*provider).to_owned(), definition)
        };
        let definitions: BTreeMap<String, Value> = setting
            .live
            .iter()
            .enumerate()
            .map(|one| definition(one, &mut dice))
            .collect();
        let versions = definitions
            .iter()
            .map(|(provider, live)| {
                let first = Version {
                    at: Duration::ZERO,
                    live: Arc::new(live.clone()),
                };
                (provider.clone(), vec![first])
            })
            .collect();
        Self {
            setting: setting.clone(),
            started: Instant::now(),
            dice,
            other: Store {
                workspace: workspace("globex", 2),
                definitions: definitions.clone(),
            },
            store: Store {
                workspace: workspace("acme", 1),
                definitions,
            },
            key: "zepl.write-0.canary-key-0.acme".to_owned(),
            versions,
            stubborn: BTreeSet::new(),
            denies: setting.policy,
            faults: VecDeque::new(),
            git: Vec::new(),
            secrets: vec![(Duration::ZERO, Secrets::new())],
            processes: Vec::new(),
            violation: None,
            trace: Vec::new(),
            backups: BTreeMap::new(),
            writes: 0,
            faulty: 0,
            state_is_lost: false,
            applied_in_part: BTreeSet::new(),
            knows_workspace: BTreeSet::new(),
            elapsed_at_end: Duration::ZERO,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The true time.
    pub(crate) fn now(&self) -> Timestamp {
        begins(&self.setting) + SignedDuration::try_from(self.elapsed()).unwrap()
    }

    pub(crate) fn record(&mut self, what: impl fmt::Display) {
        let at = self.elapsed();
        self.trace
            .push(format!("{:>9.3} s  {what}", at.as_secs_f64()));
    }

    pub(crate) fn violate(&mut self, promise: Promise, what: impl fmt::Display) {
        let (at, what) = (self.elapsed(), what.to_string());
        self.record(format_args!("BROKEN {promise:?}: {what}"));
        self.violation
            .get_or_insert(Violation { promise, what, at });
    }

    /// Changes a definition and keeps the version.
    pub(crate) fn change(&mut self, provider: &str, change: impl FnOnce(&mut Value)) {
        let (now, at) = (self.now(), self.elapsed());
        let Some(live) = self.store.modify(provider, now, change) else {
            return;
        };
        let live = Arc::new(live.clone());
        self.versions
            .get_mut(provider)
            .unwrap()
            .push(Version { at, live });
    }

    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets.last().unwrap().1
    }

    pub(crate) fn live(&self, provider: &str) -> Option<&Value> {
        self.store.definitions.get(provider)
    }

    /// The versions of a definition that were live at some time since a moment.
    pub(crate) fn versions_since(&self, provider: &str, since: Duration) -> &[Version] {
        let Some(versions) = self.versions.get(provider) else {
            return &[];
        };
        let later = versions.iter().filter(|version| version.at > since).count();
        &versions[(versions.len() - later).saturating_sub(1)..]
    }

    fn git_since(&self, since: Duration) -> &[GitState] {
        let later = self.git.iter().filter(|state| state.at > since).count();
        &self.git[(self.git.len() - later).saturating_sub(1)..]
    }

    fn secrets_since(&self, since: Duration) -> &[(Duration, Secrets)] {
        let later = self.secrets.iter().filter(|(at, _)| *at > since).count();
        &self.secrets[(self.secrets.len() - later).saturating_sub(1)..]
    }

    /// How long ago a process may have read the files of an update that it sends now.
    fn window(&self, process: &ProcessView) -> Duration {
        let long = self.setting.interval.mul_f64(1.3) + TIMEOUT + OUTDATED;
        let since = self.elapsed().saturating_sub(long);
        let lost = self
            .git_since(since)
            .iter()
            .any(|state| !state.notified && state.at > since);
        let frozen = process.machine.frozen_since(since);
        match (lost, frozen) {
            (_, Some(frozen)) => long + frozen,
            (true, None) => long,
            (false, None) if process.slowed.is_some() => OUTDATED_IF_SLOWED,
            (false, None) => OUTDATED,
        }
    }

    /// Whether a hold is in force for every process and in truth.
    pub(crate) fn is_held(&self, spec: &FileSpec) -> bool {
        self.held(spec).into_iter().all(|held| held)
    }

    pub(crate) fn may_be_held(&self, spec: &FileSpec) -> bool {
        self.workspace_may_be_held() || self.held(spec).into_iter().any(|held| held)
    }

    /// Whether a process is in the middle of a freeze window or a hold of the workspace, and no user has approved its plan.
    fn must_not_write(&self, process: &ProcessView) -> bool {
        // The updates of an approved plan end within the time of a reconciliation.
        let approved = process
            .overridden
            .is_some_and(|at| self.elapsed() < at + self.setting.interval + TIMEOUT);
        // An update that was about to be sent when the window began is no error.
        let begun = SignedDuration::from_secs(1);
        let since = self.elapsed().saturating_sub(Duration::from_secs(1));
        let frozen = process.machine.frozen_since(since).is_some();
        let clocks = [process.machine.wall(), process.machine.wall_before()];
        let in_window = |now: Timestamp| {
            let in_hold = self.setting.holds.until.is_some_and(|until| {
                now.to_zoned(jiff::tz::TimeZone::UTC).date() <= until.parse::<Date>().unwrap()
            });
            in_hold
                || self
                    .setting
                    .windows()
                    .any(|(from, to)| from + begun <= now && now < to)
        };
        !approved && !frozen && clocks.into_iter().all(in_window)
    }

    /// Whether the workspace may be on hold by some clock, or was it a moment ago. The next reconciliation ends that.
    fn workspace_may_be_held(&self) -> bool {
        let later = SignedDuration::try_from(self.setting.interval * 2 + TIMEOUT).unwrap();
        let minute = SignedDuration::from_mins(1);
        self.clocks().chain([self.now()]).any(|now| {
            let in_hold = self.setting.holds.until.is_some_and(|until| {
                (now - later).to_zoned(jiff::tz::TimeZone::UTC).date()
                    <= until.parse::<Date>().unwrap()
            });
            in_hold
                || self
                    .setting
                    .windows()
                    .any(|(from, to)| from - minute <= now && now < to + later)
        })
    }

    /// The clocks of the running processes, and what they were before they jumped.
    fn clocks(&self) -> impl Iterator<Item = Timestamp> {
        let alive = self.processes.iter();
        let alive = alive.filter(|process| process.machine.is_alive());
        alive.flat_map(|process| [process.machine.wall(), process.machine.wall_before()])
    }

    fn held(&self, spec: &FileSpec) -> Vec<bool> {
        let Some(until) = spec.hold else {
            return vec![false];
        };
        let until: Date = until.parse().unwrap();
        let minute = SignedDuration::from_mins(2);
        let now = self.now();
        self.clocks()
            .chain([now, now - minute])
            .map(|now| now.to_zoned(jiff::tz::TimeZone::UTC).date() <= until)
            .collect()
    }

    /// The first difference between what must be reached and Calry; `None` if Calry is as git wants it.
    pub(crate) fn first_difference(&self) -> Option<String> {
        let files = self.git.last()?.files.as_ref()?;
        files
            .values()
            .filter(|spec| spec.is_valid() && !self.may_be_held(spec))
            .find_map(|spec| {
                let live = self.live(spec.provider)?;
                let reachable = self.reachable(spec, live);
                let wanted = spec.wanted(self.secrets());
                let differs = |(at, wanted): &&(&'static str, Value)| {
                    let mut is = files::part(live, at);
                    if self.setting.semantics.partner_key == PartialPartnerKey::Merges
                        && let (Some(is), Some(wanted)) = (is.as_object_mut(), wanted.as_object())
                    {
                        // No update removes a name.
                        is.retain(|name, _| wanted.contains_key(name));
                    }
                    reachable.contains(at) && is != *wanted
                };
                wanted
                    .iter()
                    .find(differs)
                    .map(|(at, _)| format!("{}{at}", spec.provider))
            })
    }

    /// Whether Calry keeps a name below a partner key that git removes: then updates go on, less and less often.
    pub(crate) fn keeps_names(&self) -> bool {
        let files = self.git.last().and_then(|state| state.files.as_ref());
        self.setting.semantics.partner_key == PartialPartnerKey::Merges
            && files.into_iter().flat_map(BTreeMap::values).any(|spec| {
                let Some(live) = self.live(spec.provider) else {
                    return false;
                };
                let wanted = spec.wanted(self.secrets());
                let mut key = wanted
                    .iter()
                    .filter(|(at, _)| at.starts_with("/partnerKey"));
                key.any(|(at, wanted)| files::part(live, at) != *wanted)
            })
    }

    /// The parts that an update can reach: a partner key is only sent whole.
    pub(crate) fn reachable(&self, spec: &FileSpec, live: &Value) -> Vec<&'static str> {
        let holds = |at: &str| {
            live.pointer(at)
                .and_then(Value::as_object)
                .is_some_and(|it| !it.is_empty())
        };
        let unknown = live.pointer("/partnerKey/certificate").is_some();
        let masked = self.setting.semantics.mask == Mask::Always;
        let unseen = masked
            && (spec.headers.is_none() && holds("/partnerKey/headers")
                || spec.query.is_none() && holds("/partnerKey/queryParams"));
        let key_is_stuck = unknown || unseen;
        if key_is_stuck && self.setting.method == UpdateMethod::Put {
            return Vec::new();
        }
        PARTS
            .into_iter()
            .filter(|at| !(key_is_stuck && at.starts_with("/partnerKey")))
            .collect()
    }

    /// Judges an update at the moment in which it is sent.
    fn judge_sending(&mut self, process: usize, provider: &str, body: &Value) -> Vec<FileSpec> {
        use Promise::*;
        let now = self.elapsed();
        let view = &self.processes[process];
        let replica = view.replica;
        if self.setting.observe {
            self.violate(
                ReadingCannotWrite,
                format_args!("replica {replica} observes and updates {provider}"),
            );
            return Vec::new();
        }
        if self.must_not_write(view) {
            self.violate(
                UnmanagedMeansUntouched,
                format_args!(
                    "the workspace is on hold, and {provider} is updated without an approval"
                ),
            );
        }
        let view = &self.processes[process];
        if !view.leadership.leads() {
            self.violate(
                OneWriteAtATime,
                format_args!("replica {replica} does not lead and updates {provider}"),
            );
        }
        let leads = |(at, other): &(usize, &ProcessView)| {
            *at != process
                && other.machine.is_alive()
                && other.leadership.lease().is_some()
                && other.leadership.leads()
        };
        if let Some((_, other)) = self.processes.iter().enumerate().find(leads) {
            let other = other.replica;
            self.violate(
                OneWriteAtATime,
                format_args!("replicas {replica} and {other} lead both, and {provider} is updated"),
            );
        }
        let view = &mut self.processes[process];
        let running = view.in_flight.entry(provider.to_owned()).or_default();
        *running += 1;
        if *running > 1 {
            self.violate(
                OneWriteAtATime,
                format_args!("{provider} is updated while an update of it runs"),
            );
        }
        if self.processes[process]
            .in_doubt
            .insert(provider.to_owned(), now)
            .is_some()
        {
            self.violate(
                NoNeedlessWrite,
                format_args!("{provider} is updated again, and was not read since the last update"),
            );
        }
        let text = body.to_string();
        if let Some(typo) = TYPOS.iter().find(|typo| text.contains(**typo)) {
            self.violate(
                NoTypoIsApplied,
                format_args!("{typo} is sent to {provider}"),
            );
        }
        if let Err(problems) = Update::parse(body.clone()) {
            self.violate(
                NoTypoIsApplied,
                format_args!("an update of {provider} breaks the contract: {problems:?}"),
            );
        }
        if text.contains("****") {
            self.violate(
                UnmanagedMeansUntouched,
                format_args!("a mask is sent to {provider}"),
            );
        }
        let view = &self.processes[process];
        let Some((shown, shown_at)) = view.shown.get(provider).copied() else {
            self.violate(
                FailuresStaySmall,
                format_args!("{provider} is updated without being read"),
            );
            return Vec::new();
        };
        let shown = Arc::clone(&self.versions[provider][shown].live);
        if self.setting.has_backups() && !self.has_backup(provider, &shown) {
            self.violate(
                NothingOverwrittenIsLost,
                format_args!("{provider} is updated without a backup of {shown}"),
            );
        }
        let name = |of: &Value, at: &str| of.pointer(at) == Some(&Value::Bool(true));
        let switches_off = name(&shown, "/fieldsToSync/listing/name")
            && body.get("fieldsToSync").is_some()
            && !name(body, "/fieldsToSync/listing/name");
        if self.denies && switches_off {
            self.violate(
                OnlyWhatIsAllowed,
                format_args!(
                    "a policy keeps the name of {provider} on, and an update switches it off"
                ),
            );
        }
        let view = &self.processes[process];
        let since = now.saturating_sub(self.window(view));
        let long =
            now.saturating_sub(self.setting.interval.mul_f64(1.3) + TIMEOUT + self.window(view));
        let specs: Vec<FileSpec> = self
            .git_since(since)
            .iter()
            .filter_map(|state| state.files.as_ref()?.get(provider).cloned())
            .filter(|spec| spec.is_valid())
            .collect();
        if specs.is_empty() {
            self.violate(
                UnmanagedMeansUntouched,
                format_args!("{provider} is updated and no valid file wants it"),
            );
            return Vec::new();
        }
        if specs.iter().all(|spec| self.is_held(spec)) {
            self.violate(
                UnmanagedMeansUntouched,
                format_args!("{provider} is on hold and is updated"),
            );
            return Vec::new();
        }
        let pairs: Vec<(&FileSpec, &Secrets)> = specs
            .iter()
            .flat_map(|spec| {
                self.secrets_since(long)
                    .iter()
                    .map(move |(_, secrets)| (spec, secrets))
            })
            .filter(|(spec, secrets)| self.is_payload(spec, secrets, &shown, body))
            .collect();
        let matching: Vec<FileSpec> = pairs.iter().map(|(spec, _)| (*spec).clone()).collect();
        let age = now - shown_at;
        let limit = |spec: &FileSpec| {
            let sent = |part: &str| body.get(part).is_some();
            let carries = sent("icon") && spec.icon.is_none()
                || sent("partnerKey") && (spec.headers.is_none() || spec.query.is_none())
                || sent("fieldsToSync") && (spec.listing.is_none() || spec.rates.is_none());
            if carries || self.setting.has_backups() {
                STALE_IF_CARRIED
            } else {
                STALE
            }
        };
        let view = &self.processes[process];
        let is_stale = !matching.is_empty()
            && view.slowed.is_none()
            && matching.iter().all(|spec| age > limit(spec) + NOTICED);
        let needless = self.setting.semantics.mask == Mask::Never
            && !pairs.is_empty()
            && pairs.iter().all(|(spec, secrets)| {
                // What cannot be reached may differ for ever.
                spec.wanted(secrets).iter().all(|(at, wanted)| {
                    files::part(&shown, at) == *wanted
                        || body
                            .pointer(&format!("/{}", at.split('/').nth(1).unwrap()))
                            .is_none()
                })
            });
        if is_stale {
            self.violate(
                UnmanagedMeansUntouched,
                format_args!("{provider} was read {age:?} ago, and is updated"),
            );
        }
        if matching.is_empty() {
            let what = format!(
                "the update of {provider} is not the one that git wants: {body}, shown {shown}"
            );
            self.violate(UnmanagedMeansUntouched, what);
        } else if needless {
            self.violate(
                NoNeedlessWrite,
                format_args!("{provider} was shown as git wants it, and is updated"),
            );
        }
        matching
    }

    /// Whether a definition, as Calry shows it, is in a backup.
    fn has_backup(&self, provider: &str, live: &Value) -> bool {
        let is_masked = self.setting.semantics.mask == Mask::Always;
        // What the daemon does not know is not touched, and a group that is absent is none.
        let parts = [
            "/id",
            "/icon",
            "/partnerKey/headers",
            "/partnerKey/queryParams",
            "/fieldsToSync",
        ];
        // Of a masked section, only the names can be saved.
        let is_saved = |at: &str, saved: &Value, shown: &Value| match (saved, shown) {
            (Value::Object(saved), Value::Object(shown))
                if is_masked && at.starts_with("/partnerKey") =>
            {
                saved.keys().eq(shown.keys())
            }
            _ => saved == shown,
        };
        let value = |of: &Value, at: &str| of.pointer(at).cloned().unwrap_or_default();
        let mut backups = self.backups.get(provider).into_iter().flatten();
        backups.any(|backup| {
            let saved = &backup["definition"];
            let mut parts = parts.iter();
            parts.all(|at| is_saved(at, &value(saved, at), &value(live, at)))
        })
    }

    /// Whether an update is the right one for a file and a live definition: traps 1 to 5.
    fn is_payload(&self, spec: &FileSpec, secrets: &Secrets, shown: &Value, body: &Value) -> bool {
        let wanted: BTreeMap<_, _> = spec.wanted(secrets).into_iter().collect();
        let of = |at: &str| {
            wanted
                .get(at)
                .cloned()
                .unwrap_or_else(|| files::part(shown, at))
        };
        let icon = body.get("icon").is_none_or(|sent| *sent == of("/icon"));
        let key = body.get("partnerKey").is_none_or(|_| {
            ["/partnerKey/headers", "/partnerKey/queryParams"]
                .into_iter()
                .all(|at| files::part(body, at) == of(at))
        });
        let fields = body.get("fieldsToSync").is_none_or(|sent| {
            let groups = sent.as_object().unwrap();
            let no_false = groups.values().all(|group| {
                group
                    .as_object()
                    .is_some_and(|it| it.values().all(|on| *on == json!(true)))
            });
            no_false
                && ["/fieldsToSync/listing", "/fieldsToSync/rates"]
                    .into_iter()
                    .all(|at| files::part(body, at) == of(at))
        });
        let has = |part: &str| body.get(part).is_some();
        let whole = self.setting.method == UpdateMethod::Patch
            || has("fieldsToSync")
                && (has("icon") || of("/icon").is_null())
                && (has("partnerKey")
                    || shown
                        .get("partnerKey")
                        .is_none_or(|key| key.as_object().is_none_or(serde_json::Map::is_empty)));
        icon && key && fields && whole
    }

    /// Executes an update, and judges its effect: `on_time` if it was neither late nor repeated.
    fn execute(
        &mut self,
        process: usize,
        provider: &str,
        body: &Value,
        specs: &[FileSpec],
        on_time: bool,
    ) {
        let Ok(update) = Update::parse(body.clone()) else {
            return;
        };
        let before = self.store.definitions.get(provider).cloned();
        let (now, at) = (self.now(), self.elapsed());
        let Setting {
            method, semantics, ..
        } = self.setting;
        let stubborn: Vec<&str> = self
            .stubborn
            .iter()
            .filter(|(of, _)| *of == provider)
            .map(|(_, field)| *field)
            .collect();
        let Some(after) = execute(
            &mut self.store,
            provider,
            &update,
            method,
            semantics,
            now,
            &stubborn,
        ) else {
            return;
        };
        self.writes += 1;
        let after = Arc::new(after);
        let shown = self.processes[process].shown.get(provider);
        let shown = shown.map(|(version, _)| *version);
        let versions = self.versions.get_mut(provider).unwrap();
        let is_known = shown == Some(versions.len() - 1);
        versions.push(Version {
            at,
            live: Arc::clone(&after),
        });
        let Some(mut before) = before.filter(|_| on_time && is_known) else {
            return;
        };
        for field in stubborn {
            before["fieldsToSync"]["listing"][field] = json!(false);
        }
        if before.pointer("/partnerKey/certificate") != after.pointer("/partnerKey/certificate") {
            self.violate(
                Promise::UnmanagedMeansUntouched,
                format_args!("an update destroyed the unknown part of {provider}'s partner key"),
            );
        }
        let kept = |spec: &FileSpec| {
            let managed: Vec<&str> = spec
                .wanted(&Secrets::new())
                .iter()
                .map(|(at, _)| *at)
                .collect();
            let mut unmanaged = PARTS.into_iter().filter(|at| !managed.contains(at));
            unmanaged.all(|at| files::part(&before, at) == files::part(&after, at))
        };
        if !specs.is_empty() && !specs.iter().any(kept) {
            let what = format!(
                "an update of {provider} changed an unmanaged part: {before} became {after} by {body}"
            );
            self.violate(Promise::UnmanagedMeansUntouched, what);
        }
    }

    fn fault_of(&mut self, provider: Option<&str>, is_update: bool) -> Option<Fault> {
        let matches = |target: &Target| match target {
            Target::Any => true,
            Target::Reads => !is_update,
            Target::Writes => is_update,
            Target::Provider(wanted) => provider == Some(*wanted),
        };
        let at = self
            .faults
            .iter()
            .position(|(target, ..)| matches(target))?;
        let (_, times, fault) = &mut self.faults[at];
        let fault = *fault;
        *times -= 1;
        if *times == 0 {
            self.faults.remove(at);
        }
        self.faulty += 1;
        Some(fault)
    }

    /// A request begins: its time and its number are judged.
    fn begin(&mut self, process: usize, what: &str) {
        let now = self.elapsed();
        let view = &mut self.processes[process];
        view.requests += 1;
        view.recent.push_back(now);
        while view
            .recent
            .front()
            .is_some_and(|at| *at + Duration::from_secs(10) < now)
        {
            view.recent.pop_front();
        }
        let (many, early) = (
            view.recent.len() > 80,
            view.gate.contains(&(now + Duration::from_millis(2))),
        );
        let replica = view.replica;
        if many {
            self.violate(
                Promise::FailuresStaySmall,
                format_args!("replica {replica} sends more than 80 requests in 10 s"),
            );
        }
        if early {
            self.violate(Promise::FailuresStaySmall, format_args!("replica {replica} sends {what} before the end of the pause that Calry asked for"));
        }
    }
}

/// The moment at which a history begins.
pub(crate) fn begins(setting: &Setting) -> Timestamp {
    setting.begin()
}

fn execute(
    store: &mut Store,
    provider: &str,
    update: &Update,
    method: UpdateMethod,
    semantics: Semantics,
    now: Timestamp,
    stubborn: &[&str],
) -> Option<Value> {
    store.update(provider, update, method, semantics, now)?;
    let live = store.definitions.get_mut(provider)?;
    for field in stubborn {
        live["fieldsToSync"]["listing"][field] = json!(false);
    }
    Some(live.clone())
}

/// The backups of all processes.
pub(crate) struct MemoryBackups {
    pub(crate) world: Shared,
}

impl fmt::Debug for MemoryBackups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryBackups")
    }
}

impl BackupStore for MemoryBackups {
    fn save(&self, backup: &Backup) -> Result<(), String> {
        let provider = backup.live.provider.to_string();
        let document: Value = serde_json::from_str(backup.write().expose()).unwrap();
        let mut world = self.world.lock();
        // The disk is full now and then, as long as there are other faults.
        if !world.faults.is_empty() && world.dice.u8(..4) == 0 {
            world.record(format_args!("the backup of {provider} fails"));
            return Err("the disk is full".to_owned());
        }
        world.backups.entry(provider).or_default().push(document);
        Ok(())
    }
}

/// The network between one process and Calry.
pub(crate) struct Network {
    pub(crate) world: Shared,
    pub(crate) process: usize,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// An update whose sender waits for the answer.
struct Waiting(Shared, usize, String);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(running) = self.0.lock().processes[self.1].in_flight.get_mut(&self.2) {
            *running -= 1;
        }
    }
}

struct Sent {
    world: Shared,
    process: usize,
    path: String,
    provider: Option<String>,
    key: String,
    body: Option<Value>,
    specs: Vec<FileSpec>,
    at: Duration,
}

enum Answer {
    Whole(u16, Option<RetryAfter>, Vec<u8>),
    CutOff(Vec<u8>),
    Broken { sent: bool },
    Never,
}

impl Transport for Network {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, BrokenTransport>> {
        let path = request.url().path().to_owned();
        let provider = path
            .strip_prefix("/api/v1/integration-definition/")
            .map(str::to_owned);
        let key = request.headers()["x-calry-api-key"]
            .to_str()
            .unwrap()
            .to_owned();
        let body: Option<Value> = request
            .body()
            .and_then(Body::as_bytes)
            .map(|bytes| serde_json::from_slice(bytes).unwrap());
        let (fault, there, back, specs, at) = {
            let mut world = self.world.lock();
            let replica = world.processes[self.process].replica;
            let what = format!("{} {path}", request.method());
            world.begin(self.process, &what);
            let fault = world.fault_of(provider.as_deref(), body.is_some());
            let latency = world.setting.latency;
            let (there, back) = (world.dice.u64(1..=latency), world.dice.u64(1..=latency));
            let content = body
                .as_ref()
                .map(|body| format!(" {body}"))
                .unwrap_or_default();
            let with_fault = fault
                .map(|fault| format!(" — {fault:?}"))
                .unwrap_or_default();
            world.record(format_args!(
                "replica {replica}: {what}{content}{with_fault}"
            ));
            let specs = match (&provider, &body) {
                (Some(provider), Some(body)) => world.judge_sending(self.process, provider, body),
                _ => Vec::new(),
            };
            (
                fault,
                Duration::from_millis(there),
                Duration::from_millis(back),
                specs,
                world.elapsed(),
            )
        };
        let waiting = body
            .as_ref()
            .and(provider.clone())
            .map(|provider| Waiting(Arc::clone(&self.world), self.process, provider));
        let sent = Sent {
            world: Arc::clone(&self.world),
            process: self.process,
            path,
            provider,
            key,
            body,
            specs,
            at,
        };
        let (send, receive) = oneshot::channel();
        // Not a task of the process: what was sent arrives, even if the sender dies.
        tokio::spawn(sent.travel(fault, there, back, send));
        async move {
            let answer = receive.await.unwrap_or(Answer::Never);
            drop(waiting);
            match answer {
                Answer::Whole(status, retry_after, bytes) => {
                    let now = self.world.lock().now();
                    let mut response = http::Response::builder()
                        .status(status)
                        .header("date", httpdate::fmt_http_date(now.into()));
                    response = match retry_after {
                        None => response,
                        Some(RetryAfter::Seconds(seconds)) => {
                            response.header("retry-after", seconds)
                        }
                        Some(RetryAfter::Date(seconds)) => {
                            let date =
                                now + SignedDuration::from_secs(i64::try_from(seconds).unwrap());
                            response.header("retry-after", httpdate::fmt_http_date(date.into()))
                        }
                    };
                    Ok(response.body(Body::from(bytes)).unwrap().into())
                }
                Answer::CutOff(bytes) => {
                    let frames = [
                        Ok(hyper::body::Frame::data(hyper::body::Bytes::from(bytes))),
                        Err(std::io::Error::other("cut off")),
                    ];
                    let body = Body::wrap(StreamBody::new(futures_util::stream::iter(frames)));
                    Ok(http::Response::new(body).into())
                }
                Answer::Broken { sent } => Err(BrokenTransport { sent }),
                Answer::Never => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl Sent {
    async fn travel(
        self,
        fault: Option<Fault>,
        there: Duration,
        back: Duration,
        to: oneshot::Sender<Answer>,
    ) {
        sleep(there).await;
        let answer = match fault {
            Some(Fault::Refused) => Answer::Broken { sent: false },
            Some(Fault::CutBefore) => Answer::Broken { sent: true },
            Some(Fault::Status(status, retry_after)) => Answer::Whole(status, retry_after, error()),
            Some(Fault::Page) => {
                Answer::Whole(200, None, b"<html><body>Sign in</body></html>".to_vec())
            }
            Some(Fault::LateWithoutAnswer(late)) => {
                sleep(late).await;
                self.carry_out(None, false);
                Answer::Never
            }
            _ => self.carry_out(fault, true),
        };
        sleep(back).await;
        if let Some(Fault::Late(late)) = fault {
            sleep(late).await;
        }
        self.deliver(answer, fault, to);
        if let Some(Fault::Doubled(later)) = fault
            && self.body.is_some()
        {
            sleep(later).await;
            self.carry_out(None, false);
        }
    }

    /// Calry's answer.
    fn carry_out(&self, fault: Option<Fault>, on_time: bool) -> Answer {
        let mut world = self.world.lock();
        let ours = self.key == world.key;
        if !ours && self.key != OTHER_KEY {
            return Answer::Whole(401, None, error());
        }
        if let (Some(provider), Some(body)) = (&self.provider, &self.body) {
            if !ours {
                world.violate(
                    Promise::UnmanagedMeansUntouched,
                    format_args!("{provider} of another workspace is updated"),
                );
            } else {
                world.execute(self.process, provider, body, &self.specs, on_time);
            }
        }
        let masked = world.setting.semantics.mask == Mask::Always;
        let shuffled = {
            let mut order: Vec<String> = world.store.definitions.keys().cloned().collect();
            world.dice.shuffle(&mut order);
            order
        };
        let store = if ours { &world.store } else { &world.other };
        let show = |provider: &String| {
            let live = &store.definitions[provider];
            let mut shown = if masked { mask(live) } else { live.clone() };
            if fault == Some(Fault::Decorated) {
                shown["rateLimits"] = json!({"perMinute": 7});
                if shown.get("icon").is_none() {
                    shown["icon"] = Value::Null;
                }
            }
            shown
        };
        let malformed =
            |provider: &str| json!({"id": 7, "provider": provider, "fieldsToSync": "all"});
        let value = match &self.provider {
            None if self.path.ends_with("/workspace") => store.workspace.clone(),
            None => {
                let mut all: Vec<Value> = shuffled.iter().map(show).collect();
                if let (Some(Fault::Malformed), Some(first), Some(name)) =
                    (fault, all.first_mut(), shuffled.first())
                {
                    *first = malformed(name);
                }
                json!(all)
            }
            Some(provider) if !store.definitions.contains_key(provider) => {
                return Answer::Whole(404, None, error());
            }
            Some(provider) => match fault {
                Some(Fault::Malformed) => malformed(provider),
                Some(Fault::Another) => {
                    let other = shuffled.iter().find(|other| *other != provider);
                    other.map_or_else(|| malformed(provider), show)
                }
                _ => show(provider),
            },
        };
        let bytes = serde_json::to_vec(&value).unwrap();
        match fault {
            Some(Fault::CutAfter) => Answer::Broken { sent: true },
            Some(Fault::CutBody) => Answer::CutOff(bytes[..bytes.len() / 2].to_vec()),
            Some(Fault::Garbage) => Answer::Whole(200, None, b"\x00\xff{".to_vec()),
            Some(Fault::Empty) => Answer::Whole(200, None, Vec::new()),
            // What the definitions are when the answer leaves is what the reader is shown.
            _ => Answer::Whole(200, None, bytes),
        }
    }

    fn deliver(&self, answer: Answer, fault: Option<Fault>, to: oneshot::Sender<Answer>) {
        if to.is_closed() {
            return;
        }
        let mut world = self.world.lock();
        let now = world.elapsed();
        if let (Some(provider), Some(_)) = (&self.provider, &self.body)
            && match &answer {
                Answer::Whole(status, ..) => *status != 200,
                Answer::Broken { sent } => !sent,
                Answer::CutOff(_) | Answer::Never => false,
            }
        {
            // It says that nothing was done.
            world.processes[self.process].in_doubt.remove(provider);
        }
        match &answer {
            Answer::Whole(429, None, _) => world.processes[self.process].slowed = Some(now),
            Answer::Whole(429, Some(retry_after), _) => {
                world.processes[self.process].slowed = Some(now);
                // A date has whole seconds.
                let wait = match retry_after {
                    RetryAfter::Seconds(seconds) => Duration::from_secs(*seconds),
                    RetryAfter::Date(seconds) => Duration::from_secs(*seconds),
                };
                let gate = &mut world.processes[self.process].gate;
                if gate.end <= now {
                    // What begins at the same moment does not know it yet.
                    gate.start = now + Duration::from_millis(5);
                }
                gate.end = gate.end.max(now + wait);
            }
            Answer::Whole(200, _, bytes)
                if fault.is_none_or(|fault| match fault {
                    Fault::Late(_) | Fault::Doubled(_) | Fault::Decorated | Fault::Malformed => {
                        true
                    }
                    Fault::Another => self.provider.is_none(),
                    _ => false,
                }) =>
            {
                let text: Value = serde_json::from_slice(bytes).unwrap_or_default();
                let shown = match text {
                    Value::Array(all) => all,
                    one => vec![one],
                };
                for definition in shown {
                    let Some(provider) = definition["provider"].as_str() else {
                        continue;
                    };
                    let Some(versions) = world.versions.get(provider) else {
                        continue;
                    };
                    // A version has a time of its own.
                    let Some(at) = versions
                        .iter()
                        .rposition(|version| version.live["updatedAt"] == definition["updatedAt"])
                    else {
                        continue;
                    };
                    let provider = provider.to_owned();
                    let view = &mut world.processes[self.process];
                    if view
                        .in_doubt
                        .get(&provider)
                        .is_some_and(|since| *since <= self.at)
                    {
                        view.in_doubt.remove(&provider);
                    }
                    view.shown.insert(provider, (at, now));
                }
            }
            _ => {}
        }
        drop(world);
        let _ = to.send(answer);
    }
}

fn error() -> Vec<u8> {
    let error = json!({"timestamp": "2026-03-01T00:00:00.000Z", "path": "/", "message": "No.", "details": []});
    serde_json::to_vec(&error).unwrap()
}
