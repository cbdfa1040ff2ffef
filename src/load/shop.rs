//! The simulated shop: ten services, the call trees of its pages, and traces drawn from them.
//!
//! The trees follow the Online Boutique traces of the Nezha data set (services, operations, fan-out); latencies are log-normal
//! per operation. Pure: a trace is a function of the tree, the generator handed in, and the incident.

use rand::Rng;
use rand::rngs::SmallRng;

/// Names of the services. A shop of N services has the first N; calls to the others are left out.
pub const SERVICES: [&str; 10] = [
    "frontend",
    "productcatalogservice",
    "currencyservice",
    "cartservice",
    "recommendationservice",
    "checkoutservice",
    "paymentservice",
    "shippingservice",
    "adservice",
    "emailservice",
];

/// What kind of work an operation is; decides the kind and the attributes of its spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// An HTTP page: the root.
    Page,
    /// A remote procedure: a client span at the caller, a server span at the callee.
    Rpc,
    /// A function inside the service.
    Internal,
    /// A database call, seen from its client only.
    Database,
}

/// An operation of a service and what it calls.
#[derive(Debug)]
pub struct Op {
    /// Index into [`SERVICES`].
    pub service: usize,
    /// Kind of work.
    pub work: Work,
    /// Span name.
    pub name: &'static str,
    /// Median of its own time, without the calls, in microseconds.
    pub(super) own_us: f64,
    /// Sigma of the log-normal distribution of its own time.
    pub(super) sigma: f64,
    /// What it calls, and how often.
    pub(super) calls: &'static [(&'static Op, u8)],
}

const fn op(
    service: usize,
    work: Work,
    name: &'static str,
    own_us: f64,
    sigma: f64,
    calls: &'static [(&'static Op, u8)],
) -> Op {
    Op {
        service,
        work,
        name,
        own_us,
        sigma,
        calls,
    }
}

static SQL_QUERY: Op = op(1, Work::Database, "sql.conn.query", 900.0, 0.6, &[]);
static SQL_ROWS: Op = op(1, Work::Database, "sql.rows", 40.0, 0.4, &[]);
static GET_PRODUCT: Op = op(
    1,
    Work::Rpc,
    "hipstershop.ProductCatalogService/GetProduct",
    700.0,
    0.5,
    &[(&SQL_QUERY, 1), (&SQL_ROWS, 1)],
);
static READ_CATALOG: Op = op(
    1,
    Work::Internal,
    "ReadCatalog",
    800.0,
    0.5,
    &[(&SQL_QUERY, 1), (&SQL_ROWS, 1)],
);
static PARSE_CATALOG: Op = op(1, Work::Internal, "ParseCatalog", 60.0, 0.3, &[(&READ_CATALOG, 1)]);
static LIST_PRODUCTS: Op = op(
    1,
    Work::Rpc,
    "hipstershop.ProductCatalogService/ListProducts",
    300.0,
    0.4,
    &[(&PARSE_CATALOG, 1)],
);
static CURRENCY_DATA: Op = op(2, Work::Internal, "GetCurrencyData", 400.0, 0.5, &[]);
static CARRY: Op = op(2, Work::Internal, "Carry", 20.0, 0.3, &[]);
static CURRENCIES: Op = op(
    2,
    Work::Rpc,
    "hipstershop.CurrencyService/GetSupportedCurrencies",
    200.0,
    0.4,
    &[(&CURRENCY_DATA, 1)],
);
static CONVERT: Op = op(
    2,
    Work::Rpc,
    "hipstershop.CurrencyService/Convert",
    150.0,
    0.4,
    &[(&CURRENCY_DATA, 1), (&CARRY, 2)],
);
static GET_CART: Op = op(3, Work::Rpc, "hipstershop.CartService/GetCart", 1_100.0, 0.7, &[]);
static ADD_ITEM: Op = op(3, Work::Rpc, "hipstershop.CartService/AddItem", 1_600.0, 0.7, &[]);
static EMPTY_CART: Op = op(3, Work::Rpc, "hipstershop.CartService/EmptyCart", 900.0, 0.6, &[]);
static RECOMMEND: Op = op(
    4,
    Work::Rpc,
    "hipstershop.RecommendationService/ListRecommendations",
    900.0,
    0.6,
    &[(&LIST_PRODUCTS, 1)],
);
static CHARGE: Op = op(6, Work::Rpc, "hipstershop.PaymentService/Charge", 2_500.0, 0.8, &[]);
static QUOTE_COUNT: Op = op(7, Work::Internal, "CreateQuoteFromCount", 80.0, 0.4, &[]);
static GET_QUOTE: Op = op(
    7,
    Work::Rpc,
    "hipstershop.ShippingService/GetQuote",
    200.0,
    0.5,
    &[(&QUOTE_COUNT, 1)],
);
static SHIP_ORDER: Op = op(7, Work::Rpc, "hipstershop.ShippingService/ShipOrder", 300.0, 0.5, &[]);
static AD_SELECT: Op = op(8, Work::Database, "SELECT addatabase.aditems", 1_300.0, 0.5, &[]);
static ADS_BY_CATEGORY: Op = op(8, Work::Internal, "getAdsByCategory", 2_000.0, 0.6, &[(&AD_SELECT, 1)]);
static GET_ADS: Op = op(
    8,
    Work::Rpc,
    "hipstershop.AdService/GetAds",
    200.0,
    0.5,
    &[(&ADS_BY_CATEGORY, 1)],
);
static SEND_MAIL: Op = op(
    9,
    Work::Rpc,
    "hipstershop.EmailService/SendOrderConfirmation",
    1_800.0,
    0.7,
    &[],
);
static PREPARE: Op = op(
    5,
    Work::Internal,
    "PrepareOrderItemsAndShippingQuoteFromCart",
    100.0,
    0.4,
    &[(&GET_CART, 1), (&GET_PRODUCT, 2), (&CONVERT, 2), (&GET_QUOTE, 1)],
);
static PLACE_ORDER: Op = op(
    5,
    Work::Rpc,
    "hipstershop.CheckoutService/PlaceOrder",
    500.0,
    0.5,
    &[
        (&PREPARE, 1),
        (&CHARGE, 1),
        (&SHIP_ORDER, 1),
        (&EMPTY_CART, 1),
        (&SEND_MAIL, 1),
    ],
);

