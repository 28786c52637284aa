//! The commit of the definitions, and whether they differ from it, in repositories created without git.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use calry_gitops::desired::git::read_revision;
use gix::objs::tree::{Entry, EntryKind};
use gix::{ObjectId, Repository};
use tempfile::TempDir;

const HOSTAWAY: &str = "provider: HOSTAWAY\n";
const GUESTY: &str = "provider: GUESTY\n";

/// A repository with `deploy/definitions/{hostaway.yaml, guesty.yml, README.md}` committed and checked out.
struct Fixture {
    root: TempDir,
    repository: Repository,
}

impl Fixture {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let work = root.path().join("work");
        let repository = gix::ThreadSafeRepository::init_opts(
            &work,
            gix::create::Kind::WithWorktree,
            gix::create::Options::default(),
            gix::open::Options::isolated(),
        )
        .unwrap()
        .to_thread_local();
        let fixture = Self { root, repository };
        fixture.commit("Switch Hostaway's pictures off\n\nThey were never used.\n");
        check_out(&fixture.definitions());
        fixture
    }

    fn definitions(&self) -> PathBuf {
        self.root.path().join("work/deploy/definitions")
    }

    fn git_dir(&self) -> PathBuf {
        self.root.path().join("work/.git")
    }

    fn tree(&self, mut entries: Vec<Entry>) -> ObjectId {
        entries.sort();
        self.repository
            .write_object(&gix::objs::Tree { entries })
            .unwrap()
            .detach()
    }

    fn blob(&self, name: &str, kind: EntryKind, content: &str) -> Entry {
        let oid = self.repository.write_blob(content).unwrap().detach();
        Entry {
            mode: kind.into(),
            filename: name.into(),
            oid,
        }
    }

    fn commit(&self, message: &str) -> ObjectId {
        self.commit_files(
            message,
            vec![
                self.blob("hostaway.yaml", EntryKind::Blob, HOSTAWAY),
                self.blob("guesty.yml", EntryKind::Blob, GUESTY),
                self.blob("README.md", EntryKind::Blob, "text\n"),
            ],
        )
    }

    fn commit_files(&self, message: &str, files: Vec<Entry>) -> ObjectId {
        let mut tree = self.tree(files);
        for name in ["definitions", "deploy"] {
            tree = self.tree(vec![Entry {
                mode: EntryKind::Tree.into(),
                filename: name.into(),
                oid: tree,
            }]);
        }
        let author = gix::actor::SignatureRef {
            name: "Ada".into(),
            email: "ada@x".into(),
            time: "1000000000 +0000",
        };
        let committer = gix::actor::SignatureRef {
            name: "Bob".into(),
            email: "bob@x".into(),
            time: "1790000000 +0200",
        };
        let parent = self.repository.head_id().ok().map(gix::Id::detach);
        self.repository
            .commit_as(committer, author, "HEAD", message, tree, parent)
            .unwrap()
            .detach()
    }

    fn is_dirty(&self) -> bool {
        read_revision(&self.definitions()).unwrap().dirty
    }
}

fn check_out(definitions: &Path) {
    fs::create_dir_all(definitions).unwrap();
    fs::write(definitions.join("hostaway.yaml"), HOSTAWAY).unwrap();
    fs::write(definitions.join("guesty.yml"), GUESTY).unwrap();
}

#[test]
fn a_checkout_has_its_commit_subject_author_and_time_of_commit() {
    let fixture = Fixture::new();
    let head = fixture.repository.head_id().unwrap().to_string();
    let revision = read_revision(&fixture.definitions()).unwrap();
    assert_eq!(revision.commit, head);
    assert_eq!(revision.subject, "Switch Hostaway's pictures off");
    assert_eq!(revision.author, "Ada");
    assert_eq!(revision.time, "2026-09-21T14:13:20Z");
    assert!(
        !revision.dirty,
        "README.md is missing, but it is not a definition"
    );
}

