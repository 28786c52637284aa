//! `encrypt`: writes secrets that are encrypted to the recipients of workspace.yaml, beside the definitions. It uses neither
//! Calry nor a key of its own.
//!
//! Never: take a value from the command line, which other users of the machine can read, or show one.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::{Args, ValueHint};

use super::options::{definitions_directory, key_file};
use super::{Exit, Output, read_yes};
use crate::desired::definitions::{self, FileWrite, Loaded, Pin, WriteEffect, WriteError};
use crate::desired::encrypted::{
    DIRECTORY, ENDING, EncryptedSecret, Identities, MAX_RECIPIENTS, RECORD_FILE, Recipient,
    RecipientRecord,
};
use crate::desired::secrets::{MAX_SECRET, SecretSources, check_possible};
use crate::model::{Secret, SecretName, read_at_most, trim_value};
use crate::pull::first_of;
use crate::report::words::counted;

#[derive(Args)]
pub(super) struct EncryptArgs {
    /// Name of the secret, as in ${secret:NAME}. Its value is asked for, or read from standard input
    #[arg(value_parser = SecretName::parse, required_unless_present = "again")]
    name: Option<SecretName>,
    /// Encrypt again what is not encrypted to exactly the recipients of workspace.yaml
    #[arg(long, conflicts_with = "name", requires = "age_identity_file")]
    again: bool,
    /// File with an age identity that can decrypt the secrets, for --again
    #[arg(long, env = "CALRY_AGE_IDENTITY_FILE", value_parser = key_file(), value_name = "FILE")]
    age_identity_file: Option<PathBuf>,
    /// With --again, do not ask whether the recipients are right
    #[arg(short, long)]
    yes: bool,
    /// Directory of the definition files
    #[arg(
        short,
        long,
        env = "CALRY_DEFINITIONS",
        default_value = "definitions",
        value_parser = definitions_directory,
        value_hint = ValueHint::DirPath,
        value_name = "DIR"
    )]
    definitions: PathBuf,
}

pub(super) fn run(args: &EncryptArgs, output: &Output) -> anyhow::Result<Exit> {
    let loaded = definitions::load_or_empty(&args.definitions)?;
    let recipients = recipients(&loaded)?;
    let mut record = loaded.encrypted.record.clone();
    record.retain(|name| loaded.encrypted.files.contains_key(name));
    match (&args.name, &args.age_identity_file) {
        (Some(name), _) => encrypt_one(name, &loaded, record, recipients, output),
        (None, Some(file)) => encrypt_again(args, file, &loaded, record, recipients, output),
        (None, None) => bail!("--again needs --age-identity-file"),
    }
}

fn recipients(loaded: &Loaded) -> anyhow::Result<&BTreeSet<Recipient>> {
    ensure!(
        loaded.pin != Pin::Invalid,
        "workspace.yaml is invalid; help: `calry-gitops validate` shows the line"
    );
    let Some(recipients) = loaded.recipients() else {
        bail!(
            "{} has no workspace.yaml that names recipients; help: add one with `secretRecipients`. If this is a shared directory, \
             encrypt the secret in each workspace that extends it: `calry-gitops encrypt NAME -d WORKSPACE`",
            loaded.directory.display()
        );
    };
    ensure!(
        !recipients.is_empty(),
        "workspace.yaml names no recipients; help: make an identity with `age-keygen -o identity.txt`, and add the public key that \
         it prints: `secretRecipients: [age1…]`"
    );
    Ok(recipients)
}

fn encrypt_one(
    name: &SecretName,
    loaded: &Loaded,
    mut record: RecipientRecord,
    recipients: &BTreeSet<Recipient>,
    output: &Output,
) -> anyhow::Result<Exit> {
    let value = read_value(name)?;
    let secret = EncryptedSecret::encrypt(&value, recipients)?;
    record.note(name, &secret, recipients);
    let directory = secrets_directory(loaded)?;
    let files = [secret_file(name, &secret), record_file(&record)];
    let created = examine(&directory, &files, Some(name))?.first() == Some(&WriteEffect::Created);
    let mut written = Vec::new();
    for file in &files {
        write(&directory, file, &mut written)?;
    }
    let verb = if created { "created" } else { "replaced" };
    let recipients = counted(recipients.len(), "recipient", "recipients");
    output.result(&format!(
        "{DIRECTORY}/{name}{ENDING} {verb}, encrypted to {recipients}.\nRefer to it as ${{secret:{name}}}, and commit \
         {DIRECTORY}/{name}{ENDING} and {DIRECTORY}/{RECORD_FILE}.\n"
    ));
    Ok(Exit::Done)
}

