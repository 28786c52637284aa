//! What `run` makes of the cluster that it runs in: its flags, and one candidate for each Lease.

use std::num::NonZeroU8;
use std::time::Duration;

use super::UsageError;
use super::options::duration;
use crate::daemon::{Handle, Leadership};
use clap::Args;

/// The most Leases: each is asked for by every replica.
const MOST_SHARDS: u8 = 64;

/// What the cluster is asked for.
#[derive(Args)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct ClusterArgs {
    /// Of several replicas, let one write: the one that holds a Lease of the cluster. The others only look, and are ready
    #[arg(long, env = "CALRY_LEADER_ELECTION", hide_env_values = true)]
    leader_election: bool,
    /// The Lease, in the namespace POD_NAMESPACE, else that of the service account; with --shards, the first part of its name
    #[arg(long, env = "CALRY_LEASE_NAME", hide_env_values = true, default_value = "calry-gitops", value_parser = lease_name, value_name = "NAME")]
    lease_name: String,
    /// How long the others wait for a leader that is silent
    #[arg(long, env = "CALRY_LEASE_DURATION", hide_env_values = true, default_value = "15s", value_parser = duration, value_name = "TIME")]
    lease_duration: Duration,
    /// How long a leader goes on that cannot renew its Lease; an update that begins then has the rest of the duration
    #[arg(long, env = "CALRY_LEASE_RENEW_DEADLINE", hide_env_values = true, default_value = "10s", value_parser = duration, value_name = "TIME")]
    lease_renew_deadline: Duration,
    /// How often the leader renews its Lease, and the others look at it
    #[arg(long, env = "CALRY_LEASE_RETRY_PERIOD", hide_env_values = true, default_value = "2s", value_parser = duration, value_name = "TIME")]
    lease_retry_period: Duration,
    /// Spread the workspaces by their names over N Leases, and these over the replicas; every replica must say the same
    #[arg(long, env = "CALRY_SHARDS", hide_env_values = true, default_value = "1", value_parser = shards, value_name = "N")]
    shards: NonZeroU8,
    /// Tell of changes, drift and failures by Events on the Pod, which POD_NAME, POD_NAMESPACE and POD_UID name
    #[arg(long, env = "CALRY_KUBERNETES_EVENTS", hide_env_values = true)]
    kubernetes_events: bool,
}

fn shards(text: &str) -> Result<NonZeroU8, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number: &NonZeroU8| number.get() <= MOST_SHARDS);
    number.ok_or_else(|| format!("a number from 1 to {MOST_SHARDS} is needed"))
}

fn lease_name(text: &str) -> Result<String, String> {
    // RFC 1123, as Kubernetes asks of most names; three more characters are for a shard.
    let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = text.len() <= 250
        && text.starts_with(of_name)
        && text.ends_with(of_name)
        && text.chars().all(|c| of_name(c) || matches!(c, '-' | '.'));
    good.then(|| text.to_owned()).ok_or_else(|| {
        "a name of Kubernetes is made of small letters, digits, - and ., and begins and ends with a letter or digit"
            .to_owned()
    })
}

impl ClusterArgs {
    /// What makes no sense together.
    fn check(&self, once: bool) -> Result<(), UsageError> {
        let Self {
            lease_duration,
            lease_renew_deadline,
            lease_retry_period,
            shards,
            ..
        } = self;
        let wrong = |why: &str| Err(UsageError(why.to_owned()));
        if once && self.leader_election {
            return wrong(
                "--once waits for nobody, and --leader-election does; leave one of them out",
            );
        }
        if shards.get() > 1 && !self.leader_election {
            return wrong("--shards spreads workspaces over replicas, and needs --leader-election");
        }
        if self.leader_election {
            if *lease_renew_deadline + Duration::from_secs(1) > *lease_duration {
                return wrong(
                    "--lease-duration must be longer than --lease-renew-deadline by 1s at least: an update that begins at the \
                     last moment has what lies between",
                );
            }
            if *lease_retry_period < Duration::from_millis(100)
                || *lease_retry_period * 2 > *lease_renew_deadline
            {
                return wrong(
                    "--lease-retry-period must be 100ms at least, and no more than half of --lease-renew-deadline",
                );
            }
        }
        Ok(())
    }
}

#[cfg(feature = "kubernetes")]
mod built_in {
    use sha2::{Digest as _, Sha256};
    use tokio::task::{JoinHandle, JoinSet};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::ops::kubernetes::{Cluster, EventTeller, Events, Lease, Pod, Shards, Times, drain};

