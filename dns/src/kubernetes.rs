//! All that is said to a Kubernetes API server.
//!
//! | verb | object | why |
//! | --- | --- | --- |
//! | list, watch | one Service | addresses of the front |
//! | get, list, watch | one Service | addresses of this server |
//! | get, list, watch, update | ConfigMaps `coredns`, `node-local-dns`, `kube-dns` of `kube-system` | [`crate::cluster`] |
//!
//! Each by its name: a role needs no more (`dns.yaml` and `dns-install.yaml` of `deploy/kubernetes`).

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use reveille_api::key::is_label;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{self, Change, Document, Servers, Target, Wanted},
    fronts::Fronts,
};

/// Where a cluster's DNS is.
const NAMESPACE: &str = "kube-system";
/// Who we are, to whom the API server asks.
const OURSELVES: &str = "reveille-dns";
/// Longest wait for one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(15);
/// Times that a change is tried while others change the same.
const TRIES: usize = 5;
/// Looks again after so long without a word.
const LOOK: Duration = Duration::from_secs(60);
/// Least time between two tries that fail.
const RETRY: Duration = Duration::from_secs(2);
/// Least time between two writes.
const REST: Duration = Duration::from_secs(5);
/// Of one watch, in seconds: a connection that is lost without a word is noticed soon after.
const WATCH: u32 = 30;
/// Name of a server's port for DNS, where it has several.
const DNS: &str = "dns";
/// Type of a Service that is not to be reached at its cluster IPs.
const LOAD_BALANCER: &str = "LoadBalancer";

/// A Service, by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    namespace: String,
    name: String,
}

/// No Service can be called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Service: write NAMESPACE/NAME")]
pub struct InvalidServiceName(String);

impl FromStr for ServiceName {
    type Err = InvalidServiceName;

