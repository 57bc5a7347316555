"""The command `dualasr serve`: serve the page and the API."""

import argparse
import os

from dualasr.cli.loading import load_base, model_flags, with_packs
from dualasr.errors import MissingExtraError, RunError


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr serve`."""
    g = command.add_argument_group("server")
    g.add_argument(
        "--host",
        default="127.0.0.1",
        help=(
            "address to listen on; 0.0.0.0 serves other machines, too; the default serves only"
            " this one (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--port", type=int, default=7860, help="port to listen on (default: %(default)s)"
    )
    g.add_argument(
        "--key",
        type=_key,
        default=os.environ.get("DUALASR_KEY") or None,
        help=(
            "key that clients must send, and password of the page (default: the environment"
            " variable DUALASR_KEY, else no key)"
        ),
    )
    g.add_argument("--no_page", action="store_true", help="serve the API without the page")
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
        type=float,
        default=8.0,
        metavar="S",
        help=(
            "longest time to finish the requests under way after SIGTERM or Ctrl-C, in seconds; the"
            " others get an error (default: %(default)s)"
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


def run(args: argparse.Namespace) -> int:
    """Serve until the process is stopped, and return the exit code."""
    import torch

    try:
        from dualasr_serve.app import Settings
        from dualasr_serve.limits import UploadLimits
        from dualasr_serve.scheduler import Limits
        from dualasr_serve.server import run
    except ImportError as error:
        raise MissingExtraError(error.name or "gradio", "serve") from error

    try:
        limits = Limits(args.queue, args.max_audio_s, args.time_limit_s, args.batch_size)
    except ValueError as error:
        raise RunError(f"{error}.") from error
    base = load_base(args, dtype=getattr(torch, args.dtype))
    settings = Settings(
        args.key, UploadLimits(body=round(1e6 * args.max_upload_mb)), page=not args.no_page
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
