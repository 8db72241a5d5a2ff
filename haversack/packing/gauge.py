"""Gauge: a model's files, and every figure that is taken off them in the runtime that they are for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from torch import fx

from haversack.artifact import CODED_FILE, Artifact, Files
from haversack.batches import Outputs
from haversack.device import Device, find_device
from haversack.errors import ExportError, SameFilesError
from haversack.graph.cost import cost
from haversack.graph.inference import lower
from haversack.graph.one_length import at_its_length
from haversack.graph.pairs import output_step, quantized_layers
from haversack.graph.trace import trace
from haversack.limits import Budget
from haversack.measurement import Conditions, Figure, Judgement, Measurement, Parity
from haversack.model import Model
from haversack.packing.beside import RunBeside
from haversack.packing.check import RunOnce, checked_score, fed, scored, validated
from haversack.plan.found import Trial
from haversack.positions import that_count
from haversack.progress import note, noted, say, tell
from haversack.quantity import now
from haversack.runtimes import Runtime, agreement, coded, estimate, find_runtime, host
from haversack.runtimes.host import Timing
from haversack.runtimes.timings import Times
from haversack.task import Predict, Task
from haversack.wiring import mask_of

_LONGEST = 8
"""Times the seconds of one timing: for so long it is taken at most, where it is too close to call."""
_ROUGHLY = 1 / 3
"""For such a share of the time a file is timed that is not scored: it can be no answer."""
_ROOM = 1 << 25
"""Numbers of the original's outputs that are kept."""


