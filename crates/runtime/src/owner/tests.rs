//! The owner against a disk that fails when it likes and a machine that ends between any two steps.
//!
//! The state is a set of names that are let in. What is watched is what a reader, an asker and the next start see.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;
use store::{Change, Memory};

use super::*;
use crate::audit::{About, verify};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    Give(u8),
    Take(u8),
    /// Somebody was seen: kept in the same entry as who is let in.
    See(u8),
    /// Nothing to save.
    Ask,
}

/// What the test and the disk share.
#[derive(Debug)]
struct World {
    disk: Memory,
    /// Operations from here on: true fails. Past the end all work.
    fails: Mutex<VecDeque<bool>>,
    /// Operations left until the machine ends; nothing is seen by anybody after that.
    ends_in: Mutex<Option<u32>>,
    /// What readers saw last.
    shown: Mutex<BTreeSet<u8>>,
    /// What was taken and not given again, by the order in which it was done; seen by no reader from then on.
    taken: Mutex<BTreeSet<u8>>,
    /// Answers: what was asked for and how it is kept.
    answers: Mutex<Vec<(Do, Result<Saved, NotMade>)>>,
}

impl World {
    fn gone(&self) -> bool {
        *self.ends_in.lock() == Some(0)
    }

    /// One operation of the disk: done, failed, or never.
    fn operation(&self) -> Result<(), StoreError> {
        let mut left = self.ends_in.lock();
        if *left == Some(0) {
            return Err(StoreError::Other("the machine has ended".into()));
        }
        if let Some(n) = left.as_mut() {
            *n -= 1;
        }
        drop(left);
        if self.fails.lock().pop_front().unwrap_or(false) {
            return Err(StoreError::Full("tiny".into()));
        }
        Ok(())
    }

    fn stored(&self) -> BTreeSet<u8> {
        self.disk.list("toy/names/").unwrap().0.iter().map(|e| e.key[10..].parse().unwrap()).collect()
    }
}

#[derive(Debug)]
struct Disk(Arc<World>);

impl Store for Disk {
    fn get(&self, key: &str) -> store::Result<Option<Entry>> {
        // Reads work on a full disk.
        self.0.disk.get(key)
    }
    fn list(&self, prefix: &str) -> store::Result<(Vec<Entry>, u64)> {
        self.0.disk.list(prefix)
    }
    fn write(&self, steps: &[Step]) -> store::Result<u64> {
        let before = self.0.ends_in.lock().is_some_and(|n| n == 1);
        self.0.operation()?;
        let done = self.0.disk.write(steps);
        // The last thing that was done may have been this, and its answer never came.
        if before { Err(StoreError::Other("the machine has ended".into())) } else { done }
    }
    fn changes(&self, _: &str, _: u64, _: usize, _: Duration) -> store::Result<Vec<Change>> {
        Ok(Vec::new())
    }
    fn expire(&self, _: u64) -> store::Result<usize> {
        Ok(0)
    }
}

struct Toy {
    world: Arc<World>,
    names: BTreeMap<u8, u32>,
    touched: Vec<u8>,
    records: Vec<Record>,
}

impl Toy {
    fn read(world: &Arc<World>) -> Toy {
        let names = world.disk.list("toy/names/").unwrap().0;
        let names = names.iter().map(|e| (e.key[10..].parse().unwrap(), e.value.len() as u32)).collect();
        Toy { world: world.clone(), names, touched: Vec::new(), records: Vec::new() }
    }

    fn record(&mut self, what: &str, name: u8, now: u64) {
        let about = About::Thing { about: name.to_string() };
        self.records.push(Record { at: now, what: what.to_string().into(), about, by: String::new() });
    }
}

impl State for Toy {
    const NAME: &'static str = "toy";
    const WHAT: &'static str = "names are";
    type Id = u8;
    type Change = Do;
    type Answer = (Do, bool);

