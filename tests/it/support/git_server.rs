//! A git server in this process: protocol version 2 over HTTP, for one repository, with faults. It needs no git.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix::ObjectId;
use gix::objs::{Kind, WriteTo as _};
use parking_lot::Mutex;

use super::Signer;

/// The path of the repository.
const REPOSITORY: &str = "/acme/definitions.git";

pub(crate) struct GitServer {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    objects: BTreeMap<ObjectId, (Kind, Vec<u8>)>,
    /// By full name.
    references: BTreeMap<String, ObjectId>,
    head: String,
    token: Option<String>,
    faults: Vec<(Step, GitFault)>,
    requests: Vec<GitRequest>,
}

/// The requests of a fetch, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Advertise,
    List,
    Fetch,
    /// The API of GitHub that makes tokens.
    Token,
}

#[derive(Clone, Debug)]
pub(crate) enum GitFault {
    /// A status, with further header lines.
    Status(u16, String),
    /// The answer ends after this many bytes, its head included.
    Cut(usize),
    /// The answer stops after this many bytes, and the connection stays open.
    Stall(usize),
    /// One byte of the body is another one.
    Flip(usize),
    /// The body is sent byte by byte with this pause.
    Drip(Duration),
    /// The body is this.
    Body(Vec<u8>),
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct GitRequest {
    pub(crate) step: Step,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl GitServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared {
            head: "refs/heads/main".to_owned(),
            ..Shared::default()
        }));
        let of_server = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&of_server);
                // A client may close its connection at any time.
                thread::spawn(move || serve(&shared, connection));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}{REPOSITORY}", self.port)
    }

    /// Makes a commit with these files on a branch, which is created.
    pub(crate) fn commit(&self, branch: &str, files: &[(&str, &str)]) -> String {
        let mut shared = self.shared.lock();
        let name = format!("refs/heads/{branch}");
        let parent = shared.references.get(&name).copied();
        let id = shared.commit(parent, files);
        shared.references.insert(name, id);
        id.to_string()
    }

    /// Makes a commit with a signature on a branch.
    pub(crate) fn signed_commit(
        &self,
        branch: &str,
        files: &[(&str, &str)],
        signer: &Signer,
    ) -> String {
        let id = self.commit(branch, files);
        let mut shared = self.shared.lock();
        let unsigned = &shared.objects[&ObjectId::from_hex(id.as_bytes()).unwrap()].1;
        let signed = signer.sign(unsigned);
        let id = shared.add(Kind::Commit, signed);
        shared.references.insert(format!("refs/heads/{branch}"), id);
        id.to_string()
    }

    /// Makes an annotated tag of a branch's commit, which names itself `own`, with or without a signature.
    pub(crate) fn tag(&self, name: &str, own: &str, branch: &str, signer: Option<&Signer>) {
        self.signed_tag(name, own, branch, |text| {
            signer
                .map(|signer| signer.signature(text))
                .unwrap_or_default()
        });
    }

    /// Makes an annotated tag; `sign` writes the signature of what is before it.
    pub(crate) fn signed_tag(
        &self,
        name: &str,
        own: &str,
        branch: &str,
        sign: impl Fn(&[u8]) -> String,
    ) {
        let mut shared = self.shared.lock();
        let target = shared.references[&format!("refs/heads/{branch}")];
        let text = format!(
            "object {target}\ntype commit\ntag {own}\ntagger Ada <ada@x> 1790000000 +0000\n\nWords\n"
        );
        let signature = sign(text.as_bytes());
        let id = shared.add(Kind::Tag, (text + &signature).into_bytes());
        shared.references.insert(format!("refs/tags/{name}"), id);
    }

    /// Sets or deletes a reference by its full name.
    pub(crate) fn set(&self, name: &str, id: Option<&str>) {
        let mut shared = self.shared.lock();
        match id {
            Some(id) => {
                let id = ObjectId::from_hex(id.as_bytes()).unwrap();
                shared.references.insert(name.to_owned(), id);
            }
            None => drop(shared.references.remove(name)),
        }
    }

    pub(crate) fn set_head(&self, name: &str) {
        name.clone_into(&mut self.shared.lock().head);
    }

    /// Requires this password from now on.
    pub(crate) fn require(&self, token: &str) {
        self.shared.lock().token = Some(token.to_owned());
    }

    /// The next answers of a step fail like this, one after the other.
    pub(crate) fn fault(&self, step: Step, fault: GitFault) {
        self.shared.lock().faults.push((step, fault));
    }

    pub(crate) fn forget_faults(&self) {
        self.shared.lock().faults.clear();
    }

    pub(crate) fn requests(&self) -> Vec<GitRequest> {
        self.shared.lock().requests.clone()
    }

    /// The steps since the last call.
    pub(crate) fn take_steps(&self) -> Vec<Step> {
        let requests = std::mem::take(&mut self.shared.lock().requests);
        requests.iter().map(|request| request.step).collect()
    }
}

