//! One stream on a shared connection. In: lengths and bytes of both directions. Out: what may be read and sent, credit for
//! the peer, and whether the stream deserves a dedicated connection.

use std::collections::VecDeque;

use super::{Buffered, QUANTUM, WINDOW_FIRST, WINDOW_MAX};
use crate::frame::Reset;

/// Waiting bytes are collected in pieces up to this size, one TLS record: small pieces of their own would cost far more
/// memory than their bytes.
const PIECE_MAX: usize = 16 * 1024;

/// A stream with this many bytes in one direction is bulk: past the size of most pages, before the size where sharing
/// costs throughput.
const BULK_AFTER: u64 = 128 * 1024;

/// A stream with this many bytes in both directions together is bulk however they alternate.
const BULK_ANYWAY: u64 = 4 * 1024 * 1024;

/// A byte the other way makes up for this many: answers up to eight times their question never count as bulk.
const TURN: u64 = 8;

/// What a reader of a stream gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes that waited. They count as waiting no more, but are the peer's credit again only when they are
    /// [`consumed`](super::Connection::consumed).
    Piece(Vec<u8>),
    /// The peer sent everything.
    End,
    /// The stream is over in both directions.
    Reset(Reset),
    /// What follows comes on the dedicated connection.
    Dedicated,
    /// Nothing yet; [`Event::Readable`](super::Event::Readable) follows.
    Wait,
}

/// What a sender on a stream may do.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// Send up to this many bytes.
    Bytes(usize),
    /// Send on the dedicated connection from here on.
    Dedicated,
    /// The stream is over in both directions.
    Reset(Reset),
    /// Nothing yet; [`Event::Writable`](super::Event::Writable) follows.
    Wait,
}

/// Where the end of a direction was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It is said, now or before.
    Said,
    /// The caller says it on the dedicated connection.
    Dedicated,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Recv {
    /// What came and was not taken.
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// The reader holds a piece that may not be consumed yet: nothing may overtake it.
    held: bool,
    /// Bytes that the peer may still send.
    window: u32,
    /// The window's full size.
    full: u32,
    /// Bytes consumed since the last grant.
    taken: u32,
    /// The peer sent everything.
    pub(super) ended: bool,
    /// The rest comes on the dedicated connection.
    pub(super) moved: bool,
    /// The reader was told to go there.
    pub(super) on_dedicated: bool,
    /// The reader saw the end.
    pub(super) finished: bool,
    pub(super) reset: Option<Reset>,
}

/// Data came that the peer had no credit for, or that follows its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverWindow;

impl Recv {
    pub(super) fn new() -> Recv {
        Recv {
            queue: VecDeque::new(),
            queued: 0,
            held: false,
            window: WINDOW_FIRST,
            full: WINDOW_FIRST,
            taken: 0,
            ended: false,
            moved: false,
            on_dedicated: false,
            finished: false,
            reset: None,
        }
    }

    /// Judges `len` bytes of the peer.
    pub(super) fn arrives(&mut self, len: usize) -> Result<(), OverWindow> {
        let len = u32::try_from(len).map_err(|_| OverWindow)?;
        if self.ended || self.moved {
            return Err(OverWindow);
        }
        self.window = self.window.checked_sub(len).ok_or(OverWindow)?;
        Ok(())
    }

    /// Nothing waits to be written before what comes next.
    pub(super) fn is_clear(&self) -> bool {
        self.queue.is_empty() && !self.held
    }

    /// Lets bytes wait. False if too many wait everywhere: the stream is to be reset.
    pub(super) fn queue(&mut self, bytes: &[u8], buffered: &Buffered) -> bool {
        if !buffered.add(bytes.len(), !self.queue.is_empty()) {
            return false;
        }
        self.queued += bytes.len();
        match self.queue.back_mut() {
            Some(last) if last.len() + bytes.len() <= PIECE_MAX => last.extend_from_slice(bytes),
            _ => self.queue.push_back(bytes.to_vec()),
        }
        true
    }

    /// The next thing for the reader; `bound`: a dedicated connection is at hand.
    pub(super) fn read(&mut self, bound: bool, buffered: &Buffered) -> Read {
        if let Some(piece) = self.queue.pop_front() {
            self.held = true;
            self.queued -= piece.len();
            buffered.sub(piece.len());
            return Read::Piece(piece);
        }
        if self.on_dedicated {
            return Read::Dedicated;
        }
        if let Some(reset) = &self.reset {
            return Read::Reset(reset.clone());
        }
        if self.ended {
            self.finished = true;
            return Read::End;
        }
        if self.moved && bound {
            self.on_dedicated = true;
            return Read::Dedicated;
        }
        self.held = false;
        Read::Wait
    }

