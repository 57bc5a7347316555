r"""Measure a server under many clients: correct texts, memory, and the gain from batches.

It prints a Markdown table.

    python recipes/micro/bench_serving.py --corpus quickstart/corpus \
        --pack quickstart/packs/ky --pack quickstart/packs/ga

answers     Clips of mixed length and all languages come from many clients at once. In the middle
            the first pack is removed, and the last one comes in its place. Each text is compared
            with that of `dualasr transcribe` with the packs loaded then. The queue is shorter than
            the number of clients, so that some requests are refused (429) and repeated.
memory      Resident set of the server process, from after a warm-up to the end of many requests
            more.
throughput  Two servers, with and without batches, which take turns round by round.
turns       A short clip beside a long file, clients that hang up, a signal, and the peak of memory.
            It needs no pack and no corpus:

    python recipes/micro/bench_serving.py --only turns --base BASE --long LONG.wav --clip CLIP.wav

On a busy machine only the ratios mean something. The threads are those of OMP_NUM_THREADS. The exit
code is 1 if a text was wrong or missing.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random

import httpx
import numpy as np
import soundfile
from side_by_side import PAUSE

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.data.corpus import load_corpus
from dualasr.data.utterance import Utterance

KEY = "benchmark"
WAIT = 600.0


@dataclass(frozen=True, kw_only=True)
class Response:
    """The server's response to a file; times in seconds of one clock.

    `refused` is how often the queue was full.
    """

    file: Path
    text: str | None
    error: str
    route: str
    began: float
    ended: float
    refused: int


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen

    def rss_mib(self, line: str = "VmRSS") -> float:
        """Return the resident set; with "VmHWM" its peak since the start."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(found.split()[1]) for found in status if found.startswith(line)) / 1024

    def queue(self) -> int:
        return httpx.get(f"{self.url}/health", timeout=WAIT).json()["queue"]

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process, the better clock on a busy machine."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metric(self, name: str) -> float:
        headers = {"Authorization": f"Bearer {KEY}"}
        response = httpx.get(f"{self.url}/metrics", headers=headers, timeout=WAIT)
        lines = response.raise_for_status().text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def write_files(folder: Path, utterances: Sequence[Utterance], count: int) -> list[Path]:
    """Write sound files of one to six clips of one language each, the languages in turn."""
    rng = Random(1)
    pools = {
        code: [u for u in utterances if u.language == code]
        for code in sorted({u.language for u in utterances})
    }
    files = []
    for number, code in enumerate(islice(cycle(pools), count)):
        clips = [
            load_audio(rng.choice(pools[code]).sound) for _ in range(rng.choice((1, 1, 1, 2, 6)))
        ]
        files.append(folder / f"{number:03}-{code}.flac")
        soundfile.write(
            files[-1],
            np.concatenate([part for clip in clips for part in (clip, PAUSE)]),
            SAMPLE_RATE,
        )
    return files


def texts_of(base: str, packs: Sequence[Path], files: Sequence[Path]) -> dict[Path, str]:
    """Transcribe files with the command line."""
    with tempfile.TemporaryDirectory() as out:
        flags = [word for pack in packs for word in ("--pack", pack)]
        command = [
            sys.executable,
            "-m",
            "dualasr",
            "transcribe",
            *files,
            "--base",
            base,
            *flags,
            "-f",
            "json",
            "-o",
            out,
        ]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        return {
            file: json.loads((Path(out) / f"{file.stem}.json").read_text())["text"].strip()
            for file in files
        }