impl Shared {
    fn add(&mut self, kind: Kind, bytes: Vec<u8>) -> ObjectId {
        let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, &bytes).unwrap();
        self.objects.insert(id, (kind, bytes));
        id
    }

    fn tree(&mut self, files: &BTreeMap<String, String>) -> ObjectId {
        use gix::objs::tree::{Entry, EntryKind};
        let mut directories: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, text) in files {
            match path.split_once('/') {
                Some((directory, rest)) => {
                    let below = directories.entry(directory).or_default();
                    below.insert(rest.to_owned(), text.clone());
                }
                None => entries.push(Entry {
                    mode: EntryKind::Blob.into(),
                    filename: path.as_str().into(),
                    oid: self.add(Kind::Blob, text.clone().into_bytes()),
                }),
            }
        }
        for (name, below) in directories {
            entries.push(Entry {
                mode: EntryKind::Tree.into(),
                filename: name.into(),
                oid: self.tree(&below),
            });
        }
        entries.sort();
        let mut bytes = Vec::new();
        gix::objs::Tree { entries }.write_to(&mut bytes).unwrap();
        self.add(Kind::Tree, bytes)
    }

    fn commit(&mut self, parent: Option<ObjectId>, files: &[(&str, &str)]) -> ObjectId {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        let tree = self.tree(&files.iter().map(owned).collect());
        let parent = parent
            .map(|id| format!("parent {id}\n"))
            .unwrap_or_default();
        let text = format!(
            "tree {tree}\n{parent}author Ada <ada@x> 1790000000 +0000\ncommitter Ada <ada@x> 1790000000 +0000\n\nWords\n"
        );
        self.add(Kind::Commit, text.into_bytes())
    }

    fn header(&self, commit: ObjectId, name: &str) -> Option<ObjectId> {
        let text = String::from_utf8(self.objects[&commit].1.clone()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(ObjectId::from_hex(line.trim().as_bytes()).unwrap())
    }

    fn below(&self, tree: ObjectId, found: &mut BTreeSet<ObjectId>) {
        if found.insert(tree) && self.objects[&tree].0 == Kind::Tree {
            let bytes = &self.objects[&tree].1;
            let entries = gix::objs::TreeRefIter::from_bytes(bytes, gix::hash::Kind::Sha1);
            for entry in entries.flatten() {
                self.below(entry.oid.to_owned(), found);
            }
        }
    }

    /// The objects of the first `depth` commits, and the commit at which the history ends early.
    fn history(&self, tip: ObjectId, depth: usize) -> (BTreeSet<ObjectId>, Option<ObjectId>) {
        let mut found = BTreeSet::new();
        let mut at = tip;
        if self.objects[&tip].0 == Kind::Tag {
            found.insert(tip);
            at = self.header(tip, "object ").unwrap();
        }
        for n in 1.. {
            found.insert(at);
            self.below(self.header(at, "tree ").unwrap(), &mut found);
            match self.header(at, "parent ") {
                None => break,
                Some(_) if n == depth => return (found, Some(at)),
                Some(parent) => at = parent,
            }
        }
        (found, None)
    }

    /// With a `base`, which the client has, each blob is a delta to it: a thin pack.
    fn pack(&self, objects: &BTreeSet<ObjectId>, base: Option<ObjectId>) -> Vec<u8> {
        let mut pack = b"PACK\0\0\0\x02".to_vec();
        pack.extend(u32::try_from(objects.len()).unwrap().to_be_bytes());
        for id in objects {
            let (kind, bytes) = &self.objects[id];
            let base = base.filter(|_| *kind == Kind::Blob);
            let delta = base.map(|base| delta(self.objects[&base].1.len(), bytes));
            let bytes = delta.as_ref().unwrap_or(bytes);
            let kind: u8 = match kind {
                _ if base.is_some() => 7,
                Kind::Commit => 1,
                Kind::Tree => 2,
                Kind::Blob => 3,
                Kind::Tag => 4,
            };
            let mut size = bytes.len();
            let mut byte = kind << 4 | (size & 15) as u8;
            size >>= 4;
            while size > 0 {
                pack.push(byte | 0x80);
                byte = (size & 0x7f) as u8;
                size >>= 7;
            }
            pack.push(byte);
            pack.extend(base.iter().flat_map(|base| base.as_slice()));
            let mut encoder = ZlibEncoder::new(pack, Compression::fast());
            encoder.write_all(bytes).unwrap();
            pack = encoder.finish().unwrap();
        }
        let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
        hasher.update(&pack);
        pack.extend(hasher.try_finalize().unwrap().as_slice());
        pack
    }

    fn list(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        match self.references.get(&self.head) {
            Some(id) => line(
                &mut lines,
                &format!("{id} HEAD symref-target:{}\n", self.head),
            ),
            None => line(
                &mut lines,
                &format!("unborn HEAD symref-target:{}\n", self.head),
            ),
        }
        for (name, id) in &self.references {
            let peeled = match self.objects.get(id) {
                Some((Kind::Tag, _)) => format!(" peeled:{}", self.header(*id, "object ").unwrap()),
                _ => String::new(),
            };
            line(&mut lines, &format!("{id} {name}{peeled}\n"));
        }
        lines.extend(b"0000");
        lines
    }

    fn fetch(&self, request: &str) -> Vec<u8> {
        let id = |name: &str| {
            let text = request.split_once(name)?.1.get(..40)?;
            ObjectId::from_hex(text.as_bytes()).ok()
        };
        let want = id("want ").unwrap();
        let depth = request.split_once("deepen ").unwrap().1;
        let depth: usize = depth.split_once('\n').unwrap().0.parse().unwrap();
        let (mut objects, end) = self.history(want, depth);
        let mut base = None;
        if let Some(have) = id("have ").filter(|have| self.objects.contains_key(have)) {
            let (known, _) = self.history(have, 1);
            objects.retain(|id| !known.contains(id));
            if request.contains("thin-pack\n") {
                base = known
                    .into_iter()
                    .find(|id| self.objects[id].0 == Kind::Blob);
            }
        }
        let mut answer = Vec::new();
        if let Some(end) = end {
            line(&mut answer, "shallow-info\n");
            line(&mut answer, &format!("shallow {end}\n"));
            answer.extend(b"0001");
        }
        line(&mut answer, "packfile\n");
        for part in self.pack(&objects, base).chunks(60_000) {
            answer.extend(format!("{:04x}\x01", part.len() + 5).bytes());
            answer.extend(part);
        }
        answer.extend(b"0000");
        answer
    }
}

