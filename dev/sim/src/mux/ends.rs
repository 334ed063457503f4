//! The two ends of shared and of dedicated connections: what an IO shell does with the multiplexer, on false connections.
//! In: what the network brings. Out: calls of the multiplexer, and its bytes on the network.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use tunnel_proto::frame::{FrameReader, Kind, Part, Reset, ResetCode, parse_u32};
use tunnel_proto::mux::dedicated::{self, Due, Frame, OfStream, Waiting, WhileIdle};
use tunnel_proto::mux::{Connection, Delivery, Event, Handled};
use tunnel_proto::ws::{Role, WsItem, WsReader};

use super::net::{Got, Pipe};
use super::{CARRIERS, CLIENT, EDGE, World, broken};

/// What an end keeps for a stream: the visit, and the dedicated connection once there is one.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) visit: usize,
    pub(super) link: Option<usize>,
}

/// A shared connection.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) number: usize,
    pub(super) ends: [End; 2],
    /// What each end sends.
    pipes: [Pipe; 2],
    /// The network or the world broke it: its streams may be reset.
    pub(super) excused: bool,
    /// No stall before then, so that none adds up to a silence.
    calm: u64,
}

/// One end of it.
#[derive(Debug)]
pub(super) struct End {
    pub(super) conn: Connection<Local>,
    ws: WsReader,
    frames: FrameReader,
    /// A message on its way out, from `at`.
    out: Vec<u8>,
    at: usize,
    /// Most bytes that ever waited.
    pub(super) most: usize,
}

/// A dedicated connection.
#[derive(Debug)]
pub(super) struct Link {
    pipes: [Pipe; 2],
    ends: [LinkEnd; 2],
    /// The network broke it.
    pub(super) excused: bool,
    /// Streams that it served.
    served: u64,
}

#[derive(Debug)]
struct LinkEnd {
    use_: Use,
    reader: dedicated::Reader,
    input: Vec<u8>,
    at: usize,
    /// Data of the stream not yet taken, before `at`.
    data: usize,
    /// Bytes that the network has not taken.
    out: Vec<u8>,
}

/// Who has an end of a dedicated connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The pool; nobody at the client yet, or the dialler.
    Idle,
    /// The client's, between two streams.
    Waiting(Waiting),
    Stream,
    /// This end let it go.
    Gone,
}

/// A dedicated connection that is being given to a stream of the edge.
#[derive(Debug)]
pub(super) struct Assigning {
    link: usize,
    carrier: usize,
    stream: u32,
    said: bool,
}

/// A connection as the pool holds it: dropped, it is closed.
#[derive(Debug)]
pub(super) struct Held {
    link: Option<usize>,
    dropped: Rc<RefCell<Vec<usize>>>,
}

/// Something that came on a dedicated connection for its stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromLink {
    Bytes(Vec<u8>),
    End,
    Nothing,
    Broken,
}

impl Held {
    fn let_out(mut self) -> usize {
        self.link.take().unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.dropped.borrow_mut().extend(self.link);
    }
}

impl Carrier {
    /// Nothing is under way, or nothing can be.
    pub(super) fn is_quiet(&self, now: u64) -> bool {
        [EDGE, CLIENT].iter().all(|e| {
            let (end, pipe) = (&self.ends[*e], &self.pipes[*e]);
            let is_sent = end.at == end.out.len() && !end.conn.wants_transmit();
            let is_over = end.conn.is_dead() || self.ends[1 - e].conn.is_dead();
            is_over || pipe.stalled > now || (is_sent && pipe.len() == 0)
        })
    }
}

impl Link {
    pub(super) fn is_live(&self, end: usize) -> bool {
        self.ends[end].use_ != Use::Gone
    }

    /// Everything that was said at this end is on its way.
    pub(super) fn is_flushed(&self, end: usize) -> bool {
        self.ends[end].out.is_empty()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [edge, client] = &self.ends;
        write!(f, "edge {:?}, client {:?}, broken {}, served {}", edge.use_, client.use_, self.excused, self.served)?;
        write!(
            f,
            ", on their way {:?}, not taken {:?}",
            self.pipes.each_ref().map(Pipe::len),
            [edge.out.len(), client.out.len()]
        )
    }
}

const ROLES: [Role; 2] = [Role::Server, Role::Client];

