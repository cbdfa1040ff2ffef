//! Metrics and their data points. A point's numbers are read into a reused [`Point`]; its attributes and exemplars go to a
//! visitor.

use super::item::Parts;
use super::wire::{self, Reader, Wire};

/// Messages around the AnyValue of a data point's attribute: group, block, metric, data, point, pair, value.
pub const POINT_VALUE_LEVEL: usize = 7;
/// Around the AnyValue of an exemplar's attribute.
pub const EXEMPLAR_VALUE_LEVEL: usize = 8;

/// The kinds of metric, with their code in column `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Shape {
    /// Gauge.
    #[default]
    Gauge = 1,
    /// Sum.
    Sum = 2,
    /// Histogram with explicit bounds.
    Histogram = 3,
    /// Exponential histogram.
    Exponential = 4,
    /// Summary.
    Summary = 5,
}

/// A metric without its points.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetricHead<'a> {
    /// Name.
    pub name: &'a [u8],
    /// Description.
    pub description: &'a [u8],
    /// Unit.
    pub unit: &'a [u8],
    /// Kind; `None` if the metric has no data.
    pub shape: Option<Shape>,
    /// 0 unspecified, 1 delta, 2 cumulative.
    pub temporality: i32,
    /// Of sums.
    pub monotonic: bool,
    /// From where in the metric its data stands.
    data: &'a [u8],
}

const NAME: u32 = wire::len(1);
const DESCRIPTION: u32 = wire::len(2);
const UNIT: u32 = wire::len(3);
const METADATA: u32 = wire::len(12);
const METRIC_KNOWN: u32 = wire::known(&[1, 2, 3, 5, 7, 9, 10, 11, 12]);

const fn shape_of(tag: u32) -> Option<Shape> {
    const GAUGE: u32 = wire::len(5);
    const SUM: u32 = wire::len(7);
    const HISTOGRAM: u32 = wire::len(9);
    const EXPONENTIAL: u32 = wire::len(10);
    const SUMMARY: u32 = wire::len(11);
    match tag {
        GAUGE => Some(Shape::Gauge),
        SUM => Some(Shape::Sum),
        HISTOGRAM => Some(Shape::Histogram),
        EXPONENTIAL => Some(Shape::Exponential),
        SUMMARY => Some(Shape::Summary),
        _ => None,
    }
}

/// Reads a metric up to its points. Of several kinds of data the last one counts, as in any oneof.
pub fn metric(message: &[u8]) -> Wire<MetricHead<'_>> {
    let mut head = MetricHead::default();
    let mut reader = Reader::new(message);
    loop {
        let here = reader.rest();
        let Some(tag) = reader.tag()? else { break };
        match tag {
            NAME => head.name = reader.bytes()?,
            DESCRIPTION => head.description = reader.bytes()?,
            UNIT => head.unit = reader.bytes()?,
            // Metadata describes the metric for people and is not stored; its wire form is checked all the same.
            METADATA => {
                let pair = super::value::KeyValue::read(reader.bytes()?)?;
                if pair.value.is_list() {
                    super::value::depth(pair.raw, POINT_VALUE_LEVEL - 2)?;
                }
            }
            _ => match shape_of(tag) {
                Some(shape) => {
                    let data = reader.bytes()?;
                    if head.shape != Some(shape) {
                        (head.shape, head.data, head.temporality, head.monotonic) = (Some(shape), here, 0, false);
                    }
                    data_head(shape, data, &mut head)?;
                }
                None => reader.other(tag, METRIC_KNOWN)?,
            },
        }
    }
    Ok(head)
}

const POINTS: u32 = wire::len(1);
const TEMPORALITY: u32 = wire::varint(2);
const MONOTONIC: u32 = wire::varint(3);

fn data_head(shape: Shape, data: &[u8], head: &mut MetricHead<'_>) -> Wire<()> {
    let known = match shape {
        Shape::Gauge | Shape::Summary => wire::known(&[1]),
        Shape::Sum => wire::known(&[1, 2, 3]),
        Shape::Histogram | Shape::Exponential => wire::known(&[1, 2]),
    };
    let mut reader = Reader::new(data);
    while let Some(tag) = reader.tag()? {
        match tag {
            POINTS => drop(reader.bytes()?),
            TEMPORALITY if known & 1 << 2 != 0 => head.temporality = reader.varint()? as i32,
            MONOTONIC if known & 1 << 3 != 0 => head.monotonic = reader.varint()? != 0,
            _ => reader.other(tag, known)?,
        }
    }
    Ok(())
}