    fn kind(&self, change: &Do) -> Kind {
        match change {
            Do::Give(_) => Kind::Gives,
            Do::Take(_) => Kind::Takes,
            Do::See(_) | Do::Ask => Kind::Keeps,
        }
    }
    fn apply(&mut self, change: Do, now: u64, _: &Stored<'_, Toy>) -> (Do, bool) {
        let did = match change {
            Do::Give(n) => {
                let new = self.names.insert(n, 0).is_none();
                if new {
                    self.record("given", n, now);
                }
                new
            }
            Do::Take(n) => {
                let there = self.names.remove(&n).is_some();
                if there {
                    self.record("taken", n, now);
                    if !self.world.gone() {
                        self.world.taken.lock().insert(n);
                    }
                }
                there
            }
            Do::See(n) => self.names.get_mut(&n).map(|seen| *seen += 1).is_some(),
            Do::Ask => false,
        };
        if did && let Do::Give(n) | Do::Take(n) | Do::See(n) = change {
            self.touched.push(n);
        }
        (change, did)
    }
    fn tick(&mut self, _: u64) {}
    fn set_back(&mut self, _: u64) {}

    fn touched(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.touched)
    }
    fn records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }
    fn key(id: &u8) -> String {
        format!("toy/names/{id}")
    }
    fn value(&self, id: &u8) -> Option<Value> {
        self.names.get(id).map(|seen| Value { bytes: vec![b'x'; *seen as usize], deadline: None })
    }
    fn put_back(&mut self, id: &u8, value: Option<&[u8]>, _: u64) {
        match value {
            Some(v) => drop(self.names.insert(*id, v.len() as u32)),
            None => drop(self.names.remove(id)),
        }
    }
    fn show(&mut self, _: u64) {
        let world = &self.world;
        if world.gone() {
            return;
        }
        let names: BTreeSet<u8> = self.names.keys().copied().collect();
        let stored = world.stored();
        for n in &names {
            assert!(stored.contains(n), "{n} is shown and not saved");
        }
        *world.shown.lock() = names;
    }
    fn deadline(&self, _: u64) -> Option<u64> {
        None
    }
    fn reply(&mut self, (change, did): (Do, bool), saved: Result<Saved, NotMade>) {
        let world = &self.world;
        if world.gone() {
            return;
        }
        let shown = world.shown.lock();
        match (change, &saved) {
            // Given again in the same turn.
            (Do::Take(n), Ok(_)) if self.names.contains_key(&n) => {}
            (Do::Take(n), Ok(how)) => {
                assert!(!shown.contains(&n), "{n} was taken, and a reader still sees it");
                if did && *how == Saved::Yes {
                    assert!(!world.stored().contains(&n), "{n} is said to be saved and is not");
                }
            }
            (Do::Take(_) | Do::Ask | Do::See(_), Err(e)) => panic!("{change:?} needs no disk: {e}"),
            // Unless it was taken after it in the same turn.
            (Do::Give(n), Ok(_)) if self.names.contains_key(&n) => {
                assert!(world.stored().contains(&n), "{n} was given and is not saved");
            }
            _ => {}
        }
        drop(shown);
        world.answers.lock().push((change, saved));
    }
}

fn log() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("portcullis-owner-{}-{n}", std::process::id()))
}

/// The names that the log says are let in; every change has its line, in the order it was made.
fn replayed(path: &Path) -> BTreeSet<u8> {
    let mut names = BTreeSet::new();
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let n: u8 = line["about"].as_str().unwrap().parse().unwrap();
        match line["what"].as_str().unwrap() {
            "given" => assert!(names.insert(n), "{n} is given twice on record"),
            "taken" => assert!(names.remove(&n), "{n} is taken and was not given on record"),
            other => panic!("{other}"),
        }
    }
    names
}

