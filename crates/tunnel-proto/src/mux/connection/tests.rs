//! The rules of a shared connection, one by one.

use super::*;
use crate::frame::{FrameReader, Part};
use crate::mux::{OUT_MAX, QUANTUM, WINDOW_FIRST, WINDOW_MAX, a_moment};

struct Pair {
    edge: Connection<()>,
    client: Connection<()>,
    now: Instant,
}

fn conn(role: Role, now: Instant) -> Connection<()> {
    Connection::new(role, Arc::default(), Arc::new(Buffered::new(1 << 30)), now)
}

/// The frames that wait, as they go out.
fn frames(conn: &mut Connection<()>) -> Vec<(Kind, u32, Vec<u8>)> {
    let (mut buf, mut out) = (vec![], vec![]);
    if conn.poll_transmit(&mut buf).is_none() {
        return out;
    }
    let (mut input, mut reader) = (&buf[HEAD_MAX..], FrameReader::default());
    while let Ok(Some(part)) = reader.next(&mut input) {
        out.push(match part {
            Part::Data(id, bytes) => (Kind::Data, id, bytes.to_vec()),
            Part::Control(kind, id, payload) => (kind, id, payload),
        });
    }
    out
}

fn kinds(conn: &mut Connection<()>) -> Vec<(Kind, u32)> {
    frames(conn).into_iter().map(|(kind, id, _)| (kind, id)).collect()
}

fn events(conn: &mut Connection<()>) -> Vec<Event> {
    std::iter::from_fn(|| conn.poll_event()).collect()
}

impl Pair {
    /// Two ends and one stream, whose number is 1.
    fn with_stream() -> Pair {
        let now = a_moment();
        let mut pair = Pair { edge: conn(Role::Server, now), client: conn(Role::Client, now), now };
        assert_eq!(pair.edge.open(b"who", false, ()), Some(1));
        pair.carry();
        assert_eq!(events(&mut pair.client), [Event::Open { stream: 1, payload: b"who".to_vec() }]);
        assert!(pair.client.accept(1, ()));
        pair
    }

    /// What waits at either end arrives; nobody takes data at once.
    fn carry(&mut self) {
        for turn in 0..2 {
            let (from, to) =
                if turn == 0 { (&mut self.edge, &mut self.client) } else { (&mut self.client, &mut self.edge) };
            for (kind, id, payload) in frames(from) {
                let broken = match kind {
                    Kind::Data => to.handle_data(id, payload.len()).map(|d| {
                        if d != Delivery::Drop {
                            to.delivered(id, 0, &payload);
                        }
                    }),
                    _ => to.handle_frame(kind, id, payload).map(drop),
                };
                assert_eq!(broken, Ok(()));
            }
        }
    }
}

#[test]
fn a_stream_that_was_half_closed_both_ways_is_whole_and_leaves_nothing() {
    let mut p = Pair::with_stream();
    p.edge.send(1, b"question");
    assert_eq!(p.edge.finish(1), Finish::Said);
    p.carry();
    assert_eq!(p.client.read(1), Read::Piece(b"question".to_vec()));
    assert_eq!(p.client.read(1), Read::End);
    p.client.send(1, b"answer");
    assert_eq!(p.client.finish(1), Finish::Said);
    assert!(p.client.close(1).is_some());
    p.carry();
    assert_eq!(p.edge.read(1), Read::Piece(b"answer".to_vec()));
    assert_eq!(p.edge.read(1), Read::End);
    assert!(p.edge.close(1).is_some());
    assert_eq!(kinds(&mut p.edge), []);
    assert_eq!((p.edge.load(), p.client.load()), (0, 0));
}

