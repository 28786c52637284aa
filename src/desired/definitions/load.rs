//! Loads definition files into desired state: each file by itself, then all of them together.
//!
//! An error in a file excludes only that file. Known names (the catalogue) and the sources of secrets are arguments.
//!
//! Never: use the network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use jiff::civil::Date;

use super::catalogue::names_in;
use super::definition::{self, Definition, Group, Locations, Overrides, Subject};
use super::directory::{self, DirectoryError, FileError, Limits, LookAlike};
use super::edit::Edit;
use super::format::{self, DEFINITION_SCHEMA};
use super::reader::quote_name;
use super::shared::{self, SharedError, SharedPath};
use super::source::{Collected, Collector, Source};
use super::workspace::{WorkspaceFile, ended_hold, read_workspace};
use super::write::FileWrite;
use super::yaml::Span;
use crate::desired::encrypted::{
    DIRECTORY, ENDING, EncryptedSecret, EncryptedSecrets, MAX_ENCRYPTED, RECORD_FILE, Recipient,
    RecipientRecord, secret_of_file,
};
use crate::model::{
    Catalogue, Code, Desired, Diagnostic, Excerpt, Hold, KeySection, LiveNames, PartnerKey,
    Provider, Secret, SecretName, Severity, SharedSource, Slug, WorkspaceHolds, printable,
};

/// The definitions of a directory at one moment.
#[derive(Debug)]
pub struct Loaded {
    /// The directory, with all links in its path resolved.
    pub directory: PathBuf,
    pub pin: Pin,
    /// When nothing may be written, by `workspace.yaml`.
    pub holds: WorkspaceHolds,
    /// The shared directory that `workspace.yaml` extends.
    pub shared: Option<SharedDirectory>,
    /// The encrypted secrets beside the files.
    pub encrypted: EncryptedSecrets,
    /// `workspace.yaml`, if it is valid.
    workspace: Option<(Source, WorkspaceFile)>,
    /// The definition files, sorted by name.
    pub files: Vec<DefinitionFile>,
    /// Every problem, sorted by file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// The names in the schema beside the files.
    schema: Catalogue,
    pub(super) found_secrets: Vec<Secret>,
}

/// The workspace that `workspace.yaml` pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// No pin: the definitions are for the workspace that the API key belongs to.
    None,
    /// The definitions are for this workspace only.
    Slug(Slug),
    /// The pin is invalid: nothing may be planned.
    Invalid,
}

/// The shared directory of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDirectory {
    /// Its path from the definitions directory, as `workspace.yaml` names it: the first part of the names of its files.
    pub path: SharedPath,
    /// Where it is.
    pub directory: PathBuf,
}

/// The definition of one provider: a file of the directory, of the shared directory, or one of each.
#[derive(Debug)]
pub struct DefinitionFile {
    /// The file of the directory. If there is none, the shared file, with the path of the shared directory.
    pub name: String,
    /// Its provider: from its text, or from its name if the text has no valid one.
    pub provider: Option<Provider>,
    /// `None` if a file of the definition has an error.
    pub desired: Option<Arc<Desired>>,
    /// The parts that are in a shared file.
    pub shared: Option<Arc<SharedSource>>,
    text: FileText,
    /// The text of the shared file, if there is another one.
    shared_text: Option<FileText>,
    /// The definition of the shared file, if there are two files.
    shared_desired: Option<Arc<Desired>>,
}

/// The text of a file, and where its parts are.
#[derive(Debug)]
pub(super) struct FileText {
    source: Source,
    pub(super) locations: Locations,
    /// How many of its problems were reported.
    reported: usize,
}

/// How to treat a reference to a secret that is not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingSecrets {
    Error,
    /// An error, unless it is encrypted and there is no identity: then its value stays unknown.
    ErrorUnlessEncrypted,
    /// The value stays unknown; it is resolved where the plan is applied.
    Unavailable,
    /// The value is a stand-in: `sandbox-NAME`.
    Placeholder,
}

/// Reads a directory of definitions.
///
/// # Errors
/// [`DirectoryError`] if the directory as a whole cannot be used, or is empty. Problems of single files are in
/// [`Loaded::diagnostics`].
pub fn load(directory: &Path) -> Result<Loaded, DirectoryError> {
    read_directory(directory)?.reject_empty(directory)
}

/// Reads a directory and the shared directory that it extends, as they were at one moment.
fn read_directory(directory: &Path) -> Result<Loaded, DirectoryError> {
    for _ in 0..directory::ATTEMPTS {
        let listing = directory::read(directory, Limits::default(), read_file)?;
        let (root, left) = (listing.directory, listing.left);
        let read = |path: &SharedPath| {
            let found = path.locate(&root)?;
            let each = |name: &str, content| read_shared_file(path, name, content);
            let listing = directory::read(&found, left, each)?;
            Ok(SharedFiles {
                directory: listing.directory,
                files: listing.files,
            })
        };
        let loaded = Loaded::combine(root.clone(), listing.files, read);
        // git-sync replaces both directories at once.
        if loaded.extends().is_none() || fs::canonicalize(directory).ok().as_ref() == Some(&root) {
            return Ok(loaded);
        }
    }
    Err(DirectoryError::Unsettled(directory.to_owned()))
}

