//! A pool of sessions for many topics: at most 100 topics a socket. A topic stays on its socket for as long as it is
//! wanted.

use super::{
    Shared,
    channels::{CHANNELS_LIMIT, Heard},
    protocol::Topic,
    session::{QUEUE_LIMIT, Session},
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{mpsc, watch};

/// Most sockets of a pool.
pub(crate) const SOCKETS_LIMIT: usize = 20;

/// The sessions of one subject.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    sessions: Vec<watch::Sender<BTreeSet<Topic>>>,
    heard: mpsc::Sender<Heard>,
}

impl Pool {
    /// Makes a pool without a session, and gives what its sessions will hear.
    pub(crate) fn new(shared: Arc<Shared>) -> (Self, mpsc::Receiver<Heard>) {
        let (heard, hears) = mpsc::channel(QUEUE_LIMIT);
        (Self { shared, sessions: Vec::new(), heard }, hears)
    }

    /// Joins these topics, and leaves the others. Gives how many have no place.
    pub(crate) fn want(&mut self, wanted: &BTreeSet<Topic>) -> usize {
        let now: Vec<BTreeSet<Topic>> =
            self.sessions.iter().map(|session| session.borrow().clone()).collect();
        let (next, without_place) = assign(&now, wanted);
        for (index, topics) in next.into_iter().enumerate() {
            match self.sessions.get(index) {
                Some(session) => {
                    session.send_if_modified(|had| {
                        let differs = *had != topics;
                        *had = topics;
                        differs
                    });
                }
                None => self.begin(topics),
            }
        }
        without_place
    }

    fn begin(&mut self, topics: BTreeSet<Topic>) {
        let (session, wanted) = watch::channel(topics);
        let (shared, heard) = (self.shared.clone(), self.heard.clone());
        tokio::spawn(Session { shared, wanted, heard }.run());
        self.sessions.push(session);
    }
}

/// Keeps each topic where it is, and puts new ones where there is room. Gives how many have no place.
fn assign(now: &[BTreeSet<Topic>], wanted: &BTreeSet<Topic>) -> (Vec<BTreeSet<Topic>>, usize) {
    let mut next: Vec<BTreeSet<Topic>> =
        now.iter().map(|topics| topics.intersection(wanted).cloned().collect()).collect();
    let placed: BTreeSet<Topic> = next.iter().flatten().cloned().collect();
    let mut without_place = 0_usize;
    for topic in wanted.difference(&placed) {
        if next.iter().all(|topics| topics.len() >= CHANNELS_LIMIT) {
            if next.len() >= SOCKETS_LIMIT {
                without_place = without_place.saturating_add(1);
                continue;
            }
            next.push(BTreeSet::new());
        }
        if let Some(topics) = next.iter_mut().find(|topics| topics.len() < CHANNELS_LIMIT) {
            topics.insert(topic.clone());
        }
    }
    (next, without_place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(numbers: std::ops::Range<usize>) -> BTreeSet<Topic> {
        numbers.map(|n| Topic::new(format!("topic-{n:05}"), true, false).unwrap()).collect()
    }

    #[test]
    fn a_hundred_topics_have_one_socket_and_the_next_has_another() {
        let (next, without_place) = assign(&[], &topics(0..250));
        assert_eq!(next.iter().map(BTreeSet::len).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(without_place, 0);
        let (next, without_place) = assign(&[], &topics(0..2100));
        assert_eq!((next.len(), without_place), (SOCKETS_LIMIT, 100));
    }

    #[test]
    fn a_topic_stays_on_its_socket_and_a_new_one_takes_a_free_place() {
        let (first, _) = assign(&[], &topics(0..150));
        let (second, _) = assign(&first, &topics(50..201));
        assert_eq!(second.len(), 2);
        assert!(first[0].intersection(&second[1]).next().is_none());
        assert!(first[1].is_subset(&second[1]));
        assert_eq!(second.iter().map(BTreeSet::len).sum::<usize>(), 151);
    }
}
