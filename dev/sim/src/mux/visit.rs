//! Users of streams, and the model of what they must see. In: turns. Out: bytes sent and checked, ends, early goodbyes.

use std::fmt;

use tunnel_proto::frame::{Kind, Reset, ResetCode};
use tunnel_proto::mux::{Finish, Read, Room};

use super::ends::{FromLink, Local};
use super::net::Rng;
use super::{CLIENT, EDGE, World, broken};

/// A stream from its user at the edge to its user at the client.
#[derive(Debug)]
pub(super) struct Visit {
    sides: [Side; 2],
    /// Dedicated connections that it had.
    pub(super) links: Vec<usize>,
    /// Its users gave a reason to reset it.
    excused: bool,
    /// It was promised a dedicated connection that the client still used for a stream that was over at the edge.
    pub(super) queues: bool,
}

/// One user.
#[derive(Debug)]
struct Side {
    /// The shared connection and the stream's number.
    on: Option<(usize, u32)>,
    is_over: bool,

    /// Bytes that it will send, has sent, and whether it said its end.
    plan: usize,
    sent: usize,
    finished: bool,
    /// The sending direction is on this dedicated connection.
    tx: Option<usize>,
    tx_waits: bool,

    got: usize,
    saw_end: bool,
    /// The end went to its socket at once.
    ended_at_once: bool,
    piece: Hidden,
    at: usize,
    rx: Option<usize>,
    rx_waits: bool,

    /// It has a socket that takes bytes at once, with so much room; else it reads by itself.
    room: Option<usize>,
    /// Once in so many turns it reads.
    laziness: usize,
    /// It goes when it got so much.
    leaves_at: Option<usize>,
    /// It goes when it has seen the end, whatever it wanted to send.
    hasty: bool,
}