/// Reads a directory that may be empty or missing, because its first files are about to be written.
///
/// # Errors
/// [`DirectoryError`] if it exists and cannot be used.
pub fn load_or_empty(directory: &Path) -> Result<Loaded, DirectoryError> {
    let canonical = match read_directory(directory) {
        Ok(loaded) => return Ok(loaded),
        Err(DirectoryError::Empty { .. }) => fs::canonicalize(directory),
        Err(DirectoryError::Unreadable { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(directory.to_owned())
        }
        Err(error) => return Err(error),
    };
    let unreadable = |source| DirectoryError::Unreadable {
        directory: directory.to_owned(),
        source,
    };
    Ok(Loaded::from_files(canonical.map_err(unreadable)?, []))
}

/// Reads definition files that are in memory, each with its name. There is no directory. The name of a shared file begins with
/// the path of its directory: `../shared/hostaway.yaml`.
#[must_use]
pub fn load_texts<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Loaded {
    let (shared, own): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(name, _)| name.starts_with("../"));
    let read = |(name, text)| read_file(name, Ok(text));
    Loaded::combine(PathBuf::new(), own.into_iter().map(read), |path| {
        let files = shared.into_iter().filter_map(|(name, text)| {
            let name = name.strip_prefix(&path.to_string())?.strip_prefix('/')?;
            Some(read_shared_file(path, name, Ok(text)))
        });
        let files: Vec<_> = files.collect();
        match files.is_empty() {
            true => Err(SharedError::Missing),
            false => Ok(SharedFiles {
                directory: PathBuf::new(),
                files,
            }),
        }
    })
}

/// A file that was read by itself, and its problems.
pub(crate) type ReadFile = (FileContent, Vec<Diagnostic>);

/// The files of a shared directory.
pub(crate) struct SharedFiles {
    pub(crate) directory: PathBuf,
    pub(crate) files: Vec<ReadFile>,
}

/// The shared directory that the text of a `workspace.yaml` extends, if the text is valid.
pub(crate) fn extended_by(name: &str, text: &[u8]) -> Option<SharedPath> {
    match read_file(name, Ok(text.to_vec())) {
        (FileContent::Workspace(_, Some(file)), _) => file.extends.map(|(path, _)| path),
        _ => None,
    }
}

/// A file, by its role.
pub(crate) enum FileContent {
    Definition(Box<DefinitionFile>),
    Workspace(Source, Option<Box<WorkspaceFile>>),
    Schema(Catalogue),
    /// An encrypted secret; `None` if it cannot be used.
    Encrypted(SecretName, Option<EncryptedSecret>),
    Record(RecipientRecord),
    /// A file that is not read, although its name suggests that it should be.
    LookAlike,
}

/// Reads one file, without comparing it with others.
pub(crate) fn read_file(name: &str, content: Result<Vec<u8>, FileError>) -> ReadFile {
    read_named(name, name, content)
}

/// Reads one file of a shared directory.
pub(crate) fn read_shared_file(
    path: &SharedPath,
    name: &str,
    content: Result<Vec<u8>, FileError>,
) -> ReadFile {
    read_named(name, &path.file(name), content)
}

/// `shown` is its name in messages.
fn read_named(name: &str, shown: &str, content: Result<Vec<u8>, FileError>) -> ReadFile {
    if let Some(file) = directory::encrypted_file(OsStr::new(name)) {
        return read_encrypted(shown, file, content);
    }
    if let Some(look_alike) = LookAlike::of(OsStr::new(name)) {
        return (
            FileContent::LookAlike,
            vec![look_alike_problem(name, shown, look_alike)],
        );
    }
    if name == DEFINITION_SCHEMA {
        let names = content
            .map_err(|error| error.to_string())
            .and_then(|schema| names_in(&schema));
        return match names {
            Ok(names) => (FileContent::Schema(names), Vec::new()),
            Err(problem) => (
                FileContent::Schema(Catalogue::default()),
                vec![schema_problem(shown, &problem)],
            ),
        };
    }
    let (source, problem) = match content.map(String::from_utf8) {
        // A byte-order mark is not part of the text.
        Ok(Ok(text)) => (
            Source::new(
                shown,
                text.strip_prefix('\u{feff}')
                    .map(str::to_owned)
                    .unwrap_or(text),
            ),
            None,
        ),
        Ok(Err(error)) => {
            let at = error.utf8_error().valid_up_to();
            let source = Source::new(
                shown,
                String::from_utf8_lossy(error.as_bytes()).into_owned(),
            );
            let problem = (
                Code::Unreadable,
                Some(Span::new(at, at)),
                "the file is not UTF-8 from here on".to_owned(),
                Some("save it as UTF-8"),
            );
            (source, Some(problem))
        }
        Err(error) => (
            Source::new(shown, String::new()),
            Some((Code::Unreadable, None, format!("the file {error}"), None)),
        ),
    };
    let tree = match problem {
        Some(problem) => Err(problem),
        None => source
            .parse()
            .map_err(|p| (Code::Syntax, Some(p.at), p.message.into_owned(), p.help)),
    };
    let report_unreadable =
        |(code, at, message, help): (Code, Option<Span>, String, Option<&str>)| {
            let mut problems = Collector::new(&source, 0);
            problems
                .error(code, at, message)
                .help_with(|| help.map(str::to_owned));
            problems.finish()
        };
    if is_workspace(name) {
        let (file, collected) = match &tree {
            Ok(tree) => read_workspace(&source, tree),
            Err(_) => (None, Collected::default()),
        };
        let collected = tree.err().map(report_unreadable).unwrap_or(collected);
        return (
            FileContent::Workspace(source, file.map(Box::new)),
            collected.diagnostics,
        );
    }
    let read = match tree {
        Ok(tree) => definition::read_definition(&source, &tree),
        Err(problem) => Definition {
            provider: None,
            desired: None,
            locations: Locations::default(),
            collected: report_unreadable(problem),
        },
    };
    let by_name = || Provider::parse(&name.rsplit_once('.')?.0.to_ascii_uppercase()).ok();
    let file = DefinitionFile {
        name: shown.to_owned(),
        provider: read.provider.or_else(by_name),
        desired: read.desired.map(Arc::new),
        shared: None,
        text: FileText {
            source,
            locations: read.locations,
            reported: read.collected.diagnostics.len(),
        },
        shared_text: None,
        shared_desired: None,
    };
    (
        FileContent::Definition(Box::new(file)),
        read.collected.diagnostics,
    )
}

