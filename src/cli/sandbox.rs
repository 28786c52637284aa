//! `sandbox`: runs a local Calry.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::options::{Method, duration};
use super::{Exit, Output, signals};
use crate::sandbox::{
    AcrossGroups, Chance, Config, Mask, PartialPartnerKey, PutAbsent, Rate, Sandbox, Seed,
    Semantics, SpecifiedFields,
};

#[derive(Args)]
pub(super) struct SandboxArgs {
    /// Address to listen on; port 0 takes a free port
    #[arg(long, default_value = "127.0.0.1:4010", value_name = "ADDR")]
    listen: SocketAddr,
    /// JSON file {"workspace": {…}, "definitions": […]} with the initial state
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// Delay of each answer
    #[arg(long, value_parser = duration, value_name = "TIME")]
    latency: Option<Duration>,
    /// Highest rate of requests; those above it get 429
    #[arg(long, value_name = "10/s")]
    rate_limit: Option<Rate>,
    /// Share of requests that fail, from 0 to 1
    #[arg(long, default_value = "0", value_name = "SHARE")]
    fail: Chance,
    /// Number of workspaces; the slug and the keys of the second are those of the first followed by -1, and so on
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    workspaces: u16,
    /// Allow an address that other machines can reach
    #[arg(long)]
    allow_remote: bool,
    #[command(flatten)]
    semantics: SemanticsArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Behaviour that Calry does not document")]
struct SemanticsArgs {
    /// Which fields of an update are switched on: those that are true, or all that are present
    #[arg(long, default_value = "true", value_name = "true|present")]
    fields: SpecifiedFields,
    /// Whether an update of one group switches the fields of other groups off
    #[arg(long, default_value = "yes", value_name = "yes|no")]
    across_groups: AcrossGroups,
    /// Whether a partial partnerKey is merged or replaces the whole
    #[arg(long, default_value = "replace", value_name = "merge|replace")]
    partner_key: PartialPartnerKey,
    /// Which method updates a definition: only PATCH, or PUT as well
    #[arg(long, value_enum, default_value_t = Method::Patch, value_name = "patch|put")]
    update_method: Method,
    /// Whether PUT clears or keeps what an update leaves out
    #[arg(long, default_value = "clear", value_name = "clear|keep")]
    put: PutAbsent,
    /// Whether answers mask partner keys: never, only for READ keys, or always
    #[arg(long, default_value = "never", value_name = "never|read|always")]
    mask: Mask,
}

pub(super) async fn run(args: &SandboxArgs, output: &Output) -> anyhow::Result<Exit> {
    let stop = signals::stop_token()?;
    let seed = match &args.seed {
        Some(path) => Seed::read(path)?,
        None => Seed::builtin(),
    };
    let semantics = &args.semantics;
    let config = Config {
        listen: args.listen,
        allow_remote: args.allow_remote,
        seed,
        update_method: semantics.update_method.into(),
        semantics: Semantics {
            fields: semantics.fields,
            across_groups: semantics.across_groups,
            partner_key: semantics.partner_key,
            put_absent: semantics.put,
            mask: semantics.mask,
        },
        latency: args.latency.unwrap_or_default(),
        rate_limit: args.rate_limit,
        fail: args.fail,
        random_seed: fastrand::u64(..),
        copies: usize::from(args.workspaces) - 1,
        ..Config::default()
    };
    let sandbox = Sandbox::start(config)
        .await
        .context("cannot start the sandbox")?;
    output.result(&sandbox.banner());
    stop.cancelled().await;
    sandbox.shutdown().await;
    Ok(Exit::Done)
}
