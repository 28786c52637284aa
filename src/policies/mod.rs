//! The operator's policies: named rules in CEL (<https://cel.dev>) over a plan. Each denies or warns what its expression does not
//! allow.
//!
//! The steps in the order of the code: `file` reads the rules, `expression` compiles and evaluates them within bounds, and
//! `facts` is what they see of a plan.
//!
//! Never: let a plan through because a rule cannot be read, compiled or evaluated: each of these denies.

mod expression;
mod facts;
mod file;

use std::path::PathBuf;

use cel::{Context, Value, to_value};
use jiff::civil::Date;
use serde::Serialize;

use crate::model::{Desired, ellipsize, printable};
use crate::plan::{Plan, PolicyAction, Violation};
use expression::{BoundedExpression, environment, with_budget};
use facts::ProviderFacts;

/// The most nodes of expressions and values that are evaluated for one plan: about two seconds of a processor.
const MAX_NODES: u64 = 20_000_000;
/// The most violations of a plan that are kept.
const MAX_VIOLATIONS: usize = 1_000;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 500;

/// What a rule is evaluated for, and what its expression sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Each change: `change`, `provider` and `today`.
    Change,
    /// Each provider with a valid file: `provider` and `today`.
    Provider,
    /// The plan: `plan` and `today`.
    Plan,
}

impl Scope {
    const ALL: [(&'static str, Self); 3] = [
        ("change", Self::Change),
        ("provider", Self::Provider),
        ("plan", Self::Plan),
    ];

    const fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Change => &["change", "provider", "today"],
            Self::Provider => &["provider", "today"],
            Self::Plan => &["plan", "today"],
        }
    }
}

#[derive(Debug)]
struct Policy {
    name: String,
    scope: Scope,
    /// Where it applies; everywhere if there is none.
    when: Option<BoundedExpression>,
    /// True if it allows.
    expression: BoundedExpression,
    message: Message,
    action: PolicyAction,
    lifted_by_approval: bool,
}

#[derive(Debug)]
enum Message {
    Text(String),
    Expression(BoundedExpression),
}

/// The rules of a file. By default there are none.
#[derive(Debug, Default)]
pub struct Policies {
    policies: Vec<Policy>,
    /// What is wrong with the file. Each problem denies every plan.
    problems: Vec<String>,
    /// How the file is named in messages.
    name: String,
}

/// The file of the operator's policies. It is read at each reconciliation.
#[derive(Clone, Debug)]
pub struct PolicyFile(pub PathBuf);

impl Policies {
    /// What the rules deny or warn of: first in the plan, then in each provider, in the order of the plan. `desired` is the
    /// desired state of each valid file.
    #[must_use]
    pub fn check<'a>(
        &self,
        plan: &Plan,
        desired: impl IntoIterator<Item = &'a Desired>,
        today: Date,
    ) -> Vec<Violation> {
        let mut found = Findings::default();
        for problem in &self.problems {
            let (deny, at) = (PolicyAction::Deny, Position::default());
            found.add(&self.name, deny, false, at, problem);
        }
        if !self.policies.is_empty() {
            let providers = facts::providers(plan, desired, today);
            with_budget(MAX_NODES, || {
                self.evaluate(plan, &providers, today, &mut found);
            });
        }
        found.finish()
    }

    fn evaluate(
        &self,
        plan: &Plan,
        providers: &[ProviderFacts],
        today: Date,
        found: &mut Findings,
    ) {
        let environment = environment();
        let of = |scope| self.policies.iter().filter(move |of| of.scope == scope);
        let mut root = Context::with_env(environment);
        root.add_variable_from_value("today", today.to_string());
        if of(Scope::Plan).next().is_some() {
            set(&mut root, "plan", &facts::plan(plan, providers));
            for policy in of(Scope::Plan) {
                policy.evaluate(&root, Position::default(), found);
            }
        }
        for provider in providers {
            let position = Position {
                provider: Some(provider),
                path: None,
            };
            let mut context = root.new_inner_scope();
            set(&mut context, "provider", provider);
            for policy in of(Scope::Provider) {
                policy.evaluate(&context, position, found);
            }
            if of(Scope::Change).next().is_none() {
                continue;
            }
            for change in &provider.changes {
                let mut context = context.new_inner_scope();
                set(&mut context, "change", change);
                let path = Some(change.path.as_str());
                for policy in of(Scope::Change) {
                    policy.evaluate(&context, Position { path, ..position }, found);
                }
            }
        }
    }
}

