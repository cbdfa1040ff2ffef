//! Pages of one column into a column chunk, as [`SerializedRowGroupWriter::append_column`] takes it.
//!
//! [`SerializedRowGroupWriter::append_column`]: parquet::file::writer::SerializedRowGroupWriter::append_column

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use crate::{Error, ErrorKind, Result};

/// Chunks below this many bytes are not compressed: most of them say one value for all rows.
const COMPRESS_MIN_BYTES: usize = 256;

/// The least and greatest value of a page or chunk, as the plain encoding writes them, without a length before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bounds {
    pub min: Vec<u8>,
    pub max: Vec<u8>,
    /// Both are values, not merely bounds of them.
    pub exact: bool,
}

impl Bounds {
    /// Bounds of both. Bytes are compared: right for strings, and for numbers that are equal.
    fn with(self, other: Bounds) -> Bounds {
        Bounds {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            exact: self.exact && other.exact,
        }
    }
}

/// A data page (version 1) before it is compressed.
#[derive(Debug)]
pub(super) struct DataPage {
    /// Levels and values.
    pub body: Vec<u8>,
    pub encoding: Encoding,
    /// Values, nulls and empty lists included.
    pub values: usize,
    pub nulls: usize,
    pub rows: usize,
    /// None if all are null, or nobody wants to know.
    pub bounds: Option<Bounds>,
}

/// The words that data pages refer to.
#[derive(Debug, Default)]
pub(super) struct DictionaryPage {
    /// Plain encoding.
    pub body: Vec<u8>,
    pub values: usize,
}

/// What a chunk is made of.
#[derive(Debug)]
pub(super) struct Content {
    pub dictionary: Option<DictionaryPage>,
    pub pages: Vec<DataPage>,
    pub bloom: Option<Sbbf>,
}

/// A column chunk, ready to be put into a file.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub bytes: Bytes,
    pub close: ColumnCloseResult,
}

/// Compresses pages; one for all chunks of a file, because making a context costs more than a page does.
pub(crate) struct Pages {
    zstd: zstd::bulk::Compressor<'static>,
}

impl Pages {
    /// With this zstd level.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if there is no memory for it.
    pub fn new(level: i32) -> Result<Pages> {
        Ok(Pages {
            zstd: zstd::bulk::Compressor::new(level)?,
        })
    }

