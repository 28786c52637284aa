//! What editing in place claims, over files in every form and live states of every kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use calry_gitops::desired::definitions::{Loaded, MissingSecrets, load, load_or_empty};
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::model::{
    Code, Live, LiveNames, LiveProblems, LiveValue, PartnerKey, Provider, Secret, UpdateMethod,
    Workspace,
};
use calry_gitops::plan::{AppliedState, Context, PlanInput, Verdict, plan};
use calry_gitops::pull::{FileState, Pull, Scope, SecretNames, prepare};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use similar::{ChangeTag, TextDiff};

/// How a file is written, decision by decision.
struct Writer {
    choices: Vec<u8>,
    at: usize,
    comments: usize,
    text: String,
    flow: bool,
}

impl Writer {
    fn pick(&mut self, of: u8) -> u8 {
        let choice = self.choices[self.at % self.choices.len()];
        self.at += 1;
        choice % of
    }

    /// An own-line comment, or an empty line, or nothing.
    fn above(&mut self, indent: usize) {
        if self.flow {
            return;
        }
        match self.pick(6) {
            0 => {
                self.comments += 1;
                writeln!(
                    self.text,
                    "{}# own {} of, [these: {{]",
                    " ".repeat(indent),
                    self.comments
                )
                .unwrap();
            }
            1 => self.text.push('\n'),
            _ => {}
        }
    }

    /// The end of a line, sometimes with a comment.
    fn end(&mut self, of: &str) {
        if self.pick(4) == 0 {
            self.comments += 1;
            write!(self.text, "  # its {} {of}", self.comments).unwrap();
        }
        self.text.push('\n');
    }

    fn scalar(&mut self, text: &str) -> String {
        let special =
            text.is_empty() || text.ends_with(':') || text.contains(['$', '{', '[', ',', '#', ' ']);
        match self.pick(4) {
            0 => format!("\"{text}\""),
            1 => format!("'{text}'"),
            _ if special => format!("\"{text}\""),
            _ => text.to_owned(),
        }
    }

    fn list(&mut self, indent: usize, group: &str, on: &[&str]) {
        match self.pick(if self.flow { 1 } else { 4 }) {
            _ if on.is_empty() => {
                let inner = ["", " "][usize::from(self.pick(2))];
                write!(self.text, " [{inner}]").unwrap();
                self.end_unless_flow(group);
            }
            0 => {
                let items: Vec<String> = on.iter().map(|field| self.scalar(field)).collect();
                let comma = ["", ",", " ,"][usize::from(self.pick(3))];
                let between = [", ", ",", " , "][usize::from(self.pick(3))];
                write!(self.text, " [{}{comma}]", items.join(between)).unwrap();
                self.end_unless_flow(group);
            }
            1 => {
                self.text.push_str(" [");
                self.end("");
                for (at, field) in on.iter().enumerate() {
                    self.above(indent + 2);
                    let item = self.scalar(field);
                    let comma = if at + 1 < on.len() || self.pick(2) == 0 {
                        ","
                    } else {
                        ""
                    };
                    write!(self.text, "{}{item}{comma}", " ".repeat(indent + 2)).unwrap();
                    self.end(field);
                }
                writeln!(self.text, "{}]", " ".repeat(indent + 1)).unwrap();
            }
            style => {
                self.end("");
                let deep = indent + if style == 2 { 2 } else { 0 };
                for field in on {
                    self.above(deep);
                    let item = self.scalar(field);
                    let gap = [" ", "   "][usize::from(self.pick(2))];
                    write!(self.text, "{}-{gap}{item}", " ".repeat(deep)).unwrap();
                    self.end(field);
                }
            }
        }
    }

    fn end_unless_flow(&mut self, of: &str) {
        if !self.flow {
            self.end(of);
        }
    }

    /// A map of texts.
    fn map(&mut self, indent: usize, name: &str, entries: &[(String, String)]) {
        match self.pick(if self.flow { 1 } else { 3 }) {
            _ if entries.is_empty() => {
                self.text.push_str(" {}");
                self.end_unless_flow(name);
            }
            0 => {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                let comma = ["", ","][usize::from(self.pick(2))];
                write!(self.text, " {{{}{comma}}}", entries.join(", ")).unwrap();
                self.end_unless_flow(name);
            }
            1 => {
                self.text.push_str(" {");
                self.end("");
                for (at, (key, value)) in entries.iter().enumerate() {
                    let comma = if at + 1 < entries.len() || self.pick(2) == 0 {
                        ","
                    } else {
                        ""
                    };
                    write!(self.text, "{}{key}: {value}{comma}", " ".repeat(indent + 2)).unwrap();
                    self.end(key);
                }
                writeln!(self.text, "{}}}", " ".repeat(indent + 1)).unwrap();
            }
            _ => {
                self.end("");
                for (key, value) in entries {
                    self.above(indent + 2);
                    write!(self.text, "{}{key}: {value}", " ".repeat(indent + 2)).unwrap();
                    self.end(key);
                }
            }
        }
    }

