//! A slow, obvious model of who is on the lists, kept as one heap of notes that is read through from the start each
//! time. It shares no type with what it checks: addresses are text, times are numbers. In: what happened, in order.
//! Out: who may come in at a moment.

/// From where somebody comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// The address.
    pub name: String,
    /// The house it stands in, and the street of that.
    pub house: String,
    /// See there.
    pub street: String,
    /// New addresses and old ones are apart.
    pub modern: bool,
}

/// What somebody shows, from the weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// An invitation that anybody may hold.
    Invitation,
    /// A password.
    Password,
    /// A key.
    Key,
    /// The word of the house's owner.
    Word,
}

/// What happened, in plain words.
#[derive(Debug, Clone)]
pub struct Note {
    /// When.
    pub at: u64,
    /// Which book.
    pub book: String,
    /// What.
    pub event: Happened,
}

/// See [`Note`].
#[derive(Debug, Clone)]
pub enum Happened {
    /// The clock was heard to strike.
    Struck,
    /// Somebody showed a proof.
    Showed {
        /// From where.
        door: Door,
        /// What.
        shown: Shown,
        /// The person, if known.
        person: Option<String>,
        /// The thing in the person's hand, if known.
        thing: Option<String>,
    },
    /// The owner let somebody in, until then.
    Welcomed {
        /// From where.
        door: Door,
        /// Until when, if not for ever.
        until: Option<u64>,
    },
    /// The owner sent somebody away; with a time, not to be let in again before it.
    SentAway {
        /// From where.
        door: Door,
        /// Not before.
        not_before: Option<u64>,
    },
    /// The owner sent a person away from everywhere; with a time, not to be let in again before it.
    Dismissed {
        /// Whom.
        person: String,
        /// Not before.
        not_before: Option<u64>,
    },
    /// The owner forgave a door.
    Forgave {
        /// Which.
        door: Door,
    },
    /// Somebody was seen going in.
    Passed {
        /// From where.
        door: Door,
    },
}

/// How a book is kept.
#[derive(Debug, Clone, Copy)]
pub struct Habit {
    /// At most so many names.
    pub room: usize,
    /// At most so many who came by invitation.
    pub guest_room: usize,
    /// The one who came first leaves first; otherwise the one seen longest ago.
    pub oldest_leaves: bool,
    /// A proof is good for so long.
    pub proof_lasts: u64,
    /// Silence is forgiven for so long.
    pub silence_lasts: u64,
    /// A thing that shows up elsewhere leaves its old place after so long; never, if nothing is said.
    pub farewell: Option<u64>,
    /// A person may be at so many places.
    pub places: Option<usize>,
    /// Who is back within so long at a place that he had left is two.
    pub back_within: u64,
    /// The other places of a thing that is several last so long.
    pub elsewhere_lasts: u64,
}

#[derive(Debug, Clone)]
struct Reason {
    shown: Shown,
    person: Option<String>,
    thing: Option<String>,
    proved: u64,
    good_until: Option<u64>,
    ages: bool,
    moved_on: bool,
    many: usize,
}

#[derive(Debug, Clone)]
struct Line {
    order: u64,
    door: Door,
    came: u64,
    seen: u64,
    reasons: Vec<Reason>,
}

#[derive(Debug, Default)]
struct Registry {
    lines: Vec<Line>,
    order: u64,
    clock: u64,
    /// Who moved on from where, and when.
    moved: Vec<(u64, String, Reason)>,
    /// Forbidden admission and persons.
    forbidden: Vec<(Option<String>, Option<String>, u64)>,
}

/// Who may come in at `now` by this book, in the order in which they came.
#[must_use]
pub fn inside(notes: &[Note], book: &str, habit: Habit, now: u64) -> Vec<String> {
    let mut b = Registry::default();
    for note in notes {
        b.clock = b.clock.max(note.at);
        b.tidy(habit);
        if note.book != book {
            continue;
        }
        match &note.event {
            Happened::Struck => {}
            Happened::Showed { door, shown, person, thing } => b.showed(door, *shown, person, thing, habit),
            Happened::Welcomed { door, until } => b.welcomed(door, *until, habit),
            Happened::SentAway { door, not_before } => {
                if let Some(until) = not_before {
                    b.forbidden.retain(|f| f.0.as_ref() != Some(&door.name));
                    b.forbidden.push((Some(door.name.clone()), None, *until));
                }
                b.lines.retain(|l| l.door != *door);
            }
            Happened::Dismissed { person, not_before } => {
                if let Some(until) = not_before {
                    b.forbidden.retain(|f| f.1.as_ref() != Some(person));
                    b.forbidden.push((None, Some(person.clone()), *until));
                }
                for at in b.orders() {
                    if let Some(l) = b.lines.iter_mut().find(|l| l.order == at) {
                        let before = l.reasons.len();
                        l.reasons.retain(|r| r.person.as_ref() != Some(person));
                        if l.reasons.len() < before {
                            b.lines.retain(|l| !l.reasons.is_empty());
                            b.crowd_out(habit);
                        }
                    }
                }
            }
            Happened::Forgave { door } => b.forbidden.retain(|f| f.0.as_ref() != Some(&door.name)),
            Happened::Passed { door } => {
                if let Some(l) = b.lines.iter_mut().find(|l| l.door == *door) {
                    l.seen = b.clock;
                }
            }
        }
        b.tidy(habit);
    }
    b.clock = b.clock.max(now);
    b.tidy(habit);
    b.lines.sort_by_key(|l| l.order);
    b.lines.into_iter().map(|l| l.door.name).collect()
}