static HOME: Op = op(
    0,
    Work::Page,
    "GET /",
    2_000.0,
    0.5,
    &[
        (&CURRENCIES, 1),
        (&LIST_PRODUCTS, 1),
        (&GET_CART, 1),
        (&CONVERT, 7),
        (&GET_ADS, 1),
    ],
);
static PRODUCT: Op = op(
    0,
    Work::Page,
    "GET /product/{id}",
    2_000.0,
    0.5,
    &[
        (&GET_PRODUCT, 1),
        (&CURRENCIES, 1),
        (&GET_CART, 1),
        (&CONVERT, 1),
        (&RECOMMEND, 1),
        (&GET_PRODUCT, 4),
        (&GET_ADS, 1),
    ],
);
static CART: Op = op(
    0,
    Work::Page,
    "GET /cart",
    1_500.0,
    0.5,
    &[
        (&CURRENCIES, 1),
        (&GET_CART, 1),
        (&RECOMMEND, 1),
        (&GET_QUOTE, 1),
        (&GET_PRODUCT, 3),
        (&CONVERT, 3),
    ],
);
static ADD: Op = op(
    0,
    Work::Page,
    "POST /cart",
    900.0,
    0.5,
    &[(&GET_PRODUCT, 1), (&ADD_ITEM, 1)],
);
static CHECKOUT: Op = op(
    0,
    Work::Page,
    "POST /cart/checkout",
    1_800.0,
    0.5,
    &[(&PLACE_ORDER, 1), (&RECOMMEND, 1), (&CURRENCIES, 1)],
);

/// Pages and their weights in the traffic.
static PAGES: [(&Op, u32); 5] = [(&HOME, 22), (&PRODUCT, 45), (&CART, 15), (&ADD, 10), (&CHECKOUT, 8)];

/// Pages, each with its share of the traffic.
pub fn pages() -> impl Iterator<Item = (&'static Op, f64)> {
    let total: u32 = PAGES.iter().map(|(_, weight)| weight).sum();
    PAGES
        .iter()
        .map(move |(page, weight)| (*page, f64::from(*weight) / f64::from(total)))
}

/// One service in trouble.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Incident {
    /// Index into [`SERVICES`].
    pub service: usize,
    /// Factor on the service's own times.
    pub slower: f64,
    /// Share of its server spans that fail.
    pub errors: f64,
}

