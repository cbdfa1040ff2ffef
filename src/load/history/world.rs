//! What there is and what happens to it: services, the sites of their call tree, deployments, incidents.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::super::shop::{self, SERVICES, Work};
use super::draw::Latency;

const DAY_S: u64 = 86_400;

/// Slices of this many days before the last midnight, and after it, are 10 s wide, older ones a minute: as `maintain` leaves them.
const FINE_DAYS: u64 = 2;

/// Cells (a site in a slice of a minute) that a past without a density of its own aims at: some 15 million rows.
const CELLS_AIM: f64 = 6e6;

/// The most that a past without a density of its own is filled.
const DENSITY_MAX: f64 = 0.6;

/// How much rarer each next operation is: the rate of the k-th is k to the power of minus this.
const SKEW: f64 = 1.7;

/// Sigmas of the durations, one for each site.
const SIGMAS: [f64; 8] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// Median of what a call takes on the way there and back, ns.
pub(super) const HOP_NS: f64 = 150_000.0;

/// Everything that decides a past.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How far back it begins.
    pub history: Duration,
    /// Services.
    pub services: u32,
    /// Operations of all services together; at least one each.
    pub operations: u32,
    /// Share of minutes in which an operation has requests, of all of them on average; `None` for as many as make about 15 million rows.
    pub density: Option<f64>,
    /// How much of the end has spans, traces and logs; two days at most.
    pub rows: Duration,
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Its end, ns since 1970.
    pub now_ns: u64,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// `service.name`.
    pub name: String,
    /// `service.version`, each with the moment it was deployed, s since 1970; the first from the beginning on.
    pub versions: Vec<(u64, String)>,
}

/// A place in the call tree: an operation as it is called from one place of another.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Index of the service.
    pub service: usize,
    /// Operation: the span's name.
    pub name: String,
    /// What kind of work.
    pub work: Work,
    /// The site that calls it; `None` for a root.
    pub caller: Option<usize>,
    /// Calls per call of the caller.
    pub calls: f64,
    /// Requests a second, on average of a week.
    pub rate: f64,
    /// Median of its duration, ns.
    pub median_ns: f64,
    /// Which of the distributions around the median.
    pub shape: usize,
    /// Share that fails.
    pub errors: f64,
}

/// What an incident does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Trouble {
    /// Durations are this many times longer.
    Latency {
        /// Factor.
        slower: f64,
    },
    /// This share of requests fails.
    Errors {
        /// Share, 0 to 1.
        share: f64,
    },
}

/// A service in trouble, in every operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Incident {
    /// Unique in its past.
    pub name: String,
    /// `service.name`.
    pub service: String,
    /// First second, s since 1970; a whole minute.
    pub from_s: u64,
    /// Second after the last; a whole minute.
    pub to_s: u64,
    /// What.
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// A new version of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Deployment {
    /// From then on, s since 1970.
    pub at_s: u64,
    /// `service.name`.
    pub service: String,
    /// `service.version`.
    pub version: String,
}

/// A past, before it is counted.
#[derive(Debug, Clone)]
pub struct World {
    /// As named by [`Site::service`].
    pub services: Vec<Service>,
    /// Callers come before whom they call.
    pub sites: Vec<Site>,
    /// In order of time.
    pub incidents: Vec<Incident>,
    /// First second, s since 1970; a whole minute.
    pub from_s: u64,
    /// From here on slices are 10 s wide.
    pub fine_s: u64,
    /// From here on there are spans and logs.
    pub rows_s: u64,
    /// Second after the last.
    pub to_s: u64,
    /// Decides what is drawn later.
    pub seed: u64,
    /// By [`Site::shape`].
    pub(super) latencies: Vec<Latency>,
}