    /// A map of maps or lists below a key of the document.
    fn section(
        &mut self,
        name: &str,
        count: usize,
        mut entry: impl FnMut(&mut Self, usize, usize),
    ) {
        let flow_here = self.flow || self.pick(4) == 0;
        let outer = std::mem::replace(&mut self.flow, flow_here);
        write!(self.text, "{name}:").unwrap();
        if flow_here {
            self.text.push_str(" {");
            for at in 0..count {
                self.text.push_str(if at > 0 { ", " } else { "" });
                entry(self, 0, at);
            }
            self.text.push('}');
        } else {
            self.end("");
            let indent = 2 + 2 * usize::from(self.pick(2));
            for at in 0..count {
                self.above(indent);
                self.text.push_str(&" ".repeat(indent));
                entry(self, indent, at);
            }
        }
        self.flow = outer;
        if flow_here && !outer {
            self.end(name);
        }
    }
}

type Values = BTreeMap<String, String>;

/// What a file says, without its form.
#[derive(Clone, Debug)]
struct Said {
    icon: Option<String>,
    headers: Option<Values>,
    query_params: Option<Values>,
    groups: BTreeMap<String, BTreeMap<String, bool>>,
    choices: Vec<u8>,
}

impl Said {
    fn text(&self) -> String {
        let mut w = Writer {
            choices: self.choices.clone(),
            at: 0,
            comments: 0,
            text: String::new(),
            flow: false,
        };
        w.flow = w.pick(8) == 0;
        let crlf = w.pick(4) == 0;
        let unended = w.pick(4) == 0;
        let mut sections: Vec<u8> = vec![0, 1, 2];
        let first = w.pick(3);
        sections.rotate_left(first.into());
        if w.flow {
            w.text.push('{');
        }
        w.above(0);
        w.text.push_str("provider: P1");
        w.end_unless_flow("provider");
        for section in sections {
            let there = match section {
                0 => self.icon.is_some(),
                1 => self.headers.is_some() || self.query_params.is_some(),
                _ => !self.groups.is_empty(),
            };
            if !there {
                continue;
            }
            w.text.push_str(if w.flow { ", " } else { "" });
            w.above(0);
            match section {
                0 => {
                    let icon = self.icon.as_deref().unwrap();
                    let folded = !w.flow && w.pick(5) == 0;
                    if folded {
                        writeln!(w.text, "icon: >-\n  {icon}").unwrap();
                    } else {
                        let icon = w.scalar(icon);
                        write!(w.text, "icon: {icon}").unwrap();
                        w.end_unless_flow("icon");
                    }
                }
                1 => {
                    let sections = [
                        ("headers", &self.headers),
                        ("queryParams", &self.query_params),
                    ];
                    let sections: Vec<_> = sections
                        .into_iter()
                        .filter_map(|(n, h)| Some((n, h.as_ref()?)))
                        .collect();
                    if sections.len() == 2 && sections.iter().all(|(_, values)| values.is_empty()) {
                        w.text.push_str("partnerKey: {}");
                        w.end_unless_flow("partnerKey");
                        continue;
                    }
                    w.section("partnerKey", sections.len(), |w, indent, at| {
                        let (name, values) = sections[at];
                        let values: Vec<_> = values
                            .iter()
                            .map(|(key, value)| (key.clone(), w.scalar(value)))
                            .collect();
                        write!(w.text, "{name}:").unwrap();
                        w.map(indent, name, &values);
                    });
                }
                _ => {
                    let groups: Vec<_> = self.groups.iter().collect();
                    w.section("fieldsToSync", groups.len(), |w, indent, at| {
                        let (group, fields) = groups[at];
                        write!(w.text, "{group}:").unwrap();
                        if w.pick(2) == 0 {
                            let on: Vec<_> = fields
                                .iter()
                                .filter(|(_, on)| **on)
                                .map(|(f, _)| f.as_str())
                                .collect();
                            w.list(indent, group, &on);
                        } else {
                            let entries: Vec<_> = fields
                                .iter()
                                .map(|(f, on)| (f.clone(), on.to_string()))
                                .collect();
                            w.map(indent, group, &entries);
                        }
                    });
                }
            }
        }
        if w.flow {
            w.text.push_str("}\n");
        }
        let text = w.text.trim_end().to_owned() + if unended { "" } else { "\n" };
        if crlf {
            text.replace('\n', "\r\n")
        } else {
            text
        }
    }
}