#[test]
fn whoever_lets_go_before_the_end_resets_and_the_peer_takes_no_part_for_the_whole() {
    let mut p = Pair::with_stream();
    p.edge.send(1, b"part");
    assert!(p.edge.close(1).is_some_and(|c| !c.may_reuse));
    p.carry();
    let reset = Reset { code: ResetCode::Broken, words: String::new() };
    assert!(events(&mut p.client).contains(&Event::PeerReset(reset.clone())));
    assert_eq!(p.client.read(1), Read::Reset(reset.clone()), "what waited is dropped with it");
    assert_eq!(p.client.room(1), Room::Reset(reset));
    assert!(p.client.close(1).is_some());
    assert_eq!(kinds(&mut p.client), [], "no reset answers a reset");
}

#[test]
fn who_has_seen_the_end_and_lets_go_says_an_end() {
    let mut p = Pair::with_stream();
    assert_eq!(p.edge.finish(1), Finish::Said);
    p.carry();
    assert_eq!(p.client.read(1), Read::End);
    assert!(p.client.close(1).is_some());
    assert_eq!(kinds(&mut p.client), [(Kind::End, 1)]);
}

#[test]
fn data_beyond_credit_and_after_the_end_breaks_the_connection() {
    let mut p = Pair::with_stream();
    assert_eq!(p.client.handle_data(1, WINDOW_FIRST as usize), Ok(Delivery::Direct));
    assert_eq!(p.client.handle_data(1, 1), Err(Broken::OverWindow(1)));
    let mut p = Pair::with_stream();
    assert_eq!(p.client.handle_frame(Kind::End, 1, vec![]), Ok(Handled::Ended(1)));
    assert_eq!(p.client.handle_data(1, 1), Err(Broken::OverWindow(1)));
    assert_eq!(p.client.handle_data(9, 1), Ok(Delivery::Drop), "it crossed a reset");
}

#[test]
fn a_sender_uses_up_its_credit_and_gets_it_back() {
    let mut p = Pair::with_stream();
    let mut sent = 0;
    while let Room::Bytes(n) = p.edge.room(1) {
        assert!(n <= QUANTUM);
        p.edge.send(1, &vec![7; n]);
        sent += n;
    }
    assert_eq!(sent, WINDOW_FIRST as usize);
    p.carry();
    events(&mut p.edge);
    while let Read::Piece(piece) = p.client.read(1) {
        p.client.consumed(1, piece.len());
    }
    p.carry();
    p.carry();
    assert!(events(&mut p.edge).contains(&Event::Writable(1)));
    assert!(matches!(p.edge.room(1), Room::Bytes(_)));
}

#[test]
fn room_is_left_as_long_as_nothing_else_may_be_due() {
    let mut p = Pair::with_stream();
    let more = p.edge.send(1, &[7; 100]);
    assert_eq!((more, p.edge.room(1)), (QUANTUM, Room::Bytes(QUANTUM)));
    assert!(p.edge.assign(1) && p.edge.bind(1).is_some());
    assert_eq!(p.edge.send(1, b"the last here"), 0, "it may leave");
    assert_eq!(p.edge.room(1), Room::Dedicated);

    let mut p = Pair::with_stream();
    assert_eq!(p.edge.send(1, &[7; WINDOW_FIRST as usize - 10]), 10);
    assert_eq!(p.edge.send(1, &[7; 10]), 0, "no credit");
    let mut p = Pair::with_stream();
    p.edge.reset(1, &Reset { code: ResetCode::Cut, words: String::new() });
    assert_eq!((p.edge.send(1, b"late"), p.edge.send(9, b"nobody's")), (0, 0));
    let mut p = Pair::with_stream();
    p.edge.push_session(Kind::Pong, &vec![0; OUT_MAX]);
    assert_eq!(p.edge.send(1, b"x"), 0, "others wait for room too");
}

