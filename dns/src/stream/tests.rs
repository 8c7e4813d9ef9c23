use reveille_api::metrics::Registry;

use super::*;
use crate::{answer::Records, metrics::Metrics};

fn shared() -> Arc<Shared> {
    let zone = "actors.localhost".parse().unwrap();
    let records = Records::new(&zone, &[], &[], 5, 7).unwrap();
    Arc::new(Shared {
        records: Arc::new(arc_swap::ArcSwap::from_pointee(records)),
        limit: None,
        connections: Connections::default(),
        turn: AtomicUsize::new(0),
        metrics: Metrics::new(&mut Registry::default()),
        query_log: None,
        names: None,
    })
}

/// Of a network each, and there only one host.
fn enter(shared: &Arc<Shared>, network: usize, host: u8) -> Place {
    let [.., high, low] = network.to_be_bytes();
    Connections::enter(shared, [10, high, low, host].into())
}

fn asks(place: &Place) {
    let turn = place.shared.turn.fetch_add(1, Ordering::Relaxed);
    place.seat.turn.store(turn + 1, Ordering::Relaxed);
}

fn left(places: &[Place]) -> Vec<usize> {
    let gone = |n: &usize| places[*n].seat.leave.is_cancelled();
    (0..places.len()).filter(gone).collect()
}

#[test]
fn a_network_has_so_many_places_and_its_longest_idle_makes_room() {
    let shared = shared();
    let other = enter(&shared, 1, 0);
    let mut places: Vec<_> = (0..MOST_OF_ONE).map(|n| enter(&shared, 0, n as u8)).collect();
    for n in (0..MOST_OF_ONE).filter(|n| *n != 7) {
        asks(&places[n]);
    }
    assert_eq!(left(&places), [0; 0]);
    places.push(enter(&shared, 0, 1));
    assert_eq!(left(&places), [7]);
    assert!(!other.seat.leave.is_cancelled());
    assert_eq!(shared.metrics.refused.get(Refusal::Network).get(), 1);
    // Who leaves by itself leaves a place.
    drop(places.swap_remove(3));
    places.push(enter(&shared, 0, 1));
    assert_eq!(shared.metrics.refused.get(Refusal::Network).get(), 1);
    drop((places, other));
    assert!(shared.connections.all().is_empty());
    assert_eq!(shared.metrics.connections.get(), 0);
}

#[test]
fn when_all_places_are_taken_the_longest_idle_of_all_makes_room() {
    let shared = shared();
    let mut places: Vec<_> = (0..MOST).map(|network| enter(&shared, network, 1)).collect();
    for n in (0..MOST).rev().filter(|n| *n != 500) {
        asks(&places[n]);
    }
    places.push(enter(&shared, MOST, 1));
    places.push(enter(&shared, MOST + 1, 1));
    // Then the one that asked first.
    assert_eq!(left(&places), [500, MOST - 1]);
    assert_eq!(shared.connections.all().len(), MOST);
    assert_eq!(shared.metrics.refused.get(Refusal::All).get(), 2);
}
