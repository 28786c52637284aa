//! The table of who may import whom, in `src/lib.rs`, held against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The table of the crate's documentation: each room with the rooms that it may import.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string("src/lib.rs").unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let names = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    for row in rows {
        let (rooms, may) = row.split_once(" | ").unwrap();
        for room in names(&format!("`{rooms}")) {
            table.insert(room, names(may).into_iter().collect());
        }
    }
    let everybody: BTreeSet<String> = table.keys().cloned().collect();
    for (room, may) in &mut table {
        match room.as_str() {
            "daemon" => {
                *may = everybody
                    .iter()
                    .filter(|r| {
                        !["daemon", "sandbox", "render", "ops", "cli"].contains(&r.as_str())
                    })
                    .cloned()
                    .collect()
            }
            "cli" => *may = everybody.clone(),
            _ => {}
        }
    }
    table
}

fn rust_files(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn room_of(path: &Path) -> String {
    let first = path
        .strip_prefix("src")
        .unwrap()
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    first
        .strip_suffix(".rs")
        .map_or(first.clone(), str::to_owned)
}

/// Every room that a file names by `crate::room`.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    code.split("crate::")
        .skip(1)
        .flat_map(|rest| {
            let names = rest.strip_prefix('{').map_or_else(
                || vec![rest],
                |group| {
                    group
                        .split('}')
                        .next()
                        .unwrap_or_default()
                        .split(',')
                        .map(str::trim)
                        .collect()
                },
            );
            names.into_iter().map(|n| {
                n.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect::<String>()
            })
        })
        .collect()
}

#[test]
fn every_import_is_in_the_table() {
    let table = allowed();
    assert!(table.len() >= 9, "the table was not found: {table:?}");
    let mut files = Vec::new();
    rust_files(Path::new("src"), &mut files);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let room = room_of(&file);
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let may = table
            .get(&room)
            .unwrap_or_else(|| panic!("{room} is not in the table"));
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            seen += 1;
            if import != room && !may.contains(&import) {
                wrong.push(format!(
                    "{}: {room} must not import {import}",
                    file.display()
                ));
            }
        }
    }
    assert!(
        seen > 30,
        "too few imports were found for this test to mean anything: {seen}"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_one_module_knows_the_yaml_reader_and_only_the_model_exposes_secrets_to_few() {
    let mut files = Vec::new();
    rust_files(Path::new("src"), &mut files);
    let naming = |word: &str| -> Vec<String> {
        files
            .iter()
            .filter(|f| std::fs::read_to_string(f).unwrap().contains(word))
            .map(|f| f.display().to_string())
            .collect()
    };
    assert_eq!(
        naming("serde_saphyr::"),
        ["src/desired/definitions/yaml.rs"]
    );
    for file in naming(".expose()") {
        // The state writes the fingerprint key that this program made.
        let may = [
            "src/model/",
            "src/http/",
            "src/live/",
            "src/desired/",
            "src/ops/notifications/post.rs",
            "src/daemon/state.rs",
        ];
        assert!(
            may.iter().any(|room| file.starts_with(room)),
            "{file} exposes secrets"
        );
    }
}
