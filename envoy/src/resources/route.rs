//! Routes: one virtual host for every host there is. Which actor it is for, the router knows.
//!
//! | route | taken by |
//! | --- | --- |
//! | to HTTP/1.1 actors | every request at first; those that go on warm |
//! | to h2c actors | those whose actor the router said speaks it |
//! | the same two, telling of the wake | those that the router said were parked |
//!
//! All but the first are taken only when the router has had the route chosen again, so a warm request pays for nothing that
//! is told of a wake.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
            route_action::{self, ClusterSpecifier},
            route_match::PathSpecifier,
        },
    },
    r#type::matcher::v3::{
        MetadataMatcher, ValueMatcher,
        metadata_matcher::{PathSegment, path_segment},
        value_matcher::MatchPattern,
    },
};

use super::{again, ext_proc::exact, names};
use crate::proto::{boolean, duration};

/// Whether a request comes for the first time, or by [`names::AGAIN`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    First,
    Again,
}

/// Of Envoy's own part of a wake, behind the phases that the router knows: from the router's word until there was a connection
/// to the actor, and from then to the first byte. Envoy has the first in milliseconds only; the others are whole microseconds,
/// written as milliseconds by an exponent. All of it is told by one clock, from the head of the request on.
const ENVOYS_PHASES: &str = "connect;dur=%UPSTREAM_CONNECTION_POOL_READY_DURATION%, \
     first_byte;dur=%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%e-3, \
     total;dur=%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%e-3";

pub(super) fn config(a_try: Try) -> RouteConfiguration {
    let h2c = || said(names::PROTOCOL, MatchPattern::StringMatch(exact(names::H2C)));
    let woken = || said(names::WAKE, MatchPattern::PresentMatch(true));
    RouteConfiguration {
        name: names::LISTENER.into(),
        virtual_hosts: vec![VirtualHost {
            name: "actors".into(),
            domains: vec!["*".into()],
            routes: vec![
                telling_of_the_wake(to(names::ACTORS_H2C, vec![h2c(), woken()], a_try)),
                to(names::ACTORS_H2C, vec![h2c()], a_try),
                telling_of_the_wake(to(names::ACTORS_HTTP1, vec![woken()], a_try)),
                to(names::ACTORS_HTTP1, Vec::new(), a_try),
            ],
            // In one place with the additions: Envoy removes before it adds.
            response_headers_to_remove: vec![
                names::REASON_HEADER.into(),
                names::WAKE_HEADER.into(),
            ],
            response_headers_to_add: vec![
                header(names::REASON_HEADER, names::metadata(names::REASON)),
                header(names::WAKE_HEADER, names::metadata(names::WAKE)),
            ],
            ..Default::default()
        }],
        validate_clusters: boolean(false),
        ..Default::default()
    }
}

/// What the router said of the request, once it has.
pub(super) fn said(key: &str, what: MatchPattern) -> MetadataMatcher {
    MetadataMatcher {
        filter: names::METADATA.into(),
        path: vec![PathSegment { segment: Some(path_segment::Segment::Key(key.into())) }],
        value: Some(ValueMatcher { match_pattern: Some(what) }),
        invert: false,
    }
}

fn telling_of_the_wake(mut route: Route) -> Route {
    let phases = format!("{}, {ENVOYS_PHASES}", names::metadata(names::SERVER_TIMING));
    route.response_headers_to_add.push(header(names::SERVER_TIMING_HEADER, phases));
    route
}

fn to(cluster: &str, dynamic_metadata: Vec<MetadataMatcher>, a_try: Try) -> Route {
    let first = a_try == Try::First;
    let accept = (cluster == names::ACTORS_H2C)
        .then(|| header("sec-websocket-accept", names::metadata(names::WEBSOCKET_ACCEPT)))
        .map(|header| HeaderValueOption {
            append_action: HeaderAppendAction::AddIfAbsent.into(),
            ..header
        });
    Route {
        name: cluster.into(),
        response_headers_to_add: accept.into_iter().collect(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            dynamic_metadata,
            ..Default::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(match a_try {
                Try::First => again::first(cluster),
                Try::Again => ClusterSpecifier::Cluster(cluster.into()),
            }),
            retry_policy: first.then(again::once),
            // None: streams have idle timeouts, and those are the listener's.
            timeout: duration(Duration::ZERO),
            max_stream_duration: Some(route_action::MaxStreamDuration {
                max_stream_duration: duration(Duration::ZERO),
                ..Default::default()
            }),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Behind those that the actor sent.
fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value, ..Default::default() }),
        append_action: HeaderAppendAction::AppendIfExistsOrAdd.into(),
        ..Default::default()
    }
}