/// Reads a file of the directory of encrypted secrets. One that cannot be used is an error of its own, and of each file that
/// refers to it.
fn read_encrypted(
    name: &str,
    file: &str,
    content: Result<Vec<u8>, FileError>,
) -> (FileContent, Vec<Diagnostic>) {
    let source = Source::new(name, String::new());
    // `encrypt` overwrites regular files only.
    let in_the_way = matches!(
        content,
        Err(FileError::Dangling | FileError::Outside | FileError::NotAFile)
    );
    let content = content.map_err(|error| error.to_string());
    if file == RECORD_FILE {
        let text = content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (record, problem) = match text {
            Ok(text) => (RecipientRecord::parse(&text), None),
            Err(problem) => (RecipientRecord::default(), Some(problem)),
        };
        let problem = problem.map(|problem| {
            let message = format!("the file {problem}");
            source.diagnostic(Severity::Warning, Code::Unreadable, None, message)
        });
        return (FileContent::Record(record), problem.into_iter().collect());
    }
    let Some(secret) = secret_of_file(file) else {
        let message = "the file is not read: its name is not that of a secret";
        let mut problem = source.diagnostic(Severity::Warning, Code::FileName, None, message);
        problem.help = Some("rename it to `NAME.age`, as in `${secret:NAME}`".to_owned());
        return (FileContent::LookAlike, vec![problem]);
    };
    let parsed = content.and_then(|bytes| {
        if bytes.len() as u64 > MAX_ENCRYPTED {
            return Err(FileError::TooLarge(MAX_ENCRYPTED).to_string());
        }
        EncryptedSecret::parse(bytes).map_err(|error| error.to_string())
    });
    match parsed {
        Ok(encrypted) => (FileContent::Encrypted(secret, Some(encrypted)), Vec::new()),
        Err(problem) => {
            let message = format!("the file {problem}");
            let how = if in_the_way {
                "remove it, then write it again"
            } else {
                "write it again"
            };
            let help = format!("{how}: `calry-gitops encrypt {secret}`");
            let mut problem = source.diagnostic(Severity::Error, Code::Unreadable, None, message);
            problem.help = Some(help);
            (FileContent::Encrypted(secret, None), vec![problem])
        }
    }
}

/// An unusable schema is a warning: without its names, the definitions are still used.
fn schema_problem(name: &str, problem: &str) -> Diagnostic {
    let message = format!("the schema {problem}; only the built-in names are known");
    let source = Source::new(name, String::new());
    let mut diagnostic = source.diagnostic(Severity::Warning, Code::Unreadable, None, message);
    diagnostic.help = Some(format!(
        "run `calry-gitops schema --from-live >{DEFINITION_SCHEMA}` beside the files"
    ));
    diagnostic
}

fn is_workspace(name: &str) -> bool {
    matches!(name, "workspace.yaml" | "workspace.yml")
}

/// A new file for a provider, made of edits. `None` if they cannot be written.
#[must_use]
pub fn draft(provider: &Provider, edits: &[Edit]) -> Option<FileWrite> {
    let wanted = apply_edits(nothing(provider), edits)?;
    let name = format!("{}.yaml", provider.file_stem());
    let text = format::definition(&wanted);
    produces(&name, &text, &wanted).then(|| FileWrite::new(&name, text))
}

/// The desired state of a provider of which nothing is managed.
fn nothing(provider: &Provider) -> Desired {
    Desired {
        provider: provider.clone(),
        icon: None,
        partner_key: PartnerKey::default(),
        fields: BTreeMap::new(),
        hold: None,
    }
}

#[must_use]
pub fn draft_pin(slug: &Slug) -> FileWrite {
    FileWrite::new("workspace.yaml", format::workspace(slug))
}

/// Warns of a file that is not read.
fn look_alike_problem(name: &str, shown: &str, look_alike: LookAlike) -> Diagnostic {
    let lower = printable(&name.to_ascii_lowercase());
    let (message, help) = match look_alike {
        LookAlike::Spelling if is_workspace(&lower) => (
            "the file does not pin the workspace: its name is not in lower case",
            format!("rename it to `{lower}`"),
        ),
        LookAlike::Spelling => (
            "the file is not read: its extension is not in lower case",
            format!("rename it to `{lower}`"),
        ),
        LookAlike::Below => (
            "the file is not read: it is in a subdirectory",
            "move it up one directory, or out of it if it is not a definition".to_owned(),
        ),
    };
    let source = Source::new(shown, String::new());
    let problem = source.diagnostic(Severity::Warning, Code::FileName, None, message.to_owned());
    Diagnostic {
        help: Some(help),
        ..problem
    }
}