#[test]
fn senders_wait_for_room_and_are_told_of_it_in_their_order() {
    let now = a_moment();
    let mut edge = conn(Role::Server, now);
    let ids: Vec<u32> = (0..40).filter_map(|_| edge.open(&[], false, ())).collect();
    for id in ids.iter().cycle().take(OUT_MAX / QUANTUM + 1) {
        edge.send(*id, &[0; QUANTUM]);
    }
    events(&mut edge);
    let waiting: Vec<u32> = ids.iter().copied().filter(|id| edge.room(*id) == Room::Wait).collect();
    assert!(waiting.len() > WAKE_BATCH);
    assert!(edge.poll_transmit(&mut vec![]).is_some());
    let told: Vec<Event> = waiting.iter().take(WAKE_BATCH).map(|id| Event::Writable(*id)).collect();
    assert_eq!(events(&mut edge), told, "a batch at a time");
    assert!(edge.wants_transmit(), "the others are still to be told");
}

#[test]
fn endless_credit_breaks_the_connection() {
    let mut p = Pair::with_stream();
    let more = (2 * WINDOW_MAX).to_be_bytes().to_vec();
    assert_eq!(p.edge.handle_frame(Kind::Window, 1, more), Err(Broken::EndlessWindow));
    assert!(matches!(p.edge.handle_frame(Kind::Window, 1, vec![1]), Err(Broken::Frame(_))));
}

#[test]
fn frames_that_do_not_belong_here() {
    let mut p = Pair::with_stream();
    assert_eq!(p.edge.handle_frame(Kind::Open, 3, vec![]), Err(Broken::OpenedByClient));
    assert_eq!(p.edge.handle_frame(Kind::Bind, 1, vec![0]), Err(Broken::Misplaced(Kind::Bind)));
    assert!(!p.client.accept(1, ()), "it is open already");
    assert_eq!(kinds(&mut p.client), [(Kind::Reset, 1)]);
}

#[test]
fn a_peer_that_makes_us_answer_and_does_not_read_loses_the_connection() {
    let mut p = Pair::with_stream();
    for _ in 0..OUT_END {
        assert_eq!(p.client.handle_frame(Kind::Ping, 0, vec![]), Ok(Handled::Whole));
        if p.client.is_dead() {
            break;
        }
    }
    assert!(events(&mut p.client).contains(&Event::Dead(Broken::DoesNotRead.to_string())));
    assert!(matches!(p.client.read(1), Read::Reset(_)));
    assert!(!p.client.wants_transmit());
}

#[test]
fn pings_are_said_and_a_silent_peer_is_given_up() {
    let mut p = Pair::with_stream();
    assert_eq!(p.client.poll_timeout(), Some(p.now + PING_EVERY));
    assert_eq!(p.client.handle_timeout(p.now + PING_EVERY), Ok(()));
    assert_eq!(kinds(&mut p.client), [(Kind::Ping, 0)]);
    p.client.heard(p.now + PING_EVERY);
    assert_eq!(p.client.handle_timeout(p.now + 3 * PING_EVERY), Ok(()));
    assert_eq!(p.client.handle_timeout(p.now + 4 * PING_EVERY), Err(Broken::Silent));
}

#[test]
fn a_stream_moves_only_when_it_is_told_and_each_way_by_itself() {
    let mut p = Pair::with_stream();
    assert!(p.edge.assign(1));
    assert!(!p.edge.assign(1), "one is enough");
    assert!(matches!(p.edge.room(1), Room::Bytes(_)), "the peer is not told yet");
    assert!(p.edge.bind(1).is_some());
    assert_eq!(p.edge.room(1), Room::Dedicated);
    p.carry();
    assert_eq!(p.client.read(1), Read::Wait, "said, not there");
    assert!(p.client.bind(1).is_some());
    assert_eq!(p.client.read(1), Read::Dedicated);
    p.edge.ended_on_dedicated(1);
    assert_eq!(p.edge.finish(1), Finish::Dedicated);
}

#[test]
fn a_dedicated_connection_that_was_of_no_use_leaves_the_way_open_for_another() {
    let mut p = Pair::with_stream();
    assert!(p.edge.assign(1));
    p.edge.unassign(1);
    assert!(p.edge.assign(1));
    assert!(p.edge.bind(1).is_some());
    p.edge.unassign(1);
    assert!(p.edge.bind(1).is_none(), "it has one");
}

