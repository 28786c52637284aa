//! Parses YAML into a tree of nodes with their spans: the only module that uses the YAML parser crate.
//!
//! It reads serde-saphyr's parser event by event instead of deserializing through serde: events have exact byte spans,
//! tags and anchors, and leave duplicate keys to the caller, so that many problems of one file can be reported at once.
//!
//! Never: expand an alias, resolve a tag, or repeat a word of the file in a message (a file that does not parse cannot
//! be masked by position).

use std::borrow::Cow;

use super::mask::CONFLICT;
use serde_saphyr::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle, StructureStyle};

/// How deeply lists and maps may be nested. A definition needs 4.
const MAX_DEPTH: usize = 16;

/// The most nodes of a definition file. One with every field of `listing` needs about 100.
const MAX_NODES: usize = 20_000;

/// The most problems that are collected: more than are ever reported.
const MAX_PROBLEMS: usize = 128;

/// A range of bytes in a text of at most 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end.max(start)),
        }
    }

    pub(crate) const fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) const fn end(self) -> usize {
        self.end as usize
    }

    /// The bytes of a text.
    pub(crate) fn of(self, text: &str) -> &str {
        text.get(self.start()..self.end()).unwrap_or_default()
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl From<granit_parser::Span> for Span {
    fn from(span: granit_parser::Span) -> Self {
        // Parsers over a `&str` always know byte offsets.
        let range = span.byte_range().unwrap_or_default();
        Self::new(range.start, range.end)
    }
}

/// A node and its span. The span of a block list or map is empty, at its start.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) span: Span,
    pub(crate) value: Value<'a>,
}

/// What a node is, by YAML 1.2's core schema with strict booleans.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number: other YAML parsers would not read it as a string.
    Number,
    /// A boolean in another spelling than `true` and `false`.
    SpelledBool,
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<(Node<'a>, Node<'a>)>),
    /// A node that is already reported in the problems of the tree.
    Refused,
}

impl Node<'_> {
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the node is neither a list nor a map.
    pub(crate) const fn is_scalar(&self) -> bool {
        matches!(
            self.value,
            Value::Null | Value::Bool(_) | Value::SpelledBool | Value::Number | Value::Text(_)
        )
    }
}

/// The first document of a text.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    /// `None` if the text has no node at all.
    pub(crate) root: Option<Node<'a>>,
    /// The end of the document; what follows was not read.
    pub(crate) end: usize,
    /// Valid YAML that this format does not support: tags, anchors, aliases, a second document.
    pub(crate) problems: Vec<YamlProblem>,
}

/// A problem of the text as YAML. It repeats nothing of the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct YamlProblem {
    pub(crate) at: Span,
    pub(crate) message: Cow<'static, str>,
    pub(crate) help: Option<&'static str>,
}

/// Reads the text of a definition.
///
/// # Errors
/// The first problem that makes the text unreadable as YAML, or too large.
pub(crate) fn read(text: &str) -> Result<Tree<'_>, YamlProblem> {
    read_with_limit(text, MAX_NODES)
}

/// Reads a text of at most `limit` nodes.
pub(crate) fn read_with_limit(text: &str, limit: usize) -> Result<Tree<'_>, YamlProblem> {
    if let Some((at, c)) = text
        .char_indices()
        .find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
    {
        // The parser would read a NUL as the end of the text.
        return Err(YamlProblem {
            at: Span::new(at, at + c.len_utf8()),
            message: "YAML does not allow this control character".into(),
            help: Some("remove it, or write it as an escape in double quotes"),
        });
    }
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let tree = TreeBuilder {
        parser,
        length: text.len(),
        limit,
        nodes: 0,
        problems: Vec::new(),
    }
    .tree();
    let tree = tree.and_then(|tree| {
        match tree
            .root
            .as_ref()
            .and_then(|root| find_no_break_indentation(root, text))
        {
            Some(at) => Err(no_break_space(at)),
            None => Ok(tree),
        }
    });
    tree.map_err(|problem| find_cause(text, problem.at.start()).unwrap_or(problem))
}