    /// Counts consumed bytes; says how many the peer may send again once half of the window is used up. A stream that
    /// keeps up gets a wider window.
    pub(super) fn consumed(&mut self, n: usize, buffered: &Buffered) -> Option<u32> {
        self.taken = self.taken.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        if self.taken < self.full / 2 || self.ended || self.moved || self.reset.is_some() {
            return None;
        }
        let mut grant = std::mem::take(&mut self.taken);
        if self.queue.is_empty() && self.full < WINDOW_MAX && buffered.is_roomy() {
            grant += self.full;
            self.full *= 2;
        }
        self.window += grant;
        Some(grant)
    }

    /// Forgets what waits.
    pub(super) fn drop_queue(&mut self, buffered: &Buffered) {
        buffered.sub(std::mem::take(&mut self.queued));
        self.queue = VecDeque::new();
    }

    /// Bytes that wait here.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }
}

/// The sending side.
#[derive(Debug)]
pub(super) struct Send {
    /// Bytes that may still be sent.
    left: u32,
    /// Waits for room on the connection, and stands in its queue.
    pub(super) blocked: bool,
    /// Our end was said, or is the caller's to say.
    pub(super) done: bool,
    /// The peer was told that the stream is over.
    pub(super) told_reset: bool,
    /// `Moved` was said.
    pub(super) on_dedicated: bool,
}

impl Send {
    pub(super) fn new() -> Send {
        Send { left: WINDOW_FIRST, blocked: false, done: false, told_reset: false, on_dedicated: false }
    }

    /// Bytes that one frame may carry now.
    pub(super) fn credit(&self) -> usize {
        (self.left as usize).min(QUANTUM)
    }