impl World {
    /// The client dials a shared connection; one with the same number that the edge still has is replaced.
    pub(super) fn connect(&mut self, number: usize) {
        let now = self.instant();
        let room = [8_000, 60_000, 200_000][self.rng.below(3)];
        let ends = [EDGE, CLIENT].map(|end| End {
            conn: Connection::new(ROLES[end], self.numbers[end].clone(), self.buffered[end].clone(), now),
            ws: WsReader::default(),
            frames: FrameReader::default(),
            out: vec![],
            at: 0,
            most: 0,
        });
        let pipes = [Pipe::new(room), Pipe::new(room)];
        self.carriers.push(Carrier { number, ends, pipes, excused: false, calm: 0 });
        let new = self.carriers.len() - 1;
        let old = std::mem::replace(&mut self.current[number], new);
        if old != new && self.carriers[old].number == number {
            self.carriers[old].ends[EDGE].conn.kill("replaced by a new connection of the client");
            self.events(old, EDGE);
        }
    }

    /// One end sends what it has.
    pub(super) fn transmit(&mut self, c: usize, end: usize) {
        let carrier = &mut self.carriers[c];
        let End { conn, out, at, most, .. } = &mut carrier.ends[end];
        if conn.is_dead() {
            carrier.pipes[end].close();
            return;
        }
        if *at == out.len() {
            out.clear();
            *at = conn.poll_transmit(out).unwrap_or(0);
            *most = (*most).max(out.len());
        }
        *at += carrier.pipes[end].write(&out[*at..], self.now, &mut self.rng);
        self.events(c, end);
    }

    /// One end reads what came.
    pub(super) fn receive(&mut self, c: usize, end: usize) {
        if self.carriers[c].ends[end].conn.is_dead() {
            self.carriers[c].pipes[1 - end].deafen();
            return;
        }
        let now = self.instant();
        match self.carriers[c].pipes[1 - end].read(self.now, &mut self.rng) {
            Got::Nothing => {}
            Got::End => self.carriers[c].ends[end].conn.kill("the other side closed the connection"),
            Got::Bytes(mut bytes) => {
                self.carriers[c].ends[end].conn.heard(now);
                self.take(c, end, &mut bytes);
            }
        }
        self.events(c, end);
    }

    fn take(&mut self, c: usize, end: usize, mut input: &mut [u8]) {
        while let Some(mut ws) = Some(std::mem::take(&mut self.carriers[c].ends[end].ws)) {
            let item = ws.next(&mut input).unwrap_or_else(|e| broken!(self, "end {end}: {e}"));
            self.carriers[c].ends[end].ws = ws;
            let Some(WsItem::Payload(mut payload)) = item else { break };
            loop {
                let mut frames = std::mem::take(&mut self.carriers[c].ends[end].frames);
                let part = frames.next(&mut payload).unwrap_or_else(|e| broken!(self, "end {end}: {e}"));
                self.carriers[c].ends[end].frames = frames;
                match part {
                    None => break,
                    Some(Part::Data(id, bytes)) => self.data(c, end, id, bytes),
                    Some(Part::Control(kind, id, payload)) => {
                        let handled = self.carriers[c].ends[end].conn.handle_frame(kind, id, payload);
                        match handled.unwrap_or_else(|e| broken!(self, "end {end} broke the protocol: {e}")) {
                            Handled::Whole => {}
                            Handled::Ended(id) => self.ended_at_once(c, end, id),
                        }
                    }
                }
                self.events(c, end);
            }
        }
    }

    /// Data goes to its user at once where it may; meanwhile something else may happen to the stream.
    fn data(&mut self, c: usize, end: usize, id: u32, bytes: &[u8]) {
        let delivery = self.carriers[c].ends[end].conn.handle_data(id, bytes.len());
        let taken = match delivery.unwrap_or_else(|e| broken!(self, "end {end} broke the protocol: {e}")) {
            Delivery::Drop => return,
            Delivery::Queue => 0,
            Delivery::Direct => {
                let visit = self.carriers[c].ends[end].conn.local(id).map(|l| l.visit);
                let taken = visit.map_or(0, |visit| self.take_at_once(visit, end, bytes));
                if let Some(visit) = visit
                    && self.rng.once_in(4)
                {
                    self.act(visit, end);
                }
                taken
            }
        };
        self.carriers[c].ends[end].conn.delivered(id, taken, &bytes[taken..]);
    }