/// The first key that begins with a no-break space outside quotes: meant as indentation, but part of the key in YAML.
fn find_no_break_indentation(node: &Node<'_>, text: &str) -> Option<usize> {
    match &node.value {
        Value::List(items) => items
            .iter()
            .find_map(|item| find_no_break_indentation(item, text)),
        Value::Map(entries) => entries.iter().find_map(|(key, value)| {
            let at = key.span.start();
            let begins =
                key.is_scalar() && text.get(at..).is_some_and(|key| key.starts_with('\u{a0}'));
            if begins {
                Some(at)
            } else {
                find_no_break_indentation(value, text)
            }
        }),
        _ => None,
    }
}

fn no_break_space(at: usize) -> YamlProblem {
    YamlProblem {
        at: Span::new(at, at + '\u{a0}'.len_utf8()),
        message: "a no-break space (U+00A0) is not a space in YAML".into(),
        help: Some("use an ordinary space instead"),
    }
}

/// The cause of a problem that the parser notices only later in the text: a merge conflict, or, in the line of the
/// problem or the last line with text before it, a no-break space or a missing space after a `:`.
fn find_cause(text: &str, noticed: usize) -> Option<YamlProblem> {
    let mut before: Vec<(usize, &str)> = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let mark = CONFLICT.iter().find(|mark| {
            line.strip_prefix(*mark)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        if let Some(mark) = mark {
            return Some(YamlProblem {
                at: Span::new(start, start + mark.len()),
                message: "this is a marker of a merge conflict".into(),
                help: Some(
                    "resolve the conflict: keep one side, and remove the lines that git added",
                ),
            });
        }
        if start <= noticed && !line.trim().is_empty() {
            before.push((start, line));
        }
        start += line.len();
    }
    before.iter().rev().take(2).find_map(|&(start, line)| {
        if let Some(at) = line.find('\u{a0}') {
            return Some(no_break_space(start + at));
        }
        let (key, value) = line.trim().split_once(':')?;
        let is_key = !key.is_empty()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let is_joined = !value.is_empty() && !value.starts_with([' ', '\t', '/']);
        let at = start + line.len() - line.trim_start().len() + key.len();
        (is_key && is_joined).then(|| YamlProblem {
            at: Span::new(at, at + 1),
            message: "a space is missing after this `:`".into(),
            help: Some("write `key: value`"),
        })
    })
}

struct TreeBuilder<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    length: usize,
    limit: usize,
    nodes: usize,
    problems: Vec<YamlProblem>,
}