/// A name of a field or group as Calry may show one that no file can say.
fn odd_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "name",
        "romms",
        "no",
        "yes",
        "on",
        "y",
        "~",
        "null",
        "true",
        "1",
        "1_000",
        "12:30",
        "0x1f",
        "1e3",
        "<<",
        "=",
        "-",
        "- a",
        "a b",
        "",
        "é#",
        "a: b",
        "headers",
        "partnerKey",
        "reservation",
        "\u{a0}",
        "\u{202e}x",
        "[x]",
        "{x",
        "&x",
        "*x",
        "!x",
        "|",
        "%x",
        "@x",
        "`",
        "'",
        "\"",
        "\\",
        "?",
        "a\nb",
        "2024-01-01",
    ])
    .prop_map(str::to_owned)
}

fn odd_live() -> impl Strategy<Value = Live> {
    let value = prop::sample::select(vec!["first", "", "****"]);
    let section = || {
        option::of(btree_map(
            odd_name(),
            value.clone().prop_map(live_value),
            0..4,
        ))
    };
    let groups = btree_map(odd_name(), btree_map(odd_name(), any::<bool>(), 0..5), 0..4);
    let provider = prop::sample::select(vec!["GUESTY", "NEWCOMER", "HOSTWAY", "A1"]);
    (provider, option::of(icon()), section(), section(), groups).prop_map(
        |(provider, icon, headers, query_params, fields)| Live {
            id: "id".to_owned(),
            name: "name".to_owned(),
            provider: Provider::parse(provider).unwrap(),
            icon,
            partner_key: PartnerKey {
                headers,
                query_params,
            },
            fields,
            problems: LiveProblems::default(),
            updated_at: "2026-01-01T00:00:00.000Z".to_owned(),
        },
    )
}

/// A text of YAML as a reader of YAML 1.1 sees it: every plain word that is no text there.
fn words_that_others_misread(text: &str) -> Vec<&str> {
    let plain = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| {
            let (key, value) = line
                .split_once(": ")
                .unwrap_or((line.trim_end_matches(':'), ""));
            [key.trim_start().trim_start_matches("- "), value]
        });
    let misread = |word: &str| {
        let lower = word.to_ascii_lowercase();
        [
            "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "=", "<<",
        ]
        .contains(&lower.as_str())
            || word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && word != "[]"
    };
    plain.filter(|word| misread(word)).collect()
}

fn field() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "name", "pictures", "rooms", "type", "no", "true", "1st", "é#", "null",
    ])
    .prop_map(str::to_owned)
}

fn plain_field() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["name", "pictures", "rooms", "type"]).prop_map(str::to_owned)
}

fn header() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["x-api-key", "X-Token", "authorization"]).prop_map(str::to_owned)
}

fn group() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["listing", "rates"]).prop_map(str::to_owned)
}

fn icon() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "https://e.com/1.png",
        "http://e.com/a?b=c,d",
        "https://e.com/#x'y",
        "https://e.com/a:",
    ])
    .prop_map(str::to_owned)
}

fn said() -> impl Strategy<Value = Said> {
    let value = prop::sample::select(vec![
        "${secret:one}",
        "${secret:none}",
        "written",
        "",
        "Bearer ${secret:one}",
    ]);
    let section = || {
        option::of(btree_map(
            header(),
            value.clone().prop_map(str::to_owned),
            0..3,
        ))
    };
    let groups = btree_map(group(), btree_map(plain_field(), any::<bool>(), 0..4), 0..3);
    (
        option::of(icon()),
        section(),
        section(),
        groups,
        vec(any::<u8>(), 40..90),
    )
        .prop_map(|(icon, headers, query_params, groups, choices)| Said {
            icon: icon.map(|icon| icon.replace('\'', "")),
            headers,
            query_params,
            groups,
            choices,
        })
}

fn live_value(text: &str) -> LiveValue {
    if text.contains('*') {
        LiveValue::Mask
    } else {
        LiveValue::Value(Secret::new(text))
    }
}