#[test]
fn a_definition_changed_added_or_deleted_makes_it_dirty() {
    let fixture = Fixture::new();
    let file = fixture.definitions().join("hostaway.yaml");

    fs::write(&file, "provider: HOSTAWAX\n").unwrap();
    assert!(fixture.is_dirty());
    fs::remove_file(&file).unwrap();
    assert!(fixture.is_dirty());
    fs::create_dir(&file).unwrap();
    assert!(fixture.is_dirty());
    fs::remove_dir(&file).unwrap();
    fs::write(&file, HOSTAWAY).unwrap();
    assert!(!fixture.is_dirty());

    let new = fixture.definitions().join("lodgify.yaml");
    fs::write(&new, "provider: LODGIFY\n").unwrap();
    assert!(fixture.is_dirty());
    fs::remove_file(&new).unwrap();
    for other in [".hidden.yaml", "notes.txt", "README.md"] {
        fs::write(fixture.definitions().join(other), "text\n").unwrap();
    }
    assert!(!fixture.is_dirty());
}

#[test]
fn a_link_is_its_target_and_not_a_file_of_the_same_bytes() {
    let fixture = Fixture::new();
    let file = fixture.definitions().join("hostaway.yaml");
    fs::remove_file(fixture.definitions().join("guesty.yml")).unwrap();
    fixture.commit_files(
        "a link",
        vec![fixture.blob("hostaway.yaml", EntryKind::Link, "../shared.yaml")],
    );

    fs::write(&file, "../shared.yaml").unwrap();
    assert!(fixture.is_dirty());
    fs::remove_file(&file).unwrap();
    symlink("../shared.yaml", &file).unwrap();
    assert!(!fixture.is_dirty());
}

#[test]
fn a_file_too_large_to_be_a_definition_is_not_read_and_differs() {
    let fixture = Fixture::new();
    let large = "#".repeat((1 << 20) + 1);
    fixture.commit_files(
        "large",
        vec![fixture.blob("hostaway.yaml", EntryKind::Blob, &large)],
    );
    fs::remove_file(fixture.definitions().join("guesty.yml")).unwrap();
    fs::write(fixture.definitions().join("hostaway.yaml"), &large).unwrap();
    assert!(fixture.is_dirty());
}

#[test]
fn an_unknown_directory_is_dirty_and_one_without_definitions_is_not() {
    let fixture = Fixture::new();
    let ignored = fixture.root.path().join("work/build");
    fs::create_dir(&ignored).unwrap();
    assert!(!read_revision(&ignored).unwrap().dirty);
    check_out(&ignored);
    assert!(read_revision(&ignored).unwrap().dirty);
}

#[test]
fn there_is_no_revision_outside_a_checkout_without_a_commit_or_with_a_broken_repository() {
    let root = TempDir::new().unwrap();
    check_out(root.path());
    assert_eq!(read_revision(root.path()), None);
    assert_eq!(read_revision(&root.path().join("missing")), None);
    fs::write(root.path().join(".git"), "gitdir: /nonexistent\n").unwrap();
    assert_eq!(read_revision(root.path()), None);

    let fixture = Fixture::new();
    fs::write(fixture.git_dir().join("HEAD"), "ref: refs/heads/unborn\n").unwrap();
    assert_eq!(read_revision(&fixture.definitions()), None);
    fs::write(fixture.git_dir().join("HEAD"), "ff".repeat(20)).unwrap();
    assert_eq!(read_revision(&fixture.definitions()), None);
    fs::write(fixture.git_dir().join("HEAD"), "\u{0}\u{0}").unwrap();
    assert_eq!(read_revision(&fixture.definitions()), None);
}

#[test]
fn a_detached_head_and_packed_refs_are_read() {
    let fixture = Fixture::new();
    let head = fixture.repository.head_id().unwrap().to_string();
    let branch = fixture
        .repository
        .head_name()
        .unwrap()
        .unwrap()
        .as_bstr()
        .to_string();

    fs::remove_file(fixture.git_dir().join(&branch)).unwrap();
    fs::write(
        fixture.git_dir().join("packed-refs"),
        format!("# pack-refs with: peeled\n{head} {branch}\n"),
    )
    .unwrap();
    assert_eq!(read_revision(&fixture.definitions()).unwrap().commit, head);

    fs::write(fixture.git_dir().join("HEAD"), format!("{head}\n")).unwrap();
    assert_eq!(read_revision(&fixture.definitions()).unwrap().commit, head);
}

#[test]
fn a_shallow_clone_is_read_without_its_history() {
    let fixture = Fixture::new();
    let first = fixture.repository.head_id().unwrap().to_string();
    let second = fixture.commit("second").to_string();
    fs::write(fixture.git_dir().join("shallow"), format!("{second}\n")).unwrap();
    fs::remove_file(
        fixture
            .git_dir()
            .join("objects")
            .join(&first[..2])
            .join(&first[2..]),
    )
    .unwrap();
    let revision = read_revision(&fixture.definitions()).unwrap();
    assert_eq!((revision.commit, revision.dirty), (second, false));
}

