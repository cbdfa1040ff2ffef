//! Joins the two sides of a call: a client span and the server spans below it, a producer span and the consumer spans below it.
//!
//! ```text
//!   client --+                    +-- a server that came first: counted now, each
//!            +--> {trace, id} --> |
//!   server --+                    +-- else it waits; when its time is over it counts alone
//! ```
//!
//! Guarantees: what is counted, and at which record, depends on the records alone, and on none that is older than two waits: the
//! clock is that of the records' arrival, and a client that has found a server remains to be found until its time is over. So a
//! walk that begins two waits before a record comes to the same state there, which is how a restart gets back what was waiting
//! (`docs/red.md`). Assumes that span ids are unique. Where the clock was set back, waiting goes on.
//! Bounded: beyond `waiting_max` a side does not wait but counts alone at once.
//!
//! Half a million sides that wait are in no cache, so a look-up waits for memory. Those of a record are put off until some are there, and
//! looked for some at a time before any of them counts: the processor fetches them side by side.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{HashMap, HashTable};
use tailwater_model::clock::Clock;
use tailwater_model::exphist::Sketches;
use tailwater_model::red::{EdgeKey, EdgeKind, EdgeRow, Exemplar, SLICE_NS, Unpaired};

use crate::cells::take;
use crate::keys::{End, Party};

/// What a client span and the server span below it have in common, beside the trace and the tenant, which their sides name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub kind: EdgeKind,
    /// Id of the client's span.
    pub span: [u8; 8],
}

/// One side of a call. Duration and end are its exemplar's.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub end: Arc<End>,
    pub weight: u64,
    pub exemplar: Exemplar,
    pub is_error: bool,
}

impl Side {
    fn slice_ns(&self) -> u64 {
        self.exemplar.end_ns - self.exemplar.end_ns % SLICE_NS
    }
}

/// Whether a side that waits can still be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Client,
    /// A client that a server was found for; more may come.
    Paired,
    Server,
    /// A server that a client was found for: only its place is left.
    Gone,
}

/// A side that waits. There are many, each written once and mostly read once or never, so they are small and lie in a row.
#[derive(Debug)]
struct Waiting {
    hash: u64,
    over_ns: u64,
    side: Side,
    link: Link,
    state: State,
    /// The server of the same link that came before, if it still waits.
    older: u32,
}

impl Waiting {
    fn is(&self, link: &Link, side: &Side) -> bool {
        self.link == *link
            && self.side.exemplar.trace == side.exemplar.trace
            && self.side.end.party.tenant_hash == side.end.party.tenant_hash
    }
}

/// Where a link is: the number of its client, or of its newest server.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Half of the hash, so that others are told apart without looking at them.
    tag: u32,
    at: u32,
}

/// Sides that are put off, at most.
const PENDING_MAX: usize = 512;
/// Sides that are looked for at a time.
const AHEAD: usize = 16;

/// A side that is put off.
#[derive(Debug)]
struct Pending {
    link: Link,
    side: Side,
    is_client: bool,
}

/// The joiner.
#[derive(Debug)]
pub(crate) struct Joiner {
    wait_ns: u64,
    waiting_max: usize,
    clock: Clock,
    clock_ns: u64,
    /// What is found now was counted before.
    muted: bool,
    random: ahash::RandomState,
    places: HashTable<Place>,
    /// By when their time is over, ascending: the clock never steps back.
    waiting: VecDeque<Waiting>,
    /// Number of the first of them. Numbers wrap around.
    first: u32,
    /// Of the record begun, in its order, and the hash of each.
    pending: Vec<Pending>,
    hashes: Vec<u64>,
    cells: Cells,
}

impl Joiner {
    pub fn new(wait_ns: u64, waiting_max: usize) -> Joiner {
        Joiner {
            wait_ns,
            // So that the number of one that is over is never that of one that waits.
            waiting_max: waiting_max.min(1 << 31),
            clock: Clock::default(),
            clock_ns: 0,
            muted: false,
            random: ahash::RandomState::new(),
            places: HashTable::new(),
            waiting: VecDeque::new(),
            first: 0,
            pending: Vec::new(),
            hashes: Vec::new(),
            cells: Cells::default(),
        }
    }

