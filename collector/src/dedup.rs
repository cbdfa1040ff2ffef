//! Waiting on the digest register: a copy of a request under way waits for the first one's outcome.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tailwater_journal::dedup::{Answer, Begin, Register, Token};
use tokio::sync::Notify;

/// The digest register, shared by all requests.
pub struct Dedup {
    inner: Mutex<Inner>,
}

struct Inner {
    register: Register,
    waiting: HashMap<Token, Arc<Notify>, ahash::RandomState>,
}

/// What becomes of a request.
pub enum Admitted {
    /// Not seen before: store it, and finish the ticket.
    First(Ticket),
    /// A repeat: this is the answer.
    Repeat(Answer),
}

/// A first copy under way. Dropping it unfinished means that it failed, and the next copy is first.
pub struct Ticket {
    dedup: Arc<Dedup>,
    digest: u128,
    token: Option<Token>,
}

impl Dedup {
    /// Wraps a register that recovery has filled.
    pub fn new(register: Register) -> Arc<Dedup> {
        Arc::new(Dedup {
            inner: Mutex::new(Inner {
                register,
                waiting: HashMap::default(),
            }),
        })
    }

    /// Asks for a request; waits while another copy of it is under way.
    pub async fn admit(self: &Arc<Dedup>, digest: u128, now_ns: u64) -> Admitted {
        loop {
            let wait = {
                let mut inner = self.inner.lock();
                match inner.register.begin(digest, now_ns) {
                    Begin::First(token) => {
                        return Admitted::First(Ticket {
                            dedup: self.clone(),
                            digest,
                            token: Some(token),
                        });
                    }
                    Begin::Hit(answer) => return Admitted::Repeat(answer.clone()),
                    Begin::Pending(token) => inner.waiting.entry(token).or_default().clone().notified_owned(),
                }
            };
            wait.await;
        }
    }

    /// Reads the register, to put it into a checkpoint or to show its size.
    pub fn with<T>(&self, read: impl FnOnce(&Register) -> T) -> T {
        read(&self.inner.lock().register)
    }

    fn finish(&self, token: Token, outcome: impl FnOnce(&mut Register)) {
        let waiting = {
            let mut inner = self.inner.lock();
            outcome(&mut inner.register);
            inner.waiting.remove(&token)
        };
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }
}

impl Ticket {
    /// Digest of the request.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The record is durable: repeats get `answer`. Call it before the record goes downstream, so that no checkpoint
    /// passes the record without its digest.
    pub fn done(mut self, answer: Answer) {
        if let Some(token) = self.token.take() {
            self.dedup
                .finish(token, |register| register.done(self.digest, token, answer));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.dedup.finish(token, |register| register.failed(self.digest, token));
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_journal::dedup::WINDOW_NS;

    use super::*;

    async fn first(dedup: &Arc<Dedup>) -> Ticket {
        match dedup.admit(7, 1).await {
            Admitted::First(ticket) => ticket,
            Admitted::Repeat(_) => panic!("not seen before"),
        }
    }

    #[tokio::test]
    async fn a_copy_waits_for_the_first_one_and_repeats_its_answer() {
        let dedup = Dedup::new(Register::new(10, WINDOW_NS));
        let ticket = first(&dedup).await;
        let copy = tokio::spawn({
            let dedup = dedup.clone();
            async move { matches!(dedup.admit(7, 2).await, Admitted::Repeat(_)) }
        });
        tokio::task::yield_now().await;
        assert!(!copy.is_finished());
        ticket.done(Answer::default());
        assert!(copy.await.unwrap());
    }

    #[tokio::test]
    async fn when_the_first_one_fails_a_waiting_copy_becomes_the_first() {
        let dedup = Dedup::new(Register::new(10, WINDOW_NS));
        let ticket = first(&dedup).await;
        let copy = tokio::spawn({
            let dedup = dedup.clone();
            async move { matches!(dedup.admit(7, 2).await, Admitted::First(_)) }
        });
        tokio::task::yield_now().await;
        drop(ticket);
        assert!(copy.await.unwrap());
    }
}
