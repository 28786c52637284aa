//! A history: what the world is like, and what happens in it, all from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use calry_gitops::model::UpdateMethod;
use calry_gitops::sandbox::{
    AcrossGroups, Mask, PartialPartnerKey, PutAbsent, Semantics, SpecifiedFields,
};
use fastrand::Rng;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::files::{FIELDS, FileSpec, KeyValue, Mistake, RATES, Section};

pub(crate) const PROVIDERS: [&str; 5] = ["BOOM", "ELINA", "GUESTY", "HOSTAWAY", "TOKEET"];

/// What the world is like.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) semantics: Semantics,
    pub(crate) method: UpdateMethod,
    pub(crate) interval: Duration,
    pub(crate) concurrency: usize,
    pub(crate) replicas: usize,
    pub(crate) state: bool,
    pub(crate) observe: bool,
    /// Whether `workspace.yaml` pins the workspace.
    pub(crate) pinned: bool,
    pub(crate) max_changes: Option<usize>,
    /// Whether a policy lets no listing's `name` go off, until the last fault.
    pub(crate) policy: bool,
    /// The longest time of a request without a fault, in milliseconds.
    pub(crate) latency: u64,
    /// By provider in Calry: whether its partner key has a part that is unknown.
    pub(crate) live: BTreeMap<&'static str, bool>,
    pub(crate) files: BTreeMap<&'static str, FileSpec>,
    /// The hour and minute at which it begins: midnight ends a hold.
    pub(crate) begins: (i8, i8),
    /// When nothing may be written, by `workspace.yaml`.
    pub(crate) holds: Holds,
}

/// The hold and the freeze windows of the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds {
    /// The last day of the hold.
    pub(crate) until: Option<&'static str>,
    /// The begin of each window after that of the history, and its length, in seconds.
    pub(crate) windows: Vec<(i64, i64)>,
}

impl Setting {
    /// Whether definitions are backed up before they are replaced.
    pub(crate) fn has_backups(&self) -> bool {
        self.seed.is_multiple_of(2)
    }

    pub(crate) fn begin(&self) -> Timestamp {
        let (hour, minute) = self.begins;
        let date = jiff::civil::date(2026, 3, 1);
        let begin = date.at(hour, minute, 0, 0).to_zoned(TimeZone::UTC);
        begin.unwrap().timestamp()
    }