/// How long operations take, compared with the shop's usual day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Factor on the median of each.
    pub factor: f64,
    /// Factor on how far the times of one lie apart (sigma of a log-normal).
    pub spread: f64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency {
            factor: 1.0,
            spread: 1.0,
        }
    }
}

/// Which side of a call a span shows; the OTLP span kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// Inside one service.
    Internal = 1,
    /// The callee of a page or remote procedure.
    Server = 2,
    /// The caller of a remote procedure or a database.
    Client = 3,
}

/// A span of a drawn trace. Parents come before their children.
#[derive(Debug, Clone, Copy)]
pub struct ShopSpan {
    /// Index into [`SERVICES`].
    pub service: usize,
    /// What it does.
    pub op: &'static Op,
    /// Which side it shows.
    pub side: Side,
    /// Position of the parent in the trace.
    pub parent: Option<usize>,
    /// Start, ns relative to the end of the root (so below 0).
    pub start_ns: i64,
    /// End, ns relative to the end of the root.
    pub end_ns: i64,
    /// Whether it failed.
    pub error: bool,
}

/// Draws one trace. `errors` is the share of traces in which some call fails and takes its callers with it.
pub fn draw(
    rng: &mut SmallRng,
    services: usize,
    errors: f64,
    latency: Latency,
    incident: Option<Incident>,
) -> Vec<ShopSpan> {
    let total: u32 = PAGES.iter().map(|(_, weight)| weight).sum();
    let mut ticket = rng.random_range(0..total);
    let page = PAGES.iter().find(|(_, weight)| {
        let hit = ticket < *weight;
        ticket = ticket.saturating_sub(*weight);
        hit
    });
    let mut drawing = Drawing {
        rng,
        services: services.clamp(1, SERVICES.len()),
        latency,
        incident,
        spans: Vec::with_capacity(64),
    };
    let end = drawing.place(page.map_or(&HOME, |(page, _)| page), None, 0);
    let mut spans = drawing.spans;
    for span in &mut spans {
        span.start_ns -= end;
        span.end_ns -= end;
    }
    if rng.random_bool(errors.clamp(0.0, 1.0)) {
        let victim = rng.random_range(0..spans.len());
        spans[victim].error = true;
    }
    // Callers of a failed call fail too. Children come after parents, so one pass backwards does it.
    for position in (1..spans.len()).rev() {
        if let (true, Some(parent)) = (spans[position].error, spans[position].parent) {
            spans[parent].error = true;
        }
    }
    spans
}

struct Drawing<'a> {
    rng: &'a mut SmallRng,
    services: usize,
    latency: Latency,
    incident: Option<Incident>,
    spans: Vec<ShopSpan>,
}

impl Drawing<'_> {
    /// Places an operation called at `start` and all it calls; returns when it ends, ns.
    fn place(&mut self, op: &'static Op, parent: Option<usize>, start: i64) -> i64 {
        let trouble = self.incident.filter(|incident| incident.service == op.service);
        let Latency { factor, spread } = self.latency;
        let own = log_normal(self.rng, op.own_us * 1_000.0 * factor, op.sigma * spread)
            * trouble.map_or(1.0, |incident| incident.slower);
        let remote = op.work == Work::Rpc;
        let hop = if remote {
            log_normal(self.rng, 150_000.0, 0.3) as i64
        } else {
            0
        };
        let caller = remote.then(|| {
            let service = parent.map_or(op.service, |parent| self.spans[parent].service);
            self.push(service, op, Side::Client, parent, start)
        });
        let side = match op.work {
            Work::Page | Work::Rpc => Side::Server,
            Work::Internal => Side::Internal,
            Work::Database => Side::Client,
        };
        let callee = self.push(op.service, op, side, caller.or(parent), start + hop);
        if side == Side::Server && trouble.is_some_and(|incident| self.rng.random_bool(incident.errors)) {
            self.spans[callee].error = true;
        }
        // A third of the own time before the calls, the rest after them; calls follow each other.
        let mut now = start + hop + (own / 3.0) as i64;
        let services = self.services;
        for (call, times) in op.calls.iter().filter(|(call, _)| call.service < services) {
            for _ in 0..*times {
                now = self.place(call, Some(callee), now) + 5_000;
            }
        }
        now += (own * 2.0 / 3.0) as i64;
        self.spans[callee].end_ns = now;
        if let Some(caller) = caller {
            now += hop;
            self.spans[caller].end_ns = now;
        }
        now
    }

    fn push(&mut self, service: usize, op: &'static Op, side: Side, parent: Option<usize>, start_ns: i64) -> usize {
        self.spans.push(ShopSpan {
            service,
            op,
            side,
            parent,
            start_ns,
            end_ns: start_ns,
            error: false,
        });
        self.spans.len() - 1
    }
}