@contextmanager
def served(base: str, packs: Path | None, *flags: object) -> Iterator[Served]:
    """Start a server process, and end it by SIGTERM; its exit code must be 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "dualasr",
        "serve",
        "--base",
        base,
        *(() if packs is None else ("--pack", packs)),
        "--port",
        port,
        "--key",
        KEY,
        "--no_page",
        *flags,
    ]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        server = Served(f"http://127.0.0.1:{port}", process)
        while True:
            try:
                httpx.get(f"{server.url}/health", timeout=WAIT)
                break
            except httpx.TransportError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.1)
        yield server
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0, f"the server ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()


def ask(client: httpx.Client, url: str, file: Path) -> Response:
    began, refused = time.monotonic(), 0
    while True:
        response = client.post(
            f"{url}/v1/audio/transcriptions",
            data={"model": "auto"},
            files={"file": file.open("rb")},
        )
        if response.status_code != 429:
            break
        refused += 1
        time.sleep(float(response.headers["Retry-After"]))
    body = response.json() if response.status_code == 200 else {}
    error = "" if response.status_code == 200 else f"{response.status_code}: {response.text}"
    return Response(
        file=file,
        text=body.get("text"),
        error=error,
        route=body.get("route", ""),
        began=began,
        ended=time.monotonic(),
        refused=refused,
    )


def crowd(
    url: str,
    files: Sequence[Path],
    requests: int,
    clients: int,
    half: Callable[[], None] = lambda: None,
) -> list[Response]:
    """Send `requests` requests from `clients` clients at once, files in a random order.

    `half` is called in the middle, as a client.
    """
    chosen = Random(2).choices(files, k=requests)
    with (
        httpx.Client(
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=WAIT,
            limits=httpx.Limits(max_connections=clients),
        ) as client,
        ThreadPoolExecutor(clients) as pool,
    ):
        first = [pool.submit(ask, client, url, file) for file in chosen[: requests // 2]]
        middle = pool.submit(half)
        second = [pool.submit(ask, client, url, file) for file in chosen[requests // 2 :]]
        middle.result()
        return [future.result() for future in (*first, *second)]


def wrong(
    responses: Sequence[Response],
    before: Mapping[Path, str],
    after: Mapping[Path, str],
    exchange: Sequence[float],
) -> int:
    """Count the texts that differ from what the packs loaded then write.

    A request during the exchange may get either text.
    """
    count = 0
    for response in responses:
        old, new = before[response.file], after[response.file]
        right = (
            {old}
            if response.ended < exchange[0]
            else {new}
            if response.began > exchange[1]
            else {old, new}
        )
        count += response.text not in right
    return count


def correctness(args, files: Sequence[Path], work: Path) -> Iterator[tuple[str, str, str]]:
    first, *_, last = args.pack
    packs = work / "packs"
    for pack in args.pack[:-1]:
        shutil.copytree(pack, packs / pack.name)
    before = texts_of(args.base, args.pack[:-1], files)
    after = texts_of(args.base, args.pack[1:], files)
    exchange = [0.0, 0.0]

    def reload() -> None:
        shutil.copytree(last, work / "last")
        (work / "last").rename(packs / last.name)
        shutil.rmtree(packs / first.name)
        exchange[0] = time.monotonic()
        response = httpx.post(
            f"{server.url}/admin/packs/reload",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=WAIT,
        )
        exchange[1] = time.monotonic()
        assert response.json()["added"] and response.json()["removed"], response.text

    with served(args.base, packs, "--queue", max(1, args.clients * 3 // 4)) as server:
        responses = crowd(server.url, files, args.requests, args.clients, reload)
        batches, windows = (
            server.metric("dualasr_batches_total"),
            server.metric("dualasr_windows_total"),
        )
    seconds = [soundfile.info(file).duration for file in files]
    times = [response.ended - response.began for response in responses]
    changed, routes = (
        sum(before[f] != after[f] for f in files),
        sorted({response.route for response in responses}),
    )
    lengths = f"{len(files)} of {min(seconds):.1f} to {max(seconds):.1f} s"
    yield "requests, clients, files", f"{len(responses)}, {args.clients}, {lengths}", ""
    yield "errors but 429", str(sum(bool(response.error) for response in responses)), "0"
    yield (
        "texts that are not the command line's",
        str(wrong(responses, before, after, exchange)),
        "0",
    )
    yield ("files whose text the exchange changes; routes", f"{changed}; {', '.join(routes)}", "")
    yield (
        "times that the queue was full (429)",
        str(sum(response.refused for response in responses)),
        "",
    )
    yield "windows a batch", f"{windows / batches:.1f}", ""
    yield (
        "seconds from request to answer, median and most",
        f"{statistics.median(times):.1f}, {max(times):.1f}",
        "",
    )
    for response in responses:
        if response.error:
            print(response.error, file=sys.stderr)


def memory(args, files: Sequence[Path], work: Path) -> Iterator[tuple[str, str, str]]:
    for pack in args.pack:
        shutil.copytree(pack, work / "all" / pack.name)
    with served(args.base, work / "all", "--queue", args.clients) as server:
        crowd(server.url, files, args.warm_up, args.clients)
        seen = [server.rss_mib()]
        for _ in range(10):
            responses = crowd(server.url, files, args.more // 10, args.clients)
            assert not any(response.error for response in responses)
            seen.append(server.rss_mib())
    yield (
        f"MiB after {args.warm_up} requests, and every {args.more // 10} after",
        ", ".join(f"{mib:.0f}" for mib in seen),
        "",
    )
    yield f"growth over {args.more} requests", f"{100 * (seen[-1] / seen[0] - 1):+.1f} %", "<= 10 %"


def throughput(args, files: Sequence[Path], _: Path) -> Iterator[tuple[str, str, str]]:
    packs, times, work = args.pack[0], {8: [], 1: []}, {8: 0.0, 1: 0.0}
    with (
        served(args.base, packs, "--batch_size", 8) as many,
        served(args.base, packs, "--batch_size", 1) as single,
    ):
        for number in range(-1, args.rounds):  # the first one warms up
            for size in (8, 1) if number % 2 else (1, 8):
                server = many if size == 8 else single
                began, before = time.monotonic(), server.cpu_s()
                crowd(server.url, files, args.a_round, args.clients)
                if number >= 0:
                    times[size].append(time.monotonic() - began)
                    work[size] += server.cpu_s() - before
        batches, windows = (
            many.metric("dualasr_batches_total"),
            many.metric("dualasr_windows_total"),
        )
    speed = {size: args.a_round * args.rounds / sum(took) for size, took in times.items()}
    note = f"{windows / batches:.1f} windows a batch"
    yield "requests a second, batches of 8 and of 1", f"{speed[8]:.2f}, {speed[1]:.2f}; {note}", ""
    total = args.a_round * args.rounds
    yield "CPU seconds a request", f"{work[8] / total:.2f}, {work[1] / total:.2f}", ""
    yield (
        "throughput, batches against none, by wall and by CPU",
        f"{speed[8] / speed[1]:.2f}, {work[1] / work[8]:.2f}",
        "",
    )


def turns(args, _: Sequence[Path], __: Path) -> Iterator[tuple[str, str, str]]:
    """Measure what a long file costs the others, and how fast the model is free again."""
    with (
        ThreadPoolExecutor(2) as pool,
        httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=WAIT) as client,
        served(args.base, None, "--time_limit_s", WAIT) as server,
    ):
        alone = [_seconds(ask(client, server.url, args.clip)) for _ in range(4)][1:]
        beside, after = [], []
        with _hanging(server.url, args.long):
            wait_until(lambda: server.metric("dualasr_batches_total") > len(alone) + 1)
            for _ in range(5):
                beside.append(_seconds(ask(client, server.url, args.clip)))
                time.sleep(1.0)
            assert server.queue() == 1, "the long file is too short"
        hung_up = time.monotonic()
        wait_until(lambda: server.queue() == 0)
        hung_up = time.monotonic() - hung_up
        after = [_seconds(ask(client, server.url, args.clip)) for _ in range(3)]
        peak = server.rss_mib("VmHWM")
        late = pool.submit(ask, client, server.url, args.long)
        wait_until(lambda: server.queue() == 1)
        time.sleep(2.0)
        signalled = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
        signalled = time.monotonic() - signalled
        answer = late.result().error[:80]
    lengths = [soundfile.info(file).duration for file in (args.clip, args.long)]
    median = statistics.median
    yield "seconds of the clip, of the long file", f"{lengths[0]:.1f}, {lengths[1]:.0f}", ""
    yield (
        "clip alone, and beside the long file: median (and most) seconds",
        f"{median(alone + after):.1f} ({max(alone + after):.1f}),"
        f" {median(beside):.1f} ({max(beside):.1f})",
        "",
    )
    yield "ratio of the medians", f"{median(beside) / median(alone + after):.2f}", "<= 3"
    yield "seconds until a client that hung up is out of the queue", f"{hung_up:.1f}", "<= 2"
    yield "peak MiB", f"{peak:.0f}", "<= 2500"
    yield "seconds from SIGTERM to the end (grace: 6)", f"{signalled:.1f}", "<= 10"
    yield "answer to the request that was cut", answer, ""


def _seconds(response: Response) -> float:
    assert not response.error, response.error
    return response.ended - response.began


@contextmanager
def _hanging(url: str, file: Path) -> Iterator[None]:
    """Send a request, and hang up in the end without waiting for the answer."""
    body = httpx.Request(
        "POST",
        f"{url}/v1/audio/transcriptions",
        headers={"Authorization": f"Bearer {KEY}"},
        data={"model": "auto"},
        files={"file": (file.name, file.read_bytes())},
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in body.headers.items())
    target = httpx.URL(url)
    with socket.create_connection((target.host, target.port)) as connection:
        connection.sendall(f"POST {body.url.path} HTTP/1.1\r\n{head}\r\n".encode() + body.read())
        yield


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


PARTS = {"answers": correctness, "memory": memory, "throughput": throughput, "turns": turns}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="micro")
    parser.add_argument("--pack", type=Path, action="append", default=[], help="two at least")
    parser.add_argument("--corpus", type=Path, help="its test split is used")
    parser.add_argument("--long", type=Path, help="a long sound file, for turns")
    parser.add_argument("--clip", type=Path, help="a short sound file, for turns")
    parser.add_argument("--language", action="append", default=None, help="only these")
    parser.add_argument("--only", choices=PARTS, action="append", default=None)
    parser.add_argument("--files", type=int, default=40, help="sound files (%(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="(%(default)s)")
    parser.add_argument(
        "--requests",
        type=int,
        default=200,
        help="whose texts are compared with the CLI's (%(default)s)",
    )
    parser.add_argument(
        "--warm-up", type=int, default=100, help="requests before memory is looked at (%(default)s)"
    )
    parser.add_argument("--more", type=int, default=1000, help="requests after that (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="of throughput (%(default)s)")
    parser.add_argument("--a-round", type=int, default=32, help="requests of a round (%(default)s)")
    args = parser.parse_args()
    parts = args.only or [part for part in PARTS if part != "turns"]
    if parts != ["turns"] and (len(args.pack) < 2 or args.corpus is None):
        parser.error("give --corpus, and two packs at least: one goes, one comes")
    if "turns" in parts and not (args.long and args.clip):
        parser.error("turns needs --long and --clip")
    utterances: tuple[Utterance, ...] = ()
    if args.corpus is not None:
        utterances = load_corpus(args.corpus, "test", languages=args.language).utterances
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{threads} threads a server, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| | | wanted |\n|---|---|---|")
    missed = False
    with tempfile.TemporaryDirectory() as work:
        (sounds := Path(work, "sounds")).mkdir()
        files = write_files(sounds, utterances, args.files) if utterances else []
        for name in parts:
            for row in PARTS[name](args, files, Path(work)):
                print("| " + " | ".join(row) + " |", flush=True)
                missed |= row[2] == "0" and row[1] != "0"
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
