//! Churn: files that are edited, broken, held, taken away and put back, clicks in the console, rotated keys and secrets, a
//! Calry with faults, signals, and SIGKILL at any moment. In the end Calry is as git wants it, nothing was sent twice,
//! nothing grew and nothing leaked.
//!
//! It takes `SOAK_SECONDS` (10 by default) and rolls the dice of `SOAK_SEED`, which a failure names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Daemon, World};
use axum::http::StatusCode;
use calry_gitops::sandbox::{
    AcrossGroups, Config, Fault, FaultKind, PartialPartnerKey, Semantics, SpecifiedFields,
};
use serde_json::{Value, json};

const PROVIDERS: [&str; 8] = [
    "BOOM",
    "ELINA",
    "GUESTY",
    "HOSTAWAY",
    "HOSTIFY",
    "LODGIFY",
    "TOKEET",
    "UPLISTING",
];
/// What files choose from. `name` is always wanted and `rating` never, so that a click on those two is always drift.
const FIELDS: [&str; 5] = ["address", "amenities", "pictures", "rooms", "type"];
/// An update that was in flight when its sender was killed may arrive after the next daemon has read the live state.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How long the end may take: pauses of providers that failed are part of it.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn after_any_churn_calry_is_as_git_wants_it_and_nothing_was_sent_twice_grew_or_leaked() {
    let number =
        |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (seconds, seed) = (number("SOAK_SECONDS", 10), number("SOAK_SEED", 20_261_124));
    println!("SOAK_SECONDS={seconds} SOAK_SEED={seed}");
    let mut soak = Soak::new(fastrand::Rng::with_seed(seed));
    let (churn, calm) = (
        Duration::from_secs(seconds) * 2 / 3,
        Duration::from_secs(seconds) / 3,
    );

    soak.churn(churn, true);
    soak.settle();
    // Without restarts, so that what one process needs can be compared with what it needed before.
    soak.churn(calm / 4, false);
    soak.settle();
    let before = soak.needs();
    soak.churn(calm * 3 / 4, false);
    soak.settle();
    let after = soak.needs();
    println!(
        "{} steps; at first {before:?}, at the end {after:?}",
        soak.steps
    );
    assert!(
        after.kib < before.kib + 6 * 1024,
        "memory grew: {before:?}, {after:?}"
    );
    // Idle connections are kept for the next updates, as many as are sent at once.
    assert!(
        after.files <= before.files + 16 && after.threads <= before.threads + 4,
        "{before:?}, {after:?}"
    );

    soak.no_other_settings_are_touched();
    soak.a_quiet_daemon_writes_nothing();
    soak.nothing_was_sent_twice();
    soak.nothing_leaked();
    soak.daemon.signal("TERM");
    assert_eq!(soak.daemon.wait(), Some(0));
}

/// What a file says.
#[derive(Clone)]
struct Wanted {
    icon: String,
    on: BTreeSet<&'static str>,
    /// The secret in its header.
    secret: String,
}

/// What the daemon takes of the machine.
#[derive(Debug)]
struct Needs {
    kib: u64,
    files: usize,
    threads: usize,
}

struct Soak {
    world: World,
    daemon: Daemon,
    dice: fastrand::Rng,
    wanted: BTreeMap<&'static str, Wanted>,
    secrets: BTreeMap<String, String>,
    /// Values that must never be printed.
    canaries: Vec<String>,
    killed: Vec<Instant>,
    steps: usize,
    /// Makes each icon, click and secret another one.
    count: usize,
}

