//! Plans and reports whose every text is hostile, in every format: no text leaves its place.
//!
//! The lines of the input are the texts. Markdown is read by an independent parser, and its structure must be the one that
//! the same plan has with harmless texts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use calry_gitops::model::{
    Code, DefinitionPart, Desired, Diagnostic, Excerpt, Hold, KeySection, Live, Provider, Revision,
    SecretName, Severity, Slug, Workspace, printable,
};
use calry_gitops::plan::{
    AppliedState, Cause, Change, Context, KeyChange, Loosening, Mismatch, Missing, Obstacle,
    Origin, PinChange, PlainValue, Plan, PlanInput, RefusedPart, UnresolvedValue, Verdict, plan,
};
use calry_gitops::reconcile::apply::{Outcome, Report, UpdateResult};
use calry_gitops::render::markdown::Place;
use calry_gitops::render::{github, markdown, text};
use calry_gitops::report::links::{Links, RepositoryUrl};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::sections::{
    assert_annotations, assert_printable, assert_printable_with_colours, check_problems,
};

/// The texts that fill a plan, in a circle.
struct Texts<'a> {
    lines: &'a [String],
    next: usize,
}

impl Texts<'_> {
    fn next(&mut self) -> String {
        self.next += 1;
        self.lines[(self.next - 1) % self.lines.len()].clone()
    }

    /// The next text as the path of a file: without a slash.
    fn file(&mut self) -> String {
        self.next().replace('/', "_")
    }
}

pub(crate) fn check(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else {
        return;
    };
    // The first line chooses the shape. A carriage return stands for any line break within a text.
    let (shape, lines) = input.split_once('\n').unwrap_or(("", input));
    let shape = shape.bytes().fold(0_usize, |sum, b| {
        sum.wrapping_mul(31).wrapping_add(b.into())
    });
    let lines: Vec<String> = lines
        .split('\n')
        .map(|line| line.replace('\r', "\n"))
        .collect();
    // Equal texts stay equal, and what is no more than a number or a commit stays as it is.
    let number = |line| {
        lines
            .iter()
            .position(|other| other == line)
            .unwrap_or_default()
    };
    let harmless = lines.iter().map(|line| match line {
        line if line.bytes().all(|b| b.is_ascii_hexdigit()) => line.clone(),
        line => format!("text{}", number(line)),
    });
    let harmless: Vec<String> = harmless.collect();
    let shown = show(&lines, shape, true);
    check_markdown(&shown, &show(&harmless, shape, false));
}

/// The Markdown of a plan with these texts. `others`: check the other formats.
fn show(lines: &[String], shape: usize, others: bool) -> String {
    let mut texts = Texts { lines, next: 0 };
    let plan = plan_of(&mut texts, shape);
    let problems: Vec<Diagnostic> = (0..shape % 4).map(|n| problem(&mut texts, n)).collect();
    let report = report_of(&plan, &mut texts, shape);
    let sentence = texts.next();
    let links = Links {
        page: None,
        repository: (shape % 2 == 1)
            .then(|| RepositoryUrl::parse("https://github.com/acme/definitions").expect("a URL")),
        directory: "definitions".to_owned(),
    };

    if others {
        check_others(&plan, &problems, &report, &sentence);
    }
    let find = |_: &str, _: github::AnnotationTarget<'_>| None;
    let progress = match shape % 3 {
        0 => Ok(None),
        1 => Ok(Some(&report)),
        _ => Err(sentence.as_str()),
    };
    let place = Place {
        links: &links,
        commit: None,
        find: &find,
    };
    markdown::plan(&plan, &problems, progress, place)
}

/// Text, annotations, SARIF and JSON.
fn check_others(plan: &Plan, problems: &[Diagnostic], report: &Report, sentence: &str) {
    for diff in [false, true] {
        let layout = text::Layout {
            diff,
            directory: "definitions",
            next: Some("apply"),
            restore: false,
        };
        assert_printable_with_colours(&text::plan(plan, layout));
    }
    assert_printable_with_colours(&text::report(report));
    let find = |_: &str, _: github::AnnotationTarget<'_>| None;
    assert_annotations(&github::plan(plan, problems, "definitions", find));
    assert_annotations(&github::report(report));
    let files: Vec<String> = problems
        .iter()
        .map(|problem| problem.file.clone())
        .collect();
    check_problems(problems, |name| {
        let is_one = files.iter().any(|file| file == name);
        is_one.then(|| "a line of 40 characters or so, or more\n".repeat(9))
    });
    let json = calry_gitops::report::plan::plan(plan, problems, Some(report), Some(sentence));
    assert_printable(&json);
    serde_json::from_str::<serde_json::Value>(&json).expect("JSON");
}

