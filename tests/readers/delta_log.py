"""Reads which files a Delta table consists of, from its log alone: written from the protocol's text, without Tailwater or delta-rs.

Knows what Tailwater's tables are: reader version 1, no table features, no deletion vectors, classic checkpoints. Anything else is an error
rather than a guess.
"""

import json
import os
import re
import urllib.parse

COMMIT = re.compile(r"^(\d{20})\.json$")
CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet$")


class Table:
    """One version of a table: `version`, `files` (path below the table -> add action), `txns` (appId -> version), `fields`."""

    def __init__(self, folder, read_parquet):
        """`read_parquet(path)` yields the rows of a checkpoint file as dicts."""
        self.folder = folder
        self.files = {}
        self.txns = {}
        self.fields = None
        log = os.path.join(folder, "_delta_log")
        names = os.listdir(log)
        commits = sorted(int(match[1]) for match in map(COMMIT.match, names) if match)
        start = self._checkpoint(log, names, read_parquet)
        later = [version for version in commits if version > start]
        if later != list(range(start + 1, start + 1 + len(later))):
            raise ValueError(f"{folder}: the log has a gap: checkpoint {start}, commits {later}")
        for version in later:
            with open(os.path.join(log, f"{version:020}.json"), encoding="utf-8") as lines:
                for line in filter(str.strip, lines):
                    self._apply(json.loads(line))
        self.version = later[-1] if later else start
        if self.fields is None:
            raise ValueError(f"{folder}: no metaData")

    def _checkpoint(self, log, names, read_parquet):
        """Applies the newest whole checkpoint; answers its version, or -1."""
        parts = {}
        for match in filter(None, map(CHECKPOINT.match, names)):
            parts.setdefault((int(match[1]), int(match[3] or 1)), []).append(match[0])
        whole = [(version, sorted(found)) for (version, count), found in parts.items() if len(found) == count]
        if not whole:
            return -1
        version, found = max(whole)
        for name in found:
            for row in read_parquet(os.path.join(log, name)):
                self._apply({kind: action for kind, action in row.items() if action is not None})
        return version

    def _apply(self, action):
        if "add" in action:
            add = action["add"]
            if add.get("deletionVector"):
                raise ValueError(f"{self.folder}: {add['path']} has a deletion vector")
            self.files[urllib.parse.unquote(add["path"])] = add
        if "remove" in action:
            self.files.pop(urllib.parse.unquote(action["remove"]["path"]), None)
        if "txn" in action:
            self.txns[action["txn"]["appId"]] = action["txn"]["version"]
        if "metaData" in action:
            self.fields = json.loads(action["metaData"]["schemaString"])["fields"]
        if "protocol" in action and action["protocol"]["minReaderVersion"] != 1:
            raise ValueError(f"{self.folder}: needs a reader of version {action['protocol']['minReaderVersion']}")

    def paths(self):
        """Absolute paths of the active files, each checked against what the log says of it."""
        paths = []
        for path, add in sorted(self.files.items()):
            full = os.path.join(self.folder, path)
            if os.path.getsize(full) != add["size"]:
                raise ValueError(f"{full}: {os.path.getsize(full)} bytes, and {add['size']} in the log")
            partition = dict(add["partitionValues"])
            if f"date={partition['date']}" not in path.split("/"):
                raise ValueError(f"{path}: not in the folder of its partition {partition}")
            paths.append(full)
        return paths

    def rows(self):
        """How many rows the log says there are."""
        return sum(json.loads(add["stats"])["numRecords"] for add in self.files.values())