/// The desired state after edits, with no secret filled in.
fn apply_edits(mut desired: Desired, edits: &[Edit]) -> Option<Desired> {
    for section in KeySection::BOTH {
        desired
            .partner_key
            .section_mut(section)
            .iter_mut()
            .flat_map(BTreeMap::values_mut)
            .for_each(|value| value.value = None);
    }
    edits.iter().try_for_each(|edit| edit.apply(&mut desired))?;
    Some(desired)
}

/// Whether a file of this name and text is valid and gives exactly this desired state.
fn produces(name: &str, text: &str, wanted: &Desired) -> bool {
    let (FileContent::Definition(file), _) = read_file(name, Ok(text.as_bytes().to_vec())) else {
        return false;
    };
    file.desired
        .and_then(|desired| apply_edits(Arc::unwrap_or_clone(desired), &[]))
        .as_ref()
        == Some(wanted)
}

/// Makes edits in a text; `None` if its form cannot be edited in place.
fn edit_text(text: &str, edits: &[Edit]) -> Option<String> {
    /// Each edit parses the whole text.
    const MAX_EDITS: usize = 1_000;
    let mut edits = (edits.len() <= MAX_EDITS).then_some(edits)?.iter();
    edits.try_fold(text.to_owned(), |text, edit| edit.edit(&text))
}

/// Whether a file of this name and text, over a shared definition, is valid and gives exactly this desired state.
fn produces_over(shared: Desired, name: &str, text: &str, wanted: &Desired) -> bool {
    let (FileContent::Definition(file), _) = read_file(name, Ok(text.as_bytes().to_vec())) else {
        return false;
    };
    let merged = file.desired.and_then(|own| {
        let (own, shared) = (Arc::unwrap_or_clone(own), apply_edits(shared, &[])?);
        let own = apply_edits(own, &[])?;
        Some(shared::merge(&own, &file.text.locations.overrides, &shared))
    });
    merged.as_ref() == Some(wanted)
}

impl DefinitionFile {
    /// The name of the file in the definitions directory, which may not exist yet.
    #[must_use]
    pub fn own_name(&self) -> String {
        match &self.provider {
            Some(provider) if self.is_only_shared() => format!("{}.yaml", provider.file_stem()),
            _ => self.name.clone(),
        }
    }

    const fn is_only_shared(&self) -> bool {
        self.shared.is_some() && self.shared_text.is_none()
    }

    /// The file with edits made in its text; `None` if its form cannot be edited in place. A part that is in a shared file becomes
    /// a part of the workspace's own file, which may be a new one.
    #[must_use]
    pub fn edit(&self, edits: &[Edit]) -> Option<FileWrite> {
        let desired = self.desired.as_deref()?;
        let wanted = apply_edits(desired.clone(), edits)?;
        let source = &self.text.source;
        let Some(shared) = &self.shared else {
            let text = edit_text(source.text(), edits)?;
            return produces(&self.name, &text, &wanted)
                .then(|| FileWrite::replacing(&self.name, source.text(), text));
        };
        let edits = shared::overriding_edits(shared, &wanted, edits)?;
        let name = self.own_name();
        if self.is_only_shared() {
            let text = edit_text(&format::definition(&nothing(&desired.provider)), &edits)?;
            return produces_over(desired.clone(), &name, &text, &wanted)
                .then(|| FileWrite::new(&name, text));
        }
        let below = Desired::clone(self.shared_desired.as_ref()?);
        let text = edit_text(source.text(), &edits)?;
        produces_over(below, &name, &text, &wanted)
            .then(|| FileWrite::replacing(&name, source.text(), text))
    }

    /// The file of the directory and the shared file, or the one of them that there is.
    fn texts(&self) -> impl Iterator<Item = &FileText> {
        [&self.text].into_iter().chain(&self.shared_text)
    }

    pub(super) fn locations(&self) -> impl Iterator<Item = &Locations> {
        self.texts().map(|text| &text.locations)
    }

    /// The name of the shared file, if it is another one.
    fn shared_name(&self) -> Option<&str> {
        self.shared_text.as_ref().map(|text| text.source.name())
    }

    /// Takes the parts that this file does not have from the shared definition.
    fn extend(&mut self, shared: Self) -> Vec<Diagnostic> {
        let mut shared_text = shared.text;
        let mut diagnostics = Vec::new();
        self.desired = match (&self.desired, &shared.desired) {
            (Some(own), Some(base)) => {
                let overrides = &self.text.locations.overrides;
                let mut source = shared::source(own, overrides, base);
                source.file.clone_from(&shared.name);
                shared_text.locations.keep_only(&source);
                self.shared = Some(Arc::new(source));
                let merged = shared::merge(own, overrides, base);
                self.shared_desired = Some(Arc::clone(base));
                Some(Arc::new(merged))
            }
            _ => {
                self.shared = shared.shared;
                None
            }
        };
        let merged = self.desired.clone();
        diagnostics.extend(self.diagnose(true, |problems, locations| {
            let overrides = &locations.overrides;
            for group in &locations.groups {
                let is_delta = overrides.deltas.contains_key(&group.name);
                let merged = merged.as_ref().filter(|_| is_delta);
                match merged.map(|merged| merged.fields.get(&group.name)) {
                    Some(None) => report_delta(problems, group),
                    Some(Some(on)) if on.is_empty() => {
                        definition::warn_all_off(problems, Code::AllOff, group);
                    }
                    _ => {}
                }
            }
            if locations.is_without_parts() {
                let message = format!("the file changes nothing of `{}`", shared.name);
                problems
                    .error(Code::MissingKey, locations.provider, message)
                    .help("add what is different for this workspace, or remove the file");
            }
        }));
        self.shared_text = Some(shared_text);
        diagnostics
    }

