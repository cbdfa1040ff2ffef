#!/usr/bin/env python3
"""Times a query of DuckDB over a table of a lake: best time in seconds, the least that its threads ran, and the number of rows.

    duck.py <data>/lake <table> <sql> <runs>

The file list comes from the Delta log; DuckDB sees the Parquet files as they are, by as many threads as there are processors.
"""

import pathlib
import sys
import time

import duckdb

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "readers"))
from delta_log import Table  # noqa: E402


def main():
    lake, name, sql, runs = sys.argv[1:]
    duck = duckdb.connect()
    duck.execute("set timezone = 'UTC'")

    def rows_of(path):
        answer = duck.execute("select * from read_parquet($1)", [path])
        names = [column[0] for column in answer.description]
        return [dict(zip(names, row)) for row in answer.fetchall()]

    table = Table(str(pathlib.Path(lake) / name), rows_of)
    files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in table.paths())
    duck.execute(f"create view {name} as select * from read_parquet([{files}])")
    best = ran = float("inf")
    for _ in range(int(runs)):
        started, before = time.perf_counter(), time.process_time()
        # All of the answer, but none of it as Python objects.
        duck.execute(f"create or replace temp table answer as {sql}")
        best, ran = min(best, time.perf_counter() - started), min(ran, time.process_time() - before)
    print(best, ran, *duck.execute("select count(*) from answer").fetchone())


if __name__ == "__main__":
    main()