/// Bytes that nobody wants to read in a message.
struct Hidden(Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Side {
    fn new(rng: &mut Rng) -> Side {
        let plan = match rng.below(10) {
            0 => 0,
            1..=4 => rng.below(2_000),
            5 | 6 => rng.below(100_000),
            7 | 8 => 100_000 + rng.below(300_000),
            _ => 300_000 + rng.below(2_000_000),
        };
        Side {
            on: None,
            is_over: false,
            plan,
            sent: 0,
            finished: false,
            tx: None,
            tx_waits: false,
            got: 0,
            saw_end: false,
            ended_at_once: false,
            piece: Hidden(vec![]),
            at: 0,
            rx: None,
            rx_waits: false,
            room: (!rng.once_in(3)).then_some(0),
            laziness: [1, 1, 2, 50][rng.below(4)],
            leaves_at: rng.once_in(25).then(|| rng.below(300_000)),
            hasty: rng.once_in(15),
        }
    }
}

impl Visit {
    /// What waits may go on.
    pub(super) fn woken(&mut self, end: usize, readable: bool) {
        let side = &mut self.sides[end];
        if readable { side.rx_waits = false } else { side.tx_waits = false }
    }

    /// Nobody is lazy any more.
    pub(super) fn hurry(&mut self) {
        self.sides.iter_mut().for_each(|s| s.laziness = 1);
    }
}

impl World {
    /// A visitor comes.
    pub(super) fn open(&mut self) {
        let carrier = self.current[self.rng.below(self.current.len())];
        let visit = self.visits.len();
        let local = Local { visit, link: None };
        let wants = self.rng.once_in(3);
        let conn = &mut self.carriers[carrier].ends[EDGE].conn;
        let Some(id) = conn.open(&(visit as u32).to_be_bytes(), wants, local) else { return };
        let mut sides = [Side::new(&mut self.rng), Side::new(&mut self.rng)];
        sides[EDGE].on = Some((carrier, id));
        self.visits.push(Visit { sides, links: vec![], excused: false, queues: false });
        self.active.push(visit);
        self.tally.visits += 1;
        self.events(carrier, EDGE);
    }

    /// The client hears of it.
    pub(super) fn opened(&mut self, carrier: usize, id: u32, payload: &[u8]) {
        let visit = payload.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        let conn = &mut self.carriers[carrier].ends[CLIENT].conn;
        if self.rng.once_in(40) {
            conn.refuse(id, &Reset { code: ResetCode::Unknown, words: String::new() });
            self.visits[visit].excused = true;
            self.visits[visit].sides[CLIENT].is_over = true;
        } else if conn.accept(id, Local { visit, link: None }) {
            self.visits[visit].sides[CLIENT].on = Some((carrier, id));
        } else {
            broken!(self, "the client refuses stream {id}");
        }
    }

    /// Bytes that nothing waits before, for a user with a socket: how many it takes.
    pub(super) fn take_at_once(&mut self, visit: usize, end: usize, bytes: &[u8]) -> usize {
        let Some(room) = self.visits[visit].sides[end].room else { return 0 };
        let n = room.min(bytes.len());
        self.visits[visit].sides[end].room = Some(room - n);
        self.got(visit, end, &bytes[..n]);
        n
    }

    /// The end, and nothing waits before it.
    pub(super) fn ended_at_once(&mut self, carrier: usize, end: usize, id: u32) {
        let Some(visit) = self.carriers[carrier].ends[end].conn.local(id).map(|l| l.visit) else { return };
        if self.visits[visit].sides[end].room.is_some() {
            self.visits[visit].sides[end].ended_at_once = true;
            self.check_end(visit, end);
        }
    }

    /// One turn of one user.
    pub(super) fn act(&mut self, v: usize, end: usize) {
        let side = &mut self.visits[v].sides[end];
        if side.on.is_none() || side.is_over {
            return self.forget_if_over(v);
        }
        if let Some(room) = &mut side.room
            && self.rng.once_in(side.laziness)
        {
            *room = (*room + self.rng.below(40_000)).min(100_000);
        }
        if side.leaves_at.is_some_and(|at| side.got >= at) {
            return self.leave(v, end);
        }
        if self.rng.once_in(2) {
            self.reads(v, end)
        } else {
            self.sends(v, end)
        }
        let side = &self.visits[v].sides[end];
        if side.is_over || !side.saw_end {
            return;
        }
        let flushed = side.tx.is_none_or(|link| self.links[link].is_flushed(end));
        if side.hasty || (side.finished && flushed) {
            self.leave(v, end);
        }
    }

    fn reads(&mut self, v: usize, end: usize) {
        let side = &mut self.visits[v].sides[end];
        let Some((c, id)) = side.on else { return };
        if side.saw_end || side.rx_waits || !self.rng.once_in(side.laziness) {
            return;
        }
        let most = match side.room {
            Some(0) => return,
            Some(room) => room,
            None => 1 + self.rng.below(50_000),
        };
        if side.at < side.piece.0.len() {
            let n = most.min(side.piece.0.len() - side.at);
            let bytes = side.piece.0[side.at..side.at + n].to_vec();
            side.at += n;
            side.room = side.room.map(|room| room - n);
            self.got(v, end, &bytes);
            self.carriers[c].ends[end].conn.consumed(id, n);
            return self.events(c, end);
        }
        if let Some(link) = side.rx {
            return match self.read_link(link, end, id, most) {
                FromLink::Nothing => {}
                FromLink::Bytes(bytes) => {
                    let side = &mut self.visits[v].sides[end];
                    side.room = side.room.map(|room| room - bytes.len());
                    self.got(v, end, &bytes);
                }
                FromLink::End => {
                    self.carriers[c].ends[end].conn.ended_on_dedicated(id);
                    self.saw_end(v, end);
                }
                FromLink::Broken => self.was_reset(v, end, "its dedicated connection broke"),
            };
        }
        match self.carriers[c].ends[end].conn.read(id) {
            Read::Piece(piece) => (side.piece, side.at) = (Hidden(piece), 0),
            Read::End => self.saw_end(v, end),
            Read::Reset(reset) => self.was_reset(v, end, &format!("{reset:?}")),
            Read::Wait => side.rx_waits = true,
            Read::Dedicated => side.rx = self.carriers[c].ends[end].conn.local(id).and_then(|l| l.link),
        }
        self.events(c, end);
    }

    fn sends(&mut self, v: usize, end: usize) {
        if let Some(link) = self.visits[v].sides[end].tx {
            self.flush(link, end);
            if !self.links[link].is_flushed(end) {
                return;
            }
        }
        let side = &mut self.visits[v].sides[end];
        let Some((c, id)) = side.on else { return };
        let conn = &mut self.carriers[c].ends[end].conn;
        if side.finished {
            return;
        }
        if side.sent == side.plan {
            side.finished = true;
            if conn.finish(id) == Finish::Dedicated
                && let Some(link) = side.tx
            {
                self.say(link, end, Kind::End, id, &[]);
            }
            return self.events(c, end);
        }
        let key = 2 * v + end;
        if let Some(link) = side.tx {
            let n = (1 + self.rng.below(40_000)).min(side.plan - side.sent);
            let bytes = self.pattern.at(key, side.sent, n).to_vec();
            side.sent += n;
            return self.say(link, end, Kind::Data, id, &bytes);
        }
        if side.tx_waits {
            return;
        }
        match conn.room(id) {
            Room::Wait => side.tx_waits = true,
            Room::Dedicated => side.tx = conn.local(id).and_then(|l| l.link),
            Room::Reset(reset) => return self.was_reset(v, end, &format!("{reset:?}")),
            Room::Bytes(most) => {
                let n = if self.rng.once_in(2) { most } else { 1 + self.rng.below(most) };
                let n = n.min(side.plan - side.sent);
                let more = conn.send(id, self.pattern.at(key, side.sent, n));
                assert!(more == 0 || conn.room(id) == Room::Bytes(more), "room that is not there");
                side.sent += n;
            }
        }
        self.events(c, end);
    }

    /// A user lets its stream go.
    fn leave(&mut self, v: usize, end: usize) {
        let side = &mut self.visits[v].sides[end];
        let Some((c, id)) = side.on else { return };
        side.is_over = true;
        let was_finished = side.finished;
        let flushed = side.tx.is_none_or(|link| self.links[link].is_flushed(end));
        if side.saw_end {
            // Letting go is as good as an end.
            side.finished = true;
        }
        if !(side.saw_end && was_finished && flushed) {
            self.visits[v].excused = true;
        }
        let code = ResetCode::Cut;
        let conn = &mut self.carriers[c].ends[end].conn;
        if !self.visits[v].sides[end].saw_end && self.rng.once_in(2) {
            conn.reset(id, &Reset { code, words: String::new() });
        }
        let Some(closed) = conn.close(id) else { broken!(self, "stream {id} is not there any more") };
        if let Some(link) = closed.local.link {
            if closed.end_on_dedicated {
                self.say(link, end, Kind::End, id, &[]);
            }
            self.comes_back(link, end, closed.may_reuse);
        }
        self.events(c, end);
        self.forget_if_over(v);
    }

    fn forget_if_over(&mut self, v: usize) {
        let [edge, client] = &self.visits[v].sides;
        // The client may never hear of a visitor that left at once, or whose connection broke.
        let unheard = client.on.is_none() && self.is_excused(v) && edge.on.is_some_and(|(c, _)| self.is_deaf(c));
        if edge.is_over && (client.is_over || unheard) && self.active.contains(&v) {
            let whole = [edge, client].iter().all(|s| s.saw_end && s.finished);
            if whole {
                self.tally.whole += 1
            } else {
                self.tally.reset += 1
            }
            if !whole && !self.is_excused(v) {
                broken!(self, "visit {v} is over and not whole: {}", self.picture(v));
            }
            self.active.retain(|a| *a != v);
        }
    }

    // The model.

    fn got(&mut self, v: usize, end: usize, bytes: &[u8]) {
        let (key, from) = (2 * v + (1 - end), self.visits[v].sides[end].got);
        for (i, chunk) in bytes.chunks(32 * 1024).enumerate() {
            if chunk != self.pattern.at(key, from + i * 32 * 1024, chunk.len()) {
                broken!(self, "visit {v}, end {end}: other bytes at {from} (+{})", bytes.len());
            }
        }
        self.visits[v].sides[end].got += bytes.len();
        self.tally.bytes += bytes.len() as u64;
        let [own, other] = [end, 1 - end].map(|e| &self.visits[v].sides[e]);
        if own.got > other.sent {
            broken!(self, "visit {v}, end {end}: {} bytes came, {} were sent", own.got, other.sent);
        }
    }

    fn saw_end(&mut self, v: usize, end: usize) {
        self.visits[v].sides[end].saw_end = true;
        self.check_end(v, end);
    }

    fn check_end(&self, v: usize, end: usize) {
        let [own, other] = [end, 1 - end].map(|e| &self.visits[v].sides[e]);
        if !other.finished || other.sent != own.got {
            broken!(
                self,
                "visit {v}, end {end}: an end after {} bytes of {}; said: {}",
                own.got,
                other.sent,
                other.finished
            );
        }
    }

    fn was_reset(&mut self, v: usize, end: usize, why: &str) {
        // Too little memory for waiting bytes is a reason of its own.
        let busy = why.contains("too many bytes") && self.seed % 5 == 4;
        let queued = why.contains("did not come") && self.visits[v].queues;
        self.visits[v].excused |= busy || queued;
        if !self.is_excused(v) {
            broken!(self, "visit {v}, end {end} is reset without a reason ({why}): {}", self.picture(v));
        }
        self.leave(v, end);
    }

    /// A visit with its connections, for people.
    pub(super) fn picture(&self, v: usize) -> String {
        let visit = &self.visits[v];
        let links: Vec<_> = visit.links.iter().map(|l| self.links[*l].to_string()).collect();
        format!("{visit:?}, dedicated connections: {links:?}")
    }

    fn is_excused(&self, v: usize) -> bool {
        let visit = &self.visits[v];
        visit.excused
            || visit.links.iter().any(|l| self.links[*l].excused)
            || visit.sides.iter().any(|s| s.on.is_some_and(|(c, _)| self.carriers[c].excused))
    }
}