impl Soak {
    fn new(mut dice: fastrand::Rng) -> Self {
        let definitions = PROVIDERS.map(|provider| {
            let mut live = crate::support::live(
                provider,
                &["name"],
                &[
                    "rating",
                    "address",
                    "amenities",
                    "pictures",
                    "rooms",
                    "type",
                ],
            );
            live["partnerKey"] =
                json!({"headers": {"x-api-key": "canary-first"}, "queryParams": {"id": "acme"}});
            live["fieldsToSync"]["rates"] = json!({"daily": true, "weekly": false});
            live
        });
        let semantics = Semantics {
            fields: *dice
                .choice(&[
                    SpecifiedFields::TrueMeansTrue,
                    SpecifiedFields::PresentMeansTrue,
                ])
                .unwrap(),
            across_groups: *dice.choice(&[AcrossGroups::Yes, AcrossGroups::No]).unwrap(),
            partner_key: *dice
                .choice(&[PartialPartnerKey::Merges, PartialPartnerKey::Replaces])
                .unwrap(),
            ..Semantics::default()
        };
        let mut world = World::with(
            json!(definitions),
            Config {
                semantics,
                ..Config::default()
            },
        );
        for directory in ["secrets", "state"] {
            fs::create_dir(world.dir.path().join(directory)).unwrap();
        }
        world.env.remove("CALRY_API_KEY");
        world
            .env("CALRY_API_KEY_FILE", "key")
            .env("CALRY_SECRETS_DIR", "secrets")
            .env("CALRY_STATE_DIR", "state");
        fs::write(world.dir.path().join("key"), &world.sandbox.keys().write).unwrap();
        let daemon = start(&world);
        let canaries = vec!["canary-first".to_owned(), world.sandbox.keys().write];
        let (wanted, secrets) = (BTreeMap::new(), BTreeMap::new());
        let mut soak = Self {
            world,
            daemon,
            dice,
            wanted,
            secrets,
            canaries,
            killed: Vec::new(),
            steps: 0,
            count: 0,
        };
        PROVIDERS.iter().for_each(|provider| soak.edit(provider));
        soak
    }

