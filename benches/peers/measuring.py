"""What the programs of this folder share: servers of two kinds under the same load, what they spent, what they wrote."""

import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

try:
    import duckdb
except ImportError:
    print("duckdb is needed to count rows: pip install -r benches/peers/requirements.txt", file=sys.stderr)
    sys.exit(2)

TICK = os.sysconf("SC_CLK_TCK")
# Nothing measured here takes longer; a server that does is stuck.
START_SECONDS_MAX = 60
DRAIN_SECONDS_MAX = 600
# Of a measurement: how much of the server's core may have gone to something else.
ELSEWHERE_SHARE_MAX = 0.1


class Void(Exception):
    """A run whose figures mean nothing, and why."""


class Ours:
    """This repository's collector."""

    name = "tailwater"

    def __init__(self, binary, ack="fsync", settings=()):
        self.binary, self.settings = binary, list(settings)
        self.settings += ["intake.grpc.listen=127.0.0.1:0", "intake.http.listen=127.0.0.1:0", "admin.collector=127.0.0.1:0"]
        # The default gives up after 25 s and leaves the rest to the next start; here all of it is counted.
        self.settings += [f"storage.ack={ack}", "log.level=warn", f"drain_timeout={DRAIN_SECONDS_MAX}s"]
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        built = datetime.datetime.fromtimestamp(os.path.getmtime(binary), datetime.UTC)
        self.described = {
            "name": f"{version}, built {built:%Y-%m-%d %H:%M} UTC",
            "ack": "after fsync of the request's log" if ack == "fsync" else "after write(2), before fsync",
            "compression": "zstd-1",
            "layout": "one wide table a signal, sorted within a file, committed to Delta",
            "durable": "what is acked survives a crash of the " + ("machine" if ack == "fsync" else "process"),
        }

    def command(self, data, _protocol):
        return [self.binary, "collector", "--data", data, *(part for each in self.settings for part in ("--set", each))]

    def listens(self, data, key):
        """The address of a listener by its setting, once it accepts."""
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(Path(data, "run/collector.json").read_text())["addresses"][key]
        return None

    def address(self, data, protocol, _output):
        """Of the receiver, once it accepts."""
        return self.listens(data, f"intake.{protocol}.listen")

    def metrics(self, data):
        """What its counters and gauges say now, by name and labels as they are written."""
        with urllib.request.urlopen(f"http://{self.listens(data, 'admin.collector')}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def rows(self, signal):
        return {"traces": "lake/spans/**/*.parquet", "logs": "lake/logs/**/*.parquet"}[signal]

    def accounts(self, data):
        """Spans by what became of them, as the ledger has it."""
        asked = "select account, sum(items)::bigint from read_parquet($1, union_by_name = true) where signal = 'traces' group by 1"
        return dict(duckdb.execute(asked, [str(Path(data, "lake/ledger/**/*.parquet"))]).fetchall())

    def verify(self, data):
        """Void unless the ledger adds up and nothing was taken for a repeat."""
        asked = subprocess.run([self.binary, "lake", "verify", "--data", data], capture_output=True, text=True)
        if asked.returncode != 0:
            raise Void(f"the ledger does not add up: {asked.stdout}{asked.stderr}")


class Peer:
    """A program that keeps the promises in the head of `run`."""

    name = "peer"

    def __init__(self, binary, arguments=()):
        self.binary, self.arguments = binary, list(arguments)
        command = [binary, *self.arguments, "--describe"]
        self.described = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def command(self, data, protocol):
        return [self.binary, *self.arguments, "--protocol", protocol, "--listen", "127.0.0.1:0", "--data", data]

    def address(self, _data, _protocol, output):
        for line in Path(output).read_text(errors="replace").splitlines():
            if line.startswith("ready "):
                return line.split()[1]
        return None

    def rows(self, signal):
        return self.described["rows"][signal]

    def verify(self, _data):
        """It keeps no account of its own; its rows are compared with what was acked."""


class Server:
    """A side that runs in a directory of its own, on one core; leaving the block ends it and removes what it wrote."""

    def __init__(self, side, protocol, core, room, group=None):
        self.side, self.protocol, self.core, self.room, self.group = side, protocol, core, room, group

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="peers-", dir=self.room)
        self.data, self.output = (os.path.join(self.folder.name, name) for name in ("data", "output"))
        os.sync()
        command = ["taskset", "-c", str(self.core), *self.side.command(self.data, self.protocol)]
        with open(self.output, "wb") as output:
            enter = self.group.enter if self.group else None
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=enter)
        try:
            self.address = self.comes_up()
        except BaseException:
            self.__exit__()
            raise
        self.memory = Memory(self.process.pid)
        self.busy, self.started = core_busy(self.core), time.monotonic()
        return self

    def comes_up(self):
        give_up = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < give_up:
            if address := self.side.address(self.data, self.protocol, self.output):
                return address
            if self.process.poll() is not None:
                raise Void(f"{self.side.name} ended with {self.process.returncode} before it accepted anything: {self.said()}")
            time.sleep(0.01)
        raise Void(f"{self.side.name} does not come up within {START_SECONDS_MAX} s")

    def said(self):
        return Path(self.output).read_text(errors="replace")[-2000:]

    def stop(self):
        """Ends it in peace. CPU seconds of its whole life, and the part of the core's time since it was up that went elsewhere."""
        self.process.send_signal(signal.SIGTERM)
        exit_code, usage = self.reap()
        self.stopped = time.monotonic()
        busy = core_busy(self.core) - self.busy
        self.memory.stop()
        if exit_code != 0:
            raise Void(f"{self.side.name} ended with {exit_code}: {self.said()}")
        cpu = usage.ru_utime + usage.ru_stime
        # The kernel's write-back and whatever else ran there: large means a disturbed run.
        return cpu, max(0.0, busy - cpu) / (self.stopped - self.started)

    def reap(self):
        give_up = time.monotonic() + DRAIN_SECONDS_MAX
        while time.monotonic() < give_up:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                return self.process.returncode, usage
            time.sleep(0.005)
        raise Void(f"{self.side.name} does not stop within {DRAIN_SECONDS_MAX} s")

    def __exit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