fn doing() -> impl Strategy<Value = Do> {
    prop_oneof![(0..6u8).prop_map(Do::Give), (0..6u8).prop_map(Do::Take), (0..6u8).prop_map(Do::See), Just(Do::Ask),]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn nothing_acknowledged_is_lost_nothing_unsaved_gives_and_nothing_taken_is_seen(
        lives in prop::collection::vec(
            (prop::collection::vec(prop::collection::vec(doing(), 0..8), 1..8),
             prop::collection::vec(any::<bool>(), 0..12),
             prop::option::of(1..12u32)), 1..4),
    ) {
        let path = log();
        let disk = Memory::new();
        let mut world = Arc::new(World {
            disk, fails: Mutex::default(), ends_in: Mutex::default(), shown: Mutex::default(),
            taken: Mutex::default(), answers: Mutex::default(),
        });
        for (groups, fails, ends_in) in lives {
            *Arc::get_mut(&mut world).unwrap().fails.get_mut() = fails.into();
            *world.ends_in.lock() = None;
            world.answers.lock().clear();
            let opened = open::<Toy>(Arc::new(Disk(world.clone())), &path, Ahead::default()).unwrap();
            // What the last life acknowledged and did is on record, whatever ended it.
            let started = world.stored();
            prop_assert_eq!(&replayed(&path), &started);
            let mut owner = Owner::new(opened, Toy::read(&world));
            *world.shown.lock() = started.clone();
            *world.ends_in.lock() = ends_in;
            let mut known = started;
            for group in groups {
                // Now and then the next try is due at once.
                if group.len() % 2 == 0 {
                    owner.retry_at = None;
                }
                owner.turn(group);
                // What was answered, in order, is what the disk has; what could not be saved is still in force.
                for (change, saved) in world.answers.lock().drain(..) {
                    match (change, saved) {
                        (Do::Give(n), Ok(_)) => drop(known.insert(n)),
                        (Do::Take(n), Ok(_)) => drop(known.remove(&n)),
                        _ => {}
                    }
                }
                if world.gone() {
                    break;
                }
                prop_assert_eq!(&*world.shown.lock(), &known);
            }
            if !world.gone() {
                // A clean stop with a disk that works keeps all.
                world.fails.lock().clear();
                *world.ends_in.lock() = None;
                owner.retry_at = None;
                owner.turn([]);
                prop_assert_eq!(&world.stored(), &known);
                prop_assert!(owner.unsaved.is_empty() && owner.trouble.lock().is_empty());
                prop_assert_eq!(&replayed(&path), &known);
                verify(&path, None).unwrap();
            } else {
                // Acknowledged as saved and not taken back since: there.
                let stored = world.stored();
                for n in known.iter().filter(|n| !world.taken.lock().contains(n)) {
                    prop_assert!(stored.contains(n), "{} was acknowledged and is lost", n);
                }
            }
            world.taken.lock().clear();
            drop(owner);
        }
        let _ = std::fs::remove_file(&path);
    }
}

#[test]
fn what_is_owed_is_on_record_when_it_is_saved_and_not_before() {
    let path = log();
    let world = Arc::new(World {
        disk: Memory::new(),
        fails: Mutex::default(),
        ends_in: Mutex::default(),
        shown: Mutex::default(),
        taken: Mutex::default(),
        answers: Mutex::default(),
    });
    let opened = open::<Toy>(Arc::new(Disk(world.clone())), &path, Ahead::default()).unwrap();
    let mut owner = Owner::new(opened, Toy::read(&world));
    owner.turn([Do::Give(1)]);
    *world.fails.lock() = vec![true; 9].into();
    owner.turn([Do::Take(1)]);
    // Somebody asks before the next try.
    owner.turn([Do::Ask]);
    // The machine ends: what was taken is there again, and nothing says otherwise.
    drop(owner);
    world.fails.lock().clear();
    open::<Toy>(Arc::new(Disk(world.clone())), &path, Ahead::default()).unwrap();
    assert_eq!(replayed(&path), world.stored(), "no line without its change, and no word of a changed log");
    let _ = std::fs::remove_file(&path);
}