impl World {
    /// Services in a tree of three branches each, below one that is called from outside.
    pub fn new(settings: &Settings) -> World {
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let operations = settings.operations.max(1) as usize;
        let services = (settings.services.max(1) as usize).min(operations);
        let minutes = settings.history.as_secs() as f64 / 60.0;
        let most = CELLS_AIM / (minutes * operations as f64).max(1.0);
        let density = settings.density.unwrap_or(most.min(DENSITY_MAX));
        let rates = rates(operations, density.clamp(0.0, 1.0));
        let deepest = depth(services - 1);
        let mut sites: Vec<Site> = Vec::with_capacity(operations);
        for (at, rate) in rates.iter().enumerate() {
            let service = at % services;
            // The first operation of every service comes before the second of any, so there always is one to be called from.
            let caller = (service > 0).then(|| {
                let above = (service - 1) / 3;
                above + services * rng.random_range(0..(at - above).div_ceil(services))
            });
            let spread = normal(&mut rng, 0.5);
            sites.push(Site {
                service,
                name: operation(service, at / services),
                work: if service == 0 { Work::Page } else { Work::Rpc },
                caller,
                calls: caller.map_or(1.0, |caller| rate / rates[caller]),
                rate: *rate,
                median_ns: 2e6 * 2.5f64.powi(deepest - depth(service)) * spread,
                shape: rng.random_range(0..SIGMAS.len()),
                errors: 10f64.powf(rng.random_range(-3.5..-2.3)),
            });
        }
        World::happening(settings, (0..services).map(service_name).collect(), sites, &mut rng)
    }

    /// The shop of `tailwater demo`, its first `services`, with so many spans a second: a past for its present.
    pub fn shop(settings: &Settings, spans_per_s: f64) -> World {
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let services = (settings.services as usize).clamp(1, SERVICES.len());
        let mut sites = Vec::new();
        for (page, share) in shop::pages() {
            add_shop(&mut sites, page, None, share, services);
        }
        let spans: f64 = (sites.iter())
            .map(|site| site.rate * if site.work == Work::Rpc { 2.0 } else { 1.0 })
            .sum();
        sites.iter_mut().for_each(|site| site.rate *= spans_per_s / spans);
        let names = SERVICES[..services].iter().map(|name| (*name).to_owned()).collect();
        World::happening(settings, names, sites, &mut rng)
    }

    fn happening(settings: &Settings, names: Vec<String>, sites: Vec<Site>, rng: &mut SmallRng) -> World {
        let to_s = settings.now_ns / 1_000_000_000 / 10 * 10;
        let from_s = to_s.saturating_sub(settings.history.as_secs()) / 60 * 60;
        let fine_s = (to_s / DAY_S * DAY_S)
            .saturating_sub(FINE_DAYS * DAY_S)
            .clamp(from_s, to_s);
        // Rows are counted in slices of 10 s.
        let rows_s = (to_s.saturating_sub(settings.rows.as_secs()) / 10 * 10).max(fine_s);
        let mut deployed: Vec<Vec<u64>> = names.iter().map(|_| deployments(rng, from_s, to_s)).collect();
        let incidents = incidents(rng, &names, (from_s, to_s), &mut deployed);
        let services = names.into_iter().zip(deployed).map(|(name, deployed)| Service {
            name,
            versions: versions(from_s, deployed),
        });
        World {
            services: services.collect(),
            sites,
            incidents,
            from_s,
            fine_s,
            rows_s,
            to_s,
            seed: settings.seed,
            latencies: SIGMAS.iter().map(|sigma| Latency::new(*sigma)).collect(),
        }
    }

    /// Which of a service's versions runs at a time.
    pub fn version(&self, service: usize, at_s: u64) -> usize {
        let versions = &self.services[service].versions;
        versions.partition_point(|(from, _)| *from <= at_s).saturating_sub(1)
    }

    /// What all requests of a service suffer at a time: a factor on durations, and the least share that fails.
    pub fn suffers(&self, service: usize, at_s: u64) -> (f64, f64) {
        let name = &self.services[service].name;
        let mut here = self.incidents.iter().filter(|incident| incident.service == *name);
        match here.find(|incident| (incident.from_s..incident.to_s).contains(&at_s)) {
            None => (1.0, 0.0),
            Some(incident) => match incident.trouble {
                Trouble::Latency { slower } => (slower, 0.0),
                Trouble::Errors { share } => (1.0, share),
            },
        }
    }

