//! Which wake a request's span links to.

use opentelemetry::{global::BoxedTracer, trace::noop::NoopTracer};
use reveille_api::trace::{self, Traceparent};

use super::{HOST, binding, counter, eventually, reply, rig::Rig};
use crate::router::{Cold, Request};

#[tokio::test]
async fn who_joins_a_wake_that_nobody_records_does_not_link_to_an_earlier_one() {
    // In this whole process, from here on, by somebody who keeps nothing.
    trace::record_by(BoxedTracer::new(Box::new(NoopTracer::new())));
    let (rig, mut fake, session) = Rig::in_session().await;
    let recorded: Traceparent =
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
    let parked = |traceparent| match rig
        .router
        .request(Some(HOST), || Cold { traceparent, ..Cold::default() })
    {
        Request::Parked(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let (mut first, joins) = (parked(Some(recorded)), parked(Some(recorded)));
    assert_eq!(joins.joined(), Some(recorded));
    drop(joins);
    fake.wake().await.reply(reply(binding(&counter(), 1, 0)));
    drop(first.wait().await.expect("a binding"));
    session.revoke(1, 0, 10_000).await;
    eventually(0, || rig.router.table.len()).await;
    let (_first, joins) = (parked(None), parked(Some(recorded)));
    assert_eq!(joins.joined(), None);
}
