use hickory_proto::rr::Name;

use super::*;

fn records() -> Records {
    let zone = "actors.localhost".parse().unwrap();
    let fronts = ["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
    let name_servers = ["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];
    Records::new(&zone, &fronts, &name_servers, 5, 7).unwrap()
}

fn ask(name: &str, kind: RecordType) -> Answer {
    // Label by label: the library's own reader refuses what a hostile client can send.
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    records().answer(&Query::query(Name::from_labels(labels).unwrap(), kind), 0)
}

#[test]
fn an_actor_has_the_fronts_addresses_whatever_its_letters_case() {
    let answer = ask("CounTer.demo.Actors.localhost.", RecordType::A);
    assert_eq!((answer.code, answer.authoritative), (ResponseCode::NoError, true));
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(answer.answers[0].name.to_ascii(), "CounTer.demo.Actors.localhost.");
    assert_eq!(answer.answers[0].ttl, 5);
}

#[test]
fn names_that_exist_without_data_are_never_nxdomain() {
    let cases = [
        ("counter.demo.actors.localhost.", RecordType::AAAA),
        ("counter.demo.actors.localhost.", RecordType::TXT),
        ("demo.actors.localhost.", RecordType::A),
        ("actors.localhost.", RecordType::A),
        ("actors.localhost.", RecordType::MX),
    ];
    for (name, kind) in cases {
        let answer = ask(name, kind);
        assert_eq!(answer.code, ResponseCode::NoError, "{name} {kind}");
        assert!(answer.answers.is_empty(), "{name} {kind}");
        let soa = answer.soa.unwrap_or_else(|| panic!("{name} {kind}: no SOA"));
        assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), ("actors.localhost.", 5));
        assert!(matches!(&soa.data, RData::SOA(soa) if soa.minimum <= 5));
    }
}

#[test]
fn what_cannot_be_an_actor_is_nxdomain() {
    for name in [
        "co_unter.demo.actors.localhost.",
        "-c.demo.actors.localhost.",
        "c-.demo.actors.localhost.",
        "*.demo.actors.localhost.",
        "c.*.actors.localhost.",
        "_tcp.actors.localhost.",
        "a.counter.demo.actors.localhost.",
        "a.ns.x.actors.localhost.",
    ] {
        for kind in [RecordType::A, RecordType::TXT] {
            let answer = ask(name, kind);
            assert_eq!(answer.code, ResponseCode::NXDomain, "{name}");
            assert!(answer.soa.is_some() && answer.authoritative, "{name}");
        }
    }
}

#[test]
fn outside_the_zone_and_transfers_are_refused() {
    let cases = [
        ("example.com.", RecordType::A),
        ("localhost.", RecordType::SOA),
        ("xactors.localhost.", RecordType::A),
        (".", RecordType::NS),
        ("actors.localhost.", RecordType::AXFR),
        ("actors.localhost.", RecordType::IXFR),
        ("counter.demo.actors.localhost.", RecordType::AXFR),
    ];
    for (name, kind) in cases {
        assert_eq!(ask(name, kind), Answer::refused(), "{name} {kind}");
    }
    let mut chaos = Query::query(Name::from_ascii("actors.localhost.").unwrap(), RecordType::A);
    chaos.set_query_class(DNSClass::CH);
    assert_eq!(records().answer(&chaos, 0), Answer::refused());
}

#[test]
fn the_apex_has_soa_and_ns_and_the_ns_has_addresses() {
    assert!(matches!(ask("actors.localhost.", RecordType::SOA).answers[0].data, RData::SOA(_)));
    let ns = ask("actors.localhost.", RecordType::NS);
    assert_eq!(ns.answers[0].data.to_string(), "ns.actors.localhost.");
    assert_eq!(ns.additionals.len(), 2);
    let told = ask("NS.actors.localhost.", RecordType::A).answers;
    assert_eq!(told.iter().map(|a| a.data.to_string()).collect::<Vec<_>>(), ["192.0.2.53"]);
}

#[test]
fn any_gets_one_rrset() {
    let answer = ask("counter.demo.actors.localhost.", RecordType::ANY);
    assert!(answer.answers.iter().all(|r| r.record_type() == RecordType::A));
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(ask("actors.localhost.", RecordType::ANY).answers.len(), 1);
}

#[test]
fn other_fronts_come_with_the_next_serial() {
    let other = records().with_fronts(&["::1".parse().unwrap()]);
    let name = Name::from_ascii("counter.demo.actors.localhost.").unwrap();
    let aaaa = other.answer(&Query::query(name.clone(), RecordType::AAAA), 0);
    assert_eq!(aaaa.answers[0].data.to_string(), "::1");
    let soa = other.answer(&Query::query(name, RecordType::A), 0).soa.unwrap();
    assert!(matches!(&soa.data, RData::SOA(soa) if soa.serial == 8));
}

#[test]
fn each_answer_begins_with_another_front() {
    let name = Name::from_ascii("counter.demo.actors.localhost.").unwrap();
    let query = Query::query(name, RecordType::A);
    let first = |turn| records().answer(&query, turn).answers[0].data.to_string();
    assert_eq!([first(0), first(1), first(2)], ["127.0.0.1", "127.0.0.2", "127.0.0.1"]);
    assert_eq!(records().answer(&query, 1).answers.len(), 2);
}

#[test]
fn without_a_front_an_actor_is_not_told_to_have_none() {
    let zone = "actors.localhost".parse().unwrap();
    let records = Records::new(&zone, &[], &[], 5, 7).unwrap();
    let name = Name::from_ascii("counter.demo.actors.localhost.").unwrap();
    for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
        let answer = records.answer(&Query::query(name.clone(), kind), 0);
        assert_eq!(answer.code, ResponseCode::ServFail);
        assert!(answer.answers.is_empty() && answer.soa.is_none());
    }
}