/// A delta to a base of this size that takes nothing from it.
fn delta(base: usize, bytes: &[u8]) -> Vec<u8> {
    let mut delta = Vec::new();
    for mut size in [base, bytes.len()] {
        while size > 0x7f {
            delta.push((size & 0x7f) as u8 | 0x80);
            size >>= 7;
        }
        delta.push(size as u8);
    }
    for part in bytes.chunks(0x7f) {
        delta.push(part.len() as u8);
        delta.extend(part);
    }
    delta
}

/// A line of git's protocol.
fn line(lines: &mut Vec<u8>, text: &str) {
    lines.extend(format!("{:04x}{text}", text.len() + 4).bytes());
}

fn serve(shared: &Mutex<Shared>, mut connection: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let text = String::from_utf8_lossy(&body).into_owned();
    let step = if first.contains("/access_tokens ") {
        Step::Token
    } else if first.contains("/info/refs?") {
        Step::Advertise
    } else if text.contains("command=ls-refs") {
        Step::List
    } else {
        Step::Fetch
    };
    let (fault, answer) = {
        let mut shared = shared.lock();
        shared.requests.push(GitRequest {
            step,
            authorization: authorization.clone(),
            body,
        });
        let fault = shared.faults.iter().position(|(at, _)| *at == step);
        let fault = fault.map(|at| shared.faults.remove(at).1);
        let is_refused = step != Step::Token
            && shared.token.as_ref().is_some_and(|token| {
                let given = authorization
                    .as_deref()
                    .and_then(|it| it.strip_prefix("Basic "));
                let given = given.and_then(|it| STANDARD.decode(it).ok());
                given
                    .and_then(|it| String::from_utf8(it).ok())
                    .is_none_or(|it| !it.ends_with(&format!(":{token}")))
            });
        let answer = if is_refused {
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
        } else {
            let (kind, body) = match step {
                Step::Advertise => ("advertisement", advertisement()),
                Step::List => ("result", shared.list()),
                Step::Fetch => ("result", shared.fetch(&text)),
                Step::Token => ("token", Vec::new()),
            };
            let body = match &fault {
                Some(GitFault::Body(other)) => other.clone(),
                Some(GitFault::Flip(at)) => {
                    let mut body = body;
                    let at = at % body.len();
                    body[at] ^= 1;
                    body
                }
                _ => body,
            };
            let (status, kind) = match step {
                Step::Token => ("201 Created", "application/json".to_owned()),
                _ => ("200 OK", format!("application/x-git-upload-pack-{kind}")),
            };
            let mut answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            )
            .into_bytes();
            answer.extend(body);
            answer
        };
        (fault, answer)
    };
    match fault {
        Some(GitFault::Status(status, headers)) => {
            let answer = format!(
                "HTTP/1.1 {status} x\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
            connection.write_all(answer.as_bytes()).ok()
        }
        Some(GitFault::Cut(at)) => connection
            .write_all(answer.get(..at).unwrap_or(&answer))
            .ok(),
        Some(GitFault::Stall(at)) => {
            connection
                .write_all(answer.get(..at).unwrap_or(&answer))
                .ok()?;
            // Until the client closes the connection.
            let mut rest = [0; 1];
            connection.read(&mut rest).ok().map(drop)
        }
        Some(GitFault::Drip(pause)) => {
            let (_never, wait) = mpsc::channel::<()>();
            for byte in answer {
                connection.write_all(&[byte]).ok()?;
                let _ = wait.recv_timeout(pause);
            }
            Some(())
        }
        _ => connection.write_all(&answer).ok(),
    }
}

fn advertisement() -> Vec<u8> {
    let mut lines = Vec::new();
    line(&mut lines, "# service=git-upload-pack\n");
    lines.extend(b"0000");
    for text in [
        "version 2\n",
        "agent=git/test\n",
        "ls-refs=unborn\n",
        "fetch=shallow\n",
        "object-format=sha1\n",
    ] {
        line(&mut lines, text);
    }
    lines.extend(b"0000");
    lines
}