    /// Acts on what an end has to say.
    pub(super) fn events(&mut self, c: usize, end: usize) {
        while let Some(event) = self.carriers[c].ends[end].conn.poll_event() {
            match event {
                Event::Open { stream, payload } => self.opened(c, stream, &payload),
                Event::Readable(id) => self.wake(c, end, id, true),
                Event::Writable(id) => self.wake(c, end, id, false),
                Event::WantsDedicated(id) => self.wants_dedicated(c, id),
                Event::Session(Kind::Dial, payload) => {
                    for _ in 0..parse_u32(Kind::Dial, &payload).unwrap_or(0) {
                        let takes = 1 + self.rng.below(150) as u64;
                        self.dials.push(self.now + takes);
                    }
                }
                Event::Session(kind, _) => broken!(self, "a {kind:?} frame that nobody sent"),
                Event::PeerReset(reset) => self.peer_reset(&reset),
                Event::Dead(why) => {
                    // A connection that replaces this one says so at the other end by itself.
                    let ours = why.contains("replaced") || why.contains("closed");
                    if !self.carriers[c].excused && !ours {
                        broken!(self, "a connection died by itself: {why}");
                    }
                    self.carriers[c].excused = true;
                    self.tally.cuts += 1;
                }
            }
        }
    }

    fn peer_reset(&mut self, reset: &Reset) {
        if reset.code == ResetCode::Busy && self.seed % 5 != 4 {
            broken!(self, "busy with memory for all: {}", reset.words);
        }
    }

    fn wake(&mut self, c: usize, end: usize, id: u32, readable: bool) {
        if let Some(local) = self.carriers[c].ends[end].conn.local(id) {
            self.visits[local.visit].woken(end, readable);
        }
    }

    // Time.

    pub(super) fn timeouts(&mut self) {
        let now = self.instant();
        for c in 0..self.carriers.len() {
            for end in [EDGE, CLIENT] {
                let conn = &mut self.carriers[c].ends[end].conn;
                if conn.poll_timeout().is_some_and(|at| at <= now)
                    && let Err(why) = conn.handle_timeout(now)
                {
                    conn.kill(&why.to_string());
                }
                self.events(c, end);
            }
        }
        for number in 0..CARRIERS {
            // The client comes back.
            if self.carriers[self.current[number]].ends[CLIENT].conn.is_dead() && self.rng.once_in(20) {
                self.connect(number);
            }
        }
        let due: Vec<u64> = self.dials.extract_if(.., |at| *at <= self.now).collect();
        due.iter().for_each(|_| self.dialled());
        for link in 0..self.links.len() {
            if let Use::Waiting(mut waiting) = self.links[link].ends[CLIENT].use_ {
                let due = waiting.handle_timeout(now);
                self.links[link].ends[CLIENT].use_ = Use::Waiting(waiting);
                match due {
                    Due::Nothing => {}
                    Due::Ping => self.say(link, CLIENT, Kind::Ping, 0, &[]),
                    Due::GiveUp => self.let_go(link, CLIENT),
                }
            }
        }
        if self.now >= self.swept + 30_000 {
            self.swept = self.now;
            let alive: Vec<bool> = (0..self.links.len())
                .map(|l| self.links[l].ends[EDGE].use_ != Use::Idle || self.idle_is_alive(l))
                .collect();
            self.pool.handle_timeout(now, |held| held.link.is_some_and(|l| alive[l]));
            self.close_dropped();
        }
    }

    /// The client's end of a shared connection reads nothing any more.
    pub(super) fn is_deaf(&self, c: usize) -> bool {
        let carrier = &self.carriers[c];
        carrier.ends[CLIENT].conn.is_dead()
    }

    // Faults.

    pub(super) fn stall(&mut self) {
        let (end, long) = (self.rng.below(2), 1 + self.rng.below(2_000) as u64);
        if self.rng.once_in(2) && !self.links.is_empty() {
            let link = self.rng.below(self.links.len());
            self.links[link].pipes[end].stalled = self.now + long;
            return;
        }
        let number = self.rng.below(CARRIERS);
        let carrier = &mut self.carriers[self.current[number]];
        if carrier.calm <= self.now {
            carrier.pipes[end].stalled = self.now + long;
            carrier.calm = self.now + 5_000;
        }
    }

    pub(super) fn cut_link(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let link = self.rng.below(self.links.len());
        let link = &mut self.links[link];
        if link.is_live(EDGE) && link.is_live(CLIENT) {
            link.excused = true;
            link.pipes.iter_mut().for_each(Pipe::cut);
            self.tally.cuts += 1;
        }
    }

    pub(super) fn cut_carrier(&mut self) {
        let number = self.rng.below(CARRIERS);
        let carrier = &mut self.carriers[self.current[number]];
        carrier.excused = true;
        carrier.pipes.iter_mut().for_each(Pipe::cut);
    }