    /// All deployments, in order of time.
    pub fn deployments(&self) -> Vec<Deployment> {
        let of = |service: &Service| {
            let name = service.name.clone();
            // The first version was there before.
            let later = service.versions.iter().skip(1).cloned();
            later
                .map(move |(at_s, version)| Deployment {
                    at_s,
                    service: name.clone(),
                    version,
                })
                .collect::<Vec<_>>()
        };
        let mut all: Vec<Deployment> = self.services.iter().flat_map(of).collect();
        all.sort();
        all
    }
}

/// How much of the average traffic there is at a time: most in the afternoon, half at weekends. 1 on average of a week.
pub(super) fn rhythm(at_s: u64) -> f64 {
    let hour = (at_s % DAY_S) as f64 / 3600.0;
    let day = 1.0 + 0.6 * ((hour - 9.0) / 24.0 * std::f64::consts::TAU).sin();
    // 1 January 1970 was a Thursday.
    let weekend = matches!((at_s / DAY_S + 4) % 7, 0 | 6);
    day * if weekend { 0.5 } else { 1.2 }
}

/// Requests a second of each operation, the most frequent first, so that `density` of all minutes have one.
fn rates(operations: usize, density: f64) -> Vec<f64> {
    let weights: Vec<f64> = (1..=operations).map(|rank| (rank as f64).powf(-SKEW)).collect();
    let filled = |scale: f64| {
        let shares = weights.iter().map(|weight| 1.0 - (-scale * weight * 60.0).exp());
        shares.sum::<f64>() / operations as f64
    };
    // By halves, on a scale of logarithms: a millionth of a request a second to a million.
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if filled(10f64.powf(middle)) < density {
            low = middle;
        } else {
            high = middle;
        }
    }
    weights.iter().map(|weight| 10f64.powf(low) * weight).collect()
}

/// How far from the root of a tree of three branches each.
fn depth(service: usize) -> i32 {
    match service {
        0 => 0,
        _ => 1 + depth((service - 1) / 3),
    }
}

fn service_name(service: usize) -> String {
    let name = SERVICES[service % SERVICES.len()];
    match service / SERVICES.len() {
        0 => name.to_owned(),
        copy => format!("{name}-{}", copy + 1),
    }
}

fn operation(service: usize, number: usize) -> String {
    const NOUNS: [&str; 12] = [
        "Cart", "Order", "Product", "User", "Price", "Stock", "Ad", "Mail", "Payment", "Quote", "Review", "Search",
    ];
    const VERBS: [&str; 6] = ["Get", "List", "Add", "Update", "Delete", "Check"];
    const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
    let noun = NOUNS[number % NOUNS.len()];
    let (verb, more) = (number / NOUNS.len() % VERBS.len(), number / NOUNS.len() / VERBS.len());
    let more = if more == 0 {
        String::new()
    } else {
        (more + 1).to_string()
    };
    if service == 0 {
        let method = METHODS[verb % METHODS.len()];
        let under = if verb < METHODS.len() { "" } else { "/{id}" };
        return format!("{method} /{}{under}{more}", noun.to_lowercase());
    }
    format!("shop.{noun}Service{more}/{}{noun}", VERBS[verb])
}

/// The sites below an operation of the shop, itself first; returns its median, ns.
fn add_shop(sites: &mut Vec<Site>, op: &'static shop::Op, caller: Option<usize>, calls: f64, services: usize) -> f64 {
    let place = sites.len();
    let rate = calls * caller.map_or(1.0, |caller: usize| sites[caller].rate);
    sites.push(Site {
        service: op.service,
        name: op.name.to_owned(),
        work: op.work,
        caller,
        calls,
        rate,
        median_ns: 0.0,
        shape: SIGMAS
            .iter()
            .position(|sigma| *sigma >= op.sigma)
            .unwrap_or(SIGMAS.len() - 1),
        errors: 0.000_3,
    });
    let mut median_ns = op.own_us * 1e3;
    for (call, times) in op.calls.iter().filter(|(call, _)| call.service < services) {
        let below = add_shop(sites, call, Some(place), f64::from(*times), services);
        let hops = if call.work == Work::Rpc { 2.0 * HOP_NS } else { 0.0 };
        median_ns += f64::from(*times) * (below + hops);
    }
    sites[place].median_ns = median_ns;
    median_ns
}