fn live() -> impl Strategy<Value = Live> {
    let value = prop::sample::select(vec![
        "first",
        "Bearer first",
        "second",
        "",
        "written",
        "****",
    ]);
    let section = || {
        option::of(btree_map(
            header(),
            value.clone().prop_map(live_value),
            0..3,
        ))
    };
    let groups = btree_map(group(), btree_map(field(), any::<bool>(), 0..6), 0..3);
    (option::of(icon()), section(), section(), groups).prop_map(
        |(icon, headers, query_params, fields)| Live {
            id: "id".to_owned(),
            name: "name".to_owned(),
            provider: Provider::parse("P1").unwrap(),
            icon,
            partner_key: PartnerKey {
                headers,
                query_params,
            },
            fields,
            updated_at: "2026-01-01T00:00:00.000Z".to_owned(),
            problems: LiveProblems::default(),
        },
    )
}

fn workspace() -> Workspace {
    Workspace {
        id: "id".to_owned(),
        name: "name".to_owned(),
        slug: "acme".to_owned(),
    }
}

fn sources(values: &BTreeMap<String, String>) -> SecretSources {
    let values = values.clone();
    SecretSources::new(None).with_variables(move |name| values.get(name).map(Into::into))
}

fn loaded(dir: &Path, secrets: &BTreeMap<String, String>) -> Loaded {
    let mut loaded = load(dir).unwrap();
    loaded.resolve(&sources(secrets), MissingSecrets::Unavailable);
    loaded
}

fn pull(dir: &Path, live: &Live, secrets: &BTreeMap<String, String>) -> Pull {
    let loaded = loaded(dir, secrets);
    assert!(
        !loaded.has_errors(),
        "{:#?}\n{}",
        loaded.diagnostics,
        std::fs::read_to_string(dir.join("p1.yaml")).unwrap()
    );
    let known = loaded.names_for_schema(&LiveNames::of([live], &[], false));
    let scope = Scope {
        parts: &[],
        only: &[],
        known: &known,
    };
    let names = SecretNames::of(&loaded);
    let mut pull = prepare(
        &loaded,
        &workspace(),
        std::slice::from_ref(live),
        scope,
        names,
        &sources(secrets),
    );
    pull.write(dir, false);
    pull
}

fn state(pull: &Pull) -> &FileState {
    &pull
        .files
        .iter()
        .find(|file| file.name == "p1.yaml")
        .unwrap()
        .state
}

/// The secrets that a pull asks for, as in Calry, if it shows them.
fn provide(pull: &Pull, live: &Live, secrets: &mut BTreeMap<String, String>) {
    for (name, needed) in &pull.secrets {
        for (_, path) in &needed.uses {
            let (section, name_in_section) = path
                .strip_prefix("partnerKey.")
                .unwrap()
                .split_once('.')
                .unwrap();
            let section = if section == "headers" {
                &live.partner_key.headers
            } else {
                &live.partner_key.query_params
            };
            let same = |other: &&String| other.eq_ignore_ascii_case(name_in_section);
            if name.as_str().starts_with("p1-") {
                let values = section.as_ref().unwrap();
                if let LiveValue::Value(value) = &values[values.keys().find(same).unwrap()] {
                    secrets.insert(name.variable(), value.expose().to_owned());
                }
            }
        }
    }
}

/// The lines of a text, the last one as if it had a line break.
fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// The comments of a text.
fn comments(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.split_once("# ").map(|(_, comment)| comment))
        .filter(|c| c.starts_with("its") || c.starts_with("own"))
        .collect()
}

/// Whether a file looks like a mistake before it is pulled: something is empty, or Calry does not have a group.
fn is_doubtful(said: &Said, live: &Live) -> bool {
    let known = |group: &String| group == "listing" || live.fields.contains_key(group);
    let nothing = [&said.headers, &said.query_params]
        .iter()
        .all(|section| section.as_ref().is_some_and(Values::is_empty));
    nothing
        || said
            .groups
            .iter()
            .any(|(group, fields)| !known(group) || !fields.values().any(|on| *on))
}

