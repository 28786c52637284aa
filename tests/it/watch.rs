//! What the watcher of the definitions directory notices, and what it doesn't, on a real file system.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use calry_gitops::desired::watch::{FoundBy, Settled, WatchOptions, Watcher};
use tempfile::TempDir;
use tokio::time::timeout;

const QUIET: Duration = Duration::from_millis(100);
const NEVER: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);
/// Pauses of a fifth of it must not be taken for the end, on the slowest machine.
const LONGER_QUIET: Duration = Duration::from_millis(300);
/// Long enough for the slowest machine; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(20);

/// Lives on events alone.
fn by_events() -> WatchOptions {
    WatchOptions {
        quiet: QUIET,
        poll: NEVER,
        patience: PATIENCE,
        ..WatchOptions::default()
    }
}

/// Gets no events, as on NFS.
fn by_looking() -> WatchOptions {
    let poll = Duration::from_millis(20);
    WatchOptions {
        quiet: QUIET,
        poll,
        patience: PATIENCE,
        events: false,
        ..WatchOptions::default()
    }
}

/// A watcher that has seen what there is.
async fn watch(definitions: &Path, options: WatchOptions) -> Watcher {
    let mut watcher = Watcher::new(definitions.to_owned(), options);
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    watcher.seen(settled.fingerprint);
    watcher
}

async fn change(watcher: &mut Watcher) -> Settled {
    let settled = timeout(LONG, watcher.changed()).await.unwrap();
    watcher.seen(settled.fingerprint.clone());
    settled
}

/// Nothing wakes it, and then something does: it wasn't deaf.
async fn nothing_then(watcher: &mut Watcher, quiet: Duration, sentinel: &Path) {
    assert!(
        timeout(quiet * 3, watcher.changed()).await.is_err(),
        "woken for nothing"
    );
    fs::write(sentinel, "provider: SENTINEL\n").unwrap();
    change(watcher).await;
}

fn room() -> (TempDir, PathBuf) {
    let room = TempDir::new().unwrap();
    let definitions = room.path().join("definitions");
    fill(&definitions, "one");
    (room, definitions)
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
async fn what_was_never_seen_is_a_change_until_it_is_seen() {
    let (_room, definitions) = room();
    let mut watcher = Watcher::new(definitions.clone(), by_events());
    let first = timeout(LONG, watcher.changed()).await.unwrap();
    let second = timeout(LONG, watcher.changed()).await.unwrap();
    assert_eq!(first.fingerprint, second.fingerprint);
    watcher.seen(second.fingerprint);
    nothing_then(&mut watcher, QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn a_file_rewritten_in_place_renamed_over_added_or_deleted_wakes_each_time() {
    let (_room, definitions) = room();
    let file = definitions.join("hostaway.yaml");
    let mut watcher = watch(&definitions, by_events()).await;

    fs::write(&file, "provider: HOSTAWAY\nicon: two\n").unwrap();
    let settled = change(&mut watcher).await;
    assert_eq!((settled.by, settled.unsettled), (FoundBy::Event, vec![]));

    let saved = definitions.join(".hostaway.yaml.swp");
    fs::write(&saved, "provider: HOSTAWAY\nicon: three\n").unwrap();
    fs::rename(&saved, &file).unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
    // The watch outlives the file it was about.
    fs::write(&file, "provider: HOSTAWAY\nicon: four\n").unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);

    fs::write(definitions.join("lodgify.yaml"), "provider: LODGIFY\n").unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);

    fs::remove_file(&file).unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
}

#[tokio::test]
async fn the_same_size_and_a_time_put_back_hide_nothing() {
    let (_room, definitions) = room();
    let path = definitions.join("hostaway.yaml");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let mut watcher = watch(&definitions, by_looking()).await;
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(b"provider: HOSTAWAY\nicon: two\n").unwrap();
    file.set_modified(before).unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Poll);
}

