use reveille_api::Zone;

use super::*;

/// Of kubeadm.
const KUBEADM: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

/// Of NodeLocal DNS.
const NODE_LOCAL: &str = "\
cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    health 169.254.20.10:8080
    }
.:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__UPSTREAM__SERVERS__
    prometheus :9253
    }
";

fn zone() -> Zone {
    "actors.internal".parse().unwrap()
}

fn servers() -> Vec<SocketAddr> {
    vec!["10.96.0.20:53".parse().unwrap(), "[fd00::20]:8053".parse().unwrap()]
}

#[test]
fn our_block_stands_in_front_and_is_one_that_coredns_reads() {
    let made = install(KUBEADM, &zone(), &servers()).unwrap();
    assert!(made.ends_with(KUBEADM));
    let blocks = grammar::parse(&made).unwrap();
    assert_eq!(blocks[0].keys, ["actors.internal:53"]);
    let forward = blocks[0].directives.iter().find(|d| d.name() == "forward").unwrap();
    assert_eq!(
        format!("{forward:?}"),
        r#"Directive(["forward", ".", "10.96.0.20", "[fd00::20]:8053"])"#
    );
    assert_eq!(blocks[0].bind(), None);
    assert_eq!(blocks[1].keys, [".:53"]);
    assert!(reloads(&made) && !reloads(".:53 {\n whoami\n}"));
}

#[test]
fn on_a_nodes_cache_it_listens_where_the_cache_does() {
    let made = install(NODE_LOCAL, &zone(), &servers()).unwrap();
    let blocks = grammar::parse(&made).unwrap();
    assert_eq!(blocks[0].bind().unwrap(), "bind 169.254.20.10 10.96.0.10");
}

#[test]
fn it_serves_at_the_port_of_the_clusters_own_zone() {
    let made = install("# ours\n.:5353 {\n  reload\n}\n", &zone(), &servers()).unwrap();
    assert!(made.contains("actors.internal:5353 {"), "{made}");
}

#[test]
fn installing_again_changes_nothing_and_repairs_what_was_changed() {
    let made = install(KUBEADM, &zone(), &servers()).unwrap();
    assert_eq!(install(&made, &zone(), &servers()).unwrap(), made);
    let broken = made.replace("forward . 10.96.0.20", "forward . 8.8.8.8");
    assert_ne!(broken, made);
    assert_eq!(install(&broken, &zone(), &servers()).unwrap(), made);
    // What somebody put before it stays, and stays before what is behind it.
    let other = "other.example:53 {\n    whoami\n}\n";
    let moved = [other, &made].concat();
    let again = install(&moved, &zone(), &servers()).unwrap();
    assert_eq!(uninstall(&again, &zone()).unwrap(), [other, KUBEADM].concat());
}

#[test]
fn what_is_not_ours_stays_to_the_byte() {
    for text in [
        KUBEADM,
        NODE_LOCAL,
        "",
        "\n\n",
        "# nothing\n",
        "import custom/*.override\r\n.:53 {\r\n\treload\r\n}",
        "(snip) {\n  log\n}\n.:53 example.org, example.net:1053\n{\n  import snip\n}",
        ". {\n  template IN A \"a { \\\" } b\" # { not a brace\n}",
    ] {
        let text = text.replace(".net:1053\n{", ".net:1053 {");
        let made = install(&text, &zone(), &servers()).unwrap();
        assert_eq!(uninstall(&made, &zone()).unwrap(), text);
        assert!(made.ends_with(&text) && made != text);
    }
}

#[test]
fn two_zones_keep_out_of_each_others_way() {
    let other: Zone = "actors.internal.example".parse().unwrap();
    let both =
        install(&install(KUBEADM, &zone(), &servers()).unwrap(), &other, &servers()).unwrap();
    assert_eq!(install(&both, &other, &servers()).unwrap(), both);
    let one = uninstall(&both, &zone()).unwrap();
    assert_eq!(uninstall(&one, &other).unwrap(), KUBEADM);
    assert_eq!(one, install(KUBEADM, &other, &servers()).unwrap());
}

#[test]
fn a_corefile_that_would_not_work_is_left_alone() {
    let taken = |text: &str| matches!(install(text, &zone(), &servers()), Err(Error::Taken { .. }));
    assert!(taken("actors.internal {\n whoami\n}\n"));
    assert!(taken(".:53 {\n}\nexample.org dns://Actors.Internal.:53 {\n whoami\n}\n"));
    assert!(!taken("actors.internal:1053 {\n whoami\n}\n.:53 {\n}\n"));
    for (text, at) in [
        (".:53\nerrors\n", 1),
        (".:53 {\n errors\n", 1),
        (".:53 {\n errors\n}\n}\n", 4),
        (".:53 {\n log \"x\n}\n", 2),
    ] {
        match install(text, &zone(), &servers()) {
            Err(Error::Syntax { line, .. }) => assert_eq!(line, at, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn marks_that_are_no_pair_are_left_alone() {
    let made = install(KUBEADM, &zone(), &servers()).unwrap();
    let (begin, end) = ("# reveille:begin actors.internal", "# reveille:end actors.internal");
    for text in [
        made.replace(begin, "#"),
        made.replace(end, "#"),
        [made.as_str(), begin].concat(),
        [made.as_str(), made.as_str()].concat(),
    ] {
        assert!(matches!(uninstall(&text, &zone()), Err(Error::Marks { .. })), "{text}");
        assert!(matches!(install(&text, &zone(), &servers()), Err(Error::Marks { .. })));
    }
}
