use std::time::Duration;

use envoy_types::pb::envoy::{
    config::cluster::v3::Cluster,
    service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use reveille_api::{net::Address, task};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Server};

use super::*;
use crate::ads::Kind;

const PATIENCE: Duration = Duration::from_secs(10);

struct Served {
    resources: watch::Sender<Arc<Resources>>,
    fleet: Fleet,
    stop: CancellationToken,
    at: Address,
    _server: JoinSet<()>,
    _dir: TempDir,
}

fn resources(names: &[&str]) -> Arc<Resources> {
    let cluster = |&name: &&str| Cluster { name: name.into(), ..Default::default() };
    Arc::new(Resources { clusters: names.iter().map(cluster).collect(), ..Default::default() })
}

async fn serve() -> Served {
    let dir = TempDir::new().unwrap();
    let at = Address::Unix(dir.path().join("xds.sock"));
    let (resources, watched) = watch::channel(resources(&["a"]));
    let (fleet, stop) = (Fleet::default(), CancellationToken::new());
    let service = AdsServer::new(watched, fleet.clone()).until(stop.clone()).into_service();
    let incoming = at.listen().await.unwrap().incoming();
    let mut server = JoinSet::new();
    task::spawn(&mut server, "ads", async {
        Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
    Served { resources, fleet, stop, at, _server: server, _dir: dir }
}

struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Served {
    async fn connect(&self, first: DeltaDiscoveryRequest) -> Stream {
        let mut client = AggregatedDiscoveryServiceClient::new(self.at.channel());
        let (requests, received) = mpsc::channel(4);
        requests.send(first).await.unwrap();
        let responses = client.delta_aggregated_resources(ReceiverStream::new(received)).await;
        Stream { requests, responses: responses.unwrap().into_inner() }
    }
}

impl Stream {
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        timeout(PATIENCE, self.responses.message()).await.expect("something comes")
    }
}

fn first() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: "one".into(), ..Default::default() }),
        type_url: Kind::Cluster.type_url(),
        ..Default::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

#[tokio::test]
async fn a_stream_is_sent_what_is_and_then_what_changes_and_is_in_the_view_meanwhile() {
    let served = serve().await;
    let mut stream = served.connect(first()).await;
    let sent = stream.next().await.unwrap().unwrap();
    assert_eq!(names(&sent), ["a"]);
    let ack = DeltaDiscoveryRequest { response_nonce: sent.nonce, node: None, ..first() };
    stream.requests.send(ack).await.unwrap();
    let mut view = served.fleet.subscribe();
    let acked = view.wait_for(|view| {
        view.envoys.values().any(|envoy| envoy.node_id == "one" && envoy.acked.len() == 1)
    });
    timeout(PATIENCE, acked).await.unwrap().unwrap();
    served.resources.send_replace(resources(&["a", "b"]));
    assert_eq!(names(&stream.next().await.unwrap().unwrap()), ["b"]);
    drop(stream);
    timeout(PATIENCE, view.wait_for(|view| view.envoys.is_empty())).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_streams_see_the_same_versions() {
    let served = serve().await;
    served.resources.send_replace(resources(&["b"]));
    let (mut one, mut two) = tokio::join!(served.connect(first()), served.connect(first()));
    let (one, two) = (one.next().await.unwrap().unwrap(), two.next().await.unwrap().unwrap());
    assert_eq!(one.system_version_info, two.system_version_info);
    assert_eq!(one.resources[0].version, two.resources[0].version);
}

#[tokio::test]
async fn streams_end_when_the_server_is_to_stop_or_its_resources_have_no_owner() {
    let served = serve().await;
    let mut stream = served.connect(first()).await;
    stream.next().await.unwrap();
    served.stop.cancel();
    assert_eq!(stream.next().await.unwrap(), None);

    let mut served = serve().await;
    let mut stream = served.connect(first()).await;
    stream.next().await.unwrap();
    served.resources = watch::channel(Arc::default()).0;
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_that_names_too_much_is_ended_with_the_reason() {
    let served = serve().await;
    let names = (0..5000).map(|n| n.to_string()).collect();
    let request = DeltaDiscoveryRequest { resource_names_subscribe: names, ..first() };
    let refused = served.connect(request).await.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}