fn problem(texts: &mut Texts<'_>, n: usize) -> Diagnostic {
    let shown = printable(&texts.next());
    let end = shown.chars().next().map_or(0, char::len_utf8);
    Diagnostic {
        severity: [Severity::Error, Severity::Warning][n % 2],
        code: Code::ALL[n % Code::ALL.len()],
        file: texts.file(),
        excerpt: (n > 0).then_some(Excerpt {
            line: n,
            column: 1,
            width: 1,
            text: shown,
            mark: 0..end,
        }),
        message: texts.next(),
        help: n.is_multiple_of(2).then(|| texts.next()),
    }
}

fn provider(n: usize) -> Provider {
    Provider::parse(&format!("P{n}")).expect("a provider")
}

fn desired(texts: &mut Texts<'_>, n: usize) -> Desired {
    Desired {
        provider: provider(n),
        icon: None,
        partner_key: Default::default(),
        fields: BTreeMap::from([(texts.next(), [texts.next(), texts.next()].into())]),
        hold: (n == 3).then(|| Hold {
            until: jiff::civil::date(2026, 2, 1),
            reason: Some(texts.next()),
        }),
    }
}

fn live(texts: &mut Texts<'_>, n: usize) -> Live {
    let fields = [
        (texts.next(), true),
        (texts.next(), false),
        (texts.next(), true),
    ];
    Live {
        id: texts.next(),
        name: texts.next(),
        provider: provider(n),
        icon: Some(texts.next()),
        partner_key: Default::default(),
        fields: BTreeMap::from([(texts.next(), fields.into())]),
        updated_at: texts.next(),
        problems: Default::default(),
    }
}

/// A plan of the real planner, into whose parts more texts are put.
fn plan_of(texts: &mut Texts<'_>, shape: usize) -> Plan {
    let workspace = Workspace {
        id: texts.next(),
        name: texts.next(),
        slug: texts.next(),
    };
    let revision = (!shape.is_multiple_of(5)).then(|| Revision {
        commit: [
            "0123456789abcdef0123456789abcdef01234567".to_owned(),
            texts.next(),
        ][shape % 2]
            .clone(),
        subject: texts.next(),
        author: texts.next(),
        time: texts.next(),
        dirty: shape.is_multiple_of(7),
    });
    let count = 3 + shape % 4;
    let inputs: Vec<PlanInput> = (0..count)
        .map(|n| PlanInput {
            file: texts.file(),
            provider: Some(provider(n)),
            desired: (n != 2).then(|| Arc::new(desired(texts, n))),
        })
        .collect();
    let live: Vec<Live> = (0..count + 1)
        .filter(|n| *n != 1)
        .map(|n| live(texts, n))
        .collect();
    let applied = AppliedState::new();
    let context = Context {
        today: jiff::civil::date(2026, 1, 1),
        method: Default::default(),
        applied: &applied,
        base: None,
    };
    let mut plan = plan(workspace, revision, inputs, live, &[], context);
    for (n, entry) in plan.entries.iter_mut().enumerate() {
        if let Verdict::Update(step) = &mut entry.verdict {
            step.changes.push(Change::Icon {
                before: Some(texts.next()),
                after: Some(texts.next()),
            });
            step.changes.push(Change::Key {
                section: KeySection::BOTH[n % 2],
                name: texts.next(),
                change: [KeyChange::Added, KeyChange::Removed, KeyChange::Changed][n % 3],
                secrets: vec![SecretName::parse("one").expect("a name")],
            });
            if shape.is_multiple_of(2) {
                step.payload.refused.push(RefusedPart {
                    part: DefinitionPart::PartnerKey,
                    obstacle: [
                        Obstacle::Unreadable(texts.next()),
                        Obstacle::Masked {
                            section: KeySection::Headers,
                            name: texts.next(),
                        },
                    ][n % 2]
                        .clone(),
                });
            }
        } else if n % 4 == 1 {
            entry.verdict = Verdict::Unreadable(texts.next());
        }
        if shape.is_multiple_of(3) {
            entry.unresolved.push(UnresolvedValue {
                path: texts.next(),
                secrets: Vec::new(),
                missing: Missing::Live,
            });
        }
        if shape % 4 == 3 {
            // By what changes: the order of changes depends on the texts.
            let origins = entry.changes().iter().map(|change| match change {
                Change::Field { after, .. } => Origin::BOTH[usize::from(*after)],
                Change::Icon { .. } => Origin::BOTH[0],
                Change::Key { .. } => Origin::BOTH[1],
            });
            entry.origins = Some(origins.collect());
        }
    }
    if shape % 4 == 3 {
        plan.base = Some(texts.next());
        let slug = |text: &str| Slug::parse(text).expect("a slug");
        plan.loosened = vec![
            Loosening::File {
                provider: provider(7),
                file: texts.file(),
            },
            Loosening::Part {
                provider: provider(0),
                file: texts.file(),
                path: texts.next(),
            },
            Loosening::Hold {
                provider: provider(3),
                file: texts.file(),
                until: jiff::civil::date(2026, 2, 1),
                before: None,
            },
            Loosening::Pin(PinChange {
                before: slug("acme"),
                after: Some(slug("other")),
            }),
        ];
    }
    if shape % 6 == 5 {
        plan.digest = None;
        plan.snapshot = Some(texts.next());
    }
    plan
}