@dataclass(frozen=True)
class Gauge:
    """Writes models for one device and takes their figures, each held against the float original's."""

    original: Model
    task: Task
    device: Device
    threads: int
    seconds: float
    budget: Budget = field(default_factory=Budget)
    """A time that is too close to one of its limits is taken for longer."""
    seen: dict[str, Artifact] = field(default_factory=dict)
    """What was measured in this run, by the bytes of its files."""
    known: dict[bytes, Outputs] = field(default_factory=dict)
    """What the original gives for batches, by their bytes, as far as there is room."""
    times: Times | None = None
    """Where times of whole files are kept, so that the same files are judged by the same times in every run."""

    def artifact(self, trial: Trial, model: Model, baseline: bytes | None) -> Artifact:
        """The measured files of what `trial` made; `baseline` is the original's file, None where it is measured."""
        runtime = find_runtime(self.device)
        _check_format(model, runtime)
        with noted() as notes:
            lowered = runtime.computed(lower(model))
            files = {runtime.format.file: runtime.write(lowered), CODED_FILE: coded.write(model)}
            if runtime.programs and model.number_format != "float32":
                files |= runtime.programs.source(lowered, self._ram_bytes).files
            content, before = next(iter(files.values())), self.twin(files, trial)
            seconds = self.seconds if trial.scored else self.seconds * _ROUGHLY
            weighed = before or self._timed(self._weighed(model, lowered, content), lowered, content, baseline, seconds)
            measurement = self._compared(weighed, trial, _Written(self.device, model, lowered, content))
        coded_bytes = Figure(len(files[CODED_FILE]), "host")
        said = tuple(dict.fromkeys((*model.notes, *(before.notes if before else ()), *notes)))
        measurement = replace(measurement, update_bytes=coded_bytes, notes=said)
        return self.remembered(Artifact(runtime.name, files, trial.recipe, measurement))

    def outgrown(self, kept: Artifact, model: Model) -> bool:
        """Whether a program that was made for more memory than this run allows would be another one within it."""
        programs, most = find_runtime(self.device).programs, self._ram_bytes
        measured = kept.measurement
        if programs is None or measured.instructions is None or most is None or measured.ram_bytes.value <= most:
            return False
        return not programs.source(lower(model), most).files.items() <= kept.files.items()

    @property
    def _ram_bytes(self) -> int | None:
        """What a program may take."""
        return self.budget.within(self.device).ram_bytes

    def remembered(self, artifact: Artifact) -> Artifact:
        """The artifact, whose files are not measured again in this run."""
        self.seen[_digest(artifact.files)] = artifact
        return artifact

    def twin(self, files: Files, trial: Trial) -> Measurement | None:
        """What the very files were measured at before; SameFilesError where no more can be known of them."""
        twin = self.seen.get(_digest(files))
        if twin is None:
            return None
        known = twin.measurement.score is not None or not trial.scored
        if twin.recipe != trial.recipe and known:
            whose = f"those of {twin.recipe}" if twin.recipe.steps else "the original's"
            raise SameFilesError(
                f"its files are {whose}, byte for byte.", mend="write settings that do more, or leave the step out."
            )
        return twin.measurement

    def timed_again(self, artifact: Artifact, baseline: bytes | None) -> Artifact:
        """The artifact with its speed measured once more, for twice as long; what says nothing is not asked again."""
        measured = artifact.measurement
        if find_runtime(self.device).programs:
            return artifact  # instructions are counted, and the same each time
        timing, seconds, _ = self._timing(next(iter(artifact.files.values())), baseline, 2 * self.seconds, afresh=True)
        latency_ms = timing.latency_ms if self.device.is_host else measured.latency_ms
        ratio = timing.ratio if measured.latency_ratio else None
        conditions = replace(measured.conditions, timed_s=seconds)
        figures = replace(measured, latency_ms=latency_ms, latency_ratio=ratio, conditions=conditions)
        return replace(artifact, measurement=figures)

    def undecided(self, artifact: Artifact) -> bool:
        """Whether its time is too close to a limit to call, and was not yet taken for as long as it may be."""
        measured = artifact.measurement
        close = self._too_close(measured.latency_ms, measured.latency_ratio)
        return close and bool(artifact.recipe.steps) and measured.conditions.timed_s < _LONGEST * self.seconds

    def _timing(
        self, content: bytes, baseline: bytes | None, seconds: float, *, afresh: bool = False
    ) -> tuple[Timing, float, str]:
        """The file's timing against the original's, how long it took and when; a kept one unless it is wanted afresh.

        It goes on, twice as long each time and in a fresh process, where it is too close to a limit to call.
        """
        files = [baseline or content, content]
        key = hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files)).hexdigest()
        kept = self.times.kept(key) if self.times and not afresh else None
        if kept is not None and self.times:
            timing = Timing.of(kept, find_runtime(self.device).first.name)
            return timing, _LONGEST * self.seconds, self.times.date_of(key)
        timing = self._timed_for(files, seconds)
        while (
            baseline is not None
            and seconds < _LONGEST * self.seconds
            and self._too_close(timing.latency_ms if self.device.is_host else None, timing.ratio)
        ):
            say("its time is too close to the limit to call: it is taken for longer")
            timing = timing.joined(self._timed_for(files, seconds))
            seconds *= 2
        if self.times and not afresh:
            self.times.keep(key, timing.rounds)
        return timing, seconds, now()

    def _timed_for(self, files: list[bytes], seconds: float) -> Timing:
        """The second file's timing against the first's; where lengths are free, at that of the original's example."""
        return host.time_files(files, threads=self.threads, seconds=seconds, inputs=fed(self.original))[1]

    def _too_close(self, latency_ms: Figure | None, ratio: Figure | None) -> bool:
        figures = {"latency_ms": latency_ms, "latency_ratio": ratio}
        limits = ((limit, allowed) for limit, allowed in self.budget.asked.items() if limit.timed)
        return any(Judgement(limit, bound, figures[limit.field]).state == "too close" for limit, bound in limits)

    def validated(self, found: Artifact, model: Model) -> Artifact:
        """The artifact of `model` with its score on the samples that decide nothing, where the task has some."""
        if self.task.validate is None:
            return found
        lowered = find_runtime(self.device).computed(lower(model))
        run = _Written(self.device, model, lowered, next(iter(found.files.values())))
        figure = replace(validated(self.task, run.as_there()), runtime=run.here.name)
        return replace(found, measurement=replace(found.measurement, validated=figure))

    def _weighed(self, model: Model, lowered: fx.GraphModule, content: bytes) -> Measurement:
        """What needs no run on data: bytes, memory, and what the device's facts say of its time."""
        weighed = estimate.weigh(cost(trace(model.module, model.example)), self.device, model.number_format)
        name, ram = find_runtime(self.device).name, weighed.ram_bytes
        if self.device.is_host:
            ram = host.peak_ram(content, self.threads, inputs=fed(self.original))
        found = replace(
            weighed,
            flash_bytes=Figure(len(content), "host"),
            ram_bytes=ram,
            conditions=Conditions(self.device.name, name, self.threads, host.machine(), host.versions(), now()),
        )
        return self._on_core(found, model, lowered)

    def _on_core(self, found: Measurement, model: Model, lowered: fx.GraphModule) -> Measurement:
        """With what the network takes as a program of its own, where that is what ships; of floats there is none."""
        programs = find_runtime(self.device).programs
        if programs is None or model.number_format == "float32":
            return found
        program = programs.run(lowered, self.device, self._ram_bytes)
        flash, ram, instructions = (
            Figure(value, "emulator", runtime=found.conditions.runtime)
            for value in (program.flash_bytes, program.ram_bytes, program.instructions)
        )
        found = replace(found, flash_bytes=flash, ram_bytes=ram, instructions=instructions)
        latency = estimate.instructions_ms(program.instructions, self.device)
        if latency is None:
            return found
        energy = estimate.instructions_mj(program.instructions, self.device)
        return replace(found, latency_ms=latency, energy_mj=energy)

    def _timed(
        self, found: Measurement, lowered: fx.GraphModule, content: bytes, baseline: bytes | None, seconds: float
    ) -> Measurement:
        """With the latency on this host, in alternation with the float original; a program's says nothing of a core."""
        if find_runtime(self.device).programs:
            return found
        timing, seconds, date = self._timing(content, baseline, seconds)
        conditions = replace(found.conditions, timed_s=seconds, date=date or found.conditions.date)
        found = replace(found, conditions=conditions)
        if self.device.is_host:
            found = replace(found, latency_ms=timing.latency_ms)
        if self._runs_here(lowered, content, timing.ratio):
            found = replace(found, latency_ratio=timing.ratio)
        return found

    def _runs_here(self, lowered: fx.GraphModule, content: bytes, ratio: Figure) -> bool:
        """Whether the ratio on this host says something: not of another device's integers, computed in float here."""
        quantized, runtime = quantized_layers(lowered), find_runtime(self.device)
        if not quantized or runtime.format.opaque:
            return True
        contents = host.contents(content, self.threads)
        for warning in contents.warnings:
            note(warning)
        if self.device.is_host or contents.integer_layers >= quantized:
            return True
        note(
            f"this host computes {quantized - contents.integer_layers} of {quantized} quantized layers in float: its "
            f"latency over the original's ({ratio.value:.3g}x) says nothing about {self.device.name}, and no limit is "
            f"held against it. {runtime.signed_mend}".rstrip()
        )
        return False

    def _compared(self, found: Measurement, trial: Trial, run: _Written) -> Measurement:
        """With the score, and with how far the file is off its own network and off the original."""
        predict, inputs, kind = run.as_there(), self.task.calibration(), self.task.kind
        outputs = list(agreement.outputs(predict, inputs))
        plain = RunOnce(agreement.in_torch(self.original.module), self.known, room=_ROOM)
        packed = list(agreement.outputs(run.at_its_length(agreement.in_torch(run.lowered)), inputs))
        gate = agreement.Gate(run.model.number_format != "float32", output_step(run.lowered))
        agreed = agreement.compare(packed, outputs, gate.step, kind)

        def off(predict: Predict) -> Parity:
            return agreement.compare(packed, agreement.outputs(predict, inputs), gate.step, kind)

        said = gate.require(
            agreed,
            lambda: off(run.predict(optimized=False)),
            lambda: agreement.compare(agreement.outputs(plain, inputs), packed, gate.step, kind),
            lambda: off(run.at_its_length(agreement.in_another_order(run.lowered))),
        )
        if said:
            note(said)
        if not trial.recipe.steps:
            return replace(found, parity=agreed, score=self._score(trial, run, predict))
        mask = mask_of(self.original.module)
        beside = RunBeside(predict, plain, kind, mask)
        score = self._score(trial, run, beside)
        ways = agreement.outputs(plain, inputs), outputs
        ours, theirs = ((that_count(mask, *each) for each in zip(way, inputs, strict=True)) for way in ways)
        fidelity = replace(agreement.fidelity(ours, theirs, kind), divergence=beside.divergence)
        return replace(found, parity=agreed, fidelity=fidelity, score=score)

    def _score(self, trial: Trial, run: _Written, predict: Predict) -> Figure | None:
        if not trial.scored:
            return None
        score = scored(self.task, predict) if trial.recipe.steps else checked_score(self.task, predict)
        return replace(score, runtime=run.here.name)


