//! The idle bulk links of a session. In: links that the client dialled ahead of need, streams that turned bulk. Out: a
//! link for each of those, and requests for more. The rules are [`tunnel_proto::mux::Pool`].

use std::sync::{Arc, Weak};
use std::time::Instant;

use net::link::Closer;
use parking_lot::Mutex;
use tunnel_proto::frame::Kind;
use tunnel_proto::mux;

use super::super::bulk::{BulkLink, Home};
use super::super::mux::Carrier;

/// Idle bulk links of a session.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<mux::Pool<BulkLink>>,
    /// Every link that lives, to end them with the session.
    all: Mutex<Vec<Closer>>,
    /// Carrier that requests for more go to.
    main: Mutex<Option<Weak<Carrier>>>,
}

impl Pool {
    pub(super) fn new() -> Arc<Pool> {
        let state = Mutex::new(mux::Pool::new(Instant::now()));
        Arc::new(Pool { state, all: Mutex::default(), main: Mutex::default() })
    }

    /// Requests for more links go to this carrier.
    pub(super) fn set_main(&self, carrier: &Arc<Carrier>) {
        *self.main.lock() = Some(Arc::downgrade(carrier));
    }

    /// A link that the client dialled. False if there are too many, or the session is over.
    pub(super) fn arrived(&self, link: BulkLink, closer: Closer) -> bool {
        // Before the link is anybody's: the session may end at any time, and with it every link.
        let mut all = self.all.lock();
        all.retain(|c| !c.is_gone());
        all.push(closer);
        drop(all);
        self.state.lock().arrived(link).is_none()
    }

    /// Ends every link, whoever uses it: the session is over.
    pub(super) fn end(&self) {
        self.state.lock().end();
        self.all.lock().drain(..).for_each(|c| c.close());
    }

    /// Gives a link to a stream, or asks the client for more.
    pub(super) fn assign(self: &Arc<Pool>, carrier: &Arc<Carrier>, stream: u32) {
        loop {
            let taken = self.state.lock().take();
            let Some(mut link) = taken else { return self.ask_for_more() };
            if !carrier.assign(stream) {
                return self.give_back(link);
            }
            if !link.is_alive() || link.write.send(Kind::Bind, stream, &[carrier.no]).is_err() {
                self.state.lock().lost();
                carrier.unassign(stream);
                continue;
            }
            let pool = Arc::downgrade(self);
            let home = Home::new(move |link| {
                let Some(pool) = pool.upgrade() else { return };
                match link {
                    Some(link) => pool.give_back(link),
                    None => pool.state.lock().lost(),
                }
            });
            return carrier.bind(stream, link, home);
        }
    }

    fn give_back(&self, link: BulkLink) {
        let superfluous = self.state.lock().give_back(link);
        drop(superfluous);
    }

    /// Drops links that died or that nobody needs any more. Call it every half minute.
    pub(super) fn sweep(&self) {
        self.state.lock().handle_timeout(Instant::now(), BulkLink::is_alive);
    }

    /// Idle links now.
    pub(super) fn idle(&self) -> usize {
        self.state.lock().idle()
    }

    fn ask_for_more(&self) {
        let Some(main) = self.main.lock().as_ref().and_then(Weak::upgrade) else { return };
        if self.state.lock().asks(Instant::now()) {
            main.push(Kind::Dial, &1u32.to_be_bytes());
        }
    }
}