impl<'a> TreeBuilder<'a> {
    fn tree(mut self) -> Result<Tree<'a>, YamlProblem> {
        let mut root = None;
        let mut end = self.length;
        let mut documents = 0;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        end = span.start();
                        self.refuse(
                            span,
                            "a second document begins here",
                            "write one document per file",
                        );
                        break;
                    }
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(Tree {
            root,
            end,
            problems: self.problems,
        })
    }

    /// The next event that is not an anchor: anchors are reported and skipped.
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlProblem> {
        loop {
            match self.parser.next() {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.unreadable(&error)),
                Some(Ok((Event::Anchor(..), span))) => {
                    self.refuse(
                        span.into(),
                        "anchors are not supported",
                        "put the string in quotes if this is part of it, otherwise remove it",
                    );
                }
                Some(Ok((event, span))) => {
                    if let Some(tag) = span.tag_span() {
                        self.refuse(
                            tag.into(),
                            "tags are not supported",
                            "put the string in quotes if this is part of it, otherwise remove it",
                        );
                    }
                    return Ok(Some((event, span.into())));
                }
            }
        }
    }

    /// The node that begins with an event. `depth` counts the lists and maps around it.
    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        depth: usize,
    ) -> Result<Node<'a>, YamlProblem> {
        self.nodes += 1;
        if self.nodes > self.limit {
            return Err(YamlProblem {
                at: span,
                message: format!("the file has more than {} values", self.limit).into(),
                help: Some("is it the right file?"),
            });
        }
        if depth > MAX_DEPTH {
            return Err(too_deep(span));
        }
        let (span, value) = match event {
            Event::Scalar(text, style, ..) => (span, scalar(text, style)),
            Event::SequenceStart(style, ..) => {
                let mut list = Vec::new();
                let end = loop {
                    match self.inner(span)? {
                        (Event::SequenceEnd, end) => break end,
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                };
                (extent(style, span, end), Value::List(list))
            }
            Event::MappingStart(style, ..) => {
                let mut map = Vec::new();
                let end = loop {
                    match self.inner(span)? {
                        (Event::MappingEnd, end) => break end,
                        (event, at) => {
                            let key = self.node(event, at, depth + 1)?;
                            let (event, at) = self.inner(span)?;
                            map.push((key, self.node(event, at, depth + 1)?));
                        }
                    }
                };
                (extent(style, span, end), Value::Map(map))
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.refuse(
                    span,
                    "aliases are not supported",
                    "write the value itself; quote it if it begins with `*`",
                );
                (span, Value::Refused)
            }
            _ => return Err(not_yaml(span)),
        };
        Ok(Node { span, value })
    }

    /// The next event within the list or map that began at `opened`.
    fn inner(&mut self, opened: Span) -> Result<(Event<'a>, Span), YamlProblem> {
        self.next()?.ok_or_else(|| not_yaml(opened))
    }

    fn refuse(&mut self, at: Span, message: &'static str, help: &'static str) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(YamlProblem {
                at,
                message: message.into(),
                help: Some(help),
            });
        }
    }

    fn unreadable(&self, error: &granit_parser::ScanError) -> YamlProblem {
        let at = error
            .marker()
            .byte_offset()
            .unwrap_or_default()
            .min(self.length);
        explain(error.kind(), Span::new(at, at))
    }
}

fn extent(style: StructureStyle, start: Span, end: Span) -> Span {
    match style {
        StructureStyle::Flow => Span::new(start.start(), end.end()),
        StructureStyle::Block => Span::new(start.start(), start.start()),
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value<'_> {
    if style != ScalarStyle::Plain {
        return Value::Text(text);
    }
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "True" | "TRUE" | "False" | "FALSE" => Value::SpelledBool,
        word if is_number(word) => Value::Number,
        _ => Value::Text(text),
    }
}

