//! The watcher of the definitions directory, on a real file system.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use calry_gitops::desired::watch::{FoundBy, SettledDir, WatchOptions, Watcher};
use tempfile::TempDir;
use tokio::time::timeout;

const QUIET: Duration = Duration::from_millis(100);
const NEVER: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough that pauses of a fifth of it do not count as the end on the slowest machine.
const LONGER_QUIET: Duration = Duration::from_millis(300);
/// Long enough for the slowest machine; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(20);

/// Finds changes by events alone.
fn by_events() -> WatchOptions {
    WatchOptions {
        quiet: QUIET,
        poll: NEVER,
        patience: PATIENCE,
        ..WatchOptions::default()
    }
}

/// Gets no events, as on NFS.
fn by_polling() -> WatchOptions {
    let poll = Duration::from_millis(20);
    WatchOptions {
        quiet: QUIET,
        poll,
        patience: PATIENCE,
        events: false,
        ..WatchOptions::default()
    }
}

fn with_longer_quiet(options: WatchOptions) -> WatchOptions {
    WatchOptions {
        quiet: LONGER_QUIET,
        ..options
    }
}

/// A watcher that has seen the current state.
async fn watch(definitions: &Path, options: WatchOptions) -> Watcher {
    let mut watcher = Watcher::new(definitions.to_owned(), options);
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    watcher.mark_seen(settled.state);
    watcher
}

async fn change(watcher: &mut Watcher) -> SettledDir {
    let settled = timeout(LONG, watcher.changed()).await.unwrap();
    watcher.mark_seen(settled.state.clone());
    settled
}

/// Nothing wakes the watcher until the sentinel is written, which shows that it still watches.
async fn nothing_then(watcher: &mut Watcher, quiet: Duration, sentinel: &Path) {
    assert!(
        timeout(quiet * 3, watcher.changed()).await.is_err(),
        "woken without a change"
    );
    fs::write(sentinel, "provider: SENTINEL\n").unwrap();
    change(watcher).await;
}

/// A directory of definitions with a watcher that has seen its state.
async fn watched(options: WatchOptions) -> (TempDir, PathBuf, Watcher) {
    let root = TempDir::new().unwrap();
    let definitions = root.path().join("definitions");
    fill(&definitions, "one");
    let watcher = watch(&definitions, options).await;
    (root, definitions, watcher)
}

