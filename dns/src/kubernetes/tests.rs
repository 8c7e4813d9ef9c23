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
    let pending = serde_json::json!({
        "spec": { "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5", "fd00::5"] },
        "status": { "loadBalancer": {} },
    });
    assert_eq!(ips(pending).unwrap(), "10.0.0.5 fd00::5");
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
fn a_service_is_named_by_two_labels() {
    assert_eq!("a/b".parse::<ServiceName>().unwrap().to_string(), "a/b");
    for wrong in ["b", "a/", "/b", "a/b/c", "a/B", ""] {
        assert!(wrong.parse::<ServiceName>().is_err(), "{wrong}");
    }
}
