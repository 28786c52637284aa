//! Checks a plan against the operator's limits before anything is sent.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Digest, Plan, Verdict};
use crate::model::{ActiveHold, HoldScope, Provider, ellipsize, printable};

/// The limits that the operator set.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub max_changes: MaxChanges,
    /// The plan that a person reviewed and approved.
    pub approve: Option<Digest>,
}

/// The most providers that one plan may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxChanges {
    #[default]
    Unlimited,
    Count(usize),
    /// A percentage of the managed providers, but always at least [`MaxChanges::SMALL`].
    Share(u8),
}

impl MaxChanges {
    /// What every share allows: in a small workspace a share alone would refuse every plan.
    pub const SMALL: usize = 5;

    /// The texts that can be parsed, as a regular expression.
    pub const PATTERN: &str = "^([0-9]+|([1-9]?[0-9]|100)%|none)$";

    /// The limit for a number of managed providers.
    #[must_use]
    pub fn among(self, managed: usize) -> Option<usize> {
        match self {
            Self::Unlimited => None,
            Self::Count(count) => Some(count),
            Self::Share(percent) => Some((managed * usize::from(percent) / 100).max(Self::SMALL)),
        }
    }
}

impl FromStr for MaxChanges {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = match text.strip_suffix('%') {
            _ if text == "none" => Some(Self::Unlimited),
            Some(share) if is_number(share) => share
                .parse()
                .ok()
                .filter(|share| *share <= 100)
                .map(Self::Share),
            None if is_number(text) => text.parse().ok().map(Self::Count),
            _ => None,
        };
        parsed.ok_or("must be a number of providers, a share such as 30%, or none")
    }
}

impl fmt::Display for MaxChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("none"),
            Self::Count(count) => count.fmt(f),
            Self::Share(percent) => write!(f, "{percent}%"),
        }
    }
}

/// What a policy does with what it does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PolicyAction {
    /// The plan is refused.
    Deny,
    /// It is only reported.
    Warn,
}

/// Something in a plan that a policy of the operator does not allow. Its texts can be shown as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// The name of the policy, or the file of the policies if it cannot be used.
    pub policy: String,
    /// Whether the plan is refused.
    pub action: PolicyAction,
    /// Whether the plan can be approved nevertheless.
    pub lifted_by_approval: bool,
    /// The provider; null for the plan as a whole.
    pub provider: Option<String>,
    /// The provider's file.
    pub file: Option<String>,
    /// The position of the change, if it is about one.
    pub path: Option<String>,
    /// The policy's message.
    pub message: String,
}

impl Violation {
    /// What it is about, and the message.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self {
            policy, message, ..
        } = self;
        match (&self.provider, &self.path) {
            (Some(provider), Some(path)) => {
                format!("{policy}: {provider} {}: {message}", printable(path))
            }
            (Some(provider), None) => format!("{policy}: {provider}: {message}"),
            (None, _) => format!("{policy}: {message}"),
        }
    }
}

/// A plan that may be applied. Only [`Plan::approve`] makes one.
#[derive(Clone, Debug)]
pub struct Approved(Plan);

impl Approved {
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.0
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
        "{}. Review it, then approve exactly this plan with: apply --approve {digest}",
        describe_excess(*changes, *limit, *max)
    )]
    TooManyChanges {
        changes: usize,
        limit: MaxChanges,
        /// What the limit amounts to.
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
    NotCovered { provider: Provider, path: String },
    /// The workspace is on hold, and the approval gives no reason to write all the same.
    #[error(
        "plan refused: {}; help: wait for the end of the hold, or, in an emergency, use --approve DIGEST --override-hold REASON",
        describe_hold(hold)
    )]
    OnHold { hold: ActiveHold },
    /// Policies of the operator deny it.
    #[error("{}{}", describe_denials(violations), match digest {
        Some(digest) => format!(
            ". Review it, then approve exactly this plan with: apply --approve {digest}"
        ),
        None => "; change the files, or the policy".to_owned(),
    })]
    Denied {
        violations: Vec<Violation>,
        /// The digest by which the plan can be approved, if every policy that denies it allows that.
        digest: Option<Digest>,
    },
    /// A plan without a digest cannot be applied.
    #[error("plan refused: not all values were available when it was made")]
    Incomplete,
}