    fn from_str(s: &str) -> Result<Self, InvalidServiceName> {
        match s.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_label(name) => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(InvalidServiceName(s.into())),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What went wrong with the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Which one it is, nobody said.
    #[error("no Kubernetes cluster is known here: set KUBECONFIG, or run this in a pod")]
    Unknown(#[source] Box<kube::Error>),
    /// It refused, or could not be reached.
    #[error("the Kubernetes API server, about {what}")]
    Call {
        /// What was asked.
        what: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// It does not answer.
    #[error("the Kubernetes API server does not answer")]
    Late,
    /// It has no address.
    #[error("the Service {0} has no address")]
    NoAddress(ServiceName),
}

/// A Kubernetes cluster.
#[derive(Clone)]
pub struct Cluster(Client);

impl Cluster {
    /// The one that the environment names: `KUBECONFIG`, its default file, or the pod that this is.
    pub async fn find() -> Result<Self, Error> {
        let client = Client::try_default().await;
        client.map(Self).map_err(|error| Error::Unknown(Box::new(error)))
    }

    fn services(&self, service: &ServiceName) -> Api<Service> {
        Api::namespaced(self.0.clone(), &service.namespace)
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.0.clone(), NAMESPACE)
    }

    /// Brings every address of a Service, for ever.
    pub(crate) async fn follow(&self, service: &ServiceName, fronts: &Fronts) -> Infallible {
        let mut seen = std::pin::pin!(watch(self.services(service), &service.name));
        let mut there = false;
        loop {
            let told = match seen.next().await {
                Some(Ok(Event::Init)) => {
                    there = false;
                    continue;
                }
                Some(Ok(Event::InitApply(found) | Event::Apply(found))) => {
                    there = true;
                    addresses(&found).map_err(str::to_owned)
                }
                Some(Ok(Event::InitDone)) if there => continue,
                Some(Ok(Event::InitDone | Event::Delete(_))) => Err("there is none".to_owned()),
                Some(Err(error)) => Err(error.to_string()),
                // A watch goes on for ever.
                None => std::future::pending().await,
            };
            match told {
                Ok(addresses) => fronts.set(&addresses),
                Err(why) => fronts.unknown(&format!("Service {service}: {why}")),
            }
        }
    }

    /// Makes a cluster's DNS as wanted, or tells only what would be done. A target that fails keeps no other from it.
    pub async fn change(
        &self,
        wanted: &Wanted,
        dry: bool,
    ) -> Result<Vec<Result<Change, cluster::Error>>, cluster::Error> {
        let servers = match &wanted.servers {
            Some(servers) => Some(self.servers(servers).await?),
            None => None,
        };
        let explicit = !wanted.targets.is_empty();
        let targets = if explicit { wanted.targets.as_slice() } else { &Target::ALL };
        let mut changes = Vec::new();
        for &target in targets {
            match self.change_one(target, wanted, servers.as_deref(), dry).await {
                Ok(None) if explicit && servers.is_some() => {
                    changes.push(Err(cluster::Error::Missing { target, key: target.key() }));
                }
                done => changes.extend(done.transpose()),
            }
        }
        match changes.is_empty() && servers.is_some() {
            true => Err(cluster::Error::Nothing),
            false => Ok(changes),
        }
    }

    /// Nothing when there is no such ConfigMap.
    async fn change_one(
        &self,
        target: Target,
        wanted: &Wanted,
        servers: Option<&[SocketAddr]>,
        dry: bool,
    ) -> Result<Option<Change>, cluster::Error> {
        let maps = self.config_maps();
        let what = format!("ConfigMap {NAMESPACE}/{target}");
        for _ in 0..TRIES {
            let Some(mut found) = call(&what, maps.get_opt(target.name())).await? else {
                return Ok(None);
            };
            let before = Document {
                data: found.data.take().unwrap_or_default(),
                annotations: found.metadata.annotations.take().unwrap_or_default(),
            };
            let after = cluster::edit(target, &before, &wanted.zone, servers)?;
            let change = cluster::change(target, &before, &after);
            if dry || before == after {
                return Ok(Some(change));
            }
            found.data = Some(after.data);
            found.metadata.annotations = Some(after.annotations);
            // Of exactly the version that was read: it is named in the object.
            let parameters =
                PostParams { field_manager: Some(OURSELVES.into()), ..PostParams::default() };
            match call(&what, maps.replace(target.name(), &parameters, &found)).await {
                Ok(_) => return Ok(Some(change)),
                Err(Error::Call { source, .. }) if is_conflict(&source) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(cluster::Error::Busy(target))
    }

    async fn servers(&self, servers: &Servers) -> Result<Vec<SocketAddr>, cluster::Error> {
        let servers = match servers {
            Servers::Given(servers) => servers.clone(),
            Servers::Service(name) => {
                let what = format!("Service {name}");
                let found = call(&what, self.services(name).get(&name.name)).await?;
                let port = dns_port(&found);
                let ips = cluster_ips(&found).into_iter();
                let servers: Vec<_> = ips.map(|ip| SocketAddr::new(ip, port)).collect();
                if servers.is_empty() {
                    return Err(Error::NoAddress(name.clone()).into());
                }
                servers
            }
        };
        cluster::check_servers(&servers)?;
        Ok(servers)
    }

    /// Keeps a cluster's DNS as wanted, for ever: after each change of it by others, and of the Service.
    pub async fn keep(&self, wanted: &Wanted) -> Infallible {
        let mut touched = self.touched(wanted).boxed();
        let (mut pace, mut retry) = (Pace::default(), RETRY);
        loop {
            let changes = self.change(wanted, false).await;
            let (mut wrote, mut failed) = (false, false);
            for change in changes.unwrap_or_else(|error| vec![Err(error)]) {
                match change {
                    Ok(change) if change.changed => {
                        wrote = true;
                        tracing::info!(target = %change.target, "the cluster's DNS was made to ask us");
                    }
                    Ok(_) => {}
                    Err(error) => {
                        failed = true;
                        let why = std::error::Error::source(&error).map(ToString::to_string);
                        let why = why.unwrap_or_default();
                        tracing::warn!(%error, why, "the cluster's DNS is not as it should be");
                    }
                }
            }
            if wrote {
                sleep(pace.wrote(Instant::now())).await;
            }
            let mut look = LOOK;
            if failed {
                sleep(RETRY).await;
                look = retry;
                retry = LOOK.min(2 * retry);
            } else {
                retry = RETRY;
            }
            let _ = timeout(look, touched.next()).await;
        }
    }

    /// Something that matters changed, or a watch failed and began anew.
    fn touched(&self, wanted: &Wanted) -> impl Stream<Item = ()> + Send + use<> {
        let targets = if wanted.targets.is_empty() { &Target::ALL[..] } else { &wanted.targets };
        let mut all: Vec<_> = targets
            .iter()
            .map(|target| {
                watch(self.config_maps(), target.name()).touched_objects().map(drop).boxed()
            })
            .collect();
        if let Some(Servers::Service(name)) = &wanted.servers {
            all.push(watch(self.services(name), &name.name).touched_objects().map(drop).boxed());
        }
        stream::select_all(all)
    }
}

/// Leaves to others what they undo: between two writes is more and more time while that goes on.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    rest: Duration,
}

impl Pace {
    /// How long to write nothing after a write.
    fn wrote(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now - last < 2 * self.rest) {
            self.rest = LOOK.min(2 * self.rest);
            let rest = self.rest.as_secs();
            tracing::warn!(
                rest,
                "the cluster's DNS had to be changed again at once: does somebody undo it?"
            );
        } else {
            self.rest = REST;
        }
        self.last = Some(now);
        self.rest
    }
}

/// What becomes of one object. Errors are told and tried again, later and later.
fn watch<K>(
    api: Api<K>,
    name: &str,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + use<K>
where
    K: kube::Resource + Clone + fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let only = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH);
    watcher(api, only).default_backoff()
}

async fn call<T>(
    what: &str,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Call { what: what.into(), source: Box::new(source) }),
        Err(_) => Err(Error::Late),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Where clients reach a Service: at its load balancer if it has that type, otherwise in the cluster.
fn addresses(service: &Service) -> Result<Vec<IpAddr>, &'static str> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let outside: Vec<IpAddr> =
        ingress.iter().filter_map(|i| i.ip.as_deref()?.parse().ok()).collect();
    if !outside.is_empty() {
        return Ok(outside);
    }
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    if kind == Some(LOAD_BALANCER) {
        return Err(match ingress.is_empty() {
            true => "its load balancer has no address yet",
            false => {
                "its load balancer has a host name and no address: use --front or --front-file"
            }
        });
    }
    match cluster_ips(service) {
        inside if inside.is_empty() => Err("it has neither a load balancer's nor a cluster IP"),
        inside => Ok(inside),
    }
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten();
    let all =
        if spec.cluster_ips.is_some() { all.collect() } else { Vec::from_iter(&spec.cluster_ip) };
    // `None` where there is none.
    all.into_iter().filter_map(|ip| ip.parse().ok()).collect()
}

/// The port called `dns`, otherwise the first one for UDP, otherwise 53.
fn dns_port(service: &Service) -> u16 {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let udp = || ports.iter().find(|port| port.protocol.as_deref() == Some("UDP"));
    let named = ports.iter().find(|port| port.name.as_deref() == Some(DNS));
    named.or_else(udp).and_then(|port| u16::try_from(port.port).ok()).unwrap_or(53)
}

#[cfg(test)]
mod tests;
