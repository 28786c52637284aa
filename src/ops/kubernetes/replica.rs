//! This replica's part in the cluster: a candidate for each Lease, the shard of each workspace, and its Events.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Cluster, ClusterError, EventWriter, Events, Lease, Pod, Shards, Times};
use crate::daemon::{Handle, Leadership};

/// The time limit for the Events that are not written yet at the end.
const DRAIN: Duration = Duration::from_secs(3);

/// The features that need the cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The names of the Leases that decide which replica writes: one for each shard; none if there is only one replica.
    pub leases: Vec<String>,
    pub times: Times,
    pub events: bool,
}

/// The candidates for the Leases, before they start, and the writer of Events.
#[derive(Default)]
pub struct Replica {
    leases: Vec<Lease>,
    events: Option<(Events, JoinHandle<()>)>,
    pod_ip: Option<IpAddr>,
}

/// The candidates at work.
pub struct RunningReplica {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    events: Option<JoinHandle<()>>,
}

impl Replica {
    /// Finds the cluster by the environment, if a feature needs it.
    pub async fn set_up(options: Options) -> Result<Self, ClusterError> {
        if options.leases.is_empty() && !options.events {
            return Ok(Self::default());
        }
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let pod = Pod {
            name: variable("POD_NAME"),
            namespace: variable("POD_NAMESPACE"),
            uid: variable("POD_UID"),
            ip: variable("POD_IP").and_then(|text| text.parse().ok()),
        };
        let pod_ip = pod.ip;
        let cluster = Cluster::find(pod).await?;
        let (identity, shards) = (cluster.identity(), Shards::default());
        let lease = |name| {
            Lease::new(
                &cluster,
                name,
                identity.clone(),
                options.times,
                shards.clone(),
            )
        };
        let events = options.events.then(|| Events::start(&cluster));
        Ok(Self {
            leases: options.leases.into_iter().map(lease).collect(),
            events: events.transpose()?,
            pod_ip,
        })
    }

    /// Whether this replica may write to a workspace.
    pub fn leadership(&self, workspace: Option<&str>) -> Leadership {
        let lease = self.leases.get(shard(workspace, self.leases.len()));
        lease
            .map(|lease| lease.leadership().clone())
            .unwrap_or_default()
    }

    /// What writes the Events of a workspace, if any are written.
    pub fn events(&self, workspace: Option<&str>) -> Option<EventWriter> {
        self.events
            .as_ref()
            .map(|(events, _)| events.writer(workspace))
    }

    /// Starts the candidates, each for the loops of its workspaces. `listening` is the address of this replica's HTTP server.
    pub fn start<'a>(
        self,
        loops: impl Iterator<Item = (Option<&'a str>, &'a Handle)>,
        listening: Option<SocketAddr>,
    ) -> RunningReplica {
        let address = listening.and_then(|at| address_for_replicas(self.pod_ip?, at));
        let mut of_shard: Vec<Vec<Handle>> = vec![Vec::new(); self.leases.len()];
        for (name, handle) in loops {
            if let Some(shard) = of_shard.get_mut(shard(name, self.leases.len())) {
                shard.push(handle.clone());
            }
        }
        let (events, task) = self.events.unzip();
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        // The Lease of a shard without workspaces is not taken, and does not count when Leases are spread.
        let of_lease = self.leases.into_iter().zip(of_shard);
        for (lease, loops) in of_lease.filter(|(_, loops)| !loops.is_empty()) {
            let lease = lease.with_address(address);
            tasks.spawn(lease.keep(loops, events.clone(), stop.clone()));
        }
        RunningReplica {
            tasks,
            stop,
            events: task,
        }
    }
}

impl RunningReplica {
    /// Releases the Leases. The loops must have ended, and every writer of Events must be dropped.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Some(events) = self.events {
            let _ = tokio::time::timeout(DRAIN, events).await;
        }
    }
}

/// Where other replicas reach an HTTP server of the Pod; `None` if it does not listen there.
fn address_for_replicas(pod: IpAddr, listening: SocketAddr) -> Option<SocketAddr> {
    let listens = match listening.ip() {
        // `[::]` includes IPv4.
        IpAddr::V6(own) => own.is_unspecified() || pod == own,
        IpAddr::V4(own) => own.is_unspecified() && pod.is_ipv4() || pod == own,
    };
    listens.then(|| SocketAddr::new(pod, listening.port()))
}

/// The shard of a workspace: the same in every process, whatever other workspaces there are.
fn shard(workspace: Option<&str>, shards: usize) -> usize {
    let digest: [u8; 32] = Sha256::digest(workspace.unwrap_or_default()).into();
    let number = digest
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first));
    usize::try_from(number % u64::try_from(shards.max(1)).unwrap_or(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{address_for_replicas, shard};

    #[test]
    fn replicas_reach_a_server_that_listens_on_the_address_of_its_pod() {
        let reached = |pod: &str, listening: &str| {
            let address = address_for_replicas(pod.parse().unwrap(), listening.parse().unwrap());
            address.map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(reached("10.1.2.3", "[::]:80"), some("10.1.2.3:80"));
        assert_eq!(reached("10.1.2.3", "0.0.0.0:80"), some("10.1.2.3:80"));
        assert_eq!(reached("10.1.2.3", "10.1.2.3:80"), some("10.1.2.3:80"));
        assert_eq!(reached("fd00::1", "[::]:80"), some("[fd00::1]:80"));
        assert_eq!(reached("fd00::1", "0.0.0.0:80"), None);
        assert_eq!(reached("10.1.2.3", "127.0.0.1:80"), None);
    }

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