impl<'a> MetricHead<'a> {
    /// Visits the raw data points.
    pub fn points(&self, mut visit: impl FnMut(Shape, &'a [u8]) -> Wire<()>) -> Wire<()> {
        let mut reader = Reader::new(self.data);
        while let Some(tag) = reader.tag()? {
            if self.shape.is_none() || shape_of(tag) != self.shape {
                reader.skip(tag)?;
                continue;
            }
            let mut data = Reader::new(reader.bytes()?);
            while let Some(tag) = data.tag()? {
                match (tag, self.shape) {
                    (POINTS, Some(shape)) => visit(shape, data.bytes()?)?,
                    _ => data.skip(tag)?,
                }
            }
        }
        Ok(())
    }
}

/// A number as sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Number {
    /// None was sent.
    #[default]
    None,
    /// `as_double`.
    Double(f64),
    /// `as_int`.
    Int(i64),
}

/// The numbers of a data point of any kind; fields of other kinds stay at their defaults. Reuse one to save allocations.
#[derive(Debug, Clone, Default)]
pub struct Point {
    /// Time, ns since 1970.
    pub time: u64,
    /// Start, ns since 1970; 0 if not sent.
    pub start: u64,
    /// Bit 0: no recorded value.
    pub flags: u32,
    /// Of a gauge or sum.
    pub number: Number,
    /// Of a distribution.
    pub count: u64,
    /// Of a distribution.
    pub sum: Option<f64>,
    /// Least value.
    pub min: Option<f64>,
    /// Greatest value.
    pub max: Option<f64>,
    /// Bucket counts of a histogram.
    pub counts: Vec<u64>,
    /// Bounds of a histogram.
    pub bounds: Vec<f64>,
    /// Whether this is an exponential histogram.
    pub exponential: bool,
    /// Of an exponential histogram.
    pub scale: i32,
    /// Of an exponential histogram.
    pub zero_count: u64,
    /// Of an exponential histogram.
    pub zero_threshold: f64,
    /// Of an exponential histogram.
    pub positive: Buckets,
    /// Of an exponential histogram.
    pub negative: Buckets,
    /// (quantile, value) of a summary.
    pub quantiles: Vec<(f64, f64)>,
}

/// One side of an exponential histogram.
#[derive(Debug, Clone, Default)]
pub struct Buckets {
    /// Index of the first bucket.
    pub offset: i32,
    /// Counts from there on.
    pub counts: Vec<u64>,
}

impl Point {
    fn clear(&mut self) {
        self.counts.clear();
        self.bounds.clear();
        self.positive.counts.clear();
        self.negative.counts.clear();
        self.quantiles.clear();
        *self = Point {
            counts: std::mem::take(&mut self.counts),
            bounds: std::mem::take(&mut self.bounds),
            positive: Buckets {
                offset: 0,
                counts: std::mem::take(&mut self.positive.counts),
            },
            negative: Buckets {
                offset: 0,
                counts: std::mem::take(&mut self.negative.counts),
            },
            quantiles: std::mem::take(&mut self.quantiles),
            ..Point::default()
        };
    }

