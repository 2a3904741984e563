//! Where the next try goes. No clock and no sockets here: outcomes go in, the next relay comes out.
//!
//! A connection that was lost is first taken up where it was, for its pairings can be resumed there; then the relays are gone
//! through in their order, each once, and again from the start.

use std::collections::VecDeque;

/// The tries that are planned.
#[derive(Default)]
pub(crate) struct Route {
    next: VecDeque<usize>,
}

impl Route {
    /// The next relay to try, of those in `order` (best first); `None` where there are none.
    pub(crate) fn next(&mut self, order: impl FnOnce() -> Vec<usize>) -> Option<usize> {
        if self.next.is_empty() {
            self.next = order().into();
        }
        self.next.pop_front()
    }

    /// Whether every relay has been tried since the last connection, so that it is time to be patient.
    pub(crate) fn all_tried(&self) -> bool {
        self.next.is_empty()
    }

    /// The connection was there and is lost: there first, then the others.
    pub(crate) fn lost(&mut self, at: usize, order: Vec<usize>) {
        self.next = order.into_iter().filter(|other| *other != at).collect();
        self.next.push_front(at);
    }

    /// To this one, and where that fails back to where it was.
    pub(crate) fn returning(&mut self, from: usize, to: usize, order: Vec<usize>) {
        self.lost(from, order.into_iter().filter(|other| *other != to).collect());
        self.next.push_front(to);
    }

    /// To this one, and where that fails to the others; where it was comes last.
    pub(crate) fn sent(&mut self, from: usize, to: Option<usize>, order: Vec<usize>) {
        self.next = order.into_iter().filter(|other| *other != from && Some(*other) != to).collect();
        self.next.push_back(from);
        if let Some(to) = to.filter(|to| *to != from) {
            self.next.push_front(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(route: &mut Route) -> Vec<usize> {
        let mut tried = vec![];
        while !route.all_tried() {
            tried.extend(route.next(Vec::new));
        }
        tried
    }

    #[test]
    fn each_is_tried_once_a_round_from_the_best_on() {
        let mut route = Route::default();
        let tried: Vec<_> = (0..4).filter_map(|_| route.next(|| vec![2, 0, 1])).collect();
        assert_eq!(tried, [2, 0, 1, 2]);
        assert_eq!(Route::default().next(Vec::new), None);
    }

    #[test]
    fn a_lost_connection_is_taken_up_where_it_was_and_then_elsewhere() {
        let mut route = Route::default();
        route.lost(1, vec![0, 1, 2]);
        assert_eq!(rest(&mut route), [1, 0, 2]);
    }

    #[test]
    fn who_goes_home_and_finds_nobody_goes_back() {
        let mut route = Route::default();
        route.returning(2, 0, vec![0, 1, 2]);
        assert_eq!(rest(&mut route), [0, 2, 1]);
    }

    #[test]
    fn whoever_is_sent_away_comes_back_last() {
        let mut route = Route::default();
        route.sent(0, Some(2), vec![0, 1, 2]);
        assert_eq!(rest(&mut route), [2, 1, 0]);
        route.sent(0, None, vec![0, 1, 2]);
        assert_eq!(rest(&mut route), [1, 2, 0]);
        route.sent(0, Some(0), vec![0]);
        assert_eq!(rest(&mut route), [0], "where there is no other");
    }
}
