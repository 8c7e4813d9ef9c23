//! What the control plane is asked about actors, and that nobody waits for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use reveille_api::proto::{
    LookReply, LookRequest,
    names_server::{Names, NamesServer},
};
use reveille_dns::{Config, ControlPlane, Source};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, Server},
};

use crate::rig::*;

/// A control plane that knows one actor, and counts what it is asked.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<HashMap<String, Vec<bool>>>>);

impl Fake {
    fn asked(&self, actor: &str) -> Vec<bool> {
        self.0.lock().unwrap().get(actor).cloned().unwrap_or_default()
    }
}

#[tonic::async_trait]
impl Names for Fake {
    async fn look(&self, request: Request<LookRequest>) -> Result<Response<LookReply>, Status> {
        let LookRequest { actor, wake } = request.into_inner();
        let actor = actor.unwrap();
        let key = format!("{}/{}", actor.namespace, actor.name);
        let exists = key == "demo/counter";
        self.0.lock().unwrap().entry(key).or_default().push(wake);
        Ok(Response::new(LookReply { exists }))
    }
}

struct Rig {
    dns: Running,
    fake: Fake,
    _tasks: JoinSet<()>,
}

async fn rig(existing: bool, wake: bool) -> Rig {
    let fake = Fake::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", listener.local_addr().unwrap()));
    let channel = channel.unwrap().connect_lazy();
    let server = Server::builder().add_service(NamesServer::new(fake.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
    });
    let control_plane = Some(ControlPlane { channel, existing, wake });
    let dns = run(Config { control_plane, ..config(Source::Given(loopback())) }).await;
    Rig { dns, fake, _tasks: tasks }
}

impl Rig {
    async fn code(&self, name: &str) -> ResponseCode {
        udp(self.dns.addr(), question(name, RecordType::A)).await.metadata.response_code
    }
}

#[tokio::test]
async fn an_actor_that_does_not_exist_is_nxdomain_once_that_is_known() {
    let rig = rig(true, false).await;
    let (there, not_there) = (ACTOR, "other.demo.actors.localhost.");
    // Nobody waits until it is known.
    assert_eq!(rig.code(not_there).await, ResponseCode::NoError);
    eventually(async || match rig.code(not_there).await {
        ResponseCode::NXDomain => Ok(()),
        code => Err(code.to_string()),
    })
    .await;
    for _ in 0..20 {
        assert_eq!(rig.code(there).await, ResponseCode::NoError);
    }
    // Asked for often, asked about once; and nothing is woken.
    eventually(async || match rig.fake.asked("demo/counter").len() {
        0 => Err("not asked".into()),
        _ => Ok(()),
    })
    .await;
    assert!(rig.fake.asked("demo/counter").len() <= 2);
    assert!(!rig.fake.asked("demo/other").contains(&true));
    assert_eq!(rig.code("demo.actors.localhost.").await, ResponseCode::NoError);
    assert!(rig.dns.metric("reveille_dns_looks_total{outcome=\"answered\"}").await >= 2);
}

#[tokio::test]
async fn a_hint_wakes_who_is_asked_for_and_nobody_else() {
    let rig = rig(false, true).await;
    // Not before a request, not an actor, not ours.
    for (name, kind) in [
        (ACTOR, RecordType::TXT),
        ("demo.actors.localhost.", RecordType::A),
        ("a_b.demo.actors.localhost.", RecordType::A),
        ("counter.demo.example.", RecordType::A),
    ] {
        udp(rig.dns.addr(), question(name, kind)).await;
    }
    for _ in 0..10 {
        assert_eq!(rig.code(ACTOR).await, ResponseCode::NoError);
    }
    eventually(async || match rig.fake.asked("demo/counter").as_slice() {
        [true, ..] => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(rig.fake.0.lock().unwrap().len(), 1);
    // Without the other option everything is there.
    rig.code("other.demo.actors.localhost.").await;
    eventually(async || match rig.fake.asked("demo/other").is_empty() {
        true => Err("not asked".into()),
        false => Ok(()),
    })
    .await;
    assert_eq!(rig.code("other.demo.actors.localhost.").await, ResponseCode::NoError);
}

#[tokio::test]
async fn without_a_control_plane_every_actor_is_there() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let channel = Endpoint::from_shared(format!("http://{closed}")).unwrap().connect_lazy();
    let control_plane = Some(ControlPlane { channel, existing: true, wake: true });
    let dns = run(Config { control_plane, ..config(Source::Given(loopback())) }).await;
    let ask = async || {
        let reply = udp(dns.addr(), question("other.demo.actors.localhost.", RecordType::A)).await;
        reply.metadata.response_code
    };
    assert_eq!(ask().await, ResponseCode::NoError);
    eventually(async || match dns.metric("reveille_dns_looks_total{outcome=\"failed\"}").await {
        0 => Err("it has not failed yet".into()),
        _ => Ok(()),
    })
    .await;
    assert_eq!(ask().await, ResponseCode::NoError);
}
