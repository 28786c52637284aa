//! What the black-box tests share: a sandbox in this process, a directory of definitions, and the real binary.

pub(crate) mod documents;
pub(crate) mod git_server;
pub(crate) mod openpgp;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use calry_gitops::sandbox::{Config, RequestRecord, Sandbox, Seed};
use gix::objs::Write as _;
use gix::objs::tree::{Entry, EntryKind};
use gix::{ObjectId, Repository};
use ring::signature::KeyPair as _;
use serde_json::Value;
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, HashAlg, LineEnding, PublicKey, Signature, SshSig};
use tokio::runtime::Runtime;

/// How long a test waits for something that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox, a definitions directory and the binary between them.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) env: BTreeMap<String, String>,
    _runtime: Runtime,
}

impl Default for World {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let runtime = Runtime::new().unwrap();
        let sandbox = runtime.block_on(Sandbox::start(config)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("definitions")).unwrap();
        let env = BTreeMap::from([
            ("CALRY_API_URL".to_owned(), sandbox.url()),
            ("CALRY_API_KEY".to_owned(), sandbox.keys().write.clone()),
            // Tests run side by side.
            ("CALRY_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            // Tests look more often than people do.
            ("CALRY_ADMIN_RATE".to_owned(), "1000000".to_owned()),
        ]);
        Self {
            sandbox,
            dir,
            env,
            _runtime: runtime,
        }
    }

    /// A world whose workspace holds just these definitions.
    pub(crate) fn with(definitions: Value, config: Config) -> Self {
        let seed = serde_json::json!({
            "workspace": {"id": "5f0c1f7e-0000-4000-8000-000000000001", "name": "Acme", "slug": "acme-production",
                "defaultCurrency": "EUR", "createdAt": "2026-01-01T00:00:00.000Z", "updatedAt": "2026-01-01T00:00:00.000Z"},
            "definitions": definitions,
        });
        let seed = Seed::parse(seed.to_string().as_bytes()).unwrap();
        Self::new(Config { seed, ..config })
    }

    /// A world of one provider whose file has these fields of its listing on. In Calry `name` is on and `rooms` off.
    pub(crate) fn of_hostaway(listing: &str) -> Self {
        let live = serde_json::json!([live("HOSTAWAY", &["name"], &["rooms"])]);
        let world = Self::with(live, Config::default());
        let text = format!("provider: HOSTAWAY\nfieldsToSync:\n  listing: {listing}\n");
        world.write("hostaway.yaml", &text);
        world
    }

    /// Starts a daemon with the settings of a configuration file only.
    pub(crate) fn configured_daemon(&self, config: &str) -> Daemon {
        let path = self.dir.path().join("config.yaml");
        std::fs::write(&path, config).unwrap();
        let mut command = self.command(&["run", "--listen", "127.0.0.1:0", "--interval", "1h"]);
        command
            .args(["--config", "config.yaml"])
            .env_remove("CALRY_API_KEY")
            .env_remove("CALRY_API_URL")
            .env_remove("CALRY_DEFINITIONS");
        Daemon::start(command)
    }

