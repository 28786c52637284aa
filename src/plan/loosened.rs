//! What a branch stops protecting: a difference between the files of the base and of the branch that changes nothing in
//! Calry, but after which git no longer undoes some edits in the console.
//!
//! Only files are compared, not live state. A renamed file still manages its provider. A file that is invalid on either
//! side is ignored here; that is an error by itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::{BranchBase, PlanInput, join_path};
use crate::model::{Desired, Hold, HoldEnd, KeySection, Provider, Slug, WorkspaceHolds};

/// One protection that the branch removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loosening {
    /// No file manages the provider any more.
    File {
        provider: Provider,
        /// The file that was removed.
        file: String,
    },
    /// The provider's file no longer manages a part.
    Part {
        provider: Provider,
        file: String,
        /// The part: `icon`, a section of the partner key, or a group of fields.
        path: String,
    },
    /// Changes to the provider are suspended, or for longer than before.
    Hold {
        provider: Provider,
        file: String,
        /// The last day of the hold.
        until: Date,
        /// The last day in the base, if it had a hold in force.
        before: Option<Date>,
    },
    Pin(PinChange),
    /// Changes to the workspace are suspended, or for longer than before.
    WorkspaceHold {
        /// The last day of the hold.
        until: Date,
        /// The last day in the base, if it had a hold in force.
        before: Option<Date>,
    },
    /// A freeze window that the base does not have, or a longer one.
    Freeze {
        /// Its place in the file.
        path: String,
        from: Timestamp,
        to: Timestamp,
    },
}

/// A workspace pin that the branch removed or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinChange {
    /// The workspace that the base was pinned to.
    pub before: Slug,
    /// The workspace that the branch is pinned to.
    pub after: Option<Slug>,
}

impl Loosening {
    /// The file that pins the workspace.
    pub const PIN_FILE: &'static str = "workspace.yaml";

    /// The provider that loses a protection; `None` for `workspace.yaml`, which is about all of them.
    #[must_use]
    pub const fn provider(&self) -> Option<&Provider> {
        match self {
            Self::File { provider, .. }
            | Self::Part { provider, .. }
            | Self::Hold { provider, .. } => Some(provider),
            Self::Pin(_) | Self::WorkspaceHold { .. } | Self::Freeze { .. } => None,
        }
    }

    /// The kind's name in every output.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Part { .. } => "part",
            Self::Hold { .. } | Self::WorkspaceHold { .. } => "hold",
            Self::Pin(_) => "pin",
            Self::Freeze { .. } => "freeze",
        }
    }

    /// The location: the name of a file for `file` and `pin`, a path in the file for `part`, `hold` and `freeze`.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::File { file, .. } => file,
            Self::Part { path, .. } | Self::Freeze { path, .. } => path,
            Self::Hold { .. } | Self::WorkspaceHold { .. } => "hold",
            Self::Pin(_) => Self::PIN_FILE,
        }
    }

    /// The file of the branch to report it at; `None` if the branch has none.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Part { file, .. } | Self::Hold { file, .. } => Some(file),
            Self::Pin(PinChange { after: Some(_), .. })
            | Self::WorkspaceHold { .. }
            | Self::Freeze { .. } => Some(Self::PIN_FILE),
            Self::Pin(PinChange { after: None, .. }) | Self::File { .. } => None,
        }
    }
}

/// The hold and the freeze windows of `workspace.yaml` that suspend writes when the base did not. What ended is left out.
#[must_use]
pub fn find_added_holds(
    before: &WorkspaceHolds,
    after: &WorkspaceHolds,
    now: Timestamp,
) -> Vec<Loosening> {
    let last_day = |holds: &WorkspaceHolds| {
        let hold = holds.hold.as_ref();
        hold.filter(|hold| HoldEnd::Day(hold.until).moment() > now)
            .map(|hold| hold.until)
    };
    let hold = last_day(after).filter(|_| after.adds_hold(before, now));
    let hold = hold.map(|until| Loosening::WorkspaceHold {
        until,
        before: last_day(before),
    });
    let windows = after.added_windows(before, now);
    let windows = windows.map(|(at, window)| Loosening::Freeze {
        path: format!("freeze[{at}]"),
        from: window.from,
        to: window.to,
    });
    hold.into_iter().chain(windows).collect()
}

impl BranchBase {
    /// What the branch with these files stops protecting: the pin, then provider by provider.
    pub(super) fn find_loosenings(&self, files: &[PlanInput], today: Date) -> Vec<Loosening> {
        let now: BTreeMap<&Provider, &PlanInput> = files
            .iter()
            .filter_map(|file| Some((file.provider.as_ref()?, file)))
            .collect();
        let mut all: Vec<Loosening> = self.pin.iter().cloned().map(Loosening::Pin).collect();
        all.extend(self.holds.iter().cloned());
        for (provider, base) in &self.desired {
            match now.get(provider) {
                None => all.push(Loosening::File {
                    provider: provider.clone(),
                    file: base.file.clone(),
                }),
                Some(PlanInput {
                    file,
                    desired: Some(after),
                    ..
                }) => {
                    let Some(before) = &base.desired else {
                        continue;
                    };
                    for path in parts(before)
                        .into_iter()
                        .filter(|path| !parts(after).contains(path))
                    {
                        all.push(Loosening::Part {
                            provider: provider.clone(),
                            file: file.clone(),
                            path,
                        });
                    }
                    let in_force = |hold: &Option<Hold>| {
                        hold.as_ref().filter(|h| h.in_force(today)).map(|h| h.until)
                    };
                    if let Some(until) = in_force(&after.hold)
                        && in_force(&before.hold) < Some(until)
                    {
                        let (provider, file) = (provider.clone(), file.clone());
                        all.push(Loosening::Hold {
                            provider,
                            file,
                            until,
                            before: in_force(&before.hold),
                        });
                    }
                }
                Some(_) => {}
            }
        }
        all
    }
}

/// The paths of the parts that a definition manages.
fn parts(desired: &Desired) -> Vec<String> {
    // Destructured in full, so that a new managed part does not compile until its removal is reported.
    let Desired {
        provider: _,
        icon,
        partner_key,
        fields,
        hold: _,
    } = desired;
    let icon = icon.iter().map(|_| "icon".to_owned());
    let sections = KeySection::BOTH
        .into_iter()
        .filter(|section| partner_key.section(*section).is_some());
    let sections = sections.map(|section| join_path(&["partnerKey", section.key()]));
    icon.chain(sections)
        .chain(
            fields
                .keys()
                .map(|group| join_path(&["fieldsToSync", group])),
        )
        .collect()
}
