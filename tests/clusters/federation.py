"""A federation over a network with Flower, TLS, and keys: whether it computes the simulated federation, and what
happens when a client vanishes, sends what it should not, or has no key.

    pip install -e ".[flower]"          # in an environment of its own, see docs/federated.md
    python -m tests.clusters.federation --output results/flower.json

The server and the clients are processes on hosts of their own (`hosts`: network namespaces, which need root). The
server stands behind `docs/federation/gate.conf` (`--nginx`). Cases that are finished are in the work folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reid_jax.benchmarks import tables
from reid_jax.data import prepare
from reid_jax.federated import node as node_lib
from reid_jax.federated import updates
from reid_jax.runs import experiment
from reid_jax.train import checkpoints
from tests.clusters.hosts import Host, network
from tests.helpers import tiny

Row = dict[str, Any]

LIMIT = 1800.0  # seconds for a whole federation, far above what one takes
BIN = pathlib.Path(sys.executable).parent
NAME = "mgaf:synthped,mgaf_base,mgaf_federated"
# A small model, without augmentation: its draws belong to the place in a global batch, which differs between one node
# and all of them.
SMALL = {
    **tiny.SMALL,
    "data.height": 96,
    "data.sampler": {"name": "identity_epoch", "identities": 4, "images": 2},
    "data.options": {"size": "tiny", "seed": 0},
    "data.augment": {},
    "model.width": 4,
    "model.depths": (0, 0, 2, 1),
    "model.feature_width": 8,
    "fed.lr_drops": (0.5,),
    "evals.every_epochs": 0.0,
    "evals.flip": False,
}
CONNECTION = """[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:8000"
root-certificates = "{keys}/ca.crt"
"""


@dataclasses.dataclass
class Client:
    """A client's SuperNode and where its screen goes."""

    popen: subprocess.Popen[bytes]
    log: pathlib.Path
    host: Host

    def kill(self) -> None:
        """Kills it and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


class Bench:
    """Data, config, keys, and hosts of all federations."""

    def __init__(self, work: pathlib.Path, hosts: list[Host], nginx: str) -> None:
        self.work, self.hosts, self.nginx = work, hosts, nginx
        self.data = work / "data"
        prepare.prepare("synthped", self.data, size="tiny")
        self.keys = work / "keys"
        shutil.rmtree(self.keys, ignore_errors=True)
        script = tiny.ROOT / "docs" / "federation" / "keys.sh"
        subprocess.run(["bash", script, self.keys, "4", hosts[0].address], check=True, capture_output=True)
        shutil.copy(script.with_name("gate.conf"), self.keys)
        (work / "home").mkdir(exist_ok=True)
        (work / "home" / "config.toml").write_text(CONNECTION.format(keys=self.keys))

    def config(self, rounds: int, client: str = "") -> Any:
        """Returns the config of the server, or of a client."""
        return tiny.config(self.data, NAME, {**SMALL, "fed.rounds": rounds, "fed.client": client})

    def environment(self, **more: str) -> dict[str, str]:
        """Returns the environment of all processes."""
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(self.work / "home")}
        path = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(tiny.ROOT), "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **quiet, **path, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **more}

    def spawn(self, host: Host, command: Sequence[str | os.PathLike[str]], log: pathlib.Path, **more: str) -> Client:
        """Starts a process with a group of its own."""
        with log.open("ab") as file:
            popen = subprocess.Popen(
                host.command([str(part) for part in command]),
                cwd=tiny.ROOT, env=self.environment(**more), stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        return Client(popen, log, host)

    def flwr(self, *arguments: str) -> str:
        """Runs Flower's command on the server and returns what it prints."""
        command = self.hosts[0].command([str(BIN / "flwr"), *arguments])
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"flwr {arguments[:2]}: {done.stdout[-400:]} {done.stderr[-400:]}"
        return done.stdout


class Federation:
    """A server, its clients, and one run.

    Args:
        bench: the hosts and keys.
        folder: of the logs and the run.
        clients: number of registered clients.
    """

    def __init__(self, bench: Bench, folder: pathlib.Path, clients: int) -> None:
        self.bench, self.folder = bench, folder
        self.clients: dict[int, Client] = {}
        self.stream: Client | None = None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        keys = bench.keys
        self.server = bench.spawn(
            bench.hosts[0],
            [BIN / "flower-superlink", "--disable-runtime-dependency-installation", "--enable-supernode-auth",
             "--ssl-ca-certfile", keys / "ca.crt", "--ssl-certfile", keys / "server.pem",
             "--ssl-keyfile", keys / "server.key"],
            folder / "server.log",
        )  # fmt: skip
        gate = [bench.nginx, "-p", keys, "-c", keys / "gate.conf", "-g", "daemon off;"]
        self.gate = bench.spawn(bench.hosts[0], gate, folder / "gate.log")
        self.wait_for("Uvicorn running|Application startup complete", seconds=90)
        for number in range(clients):
            bench.flwr("supernode", "register", str(keys / f"client{number}.pub"), "here")

    def close(self) -> None:
        """Ends everything."""
        for process in (*self.clients.values(), self.gate, self.server):
            process.kill()

    def start_client(self, number: int, key: str | None = None, *options: str, **more: str) -> Client:
        """Starts the SuperNode of a client on its host."""
        keep = self.folder / f"kept{number}"
        command = [
            BIN / "flower-supernode", "--superlink", f"{self.bench.hosts[0].address}:9092",
            *(options or ("--root-certificates", self.bench.keys / "ca.crt")),
            "--node-config", f'client="camera{number}" keep="{keep}"',
        ]  # fmt: skip
        if key != "":
            command += ["--auth-supernode-private-key", self.bench.keys / f"{key or f'client{number}'}.key"]
        host = self.bench.hosts[1 + number]
        self.clients[number] = self.bench.spawn(host, command, self.folder / f"client{number}.log", **more)
        return self.clients[number]

    def run(self, rounds: int, **terms: float) -> None:
        """Starts the run."""
        path = self.folder / "federated_tiny.py"
        tiny.write(self.bench.config(rounds), path)
        terms = {"nodes": 2, "min-nodes": 2, "patience": 120, "timeout": 300} | {
            key.replace("_", "-"): value for key, value in terms.items()
        }
        lines = [f'config = "{path}"', f'workdir = "{self.folder / "run"}"', *(f"{k} = {v}" for k, v in terms.items())]
        (self.folder / "run.toml").write_text("\n".join(lines) + "\n")
        options = ("--run-config", str(self.folder / "run.toml"))
        command = [BIN / "flwr", "run", "scripts/flower", "here", "--stream", *options]
        self.stream = self.bench.spawn(self.bench.hosts[0], command, self.folder / "run.log")

    @property
    def log(self) -> str:
        """The server's screen, that of the run included; a line begins with what it says, without its level."""
        files = [self.folder / "server.log", self.folder / "run.log"]
        text = "".join(path.read_text(errors="replace") for path in files if path.exists())
        return re.sub(r"^[A-Z]+ *: {2,}", "", re.sub(r"\x1b\[[0-9;]*m", "", text), flags=re.MULTILINE)

    def wait_for(self, pattern: str, seconds: float = LIMIT) -> float:
        """Waits for a line on the server's screen and returns the seconds."""
        began = time.monotonic()
        while True:
            ended = [each for each in (self.stream, self.server) if each and each.popen.poll() is not None]
            if re.search(pattern, self.log, re.MULTILINE):
                break
            if ended or time.monotonic() > began + seconds:
                raise AssertionError(f"{pattern!r} did not come: {self.log[-600:]}")
            time.sleep(0.2)
        return time.monotonic() - began


# ---- what should come out -------------------------------------------------------------------------------------------


def reference(bench: Bench, participants: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Returns theta after rounds of the given clients, computed in this process by the same nodes."""
    make = lambda client: node_lib.Node(experiment.Experiment(bench.config(len(participants), client)))
    nodes = {number: make(f"camera{number}") for number in sorted({n for who in participants for n in who})}
    theta = make("").theta()
    for number, who in enumerate(participants):
        for each in who:
            nodes[each].train(theta, number)
        theta, _ = updates.average([updates.Update(nodes[n].theta(), nodes[n].weight, {}) for n in who])
    return theta


def simulation(bench: Bench, rounds: int) -> dict[str, np.ndarray]:
    """Returns theta of the simulated federation of all clients."""
    node = node_lib.Node(experiment.Experiment(bench.config(rounds)))
    theta = node.theta()
    for number in range(rounds):
        node.train(theta, number)
        theta = node.theta()
    return theta


def difference(folder: pathlib.Path, theta: dict[str, np.ndarray]) -> float:
    """Returns the largest difference between the model that the server saved and theta; 0: equal bit for bit."""
    saved = checkpoints.restore_arrays(folder / "run" / "checkpoints")
    assert theta.keys() <= saved.keys(), "the server saved another model"
    return max(float(np.max(np.abs(saved[path].astype(np.float64) - value))) for path, value in theta.items())


def averaged(log: str) -> list[int]:
    """Returns how many clients entered the average of each round."""
    return [int(count) for count in re.findall(r"^round \d+: averaged (\d+) clients", log, re.MULTILINE)]


def sentences(log: str, word: str) -> list[str]:
    """Returns the sentences about clients that hold a word, each once, without the random number of the client."""
    found = re.findall(rf"^round \d+: .*{word}.*$", log, re.MULTILINE)
    return list(dict.fromkeys(re.sub(r"client \d{6,}", "client N", line) for line in found))


# ---- cases ----------------------------------------------------------------------------------------------------------


def equal(bench: Bench, folder: pathlib.Path) -> list[Row]:
    """A federation of three clients, without faults."""
    with contextlib.closing(Federation(bench, folder, 3)) as here:
        for number in range(3):
            here.start_client(number)
        here.run(2, nodes=3)
        seconds = here.wait_for("^written: ")
        row = {"case": "3 clients, 2 rounds", "seconds": round(seconds), "averaged": averaged(here.log)}
    row["difference"] = difference(folder, reference(bench, [(0, 1, 2)] * 2))
    simulated = difference(folder, simulation(bench, 2))
    row["said"] = f"largest difference from the simulation in one process: {simulated:.1e}"
    return [{**row, "wrong": "" if row["difference"] == 0 and simulated < 1e-4 else "the model differs"}]


def rogue(bench: Bench, folder: pathlib.Path) -> list[Row]:
    """Two clients and one that sends something else in every round."""
    acts = [*ACTS, "an error of a megabyte", "a further record"]
    planted = folder / "planted"
    overlay = f"{tiny.ROOT / 'tests' / 'clusters' / 'rogue'}:{tiny.ROOT}"
    with contextlib.closing(Federation(bench, folder, 3)) as here:
        for number in (0, 1):
            here.start_client(number)
        here.start_client(2, PYTHONPATH=overlay, ROGUE=",".join(acts), ROGUE_PLANT=str(planted))
        here.run(len(acts), nodes=3)
        here.wait_for("^written: ")
        log = here.log
    rows = []
    counts = averaged(log)
    for number, act in enumerate(acts):
        found = re.search(rf"^round {number + 1}: the reply of client \d+ (is left out.*)$", log, re.MULTILINE)
        row = {"case": f"a client sends {act}", "averaged": counts[number : number + 1], "said": ""}
        row["said"] = found[1] if found else ""
        rows.append({**row, "wrong": "" if found and row["averaged"] == [2] else "it was not left out"})
    whole = {"case": "the model after these rounds", "averaged": [2], "said": ""}
    whole["difference"] = difference(folder, reference(bench, [(0, 1)] * len(acts)))
    faults = ["the model differs"] * bool(whole["difference"]) + ["a pickle was run"] * planted.exists()
    return [*rows, {**whole, "wrong": ", ".join(faults)}]


def vanishing(bench: Bench, folder: pathlib.Path) -> list[Row]:
    """A client is killed in a round and comes back with the same key."""
    rounds = 7
    with contextlib.closing(Federation(bench, folder, 3)) as here:
        for number in range(3):
            here.start_client(number)
        here.run(rounds, nodes=3, timeout=240)
        here.wait_for("^round 1: averaged 3")
        here.wait_for(r"(?s)round 1: averaged.*Requesting|ROUND 2", 60)
        time.sleep(2)
        here.clients[2].kill()
        seconds = here.wait_for("^round 2: averaged 2")
        here.start_client(2)
        back = here.wait_for(r"(?s)round 2: averaged 2.*round \d: averaged 3")
        here.wait_for("^written: ")
        log = here.log
    counts = averaged(log)
    said = "; ".join(sentences(log, "(?:left out|did not answer)"))
    row = {"case": "kill -9 of a client in a round", "seconds": round(seconds), "averaged": counts, "said": said}
    row["difference"] = difference(folder, reference(bench, [(0, 1, 2) if count == 3 else (0, 1) for count in counts]))
    again = {"case": "the client comes back with its key", "seconds": round(back), "averaged": counts, "said": ""}
    wrong = "" if row["difference"] == 0 and len(counts) == rounds else "the model differs"
    return [{**row, "wrong": wrong}, {**again, "wrong": wrong}]


def too_few(bench: Bench, folder: pathlib.Path) -> list[Row]:
    """Fewer clients than a round needs."""
    with contextlib.closing(Federation(bench, folder, 2)) as here:
        for number in range(2):
            here.start_client(number)
        here.run(3, timeout=150)
        here.wait_for("^round 1: averaged 2")
        time.sleep(2)
        here.clients[1].kill()
        seconds = here.wait_for("^error: expected weights from at least 2 clients in round [23]", 400)
        found = re.search("^error: (expected weights from .*)$", here.log, re.MULTILINE)
        row = {"case": "one of two clients vanishes, min-nodes=2, timeout=150", "seconds": round(seconds)}
    return [{**row, "averaged": averaged(here.log), "said": found[1] if found else "", "wrong": ""}]


_ASK = "import httpx; print(httpx.post('https://{place}', content=b'', verify=False, timeout=10).status_code)"


def strangers(bench: Bench, folder: pathlib.Path) -> list[Row]:
    """Who has no key, another key, or another certificate, and who asks for more than a client may."""
    other = bench.work / "other-keys"
    shutil.rmtree(other, ignore_errors=True)
    keys = tiny.ROOT / "docs" / "federation" / "keys.sh"
    subprocess.run(["bash", keys, other, "1", bench.hosts[0].address], check=True, capture_output=True)
    rows = []
    with contextlib.closing(Federation(bench, folder, 1)) as here:
        good = ("--root-certificates", str(bench.keys / "ca.crt"))
        for case, key, options in (
            ("a client without a key", "", good),
            ("a client with a key that is not registered", "client3", good),
            ("a client that trusts another authority", "client0", ("--root-certificates", str(other / "ca.crt"))),
        ):
            client = here.start_client(0, key, *options, "--max-retries", "1")
            began = time.monotonic()
            while client.popen.poll() is None and time.monotonic() < began + 40:
                time.sleep(0.2)
            seconds = round(time.monotonic() - began)
            client.kill()
            text = re.sub(r"\x1b\[[0-9;]*m", "", client.log.read_text(errors="replace"))
            # Below the line with Flower's exit code stands what was wrong.
            said = " ".join(re.sub(r"(?s).*Exit Code: \d+\n(.*?)\n\n.*", r"\1", text).split())[:300]
            wrong = "it was let in" if "Activated" in here.log else ""
            rows.append({"case": case, "seconds": seconds, "averaged": [], "said": said, "wrong": wrong})
            client.log.rename(client.log.with_suffix(f".{len(rows)}"))
        address = bench.hosts[0].address
        for case, place, right in (
            ("a client asks to start a run", f"{address}:9092/v1/control/start-run", "403"),
            ("a client asks to register a key", f"{address}:9092/v1/fleet/../control/register-node", "403"),
            ("a client asks as the server's process", f"{address}:9092/v1/runtime/push-messages", "403"),
            ("a client goes past the gate", f"{address}:8000/v1/control/start-run", "refused"),
        ):
            command = bench.hosts[1].command([sys.executable, "-c", _ASK.format(place=place)])
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            said = (done.stdout + done.stderr).strip().splitlines()[-1]
            rows.append(
                {"case": case, "averaged": [], "said": said, "wrong": "" if right in said else "another answer"}
            )
    return rows


CASES: dict[str, Callable[[Bench, pathlib.Path], list[Row]]] = {
    "equal": equal,
    "strangers": strangers,
    "too_few": too_few,
    "vanishing": vanishing,
    "rogue": rogue,
}
# What the client of `rogue` sends, besides two that need more than its arrays.
ACTS = (
    "NaN",
    "infinite values",
    "values of 3e38",
    "another shape",
    "another type",
    "a missing array",
    "a further array",
    "a header that claims petabytes",
    "a pickle that writes a file",
    "a cut array",
    "an array of 4 MB",
    "1e15 images",
    "-5 images",
    "a list of numbers of images",
    "no number of images",
)


def main() -> int:
    """Runs every case that is not finished and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/federation"), help="folder of the runs")
    parser.add_argument("--nginx", default="nginx", help="the command of the gate")
    parser.add_argument("--output", help="file of the results")
    parser.add_argument("--only", choices=CASES, help="one case")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    kept = args.work / "rows.json"
    done: dict[str, list[Row]] = json.loads(kept.read_text()) if kept.exists() else {}
    with network(5, "flow", "10.78.0") as hosts:
        bench = Bench(args.work.absolute(), hosts, args.nginx)
        for name, case in CASES.items():
            if args.only not in (None, name) or (name in done and not args.only):
                continue
            done[name] = case(bench, bench.work / name)
            kept.write_text(json.dumps(done, indent=1))
            print(name, json.dumps(done[name], indent=1), flush=True)
    rows = [row for name in CASES for row in done.get(name, ())]
    wrong = [row for row in rows if row["wrong"]]
    print(f"{len(rows)} rows, {len(wrong)} wrong")
    if args.output:
        about = tables.about("python -m tests.clusters.federation --output results/flower.json")
        about["versions"]["flwr"] = importlib.metadata.version("flwr")
        shown = [
            {"case": row["case"], "seconds": row.get("seconds"), "averaged": " ".join(map(str, row["averaged"])),
             "difference": row.get("difference"), "said": row["said"], "wrong": row["wrong"]}
            for row in rows
        ]  # fmt: skip
        print(tables.write(args.output, {"flower": shown}, about))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