@dataclass(frozen=True)
class _Written:
    """A file for a device, to be run on this host."""

    device: Device
    model: Model
    lowered: fx.GraphModule
    content: bytes

    @property
    def runtime(self) -> Runtime:
        """That of the device."""
        return find_runtime(self.device)

    @property
    def here(self) -> Runtime:
        """What runs it on this host: its own runtime, or the first for such files where that is not installed."""
        own = self.runtime.programs.on_a_host if self.runtime.programs else self.runtime
        return own if own.is_installed else own.first

    def as_there(self) -> Predict:
        """The file as a function that computes what the device does.

        That is without the runtime's optimizations where its kernels on this host saturate and the device's do not.
        """
        here = replace(find_device("host"), runtime=self.device.runtime)
        if not self.device.is_host and here.weight_bits < min(self.model.weight_bits, self.device.weight_bits):
            note(
                f"{self.here.title}'s integer kernels saturate on this host (x86 without VNNI) and not on "
                f"{self.device.name}: the file was run without the runtime's optimizations, which is exact."
            )
            return self.predict(optimized=False)
        return self.predict()

    def predict(self, *, optimized: bool = True) -> Predict:
        """The file as a function, of torch's tensors."""
        own, here = self.runtime, self.here
        if not own.is_installed:
            note(f"{own.name} is not installed ({own.install}): {here.title} ran the file instead.")
        orders = own.orders(self.lowered) if own.orders else None
        return self.at_its_length(host.load(self.content, runtime=here.name, orders=orders, optimized=optimized))

    def at_its_length(self, predict: Predict) -> Predict:
        """What takes inputs as long as the file's, for those of the user."""
        return at_its_length(self.lowered, predict)


