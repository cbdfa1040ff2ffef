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
//! (`docs/red.md`). Assumes that span ids are unique and that the clock does not step back by more than a wait.
//! Bounded: beyond `waiting_max` a side does not wait but counts alone at once.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use tailwater_model::exphist::Sketches;
use tailwater_model::red::{EdgeKey, EdgeKind, EdgeRow, Exemplar, SLICE_NS, Unpaired};

use crate::cells::take;
use crate::keys::Party;

/// What a client span and the server span below it have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub tenant: u64,
    pub kind: EdgeKind,
    pub trace: [u8; 16],
    /// Id of the client's span.
    pub span: [u8; 8],
}

/// One side of a call.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub party: Arc<Party>,
    /// Only of a client.
    pub peer: Option<Arc<str>>,
    pub slice_ns: u64,
    pub ns: u64,
    pub is_error: bool,
    pub weight: u64,
    pub exemplar: Exemplar,
}

#[derive(Debug)]
enum Slot {
    /// A client, when its time is over, and whether a server was found.
    Client(u64, Side, bool),
    /// A server without a client, and when its time is over.
    Server(u64, Side),
    /// Several, by when their time is over.
    Servers(Vec<(u64, Side)>),
}

/// The joiner.
#[derive(Debug)]
pub(crate) struct Joiner {
    wait_ns: u64,
    waiting_max: usize,
    clock_ns: u64,
    /// What is found now was counted before.
    pub muted: bool,
    slots: HashMap<Link, Slot, ahash::RandomState>,
    /// When which slot is over, ascending: the clock never steps back.
    over: VecDeque<(u64, Link)>,
    cells: Cells,
}

impl Joiner {
    pub fn new(wait_ns: u64, waiting_max: usize) -> Joiner {
        Joiner {
            wait_ns,
            waiting_max,
            clock_ns: 0,
            muted: false,
            slots: HashMap::default(),
            over: VecDeque::new(),
            cells: Cells::default(),
        }
    }

    /// A record that arrived at `now_ns` begins: who has waited longer counts alone.
    pub fn advance(&mut self, now_ns: u64) {
        self.clock_ns = self.clock_ns.max(now_ns);
        while let Some((over_ns, link)) = self.over.front().copied() {
            if over_ns >= self.clock_ns {
                return;
            }
            self.over.pop_front();
            // Of a server that has been found the time is noted still; its client's may not be over.
            let is_over = match self.slots.get(&link) {
                Some(Slot::Client(over, ..) | Slot::Server(over, _)) => *over <= over_ns,
                Some(Slot::Servers(_)) => true,
                None => false,
            };
            if !is_over {
                continue;
            }
            match self.slots.remove(&link) {
                Some(Slot::Client(_, client, false)) => {
                    self.count(link.kind, Some(&client), None, Some(Unpaired::Expired));
                }
                Some(Slot::Server(_, server)) => {
                    self.count(link.kind, None, Some(&server), Some(Unpaired::Expired));
                }
                Some(Slot::Servers(mut servers)) => {
                    let past = servers.iter().take_while(|(over, _)| *over <= over_ns).count();
                    for (_, server) in servers.drain(..past) {
                        self.count(link.kind, None, Some(&server), Some(Unpaired::Expired));
                    }
                    if !servers.is_empty() {
                        self.slots.insert(link, Slot::Servers(servers));
                    }
                }
                Some(Slot::Client(_, _, true)) | None => {}
            }
        }
    }

    /// A client or producer span.
    pub fn client(&mut self, link: Link, client: Side) {
        let found = match self.slots.remove(&link) {
            Some(Slot::Server(over, server)) => vec![(over, server)],
            Some(Slot::Servers(servers)) => servers,
            // Span ids are unique: a second one is the first sent again.
            Some(slot @ Slot::Client(..)) => {
                self.slots.insert(link, slot);
                return;
            }
            None => Vec::new(),
        };
        for (_, server) in &found {
            self.count(link.kind, Some(&client), Some(server), None);
        }
        if self.over.len() < self.waiting_max {
            let over_ns = self.clock_ns + self.wait_ns;
            self.over.push_back((over_ns, link));
            self.slots
                .insert(link, Slot::Client(over_ns, client, !found.is_empty()));
        } else if found.is_empty() {
            self.count(link.kind, Some(&client), None, Some(Unpaired::Full));
        }
    }

    /// A server or consumer span.
    pub fn server(&mut self, link: Link, server: Side) {
        let over_ns = self.clock_ns + self.wait_ns;
        let is_full = self.over.len() >= self.waiting_max;
        match self.slots.get_mut(&link) {
            Some(Slot::Client(_, client, paired)) => {
                *paired = true;
                let client = client.clone();
                self.count(link.kind, Some(&client), Some(&server), None);
                return;
            }
            _ if is_full => {
                self.count(link.kind, None, Some(&server), Some(Unpaired::Full));
                return;
            }
            Some(Slot::Servers(servers)) => servers.push((over_ns, server)),
            Some(slot @ Slot::Server(..)) => {
                if let Slot::Server(over, first) = std::mem::replace(slot, Slot::Servers(Vec::new())) {
                    *slot = Slot::Servers(vec![(over, first), (over_ns, server)]);
                }
            }
            None => {
                self.slots.insert(link, Slot::Server(over_ns, server));
            }
        }
        self.over.push_back((over_ns, link));
    }

    /// A side that waits for nobody.
    pub fn alone(&mut self, kind: EdgeKind, client: Option<&Side>, server: Option<&Side>, why: Unpaired) {
        self.count(kind, client, server, Some(why));
    }

    /// How many sides wait, or remain to be found.
    pub fn waiting(&self) -> usize {
        self.over.len()
    }

    /// Hands out what was counted.
    pub fn drain(&mut self) -> Vec<EdgeRow> {
        self.cells.drain()
    }

    fn count(&mut self, kind: EdgeKind, client: Option<&Side>, server: Option<&Side>, unpaired: Option<Unpaired>) {
        if !self.muted {
            self.cells.add(kind, client, server, unpaired);
        }
    }
}

/// Names of a cell by address: the cell keeps them alive, and two that are equal but apart are two rows, which readers add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
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
    places: HashMap<Place, usize, ahash::RandomState>,
    cells: Vec<Cell>,
    /// Two for each cell: the client's, the server's.
    sketches: Sketches,
}

impl Cells {
    fn add(&mut self, kind: EdgeKind, client: Option<&Side>, server: Option<&Side>, unpaired: Option<Unpaired>) {
        let Some(main) = server.or(client) else { return };
        let sides = [client, server];
        let peer = match server {
            None => client.and_then(|client| client.peer.as_ref()),
            Some(_) => None,
        };
        let place = Place {
            parties: sides.map(|side| side.map_or(0, |side| Arc::as_ptr(&side.party) as usize)),
            peer: peer.map_or(0, |peer| peer.as_ptr() as usize),
            kind,
            unpaired,
            slice_ns: main.slice_ns,
        };
        let next = self.cells.len();
        let at = *self.places.entry(place).or_insert(next);
        if at == next {
            self.cells.push(Cell {
                parties: sides.map(|side| side.map(|side| side.party.clone())),
                peer: peer.cloned(),
                kind,
                unpaired,
                slice_ns: main.slice_ns,
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
            cell.sum_ns[which] += u128::from(side.ns);
            cell.max_ns[which] = cell.max_ns[which].max(side.ns);
            self.sketches.record(2 * at + which, side.ns as f64, 1.0);
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