    fn churn(&mut self, length: Duration, restarts: bool) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.step(restarts);
            self.steps += 1;
            std::thread::sleep(Duration::from_millis(self.dice.u64(0..200)));
            self.daemon.drain();
        }
    }

    fn step(&mut self, restarts: bool) {
        let provider = *self.dice.choice(&PROVIDERS).unwrap();
        match self.dice.u8(0..if restarts { 16 } else { 14 }) {
            0..=2 => self.edit(provider),
            3..=5 => self.click(provider),
            6 => self.rotate_secret(provider),
            7 => self.rotate_key(),
            8..=9 => self.inject(),
            10 => self.break_file(provider),
            11 => {
                let until = *self.dice.choice(&["2099-12-31", "2020-01-01"]).unwrap();
                let text = format!(
                    "{}hold:\n  until: {until}\n  reason: a soak\n",
                    self.text(provider)
                );
                self.write(provider, &text);
            }
            12 => {
                // The whole directory disappears and comes back.
                let (here, away) = (self.world.definitions(), self.world.dir.path().join("away"));
                fs::rename(&here, &away).unwrap();
                std::thread::sleep(Duration::from_millis(self.dice.u64(0..400)));
                fs::rename(&away, &here).unwrap();
            }
            13 => {
                self.hears();
                self.daemon.signal("HUP");
            }
            14 => self.restart("KILL"),
            _ => self.restart("TERM"),
        }
    }

    fn unique(&mut self) -> usize {
        self.count += 1;
        self.count
    }

    fn path(&self, provider: &str) -> PathBuf {
        self.world
            .definitions()
            .join(format!("{}.yaml", provider.to_lowercase()))
    }

    fn text(&self, provider: &str) -> String {
        let Wanted { icon, on, secret } = &self.wanted[provider];
        let on = on.iter().copied().collect::<Vec<_>>().join(", ");
        format!(
            "provider: {provider}\nicon: {icon}\npartnerKey:\n  headers:\n    x-api-key: ${{secret:{secret}}}\n\
             fieldsToSync:\n  listing: [{on}]\n"
        )
    }

    /// Writes a file as an editor, a shell or a slow copy does.
    fn write(&mut self, provider: &str, text: &str) {
        let path = self.path(provider);
        match self.dice.u8(..3) {
            0 => fs::write(&path, text).unwrap(),
            1 => {
                let new = path.with_extension("yaml~");
                fs::write(&new, text).unwrap();
                fs::rename(&new, &path).unwrap();
            }
            _ => {
                let half = text.len() / 2;
                fs::write(&path, &text[..half]).unwrap();
                std::thread::sleep(Duration::from_millis(self.dice.u64(0..150)));
                fs::write(&path, text).unwrap();
            }
        }
    }

    fn edit(&mut self, provider: &'static str) {
        let mut on: BTreeSet<&str> = FIELDS.into_iter().filter(|_| self.dice.bool()).collect();
        on.insert("name");
        let icon = format!("https://cdn.example.com/{}.png", self.unique());
        let secret = format!("soak-{}", provider.to_lowercase());
        if !self.secrets.contains_key(&secret) {
            self.set_secret(&secret);
        }
        self.wanted.insert(provider, Wanted { icon, on, secret });
        let text = self.text(provider);
        self.write(provider, &text);
    }

    fn set_secret(&mut self, name: &str) {
        let value = format!("canary-secret-{}", self.unique());
        let path = self.world.dir.path().join("secrets").join(name);
        fs::write(path.with_extension("new"), &value).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
        self.canaries.push(value.clone());
        self.secrets.insert(name.to_owned(), value);
    }

    fn rotate_secret(&mut self, provider: &str) {
        let name = self.wanted[provider].secret.clone();
        self.set_secret(&name);
    }

    fn rotate_key(&mut self) {
        let key = format!("zepl.canary-{}.random.acme-production", self.unique());
        self.world.sandbox.rotate_write_key(&key);
        // A key rotation is not always quick.
        std::thread::sleep(Duration::from_millis(self.dice.u64(0..300)));
        fs::write(self.world.dir.path().join("key"), &key).unwrap();
        self.canaries.push(key);
    }

    /// A click in the console. It never restores what git wants, or an update could be useless without any fault.
    fn click(&mut self, provider: &str) {
        let (what, n) = (self.dice.u8(..4), self.unique());
        self.world.sandbox.modify(provider, |live| match what {
            0 => live["icon"] = json!(format!("https://clicked.example.com/{n}.png")),
            1 => live["fieldsToSync"]["listing"]["rating"] = json!(true),
            2 => live["fieldsToSync"]["listing"]["name"] = json!(false),
            _ => live["partnerKey"]["headers"]["x-api-key"] = json!(format!("canary-clicked-{n}")),
        });
        self.canaries.push(format!("canary-clicked-{n}"));
    }

    fn inject(&mut self) {
        let status = |code, retry_after: Option<&str>| FaultKind::Status {
            code,
            message: "No.".to_owned(),
            retry_after: retry_after.map(str::to_owned),
        };
        let faults = [
            status(StatusCode::TOO_MANY_REQUESTS, Some("1")),
            status(StatusCode::TOO_MANY_REQUESTS, None),
            status(StatusCode::BAD_GATEWAY, None),
            status(StatusCode::INTERNAL_SERVER_ERROR, None),
            status(StatusCode::FORBIDDEN, None),
            FaultKind::Delay(Duration::from_millis(300)),
            FaultKind::DropBefore,
            FaultKind::DropAfter,
            FaultKind::TruncateBody,
            FaultKind::Garbage,
            FaultKind::HugeBody(40 << 20),
            FaultKind::EchoBodyInError,
        ];
        let kind = self.dice.choice(&faults).unwrap().clone();
        self.world
            .sandbox
            .inject(Fault::once(kind).times(self.dice.usize(1..4)));
    }

    fn break_file(&mut self, provider: &'static str) {
        let text = self.text(provider);
        match self.dice.u8(..4) {
            0 => drop(fs::remove_file(self.path(provider))),
            1 => self.write(provider, ""),
            2 => self.write(provider, &text.replace("icon:", "icn:")),
            _ => self.write(provider, &text.replace("${secret:", "${secret:no-")),
        }
    }

    /// Before it says its first word, the daemon does not listen to signals.
    fn hears(&mut self) {
        if self.daemon.seen.is_empty() {
            self.daemon.line("");
        }
    }

    fn restart(&mut self, signal: &str) {
        if signal == "TERM" {
            self.hears();
        }
        self.daemon.signal(signal);
        if signal == "KILL" {
            self.killed.push(Instant::now());
        }
        let code = self.daemon.wait();
        assert!(
            signal == "KILL" || code == Some(0),
            "SIGTERM ended it with {code:?}"
        );
        self.nothing_leaked();
        self.daemon = start(&self.world);
    }

    /// Everything valid, no fault, and time: waits until Calry is as git wants it.
    fn settle(&mut self) {
        let began = Instant::now();
        self.world.sandbox.clear_faults();
        for provider in PROVIDERS {
            let text = self.text(provider);
            fs::write(self.path(provider), text).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        let mut asked = Instant::now();
        while let Some((provider, live)) = PROVIDERS.iter().find_map(|p| self.differing(p)) {
            self.daemon.drain();
            let last = self
                .daemon
                .seen
                .iter()
                .rev()
                .take(20)
                .rev()
                .cloned()
                .collect::<Vec<_>>()
                .join("\n");
            assert!(
                Instant::now() < deadline,
                "{provider} is not as git wants it: {live}\n{last}"
            );
            std::thread::sleep(Duration::from_millis(20));
            if asked.elapsed() > Duration::from_secs(2) {
                asked = Instant::now();
                self.hears();
                self.daemon.signal("HUP");
            }
        }
        println!("settled after {:?}", began.elapsed());
    }

    fn differing(&self, provider: &str) -> Option<(String, Value)> {
        let (wanted, live) = (&self.wanted[provider], self.world.live(provider));
        let listing = live["fieldsToSync"]["listing"].as_object()?;
        let on: BTreeSet<&str> = listing
            .iter()
            .filter(|(_, on)| **on == true)
            .map(|(f, _)| f.as_str())
            .collect();
        let same = live["icon"] == json!(wanted.icon)
            && live["partnerKey"]["headers"] == json!({"x-api-key": self.secrets[&wanted.secret]})
            && on == wanted.on;
        (!same).then(|| (provider.to_owned(), live))
    }

    fn needs(&self) -> Needs {
        let process = PathBuf::from(format!("/proc/{}", self.daemon.pid()));
        let status = fs::read_to_string(process.join("status")).unwrap();
        let line = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        Needs {
            kib: line("VmRSS:").trim_end_matches(" kB").parse().unwrap(),
            files: fs::read_dir(process.join("fd")).unwrap().count(),
            threads: line("Threads:").parse().unwrap(),
        }
    }

    fn no_other_settings_are_touched(&mut self) {
        for provider in PROVIDERS {
            self.world.sandbox.modify(provider, |live| {
                live["fieldsToSync"]["rates"] = json!({"daily": false, "weekly": true});
                live["partnerKey"]["queryParams"] = json!({"id": "other"});
            });
            self.edit(provider);
        }
        self.settle();
        for provider in PROVIDERS {
            let live = self.world.live(provider);
            assert_eq!(
                live["fieldsToSync"]["rates"],
                json!({"daily": false, "weekly": true}),
                "{provider}"
            );
            assert_eq!(
                live["partnerKey"]["queryParams"],
                json!({"id": "other"}),
                "{provider}"
            );
        }
    }

    fn a_quiet_daemon_writes_nothing(&mut self) {
        let updates = self.world.updates().len();
        for _ in 0..3 {
            self.daemon.drain();
            self.daemon.signal("HUP");
            self.daemon.line("(request)");
        }
        assert_eq!(self.world.updates().len(), updates);
    }

    fn nothing_was_sent_twice(&self) {
        assert!(
            self.world.requests().len() < 100_000,
            "the sandbox forgets older requests"
        );
        let updates = self.world.updates();
        assert!(
            updates.iter().any(|update| update.changed == Some(true)),
            "nothing was sent at all"
        );
        for update in updates
            .iter()
            .filter(|update| update.changed == Some(false))
        {
            let after = |killed: &Instant| {
                update
                    .at
                    .checked_duration_since(*killed)
                    .is_some_and(|d| d < AFTERMATH)
            };
            assert!(self.killed.iter().any(after), "of no use: {update:?}");
        }
    }

    /// Looks at what was said, and at what is kept.
    fn nothing_leaked(&mut self) {
        self.daemon.drain();
        let mut said = std::mem::take(&mut self.daemon.seen);
        for file in fs::read_dir(self.world.dir.path().join("state")).unwrap() {
            said.push(fs::read_to_string(file.unwrap().path()).unwrap());
        }
        let said = said.join("\n");
        if let Some(canary) = self.canaries.iter().find(|canary| said.contains(*canary)) {
            panic!("{canary} is in:\n{said}");
        }
    }
}

fn start(world: &World) -> Daemon {
    world.daemon(&["--interval", "1s", "--max-changes", "none", "-vv"])
}