/// The layout of git-sync: `current` is a link to a worktree, whose `.git` is a file with the path of the repository.
#[test]
fn a_worktree_of_git_sync_is_read_through_its_link() {
    let fixture = Fixture::new();
    let head = fixture.repository.head_id().unwrap().to_string();
    fixture.commit("only in the main checkout");
    let worktree = fixture.root.path().join("work/.worktrees").join(&head);
    check_out(&worktree.join("deploy/definitions"));
    fs::write(
        worktree.join(".git"),
        format!("gitdir: ../../.git/worktrees/{head}\n"),
    )
    .unwrap();
    let private = fixture.git_dir().join("worktrees").join(&head);
    fs::create_dir_all(&private).unwrap();
    fs::write(private.join("HEAD"), format!("{head}\n")).unwrap();
    fs::write(private.join("commondir"), "../..\n").unwrap();
    fs::write(
        private.join("gitdir"),
        format!("{}\n", worktree.join(".git").display()),
    )
    .unwrap();
    symlink(&worktree, fixture.root.path().join("current")).unwrap();

    let revision = read_revision(&fixture.root.path().join("current/deploy/definitions")).unwrap();
    assert_eq!((revision.commit, revision.dirty), (head, false));
    assert_eq!(revision.subject, "Switch Hostaway's pictures off");
}

#[test]
fn the_nearest_repository_counts() {
    let outer = Fixture::new();
    let inner = gix::init(outer.definitions()).unwrap();
    drop(inner);
    assert_eq!(
        read_revision(&outer.definitions()),
        None,
        "it has no commit, and the outer repository is another one"
    );
}

#[test]
fn a_directory_that_looks_like_a_bare_repository_is_none() {
    let fixture = Fixture::new();
    let inner = fixture.definitions();
    for directory in ["objects", "refs/heads"] {
        fs::create_dir_all(inner.join(directory)).unwrap();
    }
    fs::write(inner.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(inner.join("config"), "[core]\n\tbare = true\n").unwrap();
    assert!(read_revision(&inner).is_some_and(|revision| !revision.dirty));
}

#[test]
fn a_long_subject_is_cut() {
    let fixture = Fixture::new();
    fixture.commit(&"x".repeat(100_000));
    let subject = read_revision(&fixture.definitions()).unwrap().subject;
    assert_eq!(subject.chars().count(), 200);
    assert!(subject.ends_with('…'));
}

/// Every setting that makes git run a program, or read other files, for a status.
#[test]
fn a_hostile_configuration_runs_nothing_and_changes_nothing() {
    let fixture = Fixture::new();
    let (root, git_dir) = (fixture.root.path(), fixture.git_dir());
    let trap = root.join("trap");
    fs::write(
        &trap,
        format!("#!/bin/sh\ntouch {}\ncat\n", root.join("sprung").display()),
    )
    .unwrap();
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
    let trap = trap.display();
    let evil = format!(
        "[core]\n\trepositoryformatversion = 0\n\tbare = true\n\tworktree = /etc\n\tfsmonitor = {trap}\n\tautocrlf = true\n\
         \thooksPath = {0}\n\tsshCommand = {trap}\n\tpager = {trap}\n\teditor = {trap}\n\tattributesFile = {0}/attributes\n\
         [filter \"evil\"]\n\tclean = {trap}\n\tprocess = {trap}\n\trequired = true\n[include]\n\tpath = /dev/zero\n\
         [diff \"evil\"]\n\ttextconv = {trap}\n[gpg]\n\tprogram = {trap}\n[log]\n\tshowSignature = true\n",
        root.display()
    );
    fs::write(git_dir.join("config"), evil).unwrap();
    fs::create_dir_all(git_dir.join("info")).unwrap();
    for attributes in [
        git_dir.join("info/attributes"),
        fixture.definitions().join(".gitattributes"),
    ] {
        fs::write(attributes, "* filter=evil diff=evil\n").unwrap();
    }
    assert!(!fixture.is_dirty());
    fs::write(
        fixture.definitions().join("hostaway.yaml"),
        "provider: OTHER\n",
    )
    .unwrap();
    assert!(fixture.is_dirty());
    assert!(!root.join("sprung").exists());
}