class Group:
    """A memory cgroup of its own, of either version; the kernel ends what needs more. Making one takes root, or a part of the tree that is ours."""

    def __init__(self, mib):
        v1 = Path("/sys/fs/cgroup/memory")
        root, limit = (v1, "memory.limit_in_bytes") if v1.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
        self.path = root / f"tailwater-bench-{os.getpid()}"
        self.path.mkdir()
        try:
            (self.path / limit).write_text(str(mib << 20))
        except OSError:
            self.leave()
            raise

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def leave(self):
        self.path.rmdir()


class Memory:
    """Peaks of a process, in KiB. Not rusage: its maximum also counts the process that forked this one.

    `RssAnon` is what no file backs: the resident set also counts mapped files (`RssFile`), which the kernel can drop.
    """

    def __init__(self, pid):
        self.status, self.ended = Path(f"/proc/{pid}/status"), threading.Event()
        self.peak = dict.fromkeys(("VmHWM", "VmRSS", "RssAnon", "RssFile"), 0)
        self.now = dict(self.peak)
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            while not self.ended.wait(0.1):
                for text in self.status.read_text().splitlines():
                    key, _, value = text.partition(":")
                    if key in self.peak:
                        self.now[key] = int(value.split()[0])
                        self.peak[key] = max(self.peak[key], self.now[key])

    def stop(self):
        self.ended.set()
        self.thread.join()
        return self.peak


def generate(binary, address, seconds, seed, rate="max", protocol="http", signals="traces", in_flight=16, templates=64, more=()):
    """The report of `tailwater load`, which is pinned as this process is."""
    connections = in_flight if protocol == "http" else 8
    command = [binary, "load", "--protocol", protocol, "--signals", signals, "--rate", str(rate)]
    command += ["--duration", f"{seconds}s", "--in-flight", str(in_flight), "--connections", str(connections)]
    command += ["--templates", str(templates), "--seed", str(seed), "--format", "json", "--endpoint", f"http://{address}", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        raise Void(f"the generator gave no report: {done.stdout}{done.stderr}") from None


def core_busy(core):
    """Seconds since boot that this core was not idle."""
    for text in Path("/proc/stat").read_text().splitlines():
        if text.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, text.split()[1:])
            return (user + nice + system + irq + softirq) / TICK
    raise Void(f"/proc/stat knows no core {core}")


def count(data, rows_glob):
    """Rows of the signal's own table; bytes and number of all Parquet files."""
    data, rows = Path(data), 0
    if any(data.glob(rows_glob)):
        asked = "select count(*) from read_parquet($1, union_by_name = true)"
        rows = duckdb.execute(asked, [str(data / rows_glob)]).fetchone()[0]
    files = list(data.glob("**/*.parquet"))
    return rows, sum(file.stat().st_size for file in files), len(files)


def add_common(parser):
    """What every program here may be told."""
    parser.add_argument("--protocol", choices=["http", "grpc"], default="http")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; both sides get the same")
    parser.add_argument("--dir", help="where data directories are made and removed; a real disk")


def print_machine(options):
    print(f"machine: {machine()}\nserver on core {options.server_core}, generator on core {options.client_core}")


def print_sides(sides):
    for side in sides:
        print(f"\n{side.name}: {side.described['name']}")
        for key in ("ack", "durable", "layout", "compression"):
            print(f"    {key}: {side.described[key]}")
    print()


def print_row(name, cells, width=15):
    print(f"{name:<18}" + "".join(f"{cell:>{width}}" for cell in cells), flush=True)


def machine():
    cpu = Path("/proc/cpuinfo").read_text(errors="replace") if Path("/proc/cpuinfo").exists() else ""
    model = next((text.split(":", 1)[1].strip() for text in cpu.splitlines() if text.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}; commit {commit()}"


def commit():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    asked = subprocess.run(command, capture_output=True, text=True)
    return asked.stdout.strip() or "?"


def run_program(main):
    """Exit code: 0 measured, 1 void (the line says why), 2 trouble."""
    if not shutil.which("taskset"):
        print("taskset (util-linux) is needed to pin both sides", file=sys.stderr)
        sys.exit(2)
    try:
        main()
    except Void as void:
        print(f"VOID: {void}", file=sys.stderr)
        sys.exit(1)
    except (OSError, ValueError, subprocess.SubprocessError, duckdb.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
