//! One end of the multiplexer against a peer that may send anything, and a user that may do anything. In: bytes that say
//! what happens. Out: nothing, or a panic.
//!
//! What holds whatever comes: nobody gets more data out of the peer than was granted to it, nor sends more than it granted;
//! what waits is counted and bounded by credit; whoever breaks the protocol ends all streams, and these know it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunnel_proto::frame::{FrameReader, Kind, Part, Reset, ResetCode, parse_u32, push};
use tunnel_proto::mux::dedicated::{Frame, Reader};
use tunnel_proto::mux::{Buffered, Connection, Delivery, Event, Finish, Read, Room, WINDOW_FIRST, WINDOW_MAX};
use tunnel_proto::ws::{HEAD_MAX, Role};

/// Streams have low numbers, so that two things often meet the same one.
const STREAMS: u32 = 4;

/// What was granted and used up, by stream.
#[derive(Default)]
struct Account {
    /// By us to the peer, and what it sent.
    granted: u64,
    came: u64,
    /// By the peer to us, and what we sent.
    credit: u64,
    went: u64,
}

struct World {
    conn: Connection<()>,
    buffered: Arc<Buffered>,
    frames: FrameReader,
    /// Streams that the peer opens and nobody answered yet.
    asked: Vec<u32>,
    accounts: BTreeMap<u32, Account>,
    /// Moved to a dedicated connection: nothing is sent here any more.
    moved: Vec<u32>,
    now: Instant,
}

/// The fuzz target: the first byte chooses the end, then each step is a byte for what and bytes for how.
pub fn hostile(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    dedicated(bytes, usize::from(*first));
    let role = if first % 2 == 0 { Role::Client } else { Role::Server };
    let buffered = Arc::new(Buffered::new(100_000));
    let now = Instant::now();
    let mut world = World {
        conn: Connection::new(role, Arc::default(), buffered.clone(), now),
        buffered: buffered.clone(),
        frames: FrameReader::default(),
        asked: vec![],
        accounts: BTreeMap::new(),
        moved: vec![],
        now,
    };
    let mut steps = bytes.iter().copied();
    while let Some(what) = steps.next() {
        let mut next = || steps.next().unwrap_or_default();
        let id = u32::from(next()) % STREAMS;
        world.step(what, id, &mut next);
        world.check();
    }
    drop(world);
    assert_eq!(buffered.bytes(), 0, "nothing waits for who is gone");
}

impl World {
    fn step(&mut self, what: u8, id: u32, next: &mut impl FnMut() -> u8) {
        match what % 14 {
            0..=3 => self.frame(id, next),
            4 => self.raw(&[next(), next(), next(), next(), next(), next(), next(), next(), next()]),
            5 => self.open_or_accept(next()),
            6 | 7 => self.read(id, usize::from(next()) * 64),
            8 => self.send(id, usize::from(next()) * 256),
            9 => {
                let moved = self.conn.finish(id) == Finish::Dedicated;
                assert!(!moved || self.moved.contains(&id), "an end on a connection that it does not have");
            }
            10 => self.conn.reset(id, &Reset { code: ResetCode::Cut, words: String::new() }),
            11 => {
                if self.conn.close(id).is_some() {
                    self.transmit();
                    self.accounts.remove(&id);
                    self.moved.retain(|m| *m != id);
                }
            }
            12 => match next() % 4 {
                0 => drop(self.conn.assign(id)),
                1 => drop(self.conn.bind(id)),
                2 => self.conn.unassign(id),
                _ => self.conn.ended_on_dedicated(id),
            },
            _ => {
                self.now += Duration::from_secs(u64::from(next()) / 8);
                if let Err(why) = self.conn.handle_timeout(self.now) {
                    self.conn.kill(&why.to_string());
                }
                self.transmit();
            }
        }
    }

    /// A frame of the peer that is well formed.
    fn frame(&mut self, id: u32, next: &mut impl FnMut() -> u8) {
        let kind = [
            (Kind::Data, 0),
            (Kind::Data, 0),
            (Kind::End, 0),
            (Kind::Reset, 1),
            (Kind::Window, 4),
            (Kind::Moved, 0),
            (Kind::Open, 3),
            (Kind::Ping, 0),
            (Kind::Bind, 1),
            (Kind::Dial, 4),
        ];
        let (kind, len) = kind[usize::from(next()) % kind.len()];
        let payload = match kind {
            Kind::Data => vec![1; usize::from(next()) * 300],
            Kind::Window => (u32::from(next()) << 11).to_be_bytes().to_vec(),
            _ => vec![next(); len],
        };
        let mut bytes = vec![];
        push(&mut bytes, kind, id, &payload);
        self.raw(&bytes);
    }

    /// Bytes of the peer.
    fn raw(&mut self, mut input: &[u8]) {
        self.conn.heard(self.now);
        loop {
            let part = match self.frames.next(&mut input) {
                Ok(Some(part)) => part,
                Ok(None) => return,
                Err(e) => return self.conn.kill(&e.to_string()),
            };
            let broken = match part {
                Part::Data(id, bytes) => self.data(id, bytes),
                Part::Control(kind, id, payload) => {
                    if kind == Kind::Window
                        && let (Ok(more), Some(account)) = (parse_u32(kind, &payload), self.accounts.get_mut(&id))
                    {
                        account.credit += u64::from(more);
                    }
                    self.conn.handle_frame(kind, id, payload).map(drop)
                }
            };
            if let Err(why) = broken {
                self.conn.kill(&why.to_string());
                return;
            }
        }
    }