    /// Makes the chunk of a column.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the Parquet library refuses what we made.
    pub(super) fn chunk(
        &mut self,
        column: &ColumnDescPtr,
        properties: &WriterProperties,
        content: Content,
    ) -> Result<Chunk> {
        let Content {
            dictionary,
            pages,
            bloom,
        } = content;
        let level = properties.statistics_enabled(column.path());
        let small = pages.iter().map(|page| page.body.len()).sum::<usize>()
            + dictionary.as_ref().map_or(0, |page| page.body.len())
            < COMPRESS_MIN_BYTES;
        let codec = if small {
            Compression::UNCOMPRESSED
        } else {
            properties.compression(column.path())
        };
        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        let (mut uncompressed, mut compressed) = (0, 0);
        let mut encodings = vec![Encoding::RLE];
        let mut counts: Vec<PageEncodingStats> = Vec::new();
        let mut put = |page: Page, whole: usize| {
            let (kind, encoding) = (page.page_type(), page.encoding());
            let spec = writer.write_page(CompressedPage::new(page, whole))?;
            uncompressed += spec.uncompressed_size;
            compressed += spec.compressed_size;
            if !encodings.contains(&encoding) {
                encodings.push(encoding);
            }
            match counts
                .iter_mut()
                .find(|count| count.page_type == kind && count.encoding == encoding)
            {
                Some(count) => count.count += 1,
                None => counts.push(PageEncodingStats {
                    page_type: kind,
                    encoding,
                    count: 1,
                }),
            }
            Ok::<_, Error>(spec)
        };
        let mut dictionary_at = None;
        if let Some(page) = dictionary {
            let whole = page.body.len();
            let page = Page::DictionaryPage {
                buf: self.compressed(codec, page.body)?,
                num_values: page.values as u32,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            dictionary_at = Some(put(page, whole)?.offset as i64);
        }
        let (mut rows, mut values, mut nulls) = (0, 0, 0);
        let mut first_at = None;
        let mut offsets = OffsetIndexBuilder::new();
        let mut index = ColumnIndexBuilder::new(column.physical_type());
        // Bounds are kept in page order; nothing we write needs readers to search them.
        index.set_boundary_order(BoundaryOrder::UNORDERED);
        let mut has_index = level == EnabledStatistics::Page;
        let mut overall: Option<Bounds> = None;
        for page in pages {
            let whole = page.body.len();
            let data = Page::DataPage {
                buf: self.compressed(codec, page.body)?,
                num_values: page.values as u32,
                encoding: page.encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let spec = put(data, whole)?;
            first_at.get_or_insert(spec.offset as i64);
            offsets.append_row_count(page.rows as i64);
            offsets.append_offset_and_size(spec.offset as i64, spec.compressed_size as i32);
            let all_null = page.nulls == page.values;
            match page.bounds {
                Some(bounds) => {
                    index.append(false, bounds.min.clone(), bounds.max.clone(), page.nulls as i64);
                    overall = Some(match overall {
                        None => bounds,
                        Some(so_far) => so_far.with(bounds),
                    });
                }
                None if all_null => index.append(true, Vec::new(), Vec::new(), page.nulls as i64),
                None => has_index = false,
            }
            (rows, values, nulls) = (rows + page.rows, values + page.values, nulls + page.nulls);
        }
        let first_at = first_at.ok_or_else(|| Error::new(ErrorKind::Invalid, "a column chunk without a page"))?;
        let mut metadata = ColumnChunkMetaData::builder(column.clone())
            .set_compression(codec)
            .set_encodings(encodings)
            .set_page_encoding_stats(counts)
            .set_total_compressed_size(compressed as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_num_values(values as i64)
            .set_data_page_offset(first_at)
            .set_dictionary_page_offset(dictionary_at);
        if level != EnabledStatistics::None
            && let Some(statistics) = statistics(column.physical_type(), overall, nulls as u64)
        {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: compressed as u64,
            rows_written: rows as u64,
            metadata: metadata.build()?,
            bloom_filter: bloom,
            column_index: has_index.then(|| index.build()).transpose()?,
            offset_index: Some(offsets.build()),
        };
        Ok(Chunk {
            bytes: sink.into_inner()?.into(),
            close,
        })
    }

    fn compressed(&mut self, codec: Compression, body: Vec<u8>) -> Result<Bytes> {
        match codec {
            Compression::UNCOMPRESSED => Ok(body.into()),
            _ => Ok(self.zstd.compress(&body)?.into()),
        }
    }
}

/// What the footer says of a chunk; None for a type that we know no bounds of.
fn statistics(kind: Type, bounds: Option<Bounds>, nulls: u64) -> Option<Statistics> {
    let (min, max, exact) = match bounds {
        Some(Bounds { min, max, exact }) => (Some(min), Some(max), exact),
        None => (None, None, false),
    };
    macro_rules! of {
        ($decode:expr) => {{
            let (min, max) = (min.map($decode), max.map($decode));
            ValueStatistics::new(min, max, None, Some(nulls), false)
                .with_min_is_exact(exact)
                .with_max_is_exact(exact)
                .into()
        }};
    }
    Some(match kind {
        Type::BYTE_ARRAY => of!(ByteArray::from),
        Type::INT32 => of!(|bytes: Vec<u8>| i32::from_le_bytes(first(&bytes))),
        Type::INT64 => of!(|bytes: Vec<u8>| i64::from_le_bytes(first(&bytes))),
        _ => return None,
    })
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("bounds of a number have its width")
}