def tell_of_ratio(budget: Budget, device: Device) -> None:
    """Says beforehand where a ratio cannot be judged, since the runtime on x86 runs signed files partly in float."""
    foreign = device.signed_activations and not find_device("host").signed_activations
    runtime = find_runtime(device)
    if budget.latency_ratio is not None and runtime.signed_mend and foreign:
        tell(
            f"files for {device.name} have signed activations, which {runtime.title} computes partly in float on this "
            f"host: a quantized one may not be said to meet {budget.latency_ratio:g}x. Limit milliseconds, which "
            f"are estimated for the device. {runtime.signed_mend}"
        )


def tell_of_score(budget: Budget, score: Figure | None) -> None:
    """Says what a limit on a score means that is no share between 0 and 1, where a percentage says something else."""
    if score is None or 0 <= score.value <= 1 or not budget.limits_score:
        return
    drop = "" if budget.max_drop is None else f"may fall by {budget.max_drop:g}"
    least = "" if budget.score_at_least is None else f"may be {budget.score_at_least:g} at the least"
    tell(f"score() gives {score.value:.4g}, which is no share: it {' and '.join(filter(None, (drop, least)))}")


def _digest(files: Files) -> str:
    """The same for files of the same bytes, in their order."""
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in files.values())).hexdigest()


def _check_format(model: Model, runtime: Runtime) -> None:
    if model.number_format not in runtime.number_formats:
        raise ExportError(
            f"{runtime.name} files hold no {model.number_format}.",
            mend=f"choose steps that end in {', '.join(sorted(runtime.number_formats))}.",
        )
