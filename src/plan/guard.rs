//! Checks a plan against the operator's limits before anything is sent.

use super::{Digest, Plan};
use crate::model::{Provider, printable};

/// The limits that the operator set.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The most providers that one plan may change.
    pub max_changes: Option<usize>,
    /// The plan that a person reviewed and approved.
    pub approve: Option<Digest>,
}

/// A plan that may be applied. Only [`Plan::approve`] makes one.
#[derive(Clone, Debug)]
pub struct Approved(Plan);

impl Approved {
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.0
    }

    /// The plan, after it was applied.
    #[must_use]
    pub fn into_plan(self) -> Plan {
        self.0
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct RefusedPlan {
    pub plan: Box<Plan>,
    pub reason: Refusal,
}

/// Why a plan is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "plan refused: it changes {changes} {}; --max-changes allows {max}. Review it, then approve this exact plan with: \
         apply --approve {digest}",
        if *changes == 1 { "provider" } else { "providers" }
    )]
    TooManyChanges {
        changes: usize,
        max: usize,
        digest: Digest,
    },
    /// Another plan than the one that was approved.
    #[error(
        "plan refused: {approved} was approved, and this plan is {digest}; files or live state have changed since. Review \
         the new plan and approve that"
    )]
    NotTheApprovedPlan { approved: Digest, digest: Digest },
    /// The approval could belong to a plan with other values.
    #[error(
        "plan refused: the file of {provider} has the literal value {path}, and a digest without a fingerprint key does not \
         cover it. Make the digest again with --fingerprint-key-file, use plan --out and apply --plan, or make the value a \
         reference to a secret"
    )]
    NotCovered {
        provider: Provider,
        /// The path of the value.
        path: String,
    },
    /// A plan without a digest cannot be applied.
    #[error("plan refused: not all values were available when it was made")]
    Incomplete,
}

impl Plan {
    /// Checks the plan against the limits.
    ///
    /// # Errors
    /// [`RefusedPlan`], with the plan, if it may not be applied.
    pub fn approve(self, limits: &Limits) -> Result<Approved, RefusedPlan> {
        let changes = self.steps().count();
        let open = self
            .digest
            .as_ref()
            .filter(|digest| !digest.is_sealed())
            .and_then(|_| self.first_literal_value());
        let reason = match (&self.digest, &limits.approve, limits.max_changes, open) {
            (None, ..) => Refusal::Incomplete,
            (Some(_), Some(_), _, Some((provider, path))) => Refusal::NotCovered {
                provider: provider.clone(),
                path: printable(&path),
            },
            (Some(digest), Some(approved), ..) if digest != approved => {
                Refusal::NotTheApprovedPlan {
                    approved: approved.clone(),
                    digest: digest.clone(),
                }
            }
            (Some(digest), None, Some(max), _) if changes > max => Refusal::TooManyChanges {
                changes,
                max,
                digest: digest.clone(),
            },
            _ => return Ok(Approved(self)),
        };
        Err(RefusedPlan {
            plan: Box::new(self),
            reason,
        })
    }
}
