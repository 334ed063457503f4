//! The handle against a disk that fails: what was not saved is not in force, and what was taken and is owed is said.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use runtime::owner::{Kind, Saved};
use runtime::run::Run;
use runtime::wall;
use store::{Change, Entry, If, Memory, Step, Store, StoreError};

use super::*;

fn log() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("portcullis-handle-{}-{n}", std::process::id()))
}

/// A disk that takes nothing, and from some moment on gives nothing either.
#[derive(Debug)]
struct Dying(Memory, AtomicBool);

impl Dying {
    fn dead<T>(&self) -> store::Result<T> {
        Err(StoreError::Other("input/output error".into()))
    }
}

impl Store for Dying {
    fn get(&self, key: &str) -> store::Result<Option<Entry>> {
        if self.1.load(Ordering::SeqCst) { self.dead() } else { self.0.get(key) }
    }
    fn list(&self, prefix: &str) -> store::Result<(Vec<Entry>, u64)> {
        if self.1.load(Ordering::SeqCst) { self.dead() } else { self.0.list(prefix) }
    }
    fn write(&self, steps: &[Step]) -> store::Result<u64> {
        if self.1.load(Ordering::SeqCst) { self.dead() } else { self.0.write(steps) }
    }
    fn changes(&self, _: &str, _: u64, _: usize, _: Duration) -> store::Result<Vec<Change>> {
        Ok(Vec::new())
    }
    fn expire(&self, _: u64) -> store::Result<usize> {
        Ok(0)
    }
}

#[tokio::test]
async fn a_policy_that_is_neither_saved_nor_read_back_opens_nothing() {
    let (path, run) = (log(), Run::new(Duration::from_secs(1)));
    let store = Arc::new(Dying(Memory::new(), AtomicBool::new(false)));
    let handle = RegistryHandle::start(&run, tailnet::Settings::default(), store.clone(), &path).unwrap();
    let set = |text: &'static str| handle.change(move |registry, now| registry.set_policy(Some(text), "test", now));
    set(r#"{"acls": []}"#).await.unwrap().unwrap();
    // Neither section would let everybody through.
    let lets_nobody = || {
        let now = handle.now();
        let p = now.compiled.policy();
        (p.acls.is_some() || p.grants.is_some())
            && p.acls.as_ref().is_none_or(Vec::is_empty)
            && p.grants.as_ref().is_none_or(Vec::is_empty)
    };
    assert!(lets_nobody());
    store.1.store(true, Ordering::SeqCst);
    let e = set(r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22"]}]}"#).await.unwrap_err();
    assert!(format!("{e:#}").contains("could not be saved"), "{e:#}");
    assert!(lets_nobody(), "no policy lets everybody through");
    run.stop();
    let _ = std::fs::remove_file(&path);
}

#[tokio::test]
async fn what_was_taken_and_is_owed_is_not_called_saved_by_asking_again() {
    let (path, run) = (log(), Run::new(Duration::from_secs(1)));
    let store = Arc::new(Dying(Memory::new(), AtomicBool::new(false)));
    let handle = RegistryHandle::start(&run, tailnet::Settings::default(), store.clone(), &path).unwrap();
    handle.change(|registry, now| registry.create_user("ada", None, "test", now)).await.unwrap().unwrap();
    let key = tailnet::record::PreAuthKey {
        bcrypt: None,
        id: 0,
        user: Some(1),
        hash: "h".into(),
        reusable: true,
        ephemeral: false,
        tags: Vec::new(),
        created: 0,
        expires: None,
        used: 0,
        revoked: false,
    };
    handle.change(|registry, now| registry.create_key(key, "test", now)).await.unwrap().unwrap();
    store.1.store(true, Ordering::SeqCst);
    for n in ["first", "again", "once more"] {
        let (key, saved) = handle.make(Kind::Takes, |registry, now| registry.revoke_key(1, "test", now)).await.unwrap();
        assert!(key.unwrap().revoked);
        assert!(matches!(saved, Saved::NotYet(_)), "{n}: {saved:?}");
    }
    run.stop();
    let _ = std::fs::remove_file(&path);
}

#[tokio::test]
async fn a_clock_that_was_wrong_is_left_behind_by_a_reset_and_a_restart() {
    const DAYS: u64 = 400 * 86_400;
    let (path, run) = (log(), Run::new(Duration::from_secs(1)));
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let wrong = (wall() + DAYS).to_string();
    store.put_if("mesh/clock", wrong.as_bytes(), None, If::Anyway).unwrap();
    let handle = RegistryHandle::start(&run, tailnet::Settings::default(), store.clone(), &path).unwrap();
    assert!(handle.time.behind() > DAYS - 60);
    // What is stored meanwhile does not make it right.
    handle.change(|registry, now| registry.create_user("ada", None, "test", now)).await.unwrap().unwrap();
    let saved =
        || -> u64 { String::from_utf8(store.get("mesh/clock").unwrap().unwrap().value).unwrap().parse().unwrap() };
    assert!(saved() > wall() + DAYS - 60);
    let told = handle.time.ask_reset();
    handle.notify(|_, _| {});
    assert!(told.await.unwrap().from > wall() + DAYS - 60 && handle.time.behind() < 60);
    assert!(saved() < wall() + 60);
    run.stop();
    let again = Run::new(Duration::from_secs(1));
    let handle = RegistryHandle::start(&again, tailnet::Settings::default(), store.clone(), &path).unwrap();
    assert!(handle.time.behind() < 60 && handle.now().users.len() == 1);
    assert!(std::fs::read_to_string(&path).unwrap().contains("clock-reset"));
    again.stop();
    let _ = std::fs::remove_file(&path);
}