fn read_value(name: &SecretName) -> anyhow::Result<Secret> {
    let text = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!("Value of {name} (not shown): "))
            .context("cannot ask for the value")?
    } else {
        // A line break after it does not count.
        let bytes = read_at_most(io::stdin().lock(), MAX_SECRET + 2)?;
        let bytes = bytes.with_context(|| too_large(name))?;
        String::from_utf8(bytes)
            .ok()
            .with_context(|| format!("the value of {name} is not UTF-8"))?
    };
    let text = trim_value(&text);
    ensure!(
        !text.is_empty(),
        "the value of {name} is empty; nothing was written"
    );
    let value = Secret::new(text);
    if let Err(problem) = check_possible(&value) {
        bail!("the value of {name} {problem}; nothing was written");
    }
    Ok(value)
}

fn too_large(name: &SecretName) -> String {
    format!(
        "the value of {name} is larger than {} KiB",
        MAX_SECRET >> 10
    )
}

fn encrypt_again(
    args: &EncryptArgs,
    identity_file: &Path,
    loaded: &Loaded,
    mut record: RecipientRecord,
    recipients: &BTreeSet<Recipient>,
    output: &Output,
) -> anyhow::Result<Exit> {
    let is_right = |name: &SecretName, secret: &EncryptedSecret| {
        record
            .of(name, secret)
            .is_some_and(|noted| noted == recipients)
    };
    let files = loaded.encrypted.files.iter();
    let usable = files.filter_map(|(name, secret)| Some((name, secret.as_ref()?)));
    let outdated: Vec<_> = usable
        .filter(|(name, secret)| !is_right(name, secret))
        .collect();
    if outdated.is_empty() {
        output.result("Every secret is encrypted to exactly the recipients of workspace.yaml.\n");
        return Ok(Exit::Done);
    }
    // Who adds a recipient to workspace.yaml gets every secret by this command: a person must see it.
    let known: BTreeSet<&Recipient> = outdated
        .iter()
        .filter_map(|(name, secret)| record.of(name, secret))
        .flatten()
        .collect();
    let mut list = String::from("These can decrypt the secrets afterwards:\n");
    for recipient in recipients.iter().take(MAX_RECIPIENTS) {
        let new = if known.contains(recipient) {
            ""
        } else {
            "  (new)"
        };
        list.push_str(&format!("  {recipient}{new}\n"));
    }
    output.note(&list);
    let secrets = counted(outdated.len(), "secret", "secrets");
    if !args.yes && !confirm(&secrets, output)? {
        output.note("Nothing was written.\n");
        return Ok(Exit::Failed);
    }
    // All are decrypted before the first is written.
    let identities =
        Identities::read(identity_file).map_err(|error| anyhow!("the secrets {error}"))?;
    let decrypted = outdated.iter().map(|(name, secret)| {
        let value = SecretSources::decrypt(name, secret, Ok(&identities))?;
        Ok((*name, value))
    });
    let decrypted: Vec<(&SecretName, Secret)> = decrypted.collect::<anyhow::Result<_>>()?;
    let encrypted = decrypted.into_iter().map(|(name, value)| {
        let secret = EncryptedSecret::encrypt(&value, recipients)?;
        Ok((name, secret))
    });
    let encrypted: Vec<(&SecretName, EncryptedSecret)> =
        encrypted.collect::<anyhow::Result<_>>()?;
    let directory = secrets_directory(loaded)?;
    let files = encrypted
        .iter()
        .map(|(name, secret)| secret_file(name, secret))
        .chain([record_file(&record)]);
    examine(&directory, &files.collect::<Vec<_>>(), None)?;
    let mut written = Vec::new();
    for (name, secret) in encrypted {
        write(&directory, &secret_file(name, &secret), &mut written)?;
        record.note(name, &secret, recipients);
        // Each file is noted at once: the rest may fail.
        write(&directory, &record_file(&record), &mut written)?;
    }
    let count = counted(recipients.len(), "recipient", "recipients");
    output.result(&format!(
        "{secrets} encrypted to {count}. Former recipients can still decrypt the old files in the git history: replace the values as \
         well if that matters.\n"
    ));
    Ok(Exit::Done)
}

