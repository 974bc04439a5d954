"""What messages advise exists: flags of the command that shows them, and keys of the config.

Messages are found as the texts of the source. A text of a command's module may name that command's flags; a text of
another room those of every command in `SHOWN_BY`, unless it names the command (`scripts/evaluate.py --k1`).
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pathlib
import re

import pytest
from absl import flags

from reid_jax import config as config_lib
from reid_jax import models
from reid_jax.cli import app, train
from reid_jax.config import files, sections
from reid_jax.train import schedules

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The commands that can show the texts of a file, or of a room; training shows all others.
SHOWN_BY = {
    "data/decoded_cache.py": ("train",),
    "data/feature_set.py": ("evaluate",),
    "data/image_grid.py": ("contact-sheet",),
    "data/prepare.py": ("prepare-dataset",),
    "data/records.py": ("prepare-dataset",),
    "evaluation/image_files.py": ("evaluate",),
    "inference/features.py": ("extract",),
    "inference/published.py": ("extract", "evaluate"),
    "inference/sources.py": ("extract", "evaluate"),
    "runs/ablation.py": ("ablate",),
    "runs/ablation_table.py": ("ablate",),
    "runs/evidence.py": ("ablate",),
    "runs/evidence_runs.py": ("ablate",),
    "runs/occluder_pairs.py": ("evaluate", "prepare-dataset"),
    "runs/part_examiner.py": ("evaluate",),
    "runs/part_report.py": ("evaluate",),
    "benchmarks/": ("benchmark",),
    "cli/evaluated_sets.py": ("evaluate",),
    "explain/": ("explain",),
    "export/": ("export",),
    "app/": ("search",),
    "gallery/": ("search",),
    "cli/model_choice.py": ("extract", "explain", "export", "search"),
    "cli/search_serve.py": ("search",),
    "cli/search_text.py": ("search",),
}
# Flags of other programs, and "--name=value", which means any.
OTHERS = {
    "runtime/provenance.py": {"abbrev", "always", "dirty", "error-unmatch", "exclude"},
    "train/profiling.py": {"logdir"},
    "runtime/determinism.py": {"xla_gpu_deterministic_ops", "xla_gpu_enable_triton_gemm", "nodeterministic"},
    "federated/flower.py": {"run-config"},
    "cli/federation.py": {"run-config"},
    "cli/arguments.py": {"run"},  # of every command that reads a run
    "benchmarks/machine_effect.py": {"xla_cpu_max_isa"},
    "cli/command_line.py": {"name"},
    "benchmarks/growth.py": {"xla_force_host_platform_device_count"},
    "benchmarks/start_speed.py": {"workdir", "mode"},  # of the commands that it starts
    "benchmarks/campaign.py": {"xla_backend_optimization_level", "xla_llvm_disable_expensive_passes"},
    "benchmarks/campaign_training.py": {"root", "option", "workdir", "mode"},
}


def strings(path: pathlib.Path) -> list[str]:
    """Texts of a module but its docstrings; values of f-strings are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)]
    left_out = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(value) for value in node.values}
            found.append("".join(value.value for value in node.values if isinstance(value, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            found.append(node.value)
    return found


SOURCES = {
    str(path.relative_to(ROOT / "reid_jax")): strings(path)
    for path in sorted((ROOT / "reid_jax").rglob("*.py"))
    if "torch_" not in path.name  # scripts of their own
}


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The flags of every command, without dashes."""
    made: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patch:

        def remember(parser: argparse.ArgumentParser, *arguments, **named):
            made[parser.prog] = {name.lstrip("-") for name in parser._option_string_actions}
            raise StopIteration

        patch.setattr(argparse.ArgumentParser, "parse_args", remember)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", remember)
        for name, (module, _) in app.COMMANDS.items():
            patch.setattr("sys.argv", [name])
            loaded = importlib.import_module(f"reid_jax.cli.{module}")
            if name != "train":
                with pytest.raises(StopIteration):
                    loaded.main([])
    train_flags = {flag.name for flag in flags.FLAGS.get_flags_for_module(train.__name__)} | {"config", "help"}
    made["check-resume"] |= train_flags  # which it passes on
    return {**made, "train": train_flags}


def named_command(text: str, place: int, known: dict[str, set[str]]) -> str | None:
    """The command whose name stands last before a place of a text."""
    before = [
        (found.end(), name)
        for name in known
        for found in re.finditer(
            rf"(?:scripts/|\b){'main' if name == 'train' else name.replace('-', '_')}\.py|reid-jax {name}\b",
            text[:place],
        )
    ]
    return max(before)[1] if before else None


def test_flags_in_texts_exist(options):
    modules = {module: name for name, (module, _) in app.COMMANDS.items()}
    wrong = []
    for path, texts in SOURCES.items():
        own = modules.get(pathlib.Path(path).stem) if path.startswith("cli/") else None
        for text in texts:
            for found in re.finditer(r"(?<![\w-])--([a-z][\w-]*)(?=([.\w]*))", text):
                flag = found[1].partition(".")[0]
                if flag in OTHERS.get(path, ()) or (flag == "config" and found[2].startswith("config.")):
                    continue
                room = f"{path.partition('/')[0]}/"
                commands = (own,) if own else SHOWN_BY.get(path) or SHOWN_BY.get(room) or ("train",)
                named = named_command(text, found.start(), options)
                if named and flag in options[named]:
                    continue
                wrong += [f"{path}: --{flag} is not a flag of {name}" for name in commands if flag not in options[name]]
    assert not wrong, "\n".join(wrong)


def test_keys_in_texts_exist():
    """`data.sampler` or `--config.init.weights` in a text is a key of a packaged config, or of a typed section."""
    known = {f"{name}.{key}" for name, section in sections.SECTIONS.items() for key in section.__dataclass_fields__}
    for name in files.packaged():
        for preset in ("demo", "market1501"):
            known |= set(config_lib.flatten(files.load_config(f"{name}:{preset}")))
    known |= {key.rpartition(".")[0] for key in known}
    for name in models.MODELS:
        known |= {f"model.{field}" for field in inspect.signature(models.constructor(name)).parameters}
    for function in schedules.SCHEDULES.values():
        known |= {f"schedule.{field}" for field in inspect.signature(function).parameters}
    known |= {f"schedule.{name}_{unit}" for name in schedules._DURATIONS for unit in ("epochs", "steps")}
    roots = sorted({key.partition(".")[0] for key in known if "." in key} - {"log"})
    pattern = re.compile(rf"(?<![\w./-])(?:--config\.)?((?:{'|'.join(roots)})\.[a-z][a-z_0-9]*)(?![\w(*])")
    wrong = []
    for path, texts in SOURCES.items():
        # Data of tables (keys of weights files, mutations) are no messages; those are sentences.
        for text in (text for text in texts if " " in text and not path.startswith(("weights/", "benchmarks/torch"))):
            wrong += [f"{path}: {key}" for key in pattern.findall(text) if key not in known]
    assert not wrong, "\n".join(wrong)
