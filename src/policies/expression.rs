//! CEL expressions whose evaluation is bounded.
//!
//! The language and its evaluation are those of the `cel` crate. It has no limit of cost, as Kubernetes has for its policies, so
//! each loop of an expression is made to charge its worst case to a budget before it begins.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};
use cel::common::types::{CelInt, DYN_TYPE, INT_TYPE};
use cel::common::value::CowVal;
use cel::parser::{Expression, PrattParser};
use cel::{Context, Env, ExecutionError, Value};

use crate::model::{closest, ellipsize, printable};

/// The longest expression, in bytes.
pub(super) const MAX_EXPRESSION: usize = 4 << 10;
/// How deep an expression may be nested: parser and evaluation are recursive.
const MAX_DEPTH: u16 = 64;
/// The longest quotation of the library's reason, in characters.
const MAX_QUOTE: usize = 300;
/// The function that a loop calls before it begins. No identifier of CEL has this name.
const CHARGE: &str = "@charge";
const TOO_EXPENSIVE: &str = "the policies take too long to evaluate: use fewer or smaller loops";

thread_local! {
    /// How many nodes may still be evaluated. A function of an environment has no state of its own.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Evaluates within a budget: `nodes` of expressions, of which each takes about a tenth of a microsecond.
pub(super) fn with_budget<T>(nodes: u64, evaluate: impl FnOnce() -> T) -> T {
    LEFT.set(nodes);
    let result = evaluate();
    LEFT.set(0);
    result
}

/// Takes from the budget. What exceeds it leaves nothing.
fn charge(nodes: u64) -> bool {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(nodes));
    left > nodes
}

/// The functions that expressions may call: those of CEL.
pub(super) fn environment() -> Arc<Env> {
    let mut environment = Env::stdlib();
    // Only a second function of that name could be refused.
    let _ = environment.add_overload(CHARGE, CHARGE, vec![DYN_TYPE, INT_TYPE], charge_loop);
    Arc::new(environment)
}

/// Returns the range of a loop, if its length times the nodes of the loop's body is in the budget.
fn charge_loop<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let mut args = args.into_iter();
    let (Some(range), Some(body)) = (args.next(), args.next()) else {
        return Err(ExecutionError::MissingArgumentOrTarget);
    };
    let length = range.as_sizer().map_or(1, |range| *range.size().inner());
    let body = body
        .downcast_ref::<CelInt>()
        .map_or(1, |body| *body.inner());
    let cost = length.max(1).saturating_mul(body.max(1));
    if charge(cost.unsigned_abs()) {
        Ok(range)
    } else {
        Err(ExecutionError::function_error("loop", TOO_EXPENSIVE))
    }
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) struct BoundedExpression {
    expression: Expression,
    nodes: u64,
}

impl BoundedExpression {
    /// Compiles an expression that may use these variables.
    ///
    /// # Errors
    /// The reason, in printable text.
    pub(super) fn compile(text: &str, variables: &[&str]) -> Result<Self, String> {
        if text.len() > MAX_EXPRESSION {
            return Err(format!("it is longer than {} KiB", MAX_EXPRESSION >> 10));
        }
        // The crate's other parser overflows the stack.
        let parser = PrattParser::new().max_recursion_depth(MAX_DEPTH);
        let parse = || parser.parse(text);
        // A panic of the library must deny, and not end the daemon.
        let parsed = catch_unwind(AssertUnwindSafe(parse)).map_err(|_| "it cannot be parsed")?;
        let mut expression = parsed.map_err(|errors| {
            let first = errors.errors.first();
            first.map_or_else(
                || "it cannot be parsed".to_owned(),
                |error| {
                    let reason = ellipsize(&printable(&error.msg), MAX_QUOTE);
                    format!(
                        "line {}, column {} of it: {reason}",
                        error.pos.0, error.pos.1
                    )
                },
            )
        })?;
        // The parser does not count what is nested on the left: `a + b + c`, `a.b.c`.
        if !is_within(&mut expression, MAX_DEPTH) {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
        check_names(&mut expression, variables)?;
        let nodes = bound_loops(&mut expression);
        Ok(Self { expression, nodes })
    }

    /// Evaluates the expression, [within a budget](with_budget).
    ///
    /// # Errors
    /// The reason, in printable text.
    pub(super) fn evaluate(&self, context: &Context<'_, '_>) -> Result<Value, String> {
        if !charge(self.nodes) {
            return Err(TOO_EXPENSIVE.to_owned());
        }
        let evaluate = || Value::resolve(&self.expression, context);
        let evaluated = catch_unwind(AssertUnwindSafe(evaluate))
            .map_err(|_| "the evaluation failed".to_owned())?;
        // CEL lets `||` and `&&` ignore an error, and so the end of the budget.
        if LEFT.get() == 0 {
            return Err(TOO_EXPENSIVE.to_owned());
        }
        evaluated.map_err(|error| ellipsize(&printable(&error.to_string()), MAX_QUOTE))
    }
}

fn is_within(expression: &mut Expression, depth: u16) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    let mut within = true;
    for_each_child(expression, &mut |child| {
        within = within && is_within(child, depth)
    });
    within
}