    /// The windows as moments.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let begin = self.begin();
        let windows = self.holds.windows.iter();
        windows.map(move |(from, lasts)| {
            let from = begin + SignedDuration::from_secs(*from);
            (from, from + SignedDuration::from_secs(*lasts))
        })
    }

    /// The text of `workspace.yaml`, if there is one. Each other window has local times.
    pub(crate) fn workspace_file(&self) -> Option<String> {
        if !self.pinned {
            return None;
        }
        let mut text = "slug: acme\n".to_owned();
        if let Some(until) = self.holds.until {
            text += &format!("hold: {{until: {until}, reason: a migration}}\n");
        }
        if !self.holds.windows.is_empty() {
            text += "freeze:\n";
        }
        for (number, (from, to)) in self.windows().enumerate() {
            text += &if number % 2 == 0 {
                format!("- {{from: \"{from}\", to: \"{to}\", reason: a sale}}\n")
            } else {
                // Berlin is an hour ahead of UTC in March.
                let local = |at: Timestamp| {
                    (at + SignedDuration::from_hours(1))
                        .to_zoned(TimeZone::UTC)
                        .datetime()
                };
                let (from, to) = (local(from), local(to));
                format!(
                    "- {{from: \"{from}\", to: \"{to}\", timeZone: Europe/Berlin, reason: a sale}}\n"
                )
            };
        }
        Some(text)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) setting: Setting,
    /// In the order of their times since the beginning.
    pub(crate) events: Vec<(Duration, Event)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A file is written. Its event may be lost, and the file may be half-written for a while.
    Edit {
        file: FileSpec,
        lost: bool,
        half: Option<Duration>,
    },
    Remove(&'static str),
    /// The directory is missing or empty for a while.
    Directory {
        missing: bool,
        lasts: Duration,
    },
    Click {
        provider: &'static str,
        click: Click,
    },
    /// The secret gets another value.
    RotateSecret(String),
    /// The API key is replaced; the file follows after a while.
    RotateKey(Duration),
    /// The file holds a key of another workspace for a while.
    WrongKey(Duration),
    Faults {
        on: Target,
        times: usize,
        fault: Fault,
    },
    /// Calry keeps this field off, whatever is sent, until the end.
    Stubborn {
        provider: &'static str,
        field: &'static str,
    },
    /// After this many more steps of the process, it is gone. Another one starts later.
    Kill {
        replica: usize,
        steps: u64,
        restart: Duration,
    },
    Terminate {
        replica: usize,
        restart: Duration,
    },
    Freeze {
        replica: usize,
        lasts: Duration,
    },
    /// The wall clock jumps, by minutes.
    Clock {
        replica: usize,
        minutes: i64,
    },
    /// A user asks for a reconciliation.
    Ask(usize),
    /// A user approves the refused plan, if there is one.
    Approve(usize),
    /// A user approves the plan that the workspace's hold suspends, if there is one, with a reason.
    Override(usize),
    /// The next requests about the Lease fail.
    LeaseFaults {
        times: usize,
        fault: LeaseFault,
    },
    /// The state files are damaged while the process is not running; they are read at its next start.
    DamageState(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Click {
    Icon(u32),
    Field(&'static str),
    Rate(&'static str),
    Header(u32),
    Query(u32),
    RemoveKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Any,
    Reads,
    Writes,
    Provider(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Refused,
    CutBefore,
    CutAfter,
    CutBody,
    /// Executed at once, answered late.
    Late(Duration),
    /// Executed late, never answered.
    LateWithoutAnswer(Duration),
    /// Executed, answered, and executed again later.
    Doubled(Duration),
    Status(u16, Option<RetryAfter>),
    Page,
    Garbage,
    Empty,
    /// The answer is the definition of another provider.
    Another,
    /// Unknown parts and nulls in the answer.
    Decorated,
    /// One definition of the answer cannot be read.
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    Seconds(u64),
    /// A date, so many seconds after the date of the answer.
    Date(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseFault {
    Before,
    After,
    Conflict,
    Unavailable,
    Slow,
}

impl History {
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut dice = Dice(Rng::with_seed(seed));
        let setting = dice.setting(seed);
        let calm = dice.chance(12);
        let mut at = Duration::ZERO;
        let mut events = Vec::new();
        let count = dice.0.usize(4..22);
        let files = setting.files.clone();
        for _ in 0..count {
            at += dice.pause();
            if let Some(event) = dice.event(&setting, &files, calm) {
                events.push((at, event));
            }
        }
        let mut history = Self { setting, events };
        history.add_holds();
        history
    }

    /// Puts the workspace on hold for a while, in every fourth history with a pin.
    fn add_holds(&mut self) {
        let mut dice = Dice(Rng::with_seed(self.setting.seed ^ 0x51ed_270b));
        if !self.setting.pinned || !dice.chance(25) {
            return;
        }
        let ends_at_midnight = self.setting.begins.0 == 23;
        self.setting.holds = Holds {
            until: (ends_at_midnight && dice.chance(20)).then_some("2026-03-01"),
            windows: (0..dice.0.usize(1..4))
                .map(|_| (dice.0.i64(-60..90), dice.0.i64(1..90)))
                .collect(),
        };
        for _ in 0..dice.0.usize(..3) {
            let at = Duration::from_millis(dice.0.u64(..150_000));
            let replica = dice.0.usize(..self.setting.replicas);
            self.events.push((at, Event::Override(replica)));
        }
        self.events.sort_by_key(|(at, _)| *at);
    }
}

struct Dice(Rng);

impl Dice {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.u32(..100) < percent
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())].clone()
    }

    fn setting(&mut self, seed: u64) -> Setting {
        let semantics = Semantics {
            fields: self.of(&[
                SpecifiedFields::TrueMeansTrue,
                SpecifiedFields::PresentMeansTrue,
            ]),
            across_groups: self.of(&[AcrossGroups::Yes, AcrossGroups::No]),
            partner_key: self.of(&[PartialPartnerKey::Merges, PartialPartnerKey::Replaces]),
            put_absent: self.of(&[PutAbsent::Clears, PutAbsent::Keeps]),
            mask: self.of(&[Mask::Never, Mask::Never, Mask::Always]),
        };
        let providers = &PROVIDERS[..self.0.usize(2..=PROVIDERS.len())];
        let live = providers
            .iter()
            .map(|provider| (*provider, self.chance(8)))
            .collect();
        let mut files: BTreeMap<_, _> = PROVIDERS
            .iter()
            .filter(|_| self.chance(75))
            .map(|provider| (*provider, ()))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(provider, ())| (provider, self.file(provider)))
            .collect();
        if files.is_empty() {
            files.insert(PROVIDERS[0], self.file(PROVIDERS[0]));
        }
        Setting {
            seed,
            semantics,
            method: self.of(&[UpdateMethod::Patch, UpdateMethod::Patch, UpdateMethod::Put]),
            interval: Duration::from_secs(self.of(&[20, 60])),
            concurrency: self.of(&[1, 2, 8]),
            replicas: self.of(&[1, 1, 1, 2]),
            state: self.chance(70),
            observe: self.chance(8),
            pinned: self.chance(50),
            max_changes: self.chance(10).then_some(1),
            latency: self.of(&[4, 40, 400]),
            live,
            files,
            begins: self.of(&[(12, 0), (23, 50)]),
            holds: Holds::default(),
            policy: self.chance(15),
        }
    }

    fn pause(&mut self) -> Duration {
        let longest = self.of(&[100, 3_000, 20_000, 90_000]);
        Duration::from_millis(self.0.u64(..longest))
    }

    fn fields(&mut self, of: &[&'static str]) -> BTreeSet<&'static str> {
        of.iter().copied().filter(|_| self.0.bool()).collect()
    }

    fn section(&mut self, provider: &str, names: [&'static str; 2]) -> Section {
        let mut section = Section::new();
        for name in names {
            match self.0.u8(..4) {
                0 => {}
                1 => drop(section.insert(name, KeyValue::Literal(self.0.u32(..1000)))),
                _ => {
                    let secret = format!("{}-{}", provider.to_lowercase(), self.0.u8(..2));
                    section.insert(name, KeyValue::Secret(secret));
                }
            }
        }
        section
    }

    fn file(&mut self, provider: &'static str) -> FileSpec {
        let headers = self
            .chance(60)
            .then(|| self.section(provider, ["authorization", "x-api-key"]));
        let query = self
            .chance(30)
            .then(|| self.section(provider, ["client", "token"]));
        FileSpec {
            provider,
            icon: self.chance(60).then(|| self.0.u32(..1000)),
            headers,
            query,
            listing: self.chance(80).then(|| self.fields(&FIELDS)),
            rates: self.chance(30).then(|| self.fields(&RATES)),
            hold: self
                .chance(10)
                .then(|| self.of(&["2020-01-01", "2026-03-01", "2099-12-31"])),
            mistake: self.chance(15).then(|| self.of(&Mistake::ALL)),
        }
    }

    fn event(
        &mut self,
        setting: &Setting,
        files: &BTreeMap<&'static str, FileSpec>,
        calm: bool,
    ) -> Option<Event> {
        let provider = self.of(&PROVIDERS);
        let replica = self.0.usize(..setting.replicas);
        let seconds =
            |dice: &mut Self, most: u64| Duration::from_millis(dice.0.u64(1..most * 1000));
        Some(match self.0.u8(..if calm { 9 } else { 24 }) {
            0..=2 => Event::Edit {
                file: self.file(provider),
                lost: self.chance(20),
                half: self.chance(15).then(|| seconds(self, 3)),
            },
            3..=5 => {
                let click = match self.0.u8(..8) {
                    0 => Click::Icon(self.0.u32(1000..2000)),
                    1..=2 => Click::Field(self.of(&FIELDS)),
                    3 => Click::Rate(self.of(&RATES)),
                    4..=5 => Click::Header(self.0.u32(1000..2000)),
                    6 => Click::Query(self.0.u32(1000..2000)),
                    _ => Click::RemoveKey,
                };
                Event::Click { provider, click }
            }
            6 => {
                let names: Vec<&String> = files.values().flat_map(FileSpec::secret_names).collect();
                Event::RotateSecret((*names.get(self.0.usize(..names.len().max(1)))?).clone())
            }
            7 => Event::Ask(replica),
            8 if setting.max_changes.is_some() => Event::Approve(replica),
            8 => Event::Remove(provider),
            9 => Event::Directory {
                missing: self.0.bool(),
                lasts: seconds(self, 90),
            },
            10 => Event::RotateKey(seconds(self, 60)),
            11 if setting.pinned || setting.state => Event::WrongKey(seconds(self, 60)),
            11..=15 => self.faults(setting),
            16..=17 => Event::Kill {
                replica,
                steps: self.0.u64(..60),
                restart: seconds(self, 30),
            },
            18 => Event::Terminate {
                replica,
                restart: seconds(self, 20),
            },
            19 => Event::Freeze {
                replica,
                lasts: seconds(self, 120),
            },
            20 => Event::Clock {
                replica,
                minutes: self.of(&[-1500, -60, 60, 1500]),
            },
            21 if setting.replicas > 1 => Event::LeaseFaults {
                times: self.0.usize(1..6),
                fault: self.of(&[
                    LeaseFault::Before,
                    LeaseFault::After,
                    LeaseFault::Conflict,
                    LeaseFault::Unavailable,
                    LeaseFault::Slow,
                ]),
            },
            22 if setting.state => Event::DamageState(replica),
            23 => Event::Stubborn {
                provider,
                field: self.of(&FIELDS),
            },
            _ => self.faults(setting),
        })
    }

    fn faults(&mut self, setting: &Setting) -> Event {
        let pause = |dice: &mut Self| Duration::from_millis(dice.0.u64(100..25_000));
        let fault = match self.0.u8(..20) {
            0 => Fault::Refused,
            1 => Fault::CutBefore,
            2..=3 => Fault::CutAfter,
            4 => Fault::CutBody,
            5..=6 => Fault::Late(pause(self)),
            7 => Fault::LateWithoutAnswer(pause(self)),
            8 => Fault::Doubled(pause(self)),
            9 => Fault::Status(429, None),
            10 => Fault::Status(429, Some(RetryAfter::Seconds(self.0.u64(..40)))),
            11 => Fault::Status(429, Some(RetryAfter::Date(self.0.u64(..40)))),
            12 => Fault::Status(
                503,
                self.0.bool().then(|| RetryAfter::Seconds(self.0.u64(..20))),
            ),
            13 => Fault::Status(self.of(&[500, 502, 504, 408, 401, 403, 404, 409]), None),
            14 => Fault::Page,
            15 => Fault::Garbage,
            16 => Fault::Empty,
            17 => Fault::Another,
            18 => Fault::Decorated,
            _ => Fault::Malformed,
        };
        let providers: Vec<_> = setting.live.keys().copied().collect();
        let on = match self.0.u8(..4) {
            0 => Target::Any,
            1 => Target::Reads,
            2 => Target::Writes,
            _ => Target::Provider(self.of(&providers)),
        };
        Event::Faults {
            on,
            times: self.0.usize(1..5),
            fault,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            semantics,
            method,
            interval,
            replicas,
            state,
            observe,
            ..
        } = self;
        writeln!(
            f,
            "{replicas} replica(s){}{}, a reconciliation each {interval:?}, concurrency {}, {}{}{}, updates by {method:?}, \
             requests of at most {} ms, {:02}:{:02} UTC",
            if *state {
                " with a state directory"
            } else {
                ""
            },
            if *observe { " that only observe" } else { "" },
            self.concurrency,
            if self.pinned {
                "a pinned workspace"
            } else {
                "no pin"
            },
            self.max_changes.map_or_else(String::new, |most| format!(
                ", at most {most} change(s) a plan"
            )),
            if self.policy {
                ", a policy that keeps every name on"
            } else {
                ""
            },
            self.latency,
            self.begins.0,
            self.begins.1,
        )?;
        if let Some(text) = self
            .workspace_file()
            .filter(|_| !self.holds.windows.is_empty())
        {
            writeln!(
                f,
                "workspace.yaml: {}",
                text.trim_end().replace('\n', " / ")
            )?;
        }
        writeln!(f, "Calry: {semantics:?}")?;
        for (provider, unknown) in &self.live {
            writeln!(
                f,
                "Calry has {provider}{}",
                if *unknown {
                    ", with an unknown part in its partner key"
                } else {
                    ""
                }
            )?;
        }
        for file in self.files.values() {
            writeln!(f, "git has {file}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edit { file, lost, half } => {
                write!(f, "a commit writes {file}")?;
                if *lost {
                    write!(f, " (the file event is lost)")?;
                }
                half.map_or(Ok(()), |half| write!(f, " (half-written for {half:?})"))
            }
            Self::Remove(provider) => write!(f, "a commit removes the file of {provider}"),
            Self::Directory {
                missing: true,
                lasts,
            } => write!(f, "the directory is missing for {lasts:?}"),
            Self::Directory {
                missing: false,
                lasts,
            } => write!(f, "the directory is empty for {lasts:?}"),
            Self::Click { provider, click } => {
                write!(f, "a user changes {provider} in the console: {click:?}")
            }
            Self::RotateSecret(name) => write!(f, "the secret {name} gets another value"),
            Self::RotateKey(after) => write!(
                f,
                "the API key is rotated; its file follows after {after:?}"
            ),
            Self::WrongKey(lasts) => write!(
                f,
                "the key file holds a key of another workspace for {lasts:?}"
            ),
            Self::Faults { on, times, fault } => {
                write!(f, "the next {times} request(s) to {on:?}: {fault:?}")
            }
            Self::Stubborn { provider, field } => {
                write!(f, "from now on Calry keeps {field} of {provider} off")
            }
            Self::Kill {
                replica,
                steps,
                restart,
            } => {
                write!(
                    f,
                    "replica {replica} is killed after {steps} steps; another one starts after {restart:?}"
                )
            }
            Self::Terminate { replica, restart } => {
                write!(
                    f,
                    "replica {replica} gets SIGTERM; another one starts {restart:?} later"
                )
            }
            Self::Freeze { replica, lasts } => {
                write!(f, "replica {replica} is frozen for {lasts:?}")
            }
            Self::Clock { replica, minutes } => {
                write!(
                    f,
                    "the wall clock of replica {replica} jumps by {minutes} minutes"
                )
            }
            Self::Ask(replica) => write!(f, "a user asks replica {replica} for a reconciliation"),
            Self::Override(replica) => {
                write!(
                    f,
                    "a user approves the plan that replica {replica} has on hold, with a reason"
                )
            }
            Self::Approve(replica) => {
                write!(f, "a user approves the plan that replica {replica} refused")
            }
            Self::LeaseFaults { times, fault } => {
                write!(f, "the next {times} request(s) about the Lease: {fault:?}")
            }
            Self::DamageState(replica) => {
                write!(f, "the state files of replica {replica} are damaged")
            }
        }
    }
}

impl Event {
    /// The replica that it is about.
    pub(crate) fn replica(&self) -> Option<usize> {
        match self {
            Self::Kill { replica, .. }
            | Self::Terminate { replica, .. }
            | Self::Freeze { replica, .. }
            | Self::Clock { replica, .. }
            | Self::Ask(replica)
            | Self::Approve(replica)
            | Self::Override(replica)
            | Self::DamageState(replica) => Some(*replica),
            _ => None,
        }
    }
}
