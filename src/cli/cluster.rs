//! The flags of `run` for Kubernetes.

use std::num::NonZeroU8;
use std::time::Duration;

use clap::Args;

use super::UsageError;
use super::options::{duration, up_to_64};
use crate::ops::kubernetes::{Options, Replica, Times};

#[derive(Args)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct ClusterArgs {
    /// Elect a leader among several replicas, by a Kubernetes Lease. Only the leader writes; the standbys compare and are
    /// ready to take over
    #[arg(long, env = "CALRY_LEADER_ELECTION")]
    leader_election: bool,
    /// Name of the Lease, in the namespace POD_NAMESPACE (by default, that of the service account); with --shards, the prefix
    /// of the names
    #[arg(long, env = "CALRY_LEASE_NAME", default_value = "calry-gitops", value_parser = lease_name, value_name = "NAME")]
    lease_name: String,
    /// How long the standbys wait for a leader that does not renew its Lease
    #[arg(long, env = "CALRY_LEASE_DURATION", default_value = "15s", value_parser = duration, value_name = "TIME")]
    lease_duration: Duration,
    /// How long a leader that cannot renew its Lease may begin updates; a running update may take until the end of
    /// --lease-duration
    #[arg(long, env = "CALRY_LEASE_RENEW_DEADLINE", default_value = "10s", value_parser = duration, value_name = "TIME")]
    lease_renew_deadline: Duration,
    /// How often the leader renews its Lease and the standbys read it
    #[arg(long, env = "CALRY_LEASE_RETRY_PERIOD", default_value = "2s", value_parser = duration, value_name = "TIME")]
    lease_retry_period: Duration,
    /// Distribute the workspaces over N Leases by name, and the Leases over the replicas; every replica needs the same N
    #[arg(long, env = "CALRY_SHARDS", default_value = "1", value_parser = up_to_64, value_name = "N")]
    shards: NonZeroU8,
    /// Report changes, drift and failures as Events of the Pod that POD_NAME, POD_NAMESPACE and POD_UID identify
    #[arg(long, env = "CALRY_KUBERNETES_EVENTS")]
    kubernetes_events: bool,
}

fn lease_name(text: &str) -> Result<String, String> {
    // A DNS subdomain of RFC 1123; three characters are left for the number of a shard.
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = text.len() <= 250
        && text.starts_with(is_alphanumeric)
        && text.ends_with(is_alphanumeric)
        && text
            .chars()
            .all(|c| is_alphanumeric(c) || matches!(c, '-' | '.'));
    good.then(|| text.to_owned()).ok_or_else(|| {
        "must consist of lower-case letters, digits, - and ., begin and end with a letter or digit, and have at most 250 \
         characters"
            .to_owned()
    })
}

impl ClusterArgs {
    /// Refuses flags that contradict each other.
    fn check(&self, once: bool) -> Result<(), UsageError> {
        let wrong = |why: &str| Err(UsageError(why.to_owned()));
        if once && self.leader_election {
            return wrong(
                "--once does not wait to become the leader: use it without --leader-election",
            );
        }
        if self.shards.get() > 1 && !self.leader_election {
            return wrong("--shards needs --leader-election");
        }
        if self.leader_election {
            if self.lease_renew_deadline + Duration::from_secs(1) > self.lease_duration {
                return wrong(
                    "--lease-duration must be at least 1s longer than --lease-renew-deadline: this is the time for a last \
                     update",
                );
            }
            if self.lease_retry_period < Duration::from_millis(100)
                || self.lease_retry_period * 2 > self.lease_renew_deadline
            {
                return wrong(
                    "--lease-retry-period must be at least 100ms, and at most half of --lease-renew-deadline",
                );
            }
        }
        Ok(())
    }

    /// The names of the Leases; none without an election.
    fn leases(&self) -> Vec<String> {
        match (self.leader_election, self.shards.get()) {
            (false, _) => Vec::new(),
            (true, 1) => vec![self.lease_name.clone()],
            (true, shards) => (0..shards)
                .map(|shard| format!("{}-{shard}", self.lease_name))
                .collect(),
        }
    }

    /// Connects to the cluster, if a flag needs it.
    pub(super) async fn set_up(&self, once: bool) -> anyhow::Result<Replica> {
        self.check(once)?;
        let times = Times {
            duration: self.lease_duration,
            renew_deadline: self.lease_renew_deadline,
            retry_period: self.lease_retry_period,
        };
        let options = Options {
            leases: self.leases(),
            times,
            events: self.kubernetes_events,
        };
        Ok(Replica::set_up(options).await?)
    }
}
