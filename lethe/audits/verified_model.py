"""Verify a run of one model: its numbers, table of images, mask, verdict and the parts of its hash."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lethe.audits.raw_metrics import RawMetrics, check_same, compare_decisive, compare_records, raw_metrics
from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification, digest_at
from lethe.audits.verified_images import check_images, check_request, read_data
from lethe.audits.verified_mask import MASKED, check_mask
from lethe.audits.verified_package import check_package
from lethe.audits.verified_table import check_table
from lethe.data import DATA, ForgetRequest
from lethe.evaluation import ALL, DEFAULT, METRICS, OF_MANY, Missing, chosen, needs_of
from lethe.evaluation.memorisation import Memorisation
from lethe.experiment.artifacts import image_table
from lethe.experiment.base_models import Trained
from lethe.experiment.identity import OF_FILE, git_commit, provenance
from lethe.experiment.measure import INCOMPETENT, TIMES, Measured, Metric, measure
from lethe.experiment.memorised import MEMORISATION_FILE, read_memorisation
from lethe.experiment.run_report import image_counts
from lethe.models import ARCHITECTURES, build
from lethe.registry import parted
from lethe.report.verdict import Measurements, undecided_models, verdict
from lethe.system.device import device_named
from lethe.system.foreign_files import file_digest
from lethe.training import (
    Progress,
    checkpoint_digest,
    checkpoint_metadata,
    generator_for,
    load_checkpoint,
    same_weights,
    shortened,
    unsealed,
)
from lethe.training.storage import read_tensors
from lethe.unlearn import METHODS, resolved
from lethe.unlearn.add_ons import ADD_ONS, FIRST_FLAGS
from lethe.unlearn.dual_optimizer import LATER_FLAGS
from lethe.version import __version__

UNLEARNED_MODEL = "unlearned.safetensors"
CODED = re.compile(r"(?P<name>.+)-(?P<digest>[0-9a-f]{64}|[0-9a-f]{8})")  # identity of a user's function
NOT_OF_THE_FILE = ("model", "checkpoint")  # params of a base model that its checkpoint's header doesn't have


def verify_model(run: RecordedRun, progress: Progress) -> Verification:
    """Recompute all that follows from the artifacts, the dataset and the base models' checkpoints."""
    return _OfOneModel(run, progress).verified()