/// When a service got a new version: every four to sixteen days.
fn deployments(rng: &mut SmallRng, from_s: u64, to_s: u64) -> Vec<u64> {
    let mut all = Vec::new();
    let mut at = from_s + rng.random_range(0..16 * DAY_S);
    while at < to_s {
        all.push(at / 60 * 60);
        at += rng.random_range(4 * DAY_S..16 * DAY_S);
    }
    all
}

/// The last one is what `load` and `demo` send, so that a past goes on as the present.
fn versions(from_s: u64, mut deployed: Vec<u64>) -> Vec<(u64, String)> {
    const LAST: u64 = 142;
    deployed.sort_unstable();
    deployed.dedup();
    deployed.retain(|at| *at > from_s);
    let count = deployed.len() as u64;
    let moments = std::iter::once(from_s).chain(deployed).enumerate();
    let named = moments.map(|(number, at)| {
        let release = (LAST + number as u64).saturating_sub(count);
        (at, format!("{}.{}.{}", release / 100, release / 10 % 10, release % 10))
    });
    named.collect()
}

/// About one in six days, latency and errors in turn; errors begin two minutes after a deployment that is to blame.
fn incidents(
    rng: &mut SmallRng,
    names: &[String],
    (from_s, to_s): (u64, u64),
    deployed: &mut [Vec<u64>],
) -> Vec<Incident> {
    const TRIES: usize = 20;
    let minutes = (to_s - from_s) / 60;
    let longest = 90.min(minutes / 8);
    let wanted = (minutes / (6 * 1440)).max(1);
    let mut found: Vec<Incident> = Vec::new();
    for number in 0..if longest < 3 { 0 } else { wanted } {
        for _ in 0..TRIES {
            let service = rng.random_range(0..names.len());
            let long = rng.random_range(longest.min(10)..=longest) * 60;
            let start = from_s + rng.random_range(5..minutes - long / 60) * 60;
            let (slower, share) = (rng.random_range(4.0..12.0f64), rng.random_range(0.05..0.4f64));
            let apart = |other: &Incident| start > other.to_s + 3600 || start + long + 3600 < other.from_s;
            let fits = |other: &Incident| other.service != names[service] || apart(other);
            if !found.iter().all(fits) {
                continue;
            }
            let is_slow = number % 2 == 0;
            if !is_slow {
                deployed[service].push(start - 120);
            }
            found.push(Incident {
                name: String::new(),
                service: names[service].clone(),
                from_s: start,
                to_s: start + long,
                trouble: match is_slow {
                    // Two digits are enough, and read well.
                    true => Trouble::Latency {
                        slower: (slower * 10.0).round() / 10.0,
                    },
                    false => Trouble::Errors {
                        share: (share * 100.0).round() / 100.0,
                    },
                },
            });
            break;
        }
    }
    found.sort_by(|a, b| (a.from_s, &a.service).cmp(&(b.from_s, &b.service)));
    for (number, incident) in found.iter_mut().enumerate() {
        incident.name = format!("incident-{}", number + 1);
    }
    found
}