impl Line {
    fn best(&self) -> Shown {
        self.reasons.iter().map(|r| r.shown).max().unwrap_or(Shown::Invitation)
    }
    fn is_guest(&self) -> bool {
        self.best() == Shown::Invitation
    }
    fn sort(&mut self) {
        self.reasons.sort_by_key(|r| std::cmp::Reverse((r.shown, r.person.is_some())));
    }
}

fn over(r: &Reason, seen: u64, habit: Habit) -> u64 {
    let silent = if r.ages { seen + habit.silence_lasts } else { u64::MAX };
    silent.min(r.good_until.unwrap_or(u64::MAX))
}

impl Registry {
    fn orders(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.lines.iter().map(|l| l.order).collect();
        all.sort_unstable();
        all
    }

    fn tidy(&mut self, habit: Habit) {
        self.forbidden.retain(|f| f.2 > self.clock);
        loop {
            let due = self.lines.iter().filter_map(|l| {
                let end = l.reasons.iter().map(|r| over(r, l.seen, habit)).min()?;
                (end <= self.clock).then_some((end, l.order))
            });
            let Some((_, order)) = due.min() else { return };
            let Some(l) = self.lines.iter_mut().find(|l| l.order == order) else { return };
            let (clock, seen, name) = (self.clock, l.seen, l.door.name.clone());
            let gone = l.reasons.iter().filter(|r| over(r, seen, habit) <= clock && r.moved_on);
            self.moved.extend(gone.map(|r| (clock, name.clone(), r.clone())));
            l.reasons.retain(|r| over(r, seen, habit) > clock);
            self.lines.retain(|l| !l.reasons.is_empty());
            self.crowd_out(habit);
        }
    }

    fn showed(&mut self, door: &Door, shown: Shown, person: &Option<String>, thing: &Option<String>, habit: Habit) {
        let clock = self.clock;
        let forbids = |f: &(Option<String>, Option<String>, u64)| {
            f.0.as_ref() == Some(&door.name) || (f.1.is_some() && f.1 == *person)
        };
        if self.forbidden.iter().any(forbids) {
            return;
        }
        let is = |r: &Reason| r.shown == shown && r.person == *person && r.thing == *thing;
        let there = self.lines.iter().find(|l| l.door == *door).cloned();
        let back = there.as_ref().is_some_and(|l| l.reasons.iter().any(|r| is(r) && r.moved_on))
            || thing.is_some()
                && self.moved.iter().any(|(at, n, r)| *at + habit.back_within >= clock && *n == door.name && is(r));
        let mut reason = Reason {
            shown,
            person: person.clone(),
            thing: thing.clone(),
            proved: clock,
            good_until: Some(clock + habit.proof_lasts),
            ages: true,
            moved_on: false,
            many: 1,
        };
        let mut line = there.clone().unwrap_or_else(|| self.new_line(door));
        line.seen = clock;
        match line.reasons.iter_mut().find(|r| is(r)) {
            Some(r) => {
                reason.many = r.many;
                reason.good_until = r.good_until.max(reason.good_until);
                *r = reason;
            }
            None => line.reasons.push(reason),
        }
        line.sort();
        if !self.finds_room(there.as_ref(), &line, habit) {
            return;
        }
        self.put(line.clone());
        if person.is_some() {
            self.wander(line.order, shown, person, thing, back, habit);
        }
        self.tidy(habit);
        self.crowd_out(habit);
    }

    fn welcomed(&mut self, door: &Door, until: Option<u64>, habit: Habit) {
        let there = self.lines.iter().find(|l| l.door == *door).cloned();
        let mut line = there.clone().unwrap_or_else(|| self.new_line(door));
        line.seen = self.clock;
        line.reasons.retain(|r| r.shown != Shown::Word);
        line.reasons.push(Reason {
            shown: Shown::Word,
            person: None,
            thing: None,
            proved: self.clock,
            good_until: until,
            ages: false,
            moved_on: false,
            many: 1,
        });
        line.sort();
        if !self.finds_room(there.as_ref(), &line, habit) {
            return;
        }
        self.forbidden.retain(|f| f.0.as_ref() != Some(&door.name));
        self.put(line);
        self.crowd_out(habit);
    }