fn report_of(plan: &Plan, texts: &mut Texts<'_>, shape: usize) -> Report {
    let result = |(n, step): (usize, &calry_gitops::plan::Step)| {
        let outcome = match (n + shape) % 6 {
            0 => Outcome::Applied,
            1 => Outcome::Unchanged,
            2 => Outcome::NotConverged(vec![Mismatch {
                path: texts.next(),
                sent: Some(PlainValue::Text(texts.next())),
                kept: Some(PlainValue::Text(texts.next())),
                sensitive: false,
            }]),
            3 => Outcome::Partial(vec![RefusedPart {
                part: DefinitionPart::Icon,
                obstacle: Obstacle::Unreadable(texts.next()),
            }]),
            4 => Outcome::Failed(texts.next()),
            _ => Outcome::Skipped(texts.next()),
        };
        UpdateResult {
            provider: step.desired.provider.clone(),
            desired: Arc::clone(&step.desired),
            changes: step.changes.clone(),
            cause: Cause::Change,
            outcome,
            sent: 1,
            updated_at: None,
            transient: None,
            took: Duration::from_millis(20),
        }
    };
    Report {
        results: plan.steps().enumerate().map(result).collect(),
    }
}

/// A comment has at most that many characters, no character that deceives, and no other structure than the same comment with
/// harmless texts.
fn check_markdown(shown: &str, harmless: &str) {
    assert_printable(&shown.replace('\u{fe0f}', ""));
    assert!(shown.chars().count() <= markdown::MAX);
    // A long text may be left out, or what comes after it.
    if shown.chars().count() < 15_000 {
        let (found, expected) = (structure(shown), structure(harmless));
        assert_eq!(
            found, expected,
            "the structure of\n{shown}\n--- is not that of\n{harmless}"
        );
    }
    for text in outside_code(shown) {
        let lower = text.to_ascii_lowercase();
        for active in ["@", "://", "www.", "<", "[", "]("] {
            assert!(
                !lower.contains(active),
                "{active:?} is outside of code in {text:?}:\n{shown}"
            );
        }
        let refers = text
            .split('#')
            .skip(1)
            .any(|after| after.starts_with(|c: char| c.is_ascii_digit()));
        assert!(!refers && !lower.contains("gh-"), "{text:?}\n{shown}");
    }
}

fn parser(text: &str) -> Parser<'_> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_MATH
        | Options::ENABLE_GFM;
    Parser::new_ext(text, options)
}

/// What a text is made of, other than words and code, in no order: each element with those around it.
fn structure(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut around: Vec<String> = Vec::new();
    for event in parser(text) {
        let element = match event {
            Event::Start(Tag::Link { dest_url, .. }) => {
                // The address of a link is that of a file or a commit of the repository.
                let address = dest_url.strip_prefix("https://github.com/");
                around.push(format!("link {}", address.is_some()));
                continue;
            }
            Event::Start(tag) => {
                let name = format!("{tag:?}");
                let name = name
                    .split(['(', ' ', '{'])
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                around.push(match tag {
                    Tag::CodeBlock(kind) => format!("{kind:?}"),
                    Tag::Heading { level, .. } => format!("{level}"),
                    _ => name,
                });
                continue;
            }
            Event::End(_) => {
                found.push(around.join(" "));
                around.pop();
                continue;
            }
            Event::Text(_) | Event::Code(_) | Event::SoftBreak => continue,
            Event::Html(html) | Event::InlineHtml(html) => {
                let tags = html.split('<').skip(1);
                let names = tags.map(|tag| tag.split(['>', ' ']).next().unwrap_or_default());
                format!("html {:?}", names.collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        };
        found.push(format!("{} {element}", around.join(" ")));
    }
    found.sort();
    found
}

/// The words that are not code.
fn outside_code(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut in_block = false;
    for event in parser(text) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => in_block = true,
            Event::End(TagEnd::CodeBlock) => in_block = false,
            Event::Text(text) if !in_block => words.last_mut().expect("one").push_str(&text),
            Event::Start(_) | Event::End(_) | Event::Code(_) => words.push(String::new()),
            _ => {}
        }
    }
    words
}