    /// Nothing arrives any more, and nobody says so.
    pub(super) fn silence_carrier(&mut self) {
        let number = self.rng.below(CARRIERS);
        let carrier = &mut self.carriers[self.current[number]];
        carrier.excused = true;
        carrier.pipes.iter_mut().for_each(|p| p.stalled = u64::MAX);
    }

    // Dedicated connections.

    fn held(&self, link: usize) -> Held {
        Held { link: Some(link), dropped: self.dropped.clone() }
    }

    /// Connections that the pool let go are closed.
    fn close_dropped(&mut self) {
        let dropped = std::mem::take(&mut *self.dropped.borrow_mut());
        for link in dropped {
            self.let_go(link, EDGE);
        }
    }

    /// One that the client dialled is there.
    fn dialled(&mut self) {
        let room = [4_000, 60_000, 300_000][self.rng.below(3)];
        let idle =
            |use_| LinkEnd { use_, reader: dedicated::Reader::default(), input: vec![], at: 0, data: 0, out: vec![] };
        let ends = [idle(Use::Idle), idle(Use::Waiting(Waiting::begin(self.instant())))];
        let pipes = [Pipe::new(room), Pipe::new(room)];
        self.links.push(Link { pipes, ends, excused: false, served: 0 });
        let held = self.held(self.links.len() - 1);
        drop(self.pool.arrived(held));
        self.close_dropped();
    }

    /// A stream of the edge is bulk.
    fn wants_dedicated(&mut self, c: usize, id: u32) {
        loop {
            let Some(held) = self.pool.take() else {
                if self.pool.asks(self.instant()) {
                    let main = self.current[0];
                    self.carriers[main].ends[EDGE].conn.push_session(Kind::Dial, &1u32.to_be_bytes());
                }
                return;
            };
            let link = held.let_out();
            if !self.carriers[c].ends[EDGE].conn.assign(id) {
                let held = self.held(link);
                drop(self.pool.give_back(held));
                return;
            }
            if !self.idle_is_alive(link) {
                self.lost(link);
                self.carriers[c].ends[EDGE].conn.unassign(id);
                continue;
            }
            self.assigning.push(Assigning { link, carrier: c, stream: id, said: false });
            return;
        }
    }

    /// Giving a connection to a stream takes steps; anything may happen between them.
    pub(super) fn go_on_assigning(&mut self) {
        if self.assigning.is_empty() {
            return;
        }
        let at = self.rng.below(self.assigning.len());
        let Assigning { link, carrier: c, stream, said } = self.assigning[at];
        if !said {
            let number = self.carriers[c].number as u8;
            self.say(link, EDGE, Kind::Bind, stream, &[number]);
            self.assigning[at].said = true;
            return;
        }
        self.assigning.swap_remove(at);
        match self.carriers[c].ends[EDGE].conn.bind(stream) {
            Some(local) => {
                local.link = Some(link);
                let visit = local.visit;
                self.bound(link, EDGE, visit);
            }
            None => self.lost(link),
        }
        self.events(c, EDGE);
    }

    fn bound(&mut self, link: usize, end: usize, visit: usize) {
        self.links[link].ends[end].use_ = Use::Stream;
        self.visits[visit].links.push(link);
        self.visits[visit].queues |= end == EDGE && self.links[link].ends[CLIENT].use_ == Use::Stream;
        if end == CLIENT {
            self.tally.bound += 1;
            self.tally.reused += u64::from(self.links[link].served > 0);
            self.links[link].served += 1;
        }
    }

    fn lost(&mut self, link: usize) {
        self.pool.lost();
        self.let_go(link, EDGE);
    }

