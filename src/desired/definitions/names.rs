//! Checks the names in definition files: offline against the catalogue, or online against live state, too.

use std::collections::BTreeSet;

use super::definition::{Locations, warn_all_off};
use super::load::Loaded;
use super::source::Collector;
use super::yaml::Span;
use crate::model::{Catalogue, Code, LiveNames, Provider, Severity, closest, printable};

impl Loaded {
    /// Checks the names of providers, groups and fields offline. An unknown name is an error if it is probably
    /// misspelled, otherwise a warning.
    pub fn check(&mut self) {
        let known = self.known_names();
        for file in &mut self.files {
            let provider = file.provider.clone();
            self.diagnostics
                .extend(file.diagnose(true, |problems, locations| {
                    if let (Some(provider), Some(at)) = (&provider, locations.provider)
                        && !known.has_provider(provider.as_str())
                    {
                        UnknownName::provider(provider, at, &known).report_offline(problems);
                    }
                    unknown_names(locations, &known)
                        .into_iter()
                        .for_each(|unknown| unknown.report_offline(problems));
                    warn_of_groups_off(problems, locations, &known);
                }));
        }
        self.sort();
    }

    /// Checks the names of providers, groups and fields against live state. Returns, each with a sentence, the
    /// providers whose names cannot be checked, because a definition that may have them cannot be read.
    ///
    /// An unknown group or field makes its file invalid. A provider that the workspace does not have is an error too,
    /// but its file stays valid: the plan shows the provider as missing. A provider whose own definition cannot be read
    /// is not checked.
    pub fn check_live(&mut self, live: &LiveNames) -> Vec<(Provider, String)> {
        let mut known = self.known_names();
        known.extend(live.readable());
        let mut unchecked = Vec::new();
        for file in &mut self.files {
            let Some(provider) = file.provider.clone() else {
                continue;
            };
            if !live.may_have(&provider) {
                self.diagnostics
                    .extend(file.diagnose(false, |problems, locations| {
                        if let Some(at) = locations.provider {
                            UnknownName::provider(&provider, at, live.readable())
                                .report_online(problems);
                        }
                    }));
            } else {
                self.diagnostics
                    .extend(file.diagnose(true, |problems, locations| {
                        let mut unknown = unknown_names(locations, &known);
                        unknown.retain(|unknown| !live.is_unreadable(&provider, unknown.group));
                        let (uncertain, certain): (Vec<_>, Vec<_>) = unknown
                            .into_iter()
                            .partition(|unknown| live.may_show_more(unknown.group));
                        if let Some(first) = uncertain.first().filter(|_| certain.is_empty()) {
                            unchecked.push((provider.clone(), first.why_unchecked()));
                        }
                        certain
                            .into_iter()
                            .for_each(|unknown| unknown.report_online(problems));
                        warn_of_groups_off(problems, locations, &known);
                    }));
            }
        }
        self.sort();
        unchecked
    }
}

struct UnknownName<'a> {
    code: Code,
    noun: &'static str,
    name: &'a str,
    /// The group of a field, or the unknown group itself.
    group: &'a str,
    at: Span,
    /// A known name of which this one is probably a misspelling.
    suggestion: Option<&'a str>,
}

impl<'a> UnknownName<'a> {
    fn provider(provider: &'a Provider, at: Span, known: &'a Catalogue) -> Self {
        let name = provider.as_str();
        Self {
            code: Code::UnknownProvider,
            noun: "provider",
            name,
            group: "",
            at,
            suggestion: closest(name, known.providers()),
        }
    }

    fn printable_name(&self) -> String {
        printable(self.name)
    }

    fn report_offline(&self, problems: &mut Collector<'_>) {
        let (severity, first) = match self.suggestion {
            Some(meant) => (
                Severity::Error,
                format!("did you mean `{}`?", printable(meant)),
            ),
            None => (Severity::Warning, "check the spelling;".to_owned()),
        };
        problems
            .push(
                severity,
                self.code,
                Some(self.at),
                format!("unknown {} `{}`", self.noun, self.printable_name()),
            )
            .help(format!(
                "{first} `calry-gitops schema --from-live` adds names that are new in Calry"
            ));
    }

    fn report_online(&self, problems: &mut Collector<'_>) {
        let (message, help) = match self.code {
            Code::UnknownProvider => (
                format!("the workspace has no provider {}", self.printable_name()),
                "only Calry can add a provider to a workspace: ask Calry for it, or remove the file",
            ),
            _ => (
                format!(
                    "unknown {} `{}`: no definition in Calry shows it",
                    self.noun,
                    self.printable_name()
                ),
                "check the spelling, or remove it",
            ),
        };
        let help = match self.suggestion {
            Some(suggestion) => format!("did you mean `{}`?", printable(suggestion)),
            None => help.to_owned(),
        };
        problems.error(self.code, Some(self.at), message).help(help);
    }

    fn why_unchecked(&self) -> String {
        format!(
            "cannot check the {} `{}`: another definition, which may have it, cannot be read",
            self.noun,
            self.printable_name()
        )
    }
}

/// The unknown groups and fields. The fields of an unknown group are not checked.
fn unknown_names<'a>(locations: &'a Locations, known: &'a Catalogue) -> Vec<UnknownName<'a>> {
    let mut unknown = Vec::new();
    for group in &locations.groups {
        let name = |noun, name: &'a str, at, suggestion| UnknownName {
            code: Code::UnknownField,
            noun,
            name,
            group: &group.name,
            at,
            suggestion,
        };
        let Some(fields) = known.fields(&group.name) else {
            let meant = closest(&group.name, known.groups().map(|(name, _)| name));
            unknown.push(name("group", &group.name, group.at, meant));
            continue;
        };
        for (field, at) in &group.fields {
            if !fields.contains(field) {
                let meant = closest(field, fields.iter().map(String::as_str));
                unknown.push(name("field", field, *at, meant));
            }
        }
    }
    unknown
}

/// Warns of groups written as a map in which no field is on. A map that names every known field is explicit; any other
/// may be meant to switch off only the fields that it names.
fn warn_of_groups_off(problems: &mut Collector<'_>, locations: &Locations, known: &Catalogue) {
    for group in locations.groups.iter().filter(|group| group.all_false) {
        let named: BTreeSet<&String> = group.fields.iter().map(|(field, _)| field).collect();
        let all = known
            .fields(&group.name)
            .is_some_and(|fields| fields.iter().all(|field| named.contains(field)));
        let code = if all { Code::AllOff } else { Code::Empty };
        warn_all_off(problems, code, group);
    }
}
