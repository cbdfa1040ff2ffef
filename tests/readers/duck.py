#!/usr/bin/env python3
"""Asks DuckDB about a lake: the file list comes from the Delta log through delta_log.py, the rows from the Parquet files.

    duck.py <data>/lake < queries

Standard input has a JSON list of queries over views named like the tables. Standard output is a JSON object: `tables`, with version, files
and rows of each table as its log has them, and `answers`, a list of rows for every query (bytes as hex). Exit code 1: the log and the files do
not agree.
"""

import json
import os
import sys

import duckdb

from delta_log import Table


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [plain(element) for element in value]
    if isinstance(value, dict):
        return {key: plain(element) for key, element in value.items()}
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


TYPES = {
    "string": "VARCHAR",
    "binary": "BLOB",
    "boolean": "BOOLEAN",
    "byte": "TINYINT",
    "short": "SMALLINT",
    "integer": "INTEGER",
    "long": "BIGINT",
    "double": "DOUBLE",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",
}


def duck_type(delta):
    """DuckDB's name of a type of a Delta schema."""
    if isinstance(delta, str):
        return TYPES[delta]
    if delta["type"] == "array":
        return duck_type(delta["elementType"]) + "[]"
    if delta["type"] == "map":
        return f"MAP({duck_type(delta['keyType'])}, {duck_type(delta['valueType'])})"
    return "STRUCT(" + ", ".join(f'"{field["name"]}" {duck_type(field["type"])}' for field in delta["fields"]) + ")"


def main():
    lake = sys.argv[1]
    duck = duckdb.connect()
    duck.execute("set timezone = 'UTC'")

    def checkpoint(path):
        found = duck.execute("select * from read_parquet($1)", [path])
        names = [column[0] for column in found.description]
        return [dict(zip(names, row)) for row in found.fetchall()]

    tables = {}
    for name in sorted(os.listdir(lake)):
        if not os.path.isdir(os.path.join(lake, name, "_delta_log")):
            continue
        table = Table(os.path.join(lake, name), checkpoint)
        paths = table.paths()
        if paths:
            files = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            source = f"select * from read_parquet([{files}], hive_partitioning = true, union_by_name = true)"
        else:
            columns = (f'null::{duck_type(field["type"])} as "{field["name"]}"' for field in table.fields)
            source = f"select {', '.join(columns)} where false"
        duck.execute(f"create view {name} as {source}")
        rows = duck.execute(f"select count(*) from {name}").fetchone()[0]
        if rows != table.rows():
            print(f"{name}: {rows} rows, and {table.rows()} in the log", file=sys.stderr)
            return 1
        columns = {column[0]: column[1] for column in duck.execute(f"describe {name}").fetchall()}
        wanted = {field["name"]: duck.execute(f"select typeof(null::{duck_type(field['type'])})").fetchone()[0] for field in table.fields}
        if columns != wanted:
            print(f"{name}: files and schema differ in {set(columns.items()) ^ set(wanted.items())}", file=sys.stderr)
            return 1
        tables[name] = {"version": table.version, "files": len(paths), "rows": table.rows(), "txns": table.txns}
    answers = [plain(duck.execute(query).fetchall()) for query in json.load(sys.stdin)]
    json.dump({"tables": tables, "answers": answers}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