/// A log-normal value of this median.
fn log_normal(rng: &mut SmallRng, median: f64, sigma: f64) -> f64 {
    // Box-Muller; the open interval keeps the logarithm finite.
    let (u, v): (f64, f64) = (rng.random_range(f64::EPSILON..1.0), rng.random());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    median * (sigma * normal).exp()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn traces(services: usize, errors: f64, incident: Option<Incident>) -> Vec<Vec<ShopSpan>> {
        let mut rng = SmallRng::seed_from_u64(1);
        (0..2_000)
            .map(|_| draw(&mut rng, services, errors, Latency::default(), incident))
            .collect()
    }

    #[test]
    fn ten_services_make_about_41_spans_a_trace() {
        let traces = traces(10, 0.0, None);
        let mean = traces.iter().map(Vec::len).sum::<usize>() as f64 / traces.len() as f64;
        assert!((39.0..43.0).contains(&mean), "{mean}");
    }

    #[test]
    fn children_lie_within_their_parents_and_the_root_ends_last() {
        for trace in traces(8, 0.01, None) {
            assert_eq!((trace[0].parent, trace[0].end_ns), (None, 0));
            for (position, span) in trace.iter().enumerate().skip(1) {
                let parent = &trace[span.parent.expect("only the first span is a root")];
                assert!(span.parent < Some(position));
                assert!(
                    parent.start_ns <= span.start_ns && span.start_ns <= span.end_ns && span.end_ns <= parent.end_ns
                );
                assert!(span.service < 8);
            }
        }
    }

    #[test]
    fn latency_has_a_middle_and_a_spread() {
        let durations = |latency: Latency| {
            let mut rng = SmallRng::seed_from_u64(1);
            let roots = (0..2_000).map(|_| draw(&mut rng, 1, 0.0, latency, None)[0]);
            let mut durations: Vec<i64> = roots.map(|root| root.end_ns - root.start_ns).collect();
            durations.sort_unstable();
            (durations[1_000] as f64, durations[1_980] as f64)
        };
        let (usual, slow) = (
            durations(Latency::default()),
            durations(Latency {
                factor: 3.0,
                spread: 1.0,
            }),
        );
        assert!((2.9..3.1).contains(&(slow.0 / usual.0)), "{usual:?} {slow:?}");
        let tailed = durations(Latency {
            factor: 1.0,
            spread: 2.0,
        });
        assert!(tailed.1 / tailed.0 > 1.5 * usual.1 / usual.0, "{usual:?} {tailed:?}");
    }

    #[test]
    fn the_error_share_is_of_traces_and_errors_reach_the_root() {
        let traces = traces(8, 0.1, None);
        let failed = traces
            .iter()
            .filter(|trace| trace.iter().any(|span| span.error))
            .count();
        assert!((140..260).contains(&failed), "{failed}");
        assert!(
            traces
                .iter()
                .filter(|trace| trace.iter().any(|span| span.error))
                .all(|trace| trace[0].error)
        );
    }

    #[test]
    fn an_incident_slows_and_breaks_its_service_only() {
        let incident = Incident {
            service: 3,
            slower: 10.0,
            errors: 0.3,
        };
        let own = |traces: &[Vec<ShopSpan>], service: usize| {
            let mut times: Vec<i64> = traces
                .iter()
                .flatten()
                .filter(|span| span.service == service && span.side == Side::Server)
                .map(|span| span.end_ns - span.start_ns)
                .collect();
            times.sort_unstable();
            times[times.len() / 2] as f64
        };
        let (calm, trouble) = (traces(8, 0.0, None), traces(8, 0.0, Some(incident)));
        assert!(own(&trouble, 3) / own(&calm, 3) > 7.0);
        let other = own(&trouble, 7) / own(&calm, 7);
        assert!((0.8..1.25).contains(&other), "{other}");
        let failing = trouble
            .iter()
            .flatten()
            .filter(|span| span.error && span.side == Side::Server && span.service == 3);
        assert!(failing.count() > 100);
        assert!(!calm.iter().flatten().any(|span| span.error));
    }
}
