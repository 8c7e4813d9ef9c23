use std::net::{Ipv4Addr, SocketAddrV4};

use hickory_proto::{
    op::{Message, MessageType},
    rr::{Name, RecordType},
};
use proptest::prelude::*;

use super::*;

fn records(fronts: usize) -> Records {
    let zone = "actors.localhost".parse().unwrap();
    let fronts: Vec<_> = (0..fronts).map(|n| Ipv4Addr::new(10, 0, 0, n as u8).into()).collect();
    Records::new(&zone, &fronts, &fronts, 5, 7).unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(records: &Records, message: &[u8], over: Over) -> (Option<Replied>, Vec<u8>) {
    let mut out = vec![1, 2, 3];
    (reply(records, message, FROM, over, 0, |_| false, &mut out), out)
}

const FROM: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5353));
const ACTOR: &str = "counter.demo.actors.localhost.";

#[test]
fn replies_and_fragments_are_not_answered() {
    let mut message = question(ACTOR, RecordType::A).to_vec().unwrap();
    assert_eq!(ask(&records(1), &message[..11], Over::Udp).0, None);
    message[2] |= 0x80;
    assert_eq!(ask(&records(1), &message, Over::Udp).0, None);
}

#[test]
fn what_cannot_be_understood_gets_its_header_and_no_more() {
    let good = question(ACTOR, RecordType::A).to_vec().unwrap();
    let mut none = good.clone();
    none[5] = 0;
    let mut many = good.clone();
    many[4..6].copy_from_slice(&[0xff, 0xff]);
    let cut = good[..20].to_vec();
    let mut looped = good.clone();
    looped[12..14].copy_from_slice(&[0xc0, 12]);
    for message in [none, many, cut, looped] {
        let (replied, out) = ask(&records(1), &message, Over::Udp);
        assert_eq!(replied.unwrap().code, ResponseCode::FormErr);
        assert_eq!((out.len(), &out[..2], out[3]), (12, &message[..2], 1));
    }
}

#[test]
fn a_source_above_its_rate_is_told_to_come_by_tcp() {
    let message = question(ACTOR, RecordType::A).to_vec().unwrap();
    let (replied, out) = ask(&records(1), &message, Over::UdpLimited);
    assert!(replied.unwrap().truncated);
    assert_eq!(out.len(), message.len());
    let told = Message::from_vec(&out).unwrap();
    assert!(told.metadata.truncation && told.answers.is_empty());
}

#[test]
fn glue_is_left_out_before_anything_is_truncated() {
    let message = question("actors.localhost.", RecordType::NS).to_vec().unwrap();
    let (replied, out) = ask(&records(20), &message, Over::Udp);
    assert!(!replied.unwrap().truncated);
    let told = Message::from_vec(&out).unwrap();
    assert_eq!((told.answers.len(), told.additionals.len()), (1, 0));
    let (_, out) = ask(&records(20), &message, Over::Stream);
    assert_eq!(Message::from_vec(&out).unwrap().additionals.len(), 20);
}

/// Names near and far, questions as programs ask them, and what they could be turned into.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 1..=63),
    ];
    let zone = prop_oneof![
        9 => Just(vec![b"actors".to_vec(), b"localhost".to_vec()]),
        1 => Just(vec![b"example".to_vec()]),
    ];
    let kind = prop_oneof![Just(1u16), Just(28), Just(6), Just(2), Just(255), any::<u16>()];
    let edns = prop::option::of((any::<u16>(), 0u8..2, any::<bool>()));
    let whole = (prop::collection::vec(label, 0..4), zone, kind, any::<u16>(), edns)
        .prop_filter_map("a name that is too long", |(labels, zone, kind, id, edns)| {
            let name = Name::from_labels(labels.into_iter().chain(zone)).ok()?;
            let mut message = Message::query();
            message.metadata.id = id;
            message.add_query(Query::query(name, kind.into()));
            if let Some((payload, version, dnssec)) = edns {
                let mut edns = Edns::new();
                edns.set_max_payload(payload).set_version(version).set_dnssec_ok(dnssec);
                message.set_edns(edns);
            }
            message.to_vec().ok()
        });
    let changed = (whole, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4))
        .prop_map(|(mut message, changes)| {
            for (at, byte) in changes {
                let at = at.index(message.len());
                message[at] = byte;
            }
            message
        });
    prop_oneof![
        4 => changed,
        1 => prop::collection::vec(any::<u8>(), 0..600),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Whatever comes: no panic; what goes can be read, is a reply to what came, and is not much more than it.
    #[test]
    fn no_message_does_harm_or_gets_more_than_it_may(message in messages(), fronts in 0usize..60, limited: bool) {
        let over = if limited { Over::UdpLimited } else { Over::Udp };
        let (replied, out) = ask(&records(fronts), &message, over);
        if let Some(replied) = replied {
            prop_assert!(out.len() <= AMPLIFICATION * message.len(), "{} for {}", out.len(), message.len());
            prop_assert!(out.len() <= usize::from(MAX_UDP_PAYLOAD));
            let told = Message::from_vec(&out).unwrap();
            prop_assert_eq!(told.metadata.message_type, MessageType::Response);
            prop_assert_eq!(&out[..2], &message[..2]);
            prop_assert_eq!(told.queries.first(), replied.query.as_ref());
            prop_assert!(!limited || told.answers.is_empty());
            prop_assert_eq!(told.metadata.truncation, replied.truncated);
        }
    }

    /// The same over TCP, where nothing is left out.
    #[test]
    fn nothing_is_truncated_over_a_stream(message in messages()) {
        let (replied, _) = ask(&records(255), &message, Over::Stream);
        prop_assert!(replied.is_none_or(|replied| !replied.truncated));
    }
}