    /// Reads a data point of this shape.
    #[inline]
    pub fn read<'a>(&mut self, shape: Shape, message: &'a [u8], parts: &mut impl Parts<'a>) -> Wire<()> {
        match shape {
            Shape::Gauge | Shape::Sum => self.read_number(message, parts),
            Shape::Histogram => self.read_histogram(message, parts),
            Shape::Exponential => self.read_exponential(message, parts),
            Shape::Summary => self.read_summary(message, parts),
        }
    }

    fn read_number<'a>(&mut self, message: &'a [u8], parts: &mut impl Parts<'a>) -> Wire<()> {
        const KNOWN: u32 = wire::known(&[2, 3, 4, 5, 6, 7, 8]);
        const START: u32 = wire::fixed64(2);
        const TIME: u32 = wire::fixed64(3);
        const AS_DOUBLE: u32 = wire::fixed64(4);
        const EXEMPLAR: u32 = wire::len(5);
        const AS_INT: u32 = wire::fixed64(6);
        const ATTRIBUTE: u32 = wire::len(7);
        const FLAGS: u32 = wire::varint(8);
        // No call to clear: points of one kind follow one another, and only these four are read.
        (self.time, self.start, self.flags, self.number) = (0, 0, 0, Number::None);
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag {
                START => self.start = reader.fixed64()?,
                TIME => self.time = reader.fixed64()?,
                AS_DOUBLE => self.number = Number::Double(reader.double()?),
                EXEMPLAR => parts.event(reader.bytes()?)?,
                AS_INT => self.number = Number::Int(reader.fixed64()? as i64),
                ATTRIBUTE => reader.each(ATTRIBUTE, |pair| parts.attribute(pair))?,
                FLAGS => self.flags = reader.uint32()?,
                _ => reader.other(tag, KNOWN)?,
            }
        }
        Ok(())
    }

    fn read_histogram<'a>(&mut self, message: &'a [u8], parts: &mut impl Parts<'a>) -> Wire<()> {
        const KNOWN: u32 = wire::known(&[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        const START: u32 = wire::fixed64(2);
        const TIME: u32 = wire::fixed64(3);
        const COUNT: u32 = wire::fixed64(4);
        const SUM: u32 = wire::fixed64(5);
        const COUNTS: u32 = wire::len(6);
        const COUNTS_ONE: u32 = wire::fixed64(6);
        const BOUNDS: u32 = wire::len(7);
        const BOUNDS_ONE: u32 = wire::fixed64(7);
        const EXEMPLAR: u32 = wire::len(8);
        const ATTRIBUTE: u32 = wire::len(9);
        const FLAGS: u32 = wire::varint(10);
        const MIN: u32 = wire::fixed64(11);
        const MAX: u32 = wire::fixed64(12);
        self.clear();
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag {
                START => self.start = reader.fixed64()?,
                TIME => self.time = reader.fixed64()?,
                COUNT => self.count = reader.fixed64()?,
                SUM => self.sum = Some(reader.double()?),
                COUNTS => packed(reader.bytes()?, |bits| self.counts.push(bits))?,
                COUNTS_ONE => self.counts.push(reader.fixed64()?),
                BOUNDS => packed(reader.bytes()?, |bits| self.bounds.push(f64::from_bits(bits)))?,
                BOUNDS_ONE => self.bounds.push(reader.double()?),
                EXEMPLAR => parts.event(reader.bytes()?)?,
                ATTRIBUTE => reader.each(ATTRIBUTE, |pair| parts.attribute(pair))?,
                FLAGS => self.flags = reader.uint32()?,
                MIN => self.min = Some(reader.double()?),
                MAX => self.max = Some(reader.double()?),
                _ => reader.other(tag, KNOWN)?,
            }
        }
        Ok(())
    }

    fn read_exponential<'a>(&mut self, message: &'a [u8], parts: &mut impl Parts<'a>) -> Wire<()> {
        const KNOWN: u32 = wire::known(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        const ATTRIBUTE: u32 = wire::len(1);
        const START: u32 = wire::fixed64(2);
        const TIME: u32 = wire::fixed64(3);
        const COUNT: u32 = wire::fixed64(4);
        const SUM: u32 = wire::fixed64(5);
        const SCALE: u32 = wire::varint(6);
        const ZERO_COUNT: u32 = wire::fixed64(7);
        const POSITIVE: u32 = wire::len(8);
        const NEGATIVE: u32 = wire::len(9);
        const FLAGS: u32 = wire::varint(10);
        const EXEMPLAR: u32 = wire::len(11);
        const MIN: u32 = wire::fixed64(12);
        const MAX: u32 = wire::fixed64(13);
        const ZERO_THRESHOLD: u32 = wire::fixed64(14);
        self.clear();
        self.exponential = true;
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag {
                ATTRIBUTE => reader.each(ATTRIBUTE, |pair| parts.attribute(pair))?,
                START => self.start = reader.fixed64()?,
                TIME => self.time = reader.fixed64()?,
                COUNT => self.count = reader.fixed64()?,
                SUM => self.sum = Some(reader.double()?),
                SCALE => self.scale = reader.sint32()?,
                ZERO_COUNT => self.zero_count = reader.fixed64()?,
                POSITIVE => self.positive.read(reader.bytes()?)?,
                NEGATIVE => self.negative.read(reader.bytes()?)?,
                FLAGS => self.flags = reader.uint32()?,
                EXEMPLAR => parts.event(reader.bytes()?)?,
                MIN => self.min = Some(reader.double()?),
                MAX => self.max = Some(reader.double()?),
                ZERO_THRESHOLD => self.zero_threshold = reader.double()?,
                _ => reader.other(tag, KNOWN)?,
            }
        }
        Ok(())
    }

    fn read_summary<'a>(&mut self, message: &'a [u8], parts: &mut impl Parts<'a>) -> Wire<()> {
        const KNOWN: u32 = wire::known(&[2, 3, 4, 5, 6, 7, 8]);
        const START: u32 = wire::fixed64(2);
        const TIME: u32 = wire::fixed64(3);
        const COUNT: u32 = wire::fixed64(4);
        const SUM: u32 = wire::fixed64(5);
        const QUANTILE: u32 = wire::len(6);
        const ATTRIBUTE: u32 = wire::len(7);
        const FLAGS: u32 = wire::varint(8);
        self.clear();
        // Not optional in this message: absent means 0.
        self.sum = Some(0.0);
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag {
                START => self.start = reader.fixed64()?,
                TIME => self.time = reader.fixed64()?,
                COUNT => self.count = reader.fixed64()?,
                SUM => self.sum = Some(reader.double()?),
                QUANTILE => self.quantiles.push(quantile(reader.bytes()?)?),
                ATTRIBUTE => reader.each(ATTRIBUTE, |pair| parts.attribute(pair))?,
                FLAGS => self.flags = reader.uint32()?,
                _ => reader.other(tag, KNOWN)?,
            }
        }
        Ok(())
    }
}