    /// A record that arrived at `now_ns` begins: who has waited longer counts alone. `muted`: what is found in it was counted before.
    pub fn begin(&mut self, now_ns: u64, muted: bool) {
        self.settle();
        self.muted = muted;
        self.clock_ns = self.clock_ns.max(self.clock.read(now_ns));
        let mut gone = 0;
        while let Some(front) = self.waiting.pop_front_if(|front| front.over_ns < self.clock_ns) {
            if gone % AHEAD == 0 {
                let next = self.waiting.iter().take(AHEAD);
                let over = next.take_while(|waiting| waiting.over_ns < self.clock_ns);
                over.for_each(|waiting| self.fetch(waiting.hash));
            }
            gone += 1;
            let at = self.first;
            self.first = self.first.wrapping_add(1);
            if front.state != State::Gone {
                self.forget(front.hash, at);
            }
            let (kind, side) = (front.link.kind, &front.side);
            match front.state {
                State::Client => self.alone(kind, Some(side), None, Unpaired::Expired),
                State::Server => self.alone(kind, None, Some(side), Unpaired::Expired),
                State::Paired | State::Gone => {}
            }
        }
    }

    /// A client or producer span.
    #[inline]
    pub fn client(&mut self, link: Link, side: Side) {
        self.put_off(link, side, true);
    }

    /// A server or consumer span.
    #[inline]
    pub fn server(&mut self, link: Link, side: Side) {
        self.put_off(link, side, false);
    }

    #[inline]
    fn put_off(&mut self, link: Link, side: Side, is_client: bool) {
        self.hashes.push(self.hash(&link, &side));
        self.pending.push(Pending { link, side, is_client });
        if self.pending.len() >= PENDING_MAX {
            self.settle();
        }
    }