impl Refusal {
    /// The message of a daemon. It names no command line: a digest that the daemon sealed is known to `apply` only with the
    /// fingerprint key of the daemon.
    #[must_use]
    pub fn of_daemon(&self) -> String {
        match self {
            Self::TooManyChanges {
                changes,
                limit,
                max,
                digest,
            } => format!(
                "{}. Review it, then approve exactly this plan on the status page or with POST /api/v1/approve: {digest}",
                describe_excess(*changes, *limit, *max)
            ),
            Self::Denied {
                violations,
                digest: Some(digest),
            } => format!(
                "{}. Review it, then approve exactly this plan on the status page or with POST /api/v1/approve: {digest}",
                describe_denials(violations)
            ),
            other => other.to_string(),
        }
    }

    /// The digest by which the plan can be approved.
    #[must_use]
    pub const fn approvable(&self) -> Option<&Digest> {
        match self {
            Self::TooManyChanges { digest, .. }
            | Self::NotTheApprovedPlan { digest, .. }
            | Self::Denied {
                digest: Some(digest),
                ..
            } => Some(digest),
            Self::Denied { digest: None, .. }
            | Self::OnHold { .. }
            | Self::NotCovered { .. }
            | Self::Incomplete => None,
        }
    }
}

fn describe_denials(violations: &[Violation]) -> String {
    /// The list is in every output of the plan.
    const SHOWN: usize = 3;
    let shown: Vec<String> = violations
        .iter()
        .take(SHOWN)
        .map(Violation::sentence)
        .collect();
    let more = match violations.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("plan refused by policy: {}{more}", shown.join("; "))
}

/// The longest reason of an approval, in characters.
const MAX_REASON: usize = 500;

/// Why a plan is applied although the workspace is on hold, in the words of the person who approves it.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_hold_reason(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        Err("a reason must not be empty")
    } else if text.chars().nth(MAX_REASON).is_some() {
        Err("a reason must have at most 500 characters")
    } else if text.chars().any(char::is_control) {
        Err("a reason must be one line without control characters")
    } else {
        Ok(text.to_owned())
    }
}

/// `the workspace is on hold until 2026-12-31: migration`.
#[must_use]
pub fn describe_hold(hold: &ActiveHold) -> String {
    let what = match hold.scope {
        HoldScope::Provider => "on hold",
        HoldScope::Workspace => "the workspace is on hold",
        HoldScope::Freeze => "the workspace is frozen",
    };
    let reason = hold.reason.as_deref().map_or_else(
        || "no reason given".to_owned(),
        |why| ellipsize(&printable(why), 200),
    );
    format!("{what} until {}: {reason}", hold.until)
}

