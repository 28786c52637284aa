//! CEL expressions whose evaluation is bounded.
//!
//! The language and its evaluation are those of the `cel` crate. It has no limit of cost, as Kubernetes has for its policies, so
//! expressions are rewritten before they are evaluated: a loop charges its worst case to a budget before it begins, and what
//! reads or copies a value charges its size. The crate copies each element of a loop in full, which costs far more than the
//! nodes of a short body.
//!
//! `matches` is our own, because that of the crate compiles its regular expression at each call, of any size.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use cel::common::types::{CelBool, CelBytes, CelInt, CelList, CelMap, CelString};
use cel::common::types::{DYN_TYPE, INT_TYPE};
use cel::common::value::{CowVal, Val};
use cel::parser::{Expression, PrattParser};
use cel::{Context, Env, ExecutionError, Value};
use regex::{Regex, RegexBuilder};

use crate::model::{closest, ellipsize, printable};

/// The longest expression, in bytes.
pub(super) const MAX_EXPRESSION: usize = 4 << 10;
/// How deep an expression may be nested: parser and evaluation are recursive.
const MAX_DEPTH: u16 = 64;
/// The longest quotation of the library's reason, in characters.
const MAX_QUOTE: usize = 300;
/// The function that a loop calls with its range before it begins. No identifier of CEL has such a name.
const LOOP: &str = "@loop";
/// The function that returns its value after it has charged the size.
const SIZED: &str = "@sized";
const MATCHES: &str = "@matches";
/// What each node of a value costs that is read, that a loop copies, and that is copied into another value. Such a copy is kept:
/// its memory is bounded, too.
const READ: i64 = 1;
const ELEMENT: u64 = 2;
const COPY: i64 = 10;
/// How many bytes of a string cost as much as a node.
const STRING_BYTES: usize = 32;
/// The largest compiled regular expression in bytes, and how many of them are kept.
const MAX_REGEX: usize = 1 << 20;
const MAX_REGEXES: usize = 100;
const TOO_EXPENSIVE: &str = "the policies take too long to evaluate for this plan: nest fewer loops (all, exists, filter, map), or \
                             use `each: provider` or `each: change` in place of a loop";

thread_local! {
    /// How many nodes may still be evaluated. A function of an environment has no state of its own.
    static LEFT: Cell<u64> = const { Cell::new(0) };
    /// The regular expressions that this evaluation has compiled.
    static REGEXES: RefCell<HashMap<String, Regex>> = RefCell::default();
}

/// Evaluates within a budget: `nodes` of expressions and values, of which each takes about a tenth of a microsecond.
pub(super) fn with_budget<T>(nodes: u64, evaluate: impl FnOnce() -> T) -> T {
    LEFT.set(nodes);
    let result = evaluate();
    LEFT.set(0);
    REGEXES.take();
    result
}

/// Takes from the budget. What exceeds it leaves nothing.
fn charge(nodes: u64) -> Result<(), ExecutionError> {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(nodes));
    if left > nodes {
        Ok(())
    } else {
        Err(ExecutionError::function_error("policy", TOO_EXPENSIVE))
    }
}

/// The functions that expressions may call: those of CEL, and those that [`bound`] inserts.
pub(super) fn environment() -> Arc<Env> {
    let mut environment = Env::stdlib();
    let mut add = |name, args, function| {
        // Only a second function of that name could be refused.
        let _ = environment.add_overload(name, name, args, function);
    };
    add(LOOP, vec![DYN_TYPE, INT_TYPE], charge_loop);
    add(SIZED, vec![DYN_TYPE, INT_TYPE], charge_size);
    add(MATCHES, vec![DYN_TYPE, DYN_TYPE], matches);
    Arc::new(environment)
}

/// The two arguments of an inserted function.
fn pair<'b, 'v>(
    args: Vec<CowVal<'b, 'v>>,
) -> Result<(CowVal<'b, 'v>, CowVal<'b, 'v>), ExecutionError> {
    let mut args = args.into_iter();
    args.next()
        .zip(args.next())
        .ok_or(ExecutionError::MissingArgumentOrTarget)
}

fn positive(number: &CowVal<'_, '_>) -> u64 {
    let number = number.downcast_ref::<CelInt>();
    number.map_or(1, |number| number.inner().unsigned_abs())
}

/// Returns the range of a loop, if its size and its length times the nodes of the loop's body are in the budget.
fn charge_loop<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (range, body) = pair(args)?;
    let length = range.as_sizer().map_or(1, |range| *range.size().inner());
    let length = length.unsigned_abs().max(1);
    charge(length.saturating_mul(positive(&body)))?;
    charge(size(range.as_ref(), LEFT.get()).saturating_mul(ELEMENT))?;
    Ok(range)
}

/// Returns a value, if its size times a factor is in the budget.
fn charge_size<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (value, factor) = pair(args)?;
    let size = size(value.as_ref(), LEFT.get());
    charge(size.saturating_mul(positive(&factor)))?;
    Ok(value)
}

