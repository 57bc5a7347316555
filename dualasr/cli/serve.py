"""The command `dualasr serve`: serve the page and the API."""

import argparse
import math
import os
import re
from collections.abc import Sequence

from dualasr.cli.loading import load_base, model_flags, with_packs
from dualasr.errors import MissingExtraError, RunError


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr serve`."""
    g = command.add_argument_group("server")
    g.add_argument(
        "--host",
        default="127.0.0.1",
        help=(
            "address to listen on; 0.0.0.0 serves other machines, too, and needs --key or --no_key;"
            " the default serves only this one (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--port", type=_port, default=7860, help="port to listen on (default: %(default)s)"
    )
    keys = g.add_mutually_exclusive_group()
    keys.add_argument(
        "--key",
        type=_key,
        help=(
            "key that clients must send, and password of the page (default: the environment"
            " variable DUALASR_KEY, else no key)"
        ),
    )
    keys.add_argument(
        "--no_key",
        action="store_true",
        help="serve without a key, even where others can reach the server",
    )
    g.add_argument("--no_page", action="store_true", help="serve the API without the page")
    g.add_argument(
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help=(
            "further names that requests may give as their Host, where only this machine can reach"
            " the server; for a proxy in front of it"
        ),
    )
    g.add_argument(
        "--cors_origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help=(
            "origins whose web pages may use the API, such as https://a.example, or '*' for all"
            " (default: none)"
        ),
    )
    g.add_argument(
        "--strict_models",
        action="store_true",
        help=(
            "refuse a request without a model, or with one that is not here; otherwise names that"
            " clients of other servers send, such as whisper-1, mean auto"
        ),
    )
    g = command.add_argument_group("limits")
    g.add_argument(
        "--queue",
        type=int,
        default=64,
        metavar="N",
        help="most requests to accept at once; more are refused (default: %(default)s)",
    )
    g.add_argument(
        "--max_upload_mb",
        type=float,
        default=200.0,
        metavar="MB",
        help="largest request, in megabytes (default: %(default)s)",
    )
    g.add_argument(
        "--max_audio_s",
        type=float,
        default=3600.0,
        metavar="S",
        help="longest sound of a request, in seconds (default: %(default)s)",
    )
    g.add_argument(
        "--time_limit_s",
        type=float,
        default=600.0,
        metavar="S",
        help="longest time to answer a request, in seconds (default: %(default)s)",
    )
    g.add_argument(
        "--grace_s",
        type=_seconds,
        default=6.0,
        metavar="S",
        help=(
            "longest time to finish the requests under way after SIGTERM or Ctrl-C, in seconds; the"
            " others get an error (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--keep_files_s",
        type=_seconds,
        default=3600.0,
        metavar="S",
        help=(
            "seconds for which the page keeps uploads and transcripts that nobody uses (default:"
            " %(default)s)"
        ),
    )
    g = command.add_argument_group("model")
    model_flags(g)
    g.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16"),
        help="number format of the base's weights (default: %(default)s)",
    )
    g.add_argument(
        "--batch_size",
        type=int,
        default=8,
        metavar="N",
        help="number of windows to decode together (default: %(default)s)",
    )


def _key(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a key, or leave the flag out")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds, at least 1")
    return seconds


def _origins(given: Sequence[str]) -> tuple[str, ...]:
    """Return origins as browsers write them; refuse what is none."""
    for origin in given:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+/?", origin, re.I):
            raise RunError(
                f"--cors_origins {origin}: this is no origin; write it like https://a.example, or"
                " https://a.example:8443."
            )
    return tuple(origin.rstrip("/") for origin in given)


def run(args: argparse.Namespace) -> int:
    """Serve until the process is stopped, and return the exit code."""
    import torch

    try:
        from dualasr_serve.app import Settings
        from dualasr_serve.doorway import hosts_of, is_loopback
        from dualasr_serve.limits import UploadLimits
        from dualasr_serve.scheduler import Limits
        from dualasr_serve.server import run
    except ImportError as error:
        raise MissingExtraError(error.name or "gradio", "serve") from error

    try:
        limits = Limits(args.queue, args.max_audio_s, args.time_limit_s, args.batch_size)
    except ValueError as error:
        raise RunError(f"{error}.") from error
    key = None if args.no_key else args.key or os.environ.get("DUALASR_KEY") or None
    if key is None and not args.no_key and not is_loopback(args.host):
        raise RunError(
            f"--host {args.host or repr('')}: others can reach this address, so everybody could use"
            " the server; give a key with --key or DUALASR_KEY, or say with --no_key that you want"
            " this."
        )
    hosts = hosts_of(args.host)
    origins = _origins(args.cors_origins)
    base = load_base(args, dtype=getattr(torch, args.dtype))
    settings = Settings(
        key,
        UploadLimits(body=round(1e6 * args.max_upload_mb)),
        page=not args.no_page,
        hosts=(*hosts, *args.allowed_hosts) if hosts else (),
        cors_origins=origins,
        strict_models=args.strict_models,
        keep_files_s=args.keep_files_s,
    )
    run(
        lambda: with_packs(base, args),
        host=args.host,
        port=args.port,
        limits=limits,
        settings=settings,
        grace_s=args.grace_s,
    )
    return 0
