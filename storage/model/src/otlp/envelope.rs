//! From a request to its items: the three requests have the same outer shape.
//!
//! ```text
//! request          1: group*
//! group            1: resource   2: block*   3: schema_url        ResourceSpans, ResourceMetrics, ResourceLogs
//! block            1: scope      2: entry*   3: schema_url        ScopeSpans, ScopeMetrics, ScopeLogs
//! ```
//! An entry is a span, a log record or a metric. Fields may come in any order. A group is therefore read twice, what its
//! blocks share first. A block is read once: looking ahead over its entries would cost a cache miss each. Encoders write the
//! scope before the entries and the schema URL behind them; so a late URL is told afterwards, and for a late scope, which
//! nobody writes, the block is begun again.

use super::value::{self, KeyValue};
use super::wire::{self, Reader, Wire};

const FIRST: u32 = wire::len(1);
const SECOND: u32 = wire::len(2);
const THIRD: u32 = wire::len(3);
const LEVEL_KNOWN: u32 = wire::known(&[1, 2, 3]);
const REQUEST_KNOWN: u32 = wire::known(&[1]);

const RESOURCE_KNOWN: u32 = wire::known(&[1, 2, 3]);
const SCOPE_KNOWN: u32 = wire::known(&[1, 2, 3, 4]);

/// Messages around a resource's or scope's KeyValue's AnyValue, for the recursion limit: group, resource, pair, value.
const RESOURCE_VALUE_LEVEL: usize = 4;
const SCOPE_VALUE_LEVEL: usize = 5;

/// Who reads a request. Methods are called in wire order: a resource, then for each of its blocks the scope and its entries. Whoever looks at entries
/// alone leaves out the others; whom scopes matter to has all of them.
pub trait Visit<'a> {
    /// A resource begins.
    fn resource(&mut self, _resource: Origin<'a>) -> Wire<()> {
        Ok(())
    }
    /// Whether scopes matter. If not, `scope`, `rescope` and `rewind` are never called.
    const SCOPES: bool = true;
    /// A scope begins.
    fn scope(&mut self, _scope: Origin<'a>) -> Wire<()> {
        Ok(())
    }
    /// The scope of all entries since the last `scope` has a schema URL, and is this.
    fn rescope(&mut self, _scope: Origin<'a>) -> Wire<()> {
        Ok(())
    }
    /// Entries since the last `scope` come again, and so did that.
    fn rewind(&mut self) {}
    /// A span, log record or metric.
    fn entry(&mut self, entry: &'a [u8]) -> Wire<()>;
}

/// The resource or scope of the entries that follow.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The message; empty if there is none.
    pub message: &'a [u8],
    /// Everything that makes it up when the message stands there more than once (they merge): the level around it.
    merged: Option<&'a [u8]>,
    /// Schema URL of the level.
    pub schema_url: &'a [u8],
}