/// How many nodes a value has. What is larger than `most` is not counted to its end.
fn size(value: &(dyn Val + '_), most: u64) -> u64 {
    let bytes = |length: usize| 1 + (length / STRING_BYTES) as u64;
    let mut nodes = 1;
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        nodes = bytes(text.inner().len());
    } else if let Some(data) = value.downcast_ref::<CelBytes<'_>>() {
        nodes = bytes(data.inner().len());
    } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        for element in list.inner() {
            if nodes > most {
                break;
            }
            nodes += size(element.as_ref(), most - nodes);
        }
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        for (key, value) in map.inner() {
            if nodes > most {
                break;
            }
            nodes += size(key.inner(), most);
            nodes += size(value.as_ref(), most.saturating_sub(nodes));
        }
    }
    nodes
}

/// `text.matches(pattern)`, with the regular expressions of CEL.
fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (text, pattern) = pair(args)?;
    let error = |message: String| ExecutionError::function_error("matches", message);
    let string = |value: &CowVal<'_, '_>| {
        let text = value.downcast_ref::<CelString<'_>>();
        let text = text.map(|text| text.inner().to_owned());
        text.ok_or_else(|| {
            let of = value.get_type().name();
            error(format!("it is for two strings, and not for {of}"))
        })
    };
    charge(size(text.as_ref(), LEFT.get()) + size(pattern.as_ref(), LEFT.get()))?;
    let (text, pattern) = (string(&text)?, string(&pattern)?);
    if let Some(found) = REGEXES.with_borrow(|known| Some(known.get(&pattern)?.is_match(&text))) {
        return Ok(CowVal::owned(CelBool::from(found)));
    }
    charge(compilation(&pattern))?;
    let regex = RegexBuilder::new(&pattern).size_limit(MAX_REGEX).build();
    let regex = regex.map_err(|cause| error(format!("not a valid regular expression: {cause}")))?;
    let found = regex.is_match(&text);
    REGEXES.with_borrow_mut(|known| {
        if known.len() < MAX_REGEXES {
            known.insert(pattern, regex);
        }
    });
    Ok(CowVal::owned(CelBool::from(found)))
}