impl Buckets {
    fn read(&mut self, message: &[u8]) -> Wire<()> {
        const KNOWN: u32 = wire::known(&[1, 2]);
        const OFFSET: u32 = wire::varint(1);
        const COUNTS: u32 = wire::len(2);
        const COUNTS_ONE: u32 = wire::varint(2);
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag {
                OFFSET => self.offset = reader.sint32()?,
                COUNTS => {
                    let mut packed = Reader::new(reader.bytes()?);
                    while !packed.rest().is_empty() {
                        self.counts.push(packed.varint()?);
                    }
                }
                COUNTS_ONE => self.counts.push(reader.varint()?),
                _ => reader.other(tag, KNOWN)?,
            }
        }
        Ok(())
    }
}

fn packed(bytes: &[u8], mut push: impl FnMut(u64)) -> Wire<()> {
    let mut reader = Reader::new(bytes);
    while !reader.rest().is_empty() {
        push(reader.fixed64()?);
    }
    Ok(())
}

fn quantile(message: &[u8]) -> Wire<(f64, f64)> {
    const KNOWN: u32 = wire::known(&[1, 2]);
    const QUANTILE: u32 = wire::fixed64(1);
    const VALUE: u32 = wire::fixed64(2);
    let (mut quantile, mut value) = (0.0, 0.0);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            QUANTILE => quantile = reader.double()?,
            VALUE => value = reader.double()?,
            _ => reader.other(tag, KNOWN)?,
        }
    }
    Ok((quantile, value))
}

/// The fields of an exemplar that stand once.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExemplarHead<'a> {
    /// Time, ns since 1970.
    pub time: u64,
    /// Measured value.
    pub number: Number,
    /// Trace id, of any length.
    pub trace_id: &'a [u8],
    /// Span id, of any length.
    pub span_id: &'a [u8],
}

/// Reads an exemplar.
pub fn exemplar<'a>(message: &'a [u8], mut attribute: impl FnMut(&'a [u8]) -> Wire<()>) -> Wire<ExemplarHead<'a>> {
    const KNOWN: u32 = wire::known(&[2, 3, 4, 5, 6, 7]);
    const TIME: u32 = wire::fixed64(2);
    const AS_DOUBLE: u32 = wire::fixed64(3);
    const SPAN_ID: u32 = wire::len(4);
    const TRACE_ID: u32 = wire::len(5);
    const AS_INT: u32 = wire::fixed64(6);
    const ATTRIBUTE: u32 = wire::len(7);
    let mut head = ExemplarHead::default();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            TIME => head.time = reader.fixed64()?,
            AS_DOUBLE => head.number = Number::Double(reader.double()?),
            SPAN_ID => head.span_id = reader.bytes()?,
            TRACE_ID => head.trace_id = reader.bytes()?,
            AS_INT => head.number = Number::Int(reader.fixed64()? as i64),
            ATTRIBUTE => attribute(reader.bytes()?)?,
            _ => reader.other(tag, KNOWN)?,
        }
    }
    Ok(head)
}