    /// Refuses what has a meaning with a shared definition only.
    fn refuse_overrides(&mut self) -> Vec<Diagnostic> {
        let null = std::mem::take(&mut self.text.locations.overrides.problems);
        if !null.is_empty() {
            self.desired = None;
            self.text.reported += null.len();
        }
        let mut diagnostics = null;
        diagnostics.extend(self.diagnose(true, |problems, locations| {
            let deltas = &locations.overrides.deltas;
            let groups = locations.groups.iter();
            groups
                .filter(|group| deltas.contains_key(&group.name))
                .for_each(|group| report_delta(problems, group));
        }));
        diagnostics
    }

    /// Adds problems that the text alone does not show. If `fatal`, an error makes the file invalid.
    pub(super) fn diagnose(
        &mut self,
        fatal: bool,
        mut diagnose: impl FnMut(&mut Collector<'_>, &Locations),
    ) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        for text in [&mut self.text].into_iter().chain(&mut self.shared_text) {
            let mut problems = Collector::new(&text.source, text.reported);
            diagnose(&mut problems, &text.locations);
            let collected = problems.finish();
            text.reported += collected.diagnostics.len();
            if collected.has_errors && fatal {
                self.desired = None;
            }
            diagnostics.extend(collected.diagnostics);
        }
        diagnostics
    }
}

/// Reports a group that changes a shared group, if there is none.
fn report_delta(problems: &mut Collector<'_>, group: &Group) {
    let message = format!(
        "{} adds to or removes from a shared group, and there is none",
        quote_name(&group.name, "group")
    );
    problems
        .error(Code::InvalidValue, Some(group.at), message)
        .help("write the fields that are on as a list: `[name, type]`");
}

/// Reports files with one provider. None of them is used.
fn refuse_two_files_for_one_provider(all: &mut [DefinitionFile]) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut files: HashMap<Provider, Vec<usize>> = HashMap::with_capacity(all.len());
    for (at, file) in all.iter().enumerate() {
        if let Some(provider) = &file.provider {
            files.entry(provider.clone()).or_default().push(at);
        }
    }
    for (provider, files) in files {
        let named = files.iter().filter_map(|at| all.get(*at));
        let names: Vec<String> = named.map(|file| file.name.clone()).collect();
        let [first, second, rest @ ..] = names.as_slice() else {
            continue;
        };
        let more = match rest.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        for at in files {
            let Some(file) = all.get_mut(at) else {
                continue;
            };
            let other = if file.name == *first { second } else { first };
            diagnostics.extend(file.diagnose(true, |problems, locations| {
                let message = format!("{provider} has another file: `{other}`{more}");
                problems.error(Code::DuplicateProvider, locations.provider, message).help("keep one file for each provider: remove the others, or correct their `provider`");
            }));
        }
    }
    diagnostics
}

impl Loaded {
    /// Refuses a directory without a definition file. `named` is the path that the user gave.
    pub(crate) fn reject_empty(self, named: &Path) -> Result<Self, DirectoryError> {
        // What the directory wants is then not known, and `workspace.yaml` has the problem.
        if !self.files.is_empty() || self.pin == Pin::Invalid {
            return Ok(self);
        }
        let look_alikes = self.diagnostics.into_iter();
        let look_alikes =
            look_alikes.filter(|problem| LookAlike::of(OsStr::new(&problem.file)).is_some());
        Err(DirectoryError::Empty {
            directory: named.to_owned(),
            look_alikes: look_alikes.map(|problem| problem.file).collect(),
        })
    }

    /// Combines files that were read one by one, without a shared directory.
    fn from_files(directory: PathBuf, files: impl IntoIterator<Item = ReadFile>) -> Self {
        Self::combine(directory, files, |_| Err(SharedError::Missing))
    }

    /// Combines files that were read one by one with those of the shared directory, which `read_shared` reads.
    pub(crate) fn combine(
        directory: PathBuf,
        files: impl IntoIterator<Item = ReadFile>,
        read_shared: impl FnOnce(&SharedPath) -> Result<SharedFiles, SharedError>,
    ) -> Self {
        let mut loaded = Self {
            directory,
            pin: Pin::None,
            shared: None,
            holds: WorkspaceHolds::default(),
            encrypted: EncryptedSecrets::default(),
            workspace: None,
            files: Vec::new(),
            diagnostics: Vec::new(),
            schema: Catalogue::default(),
            found_secrets: Vec::new(),
        };
        let mut pins = Vec::new();
        for (read, diagnostics) in files {
            loaded.diagnostics.extend(diagnostics);
            match read {
                FileContent::Definition(file) => loaded.files.push(*file),
                FileContent::Workspace(source, file) => pins.push((source, file)),
                FileContent::Schema(names) => loaded.schema = names,
                FileContent::Encrypted(name, secret) => {
                    loaded.encrypted.files.insert(name, secret);
                }
                FileContent::Record(record) => loaded.encrypted.record = record,
                FileContent::LookAlike => {}
            }
        }
        loaded.pin(pins);
        loaded
            .diagnostics
            .extend(refuse_two_files_for_one_provider(&mut loaded.files));
        let extended = loaded.extends().map(|path| (read_shared(&path), path));
        match extended {
            Some((Ok(files), path)) => loaded.extend(path, files),
            Some((Err(error), path)) => loaded.refuse_shared(&path, &error),
            None if loaded.pin == Pin::Invalid => {}
            None => {
                for file in &mut loaded.files {
                    loaded.diagnostics.extend(file.refuse_overrides());
                }
            }
        }
        loaded.files.sort_by(|a, b| a.name.cmp(&b.name));
        loaded.check_unmanaged();
        loaded.check_recipients();
        loaded.sort();
        loaded
    }