    fn new_line(&self, door: &Door) -> Line {
        Line { order: self.order + 1, door: door.clone(), came: self.clock, seen: self.clock, reasons: Vec::new() }
    }

    fn put(&mut self, line: Line) {
        self.order = self.order.max(line.order);
        self.lines.retain(|l| l.order != line.order);
        self.lines.push(line);
        self.lines.sort_by_key(|l| l.order);
    }

    fn finds_room(&self, before: Option<&Line>, line: &Line, habit: Habit) -> bool {
        if before.is_some_and(|b| b.is_guest() == line.is_guest()) || line.is_guest() {
            return true;
        }
        let others: Vec<Shown> = self.lines.iter().filter(|l| !l.is_guest()).map(Line::best).collect();
        others.len() < habit.room || others.iter().any(|s| *s <= line.best())
    }

    /// Nobody stays who has no room.
    fn crowd_out(&mut self, habit: Habit) {
        let key = |l: &Line| (if habit.oldest_leaves { l.came } else { l.seen }, l.order);
        loop {
            let proven: Vec<&Line> = self.lines.iter().filter(|l| !l.is_guest()).collect();
            let guests: Vec<&Line> = self.lines.iter().filter(|l| l.is_guest()).collect();
            let leaves = if proven.len() > habit.room {
                proven.iter().min_by_key(|l| (l.best(), key(l))).map(|l| l.order)
            } else if guests.len() > habit.guest_room {
                // Of the fullest street, of its fullest house, the first to leave.
                let street = |l: &Line| guests.iter().filter(|o| o.door.street == l.door.street).count();
                let fullest = guests.iter().map(|l| street(l)).max();
                let there: Vec<&&Line> = guests.iter().filter(|l| Some(street(l)) == fullest).collect();
                let house = |l: &Line| there.iter().filter(|o| o.door.house == l.door.house).count();
                let fullest = there.iter().map(|l| house(l)).max();
                there.iter().filter(|l| Some(house(l)) == fullest).min_by_key(|l| key(l)).map(|l| l.order)
            } else {
                return;
            };
            self.lines.retain(|l| Some(l.order) != leaves);
        }
    }

    /// A thing in somebody's hand showed up at a door: what becomes of the other doors.
    fn wander(
        &mut self,
        here: u64,
        shown: Shown,
        person: &Option<String>,
        thing: &Option<String>,
        back: bool,
        habit: Habit,
    ) {
        let Some(modern) = self.lines.iter().find(|l| l.order == here).map(|l| l.door.modern) else { return };
        let is = |r: &Reason| r.shown == shown && r.person == *person && r.thing == *thing;
        let carries = |s: Shown| matches!(s, Shown::Password | Shown::Key);
        let mut spots: Vec<(u64, Reason)> = Vec::new();
        for l in self.lines.iter().filter(|l| l.door.modern == modern) {
            spots.extend(
                l.reasons.iter().filter(|r| r.person == *person && carries(r.shown)).map(|r| (l.order, r.clone())),
            );
        }
        spots.sort_by_key(|(o, r)| std::cmp::Reverse((*o == here && is(r), r.proved, *o)));
        let same = |r: &Reason| r.thing.is_some() && r.thing == *thing;
        let alike = spots.iter().filter(|(_, r)| same(r)).count();
        let known = spots.iter().filter(|(_, r)| same(r)).map(|(_, r)| r.many).max().unwrap_or(1);
        let many = (known + usize::from(back)).min(alike).min(habit.places.unwrap_or(16)).clamp(1, 16);
        let mut count = 0;
        for (n, (order, r)) in spots.iter().enumerate() {
            count += usize::from(same(r));
            let (ends, moved_on) = if habit.places.is_some_and(|p| n >= p) {
                (self.clock + habit.farewell.unwrap_or(0), true)
            } else if n == 0 || !same(r) {
                continue;
            } else {
                let Some(farewell) = habit.farewell else { continue };
                if count > many {
                    (self.clock + farewell, true)
                } else {
                    (r.proved + farewell.max(habit.elsewhere_lasts), false)
                }
            };
            let line = self.lines.iter_mut().find(|l| l.order == *order);
            let spot = line.and_then(|l| {
                l.reasons.iter_mut().find(|x| x.shown == r.shown && x.person == r.person && x.thing == r.thing)
            });
            if let Some(x) = spot.filter(|x| x.good_until.is_none_or(|u| u > ends)) {
                x.good_until = Some(ends);
                x.moved_on |= moved_on;
            }
        }
        let line = self.lines.iter_mut().find(|l| l.order == here);
        if let Some(r) = line.and_then(|l| l.reasons.iter_mut().find(|r| is(r))) {
            r.many = many;
        }
    }
}