fn describe_excess(changes: usize, limit: MaxChanges, max: usize) -> String {
    let providers = if changes == 1 {
        "provider"
    } else {
        "providers"
    };
    let share = match limit {
        MaxChanges::Share(_) => format!(" ({limit})"),
        MaxChanges::Count(_) | MaxChanges::Unlimited => String::new(),
    };
    format!("plan refused: it changes {changes} {providers}; --max-changes allows {max}{share}")
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
        let denied = self.denied(limits.approve.is_some());
        let limit = limits.max_changes;
        let max = limit.among(self.managed());
        let reason = match (&self.digest, &limits.approve, max, open) {
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
            (Some(digest), None, Some(max), _) if denied.is_none() && changes > max => {
                Refusal::TooManyChanges {
                    changes,
                    limit,
                    max,
                    digest: digest.clone(),
                }
            }
            _ => match (denied, &self.hold, &limits.approve) {
                (Some(denied), ..) => denied,
                (None, Some(hold), Some(_)) if self.suspended() > 0 => {
                    Refusal::OnHold { hold: hold.clone() }
                }
                _ => return Ok(Approved(self)),
            },
        };
        Err(RefusedPlan {
            plan: Box::new(self),
            reason,
        })
    }

    /// Why policies refuse the plan. An approval lifts what they let it lift.
    #[must_use]
    pub fn denied(&self, approved: bool) -> Option<Refusal> {
        let denies = |violation: &&Violation| {
            violation.action == PolicyAction::Deny && !(approved && violation.lifted_by_approval)
        };
        let violations: Vec<Violation> = self.violations.iter().filter(denies).cloned().collect();
        let can_be_approved = violations.iter().all(|denial| denial.lifted_by_approval);
        let digest = self.digest.clone().filter(|_| can_be_approved);
        (!violations.is_empty()).then_some(Refusal::Denied { violations, digest })
    }

    /// How many providers git manages and the workspace has; files with errors do not count.
    fn managed(&self) -> usize {
        let is_managed = |verdict: &Verdict| match verdict {
            Verdict::InSync(..)
            | Verdict::Update(_)
            | Verdict::Held { .. }
            | Verdict::Unreadable(_) => true,
            Verdict::Invalid | Verdict::Missing | Verdict::Unmanaged => false,
        };
        self.entries
            .iter()
            .filter(|entry| is_managed(&entry.verdict))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hold, Workspace};
    use crate::plan::PlanEntry;

    #[test]
    fn a_share_is_of_the_managed_providers_and_never_below_a_small_number() {
        for (text, managed, limit) in [
            ("none", 20, None),
            ("0", 20, Some(0)),
            ("7", 20, Some(7)),
            ("30%", 0, Some(5)),
            ("30%", 19, Some(5)),
            ("30%", 20, Some(6)),
            ("30%", 1000, Some(300)),
            ("0%", 20, Some(5)),
            ("100%", 20, Some(20)),
        ] {
            let max_changes: MaxChanges = text.parse().unwrap();
            assert_eq!(max_changes.among(managed), limit, "{text} of {managed}");
            assert_eq!(max_changes.to_string(), text);
        }
        for wrong in [
            "", "%", "101%", "256%", "-1", "+3", "+3%", "3 %", "30%%", "None", "many", "1.5",
        ] {
            assert!(wrong.parse::<MaxChanges>().is_err(), "{wrong}");
        }
    }

    fn plan(verdicts: Vec<Verdict>) -> Plan {
        let entry = |verdict| PlanEntry {
            provider: None,
            file: None,
            verdict,
            unresolved: Vec::new(),
            shared: None,
            origins: None,
        };
        Plan {
            workspace: Workspace {
                id: "1".to_owned(),
                name: "A".to_owned(),
                slug: "a".to_owned(),
            },
            revision: None,
            entries: verdicts.into_iter().map(entry).collect(),
            digest: None,
            base: None,
            loosened: Vec::new(),
            hold: None,
            holds: Default::default(),
            overridden: None,
            snapshot: None,
            violations: Vec::new(),
        }
    }

    #[test]
    fn a_plan_that_was_made_without_all_values_is_not_applied() {
        let digest = Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
        for approve in [None, Some(digest)] {
            let max_changes = MaxChanges::Unlimited;
            let limits = Limits {
                max_changes,
                approve,
            };
            let refused = plan(Vec::new()).approve(&limits).unwrap_err();
            assert!(matches!(refused.reason, Refusal::Incomplete), "{refused}");
        }
    }

    #[test]
    fn a_file_with_errors_or_without_a_provider_in_calry_raises_no_limit() {
        let unreadable = || Verdict::Unreadable("no id".to_owned());
        let verdicts = vec![
            unreadable(),
            Verdict::Invalid,
            Verdict::Missing,
            Verdict::Unmanaged,
        ];
        assert_eq!(plan(verdicts).managed(), 1);
        assert_eq!(plan(vec![unreadable(), unreadable()]).managed(), 2);
    }

    #[test]
    fn the_approval_of_a_plan_without_updates_needs_no_reason_in_spite_of_a_hold() {
        let digest = Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
        let limits = Limits {
            max_changes: MaxChanges::Unlimited,
            approve: Some(digest.clone()),
        };
        let hold = Hold {
            until: jiff::civil::date(2026, 1, 1),
            reason: None,
        };
        let plan = Plan {
            digest: Some(digest),
            hold: Some(ActiveHold::of(&hold, HoldScope::Workspace)),
            ..plan(vec![Verdict::Missing])
        };
        assert!(plan.approve(&limits).is_ok());
    }
}