fn check(said: &Said, live: &Live) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let text = said.text();
    std::fs::write(dir.path().join("p1.yaml"), &text).unwrap();
    let mut secrets = BTreeMap::from([("CALRY_SECRET_ONE".to_owned(), "first".to_owned())]);
    let first = pull(dir.path(), live, &secrets);
    let after = std::fs::read_to_string(dir.path().join("p1.yaml")).unwrap();
    let case = format!(
        "{:?}\n--- before\n{text}\n--- after\n{after}",
        state(&first)
    );
    prop_assert!(
        !matches!(state(&first), FileState::Refused(_) | FileState::Invalid),
        "{case}"
    );
    let changes = match state(&first) {
        FileState::Updated(changes) => changes.clone(),
        _ => Vec::new(),
    };

    // No value of Calry is in it that was not.
    for value in ["second", "Bearer first"] {
        prop_assert!(!after.contains(value), "{case}");
    }
    // Comments and lines stay.
    let gone = |of: &str| {
        changes.iter().any(|change| {
            change
                .split(' ')
                .next()
                .unwrap()
                .ends_with(&format!(".{of}"))
                || (of == "icon" && change.starts_with("icon removed"))
        })
    };
    for comment in comments(&text) {
        let of = comment.rsplit_once(' ').unwrap().1;
        let removed = comment.starts_with("its") && gone(of);
        prop_assert!(
            removed || after.contains(&format!("# {comment}")),
            "{comment} is gone\n{case}"
        );
    }
    let (old, new) = (lines(&text), lines(&after));
    let diff = TextDiff::from_slices(&old, &new);
    let lost = diff
        .iter_all_changes()
        .filter(|c| c.tag() == ChangeTag::Delete && !c.value().is_empty())
        .count();
    prop_assert!(
        lost <= 2 * changes.len(),
        "{lost} lines for {changes:?}\n{case}"
    );
    prop_assert_eq!(
        after.matches('\n').count(),
        after
            .matches(if text.contains("\r\n") { "\r\n" } else { "\n" })
            .count()
    );
    prop_assert_eq!(text.ends_with('\n'), after.ends_with('\n'), "{}", case);

    // No group that was taken over looks like a mistake.
    if !is_doubtful(said, live) {
        let mut checked = load(dir.path()).unwrap();
        checked.check();
        prop_assert!(
            checked.diagnostics.iter().all(|d| d.code != Code::Empty),
            "{:#?}\n{case}",
            checked.diagnostics
        );
    }

    // Again: nothing to change, and a plan that is empty but for secrets that are outdated.
    provide(&first, live, &mut secrets);
    let second = pull(dir.path(), live, &secrets);
    prop_assert_eq!(state(&second), &FileState::Unchanged, "{}", case);
    let loaded = loaded(dir.path(), &secrets);
    let inputs = loaded.files.iter().map(|f| PlanInput {
        file: f.name.clone(),
        provider: f.provider.clone(),
        desired: f.desired.clone(),
    });
    let context = Context {
        today: jiff::civil::date(2026, 1, 1),
        method: UpdateMethod::Patch,
        applied: &AppliedState::new(),
        base: None,
    };
    let plan = plan(workspace(), None, inputs, [live.clone()], &[], context);
    let outdated: BTreeSet<&str> = second
        .secrets
        .values()
        .filter(|n| n.outdated)
        .flat_map(|n| n.uses.iter().map(|(_, path)| path.as_str()))
        .collect();
    if let Verdict::Update(step) = &plan.entries[0].verdict {
        for change in &step.changes {
            let path = change.path();
            let masked = format!("{change:?}").contains("Masked");
            prop_assert!(
                masked || outdated.contains(path.as_str()),
                "{path} would change\n{case}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_pull_writes_for_any_live_state_is_valid_as_strictly_as_can_be_and_read_alike_by_others(live in odd_live()) {
        let dir = tempfile::tempdir().unwrap();
        let loaded = load_or_empty(dir.path()).unwrap();
        let known = loaded.names_for_schema(&LiveNames::of([&live], &[], false));
        let scope = Scope { parts: &[], only: &[], known: &known };
        let no_secrets = sources(&BTreeMap::new());
        prepare(&loaded, &workspace(), std::slice::from_ref(&live), scope, SecretNames::of(&loaded), &no_secrets)
            .write(dir.path(), false);
        let text = std::fs::read_to_string(dir.path().join(format!("{}.yaml", live.provider.file_stem()))).unwrap();
        let mut checked = load(dir.path()).unwrap();
        checked.check();
        checked.deny_warnings();
        prop_assert!(!checked.has_errors(), "{:#?}\n{text}", checked.diagnostics);
        prop_assert_eq!(words_that_others_misread(&text), Vec::<&str>::new(), "{}", text);
        let others: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        let desired = checked.files[0].desired.as_ref().unwrap();
        for (group, on) in &desired.fields {
            let theirs = others["fieldsToSync"][group.as_str()].as_sequence().unwrap();
            prop_assert_eq!(theirs.iter().map(|field| field.as_str().unwrap()).collect::<BTreeSet<_>>(), on.iter().map(String::as_str).collect());
        }
    }

    #[test]
    fn a_file_in_any_form_takes_over_any_live_state_and_keeps_its_comments_and_lines(said in said(), live in live()) {
        check(&said, &live)?;
    }
}
