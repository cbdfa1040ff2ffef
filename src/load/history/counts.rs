//! The long part of a past: what was counted, slice by slice, without a span.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tailwater_model::exphist::Sketches;
use tailwater_model::red::{EdgeKey, EdgeKind, EdgeRow, RedRow, Unpaired, WEIGHT_ONE};

use super::attributes::NAMESPACE;
use super::keys::{Keyed, SiteKeys, TENANT};
use super::world::{HOP_NS, World, rhythm};
use crate::load::shop::Work;

/// Slices of a piece: a day of minutes, four hours of ten seconds.
const PIECE_SLICES: u64 = 1440;

/// A span of time that is counted, and committed, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub from_s: u64,
    pub to_s: u64,
    pub slice_s: u64,
}

/// What was counted in a piece.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub red: Vec<RedRow>,
    pub edges: Vec<EdgeRow>,
    /// Spans received, by slice.
    pub spans: Vec<u64>,
}

/// The pieces before the part that has rows.
pub(super) fn pieces(world: &World) -> Vec<Piece> {
    let mut all = Vec::new();
    let mut from_s = world.from_s;
    while from_s < world.rows_s {
        let slice_s = if from_s < world.fine_s { 60 } else { 10 };
        let whole = PIECE_SLICES * slice_s;
        let mut to_s = (from_s / whole + 1) * whole;
        if from_s < world.fine_s {
            to_s = to_s.min(world.fine_s);
        }
        all.push(Piece {
            from_s,
            to_s: to_s.min(world.rows_s),
            slice_s,
        });
        from_s = to_s;
    }
    all
}

/// Sites that make the same edge: client and server service, and what is between them.
type Pair = (Option<usize>, usize, Link);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// Asked for from outside.
    Root,
    Call,
    Database,
    Inside,
}

/// Counts pieces.
#[derive(Debug)]
pub(super) struct Counter<'w> {
    world: &'w World,
    keys: Vec<SiteKeys>,
    pairs: BTreeMap<Pair, Vec<usize>>,
}