/// Writes a file all the time, in a thread.
struct EndlessWriter {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl EndlessWriter {
    fn start(path: PathBuf) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut file = File::create(path).unwrap();
            while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
                file.write_all(b"# more\n").unwrap();
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

fn fill(definitions: &Path, icon: &str) {
    fs::create_dir_all(definitions).unwrap();
    fs::write(
        definitions.join("hostaway.yaml"),
        format!("provider: HOSTAWAY\nicon: {icon}\n"),
    )
    .unwrap();
    fs::write(definitions.join("guesty.yml"), "provider: GUESTY\n").unwrap();
}

fn flip(link: &Path, target: &str) {
    let fresh = link.with_file_name("..fresh");
    symlink(target, &fresh).unwrap();
    fs::rename(&fresh, link).unwrap();
}

#[tokio::test]
async fn the_first_state_is_a_change_until_it_is_marked_as_seen() {
    let (_root, definitions, _) = watched(by_events()).await;
    let mut watcher = Watcher::new(definitions.clone(), by_events());
    let first = timeout(LONG, watcher.changed()).await.unwrap();
    let second = timeout(LONG, watcher.changed()).await.unwrap();
    assert_eq!(first.state, second.state);
    watcher.mark_seen(second.state);
    nothing_then(&mut watcher, QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn a_file_rewritten_in_place_renamed_over_added_or_deleted_wakes_each_time() {
    let (_root, definitions, mut watcher) = watched(by_events()).await;
    let file = definitions.join("hostaway.yaml");

    fs::write(&file, "provider: HOSTAWAY\nicon: two\n").unwrap();
    let settled = change(&mut watcher).await;
    assert_eq!(
        (settled.found_by, settled.unsettled),
        (FoundBy::Event, vec![])
    );

    let saved = definitions.join(".hostaway.yaml.swp");
    fs::write(&saved, "provider: HOSTAWAY\nicon: three\n").unwrap();
    fs::rename(&saved, &file).unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
    // The watch outlives the file it was about.
    fs::write(&file, "provider: HOSTAWAY\nicon: four\n").unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);

    fs::write(definitions.join("lodgify.yaml"), "provider: LODGIFY\n").unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);

    fs::remove_file(&file).unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
}

#[tokio::test]
async fn the_same_size_and_a_time_set_back_hide_no_change() {
    let (_root, definitions, mut watcher) = watched(by_polling()).await;
    let path = definitions.join("hostaway.yaml");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(b"provider: HOSTAWAY\nicon: two\n").unwrap();
    file.set_modified(before).unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Poll);
}

#[tokio::test]
async fn git_syncs_flip_of_the_link_wakes_again_and_again() {
    let root = TempDir::new().unwrap();
    for commit in ["a", "b", "c"] {
        fill(
            &root
                .path()
                .join(".worktrees")
                .join(commit)
                .join("deploy/definitions"),
            commit,
        );
    }
    let link = root.path().join("current");
    symlink(".worktrees/a", &link).unwrap();
    let mut watcher = watch(&link.join("deploy/definitions"), by_events()).await;
    for commit in ["b", "c", "a"] {
        flip(&link, &format!(".worktrees/{commit}"));
        assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
    }
    let file = root
        .path()
        .join(".worktrees/a/deploy/definitions/hostaway.yaml");
    fs::write(file, "provider: HOSTAWAY\n").unwrap();
    assert_eq!(
        change(&mut watcher).await.found_by,
        FoundBy::Event,
        "the target of the link is watched, too"
    );
}

#[tokio::test]
async fn a_flip_of_the_definitions_link_itself_wakes_even_if_the_files_are_the_same() {
    let root = TempDir::new().unwrap();
    fill(&root.path().join("a"), "same");
    fs::create_dir(root.path().join("b")).unwrap();
    let link = root.path().join("definitions");
    symlink("a", &link).unwrap();
    for name in ["hostaway.yaml", "guesty.yml"] {
        fs::hard_link(
            root.path().join("a").join(name),
            root.path().join("b").join(name),
        )
        .unwrap();
    }
    let mut watcher = watch(&link, by_events()).await;
    flip(&link, "b");
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
}

#[tokio::test]
async fn a_configmaps_swap_of_its_data_wakes_again_and_again() {
    let root = TempDir::new().unwrap();
    let mount = root.path();
    fill(&mount.join("..2026_01"), "one");
    symlink("..2026_01", mount.join("..data")).unwrap();
    for name in ["hostaway.yaml", "guesty.yml"] {
        symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
    let mut watcher = watch(mount, by_events()).await;
    for (old, new) in [
        ("..2026_01", "..2026_02"),
        ("..2026_02", "..2026_03"),
        ("..2026_03", "..2026_01"),
    ] {
        fill(&mount.join(new), new);
        flip(&mount.join("..data"), new);
        fs::remove_dir_all(mount.join(old)).unwrap();
        assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
    }
}

#[tokio::test]
async fn a_directory_that_vanishes_and_comes_back_wakes_twice_and_is_watched_again() {
    let (_root, definitions, mut watcher) = watched(by_events()).await;
    for round in ["two", "three", "four"] {
        fs::remove_dir_all(&definitions).unwrap();
        assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
        fill(&definitions, round);
        assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
        fs::write(definitions.join("hostaway.yaml"), "provider: HOSTAWAY\n").unwrap();
        assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
    }
}

#[tokio::test]
async fn a_directory_replaced_at_once_is_watched_again() {
    let (_root, definitions, mut watcher) = watched(by_events()).await;
    // Often with the same inode number: only the events distinguish the two.
    fs::remove_dir_all(&definitions).unwrap();
    fill(&definitions, "two");
    change(&mut watcher).await;
    fs::write(definitions.join("hostaway.yaml"), "provider: HOSTAWAY\n").unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
}

#[tokio::test]
async fn a_parent_removed_and_created_again_is_watched_again() {
    let root = TempDir::new().unwrap();
    let (repository, definitions) = (
        root.path().join("repo"),
        root.path().join("repo/definitions"),
    );
    fill(&definitions, "one");
    let mut watcher = watch(&definitions, by_events()).await;
    fs::remove_dir_all(&repository).unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
    fill(&definitions, "two");
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
    fs::remove_file(definitions.join("hostaway.yaml")).unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
}

#[tokio::test]
async fn a_missing_directory_is_waited_for() {
    let root = TempDir::new().unwrap();
    let definitions = root.path().join("not/yet/definitions");
    let mut watcher = watch(&definitions, by_events()).await;
    fill(&definitions, "one");
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Event);
}

#[tokio::test]
async fn links_that_lead_in_a_circle_are_a_missing_directory() {
    let root = TempDir::new().unwrap();
    symlink("b", root.path().join("a")).unwrap();
    symlink("a", root.path().join("b")).unwrap();
    let mut watcher = watch(&root.path().join("a"), by_events()).await;
    fs::remove_file(root.path().join("b")).unwrap();
    fill(&root.path().join("b"), "one");
    change(&mut watcher).await;
}

#[tokio::test]
async fn files_that_are_not_definitions_do_not_wake() {
    let (root, definitions, mut watcher) = watched(by_events()).await;
    fs::write(root.path().join("other.yaml"), "other\n").unwrap();
    fs::write(root.path().join("other.yaml"), "another\n").unwrap();
    fs::create_dir(root.path().join("sibling")).unwrap();
    fs::write(definitions.join("README.md"), "text\n").unwrap();
    fs::write(definitions.join(".hostaway.yaml.swp"), "swap\n").unwrap();
    nothing_then(&mut watcher, QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn reading_the_files_does_not_wake() {
    let (_root, definitions, mut watcher) = watched(by_events()).await;
    for entry in fs::read_dir(&definitions).unwrap() {
        fs::read(entry.unwrap().path()).unwrap();
    }
    nothing_then(&mut watcher, QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn a_reader_that_never_stops_delays_no_change() {
    let (_root, definitions, mut watcher) = watched(by_events()).await;
    let file = definitions.join("hostaway.yaml");
    let (stop, stopped) = mpsc::channel::<()>();
    let reader = thread::spawn({
        let file = file.clone();
        move || {
            while stopped.recv_timeout(QUIET / 20).is_err() {
                fs::read(&file).unwrap();
            }
        }
    });
    fs::write(&file, "provider: HOSTAWAY\nicon: two\n").unwrap();
    change(&mut watcher).await;
    stop.send(()).unwrap();
    reader.join().unwrap();
}

#[tokio::test]
async fn settle_returns_at_once_if_nothing_is_written() {
    let quiet = Duration::from_secs(1);
    let options = WatchOptions {
        quiet,
        ..by_events()
    };
    let (_root, _, mut watcher) = watched(options).await;
    for _ in 0..3 {
        let begun = Instant::now();
        timeout(LONG, watcher.settle()).await.unwrap();
        assert!(begun.elapsed() < quiet);
    }
}

#[tokio::test]
async fn without_events_every_change_is_found_by_polling() {
    let (_root, definitions, mut watcher) = watched(by_polling()).await;
    let file = definitions.join("hostaway.yaml");
    fs::write(&file, "provider: HOSTAWAY\nicon: another\n").unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Poll);
    fs::write(definitions.join("lodgify.yaml"), "provider: LODGIFY\n").unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Poll);
    fs::remove_file(&file).unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Poll);
    fs::remove_dir_all(&definitions).unwrap();
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Poll);
    fill(&definitions, "two");
    assert_eq!(change(&mut watcher).await.found_by, FoundBy::Poll);
}

/// Writes a file in many pieces, with pauses, in a thread. Returns the time of the last piece.
fn slow_writer(path: PathBuf) -> JoinHandle<Instant> {
    thread::spawn(move || {
        let mut file = File::create(path).unwrap();
        for _ in 0..12 {
            file.write_all(b"# a piece\n").unwrap();
            thread::sleep(LONGER_QUIET / 5);
        }
        let last = Instant::now();
        file.write_all(b"# the last piece\n").unwrap();
        last
    })
}

async fn a_slow_writer(options: WatchOptions) {
    let (_root, definitions, mut watcher) = watched(options).await;
    let writer = slow_writer(definitions.join("hostaway.yaml"));
    change(&mut watcher).await;
    assert!(
        writer.is_finished(),
        "woken while the file was being written"
    );
    assert!(
        writer.join().unwrap().elapsed() > LONGER_QUIET / 2,
        "woken before it was quiet"
    );
    nothing_then(&mut watcher, LONGER_QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn a_slow_writer_causes_one_wake_after_the_last_write() {
    a_slow_writer(with_longer_quiet(by_events())).await;
}

#[tokio::test]
async fn a_slow_writer_without_events_causes_one_wake_too() {
    a_slow_writer(with_longer_quiet(by_polling())).await;
}

#[tokio::test]
async fn settle_waits_for_the_writer_too() {
    let (_root, definitions, mut watcher) = watched(with_longer_quiet(by_events())).await;
    let path = definitions.join("hostaway.yaml");
    let writer = slow_writer(path.clone());
    while fs::metadata(&path).unwrap().len() != 10 {
        tokio::task::yield_now().await;
    }
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    assert!(writer.is_finished() && settled.unsettled.is_empty());
    watcher.mark_seen(settled.state);
    nothing_then(&mut watcher, LONGER_QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn a_writer_that_never_stops_is_named_and_its_end_is_another_change() {
    for options in [by_events(), by_polling()] {
        let options = WatchOptions {
            patience: LONGER_QUIET * 2,
            ..with_longer_quiet(options)
        };
        let (_root, definitions, mut watcher) = watched(options).await;
        let writer = EndlessWriter::start(definitions.join("hostaway.yaml"));
        let settled = change(&mut watcher).await;
        assert_eq!(settled.unsettled, ["hostaway.yaml"]);
        writer.stop();
        let settled = change(&mut watcher).await;
        assert!(
            settled.unsettled.is_empty(),
            "the end of the writing is a change"
        );
    }
}

#[tokio::test]
async fn a_writer_that_never_stops_delays_no_other_file() {
    for options in [by_events(), by_polling()] {
        let options = WatchOptions {
            file_patience: LONGER_QUIET * 2,
            // Long enough that the patience for the whole directory does not end.
            patience: LONG * 9,
            ..with_longer_quiet(options)
        };
        let (_root, definitions, mut watcher) = watched(options).await;
        let writer = EndlessWriter::start(definitions.join("hostaway.yaml"));
        assert_eq!(change(&mut watcher).await.unsettled, ["hostaway.yaml"]);
        // A request gets an answer, and so does a wait for another file.
        let settled = timeout(LONG, watcher.settle()).await.unwrap();
        assert_eq!(settled.unsettled, ["hostaway.yaml"]);
        watcher.mark_seen(settled.state);
        fs::write(
            definitions.join("guesty.yml"),
            "provider: GUESTY\nicon: two\n",
        )
        .unwrap();
        assert_eq!(change(&mut watcher).await.unsettled, ["hostaway.yaml"]);
        writer.stop();
        assert!(
            change(&mut watcher).await.unsettled.is_empty(),
            "the end of the writing is a change"
        );
    }
}

#[tokio::test]
async fn an_operator_file_and_a_directory_of_secrets_are_watched() {
    let root = TempDir::new().unwrap();
    let (key, secrets) = (root.path().join("keys/key"), root.path().join("secrets"));
    fs::create_dir(key.parent().unwrap()).unwrap();
    let mut watcher = Watcher::of_files(Some(key.clone()), Some(secrets.clone()), by_events());
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    watcher.mark_seen(settled.state);
    fs::write(&key, "one").unwrap();
    change(&mut watcher).await;
    // As Kubernetes mounts a Secret.
    fill(&secrets.join("..2026_01"), "one");
    symlink("..2026_01", secrets.join("..data")).unwrap();
    symlink("..data/hostaway.yaml", secrets.join("token")).unwrap();
    change(&mut watcher).await;
    fill(&secrets.join("..2026_02"), "two");
    flip(&secrets.join("..data"), "..2026_02");
    change(&mut watcher).await;
    fs::write(key.with_file_name("other"), "not watched").unwrap();
    fs::write(secrets.join(".hidden"), "not watched").unwrap();
    assert!(
        timeout(QUIET * 3, watcher.changed()).await.is_err(),
        "woken without a change"
    );
    fs::remove_file(&key).unwrap();
    change(&mut watcher).await;
}

#[tokio::test]
async fn a_file_from_the_future_does_not_block() {
    let (_root, definitions, mut watcher) = watched(by_polling()).await;
    let file = File::create(definitions.join("hostaway.yaml")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(86_400))
        .unwrap();
    assert!(change(&mut watcher).await.unsettled.is_empty());
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    assert!(settled.unsettled.is_empty());
}

#[tokio::test]
async fn a_cancelled_wait_loses_no_change() {
    let (_root, definitions, mut watcher) = watched(by_events()).await;
    fs::write(
        definitions.join("hostaway.yaml"),
        "provider: HOSTAWAY\nicon: two\n",
    )
    .unwrap();
    for _ in 0..3 {
        // Like a `select!` whose other arm was faster.
        let _ = timeout(Duration::ZERO, watcher.changed()).await;
        let _ = timeout(Duration::ZERO, watcher.settle()).await;
    }
    change(&mut watcher).await;
}