/// The nodes that the compilation of a regular expression costs at most: each repetition, such as `{1,9}`, may be of all of it.
fn compilation(pattern: &str) -> u64 {
    /// At [`MAX_REGEX`], the compilation ends.
    const MOST: u64 = 400_000;
    let repetitions = pattern.split('{').skip(1);
    let most = repetitions.filter_map(|rest| {
        let range = rest.split('}').next()?;
        range
            .split(',')
            .rev()
            .find_map(|number| number.trim().parse::<u64>().ok())
    });
    let repeated = most.fold(1_u64, |all, number| all.saturating_mul(number.max(1)));
    let length = pattern.len() as u64;
    length
        .saturating_mul(200)
        .saturating_mul(repeated)
        .clamp(1_000, MOST)
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
        let nodes = bound(&mut expression, 1);
        Ok(Self { expression, nodes })
    }

    /// Evaluates the expression, [within a budget](with_budget).
    ///
    /// # Errors
    /// The reason, in printable text.
    pub(super) fn evaluate(&self, context: &Context<'_, '_>) -> Result<Value, String> {
        charge(self.nodes).map_err(|_| TOO_EXPENSIVE.to_owned())?;
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

/// Makes an expression charge what its loops and its values cost, and returns how many nodes it has. `scopes` is how many there
/// are around it: a name is looked up in each.
fn bound(expression: &mut Expression, scopes: u64) -> u64 {
    let mut nodes = 1;
    match &mut expression.expr {
        Expr::Comprehension(comprehension) => {
            let ComprehensionExpr {
                iter_range,
                accu_init,
                loop_cond,
                loop_step,
                result,
                ..
            } = &mut **comprehension;
            nodes += bound(iter_range, scopes) + bound(accu_init, scopes);
            for part in [loop_cond, loop_step, result] {
                nodes += bound(part, scopes + 1);
            }
            // The nodes of the range are among those: that is at most twice the cost of the loop.
            insert(LOOP, iter_range, i64::try_from(nodes).unwrap_or(i64::MAX));
        }
        Expr::Ident(_) => nodes = scopes,
        Expr::Select(select) => nodes = scopes + bound(&mut select.operand, scopes),
        _ => for_each_child(expression, &mut |child| nodes += bound(child, scopes)),
    }
    nodes + charge_values(expression)
}

/// Makes a call, a list or a map charge the values that it reads or copies, and returns how many nodes that adds.
fn charge_values(expression: &mut Expression) -> u64 {
    let mut inserted = 0;
    let mut sized = |part: &mut Expression, factor| {
        let literal = match &part.expr {
            Expr::Literal(LiteralValue::String(_) | LiteralValue::Bytes(_)) => factor == READ,
            // The result of a loop so far, which the crate does not copy as long as this is not a call.
            Expr::Ident(name) => name.starts_with('@'),
            Expr::Literal(_) => true,
            _ => false,
        };
        if !literal {
            insert(SIZED, part, factor);
            inserted += 1;
        }
    };
    match &mut expression.expr {
        Expr::Call(call) => {
            let factor = match call.func_name.as_str() {
                // These return one of their arguments, or need no more than its type or length.
                operators::CONDITIONAL
                | operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::NOT_STRICTLY_FALSE
                | operators::INDEX
                | "size" => return 0,
                "matches" => {
                    let mut args: Vec<_> = call
                        .target
                        .take()
                        .map(|target| *target)
                        .into_iter()
                        .collect();
                    args.append(&mut call.args);
                    call.args = args;
                    MATCHES.clone_into(&mut call.func_name);
                    return 0;
                }
                operators::ADD => COPY,
                _ => READ,
            };
            let parts = call.target.as_deref_mut().into_iter();
            parts
                .chain(&mut call.args)
                .for_each(|part| sized(part, factor));
        }
        Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => {
            for_each_child(expression, &mut |part| sized(part, COPY));
        }
        _ => {}
    }
    inserted
}

/// Replaces a part of an expression by the call of a function with that part and a number.
fn insert(function: &str, part: &mut Expression, number: i64) {
    let inner = std::mem::take(part);
    let id = inner.id;
    let number = Expression {
        id,
        expr: Expr::Literal(LiteralValue::Int(CelInt::from(number))),
    };
    let call = CallExpr {
        func_name: function.to_owned(),
        target: None,
        args: vec![inner, number],
    };
    *part = Expression {
        id,
        expr: Expr::Call(call),
    };
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
        let expression = BoundedExpression::compile(text, &["many", "few", "large"])?;
        let environment = environment();
        let mut context = Context::with_env(environment);
        let many: Vec<i64> = (0..1_000).collect();
        context.add_variable_from_value("large", vec![many.clone(); 5]);
        context.add_variable_from_value("few", vec![0, 1, 2, 3, 4]);
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
    fn the_size_of_a_value_counts_wherever_it_is_read_or_copied() {
        let budget = 20_000;
        for (cheap, expensive) in [
            // The elements of a loop are copied.
            (
                "few.all(a, few.all(b, few.all(c, true)))",
                "large.all(a, large.all(b, large.all(c, true)))",
            ),
            (
                "few.exists(a, a < 0) || true",
                "few.exists(a, many.exists(b, b < 0)) || true",
            ),
            (
                "few.map(a, a).size() == 5",
                "few.map(a, few.map(b, many)).size() == 5",
            ),
            ("few.map(a, few) != many", "few.map(a, large) != many"),
            ("[few].size() == 1", "[large].size() == 1"),
            ("{'a': few}.size() == 1", "{'a': large}.size() == 1"),
            ("(few + few).size() == 10", "(large + large).size() == 10"),
            ("few == few", "few.all(a, large == large)"),
            ("7 in many", "few.all(a, [7] in large || true)"),
            (
                "'a' + 'b' == 'ab'",
                "['abcdefgh'].map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).size() == 1",
            ),
            // Each pattern is compiled once, and a repetition makes it large.
            (
                "few.all(a, few.all(b, 'OPS-1'.matches('[A-Z]+-[0-9]+')))",
                "'a'.matches('[a-z]{1,900}')",
            ),
            (
                "few.all(a, 'a1'.matches('a[0-9]'))",
                "many.exists(a, 'a'.matches('b' + string(a)))",
            ),
        ] {
            assert_eq!(evaluate(cheap, budget), Ok(true.into()), "{cheap}");
            assert_eq!(
                evaluate(expensive, budget),
                Err(TOO_EXPENSIVE.to_owned()),
                "{expensive}"
            );
        }
    }

    #[test]
    fn a_length_or_an_element_of_a_large_value_costs_nothing_more() {
        for text in [
            "few.all(a, many.size() == 1000)",
            "few.all(a, many[a] == a)",
            "few.all(a, large[a][3] == 3)",
            "few.all(a, (a < 9 ? many : few).size() == 1000)",
        ] {
            assert_eq!(evaluate(text, 300), Ok(true.into()), "{text}");
        }
    }

    #[test]
    fn a_regular_expression_is_for_two_strings_and_not_of_any_size() {
        for (text, why) in [
            ("'a'.matches(1)", "two strings"),
            ("1.matches('a')", "two strings"),
            ("'a'.matches('(')", "regular expression"),
            ("'a'.matches('((a{99}){99}){99}')", "regular expression"),
        ] {
            let error = evaluate(text, 1_000_000).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert_eq!(
            evaluate("matches('ab', '^a') && !'ab'.matches('^b')", 10_000),
            Ok(true.into())
        );
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