#[tokio::test]
async fn git_syncs_flip_of_the_link_wakes_again_and_again() {
    let room = TempDir::new().unwrap();
    for commit in ["a", "b", "c"] {
        fill(
            &room
                .path()
                .join(".worktrees")
                .join(commit)
                .join("deploy/definitions"),
            commit,
        );
    }
    let link = room.path().join("current");
    symlink(".worktrees/a", &link).unwrap();
    let mut watcher = watch(&link.join("deploy/definitions"), by_events()).await;
    for commit in ["b", "c", "a"] {
        flip(&link, &format!(".worktrees/{commit}"));
        assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
    }
    let file = room
        .path()
        .join(".worktrees/a/deploy/definitions/hostaway.yaml");
    fs::write(file, "provider: HOSTAWAY\n").unwrap();
    assert_eq!(
        change(&mut watcher).await.by,
        FoundBy::Event,
        "what the link leads to is watched as well"
    );
}

#[tokio::test]
async fn a_flip_of_the_definitions_link_itself_wakes_even_where_the_files_are_the_same_ones() {
    let room = TempDir::new().unwrap();
    fill(&room.path().join("a"), "same");
    fs::create_dir(room.path().join("b")).unwrap();
    let link = room.path().join("definitions");
    symlink("a", &link).unwrap();
    for name in ["hostaway.yaml", "guesty.yml"] {
        fs::hard_link(
            room.path().join("a").join(name),
            room.path().join("b").join(name),
        )
        .unwrap();
    }
    let mut watcher = watch(&link, by_events()).await;
    flip(&link, "b");
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
}

#[tokio::test]
async fn a_configmaps_swap_of_its_data_wakes_again_and_again() {
    let room = TempDir::new().unwrap();
    let mount = room.path();
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
        assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
    }
}

#[tokio::test]
async fn a_directory_that_vanishes_and_comes_back_wakes_twice_and_is_watched_anew() {
    let (_room, definitions) = room();
    let mut watcher = watch(&definitions, by_events()).await;
    for round in ["two", "three", "four"] {
        fs::remove_dir_all(&definitions).unwrap();
        assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
        fill(&definitions, round);
        assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
        fs::write(definitions.join("hostaway.yaml"), "provider: HOSTAWAY\n").unwrap();
        assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
    }
}

#[tokio::test]
async fn a_directory_replaced_at_once_is_watched_anew() {
    let (_room, definitions) = room();
    let mut watcher = watch(&definitions, by_events()).await;
    // Often with the same inode number: nothing but the events tells the two apart.
    fs::remove_dir_all(&definitions).unwrap();
    fill(&definitions, "two");
    change(&mut watcher).await;
    fs::write(definitions.join("hostaway.yaml"), "provider: HOSTAWAY\n").unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
}

#[tokio::test]
async fn a_parent_removed_and_made_again_is_watched_anew() {
    let room = TempDir::new().unwrap();
    let (repository, definitions) = (
        room.path().join("repo"),
        room.path().join("repo/definitions"),
    );
    fill(&definitions, "one");
    let mut watcher = watch(&definitions, by_events()).await;
    fs::remove_dir_all(&repository).unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
    fill(&definitions, "two");
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
    fs::remove_file(definitions.join("hostaway.yaml")).unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
}

#[tokio::test]
async fn a_directory_that_is_not_there_yet_is_waited_for() {
    let room = TempDir::new().unwrap();
    let definitions = room.path().join("not/yet/definitions");
    let mut watcher = watch(&definitions, by_events()).await;
    fill(&definitions, "one");
    assert_eq!(change(&mut watcher).await.by, FoundBy::Event);
}

#[tokio::test]
async fn links_that_lead_in_a_circle_are_a_missing_directory() {
    let room = TempDir::new().unwrap();
    symlink("b", room.path().join("a")).unwrap();
    symlink("a", room.path().join("b")).unwrap();
    let mut watcher = watch(&room.path().join("a"), by_events()).await;
    fs::remove_file(room.path().join("b")).unwrap();
    fill(&room.path().join("b"), "one");
    change(&mut watcher).await;
}

