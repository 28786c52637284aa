//! The release is described once: every file names the repository, the image and the assets that Cargo.toml names.

use std::path::Path;

use crate::support::repository;

/// What a release has an archive for, as `.github/workflows/release.yml` builds them.
const TARGETS: [&str; 6] = [
    "aarch64-apple-darwin",
    "aarch64-unknown-linux-gnu",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "x86_64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
];

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// The value of a key of Cargo.toml on one line.
fn manifest(key: &str) -> String {
    let start = format!("{key} = \"");
    let text = read("Cargo.toml");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value.unwrap().trim_end_matches('"').to_owned()
}

/// Every file of the repository that holds text, but this one and the names of other crates' repositories.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![repository().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = path.strip_prefix(repository()).unwrap();
            if entry.file_type().unwrap().is_dir() {
                if !name.ends_with("target") && name != Path::new(".git") {
                    directories.push(path);
                }
            } else if name != Path::new(file!())
                && name != Path::new("Cargo.lock")
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.push((name.display().to_string(), text));
            }
        }
    }
    found
}

/// The owner and name after a prefix, for every place of the text that has it.
fn mentions<'a>(text: &'a str, prefix: &str) -> impl Iterator<Item = &'a str> {
    let ends = |letter: char| !letter.is_ascii_alphanumeric() && !"-_./".contains(letter);
    text.split(prefix).skip(1).filter_map(move |rest| {
        let path = rest.split(ends).next()?;
        let (owner, after) = path.split_once('/')?;
        let name = after.split('/').next()?.trim_end_matches('.');
        Some(&path[..owner.len() + 1 + name.len()])
    })
}

#[test]
fn every_file_names_the_repository_that_cargo_toml_names() {
    let repository = manifest("repository");
    let ours = repository.strip_prefix("https://github.com/").unwrap();
    let (owner, name) = ours.split_once('/').unwrap();
    let mut seen = 0;
    for (file, text) in files() {
        for prefix in [
            "https://github.com/",
            "raw.githubusercontent.com/",
            "ghcr.io/",
            "uses: ",
            "gitlab.com/",
        ] {
            for mention in mentions(&text, prefix) {
                let (by, of) = mention.split_once('/').unwrap();
                let of = of.trim_end_matches(".git");
                // Another project, unless either half is ours.
                if by != owner && of != name {
                    continue;
                }
                seen += 1;
                // Beside the repository, the owner has the charts and the Homebrew tap.
                let known = of == name || ["charts", "homebrew-tap"].contains(&of);
                assert!(
                    by == owner && known,
                    "{file} names {prefix}{mention}; the repository is {ours}"
                );
            }
        }
        assert!(
            !text.contains(&format!("OWNER/{name}")),
            "{file} has a placeholder for the owner; write {ours}"
        );
    }
    assert!(seen > 10, "only {seen} mentions were found");
}

#[test]
fn binstall_finds_the_archives() {
    let text = read("Cargo.toml");
    let (_, section) = text.split_once("[package.metadata.binstall]\n").unwrap();
    let section = section.split("\n\n").next().unwrap();
    let value = |key: &str| {
        let start = format!("{key} = \"");
        let line = section.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap().trim_end_matches('"').to_owned()
    };
    let version = manifest("version");
    let install = read("deploy/install.sh");
    let workflow = read(".github/workflows/release.yml");
    for target in TARGETS {
        let expand = |template: String| {
            template
                .replace("{ repo }", &manifest("repository"))
                .replace("{ name }", &manifest("name"))
                .replace("{ version }", &version)
                .replace("{ target }", target)
                .replace("{ bin }", "calry-gitops")
                .replace("{ binary-ext }", "")
        };
        let name = format!("calry-gitops-{version}-{target}");
        assert_eq!(
            expand(value("pkg-url")),
            format!(
                "https://github.com/calry-gitops/calry-gitops/releases/download/v{version}/{name}.tar.gz"
            )
        );
        assert_eq!(expand(value("bin-dir")), format!("{name}/calry-gitops"));
        assert_eq!(value("pkg-fmt"), "tgz");
        let built = workflow.matches(&format!("target: {target}")).count();
        assert_eq!(built, 1, "release.yml builds {target} {built} times");
    }
    // The installer puts a target together from these.
    for part in ["x86_64", "aarch64", "unknown-linux-$libc", "apple-darwin"] {
        assert!(install.contains(part), "install.sh knows no {part}");
    }
}