    /// Of so many, the shard that a workspace belongs to: always the same, whatever other workspaces there are.
    pub(super) fn shard(workspace: Option<&str>, of: usize) -> usize {
        let digest = Sha256::digest(workspace.unwrap_or_default());
        let number = digest
            .iter()
            .take(8)
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number % u64::try_from(of.max(1)).unwrap_or(1)).unwrap_or_default()
    }

    /// The candidates for the Leases, and who tells of Events.
    #[derive(Default)]
    pub(in crate::cli) struct Clustered {
        leases: Vec<Lease>,
        events: Option<(Events, JoinHandle<()>)>,
    }

    /// The candidates at work.
    pub(in crate::cli) struct Keeping {
        tasks: JoinSet<()>,
        stop: CancellationToken,
        events: Option<JoinHandle<()>>,
    }

    impl ClusterArgs {
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

        /// Finds the cluster, where anything is asked of it.
        pub(in crate::cli) async fn set_up(&self, once: bool) -> anyhow::Result<Clustered> {
            self.check(once)?;
            if !self.leader_election && !self.kubernetes_events {
                return Ok(Clustered::default());
            }
            let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            let pod = Pod {
                name: variable("POD_NAME"),
                namespace: variable("POD_NAMESPACE"),
                uid: variable("POD_UID"),
            };
            let cluster = Cluster::find(pod).await?;
            let times = Times {
                duration: self.lease_duration,
                renew_deadline: self.lease_renew_deadline,
                retry_period: self.lease_retry_period,
            };
            let (me, shards) = (cluster.identity(), Shards::default());
            let lease = |name| Lease::new(&cluster, name, me.clone(), times, shards.clone());
            Ok(Clustered {
                leases: self.leases().into_iter().map(lease).collect(),
                events: self
                    .kubernetes_events
                    .then(|| Events::start(&cluster))
                    .transpose()?,
            })
        }
    }

    impl Clustered {
        /// Whether this replica may write to a workspace.
        pub(in crate::cli) fn leadership(&self, workspace: Option<&str>) -> Leadership {
            let lease = self.leases.get(shard(workspace, self.leases.len()));
            lease
                .map(|lease| lease.leadership().clone())
                .unwrap_or_default()
        }

        pub(in crate::cli) fn teller(&self, workspace: Option<&str>) -> Option<EventTeller> {
            self.events
                .as_ref()
                .map(|(events, _)| events.teller(workspace))
        }

        /// Starts the candidates, each for the loops of its workspaces.
        pub(in crate::cli) fn keep<'a>(
            self,
            loops: impl Iterator<Item = (Option<&'a str>, &'a Handle)>,
        ) -> Keeping {
            let mut of_shard: Vec<Vec<Handle>> = vec![Vec::new(); self.leases.len()];
            for (name, handle) in loops {
                if let Some(shard) = of_shard.get_mut(shard(name, self.leases.len())) {
                    shard.push(handle.clone());
                }
            }
            let (events, task) = self.events.unzip();
            let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
            // Nobody needs the Lease of a shard without workspaces, and it counts as nobody's share.
            for (lease, loops) in self
                .leases
                .into_iter()
                .zip(of_shard)
                .filter(|(_, loops)| !loops.is_empty())
            {
                tasks.spawn(lease.keep(loops, events.clone(), stop.clone()));
            }
            Keeping {
                tasks,
                stop,
                events: task,
            }
        }
    }

    impl Keeping {
        /// Gives the Leases up. The loops must have ended, and whoever tells of Events must be gone.
        pub(in crate::cli) async fn stop(mut self) {
            self.stop.cancel();
            while self.tasks.join_next().await.is_some() {}
            if let Some(events) = self.events {
                drain(events).await;
            }
        }
    }
}

#[cfg(not(feature = "kubernetes"))]
mod built_in {
    use super::*;

    /// Nothing: what asks a cluster for anything is not built in.
    pub(in crate::cli) struct Clustered;

    /// Nobody.
    pub(in crate::cli) struct EventTeller;

    impl EventTeller {
        pub(in crate::cli) fn pass(&self, _: &crate::daemon::PassReport) {}
    }

    impl ClusterArgs {
        pub(in crate::cli) async fn set_up(&self, once: bool) -> anyhow::Result<Clustered> {
            self.check(once)?;
            if self.leader_election || self.kubernetes_events {
                let why = "this calry-gitops was built without Kubernetes; build it with the feature `kubernetes`";
                return Err(UsageError(why.to_owned()).into());
            }
            Ok(Clustered)
        }
    }

    impl Clustered {
        pub(in crate::cli) fn leadership(&self, _: Option<&str>) -> Leadership {
            Leadership::default()
        }

        pub(in crate::cli) fn teller(&self, _: Option<&str>) -> Option<EventTeller> {
            None
        }

        pub(in crate::cli) fn keep<'a>(
            self,
            _: impl Iterator<Item = (Option<&'a str>, &'a Handle)>,
        ) -> Self {
            self
        }

        pub(in crate::cli) async fn stop(self) {}
    }
}

#[cfg(feature = "kubernetes")]
pub(super) use crate::ops::kubernetes::EventTeller;
pub(super) use built_in::Clustered;
#[cfg(not(feature = "kubernetes"))]
pub(super) use built_in::EventTeller;

#[cfg(all(test, feature = "kubernetes"))]
mod tests {
    use super::built_in::shard;

    #[test]
    fn a_workspace_stays_in_its_shard_and_every_shard_gets_some() {
        let names: Vec<String> = (0..1000).map(|n| format!("agency-{n}")).collect();
        let mut counts = [0; 8];
        for name in &names {
            counts[shard(Some(name), 8)] += 1;
        }
        assert!(
            counts.iter().all(|count| (80..=170).contains(count)),
            "{counts:?}"
        );
        // Another process, and another version of calry-gitops, must say the same.
        assert_eq!(
            ["acme", "globex", "initech"].map(|name| shard(Some(name), 3)),
            [0, 1, 1]
        );
        assert_eq!((shard(None, 1), shard(None, 0)), (0, 0));
    }
}
