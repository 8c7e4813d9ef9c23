//! Routes: one virtual host for every host there is. Which actor it is for, the router knows.

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
        value_matcher,
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

/// The first route is taken only when the router has named the protocol and had the route chosen again.
pub(super) fn config(a_try: Try) -> RouteConfiguration {
    let h2c = MetadataMatcher {
        filter: names::METADATA.into(),
        path: vec![PathSegment {
            segment: Some(path_segment::Segment::Key(names::PROTOCOL.into())),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(exact(names::H2C))),
        }),
        invert: false,
    };
    RouteConfiguration {
        name: names::LISTENER.into(),
        virtual_hosts: vec![VirtualHost {
            name: "actors".into(),
            domains: vec!["*".into()],
            routes: vec![
                to(names::ACTORS_H2C, vec![h2c], a_try),
                to(names::ACTORS_HTTP1, Vec::new(), a_try),
            ],
            // In one place with the additions: Envoy removes before it adds.
            response_headers_to_remove: vec![
                names::REASON_HEADER.into(),
                names::WAKE_HEADER.into(),
            ],
            response_headers_to_add: vec![
                from_metadata(names::REASON_HEADER, names::REASON),
                from_metadata(names::WAKE_HEADER, names::WAKE),
                from_metadata("server-timing", names::SERVER_TIMING),
            ],
            ..Default::default()
        }],
        validate_clusters: boolean(false),
        ..Default::default()
    }
}

fn to(cluster: &str, dynamic_metadata: Vec<MetadataMatcher>, a_try: Try) -> Route {
    let first = a_try == Try::First;
    let accept = (cluster == names::ACTORS_H2C)
        .then(|| from_metadata("sec-websocket-accept", names::WEBSOCKET_ACCEPT))
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

/// Added only when the router has set the value.
fn from_metadata(header: &str, key: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: header.into(),
            value: format!("%DYNAMIC_METADATA({}:{key})%", names::METADATA),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::AppendIfExistsOrAdd.into(),
        keep_empty_value: false,
        ..Default::default()
    }
}