#[test]
fn a_stream_with_one_end_said_gets_no_dedicated_connection() {
    let mut p = Pair::with_stream();
    assert_eq!(p.client.finish(1), Finish::Said);
    p.carry();
    assert!(!p.edge.assign(1));
}

#[test]
fn a_dedicated_connection_is_used_again_only_if_the_client_was_heard_on_it() {
    for heard in [false, true] {
        let mut p = Pair::with_stream();
        assert!(p.edge.assign(1) && p.edge.bind(1).is_some());
        assert_eq!(p.edge.room(1), Room::Dedicated);
        if heard {
            assert!(p.client.bind(1).is_some() && p.client.moves(1));
            p.carry();
            assert_eq!(p.edge.read(1), Read::Dedicated);
            p.edge.ended_on_dedicated(1);
        } else {
            assert_eq!(p.client.finish(1), Finish::Said);
            p.carry();
            assert_eq!(p.edge.read(1), Read::End);
        }
        assert_eq!(p.edge.finish(1), Finish::Dedicated);
        assert_eq!(p.edge.close(1).map(|c| (c.may_reuse, c.end_on_dedicated)), Some((heard, false)));
    }
}

#[test]
fn a_stream_whose_dedicated_connection_never_comes_is_not_forgotten() {
    let mut p = Pair::with_stream();
    assert!(p.edge.assign(1) && p.edge.bind(1).is_some() && p.edge.moves(1));
    assert_eq!(p.edge.finish(1), Finish::Dedicated);
    p.carry();
    let late = p.now + DEDICATED_COMES_WITHIN;
    p.client.heard(late);
    assert_eq!(p.client.handle_timeout(late), Ok(()));
    assert_eq!(p.client.read(1), Read::Wait, "it may still come");
    assert_eq!(p.client.handle_timeout(late + PING_EVERY), Ok(()));
    assert!(matches!(p.client.read(1), Read::Reset(_)));
}

#[test]
fn streams_of_a_connection_that_replaces_another_have_numbers_of_their_own() {
    let (now, numbers) = (a_moment(), Arc::new(StreamNumbers::default()));
    let conn = || Connection::new(Role::Server, numbers.clone(), Arc::new(Buffered::new(1)), now);
    let (mut old, mut new): (Connection<()>, Connection<()>) = (conn(), conn());
    assert_eq!((old.open(&[], false, ()), new.open(&[], false, ())), (Some(1), Some(2)));
}

#[test]
fn only_the_edge_wants_dedicated_connections_and_only_for_bulk() {
    let mut p = Pair::with_stream();
    p.client.send(1, &[0; WINDOW_FIRST as usize]);
    p.client.send(1, &[0; WINDOW_FIRST as usize]);
    assert_eq!(events(&mut p.client), []);
    p.edge.send(1, &[0; WINDOW_FIRST as usize]);
    assert_eq!(events(&mut p.edge), []);
    p.edge.send(1, &[0; WINDOW_FIRST as usize]);
    assert_eq!(events(&mut p.edge), [Event::WantsDedicated(1)]);
    assert_eq!(p.edge.open(&[], true, ()), Some(2));
    assert_eq!(events(&mut p.edge), [Event::WantsDedicated(2)], "asked for whatever it carries");
}

#[test]
fn a_dead_connection_ends_its_streams_and_says_nothing_more() {
    let mut p = Pair::with_stream();
    events(&mut p.edge);
    p.edge.send(1, b"x");
    p.edge.kill("closed");
    assert_eq!(events(&mut p.edge), [Event::Readable(1), Event::Writable(1), Event::Dead("closed".to_string())]);
    assert_eq!((p.edge.load(), p.edge.open(&[], false, ())), (0, None));
    assert!(p.edge.close(1).is_some());
    assert!(!p.edge.wants_transmit() && p.edge.poll_timeout().is_none());
}
