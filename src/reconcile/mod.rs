//! One reconciliation up to its plan: load, fetch, check the pin, compare. Every command and the daemon use it; [`apply`]
//! applies an approved plan.
//!
//! Never: write outside of [`apply`]. Planning gets a reader, which cannot write.

pub mod apply;
pub mod backups;
pub mod plan_file;
pub mod restore;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use crate::desired::definitions::{
    LoadError, Loaded, Loader, MemoryDefinitions, MissingSecrets, Pin, Purpose,
};
use crate::desired::git::{
    self, GitPath, RefusedCheckout, Remote, TrustPolicy, TrustedDefinitions, TrustedLoadError,
};
use crate::desired::secrets::SecretSources;
use crate::live::{self, Api, Listing, ReadCalry, WriteGuard, Writer};
use crate::machine;
use crate::model::{
    Live, LiveNames, Provider, Revision, Scrubber, Slug, UpdateMethod, Workspace, WorkspaceHolds,
};
use crate::plan::{
    AppliedState, Approved, BaseFile, BranchBase, Context, PinChange, Plan, PlanInput,
    describe_hold, find_added_holds, plan,
};
use crate::policies::{Policies, PolicyFile};

/// Where definitions are read from.
#[derive(Clone, Debug)]
pub enum DefinitionsSource {
    Directory(PathBuf),
    /// The commit that was fetched last.
    Git {
        remote: Arc<Remote>,
        path: GitPath,
    },
    /// For simulated histories.
    Memory(MemoryDefinitions),
}

impl DefinitionsSource {
    /// `None` if the definitions are in no directory.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(directory) => Some(directory),
            Self::Git { .. } | Self::Memory(_) => None,
        }
    }
}

/// The source of the desired state, and how strictly it is read.
#[derive(Debug)]
pub struct Source {
    pub definitions: DefinitionsSource,
    pub secrets: SecretSources,
    pub missing: MissingSecrets,
    /// Warnings are errors.
    pub strict: bool,
    /// The selected providers; empty for all.
    pub only: Vec<Provider>,
    /// The git revision to compare with, which separates the changes of this branch from earlier ones.
    pub base: Option<String>,
    /// The allowed keys; `None` if no signatures are required.
    pub trust: Option<TrustPolicy>,
    /// The one workspace that the operator allows; `None` for any that the files allow.
    pub workspace: Option<Slug>,
    /// The operator's policies for plans.
    pub policies: Option<PolicyFile>,
}

impl Source {
    #[must_use]
    pub const fn pins<'a>(&'a self, file: &'a Pin) -> Pins<'a> {
        Pins {
            file,
            operator: self.workspace.as_ref(),
        }
    }
}