impl<'w> Counter<'w> {
    pub fn new(world: &'w World, keys: Vec<SiteKeys>) -> Counter<'w> {
        let mut pairs: BTreeMap<Pair, Vec<usize>> = BTreeMap::new();
        for (at, site) in world.sites.iter().enumerate() {
            let caller = site.caller.map(|caller| world.sites[caller].service);
            let link = match site.work {
                Work::Page => Link::Root,
                Work::Rpc => Link::Call,
                Work::Internal => Link::Inside,
                Work::Database => Link::Database,
            };
            pairs.entry((caller, site.service, link)).or_default().push(at);
        }
        Counter { world, keys, pairs }
    }

    /// Everything counted in a piece. Rows are in no order.
    pub fn count(&self, piece: Piece) -> Counted {
        let slices = ((piece.to_s - piece.from_s).div_ceil(piece.slice_s)) as usize;
        let mut counted = Counted {
            spans: vec![0; slices],
            ..Counted::default()
        };
        let starts = (0..slices as u64).map(|slice| piece.from_s + slice * piece.slice_s);
        let slices: Vec<(u64, f64)> = starts.map(|at| (at, rhythm(at) * piece.slice_s as f64)).collect();
        for (pair, sites) in &self.pairs {
            let mut edges = Edges::new(*pair, slices.len());
            for site in sites {
                self.site(*site, piece, &slices, &mut counted, &mut edges);
            }
            edges.rows(self.world, piece, &mut counted.edges);
        }
        counted
    }

    fn site(&self, at: usize, piece: Piece, slices: &[(u64, f64)], counted: &mut Counted, edges: &mut Edges) {
        let (world, site, keys) = (self.world, &self.world.sites[at], &self.keys[at]);
        let latency = &world.latencies[site.shape];
        let mut rng = SmallRng::seed_from_u64(mixed(world.seed, piece.from_s, at as u64));
        let mut cells = Cells::default();
        let caller = site.caller.map(|caller| world.sites[caller].service);
        for (slice, (start_s, seconds)) in slices.iter().enumerate() {
            let n = super::draw::poisson(&mut rng, site.rate * seconds);
            if n == 0 {
                continue;
            }
            let (slower, share) = world.suffers(site.service, *start_s);
            let (median_ns, share) = (site.median_ns * slower, share.max(site.errors));
            // Good and failed, of those who do the work and of those who ask.
            let mut own: [Option<usize>; 2] = [None; 2];
            let mut asked: [Option<usize>; 2] = [None; 2];
            for _ in 0..n {
                let bits = rng.next_u64();
                let failed = usize::from(rng.random::<f64>() < share);
                let ns = (median_ns * latency.draw(bits)) as u64 + 1;
                let version = || world.version(site.service, *start_s);
                cells.add(&mut own[failed], &keys.own[failed], version, slice, ns);
                let mut seen_ns = ns;
                if let (Some(keys), Some(caller)) = (&keys.caller, caller) {
                    seen_ns += (2.0 * HOP_NS * world.latencies[0].draw(bits.rotate_left(20))) as u64;
                    let version = || world.version(caller, *start_s);
                    cells.add(&mut asked[failed], &keys[failed], version, slice, seen_ns);
                }
                edges.add(slice, failed == 1, [seen_ns, ns]);
            }
            counted.spans[slice] += n * if keys.caller.is_some() { 2 } else { 1 };
        }
        cells.rows(piece, &mut counted.red);
    }
}

/// One number out of three: equal ones give equal ones, and neighbours have nothing in common.
pub(super) fn mixed(seed: u64, a: u64, b: u64) -> u64 {
    // The finalizer of splitmix64.
    [a, b].into_iter().fold(seed, |state, next| {
        let mut x = state.wrapping_add(next).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

/// Cells of `red` of one site.
#[derive(Default)]
struct Cells<'k> {
    cells: Vec<Cell<'k>>,
    sketches: Sketches,
}

struct Cell<'k> {
    keyed: &'k Keyed,
    version: usize,
    slice: usize,
    n: u64,
    sum_ns: u64,
    max_ns: u64,
    registers: Vec<u64>,
}

impl<'k> Cells<'k> {
    /// Counts a duration in the cell at `place`, which is opened if there is none.
    #[inline]
    fn add(&mut self, place: &mut Option<usize>, keyed: &'k Keyed, version: impl Fn() -> usize, slice: usize, ns: u64) {
        let place = *place.get_or_insert_with(|| {
            self.cells.push(Cell {
                keyed,
                version: version(),
                slice,
                n: 0,
                sum_ns: 0,
                max_ns: 0,
                registers: vec![0; keyed.thresholds.len()],
            });
            self.sketches.resize(self.cells.len());
            self.cells.len() - 1
        });
        let cell = &mut self.cells[place];
        cell.n += 1;
        cell.sum_ns += ns;
        cell.max_ns = cell.max_ns.max(ns);
        for (count, threshold) in cell.registers.iter_mut().zip(&keyed.thresholds) {
            *count += u64::from(ns <= *threshold);
        }
        self.sketches.record(place, ns as f64, 1.0);
    }

    fn rows(self, piece: Piece, rows: &mut Vec<RedRow>) {
        let Cells { cells, sketches } = self;
        rows.extend(cells.into_iter().enumerate().map(|(place, cell)| RedRow {
            key: cell.keyed.versions[cell.version].clone(),
            slice_ns: slice_ns(piece, cell.slice),
            slice_s: piece.slice_s as u32,
            n: cell.n,
            sum_ns: cell.sum_ns,
            max_ns: cell.max_ns,
            exphist: encoded(&sketches, place),
            registers: cell.keyed.thresholds.iter().copied().zip(cell.registers).collect(),
            n_weighted: cell.n * WEIGHT_ONE,
            exemplar: None,
        }));
    }
}

/// Cells of `edges` between two services, one for each slice.
struct Edges {
    pair: Pair,
    cells: Vec<EdgeCell>,
    sketches: Sketches,
}

#[derive(Clone, Copy, Default)]
struct EdgeCell {
    n: u64,
    errors: u64,
    sum_ns: [u64; 2],
    max_ns: [u64; 2],
}

impl Edges {
    fn new(pair: Pair, slices: usize) -> Edges {
        let mut sketches = Sketches::new();
        sketches.resize(2 * slices);
        Edges {
            pair,
            cells: vec![EdgeCell::default(); slices],
            sketches,
        }
    }

    /// Counts a call, by what client and server saw.
    #[inline]
    fn add(&mut self, slice: usize, failed: bool, ns: [u64; 2]) {
        let sees = match self.pair.2 {
            Link::Inside => return,
            Link::Root => [false, true],
            Link::Database => [true, false],
            Link::Call => [true, true],
        };
        let cell = &mut self.cells[slice];
        cell.n += 1;
        cell.errors += u64::from(failed);
        for side in (0..2).filter(|side| sees[*side]) {
            cell.sum_ns[side] += ns[side];
            cell.max_ns[side] = cell.max_ns[side].max(ns[side]);
            self.sketches.record(2 * slice + side, ns[side] as f64, 1.0);
        }
    }

    fn rows(&self, world: &World, piece: Piece, rows: &mut Vec<EdgeRow>) {
        let name = |service: Option<usize>| -> Arc<str> {
            service.map_or("".into(), |service| world.services[service].name.as_str().into())
        };
        let namespace = |service: Option<usize>| service.map_or("".into(), |_| NAMESPACE.into());
        let (client, server, peer, unpaired) = match self.pair {
            (_, _, Link::Inside) => return,
            (_, server, Link::Root) => (None, Some(server), "", Some(Unpaired::Root)),
            (client, server, Link::Call) => (client, Some(server), "", None),
            (_, client, Link::Database) => (Some(client), None, "mysql", Some(Unpaired::Database)),
        };
        let key = Arc::new(EdgeKey {
            tenant: TENANT.into(),
            client_service: name(client),
            server_service: name(server),
            client_namespace: namespace(client),
            server_namespace: namespace(server),
            kind: EdgeKind::Request,
            peer: peer.into(),
            unpaired,
        });
        let counted = self.cells.iter().enumerate().filter(|(_, cell)| cell.n > 0);
        rows.extend(counted.map(|(slice, cell)| {
            let sketch = |side: usize| match self.sketches.any(2 * slice + side) {
                true => encoded(&self.sketches, 2 * slice + side),
                false => Vec::new(),
            };
            EdgeRow {
                key: key.clone(),
                slice_ns: slice_ns(piece, slice),
                slice_s: piece.slice_s as u32,
                n: cell.n,
                errors: cell.errors,
                sum_ns: cell.sum_ns,
                max_ns: cell.max_ns,
                exphist: [sketch(0), sketch(1)],
                n_weighted: cell.n * WEIGHT_ONE,
                errors_weighted: cell.errors * WEIGHT_ONE,
                exemplar: None,
            }
        }));
    }
}

fn slice_ns(piece: Piece, slice: usize) -> u64 {
    (piece.from_s + slice as u64 * piece.slice_s) * 1_000_000_000
}

fn encoded(sketches: &Sketches, group: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    sketches.encode(group, &mut bytes);
    bytes
}
