//! The receipt of an append: a future, and a blocking wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use crate::error::Result;

/// Completes once: with the sequence number when the record is as durable as the ack mode says, or with the error that kept it from being so.
/// Needs no runtime and no thread per wait. Dropping it does not take the record back.
pub struct Ticket {
    seq: u64,
    cell: Arc<Cell>,
}

/// The writer's side of a ticket.
#[derive(Default)]
pub(crate) struct Cell {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<Result<u64>>,
    waker: Option<Waker>,
}

impl Ticket {
    pub(crate) fn new(seq: u64) -> (Ticket, Arc<Cell>) {
        let cell = Arc::new(Cell::default());
        (
            Ticket {
                seq,
                cell: cell.clone(),
            },
            cell,
        )
    }

    /// The sequence number the record has if the ticket completes well. Not to be named downstream before that: after
    /// [`Kind::Full`](crate::Kind::Full) it goes to another record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Blocks until it completes.
    pub fn wait(&self) -> Result<u64> {
        let mut state = self.cell.state.lock();
        loop {
            if let Some(result) = &state.result {
                return result.clone();
            }
            self.cell.done.wait(&mut state);
        }
    }

    /// The outcome, if there is one already.
    pub fn try_wait(&self) -> Option<Result<u64>> {
        self.cell.state.lock().result.clone()
    }
}

impl Future for Ticket {
    type Output = Result<u64>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<u64>> {
        let mut state = self.cell.state.lock();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("seq", &self.seq)
            .field("done", &self.try_wait())
            .finish()
    }
}

impl Cell {
    /// The first outcome counts.
    pub(crate) fn complete(&self, result: Result<u64>) {
        let waker = {
            let mut state = self.state.lock();
            state.result.get_or_insert(result);
            state.waker.take()
        };
        self.done.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
