//! What there is to ask about.

use axum::Json;
use serde_json::{Value, json};
use tailwater_model::table::{Table, columns, schema, sort_columns, time_column};

use crate::format::type_name;

/// `GET /api/v1/tables`.
pub(super) async fn list() -> Json<Value> {
    let tables: Vec<Value> = Table::ALL.into_iter().map(describe).collect();
    Json(json!({ "tables": tables }))
}

fn describe(table: Table) -> Value {
    let types = schema(table);
    let columns: Vec<Value> = columns(table)
        .map(|column| {
            let data_type = types
                .field_with_name(column.name)
                .map(|field| type_name(field.data_type()));
            json!({
                "name": column.name,
                "type": data_type.unwrap_or_default(),
                "nullable": !column.required,
                "unit": column.unit,
                "doc": column.doc,
            })
        })
        .collect();
    json!({
        "name": table.name(),
        "time_column": time_column(table),
        "sorted_by": sort_columns(table),
        "columns": columns,
    })
}