    pub(crate) fn definitions(&self) -> PathBuf {
        self.dir.path().join("definitions")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.definitions().join(name), text).unwrap();
        self
    }

    /// Writes a file of the shared directory `shared`, which is beside the definitions.
    pub(crate) fn write_shared(&self, name: &str, text: &str) -> &Self {
        let directory = self.dir.path().join("shared");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), text).unwrap();
        self
    }

    pub(crate) fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calry-gitops"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub(crate) fn live(&self, provider: &str) -> Value {
        self.sandbox.definition(provider).unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        self.sandbox.requests()
    }

    /// The updates that arrived.
    pub(crate) fn updates(&self) -> Vec<RequestRecord> {
        self.requests()
            .into_iter()
            .filter(|r| ["PATCH", "PUT"].contains(&r.method.as_str()))
            .collect()
    }

    /// Starts the daemon.
    pub(crate) fn daemon(&self, args: &[&str]) -> Daemon {
        let mut all = vec!["run"];
        all.extend(args);
        Daemon::start(self.command(&all))
    }
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "--- out\n{}\n--- err\n{}",
            self.out, self.err
        );
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.contains(text),
            "{text:?} is not in\n--- out\n{}\n--- err\n{}",
            self.out,
            self.err
        );
        self
    }

    #[track_caller]
    pub(crate) fn does_not_say(self, text: &str) -> Self {
        assert!(
            !self.contains(text),
            "{text:?} is in\n--- out\n{}\n--- err\n{}",
            self.out,
            self.err
        );
        self
    }

    /// Whether the output has a text, wherever its lines break.
    fn contains(&self, text: &str) -> bool {
        let flat = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
        flat(&format!("{} {}", self.out, self.err)).contains(&flat(text))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// A running daemon; it is killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Daemon {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let out = child.stdout.take().unwrap();
        let err = child.stderr.take().unwrap();
        let other = send.clone();
        std::thread::spawn(move || {
            BufReader::new(out)
                .lines()
                .map_while(Result::ok)
                .for_each(|l| drop(other.send(l)))
        });
        std::thread::spawn(move || {
            BufReader::new(err)
                .lines()
                .map_while(Result::ok)
                .for_each(|l| drop(send.send(l)))
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line that holds a text.
    #[track_caller]
    pub(crate) fn line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with {text:?} came in:\n{}", self.seen.join("\n"));
    }

    /// Takes the lines that came in since.
    pub(crate) fn drain(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }

    /// The number of lines so far with this text.
    pub(crate) fn count_lines(&self, text: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(text)).count()
    }

    /// The address of its status and page.
    #[track_caller]
    pub(crate) fn address(&mut self) -> String {
        const LINE: &str = "listening on http://";
        let seen = self.seen.iter().find(|line| line.contains(LINE)).cloned();
        let line = seen.unwrap_or_else(|| self.line(LINE));
        line.split_once(LINE)
            .unwrap()
            .1
            .split('/')
            .next()
            .unwrap()
            .to_owned()
    }

    /// What it answers with at a path of its own.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        get(&self.address(), path, "")
    }

    /// The status of its one workspace.
    #[track_caller]
    pub(crate) fn status(&mut self) -> Value {
        self.get("/api/v1/status").json()["workspaces"][0].clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end and returns the exit code.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.seen.extend(self.lines.iter());
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "the daemon did not end:\n{}",
                self.seen.join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer of a daemon.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers
            .into_iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Sends bytes to an address and reads the answer to its end.
#[track_caller]
pub(crate) fn send(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        code,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Asks for a path; more headers end in a line break each.
#[track_caller]
pub(crate) fn get(address: &str, path: &str, more: &str) -> Answer {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n"),
    )
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A live definition with the fields of `listing` that are on and off.
pub(crate) fn live(provider: &str, on: &[&str], off: &[&str]) -> Value {
    let fields: serde_json::Map<String, Value> = on
        .iter()
        .map(|f| ((*f).to_owned(), true.into()))
        .chain(off.iter().map(|f| ((*f).to_owned(), false.into())))
        .collect();
    serde_json::json!({
        "id": "5f0c1f7e-0000-4000-8000-0000000000ff", "name": format!("{provider} Integration"), "provider": provider,
        "fieldsToSync": {"listing": fields},
        "createdAt": "2026-01-01T00:00:00.000Z", "updatedAt": "2026-01-01T00:00:00.000Z",
    })
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The comment with every code span and block taken out: what Markdown would act on.
pub(crate) fn outside_code(comment: &str) -> String {
    let mut out = String::new();
    let mut block: Option<String> = None;
    for line in comment.lines() {
        let fence: String = line.chars().take_while(|c| *c == '`').collect();
        match &block {
            Some(open) if line == open => block = None,
            Some(_) => {}
            None if fence.len() >= 3 && line.ends_with("diff") => block = Some(fence),
            None => {
                let mut rest = line;
                while let Some(at) = rest.find('`') {
                    out.push_str(&rest[..at]);
                    let run: String = rest[at..].chars().take_while(|c| *c == '`').collect();
                    let after = &rest[at + run.len()..];
                    let end = after
                        .find(&run)
                        .unwrap_or_else(|| panic!("a span is not closed: {line}"));
                    rest = &after[end + run.len()..];
                }
                out.push_str(rest);
                out.push('\n');
            }
        }
    }
    assert!(block.is_none(), "a block is not closed:\n{comment}");
    out
}

/// A person with an ed25519 key.
pub(crate) struct Signer(ring::signature::Ed25519KeyPair);

impl Signer {
    pub(crate) fn new(seed: u8) -> Self {
        Self(ring::signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn key(&self) -> KeyData {
        KeyData::Ed25519(Ed25519PublicKey(
            self.0.public_key().as_ref().try_into().unwrap(),
        ))
    }

    pub(crate) fn public(&self) -> String {
        PublicKey::from(self.key()).to_openssh().unwrap()
    }

    /// The commit with a signature, as git writes it.
    pub(crate) fn sign(&self, commit: &[u8]) -> Vec<u8> {
        openpgp::with_signature(commit, &self.signature(commit))
    }

    /// The signature of a commit or a tag, as text.
    pub(crate) fn signature(&self, object: &[u8]) -> String {
        let about = SshSig::signed_data("git", HashAlg::Sha512, object).unwrap();
        let made = Signature::new(Algorithm::Ed25519, self.0.sign(&about).as_ref()).unwrap();
        SshSig::new(self.key(), "git", HashAlg::Sha512, made)
            .unwrap()
            .to_pem(LineEnding::LF)
            .unwrap()
    }
}

/// A git checkout of a world's definitions, created without git. `main` has the definitions as they are at the creation.
pub(crate) struct Checkout {
    pub(crate) world: World,
    pub(crate) repository: Repository,
    pub(crate) main: ObjectId,
}

impl Checkout {
    pub(crate) fn of(world: World) -> Self {
        let repository = gix::ThreadSafeRepository::init_opts(
            world.dir.path(),
            gix::create::Kind::WithWorktree,
            gix::create::Options::default(),
            gix::open::Options::isolated(),
        )
        .unwrap()
        .to_thread_local();
        let mut checkout = Self {
            world,
            repository,
            main: ObjectId::null(gix::hash::Kind::Sha1),
        };
        checkout.main = checkout.commit("refs/heads/main", &[]);
        checkout
    }

    /// Writes a directory as a tree.
    fn tree(&self, directory: &Path) -> ObjectId {
        let entry = |entry: std::fs::DirEntry| {
            let (path, filename) = (entry.path(), entry.file_name().into_string().unwrap());
            let (kind, oid) = if path.is_symlink() {
                let target = std::fs::read_link(path).unwrap();
                let blob = self.repository.write_blob(target.to_str().unwrap());
                (EntryKind::Link, blob.unwrap().detach())
            } else if path.is_dir() {
                (EntryKind::Tree, self.tree(&path))
            } else {
                let blob = self.repository.write_blob(std::fs::read(path).unwrap());
                (EntryKind::Blob, blob.unwrap().detach())
            };
            Entry {
                mode: kind.into(),
                filename: filename.into(),
                oid,
            }
        };
        let entries = std::fs::read_dir(directory).unwrap();
        let mut entries: Vec<Entry> = entries.map(|found| entry(found.unwrap())).collect();
        entries.sort();
        let tree = self.repository.write_object(&gix::objs::Tree { entries });
        tree.unwrap().detach()
    }

    /// Commits the definitions of the directory, and the shared directory if there is one.
    pub(crate) fn commit(&self, reference: &str, parents: &[ObjectId]) -> ObjectId {
        let directories = ["definitions", "shared"].into_iter();
        let directories = directories.filter(|name| self.world.dir.path().join(name).is_dir());
        let root = directories.map(|name| Entry {
            mode: EntryKind::Tree.into(),
            filename: name.into(),
            oid: self.tree(&self.world.dir.path().join(name)),
        });
        let root: Vec<Entry> = root.collect();
        let tree = self
            .repository
            .write_object(&gix::objs::Tree { entries: root })
            .unwrap()
            .detach();
        let who = gix::actor::SignatureRef {
            name: "Ada".into(),
            email: "ada@x".into(),
            time: "1790000000 +0000",
        };
        let message = format!("A commit to {}", reference.rsplit('/').next().unwrap());
        let commit = self
            .repository
            .new_commit_as(who, who, &message, tree, parents.to_vec())
            .unwrap()
            .id;
        std::fs::write(
            self.world.dir.path().join(".git").join(reference),
            format!("{commit}\n"),
        )
        .unwrap();
        commit
    }

    /// Commits the definitions of the directory to the branch `main`, with a signature.
    pub(crate) fn signed(&self, key: &Signer, parents: &[ObjectId]) -> ObjectId {
        let commit = self.commit("refs/heads/main", parents);
        let raw = self.repository.find_object(commit).unwrap().detach().data;
        self.raw_commit(&key.sign(&raw))
    }

    /// Stores a commit and checks it out.
    pub(crate) fn raw_commit(&self, raw: &[u8]) -> ObjectId {
        let commit = self
            .repository
            .objects
            .write_buf(gix::objs::Kind::Commit, raw)
            .unwrap();
        std::fs::write(
            self.world.dir.path().join(".git/refs/heads/main"),
            format!("{commit}\n"),
        )
        .unwrap();
        commit
    }

    /// Writes the file of allowed signers. Returns its path.
    pub(crate) fn allow(&self, signers: &[&Signer]) -> String {
        let path = self.world.dir.path().join("allowed_signers");
        let lines: Vec<String> = signers
            .iter()
            .map(|signer| format!("ada@x {}\n", signer.public()))
            .collect();
        std::fs::write(&path, lines.concat()).unwrap();
        path.display().to_string()
    }

    /// Writes a file and commits it to the branch `topic`, which is then checked out.
    pub(crate) fn branch(&self, name: &str, text: &str) -> &Self {
        std::fs::write(
            self.world.dir.path().join(".git/HEAD"),
            "ref: refs/heads/topic\n",
        )
        .unwrap();
        self.world.write(name, text);
        self.commit("refs/heads/topic", &[self.main]);
        self
    }
}