fn confirm(secrets: &str, output: &Output) -> anyhow::Result<bool> {
    ensure!(
        io::stdin().is_terminal(),
        "cannot ask for confirmation: there is no terminal; nothing was written. Check the recipients, then add --yes"
    );
    output.note(&format!(
        "Encrypt {secrets} to them? Type \"yes\" to confirm: "
    ));
    io::stderr().flush()?;
    Ok(read_yes()?)
}

/// The directory of the encrypted secrets, which is made if it is missing. A link is not followed.
fn secrets_directory(loaded: &Loaded) -> anyhow::Result<PathBuf> {
    let directory = loaded.directory.join(DIRECTORY);
    fs::create_dir_all(&directory)
        .and_then(|()| fs::symlink_metadata(&directory))
        .with_context(|| format!("cannot use the directory {}", directory.display()))
        .and_then(|metadata| {
            ensure!(
                metadata.is_dir(),
                "{} is a link, and is not written to",
                directory.display()
            );
            Ok(directory)
        })
}

fn secret_file(name: &SecretName, secret: &EncryptedSecret) -> FileWrite {
    let text = String::from_utf8_lossy(secret.bytes()).into_owned();
    FileWrite::unconditional(&format!("{name}{ENDING}"), text)
}

fn record_file(record: &RecipientRecord) -> FileWrite {
    FileWrite::unconditional(RECORD_FILE, record.text())
}

/// Finds out whether each file can be written, before the first one is. `new` is the secret that gets a new value.
fn examine(
    directory: &Path,
    files: &[FileWrite],
    new: Option<&SecretName>,
) -> anyhow::Result<Vec<WriteEffect>> {
    let examine = |file: &FileWrite| {
        file.write(directory, true).map_err(|error| {
            let name = file.name();
            let replaced = new.is_some_and(|new| format!("{new}{ENDING}") == name);
            let why = match error {
                // The text of these files is nothing to edit in another one.
                WriteError::Link if replaced => "is a symbolic link; nothing was written; help: remove the link, then run the \
                     command again"
                    .to_owned(),
                WriteError::Link => "is a symbolic link; nothing was written; help: replace it with a copy of its target, or \
                     remove it if that does not exist, then run the command again"
                    .to_owned(),
                error => format!("{error}; nothing was written"),
            };
            anyhow!("{DIRECTORY}/{name} {why}")
        })
    };
    files.iter().map(examine).collect()
}

/// Writes a file. An error names the files that are `written` already.
fn write(directory: &Path, file: &FileWrite, written: &mut Vec<String>) -> anyhow::Result<()> {
    let name = format!("{DIRECTORY}/{}", file.name());
    file.write(directory, false).map_err(|error| {
        let written = match written.as_slice() {
            [] => "nothing was written".to_owned(),
            names => format!("written before: {}", first_of(names)),
        };
        anyhow!("{name} {error}; {written}")
    })?;
    if !written.contains(&name) {
        written.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_after_others_names_them() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("b.age")).unwrap();
        let file = |name| FileWrite::unconditional(name, String::new());
        let mut written = Vec::new();
        let error = write(directory.path(), &file("b.age"), &mut written).unwrap_err();
        assert!(
            error.to_string().ends_with("; nothing was written"),
            "{error}"
        );
        for _ in 0..2 {
            write(directory.path(), &file("a.age"), &mut written).unwrap();
        }
        let error = write(directory.path(), &file("b.age"), &mut written).unwrap_err();
        let end = "secrets/b.age is not a regular file; written before: secrets/a.age";
        assert_eq!(error.to_string(), end);
    }
}