/// Around 1, log-normal.
fn normal(rng: &mut SmallRng, sigma: f64) -> f64 {
    Latency::new(sigma).quantile(rng.random_range(0.02..0.98))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        history: Duration::from_secs(90 * DAY_S),
        services: 20,
        operations: 1000,
        density: None,
        rows: Duration::from_secs(3600),
        seed: 7,
        // 2026-11-22T20:00:03Z.
        now_ns: 1_795_377_603_000_000_000,
    };

    #[test]
    fn the_tree_is_one() {
        let world = World::new(&SETTINGS);
        assert_eq!((world.services.len(), world.sites.len()), (20, 1000));
        for (at, site) in world.sites.iter().enumerate() {
            match site.caller {
                None => assert_eq!(site.service, 0),
                Some(caller) => {
                    assert!(caller < at && world.sites[caller].service == (site.service - 1) / 3);
                    assert!(site.calls <= 1.0);
                    let expected = world.sites[caller].rate * site.calls;
                    assert!((site.rate / expected - 1.0).abs() < 1e-9);
                }
            }
        }
        let mut names: Vec<_> = world.sites.iter().map(|site| (site.service, &site.name)).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 1000, "operations are different ones");
    }

    #[test]
    fn times_are_whole_slices() {
        let world = World::new(&SETTINGS);
        assert_eq!((world.from_s % 60, world.fine_s % DAY_S, world.rows_s % 10), (0, 0, 0));
        assert_eq!(world.to_s, 1_795_377_600);
        assert_eq!(world.to_s - world.rows_s, 3600);
        assert!((2 * DAY_S..3 * DAY_S).contains(&(world.to_s - world.fine_s)));
        for incident in &world.incidents {
            assert!(world.from_s <= incident.from_s && incident.to_s <= world.to_s);
            assert_eq!((incident.from_s % 60, incident.to_s % 60), (0, 0));
        }
    }

    #[test]
    fn things_happen() {
        let world = World::new(&SETTINGS);
        assert_eq!(world.incidents.len(), 15);
        let errors = |incident: &&Incident| matches!(incident.trouble, Trouble::Errors { .. });
        let blamed = world.incidents.iter().filter(errors);
        let deployments = world.deployments();
        for incident in blamed {
            let at = incident.from_s - 120;
            assert!(
                deployments
                    .iter()
                    .any(|one| (one.at_s, &one.service) == (at, &incident.service))
            );
        }
        for (at, service) in world.services.iter().enumerate() {
            assert_eq!(
                service.versions.last().map(|(_, version)| version.as_str()),
                Some("1.4.2")
            );
            assert_eq!(world.version(at, world.from_s), 0);
            assert_eq!(world.version(at, world.to_s), service.versions.len() - 1);
        }
        let incident = &world.incidents[0];
        let service = world.services.iter().position(|one| one.name == incident.service);
        let service = service.unwrap_or_default();
        assert_ne!(world.suffers(service, incident.from_s), (1.0, 0.0));
        assert_eq!(world.suffers(service, incident.to_s), (1.0, 0.0));
    }

    #[test]
    fn a_density_is_kept() {
        for (operations, density) in [(1000, 0.1), (10, 0.5), (1, 0.9), (50, 0.0)] {
            let filled: f64 = rates(operations, density)
                .iter()
                .map(|rate| 1.0 - (-rate * 60.0).exp())
                .sum();
            assert!(
                (filled / operations as f64 - density).abs() < 1e-3,
                "{operations} {density}"
            );
        }
    }

    #[test]
    fn a_week_is_average() {
        let minutes = 7 * 1440;
        let mean = (0..minutes).map(|minute| rhythm(minute * 60)).sum::<f64>() / minutes as f64;
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
        let friday = 1_795_132_800;
        assert!(rhythm(friday + 15 * 3600) > 3.0 * rhythm(friday + 3 * 3600));
        assert!(rhythm(friday + DAY_S) < rhythm(friday) / 2.0);
    }

    #[test]
    fn short_and_small_pasts_are_worlds_too() {
        for (seconds, operations) in [(60, 1), (600, 3), (0, 1), (7200, 2)] {
            let world = World::new(&Settings {
                history: Duration::from_secs(seconds),
                operations,
                ..SETTINGS
            });
            assert!(world.from_s <= world.rows_s && world.rows_s <= world.to_s);
            assert_eq!(world.services.len(), operations as usize);
        }
    }

    #[test]
    fn the_shop_has_a_past() {
        let world = World::shop(
            &Settings {
                services: 8,
                ..SETTINGS
            },
            100.0,
        );
        let spans = |site: &Site| site.rate * if site.work == Work::Rpc { 2.0 } else { 1.0 };
        let total: f64 = world.sites.iter().map(spans).sum();
        assert!((total - 100.0).abs() < 1e-6 && world.services.len() == 8);
        let per_trace: f64 = total
            / world
                .sites
                .iter()
                .filter(|site| site.caller.is_none())
                .map(spans)
                .sum::<f64>();
        assert!((35.0..45.0).contains(&per_trace), "{per_trace}");
    }
}