    fn data(&mut self, id: u32, bytes: &[u8]) -> Result<(), tunnel_proto::mux::Broken> {
        let delivery = self.conn.handle_data(id, bytes.len())?;
        if let Some(account) = self.accounts.get_mut(&id) {
            account.came += bytes.len() as u64;
        }
        let taken = match delivery {
            Delivery::Drop => return Ok(()),
            Delivery::Queue => 0,
            Delivery::Direct => bytes.len() / 3,
        };
        self.conn.delivered(id, taken, &bytes[taken..]);
        Ok(())
    }

    fn open_or_accept(&mut self, how: u8) {
        while let Some(event) = self.conn.poll_event() {
            if let Event::Open { stream, .. } = event {
                self.asked.push(stream);
            }
        }
        let id = match (self.conn.role(), self.asked.pop()) {
            (Role::Server, _) if self.accounts.len() < STREAMS as usize => {
                self.conn.open(&[how], how.is_multiple_of(3), ())
            }
            (Role::Client, Some(id)) if !how.is_multiple_of(8) => self.conn.accept(id, ()).then_some(id),
            (Role::Client, Some(id)) => {
                self.conn.refuse(id, &Reset { code: ResetCode::Unknown, words: "no".to_string() });
                None
            }
            _ => None,
        };
        if let Some(id) = id {
            let first = u64::from(WINDOW_FIRST);
            self.accounts.insert(id, Account { granted: first, credit: first, ..Account::default() });
        }
    }

    fn read(&mut self, id: u32, n: usize) {
        if let Read::Piece(piece) = self.conn.read(id) {
            self.conn.consumed(id, n.min(piece.len()));
        }
    }

    fn send(&mut self, id: u32, n: usize) {
        match self.conn.room(id) {
            Room::Bytes(most) => {
                assert!(!self.moved.contains(&id), "it left this connection");
                let more = self.conn.send(id, &vec![2; n.min(most)]);
                assert!(more == 0 || self.conn.room(id) == Room::Bytes(more), "room that is not there");
            }
            Room::Dedicated => self.moved.push(id),
            Room::Reset(_) | Room::Wait => {}
        }
    }

    /// What goes out is counted.
    fn transmit(&mut self) {
        let mut buf = vec![];
        if self.conn.poll_transmit(&mut buf).is_none() {
            return;
        }
        let (mut input, mut reader) = (&buf[HEAD_MAX..], FrameReader::default());
        while let Ok(Some(part)) = reader.next(&mut input) {
            match part {
                Part::Data(id, bytes) => {
                    if let Some(account) = self.accounts.get_mut(&id) {
                        account.went += bytes.len() as u64;
                        assert!(account.went <= account.credit, "more than the peer granted");
                    }
                }
                Part::Control(Kind::Window, id, payload) => {
                    if let (Ok(more), Some(account)) = (parse_u32(Kind::Window, &payload), self.accounts.get_mut(&id)) {
                        account.granted += u64::from(more);
                    }
                }
                Part::Control(..) => {}
            }
        }
    }

    fn check(&mut self) {
        if self.conn.is_dead() {
            assert!(!self.conn.wants_transmit() && self.conn.load() == 0);
            for id in self.accounts.keys() {
                let knows = matches!(self.conn.room(*id), Room::Reset(_)) || self.moved.contains(id);
                assert!(knows, "stream {id} does not know that it is over");
            }
        }
        self.transmit();
        let queued = self.conn.queued();
        assert_eq!(self.buffered.bytes(), queued as u64, "what waits is counted");
        assert!(queued <= self.accounts.len() * WINDOW_MAX as usize);
        for (id, account) in &self.accounts {
            assert!(self.conn.is_dead() || account.came <= account.granted, "stream {id} had no credit for that");
        }
    }
}

/// Bytes on a dedicated connection: the same comes however they are cut.
fn dedicated(bytes: &[u8], step: usize) {
    let whole = frames(bytes, bytes.len().max(1));
    assert_eq!(frames(bytes, step.max(1)), whole, "a dedicated connection in pieces");
}

fn frames(bytes: &[u8], step: usize) -> (Vec<(u32, Vec<u8>)>, bool) {
    let (mut reader, mut out) = (Reader::default(), Vec::<(u32, Vec<u8>)>::new());
    for piece in bytes.to_vec().chunks_mut(step) {
        let mut input = piece;
        while !input.is_empty() {
            let Ok(step) = reader.next(input) else { return (out, true) };
            let (used, rest) = input.split_at_mut(step.used);
            match step.frame {
                None => {}
                Some(Frame::Data { stream, len }) => {
                    let data = &used[used.len() - len..];
                    match out.last_mut() {
                        Some((last, all)) if *last == stream => all.extend_from_slice(data),
                        _ => out.push((stream, data.to_vec())),
                    }
                }
                Some(other) => out.push((u32::MAX, format!("{other:?}").into_bytes())),
            }
            input = rest;
        }
    }
    (out, false)
}