    /// The shared directory that `workspace.yaml` names.
    fn extends(&self) -> Option<SharedPath> {
        let (_, file) = self.workspace.as_ref()?;
        file.extends.as_ref().map(|(path, _)| path.clone())
    }

    /// Reports a shared directory that cannot be used. What its files say is not known, so nothing may be planned.
    fn refuse_shared(&mut self, path: &SharedPath, error: &SharedError) {
        self.pin = Pin::Invalid;
        if let Some((source, file)) = &self.workspace {
            let at = file.extends.as_ref().map(|(_, at)| *at);
            let message = format!("the shared directory `{path}` {error}");
            let mut problem = source.diagnostic(Severity::Error, Code::InvalidValue, at, message);
            problem.help = Some(error.help().to_owned());
            self.diagnostics.push(problem);
        }
    }

    /// Takes the definitions of the shared directory over.
    fn extend(&mut self, path: SharedPath, shared: SharedFiles) {
        let mut files = Vec::new();
        for (read, diagnostics) in shared.files {
            match read {
                FileContent::Definition(file) => files.push(*file),
                FileContent::Schema(names) => self.schema.extend(&names),
                FileContent::LookAlike | FileContent::Record(_) => {}
                FileContent::Encrypted(secret, _) => {
                    let file = path.file(&format!("{DIRECTORY}/{secret}{ENDING}"));
                    let message = "the secret is not used: it is in a shared directory";
                    let mut problem = Source::new(&file, String::new()).diagnostic(
                        Severity::Warning,
                        Code::FileName,
                        None,
                        message,
                    );
                    problem.help = Some(format!(
                        "move it into the directory `{DIRECTORY}` of the workspace"
                    ));
                    self.diagnostics.push(problem);
                    continue;
                }
                FileContent::Workspace(source, _) => {
                    // Its own `extends` would be a second level.
                    let message = "a shared directory has no workspace of its own";
                    let mut problem =
                        source.diagnostic(Severity::Error, Code::InvalidValue, None, message);
                    problem.help = Some(
                        "remove the file, or name a directory without one in `extends`".to_owned(),
                    );
                    self.diagnostics.push(problem);
                    self.pin = Pin::Invalid;
                    continue;
                }
            }
            self.diagnostics.extend(diagnostics);
        }
        self.shared = Some(SharedDirectory {
            path: path.clone(),
            directory: shared.directory,
        });
        if files.is_empty() {
            self.refuse_shared(&path, &SharedError::Empty);
        }
        self.diagnostics
            .extend(refuse_two_files_for_one_provider(&mut files));
        let own = self.files.iter().enumerate();
        let own: HashMap<Provider, usize> = own
            .filter_map(|(at, file)| Some((file.provider.clone()?, at)))
            .collect();
        for mut file in files {
            self.diagnostics.extend(file.refuse_overrides());
            if let Some(desired) = &file.desired {
                let mut source =
                    shared::source(&nothing(&desired.provider), &Overrides::default(), desired);
                source.file.clone_from(&file.name);
                file.shared = Some(Arc::new(source));
            } else {
                file.shared = Some(Arc::new(SharedSource {
                    file: file.name.clone(),
                    ..SharedSource::default()
                }));
            }
            let at = file
                .provider
                .as_ref()
                .and_then(|provider| own.get(provider));
            match at.and_then(|at| self.files.get_mut(*at)) {
                Some(own) => self.diagnostics.extend(own.extend(file)),
                None => self.files.push(file),
            }
        }
        for file in &mut self.files {
            if file.shared.is_none() {
                self.diagnostics.extend(file.refuse_overrides());
            }
        }
    }

    /// The shared files that definitions take parts from.
    pub fn shared_sources(&self) -> impl Iterator<Item = (Provider, Arc<SharedSource>)> {
        self.files
            .iter()
            .filter_map(|file| Some((file.provider.clone()?, file.shared.clone()?)))
    }

    /// The secrets that the files refer to, invalid files included.
    pub fn references(&self) -> impl Iterator<Item = &SecretName> {
        self.files
            .iter()
            .flat_map(DefinitionFile::locations)
            .flat_map(|locations| &locations.values)
            .flat_map(|value| value.template.references())
    }

