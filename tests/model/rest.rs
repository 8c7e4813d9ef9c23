//! Whether every state can still come to rest: from none is there only a way round and round.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};

use stateright::Model;

use crate::protocol::Protocol;

/// Visits every state, and then goes back from those at rest. How many it does not come to.
pub(crate) fn stuck(protocol: &Protocol) -> usize {
    let hasher = RandomState::new();
    let mut numbers = HashMap::new();
    let mut before: Vec<Vec<u32>> = Vec::new();
    let mut at_rest = VecDeque::new();
    let mut next = VecDeque::from(protocol.init_states());
    for world in &next {
        numbers.insert(hasher.hash_one(world), 0);
        before.push(Vec::new());
    }
    let mut number = 0;
    while let Some(world) = next.pop_front() {
        if world.is_quiet() {
            at_rest.push_back(number);
        }
        for after in protocol.next_states(&world) {
            let fresh = before.len() as u32;
            let of = *numbers.entry(hasher.hash_one(&after)).or_insert(fresh);
            if of == fresh {
                before.push(Vec::new());
                next.push_back(after);
            }
            before[of as usize].push(number);
        }
        number += 1;
    }
    let mut can = vec![false; before.len()];
    while let Some(state) = at_rest.pop_front() {
        if !std::mem::replace(&mut can[state as usize], true) {
            at_rest.extend(&before[state as usize]);
        }
    }
    let stuck = can.iter().filter(|can| !**can).count();
    println!("{} requests, {:?}: {number} states", protocol.requests, protocol.left);
    stuck
}