/// Facts that cannot be converted are missing, so that every rule that uses them fails and denies.
fn set(context: &mut Context<'_, '_>, name: &str, facts: &impl Serialize) {
    if let Ok(value) = to_value(facts) {
        context.add_variable_from_value(name, value);
    }
}

/// What a violation is about.
#[derive(Clone, Copy, Default)]
struct Position<'a> {
    provider: Option<&'a ProviderFacts>,
    path: Option<&'a str>,
}

impl Policy {
    fn evaluate(&self, context: &Context<'_, '_>, at: Position<'_>, found: &mut Findings) {
        let truth = |expression: &BoundedExpression| match expression.evaluate(context)? {
            Value::Bool(value) => Ok(value),
            other => Err(format!("it gives {}, not true or false", other.type_of())),
        };
        let allowed = match self.when.as_ref().map(truth) {
            Some(Ok(false)) => return,
            Some(Err(error)) => Err(format!("`when`: {error}")),
            None | Some(Ok(true)) => {
                truth(&self.expression).map_err(|error| format!("`expression`: {error}"))
            }
        };
        let message = match allowed {
            Ok(true) => return,
            Ok(false) => self.message(context),
            Err(error) => Err(error),
        };
        match message {
            Ok(message) => found.push(self, self.action, at, &message),
            // A rule that only warns cannot be ignored if it does not work.
            Err(error) => {
                let message = format!("the policy cannot be evaluated: {error}");
                found.push(self, PolicyAction::Deny, at, &message);
            }
        }
    }

    fn message(&self, context: &Context<'_, '_>) -> Result<String, String> {
        match &self.message {
            Message::Text(text) => Ok(text.clone()),
            Message::Expression(expression) => match expression.evaluate(context) {
                Ok(Value::String(text)) => Ok(text.to_string()),
                Ok(other) => Err(format!(
                    "`messageExpression`: it gives {}, not a string",
                    other.type_of()
                )),
                Err(error) => Err(format!("`messageExpression`: {error}")),
            },
        }
    }
}

#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
    /// How many more there are.
    unlisted: usize,
    /// Whether one of those denies.
    unlisted_denies: bool,
}

impl Findings {
    fn push(&mut self, policy: &Policy, action: PolicyAction, at: Position<'_>, message: &str) {
        self.add(&policy.name, action, policy.lifted_by_approval, at, message);
    }

    fn add(
        &mut self,
        policy: &str,
        action: PolicyAction,
        lifted_by_approval: bool,
        at: Position<'_>,
        message: &str,
    ) {
        if self.violations.len() >= MAX_VIOLATIONS {
            self.unlisted += 1;
            self.unlisted_denies |= action == PolicyAction::Deny;
            return;
        }
        self.violations.push(Violation {
            policy: policy.to_owned(),
            action,
            lifted_by_approval,
            provider: at.provider.map(|provider| provider.name.clone()),
            file: at.provider.map(|provider| provider.file.clone()),
            path: at.path.map(str::to_owned),
            message: ellipsize(&printable(message), MAX_MESSAGE),
        });
    }

    fn finish(mut self) -> Vec<Violation> {
        if self.unlisted > 0 {
            let action = if self.unlisted_denies {
                PolicyAction::Deny
            } else {
                PolicyAction::Warn
            };
            self.violations.push(Violation {
                policy: "more".to_owned(),
                action,
                // An approval cannot be about what is not listed.
                lifted_by_approval: false,
                provider: None,
                file: None,
                path: None,
                message: format!("{} more violations are not listed", self.unlisted),
            });
        }
        self.violations
    }
}