    /// The line of a file that shows a part of its definition.
    #[must_use]
    pub fn excerpt(&self, file: &str, subject: Subject<'_>) -> Option<Excerpt> {
        let find = |name: &str| {
            let at = self
                .files
                .binary_search_by(|other| other.name.as_str().cmp(name));
            self.files.get(at.ok()?)
        };
        // A shared file belongs to the definition of a file with the same name, but for its extension.
        let stem = || {
            let (stem, _) = file.rsplit_once('/')?.1.rsplit_once('.')?;
            let names = ["yaml", "yml"].map(|extension| format!("{stem}.{extension}"));
            names.iter().find_map(|name| find(name))
        };
        let definition = find(file).or_else(stem)?;
        let text = definition.texts().find(|text| text.source.name() == file)?;
        let span = text.locations.find(subject)?;
        Some(text.source.excerpt(span))
    }

    pub(super) fn sort(&mut self) {
        let place = |d: &Diagnostic| {
            d.excerpt
                .as_ref()
                .map_or((0, 0), |excerpt| (excerpt.line, excerpt.column))
        };
        self.diagnostics.sort_by(|a, b| {
            let key = |d: &Diagnostic| (d.code == Code::TooMany, place(d));
            a.file.cmp(&b.file).then_with(|| key(a).cmp(&key(b)))
        });
    }

    fn pin(&mut self, mut pins: Vec<(Source, Option<Box<WorkspaceFile>>)>) {
        self.pin = match (pins.pop(), pins.is_empty()) {
            (None, _) => Pin::None,
            (Some((_, None)), true) => Pin::Invalid,
            (Some((source, Some(file))), true) => {
                let slug = file.slug.clone();
                self.holds = file.holds.clone();
                self.workspace = Some((source, *file));
                Pin::Slug(slug)
            }
            (Some((source, _)), false) => {
                let message =
                    "two files pin the workspace: `workspace.yaml` and `workspace.yml`".to_owned();
                let mut problem =
                    source.diagnostic(Severity::Error, Code::DuplicateProvider, None, message);
                problem.help = Some("remove one of them".to_owned());
                self.diagnostics.push(problem);
                Pin::Invalid
            }
        };
    }

    /// Keeps only the files of these providers and their problems, and the problems of `workspace.yaml` and of the
    /// schema.
    pub fn keep_only(&mut self, only: &[Provider]) {
        self.files.retain(|file| {
            file.provider
                .as_ref()
                .is_some_and(|provider| only.contains(provider))
        });
        let files = self.files.iter();
        let kept: HashSet<&str> = files
            .flat_map(|file| [Some(file.name.as_str()), file.shared_name()])
            .flatten()
            .collect();
        let is_for_all = |name: &str| {
            let is_encrypted = directory::encrypted_file(OsStr::new(name)).is_some();
            let name = name.rsplit('/').next().unwrap_or(name);
            is_workspace(&name.to_ascii_lowercase()) || name == DEFINITION_SCHEMA || is_encrypted
        };
        self.diagnostics
            .retain(|d| is_for_all(&d.file) || kept.contains(d.file.as_str()));
    }

    /// The names known offline: those built in, and those of the schema beside the files.
    #[must_use]
    pub fn known_names(&self) -> Catalogue {
        let mut known = Catalogue::built_in();
        known.extend(&self.schema);
        known
    }

    /// The names for a new schema: those built in, those that Calry shows, and those of the old schema that a file
    /// still uses. If some live state cannot be read, all names of the old schema stay.
    #[must_use]
    pub fn names_for_schema(&self, live: &LiveNames) -> Catalogue {
        let mut known = Catalogue::built_in();
        known.extend(live.readable());
        if !live.is_complete() {
            known.extend(&self.schema);
        }
        for file in &self.files {
            let provider = file.provider.as_ref().map(Provider::as_str);
            provider
                .into_iter()
                .filter(|p| self.schema.has_provider(p))
                .for_each(|p| known.add_provider(p));
            let groups = file.locations().flat_map(|locations| &locations.groups);
            for Group { name, fields, .. } in groups {
                let Some(in_schema) = self.schema.fields(name) else {
                    continue;
                };
                let used = fields
                    .iter()
                    .map(|(field, _)| field)
                    .filter(|field| in_schema.contains(*field));
                known.add_fields(name, used.cloned());
            }
        }
        known
    }

    /// Warns of holds whose last day has passed. `today` is the day in UTC.
    pub fn check_holds(&mut self, today: Date) {
        let ended = self.workspace.as_ref().and_then(|(source, file)| {
            let (hold, at) = ended_hold(file, today)?;
            Some((source, at, hold.until))
        });
        if let Some((source, at, until)) = ended {
            let message = format!("the hold is over: its last day was {until}");
            let mut problem =
                source.diagnostic(Severity::Warning, Code::HoldOver, Some(at), message);
            problem.help = Some("remove the hold, or set a later date".to_owned());
            self.diagnostics.push(problem);
        }
        for file in &mut self.files {
            let hold = file
                .desired
                .as_ref()
                .and_then(|desired| desired.hold.clone());
            let Some(Hold { until, .. }) = hold.filter(|hold| !hold.in_force(today)) else {
                continue;
            };
            self.diagnostics
                .extend(file.diagnose(false, |problems, locations| {
                    if locations.hold.is_some() {
                        problems
                            .warning(
                                Code::HoldOver,
                                locations.hold,
                                format!("the hold is over: its last day was {until}"),
                            )
                            .help("remove the hold, or set a later date");
                    }
                }));
        }
        self.sort();
    }