impl<'a> Origin<'a> {
    /// Bytes that tell this origin from another, besides the schema URL. `None` if there is no cheap such thing.
    pub fn identity(&self) -> Option<&'a [u8]> {
        self.merged.is_none().then_some(self.message)
    }

    /// Bytes of the message, for caps.
    pub fn size(&self) -> usize {
        self.merged.map_or(self.message.len(), <[u8]>::len)
    }

    fn parts(&self, mut visit: impl FnMut(&'a [u8]) -> Wire<()>) -> Wire<()> {
        let Some(level) = self.merged else {
            return visit(self.message);
        };
        let mut reader = Reader::new(level);
        while let Some(tag) = reader.tag()? {
            match tag {
                FIRST => visit(reader.bytes()?)?,
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    /// Visits the attributes of a resource.
    pub fn resource_attributes(&self, mut visit: impl FnMut(KeyValue<'a>) -> Wire<()>) -> Wire<()> {
        self.parts(|message| {
            let mut reader = Reader::new(message);
            while let Some(tag) = reader.tag()? {
                match tag {
                    FIRST => visit(KeyValue::read(reader.bytes()?)?)?,
                    _ if tag == wire::varint(2) => drop(reader.varint()?),
                    // Entity references say which attributes identify what; nothing is stored of them.
                    THIRD => entity_ref(reader.bytes()?)?,
                    _ => reader.other(tag, RESOURCE_KNOWN)?,
                }
            }
            Ok(())
        })
    }

    /// Name and version of a scope; visits its attributes.
    pub fn scope_attributes(&self, mut visit: impl FnMut(KeyValue<'a>) -> Wire<()>) -> Wire<(&'a [u8], &'a [u8])> {
        let (mut name, mut version): (&[u8], &[u8]) = (&[], &[]);
        self.parts(|message| {
            let mut reader = Reader::new(message);
            while let Some(tag) = reader.tag()? {
                match tag {
                    FIRST => name = reader.bytes()?,
                    SECOND => version = reader.bytes()?,
                    THIRD => visit(KeyValue::read(reader.bytes()?)?)?,
                    _ if tag == wire::varint(4) => drop(reader.varint()?),
                    _ => reader.other(tag, SCOPE_KNOWN)?,
                }
            }
            Ok(())
        })?;
        Ok((name, version))
    }
}

fn entity_ref(message: &[u8]) -> Wire<()> {
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            FIRST | SECOND | THIRD => drop(reader.bytes()?),
            _ if tag == wire::len(4) => drop(reader.bytes()?),
            _ => reader.other(tag, SCOPE_KNOWN)?,
        }
    }
    Ok(())
}

/// How deep the value of a resource attribute nests.
pub fn resource_depth(pair: &KeyValue<'_>) -> Wire<usize> {
    if pair.value.is_list() {
        value::depth(pair.raw, RESOURCE_VALUE_LEVEL)
    } else {
        Ok(1)
    }
}

/// How deep the value of a scope attribute nests.
pub fn scope_depth(pair: &KeyValue<'_>) -> Wire<usize> {
    if pair.value.is_list() {
        value::depth(pair.raw, SCOPE_VALUE_LEVEL)
    } else {
        Ok(1)
    }
}

/// Walks a request.
#[inline]
pub fn walk<'a>(request: &'a [u8], visit: &mut impl Visit<'a>) -> Wire<()> {
    let mut reader = Reader::new(request);
    while let Some(tag) = reader.tag()? {
        match tag {
            FIRST => group(reader.bytes()?, visit)?,
            _ => reader.other(tag, REQUEST_KNOWN)?,
        }
    }
    Ok(())
}

fn group<'a>(group: &'a [u8], visit: &mut impl Visit<'a>) -> Wire<()> {
    visit.resource(origin(group)?)?;
    let mut reader = Reader::new(group);
    while let Some(tag) = reader.tag()? {
        match tag {
            SECOND => block(reader.bytes()?, visit)?,
            _ => reader.skip(tag)?,
        }
    }
    Ok(())
}

#[inline]
fn block<'a, V: Visit<'a>>(block: &'a [u8], visit: &mut V) -> Wire<()> {
    let mut shared = Origin {
        message: &[],
        merged: None,
        schema_url: &[],
    };
    let (mut scopes, mut entries, mut late_url) = (0, false, false);
    let mut reader = Reader::new(block);
    while let Some(tag) = reader.tag()? {
        match tag {
            SECOND => {
                let entry = reader.bytes()?;
                if V::SCOPES && !entries {
                    visit.scope(shared)?;
                }
                entries = true;
                visit.entry(entry)?;
            }
            FIRST => {
                shared.message = reader.bytes()?;
                scopes += 1;
                if V::SCOPES && (entries || scopes > 1) {
                    if entries {
                        visit.rewind();
                    }
                    return block_again(block, visit);
                }
            }
            THIRD => {
                shared.schema_url = reader.bytes()?;
                late_url |= entries;
            }
            _ => reader.other(tag, LEVEL_KNOWN)?,
        }
    }
    match (V::SCOPES, entries) {
        (true, true) if late_url => visit.rescope(shared),
        // Without entries the scope is still checked.
        (true, false) => visit.scope(shared),
        _ => Ok(()),
    }
}

/// A block whose scope does not stand where it should: looked over first.
#[cold]
fn block_again<'a>(block: &'a [u8], visit: &mut impl Visit<'a>) -> Wire<()> {
    visit.scope(origin(block)?)?;
    let mut reader = Reader::new(block);
    while let Some(tag) = reader.tag()? {
        match tag {
            SECOND => visit.entry(reader.bytes()?)?,
            _ => reader.skip(tag)?,
        }
    }
    Ok(())
}

/// What the entries of a level share. Checks the wire form of the whole level.
fn origin(level: &[u8]) -> Wire<Origin<'_>> {
    let mut found = Origin {
        message: &[],
        merged: None,
        schema_url: &[],
    };
    let mut seen = false;
    let mut reader = Reader::new(level);
    while let Some(tag) = reader.tag()? {
        match tag {
            SECOND => drop(reader.bytes()?),
            FIRST => {
                found.message = reader.bytes()?;
                if std::mem::replace(&mut seen, true) {
                    found.merged = Some(level);
                }
            }
            THIRD => found.schema_url = reader.bytes()?,
            _ => reader.other(tag, LEVEL_KNOWN)?,
        }
    }
    Ok(found)
}
