use super::*;

fn zone() -> Zone {
    "actors.internal".parse().unwrap()
}

fn servers() -> Vec<SocketAddr> {
    vec!["10.96.0.20:53".parse().unwrap()]
}

fn kube_dns(stub_domains: Option<&str>) -> Document {
    let data = stub_domains.map(|text| (STUB_DOMAINS.to_owned(), text.to_owned()));
    Document { data: data.into_iter().collect(), ..Document::default() }
}

#[test]
fn kube_dns_gets_an_entry_beside_the_others_and_loses_only_that() {
    let there = kube_dns(Some(r#"{"acme.local": ["1.2.3.4"]}"#));
    let made = edit(Target::KubeDns, &there, &zone(), Some(&servers())).unwrap();
    let text = made.text(STUB_DOMAINS);
    assert_eq!(text, "{\"acme.local\":[\"1.2.3.4\"],\"actors.internal\":[\"10.96.0.20\"]}\n");
    assert_eq!(edit(Target::KubeDns, &made, &zone(), Some(&servers())).unwrap(), made);

    let moved = vec!["10.96.0.21:8053".parse().unwrap()];
    let moved = edit(Target::KubeDns, &made, &zone(), Some(&moved)).unwrap();
    assert!(moved.text(STUB_DOMAINS).contains("10.96.0.21:8053"));

    let gone = edit(Target::KubeDns, &made, &zone(), None).unwrap();
    assert_eq!(gone.text(STUB_DOMAINS), "{\"acme.local\":[\"1.2.3.4\"]}\n");
    assert!(gone.annotations.is_empty());
    let alone = edit(Target::KubeDns, &kube_dns(None), &zone(), Some(&servers())).unwrap();
    assert_eq!(edit(Target::KubeDns, &alone, &zone(), None).unwrap(), kube_dns(None));
}

#[test]
fn an_entry_of_somebody_else_is_neither_changed_nor_taken_away() {
    let theirs = kube_dns(Some(r#"{"actors.internal": ["1.2.3.4"]}"#));
    let error = edit(Target::KubeDns, &theirs, &zone(), Some(&servers())).unwrap_err();
    assert!(matches!(error, Error::StubDomains(stub_domains::Error::Taken(_))));
    assert_eq!(edit(Target::KubeDns, &theirs, &zone(), None).unwrap(), theirs);
    // Also one that says what ours would: it does not become ours.
    let same = kube_dns(Some(r#"{"actors.internal": ["10.96.0.20"]}"#));
    assert_eq!(edit(Target::KubeDns, &same, &zone(), Some(&servers())).unwrap(), same);
    assert_eq!(edit(Target::KubeDns, &same, &zone(), None).unwrap(), same);
    let odd = kube_dns(Some("[]"));
    assert!(edit(Target::KubeDns, &odd, &zone(), Some(&servers())).is_err());
}

#[test]
fn what_is_remembered_of_an_entry_that_somebody_took_away_is_a_change_too() {
    let made = edit(Target::KubeDns, &kube_dns(None), &zone(), Some(&servers())).unwrap();
    let taken = Document { data: BTreeMap::new(), ..made };
    let gone = edit(Target::KubeDns, &taken, &zone(), None).unwrap();
    let told = change(Target::KubeDns, &taken, &gone);
    assert!(told.changed && told.before == told.after && gone.annotations.is_empty());
    assert!(!change(Target::KubeDns, &gone, &gone).changed);
}

#[test]
fn a_config_map_without_a_corefile_is_not_coredns() {
    let error = edit(Target::CoreDns, &Document::default(), &zone(), Some(&servers())).unwrap_err();
    assert!(matches!(error, Error::Missing { target: Target::CoreDns, key: "Corefile" }));
    let nothing = Document::default();
    assert_eq!(edit(Target::CoreDns, &nothing, &zone(), None).unwrap(), nothing);
}