    /// A connection that no stream has: pings, and at the client the word whose it is.
    pub(super) fn idle_link(&mut self, link: usize) {
        self.flush(link, EDGE);
        self.flush(link, CLIENT);
        let Use::Waiting(mut waiting) = self.links[link].ends[CLIENT].use_ else { return };
        let now = self.instant();
        while matches!(waiting, Waiting::Bind(_)) {
            let frame = match self.next_frame(link, CLIENT) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(()) => return self.let_go(link, CLIENT),
            };
            match waiting.handle_frame(&frame, now) {
                Ok(_) => self.links[link].ends[CLIENT].use_ = Use::Waiting(waiting),
                Err(None) => return self.let_go(link, CLIENT),
                Err(Some(e)) => broken!(self, "on an idle dedicated connection of the client: {e}"),
            }
        }
        let Waiting::Stream { carrier, stream, .. } = waiting else { return };
        let c = self.current[usize::from(carrier)];
        let conn = &mut self.carriers[c].ends[CLIENT].conn;
        if conn.is_dead() {
            return self.let_go(link, CLIENT);
        }
        if conn.local(stream).is_none() {
            return;
        }
        match conn.bind(stream) {
            Some(local) => {
                local.link = Some(link);
                let visit = local.visit;
                self.bound(link, CLIENT, visit);
            }
            None => self.let_go(link, CLIENT),
        }
        self.events(c, CLIENT);
    }

    /// Reads what came while the edge's end was idle.
    fn idle_is_alive(&mut self, link: usize) -> bool {
        loop {
            match self.next_frame(link, EDGE) {
                Ok(None) => return true,
                Err(()) => return false,
                Ok(Some(frame)) => match frame.while_idle(Role::Server) {
                    Ok(WhileIdle::Alive) => {}
                    Ok(_) => return false,
                    Err(e) => broken!(self, "on an idle dedicated connection of the edge: {e}"),
                },
            }
        }
    }

    /// The next frame, if one is there.
    fn next_frame(&mut self, link: usize, end: usize) -> Result<Option<Frame>, ()> {
        loop {
            let LinkEnd { reader, input, at, .. } = &mut self.links[link].ends[end];
            while *at < input.len() {
                let step = reader.next(&mut input[*at..]).unwrap_or_else(|e| broken!(self, "end {end}: {e}"));
                *at += step.used;
                if step.frame.is_some() {
                    return Ok(step.frame);
                }
            }
            match self.links[link].pipes[1 - end].read(self.now, &mut self.rng) {
                Got::Nothing => return Ok(None),
                Got::End => return Err(()),
                Got::Bytes(bytes) => {
                    let end = &mut self.links[link].ends[end];
                    (end.input, end.at) = (bytes, 0);
                }
            }
        }
    }

    /// What comes next for the stream of a dedicated connection: some of its bytes, at most `most`.
    pub(super) fn read_link(&mut self, link: usize, end: usize, id: u32, most: usize) -> FromLink {
        loop {
            let LinkEnd { input, at, data, .. } = &mut self.links[link].ends[end];
            if *data > 0 {
                let (from, n) = (*at - *data, (*data).min(most));
                *data -= n;
                return FromLink::Bytes(input[from..from + n].to_vec());
            }
            let frame = match self.next_frame(link, end) {
                Ok(None) => return FromLink::Nothing,
                Err(()) => return FromLink::Broken,
                Ok(Some(frame)) => frame,
            };
            match frame.of_stream(id).unwrap_or_else(|e| broken!(self, "end {end}: {e}")) {
                OfStream::Data(len) => self.links[link].ends[end].data = len,
                OfStream::End => return FromLink::End,
                OfStream::Alive => {}
                OfStream::Closed => return FromLink::Broken,
            }
        }
    }

    /// Says a frame on a dedicated connection; it takes it whole.
    pub(super) fn say(&mut self, link: usize, end: usize, kind: Kind, stream: u32, payload: &[u8]) {
        let message = dedicated::message(ROLES[end], kind, stream, payload);
        self.links[link].ends[end].out.extend(message);
        self.flush(link, end);
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self, link: usize, end: usize) {
        let Link { pipes, ends, .. } = &mut self.links[link];
        let n = pipes[end].write(&ends[end].out, self.now, &mut self.rng);
        ends[end].out.drain(..n);
    }

    /// A stream is over, and with it its use of the connection.
    pub(super) fn comes_back(&mut self, link: usize, end: usize, may_reuse: bool) {
        if !may_reuse || !self.links[link].ends[end].out.is_empty() {
            return if end == EDGE { self.lost(link) } else { self.let_go(link, CLIENT) };
        }
        if end == EDGE {
            self.links[link].ends[EDGE].use_ = Use::Idle;
            let held = self.held(link);
            drop(self.pool.give_back(held));
        } else {
            self.links[link].ends[CLIENT].use_ = Use::Waiting(Waiting::begin(self.instant()));
        }
    }

    /// One end drops a connection.
    fn let_go(&mut self, link: usize, end: usize) {
        let Link { pipes, ends, excused, .. } = &mut self.links[link];
        ends[end].use_ = Use::Gone;
        pipes[end].close();
        if pipes[1 - end].len() > 0 && self.rng.once_in(2) {
            // TCP answers what nobody reads any more by a reset, and what is on its way is lost.
            pipes[end].cut();
            *excused = true;
        }
        pipes[1 - end].deafen();
    }
}
