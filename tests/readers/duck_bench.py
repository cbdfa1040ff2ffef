#!/usr/bin/env python3
"""Answers questions about a lake's spans with DuckDB, one by one, and says how long each took.

    duck_bench.py <data>/lake <threads>

A line of standard input is a JSON string with a query over `spans`: the files that the Delta log names. The first line of standard output tells
DuckDB's version; then comes a line for every query, `{"ms": 1.5, "rows": [...]}`: from the text to the last row in this process's memory. Footers
stay cached between queries, as they do in a server. Ends with its input.
"""

import json
import os
import sys
import time

import duckdb

from delta_log import Table
from duck import plain


def main():
    lake, threads = sys.argv[1], int(sys.argv[2])
    duck = duckdb.connect(config={"threads": threads})
    duck.execute("set timezone = 'UTC'")
    duck.execute("set parquet_metadata_cache = true")

    def checkpoint(path):
        found = duck.execute("select * from read_parquet($1)", [path])
        names = [column[0] for column in found.description]
        return [dict(zip(names, row)) for row in found.fetchall()]

    paths = Table(os.path.join(lake, "spans"), checkpoint).paths()
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    duck.execute(f"create view spans as select * from read_parquet([{files}], hive_partitioning = true)")
    print(json.dumps({"version": duckdb.__version__, "files": len(paths)}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        rows = duck.execute(json.loads(line)).fetchall()
        took = time.perf_counter() - started
        print(json.dumps({"ms": took * 1e3, "rows": plain(rows)}), flush=True)


if __name__ == "__main__":
    main()
