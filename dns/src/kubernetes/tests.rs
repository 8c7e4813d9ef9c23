use super::*;

fn service(json: serde_json::Value) -> Service {
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_service_is_reached_at_its_load_balancer_or_else_in_the_cluster() {
    let ips = |json| {
        addresses(&service(json))
            .map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    let both = serde_json::json!({
        "spec": { "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5", "fd00::5"] },
        "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }, { "hostname": "lb.example" }, { "ip": "2001:db8::1" }] } },
    });
    assert_eq!(ips(both).unwrap(), "192.0.2.1 2001:db8::1");
    let inside = serde_json::json!({
        "spec": { "type": "ClusterIP", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5", "fd00::5"] },
        "status": { "loadBalancer": {} },
    });
    assert_eq!(ips(inside).unwrap(), "10.0.0.5 fd00::5");
    // Its cluster IPs lead nowhere for whom the load balancer is meant.
    let outside = |ingress| {
        serde_json::json!({
            "spec": { "type": "LoadBalancer", "clusterIP": "10.0.0.5" },
            "status": { "loadBalancer": { "ingress": ingress } },
        })
    };
    assert!(ips(outside(serde_json::json!([]))).unwrap_err().contains("no address yet"));
    let named = outside(serde_json::json!([{ "hostname": "lb.example" }]));
    assert!(ips(named).unwrap_err().contains("--front-file"));
    let old = serde_json::json!({ "spec": { "clusterIP": "10.0.0.5" } });
    assert_eq!(ips(old).unwrap(), "10.0.0.5");
    let headless = serde_json::json!({ "spec": { "clusterIP": "None", "clusterIPs": ["None"] } });
    assert!(ips(headless).is_err());
}

#[test]
fn a_dns_server_is_asked_at_its_port_for_dns() {
    let port = |ports| dns_port(&service(serde_json::json!({ "spec": { "ports": ports } })));
    let metrics = serde_json::json!({ "name": "metrics", "port": 8085 });
    let udp = serde_json::json!({ "name": "queries", "port": 5353, "protocol": "UDP" });
    let named = serde_json::json!({ "name": "dns", "port": 1053, "protocol": "UDP" });
    assert_eq!(port(serde_json::json!([metrics, udp, named])), 1053);
    assert_eq!(port(serde_json::json!([metrics, udp])), 5353);
    assert_eq!(port(serde_json::json!([metrics])), 53);
}

#[test]
fn what_is_undone_at_once_is_written_more_and_more_seldom() {
    let mut pace = Pace::default();
    let mut now = Instant::now();
    let mut rests = Vec::new();
    for _ in 0..6 {
        let rest = pace.wrote(now);
        rests.push(rest.as_secs());
        // As soon as it may be.
        now += rest;
    }
    assert_eq!(rests, [5, 10, 20, 40, 60, 60]);
    assert_eq!(pace.wrote(now + 2 * LOOK), REST);
}

#[test]
fn a_service_is_named_by_two_labels() {
    assert_eq!("a/b".parse::<ServiceName>().unwrap().to_string(), "a/b");
    for wrong in ["b", "a/", "/b", "a/b/c", "a/B", ""] {
        assert!(wrong.parse::<ServiceName>().is_err(), "{wrong}");
    }
}
