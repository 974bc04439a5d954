"""`search.py serve`: a gallery in the browser, for one's own machine unless another address is given."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import TYPE_CHECKING, Any

from reid_jax import errors
from reid_jax.cli import arguments, model_choice
from reid_jax.config import rules
from reid_jax.runtime import interruption

if TYPE_CHECKING:
    from reid_jax.app import serving

OPTIONS = ("host", "port", "tokens", "name", "certificate", "key", "read_only", "require_reason")


def add(group: Any) -> None:
    """Adds the options to a group of arguments."""
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listen here (default: 127.0.0.1, reached from this machine alone); any other needs a token",
    )
    group.add_argument("--port", type=arguments.whole(0, 65535), default=8600, help="default: 8600; 0: a free one")
    group.add_argument("--tokens", metavar="FILE", help="a line NAME TOKEN for each person; other users cannot read it")
    group.add_argument(
        "--name",
        action="append",
        default=[],
        type=arguments.text,
        help="a name that the server is reached by; repeatable",
    )
    group.add_argument("--certificate", metavar="FILE", help="https with this certificate (PEM)")
    group.add_argument("--key", metavar="FILE", help="its key, where the certificate's file has none")
    group.add_argument("--read-only", action="store_true", help="nothing is added or removed")
    group.add_argument("--require-reason", action="store_true", help="additions and removals need a reason, too")


def check(args: argparse.Namespace) -> None:
    """Raises a `UserError` for options that can be refused before anything is loaded."""
    model_choice.check(args)
    model_choice.find_weights(args)
    for flag in ("tokens", "certificate", "key"):
        if getattr(args, flag) is not None:
            arguments.existing_file(f"--{flag}", getattr(args, flag), "a file")
    if args.key and not args.certificate:
        raise errors.UserError("--key goes with --certificate; give both.")
    if not args.host.strip() or not args.host.isprintable():
        raise errors.UserError(f"expected --host as an address of this machine, got {rules.plain(args.host)!r}.")


def run(args: argparse.Namespace) -> None:
    """Serves the gallery until the process is interrupted or terminated."""
    from reid_jax.app import access, image_engine, serving
    from reid_jax.gallery import binding, gallery

    tokens = access.read_tokens(args.tokens) if args.tokens else {}
    made = None
    if not tokens and not access.is_local(args.host):
        made = access.new_token()
        tokens = {args.who or "token": made}
    settings = serving.Settings(
        host=args.host,
        port=args.port,
        user=args.who or "local user",
        tokens=tokens,
        names=tuple(args.name),
        read_only=args.read_only,
        require_reason=args.require_reason,
        certificate=args.certificate,
        key=args.key,
    )
    serving.check(settings)
    with gallery.Gallery.open(args.place, log=args.audit) as opened:
        extractor, variables = model_choice.load(args)
        engine = image_engine.ModelEngine(extractor, variables)
        made_by = binding.Binding.of_extractor(extractor, variables, opened.binding.metric)
        opened.binding.refuse_other(made_by, "the page")
        engine.warm_up()
        with serving.running(opened, engine, settings) as (_, address):
            _say(settings, address, made)
            _wait()
        print("stopped.")


def _say(settings: serving.Settings, address: str, made: str | None) -> None:
    """Prints the address, and a token that was made for this run."""
    # Behind a "#", which a browser does not send: it stands in no log of a proxy.
    print(f"{address}#token={made}" if made else address)
    if settings.tokens and not settings.certificate:
        print(
            "note: without https, images and tokens cross the network unencrypted; give --certificate, or use an SSH "
            "tunnel or a proxy with https.",
            file=sys.stderr,
        )
    print("Ctrl-C stops it.", file=sys.stderr, flush=True)
    sys.stdout.flush()


def _wait() -> None:
    """Waits for a signal."""
    stop = threading.Event()
    with interruption.notice(lambda _: stop.set()):
        try:
            while not stop.wait(1.0):
                pass
        except KeyboardInterrupt:  # without the handlers of a command, as in a notebook
            pass