/// A number of YAML 1.2's core schema, section 10.3.2.
fn is_number(word: &str) -> bool {
    let all =
        |digits: &str, is: fn(&u8) -> bool| !digits.is_empty() && digits.as_bytes().iter().all(is);
    if let Some(digits) = word.strip_prefix("0o") {
        return all(digits, |b| matches!(b, b'0'..=b'7'));
    }
    if let Some(digits) = word.strip_prefix("0x") {
        return all(digits, u8::is_ascii_hexdigit);
    }
    if matches!(word, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let word = word.strip_prefix(['-', '+']).unwrap_or(word);
    // Rust reads a few words more than the schema does, and none of them begins like this.
    word.starts_with(|c: char| c.is_ascii_digit() || c == '.') && word.parse::<f64>().is_ok()
        || matches!(word, ".inf" | ".Inf" | ".INF")
}

fn too_deep(at: Span) -> YamlProblem {
    YamlProblem {
        at,
        message: format!("lists and maps are nested more than {MAX_DEPTH} deep").into(),
        help: None,
    }
}

fn not_yaml(at: Span) -> YamlProblem {
    YamlProblem {
        at,
        message: "this is not valid YAML".into(),
        help: None,
    }
}

/// The parser's reason in our own words, because some of its messages quote the text.
fn explain(kind: &ErrorKind, at: Span) -> YamlProblem {
    use ErrorKind as E;
    let quote = "put a string with special characters in quotes";
    let (message, help) = match kind {
        E::RecursionLimitExceeded => return too_deep(at),
        E::UnclosedQuotedScalar | E::DocumentIndicatorInQuotedScalar => {
            ("a quoted string is not closed", None)
        }
        E::InvalidTrailingSingleQuotedScalar | E::InvalidTrailingDoubleQuotedScalar => (
            "unexpected text after a quoted string",
            Some(
                "put the whole string in quotes; within single quotes, write a single quote twice",
            ),
        ),
        E::UnknownQuotedScalarEscape
        | E::InvalidQuotedScalarHexEscape
        | E::InvalidLowSurrogateHexEscape
        | E::InvalidLowSurrogate
        | E::MissingLowSurrogate
        | E::UnpairedLowSurrogate
        | E::InvalidUnicodeEscape => (
            "invalid escape in a double-quoted string",
            Some("write a backslash twice, or put the string in single quotes"),
        ),
        E::UnclosedFlowCollection { .. }
        | E::UnexpectedEofFlowSequence
        | E::UnexpectedEofFlowMapping
        | E::UnexpectedEofImplicitFlowMapping => ("a `[` or `{` is not closed", None),
        E::MisplacedFlowCollectionEnd | E::MismatchedFlowCollectionEnd { .. } => {
            ("this closing bracket does not match the opening one", None)
        }
        E::ExpectedFlowMappingSeparator | E::ExpectedFlowSequenceSeparator => {
            ("a `,` or a closing bracket is missing", None)
        }
        E::TabNotAllowed
        | E::TabInBlockIndentation
        | E::TabInIndentation
        | E::TabAtBlockScalarStart
        | E::TabInPlainScalar => (
            "YAML allows only spaces here, not a tab",
            Some("indent with spaces"),
        ),
        E::InvalidIndentation | E::InvalidFlowScalarIndent | E::InvalidBlockScalarIndent => {
            ("the indentation does not match the lines above", None)
        }
        E::DirectiveDisallowed => ("directives are not supported", Some("remove the line")),
        E::ExpectedBlockMappingKey | E::SimpleKeyExpected | E::InvalidSimpleKey => (
            "`key: value` is expected",
            Some("is a `:` missing here or in the line above, or the indentation wrong?"),
        ),
        E::MappingValueNotAllowed | E::MappingKeyNotAllowed | E::InvalidColonPlacement => (
            "unexpected `:`",
            Some("put a string with `: ` in it in quotes"),
        ),
        E::BlockSequenceEntryNotAllowed
        | E::BlockEntryInFlowCollection
        | E::ExpectedBlockSequenceEntry => ("unexpected `-`, or a `-` is missing in a list", None),
        E::UnexpectedCharacter { .. } | E::PlainScalarStartsWithDashFlowIndicator => {
            ("a string cannot begin with this character", Some(quote))
        }
        E::MissingAnchorOrAliasName => ("anchors and aliases are not supported", Some(quote)),
        E::ExpectedTagBang
        | E::UndeclaredTagHandle
        | E::InvalidGlobalTagCharacter
        | E::InvalidTagTerminator
        | E::MissingTagUri
        | E::UnclosedVerbatimTag
        | E::InvalidTagEscape => ("tags are not supported", Some(quote)),
        E::BomInsideDocument => (
            "unexpected byte-order mark within the text",
            Some("remove it"),
        ),
        _ => return not_yaml(at),
    };
    YamlProblem {
        at,
        message: message.into(),
        help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every scalar with the text at its span.
    fn scalars(text: &str) -> Vec<(String, String)> {
        fn walk(text: &str, node: &Node<'_>, out: &mut Vec<(String, String)>) {
            let place = text[node.span.start()..node.span.end()].to_owned();
            match &node.value {
                Value::List(items) => items.iter().for_each(|item| walk(text, item, out)),
                Value::Map(entries) => entries.iter().for_each(|(key, value)| {
                    walk(text, key, out);
                    walk(text, value, out);
                }),
                Value::Text(value) => out.push((format!("{value:?}"), place)),
                value => out.push((format!("{value:?}"), place)),
            }
        }
        let mut out = Vec::new();
        walk(text, read(text).unwrap().root.as_ref().unwrap(), &mut out);
        out
    }

    fn first(text: &str) -> Value<'_> {
        read(text).unwrap().root.unwrap().value
    }

    #[test]
    fn places_are_bytes_of_the_text_whatever_its_style() {
        let text = "ä: [ü, 'b''c']\n\"d\\n\": {e: , f: 1}\ng: |\n  h\n";
        let expected = [
            (r#""ä""#, "ä"),
            (r#""ü""#, "ü"),
            (r#""b'c""#, "'b''c'"),
            (r#""d\n""#, r#""d\n""#),
            (r#""e""#, "e"),
            ("Null", ""),
            (r#""f""#, "f"),
            ("Number", "1"),
            (r#""g""#, "g"),
            (r#""h\n""#, "h\n"),
        ];
        assert_eq!(
            scalars(text),
            expected.map(|(value, place)| (value.to_owned(), place.to_owned()))
        );
    }

    #[test]
    fn plain_words_are_what_the_core_schema_says_with_strict_booleans() {
        for text in [
            "a",
            "yes",
            "on",
            "2099-12-31",
            "1_000",
            "0b1",
            "1e",
            "infinity",
            "nan",
            "+",
            "0xg",
            "1.2.3",
            "'1'",
            "\"true\"",
        ] {
            assert!(matches!(first(text), Value::Text(_)), "{text}");
        }
        for text in [
            "1", "-1", "+1.5", ".5", "1.", "1e3", "0o17", "0xfF", ".inf", "-.INF", ".NaN", "007",
        ] {
            assert!(matches!(first(text), Value::Number), "{text}");
        }
        for text in ["True", "TRUE", "False", "FALSE"] {
            assert!(matches!(first(text), Value::SpelledBool), "{text}");
        }
        for text in ["~", "null", "NULL"] {
            assert!(matches!(first(text), Value::Null), "{text}");
        }
        assert!(matches!(
            (first("true"), first("false")),
            (Value::Bool(true), Value::Bool(false))
        ));
    }

    #[test]
    fn what_the_format_does_not_support_is_reported_at_once_and_the_rest_is_read() {
        let tree = read("a: &x 1\nb: *x\nc: !t 2\nd: *unknown\ne: 3\n---\n*z").unwrap();
        let places: Vec<_> = tree
            .problems
            .iter()
            .map(|problem| problem.at.start())
            .collect();
        assert_eq!(places, [3, 11, 17, 25, 39]);
        assert_eq!(tree.end, 39);
        assert!(matches!(tree.root.unwrap().value, Value::Map(entries) if entries.len() == 5));
    }

    #[test]
    fn the_limits_are_just_above_what_is_refused() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(MAX_DEPTH)).is_ok() && read(&nested(MAX_DEPTH + 1)).is_err());
        let wide = |nodes: usize| format!("[{}]", "a,".repeat(nodes - 1));
        assert!(read(&wide(MAX_NODES)).is_ok() && read(&wide(MAX_NODES + 1)).is_err());
    }

    #[test]
    fn lists_and_maps_of_every_style_count_towards_one_depth() {
        // Maps around lists around brackets; in keys, too.
        let mixed = |maps: usize, keys: usize, lists: usize, brackets: usize| {
            let maps = (0..maps).map(|n| format!("{}a:\n", " ".repeat(n)));
            let indent = " ".repeat(maps.len());
            let maps: String = maps.collect();
            let (keys, lists) = ("? ".repeat(keys), "- ".repeat(lists));
            let (open, close) = ("[".repeat(brackets), "]".repeat(brackets));
            read(&format!("{maps}{indent}{keys}{lists}{open}a{close}")).is_ok()
        };
        let rest = MAX_DEPTH - 12;
        assert!(mixed(12, 0, 0, rest) && !mixed(12, 0, 0, rest + 1));
        assert!(mixed(0, 12, 0, rest) && !mixed(0, 12, 0, rest + 1));
        assert!(mixed(0, 0, 12, rest) && !mixed(0, 0, 12, rest + 1));
        assert!(mixed(4, 4, 4, rest) && !mixed(4, 4, 4, rest + 1));
    }

    #[test]
    fn only_so_many_problems_are_kept() {
        let many = format!("[{}]", "*a, ".repeat(MAX_PROBLEMS + 1));
        assert_eq!(read(&many).unwrap().problems.len(), MAX_PROBLEMS);
    }

    #[test]
    fn nothing_after_a_nul_is_ignored() {
        let problem = read("a: b\n\0c: d\n").unwrap_err();
        assert_eq!(problem.at, Span::new(5, 6));
    }

    #[test]
    fn a_problem_has_its_cause_and_its_place() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        let expected = [
            (
                "a:b\n\n\nc: d\ne: f\ng: h\n",
                "a space is missing after this `:`",
                (1, 2),
            ),
            ("a b:c\nd: e\n", "unexpected `:`", (7, 7)),
            (
                "- a:\n  - \u{a0}b: c\n",
                "a no-break space (U+00A0) is not a space in YAML",
                (9, 11),
            ),
            (
                "a: b\n>>>>>>> c\n",
                "this is a marker of a merge conflict",
                (5, 12),
            ),
            (
                &*deep,
                "lists and maps are nested more than 16 deep",
                (16, 16),
            ),
            ("a: 'b\n", "a quoted string is not closed", (3, 3)),
            (
                "a: 'b' c\n",
                "unexpected text after a quoted string",
                (7, 7),
            ),
            (
                "a: \"\\q\"\n",
                "invalid escape in a double-quoted string",
                (3, 3),
            ),
            ("a: [b\n", "a `[` or `{` is not closed", (3, 3)),
            (
                "a: [b}\n",
                "this closing bracket does not match the opening one",
                (3, 3),
            ),
            (
                "a: [[b] [c]]\n",
                "a `,` or a closing bracket is missing",
                (8, 8),
            ),
            (
                "a:\n\tb: c\n",
                "YAML allows only spaces here, not a tab",
                (4, 4),
            ),
            (
                "a: |\n    \n  b\n",
                "the indentation does not match the lines above",
                (12, 12),
            ),
            (
                "%YAML 1.2\n---\na: b\n",
                "directives are not supported",
                (0, 0),
            ),
            ("a: b\nc\n", "`key: value` is expected", (5, 5)),
            ("a: b: c\n", "unexpected `:`", (4, 4)),
            (
                "a: [- b]\n",
                "unexpected `-`, or a `-` is missing in a list",
                (4, 4),
            ),
            (
                "a: @b\n",
                "a string cannot begin with this character",
                (3, 3),
            ),
            ("a: & b\n", "anchors and aliases are not supported", (3, 3)),
            ("a: !<b c\n", "tags are not supported", (3, 3)),
            (
                "a: b\n\u{feff}c: d\n",
                "unexpected byte-order mark within the text",
                (5, 5),
            ),
        ];
        let found = expected.map(|(text, ..)| {
            let problem = read(text).err();
            let place = problem
                .as_ref()
                .map(|problem| (problem.at.start(), problem.at.end()));
            (text, problem.map(|problem| problem.message), place)
        });
        let expected =
            expected.map(|(text, message, place)| (text, Some(message.into()), Some(place)));
        assert_eq!(found, expected);
    }

    #[test]
    fn no_reason_repeats_a_word_of_the_text() {
        for text in [
            "a: 'CANARY",
            "CANARY: [b\nc: d",
            "a: \"\\CANARY\"",
            "a: 'CANARY' CANARY",
            "a: CANARY: CANARY",
            "!CANARY!x a",
            "%CANARY\n---\n",
            "a: @CANARY",
            "a: [CANARY",
            "a: |CANARY\n",
            "&CANARY CANARY: *",
            "- a\nCANARY: x",
            "{CANARY: }]",
        ] {
            let problems = read(text).map_or_else(|problem| vec![problem], |tree| tree.problems);
            assert!(!problems.is_empty(), "{text}");
            assert!(
                !format!("{problems:?}").contains("CANARY"),
                "{text}: {problems:?}"
            );
        }
    }
}
