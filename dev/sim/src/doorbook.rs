//! A slow, obvious model of who is on the lists, kept as one heap of notes that is read through from the start each
//! time. It shares no type with what it checks: addresses are text, times are numbers. In: what happened, in order.
//! Out: who may come in at a moment.

/// What happened, in plain words.
#[derive(Debug, Clone)]
pub enum Note {
    /// The clock was heard to strike.
    Struck {
        /// What it said.
        at: u64,
    },
    /// Somebody showed a proof.
    Showed {
        /// When.
        at: u64,
        /// Which book.
        book: String,
        /// From where.
        who: String,
        /// The person, if known.
        person: Option<String>,
        /// The thing in the person's hand, if known.
        thing: Option<String>,
    },
    /// Somebody was sent away.
    SentAway {
        /// When.
        at: u64,
        /// Which book.
        book: String,
        /// From where.
        who: String,
    },
    /// Somebody was seen going in.
    Passed {
        /// When.
        at: u64,
        /// Which book.
        book: String,
        /// From where.
        who: String,
    },
}

/// How a book is kept.
#[derive(Debug, Clone, Copy)]
pub struct Habit {
    /// At most so many names.
    pub room: usize,
    /// The one who came first leaves first; otherwise the one seen longest ago.
    pub oldest_leaves: bool,
    /// A proof is good for so long.
    pub proof_lasts: u64,
    /// Silence is forgiven for so long.
    pub silence_lasts: u64,
    /// A thing that shows up elsewhere leaves its old place after so long.
    pub farewell: u64,
}

#[derive(Debug, Clone)]
struct Line {
    order: u64,
    who: String,
    person: Option<String>,
    thing: Option<String>,
    came: u64,
    seen: u64,
    good_until: u64,
}

/// Who may come in at `now` by this book, in the order in which they came.
#[must_use]
pub fn inside(notes: &[Note], book: &str, habit: Habit, now: u64) -> Vec<String> {
    let mut lines: Vec<Line> = Vec::new();
    let mut order = 0;
    let mut clock = 0;
    let tidy = |lines: &mut Vec<Line>, clock: u64| {
        lines.retain(|l| clock < l.good_until && clock < l.seen + habit.silence_lasts);
    };
    for note in notes {
        let (Note::Struck { at } | Note::Showed { at, .. } | Note::SentAway { at, .. } | Note::Passed { at, .. }) =
            note;
        clock = clock.max(*at);
        tidy(&mut lines, clock);
        match note {
            Note::Showed { book: b, who, person, thing, .. } if b == book => {
                order += 1;
                match lines.iter_mut().find(|l| &l.who == who) {
                    Some(l) => {
                        l.seen = clock;
                        l.good_until = l.good_until.max(clock + habit.proof_lasts);
                        l.person = person.clone().or(l.person.take());
                        l.thing = thing.clone().or(l.thing.take());
                    }
                    None => lines.push(Line {
                        order,
                        who: who.clone(),
                        person: person.clone(),
                        thing: thing.clone(),
                        came: clock,
                        seen: clock,
                        good_until: clock + habit.proof_lasts,
                    }),
                }
                let now_line = lines.iter().find(|l| &l.who == who).cloned();
                if let Some(n) = now_line.filter(|n| n.person.is_some() && n.thing.is_some()) {
                    for l in &mut lines {
                        if l.who != n.who && l.person == n.person && l.thing == n.thing {
                            l.good_until = l.good_until.min(clock + habit.farewell);
                        }
                    }
                }
                tidy(&mut lines, clock);
                while lines.len() > habit.room {
                    let key = |l: &Line| (if habit.oldest_leaves { l.came } else { l.seen }, l.order);
                    let leaves = lines.iter().map(key).min();
                    lines.retain(|l| Some(key(l)) != leaves);
                }
            }
            Note::SentAway { book: b, who, .. } if b == book => lines.retain(|l| &l.who != who),
            Note::Passed { book: b, who, .. } if b == book => {
                if let Some(l) = lines.iter_mut().find(|l| &l.who == who) {
                    l.seen = clock;
                }
            }
            _ => {}
        }
    }
    tidy(&mut lines, clock.max(now));
    lines.sort_by_key(|l| l.order);
    lines.into_iter().map(|l| l.who).collect()
}