    /// Joins what was put off.
    fn settle(&mut self) {
        let (mut pending, mut hashes) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.hashes));
        for (at, Pending { link, side, is_client }) in pending.drain(..).enumerate() {
            if at % AHEAD == 0 {
                let next = &hashes[at..hashes.len().min(at + AHEAD)];
                next.iter().for_each(|hash| self.fetch(*hash));
            }
            match is_client {
                true => self.join_client(hashes[at], link, side),
                false => self.join_server(hashes[at], link, side),
            }
        }
        hashes.clear();
        (self.pending, self.hashes) = (pending, hashes);
    }

    /// Looks where a link may lead, so that it is in a cache when it is asked for.
    #[inline]
    fn fetch(&self, hash: u64) {
        let place = self.places.find(hash, |place| place.tag == tag(hash));
        let waiting = place.and_then(|place| self.waiting.get(place.at.wrapping_sub(self.first) as usize));
        std::hint::black_box(waiting.map(|waiting| waiting.state));
    }

    fn join_client(&mut self, hash: u64, link: Link, client: Side) {
        let newest = self.find(hash, &link, &client);
        let mut server = newest;
        while let Some(found) = server.and_then(|at| self.waiting.get_mut(at.wrapping_sub(self.first) as usize)) {
            // Span ids are unique: a second one is the first sent again.
            if found.state != State::Server {
                return;
            }
            found.state = State::Gone;
            server = Some(found.older);
            if !self.muted {
                self.cells.add(link.kind, Some(&client), Some(&found.side), None);
            }
        }
        let is_full = self.waiting.len() >= self.waiting_max;
        match newest {
            Some(at) if is_full => self.forget(hash, at),
            None if is_full => self.alone(link.kind, Some(&client), None, Unpaired::Full),
            Some(_) => self.wait(hash, link, client, State::Paired, newest),
            None => self.wait(hash, link, client, State::Client, None),
        }
    }

    fn join_server(&mut self, hash: u64, link: Link, server: Side) {
        let known = self.find(hash, &link, &server);
        if let Some(found) = known.and_then(|at| self.waiting.get_mut(at.wrapping_sub(self.first) as usize))
            && found.state != State::Server
        {
            found.state = State::Paired;
            if !self.muted {
                self.cells.add(link.kind, Some(&found.side), Some(&server), None);
            }
            return;
        }
        match self.waiting.len() < self.waiting_max {
            true => self.wait(hash, link, server, State::Server, known),
            false => self.alone(link.kind, None, Some(&server), Unpaired::Full),
        }
    }

    /// A side that waits for nobody.
    pub fn alone(&mut self, kind: EdgeKind, client: Option<&Side>, server: Option<&Side>, why: Unpaired) {
        if !self.muted {
            self.cells.add(kind, client, server, Some(why));
        }
    }

    /// How many sides wait, or remain to be found.
    pub fn waiting(&mut self) -> usize {
        self.settle();
        self.waiting.len()
    }

    /// Hands out what was counted.
    pub fn drain(&mut self) -> Vec<EdgeRow> {
        self.settle();
        // A burst's memory does not stay for ever.
        if self.waiting.capacity() > 4 * self.waiting.len() + 4096 {
            self.waiting.shrink_to(2 * self.waiting.len());
            let (waiting, first) = (&self.waiting, self.first);
            self.places.shrink_to(2 * waiting.len(), |place| {
                waiting[place.at.wrapping_sub(first) as usize].hash
            });
        }
        self.cells.drain()
    }

    fn hash(&self, link: &Link, side: &Side) -> u64 {
        let tenant = side.end.party.tenant_hash;
        self.random.hash_one((link, side.exemplar.trace, tenant))
    }

    fn find(&self, hash: u64, link: &Link, side: &Side) -> Option<u32> {
        let is_it = |place: &Place| {
            place.tag == tag(hash) && self.waiting[place.at.wrapping_sub(self.first) as usize].is(link, side)
        };
        self.places.find(hash, is_it).map(|place| place.at)
    }

    /// The link is found no more, if it is still `at` that it leads to.
    fn forget(&mut self, hash: u64, at: u32) {
        if let Ok(entry) = self.places.find_entry(hash, |place| place.at == at) {
            entry.remove();
        }
    }

    /// `known` is where the link led so far.
    fn wait(&mut self, hash: u64, link: Link, side: Side, state: State, known: Option<u32>) {
        let at = self.first.wrapping_add(self.waiting.len() as u32);
        self.waiting.push_back(Waiting {
            hash,
            over_ns: self.clock_ns + self.wait_ns,
            side,
            link,
            state,
            // A number before the first is nobody's.
            older: known
                .filter(|_| state == State::Server)
                .unwrap_or(self.first.wrapping_sub(1)),
        });
        match known.and_then(|known| self.places.find_mut(hash, |place| place.at == known)) {
            Some(place) => place.at = at,
            None => {
                let (waiting, first) = (&self.waiting, self.first);
                let hash_of = |place: &Place| waiting[place.at.wrapping_sub(first) as usize].hash;
                self.places.insert_unique(hash, Place { tag: tag(hash), at }, hash_of);
            }
        }
    }
}

/// Other bits than those that the table looks at, which are the lowest and the highest seven.
fn tag(hash: u64) -> u32 {
    (hash >> 25) as u32
}

/// Names of a cell by address: the cell keeps them alive, and two that are equal but apart are two rows, which readers add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CellPlace {
    parties: [usize; 2],
    peer: usize,
    kind: EdgeKind,
    unpaired: Option<Unpaired>,
    slice_ns: u64,
}

#[derive(Debug)]
struct Cell {
    parties: [Option<Arc<Party>>; 2],
    peer: Option<Arc<str>>,
    kind: EdgeKind,
    unpaired: Option<Unpaired>,
    slice_ns: u64,
    n: u64,
    errors: u64,
    sum_ns: [u128; 2],
    max_ns: [u64; 2],
    weighted: u128,
    errors_weighted: u128,
    exemplar: Exemplar,
}

#[derive(Debug, Default)]
struct Cells {
    places: HashMap<CellPlace, usize, ahash::RandomState>,
    cells: Vec<Cell>,
    /// Two for each cell: the client's, the server's.
    sketches: Sketches,
}

