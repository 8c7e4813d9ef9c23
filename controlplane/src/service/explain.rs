//! Gathers what [`crate::explain`] needs to know. No call to another part, and nothing is changed.

use std::sync::Arc;

use reveille_api::{ActorKey, proto};
use tonic::Status;

use super::{
    verbs::{not_found, store},
    view,
};
use crate::{
    clock::unix_ms,
    explain::{self, Facts, Room},
    fleet::Fleet,
    lifecycle::Source,
    placement::Request,
};

pub(crate) async fn explain(
    fleet: &Arc<Fleet>,
    key: &ActorKey,
) -> Result<proto::Explanation, Status> {
    let doing = fleet.doing(key).await;
    let record = fleet.view(key).map_err(store)?.ok_or_else(|| not_found(key))?;
    let events = fleet.events.history(Some(key)).map_err(store)?;
    let template = fleet.catalog.template(key.namespace(), &record.template);
    let life = &record.life;
    let place = life.place().map(|place| &place.node);
    let node = place.or(life.snapshot.as_ref().map(|snapshot| &snapshot.node));
    let room = |source: &Source| {
        let Some(template) = &template else { return Room::Full("no template".to_owned()) };
        let request = Request::new(key, &template.spec, source);
        match fleet.placement.free_for(&request) {
            Some(place) => Room::Free(place),
            None => Room::Full(fleet.placement.explain(&request)),
        }
    };
    let (routers, settled) = fleet.routers.uses(key);
    let facts = Facts {
        now: fleet.clock.now(),
        unix_ms: unix_ms(),
        template: template.as_ref().map(|template| &template.spec),
        events: &events,
        busy: doing.is_err(),
        doing: doing.ok().flatten().unwrap_or_default(),
        draining: fleet.is_draining(),
        no_wake: fleet.budget.refuses(key.namespace()),
        used: fleet.routers.usage(key),
        routers,
        settled,
        node: node.and_then(|node| fleet.nodes.standing(node)),
        node_freezes: place.is_some_and(|node| fleet.placement.freezes(node)),
        upload: life
            .snapshot
            .as_ref()
            .and_then(|snapshot| fleet.nodes.upload(&snapshot.node, key, &snapshot.id)),
        room: &room,
        pace: &|kind| fleet.pace.of(key.namespace(), &record.template, kind),
    };
    let explanation = explain::explain(&record, &facts);
    Ok(proto::Explanation { actor: Some(view::actor(fleet, &record)), ..explanation })
}