#[tokio::test]
async fn files_that_are_no_definitions_wake_nobody() {
    let (room, definitions) = room();
    fs::write(room.path().join("other.yaml"), "other\n").unwrap();
    let mut watcher = watch(&definitions, by_events()).await;
    fs::write(room.path().join("other.yaml"), "another\n").unwrap();
    fs::create_dir(room.path().join("sibling")).unwrap();
    fs::write(definitions.join("README.md"), "words\n").unwrap();
    fs::write(definitions.join(".hostaway.yaml.swp"), "swap\n").unwrap();
    nothing_then(&mut watcher, QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn reading_the_files_wakes_nobody() {
    let (_room, definitions) = room();
    let mut watcher = watch(&definitions, by_events()).await;
    for entry in fs::read_dir(&definitions).unwrap() {
        fs::read(entry.unwrap().path()).unwrap();
    }
    nothing_then(&mut watcher, QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn a_reader_who_never_stops_holds_nobody_up() {
    let (_room, definitions) = room();
    let mut watcher = watch(&definitions, by_events()).await;
    let file = definitions.join("hostaway.yaml");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let reader = std::thread::spawn({
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
async fn where_nobody_writes_nobody_waits() {
    let (_room, definitions) = room();
    let quiet = Duration::from_secs(1);
    let mut watcher = watch(
        &definitions,
        WatchOptions {
            quiet,
            ..by_events()
        },
    )
    .await;
    for _ in 0..3 {
        let begun = Instant::now();
        timeout(LONG, watcher.settle()).await.unwrap();
        assert!(begun.elapsed() < quiet);
    }
}

#[tokio::test]
async fn without_events_everything_is_found_by_looking() {
    let (_room, definitions) = room();
    let file = definitions.join("hostaway.yaml");
    let mut watcher = watch(&definitions, by_looking()).await;
    fs::write(&file, "provider: HOSTAWAY\nicon: another\n").unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Poll);
    fs::write(definitions.join("lodgify.yaml"), "provider: LODGIFY\n").unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Poll);
    fs::remove_file(&file).unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Poll);
    fs::remove_dir_all(&definitions).unwrap();
    assert_eq!(change(&mut watcher).await.by, FoundBy::Poll);
    fill(&definitions, "two");
    assert_eq!(change(&mut watcher).await.by, FoundBy::Poll);
}

/// Writes a file in many pieces, with pauses, in a thread. Answers when the last piece was written.
fn slow_writer(path: PathBuf) -> std::thread::JoinHandle<Instant> {
    std::thread::spawn(move || {
        let mut file = File::create(path).unwrap();
        for _ in 0..12 {
            file.write_all(b"# a piece\n").unwrap();
            std::thread::sleep(LONGER_QUIET / 5);
        }
        let last = Instant::now();
        file.write_all(b"# the last piece\n").unwrap();
        last
    })
}

async fn a_slow_writer(options: WatchOptions) {
    let (_room, definitions) = room();
    let mut watcher = watch(
        &definitions,
        WatchOptions {
            quiet: LONGER_QUIET,
            ..options
        },
    )
    .await;
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
async fn a_slow_writer_causes_one_wake_and_that_after_he_is_done() {
    a_slow_writer(by_events()).await;
}

#[tokio::test]
async fn a_slow_writer_who_sends_no_events_causes_one_wake_too() {
    a_slow_writer(by_looking()).await;
}

#[tokio::test]
async fn a_pass_with_another_reason_waits_for_the_writer_too() {
    let (_room, definitions) = room();
    let mut watcher = watch(
        &definitions,
        WatchOptions {
            quiet: LONGER_QUIET,
            ..by_events()
        },
    )
    .await;
    let path = definitions.join("hostaway.yaml");
    let writer = slow_writer(path.clone());
    while fs::metadata(&path).unwrap().len() != 10 {
        tokio::task::yield_now().await;
    }
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    assert!(writer.is_finished() && settled.unsettled.is_empty());
    watcher.seen(settled.fingerprint);
    nothing_then(&mut watcher, LONGER_QUIET, &definitions.join("new.yaml")).await;
}

#[tokio::test]
async fn a_writer_who_never_stops_is_named_and_his_end_is_another_change() {
    for events in [true, false] {
        let (_room, definitions) = room();
        let options = if events { by_events() } else { by_looking() };
        let patience = LONGER_QUIET * 2;
        let mut watcher = watch(
            &definitions,
            WatchOptions {
                quiet: LONGER_QUIET,
                patience,
                ..options
            },
        )
        .await;
        let path = definitions.join("hostaway.yaml");
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let writer = std::thread::spawn(move || {
            let mut file = File::create(path).unwrap();
            while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
                file.write_all(b"# more\n").unwrap();
            }
        });
        let settled = change(&mut watcher).await;
        assert_eq!(settled.unsettled, ["hostaway.yaml"]);
        stop.send(()).unwrap();
        writer.join().unwrap();
        let settled = change(&mut watcher).await;
        assert!(
            settled.unsettled.is_empty(),
            "the end of the writing is a change"
        );
    }
}

#[tokio::test]
async fn a_writer_who_never_stops_keeps_no_other_file_waiting() {
    for events in [true, false] {
        let (_room, definitions) = room();
        let options = if events { by_events() } else { by_looking() };
        let restless = LONGER_QUIET * 2;
        // The patience of the whole directory is not what this is about.
        let options = WatchOptions {
            quiet: LONGER_QUIET,
            restless,
            patience: LONG * 9,
            ..options
        };
        let mut watcher = watch(&definitions, options).await;
        let path = definitions.join("hostaway.yaml");
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let writer = std::thread::spawn(move || {
            let mut file = File::create(path).unwrap();
            while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
                file.write_all(b"# more\n").unwrap();
            }
        });
        assert_eq!(change(&mut watcher).await.unsettled, ["hostaway.yaml"]);
        // Whoever asks is answered, and so is whoever waits for another file.
        let settled = timeout(LONG, watcher.settle()).await.unwrap();
        assert_eq!(settled.unsettled, ["hostaway.yaml"]);
        watcher.seen(settled.fingerprint);
        fs::write(
            definitions.join("guesty.yml"),
            "provider: GUESTY\nicon: two\n",
        )
        .unwrap();
        assert_eq!(change(&mut watcher).await.unsettled, ["hostaway.yaml"]);
        stop.send(()).unwrap();
        writer.join().unwrap();
        assert!(
            change(&mut watcher).await.unsettled.is_empty(),
            "the end of the writing is a change"
        );
    }
}

#[tokio::test]
async fn a_file_of_the_operators_and_a_directory_of_secrets_are_watched() {
    let room = TempDir::new().unwrap();
    let (key, secrets) = (room.path().join("keys/key"), room.path().join("secrets"));
    fs::create_dir(key.parent().unwrap()).unwrap();
    let mut watcher = Watcher::of_files(Some(key.clone()), Some(secrets.clone()), by_events());
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    watcher.seen(settled.fingerprint);
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
    fs::write(key.with_file_name("other"), "nobody reads it").unwrap();
    fs::write(secrets.join(".hidden"), "nobody reads it").unwrap();
    assert!(
        timeout(QUIET * 3, watcher.changed()).await.is_err(),
        "woken for nothing"
    );
    fs::remove_file(&key).unwrap();
    change(&mut watcher).await;
}

#[tokio::test]
async fn a_file_from_the_future_blocks_nobody() {
    let (_room, definitions) = room();
    let mut watcher = watch(&definitions, by_looking()).await;
    let file = File::create(definitions.join("hostaway.yaml")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(86_400))
        .unwrap();
    assert!(change(&mut watcher).await.unsettled.is_empty());
    let settled = timeout(LONG, watcher.settle()).await.unwrap();
    assert!(settled.unsettled.is_empty());
}

#[tokio::test]
async fn a_cancelled_wait_loses_no_change() {
    let (_room, definitions) = room();
    let mut watcher = watch(&definitions, by_events()).await;
    fs::write(
        definitions.join("hostaway.yaml"),
        "provider: HOSTAWAY\nicon: two\n",
    )
    .unwrap();
    for _ in 0..3 {
        // As a `select!` does whose other arm was faster.
        let _ = timeout(Duration::ZERO, watcher.changed()).await;
        let _ = timeout(Duration::ZERO, watcher.settle()).await;
    }
    change(&mut watcher).await;
}