/// Refuses a variable that does not exist: where it stands behind `||`, its evaluation might never be tried.
fn check_names(expression: &mut Expression, known: &[&str]) -> Result<(), String> {
    match &mut expression.expr {
        Expr::Ident(name) if !name.starts_with('@') && !known.contains(&name.as_str()) => {
            let help = closest(name, known.iter().copied())
                .map(|meant| format!("; did you mean `{meant}`?"))
                .unwrap_or_default();
            let name = ellipsize(&printable(name), 64);
            Err(format!("it uses the unknown variable `{name}`{help}"))
        }
        Expr::Comprehension(comprehension) => {
            let ComprehensionExpr {
                iter_range,
                iter_var,
                iter_var2,
                accu_var,
                accu_init,
                loop_cond,
                loop_step,
                result,
            } = &mut **comprehension;
            check_names(iter_range, known)?;
            check_names(accu_init, known)?;
            let mut inside = known.to_vec();
            inside.extend([iter_var.as_str(), accu_var.as_str()]);
            inside.extend(iter_var2.as_deref());
            [loop_cond, loop_step, result]
                .into_iter()
                .try_for_each(|part| check_names(part, &inside))
        }
        _ => {
            let mut checked = Ok(());
            for_each_child(expression, &mut |child| {
                if checked.is_ok() {
                    checked = check_names(child, known);
                }
            });
            checked
        }
    }
}

/// Makes each loop charge its range, and returns how many nodes the expression has.
fn bound_loops(expression: &mut Expression) -> u64 {
    let mut nodes = 1;
    for_each_child(expression, &mut |child| nodes += bound_loops(child));
    if let Expr::Comprehension(comprehension) = &mut expression.expr {
        // The nodes of the body are among those: that is at most twice the cost of the loop.
        let body = i64::try_from(nodes).unwrap_or(i64::MAX);
        let range = std::mem::take(&mut comprehension.iter_range);
        let id = range.id;
        let body = Expression {
            id,
            expr: Expr::Literal(LiteralValue::Int(CelInt::from(body))),
        };
        let call = CallExpr {
            func_name: CHARGE.to_owned(),
            target: None,
            args: vec![range, body],
        };
        comprehension.iter_range = Expression {
            id,
            expr: Expr::Call(call),
        };
    }
    nodes
}