class _OfOneModel:
    def __init__(self, run: RecordedRun, progress: Progress) -> None:
        self.run, self.done = run, Verification()
        self.foreign = run.record.tags.get("audit") == "evaluate"
        self.file = run.artifact(UNLEARNED_MODEL)
        metadata = checkpoint_metadata(self.file)
        if metadata is None:
            raise ValueError(
                f"{self.file}: expected a checkpoint with metadata, got one without. Verify another run"
            )
        self.metadata = metadata
        self.arch = self._architecture()
        found = None if self.foreign else raw_metrics(run, self.done)
        self.has_raw, self.raw = found is not None, found or RawMetrics()
        self.splits, self.data = read_data(run, self.done, progress)

    def verified(self) -> Verification:
        run, done = self.run, self.done
        done.check("split", self.metadata.split, self.splits.digest)
        done.check("normalisation", self.metadata.normalisation or DATA, run.param("normalize", DATA))
        sets = {"forget": self.data.forget, "retain": self.data.retain, "test": self.splits.test}
        check_images(run, done, {name: images.digest for name, images in sets.items()})
        request = check_request(run, done, self.splits, self.data)
        models = self._base_models(request)
        unlearned = self._unlearned(request)
        if "initial" not in models:
            raise ValueError(
                "expected the initial model's checkpoint, to compare with, and it is gone. Restore it"
            )
        metrics = self._metrics()
        found = self._memorisation()
        measured = measure(
            unlearned, models, self.data, self.splits.test, metrics=metrics, memorisation=found
        )
        self._compare_numbers(measured, metrics)
        if self.has_raw:
            compare_records(run, done, self.raw)
            compare_decisive(run, done, self.raw, self._decisive(request, models))
        if not self.foreign:
            check_table(run, done, image_table(measured, self.data, self.splits.test, self._about()))
            check_mask(run, done, unlearned)
            self._check_settings(models["initial"])
            self._check_verdict(measured, request)
        return done

    # Models

    def _architecture(self) -> str:
        """Return the architecture that the unlearned model's checkpoint names, or a trusted copy of it."""
        run = self.run
        name, package = parted(self.metadata.arch)
        file = run.param("arch_file", "None")
        run.params_seen.add("arch_code")
        coded = CODED.fullmatch(name)
        self.done.check("architecture", name if coded is None else coded["name"], run.param("arch"))
        if coded is not None:
            return run.code("architecture", coded["name"], coded["digest"])
        if ARCHITECTURES.runs_code(name):
            raise ValueError(
                f"{self.file}: expected the name of an architecture, got {name!r}. Verify another run"
            )
        self.done.check("file of the architecture", "None", file)
        self.done.check("package of the architecture in its file", package, run.param("arch_package", ""))
        check_package(run, self.done, "arch", ARCHITECTURES, name)
        return name

    def _built(self, seed: int) -> nn.Module:
        defaults = ARCHITECTURES[self.arch].defaults
        options = {name: value for name, value in self.metadata.options.items() if name in defaults}
        model = build(self.arch, self.metadata.image_shape, self.metadata.classes, seed=seed, options=options)
        return model.to(device_named("auto"))

    def _model(self, path: Path) -> nn.Module:
        model = self._built(0)
        load_checkpoint(path, model)
        return model

    def _unlearned(self, request: ForgetRequest) -> nn.Module:
        """Return the unlearned model. Raises ValueError if the method returned a module around it."""
        run, done, method = self.run, self.done, self.run.param("unlearn", "")
        digest = run.recorded("unlearned_digest")
        if digest is not None:
            done.check("unlearned model", digest, checkpoint_digest(self.file))
        if not self.foreign:
            named = f"unlearned {request.identity} by {method}"
            found = _whole(self.metadata.trained_on, named)
            done.check("forget request and method of the unlearned model", named, found)
        self._note_unsealed(self.file)
        try:
            return self._model(self.file)
        except ValueError as error:
            inside = {f"model.{name}" for name in self._built(0).state_dict()}
            if not inside <= read_tensors(self.file)[0].keys():
                raise
            raise ValueError(
                f"{method} returns a module, which its file alone does not give back; this run can't be "
                "recomputed"
            ) from error

    def _base_models(self, request: ForgetRequest) -> dict[str, nn.Module]:
        """Load the initial and the ideal model by path and digest; rebuild the incompetent teacher."""
        models: dict[str, nn.Module] = {}
        for name in ("initial", "ideal"):
            if f"{name}_digest" in self.run.record.params:
                self._find(name, "train" if name == "initial" else request.identity, models)
        if "initial" in models and "ideal" in models and same_weights(models["initial"], models["ideal"]):
            self.done.check("ideal model", "another than the initial model", "the same weights")
        teacher = generator_for(self.run.whole_number("seed"), "evaluation", INCOMPETENT).initial_seed()
        models[INCOMPETENT] = self._built(teacher)
        return models

    def _find(self, name: str, trained_on: str, models: dict[str, nn.Module]) -> None:
        """Load a base model, if it exists, and check the metadata of its checkpoint."""
        run, done, kept = self.run, self.done, f"{name}.safetensors"
        path = run.artifact(kept) if run.has(kept) else Path(run.param(f"{name}_checkpoint"))
        run.params_seen.add(f"{name}_checkpoint")
        found, words = digest_at(path, self._built(0))
        done.check(f"{name} model, {path}", run.param(f"{name}_digest"), found or words or None)
        if found is None:
            done.gone.append(f"the {name} model ({path})")
            return
        models[name] = self._model(path)
        metadata = checkpoint_metadata(path)
        if self.foreign or metadata is None:
            done.outside.append(f"on which images the {name} model was trained (it was made elsewhere)")
            return
        found = _whole(metadata.trained_on, trained_on)
        done.check(f"training images of the {name} model", trained_on, found)
        done.check(f"split of the {name} model", self.splits.digest, metadata.split)
        self._note_unsealed(path)
        self._check_header(name, path, Trained(models[name], path, metadata, True, 0.0, []))

    def _check_header(self, name: str, path: Path, trained: Trained) -> None:
        """Check the run's params of a base model against its checkpoint's header."""
        run = self.run
        header = {one: str(value) for one, value in provenance(name, trained).items()}
        for one in NOT_OF_THE_FILE:
            header.pop(f"{name}_{one}", None)
        named = {one: run.param(one) for one in header if one in run.record.params}
        wrong = [one for one in named if named[one] != header[one]]
        expected = ", ".join(f"{one} {named[one]}" for one in wrong)
        got = ", ".join(f"{one} {header[one]}" for one in wrong)
        self.done.check(f"header of the {name} model's checkpoint", expected or "equal", got or "equal")
        if f"{name}_header_digest" not in run.record.params:
            self.done.unchecked.append(
                f"whether the header of {path} was edited since the run (the run has no digest of it)"
            )

    def _note_unsealed(self, path: Path) -> None:
        if remark := unsealed(path):
            self.done.unchecked.append(remark)

    # Numbers

    def _metrics(self) -> list[Metric]:
        """Return the metrics that the run names or has, without metrics of many models or of seconds.

        A user's own code is left out without --trust_code."""
        run = self.run
        words = [word for word in run.param("metrics", DEFAULT).split(",") if word]
        safe = [self._safe(word) for word in words]
        logged = {*run.record.metrics, *self.raw.numbers}
        present = {name.removeprefix("initial_").removeprefix("ideal_") for name in logged}
        names = [word for word in safe if word] + sorted(name for name in METRICS.names if name in present)
        found = chosen(names) if names else []
        return [metric for metric in found if not (OF_MANY | {TIMES}) & set(needs_of(metric.function))]

    def _memorisation(self) -> Memorisation | None:
        """Return the memorisation of the forget images as the run logged it; None if it has none."""
        if not self.run.has(MEMORISATION_FILE):
            return None
        self.done.only_logged.append(f"memorisation of the forget images ({MEMORISATION_FILE})")
        try:
            return read_memorisation(self.run.content(MEMORISATION_FILE).decode(), self.data.forget)
        except ValueError as error:
            self.done.check(MEMORISATION_FILE, "the scores of the forget images", str(error))
            return None

    def _safe(self, word: str) -> str | None:
        """Return a metric's name, or the trusted copy of its file; None, with a note, if it is not run."""
        if word in METRICS or word.casefold() in (ALL, DEFAULT):
            return word
        if not METRICS.runs_code(word):
            self.done.unchecked.append(f"metric {word} (no metric has this name)")
            return None
        function = word.rpartition(":")[2]
        identities = self.raw.decisive.get("metrics")
        texts = map(str, identities if isinstance(identities, list) else [])
        prefix = f"{function}-"
        digests = [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]
        if not self.run.trust_code or not digests:
            why = "not run without --trust_code" if digests else "without a recorded digest"
            self.done.unchecked.append(f"metric {function} (a user's own code, {why})")
            return None
        return self.run.code("metric", function, digests[0])

    def _compare_numbers(self, measured: Measured, metrics: Sequence[Metric]) -> None:
        logged = self.run.record.metrics
        found = measured.model | measured.of_base_models
        ideal_gone = "ideal_digest" in self.run.record.params and not measured.ideal
        self.done.compare(logged, found, _reasons(metrics, measured.undefined, ideal_gone=ideal_gone))
        once = [name for name in self.done.left_out if name not in self.raw.numbers]
        self.done.only_logged += [f"metrics {', '.join(once)}"] if once else []

    def _check_settings(self, initial: nn.Module) -> None:
        """Check that the params have every setting of the method, also defaults and resolved ones."""
        run, method = self.run, self.run.param("unlearn", "")
        if method not in METHODS or not self.raw.decisive:
            return
        package = run.recorded("unlearn_package") or ""
        if METHODS[method].package != package:
            self.done.unchecked.append(f"settings of the method ({package} is not installed)")
            return
        try:
            if ADD_ONS.runs_code(str(self.raw.settings.get("addon"))):
                self.done.unchecked.append("settings of the method (its add-on is a user's own code)")
                return
            given = {
                name: value
                for name, value in self.raw.settings.items()
                if value is not None or name not in FIRST_FLAGS
            }
            files = {name: run.param(name) for name in given if f"{name}{OF_FILE}" in run.record.params}
            if other := [name for name, path in files.items() if not self._is_as_it_was(name, path)]:
                gone = f"--{other[0]} {files[other[0]]} is not the file that the run read"
                self.done.unchecked.append(f"settings of the method ({gone})")
                return
            given |= files
            settings = METHODS[method].settings(given)
            counts = resolved(method, initial, self.data, settings)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            self.done.check("settings of the method", f"ones of {method}", str(error))
            return
        texts = {name: str(value) for name, value in (settings | counts).items() if name != MASKED}
        run.params_seen |= texts.keys()
        for name in (FIRST_FLAGS | LATER_FLAGS) - given.keys():
            if run.record.params.get(name, "None") == "None":  # as earlier versions log the default
                texts.pop(name, None)
        check_same(
            self.done, "settings of the method, as defaults and amounts resolve", texts, run.record.params
        )

    def _is_as_it_was(self, name: str, path: str) -> bool:
        """Return whether the file that a setting names still holds what the run read."""
        try:
            return file_digest(Path(path)) == self.run.param(f"{name}{OF_FILE}")
        except (ValueError, FileNotFoundError):
            return False

    # Identity and verdict

    def _decisive(self, request: ForgetRequest, models: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Return the parts of config_hash, recomputed: see identity.decisive_of."""
        run, params = self.run, self.run.record.params
        run.params_seen.add("unlearn_file")
        code = run.recorded("unlearn_code")
        package = run.recorded("unlearn_package")
        origin = "" if code is None else f"-{code}"
        found: dict[str, Any] = {
            "method": run.param("unlearn") + (origin if package is None else f"@{package}"),
            "request": request.identity,
            "split": self.splits.digest,
            "seed": run.whole_number("seed"),
            "arch": self.metadata.arch,
            "initial": params.get("initial_digest"),
            "ideal": params.get("ideal_digest"),
            "version": run.record.tags.get("lethe_version"),
        }
        decisive = self.raw.decisive
        epochs = [int(word) for word in params.get("checkpoint_epochs", "").split(",") if word.isdecimal()]
        normalize = params.get("normalize", DATA)
        augment = [word for word in params.get("unlearn_augment", "none").split(",") if word != "none"]
        # These are parts of the hash only if they are set, in some versions always.
        if epochs or "checkpoint_epochs" in decisive:
            found["checkpoint_epochs"] = epochs
        if normalize != DATA or "normalize" in decisive:
            found["normalize"] = normalize
        if augment or "unlearn_augment" in decisive:
            found["unlearn_augment"] = augment
        for name in {"training", "epochs"} & decisive.keys():
            found[name] = getattr(self.metadata, name)
        if isinstance(decisive.get("options"), dict):
            found["options"] = {name: self.metadata.options.get(name) for name in decisive["options"]}
        words = params.get("metrics", DEFAULT)
        if words == DEFAULT:
            found |= {"metrics": None}
        elif all(word in METRICS or word.casefold() in (ALL, DEFAULT) for word in words.split(",")):
            found |= {"metrics": sorted(metric.identity for metric in chosen(words.split(",")))}
        return found

    def _about(self) -> dict[str, Any]:
        run = self.run
        return {
            "run_id": run.record.run_id,
            "dataset": self.splits.dataset,
            "method": run.param("unlearn"),
            "request": run.param("request"),
            "seed": self.data.seed,
            "forget_classes": self.data.forget_classes,
            "version": __version__,
        }

    def _check_verdict(self, measured: Measured, request: ForgetRequest) -> None:
        """Check the headline by the rules of this version; runs of other versions are not checked."""
        run = self.run
        tags = run.record.tags
        if (tags.get("lethe_version"), tags.get("git_commit")) != (__version__, git_commit()):
            self.done.only_logged.append("verdict (the run is of another version of Lethe)")
            run.tags_seen.add("verdict")
            return
        run.tags_seen |= {"verdict", "git_commit"}
        facts = Measurements(
            what=request.in_words(len(self.data.forget), self.splits.class_names),
            whole=bool(self.data.forget_classes),
            classes=self.splits.classes,
            models=self.raw.sides or measured.sides,
            images=image_counts(measured.outputs["unlearned model"]),
            warnings=self.raw.warnings,
            undecided=undecided_models(measured.undefined),
        )
        self.done.check("verdict", tags.get("verdict", "none"), verdict(facts).headline)


def _reasons(
    metrics: Sequence[Metric], undefined: Mapping[str, Missing], *, ideal_gone: bool
) -> dict[str, str]:
    """Return the reasons of metrics that can't be recomputed, by logged name."""
    of_each = {f"{side}{metric.name}": metric for side in ("", "initial_", "ideal_") for metric in metrics}
    gone = {
        name
        for name, metric in of_each.items()
        if name.startswith("ideal_") or "ideal" in needs_of(metric.function)
    }
    return {
        name: "the ideal model is gone"
        if ideal_gone and name in gone
        else str(undefined.get(name, "these models do not give it"))
        for name in of_each
    }


def _whole(stated: str, expected: str) -> str:
    """Return the stated request; older checkpoints state it with a digest of eight letters."""
    return expected if stated == shortened(expected) else stated