    /// Who may decrypt the encrypted secrets, by `workspace.yaml`.
    #[must_use]
    pub fn recipients(&self) -> Option<&BTreeSet<Recipient>> {
        let (_, file) = self.workspace.as_ref()?;
        Some(&file.recipients)
    }

    /// Warns of secrets that are not encrypted to exactly the recipients of `workspace.yaml`.
    fn check_recipients(&mut self) {
        let Some(wanted) = self.recipients().filter(|wanted| !wanted.is_empty()) else {
            return;
        };
        let problem = |name: &SecretName| {
            let problem = self.encrypted.recipient_problem(name, wanted)?;
            let source = Source::new(&format!("{DIRECTORY}/{name}{ENDING}"), String::new());
            let message = format!("the secret {problem}");
            let mut problem = source.diagnostic(Severity::Warning, Code::Recipients, None, message);
            let help = "run `calry-gitops encrypt --again --age-identity-file FILE`";
            problem.help = Some(help.to_owned());
            Some(problem)
        };
        let problems: Vec<_> = self.encrypted.files.keys().filter_map(problem).collect();
        self.diagnostics.extend(problems);
    }

    /// Reports what `unmanaged` names although it has a file.
    fn check_unmanaged(&mut self) {
        let Some((source, file)) = &self.workspace else {
            return;
        };
        let with_file = self.providers_with_file();
        let named = file.coverage.unmanaged.iter();
        let contradicted = named.filter(|(provider, _)| with_file.contains(provider));
        let problems: Vec<_> = contradicted
            .map(|(provider, at)| {
                let message = format!("`unmanaged` lists {provider}, but {provider} has a file");
                let problem =
                    source.diagnostic(Severity::Error, Code::InvalidValue, Some(*at), message);
                let help = format!("remove {provider} from `unmanaged`, or remove its file");
                Diagnostic {
                    help: Some(help),
                    ..problem
                }
            })
            .collect();
        self.diagnostics.extend(problems);
    }

    /// With `requireFiles`, reports the providers of the workspace that have no file and are not `unmanaged`. The other files
    /// stay valid: what appears in Calry must not stop their updates. `only` are the selected providers; empty for all.
    pub fn check_coverage(&mut self, live: &LiveNames, only: &[Provider]) -> Vec<Provider> {
        let Some((source, file)) = &self.workspace else {
            return Vec::new();
        };
        let Some(at) = file.coverage.required_at else {
            return Vec::new();
        };
        let with_file = self.providers_with_file();
        let live = live.readable().providers();
        let uncovered: Vec<Provider> = live
            .filter_map(|name| Provider::parse(name).ok())
            .filter(|provider| only.is_empty() || only.contains(provider))
            .filter(|provider| !with_file.contains(provider))
            .filter(|provider| {
                let mut unmanaged = file.coverage.unmanaged.iter();
                !unmanaged.any(|(named, _)| named == provider)
            })
            .collect();
        let mut problems = Collector::new(source, 0);
        for provider in &uncovered {
            let message = format!("{provider} is in Calry and has no file");
            problems
                .error(Code::NoFile, Some(at), message)
                .help(format!(
                    "run `calry-gitops pull --only {provider}`, or add it to `unmanaged`"
                ));
        }
        let collected = problems.finish();
        self.diagnostics.extend(collected.diagnostics);
        self.sort();
        uncovered
    }

    fn providers_with_file(&self) -> BTreeSet<&Provider> {
        let files = self.files.iter();
        files.filter_map(|file| file.provider.as_ref()).collect()
    }

    /// Every secret that was found and every value below `partnerKey`: what must be scrubbed from foreign texts.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let desired = self.files.iter().filter_map(|file| file.desired.as_ref());
        let values = desired
            .flat_map(|desired| desired.partner_key.values())
            .filter_map(|value| value.value.as_ref());
        self.found_secrets.iter().chain(values)
    }

    /// Turns every warning into an error, which makes its file invalid.
    pub fn deny_warnings(&mut self) {
        let counts = |d: &&mut Diagnostic| d.severity == Severity::Warning && d.code.is_strict();
        let files = self.files.iter().enumerate();
        let shared: HashMap<String, usize> = files
            .filter_map(|(at, file)| Some((file.shared_name()?.to_owned(), at)))
            .collect();
        for diagnostic in self.diagnostics.iter_mut().filter(counts) {
            diagnostic.severity = Severity::Error;
            let file = self
                .files
                .binary_search_by(|file| file.name.as_str().cmp(&diagnostic.file));
            let at = file.ok().or_else(|| shared.get(&diagnostic.file).copied());
            if let Some(file) = at.and_then(|at| self.files.get_mut(at)) {
                file.desired = None;
            } else if is_workspace(&diagnostic.file.to_ascii_lowercase()) {
                // In any spelling: the file is meant as a pin.
                self.pin = Pin::Invalid;
            }
        }
    }

    /// Excludes files that are still being written. When they are complete, the directory changes again.
    pub fn exclude(&mut self, unsettled: &[String]) {
        for file in &mut self.files {
            self.diagnostics.extend(file.diagnose(true, |problems, _| {
                if unsettled.iter().any(|name| name == problems.file()) {
                    let message =
                        "the file is still being written; it is read when the writes pause";
                    problems.error(Code::Unreadable, None, message);
                }
            }));
        }
        self.sort();
    }

    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|d| d.severity == Severity::Error)
    }
}