fn for_each_child(expression: &mut Expression, act: &mut dyn FnMut(&mut Expression)) {
    let mut entry = |entry: &mut EntryExpr| match entry {
        EntryExpr::MapEntry(entry) => {
            act(&mut entry.key);
            act(&mut entry.value);
        }
        EntryExpr::StructField(field) => act(&mut field.value),
    };
    match &mut expression.expr {
        Expr::Map(map) => map.entries.iter_mut().for_each(|e| entry(&mut e.expr)),
        Expr::Struct(of) => of.entries.iter_mut().for_each(|e| entry(&mut e.expr)),
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| act(target));
            call.args.iter_mut().for_each(act);
        }
        Expr::Comprehension(comprehension) => {
            act(&mut comprehension.iter_range);
            act(&mut comprehension.accu_init);
            act(&mut comprehension.loop_cond);
            act(&mut comprehension.loop_step);
            act(&mut comprehension.result);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(act),
        Expr::Select(select) => act(&mut select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn evaluate(text: &str, nodes: u64) -> Result<Value, String> {
        let expression = BoundedExpression::compile(text, &["many"])?;
        let environment = environment();
        let mut context = Context::with_env(environment);
        let many: Vec<i64> = (0..1_000).collect();
        context.add_variable_from_value("many", many);
        with_budget(nodes, || expression.evaluate(&context))
    }

    #[test]
    fn expressions_of_cel_are_evaluated() {
        for text in [
            "1 + 1 == 2",
            "many.exists(x, x == 7) && !many.all(x, x == 7)",
            "many.filter(x, x < 3) == [0, 1, 2]",
            "many.map(x, x % 2 == 0, x * 2).size() == 500",
            "'OPS-114: a move'.matches('[A-Z]+-[0-9]+')",
            "{'a': 1}.exists(key, key == 'a')",
            "has({'a': 1}.a) && 'a' in {'a': 1}",
            "[1, 2].exists_one(x, [3].all(y, y > x) && x == 1)",
        ] {
            assert_eq!(evaluate(text, 1_000_000), Ok(true.into()), "{text}");
        }
    }

    #[test]
    fn loops_within_loops_end_with_the_budget_whatever_hides_their_error() {
        let nested = "many.all(a, many.all(b, many.all(c, many.all(d, a + b + c + d >= 0))))";
        for text in [
            nested.to_owned(),
            format!("{nested} || true"),
            format!("!({nested}) || many.size() == 1000"),
            format!("[{nested}].all(x, true)"),
            "many.map(a, many.map(b, many.map(c, [a, b, c]))).size() > 0".to_owned(),
        ] {
            let begin = std::time::Instant::now();
            assert_eq!(
                evaluate(&text, 1_000_000),
                Err(TOO_EXPENSIVE.to_owned()),
                "{text}"
            );
            assert!(begin.elapsed().as_secs() < 20, "{text}");
        }
        assert!(evaluate("many.all(a, a >= 0)", 100_000).is_ok());
        assert!(evaluate("many.all(a, a >= 0)", 1_000).is_err());
    }

    #[test]
    fn what_is_no_expression_does_not_compile_and_a_wrong_name_is_found_without_evaluation() {
        let deep = |open: &str, close: &str| open.repeat(2_000) + "1" + &close.repeat(2_000);
        for text in [
            "",
            "1 +",
            "true || meny.size() > 0",
            "many.all(x, y > 0)",
            "many.all(x, true) && x",
            &"1+".repeat(3_000),
        ] {
            let error = evaluate(text, 1_000_000);
            assert!(error.is_err(), "{}", &text[..text.len().min(40)]);
        }
        // None of these ends the process.
        for text in [
            deep("(", ")"),
            deep("[", "]"),
            deep("!", ""),
            deep("-", ""),
            deep("1 ? 1 : ", "").replace(&"1 ? 1 : ".repeat(1_600), ""),
            "many".to_owned() + &".a".repeat(2_000),
            "1".to_owned() + &"[0]".repeat(1_300),
            "1".to_owned() + &"+1".repeat(2_000),
            "1".to_owned() + &" in [1]".repeat(500),
            vec!["many.all(x, true)"; 200].join(" && "),
        ] {
            let _ = evaluate(&text, 1_000_000);
        }
        let long = "1".to_owned() + &"+1".repeat(usize::from(MAX_DEPTH));
        assert!(evaluate(&long, 1_000_000).is_err());
        let error = evaluate("true || meny.size() > 0", 1_000_000).unwrap_err();
        assert!(
            error.contains("`meny`") && error.contains("`many`"),
            "{error}"
        );
    }

    #[test]
    fn an_error_of_the_evaluation_is_one_line() {
        let error = evaluate("{'a': '\\n\\u001b[31m'}.b", 1_000).unwrap_err();
        assert!(!error.contains(char::is_control), "{error}");
        let error = evaluate("'\\n\\u001b[31m'.size() / 0 == 1", 1_000).unwrap_err();
        assert!(!error.contains(char::is_control), "{error}");
    }
}