impl Cells {
    fn add(&mut self, kind: EdgeKind, client: Option<&Side>, server: Option<&Side>, unpaired: Option<Unpaired>) {
        let Some(main) = server.or(client) else { return };
        let sides = [client, server];
        let peer = match server {
            None => client.and_then(|client| client.end.peer.as_ref()),
            Some(_) => None,
        };
        let place = CellPlace {
            parties: sides.map(|side| side.map_or(0, |side| Arc::as_ptr(&side.end.party) as usize)),
            peer: peer.map_or(0, |peer| peer.as_ptr() as usize),
            kind,
            unpaired,
            slice_ns: main.slice_ns(),
        };
        let next = self.cells.len();
        let at = *self.places.entry(place).or_insert(next);
        if at == next {
            self.cells.push(Cell {
                parties: sides.map(|side| side.map(|side| side.end.party.clone())),
                peer: peer.cloned(),
                kind,
                unpaired,
                slice_ns: place.slice_ns,
                n: 0,
                errors: 0,
                sum_ns: [0; 2],
                max_ns: [0; 2],
                weighted: 0,
                errors_weighted: 0,
                exemplar: main.exemplar,
            });
            self.sketches.resize(2 * self.cells.len());
        }
        let cell = &mut self.cells[at];
        let is_error = sides.iter().flatten().any(|side| side.is_error);
        let weight = sides.iter().flatten().map(|side| side.weight).max().unwrap_or_default();
        cell.n += 1;
        cell.errors += u64::from(is_error);
        cell.weighted += u128::from(weight);
        cell.errors_weighted += if is_error { u128::from(weight) } else { 0 };
        cell.exemplar = cell.exemplar.max(main.exemplar);
        for (which, side) in sides.into_iter().enumerate() {
            let Some(side) = side else { continue };
            let ns = side.exemplar.ns;
            cell.sum_ns[which] += u128::from(ns);
            cell.max_ns[which] = cell.max_ns[which].max(ns);
            self.sketches.record(2 * at + which, ns as f64, 1.0);
        }
    }

    fn drain(&mut self) -> Vec<EdgeRow> {
        self.places.clear();
        let mut rows = Vec::with_capacity(self.cells.len());
        for (at, mut cell) in self.cells.drain(..).enumerate() {
            let name = |side: usize, of: fn(&Party) -> &Arc<str>| {
                cell.parties[side]
                    .as_deref()
                    .map_or_else(|| "".into(), |party| of(party).clone())
            };
            let tenant = cell.parties.iter().flatten().next().map(|party| party.tenant.clone());
            let key = Arc::new(EdgeKey {
                tenant: tenant.unwrap_or_else(|| "".into()),
                client_service: name(0, |party| &party.service),
                server_service: name(1, |party| &party.service),
                client_namespace: name(0, |party| &party.namespace),
                server_namespace: name(1, |party| &party.namespace),
                kind: cell.kind,
                peer: cell.peer.clone().unwrap_or_else(|| "".into()),
                unpaired: cell.unpaired,
            });
            let exphist = [0, 1].map(|side| {
                let mut out = Vec::new();
                if self.sketches.any(2 * at + side) {
                    self.sketches.encode(2 * at + side, &mut out);
                }
                out
            });
            let mut row = EdgeRow {
                key,
                slice_ns: cell.slice_ns,
                slice_s: (SLICE_NS / 1_000_000_000) as u32,
                n: cell.n,
                errors: cell.errors,
                sum_ns: [0; 2],
                max_ns: cell.max_ns,
                exphist,
                n_weighted: 0,
                errors_weighted: 0,
                exemplar: Some(cell.exemplar),
            };
            // What a column does not hold becomes a row of its own.
            loop {
                row.sum_ns = [take(&mut cell.sum_ns[0]), take(&mut cell.sum_ns[1])];
                row.n_weighted = take(&mut cell.weighted);
                row.errors_weighted = take(&mut cell.errors_weighted);
                let is_last = cell.sum_ns == [0; 2] && cell.weighted == 0;
                let next = EdgeRow {
                    n: 0,
                    errors: 0,
                    max_ns: [0; 2],
                    exphist: [Vec::new(), Vec::new()],
                    exemplar: None,
                    ..row.clone()
                };
                rows.push(std::mem::replace(&mut row, next));
                if is_last {
                    break;
                }
            }
        }
        self.sketches = Sketches::new();
        rows
    }
}
