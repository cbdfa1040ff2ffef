#![allow(clippy::unwrap_used)]
use arrow::array::{Int64Array, StringArray};

use super::*;
use crate::lake::app_id;
use crate::lake::tests::{APP, lake};
use crate::testing::{TODAY, lake_rows, tenant_rows};

/// Ledger rows of one batch, 100 bytes an item.
fn ledger(batch: i64, entries: &[(&str, &str, &str, i64)]) -> RecordBatch {
    let bytes: Vec<i64> = entries.iter().map(|entry| entry.3 * 100).collect();
    ledger_of(batch, entries, &bytes)
}

fn ledger_of(batch: i64, entries: &[(&str, &str, &str, i64)], bytes: &[i64]) -> RecordBatch {
    let rows = lake_rows(Table::Ledger, entries.len(), 1, TODAY, batch);
    let schema = rows.schema();
    let mut columns = rows.columns().to_vec();
    let text = |pick: fn(&(&str, &str, &str, i64)) -> String| {
        Arc::new(StringArray::from_iter_values(entries.iter().map(pick)))
    };
    columns[schema.index_of("tenant").unwrap()] = text(|entry| entry.0.to_owned());
    columns[schema.index_of("signal").unwrap()] = text(|entry| entry.1.to_owned());
    columns[schema.index_of("account").unwrap()] = text(|entry| entry.2.to_owned());
    columns[schema.index_of("items").unwrap()] =
        Arc::new(Int64Array::from_iter_values(entries.iter().map(|entry| entry.3)));
    columns[schema.index_of("bytes").unwrap()] = Arc::new(Int64Array::from(bytes.to_vec()));
    crate::testing::sort(Table::Ledger, RecordBatch::try_new(schema, columns).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_compared_with_the_ledger_at_a_commit_of_the_ledger() {
    let (_dir, lake) = lake().await;
    let app = |table| app_id(tailwater_model::ids::LogId([1; 16]), table);
    let (logs, book) = (
        lake.committer(Table::Logs, app(Table::Logs)),
        lake.committer(Table::Ledger, app(Table::Ledger)),
    );
    let entries = |n| {
        [
            ("a", "logs", "received", n + 2),
            ("a", "logs", "stored", n),
            ("a", "logs", "rejected", 1),
        ]
    };
    logs.commit(
        0,
        2,
        vec![
            tenant_rows(Table::Logs, 10, TODAY, 1, &["a"]),
            tenant_rows(Table::Logs, 20, TODAY, 2, &["a"]),
        ],
    )
    .await
    .unwrap();
    book.commit(0, 2, vec![ledger(1, &entries(10)), ledger(2, &entries(20))])
        .await
        .unwrap();
    let verified = verify(&lake, None, Depth::Counts).await.unwrap();
    assert!(verified.is_exact(), "{verified:?}");
    assert_eq!((verified.cut, verified.lines.len()), (2, 1));
    assert_eq!((verified.lines[0].readable, verified.lines[0].in_flight()), (30, 2));

    // The logs are ahead by one batch: the ledger does not know it yet, and the cut leaves it out.
    logs.commit(2, 3, vec![tenant_rows(Table::Logs, 5, TODAY, 3, &["a"])])
        .await
        .unwrap();
    let verified = verify(&lake, None, Depth::EveryByte).await.unwrap();
    assert!(verified.is_exact() && verified.cut == 2, "{verified:?}");
    // The ledger is ahead: its sum over 3 and 4 cannot be taken apart, so the cut stays.
    book.commit(2, 4, vec![ledger(3, &entries(5)), ledger(4, &entries(7))])
        .await
        .unwrap();
    let verified = verify(&lake, None, Depth::Counts).await.unwrap();
    assert!(verified.is_exact() && verified.cut == 2, "{verified:?}");
    // A row too few is found.
    logs.commit(3, 4, vec![tenant_rows(Table::Logs, 6, TODAY, 4, &["a"])])
        .await
        .unwrap();
    let verified = verify(&lake, None, Depth::Counts).await.unwrap();
    assert_eq!(
        (verified.cut, verified.lines[0].surplus(), verified.is_exact()),
        (4, -1, false)
    );
}

/// Both sides of the ledger are compared in bytes too.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_end_in_an_account_as_their_items_do() {
    // Items and bytes received, stored, lost; and the bytes in flight, if that can be.
    let check = async |received: (i64, i64), stored: (i64, i64), lost: (i64, i64), expected: (i64, bool)| {
        let (_dir, lake) = lake().await;
        let of = |account, (items, _): (i64, i64)| ("a", "logs", account, items);
        let entries = [of("received", received), of("stored", stored), of("lost", lost)];
        let rows = ledger_of(1, &entries, &[received.1, stored.1, lost.1]);
        let app = |table| app_id(tailwater_model::ids::LogId([1; 16]), table);
        let logs = lake.committer(Table::Logs, app(Table::Logs));
        let rows_of_logs = tenant_rows(Table::Logs, stored.0 as usize, TODAY, 1, &["a"]);
        logs.commit(0, 1, vec![rows_of_logs]).await.unwrap();
        let book = lake.committer(Table::Ledger, app(Table::Ledger));
        book.commit(0, 1, vec![rows]).await.unwrap();
        let verified = verify(&lake, None, Depth::Counts).await.unwrap();
        let found = (verified.lines[0].bytes_in_flight(), verified.is_exact());
        assert_eq!(found, expected, "{verified:?}");
    };
    check((10, 1000), (6, 590), (4, 410), (0, true)).await;
    check((10, 1000), (6, 590), (3, 310), (100, true)).await;
    check((10, 1000), (6, 590), (4, 310), (100, false)).await;
    check((10, 1000), (6, 700), (3, 310), (-10, false)).await;
}

/// Any one bit, wherever it is: zstd frames have no checksum of their own, and span ids are not compressed.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_in_any_table_is_found_and_its_file_named() {
    let (dir, lake) = lake().await;
    for table in [Table::Spans, Table::Traces, Table::MetricSeries] {
        lake.committer(table, APP)
            .commit(0, 1, vec![lake_rows(table, 300, 1, TODAY, 1)])
            .await
            .unwrap();
        let file = lake.snapshot(table).await.unwrap().files()[0].clone();
        let path = dir.path().join("lake").join(table.name()).join(&*file.path);
        let intact = std::fs::read(&path).unwrap();
        assert_eq!(file.crc32c, Some(crc32c::crc32c(&intact)));
        for at in (0..intact.len()).step_by(intact.len() / 23) {
            let mut bytes = intact.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, bytes).unwrap();
            let verified = verify(&lake, None, Depth::EveryByte).await.unwrap();
            let named: Vec<_> = verified.damaged.iter().map(|(table, path, _)| (*table, path)).collect();
            assert_eq!(named, [(table, &file.path)], "byte {at}");
            assert!(!verified.is_exact());
        }
        std::fs::write(&path, &intact[..intact.len() - 1]).unwrap();
        assert_eq!(verify(&lake, None, Depth::EveryByte).await.unwrap().damaged.len(), 1);
        std::fs::write(&path, intact).unwrap();
        let verified = verify(&lake, None, Depth::EveryByte).await.unwrap();
        assert!(verified.damaged.is_empty(), "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_add_up() {
    let (_dir, lake) = lake().await;
    lake.committer(Table::Spans, APP)
        .commit(0, 1, vec![lake_rows(Table::Spans, 500, 1, TODAY, 1)])
        .await
        .unwrap();
    let stats = stats(&lake, Table::Spans, true).await.unwrap();
    assert_eq!(
        (stats.files, stats.flushed_files, stats.rows, stats.dates),
        (1, 1, 500, Some((TODAY, TODAY)))
    );
    assert_eq!(
        stats.columns.len(),
        schema(Table::Spans).fields().len() - 1,
        "every column but the partition"
    );
    let columns: u64 = stats.columns.iter().map(|column| column.compressed).sum();
    assert!(
        columns < stats.bytes && columns > stats.bytes / 3,
        "{columns} of {}",
        stats.bytes
    );
    assert!(
        stats
            .columns
            .windows(2)
            .all(|pair| pair[0].compressed >= pair[1].compressed)
    );
}
