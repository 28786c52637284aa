//! How the daemon starts and stops under bad conditions: standard error without a reader, and signals at any moment.

use std::fs::{self, File};
use std::io::{PipeReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, World, live, until};
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};

fn world() -> World {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &["rooms", "pictures"])]),
        Config::default(),
    );
    world.write("hostaway.yaml", &file("rooms"));
    world
}

fn file(fields: &str) -> String {
    format!("provider: HOSTAWAY\nfieldsToSync:\n  listing: [{fields}]\n")
}

fn is_on(world: &World, field: &str) -> bool {
    world.live("HOSTAWAY")["fieldsToSync"]["listing"][field] == true
}

/// A process that is killed when dropped.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end; `None` if it does not end.
    fn ends(&mut self) -> Option<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status.code());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Waits until it handles SIGTERM.
    fn handles_sigterm(&self) {
        let status = format!("/proc/{}/status", self.0.id());
        until("SIGTERM is handled", || {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            caught
                .is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0)
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process whose standard error is a pipe that is full and has no reader.
fn unread(world: &World, args: &[&str]) -> (Process, PipeReader) {
    const O_NONBLOCK: i32 = 0o4000;
    let (reader, writer) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filling = File::options()
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .unwrap();
    while filling.write(&[b'x'; 512]).is_ok() {}
    let child = world
        .command(args)
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    (Process(child), reader)
}

#[test]
fn a_daemon_whose_log_has_no_reader_continues_and_stops_on_a_signal() {
    let mut world = world();
    world.env("CALRY_LOG_FORMAT", "json");
    let (mut daemon, reader) = unread(&world, &["run", "--interval", "1s"]);
    until("the first change is applied", || is_on(&world, "rooms"));
    for field in ["pictures", "rooms", "pictures", "rooms"] {
        world.write("hostaway.yaml", &file(field));
        until("each change is applied", || is_on(&world, field));
    }
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), Some(Some(0)));
    drop(reader);
}

#[test]
fn the_second_signal_ends_a_daemon_at_once_though_its_log_is_not_read() {
    let world = world();
    world.sandbox.inject(
        Fault::once(FaultKind::Delay(Duration::from_secs(3600))).on(axum::http::Method::PATCH),
    );
    let (mut daemon, reader) = unread(&world, &["run", "--interval", "1h"]);
    until("an update is under way", || !world.updates().is_empty());
    daemon.signal("TERM");
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        daemon.0.try_wait().unwrap().is_none(),
        "the update under way may end"
    );
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), Some(Some(1)));
    drop(reader);
}

#[test]
fn a_log_that_is_read_late_says_how_much_is_missing() {
    let mut world = world();
    world.env("CALRY_LOG_FORMAT", "json");
    // Every reconciliation repeats the warnings of a file that changes all the time.
    let (mut daemon, mut reader) = unread(&world, &["run", "-vv", "--interval", "1s"]);
    until("it runs", || is_on(&world, "rooms"));
    daemon.signal("TERM");
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut text).map(|_| String::from_utf8(text).unwrap())
    });
    assert_eq!(daemon.ends(), Some(Some(0)));
    let text = reading.join().unwrap().unwrap();
    let lines = text.trim_start_matches('x').lines();
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines.iter().any(|line| line["message"] == "stopped"),
        "what waited is written at the end: {lines:#?}"
    );
}

#[test]
fn a_single_reconciliation_that_is_stopped_before_it_began_is_no_success() {
    let mut world = world();
    let config = world.dir.path().join("kubeconfig");
    assert!(
        Command::new("mkfifo")
            .arg(&config)
            .status()
            .unwrap()
            .success()
    );
    world.env("KUBECONFIG", &config.display().to_string());
    for (args, code) in [
        (&["run", "--once", "--kubernetes-events"][..], 1),
        (&["run", "--kubernetes-events"][..], 0),
    ] {
        let child = world.command(args).stderr(Stdio::null()).spawn().unwrap();
        let mut process = Process(child);
        process.handles_sigterm();
        // Only now does it wait for the file that never ends.
        std::thread::sleep(Duration::from_millis(300));
        process.signal("TERM");
        assert_eq!(process.ends(), Some(Some(code)), "{args:?}");
    }
    assert!(world.requests().is_empty());
}