/// Desired state with its secrets, and the revision it was read from.
#[derive(Debug)]
pub struct Desired {
    /// The files and their problems.
    pub loaded: Loaded,
    /// The git revision; `None` outside a checkout.
    pub revision: Option<Revision>,
    /// The state at the base, if there is one.
    pub base: Option<BranchBase>,
    /// The checkout, if it is not trusted and the revision is another one.
    pub refused: Option<RefusedCheckout>,
    pub policies: Policies,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Base(#[from] git::MergeBaseError),
    #[error(transparent)]
    Trust(#[from] TrustedLoadError),
    #[error("{0}; nothing is planned; help: check out a commit that an allowed key signed")]
    Refused(RefusedCheckout),
    /// `workspace.yaml` has errors, so the workspace of the files is unknown.
    #[error(
        "workspace.yaml is invalid, so it is not known which workspace these definitions are for, or what they share; nothing is planned"
    )]
    Pin,
    /// The key belongs to another workspace than the files.
    #[error(
        "these definitions are for the workspace {pinned} (workspace.yaml), and the API key belongs to {found}; nothing is \
         planned: use a key of {pinned}, or the definitions of {found}"
    )]
    WrongWorkspace {
        /// The slug in `workspace.yaml`.
        pinned: Slug,
        /// The workspace of the API key.
        found: String,
    },
    /// The key belongs to another workspace than the operator allows.
    #[error(
        "only the workspace {pinned} is allowed (--workspace), and the API key belongs to {found}; nothing is planned: use a \
         key of {pinned}, or change --workspace"
    )]
    NotAllowed {
        /// The slug of `--workspace`.
        pinned: Slug,
        /// The workspace of the API key.
        found: String,
    },
    /// The operator allows another workspace than the one that the files are for.
    #[error(
        "these definitions are for the workspace {file} (workspace.yaml), and only {operator} is allowed (--workspace); \
         nothing is planned"
    )]
    PinsDiffer {
        /// The slug in `workspace.yaml`.
        file: Slug,
        /// The slug of `--workspace`.
        operator: Slug,
    },
    /// The key belongs to another workspace than before, and that is not confirmed.
    #[error(
        "the API key belongs to the workspace {found}, and until now it belonged to {before}; nothing is planned: use a key of \
         {before}, or, if the move is intended, {}",
        moving(slug, file.as_deref())
    )]
    Moved {
        /// The workspace that was reconciled last.
        before: String,
        /// The workspace of the API key.
        found: String,
        /// The slug of the workspace of the API key.
        slug: String,
        /// The file that remembers it, if it outlives the process.
        file: Option<String>,
    },
    /// Two workspaces of the configuration are one workspace of Calry.
    #[error(
        "this API key belongs to the same workspace as `{0}` of the configuration; nothing is planned: give each entry its own \
         API key, or remove one"
    )]
    Taken(String),
    #[error(transparent)]
    Key(#[from] live::KeyError),
    #[error(transparent)]
    Remote(#[from] live::Error),
    #[error(transparent)]
    Snapshot(#[from] live::SnapshotError),
    #[error("stopped before anything was planned; nothing was changed")]
    Stopped,
    #[error("internal error: {0}")]
    Internal(String),
}

fn moving(slug: &str, file: Option<&str>) -> String {
    match file {
        Some(file) => format!("start with --workspace {slug}, or remove {file}"),
        None => "restart the daemon".to_owned(),
    }
}

impl Failure {
    /// Whether the definitions are the cause. The exit code is then 3.
    #[must_use]
    pub const fn is_invalid_definitions(&self) -> bool {
        matches!(self, Self::Load(LoadError::NoFile(_)) | Self::Pin)
    }
}

#[derive(Debug)]
pub struct Planned {
    pub plan: Plan,
    /// When the live state was received.
    pub fetched: Instant,
    /// The names in all live definitions.
    pub names: LiveNames,
    /// The providers that have no file although `requireFiles` asks for one.
    pub without_file: Vec<Provider>,
}

/// Loads the files and fills their secrets in. The scrubber learns every value below `partnerKey`.
///
/// # Errors
/// [`Failure::Load`], [`Failure::Trust`] and [`Failure::Base`]; problems of single files are in [`Loaded::diagnostics`].
pub fn load(source: &Source, scrubber: &Scrubber) -> Result<Desired, Failure> {
    let loader = Loader {
        only: &source.only,
        today: today(),
        purpose: Purpose::Plan {
            secrets: &source.secrets,
            missing: source.missing,
        },
    };
    let committed = match (&source.definitions, &source.trust) {
        (DefinitionsSource::Git { remote, path }, trust) => {
            Some(git::load_fetched(remote, path, trust.as_ref())?)
        }
        (DefinitionsSource::Directory(directory), Some(trust)) => {
            Some(git::load_trusted(directory, trust)?)
        }
        (DefinitionsSource::Directory(_), None) | (DefinitionsSource::Memory(_), _) => None,
    };
    let (loaded, committed, refused) = match (committed, &source.definitions) {
        (Some(committed), _) => {
            let TrustedDefinitions {
                loaded,
                revision,
                refused,
            } = committed;
            let loaded = loader.finish(loaded).map_err(LoadError::from)?;
            (loaded, Some(revision), refused)
        }
        (None, DefinitionsSource::Directory(directory)) => (loader.load(directory)?, None, None),
        (None, DefinitionsSource::Memory(definitions)) => {
            let (loaded, revision) = definitions.load().map_err(LoadError::from)?;
            let loaded = loader.finish(loaded).map_err(LoadError::from)?;
            (loaded, revision, None)
        }
        (None, DefinitionsSource::Git { .. }) => {
            return Err(Failure::Internal("no commit was read".to_owned()));
        }
    };
    loaded.secrets().for_each(|secret| scrubber.learn(secret));
    let revision = committed.or_else(|| {
        source.definitions.directory().and_then(|_| {
            let shared = loaded.shared.as_ref();
            let shared = shared.map(|shared| shared.directory.as_path());
            git::read_shared_revision(&loaded.directory, shared)
        })
    });
    let base = source
        .base
        .as_deref()
        .map(|reference| base(&loaded, reference, &source.only, scrubber))
        .transpose()?;
    Ok(Desired {
        loaded,
        revision,
        base,
        refused,
        policies: source
            .policies
            .as_ref()
            .map(PolicyFile::read)
            .unwrap_or_default(),
    })
}

fn base(
    loaded: &Loaded,
    reference: &str,
    only: &[Provider],
    scrubber: &Scrubber,
) -> Result<BranchBase, Failure> {
    let git::MergeBase {
        commit,
        loaded: before,
    } = git::read_merge_base(&loaded.directory, reference)?;
    before.secrets().for_each(|secret| scrubber.learn(secret));
    let pin = match (before.pin, &loaded.pin) {
        (Pin::Slug(before), Pin::Slug(after)) => (before != *after).then(|| PinChange {
            before,
            after: Some(after.clone()),
        }),
        (Pin::Slug(before), Pin::None) => Some(PinChange {
            before,
            after: None,
        }),
        // An invalid pin stops everything by itself.
        (Pin::Slug(_), Pin::Invalid) | (Pin::None | Pin::Invalid, _) => None,
    };
    let holds = match loaded.pin {
        // Its holds are not known, and nothing is planned.
        Pin::Invalid => Vec::new(),
        Pin::None | Pin::Slug(_) => find_added_holds(&before.holds, &loaded.holds, machine::now()),
    };
    let changed_secrets = loaded.encrypted.changed_since(&before.encrypted);
    let counts = |provider: &Provider| only.is_empty() || only.contains(provider);
    let files = before.files.into_iter().filter_map(|file| {
        let provider = file.provider.filter(counts)?;
        let (file, desired) = (file.name, file.desired);
        Some((provider, BaseFile { file, desired }))
    });
    Ok(BranchBase {
        commit,
        desired: files.collect(),
        pin,
        holds,
        changed_secrets,
    })
}

/// The workspace that the files and the operator allow. Both must allow it.
#[derive(Clone, Copy, Debug)]
pub struct Pins<'a> {
    /// `workspace.yaml`.
    pub file: &'a Pin,
    /// `--workspace`.
    pub operator: Option<&'a Slug>,
}

impl Pins<'_> {
    /// Whether the workspace is determined by more than the API key.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        matches!(self.file, Pin::Slug(_)) || self.operator.is_some()
    }

    /// Whether any workspace can be the right one.
    ///
    /// # Errors
    /// [`Failure::Pin`] and [`Failure::PinsDiffer`].
    pub fn check(&self) -> Result<(), Failure> {
        match (self.file, self.operator) {
            (Pin::Invalid, _) => Err(Failure::Pin),
            (Pin::Slug(file), Some(operator)) if file != operator => Err(Failure::PinsDiffer {
                file: file.clone(),
                operator: operator.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether this workspace is the right one.
    ///
    /// # Errors
    /// [`Failure::NotAllowed`], [`Failure::WrongWorkspace`], and those of [`Self::check`].
    pub fn allow(&self, workspace: &Workspace) -> Result<(), Failure> {
        self.check()?;
        let is_another = |pinned: &Slug| pinned.as_str() != workspace.slug;
        let found = || crate::model::ellipsize(&crate::model::printable(&workspace.slug), 128);
        match (self.operator, self.file) {
            (Some(pinned), _) if is_another(pinned) => Err(Failure::NotAllowed {
                pinned: pinned.clone(),
                found: found(),
            }),
            (_, Pin::Slug(pinned)) if is_another(pinned) => Err(Failure::WrongWorkspace {
                pinned: pinned.clone(),
                found: found(),
            }),
            _ => Ok(()),
        }
    }
}

/// Reads the workspace and its definitions concurrently. `known` is the workspace, if it was read with the same key before.
/// The last value is the moment at which the definitions arrived.
///
/// # Errors
/// Those of [`Pins::allow`], and [`Failure::Remote`].
pub async fn fetch<R: ReadCalry>(
    reader: &R,
    pins: Pins<'_>,
    known: Option<Workspace>,
) -> Result<(Workspace, Listing, Instant), Failure> {
    pins.check()?;
    let workspace = async {
        match known {
            Some(workspace) => Ok(workspace),
            None => reader.workspace().await,
        }
    };
    let listing = received(reader.definitions());
    let (workspace, (listing, arrived)) = tokio::join!(workspace, listing);
    let workspace = workspace?;
    pins.allow(&workspace)?;
    Ok((workspace, listing?, arrived))
}

/// How often a read is looked after. A process that is late by as much again was stopped, with its machine or by a signal.
const TICK: Duration = Duration::from_millis(250);

/// Runs a read, and returns the moment at which its answer came. If the process was stopped meanwhile, the answer may have come
/// at any moment since the stop, so that its beginning counts.
async fn received<T>(read: impl Future<Output = T>) -> (T, Instant) {
    let mut read = std::pin::pin!(read);
    let (mut seen, mut stopped) = (Instant::now(), None);
    loop {
        let answer = tokio::select! {
            biased;
            answer = &mut read => Some(answer),
            () = tokio::time::sleep_until(seen + TICK) => None,
        };
        if seen.elapsed() >= TICK * 2 {
            stopped.get_or_insert(seen);
        }
        seen = Instant::now();
        if let Some(answer) = answer {
            return (answer, stopped.unwrap_or(seen));
        }
    }
}

/// The live state of the selected providers.
#[derive(Debug)]
pub struct LiveState {
    /// The definitions of the selected providers.
    pub live: Vec<Live>,
    /// Providers whose definitions cannot be read, and why.
    pub unreadable: Vec<(Provider, String)>,
    /// Unreadable definitions without a known provider, as sentences.
    pub nameless: Vec<String>,
    /// The names in all definitions, including those of other providers.
    pub names: LiveNames,
    /// The providers that have no file although `requireFiles` asks for one.
    pub without_file: Vec<Provider>,
}

/// The names in the definitions of a workspace.
#[must_use]
pub fn names(listing: &Listing) -> LiveNames {
    let unreadable = listing.unreadable.iter();
    let nameless = unreadable
        .clone()
        .any(|unreadable| unreadable.provider.is_none());
    LiveNames::of(
        &listing.live,
        unreadable.filter_map(|unreadable| unreadable.provider.as_ref()),
        nameless,
    )
}

/// Checks the names in the files against live state, and returns the live state of the selected providers.
#[must_use]
pub fn check_live(source: &Source, loaded: &mut Loaded, listing: Listing) -> LiveState {
    let names = names(&listing);
    let (known, nameless): (Vec<_>, Vec<_>) = listing
        .unreadable
        .into_iter()
        .partition(|u| u.provider.is_some());
    let mut unreadable: Vec<(Provider, String)> = known
        .into_iter()
        .filter_map(|u| Some((u.provider?, u.problem)))
        .collect();
    // A definition without a known provider may be that of any provider that is not in the list.
    if let Some(nameless) = nameless.first() {
        let listed = |provider: &Provider| {
            listing.live.iter().any(|live| live.provider == *provider)
                || unreadable.iter().any(|(p, _)| p == provider)
        };
        let problem = format!("it is not in Calry's list, and {nameless}");
        let unlisted: Vec<_> = loaded
            .files
            .iter()
            .filter_map(|file| file.provider.clone())
            .filter(|p| !listed(p))
            .map(|provider| (provider, problem.clone()))
            .collect();
        unreadable.extend(unlisted);
    }
    unreadable.extend(loaded.check_live(&names));
    let without_file = loaded.check_coverage(&names, &source.only);
    if source.strict {
        loaded.deny_warnings();
    }
    let counts = |live: &Live| source.only.is_empty() || source.only.contains(&live.provider);
    let live = listing.live.into_iter().filter(counts).collect();
    LiveState {
        live,
        unreadable,
        nameless: nameless.iter().map(ToString::to_string).collect(),
        names,
        without_file,
    }
}

/// Fetches the live state and plans. `known` is the workspace, if it was read with the same key before.
///
/// # Errors
/// [`Failure`] if nothing can be planned.
pub async fn plan_workspace<R: ReadCalry>(
    source: &Source,
    desired: &mut Desired,
    reader: &R,
    known: Option<Workspace>,
    method: UpdateMethod,
    applied: &AppliedState,
) -> Result<Planned, Failure> {
    let (workspace, listing, fetched) =
        fetch(reader, source.pins(&desired.loaded.pin), known).await?;
    let LiveState {
        live,
        unreadable,
        names,
        without_file,
        nameless: _,
    } = check_live(source, &mut desired.loaded, listing);
    // Under --strict, a warning of the pin makes it invalid.
    source.pins(&desired.loaded.pin).check()?;
    let files = desired.loaded.files.iter();
    let inputs: Vec<PlanInput> = files
        .map(|file| PlanInput {
            file: file.name.clone(),
            provider: file.provider.clone(),
            desired: file.desired.clone(),
        })
        .collect();
    let context = Context {
        today: today(),
        method,
        applied,
        base: desired.base.as_ref(),
    };
    let plan = plan(
        workspace,
        desired.revision.clone(),
        inputs,
        live,
        &unreadable,
        context,
    );
    let shared = desired.loaded.shared_sources();
    let plan = plan.with_shared(&shared.collect());
    let mut plan = plan.suspend(desired.loaded.holds.clone(), machine::now());
    let files = desired.loaded.files.iter();
    let valid = files.filter_map(|file| file.desired.as_deref());
    plan.violations = desired.policies.check(&plan, valid, context.today);
    Ok(Planned {
        plan,
        fetched,
        names,
        without_file,
    })
}

/// Write access for an approved plan. It ends when a hold of the workspace begins that the approval does not cover.
#[must_use]
pub fn writer(api: &Api, reader: &live::Reader, approved: &Approved) -> Writer {
    let holds = approved.plan().holds.clone();
    let writer = api.writer(reader);
    writer.guarded(|inner| Arc::new(HoldGuard { inner, holds }))
}

/// Refuses updates while the workspace is on hold. It is asked right before each update, because an update may have waited
/// for its turn when a window begins.
#[derive(Debug)]
struct HoldGuard {
    inner: Arc<dyn WriteGuard>,
    holds: WorkspaceHolds,
}

impl WriteGuard for HoldGuard {
    fn begin(&self) -> Result<Duration, String> {
        match self.holds.in_force(machine::now()) {
            Some(hold) => Err(describe_hold(&hold)),
            None => self.inner.begin(),
        }
    }

    fn end(&self, finished: bool) {
        self.inner.end(finished);
    }
}

#[must_use]
pub fn today() -> Date {
    machine::now().to_zoned(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::definitions;
    use crate::live::Unreadable;
    use crate::model::{Code, LivePartnerKey, LiveProblems};

    #[test]
    fn a_workspace_is_allowed_only_if_file_and_operator_both_allow_it() {
        let slug = |text: &str| Slug::parse(text).unwrap();
        let (a, b) = (slug("a"), slug("b"));
        let workspace = Workspace {
            id: "1".to_owned(),
            name: "A".to_owned(),
            slug: "a".to_owned(),
        };
        for (file, operator, pinned, allowed) in [
            (Pin::None, None, false, "yes"),
            (Pin::None, Some(&a), true, "yes"),
            (Pin::None, Some(&b), true, "not allowed"),
            (Pin::Slug(slug("a")), None, true, "yes"),
            (Pin::Slug(slug("b")), None, true, "wrong workspace"),
            (Pin::Slug(slug("a")), Some(&a), true, "yes"),
            (Pin::Slug(slug("b")), Some(&b), true, "not allowed"),
            (Pin::Slug(slug("a")), Some(&b), true, "pins differ"),
            (Pin::Slug(slug("b")), Some(&a), true, "pins differ"),
            (Pin::Invalid, None, false, "invalid"),
            (Pin::Invalid, Some(&a), true, "invalid"),
        ] {
            let file = &file;
            let pins = Pins { file, operator };
            let name = |result| match result {
                Ok(()) => "yes",
                Err(Failure::NotAllowed { .. }) => "not allowed",
                Err(Failure::WrongWorkspace { .. }) => "wrong workspace",
                Err(Failure::PinsDiffer { .. }) => "pins differ",
                Err(Failure::Pin) => "invalid",
                Err(_) => "another error",
            };
            assert_eq!(name(pins.allow(&workspace)), allowed, "{pins:?}");
            assert_eq!(pins.is_pinned(), pinned, "{pins:?}");
            // What no workspace can change is found before anything is read.
            let early = matches!(allowed, "pins differ" | "invalid");
            assert_eq!(pins.check().is_err(), early, "{pins:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_read_by_a_process_that_was_stopped_counts_from_the_stop() {
        let begin = Instant::now();
        let seconds = |at: Instant| (at - begin).as_secs();
        let slow = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            "slow"
        };
        let (answer, at) = received(slow).await;
        assert_eq!((answer, seconds(at)), ("slow", 9));
        // Stopped for ten seconds after one: whether the answer comes right away or two seconds later, it may be as old.
        for later in [0, 2] {
            let begin = Instant::now();
            let read = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                tokio::time::advance(Duration::from_secs(10)).await;
                tokio::time::sleep(Duration::from_secs(later)).await;
            };
            let ((), at) = received(read).await;
            let age = at - begin;
            assert!(
                age > Duration::from_millis(700) && age < Duration::from_millis(1100),
                "{later}: {age:?}"
            );
        }
    }

    #[test]
    fn a_definition_without_a_provider_may_be_that_of_any_provider_that_is_not_listed() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["A", "B", "C"] {
            let text = format!("provider: {name}\nicon: https://e.com/a\n");
            let file = format!("{}.yaml", name.to_lowercase());
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let provider = |name: &str| Provider::parse(name).unwrap();
        let unreadable = |name: Option<&str>| Unreadable {
            provider: name.map(provider),
            problem: "no".to_owned(),
        };
        let live = |name: &str| Live {
            id: String::new(),
            name: String::new(),
            provider: provider(name),
            icon: None,
            partner_key: LivePartnerKey::default(),
            fields: Default::default(),
            updated_at: String::new(),
            problems: LiveProblems::default(),
        };
        let unlisted =
            "it is not in Calry's list, and one of Calry's definitions cannot be read: no";
        for (nameless, only, expected, shown) in [
            (
                true,
                None,
                vec![("B", "no"), ("C", unlisted)],
                vec!["A", "D"],
            ),
            (false, None, vec![("B", "no")], vec!["A", "D"]),
            (false, Some("A"), vec![("B", "no")], vec!["A"]),
        ] {
            let source = Source {
                definitions: DefinitionsSource::Directory(directory.path().to_owned()),
                secrets: SecretSources::new(None),
                missing: MissingSecrets::Error,
                strict: false,
                only: only.map(provider).into_iter().collect(),
                base: None,
                trust: None,
                workspace: None,
                policies: None,
            };
            let mut loaded = definitions::load_or_empty(directory.path()).unwrap();
            let mut listing = Listing {
                live: vec![live("A"), live("D")],
                unreadable: vec![unreadable(Some("B"))],
            };
            listing
                .unreadable
                .extend(nameless.then(|| unreadable(None)));
            let state = check_live(&source, &mut loaded, listing);
            let found = state.unreadable.iter();
            let found: Vec<_> = found.map(|(p, why)| (p.as_str(), why.as_str())).collect();
            assert_eq!(found, expected);
            let live = state.live.iter().map(|live| live.provider.as_str());
            assert_eq!(live.collect::<Vec<_>>(), shown);
            assert_eq!(state.nameless.len(), usize::from(nameless));
            // The plan cannot say that a provider is missing while a definition may be its own.
            let missing = loaded
                .diagnostics
                .iter()
                .filter(|d| d.code == Code::UnknownProvider)
                .map(|d| d.message.as_str());
            let expected = (!nameless).then_some("the workspace has no provider C");
            assert_eq!(missing.collect::<Vec<_>>(), Vec::from_iter(expected));
        }
    }
}