    pub(super) fn sent(&mut self, n: usize) {
        self.left = self.left.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// More credit. False for more than an honest peer ever gives: its window never exceeds [`WINDOW_MAX`], and twice
    /// that is an attack on the arithmetic.
    pub(super) fn granted(&mut self, more: u32) -> bool {
        match self.left.checked_add(more).filter(|l| *l <= 2 * WINDOW_MAX) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// Which way the bytes of a stream run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Came,
    Went,
}

/// Whether a stream is bulk: one whose bytes run one way, or very many. Short questions and answers in turn stay where
/// they share records and system calls.
#[derive(Debug, Default)]
pub(super) struct Usage {
    total: u64,
    /// Bytes that came, and bytes that went, of late without much in the other direction.
    came: u64,
    went: u64,
}

impl Usage {
    /// Counts bytes on the shared connection; true if the stream is bulk.
    pub(super) fn count(&mut self, n: usize, way: Way) -> bool {
        let n = n as u64;
        let (same, other) = match way {
            Way::Came => (&mut self.came, &mut self.went),
            Way::Went => (&mut self.went, &mut self.came),
        };
        *same += n;
        *other = other.saturating_sub(TURN * n);
        self.total += n;
        *same >= BULK_AFTER || self.total >= BULK_ANYWAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter that nothing fills.
    fn room() -> Buffered {
        Buffered::new(1 << 30)
    }

    #[test]
    fn credit_comes_back_by_halves_and_grows_while_the_reader_keeps_up() {
        let (mut recv, all) = (Recv::new(), room());
        assert_eq!(recv.arrives(WINDOW_FIRST as usize + 1), Err(OverWindow));
        let (mut full, mut open) = (WINDOW_FIRST, WINDOW_FIRST);
        for _ in 0..6 {
            let half = full as usize / 2;
            assert_eq!(recv.arrives(half), Ok(()));
            assert_eq!(recv.consumed(half - 1, &all), None, "not yet half of {full}");
            let more = recv.consumed(1, &all);
            let wider = if full < WINDOW_MAX { full } else { 0 };
            assert_eq!(more, Some(half as u32 + wider));
            full += wider;
            open = open - half as u32 + half as u32 + wider;
            assert_eq!(recv.window, open);
        }
        assert_eq!((full, open), (WINDOW_MAX, WINDOW_MAX), "and no further");
    }

    #[test]
    fn a_window_does_not_grow_for_who_does_not_keep_up_or_while_too_much_waits() {
        let (mut slow, all) = (Recv::new(), room());
        assert!(slow.queue(&[0; 10], &all));
        assert_eq!(slow.consumed(WINDOW_FIRST as usize / 2, &all), Some(WINDOW_FIRST / 2), "bytes wait behind");
        let (mut quick, full) = (Recv::new(), Buffered::new(100));
        assert!(full.add(50, false));
        assert_eq!(quick.consumed(WINDOW_FIRST as usize / 2, &full), Some(WINDOW_FIRST / 2), "others wait");
    }

    #[test]
    fn no_credit_is_given_to_who_needs_none() {
        for end in [|r: &mut Recv| r.ended = true, |r: &mut Recv| r.moved = true] {
            let (mut recv, all) = (Recv::new(), room());
            end(&mut recv);
            assert_eq!(recv.consumed(WINDOW_FIRST as usize, &all), None);
            assert_eq!(recv.arrives(1), Err(OverWindow), "nothing follows an end");
        }
    }

    #[test]
    fn pieces_are_read_in_order_before_any_end_and_small_ones_share_memory() {
        let (mut recv, all) = (Recv::new(), room());
        for i in 0..100u8 {
            assert!(recv.queue(&[i; 200], &all));
        }
        assert_eq!((all.bytes(), recv.queued(), recv.queue.len()), (20_000, 20_000, 2));
        recv.ended = true;
        let mut got = vec![];
        while let Read::Piece(piece) = recv.read(false, &all) {
            assert!(!recv.is_clear(), "a piece in somebody's hands is not yet written");
            got.extend(piece);
        }
        assert!(got.chunks(200).enumerate().all(|(i, c)| c.iter().all(|b| usize::from(*b) == i)));
        assert_eq!((recv.finished, all.bytes()), (true, 0));
    }

    #[test]
    fn a_held_piece_is_over_when_the_reader_asks_again() {
        let (mut recv, all) = (Recv::new(), room());
        assert!(recv.queue(b"x", &all));
        assert_eq!(recv.read(false, &all), Read::Piece(b"x".to_vec()));
        assert!(!recv.is_clear());
        assert_eq!(recv.read(false, &all), Read::Wait);
        assert!(recv.is_clear());
    }

    #[test]
    fn what_waits_comes_before_the_dedicated_connection_and_that_needs_both_the_word_and_the_connection() {
        let (mut recv, all) = (Recv::new(), room());
        assert!(recv.queue(b"x", &all));
        recv.moved = true;
        assert_eq!(recv.read(true, &all), Read::Piece(b"x".to_vec()));
        assert_eq!(recv.read(false, &all), Read::Wait, "said, but not there");
        assert_eq!(recv.read(true, &all), Read::Dedicated);
        let mut not_said = Recv::new();
        assert_eq!(not_said.read(true, &all), Read::Wait, "there, but not said");
    }

    #[test]
    fn beyond_the_limit_only_who_already_waits_is_refused() {
        let all = Buffered::new(100);
        let (mut a, mut b) = (Recv::new(), Recv::new());
        assert!(a.queue(&[0; 101], &all), "the limit is passed by the last one that fits");
        assert!(!a.queue(&[0; 1], &all));
        assert!(b.queue(&[0; 1], &all), "a stream of which nothing waits yet");
        assert_eq!(all.bytes(), 102);
        a.drop_queue(&all);
        b.drop_queue(&all);
        assert_eq!(all.bytes(), 0);
    }

    #[test]
    fn endless_credit_is_an_attack() {
        let mut send = Send::new();
        assert_eq!(send.credit(), QUANTUM);
        send.sent(WINDOW_FIRST as usize - 10);
        assert_eq!(send.credit(), 10);
        assert!(send.granted(2 * WINDOW_MAX - 10));
        assert!(!send.granted(1));
        assert!(!send.granted(u32::MAX));
    }

    #[test]
    fn bulk_is_what_runs_one_way_or_is_very_much() {
        let mut page = Usage::default();
        assert!(!page.count(BULK_AFTER as usize - 1, Way::Came));
        assert!(page.count(1, Way::Came));

        let mut turns = Usage::default();
        let mut total = 0;
        // Questions of 4 KiB, answers of 32 KiB: never bulk by direction, only by sum.
        loop {
            let bulk = turns.count(4096, Way::Went) || turns.count(8 * 4096, Way::Came);
            total += 9 * 4096;
            if bulk {
                break;
            }
        }
        assert!(total as u64 >= BULK_ANYWAY && (total as u64) < BULK_ANYWAY + 9 * 4096, "{total}");
    }
}
